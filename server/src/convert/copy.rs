//! Copying all that is stored: events under their sequence numbers, tombstones, and the last sequence number.

use relay_engine::store::kv::{ConversionReader, ConversionWriter, TombstoneHash};
use relay_engine::store::{Backend, Reader, Seq, StoreError, Writer, terms_of};
use relay_engine::types::{Event, Timestamp};
use sha2::{Digest, Sha256};

/// Most events, and tombstones, of a commit.
const COMMIT_MAX: usize = 4_096;
/// A commit of more bytes of events is ended.
const COMMIT_BYTES: usize = 16 << 20;

/// How far a copy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many more events are copied and durable.
    Events(u64),
    /// So many more tombstones.
    Tombstones(u64),
}

/// How a copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    /// All of it is there.
    All,
    /// It was told to stop; another call goes on.
    Stopped,
}

/// Copies what `from` stores and `to` lacks, if `to` is new or the unfinished copy of the same store. `goes_on` is called after each commit
/// and may stop it.
///
/// # Errors
/// Those of both stores; what was committed stays.
pub(crate) fn copy<F, T>(
    from: &F,
    to: &T,
    goes_on: &mut dyn FnMut(Step) -> bool,
) -> Result<Copied, StoreError>
where
    F: Backend,
    for<'a> F::Reader<'a>: ConversionReader,
    T: Backend,
    for<'a> T::Writer<'a>: ConversionWriter,
{
    let last_seq = from.reader()?.last_seq()?;
    let mut after = to.reader()?.last_seq()?;
    if after > last_seq {
        return Err(StoreError::Corrupt(
            "what was copied before is not of this database: it has later events".to_owned(),
        ));
    }
    let mut seqs = Vec::new();
    loop {
        let reader = from.reader()?;
        seqs.clear();
        reader.log(after, COMMIT_MAX, &mut seqs)?;
        let Some((events, last)) = read(&reader, &seqs)? else { break };
        to.write(|writer| {
            for (seq, event) in &events {
                writer.insert(*seq, event, &terms_of(event.view(), to.classes()))?;
            }
            writer.raise_last_seq(last);
            Ok(())
        })?;
        after = last;
        if !goes_on(Step::Events(events.len() as u64)) {
            return Ok(Copied::Stopped);
        }
    }
    if copy_tombstones(from, to, goes_on)? == Copied::Stopped {
        return Ok(Copied::Stopped);
    }
    to.write(|writer| {
        writer.raise_last_seq(last_seq);
        Ok(())
    })?;
    Ok(Copied::All)
}

type Read = (Vec<(Seq, Event)>, Seq);

/// The first of these events, up to [`COMMIT_BYTES`], without those pending removal; and up to which number they are read. `None` if there is
/// none.
fn read(reader: &impl Reader, seqs: &[Seq]) -> Result<Option<Read>, StoreError> {
    let (mut events, mut bytes, mut last) = (Vec::new(), 0, None);
    for seq in seqs {
        last = Some(*seq);
        if let Some(json) = reader.event(*seq)? {
            bytes += json.len();
            events.push((*seq, Event::from_canonical((&*json).into())));
        }
        if bytes > COMMIT_BYTES {
            break;
        }
    }
    Ok(last.map(|last| (events, last)))
}

/// Tombstones that are there already stay as they are, so repeating it changes nothing.
fn copy_tombstones<F, T>(
    from: &F,
    to: &T,
    goes_on: &mut dyn FnMut(Step) -> bool,
) -> Result<Copied, StoreError>
where
    F: Backend,
    for<'a> F::Reader<'a>: ConversionReader,
    T: Backend,
    for<'a> T::Writer<'a>: ConversionWriter,
{
    let mut found: Vec<(TombstoneHash, Timestamp)> = Vec::new();
    let mut is_stopped = false;
    let mut flush = |found: &mut Vec<(TombstoneHash, Timestamp)>| -> Result<(), StoreError> {
        to.write(|writer| {
            found.iter().try_for_each(|(hash, until)| writer.put_tombstone_hash(hash, *until))
        })?;
        is_stopped |= !found.is_empty() && !goes_on(Step::Tombstones(found.len() as u64));
        found.clear();
        Ok(())
    };
    from.reader()?.tombstones(&mut |hash, until| {
        found.push((hash, until));
        if found.len() >= COMMIT_MAX { flush(&mut found) } else { Ok(()) }
    })?;
    flush(&mut found)?;
    Ok(if is_stopped { Copied::Stopped } else { Copied::All })
}

/// What a store holds, in figures that differ if anything of it differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Events, without those pending removal.
    pub(crate) events: u64,
    /// The sum of SHA-256 over the sequence number and the JSON of each.
    events_sum: Sum,
    /// Tombstones.
    pub(crate) tombstones: u64,
    /// The sum of SHA-256 over the hash and the timestamp of each.
    tombstones_sum: Sum,
    last_seq: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum([u64; 4]);

impl Sum {
    fn add(&mut self, parts: [&[u8]; 2]) {
        let hash = Sha256::new().chain_update(parts[0]).chain_update(parts[1]).finalize();
        for (sum, bytes) in self.0.iter_mut().zip(hash.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*bytes));
        }
    }
}

/// Reads the whole store; `None` if `goes_on`, which is called with numbers of events now and then, has stopped it.
///
/// # Errors
/// The store's.
pub(crate) fn summary<B>(
    store: &B,
    goes_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<Summary>, StoreError>
where
    B: Backend,
    for<'a> B::Reader<'a>: ConversionReader,
{
    let mut summary = Summary { last_seq: store.reader()?.last_seq()?.0, ..Summary::default() };
    let (mut after, mut seqs) = (Seq(0), Vec::new());
    loop {
        let reader = store.reader()?;
        seqs.clear();
        reader.log(after, COMMIT_MAX, &mut seqs)?;
        let Some(last) = seqs.last() else { break };
        after = *last;
        for seq in &seqs {
            if let Some(json) = reader.event(*seq)? {
                summary.events += 1;
                summary.events_sum.add([&seq.0.to_le_bytes(), &json]);
            }
        }
        if !goes_on(seqs.len() as u64) {
            return Ok(None);
        }
    }
    let mut tombstones: Vec<(TombstoneHash, Timestamp)> = Vec::new();
    store.reader()?.tombstones(&mut |hash, until| {
        tombstones.push((hash, until));
        Ok(())
    })?;
    // Of each the one with the latest timestamp.
    tombstones.sort_unstable_by_key(|(hash, until)| (*hash, std::cmp::Reverse(*until)));
    tombstones.dedup_by_key(|(hash, _)| *hash);
    summary.tombstones = tombstones.len() as u64;
    for (hash, until) in &tombstones {
        summary.tombstones_sum.add([hash, &until.to_le_bytes()]);
    }
    Ok(Some(summary))
}
