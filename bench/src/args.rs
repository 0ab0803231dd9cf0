//! The arguments of each command.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;
use relay_bench::client::Endpoint;
use relay_bench::process::Process;
use relay_bench::{generate, jobs, load};

#[derive(Args)]
pub(super) struct GenArgs {
    /// Seed of the events.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// How many events.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub(super) count: u32,
    /// Time of the newest event, in Unix seconds.
    #[arg(long, default_value_t = generate::Options::default().now)]
    pub(super) now: u64,
    /// Days the events are spread over.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=3650))]
    pub(super) days: u64,
    /// Number of authors.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub(super) authors: u32,
    /// Where to write; `-` is standard output.
    #[arg(long, default_value = "-")]
    pub(super) out: PathBuf,
    /// Threads that sign.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(super) threads: u8,
}

#[derive(Args)]
pub(super) struct Target {
    /// The relay, ws://127.0.0.1:PORT.
    #[arg(long)]
    pub(super) url: String,
    /// Process id of the relay, whose CPU and memory are measured.
    #[arg(long)]
    pub(super) pid: Option<u32>,
    /// Allow a relay that is not on this machine. It must be your own.
    #[arg(long)]
    pub(super) allow_remote: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args)]
pub(super) struct Load {
    /// Connections that publish.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(super) connections: u16,
    /// Maximum number of unanswered events of a connection.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=load::WINDOW_MAX as i64))]
    pub(super) window: u16,
    /// Events a second; as fast as the windows allow if not given.
    #[arg(long)]
    pub(super) rate: Option<f64>,
    /// Threads that drive the connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(super) threads: u8,
    /// Stop after this many seconds.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(super) seconds_max: u32,
}

impl Load {
    pub(super) fn options(&self) -> Result<load::Options> {
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
pub(super) struct PublishArgs {
    #[command(flatten)]
    pub(super) target: Target,
    /// Events, one a line.
    #[arg(long)]
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) load: Load,
    /// How many of the accepted events to query afterwards.
    #[arg(long, default_value_t = 2_000)]
    pub(super) read_back: usize,
}

#[derive(Args)]
pub(super) struct QueryArgs {
    #[command(flatten)]
    pub(super) target: Target,
    /// The events that the relay stores, one a line; it must store no others.
    #[arg(long)]
    pub(super) file: PathBuf,
    /// Queries of each kind.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) repeat: u32,
    /// Seed of the values in the filters.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Only kinds of queries whose name contains this.
    #[arg(long)]
    pub(super) query: Option<String>,
    /// Accept any order of events with the same created_at.
    #[arg(long)]
    pub(super) lenient: bool,
}

#[derive(Args)]
pub(super) struct FanoutArgs {
    #[command(flatten)]
    pub(super) target: Target,
    /// Live subscriptions.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) subscriptions: u32,
    /// Connections over which they are spread.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(super) reader_connections: u32,
    /// Threads that read these connections.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(super) reader_threads: u8,
    /// Events to publish.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) events: u32,
    /// Seed of authors and subscriptions.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Which sequence of events of these authors; the current time if not given, so that each run publishes new ones.
    #[arg(long)]
    pub(super) sequence: Option<u64>,
    #[command(flatten)]
    pub(super) load: Load,
}

#[derive(Args)]
#[group(id = "whom", required = true, multiple = true)]
pub(super) struct JobsArgs {
    #[command(flatten)]
    pub(super) target: Target,
    /// Public key of an agent, npub or hex; may repeat.
    #[arg(long = "agent", value_name = "NPUB", group = "whom", value_parser = jobs::key)]
    pub(super) agents: Vec<[u8; 32]>,
    /// File of further public keys, one a line.
    #[arg(long = "agents", value_name = "FILE", group = "whom")]
    pub(super) agents_file: Option<PathBuf>,
    /// Kind of the requests.
    #[arg(long, default_value_t = 5050, value_parser = clap::value_parser!(u16).range(5000..=5999))]
    pub(super) kind: u16,
    /// How many requests.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) count: u32,
    /// Maximum number of jobs without a result.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=load::WINDOW_MAX as i64))]
    pub(super) window: u16,
    /// Customers that the requests are spread over; one for 50 requests if not given, since agents limit each.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) customers: Option<u32>,
    /// Bytes of the input, a text.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=32_768))]
    pub(super) bytes: u32,
    /// The result must be the input.
    #[arg(long)]
    pub(super) echo: bool,
    /// The customers pay. The agents have to be paid by the wallet that `relay-bench wallet` names, which this program is then.
    #[arg(long)]
    pub(super) paid: bool,
    /// A job without a result after this many seconds counts as unanswered.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(super) timeout: u32,
    /// Seed of the customers' keys; the current time if not given, so that each run has new ones.
    #[arg(long)]
    pub(super) seed: Option<u64>,
}

#[derive(Args)]
pub(super) struct BlobsArgs {
    /// The server, http://127.0.0.1:PORT.
    #[arg(long)]
    pub(super) url: String,
    /// Its process id, whose CPU and memory are measured.
    #[arg(long)]
    pub(super) pid: Option<u32>,
    /// Another server that serves the same files at the same paths, http://127.0.0.1:PORT.
    #[arg(long)]
    pub(super) peer: Option<String>,
    /// Its process id.
    #[arg(long)]
    pub(super) peer_pid: Option<u32>,
    /// Bytes of a blob.
    #[arg(long, default_value_t = 64 << 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) bytes: u32,
    /// Blobs; all of them are in memory.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) count: u32,
    /// Connections.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(super) connections: u16,
    /// Downloads of each blob.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) downloads: u32,
    /// Seed of the blobs; the current time if not given, so that each run has new ones.
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Allow a server that is not on this machine. It must be your own.
    #[arg(long)]
    pub(super) allow_remote: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args)]
pub(super) struct ReconcileArgs {
    #[command(flatten)]
    pub(super) target: Target,
    /// The events that the relay stores, one a line; it must store no others.
    #[arg(long)]
    pub(super) file: PathBuf,
    /// Reconciliations of each case after the first.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) repeat: u32,
    /// Of a thousand events, how many are missing on either side in the case `missing`.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) missing: u32,
    /// Authors in the filter of the case `authors`.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) authors: u32,
    /// Largest message of the client, in bytes.
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(4_096..=1_000_000))]
    pub(super) message_bytes: u64,
    /// Reconciliations to hold open at once, for their memory.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(super) sessions: u32,
    /// Seconds in which another client's latency is measured, without and with reconciliations. It publishes events.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    pub(super) seconds: u32,
    /// Seed of differences and authors.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
}

#[derive(Args)]
pub(super) struct AbuseArgs {
    #[command(flatten)]
    pub(super) target: Target,
    /// Only this case.
    #[arg(long)]
    pub(super) case: Option<String>,
    /// Seconds of measuring without an attack, and with each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(super) seconds: u32,
    /// The relay is the edge in local workerd: skip the cases that say nothing about it.
    #[arg(long)]
    pub(super) edge: bool,
    /// Number of client addresses of the attacker, given in X-Forwarded-For and CF-Connecting-IP.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub(super) addresses: u8,
    /// Tags of the attacker's large events.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) tags: u32,
}

impl Target {
    pub(super) fn open(&self) -> Result<(Endpoint, Option<Process>)> {
        Ok((Endpoint::new(&self.url, self.allow_remote)?, self.pid.map(Process::new)))
    }
}

impl JobsArgs {
    pub(super) fn options(&self) -> Result<jobs::Options> {
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
            is_paid: self.paid,
            timeout: Duration::from_secs(u64::from(self.timeout)),
            seed: self.seed.unwrap_or(now.as_millis() as u64),
        })
    }
}
