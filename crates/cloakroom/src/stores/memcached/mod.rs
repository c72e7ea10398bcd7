//! Sessions in Memcached; shared, locks included, with php-memcached.
//!
//! # Keys
//! | key | holds |
//! |---|---|
//! | `<prefix><id>` | the session: the bytes of PHP's serializer, with flags 0 and a life in whole seconds |
//! | `<prefix>lock.<id>` | the lock: `cloakroom:<32 hex>:<host>:<pid>`; anything else is a native handler's (`1`) |
//! | `<prefix>wait.<id>` | those who wait, first come first: 16 hex digits of each one's token (20 s) |
//! | `<prefix>away.<id>` | `1` where a replica has stood in for the session's server: what it has is newer |
//!
//! The lock is on the server that the ring names for `lock.<id>`, as php-memcached has it, and the queue beside it. With
//! `lock=own` both are on the session's server. A lock lives for its lease and up to two seconds more, since Memcached
//! counts whole seconds and may end an item one early.
//!
//! # What goes on the wire
//! In the words of the classic protocol; the meta and the binary one have the same commands by other names.
//!
//! | call | awaited exchanges | commands |
//! |---|---|---|
//! | [`exists`](Store::exists) | 1 | `gets session` |
//! | [`open`](Store::open), read-only, unlocked or versioned | 1 | `gets session` |
//! | `open`, exclusive | 1 | `add lock`, `gets lock`, `gets wait`, `gets session`, in one write |
//! | and the lock is elsewhere | 2 | `add lock`, `gets lock`, `gets wait`; then `gets session` |
//! | and somebody has it | more | `gets lock`, `gets wait`; `append wait` (or `add wait`), then both `gets` again and again, the first waiter with `add lock`; `cas wait` and `gets session` once it has it |
//! | and nothing is stored, with [`Unknown::Refuse`] | 1 more | the release |
//! | [`commit`](Store::commit) | 1 | `cas session` (`add` where nothing was stored), `touch`, or for a deletion `cas session` with the expiry -1; and `cas lock` with the expiry -1, in one write |
//! | and the lock is elsewhere | 1 | the same in two writes; the answer to the release is read with the next exchange |
//! | and the lease has run out, or the connection is another one | 1 more | `gets lock` before it |
//! | and the record was evicted | 1 or 2 more | `add lock` or `gets lock`; then `add session` |
//! | `commit`, unlocked | 1 | `cas session`, `touch` or `delete`; after another's change `gets` and `cas` again |
//! | renewal | 1 | `cas lock`, `gets lock`, over a connection of its own |
//! | [`peek`](Store::peek) | 2 | `gets session`; `gets lock`, `gets wait`; with the meta protocol their lives by `mg t` |
//! | [`locks`](Store::locks) | 1 for a server, 1 for a lock | `lru_crawler metadump hash`; as `peek` |
//! | [`break_lock`](Store::break_lock) | 3 | `gets lock`; `append session` of nothing, for another version; `cas lock` with the expiry -1 |
//!
//! Replicas and servers that come back cost more: see `pool.rs` and `elsewhere.rs`. Waiting is described in `queue.rs`.
//!
//! # What holds, and what does not
//! A write goes over the version (CAS) that was read under the lock: whoever comes too late is refused. A session that
//! somebody changed without the lock meanwhile is not overwritten either; one that was evicted is written again while the
//! lock is still ours. A restarted server has forgotten sessions and locks: what was under way is refused.
//!
//! An exchange that was cut is repeated once. For a commit, session and lock are read back first, and say what became of it;
//! where they cannot tell, the outcome is unknown. A lock that a failed open or commit may have left behind is released at
//! the worker's next open, or ends with its lease.
//!
//! php-memcached's locks have no owner: a request whose lock has ended deletes the next one's when it ends. Among
//! Cloakroom's workers nothing gets lost by that, since the version still refuses whoever was overtaken.

mod commit;
mod elsewhere;
mod inspect;
mod keys;
mod lock;
mod native;
mod options;
mod peek;
mod pool;
mod queue;
mod ring;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::net::Tls;
use crate::stores::token::Token;
use crate::{
    Access, Broken, Change, Committed, Counters, Deadline, Durability, Error, ErrorKind, Extent, Finding,
    Guarantees, Hold, LifeTold, Lock, LockKind, Opened, Outcome, Peeked, Record, Result, Seen, SessionId,
    Settings, Sharing, Store, Sweeping, Unknown, WaiterCap,
};

use elsewhere::Elsewhere;
use keys::Place;
use lock::{Held, Orphan, Told};
pub use options::{OPTIONS, Options};
use pool::Pool;
use queue::Company;
use wire::Client;

/// The largest session where the server takes the items that it takes by default, whose head and key count too.
const LARGEST: u64 = inspect::ITEM_SIZE - 512;

/// A store on one server or a ring of them, with one connection to each that is opened at its first use and kept.
pub struct Memcached {
    options: Options,
    settings: Settings,
    pool: Pool,
    clients: Vec<Client>,
    /// Locks that a failed open may have taken, or a failed commit kept.
    orphans: Vec<Orphan>,
    /// For each server, the unlock that it was told last.
    told: Vec<Option<Told>>,
    company: Option<Company>,
    /// What was done, exchanges and connections left out.
    counted: Counters,
}

/// Locks and sessions are not for a log.
impl fmt::Debug for Memcached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memcached({})", self.options.shown)
    }
}

impl Memcached {
    /// A store with these options; nothing is connected yet.
    pub fn new(options: Options, settings: Settings) -> Self {
        let tls = options.tls.clone().map(|tls| Arc::new(Tls::new(tls)));
        let client = |server| Client::new(server, &options, tls.clone(), &settings);
        let clients: Vec<Client> = options.servers.iter().map(client).collect();
        Memcached {
            pool: Pool::of(&options),
            told: clients.iter().map(|_| None).collect(),
            clients,
            options,
            settings,
            orphans: Vec::new(),
            company: None,
            counted: Counters::default(),
        }
    }

    /// Where a session and its lock are, before anything is asked.
    fn place(&mut self, id: &SessionId, by: Deadline) -> Result<Place> {
        for client in &mut self.clients {
            client.look_alive(by);
        }
        let mut route = self.pool.route(id.as_str());
        if !route.retry.is_empty() {
            let retry = std::mem::take(&mut route.retry);
            let place = Place::of(id, &self.options, route)?;
            self.ask_again(&retry, &place.session, by);
            route = self.pool.route(id.as_str());
        }
        Place::of(id, &self.options, route)
    }

    /// Does it again as long as servers were left out or came back meanwhile: the session is elsewhere then.
    fn routed<T>(
        &mut self,
        by: Deadline,
        mut once: impl FnMut(&mut Self) -> Result<T>,
        undo: impl Fn(&mut Self, T),
    ) -> Result<T> {
        for _ in 0..2 * self.clients.len() {
            let before = self.pool.changes();
            let done = once(self);
            if self.pool.changes() == before || by.passed() {
                return done;
            }
            if let Ok(done) = done {
                undo(self, done);
            }
        }
        once(self)
    }

    fn open_once(&mut self, id: &SessionId, access: Access, by: Deadline) -> Result<Opened> {
        let place = self.place(id, by)?;
        if let Access::Exclusive { wait, unknown } = access {
            return self.open_exclusive(place, wait, unknown, by);
        }
        let own = self.look(&place, by)?;
        let (value, version) = match self.look_elsewhere(&place, own.as_ref(), by)? {
            Some(Elsewhere { value, newer }) => (Some(value), commit::version(newer, place.displaced)),
            None => {
                let version = commit::version(own.as_ref().map(|item| item.version), Some(place.session_at));
                (own.map(|item| item.value), version)
            }
        };
        let hold = match access {
            Access::Unlocked => Hold::Unlocked(Seen::of(value.as_deref()).with_version(version)),
            Access::Versioned => Hold::Version(version),
            Access::ReadOnly | Access::Exclusive { .. } => Hold::ReadOnly,
        };
        Ok(Opened { record: value.map(Record), hold, renewal: None })
    }

    fn open_exclusive(
        &mut self,
        place: Place,
        wait: Duration,
        unknown: Unknown,
        by: Deadline,
    ) -> Result<Opened> {
        self.release_orphans(&place, by);
        let token = Token::new()?;
        let mut taken = match self.take(&place, &token, wait, by) {
            Ok(taken) => taken,
            Err(error) => {
                self.abandon(Arc::new(Held::unseen(place, token)), &error, by);
                return Err(error);
            }
        };
        let own = taken.record.take();
        let version = own.as_ref().map(|item| item.version);
        let elsewhere = match self.look_elsewhere(&place, own.as_ref(), by) {
            Ok(elsewhere) => elsewhere,
            Err(error) => {
                self.unlock(&Arc::new(Held::new(place, token, version, None, &taken)), by);
                return Err(error);
            }
        };
        let newer = elsewhere.as_ref().and_then(|elsewhere| elsewhere.newer);
        let held = Arc::new(Held::new(place, token, version, newer, &taken));
        let record = elsewhere.map(|elsewhere| Record(elsewhere.value)).or(lock::record(own));
        if record.is_none() && unknown == Unknown::Refuse {
            self.commit_held(&held, Change::Keep, by)?;
            return Ok(Opened { record: None, hold: Hold::ReadOnly, renewal: None });
        }
        let (lease, renewal) = self.lease(&held);
        Ok(Opened { record, hold: Hold::Lease(lease), renewal: Some(renewal) })
    }

    /// Ends a request: connections are closed where clients find no room.
    fn rest(&mut self, by: Deadline) {
        for client in &mut self.clients {
            client.rest(by);
        }
    }

    /// After an open that failed: a lock that it may have taken.
    fn abandon(&mut self, held: Arc<Held>, error: &Error, by: Deadline) {
        if error.kind() == ErrorKind::LockBusy {
            // Somebody else's.
            return;
        }
        // Answered, or the other server failed.
        let answered = self.clients[held.place.lock_at].is_connected();
        let released = answered && self.release(&held, by).is_ok();
        if !released && (answered || error.outcome() == Outcome::Unknown) {
            self.remember(&held);
        }
    }

    /// The change, as the session was opened for.
    fn commit_as(
        &mut self,
        id: &SessionId,
        hold: Hold,
        change: Change<'_>,
        by: Deadline,
    ) -> Result<Committed> {
        let route = self.pool.route(id.as_str());
        let mut place = Place::of(id, &self.options, route)?;
        // Where it was read.
        let read_at = match &hold {
            Hold::Unlocked(seen) => seen.version().and_then(commit::server),
            Hold::Version(version) => commit::server(version),
            Hold::Lease(_) | Hold::ReadOnly => None,
        };
        if let Some(at) = read_at.filter(|at| *at != place.session_at) {
            // What is at home is older, and must not come back with a deletion.
            place.away = Some(std::mem::replace(&mut place.session_at, at));
        }
        match hold {
            Hold::Lease(lease) => {
                let held: Arc<Held> = lease.into_inner()?;
                match held.place.session == place.session {
                    true => self.commit_held(&held, change, by),
                    false => Err(Error::new(ErrorKind::Bug, "this lease is of another session")),
                }
            }
            Hold::Unlocked(seen) => {
                let change = self.prepared(&place, None, change, by);
                let committed = self.write_unlocked(&place, &seen, change, by)?;
                self.replicate(&place, change, by)?;
                Ok(committed)
            }
            Hold::Version(version) => {
                let change = self.prepared(&place, None, change, by);
                let committed = self.write_versioned(&place, &version, change, by)?;
                if !matches!(committed, Committed::Conflict(_)) {
                    self.replicate(&place, change, by)?;
                }
                Ok(committed)
            }
            Hold::ReadOnly if change == Change::Keep => Ok(Committed::Done),
            Hold::ReadOnly => {
                Err(Error::new(ErrorKind::Bug, "a session that was opened read-only cannot be changed"))
            }
        }
    }
}

impl Store for Memcached {
    fn guarantees(&self) -> Guarantees {
        Guarantees {
            lock: LockKind::Lease,
            versions: true,
            listing: self.lists(),
            sweeping: Sweeping::ByEngine,
            size_limit: Some(LARGEST),
            survives_restart: Durability::Forgets,
            shared_between_hosts: Sharing::Shared,
            waiter_cap: WaiterCap::Everywhere,
            life_told: LifeTold::IfServerDoes,
        }
    }

    fn counters(&self) -> Counters {
        self.clients.iter().fold(self.counted, |sum, client| sum + client.counters())
    }

    fn exists(&mut self, id: &SessionId, by: Deadline) -> Result<bool> {
        let once = |store: &mut Self| {
            let place = store.place(id, by)?;
            let own = store.look(&place, by)?;
            Ok(own.is_some() || store.look_elsewhere(&place, None, by)?.is_some())
        };
        self.routed(by, once, |_, _| {})
    }

    fn open(&mut self, id: &SessionId, access: Access, by: Deadline) -> Result<Opened> {
        let undo = |store: &mut Self, opened: Opened| {
            if let Hold::Lease(lease) = opened.hold
                && let Ok(held) = lease.into_inner::<Arc<Held>>()
            {
                // What cannot be released is remembered.
                let _ = store.commit_held(&held, Change::Keep, by);
            }
        };
        let opened = self.routed(by, |store| store.open_once(id, access, by), undo);
        if !matches!(&opened, Ok(Opened { hold: Hold::Lease(_) | Hold::Unlocked(_) | Hold::Version(_), .. }))
        {
            // No commit follows.
            self.rest(by);
        }
        opened
    }

    fn commit(&mut self, id: &SessionId, hold: Hold, change: Change<'_>, by: Deadline) -> Result<Committed> {
        let committed = self.commit_as(id, hold, change, by);
        self.rest(by);
        committed
    }

    fn sweep(&mut self, _lifetime: Duration, _by: Deadline) -> Result<u64> {
        Err(Error::new(ErrorKind::Unsupported, "the server removes expired sessions by itself")
            .on(self.options.shown.as_str()))
    }

    fn inspect(&mut self, extent: Extent, by: Deadline) -> Result<Vec<Finding>> {
        self.look_into(extent, by)
    }

    fn list(&mut self, each: &mut dyn FnMut(SessionId) -> bool, by: Deadline) -> Result<()> {
        self.name_sessions(each, by)
    }

    fn peek(&mut self, id: &SessionId, by: Deadline) -> Result<Peeked> {
        self.routed(by, |store| store.look_only(id, by), |_, _| {})
    }

    fn locks(&mut self, each: &mut dyn FnMut(SessionId, Lock) -> bool, by: Deadline) -> Result<()> {
        self.look_at_locks(each, by)
    }

    fn break_lock(&mut self, id: &SessionId, seen: &Lock, by: Deadline) -> Result<Broken> {
        self.take_away(id, seen, by)
    }
}
