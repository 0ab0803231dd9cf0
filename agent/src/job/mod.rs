//! What a job is, independent of the protocol, and the states of jobs and agents.

mod agent_state;
mod state;

pub use agent_state::Command;
pub use state::{JobEvent, JobState};

use relay_engine::types::{EventId, Kind, PubKey, Timestamp};
use serde::{Deserialize, Serialize};

use crate::cipher::Cipher;

/// A request to do work, as the module of its protocol (`nip90`) has read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRequest {
    /// Its id: for NIP-90 the id of the request's event.
    pub id: EventId,
    /// Who asks.
    pub customer: PubKey,
    /// The kind of work, 5000 to 5999.
    pub kind: Kind,
    /// When it was made, by the customer's clock.
    pub created_at: Timestamp,
    /// Whether it names this agent. Otherwise it names no agent (an open job).
    pub is_addressed: bool,
    /// What to work on, in order. Often none.
    pub inputs: Vec<Input>,
    /// Parameters: a key and its values. A key may repeat.
    pub params: Vec<(String, Vec<String>)>,
    /// The wanted MIME type.
    pub output: Option<String>,
    /// What the customer is ready to pay, in millisatoshis.
    pub bid_msat: Option<u64>,
    /// Where the customer wants answers published.
    pub relays: Vec<String>,
    /// The cipher of the request, which is also the answers'. `None`: everything is public.
    pub cipher: Option<Cipher>,
}

/// An input of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The text, or what refers to it.
    pub data: String,
    /// How `data` is to be read.
    pub kind: InputKind,
    /// Where to find an event or a job.
    pub relay: Option<String>,
    /// What it is used for, as the customer says.
    pub marker: Option<String>,
}

/// How the data of an input is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// It is the text itself.
    Text,
    /// The id of an event whose content is the text.
    Event,
    /// The id of a job request whose result is the text.
    Job,
    /// A URL that serves the text.
    Url,
}

impl InputKind {
    /// Its name, as in NIP-90.
    pub fn name(self) -> &'static str {
        match self {
            InputKind::Text => "text",
            InputKind::Event => "event",
            InputKind::Job => "job",
            InputKind::Url => "url",
        }
    }
}
