//! One connection to a relay that is followed: a [`Live`] session with its socket, the store, and comparing beside it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay_engine::store::Backend;
use relay_engine::types::{Event, EventId};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use super::super::counts::Counts;
use super::super::driver::{auth_event, blocking};
use super::super::information::Information;
use super::super::peer::{Connection, Heard};
use super::super::session::Outcomes;
use super::catch_up::{CatchUpFailure, CaughtUp, catch_up};
use super::config::Timing;
use super::follower::{Follower, stopped};
use super::live::{Action, Compared, End, Live, LivePlan};
use super::notice::What;
use crate::cli::database::unix_now;
use crate::cli::exit::Failure;

/// Events that are stored in one commit.
const COMMIT_EVENTS: usize = 1_000;
/// Bytes of events that wait to be verified, above which nothing is read.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// How long events wait for others to be stored with.
const COMMIT_WAIT: Duration = Duration::from_millis(5);
/// Events that are read from the log at once.
const LOG_EVENTS: usize = 100;
/// Interval at which the position is written to the disk.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// Longest wait for room for the last messages.
const LAST_WAIT: Duration = Duration::from_millis(50);

type CatchingUp = Pin<Box<dyn Future<Output = (Counts, Result<CaughtUp, CatchUpFailure>)> + Send>>;

/// What ended a connection.
pub(super) enum Ended {
    Live(End),
    /// The stream is not wanted any more, or the process ends.
    Stopped,
}

impl<B: Backend + Send + Sync + 'static> Follower<B> {
    /// One connection, from its beginning to its end. True if what was missed has been compared on it.
    pub(super) async fn connection(&mut self, timing: Timing) -> (Result<Ended, Failure>, bool) {
        let mut stop = self.stop.clone();
        let opened = tokio::select! {
            opened = self.open(timing) => opened,
            () = stopped(&mut stop) => return (Ok(Ended::Stopped), false),
        };
        let (mut connection, information) = match opened {
            Ok(opened) => opened,
            Err(why) => return (Ok(Ended::Live(End::Retry(why))), false),
        };
        self.tell(What::Connected, "connected");
        let plan = LivePlan { silence: timing.silence, ..self.plan.clone() };
        let newest = *self.shared.newest.borrow();
        let mut counts = self.counts;
        let begun = Instant::now();
        let live = Live::new(&plan, information, self.memory.clone(), &mut counts, Duration::ZERO, newest);
        let mut running = Running {
            follower: self,
            live,
            begun,
            outgoing: VecDeque::new(),
            waiting: Vec::new(),
            waiting_since: None,
            waiting_bytes: 0,
            storing: None,
            catching_up: None,
            has_caught_up: false,
        };
        let mut ended = running.run(&mut connection, timing, stop).await;
        // What has come is stored, however the connection ended.
        if let Err(failure) = running.finish().await {
            ended = ended.and(Err(failure));
        }
        if ended.is_ok() {
            running.note_position();
        }
        running.publish();
        let has_caught_up = running.has_caught_up;
        drop(running);
        self.counts = counts;
        self.publish_status(false);
        if matches!(ended, Ok(Ended::Stopped)) {
            connection.close().await;
        }
        (ended, has_caught_up)
    }

    async fn open(&self, timing: Timing) -> Result<(Connection, Information), String> {
        let (connection, information) = tokio::join!(
            tokio::time::timeout(timing.connect, self.shared.connector.connect(&self.url)),
            tokio::time::timeout(timing.connect, self.shared.connector.information(&self.url)),
        );
        match connection {
            Err(_) => Err("no answer".to_owned()),
            Ok(Err(error)) => Err(format!("cannot connect: {error}")),
            Ok(Ok(connection)) => Ok((connection, information.unwrap_or_default())),
        }
    }
}

/// Events that are being stored.
struct Storing {
    ids: Vec<EventId>,
    work: JoinHandle<Result<Outcomes, Failure>>,
}

/// A session with its connection and the store.
struct Running<'a, B> {
    follower: &'a mut Follower<B>,
    live: Live<'a>,
    begun: Instant,
    outgoing: VecDeque<Outgoing>,
    /// Events that will be stored together, and since when the first one waits.
    waiting: Vec<Event>,
    waiting_since: Option<Instant>,
    waiting_bytes: usize,
    storing: Option<Storing>,
    catching_up: Option<CatchingUp>,
    has_caught_up: bool,
}

enum Outgoing {
    Text(String),
    Ping,
}

impl<B: Backend + Send + Sync + 'static> Running<'_, B> {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    async fn run(
        &mut self,
        connection: &mut Connection,
        timing: Timing,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Ended, Failure> {
        let mut newest = self.follower.shared.newest.clone();
        let mut ephemeral = self.follower.shared.hub.subscribe();
        let mut save_at = self.begun + SAVE_EVERY;
        loop {
            if let Some(end) = self.act().await? {
                self.send_last(connection).await;
                return Ok(Ended::Live(end));
            }
            self.publish();
            if self.now() >= self.live.deadline() {
                let now = self.now();
                self.live.timeout(now);
                continue;
            }
            if self.storing.is_none() && self.is_commit_due() {
                self.flush();
            }
            let deadline = self.begun + self.live.deadline();
            let commit_at = self.waiting_since.filter(|_| self.storing.is_none()).map(|at| at + COMMIT_WAIT);
            let is_full = self.waiting_bytes >= WAITING_BYTES_MAX;
            tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                stored = wait_for(&mut self.storing) => self.settle(stored)?,
                caught_up = wait_for_catch_up(&mut self.catching_up) => self.handle_caught_up(caught_up),
                room = connection.outgoing.room(), if !self.outgoing.is_empty() => {
                    match (room, self.outgoing.pop_front()) {
                        (Some(room), Some(Outgoing::Text(text))) => room.send(text),
                        (Some(room), Some(Outgoing::Ping)) => room.ping(),
                        _ => self.live.closed("the connection is cut"),
                    }
                }
                heard = connection.incoming.heard(), if !is_full => {
                    let now = self.now();
                    match heard {
                        Ok(Heard::Text(text)) => self.live.handle(now, &text),
                        Ok(Heard::SignOfLife) => self.live.hear(now),
                        Err(why) => self.live.closed(&why),
                    }
                }
                changed = newest.changed(), if self.follower.plan.up => {
                    // The sender lives as long as the router.
                    if changed.is_ok() {
                        let (now, newest) = (self.now(), *newest.borrow_and_update());
                        self.live.grew(now, newest);
                    }
                }
                event = ephemeral.recv(), if self.follower.plan.up => match event {
                    Ok(event) => self.offer_ephemeral(&event),
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        self.live.counts().ephemeral_missed += missed;
                    }
                    Err(broadcast::error::RecvError::Closed) => {}
                },
                () = tokio::time::sleep_until(commit_at.unwrap_or(deadline).into()), if commit_at.is_some() => {
                    self.flush();
                }
                () = tokio::time::sleep_until(save_at.into()) => {
                    save_at = Instant::now() + SAVE_EVERY;
                    self.note_position();
                    self.follower.save().await;
                    if self.is_complete_due(timing) && self.catching_up.is_none() {
                        self.begin_catch_up(timing);
                    }
                }
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
        }
        self.send_last(connection).await;
        Ok(Ended::Stopped)
    }

    /// The last messages are sent if they can be.
    async fn send_last(&mut self, connection: &mut Connection) {
        while let Some(message) = self.outgoing.pop_front() {
            let Ok(Some(room)) = tokio::time::timeout(LAST_WAIT, connection.outgoing.room()).await else {
                return;
            };
            if let Outgoing::Text(text) = message {
                room.send(text);
            }
        }
    }

    /// Does what the session wants. How it ends, if it does.
    async fn act(&mut self) -> Result<Option<End>, Failure> {
        while let Some(action) = self.live.poll() {
            match action {
                Action::Send(message) => self.outgoing.push_back(Outgoing::Text(message)),
                Action::Ping => self.outgoing.push_back(Outgoing::Ping),
                Action::Store(event) => {
                    self.waiting_since.get_or_insert_with(Instant::now);
                    self.waiting_bytes += event.json().len();
                    self.waiting.push(event);
                }
                Action::CatchUp => {
                    let timing = *self.follower.shared.timing.borrow();
                    self.begin_catch_up(timing);
                }
                Action::ReadLog(after) => {
                    let local = Arc::clone(&self.follower.shared.local);
                    let (filters, own) = (self.follower.plan.filters.clone(), self.follower.plan.own);
                    let logged = blocking(move || local.read_log(&filters, own, after, LOG_EVENTS)).await?;
                    let now = self.now();
                    self.live.logged(now, logged);
                }
                Action::Load(ids) => {
                    let local = Arc::clone(&self.follower.shared.local);
                    let events = blocking(move || local.load(ids)).await?;
                    let now = self.now();
                    self.live.loaded(now, events);
                }
                Action::Authenticate(challenge) => {
                    if let Some(keys) = &self.follower.keys {
                        let event = auth_event(keys, &self.follower.url, challenge);
                        self.live.authenticate(&event);
                    }
                }
                Action::Print(message) => self.follower.tell(What::Notice, &message),
                Action::End(end) => return Ok(Some(end)),
            }
        }
        Ok(None)
    }

    /// Sends an ephemeral event that has come from elsewhere, by the rules for stored ones.
    fn offer_ephemeral(&mut self, event: &Event) {
        let plan = &self.follower.plan;
        if !self.follower.shared.local.is_withheld(event.view(), &plan.filters, plan.own) {
            self.live.offer_ephemeral(event);
        }
    }

    fn begin_catch_up(&mut self, timing: Timing) {
        self.catching_up = Some(Box::pin(catch_up(self.follower.task(timing))));
    }

    fn handle_caught_up(&mut self, (counts, caught_up): (Counts, Result<CaughtUp, CatchUpFailure>)) {
        self.catching_up = None;
        self.live.counts().add_compared(&counts);
        match caught_up {
            Ok(CaughtUp { since, at, until, by_negentropy }) => {
                let position = &mut self.follower.position;
                let compared = Compared { sent: position.sent(), until, since };
                position.compared(since, at, by_negentropy);
                if !std::mem::replace(&mut self.has_caught_up, true) {
                    let now = self.now();
                    self.live.caught_up(now, compared);
                }
                self.note_position();
                let message = format!("caught up as of Unix time {at}: {}", counts.words(false));
                self.follower.tell(What::Synced, &message);
            }
            Err(CatchUpFailure { why, is_final: true }) => self.live.cut_off(why),
            Err(CatchUpFailure { why, is_final: false }) => self.live.closed(&why),
        }
    }

    fn is_complete_due(&self, timing: Timing) -> bool {
        self.has_caught_up && self.follower.position.is_complete_due(unix_now(), timing.windows)
    }

    /// Everything until the relay was last heard is on both sides.
    fn note_position(&mut self) {
        if !self.has_caught_up {
            return;
        }
        let silence = self.now().saturating_sub(self.live.heard_at()).as_secs();
        let position = &mut self.follower.position;
        position.synced_at = position.synced_at.max(unix_now().saturating_sub(silence));
        if let Some(sent) = self.live.sent() {
            position.set_sent(sent);
        }
    }

    /// Shows what has been counted.
    fn publish(&mut self) {
        let counts = *self.live.counts();
        let sent = self.live.sent().filter(|_| self.follower.plan.up);
        self.follower.status.update(|status| {
            status.is_connected = true;
            status.counts = counts;
            status.sent = sent.or(status.sent);
            if self.has_caught_up {
                let silence = self.begun.elapsed().saturating_sub(self.live.heard_at()).as_secs();
                status.synced_at = unix_now().saturating_sub(silence);
            }
        });
    }

    fn is_commit_due(&self) -> bool {
        self.waiting.len() >= COMMIT_EVENTS || self.waiting_bytes >= WAITING_BYTES_MAX
    }

    /// Begins to store what waits. Nothing else is being stored.
    fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let local = Arc::clone(&self.follower.shared.local);
        let events = std::mem::take(&mut self.waiting);
        (self.waiting_since, self.waiting_bytes) = (None, 0);
        let ids = events.iter().map(|event| event.id).collect();
        let work = tokio::spawn(blocking(move || local.store(events)));
        self.storing = Some(Storing { ids, work });
    }

    /// Takes what became of events that were being stored.
    fn settle(&mut self, stored: (Vec<EventId>, Result<Outcomes, Failure>)) -> Result<(), Failure> {
        let (ids, outcomes) = stored;
        match outcomes {
            Ok(outcomes) => {
                self.live.stored(&ids, Some(&outcomes));
                for event in outcomes.ephemeral {
                    self.follower.memory.lock().add_ephemeral(event.id);
                    if !self.follower.shared.hub.came(event) {
                        self.live.counts().ephemeral_missed += 1;
                    }
                }
                Ok(())
            }
            Err(failure) => {
                self.live.stored(&ids, None);
                Err(failure)
            }
        }
    }

    /// Stores what has come.
    async fn finish(&mut self) -> Result<(), Failure> {
        self.catching_up = None;
        let mut result = Ok(());
        while self.storing.is_some() || !self.waiting.is_empty() {
            if self.storing.is_none() {
                self.flush();
            }
            let stored = wait_for(&mut self.storing).await;
            result = result.and(self.settle(stored));
        }
        result
    }
}

/// The end of what is being stored; for ever if nothing is. Cancel safe.
async fn wait_for(storing: &mut Option<Storing>) -> (Vec<EventId>, Result<Outcomes, Failure>) {
    let Some(Storing { work, .. }) = storing else { return std::future::pending().await };
    let outcomes = work.await;
    let ids = storing.take().map(|storing| storing.ids).unwrap_or_default();
    (ids, outcomes.unwrap_or_else(|_| Err(Failure::External("storing panicked".to_owned()))))
}

/// What comes of comparing; for ever if nothing is compared. Cancel safe.
async fn wait_for_catch_up(
    catching_up: &mut Option<CatchingUp>,
) -> (Counts, Result<CaughtUp, CatchUpFailure>) {
    match catching_up {
        Some(catching_up) => catching_up.await,
        None => std::future::pending().await,
    }
}
