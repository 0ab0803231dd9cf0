//! What everybody may see of a manifest.

use std::collections::{BTreeMap, HashSet};

use relay_engine::types::PubKey;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Handler, Manifest, Param, Payment};
use crate::identity::npub;

/// A parameter of any of an agent's handlers, as announcements show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PublicParam {
    /// Whether some handler requires it.
    pub required: bool,
    /// The values it may have; any if empty.
    pub values: Vec<String>,
}

impl Manifest {
    /// What `/agent/<npub>/manifest.json` serves: what a customer needs to know. It has neither configurations of executors
    /// and names of secrets nor lists of keys and schedules.
    ///
    /// `nip90Params` is that of the agent's announcement (kind 31990): parameters of all handlers by name.
    pub fn public_json(&self, pubkey: &PubKey) -> Value {
        let limits = &self.limits;
        json!({
            "schema": self.schema,
            "npub": npub(pubkey),
            "pubkey": pubkey.to_string(),
            "name": self.name,
            "version": self.version,
            "about": self.about,
            "picture": self.picture,
            "owner": self.owner,
            "license": self.license,
            "homepage": self.homepage,
            "repository": self.repository,
            "category": self.category,
            "tags": self.tags,
            "metadata": self.metadata,
            "handlers": self.handlers.iter().map(public_handler).collect::<Vec<_>>(),
            "nip90Params": self.nip90_params(),
            "payment": public_payment(&self.payment),
            "limits": {
                "timeout_s": limits.timeout_s,
                "input_bytes": limits.input_bytes,
                "output_bytes": limits.output_bytes,
                "per_customer_per_min": limits.per_customer_per_min,
                "per_customer": limits.per_customer,
                "chain_depth": limits.chain_depth,
            },
            "access": {
                "restricted": !self.access.allow.is_empty(),
                "min_pow": self.access.min_pow,
                "open_jobs": self.access.open_jobs,
                "agent_callers": self.access.agent_callers,
            },
            "network": self.network,
            "relays": self.relays,
            "encryption": self.encryption,
            "memory": self.memory,
        })
    }

    /// The parameters of all handlers. One that several have is required if any of them requires it, and has the values of
    /// all of them, or any value if one of them takes any.
    pub fn nip90_params(&self) -> BTreeMap<String, PublicParam> {
        let mut of_name: BTreeMap<&str, Vec<&Param>> = BTreeMap::new();
        for (name, param) in self.handlers.iter().flat_map(|handler| &handler.params) {
            of_name.entry(name).or_default().push(param);
        }
        let merged = of_name.into_iter().map(|(name, params)| {
            let takes_any = params.iter().any(|param| param.values.is_empty());
            let mut seen = HashSet::new();
            let values = params.iter().filter(|_| !takes_any).flat_map(|param| &param.values);
            let values = values.filter(|value| seen.insert(*value)).cloned().collect();
            let required = params.iter().any(|param| param.required);
            (name.to_owned(), PublicParam { required, values })
        });
        merged.collect()
    }
}

fn public_payment(payment: &Payment) -> Value {
    let Payment { policy, free_quota, refund, .. } = payment;
    let mut public = json!({"policy": policy, "free_quota": free_quota, "refund": refund});
    if payment.unpaid_limit() > 0 {
        public["unpaid_max"] = json!(payment.unpaid_limit());
    }
    if let Some((chars, percent)) = payment.sample_limits() {
        (public["sample_chars"], public["sample_percent"]) = (json!(chars), json!(percent));
    }
    if let Some(seconds) = payment.hold_seconds() {
        public["hold_s"] = json!(seconds);
    }
    if let Some(address) = &payment.zap {
        public["zap"] = json!(address);
    }
    public
}

fn public_handler(handler: &Handler) -> Value {
    let Handler { kind, executor, inputs, inputs_min, outputs, params, price } = handler;
    json!({
        "kind": kind,
        "executor": executor.kind(),
        "inputs": inputs,
        "inputs_min": inputs_min,
        "outputs": outputs,
        "params": params,
        "price": price,
    })
}
