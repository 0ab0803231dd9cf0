//! A snapshot as OpenMetrics text.
//!
//! Our own metrics carry a `shard` label where a shard counts them. Under strfry's names the same numbers
//! stand once more, added up over the shards, so that dashboards made for strfry keep working.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use relay_engine::relay::{Histogram, Metrics};

use super::{HostMetrics, ShardSnapshot, Snapshot};

type Labels = Vec<(&'static str, String)>;

/// OpenMetrics text of `snapshot`.
pub(crate) fn render(snapshot: Snapshot) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    encode(&mut text, &registry).expect("writing to memory");
    text
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Out { encoder: &mut encoder };
        self.strfry(&mut out)?;
        self.messages(&mut out)?;
        self.counters(&mut out)?;
        self.histograms(&mut out)?;
        self.process(&mut out)
    }
}

/// What clients sent and were sent, by verb, as strfry names it.
fn verbs_received(relay: &Metrics) -> [(&'static str, u64); 6] {
    [
        ("EVENT", relay.messages_event),
        ("REQ", relay.messages_req),
        ("COUNT", relay.messages_count),
        ("CLOSE", relay.messages_close),
        ("AUTH", relay.messages_auth),
        ("bad", relay.messages_bad),
    ]
}

fn verbs_sent(relay: &Metrics) -> [(&'static str, u64); 8] {
    [
        ("EVENT", relay.sent_event),
        ("OK", relay.sent_ok),
        ("EOSE", relay.sent_eose),
        ("CLOSED", relay.sent_closed),
        ("NOTICE", relay.sent_notice),
        ("COUNT", relay.sent_count),
        ("AUTH", relay.sent_auth),
        ("NEG-ERR", relay.sent_neg_err),
    ]
}

impl Snapshot {
    fn total(&self, of: impl Fn(&ShardSnapshot) -> u64) -> u64 {
        self.shards.iter().map(of).sum()
    }

    fn strfry(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        let by_verb = |verbs: &dyn Fn(&Metrics) -> Vec<(&'static str, u64)>| {
            let mut rows: Vec<(Labels, u64)> = Vec::new();
            for shard in &self.shards {
                for (place, (verb, count)) in verbs(&shard.relay).into_iter().enumerate() {
                    match rows.get_mut(place) {
                        Some((_, sum)) => *sum += count,
                        None => rows.push((vec![("verb", verb.to_owned())], count)),
                    }
                }
            }
            rows
        };
        let received = by_verb(&|relay| verbs_received(relay).to_vec());
        out.counters("nostr_client_messages", "Messages from clients by verb", received)?;
        let sent = by_verb(&|relay| verbs_sent(relay).to_vec());
        out.counters("nostr_relay_messages", "Messages to clients by verb", sent)?;

        let mut kinds = std::collections::BTreeMap::<u16, u64>::new();
        for shard in &self.shards {
            for (kind, count) in &shard.relay.events_by_kind {
                *kinds.entry(*kind).or_default() += count;
            }
        }
        let mut rows: Vec<_> =
            kinds.into_iter().map(|(kind, count)| (vec![("kind", kind.to_string())], count)).collect();
        rows.push((
            vec![("kind", "other".to_owned())],
            self.total(|shard| shard.relay.events_of_other_kinds),
        ));
        out.counters("nostr_events", "Accepted events by kind", rows)?;

        let writer = &self.writer;
        out.counter("strfry_write_events", "Events written to the store", writer.events_written)?;
        let refused = self.total(|shard| shard.relay.events_refused);
        out.counter("strfry_write_rejected", "Events refused", refused)?;
        let duplicates = self.total(|shard| shard.relay.events_duplicate);
        out.counter("strfry_write_dups", "Events that were stored already", duplicates)?;
        out.counter("strfry_write_time_microseconds", "Time spent in commits", writer.commit_us.sum)?;
        out.gauge("strfry_write_batch_size", "Events in the last commit", writer.last_batch_events)?;
        let connections = self.total(|shard| shard.relay.connections);
        out.gauge("strfry_connections_current", "Open WebSocket connections", connections)?;
        let slow = self.total(|shard| shard.host.closed_stalled);
        out.counter("strfry_slow_client_terminations", "Connections closed for reading too slowly", slow)
    }

    fn messages(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        let mut rows = Vec::new();
        for shard in &self.shards {
            let received = verbs_received(&shard.relay).map(|(verb, count)| ("in", verb, count));
            let sent = verbs_sent(&shard.relay).map(|(verb, count)| ("out", verb, count));
            for (direction, verb, count) in received.into_iter().chain(sent) {
                let labels = vec![
                    ("shard", shard.shard.to_string()),
                    ("direction", direction.to_owned()),
                    ("verb", verb.to_owned()),
                ];
                rows.push((labels, count));
            }
        }
        out.counters("relay_messages", "Messages by shard, direction and verb", rows)
    }

    fn counters(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        type Relay = fn(&Metrics) -> u64;
        type Host = fn(&HostMetrics) -> u64;
        let gauges: [(&str, &str, Relay); 3] = [
            ("relay_connections", "Open WebSocket connections", |m| m.connections),
            ("relay_subscriptions", "Live subscriptions", |m| m.subscriptions),
            ("relay_filter_values", "Values in live filters and running COUNTs", |m| m.filter_values),
        ];
        for (name, help, of) in gauges {
            out.gauges(name, help, self.by_shard(|shard| of(&shard.relay)))?;
        }
        out.gauges(
            "relay_sockets",
            "Open sockets, plain HTTP included",
            self.by_shard(|shard| shard.sockets),
        )?;
        let counters: [(&str, &str, Relay); 12] = [
            ("relay_connections_opened", "WebSocket connections ever opened", |m| m.connections_opened),
            ("relay_connections_refused", "Connections refused for lack of room", |m| m.connections_refused),
            ("relay_messages_deferred", "Messages that waited for an event to take effect", |m| {
                m.messages_deferred
            }),
            ("relay_message_bytes_received", "Bytes of messages from clients", |m| m.bytes_received),
            ("relay_message_bytes_sent", "Bytes of messages to clients", |m| m.bytes_sent),
            ("relay_events_stored", "Events stored", |m| m.events_stored),
            ("relay_events_ephemeral", "Ephemeral events passed on", |m| m.events_ephemeral),
            ("relay_events_duplicate", "Events that were known already", |m| m.events_duplicate),
            ("relay_events_refused", "Events refused", |m| m.events_refused),
            ("relay_events_forged", "Events with a wrong signature", |m| m.events_forged),
            ("relay_ephemeral_missed", "Ephemeral events not sent to slow readers, who were told", |m| {
                m.ephemeral_missed
            }),
            (
                "relay_subscriptions_lagged",
                "Times a slow reader's subscription went back to the store",
                |m| m.subscriptions_lagged,
            ),
        ];
        for (name, help, of) in counters {
            out.counters(name, help, self.by_shard(|shard| of(&shard.relay)))?;
        }
        let counters: [(&str, &str, Host); 7] = [
            ("relay_socket_writes", "Writes to sockets", |m| m.writes),
            ("relay_socket_bytes_written", "Bytes written to sockets", |m| m.bytes_written),
            ("relay_socket_bytes_read", "Bytes read from sockets", |m| m.bytes_read),
            ("relay_closed_stalled", "Connections closed because they took nothing for too long", |m| {
                m.closed_stalled
            }),
            ("relay_closed_silent", "Connections closed because nothing was heard of them", |m| {
                m.closed_silent
            }),
            ("relay_closed_by_relay", "Connections closed with a reason", |m| m.closed_by_relay),
            ("relay_http_requests", "Plain HTTP requests", |m| m.http_requests),
        ];
        for (name, help, of) in counters {
            out.counters(name, help, self.by_shard(|shard| of(&shard.host)))?;
        }
        Ok(())
    }

    fn histograms(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        type Of = fn(&ShardSnapshot) -> &Histogram;
        const MICRO: f64 = 1e-6;
        let histograms: [(&str, &str, f64, Of); 5] = [
            ("relay_verify_batch_events", "Events in a verification batch", 1.0, |s| {
                &s.relay.verify_batch_events
            }),
            ("relay_verify_seconds", "Time of a verification batch", MICRO, |s| &s.host.verify_us),
            ("relay_req_to_eose_seconds", "Time from REQ to EOSE", MICRO, |s| &s.relay.req_to_eose_us),
            ("relay_fanout_candidates", "Subscriptions looked at for an event", 1.0, |s| {
                &s.relay.fanout_candidates
            }),
            ("relay_fanout_matches", "Subscriptions that matched an event", 1.0, |s| &s.relay.fanout_matches),
        ];
        for (name, help, scale, of) in histograms {
            let rows = self.shards.iter().map(|shard| (by(shard), of(shard))).collect();
            out.histograms(name, help, scale, rows)?;
        }
        let writer = &self.writer;
        out.histogram("relay_commit_batch_events", "Events in a commit", 1.0, &writer.batch_events)?;
        out.histogram(
            "relay_commit_seconds",
            "Time of a commit, its sync included",
            MICRO,
            &writer.commit_us,
        )?;
        out.counter("relay_commit_events", "Events given to commits", writer.events_offered)?;
        out.counter("relay_commit_errors", "Commits with a failure of the store", writer.errors)?;
        out.counter("relay_events_expired", "Events swept because they had expired", writer.events_expired)
    }

    fn process(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        if let Some(store) = &self.store {
            out.gauge("relay_store_events", "Events in the store", store.events)?;
            out.gauge("relay_store_bytes", "Bytes the store takes", store.bytes)?;
        }
        let refused = self.sockets_refused;
        out.counter("relay_sockets_refused", "Sockets turned away before their handshake", refused)?;
        out.gauge("relay_uptime_seconds", "Seconds since the start", self.uptime_seconds)?;
        match self.resident_bytes {
            Some(bytes) => out.gauge("process_resident_memory_bytes", "Resident memory", bytes),
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

struct Out<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
}

impl Out<'_, '_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        write: impl FnOnce(MetricEncoder<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        write(self.encoder.encode_descriptor(name, help, None, kind)?)
    }

    fn counters(&mut self, name: &str, help: &str, rows: Vec<(Labels, u64)>) -> Result<(), Error> {
        self.family(name, help, MetricType::Counter, |mut family| {
            rows.into_iter().try_for_each(|(labels, value)| {
                ConstCounter::new(value).encode(family.encode_family(&labels)?)
            })
        })
    }

    fn gauges(&mut self, name: &str, help: &str, rows: Vec<(Labels, u64)>) -> Result<(), Error> {
        self.family(name, help, MetricType::Gauge, |mut family| {
            rows.into_iter()
                .try_for_each(|(labels, value)| ConstGauge::new(value).encode(family.encode_family(&labels)?))
        })
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        self.family(name, help, MetricType::Counter, |family| ConstCounter::new(value).encode(family))
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        self.family(name, help, MetricType::Gauge, |family| ConstGauge::new(value).encode(family))
    }

    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        scale: f64,
        rows: Vec<(Labels, &Histogram)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Histogram, |mut family| {
            rows.into_iter()
                .try_for_each(|(labels, values)| encode_scaled(values, scale, family.encode_family(&labels)?))
        })
    }

    fn histogram(&mut self, name: &str, help: &str, scale: f64, values: &Histogram) -> Result<(), Error> {
        self.family(name, help, MetricType::Histogram, |family| encode_scaled(values, scale, family))
    }
}

/// Values are multiplied by `scale` to be in the unit of the metric's name.
fn encode_scaled(values: &Histogram, scale: f64, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
    let bounds = values.bounds.iter().map(|bound| *bound as f64 * scale);
    let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(values.counts.iter().copied()).collect();
    let sum = values.sum as f64 * scale;
    encoder.encode_histogram::<NoLabelSet>(sum, values.count(), &buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::WriterMetrics;

    #[test]
    fn shards_are_labelled_and_strfrys_names_add_up() {
        let shard = |shard: usize| {
            let mut relay = Metrics { messages_req: 2, sent_event: 10, ..Metrics::default() };
            relay.events_by_kind.insert(1, 3);
            relay.req_to_eose_us.record(4_000);
            relay.req_to_eose_us.record(9_000_000);
            ShardSnapshot { shard, relay, host: HostMetrics::default(), sockets: 1, store: None }
        };
        let text = render(Snapshot {
            shards: vec![shard(0), shard(1)],
            writer: WriterMetrics::default(),
            store: None,
            sockets_refused: 8,
            uptime_seconds: 7,
            resident_bytes: resident_bytes_for_test(),
        });
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
            "process_resident_memory_bytes 5",
            "# TYPE relay_commit_seconds histogram",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    fn resident_bytes_for_test() -> Option<u64> {
        Some(5)
    }
}
