//! Changing a session and giving its lock back; and changing one without a lock.
//!
//! A write goes over the version that was read under the lock, so that it is refused where somebody else has written since.
//! Where one server has session and lock, both go out in one write. Apart, the unlock goes out after the answer to the
//! change, or it might overtake it; nobody waits for its own answer.
//!
//! After a cut, session and lock are read back, and say what became of the change.

use std::sync::Arc;
use std::time::Duration;

use super::Memcached;
use super::keys::Place;
use super::lock::{Held, record};
use super::wire::{Answer, Ask, Expiry, Failure};
use crate::{Change, Committed, Deadline, Error, ErrorKind, Result, Seen, Version};

/// What an exchange of a commit answered.
struct Made {
    /// About the session, where something was to be done to it.
    session: Option<Answer>,
    lock: Unlocked,
}

/// What became of the lock in an exchange of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unlocked {
    /// It was ours until then.
    Yes,
    /// It is ours still: its version was not the one that was known, or the server had no room to release it.
    NotYet,
    /// Nobody asked: another server has it.
    Unasked,
    /// The server failed before it could say.
    Unsaid,
    /// It was not ours.
    Lost,
}

/// What reading back after a cut showed.
enum Found {
    Applied,
    NotApplied,
}

impl Memcached {
    /// Applies the change and releases the lock, and remembers a lock that may not have been released.
    pub(super) fn commit_held(
        &mut self,
        held: &Arc<Held>,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        let change = self.prepared(&held.place, held.newer, change, by);
        let committed = self.give_back(held, change, by);
        self.part(&held.place);
        match &committed {
            Err(error) if error.kind() == ErrorKind::LockLost => self.counted.lost_leases += 1,
            Err(_) => self.remember(held),
            Ok(_) => {}
        }
        committed
    }

    fn give_back(&mut self, held: &Arc<Held>, change: Change<'_>, by: Deadline) -> Result<Committed> {
        held.close();
        // What is sent over a connection that died while it was idle is not known to be lost.
        for at in [held.place.session_at, held.place.lock_at] {
            self.clients[at].look_alive(by);
        }
        if !self.undoubted(held) && !self.still_ours(held, by)? {
            return match change {
                Change::Keep => Ok(Committed::Done),
                _ => Err(self.lost(held)),
            };
        }
        let (mut record, mut cut) = (held.record, false);
        // Changed without the lock in between, or evicted: each round but the first follows such an event.
        for _ in 0..4 {
            let made = match self.make(held, change, record, by) {
                Ok(made) => made,
                Err(Failure::Cut(_)) if !cut => {
                    cut = true;
                    self.clients[held.place.session_at].count_retry();
                    match self.read_back(held, change, record, by).map_err(Error::maybe_applied)? {
                        Found::NotApplied => continue,
                        Found::Applied => {
                            let spread = self.spread(held, change, by);
                            self.unlock(held, by);
                            return spread.map(|()| Committed::Done);
                        }
                    }
                }
                Err(failure) => {
                    let error = self.clients[held.place.session_at].error(failure);
                    return Err(if cut { error.maybe_applied() } else { error });
                }
            };
            let again = match made.session {
                None | Some(Answer::Done) => None,
                Some(Answer::Refused(refusal)) => {
                    self.unlock_after(&made.lock, held, by);
                    return Err(self.clients[held.place.session_at].refusal(&refusal));
                }
                Some(Answer::Missing) => match change {
                    Change::Write(..) | Change::Touch(..) => Some(None),
                    Change::Delete | Change::Keep => None,
                },
                Some(_) => match self.look(&held.place, by)? {
                    // An attempt whose answer was lost has done it; or somebody else keeps the session alive.
                    Some(found) if cut && change_bytes(change) == Some(&found.value) => None,
                    Some(_) if matches!(change, Change::Touch(..)) => None,
                    // Who logs out, logs out: a write without the lock does not prevent it.
                    Some(found) if change == Change::Delete => Some(Some(found.version)),
                    None if change == Change::Delete => None,
                    _ => {
                        self.unlock_after(&made.lock, held, by);
                        return Err(self.lost(held));
                    }
                },
            };
            let Some(version) = again else {
                let spread = self.spread(held, change, by);
                self.unlock_after(&made.lock, held, by);
                spread?;
                let rewritten =
                    matches!(change, Change::Touch(..)) && record.is_none() && held.record.is_some();
                return Ok(if rewritten { Committed::Rewritten } else { Committed::Done });
            };
            // What somebody deleted who had the lock after us must not come back.
            let ours = match made.lock {
                Unlocked::Lost => false,
                Unlocked::NotYet => true,
                Unlocked::Unasked | Unlocked::Unsaid => self.still_ours(held, by)?,
                Unlocked::Yes => self.regain(held, by)?,
            };
            if !ours {
                return Err(self.lost(held));
            }
            record = version;
        }
        self.unlock(held, by);
        Err(self.lost(held))
    }

    /// One exchange: the change, and the unlock where the same server has the lock.
    fn make(
        &mut self,
        held: &Held,
        change: Change<'_>,
        version: Option<u64>,
        by: Deadline,
    ) -> Result<Made, Failure> {
        let place = &held.place;
        let changing = ask(change, &place.session, version);
        let unlocking = Ask::Remove { key: &place.lock, version: held.version() };
        // What other servers have must follow before anybody else has the lock.
        let spreads = change != Change::Keep
            && (held.newer.is_some() || !place.replicas.is_empty() || place.marked == Some(place.session_at));
        let (session, unlocked) = match (changing, place.together() && !spreads) {
            (Some(changing), true) => {
                let [session, unlocked] = self.attempt(place.session_at, [changing, unlocking], by)?;
                (Some(session), unlocked)
            }
            (None, true) => {
                let [unlocked] = self.attempt(place.lock_at, [unlocking], by)?;
                (None, unlocked)
            }
            (Some(changing), false) => {
                let [session] = self.attempt(place.session_at, [changing], by)?;
                return Ok(Made { session: Some(session), lock: Unlocked::Unasked });
            }
            (None, false) => return Ok(Made { session: None, lock: Unlocked::Unasked }),
        };
        let lock = match unlocked {
            Answer::Done => Unlocked::Yes,
            // Prolonged in this moment, perhaps. Where that cannot be seen, what became of the session is known all the same.
            _ => match self.still_ours(held, by) {
                Ok(true) => Unlocked::NotYet,
                Ok(false) => Unlocked::Lost,
                Err(_) => Unlocked::Unsaid,
            },
        };
        Ok(Made { session, lock })
    }

    fn unlock_after(&mut self, lock: &Unlocked, held: &Arc<Held>, by: Deadline) {
        match lock {
            Unlocked::Yes | Unlocked::Lost => {}
            Unlocked::Unasked => self.unlock(held, by),
            Unlocked::NotYet => self.release_or_remember(held, by),
            Unlocked::Unsaid => self.remember(held),
        }
    }

    /// What became of a change whose answer was lost.
    fn read_back(
        &mut self,
        held: &Held,
        change: Change<'_>,
        version: Option<u64>,
        by: Deadline,
    ) -> Result<Found> {
        let ours = self.still_ours(held, by)?;
        let session = self.look(&held.place, by)?;
        let untouched = session.as_ref().map(|item| item.version) == version;
        let same = session.as_ref().is_some_and(|item| change_bytes(change) == Some(&item.value));
        Ok(match change {
            Change::Keep if !ours => Found::Applied,
            Change::Keep => Found::NotApplied,
            Change::Delete if session.is_none() => Found::Applied,
            Change::Touch(..) | Change::Delete if ours => Found::NotApplied,
            // Whether by us or by somebody else, and whatever it is by now: a session that is there is alive.
            Change::Touch(..) if session.is_some() => Found::Applied,
            _ if same && !untouched => Found::Applied,
            _ if ours && (untouched || session.is_none()) => Found::NotApplied,
            // The server has not made it, and nobody may any more.
            _ if untouched && version.is_some() => return Err(self.lost(held)),
            _ => return Err(self.overtaken(&held.place)),
        })
    }

    /// Nobody can tell what became of a change whose answer was lost.
    fn overtaken(&self, place: &Place) -> Error {
        let what =
            "the connection was cut during the write, and another request has changed the session since";
        Error::new(ErrorKind::Unreachable, what).on(self.clients[place.session_at].shown()).maybe_applied()
    }

    pub(super) fn lost(&self, held: &Held) -> Error {
        Error::new(ErrorKind::LockLost, "the session's lock was lost, and the change was not written")
            .hint(
                "the request ran longer than cloakroom.lease_max, somebody wrote without the lock, or the server \
                 restarted or evicted it",
            )
            .on(self.clients[held.place.lock_at].shown())
    }

    /// The change without a lock: the last writer wins. `seen` is what the request read.
    pub(super) fn write_unlocked(
        &mut self,
        place: &Place,
        seen: &Seen,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        let at = place.session_at;
        let key = &place.session;
        match change {
            Change::Keep => Ok(Committed::Done),
            Change::Delete => match self.insist(at, [Ask::Delete { key }], by)? {
                [Answer::Refused(refusal)] => Err(self.clients[at].refusal(&refusal)),
                _ => Ok(Committed::Done),
            },
            Change::Touch(_, ttl) => {
                match self.insist(at, [Ask::Touch { key, expiry: Expiry::after(ttl) }], by)? {
                    [Answer::Missing] => {
                        self.overwrite(place, seen, change, None, by).map(|()| Committed::Rewritten)
                    }
                    [Answer::Refused(refusal)] => Err(self.clients[at].refusal(&refusal)),
                    _ => Ok(Committed::Done),
                }
            }
            Change::Write(..) => {
                let version = seen.version().and_then(number);
                self.overwrite(place, seen, change, version, by).map(|()| Committed::Done)
            }
        }
    }

    /// Writes over whatever is there, and counts whether that undid another request's change. Not by `set`: one that is too
    /// large removes what was there.
    fn overwrite(
        &mut self,
        place: &Place,
        seen: &Seen,
        change: Change<'_>,
        mut version: Option<u64>,
        by: Deadline,
    ) -> Result<()> {
        let at = place.session_at;
        let (Change::Write(bytes, ttl) | Change::Touch(bytes, ttl)) = change else { return Ok(()) };
        let mut met = None;
        loop {
            match self.insist(at, [store(&place.session, bytes, ttl, version)], by)? {
                [Answer::Done] => break,
                [Answer::Refused(refusal)] => return Err(self.clients[at].refusal(&refusal)),
                _ => {}
            }
            let found = self.look(place, by)?;
            version = found.as_ref().map(|item| item.version);
            let value = found.as_ref().map(|item| item.value.as_slice());
            // The same bytes are a repetition, or another request's that came to the same.
            let same = value == Some(bytes);
            if matches!(change, Change::Write(..)) && !same && !seen.is(value) {
                met = Some(());
            }
            if same {
                break;
            }
            by.check("writing over what others keep writing")?;
        }
        if met.is_some() {
            self.counted.conflicts += 1;
        }
        Ok(())
    }

    /// The change if the record is still of this version.
    pub(super) fn write_versioned(
        &mut self,
        place: &Place,
        seen: &Version,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        let at = place.session_at;
        let Some(asked) = ask(change, &place.session, number(seen)) else { return Ok(Committed::Done) };
        // What is sent over a connection that died while it was idle is not known to be lost.
        self.clients[at].look_alive(by);
        let before = self.clients[at].counters();
        match self.insist(at, [asked], by)? {
            [Answer::Done] => return Ok(Committed::Done),
            [Answer::Refused(refusal)] => return Err(self.clients[at].refusal(&refusal)),
            _ => {}
        }
        let after = self.clients[at].counters();
        // An attempt that was cut at the login, before it was sent, is no exchange. And what a touch did is of no matter where the
        // session is gone.
        let cut = after.retries > before.retries
            && after.exchanges > before.exchanges + 1
            && !matches!(asked, Ask::Touch { .. });
        let found = self.look(place, by).map_err(|error| if cut { error.maybe_applied() } else { error })?;
        match found {
            None if change == Change::Delete => Ok(Committed::Done),
            // Another request may have written the same; that is a conflict all the same.
            found if !cut => Ok(Committed::Conflict(record(found))),
            // It was made by the attempt whose answer was lost.
            Some(found) if change_bytes(change) == Some(&found.value) => Ok(Committed::Done),
            _ => Err(self.overtaken(place)),
        }
    }
}

/// What is asked for, where something is.
fn ask<'a>(change: Change<'a>, key: &'a [u8], version: Option<u64>) -> Option<Ask<'a>> {
    match (change, version) {
        (Change::Keep, _) | (Change::Delete, None) => None,
        (Change::Delete, Some(version)) => Some(Ask::Remove { key, version }),
        (Change::Touch(_, ttl), Some(_)) => Some(Ask::Touch { key, expiry: Expiry::after(ttl) }),
        (Change::Write(bytes, ttl) | Change::Touch(bytes, ttl), _) => Some(store(key, bytes, ttl, version)),
    }
}

fn store<'a>(key: &'a [u8], value: &'a [u8], ttl: Duration, version: Option<u64>) -> Ask<'a> {
    let expiry = Expiry::after(ttl);
    match version {
        Some(version) => Ask::Swap { key, value, expiry, version },
        None => Ask::Add { key, value, expiry },
    }
}

fn change_bytes(change: Change<'_>) -> Option<&[u8]> {
    match change {
        Change::Write(bytes, _) | Change::Touch(bytes, _) => Some(bytes),
        Change::Delete | Change::Keep => None,
    }
}

/// The version of an item, as the contract has it; that of no item is empty.
pub(super) fn version(version: Option<u64>, server: Option<usize>) -> Version {
    let (Some(version), Some(server)) = (version, server) else { return Version(Vec::new()) };
    Version([version.to_be_bytes(), (server as u64).to_be_bytes()].concat())
}

/// The server that counted it.
pub(super) fn server(version: &Version) -> Option<usize> {
    usize::try_from(u64::from_be_bytes(version.0.get(8..)?.try_into().ok()?)).ok()
}

fn number(version: &Version) -> Option<u64> {
    Some(u64::from_be_bytes(version.0.get(..8)?.try_into().ok()?))
}
