//! A naive reference implementation of the store: another parser, loops over a list, and the rules of the NIPs implemented a
//! second time.
//!
//! Events are strings and numbers from `serde_json`, filters are NIP-01 JSON. It is slow, and uses nothing of [`crate::store`].

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::types::Filter;

/// The outcome of an event, according to the oracle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OracleOutcome {
    /// Stored under this sequence number.
    Stored(u64),
    /// Already stored.
    Duplicate,
    /// Refused, with the reason as one word.
    Refused(&'static str),
}

/// The oracle's answer to a REQ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OracleAnswer {
    /// Sequence numbers of the events, in order.
    pub seqs: Vec<u64>,
    /// Whether a match was not sent.
    pub more: bool,
    /// Whether some filter has `limit: 0`.
    pub has_limit_zero: bool,
    /// Whether some filter could match withheld events, as far as the filter alone shows.
    pub may_be_incomplete: bool,
    /// Whether the filters have only ids, and all of these that are stored are withheld.
    pub withheld: bool,
}

/// The oracle's answer to a COUNT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OracleCount {
    /// Events.
    pub count: u64,
    /// As in [`OracleAnswer::may_be_incomplete`].
    pub may_be_incomplete: bool,
    /// As in [`OracleAnswer::withheld`].
    pub withheld: bool,
}

/// The viewer of the oracle's answers: events of guarded kinds are visible to their authors and to the keys in their `p` tags.
#[derive(Clone, Copy, Debug)]
pub struct OracleViewer<'a> {
    /// Guarded kinds.
    pub guarded: &'a [u64],
    /// The authenticated keys.
    pub keys: &'a [String],
}

impl OracleViewer<'_> {
    /// A viewer that sees everything.
    pub const EVERYONE: OracleViewer<'static> = OracleViewer { guarded: &[], keys: &[] };

    fn sees(&self, event: &Known) -> bool {
        let is_party = |key: &String| event.pubkey == *key || event.values("p").any(|value| value == key);
        !self.guarded.contains(&event.kind) || self.keys.iter().any(is_party)
    }

    /// Whether `filter`, NIP-01 JSON, can match withheld events.
    pub fn may_be_incomplete(&self, filter: &Value) -> bool {
        let fields = filter.as_object().expect("a filter");
        let asks_guarded = match fields.get("kinds") {
            Some(kinds) => strings_of(kinds)
                .iter()
                .any(|kind| self.guarded.iter().any(|guarded| guarded.to_string() == *kind)),
            None => !self.guarded.is_empty(),
        };
        let names_me_alone = |field| {
            fields.get(field).is_some_and(|list| strings_of(list).iter().all(|key| self.keys.contains(key)))
        };
        asks_guarded && !never_matches(fields) && !names_me_alone("authors") && !names_me_alone("#p")
    }
}

/// The members of a list as text.
fn strings_of(list: &Value) -> Vec<String> {
    let list = list.as_array().expect("a list");
    list.iter().map(|member| member.as_str().map_or_else(|| member.to_string(), str::to_owned)).collect()
}

/// The stored events, and tombstones.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    events: Vec<Known>,
    last: u64,
    /// (event id, who deleted it)
    deleted_ids: Vec<(String, String)>,
    /// (address, until)
    deleted_addresses: Vec<(String, u64)>,
    /// (key, until)
    vanished: Vec<(String, u64)>,
}

#[derive(Clone, Debug)]
struct Known {
    seq: u64,
    id: String,
    pubkey: String,
    created_at: u64,
    kind: u64,
    tags: Vec<Vec<String>>,
    json: String,
}

impl Known {
    fn read(json: &[u8]) -> Known {
        let json = String::from_utf8(json.to_vec()).expect("events are UTF-8");
        let value: Value = serde_json::from_str(&json).expect("events are JSON");
        let text = |field: &str| value[field].as_str().expect("a string").to_owned();
        let tags = value["tags"].as_array().expect("tags are a list");
        Known {
            seq: 0,
            id: text("id"),
            pubkey: text("pubkey"),
            created_at: value["created_at"].as_u64().expect("a second"),
            kind: value["kind"].as_u64().expect("a kind"),
            tags: tags.iter().map(strings).collect(),
            json,
        }
    }

    fn values<'k>(&'k self, name: &'k str) -> impl Iterator<Item = &'k str> {
        self.tags.iter().filter(move |tag| tag.len() > 1 && tag[0] == name).map(|tag| tag[1].as_str())
    }

    fn replaceable(&self) -> bool {
        matches!(self.kind, 0 | 3 | 10000..20000)
    }

    fn addressable(&self) -> bool {
        (30000..40000).contains(&self.kind)
    }

    fn address(&self) -> Option<String> {
        if self.replaceable() {
            Some(format!("{}:{}:", self.kind, self.pubkey))
        } else if self.addressable() {
            let d = self.values("d").next().unwrap_or("");
            Some(format!("{}:{}:{}", self.kind, self.pubkey, d))
        } else {
            None
        }
    }

    fn expired(&self, now: u64) -> bool {
        match self.values("expiration").next() {
            Some(at) if at.chars().all(|c| c.is_ascii_digit()) => {
                at.parse::<u64>().is_ok_and(|at| at != u64::MAX && at <= now)
            }
            _ => false,
        }
    }

    /// Whether it is a deletion request or a request to vanish: those stay stored when they have expired, but are not served.
    fn asks_removal(&self) -> bool {
        self.kind == 5 || self.kind == 62
    }

    /// Its author, and the recipients of a gift wrap.
    fn owners(&self) -> Vec<String> {
        let mut owners = vec![self.pubkey.clone()];
        if self.kind == 1059 {
            owners.extend(self.values("p").map(str::to_owned));
        }
        owners
    }

    fn matches(&self, filter: &Asked) -> bool {
        filter.iter().all(|(field, wanted)| match (field.as_str(), wanted) {
            ("ids", Wanted::Texts(ids)) => ids.contains(&self.id),
            ("authors", Wanted::Texts(authors)) => authors.contains(&self.pubkey),
            ("kinds", Wanted::Numbers(kinds)) => kinds.contains(&self.kind),
            ("since", Wanted::Number(since)) => self.created_at >= *since,
            ("until", Wanted::Number(until)) => self.created_at <= *until,
            ("limit", _) => true,
            // The implicit empty `d` of the event's address.
            ("#d", Wanted::Texts(values))
                if values.iter().any(String::is_empty)
                    && self.address() == Some(format!("{}:{}:", self.kind, self.pubkey)) =>
            {
                true
            }
            (tag, Wanted::Texts(values)) => {
                self.values(&tag[1..]).any(|tag_value| values.iter().any(|value| value == tag_value))
            }
            (field, wanted) => panic!("{field} is {wanted:?}"),
        })
    }
}

/// A parsed filter.
type Asked = Vec<(String, Wanted)>;

#[derive(Debug)]
enum Wanted {
    Number(u64),
    Numbers(Vec<u64>),
    Texts(Vec<String>),
}

fn asked(filter: &Value) -> Asked {
    let fields = filter.as_object().expect("a filter");
    fields
        .iter()
        .map(|(field, value)| {
            let wanted = match value {
                Value::Array(list) if field == "kinds" => {
                    Wanted::Numbers(list.iter().map(|kind| kind.as_u64().expect("a kind")).collect())
                }
                Value::Array(_) => Wanted::Texts(strings(value)),
                number => Wanted::Number(number.as_u64().expect("a number")),
            };
            (field.clone(), wanted)
        })
        .collect()
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().expect("a list");
    list.iter().map(|text| text.as_str().expect("a string").to_owned()).collect()
}

impl Oracle {
    /// Stores an event; if `vanish`, it is a request to vanish that applies to this relay.
    pub fn put(&mut self, now: u64, json: &[u8], vanish: bool) -> OracleOutcome {
        let mut event = Known::read(json);
        if event.expired(now) && !event.asks_removal() {
            return OracleOutcome::Refused("expired");
        }
        if (20000..30000).contains(&event.kind) {
            return OracleOutcome::Refused("ephemeral");
        }
        if self.events.iter().any(|other| other.id == event.id) {
            if vanish {
                self.vanish(&event);
            }
            return OracleOutcome::Duplicate;
        }
        let owners = event.owners();
        if self.vanished.iter().any(|(key, until)| owners.contains(key) && *until >= event.created_at) {
            return OracleOutcome::Refused("vanished");
        }
        let named = self.deleted_ids.iter().any(|(id, by)| *id == event.id && owners.contains(by));
        let address = event.address();
        let deleted = self
            .deleted_addresses
            .iter()
            .any(|(deleted, until)| Some(deleted) == address.as_ref() && *until >= event.created_at);
        if deleted || (named && event.kind != 5 && event.kind != 62) {
            return OracleOutcome::Refused("deleted");
        }
        if address.is_some() {
            let rival = |other: &&Known| other.address() == address && !other.expired(now);
            let better = |other: &Known| {
                other.created_at > event.created_at
                    || (other.created_at == event.created_at && other.id < event.id)
            };
            if self.events.iter().filter(rival).any(better) {
                return OracleOutcome::Refused("superseded");
            }
            self.events.retain(|other| other.address() != address);
        }
        if event.kind == 5 {
            self.delete(&event);
        }
        if vanish {
            self.vanish(&event);
        }
        self.last += 1;
        event.seq = self.last;
        self.events.push(event);
        OracleOutcome::Stored(self.last)
    }

    fn delete(&mut self, request: &Known) {
        for id in request.values("e").filter(|id| is_hex(id)) {
            let found = self.events.iter().position(|event| event.id == id);
            if let Some(index) = found {
                let event = &self.events[index];
                if event.kind == 5 || event.kind == 62 || !event.owners().contains(&request.pubkey) {
                    continue;
                }
                self.events.remove(index);
            }
            self.deleted_ids.push((id.to_owned(), request.pubkey.clone()));
        }
        for address in request.values("a") {
            let parts: Vec<&str> = address.splitn(3, ':').collect();
            let &[kind, pubkey, d] = &parts[..] else { continue };
            let Ok(number) = kind.parse::<u64>() else { continue };
            let replaceable = matches!(number, 0 | 3 | 10000..20000) && d.is_empty();
            let known = replaceable || (30000..40000).contains(&number);
            if !known || number.to_string() != kind || pubkey != request.pubkey {
                continue;
            }
            self.events.retain(|event| {
                event.address().as_deref() != Some(address) || event.created_at > request.created_at
            });
            self.deleted_addresses.push((address.to_owned(), request.created_at));
        }
    }

    fn vanish(&mut self, request: &Known) {
        let (key, until) = (&request.pubkey, request.created_at);
        if self.vanished.iter().any(|(gone, up_to)| gone == key && *up_to >= until) {
            return;
        }
        self.events.retain(|event| {
            event.id == request.id || event.created_at > until || !event.owners().contains(key)
        });
        self.vanished.push((key.clone(), until));
    }

    /// Removes events by id; returns how many there were.
    pub fn remove(&mut self, ids: &[String]) -> usize {
        let before = self.events.len();
        self.events.retain(|event| !ids.contains(&event.id));
        before - self.events.len()
    }

    /// Removes expired events; returns how many there were.
    pub fn sweep(&mut self, now: u64) -> usize {
        let before = self.events.len();
        self.events.retain(|event| !event.expired(now) || event.asks_removal());
        before - self.events.len()
    }

    /// Sequence numbers and JSON of all stored events, in commit order.
    pub fn stored(&self) -> impl Iterator<Item = (u64, &str)> {
        self.events.iter().map(|event| (event.seq, event.json.as_str()))
    }

    /// The last sequence number.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Answers a REQ of `filters`.
    pub fn query(
        &self,
        filters: &[Value],
        now: u64,
        (limit_default, limit_max): (u32, u32),
        viewer: &OracleViewer<'_>,
    ) -> OracleAnswer {
        let (mut served, unseen): (Vec<&Known>, Vec<&Known>) =
            self.events.iter().filter(|event| !event.expired(now)).partition(|event| viewer.sees(event));
        served.sort_by(|a, b| b.created_at.cmp(&a.created_at).then(a.id.cmp(&b.id)));
        let (mut sent, mut wanted, mut has_limit_zero) = (BTreeSet::new(), BTreeSet::new(), false);
        let (mut may_be_incomplete, mut matches_unseen) = (false, false);
        for text in filters {
            let wanted_limit = text.get("limit").map(|limit| limit.as_u64().expect("limit"));
            let limit = wanted_limit.unwrap_or(limit_default.into()).min(limit_max.into()) as usize;
            if limit == 0 {
                has_limit_zero |= !never_matches(text.as_object().expect("a filter"));
                continue;
            }
            let filter = asked(text);
            let matching: Vec<&Known> =
                served.iter().filter(|event| event.matches(&filter)).copied().collect();
            matches_unseen |= unseen.iter().any(|event| event.matches(&filter));
            may_be_incomplete |=
                viewer.may_be_incomplete(text) && ids_of(text).is_none_or(|ids| ids.len() != matching.len());
            let mut end = limit.min(matching.len());
            let relay_cuts = wanted_limit.is_none_or(|wanted| wanted > limit_max.into());
            while relay_cuts
                && end >= limit
                && end < matching.len()
                && end < limit + limit_max as usize
                && matching[end].created_at == matching[limit - 1].created_at
            {
                end += 1;
            }
            sent.extend(matching[..end].iter().map(|event| event.seq));
            wanted.extend(matching.iter().map(|event| event.seq));
        }
        OracleAnswer {
            seqs: served.iter().map(|event| event.seq).filter(|seq| sent.contains(seq)).collect(),
            more: wanted.iter().any(|seq| !sent.contains(seq)),
            has_limit_zero,
            may_be_incomplete,
            withheld: matches_unseen && sent.is_empty() && filters.iter().all(|text| ids_of(text).is_some()),
        }
    }

    /// Answers a COUNT of `filters`.
    pub fn count(&self, filters: &[Value], now: u64, viewer: &OracleViewer<'_>) -> OracleCount {
        let count = self.matching(filters, now, 0, viewer).len();
        let all = self.matching(filters, now, 0, &OracleViewer::EVERYONE).len();
        let ids: Option<Vec<BTreeSet<String>>> = filters.iter().map(ids_of).collect();
        let ids: Option<BTreeSet<String>> = ids.map(|lists| lists.into_iter().flatten().collect());
        let lacks_none = ids.as_ref().is_some_and(|ids| ids.len() == count);
        OracleCount {
            count: count as u64,
            may_be_incomplete: !lacks_none && filters.iter().any(|filter| viewer.may_be_incomplete(filter)),
            withheld: ids.is_some() && count == 0 && all > 0,
        }
    }

    /// Sequence numbers after `after` of the events that match any filter, in commit order.
    pub fn matching(&self, filters: &[Value], now: u64, after: u64, viewer: &OracleViewer<'_>) -> Vec<u64> {
        let filters: Vec<Asked> = filters.iter().map(asked).collect();
        let matches = |event: &&Known| filters.iter().any(|filter| event.matches(filter));
        self.events
            .iter()
            .filter(|event| event.seq > after && !event.expired(now) && viewer.sees(event))
            .filter(matches)
            .map(|event| event.seq)
            .collect()
    }
}

fn never_matches(filter: &Map<String, Value>) -> bool {
    let second = |field: &str| filter.get(field).and_then(Value::as_u64);
    filter.values().any(|value| value.as_array().is_some_and(Vec::is_empty))
        || second("since").unwrap_or(0) > second("until").unwrap_or(u64::MAX)
}

fn ids_of(filter: &Value) -> Option<BTreeSet<String>> {
    Some(strings_of(filter.get("ids")?).into_iter().collect())
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

/// A filter as NIP-01 JSON.
pub fn filter_json(filter: &Filter) -> Value {
    let mut fields = Map::new();
    let mut add = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    let texts = |list: Vec<String>| Value::from(list);
    if let Some(ids) = &filter.ids {
        add("ids", texts(ids.iter().map(ToString::to_string).collect()));
    }
    if let Some(authors) = &filter.authors {
        add("authors", texts(authors.iter().map(ToString::to_string).collect()));
    }
    if let Some(kinds) = &filter.kinds {
        add("kinds", Value::from(kinds.to_vec()));
    }
    for tag in &filter.tags {
        let values = tag.values.iter().map(|value| String::from_utf8_lossy(value).into_owned());
        add(&format!("#{}", tag.letter as char), texts(values.collect()));
    }
    for (name, number) in
        [("since", filter.since), ("until", filter.until), ("limit", filter.limit.map(u64::from))]
    {
        if let Some(number) = number {
            add(name, Value::from(number));
        }
    }
    Value::Object(fields)
}
