//! What an agent wants from its host, and what comes of it.

use relay_engine::types::{Event, Filter, PubKey};

use crate::exchange::Answers;
use crate::executor::HttpRequest;

/// Identifies an effect whose outcome is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EffectId(pub u64);

/// What an agent wants from its host. Effects are polled and are not stored: what has to survive a restart is in the database, and
/// becomes an effect again.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Publish events on the host's relay, and then on `relays`. Answered by `handle_published` once the host's relay has
    /// them; the other relays are tried in the background.
    Publish {
        /// For the answer.
        id: EffectId,
        /// In this order, since feedback must not be published after the result: a host that can stops after one that
        /// [`Published::Failed`].
        events: Vec<Event>,
        /// URLs of other relays.
        relays: Vec<String>,
    },
    /// Send events, which are already on the host's relay, to other relays in the background. It is not answered.
    Send {
        /// Of the effect.
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
    /// Ask a remote signer (NIP-46) or a wallet (NIP-47): subscribe on each of `relays` to its `answers`, then publish `requests` there. Of
    /// what comes each event goes to `handle_exchange`, until [`Effect::Cancel`].
    Exchange {
        /// For the answers.
        id: EffectId,
        /// URLs of relays.
        relays: Vec<String>,
        /// Which events are answers.
        answers: Answers,
        /// In this order; there may be none.
        requests: Vec<Event>,
    },
    /// Read stored events of the host's relay; answered by `handle_events`.
    Query {
        /// For the answer.
        id: EffectId,
        /// At most 16 events are returned.
        filter: Filter,
    },
    /// Store a blob on the host's Blossom server ([`Context::blossom`](super::Context::blossom)), without a token; answered by `handle_stored`. It is
    /// carried out to its end also after [`Effect::Cancel`].
    StoreBlob {
        /// For the answer.
        id: EffectId,
        /// Whose blob it will be.
        owner: PubKey,
        /// The blob.
        bytes: bytes::Bytes,
        /// Its MIME type.
        mime: &'static str,
    },
    /// Read a blob of the host's Blossom server; answered like a call over HTTP: status 200 with `content-type`, 404, or
    /// [`HttpError::TooLarge`](crate::executor::HttpError::TooLarge).
    ReadBlob {
        /// For the answers.
        id: EffectId,
        /// Its name, 64 lowercase hexadecimal digits.
        sha256: String,
        /// Most bytes.
        bytes_max: usize,
    },
}

impl Effect {
    /// Its id; of [`Effect::Cancel`] that of the call.
    pub fn id(&self) -> EffectId {
        match self {
            Effect::Publish { id, .. }
            | Effect::Send { id, .. }
            | Effect::Http { id, .. }
            | Effect::Ai { id, .. }
            | Effect::Cancel { id }
            | Effect::Exchange { id, .. }
            | Effect::Query { id, .. }
            | Effect::StoreBlob { id, .. }
            | Effect::ReadBlob { id, .. } => *id,
        }
    }
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

/// What comes of an [`Effect::Exchange`].
#[derive(Clone, Debug)]
pub enum ExchangeEvent {
    /// An answer, or what passes for one.
    Event(Event),
    /// None of the relays can be reached, or all have closed. It is the last one.
    Failed(String),
}
