//! A deletion of more than one transaction removes: acknowledged at once, finished in steps, also after `kill -9`.

use std::path::Path;

use relay_engine::store::{Backend, Reader, Seq};
use relay_engine::testing::signing::{event, key};
use relay_server::lmdb::{LmdbBackend, LmdbOptions};
use relay_server::log_store::{LogBackend, LogOptions};

use super::harness::{ENGINES, RelayProcess, unix_now, until};

/// How many events are in the database, and how many of them are pending removal.
fn events_and_pending_removal(engine: &str, folder: &Path) -> (usize, usize) {
    match engine {
        "lmdb" => count(&LmdbBackend::open(folder, &LmdbOptions::default()).expect("opens beside the relay")),
        _ => count(&LogBackend::open_to_read(folder, LogOptions::default()).expect("opens beside the relay")),
    }
}

fn count<B: Backend>(store: &B) -> (usize, usize) {
    let reader = store.reader().expect("reader");
    let (mut log, mut pending_removal) = (Vec::new(), Vec::new());
    reader.log(Seq(0), usize::MAX, &mut log).expect("log");
    reader.pending_removal(usize::MAX, &mut pending_removal).expect("pending removals");
    (log.len(), pending_removal.len())
}

#[test]
fn a_large_deletion_is_finished_after_a_kill() {
    ENGINES.iter().for_each(|engine| a_large_deletion_is_finished_on(engine));
}

fn a_large_deletion_is_finished_on(engine: &str) {
    const NOTES: u64 = 100;
    let mut relay = RelayProcess::start_on(engine);
    let mut client = relay.connect();
    let mut request = event(&key(7)).kind(5);
    for serial in 0..NOTES {
        let note = event(&key(7)).at(unix_now() - 1_000 + serial);
        let note = (0..500).fold(note, |note, tag| note.tag(["t", &format!("{tag} of {serial}")])).sign();
        assert_eq!(client.publish(&note.json()), (true, String::new()));
        request = request.tag(["e", &note.id]);
    }
    assert_eq!(client.publish(&request.at(unix_now()).sign().json()), (true, String::new()));
    relay.kill();
    let (events, pending_removal) = events_and_pending_removal(engine, &relay.data());
    // Usually most of them are; all that is not pending removal is the request.
    assert_eq!(events, pending_removal + 1);

    relay.restart();
    let mut client = relay.connect();
    assert_eq!(client.query(r#"{"kinds":[1,5]}"#).len(), 1, "not served after the restart either");
    until("the events pending removal are removed", || {
        events_and_pending_removal(engine, &relay.data()) == (1, 0)
    });
    assert_eq!(client.query(r#"{"kinds":[1,5]}"#).len(), 1);
    assert!(relay.stop().success());
}
