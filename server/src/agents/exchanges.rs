//! Asking remote signers (NIP-46) and wallets (NIP-47) on their relays. If one of them is this relay, no socket is opened.

use relay_agent::exchange::{Answers, Frames, is_same_relay};
use relay_engine::relay::PublishOutcome;
use relay_engine::types::Event;

use super::agent_task::send_all;
use super::runtime::AgentRuntime;
use crate::handle::{Item, RelayHandle};

/// Asks on all relays at once, and calls `tell` for each event that comes. Returns when no relay is left, with the error of the last one in
/// the list; the caller aborts it when it has its answer.
pub(super) async fn ask(
    runtime: &AgentRuntime,
    relays: &[String],
    answers: &Answers,
    requests: &[Event],
    tell: impl Fn(Event),
) -> String {
    let asked = relays.iter().map(|relay| {
        let tell = &tell;
        async move {
            let why = if runtime.relay_url.as_ref().is_some_and(|own| is_same_relay(own, relay)) {
                ask_here(&runtime.handle, answers, requests, tell).await
            } else {
                let asked = runtime.relays.ask(relay, answers, requests, tell).await;
                asked.err().map_or_else(String::new, |error| error.to_string())
            };
            format!("{relay}: {why}")
        }
    });
    futures_util::future::join_all(asked).await.pop().unwrap_or_default()
}

async fn ask_here(
    handle: &RelayHandle,
    answers: &Answers,
    requests: &[Event],
    tell: impl Fn(Event),
) -> String {
    let mut stream = match handle.open_stream(answers.filters(), None).await {
        Ok(stream) => stream,
        Err(error) => return error.to_string(),
    };
    let mut frames = Frames::new(answers, requests.len());
    // What is stored, as other relays send it before what is live.
    for filter in answers.filters() {
        let stored = match handle.query_public(filter) {
            Ok(stored) => stored,
            Err(error) => return error.to_string(),
        };
        for event in stored {
            match frames.take(event) {
                Ok(event) => tell(event),
                Err(why) => return why,
            }
        }
    }
    let mut refused = Vec::new();
    for outcome in send_all(handle, requests.to_vec()) {
        match outcome.await {
            Ok(PublishOutcome::Forged(why) | PublishOutcome::Refused(why) | PublishOutcome::Failed(why)) => {
                refused.push(why)
            }
            Ok(_) => {}
            Err(_) => return "the relay is stopping".to_owned(),
        }
    }
    if let Some(why) = refused.pop().filter(|_| refused.len() + 1 == requests.len()) {
        return why;
    }
    while let Some(item) = stream.next().await {
        let Item::Event(_, event) = item else { continue };
        match frames.take(event) {
            Ok(event) => tell(event),
            Err(why) => return why,
        }
    }
    "the relay is stopping".to_owned()
}
