//! A remote signer (NIP-46) that has the agent's key. What the agent writes waits in the outbox, stored, until it is signed; the
//! signed event is stored before it is published, like any other.
//!
//! One exchange at a time: its requests go out together, and it ends when all are answered, or at its deadline. First the signer
//! is asked to connect, and whose key it has; that it is the right one is stored. Then each exchange has what is first in the
//! outbox, to be encrypted or signed, and encrypted requests, to be decrypted.
//!
//! | the signer | then |
//! |---|---|
//! | is silent, or cannot be reached | everything is asked again, with backoff; what it has not signed after a day is dropped |
//! | refuses an event, or signs another one | it is asked three times, then the event is dropped; a job whose result it was has failed |
//! | refuses to decrypt a request | it is asked three times, then the job has failed |
//! | wants its user's consent (`auth_url`) | the URL is in the log and is the agent's error until it answers |

use std::collections::{HashMap, VecDeque};

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Event, EventId, Now, PubKey};
use serde::{Deserialize, Serialize};

use super::admin::AgentRecord;
use super::outbox::job_of;
use super::remote_signing::{complete_signature, cut, sign_locally, signing_method};
use super::{Agent, Awaited, Effect, EffectId, ExchangeEvent};
use crate::nip46::{Client, Method, Outcome};
use crate::nip90;
use crate::secrets::Secrets;
use crate::store;

/// Milliseconds for an exchange; and for one of which the signer's user has to allow something.
const EXCHANGE_MILLIS: u64 = 30_000;
const CONSENT_MILLIS: u64 = 300_000;
/// Milliseconds until the signer is asked again, at first and at most.
const RETRY_MILLIS: u64 = 2_000;
const RETRY_MILLIS_MAX: u64 = 120_000;
/// How often it may refuse the same.
const REFUSALS_MAX: u32 = 3;
/// Requests that are decrypted in one exchange.
const DECRYPTIONS_MAX: usize = 16;
/// Microseconds after which an unsigned event is dropped.
const UNSIGNED_MICROS_MAX: u64 = 86_400_000_000;

/// See the module.
pub(super) struct RemoteSigner {
    pubkey: PubKey,
    /// `Err`: its secret is missing or wrong.
    client: Result<Client, String>,
    step: Step,
    exchange: Option<Exchange>,
    memory: SignerMemory,
    /// Jobs whose requests wait to be decrypted, each with the effect that decrypts it.
    decryptions: VecDeque<(EventId, EffectId)>,
    /// How often it has refused an event, or the request of a job.
    refusals: HashMap<EventId, u32>,
    error: Option<String>,
}

/// What is stored about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct SignerMemory {
    /// The [digest](Client::digest) of the connection that it has accepted.
    connected: Option<String>,
    /// Exchanges that have failed one after the other.
    tries: u32,
    /// When the next one may begin, in milliseconds since 1970.
    retry_at: u64,
}

/// The next kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Connect,
    PublicKey,
    Work,
}

/// The requests that are under way.
struct Exchange {
    id: EffectId,
    /// Milliseconds since 1970.
    deadline: u64,
    /// Those without an answer, by their ids.
    asks: HashMap<String, SignerRequest>,
    /// Why it has failed.
    failure: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SignerRequest {
    Connect,
    PublicKey,
    /// To encrypt or sign an event of the outbox.
    Event(EventId),
    /// To decrypt the request of a job.
    Decrypt(EventId, EffectId),
}

impl SignerMemory {
    const NAME: &'static str = "signer";
}

impl RemoteSigner {
    /// The signer of an agent, if it has one.
    pub(super) fn open(
        conn: &impl SqlConn,
        record: &AgentRecord,
        secrets: &dyn Secrets,
    ) -> Result<Option<Self>, StoreError> {
        let (Some(secret), Ok(pubkey)) = (&record.bunker, record.pubkey.parse()) else { return Ok(None) };
        let client = Client::of(secret, &pubkey, secrets);
        let memory: SignerMemory = store::get_meta(conn, SignerMemory::NAME)?.unwrap_or_default();
        let is_connected = client.as_ref().is_ok_and(|client| Some(client.digest()) == memory.connected);
        Ok(Some(RemoteSigner {
            pubkey,
            client,
            step: if is_connected { Step::Work } else { Step::Connect },
            exchange: None,
            memory,
            decryptions: VecDeque::new(),
            refusals: HashMap::new(),
            error: None,
        }))
    }

    /// Whether it has accepted this client, and answers.
    pub(super) fn is_responding(&self) -> bool {
        self.step == Step::Work && self.memory.tries == 0
    }

    /// Whether it answers, and no request is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.is_responding() && self.exchange.is_none()
    }

    /// The key for which it signs.
    pub(super) fn pubkey(&self) -> PubKey {
        self.pubkey
    }

    /// What is wrong with it.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Whether it may be asked now.
    fn may_be_asked(&self, now: Now) -> bool {
        self.exchange.is_none() && now.millis() >= self.memory.retry_at
    }

    /// Counts a refusal; whether it was the last one.
    fn refused(&mut self, what: &EventId) -> bool {
        let count = self.refusals.entry(*what).or_default();
        *count += 1;
        let is_last = *count >= REFUSALS_MAX;
        if is_last {
            self.refusals.remove(what);
        }
        is_last
    }
}

impl<C: SqlConn> Agent<C> {
    /// Replaces the signer: by another one, by none, or by the same one with a secret that may have changed. Its backoff is reset.
    pub(super) fn replace_signer(&mut self, now: Now, mut signer: Option<RemoteSigner>) {
        let before = self.signer.as_mut().and_then(|signer| signer.exchange.take());
        if let Some(Exchange { id, asks, .. }) = before {
            self.cancel_effect(id);
            self.decrypt_all_later(now, asks);
            self.outbox.put_in_front(&mut self.batch);
        }
        if let Some(signer) = &mut signer {
            (signer.memory.tries, signer.memory.retry_at) = (0, 0);
        }
        self.signer = signer;
    }

    fn decrypt_all_later(&mut self, now: Now, asks: HashMap<String, SignerRequest>) {
        for ask in asks.into_values() {
            if let SignerRequest::Decrypt(job, effect) = ask {
                self.decrypt_later(now, job, effect);
            }
        }
    }

    /// Why nothing more can be accepted, if too much waits for a signer that fails.
    pub(super) fn signer_is_behind(&self) -> Option<String> {
        let signer = self.signer.as_ref().filter(|signer| signer.memory.tries > 0)?;
        let error = signer.error().unwrap_or("it does not answer");
        self.outbox
            .is_long()
            .then(|| format!("too many unsigned events are queued for the remote signer: {error}"))
    }

    /// When something is to be done about it, in milliseconds since 1970.
    pub(super) fn signer_retry_at(&self) -> Option<u64> {
        let signer = self.signer.as_ref()?;
        match &signer.exchange {
            Some(exchange) => Some(exchange.deadline),
            None => self.outbox.is_next_unsigned().then_some(signer.memory.retry_at),
        }
    }

    /// Its time may be over.
    pub(super) fn signer_timeout(&mut self, now: Now) {
        let Some(RemoteSigner { exchange: Some(exchange), .. }) = &mut self.signer else { return };
        if now.millis() >= exchange.deadline {
            exchange.failure.get_or_insert_with(|| "the remote signer does not answer".to_owned());
            self.end_exchange(now);
        }
    }

    /// What is first in the outbox has to be signed: by a key that is here by now, or in the next exchange.
    pub(super) fn take_unsigned(&mut self, now: Now) -> Result<(), StoreError> {
        if let Some(keys) = self.keys().cloned() {
            self.outbox.take_next();
            for event in self.outbox.unsigned() {
                let nonce = self.nonce();
                self.outbox.replace(&event.id, sign_locally(&event, &keys, nonce));
            }
            self.outbox.put_in_front(&mut self.batch);
            self.store()?;
            return self.publish(now);
        }
        if self.signer.as_ref().is_some_and(|signer| signer.may_be_asked(now)) {
            self.outbox.take_next();
        }
        Ok(())
    }

    /// Queues the request of a job for decryption. `None` while the signer fails: the job asks again later.
    pub(super) fn ask_to_decrypt(&mut self, now: Now, job: EventId) -> Option<EffectId> {
        let is_failing = self.signer.as_ref().is_none_or(|signer| now.millis() < signer.memory.retry_at);
        if is_failing {
            return None;
        }
        self.last_effect += 1;
        let effect = EffectId(self.last_effect);
        self.signer.as_mut()?.decryptions.push_back((job, effect));
        Some(effect)
    }

    /// Begins an exchange if there is something to ask.
    pub(super) fn ask_signer(&mut self, now: Now) {
        loop {
            let unsigned = self.outbox.unsigned();
            let Some(signer) = self.signer.as_mut().filter(|signer| signer.may_be_asked(now)) else { return };
            if unsigned.is_empty() && signer.decryptions.is_empty() {
                return;
            }
            let client = match &signer.client {
                Ok(client) => client.clone(),
                Err(error) => {
                    let error = error.clone();
                    return self.exchange_failed(now, &error);
                }
            };
            let asks = match signer.step {
                Step::Connect => vec![(SignerRequest::Connect, Method::Connect)],
                Step::PublicKey => vec![(SignerRequest::PublicKey, Method::PublicKey)],
                Step::Work => {
                    let ask = |event: &Event| Some((SignerRequest::Event(event.id), signing_method(event)?));
                    let mut asks: Vec<(SignerRequest, Method)> = unsigned.iter().filter_map(ask).collect();
                    let count = signer.decryptions.len().min(DECRYPTIONS_MAX);
                    let decryptions: Vec<_> = signer.decryptions.drain(..count).collect();
                    asks.extend(decryptions.into_iter().filter_map(|(job, effect)| {
                        self.decryption(&job).map(|method| (SignerRequest::Decrypt(job, effect), method))
                    }));
                    asks
                }
            };
            if self.begin_exchange(now, &client, asks) {
                return;
            }
            // What was too large for it has been given up, so there is less than before.
            self.outbox.put_in_front(&mut self.batch);
            if self.store().is_err() || self.publish(now).is_err() {
                // What is left is tried again with the next call.
                return;
            }
        }
    }

    /// What is to be decrypted of a job's request.
    fn decryption(&self, job: &EventId) -> Option<Method> {
        let event = self.active.get(job)?.event()?;
        let (cipher, payload) = nip90::payload(event);
        Some(Method::Decrypt(cipher, event.pubkey, payload))
    }

    /// Sends requests. False: there are none that can be sent.
    fn begin_exchange(&mut self, now: Now, client: &Client, asks: Vec<(SignerRequest, Method)>) -> bool {
        let (mut sent, mut requests) = (HashMap::new(), Vec::new());
        for (ask, method) in asks {
            let nonce = self.nonce();
            let id: String = self.nonce().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            match client.request(&id, &method, now.seconds(), nonce) {
                Ok(request) => {
                    sent.insert(id, ask);
                    requests.push(request);
                }
                Err(_) => self.give_up(now, ask, "it is too large for a remote signer"),
            }
        }
        if requests.is_empty() {
            return false;
        }
        let id = self.new_effect(Awaited::Signer);
        let deadline = now.millis() + EXCHANGE_MILLIS;
        if let Some(signer) = &mut self.signer {
            signer.exchange = Some(Exchange { id, deadline, asks: sent, failure: None });
        }
        let (relays, answers) = (client.relays().to_vec(), client.answers());
        self.effects.push_back(Effect::Exchange { id, relays, answers, requests });
        true
    }

    /// Something has come of the exchange.
    pub(super) fn signer_event(&mut self, now: Now, id: EffectId, event: ExchangeEvent) {
        let Some(signer) = &mut self.signer else { return };
        let Some(exchange) = signer.exchange.as_mut().filter(|exchange| exchange.id == id) else { return };
        let event = match event {
            ExchangeEvent::Event(event) => event,
            ExchangeEvent::Failed(why) => {
                exchange.failure = Some(format!("the remote signer cannot be asked: {}", cut(&why)));
                self.awaited.remove(&id);
                return self.end_exchange(now);
            }
        };
        let answer = signer.client.as_ref().ok().and_then(|client| client.read(&event));
        let Some((request, outcome)) = answer else { return };
        if let Outcome::AuthUrl(url) = &outcome {
            if exchange.asks.contains_key(&request) {
                exchange.deadline = now.millis() + CONSENT_MILLIS;
                self.set_error(now, &format!("the remote signer wants its user's consent: {}", cut(url)));
            }
            return;
        }
        let Some(ask) = exchange.asks.remove(&request) else { return };
        self.answered(now, ask, outcome);
        let is_over = self.signer.as_ref().and_then(|signer| signer.exchange.as_ref());
        if is_over.is_some_and(|exchange| exchange.asks.is_empty()) {
            self.end_exchange(now);
        }
    }

    /// The signer has answered a request.
    fn answered(&mut self, now: Now, ask: SignerRequest, outcome: Outcome) {
        match ask {
            // A secret that has been used is refused, or not answered at all: whether it knows this client is seen next.
            SignerRequest::Connect => {}
            SignerRequest::PublicKey => self.handle_public_key(outcome),
            SignerRequest::Event(id) => {
                let event = self.outbox.unsigned().into_iter().find(|event| event.id == id);
                let Some(event) = event else { return };
                match complete_signature(&event, outcome) {
                    Ok(finished) => self.outbox.replace(&id, Some(finished)),
                    Err(message) => self.refused(now, ask, &id, &message),
                }
            }
            SignerRequest::Decrypt(job, effect) => match outcome {
                Outcome::Result(text) => self.decrypted(now, job, effect, text),
                Outcome::Refused(message) | Outcome::AuthUrl(message) => {
                    self.refused(now, ask, &job, &cut(&message));
                }
            },
        }
    }

    /// It refuses something.
    fn refused(&mut self, now: Now, ask: SignerRequest, what: &EventId, message: &str) {
        let Some(signer) = &mut self.signer else { return };
        let is_last = signer.refused(what);
        let message = format!("the remote signer refuses: {message}");
        match is_last {
            true => self.give_up(now, ask, &message),
            false => {
                if let Some(exchange) = &mut signer.exchange {
                    exchange.failure = Some(message);
                }
                if let SignerRequest::Decrypt(job, effect) = ask {
                    self.decrypt_later(now, job, effect);
                }
            }
        }
    }

    /// The signer's answer to `get_public_key`.
    fn handle_public_key(&mut self, outcome: Outcome) {
        let Some(signer) = &mut self.signer else { return };
        let failure = match &outcome {
            Outcome::Result(key) if key.trim().eq_ignore_ascii_case(&signer.pubkey.to_string()) => {
                signer.step = Step::Work;
                signer.memory.connected = signer.client.as_ref().ok().map(Client::digest);
                store::put_meta(&mut self.batch, SignerMemory::NAME, &signer.memory);
                return;
            }
            Outcome::Result(_) => {
                "the remote signer signs for another key than the manifest's pubkey".to_owned()
            }
            Outcome::Refused(message) | Outcome::AuthUrl(message) => {
                format!("the remote signer refuses: {}", cut(message))
            }
        };
        if let Some(exchange) = &mut signer.exchange {
            exchange.failure = Some(failure);
        }
    }

    /// Nothing more is expected of the exchange. What was not answered is asked again later.
    fn end_exchange(&mut self, now: Now) {
        let Some(signer) = &mut self.signer else { return };
        let Some(Exchange { id, asks, mut failure, .. }) = signer.exchange.take() else { return };
        let is_reachable = self.awaited.contains_key(&id);
        match signer.step {
            // Silence may mean that the secret has been used.
            Step::Connect if is_reachable || failure.is_none() => {
                signer.step = Step::PublicKey;
                failure = None;
            }
            // Otherwise `handle_public_key` has gone on.
            Step::PublicKey => signer.step = Step::Connect,
            Step::Connect | Step::Work => {}
        }
        self.cancel_effect(id);
        self.decrypt_all_later(now, asks);
        match failure {
            Some(failure) => self.exchange_failed(now, &failure),
            None => self.exchange_went_well(now),
        }
        self.outbox.put_in_front(&mut self.batch);
    }

    fn exchange_went_well(&mut self, now: Now) {
        let Some(signer) = self.signer.as_mut().filter(|signer| signer.step == Step::Work) else { return };
        let had_error = signer.error.take().is_some();
        if signer.memory.tries > 0 {
            (signer.memory.tries, signer.memory.retry_at) = (0, 0);
            store::put_meta(&mut self.batch, SignerMemory::NAME, &signer.memory);
        }
        if had_error {
            self.log(now, None, "the remote signer answers again");
        }
    }

    fn exchange_failed(&mut self, now: Now, failure: &str) {
        let Some(signer) = &mut self.signer else { return };
        let wait = (RETRY_MILLIS << signer.memory.tries.min(16)).min(RETRY_MILLIS_MAX);
        signer.memory.tries = signer.memory.tries.saturating_add(1);
        if signer.memory.tries > 1 {
            // It may have forgotten this client.
            signer.step = Step::Connect;
        }
        signer.memory.retry_at = now.millis() + wait;
        store::put_meta(&mut self.batch, SignerMemory::NAME, &signer.memory);
        for (job, effect) in std::mem::take(&mut signer.decryptions) {
            self.decrypt_later(now, job, effect);
        }
        self.set_error(now, failure);
        let until = now.micros().saturating_sub(UNSIGNED_MICROS_MAX);
        for event in self.outbox.unsigned_before(until) {
            self.give_up(now, SignerRequest::Event(event.id), "it has not been signed in a day");
        }
        // Nobody waits for those.
        self.outbox.drop_unsigned_partials();
        self.outbox.put_in_front(&mut self.batch);
    }

    fn set_error(&mut self, now: Now, error: &str) {
        let Some(signer) = &mut self.signer else { return };
        if signer.error.as_deref() != Some(error) {
            signer.error = Some(error.to_owned());
            self.log(now, None, error);
        }
    }

    /// Something will not be signed or decrypted.
    fn give_up(&mut self, now: Now, ask: SignerRequest, message: &str) {
        match ask {
            SignerRequest::Connect | SignerRequest::PublicKey => self.set_error(now, message),
            SignerRequest::Decrypt(job, effect) => self.decryption_failed(now, job, effect, message),
            SignerRequest::Event(id) => {
                let event = self.outbox.unsigned().into_iter().find(|event| event.id == id);
                let Some(event) = event else { return };
                let job = job_of(&event);
                let of_result = job.filter(|_| nip90::is_result(event.kind));
                let Ok(unpublished) = of_result.map(|job| self.read_unpublished(&job)).transpose() else {
                    // What it means for the job, and for the money, cannot be written down now: it is asked again.
                    if let Some(exchange) = self.signer.as_mut().and_then(|signer| signer.exchange.as_mut()) {
                        exchange.failure = Some(message.to_owned());
                    }
                    return;
                };
                self.outbox.replace(&id, None);
                self.log(now, job, format!("an event of kind {} is not signed: {message}", event.kind));
                if let (Some(job), Some(unpublished)) = (job, unpublished) {
                    let message = "this agent's signer does not sign the result";
                    self.result_refused(now, &job, unpublished, "signer", message);
                }
                if event.kind == nip90::KIND_ANNOUNCEMENT
                    && let Some(record) = &mut self.record
                {
                    // The next version is announced whatever it says.
                    record.announcement = None;
                    store::put_meta(&mut self.batch, AgentRecord::NAME, record);
                }
            }
        }
    }
}
