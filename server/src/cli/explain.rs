//! `relay scan --explain`: what a scan has read, by class of index terms.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

use relay_engine::store::{Posting, Reader, Seq, StartAt, Stats, StoreError, Term, Tombstone};
use relay_engine::types::{EventId, Kind, Timestamp};

/// What was read of the postings of one class of terms.
#[derive(Clone, Debug, Default)]
struct ClassReads {
    terms: HashSet<Term>,
    reads: u64,
    postings: u64,
}

/// Counts what was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    /// By class, in the order in which they were first read.
    classes: Vec<(String, ClassReads)>,
    by_class: BTreeMap<String, usize>,
    ids: u64,
    events: u64,
    event_bytes: u64,
}

fn class(term: &Term) -> String {
    match term {
        Term::All => "all events".to_owned(),
        Term::Kind(_) => "kind".to_owned(),
        Term::Author(_) => "author".to_owned(),
        Term::AuthorKind(..) => "author and kind".to_owned(),
        Term::Address(..) => "address (kind, author, d)".to_owned(),
        Term::Tag(letter, _) => format!("tag {}", char::from(*letter)),
    }
}

impl Trace {
    fn note(&mut self, term: &Term, postings: usize) {
        let class = class(term);
        let at = *self.by_class.entry(class.clone()).or_insert_with(|| {
            self.classes.push((class, ClassReads::default()));
            self.classes.len() - 1
        });
        let reads = &mut self.classes[at].1;
        if !reads.terms.contains(term) {
            reads.terms.insert(term.clone());
        }
        reads.reads += 1;
        reads.postings += postings as u64;
    }
}

/// A table: a line for each class of terms, then what was looked up and read.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<28}{:>10}{:>10}{:>12}", "postings of", "terms", "reads", "postings")?;
        for (class, ClassReads { terms, reads, postings }) in &self.classes {
            writeln!(f, "{class:<28}{:>10}{reads:>10}{postings:>12}", terms.len())?;
        }
        writeln!(f, "ids looked up: {}", self.ids)?;
        write!(f, "events read:   {} ({} bytes)", self.events, self.event_bytes)
    }
}

/// A reader that counts what is read through it.
pub(super) struct Traced<'a, R> {
    reader: R,
    trace: &'a RefCell<Trace>,
}

impl<'a, R> Traced<'a, R> {
    pub(super) fn new(reader: R, trace: &'a RefCell<Trace>) -> Self {
        Traced { reader, trace }
    }
}

impl<R: Reader> Reader for Traced<'_, R> {
    fn last_seq(&self) -> Result<Seq, StoreError> {
        self.reader.last_seq()
    }

    fn seq_of(&self, id: &EventId) -> Result<Option<Seq>, StoreError> {
        self.trace.borrow_mut().ids += 1;
        self.reader.seq_of(id)
    }

    fn event(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
        let event = self.reader.event(seq)?;
        let mut trace = self.trace.borrow_mut();
        trace.events += 1;
        trace.event_bytes += event.as_ref().map_or(0, |json| json.len() as u64);
        Ok(event)
    }

    fn event_or_pending_removal(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
        self.reader.event_or_pending_removal(seq)
    }

    fn is_pending_removal(&self, seq: Seq) -> Result<bool, StoreError> {
        self.reader.is_pending_removal(seq)
    }

    fn pending_removal(&self, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
        self.reader.pending_removal(max, out)
    }

    fn postings(
        &self,
        term: &Term,
        start: StartAt,
        oldest: Timestamp,
        max: usize,
        out: &mut Vec<Posting>,
    ) -> Result<(), StoreError> {
        let before = out.len();
        self.reader.postings(term, start, oldest, max, out)?;
        self.trace.borrow_mut().note(term, out.len() - before);
        Ok(())
    }

    fn log(&self, after: Seq, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
        self.reader.log(after, max, out)
    }

    fn tombstone(&self, key: &Tombstone) -> Result<Option<Timestamp>, StoreError> {
        self.reader.tombstone(key)
    }

    fn expiring(&self, until: Timestamp, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
        self.reader.expiring(until, max, out)
    }

    fn kinds(&self) -> Result<Vec<Kind>, StoreError> {
        self.reader.kinds()
    }

    fn unlogged_removals(&self) -> Result<u64, StoreError> {
        self.reader.unlogged_removals()
    }

    fn stats(&self) -> Result<Stats, StoreError> {
        self.reader.stats()
    }
}
