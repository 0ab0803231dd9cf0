//! The pages: all agents, and one; and what the page of the market has in common with them.
//!
//! What owners write is text in them. A page loads nothing from another host, so that an owner does not learn who reads it:
//! instead of the agent's picture it shows its initial, in a colour made of its key.

mod agent;
mod list;
mod try_it;

pub(super) use agent::{Figures, agent};
pub(super) use list::{Part, list};
use relay_engine::types::PubKey;
use relay_site::HttpResponse;
use relay_site::page::{FORM_STYLE, PAYMENT_SCRIPT, STYLE, escape, fill_in, grouped, script_policy};
use unicode_segmentation::UnicodeSegmentation as _;

use super::{Relay, kind_name};
use crate::machine::AgentState;
use crate::manifest::{Handler, Price};

const TEMPLATE: &str = include_str!("page.html");
const AGENTS_STYLE: &str = include_str!("style.css");

/// `above`: the page that this one is reached from, beside the relay's: its path and name.
fn document(title: &str, above: Option<(&str, &str)>, body: String, relay: &Relay<'_>) -> String {
    styled_document(title, above, body, relay, "")
}

/// A page with a script of its own, and what it may load and do.
fn scripted_document(
    title: &str,
    above: Option<(&str, &str)>,
    mut body: String,
    relay: &Relay<'_>,
    script: &str,
) -> HttpResponse {
    let script = format!("{PAYMENT_SCRIPT}{script}");
    let policy = script_policy(&script);
    body.push_str(&format!("<script>{script}</script>\n"));
    HttpResponse::new(200, "text/html; charset=utf-8", styled_document(title, above, body, relay, FORM_STYLE))
        .with("content-security-policy", policy)
}

/// A page with a body of its own, which is HTML, and rules beside the style sheet of agents' pages.
pub fn styled_document(
    title: &str,
    above: Option<(&str, &str)>,
    body: String,
    relay: &Relay<'_>,
    style: &str,
) -> String {
    let mut trail = format!("<a href=\"/\"><bdi>{}</bdi></a>", escape(relay.name));
    if let Some((path, name)) = above {
        trail.push_str(&format!("<a href=\"{path}\">{name}</a>"));
    }
    fill_in(
        TEMPLATE,
        &[
            ("{{style}}", format!("{STYLE}{AGENTS_STYLE}{style}")),
            ("{{title}}", escape(title)),
            ("{{trail}}", trail),
            ("{{body}}", body),
            ("{{version}}", escape(relay.version)),
        ],
    )
}

/// The initial of an agent, in its colour. HTML.
pub fn tile(name: &str, pubkey: &PubKey) -> String {
    let initial = name.graphemes(true).find(|grapheme| grapheme.starts_with(char::is_alphanumeric));
    let initial = initial.or_else(|| name.graphemes(true).next()).unwrap_or_default();
    let hue = u16::from_be_bytes([pubkey.0[0], pubkey.0[1]]) % 360;
    let initial = escape(&initial.to_uppercase());
    format!("<span class=\"tile\" style=\"--hue:{hue}\" aria-hidden=\"true\">{initial}</span>")
}

fn state_badge(state: AgentState) -> String {
    format!("<span class=\"state {0}\">{0}</span>", state.name())
}

/// The name of a kind, or its number.
pub fn kind_label(kind: u16) -> String {
    kind_name(kind).map_or_else(|| format!("Kind {kind}"), str::to_owned)
}

/// The lowest price of these handlers.
fn price(handlers: &[Handler]) -> String {
    let cheapest = handlers.iter().map(|handler| match handler.price {
        Price::Free => 0,
        Price::PerJob { msat } => msat,
    });
    match cheapest.min() {
        None | Some(0) => "free".to_owned(),
        Some(msat) if msat % 1_000 == 0 => format!("{} sats", grouped(msat / 1_000)),
        Some(msat) => format!("{} msat", grouped(msat)),
    }
}

/// The text on one line, cut after so many graphemes.
pub fn shortened(text: &str, graphemes: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.grapheme_indices(true).nth(graphemes) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_shows_the_first_letter_or_else_the_first_sign() {
        let cases =
            [("echo", "E"), ("  «über»", "Ü"), ("<script>", "S"), ("🦜", "🦜"), ("&", "&amp;"), ("ß", "SS")];
        for (name, want) in cases {
            let tile = tile(name, &PubKey([1; 32]));
            assert!(tile.ends_with(&format!(">{want}</span>")), "{name}: {tile}");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_graphemes() {
        let cases = [
            ("a\n\n b", 3, "a b"),
            ("abcd", 3, "abc…"),
            ("ab cd", 3, "ab…"),
            ("e\u{301}e\u{301}", 1, "e\u{301}…"),
        ];
        for (text, graphemes, want) in cases {
            assert_eq!(shortened(text, graphemes), want, "{text}");
        }
    }
}
