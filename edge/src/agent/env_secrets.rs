//! The secrets that agents may use, from the Worker's variables and secrets.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use relay_agent::identity::{MASTER_SECRET, Master};
use relay_agent::secrets::Secrets;

/// The last master secret and the seed that is made of it, which for a mnemonic takes 2,048 rounds of hashing. Of the isolate,
/// because each request reads its variables anew.
static SEED: Mutex<Option<(String, String)>> = Mutex::new(None);

/// The seed, in hexadecimal; what is malformed is reported by whoever reads it.
fn seed(master: String) -> String {
    let mut last = SEED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, seed)) = last.as_ref().filter(|(of, _)| *of == master) {
        return seed.clone();
    }
    let Ok(parsed) = Master::parse(&master) else { return master };
    let seed = parsed.seed_hex();
    *last = Some((master, seed.clone()));
    seed
}

/// Variables of the Worker that manifests may name, and [`MASTER_SECRET`]. Their
/// values are never printed.
#[derive(Clone, Default)]
pub struct EnvSecrets(BTreeMap<String, String>);

impl EnvSecrets {
    /// Of all variables, keeps those whose names begin with `AGENT_`, and `NOSTR_PRIVATE_KEY`.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let is_for_agents = |name: &str| name.starts_with("AGENT_") || name == "NOSTR_PRIVATE_KEY";
        EnvSecrets(variables.into_iter().filter(|(name, _)| is_for_agents(name)).collect())
    }
}

impl fmt::Debug for EnvSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets for EnvSecrets {
    fn get(&self, name: &str) -> Option<String> {
        let value = self.0.get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        if name == MASTER_SECRET { value.map(seed) } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mnemonic_is_given_as_its_seed() {
        let words = relay_agent::identity::new_mnemonic([7; 32]);
        let want = Master::parse(&words).map(|master| master.seed_hex()).ok();
        let secrets = EnvSecrets::new([(MASTER_SECRET.to_owned(), format!(" {words}\n"))]);
        assert!(want.is_some());
        // Made, and remembered.
        assert_eq!((secrets.get(MASTER_SECRET), secrets.get(MASTER_SECRET)), (want.clone(), want));
        let other = EnvSecrets::new([(MASTER_SECRET.to_owned(), "5a".repeat(32))]);
        assert_eq!(other.get(MASTER_SECRET), Some("5a".repeat(32)));
    }

    #[test]
    fn agents_get_their_own_secrets_only_and_none_is_printed() {
        let variables = [
            ("AGENT_MASTER_SECRET", " 0b0b \n"),
            ("NOSTR_PRIVATE_KEY", "nsec1"),
            ("AGENT_EMPTY", " "),
            ("METRICS_TOKEN", "hidden"),
            ("RELAY_PRIVATE_KEY", "hidden"),
        ];
        let secrets = EnvSecrets::new(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let get = |name: &str| secrets.get(name);
        assert_eq!(get("AGENT_MASTER_SECRET").as_deref(), Some("0b0b"));
        assert_eq!(get("NOSTR_PRIVATE_KEY").as_deref(), Some("nsec1"));
        for name in ["AGENT_EMPTY", "AGENT_ABSENT", "METRICS_TOKEN", "RELAY_PRIVATE_KEY"] {
            assert_eq!(get(name), None, "{name}");
        }
        let shown = format!("{secrets:?}");
        assert!(shown.contains("NOSTR_PRIVATE_KEY") && !shown.contains("nsec1"), "{shown}");
    }
}
