//! What an agent is: its manifest, format 1.
//!
//! A manifest is JSON (the command line converts TOML). Unknown fields are refused. Secrets are referred to by name, never
//! written into it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The format that this version writes.
pub const SCHEMA: u32 = 1;

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
    /// Public key of the owner: 64 hexadecimal digits or an npub. Whoever deploys it, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Keys that may pause, resume and drain it.
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
    /// Whether it is announced (kinds 0, 10002, 31990 and beats).
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

/// Why a manifest is refused: the first fault that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// The path of the field, for instance `handlers[0].kind`; `.` for the whole.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl Manifest {
    /// Reads and validates a manifest: ours, or an OpenAgents AgentManifest (`schema_version`), which is converted.
    ///
    /// # Errors
    /// [`ManifestError`] with the path of the field.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        let _ = json;
        todo!("manifest")
    }
}

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
}

impl Default for Identity {
    fn default() -> Self {
        Identity::Derived { account: None }
    }
}

/// What an agent does for requests of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handler {
    /// 5000 to 5999.
    pub kind: u16,
    /// What does the work, and its configuration.
    #[serde(flatten)]
    pub executor: ExecutorConfig,
    /// The input types it takes; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<crate::job::InputKind>,
    /// Fewest inputs of a request.
    #[serde(default)]
    pub inputs_min: usize,
    /// MIME types of its results; the first is the default. `text/plain` if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// Parameters by name.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub params: std::collections::BTreeMap<String, Param>,
    /// The price.
    #[serde(default)]
    pub price: Price,
}

/// A parameter that a handler knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Param {
    /// Requests without it are refused.
    pub required: bool,
    /// The values it may have; any if empty.
    pub values: Vec<String>,
    /// The value if a request has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// What does the work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "executor", content = "config", rename_all = "snake_case")]
pub enum ExecutorConfig {
    /// Returns its inputs.
    Echo(EchoConfig),
    /// A deterministic text tool.
    Text(TextConfig),
    /// An endpoint with the API of OpenAI's chat completions.
    OpenaiHttp(OpenaiConfig),
    /// A model of Cloudflare Workers AI.
    WorkersAi(WorkersAiConfig),
    /// A program of the owner's, called over HTTP.
    Webhook(WebhookConfig),
    /// A tool of an MCP server (streamable HTTP).
    Mcp(McpConfig),
}

/// [`ExecutorConfig::Echo`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EchoConfig {
    /// What precedes the inputs.
    pub prefix: String,
}

/// [`ExecutorConfig::Text`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Which tool.
    pub tool: TextTool,
}

/// The text tools. They are what their names say, and no models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextTool {
    /// Counts lines, words, characters and bytes, as JSON.
    Count,
    /// The first sentences of a text, chosen by the frequency of their words.
    Extract,
    /// In upper case.
    Uppercase,
    /// In lower case.
    Lowercase,
    /// Characters in reverse order.
    Reverse,
    /// SHA-256, in hexadecimal.
    Sha256,
}

/// [`ExecutorConfig::OpenaiHttp`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenaiConfig {
    /// Up to and including `/v1`.
    pub base_url: String,
    /// The model.
    pub model: String,
    /// The name of the secret that holds the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    /// The system message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Whether the answer is streamed, and sent on as `partial` feedback.
    #[serde(default = "yes")]
    pub stream: bool,
    /// `max_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// `temperature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
}

/// [`ExecutorConfig::WorkersAi`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkersAiConfig {
    /// For instance `@cf/meta/llama-3.1-8b-instruct`.
    pub model: String,
    /// The system message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// `max_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
}

/// [`ExecutorConfig::Webhook`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where the job is posted as JSON, signed by the agent (NIP-98).
    pub url: String,
}

/// [`ExecutorConfig::Mcp`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpConfig {
    /// The server's endpoint.
    pub url: String,
    /// The name of the tool.
    pub tool: String,
    /// The name of the secret with a bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The argument that takes the inputs, joined by line feeds; parameters are arguments of their own names.
    #[serde(default = "text_argument")]
    pub input_argument: String,
}

/// The price of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "snake_case", deny_unknown_fields)]
pub enum Price {
    /// Nothing.
    #[default]
    Free,
    /// The same for each job.
    PerJob {
        /// Millisatoshis.
        msat: u64,
    },
}

/// How an agent is paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Payment {
    /// When.
    pub policy: PaymentPolicy,
}

/// When an agent is paid. Only `free` works yet: validation refuses the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentPolicy {
    /// Never.
    #[default]
    Free,
    /// Before it works.
    Prepay,
    /// With the result.
    Postpay,
    /// A part first.
    Sample,
    /// By a hold invoice, on success.
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

fn schema() -> u32 {
    SCHEMA
}

fn yes() -> bool {
    true
}

fn note() -> u16 {
    1
}

fn text_argument() -> String {
    "text".to_owned()
}
