//! Sessions in Redis, Valkey or whatever speaks their protocol; shared, locks included, with phpredis.
//!
//! # Keys
//! | key | holds |
//! |---|---|
//! | `<prefix><id>` | the session: the bytes of PHP's serializer, with a life in whole seconds |
//! | `<prefix><id>_LOCK` | the lock: `cloakroom:<32 hex>:<host>:<pid>`; a `*` follows while somebody waits; anything else is a native handler's |
//! | `<prefix><id>_LOCK_QUEUE` | a list of those who wait, first come first |
//! | `<prefix><id>_LOCK_WAIT_<32 hex>` | a waiter is alive (2 s) |
//! | `<prefix><id>_LOCK_GRANT_<32 hex>` | a list: the lock and the record for this waiter (3 s) |
//! | `<prefix><id>_LOCK_FOREIGN`, `_LOCK_FAIR`, `_LOCK_GAP` | a native handler was seen; whose turn it is; the lock is left free (60 s, 60 s, 22 ms) |
//!
//! # What goes on the wire
//! A new connection begins with `AUTH` and `SELECT` where the URL asks for them; nothing else is asked.
//!
//! | call | exchanges | commands |
//! |---|---|---|
//! | [`exists`](Store::exists) | 1 | `EXISTS` |
//! | [`open`](Store::open), read-only or unlocked | 1 | `GET` |
//! | `open`, exclusive | 1 | `SET lock token NX PX lease` and `GET`, in one write |
//! | and the lock is taken | 1 more, then 1 a second | `EVALSHA acquire`, `BLPOP grant` |
//! | and nothing is stored, with [`Unknown::Refuse`] | 1 more | `EVALSHA commit` (releases) |
//! | [`commit`](Store::commit) | 1 | `EVALSHA commit`: compare the lock, `SET EX` / `EXPIRE` / `DEL`, pass the lock on |
//! | `commit`, unlocked | 1 | `SET EX` / `EXPIRE` / `DEL` |
//! | renewal | 1 | `EVALSHA renew`, over a connection of its own |
//! | [`list`](Store::list) | 1 for 500 keys | `SCAN MATCH <prefix>* TYPE string` |
//!
//! `EVALSHA` is followed by `EVAL` when the server does not know the script. The first exclusive open of a worker, and
//! those within two seconds of meeting somebody at a lock, go to `EVALSHA acquire` at once. The first makes twelve keys,
//! `<prefix><id>_LOCK_<number>_ROUTE`, and deletes them with a `DEL` in the same write: a proxy over several servers keeps
//! locks elsewhere than sessions, and then all goes by scripts, which follow the session. (phpredis behind such a proxy
//! has its locks where the proxy sends them, and shares none with Cloakroom.)
//!
//! The user needs these commands on `<prefix>*`: get, set, del, exists, expire, pexpire, evalsha, eval; for the queue
//! also append, pttl, lindex, llen, lpop, lpos, lrange, lrem, rpush, blpop, time, hmget, hset, decr; for listing, scan. Where
//! those of the queue are refused (or a proxy hangs up on them), workers ask for the lock every 1 to 20 ms instead.
//!
//! # When the connection dies
//! Each exchange is repeated once over a new connection. That is safe for reads, for the lock (it holds our token if the
//! first attempt got it), and for a commit (it compares the lock first); [`commit`] says how the outcome is told. A
//! request that is not answered in time is not repeated, and its connection is dropped. A lock that such an open may
//! have left behind is released at the next open, or ends with its lease.
//!
//! # Native handlers
//! phpredis asks for the lock every 2 to 20 ms and is never handed one. When its lock value was seen on a session, every
//! fourth release leaves the lock free for 22 ms, and our waiters hold back; when it was not, a session whose lock passes
//! from hand to hand without a pause gets such a gap after one second, and ever more rarely after that.

mod commit;
mod options;
mod pause;
mod queue;
mod reply;
mod scripts;
mod token;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;

use crate::net::Dialer;
use crate::{
    Access, Change, Committed, Counters, Deadline, Durability, Error, ErrorKind, Guarantees, Hold, LockKind,
    Opened, Outcome, Record, Result, SessionId, Settings, Sharing, Store, Sweeping, Unknown, WaiterCap,
};

use commit::Held;
pub use options::{Named, OPTIONS, Options};
use queue::{Queueing, Route, Taken};
use reply::{Refusal, unexpected};
use token::Token;
use wire::{Client, Failure, Opening, Request, one, sound, stored};

/// The largest value of Redis (`proto-max-bulk-len`).
const LARGEST: u64 = 512 << 20;

/// A store on one server, with one connection that is opened at the first use and kept.
pub struct Redis {
    options: Arc<Options>,
    settings: Settings,
    client: Client,
    route: Route,
    queueing: Queueing,
    /// Why this server cannot be locked safely.
    without_scripts: Option<Refusal>,
    /// Until when opens go to the queue without trying the lock first.
    crowded_until: Option<Instant>,
    /// Whether the open under way has met somebody.
    waited_in_line: bool,
    /// A lock that a failed open may have taken.
    orphan: Option<(Vec<u8>, Token)>,
}

/// Locks and sessions are not for a log.
impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({})", self.options.shown)
    }
}

impl Redis {
    /// A store with these options; nothing is connected yet.
    pub fn new(options: Options, settings: Settings) -> Self {
        let options = Arc::new(options);
        let dialer = Arc::new(Dialer::new(options.address.clone(), options.tls.clone()));
        Redis {
            client: Client::new(Arc::clone(&options), dialer, &settings),
            options,
            settings,
            route: Route::Unknown,
            queueing: Queueing::Listen { cuts: 0 },
            without_scripts: None,
            crowded_until: None,
            waited_in_line: false,
            orphan: None,
        }
    }

    fn session_key(&self, id: &SessionId) -> Vec<u8> {
        [self.options.prefix.as_bytes(), id.as_str().as_bytes()].concat()
    }

    /// Asks for one thing that may be asked twice.
    fn ask(&mut self, request: &Request, by: Deadline) -> Result<Value> {
        let answer = self.client.twice(|client| client.ask(request, Opening::WithRequest, by).and_then(one));
        answer.map(|(value, _)| value).map_err(|failure| self.client.error(failure))
    }

    fn read(&mut self, id: &SessionId, by: Deadline) -> Result<Option<Record>> {
        let request = Request::of(&[b"GET", &self.session_key(id)]);
        let value = self.ask(&request, by)?;
        let record = stored(value).map_err(|failure| self.client.error(failure))?;
        Ok(record.map(Record))
    }

    fn open_exclusive(
        &mut self,
        id: &SessionId,
        wait: Duration,
        unknown: Unknown,
        by: Deadline,
    ) -> Result<Opened> {
        self.release_orphan(by);
        let session = self.session_key(id);
        let token = Token::new()?;
        let Taken { record, lease } = match self.take(&session, &token, wait, by) {
            Ok(taken) => taken,
            Err(error) => {
                match (error.kind(), error.outcome()) {
                    // Somebody else's.
                    (ErrorKind::LockBusy, _) => {}
                    (_, Outcome::Unknown) => self.orphan = Some((session, token)),
                    // Nothing was sent.
                    (ErrorKind::Unreachable | ErrorKind::Timeout, Outcome::Refused) => {}
                    // It was answered: the lock may be ours, and only the read refused.
                    _ => self.orphan = self.release_or_remember(session, token, by),
                }
                return Err(error);
            }
        };
        if record.is_none() && unknown == Unknown::Refuse {
            if let Err(error) = self.give_back(&session, &token, Change::Keep, by) {
                self.orphan = Some((session, token));
                return Err(error);
            }
            return Ok(Opened { record: None, hold: Hold::ReadOnly, renewal: None });
        }
        let (lease, renewal) = self.lease(session, token, lease);
        Ok(Opened { record, hold: Hold::Lease(lease), renewal: Some(renewal) })
    }
}

impl Store for Redis {
    fn guarantees(&self) -> Guarantees {
        Guarantees {
            lock: LockKind::Lease,
            versions: false,
            listing: true,
            sweeping: Sweeping::ByEngine,
            size_limit: Some(LARGEST),
            survives_restart: Durability::AsConfigured,
            shared_between_hosts: Sharing::Shared,
            waiter_cap: WaiterCap::Everywhere,
        }
    }

    fn counters(&self) -> Counters {
        self.client.counters
    }

    fn exists(&mut self, id: &SessionId, by: Deadline) -> Result<bool> {
        self.client.look_around();
        let request = Request::of(&[b"EXISTS", &self.session_key(id)]);
        match self.ask(&request, by)? {
            Value::Int(count) => Ok(count > 0),
            other => Err(unexpected(&other).on(self.options.shown.as_str())),
        }
    }

    fn open(&mut self, id: &SessionId, access: Access, by: Deadline) -> Result<Opened> {
        self.client.look_around();
        let hold = match access {
            Access::ReadOnly => Hold::ReadOnly,
            Access::Unlocked => Hold::Unlocked,
            Access::Versioned => {
                return Err(Error::new(ErrorKind::Unsupported, "this store keeps no versions of a session")
                    .on(self.options.shown.as_str()));
            }
            Access::Exclusive { wait, unknown } => return self.open_exclusive(id, wait, unknown, by),
        };
        Ok(Opened { record: self.read(id, by)?, hold, renewal: None })
    }

    fn commit(&mut self, id: &SessionId, hold: Hold, change: Change<'_>, by: Deadline) -> Result<Committed> {
        if let Change::Write(bytes, _) | Change::Touch(bytes, _) = change
            && bytes.len() as u64 > LARGEST
        {
            if let Hold::Lease(lease) = hold {
                let held: Arc<Held> = lease.into_inner()?;
                // The write is refused in any case.
                let _ = self.give_back(&held.session, &held.token, Change::Keep, by);
            }
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the session has {} bytes, and Redis takes {LARGEST}", bytes.len()),
            )
            .hint("keep less in the session")
            .on(self.options.shown.as_str()));
        }
        let session = self.session_key(id);
        match hold {
            Hold::Lease(lease) => {
                let held: Arc<Held> = lease.into_inner()?;
                match held.session == session {
                    true => self.give_back(&held.session, &held.token, change, by),
                    false => Err(Error::new(ErrorKind::Bug, "this lease is of another session")),
                }
            }
            Hold::Unlocked => self.write_unlocked(&session, change, by),
            Hold::ReadOnly if change == Change::Keep => Ok(Committed::Done),
            Hold::ReadOnly | Hold::Version(_) => {
                Err(Error::new(ErrorKind::Bug, "a session that was opened read-only cannot be changed"))
            }
        }
    }

    fn sweep(&mut self, _lifetime: Duration, _by: Deadline) -> Result<u64> {
        Err(Error::new(ErrorKind::Unsupported, "the server removes expired sessions by itself")
            .on(self.options.shown.as_str()))
    }

    fn list(&mut self, each: &mut dyn FnMut(SessionId) -> bool, by: Deadline) -> Result<()> {
        self.client.look_around();
        let pattern = [&escape(&self.options.prefix), "*"].concat();
        let mut cursor = b"0".to_vec();
        loop {
            let scan = Request::of(&[
                b"SCAN",
                &cursor,
                b"MATCH",
                pattern.as_bytes(),
                b"COUNT",
                b"500",
                b"TYPE",
                b"string",
            ]);
            let scanned =
                self.client.twice(|client| client.ask(&scan, Opening::WithRequest, by).and_then(one));
            let answer = match scanned {
                Ok((answer, _)) => answer,
                Err(Failure::Cut(error)) => {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        "the server, or a proxy before it, hung up on SCAN",
                    )
                    .source(error)
                    .hint("name the server itself, not the proxy, where sessions are to be listed")
                    .on(self.options.shown.as_str()));
                }
                Err(failure) => return Err(self.client.error(failure)),
            };
            let Value::Array(parts) = answer else {
                return Err(unexpected(&answer).on(self.options.shown.as_str()));
            };
            let [next, Value::Array(keys)] = <[Value; 2]>::try_from(parts)
                .map_err(|_| unexpected(&Value::Nil).on(self.options.shown.as_str()))?
            else {
                return Err(unexpected(&Value::Nil).on(self.options.shown.as_str()));
            };
            for key in keys {
                // Locks, queues and what is not ours have characters that no session id has.
                if let Ok(Value::BulkString(key)) = sound(key)
                    && let Some(id) = key.strip_prefix(self.options.prefix.as_bytes())
                    && let Ok(id) = SessionId::parse(id)
                    && !each(id)
                {
                    return Ok(());
                }
            }
            cursor = stored(next).map_err(|failure| self.client.error(failure))?.unwrap_or_default();
            if cursor.is_empty() || cursor == b"0" {
                return Ok(());
            }
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

/// Whole milliseconds, at least one.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_matched_as_it_is() {
        assert_eq!(escape("a*b?[c]\\:"), "a\\*b\\?\\[c\\]\\\\:");
    }
}
