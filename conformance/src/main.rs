//! `relay-conformance --url URL`: runs the suite against a server and prints the results.
//!
//! Exit code 0 if no MUST and no SAFETY rule is broken, 1 if one is, 2 if the suite could not run.

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use relay_conformance::nostr::Key;
use relay_conformance::{Options, report, rules, run};

/// Tests a Blossom server, rule by rule.
#[derive(Parser)]
#[command(name = "relay-conformance", about)]
struct Cli {
    /// Base URL of the server: http://127.0.0.1:7777
    #[arg(long, required_unless_present = "list")]
    url: Option<String>,
    /// Secret key that may upload, as nsec or hex; a random one if it is left out
    #[arg(long, env = "CONFORMANCE_KEY", hide_env_values = true)]
    key: Option<String>,
    /// A second secret key that may upload, for blobs of two owners
    #[arg(long, env = "CONFORMANCE_SECOND_KEY", hide_env_values = true)]
    second_key: Option<String>,
    /// Where to listen for the server's mirror requests, port 0 for a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "HOST:PORT")]
    callback: String,
    /// Another Blossom server that takes uploads, to mirror from
    #[arg(long, value_name = "URL")]
    mirror_origin: Option<String>,
    /// The server is set up to fetch from private addresses: mirror from the callback, and skip the tests of SSRF protection
    #[arg(long)]
    private_allowed: bool,
    /// Size of the large blob
    #[arg(long, default_value_t = 8 << 20, value_name = "BYTES")]
    large_blob_bytes: usize,
    /// Only rules whose id, section or text contains this
    #[arg(long, value_name = "SUBSTRING")]
    only: Option<String>,
    /// Print the rules and run nothing
    #[arg(long)]
    list: bool,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// Longest wait for an answer, in milliseconds
    #[arg(long, default_value_t = 10_000, value_name = "MS")]
    timeout_ms: u64,
    /// Pause between the pieces of a slow body, in milliseconds
    #[arg(long, default_value_t = 400, value_name = "MS")]
    body_pause_ms: u64,
}

fn main() -> ExitCode {
    match start(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether no rule is broken that decides the exit code.
fn start(cli: &Cli) -> Result<bool> {
    let options = Options {
        key: read_key(cli.key.as_deref()).context("--key")?,
        second_key: read_key(cli.second_key.as_deref()).context("--second-key")?,
        callback: cli.callback.clone(),
        mirror_origin: cli.mirror_origin.clone(),
        private_allowed: cli.private_allowed,
        large_blob_bytes: cli.large_blob_bytes,
        only: cli.only.clone(),
        timeout: Duration::from_millis(cli.timeout_ms),
        body_pause: Duration::from_millis(cli.body_pause_ms),
        ..Options::new(cli.url.as_deref().unwrap_or_default())
    };
    if cli.list {
        let chosen: Vec<_> = rules().into_iter().filter(|rule| options.choose(rule)).collect();
        stdout().write_all(report::list(&chosen).as_bytes())?;
        return Ok(true);
    }
    let results = run(&options, |tested| {
        eprintln!("{} {}", report::word(tested), tested.rule.id);
    })
    .with_context(|| format!("cannot test {}", options.url))?;
    let text = if cli.json {
        format!("{:#}\n", report::to_json(&options.url, &results))
    } else {
        report::table(&results)
    };
    stdout().write_all(text.as_bytes())?;
    Ok(!results.iter().any(report::is_fatal))
}

fn read_key(text: Option<&str>) -> Result<Option<Key>> {
    text.map(|text| Key::read(text).context("neither an nsec nor 64 hex digits")).transpose()
}
