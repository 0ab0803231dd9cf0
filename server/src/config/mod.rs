//! Configuration in layers; each overrides those below it:
//!
//! | layer | how |
//! |---|---|
//! | flags | `--listen`, `--data`, `--url`, `--shards`, `--log-format`, and `--set KEY=VALUE` for any key |
//! | environment | `RELAY_` and the key in capitals, sections separated by two underscores: `RELAY_LIMITS__LIMIT_MAX` |
//! | file | TOML: `--config FILE`, else `RELAY_CONFIG_FILE`, else `relay.toml` in the working folder if it is there |
//! | memory | what a shard may hold of output and of filters, by the memory that there is ([`Memory`]) |
//! | defaults | [`Settings::default`] |
//!
//! An unknown key is an error in every layer, and names the nearest known one, except for variables that Kubernetes
//! puts into the environment for a Service named `relay` or `relay-...`. Lists in environment and flags are separated
//! by commas or written as TOML. `relay config` prints what came out, and from where.

mod blobs;
mod layers;
pub(crate) mod memory;
mod print;
mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Table;

pub use blobs::Blobs;
pub use layers::ConfigSource;
pub use memory::Memory;
pub use relay_site::Info;
pub use settings::{Log, LogFormat, MetricsAccess, Network, RetentionRule, Settings, Store, StoreEngine};

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "relay.toml";

/// Where settings are read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file that must exist.
    pub file: Option<PathBuf>,
    /// Environment variables; those without the prefix are skipped.
    pub env: Vec<(String, String)>,
    /// Flags: key, value, and the flag as written.
    pub flags: Vec<(String, String, String)>,
}

/// The effective configuration, and where every value that was set came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// Origins by key, what follows from memory included; keys that are not in here have their default.
    pub origins: BTreeMap<String, ConfigSource>,
}

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The named file can't be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's message.
        message: String,
    },
    /// The file is not what it should be.
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// There is no such key.
    UnknownKey {
        /// The key.
        key: String,
        /// Who set it.
        origin: ConfigSource,
        /// What it may have been meant to be.
        nearest: Option<String>,
    },
    /// The value does not suit its key.
    Value {
        /// The key.
        key: String,
        /// Who set it.
        origin: ConfigSource,
        /// What is wrong.
        message: String,
    },
    /// Values that contradict each other or are out of range.
    Settings {
        /// What is wrong.
        message: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable { path, message } => {
                write!(f, "cannot read {}: {message}", path.display())
            }
            ConfigError::File { path, message } => write!(f, "{}: {}", path.display(), message.trim_end()),
            ConfigError::UnknownKey { key, origin, nearest } => {
                write!(f, "{origin}: unknown key `{key}`")?;
                match nearest {
                    Some(nearest) => write!(f, "; did you mean `{nearest}`?"),
                    None => f.write_str("; `relay config` lists the known ones"),
                }
            }
            ConfigError::Value { key, origin, message } => write!(f, "{origin}: `{key}`: {message}"),
            ConfigError::Settings { message } => f.write_str(message),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Sources {
    /// What this process was started with.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String, String)>) -> Self {
        let env: Vec<_> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named = || std::env::var_os("RELAY_CONFIG_FILE").map(PathBuf::from);
        let found = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.is_file());
        Sources { file: file.or_else(named).or_else(found), env, flags }
    }

    /// Reads all layers.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong, by layer.
    pub fn load(self) -> Result<Loaded, ConfigError> {
        let text = self.file.as_deref().map(read).transpose()?;
        let file = self.file.as_deref().zip(text.as_deref());
        let mut loaded = merge(file, self.env, self.flags)?;
        if let Some(memory) = memory::of_this_process() {
            loaded.derive(memory);
        }
        Ok(loaded)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), message: error.to_string() })
}

/// Lays the layers over each other; the file is given as path and text.
fn merge(
    file: Option<(&Path, &str)>,
    env: Vec<(String, String)>,
    flags: Vec<(String, String, String)>,
) -> Result<Loaded, ConfigError> {
    let keys = layers::Keys::all();
    let mut layer = file.map(|(path, text)| layers::file(&keys, path, text)).transpose()?.unwrap_or_default();
    layer.extend(layers::env(&keys, env)?);
    layer.extend(layers::flags(&keys, flags)?);

    let mut table = Table::new();
    let mut origins = BTreeMap::new();
    for (key, (value, origin)) in layer {
        layers::insert(&mut table, &key, value);
        origins.insert(key, origin);
    }
    let mut settings: Settings = table.try_into().map_err(|error: toml::de::Error| {
        let message = error.to_string().trim_end().replace('\n', ": ");
        ConfigError::Settings { message }
    })?;
    settings.check().map_err(|(key, why)| {
        let origin = origins.get(key).map_or_else(String::new, |origin| format!("{origin}: "));
        ConfigError::Settings { message: format!("{origin}`{key}` {why}") }
    })?;
    relay_site::admission::fill_payments_url(&mut settings.policy, settings.url.as_deref());
    Ok(Loaded { settings, origins })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "abababababababababababababababababababababababababababababababab";

    fn flag(key: &str, value: &str) -> (String, String, String) {
        (key.into(), value.into(), format!("--set {key}"))
    }

    fn var(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    fn load(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, String> {
        let env = env.iter().map(|(name, value)| var(name, value)).collect();
        let flags = flags.iter().map(|(key, value)| flag(key, value)).collect();
        merge(Some((Path::new("r.toml"), file)), env, flags).map_err(|error| error.to_string())
    }

    #[test]
    fn a_later_layer_wins() {
        let file = "listen = 'a:1'\ndata = 'd'\nshards = 3\n[limits]\nlimit_max = 700\npow_bits_min = 4";
        let env = [("RELAY_LISTEN", "b:2"), ("RELAY_LIMITS__POW_BITS_MIN", "5"), ("RELAY_SHARDS", "4")];
        let loaded = load(file, &env, &[("listen", "c:3"), ("limits.pow_bits_min", "6")]).unwrap();
        let settings = &loaded.settings;
        assert_eq!(settings.listen, "c:3");
        assert_eq!(settings.data, Path::new("d"));
        assert_eq!(settings.shards, 4);
        assert_eq!((settings.limits.limit_max, settings.limits.pow_bits_min), (700, 6));
        assert_eq!(settings.limits.limit_default, 500);
        assert_eq!(loaded.origins["listen"], ConfigSource::Flag("--set listen".into()));
        assert_eq!(loaded.origins["shards"], ConfigSource::Env("RELAY_SHARDS".into()));
        assert_eq!(loaded.origins["limits.limit_max"], ConfigSource::File("r.toml".into()));
        assert!(!loaded.origins.contains_key("limits.limit_default"));
    }

    #[test]
    fn mistakes_are_named() {
        type Pairs<'a> = &'a [(&'a str, &'a str)];
        let cases: [(&str, Pairs<'_>, Pairs<'_>, &str); 38] = [
            ("lisen = 'x'", &[], &[], "r.toml: unknown key `lisen`; did you mean `listen`?"),
            ("[limits]\nlimits_max = 1", &[], &[], "did you mean `limits.limit_max`?"),
            ("limit_max = 1", &[], &[], "unknown key `limit_max`; did you mean `limits.limit_max`?"),
            ("[quux]\nzzzz = 1", &[], &[], "`relay config` lists the known ones"),
            ("shards = 'many'", &[], &[], "line 1, column 10"),
            ("shards = ", &[], &[], "r.toml: TOML parse error"),
            ("", &[("RELAY_LIMITS__LIMIT_MX", "3")], &[], "RELAY_LIMITS__LIMIT_MX: unknown key"),
            ("", &[("RELAY_SHARDS", "two")], &[], "RELAY_SHARDS: `shards`: `two` is not a whole number"),
            ("", &[("RELAY_POLICY__AUTH_REQUIRED", "1")], &[], "is not true or false"),
            ("", &[], &[("limits.limit_max", "-1")], "limit_max"),
            ("", &[], &[("url", "http://x")], "--set url: `url` must be a ws:// or wss:// URL"),
            ("", &[], &[("url", "wss://")], "`url` must be a ws:// or wss:// URL"),
            ("", &[], &[("url", "ws://a b")], "`url` must be a ws:// or wss:// URL"),
            ("", &[], &[("listen", "7777")], "`listen` must be a host and a port"),
            ("", &[], &[("listen", "::1:7777")], "`listen` must be a host and a port"),
            ("", &[], &[("listen", "localhost:70000")], "`listen` must be a host and a port"),
            ("", &[], &[("log.filter", "info,=x=y")], "`log.filter` `info,=x=y`: "),
            ("", &[], &[("metrics.listen", "here")], "`metrics.listen` must be a host and a port"),
            (
                "",
                &[],
                &[("metrics.allow", "10.0.0.0/33")],
                "`metrics.allow` `10.0.0.0/33` is neither an address",
            ),
            (
                "",
                &[],
                &[("network.trusted_proxies", "nginx")],
                "`network.trusted_proxies` `nginx` is neither an address",
            ),
            (
                "",
                &[],
                &[("network.exempt_addresses", "::1/129")],
                "`network.exempt_addresses` `::1/129` is neither",
            ),
            ("", &[], &[("network.connections_per_address_max", "0")], "must be at least 1"),
            ("", &[], &[("metrics.token", "")], "`metrics.token` must be of visible"),
            ("", &[("RELAY_METRICS_LISTEN", "x:1")], &[], "did you mean `metrics.listen`?"),
            ("", &[], &[("limits.limit_default", "9999")], "is above limits.limit_max"),
            ("", &[], &[("limits.event_tags_max", "30000")], "no more than 20966 fit"),
            ("", &[], &[("policy.deny_pubkeys", "abc")], "public key `abc`"),
            ("", &[], &[("policy.deny_kinds", "x")], "is not a list"),
            ("[store]\nengine = 'sqlite'", &[], &[], "expected one of `auto`, `lmdb`, `log`, `memory`"),
            (
                "",
                &[],
                &[("blossom.payment.upload_msat_per_mib", "1")],
                "`blossom.payment.upload_msat_per_mib` needs blossom.payment.pubkey",
            ),
            ("", &[], &[("blossom.payment.pubkey", KEY)], "`blossom.payment.pubkey` is of no use without"),
            ("", &[], &[("blossom.payment.pubkey", "npub1x")], "public key `npub1x`"),
            (
                "[agents]\nenabled = false\n[blossom.payment]\ndownload_msat_per_mib = 1",
                &[],
                &[("blossom.payment.pubkey", KEY)],
                "`blossom.payment.pubkey` names an agent of this relay, and agents.enabled is off",
            ),
            ("[blobs]\nbucket = ''", &[], &[], "`blobs.bucket` is empty"),
            ("[blobs]\nprefix = 'x'", &[], &[], "`blobs.prefix` has no effect without blobs.bucket"),
            (
                "[blobs]\nbucket = 'b'\naccess_key_id = 'x'",
                &[],
                &[],
                "secret_access_key must be set together",
            ),
            ("[blobs]\nbucket = 'b'\nendpoint = 'http://x'", &[], &[], "blobs.allow_http = true allows"),
            ("[blobs]\nbucket = 'b'\nendpoint = 'x'", &[], &[], "must be an https:// URL"),
        ];
        for (file, env, flags, want) in cases {
            let got = load(file, env, flags).map(|_| ()).unwrap_err();
            assert!(got.contains(want), "{file:?} {env:?} {flags:?}\n got: {got}\nwant: {want}");
        }
    }

    #[test]
    fn lists_come_with_commas_or_as_toml() {
        let key = "ab".repeat(32);
        let env = [
            ("RELAY_POLICY__DENY_KINDS", "4, 5"),
            ("RELAY_POLICY__ALLOW_KINDS", "[1]"),
            ("RELAY_POLICY__ALLOW_PUBKEYS", key.as_str()),
            ("RELAY_SHARED", "passed over"),
            ("HOME", "passed over"),
        ];
        let policy = load("", &env, &[]).unwrap().settings.policy;
        assert_eq!((policy.deny_kinds, policy.allow_kinds), (vec![4, 5], Some(vec![1])));
        assert_eq!(policy.allow_pubkeys.map(|keys| keys[0].to_string()), Some(key));
        assert!(load("", &[], &[]).unwrap().settings.policy.allow_pubkeys.is_none());
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let key = "ab".repeat(32);
        let flags = [
            ("limits.created_at_age_seconds_max", "9"),
            ("policy.allow_pubkeys", key.as_str()),
            ("info.description", "two\n\"lines\""),
            ("data", "a b"),
            ("blossom.payment.pubkey", key.as_str()),
            ("blossom.payment.upload_msat_per_mib", "21000"),
            ("blossom.payment.free_bytes", "1024"),
        ];
        let loaded = load("", &[], &flags).unwrap();
        assert!(loaded.settings.policy.admission.is_none());
        let text = loaded.to_toml();
        let again = load(&text, &[], &[]).unwrap();
        assert_eq!(Table::try_from(&again.settings).unwrap(), Table::try_from(&loaded.settings).unwrap());
        assert!(text.contains("created_at_age_seconds_max = 9  # --set limits"), "{text}");
        assert!(text.contains("# url is not set"), "{text}");
        for key in layers::Keys::all().names() {
            let name = key.rsplit('.').next().unwrap();
            assert!(text.contains(name), "{key} is missing from\n{text}");
        }
    }

    /// Regression: a Service named `relay` kept every relay in its namespace from starting.
    #[test]
    fn what_kubernetes_injects_is_passed_over_and_a_typo_is_not() {
        let injected = [
            ("RELAY_SERVICE_HOST", "10.96.0.12"),
            ("RELAY_SERVICE_PORT", "7777"),
            ("RELAY_SERVICE_PORT_WS", "7777"),
            ("RELAY_SERVICE_PORT_METRICS_HTTP", "9464"),
            ("RELAY_PORT", "tcp://10.96.0.12:7777"),
            ("RELAY_PORT_7777_TCP", "tcp://10.96.0.12:7777"),
            ("RELAY_PORT_7777_TCP_PROTO", "tcp"),
            ("RELAY_PORT_7777_TCP_PORT", "7777"),
            ("RELAY_PORT_7777_TCP_ADDR", "10.96.0.12"),
            ("RELAY_PORT_53_UDP", "udp://10.96.0.12:53"),
            // A Service named relay-metrics, and one named relay-2.
            ("RELAY_METRICS_SERVICE_HOST", "10.96.0.13"),
            ("RELAY_METRICS_SERVICE_PORT", "9464"),
            ("RELAY_METRICS_SERVICE_PORT_HTTP", "9464"),
            ("RELAY_METRICS_PORT", "tcp://10.96.0.13:9464"),
            ("RELAY_METRICS_PORT_9464_TCP_ADDR", "10.96.0.13"),
            ("RELAY_2_PORT", "sctp://10.96.0.14:1"),
            ("RELAY_SHARDS", "3"),
        ];
        let loaded = load("", &injected, &[]).unwrap();
        assert_eq!(loaded.settings.shards, 3);
        assert_eq!(loaded.origins.len(), 1, "{:?}", loaded.origins);
        let typos = [
            ("RELAY_PORT", "7777"),
            ("RELAY_METRICS_PORT", "9464"),
            ("RELAY_PORT_TCP", "tcp://10.96.0.12:7777"),
            ("RELAY_PORT_7777", "tcp"),
            ("RELAY_SERVICE", "x"),
            ("RELAY_SERVICEHOST", "x"),
            ("RELAY_SERVICE_HOSTS", "x"),
            ("RELAY_LIMITS__SERVICE_HOST", "x"),
            ("RELAY_HOST", "x"),
        ];
        for typo in typos {
            let error = load("", &[typo], &[]).unwrap_err();
            assert!(error.contains(typo.0) && error.contains("unknown key"), "{error}");
        }
        for key in layers::Keys::all().names() {
            let name = format!("RELAY_{}", key.to_uppercase().replace('.', "__"));
            assert!(!layers::is_injected(&name, "tcp://10.96.0.12:7777"), "{name} sets a key");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let vars = [
            ("RELAY_METRICS__TOKEN", "s3cret"),
            ("RELAY_BLOBS__BUCKET", "b"),
            ("RELAY_BLOBS__ACCESS_KEY_ID", "id"),
            ("RELAY_BLOBS__SECRET_ACCESS_KEY", "s3cret"),
        ];
        let loaded = load("", &vars, &[]).unwrap();
        let shown = [
            loaded.to_toml(),
            loaded.settings.without_secrets().to_string(),
            format!("{:?}", loaded.settings.blobs),
        ];
        for text in &shown {
            assert!(!text.contains("s3cret"), "{text}");
        }
        for (name, var) in [("token", "METRICS__TOKEN"), ("secret_access_key", "BLOBS__SECRET_ACCESS_KEY")] {
            let line = format!("# {name} is set and not shown  # RELAY_{var}");
            assert!(shown[0].contains(&line), "{}", shown[0]);
        }
        assert_eq!(loaded.settings.blobs.secret_access_key.as_deref(), Some("s3cret"));
    }

    #[test]
    fn every_key_has_a_variable_that_sets_it() {
        for key in layers::Keys::all().names() {
            let name = format!("RELAY_{}", key.to_uppercase().replace('.', "__"));
            let loaded = load("", &[(&name, "")], &[]);
            // Empty text suits strings and lists only; but no key may be unknown.
            if let Err(error) = loaded {
                assert!(!error.contains("unknown key"), "{error}");
            }
        }
    }
}
