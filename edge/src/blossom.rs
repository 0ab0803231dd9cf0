//! What the Worker and the Blossom object say to each other: commands of the index, its answers, and events of the relay.

mod bucket_scan;
mod object;

use std::collections::HashMap;

use relay_blossom::index::{EVENT_KINDS, RelayEvent};
use relay_blossom::{Command, Outcome, Sha256};
use relay_engine::policy::names_relay;
use relay_engine::sql::StoreError;
use relay_engine::wire;
use serde::{Deserialize, Serialize};

pub use self::bucket_scan::{BucketScan, PAGE_KEYS};
pub use self::object::{BlobIndex, BlossomHost, BlossomObject, KeyPage};
use crate::settings::ConsumerSettings;

/// The binding of `BlossomDurableObject`.
pub const BLOSSOM: &str = "BLOSSOM";
/// The name of its one object.
pub const OBJECT: &str = "blossom";
/// Where the object takes a command: a POST with its JSON.
pub const COMMAND_PATH: &str = "/command";
/// Where it takes events, as every consumer does.
pub const EVENTS_PATH: &str = "/events";
/// Where it takes the event that has signed an administrator's request, and marks it as used: a POST with
/// [`SignedBy`](crate::used_auth_events::SignedBy).
pub const USE_PATH: &str = "/use";

/// The object as a consumer of the relay's events.
pub fn consumer() -> ConsumerSettings {
    ConsumerSettings {
        binding: BLOSSOM.to_owned(),
        object: OBJECT.to_owned(),
        filters: vec![serde_json::json!({ "kinds": EVENT_KINDS })],
        replay: None,
    }
}

/// What became of a command.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum IndexReply {
    Ok(Outcome),
    Full(String),
    Failed(String),
    Corrupt(String),
}

/// A command in JSON.
///
/// # Errors
/// If it is none.
pub fn decode_command(body: &[u8]) -> Result<Command, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

/// A command as JSON.
pub fn encode_command(command: &Command) -> Vec<u8> {
    serde_json::to_vec(command).unwrap_or_default()
}

/// What became of a command, as JSON.
pub fn encode_outcome(outcome: Result<Outcome, StoreError>) -> Vec<u8> {
    let answer = match outcome {
        Ok(outcome) => IndexReply::Ok(outcome),
        Err(StoreError::Full(what)) => IndexReply::Full(what),
        Err(StoreError::Failed(what)) => IndexReply::Failed(what),
        Err(StoreError::Corrupt(what)) => IndexReply::Corrupt(what),
    };
    serde_json::to_vec(&answer).unwrap_or_default()
}

/// Reads what became of a command.
///
/// # Errors
/// That of the index, or if the answer is none.
pub fn decode_outcome(body: &[u8]) -> Result<Outcome, StoreError> {
    match serde_json::from_slice(body) {
        Ok(IndexReply::Ok(outcome)) => Ok(outcome),
        Ok(IndexReply::Full(what)) => Err(StoreError::Full(what)),
        Ok(IndexReply::Failed(what)) => Err(StoreError::Failed(what)),
        Ok(IndexReply::Corrupt(what)) => Err(StoreError::Corrupt(what)),
        Err(error) => Err(StoreError::Failed(error.to_string())),
    }
}

/// A line of a batch for a consumer.
#[derive(Deserialize)]
struct Line {
    seq: Option<u64>,
    event: serde_json::Value,
}

/// The commands for a batch of events; `relay_url` is the relay's URL, which requests to vanish name. Events that do
/// not concern the index become no command.
///
/// # Errors
/// If a line is malformed.
pub fn decode_events(body: &[u8], relay_url: Option<&str>) -> Result<Vec<Command>, String> {
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut commands = Vec::new();
    for line in lines {
        let Line { seq, event } = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let event = event.to_string();
        let event = wire::parse_event(event.as_bytes()).map_err(|error| error.to_string())?.to_event();
        let Some(seq) = seq else { continue };
        commands.extend(
            RelayEvent::of_relay(&event, |event| names_relay(event, relay_url))
                .map(|event| Command::Apply(event, seq)),
        );
    }
    Ok(commands)
}

/// Downloads that have been reported to the index: of each blob one an hour.
#[derive(Debug, Default)]
pub struct ReportedDownloads(HashMap<Sha256, u64>);

impl ReportedDownloads {
    /// Blobs that are remembered. If there are more, some are reported again, which the index ignores.
    const BLOBS_MAX: usize = 10_000;
    const SECONDS: u64 = 3_600;

    /// Whether this download is to be reported to the index, at Unix seconds `now`.
    pub fn is_due(&mut self, blob: Sha256, now: u64) -> bool {
        if self.0.get(&blob).is_some_and(|at| now.saturating_sub(*at) < Self::SECONDS) {
            return false;
        }
        if self.0.len() >= Self::BLOBS_MAX {
            self.0.retain(|_, at| now.saturating_sub(*at) < Self::SECONDS);
        }
        if self.0.len() >= Self::BLOBS_MAX {
            self.0.clear();
        }
        self.0.insert(blob, now);
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn outcomes_and_errors_travel() {
        for outcome in [
            Ok(Outcome::Done),
            Ok(Outcome::Begun { upload: 7, key: "k".into() }),
            Err(StoreError::Full("f".into())),
            Err(StoreError::Failed("g".into())),
            Err(StoreError::Corrupt("h".into())),
        ] {
            assert_eq!(decode_outcome(&encode_outcome(outcome.clone())), outcome);
        }
        assert!(decode_outcome(b"nonsense").is_err());
        let command = Command::Abort { upload: 3 };
        assert_eq!(decode_command(&encode_command(&command)), Ok(command));
    }
}
