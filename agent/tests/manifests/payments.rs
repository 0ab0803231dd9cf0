//! What a manifest says of payment.

use relay_agent::manifest::Manifest;
use serde_json::{Value, json};

use super::{check_changed, check_refused, parse, set, whole};

const UNKNOWN: &str = "is not a known field";

fn check(path: &str, value: impl Into<Value>, message: &str) {
    check_changed(whole(), path, value, path, message);
}

/// A manifest with a price that is paid before the work.
fn prepaid() -> Value {
    let mut manifest = whole();
    set(&mut manifest, "payment", json!({"policy": "prepay", "wallet_ref": "AGENT_WALLET"}));
    set(&mut manifest, "handlers[0].price", json!({"model": "per_job", "msat": 21_000}));
    manifest
}

fn public_of(manifest: &Manifest) -> Value {
    manifest.public_json(&relay_engine::types::PubKey([1; 32]))
}

/// A price, a policy and a wallet belong together.
#[test]
fn payment() {
    let check_payment =
        |payment: Value, path: &str, message: &str| check_changed(whole(), "payment", payment, path, message);
    let wallet = "is required with this policy: the name of the secret with the wallet's connection string";
    for policy in ["prepay", "postpay", "sample", "hold"] {
        check_payment(json!({"policy": policy}), "payment.wallet_ref", wallet);
    }
    for name in ["WALLET", "AGENT_MASTER_SECRET", "AGENT_wallet"] {
        let message = "must be the name of a secret, AGENT_ and upper case letters, digits or _, and not the master secret";
        check_payment(json!({"policy": "prepay", "wallet_ref": name}), "payment.wallet_ref", message);
    }
    let prepay = json!({"policy": "prepay", "wallet_ref": "AGENT_WALLET"});
    check_payment(prepay.clone(), "payment.policy", "needs a handler with a price");
    check("payment.wallet_ref", "AGENT_WALLET", "is of no use with policy free");
    check("payment.free_quota", 1_000_001, "must be from 0 to 1000000");
    check("payment.rails", json!(["lightning"]), UNKNOWN);
    let mut manifest = prepaid();
    let read = parse(&manifest).expect("a manifest");
    assert_eq!(read.handlers[0].price.msat(), 21_000);
    assert!(read.secret_names().any(|name| name == "AGENT_WALLET"));
    let public = public_of(&read);
    assert_eq!(public["payment"], json!({"policy": "prepay", "free_quota": 0, "refund": "credit"}));
    assert_eq!(public["handlers"][0]["price"], json!({"model": "per_job", "msat": 21_000}));
    // What is not paid is bounded.
    let mut later = manifest.clone();
    set(&mut later, "payment.unpaid_max", 3.into());
    check_refused(&later, "payment.unpaid_max", "is of no use without payment.policy postpay or sample");
    let mut later = manifest.clone();
    set(&mut later, "payment.policy", "postpay".into());
    let read = parse(&later).expect("a manifest");
    assert_eq!(read.payment.unpaid_limit(), 3);
    let public = public_of(&read);
    let shown = json!({"policy": "postpay", "free_quota": 0, "refund": "credit", "unpaid_max": 3});
    assert_eq!(public["payment"], shown);
    for max in [0, 1_001] {
        set(&mut later, "payment.unpaid_max", max.into());
        check_refused(&later, "payment.unpaid_max", "must be from 1 to 1000");
    }
    // A sample is a part.
    for (field, max) in [("payment.sample_chars", 2_000), ("payment.sample_percent", 50)] {
        let mut sampling = manifest.clone();
        set(&mut sampling, field, 1.into());
        check_refused(&sampling, field, "is of no use without payment.policy sample");
        set(&mut sampling, "payment.policy", "sample".into());
        assert!(parse(&sampling).is_ok());
        for value in [0, max + 1] {
            set(&mut sampling, field, value.into());
            check_refused(&sampling, field, &format!("must be from 1 to {max}"));
        }
    }
    let mut sampling = manifest.clone();
    set(&mut sampling, "payment.policy", "sample".into());
    let public = public_of(&parse(&sampling).expect("a manifest"));
    let shown = json!({
        "policy": "sample", "free_quota": 0, "refund": "credit", "unpaid_max": 3, "sample_chars": 280, "sample_percent": 20
    });
    assert_eq!(public["payment"], shown);
    // A payment is held for longer than the work takes.
    let mut holding = manifest.clone();
    set(&mut holding, "payment.hold_s", 600.into());
    check_refused(&holding, "payment.hold_s", "is of no use without payment.policy hold");
    set(&mut holding, "payment.policy", "hold".into());
    for seconds in [59, 21_601] {
        set(&mut holding, "payment.hold_s", seconds.into());
        check_refused(&holding, "payment.hold_s", "must be from 60 to 21600");
    }
    set(&mut holding, "payment.hold_s", 600.into());
    set(&mut holding, "limits.timeout_s", 600.into());
    check_refused(&holding, "payment.hold_s", "must be more than limits.timeout_s, which is 600");
    set(&mut holding, "limits.timeout_s", 599.into());
    let public = public_of(&parse(&holding).expect("a manifest"));
    let shown = json!({"policy": "hold", "free_quota": 0, "refund": "credit", "hold_s": 600});
    assert_eq!(public["payment"], shown);
    let mut holding = manifest.clone();
    set(&mut holding, "payment.policy", "hold".into());
    assert_eq!(parse(&holding).expect("a manifest").payment.hold_seconds(), Some(3_600));
    set(&mut holding, "limits.timeout_s", 3_600.into());
    check_refused(&holding, "payment.hold_s", "must be more than limits.timeout_s, which is 3600");
    // Zaps are payments at once, to a Lightning address.
    check("payment.zap", "agent@pay.example", "is of no use with policy free");
    check("payment.zap_check", "receipt", "is of no use without payment.zap");
    let mut zapped = manifest.clone();
    set(&mut zapped, "payment.zap_check", "wallet".into());
    check_refused(&zapped, "payment.zap_check", "is of no use without payment.zap");
    set(&mut zapped, "payment.zap_check", "both".into());
    check_refused(&zapped, "payment.zap_check", "must be one of: wallet, receipt");
    set(&mut zapped, "payment.zap_check", "receipt".into());
    for address in
        ["", "agent", "agent@", "Agent@pay.example", "agent@pay.example/x", "agent@10.0.0.1", "lnurl1x"]
    {
        set(&mut zapped, "payment.zap", address.into());
        let words = "must be a Lightning address: name@domain, in lower case";
        check_refused(&zapped, "payment.zap", words);
    }
    set(&mut zapped, "payment.zap", "agent@pay.example".into());
    for policy in ["prepay", "postpay", "sample"] {
        set(&mut zapped, "payment.policy", policy.into());
        let public = public_of(&parse(&zapped).expect("a manifest"));
        assert_eq!(public["payment"]["zap"], "agent@pay.example");
    }
    set(&mut zapped, "payment.policy", "hold".into());
    check_refused(&zapped, "payment.zap", "is of no use with policy hold: zaps are not held");
    // What is paid out is bounded.
    check("payment.refund", "invoice", "is of no use with policy free");
    set(&mut manifest, "payment.refund", "invoice".into());
    let range = "must be from 1 to 1000000000000";
    for spend in [0_u64, 1_000_000_000_001] {
        set(&mut manifest, "limits.daily_spend_msat", spend.into());
        check_refused(&manifest, "limits.daily_spend_msat", range);
    }
    set(&mut manifest, "limits.daily_spend_msat", 50_000.into());
    assert_eq!(parse(&manifest).expect("a manifest").limits.daily_spend_msat, 50_000);
}

#[test]
fn splits() {
    let two = || {
        let mut manifest = prepaid();
        set(&mut manifest, "payment.splits", json!([split("a@pay.example", 70), split("b@pay.example", 30)]));
        set(&mut manifest, "limits.daily_spend_msat", 2_000_000.into());
        manifest
    };
    let read = parse(&two()).expect("a manifest");
    assert_eq!((read.payment.splits.len(), read.payment.splits_min_msat()), (2, 1_000_000));
    assert!(!public_of(&read).to_string().contains("pay.example"), "shares are not the customers' business");
    let check = |changed: &str, value: Value, path: &str, message: &str| {
        check_changed(two(), changed, value, path, message);
    };
    let address = "must be a Lightning address: name@domain, in lower case";
    let least = "must be at least payment.splits_min_msat, or twice as much with payment.refund invoice, or shares would never be paid";
    for (changed, value, path, message) in [
        ("payment.splits[1].address", json!("b"), "payment.splits[1].address", address),
        ("payment.splits[1].address", json!("a@pay.example"), "payment.splits[1].address", "is there twice"),
        ("payment.splits[1].percent", json!(0), "payment.splits[1].percent", "must be from 1 to 100"),
        ("payment.splits[1].percent", json!(31), "payment.splits", "are more than 100 percent together"),
        ("payment.splits[1].name", json!("Bob"), "payment.splits[1].name", UNKNOWN),
        (
            "payment.zap",
            json!("b@pay.example"),
            "payment.splits[1].address",
            "is the agent's own (payment.zap)",
        ),
        (
            "payment.splits_min_msat",
            json!(99_999),
            "payment.splits_min_msat",
            "must be from 100000 to 1000000000000",
        ),
        ("payment.splits_min_msat", json!(2_000_001), "limits.daily_spend_msat", least),
        ("limits.daily_spend_msat", json!(999_999), "limits.daily_spend_msat", least),
        ("limits.daily_spend_msat", json!(0), "limits.daily_spend_msat", "must be from 1 to 1000000000000"),
        (
            "limits.approval_msat",
            json!(5),
            "limits.approval_msat",
            "is of no use without payment.refund invoice",
        ),
    ] {
        check(changed, value, path, message);
    }
    let nine: Vec<_> = (0..9).map(|at| split(&format!("{at}@pay.example"), 1)).collect();
    check("payment.splits", json!(nine), "payment.splits", "has more than 8 recipients");
    let splits = json!([split("a@pay.example", 1)]);
    check_changed(
        whole(),
        "payment.splits",
        splits,
        "limits.daily_spend_msat",
        "must be from 1 to 1000000000000",
    );
    let mut free = whole();
    set(&mut free, "limits.daily_spend_msat", 2_000_000.into());
    check_changed(
        free,
        "payment.splits",
        json!([split("a@pay.example", 1)]),
        "payment.splits",
        "is of no use with policy free",
    );
    check_changed(
        prepaid(),
        "payment.splits_min_msat",
        10_000,
        "payment.splits_min_msat",
        "is of no use without payment.splits",
    );
}

fn split(address: &str, percent: u32) -> Value {
    json!({"address": address, "percent": percent})
}
