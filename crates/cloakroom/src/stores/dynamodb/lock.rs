//! Opening a session alone: one UpdateItem that locks it and answers what is in it.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};

use super::DynamoDb;
use super::item::{Item, NONE, Term, milliseconds, number};
use super::requests::{Changed, Update, Values};
use super::tally::Purpose;
use crate::stores::token::Token;
use crate::{Deadline, Error, ErrorKind, Hold, Lease, Opened, Renewal, Result, Unknown};

/// What a request has while it has a session alone.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) key: String,
    pub(super) token: Token,
    /// As it was left when the session was opened, its bytes left out.
    pub(super) item: Item,
    pub(super) term: Term,
}

impl Held {
    pub(super) fn new(key: String) -> Result<Self> {
        Ok(Held { key, token: Token::new()?, item: Item::default(), term: Term::Nothing })
    }

    pub(super) fn token(&self) -> AttributeValue {
        AttributeValue::S(String::from_utf8_lossy(self.token.as_bytes()).into_owned())
    }

    /// Whether this item is locked by this request.
    pub(super) fn has(&self, item: &Item) -> bool {
        item.token().is_some_and(|token| token.as_bytes() == self.token.as_bytes())
    }

    /// Whether the lock was got.
    pub(super) fn is_taken(&self) -> bool {
        self.item.lock.is_some()
    }
}

/// A lock that a request that failed may have left.
#[derive(Debug)]
pub(super) struct Orphan {
    held: Held,
    /// From then on it has ended by itself.
    until: Instant,
}

/// What tells whether somebody has a session.
pub(super) const LOCK_STATE: &str = "#expires, #lock, #until, #record, #seen, #before";

/// The same, and what it takes to leave the record as it is.
pub(super) const STATE: &str = "#data, #expires, #lock, #until, #record, #seen, #before";

/// What a lock leaves nothing of.
pub(super) const UNLOCK: &str = "#lock, #until, #record, #seen, #before";

/// What became of asking for the lock.
pub(super) enum Taken {
    Ours(Item),
    /// There is no such session.
    NotThere,
    /// Somebody has it, or had it a moment ago.
    Held(Item),
}

/// The end of a lease as the item has it, in milliseconds and in whole seconds since 1970.
struct End {
    milliseconds: u64,
    seconds: i64,
}

impl End {
    fn of(now: u64, lease: Duration) -> End {
        End::at(now + u64::try_from(lease.as_millis()).unwrap_or(u64::MAX / 4))
    }

    fn at(milliseconds: u64) -> End {
        End { milliseconds, seconds: i64::try_from(milliseconds.div_ceil(1000)).unwrap_or(i64::MAX) }
    }
}

impl DynamoDb {
    /// Takes the lock if there is none.
    pub(super) fn take(&mut self, held: &Held, unknown: Unknown, by: Deadline) -> Result<Taken> {
        let end = self.end();
        let update = Update {
            change: "SET #lock = :token, #until = :until, #record = if_not_exists(#expires, :none), \
                     #expires = if_not_exists(#expires, :end) REMOVE #seen, #before",
            condition: Some(match unknown {
                Unknown::Lock => "attribute_not_exists(#lock)",
                Unknown::Refuse => "attribute_exists(#id) AND attribute_not_exists(#lock)",
            }),
            values: vec![
                (":token", held.token()),
                (":until", number(end.milliseconds)),
                (":end", number(end.seconds)),
                (":none", number(NONE)),
            ],
            returns: ReturnValue::AllNew,
        };
        self.taken(held, unknown, &update, by)
    }

    /// Takes the lock that is seen there: its lease is over, or it was left by a worker that died.
    pub(super) fn take_over(
        &mut self,
        held: &Held,
        seen: &Item,
        unknown: Unknown,
        by: Deadline,
    ) -> Result<Taken> {
        let end = self.end();
        let (mut condition, mut values) = unchanged(seen);
        // Whoever prolongs it, has another one since, or has written the session without it, is not undone.
        match seen.lease() {
            Some(until) => {
                condition.push_str(" AND #until = :was");
                values.push((":was", number(until)));
                if seen.record_expires.is_none() {
                    condition.push_str(" AND ");
                    condition.push_str(same_expires(seen, &mut values));
                }
            }
            None => {
                condition.push_str(" AND #seen = :was");
                values.push((":was", number(seen.seen.unwrap_or(NONE))));
            }
        }
        values.extend([
            (":token", held.token()),
            (":until", number(end.milliseconds)),
            (":written", number(seen.written_expires())),
            (":end", number(end.seconds)),
        ]);
        let update = Update {
            change: "SET #lock = :token, #until = :until, #record = :written, \
                     #expires = if_not_exists(#expires, :end) REMOVE #seen, #before",
            condition: Some(&condition),
            values,
            returns: ReturnValue::AllNew,
        };
        self.taken(held, unknown, &update, by)
    }

    fn taken(&mut self, held: &Held, unknown: Unknown, update: &Update<'_>, by: Deadline) -> Result<Taken> {
        let shown = match self.client.update(Purpose::Open, &held.key, update, by)? {
            Changed::Done(item) => return Ok(Taken::Ours(item)),
            Changed::Unmet(Some(item), _) => Some(item),
            Changed::Unmet(None, earlier) => {
                let shown = self.client.get(Purpose::Wait, &held.key, None, true, by);
                shown.map_err(|error| earlier.of(error))?
            }
        };
        Ok(match shown {
            // An attempt whose answer was lost got it.
            Some(item) if held.has(&item) => Taken::Ours(item),
            Some(item) => Taken::Held(item),
            None if unknown == Unknown::Refuse => Taken::NotThere,
            None => Taken::Held(Item::default()),
        })
    }

    /// What follows from the item that was locked; `None` where somebody else has it already, or has written it.
    pub(super) fn opened(
        &mut self,
        held: &mut Held,
        item: Item,
        unknown: Unknown,
        by: Deadline,
    ) -> Result<Option<Opened>> {
        let now = self.client.clock.now();
        held.item = Item { data: None, ..item.clone() };
        held.term = item.term();
        if unknown == Unknown::Refuse && !held.term.lives(now) {
            let (condition, values) = unchanged(&held.item);
            if let Changed::Unmet(..) =
                self.client.delete(Purpose::Open, &held.key, Some(&condition), values, by)?
            {
                self.release(held, by)?;
            }
            return Ok(Some(nothing()));
        }
        if !self.put_off(held, now, by)? {
            held.item = Item::default();
            return Ok(None);
        }
        let record = item.record(now).map_err(|error| error.on(self.client.options.shown.as_str()))?;
        let renewal = self.renewal(held);
        Ok(Some(Opened { record, hold: Hold::Lease(Lease::new(held.clone())), renewal: Some(renewal) }))
    }

    /// Sees to it that DynamoDB deletes nothing that is locked, and in time what a dead worker locked: where `expires` is
    /// not that of a record that lives longer than the lease, it becomes the lease's end. What has expired is gone. The
    /// answer says whether the lock is still ours, and the record what it was.
    fn put_off(&mut self, held: &mut Held, now: u64, by: Deadline) -> Result<bool> {
        let (mut set, mut remove, mut values): (Vec<&str>, Vec<&str>, Values) = Default::default();
        let (mut end, anew) = (End::at(held.item.lease().unwrap_or(0)), self.end());
        // The service's clock was not known when it was asked, or the answer took long.
        if anew.milliseconds.abs_diff(end.milliseconds) > milliseconds(self.client.settings.lease) / 3 {
            set.push("#until = :until");
            values.push((":until", number(anew.milliseconds)));
            end = anew;
        }
        if held.term != Term::Nothing && !held.term.lives(now) {
            set.push("#record = :none");
            remove.push("#data");
            values.push((":none", number(NONE)));
            held.term = Term::Nothing;
            held.item.record_expires = Some(NONE);
        }
        match held.term {
            Term::Endless if held.item.expires.is_some() => remove.push("#expires"),
            Term::Endless => {}
            Term::Nothing | Term::Until(_) if held.item.expires < Some(end.seconds) => {
                set.push("#expires = :end");
                values.push((":end", number(end.seconds)));
            }
            Term::Nothing | Term::Until(_) => {}
        }
        if set.is_empty() && remove.is_empty() {
            return Ok(true);
        }
        let clause = |verb: &str, parts: &[&str]| match parts {
            [] => String::new(),
            parts => format!("{verb} {} ", parts.join(", ")),
        };
        // What somebody has written without the lock meanwhile is not cleared.
        let (condition, lock) = unchanged(&held.item);
        values.extend(lock);
        let update = Update {
            change: &[clause("SET", &set), clause("REMOVE", &remove)].concat(),
            condition: Some(&condition),
            values,
            returns: ReturnValue::None,
        };
        let done = self.client.update(Purpose::Open, &held.key, &update, by)?;
        Ok(matches!(done, Changed::Done(_)))
    }

    /// Prolongs the lease, over a connection of its own.
    fn renewal(&self, held: &Held) -> Renewal {
        let mut client = self.client.another();
        let held = held.clone();
        let lease = self.client.settings.lease;
        Renewal {
            every: lease / 3,
            renew: Box::new(move |by| {
                let end = End::of(client.clock.now(), lease);
                let prolonged = |put_off: bool| Update {
                    change: match put_off {
                        true => "SET #until = :until, #expires = :end",
                        false => "SET #until = :until",
                    },
                    // Without it, `expires` speaks for a record that somebody wrote without the lock.
                    condition: Some(match put_off {
                        true => "#lock = :token AND attribute_exists(#record)",
                        false => "#lock = :token",
                    }),
                    values: [(":token", held.token()), (":until", number(end.milliseconds))]
                        .into_iter()
                        .chain(put_off.then(|| (":end", number(end.seconds))))
                        .collect(),
                    returns: ReturnValue::None,
                };
                let put_off = match held.term {
                    Term::Nothing => true,
                    Term::Until(seconds) => seconds < end.seconds,
                    Term::Endless => false,
                };
                let mut done = client.update(Purpose::Renew, &held.key, &prolonged(put_off), by)?;
                if put_off && matches!(done, Changed::Unmet(..)) {
                    done = client.update(Purpose::Renew, &held.key, &prolonged(false), by)?;
                }
                match done {
                    Changed::Done(_) => Ok(()),
                    Changed::Unmet(..) => Err(Error::new(ErrorKind::LockLost, "the session's lock was lost")
                        .on(client.options.shown.as_str())),
                }
            }),
        }
    }

    /// After a request that failed: gives back what it may have locked, now if there is time, else at the next open.
    pub(super) fn abandon(&mut self, held: &Held, by: Deadline) {
        let by = by.within(self.client.settings.timeout);
        if by.passed() || self.release(held, by).is_err() {
            let until = Instant::now() + self.client.settings.lease;
            self.orphans.push(Orphan { held: held.clone(), until });
        }
    }

    /// Whether this is the lock of a request of this worker that failed.
    pub(super) fn is_orphaned(&self, item: &Item) -> bool {
        self.orphans.iter().any(|orphan| orphan.held.has(item))
    }

    /// Gives back what requests that failed may have locked.
    pub(super) fn release_orphans(&mut self, by: Deadline) {
        let by = by.within(self.client.settings.timeout);
        for orphan in std::mem::take(&mut self.orphans) {
            if Instant::now() < orphan.until && self.release(&orphan.held, by).is_err() {
                self.orphans.push(orphan);
            }
        }
    }

    /// Gives the lock back if it is ours, after a look at what is there. The answer says whether it was.
    pub(super) fn release(&mut self, held: &Held, by: Deadline) -> Result<bool> {
        let found = self.client.get(Purpose::Commit, &held.key, Some(STATE), true, by)?;
        match found.filter(|item| held.has(item)) {
            Some(item) => {
                let done = self.unlock(Purpose::Commit, &held.key, &item, item.term(), by)?;
                Ok(matches!(done, Changed::Done(_)))
            }
            None => Ok(false),
        }
    }

    /// Takes the lock off that an item was seen with, and leaves the record as it is: no item at all where there is none.
    pub(super) fn unlock(
        &mut self,
        purpose: Purpose,
        key: &str,
        item: &Item,
        term: Term,
        by: Deadline,
    ) -> Result<Changed> {
        let (condition, mut values) = unchanged(item);
        let put_off = item.token().and(item.record_expires).is_some();
        let change = match term {
            Term::Nothing => return self.client.delete(purpose, key, Some(&condition), values, by),
            Term::Until(seconds) if put_off => {
                values.push((":end", number(seconds)));
                format!("SET #expires = :end REMOVE {UNLOCK}")
            }
            Term::Endless if put_off => format!("REMOVE #expires, {UNLOCK}"),
            Term::Until(_) | Term::Endless => format!("REMOVE {UNLOCK}"),
        };
        let update =
            Update { change: &change, condition: Some(&condition), values, returns: ReturnValue::None };
        self.client.update(purpose, key, &update, by)
    }

    fn end(&self) -> End {
        End::of(self.client.clock.now(), self.client.settings.lease)
    }

    pub(super) fn lost(&self) -> Error {
        self.client.tally(|tally| tally.counters.lost_leases += 1);
        Error::new(ErrorKind::LockLost, "the session's lock was lost, and the change was not written")
            .hint(
                "the request ran longer than cloakroom.lease_max, or AWS's own handler, which heeds no lock but its \
                 own, wrote or removed the session",
            )
            .on(self.client.options.shown.as_str())
    }
}

/// What holds as long as the lock that was seen is there, and nobody has written the session without it.
pub(super) fn unchanged(seen: &Item) -> (String, Values) {
    let mut values: Values = seen.lock.clone().map(|lock| (":lock", lock)).into_iter().collect();
    let same = match (seen.token(), seen.record_expires) {
        // Our lock may be prolonged meanwhile, by which `expires` changes; whoever writes without it removes the other.
        (Some(_), Some(_)) => "attribute_exists(#record)",
        (Some(_), None) => "attribute_not_exists(#record)",
        // AWS's handler changes it with every write.
        (None, _) => same_expires(seen, &mut values),
    };
    (format!("#lock = :lock AND {same}"), values)
}

fn same_expires(seen: &Item, values: &mut Values) -> &'static str {
    match seen.expires {
        Some(expires) => {
            values.push((":same", number(expires)));
            "#expires = :same"
        }
        None => "attribute_not_exists(#expires)",
    }
}

pub(super) fn nothing() -> Opened {
    Opened { record: None, hold: Hold::ReadOnly, renewal: None }
}
