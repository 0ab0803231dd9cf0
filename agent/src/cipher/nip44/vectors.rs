//! The vectors of NIP-44: of its authors' file, and those that the text of NIP-44 gives for long texts.

use relay_engine::types::PubKey;
use serde_json::Value;
use sha2::Digest;

use super::*;
use crate::cipher::{Cipher, shared_x};
use crate::identity::Keys;

const VECTORS: &[u8] = include_bytes!("../../../tests/data/nip44.vectors.json");

fn vectors(pointer: &str) -> Vec<Value> {
    let vectors: Value = serde_json::from_slice(VECTORS).expect("JSON");
    let list = vectors.pointer(pointer).and_then(Value::as_array).expect("a list").clone();
    assert!(!list.is_empty());
    list
}

fn text<'a>(vector: &'a Value, name: &str) -> &'a str {
    vector[name].as_str().unwrap_or_else(|| panic!("{name} in {vector}"))
}

fn bytes<const N: usize>(vector: &Value, name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    faster_hex::hex_decode(text(vector, name).as_bytes(), &mut bytes).expect("hexadecimal digits");
    bytes
}

fn sha256(text: &str) -> String {
    faster_hex::hex_string(&Sha256::digest(text))
}

fn keys(vector: &Value, name: &str) -> Keys {
    Keys::from_secret_bytes(bytes(vector, name)).expect("a private key")
}

#[test]
fn the_vectors_are_those_that_nip44_names() {
    assert_eq!(
        faster_hex::hex_string(&Sha256::digest(VECTORS)),
        "269ed0f69e4c192512cc779e78c555090cebc7c785b609e338a62afc3ce25040"
    );
}

#[test]
fn conversation_keys() {
    for vector in vectors("/v2/valid/get_conversation_key") {
        let shared = shared_x(&keys(&vector, "sec1"), &PubKey(bytes(&vector, "pub2"))).expect("valid keys");
        assert_eq!(conversation_key(&shared), bytes(&vector, "conversation_key"), "{vector}");
    }
}

#[test]
fn keys_that_have_no_conversation() {
    for vector in vectors("/v2/invalid/get_conversation_key") {
        let shared = Keys::from_secret_bytes(bytes(&vector, "sec1"))
            .ok()
            .and_then(|keys| shared_x(&keys, &PubKey(bytes(&vector, "pub2"))).ok());
        assert_eq!(shared, None, "{vector}");
    }
}

#[test]
fn message_keys() {
    let vectors: Value = serde_json::from_slice(VECTORS).expect("JSON");
    let group = &vectors["v2"]["valid"]["get_message_keys"];
    let conversation_key = bytes(group, "conversation_key");
    let list = group["keys"].as_array().expect("a list");
    assert!(list.len() > 30);
    for vector in list {
        let keys = MessageKeys::new(&conversation_key, &bytes(vector, "nonce"));
        assert_eq!(keys.chacha_key, bytes(vector, "chacha_key"));
        assert_eq!(keys.chacha_nonce, bytes(vector, "chacha_nonce"));
        assert_eq!(keys.hmac_key, bytes(vector, "hmac_key"));
    }
}

#[test]
fn padded_lengths() {
    for vector in vectors("/v2/valid/calc_padded_len") {
        let [len, padded] = [0, 1].map(|at| vector[at].as_u64().expect("a number") as usize);
        assert_eq!(padded_len(len), padded, "{len}");
    }
}

#[test]
fn conversations() {
    for vector in vectors("/v2/valid/encrypt_decrypt") {
        let (one, two) = (keys(&vector, "sec1"), keys(&vector, "sec2"));
        let (plain, payload) = (text(&vector, "plaintext"), text(&vector, "payload"));
        for (keys, peer) in [(&one, &two), (&two, &one)] {
            let shared = shared_x(keys, &peer.pubkey()).expect("valid keys");
            assert_eq!(conversation_key(&shared), bytes(&vector, "conversation_key"));
            let nonce = bytes(&vector, "nonce");
            let encrypted = crate::cipher::encrypt(Cipher::Nip44, keys, &peer.pubkey(), plain, nonce);
            assert_eq!(encrypted.as_deref(), Ok(payload));
            let decrypted = crate::cipher::decrypt(keys, &peer.pubkey(), payload);
            assert_eq!(decrypted, Ok((Cipher::Nip44, plain.to_owned())));
        }
    }
}

fn check_long(key: &[u8; 32], nonce: &[u8; 32], plain: &str, plain_sha256: &str, payload_sha256: &str) {
    assert_eq!(sha256(plain), plain_sha256);
    let payload = encrypt(key, plain, nonce).expect("not too long");
    assert_eq!(sha256(&payload), payload_sha256, "{} bytes", plain.len());
    let decoded = decode(&payload).unwrap_or_else(|error| panic!("{} bytes: {error}", plain.len()));
    assert!(decrypt(key, decoded).as_deref() == Ok(plain), "{} bytes", plain.len());
}

#[test]
fn long_texts() {
    for vector in vectors("/v2/valid/encrypt_decrypt_long_msg") {
        let repeat = vector["repeat"].as_u64().expect("a number") as usize;
        check_long(
            &bytes(&vector, "conversation_key"),
            &bytes(&vector, "nonce"),
            &text(&vector, "pattern").repeat(repeat),
            text(&vector, "plaintext_sha256"),
            text(&vector, "payload_sha256"),
        );
    }
}

/// The table in the text of NIP-44, section "Extended length prefix test vectors".
#[test]
fn the_long_form_of_the_length() {
    let mut key = [0; 32];
    let hex = b"c41c775356fd92eadc63ff5a0dc1da211b268cbea22316767095b2871ea1412d";
    faster_hex::hex_decode(hex, &mut key).expect("hexadecimal digits");
    let mut nonce = [0; 32];
    nonce[31] = 1;
    for (len, plain_sha256, payload_sha256) in [
        (
            65_535,
            "6e1bebca6a8229364a162a72ef064826c4cd7457bf54f190ef782bd9deff3e42",
            "6d8c2810d1e870fbaa1f0a0937126cca837a15f9260e27060c331d70a3c0bc84",
        ),
        (
            65_536,
            "bf718b6f653bebc184e1479f1935b8da974d701b893afcf49e701f3e2f9f9c5a",
            "b7b4edb36ba92e267d322d56d9aebc22e7fa96ff52e3c12adc07f07a43cbc616",
        ),
        (
            65_537,
            "008ffc88d3c96a9f307524eb361e47c5222a887fc45fa0c1fb8d429c5c23b430",
            "eeb7c7c5373894ea2c1547cfd3ccb15d5a0b2d619da852e5c79df792dcc9e435",
        ),
    ] {
        check_long(&key, &nonce, &"a".repeat(len), plain_sha256, payload_sha256);
    }
}

/// The file's list has 65,536 and 100,000 too, which NIP-44 has taken since.
#[test]
fn lengths_that_cannot_be_encrypted() {
    for vector in vectors("/v2/invalid/encrypt_msg_lengths") {
        let len = vector.as_u64().expect("a number") as usize;
        let is_too_long = encrypt(&[1; 32], &"a".repeat(len), &[0; 32]) == Err(CipherError::Length);
        assert_eq!(is_too_long, len == 0 || len > TEXT_MAX, "{len}");
    }
    for len in [TEXT_MAX - 1, TEXT_MAX] {
        let payload = encrypt(&[1; 32], &"a".repeat(len), &[0; 32]).expect("not too long");
        let decoded = decode(&payload).unwrap_or_else(|error| panic!("{len} bytes: {error}"));
        assert_eq!(decrypt(&[1; 32], decoded).map(|text| text.len()), Ok(len));
    }
    assert_eq!(encrypt(&[1; 32], &"a".repeat(TEXT_MAX + 1), &[0; 32]), Err(CipherError::Length));
}

#[test]
fn payloads_that_cannot_be_decrypted() {
    for vector in vectors("/v2/invalid/decrypt") {
        let key = bytes(&vector, "conversation_key");
        let result = decode(text(&vector, "payload")).and_then(|payload| decrypt(&key, payload));
        let expected = match text(&vector, "note") {
            "unknown encryption version" => CipherError::Version(b'#'),
            "unknown encryption version 0" => CipherError::Version(0),
            "invalid MAC" => CipherError::Unauthentic,
            "invalid base64" | "invalid padding" => CipherError::Malformed,
            note if note.starts_with("invalid payload length") => CipherError::Malformed,
            note => panic!("{note}"),
        };
        assert_eq!(result, Err(expected), "{vector}");
    }
}

/// Paddings that a wrong sender might make; each under a right MAC.
#[test]
fn paddings_are_checked() {
    let (key, nonce) = ([1; 32], [2; 32]);
    let keys = MessageKeys::new(&key, &nonce);
    let open = |padded: &[u8]| {
        let mut text = padded.to_vec();
        keys.apply(&mut text);
        let mac = keys.mac(&nonce, &text).finalize().into_bytes();
        decrypt(&key, Payload { nonce, text, mac: mac.into() })
    };
    let padded = |prefix: &[u8], len| [prefix, &vec![b'a'; len]].concat();
    assert_eq!(open(&padded(&[0, 3], 32)).as_deref(), Ok("aaa"));
    for wrong in [
        padded(&[0, 0], 32),
        padded(&[0, 33], 32),
        padded(&[0, 3], 33),
        padded(&[0, 3], 31),
        padded(&[0, 3], 64),
        // The long form of a short length.
        padded(&[0, 0, 0, 0, 0, 3], 32),
        padded(&[0, 0, 0, 0, 0xff, 0xff], 65_536),
        padded(&[0, 0, 0xff, 0xff, 0xff, 0xff], 32),
        padded(&[0, 0, 0, 1], 0),
        vec![0],
        vec![],
        // Not UTF-8.
        [&[0, 3, 0xff, 0xfe, 0xfd], &[0; 29][..]].concat(),
    ] {
        assert_eq!(open(&wrong), Err(CipherError::Malformed), "{:?}", wrong.get(..8.min(wrong.len())));
    }
}
