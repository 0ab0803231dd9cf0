//! Reading beside a process that writes: what it has committed since is opened anew when somebody reads, if it has not just been.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use relay_engine::store::StoreError;

use super::disk::{Disk, DiskFile, store_error};
use super::recovery::{self, Mode};
use super::version::Version;
use super::{CLASSES, READ_TRIES, Store, lock, segment};

/// Opening takes a tenth of the time at most.
const PAUSES: u32 = 9;
/// And there is this long in between at least.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Bytes behind the last batch of which one is not zero if there is another batch.
const LOOK_BYTES: u64 = 64;

/// When it was opened last.
#[derive(Debug)]
pub(super) struct Beside(Mutex<Opened>);

#[derive(Debug)]
struct Opened {
    at: Instant,
    took: Duration,
}

impl Beside {
    /// Has just been opened, which `took` so long.
    pub(super) fn new(took: Duration) -> Self {
        Beside(Mutex::new(Opened { at: Instant::now(), took }))
    }
}

impl<D: Disk> Store<D> {
    /// Publishes what the process that writes has committed, unless that was done not long ago.
    pub(super) fn keep_up(&self) -> Result<(), StoreError> {
        let Some(Beside(opened)) = &self.beside else { return Ok(()) };
        let mut opened = match opened.try_lock() {
            Ok(opened) => opened,
            // Another thread does it.
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
        };
        if opened.at.elapsed() < (opened.took * PAUSES).max(PAUSE_MIN) {
            return Ok(());
        }
        self.open_anew(&mut opened)
    }

    /// Publishes what the process that writes has committed.
    pub(super) fn refresh(&self) -> Result<(), StoreError> {
        let Some(Beside(opened)) = &self.beside else { return Ok(()) };
        self.open_anew(&mut opened.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn open_anew(&self, opened: &mut Opened) -> Result<(), StoreError> {
        if !self.has_changed(&self.version())? {
            return Ok(());
        }
        let begun = Instant::now();
        let mut tries = 0;
        let version = loop {
            let lease = self.disk.lease().map_err(|error| store_error("the folder", &error))?;
            match recovery::open(&self.disk, &self.options, CLASSES, Mode::ReadBeside) {
                Ok(Some(recovered)) => break Version { lease: lease.map(Arc::new), ..recovered.version },
                // Files may have come and gone while they were being opened.
                Ok(None) | Err(_) if tries < READ_TRIES => tries += 1,
                Ok(None) => return Err(StoreError::Failed("the database is gone".into())),
                Err(error) => return Err(error),
            }
        };
        let log = lock(&self.log);
        self.publish(version);
        drop(log);
        *opened = Opened { at: Instant::now(), took: begun.elapsed() };
        Ok(())
    }

    /// Whether there may be something in the log that a version does not have, or it should be given up, so that what it reads can be
    /// used again.
    fn has_changed(&self, version: &Version<D::File>) -> Result<bool, StoreError> {
        if version.lease.as_ref().is_some_and(|lease| !self.disk.is_current(lease)) {
            return Ok(true);
        }
        let Some(last) = version.segments.last() else { return Ok(true) };
        let bytes = last.file.bytes().saturating_sub(last.end()).min(LOOK_BYTES) as usize;
        let rest = last.file.read(last.end(), bytes).map_err(|error| store_error(&last.name(), &error))?;
        Ok(rest.iter().any(|byte| *byte != 0) || self.disk.open(&segment::name(last.number + 1, 0)).is_ok())
    }
}
