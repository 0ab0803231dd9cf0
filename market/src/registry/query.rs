//! Lists of providers, and one provider.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use relay_engine::sql::column::{int, key, signed};
use relay_engine::sql::{Param, SqlConn, SqlValue, StoreError, query_all, query_one};
use relay_engine::types::{EventId, Kind, PubKey, Timestamp};

use super::sql::{daily, expiry, optional};
use super::{Registry, apply, bounds, kept_json, one};
use crate::evidence::Evidence;
use crate::figures::{Figures, Jobs, Since, jobs};
use crate::offer::{HEARTBEAT_SECONDS_MAX, Heartbeat, Offer};

/// Above all values that a column has.
const INT_MAX: u64 = 1 << 53;

/// The order of a list. Ties are in the order of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// The highest lower bound of the success ratio first.
    #[default]
    Success,
    /// The most customers first.
    Customers,
    /// The lowest latency first; unknown ones last.
    Latency,
    /// The lowest price first; unknown ones last.
    Price,
    /// Those first that were seen most recently.
    Seen,
}

impl Sort {
    /// All of them, with their names in requests.
    pub const ALL: [(Sort, &'static str); 5] = [
        (Sort::Success, "success"),
        (Sort::Customers, "customers"),
        (Sort::Latency, "latency"),
        (Sort::Price, "price"),
        (Sort::Seen, "seen"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Sort::ALL.iter().find(|(sort, _)| *sort == self).map_or("", |(_, name)| name)
    }

    /// An integer by which rows ascend.
    fn expression(self) -> &'static str {
        match self {
            Sort::Success => "(1000 - p.bound)",
            Sort::Customers => "(-p.customers)",
            Sort::Latency => "(CASE WHEN p.latency < 0 THEN 9007199254740992 ELSE p.latency END)",
            Sort::Price => "(CASE WHEN p.msat < 0 THEN 9007199254740992 ELSE p.msat END)",
            Sort::Seen => "(-max(p.seen, ifnull(b.at, 0)))",
        }
    }
}

/// Where a list goes on: after the row with this value and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(i64, PubKey);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (value, key) = text.split_once('.').ok_or(())?;
        let value = value.parse().map_err(|_| ())?;
        let is_known = -(INT_MAX as i64) <= value && value <= INT_MAX as i64;
        if is_known { Ok(Cursor(value, key.parse().map_err(|_| ())?)) } else { Err(()) }
    }
}

/// What is wanted. A provider is listed if one of its announcements fits all of `kind`, `max_msat`, `tag` and `text`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// A kind of jobs.
    pub kind: Option<Kind>,
    /// The price is known and at most this.
    pub max_msat: Option<u64>,
    /// Online, or not.
    pub online: Option<bool>,
    /// A topic, in lower case.
    pub tag: Option<String>,
    /// A part of the name, the description, a topic or the name of a kind, in lower case.
    pub text: Option<String>,
    /// The order.
    pub sort: Sort,
    /// Where to go on.
    pub cursor: Option<Cursor>,
    /// Most providers.
    pub limit: u64,
}

/// A provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub pubkey: PubKey,
    /// Its announcements, newest first. At least one.
    pub offers: Vec<Offer>,
    /// Whether it is online.
    pub is_online: bool,
    /// When it last said anything, by the times that its events state.
    pub last_seen: Timestamp,
    /// Its figures, as of `as_of`.
    pub figures: Figures,
    /// When they were counted.
    pub as_of: Timestamp,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The providers.
    pub entries: Vec<Entry>,
    /// Where to go on, if there are more.
    pub next: Option<Cursor>,
}

/// What a proof shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The jobs.
    pub jobs: Jobs,
    /// Events that state a time up to this do not count, other than receipts.
    pub since: Since,
    /// Likewise receipts up to this.
    pub receipts_since: Timestamp,
    /// Likewise the requests of these authors up to these times.
    pub forgotten: BTreeMap<PubKey, Timestamp>,
    /// The events that are shown whole, because they expire: id and JSON.
    pub kept: Vec<(EventId, Vec<u8>)>,
}

const COLUMNS: &str = "p.pubkey, max(p.seen, ifnull(b.at, 0)), p.as_of, p.customers, p.delivered, p.failed, p.unpaid, p.pending, p.success, p.bound, \
     p.latency, p.capped, ifnull(b.at, 0), ifnull(b.expires, 0), ifnull(b.online, 0), p.answered_open, p.daily, p.paid, p.paying, p.paid_msat, p.paid_capped";

impl<C: SqlConn> Registry<C> {
    /// A part of the list. Reads all providers and their announcements once.
    ///
    /// # Errors
    /// If the database fails.
    pub fn list(&self, query: &ListQuery, now: Timestamp) -> Result<Page, StoreError> {
        let sort = query.sort.expression();
        let mut sql = format!(
            "SELECT {COLUMNS}, {sort} FROM market_providers p LEFT JOIN market_beats b ON b.provider = p.pubkey WHERE EXISTS \
             (SELECT 1 FROM market_offers o WHERE o.provider = p.pubkey AND (o.expires = 0 OR o.expires > ?)"
        );
        let mut params: Vec<Param> = vec![now.into()];
        let parts = [
            ("kinds", query.kind.map(|kind| format!(",{kind},"))),
            ("tags", query.tag.as_ref().map(|tag| format!("\0{tag}\0"))),
            ("search", query.text.clone()),
        ];
        for (column, part) in parts {
            if let Some(part) = part {
                sql.push_str(&format!(" AND instr(o.{column}, ?) > 0"));
                params.push(part.as_bytes().into());
            }
        }
        if let Some(max) = query.max_msat {
            sql.push_str(" AND o.msat BETWEEN 0 AND ?");
            params.push(max.into());
        }
        sql.push(')');
        if let Some(online) = query.online {
            sql.push_str(if online { " AND " } else { " AND NOT " });
            sql.push_str("(ifnull(b.online, 0) = 1 AND b.at >= ? AND (b.expires = 0 OR b.expires > ?))");
            params.extend([now.saturating_sub(HEARTBEAT_SECONDS_MAX).into(), now.into()]);
        }
        if let Some(Cursor(value, key)) = query.cursor {
            sql.push_str(&format!(" AND ({sort} > ? OR ({sort} = ? AND p.pubkey > ?))"));
            params.extend([Param::Int(value), Param::Int(value), key.into()]);
        }
        sql.push_str(&format!(" ORDER BY {sort}, p.pubkey LIMIT ?"));
        params.push((query.limit + 1).into());
        let mut rows =
            query_all(&self.conn, &sql, &params, |row| Ok((read_entry(row, now)?, signed(row, 21)?)))?;
        let has_more = rows.len() as u64 > query.limit;
        rows.truncate(query.limit as usize);
        let next = rows.last().filter(|_| has_more).map(|(entry, value)| Cursor(*value, entry.pubkey));
        let mut entries = Vec::with_capacity(rows.len());
        for (entry, _) in rows {
            let offers = apply::offers(&self.conn, &entry.pubkey, now)?;
            entries.push(Entry { offers, ..entry });
        }
        Ok(Page { entries, next })
    }

    /// A provider, if it has an announcement.
    ///
    /// # Errors
    /// If the database fails.
    pub fn entry(&self, provider: &PubKey, now: Timestamp) -> Result<Option<Entry>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM market_providers p LEFT JOIN market_beats b ON b.provider = p.pubkey WHERE p.pubkey = ?"
        );
        let found = query_one(&self.conn, &sql, &one(*provider), |row| read_entry(row, now))?;
        let Some(entry) = found else { return Ok(None) };
        let offers = apply::offers(&self.conn, provider, now)?;
        Ok(Some(Entry { offers, ..entry }).filter(|entry| !entry.offers.is_empty()))
    }

    /// The jobs of a provider at this moment, and the events that show them and expire.
    ///
    /// # Errors
    /// If the database fails.
    pub fn proven(&self, provider: &PubKey, now: Timestamp) -> Result<Proven, StoreError> {
        let since = bounds::since(&self.conn, provider)?;
        let evidence = self.evidence_of(provider, now, since)?;
        let mut jobs = jobs(provider, now, since, &evidence);
        let (receipts_since, receipts) = self.receipts_of(provider, &jobs)?;
        jobs.settle(provider, now, receipts_since, &receipts);
        let mut is_kept: Vec<EventId> =
            evidence.iter().filter(|one: &&Evidence| one.is_kept).map(|one| one.id).collect();
        is_kept.sort_unstable();
        let mut kept = Vec::new();
        for job in &jobs.counted {
            for id in job.shown().into_iter().filter(|id| is_kept.binary_search(id).is_ok()) {
                const JSON: &str = "SELECT c.json FROM market_evidence e JOIN market_copies c ON c.at = e.at AND c.id = e.id WHERE e.id = ?";
                if let Some(json) = query_one(&self.conn, JSON, &one(id), kept_json)? {
                    kept.push((id, json));
                }
            }
        }
        Ok(Proven { jobs, since, receipts_since, forgotten: bounds::forgotten(&self.conn)?, kept })
    }
}

fn read_entry(row: &[SqlValue<'_>], now: Timestamp) -> Result<Entry, StoreError> {
    let heartbeat =
        Heartbeat { at: int(row, 12)?, expires: expiry(row, 13)?, says_online: int(row, 14)? == 1 };
    Ok(Entry {
        pubkey: key(row, 0)?,
        offers: Vec::new(),
        is_online: heartbeat.is_online(now),
        last_seen: int(row, 1)?,
        figures: Figures {
            customers: int(row, 3)?,
            delivered: int(row, 4)?,
            open: int(row, 15)?,
            failed: int(row, 5)?,
            unpaid: int(row, 6)?,
            pending: int(row, 7)?,
            paid: int(row, 17)?,
            paying: int(row, 18)?,
            paid_msat: int(row, 19)?,
            are_payments_capped: int(row, 20)? == 1,
            success: optional(row, 8)?,
            success_bound: int(row, 9)?,
            latency: optional(row, 10)?,
            latency_by_day: daily(row, 16)?,
            is_capped: int(row, 11)? == 1,
        },
        as_of: int(row, 2)?,
    })
}
