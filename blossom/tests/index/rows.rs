//! What commands cost in rows written, which Durable Objects bill, indexes included. The index of what retention removes is
//! partial and costs nothing where there is no retention; the count here has it in all of a blob's rows.

use relay_blossom::index::{PartHead, Wanted};
use relay_blossom::{Command, Outcome};

use crate::world::{START, World, commit, event, sha, unknown, wanted};

/// The entry that a partial index does not have.
const NO_RETENTION: u64 = 1;
/// Entries of indexes that a download does not change.
const UNCHANGED: u64 = 2;

impl World {
    #[track_caller]
    fn costs(&mut self, command: Command, rows: u64) -> Outcome {
        self.sqlite.take_rows_written();
        let outcome = self.run(command);
        assert_eq!(self.sqlite.take_rows_written(), rows, "{outcome:?}");
        outcome
    }
}

/// A world whose numbers are reserved.
fn world() -> World {
    let mut world = World::new();
    world.upload(wanted(9, 999, 10));
    world
}

#[test]
fn an_upload_costs_six_rows() {
    let mut world = world();
    world.costs(Command::Check(wanted(1, 1, 10)), 0);
    let Outcome::Begun { upload, .. } = world.costs(Command::Begin(wanted(1, 1, 10)), 1) else { panic!() };
    world.costs(Command::Finish(commit(upload, 1, 10)), 5 + NO_RETENTION);
    // Its uploader sends it again; somebody else does.
    world.costs(Command::Begin(wanted(1, 1, 10)), 0);
    let Outcome::OwnedByOthers { upload, .. } = world.costs(Command::Begin(wanted(2, 1, 10)), 1) else {
        panic!()
    };
    world.costs(Command::Finish(commit(upload, 1, 10)), 3);
    world.costs(Command::Begin(wanted(2, 1, 10)), 0);
    world.costs(Command::Get(sha(1)), 0);
    world.costs(Command::RecordDownloads(vec![sha(1)]), 0);
    // With quotas no more.
    let quotas = Wanted { key_bytes_max: Some(1_000), total_bytes_max: Some(1_000), ..wanted(1, 2, 10) };
    let Outcome::Begun { upload, .. } = world.costs(Command::Begin(quotas), 1) else { panic!() };
    world.costs(Command::Finish(commit(upload, 2, 10)), 5 + NO_RETENTION);
}

#[test]
fn an_upload_of_unknown_hash_costs_a_row_more() {
    let mut world = world();
    let Outcome::Begun { upload, .. } = world.costs(Command::Begin(unknown(1, 10)), 1) else { panic!() };
    world.costs(Command::SetHash { upload, sha256: sha(1), size: 10 }, 1);
    world.costs(Command::Finish(commit(upload, 1, 10)), 5 + NO_RETENTION);
}

#[test]
fn a_thousand_uploads_reserve_numbers_once() {
    let mut world = World::new();
    world.sqlite.take_rows_written();
    for n in 0..1_024 {
        world.upload(wanted(1, n, 10));
    }
    assert_eq!(world.sqlite.take_rows_written(), 1_024 * (6 + NO_RETENTION) + 1);
}

#[test]
fn a_blob_that_goes_costs_seven_rows_with_its_bytes() {
    let mut world = world();
    world.upload(wanted(1, 1, 10));
    // The blob and its indexes, the removal, the totals.
    world.costs(Command::Delete { sha256: sha(1), owner: None }, 5 + NO_RETENTION);
    let Outcome::Removal(Some(key)) = world.costs(Command::TakeRemoval, 1) else { panic!() };
    world.costs(Command::Removed(key), 1);
    world.costs(Command::TakeRemoval, 0);
    world.costs(Command::Sweep, 0);
    // A failed upload.
    let Outcome::Begun { upload, .. } = world.costs(Command::Begin(wanted(1, 1, 10)), 1) else { panic!() };
    world.costs(Command::Abort { upload }, 2);
}

#[test]
fn a_part_costs_five_rows() {
    let mut world = world();
    let begin = |offset| Command::BeginPart(wanted(1, 1, 100), PartHead { offset, length: 10 });
    for n in 0..10 {
        let Outcome::Begun { upload, key } = world.costs(begin(n * 10), if n == 0 { 2 } else { 1 }) else {
            panic!()
        };
        world.costs(Command::FinishPart { upload, key }, 1);
        if n == 9 {
            world.costs(Command::Finish(commit(upload, 1, 100)), 5 + NO_RETENTION + 2 * 10);
        }
    }
    world.sqlite.take_rows_written();
    assert_eq!(world.remove_all().len(), 10);
    assert_eq!(world.sqlite.take_rows_written(), 10, "one for each removal");
}

#[test]
fn a_download_costs_two_rows_an_hour_where_it_matters() {
    let mut world = world();
    world.upload(Wanted { unused_seconds: Some(86_400), ..wanted(1, 1, 10) });
    for second in 0..3 * 3_600 {
        world.now = START + second;
        let is_due = second % 3_600 == 0 && second > 0;
        if second % 60 == 0 {
            world.costs(
                Command::RecordDownloads(vec![sha(1), sha(2)]),
                if is_due { 2 + UNCHANGED } else { 0 },
            );
        }
    }
}

#[test]
fn an_event_costs_its_position() {
    let mut world = world();
    world.costs(Command::SetPosition(7), 1);
    world.costs(Command::Apply(event(1, 1063, START, &[&["x", &sha(1).to_string()]]), 8), 1);
    world.costs(Command::Apply(event(1, 5, START, &[&["e", &sha(1).to_string()]]), 9), 1);
    world.costs(Command::Apply(event(1, 62, START, &[&["relay", "ALL_RELAYS"]]), 10), 1);
    world.upload(wanted(1, 1, 10));
    world.costs(Command::Apply(event(1, 1063, START, &[&["x", &sha(1).to_string()]]), 11), 3);
}
