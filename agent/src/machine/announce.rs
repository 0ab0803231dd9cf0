//! How an agent is found: its announcements are published when something that they say has changed, and retracted when it is
//! deleted or does not want to be found any more.

use relay_engine::sql::SqlConn;
use relay_engine::types::{Event, Now};
use sha2::{Digest, Sha256};
use url::{Host, Url};

use super::Agent;
use super::admin::Head;
use crate::identity::{self, Keys};
use crate::manifest::Manifest;
use crate::nip90;

impl<C: SqlConn> Agent<C> {
    /// Stages what has to be published for a manifest to be announced as it is, and notes it in the head.
    pub(super) fn announce(&mut self, now: Now, keys: &Keys, manifest: &Manifest, head: &mut Head) {
        if !manifest.announce {
            return self.retract(now, keys, &manifest.relays, head);
        }
        let relay_url = self.context.relay_url.as_deref();
        let nip05 = relay_url
            .and_then(domain)
            .map(|domain| format!("{}@{domain}", identity::nip05_name(&manifest.name, &keys.pubkey())));
        let events =
            |created_at| nip90::announcements(keys, manifest, relay_url, nip05.as_deref(), created_at);
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
    pub(super) fn retract(&mut self, now: Now, keys: &Keys, relays: &[String], head: &mut Head) {
        if head.announcement.take().is_some() {
            let created_at = now.seconds().max(head.announced_at + 1);
            self.outbox.stage(now, relays, nip90::retraction(keys, created_at));
            head.announced_at = created_at;
        }
    }
}

/// The domain of a relay's URL, for a NIP-05 name: these have no port, and no address.
fn domain(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    match url.host()? {
        Host::Domain(domain) if url.port().is_none() => Some(domain.to_owned()),
        Host::Domain(_) | Host::Ipv4(_) | Host::Ipv6(_) => None,
    }
}

fn digest(events: &[Event]) -> String {
    let mut hash = Sha256::new();
    events.iter().for_each(|event| hash.update(event.id.0));
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_domains() {
        let cases = [
            ("wss://relay.example", Some("relay.example")),
            ("wss://relay.example/", Some("relay.example")),
            ("wss://relay.example:7777", None),
            ("ws://127.0.0.1:7777", None),
            ("wss://[::1]", None),
            ("", None),
        ];
        for (url, expected) in cases {
            assert_eq!(domain(url).as_deref(), expected, "{url}");
        }
    }
}
