//! Locks: taking one that is free, proving that it is still ours, giving it back, prolonging it.
//!
//! Memcached compares nothing but an item's version (its CAS number), so that is what proves a lock to be ours, and what
//! fences the write: the session is swapped only over the version that was read under the lock. Versions begin again when
//! a server restarts, and a lock may end by itself: whoever cannot be sure of its lock reads it again, and compares the
//! value, before it writes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Memcached;
use super::keys::Place;
use super::wire::{Answer, Ask, Client, Expiry, Failure, Refusal};
use crate::stores::token::Token;
use crate::{Deadline, Error, ErrorKind, Lease, Record, Renewal, Result};

/// How long the lock of another session may keep an open from its own.
const ASIDE: Duration = Duration::from_millis(250);
/// Who was waited for no longer than that has not failed.
const PATIENCE: Duration = Duration::from_millis(50);
/// How many locks that may have been left behind are remembered.
const ORPHANS: usize = 8;

/// A value, and the version that swaps compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) value: Vec<u8>,
    pub(super) version: u64,
}

/// What a lease holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) place: Place,
    pub(super) token: Token,
    /// The version of the record that was read under the lock.
    pub(super) record: Option<u64>,
    /// The version of a newer record on the server that stood in for the session's.
    pub(super) newer: Option<u64>,
    /// Shared with the renewal, which runs on another thread.
    grip: Mutex<Grip>,
}

/// What is known of a lock that is ours.
#[derive(Debug, Clone)]
struct Grip {
    version: u64,
    /// Until when it holds for certain, by our own clock.
    until: Instant,
    /// Which connection to the lock's server showed that.
    connection: u64,
    /// Whether it was ever prolonged, or may be at this moment: then its version may be another one.
    prolonged: bool,
    /// It is being given back: nobody prolongs it any more.
    closed: bool,
}

impl Held {
    pub(super) fn new(
        place: Place,
        token: Token,
        record: Option<u64>,
        newer: Option<u64>,
        taken: &Taken,
    ) -> Self {
        let Taken { version, until, connection, .. } = *taken;
        let grip = Grip { version, until, connection, prolonged: false, closed: false };
        Held { place, token, record, newer, grip: Mutex::new(grip) }
    }

    /// A lock that may be ours, of which nothing more is known.
    pub(super) fn unseen(place: Place, token: Token) -> Self {
        let grip = Grip { version: 0, until: Instant::now(), connection: 0, prolonged: true, closed: true };
        Held { place, token, record: None, newer: None, grip: Mutex::new(grip) }
    }

    fn grip(&self) -> MutexGuard<'_, Grip> {
        self.grip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version by which the lock is removed.
    pub(super) fn version(&self) -> u64 {
        self.grip().version
    }

    /// No renewal begins from now on; whether none ever did.
    pub(super) fn close(&self) -> Prolonged {
        let mut grip = self.grip();
        grip.closed = true;
        if grip.prolonged { Prolonged::Perhaps } else { Prolonged::Never }
    }
}

/// Whether a lock may have another version than is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prolonged {
    Never,
    Perhaps,
}

/// A lock that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    /// The lock's version.
    pub(super) version: u64,
    pub(super) until: Instant,
    pub(super) connection: u64,
    pub(super) record: Option<Item>,
}

/// What became of trying to take a lock.
#[derive(Debug)]
pub(super) enum Tried {
    Taken(Taken),
    /// It is held with this value, or was a moment ago.
    Busy(Option<Vec<u8>>),
}

/// A lock that may have been left behind.
#[derive(Debug)]
pub(super) struct Orphan {
    held: Arc<Held>,
    /// When it has ended by itself.
    until: Instant,
}

/// An unlock whose answer was not awaited.
#[derive(Debug)]
pub(super) struct Told {
    held: Arc<Held>,
    /// The connection that it went over: as long as it lives, the server has received it before what follows.
    connection: u64,
}

impl Memcached {
    /// One exchange that may be made twice: once more where the connection was cut.
    pub(super) fn insist<const N: usize>(
        &mut self,
        at: usize,
        asks: [Ask<'_>; N],
        by: Deadline,
    ) -> Result<[Answer; N]> {
        let answers = match self.attempt(at, asks, by) {
            Err(Failure::Cut(_)) => {
                self.clients[at].count_retry();
                let again = self.attempt(at, asks, by);
                if matches!(again, Err(Failure::Cut(_))) {
                    self.pool.failed(at, Duration::ZERO);
                }
                // The first attempt was sent.
                again.map_err(|failure| self.clients[at].error(failure).maybe_applied())
            }
            answers => answers.map_err(|failure| self.clients[at].error(failure)),
        };
        self.notice_told(at);
        answers
    }

    /// One exchange.
    pub(super) fn attempt<const N: usize>(
        &mut self,
        at: usize,
        asks: [Ask<'_>; N],
        by: Deadline,
    ) -> Result<[Answer; N], Failure> {
        let started = Instant::now();
        let asked = self.clients[at].ask(&asks, by);
        match (&asked, started.elapsed()) {
            (Ok(_), _) => self.pool.answered(at),
            // Where the deadline had all but passed, it says nothing about the server.
            (Err(Failure::Failed(error)), took) if error.kind() == ErrorKind::Timeout && took < PATIENCE => {}
            (Err(Failure::Failed(error)), took)
                if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout) =>
            {
                self.pool.failed(at, took);
            }
            (Err(_), _) => {}
        }
        asked?.try_into().map_err(|_| {
            Failure::Failed(Error::new(ErrorKind::Bug, "another number of answers than of questions"))
        })
    }

    /// The item that was asked for.
    pub(super) fn item(&self, at: usize, answer: Answer) -> Result<Option<Item>> {
        match answer {
            Answer::Item { version: 0, .. } => Err(Error::new(
                ErrorKind::Unsupported,
                "the server keeps no versions (CAS) of its items, and without them no session can be locked",
            )
            .hint("start memcached without -C (--disable-cas)")
            .on(self.clients[at].shown())),
            Answer::Item { value, version } => Ok(Some(Item { value, version })),
            Answer::Missing => Ok(None),
            Answer::Refused(refusal) => Err(self.clients[at].refusal(&refusal)),
            _ => Err(misunderstood(&self.clients[at])),
        }
    }

    /// Takes the lock if it is free, and reads the session: in one exchange, where one server has both.
    pub(super) fn try_lock(&mut self, place: &Place, token: &Token, by: Deadline) -> Result<Tried> {
        let since = Instant::now();
        let expiry = self.lock_expiry();
        let add = Ask::Add { key: &place.lock, value: token.as_bytes(), expiry };
        let [get, waiting] = [&place.lock, &place.queue].map(|key| Ask::Get { key });
        let at = place.lock_at;
        let (added, lock, waiting, session) = match place.together() {
            true => {
                let read = Ask::Get { key: &place.session };
                let [added, lock, waiting, session] = self.insist(at, [add, get, waiting, read], by)?;
                (added, lock, waiting, Some(session))
            }
            false => {
                let [added, lock, waiting] = self.insist(at, [add, get, waiting], by)?;
                (added, lock, waiting, None)
            }
        };
        self.pass_by(place, matches!(waiting, Answer::Item { value, .. } if !value.is_empty()));
        let mut taken = match self.taken(place, (added, lock), token, since, by)? {
            Tried::Taken(taken) => taken,
            busy => return Ok(busy),
        };
        taken.record = match session {
            Some(session) => self.item(at, session)?,
            None => self.look(place, by)?,
        };
        Ok(Tried::Taken(taken))
    }

    /// What the answers to `Add` and `Get` of a lock say; `since` is from before they were asked.
    pub(super) fn taken(
        &mut self,
        place: &Place,
        (added, lock): (Answer, Answer),
        token: &Token,
        since: Instant,
        by: Deadline,
    ) -> Result<Tried> {
        let (at, key) = (place.lock_at, &place.lock);
        if let Answer::Refused(refusal) = &added {
            return Err(self.clients[at].refusal(refusal));
        }
        if matches!(&lock, Answer::Item { value, version: 0 } if token.holds(value)) {
            // Without versions, this is the only way to release it; the error follows.
            self.insist(at, [Ask::Delete { key }], by)?;
        }
        // Not what `Add` says: an earlier attempt, whose answer was lost, may have taken it.
        match self.item(at, lock)? {
            Some(lock) if token.holds(&lock.value) => Ok(Tried::Taken(Taken {
                version: lock.version,
                until: since + self.settings.lease,
                connection: self.clients[at].connects(),
                record: None,
            })),
            lock => Ok(Tried::Busy(lock.map(|lock| lock.value))),
        }
    }

    /// Reads the session.
    pub(super) fn look(&mut self, place: &Place, by: Deadline) -> Result<Option<Item>> {
        let [answer] = self.insist(place.session_at, [Ask::Get { key: &place.session }], by)?;
        self.item(place.session_at, answer)
    }

    /// How long a lock stays where nobody prolongs it. Memcached's clock ticks once a second and may end an item early by as
    /// much.
    pub(super) fn lock_expiry(&self) -> Expiry {
        Expiry::after(self.settings.lease + Duration::from_secs(1))
    }

    /// Whether the lock is ours beyond doubt, without asking: its lease has not run out, and no server may have restarted
    /// since.
    pub(super) fn undoubted(&self, held: &Held) -> bool {
        let client = &self.clients[held.place.lock_at];
        let grip = held.grip();
        Instant::now() < grip.until && client.is_connected() && client.connects() == grip.connection
    }

    /// Whether the lock is ours, now that it was read; its version is known again then.
    pub(super) fn recognise(&mut self, held: &Held, lock: Answer) -> Result<bool> {
        let at = held.place.lock_at;
        match self.item(at, lock)? {
            Some(lock) if held.token.holds(&lock.value) => {
                let mut grip = held.grip();
                grip.version = lock.version;
                grip.connection = self.clients[at].connects();
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Whether the lock is ours still.
    pub(super) fn still_ours(&mut self, held: &Held, by: Deadline) -> Result<bool> {
        let [lock] = self.insist(held.place.lock_at, [Ask::Get { key: &held.place.lock }], by)?;
        self.recognise(held, lock)
    }

    /// Takes the lock again if nobody has: it was released together with a change that must be made another way.
    pub(super) fn regain(&mut self, held: &Held, by: Deadline) -> Result<bool> {
        let (at, key) = (held.place.lock_at, &held.place.lock);
        let add = Ask::Add { key, value: held.token.as_bytes(), expiry: self.lock_expiry() };
        let [_, lock] = self.insist(at, [add, Ask::Get { key }], by)?;
        self.recognise(held, lock)
    }

    /// Gives the lock back if it is ours, whatever its version. The answer says whether it was.
    pub(super) fn release(&mut self, held: &Held, by: Deadline) -> Result<bool> {
        let (at, key) = (held.place.lock_at, &held.place.lock);
        // A renewal that is on its way may change the version once more.
        for _ in 0..3 {
            if !self.still_ours(held, by)? {
                return Ok(false);
            }
            let [removed] = self.insist(at, [Ask::Remove { key, version: held.version() }], by)?;
            match removed {
                Answer::Done => return Ok(true),
                // The classic protocol removes by storing something in its place, for which there may be no room.
                Answer::Refused(Refusal::NoMemory(_)) if Instant::now() < held.grip().until => {
                    self.insist(at, [Ask::Delete { key }], by)?;
                    return Ok(true);
                }
                Answer::Refused(refusal) => return Err(self.clients[at].refusal(&refusal)),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Gives the lock back by its version, without waiting for the answer where none is in doubt. It never fails: what
    /// could not be released is remembered.
    pub(super) fn unlock(&mut self, held: &Arc<Held>, by: Deadline) {
        let at = held.place.lock_at;
        if held.close() == Prolonged::Perhaps || !self.undoubted(held) {
            return self.release_or_remember(held, by);
        }
        let remove = Ask::Remove { key: &held.place.lock, version: held.version() };
        match self.clients[at].tell(&[remove], by) {
            Ok(()) => {
                let connection = self.clients[at].connects();
                self.told[at] = Some(Told { held: Arc::clone(held), connection });
            }
            Err(_) => self.remember(held),
        }
    }

    /// Gives the lock back whatever its version, and remembers one that could not be released.
    pub(super) fn release_or_remember(&mut self, held: &Arc<Held>, by: Deadline) {
        if self.release(held, by).is_err() {
            self.remember(held);
        }
    }

    /// Remembers the unlock that was told to a server over a connection that is no more.
    fn notice_told(&mut self, at: usize) {
        let Some(told) = &self.told[at] else { return };
        let client = &self.clients[at];
        if client.is_connected() && client.connects() == told.connection {
            // Answers come in order: this one has come.
            self.told[at] = None;
        } else if let Some(told) = self.told[at].take() {
            self.remember(&told.held);
        }
    }

    /// Remembers a lock that may have been left behind.
    pub(super) fn remember(&mut self, held: &Arc<Held>) {
        if self.orphans.len() == ORPHANS {
            self.orphans.remove(0);
        }
        // A renewal may have come a moment ago, and the server counts two seconds more.
        let until = Instant::now() + self.settings.lease + Duration::from_secs(2);
        self.orphans.push(Orphan { held: Arc::clone(held), until });
    }

    /// Releases what was left behind, before `place` is opened.
    pub(super) fn release_orphans(&mut self, place: &Place, by: Deadline) {
        if self.orphans.is_empty() {
            return;
        }
        let now = Instant::now();
        for orphan in std::mem::take(&mut self.orphans) {
            // Where it is not in the way, it must not take long: its server may be dead.
            let in_the_way = orphan.held.place.lock == place.lock;
            let by = if in_the_way { by } else { by.within(ASIDE) };
            let rests = self.pool.rests(orphan.held.place.lock_at);
            if now < orphan.until && (rests || self.release(&orphan.held, by).is_err()) {
                self.orphans.push(orphan);
            }
        }
    }

    /// The lease for what was taken, and how to prolong it.
    pub(super) fn lease(&self, held: &Arc<Held>) -> (Lease, Renewal) {
        let lease = self.settings.lease;
        let apart = self.clients[held.place.lock_at].another();
        let mut renewing =
            Renewing { held: Arc::clone(held), client: apart, lease, expiry: self.lock_expiry() };
        let renew = move |by: Deadline| renewing.renew(by);
        (Lease::new(Arc::clone(held)), Renewal { every: lease / 3, renew: Box::new(renew) })
    }
}

/// Prolongs one lock, over a connection of its own.
struct Renewing {
    held: Arc<Held>,
    client: Client,
    lease: Duration,
    expiry: Expiry,
}

impl Renewing {
    fn renew(&mut self, by: Deadline) -> Result<()> {
        self.client.look_around();
        let since = Instant::now();
        // Twice: an earlier renewal may have been made without anybody hearing of it, and so have changed the version.
        for _ in 0..2 {
            let version = {
                let mut grip = self.held.grip();
                if grip.closed {
                    return Ok(());
                }
                grip.prolonged = true;
                grip.version
            };
            let (swapped, lock) = self.swap(version, by)?;
            let mut grip = self.held.grip();
            match lock {
                Answer::Item { value, version } if self.held.token.holds(&value) => {
                    grip.version = version;
                    if swapped == Answer::Done {
                        grip.until = since + self.lease;
                        return Ok(());
                    }
                }
                _ if grip.closed => return Ok(()),
                Answer::Refused(refusal) => return Err(self.client.refusal(&refusal)),
                _ => break,
            }
        }
        let lost = Error::new(ErrorKind::LockLost, "the session's lock was lost");
        Err(lost.on(self.client.shown()))
    }

    fn swap(&mut self, version: u64, by: Deadline) -> Result<(Answer, Answer)> {
        let (key, value) = (&self.held.place.lock, self.held.token.as_bytes());
        let asks = [Ask::Swap { key, value, expiry: self.expiry, version }, Ask::Get { key }];
        let answers = match self.client.ask(&asks, by) {
            Err(Failure::Cut(_)) => self.client.ask(&asks, by),
            answers => answers,
        };
        let answers = answers.map_err(|failure| self.client.error(failure))?;
        let pair: Result<[Answer; 2], _> = answers.try_into();
        pair.map(|[swapped, lock]| (swapped, lock)).map_err(|_| misunderstood(&self.client))
    }
}

/// The record of an item.
pub(super) fn record(item: Option<Item>) -> Option<Record> {
    item.map(|item| Record(item.value))
}

fn misunderstood(client: &Client) -> Error {
    Error::new(ErrorKind::Corrupt, "the server's answer is not in Memcached's protocol").on(client.shown())
}
