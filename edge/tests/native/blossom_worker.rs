//! A Worker that answers a client's request: it carries out the steps of an exchange with the bucket and the object, as
//! `src/worker/blossom` does.

use std::rc::Rc;

use bytes::Bytes;
use relay_blossom::exchange::{
    Context, Exchange, Head, Input, Keys, Receive, Received, Response, Step, StepError, path_param,
};
use relay_blossom::index::Part;
use relay_blossom::testing::Request;
use relay_blossom::{Blob, Command, Outcome, Sha256};
use relay_edge::blossom::decode_outcome;
use relay_engine::verify::Libsecp256k1;
use relay_site::blossom::BlossomSettings;
use relay_site::nip98::ServerUrl;
use relay_site::{FEATURES, Route, Table};
use sha2::{Digest as _, Sha256 as Hasher};

use super::blossom_bucket::{self as bucket, Condition, Given, Object, Operation};
use super::blossom_world::Shared;

pub(super) const URL: &str = "https://relay.test";
/// Seconds until an upload counts as abandoned.
const UPLOAD_SECONDS_MAX: u64 = 1_200;

/// Answers a request.
pub(super) async fn answer(shared: Rc<Shared>, settings: Rc<BlossomSettings>, request: Request) -> Response {
    let table = Table::new(FEATURES, |route| matches!(route, Route::Blossom(_)));
    let path = request.target.split('?').next().unwrap_or_default();
    let headers: Vec<(&str, &str)> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let found = table.find(&request.method, path, headers.as_slice());
    let Ok(endpoint) = &found.endpoint else { panic!("{request:?}") };
    let Route::Blossom(route) = endpoint.route else { panic!("{request:?}") };
    let head = Head {
        route,
        method: request.method.clone(),
        path_and_query: request.target.clone(),
        param: path_param(&found),
        headers: request.headers.clone(),
    };
    let mut worker = Worker { shared, body: request.body };
    let (mut exchange, mut step) = Exchange::begin(&context(&settings, worker.shared.now.get()), head);
    loop {
        let input = match step {
            Step::Respond(response) => return response,
            step => worker.carry_out(step).await,
        };
        step = exchange.resume(&context(&settings, worker.shared.now.get()), input);
    }
}

fn context(settings: &BlossomSettings, now: u64) -> Context<'_> {
    Context {
        settings,
        keys: Keys { admins: &[], allowed: None, denied: &[] },
        base_url: URL,
        origin: ServerUrl::Url(URL),
        name: "Test",
        is_local: true,
        processes_media: false,
        upload_seconds_max: UPLOAD_SECONDS_MAX,
        now,
        verifier: &Libsecp256k1,
    }
}

struct Worker {
    shared: Rc<Shared>,
    /// What the client sends.
    body: Bytes,
}

fn failed(error: String) -> StepError {
    if error.contains("10037") { StepError::WrongHash } else { StepError::Store(error) }
}

impl Worker {
    async fn carry_out(&mut self, step: Step) -> Input {
        let done = match step {
            Step::Ask(Command::Get(sha256)) => self.find(sha256).await.map(Input::Answered),
            Step::Ask(command) => self.ask(&command).await.map(Input::Answered),
            Step::Receive(receive) => self.receive(&receive).await.map(Input::Received),
            Step::Promote { from, to, mime, expires_at } => {
                self.promote(&from, &to, mime, expires_at).await.map(Input::Received)
            }
            Step::Join { parts, receive } => self.join(&parts, &receive).await.map(Input::Received),
            Step::Discard(key) => self.bucket(Operation::Delete(vec![key])).await.map(|_| Input::Done),
            other => panic!("{other:?}"),
        };
        done.unwrap_or_else(Input::Failed)
    }

    async fn bucket(&self, operation: Operation) -> Result<Given, StepError> {
        self.shared.bucket(operation).await.map_err(failed)
    }

    async fn object(&self, key: &str) -> Result<Option<Object>, StepError> {
        bucket::object(&self.shared.bucket, self.shared.now.get(), key).await.map_err(failed)
    }

    async fn ask(&self, command: &Command) -> Result<Outcome, StepError> {
        let reply = self.shared.command(command).await.map_err(StepError::Store)?;
        decode_outcome(&reply).map_err(|error| StepError::Store(error.to_string()))
    }

    /// Finds a blob in the bucket, without the index.
    async fn find(&self, sha256: Sha256) -> Result<Outcome, StepError> {
        let object = self.object(&sha256.to_string()).await?;
        Ok(object.map_or(Outcome::Missing, |object| {
            Outcome::Blob(Blob {
                sha256,
                size: object.bytes.len() as u64,
                mime: object.mime,
                uploaded: object.uploaded.unwrap_or(object.stored),
                expires_at: object.expires_at,
                media: None,
            })
        }))
    }

    async fn receive(&self, receive: &Receive) -> Result<Received, StepError> {
        if self.shared.one_in(12) {
            // The client leaves.
            return Err(StepError::Incomplete);
        }
        self.put(self.body.clone(), receive, StepError::Raced).await
    }

    /// Stores bytes; `kept`: what it is if there are others already.
    async fn put(&self, bytes: Bytes, receive: &Receive, kept: StepError) -> Result<Received, StepError> {
        match self.store(bytes, receive).await? {
            (received, true) => Ok(received),
            (..) => Err(kept),
        }
    }

    /// Whether it has stored them, or there were others already.
    async fn store(&self, bytes: Bytes, receive: &Receive) -> Result<(Received, bool), StepError> {
        let size = bytes.len() as u64;
        let hash = Sha256(Hasher::digest(&bytes).into());
        let received = |first: Bytes| Received {
            sha256: hash,
            size,
            first,
            mime: None,
            kept_mime: None,
            uploaded: None,
        };
        if receive.only_hash {
            return match receive.sha256 {
                Some(expected) if expected != hash => Err(StepError::WrongHash),
                _ => Ok((received(Bytes::new()), true)),
            };
        }
        if receive.length.is_some_and(|length| length != size) {
            return Err(StepError::Incomplete);
        }
        let condition = if receive.sha256.is_some() { Condition::Absent } else { Condition::Always };
        let object = Object {
            bytes: bytes.clone(),
            mime: receive.mime.clone(),
            stored: 0,
            uploaded: None,
            expires_at: receive.expires_at,
        };
        let (key, sha256) = (receive.key.clone(), receive.sha256);
        let Given::Stored(is_stored) = self.bucket(Operation::Put { key, object, sha256, condition }).await?
        else {
            panic!("a put");
        };
        let there = match self.bucket(Operation::Head(receive.key.clone())).await? {
            Given::Object(there) => there.ok_or_else(|| StepError::Store("not stored".into()))?,
            other => panic!("{other:?}"),
        };
        let first = if receive.sha256.is_some() { Bytes::new() } else { bytes };
        let received = Received {
            kept_mime: (!is_stored).then_some(there.mime),
            uploaded: Some(there.uploaded.unwrap_or(there.stored)),
            ..received(first)
        };
        Ok((received, is_stored))
    }

    async fn promote(
        &self,
        from: &str,
        to: &str,
        mime: String,
        expires_at: Option<u64>,
    ) -> Result<Received, StepError> {
        let staged = self.object(from).await?;
        let bytes = staged.ok_or_else(|| StepError::Store(format!("{from} is not there")))?.bytes;
        let uploader = relay_blossom::exchange::Uploader { pubkey: String::new(), is_listed: false };
        let length = Some(bytes.len() as u64);
        let receive = Receive {
            key: to.to_owned(),
            only_hash: false,
            uploader,
            sha256: to.parse().ok(),
            length,
            bytes_max: bytes.len() as u64,
            mime,
            expires_at,
            media: None,
        };
        let (received, _) = self.store(bytes, &receive).await?;
        self.bucket(Operation::Delete(vec![from.to_owned()])).await?;
        Ok(received)
    }

    async fn join(&self, parts: &[Part], receive: &Receive) -> Result<Received, StepError> {
        let mut joined = Vec::new();
        for part in parts {
            let object = self.object(&part.key).await?;
            let bytes = object.ok_or_else(|| StepError::Store(format!("{} is not there", part.key)))?.bytes;
            joined.extend_from_slice(&bytes[part.skip as usize..(part.skip + part.take) as usize]);
        }
        let joined = Bytes::from(joined);
        match self.put(joined.clone(), receive, StepError::Raced).await {
            Err(StepError::Raced) => {
                let receive = Receive { only_hash: true, ..receive.clone() };
                self.put(joined, &receive, StepError::Raced).await
            }
            done => done,
        }
    }
}
