//! Requests and their responses. Documents are JSON, errors as [`HttpResponse::error`] makes them.

mod answers;
mod page;
mod sparkline;

use relay_agent::api::Relay;
use relay_agent::identity;
use relay_agent::nip90::is_request;
use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{PubKey, Timestamp};
use relay_site::{HttpResponse, MarketRoute};
use serde_json::{Value, json};

pub use answers::Answers;

use crate::proof::{self, figures_json};
use crate::registry::{Entry, ListQuery, Registry, Sort};

/// Providers of a list if the request does not say how many, and at most.
const LIMIT: u64 = 50;
const LIMIT_MAX: u64 = 200;
/// Longest text that is searched for, in bytes.
const TEXT_BYTES_MAX: usize = 100;

/// A request, routed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What is wanted.
    pub route: MarketRoute,
    /// `{npub}` of the path.
    pub npub: Option<&'a str>,
    /// The query, without `?`.
    pub query: &'a str,
    /// The relay, as pages name it.
    pub relay: Relay<'a>,
}

/// Answers a request.
///
/// # Errors
/// If the database fails.
pub fn answer<C: SqlConn>(
    registry: &Registry<C>,
    request: &Request<'_>,
    now: Timestamp,
) -> Result<HttpResponse, StoreError> {
    Ok(match request.route {
        MarketRoute::List => match parse_query(request.query) {
            Ok(query) => list(registry, &query, now)?,
            Err((field, message)) => HttpResponse::error_in(400, field, message),
        },
        MarketRoute::ListPage => match parse_query(request.query) {
            Ok(query) => {
                let found = registry.list(&query, now)?;
                page::response(200, &page::list(&query, request.query, Ok(&found), &request.relay, now))
            }
            Err(wrong) => {
                let query = ListQuery::default();
                page::response(400, &page::list(&query, request.query, Err(wrong), &request.relay, now))
            }
        },
        MarketRoute::Proof => match request.npub.and_then(identity::parse_pubkey) {
            Some(provider) => proof(registry, &provider, now)?,
            None => HttpResponse::error_in(400, "npub", "must be an npub or 64 hexadecimal digits"),
        },
    })
}

fn json(document: &Value) -> HttpResponse {
    HttpResponse::new(200, "application/json", format!("{document}\n"))
}

fn list<C: SqlConn>(
    registry: &Registry<C>,
    query: &ListQuery,
    now: Timestamp,
) -> Result<HttpResponse, StoreError> {
    let page = registry.list(query, now)?;
    let mut document = json!({ "providers": page.entries.iter().map(entry).collect::<Vec<_>>() });
    if let Some(next) = page.next {
        document["next"] = json!(next.to_string());
    }
    Ok(json(&document))
}

fn proof<C: SqlConn>(
    registry: &Registry<C>,
    provider: &PubKey,
    now: Timestamp,
) -> Result<HttpResponse, StoreError> {
    let Some(entry) = registry.entry(provider, now)? else {
        return Ok(HttpResponse::error(404, "this relay has no announcement of this provider"));
    };
    let announcements: Vec<String> = entry.offers.iter().map(|offer| offer.id.clone()).collect();
    let document = proof::document(provider, now, &registry.proven(provider, now)?, &announcements);
    let document = document.map_err(|error| StoreError::Corrupt(error.to_string()))?;
    // It is as of now, and another one a second later.
    Ok(HttpResponse::new(200, "application/json", document + "\n").with("cache-control", "no-store"))
}

/// A provider in a list.
fn entry(entry: &Entry) -> Value {
    let npub = identity::npub(&entry.pubkey);
    let offer = entry.offers.first();
    json!({
        "pubkey": entry.pubkey.to_string(),
        "npub": npub,
        "name": offer.map(|offer| &offer.name),
        "about": offer.map(|offer| &offer.about),
        "online": entry.is_online,
        "last_seen": entry.last_seen,
        "offers": entry.offers,
        "figures": figures_json(&entry.figures, entry.as_of),
        "proof": format!("/market/{npub}/proof"),
    })
}

/// Reads a query. Empty values are those of empty fields of a form, and mean nothing; unknown names too.
///
/// # Errors
/// The field and what is wrong with it.
fn parse_query(query: &str) -> Result<ListQuery, (&'static str, &'static str)> {
    const NAMES: [&str; 8] = ["kind", "max_msat", "online", "tag", "q", "sort", "cursor", "limit"];
    let mut values: [Option<String>; 8] = Default::default();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let Some(at) = NAMES.iter().position(|known| *known == name) else { continue };
        let value = value.trim();
        if value.is_empty() {
            continue;
        }
        if values[at].is_some() {
            return Err((NAMES[at], "is given twice"));
        }
        values[at] = Some(value.to_owned());
    }
    let [kind, max_msat, online, tag, text, sort, cursor, limit] = values;
    let number = |value: Option<String>, field, message| match value {
        None => Ok(None),
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| (field, message)),
    };
    const KIND: &str = "must be a kind of job requests, 5000 to 5999";
    let kind = number(kind, "kind", KIND)?
        .map(|kind| u16::try_from(kind).ok().filter(|kind| is_request(*kind)).ok_or(("kind", KIND)))
        .transpose()?;
    let short = |value: Option<String>, field| match value {
        Some(text) if text.len() > TEXT_BYTES_MAX => Err((field, "must have at most 100 bytes")),
        value => Ok(value.map(|text| text.to_lowercase())),
    };
    let online = match online.as_deref() {
        None => None,
        Some("true" | "1") => Some(true),
        Some("false" | "0") => Some(false),
        Some(_) => return Err(("online", "must be true or false")),
    };
    let sort = match sort {
        None => Sort::default(),
        Some(name) => match Sort::ALL.iter().find(|(_, known)| *known == name) {
            Some((sort, _)) => *sort,
            None => return Err(("sort", "must be success, customers, latency, price or seen")),
        },
    };
    let limit = number(limit, "limit", "must be a number from 1 to 200")?.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(("limit", "must be a number from 1 to 200"));
    }
    Ok(ListQuery {
        kind,
        max_msat: number(max_msat, "max_msat", "must be a number of millisatoshis")?,
        online,
        tag: short(tag, "tag")?,
        text: short(text, "q")?,
        sort,
        cursor: cursor
            .map(|text| text.parse().map_err(|()| ("cursor", "must be `next` of an answer")))
            .transpose()?,
        limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_parameters_name_their_field() {
        for (query, field) in [
            ("kind=abc", "kind"),
            ("kind=4999", "kind"),
            ("kind=6000", "kind"),
            ("kind=70586", "kind"),
            ("kind=5050&kind=5050", "kind"),
            ("max_msat=-1", "max_msat"),
            ("max_msat=1.5", "max_msat"),
            ("online=yes", "online"),
            ("sort=name", "sort"),
            ("cursor=1", "cursor"),
            ("cursor=1.abc", "cursor"),
            ("limit=0", "limit"),
            ("limit=201", "limit"),
        ] {
            assert_eq!(parse_query(query).unwrap_err().0, field, "{query}");
        }
        assert_eq!(parse_query(&format!("q={}", "x".repeat(101))).unwrap_err().0, "q");
        assert_eq!(parse_query(&format!("tag={}", "x".repeat(101))).unwrap_err().0, "tag");
    }

    #[test]
    fn an_empty_form_asks_for_everything() {
        let all = ListQuery { limit: LIMIT, ..ListQuery::default() };
        assert_eq!(parse_query("").unwrap(), all);
        assert_eq!(parse_query("kind=&max_msat=&online=&tag=+&q=&sort=&cursor=&utm=1").unwrap(), all);
        let cursor = format!("-7.{}", "ab".repeat(32));
        let some = parse_query(&format!(
            "kind=5050&max_msat=0&online=1&tag=Ai&q=%C3%84B&sort=price&limit=7&cursor={cursor}"
        ));
        let some = some.unwrap();
        assert_eq!((some.kind, some.max_msat, some.online), (Some(5050), Some(0), Some(true)));
        assert_eq!(
            (some.tag.as_deref(), some.text.as_deref(), some.sort),
            (Some("ai"), Some("äb"), Sort::Price)
        );
        assert_eq!((some.limit, some.cursor.map(|cursor| cursor.to_string())), (7, Some(cursor)));
    }
}
