//! The owner's key of a local relay, `<data>/owner.key`: whoever can write into the relay's folder administers its agents.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use relay_agent::identity::Keys;
use relay_engine::types::PubKey;

use super::secrets;

fn path(data: &Path) -> PathBuf {
    data.join("owner.key")
}

/// The owner's keys, which are made if there are none, and whether they have been made now.
///
/// # Errors
/// If the file cannot be read or written, or holds no key.
pub(crate) fn read_or_make(data: &Path) -> io::Result<(Keys, bool)> {
    match read(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let keys = new_keys()?;
            secrets::create(&path(data), &keys.nsec())?;
            Ok((keys, true))
        }
        found => found.map(|keys| (keys, false)),
    }
}

/// The owner's public key, if there is one.
pub(crate) fn pubkey(data: &Path) -> Option<PubKey> {
    read(data).ok().map(|keys| keys.pubkey())
}

fn read(data: &Path) -> io::Result<Keys> {
    let text = secrets::read(&path(data))?;
    Keys::parse(&text).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path(data).display()))
    })
}

/// A random key.
///
/// # Errors
/// If the system gives no random bytes.
pub(crate) fn new_keys() -> io::Result<Keys> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    Keys::from_secret_bytes(secret).map_err(io::Error::other)
}

/// Knows the owner. The file may be made while the relay serves.
#[derive(Debug)]
pub(super) struct Owner {
    data: PathBuf,
    known: Mutex<Option<PubKey>>,
}

impl Owner {
    pub(super) fn new(data: &Path) -> Self {
        Owner { data: data.to_owned(), known: Mutex::default() }
    }

    /// Whether this key is the owner's. Reads the file unless it is the key that is known.
    pub(super) fn is(&self, key: &PubKey) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != Some(*key) {
            *known = read(&self.data).ok().map(|keys| keys.pubkey());
        }
        *known == Some(*key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_the_key_in_the_file_of_the_folder() {
        let data = tempfile::tempdir().unwrap();
        let owner = Owner::new(data.path());
        assert!(!owner.is(&PubKey([1; 32])));
        let (keys, is_new) = read_or_make(data.path()).unwrap();
        assert!(
            is_new && owner.is(&keys.pubkey()) && !owner.is(&PubKey([1; 32])) && owner.is(&keys.pubkey())
        );
        let (again, is_new) = read_or_make(data.path()).unwrap();
        assert!(!is_new && again.pubkey() == keys.pubkey());
        std::fs::write(path(data.path()), "nonsense").unwrap();
        assert!(!owner.is(&PubKey([2; 32])) && !owner.is(&keys.pubkey()));
        assert_eq!(read_or_make(data.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
