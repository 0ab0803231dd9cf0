//! The process dies before and after each effect of a job, whatever its policy.

use relay_agent::executor::HttpEvent;
use relay_agent::machine::Effect;
use relay_agent::testing::{Customer, read_answer};

use super::{POLICIES, PRICE, deployed};
use crate::wallet::{Holding, Invoice, Wallet};
use crate::world::World;
use crate::zapping::{SERVICE_URL, Service};

/// A crash before and after each effect: one payment, one result.
#[test]
fn a_crash_at_each_effect_loses_and_repeats_nothing() {
    let scenario = |policy: &str, fails: bool, zap_check: Option<&str>, crash_at: Option<(usize, bool)>| {
        let mut world = World::calling(&deployed(policy, zap_check, false));
        let (mut wallet, customer, mut service) = (Wallet::new(), Customer::new(1), Service::new());
        let request = customer.sign(&world.request().text("hello"));
        world.host.store(request.clone());
        world.agent.deliver(world.now, std::slice::from_ref(&request)).unwrap();
        let (mut effects, mut paid) = (0, 0);
        for _ in 0..300 {
            while let Some(effect) = world.agent.poll_effect() {
                effects += 1;
                let dies = crash_at.filter(|(at, _)| *at == effects);
                if dies == Some((effects, false)) {
                    world.crash();
                    continue;
                }
                if dies.is_some() {
                    // It is carried out, and nobody hears of it.
                    match effect {
                        Effect::Publish { events, relays, .. } => drop(world.host.publish(&events, &relays)),
                        Effect::Exchange { requests, .. } => {
                            requests.iter().for_each(|asked| drop(wallet.answer(world.now.seconds(), asked)));
                        }
                        _ => {}
                    }
                    world.crash();
                    continue;
                }
                world.host.carry_out(world.now, &mut world.agent, effect);
            }
            if paid == 0
                && let Some((_, event)) = world
                    .host
                    .answers_to(&request.id)
                    .into_iter()
                    .find(|(status, _)| status == "payment-required")
            {
                if zap_check.is_some() {
                    let (now, agent) = (world.now.seconds(), world.pubkey());
                    let (receipt, bolt11, preimage) =
                        service.zap(now, &agent, &customer, Some(&event.id), PRICE);
                    wallet.receive(&bolt11, preimage);
                    world.agent.deliver(world.now, std::slice::from_ref(&receipt)).unwrap();
                } else {
                    wallet.pay(&read_answer(&event, &customer.keys).unwrap().bolt11.unwrap(), None);
                }
                paid += 1;
            }
            world.hand_to_wallet(&mut wallet);
            if !world.host.calls.is_empty() {
                let (id, request) = world.host.calls.remove(0);
                let status = if fails { 404 } else { 200 };
                let is_service = request.url == SERVICE_URL;
                let body = if is_service { service.answer().to_string() } else { "done".to_owned() };
                world.agent.handle_http(world.now, id, HttpEvent::Head(status, Vec::new()));
                world.agent.handle_http(world.now, id, HttpEvent::Chunk(body.into()));
                world.agent.handle_http(world.now, id, HttpEvent::End);
            }
            world.now = world.now.plus_millis(1_000);
            world.agent.handle_timeout(world.now);
        }
        let statuses = world.statuses(&request.id);
        let expected = match policy {
            _ if fails => ["payment-required", "processing", "error"],
            "prepay" | "hold" => ["payment-required", "processing", "result"],
            _ => ["processing", "payment-required", "result"],
        };
        assert_eq!(statuses, expected, "{policy} {crash_at:?}");
        let books = world.check_books();
        if fails {
            let is_given_back = |invoice: &&Invoice| invoice.hold == Some(Holding::Cancelled);
            assert_eq!(wallet.invoices.values().filter(is_given_back).count(), 1, "{crash_at:?}");
            assert_eq!((books.received, books.reserved, books.credit), (0, 0, 0), "{crash_at:?}");
            return effects;
        }
        // Invoices are of whole satoshis.
        let came = if zap_check.is_some() { PRICE } else { PRICE.div_ceil(1_000) * 1_000 };
        assert_eq!((books.received, books.income), (came as i64, PRICE as i64), "{crash_at:?}");
        assert_eq!(books.reserved, 0, "{crash_at:?}");
        effects
    };
    // A job that fails is one whose payment is given back.
    let by_invoice = POLICIES.map(|policy| (policy, false, None)).into_iter().chain([("hold", true, None)]);
    let by_zap = ["prepay", "postpay", "sample"]
        .into_iter()
        .flat_map(|policy| ["receipt", "wallet"].map(|check| (policy, false, Some(check))));
    for (policy, fails, zap_check) in by_invoice.chain(by_zap) {
        let effects = scenario(policy, fails, zap_check, None);
        assert!(effects >= 8, "{effects}");
        for at in 1..=effects {
            scenario(policy, fails, zap_check, Some((at, false)));
            scenario(policy, fails, zap_check, Some((at, true)));
        }
    }
}
