//! 402 (BUD-07), with a wallet that takes one proof.

use relay_blossom::payment::{Method, Operation, Payment, Payments, Purchase};
use relay_blossom::testing::Request;

use crate::world::{check, hash, host, token, upload};

/// Everything above five bytes costs something.
#[derive(Debug)]
struct Wallet;

impl Payments for Wallet {
    fn quote(&self, purchase: &Purchase<'_>) -> Vec<Payment> {
        if purchase.size <= 5 {
            return Vec::new();
        }
        let invoice = |method, value: &str| Payment { method, value: value.to_owned() };
        vec![invoice(Method::Lightning, "lnbc30n1"), invoice(Method::Cashu, "creqA")]
    }

    fn judge(&self, purchase: &Purchase<'_>, proof: &Payment) -> Result<(), String> {
        assert!(purchase.sha256.is_some_and(|hash| hash.len() == 64));
        assert_eq!(purchase.pubkey.is_none(), purchase.operation == Operation::Download);
        match (proof.method, &*proof.value) {
            (Method::Lightning, "966f") | (Method::Cashu, "cashuB") => Ok(()),
            _ => Err("this invoice is not paid".to_owned()),
        }
    }
}

#[test]
fn unpaid_requests_are_402_and_bad_proofs_400() {
    let mut host = host();
    host.payments = Some(&Wallet);
    let long: &[u8] = b"longer than five";
    check("free", &host.send(&upload(1, b"short".as_slice())), 201);
    let reply = host.send(&upload(1, long));
    check("unpaid", &reply, 402);
    assert_eq!(reply.header("x-lightning"), Some("lnbc30n1"));
    assert_eq!(reply.header("x-cashu"), Some("creqA"));
    assert!(reply.steps.is_empty());
    let reply = host.send(&upload(1, long).with("x-lightning", "0000"));
    check("a bad proof", &reply, 400);
    assert_eq!(reply.header("x-reason"), Some("this invoice is not paid"));
    assert!(reply.steps.is_empty());
    check("nobody pays for a token", &host.send(&Request::new("PUT", "/upload").body(long)), 401);
    check("paid", &host.send(&upload(1, long).with("x-lightning", "966f")), 201);

    let path = format!("/{}", hash(long));
    let download = Request::new("GET", &path);
    check("unpaid", &host.send(&download), 402);
    check("paid", &host.send(&download.clone().with("x-cashu", "cashuB")), 200);
    check("a bad proof", &host.send(&download.clone().with("x-cashu", "cashuA")), 400);
    check("a small part is free", &host.send(&download.with("range", "bytes=0-4")), 206);
}

#[test]
fn head_never_takes_a_proof() {
    let mut host = host();
    host.payments = Some(&Wallet);
    host.processor = Some(|_, _| unreachable!("HEAD processes nothing"));
    let long: &[u8] = b"longer than five";
    check("paid", &host.send(&upload(1, long).with("x-lightning", "966f")), 201);
    for (target, verb) in [("/upload", "upload"), ("/media", "media")] {
        let ask = |length: &str| {
            Request::new("HEAD", target)
                .with("authorization", &token(1, verb, &[hash(b"x")]))
                .with("x-content-length", length)
                .with("x-lightning", "966f")
        };
        let reply = host.send(&ask("16"));
        check(target, &reply, 402);
        assert_eq!(reply.header("x-lightning"), Some("lnbc30n1"));
        check(target, &host.send(&ask("5")), 200);
    }
    let reply = host.send(&Request::new("HEAD", &format!("/{}", hash(long))).with("x-lightning", "966f"));
    check("download", &reply, 402);
}
