//! What was missed without a connection: compared and copied as by `relay sync`, on a connection of its own.

use std::sync::Arc;

use relay_agent::identity::Keys;
use relay_engine::store::{Backend, Seq};
use relay_engine::types::Timestamp;

use super::super::backoff::Backoff;
use super::super::counts::Counts;
use super::super::driver::{By, Driver, Notice, Outcome, blocking};
use super::super::peer::RelayUrl;
use super::super::ranges::Scope;
use super::super::session::Plan;
use super::config::Timing;
use super::follower::Shared;
use super::memory::PeerMemory;
use super::notice::Teller;
use super::notice::What;
use super::position::Position;
use crate::cli::database::unix_now;
use crate::cli::exit::Failure;

/// Connections without progress after which it is given up, and with it the live connection.
const TRIES: u32 = 3;

/// What is to be compared with a relay.
pub(super) struct Task<B> {
    pub(super) shared: Arc<Shared<B>>,
    pub(super) url: RelayUrl,
    /// As JSON.
    pub(super) filters: Vec<String>,
    pub(super) down: bool,
    pub(super) up: bool,
    pub(super) keys: Option<Keys>,
    pub(super) memory: PeerMemory,
    pub(super) position: Position,
    pub(super) timing: Timing,
    pub(super) teller: Teller,
}

/// All was compared.
#[derive(Debug)]
pub(super) struct CaughtUp {
    /// From this second on.
    pub(super) since: Timestamp,
    /// When it began.
    pub(super) at: Timestamp,
    /// The event that was stored last when it began.
    pub(super) until: Seq,
    pub(super) by_negentropy: bool,
    pub(super) counts: Counts,
}

/// Not all was compared.
#[derive(Debug)]
pub(super) struct CatchUpFailure {
    pub(super) why: String,
    pub(super) counts: Counts,
    /// Another try makes no sense.
    pub(super) is_final: bool,
}

impl CatchUpFailure {
    fn of_store(failure: &Failure, counts: Counts) -> Self {
        CatchUpFailure { why: format!("the store here: {failure}"), counts, is_final: false }
    }
}

/// Compares what is to be compared, filter by filter.
pub(super) async fn catch_up<B: Backend + Send + Sync + 'static>(
    task: Task<B>,
) -> Result<CaughtUp, CatchUpFailure> {
    let Task { shared, url, filters, down, up, keys, memory, position, timing, teller } = task;
    let mut counts = Counts::default();
    let at = unix_now();
    let since = position.since(at, timing.windows);
    let local = Arc::clone(&shared.local);
    let until = blocking(move || local.last_seq()).await;
    let until = until.map_err(|failure| CatchUpFailure::of_store(&failure, counts))?;
    let mut by_negentropy = true;
    for filter in &filters {
        // A filter of the past alone has nothing to compare now.
        let Ok(scope) = Scope::new(filter, Some(since), None) else { continue };
        let has_key = keys.is_some();
        let plan = Plan { scope, down, up, dry_run: false, timeout: timing.silence, has_key };
        let driver = Driver {
            connector: Arc::clone(&shared.connector),
            local: Arc::clone(&shared.local),
            plan,
            keys: keys.clone(),
            peer_has: Some(memory.clone()),
            backoff: Backoff::new(TRIES),
            interrupt: shared.interrupt.clone(),
        };
        let mut tell = |notice: Notice<'_>| {
            if let Notice::Words(words) = notice {
                teller.tell(What::Said, words, None);
            }
        };
        let report = driver.run(&url, &mut tell).await;
        let report = report.map_err(|failure| CatchUpFailure::of_store(&failure, counts))?;
        counts.add(&report.counts);
        by_negentropy &= report.by != By::Pages;
        let fail = |why, is_final| Err(CatchUpFailure { why, counts, is_final });
        match report.result {
            Outcome::Done => {}
            Outcome::Failed(why) => return fail(why, true),
            Outcome::GivenUp(why) => return fail(why, false),
            Outcome::Interrupted => return fail("ended by a signal".to_owned(), false),
        }
    }
    Ok(CaughtUp { since, at, until, by_negentropy, counts })
}
