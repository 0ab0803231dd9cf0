//! `relay stream`: follows other relays live, until Ctrl-C.
//!
//! What is published there is stored here, and what is newly stored here is sent there. What was missed without a connection is
//! compared first, as `relay sync` does it.

use clap::Args;

use super::exit::Failure;
use super::remote::read_key;
use super::router::{Reload, run_router};
use crate::config::Settings;
use crate::sync::stream::{Direction, Output, RouterConfig};

/// Follow other relays live: store what is published there, send what is stored here
#[derive(Args, Debug)]
pub struct StreamArgs {
    /// Other relays, ws:// or wss://, all at once
    #[arg(value_name = "URL", required = true)]
    urls: Vec<String>,
    /// Events that are streamed, as a NIP-01 filter without `limit`; several times: those that match any
    #[arg(long = "filter", value_name = "JSON")]
    filters: Vec<String>,
    /// Which way events go
    #[arg(long, value_name = "DIRECTION", default_value = "down")]
    dir: Direction,
    /// How far back the first comparison goes: Unix seconds, 0 for everything, or how long ago, such as 12h or 7d [default: an
    /// hour]; later ones go back to where the relay was followed last
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// File with the private key for relays that ask for authentication (an nsec or 64 hexadecimal digits), or `env`: it is in
    /// NOSTR_PRIVATE_KEY
    #[arg(long, value_name = "FILE|env")]
    key: Option<String>,
    /// The relay that serves this folder, which is given ephemeral events, and whose ephemeral events are sent
    #[arg(long, value_name = "URL")]
    relay: Option<String>,
    /// Seconds of silence, or without an answer, after which a connection is given up
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// Print what happens as JSON lines on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &StreamArgs, settings: &Settings) -> Result<(), Failure> {
    let StreamArgs { urls, filters, dir, since, key, relay, timeout, json } = args;
    let mut config =
        RouterConfig::of_one(*dir, urls, filters, since.as_deref(), *timeout).map_err(Failure::Usage)?;
    config.relay = relay.as_deref().map(str::parse).transpose().map_err(Failure::Usage)?;
    let keys = key.as_deref().map(read_key).transpose()?;
    let output = if *json { Output::json() } else { Output::lines() };
    run_router(settings, &config, keys, output, Reload::Never)
}
