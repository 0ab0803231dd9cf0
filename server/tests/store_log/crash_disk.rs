//! A disk in memory that crashes and fails when told to. What was not synced may be lost after a crash, sector by sector and in any
//! order; so may names that were made or removed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use relay_server::log_store::{Disk, DiskFile};

use crate::backend_contract::Chance;

const SECTOR: usize = 512;

/// A disk. Clones share it.
#[derive(Clone)]
pub(crate) struct CrashDisk(Arc<Mutex<State>>);

struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Names that were made (with their file) or removed since the folder was last synced.
    pending_names: Vec<(String, Option<usize>)>,
    /// Calls that change something, so far.
    calls: u64,
    /// Calls that read.
    reads: u64,
    /// The call at which the machine stops.
    crash_at: u64,
    has_crashed: bool,
    /// The calls that fail, and how.
    failing: Option<(Range<u64>, ErrorKind)>,
    /// Whether the thread that maintains the store panics when it next makes a file.
    panics: bool,
    /// Whether no file gets longer, and whether no page can be written.
    is_full: (bool, bool),
    chance: Chance,
}

#[derive(Clone, Default)]
struct Inode {
    /// As readers see it.
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since it was last synced.
    pending: Vec<(usize, Vec<u8>)>,
}

/// How much of what was not synced is there after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Nothing,
    Everything,
    Some,
}

fn put(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    if bytes.len() < at + new.len() {
        bytes.resize(at + new.len(), 0);
    }
    bytes[at..at + new.len()].copy_from_slice(new);
}

/// The sectors of a write, of which each may be there or not.
fn sectors(at: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut begin = 0;
    std::iter::from_fn(move || {
        let len = (SECTOR - (at + begin) % SECTOR).min(bytes.len() - begin);
        let sector = (at + begin, &bytes[begin..begin + len]);
        begin += len;
        (len > 0).then_some(sector)
    })
}

impl Inode {
    /// Makes some of what was written durable.
    fn keep(&mut self, kept: Kept, chance: &mut Chance) {
        for (at, bytes) in std::mem::take(&mut self.pending) {
            for (at, sector) in sectors(at, &bytes) {
                let is_kept = match kept {
                    Kept::Nothing => false,
                    Kept::Everything => true,
                    Kept::Some => chance.below(2) == 0,
                };
                if is_kept {
                    put(&mut self.durable, at, sector);
                }
            }
        }
    }
}

impl CrashDisk {
    pub(crate) fn new(seed: u64) -> Self {
        CrashDisk(Arc::new(Mutex::new(State {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            calls: 0,
            reads: 0,
            crash_at: u64::MAX,
            has_crashed: false,
            failing: None,
            panics: false,
            is_full: (false, false),
            chance: Chance::new(seed),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic before")
    }

    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    pub(crate) fn reads(&self) -> u64 {
        self.state().reads
    }

    /// Where these bytes are in a file whose name begins so.
    pub(crate) fn find(&self, prefix: &str, bytes: &[u8]) -> Option<(String, usize)> {
        let of_prefix = |(name, _): &(String, Vec<u8>)| name.starts_with(prefix);
        self.image()
            .into_iter()
            .filter(of_prefix)
            .find_map(|(name, file)| Some((name, memchr::memmem::find(&file, bytes)?)))
    }

    /// The names of packed segments.
    pub(crate) fn packed(&self) -> Vec<String> {
        let image = self.image().into_iter();
        let is_packed = |(name, bytes): &(String, Vec<u8>)| {
            name.starts_with("log-") && bytes.get(8..12) == Some(&2u32.to_le_bytes()[..])
        };
        image.filter(is_packed).map(|(name, _)| name).collect()
    }

    /// The machine stops at the `n`th call from the beginning.
    pub(crate) fn crash_at(&self, n: u64) {
        self.state().crash_at = n;
    }

    /// The `n`th call from the beginning fails.
    pub(crate) fn fail_at(&self, n: u64, kind: ErrorKind) {
        self.fail_calls(n..n + 1, kind);
    }

    /// These calls from the beginning fail.
    pub(crate) fn fail_calls(&self, calls: Range<u64>, kind: ErrorKind) {
        self.state().failing = Some((calls, kind));
    }

    /// The thread that maintains the store panics when it next makes a file.
    pub(crate) fn set_panics(&self) {
        self.state().panics = true;
    }

    /// From now on no file gets longer, or no page is written, for want of space.
    pub(crate) fn set_full(&self, none_grows: bool, no_pages: bool) {
        self.state().is_full = (none_grows, no_pages);
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.state().has_crashed
    }

    /// The disk as it is found after a crash now.
    pub(crate) fn after_crash(&self, kept: Kept, seed: u64) -> CrashDisk {
        let mut chance = Chance::new(seed);
        let state = self.state();
        let mut names = state.durable_names.clone();
        for (name, inode) in &state.pending_names {
            let is_kept = match kept {
                Kept::Nothing => false,
                Kept::Everything => true,
                Kept::Some => chance.below(2) == 0,
            };
            match inode {
                _ if !is_kept => {}
                Some(inode) => drop(names.insert(name.clone(), *inode)),
                None => drop(names.remove(name)),
            }
        }
        let found = CrashDisk::new(seed);
        {
            let mut after = found.state();
            after.inodes = state.inodes.clone();
            for inode in &mut after.inodes {
                inode.keep(kept, &mut chance);
                inode.current = inode.durable.clone();
            }
            after.names = names.clone();
            after.durable_names = names;
        }
        found
    }

    /// Changes a byte that is on the disk.
    pub(crate) fn damage(&self, name: &str, at: usize) {
        let mut state = self.state();
        let inode = state.names[name];
        for bytes in
            [&mut state.inodes[inode]].into_iter().flat_map(|inode| [&mut inode.current, &mut inode.durable])
        {
            bytes[at] ^= 0x40;
        }
    }

    /// Everything on it.
    pub(crate) fn image(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(name, inode)| (name.clone(), state.inodes[*inode].current.clone())).collect()
    }
}

impl State {
    /// Counts a call. `Err`: it fails; `Ok(true)`: the machine stops in the middle of it.
    fn call(&mut self) -> io::Result<bool> {
        if self.has_crashed {
            return Err(io::Error::other("the machine has stopped"));
        }
        self.calls += 1;
        if self.calls >= self.crash_at {
            self.has_crashed = true;
            return Ok(true);
        }
        Ok(false)
    }

    /// How this call fails, if it does.
    fn failure(&self) -> Option<io::Error> {
        let (calls, kind) = self.failing.as_ref()?;
        calls.contains(&self.calls).then(|| (*kind).into())
    }

    fn stopped(is_stopped: bool) -> io::Result<()> {
        if is_stopped { Err(io::Error::other("the machine has stopped")) } else { Ok(()) }
    }
}

impl Disk for CrashDisk {
    type File = CrashFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<CrashFile> {
        let mut state = self.state();
        let is_stopped = state.call()?;
        if let Some(error) = state.failure() {
            return Err(error);
        }
        if state.panics && std::thread::current().name() == Some("relay-store") {
            drop(state);
            panic!("on purpose");
        }
        // A file of this name that is open stays as it is, as one does whose name is removed.
        let zeros = vec![0; bytes as usize];
        let pending = if bytes > 0 { vec![(0, zeros.clone())] } else { Vec::new() };
        state.inodes.push(Inode { current: zeros, durable: Vec::new(), pending });
        let inode = state.inodes.len() - 1;
        state.names.insert(name.to_owned(), inode);
        state.pending_names.push((name.to_owned(), Some(inode)));
        State::stopped(is_stopped)?;
        drop(state);
        Ok(CrashFile { disk: self.clone(), inode, bytes })
    }

    fn open(&self, name: &str) -> io::Result<CrashFile> {
        let state = self.state();
        let inode = *state.names.get(name).ok_or(ErrorKind::NotFound)?;
        let bytes = state.inodes[inode].current.len() as u64;
        drop(state);
        Ok(CrashFile { disk: self.clone(), inode, bytes })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let is_stopped = state.call()?;
        if let Some(error) = state.failure() {
            return Err(error);
        }
        state.names.remove(name).ok_or(ErrorKind::NotFound)?;
        state.pending_names.push((name.to_owned(), None));
        State::stopped(is_stopped)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        let is_stopped = state.call()?;
        let failure = state.failure();
        let State { pending_names, durable_names, chance, .. } = &mut *state;
        for (name, inode) in std::mem::take(pending_names) {
            if (is_stopped || failure.is_some()) && chance.below(2) == 0 {
                pending_names.push((name, inode));
                continue;
            }
            match inode {
                Some(inode) => drop(durable_names.insert(name, inode)),
                None => drop(durable_names.remove(&name)),
            }
        }
        failure.map_or(State::stopped(is_stopped), Err)
    }
}

/// A file of a [`CrashDisk`].
pub(crate) struct CrashFile {
    disk: CrashDisk,
    inode: usize,
    bytes: u64,
}

impl CrashFile {
    fn write_some(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let is_stopped = state.call()?;
        let mut failure = state.failure();
        let is_page =
            || state.names.iter().any(|(name, inode)| *inode == self.inode && name.starts_with("pages-"));
        let grows = at + bytes.len() > state.inodes[self.inode].current.len();
        if state.is_full.0 && grows || state.is_full.1 && is_page() {
            failure = Some(ErrorKind::StorageFull.into());
        }
        let mut bytes = bytes;
        if failure.is_some() {
            let some = state.chance.below(bytes.len() as u64 + 1) as usize;
            bytes = &bytes[..some];
        }
        let inode = &mut state.inodes[self.inode];
        put(&mut inode.current, at, bytes);
        inode.pending.push((at, bytes.to_vec()));
        failure.map_or(State::stopped(is_stopped), Err)
    }
}

impl DiskFile for CrashFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, at: u64, bytes: usize) -> io::Result<Cow<'_, [u8]>> {
        let mut state = self.disk.state();
        state.reads += 1;
        let current = &state.inodes[self.inode].current;
        let end = (at as usize).checked_add(bytes).filter(|end| *end as u64 <= self.bytes);
        let found = end.and_then(|end| current.get(at as usize..end));
        found.map(|found| Cow::Owned(found.to_vec())).ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_some(at as usize, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let is_stopped = state.call()?;
        let failure = state.failure();
        let State { inodes, chance, .. } = &mut *state;
        // What a failed sync has not written, no later one writes.
        let kept = if is_stopped || failure.is_some() { Kept::Some } else { Kept::Everything };
        if is_stopped {
            return State::stopped(true);
        }
        inodes[self.inode].keep(kept, chance);
        failure.map_or(Ok(()), Err)
    }

    fn clear_from(&self, at: u64) -> io::Result<()> {
        self.write_some(at as usize, &vec![0; (self.bytes - at.min(self.bytes)) as usize])
    }
}
