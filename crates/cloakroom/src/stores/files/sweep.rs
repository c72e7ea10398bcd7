//! Walking through the directory in slices: what is removed, and what is listed.

use std::fs::{self, OpenOptions, ReadDir};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;

use super::record::Disk;
use super::{Options, alive, names};
use crate::SessionId;

/// A walk that can be interrupted after any file; it holds one open directory a level.
pub(super) struct Walk {
    levels: usize,
    open: Vec<ReadDir>,
    /// The characters that lead to the directory which is open.
    prefix: String,
    /// A forked child shares the position in each directory with its parent.
    process: u32,
}

impl Walk {
    pub(super) fn new(options: &Options) -> io::Result<Walk> {
        Ok(Walk {
            levels: options.levels(),
            open: vec![fs::read_dir(options.directory())?],
            prefix: String::new(),
            process: std::process::id(),
        })
    }

    pub(super) fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }

    /// The next session file; `None` at the end.
    pub(super) fn next_file(&mut self) -> io::Result<Option<(SessionId, PathBuf)>> {
        while let Some(directory) = self.open.last_mut() {
            let Some(entry) = directory.next().transpose()? else {
                self.open.pop();
                self.prefix.pop();
                continue;
            };
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if self.open.len() <= self.levels {
                // A level may be a symbolic link to another disk, as for PHP's own handler.
                if name.len() == 1 && SessionId::parse(name.as_bytes()).is_ok() {
                    match fs::read_dir(entry.path()) {
                        Ok(directory) => {
                            self.open.push(directory);
                            self.prefix.push_str(name);
                        }
                        Err(error)
                            if matches!(
                                error.kind(),
                                io::ErrorKind::NotFound
                                    | io::ErrorKind::NotADirectory
                                    // Somebody else's: it must not keep us from the rest.
                                    | io::ErrorKind::PermissionDenied
                            ) => {}
                        Err(error) => return Err(error),
                    }
                }
                continue;
            }
            let id = name.strip_prefix("sess_").and_then(|id| SessionId::parse(id.as_bytes()).ok());
            if let Some(id) = id.filter(|id| id.as_str().starts_with(&self.prefix)) {
                return Ok(Some((id, entry.path())));
            }
        }
        Ok(None)
    }
}

/// Removes the file if it expired and nobody holds its lock: a request may be about to bring it back to life.
pub(super) fn remove_expired(path: &Path, lifetime: Duration, disk: Disk) -> bool {
    let expired = |stat: &fs::Metadata| stat.is_file() && !alive(stat, lifetime);
    if !fs::symlink_metadata(path).is_ok_and(|stat| expired(&stat)) {
        return false;
    }
    // A file that cannot be opened is another application's, and stays.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let Ok(file) = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) else {
        return false;
    };
    if file.try_lock().is_err() {
        return false;
    }
    let still =
        file.metadata().is_ok_and(|stat| expired(&stat) && stat.nlink() > 0 && names(path, &stat, disk));
    let removed = still && fs::remove_file(path).is_ok();
    let _ = file.unlock();
    removed
}
