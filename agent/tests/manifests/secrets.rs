//! Secrets go by name. One in a manifest is refused, and not repeated in the message.

use serde_json::{Value, json};

use super::{check_refused, parse, set, whole};

const INLINE: &str =
    "is or contains a secret; a manifest gives the name of a secret, whose value the host keeps";
const TOKEN_NAME: &str =
    "must be the name of a secret, AGENT_ and upper case letters, digits or _, and not the master secret";
const KEY_NAME: &str = "must be the name of a secret, NOSTR_PRIVATE_KEY or AGENT_ and upper case letters, digits or _, \
                        and not the master secret";

const NSEC: &str = "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp";

#[track_caller]
fn check(path: &str, value: &str, message: &str) {
    let mut manifest = whole();
    set(&mut manifest, path, value.into());
    check_refused(&manifest, path, message);
    let said = parse(&manifest).expect_err("refused").to_string();
    assert!(value.len() < 20 || !said.contains(value), "{said}");
}

#[test]
fn secrets_are_refused_wherever_they_stand() {
    for path in [
        "name",
        "about",
        "owner",
        "metadata.any[0]",
        "metadata.any[1].thing",
        "handlers[0].config.system",
        "handlers[0].config.api_key",
        "handlers[0].params.lang.default",
        "handlers[4].config.url",
        "schedules[0].input",
        "tags[0]",
        "surprise",
    ] {
        check(path, NSEC, INLINE);
        check(path, &format!("my key is \"{}\".", NSEC.to_uppercase()), INLINE);
        check(path, "nostr+walletconnect://b889?relay=wss%3A%2F%2Frelay&secret=71a8", INLINE);
        check(path, "sk-proj-0123456789abcdef", INLINE);
    }
    check("metadata.signer", "bunker://b889?secret=1", INLINE);
    for name in ["nwc_uri", "NSEC", "private_key", "mnemonic", "password"] {
        check(&format!("metadata.{name}"), "anything", INLINE);
        check(name, "anything", INLINE);
    }
    // Also as a name, which is not shown.
    let mut manifest = whole();
    set(&mut manifest, "metadata", json!({ NSEC: 1 }));
    check_refused(&manifest, "metadata", INLINE);
    set(&mut manifest, "metadata", json!({}));
    set(&mut manifest, NSEC, 1.into());
    check_refused(&manifest, ".", INLINE);
}

#[test]
fn what_is_no_secret() {
    for (path, value) in [
        ("about", json!("Give me no nsec1 and no sk-1.")),
        ("about", json!("risk-averse task-management-for-everybody")),
        ("metadata.password", json!("")),
        ("metadata.password", Value::Null),
        ("metadata.mnemonic", json!(true)),
        ("metadata.id", json!("npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6")),
    ] {
        let mut manifest = whole();
        set(&mut manifest, path, value);
        assert!(parse(&manifest).is_ok(), "{path}");
    }
}

/// A manifest reads no secret of the host's, and sends no private key to others.
#[test]
fn names_of_secrets() {
    for path in ["handlers[0].config.api_key", "handlers[5].config.token"] {
        for name in [
            "",
            "PATH",
            "METRICS_TOKEN",
            "NOSTR_PRIVATE_KEY",
            "AGENT_MASTER_SECRET",
            "AGENT_",
            "AGENT_a",
            "AGENT-A",
            "agent_key",
            "AGENT_KEY ",
            "AGENT_../../owner.key",
            "AGENT_A/B",
            "hunter2",
        ] {
            check(path, name, TOKEN_NAME);
        }
        check(path, &format!("AGENT_{}", "A".repeat(59)), TOKEN_NAME);
        let mut manifest = whole();
        set(&mut manifest, path, format!("AGENT_{}", "9".repeat(58)).into());
        assert!(parse(&manifest).is_ok());
    }
    let imported = |name: &str| {
        let mut manifest = whole();
        set(&mut manifest, "identity", json!({"imported": {"secret": name}}));
        manifest
    };
    for name in ["", "HOME", "AGENT_MASTER_SECRET", "NOSTR_PRIVATE_KEY_2", "agent_key"] {
        check_refused(&imported(name), "identity.imported.secret", KEY_NAME);
    }
    check_refused(&imported(NSEC), "identity.imported.secret", INLINE);
    for name in ["NOSTR_PRIVATE_KEY", "AGENT_KEY_2"] {
        assert!(parse(&imported(name)).is_ok(), "{name}");
    }
}

/// Serde's messages repeat values; ours do not.
#[test]
fn no_message_repeats_a_value() {
    let secret = "hunter2-hunter2-hunter2";
    for path in [
        "schema",
        "owner",
        "identity",
        "handlers",
        "handlers[0].kind",
        "handlers[0].executor",
        "handlers[0].config",
        "handlers[0].config.api_key",
        "handlers[0].config.max_tokens",
        "handlers[0].inputs[0]",
        "handlers[0].price.model",
        "limits.queue",
        "announce",
        "payment.policy",
        "relays[0]",
    ] {
        let mut manifest = whole();
        set(&mut manifest, path, secret.into());
        let said = parse(&manifest).expect_err(path).to_string();
        assert!(!said.contains("hunter2"), "{said}");
    }
}
