//! One agent.

use std::sync::Arc;

use relay_engine::sql::SqlConn;
use relay_engine::sql::StoreError;
use relay_engine::types::{Event, EventId, Filter, Now, PubKey};

use crate::executor::{HttpEvent, HttpRequest};
use crate::manifest::{Manifest, ManifestError};
use crate::secrets::Secrets;

/// Identifies an effect whose outcome is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectId(pub u64);

/// What an agent wants from its host. Effects are polled, and forgotten with the memory: what has to survive is in the
/// database, and wanted again after a restart.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Publish events on the host's relay, and then on `relays`. Answered by `handle_published` once the host's relay has
    /// them; the other relays are tried in the background.
    Publish {
        /// For the answer.
        id: EffectId,
        /// In this order.
        events: Vec<Event>,
        /// URLs of other relays.
        relays: Vec<String>,
    },
    /// Make a call; its events go to `handle_http`.
    Http {
        /// For the answers.
        id: EffectId,
        /// The request.
        request: HttpRequest,
    },
    /// Call a model of Workers AI; answered like a call.
    Ai {
        /// For the answers.
        id: EffectId,
        /// The model.
        model: String,
        /// Its JSON input.
        input: bytes::Bytes,
    },
    /// End a call; nothing more is expected of it.
    Cancel {
        /// The call.
        id: EffectId,
    },
    /// Read stored events of the host's relay; answered by `handle_events`.
    Query {
        /// For the answer.
        id: EffectId,
        /// At most 16 events are returned.
        filter: Filter,
    },
}

/// What became of an event that an agent published on the host's relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// The relay has it, or has a newer version.
    Accepted,
    /// The relay refuses it, for good.
    Refused(String),
    /// Not now; try again.
    Failed(String),
}

/// The state of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentState {
    /// It takes jobs.
    Active,
    /// It takes no new jobs; those it has wait.
    Paused,
    /// It takes no new jobs and finishes those it has.
    Draining,
    /// It is gone; its announcements are retracted.
    Deleted,
}

/// A line of an agent's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Milliseconds since 1970.
    pub at_millis: u64,
    /// The job it is about.
    pub job: Option<EventId>,
    /// What happened.
    pub message: String,
}

/// What an agent's machine is given by its host.
pub struct Context {
    /// Secrets by name; [`identity::MASTER_SECRET`](crate::identity::MASTER_SECRET) among them.
    pub secrets: Arc<dyn Secrets + Send + Sync>,
    /// The host's relay, `wss://...`, if its URL is known: named in announcements and in `e` tags.
    pub relay_url: Option<String>,
    /// Secret, random and new for each opening: nonces are made of it.
    pub seed: [u8; 32],
}

/// Why a manifest cannot be deployed, or a command not be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The manifest, with the path of the field.
    Manifest(ManifestError),
    /// The secret of its identity is missing or no key.
    Identity(String),
    /// It has been deployed with another key.
    OtherKey,
    /// No such version, job, session; or nothing is deployed.
    NotFound,
    /// Not in this state.
    State(AgentState),
    /// The store failed.
    Store(StoreError),
}

/// One agent: a manifest, a key, jobs, and a database of its own.
///
/// What a call has accepted is durable when it returns. A host calls [`Agent::poll_effect`] until `None` after each call,
/// and [`Agent::handle_timeout`] when [`Agent::poll_timeout`] says so. An agent that [`Agent::is_idle`] can be dropped and opened
/// again when it is needed.
pub struct Agent<C> {
    conn: C,
    context: Context,
}

impl<C: SqlConn> Agent<C> {
    /// Opens the database in `conn`; an empty one holds no agent until [`Agent::deploy`]. Work that a crash has interrupted
    /// is resumed.
    ///
    /// # Errors
    /// If the store fails.
    pub fn open(now: Now, conn: C, context: Context) -> Result<Self, StoreError> {
        let _ = now;
        Ok(Agent { conn, context })
    }

    /// Deploys a validated manifest as a new version, or the first one. The same manifest again changes nothing. Returns
    /// the number of the version.
    ///
    /// # Errors
    /// [`CommandError`]; then nothing has changed.
    pub fn deploy(&mut self, now: Now, manifest: &Manifest, by: &PubKey) -> Result<u32, CommandError> {
        let _ = (now, manifest, by, &self.conn, &self.context.secrets);
        todo!("machine")
    }

    /// Makes an earlier version the current one again, as a new version.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn rollback(&mut self, now: Now, version: u32, by: &PubKey) -> Result<u32, CommandError> {
        let _ = (now, version, by);
        todo!("machine")
    }

    /// Changes its state: pause, resume ([`AgentState::Active`]), drain, delete.
    ///
    /// # Errors
    /// [`CommandError::State`] if it cannot be done from the present state.
    pub fn set_state(&mut self, now: Now, state: AgentState) -> Result<(), CommandError> {
        let _ = (now, state);
        todo!("machine")
    }

    /// Events that concern it: requests, cancellations, pings. What was delivered before is recognised. When it returns
    /// `Ok`, all of them are durable.
    ///
    /// # Errors
    /// If the store fails; they have to be delivered again.
    pub fn deliver(&mut self, now: Now, events: &[Event]) -> Result<(), StoreError> {
        let _ = (now, events);
        todo!("machine")
    }

    /// The next effect.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        todo!("machine")
    }

    /// The outcome of an [`Effect::Publish`], one for each event.
    pub fn handle_published(&mut self, now: Now, id: EffectId, outcomes: &[Published]) {
        let _ = (now, id, outcomes);
        todo!("machine")
    }

    /// Something has come of an [`Effect::Http`] or [`Effect::Ai`].
    pub fn handle_http(&mut self, now: Now, id: EffectId, event: HttpEvent) {
        let _ = (now, id, event);
        todo!("machine")
    }

    /// The answer to an [`Effect::Query`]. `Err`: the host could not read.
    pub fn handle_events(&mut self, now: Now, id: EffectId, events: Result<Vec<Event>, String>) {
        let _ = (now, id, events);
        todo!("machine")
    }

    /// When [`Agent::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Now> {
        todo!("machine")
    }

    /// Time has passed: retries, deadlines, schedules.
    pub fn handle_timeout(&mut self, now: Now) {
        let _ = now;
        todo!("machine")
    }

    /// Whether it has nothing to do but wait for [`Agent::poll_timeout`] or the next call: no effect is open.
    pub fn is_idle(&self) -> bool {
        todo!("machine")
    }
}
