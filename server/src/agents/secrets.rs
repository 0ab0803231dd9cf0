//! Secrets of agents: environment variables, or files that only the relay's user can read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use relay_agent::identity::{MASTER_SECRET, Master, new_mnemonic};
use relay_agent::secrets::Secrets;

/// The largest file that is read as a secret, in bytes.
const SECRET_BYTES_MAX: u64 = 16 << 10;

/// The secrets of a relay's agents: environment variables of their names, else files in `<data>/agents/secrets`.
///
/// [`MASTER_SECRET`] is in `<data>/agents/master.key` if the environment does not have it, and is made when it is first needed.
pub(super) struct HostSecrets {
    folder: PathBuf,
    /// The seed in hexadecimal, so that a mnemonic is read once.
    master: OnceLock<String>,
}

impl HostSecrets {
    /// `folder` is `<data>/agents`.
    pub(super) fn new(folder: &Path) -> Self {
        HostSecrets { folder: folder.to_owned(), master: OnceLock::new() }
    }

    fn master(&self) -> Option<String> {
        if let Some(seed) = self.master.get() {
            return Some(seed.clone());
        }
        let path = self.folder.join("master.key");
        let text = match std::env::var(MASTER_SECRET) {
            Ok(text) => text,
            Err(_) => match read_or_make(&path) {
                Ok(text) => text,
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the master secret of agents can't be read");
                    return None;
                }
            },
        };
        // What is malformed is reported by whoever reads it.
        let Ok(master) = Master::parse(&text) else { return Some(text) };
        Some(self.master.get_or_init(|| master.seed_hex()).clone())
    }
}

impl Secrets for HostSecrets {
    fn get(&self, name: &str) -> Option<String> {
        if name == MASTER_SECRET {
            return self.master();
        }
        if !is_secret_name(name) {
            return None;
        }
        std::env::var(name).ok().or_else(|| read(&self.folder.join("secrets").join(name)).ok())
    }
}

/// Whether this names a secret of agents: names of other environment variables, and paths, do not.
fn is_secret_name(name: &str) -> bool {
    let is_own = name.starts_with("AGENT_") || name == "NOSTR_PRIVATE_KEY";
    is_own && name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
}

/// A secret in a file, without the white space around it.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(SECRET_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// Makes a file with a secret, which only its owner can read. It is complete or not there.
///
/// # Errors
/// Also if there is such a file already.
pub(crate) fn create(path: &Path, secret: &str) -> io::Result<()> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        writeln!(file, "{secret}")?;
        file.sync_all()?;
        // Unlike a rename, a link never replaces a file.
        fs::hard_link(&new, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    })();
    let _ = fs::remove_file(&new);
    written
}

fn read_or_make(path: &Path) -> io::Result<String> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut entropy = [0; 32];
            getrandom::fill(&mut entropy).map_err(io::Error::other)?;
            if let Some(folder) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            create(path, &new_mnemonic(entropy))?;
            tracing::info!(
                path = %path.display(),
                "a master secret for the keys of agents has been made: keep a copy of this file"
            );
            read(path)
        }
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_master_secret_is_made_once_and_is_its_owners() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("agents");
        let get = || HostSecrets::new(&folder).get(MASTER_SECRET).unwrap();
        let seed = get();
        assert_eq!((seed.len(), get()), (128, seed.clone()));
        let path = folder.join("master.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().split_whitespace().count(), 24);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert_eq!(create(&path, "x").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(get(), seed, "what is there is not replaced");
    }

    #[test]
    fn only_secrets_of_agents_are_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("secrets")).unwrap();
        for name in ["AGENT_KEY", "NOSTR_PRIVATE_KEY", "OTHER", "AGENT_low"] {
            fs::write(folder.path().join("secrets").join(name), " value\n").unwrap();
        }
        let secrets = HostSecrets::new(folder.path());
        let value = Some("value".to_owned());
        let cases = [
            ("AGENT_KEY", value.clone()),
            ("NOSTR_PRIVATE_KEY", value),
            ("OTHER", None),
            ("PATH", None),
            ("AGENT_low", None),
            ("AGENT_/../OTHER", None),
            ("AGENT_ABSENT", None),
        ];
        for (name, want) in cases {
            assert_eq!(secrets.get(name), want, "{name}");
        }
    }
}
