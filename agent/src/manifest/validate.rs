//! The bounds of every field of a manifest.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use url::Url;

use super::secret::{check_key_name, check_token_name};
use super::{
    AccessRules, ExecutorConfig, Handler, Identity, JobLimits, Manifest, ManifestError, Memory, Network,
    PRICE_MSAT_MAX, Param, Price, SCHEMA, Schedule,
};
use crate::identity::parse_pubkey;

pub(super) type Checked = Result<(), ManifestError>;

const LIST_MAX: usize = 100;
const HANDLERS_MAX: usize = 32;
const SCHEDULES_MAX: usize = 32;
const ABOUT_CHARS_MAX: usize = 2_000;
const PROMPT_CHARS_MAX: usize = 20_000;
const URL_BYTES_MAX: usize = 1_024;
const MIB: u64 = 1 << 20;
const YEAR_S: u64 = 366 * 24 * 60 * 60;

/// Kinds of job requests (NIP-90).
const JOB_KINDS: RangeInclusive<u16> = 5_000..=5_999;
/// Kinds that the agent signs itself, or that delete: a schedule publishes none of them.
const OWN_KINDS: [u16; 8] = [0, 5, 62, 7_007, 10_002, 10_050, 11_998, 31_990];
/// Job requests, results and feedback.
const NIP90_KINDS: RangeInclusive<u16> = 5_000..=7_000;

impl Manifest {
    /// Checks every field, and writes public keys as lowercase hexadecimal digits.
    pub(super) fn validated(mut self) -> Result<Self, ManifestError> {
        if self.schema != SCHEMA {
            return Err(ManifestError::new("schema", format!("must be {SCHEMA}")));
        }
        self.check_description()?;
        self.normalise_keys()?;
        match &self.identity {
            Identity::Derived { account: Some(account) } => {
                in_range("identity.derived.account", u64::from(*account), 0..=(1 << 31) - 1)?;
            }
            Identity::Derived { account: None } => {}
            Identity::Imported { secret } => check_key_name("identity.imported.secret", secret)?,
            Identity::Bunker { secret } => self.check_bunker(secret)?,
        }
        self.check_handlers()?;
        self.check_payment()?;
        check_limits(&self.limits)?;
        check_access(&self.access)?;
        check_network(&self.network)?;
        check_memory(&self.memory)?;
        list("relays", &self.relays, |path, url| check_url(path, url, &["wss", "ws"]))?;
        list("tags", &self.tags, |path, tag| line(path, tag, 1..=64))?;
        if self.schedules.len() > SCHEDULES_MAX {
            return Err(ManifestError::new("schedules", format!("has more than {SCHEDULES_MAX} entries")));
        }
        let kinds: HashSet<u16> = self.handlers.iter().map(|handler| handler.kind).collect();
        self.schedules.iter().enumerate().try_for_each(|(at, schedule)| {
            check_schedule(&format!("schedules[{at}]"), schedule, &kinds, self.limits.input_bytes)
        })?;
        Ok(self)
    }

    /// What a remote signer needs, and what cannot be done with one.
    fn check_bunker(&self, secret: &str) -> Checked {
        check_token_name("identity.bunker.secret", secret)?;
        if self.pubkey.is_none() {
            let words = "is required with identity.bunker: the key for which the remote signer signs";
            return Err(ManifestError::new("pubkey", words));
        }
        let webhook = |handler: &Handler| matches!(handler.executor, ExecutorConfig::Webhook(_));
        match self.handlers.iter().position(webhook) {
            Some(at) => Err(ManifestError::new(
                format!("handlers[{at}].executor"),
                "cannot be webhook with identity.bunker: the relay must have the key that signs webhook calls (NIP-98)",
            )),
            None => Ok(()),
        }
    }

    fn check_description(&self) -> Checked {
        line("name", &self.name, 1..=64)?;
        line_if("version", &self.version, 64)?;
        text("about", &self.about, 0..=ABOUT_CHARS_MAX)?;
        line_if("license", &self.license, 128)?;
        line_if("category", &self.category, 64)?;
        for (path, url) in
            [("picture", &self.picture), ("homepage", &self.homepage), ("repository", &self.repository)]
        {
            if let Some(url) = url {
                check_url(path, url, &["https", "http"])?;
            }
        }
        if self.metadata.len() > LIST_MAX {
            return Err(ManifestError::new("metadata", format!("has more than {LIST_MAX} entries")));
        }
        Ok(())
    }

    fn normalise_keys(&mut self) -> Checked {
        for (path, key) in [("pubkey", &mut self.pubkey), ("owner", &mut self.owner)] {
            if let Some(key) = key {
                normalise_key(path, key)?;
            }
        }
        for (path, keys) in [
            ("operators", &mut self.operators),
            ("access.allow", &mut self.access.allow),
            ("access.deny", &mut self.access.deny),
        ] {
            check_len(path, keys)?;
            for (at, key) in keys.iter_mut().enumerate() {
                normalise_key(&format!("{path}[{at}]"), key)?;
            }
        }
        Ok(())
    }

    fn check_handlers(&self) -> Checked {
        if self.handlers.is_empty() {
            return Err(ManifestError::new("handlers", "needs at least one handler"));
        }
        if self.handlers.len() > HANDLERS_MAX {
            return Err(ManifestError::new("handlers", format!("has more than {HANDLERS_MAX} entries")));
        }
        let mut kinds = HashSet::new();
        for (at, handler) in self.handlers.iter().enumerate() {
            let path = format!("handlers[{at}]");
            if !kinds.insert(handler.kind) {
                return Err(ManifestError::new(format!("{path}.kind"), "has a handler already"));
            }
            check_handler(&path, handler)?;
            self.check_membership(&path, handler)?;
            self.check_blob_payment(&path, handler)?;
        }
        Ok(())
    }
}

fn check_handler(path: &str, handler: &Handler) -> Checked {
    let field = |name: &str| format!("{path}.{name}");
    in_range(
        &field("kind"),
        u64::from(handler.kind),
        u64::from(*JOB_KINDS.start())..=u64::from(*JOB_KINDS.end()),
    )?;
    check_executor(&field("config"), &handler.executor)?;
    list(&field("inputs"), &handler.inputs, |_, _| Ok(()))?;
    in_range(&field("inputs_min"), handler.inputs_min as u64, 0..=LIST_MAX as u64)?;
    list(&field("outputs"), &handler.outputs, |path, mime| check_mime(path, mime))?;
    if handler.params.len() > LIST_MAX {
        return Err(ManifestError::new(field("params"), format!("has more than {LIST_MAX} entries")));
    }
    let mut names = HashSet::new();
    for (name, param) in &handler.params {
        line(&field("params"), name, 1..=64)?;
        let path = format!("{path}.params.{name}");
        if !names.insert(name.replace('-', "_")) {
            return Err(ManifestError::new(path, "is a duplicate: - and _ are the same in names"));
        }
        check_param(&path, param)?;
    }
    match handler.price {
        Price::Free => Ok(()),
        Price::PerJob { msat } => in_range(&field("price.msat"), msat, 1..=PRICE_MSAT_MAX),
    }
}

fn check_param(path: &str, param: &Param) -> Checked {
    list(&format!("{path}.values"), &param.values, |path, value| text(path, value, 0..=1_024))?;
    let Some(default) = &param.default else { return Ok(()) };
    let path = format!("{path}.default");
    text(&path, default, 0..=1_024)?;
    if param.required {
        return Err(ManifestError::new(path, "is never used: the parameter is required"));
    }
    if !param.values.is_empty() && !param.values.contains(default) {
        return Err(ManifestError::new(path, "must be one of values"));
    }
    Ok(())
}

fn check_executor(path: &str, executor: &ExecutorConfig) -> Checked {
    let field = |name: &str| format!("{path}.{name}");
    let prompt = |prompt: &Option<String>| match prompt {
        Some(prompt) => text(&field("system"), prompt, 0..=PROMPT_CHARS_MAX),
        None => Ok(()),
    };
    let tokens = |tokens: Option<u32>| match tokens {
        Some(tokens) => in_range(&field("max_tokens"), u64::from(tokens), 1..=1_000_000),
        None => Ok(()),
    };
    let token = |name: &str, secret: &Option<String>| match secret {
        Some(secret) => check_token_name(&field(name), secret),
        None => Ok(()),
    };
    match executor {
        ExecutorConfig::Echo(config) => text(&field("prefix"), &config.prefix, 0..=ABOUT_CHARS_MAX),
        ExecutorConfig::Text(_) | ExecutorConfig::Membership(_) | ExecutorConfig::BlobPayment(_) => Ok(()),
        ExecutorConfig::OpenaiHttp(config) => {
            check_url(&field("base_url"), &config.base_url, &["https", "http"])?;
            if config.base_url.contains('?') {
                return Err(ManifestError::new(field("base_url"), "must not have a query"));
            }
            line(&field("model"), &config.model, 1..=200)?;
            token("api_key", &config.api_key)?;
            prompt(&config.system)?;
            tokens(config.max_tokens)?;
            match config.temperature {
                Some(temperature) if !(0.0..=2.0).contains(&temperature) => {
                    Err(ManifestError::new(field("temperature"), "must be from 0 to 2"))
                }
                _ => Ok(()),
            }
        }
        ExecutorConfig::WorkersAi(config) => {
            line(&field("model"), &config.model, 1..=200)?;
            prompt(&config.system)?;
            tokens(config.max_tokens)
        }
        ExecutorConfig::Webhook(config) => check_url(&field("url"), &config.url, &["https", "http"]),
        ExecutorConfig::Mcp(config) => {
            check_url(&field("url"), &config.url, &["https", "http"])?;
            line(&field("tool"), &config.tool, 1..=128)?;
            token("token", &config.token)?;
            line(&field("input_argument"), &config.input_argument, 1..=64)
        }
    }
}

fn check_limits(limits: &JobLimits) -> Checked {
    let JobLimits {
        concurrency,
        queue,
        timeout_s,
        attempts,
        input_bytes,
        output_bytes,
        per_customer_per_min,
        per_customer,
        chain_depth,
        // They are checked with the payment.
        daily_spend_msat: _,
        approval_msat: _,
    } = *limits;
    for (name, value, max) in [
        ("concurrency", concurrency as u64, 1_000),
        ("queue", queue as u64, 100_000),
        ("timeout_s", timeout_s, 3_600),
        ("attempts", u64::from(attempts), 10),
        ("input_bytes", input_bytes as u64, 4 * MIB),
        ("output_bytes", output_bytes as u64, 4 * MIB),
        ("per_customer_per_min", u64::from(per_customer_per_min), 100_000),
        ("per_customer", per_customer as u64, 100_000),
        ("chain_depth", u64::from(chain_depth), 32),
    ] {
        in_range(&format!("limits.{name}"), value, 1..=max)?;
    }
    Ok(())
}

fn check_access(access: &AccessRules) -> Checked {
    // The keys have been checked where they are normalised.
    let AccessRules { allow: _, deny: _, min_pow, open_jobs: _, agent_callers: _ } = access;
    in_range("access.min_pow", u64::from(*min_pow), 0..=64)
}

fn check_network(network: &Network) -> Checked {
    let Network { allow_domains, max_fetch_bytes } = network;
    list("network.allow_domains", allow_domains, |path, domain| check_domain(path, domain))?;
    in_range("network.max_fetch_bytes", *max_fetch_bytes as u64, 1..=4 * MIB)
}

fn check_memory(memory: &Memory) -> Checked {
    let Memory { sessions: _, ttl_days, messages, bytes } = *memory;
    in_range("memory.ttl_days", u64::from(ttl_days), 1..=3_650)?;
    in_range("memory.messages", messages as u64, 1..=1_000)?;
    in_range("memory.bytes", bytes as u64, 1..=4 * MIB)
}

fn check_schedule(path: &str, schedule: &Schedule, kinds: &HashSet<u16>, input_bytes: usize) -> Checked {
    let Schedule { every_s, kind, input, publish_kind } = schedule;
    let field = |name: &str| format!("{path}.{name}");
    in_range(&field("every_s"), *every_s, 60..=YEAR_S)?;
    if !kinds.contains(kind) {
        return Err(ManifestError::new(field("kind"), "has no handler"));
    }
    if input.len() > input_bytes {
        return Err(ManifestError::new(field("input"), "has more bytes than limits.input_bytes"));
    }
    if OWN_KINDS.contains(publish_kind) || NIP90_KINDS.contains(publish_kind) {
        return Err(ManifestError::new(field("publish_kind"), "is a kind that no schedule publishes"));
    }
    Ok(())
}

fn normalise_key(path: &str, key: &mut String) -> Checked {
    let Some(parsed) = parse_pubkey(key) else {
        return Err(ManifestError::new(path, "must be a public key: 64 hexadecimal digits or an npub"));
    };
    *key = parsed.to_string();
    Ok(())
}

fn check_len<T>(path: &str, items: &[T]) -> Checked {
    if items.len() > LIST_MAX {
        return Err(ManifestError::new(path, format!("has more than {LIST_MAX} entries")));
    }
    Ok(())
}

fn list<T>(path: &str, items: &[T], check: impl Fn(&str, &T) -> Checked) -> Checked {
    check_len(path, items)?;
    items.iter().enumerate().try_for_each(|(at, item)| check(&format!("{path}[{at}]"), item))
}

pub(super) fn in_range(path: &str, value: u64, range: RangeInclusive<u64>) -> Checked {
    if range.contains(&value) {
        return Ok(());
    }
    let (min, max) = range.into_inner();
    Err(ManifestError::new(path, format!("must be from {min} to {max}")))
}

/// A text of some lines.
fn text(path: &str, value: &str, chars: RangeInclusive<usize>) -> Checked {
    if chars.contains(&value.chars().count()) {
        return Ok(());
    }
    let (min, max) = chars.into_inner();
    let words = if min == 0 { format!("at most {max}") } else { format!("{min} to {max}") };
    Err(ManifestError::new(path, format!("must have {words} characters")))
}

/// A text of one line, with something in it.
fn line(path: &str, value: &str, chars: RangeInclusive<usize>) -> Checked {
    text(path, value, chars)?;
    if value.chars().any(char::is_control) || value.trim() != value {
        return Err(ManifestError::new(path, "must be one line, without white space around it"));
    }
    Ok(())
}

fn line_if(path: &str, value: &Option<String>, max: usize) -> Checked {
    value.as_ref().map_or(Ok(()), |value| line(path, value, 1..=max))
}

fn check_url(path: &str, value: &str, schemes: &[&str]) -> Checked {
    let url = Url::parse(value).ok().filter(|url| {
        value.len() <= URL_BYTES_MAX && schemes.contains(&url.scheme()) && url.host_str().is_some()
    });
    let Some(url) = url else {
        return Err(ManifestError::new(path, format!("must be a URL of scheme {}", schemes.join(" or "))));
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ManifestError::new(path, "must not contain a user or password"));
    }
    if url.fragment().is_some() {
        return Err(ManifestError::new(path, "must not have a fragment"));
    }
    Ok(())
}

/// A MIME type: two tokens of RFC 9110, parameters after them.
fn check_mime(path: &str, value: &str) -> Checked {
    line(path, value, 3..=128)?;
    let essence = value.split(';').next().unwrap_or_default().trim_end();
    let is_token = |token: &str| {
        !token.is_empty()
            && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    match essence.split_once('/') {
        Some((kind, name)) if is_token(kind) && is_token(name) => Ok(()),
        _ => Err(ManifestError::new(path, "must be a MIME type")),
    }
}

/// A domain in lower case, as URLs have it.
fn check_domain(path: &str, value: &str) -> Checked {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_domain = value.len() <= 253
        && value.split('.').all(is_label)
        && value.bytes().any(|byte| byte.is_ascii_lowercase());
    if is_domain {
        return Ok(());
    }
    Err(ManifestError::new(path, "must be a domain in lower case, without scheme, port or path"))
}
