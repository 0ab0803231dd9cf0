//! `relay import`: events from JSON lines, verified on all cores, committed in large batches.
//!
//! The relay's limits and policy are for clients; an operator's import obeys only what makes an event an
//! event, and what storing means: duplicates, replacement, deletion, expiry. Deletion requests and requests to vanish are
//! taken when they have expired, too: an export has them so that what they deleted stays away.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use clap::Args;
use indicatif::ProgressBar;
use relay_engine::policy::{VANISH_KIND, names_relay};
use relay_engine::store::{self, Backend, Op, Outcome, Refusal};
use relay_engine::types::{Class, Event};
use relay_engine::verify::{Batch, Verdict, Verified, Verifier};
use relay_engine::wire;
use serde_json::json;

use super::database;
use super::exit::Failure;
use crate::config::Settings;

/// Lines read, verified and committed together.
const BATCH_LINES: usize = 8_192;
/// No event is as long as this; a line that is, is skipped unread.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Refused lines that are shown; the rest is only counted.
const REFUSALS_SHOWN_MAX: u64 = 100;

/// Store events from a file or standard input, one JSON object a line
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// JSON lines; `-` or nothing reads standard input
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Trust ids and signatures instead of checking them
    #[arg(long)]
    pub no_verify: bool,
    /// Print the counts as one JSON object on standard output
    #[arg(long)]
    pub json: bool,
}

/// What became of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    stored: u64,
    duplicate: u64,
    superseded: u64,
    deleted: u64,
    expired: u64,
    ephemeral: u64,
    refused: u64,
    /// Requests to vanish that name relays, and this one not as far as is known.
    vanish_elsewhere: u64,
}

/// One line, and why it is no event if it is none.
struct Judged {
    line: u64,
    verdict: Result<Event, String>,
}

/// Runs the command.
pub fn run(args: &ImportArgs, settings: &Settings) -> Result<(), Failure> {
    let store = database::open(settings)?;
    let (input, bytes) = input(args.file.as_deref())?;
    let bar = database::progress("import", bytes);
    let (sender, receiver) = sync_channel(1);
    let committing = {
        let store = store.clone();
        thread::spawn(move || commit_all(&store, &receiver))
    };
    let read = judge_all(input, args.no_verify, settings, &sender, &bar);
    drop(sender);
    let committed = committing.join().map_err(|_| Failure::Storage("the committing thread died".into()))?;
    bar.finish_and_clear();
    // What failed to be committed is the cause if reading stopped with nobody to read for.
    let mut counts = committed?;
    let read = read?;
    counts.refused += read.refused;
    counts.ephemeral += read.ephemeral;
    counts.vanish_elsewhere = read.vanish_elsewhere;
    report(&counts, args.json)?;
    say_vanish_elsewhere(counts.vanish_elsewhere, settings.url.as_deref());
    if counts.refused > 0 { Err(Failure::Refused) } else { Ok(()) }
}

fn input(file: Option<&Path>) -> Result<(Box<dyn BufRead>, Option<u64>), Failure> {
    match file {
        Some(path) if path != Path::new("-") => {
            let cannot = |error| Failure::Storage(format!("cannot read {}: {error}", path.display()));
            let file = File::open(path).map_err(cannot)?;
            let bytes = file.metadata().ok().filter(|data| data.is_file()).map(|data| data.len());
            Ok((Box::new(BufReader::with_capacity(1 << 20, file)), bytes))
        }
        _ => Ok((Box::new(BufReader::with_capacity(1 << 20, io::stdin())), None)),
    }
}

/// Reads, parses and verifies everything and sends it on; answers with what it knows of the counts.
fn judge_all(
    mut input: Box<dyn BufRead>,
    trust: bool,
    settings: &Settings,
    sender: &SyncSender<Vec<Op>>,
    bar: &ProgressBar,
) -> Result<Counts, Failure> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let verifiers: Vec<_> = (0..threads).map(|_| settings.verify.verifier(threads)).collect();
    let (mut counts, mut line) = (Counts::default(), 0);
    loop {
        let mut batch: Vec<(u64, Vec<u8>)> = Vec::with_capacity(BATCH_LINES);
        let mut bytes = 0;
        while batch.len() < BATCH_LINES && bytes < LINE_BYTES_MAX {
            let mut text = Vec::new();
            let read = read_line(&mut input, &mut text)?;
            if read == 0 {
                break;
            }
            line += 1;
            bytes += text.len();
            bar.inc(read);
            if !text.iter().all(u8::is_ascii_whitespace) {
                batch.push((line, text));
            }
        }
        if batch.is_empty() && bytes == 0 {
            return Ok(counts);
        }
        let chunk_len = batch.len().div_ceil(threads).max(1);
        let judged: Vec<Vec<Judged>> = thread::scope(|scope| {
            let workers: Vec<_> = batch
                .chunks(chunk_len)
                .zip(&verifiers)
                .map(|(chunk, verifier)| scope.spawn(move || judge(chunk, &**verifier, trust)))
                .collect();
            workers.into_iter().map(|worker| worker.join().expect("judging does not panic")).collect()
        });
        let mut ops = Vec::with_capacity(batch.len());
        for Judged { line, verdict } in judged.into_iter().flatten() {
            match verdict {
                Ok(event) if event.class() == Class::Ephemeral => counts.ephemeral += 1,
                Ok(event) => {
                    let vanishes = names_relay(&event, settings.url.as_deref());
                    counts.vanish_elsewhere += u64::from(event.kind == VANISH_KIND && !vanishes);
                    let verified = Verified::vouched(event);
                    ops.push(if vanishes { Op::Vanish(verified) } else { Op::Put(verified) });
                }
                Err(why) => {
                    counts.refused += 1;
                    if counts.refused <= REFUSALS_SHOWN_MAX {
                        bar.suspend(|| eprintln!("line {line}: {why}"));
                    }
                }
            }
        }
        if sender.send(ops).is_err() {
            return Ok(counts);
        }
    }
}

/// Reads one line without its end; of an overlong one only so much that it will be refused.
/// Answers with the bytes taken from the input, 0 at its end.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    let mut taken = (&mut *input).take(LINE_BYTES_MAX as u64).read_until(b'\n', line)? as u64;
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if taken == LINE_BYTES_MAX as u64 {
        line.truncate(1);
        taken += skip_line(input)?;
    }
    Ok(taken)
}

fn skip_line(input: &mut dyn BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let len = end.unwrap_or(buffer.len());
        if len == 0 {
            return Ok(skipped);
        }
        input.consume(len);
        skipped += len as u64;
        if end.is_some() {
            return Ok(skipped);
        }
    }
}

const WRONG_ID: &str = "invalid: the id is not the hash of the event";

/// Judges lines: syntax, id, signature. In their order.
fn judge(lines: &[(u64, Vec<u8>)], verifier: &dyn Verifier, trust: bool) -> Vec<Judged> {
    let mut judged = Vec::with_capacity(lines.len());
    let mut batch = Batch::default();
    for (line, text) in lines {
        let verdict = match wire::parse_event(text) {
            Err(error) => Err(format!("{}: {error}", error.prefix())),
            Ok(raw) if trust => Ok(raw.to_event()),
            Ok(raw) if verifier.hashes_batches() => {
                batch.push_unhashed(raw.to_event(), judged.len());
                Err(String::new())
            }
            Ok(raw) if raw.compute_id() != raw.id => Err(WRONG_ID.into()),
            Ok(raw) => {
                batch.push(raw.to_event(), judged.len());
                Err(String::new())
            }
        };
        judged.push(Judged { line: *line, verdict });
    }
    for (verdict, place) in batch.check(verifier) {
        judged[place].verdict = match verdict {
            Verdict::Valid(verified) => Ok(verified.into_event()),
            Verdict::Invalid(_) => Err("invalid: the signature is not the author's".into()),
            Verdict::WrongId(_) => Err(WRONG_ID.into()),
        };
    }
    judged
}

fn commit_all<B: Backend>(store: &B, receiver: &Receiver<Vec<Op>>) -> Result<Counts, Failure> {
    let mut counts = Counts::default();
    for ops in receiver {
        for outcome in store::commit(store, database::unix_now(), &ops)? {
            let count = match outcome {
                Outcome::Stored(_) => &mut counts.stored,
                Outcome::Duplicate => &mut counts.duplicate,
                Outcome::Refused(Refusal::Superseded) => &mut counts.superseded,
                Outcome::Refused(Refusal::Deleted | Refusal::Vanished) => &mut counts.deleted,
                Outcome::Refused(Refusal::Expired) => &mut counts.expired,
                Outcome::Refused(Refusal::Ephemeral) => &mut counts.ephemeral,
            };
            *count += 1;
        }
    }
    Ok(counts)
}

fn report(counts: &Counts, as_json: bool) -> Result<(), Failure> {
    let Counts { stored, duplicate, superseded, deleted, expired, ephemeral, refused, vanish_elsewhere } =
        *counts;
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

/// NIP-62: a request to vanish that names relays has its effect on those. Events that it deleted where it was exported are
/// taken here.
fn say_vanish_elsewhere(count: u64, url: Option<&str>) {
    match url {
        _ if count == 0 => {}
        None => eprintln!(
            "{count} requests to vanish (kind 62) name relays, and without `url` none of them is known to be this \
             one: they are stored and delete nothing. Set `url` (--set url=wss://...) and import them again if one is."
        ),
        Some(url) => eprintln!(
            "{count} requests to vanish (kind 62) name other relays than {url}: they are stored and delete nothing."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlong_line_is_skipped_and_the_next_one_read() {
        let mut input = vec![b'x'; LINE_BYTES_MAX + 5];
        input.extend_from_slice(b"\nsecond\nthird");
        let mut input = &input[..];
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            if read_line(&mut input, &mut line).unwrap() == 0 {
                break;
            }
            lines.push(String::from_utf8(line).unwrap());
        }
        assert_eq!(lines, ["x", "second", "third"]);
    }
}
