//! The page of Blossom: who may upload, limits, types, how to use it. It is made of the settings that are enforced.

use std::fmt::Write as _;

use relay_site::blossom::RetentionRule;
use relay_site::page::{STYLE, bytes, escape, fill_in, grouped};

use crate::exchange::Context;
use crate::exchange::is_open;

const TEMPLATE: &str = include_str!("page.html");

/// The page.
pub fn render(context: &Context<'_>) -> String {
    let base_url = escape(context.base_url);
    let mut body = format!(
        "<p>Files are stored here by their SHA-256, for Nostr clients, by \
         <a href=\"https://github.com/hzrd149/blossom\">Blossom</a> (BUD-01 to BUD-14).</p>\n\
         <h2>Who may upload</h2>\n<p>{}</p>\n\
         <h2>Server address</h2>\n<code>{base_url}</code>\n\
         <p>Add it to the list of Blossom servers in your client. With a command line that has your key, upload with a token of \
         kind 24242 (BUD-11):</p>\n\
         <code>curl -T picture.png -H \"Authorization: Nostr $TOKEN\" {base_url}/upload</code>\n\
         <h2>Limits</h2>\n<table>\n",
        who(context)
    );
    for (name, value) in limits(context) {
        let _ =
            writeln!(body, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(&name), escape(&value));
    }
    body.push_str("</table>\n<h2>Endpoints</h2>\n<table>\n");
    for (request, what) in endpoints(context) {
        let _ = writeln!(body, "<tr><th scope=\"row\">{}</th><td>{what}</td></tr>", escape(request));
    }
    body.push_str("</table>\n");
    fill_in(
        TEMPLATE,
        &[
            ("{{style}}", STYLE.to_owned()),
            ("{{title}}", format!("Files of {}", escape(context.name))),
            ("{{name}}", escape(context.name)),
            ("{{body}}", body),
            ("{{version}}", env!("CARGO_PKG_VERSION").to_owned()),
        ],
    )
}

fn who(context: &Context<'_>) -> &'static str {
    match (is_open(context), context.is_local) {
        (true, true) => "Anybody, since only this machine can reach this relay.",
        (true, false) => "Anybody with a Nostr key.",
        (false, _) => "Keys that the operator has listed.",
    }
}

fn limits(context: &Context<'_>) -> Vec<(String, String)> {
    let settings = context.settings;
    let size = |count: u64| bytes(usize::try_from(count).unwrap_or(usize::MAX));
    let types = |types: &[String]| types.join(", ");
    let mut rows = vec![
        ("Largest file".to_owned(), size(settings.blob_bytes_max)),
        ("Largest picture for /media".to_owned(), size(settings.media_bytes_max)),
    ];
    if let Some(most) = settings.key_bytes_max {
        rows.push(("All files of a key".to_owned(), size(most)));
    }
    let taken = match settings.allow_types.is_empty() {
        true => "all".to_owned(),
        false => types(&settings.allow_types),
    };
    rows.push(("Types".to_owned(), taken));
    if !settings.deny_types.is_empty() {
        rows.push(("Refused types".to_owned(), types(&settings.deny_types)));
    }
    if settings.retention.is_empty() {
        rows.push(("Kept".to_owned(), "until their owner deletes them".to_owned()));
    }
    rows.extend(settings.retention.iter().map(retention));
    rows.push((
        "Price".to_owned(),
        if context.payments.is_some() { "see 402 responses" } else { "free" }.to_owned(),
    ));
    rows
}

fn retention(rule: &RetentionRule) -> (String, String) {
    let mut which = match rule.types.is_empty() {
        true => "Files".to_owned(),
        false => format!("Files of {}", rule.types.join(", ")),
    };
    if rule.bytes_min > 0 {
        let _ = write!(which, " from {}", bytes(usize::try_from(rule.bytes_min).unwrap_or(usize::MAX)));
    }
    let age = rule.age_seconds.map(|seconds| format!("{} after the upload", time(seconds)));
    let unused = rule.unused_seconds.map(|seconds| format!("{} without a download", time(seconds)));
    let when: Vec<String> = [age, unused].into_iter().flatten().collect();
    let kept = if when.is_empty() { "kept".to_owned() } else { format!("removed {}", when.join(" or ")) };
    (which, kept)
}

fn time(seconds: u64) -> String {
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let fits = |(unit, _): &&(u64, &str)| seconds >= *unit && seconds.is_multiple_of(*unit);
    let (unit, name) = *units.iter().find(fits).unwrap_or(&(1, "second"));
    let count = seconds / unit;
    format!("{} {name}{}", grouped(count), if count == 1 { "" } else { "s" })
}

fn endpoints(context: &Context<'_>) -> Vec<(&'static str, &'static str)> {
    let settings = context.settings;
    let mut rows = vec![
        ("GET /<sha256>", "a file, whole or a range of it; any extension may follow"),
        ("PUT /upload", "store a file; not a byte is changed"),
        ("PUT /<sha256>", "the same, for a hash that is known"),
        ("PATCH /<sha256>", "store a file in parts"),
        ("GET /list/<pubkey>", if settings.list_public { "the files of a key" } else { "your files" }),
        ("DELETE /<sha256>", "let a file go"),
        ("PUT /report", "report files to the operator"),
    ];
    if settings.mirror {
        rows.insert(4, ("PUT /mirror", "fetch a file from another server"));
    }
    if context.processes_media {
        rows.insert(4, ("PUT /media", "store a picture without its metadata (place, camera)"));
    }
    rows
}

#[cfg(test)]
mod tests {
    use relay_engine::verify::Libsecp256k1;
    use relay_site::BlossomSettings;
    use relay_site::nip98::Origin;

    use super::*;
    use crate::exchange::Keys;

    fn page(settings: &BlossomSettings, is_local: bool) -> String {
        let base_url = "https://cdn.example.com";
        render(&Context {
            settings,
            keys: Keys { admins: &[], allowed: None, denied: &[] },
            base_url,
            origin: Origin::Url(base_url),
            name: "<b>Relay {{style}}",
            is_local,
            processes_media: !is_local,
            upload_seconds_max: 3_600,
            now: 0,
            verifier: &Libsecp256k1,
            payments: None,
        })
    }

    #[test]
    fn the_page_tells_what_is_enforced() {
        let mut settings = BlossomSettings::default();
        let local = page(&settings, true);
        assert!(local.contains("&lt;b&gt;Relay {{style}}") && !local.contains("<b>Relay"));
        assert!(local.contains("Anybody, since only this machine") && local.contains("PUT /mirror"));
        assert!(page(&settings, false).contains("Keys that the operator has listed."));
        assert!(page(&settings, false).contains("PUT /media") && !local.contains("PUT /media"));
        settings.open = Some(true);
        settings.mirror = false;
        settings.blob_bytes_max = 5 << 20;
        settings.key_bytes_max = Some(7 << 20);
        settings.deny_types = vec!["text/html".to_owned()];
        settings.retention = vec![RetentionRule {
            types: vec!["video/*".to_owned()],
            bytes_min: 1 << 20,
            age_seconds: Some(86_400),
            unused_seconds: Some(7_200),
        }];
        let open = page(&settings, false);
        let shown = [
            "Anybody with a Nostr key.",
            "5 MiB",
            "7 MiB",
            "text/html",
            "Files of video/* from 1 MiB",
            "removed 1 day after the upload or 2 hours without a download",
            "https://cdn.example.com/upload",
        ];
        for text in shown {
            assert!(open.contains(text), "{text}");
        }
        assert!(!open.contains("PUT /mirror"));
    }
}
