//! Watching a job as a client of the relay, for hosts that have the relay at the other end of a WebSocket.

use relay_engine::types::{Event, PubKey};
use relay_engine::wire;
use relay_site::HttpResponse;
use serde_json::{Value, json};

use super::progress::result_of;
use super::{Progress, Token};
use crate::nip90::KIND_FEEDBACK;

const EVENT_HEAD: &str = "[\"EVENT\",\"job\",";

/// What is to be done after a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Send this message.
    Send(String),
    /// So far is the job now.
    Progress(Progress),
    /// The relay refuses.
    Refused(HttpResponse),
}

/// Publishes a request, or takes up an earlier one, and reads what the agent says about it.
#[derive(Debug)]
pub struct Conversation {
    agent: PubKey,
    token: Token,
    request: Option<Event>,
    /// Stored events, newest first, until all have come.
    stored: Option<Vec<Event>>,
}

impl Conversation {
    /// About the job of this token; `request` is published first.
    pub fn new(agent: PubKey, token: Token, request: Option<Event>) -> Self {
        Conversation { agent, token, request, stored: Some(Vec::new()) }
    }

    /// The first message.
    pub fn begin(&self) -> String {
        match &self.request {
            Some(request) => format!("[\"EVENT\",{}]", String::from_utf8_lossy(request.json())),
            None => self.ask(),
        }
    }

    fn ask(&self) -> String {
        let filter = |kind, limit| {
            json!({
                "authors": [self.agent.to_string()],
                "kinds": [kind],
                "#e": [self.token.request.to_string()],
                "limit": limit,
            })
        };
        let filters = [filter(result_of(&self.token), 1), filter(KIND_FEEDBACK, 16)];
        json!(["REQ", "job", filters[0], filters[1]]).to_string()
    }

    /// A message of the relay.
    pub fn handle(&mut self, text: &str) -> Step {
        if let Some(event) = text.strip_prefix(EVENT_HEAD).and_then(|rest| rest.trim_end().strip_suffix(']'))
        {
            return self.handle_event(event);
        }
        let Ok(Value::Array(frame)) = serde_json::from_str::<Value>(text) else { return Step::Nothing };
        let field = |at: usize| frame.get(at).and_then(Value::as_str).unwrap_or_default();
        match (field(0), &self.request) {
            ("OK", Some(request)) if field(1) == request.id.to_string() => {
                if frame.get(2) != Some(&Value::Bool(true)) {
                    return Step::Refused(refused(field(3)));
                }
                self.request = None;
                Step::Send(self.ask())
            }
            ("EOSE", _) if field(1) == "job" => match self.stored.take() {
                Some(stored) => {
                    let result = stored.iter().find(|event| event.kind == result_of(&self.token));
                    let feedback: Vec<Event> =
                        stored.iter().filter(|event| event.kind == KIND_FEEDBACK).cloned().collect();
                    Step::Progress(Progress::of(&self.token, result, &feedback))
                }
                None => Step::Nothing,
            },
            ("CLOSED", _) if field(1) == "job" => Step::Refused(refused(field(2))),
            _ => Step::Nothing,
        }
    }

    fn handle_event(&mut self, json: &str) -> Step {
        let Ok(raw) = wire::parse_event(json.as_bytes()) else { return Step::Nothing };
        let event = raw.to_event();
        match &mut self.stored {
            Some(stored) => {
                stored.push(event);
                Step::Nothing
            }
            None => Step::Progress(Progress::of_event(&self.token, &event)),
        }
    }
}

/// A refusal of the relay, by the prefix of NIP-01.
fn refused(message: &str) -> HttpResponse {
    let status = match message.split(':').next() {
        Some("rate-limited") => 429,
        Some("error") => 503,
        Some("auth-required" | "restricted") => 403,
        _ => 400,
    };
    HttpResponse::error(status, if message.is_empty() { "the relay refuses the request" } else { message })
}

#[cfg(test)]
mod tests {
    use relay_engine::testing::signing::{Signed, event, key};
    use relay_engine::types::EventId;

    use super::*;

    fn request() -> Event {
        as_event(&event(&key(7)).kind(5050).at(1_000).sign())
    }

    fn as_event(signed: &Signed) -> Event {
        wire::parse_event(signed.json().as_bytes()).unwrap().to_event()
    }

    fn token(request: &Event) -> Token {
        Token { kind: 5050, created_at: 1_000, request: request.id, payment_hash: None }
    }

    fn feedback(status: &str, at: u64, content: &str) -> String {
        let signed = event(&key(1)).kind(7000).at(at).tag(["status", status]).content(content).sign();
        format!("[\"EVENT\",\"job\",{}]", signed.json())
    }

    fn working(status: &str) -> Step {
        Step::Progress(Progress::Working { status: Some(status.to_owned()), content: String::new() })
    }

    #[test]
    fn a_request_is_published_and_its_answers_are_read() {
        let request = request();
        let mut conversation = Conversation::new(PubKey([1; 32]), token(&request), Some(request.clone()));
        assert!(conversation.begin().starts_with("[\"EVENT\",{\"id\":"));
        assert_eq!(conversation.handle(r#"["AUTH","challenge"]"#), Step::Nothing);
        assert_eq!(
            conversation.handle(&format!("[\"OK\",\"{}\",true,\"\"]", EventId([9; 32]))),
            Step::Nothing
        );
        let Step::Send(req) = conversation.handle(&format!("[\"OK\",\"{}\",true,\"\"]", request.id)) else {
            panic!("it asks")
        };
        assert!(
            req.contains("[6050]") && req.contains("[7000]") && req.contains(&request.id.to_string()),
            "{req}"
        );
        // Stored ones count together, whatever their order.
        assert_eq!(conversation.handle(&feedback("partial", 1_003, "")), Step::Nothing);
        assert_eq!(conversation.handle(&feedback("processing", 1_002, "")), Step::Nothing);
        assert_eq!(conversation.handle(r#"["EOSE","job"]"#), working("partial"));
        assert_eq!(conversation.handle(&feedback("processing", 1_004, "")), working("processing"));
        assert_eq!(
            conversation.handle(&feedback("error", 1_005, "broken")),
            Step::Progress(Progress::Failed("broken".into()))
        );
        let result = event(&key(1)).kind(6050).at(1_006).content("done").sign();
        let step = conversation.handle(&format!("[\"EVENT\",\"job\",{}]", result.json()));
        assert!(matches!(step, Step::Progress(Progress::Done { content, .. }) if content == "done"));
    }

    #[test]
    fn refusals_have_their_status() {
        for (message, status) in [
            ("blocked: no", 400),
            ("rate-limited: slow", 429),
            ("auth-required: who", 403),
            ("error: disk", 503),
        ] {
            let request = request();
            let mut conversation = Conversation::new(PubKey([1; 32]), token(&request), Some(request.clone()));
            let step = conversation.handle(&format!("[\"OK\",\"{}\",false,\"{message}\"]", request.id));
            assert!(matches!(step, Step::Refused(answer) if answer.status == status), "{message}");
            let mut conversation = Conversation::new(PubKey([1; 32]), token(&request), None);
            assert!(conversation.begin().starts_with("[\"REQ\",\"job\","));
            let step = conversation.handle(&format!("[\"CLOSED\",\"job\",\"{message}\"]"));
            assert!(matches!(step, Step::Refused(answer) if answer.status == status), "{message}");
        }
    }
}
