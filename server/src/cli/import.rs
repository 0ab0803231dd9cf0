//! `relay import`: events from JSON lines, verified on all cores, committed in large batches.
//!
//! The relay's limits and policy apply to clients, not to an operator's import. It checks only that events are valid, and
//! applies the rules of the store: duplicates, replacement, deletion, expiration. Expired deletion requests and requests to
//! vanish are accepted, because exports contain them so that what they deleted stays deleted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use clap::Args;
use relay_engine::policy::{VANISH_KIND, names_relay};
use relay_engine::store::{Backend, Op};
use relay_engine::types::{Class, Event};
use relay_engine::verify::{Batch, Verdict, Verified, Verifier};
use relay_engine::wire;
use relay_sync::outcome_counts::OutcomeCounts;
use serde_json::json;

use super::command_store::CommandStore;
use super::database::{self, with_store};
use super::exit::Failure;
use super::json_lines::{self, JsonLines};
use super::progress::Progress;
use crate::config::Settings;
use crate::outcomes;
use crate::signals::Interrupt;

/// Refused lines that are printed; further ones are only counted.
const REFUSALS_SHOWN_MAX: u64 = 100;

/// Store events from a file or standard input, one JSON object a line
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// JSON lines; standard input if not given or `-`
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Trust ids and signatures instead of checking them
    #[arg(long)]
    pub no_verify: bool,
    /// Print the counts as one JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// Outcomes of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    outcomes: OutcomeCounts,
    refused: u64,
    /// Requests to vanish that name relays, but not the URL of this one.
    vanish_elsewhere: u64,
}

/// A line and its event, or why it is refused.
struct CheckedLine {
    line: u64,
    verdict: Result<Event, String>,
}

/// Runs the command.
pub fn run(args: &ImportArgs, settings: &Settings) -> Result<(), Failure> {
    with_store!(database::open_to_change(settings)?, store => import(args, settings, &store))
}

fn import<B: Backend + Clone + Send + 'static>(
    args: &ImportArgs,
    settings: &Settings,
    store: &CommandStore<B>,
) -> Result<(), Failure> {
    let input = JsonLines::open(args.file.as_deref())?;
    let interrupt = Interrupt::watch()?;
    let mut progress = Progress::new("import", input.bytes);
    let stored = Arc::new(AtomicU64::new(0));
    let (sender, receiver) = sync_channel(1);
    let committing = {
        let (store, stored) = (store.clone(), Arc::clone(&stored));
        thread::spawn(move || commit_all(&store, &receiver, &stored))
    };
    let read =
        check_all(
            &input,
            &interrupt,
            args.no_verify,
            settings,
            &sender,
            &mut |progressed| match progressed {
                ReadProgress::Bytes(bytes) => {
                    let stored = || format!(", {} stored", stored.load(Ordering::Relaxed));
                    progress.add(bytes, stored);
                }
                ReadProgress::Refused(line, why) => progress.print(&format!("line {line}: {why}")),
            },
        );
    drop(sender);
    let committed =
        committing.join().map_err(|_| Failure::External("the committing thread panicked".into()))?;
    progress.finish();
    let (outcomes, committed) = committed;
    // If the committing thread failed, reading has stopped too; its error is the cause and is returned first.
    if let Err(failure) = committed {
        eprintln!(
            "{} events were stored and {} were stored already, then the store failed: import the input again once it works",
            outcomes.stored, outcomes.duplicate
        );
        return Err(failure);
    }
    let mut counts = Counts { outcomes, ..Counts::default() };
    // What was deleted is removed now, not only when the relay next serves. Each step is small, so a signal is soon obeyed.
    while !interrupt.has_come() && store.remove_pending()? {}
    let Read { refused, ephemeral, vanish_elsewhere, last_line } = read?;
    counts.refused += refused;
    counts.outcomes.ephemeral += ephemeral;
    counts.vanish_elsewhere = vanish_elsewhere;
    if interrupt.has_come() {
        eprintln!("ended by a signal after line {last_line}; later lines were not read");
    }
    report(&counts, args.json)?;
    warn_vanish_elsewhere(counts.vanish_elsewhere, settings.url.as_deref());
    match () {
        () if interrupt.has_come() => Err(Failure::Interrupted),
        () if counts.refused > 0 => Err(Failure::Refused),
        () => Ok(()),
    }
}

/// Counts of the lines that were read.
#[derive(Default)]
struct Read {
    refused: u64,
    ephemeral: u64,
    /// As in [`Counts`].
    vanish_elsewhere: u64,
    last_line: u64,
}

/// Progress of reading.
enum ReadProgress<'a> {
    /// Bytes of the input that have been checked.
    Bytes(u64),
    /// A line was refused, for this reason.
    Refused(u64, &'a str),
}

/// Reads, parses and verifies all lines and sends the events to the committing thread.
fn check_all(
    input: &JsonLines,
    interrupt: &Interrupt,
    trust: bool,
    settings: &Settings,
    sender: &SyncSender<Vec<Op>>,
    report_progress: &mut dyn FnMut(ReadProgress<'_>),
) -> Result<Read, Failure> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let verifiers: Vec<_> = (0..threads).map(|_| settings.verify.verifier(threads)).collect();
    let mut all = Read::default();
    while let Some(json_lines::Batch { lines: batch, bytes }) = input.next(interrupt)? {
        all.last_line = batch.last().map_or(all.last_line, |(line, _)| *line);
        let chunk_len = batch.len().div_ceil(threads).max(1);
        let checked: Vec<Vec<CheckedLine>> = thread::scope(|scope| {
            let workers: Vec<_> = batch
                .chunks(chunk_len)
                .zip(&verifiers)
                .map(|(chunk, verifier)| scope.spawn(move || check(chunk, &**verifier, trust)))
                .collect();
            workers.into_iter().map(|worker| worker.join().expect("checking does not panic")).collect()
        });
        let mut ops = Vec::with_capacity(batch.len());
        for CheckedLine { line, verdict } in checked.into_iter().flatten() {
            match verdict {
                Ok(event) if event.class() == Class::Ephemeral => all.ephemeral += 1,
                Ok(event) => {
                    let vanishes = names_relay(&event, settings.url.as_deref());
                    all.vanish_elsewhere += u64::from(event.kind == VANISH_KIND && !vanishes);
                    let verified = Verified::assume_verified(event);
                    ops.push(if vanishes { Op::Vanish(verified) } else { Op::Put(verified) });
                }
                Err(why) => {
                    all.refused += 1;
                    if all.refused <= REFUSALS_SHOWN_MAX {
                        report_progress(ReadProgress::Refused(line, &why));
                    }
                }
            }
        }
        report_progress(ReadProgress::Bytes(bytes));
        if sender.send(ops).is_err() {
            break;
        }
    }
    Ok(all)
}

const WRONG_ID: &str = "invalid: the id is not the hash of the event";

/// Checks syntax, id and signature of lines; results are in their order.
fn check(lines: &[(u64, Vec<u8>)], verifier: &dyn Verifier, trust: bool) -> Vec<CheckedLine> {
    let mut checked = Vec::with_capacity(lines.len());
    let mut batch = Batch::default();
    for (line, text) in lines {
        let verdict = match wire::parse_event(text) {
            Err(error) => Err(format!("{}: {error}", error.prefix())),
            Ok(raw) if trust => Ok(raw.to_event()),
            Ok(raw) if verifier.prefers_batch_hashing() => {
                batch.push_unhashed(raw.to_event(), checked.len());
                Err(String::new())
            }
            Ok(raw) if raw.compute_id() != raw.id => Err(WRONG_ID.into()),
            Ok(raw) => {
                batch.push(raw.to_event(), checked.len());
                Err(String::new())
            }
        };
        checked.push(CheckedLine { line: *line, verdict });
    }
    for (verdict, index) in batch.verify(verifier) {
        checked[index].verdict = match verdict {
            Verdict::Valid(verified) => Ok(verified.into_event()),
            Verdict::Invalid(_) => Err("invalid: the signature is not the author's".into()),
            Verdict::WrongId(_) => Err(WRONG_ID.into()),
        };
    }
    checked
}

/// Stores all events, and counts what became of them, until the store fails.
fn commit_all<B: Backend>(
    store: &CommandStore<B>,
    receiver: &Receiver<Vec<Op>>,
    stored: &AtomicU64,
) -> (OutcomeCounts, Result<(), Failure>) {
    let mut counts = OutcomeCounts::default();
    let mut done = Vec::new();
    for ops in receiver {
        let result = store.commit(&ops, &mut done);
        done.drain(..).for_each(|outcome| outcomes::count(&mut counts, outcome));
        stored.store(counts.stored, Ordering::Relaxed);
        if result.is_err() {
            return (counts, result);
        }
    }
    (counts, Ok(()))
}

fn report(counts: &Counts, as_json: bool) -> Result<(), Failure> {
    let Counts { outcomes, refused, vanish_elsewhere } = *counts;
    let OutcomeCounts { stored, duplicate, superseded, deleted, expired, ephemeral } = outcomes;
    eprintln!(
        "{stored} stored, {duplicate} duplicate, {superseded} superseded by newer versions, {deleted} deleted \
         by their authors, {expired} expired, {ephemeral} ephemeral, {refused} refused"
    );
    if as_json {
        let text = json!({
            "stored": stored, "duplicate": duplicate, "superseded": superseded, "deleted": deleted,
            "expired": expired, "ephemeral": ephemeral, "refused": refused,
            "vanish_elsewhere": vanish_elsewhere,
        });
        let mut lines = database::Lines::new(None)?;
        let result = lines.write(text.to_string().as_bytes());
        lines.finish(result)?;
    }
    Ok(())
}

/// NIP-62: a request to vanish that names relays applies to those only. If this relay is none of them, events that the
/// request deleted on the exporting relay are accepted here.
fn warn_vanish_elsewhere(count: u64, url: Option<&str>) {
    match url {
        _ if count == 0 => {}
        None => eprintln!(
            "{count} requests to vanish (kind 62) name relays, and without `url` it is unknown whether they name \
             this one: they are stored and delete nothing. If they do, set `url` (--set url=wss://...) and import again."
        ),
        Some(url) => eprintln!(
            "{count} requests to vanish (kind 62) name relays other than {url}: they are stored and delete nothing."
        ),
    }
}
