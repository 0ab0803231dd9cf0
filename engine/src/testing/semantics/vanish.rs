//! Requests to vanish (NIP-62): all events of the key and gift wraps to it are deleted, and stay deleted.

use serde_json::json;

use super::conn::Conn;
use super::stage::Stage;
use super::{Case, case, case_with};
use crate::testing::signing::{Draft, Key, Signed, event, key};
use crate::types::PubKey;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case_with("vanish: from this relay", with_url, from_here),
        case("vanish: the Host header does not say which relay a request names", by_host),
        case("vanish: from all relays", from_everywhere),
        case("vanish: a request for another relay does nothing here", for_another),
        case("vanish: deletions against it have no effect", against),
        case_with(
            "vanish: also for those who may not write here",
            only_key_1,
            for_authors_without_write_access,
        ),
    ]
}

const URL: &str = "wss://relay.example.com";

fn with_url(config: &mut crate::relay::Config) {
    config.url = Some(URL.into());
}

fn only_key_1(config: &mut crate::relay::Config) {
    config.policy.allow_pubkeys = Some(vec![PubKey(key(1).bytes())]);
}

fn request(by: &Key, at: u64) -> Draft {
    event(by).kind(62).at(at).content("gone fishing")
}

fn wrap(by: u64, to: &Key, at: u64) -> Signed {
    event(&key(by)).kind(1059).at(at).tag(["p", to.hex()]).sign()
}

/// Events of the key before `at`, and events that must stay.
fn traces(at: u64) -> (Vec<Signed>, Vec<Signed>) {
    let (me, other) = (key(1), key(2));
    let note = event(&me).at(at - 9).content("a note").sign();
    let deleted = event(&me).at(at - 9).content("deleted").sign();
    let gone = vec![
        note.clone(),
        event(&me).at(at).content("in the same second").sign(),
        event(&me).at(0).content("long ago").sign(),
        event(&me).kind(0).at(at - 5).sign(),
        event(&me).kind(30_023).at(at - 5).tag(["d", "x"]).sign(),
        event(&me).kind(5).at(at - 4).tag(["e", &deleted.id]).sign(),
        event(&me).kind(1059).at(at - 4).tag(["p", other.hex()]).sign(),
        wrap(50, &me, at - 3),
        wrap(51, &me, at),
    ];
    let stays = vec![
        event(&other).at(at - 9).tag(["p", me.hex()]).tag(["e", &note.id]).sign(),
        event(&other).kind(0).at(at - 9).sign(),
        event(&other).kind(4).at(at - 9).tag(["p", me.hex()]).sign(),
        wrap(52, &other, at - 3),
        event(&me).at(at + 1).content("born again").sign(),
    ];
    (gone, stays)
}

fn served(conn: &mut Conn, events: &[Signed]) -> Vec<String> {
    let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    let mut served = conn.ask(json!({"ids": ids})).ids();
    served.sort_unstable();
    served
}

fn ids(events: &[Signed]) -> Vec<String> {
    let mut ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    ids.sort_unstable();
    ids
}

fn vanish(stage: &mut Stage<'_>, url: &str, target: &[&str]) {
    let mut conn = stage.open();
    // Authenticated, so that gift wraps can be queried.
    for key in [key(1), key(2)] {
        let challenge = stage.challenge(&mut conn);
        let draft = stage.auth_draft(&key).tag(["relay", url]).tag(["challenge", &challenge]);
        assert_eq!(conn.auth(&draft.sign()), (true, String::new()));
    }
    let at = stage.t - 20;
    let (gone, stays) = traces(at);
    conn.accept_all(&gone);
    conn.accept_all(&stays);
    assert_eq!(served(&mut conn, &gone), ids(&gone), "before");
    let request = target.iter().fold(request(&key(1), at), |draft, url| draft.tag(["relay", url])).sign();
    let (accepted, message) = conn.publish(&request);
    assert!(accepted, "{message}");
    assert_eq!(served(&mut conn, &gone), [""; 0], "after");
    assert_eq!(served(&mut conn, &stays), ids(&stays), "what must stay");
    for event in &gone {
        conn.refuse(event, "");
    }
    // Other events of that time, published for the first time, are refused too.
    conn.refuse(&event(&key(1)).at(at - 100).content("never sent").sign(), "");
    conn.refuse(&wrap(53, &key(1), at - 100), "");
    assert_eq!(served(&mut conn, &gone), [""; 0], "after they were sent again");
    // Events deleted before stay deleted, although the deletion request is deleted now.
    conn.refuse(&event(&key(1)).at(at - 9).content("deleted").sign(), "");
    // Newer events of the key are accepted.
    conn.accept(&event(&key(1)).at(stage.t).content("new").sign());
    let mut listed = conn.ask(json!({"authors": [key(1).hex()], "kinds": [0, 1, 5, 30_023]})).ids();
    listed.retain(|id| *id != request.id);
    assert_eq!(listed.len(), 2, "the two that are newer than the request");
}

fn from_here(stage: &mut Stage<'_>) {
    vanish(stage, URL, &["wss://other.example.com", URL]);
}

/// A relay without `url` must not trust the Host header: anybody could publish a request that was meant for another relay.
fn by_host(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t - 9).sign();
    conn.accept(&note);
    let url = format!("ws://{}", stage.relay.host());
    conn.refuse(&request(&key(1), stage.t).tag(["relay", &url]).sign(), "invalid");
    assert_eq!(served(&mut conn, std::slice::from_ref(&note)), [&*note.id]);
}

fn from_everywhere(stage: &mut Stage<'_>) {
    let url = format!("ws://{}", stage.relay.host());
    vanish(stage, &url, &["ALL_RELAYS"]);
}

fn for_another(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t - 9).sign();
    conn.accept(&note);
    for draft in [
        request(&key(1), stage.t),
        request(&key(1), stage.t).tag(["relay", "wss://other.example.com"]),
        request(&key(1), stage.t).tag(["relay", "all_relays"]),
        request(&key(1), stage.t).tag(["relay"]),
        request(&key(1), stage.t).tag(["r", "ALL_RELAYS"]),
        request(&key(1), stage.t).tag(["relay", &format!("wss://other.example.com/{}", stage.relay.host())]),
        request(&key(2), stage.t).tag(["relay", "ALL_RELAYS"]).tag(["p", key(1).hex()]).tag(["e", &note.id]),
    ] {
        // The relay may store it or refuse it.
        let request = draft.sign();
        conn.publish(&request);
        assert_eq!(served(&mut conn, std::slice::from_ref(&note)), [&*note.id], "after {}", request.json());
    }
    // A forged one has no effect either.
    let forged = request(&key(1), stage.t).tag(["relay", "ALL_RELAYS"]).sign().forged();
    conn.refuse(&forged, "invalid");
    assert_eq!(served(&mut conn, std::slice::from_ref(&note)), [&*note.id]);
}

fn against(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    let note = event(&key(1)).at(stage.t - 9).sign();
    conn.accept(&note);
    let request = request(&key(1), stage.t - 5).tag(["relay", "ALL_RELAYS"]).sign();
    assert!(conn.publish(&request).0);
    conn.publish(&event(&key(1)).kind(5).at(stage.t).tag(["e", &request.id]).tag(["k", "62"]).sign());
    conn.refuse(&note, "");
    assert_eq!(served(&mut conn, &[note]), [""; 0]);
}

fn for_authors_without_write_access(stage: &mut Stage<'_>) {
    let mut conn = stage.open();
    stage.auth(&mut conn, &key(2));
    conn.refuse(&event(&key(2)).at(stage.t).sign(), "restricted");
    let wrap = wrap(1, &key(2), stage.t - 3);
    conn.accept(&wrap);
    assert_eq!(served(&mut conn, std::slice::from_ref(&wrap)), [&*wrap.id]);
    let (accepted, message) = conn.publish(&request(&key(2), stage.t).tag(["relay", "ALL_RELAYS"]).sign());
    assert!(accepted, "NIP-62: regardless of the user's status, but {message:?}");
    assert_eq!(served(&mut conn, &[wrap]), [""; 0]);
}
