//! What a request is told that has waited for a session in vain, the same whatever the store.

use std::time::Duration;

use crate::{Error, ErrorKind};

/// Somebody kept the lock for longer than it was waited for.
pub(super) fn busy(wait: Duration) -> Error {
    let kept = wait.as_secs_f64();
    Error::new(
        ErrorKind::LockBusy,
        format!("another request kept the session's lock for longer than {kept:.1} s"),
    )
    .hint("close sessions early (session_write_close, read_and_close), or raise cloakroom.lock_wait")
}

/// So many wait already, which are as many as may.
pub(super) fn full(waiters: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::LockBusy, format!("{waiters} requests wait for this session already"))
        .hint("find what makes requests of one visitor slow, or raise cloakroom.max_waiters")
}
