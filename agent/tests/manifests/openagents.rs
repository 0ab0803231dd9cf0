//! AgentManifests of OpenAgents: converted, or refused with the path in them.

use relay_agent::manifest::{ExecutorConfig, Identity, Manifest};
use serde_json::{Value, json};

use super::{HEX, NPUB, REMOVED, check_changed, parse};

/// One with every field that can be converted, and the others at their defaults.
pub(crate) fn whole() -> Value {
    json!({
        "schema_version": "1.0",
        "id": NPUB,
        "name": "summarizer",
        "version": "0.3.0",
        "description": "Summarizes texts.",
        "author": {"name": "Alice", "npub": NPUB, "email": "alice@example.com"},
        "license": "MIT",
        "homepage": "https://example.com",
        "repository": "https://example.com/git",
        "capabilities": {
            "job_kinds": [5001, 5050],
            "inputs": [
                {"input_type": "text", "mime_types": ["text/plain"], "max_size": 10_000, "description": "A text."},
                {"input_type": "url", "mime_types": ["text/html", "application/json"], "max_size": 20_000},
                {"input_type": "text"},
            ],
            "outputs": [{"mime_type": "text/markdown", "description": "The summary.", "streaming": true}],
            "skills": ["summarization", "research"],
            "model": {
                "model": "small",
                "provider": "https://models.example.com/v1",
                "context_length": 8_192,
                "max_output_tokens": 512,
                "supports_vision": false,
                "supports_tools": true,
                "supports_streaming": false,
            },
            "max_concurrent_jobs": 4,
        },
        "requirements": {
            "environment": {"type": "local"},
            "resources": {
                "network": {
                    "required": true,
                    "allowed_domains": ["*.Example.com"],
                    "websocket": false,
                    "nostr": true,
                },
                "filesystem": {"required": false},
                "max_execution_time": 90,
            },
            "sandbox": {
                "mode": "light",
                "network_isolation": false,
                "filesystem_isolation": false,
                "process_isolation": false,
            },
            "env_vars": {
                "NOSTR_PRIVATE_KEY": {"required": true, "secret": true},
                "AGENT_MODEL_KEY": {"required": true, "description": "Of the provider.", "secret": true},
            },
        },
        "economics": {
            "pricing": {"type": "free"},
            "payment_methods": [],
            "require_prepayment": false,
            "refund_policy": {"type": "no_refunds"},
        },
        "tags": ["research", "text"],
        "category": "research",
        "created_at": 1_700_000_000,
        "updated_at": 1_700_000_001,
        "signature": "00".repeat(64),
        "metadata": {"source": "catalogue"},
    })
}

fn converted(manifest: &Value) -> Manifest {
    parse(manifest).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn everything_that_can_be_converted_is() {
    let manifest = converted(&whole());
    let config = json!({
        "base_url": "https://models.example.com/v1",
        "model": "small",
        "api_key": "AGENT_MODEL_KEY",
        "stream": true,
        "max_tokens": 512,
    });
    let handler = |kind| {
        json!({
            "kind": kind,
            "executor": "openai_http",
            "config": config,
            "inputs": ["text", "url"],
            "outputs": ["text/markdown"],
        })
    };
    let ours = json!({
        "name": "summarizer",
        "version": "0.3.0",
        "about": "Summarizes texts.",
        "pubkey": HEX,
        "owner": HEX,
        "license": "MIT",
        "homepage": "https://example.com",
        "repository": "https://example.com/git",
        "category": "research",
        "metadata": {"source": "catalogue", "author": {"name": "Alice", "email": "alice@example.com"}},
        "identity": {"imported": {"secret": "NOSTR_PRIVATE_KEY"}},
        "handlers": [handler(5001), handler(5050)],
        "limits": {"concurrency": 4, "timeout_s": 90, "input_bytes": 10_000},
        "network": {"allow_domains": ["example.com"]},
        "tags": ["research", "text", "summarization"],
    });
    assert_eq!(manifest, converted(&ours));
}

#[test]
fn a_small_one() {
    let manifest = converted(&json!({
        "schema_version": "1.0",
        "name": "unnamed",
        "version": "0.0.0",
        "capabilities": {"job_kinds": [5050], "extra": {"executor": "echo"}},
        "requirements": {},
    }));
    assert!(matches!(manifest.handlers[0].executor, ExecutorConfig::Echo(_)));
    assert_eq!(manifest.identity, Identity::Derived { account: None });
    // Without its version too, which is 1.0 then.
    let other = converted(&json!({
        "name": "unnamed",
        "version": "0.0.0",
        "category": {"custom": "poetry"},
        "capabilities": {"job_kinds": [5050], "extra": {"executor": "webhook", "config": {"url": "https://a.b/"}}},
    }));
    assert_eq!(other.category.as_deref(), Some("poetry"));
}

#[test]
fn providers() {
    let executor = |model: Value| {
        let capabilities = json!({"job_kinds": [5050], "model": model});
        let manifest =
            json!({"schema_version": "1.0", "name": "a", "version": "1", "capabilities": capabilities});
        converted(&manifest).handlers[0].executor.clone()
    };
    for model in [json!({"model": "@cf/x"}), json!({"model": "x", "provider": "Cloudflare"})] {
        assert!(matches!(executor(model), ExecutorConfig::WorkersAi(_)));
    }
    let ExecutorConfig::OpenaiHttp(config) = executor(json!({"model": "x", "provider": "openai"})) else {
        panic!("another executor");
    };
    assert_eq!((config.base_url.as_str(), config.stream), ("https://api.openai.com/v1", false));
}

#[track_caller]
fn check(path: &str, value: impl Into<Value>, message: &str) {
    check_at(path, value, path, message);
}

#[track_caller]
fn check_at(changed: &str, value: impl Into<Value>, path: &str, message: &str) {
    check_changed(whole(), changed, value, path, message);
}

const NOT_CONVERTED: &str = "cannot be converted: nothing here does this";
const OWN_FORMAT_ONLY: &str =
    "is not converted: set payment and price in a manifest of this relay's own format";
const UNKNOWN: &str = "is not a known field";

#[test]
fn what_nothing_here_does_is_refused() {
    check("schema_version", "2.0", "must be 1.0");
    check_at(
        "capabilities.tools",
        json!([{"name": "read_file", "description": "Read a file"}]),
        "capabilities.tools",
        NOT_CONVERTED,
    );
    check("requirements.environment.type", "swarm", NOT_CONVERTED);
    check_at(
        "requirements.environment",
        json!({"type": "cloud", "provider": "azure"}),
        "requirements.environment.type",
        NOT_CONVERTED,
    );
    check("requirements.sandbox.mode", "full", NOT_CONVERTED);
    check("requirements.sandbox.network_isolation", true, NOT_CONVERTED);
    check("requirements.dependencies", json!([{"name": "python3"}]), NOT_CONVERTED);
    check_at("requirements.model", json!({"model": "big"}), "requirements.model.model", NOT_CONVERTED);
    for field in ["min_memory", "max_memory", "disk_space"] {
        check(&format!("requirements.resources.{field}"), 1_024, NOT_CONVERTED);
    }
    let resources = "requirements.resources";
    check_at(
        &format!("{resources}.gpu"),
        json!({"required": true}),
        &format!("{resources}.gpu.required"),
        NOT_CONVERTED,
    );
    check_at(
        &format!("{resources}.cpu"),
        json!({"min_cores": 4}),
        &format!("{resources}.cpu.min_cores"),
        NOT_CONVERTED,
    );
    check(&format!("{resources}.filesystem.read_paths"), json!(["/tmp"]), NOT_CONVERTED);
    check(&format!("{resources}.network.websocket"), true, NOT_CONVERTED);
    check(&format!("{resources}.network.blocked_domains"), json!(["a.b"]), NOT_CONVERTED);
    check("requirements.env_vars.DEBUG", json!({}), NOT_CONVERTED);
    check("requirements.env_vars.AGENT_OTHER", json!({"secret": true}), NOT_CONVERTED);
    check("requirements.env_vars.AGENT_MODEL_KEY.default", "x", NOT_CONVERTED);
    let plain = json!({"secret": false});
    check("requirements.env_vars.AGENT_MODEL_KEY", plain, NOT_CONVERTED);
}

#[test]
fn payment_is_refused_for_now() {
    for pricing in [
        json!({"type": "per_job", "millisats": 1_000}),
        json!({"type": "per_token", "input_millisats": 1, "output_millisats": 2}),
        json!({"type": "tiered", "tiers": []}),
        json!({"type": "custom", "description": "ask"}),
    ] {
        check_at("economics.pricing", pricing, "economics.pricing.type", OWN_FORMAT_ONLY);
    }
    check("economics.pricing.millisats", 1_000, OWN_FORMAT_ONLY);
    check("economics.require_prepayment", true, OWN_FORMAT_ONLY);
    check("economics.refund_policy.type", "full_refund_on_failure", OWN_FORMAT_ONLY);
    check("economics.payment_methods", json!(["lightning"]), OWN_FORMAT_ONLY);
    check("economics.min_payment", 1, OWN_FORMAT_ONLY);
    check("economics.max_job_value", 1, OWN_FORMAT_ONLY);
    let wallet = json!({"wallet_type": "lightning", "lightning_address": "a@b.c"});
    check_at("economics.wallet", wallet, "economics.wallet.lightning_address", OWN_FORMAT_ONLY);
    let shares = json!({"shares": [{"recipient": "a", "percentage": 100}]});
    check_at("economics.revenue_sharing", shares, "economics.revenue_sharing.shares", OWN_FORMAT_ONLY);
    // A secret in their wallet is not repeated.
    check_at(
        "economics.wallet",
        json!({"nwc_uri": "nostr+walletconnect://b889?secret=71a8"}),
        "economics.wallet.nwc_uri",
        "is or contains a secret; a manifest gives the name of a secret, whose value the host keeps",
    );
}

#[test]
fn unknown_and_malformed_fields() {
    check("surprise", 1, UNKNOWN);
    check("capabilities.surprise", 1, UNKNOWN);
    let extra = json!({"executor": "echo", "note": 1});
    check_at("capabilities.extra", extra, "capabilities.extra.note", UNKNOWN);
    check("capabilities", json!([null, [5050]]), "must be an object");
    check("author", json!(["Alice", NPUB, null, null]), "must be an object");
    check("requirements.resources.surprise", 1, UNKNOWN);
    check("economics.surprise", 1, UNKNOWN);
    check("name", REMOVED, "is missing");
    check("version", REMOVED, "is missing");
    check("author.name", REMOVED, "is missing");
    check("created_at", "now", "must be a whole number, 0 or greater");
    let categories = "must be one of: coding, research, writing, data, image, audio, video, automation, security, finance, \
                      general, custom";
    check("category", "poetry", categories);
    check("capabilities.model.model", REMOVED, "is missing");
    check("capabilities.inputs[0].input_type", "image", "must be one of: text, event, job, url");
    check(
        "capabilities.inputs[1].mime_types[0]",
        "image/png",
        "must be text or JSON: inputs are read as text",
    );
    check_at("capabilities.extra", json!({}), "capabilities.extra.executor", "is missing");
    check("capabilities.model", REMOVED, "is missing: without it, capabilities.extra must name an executor");
    check(
        "capabilities.model.provider",
        "anthropic",
        "must be cloudflare, openai or the URL of an OpenAI-compatible endpoint; other executors are named in \
         capabilities.extra",
    );
}

/// What our rules refuse has the path of where it came from.
#[test]
fn paths_are_theirs() {
    check("name", "", "must have 1 to 64 characters");
    check("description", "x".repeat(2_001), "must have at most 2000 characters");
    check("id", "alice", "must be a public key: 64 hexadecimal digits or an npub");
    check("author.npub", "alice", "must be a public key: 64 hexadecimal digits or an npub");
    check("homepage", "example.com", "must be a URL of scheme https or http");
    check("capabilities.job_kinds", json!([]), "needs at least one handler");
    check("capabilities.job_kinds[1]", 1, "must be from 5000 to 5999");
    check("capabilities.job_kinds[1]", 5001, "has a handler already");
    check("capabilities.outputs[0].mime_type", "markdown", "must be a MIME type");
    check("capabilities.model.model", "", "must have 1 to 200 characters");
    check("capabilities.model.max_output_tokens", 0, "must be from 1 to 1000000");
    check("capabilities.model.provider", "https://a.b/#c", "must not have a fragment");
    check("capabilities.max_concurrent_jobs", 0, "must be from 1 to 1000");
    check_at("capabilities.inputs[0].max_size", 0, "capabilities.inputs", "must be from 1 to 4194304");
    check("requirements.resources.max_execution_time", 86_400, "must be from 1 to 3600");
    check(
        "requirements.resources.network.allowed_domains[0]",
        "https://a.b",
        "must be a domain in lower case, without scheme, port or path",
    );
    check("tags[1]", "", "must have 1 to 64 characters");
    check_at("capabilities.skills", json!([""]), "capabilities.skills", "must have 1 to 64 characters");
    let extra = json!({"executor": "openai_http", "config": {"base_url": "a.b"}});
    let path = "capabilities.extra.config.base_url";
    check_at("capabilities.extra", extra, path, "must be a URL of scheme https or http");
}
