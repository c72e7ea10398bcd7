//! Waiting until replicas have a change (`wait_replicas=`): `WAIT`, in the same write as the change.
//!
//! Redis replicates after it has answered: what a primary acknowledged in its last moment is gone with it. A change that
//! too few replicas confirm in time was made, and may be lost with the primary: its outcome is unknown.

use redis::Value;

use super::member::Member;
use super::reach::Next;
use super::wire::{Failure, number};
use crate::{Change, Deadline, Error, ErrorKind, Result};

/// The command that waits for the replicas, where they are waited for.
pub(super) struct Waiting(Option<[Vec<u8>; 3]>);

impl Waiting {
    /// Calls `then` with the command's words.
    pub(super) fn next<T>(&self, then: impl FnOnce(Next<'_>) -> T) -> T {
        match &self.0 {
            Some(words) => then(Next::About(&words.each_ref().map(Vec::as_slice))),
            None => then(Next::Nothing),
        }
    }
}

impl Member {
    /// What follows this change in the same write. The answer comes before the exchange is given up.
    pub(super) fn waiting(&self, change: Change<'_>, by: Deadline) -> Waiting {
        let replicas = self.endpoint.wait_replicas;
        if replicas == 0 || change == Change::Keep {
            return Waiting(None);
        }
        let limit = self.endpoint.timeout.unwrap_or(self.settings.timeout).min(by.remaining());
        let milliseconds = super::milliseconds(limit.mul_f64(0.8));
        Waiting(Some([b"WAIT".to_vec(), replicas.to_string().into(), milliseconds.to_string().into()]))
    }

    /// Whether as many replicas as are waited for have the change.
    ///
    /// # Errors
    /// When they do not: the change was made, and may be lost.
    pub(super) fn replicated(&self, answer: Option<Value>) -> Result<()> {
        let wanted = self.endpoint.wait_replicas;
        let Some(answer) = answer else { return Ok(()) };
        let error = match number(answer) {
            Ok(have) if have >= i64::from(wanted) => return Ok(()),
            Ok(have) => Error::new(
                ErrorKind::Unreachable,
                format!("the session was written, but {have} of {wanted} replicas have it"),
            )
            .hint("see which replicas are connected (INFO replication), or lower wait_replicas="),
            Err(Failure::Refused(refusal)) if refusal.forbidden() => {
                let what = "the session was written, but the server lets nobody wait for its replicas (WAIT)";
                Error::new(ErrorKind::Config, what)
                    .hint("allow WAIT to the server's user, or leave wait_replicas= out of session.save_path")
            }
            Err(failure) => self.reach.error(failure),
        };
        Err(self.locate(error).maybe_applied())
    }
}
