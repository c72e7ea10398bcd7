//! Removing what has expired from a table whose TTL is off: Scan, page by page, and a DeleteItem for each, several at a time over
//! connections of their own, on the condition that it still is what the page told. (BatchWriteItem has no conditions: a visitor
//! who comes back in between would lose his session.)

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;

use super::DynamoDb;
use super::client::{Client, Earlier};
use super::item::{Attributes, Item, number};
use super::requests::{Changed, Scan, Values};
use super::tally::Purpose;
use crate::{Deadline, Result};

/// How many items are looked at for a page.
const PAGE: i32 = 100;

/// How many items are removed at a time, at most.
const AT_A_TIME: usize = 8;

/// The longest sleep after which it is not asked whether to go on.
const SLICE: Duration = Duration::from_millis(100);

/// How to walk through a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Collecting {
    /// How long ago a session must have expired.
    pub grace: Duration,
    /// How many read units, and how many write units, may be used in a second.
    pub rate: f64,
}

/// What a walk through a table has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Collected {
    /// Items looked at.
    pub scanned: u64,
    /// Sessions removed.
    pub removed: u64,
    /// Expired ones that somebody has locked.
    pub locked: u64,
    /// Expired ones that were written, locked or removed between the look and the removal; and those that never expire, whose
    /// worker has died.
    pub changed: u64,
    /// What that cost.
    pub read_units: f64,
    /// What that cost.
    pub write_units: f64,
    /// Whether it came to the end of the table.
    pub finished: bool,
}

impl DynamoDb {
    /// Removes what has expired, whatever it is: as the table's TTL would. `go_on` is told of each step, and may end the walk by
    /// answering false; the next walk begins anew, with what was removed gone.
    ///
    /// # Errors
    /// When the table does not answer, even after some tries.
    pub fn collect(
        &mut self,
        how: &Collecting,
        go_on: &mut dyn FnMut(&Collected) -> bool,
        time_for_a_call: Duration,
    ) -> Result<Collected> {
        let pace = Pace { rate: how.rate, due: [Instant::now(); 2] };
        let mut walk = Walk { done: Collected::default(), pace, go_on };
        let start = self.billed_units();
        let (mut from, mut clients) = (None, Vec::new());
        loop {
            let now = self.client.clock.now();
            let limit = (now / 1000).saturating_sub(how.grace.as_secs());
            let scan = Scan {
                projection: "#id, #expires, #lock, #until",
                filter: Some("#expires < :limit"),
                values: vec![(":limit", number(limit))],
                limit: Some(PAGE),
                consistent: false,
            };
            let page = self.client.scan(Purpose::Read, &scan, from, Deadline::after(time_for_a_call))?;
            // Before the first answer that was this host's clock, which may be ahead of DynamoDB's.
            let limit = limit.min((self.client.clock.now() / 1000).saturating_sub(how.grace.as_secs()));
            walk.done.scanned += page.scanned;
            walk.paid(self.billed_units(), start);
            let mut items = page.items;
            while !items.is_empty() {
                if !walk.goes_on() {
                    return Ok(walk.done);
                }
                let rest = items.split_off(walk.at_a_time().min(items.len()));
                let some = std::mem::replace(&mut items, rest);
                let by = Deadline::after(time_for_a_call);
                let ended = self.remove_expired(some, limit, &mut clients, &mut walk.done, by);
                walk.paid(self.billed_units(), start);
                if let Err(error) = ended {
                    // The others of these may have been removed.
                    (walk.go_on)(&walk.done);
                    return Err(error);
                }
            }
            if page.next.is_none() {
                walk.done.finished = true;
                return Ok(walk.done);
            }
            if !walk.goes_on() {
                return Ok(walk.done);
            }
            from = page.next;
        }
    }

    /// Removes items at the same time, each with a client of its own; of those that fail, the first tells why.
    fn remove_expired(
        &self,
        items: Vec<Attributes>,
        limit: u64,
        clients: &mut Vec<Client>,
        done: &mut Collected,
        by: Deadline,
    ) -> Result<()> {
        while clients.len() < items.len() {
            clients.push(self.client.another());
        }
        let outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
            let removing = items.into_iter().zip(clients.iter_mut());
            let removing: Vec<_> =
                removing.map(|(item, client)| scope.spawn(move || remove(client, item, limit, by))).collect();
            let ended = removing.into_iter().map(std::thread::ScopedJoinHandle::join);
            ended.map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let mut failed = Ok(());
        for outcome in outcomes {
            match outcome {
                Ok(Outcome::Removed) => done.removed += 1,
                Ok(Outcome::Locked) => done.locked += 1,
                Ok(Outcome::Changed) => done.changed += 1,
                Ok(Outcome::Unnamed) => {}
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        failed
    }

    /// Read and write units of all requests so far.
    fn billed_units(&self) -> (f64, f64) {
        let bill = self.client.tally(|tally| tally.bill());
        bill.iter().fold((0.0, 0.0), |(read, write), (_, it)| (read + it.read_units, write + it.write_units))
    }
}

/// What became of an item that has expired.
enum Outcome {
    Removed,
    Locked,
    Changed,
    /// Its key is no string: it is no session.
    Unnamed,
}

/// Removes one item, if it still is what was seen.
fn remove(client: &mut Client, attributes: Attributes, limit: u64, by: Deadline) -> Result<Outcome> {
    let options = std::sync::Arc::clone(&client.options);
    let Some(AttributeValue::S(key)) = attributes.get(&options.layout.key).cloned() else {
        return Ok(Outcome::Unnamed);
    };
    let now = client.clock.now();
    if !Item::read(attributes, &options.layout).is_free(now) {
        return Ok(Outcome::Locked);
    }
    // A record that never expires, whose worker has died: `expires` is its lock's.
    let condition = "#expires < :limit AND (attribute_not_exists(#lock) OR (begins_with(#lock, :mark) \
                     AND #until < :now AND (NOT #record < :zero OR attribute_not_exists(#data))))";
    let values: Values = vec![
        (":limit", number(limit)),
        (":mark", AttributeValue::S(crate::stores::MARK.into())),
        (":now", number(now)),
        (":zero", number(0)),
    ];
    Ok(match client.delete(Purpose::Commit, &key, Some(condition), values, by)? {
        // It was there when the page was read.
        Changed::Done(_) | Changed::Unmet(None, Earlier::MaybeApplied) => Outcome::Removed,
        Changed::Unmet(..) => Outcome::Changed,
    })
}

/// A walk that keeps to its rate.
struct Walk<'a> {
    done: Collected,
    pace: Pace,
    go_on: &'a mut dyn FnMut(&Collected) -> bool,
}

impl Walk<'_> {
    fn paid(&mut self, (read, write): (f64, f64), start: (f64, f64)) {
        let (read, write) = (read - start.0, write - start.1);
        self.pace.used([read - self.done.read_units, write - self.done.write_units], Instant::now());
        (self.done.read_units, self.done.write_units) = (read, write);
    }

    /// How many items may be removed at once: as many as cost a tenth of what a second may, by what those before have cost. The
    /// first, before which nothing is known, goes alone.
    fn at_a_time(&self) -> usize {
        let asked = self.done.removed + self.done.changed;
        let affordable =
            |count: &usize| *count as f64 * self.done.write_units * 10.0 <= self.pace.rate * asked as f64;
        (2..=AT_A_TIME).rev().filter(|_| asked > 0).find(affordable).unwrap_or(1)
    }

    /// Waits until what was used is within the rate; false where it is to end.
    fn goes_on(&mut self) -> bool {
        let [read, write] = self.pace.due;
        loop {
            if !(self.go_on)(&self.done) {
                return false;
            }
            match read.max(write).saturating_duration_since(Instant::now()) {
                Duration::ZERO => return true,
                left => std::thread::sleep(left.min(SLICE)),
            }
        }
    }
}

/// So many read units and so many write units in a second.
struct Pace {
    rate: f64,
    /// When what was used so far is within the rate: of read units, of write units.
    due: [Instant; 2],
}

impl Pace {
    /// What was used until now. What was not used before, as when the table throttled, is made up for by a second's units at
    /// most: it has other guests.
    fn used(&mut self, units: [f64; 2], now: Instant) {
        let earliest = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        for (due, units) in self.due.iter_mut().zip(units) {
            let takes = Duration::try_from_secs_f64(units / self.rate).unwrap_or_default();
            *due = (*due).max(earliest) + takes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_not_made_up_for_by_haste() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace { rate: 10.0, due: [start; 2] };
        pace.used([5.0, 20.0], start);
        assert_eq!(pace.due, [start + Duration::from_millis(500), after(2)]);
        // A minute of throttling would be worth 600 units.
        pace.used([30.0, 0.0], after(60));
        assert_eq!(pace.due, [after(62), after(59)]);
    }
}
