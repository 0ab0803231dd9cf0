//! `relay router`: the streams of a configuration file, which is read again when it changes.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use relay_agent::identity::Keys;
use relay_engine::store::Backend;

use super::command_store::CommandStore;
use super::database::{self, with_store};
use super::exit::Failure;
use super::remote::read_key;
use crate::config::Settings;
use crate::signals::{Asked, Signals};
use crate::sync::stream::{Output, Router, RouterConfig, What};

/// Interval at which the file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Run the streams of a configuration file
#[derive(Args, Debug)]
pub struct RouterArgs {
    /// The streams, as TOML; read again when it changes, and by SIGHUP
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Check the file and do nothing else
    #[arg(long)]
    check: bool,
    /// Print what happens as JSON lines on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &RouterArgs, settings: &Settings) -> Result<(), Failure> {
    let file = WatchedFile::new(&args.file);
    let text = file.read().map_err(Failure::Usage)?;
    let (config, keys) = read(&args.file, &text).map_err(Failure::Usage)?;
    if args.check {
        return Ok(());
    }
    let output = if args.json { Output::json() } else { Output::lines() };
    run_router(settings, &config, keys, output, Reload::With(file))
}

fn read(path: &Path, text: &str) -> Result<(RouterConfig, Option<Keys>), String> {
    let wrong = |why: String| format!("{}: {why}", path.display());
    let config = RouterConfig::parse(text).map_err(wrong)?;
    let keys = config.key.as_deref().map(read_key).transpose();
    Ok((config, keys.map_err(|failure| format!("{}: `key`: {failure}", path.display()))?))
}

/// Whether a configuration may change.
pub(super) enum Reload {
    Never,
    /// When this file does.
    With(WatchedFile),
}

/// Runs a router until a signal ends it.
pub(super) fn run_router(
    settings: &Settings,
    config: &RouterConfig,
    keys: Option<Keys>,
    output: Output,
    reload: Reload,
) -> Result<(), Failure> {
    with_store!(database::open_to_change(settings)?, store => run_router_on(store, settings, config, keys, output, reload))
}

fn run_router_on<B: Backend + Clone + Send + Sync + 'static>(
    store: CommandStore<B>,
    settings: &Settings,
    config: &RouterConfig,
    keys: Option<Keys>,
    output: Output,
    reload: Reload,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let mut router = Router::start(store, settings, config, keys, output.clone()).await?;
        match reload {
            Reload::Never => {
                signals.next().await;
            }
            Reload::With(mut file) => loop {
                let text = tokio::select! {
                    asked = signals.next() => match asked {
                        Asked::Stop => break,
                        Asked::HangUp => file.read(),
                    },
                    text = file.changed() => text,
                };
                let read = text.and_then(|text| read(&file.path, &text));
                let applied = match read {
                    Ok((config, keys)) => router.apply(&config, keys).await,
                    Err(why) => Err(why),
                };
                if let Err(why) = applied {
                    let words = format!("{why}; what was configured before goes on");
                    output.tell(What::Configuration, &words);
                }
            },
        }
        tokio::select! {
            stopped = router.stop() => stopped,
            () = async { while signals.next().await != Asked::Stop {} } => Err(Failure::Interrupted),
        }
    });
    // A stalled connection is not waited for.
    runtime.shutdown_background();
    result
}

/// A file, and what it was when it was last read.
pub(super) struct WatchedFile {
    path: PathBuf,
    seen: Option<(SystemTime, u64)>,
}

impl WatchedFile {
    fn new(path: &Path) -> Self {
        WatchedFile { path: path.to_owned(), seen: mark(path) }
    }

    fn read(&self) -> Result<String, String> {
        std::fs::read_to_string(&self.path)
            .map_err(|error| format!("cannot read {}: {error}", self.path.display()))
    }

    /// Its text once it has changed. Cancel safe.
    async fn changed(&mut self) -> Result<String, String> {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let mark = mark(&self.path);
            if mark != self.seen {
                self.seen = mark;
                return self.read();
            }
        }
    }
}

/// What changes with the text; `None` if there is no file.
fn mark(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
