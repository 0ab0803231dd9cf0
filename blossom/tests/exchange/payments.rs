//! 402 (BUD-07), with an agent that makes an invoice for each purchase.

use relay_blossom::exchange::StepError;
use relay_blossom::index::{PartHead, Refusal, Wanted};
use relay_blossom::testing::{Host, Reply, Request};
use relay_blossom::{Command, Outcome};
use relay_site::PaymentSettings;

use crate::world::{NOW, check, hash, host, pubkey, token, upload};

const LONG: &[u8] = b"longer than five";

/// Everything above five bytes costs a satoshi.
fn selling() -> Host<'static> {
    let mut host = host();
    host.settings.payment = PaymentSettings {
        pubkey: Some(pubkey(50)),
        upload_msat_per_mib: 1,
        download_msat_per_mib: 1,
        free_bytes: 5,
        ..PaymentSettings::default()
    };
    host
}

/// The invoice of an unpaid request.
fn invoice(host: &mut Host<'_>, request: &Request) -> String {
    let reply = host.send(request);
    check("unpaid", &reply, 402);
    assert!(reply.header("x-reason").is_some());
    reply.header("x-lightning").expect("an invoice").to_owned()
}

/// The request with the proof that its invoice is paid.
fn paid(host: &mut Host<'_>, request: &Request) -> Request {
    let invoice = invoice(host, request);
    let preimage = host.seller.pay(&invoice);
    request.clone().with("x-lightning", &preimage)
}

fn download(bytes: &[u8]) -> Request {
    Request::new("GET", &format!("/{}", hash(bytes)))
}

fn part(number: u64, offset: usize, length: usize) -> Request {
    Request::new("PATCH", &format!("/{}", hash(LONG)))
        .with("authorization", &token(number, "upload", &[hash(LONG)]))
        .with("content-type", "application/octet-stream")
        .with("upload-type", "text/plain")
        .with("upload-length", &LONG.len().to_string())
        .with("upload-offset", &offset.to_string())
        .body(&LONG[offset..offset + length])
}

fn reason(reply: &Reply) -> &str {
    reply.header("x-reason").unwrap_or_default()
}

#[test]
fn unpaid_requests_are_402_and_bad_proofs_400() {
    let mut host = selling();
    let reply = host.send(&upload(1, b"short".as_slice()));
    check("free", &reply, 201);
    assert_eq!(reply.steps, ["Ask(Begin)", "Receive", "Ask(Finish)"]);
    let reply = host.send(&upload(1, LONG));
    check("unpaid", &reply, 402);
    assert_eq!(reply.header("x-lightning"), Some("lnbc1"));
    assert_eq!(reply.steps, ["Ask(Check)", "Pay"], "nothing is written");
    assert_eq!(host.seller.msat("lnbc1"), Some(1_000));
    assert_eq!(invoice(&mut host, &upload(1, LONG)), "lnbc1", "the same one");
    let unpaid = format!("{:0>64}", 1);
    for (proof, why) in [("0000", "no invoice"), ("", "no invoice"), (unpaid.as_str(), "not paid")] {
        let reply = host.send(&upload(1, LONG).with("x-lightning", proof));
        check("a bad proof", &reply, 400);
        assert!(reason(&reply).contains(why), "{proof}: {reply:?}");
        assert_eq!(reply.steps, ["Ask(Begin)", "Pay", "Ask(Abort)"]);
    }
    check("nobody pays for a token", &host.send(&Request::new("PUT", "/upload").body(LONG)), 401);
    let request = paid(&mut host, &upload(1, LONG));
    let reply = host.send(&request);
    check("paid", &reply, 201);
    assert_eq!(reply.steps, ["Ask(Begin)", "Pay", "Receive", "Ask(Finish)", "Pay"]);
    assert_eq!((host.seller.spent(), host.seller.invoices()), (1, 1));
}

#[test]
fn a_payment_is_for_one_blob_and_one_upload() {
    let mut host = selling();
    let first = paid(&mut host, &upload(1, LONG));
    let proof = first.headers.last().expect("the proof").1.clone();
    let reply = host.send(&upload(1, b"another one".as_slice()).with("x-lightning", &proof));
    check("of another blob", &reply, 400);
    assert!(reason(&reply).contains("something else"), "{reply:?}");
    // What has failed may be repeated.
    host.failure = Some(StepError::Incomplete);
    check("it breaks", &host.send(&first), 400);
    assert_eq!(host.seller.spent(), 0);
    check("once more", &host.send(&first), 201);
    assert_eq!(host.seller.spent(), 1);
    check("it is here", &host.send(&first), 200);
    host.index.run(NOW, Command::Delete { sha256: hash(LONG), owner: None }).unwrap();
    host.remove();
    let reply = host.send(&first);
    check("it was deleted", &reply, 400);
    assert!(reason(&reply).contains("spent"), "{reply:?}");
    assert_eq!(invoice(&mut host, &upload(1, LONG)), "lnbc2", "a new one");
}

#[test]
fn a_download_is_paid_as_a_whole_and_once() {
    let mut host = selling();
    let request = paid(&mut host, &upload(1, LONG));
    check("stored", &host.send(&request), 201);
    let request = paid(&mut host, &download(LONG));
    let reply = host.send(&request);
    check("paid", &reply, 200);
    assert_eq!(reply.body, LONG);
    assert_eq!(reply.header("cache-control").map(|value| value.contains("private")), Some(true));
    let reply = host.send(&request);
    check("spent", &reply, 400);
    assert!(reason(&reply).contains("spent"), "{reply:?}");
    // All of it is paid by ranges, too, or one cheap payment would buy them one after the other.
    let range = paid(&mut host, &download(LONG).with("range", "bytes=0-4"));
    let proof = range.headers.last().expect("the proof").1.clone();
    check("paid by a range", &host.send(&download(LONG).with("x-lightning", &proof)), 200);
    let reply = host.send(&download(LONG).with("if-none-match", &format!("\"{}\"", hash(LONG))));
    check("nothing is sent", &reply, 304);
    check("no such blob", &host.send(&download(b"elsewhere")), 404);
}

#[test]
fn who_is_listed_pays_only_if_the_setting_says_so() {
    let mut host = selling();
    host.settings.upload_pubkeys = vec![pubkey(1)];
    check("listed", &host.send(&upload(1, LONG)), 201);
    host.settings.payment.listed_free = false;
    invoice(&mut host, &upload(1, b"another one".as_slice()));
    // Where uploads are sold, anybody may upload, unless that is turned off.
    host.is_local = false;
    invoice(&mut host, &upload(2, b"another one".as_slice()));
    host.settings.open = Some(false);
    check("closed", &host.send(&upload(2, b"another one".as_slice())), 403);
}

#[test]
fn who_cannot_be_answered_may_try_again() {
    let mut host = selling();
    host.seller.is_away = true;
    for request in [upload(1, LONG), upload(1, LONG).with("x-lightning", "00")] {
        let reply = host.send(&request);
        check("away", &reply, 503);
        assert_eq!(reply.header("retry-after"), Some("5"));
        assert_eq!(reason(&reply), "the wallet does not answer");
    }
    (host.seller.is_away, host.seller.is_flooded) = (false, true);
    let reply = host.send(&upload(1, LONG));
    check("too many", &reply, 429);
    assert_eq!(reply.header("retry-after"), Some("60"));
    assert_eq!(host.seller.invoices(), 0);
}

#[test]
fn a_payment_is_for_a_blob_that_is_known() {
    let mut host = selling();
    let several = token(1, "upload", &[hash(LONG), hash(b"x")]);
    let request = Request::new("PUT", "/upload").with("authorization", &several).body(LONG);
    let reply = host.send(&request);
    check("of several hashes", &reply, 400);
    assert!(reason(&reply).contains("X-SHA-256"), "{reply:?}");
    let ask = Request::new("HEAD", "/upload").with("authorization", &several).with("x-content-length", "16");
    check("of several hashes", &host.send(&ask), 400);
    invoice(&mut host, &request.with("x-sha-256", &hash(LONG).to_string()));
}

/// Regression: who had paid was told afterwards that the blob is banned, or beyond the quota, or here already.
#[test]
fn nobody_pays_for_what_is_refused_or_here() {
    let mut host = selling();
    host.processor = Some(|_, _| unreachable!("nothing is processed"));
    let banned: &[u8] = b"a banned one";
    let first = paid(&mut host, &upload(1, LONG));
    check("paid", &host.send(&first), 201);
    let asked = host.seller.asked.len();

    for (what, request) in [("with a proof", first), ("without", upload(1, LONG))] {
        check(what, &host.send(&request), 200);
    }
    for request in [upload(2, LONG).with("x-lightning", "00"), upload(3, LONG)] {
        let reply = host.send(&request);
        check("of another", &reply, 200);
        assert!(reply.steps.contains(&"Receive".to_owned()), "its bytes have come: {:?}", reply.steps);
    }
    check("a part of it", &host.send(&part(1, 0, 16)), 200);
    check("a part of another", &host.send(&part(7, 0, 16)), 200);
    let target = format!("/{}", hash(LONG));
    let named = |number| Request { method: "PUT".to_owned(), target: target.clone(), ..upload(number, LONG) };
    for number in [1, 8] {
        check("by its hash", &host.send(&named(number)), 200);
    }

    host.index.run(NOW, Command::Ban { sha256: hash(banned), reason: String::new() }).unwrap();
    let mirror = |request: Request| request.body("{\"url\":\"https://away.example/file\"}");
    for (target, verb) in [("/upload", "upload"), ("/media", "media")] {
        let token = token(1, verb, &[hash(banned)]);
        let request = Request::new("PUT", target).with("authorization", &token).body(banned);
        check(target, &host.send(&request.clone().with("x-lightning", "00")), 403);
        check(target, &host.send(&request), 403);
    }
    let request = Request::new("PUT", "/mirror").with("authorization", &token(1, "upload", &[hash(banned)]));
    check("mirror", &host.send(&mirror(request.with("x-lightning", "00"))), 403);
    host.settings.key_bytes_max = Some(20);
    check("over the quota", &host.send(&upload(1, b"six more".as_slice()).with("x-lightning", "00")), 429);
    check("over the quota", &host.send(&upload(1, b"six more".as_slice())), 429);
    host.settings.total_bytes_max = Some(20);
    check("no room", &host.send(&upload(9, b"six more".as_slice()).with("x-lightning", "00")), 507);
    assert_eq!(host.seller.asked.len(), asked, "the agent was not asked");
}

#[test]
fn a_mirror_is_paid_by_what_its_origin_says() {
    let mut host = selling();
    let url = "https://away.example/file";
    let mirror = Request::new("PUT", "/mirror")
        .with("authorization", &token(1, "upload", &[hash(LONG)]))
        .body(format!("{{\"url\":\"{url}\"}}"));
    check("no origin", &host.send(&mirror), 502);
    host.origins.insert(url.to_owned(), Ok((LONG.into(), None)));
    let reply = host.send(&mirror);
    check("unpaid", &reply, 402);
    assert_eq!(reply.steps, ["Read", "Ask(Check)", "Measure", "Ask(Check)", "Pay"], "nothing is fetched");
    let request = paid(&mut host, &mirror);
    // Meanwhile the origin has a longer one.
    host.origins.insert(url.to_owned(), Ok((b"much longer than five".as_slice().into(), None)));
    check("another size", &host.send(&request), 400);
    host.origins.insert(url.to_owned(), Ok((LONG.into(), None)));
    let reply = host.send(&request);
    check("paid", &reply, 201);
    assert_eq!(
        reply.steps,
        ["Read", "Ask(Check)", "Measure", "Ask(Begin)", "Pay", "Fetch", "Ask(Finish)", "Pay"]
    );
    assert_eq!(host.seller.spent(), 1);
    let reply = host.send(&mirror);
    check("it is here", &reply, 200);
    assert_eq!(reply.steps, ["Read", "Ask(Check)", "Ask(Begin)"]);
    let several = Request::new("PUT", "/mirror")
        .with("authorization", &token(1, "upload", &[hash(LONG), hash(b"x")]))
        .body(format!("{{\"url\":\"{url}\"}}"));
    check("of several hashes", &host.send(&several), 400);
    let short = Request::new("PUT", "/mirror")
        .with("authorization", &token(1, "upload", &[hash(b"short")]))
        .body(format!("{{\"url\":\"{url}\"}}"));
    host.origins.insert(url.to_owned(), Ok((b"short".as_slice().into(), None)));
    check("free", &host.send(&short), 201);
}

#[test]
fn parts_and_pictures_are_paid_before_they_come() {
    let mut host = selling();
    host.processor = Some(|_, _| Err(StepError::Unprocessable("no picture".to_owned())));
    let proof = {
        let invoice = invoice(&mut host, &part(1, 0, 2));
        host.seller.pay(&invoice)
    };
    let bad = vec!["Ask(CheckPart)", "Pay"];
    let paid = [&bad[..], &["Ask(BeginPart)", "Receive", "Ask(FinishPart)"]].concat();
    let here = vec!["Ask(CheckPart)", "Ask(BeginPart)"];
    for (what, request, status, steps) in [
        ("a bad proof", part(1, 0, 8).with("x-lightning", "x"), 400, &bad),
        ("paid", part(1, 0, 8).with("x-lightning", &proof), 204, &paid),
        ("it is here", part(1, 0, 8).with("x-lightning", &proof), 204, &here),
    ] {
        let reply = host.send(&request);
        check(what, &reply, status);
        assert_eq!(reply.steps, *steps, "{what}");
    }
    assert_eq!((host.seller.checks(), host.seller.spent()), (2, 0), "it is spent at the end");
    assert_eq!(host.objects.len(), 1, "its part");
    check("parts of others pay for nothing", &host.send(&part(2, 0, 8).with("x-lightning", "x")), 400);
    // Whoever brings the last part need not have paid.
    let reply = host.send(&part(1, 8, 8));
    check("the last one", &reply, 201);
    let last =
        ["Ask(CheckPart)", "Ask(BeginPart)", "Receive", "Ask(FinishPart)", "Join", "Pay", "Ask(Finish)"];
    assert_eq!(reply.steps, last);
    assert_eq!((host.seller.checks(), host.seller.spent()), (3, 1));

    let original: &[u8] = b"an original";
    let picture = Request::new("PUT", "/media").with("authorization", &token(1, "media", &[hash(original)]));
    let picture = picture.with("content-type", "image/png").body(original);
    let bill = invoice(&mut host, &picture);
    let proof = host.seller.pay(&bill);
    for (what, proof, status, steps) in [
        ("a bad proof", "x", 400, &["Ask(Check)", "Read", "Pay"][..]),
        ("paid", &proof, 422, &["Ask(Check)", "Read", "Pay", "Process"]),
    ] {
        let reply = host.send(&picture.clone().with("x-lightning", proof));
        check(what, &reply, status);
        assert_eq!(reply.steps, steps, "{what}");
    }
    assert_eq!(host.seller.spent(), 1, "what cannot be processed costs nothing");
}

/// The proof of an upload in parts is kept by the index, also if its process ends.
#[test]
fn a_restart_between_parts_loses_no_payment() {
    let mut host = selling();
    let first = paid(&mut host, &part(1, 0, 8));
    check("paid", &host.send(&first), 204);
    host.index = relay_blossom::Index::open(host.database.clone()).unwrap();
    check("the last one", &host.send(&part(1, 8, 8)), 201);
    assert_eq!(host.seller.spent(), 1);
}

#[test]
fn a_picture_that_is_stored_spends_its_payment() {
    use bytes::Bytes;
    use relay_blossom::blob::Media;
    use relay_blossom::exchange::Processed;
    let mut host = selling();
    host.processor = Some(|_, _| {
        let media = Media { original: hash(b""), dim: None, blurhash: None, thumbnail: None };
        let bytes = Bytes::from_static(b"stripped picture");
        Ok(Processed { bytes, mime: "image/png".to_owned(), media, thumbnail: None })
    });
    let picture = Request::new("PUT", "/media")
        .with("authorization", &token(1, "media", &[hash(LONG)]))
        .with("content-type", "image/png")
        .body(LONG);
    let request = paid(&mut host, &picture);
    let reply = host.send(&request);
    check("paid", &reply, 201);
    assert_eq!(
        reply.steps,
        ["Ask(Check)", "Read", "Pay", "Process", "Ask(Begin)", "Put", "Ask(Finish)", "Pay"]
    );
    let reply = host.send(&request);
    check("spent", &reply, 400);
    assert_eq!(host.seller.spent(), 1);
}

#[test]
fn head_never_takes_a_proof() {
    let mut host = selling();
    host.processor = Some(|_, _| unreachable!("HEAD processes nothing"));
    let first = paid(&mut host, &upload(1, LONG));
    check("paid", &host.send(&first), 201);
    let checks = host.seller.checks();
    for (target, verb) in [("/upload", "upload"), ("/media", "media")] {
        let ask = |length: &str| {
            Request::new("HEAD", target)
                .with("authorization", &token(1, verb, &[hash(b"x")]))
                .with("x-content-length", length)
        };
        let invoice = invoice(&mut host, &ask("16"));
        let proof = host.seller.pay(&invoice);
        let reply = host.send(&ask("16").with("x-lightning", &proof));
        check(target, &reply, 402);
        assert!(reply.header("x-lightning").is_some());
        check(target, &host.send(&ask("5")), 200);
        let of_stored = Request::new("HEAD", target)
            .with("authorization", &token(2, verb, &[hash(LONG)]))
            .with("x-content-length", "16");
        check(target, &host.send(&of_stored), if verb == "upload" { 200 } else { 402 });
    }
    assert_eq!(host.seller.checks(), checks);
    let reply = host.send(&Request::new("HEAD", &format!("/{}", hash(LONG))).with("x-lightning", "00"));
    check("download", &reply, 402);
    // What HEAD has asked for pays for what follows.
    let ask = Request::new("HEAD", "/upload")
        .with("authorization", &token(1, "upload", &[hash(b"another one")]))
        .with("x-content-length", "11");
    let bill = invoice(&mut host, &ask);
    let proof = host.seller.pay(&bill);
    check("paid", &host.send(&upload(1, b"another one".as_slice()).with("x-lightning", &proof)), 201);
}

#[test]
fn the_page_tells_the_price_and_that_anybody_may_pay() {
    let mut host = selling();
    host.is_local = false;
    let page = |host: &mut Host<'_>| {
        String::from_utf8(host.send(&Request::new("GET", "/blossom")).body.to_vec()).expect("a page")
    };
    host.settings.payment.upload_msat_per_mib = 21_000;
    let told = page(&mut host);
    for words in ["storing costs 21 sats a MiB", "files up to 5 bytes are free", "anybody with a Nostr key"] {
        assert!(told.contains(words), "{words}");
    }
    host.settings.open = Some(false);
    assert!(page(&mut host).contains("keys that the operator has listed"));
}

/// BUD-13: as `PUT /upload`.
#[test]
fn a_put_of_a_hash_is_paid_before_it_comes() {
    let mut host = selling();
    let put = Request { target: format!("/{}", hash(LONG)), ..upload(1, LONG) };
    let with_proof = paid(&mut host, &put);
    for (what, request, status, steps) in [
        ("a bad proof", put.clone().with("x-lightning", "x"), 400, &["Ask(Begin)", "Pay", "Ask(Abort)"][..]),
        ("paid", with_proof, 201, &["Ask(Begin)", "Pay", "Receive", "Ask(Finish)", "Pay"]),
        ("it is here", put, 200, &["Ask(Check)", "Ask(Begin)"]),
    ] {
        let reply = host.send(&request);
        check(what, &reply, status);
        assert_eq!(reply.steps, steps, "{what}");
    }
}

/// What the index is asked of parts of key `number` that must be paid.
fn wanted(number: u64, size: u64, proof: Option<&str>) -> Wanted {
    Wanted {
        owner: pubkey(number).to_string(),
        sha256: Some(hash(LONG)),
        size,
        mime: "text/plain".to_owned(),
        key_bytes_max: None,
        total_bytes_max: None,
        abandoned_at: NOW + 100,
        expires_at: None,
        unused_seconds: None,
        retention: Vec::new(),
        must_be_paid: true,
        owner_pays: false,
        proof: proof.map(str::to_owned),
    }
}

/// Of parts at once one pays, and the index takes none that is not paid, whatever it has said before.
#[test]
fn of_parts_at_once_one_pays() {
    let mut host = selling();
    let part = |wanted, offset| Command::BeginPart(wanted, PartHead { offset, length: 8 });
    let mut run = |command| host.index.run(NOW, command).unwrap();
    let unpaid = Outcome::Refused(Refusal::Unpaid);
    assert_eq!(run(Command::CheckPart(wanted(1, 16, None))), Outcome::Accepted);
    assert_eq!(run(part(wanted(1, 16, None), 0)), unpaid, "it has no proof");
    let Outcome::Begun { upload, .. } = run(part(wanted(1, 16, Some("one")), 0)) else { panic!("begun") };
    assert_eq!(run(Command::CheckPart(wanted(1, 16, None))), Outcome::Done);
    assert_eq!(run(Command::CheckPart(wanted(1, 17, None))), Outcome::Refused(Refusal::OtherLength));
    let Outcome::Begun { upload: same, .. } = run(part(wanted(1, 16, None), 8)) else { panic!("begun") };
    assert_eq!(upload, same, "another part of it");
    assert_eq!(run(part(wanted(2, 16, Some("one")), 0)), unpaid, "one proof is for one upload");
    // It ends, and so does its payment.
    run(Command::AbortParts { upload });
    assert_eq!(run(part(wanted(1, 16, None), 8)), unpaid);
    assert!(matches!(run(part(wanted(2, 16, Some("one")), 0)), Outcome::Begun { .. }));
}

/// Regression: a short upload was paid, and a part of a long one came while it was open. When the short one had ended, the long one
/// began without payment.
#[test]
fn parts_of_another_length_are_not_paid() {
    let mut host = selling();
    let short = |request: Request| {
        let headers = request.headers.into_iter().filter(|(name, _)| name != "upload-length");
        Request { headers: headers.collect(), ..request }.with("upload-length", "8")
    };
    let first = paid(&mut host, &short(part(1, 0, 6)));
    check("a short one", &host.send(&first), 204);
    let reply = host.send(&part(1, 0, 8));
    check("a longer one", &reply, 400);
    assert_eq!(reply.steps, ["Ask(CheckPart)"]);
    // The short one turns out to be another blob.
    check("all of it", &host.send(&short(part(1, 6, 2))), 409);
    invoice(&mut host, &part(1, 0, 8));
    assert!(host.objects.is_empty(), "{:?}", host.objects);
}

/// Regression: the index took any text for a proof, and completed the upload although it could not be spent.
#[test]
fn parts_whose_payment_was_spent_are_not_stored() {
    let mut host = selling();
    let first = paid(&mut host, &part(1, 0, 8));
    check("paid", &host.send(&first), 204);
    let proof = first.headers.iter().find(|(name, _)| name == "x-lightning").expect("the proof").1.clone();
    check("parts of another", &host.send(&part(2, 0, 8).with("x-lightning", &proof)), 400);
    // The same payment pays for an upload at once, whose blob has run out.
    host.seller.spend(&proof);
    let reply = host.send(&part(1, 8, 8));
    check("the last one", &reply, 400);
    assert!(reason(&reply).contains("spent"), "{reply:?}");
    let steps = ["Receive", "Ask(FinishPart)", "Join", "Pay", "Ask(AbortParts)"];
    assert_eq!(reply.steps[2..], steps);
    check("it is not here", &host.send(&download(LONG)), 404);
    assert!(host.objects.is_empty(), "{:?}", host.objects);
}

/// Regression: all parts were thrown away when the wallet was slow.
#[test]
fn parts_stay_while_the_agent_is_away() {
    let mut host = selling();
    let first = paid(&mut host, &part(1, 0, 8));
    host.seller.is_away = true;
    check("away", &host.send(&first), 503);
    host.seller.is_away = false;
    check("paid", &host.send(&first), 204);
    host.seller.is_away = true;
    for times in 0..9 {
        let reply = host.send(&part(1, 8, 8));
        check("the last one", &reply, 503);
        assert_eq!(reply.steps.last().unwrap(), "Ask(LeaveParts)", "{times}");
    }
    assert_eq!(host.seller.spent(), 0);
    host.seller.is_away = false;
    check("once more", &host.send(&part(1, 8, 8)), 201);
    assert_eq!(host.seller.spent(), 1);
}

/// Regression: what the origin said to HEAD was its price, and what it sent was stored.
#[test]
fn a_mirror_is_as_long_as_its_origin_has_said() {
    let mut host = selling();
    let url = "https://away.example/file";
    let mirror = Request::new("PUT", "/mirror")
        .with("authorization", &token(1, "upload", &[hash(LONG)]))
        .body(format!("{{\"url\":\"{url}\"}}"));
    host.origins.insert(url.to_owned(), Ok((LONG.into(), None)));
    for measured in [0, 5] {
        host.measured = Some(measured);
        let reply = host.send(&mirror);
        assert!(reply.status >= 400, "{measured}: {reply:?}");
        assert!(reply.steps.contains(&"Fetch".to_owned()), "{measured}: {reply:?}");
        assert!(host.objects.is_empty(), "{measured}: {:?}", host.objects);
    }
    host.measured = None;
    invoice(&mut host, &mirror);
}

/// Regression: a blob was here when it was asked for, and not any more when its bytes came.
#[test]
fn what_was_here_and_is_not_any_more_must_be_paid() {
    let mut host = selling();
    let first = paid(&mut host, &upload(1, LONG));
    check("paid", &host.send(&first), 201);
    host.meanwhile = Some(|host| {
        host.now += 20;
        host.index.run(host.now, Command::Sweep).unwrap();
    });
    host.settings.retention =
        serde_json::from_value(serde_json::json!([{ "types": ["*/*"], "age_seconds": 10 }])).unwrap();
    // It runs out while the bytes of another owner come.
    host.index.run(NOW, Command::Delete { sha256: hash(LONG), owner: None }).unwrap();
    host.remove();
    let again = paid(&mut host, &upload(1, LONG));
    host.meanwhile = None;
    check("with an end", &host.send(&again), 201);
    host.meanwhile = Some(|host| {
        host.now += 20;
        host.index.run(host.now, Command::Sweep).unwrap();
    });
    let reply = host.send(&upload(2, LONG));
    check("it has run out", &reply, 503);
    assert!(reply.steps.contains(&"Receive".to_owned()), "{reply:?}");
    check("it is not here", &host.send(&download(LONG)), 404);
    host.remove();
    assert!(host.objects.is_empty(), "{:?}", host.objects);
}

/// Regression: whoever sent a blob again for nothing had it kept longer.
#[test]
fn nothing_is_kept_longer_for_nothing() {
    let mut host = selling();
    host.settings.retention =
        serde_json::from_value(serde_json::json!([{ "types": ["*/*"], "age_seconds": 100_000 }])).unwrap();
    let first = paid(&mut host, &upload(1, LONG));
    check("paid", &host.send(&first), 201);
    let ends = |host: &mut Host<'_>| match host.index.run(host.now, Command::Get(hash(LONG))).unwrap() {
        Outcome::Blob(blob) => blob.expires_at,
        other => panic!("{other:?}"),
    };
    let end = ends(&mut host);
    assert_eq!(end, Some(NOW + 100_000));
    host.now += 3_000;
    for number in [1, 2] {
        check("it is here", &host.send(&upload(number, LONG)), 200);
        check("by parts", &host.send(&part(number, 0, 16)), 200);
        // Who says that it has no bytes, or as few as are free, sends none.
        check("without bytes", &host.send(&upload(number, LONG).body(&b""[..])), 200);
        assert_eq!(ends(&mut host), end, "key {number}");
    }
    host.settings.payment = PaymentSettings::default();
    host.now += 50_000;
    let expiration = (host.now + 60).to_string();
    let fresh = relay_engine::testing::signing::event(&relay_engine::testing::signing::key(1))
        .kind(24_242)
        .at(host.now)
        .tag(["t", "upload"])
        .tag(["expiration", &expiration])
        .tag(["x", &hash(LONG).to_string()]);
    let free = Request::new("PUT", "/upload").with("authorization", &crate::world::header(fresh)).body(LONG);
    check("where it is free", &host.send(&free), 200);
    assert!(ends(&mut host) > end);
}

/// Regression: where uploads were sold, any key might read what only listed keys may.
#[test]
fn who_might_pay_does_not_read_what_is_private() {
    let mut host = selling();
    (host.settings.get_public, host.is_local) = (false, false);
    host.settings.payment.download_msat_per_mib = 0;
    host.settings.upload_pubkeys = vec![pubkey(9)];
    let first = paid(&mut host, &upload(1, LONG));
    check("paid", &host.send(&first), 201);
    let by = |number| download(LONG).with("authorization", &token(number, "get", &[hash(LONG)]));
    check("its owner", &host.send(&by(1)), 200);
    check("a listed key", &host.send(&by(9)), 200);
    check("any key", &host.send(&by(2)), 403);
    check(
        "a blob that is not here",
        &host.send(&download(b"none").with("authorization", &token(2, "get", &[hash(b"none")]))),
        403,
    );
    host.denied = vec![pubkey(1)];
    check("a denied owner", &host.send(&by(1)), 403);
    host.denied.clear();
    host.settings.open = Some(true);
    check("where anybody may", &host.send(&by(2)), 200);
}

/// Regression: a blob that was pulled for a download could be had as one's own for nothing.
#[test]
fn what_the_relay_has_pulled_is_sold() {
    let mut host = selling();
    host.settings.pull_through = true;
    host.origins.insert(format!("https://away.example/{}", hash(LONG)), Ok((LONG.into(), None)));
    let pull = Request::new("GET", &format!("/{}?xs=away.example", hash(LONG)));
    check("where downloads are sold nothing is pulled", &host.send(&pull), 404);
    assert!(host.objects.is_empty());
    host.settings.payment.download_msat_per_mib = 0;
    check("pulled", &host.send(&pull), 200);

    let hashed = |reply: &Reply| reply.steps.iter().filter(|step| *step == "Receive").count();
    let reply = host.send(&upload(1, LONG));
    check("unpaid", &reply, 402);
    assert_eq!(hashed(&reply), 0);
    check("unpaid parts", &host.send(&part(1, 0, 16)), 402);
    let ask = Request::new("HEAD", "/upload")
        .with("authorization", &token(1, "upload", &[hash(LONG)]))
        .with("x-content-length", "16");
    check("unpaid", &host.send(&ask), 402);
    check("a bad proof", &host.send(&upload(1, LONG).with("x-lightning", "x")), 400);
    let request = paid(&mut host, &upload(1, LONG));
    let reply = host.send(&request);
    check("paid", &reply, 200);
    assert_eq!(reply.steps, ["Ask(Begin)", "Pay", "Receive", "Ask(Finish)", "Pay"]);
    assert_eq!(host.seller.spent(), 1);
    // Now somebody has paid for it.
    check("another key", &host.send(&upload(2, LONG)), 200);
    assert_eq!(host.seller.spent(), 1);
}

/// The same in parts.
#[test]
fn parts_of_what_the_relay_has_pulled_are_sold() {
    let mut host = selling();
    (host.settings.pull_through, host.settings.payment.download_msat_per_mib) = (true, 0);
    host.origins.insert(format!("https://away.example/{}", hash(LONG)), Ok((LONG.into(), None)));
    let pull = Request::new("GET", &format!("/{}?xs=away.example", hash(LONG)));
    check("pulled", &host.send(&pull), 200);
    let request = paid(&mut host, &part(1, 0, 16));
    let reply = host.send(&request);
    check("paid", &reply, 200);
    assert_eq!(reply.steps[5..], ["Join", "Pay", "Ask(Finish)"]);
    assert_eq!(host.seller.spent(), 1);
}
