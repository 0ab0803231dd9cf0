//! Publishing on other relays, which are anybody's: what they send is bounded, and so is with how many an agent talks at a time.

use std::collections::VecDeque;

use relay_engine::types::Event;

/// Publications that wait, of which further ones are dropped: other relays get what they can.
const WAITING_MAX: usize = 64;
/// Publications under way. The platform opens six connections of an object at a time, and has further ones wait.
const OPEN_MAX: usize = 6;
/// Bytes of a frame that is read; an `OK` has some hundred.
pub const FRAME_BYTES_MAX: usize = 4 << 10;
/// Bytes of a frame of a relay in an exchange.
pub const EXCHANGE_FRAME_BYTES_MAX: usize = 256 << 10;
/// Frames that are read, beside one for each event.
const OTHER_FRAMES_MAX: usize = 64;

/// Publications on other relays: one at a time on each, so that they come in order, and few at a time in all.
#[derive(Debug, Default)]
pub struct RemoteRelays {
    waiting: VecDeque<(String, Vec<Event>)>,
    /// The relays of those that are under way.
    open: Vec<String>,
}

impl RemoteRelays {
    /// Adds a publication for each relay. `false`: there was no room for some of them.
    pub fn add(&mut self, events: &[Event], relays: Vec<String>) -> bool {
        let room = WAITING_MAX.saturating_sub(self.waiting.len());
        let is_all = relays.len() <= room;
        self.waiting.extend(relays.into_iter().take(room).map(|relay| (relay, events.to_vec())));
        is_all
    }

    /// A publication to begin, if there is one and not too many are under way. [`RemoteRelays::end`] ends it.
    pub fn begin(&mut self) -> Option<(String, Vec<Event>)> {
        if self.open.len() >= OPEN_MAX {
            return None;
        }
        let at = self.waiting.iter().position(|(relay, _)| !self.open.contains(relay))?;
        let next = self.waiting.remove(at)?;
        self.open.push(next.0.clone());
        Some(next)
    }

    /// The publication under way on this relay has ended.
    pub fn end(&mut self, relay: &str) {
        self.open.retain(|open| open != relay);
    }
}

/// Published events for which another relay has not sent `OK` yet.
#[derive(Debug)]
pub struct PendingOks {
    waiting: Vec<String>,
    frames: usize,
}

impl PendingOks {
    /// An `OK` for each event.
    pub fn new(events: &[Event]) -> Self {
        let waiting: Vec<String> = events.iter().map(|event| event.id.to_string()).collect();
        PendingOks { frames: waiting.len() + OTHER_FRAMES_MAX, waiting }
    }

    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A frame of at most [`FRAME_BYTES_MAX`] bytes; the caller leaves a relay that sends a larger one.
    ///
    /// # Errors
    /// If the relay has sent too many; then it is left.
    pub fn handle(&mut self, frame: &str) -> Result<(), &'static str> {
        self.frames = self.frames.checked_sub(1).ok_or("it sends messages other than OK")?;
        let frame: serde_json::Value = serde_json::from_str(frame).unwrap_or_default();
        let part = |place: usize| frame.get(place).and_then(serde_json::Value::as_str);
        if part(0) == Some("OK") {
            self.waiting.retain(|id| part(1) != Some(id));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use relay_engine::testing::event_of_json;
    use relay_engine::testing::signing::{event, key};

    use super::*;

    fn events(count: u64) -> Vec<Event> {
        let signed = (0..count).map(|n| event(&key(1)).at(1_767_225_600 + n).sign());
        signed.map(|event| event_of_json(&event.json()).unwrap()).collect()
    }

    #[test]
    fn few_publications_are_under_way_one_on_each_relay_and_few_wait() {
        let relays = |count: usize| (0..count).map(|n| format!("wss://{n}.example")).collect::<Vec<_>>();
        let mut remote_relays = RemoteRelays::default();
        assert!(remote_relays.begin().is_none());
        // Feedback, and then the result.
        assert!(remote_relays.add(&events(1), relays(2)) && remote_relays.add(&events(2), relays(8)));
        let begun: Vec<_> = std::iter::from_fn(|| remote_relays.begin()).collect();
        let on = |relay: usize, count: u64| (format!("wss://{relay}.example"), events(count));
        let expected = [(0, 1), (1, 1), (2, 2), (3, 2), (4, 2), (5, 2)];
        assert_eq!(begun, expected.map(|(relay, count)| on(relay, count)));
        remote_relays.end("wss://3.example");
        assert_eq!(remote_relays.begin(), Some(on(6, 2)), "nothing overtakes what is under way on its relay");
        remote_relays.end("wss://0.example");
        assert_eq!(remote_relays.begin(), Some(on(0, 2)));
        assert_eq!(remote_relays.begin(), None);

        let mut remote_relays = RemoteRelays::default();
        assert!(!remote_relays.add(&events(1), relays(100)));
        assert!(!remote_relays.add(&events(1), relays(1)));
        let mut count = 0;
        while let Some((relay, _)) = remote_relays.begin() {
            remote_relays.end(&relay);
            count += 1;
        }
        assert_eq!(count, WAITING_MAX);
    }

    #[test]
    fn answers_are_awaited_for_each_event_and_not_for_ever() {
        let events = events(2);
        let mut answers = PendingOks::new(&events);
        let ok = |event: &Event| format!(r#"["OK","{}",false,"blocked: no"]"#, event.id);
        for frame in
            ["", "{}", "[]", r#"["AUTH","x"]"#, r#"["OK"]"#, r#"["NOTICE","hello"]"#, &ok(&events[1])]
        {
            assert_eq!(answers.handle(frame), Ok(()));
            assert!(!answers.is_complete());
        }
        answers.handle(&ok(&events[0])).unwrap();
        assert!(answers.is_complete());

        let mut answers = PendingOks::new(&events);
        let taken = (0..1_000).take_while(|_| answers.handle("[]").is_ok()).count();
        assert_eq!(taken, 2 + OTHER_FRAMES_MAX);
    }
}
