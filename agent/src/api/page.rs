//! The pages: all agents, and one.

use std::fmt::Write as _;

use relay_site::Answer;
use relay_site::page::{STYLE, escape, fill_in};

use super::{Relay, kind_name};
use crate::identity;
use crate::job::InputKind;
use crate::machine::AgentState;
use crate::manifest::{Handler, Price};
use crate::router::Entry;

const TEMPLATE: &str = include_str!("page.html");

/// Figures of an agent, as its page shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Jobs with a result.
    pub(super) done: u64,
    /// Jobs that ended otherwise.
    pub(super) failed: u64,
    /// Jobs that run or wait.
    pub(super) open: u64,
    /// Milliseconds from request to result, of the middle job.
    pub(super) median_ms: Option<u64>,
}

fn document(title: &str, icon: Option<&str>, body: &str, relay: &Relay<'_>) -> String {
    fill_in(
        TEMPLATE,
        &[
            ("{{style}}", STYLE.to_owned()),
            ("{{title}}", escape(title)),
            ("{{icon}}", escape(icon.unwrap_or("/icon.svg"))),
            ("{{body}}", body.to_owned()),
            ("{{relay}}", escape(relay.name)),
            ("{{version}}", escape(relay.version)),
        ],
    )
}

/// A page as a response. It has no script, and pictures from elsewhere are all that it loads.
pub(super) fn answer(page: String) -> Answer {
    const POLICY: &str = "default-src 'none'; img-src 'self' https: data:; style-src 'unsafe-inline'; base-uri 'none'; \
                          form-action 'none'; frame-ancestors 'none'";
    Answer::page(page).with("content-security-policy", POLICY)
}

/// All agents.
pub(super) fn list(entries: &[&Entry], relay: &Relay<'_>) -> String {
    let mut body = format!("<h1>Agents of {}</h1>\n", escape(relay.name));
    if entries.is_empty() {
        body.push_str("<p>No agent has been deployed yet.</p>\n");
    } else {
        body.push_str("<p>Agents answer job requests over Nostr (NIP-90): publish a request on this relay, and the result comes back to it.</p>\n");
    }
    body.push_str("<ul class=\"cards\">\n");
    for entry in entries {
        let manifest = &entry.manifest;
        let kinds: Vec<String> = manifest.handlers.iter().map(|handler| kind_label(handler.kind)).collect();
        let _ = writeln!(
            body,
            "<li><a href=\"/agent/{npub}\"><img src=\"{picture}\" alt=\"\"><span><b>{name}</b> {state}<small>{about}</small><small>{kinds} · {price}</small></span></a></li>",
            npub = identity::npub(&entry.pubkey),
            picture = escape(manifest.picture.as_deref().unwrap_or("/icon.svg")),
            name = escape(&manifest.name),
            state = state_badge(entry.state),
            about = escape(&shortened(&manifest.about, 140)),
            kinds = escape(&kinds.join(", ")),
            price = escape(&price(&manifest.handlers)),
        );
    }
    body.push_str("</ul>\n");
    document(&format!("Agents of {}", relay.name), None, &body, relay)
}

/// One agent.
pub(super) fn agent(entry: &Entry, figures: &Figures, relay: &Relay<'_>) -> String {
    let manifest = &entry.manifest;
    let npub = identity::npub(&entry.pubkey);
    let icon = manifest.picture.as_deref().unwrap_or("/icon.svg");
    let mut body = format!(
        "<h1><img src=\"{}\" alt=\"\">{}</h1>\n<p>{}</p>\n<p>{} {}</p>\n",
        escape(icon),
        escape(&manifest.name),
        escape(&manifest.about),
        state_badge(entry.state),
        escape(&figures_line(figures)),
    );
    let _ = write!(body, "<h2>Address</h2>\n<code>{npub}</code>\n");
    body.push_str("<h2>What it does</h2>\n<table>\n");
    for handler in &manifest.handlers {
        handler_rows(&mut body, handler);
    }
    body.push_str("</table>\n");
    body.push_str("<h2>How to use it</h2>\n<p>Publish an event of this kind on ");
    let _ = writeln!(body, "{}, signed by your key:</p>", escape(relay.url));
    if let Some(handler) = manifest.handlers.first() {
        let example = serde_json::json!({
            "kind": handler.kind,
            "content": "",
            "tags": [["i", "your text", "text"], ["p", entry.pubkey.to_string()]],
        });
        let example = serde_json::to_string_pretty(&example).unwrap_or_default();
        let _ = writeln!(body, "<code class=\"block\">{}</code>", escape(&example));
        let _ = writeln!(
            body,
            "<p>Feedback comes as kind 7000, the result as kind {}. {}</p>",
            u32::from(handler.kind) + 1_000,
            if manifest.encryption {
                "Requests may be encrypted (NIP-44 or NIP-04); then the answers are too."
            } else {
                "Encrypted requests are not taken."
            },
        );
    }
    let mut rows = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(rows, "<tr><th>{name}</th><td>{value}</td></tr>");
    };
    let limits = &manifest.limits;
    row("Largest input", escape(&relay_site::page::bytes(limits.input_bytes)));
    row("Largest result", escape(&relay_site::page::bytes(limits.output_bytes)));
    row("Time for a job", format!("{} s, {} attempts", limits.timeout_s, limits.attempts));
    row("Jobs of one customer", format!("{} a minute", limits.per_customer_per_min));
    if manifest.memory.sessions {
        row("Memory", format!("remembers its customers for {} days", manifest.memory.ttl_days));
    }
    row("Owner", format!("<span class=\"key\">{}</span>", entry.owner));
    for (name, link) in [("Homepage", &manifest.homepage), ("Source", &manifest.repository)] {
        if let Some(link) = link {
            row(name, format!("<a href=\"{0}\" rel=\"nofollow noopener\">{0}</a>", escape(link)));
        }
    }
    if let Some(license) = &manifest.license {
        row("License", escape(license));
    }
    row("Version", entry.version.to_string());
    let _ = write!(body, "<h2>Conditions</h2>\n<table>\n{rows}</table>\n");
    let _ = writeln!(
        body,
        "<p><a href=\"/agent/{npub}/manifest.json\">Manifest</a> · <a href=\"/agents\">All agents</a></p>"
    );
    document(&manifest.name, manifest.picture.as_deref(), &body, relay)
}

fn handler_rows(body: &mut String, handler: &Handler) {
    let label = kind_label(handler.kind);
    let _ = writeln!(
        body,
        "<tr><th>Kind {}</th><td><b>{}</b>, {}</td></tr>",
        handler.kind,
        escape(&label),
        escape(&price(std::slice::from_ref(handler)))
    );
    if !handler.inputs.is_empty() {
        let inputs: Vec<&str> = handler.inputs.iter().map(|kind| input_name(*kind)).collect();
        let _ = writeln!(body, "<tr><th>Inputs</th><td>{}</td></tr>", inputs.join(", "));
    }
    for (name, param) in &handler.params {
        let mut value =
            if param.values.is_empty() { "any value".to_owned() } else { param.values.join(", ") };
        if let Some(default) = &param.default {
            let _ = write!(value, "; {default} if not given");
        }
        if param.required {
            value.push_str("; required");
        }
        let _ = writeln!(body, "<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(&value));
    }
}

fn input_name(kind: InputKind) -> &'static str {
    match kind {
        InputKind::Text => "text",
        InputKind::Event => "an event",
        InputKind::Job => "the result of a job",
        InputKind::Url => "a URL",
    }
}

fn kind_label(kind: u16) -> String {
    kind_name(kind).map_or_else(|| format!("kind {kind}"), str::to_owned)
}

fn price(handlers: &[Handler]) -> String {
    let cheapest = handlers.iter().map(|handler| match handler.price {
        Price::Free => 0,
        Price::PerJob { msat } => msat,
    });
    match cheapest.min() {
        None | Some(0) => "free".to_owned(),
        Some(msat) if msat % 1_000 == 0 => format!("{} sats", msat / 1_000),
        Some(msat) => format!("{msat} msat"),
    }
}

fn state_badge(state: AgentState) -> String {
    format!("<em class=\"state {0}\">{0}</em>", state.name())
}

fn figures_line(figures: &Figures) -> String {
    let Figures { done, failed, open, median_ms } = *figures;
    if done + failed + open == 0 {
        return "No job yet.".to_owned();
    }
    let mut line =
        format!("{} {} done", relay_site::page::grouped(done), if done == 1 { "job" } else { "jobs" });
    if failed > 0 {
        let _ = write!(line, ", {} not", relay_site::page::grouped(failed));
    }
    if open > 0 {
        let _ = write!(line, ", {} at work", relay_site::page::grouped(open));
    }
    if let Some(ms) = median_ms {
        let _ = if ms < 1_000 {
            write!(line, "; answers in {ms} ms")
        } else {
            write!(line, "; answers in {} s", ms.div_ceil(1_000))
        };
    }
    line.push('.');
    line
}

fn shortened(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}
