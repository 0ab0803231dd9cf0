//! A remote signer (NIP-46) that does as the test says.

use relay_agent::cipher::{self, Cipher};
use relay_agent::identity::{Draft, Keys};
use relay_agent::testing::Customer;
use relay_engine::types::{Event, PubKey};
use serde_json::{Value, json};

use crate::world::{START, owner};

/// Who signs: the agent's key, and another one by which it is reached.
pub(crate) struct Bunker {
    pub(crate) user: Keys,
    itself: Keys,
    /// Requests that it was sent, by method, repeated ones too.
    pub(crate) asked: Vec<String>,
    /// Answers that it gave, to be repeated.
    pub(crate) given: Vec<Event>,
    /// What it does with each request.
    pub(crate) manner: Manner,
    /// Ids of events that it has signed.
    pub(crate) signed: Vec<String>,
    client: Option<PubKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Willing,
    Silent,
    /// It knows its client, and ignores whoever connects by a secret that has been used.
    SilentToConnect,
    /// It refuses events of this kind.
    Refusing(u16),
    /// It signs by another key.
    ForAnother,
    /// It says that it has another key.
    SaysAnother,
    /// It changes the time of what it signs.
    Redating,
    /// Each answer comes twice.
    Twice,
    /// Its user has to agree first.
    Consent,
    RefusingToDecrypt,
}

impl Bunker {
    pub(crate) fn new() -> Self {
        let (user, itself) = (Customer::new(50).keys, Customer::new(51).keys);
        let (asked, given, signed) = Default::default();
        Bunker { user, itself, asked, given, manner: Manner::Willing, signed, client: None }
    }

    pub(crate) fn url(&self) -> String {
        format!("bunker://{}?relay=wss%3A%2F%2Fsigner.example&secret=s3", self.itself.pubkey())
    }

    /// What it answers to a request, in order.
    pub(crate) fn answer(&mut self, request: &Event) -> Vec<Event> {
        let client = *self.client.get_or_insert(request.pubkey);
        assert_eq!(request.pubkey, client, "one client, also after a restart");
        assert_eq!(request.kind, 24_133);
        let content = Draft::of(request).content;
        let (used, text) = cipher::decrypt(&self.itself, &request.pubkey, &content).expect("for the signer");
        assert_eq!(used, Cipher::Nip44);
        let call: Value = serde_json::from_str(&text).unwrap();
        let params: Vec<String> = serde_json::from_value(call["params"].clone()).unwrap();
        let method = call["method"].as_str().unwrap().to_owned();
        self.asked.push(method.clone());
        let is_ignored =
            self.manner == Manner::Silent || (method == "connect" && self.manner == Manner::SilentToConnect);
        if is_ignored {
            return Vec::new();
        }
        if self.manner == Manner::Consent && method == "sign_event" {
            let url = json!({"id": call["id"], "result": "auth_url", "error": "https://signer.example/ok"});
            return vec![self.write(&request.pubkey, &url)];
        }
        let answer = match self.call(&method, &params) {
            Ok(result) => json!({"id": call["id"], "result": result}),
            Err(message) => json!({"id": call["id"], "result": null, "error": message}),
        };
        let answer = self.write(&request.pubkey, &answer);
        self.given.push(answer.clone());
        vec![answer; if self.manner == Manner::Twice { 2 } else { 1 }]
    }

    fn write(&self, to: &PubKey, answer: &Value) -> Event {
        let text = answer.to_string();
        let content = cipher::encrypt(Cipher::Nip44, &self.itself, to, &text, [9; 32]).unwrap();
        let tags = vec![vec!["p".to_owned(), to.to_string()]];
        self.itself.sign(&Draft { created_at: START, kind: 24_133, tags, content })
    }

    fn call(&mut self, method: &str, params: &[String]) -> Result<String, &'static str> {
        let cipher = if method.starts_with("nip44") { Cipher::Nip44 } else { Cipher::Nip04 };
        match method {
            "connect" => {
                assert_eq!(params[..2], [self.itself.pubkey().to_string(), "s3".to_owned()]);
                Ok("ack".to_owned())
            }
            "get_public_key" if self.manner == Manner::SaysAnother => Ok(owner().to_string()),
            "get_public_key" => Ok(self.user.pubkey().to_string()),
            "sign_event" => self.sign(&params[0]),
            "nip44_encrypt" | "nip04_encrypt" => {
                let peer: PubKey = params[0].parse().unwrap();
                Ok(cipher::encrypt(cipher, &self.user, &peer, &params[1], [8; 32]).unwrap())
            }
            "nip44_decrypt" | "nip04_decrypt" if self.manner == Manner::RefusingToDecrypt => Err("no"),
            "nip44_decrypt" | "nip04_decrypt" => {
                let (used, text) =
                    cipher::decrypt(&self.user, &params[0].parse().unwrap(), &params[1]).map_err(|_| "no")?;
                assert_eq!(used, cipher);
                Ok(text)
            }
            _ => Err("unknown method"),
        }
    }

    fn sign(&mut self, event: &str) -> Result<String, &'static str> {
        let event: Value = serde_json::from_str(event).unwrap();
        assert_eq!(event["pubkey"], self.user.pubkey().to_string());
        let mut draft = Draft {
            created_at: event["created_at"].as_u64().unwrap(),
            kind: event["kind"].as_u64().unwrap() as u16,
            tags: serde_json::from_value(event["tags"].clone()).unwrap(),
            content: event["content"].as_str().unwrap().to_owned(),
        };
        if self.manner == Manner::Refusing(draft.kind) {
            return Err("not this kind");
        }
        if self.manner == Manner::Redating {
            draft.created_at += 1;
        }
        let keys = if self.manner == Manner::ForAnother { &self.itself } else { &self.user };
        let signed = keys.sign(&draft);
        self.signed.push(signed.id.to_string());
        Ok(String::from_utf8(signed.json().to_vec()).unwrap())
    }
}
