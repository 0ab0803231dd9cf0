//! Whatever fails or crashes, every event reaches each agent it concerns, in order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const AGENTS: u64 = 4;
const CUSTOMER: u64 = 9;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// So many further events are stored.
    Store(u64),
    /// The router is given a batch of this size, if it takes one.
    Feed(usize),
    /// It is asked for a delivery.
    Poll,
    /// The delivery under way of this index ends.
    Answer(usize, bool),
    /// So many seconds pass.
    Wait(u64),
    /// Writes fail, or work again.
    Disk(bool),
    /// The process dies. Deliveries under way may have been accepted.
    Crash(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1..4u64).prop_map(Step::Store),
        4 => (1..6usize).prop_map(Step::Feed),
        6 => Just(Step::Poll),
        6 => (0..4usize, prop::bool::weighted(0.7)).prop_map(|(index, ok)| Step::Answer(index, ok)),
        2 => (0..5u64).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Disk),
        1 => any::<bool>().prop_map(Step::Crash),
    ]
}

/// The n-th event of the relay: requests to all, to one, to nobody here, cancellations of earlier ones.
fn nth(serial: u64, before: &[Event]) -> Event {
    let draft = request(CUSTOMER, 5_050, serial);
    signed(match serial % 5 {
        0 => draft,
        1 => draft.to(1 + serial % AGENTS),
        2 => draft.to(77),
        3 => request(CUSTOMER, 7_007, serial).to(1 + serial % AGENTS),
        _ => event(&key(CUSTOMER)).kind(5).at(NOW).tag(["e", &before[serial as usize - 3].id.to_string()]),
    })
}

/// Whom the n-th event concerns, by the rules of [`nth`].
fn concerned(serial: u64) -> Vec<u64> {
    match serial % 5 {
        0 => (1..=AGENTS).collect(),
        1 | 3 => vec![1 + serial % AGENTS],
        4 => concerned(serial - 3),
        _ => Vec::new(),
    }
}

struct World {
    conn: Sqlite,
    router: Router<Sqlite>,
    events: Vec<Event>,
    /// The sequence number of the last event that has come from the stream.
    read: usize,
    open: Vec<Delivery>,
    accepted: BTreeMap<PubKey, Vec<Event>>,
    now: u64,
}

impl World {
    fn new() -> Self {
        let conn = Sqlite::new();
        let agents = (1..=AGENTS).map(|number| entry(number, &[5_050], json!({})));
        let router = router_with(&conn, agents);
        World {
            conn,
            router,
            events: Vec::new(),
            read: 0,
            open: Vec::new(),
            accepted: BTreeMap::new(),
            now: 0,
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Store(count) => {
                for _ in 0..count {
                    self.events.push(nth(self.events.len() as u64, &self.events));
                }
            }
            Step::Feed(count) => {
                let end = (self.read + count).min(self.events.len());
                if self.router.is_ready() && end > self.read {
                    let batch = self.events[self.read..end].to_vec();
                    self.read = end;
                    self.router.accept(at(self.now), batch, Seq(end as u64));
                }
            }
            Step::Poll => {
                if let Some(delivery) = self.router.poll_delivery() {
                    let twice = self.open.iter().any(|open| open.agent == delivery.agent);
                    assert!(!twice, "at most one delivery is in flight for each agent");
                    self.open.push(delivery);
                }
            }
            Step::Answer(index, is_accepted) => {
                if index < self.open.len() {
                    let delivery = self.open.remove(index);
                    if is_accepted {
                        self.accept(&delivery);
                    }
                    self.router.handle_delivered(at(self.now), delivery.id, is_accepted);
                }
            }
            Step::Wait(seconds) => {
                self.now += seconds;
                self.router.handle_timeout(at(self.now));
            }
            Step::Disk(works) => self.conn.set_full(!works),
            Step::Crash(are_accepted) => {
                for delivery in std::mem::take(&mut self.open) {
                    if are_accepted {
                        self.accept(&delivery);
                    }
                }
                self.router = super::open(&self.conn);
                self.read = self.router.position().unwrap().unwrap().0 as usize;
            }
        }
    }

    /// As an agent does, which recognises what it has.
    fn accept(&mut self, delivery: &Delivery) {
        let own = self.accepted.entry(delivery.agent).or_default();
        for event in &delivery.events {
            if !own.contains(event) {
                own.push(event.clone());
            }
        }
    }

    fn settle(&mut self) {
        self.conn.set_full(false);
        for _ in 0..200 {
            self.take(Step::Feed(usize::MAX / 2));
            for _ in 0..AGENTS {
                self.take(Step::Poll);
            }
            while !self.open.is_empty() {
                self.take(Step::Answer(0, true));
            }
            self.take(Step::Wait(60));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn every_event_reaches_each_agent_it_concerns_in_order(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.settle();
        prop_assert_eq!(world.router.position(), Ok(Some(Seq(world.events.len() as u64))));
        for number in 1..=AGENTS {
            let want: Vec<Event> = (0..world.events.len())
                .filter(|serial| concerned(*serial as u64).contains(&number))
                .map(|serial| world.events[serial].clone())
                .collect();
            let got = world.accepted.remove(&pubkey(number)).unwrap_or_default();
            prop_assert_eq!(got, want, "agent {}", number);
        }
        prop_assert_eq!(world.conn.count("agent_router_outbox"), 0);
    }
}
