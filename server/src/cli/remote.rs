//! What commands that ask a running relay have in common: where it is, which key signs, and how its answers are printed.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use relay_agent::identity::Keys;
use serde_json::Value;

use super::Common;
use super::client::{Base, Client};
use super::exit::Failure;
use crate::agents::owner;

/// Options of these commands.
#[derive(Args, Debug)]
pub(super) struct Remote {
    /// Configuration file of a local relay [default: $RELAY_CONFIG_FILE, else relay.toml if it exists]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Folder of a local relay, for the owner's key in it [default: relay-data]
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<String>,
    /// The relay's HTTP address [default: where the local relay listens]
    #[arg(long, value_name = "URL", global = true)]
    url: Option<String>,
    /// File with the private key that signs requests (an nsec or 64 hexadecimal digits), or `env`: it is in
    /// NOSTR_PRIVATE_KEY [default: owner.key in the data folder]
    #[arg(long, value_name = "FILE|env", global = true)]
    key: Option<String>,
    /// Print the relay's JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl Remote {
    /// The relay that is meant, and the key that signs.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let common = Common { config: self.config.clone(), data: self.data.clone(), set: Vec::new() };
        let settings = common.load(&[])?.settings;
        let base = match &self.url {
            Some(url) => Base::of_url(url)?,
            None => Base::of_local(&settings.listen, settings.url.as_deref()),
        };
        let keys = match self.key.as_deref() {
            Some(source) => read_key(source)?,
            None => {
                crate::lmdb::make_folder(&settings.data)?;
                let (keys, is_new) = owner::read_or_make(&settings.data)?;
                if is_new {
                    let path = settings.data.join("owner.key");
                    let npub = keys.npub();
                    let words = format!(
                        "relay: made {}, the key of the owner of this relay ({npub}): keep a copy of it",
                        path.display()
                    );
                    let _ = writeln!(io::stderr(), "{words}");
                }
                keys
            }
        };
        Client::new(base, keys)
    }

    /// Prints a document as it is, or in words.
    pub(super) fn show(&self, document: &Value, words: fn(&Value) -> String) -> Result<(), Failure> {
        print(&if self.json { document.to_string() } else { words(document) })
    }

    /// Prints a document that is for programs in the first place.
    pub(super) fn print_document(&self, document: &Value) -> Result<(), Failure> {
        print(&if self.json { document.to_string() } else { format!("{document:#}") })
    }
}

/// The relay does not do what was asked.
pub(super) fn refused(words: &str) -> Failure {
    let _ = writeln!(io::stderr(), "relay: {words}");
    Failure::Refused
}

/// The key of `--key`: of a file, or of NOSTR_PRIVATE_KEY if it is `env`.
pub(super) fn read_key(source: &str) -> Result<Keys, Failure> {
    if source == "env" {
        let secret = std::env::var("NOSTR_PRIVATE_KEY")
            .map_err(|_| Failure::Usage("--key env: NOSTR_PRIVATE_KEY is not set".to_owned()))?;
        return parse_key("NOSTR_PRIVATE_KEY", &secret);
    }
    let secret = std::fs::read_to_string(source)
        .map_err(|error| Failure::External(format!("cannot read {source}: {error}")))?;
    parse_key(source, &secret)
}

fn parse_key(source: &str, secret: &str) -> Result<Keys, Failure> {
    Keys::parse(secret).map_err(|error| Failure::Usage(format!("--key: {source} is {error}")))
}

/// Prints lines to standard output.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut lines = super::database::Lines::new(None)?;
    let result = lines.write(text.trim_end().as_bytes());
    lines.finish(result)
}
