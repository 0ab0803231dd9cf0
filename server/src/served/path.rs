//! The socket in a folder. The name of a socket is short (`sun_path`), that of a folder need not be.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The name of the file.
pub(super) const NAME: &str = "commands.sock";

/// Longest path that is used as it is; what the systems have room for is 104 or 108 bytes.
const PATH_BYTES_MAX: usize = 100;

/// Calls `use_path` with a path of the socket in `folder` that is short enough.
///
/// # Errors
/// Those of `use_path`, and if the folder can't be opened.
pub(super) fn with_short_path<T>(
    folder: &Path,
    use_path: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let path = folder.join(NAME);
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return use_path(&path);
    }
    // Open until it has been used.
    let folder = File::open(folder)?;
    use_path(&PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(NAME))
}
