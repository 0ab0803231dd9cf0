//! Runs the simulation of agents. `RELAY_SIM_SEEDS` sets how many seeds, `RELAY_SIM_SEED` a single one.

use relay_simulator::{AgentsReport, Victim, simulate_agents, simulate_agents_crash};

const SEEDS: u64 = 100;

fn env_number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn no_job_is_lost_and_none_answered_twice() {
    let seeds = match env_number("RELAY_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..env_number("RELAY_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let mut all = AgentsReport::default();
    for seed in seeds.clone() {
        let run = std::panic::catch_unwind(|| simulate_agents(seed));
        let Ok(report) = run else { panic!("seed {seed} fails: RELAY_SIM_SEED={seed} runs it alone") };
        assert!(seed % 50 != 0 || simulate_agents(seed) == report, "a seed determines its run");
        all.accepted += report.accepted;
        all.open += report.open;
        all.cancelled += report.cancelled;
        all.results += report.results;
        all.errors += report.errors;
        all.calls += report.calls;
        all.called_again += report.called_again;
        all.delivered_again += report.delivered_again;
        all.undelivered += report.undelivered;
        all.agent_crashes += report.agent_crashes;
        all.hibernations += report.hibernations;
        all.router_crashes += report.router_crashes;
        all.relay_crashes += report.relay_crashes;
        all.failed_commits += report.failed_commits;
        all.disconnects += report.disconnects;
        all.received += report.received;
    }
    let happened = [
        all.accepted,
        all.open,
        all.cancelled,
        all.results,
        all.errors,
        all.calls,
        all.called_again,
        all.delivered_again,
        all.undelivered,
        all.agent_crashes,
        all.hibernations,
        all.router_crashes,
        all.relay_crashes,
        all.failed_commits,
        all.disconnects,
        all.received,
    ];
    let enough = seeds.end - seeds.start < SEEDS || happened.iter().all(|times| *times >= 50);
    assert!(enough, "everything must have happened: {all:?}");
    eprintln!("{all:?}");
}

/// Jobs are plain or encrypted, open or for several agents, and have inputs or none, by the seed.
#[test]
fn a_crash_after_any_step_loses_and_repeats_nothing() {
    for victim in Victim::ALL {
        for seed in 0..env_number("RELAY_SIM_SEEDS").map_or(1, |seeds| seeds.div_ceil(SEEDS)) {
            let (mut step, mut steps) = (0, 1);
            while step <= steps {
                steps = simulate_agents_crash(seed, victim, step);
                step += 1;
            }
            assert!(step > 30, "{victim:?} {seed}: {step} steps");
        }
    }
}
