//! Writing what nobody has changed since it was read: the condition is on the bytes themselves.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};

use super::DynamoDb;
use super::client::Earlier;
use super::item::{Item, number};
use super::lock::{STATE, UNLOCK};
use super::requests::{Changed, Update, Values};
use super::tally::Purpose;
use crate::stores::MARK;
use crate::{Change, Committed, Deadline, Result, SessionId, Version};

/// A record's bytes, after one that tells their type; nothing at all where there is no record.
pub(super) fn version(item: Option<&Item>, now: u64) -> Version {
    let tagged = |tag: u8, bytes: &[u8]| [&[tag], bytes].concat();
    Version(match item.filter(|item| item.term().lives(now)).map(|item| &item.data) {
        None => Vec::new(),
        Some(Some(AttributeValue::S(text))) => tagged(b'S', text.as_bytes()),
        Some(Some(AttributeValue::N(text))) => tagged(b'N', text.as_bytes()),
        Some(Some(AttributeValue::B(blob))) => tagged(b'B', blob.as_ref()),
        Some(_) => tagged(b'-', b""),
    })
}

/// What holds as long as the record is that version.
fn same(version: &Version, now: u64) -> (&'static str, Values) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let data = match version.0.split_first() {
        Some((b'S', bytes)) => AttributeValue::S(text(bytes)),
        Some((b'N', bytes)) => AttributeValue::N(text(bytes)),
        Some((b'B', bytes)) => AttributeValue::B(Blob::new(bytes)),
        Some(_) => return ("attribute_not_exists(#data) AND attribute_exists(#expires)", Vec::new()),
        None => {
            // What has expired is no record, and the lock of a worker that died leaves none.
            let none =
                "(attribute_not_exists(#expires) AND attribute_not_exists(#data) OR #expires <= :second)";
            return (none, vec![(":second", number(now / 1000))]);
        }
    };
    ("#data = :was", vec![(":was", data)])
}

/// What holds while nobody has the session alone.
const FREE: &str = "(attribute_not_exists(#lock) OR begins_with(#lock, :mark) AND #until < :now)";

impl DynamoDb {
    /// The change if the session still is what was read, and nobody has it alone.
    pub(super) fn commit_version(
        &mut self,
        id: &SessionId,
        version: &Version,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        if change == Change::Keep || (change == Change::Delete && version.0.is_empty()) {
            return Ok(Committed::Done);
        }
        let key = self.key(id);
        let now = self.client.clock.now();
        let (same, mut given) = same(version, now);
        given.extend([(":mark", AttributeValue::S(MARK.into())), (":now", number(now))]);
        let condition = format!("{same} AND {FREE}");
        let (change_made, values) = match change {
            Change::Delete => (None, Vec::new()),
            Change::Touch(_, life) if !version.0.is_empty() => (
                Some(format!("SET #expires = :expires REMOVE {UNLOCK}")),
                vec![(":expires", number(self.expires(life)))],
            ),
            Change::Write(bytes, life) | Change::Touch(bytes, life) => {
                let (change, values) = self.content(bytes, life, UNLOCK)?;
                (Some(change), values)
            }
            Change::Keep => return Ok(Committed::Done),
        };
        given.extend(values);
        let done = match &change_made {
            None => self.client.delete(Purpose::Commit, &key, Some(&condition), given, by)?,
            Some(change) => {
                let update =
                    Update { change, condition: Some(&condition), values: given, returns: ReturnValue::None };
                self.client.update(Purpose::Commit, &key, &update, by)?
            }
        };
        let (shown, earlier) = match done {
            Changed::Done(_) => return Ok(Committed::Done),
            Changed::Unmet(Some(item), earlier) => (Some(item), earlier),
            Changed::Unmet(None, earlier) => {
                let found = self.client.get(Purpose::Commit, &key, Some(STATE), true, by);
                (found.map_err(|error| earlier.of(error))?, earlier)
            }
        };
        let record = match shown {
            Some(item) => item.record(now).map_err(|error| error.on(self.client.options.shown.as_str()))?,
            None => None,
        };
        match (change, &record) {
            (Change::Delete, None) => Ok(Committed::Done),
            // Another request may have written the same; that is a conflict all the same.
            _ if earlier == Earlier::NotApplied => Ok(Committed::Conflict(record)),
            // It was made by an attempt whose answer was lost.
            (Change::Write(bytes, _), Some(found)) if found.0 == bytes => Ok(Committed::Done),
            _ => Err(self.overtaken()),
        }
    }
}
