//! Writing, and giving the lock back in the same request.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};

use super::DynamoDb;
use super::client::Earlier;
use super::item::{self, Item, number};
use super::lock::Held;
use super::requests::{Changed, Update, Values};
use super::tally::Purpose;
use crate::{Change, Committed, Deadline, Error, ErrorKind, Record, Result, Seen, SessionId, Version};

/// What a lock leaves nothing of.
const UNLOCK: &str = "#lock, #until, #record, #seen, #before";

impl DynamoDb {
    /// Applies the change if the lock is still ours, and releases it.
    pub(super) fn commit_alone(
        &mut self,
        held: &Held,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        let ours = || (":token", held.token());
        let done = match change {
            Change::Write(bytes, life) => {
                let (set, values) = self.content(bytes, life);
                self.finish(held, &set, "#lock = :token", values, by)?
            }
            Change::Touch(bytes, life) => {
                let expires = self.expires(life);
                let set = format!("SET #expires = :expires REMOVE {UNLOCK}");
                let there = "#lock = :token AND attribute_exists(#expires)";
                match self.finish(held, &set, there, vec![(":expires", number(expires))], by)? {
                    // It may be the lock that is lost, or the record: the write tells.
                    Changed::Unmet(..) => {
                        self.commit_alone(held, Change::Write(bytes, life), by)?;
                        return Ok(Committed::Rewritten);
                    }
                    done => done,
                }
            }
            Change::Keep if held.expires == 0 => self.remove(held, by)?,
            Change::Keep => {
                let (set, values) = match held.put_off {
                    true => (
                        format!("SET #expires = :expires REMOVE {UNLOCK}"),
                        vec![(":expires", number(held.expires))],
                    ),
                    false => (format!("REMOVE {UNLOCK}"), Vec::new()),
                };
                self.finish(held, &set, "#lock = :token", values, by)?
            }
            Change::Delete => self.remove(held, by)?,
        };
        let _ = ours;
        match done {
            Changed::Done(_) => Ok(Committed::Done),
            Changed::Unmet(_, Earlier::NotApplied) => Err(self.lost()),
            Changed::Unmet(shown, Earlier::MaybeApplied) => self.applied_before(held, change, shown, by),
        }
    }

    fn finish(
        &mut self,
        held: &Held,
        set: &str,
        condition: &str,
        mut values: Values,
        by: Deadline,
    ) -> Result<Changed> {
        values.push((":token", held.token()));
        let update = Update { change: set, condition: Some(condition), values, returns: ReturnValue::None };
        self.client.update(Purpose::Commit, &held.key, &update, by)
    }

    fn remove(&mut self, held: &Held, by: Deadline) -> Result<Changed> {
        let values = vec![(":token", held.token())];
        self.client.delete(Purpose::Commit, &held.key, Some("#lock = :token"), values, by)
    }

    /// An attempt got no answer, and now the lock is gone: what is there tells whether the change was made.
    fn applied_before(
        &mut self,
        held: &Held,
        change: Change<'_>,
        shown: Option<Item>,
        by: Deadline,
    ) -> Result<Committed> {
        let found = match shown {
            Some(item) => Some(item),
            None => self.client.get(Purpose::Commit, &held.key, None, true, by)?,
        };
        let now = self.client.clock.now();
        let record = found.and_then(|item| item.record(now));
        let as_asked = match change {
            Change::Write(bytes, _) | Change::Touch(bytes, _) => {
                record.is_some_and(|record| record.0 == bytes)
            }
            Change::Delete => record.is_none(),
            Change::Keep => true,
        };
        match as_asked {
            true => Ok(Committed::Done),
            false => Err(Error::new(
                ErrorKind::Unreachable,
                "the connection was cut during the write, and another request has changed the session since",
            )
            .on(self.client.options.shown.as_str())
            .maybe_applied()),
        }
    }

    /// The change without a lock: the last writer wins. What was there before tells whether that undid another's change.
    pub(super) fn commit_unlocked(
        &mut self,
        id: &SessionId,
        seen: &Seen,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        let key = self.key(id);
        match change {
            Change::Keep => Ok(Committed::Done),
            Change::Delete => {
                self.client.delete(Purpose::Commit, &key, None, Vec::new(), by)?;
                Ok(Committed::Done)
            }
            Change::Touch(bytes, life) => {
                let update = Update {
                    change: "SET #expires = :expires",
                    condition: Some("attribute_exists(#expires)"),
                    values: vec![(":expires", number(self.expires(life)))],
                    returns: ReturnValue::None,
                };
                match self.client.update(Purpose::Commit, &key, &update, by)? {
                    Changed::Done(_) => Ok(Committed::Done),
                    Changed::Unmet(..) => {
                        self.commit_unlocked(id, seen, Change::Write(bytes, life), by)?;
                        Ok(Committed::Rewritten)
                    }
                }
            }
            Change::Write(bytes, life) => {
                let now = self.client.clock.now();
                let (set, values) = self.content(bytes, life);
                let set = set.replace(&format!(", {UNLOCK}"), "").replace(&format!(" REMOVE {UNLOCK}"), "");
                let update = Update { change: &set, condition: None, values, returns: ReturnValue::AllOld };
                if let Changed::Done(before) = self.client.update(Purpose::Commit, &key, &update, by)? {
                    let before = before.record(now);
                    if !seen.is(before.as_ref().map(|record| record.0.as_slice())) {
                        self.client.tally(|tally| tally.counters.conflicts += 1);
                    }
                }
                Ok(Committed::Done)
            }
        }
    }

    /// The change if the session still is what was read, and nobody has it alone.
    pub(super) fn commit_version(
        &mut self,
        id: &SessionId,
        version: &Version,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        let _ = (id, version, change, by);
        Err(Error::new(ErrorKind::Unsupported, "not yet"))
    }

    /// The update that makes this the session, and nobody's.
    fn content(&self, bytes: &[u8], life: std::time::Duration) -> (String, Values) {
        let expires = (":expires", number(self.expires(life)));
        match item::data(bytes, &self.client.options.layout) {
            Some(data) => (
                format!("SET #data = :data, #expires = :expires REMOVE {UNLOCK}"),
                vec![(":data", data), expires],
            ),
            None => (format!("SET #expires = :expires REMOVE #data, {UNLOCK}"), vec![expires]),
        }
    }

    /// When a session that is written now expires, in whole seconds since 1970, not sooner than asked for.
    fn expires(&self, life: std::time::Duration) -> u64 {
        let life = u64::try_from(life.as_millis()).unwrap_or(u64::MAX / 4);
        (self.client.clock.now() + life).div_ceil(1000)
    }
}

#[allow(unused)]
fn version_of(record: Option<&Record>, data: Option<&AttributeValue>) -> Version {
    let _ = (record, data, Blob::new(""));
    Version(Vec::new())
}
