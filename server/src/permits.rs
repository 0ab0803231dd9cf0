//! Limits work, such as transfers of blobs: a number at a time, of which a holder has at most a share; the others wait in turns.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use relay_blossom::exchange::Uploader;
use relay_engine::types::ClientAddress;
use tokio::sync::oneshot;

/// A holder has at most one part in this many of all permits.
const SHARE: usize = 8;

/// Whose share a permit is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// A public key in hexadecimal.
    Key(String),
    Address(ClientAddress),
}

impl Holder {
    /// A key that the operator has listed has a share of its own. Other keys cost nothing to make, so the share is that of the
    /// client's address. A client without limits by address (a program of this machine, which may be a proxy) has none here: then
    /// its key counts.
    pub(crate) fn of(uploader: &Uploader, address: Option<ClientAddress>) -> Self {
        match address {
            Some(address) if !uploader.is_listed => Holder::Address(address),
            _ => Holder::Key(uploader.pubkey.clone()),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Permits {
    max: usize,
    /// Most requests of a holder that wait.
    waiting_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    given: usize,
    held: HashMap<Holder, usize>,
    /// Those who wait, by holder.
    waiting: HashMap<Holder, VecDeque<oneshot::Sender<()>>>,
    /// Holders of whom some wait, in the order of their turns.
    turns: VecDeque<Holder>,
}

/// Held until it is dropped.
pub(crate) struct Permit<'a> {
    permits: &'a Permits,
    holder: Holder,
}

impl Permits {
    pub(crate) fn new(max: usize, waiting_max: usize) -> Self {
        Permits { max, waiting_max, state: Mutex::default() }
    }

    /// Waits for a permit. Holders who wait have their turns one after the other, however many requests each has waiting; `None`
    /// if the holder already has `waiting_max` requests that wait.
    pub(crate) async fn acquire(&self, holder: Holder) -> Option<Permit<'_>> {
        let granted = {
            let mut state = self.lock();
            let (sender, receiver) = oneshot::channel();
            if state.waiting.get(&holder).is_some_and(|waiting| waiting.len() >= self.waiting_max) {
                return None;
            }
            if !state.waiting.contains_key(&holder) {
                state.turns.push_back(holder.clone());
            }
            state.waiting.entry(holder.clone()).or_default().push_back(sender);
            state.give(self.max);
            receiver
        };
        let mut granted = Granted { permits: self, holder: Some(holder), granted };
        // The sender is in the queue until it has sent.
        let _ = (&mut granted.granted).await;
        granted.holder.take().map(|holder| Permit { permits: self, holder })
    }

    /// Permits that are held.
    pub(crate) fn given(&self) -> usize {
        self.lock().given
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, holder: &Holder) {
        let mut state = self.lock();
        state.take_back(holder);
        state.give(self.max);
    }
}

/// Somebody who waits. Dropped before the permit is theirs, it gives back what has just been given.
struct Granted<'a> {
    permits: &'a Permits,
    holder: Option<Holder>,
    granted: oneshot::Receiver<()>,
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        if let Some(holder) = &self.holder {
            self.granted.close();
            match self.granted.try_recv() {
                Ok(()) => self.permits.give_back(holder),
                Err(_) => self.permits.lock().forget(holder),
            }
        }
    }
}

impl State {
    /// Gives what is free to those who wait.
    fn give(&mut self, max: usize) {
        let share = max.div_ceil(SHARE);
        let mut passed = 0;
        while self.given < max && passed < self.turns.len() {
            let Some(holder) = self.turns.pop_front() else { return };
            let Some(waiting) = self.waiting.get_mut(&holder) else { continue };
            if self.held.get(&holder).is_some_and(|held| *held >= share) {
                self.turns.push_back(holder);
                passed += 1;
                continue;
            }
            // Those who have gone are passed over.
            while let Some(sender) = waiting.pop_front() {
                if sender.send(()).is_ok() {
                    self.given += 1;
                    *self.held.entry(holder.clone()).or_default() += 1;
                    break;
                }
            }
            match waiting.is_empty() {
                true => drop(self.waiting.remove(&holder)),
                false => self.turns.push_back(holder),
            }
            passed = 0;
        }
    }

    /// Some of those who wait for this holder have gone.
    fn forget(&mut self, holder: &Holder) {
        let Some(waiting) = self.waiting.get_mut(holder) else { return };
        waiting.retain(|sender| !sender.is_closed());
        if waiting.is_empty() {
            self.waiting.remove(holder);
            self.turns.retain(|other| other != holder);
        }
    }

    fn take_back(&mut self, holder: &Holder) {
        self.given = self.given.saturating_sub(1);
        if let Some(held) = self.held.get_mut(holder) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(holder);
            }
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.permits.give_back(&self.holder);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Waiting<'a> = Pin<Box<dyn Future<Output = Option<Permit<'a>>> + 'a>>;

    fn holder(n: u8) -> Holder {
        Holder::Key(n.to_string())
    }

    /// The permit, if it is given.
    fn poll<'a>(waiting: &mut Waiting<'a>) -> Option<Permit<'a>> {
        match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => permit,
            Poll::Pending => None,
        }
    }

    fn begin(permits: &Permits, n: u8) -> (Option<Permit<'_>>, Waiting<'_>) {
        let mut waiting: Waiting<'_> = Box::pin(permits.acquire(holder(n)));
        (poll(&mut waiting), waiting)
    }

    /// Regression: 128 bodies that came a byte at a time, all of one key, stopped the uploads of everybody.
    #[test]
    fn one_holder_has_a_share_and_others_go_on() {
        let permits = Permits::new(128, 1_000);
        let mut slow: Vec<_> = (0..200).map(|_| begin(&permits, 1)).collect();
        assert_eq!(slow.iter().filter(|(permit, _)| permit.is_some()).count(), 16);
        let mut kept = Vec::new();
        let mut others: Vec<_> =
            (2..9).flat_map(|n| (0..16).map(move |_| n)).map(|n| begin(&permits, n)).collect();
        assert!(others.iter().all(|(permit, _)| permit.is_some()));
        assert_eq!(permits.given(), 128);
        // All are taken. What the others give back goes to holders with less than their share, in turns.
        let mut waiting = [20, 20, 21].map(|n| begin(&permits, n));
        others.truncate(others.len() - 3);
        assert!(
            waiting.iter_mut().all(|(_, waiting)| poll(waiting).map(|permit| kept.push(permit)).is_some())
        );
        let given = |slow: &mut Vec<(Option<Permit<'_>>, Waiting<'_>)>| {
            // Kept until they are counted.
            let given: Vec<_> = slow.iter_mut().skip(16).filter_map(|(_, waiting)| poll(waiting)).collect();
            given.len()
        };
        assert_eq!(given(&mut slow), 0);
        slow[0].0 = None;
        assert_eq!(given(&mut slow), 1);
    }

    #[test]
    fn turns_go_round() {
        let permits = Permits::new(1, 1_000);
        let (mut held, _) = begin(&permits, 1);
        let mut waiting: Vec<_> = [1, 1, 1, 2, 3, 2].into_iter().map(|n| (n, begin(&permits, n).1)).collect();
        let mut order = Vec::new();
        while !waiting.is_empty() {
            drop(held.take());
            let next =
                waiting.iter_mut().enumerate().find_map(|(at, (_, waiting))| Some((at, poll(waiting)?)));
            let (at, permit) = next.expect("a permit that is given back is given on");
            held = Some(permit);
            order.push(waiting.remove(at).0);
        }
        assert_eq!(order, [1, 2, 3, 1, 2, 1]);
        drop(held);
        assert_eq!(permits.given(), 0);
    }

    #[test]
    fn few_requests_of_a_holder_wait() {
        let permits = Permits::new(1, 2);
        let _held = begin(&permits, 1);
        let _waiting = [begin(&permits, 2), begin(&permits, 2), begin(&permits, 3)];
        let mut more: Waiting<'_> = Box::pin(permits.acquire(holder(2)));
        let more = more.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(more, Poll::Ready(None)), "it is told so at once");
    }

    #[test]
    fn who_leaves_keeps_nothing() {
        let permits = Permits::new(1, 1_000);
        let (held, _) = begin(&permits, 1);
        let (_, gone) = begin(&permits, 2);
        drop(gone);
        let (_, given_and_gone) = begin(&permits, 3);
        let (_, mut last) = begin(&permits, 4);
        drop(held);
        assert_eq!(permits.given(), 1);
        // It was given the permit and has not looked.
        drop(given_and_gone);
        let permit = poll(&mut last);
        assert!(permit.is_some());
        drop(permit);
        let state = permits.lock();
        assert!(
            state.given == 0 && state.held.is_empty() && state.waiting.is_empty() && state.turns.is_empty()
        );
    }
}
