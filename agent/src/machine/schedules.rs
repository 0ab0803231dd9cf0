//! Jobs that an agent gives itself, every so many seconds. What was missed is run once.

use std::collections::BTreeMap;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{EventId, Now, PubKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Agent;
use super::jobs::{Active, Source, Stage};
use crate::identity::Sign;
use crate::job::{Input, InputKind, JobRequest, JobState};
use crate::manifest::Schedule;
use crate::store::{self, JobRow};

/// The times of each schedule, by what it does.
#[derive(Clone, Debug, Default)]
pub(super) struct Schedules {
    times: BTreeMap<String, Times>,
}

/// Unix seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Times {
    /// When it was due last, or was deployed.
    due_at: u64,
    /// When it ran last; 0 if never.
    ran_at: u64,
}

/// What such a job is made of, in the database.
#[derive(Serialize, Deserialize)]
struct ScheduledSource {
    schedule: Schedule,
    /// Unix seconds.
    due: u64,
}

impl Schedules {
    const NAME: &'static str = "schedules";

    pub(super) fn open(conn: &impl SqlConn) -> Result<Self, StoreError> {
        Ok(Schedules { times: store::get_meta(conn, Self::NAME)?.unwrap_or_default() })
    }
}

/// A schedule by what it does, so that it goes on when others are added before it.
pub(super) fn key(schedule: &Schedule) -> String {
    let json = serde_json::to_vec(schedule).unwrap_or_default();
    Sha256::digest(json).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What a stored job is made of, if it is the agent's own.
pub(super) fn read(source: &[u8]) -> Option<(Schedule, u64)> {
    let ScheduledSource { schedule, due } = serde_json::from_slice(source).ok()?;
    Some((schedule, due))
}

/// The request that an agent makes of itself.
pub(super) fn request(
    id: EventId,
    agent: PubKey,
    schedule: &Schedule,
    due: u64,
    relays: &[String],
) -> JobRequest {
    let input = Input { data: schedule.input.clone(), kind: InputKind::Text, relay: None, marker: None };
    JobRequest {
        id,
        customer: agent,
        kind: schedule.kind,
        created_at: due,
        is_addressed: true,
        inputs: if schedule.input.is_empty() { Vec::new() } else { vec![input] },
        params: Vec::new(),
        output: None,
        bid_msat: None,
        relays: relays.to_owned(),
        cipher: None,
    }
}

impl<C: SqlConn> Agent<C> {
    /// The schedules, each with the millisecond when it is due; none while the agent takes no jobs.
    fn due(&self) -> impl Iterator<Item = (u64, &Schedule)> {
        let takes_jobs = self.record.as_ref().is_some_and(|record| record.state.takes_jobs());
        let deployed = self.deployed.as_ref().filter(|deployed| takes_jobs && deployed.event_signer.is_ok());
        let schedules = deployed
            .into_iter()
            .flat_map(|deployed| deployed.schedule_keys.iter().zip(&deployed.manifest.schedules));
        schedules.filter_map(|(key, schedule)| {
            let Times { due_at, .. } = self.schedules.times.get(key)?;
            Some(((due_at + schedule.every_s.max(1)) * 1000, schedule))
        })
    }

    /// When the next one is due, in milliseconds since 1970.
    pub(super) fn next_schedule(&self) -> Option<u64> {
        self.due().map(|(at, _)| at).min()
    }

    /// Starts counting for schedules that are new, and forgets those that are gone. Part of a deployment.
    pub(super) fn set_schedules(&mut self, now: Now, schedules: &[Schedule]) {
        let begins = |schedule: &Schedule| {
            let key = key(schedule);
            let begun = Times { due_at: now.seconds(), ran_at: 0 };
            let times = self.schedules.times.get(&key).copied().unwrap_or(begun);
            (key, times)
        };
        let times: BTreeMap<String, Times> = schedules.iter().map(begins).collect();
        if times != self.schedules.times {
            self.schedules.times = times;
            self.save_schedules();
        }
    }

    fn save_schedules(&mut self) {
        store::put_meta(&mut self.batch, Schedules::NAME, &self.schedules.times);
    }

    /// Runs those that are due. One whose last run is not finished is left out this time.
    pub(super) fn run_schedules(&mut self, now: Now) {
        let due: Vec<Schedule> =
            self.due().filter(|(at, _)| *at <= now.millis()).map(|(_, schedule)| schedule.clone()).collect();
        let Some(agent) = self.event_signer().map(Sign::pubkey) else { return };
        for schedule in due {
            let key = key(&schedule);
            let id_of = |at: u64| {
                let hash =
                    Sha256::new().chain_update(agent.0).chain_update(&key).chain_update(at.to_be_bytes());
                EventId(hash.finalize().into())
            };
            let times = self.schedules.times.entry(key.clone()).or_default();
            times.due_at = now.seconds();
            let is_running = self.jobs.get(&id_of(times.ran_at)).is_some();
            if !is_running {
                times.ran_at = now.seconds();
            }
            self.save_schedules();
            if !is_running {
                self.run_schedule(now, id_of(now.seconds()), agent, schedule);
            }
        }
    }

    fn run_schedule(&mut self, now: Now, id: EventId, agent: PubKey, schedule: Schedule) {
        let due = now.seconds();
        let relays = self.deployed.as_ref().map_or(&[][..], |deployed| &deployed.manifest.relays);
        let request = request(id, agent, &schedule, due, relays);
        let source = ScheduledSource { schedule: schedule.clone(), due };
        let source = serde_json::to_vec(&source).unwrap_or_default();
        let (seq, state) = (self.jobs.next_seq(), JobState::Received);
        let row = JobRow::new(seq, id, agent, schedule.kind, state, now.millis(), source);
        let source = Source::Schedule(schedule);
        let active = Active { row, request, source, last_created_at: 0, stage: Stage::Waiting };
        // It has no inputs to fetch. If its start fails, for the store's sake, it is ready and starts later.
        let _ = self.begin(now, active, false);
    }
}
