//! MIME types: declared by headers, sniffed from the first bytes, and their file extensions.
//!
//! Three small crates have the tables, none of them with I/O: `infer` (types from the first bytes), `mime_guess` (type of an
//! extension) and `mime2ext` (the one extension of a type, by mime-db; `mime_guess` knows all of them, but not which is usual).

use relay_site::BlossomSettings;
use relay_site::blossom::RetentionRule;

/// The type of a blob whose type is not known (BUD-01).
pub const UNKNOWN: &str = "application/octet-stream";

/// Longest type that is kept, in bytes, with its parameters.
const BYTES_MAX: usize = 255;

/// Extensions that `mime2ext` does not have, or has another one for (`mpga`, `qt`, `oga`).
const USUAL: [(&str, &str); 9] = [
    (UNKNOWN, "bin"),
    ("audio/aac", "aac"),
    ("audio/flac", "flac"),
    ("audio/m4a", "m4a"),
    ("audio/mpeg", "mp3"),
    ("audio/ogg", "ogg"),
    ("audio/opus", "opus"),
    ("video/mpeg", "mpg"),
    ("video/quicktime", "mov"),
];

/// A text is not a MIME type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAType;

/// Reads a type as a header declares it: `type/subtype` in lowercase, and those of its parameters that are `name=token` or
/// `name="token"`, without the quotes. Browsers split a `Content-Type` at commas and the last type wins, so no comma, quote or
/// backslash may be in what is stored, wherever it stands; parameters with them (`codecs="avc1, mp4a"`) are left out.
///
/// # Errors
/// If it is none, is longer than 255 bytes or has characters that no header may have.
pub fn parse(value: &str) -> Result<String, NotAType> {
    let (essence, parameters) = match value.split_once(';') {
        Some((essence, parameters)) => (essence.trim(), parameters.trim()),
        None => (value.trim(), ""),
    };
    let (kind, subtype) = essence.split_once('/').ok_or(NotAType)?;
    let is_visible = parameters.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if value.len() > BYTES_MAX || !is_token(kind) || !is_token(subtype) || !is_visible {
        return Err(NotAType);
    }
    let mut mime = essence.to_ascii_lowercase();
    for (name, value) in parameters.split(';').filter_map(|parameter| parameter.trim().split_once('=')) {
        let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        let value = unquoted.unwrap_or(value);
        if is_token(name) && is_token(value) {
            mime.extend(["; ", name, "=", value]);
        }
    }
    Ok(mime)
}

fn is_token(text: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token)
}

/// A type without its parameters.
pub fn essence(mime: &str) -> &str {
    mime.split(';').next().unwrap_or_default().trim()
}

/// The usual file extension of a type, `bin` if there is none.
pub fn extension(mime: &str) -> &'static str {
    let essence = essence(mime);
    let usual = USUAL.iter().find(|(own, _)| *own == essence).map(|(_, extension)| *extension);
    usual.or_else(|| mime2ext::mime2ext(essence)).unwrap_or("bin")
}

/// The type that the first bytes show. Only formats with an unmistakable beginning are recognised.
pub fn sniff(first: &[u8]) -> Option<&'static str> {
    infer::get(first).map(|kind| kind.mime_type())
}

/// The type of bytes that are declared as `declared`. What the first bytes tell wins over `application/octet-stream`; and where they
/// are a picture, sound, video, font or PDF, over a type of another kind: with a wrong one no browser shows the blob. Containers have
/// names for sound and for video, and a text may begin like anything.
pub fn declared_or_sniffed(declared: &str, first: &[u8]) -> String {
    let Some(sniffed) = sniff(first) else { return declared.to_owned() };
    let kind = |mime: &str| match essence(mime).split('/').next() {
        Some("audio" | "video") => "sound or video".to_owned(),
        other => other.unwrap_or_default().to_owned(),
    };
    let is_sure = matches!(&*kind(sniffed), "image" | "sound or video" | "font") || is_pdf(sniffed);
    let is_wrong = is_sure && kind(sniffed) != kind(declared) && !is_text(first);
    if essence(declared) == UNKNOWN || is_wrong { sniffed.to_owned() } else { declared.to_owned() }
}

/// Whether bytes, which may end within a character, are UTF-8 without NUL.
fn is_text(first: &[u8]) -> bool {
    let is_utf8 = std::str::from_utf8(first).map_or_else(|error| error.error_len().is_none(), |_| true);
    is_utf8 && !first.contains(&0)
}

/// The type of a file extension.
pub fn of_extension(extension: &str) -> Option<&'static str> {
    mime_guess::from_ext(extension).first_raw()
}

/// The type that the origin of a fetched blob declares, if it declares one and knows it.
pub fn of_origin(content_type: Option<&str>) -> Option<String> {
    let mime = parse(content_type?).ok()?;
    (essence(&mime) != UNKNOWN).then_some(mime)
}

/// Whether `pattern` (`image/png`, `image/*`, `*/*`) fits a type.
pub fn fits(pattern: &str, mime: &str) -> bool {
    let (pattern, mime) = (essence(pattern), essence(mime));
    if pattern == "*" || pattern == "*/*" {
        return true;
    }
    match pattern.strip_suffix("/*") {
        Some(kind) => mime.split('/').next().is_some_and(|own| own.eq_ignore_ascii_case(kind)),
        None => pattern.eq_ignore_ascii_case(mime),
    }
}

/// Whether the settings take blobs of this type.
pub fn is_taken(settings: &BlossomSettings, mime: &str) -> bool {
    let fits_any = |patterns: &[String]| patterns.iter().any(|pattern| fits(pattern, mime));
    (settings.allow_types.is_empty() || fits_any(&settings.allow_types)) && !fits_any(&settings.deny_types)
}

/// The retention rule for a blob, if there is one.
pub fn retention<'a>(rules: &'a [RetentionRule], mime: &str, size: u64) -> Option<&'a RetentionRule> {
    rules.iter().find(|rule| {
        (rule.types.is_empty() || rule.types.iter().any(|pattern| fits(pattern, mime)))
            && size >= rule.bytes_min
    })
}

/// Whether a browser shows it in a viewer of its own, which a sandbox would disable.
pub fn is_pdf(mime: &str) -> bool {
    essence(mime).eq_ignore_ascii_case("application/pdf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_are_read_and_malformed_ones_refused() {
        let cases = [
            ("image/png", Some("image/png")),
            (" Image/PNG ", Some("image/png")),
            ("text/plain;charset=UTF-8", Some("text/plain; charset=UTF-8")),
            ("text/html ; charset=utf-8", Some("text/html; charset=utf-8")),
            ("text/plain; charset=\"utf-8\"", Some("text/plain; charset=utf-8")),
            ("text/plain;;  charset=utf-8;", Some("text/plain; charset=utf-8")),
            ("text/plain; a=b ; c=d", Some("text/plain; a=b; c=d")),
            // A browser reads the last type of these.
            ("image/png; x=1, text/html", Some("image/png")),
            ("image/png; x=1,text/html; charset=utf-8", Some("image/png; charset=utf-8")),
            ("image/png;, text/html", Some("image/png")),
            ("image/png; x=\"1, text/html\"", Some("image/png")),
            ("image/png; x=\"; y=1, text/html", Some("image/png")),
            ("image/png; x=\"\\\", text/html\"", Some("image/png")),
            ("image/png; x=\"a", Some("image/png")),
            ("image/png; x=a\"", Some("image/png")),
            ("image/png; x=\"\"", Some("image/png")),
            ("image/png; =x; y=; z", Some("image/png")),
            ("video/mp4; codecs=\"avc1.42E01E, mp4a.40.2\"; profile=x", Some("video/mp4; profile=x")),
            ("video/webm; codecs=vp9", Some("video/webm; codecs=vp9")),
            ("image/png, text/html", None),
            ("image/png,text/html; charset=utf-8", None),
            ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", Some("")),
            ("image/svg+xml", Some("image/svg+xml")),
            ("image", None),
            ("image/", None),
            ("/png", None),
            ("image/p ng", None),
            ("image/*", None),
            ("*/*", None),
            ("text/plain; a=\u{e9}", None),
            ("text/plain; a=\r\nb", None),
            ("", None),
        ];
        for (value, want) in cases {
            let want = want.map(|want| if want.is_empty() { value } else { want });
            assert_eq!(parse(value).ok().as_deref(), want, "{value:?}");
        }
        assert_eq!(parse(&format!("a/{}", "b".repeat(254))), Err(NotAType));
    }

    #[test]
    fn extensions_are_the_usual_ones() {
        let cases = [
            ("image/jpeg", "jpg"),
            ("image/png", "png"),
            ("image/webp", "webp"),
            ("image/gif", "gif"),
            ("image/avif", "avif"),
            ("image/svg+xml", "svg"),
            ("video/mp4", "mp4"),
            ("video/quicktime", "mov"),
            ("video/webm", "webm"),
            ("audio/mpeg", "mp3"),
            ("audio/mp4", "m4a"),
            ("audio/wav", "wav"),
            ("audio/x-wav", "wav"),
            ("audio/flac", "flac"),
            ("audio/x-flac", "flac"),
            ("audio/aac", "aac"),
            ("audio/webm", "weba"),
            ("audio/opus", "opus"),
            ("audio/m4a", "m4a"),
            ("audio/x-m4a", "m4a"),
            ("image/heic", "heic"),
            ("image/bmp", "bmp"),
            ("image/tiff", "tif"),
            ("image/x-icon", "ico"),
            ("image/jxl", "jxl"),
            ("image/apng", "apng"),
            ("video/x-matroska", "mkv"),
            ("video/x-msvideo", "avi"),
            ("video/mpeg", "mpg"),
            ("video/ogg", "ogv"),
            ("video/x-m4v", "m4v"),
            ("video/mp2t", "ts"),
            ("application/gzip", "gz"),
            ("application/x-tar", "tar"),
            ("application/x-7z-compressed", "7z"),
            ("application/epub+zip", "epub"),
            ("application/vnd.android.package-archive", "apk"),
            ("application/javascript", "js"),
            ("application/wasm", "wasm"),
            ("application/xml", "xml"),
            ("text/xml", "xml"),
            ("text/csv", "csv"),
            ("font/woff2", "woff2"),
            ("model/gltf-binary", "glb"),
            ("application/vnd.apple.mpegurl", "m3u8"),
            ("audio/ogg", "ogg"),
            ("application/pdf", "pdf"),
            ("application/json", "json"),
            ("application/zip", "zip"),
            ("text/plain; charset=utf-8", "txt"),
            ("text/html", "html"),
            ("text/css", "css"),
            ("text/javascript", "js"),
            ("text/markdown", "md"),
            ("application/octet-stream", "bin"),
            ("application/x-nobody-knows", "bin"),
        ];
        let unusual: Vec<_> = cases.iter().filter(|(mime, want)| extension(mime) != *want).collect();
        assert!(unusual.is_empty(), "{unusual:?}");
        assert_eq!(of_extension("jpeg"), Some("image/jpeg"));
        assert_eq!(of_extension("MP4"), Some("video/mp4"));
        assert_eq!(of_extension("nobodyknows"), None);
    }

    #[test]
    fn the_first_bytes_tell_the_type_or_nothing() {
        let cases: [(&[u8], Option<&str>); 7] = [
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", Some("image/png")),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", Some("image/jpeg")),
            (b"GIF89a\x01\0", Some("image/gif")),
            (b"%PDF-1.7\n", Some("application/pdf")),
            (b"hello, this is a text", None),
            (b"", None),
            (b"\0", None),
        ];
        for (first, want) in cases {
            assert_eq!(sniff(first), want, "{first:?}");
        }
    }

    #[test]
    fn the_first_bytes_win_over_a_type_of_another_kind() {
        let mp4 = b"\0\0\0\x18ftypisom\0\0\x02\0isommp42";
        let cases: [(&str, &[u8], &str); 11] = [
            (UNKNOWN, b"\x89PNG\r\n\x1a\n\0", "image/png"),
            ("text/plain", b"\x89PNG\r\n\x1a\n\0", "image/png"),
            ("application/x-foo; a=b", mp4, "video/mp4"),
            ("audio/mp4", mp4, "audio/mp4"),
            ("image/gif", b"\x89PNG\r\n\x1a\n\0", "image/gif"),
            ("image/svg+xml", b"<?xml version='1.0'?><svg/>", "image/svg+xml"),
            ("image/openraster", b"PK\x03\x04\x14\0\0\0", "image/openraster"),
            ("text/plain", b"BMW is a car", "text/plain"),
            ("text/plain; charset=utf-8", b"GIF is a format \xc3", "text/plain; charset=utf-8"),
            ("text/plain", b"nothing", "text/plain"),
            (UNKNOWN, b"nothing", UNKNOWN),
        ];
        for (declared, first, want) in cases {
            assert_eq!(declared_or_sniffed(declared, first), want, "{declared} {first:?}");
        }
    }

    #[test]
    fn lists_of_types_and_retention_rules_choose() {
        let list = |types: &[&str]| types.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let mut settings = BlossomSettings::default();
        assert!(is_taken(&settings, "x/y"));
        settings.allow_types = list(&["image/*", "Text/Plain"]);
        settings.deny_types = list(&["image/svg+xml"]);
        let cases = [
            ("image/png", true),
            ("text/plain; charset=utf-8", true),
            ("text/html", false),
            ("image/svg+xml", false),
            ("imagery/png", false),
        ];
        for (mime, want) in cases {
            assert_eq!(is_taken(&settings, mime), want, "{mime}");
        }
        let rule = |types: &[&str], bytes_min, age| RetentionRule {
            types: list(types),
            bytes_min,
            age_seconds: Some(age),
            unused_seconds: None,
        };
        settings.retention = vec![rule(&["video/*"], 100, 1), rule(&["video/*"], 0, 2), rule(&[], 1_000, 3)];
        let cases = [
            ("video/mp4", 100, Some(1)),
            ("video/mp4", 99, Some(2)),
            ("image/png", 1_000, Some(3)),
            ("image/png", 999, None),
        ];
        for (mime, size, want) in cases {
            let age = retention(&settings.retention, mime, size).and_then(|rule| rule.age_seconds);
            assert_eq!(age, want, "{mime} {size}");
        }
    }
}
