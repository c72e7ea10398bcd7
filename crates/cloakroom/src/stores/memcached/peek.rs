//! Looking at sessions and locks, and taking a lock away.

use std::time::Duration;

use super::Memcached;
use super::elsewhere::Elsewhere;
use super::inspect::walk;
use super::keys::Place;
use super::queue::ENTRY;
use super::wire::{Answer, Ask};
use crate::{Broken, Deadline, Ends, Life, Lock, Peeked, Record, Result, SessionId};

impl Memcached {
    /// See [`crate::Store::peek`].
    pub(super) fn look_only(&mut self, id: &SessionId, by: Deadline) -> Result<Peeked> {
        let place = self.place(id, by)?;
        let at = place.session_at;
        let key = &place.session;
        let [record, life] = self.insist(at, [Ask::Get { key }, Ask::Life { key }], by)?;
        let own = self.item(at, record)?;
        let (record, life) = match self.look_elsewhere(&place, own.as_ref(), by)? {
            Some(Elsewhere { value, .. }) => (Some(value), Life::Unknown),
            None => (own.map(|item| item.value), self.life(life)),
        };
        Ok(Peeked { record: record.map(Record), life, lock: self.look_at_lock(&place, by)? })
    }

    fn life(&self, answer: Answer) -> Life {
        match answer {
            Answer::Life(Some(seconds)) => Life::Left(Duration::from_secs(seconds.into())),
            Answer::Life(None) => Life::Endless,
            _ => Life::Unknown,
        }
    }

    fn look_at_lock(&mut self, place: &Place, by: Deadline) -> Result<Option<Lock>> {
        let (at, key) = (place.lock_at, &place.lock);
        let asks = [Ask::Get { key }, Ask::Life { key }, Ask::Get { key: &place.queue }];
        let [lock, life, queue] = self.insist(at, asks, by)?;
        let Some(lock) = self.item(at, lock)? else { return Ok(None) };
        let ends = match self.life(life) {
            Life::Left(left) => Ends::After(left),
            Life::Endless => Ends::Never,
            Life::Unused(_) | Life::Unknown => Ends::Unknown,
        };
        let waiting = self.item(at, queue)?.map_or(0, |queue| queue.value.chunks(ENTRY).count());
        Ok(Some(Lock::of(lock.value, lock.version, ends, u32::try_from(waiting).ok())))
    }

    /// See [`crate::Store::locks`].
    pub(super) fn look_at_locks(
        &mut self,
        each: &mut dyn FnMut(SessionId, Lock) -> bool,
        by: Deadline,
    ) -> Result<()> {
        self.must_list("locks")?;
        let start = [&self.options.prefix, "lock."].concat();
        for at in 0..self.clients.len() {
            let mut locked = Vec::new();
            let mut lock = |id: SessionId, ends: Option<Ends>| {
                locked.push((id, ends));
                true
            };
            let server = &mut self.clients[at];
            server.look_around();
            walk(server, &start, &mut lock, by)?;
            for (id, ends) in locked {
                let place = self.place(&id, by)?;
                // It may have ended since, or be a native handler's that has another ring.
                let Some(mut lock) = self.look_at_lock(&place, by)?.filter(|_| place.lock_at == at) else {
                    continue;
                };
                if lock.ends == Ends::Unknown {
                    lock.ends = ends.unwrap_or(Ends::Unknown);
                }
                if !each(id, lock) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// See [`crate::Store::break_lock`]: who waits first finds the lock free.
    pub(super) fn take_away(&mut self, id: &SessionId, seen: &Lock, by: Deadline) -> Result<Broken> {
        let place = self.place(id, by)?;
        let (at, key) = (place.lock_at, &place.lock);
        for _ in 0..8 {
            let [lock] = self.insist(at, [Ask::Get { key }], by)?;
            let Some(lock) = self.item(at, lock)? else { return Ok(Broken::Changed) };
            // A renewal counts the version up; a native handler's value is always the same.
            if lock.value != seen.value || (!seen.is_ours() && lock.version != seen.version) {
                return Ok(Broken::Changed);
            }
            // Nothing more, and yet another version: the holder, who may be sure of its lease still, cannot write over it.
            let add_nothing = Ask::Append { key: &place.session, value: b"" };
            self.insist(place.session_at, [add_nothing], by)?;
            let [removed] = self.insist(at, [Ask::Remove { key, version: lock.version }], by)?;
            if removed == Answer::Done {
                return Ok(Broken::Done);
            }
        }
        Ok(Broken::Changed)
    }
}
