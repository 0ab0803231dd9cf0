//! The web page and the relay's icon; style sheet and helpers of the pages of agents and of Blossom.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use sha2::{Digest as _, Sha256};

use crate::feature::FEATURES;
use crate::nip11::RelayDescription;

/// The page, with placeholders.
const TEMPLATE: &str = include_str!("page.html");

/// The style sheet of all pages: light and dark, for phones too.
pub const STYLE: &str = include_str!("style.css");

/// Rules for forms, and for [`PAYMENT_SECTION`], beside [`STYLE`].
pub const FORM_STYLE: &str = include_str!("form.css");

/// The part of a page that says what happens and asks for payments, as HTML; [`PAYMENT_SCRIPT`] fills it.
pub const PAYMENT_SECTION: &str = include_str!("pay.html");

/// What scripts begin with that ask for payments: `at(id)`, `say(text, isError)`, `showInvoice(invoice, msat)`.
pub const PAYMENT_SCRIPT: &str = include_str!("pay.js");

/// What a page may load and do (`Content-Security-Policy`) that has this script: its style sheet, pictures and requests of this relay, and the
/// script, by its hash.
pub fn script_policy(script: &str) -> String {
    let hash = BASE64_STANDARD.encode(Sha256::digest(script));
    format!(
        "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
         script-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The script of the page: it shows the address at which the page was asked for.
const SCRIPT: &str = include_str!("page.js");

/// What pages may load and do (`Content-Security-Policy`): the style sheet within them, pictures (the operator's icon may be
/// anywhere), and [`SCRIPT`], by its hash.
pub(crate) const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src * data:; \
    script-src 'sha256-xNCgehvMDyec/qfFQmJgUmZJClkOuoFncTbb8H4LEdw='; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The built-in icon, which both hosts serve as `/icon.svg`.
pub const ICON_SVG: &str = include_str!("icon.svg");

/// The page. `fallback` is the relay's address that it shows if no URL is set and scripts are off.
pub(crate) fn render(relay: &RelayDescription<'_>, fallback: &str) -> String {
    let RelayDescription { info, url, .. } = relay;
    let nips: Vec<String> = relay
        .supported_nips()
        .iter()
        .map(|nip| {
            format!(r#"<a href="https://github.com/nostr-protocol/nips/blob/master/{nip:02}.md">{nip}</a>"#)
        })
        .collect();
    let sections: String = FEATURES.iter().map(|feature| (feature.section)(relay)).collect();
    let contact = info
        .contact
        .as_deref()
        .map_or_else(String::new, |contact| format!("<h2>Contact</h2>\n<p>{}</p>", escape(contact)));
    let fill: [(&str, String); 11] = [
        ("{{style}}", STYLE.to_owned()),
        ("{{script}}", SCRIPT.to_owned()),
        ("{{icon}}", escape(info.icon.as_deref().unwrap_or("/icon.svg"))),
        ("{{name}}", escape(&info.name)),
        ("{{description}}", escape(&info.description)),
        ("{{url}}", escape(url.unwrap_or(fallback))),
        ("{{url_is_set}}", url.is_some().to_string()),
        ("{{nips}}", nips.join(" ")),
        ("{{sections}}", sections),
        ("{{contact}}", contact),
        ("{{version}}", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    fill_in(TEMPLATE, &fill)
}

/// Replaces the placeholders of a template (`{{name}}`) in one pass, so that a placeholder in somebody's text is not
/// replaced.
pub fn fill_in(template: &str, fill: &[(&str, String)]) -> String {
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some(start) = rest.find("{{") {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        match fill.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, value)) => {
                out.push_str(value);
                rest = &rest[name.len()..];
            }
            None => {
                out.push_str("{{");
                rest = &rest[2..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Text as HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// A size in the largest unit that fits.
pub fn bytes(count: usize) -> String {
    match count {
        _ if count >= 1 << 20 && count.is_multiple_of(1 << 20) => format!("{} MiB", count >> 20),
        _ if count >= 1 << 10 && count.is_multiple_of(1 << 10) => format!("{} KiB", count >> 10),
        _ => format!("{} bytes", grouped(count as u64)),
    }
}

/// Digits in groups of three.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use relay_engine::policy::Policy;
    use relay_engine::types::Limits;

    use super::*;
    use crate::Info;

    #[test]
    fn the_page_shows_the_operators_text_escaped() {
        let info = Info { name: "<b>{{url}} & co".into(), ..Info::default() };
        let (limits, policy) = (Limits::default(), Policy::default());
        let url = Some("wss://relay.example");
        let page = RelayDescription {
            info: &info,
            limits: &limits,
            policy: &policy,
            url,
            has_agents: false,
            has_market: false,
            blossom: None,
        }
        .page("");
        assert!(page.contains("&lt;b&gt;{{url}} &amp; co"));
        assert!(page.contains("wss://relay.example") && page.contains("2 MiB"));
        assert_eq!(page.matches("{{").count(), page.matches("{{url}} &amp; co").count());
    }

    #[test]
    fn the_page_may_run_its_own_script_and_no_other() {
        let hash = BASE64_STANDARD.encode(Sha256::digest(SCRIPT));
        assert!(CONTENT_POLICY.contains(&format!("script-src 'sha256-{hash}';")), "{hash}");
        assert!(TEMPLATE.contains("<script>{{script}}</script>"));
    }

    #[test]
    fn numbers_are_grouped() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")];
        for (number, want) in cases {
            assert_eq!(grouped(number), want);
        }
    }
}
