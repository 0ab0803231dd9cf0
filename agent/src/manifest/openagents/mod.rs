//! OpenAgents' own AgentManifest (`schema_version` 1.0), converted.
//!
//! | AgentManifest | here |
//! |---|---|
//! | `id` | `pubkey`: the key that the host's secrets must give |
//! | `author.npub`; the rest of `author` | `owner`; `metadata.author` |
//! | `description` | `about` |
//! | `name`, `version`, `license`, `homepage`, `repository`, `category`, `metadata` | the same |
//! | `tags`, `capabilities.skills` | `tags` |
//! | `capabilities.job_kinds` | a handler each, all with the same executor |
//! | `capabilities.extra.executor` and `.config` | the executor; without them, `capabilities.model` says which |
//! | `capabilities.model` | Workers AI if the provider is `cloudflare`; an OpenAI-compatible endpoint if it is `openai` or a URL |
//! | `capabilities.inputs` | `inputs`, `limits.input_bytes` |
//! | `capabilities.outputs` | `outputs`, streaming |
//! | `capabilities.max_concurrent_jobs` | `limits.concurrency` |
//! | `requirements.resources.max_execution_time` | `limits.timeout_s` |
//! | `requirements.resources.network.allowed_domains` | `network.allow_domains` |
//! | `requirements.env_vars` | `NOSTR_PRIVATE_KEY` is the imported identity, `AGENT_...` the key or token of the executor |
//!
//! The rest must be at its default, because nothing here does what it says: it is refused with its path, and so is everything
//! about payment: it has to be written in our own format. `created_at`, `updated_at` and `signature` are not used: the signature covers JSON of unordered
//! sets, so it cannot be checked.

mod format;
mod paths;

use serde_json::{Map, Value, json};

use super::handler::ExecutorKind;
use super::{Manifest, ManifestError, json};
use crate::job::InputKind;
use format::{AgentManifest, Author, Capabilities, Economics, EnvVar, Model, Requirements};

const OPENAI: &str = "https://api.openai.com/v1";
const PRIVATE_KEY: &str = "NOSTR_PRIVATE_KEY";
const NOT_CONVERTED: &str = "cannot be converted: nothing here does this";
const OWN_FORMAT_ONLY: &str =
    "is not converted: set payment and price in a manifest of this relay's own format";

/// Objects that serde would take as lists too, of their fields in order.
const OBJECTS: [&str; 8] = [
    "author",
    "capabilities",
    "capabilities.model",
    "capabilities.extra",
    "requirements",
    "requirements.resources",
    "requirements.resources.network",
    "economics",
];

/// Whether a document is an AgentManifest rather than ours.
pub(super) fn is_one(value: &Value) -> bool {
    value.get("schema_version").is_some()
        || (value.get("capabilities").is_some() && value.get("handlers").is_none())
}

/// Converts and validates; paths of errors are those of the AgentManifest.
pub(super) fn convert(value: Value) -> Result<Manifest, ManifestError> {
    for path in OBJECTS {
        let pointer = format!("/{}", path.replace('.', "/"));
        if value.pointer(&pointer).is_some_and(Value::is_array) {
            return Err(ManifestError::new(path, json::MUST_BE_OBJECT));
        }
    }
    let theirs: AgentManifest = json::from_value(value)?;
    if theirs.schema_version != "1.0" {
        return Err(ManifestError::new("schema_version", "must be 1.0"));
    }
    refuse_requirements(&theirs.requirements)?;
    if let Some(economics) = &theirs.economics {
        refuse_payment(economics)?;
    }
    refuse("capabilities.tools", &theirs.capabilities.tools, NOT_CONVERTED)?;
    let origin = paths::FieldSource::of(&theirs);
    let ours = translate(theirs)?;
    Manifest::from_value(ours)
        .and_then(Manifest::validated)
        .map_err(|error| ManifestError::new(origin.path(&error.path), error.message))
}

/// Our manifest, as JSON.
fn translate(theirs: AgentManifest) -> Result<Value, ManifestError> {
    let Capabilities { job_kinds, inputs, outputs, skills, max_concurrent_jobs, .. } = &theirs.capabilities;
    let (executor, config, identity) = executor(&theirs.capabilities, &theirs.requirements)?;

    let mut input_kinds: Vec<InputKind> = Vec::new();
    for (at, input) in inputs.iter().enumerate() {
        if !input_kinds.contains(&input.input_type) {
            input_kinds.push(input.input_type);
        }
        if let Some(other) = input.mime_types.iter().position(|mime| !is_text(mime)) {
            let path = format!("capabilities.inputs[{at}].mime_types[{other}]");
            return Err(ManifestError::new(path, "must be text or JSON: inputs are read as text"));
        }
    }
    let outputs: Vec<&str> = outputs.iter().map(|output| output.mime_type.as_str()).collect();
    let handlers: Vec<Value> = job_kinds
        .iter()
        .map(|kind| {
            json!({"kind": kind, "executor": executor, "config": config, "inputs": input_kinds, "outputs": outputs})
        })
        .collect();

    let mut limits = Map::new();
    if let Some(jobs) = max_concurrent_jobs {
        limits.insert("concurrency".to_owned(), json!(jobs));
    }
    if let Some(seconds) = theirs.requirements.resources.max_execution_time {
        limits.insert("timeout_s".to_owned(), json!(seconds));
    }
    if let Some(bytes) = inputs.iter().filter_map(|input| input.max_size).min() {
        limits.insert("input_bytes".to_owned(), json!(bytes));
    }
    let mut tags = theirs.tags;
    let new: Vec<String> = skills.iter().filter(|skill| !tags.contains(skill)).cloned().collect();
    tags.extend(new);
    let domains = &theirs.requirements.resources.network.allowed_domains;
    let domains: Vec<String> =
        domains.iter().map(|domain| domain.trim_start_matches("*.").to_ascii_lowercase()).collect();
    let mut metadata = theirs.metadata;
    let owner = theirs.author.and_then(|Author { name, npub, email, url }| {
        let parts = [("name", Some(name)), ("email", email), ("url", url)];
        let parts = parts.into_iter().filter_map(|(part, text)| Some((part.to_owned(), json!(text?))));
        metadata.entry("author").or_insert_with(|| parts.collect::<Map<_, _>>().into());
        npub
    });
    Ok(json!({
        "name": theirs.name,
        "version": theirs.version,
        "about": theirs.description.unwrap_or_default(),
        "pubkey": theirs.id,
        "owner": owner,
        "license": theirs.license,
        "homepage": theirs.homepage,
        "repository": theirs.repository,
        "category": theirs.category.map(format::Category::into_word),
        "metadata": metadata,
        "identity": identity,
        "handlers": handlers,
        "limits": limits,
        "network": {"allow_domains": domains},
        "tags": tags,
    }))
}

fn is_text(mime: &str) -> bool {
    mime.starts_with("text/") || mime.starts_with("application/json")
}

/// The executor with its configuration, and the identity.
fn executor(
    capabilities: &Capabilities,
    requirements: &Requirements,
) -> Result<(ExecutorKind, Map<String, Value>, Value), ManifestError> {
    let (executor, mut config) = match (&capabilities.extra, &capabilities.model) {
        (Some(extra), _) => (extra.executor, extra.config.clone()),
        (None, Some(model)) => executor_of(model)?,
        (None, None) => {
            let message = "is missing: without it, capabilities.extra must name an executor";
            return Err(ManifestError::new("capabilities.model", message));
        }
    };
    if let (Some(model), ExecutorKind::OpenaiHttp | ExecutorKind::WorkersAi) = (&capabilities.model, executor)
    {
        config.entry("model").or_insert(json!(model.model));
        if let Some(tokens) = model.max_output_tokens {
            config.entry("max_tokens").or_insert(json!(tokens));
        }
        if executor == ExecutorKind::OpenaiHttp {
            let streams =
                model.supports_streaming || capabilities.outputs.iter().any(|output| output.streaming);
            config.entry("stream").or_insert(json!(streams));
        }
    }
    let mut identity = json!({"derived": {}});
    let mut token = match executor {
        ExecutorKind::OpenaiHttp => Some("api_key"),
        ExecutorKind::Mcp => Some("token"),
        _ => None,
    };
    for (name, EnvVar { default, secret, .. }) in &requirements.env_vars {
        let path = format!("requirements.env_vars.{name}");
        refuse(&format!("{path}.default"), default, NOT_CONVERTED)?;
        if name == PRIVATE_KEY {
            identity = json!({"imported": {"secret": name}});
        } else if let (true, true, Some(field)) = (*secret, name.starts_with("AGENT_"), token.take()) {
            if config.entry(field).or_insert(json!(name)) != name {
                let message = format!("is not used: capabilities.extra.config.{field} is another secret");
                return Err(ManifestError::new(path, message));
            }
        } else {
            return Err(ManifestError::new(path, NOT_CONVERTED));
        }
    }
    Ok((executor, config, identity))
}

fn executor_of(model: &Model) -> Result<(ExecutorKind, Map<String, Value>), ManifestError> {
    let provider = model.provider.as_deref().unwrap_or_default();
    let base_url = match provider.to_ascii_lowercase().as_str() {
        "cloudflare" | "workers_ai" | "workers-ai" => return Ok((ExecutorKind::WorkersAi, Map::new())),
        "" if model.model.starts_with("@cf/") => return Ok((ExecutorKind::WorkersAi, Map::new())),
        "openai" => OPENAI,
        url if url.starts_with("http://") || url.starts_with("https://") => provider,
        _ => {
            let message = "must be cloudflare, openai or the URL of an OpenAI-compatible endpoint; other executors are \
                           named in capabilities.extra";
            return Err(ManifestError::new("capabilities.model.provider", message));
        }
    };
    let config = Map::from_iter([("base_url".to_owned(), json!(base_url))]);
    Ok((ExecutorKind::OpenaiHttp, config))
}

/// Refuses what an agent here has not: a machine of its own.
fn refuse_requirements(requirements: &Requirements) -> Result<(), ManifestError> {
    let Requirements { environment, resources, model, sandbox, env_vars: _, dependencies } = requirements;
    refuse_other("requirements.environment", environment, "type", "local", NOT_CONVERTED)?;
    refuse_other("requirements.sandbox", sandbox, "mode", "light", NOT_CONVERTED)?;
    for (path, value) in [
        ("requirements.model", model),
        ("requirements.dependencies", dependencies),
        ("requirements.resources.min_memory", &resources.min_memory),
        ("requirements.resources.max_memory", &resources.max_memory),
        ("requirements.resources.cpu", &resources.cpu),
        ("requirements.resources.gpu", &resources.gpu),
        ("requirements.resources.filesystem", &resources.filesystem),
        ("requirements.resources.disk_space", &resources.disk_space),
        ("requirements.resources.network.blocked_domains", &resources.network.blocked_domains),
        ("requirements.resources.network.websocket", &resources.network.websocket),
    ] {
        refuse(path, value, NOT_CONVERTED)?;
    }
    Ok(())
}

fn refuse_payment(economics: &Economics) -> Result<(), ManifestError> {
    refuse_other("economics.pricing", &economics.pricing, "type", "free", OWN_FORMAT_ONLY)?;
    refuse_other("economics.refund_policy", &economics.refund_policy, "type", "no_refunds", OWN_FORMAT_ONLY)?;
    for (path, value) in [
        ("economics.wallet", &economics.wallet),
        ("economics.payment_methods", &economics.payment_methods),
        ("economics.min_payment", &economics.min_payment),
        ("economics.max_job_value", &economics.max_job_value),
        ("economics.require_prepayment", &economics.require_prepayment),
        ("economics.revenue_sharing", &economics.revenue_sharing),
    ] {
        refuse(path, value, OWN_FORMAT_ONLY)?;
    }
    Ok(())
}

/// Refuses an object whose `field` is not `default`, or that has anything else in it.
fn refuse_other(
    path: &str,
    value: &Value,
    field: &str,
    default: &str,
    message: &str,
) -> Result<(), ManifestError> {
    let mut rest = value.clone();
    match rest.as_object_mut().and_then(|fields| fields.remove(field)) {
        Some(value) if value != default => Err(ManifestError::new(format!("{path}.{field}"), message)),
        _ => refuse(path, &rest, message),
    }
}

/// Refuses a value unless it is empty: null, false, 0, an empty text or list, or an object of such values.
fn refuse(path: &str, value: &Value, message: &str) -> Result<(), ManifestError> {
    let is_nothing = match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => {
            return fields
                .iter()
                .try_for_each(|(name, value)| refuse(&format!("{path}.{name}"), value, message));
        }
    };
    if is_nothing { Ok(()) } else { Err(ManifestError::new(path, message)) }
}
