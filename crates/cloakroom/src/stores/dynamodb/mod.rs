//! Sessions in a table of DynamoDB; shared, locks included, with `Aws\DynamoDb\SessionHandler` of the AWS SDK for PHP.
//!
//! # The item of a session
//! | attribute | holds |
//! |---|---|
//! | `id` (`hash_key=`), S | PHP's `session.name`, `_` and the session's id |
//! | `data` (`data=`), S or B | the bytes of PHP's serializer; absent where there are none. What is not UTF-8 is B, whatever `data_type=` says: AWS's handler takes either |
//! | `expires` (`ttl=`), N | when the session expires, in seconds since 1970: the table's TTL attribute |
//! | `lock` | the lock: S `cloakroom:<32 hex>:<host>:<pid>`; anything else is AWS's handler's (N `1`) |
//! | `lock_until`, N | when the lease of our lock ends, in milliseconds since 1970 |
//! | `record_expires`, N | what `expires` was before our lock, -1 for nothing; it counts only while that lock is on |
//! | `lock_seen`, `lock_seen_expires`, N | since when a lock of AWS's handler has been there: see `native.rs` |
//!
//! Those from `lock` on are there only while the session is locked, or after a worker that died. While it is locked,
//! `expires` is at least the lease's end: DynamoDB deletes no session that is locked, and in time what a worker has begun
//! that died. An item without `expires` is a session for good if it has `data`, and none if not.
//!
//! Who waits stands in an item of its own, `<id>_WAITING`: see `waiting.rs`. It is removed with the last who waits.
//!
//! # What goes on the wire
//! HTTP, one request at a time over a connection that stays. `W` is billed as a write of the whole item (a unit for each
//! KB, also where its condition does not hold), `R` as a read of it (a unit for each 4 KB; half where `consistent_read=0`).
//!
//! | call | requests | which |
//! |---|---|---|
//! | [`exists`](Store::exists) | 1 R | GetItem |
//! | [`open`](Store::open), read-only, unlocked or versioned | 1 R | GetItem |
//! | `open`, exclusive | 1 W | UpdateItem: sets `lock` if there is none, and answers the item |
//! | and the session expires before the lease, or has expired | 1 W more | UpdateItem of `expires` |
//! | and nothing is stored, with [`Unknown::Refuse`](crate::Unknown) | 1 R more | GetItem, where there is no item; else 1 W, DeleteItem |
//! | and somebody has it | R after R | GetItem of its lock after 5 to 150 ms, ever more seldom while the lock is the same; UpdateItem once it is free |
//! | and still has it at the second look | 2 W more, of 1 unit | UpdateItem of `<id>_WAITING`; UpdateItem or DeleteItem |
//! | and its lease is over, or it was left by AWS's handler | 1 W more | UpdateItem, if the lock is still the same |
//! | [`commit`](Store::commit) | 1 W | UpdateItem or DeleteItem, if `lock` is ours: writes and removes the lock |
//! | `commit`, unlocked | 1 W | UpdateItem, which answers what was there, or DeleteItem |
//! | `commit`, versioned | 1 W | UpdateItem or DeleteItem, if `data` is what was read and nobody has the lock |
//! | renewal | 1 W | UpdateItem of `lock_until`, over a connection of its own |
//! | [`peek`](Store::peek) | 1 R, 2 of what is locked | GetItem of the session; GetItem of `<id>_WAITING` |
//! | [`list`](Store::list), [`locks`](Store::locks) | 1 for 1 MB | Scan; for each lock a GetItem of `<id>_WAITING` |
//! | [`break_lock`](Store::break_lock) | 1 R, 1 W | GetItem; UpdateItem, or DeleteItem where there is no record |
//!
//! # What holds, and what does not
//! Each write is on the condition that the lock is ours: whoever comes too late is refused. When a lease ends is judged by
//! the service's clock, which the `Date` of each answer tells; where answers have none, by the host's, a minute later.
//!
//! AWS's handler waits for our lock and we for its. Its writes, however, heed no lock and remove it: where it gave up
//! waiting (10 s), or does not lock, its write stays, and the commit of whoever had the session alone is refused. Its locks
//! tell neither owner nor time, and are broken `break_after=` after somebody who waits has first seen them.
//!
//! A request that gets no answer, or is throttled, is repeated until its deadline (see `client.rs`). That is safe: an open
//! knows its own token, and a commit that finds its lock gone after an attempt without an answer looks at what is there;
//! where that cannot tell, the outcome is unknown. A lock that a failed open or commit may have left behind is released
//! then, or at the worker's next open, or ends with its lease.

mod chain;
mod client;
mod clock;
mod commit;
mod engine;
mod errors;
mod inspect;
mod item;
mod lock;
mod native;
mod options;
mod peek;
mod profile;
mod requests;
mod sweep;
mod table;
mod tally;
mod version;
mod waiting;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    Access, Billed, Broken, Change, Committed, Counters, Deadline, Durability, Error, ErrorKind, Extent,
    Finding, Guarantees, Hold, LifeTold, Lock, LockKind, Opened, Peeked, Result, Seen, SessionId, Settings,
    Sharing, Store, Sweeping, WaiterCap,
};

use client::Client;
use lock::{Held, Orphan};
pub use options::{OPTIONS, Options};
pub use sweep::{Collected, Collecting};
pub use table::{Capacity, Created, Expiry};
use tally::Purpose;

/// The largest item of DynamoDB, the names of its attributes included.
const LARGEST_ITEM: u64 = 400 << 10;

/// The largest session: without a kilobyte for the item's key, its lock and the names of its attributes.
const LARGEST: u64 = LARGEST_ITEM - 1024;

/// A store in one table, with one connection that is opened at its first use and kept.
pub struct DynamoDb {
    client: Client,
    session_name: String,
    /// Locks that a failed open may have taken, or a failed commit kept.
    orphans: Vec<Orphan>,
}

/// Locks and sessions are not for a log.
impl fmt::Debug for DynamoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DynamoDb({})", self.client.options.shown)
    }
}

impl DynamoDb {
    /// A store with these options; nothing is connected yet.
    pub fn new(options: Options, settings: Settings) -> Self {
        let session_name = options.session_name.clone().unwrap_or_else(|| settings.session_name.to_string());
        DynamoDb { client: Client::new(Arc::new(options), settings), session_name, orphans: Vec::new() }
    }

    fn key(&self, id: &SessionId) -> String {
        item::key(&self.session_name, id)
    }

    fn unnamed(&self, name: &[u8]) -> Error {
        let name = String::from_utf8_lossy(name);
        let what = format!("session.name is not UTF-8, and cannot be in the key of an item: {name}");
        Error::new(ErrorKind::Config, what)
            .hint("choose another session.name, or set session_name= in session.save_path")
            .on(self.client.options.shown.as_str())
    }
}

impl Store for DynamoDb {
    fn guarantees(&self) -> Guarantees {
        Guarantees {
            lock: LockKind::Lease,
            versions: true,
            listing: true,
            sweeping: Sweeping::IfSetUp,
            size_limit: Some(LARGEST),
            survives_restart: Durability::Survives,
            shared_between_hosts: Sharing::Shared,
            waiter_cap: WaiterCap::Everywhere,
            life_told: LifeTold::Always,
        }
    }

    fn counters(&self) -> Counters {
        self.client.tally(|tally| tally.counters)
    }

    fn billed(&self) -> Vec<(&'static str, Billed)> {
        self.client.tally(|tally| tally.bill())
    }

    fn name_sessions(&mut self, name: &[u8]) -> Result<()> {
        if self.client.options.session_name.is_some() || name == self.session_name.as_bytes() {
            return Ok(());
        }
        self.session_name = match std::str::from_utf8(name) {
            Ok(name) => name.to_owned(),
            Err(_) => return Err(self.unnamed(name)),
        };
        Ok(())
    }

    fn exists(&mut self, id: &SessionId, by: Deadline) -> Result<bool> {
        let key = self.key(id);
        let item = self.client.get(Purpose::Read, &key, Some(lock::STATE), true, by)?;
        Ok(item.is_some_and(|item| item.term().lives(self.client.clock.now())))
    }

    fn open(&mut self, id: &SessionId, access: Access, by: Deadline) -> Result<Opened> {
        if let Access::Exclusive { wait, unknown } = access {
            return self.open_alone(id, wait, unknown, by);
        }
        let key = self.key(id);
        let consistent = access != Access::ReadOnly || self.client.options.consistent_read;
        let item = self.client.get(Purpose::Read, &key, None, consistent, by)?;
        let now = self.client.clock.now();
        let version = match access {
            Access::Versioned => Some(version::version(item.as_ref(), now)),
            _ => None,
        };
        let record = match item {
            Some(item) => item.record(now).map_err(|error| error.on(self.client.options.shown.as_str()))?,
            None => None,
        };
        let hold = match (access, version) {
            (Access::Unlocked, _) => {
                Hold::Unlocked(Seen::of(record.as_ref().map(|record| record.0.as_slice())))
            }
            (_, Some(version)) => Hold::Version(version),
            (_, None) => Hold::ReadOnly,
        };
        Ok(Opened { record, hold, renewal: None })
    }

    fn commit(&mut self, id: &SessionId, hold: Hold, change: Change<'_>, by: Deadline) -> Result<Committed> {
        match hold {
            Hold::ReadOnly if change == Change::Keep => Ok(Committed::Done),
            Hold::ReadOnly => {
                Err(Error::new(ErrorKind::Bug, "a session that was only read cannot be written"))
            }
            Hold::Unlocked(seen) => self.commit_unlocked(id, &seen, change, by),
            Hold::Version(version) => self.commit_version(id, &version, change, by),
            Hold::Lease(lease) => self.commit_alone(&lease.into_inner::<Held>()?, change, by),
        }
    }

    fn time_for_a_call(&self) -> Option<Duration> {
        Some(self.client.settings.connect_timeout + self.client.settings.timeout)
    }

    fn sweep(&mut self, _lifetime: Duration, _by: Deadline) -> Result<u64> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "a table's TTL removes expired sessions, or cloakroom gc does",
        )
        .on(self.client.options.shown.as_str()))
    }

    fn inspect(&mut self, extent: Extent, by: Deadline) -> Result<Vec<Finding>> {
        self.look_into(extent, by)
    }

    fn resolved(&mut self, by: Deadline) -> Result<Vec<(&'static str, String)>> {
        self.chain(by)
    }

    fn list(&mut self, each: &mut dyn FnMut(SessionId) -> bool, by: Deadline) -> Result<()> {
        self.each_session(each, by)
    }

    fn peek(&mut self, id: &SessionId, by: Deadline) -> Result<Peeked> {
        self.look_only(id, by)
    }

    fn locks(&mut self, each: &mut dyn FnMut(SessionId, Lock) -> bool, by: Deadline) -> Result<()> {
        self.each_lock(each, by)
    }

    fn break_lock(&mut self, id: &SessionId, seen: &Lock, by: Deadline) -> Result<Broken> {
        self.take_away(id, seen, by)
    }
}
