//! Following one relay of a stream: connections one after another, with waits between them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relay_agent::identity::Keys;
use relay_engine::store::{Backend, Seq};
use relay_engine::types::Timestamp;
use tokio::sync::watch;

use super::super::backoff::Backoff;
use super::super::local::Local;
use super::super::peer::{Connector, RelayUrl};
use super::catch_up::Task;
use super::config::{StreamConfig, Timing};
use super::connection::Ended;
use super::counts::StreamCounts;
use super::hub::Hub;
use super::live::{End, LivePlan};
use super::memory::PeerMemory;
use super::notice::{Teller, What};
use super::position::Position;
use crate::cli::database::unix_now;
use crate::signals::Interrupt;

/// The longest time for which a relay that was cut off is left alone.
const CUT_OFF_MAX: Duration = Duration::from_secs(6 * 3_600);

/// What all streams of a process share.
pub(super) struct Shared<B> {
    pub(super) connector: Arc<Connector>,
    pub(super) local: Arc<Local<B>>,
    /// The data folder.
    pub(super) data: PathBuf,
    pub(super) interrupt: Interrupt,
    pub(super) timing: watch::Receiver<Timing>,
    /// The number of the event that was stored last.
    pub(super) newest: watch::Receiver<Seq>,
    pub(super) hub: Hub,
}

/// What is known about one relay of a stream, for metrics.
#[derive(Clone, Debug, Default)]
pub(super) struct Status(Arc<Mutex<StatusNow>>);

/// What is known now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StatusNow {
    pub(super) is_connected: bool,
    pub(super) counts: StreamCounts,
    /// Until this second both sides have what the other one was given; 0: not known.
    pub(super) synced_at: Timestamp,
    /// Up to here the log has been sent; `None`: it is not sent.
    pub(super) sent: Option<Seq>,
}

impl Status {
    pub(super) fn now(&self) -> StatusNow {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut StatusNow)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Follows one relay.
pub(super) struct Follower<B> {
    pub(super) shared: Arc<Shared<B>>,
    pub(super) url: RelayUrl,
    pub(super) plan: LivePlan,
    /// As JSON.
    filters: Vec<String>,
    pub(super) keys: Option<Keys>,
    pub(super) memory: PeerMemory,
    pub(super) position: Position,
    pub(super) counts: StreamCounts,
    pub(super) status: Status,
    pub(super) stop: watch::Receiver<bool>,
    teller: Teller,
    /// Cut-offs in a row.
    offences: u32,
}

impl<B: Backend + Send + Sync + 'static> Follower<B> {
    /// Of a relay of a stream, from where it was followed last. `newest` is the number of the event that was stored last.
    pub(super) fn new(
        shared: Arc<Shared<B>>,
        stream: &StreamConfig,
        url: RelayUrl,
        keys: Option<Keys>,
        memory: PeerMemory,
        newest: Seq,
        (status, stop, teller): (Status, watch::Receiver<bool>, Teller),
    ) -> Result<Self, String> {
        let timing = *shared.timing.borrow();
        let scopes = stream.scopes()?;
        let of = format!("{url} {:?} {}", stream.dir, stream.filters.join(" "));
        let overlap = timing.windows.overlap;
        let mut position = Position::read(&shared.data, &of)
            .unwrap_or_else(|| Position::new(&of, stream.since(), unix_now(), overlap, newest));
        position.check(newest);
        let plan = LivePlan {
            filters: scopes.iter().map(|scope| scope.filter().clone()).collect(),
            scopes,
            down: stream.dir.is_down(),
            up: stream.dir.is_up(),
            silence: timing.silence,
            own: keys.as_ref().map(Keys::pubkey),
        };
        let counts = status.now().counts;
        status.update(|status| status.sent = plan.up.then_some(position.sent()));
        Ok(Follower {
            shared,
            url,
            plan,
            filters: stream.filters.clone(),
            keys,
            memory,
            position,
            counts,
            status,
            stop,
            teller,
            offences: 0,
        })
    }

    /// Follows it until that is stopped.
    pub(super) async fn run(mut self) {
        let mut timing = *self.shared.timing.borrow();
        let mut backoff = Backoff::endless(timing.backoff_first, timing.backoff_max);
        // Where it begins is known from now on, also if it cannot be connected to for long.
        self.save().await;
        loop {
            let now = *self.shared.timing.borrow();
            if (now.backoff_first, now.backoff_max) != (timing.backoff_first, timing.backoff_max) {
                backoff = Backoff::endless(now.backoff_first, now.backoff_max);
            }
            timing = now;
            self.counts.connections += 1;
            let newest = *self.shared.newest.borrow();
            self.position.check(newest);
            let (ended, has_caught_up) = self.connection(timing).await;
            self.save().await;
            let mut random = [0; 8];
            let _ = getrandom::fill(&mut random);
            let random = u64::from_le_bytes(random);
            let (what, why, wait) = match ended {
                Ok(Ended::Stopped) => break,
                Ok(Ended::Live(End::CutOff(why))) => {
                    self.offences += 1;
                    self.counts.cut_offs += 1;
                    (What::CutOff, why, cut_off_wait(timing.cut_off, self.offences, random))
                }
                Ok(Ended::Live(End::Retry(why))) => {
                    if has_caught_up {
                        self.offences = 0;
                    }
                    (What::Disconnected, why, backoff.failed(has_caught_up, random).unwrap_or_default())
                }
                Err(failure) => {
                    let wait = backoff.failed(has_caught_up, random).unwrap_or_default();
                    (What::Disconnected, format!("the store here: {failure}"), wait)
                }
            };
            self.publish_status(false);
            let cut_off = if what == What::CutOff { "cut off: " } else { "" };
            self.tell(what, &format!("{cut_off}{why}; again in {:.1} s", wait.as_secs_f32()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopped(&mut self.stop) => break,
            }
        }
        self.publish_status(false);
        self.teller.tell(What::Ended, "", Some(&self.counts));
    }

    /// What is to be compared now.
    pub(super) fn task(&self, timing: Timing) -> Task<B> {
        Task {
            shared: Arc::clone(&self.shared),
            url: self.url.clone(),
            filters: self.filters.clone(),
            down: self.plan.down,
            up: self.plan.up,
            keys: self.keys.clone(),
            memory: self.memory.clone(),
            position: self.position.clone(),
            timing,
            teller: self.teller.clone(),
        }
    }

    pub(super) fn tell(&self, what: What, message: &str) {
        self.teller.tell(what, message, None);
    }

    pub(super) fn publish_status(&self, is_connected: bool) {
        self.status.update(|status| (status.is_connected, status.counts) = (is_connected, self.counts));
    }

    /// Writes the position to the disk.
    pub(super) async fn save(&self) {
        let (position, data) = (self.position.clone(), self.shared.data.clone());
        let written = tokio::task::spawn_blocking(move || position.write(&data)).await;
        if let Ok(Err(error)) = written {
            self.tell(What::Notice, &format!("cannot write how far it was followed: {error}"));
        }
    }
}

/// Waits until following is stopped. Cancel safe.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// How long a relay is left alone after so many cut-offs in a row, by a random number.
fn cut_off_wait(first: Duration, offences: u32, random: u64) -> Duration {
    let longest = CUT_OFF_MAX.max(first).min(first.saturating_mul(1 << (offences - 1).min(16)));
    longest.mul_f64(0.75 + 0.25 * (random as f64 / u64::MAX as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_offs_double_up_to_six_hours() {
        let first = Duration::from_secs(600);
        let waits = (1..9).map(|offences| cut_off_wait(first, offences, u64::MAX).as_secs());
        assert_eq!(waits.collect::<Vec<_>>(), [600, 1_200, 2_400, 4_800, 9_600, 19_200, 21_600, 21_600]);
        assert_eq!(cut_off_wait(first, 1, 0).as_secs(), 450);
    }
}
