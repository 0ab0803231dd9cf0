//! How an agent is found: its announcements are published when something that they say has changed, and retracted when it is
//! deleted or does not want to be found any more; and again every few days.

use std::sync::Arc;

use relay_engine::sql::SqlConn;
use relay_engine::types::{Event, Now};
use sha2::{Digest, Sha256};

use super::admin::AgentRecord;
use super::{Agent, AgentState};
use crate::identity::{EventSigner, Sign};
use crate::manifest::Manifest;
use crate::nip90;
use crate::store;

/// Seconds after which what is announced is announced again, as it is: clients list what is not older than a week. Agents that were
/// deployed together do so within [`RENEW_SPREAD_SECONDS`].
const RENEW_SECONDS: u64 = 3 * 86_400;
const RENEW_SPREAD_SECONDS: u64 = 86_400;

impl<C: SqlConn> Agent<C> {
    /// When the announcement is renewed, in milliseconds since 1970. Of an agent that takes no jobs it is not.
    pub(super) fn renewal_at(&self) -> Option<u64> {
        let record = self.record.as_ref().filter(|record| record.state == AgentState::Active)?;
        let key = self.event_signer()?.pubkey();
        record.announcement.as_ref()?;
        let spread = (u64::from(u16::from_be_bytes([key.0[0], key.0[1]])) * RENEW_SPREAD_SECONDS) >> 16;
        Some((record.announced_at + RENEW_SECONDS + spread) * 1_000)
    }

    /// Publishes the announcement once more, if it is time for it.
    pub(super) fn renew_announcement(&mut self, now: Now) {
        let is_due = self.renewal_at().is_some_and(|at| at <= now.millis());
        let (Some(deployed), Some(mut record)) = (&self.deployed, self.record.clone().filter(|_| is_due))
        else {
            return;
        };
        let Some(author) = self.event_signer().cloned() else { return };
        let manifest = Arc::clone(&deployed.manifest);
        record.announcement = None;
        self.announce(now, &author, &manifest, &mut record);
        store::put_meta(&mut self.batch, AgentRecord::NAME, &record);
        self.record = Some(record);
    }

    /// Stages what has to be published for a manifest to be announced as it is, and notes it in the record.
    pub(super) fn announce(
        &mut self,
        now: Now,
        author: &EventSigner,
        manifest: &Manifest,
        record: &mut AgentRecord,
    ) {
        if !manifest.announce {
            return self.retract(now, author, &manifest.relays, record);
        }
        let relay_url = self.context.relay_url.as_deref();
        let events = |created_at| nip90::announcements(author, manifest, relay_url, created_at);
        let digest = digest(&events(0));
        if record.announcement.as_ref() == Some(&digest) {
            return;
        }
        let created_at = now.seconds().max(record.announced_at + 1);
        for event in events(created_at) {
            self.outbox.stage(now, &manifest.relays, event);
        }
        record.announcement = Some(digest);
        record.announced_at = created_at;
    }

    /// Stages the retraction of what was announced.
    pub(super) fn retract(
        &mut self,
        now: Now,
        author: &EventSigner,
        relays: &[String],
        record: &mut AgentRecord,
    ) {
        if record.announcement.take().is_some() {
            let created_at = now.seconds().max(record.announced_at + 1);
            self.outbox.stage(now, relays, nip90::retraction(author, created_at));
            record.announced_at = created_at;
        }
    }
}

fn digest(events: &[Event]) -> String {
    let mut hash = Sha256::new();
    events.iter().for_each(|event| hash.update(event.id.0));
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
