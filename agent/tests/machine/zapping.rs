//! The service of a Lightning address of the tests, and customers who zap.

use nostr::hashes::{Hash, sha256};
use relay_agent::identity::{Draft, Keys};
use relay_agent::manifest::Manifest;
use relay_agent::testing::Customer;
use relay_engine::types::{Event, EventId, PubKey};
use serde_json::{Value, json};

use crate::invoices;
use crate::prepaid::paid;
use crate::wallet::Wallet;
use crate::world::World;

pub(crate) const ADDRESS: &str = "agent@pay.example";
pub(crate) const SERVICE_URL: &str = "https://pay.example/.well-known/lnurlp/agent";

/// A manifest of an agent that is paid by zaps; what shows that they have arrived is `receipt` or `wallet`.
pub(crate) fn zapped(policy: &str, check: &str, change: impl FnOnce(&mut Value)) -> Manifest {
    paid(policy, |json| {
        json["payment"]["zap"] = json!(ADDRESS);
        json["payment"]["zap_check"] = json!(check);
        change(json);
    })
}

/// An agent that is paid by zaps, whose service has told its key.
pub(crate) fn zappable(policy: &str, check: &str) -> (World, Wallet, Service) {
    let (mut world, service) = (World::new(&zapped(policy, check, |_| ())), Service::new());
    service.tell(&mut world);
    (world, Wallet::new(), service)
}

/// See the module.
pub(crate) struct Service {
    pub(crate) keys: Keys,
    zaps: u64,
}

impl Service {
    pub(crate) fn new() -> Self {
        Self::of(0x41)
    }

    /// Another one, or the same with another key.
    pub(crate) fn of(key: u8) -> Self {
        Service { keys: Keys::from_secret_bytes([key; 32]).unwrap(), zaps: u64::from(key) << 32 }
    }

    /// What it says about itself (LUD-06).
    pub(crate) fn answer(&self) -> Value {
        json!({
            "tag": "payRequest", "callback": "https://pay.example/callback", "minSendable": 1_000, "maxSendable": 1_000_000_000,
            "metadata": "[[\"text/plain\",\"agent\"]]", "allowsNostr": true, "nostrPubkey": self.keys.pubkey().to_string(),
        })
    }

    /// It answers the agent's call.
    pub(crate) fn tell(&self, world: &mut World) {
        let (_, request) = world.host.calls.first().expect("a call");
        assert_eq!((request.method, request.url.as_str()), ("GET", SERVICE_URL));
        world.answer(200, &self.answer().to_string());
    }

    /// A preimage that is used once.
    pub(crate) fn preimage(&mut self) -> [u8; 32] {
        self.zaps += 1;
        sha256::Hash::hash(&self.zaps.to_be_bytes()).to_byte_array()
    }

    /// A zap, paid: its receipt, its invoice and the preimage.
    pub(crate) fn zap(
        &mut self,
        now: u64,
        agent: &PubKey,
        payer: &Customer,
        event: Option<&EventId>,
        msat: u64,
    ) -> (Event, String, [u8; 32]) {
        let description = signed(payer, &zap_request(now, agent, event, msat));
        let preimage = self.preimage();
        let bolt11 = zap_invoice(now, &description, preimage, Some(msat));
        let tags = receipt_tags(agent, payer, event, &description, &bolt11);
        (self.receipt(now, tags), bolt11, preimage)
    }

    /// A receipt with these tags.
    pub(crate) fn receipt(&self, now: u64, tags: Vec<Vec<String>>) -> Event {
        self.keys.sign(&Draft { created_at: now, kind: 9_735, tags, content: String::new() })
    }
}

fn tag(fields: &[&str]) -> Vec<String> {
    fields.iter().map(|field| (*field).to_owned()).collect()
}

/// A zap request as clients write it.
pub(crate) fn zap_request(now: u64, agent: &PubKey, event: Option<&EventId>, msat: u64) -> Draft {
    let mut tags = vec![
        tag(&["relays", "wss://relay.example", "wss://other.example"]),
        tag(&["amount", &msat.to_string()]),
        tag(&["lnurl", ADDRESS]),
        tag(&["p", &agent.to_string()]),
    ];
    tags.extend(event.map(|event| tag(&["e", &event.to_string()])));
    Draft { created_at: now, kind: 9_734, tags, content: "for \"you\"\n⚡".to_owned() }
}

/// A zap request, signed, as JSON with spaces, which nobody writes the same way.
pub(crate) fn signed(payer: &Customer, request: &Draft) -> String {
    let event: Value = serde_json::from_slice(payer.keys.sign(request).json()).unwrap();
    serde_json::to_string_pretty(&event).unwrap()
}

/// The invoice of a zap.
pub(crate) fn zap_invoice(now: u64, description: &str, preimage: [u8; 32], msat: Option<u64>) -> String {
    invoices::Draft { msat, description, preimage, created_at: now, expiry_s: 600 }.sign_hashed()
}

/// The tags of a receipt (NIP-57, appendix E).
pub(crate) fn receipt_tags(
    agent: &PubKey,
    payer: &Customer,
    event: Option<&EventId>,
    description: &str,
    bolt11: &str,
) -> Vec<Vec<String>> {
    let mut tags = vec![tag(&["p", &agent.to_string()]), tag(&["P", &payer.pubkey().to_string()])];
    tags.extend(event.map(|event| tag(&["e", &event.to_string()])));
    tags.extend([tag(&["bolt11", bolt11]), tag(&["description", description])]);
    tags
}

/// A customer zaps an event of the agent, and the receipt reaches the relay.
pub(crate) fn zap(
    world: &mut World,
    service: &mut Service,
    payer: &Customer,
    event: Option<&EventId>,
    msat: u64,
) -> Event {
    let agent = world.pubkey();
    let (receipt, ..) = service.zap(world.now.seconds(), &agent, payer, event, msat);
    world.deliver(&receipt);
    receipt
}

/// The id of the last feedback about a request.
pub(crate) fn feedback(world: &World, request: &EventId) -> EventId {
    world.host.answers_to(request).pop().expect("feedback").1.id
}
