//! Sessions as files in a directory, on a local disk or on NFS: what PHP's own `files` handler keeps, shared live
//! with workers that still use it.
//!
//! | call | what the file system sees |
//! |---|---|
//! | `open`, exclusive | `open` of `sess_<id>`, `flock(LOCK_EX)`, `fstat`, `pread`; on NFS `lstat` of the name |
//! | `open`, read-only or unlocked | `open`, `fstat`, `pread`, `fstat`; no lock unless the file was written just now |
//! | `commit`, write | `fallocate` where the file must grow, one `pwrite`, `ftruncate` where it shrinks, `fstat`, unlock |
//! | `commit`, touch / delete | `futimens` / `unlink`, unlock |
//!
//! A file keeps its inode for life: a waiter of PHP's own handler has opened it already and would go on with a file
//! that was renamed away. So a record is written in place, after its space was reserved: a full disk leaves the old
//! record whole. A worker that is killed *inside* `pwrite` can leave a torn record, as with PHP's own handler.
//!
//! What that handler lacks: the wait for a lock ends (`lock`), an expired record is not served, a read without a
//! lock is never torn (`record`), a deleted session is not brought back by who waited for it, and subdirectories
//! are swept too (`sweep`).

mod errors;
mod lock;
mod options;
mod peek;
mod record;
mod sweep;

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::libc;

pub use options::Options;

use crate::{
    Access, Broken, Change, Committed, Counters, Deadline, Durability, ErrorKind, Guarantees, Hold, Lease,
    LifeTold, Lock, LockKind, Opened, Peeked, Record, Result, Seen, SessionId, Settings, Sharing, Store,
    Sweeping, Unknown, WaiterCap,
};
use lock::{Lost, Queue};
use record::Disk;
use sweep::Walk;

/// A directory of session files.
pub struct Files {
    options: Options,
    settings: Settings,
    counters: Counters,
    queue: Queue,
    /// Where the last sweep stopped.
    sweep: Option<Walk>,
    /// What the directory is on; looked up when it is first needed.
    disk: Option<Disk>,
    /// Whose files were found to be ours: asking the kernel who we are costs two system calls.
    accepted_owner: Option<u32>,
}

/// What a [`Lease`] of this store holds. Dropping it closes the file and no more: the lock belongs to every copy of
/// the descriptor, and a forked child has one.
struct Held {
    file: File,
    path: PathBuf,
    /// As it was when the lock was won.
    stat: Metadata,
    /// Whether there is a live record in it.
    known: bool,
}

/// What to do when there is no file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Leave,
}

impl Files {
    /// The store for this directory; nothing is opened yet.
    pub fn new(options: Options, settings: Settings) -> Self {
        Files {
            options,
            settings,
            counters: Counters::default(),
            queue: Queue::default(),
            sweep: None,
            disk: None,
            accepted_owner: None,
        }
    }
}

impl Store for Files {
    fn guarantees(&self) -> Guarantees {
        Guarantees {
            lock: LockKind::Kernel,
            versions: false,
            listing: true,
            sweeping: Sweeping::Needed,
            size_limit: None,
            survives_restart: Durability::Survives,
            shared_between_hosts: Sharing::IfMountIsShared,
            waiter_cap: WaiterCap::PerHost,
            life_told: LifeTold::Always,
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn exists(&mut self, id: &SessionId, _by: Deadline) -> Result<bool> {
        let Some(path) = self.options.file(id) else {
            return Ok(false);
        };
        match fs::symlink_metadata(&path) {
            Ok(stat) => Ok(stat.is_file() && alive(&stat, self.settings.lifetime)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.directory_is_there().map(|()| false)
            }
            Err(error) => Err(self.failed("cannot look for the session file", error)),
        }
    }

    fn open(&mut self, id: &SessionId, access: Access, by: Deadline) -> Result<Opened> {
        match access {
            Access::ReadOnly => {
                let record = self.read_without_lock(id, by)?;
                Ok(Opened { record, hold: Hold::ReadOnly, renewal: None })
            }
            Access::Unlocked => {
                let record = self.read_without_lock(id, by)?;
                let seen = Seen::of(record.as_ref().map(|record| record.0.as_slice()));
                Ok(Opened { record, hold: Hold::Unlocked(seen), renewal: None })
            }
            Access::Versioned => {
                Err(self.error(ErrorKind::Unsupported, "a directory does not count versions of a session"))
            }
            Access::Exclusive { wait, unknown } => {
                let missing = match unknown {
                    Unknown::Lock => Missing::Create,
                    Unknown::Refuse => Missing::Leave,
                };
                self.open_alone(id, missing, wait, by)
            }
        }
    }

    fn commit(&mut self, id: &SessionId, hold: Hold, change: Change<'_>, by: Deadline) -> Result<Committed> {
        match hold {
            Hold::ReadOnly => match change {
                Change::Keep => Ok(Committed::Done),
                _ => Err(self.error(ErrorKind::Bug, "a session that was opened read-only cannot be changed")),
            },
            Hold::Version(_) => {
                Err(self.error(ErrorKind::Unsupported, "a directory does not count versions of a session"))
            }
            Hold::Unlocked(_) => self.commit_without_lease(id, change, by),
            Hold::Lease(lease) => {
                let held: Held = lease.into_inner()?;
                let done = self.apply(&held, change);
                // Released whatever happened; the first of two errors is the one to tell.
                let released = self.unlock(&held.file);
                let done = done?;
                released?;
                Ok(done)
            }
        }
    }

    fn sweep(&mut self, lifetime: Duration, by: Deadline) -> Result<u64> {
        let mut walk = match self.sweep.take().filter(Walk::is_ours) {
            Some(walk) => walk,
            None => Walk::new(&self.options).map_err(|error| self.cannot_walk(error))?,
        };
        let disk = self.disk();
        let mut removed = 0;
        while !by.passed() {
            match walk.next_file().map_err(|error| self.cannot_walk(error))? {
                Some((_, path)) => removed += u64::from(sweep::remove_expired(&path, lifetime, disk)),
                None => return Ok(removed),
            }
        }
        self.sweep = Some(walk);
        Ok(removed)
    }

    fn list(&mut self, each: &mut dyn FnMut(SessionId) -> bool, by: Deadline) -> Result<()> {
        let mut walk = Walk::new(&self.options).map_err(|error| self.cannot_walk(error))?;
        while let Some((id, path)) = walk.next_file().map_err(|error| self.cannot_walk(error))? {
            by.check("listing the sessions").map_err(|error| error.on(self.options.name()))?;
            let live = fs::symlink_metadata(&path)
                .is_ok_and(|stat| stat.is_file() && alive(&stat, self.settings.lifetime));
            if live && !each(id) {
                break;
            }
        }
        Ok(())
    }

    fn peek(&mut self, id: &SessionId, by: Deadline) -> Result<Peeked> {
        self.look_at(id, by)
    }

    fn locks(&mut self, each: &mut dyn FnMut(SessionId, Lock) -> bool, by: Deadline) -> Result<()> {
        self.look_at_locks(each, by)
    }

    fn break_lock(&mut self, _id: &SessionId, seen: &Lock, _by: Deadline) -> Result<Broken> {
        self.refuse_to_break(seen)
    }
}

impl Files {
    fn read_without_lock(&mut self, id: &SessionId, by: Deadline) -> Result<Option<Record>> {
        let Some(path) = self.options.file(id) else {
            return Ok(None);
        };
        let Some(file) = self.open_existing(&path, OpenOptions::new().read(true))? else {
            return Ok(None);
        };
        if self.trusted(&file)?.is_none() {
            return Ok(None);
        }
        match record::read_without_lock(file, self.disk(), by) {
            Ok(Some((bytes, stat))) if alive(&stat, self.settings.lifetime) => Ok(Some(Record(bytes))),
            Ok(_) => Ok(None),
            Err(error) if vanished(&error) => Ok(None),
            Err(error) => Err(self.failed("cannot read the session file", error)),
        }
    }

    fn open_alone(
        &mut self,
        id: &SessionId,
        missing: Missing,
        wait: Duration,
        by: Deadline,
    ) -> Result<Opened> {
        let nothing = Opened { record: None, hold: Hold::ReadOnly, renewal: None };
        loop {
            let Some(held) = self.lock(id, missing, wait, by)? else {
                return Ok(nothing);
            };
            let record = match held.known {
                true => match record::read(&held.file, held.stat.len(), self.disk()) {
                    Ok(bytes) => Some(Record(bytes)),
                    // Another host removed it, and this one has only now been told.
                    Err(error) if vanished(&error) && !by.passed() => continue,
                    Err(error) => return Err(self.failed("cannot read the session file", error)),
                },
                false if missing == Missing::Leave => {
                    self.unlock(&held.file)?;
                    return Ok(nothing);
                }
                false => None,
            };
            return Ok(Opened { record, hold: Hold::Lease(Lease::new(held)), renewal: None });
        }
    }

    fn commit_without_lease(
        &mut self,
        id: &SessionId,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        let missing = match change {
            Change::Keep => return Ok(Committed::Done),
            Change::Delete => Missing::Leave,
            Change::Write(..) | Change::Touch(..) => Missing::Create,
        };
        // The lock is taken all the same: without it, two writers would mix their bytes.
        match self.lock(id, missing, Duration::MAX, by)? {
            Some(held) => {
                let done = self.apply(&held, change);
                let released = self.unlock(&held.file);
                let done = done?;
                released?;
                Ok(done)
            }
            None => Ok(Committed::Done),
        }
    }

    /// Opens the file and wins its lock; `None` when there is none and none was to be made.
    fn lock(
        &mut self,
        id: &SessionId,
        missing: Missing,
        wait: Duration,
        by: Deadline,
    ) -> Result<Option<Held>> {
        let Some(path) = self.options.file(id) else {
            return match missing {
                Missing::Leave => Ok(None),
                Missing::Create => Err(self
                    .error(ErrorKind::Config, "the session id is shorter than the directories are deep")
                    .hint("raise session.sid_length, or lower N in session.save_path = N;/path")),
            };
        };
        let mut wait_until = None;
        loop {
            let (file, created) =
                match self.open_existing(&path, OpenOptions::new().read(true).write(true))? {
                    Some(file) => (file, false),
                    None if missing == Missing::Leave => return Ok(None),
                    None => match self.create(&path)? {
                        Some(file) => (file, true),
                        None => continue,
                    },
                };
            let won = self.win(file, || *wait_until.get_or_insert_with(|| by.within(wait)))?;
            // Deleted while we waited: the lock that was won is nobody's.
            let Some((file, stat)) = won.filter(|(_, stat)| self.is_named(&path, stat)) else {
                if wait_until.unwrap_or(by).passed() {
                    return Err(self.busy());
                }
                continue;
            };
            // Somebody may have been faster to lock and write the file that was made here.
            let known = alive(&stat, self.settings.lifetime) && !(created && stat.len() == 0);
            return Ok(Some(Held { file, path, stat, known }));
        }
    }

    /// Wins the lock, and looks at the file only then: what an NFS client knew of it before is old. `None` when the
    /// file is gone, `until` is asked for only where there is a wait.
    fn win(&mut self, file: File, until: impl FnOnce() -> Deadline) -> Result<Option<(File, Metadata)>> {
        let won = match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                // Nobody is made to wait for a trap.
                self.trusted(&file)?;
                let start = Instant::now();
                self.counters.waits += 1;
                let won = self.queue.wait(file, self.settings.max_waiters, until());
                self.counters.waited += start.elapsed();
                won
            }
            Err(fs::TryLockError::Error(error)) => Err(Lost::Failed(error)),
        };
        match won {
            Ok(file) => Ok(self.trusted(&file)?.map(|stat| (file, stat))),
            Err(Lost::TimeOut) => Err(self.busy()),
            Err(Lost::Crowded(waiters)) => Err(self
                .error(ErrorKind::LockBusy, format!("{waiters} requests wait for this session already"))
                .hint("cloakroom.max_waiters sets how many may; a script that calls session_write_close() early lets them in")),
            Err(Lost::Failed(error)) if vanished(&error) => Ok(None),
            Err(Lost::Failed(error)) => Err(self.cannot_lock(error)),
        }
    }

    /// Applies a change to a file whose lock is ours.
    fn apply(&mut self, held: &Held, change: Change<'_>) -> Result<Committed> {
        match change {
            Change::Keep => Ok(Committed::Done),
            Change::Write(bytes, _) => {
                self.write(held, bytes)?;
                if !self.is_still_named(held) {
                    self.write_anew(held, bytes)?;
                }
                Ok(Committed::Done)
            }
            Change::Touch(bytes, _) if !held.known => {
                self.apply(held, Change::Write(bytes, Duration::ZERO))?;
                Ok(Committed::Rewritten)
            }
            Change::Touch(bytes, _) => {
                match record::touch(&held.file) {
                    Ok(()) => {}
                    Err(error) if vanished(&error) => {}
                    Err(error) => return Err(self.failed("cannot touch the session file", error)),
                }
                if self.is_still_named(held) {
                    return Ok(Committed::Done);
                }
                self.write_anew(held, bytes)?;
                Ok(Committed::Rewritten)
            }
            Change::Delete => {
                if self.is_still_named(held) {
                    match fs::remove_file(&held.path) {
                        Ok(()) => {}
                        Err(error) if vanished(&error) => {}
                        Err(error) => return Err(self.failed("cannot remove the session file", error)),
                    }
                }
                // PHP's own handler may wait with this very file open: it finds an empty session, not the deleted one.
                match held.file.set_len(0) {
                    Err(error) if !vanished(&error) => {
                        Err(self.failed("cannot empty the removed session file", error))
                    }
                    _ => Ok(Committed::Done),
                }
            }
        }
    }

    fn write(&mut self, held: &Held, bytes: &[u8]) -> Result<()> {
        let disk = self.disk();
        match record::write(&held.file, &held.stat, bytes, disk) {
            Err(error) if !vanished(&error) => Err(self.failed("cannot write the session file", error)),
            _ => Ok(()),
        }
    }

    /// Writes the record into a file of its own after somebody removed the one that we hold (a sweep of PHP's own
    /// handler does not look at locks).
    fn write_anew(&mut self, held: &Held, bytes: &[u8]) -> Result<()> {
        let begun_anew = |store: &mut Self| {
            store.counters.lost_leases += 1;
            store.error(
                ErrorKind::LockLost,
                "the session file was removed while its lock was ours, and another request has begun a new one",
            )
        };
        let Some(file) = self.create(&held.path)? else {
            return Err(begun_anew(self));
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(begun_anew(self)),
            Err(fs::TryLockError::Error(error)) => return Err(self.cannot_lock(error)),
        }
        let stat = file.metadata().map_err(|error| self.failed("cannot read the session file", error))?;
        let anew = Held { file, path: held.path.clone(), stat, known: false };
        self.write(&anew, bytes)?;
        self.unlock(&anew.file)
    }

    fn open_existing(&self, path: &Path, how: &mut OpenOptions) -> Result<Option<File>> {
        // No symbolic link of a neighbour is followed, and a FIFO does not block.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        match retried(|| how.custom_flags(flags).open(path)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if vanished(&error) => {
                self.directory_is_there()?;
                Ok(None)
            }
            Err(error) => Err(self.failed("cannot open the session file", error)),
        }
    }

    /// Makes the file; `None` when another request was faster.
    fn create(&self, path: &Path) -> Result<Option<File>> {
        // An existing file is never opened with O_CREAT: fs.protected_regular forbids that in a shared directory.
        let mut how = OpenOptions::new();
        how.read(true).write(true).create_new(true).mode(self.options.mode());
        match retried(|| how.open(path)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(self.failed("cannot make the session file", error)),
        }
    }

    /// What the file is, unless it is gone; as with PHP's own handler, one of another user may be a trap, unless root
    /// asks.
    fn trusted(&mut self, file: &File) -> Result<Option<Metadata>> {
        let stat = match file.metadata() {
            Ok(stat) => stat,
            Err(error) if vanished(&error) => return Ok(None),
            Err(error) => return Err(self.failed("cannot read the session file", error)),
        };
        if !stat.is_file() {
            return Err(self
                .error(ErrorKind::Auth, "the session file is not a regular file")
                .hint("remove it, and look for who made it"));
        }
        if self.accepted_owner == Some(stat.uid()) {
            return Ok(Some(stat));
        }
        let (real, effective) = (nix::unistd::getuid().as_raw(), nix::unistd::geteuid().as_raw());
        if [0, real, effective].contains(&stat.uid()) {
            self.accepted_owner = Some(stat.uid());
        } else if real != 0 {
            return Err(self
                .error(
                    ErrorKind::Auth,
                    format!("the session file belongs to user {}, and PHP runs as user {real}", stat.uid()),
                )
                .hint("give each application a directory of its own, or chown the files"));
        }
        Ok(Some(stat))
    }

    /// Whether the path names the file that this is said of just now.
    fn is_named(&mut self, path: &Path, now: &Metadata) -> bool {
        let disk = self.disk();
        names(path, now, disk)
    }

    fn is_still_named(&mut self, held: &Held) -> bool {
        held.file.metadata().is_ok_and(|now| self.is_named(&held.path, &now))
    }

    fn unlock(&mut self, file: &File) -> Result<()> {
        // Said explicitly: closing would leave the lock to a forked child's copy of the descriptor.
        file.unlock().map_err(|error| self.failed("cannot unlock the session file", error))
    }

    /// A missing file means "no such session" only while the directory is there: it may be a mount that is gone.
    fn directory_is_there(&self) -> Result<()> {
        match fs::metadata(self.options.directory()) {
            Ok(stat) if stat.is_dir() => Ok(()),
            Ok(_) => Err(self.failed("cannot use the session directory", Errno::ENOTDIR.into())),
            Err(error) => Err(self.failed("cannot use the session directory", error)),
        }
    }

    fn disk(&mut self) -> Disk {
        *self.disk.get_or_insert_with(|| Disk::of(self.options.directory()))
    }
}

/// Whether a record still lives: the test of PHP's own gc, to the second.
fn alive(stat: &Metadata, lifetime: Duration) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let age = i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(stat.mtime());
    age <= i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)
}

/// Whether the path names the file that `now` was just said of.
fn names(path: &Path, now: &Metadata, disk: Disk) -> bool {
    if disk != Disk::Remote {
        // A file of this host counts its names.
        return now.nlink() > 0;
    }
    // An NFS client asks the server about a directory when it is opened; until then it believes what it knows.
    let _ = path.parent().map(File::open);
    now.nlink() > 0
        && fs::symlink_metadata(path)
            .is_ok_and(|named| (named.dev(), named.ino()) == (now.dev(), now.ino()) && named.nlink() > 0)
}

/// Whether the error says that the file is gone: removed here, or on another host.
fn vanished(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESTALE)
}

fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
