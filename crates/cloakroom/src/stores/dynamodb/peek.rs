//! Looking at sessions and locks, and taking a lock away.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;

use super::DynamoDb;
use super::client::Earlier;
use super::item::{self, Item, Term};
use super::lock::{LOCK_STATE, STATE};
use super::requests::{Changed, Scan};
use super::tally::Purpose;
use crate::{Broken, Deadline, Ends, Error, ErrorKind, Life, Lock, Peeked, Result, SessionId};

impl DynamoDb {
    /// See [`crate::Store::peek`].
    pub(super) fn look_only(&mut self, id: &SessionId, by: Deadline) -> Result<Peeked> {
        let key = self.key(id);
        let Some(item) = self.client.get(Purpose::Other, &key, None, true, by)? else {
            return Ok(Peeked { record: None, life: Life::Unknown, lock: None });
        };
        let now = self.client.clock.now();
        let lock = match self.lock_of(&item) {
            Some(lock) => Some(Lock { waiting: Some(self.waiting(&key, by)?), ..lock }),
            None => None,
        };
        let life = match item.term() {
            Term::Until(seconds) if item.term().lives(now) => {
                let end = u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
                Life::Left(Duration::from_millis(end.saturating_sub(now)))
            }
            Term::Endless => Life::Endless,
            Term::Nothing | Term::Until(_) => Life::Unknown,
        };
        let record = item.record(now).map_err(|error| error.on(self.client.options.shown.as_str()))?;
        Ok(Peeked { record, life, lock })
    }

    /// See [`crate::Store::list`].
    pub(super) fn each_session(
        &mut self,
        each: &mut dyn FnMut(SessionId) -> bool,
        by: Deadline,
    ) -> Result<()> {
        // What has no `expires` and is met nevertheless has bytes: a session without an end.
        let filter = "attribute_exists(#expires) OR attribute_exists(#data)";
        self.each_item(filter, false, by, |store, key, item| {
            let lives = item.expires.is_none() || item.term().lives(store.client.clock.now());
            match item::id(&store.session_name, key).filter(|_| lives) {
                Some(id) => Ok(each(id)),
                None => Ok(true),
            }
        })
    }

    /// See [`crate::Store::locks`].
    pub(super) fn each_lock(
        &mut self,
        each: &mut dyn FnMut(SessionId, Lock) -> bool,
        by: Deadline,
    ) -> Result<()> {
        self.each_item("attribute_exists(#lock)", true, by, |store, key, item| {
            let (id, lock) = (item::id(&store.session_name, key), store.lock_of(&item));
            match id.zip(lock) {
                Some((id, lock)) => Ok(each(id, Lock { waiting: Some(store.waiting(key, by)?), ..lock })),
                None => Ok(true),
            }
        })
    }

    /// Calls `each` with the key of every item that meets this, and with what tells who has it, until it answers false.
    /// Consistent reads see what was written a moment ago, for twice the price.
    fn each_item(
        &mut self,
        filter: &str,
        consistent: bool,
        by: Deadline,
        mut each: impl FnMut(&mut Self, &str, Item) -> Result<bool>,
    ) -> Result<()> {
        let projection = format!("#id, {LOCK_STATE}");
        let scan = Scan {
            projection: &projection,
            filter: Some(filter),
            values: Vec::new(),
            limit: None,
            consistent,
        };
        let mut from = None;
        loop {
            let page = self.client.scan(Purpose::Other, &scan, from, by)?;
            for attributes in page.items {
                let options = std::sync::Arc::clone(&self.client.options);
                let Some(AttributeValue::S(key)) = attributes.get(&options.layout.key).cloned() else {
                    continue;
                };
                if !each(self, &key, Item::read(attributes, &options.layout))? {
                    return Ok(());
                }
            }
            from = page.next;
            if from.is_none() {
                return Ok(());
            }
        }
    }

    /// See [`crate::Store::break_lock`]: who waits finds the lock free at its next look.
    pub(super) fn take_away(&mut self, id: &SessionId, seen: &Lock, by: Deadline) -> Result<Broken> {
        let key = self.key(id);
        let Some(item) = self.client.get(Purpose::Other, &key, Some(STATE), true, by)? else {
            return Ok(Broken::Changed);
        };
        let there = self.lock_of(&item);
        if !there.is_some_and(|there| there.value == seen.value && there.version == seen.version) {
            return Ok(Broken::Changed);
        }
        match self.unlock(Purpose::Other, &key, &item, item.term(), by)? {
            Changed::Done(_) => Ok(Broken::Done),
            Changed::Unmet(_, Earlier::NotApplied) => Ok(Broken::Changed),
            Changed::Unmet(_, Earlier::MaybeApplied) => Err(Error::new(
                ErrorKind::Unreachable,
                "the connection was cut while the lock was broken, and there is another one or none now",
            )
            .hint("look at the session again")
            .on(self.client.options.shown.as_str())
            .maybe_applied()),
        }
    }

    /// The lock of an item, unless its lease is over; who waits is not told.
    fn lock_of(&self, item: &Item) -> Option<Lock> {
        let value = match item.lock.as_ref()? {
            AttributeValue::S(text) | AttributeValue::N(text) => text.clone().into_bytes(),
            other => format!("{other:?}").into_bytes(),
        };
        // AWS's handler's locks are all the same: what tells them apart is the `expires` that each of its writes changes.
        let (ends, version) = match item.lease() {
            Some(until) => match until.checked_sub(self.client.clock.now()) {
                Some(left) => (Ends::After(Duration::from_millis(left)), 0),
                None => return None,
            },
            None => (self.native_ends(item), item.expires.unwrap_or(item::NONE) as u64),
        };
        Some(Lock::of(value, version, ends, None))
    }
}
