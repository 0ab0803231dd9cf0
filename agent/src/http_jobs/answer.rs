//! What a buyer is told.

use relay_engine::types::PubKey;
use relay_site::HttpResponse;
use serde_json::{Value, json};

use super::progress::head;
use super::{Payment, Progress, Secret, Token};

/// The response to how far a job is. `202`: it goes on, and is to be asked for again with the token.
pub fn answer(secret: &Secret, agent: &PubKey, token: &Token, progress: &Progress) -> HttpResponse {
    match progress {
        Progress::Done { .. } => document(200, &told(secret, agent, token, progress)),
        Progress::Working { .. } => {
            document(202, &told(secret, agent, token, progress)).with("retry-after", "1")
        }
        Progress::PaymentRequired(payment) => {
            let text = secret.write(agent, &paid_by(token, payment));
            let challenge = format!(
                "L402 version=\"0\", token=\"{text}\", macaroon=\"{text}\", invoice=\"{}\"",
                payment.bolt11
            );
            document(402, &told(secret, agent, token, progress)).with("www-authenticate", challenge)
        }
        Progress::Failed(message) => {
            let message = if message.is_empty() { "the agent has failed" } else { message };
            let mut answer = HttpResponse::error(502, message);
            let mut told = told(secret, agent, token, progress);
            told["error"] = message.into();
            answer.body = format!("{told}\n").into();
            answer
        }
    }
}

/// A server-sent event about how far a job is.
pub fn piece(secret: &Secret, agent: &PubKey, token: &Token, progress: &Progress) -> String {
    let name = match progress {
        Progress::Done { .. } => "result",
        Progress::PaymentRequired(_) => "payment-required",
        Progress::Failed(_) => "error",
        Progress::Working { status: Some(status), .. } if status == "partial" => "partial",
        Progress::Working { .. } => "processing",
    };
    format!("event: {name}\ndata: {}\n\n", told(secret, agent, token, progress))
}

/// The head of a stream of server-sent events.
pub fn stream() -> HttpResponse {
    HttpResponse::new(200, "text/event-stream", "").with("cache-control", "no-store")
}

fn document(status: u16, told: &Value) -> HttpResponse {
    HttpResponse::new(status, "application/json", format!("{told}\n")).with("cache-control", "no-store")
}

fn paid_by(token: &Token, payment: &Payment) -> Token {
    Token { payment_hash: Some(payment.payment_hash), ..*token }
}

fn told(secret: &Secret, agent: &PubKey, token: &Token, progress: &Progress) -> Value {
    match progress {
        Progress::Done { event, content } => {
            let mut told = head(token, "success");
            told["result"] = content.as_str().into();
            told["event"] = event.clone();
            told
        }
        Progress::Working { status, content } => {
            let mut told = head(token, status.as_deref().unwrap_or("waiting"));
            told["token"] = secret.write(agent, token).into();
            if !content.is_empty() {
                told["content"] = content.as_str().into();
            }
            told
        }
        Progress::PaymentRequired(payment) => {
            let mut told = head(token, "payment-required");
            told["token"] = secret.write(agent, &paid_by(token, payment)).into();
            told["amount_msat"] = payment.msat.into();
            told["invoice"] = payment.bolt11.as_str().into();
            told["payment_hash"] = json!(faster_hex::hex_string(&payment.payment_hash));
            if !payment.content.is_empty() {
                told["content"] = payment.content.as_str().into();
            }
            told
        }
        Progress::Failed(message) => {
            let mut told = head(token, "error");
            told["error"] = message.as_str().into();
            told
        }
    }
}
