//! Giving the lock back, with or without a change, and prolonging it meanwhile.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use super::keys::Keys;
use super::member::Member;
use super::milliseconds;
use super::queue::Queueing;
use super::reach::{Again, Attempts};
use super::scripts::{COMMIT, Call, RENEW, Scope};
use super::token::Token;
use super::wire::{Failure, Opening, Request, number, one, stored};
use crate::{Change, Committed, Deadline, Error, ErrorKind, Lease, Record, Refresh, Renewal, Result, Seen};

/// What a lease holds.
pub(super) struct Held {
    pub(super) keys: Keys,
    pub(super) token: Token,
    pub(super) found: Found,
}

/// Whether there was a record under the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Record,
    Nothing,
}

impl Found {
    pub(super) fn of(record: Option<&Record>) -> Self {
        if record.is_some() { Found::Record } else { Found::Nothing }
    }
}

impl Member {
    /// Applies the change if the lock is still ours, and releases it.
    ///
    /// An exchange that was cut is repeated once: the script compares the lock first, so a change that was applied
    /// already is not applied twice. Then the lock is gone, and the record shows what became of the first attempt.
    pub(super) fn give_back(&mut self, held: &Held, change: Change<'_>, by: Deadline) -> Result<Committed> {
        self.reach.look_alive(&held.keys);
        let (answer, again) = match self.commit_script(held, change, by) {
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
                    failure => self.reach.error(failure),
                };
                if sent == Again::Yes {
                    error = error.maybe_applied();
                }
                if refused && !matches!(change, Change::Keep) {
                    // The server answers: let the next request have the lock. Whether that works changes nothing.
                    let _ = self.commit_script(held, Change::Keep, by);
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
                self.counted.lost_leases += 1;
                Err(Error::new(
                    ErrorKind::LockLost,
                    "the session's lock was lost, and the change was not written",
                )
                .hint(
                    "the request ran longer than cloakroom.lease_max, or the server restarted, evicted the lock or \
                     failed over",
                )
                .on(self.endpoint.shown.as_str()))
            }
            (_, Again::Yes) => Err(Error::new(
                ErrorKind::Unreachable,
                "the connection was cut during the write, and another request has changed the session since",
            )
            .on(self.endpoint.shown.as_str())
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
        held: &Held,
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
        let mut attempts = Attempts::default();
        let mut whole = true;
        loop {
            let (scope, grant) = match (whole && self.queueing != Queueing::Try, change, held.found) {
                (true, ..) => (Scope::Queue, milliseconds(self.grant())),
                (false, Change::Keep, _) | (false, _, Found::Nothing) => (Scope::Lock, 0),
                (false, _, Found::Record) => (Scope::Both, 0),
            };
            let grant = grant.to_string();
            let arguments = [held.token.as_bytes(), what, life.as_bytes(), bytes, grant.as_bytes()];
            let call = Call { script: &COMMIT, keys: &held.keys, scope, arguments: &arguments };
            match self.reach.run(call, Opening::Before, by).and_then(number) {
                Ok(answer) => return Ok((answer, attempts.again())),
                // The script stopped at the first key that was not there, before it wrote.
                Err(Failure::Refused(refusal)) if refusal.in_motion() && whole => whole = false,
                Err(Failure::Refused(refusal))
                    if refusal.forbidden() && !refusal.about_scripts() && self.queueing != Queueing::Try =>
                {
                    self.queueing = Queueing::Try;
                }
                Err(failure) => {
                    if !self.reach.heal(&mut attempts, &failure, by) {
                        return Err(Box::new((failure, attempts.again())));
                    }
                }
            }
        }
    }

    /// The change without a lock: the last writer wins, so that a repetition after a cut does no more harm. `seen` is
    /// what the request read.
    pub(super) fn write_unlocked(
        &mut self,
        keys: &Keys,
        seen: Seen,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        let (request, rewrite) = match change {
            Change::Keep => return Ok(Committed::Done),
            Change::Delete => (Request::of(&[b"DEL", &keys.session]), None),
            Change::Write(bytes, ttl) => return self.overwrite(keys, seen, bytes, ttl, by),
            Change::Touch(..) if self.settings.refresh == Refresh::AtRead => return Ok(Committed::Done),
            Change::Touch(bytes, ttl) => {
                let request = Request::of(&[b"EXPIRE", &keys.session, seconds(ttl).to_string().as_bytes()]);
                (request, Some(set(&keys.session, bytes, ttl, &[])))
            }
        };
        let mut ask = |request: &Request| {
            let answer =
                self.reach.insist(by, |reach| reach.ask(keys, request, Opening::Before, by).and_then(one));
            answer.map(|(value, _)| value).map_err(|failure| self.reach.error(failure))
        };
        match (ask(&request)?, rewrite) {
            (Value::Int(0), Some(rewrite)) => ask(&rewrite).map(|_| Committed::Rewritten),
            _ => Ok(Committed::Done),
        }
    }

    /// Writes without a lock, and counts whether that undid another request's change.
    fn overwrite(
        &mut self,
        keys: &Keys,
        seen: Seen,
        bytes: &[u8],
        ttl: Duration,
        by: Deadline,
    ) -> Result<Committed> {
        let mut request = set(&keys.session, bytes, ttl, &[b"GET"]);
        if !self.asks_overwritten {
            request = set(&keys.session, bytes, ttl, &[]);
        }
        loop {
            let answer =
                self.reach.insist(by, |reach| reach.ask(keys, &request, Opening::Before, by).and_then(one));
            match answer {
                Ok((overwritten, _)) if self.asks_overwritten => {
                    let overwritten = stored(overwritten).map_err(|failure| self.reach.error(failure))?;
                    // The same bytes are a repetition, or another request's that came to the same.
                    if Seen::of(overwritten.as_deref()) != seen && overwritten.as_deref() != Some(bytes) {
                        self.counted.conflicts += 1;
                    }
                    return Ok(Committed::Done);
                }
                Ok(_) => return Ok(Committed::Done),
                Err(Failure::Refused(refusal)) if self.asks_overwritten && refusal.misunderstood() => {
                    self.asks_overwritten = false;
                    request = set(&keys.session, bytes, ttl, &[]);
                }
                Err(failure) => return Err(self.reach.error(failure)),
            }
        }
    }

    /// The lease for what was taken, and how to prolong it.
    pub(super) fn lease(&self, held: Held, lasts: Duration) -> (Lease, Renewal) {
        let held = Arc::new(held);
        let mut reach = self.reach.another();
        let (lock, lease) = (Arc::clone(&held), self.settings.lease);
        let renew = move |by: Deadline| {
            let lease = milliseconds(lease).to_string();
            let arguments = [lock.token.as_bytes(), lease.as_bytes()];
            let call = Call { script: &RENEW, keys: &lock.keys, scope: Scope::Lock, arguments: &arguments };
            let answer = reach.insist(by, |reach| reach.run(call, Opening::Before, by).and_then(number));
            match answer {
                Ok((1, _)) => Ok(()),
                Ok(_) => Err(reach.locate(Error::new(ErrorKind::LockLost, "the session's lock was lost"))),
                Err(failure) => Err(reach.error(failure)),
            }
        };
        (Lease::new(held), Renewal { every: lasts / 3, renew: Box::new(renew) })
    }

    /// Releases a lock that an open may have left behind when it failed.
    pub(super) fn release_orphan(&mut self, by: Deadline) {
        if let Some(held) = self.orphan.take() {
            self.orphan = self.release_or_remember(held, by);
        }
    }

    /// Releases a lock; what may still be ours comes back.
    pub(super) fn release_or_remember(&mut self, held: Held, by: Deadline) -> Option<Held> {
        match self.give_back(&held, Change::Keep, by) {
            Err(error) if error.kind() != ErrorKind::LockLost => Some(held),
            _ => None,
        }
    }
}

fn set(session: &[u8], bytes: &[u8], ttl: Duration, more: &[&[u8]]) -> Request {
    let mut request = Request::default();
    request.push(&[b"SET", session, bytes, b"EX", seconds(ttl).to_string().as_bytes()], more);
    request
}

/// Whole seconds as native handlers count them: at least one, and no more than they can read.
pub(super) fn seconds(ttl: Duration) -> u64 {
    (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).clamp(1, i32::MAX as u64)
}
