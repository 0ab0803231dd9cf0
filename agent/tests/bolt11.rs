//! Invoices, read as `lightning-invoice` reads them.

mod invoices;

use lightning_invoice::{Bolt11Invoice, Bolt11InvoiceDescriptionRef};
use nostr::hashes::Hash;
use proptest::prelude::*;
use relay_agent::bolt11::Invoice;

use invoices::Draft;

/// Examples of BOLT 11: without an amount, 2,500 u, with routes, fallbacks and unknown fields, 967878534 p.
const EXAMPLES: [&str; 4] = [
    "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls087fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql",
    "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh",
    "lnbc20m1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqhp58yjmdan79s6qqdhdzgynm4zwqd5d7xmw5fk98klysy043l2ahrqs9qrsgq7ea976txfraylvgzuxs8kgcw23ezlrszfnh8r6qtfpr6cxga50aj6txm9rxrydzd06dfeawfk6swupvz4erwnyutnjq7x39ymw6j38gp7ynn44",
    "LNBC25M1PVJLUEZPP5QQQSYQCYQ5RQWZQFQQQSYQCYQ5RQWZQFQQQSYQCYQ5RQWZQFQYPQDQ5VDHKVEN9V5SXYETPDEESSP5ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYG3ZYGS9Q5SQQQQQQQQQQQQQQQQSGQ2A25DXL5HRNTDTN6ZVYDT7D66HYZSYHQS4WDYNAVYS42XGL6SGX9C4G7ME86A27T07MDTFRY458RTJR0V92CNMSWPSJSCGT2VCSE3SGPZ3UAPA",
];

fn check(text: &str) {
    let known: Bolt11Invoice = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    let read = Invoice::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(read.msat, known.amount_milli_satoshis(), "{text}");
    assert_eq!(read.payment_hash, known.payment_hash().to_byte_array(), "{text}");
    assert_eq!(read.created_at, known.duration_since_epoch().as_secs(), "{text}");
    assert_eq!(read.expires_at - read.created_at, known.expiry_time().as_secs(), "{text}");
    let description_hash = match known.description() {
        Bolt11InvoiceDescriptionRef::Hash(hash) => Some(hash.0.to_byte_array()),
        Bolt11InvoiceDescriptionRef::Direct(_) => None,
    };
    assert_eq!(read.description_hash, description_hash, "{text}");
    assert_eq!(read.min_final_cltv_expiry, known.min_final_cltv_expiry_delta(), "{text}");
}

#[test]
fn the_examples_of_the_specification() {
    EXAMPLES.into_iter().for_each(check);
    assert_eq!(Invoice::parse(EXAMPLES[1]).unwrap().msat, Some(250_000_000));
    assert_eq!(Invoice::parse(EXAMPLES[0]).unwrap().msat, None);
}

#[test]
fn what_is_no_invoice_is_refused() {
    let valid = EXAMPLES[1];
    for at in 0..valid.len() {
        let mut wrong = valid.as_bytes().to_vec();
        wrong[at] = if wrong[at] == b'q' { b'p' } else { b'q' };
        let wrong = String::from_utf8(wrong).unwrap();
        assert!(Invoice::parse(&wrong).is_err(), "{wrong}");
        assert!(Invoice::parse(&valid[..at]).is_err(), "{at}");
    }
    for text in ["", "1", "lnbc", "user@example.com", "npub1", &"q".repeat(8_000)] {
        assert!(Invoice::parse(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn whatever_a_wallet_makes_is_read(
        sats in proptest::option::of(1u64..1 << 40),
        rest in 0u64..1_000,
        created_at in 0u64..1 << 35,
        expiry_s in 0u64..1 << 32,
        description in "[a-z0-9 ]{0,639}",
        preimage in any::<[u8; 32]>(),
    ) {
        let msat = sats.map(|sats| sats * 1_000 + rest);
        let draft = Draft { msat, description: &description, preimage, created_at, expiry_s };
        check(&draft.sign());
        check(&draft.sign_hashed());
    }
}
