//! What the index holds in memory: uploads with their parts, removals that were taken, totals. All of it but joins and ends of pages is in
//! the tables too, and read again after a command has failed.

use std::collections::{BTreeMap, HashMap};

use relay_engine::sql::column::{bytes, int, key, text};
use relay_engine::sql::{SqlConn, StoreError, has_row, query_all, query_one};
use relay_engine::types::PubKey;
use serde::{Deserialize, Serialize};

use super::blobs::Retention;
use super::command::Key;
use super::list::PageEnds;
use super::pulls::Misses;
use super::removals::TAKEN_SECONDS;
use super::schema::{get_meta, put_meta};
use super::sql::{nonzero_int, sha256};
use super::sweep::{NEXT_END, abandoned_at};
use crate::blob::Sha256;

/// Numbers of uploads and parts that one row reserves. None is given twice, so what comes late for one that has ended meets
/// no other.
const IDS: u64 = 1_024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) uploads: BTreeMap<u64, Upload>,
    pub(super) taken: BTreeMap<Key, Taken>,
    pub(super) totals: Sums,
    /// Whether this command has still to write the totals.
    pub(super) totals_changed: bool,
    /// Bytes of blobs of owners, as far as they have been asked for.
    pub(super) owned: HashMap<PubKey, u64>,
    /// Whether removals may wait that nobody has taken.
    pub(super) has_pending_removals: bool,
    /// No blob ends before.
    pub(super) next_end: Option<u64>,
    /// Reports that may come before all are counted.
    pub(super) reports_room: u64,
    /// Authors of requests to vanish whose blobs are being removed, and the time of the request.
    pub(super) vanishing: BTreeMap<PubKey, u64>,
    /// Not in the tables: a cursor that was deleted before a restart is unknown.
    pub(super) page_ends: PageEnds,
    /// Not in the tables either.
    pub(super) misses: Misses,
    ids_next: u64,
    ids_end: u64,
}

/// Live blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sums {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
}

/// An upload under way.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    pub(super) owner: PubKey,
    pub(super) sha256: Option<Sha256>,
    /// Bytes, as far as they are known.
    pub(super) size: u64,
    pub(super) key_max: Option<u64>,
    pub(super) total_max: Option<u64>,
    pub(super) abandoned_at: u64,
    /// When it began.
    pub(super) began_at: u64,
    /// `abandoned_at` as it is in the table, which lags behind while parts come.
    pub(super) abandoned_at_stored: u64,
    pub(super) keep: Retention,
    /// Its hash was not known when it began, so its bytes may be in `staged/`.
    pub(super) is_staged: bool,
    /// Its blob was banned or deleted. It is kept only because its host may still put bytes.
    pub(super) is_given_up: bool,
    /// Its blob was live when it began: its bytes are only hashed, not stored, and count for the owner's quota only.
    pub(super) is_hash_only: bool,
    /// Of one in parts: it is paid with this proof, and with it no other. In a table of its own.
    pub(super) payment: Option<String>,
    pub(super) parts: Option<Parts>,
}

/// Parts of an upload.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    pub(super) rows: BTreeMap<u64, PartRow>,
    /// Since when somebody joins them. Not in the table.
    pub(super) joining: Option<u64>,
    /// Joins that have failed. Not in the table.
    pub(super) failed: u32,
}

/// A part.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartRow {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) is_stored: bool,
}

/// A removal that a host carries out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) at: u64,
    /// The bytes may have been stored again meanwhile, so they are removed once more.
    pub(super) remove_again: bool,
}

const FLAG_STAGED: u64 = 1;
const FLAG_PARTS: u64 = 2;
pub(super) const FLAG_GIVEN_UP: u64 = 4;
const FLAG_HASH_ONLY: u64 = 8;
const FLAG_PAID: u64 = 16;

impl Upload {
    /// As it is in the table.
    pub(super) fn flags(&self) -> u64 {
        [
            (self.is_staged, FLAG_STAGED),
            (self.parts.is_some(), FLAG_PARTS),
            (self.is_given_up, FLAG_GIVEN_UP),
            (self.is_hash_only, FLAG_HASH_ONLY),
            (self.payment.is_some(), FLAG_PAID),
        ]
        .into_iter()
        .filter_map(|(is_set, flag)| is_set.then_some(flag))
        .sum()
    }

    /// Bytes that count for quotas: of an upload in parts those of its parts, at most the whole.
    pub(super) fn reserved(&self) -> u64 {
        self.parts.as_ref().map_or(self.size, |parts| parts.bytes().min(self.size))
    }
}

impl State {
    /// Reads the tables: as many rows as uploads, parts and removals that wait.
    pub(super) fn load(conn: &impl SqlConn) -> Result<Self, StoreError> {
        let ids = get_meta(conn, "ids")?.unwrap_or(1);
        let mut state = State { ids_next: ids, ids_end: ids, ..State::default() };
        state.totals = get_meta(conn, "totals")?.unwrap_or_default();
        let uploads = "SELECT id, owner, sha256, size, key_max, total_max, abandoned_at, flags, \
                       expires_at, unused, began_at FROM blossom_uploads";
        state.uploads = query_all(conn, uploads, &[], |row| {
            let flags = int(row, 7)?;
            let upload = Upload {
                owner: key(row, 1)?,
                sha256: if bytes(row, 2)?.is_empty() { None } else { Some(sha256(row, 2)?) },
                size: int(row, 3)?,
                key_max: nonzero_int(row, 4)?.map(|max| max - 1),
                total_max: nonzero_int(row, 5)?.map(|max| max - 1),
                abandoned_at: int(row, 6)?,
                abandoned_at_stored: int(row, 6)?,
                keep: Retention { expires_at: nonzero_int(row, 8)?, unused: nonzero_int(row, 9)? },
                began_at: int(row, 10)?,
                is_staged: flags & FLAG_STAGED != 0,
                is_given_up: flags & FLAG_GIVEN_UP != 0,
                is_hash_only: flags & FLAG_HASH_ONLY != 0,
                payment: None,
                parts: (flags & FLAG_PARTS != 0 && flags & FLAG_GIVEN_UP == 0).then(Parts::default),
            };
            Ok((int(row, 0)?, upload))
        })?
        .into_iter()
        .collect();
        let payments = "SELECT upload, proof FROM blossom_payments";
        for (id, proof) in query_all(conn, payments, &[], |row| Ok((int(row, 0)?, text(row, 1)?)))? {
            if let Some(upload) = state.uploads.get_mut(&id) {
                upload.payment = Some(proof);
            }
        }
        let parts = "SELECT id, upload, start, length, stored FROM blossom_parts";
        let parts = query_all(conn, parts, &[], |row| {
            let part = PartRow { start: int(row, 2)?, length: int(row, 3)?, is_stored: int(row, 4)? > 0 };
            Ok((int(row, 0)?, int(row, 1)?, part))
        })?;
        for (id, upload, part) in parts {
            if let Some(parts) = state.uploads.get_mut(&upload).and_then(|upload| upload.parts.as_mut()) {
                parts.rows.insert(id, part);
            }
        }
        let taken = "SELECT key, taken_at, again FROM blossom_removals WHERE taken_at > 0";
        state.taken = query_all(conn, taken, &[], |row| {
            Ok((text(row, 0)?, Taken { at: int(row, 1)?, remove_again: int(row, 2)? > 0 }))
        })?
        .into_iter()
        .collect();
        state.has_pending_removals =
            has_row(conn, "SELECT 1 FROM blossom_removals WHERE taken_at = 0 LIMIT 1", &[])?;
        state.next_end = query_one(conn, NEXT_END, &[], |row| int(row, 0))?;
        let vanishing = "SELECT owner, until FROM blossom_leaving";
        state.vanishing =
            query_all(conn, vanishing, &[], |row| Ok((key(row, 0)?, int(row, 1)?)))?.into_iter().collect();
        Ok(state)
    }

    /// A number that no upload and no part has had. One row in a thousand.
    pub(super) fn next_id(&mut self, conn: &impl SqlConn) -> Result<u64, StoreError> {
        if self.ids_next == self.ids_end {
            put_meta(conn, "ids", &(self.ids_end + IDS))?;
            self.ids_end += IDS;
        }
        self.ids_next += 1;
        Ok(self.ids_next - 1)
    }

    /// Whether an upload of these bytes is under way, and may have stored them. Not one that is given up.
    pub(super) fn is_pending(&self, sha256: &Sha256) -> bool {
        self.uploads.values().any(|upload| !upload.is_given_up && upload.sha256.as_ref() == Some(sha256))
    }

    /// See [`super::Index::next_due`].
    pub(super) fn next_due(&self) -> Option<u64> {
        if self.has_pending_removals || !self.vanishing.is_empty() {
            return Some(0);
        }
        let uploads = self.uploads.values().map(abandoned_at);
        let taken = self.taken.values().map(|taken| taken.at + TAKEN_SECONDS);
        uploads.chain(taken).chain(self.next_end).min()
    }
}
