//! How far the relay's events have been dealt with, and which agents were given the latest requests.
//!
//! Both are in one row, so that a batch writes one row. Rows form a ring; each holds the requests of several batches.

use std::collections::{BTreeMap, VecDeque};

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::{EventId, PubKey, Seq};

use super::columns;
use super::rules::NAMED_AGENTS_MAX;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS agent_router_batch (slot INTEGER PRIMARY KEY, \
                      number INTEGER NOT NULL, position INTEGER NOT NULL, requests BLOB NOT NULL)";
const LAST: &str = "SELECT slot, number, position FROM agent_router_batch ORDER BY number DESC LIMIT 1";
const REQUESTS_OF: &str = "SELECT requests FROM agent_router_batch WHERE slot = ?";
const ALL_REQUESTS: &str = "SELECT requests FROM agent_router_batch ORDER BY number";
const PUT: &str = "INSERT INTO agent_router_batch (slot, number, position, requests) VALUES (?, ?, ?, ?) \
                   ON CONFLICT (slot) DO UPDATE SET number = excluded.number, position = excluded.position, \
                   requests = excluded.requests";

/// Rows of the ring.
const SLOTS: u64 = 64;
/// Bytes of requests after which the next row is begun; some 250 requests.
const SLOT_BYTES: usize = 6 << 10;
/// Sequence numbers that a position may be ahead of the stored one while no agent is concerned.
const UNWRITTEN_MAX: u64 = 1_000;
/// Requests that are remembered in memory.
const KNOWN_MAX: usize = 16_384;

/// The first bytes of an id or a key. A collision does no harm: the prefixes of the authors must match too, and the agent compares
/// whole ids and authors.
type Prefix = [u8; 8];

fn prefix(bytes: &[u8; 32]) -> Prefix {
    bytes[..8].try_into().expect("eight bytes")
}

/// A request and who was given it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    id: Prefix,
    author: Prefix,
    agents: Vec<Prefix>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Progress {
    position: Option<Seq>,
    /// The position in the database.
    written: Option<Seq>,
    slot: u64,
    number: u64,
    /// The requests in the current row.
    row: Vec<u8>,
    /// Those of the batch under way.
    pending: Vec<Request>,
    /// Read when a cancellation comes first.
    known: Option<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_id: BTreeMap<Prefix, Request>,
    oldest_first: VecDeque<Prefix>,
}

impl Progress {
    pub(super) fn open(conn: &impl SqlConn) -> Result<Self, StoreError> {
        conn.exec(CREATE, &[])?;
        let mut progress = Progress {
            position: None,
            written: None,
            slot: 0,
            number: 0,
            row: Vec::new(),
            pending: Vec::new(),
            known: None,
        };
        conn.query(LAST, &[], &mut |row| {
            progress.slot = columns::int(row, 0)?;
            progress.number = columns::int(row, 1)?;
            progress.written = Some(Seq(columns::int(row, 2)?));
            Ok(())
        })?;
        progress.position = progress.written;
        conn.query(REQUESTS_OF, &[SqlValue::Int(progress.slot as i64)], &mut |row| {
            progress.row = columns::blob(row, 0)?.to_vec();
            Ok(())
        })?;
        Ok(progress)
    }

    pub(super) fn position(&self) -> Option<Seq> {
        self.position
    }

    /// These agents are given a request.
    pub(super) fn note(&mut self, id: &EventId, author: &PubKey, agents: &[PubKey]) {
        let agents = agents.iter().take(NAMED_AGENTS_MAX).map(|agent| prefix(&agent.0)).collect();
        let request = Request { id: prefix(&id.0), author: prefix(&author.0), agents };
        if let Some(known) = &mut self.known {
            known.add(request.clone());
        }
        self.pending.push(request);
    }

    /// The batch under way is routed once more from its beginning.
    pub(super) fn forget_pending(&mut self) {
        self.pending.clear();
    }

    /// Prefixes of the keys of the agents that were given one of these requests of `author`.
    pub(super) fn assigned_agents(
        &mut self,
        conn: &impl SqlConn,
        author: &PubKey,
        ids: impl Iterator<Item = EventId>,
    ) -> Result<Vec<Prefix>, StoreError> {
        let author = prefix(&author.0);
        let known = self.known(conn)?;
        let found = ids.filter_map(|id| known.by_id.get(&prefix(&id.0)));
        Ok(agents_of(found.filter(|request| request.author == author)))
    }

    /// Prefixes of the keys of the agents that were given a request of `author`.
    pub(super) fn assigned_agents_of(
        &mut self,
        conn: &impl SqlConn,
        author: &PubKey,
    ) -> Result<Vec<Prefix>, StoreError> {
        let author = prefix(&author.0);
        Ok(agents_of(self.known(conn)?.by_id.values().filter(|request| request.author == author)))
    }

    fn known(&mut self, conn: &impl SqlConn) -> Result<&Known, StoreError> {
        if self.known.is_none() {
            let mut known = Known::default();
            conn.query(ALL_REQUESTS, &[], &mut |row| {
                read(columns::blob(row, 0)?)?.into_iter().for_each(|request| known.add(request));
                Ok(())
            })?;
            self.pending.iter().for_each(|request| known.add(request.clone()));
            self.known = Some(known);
        }
        Ok(self.known.get_or_insert_default())
    }

    /// Whether confirming this position must write a row.
    pub(super) fn must_write(&self, position: Seq) -> bool {
        !self.pending.is_empty()
            || self.written.is_none_or(|written| position.0.abs_diff(written.0) >= UNWRITTEN_MAX)
    }

    /// Everything up to `position` is dealt with, and that need not be stored yet.
    pub(super) fn advance(&mut self, position: Seq) {
        self.position = Some(position);
    }

    /// Writes the position and the requests of the batch under way. Memory is unchanged until [`Progress::written`].
    pub(super) fn write(&self, conn: &impl SqlConn, position: Seq) -> Result<(), StoreError> {
        let (slot, row) = self.next_row();
        let params = [
            SqlValue::Int(slot as i64),
            SqlValue::Int(self.number as i64 + 1),
            SqlValue::Int(position.0 as i64),
            SqlValue::Blob(&row),
        ];
        conn.exec(PUT, &params)
    }

    /// What [`Progress::write`] wrote is durable.
    pub(super) fn written(&mut self, position: Seq) {
        (self.slot, self.row) = self.next_row();
        self.number += 1;
        self.pending.clear();
        self.written = Some(position);
        self.position = Some(position);
    }

    fn next_row(&self) -> (u64, Vec<u8>) {
        let (slot, mut row) = match self.row.len() < SLOT_BYTES {
            true => (self.slot, self.row.clone()),
            false => ((self.slot + 1) % SLOTS, Vec::new()),
        };
        self.pending.iter().for_each(|request| request.put(&mut row));
        (slot, row)
    }
}

fn agents_of<'a>(requests: impl Iterator<Item = &'a Request>) -> Vec<Prefix> {
    let mut agents: Vec<Prefix> = requests.flat_map(|request| request.agents.iter().copied()).collect();
    agents.sort_unstable();
    agents.dedup();
    agents
}

impl Known {
    fn add(&mut self, request: Request) {
        let id = request.id;
        if self.by_id.insert(id, request).is_none() {
            self.oldest_first.push_back(id);
        }
        if self.oldest_first.len() > KNOWN_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }
}

impl Request {
    /// The id, the author, how many agents, and these.
    fn put(&self, row: &mut Vec<u8>) {
        let agents = &self.agents[..self.agents.len().min(u8::MAX.into())];
        row.extend_from_slice(&self.id);
        row.extend_from_slice(&self.author);
        row.push(agents.len() as u8);
        agents.iter().for_each(|agent| row.extend_from_slice(agent));
    }
}

fn read(mut row: &[u8]) -> Result<Vec<Request>, StoreError> {
    let mut requests = Vec::new();
    while !row.is_empty() {
        let (request, rest) =
            read_one(row).ok_or_else(|| StoreError::Corrupt("requests of the agent router".to_owned()))?;
        requests.push(request);
        row = rest;
    }
    Ok(requests)
}

fn read_one(row: &[u8]) -> Option<(Request, &[u8])> {
    let (id, row) = row.split_first_chunk()?;
    let (author, row) = row.split_first_chunk()?;
    let (count, row) = row.split_first()?;
    let (agents, row) = row.split_at_checked(usize::from(*count) * size_of::<Prefix>())?;
    let (agents, _) = agents.as_chunks();
    Some((Request { id: *id, author: *author, agents: agents.to_vec() }, row))
}
