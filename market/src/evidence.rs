//! What an event proves about a job: that somebody asked, that a provider delivered, or that it asked for payment first.

use relay_engine::types::{Event, EventId, Kind, NO_EXPIRY, PubKey, Timestamp};

use relay_agent::nip90::{KIND_FEEDBACK, is_request, is_result};

/// Providers that a request is held to name: the first so many of its `p` tags. So many rows a request has at most beside its own.
pub const NAMED_MAX: usize = 4;
/// Largest event that is kept whole because it expires, in bytes of JSON.
pub const KEPT_BYTES_MAX: usize = 4 << 10;
/// More than all bitcoin, in millisatoshis.
const ASKED_MSAT_MAX: u64 = 1 << 53;

/// What an event is to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A job request (kinds 5000 to 5999).
    Request,
    /// A result (kinds 6000 to 6999).
    Result,
    /// Feedback with status `payment-required` (kind 7000).
    PaymentRequired,
}

/// An event as evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// What it is.
    pub role: Role,
    /// Its id.
    pub id: EventId,
    /// Its author: the customer of a request, else the provider.
    pub author: PubKey,
    /// Its `created_at`.
    pub at: Timestamp,
    /// Its kind.
    pub kind: Kind,
    /// The request that it is about; of a request its own id.
    pub request: EventId,
    /// Whether it is a request without any `p` tag.
    pub is_open: bool,
    /// The keys that a request names, without repeats.
    pub named: Vec<PubKey>,
    /// When it expires (NIP-40); [`NO_EXPIRY`] if never.
    pub expires: Timestamp,
    /// Whether it can be shown although it has expired, because it is kept whole.
    pub is_kept: bool,
    /// The millisatoshis that an answer asks for (`amount`). 0 if it names none, or none that can be read: that of encrypted
    /// feedback is hidden.
    pub asked_msat: u64,
}

impl Evidence {
    /// Reads an event; `None` if it proves nothing.
    pub fn of(event: &Event) -> Option<Evidence> {
        let (role, request) = match event.kind {
            kind if is_request(kind) => (Role::Request, event.id),
            kind if is_result(kind) => (Role::Result, answered(event)?),
            KIND_FEEDBACK if asks_for_payment(event) => (Role::PaymentRequired, answered(event)?),
            _ => return None,
        };
        let mut named = Vec::new();
        let mut is_open = false;
        if role == Role::Request {
            is_open = event.tags().named(b"p").next().is_none();
            for value in event.tags().named(b"p").filter_map(|tag| tag.value()).take(NAMED_MAX) {
                if let Ok(key) = PubKey::from_hex(&value)
                    && !named.contains(&key)
                {
                    named.push(key);
                }
            }
        }
        Some(Evidence {
            role,
            id: event.id,
            author: event.pubkey,
            at: event.created_at,
            kind: event.kind,
            request,
            is_open,
            named,
            expires: event.expires_at,
            is_kept: event.expires_at != NO_EXPIRY && event.json().len() <= KEPT_BYTES_MAX,
            asked_msat: if role == Role::Request { 0 } else { asked_msat(event) },
        })
    }

    /// Whether its author asks to be paid: feedback that says so, or a result with an amount.
    pub fn asks_for_payment(&self) -> bool {
        match self.role {
            Role::Request => false,
            Role::Result => self.asked_msat > 0,
            Role::PaymentRequired => true,
        }
    }

    /// Whether it can no longer be shown to anybody.
    pub fn is_gone(&self, as_of: Timestamp) -> bool {
        self.expires <= as_of && !self.is_kept
    }
}

/// The request that an answer is about: its first `e` tag.
fn answered(event: &Event) -> Option<EventId> {
    EventId::from_hex(&event.tags().find(b"e")?).ok()
}

fn asks_for_payment(event: &Event) -> bool {
    let status = event.tags().find(b"status");
    matches!(status.as_deref(), Some(b"payment-required" | b"payment_required"))
}

/// What is larger than all bitcoin is asked for as that.
fn asked_msat(event: &Event) -> u64 {
    let amount = event.tags().find(b"amount").unwrap_or_default();
    if amount.is_empty() || !amount.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    let parsed = std::str::from_utf8(&amount).ok().and_then(|digits| digits.parse().ok());
    parsed.unwrap_or(ASKED_MSAT_MAX).min(ASKED_MSAT_MAX)
}
