//! The command line.
//!
//! `relay` without a command is `relay serve`. Exit codes: [`exit::Failure`].

pub mod agent;
pub mod blossom;
mod client;
pub(crate) mod command_store;
pub mod database;
mod db;
pub mod delete;
pub mod exit;
mod explain;
pub mod export;
pub mod import;
pub mod info;
mod json_lines;
pub mod market;
mod progress;
mod remote;
pub mod router;
pub mod scan;
mod serve;
pub mod stream;
pub mod sync;
pub(crate) mod time;
pub mod verify_db;

pub(crate) use serve::serve_here;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Loaded, Sources};
use exit::Failure;

const AFTER_HELP: &str = "\
A setting is taken from the flags, else from RELAY_... variables, else from the file, else it has its default; \
`relay config` prints the result and where each value came from. RELAY_LIMITS__LIMIT_MAX=1000 and --set limits.limit_max=1000 set limits.limit_max.

Exit codes: 0 done; 1 some of the input, or what was asked of a relay or sent to it, was refused; 2 wrong usage or configuration; \
3 storage, a file, a socket or the relay that was asked failed; 130 ended by a signal before everything was done (stream and router, \
which only a signal ends: 0).

Commands may run while a relay serves the same folder. Its queries return what they store at once, and its live subscriptions \
receive it. With LMDB they must be in its PID namespace (inside its container), because LMDB identifies processes by their ids. A second \
relay on the same folder is refused.";

#[derive(Parser, Debug)]
#[command(name = "relay", version, about = "A Nostr relay", after_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve clients until Ctrl-C or SIGTERM (the default command)
    Serve(Serve),
    /// Store events from JSON lines
    Import(With<import::ImportArgs>),
    /// Write stored events as JSON lines
    Export(With<export::ExportArgs>),
    /// Write the events that match filters, as a REQ would return them
    Scan(With<scan::ScanArgs>),
    /// Delete the events that match a filter; no tombstone is left, so they may be published again
    Delete(With<delete::DeleteArgs>),
    /// Copy events from and to other relays: only what one side lacks
    Sync(With<sync::SyncArgs>),
    /// Follow other relays live: store what is published there, send what is stored here
    Stream(With<stream::StreamArgs>),
    /// Run the streams of a configuration file
    Router(With<router::RouterArgs>),
    /// Print statistics of the database
    Info(With<info::InfoArgs>),
    /// Read the whole database and name what is broken; nothing is changed
    VerifyDb(With<verify_db::VerifyDbArgs>),
    /// Convert the database to another engine
    #[command(subcommand)]
    Db(db::DbCommand),
    /// Deploy and manage agents on a running relay
    Agent(agent::AgentArgs),
    /// Manage the blobs of a running relay
    Blossom(blossom::BlossomArgs),
    /// Verify what a relay says about providers of jobs
    Market(market::MarketArgs),
    /// Print the effective configuration as TOML
    Config(Serve),
}

/// Options of every command.
#[derive(Args, Debug, Default)]
struct Common {
    /// Configuration file [default: $RELAY_CONFIG_FILE, else relay.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the database [default: relay-data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Set any key of the configuration, for instance limits.limit_max=1000
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args, Debug)]
struct With<T: Args> {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    args: T,
}

#[derive(Args, Debug)]
struct Serve {
    #[command(flatten)]
    common: Common,
    /// Address and port to listen on; port 0 takes any free one [default: 127.0.0.1:7777]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Public ws:// or wss:// URL, which clients must name when they authenticate
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Threads that serve connections [default: one per core]
    #[arg(long, value_name = "COUNT")]
    shards: Option<String>,
    /// Format of the log: `text` or `json`
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl Common {
    fn load(&self, more: &[(&str, &str, &Option<String>)]) -> Result<Loaded, Failure> {
        let mut flags = Vec::new();
        for set in &self.set {
            let Some((key, value)) = set.split_once('=') else {
                return Err(Failure::Usage(format!("--set {set}: expected KEY=VALUE")));
            };
            flags.push((key.to_owned(), value.to_owned(), format!("--set {key}")));
        }
        // Named flags win over --set.
        for (key, flag, value) in [("data", "--data", &self.data)].iter().chain(more) {
            if let Some(value) = value {
                flags.push((key.to_string(), value.clone(), flag.to_string()));
            }
        }
        Sources::of_process(self.config.clone(), flags)
            .load()
            .map_err(|error| Failure::Usage(error.to_string()))
    }
}

impl Serve {
    fn load(&self) -> Result<Loaded, Failure> {
        self.common.load(&[
            ("listen", "--listen", &self.listen),
            ("url", "--url", &self.url),
            ("shards", "--shards", &self.shards),
            ("log.format", "--log-format", &self.log_format),
        ])
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Refused lines and the end by a signal have already been reported.
            if !matches!(failure, Failure::Refused | Failure::Interrupted) {
                let _ = writeln!(std::io::stderr(), "relay: {failure}");
            }
            failure.code()
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    match cli.command.as_ref() {
        None => serve::run(cli.serve.load()?.settings),
        Some(Command::Serve(args)) => serve::run(args.load()?.settings),
        Some(Command::Import(With { common, args })) => import::run(args, &common.load(&[])?.settings),
        Some(Command::Export(With { common, args })) => export::run(args, &common.load(&[])?.settings),
        Some(Command::Scan(With { common, args })) => scan::run(args, &common.load(&[])?.settings),
        Some(Command::Delete(With { common, args })) => delete::run(args, &common.load(&[])?.settings),
        Some(Command::Sync(With { common, args })) => sync::run(args, &common.load(&[])?.settings),
        Some(Command::Stream(With { common, args })) => stream::run(args, &common.load(&[])?.settings),
        Some(Command::Router(With { common, args })) => router::run(args, &common.load(&[])?.settings),
        Some(Command::Info(With { common, args })) => info::run(args, &common.load(&[])?.settings),
        Some(Command::VerifyDb(With { common, args })) => verify_db::run(args, &common.load(&[])?.settings),
        Some(Command::Db(db::DbCommand::Convert(With { common, args }))) => {
            db::run(args, &common.load(&[])?.settings)
        }
        Some(Command::Agent(args)) => agent::run(args),
        Some(Command::Blossom(args)) => blossom::run(args),
        Some(Command::Market(args)) => market::run(args),
        Some(Command::Config(args)) => {
            let text = args.load()?.to_toml();
            let mut lines = database::Lines::new(None)?;
            let result = lines.write(text.trim_end().as_bytes());
            lines.finish(result)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn clap_accepts_the_command_definition() {
        Cli::command().debug_assert();
    }
}
