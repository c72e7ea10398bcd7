//! One place where sessions and their locks are: reading, taking the lock, listing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;

use super::LARGEST;
use super::commit::{Found, Held, Orphan, seconds};
use super::keys::Keys;
use super::options::Endpoint;
use super::queue::{Queueing, Route, Taken};
use super::reach::Reach;
use super::reply::{Refusal, unexpected};
use super::wire::{Client, Failure, Opening, Request, one, sound, stored};
use crate::stores::token::Token;
use crate::{
    Access, Change, Committed, Counters, Deadline, Error, ErrorKind, Hold, Opened, Outcome, Record, Refresh,
    Result, Seen, SessionId, Settings, Unknown,
};

/// How long a worker makes do without what the server refused.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// One server, or several that are one to their clients.
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) settings: Settings,
    pub(super) reach: Reach,
    /// What the renewals' own way is made from; never connected.
    pub(super) apart: Arc<Reach>,
    pub(super) route: Route,
    pub(super) queueing: Queueing,
    /// Why this server cannot be locked safely.
    pub(super) without_scripts: Option<Refusal>,
    /// Since when any of the three is a makeshift.
    pub(super) limited_since: Option<Instant>,
    /// Until when opens go to the queue without trying the lock first.
    pub(super) crowded_until: Option<Instant>,
    /// Whether the open under way has met somebody.
    pub(super) waited_in_line: bool,
    /// A lock that a failed open may have taken, or a failed commit kept.
    pub(super) orphan: Option<Orphan>,
    /// The lock that was released last.
    pub(super) released: Option<Arc<Held>>,
    /// How many servers had failed by then: see [`Reach::losses`].
    pub(super) losses: u64,
    /// Whether a write is asked what it overwrote; until a server of before Redis 6.2 does not understand it.
    pub(super) asks_overwritten: bool,
    /// What was done, exchanges and connections left out.
    pub(super) counted: Counters,
}

impl Member {
    pub(super) fn new(endpoint: Arc<Endpoint>, reach: Reach, settings: Settings) -> Self {
        Member {
            endpoint,
            settings,
            apart: Arc::new(reach.another()),
            reach,
            route: Route::Unknown,
            queueing: Queueing::Listen { cuts: 0 },
            without_scripts: None,
            limited_since: None,
            crowded_until: None,
            waited_in_line: false,
            orphan: None,
            released: None,
            losses: 0,
            asks_overwritten: true,
            counted: Counters::default(),
        }
    }

    pub(super) fn counters(&self) -> Counters {
        self.counted + self.reach.counters()
    }

    /// How long a connection and an exchange may take.
    pub(super) fn time_for_a_call(&self) -> Duration {
        let connecting = self.endpoint.connect_timeout.unwrap_or(self.settings.connect_timeout);
        connecting + self.endpoint.timeout.unwrap_or(self.settings.timeout)
    }

    pub(super) fn keys(&self, id: &SessionId) -> Keys {
        self.reach.keys([self.endpoint.prefix.as_bytes(), id.as_str().as_bytes()].concat())
    }

    /// The error with the server's name.
    pub(super) fn locate(&self, error: Error) -> Error {
        error.on(self.endpoint.shown.as_str())
    }

    /// Asks for one thing that may be asked twice.
    fn ask(&mut self, keys: &Keys, request: &Request, by: Deadline) -> Result<Value> {
        let answer =
            self.reach.insist(by, |reach| reach.ask(keys, request, Opening::WithRequest, by).and_then(one));
        answer.map(|(value, _)| value).map_err(|failure| self.reach.error(failure))
    }

    pub(super) fn exists(&mut self, id: &SessionId, by: Deadline) -> Result<bool> {
        self.reach.look_around();
        let keys = self.keys(id);
        match self.ask(&keys, &Request::of(&[b"EXISTS", &keys.session]), by)? {
            Value::Int(count) => Ok(count > 0),
            other => Err(self.locate(unexpected(&other))),
        }
    }

    pub(super) fn open(&mut self, id: &SessionId, access: Access, by: Deadline) -> Result<Opened> {
        self.reach.look_around();
        match access {
            Access::ReadOnly => {
                Ok(Opened { record: self.read(id, by)?, hold: Hold::ReadOnly, renewal: None })
            }
            Access::Unlocked => {
                let record = self.read(id, by)?;
                let seen = Seen::of(record.as_ref().map(|record| record.0.as_slice()));
                Ok(Opened { record, hold: Hold::Unlocked(seen), renewal: None })
            }
            Access::Versioned => {
                let what = "this store keeps no versions of a session";
                Err(self.locate(Error::new(ErrorKind::Unsupported, what)))
            }
            Access::Exclusive { wait, unknown } => self.open_exclusive(id, wait, unknown, by),
        }
    }

    fn read(&mut self, id: &SessionId, by: Deadline) -> Result<Option<Record>> {
        let keys = self.keys(id);
        let mut request = Request::of(&[b"GET", &keys.session]);
        if let Some(life) = self.life_from_reading() {
            request.push(&[b"EXPIRE", &keys.session, life.as_bytes()], &[]);
        }
        let value = self.ask(&keys, &request, by)?;
        let record = stored(value).map_err(|failure| self.reach.error(failure))?;
        Ok(record.map(Record))
    }

    /// The life that a session gets when it is read, if it gets one then.
    pub(super) fn life_from_reading(&self) -> Option<String> {
        (self.settings.refresh == Refresh::AtRead).then(|| seconds(self.settings.lifetime).to_string())
    }

    fn open_exclusive(
        &mut self,
        id: &SessionId,
        wait: Duration,
        unknown: Unknown,
        by: Deadline,
    ) -> Result<Opened> {
        let keys = self.keys(id);
        self.release_orphan(&keys, by);
        self.release_again(&keys, by);
        self.forget_limits();
        let token = Token::new()?;
        let Taken { record, lease } = match self.take(&keys, &token, wait, by) {
            Ok(taken) => taken,
            Err(error) => {
                let held = Arc::new(Held { keys: keys.clone(), token, found: Found::Nothing });
                match (error.kind(), error.outcome()) {
                    // Somebody else's.
                    (ErrorKind::LockBusy, _) => {}
                    (_, Outcome::Unknown) => self.remember(held),
                    // Nothing was sent.
                    (ErrorKind::Unreachable | ErrorKind::Timeout, Outcome::Refused) => {}
                    // It was answered: the lock may be ours, and only the read refused.
                    _ if self.releases(&held, &keys, by) => {}
                    _ => self.remember(held),
                }
                return Err(error);
            }
        };
        let held = Arc::new(Held { keys, token, found: Found::of(record.as_ref()) });
        if record.is_none() && unknown == Unknown::Refuse {
            if let Err(error) = self.give_back(&held, Change::Keep, by) {
                self.remember(held);
                return Err(error);
            }
            return Ok(Opened { record: None, hold: Hold::ReadOnly, renewal: None });
        }
        let (lease, renewal) = self.lease(held, lease);
        Ok(Opened { record, hold: Hold::Lease(lease), renewal: Some(renewal) })
    }

    /// Asks again for what the server refused a while ago: rights are given, proxies exchanged, servers fail over.
    fn forget_limits(&mut self) {
        let limited = self.route == Route::ByScript
            || matches!(self.queueing, Queueing::Ask | Queueing::Try)
            || self.without_scripts.is_some();
        match self.limited_since {
            _ if !limited => self.limited_since = None,
            None => self.limited_since = Some(Instant::now()),
            Some(since) if since.elapsed() < ASK_AGAIN => {}
            Some(_) => {
                self.limited_since = None;
                self.without_scripts = None;
                self.queueing = Queueing::Listen { cuts: 0 };
                if self.route == Route::ByScript {
                    self.route = Route::Unknown;
                }
            }
        }
    }

    pub(super) fn commit(
        &mut self,
        id: &SessionId,
        hold: Hold,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        if let Change::Write(bytes, _) | Change::Touch(bytes, _) = change
            && bytes.len() as u64 > LARGEST
        {
            if let Hold::Lease(lease) = hold {
                let held: Arc<Held> = lease.into_inner()?;
                // The write is refused in any case.
                let _ = self.give_back(&held, Change::Keep, by);
            }
            return Err(self.locate(
                Error::new(
                    ErrorKind::TooLarge,
                    format!("the session has {} bytes, and Redis takes {LARGEST}", bytes.len()),
                )
                .hint("keep less in the session"),
            ));
        }
        let keys = self.keys(id);
        match hold {
            Hold::Lease(lease) => {
                let held: Arc<Held> = lease.into_inner()?;
                match held.keys == keys {
                    true => {
                        let committed = self.give_back(&held, change, by);
                        match &committed {
                            Err(error) if error.kind() != ErrorKind::LockLost => self.remember(held),
                            _ => self.released = Some(held),
                        }
                        committed
                    }
                    false => Err(Error::new(ErrorKind::Bug, "this lease is of another session")),
                }
            }
            Hold::Unlocked(seen) => self.write_unlocked(&keys, &seen, change, by),
            Hold::ReadOnly if change == Change::Keep => Ok(Committed::Done),
            Hold::ReadOnly | Hold::Version(_) => {
                Err(Error::new(ErrorKind::Bug, "a session that was opened read-only cannot be changed"))
            }
        }
    }

    /// Calls `each` with every session's id until it answers false; the answer says whether it wants more.
    pub(super) fn list(&mut self, each: &mut dyn FnMut(SessionId) -> bool, by: Deadline) -> Result<bool> {
        self.reach.look_around();
        let prefix = self.endpoint.prefix.clone();
        for server in self.reach.servers(by)? {
            // Locks, queues and what is not ours have characters that no session id has.
            let mut session = |key: &[u8]| {
                let id = key.strip_prefix(prefix.as_bytes()).and_then(|id| SessionId::parse(id).ok());
                id.is_none_or(&mut *each)
            };
            if !scan(server, (&prefix, ""), &mut session, by).map_err(|failure| server.error(failure))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Calls `each` with the keys of one server that begin and end so, until it answers false.
pub(super) fn scan(
    server: &mut Client,
    (start, end): (&str, &str),
    each: &mut dyn FnMut(&[u8]) -> bool,
    by: Deadline,
) -> Result<bool, Failure> {
    let pattern = [&escape(start), "*", end].concat();
    let mut cursor = b"0".to_vec();
    loop {
        let scan: [&[u8]; 8] =
            [b"SCAN", &cursor, b"MATCH", pattern.as_bytes(), b"COUNT", b"500", b"TYPE", b"string"];
        let scan = Request::of(&scan);
        let answer = match server.ask(&scan, Opening::WithRequest, by) {
            // It may have been idle for long.
            Err(Failure::Cut(_)) => {
                server.count_retry();
                server.ask(&scan, Opening::WithRequest, by)
            }
            answer => answer,
        };
        let answer = match answer.and_then(one) {
            Err(Failure::Cut(error)) => {
                return Err(Failure::Failed(
                    Error::new(ErrorKind::Unsupported, "the server, or a proxy before it, hung up on SCAN")
                        .source(error)
                        .hint("name the server itself, not the proxy, where sessions are to be listed"),
                ));
            }
            answer => answer?,
        };
        let Value::Array(parts) = answer else {
            return Err(Failure::Failed(unexpected(&answer)));
        };
        let Ok([next, Value::Array(keys)]) = <[Value; 2]>::try_from(parts) else {
            return Err(Failure::Failed(unexpected(&Value::Nil)));
        };
        for key in keys {
            if let Ok(Value::BulkString(key)) = sound(key)
                && !each(&key)
            {
                return Ok(false);
            }
        }
        cursor = stored(next)?.unwrap_or_default();
        if cursor.is_empty() || cursor == b"0" {
            return Ok(true);
        }
    }
}

/// The prefix as a pattern that means itself.
fn escape(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len());
    for character in prefix.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '^' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_matched_as_it_is() {
        assert_eq!(escape("a*b?[c]\\:"), "a\\*b\\?\\[c\\]\\\\:");
    }
}
