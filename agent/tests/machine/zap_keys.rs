//! Who must have signed the receipts of zaps: the service of the Lightning address is asked.

use relay_agent::executor::{Access, HttpError, HttpEvent};
use relay_agent::testing::Customer;
use serde_json::{Value, json};

use crate::prepaid::{PRICE, books, order};
use crate::wallet::Wallet;
use crate::world::{World, owner};
use crate::zapping::{Service, zap, zappable, zapped};

fn credit(world: &World) -> u64 {
    world.agent.credit_of(&Customer::new(1).pubkey()).unwrap()
}

fn refused(world: &World) -> u64 {
    world.agent.metrics().payments.get("zap_refused").copied().unwrap_or_default()
}

#[test]
fn the_service_is_asked_when_an_address_is_deployed_and_after_an_hour() {
    let manifest = zapped("prepay", "receipt", |_| ());
    let mut world = World::new(&manifest);
    let (mut service, customer) = (Service::new(), Customer::new(1));
    let (_, request) = &world.host.calls[0];
    // By the guard of what the owner names.
    assert_eq!((request.access, request.limits.redirects_max), (Access::Public, 3));
    assert!(request.headers.iter().all(|(name, _)| name == "accept") && request.allow_domains.is_empty());
    service.tell(&mut world);
    assert!(world.agent.is_idle() && world.agent.error().is_none());
    zap(&mut world, &mut service, &customer, None, 1_000);
    world.pass(3_500);
    zap(&mut world, &mut service, &customer, None, 1_000);
    assert_eq!((credit(&world), world.host.calls.len()), (2_000, 0));
    world.pass(200);
    zap(&mut world, &mut service, &customer, None, 1_000);
    zap(&mut world, &mut service, &customer, None, 1_000);
    assert_eq!((credit(&world), world.host.calls.len()), (2_000, 1));
    service.tell(&mut world);
    assert_eq!(credit(&world), 4_000);
    // What is known outlives a restart, and what waits does, too.
    world.crash();
    world.run();
    zap(&mut world, &mut service, &customer, None, 1_000);
    assert_eq!((credit(&world), world.host.calls.len()), (5_000, 0));
    world.pass(3_700);
    zap(&mut world, &mut service, &customer, None, 1_000);
    world.crash();
    world.run();
    service.tell(&mut world);
    assert_eq!(credit(&world), 6_000);
    // The same manifest again asks it again.
    world.agent.deploy(world.now, &manifest, &owner()).unwrap();
    world.run();
    assert_eq!(world.host.calls.len(), 1);
}

#[test]
fn receipts_by_others_do_nothing() {
    let (mut world, mut wallet, mut service) = zappable("prepay", "receipt");
    let (customer, mut stranger) = (Customer::new(1), Service::of(0x77));
    let request = order(&mut world, &mut wallet, &customer, "hello");
    zap(&mut world, &mut stranger, &customer, Some(&request.id), PRICE);
    assert_eq!((refused(&world), world.host.calls.len()), (1, 0));
    // Later the service may have another key, and is asked, once a minute at most.
    for round in 0..3 {
        world.pass_with(&mut wallet, 61);
        for _ in 0..3 {
            zap(&mut world, &mut stranger, &customer, Some(&request.id), PRICE);
        }
        assert_eq!(world.host.calls.len(), 1, "{round}");
        service.tell(&mut world);
        zap(&mut world, &mut stranger, &customer, Some(&request.id), PRICE);
        assert_eq!((refused(&world), world.host.calls.len()), (1 + 4 * (round + 1), 0));
    }
    assert_eq!(world.statuses(&request.id), ["payment-required"]);
    assert_eq!(world.check_books(), books(0, 0, 0));
    // It has, a moment after it was asked: its receipt waits until it may be asked again.
    world.pass_with(&mut wallet, 5);
    let mut renewed = Service::of(0x78);
    zap(&mut world, &mut renewed, &customer, Some(&request.id), PRICE);
    assert_eq!(world.host.calls.len(), 0);
    world.pass_with(&mut wallet, 60);
    renewed.tell(&mut world);
    assert_eq!(world.statuses(&request.id), ["payment-required", "processing", "result"]);
    zap(&mut world, &mut service, &customer, None, PRICE);
    assert_eq!(world.check_books(), books(PRICE, PRICE, 0), "the key of before is none any more");
}

#[test]
fn receipts_wait_while_the_service_cannot_be_asked() {
    let service = Service::new();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut answer = service.answer();
        change(&mut answer);
        answer.to_string()
    };
    let answers: Vec<(u16, String, &str)> = vec![
        (500, String::new(), "it answers with status 500"),
        (302, String::new(), "it answers with status 302"),
        (200, "<html>".to_owned(), "its answer is not a JSON object"),
        (200, "[]".to_owned(), "its answer is not a JSON object"),
        (200, " ".repeat(300 << 10), "its answer is too large"),
        (200, json!({"status": "ERROR", "reason": "no such\nuser"}).to_string(), "it says: no suchuser"),
        (
            200,
            changed(&|answer| answer["tag"] = json!("withdrawRequest")),
            "its answer is not a payRequest (LUD-06)",
        ),
        (
            200,
            changed(&|answer| answer["allowsNostr"] = json!(false)),
            "it makes no zap receipts (allowsNostr)",
        ),
        (
            200,
            changed(&|answer| answer["allowsNostr"] = json!("true")),
            "it makes no zap receipts (allowsNostr)",
        ),
        (
            200,
            changed(&|answer| answer["nostrPubkey"] = json!("npub1")),
            "its nostrPubkey is not a public key",
        ),
        (
            200,
            changed(&|answer| answer["nostrPubkey"] = json!("ff".repeat(32))),
            "its nostrPubkey is not a public key",
        ),
        (200, changed(&|answer| answer["nostrPubkey"] = json!(7)), "its nostrPubkey is not a public key"),
    ];
    let mut world = World::new(&zapped("prepay", "receipt", |_| ()));
    let (mut service, mut stranger, customer) = (Service::new(), Service::of(0x77), Customer::new(1));
    let mut wait = 2;
    for (status, body, why) in answers {
        assert_eq!(world.host.calls.len(), 1, "{why}");
        world.answer(status, &body);
        let error = format!("payment.zap: the service of agent@pay.example does not tell its key: {why}");
        assert_eq!(world.agent.error(), Some(error.as_str()));
        zap(&mut world, &mut service, &customer, None, 1_000);
        zap(&mut world, &mut stranger, &customer, None, 1_000);
        // It is asked again later and later.
        world.pass(wait - 1);
        assert!(world.host.calls.is_empty(), "{why}");
        if wait == 16 {
            world.crash();
            world.run();
        }
        world.pass(1);
        wait = (2 * wait).min(3_600);
    }
    let (id, _) = world.host.calls.remove(0);
    world.agent.handle_http(
        world.now,
        id,
        HttpEvent::Failed(HttpError::Forbidden("not a public host".to_owned())),
    );
    assert!(world.agent.error().unwrap().ends_with("it may not be called: not a public host"));
    world.pass(3_600);
    // It does not answer at all.
    assert_eq!(world.host.calls.len(), 1);
    world.pass(16);
    assert!(world.host.calls.is_empty() && world.agent.error().unwrap().ends_with("it takes too long"));
    assert_eq!((credit(&world), refused(&world)), (0, 0));
    world.pass(3_600);
    service.tell(&mut world);
    assert_eq!((credit(&world), refused(&world)), (12_000, 12));
    assert_eq!((world.agent.error(), world.agent.is_idle(), world.agent.poll_timeout()), (None, true, None));
    assert_eq!(world.check_books(), books(12_000, 0, 12_000));
}

/// What strangers make takes no room from those whose key was right before, and what is malformed takes none.
#[test]
fn receipts_that_wait_are_bounded() {
    let (mut world, mut wallet, mut service) = zappable("prepay", "receipt");
    let (customer, mut stranger) = (Customer::new(1), Service::of(0x77));
    world.pass_with(&mut wallet, 4_000);
    for _ in 0..100 {
        zap(&mut world, &mut stranger, &customer, None, 1_000);
    }
    assert_eq!(refused(&world), 68, "32 of one key wait");
    let other = Customer::new(600).pubkey();
    let (malformed, ..) = service.zap(world.now.seconds(), &other, &customer, None, 1_000);
    world.deliver(&malformed);
    assert_eq!(refused(&world), 69);
    for _ in 0..5 {
        zap(&mut world, &mut service, &customer, None, 1_000);
    }
    service.tell(&mut world);
    assert_eq!((credit(&world), refused(&world)), (5_000, 101));
}

/// If nobody zaps, an address that nobody serves is not asked for ever.
#[test]
fn an_address_that_does_not_answer_is_given_up_until_somebody_zaps() {
    let mut world = World::new(&zapped("prepay", "receipt", |_| ()));
    let mut asked = 0;
    for _ in 0..200 {
        if !world.host.calls.is_empty() {
            asked += 1;
            world.answer(404, "");
        }
        world.pass(1);
    }
    assert_eq!((asked, world.agent.poll_timeout()), (6, None));
    assert!(world.agent.error().unwrap().ends_with("it answers with status 404"));
    let mut service = Service::new();
    zap(&mut world, &mut service, &Customer::new(1), None, 1_000);
    service.tell(&mut world);
    assert_eq!(credit(&world), 1_000);
}

/// What an address says that is not the agent's any more is not believed.
#[test]
fn another_address_has_another_key() {
    let mut world = World::new(&zapped("prepay", "receipt", |_| ()));
    let (mut service, mut other, customer) = (Service::new(), Service::of(0x77), Customer::new(1));
    let (first, _) = world.host.calls[0];
    let moved = zapped("prepay", "receipt", |json| json["payment"]["zap"] = json!("agent@other.example"));
    world.agent.deploy(world.now, &moved, &owner()).unwrap();
    world.run();
    assert_eq!(world.host.calls.len(), 1);
    assert_eq!(world.host.calls[0].1.url, "https://other.example/.well-known/lnurlp/agent");
    for event in [
        HttpEvent::Head(200, Vec::new()),
        HttpEvent::Chunk(service.answer().to_string().into()),
        HttpEvent::End,
    ] {
        world.agent.handle_http(world.now, first, event);
    }
    world.answer(200, &other.answer().to_string());
    zap(&mut world, &mut service, &customer, None, 1_000);
    assert_eq!((credit(&world), refused(&world)), (0, 1));
    let agent = world.pubkey();
    let description = {
        let mut request = crate::zapping::zap_request(world.now.seconds(), &agent, None, 1_000);
        request.tags.retain(|tag| tag[0] != "lnurl");
        crate::zapping::signed(&customer, &request)
    };
    let bolt11 =
        crate::zapping::zap_invoice(world.now.seconds(), &description, other.preimage(), Some(1_000));
    let tags = crate::zapping::receipt_tags(&agent, &customer, None, &description, &bolt11);
    let receipt = other.receipt(world.now.seconds(), tags);
    world.deliver(&receipt);
    assert_eq!(credit(&world), 1_000);
    let mut wallet = Wallet::new();
    world.pass_with(&mut wallet, 10);
    assert_eq!(world.check_books(), books(1_000, 0, 1_000));
}
