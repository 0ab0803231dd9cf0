//! What the relay's object and the objects of agents say to each other: a line of JSON, and then an event a line.
//!
//! ```text
//! relay to agent, POST /deliver     {"known":{"state":"active","version":1},
//!                                    "confirmed":[{"instance":"6b0f…","id":3,"outcomes":["accepted"]}]}, events for the agent
//!                 the response      {"instance":"6b0f…","is_busy":false,"publish":[{"id":4,"events":2}],
//!                                    "is_deleted":false,"entry":null,"counted":{"jobs":{"done":1}}}, events to publish
//! agent to relay, POST /agents/publish {"counted":{"jobs":{"done":1}}}, events; the response is a JSON list of an outcome for each
//!                 POST /agents/query   a filter, encoded; the response is an event a line
//! ```
//!
//! The relay confirms what it has published with the next delivery, or by an empty one: at once if the agent is busy, else a
//! moment later. A confirmation that is lost does no harm: the agent's next response has the same events once more, and the
//! relay has them already.
//!
//! An agent that has changed tells the relay at once. If that fails, its next response does: it has the agent's entry if the
//! relay knows another version or state.
//!
//! What an agent has counted since it last said so ([`MetricsDelta`]) travels with what it says anyway. It is said once: what is
//! lost on the way is missing from `/metrics`, and is in the agent's own counters.

use std::fmt;

use relay_agent::machine::{AgentState, EffectId, MetricsDelta, Published};
use relay_agent::router::AgentEntry;
use relay_engine::types::{Event, Filter};
use relay_engine::wire;
use serde::{Deserialize, Serialize};

use super::api_request::EntryJson;
use crate::object::bytes::{filters_bytes, filters_from};

/// The path of [`Delivery`] in an agent's object.
pub const DELIVER_PATH: &str = "/deliver";
/// The path of what Blossom asks an agent that is paid ([`relay_site::PaymentRequest`], as JSON), in its object. The response is the
/// [`relay_site::PaymentOutcome`].
pub const PAYMENT_PATH: &str = "/agents/payment";
/// The path of events that an agent publishes, in the relay's object.
pub const PUBLISH_PATH: &str = "/agents/publish";
/// The path of an agent's queries, in the relay's object.
pub const QUERY_PATH: &str = "/agents/query";

/// Identifies an instance of an agent's object: random, and new each time it is opened, since the ids of its effects begin again then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceId(pub u64);

/// A message of the other object that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(String);

impl Malformed {
    pub(super) fn new(why: impl fmt::Display) -> Self {
        Malformed(why.to_string())
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a malformed message: {}", self.0)
    }
}

/// What became of the events of a [`Publication`], in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// Of the response that had it.
    pub instance: InstanceId,
    /// The publication's.
    pub id: EffectId,
    /// One for each event.
    pub outcomes: Vec<Published>,
}

/// What the router knows of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Known {
    /// Its state.
    pub state: AgentState,
    /// Its version.
    pub version: u32,
}

impl Known {
    /// What this entry says.
    pub fn of(entry: &AgentEntry) -> Self {
        Known { state: entry.state, version: entry.version }
    }
}

/// What the relay's object sends to an agent's.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// What the router knows of the agent.
    pub known: Option<Known>,
    /// What has become of earlier publications.
    pub confirmed: Vec<Confirmation>,
    /// Events that concern the agent.
    pub events: Vec<Event>,
}

/// Events that an agent wants to publish.
#[derive(Clone, Debug)]
pub struct Publication {
    /// For the confirmation.
    pub id: EffectId,
    /// In this order.
    pub events: Vec<Event>,
}

/// What an agent's object answers to a [`Delivery`]: all events of it are durable there.
#[derive(Clone, Debug)]
pub struct Reply {
    /// For confirmations.
    pub instance: InstanceId,
    /// Whether the agent works on jobs, or has more to publish once this is confirmed.
    pub is_busy: bool,
    /// What the relay is to publish: also what an earlier response has had, if it has not been confirmed.
    pub publish: Vec<Publication>,
    /// Whether the agent has been deleted.
    pub is_deleted: bool,
    /// What the router should know, if it knows something else.
    pub entry: Option<AgentEntry>,
    /// What the agent has counted, unless nothing has changed.
    pub counted: Option<MetricsDelta>,
}

/// [`Published`] in JSON.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Accepted,
    Refused(String),
    Failed(String),
}

#[derive(Deserialize, Serialize)]
struct DeliveryHead {
    known: Option<Known>,
    confirmed: Vec<ConfirmationHead>,
}

#[derive(Deserialize, Serialize)]
struct ConfirmationHead {
    instance: String,
    id: u64,
    outcomes: Vec<Outcome>,
}

#[derive(Deserialize, Serialize)]
struct ReplyHead {
    instance: String,
    is_busy: bool,
    publish: Vec<PublicationHead>,
    #[serde(default)]
    is_deleted: bool,
    entry: Option<EntryJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counted: Option<MetricsDelta>,
}

#[derive(Deserialize, Serialize)]
struct PublishHead {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counted: Option<MetricsDelta>,
}

#[derive(Deserialize, Serialize)]
struct PublicationHead {
    id: u64,
    events: usize,
}

impl From<&Published> for Outcome {
    fn from(published: &Published) -> Self {
        match published {
            Published::Accepted => Outcome::Accepted,
            Published::Refused(words) => Outcome::Refused(words.clone()),
            Published::Failed(words) => Outcome::Failed(words.clone()),
        }
    }
}

impl From<Outcome> for Published {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Accepted => Published::Accepted,
            Outcome::Refused(words) => Published::Refused(words),
            Outcome::Failed(words) => Published::Failed(words),
        }
    }
}

impl InstanceId {
    fn encode(self) -> String {
        // Numbers of JavaScript have 53 bits.
        format!("{:016x}", self.0)
    }

    fn decode(text: &str) -> Result<Self, Malformed> {
        u64::from_str_radix(text, 16).map(InstanceId).map_err(Malformed::new)
    }
}

impl Delivery {
    /// The body of a request.
    pub fn encode(&self) -> Vec<u8> {
        let confirmed = self.confirmed.iter().map(|confirmation| ConfirmationHead {
            instance: confirmation.instance.encode(),
            id: confirmation.id.0,
            outcomes: confirmation.outcomes.iter().map(Outcome::from).collect(),
        });
        with_head(&DeliveryHead { known: self.known, confirmed: confirmed.collect() }, self.events.iter())
    }

    /// Reads the body of a request.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let (head, events) = head_of::<DeliveryHead>(body)?;
        let confirmed = head.confirmed.into_iter().map(|confirmation| {
            Ok(Confirmation {
                instance: InstanceId::decode(&confirmation.instance)?,
                id: EffectId(confirmation.id),
                outcomes: confirmation.outcomes.into_iter().map(Published::from).collect(),
            })
        });
        Ok(Delivery {
            known: head.known,
            confirmed: confirmed.collect::<Result<_, Malformed>>()?,
            events: decode_events(events)?,
        })
    }
}

impl Reply {
    /// The body of a response.
    pub fn encode(&self) -> Vec<u8> {
        let publish = self.publish.iter();
        let publish = publish
            .map(|publication| PublicationHead { id: publication.id.0, events: publication.events.len() });
        let head = ReplyHead {
            instance: self.instance.encode(),
            is_busy: self.is_busy,
            publish: publish.collect(),
            is_deleted: self.is_deleted,
            entry: self.entry.as_ref().map(EntryJson::from),
            counted: self.counted.clone(),
        };
        with_head(&head, self.publish.iter().flat_map(|publication| &publication.events))
    }

    /// Reads the body of a response.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let (head, events) = head_of::<ReplyHead>(body)?;
        let mut events = decode_events(events)?.into_iter();
        let publish: Vec<Publication> = (head.publish.into_iter())
            .map(|own| Publication {
                id: EffectId(own.id),
                events: events.by_ref().take(own.events).collect(),
            })
            .collect();
        Ok(Reply {
            instance: InstanceId::decode(&head.instance)?,
            is_busy: head.is_busy,
            publish,
            is_deleted: head.is_deleted,
            entry: head.entry.map(AgentEntry::try_from).transpose()?,
            counted: head.counted,
        })
    }
}

/// The body of a request to publish events, with what the agent has counted.
pub fn encode_publish(counted: Option<MetricsDelta>, events: &[Event]) -> Vec<u8> {
    with_head(&PublishHead { counted }, events.iter())
}

/// Reads the body of a request to publish events.
///
/// # Errors
/// [`Malformed`].
pub fn decode_publish(body: &[u8]) -> Result<(Option<MetricsDelta>, Vec<Event>), Malformed> {
    let (PublishHead { counted }, events) = head_of(body)?;
    Ok((counted, decode_events(events)?))
}

/// An event a line.
pub fn encode_events<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<u8> {
    let mut body = Vec::new();
    for event in events {
        body.extend_from_slice(event.json());
        body.push(b'\n');
    }
    body
}

/// Reads an event a line. Their signatures are not checked: they come from an object of this relay.
///
/// # Errors
/// [`Malformed`].
pub fn decode_events(lines: &[u8]) -> Result<Vec<Event>, Malformed> {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let event = |line| wire::parse_event(line).map(|event| event.to_event()).map_err(Malformed::new);
    lines.map(event).collect()
}

/// A JSON list of outcomes.
pub fn encode_outcomes(outcomes: &[Published]) -> Vec<u8> {
    let outcomes: Vec<Outcome> = outcomes.iter().map(Outcome::from).collect();
    json(&outcomes)
}

/// Reads a JSON list of outcomes.
///
/// # Errors
/// [`Malformed`].
pub fn decode_outcomes(body: &[u8]) -> Result<Vec<Published>, Malformed> {
    let outcomes: Vec<Outcome> = parse(body)?;
    Ok(outcomes.into_iter().map(Published::from).collect())
}

fn with_head<'a>(head: &impl Serialize, events: impl Iterator<Item = &'a Event>) -> Vec<u8> {
    let mut body = json(head);
    body.push(b'\n');
    body.extend(encode_events(events));
    body
}

/// The first line, parsed, and the rest.
pub(super) fn head_of<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<(T, &[u8]), Malformed> {
    let end = body.iter().position(|byte| *byte == b'\n').unwrap_or(body.len());
    let (head, rest) = body.split_at(end);
    Ok((parse(head)?, rest.get(1..).unwrap_or_default()))
}

pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    // These are structs and lists of strings and numbers, which always serialize.
    serde_json::to_vec(value).unwrap_or_default()
}

pub(super) fn parse<T: for<'de> Deserialize<'de>>(json: &[u8]) -> Result<T, Malformed> {
    serde_json::from_slice(json).map_err(Malformed::new)
}

/// A filter in bytes.
pub fn encode_filter(filter: &Filter) -> Vec<u8> {
    filters_bytes(std::slice::from_ref(filter))
}

/// Reads a filter.
///
/// # Errors
/// [`Malformed`].
pub fn decode_filter(bytes: &[u8]) -> Result<Filter, Malformed> {
    let filters = filters_from(bytes).ok();
    filters.and_then(|filters| filters.first().cloned()).ok_or_else(|| Malformed("no filter".into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use relay_agent::manifest::Manifest;
    use relay_engine::testing::event_of_json;
    use relay_engine::testing::signing::{event, key};
    use relay_engine::types::PubKey;

    use super::*;

    fn events(count: u64) -> Vec<Event> {
        let signed = (0..count).map(|n| event(&key(1)).at(1_767_225_600 + n).content("a\n\"b\" ü").sign());
        signed.map(|event| event_of_json(&event.json()).unwrap()).collect()
    }

    fn entry() -> AgentEntry {
        let manifest = br#"{"name":"echo","handlers":[{"kind":5050,"executor":"echo"}]}"#;
        AgentEntry {
            pubkey: PubKey([1; 32]),
            owner: PubKey([2; 32]),
            state: AgentState::Paused,
            version: 3,
            manifest: Manifest::parse(manifest).unwrap(),
            deployed_at: 1_767_225_600,
        }
    }

    #[test]
    fn deliveries_and_replies_survive_the_way_to_the_other_object() {
        let outcomes =
            vec![Published::Accepted, Published::Refused("a\nb".into()), Published::Failed("\"c\"".into())];
        let counted =
            MetricsDelta { attempts: 2, latency: vec![0, 1], running: 1, ..MetricsDelta::default() };
        for count in [0, 1, 3] {
            let confirmed = vec![Confirmation {
                instance: InstanceId(u64::MAX),
                id: EffectId(3),
                outcomes: outcomes.clone(),
            }];
            let known = (count > 0).then_some(Known { state: AgentState::Draining, version: 7 });
            let sent = Delivery { known, confirmed, events: events(count) };
            let received = Delivery::decode(&sent.encode()).unwrap();
            assert_eq!(received.known, sent.known);
            assert_eq!(received.confirmed, sent.confirmed);
            assert_eq!(received.events, sent.events);

            let publish =
                [count, 0, 1].map(|count| Publication { id: EffectId(count), events: events(count) });
            let sent = Reply {
                instance: InstanceId(0),
                is_busy: count == 1,
                publish: publish.into(),
                is_deleted: count == 3,
                entry: (count == 1).then(entry),
                counted: (count == 3).then(|| counted.clone()),
            };
            let received = Reply::decode(&sent.encode()).unwrap();
            assert_eq!((received.is_deleted, &received.entry), (sent.is_deleted, &sent.entry));
            assert_eq!(received.counted, sent.counted);
            assert_eq!((received.instance, received.is_busy), (sent.instance, sent.is_busy));
            let parts = |reply: &Reply| {
                let parts = reply.publish.iter().map(|own| (own.id, own.events.clone()));
                parts.collect::<Vec<_>>()
            };
            assert_eq!(parts(&received), parts(&sent));
        }
        assert_eq!(decode_outcomes(&encode_outcomes(&outcomes)), Ok(outcomes));
        for (counted, events) in [(Some(counted), events(2)), (None, events(1)), (None, events(0))] {
            let body = encode_publish(counted.clone(), &events);
            assert_eq!(decode_publish(&body), Ok((counted, events)));
        }
    }

    #[test]
    fn filters_survive_the_way_to_the_relay() {
        let mut filter = Filter { kinds: Some([7, 1].into()), limit: Some(3), ..Filter::default() };
        filter.normalise();
        assert_eq!(decode_filter(&encode_filter(&filter)), Ok(filter));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for body in [&b""[..], b"{}", b"[1]\n", b"\xff", b"{\"confirmed\":[]}\n{\"id\":1}\n"] {
            assert!(Delivery::decode(body).is_err(), "{body:?}");
            assert!(Reply::decode(body).is_err(), "{body:?}");
        }
        assert!(Reply::decode(br#"{"instance":"xyz","is_busy":false,"publish":[]}"#).is_err());
        assert!(decode_filter(b"").is_err());
        assert!(decode_outcomes(b"[\"maybe\"]").is_err());
    }
}
