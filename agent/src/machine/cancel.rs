//! Customers cancel jobs: by a deletion request (kind 5), or by a request to vanish (kind 62).

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Event, EventId, Now};

use super::Agent;
use super::limits::RateLimitKind;
use crate::job::JobEvent;
use crate::nip90;
use crate::store;

/// Requests that one deletion request cancels.
const CANCELLED_MAX: usize = 100;
impl<C: SqlConn> Agent<C> {
    /// A deletion request. It may come before the job request, so unknown ids are kept in mind. What names another author's
    /// request has no effect.
    pub(super) fn handle_cancellation(&mut self, now: Now, event: &Event) -> Result<(), StoreError> {
        let mut ids: Vec<EventId> = nip90::cancelled(event).take(CANCELLED_MAX).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut unknown = Vec::new();
        for id in ids {
            match self.jobs.get(&id) {
                Some(open) if open.customer == event.pubkey => self.cancel(now, &id)?,
                Some(_) => {}
                None if self.batch.job_by_id(&id).is_some() || store::has_job(&self.conn, &id)? => {}
                None => unknown.push(id),
            }
        }
        unknown.retain(|_| self.rates.count(now, &event.pubkey, RateLimitKind::Cancellation));
        if !unknown.is_empty() {
            self.rates.store(&mut self.batch);
            store::put_cancelled(&mut self.batch, &unknown, &event.pubkey, now.seconds());
        }
        Ok(())
    }

    /// A request to vanish: cancels the jobs of its author that are not newer than it, and forgets what is kept of them. Anybody may
    /// publish an old request again. The history is searched at most six times a minute for an author: between two such requests
    /// little can be added.
    pub(super) fn handle_vanish(&mut self, now: Now, event: &Event) -> Result<(), StoreError> {
        let until = event.created_at;
        for id in self.unfinished_jobs_of(&event.pubkey) {
            if self.requested_at(&id)? <= until {
                self.cancel(now, &id)?;
            }
        }
        let left = self.session_after(&event.pubkey, until)?;
        self.batch.put_session(event.pubkey, left);
        if self.rates.count(now, &event.pubkey, RateLimitKind::Vanish) {
            store::forget_jobs(&mut self.batch, &event.pubkey, until);
        }
        Ok(())
    }

    /// When an unfinished job was requested, by its customer's clock, in Unix seconds.
    fn requested_at(&self, id: &EventId) -> Result<u64, StoreError> {
        if let Some(active) = self.active.get(id) {
            return Ok(active.request.created_at);
        }
        let Some(open) = self.jobs.get(id) else { return Ok(0) };
        let row = match self.read_row(open.seq) {
            Err(StoreError::Corrupt(_)) => return Ok(0),
            row => row?,
        };
        Ok(match row.source.starts_with(br#"{"id":""#) {
            true => Event::from_canonical(row.source.as_slice().into()).created_at,
            false => 0,
        })
    }

    /// Cancels an unfinished job. Nothing is sent: its customer does not want it any more.
    pub(super) fn cancel(&mut self, now: Now, id: &EventId) -> Result<(), StoreError> {
        let Some(open) = self.jobs.get(id).copied() else { return Ok(()) };
        self.outbox.drop_partials(id);
        match self.active.remove(id) {
            Some(active) => self.end(now, active, JobEvent::Cancel, None),
            None => {
                let Some(row) = self.read_or_end(now, &open)? else { return Ok(()) };
                self.end_row(now, row, JobEvent::Cancel, None);
            }
        }
        Ok(())
    }
}
