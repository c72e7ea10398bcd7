//! A session's item, as AWS's own handler and ours write it.

use std::collections::HashMap;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use super::options::{LOCK, Layout, RECORD_EXPIRES, SEEN, SEEN_EXPIRES, UNTIL};
use crate::stores::MARK;
use crate::{Record, SessionId};

/// Attributes by their names, as the client has them.
pub(super) type Attributes = HashMap<String, AttributeValue>;

/// What an item says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Item {
    /// The bytes of the session; there are none in an empty one.
    pub(super) data: Option<AttributeValue>,
    /// When DynamoDB may delete it, in seconds since 1970.
    pub(super) expires: Option<u64>,
    pub(super) lock: Option<AttributeValue>,
    /// When our lock's lease ends, in milliseconds since 1970.
    pub(super) until: Option<u64>,
    record_expires: Option<u64>,
    /// When a waiter of ours first saw this lock of AWS's handler, in milliseconds since 1970.
    pub(super) seen: Option<u64>,
    /// What `expires` was then; 0 for none.
    pub(super) seen_expires: Option<u64>,
}

impl Item {
    pub(super) fn read(mut attributes: Attributes, layout: &Layout) -> Item {
        let number = |name: &str| match attributes.get(name) {
            // Others may write fractions.
            Some(AttributeValue::N(digits)) => digits.parse::<f64>().ok().map(|number| number as u64),
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

    /// When the record expires, in seconds since 1970; 0 where there is none. While our lock is on, `expires` may speak
    /// for the lock.
    pub(super) fn record_expires(&self) -> u64 {
        match self.token() {
            Some(_) => self.record_expires.or(self.expires).unwrap_or(0),
            None => self.expires.unwrap_or(0),
        }
    }

    /// Whether it is a session at this moment, in milliseconds since 1970.
    pub(super) fn lives(&self, now: u64) -> bool {
        self.record_expires().saturating_mul(1000) > now
    }

    /// The session.
    pub(super) fn record(self, now: u64) -> Option<Record> {
        match self.lives(now) {
            true => Some(Record(self.data.map_or_else(Vec::new, bytes))),
            false => None,
        }
    }

    /// Whether nobody has it at this moment: there is no lock, or one of ours whose lease is over.
    pub(super) fn is_free(&self, now: u64) -> bool {
        match (&self.lock, self.token()) {
            (None, _) => true,
            (Some(_), Some(_)) => self.until.is_some_and(|until| until < now),
            (Some(_), None) => false,
        }
    }
}

/// The bytes of a session, whatever type it was written as.
pub(super) fn bytes(data: AttributeValue) -> Vec<u8> {
    match data {
        AttributeValue::S(text) | AttributeValue::N(text) => text.into_bytes(),
        AttributeValue::B(blob) => blob.into_inner(),
        _ => Vec::new(),
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

pub(super) fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
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
