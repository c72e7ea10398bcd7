//! The names of a session's keys, and the servers that have them.

use super::options::Options;
use super::pool::Route;
use crate::{Error, ErrorKind, Result, SessionId};

/// The longest key of Memcached, in bytes.
const LONGEST: usize = 250;

/// Where a session and its lock are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) session: Vec<u8>,
    pub(super) lock: Vec<u8>,
    /// Who waits for the lock, first come first; on the lock's server.
    pub(super) queue: Vec<u8>,
    /// Marks a record that is newer than that of the session's server, where it could be taken for a copy of it.
    pub(super) mark: Vec<u8>,
    /// The index of the session's server.
    pub(super) session_at: usize,
    /// The index of the lock's server.
    pub(super) lock_at: usize,
    /// Who may have a newer record, from when the session's server was left out.
    pub(super) displaced: Option<usize>,
    /// The session's own server while another one stands in for it.
    pub(super) away: Option<usize>,
    /// Who stands in, where it has copies as a replica, too.
    pub(super) marked: Option<usize>,
    /// Who has a copy of every write.
    pub(super) replicas: Vec<usize>,
    /// Who may have a copy of a session that is at none of the places above.
    pub(super) copies: Vec<usize>,
    /// Whether some who should have a copy do not answer.
    pub(super) short_of_replicas: bool,
}

impl Place {
    /// As php-memcached has them: what the ring hashes has no prefix.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a key would be longer than Memcached takes.
    pub(super) fn of(id: &SessionId, options: &Options, route: Route) -> Result<Self> {
        let key = |middle: &str| [&options.prefix, middle, id.as_str()].concat().into_bytes();
        let (session, lock) = (key(""), key("lock."));
        if lock.len() > LONGEST {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "the key of this session's lock has {} bytes, and Memcached takes {LONGEST}",
                    lock.len()
                ),
            )
            .hint("set a shorter prefix=, or session.sid_length")
            .on(options.shown.as_str()));
        }
        Ok(Place {
            session,
            lock,
            queue: key("wait."),
            mark: key("away."),
            session_at: route.session,
            lock_at: route.lock,
            displaced: route.displaced,
            away: route.away,
            marked: route.marked,
            replicas: route.replicas,
            copies: route.copies,
            short_of_replicas: route.short_of_replicas,
        })
    }

    /// Whether one server has all, so that one exchange does.
    pub(super) fn together(&self) -> bool {
        self.session_at == self.lock_at
    }
}
