//! `relay sync`: copies events from and to other relays, only those that one side lacks.
//!
//! Sets are compared by NIP-77, so relays that differ in little exchange little. A relay without it is read in pages, which is a
//! full download of what the filter matches. Events are verified and stored as by `relay import`, also while a relay serves the
//! folder.

use std::time::Duration;

use clap::{Args, ValueEnum};
use relay_engine::store::Backend;
use relay_engine::types::Timestamp;
use serde_json::{Value, json};

use super::command_store::CommandStore;
use super::database::{self, with_store};
use super::exit::Failure;
use super::progress::Progress;
use super::remote::read_key;
use super::time::moment;
use crate::config::Settings;
use crate::signals::Interrupt;
use crate::sync::{Counts, Method, Options, Outcome, RelayUrl, Report, SyncClient, SyncProgress, Task};

/// Copy events from and to other relays: only what one side lacks
#[derive(Args, Debug)]
pub struct SyncArgs {
    /// Other relays, ws:// or wss://, one after another
    #[arg(value_name = "URL", required = true)]
    urls: Vec<String>,
    /// Events that are to be on both sides, as a NIP-01 filter without `limit`
    #[arg(long, value_name = "JSON", default_value = "{}")]
    filter: String,
    /// Which way events are copied
    #[arg(long, value_name = "DIRECTION", default_value = "both")]
    dir: Direction,
    /// Not older than this: Unix seconds, or how long ago, such as 90s, 15m, 12h, 7d or 2w
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Not newer than this: Unix seconds, or how long ago
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Copy nothing; print how many events would be copied each way
    #[arg(long)]
    dry_run: bool,
    /// File with the private key for relays that ask for authentication (an nsec or 64 hexadecimal digits), or `env`: it is in
    /// NOSTR_PRIVATE_KEY
    #[arg(long, value_name = "FILE|env")]
    key: Option<String>,
    /// Seconds without an answer after which a connection is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    timeout: f64,
    /// Connections in a row that get no further, after which a relay is given up
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    tries: u32,
    /// Print the results as one JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// Which way events are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// Send what is here and not there
    Up,
    /// Fetch what is there and not here
    Down,
    /// Both
    Both,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "expected seconds, from 0.1 to 86400".to_owned())
}

/// Runs the command.
pub fn run(args: &SyncArgs, settings: &Settings) -> Result<(), Failure> {
    let urls: Vec<RelayUrl> =
        args.urls.iter().map(|url| url.parse().map_err(Failure::Usage)).collect::<Result<_, _>>()?;
    let now = database::unix_now();
    let time = |name: &str, text: &Option<String>| -> Result<Option<Timestamp>, Failure> {
        let wrong = |text| {
            Failure::Usage(format!("{name} {text}: expected Unix seconds, or how long ago, such as 7d"))
        };
        text.as_ref().map(|text| moment(text, now).ok_or_else(|| wrong(text))).transpose()
    };
    let options = Options {
        filter: &args.filter,
        since: time("--since", &args.since)?,
        until: time("--until", &args.until)?,
        down: args.dir != Direction::Up,
        up: args.dir != Direction::Down,
        dry_run: args.dry_run,
        timeout: Duration::from_secs_f64(args.timeout),
        tries: args.tries,
        keys: args.key.as_deref().map(read_key).transpose()?,
    };
    let task = options.task()?;
    let only_reads = args.dry_run || args.dir == Direction::Up;
    let database = match only_reads {
        true => database::open_to_read(settings)?.for_command(),
        false => database::open_to_change(settings)?,
    };
    with_store!(database, store => sync(args, settings, task, &urls, only_reads, store))
}

fn sync<B: Backend + Clone + Send + Sync + 'static>(
    args: &SyncArgs,
    settings: &Settings,
    task: Task,
    urls: &[RelayUrl],
    only_reads: bool,
    store: CommandStore<B>,
) -> Result<(), Failure> {
    let interrupt = Interrupt::watch()?;
    let client = SyncClient::new(task, store, settings, interrupt)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let reports = runtime.block_on(run_all(&client, urls, args.dry_run))?;
    if !only_reads {
        // What was deleted is removed now, not only when the relay next serves.
        client.finish()?;
    }
    if args.json {
        let peers: Vec<Value> = reports.iter().map(|(url, report)| document(url, report)).collect();
        let text = json!({ "dry_run": args.dry_run, "peers": peers }).to_string();
        let mut lines = database::Lines::new(None)?;
        let result = lines.write(text.as_bytes());
        lines.finish(result)?;
    }
    end(&reports, urls.len())
}

async fn run_all<'a, B: Backend + Clone + Send + Sync + 'static>(
    client: &SyncClient<B>,
    urls: &'a [RelayUrl],
    dry_run: bool,
) -> Result<Vec<(&'a RelayUrl, Report)>, Failure> {
    let mut reports = Vec::with_capacity(urls.len());
    for url in urls {
        let mut progress = Progress::new("sync", None);
        let mut until_now = None;
        let report = client
            .run(url, &mut |notice| match notice {
                SyncProgress::Message(message) => progress.print(&format!("{url}: {message}")),
                SyncProgress::Transferred { more, counts } => {
                    until_now = Some(counts.words(dry_run));
                    progress.add(more, || format!(" events: {url}: {}", counts.words(dry_run)));
                }
            })
            .await;
        progress.finish();
        let report = report.inspect_err(|_| {
            let words = until_now.as_deref().unwrap_or("nothing was copied");
            eprintln!("{url}: the store here failed ({words})");
        })?;
        eprintln!("{}", line(url, &report, dry_run));
        let is_interrupted = report.result == Outcome::Interrupted;
        reports.push((url, report));
        if is_interrupted {
            break;
        }
    }
    Ok(reports)
}

/// The result for people.
fn line(url: &RelayUrl, report: &Report, dry_run: bool) -> String {
    let words = report.counts.words(dry_run);
    match &report.result {
        Outcome::Done => format!("{url}: {words}"),
        Outcome::Failed(why) | Outcome::GivenUp(why) => format!("{url}: failed: {why} ({words})"),
        Outcome::Interrupted => format!("{url}: ended by a signal ({words}); the next sync goes on"),
    }
}

/// The result for programs.
fn document(url: &RelayUrl, report: &Report) -> Value {
    let Report { counts, method, connections, result } = report;
    let mut document = json!({
        "url": url.to_string(),
        "result": match result {
            Outcome::Done => "done",
            Outcome::Failed(_) | Outcome::GivenUp(_) => "failed",
            Outcome::Interrupted => "interrupted",
        },
        "method": match method {
            Method::Nothing => None,
            Method::Negentropy => Some("negentropy"),
            Method::Pages => Some("pages"),
        },
        "connections": connections,
        "counts": counts,
    });
    if let Outcome::Failed(why) | Outcome::GivenUp(why) = result {
        document["error"] = why.as_str().into();
    }
    document
}

/// How the command ends.
fn end(reports: &[(&RelayUrl, Report)], relays: usize) -> Result<(), Failure> {
    let is =
        |result: fn(&Outcome) -> bool| reports.iter().filter(|(_, report)| result(&report.result)).count();
    let failed = is(|result| matches!(result, Outcome::Failed(_) | Outcome::GivenUp(_)));
    match () {
        () if is(|result| *result == Outcome::Interrupted) > 0 => Err(Failure::Interrupted),
        () if failed > 0 => Err(Failure::External(format!("{failed} of {relays} relays failed"))),
        () if reports.iter().any(|(_, Report { counts, .. })| Counts::has_refused(counts)) => {
            Err(Failure::Refused)
        }
        () => Ok(()),
    }
}
