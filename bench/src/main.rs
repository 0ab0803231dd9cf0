//! `relay-bench`: generates events and loads a relay with them: one on this machine, unless `--allow-remote` is given.

mod args;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use relay_bench::abuse::Case;
use relay_bench::corpus::Corpus;
use relay_bench::process::Process;
use relay_bench::shapes::Shape;
use relay_bench::{abuse, blobs, fanout, generate, jobs, publish, query, reconcile};
use serde::Serialize;
use serde_json::Value;

use args::{AbuseArgs, BlobsArgs, FanoutArgs, GenArgs, JobsArgs, PublishArgs, QueryArgs, ReconcileArgs};

/// Generates Nostr events, loads a relay with them, and measures its CPU, latency and memory.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes generated, signed events, one a line. The same seed gives the same bytes.
    Gen(GenArgs),
    /// Publishes a file of events and measures throughput and CPU per event.
    Publish(PublishArgs),
    /// Sends seven kinds of queries, checks each answer against the file, and measures CPU per query.
    Query(QueryArgs),
    /// Opens live subscriptions, publishes new events, and measures CPU and latency per delivery.
    Fanout(FanoutArgs),
    /// Sends job requests to data vending machines (NIP-90), checks each answer, and measures throughput and latency.
    Jobs(JobsArgs),
    /// Prints the wallet's connection string that paid agents are to be given for `jobs --paid`.
    Wallet {
        /// The relay's URL as the agents know it: its `url` setting.
        #[arg(long)]
        url: String,
    },
    /// Uploads and downloads blobs (Blossom), compares every byte, and measures throughput, CPU and memory.
    Blobs(BlobsArgs),
    /// Reconciles sets of ids (NIP-77), checks each difference against the file, and measures time, bytes and CPU.
    Reconcile(ReconcileArgs),
    /// Attacks a relay on this machine in one way after the other, and measures how that slows down an honest client.
    Abuse(AbuseArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            report_error("some of the relay's answers are wrong");
            ExitCode::from(1)
        }
        Err(error) => {
            report_error(&format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

fn report_error(text: &str) {
    // If standard error is closed, there is no place for a message.
    let _ = writeln!(io::stderr(), "relay-bench: {text}");
}

/// Whether all answers were right.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::Gen(args) => {
            let options = generate::Options {
                seed: args.seed,
                sequence: 0,
                count: args.count as usize,
                now: args.now,
                days: args.days,
                authors: args.authors as usize,
            };
            if options.now < (options.days + 1) * 86_400 {
                bail!("--now is too early for --days");
            }
            let threads = usize::from(args.threads);
            if args.out == Path::new("-") {
                options.write(threads, &mut BufWriter::with_capacity(1 << 20, io::stdout().lock()))?;
            } else {
                let file =
                    File::create(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
                options.write(threads, &mut BufWriter::with_capacity(1 << 20, file))?;
            }
            Ok(true)
        }
        Command::Publish(args) => {
            let (endpoint, process) = args.target.open()?;
            let corpus = read(&args.file)?;
            let report = publish::run(&endpoint, process, &corpus, &args.load.options()?, args.read_back)?;
            print(&report, args.target.json)?;
            Ok(report.is_correct())
        }
        Command::Query(args) => {
            let (endpoint, process) = args.target.open()?;
            let corpus = read(&args.file)?;
            let wanted = args.query.as_deref().unwrap_or_default();
            let shapes: Vec<Shape> =
                Shape::ALL.into_iter().filter(|shape| shape.name().contains(wanted)).collect();
            if shapes.is_empty() {
                bail!("no such query; there are {:?}", Shape::ALL.map(Shape::name));
            }
            let options =
                query::Options { repeat: args.repeat as usize, seed: args.seed, lenient: args.lenient };
            let report = query::run(&endpoint, process, &corpus, &shapes, &options)?;
            print(&report, args.target.json)?;
            Ok(report.is_correct())
        }
        Command::Fanout(args) => {
            let (endpoint, process) = args.target.open()?;
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            let options = fanout::Options {
                subscriptions: args.subscriptions as usize,
                connections: args.reader_connections as usize,
                threads: usize::from(args.reader_threads),
                events: args.events as usize,
                seed: args.seed,
                sequence: args.sequence.unwrap_or(now.as_millis() as u64),
                publish: args.load.options()?,
            };
            let report = fanout::run(&endpoint, process, &options)?;
            print(&report, args.target.json)?;
            Ok(report.is_correct())
        }
        Command::Jobs(args) => {
            let (endpoint, process) = args.target.open()?;
            let report = jobs::run(&endpoint, process, &args.options()?)?;
            print(&report, args.target.json)?;
            Ok(report.is_correct())
        }
        Command::Wallet { url } => {
            writeln!(io::stdout(), "{}", jobs::connection_string(&url))?;
            Ok(true)
        }
        Command::Blobs(args) => {
            let server = |url: &str, pid: Option<u32>| {
                blobs::Server::new(url, pid.map(Process::new), args.allow_remote)
            };
            let peer = args.peer.as_deref().map(|url| server(url, args.peer_pid)).transpose()?;
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            let options = blobs::Options {
                bytes: args.bytes as usize,
                count: args.count as usize,
                connections: usize::from(args.connections).min(args.count as usize),
                downloads: args.downloads as usize,
                seed: args.seed.unwrap_or(now.as_nanos() as u64),
            };
            let measured = blobs::run(&server(&args.url, args.pid)?, peer.as_ref(), &options)?;
            print(&measured, args.json)?;
            Ok(true)
        }
        Command::Reconcile(args) => {
            let (endpoint, process) = args.target.open()?;
            let corpus = read(&args.file)?;
            let options = reconcile::Options {
                repeat: args.repeat as usize,
                missing_permille: args.missing as usize,
                authors: args.authors as usize,
                message_bytes_max: args.message_bytes,
                sessions: args.sessions as usize,
                seconds: args.seconds,
                seed: args.seed,
            };
            let report = reconcile::run(&endpoint, process, &corpus, &options)?;
            print(&report, args.target.json)?;
            Ok(report.is_correct())
        }
        Command::Abuse(args) => {
            if args.target.allow_remote {
                bail!("`abuse` attacks relays on this machine only; --allow-remote is not allowed");
            }
            let (endpoint, process) = args.target.open()?;
            let is_wanted = |case: &Case| args.case.as_deref().is_none_or(|name| case.name() == name);
            let cases: Vec<Case> = Case::ALL.into_iter().filter(is_wanted).collect();
            if cases.is_empty() {
                bail!("no such case; there are {:?}", Case::ALL.map(Case::name));
            }
            let options = abuse::Options {
                seconds: args.seconds,
                rest_seconds: 5,
                addresses: args.addresses,
                tags: args.tags as usize,
            };
            for case in cases {
                if let Some(reason) = case.not_on_edge().filter(|_| args.edge) {
                    let skipped = serde_json::json!([{ "case": case.name(), "skipped": reason }]);
                    print(&skipped, args.target.json)?;
                    continue;
                }
                let report = abuse::run(&endpoint, process, &[case], &options)?;
                print(&report, args.target.json)?;
            }
            Ok(true)
        }
    }
}

fn read(path: &Path) -> Result<Corpus> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    Corpus::read(&mut BufReader::with_capacity(1 << 20, file)).with_context(|| path.display().to_string())
}

fn print(report: &impl Serialize, json: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    let value = serde_json::to_value(report)?;
    if json {
        writeln!(out, "{value}")?;
    } else {
        lines(&mut out, "", &value)?;
    }
    Ok(())
}

/// One line for each value, with its path in the document.
fn lines(out: &mut dyn Write, path: &str, value: &Value) -> io::Result<()> {
    match value {
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
            lines(out, &if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value)
        }),
        Value::Array(list) => list.iter().try_for_each(|value| {
            let name = ["query", "case", "direction"]
                .iter()
                .find_map(|key| value.get(*key))
                .and_then(Value::as_str)
                .unwrap_or("-");
            lines(out, name, value)
        }),
        Value::Null => Ok(()),
        value => writeln!(out, "{path:<44} {value}"),
    }
}
