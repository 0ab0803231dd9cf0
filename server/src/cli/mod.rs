//! The command line.
//!
//! `relay` alone is `relay serve`. Exit codes: [`exit::Failure`].

pub mod database;
pub mod delete;
pub mod exit;
pub mod export;
pub mod import;
pub mod info;
mod json_lines;
mod progress;
pub mod scan;
mod serve;

pub(crate) use serve::serve_here;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Loaded, Sources};
use exit::Failure;

const AFTER_HELP: &str = "\
Settings come from flags, then RELAY_... variables, then the file, then defaults; `relay config` shows what \
came out and from where. RELAY_LIMITS__LIMIT_MAX=1000 and --set limits.limit_max=1000 set limits.limit_max.

Exit codes: 0 done; 1 some of the input was refused; 2 wrong usage or configuration; 3 storage, a file or a \
socket failed; 130 ended by a signal before everything was done.

Commands may run beside a serving relay on the same folder, in the same PID namespace (in its container): LMDB \
keeps processes apart by their ids. A serving relay finds imported events when it is asked for them; it does \
not announce them to live subscriptions. A second relay on the same folder is refused.";

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
    /// Serve clients until Ctrl-C or SIGTERM (what `relay` alone does)
    Serve(Serve),
    /// Store events from JSON lines
    Import(With<import::ImportArgs>),
    /// Write stored events as JSON lines
    Export(With<export::ExportArgs>),
    /// Write the events that match filters, as a client would get them
    Scan(With<scan::ScanArgs>),
    /// Take out the events that match a filter, without a trace
    Delete(With<delete::DeleteArgs>),
    /// Tell what is in the database
    Info(With<info::InfoArgs>),
    /// Print the effective configuration as TOML
    Config(Serve),
}

/// What every command takes.
#[derive(Args, Debug, Default)]
struct Common {
    /// Configuration file [default: $RELAY_CONFIG, else relay.toml if it is there]
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
    own: T,
}

#[derive(Args, Debug)]
struct Serve {
    #[command(flatten)]
    common: Common,
    /// Address and port to listen on; port 0 takes any free one [default: 127.0.0.1:7777]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Public ws:// or wss:// URL, as clients name the relay when they authenticate
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Threads that serve connections [default: one per core]
    #[arg(long, value_name = "COUNT")]
    shards: Option<String>,
    /// `text` or `json`
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl Common {
    fn load(&self, more: &[(&str, &str, &Option<String>)]) -> Result<Loaded, Failure> {
        let mut flags = Vec::new();
        for set in &self.set {
            let Some((key, value)) = set.split_once('=') else {
                return Err(Failure::Usage(format!("--set {set}: KEY=VALUE is wanted")));
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
            // A refused line has been reported where it was refused, and an end by a signal where it came.
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
        Some(Command::Import(With { common, own })) => import::run(own, &common.load(&[])?.settings),
        Some(Command::Export(With { common, own })) => export::run(own, &common.load(&[])?.settings),
        Some(Command::Scan(With { common, own })) => scan::run(own, &common.load(&[])?.settings),
        Some(Command::Delete(With { common, own })) => delete::run(own, &common.load(&[])?.settings),
        Some(Command::Info(With { common, own })) => info::run(own, &common.load(&[])?.settings),
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
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
