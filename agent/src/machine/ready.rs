//! Which job is next: round robin over customers, whatever the number of their jobs; the jobs of one customer in the order in which
//! they came.

use std::collections::{BTreeSet, HashMap};

use relay_engine::types::{EventId, PubKey};

use crate::store::UnfinishedRow;

/// Jobs that can be started.
#[derive(Debug, Default)]
pub(super) struct Ready {
    /// By customer, in the order of their numbers.
    jobs: HashMap<PubKey, BTreeSet<(u64, EventId)>>,
    /// A turn for each customer in `jobs`: its round, and the number of its first job.
    turns: BTreeSet<(u64, u64, PubKey)>,
    /// The round of each customer's next turn, if it is later than [`Ready::round`] says.
    rounds: HashMap<PubKey, u64>,
    /// The round of the last turn.
    round: u64,
}

impl Ready {
    /// A customer without jobs here joins in the next round: not before those who wait, and not behind all that they have.
    fn turn(&self, customer: &PubKey) -> Option<(u64, u64, PubKey)> {
        let (first, _) = self.jobs.get(customer)?.first()?;
        let round = self.rounds.get(customer).copied().unwrap_or(self.round + 1);
        Some((round, *first, *customer))
    }

    fn change(&mut self, customer: &PubKey, work: impl FnOnce(&mut BTreeSet<(u64, EventId)>)) {
        let before = self.turn(customer);
        if let Some(turn) = &before {
            self.turns.remove(turn);
        } else {
            let round = self.rounds.get(customer).copied().unwrap_or_default().max(self.round + 1);
            self.rounds.insert(*customer, round);
        }
        work(self.jobs.entry(*customer).or_default());
        match self.turn(customer) {
            Some(turn) => drop(self.turns.insert(turn)),
            None => {
                self.jobs.remove(customer);
                let round = self.round;
                // Who has had no more turns than the others need not be remembered.
                if self.rounds.get(customer).is_some_and(|own| *own <= round + 1) {
                    self.rounds.remove(customer);
                }
            }
        }
    }

    pub(super) fn insert(&mut self, row: &UnfinishedRow) {
        self.change(&row.customer, |jobs| _ = jobs.insert((row.seq, row.id)));
    }

    pub(super) fn remove(&mut self, row: &UnfinishedRow) {
        if self.jobs.contains_key(&row.customer) {
            self.change(&row.customer, |jobs| _ = jobs.remove(&(row.seq, row.id)));
        }
    }

    /// The job whose turn is next.
    pub(super) fn first(&self) -> Option<EventId> {
        let (_, _, customer) = self.turns.first()?;
        self.jobs.get(customer)?.first().map(|(_, id)| *id)
    }

    /// A customer has had a turn.
    pub(super) fn turn_taken(&mut self, customer: &PubKey) {
        let before = self.turn(customer);
        let round = before.map_or(self.round, |(round, ..)| round);
        self.round = self.round.max(round);
        if let Some(turn) = before {
            self.turns.remove(&turn);
        }
        self.rounds.insert(*customer, round + 1);
        if let Some(turn) = self.turn(customer) {
            self.turns.insert(turn);
        }
        // Those that have nothing here and are not ahead of the others.
        if self.rounds.len() > 2 * (self.jobs.len() + 8) {
            let (jobs, round) = (&self.jobs, self.round);
            self.rounds.retain(|customer, own| jobs.contains_key(customer) || *own > round + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobState;

    fn row(customer: u8, seq: u64) -> UnfinishedRow {
        let id = EventId([seq as u8; 32]);
        UnfinishedRow {
            seq,
            id,
            customer: PubKey([customer; 32]),
            state: JobState::Queued,
            received_at: 0,
            wake_at: 0,
        }
    }

    /// Starts jobs until there are none, or so many; gives their numbers.
    fn start(ready: &mut Ready, rows: &[UnfinishedRow], count: usize) -> Vec<u64> {
        let mut started = Vec::new();
        while started.len() < count
            && let Some(id) = ready.first()
        {
            let row = rows.iter().find(|row| row.id == id).unwrap();
            ready.turn_taken(&row.customer);
            ready.remove(row);
            started.push(row.seq);
        }
        started
    }

    #[test]
    fn customers_take_turns() {
        let mut ready = Ready::default();
        let rows: Vec<UnfinishedRow> = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 5), (2, 6), (3, 7)]
            .map(|(customer, seq)| row(customer, seq))
            .to_vec();
        rows.iter().for_each(|row| ready.insert(row));
        assert_eq!(start(&mut ready, &rows, 100), [1, 5, 7, 2, 6, 3, 4]);
        assert_eq!((ready.first(), ready.turns.len(), ready.jobs.len()), (None, 0, 0));
    }

    #[test]
    fn who_sends_one_after_the_other_is_not_ahead_of_who_sends_all_at_once() {
        let mut ready = Ready::default();
        let all: Vec<UnfinishedRow> = (1..=50).map(|seq| row(1, seq)).collect();
        all.iter().for_each(|row| ready.insert(row));
        let mut started = Vec::new();
        for seq in 101..=110 {
            // The second customer's next job comes when its last one has begun.
            let mut rows = all.clone();
            rows.push(row(2, seq));
            ready.insert(&row(2, seq));
            started.extend(start(&mut ready, &rows, 2));
        }
        let of_second = started.iter().filter(|seq| **seq > 100).count();
        assert!((9..=10).contains(&of_second), "{started:?}");
        assert!(started.windows(3).all(|turns| turns.iter().any(|seq| *seq > 100)), "{started:?}");
        assert!(started.windows(3).all(|turns| turns.iter().any(|seq| *seq <= 100)), "{started:?}");
    }

    #[test]
    fn customers_that_come_and_go_leave_nothing_behind() {
        let mut ready = Ready::default();
        for seq in 0..200 {
            let one = row(seq as u8, seq);
            ready.insert(&one);
            assert_eq!(start(&mut ready, &[one], 1), [seq]);
            ready.remove(&one);
        }
        assert!(ready.jobs.is_empty() && ready.turns.is_empty() && ready.rounds.len() <= 20, "{ready:?}");
    }
}
