//! Events that other processes store in the folder that is served: `relay import`, `sync`, `stream` and `router`; by themselves, or through
//! the writer. It finds them in the log, and live subscriptions receive them as if a client had published them.

use relay_engine::relay::LiveEvent;
use relay_engine::store::{Backend, Reader, RemovedEvents, Seq, SinkResult, StoreError, read_log};
use relay_engine::types::{Event, MatchCost};

/// Events of others that are delivered at once. Of more, as a large import may store, the last ones are found by queries only.
const EVENTS_MAX: usize = 16_384;
/// Bytes of these.
const BYTES_MAX: usize = 32 << 20;

/// How far the log is known.
pub(crate) struct ForeignCommits {
    known: Seq,
}

impl ForeignCommits {
    /// All that is stored now is known.
    pub(crate) fn new<B: Backend>(store: &B) -> Self {
        let known = store.reader().and_then(|reader| reader.last_seq());
        ForeignCommits { known: known.unwrap_or_default() }
    }

    /// Adds what others have stored to `live`, which this process has just committed, in the order of the log. Costs a look at
    /// the last number if there is nothing.
    ///
    /// # Errors
    /// The backend's; `live` is then as it was, and live subscriptions may miss what others have stored.
    pub(crate) fn add_to<B: Backend>(
        &mut self,
        store: &B,
        live: &mut Vec<LiveEvent>,
    ) -> Result<(), StoreError> {
        let reader = store.reader()?;
        let last = reader.last_seq()?;
        let own: Vec<Seq> = live.iter().filter_map(|live| live.seq).collect();
        let after = self.known;
        self.known = last.max(after);
        if last.0 <= after.0 + own.len() as u64 {
            return Ok(());
        }
        let (mut rows, mut bytes) = (EVENTS_MAX, 0);
        let mut found = Vec::new();
        let replayed = read_log(&reader, after, &mut rows, &mut |hit| {
            if own.binary_search(&hit.seq).is_err() {
                bytes += hit.event.json().len();
                let event = Event::from_canonical(hit.event.json().into());
                found.push(LiveEvent {
                    seq: Some(hit.seq),
                    event,
                    publisher_address: None,
                    removed: RemovedEvents::Unknown,
                });
            }
            let result = if bytes > BYTES_MAX { SinkResult::Pause } else { SinkResult::Continue };
            (result, MatchCost::default())
        })?;
        if !replayed.caught_up {
            let missed = last.0 - replayed.covered.0;
            tracing::warn!(
                missed,
                "another process stores too much at once: live subscriptions do not receive the newest `missed` of its events"
            );
        }
        if !found.is_empty() {
            live.append(&mut found);
            live.sort_by_key(|live| live.seq);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use relay_engine::store::{MemoryBackend, Op, Outcome, commit};
    use relay_engine::testing::event_of_json;
    use relay_engine::testing::signing::{event, key};
    use relay_engine::verify::Verified;

    use super::*;

    fn put(store: &MemoryBackend, content: &str) -> LiveEvent {
        let signed = event(&key(1)).kind(1).content(content).sign();
        let event = event_of_json(&signed.json()).unwrap();
        let outcomes = commit(store, 0, &[Op::Put(Verified::assume_verified(event.clone()))]).unwrap();
        let Outcome::Stored(seq) = outcomes[0] else { panic!("{outcomes:?}") };
        LiveEvent { seq: Some(seq), event, publisher_address: None, removed: RemovedEvents::NOTHING }
    }

    fn contents(live: &[LiveEvent]) -> Vec<String> {
        live.iter().map(|live| String::from_utf8_lossy(live.event.json()).into_owned()).collect()
    }

    #[test]
    fn what_others_have_stored_is_found_once_and_in_order() {
        let store = MemoryBackend::default();
        put(&store, "before");
        let mut foreign = ForeignCommits::new(&store);
        let add = |foreign: &mut ForeignCommits, own: &[LiveEvent]| {
            let mut live = own.to_vec();
            foreign.add_to(&store, &mut live).unwrap();
            contents(&live)
        };
        assert!(add(&mut foreign, &[]).is_empty());
        let own = put(&store, "own");
        assert_eq!(add(&mut foreign, std::slice::from_ref(&own)), contents(&[own]));
        let all = [put(&store, "foreign"), put(&store, "own too"), put(&store, "foreign too")];
        assert_eq!(add(&mut foreign, &all[1..2]), contents(&all));
        let later = put(&store, "later");
        assert_eq!(add(&mut foreign, &[]), contents(&[later]));
        assert!(add(&mut foreign, &[]).is_empty());
    }
}
