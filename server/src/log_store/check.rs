//! Checks all that is stored against its checksums.

use std::borrow::Cow;

use relay_engine::store::{Seq, StoreError};

use super::LogBackend;
use super::batch::Batch;
use super::disk::{Disk, DiskFile, store_error};

/// What was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Pages of keys.
    pub pages: u64,
    /// Events, without removed ones.
    pub events: u64,
    /// What is broken.
    pub damage: Vec<Damage>,
}

/// Something that is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which file or slot, and where.
    pub what: String,
    /// The event, if it is one.
    pub seq: Option<Seq>,
}

/// What was read, and nothing if it is broken.
fn whole<T>(read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(StoreError::Corrupt(_)) => Ok(None),
        read => read,
    }
}

impl<D: Disk> LogBackend<D> {
    /// Checks all pages, batches and events.
    ///
    /// # Errors
    /// If the disk can't be read; what is broken is no error.
    pub fn check(&self) -> Result<Checked, StoreError> {
        let version = self.0.store.version();
        let mut checked = Checked::default();
        for page in version.directory.runs().flat_map(|run| &run.pages) {
            checked.pages += 1;
            match version.pages.check(page.id) {
                Ok(()) => {}
                Err(StoreError::Corrupt(what)) => checked.damage.push(Damage { what, seq: None }),
                Err(error) => return Err(error),
            }
        }
        for segment in version.segments.iter() {
            let name = segment.name();
            let mut at = segment.begin();
            let bytes =
                segment.file.read(0, segment.end() as usize).map_err(|error| store_error(&name, &error))?;
            while at < segment.end() {
                let Some(batch) = Batch::read(&bytes[at as usize..], segment.first_seq) else {
                    let what = format!("{name}: the batch at byte {at} is broken");
                    checked.damage.push(Damage { what, seq: None });
                    break;
                };
                for line in &batch.lines {
                    if version.applied.removed.contains(line.seq) || line.seq > version.applied.last_seq {
                        continue;
                    }
                    checked.events += 1;
                    let json = whole(segment.json(Cow::Borrowed(line.body)))?;
                    let is_whole = json.as_ref().is_some_and(|json| line.is_of(json));
                    let is_found = is_whole && whole(segment.event(line.seq))? == json;
                    if !is_found {
                        let what =
                            format!("{name}: event {} at byte {} is broken", line.seq.0, at + line.at as u64);
                        checked.damage.push(Damage { what, seq: Some(line.seq) });
                    }
                }
                at += batch.bytes as u64;
            }
        }
        Ok(checked)
    }
}
