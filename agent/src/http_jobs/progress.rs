//! How far a job is, by the events that its agent has published about it.

use relay_engine::types::{Event, Filter, Kind, PubKey, TagFilter};
use serde_json::{Value, json};

use super::Token;
use crate::bolt11::Invoice;
use crate::nip90::{KIND_FEEDBACK, result_kind};

/// What is to be paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    /// Millisatoshis.
    pub msat: u64,
    /// The invoice (BOLT 11).
    pub bolt11: String,
    /// Its payment hash.
    pub payment_hash: [u8; 32],
    /// A message, or a part of the result.
    pub content: String,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// The agent has said nothing, or works: the status of its last feedback, and a partial result.
    Working {
        /// `processing`, `partial`, or another status; `None`: it has said nothing.
        status: Option<String>,
        /// The content of that feedback.
        content: String,
    },
    /// An invoice waits to be paid.
    PaymentRequired(Payment),
    /// It is refused, or has failed: the agent's message.
    Failed(String),
    /// The result: its event, as JSON, and its content.
    Done {
        /// The event.
        event: Value,
        /// Its content.
        content: String,
    },
}

/// The kind of the job's result.
pub(super) fn result_of(token: &Token) -> Kind {
    result_kind(token.kind)
}

/// What a host reads of a job: its result, and its newest feedback.
pub fn filters(agent: &PubKey, token: &Token) -> [Filter; 2] {
    let e = TagFilter { letter: b'e', values: [token.request.to_string().into_bytes().into()].into() };
    [result_of(token), KIND_FEEDBACK].map(|kind| Filter {
        authors: Some([*agent].into()),
        kinds: Some([kind].into()),
        tags: [e.clone()].into(),
        limit: Some(if kind == KIND_FEEDBACK { 16 } else { 1 }),
        ..Filter::default()
    })
}

impl Progress {
    /// From the result, if there is one, and feedback in any order. What the token says is paid is not asked for again.
    pub fn of(token: &Token, result: Option<&Event>, feedback: &[Event]) -> Self {
        if let Some(result) = result {
            let event = json(result);
            let content = text(&event["content"]);
            return Progress::Done { event, content };
        }
        // Within a job their times rise.
        let Some(newest) = feedback.iter().max_by_key(|event| event.created_at) else {
            return Progress::Working { status: None, content: String::new() };
        };
        let event = json(newest);
        let (status, extra) = (field(&event, "status", 1), field(&event, "status", 2));
        let content = text(&event["content"]);
        match status.as_deref() {
            Some("error") if content.is_empty() => Progress::Failed(extra.unwrap_or_default()),
            Some("error") => Progress::Failed(content),
            Some("payment-required") => match payment(&event, content) {
                Some(payment) if token.payment_hash != Some(payment.payment_hash) => {
                    Progress::PaymentRequired(payment)
                }
                _ => Progress::Working { status: None, content: String::new() },
            },
            _ => Progress::Working { status, content },
        }
    }

    /// From one event, the result or feedback.
    pub fn of_event(token: &Token, event: &Event) -> Self {
        match event.kind {
            KIND_FEEDBACK => Progress::of(token, None, std::slice::from_ref(event)),
            _ => Progress::of(token, Some(event), &[]),
        }
    }

    /// Whether nothing comes after it unless the buyer does something.
    pub fn is_final(&self) -> bool {
        !matches!(self, Progress::Working { .. })
    }
}

fn payment(event: &Value, content: String) -> Option<Payment> {
    let (msat, bolt11) = (field(event, "amount", 1)?, field(event, "amount", 2)?);
    let invoice = Invoice::parse(&bolt11).ok()?;
    Some(Payment { msat: msat.parse().ok()?, bolt11, payment_hash: invoice.payment_hash, content })
}

fn json(event: &Event) -> Value {
    serde_json::from_slice(event.json()).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A field of the first tag with this name.
fn field(event: &Value, name: &str, at: usize) -> Option<String> {
    let tags = event["tags"].as_array()?;
    let tag = tags.iter().find(|tag| tag[0] == name)?;
    tag.get(at)?.as_str().map(str::to_owned)
}

/// What a buyer is told beside the result of a request.
pub(super) fn head(token: &Token, status: &str) -> Value {
    json!({ "status": status, "request": token.request.to_string() })
}
