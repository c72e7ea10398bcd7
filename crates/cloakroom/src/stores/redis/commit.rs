//! Giving the lock back, with or without a change, and prolonging it meanwhile.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use super::queue::Queueing;
use super::scripts::{COMMIT, RENEW};
use super::token::Token;
use super::wire::{Again, Failure, Opening, Request, number, one};
use super::{Redis, milliseconds};
use crate::{Change, Committed, Deadline, Error, ErrorKind, Lease, Renewal, Result};

/// What a lease holds.
pub(super) struct Held {
    pub(super) session: Vec<u8>,
    pub(super) token: Token,
}

impl Redis {
    /// Applies the change if the lock is still ours, and releases it.
    ///
    /// An exchange that was cut is repeated once: the script compares the lock first, so a change that was applied
    /// already is not applied twice. Then the lock is gone, and the record shows what became of the first attempt.
    pub(super) fn give_back(
        &mut self,
        session: &[u8],
        token: &Token,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        self.client.look_alive();
        let (answer, again) = match self.commit_script(session, token, change, by) {
            Ok(answer) => answer,
            Err(failed) => {
                let (failure, sent) = *failed;
                let refused = matches!(failure, Failure::Refused(_));
                let mut error = match failure {
                    Failure::Refused(refusal) if refusal.about_scripts() => {
                        let error = self.no_scripts(&refusal);
                        self.without_scripts = Some(refusal);
                        error
                    }
                    failure => self.client.error(failure),
                };
                if sent == Again::Yes {
                    error = error.maybe_applied();
                }
                if refused && !matches!(change, Change::Keep) {
                    // The server answers: let the next request have the lock. Whether that works changes nothing.
                    let _ = self.commit_script(session, token, Change::Keep, by);
                }
                return Err(error);
            }
        };
        match (answer % 10, again) {
            (1, _) => Ok(self.passed_on(answer, Committed::Done)),
            (2, _) => Ok(self.passed_on(answer, Committed::Rewritten)),
            (-1, Again::Yes) => Ok(Committed::Done),
            // Nothing was to be written, and nothing is left to release.
            (-1, Again::No) if matches!(change, Change::Keep) => Ok(Committed::Done),
            (_, Again::No) => {
                self.client.counters.lost_leases += 1;
                Err(Error::new(
                    ErrorKind::LockLost,
                    "the session's lock was lost, and the change was not written",
                )
                .hint(
                    "the request ran longer than cloakroom.lease_max, or the server restarted, evicted the lock or \
                     failed over",
                )
                .on(self.options.shown.as_str()))
            }
            (_, Again::Yes) => Err(Error::new(
                ErrorKind::Unreachable,
                "the connection was cut during the write, and another request has changed the session since",
            )
            .on(self.options.shown.as_str())
            .maybe_applied()),
        }
    }

    fn passed_on(&mut self, answer: i64, committed: Committed) -> Committed {
        if answer > 10 {
            self.crowd(Duration::from_secs(1));
        }
        committed
    }

    /// The script's answer, and whether the request may have been sent twice; with a failure, whether it may have
    /// been applied.
    fn commit_script(
        &mut self,
        session: &[u8],
        token: &Token,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<(i64, Again), Box<(Failure, Again)>> {
        let (what, bytes, life): (&[u8], &[u8], u64) = match change {
            Change::Write(bytes, ttl) => (b"W", bytes, seconds(ttl)),
            Change::Touch(bytes, ttl) => (b"T", bytes, seconds(ttl)),
            Change::Delete => (b"D", b"", 0),
            Change::Keep => (b"K", b"", 0),
        };
        let life = life.to_string();
        let mut again = Again::No;
        let mut failed = None;
        // At most: once, once more because the first was cut, once more without the queue.
        for _ in 0..3 {
            let grant = match self.queueing {
                Queueing::Try => 0,
                _ => milliseconds(self.grant()),
            };
            let grant = grant.to_string();
            let arguments = [token.as_bytes(), what, life.as_bytes(), bytes, grant.as_bytes()];
            let answer = self.client.run(&COMMIT, session, &arguments, Opening::Before, by).and_then(number);
            match answer {
                Ok(answer) => return Ok((answer, again)),
                Err(Failure::Refused(refusal))
                    if refusal.forbidden() && !refusal.about_scripts() && self.queueing != Queueing::Try =>
                {
                    self.queueing = Queueing::Try;
                    failed = Some(Failure::Refused(refusal));
                }
                Err(Failure::Cut(error)) if again == Again::No => {
                    self.client.counters.retries += 1;
                    again = Again::Yes;
                    failed = Some(Failure::Cut(error));
                }
                Err(failure) => return Err(Box::new((failure, again))),
            }
        }
        let failure =
            failed.unwrap_or_else(|| Failure::Failed(Error::new(ErrorKind::Bug, "the commit was not tried")));
        Err(Box::new((failure, again)))
    }

    /// The change without a lock: the last writer wins, so that a repetition after a cut does no more harm.
    pub(super) fn write_unlocked(
        &mut self,
        session: &[u8],
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        let (request, rewrite) = match change {
            Change::Keep => return Ok(Committed::Done),
            Change::Delete => (Request::of(&[b"DEL", session]), None),
            Change::Write(bytes, ttl) => (set(session, bytes, ttl), None),
            Change::Touch(bytes, ttl) => {
                let request = Request::of(&[b"EXPIRE", session, seconds(ttl).to_string().as_bytes()]);
                (request, Some(set(session, bytes, ttl)))
            }
        };
        let mut ask = |request: &Request| {
            let answer = self.client.twice(|client| client.ask(request, Opening::Before, by).and_then(one));
            answer.map(|(value, _)| value).map_err(|failure| self.client.error(failure))
        };
        match (ask(&request)?, rewrite) {
            (Value::Int(0), Some(rewrite)) => ask(&rewrite).map(|_| Committed::Rewritten),
            _ => Ok(Committed::Done),
        }
    }

    /// The lease for what was taken, and how to prolong it.
    pub(super) fn lease(&self, session: Vec<u8>, token: Token, lasts: Duration) -> (Lease, Renewal) {
        let held = Arc::new(Held { session, token });
        let mut client = self.client.another();
        let (lock, lease) = (Arc::clone(&held), self.settings.lease);
        let renew = move |by: Deadline| {
            let lease = milliseconds(lease).to_string();
            let arguments = [lock.token.as_bytes(), lease.as_bytes()];
            let answer = client.twice(|client| {
                client.run(&RENEW, &lock.session, &arguments, Opening::Before, by).and_then(number)
            });
            match answer {
                Ok((1, _)) => Ok(()),
                Ok(_) => Err(client.locate(Error::new(ErrorKind::LockLost, "the session's lock was lost"))),
                Err(failure) => Err(client.error(failure)),
            }
        };
        (Lease::new(held), Renewal { every: lasts / 3, renew: Box::new(renew) })
    }

    /// Releases a lock that an open may have left behind when it failed.
    pub(super) fn release_orphan(&mut self, by: Deadline) {
        if let Some((session, token)) = self.orphan.take() {
            self.orphan = self.release_or_remember(session, token, by);
        }
    }

    /// Releases a lock; what may still be ours comes back.
    pub(super) fn release_or_remember(
        &mut self,
        session: Vec<u8>,
        token: Token,
        by: Deadline,
    ) -> Option<(Vec<u8>, Token)> {
        match self.give_back(&session, &token, Change::Keep, by) {
            Err(error) if error.kind() != ErrorKind::LockLost => Some((session, token)),
            _ => None,
        }
    }
}

fn set(session: &[u8], bytes: &[u8], ttl: Duration) -> Request {
    Request::of(&[b"SET", session, bytes, b"EX", seconds(ttl).to_string().as_bytes()])
}

/// Whole seconds as native handlers count them: at least one, and no more than they can read.
fn seconds(ttl: Duration) -> u64 {
    (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).clamp(1, i32::MAX as u64)
}
