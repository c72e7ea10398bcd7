//! Giving the lock back, with or without a change, and prolonging it meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;

use super::keys::Keys;
use super::member::Member;
use super::milliseconds;
use super::queue::Queueing;
use super::reach::{Again, Attempts, Reach};
use super::scripts::{COMMIT, Call, RENEW, Scope};
use super::wire::{Failure, Opening, Request, number, sound, stored};
use crate::stores::token::Token;
use crate::{Change, Committed, Deadline, Error, ErrorKind, Lease, Record, Refresh, Renewal, Result, Seen};

/// How long the lock of another session may keep an open from its own.
const ASIDE: Duration = Duration::from_millis(250);

/// What a lease holds.
pub(super) struct Held {
    pub(super) keys: Keys,
    pub(super) token: Token,
    pub(super) found: Found,
}

/// A lock that may have been left behind.
pub(super) struct Orphan {
    held: Arc<Held>,
    /// When it has ended by itself.
    until: Instant,
}

/// What the script of a commit answered.
struct Answered {
    answer: i64,
    /// What `WAIT` answered, where it was asked.
    replicas: Option<Value>,
    /// Whether it may have been sent twice.
    again: Again,
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
    /// An exchange that was cut is repeated, as [`Reach::heal`] says how often: the script compares the lock first, so a change that was applied
    /// already is not applied twice. Then the lock is gone, and the record shows what became of the first attempt.
    pub(super) fn give_back(&mut self, held: &Held, change: Change<'_>, by: Deadline) -> Result<Committed> {
        self.reach.look_alive(&held.keys);
        let Answered { answer, replicas, again } = match self.commit_script(held, change, by) {
            Ok(answered) => answered,
            Err(failed) => {
                let (failure, sent) = *failed;
                let refused = matches!(failure, Failure::Refused(_));
                let mut error = match failure {
                    Failure::Refused(refusal) if refusal.about_scripts() => {
                        let error = self.no_scripts(&refusal);
                        self.without_scripts = Some(refusal);
                        error
                    }
                    Failure::Cut(_) if self.endpoint.wait_replicas > 0 => self.reach.error(failure).hint(
                        "see the server's log; behind a proxy that does not know WAIT, leave wait_replicas= out of \
                         session.save_path",
                    ),
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
            (1 | 2, _) => {
                if answer > 10 {
                    self.crowd(Duration::from_secs(1));
                }
                self.replicated(replicas)?;
                Ok(if answer % 10 == 1 { Committed::Done } else { Committed::Rewritten })
            }
            // Nothing was to be written, and nothing is left to release.
            (-1, _) if matches!(change, Change::Keep) => Ok(Committed::Done),
            // The only server there is has kept it, and nobody else can have had the lock.
            (-1, Again::Yes) if matches!(self.reach, Reach::Server(_)) && replicas.is_none() => {
                Ok(Committed::Done)
            }
            // Where another server may have taken over without the lock, somebody else may have written the same. And
            // replicas confirm what this connection has written, which is nothing.
            (-1, Again::Yes) => Err(Error::new(
                ErrorKind::Unreachable,
                "the connection was cut during the write, and the lock is gone",
            )
            .on(self.endpoint.shown.as_str())
            .maybe_applied()),
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

    /// What the script answered; with a failure, whether it may have been applied.
    fn commit_script(
        &mut self,
        held: &Held,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Answered, Box<(Failure, Again)>> {
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
            let waiting = self.waiting(change, by);
            let answer = waiting.next(|next| self.reach.run_and(call, next, Opening::Before, by));
            match answer.and_then(|(answer, replicas)| Ok((number(answer)?, replicas))) {
                Ok((answer, replicas)) => {
                    return Ok(Answered { answer, replicas, again: attempts.again() });
                }
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
        seen: &Seen,
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
            let answer = self.ask_and_wait(keys, request, change, by);
            answer.map_err(|failure| self.reach.error(failure))
        };
        match (ask(&request)?, rewrite) {
            ((Value::Int(0), _), Some(rewrite)) => {
                let (_, replicas) = ask(&rewrite)?;
                self.replicated(replicas).map(|()| Committed::Rewritten)
            }
            ((_, replicas), _) => self.replicated(replicas).map(|()| Committed::Done),
        }
    }

    /// One change that may be made twice, and what the replicas say.
    fn ask_and_wait(
        &mut self,
        keys: &Keys,
        request: &Request,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<(Value, Option<Value>), Failure> {
        let mut request = request.clone();
        self.waiting(change, by).next(|next| next.push_to(&mut request));
        let ask = |reach: &mut Reach| {
            let mut replies = reach.ask(keys, &request, Opening::Before, by)?.into_iter();
            Ok((sound(replies.next().unwrap_or_default())?, replies.next()))
        };
        Ok(match self.reach.insist(by, ask)? {
            // Replicas confirm what this connection has changed, which is nothing: an earlier one may have.
            ((unchanged @ Value::Int(0), replicas), Again::Yes) => {
                (unchanged, replicas.map(|_| Value::Int(0)))
            }
            (answers, _) => answers,
        })
    }

    /// Writes without a lock, and counts whether that undid another request's change.
    fn overwrite(
        &mut self,
        keys: &Keys,
        seen: &Seen,
        bytes: &[u8],
        ttl: Duration,
        by: Deadline,
    ) -> Result<Committed> {
        let mut request = set(&keys.session, bytes, ttl, &[b"GET"]);
        if !self.asks_overwritten {
            request = set(&keys.session, bytes, ttl, &[]);
        }
        loop {
            match self.ask_and_wait(keys, &request, Change::Write(bytes, ttl), by) {
                Ok((overwritten, replicas)) if self.asks_overwritten => {
                    let overwritten = stored(overwritten).map_err(|failure| self.reach.error(failure))?;
                    // The same bytes are a repetition, or another request's that came to the same.
                    if !seen.is(overwritten.as_deref()) && overwritten.as_deref() != Some(bytes) {
                        self.counted.conflicts += 1;
                    }
                    return self.replicated(replicas).map(|()| Committed::Done);
                }
                Ok((_, replicas)) => return self.replicated(replicas).map(|()| Committed::Done),
                Err(Failure::Refused(refusal)) if self.asks_overwritten && refusal.misunderstood() => {
                    self.asks_overwritten = false;
                    request = set(&keys.session, bytes, ttl, &[]);
                }
                Err(failure) => return Err(self.reach.error(failure)),
            }
        }
    }

    /// The lease for what was taken, and how to prolong it.
    pub(super) fn lease(&self, held: Arc<Held>, lasts: Duration) -> (Lease, Renewal) {
        let (apart, mut reach) = (Arc::clone(&self.apart), None);
        let (lock, lease) = (Arc::clone(&held), self.settings.lease);
        let renew = move |by: Deadline| {
            let lease = milliseconds(lease).to_string();
            let arguments = [lock.token.as_bytes(), lease.as_bytes()];
            let call = Call { script: &RENEW, keys: &lock.keys, scope: Scope::Lock, arguments: &arguments };
            let reach = reach.get_or_insert_with(|| apart.another());
            let answer = reach.insist(by, |reach| reach.run(call, Opening::Before, by).and_then(number));
            match answer {
                Ok((1, _)) => Ok(()),
                Ok(_) => Err(reach.locate(Error::new(ErrorKind::LockLost, "the session's lock was lost"))),
                Err(failure) => Err(reach.error(failure)),
            }
        };
        (Lease::new(held), Renewal { every: lasts / 3, renew: Box::new(renew) })
    }

    /// Remembers a lock that may have been left behind when an open or a commit failed.
    pub(super) fn remember(&mut self, held: Arc<Held>) {
        self.orphan = Some(Orphan { held, until: Instant::now() + self.settings.lease });
    }

    /// Releases what was left behind, before `session` is opened.
    pub(super) fn release_orphan(&mut self, session: &Keys, by: Deadline) {
        if let Some(orphan) = self.orphan.take().filter(|orphan| Instant::now() < orphan.until)
            && !self.releases(&orphan.held, session, by)
        {
            self.orphan = Some(orphan);
        }
    }

    /// Releases the last lock once more where a server has failed since: whoever takes over may not have heard of the
    /// release, and everybody would wait for the end of the lease.
    pub(super) fn release_again(&mut self, session: &Keys, by: Deadline) {
        let losses = self.reach.losses();
        if self.losses != losses {
            self.losses = losses;
            if let Some(held) = self.released.take()
                && !self.releases(&held, session, by)
            {
                self.remember(held);
            }
        }
    }

    /// Whether a lock is ours no longer, now that it was released. Where it is not in the way of `session`, that must
    /// not take long: another node of a cluster may have it, which is dead.
    pub(super) fn releases(&mut self, held: &Held, session: &Keys, by: Deadline) -> bool {
        let by = if held.keys == *session { by } else { by.within(ASIDE) };
        match self.give_back(held, Change::Keep, by) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::LockLost,
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
