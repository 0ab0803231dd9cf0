//! The engine's limits and policy as settings, for every format of serde. The engine has no serialisation, so the fields are
//! repeated here; a missing field or another type does not compile.

use relay_engine::policy::{Admission, Policy};
use relay_engine::types::{Kind, Limits, PubKey, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value, json};

use crate::FEATURES;

fn default_limits() -> Limits {
    Limits::default()
}

/// [`Limits`], field by field.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Limits", default = "default_limits", deny_unknown_fields)]
pub struct LimitsDef {
    message_bytes_max: usize,
    event_bytes_max: usize,
    event_tags_max: usize,
    list_tags_max: usize,
    content_chars_max: usize,
    created_at_age_seconds_max: Option<Timestamp>,
    created_at_ahead_seconds_max: Timestamp,
    pow_bits_min: u32,
    subscriptions_max: usize,
    filters_max: usize,
    filter_values_max: usize,
    connection_values_max: usize,
    shard_values_max: usize,
    limit_max: u32,
    limit_default: u32,
    step_cost_max: usize,
    count_cost_max: u64,
    outbox_pause_bytes: usize,
    outbox_bytes_max: usize,
    deferred_messages_max: usize,
    verify_batch_max: usize,
    verify_wait_ms_max: u64,
    in_flight_events_max: usize,
    in_flight_bytes_max: usize,
    connections_max: usize,
    auth_keys_max: usize,
    auth_age_seconds_max: Timestamp,
    malformed_messages_max: u32,
    events_per_minute_max: u32,
    requests_per_minute_max: u32,
    deferred_bytes_max: usize,
    shard_outbox_bytes_max: usize,
    shard_filter_bytes_max: usize,
    address_events_per_minute_max: u32,
    address_fanout_cost_per_minute_max: u32,
    address_requests_per_minute_max: u32,
    address_queries_max: usize,
    query_bytes_max: usize,
    neg_sessions_max: usize,
    neg_set_events_max: usize,
    neg_summed_events_min: usize,
    neg_sets_bytes_max: usize,
    neg_prepared_events_max: usize,
}

fn default_policy() -> Policy {
    Policy::default()
}

/// [`Policy`], field by field.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Policy", default = "default_policy", deny_unknown_fields)]
pub struct PolicyDef {
    auth_required: bool,
    challenge_on_connect: bool,
    guarded_kinds: Vec<Kind>,
    #[serde(with = "pubkeys")]
    admin_pubkeys: Vec<PubKey>,
    #[serde(with = "some_pubkeys", skip_serializing_if = "Option::is_none")]
    allow_pubkeys: Option<Vec<PubKey>>,
    #[serde(with = "admission", skip_serializing_if = "Option::is_none")]
    admission: Option<Admission>,
    #[serde(with = "pubkeys")]
    deny_pubkeys: Vec<PubKey>,
    allow_kinds: Option<Vec<Kind>>,
    deny_kinds: Vec<Kind>,
    pow_commitment_required: bool,
    eose_hints: bool,
}

/// Public keys as a list of 64 lowercase hexadecimal digits each.
pub mod pubkeys {
    use super::*;

    /// For `#[serde(with)]`.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(keys: &[PubKey], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(keys.iter().map(PubKey::to_string))
    }

    /// For `#[serde(with)]`.
    ///
    /// # Errors
    /// If a text is not a key.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PubKey>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let read = |text: String| {
            PubKey::from_hex(text.as_bytes()).map_err(|error| {
                de::Error::custom(format!("public key `{text}`: {error}; expected 64 lowercase hex digits"))
            })
        };
        texts.into_iter().map(read).collect()
    }
}

mod some_pubkeys {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        keys: &Option<Vec<PubKey>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        pubkeys::serialize(keys.as_deref().unwrap_or_default(), serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<PubKey>>, D::Error> {
        pubkeys::deserialize(deserializer).map(Some)
    }
}

/// A public key that may not be set.
pub(crate) mod some_pubkey {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(key: &Option<PubKey>, serializer: S) -> Result<S::Ok, S::Error> {
        key.as_ref().map(PubKey::to_string).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PubKey>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let key = PubKey::from_hex(text.as_bytes()).map_err(|error| {
            de::Error::custom(format!("public key `{text}`: {error}; expected 64 lowercase hex digits"))
        })?;
        Ok(Some(key))
    }
}

/// [`Admission`], if there is one.
mod admission {
    use super::*;

    /// As it is written.
    #[derive(Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Fields {
        #[serde(skip_serializing_if = "Option::is_none")]
        pubkey: Option<String>,
        msat: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        payments_url: Option<String>,
    }

    pub(super) fn serialize<S: Serializer>(
        admission: &Option<Admission>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let fields = admission.as_ref().map(|Admission { pubkey, msat, payments_url }| Fields {
            pubkey: Some(pubkey.to_string()),
            msat: *msat,
            payments_url: payments_url.clone(),
        });
        fields.serialize(serializer)
    }

    /// A table in which nothing is set, as `relay config` prints it, is none.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Admission>, D::Error> {
        let fields = Option::<Fields>::deserialize(deserializer)?.unwrap_or_default();
        let Fields { pubkey, msat, payments_url } = fields;
        let Some(pubkey) = pubkey else {
            let is_empty = msat == 0 && payments_url.is_none();
            return if is_empty { Ok(None) } else { Err(de::Error::missing_field("pubkey")) };
        };
        let key = PubKey::from_hex(pubkey.as_bytes()).map_err(|error| {
            de::Error::custom(format!("public key `{pubkey}`: {error}; expected 64 lowercase hex digits"))
        })?;
        Ok(Some(Admission { pubkey: key, msat, payments_url }))
    }
}

/// The effective configuration as JSON. Settings of [`FEATURES`] have the same keys on both hosts; the other settings of the
/// host are under `host`. `settings` must not contain secrets.
pub fn effective_config(settings: Value) -> String {
    let Value::Object(settings) = settings else { return "{}".to_owned() };
    let is_shared = |key: &str| FEATURES.iter().any(|feature| feature.settings.contains(&key));
    let (mut document, host): (Map<_, _>, Map<_, _>) =
        settings.into_iter().partition(|(key, _)| is_shared(key));
    document.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    document.insert("host".to_owned(), Value::Object(host));
    format!("{:#}\n", Value::Object(document))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_and_host_settings_are_separated() {
        let text = effective_config(json!({
            "url": "wss://relay.example", "limits": { "limit_max": 5 }, "store": { "engine": "lmdb" },
        }));
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["url"], "wss://relay.example");
        assert_eq!(document["limits"]["limit_max"], 5);
        assert_eq!(document["host"], json!({ "store": { "engine": "lmdb" } }));
        assert!(document["version"].is_string() && document.get("store").is_none());
    }
}
