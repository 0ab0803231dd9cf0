//! Which jobs are paid: what both sides have signed, in any order, and what looks like it.

use relay_engine::types::Event;
use serde_json::{Value, json};

use super::common::zaps::Zap;
use super::common::{Draft, pubkey};
use super::{DAY, HOUR, Host, NOW, announcement, recomputed, reply, request, result};

const ASKED: u64 = 5_000;

/// A zap of an event, with a payment hash of its own.
pub(super) fn zap_of(payer: u8, payee: u8, zapped: &Draft, msat: u64, at: u64) -> Zap {
    let zapped = zapped.event().id;
    Zap { payer, payee, signer: 250, zapped, msat, names_amount: true, payment_hash: zapped.0, at }
}

/// Feedback that asks for payment.
pub(super) fn demand(provider: u8, to: &Draft, amount: &str, at: u64) -> Draft {
    let draft = reply(provider, to, 7_000, at).tag(&["status", "payment-required"]);
    if amount.is_empty() { draft } else { draft.tag(&["amount", amount]) }
}

/// `[paid jobs, paying customers, millisatoshis]` of these figures.
pub(super) fn paid(figures: &Value) -> [u64; 3] {
    ["jobs_paid", "distinct_paying_customers", "paid_msat"].map(|name| figures[name].as_u64().unwrap())
}

/// What these events say of the only provider, in any order, and what anybody recomputes from them.
fn paid_by(name: &str, events: &[Draft]) -> [u64; 3] {
    let mut host = Host::new();
    host.apply(events);
    let found = paid(&host.only()["figures"]);
    let mut backwards = Host::new();
    backwards.apply(&events.iter().rev().cloned().collect::<Vec<_>>());
    backwards.pass(0);
    assert_eq!(backwards.only()["figures"], host.only()["figures"], "{name}, backwards");
    let (recomputed, claimed) = recomputed(&host, 1, events);
    assert_eq!(recomputed, claimed, "{name}");
    assert_eq!(paid(&claimed), found, "{name}");
    found
}

/// A delivered job of customer 2 that provider 1 wants to be paid for.
struct Order {
    asked: Draft,
    demand: Draft,
    result: Draft,
}

impl Order {
    fn new() -> Self {
        let asked = request(2, 1, NOW - 2 * HOUR);
        let demand = demand(1, &asked, &ASKED.to_string(), NOW - 2 * HOUR + 5);
        let result = result(1, &asked, NOW - HOUR);
        Order { asked, demand, result }
    }

    fn zap(&self) -> Zap {
        zap_of(2, 1, &self.asked, ASKED, NOW - 2 * HOUR + 20)
    }

    fn with(&self, more: &[Draft]) -> Vec<Draft> {
        let own = [&self.asked, &self.demand, &self.result].map(Draft::clone);
        own.into_iter()
            .chain([announcement(1, "shout", &["5050"], "5")])
            .chain(more.iter().cloned())
            .collect()
    }
}

#[test]
fn a_receipt_pays_a_job_whatever_of_it_was_zapped_and_whoever_says_so() {
    let order = Order::new();
    let zap = order.zap();
    let zapped = |zapped: &Draft| Zap { zapped: zapped.event().id, ..zap.clone() };
    let cases: [(&str, Zap); 9] = [
        ("the request", zap.clone()),
        ("the demand", zapped(&order.demand)),
        ("the result", zapped(&order.result)),
        ("more than was asked for", Zap { msat: 9 * ASKED, ..zap.clone() }),
        ("after the result", Zap { at: NOW, ..zap.clone() }),
        ("a day earlier than the request", Zap { at: NOW - 2 * HOUR - DAY + 5, ..zap.clone() }),
        ("the customer says so", Zap { signer: 2, ..zap.clone() }),
        ("the provider says so", Zap { signer: 1, ..zap.clone() }),
        ("another payment hash", Zap { payment_hash: [3; 32], ..zap.clone() }),
    ];
    for (name, zap) in cases {
        assert_eq!(paid_by(name, &order.with(&[zap.receipt()])), [1, 1, ASKED], "{name}");
    }
    let twice = order.with(&[zap.receipt(), Zap { at: NOW, ..zap.clone() }.receipt(), zap.receipt()]);
    assert_eq!(paid_by("several receipts", &twice), [1, 1, ASKED]);
    let of_kind = json_of(&zap.request().tag(&["k", "5050"]));
    assert_eq!(paid_by("of a kind", &order.with(&[zap.receipt_of(&of_kind)])), [1, 1, ASKED]);
}

fn json_of(draft: &Draft) -> String {
    String::from_utf8(draft.event().json().to_vec()).unwrap()
}

#[test]
fn what_pays_nothing() {
    let order = Order::new();
    let zap = order.zap();
    let other = request(2, 1, NOW - 2 * HOUR + 1);
    let changed = |zap: Zap| zap.receipt();
    let cases: [(&str, Vec<Draft>); 10] = [
        ("too little", vec![changed(Zap { msat: ASKED - 1, ..zap.clone() })]),
        ("no amount that the customer has signed", vec![changed(Zap { names_amount: false, ..zap.clone() })]),
        (
            "a receipt that states to be a day older than what was signed",
            vec![Draft { created_at: zap.at - DAY, ..zap.receipt() }],
        ),
        (
            "too little, twice",
            [[1; 32], [2; 32]]
                .map(|payment_hash| changed(Zap { msat: ASKED / 2 + 1, payment_hash, ..zap.clone() }))
                .to_vec(),
        ),
        ("by somebody else", vec![changed(Zap { payer: 3, ..zap.clone() })]),
        ("to somebody else", vec![changed(Zap { payee: 9, ..zap.clone() })]),
        ("of another job", vec![other.clone(), changed(zap_of(2, 1, &other, ASKED, NOW - HOUR))]),
        ("of nothing", vec![changed(Zap { zapped: pubkey(9).to_string().parse().unwrap(), ..zap.clone() })]),
        ("more than a day earlier", vec![changed(Zap { at: NOW - 2 * HOUR - DAY, ..zap.clone() })]),
        ("it expires", vec![zap.receipt().tag(&["expiration", &(NOW + 9 * DAY).to_string()])]),
    ];
    for (name, events) in cases {
        assert_eq!(paid_by(name, &order.with(&events)), [0; 3], "{name}");
    }
}

#[test]
fn a_forged_receipt_pays_nothing() {
    let order = Order::new();
    let zap = order.zap();
    let right = json_of(&zap.request());
    assert_eq!(paid_by("right", &order.with(&[zap.receipt_of(&right)])), [1, 1, ASKED]);
    let by_another = json_of(&Draft { author: 3, ..zap.request() });
    let [own, others] = [2, 3].map(|author| pubkey(author).to_string());
    let set = |field: &str, value: Value| {
        let mut request: Value = serde_json::from_str(&right).unwrap();
        request[field] = value;
        request.to_string()
    };
    let signature = set("sig", json!(by_another_signature(&by_another)));
    for (name, description) in [
        ("a signature of another", signature),
        ("another author under the customer's name", by_another.replace(&others, &own)),
        ("another content", set("content", json!("more"))),
        ("another time", set("created_at", json!(NOW))),
        ("another kind", json_of(&Draft { kind: 9_733, ..zap.request() })),
        ("two events", json_of(&zap.request().tag(&["e", &others]))),
        ("two payees", json_of(&zap.request().tag(&["p", &others]))),
        ("of a note", json_of(&zap.request().tag(&["k", "1"]))),
        ("of no kind", json_of(&zap.request().tag(&["k", "x"]))),
        ("another amount", json_of(&Zap { msat: ASKED + 1, ..zap.clone() }.request())),
        ("no event", json_of(&Draft { tags: vec![zap.request().tags[0].clone()], ..zap.request() })),
        ("no JSON", "{".to_owned()),
    ] {
        let forged = order.with(&[zap.receipt_of(&description)]);
        assert_eq!(paid_by(name, &forged), [0; 3], "{name}");
    }
    let invoice = |msat, described: &str| relay_market::testing::invoice(msat, described.as_bytes(), [1; 32]);
    for (name, bolt11) in [
        ("an invoice of another zap request", invoice(Some(ASKED), "other")),
        ("an invoice of another amount", invoice(Some(ASKED + 1), &right)),
        ("an invoice of any amount", invoice(None, &right)),
        ("no invoice", "lnbc1".to_owned()),
    ] {
        let forged = order.with(&[zap.receipt_with(&right, &bolt11)]);
        assert_eq!(paid_by(name, &forged), [0; 3], "{name}");
    }
}

fn by_another_signature(event: &str) -> String {
    let event: Value = serde_json::from_str(event).unwrap();
    event["sig"].as_str().unwrap().to_owned()
}

#[test]
fn the_provider_must_have_asked_for_it() {
    let Order { asked, result: without, .. } = Order::new();
    let pays = |msat: u64| zap_of(2, 1, &asked, msat, NOW - HOUR).receipt();
    let ask = |amount: &str| demand(1, &asked, amount, NOW - 2 * HOUR + 5);
    let with = |amount: &str| without.clone().tag(&["amount", amount]);
    let cases: [(&str, Vec<Draft>, [u64; 3]); 11] = [
        ("it has not", vec![without.clone(), pays(ASKED)], [0; 3]),
        ("somebody else has", vec![without.clone(), demand(3, &asked, "1", NOW), pays(ASKED)], [0; 3]),
        ("its result has an amount", vec![with("7000"), pays(7_000)], [1, 1, 7_000]),
        ("its result has a larger one", vec![with("7001"), pays(7_000)], [0; 3]),
        ("its result has none that can be read", vec![with("7000.5"), pays(ASKED)], [0; 3]),
        ("its result costs nothing", vec![with("0"), pays(ASKED)], [0; 3]),
        ("without an amount", vec![ask(""), without.clone(), pays(1)], [1, 1, 0]),
        (
            "the least of several",
            vec![ask("6000"), ask("5000"), ask(""), without.clone(), pays(5_000)],
            [1, 1, 5_000],
        ),
        (
            "feedback of another status",
            vec![reply(1, &asked, 7_000, NOW).tag(&["status", "processing"]), without.clone(), pays(ASKED)],
            [0; 3],
        ),
        ("beyond all bitcoin", vec![ask(&"9".repeat(40)), without.clone(), pays(ASKED)], [0; 3]),
        ("an amount, and one with the result", vec![ask("5000"), with("6000"), pays(5_000)], [1, 1, 5_000]),
    ];
    for (name, mut events, want) in cases {
        events.extend([asked.clone(), announcement(1, "shout", &["5050"], "5")]);
        assert_eq!(paid_by(name, &events), want, "{name}");
    }
}

/// What was a gift is none afterwards: the time that counts is that of what the customer has signed, and no receipt changes it.
#[test]
fn what_was_asked_for_later_is_not_paid() {
    let Order { asked, result: done, .. } = Order::new();
    let offer = announcement(1, "shout", &["5050"], "5");
    let with = |amount: &str, at: u64, zap: &Zap, receipt_at: u64| {
        let receipt = Draft { created_at: receipt_at, ..zap.receipt() };
        vec![offer.clone(), asked.clone(), done.clone(), demand(1, &asked, amount, at), receipt]
    };
    let zap = zap_of(2, 1, &asked, ASKED, NOW - 2 * HOUR);
    let tip = Zap { at: NOW - DAY - HOUR, ..zap.clone() };
    for (name, amount, at, zap, receipt_at, want) in [
        ("at the last second", "5000", tip.at + DAY, &tip, NOW, [1, 1, ASKED]),
        ("a second later", "5000", tip.at + DAY + 1, &tip, NOW, [0; 3]),
        ("without an amount", "", tip.at + DAY, &tip, NOW, [1, 1, 0]),
        ("without an amount, a second later", "", tip.at + DAY + 1, &tip, NOW, [0; 3]),
        ("asked first", "5000", NOW - 2 * HOUR, &zap, NOW, [1, 1, ASKED]),
    ] {
        assert_eq!(paid_by(name, &with(amount, at, zap, receipt_at)), want, "{name}");
    }
    let nothing_signed = Zap { names_amount: false, msat: 1 << 40, ..zap };
    let at = NOW - 2 * HOUR;
    assert_eq!(paid_by("a fortune", &with(&(1_u64 << 40).to_string(), at, &nothing_signed, NOW)), [0; 3]);
    assert_eq!(paid_by("whatever it is", &with("", at, &nothing_signed, NOW)), [1, 1, 0]);
}

/// Otherwise whoever has failed could ask for payment afterwards.
#[test]
fn a_demand_after_the_hour_changes_nothing() {
    let asked = request(2, 1, NOW - 2 * HOUR);
    for (late, want) in [(HOUR - 1, [0, 0, 1, 0, 0]), (HOUR, [0, 1, 0, 0, 0])] {
        let mut host = Host::new();
        let demand = demand(1, &asked, "5000", NOW - 2 * HOUR + late);
        let events = [announcement(1, "shout", &["5050"], "5"), asked.clone(), demand];
        host.apply(&events);
        assert_eq!(host.counts(), want, "{late}");
        let (recomputed, claimed) = recomputed(&host, 1, &events);
        assert_eq!(recomputed, claimed);
    }
}

/// Otherwise a customer without any money could make whoever asks for payment fail.
#[test]
fn what_is_paid_and_not_delivered_has_not_failed() {
    let Order { asked, demand, .. } = Order::new();
    let receipt = zap_of(2, 1, &asked, ASKED, NOW - HOUR).receipt();
    let mut host = Host::new();
    host.apply(&[announcement(1, "shout", &["5050"], "5"), asked.clone(), demand, receipt]);
    assert_eq!(host.counts(), [0, 0, 1, 0, 0]);
    let figures = &host.only()["figures"];
    assert_eq!((paid(figures), &figures["success_ratio_mean_of_customers"]), ([0; 3], &Value::Null));
    // It is when its result comes.
    host.apply(&[result(1, &asked, NOW)]);
    assert_eq!((host.counts(), paid(&host.only()["figures"])), ([1, 0, 0, 0, 1], [1, 1, ASKED]));
}

#[test]
fn answers_to_open_requests_are_not_paid() {
    let open = Draft::new(2, 5_050, NOW - HOUR);
    let receipt = zap_of(2, 1, &open, ASKED, NOW).receipt();
    let events = [
        announcement(1, "shout", &["5050"], "5"),
        open.clone(),
        result(1, &open, NOW).tag(&["amount", "5000"]),
        receipt,
    ];
    assert_eq!(paid_by("open", &events), [0; 3]);
}

/// Payment hashes are public: if they were compared, a receipt with a copied one could take a payment away. Two jobs of each of two customers.
#[test]
fn copied_payment_hashes_take_nothing_away() {
    let mut events = vec![announcement(1, "shout", &["5050"], "5")];
    let mut jobs = Vec::new();
    for (customer, before) in [(2, 9), (2, 8), (3, 7), (3, 6)] {
        let asked = request(customer, 1, NOW - before * HOUR);
        events.extend([result(1, &asked, NOW - HOUR).tag(&["amount", "5000"]), asked.clone()]);
        jobs.push((customer, asked));
    }
    let receipts = |hashes: [u8; 4]| {
        let pay = |((customer, asked), hash): (&(u8, Draft), u8)| {
            Zap { payment_hash: [hash; 32], ..zap_of(*customer, 1, asked, ASKED, NOW - u64::from(hash)) }
                .receipt()
        };
        let receipts: Vec<Draft> = jobs.iter().zip(hashes).map(pay).collect();
        [events.clone(), receipts].concat()
    };
    for hashes in [[1, 2, 3, 4], [1, 2, 1, 2], [1, 1, 1, 1]] {
        assert_eq!(paid_by("four payments", &receipts(hashes)), [4, 2, 4 * ASKED], "{hashes:?}");
    }
    // A forged receipt of the zap request of one job, before all others.
    let all = receipts([1, 2, 3, 4]);
    let zap = Zap { payment_hash: [2; 32], ..zap_of(2, 1, &jobs[0].1, ASKED, NOW - 1) };
    let request = json_of(&zap.request());
    let early = Zap { at: NOW - 9 * HOUR, signer: 77, ..zap };
    assert_eq!(paid_by("forged", &[all, vec![early.receipt_of(&request)]].concat()), [4, 2, 4 * ASKED]);
    // It pays no other job.
    let one = [events, vec![early.receipt_of(&request)]].concat();
    assert_eq!(paid_by("one", &one), [1, 1, ASKED]);
}

#[test]
fn paying_customers_weigh_more() {
    let mut host = Host::new();
    for (provider, name) in [(1, "unpaid"), (2, "paid"), (3, "zapped")] {
        host.apply(&[announcement(provider, name, &["5050"], "5")]);
        for customer in 10..14 {
            let asked = request(customer, provider, NOW - 2 * HOUR);
            let done = result(provider, &asked, NOW - HOUR);
            let done = if name == "zapped" { done } else { done.tag(&["amount", "5000"]) };
            host.apply(&[asked.clone(), done]);
            if name != "unpaid" {
                host.apply(&[zap_of(customer, provider, &asked, ASKED, NOW).receipt()]);
            }
        }
    }
    assert_eq!(host.names("limit=1"), ["paid"]);
    let listed = host.list("sort=customers");
    let by_name = |name: &str| {
        let providers = listed["providers"].as_array().unwrap();
        let found = providers.iter().find(|provider| provider["name"] == name).unwrap();
        let bound = found["figures"]["success_ratio_lower_bound_95"].as_f64().unwrap();
        (paid(&found["figures"]), bound)
    };
    assert_eq!(by_name("paid"), ([4, 4, 4 * ASKED], 0.51));
    // Without a demand of the provider's a zap is a gift.
    for name in ["unpaid", "zapped"] {
        assert_eq!(by_name(name), ([0; 3], 0.342), "half as many customers");
    }
}

/// What the proof shows of a payment, and that it is what anybody needs.
#[test]
fn a_proof_shows_the_demand_and_the_receipt() {
    let Order { asked, result: done, .. } = Order::new();
    let expires = (NOW + 600).to_string();
    let small = demand(1, &asked, "5000", NOW - HOUR).tag(&["expiration", &expires]);
    let zapped = demand(1, &asked, "6000", NOW - HOUR).tag(&["expiration", &expires]);
    let receipt = zap_of(2, 1, &zapped, 6_000, NOW).receipt();
    let mut host = Host::new();
    let events = [
        announcement(1, "shout", &["5050"], "5"),
        asked.clone(),
        done.clone(),
        small.clone(),
        zapped.clone(),
        receipt.clone(),
    ];
    host.apply(&events);
    host.pass(2 * HOUR);
    let proof = host.proof(1);
    let job = &proof["jobs"][0];
    let id = |draft: &Draft| json!(draft.event().id.to_string());
    assert_eq!((&job["request"], &job["result"]), (&id(&asked), &id(&done)));
    assert_eq!(job["payment_required"], Value::Null);
    assert_eq!(
        (&job["payment"]["demand"]["id"], &job["payment"]["zapped"]["id"]),
        (&id(&small), &id(&zapped))
    );
    assert_eq!(job["payment"]["receipt"], id(&receipt));
    assert_eq!((paid(&proof["figures"]), &proof["receipts_since"]), ([1, 1, 5_000], &json!(0)));
    // What has expired nobody else serves.
    let served = [&asked, &done, &receipt].map(Draft::clone);
    let (found, claimed) = recomputed(&host, 1, &served);
    assert_eq!(found, claimed);
    // What is the same event is shown whole once.
    let all: Vec<Event> = events.iter().map(Draft::event).collect();
    let mut host = Host::new();
    let whole = result(1, &asked, NOW).tag(&["amount", "5000"]).tag(&["expiration", &expires]);
    host.apply_events(&all[..2]);
    host.apply(&[whole.clone(), zap_of(2, 1, &whole, ASKED, NOW).receipt()]);
    host.pass(2 * HOUR);
    let proof = host.proof(1);
    let job = &proof["jobs"][0];
    assert_eq!((&job["result"]["id"], &job["payment"]["demand"]), (&id(&whole), &id(&whole)));
    let (found, claimed) = recomputed(&host, 1, &[asked, zap_of(2, 1, &whole, ASKED, NOW).receipt()]);
    assert_eq!((&found, paid(&claimed)), (&claimed, [1, 1, ASKED]));
}

/// A demand that has expired and was too large to be kept cannot be shown: the job is delivered, and paid no more.
#[test]
fn a_demand_that_is_gone_does_not_count() {
    let Order { asked, result: done, .. } = Order::new();
    let large = demand(1, &asked, "5000", NOW - HOUR).tag(&["expiration", &(NOW + 600).to_string()]);
    let large = large.content(&"x".repeat(5_000));
    let mut host = Host::new();
    let receipt = zap_of(2, 1, &asked, ASKED, NOW).receipt();
    host.apply(&[announcement(1, "shout", &["5050"], "5"), asked, done, large, receipt]);
    assert_eq!(paid(&host.only()["figures"]), [1, 1, ASKED]);
    host.pass(HOUR);
    assert_eq!((paid(&host.only()["figures"]), host.counts()), ([0; 3], [1, 0, 0, 0, 1]));
    assert_eq!(host.proof(1)["expired"], json!([]));
}
