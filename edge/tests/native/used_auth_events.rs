//! Signed requests that an object remembers.

use relay_edge::used_auth_events::{SignedBy, USED_MAX, decode_taken, encode_taken, remember, remembered};
use relay_site::nip98::Nip98Error;

use super::sqlite::Sqlite;

const NOW: u64 = 1_767_225_600;

fn signed(number: u64, created_at: u64) -> SignedBy {
    SignedBy { id: format!("{number:064x}"), created_at }
}

#[test]
fn an_event_signs_one_request_as_long_as_it_is_accepted() {
    let conn = Sqlite::new();
    let take = |number, created_at, now| signed(number, created_at).take(&conn, now).unwrap();
    // One from a minute ahead is accepted for two minutes.
    assert_eq!(take(1, NOW + 60, NOW), Ok(()));
    assert_eq!(take(2, NOW + 60, NOW), Ok(()), "another one");
    for later in [0, 60, 120] {
        assert_eq!(take(1, NOW + 60, NOW + later), Err(Nip98Error::Replayed));
    }
    assert_eq!(conn.count("used_events"), 2);
    assert_eq!(take(3, NOW + 121, NOW + 121), Ok(()));
    assert_eq!(conn.count("used_events"), 1, "those that are not accepted any more are forgotten");
    assert!(SignedBy { id: "x".to_owned(), created_at: NOW }.take(&conn, NOW).is_err());
}

#[test]
fn at_most_used_max_are_remembered_and_none_is_forgotten_for_another() {
    let conn = Sqlite::new();
    for number in 0..USED_MAX as u64 {
        assert_eq!(signed(number, NOW).take(&conn, NOW), Ok(Ok(())));
    }
    assert_eq!(signed(99_999, NOW).take(&conn, NOW), Ok(Err(Nip98Error::Busy)));
    assert_eq!(signed(0, NOW).take(&conn, NOW), Ok(Err(Nip98Error::Replayed)));
    assert_eq!(signed(99_999, NOW + 61).take(&conn, NOW + 61), Ok(Ok(())));
}

#[test]
fn an_outcome_is_the_same_when_encoded_and_decoded() {
    for taken in [Ok(()), Err(Nip98Error::Replayed), Err(Nip98Error::Busy)] {
        assert_eq!(decode_taken(encode_taken(&taken)), Some(taken));
    }
    assert_eq!(decode_taken(b"nonsense"), None);
}

#[test]
fn what_is_remembered_goes_into_another_database() {
    let (conn, other) = (Sqlite::new(), Sqlite::new());
    assert_eq!(remembered(&conn, NOW), Ok(Vec::new()));
    for (number, created_at) in [(1, NOW - 30), (2, NOW + 60), (3, NOW)] {
        assert_eq!(signed(number, created_at).take(&conn, NOW), Ok(Ok(())));
    }
    let used = remembered(&conn, NOW + 31).unwrap();
    assert_eq!(used.len(), 2, "one is not accepted any more");
    remember(&other, NOW + 31, used.iter().copied()).unwrap();
    remember(&other, NOW + 31, used.iter().copied()).unwrap();
    assert_eq!(signed(2, NOW + 60).take(&other, NOW + 31), Ok(Err(Nip98Error::Replayed)));
    assert_eq!(signed(3, NOW).take(&other, NOW + 31), Ok(Err(Nip98Error::Replayed)));
    let later = Sqlite::new();
    remember(&later, NOW + 61, used.iter().copied()).unwrap();
    assert_eq!(later.count("used_events"), 1);
}
