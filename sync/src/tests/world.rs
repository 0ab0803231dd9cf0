//! A relay here and another one, with messages that travel when a seed says so, and connections that it cuts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use negentropy::Item;
use relay_agent::identity::{Draft, Keys};

use crate::frames::neg_id;
use crate::information::Information;
use crate::ranges::{LocalEvents, Scope};
use crate::session::{Action, End, Outcomes, Plan, Progress, Session};
use crate::testing::{Events, FakeRelay, Random};

/// Connections after which a test is given up.
const CONNECTIONS_MAX: u32 = 200;
/// The present.
pub(super) const NOW: u64 = 1_800_000_000;

/// Both sides.
pub(super) struct World {
    pub(super) here: Events,
    pub(super) relay: FakeRelay,
    pub(super) plan: Plan,
    pub(super) information: Information,
    pub(super) progress: Progress,
    pub(super) random: Random,
    /// One in so many messages cuts the connection; 0: none does.
    pub(super) cut_one_in: u64,
    pub(super) connections: u32,
    pub(super) printed: Vec<String>,
    /// Bytes of all messages.
    pub(super) bytes: usize,
}

impl World {
    pub(super) fn new(here: &Events, relay: FakeRelay) -> Self {
        Self::with_filter(here, relay, "{}")
    }

    pub(super) fn with_filter(here: &Events, relay: FakeRelay, filter: &str) -> Self {
        let plan = Plan {
            scope: Scope::new(filter, None, None).unwrap(),
            down: true,
            up: true,
            dry_run: false,
            timeout: Duration::from_secs(60),
            has_key: false,
        };
        World {
            here: here.clone(),
            relay,
            progress: Progress::new(plan.scope.range()),
            plan,
            information: Information::default(),
            random: Random(0x9e37_79b9_7f4a_7c15),
            cut_one_in: 0,
            connections: 0,
            printed: Vec::new(),
            bytes: 0,
        }
    }

    /// Connects until it is done, or fails.
    pub(super) fn run(&mut self) -> Result<(), String> {
        loop {
            self.connections += 1;
            match self.connection() {
                End::Done => return Ok(()),
                End::Failed(why) => return Err(why),
                End::Retry(why) if self.connections >= CONNECTIONS_MAX => {
                    return Err(format!("again: {why}"));
                }
                End::Retry(_) => {}
            }
        }
    }

    /// One connection.
    pub(super) fn connection(&mut self) -> End {
        let mut session = self.session();
        let end = self.drive(&mut session);
        self.progress = session.into_progress();
        end
    }

    fn session(&mut self) -> Session {
        let filter = self.plan.scope.filter().clone();
        let items = self.here.values().filter(|event| filter.matches(event));
        let mut items: Vec<Item> =
            items.map(|event| Item::with_timestamp_and_id(event.created_at, neg_id(&event.id))).collect();
        items.sort_unstable();
        let here = Arc::new(LocalEvents { items, ..LocalEvents::default() });
        let (plan, progress) = (Arc::new(self.plan.clone()), std::mem::take(&mut self.progress));
        Session::new(plan, self.information, here, progress, Duration::ZERO, NOW)
    }

    fn drive(&mut self, session: &mut Session) -> End {
        let mut now = Duration::ZERO;
        let mut there: VecDeque<String> = VecDeque::new();
        let mut back: VecDeque<String> = self.relay.connect().into();
        loop {
            while let Some(action) = session.poll() {
                match action {
                    Action::Send(message) => {
                        self.bytes += message.len();
                        there.push_back(message);
                    }
                    Action::Store(event) => {
                        let mut outcomes = Outcomes::default();
                        let is_forged = event.sig().0 == [0; 64];
                        let count = match is_forged {
                            true => &mut outcomes.invalid,
                            false if self.here.contains_key(&event.id) => &mut outcomes.counts.duplicate,
                            false => &mut outcomes.counts.stored,
                        };
                        *count += 1;
                        if is_forged {
                            outcomes.refused.push(event.id);
                        } else {
                            self.here.insert(event.id, event);
                        }
                        session.stored(outcomes);
                    }
                    Action::Load(ids) => {
                        let json = |id| self.here.get(id).map(crate::testing::text_of);
                        let events = ids.iter().map(|id| (*id, json(id))).collect();
                        session.loaded(now, events);
                    }
                    Action::Authenticate(challenge) => {
                        let keys = Keys::from_secret_bytes([1; 32]).unwrap();
                        let event = keys.sign(&Draft {
                            created_at: NOW,
                            kind: 22_242,
                            tags: vec![vec!["challenge".to_owned(), challenge]],
                            content: String::new(),
                        });
                        session.authenticate(now, &event);
                    }
                    Action::Print(message) => self.printed.push(message),
                    Action::End(end) => return end,
                }
            }
            now += Duration::from_millis(1);
            let is_cut = self.cut_one_in > 0 && self.random.below(self.cut_one_in) == 0;
            if is_cut || self.relay.has_hung_up && back.is_empty() {
                session.closed("cut");
                continue;
            }
            let goes_there = back.is_empty() || self.random.below(2) == 0;
            if goes_there && let Some(message) = there.pop_front() {
                back.extend(self.relay.handle(&message));
            } else if let Some(message) = back.pop_front() {
                self.bytes += message.len();
                session.handle(now, &message);
            } else {
                now = now.max(session.deadline());
                session.timeout(now);
            }
        }
    }
}
