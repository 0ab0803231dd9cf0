//! What an agent is: its manifest, format 1.
//!
//! A manifest is JSON (the command line converts TOML). Unknown fields are refused. Secrets are referred to by name, never
//! written into it.
//!
//! ```text
//! handler   what it does for one kind: executors and their configuration
//! rules     limits, access, network, memory, schedules
//! json      JSON with bounds, and where something in it is wrong
//! secret    what is a secret, and the names of secrets
//! validate  the bounds of every field; validate_payment: of what is said about payment
//! openagents  the AgentManifest of OpenAgents, converted
//! public    what everybody may see of a manifest
//! ```

mod handler;
mod json;
mod openagents;
mod public;
mod rules;
mod secret;
mod validate;
mod validate_blobs;
mod validate_payment;

use std::fmt;

use relay_engine::types::PubKey;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use handler::{
    BlobPaymentConfig, EchoConfig, ExecutorConfig, ExecutorKind, Handler, McpConfig, MembershipConfig,
    OpenaiConfig, Param, Price, TextConfig, TextTool, WebhookConfig, WorkersAiConfig,
};
pub use public::PublicParam;
pub use rules::{
    AccessRules, Identity, JobLimits, Memory, Network, Payment, PaymentPolicy, Refund, Schedule, Split,
    ZapCheck,
};
pub use validate_blobs::KIND_BLOB_PAYMENT;
pub(crate) use validate_payment::SPLITS_MIN_MSAT_LEAST;

/// What is charged for a job, at most: a bitcoin, in millisatoshis.
pub const PRICE_MSAT_MAX: u64 = 100_000_000_000;

/// The format that this version writes.
pub const SCHEMA: u32 = 1;

/// The largest manifest, in bytes.
pub const BYTES_MAX: usize = 64 << 10;

/// A manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format: 1.
    #[serde(default = "schema")]
    pub schema: u32,
    /// The agent's name, 1 to 64 characters; its local part in NIP-05 is made of it.
    pub name: String,
    /// The author's version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it does.
    #[serde(default)]
    pub about: String,
    /// URL of a square picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// Public key that the agent must have. A host with another master secret, which would give it another one, refuses the
    /// manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pubkey: Option<String>,
    /// Public key of the owner. Whoever deploys it, if not given.
    ///
    /// Public keys in a manifest are 64 hexadecimal digits or an npub; [`Manifest::parse`] makes lowercase hexadecimal
    /// digits of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Keys that may pause, resume and drain it, and read its log and metrics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<String>,
    /// SPDX expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub homepage: Option<String>,
    /// URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// One word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Anything; kept and shown, not used.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// Where its key comes from.
    #[serde(default)]
    pub identity: Identity,
    /// What it does for which kind; at least one.
    pub handlers: Vec<Handler>,
    /// How it is paid.
    #[serde(default)]
    pub payment: Payment,
    /// Limits.
    #[serde(default)]
    pub limits: JobLimits,
    /// Who may use it.
    #[serde(default)]
    pub access: AccessRules,
    /// Where it may connect to.
    #[serde(default)]
    pub network: Network,
    /// Further relays on which it is announced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<String>,
    /// Whether it is announced (kinds 0, 10002, 10050, 31990 and heartbeats).
    #[serde(default = "yes")]
    pub announce: bool,
    /// Whether encrypted requests are taken.
    #[serde(default = "yes")]
    pub encryption: bool,
    /// Sessions with customers.
    #[serde(default)]
    pub memory: Memory,
    /// What it does by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<Schedule>,
    /// Topics, for its announcement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// Why a manifest is refused: the first error that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// The path of the field, for instance `handlers[0].kind`; `.` for the whole.
    pub path: String,
    /// What is wrong with it. It contains no value of the manifest, which might be a secret.
    pub message: String,
}

impl ManifestError {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        ManifestError { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for ManifestError {}

impl Manifest {
    /// Reads and validates a manifest of at most [`BYTES_MAX`] bytes: ours, or an OpenAgents AgentManifest
    /// (`schema_version` 1.0), which is converted. Public keys become lowercase hexadecimal digits.
    ///
    /// # Errors
    /// [`ManifestError`] with the path of the field.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        let value = json::read(json)?;
        secret::refuse_inline(&value)?;
        if openagents::is_one(&value) {
            return openagents::convert(value);
        }
        let manifest = Manifest::from_value(value)?;
        manifest.validated()
    }

    /// Our format, not validated.
    fn from_value(value: Value) -> Result<Self, ManifestError> {
        // First, because what is wrong inside has no path of its own once it is part of a handler.
        handler::check_configs(&value)?;
        let manifest: Manifest = json::from_value(value.clone())?;
        let written =
            serde_json::to_value(&manifest).map_err(|_| ManifestError::new(".", "cannot be written"))?;
        json::refuse_lists_for_objects(&value, &written, "")?;
        Ok(manifest)
    }

    /// Whether a key is the one that the manifest asks for, if it asks for one.
    ///
    /// # Errors
    /// [`ManifestError`] at `pubkey`.
    pub fn check_pubkey(&self, pubkey: &PubKey) -> Result<(), ManifestError> {
        match &self.pubkey {
            Some(wanted) if *wanted != pubkey.to_string() => Err(ManifestError::new(
                "pubkey",
                "does not match the agent's key on this host; check the master secret and `identity`",
            )),
            _ => Ok(()),
        }
    }
}

fn schema() -> u32 {
    SCHEMA
}

fn yes() -> bool {
    true
}
