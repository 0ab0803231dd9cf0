//! Events of the relay.

use relay_agent::nip57::KIND_ZAP_RECEIPT;
use relay_agent::nip90::{KIND_ANNOUNCEMENT, KIND_DELETION, KIND_HEARTBEAT, KIND_VANISH};
use relay_engine::sql::column::{self, bytes, int, key};
use relay_engine::sql::{Param, SqlConn, StoreError, exec, query_all, query_one};
use relay_engine::types::{Event, EventId, PubKey, Timestamp};

use super::bounds::Bounds;
use super::sql::{expiry_param, optional_param};
use super::state::State;
use super::{KEPT_SECONDS, Registry, SEEN_SECONDS, SILENT_SECONDS, one, role_number};
use crate::evidence::{Evidence, Role};
use crate::offer::{Heartbeat, Offer};

const INSERT: &str = "INSERT OR IGNORE INTO market_evidence (id, role, author, at, kind, request, open, expires, copy, asked_msat) \
                      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const INSERT_NAMED: &str = "INSERT OR IGNORE INTO market_named (provider, at, request) VALUES (?, ?, ?)";
const INSERT_COPY: &str = "INSERT OR IGNORE INTO market_copies (at, id, json) VALUES (?, ?, ?)";
const PUT_OFFER: &str = "INSERT OR REPLACE INTO market_offers (provider, d, id, at, expires, msat, kinds, tags, search, body) \
                         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const PUT_BEAT: &str = "INSERT OR REPLACE INTO market_beats (provider, id, stated, at, expires, online) VALUES (?, ?, ?, ?, ?, ?)";
const PUT_PROVIDER: &str = "INSERT OR IGNORE INTO market_providers (pubkey, seen, msat, as_of, refigure_at, customers, delivered, \
                            failed, unpaid, pending, success, bound, latency, capped, answered_open, daily, paid, paying, paid_msat, paid_capped) \
                            VALUES (?, ?, -1, 0, 0, 0, 0, 0, 0, 0, -1, 0, -1, 0, 0, x'', 0, 0, 0, 0)";

/// An event with its sequence number, if it is one that the registry acts on; or only a position.
pub type Item = (u64, Option<Event>);

impl<C: SqlConn> Registry<C> {
    /// Applies events in one transaction, with their sequence numbers in ascending order. Of requests to vanish (kind 62) those
    /// count that name this relay, which `names_relay` tells.
    ///
    /// # Errors
    /// If the database fails. Then nothing has changed.
    pub fn apply(
        &mut self,
        items: &[Item],
        now: Timestamp,
        names_relay: &dyn Fn(&Event) -> bool,
    ) -> Result<(), StoreError> {
        let Some((last, _)) = items.last() else { return Ok(()) };
        let mut changed = Vec::new();
        let mut state = self.state;
        self.conn.transaction(&mut || {
            changed.clear();
            let mut run = Run { conn: &self.conn, bounds: &self.bounds, state: self.state };
            for event in items.iter().filter_map(|(_, event)| event.as_ref()) {
                match event.kind {
                    KIND_ANNOUNCEMENT => run.announce(event, now, &mut changed)?,
                    KIND_HEARTBEAT => run.heartbeat(event, now)?,
                    KIND_DELETION => run.delete(event, &mut changed)?,
                    KIND_VANISH if names_relay(event) => run.vanish(event, &mut changed)?,
                    KIND_ZAP_RECEIPT => run.receive(event, now, &mut changed)?,
                    _ => run.prove(event, now, &mut changed)?,
                }
            }
            run.forget_oldest(&mut changed)?;
            run.forget_copies(&mut changed)?;
            run.forget_oldest_receipts(&mut changed)?;
            changed.sort_unstable();
            changed.dedup();
            run.retain_listed(&mut changed)?;
            state = run.state;
            state.position = Some(*last);
            state.is_dirty |= !changed.is_empty();
            state.write(&self.conn)
        })?;
        self.changed.extend(changed);
        self.state = state;
        Ok(())
    }
}

pub(super) struct Run<'a, C> {
    pub(super) conn: &'a C,
    pub(super) bounds: &'a Bounds,
    pub(super) state: State,
}

impl<C: SqlConn> Run<'_, C> {
    fn prove(&mut self, event: &Event, now: Timestamp, changed: &mut Vec<PubKey>) -> Result<(), StoreError> {
        let Some(evidence) = Evidence::of(event).filter(|one| one.at.saturating_add(KEPT_SECONDS) > now)
        else {
            return Ok(());
        };
        const IS_KNOWN: &str = "SELECT 1 FROM market_evidence WHERE id = ?";
        if query_one(self.conn, IS_KNOWN, &one(evidence.id), |_| Ok(()))?.is_some() {
            return Ok(());
        }
        let Evidence {
            role,
            id,
            author,
            at,
            kind,
            request,
            is_open,
            ref named,
            expires,
            is_kept,
            asked_msat,
        } = evidence;
        let json = if is_kept { event.json() } else { &[] };
        let role_column = role_number(role).into();
        let params = [
            id.into(),
            role_column,
            author.into(),
            at.into(),
            u64::from(kind).into(),
            request.into(),
            is_open.into(),
            expiry_param(expires),
            (json.len() as u64).into(),
            asked_msat.into(),
        ];
        exec(self.conn, INSERT, &params)?;
        if !json.is_empty() {
            exec(self.conn, INSERT_COPY, &[at.into(), id.into(), json.into()])?;
        }
        for provider in named {
            exec(self.conn, INSERT_NAMED, &[(*provider).into(), at.into(), id.into()])?;
        }
        self.state.totals.add(json.len() as u64);
        self.touch(role, &request, author, changed)?;
        self.match_receipts(&evidence)?;
        self.bound_author(role, author, changed)
    }

    /// Keeps only the keys that are providers: others have no figures.
    fn retain_listed(&self, keys: &mut Vec<PubKey>) -> Result<(), StoreError> {
        let mut failed = None;
        keys.retain(|key| {
            let sql = "SELECT 1 FROM market_providers WHERE pubkey = ?";
            let found = query_one(self.conn, sql, &one(*key), |_| Ok(()));
            found
                .unwrap_or_else(|error| {
                    failed = Some(error);
                    None
                })
                .is_some()
        });
        failed.map_or(Ok(()), Err)
    }

    /// An answer changes figures of its author; a request those of whoever it names, and of whoever has answered it.
    pub(super) fn touch(
        &self,
        role: Role,
        request: &EventId,
        author: PubKey,
        changed: &mut Vec<PubKey>,
    ) -> Result<(), StoreError> {
        if role != Role::Request {
            changed.push(author);
            return Ok(());
        }
        for sql in [
            "SELECT provider FROM market_named WHERE request = ?",
            "SELECT DISTINCT author FROM market_evidence WHERE request = ? AND role > 0",
        ] {
            changed.extend(query_all(self.conn, sql, &one(*request), |row| key(row, 0))?);
        }
        Ok(())
    }

    fn announce(&self, event: &Event, now: Timestamp, changed: &mut Vec<PubKey>) -> Result<(), StoreError> {
        let provider = event.pubkey;
        let d = event.tags().find(b"d").unwrap_or_default();
        const STORED: &str = "SELECT at, id FROM market_offers WHERE provider = ? AND d = ?";
        let address: [Param; 2] = [provider.into(), (&*d).into()];
        let stored = query_one(self.conn, STORED, &address, |row| Ok((int(row, 0)?, column::id(row, 1)?)))?;
        if stored.is_some_and(|(at, id)| {
            (event.created_at, std::cmp::Reverse(event.id)) <= (at, std::cmp::Reverse(id))
        }) {
            return Ok(());
        }
        changed.push(provider);
        let Some(offer) = Offer::of(event).filter(|_| !event.is_expired(now)) else {
            exec(self.conn, "DELETE FROM market_offers WHERE provider = ? AND d = ?", &address)?;
            return self.remove_if_silent(&provider);
        };
        if stored.is_none() && !self.has_room(&provider, now)? {
            return Ok(());
        }
        let list = |items: Vec<String>, separator: &str| {
            let mut text = separator.to_owned();
            for item in items {
                text.push_str(&item);
                text.push_str(separator);
            }
            text.into_bytes()
        };
        let kinds = list(offer.kinds.iter().map(u16::to_string).collect(), ",");
        let tags = list(offer.tags.clone(), "\0");
        let body = serde_json::to_vec(&offer).map_err(|error| StoreError::Failed(error.to_string()))?;
        let [provider_column, d_column] = address;
        let params = [
            provider_column,
            d_column,
            event.id.into(),
            event.created_at.into(),
            expiry_param(event.expires_at),
            optional_param(offer.price.msat()),
            kinds.as_slice().into(),
            tags.as_slice().into(),
            offer.search_text().as_bytes().into(),
            body.as_slice().into(),
        ];
        exec(self.conn, PUT_OFFER, &params)?;
        exec(self.conn, PUT_PROVIDER, &[provider.into(), event.created_at.min(now).into()])
    }

    /// Whether a further announcement of this key may be kept. Another provider makes room for a new one.
    fn has_room(&self, provider: &PubKey, now: Timestamp) -> Result<bool, StoreError> {
        const OFFERS: &str = "SELECT count(*) FROM market_offers WHERE provider = ?";
        let own = query_one(self.conn, OFFERS, &one(*provider), |row| int(row, 0))?.unwrap_or(0);
        let count = |sql: &str| -> Result<u64, StoreError> {
            Ok(query_one(self.conn, sql, &[], |row| int(row, 0))?.unwrap_or(0))
        };
        let has_room = count("SELECT count(*) FROM market_offers")? < self.bounds.offers
            && (own > 0 || count("SELECT count(*) FROM market_providers")? < self.bounds.providers);
        if own > 0 || has_room {
            return Ok(has_room && own < self.bounds.provider_offers);
        }
        const LEAST: &str =
            "SELECT pubkey, customers, seen FROM market_providers ORDER BY customers, seen, pubkey LIMIT 1";
        let least = query_one(self.conn, LEAST, &[], |row| Ok((key(row, 0)?, int(row, 1)?, int(row, 2)?)))?;
        let Some((least, customers, seen)) = least else { return Ok(false) };
        // Customers are cheap: those of a provider that has gone keep no place for ever.
        if seen >= now || customers > 0 && seen.saturating_add(SILENT_SECONDS) >= now {
            return Ok(false);
        }
        exec(self.conn, "DELETE FROM market_offers WHERE provider = ?", &one(least))?;
        self.remove_if_silent(&least)?;
        Ok(true)
    }

    /// A key without an announcement is no provider.
    pub(super) fn remove_if_silent(&self, provider: &PubKey) -> Result<(), StoreError> {
        const REMOVE: &str = "DELETE FROM market_providers WHERE pubkey = ? \
                              AND NOT EXISTS (SELECT 1 FROM market_offers WHERE provider = market_providers.pubkey)";
        exec(self.conn, REMOVE, &one(*provider))
    }

    fn heartbeat(&self, event: &Event, now: Timestamp) -> Result<(), StoreError> {
        const STORED: &str = "SELECT stated, id FROM market_beats WHERE provider = ?";
        let stored =
            query_one(self.conn, STORED, &one(event.pubkey), |row| Ok((int(row, 0)?, column::id(row, 1)?)))?;
        if stored.is_some_and(|(at, id)| {
            (event.created_at, std::cmp::Reverse(event.id)) <= (at, std::cmp::Reverse(id))
        }) {
            return Ok(());
        }
        let heartbeat = Heartbeat::of(event, now);
        let params = [
            event.pubkey.into(),
            event.id.into(),
            event.created_at.into(),
            heartbeat.at.into(),
            expiry_param(heartbeat.expires),
            heartbeat.says_online.into(),
        ];
        exec(self.conn, PUT_BEAT, &params)?;
        if stored.is_none() {
            let count = query_one(self.conn, "SELECT count(*) FROM market_beats", &[], |row| int(row, 0))?;
            if count.unwrap_or(0) > self.bounds.heartbeats {
                const OLDEST: &str = "DELETE FROM market_beats WHERE provider = \
                                      (SELECT provider FROM market_beats ORDER BY at, provider LIMIT 1)";
                exec(self.conn, OLDEST, &[])?;
            }
        }
        // Of the figures it changes nothing, and lists look at the heartbeat too.
        const SEEN: &str = "UPDATE market_providers SET seen = ? WHERE pubkey = ? AND seen < ?";
        let late = heartbeat.at.saturating_sub(SEEN_SECONDS);
        exec(self.conn, SEEN, &[heartbeat.at.into(), event.pubkey.into(), late.into()])
    }
}

/// A row's `body`, of an offer.
pub(super) fn offer(body: &[u8]) -> Result<Offer, StoreError> {
    serde_json::from_slice(body).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// The `body` of each offer of a key that has not expired, newest first.
pub(super) fn offers<C: SqlConn>(
    conn: &C,
    provider: &PubKey,
    now: Timestamp,
) -> Result<Vec<Offer>, StoreError> {
    const OFFERS: &str = "SELECT body FROM market_offers WHERE provider = ? AND (expires = 0 OR expires > ?) ORDER BY at DESC, id";
    query_all(conn, OFFERS, &[(*provider).into(), now.into()], |row| offer(bytes(row, 0)?))
}
