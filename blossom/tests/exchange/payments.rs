//! 402 (BUD-07), with a wallet that takes one proof.

use std::sync::atomic::{AtomicUsize, Ordering};

use relay_blossom::exchange::StepError;
use relay_blossom::index::{PartHead, Refusal, Wanted};
use relay_blossom::payment::{Method, Operation, Payment, Payments, Purchase};
use relay_blossom::testing::Request;
use relay_blossom::{Command, Outcome};

use crate::world::{NOW, check, hash, host, pubkey, token, upload};

/// Everything above five bytes costs something.
#[derive(Debug, Default)]
struct Wallet {
    /// Proofs that were judged.
    judged: AtomicUsize,
}

impl Payments for Wallet {
    fn quote(&self, purchase: &Purchase<'_>) -> Vec<Payment> {
        if purchase.size <= 5 {
            return Vec::new();
        }
        let invoice = |method, value: &str| Payment { method, value: value.to_owned() };
        vec![invoice(Method::Lightning, "lnbc30n1"), invoice(Method::Cashu, "creqA")]
    }

    fn check(&self, purchase: &Purchase<'_>, proof: &Payment) -> Result<(), String> {
        self.judged.fetch_add(1, Ordering::Relaxed);
        assert!(purchase.sha256.is_some_and(|hash| hash.len() == 64));
        assert!(purchase.operation != Operation::UploadPart || purchase.size == 16, "of the blob");
        assert_eq!(purchase.pubkey.is_none(), purchase.operation == Operation::Download);
        match (proof.method, &*proof.value) {
            (Method::Lightning, "966f") | (Method::Cashu, "cashuB") => Ok(()),
            _ => Err("this invoice is not paid".to_owned()),
        }
    }
}

#[test]
fn unpaid_requests_are_402_and_bad_proofs_400() {
    let wallet = Wallet::default();
    let mut host = host();
    host.payments = Some(&wallet);
    let long: &[u8] = b"longer than five";
    let reply = host.send(&upload(1, b"short".as_slice()));
    check("free", &reply, 201);
    assert_eq!(reply.steps, ["Ask(Begin)", "Receive", "Ask(Finish)"]);
    let reply = host.send(&upload(1, long));
    check("unpaid", &reply, 402);
    assert_eq!(reply.header("x-lightning"), Some("lnbc30n1"));
    assert_eq!(reply.header("x-cashu"), Some("creqA"));
    assert_eq!(reply.steps, ["Ask(Check)"], "nothing is written");
    let reply = host.send(&upload(1, long).with("x-lightning", "0000"));
    check("a bad proof", &reply, 400);
    assert_eq!(reply.header("x-reason"), Some("this invoice is not paid"));
    assert_eq!(reply.steps, ["Ask(Begin)", "Ask(Abort)"]);
    check("nobody pays for a token", &host.send(&Request::new("PUT", "/upload").body(long)), 401);
    check("paid", &host.send(&upload(1, long).with("x-lightning", "966f")), 201);

    let path = format!("/{}", hash(long));
    let download = Request::new("GET", &path);
    check("unpaid", &host.send(&download), 402);
    check("paid", &host.send(&download.clone().with("x-cashu", "cashuB")), 200);
    check("a bad proof", &host.send(&download.clone().with("x-cashu", "cashuA")), 400);
    check("a small part is free", &host.send(&download.with("range", "bytes=0-4")), 206);
}

/// Regression: who had paid was told afterwards that the blob is banned, or beyond the quota, or here already.
#[test]
fn nobody_pays_for_what_is_refused_or_here() {
    let wallet = Wallet::default();
    let judged = || wallet.judged.load(Ordering::Relaxed);
    let mut host = host();
    host.payments = Some(&wallet);
    host.processor = Some(|_, _| unreachable!("nothing is processed"));
    let (long, banned): (&[u8], &[u8]) = (b"longer than five", b"a banned one");
    let paid = |number, bytes: &'static [u8]| upload(number, bytes).with("x-lightning", "966f");
    check("paid", &host.send(&paid(1, long)), 201);
    assert_eq!(judged(), 1);

    for (what, request) in [("with a proof", paid(1, long)), ("without", upload(1, long))] {
        check(what, &host.send(&request), 200);
    }
    for number in [2, 3] {
        let request = if number == 2 { paid(2, long) } else { upload(3, long) };
        let reply = host.send(&request);
        check("of another", &reply, 200);
        assert!(reply.steps.contains(&"Receive".to_owned()), "its bytes have come: {:?}", reply.steps);
    }
    let target = format!("/{}", hash(long));
    let part = |number| {
        Request::new("PATCH", &target)
            .with("authorization", &token(number, "upload", &[hash(long)]))
            .with("content-type", "application/octet-stream")
            .with("upload-type", "text/plain")
            .with("upload-length", &long.len().to_string())
            .with("upload-offset", "0")
            .body(long)
    };
    check("a part of it", &host.send(&part(1)), 200);
    check("a part of another", &host.send(&part(7)), 200);
    let named = |number| Request { method: "PUT".to_owned(), target: target.clone(), ..upload(number, long) };
    for number in [1, 8] {
        check("by its hash", &host.send(&named(number)), 200);
    }

    host.index.run(NOW, Command::Ban { sha256: hash(banned), reason: String::new() }).unwrap();
    let mirror = |request: Request| request.body("{\"url\":\"https://away.example/file\"}");
    for (target, verb) in [("/upload", "upload"), ("/media", "media")] {
        let token = token(1, verb, &[hash(banned)]);
        let request = Request::new("PUT", target).with("authorization", &token).body(banned);
        check(target, &host.send(&request.clone().with("x-lightning", "966f")), 403);
        check(target, &host.send(&request), 403);
    }
    let request = Request::new("PUT", "/mirror").with("authorization", &token(1, "upload", &[hash(banned)]));
    check("mirror", &host.send(&mirror(request.with("x-lightning", "966f"))), 403);
    host.settings.key_bytes_max = Some(20);
    check("over the quota", &host.send(&paid(1, b"six more")), 429);
    check("over the quota", &host.send(&upload(1, b"six more".as_slice())), 429);
    host.settings.total_bytes_max = Some(20);
    check("no room", &host.send(&paid(9, b"six more")), 507);
    assert_eq!(judged(), 1, "no proof was spent");
}

#[test]
fn parts_and_pictures_are_paid_before_they_come() {
    let wallet = Wallet::default();
    let mut host = host();
    host.payments = Some(&wallet);
    host.processor = Some(|_, _| Err(StepError::Unprocessable("no picture".to_owned())));
    let long: &[u8] = b"longer than five";
    let target = format!("/{}", hash(long));
    let part = Request::new("PATCH", &target)
        .with("authorization", &token(1, "upload", &[hash(long)]))
        .with("content-type", "application/octet-stream")
        .with("upload-type", "text/plain")
        .with("upload-length", "16")
        .with("upload-offset", "0");
    let part = |length: usize| part.clone().body(&long[..length]);
    let paying = ["Ask(CheckPart)", "Ask(BeginPart)", "Ask(ClaimPayment)"];
    let bad = [&paying[..], &["Ask(AbortParts)"]].concat();
    let paid = [&paying[..], &["Receive", "Ask(FinishPart)"]].concat();
    for (what, request, status, steps) in [
        ("unpaid", part(8), 402, &paying[..1]),
        ("unpaid, however short it is", part(2), 402, &paying[..1]),
        ("a bad proof", part(8).with("x-cashu", "x"), 400, &bad),
        ("paid", part(8).with("x-cashu", "cashuB"), 204, &paid),
        ("it is here", part(8).with("x-cashu", "cashuB"), 204, &paying[..2]),
        ("another one", part(12), 204, &["Ask(CheckPart)", "Ask(BeginPart)", "Receive", "Ask(FinishPart)"]),
    ] {
        let reply = host.send(&request);
        check(what, &reply, status);
        assert_eq!(reply.steps, steps, "{what}");
    }
    assert_eq!(wallet.judged.load(Ordering::Relaxed), 2, "a blob is paid once");
    assert_eq!(host.objects.len(), 2, "its parts");
    let of_another = part(8).with("x-cashu", "x");
    let of_another = Request { headers: of_another.headers[1..].to_vec(), ..of_another };
    let of_another = of_another.with("authorization", &token(2, "upload", &[hash(long)]));
    check("parts of others pay for nothing", &host.send(&of_another), 400);
    host.objects.clear();
    wallet.judged.store(2, Ordering::Relaxed);
    let picture = Request::new("PUT", "/media").with("authorization", &token(1, "media", &[hash(long)]));
    let picture = picture.with("content-type", "image/png").body(long);
    for (what, request, status, steps) in [
        ("unpaid", picture.clone(), 402, &["Ask(Check)"][..]),
        ("a bad proof", picture.clone().with("x-cashu", "x"), 400, &["Ask(Check)", "Read"]),
        ("paid", picture.with("x-cashu", "cashuB"), 422, &["Ask(Check)", "Read", "Process"]),
    ] {
        let reply = host.send(&request);
        check(what, &reply, status);
        assert_eq!(reply.steps, steps, "{what}");
    }
    assert_eq!(host.objects.len(), 0);
}

#[test]
fn head_never_takes_a_proof() {
    let wallet = Wallet::default();
    let mut host = host();
    host.payments = Some(&wallet);
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
        let of_stored = Request::new("HEAD", target)
            .with("authorization", &token(2, verb, &[hash(long)]))
            .with("x-content-length", "16");
        check(target, &host.send(&of_stored), if verb == "upload" { 200 } else { 402 });
    }
    assert_eq!(wallet.judged.load(Ordering::Relaxed), 1);
    let reply = host.send(&Request::new("HEAD", &format!("/{}", hash(long))).with("x-lightning", "966f"));
    check("download", &reply, 402);
}

/// BUD-13: as `PUT /upload`.
#[test]
fn a_put_of_a_hash_is_paid_before_it_comes() {
    let wallet = Wallet::default();
    let mut host = host();
    host.payments = Some(&wallet);
    let long: &[u8] = b"longer than five";
    let put = Request { target: format!("/{}", hash(long)), ..upload(1, long) };
    for (what, request, status, steps) in [
        ("unpaid", put.clone(), 402, &["Ask(Check)"][..]),
        ("a bad proof", put.clone().with("x-cashu", "x"), 400, &["Ask(Begin)", "Ask(Abort)"]),
        ("paid", put.clone().with("x-cashu", "cashuB"), 201, &["Ask(Begin)", "Receive", "Ask(Finish)"]),
        ("it is here", put, 200, &["Ask(Check)", "Ask(Begin)"]),
    ] {
        let reply = host.send(&request);
        check(what, &reply, status);
        assert_eq!(reply.steps, steps, "{what}");
    }
    assert_eq!(wallet.judged.load(Ordering::Relaxed), 2);
}

/// Two parts at once: one pays, and if it has not, the other one is not paid either.
#[test]
fn of_parts_at_once_one_pays() {
    let wallet = Wallet::default();
    let mut host = host();
    host.payments = Some(&wallet);
    let long: &[u8] = b"longer than five";
    let wanted = Wanted {
        owner: pubkey(1).to_string(),
        sha256: Some(hash(long)),
        size: 16,
        mime: "text/plain".to_owned(),
        key_bytes_max: None,
        total_bytes_max: None,
        abandoned_at: NOW + 100,
        expires_at: None,
        unused_seconds: None,
        retention: Vec::new(),
    };
    let part = |offset| Command::BeginPart(wanted.clone(), PartHead { offset, length: 8 });
    let mut run = |command| host.index.run(NOW, command).unwrap();
    assert_eq!(run(Command::CheckPart(wanted.clone())), Outcome::Accepted);
    let Outcome::Begun { upload, .. } = run(part(0)) else { panic!("begun") };
    let Outcome::Begun { upload: same, key } = run(part(8)) else { panic!("begun") };
    assert_eq!(upload, same);
    assert_eq!(run(Command::ClaimPayment { upload }), Outcome::Accepted, "this one pays");
    assert_eq!(run(Command::ClaimPayment { upload }), Outcome::Done, "and no other");
    assert_eq!(run(Command::CheckPart(wanted.clone())), Outcome::Done);
    // Its proof is bad.
    run(Command::AbortParts { upload });
    assert_eq!(run(Command::FinishPart { upload, key }), Outcome::Refused(Refusal::Gone));
    assert_eq!(run(Command::ClaimPayment { upload }), Outcome::Refused(Refusal::Gone));
    assert_eq!(run(Command::CheckPart(wanted.clone())), Outcome::Accepted);
}
