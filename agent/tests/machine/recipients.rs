//! Services of the Lightning addresses to which shares are paid.

use nostr::hashes::{Hash, sha256};
use serde_json::{Value, json};

use crate::invoices::Draft;
use crate::wallet::Wallet;
use crate::world::World;

pub(crate) const ALICE: &str = "alice@friends.example";
pub(crate) const BOB: &str = "bob@friends.example";

/// What is asked for the terms of an address, and for an invoice.
pub(crate) const TERMS_URL: &str = "https://friends.example/.well-known/lnurlp/";
const CALLBACK: &str = "https://friends.example/pay?to=";

/// The preimage of an invoice by its number.
pub(crate) fn preimage(number: u64) -> [u8; 32] {
    sha256::Hash::hash(&(1 << 40 | number).to_be_bytes()).to_byte_array()
}

/// See the module: one service for all names of `friends.example`.
#[derive(Default)]
pub(crate) struct Friends {
    invoices: u64,
}

impl Friends {
    /// What it says of an address (LUD-06).
    pub(crate) fn terms(name: &str) -> Value {
        json!({
            "tag": "payRequest", "callback": format!("{CALLBACK}{name}"), "minSendable": 1_000, "maxSendable": 1_000_000_000,
            "metadata": "[[\"text/plain\",\"shares\"]]",
        })
    }

    /// An invoice that nobody has seen before.
    pub(crate) fn invoice(&mut self, now: u64, msat: u64, expiry_s: u64) -> String {
        self.invoices += 1;
        let preimage = preimage(self.invoices);
        Draft { msat: Some(msat), description: "shares", preimage, created_at: now, expiry_s }.sign()
    }

    /// The honest answer to a call; `None` if it is not for this service.
    pub(crate) fn answer(&mut self, now: u64, url: &str) -> Option<String> {
        if let Some(name) = url.strip_prefix(TERMS_URL) {
            return Some(Friends::terms(name).to_string());
        }
        let (_, msat) = url.strip_prefix(CALLBACK)?.split_once("&amount=")?;
        let pr = self.invoice(now, msat.parse().expect("an amount"), 3_600);
        Some(json!({"pr": pr, "routes": []}).to_string())
    }

    /// Answers all calls of the agent, and has the wallet pay what is to be paid.
    pub(crate) fn run(&mut self, world: &mut World, wallet: &mut Wallet) {
        world.ask_wallet(wallet);
        while let Some((_, request)) = world.host.calls.first() {
            let answer = self.answer(world.now.seconds(), &request.url).expect("a call to this service");
            world.answer(200, &answer);
            world.ask_wallet(wallet);
        }
    }
}
