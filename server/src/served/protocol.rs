//! Requests and answers as bytes. Each is one frame; a connection has one request at a time, and its answer.
//!
//! ```text
//! frame      = bytes:4  version:1  kind:1  rest          bytes: of all that follows; integers are little-endian
//! commit     1  (vanishes:1  bytes:4  JSON)*             vanishes: 1 for a request to vanish that this relay fulfils
//! remove     2  id:32 *
//! pending    3                                           a step of removing what was deleted
//! committed  1  (outcome:1  number:8)*                   in the order of the events; number: 0 if it is not stored
//! removed    2  events:8
//! pending    3  more:1
//! failed     4  text                                     nothing was done, or a part
//! ```

use relay_engine::store::{Op, Outcome, Refusal, Seq};
use relay_engine::types::{EventId, Kind};
use relay_engine::verify::Verified;
use relay_engine::wire;

use super::Numbered;

/// The version of all this.
pub(super) const VERSION: u8 = 1;
/// Longest frame: an event as long as a line of `relay import` fits.
pub(super) const FRAME_BYTES_MAX: usize = 20 << 20;
/// Most events of a request, and most ids: each is one step of the writer.
pub(super) const EVENTS_MAX: usize = 512;
pub(super) const IDS_MAX: usize = 256;
/// Requests to vanish (NIP-62).
const VANISH: Kind = 62;
/// Bytes of events after which a request has no further one.
const EVENTS_BYTES: usize = 1 << 20;

const COMMIT: u8 = 1;
const REMOVE: u8 = 2;
const REMOVE_PENDING: u8 = 3;
const FAILED: u8 = 4;

/// What a command wants.
#[derive(Debug)]
pub(crate) enum Request {
    /// Store events.
    Commit(Vec<Op>),
    /// Remove events, without tombstones.
    Remove(Vec<EventId>),
    /// Make a step of removing what was deleted.
    RemovePending,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// In the order of the events.
    Committed(Vec<Numbered>),
    /// How many there were.
    Removed(u64),
    /// Whether there is more.
    RemovedPending {
        /// There is.
        more: bool,
    },
    /// Why nothing was done, or only a part.
    Failed(String),
}

/// How many of these events fit into one request; one at least.
pub(super) fn events_of_request(ops: &[Op]) -> usize {
    let mut bytes = 0;
    let fitting = ops.iter().take(EVENTS_MAX).take_while(|op| {
        bytes += op.event().json().len();
        bytes <= EVENTS_BYTES
    });
    fitting.count().max(1)
}

fn frame(kind: u8, rest: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = vec![0, 0, 0, 0, VERSION, kind];
    rest(&mut frame);
    let bytes = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&bytes.to_le_bytes());
    frame
}

/// The frame of a request to store events.
pub(super) fn commit_frame(ops: &[Op]) -> Vec<u8> {
    frame(COMMIT, |frame| {
        for op in ops {
            let json = op.event().json();
            frame.push(u8::from(matches!(op, Op::Vanish(_))));
            frame.extend((json.len() as u32).to_le_bytes());
            frame.extend_from_slice(json);
        }
    })
}

/// That of one to remove events.
pub(super) fn remove_frame(ids: &[EventId]) -> Vec<u8> {
    frame(REMOVE, |frame| ids.iter().for_each(|id| frame.extend(id.0)))
}

/// That of one to go on removing.
pub(super) fn remove_pending_frame() -> Vec<u8> {
    frame(REMOVE_PENDING, |_| {})
}

impl Request {
    /// Reads what follows the length of a frame.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(frame: &[u8]) -> Result<Self, String> {
        let (kind, mut rest) = head(frame)?;
        match kind {
            COMMIT => {
                let mut ops = Vec::new();
                while !rest.is_empty() {
                    let number = ops.len();
                    if number == EVENTS_MAX {
                        return Err(format!("there are more than {EVENTS_MAX} events"));
                    }
                    let short = || format!("event {number} is cut off");
                    let [vanishes, bytes @ ..] = *take::<5>(&mut rest).ok_or_else(short)?;
                    let bytes = u32::from_le_bytes(bytes) as usize;
                    let (json, others) = rest.split_at_checked(bytes).ok_or_else(short)?;
                    rest = others;
                    let event = wire::parse_event(json)
                        .map_err(|error| format!("event {number}: {}: {error}", error.prefix()))?;
                    if vanishes != 0 && event.kind != VANISH {
                        return Err(format!("event {number} is no request to vanish"));
                    }
                    // The command has verified it, or an operator vouches for it (`import --no-verify`).
                    let event = Verified::assume_verified(event.to_event());
                    ops.push(if vanishes == 0 { Op::Put(event) } else { Op::Vanish(event) });
                }
                Ok(Request::Commit(ops))
            }
            REMOVE => {
                let (ids, []) = rest.as_chunks() else { return Err("the last id is cut off".to_owned()) };
                if ids.len() > IDS_MAX {
                    return Err(format!("there are more than {IDS_MAX} ids"));
                }
                Ok(Request::Remove(ids.iter().copied().map(EventId).collect()))
            }
            REMOVE_PENDING if rest.is_empty() => Ok(Request::RemovePending),
            kind => Err(format!("there is no request {kind} of {} bytes", rest.len())),
        }
    }
}

impl Answer {
    /// The frame.
    pub(super) fn frame(&self) -> Vec<u8> {
        match self {
            Answer::Committed(outcomes) => frame(COMMIT, |frame| {
                for (outcome, seq) in outcomes {
                    frame.push(code(*outcome));
                    frame.extend(seq.map_or(0, |seq| seq.0).to_le_bytes());
                }
            }),
            Answer::Removed(events) => frame(REMOVE, |frame| frame.extend(events.to_le_bytes())),
            Answer::RemovedPending { more } => frame(REMOVE_PENDING, |frame| frame.push(u8::from(*more))),
            Answer::Failed(why) => frame(FAILED, |frame| frame.extend_from_slice(why.as_bytes())),
        }
    }

    /// Reads what follows the length of a frame.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(frame: &[u8]) -> Result<Self, String> {
        let (kind, rest) = head(frame)?;
        let wrong = || format!("there is no answer {kind} of {} bytes", rest.len());
        match kind {
            COMMIT => {
                let (outcomes, []) = rest.as_chunks::<9>() else { return Err(wrong()) };
                let outcome = |[code, seq @ ..]: &[u8; 9]| {
                    let seq = Seq(u64::from_le_bytes(*seq));
                    Some((outcome(*code, seq)?, (seq.0 > 0).then_some(seq)))
                };
                outcomes.iter().map(outcome).collect::<Option<_>>().map(Answer::Committed).ok_or_else(wrong)
            }
            REMOVE => {
                let events = rest.try_into().map_err(|_| wrong())?;
                Ok(Answer::Removed(u64::from_le_bytes(events)))
            }
            REMOVE_PENDING => match rest {
                [more] => Ok(Answer::RemovedPending { more: *more != 0 }),
                _ => Err(wrong()),
            },
            FAILED => Ok(Answer::Failed(String::from_utf8_lossy(rest).into_owned())),
            _ => Err(wrong()),
        }
    }
}

/// The kind of a frame, and what follows it.
fn head(frame: &[u8]) -> Result<(u8, &[u8]), String> {
    match frame {
        [] | [VERSION] => Err("an empty frame".to_owned()),
        [VERSION, kind, rest @ ..] => Ok((*kind, rest)),
        [version, ..] => Err(format!(
            "version {version} of the commands' protocol is not version {VERSION}: the relay and the command are of different versions"
        )),
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(first)
}

fn code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Stored(_) => 0,
        Outcome::Duplicate => 1,
        Outcome::Refused(Refusal::Deleted) => 2,
        Outcome::Refused(Refusal::Vanished) => 3,
        Outcome::Refused(Refusal::Superseded) => 4,
        Outcome::Refused(Refusal::Expired) => 5,
        Outcome::Refused(Refusal::Ephemeral) => 6,
    }
}

fn outcome(code: u8, seq: Seq) -> Option<Outcome> {
    Some(match code {
        0 => Outcome::Stored(seq),
        1 => Outcome::Duplicate,
        2 => Outcome::Refused(Refusal::Deleted),
        3 => Outcome::Refused(Refusal::Vanished),
        4 => Outcome::Refused(Refusal::Superseded),
        5 => Outcome::Refused(Refusal::Expired),
        6 => Outcome::Refused(Refusal::Ephemeral),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use relay_engine::testing::event_of_json;
    use relay_engine::testing::signing::{event, key};

    use super::*;

    fn signed(kind: Kind, content: &str) -> Verified {
        let signed = event(&key(1)).kind(kind).content(content).sign();
        Verified::assume_verified(event_of_json(&signed.json()).unwrap())
    }

    fn put(content: &str) -> Op {
        Op::Put(signed(1, content))
    }

    #[test]
    fn requests_are_read_as_they_were_written() {
        let ops = [put("a"), Op::Vanish(signed(VANISH, "vanish")), put("ü \"quoted\"\n")];
        let frame = commit_frame(&ops);
        assert_eq!(frame[..4], (frame.len() as u32 - 4).to_le_bytes());
        let Ok(Request::Commit(read)) = Request::read(&frame[4..]) else { panic!() };
        let texts = |ops: &[Op]| -> Vec<(bool, Vec<u8>)> {
            ops.iter().map(|op| (matches!(op, Op::Vanish(_)), op.event().json().to_vec())).collect()
        };
        assert_eq!(texts(&read), texts(&ops));
        // Nobody vanishes by another event.
        assert!(Request::read(&commit_frame(&[Op::Vanish(signed(1, "a note"))])[4..]).is_err());
        let ids = [EventId([1; 32]), EventId([2; 32])];
        let Ok(Request::Remove(read)) = Request::read(&remove_frame(&ids)[4..]) else { panic!() };
        assert_eq!(read, ids);
        assert!(matches!(Request::read(&remove_pending_frame()[4..]), Ok(Request::RemovePending)));
        // Cut off anywhere, it is another request or none.
        for cut in 4..frame.len() {
            if let Ok(Request::Commit(read)) = Request::read(&frame[4..cut]) {
                assert_eq!(texts(&read), texts(&ops[..read.len()]));
            }
        }
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        let refusals =
            [Refusal::Deleted, Refusal::Vanished, Refusal::Superseded, Refusal::Expired, Refusal::Ephemeral];
        let mut outcomes: Vec<Numbered> = refusals.map(|refusal| (Outcome::Refused(refusal), None)).to_vec();
        outcomes.push((Outcome::Stored(Seq(7)), Some(Seq(7))));
        outcomes.push((Outcome::Duplicate, Some(Seq(u64::MAX))));
        let answers = [
            Answer::Committed(outcomes),
            Answer::Committed(Vec::new()),
            Answer::Removed(3),
            Answer::RemovedPending { more: true },
            Answer::Failed("no space".to_owned()),
        ];
        for answer in answers {
            assert_eq!(Answer::read(&answer.frame()[4..]), Ok(answer));
        }
    }

    #[test]
    fn what_is_no_request_is_refused_with_a_reason() {
        let id = commit_frame(&[put("a")])[4..].to_vec();
        let mut wrong_event = id.clone();
        wrong_event[10] = b'x';
        let mut long = id.clone();
        long[3..7].copy_from_slice(&u32::MAX.to_le_bytes());
        let many: Vec<Op> = (0..=EVENTS_MAX).map(|_| put("a")).collect();
        let ids = vec![EventId([0; 32]); IDS_MAX + 1];
        for (frame, why) in [
            (b"".to_vec(), "empty"),
            (b"GET / HTTP/1.1\r\n".to_vec(), "different versions"),
            (vec![VERSION], "empty"),
            (vec![VERSION, 9], "no request 9"),
            (vec![VERSION, REMOVE_PENDING, 0], "no request 3 of 1 bytes"),
            (vec![VERSION, REMOVE, 1], "cut off"),
            (vec![VERSION, COMMIT, 0, 1], "event 0 is cut off"),
            (long, "event 0 is cut off"),
            (wrong_event, "event 0: invalid"),
            (commit_frame(&many)[4..].to_vec(), "more than 512 events"),
            (remove_frame(&ids)[4..].to_vec(), "more than 256 ids"),
        ] {
            let error = Request::read(&frame).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_request_has_as_many_events_as_are_one_step() {
        let ops: Vec<Op> = (0..600).map(|_| put("a")).collect();
        assert_eq!(events_of_request(&ops), EVENTS_MAX);
        let long = "x".repeat(600 << 10);
        assert_eq!(events_of_request(&[put("a"), put(&long), put(&long), put("b")]), 2);
        assert_eq!(events_of_request(&[put(&long.repeat(3)), put("b")]), 1);
    }
}
