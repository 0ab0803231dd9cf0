//! A host that keeps everything in memory: it routes requests as the hosts do, carries out the steps of their exchanges and the
//! removals that the index hands out.

use std::collections::BTreeMap;

use bytes::Bytes;
use relay_engine::testing::Sqlite;
use relay_engine::types::{PubKey, Timestamp};
use relay_engine::verify::Verifier;
use relay_site::nip98::{ServerUrl, SignerTrust, UsedEvents};
use relay_site::{BlossomSettings, FEATURES, Route, Table};
use sha2::{Digest, Sha256 as Hasher};

use super::Seller;
use crate::blob::Sha256;
use crate::exchange::{
    Body, Context, Exchange, Head, Input, Keys, Processed, Receive, Received, Response, Step, StepError,
    path_param,
};
use crate::index::{Command, Index, Outcome};

/// Steps after which an exchange counts as endless.
const STEPS_MAX: usize = 30;

/// Bytes under a key, and what a store keeps beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The bytes.
    pub bytes: Bytes,
    /// Their type.
    pub mime: String,
    /// When retention removes them.
    pub expires_at: Option<u64>,
}

/// Another server's response to a URL.
pub type Origins = BTreeMap<String, Result<(Bytes, Option<String>), StepError>>;

/// Strips a picture.
pub type Processor = fn(&Bytes, &str) -> Result<Processed, StepError>;

/// The host.
pub struct Host<'a> {
    /// The settings.
    pub settings: BlossomSettings,
    /// Administrators.
    pub admins: Vec<PubKey>,
    /// Keys that may publish.
    pub allowed: Option<Vec<PubKey>>,
    /// Keys that may not.
    pub denied: Vec<PubKey>,
    /// Where the server is reached.
    pub base_url: &'a str,
    /// Whether that is configured, or only what requests name.
    pub has_url: bool,
    /// Whether only this machine can reach it.
    pub is_local: bool,
    /// Unix seconds.
    pub now: Timestamp,
    /// Verifies events.
    pub verifier: &'a dyn Verifier,
    /// The agent that is paid.
    pub seller: Seller,
    /// The index.
    pub index: Index<Sqlite>,
    /// Its database.
    pub database: Sqlite,
    /// The store. What is there under a hash it does not overwrite.
    pub objects: BTreeMap<String, Object>,
    /// Other servers.
    pub origins: Origins,
    /// Whether they say how long a blob is.
    pub announces_length: bool,
    /// What they say to HEAD; the truth without it.
    pub measured: Option<u64>,
    /// Lists of servers (kind 10063), by author.
    pub servers: BTreeMap<String, Vec<String>>,
    /// What strips pictures; hosts without it do not.
    pub processor: Option<Processor>,
    /// What the next step that moves bytes fails with.
    pub failure: Option<StepError>,
    /// What happens while the next body is being received.
    pub meanwhile: Option<fn(&mut Host<'_>)>,
    /// Whether the store tells a race of that body ([`StepError::Raced`]).
    pub is_raced: bool,
    /// How often the index is still busy.
    pub busy: usize,
    used: UsedEvents,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// In uppercase.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// The body, however many bytes its length announces.
    pub body: Bytes,
}

impl Request {
    /// A request without body.
    pub fn new(method: &str, target: &str) -> Self {
        Request {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a body and its length.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.with("content-length", &length)
    }
}

/// A response as a client sees it, and what the host did.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Headers, those of the routing table among them.
    pub headers: Vec<(String, String)>,
    /// The body, as GET would send it.
    pub body: Bytes,
    /// The steps, by name.
    pub steps: Vec<String>,
}

impl Reply {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

impl std::fmt::Debug for Host<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("settings", &self.settings)
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

impl<'a> Host<'a> {
    /// A host on loopback, where anybody may upload.
    ///
    /// # Panics
    /// If the index does not open.
    pub fn new(base_url: &'a str, now: Timestamp, verifier: &'a dyn Verifier) -> Self {
        let database = Sqlite::new();
        Host {
            settings: BlossomSettings::default(),
            admins: Vec::new(),
            allowed: None,
            denied: Vec::new(),
            base_url,
            has_url: true,
            is_local: true,
            now,
            verifier,
            seller: Seller::default(),
            index: Index::open(database.clone()).expect("an empty database opens"),
            database,
            objects: BTreeMap::new(),
            origins: BTreeMap::new(),
            announces_length: true,
            measured: None,
            servers: BTreeMap::new(),
            processor: None,
            failure: None,
            meanwhile: None,
            is_raced: false,
            busy: 0,
            used: UsedEvents::default(),
        }
    }

    /// Sends a request.
    ///
    /// # Panics
    /// If its exchange does not end.
    pub fn send(&mut self, request: &Request) -> Reply {
        let table = Table::new(FEATURES, |route| matches!(route, Route::Blossom(_)));
        let path = request.target.split('?').next().unwrap_or_default();
        let headers: Vec<(&str, &str)> =
            request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let found = table.find(&request.method, path, headers.as_slice());
        let cors: Vec<(String, String)> =
            found.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let (mut response, steps) = match &found.endpoint {
            Err(answer) => (Response::from(answer.clone()), Vec::new()),
            Ok(endpoint) => {
                let Route::Blossom(route) = endpoint.route else { unreachable!("nothing else is served") };
                let head = Head {
                    route,
                    method: request.method.clone(),
                    path_and_query: request.target.clone(),
                    param: path_param(&found),
                    headers: request.headers.clone(),
                };
                self.exchange(head, &request.body)
            }
        };
        let body = match &response.body {
            Body::Bytes(bytes) => bytes.clone(),
            Body::Blob { blob, range } => {
                let object = self.objects.get(&blob.sha256.to_string()).expect("a live blob has its bytes");
                match range {
                    Some(range) => object.bytes.slice(range.start as usize..range.end as usize),
                    None => object.bytes.clone(),
                }
            }
        };
        let mut headers: Vec<(String, String)> =
            response.headers.drain(..).map(|(name, value)| (name.to_owned(), value.into_owned())).collect();
        headers.extend(cors);
        self.remove();
        Reply { status: response.status, headers, body, steps }
    }

    /// Carries out the removals that wait.
    ///
    /// # Panics
    /// If the index fails.
    pub fn remove(&mut self) {
        while let Ok(Outcome::Removal(Some(key))) = self.index.run(self.now, Command::TakeRemoval) {
            self.objects.remove(&key);
            self.index.run(self.now, Command::Removed(key)).expect("a removal ends");
        }
    }

    fn exchange(&mut self, head: Head, body: &Bytes) -> (Response, Vec<String>) {
        let mut steps = Vec::new();
        let (mut exchange, mut step) = {
            let (settings, keys) = (self.settings.clone(), self.keys());
            Exchange::begin(&self.context(&settings, &keys), head)
        };
        loop {
            let text = format!("{step:?}");
            let name = |text: &str| {
                text.chars().take_while(|character| character.is_ascii_alphanumeric()).collect::<String>()
            };
            let of_command = text.strip_prefix("Ask(").map(|command| format!("Ask({})", name(command)));
            steps.push(of_command.unwrap_or_else(|| name(&text)));
            assert!(steps.len() < STEPS_MAX, "no end: {steps:?}");
            if let Step::Respond(response) = step {
                steps.pop();
                return (response, steps);
            }
            let input = self.carry_out(step, body);
            let (settings, keys) = (self.settings.clone(), self.keys());
            step = exchange.resume(&self.context(&settings, &keys), input);
        }
    }

    fn keys(&self) -> (Vec<PubKey>, Option<Vec<PubKey>>, Vec<PubKey>) {
        (self.admins.clone(), self.allowed.clone(), self.denied.clone())
    }

    fn context<'c>(
        &self,
        settings: &'c BlossomSettings,
        (admins, allowed, denied): &'c (Vec<PubKey>, Option<Vec<PubKey>>, Vec<PubKey>),
    ) -> Context<'c>
    where
        'a: 'c,
    {
        Context {
            settings,
            keys: Keys { admins, allowed: allowed.as_deref(), denied },
            base_url: self.base_url,
            origin: match self.base_url.split_once("://") {
                Some((_, host)) if !self.has_url => ServerUrl::Host(host),
                _ => ServerUrl::Url(self.base_url),
            },
            name: "Test relay",
            is_local: self.is_local,
            processes_media: self.processor.is_some(),
            upload_seconds_max: 13 * 3_600,
            now: self.now,
            verifier: self.verifier,
        }
    }

    fn carry_out(&mut self, step: Step, body: &Bytes) -> Input {
        let moves_bytes = !matches!(
            step,
            Step::Ask(_)
                | Step::MarkEventUsed(_)
                | Step::Discard(_)
                | Step::FindServers { .. }
                | Step::Pay(_)
        );
        if moves_bytes && let Some(failure) = self.failure.take() {
            return Input::Failed(failure);
        }
        match step {
            Step::Ask(command) => {
                if self.busy > 0 && matches!(command, Command::Begin(_) | Command::SetHash { .. }) {
                    self.busy -= 1;
                    return Input::Answered(Outcome::Busy);
                }
                match self.index.run(self.now, command) {
                    Ok(outcome) => Input::Answered(outcome),
                    Err(error) => Input::Failed(StepError::Store(error.to_string())),
                }
            }
            Step::MarkEventUsed(signed) => {
                Input::EventUsed(self.used.take(&signed, SignerTrust::Permitted, self.now))
            }
            Step::Read { bytes_max } if body.len() as u64 > bytes_max => Input::Failed(StepError::TooLong),
            Step::Read { .. } => Input::Body(body.clone()),
            Step::Receive(receive) => {
                if let Some(act) = self.meanwhile.take() {
                    let is_raced = std::mem::take(&mut self.is_raced);
                    act(self);
                    if is_raced {
                        return Input::Failed(StepError::Raced);
                    }
                }
                self.receive(receive, body.clone(), None)
            }
            Step::Put { bytes, receive } => self.receive(receive, bytes, None),
            Step::Fetch { urls, receive, mut reservation } => {
                let mut failure = StepError::Origin("no such server".to_owned());
                for url in urls {
                    match self.origins.get(&url).cloned() {
                        Some(Ok((bytes, mime))) => {
                            let size = bytes.len() as u64;
                            let asked = match self.announces_length {
                                true => reservation.announced(size),
                                false => reservation.received(size),
                            };
                            let asked = asked.map(|command| self.index.run(self.now, command));
                            if let Some(Ok(Outcome::Refused(refusal))) = asked {
                                return Input::Failed(StepError::Refused(refusal));
                            }
                            return self.receive(receive, bytes, mime);
                        }
                        Some(Err(why)) => failure = why,
                        None => {}
                    }
                }
                Input::Failed(failure)
            }
            Step::Join { parts, receive } => {
                let mut joined = Vec::new();
                for part in parts {
                    let bytes = &self.objects.get(&part.key).expect("a stored part has its bytes").bytes;
                    joined.extend_from_slice(&bytes[part.skip as usize..(part.skip + part.take) as usize]);
                }
                self.receive(receive, joined.into(), None)
            }
            Step::Promote { from, to, mime, expires_at } => {
                let object = self.objects.remove(&from).expect("staged bytes are there");
                if let Some(there) = self.objects.get(&to) {
                    let (kept_mime, size) = (Some(there.mime.clone()), object.bytes.len() as u64);
                    let sha256 = Sha256(Hasher::digest(&object.bytes).into());
                    let (first, mime) = (Bytes::new(), None);
                    return Input::Received(Received {
                        sha256,
                        size,
                        first,
                        mime,
                        kept_mime,
                        uploaded: None,
                    });
                }
                self.objects.insert(to, Object { mime, expires_at, ..object });
                Input::Done
            }
            Step::SetObjectType { sha256, mime } => {
                if let Some(object) = self.objects.get_mut(&sha256.to_string()) {
                    object.mime = mime;
                }
                Input::Done
            }
            Step::Process { bytes, mime } => match self.processor {
                Some(process) => process(&bytes, &mime).map_or_else(Input::Failed, Input::Processed),
                None => Input::Failed(StepError::Unsupported),
            },
            Step::Discard(key) => {
                self.objects.remove(&key);
                Input::Done
            }
            Step::FindServers { authors } => {
                let lists = authors.iter().filter_map(|author| self.servers.get(author));
                Input::Servers(lists.flatten().cloned().collect())
            }
            Step::Measure { url, .. } => match self.origins.get(&url).cloned() {
                Some(Ok((bytes, _))) => Input::Measured(self.measured.unwrap_or(bytes.len() as u64)),
                Some(Err(why)) => Input::Failed(why),
                None => Input::Failed(StepError::Origin("no such server".to_owned())),
            },
            Step::Pay(request) => Input::Paid(self.seller.answer(request)),
            Step::Respond(_) => unreachable!("the exchange is over"),
        }
    }

    fn receive(&mut self, receive: Receive, bytes: Bytes, mime: Option<String>) -> Input {
        let size = bytes.len() as u64;
        let sha256 = Sha256(Hasher::digest(&bytes).into());
        let failure = if size > receive.bytes_max || receive.length.is_some_and(|length| size > length) {
            StepError::TooLong
        } else if receive.length.is_some_and(|length| size < length) {
            StepError::Incomplete
        } else if receive.sha256.is_some_and(|expected| expected != sha256) {
            StepError::WrongHash
        } else {
            let first = bytes.slice(..bytes.len().min(4_096));
            let kept = receive.mime_from(mime.as_deref());
            let Receive { key, expires_at, .. } = receive;
            let there = receive.sha256.and_then(|_| self.objects.get(&key));
            let kept_mime = there.map(|object| object.mime.clone());
            if there.is_none() && !receive.only_hash {
                self.objects.insert(key, Object { bytes, mime: kept, expires_at });
            }
            return Input::Received(Received { sha256, size, first, mime, kept_mime, uploaded: None });
        };
        Input::Failed(failure)
    }
}
