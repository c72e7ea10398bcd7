//! The names of a session's keys.

use super::options::Options;
use crate::{Error, ErrorKind, Result, SessionId};

/// The longest key of Memcached, in bytes.
const LONGEST: usize = 250;

/// The keys of one session; what the ring hashes has no prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) session: Vec<u8>,
    pub(super) lock: Vec<u8>,
    /// Who waits for the lock, first come first.
    pub(super) queue: Vec<u8>,
}

impl Keys {
    /// As php-memcached names them.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a key would be longer than Memcached takes.
    pub(super) fn of(id: &SessionId, options: &Options) -> Result<Self> {
        let key = |middle: &str| [&options.prefix, middle, id.as_str()].concat().into_bytes();
        let keys = Keys { session: key(""), lock: key("lock."), queue: key("wait.") };
        match keys.lock.len() {
            ..=LONGEST => Ok(keys),
            length => Err(Error::new(
                ErrorKind::Config,
                format!("the key of this session's lock has {length} bytes, and Memcached takes {LONGEST}"),
            )
            .hint("set a shorter prefix=, or session.sid_length")),
        }
    }
}
