//! Blobs that the relay fetches for itself: one upload of each at a time. URLs that failed are not requested again for five minutes.

use std::collections::VecDeque;

use relay_engine::sql::{SqlConn, StoreError};
use sha2::{Digest as _, Sha256 as Hasher};

use super::Run;
use super::command::{Outcome, Wanted};
use super::sql::parse_key;

/// Seconds for which a URL that failed is not requested again.
const MISS_SECONDS: u64 = 300;
/// Seconds for which others wait for an upload of the relay's. One whose host has died would keep them waiting until it is abandoned.
pub(crate) const PULL_SECONDS: u64 = 120;
/// URLs that are remembered.
const MISSES_MAX: usize = 1_024;

/// URLs that did not give their blobs, the latest last, and until when they are not asked. Each has the hash in it.
#[derive(Debug, Default)]
pub(super) struct Misses(VecDeque<([u8; 16], u64)>);

/// URLs may be long.
fn short(url: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&Hasher::digest(url)[..16]);
    short
}

impl Misses {
    fn insert(&mut self, now: u64, url: &str) {
        let url = short(url);
        self.0.retain(|(own, until)| *own != url && *until > now);
        if self.0.len() == MISSES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((url, now.saturating_add(MISS_SECONDS)));
    }

    fn has(&self, now: u64, url: &str) -> bool {
        let url = short(url);
        self.0.iter().any(|(own, until)| *own == url && *until > now)
    }
}

impl<C: SqlConn> Run<'_, C> {
    /// As [`Run::begin`], and looks through what is in memory.
    pub(super) fn begin_pull(&mut self, wanted: &Wanted, urls: &[String]) -> Result<Outcome, StoreError> {
        let owner = parse_key(&wanted.owner)?;
        let is_under_way = self.state.uploads.values().any(|upload| {
            upload.owner == owner
                && upload.sha256 == wanted.sha256
                && !upload.is_given_up
                && self.now < upload.began_at.saturating_add(PULL_SECONDS)
        });
        if is_under_way {
            return Ok(Outcome::Pulling);
        }
        if urls.iter().all(|url| self.state.misses.has(self.now, url)) {
            return Ok(Outcome::Missing);
        }
        self.begin(wanted)
    }

    pub(super) fn abort_pull(&mut self, upload: u64, urls: &[String]) -> Result<Outcome, StoreError> {
        for url in urls {
            self.state.misses.insert(self.now, url);
        }
        self.abort(upload)
    }
}
