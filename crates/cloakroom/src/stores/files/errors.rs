//! What an error of the file system means, and who must act.

use std::io;

use nix::errno::Errno;

use super::Files;
use crate::{Error, ErrorKind};

impl Files {
    pub(super) fn error(&self, kind: ErrorKind, what: impl Into<String>) -> Error {
        Error::new(kind, what).on(self.options.name())
    }

    pub(super) fn busy(&self) -> Error {
        self.error(ErrorKind::LockBusy, "another request kept the session locked for too long")
            .hint("raise cloakroom.lock_wait, or let that script call session_write_close() earlier")
    }

    pub(super) fn cannot_lock(&self, error: io::Error) -> Error {
        match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS => self
                .error(ErrorKind::Unsupported, "the file system of the session directory has no locks")
                .source(error)
                .hint("mount it with locking (NFS version 4, without nolock), or use another store"),
            _ => self.failed("cannot lock the session file", error),
        }
    }

    pub(super) fn cannot_walk(&self, error: io::Error) -> Error {
        self.failed("cannot list the session directory", error)
    }

    pub(super) fn failed(&self, what: &str, error: io::Error) -> Error {
        let (kind, hint) = match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::ENOENT => {
                (ErrorKind::Config, "make the directory, all levels of it, and let PHP's user write to it")
            }
            Errno::ENOTDIR => (ErrorKind::Config, "session.save_path must name a directory"),
            Errno::ENAMETOOLONG => (ErrorKind::Config, "lower session.sid_length, or shorten the path"),
            Errno::EROFS => {
                (ErrorKind::Config, "the file system is mounted read-only: choose another directory")
            }
            Errno::EACCES | Errno::EPERM => {
                (ErrorKind::Auth, "let the user that PHP runs as read and write there")
            }
            Errno::ELOOP => (ErrorKind::Auth, "a symbolic link is in the way: look for who made it"),
            Errno::ENOSPC | Errno::EDQUOT => {
                (ErrorKind::Full, "make room, or let expired sessions be removed (session_gc())")
            }
            Errno::EFBIG => (ErrorKind::TooLarge, "store less in the session, or raise the file size limit"),
            Errno::EMFILE | Errno::ENFILE => (ErrorKind::Unreachable, "raise the limit of open files"),
            _ => match error.kind() {
                // The lock of a reader that gave up; it has no errno.
                io::ErrorKind::TimedOut => {
                    (ErrorKind::LockBusy, "the record is written again and again: try later")
                }
                _ => (ErrorKind::Unreachable, "look at the disk, or at the mount of the directory"),
            },
        };
        self.error(kind, what).source(error).hint(hint)
    }
}
