//! Before anything is served: removes what an earlier process has left. Complete blobs that are not in the index stay:
//! the index may be a restored backup, and can be rebuilt from them.

use std::fs;
use std::io;
use std::path::Path;

use futures_util::StreamExt as _;
use relay_blossom::{Command, Outcome};

use super::index::IndexHandle;
use super::store::BlobStore;

/// Removes files that were being written in a folder: `object_store` names them `<key>#<number>` and lists none of them.
///
/// # Errors
/// If the folder cannot be read, or a file not be removed.
pub(super) fn remove_unfinished_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            match remove_unfinished_files(&entry.path()) {
                // Such as the `lost+found` of a file system.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                done => done?,
            }
        } else if is_unfinished(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_unfinished(name: &str) -> bool {
    name.rsplit_once('#')
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Removes staged bytes and parts that are not in the index.
///
/// # Errors
/// Why, if the index or the store fails.
pub(super) async fn remove_unknown_keys(index: &IndexHandle, bodies: &BlobStore) -> Result<(), String> {
    let mut keys = futures_util::stream::iter(["staged", "parts"]).flat_map(|prefix| bodies.keys(prefix));
    while let Some(key) = keys.next().await {
        let key = key.map_err(|failure| format!("{failure:?}"))?;
        let known = index.run(Command::IsKnown(key.clone())).await.map_err(|error| error.to_string())?;
        if known == Outcome::Missing {
            bodies.remove(&key).await.map_err(|failure| format!("{failure:?}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_were_being_written_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let hash = "ab".repeat(32);
        let keep =
            [format!("ab/{hash}"), "staged/5".to_owned(), format!("parts/{hash}/7"), "notes#".to_owned()];
        let removed = [format!("ab/{hash}#1"), "staged/5#12".to_owned(), format!("parts/{hash}/7#2")];
        for name in keep.iter().chain(&removed) {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "bytes").unwrap();
        }
        remove_unfinished_files(folder.path()).unwrap();
        assert!(keep.iter().all(|name| folder.path().join(name).exists()));
        assert!(removed.iter().all(|name| !folder.path().join(name).exists()));
    }
}
