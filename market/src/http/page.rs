//! The page: a form that filters and sorts, and providers as cards. It works without a script and loads nothing.

use std::fmt::Write as _;

use relay_agent::api::Relay;
use relay_agent::api::page::{kind_label, shortened, styled_document, tile};
use relay_agent::identity;
use relay_engine::types::Timestamp;
use relay_site::HttpResponse;
use relay_site::page::{escape, grouped};
use url::form_urlencoded;

use super::sparkline;
use crate::offer::{Offer, Price};
use crate::registry::{Entry, ListQuery, Page, Sort};

const STYLE: &str = include_str!("style.css");
/// What the page may load and do. Its form asks this relay.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; \
                              form-action 'self'; frame-ancestors 'none'";
/// Kinds and tags of a provider that are shown.
const KINDS_SHOWN: usize = 4;
const TAGS_SHOWN: usize = 6;
/// Fields of the form.
const FIELDS: [&str; 6] = ["q", "kind", "tag", "max_msat", "online", "sort"];

/// A page.
pub(super) fn response(status: u16, html: &str) -> HttpResponse {
    HttpResponse::new(status, "text/html; charset=utf-8", html.to_owned())
        .with("content-security-policy", CONTENT_POLICY)
}

/// `found`: a part of the list, or the field of `query_text` that is wrong, and why.
pub(super) fn list(
    query: &ListQuery,
    query_text: &str,
    found: Result<&Page, (&str, &str)>,
    relay: &Relay<'_>,
    now: Timestamp,
) -> String {
    let given: Vec<(String, String)> = form_urlencoded::parse(query_text.as_bytes())
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let mut body = "<h1>Market</h1>\n<p>Providers of jobs (NIP-90) that announce themselves on this relay, whoever runs them. The \
        figures follow from signed events of the last 30 days.</p>\n"
        .to_owned();
    form(&mut body, &given, query);
    match found {
        Err((field, message)) => {
            let _ =
                writeln!(body, "<p class=\"wrong\" role=\"alert\"><b>{field}</b> {}.</p>", escape(message));
        }
        Ok(page) if page.entries.is_empty() => {
            body.push_str("<div class=\"empty\"><h2>No provider fits</h2>\n<p>Providers appear when they announce themselves \
                (kind 31990) on this relay.</p></div>\n");
        }
        Ok(page) => {
            body.push_str("<ul class=\"cards market\">\n");
            page.entries.iter().for_each(|entry| card(&mut body, entry, now));
            body.push_str("</ul>\n");
            if let Some(next) = page.next {
                let cursor = next.to_string();
                let kept =
                    given.iter().filter(|(name, value)| FIELDS.contains(&&**name) && !value.is_empty());
                let more = form_urlencoded::Serializer::new(String::new())
                    .extend_pairs(kept)
                    .append_pair("cursor", &cursor)
                    .finish();
                let link = format!("/market?{more}");
                let _ = writeln!(
                    body,
                    "<nav class=\"pages\" aria-label=\"Pages\"><a rel=\"next\" href=\"{}\">More →</a></nav>",
                    escape(&link)
                );
            }
        }
    }
    meaning(&mut body);
    styled_document(&format!("Market of {}", relay.name), None, body, relay, STYLE)
}

fn form(body: &mut String, given: &[(String, String)], query: &ListQuery) {
    let value = |name: &str| given.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value);
    body.push_str("<form class=\"filter\" method=\"get\" action=\"/market\">\n");
    for (name, label, more) in [
        ("q", "Search", "type=\"search\" maxlength=\"100\""),
        ("kind", "Kind of job", "type=\"number\" min=\"5000\" max=\"5999\""),
        ("tag", "Topic", "maxlength=\"100\""),
        ("max_msat", "Price up to (msat)", "type=\"number\" min=\"0\""),
    ] {
        let _ = writeln!(
            body,
            "<label>{label}<input name=\"{name}\" {more} value=\"{}\"></label>",
            escape(value(name))
        );
    }
    let select = |body: &mut String, name: &str, label: &str, options: &[(&str, &str)], chosen: &str| {
        let _ = write!(body, "<label>{label}<select name=\"{name}\">");
        for (value, text) in options {
            let selected = if *value == chosen { " selected" } else { "" };
            let _ = write!(body, "<option value=\"{value}\"{selected}>{text}</option>");
        }
        body.push_str("</select></label>\n");
    };
    let online = query.online.map_or("", |online| if online { "true" } else { "false" });
    select(body, "online", "Online", &[("", "all"), ("true", "online now"), ("false", "offline")], online);
    let sorts = [
        ("success", "success"),
        ("customers", "most customers"),
        ("latency", "fastest"),
        ("price", "cheapest"),
        ("seen", "seen last"),
    ];
    select(body, "sort", "Sort by", &sorts, query.sort.name());
    debug_assert_eq!(sorts.len(), Sort::ALL.len());
    body.push_str("<button>Show</button>\n</form>\n");
}

fn card(body: &mut String, entry: &Entry, now: Timestamp) {
    let npub = identity::npub(&entry.pubkey);
    let offer = entry.offers.first();
    let name = offer.map(|offer| shortened(&offer.name, 60)).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| shortened(&npub, 16));
    let state = if entry.is_online { "online" } else { "offline" };
    let _ = writeln!(
        body,
        "<li><div class=\"who\">{tile}<div><header><h2><bdi>{name}</bdi></h2><span class=\"state {state}\">{state}</span></header>",
        tile = tile(&name, &entry.pubkey),
        name = escape(&name),
    );
    let about = offer.map(|offer| shortened(&offer.about, 200)).unwrap_or_default();
    if !about.is_empty() {
        let _ = writeln!(body, "<p dir=\"auto\">{}</p>", escape(&about));
    }
    let mut what = of_all(&entry.offers, |offer| &offer.kinds, KINDS_SHOWN, |kind| kind_label(*kind));
    let tags =
        of_all(&entry.offers, |offer| &offer.tags, TAGS_SHOWN, |tag| format!("#{}", shortened(tag, 30)));
    if !tags.is_empty() {
        what = format!("{what} · {tags}");
    }
    let _ = writeln!(body, "<span class=\"facts\"><bdi>{}</bdi></span></div></div>", escape(&what));
    body.push_str("<dl class=\"figures\">\n");
    let mut figure = |name: &str, value: String| {
        let _ = writeln!(body, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    };
    let figures = &entry.figures;
    let percent = |thousandths: u64| format!("{}.{}\u{a0}%", thousandths / 10, thousandths % 10);
    let more = if figures.is_capped { "+" } else { "" };
    let more_paid = if figures.are_payments_capped { "+" } else { "" };
    figure("Price", price(&entry.offers));
    figure("Success", figures.success.map_or_else(|| "none yet".to_owned(), percent));
    figure(
        "At least",
        figures.success.map_or_else(|| "none yet".to_owned(), |_| percent(figures.success_bound)),
    );
    figure("Median time", figures.latency.map_or_else(|| "none yet".to_owned(), duration));
    if let Some(drawn) = sparkline::by_day(&figures.latency_by_day) {
        figure("By day", drawn);
    }
    figure("Customers", grouped(figures.customers));
    if figures.paying > 0 {
        figure("Paying customers", format!("{}{more_paid}", grouped(figures.paying)));
    }
    figure("Jobs done", format!("{}{more}", grouped(figures.delivered)));
    if figures.paid > 0 {
        figure("Jobs paid", format!("{}{more_paid}", grouped(figures.paid)));
    }
    if figures.paid_msat > 0 {
        figure("Paid", sats(figures.paid_msat));
    }
    if figures.open > 0 {
        figure("Open requests", grouped(figures.open));
    }
    if figures.failed > 0 {
        figure("Jobs failed", grouped(figures.failed));
    }
    if figures.unpaid > 0 {
        figure("Jobs unpaid", grouped(figures.unpaid));
    }
    figure("Last seen", ago(now.saturating_sub(entry.last_seen)));
    let _ = writeln!(
        body,
        "</dl>\n<p class=\"links\"><a href=\"/market/{npub}/proof\">Proof of <bdi>{}</bdi></a></p></li>",
        escape(&name)
    );
}

/// The first of the items of all offers, without repeats, and how many more there are.
fn of_all<T: PartialEq>(
    offers: &[Offer],
    items: impl Fn(&Offer) -> &Vec<T>,
    most: usize,
    text: impl Fn(&T) -> String,
) -> String {
    let mut all: Vec<&T> = Vec::new();
    for item in offers.iter().flat_map(&items) {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    let mut texts: Vec<String> = all.iter().take(most).map(|item| text(item)).collect();
    if all.len() > most {
        texts.push(format!("{} more", all.len() - most));
    }
    texts.join(", ")
}

/// The lowest price that is known.
fn price(offers: &[Offer]) -> String {
    match offers.iter().filter_map(|offer| offer.price.msat()).min() {
        Some(0) => "free".to_owned(),
        Some(msat) => sats(msat),
        None if offers.iter().any(|offer| offer.price == Price::Flexible) => "flexible".to_owned(),
        None => "not given".to_owned(),
    }
}

fn sats(msat: u64) -> String {
    match msat % 1_000 {
        0 => format!("{} sats", grouped(msat / 1_000)),
        _ => format!("{} msat", grouped(msat)),
    }
}

/// A time as words.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0 => "under 1\u{a0}s".to_owned(),
        1..120 => format!("{seconds}\u{a0}s"),
        120..7_200 => format!("{}\u{a0}min", seconds / 60),
        _ => format!("{}\u{a0}h", grouped(seconds / 3_600)),
    }
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..60 => "just now".to_owned(),
        60..7_200 => format!("{}\u{a0}min ago", seconds / 60),
        7_200..172_800 => format!("{}\u{a0}h ago", seconds / 3_600),
        _ => format!("{}\u{a0}days ago", grouped(seconds / 86_400)),
    }
}

/// What the numbers mean, and what they do not.
fn meaning(body: &mut String) {
    body.push_str("<h2>What the figures mean</h2>\n<table>\n");
    for (name, text) in [
        (
            "Success",
            "the share of requests naming the provider that have a result: the mean over its customers, each of the same weight, however \
            much they order. A request without a result after an hour has failed, unless the provider has asked for payment in that hour: then it is \
            unpaid, and does not count here.",
        ),
        (
            "At least",
            "the lower end of Wilson’s 95 % interval of that mean. It is low while there are few customers, and one who is not \
            a paying one is half a customer. The order “success” sorts by it.",
        ),
        (
            "Median time",
            "from the time that the request states to the time that the result states, which their authors choose: the median \
            of the customers’ medians.",
        ),
        (
            "By day",
            "the same of the requests of each of the last 30 days (UTC), today on the right. A day without results has no bar.",
        ),
        (
            "Open requests",
            "requests that name nobody and that it has answered, whatever the answer is. They count in no other figure.",
        ),
        (
            "Jobs paid",
            "results for which the provider has signed that it asks for payment and the customer has signed a zap request of at least that \
            amount, of which there is a receipt. It does not show that money went anywhere: whoever holds both keys can sign that.",
        ),
        ("Paying customers", "keys with such a job."),
        ("Paid", "what the provider asked for those jobs."),
        (
            "Jobs unpaid",
            "requests without a result for which the provider asked for payment within the hour. Nothing signed shows that it got any, \
            whatever receipts there are.",
        ),
        (
            "Online",
            "the last heartbeat (kind 11998) is at most seven minutes old, has not expired and does not say offline.",
        ),
        (
            "Proof",
            "the events, by id or, if they expire, whole, from which <b>relay market verify</b> recomputes the figures.",
        ),
    ] {
        let _ = writeln!(body, "<tr><th scope=\"row\">{name}</th><td>{text}</td></tr>");
    }
    body.push_str(
        "</table>\n<p>Keys cost nothing: a provider can be its own customers under many names, and its rivals can be customers whom \
         nobody could serve. Whoever has the keys of both sides can sign payments as well, without any money. Trust the figures no more than that.</p>\n",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_the_unit_that_fits() {
        let words =
            [duration(0), duration(119), duration(120), duration(7_200), ago(59), ago(60), ago(172_800)];
        assert_eq!(
            words.map(|text| text.replace('\u{a0}', " ")),
            ["under 1 s", "119 s", "2 min", "2 h", "just now", "1 min ago", "2 days ago"]
        );
    }
}
