//! `cargo xtask fuzz`: one target, one run.

use crate::run::{cargo, run as run_command, succeeds};

const CARGO_FUZZ: &str = "0.13.2";

fn arguments(target: &str, seconds: u32) -> Vec<String> {
    let mut args: Vec<String> =
        ["fuzz", "run", "--fuzz-dir", "fuzz/targets", target].map(String::from).into();
    args.push(format!("fuzz/corpus/{target}"));
    args.push("--".into());
    args.push(format!("-max_total_time={seconds}"));
    args.push("-rss_limit_mb=4096".into());
    args
}

pub(crate) fn run(target: &str, seconds: u32) -> anyhow::Result<()> {
    if !succeeds(&mut cargo(&["fuzz", "--version"])) {
        run_command(&mut cargo(&["install", "--locked", "cargo-fuzz", "--version", CARGO_FUZZ]))?;
    }
    let args = arguments(target, seconds);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // cargo-fuzz asks for flags that a stable compiler only takes when told so.
    run_command(cargo(&args).env("RUSTC_BOOTSTRAP", "1"))
}
