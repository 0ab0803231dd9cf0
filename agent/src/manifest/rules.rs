//! What a manifest says beside its handlers: identity, payment, limits, access, network, memory, schedules.

use serde::{Deserialize, Serialize};

/// Where an agent's key comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Identity {
    /// Derived from the host's master secret (NIP-06, `m/44'/1237'/<account>'/0/0`). Without a number the account is made of
    /// the agent's name.
    Derived {
        /// The account.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        account: Option<u32>,
    },
    /// A private key, an nsec or 64 hexadecimal digits, in the secret of this name.
    Imported {
        /// The name of the secret.
        secret: String,
    },
    /// A remote signer (NIP-46) has the private key of the manifest's `pubkey`.
    Bunker {
        /// The name of the secret with its URL: `bunker://<public key of the signer>?relay=<wss://...>&secret=<...>`.
        secret: String,
    },
}

impl Default for Identity {
    fn default() -> Self {
        Identity::Derived { account: None }
    }
}

/// How an agent is paid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Payment {
    /// When.
    pub policy: PaymentPolicy,
    /// The name of the secret with the connection string of the agent's wallet (NIP-47).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wallet_ref: Option<String>,
    /// Jobs of a customer in a day (UTC) that cost nothing; with [`PaymentPolicy::Free`] the most that are done, if it is not 0.
    #[serde(skip_serializing_if = "is_default")]
    pub free_quota: u32,
    /// What becomes of credit.
    #[serde(skip_serializing_if = "is_default")]
    pub refund: Refund,
    /// With [`PaymentPolicy::Postpay`] and [`PaymentPolicy::Sample`]: see [`Payment::unpaid_limit`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpaid_max: Option<u32>,
    /// With [`PaymentPolicy::Sample`]: the characters of a result that are shown before it is paid, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_chars: Option<u32>,
    /// With [`PaymentPolicy::Sample`]: the part of a result that is shown before it is paid at most, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_percent: Option<u32>,
    /// With [`PaymentPolicy::Hold`]: see [`Payment::hold_seconds`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_s: Option<u32>,
    /// The agent's Lightning address (LUD-16): jobs may be paid by zaps (NIP-57) to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zap: Option<String>,
    /// With [`Payment::zap`]: what shows that a zap has arrived, [`ZapCheck::Wallet`] if the manifest says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zap_check: Option<ZapCheck>,
    /// Shares of what is earned, for others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub splits: Vec<Split>,
    /// With [`Payment::splits`]: see [`Payment::splits_min_msat`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub splits_min_msat: Option<u64>,
}

/// A share of what is earned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// The Lightning address (LUD-16) to which it is paid.
    pub address: String,
    /// The share of what is earned, in percent.
    pub percent: u32,
}

/// What shows that a zap has arrived. Its receipt, signed by the key that the Lightning address names, is needed in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZapCheck {
    /// The agent's wallet says so, which must be where the address leads. Services sign for all their users with one key, so whoever has an
    /// address of the same service can pay himself and have a receipt that names the agent.
    #[default]
    Wallet,
    /// The receipt suffices. This is safe only if the service's key signs receipts for this address alone.
    Receipt,
}

impl Payment {
    /// Results of a customer that may be unpaid at a time, when it is paid after the work: those that are not paid yet and those that were not
    /// paid in time. A customer who has as many pays before the work. 0 with other policies.
    pub fn unpaid_limit(&self) -> u32 {
        match self.policy {
            PaymentPolicy::Postpay | PaymentPolicy::Sample => self.unpaid_max.unwrap_or(UNPAID_MAX_DEFAULT),
            PaymentPolicy::Free | PaymentPolicy::Prepay | PaymentPolicy::Hold => 0,
        }
    }

    /// Seconds for which a customer's payment may be held while the job waits for its turn and works. Then the job has failed, and the payment
    /// is given back. `None` with other policies.
    pub fn hold_seconds(&self) -> Option<u64> {
        (self.policy == PaymentPolicy::Hold).then(|| u64::from(self.hold_s.unwrap_or(HOLD_SECONDS_DEFAULT)))
    }

    /// A share is paid out when so much is due, in millisatoshis.
    pub fn splits_min_msat(&self) -> u64 {
        self.splits_min_msat.unwrap_or(SPLITS_MIN_MSAT_DEFAULT)
    }

    /// How much of a result is shown before it is paid: characters, and percent of it, whichever is less. `None` with other policies.
    pub fn sample_limits(&self) -> Option<(u32, u32)> {
        let chars = self.sample_chars.unwrap_or(SAMPLE_CHARS_DEFAULT);
        let percent = self.sample_percent.unwrap_or(SAMPLE_PERCENT_DEFAULT);
        (self.policy == PaymentPolicy::Sample).then_some((chars, percent))
    }
}

/// [`Payment::unpaid_limit`], if the manifest says nothing.
const UNPAID_MAX_DEFAULT: u32 = 3;
/// [`Payment::sample_limits`], if the manifest says nothing.
const SAMPLE_CHARS_DEFAULT: u32 = 280;
const SAMPLE_PERCENT_DEFAULT: u32 = 20;

/// [`Payment::splits_min_msat`], if the manifest says nothing.
const SPLITS_MIN_MSAT_DEFAULT: u64 = 1_000_000;

/// [`Payment::hold_seconds`], if the manifest says nothing.
const HOLD_SECONDS_DEFAULT: u32 = 3_600;

/// What customers can do with their credit: what they have paid and got no result for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refund {
    /// It is credit for the next jobs.
    #[default]
    Credit,
    /// It is credit, and paid out to an invoice of the customer.
    Invoice,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// When an agent is paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentPolicy {
    /// Never.
    #[default]
    Free,
    /// Before it works.
    Prepay,
    /// When the work is done, before the result is published.
    Postpay,
    /// Like [`PaymentPolicy::Postpay`]; the beginning of the result is shown before.
    Sample,
    /// By a hold invoice: its work begins when the payment is held, which is taken when there is a result, and else given back.
    Hold,
}

/// Limits of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobLimits {
    /// Jobs that run at a time.
    pub concurrency: usize,
    /// Jobs that wait; further ones are refused.
    pub queue: usize,
    /// Seconds of an attempt.
    pub timeout_s: u64,
    /// Attempts at a job.
    pub attempts: u32,
    /// Largest input, all inputs together, in bytes.
    pub input_bytes: usize,
    /// Largest result, in bytes.
    pub output_bytes: usize,
    /// Jobs of one customer a minute.
    pub per_customer_per_min: u32,
    /// Unfinished jobs of one customer.
    pub per_customer: usize,
    /// How many jobs a chain of `job` inputs may have.
    pub chain_depth: u32,
    /// The most that is paid out in a day (UTC), fees included, in millisatoshis.
    #[serde(skip_serializing_if = "is_default")]
    pub daily_spend_msat: u64,
    /// The largest refund, fees included, that is paid out without the owner's approval, in millisatoshis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval_msat: Option<u64>,
}

impl Default for JobLimits {
    fn default() -> Self {
        JobLimits {
            concurrency: 8,
            queue: 1_000,
            timeout_s: 120,
            attempts: 3,
            input_bytes: 256 << 10,
            output_bytes: 256 << 10,
            per_customer_per_min: 60,
            per_customer: 100,
            chain_depth: 4,
            daily_spend_msat: 0,
            approval_msat: None,
        }
    }
}

/// Who may use an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessRules {
    /// Only these keys, if any are listed.
    pub allow: Vec<String>,
    /// Not these keys.
    pub deny: Vec<String>,
    /// Proof of work of a request, in bits (NIP-13).
    pub min_pow: u8,
    /// Whether requests that name no agent are answered.
    pub open_jobs: bool,
    /// Whether other agents of this host may be customers.
    pub agent_callers: bool,
}

impl Default for AccessRules {
    fn default() -> Self {
        AccessRules { allow: Vec::new(), deny: Vec::new(), min_pow: 0, open_jobs: true, agent_callers: false }
    }
}

/// Where an agent may connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Domains of URL inputs, with their subdomains; any public one if empty.
    pub allow_domains: Vec<String>,
    /// Largest URL input, in bytes.
    pub max_fetch_bytes: usize,
}

impl Default for Network {
    fn default() -> Self {
        Network { allow_domains: Vec::new(), max_fetch_bytes: 1 << 20 }
    }
}

/// Sessions with customers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// Whether earlier jobs of a customer are given to the executor.
    pub sessions: bool,
    /// Days after which a session is forgotten.
    pub ttl_days: u32,
    /// Messages of a session that are kept.
    pub messages: usize,
    /// Bytes of a customer's session.
    pub bytes: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { sessions: false, ttl_days: 30, messages: 100, bytes: 256 << 10 }
    }
}

/// A job that an agent gives itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Seconds between two runs, at least 60.
    pub every_s: u64,
    /// The kind of the handler that runs.
    pub kind: u16,
    /// The text input.
    #[serde(default)]
    pub input: String,
    /// The kind of the event that is published with the result as content; 1 is a note.
    #[serde(default = "note")]
    pub publish_kind: u16,
}

fn note() -> u16 {
    1
}
