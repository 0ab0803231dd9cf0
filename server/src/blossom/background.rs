//! What goes on beside requests: removals, sweeps, and the relay's stream.

use std::sync::Arc;
use std::time::Duration;

use relay_blossom::index::{EVENT_KINDS, RelayEvent};
use relay_blossom::{Command, Outcome};
use relay_engine::policy::names_relay;
use relay_engine::store::Seq;
use relay_engine::types::Filter;

use super::Blossom;
use crate::handle::Item;
use crate::host::now;

/// Longest time between two sweeps.
const SWEEP: Duration = Duration::from_secs(60);
/// Until something that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Downloaded blobs that the index is told of at a time.
const DOWNLOADS_AT_ONCE: usize = 1_000;

/// Removes unreferenced blob files, and sweeps, until the relay stops.
pub(super) async fn run(blossom: Arc<Blossom>) {
    let mut sweep_at = 0;
    loop {
        // Before the sweep, whose rules of `unused_seconds` go by the times of downloads.
        let done = match report_downloads(&blossom).await {
            Ok(()) => remove_all(&blossom).await,
            Err(error) => Err(error),
        };
        let swept = match now().seconds() >= sweep_at {
            true => blossom.index.run(Command::Sweep).await.map(Some),
            false => Ok(None),
        };
        let pause = match (done, swept) {
            (Ok(()), Ok(swept)) => {
                if let Some(Outcome::Swept(next)) = swept {
                    let latest = now().seconds() + SWEEP.as_secs();
                    sweep_at = next.map_or(latest, |next| next.min(latest));
                }
                Duration::from_secs(sweep_at.saturating_sub(now().seconds())).min(SWEEP)
            }
            (Err(error), _) => {
                tracing::error!(error, "cannot delete unreferenced blob files; retrying");
                RETRY
            }
            (_, Err(error)) => {
                tracing::error!(%error, "the index of blobs cannot be swept; trying again");
                RETRY
            }
        };
        let _ = tokio::time::timeout(pause, blossom.wake.notified()).await;
    }
}

/// Tells the index which blobs have been downloaded.
pub(super) async fn report_downloads(blossom: &Blossom) -> Result<(), String> {
    for blobs in blossom.take_downloads().chunks(DOWNLOADS_AT_ONCE) {
        let told = blossom.index.run(Command::RecordDownloads(blobs.to_vec())).await;
        told.map_err(|error| error.to_string())?;
    }
    Ok(())
}

async fn remove_all(blossom: &Blossom) -> Result<(), String> {
    loop {
        let taken = blossom.index.run(Command::TakeRemoval).await.map_err(|error| error.to_string())?;
        let Outcome::Removal(Some(key)) = taken else { return Ok(()) };
        if let Err(failure) = blossom.bodies.remove(&key).await {
            // Until then uploads of these bytes would wait for it.
            let given_back = blossom.index.run(Command::RemovalFailed(key)).await;
            given_back.map_err(|error| error.to_string())?;
            return Err(format!("{failure:?}"));
        }
        blossom.index.run(Command::Removed(key)).await.map_err(|error| error.to_string())?;
    }
}

/// Acts on deletions, requests to vanish and file metadata of the relay, from where the last process ended.
pub(super) async fn follow(blossom: Arc<Blossom>) {
    loop {
        match follow_once(&blossom).await {
            Ok(()) => return,
            Err(error) => tracing::error!(error, "the relay's events are not read for Blossom; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow_once(blossom: &Blossom) -> Result<(), String> {
    let words = |error: relay_engine::sql::StoreError| error.to_string();
    let position = match blossom.index.run(Command::Position).await.map_err(words)? {
        Outcome::Position(Some(position)) => Seq(position),
        // Events from before there were blobs concern none.
        _ => {
            let last = blossom.relay.last_seq().map_err(|error| error.to_string())?;
            blossom.index.run(Command::SetPosition(last.0)).await.map_err(words)?;
            last
        }
    };
    let filter = Filter { kinds: Some(EVENT_KINDS.into()), ..Filter::default() };
    let opened = blossom.relay.open_stream(vec![filter], Some(position)).await;
    let mut stream = opened.map_err(|error| error.to_string())?;
    while let Some(item) = stream.next().await {
        let command = match item {
            Item::Event(Some(seq), event) => {
                match RelayEvent::of_relay(&event, |event| {
                    names_relay(event, blossom.settings.url.as_deref())
                }) {
                    Some(event) => Command::Apply(event, seq.0),
                    None => Command::SetPosition(seq.0),
                }
            }
            Item::Position(seq) => Command::SetPosition(seq.0),
            Item::Event(None, _) | Item::Missed(_) => continue,
        };
        blossom.index.run(command).await.map_err(words)?;
        blossom.wake.notify_one();
    }
    Ok(())
}
