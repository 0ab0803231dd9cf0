//! The relay's stream into the registry. Figures are counted at most once a second, however many events come.

use std::sync::Arc;
use std::time::Duration;

use relay_engine::policy::names_relay;
use relay_engine::sql::StoreError;
use relay_engine::store::Seq;
use relay_market::Registry;
use relay_market::registry::{Item, filters};
use tokio::time::Instant;

use super::Market;
use crate::agents::sqlite::Sqlite;
use crate::handle;
use crate::host::now;

/// Items that are applied in one transaction.
const ITEMS_MAX: usize = 256;
/// Shortest time between two counts. It is longer if they take long: a flood of events takes a tenth of a core for them.
const REFRESH: Duration = Duration::from_secs(1);
const REFRESH_SHARE: u32 = 10;
/// Time between two sweeps.
const SWEEP: Duration = Duration::from_secs(60);
/// Until something that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Follows until the relay stops.
pub(super) async fn run(market: Arc<Market>) {
    loop {
        match follow(&market).await {
            Ok(()) => return,
            Err(error) => {
                tracing::error!(error, "the relay's events are not read for the market; trying again")
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow(market: &Arc<Market>) -> Result<(), String> {
    let position = work(market, |registry| registry.position()).await?.unwrap_or(0);
    let guarded = &market.settings.policy.guarded_kinds;
    let opened = market.relay.open_stream(filters(guarded, now().seconds()), Some(Seq(position))).await;
    let mut stream = opened.map_err(|error| error.to_string())?;
    let mut sweep_at = Instant::now();
    let mut refresh_at = Some(Instant::now());
    let mut pause = REFRESH;
    loop {
        let due = refresh_at.map_or(sweep_at, |at| at.min(sweep_at));
        tokio::select! {
            first = stream.next() => {
                let Some(first) = first else { return Ok(()) };
                let mut items = Vec::new();
                let mut next = Some(first);
                while let Some(item) = next {
                    items.extend(read(item));
                    next = if items.len() < ITEMS_MAX { stream.try_next() } else { None };
                }
                let settings = Arc::clone(market);
                let begun = Instant::now();
                work(market, move |registry| {
                    let url = settings.settings.url.as_deref();
                    registry.apply(&items, now().seconds(), &|event| names_relay(event, url))
                }).await?;
                // A first start may have a million events to read: others need the processor too.
                tokio::time::sleep(begun.elapsed().min(REFRESH)).await;
                refresh_at = refresh_at.or(Some(Instant::now() + pause));
            }
            () = tokio::time::sleep_until(due) => {}
        }
        let time = Instant::now();
        if sweep_at <= time {
            let has_more = work(market, |registry| registry.sweep(now().seconds())).await?;
            sweep_at = Instant::now() + if has_more { REFRESH } else { SWEEP };
            refresh_at = Some(time);
        }
        if refresh_at.is_some_and(|at| at <= time) {
            let has_more = work(market, |registry| registry.refresh(now().seconds())).await?;
            pause = REFRESH.max(time.elapsed() * REFRESH_SHARE);
            // Further parts follow soon; the stream is read between them.
            refresh_at = has_more.then(|| Instant::now() + pause / 10);
        }
    }
}

fn read(item: handle::Item) -> Option<Item> {
    match item {
        handle::Item::Event(Some(seq), event) => Some((seq.0, Some(event))),
        handle::Item::Position(seq) => Some((seq.0, None)),
        handle::Item::Event(None, _) | handle::Item::Missed(_) => None,
    }
}

/// Has something done on a thread that may wait for the disk.
async fn work<T: Send + 'static>(
    market: &Arc<Market>,
    run: impl FnOnce(&mut Registry<Sqlite>) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, String> {
    let market = Arc::clone(market);
    let done = tokio::task::spawn_blocking(move || run(&mut market.writer()));
    done.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}
