//! What an agent does for requests of one kind: the executor with its configuration, inputs, outputs, parameters, price.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ManifestError, json};
use crate::job::InputKind;

/// What an agent does for requests of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawHandler")]
pub struct Handler {
    /// 5000 to 5999.
    pub kind: u16,
    /// What does the work, and its configuration.
    #[serde(flatten)]
    pub executor: ExecutorConfig,
    /// The input types it takes; all if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<InputKind>,
    /// Fewest inputs of a request.
    pub inputs_min: usize,
    /// MIME types of its results; the first is the default. `text/plain` if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// Parameters by name; `-` and `_` are the same in names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, Param>,
    /// The price.
    pub price: Price,
}

/// A handler as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHandler {
    kind: u16,
    executor: ExecutorKind,
    #[serde(default)]
    config: Map<String, Value>,
    #[serde(default)]
    inputs: Vec<InputKind>,
    #[serde(default)]
    inputs_min: usize,
    #[serde(default)]
    outputs: Vec<String>,
    #[serde(default)]
    params: BTreeMap<String, Param>,
    #[serde(default)]
    price: Price,
}

impl TryFrom<RawHandler> for Handler {
    type Error = ManifestError;

    fn try_from(raw: RawHandler) -> Result<Self, ManifestError> {
        let RawHandler { kind, executor, config, inputs, inputs_min, outputs, params, price } = raw;
        let executor = ExecutorConfig::read(executor, config.into())?;
        Ok(Handler { kind, executor, inputs, inputs_min, outputs, params, price })
    }
}

/// Reads the configurations of all handlers, as far as they are there, to find what is wrong in them with its path.
pub(super) fn check_configs(manifest: &Value) -> Result<(), ManifestError> {
    let handlers = manifest.get("handlers").and_then(Value::as_array);
    for (at, handler) in handlers.into_iter().flatten().enumerate() {
        let executor = handler.get("executor").and_then(|executor| ExecutorKind::deserialize(executor).ok());
        let config = handler.get("config").cloned().unwrap_or_else(|| Map::new().into());
        if let (Some(executor), Value::Object(_)) = (executor, &config) {
            ExecutorConfig::read(executor, config).map_err(|error| {
                ManifestError::new(format!("handlers[{at}].{}", error.path), error.message)
            })?;
        }
    }
    Ok(())
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
    /// Makes the key in its input a member of the relay (NIP-43).
    Membership(MembershipConfig),
    /// Is paid for what the relay's Blossom server sells (BUD-07).
    BlobPayment(BlobPaymentConfig),
}

impl ExecutorConfig {
    /// Which executor it is for.
    pub fn kind(&self) -> ExecutorKind {
        match self {
            ExecutorConfig::Echo(_) => ExecutorKind::Echo,
            ExecutorConfig::Text(_) => ExecutorKind::Text,
            ExecutorConfig::OpenaiHttp(_) => ExecutorKind::OpenaiHttp,
            ExecutorConfig::WorkersAi(_) => ExecutorKind::WorkersAi,
            ExecutorConfig::Webhook(_) => ExecutorKind::Webhook,
            ExecutorConfig::Mcp(_) => ExecutorKind::Mcp,
            ExecutorConfig::Membership(_) => ExecutorKind::Membership,
            ExecutorConfig::BlobPayment(_) => ExecutorKind::BlobPayment,
        }
    }

    /// Reads the configuration of an executor; paths of errors begin with `config`.
    fn read(kind: ExecutorKind, config: Value) -> Result<Self, ManifestError> {
        let config = match kind {
            ExecutorKind::Echo => json::from_value(config).map(ExecutorConfig::Echo),
            ExecutorKind::Text => json::from_value(config).map(ExecutorConfig::Text),
            ExecutorKind::OpenaiHttp => json::from_value(config).map(ExecutorConfig::OpenaiHttp),
            ExecutorKind::WorkersAi => json::from_value(config).map(ExecutorConfig::WorkersAi),
            ExecutorKind::Webhook => json::from_value(config).map(ExecutorConfig::Webhook),
            ExecutorKind::Mcp => json::from_value(config).map(ExecutorConfig::Mcp),
            ExecutorKind::Membership => json::from_value(config).map(ExecutorConfig::Membership),
            ExecutorKind::BlobPayment => json::from_value(config).map(ExecutorConfig::BlobPayment),
        };
        config.map_err(|error| ManifestError::new(json::join("config", &error.path), error.message))
    }
}

/// The executors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutorKind {
    /// [`ExecutorConfig::Echo`]
    Echo,
    /// [`ExecutorConfig::Text`]
    Text,
    /// [`ExecutorConfig::OpenaiHttp`]
    OpenaiHttp,
    /// [`ExecutorConfig::WorkersAi`]
    WorkersAi,
    /// [`ExecutorConfig::Webhook`]
    Webhook,
    /// [`ExecutorConfig::Mcp`]
    Mcp,
    /// [`ExecutorConfig::Membership`]
    Membership,
    /// [`ExecutorConfig::BlobPayment`]
    BlobPayment,
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
    /// The sentences of a text whose words are the most frequent ones; three, or as many as the parameter `sentences` says.
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
    /// The argument that takes the inputs, joined by line feeds. Parameters that the handler lists are arguments of their own
    /// names, of the types that the tool's schema says.
    #[serde(default = "text_argument")]
    pub input_argument: String,
}

/// [`ExecutorConfig::Membership`]. It has no fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembershipConfig {}

/// [`ExecutorConfig::BlobPayment`]. It has no fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobPaymentConfig {}

/// The price of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "snake_case", try_from = "RawPrice")]
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

impl Price {
    /// Millisatoshis.
    pub fn msat(self) -> u64 {
        match self {
            Price::Free => 0,
            Price::PerJob { msat } => msat,
        }
    }
}

/// A price as it is written. (Serde takes any field beside the tag of an internally tagged enum's unit.)
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrice {
    model: PriceModel,
    #[serde(default)]
    msat: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum PriceModel {
    Free,
    PerJob,
}

impl TryFrom<RawPrice> for Price {
    type Error = &'static str;

    fn try_from(raw: RawPrice) -> Result<Self, &'static str> {
        match (raw.model, raw.msat) {
            (PriceModel::Free, None) => Ok(Price::Free),
            (PriceModel::Free, Some(_)) => Err("a free job has no msat"),
            (PriceModel::PerJob, Some(msat)) => Ok(Price::PerJob { msat }),
            (PriceModel::PerJob, None) => Err("per_job needs msat"),
        }
    }
}

fn yes() -> bool {
    true
}

fn text_argument() -> String {
    "text".to_owned()
}
