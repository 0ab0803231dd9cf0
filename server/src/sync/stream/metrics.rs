//! Metrics of streams, as OpenMetrics text.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use relay_engine::store::Seq;
use relay_site::metrics::Metric;

use super::follower::StatusNow;
use crate::metrics::{Labels, Out, render_collector};

const CONNECTED: Metric = Metric::gauge("relay_stream_connected", "Whether a connection is open");
const CONNECTIONS: Metric =
    Metric::counter("relay_stream_connections", "Connections that were opened, or tried");
const RECONNECTS: Metric =
    Metric::counter("relay_stream_reconnects", "Connections after the first, tried ones included");
const CUT_OFFS: Metric =
    Metric::counter("relay_stream_cut_offs", "Connections ended because the relay lied, flooded or refused");
const RECEIVED: Metric = Metric::counter("relay_stream_events_received", "Events of the live subscription");
const STORED: Metric = Metric::counter("relay_stream_events_stored", "Events stored here");
const DUPLICATE: Metric = Metric::counter("relay_stream_events_duplicate", "Events that were here already");
const REFUSED: Metric = Metric::counter("relay_stream_events_refused", "Events not stored here, by cause");
const SENT: Metric = Metric::counter("relay_stream_events_sent", "Events sent");
const ACCEPTED: Metric =
    Metric::counter("relay_stream_events_accepted", "Sent events that the relay has taken, or had");
const REJECTED: Metric =
    Metric::counter("relay_stream_events_rejected", "Sent events that the relay has refused");
const WITHHELD: Metric =
    Metric::counter("relay_stream_events_withheld", "Events not sent because they are guarded or protected");
const EPHEMERAL_MISSED: Metric =
    Metric::counter("relay_stream_ephemeral_missed", "Ephemeral events that could not be passed on");
const BYTES: Metric = Metric::counter("relay_stream_bytes", "Bytes of messages of the live connection");
const SYNCED: Metric = Metric::gauge(
    "relay_stream_synced_timestamp_seconds",
    "Until when both sides have what the other one was given; 0: not known",
);
const LAG: Metric = Metric::gauge("relay_stream_lag_events", "Stored events that are not sent yet, at most");

/// The state of all relays of all streams.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// Stream, URL, state.
    pub(super) relays: Vec<(String, String, StatusNow)>,
    /// The number of the event that was stored last.
    pub(super) newest: Seq,
}

impl Snapshot {
    /// OpenMetrics text.
    pub(super) fn render(self) -> String {
        render_collector(Box::new(self))
    }

    fn rows(&self, of: impl Fn(&StatusNow) -> u64) -> Vec<(Labels, u64)> {
        self.relays.iter().map(|(stream, url, now)| (labels(stream, url), of(now))).collect()
    }

    /// With one more label.
    fn rows_by<const N: usize>(
        &self,
        label: &'static str,
        of: impl Fn(&StatusNow) -> [(&'static str, u64); N],
    ) -> Vec<(Labels, u64)> {
        let mut rows = Vec::new();
        for (stream, url, now) in &self.relays {
            for (value, count) in of(now) {
                let mut labels = labels(stream, url);
                labels.push((label, value.to_owned()));
                rows.push((labels, count));
            }
        }
        rows
    }
}

fn labels(stream: &str, url: &str) -> Labels {
    vec![("stream", stream.to_owned()), ("url", url.to_owned())]
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Out::new(&mut encoder);
        out.metric(CONNECTED, self.rows(|now| now.is_connected.into()))?;
        out.metric(CONNECTIONS, self.rows(|now| now.counts.connections))?;
        out.metric(RECONNECTS, self.rows(|now| now.counts.connections.saturating_sub(1)))?;
        out.metric(CUT_OFFS, self.rows(|now| now.counts.cut_offs))?;
        out.metric(RECEIVED, self.rows(|now| now.counts.received))?;
        out.metric(STORED, self.rows(|now| now.counts.outcomes.stored))?;
        out.metric(DUPLICATE, self.rows(|now| now.counts.outcomes.duplicate))?;
        let by_cause = |now: &StatusNow| {
            let counts = &now.counts;
            [
                ("superseded", counts.outcomes.superseded),
                ("deleted", counts.outcomes.deleted),
                ("expired", counts.outcomes.expired),
                ("ephemeral", counts.outcomes.ephemeral),
                ("invalid", counts.invalid),
                ("unasked", counts.unasked),
                ("mismatched", counts.mismatched),
            ]
        };
        out.metric(REFUSED, self.rows_by("cause", by_cause))?;
        out.metric(SENT, self.rows(|now| now.counts.sent))?;
        out.metric(ACCEPTED, self.rows(|now| now.counts.accepted))?;
        out.metric(REJECTED, self.rows(|now| now.counts.rejected))?;
        out.metric(WITHHELD, self.rows(|now| now.counts.withheld))?;
        out.metric(EPHEMERAL_MISSED, self.rows(|now| now.counts.ephemeral_missed))?;
        let bytes = |now: &StatusNow| [("in", now.counts.bytes_in), ("out", now.counts.bytes_out)];
        out.metric(BYTES, self.rows_by("direction", bytes))?;
        out.metric(SYNCED, self.rows(|now| now.synced_at))?;
        let lag = |now: &StatusNow| now.sent.map_or(0, |sent| self.newest.0.saturating_sub(sent.0));
        out.metric(LAG, self.rows(lag))
    }
}

#[cfg(test)]
mod tests {
    use super::super::counts::StreamCounts;
    use super::*;

    #[test]
    fn every_relay_has_its_numbers() {
        let counts = StreamCounts { invalid: 3, bytes_in: 5, connections: 2, ..StreamCounts::default() };
        let now = StatusNow { is_connected: true, counts, synced_at: 7, sent: Some(Seq(5)) };
        let text = {
            let relays = vec![("a".to_owned(), "ws://x".to_owned(), now)];
            Snapshot { relays, newest: Seq(9) }.render()
        };
        for line in [
            r#"relay_stream_connected{stream="a",url="ws://x"} 1"#,
            r#"relay_stream_reconnects_total{stream="a",url="ws://x"} 1"#,
            r#"relay_stream_events_refused_total{stream="a",url="ws://x",cause="invalid"} 3"#,
            r#"relay_stream_bytes_total{stream="a",url="ws://x",direction="in"} 5"#,
            r#"relay_stream_synced_timestamp_seconds{stream="a",url="ws://x"} 7"#,
            r#"relay_stream_lag_events{stream="a",url="ws://x"} 4"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
