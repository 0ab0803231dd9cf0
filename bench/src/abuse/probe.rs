//! The honest client beside an attack.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};

use super::HONEST;
use crate::client::{Connection, Endpoint, Frame};
use crate::generate::{Author, Draft};
use crate::hex;
use crate::stats::micros;

/// Time between two rounds.
const EVERY: Duration = Duration::from_millis(200);

/// Results.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Microseconds from each event to its OK.
    pub(crate) ok: Vec<u32>,
    /// Microseconds from each REQ to its EOSE.
    pub(crate) eose: Vec<u32>,
    /// Rounds without a correct answer.
    pub(crate) failed: u64,
}

/// One connection that publishes an event and queries it, in each round.
pub(crate) struct Probe<'a> {
    endpoint: &'a Endpoint,
    connection: Connection,
    author: [Author; 1],
    events: u64,
}

impl<'a> Probe<'a> {
    pub(crate) fn new(endpoint: &'a Endpoint, seed: u64) -> Result<Self> {
        let connection = endpoint.connect_as(16 << 10, Some(HONEST))?;
        Ok(Probe { endpoint, connection, author: [Author::derive(seed, 1 << 32)], events: 0 })
    }

    /// Runs rounds until `end`. A connection that fails counts as a failed round and is opened again.
    pub(crate) fn run(&mut self, end: Instant) -> Seen {
        let mut seen = Seen::default();
        let mut next = Instant::now();
        while next < end {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            if self.round(&mut seen).is_err() {
                seen.failed += 1;
                if let Ok(connection) = self.endpoint.connect_as(16 << 10, Some(HONEST)) {
                    self.connection = connection;
                }
            }
            next = (next + EVERY).max(Instant::now());
        }
        seen
    }

    fn round(&mut self, seen: &mut Seen) -> Result<()> {
        self.events += 1;
        let created_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let content = format!("probe {}", self.events);
        let draft = Draft { author: 0, created_at, kind: 1, tags: Vec::new(), content };
        let unsigned = draft.finish(&self.author);
        let wanted = unsigned.id;

        let begun = Instant::now();
        self.connection.send(format!("[\"EVENT\",{}]", unsigned.sign(&self.author)))?;
        let mut accepted = false;
        self.connection.read(|text| {
            Ok(match Frame::read(text)? {
                Frame::Ok { id, accepted: verdict, .. } if id == wanted => {
                    accepted = verdict;
                    false
                }
                _ => true,
            })
        })?;
        seen.ok.push(micros(begun.elapsed()));
        if !accepted {
            bail!("an honest event was refused");
        }

        let begun = Instant::now();
        self.connection.send(format!(r#"["REQ","probe",{{"ids":["{}"]}}]"#, hex::encode(&wanted)))?;
        let mut found = false;
        self.connection.read(|text| {
            Ok(match Frame::read(text)? {
                Frame::Event { id, .. } => {
                    found |= id == wanted;
                    true
                }
                Frame::Eose("probe") => false,
                Frame::Closed("probe") => bail!("an honest request was refused"),
                _ => true,
            })
        })?;
        seen.eose.push(micros(begun.elapsed()));
        if !found {
            bail!("an honest event was not found");
        }
        Ok(())
    }
}
