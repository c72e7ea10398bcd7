//! Sessions in Memcached; shared, locks included, with php-memcached.

#![allow(dead_code, reason = "until the store is whole")]

mod commit;
mod inspect;
mod keys;
mod lock;
mod options;
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
    Access, Change, Committed, Counters, Deadline, Durability, Error, ErrorKind, Extent, Finding, Guarantees,
    Hold, LockKind, Opened, Outcome, Result, Seen, SessionId, Settings, Sharing, Store, Sweeping, Unknown,
    WaiterCap,
};

use keys::Place;
use lock::{Held, Orphan, Told};
pub use options::{OPTIONS, Options};
use queue::Company;
use ring::Ring;
use wire::Client;

/// The largest session where the server takes the items that it takes by default, whose head and key count too.
const LARGEST: u64 = inspect::ITEM_SIZE - 512;

/// A store on one server or a ring of them, with one connection to each that is opened at its first use and kept.
pub struct Memcached {
    options: Options,
    settings: Settings,
    ring: Ring,
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
            ring: Ring::of(&options),
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
    fn place(&mut self, id: &SessionId) -> Result<Place> {
        for client in &mut self.clients {
            client.look_around();
        }
        Place::of(id, &self.options, &self.ring)
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
        let record = taken.record.take();
        let held = Arc::new(Held::new(place, token, record.as_ref().map(|item| item.version), &taken));
        if record.is_none() && unknown == Unknown::Refuse {
            self.commit_held(&held, Change::Keep, by)?;
            return Ok(Opened { record: None, hold: Hold::ReadOnly, renewal: None });
        }
        let (lease, renewal) = self.lease(&held);
        Ok(Opened { record: lock::record(record), hold: Hold::Lease(lease), renewal: Some(renewal) })
    }

    /// After an open that failed: a lock that it may have taken.
    fn abandon(&mut self, held: Arc<Held>, error: &Error, by: Deadline) {
        match (error.kind(), error.outcome()) {
            // Somebody else's.
            (ErrorKind::LockBusy, _) => {}
            (_, Outcome::Unknown) => self.remember(&held),
            // It was answered, or another server failed: the lock may be ours.
            _ => {
                if self.clients[held.place.lock_at].is_connected() && self.release(&held, by).is_err() {
                    self.remember(&held);
                }
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
        }
    }

    fn counters(&self) -> Counters {
        self.clients.iter().fold(self.counted, |sum, client| sum + client.counters())
    }

    fn exists(&mut self, id: &SessionId, by: Deadline) -> Result<bool> {
        let place = self.place(id)?;
        Ok(self.look(&place, by)?.is_some())
    }

    fn open(&mut self, id: &SessionId, access: Access, by: Deadline) -> Result<Opened> {
        let place = self.place(id)?;
        if let Access::Exclusive { wait, unknown } = access {
            return self.open_exclusive(place, wait, unknown, by);
        }
        let item = self.look(&place, by)?;
        let hold = match access {
            Access::Unlocked => {
                let value = item.as_ref().map(|item| item.value.as_slice());
                Hold::Unlocked(Seen::of(value).with_version(commit::version(item.as_ref())))
            }
            Access::Versioned => Hold::Version(commit::version(item.as_ref())),
            Access::ReadOnly | Access::Exclusive { .. } => Hold::ReadOnly,
        };
        Ok(Opened { record: lock::record(item), hold, renewal: None })
    }

    fn commit(&mut self, id: &SessionId, hold: Hold, change: Change<'_>, by: Deadline) -> Result<Committed> {
        let place = Place::of(id, &self.options, &self.ring)?;
        match hold {
            Hold::Lease(lease) => {
                let held: Arc<Held> = lease.into_inner()?;
                match held.place.session == place.session {
                    true => self.commit_held(&held, change, by),
                    false => Err(Error::new(ErrorKind::Bug, "this lease is of another session")),
                }
            }
            Hold::Unlocked(seen) => self.write_unlocked(&place, &seen, change, by),
            Hold::Version(version) => self.write_versioned(&place, &version, change, by),
            Hold::ReadOnly if change == Change::Keep => Ok(Committed::Done),
            Hold::ReadOnly => {
                Err(Error::new(ErrorKind::Bug, "a session that was opened read-only cannot be changed"))
            }
        }
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
}
