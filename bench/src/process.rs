//! CPU time and memory of any process, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// A process whose usage is measured.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pid: u32,
}

/// What a process has used so far.
#[derive(Clone, Debug)]
pub struct Usage {
    /// User and system time of all threads, ended ones included, in steps of 10 ms.
    ticks: Duration,
    /// CPU time of each living thread, in nanoseconds.
    threads: BTreeMap<u32, Duration>,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
}

/// The unit of CPU times in `/proc/PID/stat` (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

impl Process {
    /// The process `pid`; this one if 0.
    pub fn new(pid: u32) -> Self {
        Process { pid: if pid == 0 { std::process::id() } else { pid } }
    }

    /// Reads what it has used so far.
    ///
    /// # Errors
    /// If there is no such process, or no `/proc`.
    pub fn usage(&self) -> Result<Usage> {
        let dir = format!("/proc/{}", self.pid);
        let read = |name: &str| {
            fs::read_to_string(format!("{dir}/{name}")).with_context(|| format!("reading {dir}/{name}"))
        };
        let stat = read("stat")?;
        // The second field is the name in parentheses, and may hold anything.
        let after_name = stat.rsplit_once(')').context("stat without a name")?.1;
        let field = |number: usize| -> Result<u64> {
            let text = after_name.split_ascii_whitespace().nth(number - 3).context("stat is too short")?;
            Ok(text.parse()?)
        };
        let ticks = TICK * (field(14)? + field(15)?) as u32;

        let status = read("status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = resident.and_then(|text| text.trim().strip_suffix(" kB")).context("no VmRSS")?;
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("{dir}/task"))? {
            let task = task?;
            let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A thread may end meanwhile, and a kernel may be built without schedstat.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            if let Some(nanos) = text.split_ascii_whitespace().next().and_then(|text| text.parse().ok()) {
                threads.insert(tid, Duration::from_nanos(nanos));
            }
        }
        Ok(Usage { ticks, threads, resident_bytes: kilobytes.trim().parse::<u64>()? * 1024 })
    }
}

impl Usage {
    /// CPU time of all threads since `earlier`: exact while no thread ended in between, else in steps of
    /// 10 ms.
    pub fn cpu_since(&self, earlier: &Usage) -> Duration {
        let alive = |(tid, time): (&u32, &Duration)| {
            time.saturating_sub(earlier.threads.get(tid).copied().unwrap_or_default())
        };
        let exact: Duration = self.threads.iter().map(alive).sum();
        let ticks = self.ticks.saturating_sub(earlier.ticks);
        // More ticks than rounding explains: some threads have ended, and their exact time is lost.
        if ticks > exact + 2 * TICK { ticks } else { exact }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Burns about this much CPU of the calling thread, by its own count.
    fn burn(wanted: Duration) {
        let process = Process::new(0);
        let start = process.usage().unwrap();
        let mut number = 1u64;
        while process.usage().unwrap().cpu_since(&start) < wanted {
            (0..100_000u64).for_each(|i| number = std::hint::black_box(number.wrapping_mul(i | 1)));
        }
    }

    #[test]
    fn cpu_of_this_process_is_seen_in_both_counts() {
        let process = Process::new(0);
        let before = process.usage().unwrap();
        burn(Duration::from_millis(60));
        let after = process.usage().unwrap();
        assert!(after.cpu_since(&before) >= Duration::from_millis(60));
        assert!(after.ticks - before.ticks >= Duration::from_millis(30), "{before:?} {after:?}");
        assert!(after.resident_bytes > 1 << 20);
    }

    #[test]
    fn cpu_of_threads_that_ended_counts() {
        let process = Process::new(0);
        let before = process.usage().unwrap();
        std::thread::spawn(|| burn(Duration::from_millis(100))).join().unwrap();
        let cpu = process.usage().unwrap().cpu_since(&before);
        assert!(cpu >= Duration::from_millis(80), "{cpu:?}");
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(Process::new(u32::MAX - 1).usage().is_err());
    }
}
