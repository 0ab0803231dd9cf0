//! What was missed without a connection: compared and copied as by `relay sync`, on a connection of its own.

use std::sync::Arc;

use relay_agent::identity::Keys;
use relay_engine::store::{Backend, Seq};
use relay_engine::types::Timestamp;

use super::super::backoff::Backoff;
use super::super::counts::Counts;
use super::super::driver::{Driver, Method, Outcome, SyncProgress, blocking};
use super::super::peer::RelayUrl;
use super::super::ranges::Scope;
use super::super::session::Plan;
use super::config::Timing;
use super::follower::Shared;
use super::memory::PeerMemory;
use super::notice::{Teller, What};
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
}

/// Not all was compared.
#[derive(Debug)]
pub(super) struct CatchUpFailure {
    pub(super) why: String,
    /// Another try makes no sense.
    pub(super) is_final: bool,
}

impl From<Failure> for CatchUpFailure {
    fn from(failure: Failure) -> Self {
        CatchUpFailure { why: format!("the store here: {failure}"), is_final: false }
    }
}

/// Compares what is to be compared, filter by filter. What was copied is counted also if not all was compared.
pub(super) async fn catch_up<B: Backend + Send + Sync + 'static>(
    task: Task<B>,
) -> (Counts, Result<CaughtUp, CatchUpFailure>) {
    let mut counts = Counts::default();
    let result = compare(task, &mut counts).await;
    (counts, result)
}

async fn compare<B: Backend + Send + Sync + 'static>(
    task: Task<B>,
    counts: &mut Counts,
) -> Result<CaughtUp, CatchUpFailure> {
    let Task { shared, url, filters, down, up, keys, memory, position, timing, teller } = task;
    let at = unix_now();
    let since = position.since(at, timing.windows);
    let local = Arc::clone(&shared.local);
    let until = blocking(move || local.last_seq()).await?;
    let mut by_negentropy = true;
    for filter in &filters {
        // A filter of the past alone has nothing to compare now.
        let Ok(scope) = Scope::new(filter, Some(since), None) else { continue };
        let has_key = keys.is_some();
        let plan = Plan { scope, down, up, dry_run: false, timeout: timing.silence, has_key };
        let driver = Driver {
            connector: Arc::clone(&shared.connector),
            local: Arc::clone(&shared.local),
            plan: Arc::new(plan),
            keys: keys.clone(),
            peer_has: Some(memory.clone()),
            backoff: Backoff::new(TRIES),
            interrupt: shared.interrupt.clone(),
        };
        let mut tell = |notice: SyncProgress<'_>| {
            if let SyncProgress::Message(message) = notice {
                teller.tell(What::Notice, message, None);
            }
        };
        let report = driver.run(&url, &mut tell).await?;
        counts.add(&report.counts);
        by_negentropy &= report.method != Method::Pages;
        let (why, is_final) = match report.result {
            Outcome::Done => continue,
            Outcome::Failed(why) => (why, true),
            Outcome::GivenUp(why) => (why, false),
            Outcome::Interrupted => ("ended by a signal".to_owned(), false),
        };
        return Err(CatchUpFailure { why, is_final });
    }
    Ok(CaughtUp { since, at, until, by_negentropy })
}
