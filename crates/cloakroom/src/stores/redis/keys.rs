//! The names of a session's keys.

/// The two keys that every request needs; all others begin with the lock's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) session: Vec<u8>,
    pub(super) lock: Vec<u8>,
}

impl Keys {
    /// As phpredis names them.
    pub(super) fn plain(session: Vec<u8>) -> Self {
        let lock = [&session, b"_LOCK".as_slice()].concat();
        Keys { session, lock }
    }

    /// The lock's key with this ending.
    pub(super) fn beside(&self, ending: &str) -> Vec<u8> {
        [&self.lock, ending.as_bytes()].concat()
    }
}
