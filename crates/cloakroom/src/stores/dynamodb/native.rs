//! Locks of AWS's own handler: a number, without an owner and without a time.
//!
//! Nothing tells how long such a lock has been held, so whoever has waited for it for two seconds stamps it: `lock_seen` is
//! the moment, `lock_seen_expires` what `expires` was. `break_after=` later the lock counts as left by a worker that died.
//!
//! The handler's own write leaves the stamp behind, but it always puts a new `expires`, so that a stamp of an earlier lock
//! counts no more. (Two seconds, because `expires` counts whole ones and hosts' clocks differ: what was written before the
//! lock that was watched for so long never has the `expires` of what is written after it.) Whoever stamps or breaks does it
//! only while lock and `expires` are those that it saw; of two, the second does nothing.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};

use super::DynamoDb;
use super::item::{Item, NONE, milliseconds, number};
use super::lock::unchanged;
use super::requests::Update;
use super::tally::Purpose;
use crate::{Deadline, Ends, Result};

/// How long a lock is watched before it is stamped.
const WATCHED: Duration = Duration::from_secs(2);

/// A stamp that is so much later than now, in milliseconds, was put by a clock that is wrong.
const LATER: u64 = 10_000;

/// The lock that a waiter has seen all the time.
#[derive(Debug, Default)]
pub(super) struct Watch {
    lock: Option<(AttributeValue, Option<i64>, Instant)>,
}

impl Watch {
    /// Whether this lock has no end, and was the same for long enough to say so to others.
    pub(super) fn sees(&mut self, item: &Item) -> bool {
        let Some(lock) = item.lock.as_ref().filter(|_| item.lease().is_none()) else {
            self.lock = None;
            return false;
        };
        match &self.lock {
            Some((same, expires, since)) if same == lock && *expires == item.expires => {
                since.elapsed() >= WATCHED
            }
            _ => {
                self.lock = Some((lock.clone(), item.expires, Instant::now()));
                false
            }
        }
    }
}

impl DynamoDb {
    /// Says beside a lock since when it has been there, unless somebody has.
    pub(super) fn stamp(&mut self, key: &str, item: &Item, by: Deadline) -> Result<()> {
        if self.client.options.break_after.is_none() || self.stamped(item).is_some() {
            return Ok(());
        }
        let now = self.client.clock.now();
        let (condition, mut values) = unchanged(item);
        let condition = format!(
            "{condition} AND (attribute_not_exists(#seen) OR attribute_not_exists(#before) OR #before <> :before \
             OR #seen > :later)"
        );
        values.extend([
            (":seen", number(now)),
            (":before", number(item.expires.unwrap_or(NONE))),
            (":later", number(now + LATER)),
        ]);
        let update = Update {
            change: "SET #seen = :seen, #before = :before",
            condition: Some(&condition),
            values,
            returns: ReturnValue::None,
        };
        // Somebody else's stamp, or another lock: the next look tells.
        self.client.update(Purpose::Wait, key, &update, by).map(drop)
    }

    /// Whether a lock that has no end counts as left by a worker that died.
    pub(super) fn native_is_over(&self, item: &Item) -> bool {
        let breaks = self.client.options.break_after.zip(self.stamped(item));
        breaks
            .is_some_and(|(after, seen)| self.client.clock.now() >= seen.saturating_add(milliseconds(after)))
    }

    /// When a lock that has no end will count as left.
    pub(super) fn native_ends(&self, item: &Item) -> Ends {
        match (self.client.options.break_after, self.stamped(item)) {
            (None, _) => Ends::Never,
            // From the first waiter on.
            (Some(_), None) => Ends::Unknown,
            (Some(after), Some(seen)) => {
                let left = (seen.saturating_add(milliseconds(after))).saturating_sub(self.client.clock.now());
                Ends::After(Duration::from_millis(left))
            }
        }
    }

    /// When this very lock was stamped, in milliseconds since 1970.
    fn stamped(&self, item: &Item) -> Option<u64> {
        let seen = u64::try_from(item.seen?).ok()?;
        let counts = item.seen_expires == Some(item.expires.unwrap_or(NONE))
            && seen <= self.client.clock.now() + LATER;
        counts.then_some(seen)
    }
}
