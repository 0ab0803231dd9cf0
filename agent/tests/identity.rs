//! Keys: signing as the engine verifies it, NIP-06, NIP-19, NIP-05, and where an agent's key comes from.

use nostr::JsonUtil as _;
use nostr::nips::nip06::FromMnemonic as _;
use proptest::prelude::*;
use relay_agent::identity::{
    Draft, Keys, MASTER_SECRET, Master, Sign as _, account_of, keys, new_mnemonic, nip05_name, npub,
    parse_pubkey,
};
use relay_agent::manifest::{Identity, Manifest};
use relay_engine::types::PubKey;
use relay_engine::verify::{Libsecp256k1, verify_one};
use relay_engine::wire;
use serde_json::json;
use sha2::{Digest, Sha256};

fn key(number: u8) -> Keys {
    let mut secret = [0; 32];
    secret[31] = number;
    Keys::from_secret_bytes(secret).expect("not zero")
}

fn draft(kind: u16, tags: &[&[&str]], content: &str) -> Draft {
    Draft {
        created_at: 1_700_000_000,
        kind,
        tags: tags.iter().map(|tag| tag.iter().map(|text| (*text).to_owned()).collect()).collect(),
        content: content.to_owned(),
    }
}

/// What the engine and rust-nostr, which share no code, make of a signed event.
fn check_signed(keys: &Keys, draft: &Draft) {
    let event = keys.sign(draft);
    let read = wire::parse_event(event.json()).expect("the engine reads it");
    assert_eq!(read.compute_id(), event.id, "the id is the hash of the fields");
    assert_eq!(read.to_event(), event, "the JSON is canonical");
    assert_eq!(read.content(), draft.content);
    assert!(verify_one(&Libsecp256k1, event.clone()).is_some(), "the signature is the author's");
    assert_eq!((event.pubkey, event.created_at, event.kind), (keys.pubkey(), draft.created_at, draft.kind));

    let theirs = nostr::Event::from_json(event.json()).expect("rust-nostr reads it");
    theirs.verify().expect("rust-nostr verifies it");
    let tags: Vec<_> = theirs.tags.iter().map(|tag| tag.as_slice().to_vec()).collect();
    let full: Vec<_> = draft.tags.iter().filter(|tag| !tag.is_empty()).cloned().collect();
    assert_eq!((tags, &theirs.content), (full, &draft.content));

    assert_eq!(keys.sign(draft), event, "the same draft is the same event");
}

#[test]
fn signed_events_are_valid() {
    check_signed(&key(1), &draft(6050, &[&["e", "0".repeat(64).as_str()], &["status", "success"]], "hello"));
    check_signed(&key(1), &draft(0, &[], ""));
    check_signed(
        &key(2),
        &draft(65_535, &[&[""], &["", ""]], "\"\\\n\r\t\u{8}\u{c}\u{0}\u{1f}\u{7f}\u{2028} ü 🤖"),
    );
    check_signed(&key(3), &Draft { created_at: 0, ..draft(1, &[&["a\"b", "\u{1}"]], "x") });
}

#[test]
fn a_tag_without_strings_is_left_out() {
    check_signed(&key(1), &draft(1, &[&[], &["t", "x"], &[]], ""));
    check_signed(&key(1), &draft(1, &[&[]], ""));
}

/// The signature is over the id itself. Over its hash, as some agents have signed, no relay takes it.
#[test]
fn the_id_is_signed_not_its_hash() {
    let event = key(1).sign(&draft(1, &[], "hello"));
    let sig = secp256k1::schnorr::Signature::from_byte_array(event.sig().0);
    let author = secp256k1::XOnlyPublicKey::from_byte_array(event.pubkey.0).expect("a key");
    assert!(secp256k1::schnorr::verify(&sig, &event.id.0, &author).is_ok());
    assert!(secp256k1::schnorr::verify(&sig, &Sha256::digest(event.id.0), &author).is_err());
}

proptest! {
    #[test]
    fn any_draft_is_signed_validly(
        number in 1..=255u8,
        created_at in 0..=wire::CREATED_AT_MAX,
        kind: u16,
        tags in prop::collection::vec(prop::collection::vec(any::<String>(), 0..4), 0..6),
        content: String,
    ) {
        let event = key(number).sign(&Draft { created_at, kind, tags, content });
        let read = wire::parse_event(event.json()).expect("the engine reads it");
        prop_assert_eq!(read.compute_id(), event.id);
        prop_assert_eq!(read.to_event(), event.clone());
        prop_assert!(verify_one(&Libsecp256k1, event).is_some());
    }
}

/// The vectors of NIP-06: mnemonic, private key, nsec, public key, npub.
const NIP06: [[&str; 5]; 2] = [
    [
        "leader monkey parrot ring guide accident before fence cannon height naive bean",
        "7f7ff03d123792d6ac594bfa67bf6d0c0ab55b6b1fdb6249303fe861f1ccba9a",
        "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp",
        "17162c921dc4d2518f9a101db33695df1afb56ab82f5ff3e5da6eec3ca5cd917",
        "npub1zutzeysacnf9rru6zqwmxd54mud0k44tst6l70ja5mhv8jjumytsd2x7nu",
    ],
    [
        "what bleak badge arrange retreat wolf trade produce cricket blur garlic valid proud rude strong choose busy \
         staff weather area salt hollow arm fade",
        "c15d739894c81a2fcfd3a2df85a0d2c0dbc47a280d092799f144d73d7ae78add",
        "nsec1c9wh8xy5eqdzln7n5t0ctgxjcrdug73gp5yj0x03gntn67h83twssdfhel",
        "d41b22899549e1f3d335a31002cfd382174006e166d3e658e3a5eecdb6463573",
        "npub16sdj9zv4f8sl85e45vgq9n7nsgt5qphpvmf7vk8r5hhvmdjxx4es8rq74h",
    ],
];

#[test]
fn nip06_vectors() {
    for [mnemonic, secret, nsec, pubkey, npub] in NIP06 {
        let master = Master::parse(mnemonic).expect("a mnemonic");
        let derived = master.keys(0).expect("an account");
        assert_eq!(derived.nsec(), nsec);
        assert_eq!(derived.pubkey().to_string(), pubkey);
        assert_eq!(derived.npub(), npub);
        for text in [secret, nsec, &secret.to_uppercase(), &format!("  {nsec}\n")] {
            assert_eq!(Keys::parse(text).expect("a key").pubkey().to_string(), pubkey, "{text}");
        }
        for text in [pubkey, npub, &pubkey.to_uppercase(), &npub.to_uppercase()] {
            assert_eq!(parse_pubkey(text).expect("a key").to_string(), pubkey, "{text}");
        }
        // The seed is the same master.
        let seed = Master::parse(&master.seed_hex()).expect("a seed");
        assert_eq!(seed.keys(0).expect("an account").pubkey(), derived.pubkey());
    }
}

#[test]
fn accounts_are_those_of_rust_nostr() {
    for account in [0, 1, 7, 1 << 20, (1 << 31) - 1] {
        let mnemonic = NIP06[0][0];
        let ours = Master::parse(mnemonic).expect("a mnemonic").keys(account).expect("an account");
        let theirs =
            nostr::Keys::from_mnemonic_with_account(mnemonic, None::<&str>, Some(account)).expect("keys");
        assert_eq!(ours.pubkey().to_string(), theirs.public_key().to_hex(), "account {account}");
    }
    assert!(Master::parse(NIP06[0][0]).expect("a mnemonic").keys(1 << 31).is_err());
}

#[test]
fn a_new_mnemonic_is_a_master_secret() {
    let mnemonic = new_mnemonic([7; 32]);
    assert_eq!(mnemonic.split(' ').count(), 24);
    let ours = Master::parse(&mnemonic).expect("it is read").keys(0).expect("an account");
    let theirs = nostr::Keys::from_mnemonic(mnemonic.as_str(), None).expect("keys");
    assert_eq!(ours.pubkey().to_string(), theirs.public_key().to_hex());
    assert_ne!(new_mnemonic([8; 32]), mnemonic);
}

#[test]
fn what_is_no_private_key() {
    let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
    let (nsec, npub) = (NIP06[0][2], NIP06[0][4]);
    for text in [
        "",
        "0",
        &"0".repeat(64),
        order,
        &"1".repeat(63),
        &"1".repeat(65),
        &"g".repeat(64),
        npub,
        &nsec.replace("lhhkp", "lhhkq"),
        &nsec[..nsec.len() - 1],
        &format!("{nsec}{nsec}"),
        "nsec1",
        &bech32::encode::<bech32::Bech32m>(bech32::Hrp::parse_unchecked("nsec"), &[1; 32]).expect("short"),
        &bech32::encode::<bech32::Bech32>(bech32::Hrp::parse_unchecked("nsec"), &[1; 31]).expect("short"),
        "ü".repeat(32).as_str(),
    ] {
        assert!(Keys::parse(text).is_err(), "{text}");
    }
}

#[test]
fn what_is_no_public_key() {
    for text in
        ["", NIP06[0][2], "npub1", &"f".repeat(64), &"0".repeat(64), &"1".repeat(63), "nobody@example.com"]
    {
        assert_eq!(parse_pubkey(text), None, "{text}");
    }
}

fn key_of(identity: &Identity, name: &str, secrets: &[(&str, &str)]) -> Result<String, String> {
    let get =
        |wanted: &str| secrets.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned());
    keys(identity, name, &get).map(|keys| keys.npub())
}

#[test]
fn an_agent_has_the_key_its_identity_says() {
    let mnemonic = NIP06[0][0];
    let master = [(MASTER_SECRET, mnemonic)];
    let account = |account| Identity::Derived { account };
    assert_eq!(key_of(&account(Some(0)), "any", &master).as_deref(), Ok(NIP06[0][4]));

    let named = key_of(&account(None), "echo", &master).expect("a key");
    assert_eq!(key_of(&account(Some(account_of("echo"))), "other", &master), Ok(named.clone()));
    assert_ne!(key_of(&account(None), "Echo", &master), Ok(named.clone()), "another name, another key");
    assert_ne!(key_of(&account(None), "echo", &[(MASTER_SECRET, NIP06[1][0])]), Ok(named.clone()));
    let seed = Master::parse(mnemonic).expect("a mnemonic").seed_hex();
    assert_eq!(key_of(&account(None), "echo", &[(MASTER_SECRET, &seed)]), Ok(named));

    let imported = Identity::Imported { secret: "NOSTR_PRIVATE_KEY".to_owned() };
    for secret in [NIP06[1][1], NIP06[1][2]] {
        let secrets = [("NOSTR_PRIVATE_KEY", secret)];
        assert_eq!(key_of(&imported, "echo", &secrets).as_deref(), Ok(NIP06[1][4]));
    }
}

#[test]
fn a_remote_signers_agent_has_the_key_of_its_manifest_and_one_client_key_on_each_host() {
    let (agent, signer) = (key(1).pubkey(), key(2).pubkey());
    let manifest = json!({
        "name": "signed",
        "pubkey": agent.to_string(),
        "identity": {"bunker": {"secret": "AGENT_BUNKER"}},
        "handlers": [{"kind": 5050, "executor": "echo", "config": {}}]
    });
    let manifest: Manifest = serde_json::from_value(manifest).unwrap();
    let url = format!("bunker://{signer}?relay=wss://relay.example");
    let secrets = |master: &'static str, url: &str| {
        let url = url.to_owned();
        move |name: &str| match name {
            MASTER_SECRET => Some(master.to_owned()),
            "AGENT_BUNKER" => Some(url.clone()).filter(|url| !url.is_empty()),
            _ => None,
        }
    };
    let author = relay_agent::identity::event_signer(&manifest, &secrets(NIP06[0][0], &url)).unwrap();
    assert_eq!((author.pubkey(), author.keys().is_none()), (agent, true));
    for (url, message) in
        [("", "secret AGENT_BUNKER is not set"), ("x", "secret AGENT_BUNKER is not a bunker:// URL")]
    {
        let refused = relay_agent::identity::event_signer(&manifest, &secrets(NIP06[0][0], url));
        assert_eq!(refused.map(|author| author.pubkey()), Err(message.to_owned()));
    }
    let client = |master, agent| {
        let secrets = secrets(master, &url);
        relay_agent::nip46::Client::of("AGENT_BUNKER", agent, &secrets).unwrap().pubkey()
    };
    let own = client(NIP06[0][0], &agent);
    assert_eq!(own, client(NIP06[0][0], &agent));
    for other in [client(NIP06[0][0], &signer), client(NIP06[1][0], &agent), agent, signer] {
        assert_ne!(own, other);
    }
}

/// SHA-256("echo") begins with 092c79e8.
#[test]
fn the_account_of_a_name_is_31_bits_of_its_hash() {
    assert_eq!(account_of("echo"), 0x092c_79e8 >> 1);
}

#[test]
fn a_missing_or_malformed_secret_is_named_and_not_shown() {
    let derived = Identity::Derived { account: None };
    let imported = Identity::Imported { secret: "AGENT_KEY".to_owned() };
    let wrong = "leader monkey parrot ring guide accident before fence cannon height naive naive";
    for (identity, secrets, message) in [
        (&derived, vec![], "secret AGENT_MASTER_SECRET is not set"),
        (
            &derived,
            vec![(MASTER_SECRET, wrong)],
            "secret AGENT_MASTER_SECRET is neither a BIP-39 mnemonic in English nor 64 or 128 hexadecimal digits",
        ),
        (&imported, vec![(MASTER_SECRET, NIP06[0][0])], "secret AGENT_KEY is not set"),
        (
            &imported,
            vec![("AGENT_KEY", "hunter2")],
            "secret AGENT_KEY is neither an nsec nor 64 hexadecimal digits of a private key",
        ),
    ] {
        assert_eq!(key_of(identity, "echo", &secrets), Err(message.to_owned()));
    }
    let account = Identity::Derived { account: Some(u32::MAX) };
    let master = [(MASTER_SECRET, NIP06[0][0])];
    assert_eq!(
        key_of(&account, "echo", &master),
        Err("no key can be derived for this account; choose another".to_owned())
    );
}

/// One mistake of others was a key in a log.
#[test]
fn debug_output_has_no_secret() {
    let [mnemonic, secret, nsec, pubkey, _] = NIP06[0];
    let master = Master::parse(mnemonic).expect("a mnemonic");
    let text = format!("{master:?} {:?}", master.keys(0));
    for hidden in [mnemonic, secret, nsec, &master.seed_hex()] {
        assert!(!text.contains(hidden), "{text}");
    }
    assert!(text.contains(pubkey), "{text}");
}

#[test]
fn nip05_names() {
    let pubkey: PubKey = key(1).pubkey();
    for (name, local) in [
        ("echo", "echo"),
        ("Echo Agent", "echo-agent"),
        ("  Écho / v1.0  ", "cho-v1.0"),
        ("a_b-c.d", "a_b-c.d"),
        ("--..a..--", "a"),
        ("a  +  b", "a-b"),
        ("\"><script>", "script"),
        ("_", &npub(&pubkey)),
        ("翻訳", &npub(&pubkey)),
        ("", &npub(&pubkey)),
    ] {
        assert_eq!(nip05_name(name, &pubkey), local, "{name}");
    }
}
