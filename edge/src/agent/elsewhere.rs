//! Publishing on other relays, which are anybody's: what they send is bounded, and one is talked to at a time.

use std::collections::VecDeque;

use relay_engine::types::Event;

/// Publications that wait, of which further ones are dropped: other relays get what they can.
const WAITING_MAX: usize = 64;
/// Bytes of a frame that is read; an `OK` has some hundred.
pub const FRAME_BYTES_MAX: usize = 4 << 10;
/// Bytes of a frame of a remote signer's relay.
pub const SIGNER_FRAME_BYTES_MAX: usize = 256 << 10;
/// Frames that are read, beside one for each event.
const OTHER_FRAMES_MAX: usize = 64;

/// Publications on other relays, of which one is under way.
#[derive(Debug, Default)]
pub struct Elsewhere {
    waiting: VecDeque<(String, Vec<Event>)>,
    is_busy: bool,
}

impl Elsewhere {
    /// Adds a publication for each relay. `false`: there was no room for some of them.
    pub fn add(&mut self, events: &[Event], relays: Vec<String>) -> bool {
        let room = WAITING_MAX.saturating_sub(self.waiting.len());
        let is_all = relays.len() <= room;
        self.waiting.extend(relays.into_iter().take(room).map(|relay| (relay, events.to_vec())));
        is_all
    }

    /// The next publication, if none is under way. [`Elsewhere::end`] ends it.
    pub fn begin(&mut self) -> Option<(String, Vec<Event>)> {
        if self.is_busy {
            return None;
        }
        let next = self.waiting.pop_front();
        self.is_busy = next.is_some();
        next
    }

    /// The publication under way has ended.
    pub fn end(&mut self) {
        self.is_busy = false;
    }
}

/// What another relay has still to answer.
#[derive(Debug)]
pub struct Answers {
    waiting: Vec<String>,
    frames: usize,
}

impl Answers {
    /// An `OK` for each event.
    pub fn new(events: &[Event]) -> Self {
        let waiting: Vec<String> = events.iter().map(|event| event.id.to_string()).collect();
        Answers { frames: waiting.len() + OTHER_FRAMES_MAX, waiting }
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
        self.frames = self.frames.checked_sub(1).ok_or("it sends something else than answers")?;
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
    fn one_publication_is_under_way_and_few_wait() {
        let relays = |count: usize| (0..count).map(|n| format!("wss://{n}.example")).collect::<Vec<_>>();
        let mut elsewhere = Elsewhere::default();
        assert!(elsewhere.begin().is_none());
        assert!(elsewhere.add(&events(2), relays(2)));
        let (relay, sent) = elsewhere.begin().unwrap();
        assert_eq!((&*relay, sent), ("wss://0.example", events(2)));
        assert!(elsewhere.begin().is_none(), "one at a time");
        elsewhere.end();
        assert_eq!(elsewhere.begin().unwrap().0, "wss://1.example");
        assert!(!elsewhere.add(&events(1), relays(100)));
        assert!(!elsewhere.add(&events(1), relays(1)));
        elsewhere.end();
        let mut count = 0;
        while elsewhere.begin().is_some() {
            elsewhere.end();
            count += 1;
        }
        assert_eq!(count, WAITING_MAX);
    }

    #[test]
    fn answers_are_awaited_for_each_event_and_not_for_ever() {
        let events = events(2);
        let mut answers = Answers::new(&events);
        let ok = |event: &Event| format!(r#"["OK","{}",false,"blocked: no"]"#, event.id);
        for frame in
            ["", "{}", "[]", r#"["AUTH","x"]"#, r#"["OK"]"#, r#"["NOTICE","hello"]"#, &ok(&events[1])]
        {
            assert_eq!(answers.handle(frame), Ok(()));
            assert!(!answers.is_complete());
        }
        answers.handle(&ok(&events[0])).unwrap();
        assert!(answers.is_complete());

        let mut answers = Answers::new(&events);
        let taken = (0..1_000).take_while(|_| answers.handle("[]").is_ok()).count();
        assert_eq!(taken, 2 + OTHER_FRAMES_MAX);
    }
}
