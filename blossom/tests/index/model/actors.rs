//! What hosts do, step by step.

use relay_blossom::blob::Media;
use relay_blossom::index::{Commit, Key, Part, PartHead, Wanted};
use relay_blossom::testing::model::{HASHES, KEY_MAX, OWNERS, TOTAL_MAX, key, sha, size};
use relay_blossom::{Command, Outcome};
use relay_engine::testing::Rng;

use super::{Bytes, Simulation};
use crate::world::wanted;

/// A host at work, and how far it is.
pub(super) enum Actor {
    /// Uploads a blob of known hash.
    Known(Job, Known),
    /// Uploads a blob of unknown hash.
    Unknown(Job, Unknown),
    /// Uploads a part, and joins all of them if it is told to.
    Part(Job, PartHead, InPart),
    /// Removes bytes.
    Remover(Remover),
    /// Lists the store, and has the index remove what it does not know.
    Lister(Option<Vec<Key>>),
}

/// What is uploaded.
#[derive(Clone)]
pub(super) struct Job {
    n: u32,
    /// Its bytes take longer than its upload lasts.
    is_slow: bool,
    wanted: Wanted,
    /// Its thumbnail, if it is a picture with one.
    thumbnail: Option<u32>,
}

pub(super) enum Known {
    Start,
    Begun(u64, Key),
    /// The bytes are here, and only hashed.
    Here(u64),
    Put(u64),
}

pub(super) enum Unknown {
    Start,
    Begun(u64, Key),
    Staged(u64, Key),
    Learnt(u64, Key, Key),
    Copied(u64, Key),
    Promoted(u64),
}

pub(super) enum InPart {
    Start,
    Begun(u64, Key),
    Put(u64, Key),
    Joining(u64, Key, Vec<Part>, bool),
    Joined(u64),
}

pub(super) enum Remover {
    Start,
    Taken(Vec<Key>, u64),
    Gone(Vec<Key>, u64),
}

impl Job {
    fn commit(&self, upload: u64) -> Command {
        Command::Finish(Commit {
            upload,
            sha256: sha(self.n),
            size: size(self.n),
            mime: String::new(),
            uploaded: self.wanted.expires_at.map(|at| at - 300),
            expires_at: self.wanted.expires_at,
            unused_seconds: None,
            retention: Vec::new(),
            media: self.thumbnail.map(|n| Media {
                original: sha(0),
                dim: None,
                blurhash: None,
                thumbnail: Some(sha(n)),
            }),
            is_unpaid: false,
        })
    }
}

impl Actor {
    /// Somebody new.
    pub(super) fn new(rng: &mut Rng, now: u64) -> Actor {
        let n = rng.below(u64::from(HASHES)) as u32;
        let kind = rng.below(11);
        // Some do not know how long the blob is.
        let declared = if kind < 5 && rng.one_in(4) { 0 } else { size(n) };
        let is_slow = rng.one_in(4);
        let seconds = if is_slow { 2 + rng.below(10) } else { 20 + rng.below(1_000) };
        let wanted = Wanted {
            key_bytes_max: Some(KEY_MAX),
            total_bytes_max: Some(TOTAL_MAX),
            abandoned_at: now + seconds,
            expires_at: [None, Some(now + 300), Some(now + 20_000)][rng.below(3) as usize],
            owner: key(1 + rng.below(u64::from(OWNERS)) as u8).to_owned(),
            sha256: Some(sha(n)),
            ..wanted(0, n, declared)
        };
        // Thumbnails have smaller numbers, so that none is its own.
        let thumbnail = (kind < 3 && n > 0).then(|| rng.below(u64::from(n)) as u32);
        let job = Job { n, is_slow, wanted, thumbnail };
        match kind {
            0..3 => Actor::Known(job, Known::Start),
            3..5 => {
                let wanted = Wanted { sha256: None, ..job.wanted };
                Actor::Unknown(Job { wanted, ..job }, Unknown::Start)
            }
            5..8 => {
                // Halves and more, so that they overlap and some cover all.
                let offset = *rng.pick(&[0, 0, size(n) / 2, size(n) / 3]);
                let length = (size(n) - offset).min(size(n) / 2 + rng.below(size(n)));
                Actor::Part(job, PartHead { offset, length }, InPart::Start)
            }
            8..10 => Actor::Remover(Remover::Start),
            _ => Actor::Lister(None),
        }
    }

    /// Whether it has begun, and goes on after a while.
    pub(super) fn is_slow(&self) -> bool {
        match self {
            Actor::Known(job, Known::Begun(..) | Known::Here(_)) => job.is_slow,
            Actor::Unknown(job, Unknown::Begun(..)) => job.is_slow,
            Actor::Unknown(job, Unknown::Learnt(..)) | Actor::Part(job, _, InPart::Begun(..)) => job.is_slow,
            Actor::Remover(Remover::Gone(..)) => true,
            _ => false,
        }
    }

    /// One step. What is left to do, if anything.
    pub(super) fn step(self, world: &mut Simulation) -> Option<Actor> {
        match self {
            Actor::Known(job, state) => {
                known(&job, state, world).map(|state| Actor::Known(job.clone(), state))
            }
            Actor::Unknown(job, state) => {
                unknown(&job, state, world).map(|state| Actor::Unknown(job.clone(), state))
            }
            Actor::Part(job, part, state) => {
                in_part(&job, part, state, world).map(|state| Actor::Part(job.clone(), part, state))
            }
            Actor::Remover(state) => remover(state, world).map(Actor::Remover),
            Actor::Lister(listed) => lister(listed, world).map(|listed| Actor::Lister(Some(listed))),
        }
    }
}

impl Simulation {
    /// Whether a host that has this upload dies now.
    fn dies(&mut self, upload: u64) -> bool {
        let dies = !self.is_settling && self.rng.one_in(15);
        if dies {
            self.trace.1.push(format!("the host of {upload} dies"));
        }
        dies
    }

    /// Whether its upload fails now, in a way that it can tell.
    fn fails(&mut self, upload: u64) -> bool {
        !self.is_settling && self.rng.one_in(10) && self.oracle.pending.contains_key(&upload)
    }

    /// Whether somebody who is told to wait does.
    fn waits(&mut self) -> bool {
        !self.is_settling && self.rng.one_in(2)
    }
}

fn known(job: &Job, state: Known, world: &mut Simulation) -> Option<Known> {
    match state {
        Known::Start => match world.ask(Command::Begin(job.wanted.clone())) {
            None => Some(Known::Start),
            Some(Outcome::Begun { upload, key }) => Some(Known::Begun(upload, key)),
            Some(Outcome::OwnedByOthers { upload, .. }) => Some(Known::Here(upload)),
            Some(Outcome::Busy) => world.waits().then_some(Known::Start),
            Some(_) => None,
        },
        Known::Here(upload) => {
            if world.dies(upload) {
                return None;
            }
            // Somebody without the bytes has only others.
            if world.fails(upload) {
                world.insist(Command::Abort { upload });
                return None;
            }
            world.hashed += 1;
            Some(Known::Put(upload))
        }
        Known::Begun(upload, key) => {
            if world.dies(upload) {
                return None;
            }
            if world.fails(upload) {
                world.insist(Command::Abort { upload });
                return None;
            }
            world.put(&key, Bytes::Blob(job.n));
            Some(Known::Put(upload))
        }
        Known::Put(upload) => {
            if world.dies(upload) {
                return None;
            }
            let command = if world.fails(upload) { Command::Abort { upload } } else { job.commit(upload) };
            world.ask(command).is_none().then_some(Known::Put(upload))
        }
    }
}

fn unknown(job: &Job, state: Unknown, world: &mut Simulation) -> Option<Unknown> {
    let upload = match &state {
        Unknown::Start => {
            return match world.ask(Command::Begin(job.wanted.clone())) {
                None => Some(Unknown::Start),
                Some(Outcome::Begun { upload, key }) => Some(Unknown::Begun(upload, key)),
                Some(_) => None,
            };
        }
        Unknown::Begun(upload, ..) | Unknown::Staged(upload, ..) | Unknown::Learnt(upload, ..) => *upload,
        Unknown::Copied(upload, _) | Unknown::Promoted(upload) => *upload,
    };
    if world.dies(upload) {
        return None;
    }
    if world.fails(upload) {
        world.insist(Command::Abort { upload });
        return None;
    }
    match state {
        Unknown::Start => None,
        Unknown::Begun(upload, staged) => {
            world.put(&staged, Bytes::Blob(job.n));
            Some(Unknown::Staged(upload, staged))
        }
        Unknown::Staged(upload, staged) => {
            match world.ask(Command::SetHash { upload, sha256: sha(job.n), size: size(job.n) }) {
                None => Some(Unknown::Staged(upload, staged)),
                Some(Outcome::Begun { key, .. }) => Some(Unknown::Learnt(upload, staged, key)),
                Some(Outcome::Busy) if world.waits() => Some(Unknown::Staged(upload, staged)),
                Some(Outcome::Busy) => {
                    world.insist(Command::Abort { upload });
                    None
                }
                Some(_) => None,
            }
        }
        Unknown::Learnt(upload, staged, key) => {
            world.put(&key, Bytes::Blob(job.n));
            Some(Unknown::Copied(upload, staged))
        }
        Unknown::Copied(upload, staged) => {
            world.remove(&staged);
            Some(Unknown::Promoted(upload))
        }
        Unknown::Promoted(upload) => {
            world.ask(job.commit(upload)).is_none().then_some(Unknown::Promoted(upload))
        }
    }
}

fn in_part(job: &Job, part: PartHead, state: InPart, world: &mut Simulation) -> Option<InPart> {
    match state {
        InPart::Start => match world.ask(Command::BeginPart(job.wanted.clone(), part)) {
            None => Some(InPart::Start),
            Some(Outcome::Begun { upload, key }) => Some(InPart::Begun(upload, key)),
            Some(Outcome::Complete { upload, key, parts, blob_exists, .. }) => {
                Some(InPart::Joining(upload, key, parts, blob_exists))
            }
            Some(Outcome::Busy) => world.waits().then_some(InPart::Start),
            Some(_) => None,
        },
        InPart::Begun(upload, key) => {
            if world.dies(upload) {
                return None;
            }
            if world.fails(upload) {
                world.insist(Command::AbortPart { upload, key });
                return None;
            }
            let PartHead { offset, length } = part;
            world.put(&key, Bytes::Part { n: job.n, offset, length });
            Some(InPart::Put(upload, key))
        }
        InPart::Put(upload, key) => {
            if world.dies(upload) {
                return None;
            }
            if !world.is_settling && world.rng.one_in(10) {
                world.insist(Command::AbortPart { upload, key });
                return None;
            }
            match world.ask(Command::FinishPart { upload, key: key.clone() }) {
                None => Some(InPart::Put(upload, key)),
                Some(Outcome::Complete { upload, key, parts, blob_exists, .. }) => {
                    Some(InPart::Joining(upload, key, parts, blob_exists))
                }
                Some(_) => None,
            }
        }
        InPart::Joining(upload, key, parts, blob_exists) => {
            if world.dies(upload) {
                return None;
            }
            // The upload may have ended meanwhile, and its parts with it.
            let stored = parts.iter().map(|part| world.store.get(&part.key)).collect::<Vec<_>>();
            let is_whole =
                stored.iter().all(|part| matches!(part, Some(Bytes::Part { n, .. }) if *n == job.n));
            assert!(is_whole || !world.oracle.is_under_way(upload), "parts of {upload} are gone");
            if !is_whole || world.fails(upload) {
                world.insist(Command::Abort { upload });
                return None;
            }
            if !blob_exists {
                world.put(&key, Bytes::Blob(job.n));
            }
            Some(InPart::Joined(upload))
        }
        InPart::Joined(upload) => {
            if world.dies(upload) {
                return None;
            }
            let command = if world.fails(upload) { Command::Abort { upload } } else { job.commit(upload) };
            world.ask(command).is_none().then_some(InPart::Joined(upload))
        }
    }
}

fn remover(state: Remover, world: &mut Simulation) -> Option<Remover> {
    match state {
        Remover::Start => {
            let command = match world.rng.below(4) {
                0 => Command::TakeRemovals(1 + world.rng.below(3) as u32),
                1 => Command::TakeRemovalOf(world.some_key()),
                _ => Command::TakeRemoval,
            };
            let keys = match world.ask(command) {
                None => return Some(Remover::Start),
                Some(Outcome::Removal(key)) => key.into_iter().collect(),
                Some(Outcome::Removals(keys)) => keys,
                Some(other) => panic!("{other:?}"),
            };
            world.taken_at_once = world.taken_at_once.max(keys.len());
            (!keys.is_empty()).then_some(Remover::Taken(keys, world.now))
        }
        // After 15 minutes another one may be at it.
        Remover::Taken(_, at) | Remover::Gone(_, at) if at + 900 <= world.now => None,
        Remover::Taken(..) | Remover::Gone(..) if !world.is_settling && world.rng.one_in(8) => None,
        Remover::Taken(keys, at) if !world.is_settling && world.rng.one_in(8) => {
            let key = keys[0].clone();
            let failed = world.ask(Command::RemovalFailed(key)).is_some();
            let left = if failed { keys[1..].to_vec() } else { keys };
            (!left.is_empty()).then_some(Remover::Taken(left, at))
        }
        Remover::Taken(keys, at) => {
            keys.iter().for_each(|key| world.remove(key));
            Some(Remover::Gone(keys, at))
        }
        Remover::Gone(keys, at) => {
            let key = keys[0].clone();
            let told = world.ask(Command::Removed(key)).is_some();
            let left = if told { keys[1..].to_vec() } else { keys };
            (!left.is_empty()).then_some(Remover::Gone(left, at))
        }
    }
}

/// What a list of the store has may change before the index hears of it.
fn lister(listed: Option<Vec<Key>>, world: &mut Simulation) -> Option<Vec<Key>> {
    let Some(listed) = listed else {
        let lost = world.rng.below(u64::from(HASHES)) as u32;
        let number = 1_000_000 + world.rng.below(1_000);
        // Bytes of an index that was lost, and of somebody else.
        if world.rng.one_in(3) {
            world.put(&format!("staged/{number}"), Bytes::Blob(lost));
            world.put(&format!("parts/{}/{number}", sha(lost)), Bytes::Blob(lost));
        }
        let foreign = ["a.txt", "staged/x", "other/7"].map(str::to_owned);
        return Some(world.store.keys().cloned().chain(foreign).collect());
    };
    let is_asked = world.rng.one_in(2);
    match world.remove_unknown(listed.clone(), is_asked) {
        None => Some(listed),
        Some(_) => None,
    }
}
