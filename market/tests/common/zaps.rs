//! Zap receipts, right ones and others.

use relay_engine::types::{EventId, Timestamp};
use relay_market::testing::invoice;

use super::{Draft, pubkey};

/// A zap. Payer, payee and the signer of the receipt are authors by number.
#[derive(Clone, Debug)]
pub(crate) struct Zap {
    pub(crate) payer: u8,
    pub(crate) payee: u8,
    pub(crate) signer: u8,
    pub(crate) zapped: EventId,
    pub(crate) msat: u64,
    /// Whether the zap request has an `amount`.
    pub(crate) names_amount: bool,
    pub(crate) payment_hash: [u8; 32],
    pub(crate) at: Timestamp,
}

impl Zap {
    /// The zap request.
    pub(crate) fn request(&self) -> Draft {
        let draft = Draft::new(self.payer, 9_734, self.at)
            .tag(&["p", &pubkey(self.payee).to_string()])
            .tag(&["e", &self.zapped.to_string()])
            .tag(&["relays", "wss://relay.example"]);
        if self.names_amount { draft.tag(&["amount", &self.msat.to_string()]) } else { draft }
    }

    /// The receipt.
    pub(crate) fn receipt(&self) -> Draft {
        let request = self.request().event();
        self.receipt_of(std::str::from_utf8(request.json()).unwrap())
    }

    /// A receipt of another zap request.
    pub(crate) fn receipt_of(&self, description: &str) -> Draft {
        let bolt11 = invoice(Some(self.msat), description.as_bytes(), self.payment_hash);
        self.receipt_with(description, &bolt11)
    }

    /// A receipt with another invoice.
    pub(crate) fn receipt_with(&self, description: &str, bolt11: &str) -> Draft {
        Draft::new(self.signer, 9_735, self.at)
            .tag(&["p", &pubkey(self.payee).to_string()])
            .tag(&["P", &pubkey(self.payer).to_string()])
            .tag(&["e", &self.zapped.to_string()])
            .tag(&["bolt11", bolt11])
            .tag(&["description", description])
    }
}
