//! A bucket whose operations take as long as the test likes, and fail as it likes; with R2's rules for what they do.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use relay_blossom::Sha256;
use relay_edge::blossom::KeyPage;
use sha2::{Digest as _, Sha256 as Hasher};

/// What comes of something, once it has come.
pub(super) struct Slot<T>(Rc<RefCell<Option<T>>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Slot(Rc::clone(&self.0))
    }
}

impl<T> Slot<T> {
    pub(super) fn new() -> Self {
        Slot(Rc::default())
    }

    pub(super) fn set(&self, value: T) {
        *self.0.borrow_mut() = Some(value);
    }

    /// Waits for it.
    pub(super) async fn get(&self) -> T {
        poll_fn(|_| match self.0.borrow_mut().take() {
            Some(value) => Poll::Ready(value),
            None => Poll::Pending,
        })
        .await
    }
}

/// An object of the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    pub(super) mime: String,
    /// When it was stored, in Unix seconds.
    pub(super) stored: u64,
    /// As metadata: when the blob was uploaded first, and when retention removes it.
    pub(super) uploaded: Option<u64>,
    pub(super) expires_at: Option<u64>,
}

/// On which condition a put stores anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Always,
    /// Nothing has this key.
    Absent,
    /// What has this key has these bytes.
    Same(Bytes),
}

pub(super) enum Operation {
    Head(String),
    Get(String),
    Put { key: String, object: Object, sha256: Option<Sha256>, condition: Condition },
    Delete(Vec<String>),
    List { after: Option<String>, max: u32 },
}

/// What an operation gives.
#[derive(Debug)]
pub(super) enum Given {
    Object(Option<Object>),
    /// Whether a put has met its condition.
    Stored(bool),
    Done,
    Page(KeyPage),
}

pub(super) type Outcome = Result<Given, String>;

/// An operation under way.
pub(super) struct Waiting {
    pub(super) operation: Operation,
    /// When it was asked for.
    pub(super) since: u64,
    pub(super) outcome: Slot<Outcome>,
}

#[derive(Default)]
pub(super) struct Bucket {
    pub(super) objects: BTreeMap<String, Object>,
    pub(super) waiting: VecDeque<Waiting>,
}

impl Bucket {
    /// Does what an operation does.
    pub(super) fn carry_out(&mut self, now: u64, operation: Operation) -> Outcome {
        Ok(match operation {
            Operation::Head(key) | Operation::Get(key) => Given::Object(self.objects.get(&key).cloned()),
            Operation::Put { key, object, sha256, condition } => {
                let hash = Sha256(Hasher::digest(&object.bytes).into());
                if sha256.is_some_and(|expected| expected != hash) {
                    return Err("10037: the hash does not match".to_owned());
                }
                let there = self.objects.get(&key);
                let is_met = match condition {
                    Condition::Always => true,
                    Condition::Absent => there.is_none(),
                    Condition::Same(bytes) => there.is_some_and(|there| there.bytes == bytes),
                };
                if is_met {
                    self.objects.insert(key, Object { stored: now, ..object });
                }
                Given::Stored(is_met)
            }
            Operation::Delete(keys) => {
                for key in keys {
                    self.objects.remove(&key);
                }
                Given::Done
            }
            Operation::List { after, max } => {
                let after = after.unwrap_or_default();
                let mut left = self.objects.iter().filter(|(key, _)| **key > after);
                let keys = left.by_ref().take(max as usize).map(|(key, object)| (key.clone(), object.stored));
                let keys = keys.collect();
                Given::Page(KeyPage { keys, has_more: left.next().is_some() })
            }
        })
    }
}

/// Asks the bucket for something, and waits for it.
pub(super) async fn ask(bucket: &RefCell<Bucket>, now: u64, operation: Operation) -> Outcome {
    let outcome = Slot::new();
    let waiting = Waiting { operation, since: now, outcome: outcome.clone() };
    bucket.borrow_mut().waiting.push_back(waiting);
    outcome.get().await
}

/// The object with a key.
pub(super) async fn object(bucket: &RefCell<Bucket>, now: u64, key: &str) -> Result<Option<Object>, String> {
    match ask(bucket, now, Operation::Get(key.to_owned())).await? {
        Given::Object(object) => Ok(object),
        other => panic!("{other:?}"),
    }
}
