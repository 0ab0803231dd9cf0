//! PUT /report (BUD-09).

use relay_blossom::testing::Request;
use relay_blossom::{Command, Outcome};
use relay_engine::testing::signing::{Draft, event, key};

use crate::world::{NOW, check, hash, host, pubkey, stored};

const BODY: &[u8] = b"to be reported";

fn draft() -> Draft {
    event(&key(7)).kind(1_984).at(NOW).content("what is wrong")
}

fn put(body: String) -> Request {
    Request::new("PUT", "/report").body(body)
}

#[test]
fn blobs_are_reported_with_their_categories() {
    let mut host = host();
    let first = stored(&mut host, "image/png", BODY)[1..].to_owned();
    let second = stored(&mut host, "image/png", b"another")[1..].to_owned();
    let unknown = "0".repeat(64);
    let report =
        draft().tag(["x", &first, "malware"]).tag(["x", &second, "spam"]).tag(["x", &unknown, "other"]);
    check("taken", &host.send(&put(report.sign().json())), 204);
    let Outcome::Reports(reports) = host.index.run(NOW, Command::Reports { limit: 10 }).unwrap() else {
        panic!("reports")
    };
    let mut is: Vec<_> = reports.iter().map(|row| (row.sha256.to_string(), row.category.as_str())).collect();
    let mut want = vec![(first, "malware"), (second, "spam")];
    is.sort();
    want.sort();
    assert_eq!(is, want);
    assert_eq!(reports[0].reporter, pubkey(7).to_string());
    assert_eq!(reports[0].content, "what is wrong");
}

#[test]
fn what_is_no_report() {
    let mut host = host();
    let path = stored(&mut host, "image/png", BODY);
    let x = path[1..].to_owned();
    let good = draft().tag(["x", &x, "spam"]);
    let cases = [
        ("an unknown blob", draft().tag(["x", &"0".repeat(64), "spam"]).sign().json(), 404),
        ("no x", draft().tag(["e", &x]).sign().json(), 400),
        ("no hash", draft().tag(["x", "abc", "spam"]).sign().json(), 400),
        ("no value", draft().tag(["x"]).sign().json(), 400),
        ("another kind", good.clone().kind(1).sign().json(), 400),
        ("a forged signature", good.clone().sign().forged().json(), 400),
        ("changed", good.clone().sign().fields().set("content", "\"x\"").json(), 400),
        ("no event", "{}".to_owned(), 400),
        ("no JSON", "report".to_owned(), 400),
        ("nothing", String::new(), 400),
        ("too long", " ".repeat(200_000), 413),
    ];
    for (what, body, status) in cases {
        check(what, &host.send(&put(body)), status);
    }
    host.denied = vec![pubkey(7)];
    check("a denied key", &host.send(&put(good.clone().sign().json())), 403);
    host.denied.clear();
    check("and then", &host.send(&put(good.sign().json())), 204);
    assert_eq!(hash(BODY).to_string(), x);
}
