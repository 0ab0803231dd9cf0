//! The key with which the service of the agent's Lightning address signs zap receipts (`nostrPubkey`, NIP-57). The service is asked for it, by an
//! HTTP call like those of executors, after a deployment and when a receipt comes that cannot be judged without it. Its answer is valid for an hour. If it does not
//! answer, it is asked again at growing intervals, and receipts wait.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Event, Now, PubKey, Timestamp};
use serde::{Deserialize, Serialize};

use super::lnurl_call::{LnurlCall, TOO_LONG};
use super::{Agent, Awaited, Effect, EffectId};
use crate::executor::HttpEvent;
use crate::lnurl::{LightningAddress, zap_key};
use crate::manifest::ZapCheck;
use crate::store;

/// Seconds for which the service's answer is valid.
const FRESH_SECONDS: Timestamp = 3_600;
/// Seconds after which the service is asked again if a receipt is signed by another key, which may be its new one.
const FOREIGN_SECONDS: Timestamp = 60;
/// Milliseconds until it is asked again, at first and at most.
const RETRY_MILLIS: u64 = 2_000;
const RETRY_MILLIS_MAX: u64 = 3_600_000;
/// Seconds for which receipts of zaps to a former address still count, and how many former addresses are remembered.
const FORMER_SECONDS: Timestamp = 3_600;
const FORMER_MAX: usize = 8;
/// Seconds that a receipt may take to this relay.
const DELIVERY_SECONDS: Timestamp = 600;
/// Calls in a row without an answer after which it is not asked again, if no receipt waits.
const TRIES_MAX: u32 = 6;

/// What is stored about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ZapMemory {
    /// The Lightning address, if there was ever one.
    pub(super) address: Option<String>,
    /// Receipts dated before this time, in Unix seconds, do not count: they are from before the address was deployed.
    pub(super) since: Timestamp,
    pub(super) check: ZapCheck,
    /// The key, in hexadecimal, and when the service was asked for it, in Unix seconds.
    key: Option<String>,
    asked_at: Timestamp,
    /// How often in a row it has not answered.
    tries: u32,
    /// When it may be asked again, in milliseconds since 1970.
    retry_at: u64,
    /// Addresses before it, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    former: Vec<FormerAddress>,
}

/// An address that the agent had before: who was about to zap it pays the agent all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct FormerAddress {
    address: String,
    /// The last key that its service has told, in hexadecimal.
    key: String,
    check: ZapCheck,
    /// Receipts of between these times count, in Unix seconds.
    since: Timestamp,
    until: Timestamp,
}

impl ZapMemory {
    pub(super) const NAME: &'static str = "zaps";

    /// Another address, or none, takes the place of the present one.
    fn replace_address(&mut self, now: Now, address: Option<String>) {
        let before = std::mem::take(self);
        let mut former = before.former;
        former.retain(|former| former.until >= now.seconds());
        if let (Some(address), Some(key)) = (before.address, before.key) {
            let (check, since, until) = (before.check, before.since, now.seconds() + FORMER_SECONDS);
            former.push(FormerAddress { address, key, check, since, until });
        }
        let excess = former.len().saturating_sub(FORMER_MAX);
        former.drain(..excess);
        *self = ZapMemory { address, since: now.seconds(), former, ..ZapMemory::default() };
    }

    /// The former addresses that a receipt may be for, by its signer and its time; each with what shows that a zap to it has arrived.
    pub(super) fn former_of(&self, now: Now, receipt: &Event) -> Vec<(LightningAddress, ZapCheck)> {
        let signer = receipt.pubkey.to_string();
        let may_be = |former: &&FormerAddress| {
            // Later the key may belong to somebody else, who may date receipts as he likes.
            let is_in_time = now.seconds() <= former.until.saturating_add(DELIVERY_SECONDS);
            former.key == signer && is_in_time && (former.since..=former.until).contains(&receipt.created_at)
        };
        let address =
            |former: &FormerAddress| Some((LightningAddress::parse(&former.address).ok()?, former.check));
        self.former.iter().rev().filter(may_be).filter_map(address).collect()
    }

    pub(super) fn key(&self) -> Option<PubKey> {
        self.key.as_ref()?.parse().ok()
    }

    pub(super) fn address(&self) -> Option<LightningAddress> {
        LightningAddress::parse(self.address.as_ref()?).ok()
    }

    /// Whether the service signs with this key, as far as is known, for a receipt of this time. It may have changed its key since it was asked.
    pub(super) fn signer_status(&self, now: Now, signer: &PubKey, created_at: Timestamp) -> SignerStatus {
        let age = now.seconds().saturating_sub(self.asked_at);
        let is_older = created_at <= self.asked_at;
        match self.key() {
            Some(key) if key == *signer && age <= FRESH_SECONDS => SignerStatus::Own,
            Some(key) if key != *signer && age <= FOREIGN_SECONDS && is_older => SignerStatus::Foreign,
            _ => SignerStatus::Unknown,
        }
    }
}

/// See [`ZapMemory::signer_status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignerStatus {
    /// The service signs with this key.
    Own,
    /// The service does not sign with this key.
    Foreign,
    /// The service has to be asked first.
    Unknown,
}

impl<C: SqlConn> Agent<C> {
    /// Uses the Lightning address of the manifest from now on. After a deployment its service is asked at once, so that the owner sees errors of
    /// the address.
    pub(super) fn set_zap_address(&mut self, now: Now, is_deployed_now: bool) {
        if let Some(LnurlCall { id, .. }) = self.payments.zaps.key_request.take() {
            self.cancel_effect(id);
        }
        let Some(deployed) = &self.deployed else { return };
        let payment = &deployed.manifest.payment;
        let zaps = &mut self.payments.zaps;
        let before = zaps.memory.clone();
        zaps.error = None;
        zaps.is_key_wanted = !zaps.waiting.is_empty();
        let is_replaced = zaps.memory.address != payment.zap;
        if is_replaced {
            zaps.memory.replace_address(now, payment.zap.clone());
        }
        zaps.memory.check = payment.zap_check.unwrap_or_default();
        if is_deployed_now && payment.zap.is_some() {
            (zaps.memory.tries, zaps.memory.retry_at) = (0, 0);
            zaps.is_key_wanted = true;
        }
        if zaps.memory != before {
            self.store_zap_memory();
        }
        if is_replaced {
            self.judge_receipts_of_former_address(now);
        }
    }

    pub(super) fn store_zap_memory(&mut self) {
        store::put_meta(&mut self.batch, ZapMemory::NAME, &self.payments.zaps.memory);
    }

    /// When the service is asked, or does not answer any more; in milliseconds since 1970.
    pub(super) fn zap_key_due_at(&self) -> Option<u64> {
        let zaps = &self.payments.zaps;
        match &zaps.key_request {
            Some(key_request) => Some(key_request.deadline),
            None => (zaps.is_key_wanted && zaps.memory.address.is_some()).then_some(zaps.memory.retry_at),
        }
    }

    /// Asks the service for its key, if it is time for it.
    pub(super) fn ask_for_zap_key(&mut self, now: Now) {
        let is_due = self.zap_key_due_at().is_some_and(|at| at <= now.millis());
        if !is_due || self.payments.zaps.key_request.is_some() {
            return;
        }
        let Some(address) = self.payments.zaps.memory.address() else { return };
        let id = self.new_effect(Awaited::ZapKey);
        self.payments.zaps.key_request = Some(LnurlCall::new(now, id));
        let request = LnurlCall::request(now, address.url(), address.is_loopback());
        self.effects.push_back(Effect::Http { id, request });
    }

    /// The time for an answer may be over.
    pub(super) fn zap_key_timeout(&mut self, now: Now) {
        let key_request = &mut self.payments.zaps.key_request;
        if let Some(LnurlCall { id, .. }) =
            key_request.take_if(|key_request| key_request.deadline <= now.millis())
        {
            self.cancel_effect(id);
            self.zap_key_failed(now, TOO_LONG);
        }
    }

    /// Something has come of the call.
    pub(super) fn zap_key_event(&mut self, now: Now, id: EffectId, event: HttpEvent) {
        let Some(key_request) =
            self.payments.zaps.key_request.as_mut().filter(|key_request| key_request.id == id)
        else {
            return;
        };
        let Some(answer) = key_request.answer(event) else { return };
        self.payments.zaps.key_request = None;
        self.cancel_effect(id);
        match answer.and_then(|body| zap_key(&body)) {
            Ok(key) => self.zap_key_known(now, key),
            Err(why) => self.zap_key_failed(now, &why),
        }
    }

    fn zap_key_known(&mut self, now: Now, key: PubKey) {
        let zaps = &mut self.payments.zaps;
        let memory = &mut zaps.memory;
        (memory.key, memory.asked_at) = (Some(key.to_string()), now.seconds());
        // Receipts dated later, which anybody can make, have it asked no more often than this.
        (memory.tries, memory.retry_at) = (0, now.millis() + FOREIGN_SECONDS * 1_000);
        zaps.is_key_wanted = false;
        let is_over = zaps.error.take().is_some();
        self.store_zap_memory();
        if is_over {
            self.log(now, None, "the service of the Lightning address answers again");
        }
        self.judge_waiting_receipts(now);
    }

    fn zap_key_failed(&mut self, now: Now, why: &str) {
        let zaps = &mut self.payments.zaps;
        let memory = &mut zaps.memory;
        let wait = (RETRY_MILLIS << memory.tries.min(16)).min(RETRY_MILLIS_MAX);
        memory.tries = memory.tries.saturating_add(1);
        memory.retry_at = now.millis() + wait;
        zaps.is_key_wanted = !zaps.waiting.is_empty() || memory.tries < TRIES_MAX;
        let address = memory.address.clone().unwrap_or_default();
        let error = format!("payment.zap: the service of {address} does not tell its key: {why}");
        self.store_zap_memory();
        if self.payments.zaps.error.as_ref() != Some(&error) {
            self.log(now, None, &error);
            self.payments.zaps.error = Some(error);
        }
    }

    /// After an import: receipts dated before now were counted on the other host, and do not count here.
    pub(super) fn zaps_count_from_now(&mut self, now: Now) {
        let memory = &mut self.payments.zaps.memory;
        if memory.address.is_some() || !memory.former.is_empty() {
            memory.since = now.seconds();
            memory.former.clear();
            self.store_zap_memory();
        }
    }
}

/// What the database has.
pub(super) fn zap_memory(conn: &impl SqlConn) -> Result<ZapMemory, StoreError> {
    Ok(store::get_meta(conn, ZapMemory::NAME)?.unwrap_or_default())
}
