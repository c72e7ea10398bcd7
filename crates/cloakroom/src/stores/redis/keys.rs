//! The names of a session's keys.

use super::cluster::hash_tag;

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

    /// In one hash slot of a cluster: the lock's tag is the session's key, unless that has a tag of its own.
    pub(super) fn in_cluster(session: Vec<u8>) -> Self {
        match hash_tag(&session) {
            Some(_) => Keys::plain(session),
            None => {
                let lock = [b"{", session.as_slice(), b"}_LOCK"].concat();
                Keys { session, lock }
            }
        }
    }

    /// The lock's key with this ending.
    pub(super) fn beside(&self, ending: &str) -> Vec<u8> {
        [&self.lock, ending.as_bytes()].concat()
    }
}
