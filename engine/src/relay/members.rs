//! The members of the relay ([`Admission`]): read from the store when the first event of a client comes, kept up to date by what is
//! stored after that.

use std::sync::Arc;

use super::LiveEvent;
use super::commit::ALREADY_DELIVERED;
use crate::policy::{Admission, Members};
use crate::store::{
    Backend, Reader, RemovedEvents, Scan, ScanLimits, ScanStep, Seq, SinkResult, StoreError, Unrestricted,
};
use crate::types::{Event, Filter, KIND_ADD_USER, KIND_REMOVE_USER, Timestamp};

/// The members, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct KnownMembers {
    members: Members,
    /// All that the log had up to this sequence number is in it; `None`: it has to be read.
    as_of: Option<Seq>,
}

impl KnownMembers {
    /// Whether a client's event may be written, as far as membership goes. The first time, and after changes that were not reported to this
    /// shard, all events that say who is a member are read.
    pub(super) fn admit<B: Backend>(
        &mut self,
        store: &B,
        admission: &Admission,
        event: &Event,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        if self.as_of.is_none() {
            (self.members, self.as_of) = read(store, admission, now)?;
        }
        Ok(admission.admits(&self.members, event, now))
    }

    /// Records what was committed.
    pub(super) fn record_live(&mut self, admission: Option<&Admission>, live: &LiveEvent) {
        let (Some(admission), Some(as_of), Some(seq)) = (admission, self.as_of, live.seq) else { return };
        // Its events are removed by its own only, so nobody else makes the machine read them again.
        let is_own = live.event.pubkey == admission.pubkey;
        let is_removed = match &live.removed {
            _ if !is_own => false,
            RemovedEvents::Unknown => true,
            RemovedEvents::Listed(events) => events.iter().any(|(_, id)| self.members.has_recorded(id)),
        };
        // After a gap, others have written to the store.
        if is_removed || seq.0 > as_of.0 + 1 {
            self.as_of = None;
            return;
        }
        if seq != ALREADY_DELIVERED && is_own {
            self.members.record(&live.event);
        }
        self.as_of = Some(as_of.max(seq));
    }
}

fn read<B: Backend>(
    store: &B,
    admission: &Admission,
    now: Timestamp,
) -> Result<(Members, Option<Seq>), StoreError> {
    let filter = Filter {
        authors: Some(vec![admission.pubkey].into()),
        kinds: Some(vec![KIND_ADD_USER, KIND_REMOVE_USER].into()),
        ..Filter::default()
    };
    let reader = store.reader()?;
    let last = reader.last_seq()?;
    let limits = ScanLimits { limit_default: u32::MAX, limit_max: u32::MAX };
    let mut scan = Scan::new(Arc::new([filter]), limits, store.classes(), last);
    let mut members = Members::default();
    let mut record = |hit: crate::store::Hit<'_>| {
        members.record(&Event::from_canonical(hit.event.json().into()));
        SinkResult::Continue
    };
    while scan.step(&reader, now, &mut { usize::MAX }, &Unrestricted, &mut record)? == ScanStep::More {}
    Ok((members, Some(last)))
}
