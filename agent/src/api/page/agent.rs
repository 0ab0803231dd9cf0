//! The page of one agent.

use std::fmt::Write as _;

use relay_site::HttpResponse;
use relay_site::page::{bytes, escape, grouped};
use url::Url;

use super::{document, kind_label, price, scripted_document, shortened, state_badge, tile, try_it};
use crate::api::Relay;
use crate::identity;
use crate::job::InputKind;
use crate::machine::AgentState;
use crate::manifest::{Handler, Manifest};
use crate::router::AgentEntry;

/// Figures of an agent, as its page shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::api) struct Figures {
    /// Jobs with a result.
    pub(in crate::api) done: u64,
    /// Jobs that ended otherwise.
    pub(in crate::api) failed: u64,
    /// Jobs that run or wait.
    pub(in crate::api) unfinished: u64,
    /// Upper bound of the median time from request to result, in milliseconds.
    pub(in crate::api) median_ms: Option<u64>,
}

/// One agent.
pub(in crate::api) fn agent(entry: &AgentEntry, figures: &Figures, relay: &Relay<'_>) -> HttpResponse {
    let AgentEntry { pubkey, manifest, state, .. } = entry;
    let mut body = format!(
        "<header class=\"agent\">{tile}<div><h1><bdi>{name}</bdi></h1>{state}</div></header>\n",
        tile = tile(&manifest.name, pubkey),
        name = escape(&manifest.name),
        state = state_badge(*state),
    );
    let about = paragraphs(&manifest.about);
    if !about.is_empty() {
        let _ = writeln!(body, "<p dir=\"auto\">{}</p>", escape(&about));
    }
    figures_list(&mut body, figures, &manifest.handlers);
    body.push_str("<h2>What it does</h2>\n");
    for handler in &manifest.handlers {
        handler_section(&mut body, handler);
    }
    how_to(&mut body, entry, relay);
    conditions(&mut body, manifest);
    about_it(&mut body, entry);
    let above = Some(("/agents", "Agents"));
    match state {
        AgentState::Active => scripted_document(&manifest.name, above, body, relay, try_it::SCRIPT),
        _ => HttpResponse::page(document(&manifest.name, above, body, relay)),
    }
}

fn figures_list(body: &mut String, figures: &Figures, handlers: &[Handler]) {
    let Figures { done, failed, unfinished, median_ms } = *figures;
    body.push_str("<dl class=\"figures\">\n");
    let mut figure = |name: &str, value: &str| {
        let _ = writeln!(body, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    };
    figure("Price", &price(handlers));
    figure("Jobs done", &grouped(done));
    if let Some(ms) = median_ms {
        let bound =
            if ms < 1_000 { format!("{ms}\u{a0}ms") } else { format!("{}\u{a0}s", ms.div_ceil(1_000)) };
        figure("Median time", &format!("≤\u{a0}{bound}"));
    }
    if failed > 0 {
        figure("Jobs failed", &grouped(failed));
    }
    if unfinished > 0 {
        figure("Jobs in progress", &grouped(unfinished));
    }
    body.push_str("</dl>\n");
}

fn handler_section(body: &mut String, handler: &Handler) {
    let _ = writeln!(
        body,
        "<section class=\"handler\"><h3>{} <span>kind {} · <b>{}</b></span></h3>\n<table>",
        escape(&kind_label(handler.kind)),
        handler.kind,
        price(std::slice::from_ref(handler))
    );
    let inputs: Vec<&str> = handler.inputs.iter().map(|kind| input_name(*kind)).collect();
    let inputs = if inputs.is_empty() {
        "text, an event, the result of a job, a URL".to_owned()
    } else {
        inputs.join(", ")
    };
    let inputs = match handler.inputs_min {
        0 => inputs,
        1 => format!("{inputs}; at least one"),
        min => format!("{inputs}; at least {min}"),
    };
    row(body, "Inputs", &inputs);
    let outputs = if handler.outputs.is_empty() {
        "text/plain".to_owned()
    } else {
        escape(&handler.outputs.join(", "))
    };
    row(body, "Result", &outputs);
    for (name, param) in &handler.params {
        let mut value =
            if param.values.is_empty() { "any value".to_owned() } else { param.values.join(", ") };
        if let Some(default) = &param.default {
            let _ = write!(value, "; {default} if not given");
        }
        if param.required {
            value.push_str("; required");
        }
        row(
            body,
            &format!("Parameter <bdi class=\"key\">{}</bdi>", escape(name)),
            &format!("<bdi>{}</bdi>", escape(&value)),
        );
    }
    body.push_str("</table></section>\n");
}

/// `name` and `value` are HTML.
fn row(body: &mut String, name: &str, value: &str) {
    let _ = writeln!(body, "<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>");
}

fn how_to(body: &mut String, entry: &AgentEntry, relay: &Relay<'_>) {
    let Some(handler) = entry.manifest.handlers.first() else { return };
    body.push_str("<h2>Try it</h2>\n");
    match entry.state {
        AgentState::Active => body.push_str(&try_it::form(entry)),
        AgentState::Paused => {
            body.push_str("<p><b>It takes no new jobs</b> until its owner resumes it.</p>\n")
        }
        AgentState::Draining => {
            body.push_str("<p><b>It takes no new jobs</b>, and finishes those that it has.</p>\n")
        }
        AgentState::Deleted => body.push_str("<p><b>It has been deleted.</b></p>\n"),
    }
    // Without a configured URL the relay's page is linked instead: its script shows the address.
    let place =
        if relay.url.is_empty() { "<a href=\"/\">this relay</a>".to_owned() } else { escape(relay.url) };
    let _ = writeln!(body, "<p>A client publishes this on {place}, signed by your key:</p>");
    let _ = writeln!(body, "<code id=\"example\">{}</code>", escape(&example(entry, handler)));
    let _ = writeln!(
        body,
        "<p>Feedback comes as kind 7000 and the result as kind {}, with the id of your request in the tag e. {}</p>",
        u32::from(handler.kind) + 1_000,
        if entry.manifest.encryption {
            "You may encrypt the request (NIP-44 or NIP-04); then the answers are encrypted too."
        } else {
            "Encrypted requests are not taken."
        },
    );
}

/// A request of this kind, unsigned, a line for each tag.
fn example(entry: &AgentEntry, handler: &Handler) -> String {
    let input = handler.inputs.first().copied().unwrap_or(InputKind::Text);
    let value = match input {
        InputKind::Text => "your text",
        InputKind::Event => "<id of an event>",
        InputKind::Job => "<id of a job request>",
        InputKind::Url => "https://example.com/",
    };
    let mut tags = vec![vec!["i", value, input.name()]; handler.inputs_min.clamp(1, 3)];
    for (name, param) in handler.params.iter().filter(|(_, param)| param.required) {
        let value = param.default.as_ref().or(param.values.first()).map_or("…", String::as_str);
        tags.push(vec!["param", name, value]);
    }
    let pubkey = entry.pubkey.to_string();
    tags.push(vec!["p", &pubkey]);
    let tags: Vec<String> = tags.iter().map(|tag| format!("    {}", array(tag))).collect();
    format!(
        "{{\n  \"kind\": {},\n  \"content\": \"\",\n  \"tags\": [\n{}\n  ]\n}}",
        handler.kind,
        tags.join(",\n")
    )
}

/// A JSON array on one line.
fn array(texts: &[&str]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| serde_json::json!(text).to_string()).collect();
    format!("[{}]", texts.join(", "))
}

fn conditions(body: &mut String, manifest: &Manifest) {
    let (limits, access) = (&manifest.limits, &manifest.access);
    body.push_str("<h2>Conditions</h2>\n<table>\n");
    if !access.allow.is_empty() {
        row(body, "Customers", "only those its owner has listed");
    }
    if access.min_pow > 0 {
        row(body, "Proof of work", &format!("{} bits (NIP-13)", access.min_pow));
    }
    let open_jobs = if access.open_jobs { "taken" } else { "not taken" };
    row(body, "Requests that name no agent", open_jobs);
    row(body, "Inputs of a job", &format!("up to {}", bytes(limits.input_bytes)));
    row(body, "Result", &format!("up to {}", bytes(limits.output_bytes)));
    row(body, "Time of an attempt", &format!("up to {} seconds", grouped(limits.timeout_s)));
    row(body, "Attempts", &format!("up to {}", limits.attempts));
    row(body, "Jobs of a customer", &format!("{} a minute", grouped(u64::from(limits.per_customer_per_min))));
    if manifest.memory.sessions {
        row(body, "Memory", &format!("remembers its customers for {} days", manifest.memory.ttl_days));
    }
    body.push_str("</table>\n");
}

fn about_it(body: &mut String, entry: &AgentEntry) {
    let AgentEntry { pubkey, owner, manifest, version, .. } = entry;
    let npub = identity::npub(pubkey);
    body.push_str("<h2>About it</h2>\n<table class=\"wide\">\n");
    row(body, "Public key", &format!("<span class=\"key\">{npub}</span>"));
    row(body, "Owner", &format!("<span class=\"key\">{}</span>", identity::npub(owner)));
    for (name, link) in [("Homepage", &manifest.homepage), ("Source", &manifest.repository)] {
        if let Some(link) = link {
            row(body, name, &link_to(link));
        }
    }
    if let Some(license) = &manifest.license {
        row(body, "License", &format!("<bdi>{}</bdi>", escape(license)));
    }
    if let Some(version) = &manifest.version {
        row(body, "Version", &format!("<bdi>{}</bdi>", escape(version)));
    }
    row(body, "Manifest", &format!("<a href=\"/agent/{npub}/manifest.json\">number {version}, as JSON</a>"));
    body.push_str("</table>\n");
}

/// A link to a web page; another address is text.
fn link_to(address: &str) -> String {
    let Some(url) = Url::parse(address).ok().filter(|url| matches!(url.scheme(), "https" | "http")) else {
        return format!("<bdi>{}</bdi>", escape(address));
    };
    let (_, shown) = url.as_str().split_once("://").unwrap_or_default();
    let shown = shortened(shown.trim_end_matches('/'), 60);
    format!(
        "<a href=\"{}\" rel=\"nofollow noopener noreferrer\"><bdi>{}</bdi></a>",
        escape(url.as_str()),
        escape(&shown)
    )
}

fn input_name(kind: InputKind) -> &'static str {
    match kind {
        InputKind::Text => "text",
        InputKind::Event => "an event",
        InputKind::Job => "the result of a job",
        InputKind::Url => "a URL",
    }
}

/// The text with at most one empty line between paragraphs.
fn paragraphs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut is_blank = true;
    for line in text.lines().map(str::trim_end) {
        if !(line.is_empty() && is_blank) {
            out.push_str(line);
            out.push('\n');
        }
        is_blank = line.is_empty();
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_pages_are_linked() {
        let cases = [
            ("https://example.com/", ">example.com</bdi>"),
            ("HTTP://a.example/'\"><b>", "href=\"http://a.example/&#39;%22%3E%3Cb%3E\""),
            ("javascript:alert(1)//https://example.com", "javascript:alert(1)//https://example.com"),
            ("\u{1}JavaScript://%0aalert(1)", "JavaScript://%0aalert(1)"),
            ("data:text/html,<script>", "data:text/html,&lt;script&gt;"),
        ];
        for (url, want) in cases {
            let html = link_to(url);
            assert!(html.contains(want), "{url}: {html}");
            assert_eq!(html.starts_with("<a "), url.to_lowercase().starts_with("http"), "{url}: {html}");
        }
    }

    #[test]
    fn empty_lines_do_not_pile_up() {
        let cases = [("", ""), ("\n\n a\r\n\n \n\n\nb\n\n", " a\n\nb"), ("a\nb", "a\nb")];
        for (text, want) in cases {
            assert_eq!(paragraphs(text), want);
        }
    }
}
