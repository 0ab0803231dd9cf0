//! The page of all agents.

use std::fmt::Write as _;

use relay_site::page::{escape, grouped};

use super::{document, kind_label, price, shortened, state_badge, tile};
use crate::api::Relay;
use crate::identity;
use crate::router::AgentEntry;

/// Names of kinds in an entry; of further ones their number is shown.
const KINDS_SHOWN: usize = 4;

/// A part of the agents: `entries` follow the first `offset` of `total`, and pages have `size` entries.
pub(in crate::api) struct Part<'a> {
    pub(in crate::api) entries: Vec<&'a AgentEntry>,
    pub(in crate::api) offset: usize,
    pub(in crate::api) total: usize,
    pub(in crate::api) size: usize,
}

/// All agents, a page at a time.
pub(in crate::api) fn list(part: &Part<'_>, relay: &Relay<'_>) -> String {
    let mut body = "<h1>Agents</h1>\n<p>Agents do work for others, over Nostr (NIP-90): publish a job request on this relay, \
        and the result is published here too.</p>\n"
        .to_owned();
    if part.total == 0 {
        body.push_str(
            "<div class=\"empty\"><h2>There are none yet</h2>\n<p>Whoever runs this relay deploys one with</p>\n\
             <code>relay agent deploy agent.toml</code></div>\n",
        );
    } else {
        let noun = if part.total == 1 { "agent" } else { "agents" };
        let _ = writeln!(body, "<p class=\"dim\">{} {noun}, by name</p>", grouped(part.total as u64));
        body.push_str("<ul class=\"cards\">\n");
        part.entries.iter().for_each(|entry| card(&mut body, entry));
        body.push_str("</ul>\n");
        pages(&mut body, part);
    }
    document(&format!("Agents of {}", relay.name), None, body, relay)
}

fn card(body: &mut String, entry: &AgentEntry) {
    let manifest = &entry.manifest;
    let handlers = &manifest.handlers;
    let mut kinds: Vec<String> =
        handlers.iter().take(KINDS_SHOWN).map(|handler| kind_label(handler.kind)).collect();
    if handlers.len() > KINDS_SHOWN {
        kinds.push(format!("{} more", handlers.len() - KINDS_SHOWN));
    }
    let _ = writeln!(
        body,
        "<li>{tile}<div><header><h2><a href=\"/agent/{npub}\"><bdi>{name}</bdi></a></h2>{state}</header>",
        tile = tile(&manifest.name, &entry.pubkey),
        npub = identity::npub(&entry.pubkey),
        name = escape(&manifest.name),
        state = state_badge(entry.state),
    );
    let about = shortened(&manifest.about, 200);
    if !about.is_empty() {
        let _ = writeln!(body, "<p dir=\"auto\">{}</p>", escape(&about));
    }
    let _ = writeln!(
        body,
        "<span class=\"facts\">{} · <b>{}</b></span></div></li>",
        escape(&kinds.join(", ")),
        price(handlers)
    );
}

fn pages(body: &mut String, part: &Part<'_>) {
    let Part { offset, total, size, .. } = *part;
    if offset == 0 && total <= size {
        return;
    }
    let link = |offset: usize, rel: &str, text: &str| match offset {
        0 => format!("<a rel=\"{rel}\" href=\"/agents\">{text}</a>"),
        _ => format!("<a rel=\"{rel}\" href=\"/agents?offset={offset}\">{text}</a>"),
    };
    let previous = if offset > 0 {
        link(offset.saturating_sub(size), "prev", "← Previous")
    } else {
        "<span></span>".to_owned()
    };
    let next = if offset + size < total {
        link(offset + size, "next", "Next →")
    } else {
        "<span></span>".to_owned()
    };
    let _ = writeln!(
        body,
        "<nav class=\"pages\" aria-label=\"Pages\">{previous}<span>Page {} of {}</span>{next}</nav>",
        offset / size + 1,
        total.div_ceil(size)
    );
}
