//! Unfinished jobs from the database. One that cannot be read ends, and keeps no other waiting.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Event, Now};

use super::Agent;
use super::jobs::{Active, Source, Stage};
use crate::identity::{EventSigner, Sign};
use crate::job::{JobEvent, JobState};
use crate::nip90;
use crate::store::{self, Decrypted, JobRow, UnfinishedRow};

impl<C: SqlConn> Agent<C> {
    /// Reads from the database which jobs are unfinished. Those that ran are interrupted.
    pub(super) fn load_jobs(&mut self, now: Now) -> Result<(), StoreError> {
        for mut open in store::unfinished_jobs(&self.conn)? {
            match open.state.after(JobEvent::Interrupt) {
                Some(state) => {
                    self.metrics.count(|metrics| metrics.interrupted += 1);
                    open.state = state;
                    self.wait_for_turn(now, open);
                }
                None if open.state.awaits_payment() => self.resume_awaiting(open),
                None if open.state == JobState::WaitingInput => {
                    self.jobs.put(open);
                    self.jobs.set_timer(open.id, Some(now.millis()));
                }
                None => self.wait_for_turn(now, open),
            }
        }
        Ok(())
    }

    /// Makes a job of what is stored.
    ///
    /// # Errors
    /// With a message for the log.
    pub(super) fn load(&self, row: JobRow) -> Result<Active, String> {
        let author = self.event_signer().ok_or("the agent has no key")?;
        let (request, source) = match super::schedules::read(&row.source) {
            Some((schedule, due)) => {
                let relays = self.deployed.as_ref().map_or(&[][..], |deployed| &deployed.manifest.relays);
                let request = super::schedules::request(row.id, author.pubkey(), &schedule, due, relays);
                (request, Source::Schedule(schedule))
            }
            None if row.source.starts_with(br#"{"id":""#) => {
                let event = Event::from_canonical(row.source.as_slice().into());
                let request = match (author, &row.trace.decrypted) {
                    (EventSigner::Local(keys), _) => nip90::parse(&event, keys),
                    (EventSigner::Remote(agent), None) if nip90::is_encrypted(&event) => {
                        nip90::parse_undecrypted(&event, agent)
                    }
                    (EventSigner::Remote(agent), opened) => nip90::parse_with(&event, agent, || {
                        opened.as_ref().map(Decrypted::read).ok_or("it has not been decrypted")
                    }),
                };
                let request = request.map_err(|error| format!("{error:?}"))?;
                (request, Source::of(event))
            }
            None => return Err("its request has been forgotten".to_owned()),
        };
        Ok(Active { last_created_at: row.created_at_max, request, source, stage: Stage::Waiting, row })
    }

    /// A job of which only a little is in memory, as it is stored or will be.
    pub(super) fn read_row(&self, seq: u64) -> Result<JobRow, StoreError> {
        let row = match self.batch.job(seq) {
            Some(row) => Some(row.clone()),
            None => store::job(&self.conn, seq)?,
        };
        let mut row = row.ok_or_else(|| StoreError::Corrupt(format!("job {seq} is missing")))?;
        row.state = row.state.after(JobEvent::Interrupt).unwrap_or(row.state);
        Ok(row)
    }

    /// An unfinished job, as it is stored or will be. One whose row cannot be read has failed, and there is `None`: it must not keep others
    /// waiting.
    pub(super) fn read_or_end(
        &mut self,
        now: Now,
        open: &UnfinishedRow,
    ) -> Result<Option<JobRow>, StoreError> {
        match self.read_row(open.seq) {
            Ok(row) => Ok(Some(row)),
            Err(StoreError::Corrupt(why)) => {
                self.return_reserved(now, open)?;
                self.log(now, Some(open.id), format!("stored job cannot be read: {why}"));
                store::end_unreadable(&mut self.batch, open.seq, "internal", now.millis());
                if open.state == JobState::Withheld {
                    self.batch.put_withheld(open.seq, None);
                }
                self.jobs.remove(&open.id);
                self.cancel_hold(now, &open.id);
                self.payments.uninvoiced.remove(&open.seq);
                self.metrics.ended(JobState::Failed, Some("internal"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A stored job that cannot be loaded: nobody can be answered.
    pub(super) fn unreadable(&mut self, now: Now, row: JobRow, message: &str) {
        self.log(now, Some(row.id), format!("stored job cannot be loaded: {message}"));
        self.end_row(now, row, JobEvent::Fail, Some("internal"));
    }
}
