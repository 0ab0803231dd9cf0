//! `cargo xtask edge`: the Worker's toolchain, build and local run. See `edge/README.md` for deploying it.

use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Subcommand;

use crate::run::{cargo, root, run, succeeds};

#[derive(Subcommand)]
pub(crate) enum Edge {
    /// Install the pinned toolchain of the Worker, and check it
    Setup,
    /// Print what is installed; fails if something is missing
    Check,
    /// Build the Worker into edge/build
    Build,
    /// Build the Worker and run it in local workerd on loopback, as wrangler.toml describes it
    Dev {
        /// Port on 127.0.0.1
        #[arg(long, default_value_t = 8787)]
        port: u16,
        /// Folder of the stored data
        #[arg(long, default_value = "edge/.state")]
        persist: PathBuf,
    },
}

impl Edge {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match self {
            Edge::Setup => setup(),
            Edge::Check => run(&mut toolchain("check")),
            Edge::Build => build(),
            Edge::Dev { port, persist } => dev(*port, persist),
        }
    }
}

const TOOLCHAIN: &str = "edge/toolchain.sh";

fn toolchain(command: &str) -> Command {
    let mut toolchain = Command::new("bash");
    toolchain.args([TOOLCHAIN, command]);
    toolchain
}

/// A shell command in the environment of the toolchain.
fn shell(script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("eval \"$({TOOLCHAIN} env)\" && {script}")]);
    command
}

pub(crate) fn setup() -> anyhow::Result<()> {
    run(&mut toolchain("setup"))
}

pub(crate) fn build() -> anyhow::Result<()> {
    setup()?;
    run(&mut toolchain("build"))
}

fn dev(port: u16, persist: &PathBuf) -> anyhow::Result<()> {
    build()?;
    let address = (Ipv4Addr::LOCALHOST, port);
    ensure!(TcpStream::connect(address).is_err(), "port {port} is already in use");
    std::fs::create_dir_all(persist)?;
    let persist = persist.canonicalize()?;
    run(&mut shell("node edge/dev-secrets.mjs"))?;
    let wrangler = format!(
        "exec wrangler dev --local --ip 127.0.0.1 --port {port} --persist-to '{}' \
         --show-interactive-dev-session=false",
        persist.display()
    );
    let mut child = shell(&wrangler).spawn().context("cannot start wrangler")?;
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("wrangler ended: {status}");
        }
        let health = format!("http://127.0.0.1:{port}/health");
        if TcpStream::connect(address).is_ok()
            && succeeds(Command::new("curl").args(["-fsS", "-o", "/dev/null", &health]))
        {
            break;
        }
        ensure!(begun.elapsed() < Duration::from_secs(120), "the Worker does not answer on port {port}");
        std::thread::sleep(Duration::from_millis(100));
    }
    eprintln!(
        "\nready: ws://127.0.0.1:{port} (page and NIP-11 at http://127.0.0.1:{port}/), data in {}",
        persist.display()
    );
    let status = child.wait()?;
    ensure!(status.success(), "wrangler ended: {status}");
    Ok(())
}

/// Tests of the Worker with Miniflare, node:test and real sockets.
pub(crate) fn tests() -> anyhow::Result<()> {
    build()?;
    // `edge/src/worker` is compiled for wasm32 only, so the native clippy run does not see it.
    let lint =
        "cargo clippy --locked --quiet --package relay-edge --target wasm32-unknown-unknown -- -D warnings";
    run(&mut shell(lint))?;
    // Third-party clients' tests deploy agents by the command line of the server's binary, the one that its own tests build. Beside it
    // is the conformance suite of Blossom servers.
    run(&mut cargo(&["test", "--locked", "--workspace", "--no-run"]))?;
    // The toolchain's environment has a target folder of its own.
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let binary = std::path::absolute(target.join("debug/relay"))?;
    run(shell("cd edge && npm test").env("RELAY_BIN", binary))
}

/// The server's end-to-end tests that also apply to the Worker, against the Worker.
pub(crate) fn shared_tests() -> anyhow::Result<()> {
    build()?;
    let path = shell("printf %s \"$PATH\"").output().context("no toolchain")?.stdout;
    let path = String::from_utf8(path)?;
    let host = std::env::current_dir()?.join("edge/tests/host.mjs");
    ensure!(!host.display().to_string().contains(' '), "this test does not work in a path with spaces");
    let mut tests = cargo(&["test", "--locked", "--workspace", "--test", "e2e", "--"]);
    tests.args(["semantics::", "nostr_sdk_client::", "bad_input::", "real_events::"]);
    // The Worker has one store: once is enough.
    tests.args(["--skip", "with_lmdb"]);
    tests.args(["sockets::a_full_house", "sockets::a_slow_reader", "http::the_limit"]);
    run(tests.env("PATH", path).env("RELAY_E2E_COMMAND", format!("node {}", host.display())))
}
