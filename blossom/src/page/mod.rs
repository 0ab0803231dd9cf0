//! The page of Blossom: who may upload, limits, types, how to use it, and the visitor's own files. It is made of the settings
//! that are enforced.
//!
//! Its script knows the visitor's key by a browser extension (NIP-07): it lists the files of that key, uploads and deletes. It
//! asks nobody but this server, and the page may run no other script.

use std::fmt::Write as _;
use std::sync::LazyLock;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use relay_site::HttpResponse;
use relay_site::blossom::RetentionRule;
use relay_site::page::{STYLE, escape, fill_in, grouped};
use sha2::{Digest as _, Sha256};

use crate::exchange::{Context, is_open, server_url};

const TEMPLATE: &str = include_str!("page.html");
const FILES_STYLE: &str = include_str!("style.css");

/// Runs as a module, so that its names do not clash with globals of browser extensions.
const SCRIPT: &str = concat!(
    include_str!("script/signer.js"),
    include_str!("script/list.js"),
    include_str!("script/upload.js")
);

/// What the page may load and do (`Content-Security-Policy`): everything is from this server, and the only script is
/// [`SCRIPT`], by its hash.
static CONTENT_POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; connect-src 'self'; script-src 'sha256-{}'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        BASE64_STANDARD.encode(Sha256::digest(SCRIPT))
    )
});

/// The page, as a response.
pub fn answer(context: &Context<'_>) -> HttpResponse {
    HttpResponse::new(200, "text/html; charset=utf-8", render(context))
        .with("content-security-policy", CONTENT_POLICY.as_str())
}

fn render(context: &Context<'_>) -> String {
    let settings = context.settings;
    let figures = figures(context).into_iter().fold(String::new(), |mut html, (name, value)| {
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
        html
    });
    let endpoints: Vec<(String, String)> =
        endpoints(context).into_iter().map(|(request, what)| (request.to_owned(), what.to_owned())).collect();
    fill_in(
        TEMPLATE,
        &[
            ("{{style}}", format!("{STYLE}{FILES_STYLE}")),
            ("{{script}}", SCRIPT.to_owned()),
            ("{{title}}", format!("Files of {}", escape(context.name))),
            ("{{name}}", escape(context.name)),
            ("{{base_url}}", escape(context.base_url)),
            ("{{figures}}", figures),
            ("{{bytes_max}}", settings.blob_bytes_max.to_string()),
            ("{{bytes_shown}}", size(settings.blob_bytes_max)),
            ("{{server}}", escape(server_url(context).unwrap_or_default())),
            ("{{list}}", if settings.list_public { "public" } else { "signed" }.to_owned()),
            ("{{limits}}", rows(&limits(context))),
            ("{{endpoints}}", rows(&endpoints)),
            ("{{version}}", env!("CARGO_PKG_VERSION").to_owned()),
        ],
    )
}

fn rows(rows: &[(String, String)]) -> String {
    rows.iter().fold(String::new(), |mut html, (name, value)| {
        let _ = writeln!(html, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), escape(value));
        html
    })
}

/// What most visitors want to know.
fn figures(context: &Context<'_>) -> [(&'static str, String); 4] {
    let settings = context.settings;
    let who = match (is_open(context), context.is_local) {
        (true, true) => "anybody on this machine",
        (true, false) => "anybody with a Nostr key",
        (false, _) => "keys that the operator has listed",
    };
    let price = settings.payment.price_text().unwrap_or_else(|| "free".to_owned());
    let kept = if settings.retention.is_empty() { "until you delete them" } else { "see the limits below" };
    [
        ("Who may upload", who.to_owned()),
        ("Largest file", size(settings.blob_bytes_max)),
        ("Price", price),
        ("Files are kept", kept.to_owned()),
    ]
}

fn limits(context: &Context<'_>) -> Vec<(String, String)> {
    let settings = context.settings;
    let types = |types: &[String]| types.join(", ");
    let mut rows = vec![("Largest file".to_owned(), size(settings.blob_bytes_max))];
    if context.processes_media {
        rows.push(("Largest picture for /media".to_owned(), size(settings.media_bytes_max)));
    }
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
    rows.extend(settings.retention.iter().map(retention));
    let listed = if settings.list_public { "anybody" } else { "only the key itself" };
    rows.push(("Who may list a key’s files".to_owned(), listed.to_owned()));
    let read = if settings.get_public { "anybody" } else { "keys that may upload, with a token" };
    rows.push(("Who may download".to_owned(), read.to_owned()));
    rows
}

/// A size in the largest unit that fits.
fn size(count: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = |(shift, _): &&(u32, &str)| count >= 1 << shift && count.is_multiple_of(1 << shift);
    match units.iter().find(fits) {
        Some((shift, unit)) => format!("{} {unit}", grouped(count >> shift)),
        None => format!("{} bytes", grouped(count)),
    }
}

fn retention(rule: &RetentionRule) -> (String, String) {
    let mut which = match rule.types.is_empty() {
        true => "Files".to_owned(),
        false => format!("Files of {}", rule.types.join(", ")),
    };
    if rule.bytes_min > 0 {
        let _ = write!(which, " from {}", size(rule.bytes_min));
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
        ("DELETE /<sha256>", "delete your file"),
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
    use relay_site::nip98::ServerUrl;

    use super::*;
    use crate::exchange::Keys;

    fn page(settings: &BlossomSettings, is_local: bool) -> String {
        page_at(ServerUrl::Url("https://cdn.example.com"), settings, is_local)
    }

    fn page_at(origin: ServerUrl<'_>, settings: &BlossomSettings, is_local: bool) -> String {
        let base_url = "https://cdn.example.com";
        let answer = answer(&Context {
            settings,
            keys: Keys { admins: &[], allowed: None, denied: &[] },
            base_url,
            origin,
            name: "<b>Relay {{style}}",
            is_local,
            processes_media: !is_local,
            upload_seconds_max: 3_600,
            now: 0,
            verifier: &Libsecp256k1,
        });
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    #[test]
    fn the_page_may_run_its_own_script_and_no_other() {
        let page = page(&BlossomSettings::default(), true);
        let (_, script) = page.split_once("<script type=\"module\">").unwrap();
        let (script, rest) = script.split_once("</script>").unwrap();
        assert!(!rest.contains("<script"));
        let hash = BASE64_STANDARD.encode(Sha256::digest(script));
        assert!(CONTENT_POLICY.contains(&format!("script-src 'sha256-{hash}';")), "{}", *CONTENT_POLICY);
    }

    #[test]
    fn tokens_of_the_page_name_the_server_only_where_it_can_check_that() {
        let settings = BlossomSettings::default();
        for (origin, want) in [
            (ServerUrl::Url("https://cdn.example.com"), "https://cdn.example.com"),
            (ServerUrl::Host("127.0.0.1:7777"), "https://cdn.example.com"),
            (ServerUrl::Host("cdn.example.com"), ""),
        ] {
            let page = page_at(origin, &settings, false);
            assert!(page.contains(&format!("data-server=\"{want}\"")), "{origin:?}");
        }
    }

    #[test]
    fn sizes_are_in_the_largest_unit_that_fits() {
        let cases = [
            (0, "0 bytes"),
            (1_500, "1,500 bytes"),
            (1 << 10, "1 KiB"),
            (1_500 << 20, "1,500 MiB"),
            (4 << 30, "4 GiB"),
            (2 << 50, "2,048 TiB"),
        ];
        for (count, want) in cases {
            assert_eq!(size(count), want);
        }
    }

    #[test]
    fn the_page_tells_what_is_enforced() {
        let mut settings = BlossomSettings::default();
        let local = page(&settings, true);
        assert!(local.contains("&lt;b&gt;Relay {{style}}") && !local.contains("<b>Relay"));
        assert!(local.contains("anybody on this machine") && local.contains("PUT /mirror"));
        assert!(local.contains("4 GiB") && local.contains("until you delete them") && local.contains("free"));
        assert!(local.contains("data-list=\"public\""));
        assert!(page(&settings, false).contains("keys that the operator has listed"));
        assert!(page(&settings, false).contains("PUT /media") && !local.contains("PUT /media"));
        settings.open = Some(true);
        settings.mirror = false;
        settings.list_public = false;
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
            "anybody with a Nostr key",
            "data-bytes-max=\"5242880\" data-list=\"signed\" data-server=\"https://cdn.example.com\"",
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
