//! How far a long command has come: a bar while a terminal watches, else a line now and then.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

/// Time between lines where no terminal watches.
const EVERY: Duration = Duration::from_secs(10);

/// Bytes or events done, out of a number that may be known.
pub(super) struct Progress {
    what: &'static str,
    bar: ProgressBar,
    done: u64,
    /// Bytes in all, if it is bytes that are counted.
    bytes: Option<u64>,
    /// When a line was last said; none while there is a bar.
    said_at: Option<Instant>,
}

impl Progress {
    /// Of a command that is worth a line where no terminal watches. `bytes` is the length of its input if that is known
    /// and what is counted.
    pub(super) fn new(what: &'static str, bytes: Option<u64>) -> Self {
        let is_seen = io::stderr().is_terminal();
        let said_at = (!is_seen).then(Instant::now);
        Progress { what, bar: bar(what, bytes, is_seen), done: 0, bytes, said_at }
    }

    /// Of a command whose standard error should stay empty where no terminal watches, or that has one for its output.
    pub(super) fn for_terminals(what: &'static str, is_seen: bool) -> Self {
        let is_seen = is_seen && io::stderr().is_terminal();
        Progress { what, bar: bar(what, None, is_seen), done: 0, bytes: None, said_at: None }
    }

    /// This many more are done; `more` is said behind them, where a line is due.
    pub(super) fn add(&mut self, done: u64, more: impl FnOnce() -> String) {
        self.done += done;
        self.bar.inc(done);
        if self.said_at.is_some_and(|at| at.elapsed() >= EVERY) {
            self.said_at = Some(Instant::now());
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

    /// Says a line that is not about progress.
    pub(super) fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// The bar goes.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn bar(what: &'static str, bytes: Option<u64>, is_seen: bool) -> ProgressBar {
    if !is_seen {
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
