//! Progress of a long command: a bar on a terminal, else a line every ten seconds.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

/// Time between lines where standard error is not a terminal.
const EVERY: Duration = Duration::from_secs(10);

/// Bytes or events processed, out of a total that may be known.
pub(super) struct Progress {
    what: &'static str,
    bar: ProgressBar,
    done: u64,
    /// The total, if bytes are counted; events are counted otherwise.
    bytes: Option<u64>,
    /// When a line was last printed; `None` if none are printed.
    printed_at: Option<Instant>,
}

impl Progress {
    /// A bar, or lines if standard error is not a terminal. `bytes` is the length of the input, if that is known and bytes
    /// are counted.
    pub(super) fn new(what: &'static str, bytes: Option<u64>) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let printed_at = (!is_terminal).then(Instant::now);
        Progress { what, bar: bar(what, bytes, is_terminal), done: 0, bytes, printed_at }
    }

    /// A bar if `show` and standard error is a terminal, else nothing.
    pub(super) fn for_terminals(what: &'static str, show: bool) -> Self {
        let show = show && io::stderr().is_terminal();
        Progress { what, bar: bar(what, None, show), done: 0, bytes: None, printed_at: None }
    }

    /// Adds `done` to the count. If a line is due, it ends with `more`.
    pub(super) fn add(&mut self, done: u64, more: impl FnOnce() -> String) {
        self.done += done;
        self.bar.inc(done);
        if self.printed_at.is_some_and(|at| at.elapsed() >= EVERY) {
            self.printed_at = Some(Instant::now());
            eprintln!("{}", self.line(&more()));
        }
    }

    fn line(&self, more: &str) -> String {
        let Progress { what, done, .. } = self;
        match self.bytes {
            Some(all) => format!("{what}: {} of {}{more}", HumanBytes(*done), HumanBytes(all)),
            None => format!("{what}: {}{more}", HumanCount(*done)),
        }
    }

    /// Prints a line above the bar.
    pub(super) fn print(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn bar(what: &'static str, bytes: Option<u64>, is_terminal: bool) -> ProgressBar {
    if !is_terminal {
        return ProgressBar::hidden();
    }
    let (bar, style) = match bytes {
        Some(bytes) => (ProgressBar::new(bytes), "{prefix} {wide_bar} {bytes}/{total_bytes} {eta} {msg}"),
        None => (ProgressBar::new_spinner(), "{prefix} {spinner} {pos} {elapsed} {msg}"),
    };
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_prefix(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_has_come() {
        let mut progress = Progress::new("import", Some(3 << 20));
        progress.add(1 << 20, String::new);
        assert_eq!(progress.line(", 7 stored"), "import: 1.00 MiB of 3.00 MiB, 7 stored");
        let mut progress = Progress::new("delete", None);
        progress.add(12_345, String::new);
        assert_eq!(progress.line(""), "delete: 12,345");
    }
}
