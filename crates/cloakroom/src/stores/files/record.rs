//! A record inside its file: read whole, written in place.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;

use super::lock::Place;
use crate::Deadline;
use crate::codec::{self, Framing};

/// A record that nobody has touched for so long is not being written, even where writers wait for a processor: a
/// write takes microseconds, and its first step marks the time.
const SETTLED: Duration = Duration::from_millis(100);

/// The same for a record that does not tell whether it is whole, and how long a reader waits at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads the record of a file whose lock is ours.
pub(super) fn read(file: &File, length: u64, disk: Disk) -> io::Result<Vec<u8>> {
    // An NFS client that won a lock may read its own cache all the same: two writes in one tick of the server's clock
    // look like one to it. (PHP's own handler loses an update in some thousands that way.)
    #[cfg(target_os = "linux")]
    if disk == Disk::Remote {
        use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
        posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    }
    let mut bytes =
        vec![0; usize::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?];
    let mut done = 0;
    while done < bytes.len() {
        match super::retried(|| file.read_at(&mut bytes[done..], done as u64))? {
            // Shorter than it was: only without the lock.
            0 => bytes.truncate(done),
            more => done += more,
        }
    }
    Ok(bytes)
}

/// Reads the record without a lock, and never half of one; `None` when the file was removed meanwhile.
///
/// A writer works in place: it truncates, writes, truncates. So what was read counts only if the file has not changed
/// for a while, or while nobody holds the lock. Only a record that is being written this very moment makes a reader
/// wait, for its turn or for the writer's pause, whichever comes first.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] when the writers never pause.
pub(super) fn read_without_lock(
    file: File,
    disk: Disk,
    by: Deadline,
) -> io::Result<Option<(Vec<u8>, Metadata)>> {
    // A moment more than it takes for a record to be old enough.
    let by = by.within(PATIENCE + SETTLED);
    let mut waiting = None;
    let mut seen: Option<(Stamp, Instant)> = None;
    loop {
        let before = file.metadata()?;
        if before.nlink() == 0 {
            return Ok(None);
        }
        let bytes = read(&file, before.len(), disk)?;
        let stamp = Stamp::of(&before);
        let unchanged = stamp == Stamp::of(&file.metadata()?);
        let watched = match seen {
            Some((old, since)) if old == stamp => since.elapsed(),
            _ => {
                seen = Some((stamp, Instant::now()));
                Duration::ZERO
            }
        };
        // Another host's clock says nothing about ours.
        let untouched = if disk == Disk::Remote { watched } else { watched.max(age(&before)) };
        let enough = match codec::framing(&bytes) {
            // PHP's own handler truncates before it writes.
            Framing::Complete if !bytes.is_empty() => Some(SETTLED),
            Framing::Complete | Framing::Unknown => Some(PATIENCE),
            Framing::Torn => None,
        };
        if unchanged && enough.is_some_and(|enough| untouched >= enough) {
            return Ok(Some((bytes, before)));
        }
        // The copy has its lock in common with `file`, so `file` is only read from once a thread waits with it.
        let place = match &waiting {
            Some(place) => place,
            None if file.try_lock_shared().is_ok() => return read_and_unlock(&file, disk),
            None => waiting.insert(Place::take(file.try_clone()?, File::lock_shared)?),
        };
        if by.passed() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if let Some(won) = place.wait(by.within(SETTLED)) {
            return read_and_unlock(&won?, disk);
        }
    }
}

fn read_and_unlock(file: &File, disk: Disk) -> io::Result<Option<(Vec<u8>, Metadata)>> {
    let stat = file.metadata()?;
    let bytes = read(file, stat.len(), disk);
    file.unlock()?;
    Ok((stat.nlink() > 0).then_some((bytes?, stat)))
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(stat: &Metadata) -> Self {
        Stamp {
            length: stat.len(),
            modified: (stat.mtime(), stat.mtime_nsec()),
            changed: (stat.ctime(), stat.ctime_nsec()),
        }
    }
}

fn age(stat: &Metadata) -> Duration {
    // A time in the future is no age.
    stat.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default()
}

/// What kind of file system the directory is on: how a write can fail half-way, and when that shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disk {
    /// Space that was reserved is there.
    Local,
    /// Even an overwrite needs new space.
    CopyOnWrite,
    /// A write that was accepted may still fail on the other host.
    Remote,
}

impl Disk {
    pub(super) fn of(directory: &Path) -> Disk {
        #[cfg(target_os = "linux")]
        if let Ok(stat) = nix::sys::statfs::statfs(directory) {
            // The type's width differs between platforms, and its sign.
            #[allow(clippy::unnecessary_cast)]
            return match stat.filesystem_type().0 as u32 {
                // nfs, smb, smb2, cifs, ceph, afs, 9p, fuse, lustre
                0x6969 | 0x517b | 0xfe53_4d42 | 0xff53_4d42 | 0x00c3_6400 | 0x5346_414f | 0x0102_1997
                | 0x6573_5546 | 0x0bd0_0bd0 => Disk::Remote,
                // btrfs, zfs, bcachefs
                0x9123_683e | 0x2fc1_2fc1 | 0xca45_1a4e => Disk::CopyOnWrite,
                _ => Disk::Local,
            };
        }
        let _ = directory;
        Disk::Local
    }
}

/// Writes the record in place of the old one. When there is no room, the old one is left, or put back.
pub(super) fn write(file: &File, stat: &Metadata, bytes: &[u8], disk: Disk) -> io::Result<()> {
    let old = match disk {
        Disk::Local if reserve(file, stat, bytes.len())? => None,
        _ => Some(read(file, stat.len(), disk)?),
    };
    let Err(error) = overwrite(file, stat, bytes, disk) else {
        return Ok(());
    };
    if let Some(old) = old {
        // The old record's space is still there; the error to tell is the first.
        let _ = file.write_all_at(&old, 0);
        let _ = file.set_len(old.len() as u64);
        let _ = file.sync_data();
    }
    Err(error)
}

fn overwrite(file: &File, stat: &Metadata, bytes: &[u8], disk: Disk) -> io::Result<()> {
    file.write_all_at(bytes, 0)?;
    if (bytes.len() as u64) < stat.len() {
        file.set_len(bytes.len() as u64)?;
    } else if bytes.is_empty() {
        // Writing nothing does not count as a change.
        touch(file)?;
    }
    if disk == Disk::Remote {
        file.sync_data()?;
    }
    Ok(())
}

/// Reserves space without changing the size that readers see; false where the file system cannot.
fn reserve(file: &File, stat: &Metadata, length: usize) -> io::Result<bool> {
    // The blocks of stat have 512 bytes whatever the file system's are.
    if length as u64 <= stat.len().min(stat.blocks().saturating_mul(512)) {
        return Ok(true);
    }
    #[cfg(target_os = "linux")]
    loop {
        use nix::fcntl::{FallocateFlags, fallocate};
        let length = i64::try_from(length).map_err(|_| io::Error::from(Errno::EFBIG))?;
        match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
            Err(Errno::EINTR) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => return Ok(false),
            done => return Ok(done.map(|()| true)?),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        Ok(false)
    }
}

/// Sets the file's time to now.
pub(super) fn touch(file: &File) -> io::Result<()> {
    Ok(futimens(file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW)?)
}
