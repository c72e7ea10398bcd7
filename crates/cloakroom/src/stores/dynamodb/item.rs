//! A session's item, as AWS's own handler and ours write it.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use super::options::{LOCK, Layout, RECORD_EXPIRES, SEEN, SEEN_EXPIRES, UNTIL};
use crate::stores::MARK;
use crate::{Error, ErrorKind, Record, Result, SessionId};

/// Attributes by their names, as the client has them.
pub(super) type Attributes = HashMap<String, AttributeValue>;

/// What stands in `record_expires` and `lock_seen_expires` where there was no `expires`.
pub(super) const NONE: i64 = -1;

/// What an item says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Item {
    /// The bytes of the session; there are none in an empty one.
    pub(super) data: Option<AttributeValue>,
    /// When DynamoDB may delete it, in seconds since 1970.
    pub(super) expires: Option<i64>,
    pub(super) lock: Option<AttributeValue>,
    /// When our lock's lease ends, in milliseconds since 1970.
    pub(super) until: Option<i64>,
    /// What `expires` was before our lock put it off. It counts only while that lock is on.
    pub(super) record_expires: Option<i64>,
    /// When a waiter of ours first saw this lock of AWS's handler, in milliseconds since 1970.
    pub(super) seen: Option<i64>,
    /// What `expires` was then.
    pub(super) seen_expires: Option<i64>,
}

/// How long the record of an item lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Term {
    /// There is no record.
    Nothing,
    /// Until then, in seconds since 1970.
    Until(i64),
    /// For good: whoever wrote it gave it no `expires`.
    Endless,
}

impl Term {
    /// Whether that is a session at this moment, in milliseconds since 1970.
    pub(super) fn lives(self, now: u64) -> bool {
        match self {
            Term::Nothing => false,
            Term::Until(seconds) => u64::try_from(seconds).unwrap_or(0).saturating_mul(1000) > now,
            Term::Endless => true,
        }
    }
}

impl Item {
    pub(super) fn read(mut attributes: Attributes, layout: &Layout) -> Item {
        let number = |name: &str| match attributes.get(name) {
            // Others may write fractions.
            Some(AttributeValue::N(digits)) => digits.parse::<f64>().ok().map(|number| number as i64),
            _ => None,
        };
        Item {
            expires: number(&layout.expires),
            until: number(UNTIL),
            record_expires: number(RECORD_EXPIRES),
            seen: number(SEEN),
            seen_expires: number(SEEN_EXPIRES),
            data: attributes.remove(&layout.data),
            lock: attributes.remove(LOCK),
        }
    }

    /// The token of the worker of ours that has locked it.
    pub(super) fn token(&self) -> Option<&str> {
        match &self.lock {
            Some(AttributeValue::S(token)) if token.starts_with(MARK) => Some(token),
            _ => None,
        }
    }

    /// When the record expires, as it is written: while our lock is on, `expires` may speak for the lock.
    pub(super) fn written_expires(&self) -> i64 {
        let before = self.record_expires.filter(|_| self.token().is_some());
        before.or(self.expires).unwrap_or(NONE)
    }

    /// How long the record lives.
    pub(super) fn term(&self) -> Term {
        match (self.written_expires(), &self.data) {
            (NONE, Some(_)) => Term::Endless,
            (NONE, None) => Term::Nothing,
            (seconds, _) => Term::Until(seconds),
        }
    }

    /// The session, if it is one at this moment, in milliseconds since 1970.
    pub(super) fn record(self, now: u64) -> Result<Option<Record>> {
        match (self.term().lives(now), self.data) {
            (false, _) => Ok(None),
            (true, None) => Ok(Some(Record(Vec::new()))),
            (true, Some(data)) => bytes(data).map(Record).map(Some),
        }
    }

    /// Whether nobody has it at this moment: there is no lock, or one of ours whose lease is over.
    pub(super) fn is_free(&self, now: u64) -> bool {
        self.lock.is_none() || self.lease().is_some_and(|until| until < now)
    }

    /// When the lock ends by itself, in milliseconds since 1970; no lock but ours does.
    pub(super) fn lease(&self) -> Option<u64> {
        self.token().and(self.until).map(|until| u64::try_from(until).unwrap_or(0))
    }
}

/// The bytes of a session, whatever type it was written as.
fn bytes(data: AttributeValue) -> Result<Vec<u8>> {
    match data {
        AttributeValue::S(text) | AttributeValue::N(text) => Ok(text.into_bytes()),
        AttributeValue::B(blob) => Ok(blob.into_inner()),
        _ => Err(Error::new(ErrorKind::Corrupt, "the item's session is neither a string nor binary")
            .hint("see data= in session.save_path, and who else writes to the table")),
    }
}

/// The size of an item as DynamoDB counts it, in bytes.
pub(super) fn size(attributes: &Attributes) -> usize {
    attributes.iter().map(|(name, value)| name.len() + size_of(value)).sum()
}

/// The size of one attribute's value, of those that sessions have.
pub(super) fn size_of(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::B(blob) => blob.as_ref().len(),
        // Two digits a byte, and one.
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
        _ => 1,
    }
}

/// These bytes as the table has them; `None` for none, which some engines refuse and AWS's handler never writes.
pub(super) fn data(bytes: &[u8], layout: &Layout) -> Option<AttributeValue> {
    match std::str::from_utf8(bytes) {
        Ok("") => None,
        Ok(text) if !layout.binary => Some(AttributeValue::S(text.to_owned())),
        _ => Some(AttributeValue::B(Blob::new(bytes))),
    }
}

pub(super) fn number(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

/// A session's key: PHP's `session.name`, `_`, and the id, as AWS's handler puts them together.
pub(super) fn key(session_name: &str, id: &SessionId) -> String {
    format!("{session_name}_{}", id.as_str()).trim_matches('_').to_owned()
}

/// The id in a key, if it is a session's.
pub(super) fn id(session_name: &str, key: &str) -> Option<SessionId> {
    let prefix = session_name.trim_start_matches('_');
    let id = match prefix {
        "" => key,
        prefix => key.strip_prefix(prefix)?.strip_prefix('_')?,
    };
    SessionId::parse(id.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_aws_s_handler() {
        let session = SessionId::parse(b"abc").unwrap();
        for (name, told) in [("PHPSESSID", "PHPSESSID_abc"), ("_n_", "n__abc"), ("", "abc"), ("_", "abc")] {
            assert_eq!(key(name, &session), told);
            assert_eq!(id(name, told), Some(session.clone()), "{name}");
        }
        assert_eq!(id("PHPSESSID", "other_abc"), None);
        assert_eq!(id("PHPSESSID", "PHPSESSID_abc_waiting"), None);
    }
}
