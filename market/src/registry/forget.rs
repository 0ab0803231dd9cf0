//! What is removed: the oldest for their number, and what its author wants removed.

use relay_agent::nip90::{KIND_ANNOUNCEMENT, KIND_HEARTBEAT};
use relay_engine::sql::column::{self, int, key};
use relay_engine::sql::{Param, SqlConn, StoreError, exec, query_all, query_one};
use relay_engine::types::{Event, EventId, PubKey};

use super::apply::Run;
use super::{bounds, one, role_number, role_of};
use crate::evidence::Role;

/// Rows that are read at a time to be forgotten.
const FORGOTTEN_AT_ONCE: u64 = 64;

const DELETE_COPY: &str = "DELETE FROM market_copies WHERE at = ? AND id = ?";

impl<C: SqlConn> Run<'_, C> {
    /// Forgets the oldest evidence of an author and a role if there is more than they may store. Roles are apart, so that what makes a provider ask for
    /// payment pushes out none of its results.
    pub(super) fn bound_author(
        &mut self,
        role: Role,
        author: PubKey,
        changed: &mut Vec<PubKey>,
    ) -> Result<(), StoreError> {
        const COUNT: &str = "SELECT count(*) FROM market_evidence WHERE author = ? AND role = ?";
        const OLDEST: &str =
            "SELECT id, at FROM market_evidence WHERE author = ? AND role = ? ORDER BY at, id LIMIT 1";
        let params: [Param; 2] = [author.into(), role_number(role).into()];
        let count = query_one(self.conn, COUNT, &params, |row| int(row, 0))?.unwrap_or(0);
        if count <= self.bounds.author_events {
            return Ok(());
        }
        let oldest = query_one(self.conn, OLDEST, &params, |row| Ok((column::id(row, 0)?, int(row, 1)?)))?;
        let Some((oldest, at)) = oldest else { return Ok(()) };
        self.forget(&oldest, changed)?;
        bounds::forgotten_of(self.conn, &author, role, at)?;
        changed.push(author);
        Ok(())
    }

    /// Forgets the oldest evidence until the bound of all is kept.
    pub(super) fn forget_oldest(&mut self, changed: &mut Vec<PubKey>) -> Result<(), StoreError> {
        while self.state.totals.events > self.bounds.events {
            let surplus = (self.state.totals.events - self.bounds.events).min(FORGOTTEN_AT_ONCE);
            const OLDEST: &str = "SELECT id, at FROM market_evidence ORDER BY at, id LIMIT ?";
            let oldest =
                query_all(self.conn, OLDEST, &one(surplus), |row| Ok((column::id(row, 0)?, int(row, 1)?)))?;
            if oldest.is_empty() {
                return Ok(());
            }
            for (id, at) in oldest {
                self.forget(&id, changed)?;
                self.state.horizon = self.state.horizon.max(at);
            }
        }
        Ok(())
    }

    /// Forgets the oldest copies until their bound is kept. The evidence stays: it counts until it expires, as that which is too large for a copy.
    pub(super) fn forget_copies(&mut self, changed: &mut Vec<PubKey>) -> Result<(), StoreError> {
        while self.state.totals.kept_bytes > self.bounds.kept_bytes {
            const OLDEST: &str = "SELECT e.id, e.role, e.request, e.author, e.at, e.copy FROM market_copies c \
                                  CROSS JOIN market_evidence e ON e.id = c.id ORDER BY c.at, c.id LIMIT ?";
            let oldest = query_all(self.conn, OLDEST, &one(FORGOTTEN_AT_ONCE), |row| {
                let about = (role_of(int(row, 1)?), column::id(row, 2)?, key(row, 3)?);
                Ok((column::id(row, 0)?, about, int(row, 4)?, int(row, 5)?))
            })?;
            if oldest.is_empty() {
                return Ok(());
            }
            for (id, (role, request, author), at, bytes) in oldest {
                if self.state.totals.kept_bytes <= self.bounds.kept_bytes {
                    break;
                }
                exec(self.conn, DELETE_COPY, &[at.into(), id.into()])?;
                exec(self.conn, "UPDATE market_evidence SET copy = 0 WHERE id = ?", &one(id))?;
                self.state.totals.kept_bytes = self.state.totals.kept_bytes.saturating_sub(bytes);
                self.touch(role, &request, author, changed)?;
            }
        }
        Ok(())
    }

    /// Removes evidence.
    pub(super) fn forget(&mut self, id: &EventId, changed: &mut Vec<PubKey>) -> Result<(), StoreError> {
        const ABOUT: &str = "SELECT role, request, author, at, copy FROM market_evidence WHERE id = ?";
        let found = query_one(self.conn, ABOUT, &one(*id), |row| {
            let about = (role_of(int(row, 0)?), column::id(row, 1)?, key(row, 2)?);
            Ok((about, int(row, 3)?, int(row, 4)?))
        })?;
        let Some(((role, request, author), at, kept_bytes)) = found else { return Ok(()) };
        self.touch(role, &request, author, changed)?;
        self.unmatch_receipts(id, role, author)?;
        exec(self.conn, "DELETE FROM market_evidence WHERE id = ?", &one(*id))?;
        if kept_bytes > 0 {
            exec(self.conn, DELETE_COPY, &[at.into(), (*id).into()])?;
        }
        if role == Role::Request {
            exec(self.conn, "DELETE FROM market_named WHERE request = ?", &one(*id))?;
        }
        self.state.totals.subtract(kept_bytes);
        Ok(())
    }

    /// A deletion request (NIP-09) removes what is its author's.
    pub(super) fn delete(&mut self, event: &Event, changed: &mut Vec<PubKey>) -> Result<(), StoreError> {
        let author = event.pubkey;
        for value in event.tags().named(b"e").filter_map(|tag| tag.value()) {
            let Ok(named) = EventId::from_hex(&value) else { continue };
            const OWN: &str = "SELECT id FROM market_evidence WHERE id = ? AND author = ?";
            let params: [Param; 2] = [named.into(), author.into()];
            for own in query_all(self.conn, OWN, &params, |row| column::id(row, 0))? {
                self.forget(&own, changed)?;
            }
            self.delete_receipt(named, author, changed)?;
            exec(self.conn, "DELETE FROM market_offers WHERE id = ? AND provider = ?", &params)?;
            exec(self.conn, "DELETE FROM market_beats WHERE id = ? AND provider = ?", &params)?;
        }
        for value in event.tags().named(b"a").filter_map(|tag| tag.value()) {
            let Some((kind, d)) = own_address(&value, &author) else { continue };
            let until = event.created_at;
            if kind == KIND_ANNOUNCEMENT {
                const OFFER: &str = "DELETE FROM market_offers WHERE provider = ? AND d = ? AND at <= ?";
                exec(self.conn, OFFER, &[author.into(), d.into(), until.into()])?;
            } else if kind == KIND_HEARTBEAT {
                exec(
                    self.conn,
                    "DELETE FROM market_beats WHERE provider = ? AND stated <= ?",
                    &[author.into(), until.into()],
                )?;
            }
        }
        changed.push(author);
        self.remove_if_silent(&author)
    }

    /// A request to vanish (NIP-62) removes all that its author has made until then.
    pub(super) fn vanish(&mut self, event: &Event, changed: &mut Vec<PubKey>) -> Result<(), StoreError> {
        let (author, until) = (event.pubkey, event.created_at);
        const OWN: &str = "SELECT id FROM market_evidence WHERE author = ? AND at <= ?";
        let params: [Param; 2] = [author.into(), until.into()];
        for own in query_all(self.conn, OWN, &params, |row| column::id(row, 0))? {
            self.forget(&own, changed)?;
        }
        self.vanish_receipts(author, until, changed)?;
        exec(self.conn, "DELETE FROM market_offers WHERE provider = ? AND at <= ?", &params)?;
        exec(self.conn, "DELETE FROM market_beats WHERE provider = ? AND stated <= ?", &params)?;
        changed.push(author);
        self.remove_if_silent(&author)
    }
}

/// Kind and `d` of an address (`kind:pubkey:d`) of this author.
fn own_address<'a>(address: &'a [u8], author: &PubKey) -> Option<(u16, &'a [u8])> {
    let mut parts = address.splitn(3, |byte| *byte == b':');
    let kind = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    (parts.next()? == author.to_hex()).then_some((kind, parts.next().unwrap_or_default()))
}
