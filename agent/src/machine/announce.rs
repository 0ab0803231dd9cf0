//! How an agent is found: its announcements are published when something that they say has changed, and retracted when it is
//! deleted or does not want to be found any more.

use relay_engine::sql::SqlConn;
use relay_engine::types::{Event, Now};
use sha2::{Digest, Sha256};

use super::Agent;
use super::admin::Head;
use crate::identity::Author;
use crate::manifest::Manifest;
use crate::nip90;

impl<C: SqlConn> Agent<C> {
    /// Stages what has to be published for a manifest to be announced as it is, and notes it in the head.
    pub(super) fn announce(&mut self, now: Now, author: &Author, manifest: &Manifest, head: &mut Head) {
        if !manifest.announce {
            return self.retract(now, author, &manifest.relays, head);
        }
        let relay_url = self.context.relay_url.as_deref();
        let events = |created_at| nip90::announcements(author, manifest, relay_url, created_at);
        let digest = digest(&events(0));
        if head.announcement.as_ref() == Some(&digest) {
            return;
        }
        let created_at = now.seconds().max(head.announced_at + 1);
        for event in events(created_at) {
            self.outbox.stage(now, &manifest.relays, event);
        }
        head.announcement = Some(digest);
        head.announced_at = created_at;
    }

    /// Stages the retraction of what was announced.
    pub(super) fn retract(&mut self, now: Now, author: &Author, relays: &[String], head: &mut Head) {
        if head.announcement.take().is_some() {
            let created_at = now.seconds().max(head.announced_at + 1);
            self.outbox.stage(now, relays, nip90::retraction(author, created_at));
            head.announced_at = created_at;
        }
    }
}

fn digest(events: &[Event]) -> String {
    let mut hash = Sha256::new();
    events.iter().for_each(|event| hash.update(event.id.0));
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
