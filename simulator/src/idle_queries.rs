//! Queries to an idle relay: nothing changes meanwhile, so the oracle knows every answer exactly.

use relay_engine::testing::{Oracle, OracleViewer, filter_json};
use relay_engine::types::{EventId, PubKey};
use serde_json::Value;

use super::client::{Meaning, Message};
use super::history::stored;
use super::host::Host;

/// REQs, and as many COUNTs, of each client.
const QUERIES: usize = 4;

impl Host<'_> {
    /// Sends REQs and COUNTs from every client and compares the answers with the naive oracle's.
    ///
    /// # Panics
    /// If they differ.
    pub(super) fn check_exact_answers(&mut self) {
        let mut oracle = Oracle::default();
        let events = stored(&self.store);
        let stored: Vec<EventId> = events.values().map(|event| event.id).collect();
        for event in events.values() {
            // No stored event replaces or deletes another, so the oracle must keep them all.
            oracle.put(0, event.json(), false);
        }
        assert_eq!(oracle.stored().count(), stored.len(), "no stored event replaces or deletes another");
        for index in 0..self.clients.len() {
            for query in 0..QUERIES {
                let filters = self.pool.filters[(index * QUERIES + query) % self.pool.filters.len()].clone();
                let texts: Vec<Value> = filters.iter().map(filter_json).collect();
                let joined = texts.iter().map(Value::to_string).collect::<Vec<_>>().join(",");
                let (sub, count) = (format!("exact{query}"), format!("count{query}"));
                let req = format!(r#"["REQ","{sub}",{joined}]"#);
                let close = format!(r#"["CLOSE","{sub}"]"#);
                let count_request = format!(r#"["COUNT","{count}",{joined}]"#);
                let socket = &mut self.clients[index].socket;
                socket.push_back(Message { text: req, meaning: Meaning::Req(sub.clone(), filters) });
                socket.push_back(Message { text: count_request, meaning: Meaning::Count(count.clone()) });
                self.run_until_idle();
                self.compare(index, &sub, &count, &texts, (&oracle, &stored));
                self.clients[index].socket.push_back(Message { text: close, meaning: Meaning::Close(sub) });
                self.run_until_idle();
            }
        }
    }

    fn compare(
        &mut self,
        index: usize,
        sub: &str,
        count: &str,
        texts: &[Value],
        (oracle, stored): (&Oracle, &[EventId]),
    ) {
        let now = self.now.seconds();
        let client = &self.clients[index];
        let keys: Vec<String> = client.keys().iter().map(PubKey::to_string).collect();
        let viewer = OracleViewer { guarded: &[1059, 21_059], keys: &keys };
        let limits = &self.config.limits;
        let answer = oracle.query(texts, now, (limits.limit_default, limits.limit_max), &viewer);
        let own_sub = &client.subs[sub];
        let Some(_) = own_sub.eose_at else {
            // Refused: too many subscriptions are open, or it asks for others' gift wraps.
            assert!(own_sub.ended, "answered or refused");
            return;
        };
        assert!(!answer.withheld, "{texts:?} is refused");
        let expected: Vec<EventId> = answer.seqs.iter().map(|seq| stored[*seq as usize - 1]).collect();
        assert_eq!(own_sub.seen, expected, "{texts:?}");
        let hint = match answer {
            _ if answer.more => Some("more"),
            _ if answer.has_limit_zero || answer.may_be_incomplete => None,
            _ => Some("finish"),
        };
        assert_eq!(own_sub.hint.as_deref(), hint, "{texts:?}");
        let counted = client.counts[count].as_ref().expect("it was answered");
        let expected = oracle.count(texts, now, &viewer);
        if expected.withheld {
            // Without its limits, the request is for ids alone that are all guarded.
            assert!(counted.is_null(), "COUNT {texts:?} is refused");
        } else {
            assert_eq!(counted["count"], expected.count, "COUNT {texts:?}");
            assert_eq!(counted["approximate"] == true, expected.may_be_incomplete, "COUNT {texts:?}");
        }
        self.report.exact += 1;
    }
}
