//! Looking at a session file and its lock, as far as this host's kernel shows it in `/proc/locks`.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use super::lock::Locks;
use super::sweep::Walk;
use super::{Files, OpenOptions, record, vanished};
use crate::{Broken, Deadline, Ends, ErrorKind, Holder, Life, Lock, Peeked, Record, Result, SessionId};

impl Files {
    /// See [`crate::Store::peek`].
    pub(super) fn look_at(&mut self, id: &SessionId, by: Deadline) -> Result<Peeked> {
        let nothing = Peeked { record: None, life: Life::Unknown, lock: None };
        let Some(path) = self.options.file(id) else {
            return Ok(nothing);
        };
        let Some(file) = self.open_existing(&path, OpenOptions::new().read(true))? else {
            return Ok(nothing);
        };
        let Some(stat) = self.trusted(&file)? else {
            return Ok(nothing);
        };
        let lock = lock(&Locks::now(), &file, &stat);
        match record::read_without_lock(file, self.disk(), by) {
            Ok(Some((bytes, stat))) => Ok(Peeked { record: Some(Record(bytes)), life: life(&stat), lock }),
            Ok(None) => Ok(nothing),
            Err(error) if vanished(&error) => Ok(nothing),
            Err(error) => Err(self.failed("cannot read the session file", error)),
        }
    }

    /// See [`crate::Store::locks`].
    pub(super) fn look_at_locks(
        &mut self,
        each: &mut dyn FnMut(SessionId, Lock) -> bool,
        by: Deadline,
    ) -> Result<()> {
        let locks = Locks::now();
        let mut walk = Walk::new(&self.options).map_err(|error| self.cannot_walk(error))?;
        while let Some((id, path)) = walk.next_file().map_err(|error| self.cannot_walk(error))? {
            by.check("listing the locks").map_err(|error| error.on(self.options.name()))?;
            let Ok(stat) = fs::symlink_metadata(&path) else { continue };
            if !stat.is_file() || locks.of(stat.dev(), stat.ino()).holder.is_none() {
                continue;
            }
            if let Some(file) = self.open_existing(&path, OpenOptions::new().read(true))?
                && let Some(stat) = self.trusted(&file)?
                && let Some(lock) = lock(&locks, &file, &stat)
                && !each(id, lock)
            {
                break;
            }
        }
        Ok(())
    }

    /// See [`crate::Store::break_lock`].
    pub(super) fn refuse_to_break(&self, seen: &Lock) -> Result<Broken> {
        let error = self.error(
            ErrorKind::Unsupported,
            format!("the kernel keeps this lock for {}, and nobody can take it away", seen.holder),
        );
        Err(match seen.holder {
            Holder::Process(pid) => error.hint(format!(
                "let the request end, or stop process {pid}: PHP-FPM starts another worker for it"
            )),
            _ => error.hint("run this on the host that has the lock, outside of its containers"),
        })
    }
}

fn life(stat: &Metadata) -> Life {
    let age = stat.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
    Life::Unused(age.unwrap_or_default())
}

/// The lock of this file: whether there is one, the file system tells, other hosts' included; whose it is, the kernel
/// shows for the processes that this host or container sees.
fn lock(locks: &Locks, file: &File, stat: &Metadata) -> Option<Lock> {
    match file.try_lock_shared() {
        Ok(()) => {
            let _ = file.unlock();
            None
        }
        Err(fs::TryLockError::WouldBlock) => {
            let seen = locks.of(stat.dev(), stat.ino());
            let holder = seen.holder.map_or(Holder::Elsewhere, Holder::Process);
            let (value, version) = (Vec::new(), 0);
            Some(Lock { holder, ends: Ends::WithProcess, waiting: Some(seen.waiting), value, version })
        }
        Err(fs::TryLockError::Error(_)) => None,
    }
}
