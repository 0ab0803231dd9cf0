//! The relay's documents in words, for people.

use std::fmt::Write as _;

use serde_json::Value;

use super::super::time::time;

fn text<'a>(document: &'a Value, field: &str) -> &'a str {
    document[field].as_str().unwrap_or_default()
}

fn agent(document: &Value) -> String {
    format!("{} ({})", text(document, "name"), text(document, "npub"))
}

pub(super) fn deployed(document: &Value) -> String {
    format!("{} is deployed, version {}", agent(document), document["version"])
}

pub(super) fn state(document: &Value) -> String {
    format!("{} is {}", agent(document), text(document, "state"))
}

pub(super) fn list(document: &Value) -> String {
    let agents = document["agents"].as_array().map(Vec::as_slice).unwrap_or_default();
    if agents.is_empty() {
        return "no agents".to_owned();
    }
    let mut lines = String::new();
    for document in agents {
        let kinds = document["kinds"].as_array().into_iter().flatten().map(Value::to_string);
        let kinds = kinds.collect::<Vec<_>>().join(",");
        let _ = writeln!(
            lines,
            "{}  {:<9} {kinds:<10} {}",
            text(document, "npub"),
            text(document, "state"),
            text(document, "name"),
        );
    }
    lines
}

pub(super) fn versions(document: &Value) -> String {
    let mut lines = String::new();
    for version in document["versions"].as_array().into_iter().flatten() {
        let current = if version["is_current"] == true { "  current" } else { "" };
        let at = time(version["deployed_at"].as_u64().unwrap_or_default() * 1_000);
        let _ = writeln!(lines, "{:>4}  {at}  {}{current}", version["version"], text(version, "deployed_by"));
    }
    lines
}

pub(super) fn refunds(document: &Value) -> String {
    let mut lines = String::new();
    for refund in document["refunds_to_approve"].as_array().into_iter().flatten() {
        let until = time(refund["expires_at"].as_u64().unwrap_or_default() * 1_000);
        let (hash, customer) = (text(refund, "payment_hash"), text(refund, "customer"));
        let _ = writeln!(lines, "{hash}  {} msat for {customer}, until {until}", refund["msat"]);
    }
    if lines.is_empty() { "no refunds wait for approval".to_owned() } else { lines }
}

pub(super) fn shares(document: &Value) -> String {
    let mut lines = String::new();
    for share in document["shares"].as_array().into_iter().flatten() {
        let (address, percent, due) = (text(share, "address"), &share["percent"], &share["due_msat"]);
        let error = share["error"].as_str().map_or_else(String::new, |error| format!("  {error}"));
        let _ = writeln!(lines, "{address}  {percent}%  {due} msat due{error}");
    }
    if lines.is_empty() { "nobody has a share".to_owned() } else { lines }
}

pub(super) fn refund(document: &Value) -> String {
    format!("refund of {} msat: {}", document["msat"], text(document, "state"))
}

pub(super) fn history(document: &Value) -> String {
    let mut lines = String::new();
    for job in document["jobs"].as_array().into_iter().flatten() {
        let received = job["received_at"].as_u64().unwrap_or_default();
        let took = job["finished_at"].as_u64().map(|at| format!("{} ms", at.saturating_sub(received)));
        let _ = writeln!(
            lines,
            "{}  {}  {}  {:<9} {:>10}  {}",
            time(received),
            text(job, "id"),
            job["kind"],
            text(job, "state"),
            took.unwrap_or_default(),
            text(job, "cause"),
        );
    }
    if lines.is_empty() { "no jobs".to_owned() } else { lines }
}

pub(super) fn log_line(document: &Value) -> String {
    let at = time(document["at_millis"].as_u64().unwrap_or_default());
    let job = document["job"].as_str().and_then(|job| job.get(..8)).map(|job| format!("job {job}: "));
    format!("{at}  {}{}", job.unwrap_or_default(), text(document, "message"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_told_in_lines() {
        let entry =
            json!({"npub": "npub1x", "name": "echo", "state": "active", "kinds": [5050, 5100], "version": 2});
        assert_eq!(deployed(&entry), "echo (npub1x) is deployed, version 2");
        assert_eq!(state(&entry), "echo (npub1x) is active");
        assert_eq!(list(&json!({"agents": [entry]})), "npub1x  active    5050,5100  echo\n");
        assert_eq!(list(&json!({"agents": []})), "no agents");
        let line = json!({"number": 1, "at_millis": 0, "job": "0123456789abcdef", "message": "done"});
        assert_eq!(log_line(&line), "1970-01-01T00:00:00.000Z  job 01234567: done");
        let job = json!({"received_at": 0, "finished_at": 12, "id": "ab", "kind": 5050, "state": "done"});
        assert_eq!(
            history(&json!({"jobs": [job]})),
            "1970-01-01T00:00:00.000Z  ab  5050  done           12 ms  \n"
        );
    }
}
