//! `cargo xtask blossom-conformance`: the suite in `conformance/`, built and run; the exit code is the suite's.

use anyhow::Context;

use crate::run::cargo;

pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let mut command = cargo(&["run", "--quiet", "--locked", "--package", "relay-conformance", "--"]);
    let status = command.args(args).status().context("cannot start cargo")?;
    if status.success() {
        return Ok(());
    }
    std::process::exit(status.code().unwrap_or(2));
}
