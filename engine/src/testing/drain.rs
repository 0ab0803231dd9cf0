//! The frames that a machine has for a client.

use crate::relay::{ConnId, Relay};
use crate::store::Backend;

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
