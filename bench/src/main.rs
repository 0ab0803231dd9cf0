//! `relay-bench`: generates events and loads a relay with them: one on this machine, unless `--allow-remote` is given.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use relay_bench::abuse::Case;
use relay_bench::client::Endpoint;
use relay_bench::corpus::Corpus;
use relay_bench::process::Process;
use relay_bench::shapes::Shape;
use relay_bench::{abuse, blobs, fanout, generate, jobs, load, publish, query, reconcile};
use serde::Serialize;
use serde_json::Value;

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
    /// Uploads and downloads blobs (Blossom), compares every byte, and measures throughput, CPU and memory.
    Blobs(BlobsArgs),
    /// Reconciles sets of ids (NIP-77), checks each difference against the file, and measures time, bytes and CPU.
    Reconcile(ReconcileArgs),
    /// Attacks a relay on this machine in one way after the other, and measures how that slows down an honest client.
    Abuse(AbuseArgs),
}

#[derive(Args)]
struct GenArgs {
    /// Seed of the events.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many events.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    count: u32,
    /// Time of the newest event, in Unix seconds.
    #[arg(long, default_value_t = generate::Options::default().now)]
    now: u64,
    /// Days the events are spread over.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=3650))]
    days: u64,
    /// Number of authors.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    authors: u32,
    /// Where to write; `-` is standard output.
    #[arg(long, default_value = "-")]
    out: PathBuf,
    /// Threads that sign.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
}

#[derive(Args)]
struct Target {
    /// The relay, ws://127.0.0.1:PORT.
    #[arg(long)]
    url: String,
    /// Process id of the relay, whose CPU and memory are measured.
    #[arg(long)]
    pid: Option<u32>,
    /// Allow a relay that is not on this machine. It must be your own.
    #[arg(long)]
    allow_remote: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Load {
    /// Connections that publish.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=512))]
    connections: u16,
    /// Maximum number of unanswered events of a connection.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=load::WINDOW_MAX as i64))]
    window: u16,
    /// Events a second; as fast as the windows allow if not given.
    #[arg(long)]
    rate: Option<f64>,
    /// Threads that drive the connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Stop after this many seconds.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds_max: u32,
}

impl Load {
    fn options(&self) -> Result<load::Options> {
        if self.rate.is_some_and(|rate| rate.is_nan() || rate <= 0.0) {
            bail!("--rate must be above 0");
        }
        Ok(load::Options {
            connections: usize::from(self.connections),
            window: usize::from(self.window),
            rate: self.rate,
            threads: usize::from(self.threads),
            time_max: Duration::from_secs(u64::from(self.seconds_max)),
        })
    }
}

#[derive(Args)]
struct PublishArgs {
    #[command(flatten)]
    target: Target,
    /// Events, one a line.
    #[arg(long)]
    file: PathBuf,
    #[command(flatten)]
    load: Load,
    /// How many of the accepted events to query afterwards.
    #[arg(long, default_value_t = 2_000)]
    read_back: usize,
}

#[derive(Args)]
struct QueryArgs {
    #[command(flatten)]
    target: Target,
    /// The events that the relay stores, one a line; it must store no others.
    #[arg(long)]
    file: PathBuf,
    /// Queries of each kind.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    repeat: u32,
    /// Seed of the values in the filters.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only kinds of queries whose name contains this.
    #[arg(long)]
    query: Option<String>,
    /// Accept any order of events with the same created_at.
    #[arg(long)]
    lenient: bool,
}

#[derive(Args)]
struct FanoutArgs {
    #[command(flatten)]
    target: Target,
    /// Live subscriptions.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    subscriptions: u32,
    /// Connections over which they are spread.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    reader_connections: u32,
    /// Threads that read these connections.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    reader_threads: u8,
    /// Events to publish.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    events: u32,
    /// Seed of authors and subscriptions.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which sequence of events of these authors; the current time if not given, so that each run publishes new ones.
    #[arg(long)]
    sequence: Option<u64>,
    #[command(flatten)]
    load: Load,
}

#[derive(Args)]
#[group(id = "whom", required = true, multiple = true)]
struct JobsArgs {
    #[command(flatten)]
    target: Target,
    /// Public key of an agent, npub or hex; may repeat.
    #[arg(long = "agent", value_name = "NPUB", group = "whom", value_parser = jobs::key)]
    agents: Vec<[u8; 32]>,
    /// File of further public keys, one a line.
    #[arg(long = "agents", value_name = "FILE", group = "whom")]
    agents_file: Option<PathBuf>,
    /// Kind of the requests.
    #[arg(long, default_value_t = 5050, value_parser = clap::value_parser!(u16).range(5000..=5999))]
    kind: u16,
    /// How many requests.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Maximum number of jobs without a result.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=load::WINDOW_MAX as i64))]
    window: u16,
    /// Customers that the requests are spread over; one for 50 requests if not given, since agents limit each.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    customers: Option<u32>,
    /// Bytes of the input, a text.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=32_768))]
    bytes: u32,
    /// The result must be the input.
    #[arg(long)]
    echo: bool,
    /// A job without a result after this many seconds counts as unanswered.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    timeout: u32,
    /// Seed of the customers' keys; the current time if not given, so that each run has new ones.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Args)]
struct BlobsArgs {
    /// The server, http://127.0.0.1:PORT.
    #[arg(long)]
    url: String,
    /// Its process id, whose CPU and memory are measured.
    #[arg(long)]
    pid: Option<u32>,
    /// Another server that serves the same files at the same paths, http://127.0.0.1:PORT.
    #[arg(long)]
    peer: Option<String>,
    /// Its process id.
    #[arg(long)]
    peer_pid: Option<u32>,
    /// Bytes of a blob.
    #[arg(long, default_value_t = 64 << 20, value_parser = clap::value_parser!(u32).range(1..))]
    bytes: u32,
    /// Blobs; all of them are in memory.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Connections.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=512))]
    connections: u16,
    /// Downloads of each blob.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    downloads: u32,
    /// Seed of the blobs; the current time if not given, so that each run has new ones.
    #[arg(long)]
    seed: Option<u64>,
    /// Allow a server that is not on this machine. It must be your own.
    #[arg(long)]
    allow_remote: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ReconcileArgs {
    #[command(flatten)]
    target: Target,
    /// The events that the relay stores, one a line; it must store no others.
    #[arg(long)]
    file: PathBuf,
    /// Reconciliations of each case after the first.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    repeat: u32,
    /// Of a thousand events, how many are missing on either side in the case `missing`.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    missing: u32,
    /// Authors in the filter of the case `authors`.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    authors: u32,
    /// Largest message of the client, in bytes.
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(4_096..=1_000_000))]
    message_bytes: u64,
    /// Reconciliations to hold open at once, for their memory.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    sessions: u32,
    /// Seconds in which another client's latency is measured, without and with reconciliations. It publishes events.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    seconds: u32,
    /// Seed of differences and authors.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct AbuseArgs {
    #[command(flatten)]
    target: Target,
    /// Only this case.
    #[arg(long)]
    case: Option<String>,
    /// Seconds of measuring without an attack, and with each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// The relay is the edge in local workerd: skip the cases that say nothing about it.
    #[arg(long)]
    edge: bool,
    /// Number of client addresses of the attacker, given in X-Forwarded-For and CF-Connecting-IP.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    addresses: u8,
    /// Tags of the attacker's large events.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tags: u32,
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

impl Target {
    fn open(&self) -> Result<(Endpoint, Option<Process>)> {
        Ok((Endpoint::new(&self.url, self.allow_remote)?, self.pid.map(Process::new)))
    }
}

impl JobsArgs {
    fn options(&self) -> Result<jobs::Options> {
        let mut agents = self.agents.clone();
        if let Some(path) = &self.agents_file {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("opening {}", path.display()))?;
            agents.extend(jobs::read_keys(&text).with_context(|| path.display().to_string())?);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        Ok(jobs::Options {
            agents,
            kind: self.kind,
            count: self.count as usize,
            window: usize::from(self.window),
            customers: self.customers.unwrap_or(self.count.div_ceil(50)) as usize,
            input_bytes: self.bytes as usize,
            echo: self.echo,
            timeout: Duration::from_secs(u64::from(self.timeout)),
            seed: self.seed.unwrap_or(now.as_millis() as u64),
        })
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
