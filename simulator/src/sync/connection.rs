//! One connection of a session: the link, and what happens on it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use relay_engine::relay::ConnId;
use relay_engine::types::{Event, Now};
use relay_sync::session::{Action, End, Session};

use super::Client;
use super::world::World;

/// Steps after which a connection is said to hang.
const STEPS_MAX: u32 = 400_000;
/// Events that are stored together, at most.
const WAITING_MAX: usize = 40;

/// The way between a session and a relay. Messages arrive in order, and once.
struct Link {
    /// `None` once the relay has forgotten it.
    conn: Option<ConnId>,
    there: VecDeque<String>,
    back: VecDeque<String>,
    /// Nothing arrives any more, and nobody is told.
    is_stalled: bool,
    /// One in so many steps is a fault; 0: none is.
    fault_one_in: u64,
}

/// Runs a connection to its end. `None`: the session was killed, and what it had not stored is lost.
pub(super) fn run(world: &mut World, client: &mut Client) -> Option<End> {
    world.report.connections += 1;
    let (home, peer) = (client.home, 1 - client.home);
    let begun = world.now;
    let here = Arc::new(world.relays[home].here(begun, &world.events, &client.plan));
    world.asked = 0;
    // Between the scan and the first message, things may change.
    if world.has_faults && world.rng.one_in(2) {
        world.change();
    }
    let mut link = Link {
        conn: Some(world.relays[peer].connect(begun)),
        there: VecDeque::new(),
        back: VecDeque::new(),
        is_stalled: false,
        fault_one_in: if world.has_faults { *world.rng.pick(&[0, 60, 400, 2_000]) } else { 0 },
    };
    let (plan, information) = (Arc::clone(&client.plan), world.information[peer]);
    let progress = std::mem::take(&mut client.progress);
    let mut session = Session::new(plan, information, here, progress, Duration::ZERO, begun.seconds());
    let end = drive(world, [home, peer], &mut link, &mut session, begun);
    client.progress = session.into_progress();
    end
}

/// Until the session ends, or is killed.
fn drive(
    world: &mut World,
    [home, peer]: [usize; 2],
    link: &mut Link,
    session: &mut Session,
    begun: Now,
) -> Option<End> {
    let mut waiting: Vec<Event> = Vec::new();
    for _ in 0..STEPS_MAX {
        let now = elapsed(begun, world.now);
        if let Some(end) = act(world, home, session, now, link, &mut waiting) {
            store(world, home, session, &mut waiting);
            close(world, peer, link);
            return Some(end);
        }
        if link.fault_one_in > 0 && world.rng.one_in(link.fault_one_in) {
            match world.rng.below(8) {
                0 => {
                    world.report.killed += 1;
                    close(world, peer, link);
                    return None;
                }
                1 => {
                    world.report.restarts += 1;
                    let restarted = world.rng.below(2) as usize;
                    world.relays[restarted].restart(world.now);
                    if restarted == peer {
                        link.conn = None;
                        cut(world, peer, link, session, now);
                    }
                }
                2 => link.is_stalled = true,
                _ => {
                    cut(world, peer, link, session, now);
                    continue;
                }
            }
        }
        step(world, [home, peer], link, session, &mut waiting, begun);
    }
    panic!("a connection comes to no end");
}

fn elapsed(begun: Now, now: Now) -> Duration {
    Duration::from_millis(now.millis_since(begun))
}

/// Something that is under way goes on.
fn step(
    world: &mut World,
    [home, peer]: [usize; 2],
    link: &mut Link,
    session: &mut Session,
    waiting: &mut Vec<Event>,
    begun: Now,
) {
    let Some(conn) = link.conn else { return };
    let is_quiet = link.there.is_empty() && link.back.is_empty() && waiting.is_empty();
    let now = world.now;
    match world.rng.below(if world.has_faults { 20 } else { 17 }) {
        0..=4 if !link.is_stalled && world.relays[peer].machine.wants_input(conn) => {
            if let Some(message) = link.there.pop_front() {
                world.report.messages += 1;
                world.relays[peer].machine.handle_text(now, conn, message.as_bytes());
            }
        }
        5..=9 if !link.is_stalled => {
            if let Some(message) = link.back.pop_front() {
                world.report.messages += 1;
                session.handle(elapsed(begun, now), &message);
            }
        }
        10..=14 => {
            world.now = now.plus_millis(world.rng.below(2));
            world.relays[peer].step(now, world.rng.below(6));
        }
        15 => store(world, home, session, waiting),
        16 => world.relays[home].step(now, world.rng.below(6)),
        17..=19 if world.rng.one_in(4) => world.change(),
        _ => {}
    }
    let relay = &mut world.relays[peer];
    if link.is_stalled || is_quiet {
        (0..3).for_each(|choice| relay.step(now, choice));
    }
    relay.drain(conn, &mut |frame| link.back.push_back(frame));
    while let Some((closed, _)) = relay.machine.poll_close() {
        assert!(closed != conn, "a session does nothing that a relay closes a connection for");
    }
    let is_idle = !relay.machine.has_work() && !relay.machine.has_unverified();
    if link.is_stalled || is_quiet && link.back.is_empty() && is_idle {
        // Nothing else happens before the session has waited for long enough.
        let wait = session.deadline().saturating_sub(elapsed(begun, world.now));
        world.now = world.now.plus_millis(wait.as_millis() as u64 + 1);
        session.timeout(elapsed(begun, world.now));
    }
}

/// Does what the session wants. How it ends, if it does.
fn act(
    world: &mut World,
    home: usize,
    session: &mut Session,
    now: Duration,
    link: &mut Link,
    waiting: &mut Vec<Event>,
) -> Option<End> {
    while let Some(action) = session.poll() {
        match action {
            Action::Send(message) => {
                if message.starts_with(r#"["REQ","r"#) {
                    // One before the filter, and one between two ids.
                    world.asked += message.matches("\",\"").count();
                }
                link.there.push_back(message);
            }
            Action::Store(event) => {
                waiting.push(event);
                if waiting.len() >= WAITING_MAX {
                    store(world, home, session, waiting);
                }
            }
            Action::Load(ids) => {
                let relay = &world.relays[home];
                session.loaded(now, ids.iter().map(|id| (*id, relay.load(id))).collect());
            }
            Action::Authenticate(_) => panic!("there is no key"),
            Action::Print(_) => {}
            Action::End(end) => return Some(end),
        }
    }
    None
}

/// Stores what has come.
fn store(world: &mut World, home: usize, session: &mut Session, waiting: &mut Vec<Event>) {
    if !waiting.is_empty() {
        let outcomes = world.relays[home].store(world.now, waiting.drain(..));
        session.stored(outcomes);
    }
}

/// The connection is cut: of what is under way, the first messages may arrive.
fn cut(world: &mut World, peer: usize, link: &mut Link, session: &mut Session, now: Duration) {
    world.report.cut += 1;
    let arriving = |world: &mut World, messages: usize| match link.is_stalled {
        true => 0,
        false => world.rng.below(messages as u64 + 1) as usize,
    };
    let (there, back) = (arriving(world, link.there.len()), arriving(world, link.back.len()));
    for message in link.there.drain(..there) {
        let machine = &mut world.relays[peer].machine;
        if let Some(conn) = link.conn.filter(|conn| machine.wants_input(*conn)) {
            machine.handle_text(world.now, conn, message.as_bytes());
        }
    }
    for message in link.back.drain(..back) {
        session.handle(now, &message);
    }
    close(world, peer, link);
    session.closed("the link is cut");
}

fn close(world: &mut World, peer: usize, link: &mut Link) {
    if let Some(conn) = link.conn.take() {
        world.relays[peer].machine.disconnect(conn);
    }
    link.there.clear();
    link.back.clear();
}
