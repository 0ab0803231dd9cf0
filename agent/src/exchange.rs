//! Requests over a relay to a remote signer (NIP-46) or a wallet (NIP-47): the subscription for the answers, and the messages of the relay.

use relay_engine::types::{Event, Filter, Kind, PubKey, TagFilter};
use relay_engine::wire::parse_event;
use serde_json::{Map, Value, json};
use url::Url;

use crate::identity::parse_pubkey;

/// Relays of a URI that are used.
const RELAYS_MAX: usize = 4;

/// The address of a remote signer or a wallet: what `bunker://` URLs and wallets' connection strings have in common.
pub(crate) struct Address {
    pub(crate) pubkey: PubKey,
    /// One to four.
    pub(crate) relays: Vec<String>,
    pub(crate) secret: Option<String>,
}

impl Address {
    /// Reads `<pubkey>?relay=...&secret=...`, a URI without its scheme; `no_pubkey` is the error if it does not begin with a public key.
    pub(crate) fn parse(rest: &str, no_pubkey: &'static str) -> Result<Self, &'static str> {
        let (pubkey, query) = rest.split_once('?').unwrap_or((rest, ""));
        let pubkey = parse_pubkey(pubkey.trim_end_matches('/')).ok_or(no_pubkey)?;
        let (mut relays, mut secret) = (Vec::new(), None);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "relay" if relays.len() < RELAYS_MAX => {
                    let is_relay = Url::parse(&value)
                        .is_ok_and(|url| matches!(url.scheme(), "wss" | "ws") && url.host().is_some());
                    if !is_relay {
                        return Err("names a relay that is not a wss:// URL");
                    }
                    relays.push(value.into_owned());
                }
                "secret" => secret = Some(value.into_owned()),
                _ => {}
            }
        }
        relays.dedup();
        if relays.is_empty() { Err("names no relay") } else { Ok(Address { pubkey, relays, secret }) }
    }
}

/// The events that are the answers in an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Who answers.
    pub author: PubKey,
    /// Each is a filter.
    pub wanted: Vec<Wanted>,
    /// Most events that may come without having been asked for, such as notifications.
    pub unasked_max: usize,
}

/// Events of one author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Their kinds.
    pub kinds: Vec<Kind>,
    /// The values of a tag of which they have one.
    pub tag: Option<(char, Vec<String>)>,
}

impl Answers {
    /// What they match.
    pub fn filters(&self) -> Vec<Filter> {
        let filter = |Wanted { kinds, tag }: &Wanted| {
            let tag = tag.iter().map(|(letter, values)| TagFilter {
                letter: *letter as u8,
                values: values.iter().map(|value| value.as_bytes().into()).collect(),
            });
            let mut filter = Filter {
                kinds: Some(kinds.clone().into()),
                authors: Some(Box::new([self.author])),
                tags: tag.collect(),
                ..Filter::default()
            };
            filter.normalise();
            filter
        };
        self.wanted.iter().map(filter).collect()
    }

    /// The messages to a relay: the subscription, and the requests.
    pub fn messages(&self, requests: &[Event]) -> Vec<String> {
        let filter = |Wanted { kinds, tag }: &Wanted| {
            let mut filter = Map::new();
            filter.insert("kinds".to_owned(), json!(kinds));
            filter.insert("authors".to_owned(), json!([self.author.to_string()]));
            if let Some((letter, values)) = tag {
                filter.insert(format!("#{letter}"), json!(values));
            }
            Value::Object(filter)
        };
        let mut subscription = vec![json!("REQ"), json!("answers")];
        subscription.extend(self.wanted.iter().map(filter));
        let mut messages = vec![Value::Array(subscription).to_string()];
        let event = |event: &Event| format!(r#"["EVENT",{}]"#, String::from_utf8_lossy(event.json()));
        messages.extend(requests.iter().map(event));
        messages
    }
}

/// Whether two URLs are of the same relay.
pub fn is_same_relay(a: &str, b: &str) -> bool {
    let parse = |url: &str| Url::parse(url.trim_end_matches('/'));
    matches!((parse(a), parse(b)), (Ok(a), Ok(b)) if a == b)
}

/// Reads the messages of one relay in an exchange, and bounds them.
#[derive(Clone, Copy, Debug)]
pub struct Frames {
    requests: usize,
    unasked_max: usize,
    refused: usize,
    received: usize,
}

impl Frames {
    /// For an exchange of so many requests.
    pub fn new(answers: &Answers, requests: usize) -> Self {
        Frames { requests, unasked_max: answers.unasked_max, refused: 0, received: 0 }
    }

    /// Most events of one relay: for each request an `auth_url` and the answer, each up to twice, and a few others.
    fn events_max(&self) -> usize {
        16 + self.unasked_max + 4 * self.requests
    }

    /// Reads a message. If it is an event, its author and signature are not checked here.
    ///
    /// # Errors
    /// Why nothing more is to be expected of this relay.
    pub fn handle(&mut self, text: &str) -> Result<Option<Event>, String> {
        match Frame::read(text) {
            Frame::Event(event) => self.take(event).map(Some),
            Frame::Refused(why) => {
                self.refused += 1;
                match self.refused >= self.requests {
                    true => Err(format!("it refuses the requests: {why}")),
                    false => Ok(None),
                }
            }
            Frame::Closed(why) => Err(format!("it has ended the subscription: {why}")),
            Frame::Other => Ok(None),
        }
    }

    /// An event has come.
    ///
    /// # Errors
    /// As [`Frames::handle`].
    pub fn take(&mut self, event: Event) -> Result<Event, String> {
        self.received += 1;
        match self.received > self.events_max() {
            true => Err("it sends too many events".to_owned()),
            false => Ok(event),
        }
    }
}

/// A message of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Frame {
    /// An event.
    Event(Event),
    /// It refuses a request, with its message.
    Refused(String),
    /// It has ended the subscription, with its message.
    Closed(String),
    /// Of no use here.
    Other,
}

impl Frame {
    /// Reads a message.
    fn read(text: &str) -> Self {
        let Ok(Value::Array(fields)) = serde_json::from_str(text) else { return Frame::Other };
        let field = |at: usize| fields.get(at).and_then(Value::as_str).unwrap_or_default();
        match field(0) {
            "EVENT" => fields
                .get(2)
                .and_then(|event| {
                    Some(Frame::Event(parse_event(event.to_string().as_bytes()).ok()?.to_event()))
                })
                .unwrap_or(Frame::Other),
            "OK" if fields.get(2) == Some(&Value::Bool(false)) => Frame::Refused(field(3).to_owned()),
            "CLOSED" => Frame::Closed(field(2).to_owned()),
            _ => Frame::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_known_by_its_url() {
        for (other, want) in [
            ("wss://relay.example", true),
            ("wss://RELAY.example/", true),
            ("wss://relay.example:443", true),
            ("ws://relay.example", false),
            ("wss://relay.example:444", false),
            ("wss://relay.example/inbox", false),
            ("wss://other.example", false),
        ] {
            assert_eq!(is_same_relay("wss://relay.example/", other), want, "{other}");
        }
    }
}
