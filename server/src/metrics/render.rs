//! A snapshot as OpenMetrics text.
//!
//! Our own metrics carry a `shard` label where a shard counts them. Under strfry's names the same numbers
//! stand once more, added up over the shards, so that dashboards made for strfry keep working.

use std::collections::BTreeMap;
use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use relay_agent::identity::npub;
use relay_agent::machine::LATENCY_BOUNDS_MILLIS;
use relay_agent::totals::Totals;
use relay_engine::relay::{Histogram, Metrics, TopCosts};
use relay_site::metrics::{self as names, Metric, MetricKind};

use super::{AgentsSnapshot, ShardSnapshot, Snapshot};
use crate::blossom::{OPERATIONS, STATUSES};

pub(crate) type Labels = Vec<(&'static str, String)>;

/// Microseconds in a second.
const MICROS: f64 = 1e6;
/// Milliseconds in a second.
const MILLIS: f64 = 1e3;

/// OpenMetrics text of `snapshot`.
pub(crate) fn render(snapshot: Snapshot) -> String {
    render_collector(Box::new(snapshot))
}

/// OpenMetrics text of any collector.
pub(crate) fn render_collector(collector: Box<dyn Collector>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(collector);
    let mut text = String::new();
    encode(&mut text, &registry).expect("writing to memory");
    text
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Out { encoder: &mut encoder };
        self.strfry(&mut out)?;
        self.messages(&mut out)?;
        self.numbers(&mut out)?;
        self.costliest(&mut out)?;
        self.histograms(&mut out)?;
        self.agents(&mut out)?;
        self.blossom(&mut out)?;
        self.process(&mut out)
    }
}

impl Snapshot {
    fn total(&self, of: impl Fn(&ShardSnapshot) -> u64) -> u64 {
        self.shards.iter().map(of).sum()
    }

    fn strfry(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        let by_verb = |verbs: &dyn Fn(&Metrics) -> Vec<(&'static str, u64)>| {
            let mut rows: Vec<(Labels, u64)> = Vec::new();
            for shard in &self.shards {
                for (index, (verb, count)) in verbs(&shard.relay).into_iter().enumerate() {
                    match rows.get_mut(index) {
                        Some((_, sum)) => *sum += count,
                        None => rows.push((vec![("verb", verb.to_owned())], count)),
                    }
                }
            }
            rows
        };
        out.metric(names::CLIENT_MESSAGES, by_verb(&|relay| names::received_by_verb(relay).to_vec()))?;
        out.metric(names::RELAY_MESSAGES, by_verb(&|relay| names::sent_by_verb(relay).to_vec()))?;

        let mut kinds = BTreeMap::<String, u64>::new();
        for (kind, count) in self.shards.iter().flat_map(|shard| names::events_by_kind(&shard.relay)) {
            *kinds.entry(kind).or_default() += count;
        }
        out.metric(names::EVENTS, kinds.into_iter().map(|(kind, n)| (vec![("kind", kind)], n)).collect())?;

        let writer = &self.writer;
        out.number(
            Metric::counter("strfry_write_events", "Events written to the store"),
            writer.events_written,
        )?;
        let refused = self.total(|shard| shard.relay.events_refused);
        out.number(Metric::counter("strfry_write_rejected", "Events refused"), refused)?;
        let duplicates = self.total(|shard| shard.relay.events_duplicate);
        out.number(Metric::counter("strfry_write_dups", "Events that were stored already"), duplicates)?;
        out.number(
            Metric::counter("strfry_write_time_microseconds", "Time spent in commits"),
            writer.commit_us.sum,
        )?;
        out.number(
            Metric::gauge("strfry_write_batch_size", "Events in the last commit"),
            writer.last_batch_events,
        )?;
        let connections = self.total(|shard| shard.relay.connections);
        out.number(Metric::gauge("strfry_connections_current", "Open WebSocket connections"), connections)?;
        let slow = self.total(|shard| shard.host.closed_stalled);
        out.number(
            Metric::counter("strfry_slow_client_terminations", "Connections closed for reading too slowly"),
            slow,
        )
    }

    fn messages(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        let mut rows = Vec::new();
        for shard in &self.shards {
            let received = names::received_by_verb(&shard.relay).map(|(verb, count)| ("in", verb, count));
            let sent = names::sent_by_verb(&shard.relay).map(|(verb, count)| ("out", verb, count));
            for (direction, verb, count) in received.into_iter().chain(sent) {
                let labels = vec![
                    ("shard", shard.shard.to_string()),
                    ("direction", direction.to_owned()),
                    ("verb", verb.to_owned()),
                ];
                rows.push((labels, count));
            }
        }
        out.metric(Metric::counter("relay_messages", "Messages by shard, direction and verb"), rows)
    }

    fn numbers(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        for (metric, of) in names::COUNTERS_AND_GAUGES {
            out.metric(metric, self.by_shard(|shard| of(&shard.relay)))?;
        }
        type Value = fn(&ShardSnapshot) -> u64;
        let other: [(Metric, Value); 8] = [
            (Metric::gauge("relay_sockets", "Open sockets, plain HTTP included"), |s| s.sockets),
            (Metric::counter("relay_socket_writes", "Writes to sockets"), |s| s.host.writes),
            (Metric::counter("relay_socket_bytes_written", "Bytes written to sockets"), |s| {
                s.host.bytes_written
            }),
            (Metric::counter("relay_socket_bytes_read", "Bytes read from sockets"), |s| s.host.bytes_read),
            (names::CLOSED_STALLED, |s| s.host.closed_stalled),
            (
                Metric::counter(
                    "relay_connections_closed_unresponsive",
                    "Connections closed because the client did not answer pings",
                ),
                |s| s.host.closed_unresponsive,
            ),
            (Metric::counter("relay_connections_closed_by_relay", "Connections closed with a reason"), |s| {
                s.host.closed_by_relay
            }),
            (Metric::counter("relay_http_requests", "Plain HTTP requests"), |s| s.host.http_requests),
        ];
        other.into_iter().try_for_each(|(metric, of)| out.metric(metric, self.by_shard(of)))
    }

    /// The ten addresses and the ten authors that cost the most, for administrators.
    fn costliest(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        if !self.names_costliest {
            return Ok(());
        }
        let TopCosts { addresses, authors } =
            TopCosts::of_all(self.shards.iter().map(|shard| &shard.costliest));
        let by = |label, name: String, cost: u64| (vec![(label, name)], cost);
        let addresses = addresses.into_iter().map(|(address, cost)| by("address", address.to_string(), cost));
        out.metric(names::ADDRESS_COST, addresses.collect())?;
        let authors = authors.into_iter().map(|(author, bytes)| by("author", author.to_string(), bytes));
        out.metric(names::AUTHOR_BYTES, authors.collect())
    }

    fn histograms(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        for (metric, per_unit, of) in names::HISTOGRAMS {
            let rows = self.shards.iter().map(|shard| (by(shard), of(&shard.relay))).collect();
            out.histograms(metric, per_unit, rows)?;
        }
        let verify = Metric::histogram("relay_verify_seconds", "Time of a verification batch");
        let rows = self.shards.iter().map(|shard| (by(shard), &shard.host.verify_us)).collect();
        out.histograms(verify, MICROS, rows)?;
        let writer = &self.writer;
        out.histogram(names::COMMIT_BATCH_EVENTS, 1.0, &writer.batch_events)?;
        let commit = Metric::histogram("relay_commit_seconds", "Time of a commit, its sync included");
        out.histogram(commit, MICROS, &writer.commit_us)?;
        out.number(Metric::counter("relay_commit_events", "Events given to commits"), writer.events_offered)?;
        out.number(names::COMMIT_ERRORS, writer.errors)?;
        out.number(names::EVENTS_EXPIRED, writer.events_expired)?;
        out.number(names::EVENTS_REMOVED_BY_RETENTION, writer.events_removed_by_retention)
    }

    fn agents(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        let Some(AgentsSnapshot { totals, busiest, by_state, open }) = &self.agents else { return Ok(()) };
        let Totals { jobs, failures, payments, latency, .. } = totals;
        let by = |label, name: &str, count: &u64| (vec![(label, name.to_owned())], *count);
        out.metric(names::AGENT_JOBS, jobs.iter().map(|(state, n)| by("state", state, n)).collect())?;
        out.metric(names::AGENT_FAILURES, failures.iter().map(|(cause, n)| by("cause", cause, n)).collect())?;
        out.metric(names::AGENT_PAYMENTS, payments.iter().map(|(state, n)| by("state", state, n)).collect())?;
        out.number(names::AGENT_RECEIVED_MSAT, totals.received_msat)?;
        out.number(names::AGENT_ATTEMPTS, totals.attempts)?;
        let seconds =
            Histogram { bounds: &LATENCY_BOUNDS_MILLIS, counts: latency.clone(), sum: totals.latency_millis };
        out.histogram(names::AGENT_ANSWER_SECONDS, MILLIS, &seconds)?;
        out.number(names::AGENT_JOBS_QUEUED, totals.queued)?;
        out.number(names::AGENT_JOBS_RUNNING, totals.running)?;
        out.metric(names::AGENTS, by_state.iter().map(|(state, n)| by("state", state, n)).collect())?;
        out.number(Metric::gauge("relay_agents_loaded", "Agents whose database is open now"), *open)?;
        out.number(names::AGENT_DELIVERIES_FAILED, totals.deliveries_failed)?;
        out.number(names::AGENT_EVENTS_DROPPED, totals.events_dropped)?;
        if !self.names_costliest {
            return Ok(());
        }
        let busiest = busiest.iter().map(|(agent, n)| by("agent", &npub(agent), n));
        out.metric(names::AGENT_JOBS_OF_BUSIEST, busiest.collect())
    }

    fn blossom(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        let Some(blossom) = &self.blossom else { return Ok(()) };
        let mut rows = Vec::new();
        for (operation, counts) in OPERATIONS.iter().zip(&blossom.requests) {
            for (status, count) in STATUSES.iter().zip(counts) {
                let labels = vec![("operation", (*operation).to_owned()), ("status", (*status).to_owned())];
                rows.push((labels, *count));
            }
        }
        out.metric(names::BLOSSOM_REQUESTS, rows)?;
        out.number(names::BLOSSOM_BYTES_RECEIVED, blossom.bytes_received)?;
        out.number(names::BLOSSOM_BYTES_SENT, blossom.bytes_sent)?;
        out.number(names::BLOSSOM_UPLOADS, blossom.uploads)?;
        out.number(names::BLOSSOM_UPLOADS_WAITING, blossom.uploads_waiting)?;
        let Some(totals) = &blossom.totals else { return Ok(()) };
        out.number(names::BLOSSOM_BLOBS, totals.blobs)?;
        out.number(names::BLOSSOM_STORED_BYTES, totals.bytes)?;
        out.number(names::BLOSSOM_REMOVALS, totals.removals)
    }

    fn process(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        if let Some(store) = &self.store {
            out.number(names::STORE_EVENTS, store.events)?;
            out.number(names::STORE_PENDING_REMOVAL, store.pending_removal)?;
            out.number(names::STORE_BYTES, store.bytes)?;
            let failures = self.shards.iter().map(|shard| shard.maintenance_failures).max();
            out.number(names::STORE_MAINTENANCE_FAILURES, failures.unwrap_or(0))?;
        }
        let refused = self.sockets_refused;
        out.number(
            Metric::counter("relay_sockets_refused", "Sockets refused before their handshake"),
            refused,
        )?;
        out.number(names::REFUSED_BY_ADDRESS, self.refused_by_address)?;
        out.number(names::CONNECTIONS_OF_BUSIEST_ADDRESS, self.connections_of_busiest_address)?;
        out.number(Metric::gauge("relay_uptime_seconds", "Seconds since the start"), self.uptime_seconds)?;
        match self.resident_bytes {
            Some(bytes) => {
                out.number(Metric::gauge("process_resident_memory_bytes", "Resident memory"), bytes)
            }
            None => Ok(()),
        }
    }

    fn by_shard(&self, of: impl Fn(&ShardSnapshot) -> u64) -> Vec<(Labels, u64)> {
        self.shards.iter().map(|shard| (by(shard), of(shard))).collect()
    }
}

fn by(shard: &ShardSnapshot) -> Labels {
    vec![("shard", shard.shard.to_string())]
}

/// Where metrics are written.
pub(crate) struct Out<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
}

impl<'a, 'b> Out<'a, 'b> {
    pub(crate) fn new(encoder: &'a mut DescriptorEncoder<'b>) -> Self {
        Out { encoder }
    }

    fn family(
        &mut self,
        metric: Metric,
        write: impl FnOnce(MetricEncoder<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let kind = match metric.kind {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
            MetricKind::Histogram => MetricType::Histogram,
        };
        write(self.encoder.encode_descriptor(metric.name, metric.help, None, kind)?)
    }

    /// A plain number with labels.
    pub(crate) fn metric(&mut self, metric: Metric, rows: Vec<(Labels, u64)>) -> Result<(), Error> {
        self.family(metric, |mut family| {
            rows.into_iter().try_for_each(|(labels, value)| {
                encode_number(metric.kind, value, family.encode_family(&labels)?)
            })
        })
    }

    /// A plain number.
    fn number(&mut self, metric: Metric, value: u64) -> Result<(), Error> {
        self.family(metric, |family| encode_number(metric.kind, value, family))
    }

    fn histograms(
        &mut self,
        metric: Metric,
        per_unit: f64,
        rows: Vec<(Labels, &Histogram)>,
    ) -> Result<(), Error> {
        self.family(metric, |mut family| {
            rows.into_iter().try_for_each(|(labels, values)| {
                encode_histogram(values, per_unit, family.encode_family(&labels)?)
            })
        })
    }

    fn histogram(&mut self, metric: Metric, per_unit: f64, values: &Histogram) -> Result<(), Error> {
        self.family(metric, |family| encode_histogram(values, per_unit, family))
    }
}

fn encode_number(kind: MetricKind, value: u64, encoder: MetricEncoder<'_>) -> Result<(), Error> {
    match kind {
        MetricKind::Counter => ConstCounter::new(value).encode(encoder),
        _ => ConstGauge::new(value).encode(encoder),
    }
}

fn encode_histogram(values: &Histogram, per_unit: f64, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
    let buckets: Vec<(f64, u64)> = names::buckets(values, per_unit).collect();
    encoder.encode_histogram::<NoLabelSet>(values.sum as f64 / per_unit, values.count(), &buckets, None)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use relay_agent::machine::MetricsDelta;
    use relay_agent::totals::Tally;
    use relay_engine::types::PubKey;

    use super::*;
    use relay_engine::store::Stats;

    use crate::blossom::BlossomSnapshot;
    use crate::metrics::{HostMetrics, WriterMetrics};

    #[test]
    fn shards_are_labelled_and_strfrys_names_add_up() {
        let shard = |shard: usize| {
            let mut relay = Metrics { messages_req: 2, sent_event: 10, ..Metrics::default() };
            relay.events_by_kind.insert(1, 3);
            relay.req_to_eose_us.record(4_000);
            relay.req_to_eose_us.record(9_000_000);
            let costliest = TopCosts {
                addresses: vec![("2001:db8::1".parse::<IpAddr>().unwrap().into(), 20)],
                authors: vec![(PubKey([7; 32]), 300)],
            };
            let maintenance_failures = 4 * shard as u64;
            let (host, store) = (HostMetrics::default(), None);
            ShardSnapshot { shard, relay, costliest, host, sockets: 1, store, maintenance_failures }
        };
        let snapshot = |names_costliest| Snapshot {
            names_costliest,
            shards: vec![shard(0), shard(1)],
            writer: WriterMetrics::default(),
            store: Some(Stats { events: 9, pending_removal: 6, bytes: 4_096 }),
            agents: Some(agents()),
            blossom: Some(BlossomSnapshot {
                requests: std::array::from_fn(|operation| {
                    std::array::from_fn(|class| (10 * operation + class) as u64)
                }),
                bytes_received: 11,
                bytes_sent: 12,
                uploads: 13,
                uploads_waiting: 14,
                totals: Some(relay_blossom::index::Totals {
                    blobs: 15,
                    bytes: 16,
                    removals: 17,
                    ..Default::default()
                }),
            }),
            sockets_refused: 8,
            refused_by_address: 3,
            connections_of_busiest_address: 2,
            uptime_seconds: 7,
            resident_bytes: resident_bytes_for_test(),
        };
        let text = render(snapshot(true));
        for line in [
            r#"nostr_client_messages_total{verb="REQ"} 4"#,
            r#"nostr_relay_messages_total{verb="EVENT"} 20"#,
            r#"nostr_events_total{kind="1"} 6"#,
            r#"relay_messages_total{shard="1",direction="in",verb="REQ"} 2"#,
            r#"relay_req_to_eose_seconds_bucket{le="0.005",shard="0"} 1"#,
            r#"relay_req_to_eose_seconds_bucket{le="+Inf",shard="0"} 2"#,
            r#"relay_req_to_eose_seconds_count{shard="0"} 2"#,
            "strfry_write_batch_size 0",
            "relay_uptime_seconds 7",
            "relay_store_bytes 4096",
            "relay_store_maintenance_failures_total 4",
            "relay_connections_refused_by_address_total 3",
            "relay_connections_of_busiest_address 2",
            "process_resident_memory_bytes 5",
            "# TYPE relay_commit_seconds histogram",
            r#"relay_address_cost{address="2001:db8::/64"} 40"#,
            &format!(r#"relay_author_bytes{{author="{}"}} 600"#, "07".repeat(32)),
            r#"relay_agent_jobs_total{state="done"} 2"#,
            r#"relay_agent_jobs_total{state="expired"} 0"#,
            r#"relay_agent_failures_total{cause="timeout"} 1"#,
            r#"relay_agent_payments_total{state="settled"} 2"#,
            r#"relay_agent_payments_total{state="unpaid"} 0"#,
            "relay_agent_received_msat_total 42000",
            "relay_agent_attempts_total 3",
            r#"relay_agent_answer_seconds_bucket{le="0.25"} 1"#,
            r#"relay_agent_answer_seconds_bucket{le="0.5"} 2"#,
            "relay_agent_answer_seconds_sum 0.7",
            "relay_agent_jobs_queued 5",
            "relay_agent_jobs_running 1",
            r#"relay_agents{state="paused"} 1"#,
            "relay_agents_loaded 3",
            "relay_agent_deliveries_failed_total 1",
            "relay_agent_events_dropped_total 7",
            r#"relay_blossom_requests_total{operation="get",status="2xx"} 0"#,
            r#"relay_blossom_requests_total{operation="upload",status="4xx"} 22"#,
            "relay_blossom_bytes_received_total 11",
            "relay_blossom_bytes_sent_total 12",
            "relay_blossom_uploads 13",
            "relay_blossom_uploads_waiting 14",
            "relay_blossom_blobs 15",
            "relay_blossom_stored_bytes 16",
            "relay_blossom_removals_waiting 17",
            &format!(r#"relay_agent_jobs_of_busiest_total{{agent="{}"}} 3"#, npub(&PubKey([9; 32]))),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
        let machine = names::COUNTERS_AND_GAUGES.map(|(metric, _)| metric.name);
        for name in machine.into_iter().chain(names::HISTOGRAMS.map(|(metric, ..)| metric.name)) {
            assert!(text.contains(&format!("# TYPE {name} ")), "{name} is not exported");
        }
        assert!(text.ends_with("# EOF\n"));
        let for_everybody = render(snapshot(false));
        assert!(!for_everybody.contains("2001:db8") && !for_everybody.contains("0707"));
        assert!(!for_everybody.contains("npub1") && for_everybody.contains("relay_agents_loaded 3"));
        let without_agents = render(Snapshot { agents: None, ..snapshot(true) });
        assert!(!without_agents.contains("relay_agent"));
        let without_blobs = render(Snapshot { blossom: None, ..snapshot(true) });
        assert!(!without_blobs.contains("relay_blossom"));
    }

    fn agents() -> AgentsSnapshot {
        let counted = MetricsDelta {
            jobs: [("done".to_owned(), 2), ("failed".to_owned(), 1)].into(),
            failures: [("timeout".to_owned(), 1)].into(),
            payments: [("settled".to_owned(), 2)].into(),
            received_msat: 42_000,
            attempts: 3,
            latency: vec![0, 0, 0, 1, 1],
            latency_millis: 700,
            queued: 5,
            running: 1,
        };
        let mut tally = Tally::default();
        tally.add(&PubKey([9; 32]), &counted);
        tally.delivery_failed();
        tally.dropped(7);
        AgentsSnapshot {
            totals: tally.totals().clone(),
            busiest: tally.busiest(),
            by_state: [("active", 4), ("paused", 1), ("draining", 0)],
            open: 3,
        }
    }

    fn resident_bytes_for_test() -> Option<u64> {
        Some(5)
    }
}
