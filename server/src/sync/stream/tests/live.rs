//! Live connections without sockets: what is said, stored and sent, and how they end.

use std::sync::LazyLock;
use std::time::Duration;

use relay_engine::store::Seq;
use relay_engine::testing::event_of_json;
use relay_engine::testing::signing::{event, key};
use relay_engine::types::{Event, EventId, PubKey};
use serde_json::{Value, json};

use super::super::super::information::Information;
use super::super::super::local::{LogEntry, Logged};
use super::super::super::ranges::Scope;
use super::super::super::session::Outcomes;
use super::super::super::testing::{Random, text_of};
use super::super::counts::StreamCounts;
use super::super::live::{Action, Compared, End, Live, LivePlan};
use super::super::memory::PeerMemory;

const NOW: Duration = Duration::from_secs(100);
const SILENCE: Duration = Duration::from_secs(60);

fn plan(filters: &[&str], down: bool, up: bool) -> LivePlan {
    let scopes: Vec<Scope> = filters.iter().map(|json| Scope::new(json, None, None).unwrap()).collect();
    let filters = scopes.iter().map(|scope| scope.filter().clone()).collect();
    LivePlan { scopes, filters, down, up, silence: SILENCE, own: None }
}

/// Signed once: tests ask for them often.
static NOTES: LazyLock<Vec<Event>> = LazyLock::new(|| {
    let signed = |number: u64| event(&key(1)).at(1_000 + number).content(format!("{number}")).sign();
    (0..50).map(|number| event_of_json(&signed(number).json()).unwrap()).collect()
});

fn note(number: u64) -> Event {
    NOTES[number as usize].clone()
}

/// A live connection, and what it has wanted.
struct World<'a> {
    live: Live<'a>,
    memory: PeerMemory,
}

impl<'a> World<'a> {
    fn new(plan: &'a LivePlan, counts: &'a mut StreamCounts) -> Self {
        World::with_memory(plan, counts, PeerMemory::default())
    }

    fn with_memory(plan: &'a LivePlan, counts: &'a mut StreamCounts, memory: PeerMemory) -> Self {
        let information = Information { message_bytes_max: Some(2_000), ..Information::default() };
        let live = Live::new(plan, information, memory.clone(), counts, NOW, Seq(0));
        World { live, memory }
    }

    /// One whose subscription is open, and which has compared what was missed up to event 10.
    fn in_step(plan: &'a LivePlan, counts: &'a mut StreamCounts) -> Self {
        let mut world = World::new(plan, counts);
        if plan.down {
            world.says(json!(["EOSE", "live"]));
        }
        assert_eq!(world.actions().last(), Some(&Action::CatchUp));
        world.live.caught_up(NOW, Compared { sent: Seq(10), until: Seq(10), since: 0 });
        assert_eq!(world.actions(), []);
        world
    }

    fn says(&mut self, message: Value) {
        self.live.handle(NOW, &message.to_string());
    }

    fn sends(&mut self, event: &Event) {
        self.live.handle(NOW, &format!(r#"["EVENT","live",{}]"#, text_of(event)));
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.live.poll()).collect()
    }

    /// The messages that are sent.
    fn sent(&mut self) -> Vec<Value> {
        let sent = self.actions().into_iter().filter_map(|action| match action {
            Action::Send(message) => Some(serde_json::from_str(&message).unwrap()),
            _ => None,
        });
        sent.collect()
    }

    /// How it has ended.
    fn end(&mut self) -> Option<End> {
        self.actions().into_iter().find_map(|action| match action {
            Action::End(end) => Some(end),
            _ => None,
        })
    }

    /// These events are stored here, as the log has them; those that are then loaded.
    fn log(&mut self, numbers: &[u64]) -> Vec<EventId> {
        let newest = Seq(*numbers.iter().max().unwrap());
        self.live.grew(NOW, newest);
        let entry = |number: &u64| {
            let event = note(*number);
            LogEntry { seq: Seq(*number), id: event.id, created_at: event.created_at }
        };
        let mut loaded = Vec::new();
        for action in self.actions() {
            match action {
                Action::ReadLog(after) => {
                    let entries = numbers.iter().filter(|number| **number > after.0).map(entry).collect();
                    self.live.logged(NOW, Logged { entries, withheld: 0, covered: newest });
                }
                other => panic!("{other:?}"),
            }
        }
        for action in self.actions() {
            match action {
                Action::Load(ids) => loaded.extend(ids),
                Action::ReadLog(_) => {}
                other => panic!("{other:?}"),
            }
        }
        loaded
    }

    /// Of these the ids are given as they were loaded.
    fn load(&mut self, numbers: &[u64]) {
        let events = numbers.iter().map(|number| (note(*number).id, Some(text_of(&note(*number)))));
        self.live.loaded(NOW, events.collect());
    }
}

#[test]
fn a_subscription_is_opened_before_anything_is_compared() {
    let (plan, mut counts) =
        (plan(&[r#"{"kinds":[1]}"#, r#"{"kinds":[7],"since":5}"#], true, true), StreamCounts::default());
    let mut world = World::new(&plan, &mut counts);
    let want = json!(["REQ", "live", {"kinds": [1], "limit": 0}, {"kinds": [7], "since": 5, "limit": 0}]);
    assert_eq!(world.sent(), [want]);
    // A relay that gives stored events all the same: they will be compared.
    world.sends(&note(1));
    assert_eq!(world.actions(), []);
    world.says(json!(["EOSE", "another"]));
    assert_eq!(world.actions(), []);
    world.says(json!(["EOSE", "live"]));
    assert_eq!(world.actions(), [Action::CatchUp]);
    // What comes now is stored, although comparing has not come to its end.
    world.sends(&note(2));
    assert_eq!(world.actions(), [Action::Store(note(2))]);
    world.says(json!(["EOSE", "live"]));
    assert_eq!(world.actions(), [], "it is compared once");
    assert_eq!((counts.received, counts.unasked), (1, 0));
}

#[test]
fn where_nothing_is_fetched_nothing_is_asked_for() {
    let (plan, mut counts) = (plan(&["{}"], false, true), StreamCounts::default());
    let mut world = World::new(&plan, &mut counts);
    assert_eq!(world.actions(), [Action::CatchUp]);
    world.sends(&note(1));
    assert_eq!((world.actions(), counts.unasked), (vec![], 1));
}

#[test]
fn a_refused_subscription_is_asked_for_otherwise_or_given_up_in_words() {
    for (message, want) in [
        ("auth-required: who are you?", Some(End::CutOff("--key".to_owned()))),
        ("rate-limited: later", Some(End::Retry("rate-limited".to_owned()))),
        ("error: x", Some(End::Retry("closes REQ".to_owned()))),
        ("restricted: no", Some(End::CutOff("refuses REQ".to_owned()))),
        ("invalid: limit must be above 0", None),
    ] {
        let (plan, mut counts) = (plan(&["{}"], true, false), StreamCounts::default());
        let mut world = World::new(&plan, &mut counts);
        world.actions();
        world.says(json!(["CLOSED", "live", message]));
        match want {
            None => {
                assert_eq!(world.sent(), [json!(["REQ", "live", {"limit": 1}])]);
                world.says(json!(["CLOSED", "live", message]));
                assert!(matches!(world.end(), Some(End::CutOff(_))), "{message}");
            }
            Some(want) => match (world.end(), want) {
                (Some(End::Retry(got)), End::Retry(want)) | (Some(End::CutOff(got)), End::CutOff(want)) => {
                    assert!(got.contains(&want), "{got}");
                }
                (got, _) => panic!("{message}: {got:?}"),
            },
        }
    }
    // An open one that is closed: what is published meanwhile is compared on the next connection.
    let (plan, mut counts) = (plan(&["{}"], true, false), StreamCounts::default());
    let mut world = World::in_step(&plan, &mut counts);
    world.says(json!(["CLOSED", "live", "restricted: enough"]));
    assert!(matches!(world.end(), Some(End::Retry(why)) if why.contains("closes the subscription")));
}

#[test]
fn a_key_answers_a_challenge_and_then_the_subscription_is_opened() {
    let (mut plan, mut counts) = (plan(&["{}"], true, true), StreamCounts::default());
    plan.own = Some(PubKey([1; 32]));
    let mut world = World::new(&plan, &mut counts);
    world.actions();
    world.says(json!(["AUTH", "challenge"]));
    assert_eq!(world.actions(), [Action::Authenticate("challenge".to_owned())]);
    world.says(json!(["CLOSED", "live", "auth-required: x"]));
    world.live.authenticate(&note(7));
    assert_eq!(world.sent().len(), 1);
    world.says(json!(["OK", note(7).id.to_string(), true, ""]));
    assert_eq!(world.sent(), [json!(["REQ", "live", {"limit": 0}])]);
    // It was refused before the key was accepted, or so it seems: it is asked again, and not without end.
    for _ in 0..3 {
        world.says(json!(["CLOSED", "live", "auth-required: x"]));
        assert_eq!(world.sent(), [json!(["REQ", "live", {"limit": 0}])]);
    }
    world.says(json!(["CLOSED", "live", "auth-required: x"]));
    assert!(matches!(world.end(), Some(End::CutOff(why)) if why.contains("refuses this key")));
    // Another one whose key is refused.
    let mut counts = StreamCounts::default();
    let mut world = World::new(&plan, &mut counts);
    world.says(json!(["AUTH", "challenge"]));
    world.live.authenticate(&note(7));
    world.says(json!(["OK", note(7).id.to_string(), false, "restricted: no"]));
    assert!(matches!(world.end(), Some(End::CutOff(why)) if why.contains("refuses the authentication")));
}

#[test]
fn a_relay_that_lies_or_floods_is_cut_off_in_words_and_one_that_errs_is_not() {
    let not_matching = event_of_json(&event(&key(1)).kind(7).at(9).sign().json()).unwrap();
    let mismatched = format!(r#"["EVENT","live",{}]"#, text_of(&not_matching));
    let unasked = format!(r#"["EVENT","other",{}]"#, text_of(&note(1)));
    let notice = json!(["NOTICE", "x".repeat(100_000)]).to_string();
    for (message, times, want) in [
        (&*mismatched, 100, None),
        (&mismatched, 101, Some("not of the filter")),
        (&unasked, 100, None),
        (&unasked, 101, Some("not asked for")),
        (r#"["EVENT","live",{"id":"7"}]"#, 101, Some("invalid")),
        (r#"["EVENT","live",7]"#, 100, None),
        ("nonsense", 100, None),
        ("nonsense", 101, Some("malformed messages")),
        (&notice, 80, None),
        (&notice, 90, Some("floods")),
        (r#"["EOSE","live"]"#, 1_000, None),
    ] {
        let (plan, mut counts) = (plan(&[r#"{"kinds":[1]}"#], true, true), StreamCounts::default());
        let mut world = World::in_step(&plan, &mut counts);
        (0..times).for_each(|_| world.live.handle(NOW, message));
        match (world.end(), want) {
            (None, None) => {}
            (Some(End::CutOff(why)), Some(want)) => assert!(why.contains(want), "{why}"),
            (got, _) => panic!("{:.60} {times}: {got:?}", message),
        }
    }
    // Signatures are checked later.
    let (plan, mut counts) = (plan(&["{}"], true, false), StreamCounts::default());
    let mut world = World::in_step(&plan, &mut counts);
    let outcomes = Outcomes { invalid: 101, ..Outcomes::default() };
    world.live.stored(&[], Some(&outcomes));
    assert!(matches!(world.end(), Some(End::CutOff(why)) if why.contains("invalid")));
    // Stored events that nobody asked for are passed over, and not without end.
    let mut counts = StreamCounts::default();
    let mut world = World::new(&plan, &mut counts);
    (0..10_100).for_each(|_| world.sends(&note(1)));
    assert_eq!(world.end(), None);
    world.sends(&note(1));
    assert!(matches!(world.end(), Some(End::CutOff(why)) if why.contains("not asked for")));
}

#[test]
fn silence_is_asked_about_and_then_ends_it() {
    let (plan, mut counts) = (plan(&["{}"], true, true), StreamCounts::default());
    let mut world = World::in_step(&plan, &mut counts);
    assert_eq!(world.live.deadline(), NOW + SILENCE / 2);
    world.live.timeout(NOW + SILENCE / 2);
    assert_eq!(world.actions(), [Action::Ping]);
    world.live.hear(NOW + SILENCE / 2);
    assert_eq!(world.live.deadline(), NOW + SILENCE);
    world.live.timeout(NOW + SILENCE);
    assert_eq!(world.actions(), [Action::Ping]);
    assert_eq!(world.live.deadline(), NOW + SILENCE + SILENCE / 2);
    world.live.timeout(NOW + SILENCE + SILENCE / 2);
    assert!(matches!(world.end(), Some(End::Retry(why)) if why.contains("nothing was heard for 60 s")));
    // Pongs alone are no answer to REQ.
    let mut counts = StreamCounts::default();
    let mut world = World::new(&plan, &mut counts);
    world.live.hear(NOW + SILENCE);
    world.live.timeout(NOW + SILENCE);
    assert!(matches!(world.end(), Some(End::Retry(why)) if why.contains("REQ")));
    // Nor to EVENT.
    let mut counts = StreamCounts::default();
    let mut world = World::in_step(&plan, &mut counts);
    world.log(&[11]);
    world.load(&[11]);
    world.live.hear(NOW + SILENCE);
    world.live.timeout(NOW + SILENCE);
    assert!(matches!(world.end(), Some(End::Retry(why)) if why.contains("EVENT")));
}

#[test]
fn what_came_from_a_relay_is_not_sent_back_to_it() {
    let (plan, mut counts) = (plan(&["{}"], true, true), StreamCounts::default());
    let mut world = World::in_step(&plan, &mut counts);
    // 11 came and is stored, 12 came and is being stored, 13 is from elsewhere, 14 was here when it came.
    for number in [11, 12, 14] {
        world.sends(&note(number));
    }
    world.actions();
    let outcomes = Outcomes { seqs: vec![11, 14], ..Outcomes::default() };
    world.live.stored(&[note(11).id, note(14).id], Some(&outcomes));
    assert_eq!(world.log(&[11, 12, 13, 14]), [note(13).id]);
    world.load(&[13]);
    assert_eq!(world.sent().len(), 1);
    assert_eq!(world.live.sent(), Some(Seq(12)), "13 is not answered");
    world.says(json!(["OK", note(13).id.to_string(), false, "duplicate: x"]));
    assert_eq!(world.live.sent(), Some(Seq(14)));
    assert_eq!((counts.sent, counts.accepted), (1, 1));
}

#[test]
fn another_stream_of_the_same_relay_does_not_send_it_back_either() {
    let (down, mut down_counts) = (plan(&["{}"], true, false), StreamCounts::default());
    let (up, mut up_counts) = (plan(&["{}"], false, true), StreamCounts::default());
    let mut from = World::in_step(&down, &mut down_counts);
    let mut to = World::with_memory(&up, &mut up_counts, from.memory.clone());
    to.actions();
    to.live.caught_up(NOW, Compared { sent: Seq(10), until: Seq(10), since: 0 });
    from.sends(&note(11));
    assert_eq!(to.log(&[11, 12]), [note(12).id]);
}

#[test]
fn after_a_time_without_a_connection_what_was_not_compared_is_sent() {
    let (plan, mut counts) = (plan(&["{}"], false, true), StreamCounts::default());
    let mut world = World::new(&plan, &mut counts);
    world.actions();
    // Sent up to 3. Up to 6 what is of second 1005 or later was compared: 5 and 6.
    world.live.caught_up(NOW, Compared { sent: Seq(3), until: Seq(6), since: 1_005 });
    assert_eq!(world.log(&[1, 2, 3, 4, 5, 6, 7]), [note(4).id, note(7).id]);
}

#[test]
fn answers_to_events_count_and_refusals_do_not_hold_up_others() {
    let (plan, mut counts) = (plan(&["{}"], false, true), StreamCounts::default());
    let mut world = World::in_step(&plan, &mut counts);
    assert_eq!(world.log(&[11, 12, 13]).len(), 3);
    // 12 was replaced meanwhile.
    world.live.loaded(NOW, vec![(note(12).id, None)]);
    world.load(&[11, 13]);
    assert_eq!(world.sent().len(), 2);
    world.says(json!(["OK", note(11).id.to_string(), false, "blocked: not here"]));
    assert!(matches!(&world.actions()[..], [Action::Print(words)] if words.contains("blocked")));
    world.says(json!(["OK", note(13).id.to_string(), false, "rate-limited: slow down"]));
    assert_eq!((world.actions(), world.live.sent()), (vec![], Some(Seq(12))));
    world.live.timeout(NOW + Duration::from_secs(1));
    assert_eq!(world.actions(), [Action::Load(vec![note(13).id])]);
    world.load(&[13]);
    assert_eq!(world.sent().len(), 1);
    world.says(json!(["OK", note(13).id.to_string(), true, ""]));
    assert_eq!(world.live.sent(), Some(Seq(13)));
    // What is too long for it is not sent.
    let long = event_of_json(&event(&key(1)).content("x".repeat(3_000)).sign().json()).unwrap();
    world.log(&[14]);
    world.live.loaded(NOW, vec![(note(14).id, Some(text_of(&long)))]);
    assert_eq!((world.sent().len(), world.live.sent()), (0, Some(Seq(14))));
    assert_eq!((counts.sent, counts.accepted, counts.rejected), (3, 1, 2));
}

#[test]
fn ephemeral_events_are_sent_once_and_not_back() {
    let ephemeral =
        |content: &str| event_of_json(&event(&key(1)).kind(20_001).content(content).sign().json()).unwrap();
    let (plan, mut counts) = (plan(&[r#"{"kinds":[1,20001]}"#], true, true), StreamCounts::default());
    let mut world = World::new(&plan, &mut counts);
    world.actions();
    // Before its EOSE a relay may send them: they are never stored, so they are live.
    world.sends(&ephemeral("early"));
    assert!(matches!(&world.actions()[..], [Action::Store(_)]));
    let mut world = World::in_step(&plan, &mut counts);
    world.memory.lock().add_ephemeral(ephemeral("theirs").id);
    world.live.offer_ephemeral(&ephemeral("theirs"));
    assert_eq!(world.actions(), []);
    world.live.offer_ephemeral(&ephemeral("ours"));
    world.live.offer_ephemeral(&ephemeral("ours"));
    assert_eq!(world.sent().len(), 1);
    world.says(json!(["OK", ephemeral("ours").id.to_string(), true, ""]));
    // A relay that answers none is not given more.
    (0..150).for_each(|number| world.live.offer_ephemeral(&ephemeral(&format!("{number}"))));
    assert_eq!(world.sent().len(), 100);
    assert_eq!((counts.accepted, counts.sent, counts.ephemeral_missed), (1, 101, 50));
}

/// Whatever comes in whatever order, an event is sent to a relay once at most, never back, and none is left out.
#[test]
fn every_event_is_sent_once_and_never_back() {
    for seed in 1..200 {
        let mut random = Random(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let (plan, mut counts) = (plan(&["{}"], true, true), StreamCounts::default());
        let mut world = World::in_step(&plan, &mut counts);
        let theirs: Vec<u64> = (11..40).filter(|_| random.below(3) == 0).collect();
        let (mut newest, mut loading, mut sent, mut unanswered) = (10, Vec::new(), Vec::new(), Vec::new());
        let mut reading = None;
        loop {
            for action in world.actions() {
                match action {
                    Action::ReadLog(after) => reading = Some(after.0),
                    Action::Load(ids) => loading.extend(ids),
                    Action::Send(message) => {
                        let message: Value = serde_json::from_str(&message).unwrap();
                        let id = message[1]["id"].as_str().unwrap().to_owned();
                        sent.push(id.clone());
                        unanswered.push(id);
                    }
                    Action::Store(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            let is_done = newest == 39 && reading.is_none() && loading.is_empty() && unanswered.is_empty();
            if is_done && world.live.sent() == Some(Seq(39)) {
                break;
            }
            match random.below(4) {
                0 if newest < 39 => {
                    // It is stored, by another stream or by this one.
                    newest += 1;
                    if theirs.contains(&newest) {
                        world.sends(&note(newest));
                        let outcomes = Outcomes { seqs: vec![newest], ..Outcomes::default() };
                        world.live.stored(&[note(newest).id], Some(&outcomes));
                    }
                    world.live.grew(NOW, Seq(newest));
                }
                1 => {
                    if let Some(after) = reading.take() {
                        let until = newest.min(after + 1 + random.below(5));
                        let entry = |number| {
                            let event = note(number);
                            LogEntry { seq: Seq(number), id: event.id, created_at: event.created_at }
                        };
                        let entries = (after + 1..=until).map(entry).collect();
                        world.live.logged(NOW, Logged { entries, withheld: 0, covered: Seq(until) });
                    }
                }
                2 => {
                    let numbers: Vec<u64> =
                        (11..40).filter(|number| loading.contains(&note(*number).id)).collect();
                    loading.clear();
                    world.load(&numbers);
                }
                _ => {
                    for id in unanswered.drain(..) {
                        world.live.handle(NOW, &json!(["OK", id, true, ""]).to_string());
                    }
                }
            }
        }
        let mut want: Vec<String> = (11..40)
            .filter(|number| !theirs.contains(number))
            .map(|number| note(number).id.to_string())
            .collect();
        want.sort();
        sent.sort();
        assert_eq!(sent, want, "seed {seed}");
    }
}
