//! Writing, and giving the lock back in the same request.

use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};

use super::client::Earlier;
use super::item::{self, Item, Term, milliseconds, number};
use super::lock::{Held, STATE, UNLOCK};
use super::requests::{Changed, Update, Values};
use super::tally::Purpose;
use super::{DynamoDb, LARGEST};
use crate::stores::MARK;
use crate::{Change, Committed, Deadline, Error, ErrorKind, Result, Seen, SessionId};

/// What holds while the lock is ours.
const OURS: &str = "#lock = :token";

impl DynamoDb {
    /// Applies the change if the lock is still ours, and releases it.
    pub(super) fn commit_alone(
        &mut self,
        held: &Held,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        let done = self.commit_held(held, change, by);
        if done.as_ref().is_err_and(|error| error.kind() != ErrorKind::LockLost) {
            self.abandon(held, by);
        }
        done
    }

    fn commit_held(&mut self, held: &Held, change: Change<'_>, by: Deadline) -> Result<Committed> {
        let (done, committed) = match (change, held.term) {
            (Change::Write(bytes, life), _) => (self.write_alone(held, bytes, life, by)?, Committed::Done),
            (Change::Touch(_, life), Term::Until(_)) => {
                let update = Update {
                    change: &format!("SET #expires = :expires REMOVE {UNLOCK}"),
                    condition: Some("#lock = :token AND attribute_exists(#expires)"),
                    values: vec![(":token", held.token()), (":expires", number(self.expires(life)))],
                    returns: ReturnValue::None,
                };
                (self.client.update(Purpose::Commit, &held.key, &update, by)?, Committed::Done)
            }
            (Change::Touch(bytes, life), Term::Nothing) => {
                (self.write_alone(held, bytes, life, by)?, Committed::Rewritten)
            }
            (Change::Touch(bytes, life), Term::Endless) => {
                (self.write_alone(held, bytes, life, by)?, Committed::Done)
            }
            (Change::Keep, term) => {
                (self.unlock(Purpose::Commit, &held.key, &held.item, term, by)?, Committed::Done)
            }
            (Change::Delete, _) => {
                let values = vec![(":token", held.token())];
                (self.client.delete(Purpose::Commit, &held.key, Some(OURS), values, by)?, Committed::Done)
            }
        };
        match done {
            Changed::Done(_) => Ok(committed),
            Changed::Unmet(shown, earlier) => self.unmet(held, change, shown, earlier, by),
        }
    }

    fn write_alone(&mut self, held: &Held, bytes: &[u8], life: Duration, by: Deadline) -> Result<Changed> {
        let (change, mut values) = self.content(bytes, life, UNLOCK)?;
        values.push((":token", held.token()));
        let update = Update { change: &change, condition: Some(OURS), values, returns: ReturnValue::None };
        self.client.update(Purpose::Commit, &held.key, &update, by)
    }

    /// The change was refused: what is there tells why.
    fn unmet(
        &mut self,
        held: &Held,
        change: Change<'_>,
        shown: Option<Item>,
        earlier: Earlier,
        by: Deadline,
    ) -> Result<Committed> {
        // Only of these more than the lock is asked.
        let may_be_ours = matches!(change, Change::Touch(..) | Change::Keep);
        let found = match shown {
            None if may_be_ours || earlier == Earlier::MaybeApplied => {
                let found = self.client.get(Purpose::Commit, &held.key, Some(STATE), true, by);
                found.map_err(|error| earlier.of(error))?
            }
            shown => shown,
        };
        match (found, change) {
            (Some(found), Change::Touch(bytes, life)) if held.has(&found) => {
                self.commit_held(held, Change::Write(bytes, life), by)?;
                Ok(Committed::Rewritten)
            }
            (Some(found), Change::Keep) if held.has(&found) => {
                match self.unlock(Purpose::Commit, &held.key, &found, found.term(), by)? {
                    Changed::Done(_) => Ok(Committed::Done),
                    Changed::Unmet(..) => Err(self.lost()),
                }
            }
            (_, _) if earlier == Earlier::NotApplied => Err(self.lost()),
            (found, change) => self.applied_before(change, found),
        }
    }

    /// An attempt got no answer, and now the lock is gone: what is there tells whether the change was made.
    fn applied_before(&self, change: Change<'_>, found: Option<Item>) -> Result<Committed> {
        let shown = self.client.options.shown.as_str();
        let record = match found {
            Some(found) => found.record(self.client.clock.now()).map_err(|error| error.on(shown))?,
            None => None,
        };
        let as_asked = match change {
            Change::Write(bytes, _) | Change::Touch(bytes, _) => record.is_some_and(|it| it.0 == bytes),
            Change::Delete => record.is_none(),
            Change::Keep => true,
        };
        match as_asked {
            true => Ok(Committed::Done),
            false => Err(self.overtaken()),
        }
    }

    /// An attempt got no answer, and what is there now is another request's.
    pub(super) fn overtaken(&self) -> Error {
        let what =
            "the connection was cut during the write, and another request has changed the session since";
        Error::new(ErrorKind::Unreachable, what).on(self.client.options.shown.as_str()).maybe_applied()
    }

    /// The change without a lock: the last writer wins. What was there before tells whether that undid another's change.
    /// Who has the session alone meanwhile keeps it that way, unless it is deleted: that write is refused then.
    pub(super) fn commit_unlocked(
        &mut self,
        id: &SessionId,
        seen: &Seen,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        let key = self.key(id);
        // From now on `expires` speaks for the record, lock or no lock.
        const RECORD: &str = "#record";
        match change {
            Change::Keep => Ok(Committed::Done),
            Change::Delete => {
                self.client.delete(Purpose::Commit, &key, None, Vec::new(), by)?;
                Ok(Committed::Done)
            }
            Change::Touch(bytes, life) => {
                let update = Update {
                    change: &format!("SET #expires = :expires REMOVE {RECORD}"),
                    condition: Some(
                        "#expires > :now AND (attribute_not_exists(#lock) OR NOT begins_with(#lock, :mark) \
                         OR attribute_not_exists(#record) OR #record > :now)",
                    ),
                    values: vec![
                        (":mark", AttributeValue::S(MARK.into())),
                        (":expires", number(self.expires(life))),
                        (":now", number(self.client.clock.now() / 1000)),
                    ],
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
                let (change, values) = self.content(bytes, life, RECORD)?;
                let update =
                    Update { change: &change, condition: None, values, returns: ReturnValue::AllOld };
                if let Changed::Done(before) = self.client.update(Purpose::Commit, &key, &update, by)? {
                    let before = before.record(now).ok().flatten();
                    let before = before.as_ref().map(|record| record.0.as_slice());
                    // These bytes may be those of an attempt whose answer was lost.
                    if !seen.is(before) && before != Some(bytes) {
                        self.client.tally(|tally| tally.counters.conflicts += 1);
                    }
                }
                Ok(Committed::Done)
            }
        }
    }

    /// The update that makes this the session, and removes these attributes besides.
    pub(super) fn content(&self, bytes: &[u8], life: Duration, besides: &str) -> Result<(String, Values)> {
        if bytes.len() as u64 > LARGEST {
            let what = format!(
                "the session has {} bytes, which is more than the {LARGEST} that an item of DynamoDB has room for",
                bytes.len()
            );
            return Err(Error::new(ErrorKind::TooLarge, what).hint("keep less in the session").on(self
                .client
                .options
                .shown
                .as_str()));
        }
        let expires = (":expires", number(self.expires(life)));
        Ok(match item::data(bytes, &self.client.options.layout) {
            Some(data) => (
                format!("SET #data = :data, #expires = :expires REMOVE {besides}"),
                vec![(":data", data), expires],
            ),
            None => (format!("SET #expires = :expires REMOVE #data, {besides}"), vec![expires]),
        })
    }

    /// When a session that is written now expires, in whole seconds since 1970, not sooner than asked for.
    pub(super) fn expires(&self, life: Duration) -> u64 {
        (self.client.clock.now() + milliseconds(life)).div_ceil(1000)
    }
}
