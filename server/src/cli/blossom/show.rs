//! The relay's documents in words, for people.

use std::fmt::Write as _;

use serde_json::Value;

use super::super::time::time;

fn text<'a>(document: &'a Value, field: &str) -> &'a str {
    document[field].as_str().unwrap_or_default()
}

fn at(seconds: &Value) -> String {
    time(seconds.as_u64().unwrap_or_default().saturating_mul(1_000))
}

fn rows(document: &Value, field: &str, none: &str, row: impl Fn(&mut String, &Value)) -> String {
    let mut lines = String::new();
    for entry in document[field].as_array().into_iter().flatten() {
        row(&mut lines, entry);
    }
    if lines.is_empty() { none.to_owned() } else { lines }
}

pub(super) fn list(document: &Value) -> String {
    rows(document, "blobs", "no blobs", |lines, blob| {
        let size = blob["size"].as_u64().unwrap_or_default();
        let (sha256, mime) = (text(blob, "sha256"), text(blob, "type"));
        let _ = writeln!(lines, "{sha256}  {}  {size:>12}  {mime}", at(&blob["uploaded"]));
    })
}

pub(super) fn bans(document: &Value) -> String {
    rows(document, "bans", "no bans", |lines, ban| {
        let _ = writeln!(lines, "{}  {}  {}", text(ban, "sha256"), at(&ban["at"]), text(ban, "reason"));
    })
}

pub(super) fn reports(document: &Value) -> String {
    rows(document, "reports", "no reports", |lines, report| {
        let _ = writeln!(
            lines,
            "{}  {}  {}  {}  {:?}",
            text(report, "sha256"),
            at(&report["at"]),
            text(report, "reporter"),
            text(report, "category"),
            text(report, "content"),
        );
    })
}

pub(super) fn swept(document: &Value) -> String {
    match document["next"].as_u64() {
        Some(_) => format!("done; the next blob or upload expires at {}", at(&document["next"])),
        None => "done; nothing else will expire".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_told_in_lines() {
        let blob = json!({"sha256": "ab", "size": 12, "type": "image/png", "uploaded": 0});
        let line = "ab  1970-01-01T00:00:00.000Z            12  image/png\n";
        assert_eq!(list(&json!({"blobs": [blob]})), line);
        assert_eq!(list(&json!({"blobs": []})), "no blobs");
        let ban = json!({"sha256": "ab", "reason": "law", "at": 1});
        assert_eq!(bans(&json!({"bans": [ban]})), "ab  1970-01-01T00:00:01.000Z  law\n");
        let report =
            json!({"sha256": "ab", "category": "spam", "reporter": "cd", "content": "a\nb", "at": 1});
        let line = "ab  1970-01-01T00:00:01.000Z  cd  spam  \"a\\nb\"\n";
        assert_eq!(reports(&json!({"reports": [report]})), line);
        assert_eq!(
            swept(&json!({"next": 60})),
            "done; the next blob or upload expires at 1970-01-01T00:01:00.000Z"
        );
        assert_eq!(swept(&json!({"next": null})), "done; nothing else will expire");
    }
}
