//! The layers of a configuration: file, environment, flags. Each becomes a flat map from key to TOML value;
//! no layer may hold a key that does not exist.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::ConfigError;
use super::memory::Memory;
use super::settings::Settings;

/// Every key, such as `limits.limit_max`, with a value of its type.
pub(super) struct Keys(BTreeMap<String, Value>);

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A flag on the command line.
    Flag(String),
    /// Derived from the memory of the process: a fixed part of it.
    Memory {
        /// What there is.
        memory: Memory,
        /// The divisor: the value is `memory` divided by this.
        part: u64,
    },
}

impl fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigSource::File(path) => write!(f, "{}", path.display()),
            ConfigSource::Env(name) => f.write_str(name),
            ConfigSource::Flag(flag) => f.write_str(flag),
            ConfigSource::Memory { memory, part } => write!(f, "1/{part} of {memory}"),
        }
    }
}

/// Values by key, each with its origin.
pub(super) type Layer = BTreeMap<String, (Value, ConfigSource)>;

impl Keys {
    pub(super) fn all() -> Self {
        let table = Table::try_from(Settings::example()).expect("settings are TOML");
        let mut keys = BTreeMap::new();
        flatten("", &table, &mut |key, value| {
            keys.insert(key, value.clone());
        });
        Keys(keys)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    fn check(&self, key: &str, origin: &ConfigSource) -> Result<&Value, ConfigError> {
        self.0.get(key).ok_or_else(|| ConfigError::UnknownKey {
            key: key.to_owned(),
            origin: origin.clone(),
            nearest: self.nearest(key),
        })
    }

    /// The known key that `key` was most likely meant to be.
    fn nearest(&self, key: &str) -> Option<String> {
        // A right name in the wrong section is a likelier mistake than many wrong letters.
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let score = |known: &str| {
            let whole = strsim::jaro_winkler(known, key);
            let tail = strsim::jaro_winkler(&last(known), &last(key)) - 0.02;
            whole.max(tail)
        };
        let best = self.names().max_by(|a, b| score(a).total_cmp(&score(b)))?;
        (score(best) > 0.8).then(|| best.to_owned())
    }
}

/// Reads a TOML file.
pub(super) fn file(keys: &Keys, path: &Path, text: &str) -> Result<Layer, ConfigError> {
    let wrong = |message: String| ConfigError::File { path: path.to_owned(), message };
    let table: Table = text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
    let origin = ConfigSource::File(path.to_owned());
    let mut layer = Layer::new();
    flatten("", &table, &mut |key, value| {
        layer.insert(key, (value.clone(), origin.clone()));
    });
    for key in layer.keys() {
        keys.check(key, &origin)?;
    }
    // Read it alone once: its errors then name line and column.
    toml::from_str::<Settings>(text).map_err(|error| wrong(error.to_string()))?;
    Ok(layer)
}

/// Variables with the prefix that are not settings: the path of the file, and those that tests and benches of this
/// repository read.
fn is_reserved(name: &str) -> bool {
    const PREFIXES: [&str; 4] = ["RELAY_TEST_", "RELAY_BENCH_", "RELAY_FUZZ_", "RELAY_SIM_"];
    matches!(name, "RELAY_CONFIG_FILE" | "RELAY_SHARED" | "RELAY_BIN" | "RELAY_CASE" | "RELAY_GROUPS")
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether Kubernetes sets this for pods beside a Service named `relay` or `relay-...`: its address and, in the manner of
/// Docker's links, its ports.
pub(super) fn is_injected(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix("RELAY_") else { return false };
    // Names of Services have no underscore, so theirs stand alone.
    if rest.contains("__") {
        return false;
    }
    // What follows `word`, wherever it stands between underscores.
    let tails = |word: &'static str| {
        let begins_word = |at: usize| at == 0 || rest.as_bytes()[at - 1] == b'_';
        rest.match_indices(word)
            .filter(move |(at, _)| begins_word(*at))
            .map(|(at, word)| &rest[at + word.len()..])
    };
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let is_port = |tail: &str| {
        let mut parts = tail.split('_');
        parts.next().is_some_and(|number| number.parse::<u16>().is_ok())
            && parts.next().is_some_and(|part| ["TCP", "UDP", "SCTP"].contains(&part))
            && parts.next().is_none_or(|part| ["PROTO", "PORT", "ADDR"].contains(&part))
            && parts.next().is_none()
    };
    tails("SERVICE_HOST").any(str::is_empty)
        || tails("SERVICE_PORT").any(|tail| tail.is_empty() || (tail.starts_with('_') && tail.len() > 1))
        || (is_url && tails("PORT").any(str::is_empty))
        || tails("PORT_").any(is_port)
}

/// Reads `RELAY_SECTION__KEY` variables.
pub(super) fn env(
    keys: &Keys,
    vars: impl IntoIterator<Item = (String, String)>,
) -> Result<Layer, ConfigError> {
    let mut layer = Layer::new();
    for (name, text) in vars {
        let Some(rest) = name.strip_prefix("RELAY_") else { continue };
        if is_reserved(&name) || is_injected(&name, &text) {
            continue;
        }
        let key = rest.to_ascii_lowercase().replace("__", ".");
        let origin = ConfigSource::Env(name);
        let value = value(keys.check(&key, &origin)?, &key, &text, &origin)?;
        layer.insert(key, (value, origin));
    }
    Ok(layer)
}

/// Reads flags, given as (key, text, the flag as the user wrote it).
pub(super) fn flags(
    keys: &Keys,
    flags: impl IntoIterator<Item = (String, String, String)>,
) -> Result<Layer, ConfigError> {
    let mut layer = Layer::new();
    for (key, text, flag) in flags {
        let origin = ConfigSource::Flag(flag);
        let value = value(keys.check(&key, &origin)?, &key, &text, &origin)?;
        layer.insert(key, (value, origin));
    }
    Ok(layer)
}

/// Reads a value that was given as text: strings as they are, lists as TOML or separated by commas,
/// everything else as TOML.
fn value(example: &Value, key: &str, text: &str, origin: &ConfigSource) -> Result<Value, ConfigError> {
    let parse = |text: &str| -> Option<Value> { format!("v = {text}").parse::<Table>().ok()?.remove("v") };
    let read = match example {
        Value::String(_) => Some(Value::String(text.to_owned())),
        Value::Array(_) if !text.trim_start().starts_with('[') => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            let of_kinds = key.ends_with("kinds");
            items
                .map(|item| if of_kinds { parse(item) } else { Some(Value::String(item.to_owned())) })
                .collect::<Option<Vec<_>>>()
                .map(Value::Array)
        }
        _ => parse(text.trim()),
    };
    read.filter(|value| value.same_type(example)).ok_or_else(|| ConfigError::Value {
        key: key.to_owned(),
        origin: origin.clone(),
        message: format!("`{text}` is not {}", kind_of(example)),
    })
}

fn kind_of(example: &Value) -> &'static str {
    match example {
        Value::Integer(_) => "a whole number",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a list",
        _ => "a value of the right type",
    }
}

/// Calls `leaf` with every key and value below `table`.
pub(super) fn flatten(prefix: &str, table: &Table, leaf: &mut impl FnMut(String, &Value)) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, leaf),
            value => leaf(key, value),
        }
    }
}

/// Puts `value` where `key` says.
pub(super) fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}
