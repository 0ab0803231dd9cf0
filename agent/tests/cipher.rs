//! NIP-44 and NIP-04 against rust-nostr, both directions, and damaged payloads.

use nostr::nips::{nip04, nip44};
use proptest::prelude::*;
use relay_agent::cipher::{Cipher, CipherError, TEXT_MAX, decrypt, encrypt};
use relay_agent::identity::Keys;
use relay_engine::types::PubKey;

/// The same key in both implementations.
fn pair(secret: [u8; 32]) -> Option<(Keys, nostr::Keys)> {
    let ours = Keys::from_secret_bytes(secret).ok()?;
    let theirs = nostr::Keys::new(nostr::SecretKey::from_slice(&secret).expect("valid for us too"));
    Some((ours, theirs))
}

fn key(number: u8) -> Keys {
    Keys::from_secret_bytes([number; 32]).expect("a private key")
}

proptest! {
    #[test]
    fn what_we_encrypt_rust_nostr_decrypts(one: [u8; 32], two: [u8; 32], nonce: [u8; 32], text in "\\PC{1,300}") {
        let (Some((ours, our_copy)), Some((peer, theirs))) = (pair(one), pair(two)) else { return Ok(()) };
        let payload = encrypt(Cipher::Nip44, &ours, &peer.pubkey(), &text, nonce).expect("encrypted");
        let read = nip44::decrypt(theirs.secret_key(), &our_copy.public_key(), payload).expect("decrypted");
        prop_assert_eq!(&read, &text);
        let payload = encrypt(Cipher::Nip04, &ours, &peer.pubkey(), &text, nonce).expect("encrypted");
        let read = nip04::decrypt(theirs.secret_key(), &our_copy.public_key(), payload).expect("decrypted");
        prop_assert_eq!(&read, &text);
    }

    #[test]
    fn what_rust_nostr_encrypts_we_decrypt(one: [u8; 32], two: [u8; 32], text in "\\PC{1,300}") {
        let (Some((ours, our_copy)), Some((peer, theirs))) = (pair(one), pair(two)) else { return Ok(()) };
        let (secret, public) = (theirs.secret_key(), our_copy.public_key());
        let payload = nip44::encrypt(secret, &public, &text, nip44::Version::V2).expect("encrypted");
        prop_assert_eq!(decrypt(&ours, &peer.pubkey(), &payload), Ok((Cipher::Nip44, text.clone())));
        let payload = nip04::encrypt(secret, &public, &text).expect("encrypted");
        prop_assert_eq!(decrypt(&ours, &peer.pubkey(), &payload), Ok((Cipher::Nip04, text)));
    }

    #[test]
    fn any_payload_is_answered(payload in "[A-Za-z0-9+/=?#iv]{0,300}") {
        let _ = decrypt(&key(1), &key(2).pubkey(), &payload);
    }

    /// Whichever character of a NIP-44 payload is changed.
    #[test]
    fn a_changed_payload_is_refused(at: prop::sample::Index, other in "[A-Za-z0-9+/]", len in 1..200usize) {
        let (from, to) = (key(1), key(2));
        let payload = encrypt(Cipher::Nip44, &from, &to.pubkey(), &"x".repeat(len), [3; 32]).expect("encrypted");
        let at = at.index(payload.len());
        let mut changed = payload.clone();
        changed.replace_range(at..=at, &other);
        prop_assume!(changed != payload);
        prop_assert!(decrypt(&to, &from.pubkey(), &changed).is_err());
    }
}

#[test]
fn every_length_near_a_step_of_the_padding() {
    let (from, to) = (key(1), key(2));
    for len in [1, 31, 32, 33, 255, 256, 257, 1_023, 1_024, 1_025, 65_535, 65_536, 65_537, TEXT_MAX] {
        for cipher in [Cipher::Nip44, Cipher::Nip04] {
            let text = "x".repeat(len);
            let payload = encrypt(cipher, &from, &to.pubkey(), &text, [3; 32]).expect("encrypted");
            assert!(decrypt(&to, &from.pubkey(), &payload) == Ok((cipher, text)), "{len} {cipher:?}");
        }
    }
}

#[test]
fn lengths_that_are_refused() {
    let (from, to) = (key(1), key(2));
    let encrypted = |cipher, len| encrypt(cipher, &from, &to.pubkey(), &"x".repeat(len), [3; 32]);
    assert_eq!(encrypted(Cipher::Nip44, 0), Err(CipherError::Length));
    assert!(encrypted(Cipher::Nip04, 0).is_ok(), "NIP-04 can encrypt nothing");
    for cipher in [Cipher::Nip44, Cipher::Nip04] {
        assert_eq!(encrypted(cipher, TEXT_MAX + 1), Err(CipherError::Length));
    }
    // Refused before it is decoded.
    for long in ["A".repeat(2 << 20), format!("{}?iv=AAAAAAAAAAAAAAAAAAAAAA==", "A".repeat(2 << 20))] {
        assert_eq!(decrypt(&to, &from.pubkey(), &long), Err(CipherError::Length));
    }
}

#[test]
fn keys_that_are_not_on_the_curve_are_refused() {
    let payload = encrypt(Cipher::Nip44, &key(1), &key(2).pubkey(), "x", [3; 32]).expect("encrypted");
    for nobody in [[0; 32], [0xff; 32]].map(PubKey) {
        assert_eq!(encrypt(Cipher::Nip44, &key(1), &nobody, "x", [3; 32]), Err(CipherError::Key));
        assert_eq!(encrypt(Cipher::Nip04, &key(1), &nobody, "x", [3; 32]), Err(CipherError::Key));
        assert_eq!(decrypt(&key(1), &nobody, &payload), Err(CipherError::Key));
    }
}

#[test]
fn a_payload_for_another_key_is_refused() {
    for cipher in [Cipher::Nip44, Cipher::Nip04] {
        let payload = encrypt(cipher, &key(1), &key(2).pubkey(), "hello", [3; 32]).expect("encrypted");
        assert_eq!(decrypt(&key(3), &key(1).pubkey(), &payload), Err(CipherError::Unauthentic), "{cipher:?}");
    }
}

#[test]
fn malformed_payloads() {
    for (payload, error) in [
        ("", CipherError::Malformed),
        ("hello", CipherError::Malformed),
        ("?iv=", CipherError::Malformed),
        ("?iv=AAAAAAAAAAAAAAAAAAAAAA==", CipherError::Malformed),
        ("AAAA?iv=AAAAAAAAAAAAAAAAAAAAAA==", CipherError::Malformed),
        ("AAAAAAAAAAAAAAAAAAAAAA==?iv=AAAA", CipherError::Malformed),
        ("AAAAAAAAAAAAAAAAAAAAAA==?iv=AAAAAAAAAAAAAAAAAAAAAA==&x=1", CipherError::Malformed),
        ("[[\"i\",\"not encrypted\",\"text\"]]", CipherError::Malformed),
        ("#AAAA", CipherError::Version(b'#')),
        (&format!("A{}", "A".repeat(131)), CipherError::Version(0)),
        (&format!("Aw{}", "A".repeat(130)), CipherError::Version(3)),
        (&format!("Ag{}", "A".repeat(130)), CipherError::Unauthentic),
        (&format!("Ag{}", "A".repeat(126)), CipherError::Malformed),
    ] {
        assert_eq!(decrypt(&key(1), &key(2).pubkey(), payload), Err(error), "{payload}");
    }
}

/// Some clients leave the padding of base64 out.
#[test]
fn nip04_is_read_without_base64_padding() {
    let payload = encrypt(Cipher::Nip04, &key(1), &key(2).pubkey(), "hello", [3; 32]).expect("encrypted");
    assert!(payload.contains('='));
    let bare = payload.replace("?iv=", "?iv:").replace('=', "").replace("?iv:", "?iv=");
    let expected = Ok((Cipher::Nip04, "hello".to_owned()));
    assert_eq!(decrypt(&key(2), &key(1).pubkey(), &bare), expected);
}
