//! What a buyer asks for, as JSON.

use relay_engine::types::{Event, PubKey, Timestamp};
use relay_engine::wire;
use relay_site::HttpResponse;
use serde::Deserialize;

use super::JOB_SECONDS;
use crate::identity::Draft;
use crate::nip90::{INPUTS_MAX, PARAMS_MAX, is_request};

/// The body of `POST /agent/{npub}/jobs`.
///
/// ```json
/// { "kind": 5050, "input": "Say hello in Polish", "params": { "temperature": 0.2 }, "output": "text/plain", "max_msat": 20000 }
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Kind of the job request, 5000 to 5999.
    pub kind: u16,
    /// One input of type `text`.
    #[serde(default)]
    input: Option<String>,
    /// Inputs with their types.
    #[serde(default)]
    inputs: Vec<Input>,
    /// Parameters; numbers and booleans are written as text.
    #[serde(default)]
    params: serde_json::Map<String, serde_json::Value>,
    /// MIME type that is wanted.
    #[serde(default)]
    output: Option<String>,
    /// The most that the buyer pays, in millisatoshis.
    #[serde(default)]
    max_msat: Option<u64>,
}

/// An input (`i` of NIP-90).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    data: String,
    #[serde(default, rename = "type")]
    kind: InputType,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum InputType {
    #[default]
    Text,
    Url,
    Event,
    Job,
}

impl InputType {
    fn name(self) -> &'static str {
        match self {
            InputType::Text => "text",
            InputType::Url => "url",
            InputType::Event => "event",
            InputType::Job => "job",
        }
    }
}

/// A body of `POST /agent/{npub}/jobs`.
#[derive(Clone, Debug)]
pub enum Body {
    /// An order, for which a key is made.
    Order(Order),
    /// A job request that the buyer has signed, whose signature is not checked yet.
    Signed(Event),
}

impl Body {
    /// Reads a body. A JSON object with `sig` is an event.
    ///
    /// # Errors
    /// 400 with the field.
    pub fn parse(body: &[u8], agent: &PubKey) -> Result<Self, HttpResponse> {
        let is_event =
            serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|json| json.get("sig").is_some());
        if !is_event {
            return Order::parse(body).map(Body::Order);
        }
        let raw = wire::parse_event(body);
        let event = raw.map_err(|error| HttpResponse::error_in(400, "body", &error.to_string()))?.to_event();
        let agent = agent.to_string();
        if !is_request(event.kind) {
            return Err(HttpResponse::error_in(400, "kind", NOT_A_REQUEST));
        }
        if !event.tags().named(b"p").any(|tag| tag.value().as_deref() == Some(agent.as_bytes())) {
            return Err(HttpResponse::error_in(400, "tags", "must name the agent (p)"));
        }
        Ok(Body::Signed(event))
    }
}

const NOT_A_REQUEST: &str = "must be the kind of a job request, 5000 to 5999";

impl Order {
    /// Reads an order.
    ///
    /// # Errors
    /// 400 with the field.
    pub fn parse(body: &[u8]) -> Result<Self, HttpResponse> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let order: Order = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." { "body" } else { &path };
            HttpResponse::error_in(400, field, &error.inner().to_string())
        })?;
        json.end().map_err(|_| HttpResponse::error_in(400, "body", "something follows the order"))?;
        order.check()?;
        Ok(order)
    }

    fn check(&self) -> Result<(), HttpResponse> {
        let wrong = |field, message: &str| Err(HttpResponse::error_in(400, field, message));
        if !is_request(self.kind) {
            return wrong("kind", NOT_A_REQUEST);
        }
        if self.input.is_some() && !self.inputs.is_empty() {
            return wrong("input", "is there beside inputs");
        }
        if self.inputs.len() > INPUTS_MAX {
            return wrong("inputs", &format!("there may be {INPUTS_MAX}"));
        }
        if self.params.len() > PARAMS_MAX {
            return wrong("params", &format!("there may be {PARAMS_MAX}"));
        }
        match self.params.values().find(|value| value.is_array() || value.is_object() || value.is_null()) {
            Some(_) => wrong("params", "must be texts, numbers or booleans"),
            None => Ok(()),
        }
    }

    /// The job request for agent `agent`, not signed.
    pub fn draft(&self, agent: &PubKey, created_at: Timestamp) -> Draft {
        let tag = |fields: &[&str]| fields.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>();
        let mut tags = Vec::new();
        if let Some(text) = &self.input {
            tags.push(tag(&["i", text, "text"]));
        }
        tags.extend(self.inputs.iter().map(|input| tag(&["i", &input.data, input.kind.name()])));
        for (name, value) in &self.params {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            tags.push(tag(&["param", name, &text]));
        }
        if let Some(output) = &self.output {
            tags.push(tag(&["output", output]));
        }
        if let Some(msat) = self.max_msat {
            tags.push(tag(&["bid", &msat.to_string()]));
        }
        tags.push(tag(&["p", &agent.to_string()]));
        tags.push(tag(&["expiration", &(created_at + JOB_SECONDS).to_string()]));
        Draft { created_at, kind: self.kind, tags, content: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_becomes_a_request() {
        let order = br#"{"kind":5050,"inputs":[{"data":"hello"},{"data":"https://example.com","type":"url"}],
            "params":{"temperature":0.5,"model":"small","stream":true},"output":"text/plain","max_msat":1000}"#;
        let draft = Order::parse(order).unwrap().draft(&PubKey([7; 32]), 1_000);
        let tags: Vec<String> = draft.tags.iter().map(|tag| tag.join(" ")).collect();
        let agent = PubKey([7; 32]).to_string();
        assert_eq!(
            tags,
            [
                "i hello text",
                "i https://example.com url",
                "param model small",
                "param stream true",
                "param temperature 0.5",
                "output text/plain",
                "bid 1000",
                &format!("p {agent}"),
                "expiration 87400",
            ]
        );
        assert_eq!((draft.kind, draft.content.as_str()), (5050, ""));
        let draft = Order::parse(br#"{"kind":5050,"input":"hello"}"#).unwrap().draft(&PubKey([7; 32]), 1_000);
        assert_eq!(draft.tags[0], ["i", "hello", "text"]);
    }

    #[test]
    fn what_is_no_order_is_named() {
        for (body, field, words) in [
            ("", "body", "EOF"),
            ("[]", "body", "invalid"),
            ("{}", "body", "missing field `kind`"),
            (r#"{"kind":1}"#, "kind", "5000 to 5999"),
            (r#"{"kind":6000}"#, "kind", "5000 to 5999"),
            (r#"{"kind":5050} x"#, "body", "follows"),
            (r#"{"kind":5050,"prompt":"x"}"#, "prompt", "unknown field"),
            (r#"{"kind":5050,"inputs":[{"data":"x","type":"file"}]}"#, "inputs[0].type", "unknown variant"),
            (r#"{"kind":5050,"input":"x","inputs":[{"data":"y"}]}"#, "input", "beside inputs"),
            (r#"{"kind":5050,"params":{"a":[1]}}"#, "params", "texts, numbers or booleans"),
            (r#"{"kind":5050,"max_msat":-1}"#, "max_msat", "invalid value"),
        ] {
            let answer = Order::parse(body.as_bytes()).unwrap_err();
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!(answer.status, 400, "{body}");
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["field"], field, "{body}: {text}");
            assert!(json["error"].as_str().unwrap().contains(words), "{body}: {text}");
        }
    }
}
