//! Proof of work where a minimum is set (NIP-13).

use super::stage::Stage;
use super::{Case, case_with};
use crate::relay::Config;
use crate::testing::signing::{Signed, event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case_with("work: the id's bits and a committed target count", eight_bits, bits_and_target),
        case_with("work: a commitment is not required", eight_bits, no_commitment),
        case_with("work: a commitment, where it is required", committed_eight_bits, commitment_required),
    ]
}

fn eight_bits(config: &mut Config) {
    config.limits.pow_bits_min = 8;
}

fn committed_eight_bits(config: &mut Config) {
    eight_bits(config);
    config.policy.pow_commitment_required = true;
}

/// Events with eight bits that commit to no target: without a nonce, without a target, with a target that is not a number.
fn uncommitted(stage: &Stage<'_>) -> [Signed; 3] {
    let draft = |content: &str| event(&key(1)).at(stage.t).content(content);
    let mut lucky = (0..).map(|n: u32| draft(&n.to_string()).sign());
    let lucky = lucky.find(|event| event.id.starts_with("00")).expect("one in 256 has eight zeros");
    [lucky, draft("without").mine(8, ""), draft("garbled").mine(8, "eight")]
}

/// NIP-13: the `nonce` tag SHOULD have a target. Mined events without it were refused once.
fn no_commitment(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    conn.accept_all(&uncommitted(stage));
    conn.refuse(&event(&key(1)).at(stage.t).content("lucky").mine(8, "7"), "pow");
    conn.refuse(&lazy_of(stage, 1), "pow");
}

fn commitment_required(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    for event in uncommitted(stage) {
        conn.refuse(&event, "pow");
    }
    conn.accept(&event(&key(1)).at(stage.t).mine(8, "8"));
}

fn bits_and_target(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let draft = |content: &str| event(&key(1)).at(stage.t).content(content);
    let mut lazy = 0..;
    // Without proof of work, whatever target is claimed.
    for target in ["8", "20"] {
        let event = loop {
            let content = format!("{}", lazy.next().expect("numbers go on"));
            let event = draft(&content).tag(["nonce", "0", target]).sign();
            if !event.id.starts_with("00") {
                break event;
            }
        };
        conn.refuse(&event, "pow");
    }
    for (bits, target) in [(8, "8"), (9, "8"), (9, "9"), (8, "008")] {
        conn.accept(&draft(&format!("{bits} and {target}")).mine(bits, target));
    }
    // Enough zero bits without the committed target do not count.
    for target in ["7", "0", "1"] {
        conn.refuse(&draft(&format!("lucky {target}")).mine(8, target), "pow");
    }
    // Ephemeral and replaceable events need it too.
    conn.refuse(&lazy_of(stage, 20_000), "pow");
    conn.accept(&event(&key(1)).kind(20_000).at(stage.t).mine(8, "8"));
    conn.refuse(&lazy_of(stage, 0), "pow");
    // A forged id does not count.
    let event = draft("forged").mine(8, "8");
    let (accepted, _) = conn.publish_as(&event.id, &event.fields().set("content", "\"cheap\"").json());
    assert!(!accepted, "an id with zeros that is not the hash");
}

fn lazy_of(stage: &Stage<'_>, kind: u16) -> Signed {
    let mut events = (0..).map(|n: u32| event(&key(1)).kind(kind).at(stage.t).content(n.to_string()).sign());
    events.find(|event| !event.id.starts_with("00")).expect("most ids have no zeros")
}
