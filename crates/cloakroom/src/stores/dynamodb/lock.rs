//! Opening a session alone: one UpdateItem that locks it and answers what is in it, and the wait for whoever has it.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};

use super::DynamoDb;
use super::item::{Item, number};
use super::requests::{Changed, Update, Values};
use super::tally::Purpose;
use crate::stores::pause::Pause;
use crate::stores::token::Token;
use crate::{Deadline, Error, ErrorKind, Hold, Lease, Opened, Renewal, Result, SessionId, Unknown};

/// What a request has while it has a session alone.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) key: String,
    pub(super) token: Token,
    /// When the record expires, in seconds since 1970; 0 where there is none.
    pub(super) expires: u64,
    /// Whether the item's `expires` is the lease's end, and not the record's.
    pub(super) put_off: bool,
}

impl Held {
    pub(super) fn token(&self) -> AttributeValue {
        AttributeValue::S(String::from_utf8_lossy(self.token.as_bytes()).into_owned())
    }
}

/// The end of a lease as the item has it, in milliseconds and in whole seconds since 1970.
struct End {
    milliseconds: u64,
    seconds: u64,
}

impl DynamoDb {
    pub(super) fn open_alone(
        &mut self,
        id: &SessionId,
        wait: Duration,
        unknown: Unknown,
        by: Deadline,
    ) -> Result<Opened> {
        let mut held = Held { key: self.key(id), token: Token::new()?, expires: 0, put_off: false };
        let began = Instant::now();
        let until = by.min(Deadline::after(wait));
        let mut pause = Pause::new(&held.token, 0);
        let mut waited = false;
        loop {
            let seen = match self.take(&held, unknown, by)? {
                Taken::Ours(item) => {
                    if waited {
                        self.client.tally(|tally| tally.counters.waited += began.elapsed());
                    }
                    return self.opened(&mut held, item, unknown, by);
                }
                Taken::NotThere => return Ok(nothing()),
                Taken::Held(seen) => seen,
            };
            let _ = seen;
            if !waited {
                waited = true;
                self.client.tally(|tally| tally.counters.waits += 1);
            }
            if until.passed() {
                self.client.tally(|tally| tally.counters.waited += began.elapsed());
                return Err(self.busy(wait));
            }
            std::thread::sleep(pause.next(0).min(until.remaining()));
        }
    }

    /// Takes the lock if nobody has it.
    fn take(&mut self, held: &Held, unknown: Unknown, by: Deadline) -> Result<Taken> {
        let now = self.client.clock.now();
        let end = self.end(now);
        let mut values: Values = vec![
            (":token", held.token()),
            (":until", number(end.milliseconds)),
            (":end", number(end.seconds)),
            (":none", number(0)),
        ];
        // An earlier attempt of ours may have got it.
        let mut condition = String::from("(attribute_not_exists(#lock) OR #lock = :token");
        // Whose lease is over is judged by the service's clock alone.
        if self.client.clock.is_known() {
            condition.push_str(" OR (begins_with(#lock, :mark) AND #until < :now)");
            values.push((":mark", AttributeValue::S(crate::stores::MARK.into())));
            values.push((":now", number(now)));
        }
        condition.push(')');
        if unknown == Unknown::Refuse {
            condition.push_str(" AND attribute_exists(#id)");
        }
        let update = Update {
            change: "SET #lock = :token, #until = :until, #record = if_not_exists(#expires, :none), \
                     #expires = if_not_exists(#expires, :end) REMOVE #seen, #before",
            condition: Some(&condition),
            values,
            returns: ReturnValue::AllNew,
        };
        let shown = match self.client.update(Purpose::Open, &held.key, &update, by)? {
            Changed::Done(item) => return Ok(Taken::Ours(item)),
            Changed::Unmet(shown, _) => shown,
        };
        let found = match shown {
            Some(item) => Some(item),
            None => self.client.get(Purpose::Wait, &held.key, Some(LOCK_STATE), true, by)?,
        };
        match found {
            None if unknown == Unknown::Refuse => Ok(Taken::NotThere),
            found => Ok(Taken::Held(found.unwrap_or_default())),
        }
    }

    /// What follows from the item that was locked.
    fn opened(&mut self, held: &mut Held, item: Item, unknown: Unknown, by: Deadline) -> Result<Opened> {
        let now = self.client.clock.now();
        held.expires = item.record_expires();
        let lives = item.lives(now);
        if !lives && unknown == Unknown::Refuse {
            self.give_up(held, by)?;
            return Ok(nothing());
        }
        let end = self.end(now);
        if held.expires > 0 && held.expires < end.seconds {
            self.put_off(held, lives, &end, by)?;
        }
        if held.expires == 0 {
            held.put_off = true;
        }
        let record = item.record(now);
        let renewal = self.renewal(held);
        Ok(Opened { record, hold: Hold::Lease(Lease::new(held.clone())), renewal: Some(renewal) })
    }

    /// DynamoDB must not delete what is locked: `expires` becomes the lease's end, and what has expired is gone.
    fn put_off(&mut self, held: &mut Held, lives: bool, end: &End, by: Deadline) -> Result<()> {
        let update = Update {
            change: match lives {
                true => "SET #expires = :end",
                false => "SET #expires = :end, #record = :none REMOVE #data",
            },
            condition: Some("#lock = :token"),
            values: [(":end", number(end.seconds)), (":token", held.token())]
                .into_iter()
                .chain((!lives).then(|| (":none", number(0))))
                .collect(),
            returns: ReturnValue::None,
        };
        held.put_off = true;
        match self.client.update(Purpose::Open, &held.key, &update, by)? {
            Changed::Done(_) => {
                if !lives {
                    held.expires = 0;
                }
                Ok(())
            }
            Changed::Unmet(..) => Err(self.lost()),
        }
    }

    /// Prolongs the lease, over a connection of its own.
    fn renewal(&self, held: &Held) -> Renewal {
        let mut client = self.client.another();
        let held = held.clone();
        let shown = self.client.options.shown.clone();
        let lease = self.client.settings.lease;
        Renewal {
            every: lease / 3,
            renew: Box::new(move |by| {
                let end = end_of(client.clock.now(), lease);
                let put_off = held.put_off || held.expires < end.seconds;
                let mut values: Values = vec![(":token", held.token()), (":until", number(end.milliseconds))];
                if put_off {
                    values.push((":end", number(end.seconds)));
                }
                let update = Update {
                    change: match put_off {
                        true => "SET #until = :until, #expires = :end",
                        false => "SET #until = :until",
                    },
                    condition: Some("#lock = :token"),
                    values,
                    returns: ReturnValue::None,
                };
                match client.update(Purpose::Renew, &held.key, &update, by)? {
                    Changed::Done(_) => Ok(()),
                    Changed::Unmet(..) => {
                        Err(Error::new(ErrorKind::LockLost, "the session's lock was lost").on(shown.as_str()))
                    }
                }
            }),
        }
    }

    /// Gives back what was locked and turned out to be no session.
    fn give_up(&mut self, held: &Held, by: Deadline) -> Result<()> {
        let values = vec![(":token", held.token())];
        self.client.delete(Purpose::Open, &held.key, Some("#lock = :token"), values, by).map(drop)
    }

    fn end(&self, now: u64) -> End {
        end_of(now, self.client.settings.lease)
    }

    fn busy(&self, wait: Duration) -> Error {
        Error::new(
            ErrorKind::LockBusy,
            format!("another request kept the session's lock for longer than {:.1} s", wait.as_secs_f64()),
        )
        .hint("close sessions early (session_write_close, read_and_close), or raise cloakroom.lock_wait")
        .on(self.client.options.shown.as_str())
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

/// What tells whether somebody has a session.
pub(super) const LOCK_STATE: &str = "#expires, #lock, #until, #record, #seen, #before";

enum Taken {
    Ours(Item),
    /// There is no such session.
    NotThere,
    /// Somebody else has it.
    Held(Item),
}

fn nothing() -> Opened {
    Opened { record: None, hold: Hold::ReadOnly, renewal: None }
}

fn end_of(now: u64, lease: Duration) -> End {
    let milliseconds = now + u64::try_from(lease.as_millis()).unwrap_or(u64::MAX / 4);
    End { milliseconds, seconds: milliseconds / 1000 }
}
