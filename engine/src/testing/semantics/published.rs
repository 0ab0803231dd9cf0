//! Events that the host publishes itself, as clients see them. Skipped for relays under test whose host cannot publish.

use serde_json::json;

use super::stage::Stage;
use super::{Case, case, case_with};
use crate::relay::{Config, PublishOutcome};
use crate::testing::signing::{Signed, event, key};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("published: stored, served and sent live like any event", like_any_event),
        case("published: again is a duplicate, so that callers may repeat", again),
        case("published: replaces and deletes by the same rules", replaces_and_deletes),
        case_with("published: what is wrong is refused with a reason", few_tags, what_is_wrong),
        case("published: what is too new may be published again when its time has come", from_the_future),
        case_with("published: rules for clients do not apply to the host's own events", strict, not_held_up),
        case("published: ephemeral events are delivered", ephemeral),
    ]
}

/// The outcome; ends the case if the relay cannot publish.
macro_rules! publish {
    ($stage:expr, $event:expr) => {
        match $stage.publish($event) {
            Some(outcome) => outcome,
            None => return,
        }
    };
}

fn like_any_event(stage: &mut Stage<'_>) {
    let mut watcher = stage.open();
    stage.watch(&mut watcher, "live", json!({"kinds": [6_000]}));
    let result = event(&key(1)).kind(6_000).at(stage.t).content("done").sign();
    let outcome = publish!(stage, &result);
    assert!(matches!(outcome, PublishOutcome::Stored(_)), "{outcome:?}");
    let mut other = stage.open();
    assert_eq!(stage.settle(&mut other, &mut watcher, "live"), std::slice::from_ref(&result.id));
    assert_eq!(other.ask(json!({"kinds": [6_000]})).ids(), std::slice::from_ref(&result.id));
    let (accepted, message) = other.publish(&result);
    assert!(accepted && message.starts_with("duplicate: "), "{message}");
}

fn again(stage: &mut Stage<'_>) {
    let note = event(&key(1)).at(stage.t).sign();
    publish!(stage, &note);
    assert_eq!(publish!(stage, &note), PublishOutcome::Duplicate);
    let mut client = stage.open();
    let theirs = event(&key(2)).at(stage.t).sign();
    client.accept(&theirs);
    assert_eq!(publish!(stage, &theirs), PublishOutcome::Duplicate);
}

fn replaces_and_deletes(stage: &mut Stage<'_>) {
    let versions: Vec<Signed> =
        (0..3).map(|n| event(&key(1)).kind(0).at(stage.t - 10 + n).content(n.to_string()).sign()).collect();
    publish!(stage, &versions[1]);
    assert_eq!(publish!(stage, &versions[0]), PublishOutcome::Superseded);
    assert!(publish!(stage, &versions[2]).is_accepted());
    let mut client = stage.open();
    assert_eq!(client.ask(json!({"kinds": [0]})).ids(), [versions[2].id.clone()]);
    let deletion = event(&key(1)).kind(5).at(stage.t).tag(["e", &versions[2].id]).sign();
    assert!(publish!(stage, &deletion).is_accepted());
    assert!(client.ask(json!({"kinds": [0]})).ids().is_empty());
    let outcome = publish!(stage, &versions[2]);
    assert!(
        matches!(&outcome, PublishOutcome::Refused(message) if message.starts_with("blocked: ")),
        "{outcome:?}"
    );
}

fn few_tags(config: &mut Config) {
    config.limits.event_tags_max = 100;
}

fn what_is_wrong(stage: &mut Stage<'_>) {
    let at = stage.t;
    let cases = [
        ("forged", event(&key(1)).at(at).sign().forged()),
        ("expired", event(&key(1)).at(at).tag(["expiration", "1"]).sign()),
        ("too many tags", (0..101).fold(event(&key(1)).at(at), |draft, _| draft.tag(["t", "x"])).sign()),
    ];
    let mut client = stage.open();
    for (what, wrong) in cases {
        let outcome = publish!(stage, &wrong);
        let (PublishOutcome::Forged(message) | PublishOutcome::Refused(message)) = &outcome else {
            panic!("{what}: {outcome:?}");
        };
        assert!(message.contains(": "), "{what}: {message}");
        assert_eq!(matches!(outcome, PublishOutcome::Forged(_)), what == "forged", "{what}");
        assert!(client.ask(json!({"ids": [wrong.id]})).ids().is_empty(), "{what}");
    }
}

/// The clock that signed it is ahead, or the relay's has been set back.
fn from_the_future(stage: &mut Stage<'_>) {
    let early = event(&key(1)).at(stage.t + 1_000_000).sign();
    let outcome = publish!(stage, &early);
    assert!(
        matches!(&outcome, PublishOutcome::Failed(message) if message.starts_with("invalid: created_at")),
        "{outcome:?}"
    );
    let mut client = stage.open();
    assert!(client.ask(json!({"ids": [early.id]})).ids().is_empty());
    let (accepted, message) = client.publish(&early);
    assert!(!accepted && message.starts_with("invalid: created_at"), "{message}");
}

fn strict(config: &mut Config) {
    config.policy.auth_required = true;
    config.policy.allow_pubkeys = Some(vec![]);
    config.policy.deny_kinds = vec![1];
    config.limits.pow_bits_min = 30;
    config.limits.events_per_minute_max = 2;
}

fn not_held_up(stage: &mut Stage<'_>) {
    for n in 0..5 {
        let note = event(&key(1)).at(stage.t).tag(["-"]).content(n.to_string()).sign();
        let outcome = publish!(stage, &note);
        assert!(matches!(outcome, PublishOutcome::Stored(_)), "{outcome:?}");
    }
}

fn ephemeral(stage: &mut Stage<'_>) {
    let mut watcher = stage.open();
    stage.watch(&mut watcher, "live", json!({"kinds": [20_002]}));
    let beat = event(&key(1)).kind(20_002).at(stage.t).sign();
    assert_eq!(publish!(stage, &beat), PublishOutcome::Delivered);
    let mut other = stage.open();
    assert_eq!(stage.settle(&mut other, &mut watcher, "live"), [beat.id]);
    assert!(other.ask(json!({"kinds": [20_002]})).ids().is_empty());
}
