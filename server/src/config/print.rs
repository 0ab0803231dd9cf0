//! The effective configuration as TOML that reads back the same but for secrets, with the origin of what was set.

use std::fmt::Write as _;

use toml::Table;

use super::layers::{Keys, flatten};
use super::{Loaded, Settings};

impl Loaded {
    /// TOML, one key a line; a comment names where a value that is not the default comes from.
    pub fn to_toml(&self) -> String {
        let table = Table::try_from(&self.settings).expect("settings are TOML");
        let mut values = std::collections::BTreeMap::new();
        flatten("", &table, &mut |key, value| {
            values.insert(key, value.clone());
        });
        let mut text = String::from(
            "# The effective configuration: flags over environment over file over what follows from memory over defaults.\n",
        );
        let mut section = String::new();
        for key in ordered() {
            let (prefix, name) = key.rsplit_once('.').unwrap_or(("", &key));
            if prefix != section {
                section = prefix.to_owned();
                let _ = write!(text, "\n[{section}]\n");
            }
            match values.get(&key) {
                None => {
                    let _ = writeln!(text, "# {name} is not set");
                }
                Some(value) => {
                    let _ = match SECRETS.contains(&&*key) {
                        true => write!(text, "# {name} is set and not shown"),
                        false => write!(text, "{name} = {value}"),
                    };
                    match self.origins.get(&key) {
                        Some(origin) => {
                            let _ = writeln!(text, "  # {}", origin.to_string().replace('\n', " "));
                        }
                        None => text.push('\n'),
                    }
                }
            }
        }
        text
    }
}

impl Settings {
    /// The settings as JSON, without secrets.
    pub(crate) fn without_secrets(&self) -> serde_json::Value {
        let mut document = serde_json::to_value(self).expect("settings are JSON");
        for key in SECRETS {
            if let Some((section, name)) = key.rsplit_once('.')
                && let Some(section) = document[section].as_object_mut()
            {
                section.remove(name);
            }
        }
        document
    }
}

/// What is set but not shown: this text is pasted into tickets.
const SECRETS: [&str; 2] = ["blobs.secret_access_key", "metrics.token"];

/// All keys, those without a section first, each section in one piece.
fn ordered() -> Vec<String> {
    let example = Table::try_from(Settings::example()).expect("settings are TOML");
    let mut keys = Vec::new();
    flatten("", &example, &mut |key, _| keys.push(key));
    debug_assert_eq!(keys.len(), Keys::all().names().count(), "keys are unique");
    keys.sort_by_key(|key| key.rsplit_once('.').map(|(section, _)| section.to_owned()));
    keys
}
