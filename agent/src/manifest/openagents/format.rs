//! The AgentManifest of OpenAgents as it is written, format 1.0. What has to be at its default is kept as plain JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::job::InputKind;
use crate::manifest::ExecutorKind;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentManifest {
    #[serde(default = "schema_version")]
    pub(super) schema_version: String,
    pub(super) id: Option<String>,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) description: Option<String>,
    pub(super) author: Option<Author>,
    pub(super) license: Option<String>,
    pub(super) homepage: Option<String>,
    pub(super) repository: Option<String>,
    #[serde(default)]
    pub(super) capabilities: Capabilities,
    #[serde(default)]
    pub(super) requirements: Requirements,
    #[serde(default)]
    pub(super) economics: Option<Economics>,
    #[serde(default)]
    pub(super) tags: Vec<String>,
    pub(super) category: Option<Category>,
    #[serde(rename = "created_at")]
    _created_at: Option<u64>,
    #[serde(rename = "updated_at")]
    _updated_at: Option<u64>,
    #[serde(rename = "signature")]
    _signature: Option<String>,
    #[serde(default)]
    pub(super) metadata: Map<String, Value>,
}

fn schema_version() -> String {
    "1.0".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Author {
    pub(super) name: String,
    pub(super) npub: Option<String>,
    pub(super) email: Option<String>,
    pub(super) url: Option<String>,
}

/// One of their words, or `{"custom": "..."}`.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Category {
    Coding,
    Research,
    Writing,
    Data,
    Image,
    Audio,
    Video,
    Automation,
    Security,
    Finance,
    General,
    Custom(String),
}

impl Category {
    pub(super) fn into_word(self) -> String {
        let word = match self {
            Category::Coding => "coding",
            Category::Research => "research",
            Category::Writing => "writing",
            Category::Data => "data",
            Category::Image => "image",
            Category::Audio => "audio",
            Category::Video => "video",
            Category::Automation => "automation",
            Category::Security => "security",
            Category::Finance => "finance",
            Category::General => "general",
            Category::Custom(word) => return word,
        };
        word.to_owned()
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Capabilities {
    pub(super) tools: Value,
    pub(super) job_kinds: Vec<u16>,
    pub(super) inputs: Vec<InputCapability>,
    pub(super) outputs: Vec<OutputCapability>,
    pub(super) skills: BTreeSet<String>,
    pub(super) model: Option<Model>,
    pub(super) max_concurrent_jobs: Option<u32>,
    pub(super) extra: Option<Extra>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InputCapability {
    pub(super) input_type: InputKind,
    #[serde(default)]
    pub(super) mime_types: Vec<String>,
    pub(super) max_size: Option<u64>,
    #[serde(rename = "description")]
    _description: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutputCapability {
    pub(super) mime_type: String,
    #[serde(rename = "description")]
    _description: Option<String>,
    #[serde(default)]
    pub(super) streaming: bool,
}

/// What it says of the model beside these fields is a description, not a wish.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    pub(super) model: String,
    pub(super) provider: Option<String>,
    #[serde(rename = "context_length")]
    _context_length: Option<u32>,
    pub(super) max_output_tokens: Option<u32>,
    #[serde(default, rename = "supports_vision")]
    _supports_vision: bool,
    #[serde(default, rename = "supports_tools")]
    _supports_tools: bool,
    #[serde(default)]
    pub(super) supports_streaming: bool,
}

/// `extra` is free in the format; this is what is read of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Extra {
    pub(super) executor: ExecutorKind,
    #[serde(default)]
    pub(super) config: Map<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Requirements {
    pub(super) environment: Value,
    pub(super) resources: Resources,
    pub(super) model: Value,
    pub(super) sandbox: Value,
    pub(super) env_vars: BTreeMap<String, EnvVar>,
    pub(super) dependencies: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Resources {
    pub(super) min_memory: Value,
    pub(super) max_memory: Value,
    pub(super) cpu: Value,
    pub(super) gpu: Value,
    pub(super) network: NetworkAccess,
    pub(super) filesystem: Value,
    pub(super) disk_space: Value,
    pub(super) max_execution_time: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NetworkAccess {
    #[serde(rename = "required")]
    _required: bool,
    pub(super) allowed_domains: Vec<String>,
    pub(super) blocked_domains: Value,
    pub(super) websocket: Value,
    #[serde(rename = "nostr")]
    _nostr: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnvVar {
    #[serde(default, rename = "required")]
    _required: bool,
    #[serde(default)]
    pub(super) default: Value,
    #[serde(rename = "description")]
    _description: Option<String>,
    #[serde(default)]
    pub(super) secret: bool,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
pub(super) struct Economics {
    pub(super) wallet: Value,
    pub(super) pricing: Value,
    pub(super) payment_methods: Value,
    pub(super) min_payment: Value,
    pub(super) max_job_value: Value,
    pub(super) require_prepayment: Value,
    pub(super) refund_policy: Value,
    pub(super) revenue_sharing: Value,
}
