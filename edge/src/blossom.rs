//! What the Worker and the Blossom object say to each other: commands of the index, its answers, and events of the relay.

use relay_blossom::index::SignedEvent;
use relay_blossom::{Command, Outcome};
use relay_engine::sql::StoreError;
use serde::{Deserialize, Serialize};

use crate::settings::ConsumerSettings;

/// The binding of `BlossomDurableObject`.
pub const BLOSSOM: &str = "BLOSSOM";
/// The name of its one object.
pub const OBJECT: &str = "blossom";
/// Where the object takes a command: a POST with its JSON.
pub const COMMAND_PATH: &str = "/command";
/// Where it takes events, as every consumer does.
pub const EVENTS_PATH: &str = "/events";
/// Kinds that it acts on: deletion, vanishing, file metadata.
pub const KINDS: [u16; 3] = [5, 62, 1063];

/// The object as a consumer of the relay's events.
pub fn consumer() -> ConsumerSettings {
    ConsumerSettings {
        binding: BLOSSOM.to_owned(),
        object: OBJECT.to_owned(),
        filters: vec![serde_json::json!({ "kinds": KINDS })],
    }
}

/// What became of a command.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
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
        Ok(outcome) => Answer::Ok(outcome),
        Err(StoreError::Full(what)) => Answer::Full(what),
        Err(StoreError::Failed(what)) => Answer::Failed(what),
        Err(StoreError::Corrupt(what)) => Answer::Corrupt(what),
    };
    serde_json::to_vec(&answer).unwrap_or_default()
}

/// Reads what became of a command.
///
/// # Errors
/// That of the index, or if the answer is none.
pub fn decode_outcome(body: &[u8]) -> Result<Outcome, StoreError> {
    match serde_json::from_slice(body) {
        Ok(Answer::Ok(outcome)) => Ok(outcome),
        Ok(Answer::Full(what)) => Err(StoreError::Full(what)),
        Ok(Answer::Failed(what)) => Err(StoreError::Failed(what)),
        Ok(Answer::Corrupt(what)) => Err(StoreError::Corrupt(what)),
        Err(error) => Err(StoreError::Failed(error.to_string())),
    }
}

/// A line of a batch for a consumer.
#[derive(Deserialize)]
struct Line {
    seq: Option<u64>,
    event: SignedEvent,
}

/// The commands for a batch of events.
///
/// # Errors
/// If a line is malformed.
pub fn decode_events(body: &[u8]) -> Result<Vec<Command>, String> {
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut commands = Vec::new();
    for line in lines {
        let Line { seq, event } = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        commands.extend(seq.map(|seq| Command::Apply(event, seq)));
    }
    Ok(commands)
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

    #[test]
    fn stored_events_become_commands() {
        let event =
            r#"{"id":"a","pubkey":"b","kind":5,"created_at":9,"tags":[["e","c"]],"content":"","sig":"d"}"#;
        let body = format!("{{\"seq\":7,\"event\":{event}}}\n{{\"seq\":null,\"event\":{event}}}\n");
        let commands = decode_events(body.as_bytes()).unwrap();
        let [Command::Apply(event, 7)] = commands.as_slice() else { panic!("{commands:?}") };
        assert_eq!((event.kind, event.tags[0][1].as_str()), (5, "c"));
        assert!(decode_events(b"{}").is_err());
    }
}
