//! The metrics of all shards in Prometheus' text format: summed, and by shard.
//!
//! Names that the native host has too are in [`relay_site::metrics`]; the others are here and in `object::metrics`.

use std::collections::BTreeMap;
use std::fmt::Write;

use relay_engine::relay::Histogram;
use relay_site::metrics::{EVENTS_STORED, FOR_ADMINS, Metric, MetricKind, RELAY_MESSAGES, buckets};
use serde::{Deserialize, Serialize};

use crate::object::names_peers;
use crate::shard::Shard;

/// By the label `purpose`: [`FOR_EVENTS`], [`FOR_REQUESTS`], [`FOR_MAINTENANCE`], [`FOR_SYNC`] or [`FOR_AGENTS`].
pub const ROWS_READ: Metric =
    Metric::counter("relay_rows_read", "Rows read from storage, as billed, by purpose");
/// By the label `purpose`, as rows read.
pub const ROWS_WRITTEN: Metric = Metric::counter(
    "relay_rows_written",
    "Rows written to storage, as billed, by purpose; each costs a thousand times a row read",
);
/// Of an object.
pub const MEMORY_BYTES: Metric = Metric::gauge(
    "relay_memory_bytes",
    "WebAssembly memory of a shard's isolate; 128 MB are allowed with JavaScript's, and objects may share an isolate",
);
/// Of an object.
pub const MEMORY_USED_BYTES: Metric = Metric::gauge(
    "relay_memory_used_bytes",
    "Bytes of relay_memory_bytes that are allocated now; the memory itself never shrinks",
);
/// Of an object.
pub const SOCKETS_CLOSING: Metric =
    Metric::gauge("relay_sockets_closing", "Closed sockets whose clients have not read their output yet");
/// Of an object.
pub const SOCKETS_CLOSING_BYTES: Metric = Metric::gauge(
    "relay_sockets_closing_bytes",
    "Bytes that were queued in closing sockets when they were closed",
);
/// Ingesting events.
pub const FOR_EVENTS: &str = "events";
/// Answering REQ and COUNT.
pub const FOR_REQUESTS: &str = "requests";
/// Sessions, sweeps, waking up.
pub const FOR_MAINTENANCE: &str = "maintenance";
/// Copying from other relays, without storing what comes.
pub const FOR_SYNC: &str = "sync";
/// Routing events to agents, and their queries.
pub const FOR_AGENTS: &str = "agents";

const ROWS_WRITTEN_PER_EVENT: Metric =
    Metric::gauge("relay_rows_written_per_event", "Rows written for events, divided by events stored");
const ROWS_READ_PER_RETURNED_EVENT: Metric = Metric::gauge(
    "relay_rows_read_per_returned_event",
    "Rows read for requests, divided by all events sent, including live ones, which read no rows",
);
const SHARD_UP: Metric = Metric::gauge("relay_shard_up", "Whether a shard answered");

/// A metric family of one shard. Objects send it to the Worker as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Family {
    name: String,
    help: String,
    kind: MetricKind,
    samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sample {
    /// What the text format appends to the name of a histogram: `_bucket`, `_sum`, `_count`.
    suffix: String,
    /// Its label besides the shard, if it has one.
    label: Option<(String, String)>,
    /// The current value, or the count since the object woke up.
    value: f64,
}

impl Sample {
    fn is_like(&self, other: &Sample) -> bool {
        self.suffix == other.suffix && self.label == other.label
    }
}

impl Family {
    fn new(metric: Metric) -> Self {
        Family {
            name: metric.name.to_owned(),
            help: metric.help.to_owned(),
            kind: metric.kind,
            samples: Vec::new(),
        }
    }

    fn push(&mut self, suffix: &str, label: Option<(&str, &str)>, value: f64) {
        let label = label.map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.samples.push(Sample { suffix: suffix.to_owned(), label, value });
    }

    /// A family with one sample and no label.
    pub fn single(metric: Metric, value: u64) -> Self {
        let mut family = Family::new(metric);
        family.push("", None, value as f64);
        family
    }

    /// A family with a sample for each value of a label.
    pub fn by<L: AsRef<str>>(
        metric: Metric,
        label: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> Self {
        let mut family = Family::new(metric);
        for (label_value, value) in values {
            family.push("", Some((label, label_value.as_ref())), value as f64);
        }
        family
    }

    /// A histogram; `per_unit` of its values are one of the unit in its name (1e6 for microseconds in `..._seconds`).
    pub fn histogram(metric: Metric, per_unit: f64, histogram: &Histogram) -> Self {
        let mut family = Family::new(metric);
        let mut below = 0;
        for (bound, count) in buckets(histogram, per_unit) {
            below += count;
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            family.push("_bucket", Some(("le", &bound)), below as f64);
        }
        family.push("_sum", None, histogram.sum as f64 / per_unit);
        family.push("_count", None, histogram.count() as f64);
        family
    }

    /// The sum of the samples with this label.
    fn value(&self, label: Option<(&str, &str)>) -> f64 {
        let own = |sample: &&Sample| {
            sample.label.as_ref().map(|(name, value)| (name.as_str(), value.as_str())) == label
        };
        self.samples.iter().filter(own).map(|sample| sample.value).sum()
    }
}

/// The metrics of one shard, or the error message if it did not answer.
pub type ShardFamilies = Result<Vec<Family>, String>;

/// The metrics of a shard without the names of clients, authors, agents and other relays: for readers who are not known to be administrators.
pub fn without_names(answer: ShardFamilies) -> ShardFamilies {
    answer.map(|mut families| {
        families.retain(|family| {
            FOR_ADMINS.iter().all(|metric| metric.name != family.name) && !names_peers(&family.name)
        });
        families
    })
}

/// The page for Prometheus, in its text format 0.0.4: each metric summed over the shards under its own name, and by shard
/// under `..._by_shard`.
pub fn render(shards: &[(Shard, ShardFamilies)]) -> String {
    let mut page = Page(String::new());
    let families = || shards.iter().filter_map(|(_, answer)| answer.as_ref().ok()).flatten();
    // In the order of the first shard that has them.
    let mut order: Vec<&Family> = Vec::new();
    let mut sums: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
    for family in families() {
        let sum = sums.entry(&family.name).or_insert_with(|| {
            order.push(family);
            Vec::new()
        });
        for sample in &family.samples {
            match sum.iter_mut().find(|sum| sum.is_like(sample)) {
                Some(sum) => sum.value += sample.value,
                None => sum.push(sample.clone()),
            }
        }
    }
    for family in order {
        let (name, help, kind) = (family.name.as_str(), family.help.as_str(), family.kind);
        page.head(name, help, kind);
        sums.get(name).into_iter().flatten().for_each(|sample| page.sample(name, kind, None, sample));
        let by_shard = format!("{name}_by_shard");
        page.head(&by_shard, help, kind);
        for (shard, answer) in shards {
            for own in answer.iter().flatten().filter(|own| own.name == name) {
                own.samples.iter().for_each(|sample| page.sample(&by_shard, kind, Some(*shard), sample));
            }
        }
    }
    let sum = |metric: Metric, label| -> f64 {
        families().filter(|family| family.name == metric.name).map(|family| family.value(label)).sum()
    };
    let ratios = [
        (ROWS_WRITTEN_PER_EVENT, sum(ROWS_WRITTEN, Some(("purpose", FOR_EVENTS))), sum(EVENTS_STORED, None)),
        (
            ROWS_READ_PER_RETURNED_EVENT,
            sum(ROWS_READ, Some(("purpose", FOR_REQUESTS))),
            sum(RELAY_MESSAGES, Some(("verb", "EVENT"))),
        ),
    ];
    for (metric, rows, events) in ratios.into_iter().filter(|(.., events)| *events > 0.0) {
        page.head(metric.name, metric.help, metric.kind);
        page.line(metric.name, "", rows / events);
    }
    page.head(SHARD_UP.name, SHARD_UP.help, SHARD_UP.kind);
    for (shard, answer) in shards {
        let labels = format!("{{shard=\"{}\"}}", shard.range());
        page.line(SHARD_UP.name, &labels, f64::from(u8::from(answer.is_ok())));
    }
    page.0
}

/// The text of the page.
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: MetricKind) {
        // The text format wants counters to end in `_total`.
        let (ending, kind) = match kind {
            MetricKind::Counter => ("_total", "counter"),
            MetricKind::Gauge => ("", "gauge"),
            MetricKind::Histogram => ("", "histogram"),
        };
        let _ = writeln!(self.0, "# HELP {name}{ending} {help}\n# TYPE {name}{ending} {kind}");
    }

    fn sample(&mut self, name: &str, kind: MetricKind, shard: Option<Shard>, sample: &Sample) {
        let suffix = if kind == MetricKind::Counter { "_total" } else { sample.suffix.as_str() };
        let own = sample.label.as_ref().map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        let shard = shard.map(|shard| format!("shard=\"{}\"", shard.range()));
        let labels: Vec<String> = shard.into_iter().chain(own).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.line(&format!("{name}{suffix}"), &labels, sample.value);
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use relay_engine::relay::Metrics;
    use relay_site::metrics::{ADDRESS_COST, AGENT_JOBS_OF_BUSIEST, AUTHOR_BYTES, CONNECTIONS, HISTOGRAMS};

    use super::*;
    use crate::shard::Shards;

    #[test]
    fn metrics_are_summed_and_listed_by_shard() {
        let shard = |written, stored| {
            let mut machine = Metrics::default();
            [1, 2, 70_000].into_iter().for_each(|value| machine.req_to_eose_us.record(value));
            let mut families = vec![
                Family::single(CONNECTIONS, 2),
                Family::by(ROWS_WRITTEN, "purpose", [(FOR_EVENTS, written), (FOR_MAINTENANCE, 1)]),
                Family::single(EVENTS_STORED, stored),
            ];
            families.extend(
                HISTOGRAMS.map(|(metric, per_unit, of)| Family::histogram(metric, per_unit, of(&machine))),
            );
            // As an object sends it to the Worker.
            serde_json::from_value(serde_json::json!(families)).map_err(|error| error.to_string())
        };
        let shards = Shards::new(4).into_iter().flat_map(Shards::all);
        let answers = [shard(18, 2), shard(9, 1), Err("gone".into())];
        let text = render(&shards.zip(answers).collect::<Vec<_>>());
        for want in [
            "# HELP relay_connections Open WebSocket connections",
            "# TYPE relay_connections gauge",
            "relay_connections 4",
            "relay_connections_by_shard{shard=\"4000\"} 2",
            "# TYPE relay_rows_written_total counter",
            "relay_rows_written_total{purpose=\"events\"} 27",
            "relay_rows_written_by_shard_total{shard=\"0000\",purpose=\"events\"} 18",
            "relay_rows_written_per_event 9",
            "# TYPE relay_req_to_eose_seconds histogram",
            "relay_req_to_eose_seconds_bucket{le=\"0.00005\"} 4",
            "relay_req_to_eose_seconds_bucket{le=\"0.1\"} 6",
            "relay_req_to_eose_seconds_bucket{le=\"+Inf\"} 6",
            "relay_req_to_eose_seconds_by_shard_sum{shard=\"4000\"} 0.070003",
            "relay_req_to_eose_seconds_by_shard_count{shard=\"4000\"} 3",
            "relay_shard_up{shard=\"8000\"} 0",
        ] {
            assert!(text.lines().any(|line| line == want), "{want}\nis not in\n{text}");
        }
        assert_eq!(text.matches("# TYPE relay_rows_written_total ").count(), 1);
    }

    #[test]
    fn who_costs_the_most_is_for_administrators() {
        let shard = Shards::ONE.for_connection();
        let families = vec![
            Family::single(CONNECTIONS, 2),
            Family::by(ADDRESS_COST, "address", [("192.0.2.1", 7)]),
            Family::by(AUTHOR_BYTES, "author", [("ab", 9)]),
            Family::by(AGENT_JOBS_OF_BUSIEST, "agent", [("npub1x", 5)]),
        ];
        let text = render(&[(shard, Ok(families.clone()))]);
        assert!(text.lines().any(|line| line == r#"relay_address_cost{address="192.0.2.1"} 7"#), "{text}");
        assert!(text.contains(r#"relay_agent_jobs_of_busiest_total{agent="npub1x"} 5"#), "{text}");
        let text = render(&[(shard, without_names(Ok(families)))]);
        assert!(text.contains("relay_connections 2"));
        assert!(!["192.0.2.1", "ab\"", "npub1"].iter().any(|name| text.contains(name)), "{text}");
    }
}
