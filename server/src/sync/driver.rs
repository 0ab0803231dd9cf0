//! Drives sessions with one relay, connection after connection, until all is done or none makes progress.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay_agent::identity::{Draft, Keys};
use relay_engine::store::{Backend, Seq};
use relay_engine::types::Event;
use tokio::task::JoinHandle;

use super::backoff::Backoff;
use super::counts::Counts;
use super::information::Information;
use super::local::Local;
use super::peer::{Connection, Connector, RelayUrl};
use super::ranges::LocalEvents;
use super::session::{Action, End, Outcomes, Plan, Progress, Session, Support};
use super::stream::PeerMemory;
use crate::cli::database::unix_now;
use crate::cli::exit::Failure;
use crate::signals::Interrupt;

/// NIP-42.
const AUTH_KIND: u16 = 22_242;
/// Events that are stored in one commit.
const COMMIT_EVENTS: usize = 1_000;
const COMMIT_BYTES: usize = 4 << 20;
/// How long events wait for others to be stored with.
const COMMIT_WAIT: Duration = Duration::from_millis(100);
/// Interval at which the signal is polled.
const POLL: Duration = Duration::from_millis(50);

/// What was done with a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) counts: Counts,
    pub(crate) method: Method,
    /// Connections that were opened, or tried.
    pub(crate) connections: u32,
    pub(crate) result: Outcome,
}

/// How events were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// They were not.
    Nothing,
    /// By NIP-77.
    Negentropy,
    /// In pages of REQs.
    Pages,
}

/// How the work with a relay has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is done.
    Done,
    /// A part is, and it makes no sense to go on, for this reason.
    Failed(String),
    /// A part is, and too many connections got no further, for this reason.
    GivenUp(String),
    /// A signal has ended it; a part may be done.
    Interrupted,
}

/// Progress, for the user.
pub(crate) enum SyncProgress<'a> {
    /// A line to print.
    Message(&'a str),
    /// Events that have been received or sent, or messages that have been exchanged, since the last report.
    Transferred { more: u64, counts: &'a Counts },
}

/// Copies events from and to one relay after another.
pub(super) struct Driver<B> {
    pub(super) connector: Arc<Connector>,
    pub(super) local: Arc<Local<B>>,
    pub(super) plan: Arc<Plan>,
    pub(super) keys: Option<Keys>,
    /// Told which events the other relay has sent.
    pub(super) peer_has: Option<PeerMemory>,
    pub(super) backoff: Backoff,
    pub(super) interrupt: Interrupt,
}

/// What ends a connection.
enum Ended {
    Session(End),
    Interrupted,
}

impl<B: Backend + Send + Sync + 'static> Driver<B> {
    /// Copies events from and to one relay.
    ///
    /// # Errors
    /// If the local store fails. All else is in the report.
    pub(super) async fn run(
        &self,
        url: &RelayUrl,
        tell: &mut (dyn FnMut(SyncProgress<'_>) + Send),
    ) -> Result<Report, Failure> {
        let mut progress = Progress::new(self.plan.scope.range());
        let mut backoff = self.backoff.clone();
        let mut connections = 0;
        let mut local_events: Option<Arc<LocalEvents>> = None;
        let result = loop {
            connections += 1;
            let steps = progress.steps;
            let why = match self.connection(url, &mut progress, &mut local_events, tell).await? {
                Ended::Session(End::Done) => break Outcome::Done,
                Ended::Session(End::Failed(why)) => break Outcome::Failed(why),
                Ended::Interrupted => break Outcome::Interrupted,
                Ended::Session(End::Retry(why)) => why,
            };
            let mut random = [0; 8];
            let _ = getrandom::fill(&mut random);
            let Some(wait) = backoff.failed(progress.steps > steps, u64::from_le_bytes(random)) else {
                break Outcome::GivenUp(why);
            };
            tell(SyncProgress::Message(&format!("{why}; again in {:.1} s", wait.as_secs_f32())));
            if self.interrupted_within(wait).await {
                break Outcome::Interrupted;
            }
        };
        let method = match progress.counts {
            Counts { rounds: 1.., .. } if progress.negentropy == Support::Yes => Method::Negentropy,
            Counts { pages: 1.., .. } => Method::Pages,
            _ => Method::Nothing,
        };
        Ok(Report { counts: progress.counts, method, connections, result })
    }

    async fn interrupted_within(&self, time: Duration) -> bool {
        let end = tokio::time::Instant::now() + time;
        while !self.interrupt.has_come() && tokio::time::Instant::now() < end {
            tokio::time::sleep(POLL.min(end - tokio::time::Instant::now())).await;
        }
        self.interrupt.has_come()
    }

    async fn interrupted(&self) {
        while !self.interrupt.has_come() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// One connection. `local_events` are those stored, if that is known; a scan is not waited for with an open connection.
    async fn connection(
        &self,
        url: &RelayUrl,
        progress: &mut Progress,
        local_events: &mut Option<Arc<LocalEvents>>,
        tell: &mut (dyn FnMut(SyncProgress<'_>) + Send),
    ) -> Result<Ended, Failure> {
        let items = match local_events.take() {
            Some(items) => items,
            None => {
                let (local, filter) = (Arc::clone(&self.local), self.plan.scope.filter().clone());
                let (own, up) = (self.keys.as_ref().map(Keys::pubkey), self.plan.up);
                Arc::new(blocking(move || local.scan(&filter, own, up)).await?)
            }
        };
        let opened = tokio::select! {
            opened = self.open(url) => opened,
            () = self.interrupted() => return Ok(Ended::Interrupted),
        };
        let (mut connection, information) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                *local_events = Some(items);
                return Ok(Ended::Session(End::Retry(why)));
            }
        };
        let begun = Instant::now();
        let session = Session::new(
            Arc::clone(&self.plan),
            information,
            items,
            std::mem::take(progress),
            Duration::ZERO,
            unix_now(),
        );
        let mut running = Running {
            driver: self,
            url,
            session,
            begun,
            outgoing: VecDeque::new(),
            waiting: Vec::new(),
            waiting_since: None,
            waiting_bytes: 0,
            storing: None,
        };
        let ended = running.run(&mut connection, tell).await;
        // What has come is stored, however the connection ended.
        running.flush().await?;
        running.finish_storing().await?;
        *progress = running.session.into_progress();
        if let Ok(Ended::Session(End::Done)) = &ended {
            connection.close().await;
            // The last events were checked only now.
            if let Some(why) = progress.counts.lie() {
                return Ok(Ended::Session(End::Failed(why.to_owned())));
            }
        }
        ended
    }

    async fn open(&self, url: &RelayUrl) -> Result<(Connection, Information), String> {
        let timeout = self.plan.timeout;
        let (connection, information) = tokio::join!(
            tokio::time::timeout(timeout, self.connector.connect(url)),
            tokio::time::timeout(timeout, self.connector.information(url)),
        );
        match connection {
            Err(_) => Err("no answer".to_owned()),
            Ok(Err(error)) => Err(format!("cannot connect: {error}")),
            // A relay need not tell anything about itself.
            Ok(Ok(connection)) => Ok((connection, information.unwrap_or_default())),
        }
    }
}

/// Work for the store, on a thread that may wait for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Failure::External("a thread of the store panicked".to_owned())))
}

/// The answer to a challenge (NIP-42).
pub(super) fn auth_event(keys: &Keys, url: &RelayUrl, challenge: String) -> Event {
    let tag = |name: &str, value: String| vec![name.to_owned(), value];
    keys.sign(&Draft {
        created_at: unix_now(),
        kind: AUTH_KIND,
        tags: vec![tag("relay", url.to_string()), tag("challenge", challenge)],
        content: String::new(),
    })
}

/// A session with its connection and the store.
struct Running<'a, B> {
    driver: &'a Driver<B>,
    url: &'a RelayUrl,
    session: Session,
    begun: Instant,
    outgoing: VecDeque<String>,
    /// Events that will be stored together, and since when the first one waits.
    waiting: Vec<Event>,
    waiting_since: Option<Instant>,
    waiting_bytes: usize,
    /// Events that are being stored.
    storing: Option<JoinHandle<Result<Outcomes, Failure>>>,
}

impl<B: Backend + Send + Sync + 'static> Running<'_, B> {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    async fn run(
        &mut self,
        connection: &mut Connection,
        tell: &mut (dyn FnMut(SyncProgress<'_>) + Send),
    ) -> Result<Ended, Failure> {
        loop {
            if let Some(end) = self.act(tell).await? {
                // The last messages, such as NEG-CLOSE, are sent if they can be.
                while let Some(message) = self.outgoing.pop_front() {
                    let Ok(Some(room)) = tokio::time::timeout(POLL, connection.outgoing.room()).await else {
                        break;
                    };
                    room.send(message);
                }
                return Ok(Ended::Session(end));
            }
            if self.now() >= self.session.deadline() {
                self.session.timeout(self.now());
                continue;
            }
            let deadline = self.begun + self.session.deadline();
            let store_at = self.waiting_since.map(|since| since + COMMIT_WAIT);
            tokio::select! {
                biased;
                () = self.driver.interrupted() => return Ok(Ended::Interrupted),
                room = connection.outgoing.room(), if !self.outgoing.is_empty() => match (room, self.outgoing.pop_front()) {
                    (Some(room), Some(message)) => room.send(message),
                    _ => self.session.closed("the connection is cut"),
                },
                text = connection.incoming.next() => {
                    let now = self.now();
                    match text {
                        Ok(text) => self.session.handle(now, &text),
                        Err(why) => self.session.closed(&why),
                    }
                }
                () = tokio::time::sleep_until(store_at.unwrap_or(deadline).into()), if store_at.is_some() => {
                    self.flush().await?;
                }
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
        }
    }

    /// Does what the session wants. How it ends, if it does.
    async fn act(&mut self, tell: &mut (dyn FnMut(SyncProgress<'_>) + Send)) -> Result<Option<End>, Failure> {
        let mut moved = 0;
        while let Some(action) = self.session.poll() {
            match action {
                Action::Send(message) => {
                    moved += u64::from(message.starts_with("[\"EVENT\""));
                    self.outgoing.push_back(message);
                }
                Action::Store(event) => {
                    moved += 1;
                    self.waiting_since.get_or_insert_with(Instant::now);
                    self.waiting_bytes += event.json().len();
                    self.waiting.push(event);
                    if self.waiting.len() >= COMMIT_EVENTS || self.waiting_bytes >= COMMIT_BYTES {
                        self.flush().await?;
                    }
                }
                Action::Load(ids) => {
                    let local = Arc::clone(&self.driver.local);
                    let events = blocking(move || local.load(ids)).await?;
                    let now = self.now();
                    self.session.loaded(now, events);
                }
                Action::Authenticate(challenge) => {
                    if let Some(keys) = &self.driver.keys {
                        let event = auth_event(keys, self.url, challenge);
                        let now = self.now();
                        self.session.authenticate(now, &event);
                    }
                }
                Action::Print(message) => tell(SyncProgress::Message(&message)),
                Action::End(end) => return Ok(Some(end)),
            }
        }
        tell(SyncProgress::Transferred { more: moved, counts: self.session.counts() });
        Ok(None)
    }

    /// Begins to store what waits, behind what is being stored.
    async fn flush(&mut self) -> Result<(), Failure> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.finish_storing().await?;
        let local = Arc::clone(&self.driver.local);
        let events = std::mem::take(&mut self.waiting);
        (self.waiting_since, self.waiting_bytes) = (None, 0);
        self.storing = Some(tokio::spawn(blocking(move || local.store(events))));
        Ok(())
    }

    /// Waits for what is being stored. That time does not count as silence of the relay.
    async fn finish_storing(&mut self) -> Result<(), Failure> {
        let Some(storing) = self.storing.take() else { return Ok(()) };
        let begun = self.now();
        let outcomes =
            storing.await.unwrap_or_else(|_| Err(Failure::External("storing panicked".to_owned())))?;
        if let Some(memory) = &self.driver.peer_has {
            memory.lock().add_all(outcomes.seqs.iter().copied().map(Seq));
        }
        self.session.stored(outcomes);
        let took = self.now() - begun;
        self.session.exclude_from_timeout(took);
        Ok(())
    }
}
