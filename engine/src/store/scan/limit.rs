//! How far one filter has come towards its limit.

use super::ScanLimits;
use crate::types::{Filter, Timestamp};

/// One filter's limit and how much of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) stage: Stage,
    /// The limit is the relay's, not the client's: the answer may exceed it to complete a timestamp.
    is_relay_limit: bool,
    /// Events still to send in this stage.
    left: u32,
    /// Most events sent beyond the limit to complete a timestamp.
    completion_max: u32,
}

/// What a filter's matches are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// They are sent.
    Sending,
    /// They are sent if they are of this second, the last one of the page.
    CompletingTimestamp(Timestamp),
    /// They are not sent; the first one shows that there is more.
    LookingAhead {
        /// Cost of the filter when it was last counted.
        cost_before: u64,
    },
    /// Nothing.
    Done,
}

impl Limit {
    pub(super) fn new(filter: &Filter, limits: ScanLimits) -> Self {
        let is_relay_limit = filter.limit.is_none_or(|limit| limit > limits.limit_max);
        let left = filter.limit.unwrap_or(limits.limit_default).min(limits.limit_max);
        let stage = if left == 0 || filter.matches_nothing() { Stage::Done } else { Stage::Sending };
        Limit { stage, is_relay_limit, left, completion_max: limits.limit_max }
    }

    /// How many more events the filter may want.
    pub(super) fn wanted(&self) -> u64 {
        match self.stage {
            Stage::Sending => u64::from(self.left),
            Stage::CompletingTimestamp(_) | Stage::LookingAhead { .. } => 1,
            Stage::Done => 0,
        }
    }

    /// Records that all events newer than `created_at` have been seen; `cost` is what reading for the filter has cost. True
    /// if this ends a stage.
    pub(super) fn advance_to(&mut self, created_at: Timestamp, cost: u64) -> bool {
        let over = matches!(self.stage, Stage::CompletingTimestamp(second) if created_at < second);
        if over {
            self.stage = Stage::LookingAhead { cost_before: cost };
        }
        over
    }

    /// Counts an event that is sent; `cost` is what reading for the filter has cost. True if this ends
    /// a stage.
    pub(super) fn count_sent(&mut self, created_at: Timestamp, cost: u64) -> bool {
        self.left -= 1;
        if self.left > 0 {
            return false;
        }
        self.stage = match self.stage {
            Stage::Sending if self.is_relay_limit => {
                self.left = self.completion_max;
                Stage::CompletingTimestamp(created_at)
            }
            _ => Stage::LookingAhead { cost_before: cost },
        };
        true
    }
}
