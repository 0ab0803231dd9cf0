//! What a zap receipt must be to count: each clause of NIP-57, appendix F, and what shows that receipt, request and invoice belong together.

use nostr::hashes::{Hash, sha256};
use relay_agent::identity::Draft;
use relay_agent::lnurl::LightningAddress;
use relay_agent::nip57::Zap;
use relay_agent::testing::Customer;
use relay_engine::types::{Event, EventId, PubKey};
use serde_json::{Value, json};

use crate::invoices;
use crate::zapping::{ADDRESS, SERVICE_URL, Service, receipt_tags, signed, zap_invoice, zap_request};

const NOW: u64 = 1_800_000_000;
const MSAT: u64 = 21_000;
const PREIMAGE: [u8; 32] = [5; 32];

fn agent() -> PubKey {
    Customer::new(500).pubkey()
}

fn zapped() -> EventId {
    EventId([0xab; 32])
}

fn read(receipt: &Event) -> Result<Zap, &'static str> {
    Zap::read(receipt, &agent(), &LightningAddress::parse(ADDRESS).unwrap())
}

/// A receipt whose zap request is changed by `change`.
fn of_request(change: impl FnOnce(&mut Draft)) -> Event {
    let (payer, mut request) = (Customer::new(1), zap_request(NOW, &agent(), Some(&zapped()), MSAT));
    change(&mut request);
    of_description(&signed(&payer, &request))
}

fn of_description(description: &str) -> Event {
    of_tags(description, &zap_invoice(NOW, description, PREIMAGE, Some(MSAT)), |_| ())
}

/// A receipt whose own tags are changed by `change`.
fn of_tags(description: &str, bolt11: &str, change: impl FnOnce(&mut Vec<Vec<String>>)) -> Event {
    let mut tags = receipt_tags(&agent(), &Customer::new(1), Some(&zapped()), description, bolt11);
    change(&mut tags);
    Service::new().receipt(NOW, tags)
}

fn description() -> String {
    signed(&Customer::new(1), &zap_request(NOW, &agent(), Some(&zapped()), MSAT))
}

fn with_tags(change: impl FnOnce(&mut Vec<Vec<String>>)) -> Event {
    let description = description();
    let bolt11 = zap_invoice(NOW, &description, PREIMAGE, Some(MSAT));
    of_tags(&description, &bolt11, change)
}

fn with_invoice(bolt11: &str) -> Event {
    of_tags(&description(), bolt11, |_| ())
}

fn set(tags: &mut Vec<Vec<String>>, name: &str, value: Option<&str>) {
    tags.retain(|tag| tag[0] != name);
    tags.extend(value.map(|value| vec![name.to_owned(), value.to_owned()]));
}

fn lnurl(url: &str) -> String {
    bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("lnurl").unwrap(), url.as_bytes()).unwrap()
}

#[test]
fn a_receipt_says_who_has_paid_how_much_for_what() {
    let receipt = of_request(|_| ());
    let zap = read(&receipt).unwrap();
    assert_eq!((zap.receipt, zap.signer), (receipt.id, Service::new().keys.pubkey()));
    assert_eq!((zap.payer, zap.event), (Customer::new(1).pubkey(), Some(zapped())));
    assert_eq!((zap.msat, zap.paid_at), (MSAT, NOW));
    assert_eq!(zap.payment_hash, sha256::Hash::hash(&PREIMAGE).to_byte_array());
}

#[test]
fn what_need_not_be_there() {
    for name in ["amount", "lnurl", "relays"] {
        assert!(read(&of_request(|request| set(&mut request.tags, name, None))).is_ok(), "{name}");
    }
    // A zap of nobody's event.
    let profile = read(&of_request(|request| set(&mut request.tags, "e", None))).unwrap();
    assert_eq!(profile.event, None);
    for name in ["P", "e"] {
        assert!(read(&with_tags(|tags| set(tags, name, None))).is_ok(), "{name}");
    }
    // A preimage is proof of nothing, and of nothing else either.
    let with_preimage = with_tags(|tags| set(tags, "preimage", Some("00")));
    assert!(read(&with_preimage).is_ok());
    let signer = Service::new().keys.pubkey().to_string();
    assert!(read(&of_request(|request| set(&mut request.tags, "P", Some(&signer)))).is_ok());
}

#[test]
fn each_clause() {
    let (other, stranger) = (Customer::new(9).pubkey().to_string(), Customer::new(9));
    let agent = agent().to_string();
    let request_tag =
        |name: &str, value: Option<&str>| of_request(|request| set(&mut request.tags, name, value));
    let receipt_tag = |name: &str, value: Option<&str>| with_tags(|tags| set(tags, name, value));
    let twice = |name: &str, value: &str| {
        of_request(|request| request.tags.push(vec![name.to_owned(), value.to_owned()]))
    };
    let receipt_twice =
        |name: &str, value: &str| with_tags(|tags| tags.push(vec![name.to_owned(), value.to_owned()]));
    let forged = |change: &dyn Fn(&mut Value)| {
        let mut event: Value = serde_json::from_str(&description()).unwrap();
        change(&mut event);
        of_description(&event.to_string())
    };
    let invoice = |msat: Option<u64>| zap_invoice(NOW, &description(), PREIMAGE, msat);
    let plain = invoices::Draft {
        msat: Some(MSAT),
        description: "not hashed",
        preimage: PREIMAGE,
        created_at: NOW,
        expiry_s: 600,
    };
    let other_invoice = zap_invoice(NOW, "another request", PREIMAGE, Some(MSAT));
    let other_sig = serde_json::from_slice::<Value>(
        stranger.keys.sign(&zap_request(NOW, &agent.parse().unwrap(), None, MSAT)).json(),
    )
    .unwrap()["sig"]
        .clone();
    let cases: Vec<(Event, &str)> = vec![
        // The receipt.
        (receipt_tag("p", None), "it must have one p tag, with the key of the agent"),
        (receipt_tag("p", Some(&other)), "it must have one p tag, with the key of the agent"),
        (receipt_tag("p", Some("agent")), "it must have one p tag, with the key of the agent"),
        (receipt_twice("p", &other), "a tag is there twice"),
        (receipt_tag("description", None), "it has no zap request (description)"),
        (receipt_twice("description", &description()), "a tag is there twice"),
        (receipt_tag("bolt11", None), "it has no invoice (bolt11)"),
        (receipt_twice("bolt11", &invoice(Some(MSAT))), "a tag is there twice"),
        (receipt_tag("bolt11", Some("lnbc1")), "the checksum of the invoice is wrong"),
        (receipt_tag("P", Some(&other)), "it names another payer than its zap request (P)"),
        (with_tags(|tags| tags.push(vec!["P".to_owned()])), "a tag is there twice"),
        // The zap request.
        (of_description("{}"), "its zap request is not an event"),
        (of_description("hello"), "its zap request is not an event"),
        (of_request(|request| request.kind = 1), "its zap request is of another kind"),
        (request_tag("p", None), "its zap request must have one p tag, with the key of the receipt's"),
        (
            request_tag("p", Some(&other)),
            "its zap request must have one p tag, with the key of the receipt's",
        ),
        (twice("p", &other), "a tag is there twice"),
        (twice("e", &"00".repeat(32)), "a tag is there twice"),
        (request_tag("e", Some("x")), "its zap request names no event (e)"),
        (request_tag("P", Some(&other)), "its zap request asks for a receipt by another key (P)"),
        (forged(&|event| event["pubkey"] = json!(agent)), "it names another payer than its zap request (P)"),
        (forged(&|event| event["content"] = json!("x")), "its zap request is not signed by whom it names"),
        (forged(&|event| event["created_at"] = json!(1)), "its zap request is not signed by whom it names"),
        (
            forged(&|event| event["id"] = json!("00".repeat(32))),
            "its zap request is not signed by whom it names",
        ),
        (forged(&|event| event["sig"] = other_sig.clone()), "its zap request is not signed by whom it names"),
        (forged(&|event| event["sig"] = json!("x")), "its zap request is not an event"),
        // The invoice is the zap request's.
        (with_invoice(&other_invoice), "its invoice is not for its zap request (description hash)"),
        (with_invoice(&plain.sign()), "its invoice is not for its zap request (description hash)"),
        (with_invoice(&invoice(Some(MSAT - 1))), "its invoice is for another amount than its zap request"),
        (with_invoice(&invoice(Some(MSAT + 1))), "its invoice is for another amount than its zap request"),
        (with_invoice(&invoice(None)), "its invoice has no amount, or one of more than 100 bitcoins"),
        (
            with_invoice(&invoice(Some(20_000_000_000_000))),
            "its invoice has no amount, or one of more than 100 bitcoins",
        ),
        (request_tag("amount", Some("21")), "its invoice is for another amount than its zap request"),
        (request_tag("amount", Some("a lot")), "its invoice is for another amount than its zap request"),
        // To this address.
        (
            request_tag("lnurl", Some("other@pay.example")),
            "its zap request is to another Lightning address (lnurl)",
        ),
        (
            request_tag("lnurl", Some(&lnurl("https://pay.example/.well-known/lnurlp/other"))),
            "its zap request is to another Lightning address (lnurl)",
        ),
        (request_tag("lnurl", Some("")), "its zap request is to another Lightning address (lnurl)"),
    ];
    for (at, (receipt, why)) in cases.iter().enumerate() {
        assert_eq!(read(receipt), Err(*why), "case {at}: {receipt:?}");
    }
    let note = Service::new().keys.sign(&Draft { kind: 1, ..Draft::of(&of_request(|_| ())) });
    assert_eq!(read(&note), Err("it is no zap receipt"));
}

#[test]
fn an_lnurl_means_an_address_in_each_of_its_forms() {
    let address = LightningAddress::parse(ADDRESS).unwrap();
    assert_eq!(address.url(), SERVICE_URL);
    let coded = lnurl(SERVICE_URL);
    for (text, want) in [
        (coded.as_str(), true),
        (&coded.to_uppercase(), true),
        (&format!("lightning:{coded}"), true),
        (SERVICE_URL, true),
        ("HTTPS://PAY.EXAMPLE/.well-known/lnurlp/agent", true),
        ("lnurlp://pay.example/.well-known/lnurlp/agent", true),
        (ADDRESS, true),
        ("lnurlp://pay.example/.well-known/lnurlp/agent2", false),
        ("http://pay.example/.well-known/lnurlp/agent", false),
        ("https://pay.example.org/.well-known/lnurlp/agent", false),
        ("agent@pay.example.org", false),
        ("lnurl1", false),
        (&format!("{}q", &coded[..coded.len() - 1]), false),
    ] {
        assert_eq!(address.matches_lnurl(text), want, "{text}");
    }
    for text in ["a@b.example", "a-b_c.d1@pay.example", "x@127.0.0.1:8080", "x@localhost:3000", "x@[::1]:1"] {
        let address = LightningAddress::parse(text).unwrap();
        let scheme = if text.ends_with("example") { "https://" } else { "http://" };
        assert!(address.url().starts_with(scheme) && address.to_string() == text, "{}", address.url());
    }
    for text in [
        "",
        "@",
        "a@",
        "@b.example",
        "A@b.example",
        "a b@c.example",
        "a@B.example",
        "a@b.example/c",
        "a@b.example?c",
        "a@b.example#c",
        "a@b.example:8443",
        "a@b",
        "a@10.0.0.1",
        "a@10.0.0.1:80",
        "..@b.example",
        ".@b.example",
        "a%2f@b.example",
        "a@b@c.example",
        "a@b.example/",
        "a@bücher.example",
        "lnurl1abc",
    ] {
        assert!(LightningAddress::parse(text).is_err(), "{text}");
    }
    assert!(LightningAddress::parse(&format!("{}@b.example", "a".repeat(320))).is_err());
}
