//! A database that fails at any statement of any command: nothing has changed then, and the command may come again.

use relay_blossom::index::{Commit, PartHead, Wanted};
use relay_blossom::{Command, Index, Outcome};
use relay_engine::sql::{SqlConn, SqlValue, StoreError};

use crate::world::{START, World, commit, event, key, picture, sha, unknown, wanted};

const TABLES: [&str; 11] = [
    "blossom_meta",
    "blossom_blobs",
    "blossom_owners",
    "blossom_uploads",
    "blossom_parts",
    "blossom_removals",
    "blossom_bans",
    "blossom_reports",
    "blossom_events",
    "blossom_leaving",
    "blossom_thumbnails",
];

/// All rows of all tables.
fn dump(world: &World) -> Vec<String> {
    let mut rows = Vec::new();
    for table in TABLES {
        let mut read = |row: &[SqlValue<'_>]| {
            rows.push(format!("{table} {row:?}"));
            Ok(())
        };
        world.sqlite.query(&format!("SELECT * FROM {table}"), &[], &mut read).unwrap();
    }
    rows
}

/// What has begun, the newest last.
#[derive(Default)]
struct Begun(Vec<(u64, String)>);

/// A time and a command.
type Step = Box<dyn Fn(&Begun) -> (u64, Command)>;

/// Commands of all kinds and their times. They name uploads by their place among those that have begun.
fn script() -> Vec<Step> {
    fn at(now: u64, command: Command) -> Step {
        Box::new(move |_| (START + now, command.clone()))
    }
    fn with(n: usize, command: fn(u64, String) -> Command) -> Step {
        Box::new(move |begun| (START, command(begun.0[n].0, begun.0[n].1.clone())))
    }
    let part = |offset, length| Command::BeginPart(wanted(1, 3, 100), PartHead { offset, length });
    let described = event(2, 1063, START, &[&["x", &sha(1).to_string()], &["x", &sha(2).to_string()]]);
    let deleted = event(2, 5, START, &[&["e", &described.id]]);
    let remove_owner = |owner, n| Command::Delete { sha256: sha(n), owner: Some(key(owner)) };
    vec![
        at(
            0,
            Command::Begin(Wanted {
                expires_at: Some(START + 9),
                unused_seconds: Some(5),
                ..wanted(1, 1, 10)
            }),
        ), // 0
        at(0, Command::Begin(wanted(2, 1, 10))), // 1
        at(0, Command::Begin(unknown(2, 10))),   // 2
        at(0, Command::Begin(unknown(2, 10))),   // 3
        with(0, |upload, _| Command::Finish(commit(upload, 1, 10))),
        with(1, |upload, _| Command::Finish(commit(upload, 1, 10))),
        with(2, |upload, _| Command::SetHash { upload, sha256: sha(2), size: 10 }),
        with(3, |upload, _| Command::SetHash { upload, sha256: sha(1), size: 10 }),
        with(2, |upload, _| Command::Finish(commit(upload, 2, 10))),
        with(0, |upload, _| Command::Finish(commit(upload, 77, 10))),
        at(0, Command::TakeRemoval),
        at(0, Command::Removed(sha(77).to_string())),
        at(0, Command::Apply(described, 5)),
        at(0, remove_owner(1, 1)),
        at(0, remove_owner(9, 1)),
        at(0, Command::Report(event(7, 1984, START, &[&["x", &sha(1).to_string(), "spam"]]))),
        at(0, part(0, 50)),  // 4
        at(0, part(40, 60)), // 5
        at(0, part(10, 10)), // 6
        with(4, |upload, key| Command::FinishPart { upload, key }),
        with(6, |upload, key| Command::AbortPart { upload, key }),
        with(5, |upload, key| Command::FinishPart { upload, key }),
        with(4, |upload, _| Command::Finish(commit(upload, 3, 100))),
        at(0, part(0, 50)),
        at(0, Command::Ban { sha256: sha(3), reason: "because".to_owned() }),
        at(0, Command::Unban(sha(3))),
        at(0, Command::Apply(deleted, 6)),
        at(0, Command::Begin(wanted(4, 5, 10))), // 7
        with(7, |upload, _| Command::Abort { upload }),
        at(0, Command::Begin(wanted(4, 5, 10))), // 8
        with(8, |upload, _| {
            Command::Finish(relay_blossom::index::Commit {
                unused_seconds: Some(100),
                retention: Vec::new(),
                ..commit(upload, 5, 10)
            })
        }),
        at(150, Command::RecordDownloads(vec![sha(5)])),
        at(150, Command::Begin(wanted(5, 6, 10))),
        at(150, Command::Begin(Wanted { sha256: Some(sha(7)), ..unknown(5, 10) })),
        at(150, Command::SetPosition(8)),
        at(150, Command::Restart),
        at(400, Command::Begin(Wanted { abandoned_at: START + 401, ..wanted(5, 6, 10) })),
        at(400, Command::Sweep),
        at(401, Command::Sweep),
        at(401, Command::Begin(wanted(1, 8, 10))), // 12
        at(401, Command::Begin(wanted(4, 9, 10))), // 13
        with(12, |upload, _| Command::Finish(commit(upload, 8, 10))),
        with(13, |upload, _| Command::Finish(commit(upload, 9, 10))),
        at(401, Command::Begin(wanted(1, 9, 10))),
        at(401, Command::Apply(event(1, 62, START + 401, &[]), 9)),
        at(401, Command::Apply(event(4, 1063, START + 401, &[&["x", &sha(9).to_string()]]), 9)),
        at(401, Command::Ban { sha256: sha(9), reason: "because".to_owned() }),
        at(401, Command::Begin(wanted(4, 10, 10))), // 14
        with(14, |upload, _| Command::Finish(commit(upload, 10, 10))),
        at(401, Command::Begin(wanted(4, 11, 10))), // 15
        at(401, Command::Begin(wanted(4, 12, 10))), // 16
        at(401, Command::Begin(wanted(4, 13, 10))), // 17
        with(15, |upload, _| Command::Finish(commit(upload, 11, 10))),
        with(16, |upload, _| Command::Finish(picture(upload, 12, 11))),
        with(17, |upload, _| Command::Finish(picture(upload, 13, 11))),
        at(401, Command::Begin(wanted(5, 12, 10))),
        at(401, remove_owner(4, 12)),
        at(401, remove_owner(5, 12)),
        at(401, Command::Delete { sha256: sha(11), owner: None }),
        at(401, remove_owner(4, 13)),
        at(401, Command::TakeRemoval),
        at(401, Command::Totals),
        at(401, Command::Stat(sha(9))),
        at(401, Command::List { owner: Some(key(4)), cursor: None, limit: 9, since: None, until: None }),
        at(401, Command::Reports { limit: 9 }),
        at(401, Command::Bans { limit: 9 }),
        at(401, Command::Position),
        at(401, Command::IsKnown(sha(3).to_string())),
        at(401, Command::Check(wanted(1, 3, 10))),
        at(401, Command::Get(sha(10))),
    ]
}

/// Without the numbers of uploads, which a failure may skip.
fn shape(outcome: &Outcome) -> String {
    let words = format!("{outcome:?}");
    let mut shape = String::new();
    for (n, piece) in words.split("staged/").enumerate() {
        shape += if n == 0 { piece } else { piece.trim_start_matches(char::is_numeric) };
    }
    match outcome {
        Outcome::Begun { .. } => "begun".to_owned(),
        Outcome::OwnedByOthers { .. } => "here".to_owned(),
        Outcome::Complete { parts, .. } => format!("complete {}", parts.len()),
        Outcome::Removal(Some(key)) => {
            key.rsplit_once('/').map_or(key.as_str(), |(folder, _)| folder).to_owned()
        }
        _ => shape,
    }
}

fn run(mut carry_out: impl FnMut(&mut World, u64, Command) -> Outcome) -> (Vec<String>, World) {
    let (mut world, mut begun, mut shapes) = (World::new(), Begun::default(), Vec::new());
    for step in script() {
        let (now, command) = step(&begun);
        let is_new = matches!(command, Command::Begin(_) | Command::BeginPart(..));
        let outcome = carry_out(&mut world, now, command.clone());
        if let (Outcome::OwnedByOthers { upload, .. }, Command::Begin(wanted)) = (&outcome, &command) {
            let commit = commit(*upload, 0, wanted.size);
            let commit = Commit { sha256: wanted.sha256.unwrap(), ..commit };
            shapes.push(shape(&carry_out(&mut world, now, Command::Finish(commit))));
        }
        if let Outcome::Begun { upload, key } = &outcome
            && is_new
        {
            begun.0.push((*upload, key.clone()));
        }
        shapes.push(shape(&outcome));
    }
    (shapes, world)
}

fn without_faults() -> Vec<String> {
    run(|world, now, command| world.index.run(now, command).unwrap()).0
}

#[test]
fn each_statement_of_each_command_may_fail() {
    let expected = without_faults();
    for is_crashing in [false, true] {
        let mut failures = 0;
        let (shapes, _) = run(|world, now, command| {
            let before = dump(world);
            for n in 1.. {
                world.sqlite.fail_at(n);
                let outcome = world.index.run(now, command.clone());
                let is_done = world.sqlite.is_armed();
                world.sqlite.fail_with(None);
                match outcome {
                    Ok(outcome) => {
                        assert!(is_done, "a failure of {command:?} was not told");
                        return outcome;
                    }
                    Err(error) => assert_eq!(error, StoreError::Failed("told to fail".to_owned())),
                }
                failures += 1;
                assert_eq!(dump(world), before, "{command:?} {n}");
                if is_crashing {
                    world.reopen();
                }
            }
            unreachable!()
        });
        assert_eq!(shapes, expected);
        assert!(failures > 200, "{failures}");
    }
}

/// As they do between the Worker and the Durable Object of Blossom.
#[test]
fn commands_and_answers_travel_as_json() {
    let (shapes, _) = run(|world, now, command| {
        let sent: Command = serde_json::from_slice(&serde_json::to_vec(&command).unwrap()).unwrap();
        assert_eq!(sent, command);
        let outcome = world.index.run(now, sent).unwrap();
        let received: Outcome = serde_json::from_slice(&serde_json::to_vec(&outcome).unwrap()).unwrap();
        assert_eq!(received, outcome);
        received
    });
    assert_eq!(shapes, without_faults());
}

#[test]
fn a_full_disk_refuses_and_forgets() {
    let (shapes, _) = run(|world, now, command| {
        world.sqlite.set_full(true);
        let outcome = world.index.run(now, command.clone());
        world.sqlite.set_full(false);
        match outcome {
            Ok(outcome) => outcome,
            Err(StoreError::Full(_)) => world.index.run(now, command).unwrap(),
            Err(other) => panic!("{other}"),
        }
    });
    assert_eq!(shapes, without_faults());
}

#[test]
fn the_script_has_every_outcome() {
    let shapes = without_faults();
    for outcome in [
        "begun",
        "complete",
        "Exists",
        "Stored",
        "Refused(Gone)",
        "Refused(NotOwner)",
        "Deleted",
        "Accepted",
        "Swept",
        "Info",
        "Blobs([Blob",
        "Reports([ReportRow",
        "Bans",
        "Position(Some(9))",
        "Totals",
        "Done",
        "Blob(",
    ] {
        assert!(shapes.iter().any(|shape| shape.starts_with(outcome)), "{outcome} of {shapes:#?}");
    }
}

#[test]
fn each_statement_of_opening_may_fail() {
    let sqlite = relay_blossom::testing::Sqlite::new();
    for n in 1.. {
        sqlite.fail_at(n);
        if Index::open(sqlite.clone()).is_ok() {
            assert!(n > 15, "{n}");
            break;
        }
    }
    sqlite.fail_with(None);
    drop(Index::open(sqlite).unwrap());
}

#[test]
fn a_database_of_another_schema_version_is_refused() {
    let world = World::new();
    world.sqlite.exec("UPDATE blossom_meta SET value = x'3939' WHERE name = x'736368656d61'", &[]).unwrap();
    let error = Index::open(world.sqlite).err().unwrap();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
}
