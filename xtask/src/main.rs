//! `cargo xtask`: the project's own commands. `cargo xtask test` runs everything that CI runs.

mod conformance;
mod edge;
mod fuzz;
mod run;
mod test;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything that CI runs, or the named parts of it
    Test {
        /// Parts to run, by the names that `--list` prints; all if none are given
        parts: Vec<String>,
        /// Test the engine and the native host only, without workerd, long oracle runs and benches: for use between edits
        #[arg(long, conflicts_with = "parts")]
        quick: bool,
        /// Print the parts
        #[arg(long)]
        list: bool,
    },
    /// The Worker: toolchain, build, local run
    #[command(subcommand)]
    Edge(edge::Edge),
    /// Test any Blossom server, rule by rule: `--url BASE_URL`, and other options, which `--help` lists
    #[command(disable_help_flag = true)]
    BlossomConformance {
        /// Options of the suite (conformance/README.md)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Fuzz a target with cargo-fuzz (installs it if it is missing; needs no nightly toolchain)
    Fuzz {
        /// frames, events, filters, index_ops, reconcile, store_ops, schnorr, edge or machine
        target: String,
        /// Seconds to run
        #[arg(default_value_t = 600)]
        seconds: u32,
    },
}

fn main() -> anyhow::Result<()> {
    std::env::set_current_dir(run::root())?;
    match Cli::parse().command {
        Command::Test { list: true, .. } => {
            test::list();
            Ok(())
        }
        Command::Test { quick: true, .. } => test::run_quick(),
        Command::Test { parts, .. } => test::run_all(&parts),
        Command::Edge(edge) => edge.run(),
        Command::BlossomConformance { args } => conformance::run(&args),
        Command::Fuzz { target, seconds } => fuzz::run(&target, seconds),
    }
}
