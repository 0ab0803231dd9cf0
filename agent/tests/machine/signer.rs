//! An agent whose key a remote signer has (NIP-46).

use std::collections::BTreeMap;
use std::sync::Arc;

use relay_agent::cipher::Cipher;
use relay_agent::identity::{Draft, missing};
use relay_agent::job::JobState;
use relay_agent::machine::{Agent, Context, ExchangeEvent};
use relay_agent::manifest::Manifest;
use relay_agent::secrets::Secrets;
use relay_agent::testing::{Customer, FakeHost, Request, Sqlite};
use relay_engine::types::{Event, EventId, Now};
use serde_json::{Value, json};

use crate::bunker::{Bunker, Manner};
use crate::world::{RELAY_URL, START, manifest, owner};

const DAY: u64 = 86_400;

pub(crate) struct Signed {
    sqlite: Sqlite,
    pub(crate) agent: Agent<Sqlite>,
    pub(crate) host: FakeHost,
    pub(crate) bunker: Bunker,
    pub(crate) now: Now,
    openings: u8,
}

fn context(bunker: &Bunker, seed: u8) -> Context {
    let secrets = BTreeMap::from([("AGENT_MASTER_SECRET", "5a".repeat(32)), ("AGENT_BUNKER", bunker.url())]);
    let secrets = move |name: &str| secrets.get(name).cloned();
    let secrets: Arc<dyn Secrets + Send + Sync> = Arc::new(secrets);
    Context { secrets, relay_url: Some(RELAY_URL.to_owned()), blossom: None, seed: [seed; 32] }
}

impl Signed {
    pub(crate) fn new(manner: Manner) -> Self {
        Self::with(manner, |_| ())
    }

    pub(crate) fn with(manner: Manner, change: impl FnOnce(&mut Value)) -> Self {
        let mut bunker = Bunker::new();
        bunker.manner = manner;
        let (sqlite, now) = (Sqlite::new(), Now::from_seconds(START));
        let agent = Agent::open(now, sqlite.clone(), context(&bunker, 0)).unwrap();
        let mut world = Signed { sqlite, agent, host: FakeHost::default(), bunker, now, openings: 0 };
        let manifest = world.manifest(change);
        world.agent.deploy(now, &manifest, &owner()).expect("deployed");
        world.run();
        world
    }

    fn manifest(&self, change: impl FnOnce(&mut Value)) -> Manifest {
        let pubkey = self.bunker.user.pubkey().to_string();
        manifest(|json| {
            json["identity"] = json!({"bunker": {"secret": "AGENT_BUNKER"}});
            json["pubkey"] = json!(pubkey);
            change(json);
        })
    }

    /// The signer answers what it was asked, until it is asked nothing more.
    pub(crate) fn run(&mut self) {
        self.host.run(self.now, &mut self.agent);
        while !self.host.exchanges.is_empty() {
            let (id, requests) = self.host.exchanges.remove(0);
            for request in requests {
                for answer in self.bunker.answer(&request) {
                    self.agent.handle_exchange(self.now, id, ExchangeEvent::Event(answer));
                }
            }
            self.host.run(self.now, &mut self.agent);
        }
    }

    /// Time passes, up to each of the agent's times.
    pub(crate) fn pass(&mut self, seconds: u64) {
        let end = self.now.plus_millis(seconds * 1000);
        while let Some(at) = self.agent.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.agent.handle_timeout(self.now);
            self.run();
        }
        self.now = end;
    }

    pub(crate) fn crash(&mut self) {
        self.openings += 1;
        self.host.exchanges.clear();
        self.agent =
            Agent::open(self.now, self.sqlite.clone(), context(&self.bunker, self.openings)).unwrap();
        self.run();
    }

    pub(crate) fn request(&self) -> Request {
        Request::new(5050, self.now.seconds()).to(&self.bunker.user.pubkey()).text("hello")
    }

    pub(crate) fn order(&mut self, customer: &Customer, request: &Request) -> EventId {
        let event = customer.sign(request);
        self.host.store(event.clone());
        self.agent.deliver(self.now, std::slice::from_ref(&event)).expect("stored");
        self.run();
        event.id
    }

    pub(crate) fn statuses(&self, request: &EventId) -> Vec<String> {
        self.host.answers_to(request).into_iter().map(|(status, _)| status).collect()
    }

    fn state(&self, request: &EventId) -> (JobState, String) {
        let job = self.agent.job(request).unwrap().expect("a job");
        (job.state, job.cause)
    }

    /// The rules that always hold.
    pub(crate) fn check(&self) {
        let agent = self.bunker.user.pubkey();
        let own = self.host.stored.iter().filter(|event| event.pubkey == agent);
        let mut latest: BTreeMap<String, (u64, bool)> = BTreeMap::new();
        for event in own {
            assert_eq!(missing(event), None, "nothing unsigned is published");
            assert!(self.bunker.signed.contains(&event.id.to_string()), "signed by the signer");
            let Some((_, job)) = Draft::of(event)
                .tags
                .into_iter()
                .find(|tag| tag[0] == "e")
                .map(|tag| (tag[0].clone(), tag[1].clone()))
            else {
                continue;
            };
            let (before, is_answered) = latest.get(&job).copied().unwrap_or_default();
            assert!(event.created_at > before, "times rise strictly");
            assert!(!is_answered, "nothing follows the result");
            latest.insert(job, (event.created_at, event.kind == 6050));
        }
    }
}

#[test]
fn a_result_is_signed_by_the_signer() {
    let mut world = Signed::new(Manner::Willing);
    let customer = Customer::new(1);
    let id = world.order(&customer, &world.request());
    assert_eq!(world.statuses(&id), ["processing", "result"]);
    let (_, result) = world.host.answers_to(&id).pop().unwrap();
    assert_eq!(customer.read(&result), "hello");
    assert_eq!(world.bunker.asked, ["connect", "get_public_key", "sign_event", "sign_event"]);
    assert_eq!(world.state(&id), (JobState::Done, String::new()));
    assert!(world.agent.is_idle() && world.agent.poll_timeout().is_none_or(|at| at > world.now));
    world.check();
    // Connected once for all.
    world.crash();
    let again = world.order(&customer, &world.request().tag(&["param", "a", "b"]));
    assert_eq!(world.statuses(&again), ["processing", "result"]);
    assert_eq!(world.bunker.asked[4..], ["sign_event", "sign_event"]);
    world.check();
}

#[test]
fn an_encrypted_request_is_decrypted_and_answered_by_the_signer() {
    for cipher in [Cipher::Nip44, Cipher::Nip04] {
        let mut world = Signed::new(Manner::Willing);
        let customer = Customer::new(1);
        let id = world.order(&customer, &world.request().encrypted(cipher, &world.bunker.user.pubkey()));
        assert_eq!(world.statuses(&id), ["encrypted", "result"], "{cipher:?}");
        let answers = world.host.answers_to(&id);
        assert_eq!(customer.read(&answers[1].1), "hello");
        assert_eq!(customer.read(&answers[0].1), "");
        assert_eq!(relay_agent::nip90::payload(&answers[1].1).0, cipher, "answered by the same cipher");
        let job = world.agent.job(&id).unwrap().unwrap();
        assert_eq!((job.state, job.sent.len(), job.sent[1].text.as_str()), (JobState::Done, 2, "hello"));
        assert!(
            job.sent.iter().all(|sent| sent.id.is_empty()),
            "ids are not known before they are encrypted"
        );
        world.check();
    }
}

#[test]
fn announcements_and_pongs_are_signed_too() {
    let mut world = Signed::with(Manner::Willing, |json| json["announce"] = json!(true));
    let kinds: Vec<u16> = world.host.stored.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [0, 10_002, 10_050, 31_990]);
    let customer = Customer::new(1);
    let tags = vec![vec!["p".to_owned(), world.bunker.user.pubkey().to_string()]];
    let ping = customer.keys.sign(&Draft { created_at: START, kind: 7007, tags, content: String::new() });
    world.agent.deliver(world.now, &[ping]).unwrap();
    world.run();
    assert_eq!(world.host.stored.last().unwrap().kind, 7000);
    world.check();
}

#[test]
fn what_a_silent_signer_has_not_signed_waits_for_it_across_restarts() {
    let mut world = Signed::new(Manner::Silent);
    let id = world.order(&Customer::new(1), &world.request());
    assert_eq!(world.statuses(&id), [""; 0]);
    world.pass(120);
    assert_eq!(world.agent.error(), Some("the remote signer does not answer"));
    assert!(world.agent.is_idle() || world.agent.poll_timeout().is_some());
    assert_eq!(world.state(&id).0, JobState::Responding);
    world.crash();
    world.pass(600);
    assert_eq!(world.statuses(&id), [""; 0]);
    world.bunker.manner = Manner::Willing;
    world.pass(600);
    // `processing` has expired meanwhile.
    assert_eq!(world.statuses(&id), ["result"]);
    assert_eq!((world.state(&id), world.agent.error()), ((JobState::Done, String::new()), None));
    let log: Vec<String> = world.agent.logs(0, 100).unwrap().into_iter().map(|line| line.message).collect();
    let said = log.iter().filter(|line| line.contains("does not answer")).count();
    assert_eq!(said, 2, "once for each opening: {log:?}");
    world.check();
}

#[test]
fn a_silent_signer_is_asked_less_and_less_often_and_for_a_day() {
    let mut world = Signed::new(Manner::Silent);
    let id = world.order(&Customer::new(1), &world.request());
    world.pass(3_600);
    let asked = world.bunker.asked.len();
    assert!(
        (20..=60).contains(&asked),
        "{asked}: each 30 s of waiting and up to 120 s of backoff, in two steps"
    );
    world.pass(DAY);
    assert_eq!(world.state(&id), (JobState::Failed, "signer".to_owned()));
    // The error for the customer has waited for as long.
    world.pass(DAY + 3_600);
    let asked = world.bunker.asked.len();
    assert_eq!(world.agent.poll_timeout(), None, "nothing is left to sign");
    world.pass(DAY);
    assert_eq!(world.bunker.asked.len(), asked);
    world.check();
}

#[test]
fn a_signer_that_is_behind_gets_no_more_work() {
    let mut world = Signed::new(Manner::Silent);
    world.pass(1);
    let mut accepted = 0;
    for number in 0..1_000 {
        let event = Customer::new(2_000 + number).sign(&world.request());
        match world.agent.deliver(world.now, &[event]) {
            Ok(()) => accepted += 1,
            Err(error) => {
                assert!(
                    error.to_string().contains("too many unsigned events are queued for the remote signer"),
                    "{error}"
                );
                break;
            }
        }
        world.run();
        world.pass(60);
    }
    assert!((100..400).contains(&accepted), "{accepted}");
}

#[test]
fn a_refused_result_is_a_failed_job() {
    let mut world = Signed::new(Manner::Refusing(6050));
    let id = world.order(&Customer::new(1), &world.request());
    world.pass(600);
    assert_eq!(world.statuses(&id), ["processing", "error"]);
    assert_eq!(world.state(&id), (JobState::Failed, "signer".to_owned()));
    world.check();
    // Others go on.
    world.bunker.manner = Manner::Willing;
    let next = world.order(&Customer::new(2), &world.request());
    world.pass(600);
    assert_eq!(world.statuses(&next), ["processing", "result"]);
    world.check();
}

#[test]
fn refused_feedback_does_not_keep_the_result_back() {
    let mut world = Signed::new(Manner::Refusing(7000));
    let id = world.order(&Customer::new(1), &world.request());
    world.pass(600);
    assert_eq!(world.statuses(&id), ["result"]);
    assert_eq!(world.state(&id), (JobState::Done, String::new()));
    world.check();
}

#[test]
fn a_signature_that_is_not_the_agents_is_not_taken() {
    for manner in [Manner::ForAnother, Manner::Redating] {
        let mut world = Signed::new(manner);
        let id = world.order(&Customer::new(1), &world.request());
        world.pass(600);
        assert_eq!(world.statuses(&id), [""; 0], "{manner:?}");
        assert_eq!(world.state(&id), (JobState::Failed, "signer".to_owned()), "{manner:?}");
        world.check();
    }
}

#[test]
fn a_signer_for_another_key_is_asked_for_no_signature() {
    let mut world = Signed::new(Manner::SaysAnother);
    let id = world.order(&Customer::new(1), &world.request());
    world.pass(600);
    assert!(world.agent.error().unwrap().contains("signs for another key"), "{:?}", world.agent.error());
    assert!(!world.bunker.asked.contains(&"sign_event".to_owned()));
    assert_eq!(world.state(&id).0, JobState::Responding);
    world.check();
}

#[test]
fn a_second_answer_changes_nothing() {
    let mut world = Signed::new(Manner::Twice);
    let id = world.order(&Customer::new(1), &world.request());
    assert_eq!((world.statuses(&id), world.host.repeated), (vec!["processing".into(), "result".into()], 0));
    // Nor does an old one.
    let next = Customer::new(2).sign(&world.request());
    world.agent.deliver(world.now, &[next]).unwrap();
    world.host.run(world.now, &mut world.agent);
    let (open, _) = world.host.exchanges[0].clone();
    for answer in world.bunker.given.clone() {
        world.agent.handle_exchange(world.now, open, ExchangeEvent::Event(answer));
    }
    world.host.run(world.now, &mut world.agent);
    assert_eq!(world.host.exchanges.len(), 1, "its own answers are still awaited");
    world.check();
}

#[test]
fn answers_of_others_are_not_read() {
    let mut world = Signed::new(Manner::Silent);
    let event = Customer::new(1).sign(&world.request());
    world.agent.deliver(world.now, std::slice::from_ref(&event)).unwrap();
    world.host.run(world.now, &mut world.agent);
    let (open, requests) = world.host.exchanges[0].clone();
    let mut other = Bunker::new();
    other.manner = Manner::Willing;
    let genuine = other.answer(&requests[0]).remove(0);
    let forged = Draft::of(&genuine);
    for keys in [Customer::new(1).keys, Customer::new(50).keys] {
        world.agent.handle_exchange(world.now, open, ExchangeEvent::Event(keys.sign(&forged)));
    }
    // The signer's event with another signature.
    let mut json = genuine.json().to_vec();
    let at = json.len() - 10;
    json[at] = if json[at] == b'0' { b'1' } else { b'0' };
    world.agent.handle_exchange(world.now, open, ExchangeEvent::Event(Event::from_canonical(json.into())));
    world.host.run(world.now, &mut world.agent);
    assert_eq!(world.host.exchanges.len(), 1);
    world.agent.handle_exchange(world.now, open, ExchangeEvent::Event(genuine));
    world.host.run(world.now, &mut world.agent);
    assert_ne!(world.host.exchanges[0].0, open, "it goes on with the next step");
}

#[test]
fn a_signer_that_ignores_a_used_secret_still_knows_its_client() {
    let mut world = Signed::new(Manner::SilentToConnect);
    let id = world.order(&Customer::new(1), &world.request());
    world.pass(60);
    assert_eq!(world.statuses(&id), ["processing", "result"]);
    world.check();
}

#[test]
fn a_request_for_the_users_consent_is_logged_and_is_the_error() {
    let mut world = Signed::new(Manner::Consent);
    let id = world.order(&Customer::new(1), &world.request());
    let error = "the remote signer wants its user's consent: https://signer.example/ok";
    assert_eq!(world.agent.error(), Some(error));
    assert_eq!(world.agent.logs(0, 100).unwrap().last().unwrap().message, error);
    // The user does; the signer answers the requests that it has.
    world.bunker.manner = Manner::Willing;
    world.pass(900);
    assert_eq!(
        (world.statuses(&id), world.agent.error()),
        (vec!["processing".into(), "result".into()], None)
    );
    world.check();
}

#[test]
fn a_host_that_reaches_no_relay_says_so_and_tries_again() {
    let mut world = Signed::new(Manner::Willing);
    let event = Customer::new(1).sign(&world.request());
    world.agent.deliver(world.now, std::slice::from_ref(&event)).unwrap();
    world.host.run(world.now, &mut world.agent);
    let (open, _) = world.host.exchanges.remove(0);
    world.agent.handle_exchange(world.now, open, ExchangeEvent::Failed("no route".to_owned()));
    assert_eq!(world.agent.error(), Some("the remote signer cannot be asked: no route"));
    world.run();
    assert!(world.host.exchanges.is_empty() && world.agent.is_idle(), "it can be closed until then");
    world.pass(10);
    assert_eq!(world.statuses(&event.id), ["processing", "result"]);
    world.check();
}

#[test]
fn an_encrypted_request_outlives_restarts_and_is_refused_if_it_cannot_be_decrypted() {
    let mut world = Signed::new(Manner::Silent);
    let encrypted = |world: &Signed| world.request().encrypted(Cipher::Nip44, &world.bunker.user.pubkey());
    let id = world.order(&Customer::new(1), &encrypted(&world));
    assert_eq!(world.state(&id).0, JobState::WaitingInput);
    world.crash();
    world.bunker.manner = Manner::Willing;
    world.pass(240);
    assert_eq!(world.statuses(&id), ["encrypted", "result"]);
    world.bunker.manner = Manner::RefusingToDecrypt;
    let refused = world.order(&Customer::new(1), &encrypted(&world));
    world.pass(240);
    assert_eq!(world.statuses(&refused), ["error"]);
    assert_eq!(world.state(&refused), (JobState::Failed, "signer".to_owned()));
    world.check();
    // Cancelled while it waits.
    world.bunker.manner = Manner::Silent;
    let customer = Customer::new(3);
    let cancelled = world.order(&customer, &encrypted(&world));
    world.agent.deliver(world.now, &[customer.cancel(&[cancelled], START)]).unwrap();
    world.bunker.manner = Manner::Willing;
    world.run();
    world.pass(240);
    assert_eq!((world.statuses(&cancelled), world.state(&cancelled).0), (vec![], JobState::Cancelled));
}

#[test]
fn an_opened_request_that_is_not_accepted_is_answered_in_its_cipher() {
    let mut world = Signed::new(Manner::Willing);
    let customer = Customer::new(1);
    let request = Request::new(5001, START).to(&world.bunker.user.pubkey());
    let id = world.order(&customer, &request.encrypted(Cipher::Nip44, &world.bunker.user.pubkey()));
    assert_eq!(world.statuses(&id), ["encrypted"]);
    assert_eq!(world.state(&id), (JobState::Failed, "kind".to_owned()));
    world.check();
}

/// The process dies before each statement of a job, in turn; another one goes on.
#[test]
fn whatever_write_fails_each_job_has_one_answer() {
    for cipher in [None, Some(Cipher::Nip44)] {
        for at in 1.. {
            let mut world = Signed::new(Manner::Willing);
            let mut request = world.request();
            if let Some(cipher) = cipher {
                request = request.encrypted(cipher, &world.bunker.user.pubkey());
            }
            let event = Customer::new(1).sign(&request);
            world.sqlite.fail_at(at);
            let delivered = world.agent.deliver(world.now, std::slice::from_ref(&event));
            world.run();
            let is_last = world.sqlite.is_armed();
            world.sqlite.fail_at(u64::MAX);
            world.crash();
            if delivered.is_err() {
                world.agent.deliver(world.now, std::slice::from_ref(&event)).unwrap();
            }
            world.run();
            world.pass(300);
            let wanted = if cipher.is_some() { ["encrypted", "result"] } else { ["processing", "result"] };
            assert_eq!(world.statuses(&event.id), wanted, "{cipher:?}, statement {at}");
            assert_eq!(world.state(&event.id).0, JobState::Done);
            world.check();
            if is_last {
                break;
            }
        }
    }
}

#[test]
fn a_large_result_is_refused_before_the_signer_is_asked() {
    let mut world = Signed::new(Manner::Willing);
    let text = "x".repeat(25_000);
    let agent = world.bunker.user.pubkey();
    let id = world.order(&Customer::new(1), &Request::new(5050, START).to(&agent).text(&text));
    assert_eq!(world.statuses(&id), ["processing", "error"]);
    assert_eq!(world.state(&id), (JobState::Failed, "output_size".to_owned()));
    let text = "\"\\\n".repeat(3_000);
    let id = world.order(&Customer::new(2), &Request::new(5050, START).to(&agent).text(&text));
    assert_eq!(
        world.statuses(&id),
        ["processing", "result"],
        "what fits can be signed, whatever it is made of"
    );
    let large =
        Request::new(5050, START).to(&agent).text(&"y".repeat(60_000)).encrypted(Cipher::Nip44, &agent);
    let id = world.order(&Customer::new(3), &large);
    assert_eq!(world.statuses(&id), ["error"], "too large to be decrypted");
    world.check();
}

#[test]
fn a_deleted_agent_retracts_its_announcement_through_the_signer() {
    let mut world = Signed::with(Manner::Willing, |json| json["announce"] = json!(true));
    world.bunker.manner = Manner::Silent;
    world.agent.set_state(world.now, relay_agent::machine::AgentState::Deleted).unwrap();
    world.run();
    world.crash();
    world.bunker.manner = Manner::Willing;
    world.pass(600);
    assert_eq!(world.host.stored.last().unwrap().kind, 5);
    world.check();
}

#[test]
fn a_key_that_comes_to_the_host_signs_what_waits() {
    let mut world = Signed::new(Manner::Silent);
    let id = world.order(&Customer::new(1), &world.request());
    let nsec = world.bunker.user.nsec();
    let url = world.bunker.url();
    let secrets = move |name: &str| match name {
        "AGENT_MASTER_SECRET" => Some("5a".repeat(32)),
        "AGENT_BUNKER" => Some(url.clone()),
        "AGENT_KEY" => Some(nsec.clone()),
        _ => None,
    };
    let context = Context { secrets: Arc::new(secrets), relay_url: None, blossom: None, seed: [9; 32] };
    world.agent = Agent::open(world.now, world.sqlite.clone(), context).unwrap();
    let imported = manifest(|json| json["identity"] = json!({"imported": {"secret": "AGENT_KEY"}}));
    world.agent.deploy(world.now, &imported, &owner()).unwrap();
    world.host.run(world.now, &mut world.agent);
    assert_eq!(world.statuses(&id), ["processing", "result"]);
    assert_eq!(world.agent.error(), None);
}
