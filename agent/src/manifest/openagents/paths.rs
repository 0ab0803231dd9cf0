//! Where in an AgentManifest a field of the converted manifest comes from.

use super::format::AgentManifest;
use crate::manifest::json::join;

/// Fields that have one origin, with whatever follows.
const SAME: [(&str, &str); 8] = [
    ("about", "description"),
    ("pubkey", "id"),
    ("owner", "author.npub"),
    ("limits.concurrency", "capabilities.max_concurrent_jobs"),
    ("limits.timeout_s", "requirements.resources.max_execution_time"),
    ("limits.input_bytes", "capabilities.inputs"),
    ("network.allow_domains", "requirements.resources.network.allowed_domains"),
    ("identity.imported.secret", "requirements.env_vars"),
];

/// What of an AgentManifest decides where fields come from.
pub(super) struct FieldSource {
    tags: usize,
    has_extra: bool,
}

impl FieldSource {
    pub(super) fn of(manifest: &AgentManifest) -> Self {
        FieldSource { tags: manifest.tags.len(), has_extra: manifest.capabilities.extra.is_some() }
    }

    /// The path in the AgentManifest of a path in ours.
    pub(super) fn path(&self, ours: &str) -> String {
        if let Some((prefix, theirs)) = SAME.iter().find(|(prefix, _)| ours.starts_with(prefix)) {
            return join(theirs, &ours[prefix.len()..]);
        }
        if let Some(number) = ours.strip_prefix("tags[").and_then(|rest| rest.strip_suffix(']')) {
            let is_tag = number.parse::<usize>().is_ok_and(|number| number < self.tags);
            return if is_tag { ours.to_owned() } else { "capabilities.skills".to_owned() };
        }
        let Some(rest) = ours.strip_prefix("handlers") else { return ours.to_owned() };
        let (number, field) = rest.split_once("].").map_or(("", ""), |(number, field)| (number, field));
        match field.split_once(['.', '[']).map_or(field, |(first, _)| first) {
            "kind" => format!("capabilities.job_kinds{number}]"),
            "inputs" => "capabilities.inputs".to_owned(),
            "outputs" => format!("capabilities.{field}.mime_type"),
            "config" => self.config(field.trim_start_matches("config").trim_start_matches('.')),
            _ => "capabilities.job_kinds".to_owned(),
        }
    }

    fn config(&self, field: &str) -> String {
        match field {
            _ if self.has_extra => join("capabilities.extra.config", field),
            "base_url" => "capabilities.model.provider".to_owned(),
            "max_tokens" => "capabilities.model.max_output_tokens".to_owned(),
            "api_key" => "requirements.env_vars".to_owned(),
            _ => "capabilities.model.model".to_owned(),
        }
    }
}
