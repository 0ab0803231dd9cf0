//! The process dies before and after each effect of a job, whatever its policy.

use relay_agent::executor::HttpEvent;
use relay_agent::machine::Effect;
use relay_agent::testing::{Customer, read_answer};

use super::{POLICIES, PRICE, deployed};
use crate::wallet::{Holding, Invoice, Wallet};
use crate::world::World;

/// A crash before and after each effect: one payment, one result.
#[test]
fn a_crash_at_each_effect_loses_and_repeats_nothing() {
    let scenario = |policy: &str, fails: bool, crash_at: Option<(usize, bool)>| {
        let mut world = World::calling(&deployed(policy));
        let (mut wallet, customer) = (Wallet::new(), Customer::new(1));
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
                wallet.pay(&read_answer(&event, &customer.keys).unwrap().bolt11.unwrap(), None);
                paid += 1;
            }
            world.hand_to_wallet(&mut wallet);
            if !world.host.calls.is_empty() {
                let (id, _) = world.host.calls.remove(0);
                let status = if fails { 404 } else { 200 };
                world.agent.handle_http(world.now, id, HttpEvent::Head(status, Vec::new()));
                world.agent.handle_http(world.now, id, HttpEvent::Chunk("done".into()));
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
        assert_eq!(
            (books.received, books.income),
            (PRICE.div_ceil(1_000) as i64 * 1_000, PRICE as i64),
            "{crash_at:?}"
        );
        assert_eq!(books.reserved, 0, "{crash_at:?}");
        effects
    };
    // A job that fails is one whose payment is given back.
    for (policy, fails) in POLICIES.map(|policy| (policy, false)).into_iter().chain([("hold", true)]) {
        let effects = scenario(policy, fails, None);
        assert!(effects >= 8, "{effects}");
        for at in 1..=effects {
            scenario(policy, fails, Some((at, false)));
            scenario(policy, fails, Some((at, true)));
        }
    }
}
