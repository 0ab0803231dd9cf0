//! What all readers of a shard together have not read, and how much of it one of them may leave waiting.
//!
//! A limit for each reader does not bound the memory of ten thousand of them. So a reader's share falls as the total rises: it is
//! the full one until a quarter of `shard_outbox_bytes_max` waits, then less and less, and from half of it on a small one
//! that every reader has, so that clients that read are served however many do not. The other half is for these small shares.

use crate::types::Limits;

/// Bytes of output that wait for readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueuedOutput(usize);

impl QueuedOutput {
    pub(super) fn bytes(self) -> usize {
        self.0
    }

    /// One of the readers left `before` bytes waiting, and leaves `after` now.
    pub(super) fn change(&mut self, before: usize, after: usize) {
        self.0 = self.0 - before + after;
    }

    /// Queued bytes of one reader at which its scans and live events pause.
    pub(super) fn pause_threshold(self, limits: &Limits) -> usize {
        self.share(limits.outbox_pause_bytes, limits)
    }

    /// Queued bytes of one reader at which ephemeral events, which cannot wait in the store, are not sent.
    pub(super) fn ephemeral_threshold(self, limits: &Limits) -> usize {
        self.share(limits.outbox_bytes_max, limits)
    }

    /// Whether each reader has only the small share that is guaranteed to all.
    pub(super) fn is_over_half(self, limits: &Limits) -> bool {
        self.0 >= limits.shard_outbox_bytes_max / 2
    }

    fn share(self, full: usize, limits: &Limits) -> usize {
        let half = limits.shard_outbox_bytes_max / 2;
        let small = (half / limits.connections_max.max(1)).clamp(1, full.max(1));
        let falls_from = half / 2;
        if self.0 <= falls_from {
            return full;
        }
        let left = half.saturating_sub(self.0);
        let falling = full as u64 * left as u64 / (half - falls_from).max(1) as u64;
        small.max(falling as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_falls_from_the_full_one_to_the_small_one() {
        let limits = Limits {
            outbox_pause_bytes: 1_000,
            shard_outbox_bytes_max: 80_000,
            connections_max: 100,
            ..Limits::default()
        };
        let shares = [0, 20_000, 25_000, 30_000, 39_000, 40_000, 80_000, 200_000];
        let shares = shares.map(|bytes| QueuedOutput(bytes).pause_threshold(&limits));
        assert_eq!(shares, [1_000, 1_000, 750, 500, 400, 400, 400, 400]);
        let tiny = Limits { shard_outbox_bytes_max: 0, ..limits };
        assert_eq!(QueuedOutput(0).pause_threshold(&tiny), 1_000, "nothing waits");
        assert_eq!(QueuedOutput(1).pause_threshold(&tiny), 1, "never 0: a message at a time always goes");
    }
}
