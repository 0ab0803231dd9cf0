//! The HTTP API of agents, as an owner, a customer and a stranger see it.

use std::sync::Arc;

use relay_agent::api::{self, Caller, Follower, Relay, Request};
use relay_agent::machine::{Agent, Context};
use relay_agent::router::Router;
use relay_agent::secrets::Secrets;
use relay_agent::testing::{Customer, FakeHost, Request as Job, Sqlite};
use relay_engine::types::{Now, PubKey};
use relay_site::{AgentRoute as R, HttpResponse};
use serde_json::{Value, json};

const RELAY: Relay<'_> = Relay { name: "Test <relay>", url: "wss://relay.example", version: "1.2.3" };

/// A host with at most one agent.
struct World {
    now: Now,
    agent: Agent<Sqlite>,
    router: Router<Sqlite>,
    host: FakeHost,
    owner: Customer,
}

fn secrets() -> Arc<dyn Secrets + Send + Sync> {
    Arc::new(|name: &str| (name == "AGENT_MASTER_SECRET").then(|| "5a".repeat(32)))
}

impl World {
    fn new() -> Self {
        let now = Now::from_seconds(1_800_000_000);
        let context = Context {
            secrets: secrets(),
            relay_url: Some(RELAY.url.to_owned()),
            blossom: None,
            seed: [1; 32],
        };
        World {
            now,
            agent: Agent::open(now, Sqlite::new(), context).unwrap(),
            router: Router::open(Sqlite::new(), secrets()).unwrap(),
            host: FakeHost::default(),
            owner: Customer::new(1),
        }
    }

    fn owner(&self) -> Caller {
        Caller::Key(self.owner.pubkey())
    }

    fn deploy(&mut self, manifest: &Value, caller: Caller, may_deploy: bool) -> HttpResponse {
        let body = manifest.to_string();
        let wanted = match api::deployment(body.as_bytes(), caller, may_deploy, &*secrets(), None) {
            Ok(wanted) => wanted,
            Err(answer) => return answer,
        };
        let request = request(R::Deploy, None, "", caller);
        let reply = api::deploy(&mut self.agent, self.now, &request, &wanted);
        if let Some(entry) = reply.changed {
            self.router.put(self.now, entry).unwrap();
        }
        self.host.run(self.now, &mut self.agent);
        reply.answer
    }

    fn ask(&mut self, route: R, id: Option<&str>, query: &str, caller: Caller) -> HttpResponse {
        let request = request(route, id, query, caller);
        if matches!(route, R::List | R::ListPage | R::Names) {
            return api::directory(&self.router, &request);
        }
        let reply = api::agent(&mut self.agent, self.now, &request);
        if let Some(entry) = reply.changed {
            self.router.put(self.now, entry).unwrap();
        }
        self.host.run(self.now, &mut self.agent);
        reply.answer
    }

    /// The document of a request that succeeds.
    fn read(&mut self, route: R, id: Option<&str>, query: &str, caller: Caller) -> Value {
        let answer = self.ask(route, id, query, caller);
        assert_eq!(answer.status, 200, "{route:?}: {:?}", answer.body);
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// The id of a job that the agent has done.
    fn job(&mut self, customer: &Customer, text: &str) -> String {
        let agent: PubKey = self.agent.pubkey().unwrap();
        let event = customer.sign(&Job::new(5050, self.now.seconds()).to(&agent).text(text));
        self.host.store(event.clone());
        self.agent.deliver(self.now, std::slice::from_ref(&event)).unwrap();
        self.host.run(self.now, &mut self.agent);
        self.now = self.now.plus_millis(1_000);
        event.id.to_string()
    }
}

fn request<'a>(route: R, id: Option<&'a str>, query: &'a str, caller: Caller) -> Request<'a> {
    Request { route, id, query, body: b"", caller, relay: RELAY }
}

fn manifest() -> Value {
    json!({"name": "Echo & Co", "about": "Says <it> again.", "handlers": [{"kind": 5050, "executor": "echo"}]})
}

fn field(answer: &HttpResponse) -> (u16, Value) {
    let document: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.status, document["field"].clone())
}

#[test]
fn deploying_needs_a_key_that_may_and_a_manifest_that_is_one() {
    let mut world = World::new();
    let (owner, admin) = (world.owner(), Caller::Admin(PubKey([9; 32])));
    let with = |name: &str, value: Value| {
        let mut manifest = manifest();
        manifest[name] = value;
        manifest
    };
    let foreign = Customer::new(5).pubkey().to_string();
    let cases = [
        (manifest(), Caller::Anyone, true, (401, Value::Null)),
        (manifest(), owner, false, (403, Value::Null)),
        (with("handlers", json!([])), owner, true, (400, json!("handlers"))),
        (with("nope", json!(1)), owner, true, (400, json!("nope"))),
        (with("owner", json!(foreign)), owner, true, (403, json!("owner"))),
        (
            // Another deployer's secret, perhaps.
            with("identity", json!({"imported": {"secret": "AGENT_NONE"}})),
            owner,
            true,
            (403, json!("secret")),
        ),
        (
            with("identity", json!({"imported": {"secret": "AGENT_NONE"}})),
            admin,
            true,
            (400, json!("identity")),
        ),
        (manifest(), owner, true, (201, Value::Null)),
        // The same again changes nothing; somebody else may not replace it; an administrator may.
        (manifest(), owner, true, (200, Value::Null)),
        (with("about", json!("Mine now.")), Caller::Key(PubKey([3; 32])), true, (403, Value::Null)),
        (with("about", json!("Better.")), admin, false, (200, Value::Null)),
    ];
    for (manifest, caller, may_deploy, want) in cases {
        let answer = world.deploy(&manifest, caller, may_deploy);
        assert_eq!(field(&answer), want, "{manifest}: {:?}", answer.body);
    }
    assert_eq!(world.agent.version(), 2);
}

#[test]
fn an_update_makes_no_agent() {
    // Anybody may send one: it is for the owner of an agent that exists.
    let mut world = World::new();
    let (stranger, owner) = (Caller::Key(PubKey([3; 32])), world.owner());
    let update = |world: &mut World, caller| {
        let key = relay_agent::identity::keys(
            &relay_agent::manifest::Identity::default(),
            "Echo & Co",
            &*secrets(),
        );
        let key = key.unwrap().pubkey();
        let body = manifest().to_string();
        let wanted = api::deployment(body.as_bytes(), caller, false, &*secrets(), Some(&key)).unwrap();
        api::deploy(&mut world.agent, world.now, &request(R::Update, None, "", caller), &wanted).answer.status
    };
    assert_eq!(update(&mut world, stranger), 404);
    assert!(world.agent.manifest().is_none());
    world.deploy(&manifest(), owner, true);
    assert_eq!(update(&mut world, stranger), 403);
    assert_eq!(update(&mut world, owner), 200);
    world.ask(R::Delete, None, "", owner);
    assert_eq!(update(&mut world, owner), 404);
}

#[test]
fn an_agent_is_listed_found_by_name_paused_and_deleted() {
    let mut world = World::new();
    let (owner, anyone, stranger) = (world.owner(), Caller::Anyone, Caller::Key(PubKey([7; 32])));
    assert_eq!(world.read(R::List, None, "", anyone), json!({"agents": []}));
    assert_eq!(world.ask(R::Show, None, "", anyone).status, 404);
    let deployed: Value = serde_json::from_slice(&world.deploy(&manifest(), owner, true).body).unwrap();
    let pubkey = world.agent.pubkey().unwrap().to_string();
    assert_eq!(deployed["pubkey"], pubkey);
    assert!(deployed["npub"].as_str().unwrap().starts_with("npub1"));

    let listed = world.read(R::List, None, "", anyone);
    assert_eq!(listed["agents"][0]["kinds"], json!([5050]));
    assert_eq!(listed["agents"][0]["state"], "active");
    let names = world.read(R::Names, None, "name=echo-co", anyone);
    assert_eq!(names["names"]["echo-co"], pubkey);
    assert_eq!(names["relays"][&pubkey], json!(["wss://relay.example"]));
    assert_eq!(world.read(R::Names, None, "name=other", anyone)["names"], json!({}));

    assert_eq!(world.ask(R::Command, Some("pause"), "", anyone).status, 401);
    assert_eq!(world.ask(R::Command, Some("pause"), "", stranger).status, 403);
    assert_eq!(world.ask(R::Command, Some("explode"), "", owner).status, 404);
    assert_eq!(world.read(R::Command, Some("pause"), "", owner)["state"], "paused");
    assert_eq!(world.read(R::Show, None, "", anyone)["state"], "paused");
    assert_eq!(world.read(R::Command, Some("resume"), "", owner)["state"], "active");
    let mut second = manifest();
    second["about"] = json!("Second.");
    world.deploy(&second, owner, true);
    assert_eq!(world.ask(R::Command, Some("rollback"), "", owner).status, 400);
    assert_eq!(world.ask(R::Command, Some("rollback"), "version=9", owner).status, 404);
    assert_eq!(world.read(R::Command, Some("rollback"), "version=1", owner)["version"], 3);
    assert_eq!(world.read(R::Show, None, "", anyone)["about"], "Says <it> again.");
    let versions = world.read(R::Versions, None, "version=2", owner);
    assert_eq!(versions["versions"].as_array().unwrap().len(), 3);
    assert_eq!(versions["manifest"]["about"], "Second.");

    assert_eq!(world.read(R::Delete, None, "", owner)["state"], "deleted");
    assert_eq!(world.read(R::List, None, "", anyone), json!({"agents": []}));
    assert_eq!(world.ask(R::Show, None, "", anyone).status, 404);

    // Also when its database has been removed.
    let deleted = world.agent.removal_record().unwrap();
    let again = world.ask(R::Delete, None, "", owner);
    for (route, caller, status) in
        [(R::Delete, owner, 200), (R::Delete, anyone, 401), (R::Delete, stranger, 403), (R::Show, owner, 404)]
    {
        let answer = api::answer_for_deleted(&deleted, &request(route, None, "", caller));
        assert_eq!(answer.status, status, "{route:?}");
        assert!(status != 200 || answer.body == again.body);
    }
}

#[test]
fn customers_see_their_own_jobs_and_nobody_elses() {
    let mut world = World::new();
    let mut manifest = manifest();
    manifest["memory"] = json!({"sessions": true});
    let owner = world.owner();
    world.deploy(&manifest, owner, true);
    let (alice, bob) = (Customer::new(11), Customer::new(12));
    let ids: Vec<String> = (0..5).map(|n| world.job(&alice, &format!("a{n}"))).collect();
    let of_bob = world.job(&bob, "b");

    let jobs = |document: &Value| -> Vec<String> {
        let jobs = document["jobs"].as_array().unwrap();
        jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
    };
    let own = Caller::Key(alice.pubkey());
    let newest_first: Vec<String> = ids.iter().rev().cloned().collect();
    let mine = world.read(R::History, None, "", own);
    assert_eq!(jobs(&mine), newest_first);
    assert_eq!(mine["jobs"][0]["state"], "done");
    assert!(mine["jobs"][0].get("sent").is_none());
    let page = world.read(R::History, None, "limit=2", own);
    assert_eq!(jobs(&page), newest_first[..2]);
    let next = format!("limit=2&before={}", page["next"]);
    assert_eq!(jobs(&world.read(R::History, None, &next, own)), newest_first[2..4]);
    assert_eq!(jobs(&world.read(R::History, None, "", owner)).len(), 6);
    let of_one = format!("customer={}", bob.pubkey());
    assert_eq!(jobs(&world.read(R::History, None, &of_one, owner)), std::slice::from_ref(&of_bob));
    assert_eq!(field(&world.ask(R::History, None, "limit=many", owner)), (400, json!("limit")));
    assert_eq!(world.ask(R::History, None, "", Caller::Anyone).status, 401);

    let named = format!("{}.json", ids[0]);
    let job = world.read(R::Job, Some(&named), "", own);
    assert_eq!(job["request"]["pubkey"], alice.pubkey().to_string());
    assert!(!job["sent"].as_array().unwrap().is_empty());
    assert_eq!(world.ask(R::Job, Some(&of_bob), "", own).status, 404);
    assert_eq!(world.ask(R::Job, Some("zz"), "", owner).status, 404);

    let session = format!("{}.json", alice.pubkey());
    assert_eq!(world.ask(R::Session, Some(&session), "", Caller::Key(bob.pubkey())).status, 403);
    assert!(world.read(R::Session, Some(&session), "", own)["messages"].as_array().unwrap().len() >= 2);
    assert_eq!(world.read(R::Sessions, None, "", owner)["sessions"].as_array().unwrap().len(), 2);
    let alice_key = alice.pubkey().to_string();
    assert_eq!(world.ask(R::DeleteCustomer, Some(&alice_key), "", Caller::Key(bob.pubkey())).status, 403);
    assert_eq!(world.ask(R::DeleteCustomer, Some(&alice_key), "", own).status, 204);
    assert_eq!(world.ask(R::Session, Some(&session), "", own).status, 404);
    let log = world.ask(R::Logs, None, "", owner);
    assert_eq!(log.status, 200);
    assert!(log.body.starts_with(b"{\"") && log.body.ends_with(b"\n"));
    assert_eq!(world.read(R::Metrics, None, "", owner)["jobs"]["done"], 6);
}

#[test]
fn a_customers_metrics_are_those_of_his_own_jobs() {
    let mut world = World::new();
    let owner = world.owner();
    world.deploy(&manifest(), owner, true);
    let (alice, bob) = (Customer::new(11), Customer::new(12));
    for n in 0..3 {
        world.job(&alice, &format!("a{n}"));
    }
    world.job(&bob, "b");
    let agent = world.agent.pubkey().unwrap();
    let refused = alice.sign(&Job::new(5051, world.now.seconds()).to(&agent).text("another kind"));
    world.agent.deliver(world.now, std::slice::from_ref(&refused)).unwrap();
    world.host.run(world.now, &mut world.agent);

    let of = |world: &mut World, customer: &Customer| {
        world.read(R::Metrics, None, "", Caller::Key(customer.pubkey()))
    };
    let own = of(&mut world, &alice);
    assert_eq!(own["jobs"], json!({"done": 3, "rejected": 1}));
    assert_eq!(own["failures"], json!({"kind": 1}));
    assert_eq!((&own["attempts"], &own["queued"], &own["running"]), (&json!(3), &json!(0), &json!(0)));
    let latency: Vec<u64> = serde_json::from_value(own["latency"].clone()).unwrap();
    let bounds = own["latency_bounds_millis"].as_array().unwrap().len();
    assert_eq!((latency.len(), latency.iter().sum::<u64>()), (bounds + 1, 3));
    assert_eq!(of(&mut world, &bob)["jobs"], json!({"done": 1}));
    let stranger = of(&mut world, &Customer::new(13));
    assert_eq!((&stranger["jobs"], &stranger["failures"]), (&json!({}), &json!({})));
    // Nothing that is counted of all customers together.
    for field in ["duplicates", "silent", "pongs", "interrupted", "tokens", "version"] {
        assert_eq!(own[field], Value::Null, "{field}");
    }
    let all = world.read(R::Metrics, None, "", owner);
    assert_eq!((&all["jobs"], &all["version"]), (&json!({"done": 4, "rejected": 1}), &json!(1)));
    assert_eq!(world.ask(R::Metrics, None, "", Caller::Anyone).status, 401);
    // Also once nothing is kept of what they said.
    let key = alice.pubkey().to_string();
    assert_eq!(world.ask(R::DeleteCustomer, Some(&key), "", Caller::Key(alice.pubkey())).status, 204);
    assert_eq!(of(&mut world, &alice)["jobs"], json!({"done": 3, "rejected": 1}));
}

/// Jobs that an executor works on, and that wait behind it.
#[test]
fn a_customers_metrics_show_what_waits_and_runs() {
    let mut world = World::new();
    let mut manifest = manifest();
    manifest["handlers"] = json!([
        {"kind": 5050, "executor": "webhook", "config": {"url": "https://hook.example/"}}
    ]);
    manifest["limits"] = json!({"concurrency": 1});
    let owner = world.owner();
    world.deploy(&manifest, owner, true);
    let (alice, bob) = (Customer::new(11), Customer::new(12));
    world.job(&alice, "runs");
    world.job(&alice, "waits");
    world.job(&bob, "waits too");
    let of = |world: &mut World, customer: &Customer| {
        let metrics = world.read(R::Metrics, None, "", Caller::Key(customer.pubkey()));
        (metrics["running"].as_u64().unwrap(), metrics["queued"].as_u64().unwrap(), metrics["jobs"].clone())
    };
    assert_eq!(of(&mut world, &alice), (1, 1, json!({})));
    assert_eq!(of(&mut world, &bob), (0, 1, json!({})));
    world.host.answer(world.now, &mut world.agent, 400, "no");
    let (running, queued, jobs) = of(&mut world, &alice);
    assert_eq!((running + queued, jobs), (1, json!({"failed": 1})));
}

#[test]
fn pages_escape_what_the_owner_wrote() {
    let mut world = World::new();
    let owner = world.owner();
    let mut manifest = manifest();
    manifest["homepage"] = json!("https://example.com/?a=1&b=\"2\"");
    manifest["picture"] = json!("https://elsewhere.example/a.png");
    world.deploy(&manifest, owner, true);
    world.job(&Customer::new(4), "x");
    for route in [R::Page, R::ListPage] {
        let answer = world.ask(route, None, "", Caller::Anyone);
        let page = std::str::from_utf8(&answer.body).unwrap();
        assert_eq!(answer.status, 200);
        assert!(page.contains("Echo &amp; Co") && page.contains("Says &lt;it&gt; again."), "{page}");
        assert!(page.contains("Test &lt;relay&gt;") && !page.contains("{{"), "{page}");
        // The form's own.
        assert_eq!(page.matches("<script").count(), usize::from(route == R::Page), "{page}");
        assert!(!page.contains("elsewhere"), "{page}");
    }
    let page = world.ask(R::Page, None, "", Caller::Anyone);
    assert!(String::from_utf8_lossy(&page.body).contains("<dt>Jobs done</dt><dd>1</dd>"));
    let public = world.read(R::Manifest, None, "", Caller::Anyone);
    assert_eq!(public["name"], "Echo & Co");
}

#[test]
fn a_long_list_has_several_pages_and_an_empty_one_says_so() {
    let mut world = World::new();
    let page = |world: &mut World, query: &str| {
        let answer = world.ask(R::ListPage, None, query, Caller::Anyone);
        assert_eq!(answer.status, 200, "{query}");
        String::from_utf8(answer.body.to_vec()).unwrap()
    };
    assert!(page(&mut world, "").contains("There are none yet"));
    assert!(page(&mut world, "offset=50").contains("There are none yet"));
    let owner = world.owner();
    world.deploy(&manifest(), owner, true);
    let first = world.router.agents().next().unwrap().clone();
    for n in 1..120 {
        let mut entry = first.clone();
        entry.pubkey.0[0] = n;
        entry.manifest.name = format!("agent {n:03}");
        world.router.put(world.now, entry).unwrap();
    }
    // Entries, and where the links to other pages lead.
    let cases = [
        ("", 50, [None, Some("/agents?offset=50")]),
        ("offset=50", 50, [Some("/agents"), Some("/agents?offset=100")]),
        ("offset=100", 20, [Some("/agents?offset=50"), None]),
        ("offset=119", 20, [Some("/agents?offset=50"), None]),
        ("offset=18446744073709551615", 20, [Some("/agents?offset=50"), None]),
    ];
    for (query, entries, links) in cases {
        let page = page(&mut world, query);
        assert!(page.contains("120 agents, by name"), "{query}");
        assert_eq!(page.matches("<li>").count(), entries, "{query}");
        for (rel, want) in ["prev", "next"].iter().zip(links) {
            let found = page
                .split_once(&format!("<a rel=\"{rel}\" href=\""))
                .map(|(_, rest)| rest.split_once('"').unwrap().0);
            assert_eq!(found, want, "{query} {rel}");
        }
    }
    assert_eq!(field(&world.ask(R::ListPage, None, "offset=-1", Caller::Anyone)), (400, json!("offset")));
}

#[test]
fn a_log_is_followed_until_its_reader_may_no_longer() {
    let mut world = World::new();
    let owner = world.owner();
    let (operator, key) = (Caller::Key(PubKey([7; 32])), PubKey([7; 32]).to_string());
    let mut with_operator = manifest();
    with_operator["operators"] = json!([key]);
    world.deploy(&with_operator, owner, true);
    let follow = |route, query, caller| Follower::of(&request(route, None, query, caller), world.now);
    for (route, query) in
        [(R::Logs, "follow=12"), (R::Logs, "follow=0"), (R::Logs, ""), (R::History, "follow=1")]
    {
        assert_eq!(follow(route, query, owner), None, "{query}");
    }
    let mut reader = follow(R::Logs, "limit=3&follow=1", operator).unwrap();
    let from_the_end = follow(R::Logs, "follow=1&after=1", owner).unwrap();
    let first = reader.read(world.now, &world.agent).unwrap();
    assert!(first.text.contains("version 1 deployed by"), "{}", first.text);
    assert_eq!(from_the_end.read(world.now, &world.agent).unwrap().text, "");
    // It is read once more until it has been sent.
    assert_eq!(reader.read(world.now, &world.agent).unwrap(), first);
    reader.sent(world.now, &first);
    assert_eq!(reader.read(world.now, &world.agent).unwrap().text, "");
    world.now = world.now.plus_millis(15_000);
    assert_eq!(reader.read(world.now, &world.agent).unwrap().text, "\n", "is it still there?");
    assert_eq!(world.ask(R::Command, Some("pause"), "", owner).status, 200);
    let next = reader.read(world.now, &world.agent).unwrap();
    assert!(next.text.contains("now paused") && next.text.lines().count() == 1, "{}", next.text);
    reader.sent(world.now, &next);

    let tomorrow = world.now.plus_millis(86_400_000);
    assert_eq!(reader.read(tomorrow, &world.agent), None, "its client asks again");
    world.deploy(&manifest(), owner, true);
    assert_eq!(reader.read(world.now, &world.agent), None, "no operator any more");
    assert!(from_the_end.read(world.now, &world.agent).is_some());
    assert_eq!(world.ask(R::Delete, None, "", owner).status, 200);
    assert_eq!(from_the_end.read(world.now, &world.agent), None);
}

#[test]
fn a_customer_reads_so_often_and_an_owner_as_he_likes() {
    let mut world = World::new();
    let owner = world.owner();
    world.deploy(&manifest(), owner, true);
    let customer = Caller::Key(PubKey([4; 32]));
    let mut ask = |caller| world.ask(R::History, None, "", caller).status;
    let answers: Vec<u16> = (0..61).map(|_| ask(customer)).collect();
    assert_eq!((answers[59], answers[60]), (200, 429));
    assert_eq!(ask(Caller::Key(PubKey([5; 32]))), 200, "another");
    assert!((0..100).all(|_| ask(owner) == 200));
}
