//! Numbers of shards as Prometheus reads them: one sum over all, and each shard by itself.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::shard::Shard;

/// One number of one shard. It travels from an object to the Worker as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// With the suffix that says what it is: `_total`, `_bucket`, `_sum`, `_count` or none for a gauge.
    pub name: String,
    /// One label besides the shard, if it has one.
    pub label: Option<(String, String)>,
    /// Now, or since the object woke up.
    pub value: u64,
}

impl Sample {
    /// A number.
    pub fn new(name: &str, label: Option<(&str, &str)>, value: u64) -> Self {
        let label = label.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Sample { name: name.to_owned(), label, value }
    }
}

/// What families of numbers mean; what is not in here is told without help.
const HELP: &[(&str, &str)] = &[
    ("nostr_client_messages", "Messages from clients by verb"),
    ("nostr_relay_messages", "Messages to clients by verb"),
    ("nostr_events", "Accepted events by kind"),
    ("relay_rows_read", "Rows read from storage, by what for; they are billed"),
    (
        "relay_rows_written",
        "Rows written to storage, by what for; they are billed a thousand times as dearly",
    ),
    ("relay_connections", "Open WebSocket connections"),
    ("relay_subscriptions", "Live subscriptions"),
    ("relay_filter_values", "Values in live filters and running COUNTs"),
    ("relay_messages_deferred", "Messages that waited for an event to take effect"),
    ("relay_turns", "Times the buffer of messages was flushed"),
    ("relay_commits", "Transactions that stored events"),
    ("relay_sessions_restored", "Sessions taken up after hibernation or eviction"),
    ("relay_sessions_lost", "Sessions that could not be taken up; their sockets were closed"),
    (
        "relay_sessions_interrupted",
        "Sessions whose messages were lost unanswered with the memory; their sockets were closed",
    ),
    ("relay_attachments_saved", "Times a session was written beside its socket"),
    ("relay_parts_saved", "Parts of sessions that did not fit there and went to storage"),
    ("relay_sockets_leaving", "Closed sockets whose clients have not taken what was sent before"),
    ("relay_sockets_leaving_bytes", "What those held when they were closed"),
    ("relay_events_expired", "Events swept because they had expired"),
    (
        "relay_stream_deliveries_failed",
        "Batches of streams that their consumers did not take; they are handed out again",
    ),
    ("relay_events_retired", "Events swept because they were older than is kept"),
    ("relay_rows_written_per_event", "Rows written for events, divided by events stored"),
    (
        "relay_rows_read_per_returned_event",
        "Rows read for requests, divided by all events sent: live ones too, which read no rows",
    ),
    ("relay_store_events", "Events in the store"),
    ("relay_store_bytes", "Bytes the store takes"),
    (
        "relay_memory_bytes",
        "WebAssembly memory of a shard's isolate; 128 MB are allowed with JavaScript's, and objects may share an isolate",
    ),
    ("relay_store_upkeep_failures", "Steps of the store's upkeep that failed; each is tried again"),
    ("relay_verify_batch_events", "Events in a verification batch"),
    ("relay_commit_batch_events", "Events in a transaction"),
    ("relay_req_to_eose_microseconds", "Time from REQ to EOSE"),
    ("relay_fanout_candidates", "Subscriptions looked at for an event"),
    ("relay_fanout_matches", "Subscriptions that matched an event"),
    ("relay_shard_up", "Whether a shard answered"),
];

const SUFFIXES: [(&str, &str); 4] =
    [("_total", "counter"), ("_bucket", "histogram"), ("_sum", "histogram"), ("_count", "histogram")];

fn family(name: &str) -> (&str, &'static str) {
    let found = SUFFIXES.iter().find_map(|(suffix, kind)| Some((name.strip_suffix(suffix)?, *kind)));
    found.unwrap_or((name, "gauge"))
}

/// One shard's numbers, or why it has none.
pub type Answer = Result<Vec<Sample>, String>;

/// The page for Prometheus, in its text format 0.0.4: each number summed over the shards under its own name,
/// and by shard under `..._by_shard`.
pub fn render(shards: &[(Shard, Answer)]) -> String {
    let mut sums: BTreeMap<(usize, &str), Vec<(&Sample, u64)>> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    for samples in shards.iter().filter_map(|(_, answer)| answer.as_ref().ok()) {
        for sample in samples {
            let (family, _) = family(&sample.name);
            let place = order.iter().position(|name| *name == family).unwrap_or_else(|| {
                order.push(family);
                order.len() - 1
            });
            let rows = sums.entry((place, family)).or_default();
            match rows.iter_mut().find(|(own, _)| own.name == sample.name && own.label == sample.label) {
                Some((_, sum)) => *sum += sample.value,
                None => rows.push((sample, sample.value)),
            }
        }
    }
    let mut out = String::new();
    for ((_, family), rows) in &sums {
        head(&mut out, family, "", rows.first().map_or("", |(sample, _)| &sample.name));
        for (sample, sum) in rows {
            line(&mut out, &sample.name, &labels(None, sample), sum);
        }
        head(&mut out, family, "_by_shard", rows.first().map_or("", |(sample, _)| &sample.name));
        for (shard, answer) in shards {
            for sample in answer.iter().flatten().filter(|sample| self::family(&sample.name).0 == *family) {
                let suffix = sample.name.strip_prefix(family).unwrap_or_default();
                line(
                    &mut out,
                    &format!("{family}_by_shard{suffix}"),
                    &labels(Some(*shard), sample),
                    &sample.value,
                );
            }
        }
    }
    ratio(&mut out, shards, "relay_rows_written_per_event", WRITTEN, STORED);
    ratio(&mut out, shards, "relay_rows_read_per_returned_event", READ, RETURNED);
    head(&mut out, "relay_shard_up", "", "relay_shard_up");
    for (shard, answer) in shards {
        line(
            &mut out,
            "relay_shard_up",
            &format!("{{shard=\"{}\"}}", shard.range()),
            &u8::from(answer.is_ok()),
        );
    }
    out
}

type Column<'a> = (&'a str, Option<(&'a str, &'a str)>);
const WRITTEN: Column<'_> = ("relay_rows_written_total", Some(("for", "events")));
const STORED: Column<'_> = ("relay_events_stored_total", None);
const READ: Column<'_> = ("relay_rows_read_total", Some(("for", "requests")));
const RETURNED: Column<'_> = ("nostr_relay_messages_total", Some(("verb", "EVENT")));

/// What one costs, over all shards.
fn ratio(out: &mut String, shards: &[(Shard, Answer)], name: &str, above: Column<'_>, below: Column<'_>) {
    let sum = |(name, label): Column<'_>| -> u64 {
        let samples = shards.iter().filter_map(|(_, answer)| answer.as_ref().ok()).flatten();
        let own = |sample: &&Sample| {
            sample.name == name
                && sample.label.as_ref().map(|(name, value)| (name.as_str(), value.as_str())) == label
        };
        samples.filter(own).map(|sample| sample.value).sum()
    };
    let (above, below) = (sum(above), sum(below));
    if below > 0 {
        head(out, name, "", name);
        line(out, name, "", &(above as f64 / below as f64));
    }
}

fn head(out: &mut String, family: &str, suffix: &str, sample: &str) {
    let kind = self::family(sample).1;
    // The text format names counters with their suffix.
    let full = if kind == "counter" { "_total" } else { "" };
    if let Some((_, help)) = HELP.iter().find(|(name, _)| *name == family) {
        let _ = writeln!(out, "# HELP {family}{suffix}{full} {help}");
    }
    let _ = writeln!(out, "# TYPE {family}{suffix}{full} {kind}");
}

fn labels(shard: Option<Shard>, sample: &Sample) -> String {
    let own = sample.label.as_ref().map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
    let all: Vec<String> =
        shard.map(|shard| format!("shard=\"{}\"", shard.range())).into_iter().chain(own).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn line(out: &mut String, name: &str, labels: &str, value: &impl std::fmt::Display) {
    let _ = writeln!(out, "{name}{labels} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Shards;

    #[test]
    fn shards_are_summed_and_told_one_by_one() {
        let shard = |written, stored| {
            Ok(vec![
                Sample::new("relay_connections", None, 2),
                Sample::new("relay_rows_written_total", Some(("for", "events")), written),
                Sample::new("relay_rows_written_total", Some(("for", "upkeep")), 1),
                Sample::new("relay_events_stored_total", None, stored),
                Sample::new("relay_verify_batch_events_bucket", Some(("le", "+Inf")), 3),
                Sample::new("relay_verify_batch_events_sum", None, 5),
            ])
        };
        let shards = Shards::new(4).into_iter().flat_map(Shards::all);
        let answers = [shard(18, 2), shard(9, 1), Err("gone".into())];
        let text = render(&shards.zip(answers).collect::<Vec<_>>());
        for want in [
            "# TYPE relay_connections gauge",
            "relay_connections 4",
            "relay_connections_by_shard{shard=\"4000\"} 2",
            "# TYPE relay_rows_written_total counter",
            "relay_rows_written_total{for=\"events\"} 27",
            "relay_rows_written_by_shard_total{shard=\"0000\",for=\"events\"} 18",
            "relay_rows_written_per_event 9",
            "# TYPE relay_verify_batch_events histogram",
            "relay_verify_batch_events_bucket{le=\"+Inf\"} 6",
            "relay_verify_batch_events_by_shard_sum{shard=\"4000\"} 5",
            "relay_shard_up{shard=\"8000\"} 0",
        ] {
            assert!(text.lines().any(|line| line == want), "{want}\nis not in\n{text}");
        }
        assert_eq!(text.matches("# TYPE relay_rows_written_total ").count(), 1);
    }
}
