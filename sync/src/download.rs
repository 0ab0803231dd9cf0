//! Events that are asked for by their ids, in batches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use relay_engine::types::EventId;

/// Ids in a REQ.
const BATCH_IDS: usize = 250;
/// REQs that are open at a time.
const OPEN_MAX: usize = 2;
/// Bytes of an id in a REQ, and of the rest of it.
const ID_BYTES: usize = 67;
const REST_BYTES: usize = 100;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Downloads {
    queue: VecDeque<EventId>,
    open: BTreeMap<u64, Batch>,
    batch_max: usize,
    last: u64,
}

#[derive(Debug)]
struct Batch {
    /// Ids that have not come, in the order of their bytes.
    missing: BTreeSet<EventId>,
    has_brought: bool,
}

/// A REQ that is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) sub: String,
    pub(crate) ids: Vec<EventId>,
}

impl Downloads {
    /// From a relay that answers with this many events at most, and takes messages of this many bytes, if that is known.
    pub(crate) fn new(limit_max: Option<u32>, message_bytes_max: Option<usize>) -> Self {
        let by_limit = limit_max.map_or(BATCH_IDS, |limit| limit as usize);
        let by_bytes =
            message_bytes_max.map_or(BATCH_IDS, |bytes| bytes.saturating_sub(REST_BYTES) / ID_BYTES);
        let batch_max = BATCH_IDS.min(by_limit).min(by_bytes).max(1);
        Downloads { queue: VecDeque::new(), open: BTreeMap::new(), batch_max, last: 0 }
    }

    /// Asks for these too, once there is room.
    pub(crate) fn push(&mut self, ids: impl IntoIterator<Item = EventId>) {
        self.queue.extend(ids);
    }

    /// Ids that have not been asked for.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing is asked for, or will be.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.open.is_empty()
    }

    /// Whether an answer is awaited.
    pub(crate) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The next REQ, if there is room for one.
    pub(crate) fn next(&mut self) -> Option<Request> {
        if self.open.len() >= OPEN_MAX || self.queue.is_empty() {
            return None;
        }
        let ids: Vec<EventId> = self.queue.drain(..self.batch_max.min(self.queue.len())).collect();
        self.last += 1;
        self.open.insert(self.last, Batch { missing: ids.iter().copied().collect(), has_brought: false });
        Some(Request { sub: format!("r{}", self.last), ids })
    }

    /// Whether this event was asked for by this REQ, and comes for the first time.
    pub(crate) fn take(&mut self, sub: &str, id: &EventId) -> bool {
        let Some(batch) = number(sub).and_then(|sub| self.open.get_mut(&sub)) else { return false };
        let is_asked = batch.missing.remove(id);
        batch.has_brought |= is_asked;
        is_asked
    }

    /// All has been sent of a REQ: the ids that the other relay does not have after all; `None` if the REQ is not open. What may
    /// have been cut off is asked for again.
    pub(crate) fn end(&mut self, sub: &str) -> Option<Vec<EventId>> {
        let batch = self.open.remove(&number(sub)?)?;
        if batch.has_brought {
            self.queue.extend(batch.missing);
            return Some(Vec::new());
        }
        Some(batch.missing.into_iter().collect())
    }

    /// A REQ has been closed by the relay: what it has not brought is asked for again, in batches half as large if `halve`.
    /// False if they cannot be smaller. `None`: the REQ is not open.
    pub(crate) fn closed(&mut self, sub: &str, halve: bool) -> Option<bool> {
        let batch = self.open.remove(&number(sub)?)?;
        self.queue.extend(batch.missing);
        let can = !halve || self.batch_max > 1;
        if halve {
            self.batch_max = (self.batch_max / 2).max(1);
        }
        Some(can)
    }
}

fn number(sub: &str) -> Option<u64> {
    sub.strip_prefix('r')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: std::ops::Range<u16>) -> Vec<EventId> {
        numbers.map(|number| EventId([number.to_be_bytes(); 16].concat().try_into().unwrap())).collect()
    }

    #[test]
    fn what_is_cut_off_is_asked_for_again_and_what_is_not_there_is_not() {
        let mut downloads = Downloads::new(None, None);
        downloads.push(ids(0..600));
        let (first, second) = (downloads.next().unwrap(), downloads.next().unwrap());
        assert_eq!((first.ids.len(), second.ids.len(), downloads.next()), (250, 250, None));
        for id in &first.ids[..100] {
            assert!(downloads.take(&first.sub, id));
            assert!(!downloads.take(&first.sub, id), "an event comes once");
            assert!(!downloads.take(&second.sub, id), "of another REQ");
        }
        assert_eq!(downloads.end(&first.sub), Some(vec![]));
        assert_eq!(downloads.end(&second.sub), Some(second.ids));
        assert_eq!(downloads.end(&second.sub), None);
        let third = downloads.next().unwrap();
        let last = [&ids(500..600), &first.ids[100..]].concat();
        assert_eq!(third.ids, last);
        assert_eq!(downloads.end(&third.sub).map(|ids| ids.len()), Some(last.len()));
        assert!(downloads.is_idle());
    }

    #[test]
    fn batches_keep_the_limits_of_the_relay() {
        for (limit, bytes, want) in
            [(None, None, 250), (Some(40), None, 40), (None, Some(1_000), 13), (Some(0), Some(0), 1)]
        {
            let mut downloads = Downloads::new(limit, bytes);
            downloads.push(ids(0..1_000));
            let request = downloads.next().unwrap();
            assert_eq!(request.ids.len(), want);
            assert_eq!(downloads.closed(&request.sub, true), Some(want > 1));
            assert_eq!(downloads.next().unwrap().ids.len(), (want / 2).max(1));
        }
    }
}
