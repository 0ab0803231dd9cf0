//! Events of the relay: descriptions of blobs (kind 1063, NIP-94), deletions (5) and requests to vanish (62), and the position
//! in its stream.
//!
//! A description is remembered while its author owns the blob, and only if they own it when it comes: clients publish it after
//! the upload. When the author deletes the last one of a blob, they are removed as its owner.

use relay_engine::sql::column::int;
use relay_engine::sql::{Param, SqlConn, StoreError, exec, query_all, query_one};
use relay_engine::types::{Event, EventId, PubKey};

use super::Run;
use super::command::{Outcome, RelayEvent};
use super::schema::{get_meta, put_meta};
use super::sql::{parse_key, sha256};
use crate::blob::Sha256;

const LINK: &str = "INSERT OR IGNORE INTO blossom_events (event, sha256, author) VALUES (?, ?, ?)";
const LINKS: &str =
    "SELECT count(*) FROM (SELECT 1 FROM blossom_events WHERE sha256 = ? AND author = ? LIMIT ?)";
const UNLINK: &str = "DELETE FROM blossom_events WHERE event = ? AND sha256 = ?";
const LINKED: &str = "SELECT sha256 FROM blossom_events WHERE event = ? AND author = ?";
const OWNED: &str =
    "SELECT sha256 FROM blossom_blobs WHERE owner = ? AND uploaded <= ? AND since <= ? LIMIT ?";
const OWNED_FURTHER: &str =
    "SELECT sha256 FROM blossom_owners WHERE owner = ? AND uploaded <= ? AND since <= ? LIMIT ?";
const INSERT_VANISHING: &str = "INSERT INTO blossom_leaving (owner, until) VALUES (?, ?) \
                     ON CONFLICT (owner) DO UPDATE SET until = excluded.until";
const DELETE_VANISHING: &str = "DELETE FROM blossom_leaving WHERE owner = ?";
const FORGET_REPORTS: &str = "DELETE FROM blossom_reports WHERE reporter = ? AND at <= ?";

/// Blobs that one event describes. It is one (NIP-94); some clients add the original's hash.
const DESCRIBED_MAX: usize = 16;
/// Descriptions of a blob by one author that are remembered, the first ones.
const DESCRIPTIONS_MAX: u64 = 100;
/// Blobs that a command removes an owner of; [`super::Command::Sweep`] goes on.
pub(super) const VANISHED_BLOBS_MAX: u64 = 200;

/// Kinds of the relay's events that the index acts on: deletion, request to vanish, file metadata. A host sends it those
/// ([`RelayEvent::of_relay`]).
pub const EVENT_KINDS: [u16; 3] = [5, 62, 1063];

impl RelayEvent {
    /// An event of the relay as [`super::Command::Apply`] takes it; `None` if it means nothing to the index. Of requests to vanish
    /// only those count that name this relay, which `names_relay` tells (`relay_engine::policy::names_relay`): an import stores
    /// others, too.
    pub fn of_relay(event: &Event, names_relay: impl FnOnce(&Event) -> bool) -> Option<RelayEvent> {
        match event.kind {
            1063 | 5 => {}
            _ if names_relay(event) => {}
            _ => return None,
        }
        serde_json::from_slice(event.json()).ok()
    }

    /// Values of the tags of this name, with what follows them.
    pub(super) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [String]> {
        let tags = self.tags.iter().filter(move |tag| tag.len() > 1 && tag[0] == name);
        tags.map(|tag| &tag[1..])
    }
}

fn event_id(text: &str) -> Result<EventId, StoreError> {
    EventId::from_hex(text.as_bytes()).map_err(|_| StoreError::Failed("not an event id".to_owned()))
}

impl<C: SqlConn> Run<'_, C> {
    /// An event of the relay. One row for the position. A description writes two for each blob; a deletion or a request to
    /// vanish what [`Run::remove_owner`] does, for at most [`VANISHED_BLOBS_MAX`] blobs of a request to vanish;
    /// [`super::Command::Sweep`] does the rest.
    pub(super) fn apply(&mut self, event: &RelayEvent, seq: u64) -> Result<Outcome, StoreError> {
        let author = parse_key(&event.pubkey)?;
        match event.kind {
            1063 => self.describe(event, author)?,
            5 => self.delete_descriptions(event, author)?,
            62 => self.vanish(event, author)?,
            _ => {}
        }
        self.set_position(seq)
    }

    fn describe(&mut self, event: &RelayEvent, author: PubKey) -> Result<(), StoreError> {
        let id = event_id(&event.id)?;
        let hashes = event.named("x").filter_map(|tag| tag[0].parse::<Sha256>().ok());
        for hash in hashes.take(DESCRIBED_MAX) {
            if let Some(row) = self.blob(&hash)?
                && self.is_owner(&row, &author)?
                && self.descriptions(&hash, &author)? < DESCRIPTIONS_MAX
            {
                exec(self.conn, LINK, &[id.0[..].into(), hash.into(), author.into()])?;
            }
        }
        Ok(())
    }

    fn delete_descriptions(&mut self, event: &RelayEvent, author: PubKey) -> Result<(), StoreError> {
        for tag in event.named("e") {
            let Ok(id) = event_id(&tag[0]) else { continue };
            for hash in self.hashes(LINKED, &[id.0[..].into(), author.into()])? {
                exec(self.conn, UNLINK, &[id.0[..].into(), hash.into()])?;
                // Who edits a description publishes another one and deletes this.
                if self.descriptions(&hash, &author)? == 0 {
                    self.remove_owner_of(&hash, &author)?;
                }
            }
        }
        Ok(())
    }

    /// Descriptions of a blob by one author. Reads at most a hundred entries of an index.
    fn descriptions(&self, hash: &Sha256, author: &PubKey) -> Result<u64, StoreError> {
        let params = [(*hash).into(), (*author).into(), DESCRIPTIONS_MAX.into()];
        Ok(query_one(self.conn, LINKS, &params, |row| int(row, 0))?.unwrap_or(0))
    }

    /// Its author owns nothing any more that was theirs before. Also their reports are forgotten.
    fn vanish(&mut self, event: &RelayEvent, author: PubKey) -> Result<(), StoreError> {
        let until = event.created_at;
        exec(self.conn, FORGET_REPORTS, &[author.into(), until.into()])?;
        let until = self.state.vanishing.get(&author).map_or(until, |other| until.max(*other));
        if self.remove_vanished_blobs(author, until, VANISHED_BLOBS_MAX)? == VANISHED_BLOBS_MAX {
            exec(self.conn, INSERT_VANISHING, &[author.into(), until.into()])?;
            self.state.vanishing.insert(author, until);
        }
        Ok(())
    }

    /// Removes the owner of at most `limit` blobs; returns how many. If they are fewer, that was all.
    pub(super) fn remove_vanished_blobs(
        &mut self,
        owner: PubKey,
        until: u64,
        limit: u64,
    ) -> Result<u64, StoreError> {
        let mut count = 0;
        for sql in [OWNED, OWNED_FURTHER] {
            let params = [owner.into(), until.into(), until.into(), (limit - count).into()];
            for hash in self.hashes(sql, &params)? {
                self.remove_owner_of(&hash, &owner)?;
                count += 1;
            }
        }
        if count < limit && self.state.vanishing.remove(&owner).is_some() {
            exec(self.conn, DELETE_VANISHING, &[owner.into()])?;
        }
        Ok(count)
    }

    fn hashes(&self, sql: &str, params: &[Param]) -> Result<Vec<Sha256>, StoreError> {
        query_all(self.conn, sql, params, |row| sha256(row, 0))
    }

    fn remove_owner_of(&mut self, hash: &Sha256, owner: &PubKey) -> Result<(), StoreError> {
        match self.blob(hash)? {
            Some(row) if self.is_owner(&row, owner)? => self.remove_owner(&row, owner),
            _ => Ok(()),
        }
    }

    pub(super) fn position(&self) -> Result<Outcome, StoreError> {
        Ok(Outcome::Position(get_meta(self.conn, "position")?))
    }

    /// One row.
    pub(super) fn set_position(&mut self, seq: u64) -> Result<Outcome, StoreError> {
        put_meta(self.conn, "position", &seq)?;
        Ok(Outcome::Done)
    }
}
