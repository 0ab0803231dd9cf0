//! What waits for all readers together is bounded, whatever clients do not read; and none misses anything because of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use relay_engine::relay::{ClientInfo, Config, ConnId, Relay};
use relay_engine::store::MemoryBackend;
use relay_engine::testing::settle;
use relay_engine::testing::signing::{event, key};
use relay_engine::types::{Limits, Now};
use relay_engine::verify::Libsecp256k1;

const NOW: Now = Now::from_seconds(1_700_000_000);
const READERS: usize = 40;
const STORED: u64 = 150;
/// Of an event with its frame, and of EOSE and a NOTICE behind it.
const MESSAGE_BYTES_MAX: usize = 1_300;

fn limits() -> Limits {
    Limits {
        outbox_pause_bytes: 20_000,
        outbox_bytes_max: 60_000,
        shard_outbox_bytes_max: 100_000,
        connections_max: READERS + 1,
        step_cost_max: 50,
        ..Limits::default()
    }
}

/// A reader, and what its socket holds.
struct Reader {
    conn: ConnId,
    socket: Vec<String>,
    read: Vec<String>,
}

struct World {
    relay: Relay<MemoryBackend>,
    publisher: ConnId,
    readers: Vec<Reader>,
    published: u64,
    random: u64,
    most: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let config = Config { limits: limits(), ..Config::default() };
        let mut relay =
            Relay::new(Arc::new(config), MemoryBackend::default(), Arc::new(Libsecp256k1), [1; 32]);
        let mut connect = || relay.connect(NOW, ClientInfo::default()).expect("a connection is free");
        let publisher = connect();
        let readers = (0..READERS).map(|_| connect());
        let readers = readers.map(|conn| Reader { conn, socket: Vec::new(), read: Vec::new() }).collect();
        World { relay, publisher, readers, published: 0, random: seed * 2 + 1, most: 0 }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) as usize % bound
    }

    fn publish(&mut self, kind: u16) {
        let content = "x".repeat(self.below(800));
        self.published += 1;
        let event = event(&key(1)).at(NOW.seconds() - self.published).kind(kind).content(content).sign();
        self.relay.handle_text(NOW, self.publisher, format!(r#"["EVENT",{}]"#, event.json()).as_bytes());
        settle(&mut self.relay, NOW);
        self.relay.drain(self.publisher, usize::MAX, &mut |_| {});
    }

    /// Moves about `bytes_max` bytes from the machine to a reader's socket.
    fn flush(&mut self, reader: usize, bytes_max: usize) {
        let Reader { conn, socket, .. } = &mut self.readers[reader];
        self.relay.drain(*conn, bytes_max, &mut |frame| {
            let mut text = Vec::new();
            frame.write_to(&mut text);
            socket.push(String::from_utf8(text).expect("frames are UTF-8"));
        });
        self.relay.handle_backlog(*conn, socket.iter().map(String::len).sum());
    }

    /// A reader takes what its socket has.
    fn read(&mut self, reader: usize) {
        let Reader { conn, socket, read } = &mut self.readers[reader];
        read.append(socket);
        self.relay.handle_backlog(*conn, 0);
    }

    fn check(&mut self) {
        let bytes = self.relay.metrics().outbox_bytes;
        self.most = self.most.max(bytes);
        let bound = limits().shard_outbox_bytes_max + READERS * MESSAGE_BYTES_MAX;
        assert!(bytes <= bound as u64, "{bytes} bytes wait, {bound} may");
    }

    /// Requests, events and readers in any order. The first `non_readers` of them read nothing.
    fn run(&mut self, non_readers: usize, kinds: &[u16]) {
        for _ in 0..STORED {
            self.publish(1);
        }
        for reader in 0..READERS {
            let conn = self.readers[reader].conn;
            self.relay.handle_text(NOW, conn, br#"["REQ","x",{"limit":5000}]"#);
        }
        for _ in 0..3_000 {
            match self.below(10) {
                0 => {
                    let kind = kinds[self.below(kinds.len())];
                    self.publish(kind);
                }
                1 => {
                    let (reader, bytes) = (self.below(READERS), [1, 3_000, usize::MAX][self.below(3)]);
                    self.flush(reader, bytes);
                }
                2 if non_readers < READERS => {
                    let reader = non_readers + self.below(READERS - non_readers);
                    self.read(reader);
                }
                _ => {
                    self.relay.work(NOW);
                }
            }
            self.check();
        }
    }

    /// The clients that read, read on until nothing more comes.
    fn finish(&mut self, non_readers: usize) {
        loop {
            while self.relay.work(NOW) {}
            self.check();
            let before: usize = self.readers.iter().map(|reader| reader.read.len()).sum();
            for reader in non_readers..READERS {
                self.flush(reader, usize::MAX);
                self.read(reader);
            }
            let after: usize = self.readers.iter().map(|reader| reader.read.len()).sum();
            if before == after && !self.relay.has_work() {
                break;
            }
        }
    }

    /// Whether a reader has had each stored event once, and EOSE.
    fn assert_complete(&self, reader: usize) {
        let read = &self.readers[reader].read;
        assert_eq!(read.iter().filter(|frame| frame.starts_with(r#"["EOSE""#)).count(), 1);
        let events: Vec<_> = read.iter().filter(|frame| frame.contains(r#""kind":1,"#)).collect();
        let once: BTreeSet<_> = events.iter().collect();
        assert_eq!(events.len(), once.len(), "reader {reader} was sent something twice");
        let ephemeral = read.iter().filter(|frame| frame.contains(r#""kind":20001,"#)).count();
        assert!(once.len() + ephemeral <= self.published as usize);
    }

    fn stored(&self) -> usize {
        self.relay.metrics().events_stored as usize
    }
}

#[test]
fn what_waits_is_bounded_and_who_reads_is_sent_everything() {
    for seed in 0..6 {
        let mut world = World::new(seed);
        let non_readers = [0, 10, 35, 39][seed as usize % 4];
        world.run(non_readers, &[1, 20_001]);
        world.finish(non_readers);
        for reader in non_readers..READERS {
            world.assert_complete(reader);
            let events = world.readers[reader].read.iter();
            assert_eq!(events.filter(|frame| frame.contains(r#""kind":1,"#)).count(), world.stored());
        }
        if non_readers > 30 {
            // They fill what there is, or the bound was not tried.
            assert!(world.most > 40_000, "{} bytes at most", world.most);
        }
        // Those that did not read lost nothing either.
        world.finish(0);
        for reader in 0..READERS {
            world.assert_complete(reader);
            let events = world.readers[reader].read.iter();
            assert_eq!(events.filter(|frame| frame.contains(r#""kind":1,"#)).count(), world.stored());
        }
        assert_eq!(world.relay.metrics().outbox_bytes, 0);
    }
}

#[test]
fn the_total_is_exactly_what_waits() {
    let mut world = World::new(7);
    world.run(READERS, &[1]);
    for reader in 0..READERS {
        let before = world.relay.metrics().outbox_bytes;
        if reader % 2 == 0 {
            world.flush(reader, usize::MAX);
            assert_eq!(world.relay.metrics().outbox_bytes, before, "the socket holds it now");
            let held: usize = world.readers[reader].socket.iter().map(String::len).sum();
            world.read(reader);
            assert_eq!(world.relay.metrics().outbox_bytes, before - held as u64);
        } else {
            // The rest goes with the connection.
            let (conn, mut held) = (world.readers[reader].conn, 0);
            let in_socket: usize = world.readers[reader].socket.iter().map(String::len).sum();
            world.relay.disconnect(conn);
            world.relay.drain(conn, usize::MAX, &mut |frame| held += frame.len());
            assert_eq!(held, 0);
            assert!(world.relay.metrics().outbox_bytes + in_socket as u64 <= before);
        }
    }
    assert_eq!(world.relay.metrics().outbox_bytes, 0, "nothing is counted that no connection has");
}
