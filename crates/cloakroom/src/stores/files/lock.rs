//! Waiting for a lock without waiting for ever.
//!
//! `flock` has no timeout, and asking again and again starves beside a handler that blocks (2 turns against 781).
//! So a thread of its own blocks in `flock`, in the kernel's queue with everybody else, and hands the file over when
//! it wins. If its turn comes too late it unlocks at once. A worker that comes back for the same session before that
//! takes its old place in the queue again, so one worker never stands in it twice.

use std::fs::File;
use std::io;
use std::num::NonZeroU32;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::stat::{major, minor};

use crate::Deadline;

/// The places that this worker has in queues for locks.
#[derive(Default)]
pub(super) struct Queue {
    given_up: Vec<Place>,
}

/// Why a lock was not won.
#[derive(Debug)]
pub(super) enum Lost {
    TimeOut,
    /// So many wait already.
    Crowded(u32),
    Failed(io::Error),
}

/// One thread that waits for one file.
pub(super) struct Place {
    turn: Arc<Turn>,
    device: u64,
    inode: u64,
    /// A forked child has the places of its parent, but not the threads.
    process: u32,
}

#[derive(Default)]
struct Turn {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Waiting,
    /// Nobody waits for the result any more.
    GivenUp,
    Done(io::Result<File>),
    /// The result was taken, or came too late.
    Over,
}

impl Queue {
    /// Waits for the exclusive lock of `file`, which is known to be taken.
    pub(super) fn wait(
        &mut self,
        file: File,
        max_waiters: Option<NonZeroU32>,
        by: Deadline,
    ) -> Result<File, Lost> {
        let stat = file.metadata().map_err(Lost::Failed)?;
        let old = self.place_of(stat.dev(), stat.ino());
        if let Some(most) = max_waiters {
            let others = waiters(stat.dev(), stat.ino()).saturating_sub(u32::from(old.is_some()));
            if others >= most.get() {
                self.given_up.extend(old);
                return Err(Lost::Crowded(others));
            }
        }
        if by.passed() {
            self.given_up.extend(old);
            return Err(Lost::TimeOut);
        }
        let place = match old {
            Some(place) => place,
            None => Place::take(file, File::lock).map_err(Lost::Failed)?,
        };
        match place.wait(by).or_else(|| place.turn.give_up()) {
            Some(won) => won.map_err(Lost::Failed),
            None => {
                self.given_up.push(place);
                Err(Lost::TimeOut)
            }
        }
    }

    /// The place that was given up in the queue for this file, if its turn has not come yet.
    fn place_of(&mut self, device: u64, inode: u64) -> Option<Place> {
        let process = std::process::id();
        self.given_up.retain(|place| {
            place.process == process && !matches!(*place.turn.state(), State::Over | State::Done(_))
        });
        let found = self.given_up.iter().position(|place| (place.device, place.inode) == (device, inode))?;
        let place = self.given_up.swap_remove(found);
        let mut state = place.turn.state();
        match *state {
            State::GivenUp => *state = State::Waiting,
            // Its turn came a moment ago and passed.
            _ => return None,
        }
        drop(state);
        Some(place)
    }
}

impl Place {
    /// Starts to wait for a lock of `file` (and of all copies of its descriptor).
    pub(super) fn take(file: File, lock: fn(&File) -> io::Result<()>) -> io::Result<Place> {
        let stat = file.metadata()?;
        let turn = Arc::new(Turn::default());
        let theirs = Arc::clone(&turn);
        // PHP's signals (the timeout, PHP-FPM's reload) must interrupt PHP's own thread, not this one.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let started = std::thread::Builder::new()
            .name("cloakroom-lock".into())
            .stack_size(64 * 1024)
            .spawn(move || theirs.take(file, lock));
        before.thread_set_mask()?;
        started?;
        Ok(Place { turn, device: stat.dev(), inode: stat.ino(), process: std::process::id() })
    }

    /// Waits for the turn to come; `None` when the time is up.
    pub(super) fn wait(&self, by: Deadline) -> Option<io::Result<File>> {
        let mut state = self.turn.state();
        loop {
            match std::mem::replace(&mut *state, State::Over) {
                State::Done(won) => return Some(won),
                other => *state = other,
            }
            if by.passed() {
                return None;
            }
            let woken = self.turn.changed.wait_timeout(state, by.remaining());
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // In a forked child the lock of the state may be held by a thread that does not exist there.
        if self.process == std::process::id()
            && let Some(Ok(file)) = self.turn.give_up()
        {
            let _ = file.unlock();
        }
    }
}

impl Turn {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's part.
    fn take(&self, file: File, lock: fn(&File) -> io::Result<()>) {
        let won = super::retried(|| lock(&file));
        let mut state = self.state();
        match *state {
            State::Waiting => {
                *state = State::Done(won.map(|()| file));
                self.changed.notify_one();
            }
            _ => {
                *state = State::Over;
                // Explicitly: a forked child may have a copy of the descriptor.
                let _ = file.unlock();
            }
        }
    }

    /// The worker's part: the result, unless the turn has not come.
    fn give_up(&self) -> Option<io::Result<File>> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Over) {
            State::Done(won) => Some(won),
            State::Over => None,
            State::Waiting | State::GivenUp => {
                *state = State::GivenUp;
                None
            }
        }
    }
}

/// How many wait for locks of this file, as far as the kernel shows them to this process.
fn waiters(device: u64, inode: u64) -> u32 {
    Locks::now().of(device, inode).waiting
}

/// What the kernel shows of locks, in lines such as `12: -> FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF`; an arrow waits.
/// With `READ` it is one of our readers without a lock: it gets its answer after a second at most, and may stay there after
/// that until the lock is free. It is no request that waits for the lock.
pub(super) struct Locks(String);

/// A file's part of that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The process that has the lock, with others if it is shared.
    pub(super) holder: Option<u32>,
    pub(super) waiting: u32,
}

impl Locks {
    /// Where there is no such file, nothing is seen: waiters are not counted and not limited.
    pub(super) fn now() -> Self {
        Locks(std::fs::read_to_string("/proc/locks").unwrap_or_default())
    }

    /// The locks of this file. overlayfs and btrfs show another device here than `fstat` does: where nothing is of ours,
    /// the inode alone decides.
    pub(super) fn of(&self, device: u64, inode: u64) -> Seen {
        let whole = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
        let end = format!(":{inode}");
        match self.of_those(|file| file == whole) {
            Seen { holder: None, waiting: 0 } => self.of_those(|file| file.ends_with(&end)),
            seen => seen,
        }
    }

    /// The kernel shows a few thousand bytes at once, and goes on at a lock's number in its list: a lock, with all who wait for
    /// it, comes again where others have been taken meanwhile. So what counts is the most that wait below one line of a
    /// holder. Processes cannot be told apart instead: threads have the number of theirs, and other containers' have none.
    fn of_those(&self, meant: impl Fn(&str) -> bool) -> Seen {
        let mut seen = Seen::default();
        let mut waiting = 0;
        for line in self.0.lines() {
            let mut words = line.split_ascii_whitespace().skip(1).peekable();
            let waits = words.next_if_eq(&"->").is_some();
            if !waits {
                waiting = 0;
            }
            let kind = words.next();
            let reads = words.nth(1) == Some("READ");
            let pid = words.next().and_then(|pid| pid.parse().ok());
            if !words.next().is_some_and(&meant) {
                continue;
            }
            if !waits && kind == Some("FLOCK") {
                seen.holder = pid.filter(|pid| *pid > 0).or(seen.holder);
            } else if waits && !reads {
                waiting += 1;
                seen.waiting = seen.waiting.max(waiting);
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `fe:00`.
    const DEVICE: u64 = 0xfe00;

    #[test]
    fn the_arrow_lines_of_a_file_wait_and_the_others_hold() {
        let locks = "\
1: FLOCK  ADVISORY  WRITE 700 fe:00:1234 0 EOF
1: -> FLOCK  ADVISORY  WRITE 701 fe:00:1234 0 EOF
1: -> FLOCK  ADVISORY  WRITE 702 fe:00:1234 0 EOF
1: -> FLOCK  ADVISORY  READ 706 fe:00:1234 0 EOF
1: -> FLOCK  ADVISORY  READ 0 fe:00:1234 0 EOF
2: POSIX  ADVISORY  WRITE 703 fe:00:5 0 EOF
2: -> POSIX  ADVISORY  WRITE 704 fe:00:5 0 EOF
3: FLOCK  ADVISORY  WRITE 705 fe:00:12345 0 EOF
";
        let locks = Locks(locks.to_owned());
        assert_eq!(locks.of(DEVICE, 1234), Seen { holder: Some(700), waiting: 2 });
        assert_eq!(locks.of(DEVICE, 12345), Seen { holder: Some(705), waiting: 0 });
        assert_eq!(locks.of(DEVICE, 5), Seen { holder: None, waiting: 1 });
        assert_eq!(locks.of(DEVICE, 7), Seen::default());
    }

    #[test]
    fn who_waits_is_counted_once_however_often_the_lock_is_shown() {
        let locks = "\
7: FLOCK  ADVISORY  WRITE 700 fe:00:1234 0 EOF
7: -> FLOCK  ADVISORY  WRITE 701 fe:00:1234 0 EOF
7:  -> FLOCK  ADVISORY  WRITE 701 fe:00:1234 0 EOF
7: -> FLOCK  ADVISORY  WRITE 0 fe:00:1234 0 EOF
7: -> FLOCK  ADVISORY  WRITE 0 fe:00:1234 0 EOF
8: FLOCK  ADVISORY  WRITE 800 fe:00:5 0 EOF
9: FLOCK  ADVISORY  WRITE 700 fe:00:1234 0 EOF
9: -> FLOCK  ADVISORY  WRITE 701 fe:00:1234 0 EOF
9: -> FLOCK  ADVISORY  WRITE 0 fe:00:1234 0 EOF
9: -> FLOCK  ADVISORY  WRITE 0 fe:00:1234 0 EOF
";
        let locks = Locks(locks.to_owned());
        assert_eq!(locks.of(DEVICE, 1234), Seen { holder: Some(700), waiting: 4 });
    }

    #[test]
    fn another_file_systems_file_with_the_same_number_is_another() {
        let locks = "\
1: FLOCK  ADVISORY  WRITE 700 fe:00:1234 0 EOF
2: FLOCK  ADVISORY  WRITE 800 fe:01:1234 0 EOF
2: -> FLOCK  ADVISORY  WRITE 801 fe:01:1234 0 EOF
";
        let locks = Locks(locks.to_owned());
        assert_eq!(locks.of(DEVICE, 1234), Seen { holder: Some(700), waiting: 0 });
        assert_eq!(locks.of(0xfe01, 1234), Seen { holder: Some(800), waiting: 1 });
        // As on overlayfs.
        assert_eq!(locks.of(0x1f, 1234), Seen { holder: Some(800), waiting: 1 });
    }
}
