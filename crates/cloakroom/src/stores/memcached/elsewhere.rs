//! What other servers than its own have of a session: newer records, from when its server was away, and copies.
//!
//! A record on the server that stands in for the session's own is newer than what is there. The next write under the lock
//! goes home, over the old record; then the newer one is removed by its version, which is also what refuses a late writer.
//! Until that was answered, nothing counts as written: the newer record is what everybody reads.
//!
//! Where the stand-in is a replica of the session's server, too, a copy must not be taken for a newer record: there, what was
//! written while the server was away has a mark beside it (`<prefix>away.<id>`).
//!
//! A session that is deleted while its server is away leaves an empty record with the stand-in: the server may come back
//! with the old one.

use std::time::Duration;

use super::Memcached;
use super::keys::Place;
use super::lock::{Held, Item};
use super::wire::{Answer, Ask, Expiry};
use crate::{Change, Deadline, ErrorKind, Result};

/// A request waits no longer than this for what it can do without: that a server which is left out answers that it is back, and
/// that a replica has its copy. Where `timeout` is long, no longer than a fifth of it.
const ASIDE: Duration = Duration::from_millis(500);
/// How long a deleted session is remembered where an old record of it may come back.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);

/// A record that its session's server does not have.
#[derive(Debug)]
pub(super) struct Elsewhere {
    pub(super) value: Vec<u8>,
    /// The version of one that must go once its server has the session again; a copy stays.
    pub(super) newer: Option<u64>,
}

impl Memcached {
    /// How long a server may take to answer what a request can do without.
    fn aside(&self) -> Duration {
        let timeout = self.options.timeout.unwrap_or(self.settings.timeout);
        ASIDE.max(timeout / 5)
    }

    /// Asks the servers that are left out, but may be back.
    pub(super) fn ask_again(&mut self, servers: &[usize], key: &[u8], by: Deadline) {
        for at in servers {
            let _ = self.attempt(*at, [Ask::Get { key }], by.within(self.aside()));
        }
    }

    /// The record that holds instead of the session's own, if there is one.
    pub(super) fn look_elsewhere(
        &mut self,
        place: &Place,
        own: Option<&Item>,
        by: Deadline,
    ) -> Result<Option<Elsewhere>> {
        if let Some(at) = place.displaced
            && (place.marked != Some(at) || self.look_at_copy(at, &place.mark, by)?.is_some())
            && let Some(item) = self.look_at_copy(at, &place.session, by)?
        {
            return Ok(Some(Elsewhere { value: item.value, newer: Some(item.version) }));
        }
        if own.is_some() {
            return Ok(None);
        }
        if let Some(home) = place.away {
            // Others may have found it back, and taken the session home: before it is said to be new.
            self.ask_again(&[home], &place.session, by);
        }
        for at in &place.copies {
            if let Some(item) = self.look_at_copy(*at, &place.session, by)? {
                return Ok(Some(Elsewhere { value: item.value, newer: None }));
            }
        }
        Ok(None)
    }

    /// What is on this server; nothing where it does not answer.
    fn look_at_copy(&mut self, at: usize, key: &[u8], by: Deadline) -> Result<Option<Item>> {
        match self.insist(at, [Ask::Get { key }], by) {
            Ok([answer]) => self.item(at, answer),
            Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The change that has the meaning of this one where other servers have records, too; deletes copies.
    pub(super) fn prepared<'a>(
        &mut self,
        place: &Place,
        newer: Option<u64>,
        change: Change<'a>,
        by: Deadline,
    ) -> Change<'a> {
        match change {
            Change::Delete if place.away.is_some() || !self.delete_copies(place, by) => {
                Change::Write(b"", REMEMBERED)
            }
            // What is at home is old.
            Change::Touch(bytes, ttl) if newer.is_some() => Change::Write(bytes, ttl),
            change => change,
        }
    }

    /// Whether no copy is left.
    fn delete_copies(&mut self, place: &Place, by: Deadline) -> bool {
        let mut gone = true;
        let others = place.copies.iter().filter(|at| !place.replicas.contains(at));
        for at in place.replicas.iter().chain(others) {
            let deleted = self.insist(*at, [Ask::Delete { key: &place.session }], by.within(self.aside()));
            gone &= matches!(deleted, Ok([Answer::Done | Answer::Missing]));
        }
        // A server that does not answer is not among them.
        gone && !place.short_of_replicas
    }

    /// Makes other servers follow what was changed; under the lock.
    pub(super) fn spread(&mut self, held: &Held, change: Change<'_>, by: Deadline) -> Result<()> {
        let place = &held.place;
        if let (Some(at), Some(version)) = (place.displaced, held.newer)
            && change != Change::Keep
        {
            let (remove, unmark) =
                (Ask::Remove { key: &place.session, version }, Ask::Delete { key: &place.mark });
            let removed = match place.marked {
                Some(_) => self.insist(at, [remove, unmark], by).map(|[removed, _]| removed),
                None => self.insist(at, [remove], by).map(|[removed]| removed),
            };
            match removed.map_err(crate::Error::maybe_applied)? {
                Answer::Done | Answer::Missing => {}
                Answer::Refused(refusal) => return Err(self.clients[at].refusal(&refusal).maybe_applied()),
                _ => return Err(self.lost(held)),
            }
        }
        self.replicate(place, change, by)
    }

    /// Marks what is newer than its server's, and copies the record to the replicas. One that cannot be reached goes
    /// without.
    pub(super) fn replicate(&mut self, place: &Place, change: Change<'_>, by: Deadline) -> Result<()> {
        let (Change::Write(value, ttl) | Change::Touch(value, ttl)) = change else { return Ok(()) };
        let (at, expiry) = (place.session_at, Expiry::after(ttl));
        if place.marked == Some(at) {
            let marked = self.insist(at, [Ask::Set { key: &place.mark, value: b"1", expiry }], by);
            if let [Answer::Refused(refusal)] = marked.map_err(crate::Error::maybe_applied)? {
                return Err(self.clients[at].refusal(&refusal).maybe_applied());
            }
        }
        let set = Ask::Set { key: &place.session, value, expiry };
        for at in &place.replicas {
            let _ = self.insist(*at, [set], by.within(self.aside()));
        }
        Ok(())
    }
}
