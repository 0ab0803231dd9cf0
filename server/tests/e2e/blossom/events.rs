//! What events on the relay do to blobs: kind 5 of a 1063 and kind 62 end their author's ownership.

use super::*;

#[test]
fn deletions_and_requests_to_vanish_end_the_ownership() {
    let mut relay = RelayProcess::start();
    let (described, other, shared) = (noise(1, 1_000), noise(2, 2_000), noise(3, 3_000));
    for bytes in [&described, &other, &shared] {
        assert_eq!(upload(&relay, OWNER, bytes).status, 201);
    }
    assert_eq!(upload(&relay, OWNER + 1, &shared).status, 200, "it has two owners");
    let hash = sha256(&described);
    let url = format!("http://{}/{hash}.bin", relay.host());
    let about = event(&key(OWNER)).kind(1063).at(unix_now()).tag(["url", &url]).tag(["x", &hash]).sign();
    let accepted = (true, String::new());
    assert_eq!(relay.connect().publish(&about.json()), accepted);
    // The description may still be on its way to the index when the relay stops: it goes on where it was.
    assert!(relay.stop().success());
    relay.restart();
    let deletion = |signer: u64| event(&key(signer)).kind(5).at(unix_now()).tag(["e", &about.id]).sign();
    assert_eq!(relay.connect().publish(&deletion(OWNER).json()), accepted);
    until("the described blob goes", || get(&relay, &hash).status == 404);
    assert_eq!(get(&relay, &sha256(&other)).status, 200, "nothing describes it");

    let vanish = event(&key(OWNER)).kind(62).at(unix_now()).tag(["relay", "ALL_RELAYS"]).sign();
    assert_eq!(relay.connect().publish(&vanish.json()), accepted);
    relay.kill();
    relay.restart();
    until("the blobs of the author go", || list(&relay, OWNER).is_empty());
    assert_eq!(get(&relay, &sha256(&other)).status, 404);
    assert_eq!(get(&relay, &sha256(&shared)).status, 200, "another owns it too");
    assert_eq!(list(&relay, OWNER + 1), [sha256(&shared)]);
    until("only its file is left", || files(&relay.data().join("blobs")).len() == 1);
    relay.kill();
    relay.restart();
    assert_eq!(get(&relay, &hash).status, 404, "it stays so");
    assert_eq!(list(&relay, OWNER + 1), [sha256(&shared)]);
}
