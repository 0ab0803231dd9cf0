//! Clients that upload, delete and are banned, at once, over the real index, its threads and files; clients leave, commands fail, and
//! the process is killed at any moment. Each answer of the index is as a naive model says; a blob that is found can be read; and at the
//! end there are no files but those of live blobs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use relay_blossom::index::RelayEvent;
use relay_blossom::testing::model::{self, HASHES, OWNERS, Oracle, body, key, sha};
use relay_blossom::{Command, Outcome};
use relay_engine::sql::StoreError;
use relay_engine::testing::Rng;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::super::index::{IndexHandle, Writer};
use super::super::{Blossom, background, startup_cleanup};
use super::{Asked, blossom, relay};
use crate::agents::http::Client;
use crate::embed::Server;
use crate::host::now;

const SEEDS: u64 = 6;
/// Processes of a seed, each of which is killed, and what clients do in each.
const PROCESSES: u64 = 3;
const ACTIONS: u64 = 60;
/// What is done at a time.
const AT_ONCE: usize = 8;

/// What outlives a process.
#[derive(Default)]
struct Kept {
    oracle: Mutex<Oracle>,
    rng: Mutex<Option<Rng>>,
    /// What the model says is wrong.
    failure: Mutex<Option<String>>,
    is_settling: std::sync::atomic::AtomicBool,
    /// Uploads that were answered with 201.
    created: std::sync::atomic::AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    fn below(&self, end: u64) -> u64 {
        lock(&self.rng).as_mut().unwrap().below(end)
    }

    fn one_in(&self, times: u64) -> bool {
        !self.is_settling.load(std::sync::atomic::Ordering::Relaxed) && self.below(times) == 0
    }

    /// Checks an answer of the index.
    fn check(&self, now: u64, command: &Command, outcome: &Outcome) {
        let checked = catch_unwind(AssertUnwindSafe(|| lock(&self.oracle).check(now, command, outcome)));
        if let Err(panic) = checked {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
            let what = format!("{command:?}\n    {outcome:?}\n    {}", words.unwrap_or_default());
            lock(&self.failure).get_or_insert(what);
        }
    }
}

/// The process that serves.
struct Process {
    runtime: Option<Runtime>,
    blossom: Option<Arc<Blossom>>,
    /// Whether the thread of the index still runs.
    index: Weak<()>,
}

impl Process {
    fn start(relay: &Server, folder: &Path, kept: &Arc<Kept>) -> Self {
        let path = folder.join("blossom.sqlite");
        let mut writer = Writer::open(&path, true).unwrap();
        let (token, own) = (Arc::new(()), Arc::clone(kept));
        let alive = Arc::downgrade(&token);
        lock(&kept.oracle).reload();
        let index = IndexHandle::over(&path, move |now, command| {
            let _runs = &token;
            if own.one_in(40) {
                return Err(StoreError::Failed("told to fail".to_owned()));
            }
            let outcome = writer.run(now, command.clone())?;
            own.check(now, &command, &outcome);
            Ok(outcome)
        });
        let client = Client::new(relay_agent::fetch::PrivateHosts::default()).unwrap();
        let settings = model::settings([1, 3_600]);
        let blossom = Arc::new(blossom(relay, folder, settings, index.unwrap(), client));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            while blossom.index.run(Command::Restart).await.is_err() {}
            startup_cleanup::remove_unfinished_files(&folder.join("blobs")).unwrap();
            while startup_cleanup::remove_unknown_keys(&blossom.index, &blossom.bodies).await.is_err() {}
        });
        runtime.spawn(background::run(Arc::clone(&blossom)));
        Process { runtime: Some(runtime), blossom: Some(blossom), index: alive }
    }

    /// Kills it, with all that it was doing.
    fn kill(mut self) {
        // Waits for what is under way on other threads: what a kill would leave of it is tested with the real binary.
        drop(self.runtime.take());
        drop(self.blossom.take());
        while self.index.strong_count() > 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A client does something.
async fn act(blossom: Arc<Blossom>, kept: Arc<Kept>) {
    let (n, owner) = (kept.below(u64::from(HASHES)) as u32, 1 + kept.below(u64::from(OWNERS)) as u8);
    let at = now().seconds();
    let request = match kept.below(20) {
        0..12 => model::upload(lock(&kept.rng).as_mut().unwrap(), owner, n, at),
        12..15 => model::delete(owner, n, at),
        15 => return drop(blossom.index.run(Command::Ban { sha256: sha(n), reason: "why".into() }).await),
        16 => return drop(blossom.index.run(Command::Unban(sha(n))).await),
        17 => return publish(&blossom, &kept, owner, n).await,
        18 => return drop(blossom.index.run(Command::Sweep).await),
        _ => return read(&blossom, n).await,
    };
    let own = Arc::clone(&kept);
    let response = Asked::new(request)
        .answer(&blossom, async || {
            for _ in 0..own.below(4) {
                tokio::task::yield_now().await;
            }
            own.one_in(12)
        })
        .await;
    if response.status == 201 {
        kept.created.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

async fn publish(blossom: &Blossom, kept: &Kept, author: u8, n: u32) {
    let id = |number: u64| format!("{number:064x}");
    let number = kept.below(1_000);
    let (kind, tag) = match kept.below(4) {
        0 => (62, ["relay".to_owned(), "ALL_RELAYS".to_owned()]),
        1 => (5, ["e".to_owned(), id(number)]),
        _ => (1_063, ["x".to_owned(), sha(n).to_string()]),
    };
    let number = if kind == 1_063 { number } else { 1_000_000 + kept.below(1 << 40) };
    let event = RelayEvent {
        id: id(number),
        pubkey: key(author).to_owned(),
        kind,
        created_at: now().seconds(),
        tags: vec![tag.into()],
        content: String::new(),
    };
    let _ = blossom.index.run(Command::Apply(event, 1)).await;
}

/// A blob that is found can be read, unless it ends meanwhile.
async fn read(blossom: &Blossom, n: u32) {
    for _ in 0..100 {
        if !matches!(blossom.index.run(Command::Get(sha(n))).await, Ok(Outcome::Blob(_))) {
            return;
        }
        let size = body(n).len() as u64;
        if let Ok(bytes) = blossom.bodies.read_whole(&sha(n).to_string(), 0..size).await {
            assert_eq!(bytes, body(n));
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{n} is found and cannot be read");
}

/// The files below a folder, by the hash or key that they are of.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn run(relay: &Server, seed: u64) -> (u64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let kept = Arc::new(Kept::default());
    *lock(&kept.rng) = Some(Rng::new(seed));
    for _ in 0..PROCESSES {
        let process = Process::start(relay, folder.path(), &kept);
        let blossom = process.blossom.clone().unwrap();
        let clients = tokio::task::LocalSet::new();
        process.runtime.as_ref().unwrap().block_on(clients.run_until(async {
            let mut tasks = JoinSet::new();
            for _ in 0..ACTIONS {
                if tasks.len() == AT_ONCE {
                    tasks.join_next().await.unwrap().unwrap();
                }
                tasks.spawn_local(act(Arc::clone(&blossom), Arc::clone(&kept)));
                tokio::task::yield_now().await;
            }
            // Killed while some are at work.
            tasks.detach_all();
        }));
        drop(clients);
        drop(blossom);
        process.kill();
        assert_eq!(*lock(&kept.failure), None, "seed {seed}");
    }
    kept.is_settling.store(true, std::sync::atomic::Ordering::Relaxed);
    let process = Process::start(relay, folder.path(), &kept);
    let blossom = process.blossom.clone().unwrap();
    process.runtime.as_ref().unwrap().block_on(async {
        // Those of the shortest rule end.
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        let swept = blossom.index.run(Command::Sweep).await.unwrap();
        assert!(matches!(swept, Outcome::Swept(_)), "{swept:?}");
        blossom.wake.notify_one();
        let live = || -> Vec<PathBuf> {
            let keys = lock(&kept.oracle).keys();
            keys.iter().map(|key| folder.path().join("blobs").join(&key[..2]).join(key)).collect()
        };
        // An upload in parts outlives processes, with what it has on the disk.
        let stored = || -> Vec<PathBuf> {
            let oracle = lock(&kept.oracle);
            let pending: Vec<String> =
                (0..HASHES).filter(|n| oracle.is_pending(*n)).map(|n| sha(n).to_string()).collect();
            let live = oracle.keys();
            let is_pending = |path: &PathBuf| {
                let names = path.iter().filter_map(|name| name.to_str());
                names.clone().any(|name| pending.iter().any(|key| key == name))
                    && !(names.clone().all(|name| name != "parts")
                        && live.iter().any(|key| path.ends_with(key)))
            };
            files(&folder.path().join("blobs")).into_iter().filter(|path| !is_pending(path)).collect()
        };
        for _ in 0..400 {
            if stored() == live() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(stored(), live(), "seed {seed}: bytes are left or missing");
        lock(&kept.oracle).check_bytes(|n| {
            let key = sha(n).to_string();
            std::fs::read(folder.path().join("blobs").join(&key[..2]).join(key)).is_ok_and(|is| is == body(n))
        });
        for owner in (1..=OWNERS).map(Some).chain([None]) {
            let owner_key = owner.map(|n| key(n).to_owned());
            let command =
                Command::List { owner: owner_key, cursor: None, limit: 100, since: None, until: None };
            let Ok(Outcome::Blobs(list)) = blossom.index.run(command).await else { panic!() };
            let list: Vec<_> = list.iter().map(|blob| blob.sha256).collect();
            lock(&kept.oracle).check_list(owner, &list);
        }
    });
    drop(blossom);
    process.kill();
    assert_eq!(*lock(&kept.failure), None, "seed {seed}");
    let stored = lock(&kept.oracle).stored;
    (stored, kept.created.load(std::sync::atomic::Ordering::Relaxed))
}

#[test]
fn clients_threads_and_files_keep_blobs_and_bytes_together_whatever_fails() {
    let seeds = std::env::var("RELAY_BLOSSOM_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let data = tempfile::tempdir().unwrap();
    let relay = relay(data.path());
    let (mut stored, mut created) = (0, 0);
    for seed in 0..seeds {
        let (own_stored, own_created) = run(&relay, seed);
        stored += own_stored;
        created += own_created;
    }
    assert!(stored > 4 * seeds, "{stored}: the clients get nothing done");
    assert!(created > 3 * seeds, "{created}: the clients hear of nothing");
    relay.stop().unwrap();
}
