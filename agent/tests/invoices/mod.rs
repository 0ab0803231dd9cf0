//! Invoices that a wallet of the tests signs, with `lightning-invoice`.

use std::time::Duration;

use lightning_invoice::{
    Bolt11InvoiceDescription, Currency, Description, InvoiceBuilder, PaymentSecret, Sha256,
};
use nostr::hashes::{Hash, sha256};
use nostr::secp256k1::{Secp256k1, SecretKey};

/// What an invoice says.
pub(crate) struct Draft<'a> {
    pub(crate) msat: Option<u64>,
    pub(crate) description: &'a str,
    pub(crate) preimage: [u8; 32],
    pub(crate) created_at: u64,
    pub(crate) expiry_s: u64,
}

impl Draft<'_> {
    /// The invoice, signed.
    pub(crate) fn sign(&self) -> String {
        self.sign_with(sha256::Hash::hash(&self.preimage), 144)
    }

    /// With this payment hash, whose payment can be held for so many blocks.
    pub(crate) fn sign_with(&self, payment_hash: sha256::Hash, blocks: u64) -> String {
        let description = Description::new(self.description.to_owned()).expect("a description");
        self.finish(Bolt11InvoiceDescription::Direct(description), payment_hash, blocks)
    }

    /// With the hash of its description instead of it.
    pub(crate) fn sign_hashed(&self) -> String {
        let description = Sha256(sha256::Hash::hash(self.description.as_bytes()));
        self.finish(Bolt11InvoiceDescription::Hash(description), sha256::Hash::hash(&self.preimage), 144)
    }

    fn finish(
        &self,
        description: Bolt11InvoiceDescription,
        payment_hash: sha256::Hash,
        blocks: u64,
    ) -> String {
        let key = SecretKey::from_slice(&[9; 32]).expect("a private key");
        let builder = InvoiceBuilder::new(Currency::Regtest)
            .invoice_description(description)
            .payment_hash(payment_hash)
            .payment_secret(PaymentSecret([3; 32]))
            .duration_since_epoch(Duration::from_secs(self.created_at))
            .min_final_cltv_expiry_delta(blocks)
            .expiry_time(Duration::from_secs(self.expiry_s));
        let builder = match self.msat {
            Some(msat) => builder.amount_milli_satoshis(msat),
            None => builder,
        };
        let secp = Secp256k1::new();
        let invoice = builder.build_signed(|hash| secp.sign_ecdsa_recoverable(hash, &key));
        invoice.expect("an invoice").to_string()
    }
}
