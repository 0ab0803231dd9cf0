//! What a host of one shard does around a machine: it settles events, and fetches frames.

use crate::relay::{ConnId, Relay, commit};
use crate::store::Backend;
use crate::types::Now;
use crate::verify::Libsecp256k1;

/// All frames that wait for `conn`, as text.
///
/// # Panics
/// If one is not UTF-8.
pub fn drained<B: Backend>(relay: &mut Relay<B>, conn: ConnId) -> Vec<String> {
    let mut frames = Vec::new();
    while relay.drain(conn, usize::MAX, &mut |frame| {
        let mut bytes = Vec::new();
        frame.write_to(&mut bytes);
        frames.push(String::from_utf8(bytes).expect("frames are UTF-8"));
    }) {}
    frames
}

/// Verifies the events that a machine has received, commits them one batch at a time, and delivers them live, as far as
/// that is not left to [`Relay::work`].
pub fn settle<B: Backend>(relay: &mut Relay<B>, now: Now) {
    while let Some(batch) = relay.poll_verify(now, true) {
        relay.handle_verified(now, batch.verify(&Libsecp256k1));
    }
    while let Some(changes) = relay.poll_commit() {
        let committed = commit(relay.store(), now, vec![changes]);
        committed.replies.into_iter().for_each(|reply| relay.handle_committed(now, reply));
        relay.handle_live(now, &committed.live);
    }
}
