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
//! In a cluster the lock is `{<prefix><id>}_LOCK`, in the session's hash slot, unless the prefix has a hash tag of its own.
//!
//! # What goes on the wire
//! A new connection begins with `AUTH` and `SELECT` where the URL asks for them, and with `ROLE` where sentinels named the
//! server; nothing else is asked. The first time, they have an exchange of their own; once they were accepted, they go out in
//! one write with what follows, unless that is a change.
//!
//! | call | exchanges | commands |
//! |---|---|---|
//! | [`exists`](Store::exists) | 1 | `EXISTS` |
//! | [`open`](Store::open), read-only or unlocked | 1 | `GET`; with [`Refresh::AtRead`](crate::Refresh) also `EXPIRE`, in one write |
//! | `open`, exclusive | 1 | `SET lock token NX PX lease` and `GET`, in one write; with `Refresh::AtRead` also `EXPIRE` |
//! | and the lock is taken | 1 more, then 1 a second | `EVALSHA acquire`, `BLPOP grant` |
//! | and nothing is stored, with `Unknown::Refuse` | 1 more | `EVALSHA commit` (releases) |
//! | [`commit`](Store::commit) | 1 | `EVALSHA commit`: compare the lock, `SET EX` / `EXPIRE` / `DEL`, pass the lock on |
//! | `commit`, unlocked | 1 | `SET EX GET` (without `GET` before Redis 6.2) / `EXPIRE` / `DEL` |
//! | and `wait_replicas=` | the same | `WAIT` behind it, in the same write |
//! | renewal | 1 | `EVALSHA renew`, over a connection of its own |
//! | [`inspect`](Store::inspect) | 1 for each server | `INFO`, `CONFIG GET save`, `CONFIG GET multi-master` |
//! | [`list`](Store::list) | 1 for 500 keys | `SCAN MATCH <prefix>* TYPE string` |
//! | [`peek`](Store::peek) | 1 | `EVALSHA peek`: `GET` and `PTTL` of the session and the lock, `LRANGE` of the queue |
//! | [`locks`](Store::locks) | 1 for 500 keys, 1 for a lock | `SCAN MATCH <prefix>*_LOCK TYPE string`, `EVALSHA peek` |
//! | [`break_lock`](Store::break_lock) | 1 | `EVALSHA commit`: compare the lock, pass it on |
//!
//! `EVALSHA` is followed by `EVAL` when the server does not know the script. The first exclusive open of a worker, and
//! those within two seconds of meeting somebody at a lock, go to `EVALSHA acquire` at once. The first makes twelve keys,
//! `<prefix><id>_LOCK_<number>_ROUTE`, and deletes them with a `DEL` in the same write: a proxy over several servers keeps
//! locks elsewhere than sessions, and then all goes by scripts, which follow the session. (phpredis behind such a proxy
//! has its locks where the proxy sends them, and shares none with Cloakroom.)
//!
//! The user needs the commands of [`RIGHTS`] on `<prefix>*` (in a cluster also on `{<prefix>*`, and `cluster|slots`; with
//! sentinels `role`; for `wait_replicas=` `wait`). Where those of the queue are refused (or a proxy hangs up on them),
//! workers ask for the lock every 1 to 20 ms instead, and for the queue again after 10 s.
//!
//! # When the connection dies
//! Each exchange is repeated once over a new connection. That is safe for reads, for the lock (it holds our token if the
//! first attempt got it), and for a commit (it compares the lock first); `commit` says how the outcome is told. A
//! request that is not answered in time is not repeated, and its connection is dropped. A lock that such an open,
//! or a commit that failed, may have left behind is released at the worker's next open, or ends with its lease.
//!
//! A server that has `maxclients` already turns new connections away: they are tried again every few milliseconds until
//! the call's deadline. Where that happened, or `INFO` shows nine tenths of `maxclients` connected, connections are closed
//! after each request for the next minute, so that others find room. (A server with TLS hangs up without a word in that
//! case: the handshake fails.)
//!
//! In a cluster and with sentinels, whatever passes by itself is asked for again until the deadline: a slot that moves, a
//! server that died and that another one takes over from. A change that was sent to a server that died is only known to be
//! made when its lock is still there; otherwise its outcome is unknown.
//!
//! # Native handlers
//! phpredis asks for the lock every 2 to 20 ms and is never handed one. When its lock value was seen on a session, every
//! fourth release leaves the lock free for 22 ms, and our waiters hold back; when it was not, a session whose lock passes
//! from hand to hand without a pause gets such a gap after one second, and ever more rarely after that.

mod cluster;
mod commit;
mod inspect;
mod keys;
mod member;
mod native;
mod options;
mod peek;
mod queue;
mod reach;
mod replicas;
mod reply;
mod scripts;
mod sentinel;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::net::{Dialer, Tls, TlsOptions};
use crate::{
    Access, Broken, Change, Committed, Counters, Deadline, Durability, Error, ErrorKind, Extent, Finding,
    Guarantees, Hold, LifeTold, Lock, LockKind, Opened, Peeked, Result, SessionId, Settings, Sharing, Store,
    Sweeping, WaiterCap,
};

use cluster::Cluster;
use member::Member;
use options::{Endpoint, Servers};
pub use options::{OPTIONS, Options};
use reach::Reach;
use sentinel::Sentinel;
use wire::Client;

/// The largest value of Redis (`proto-max-bulk-len`).
const LARGEST: u64 = 512 << 20;

/// What a user of the server needs, as rules of its ACL: reading and writing, the queue, other databases than 0, listing.
pub const RIGHTS: &str = "+get +set +del +exists +expire +pexpire +eval +evalsha +append +pttl +lindex +llen +lpop +lpos \
    +lrange +lrem +rpush +blpop +time +hmget +hset +decr +select +scan";

/// A store on one server or a pool of them, with one connection to each that is opened at its first use and kept.
pub struct Redis {
    shown: String,
    /// Each server's share of the sessions: its weight.
    shares: Vec<u32>,
    members: Vec<Member>,
}

/// Locks and sessions are not for a log.
impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({})", self.shown)
    }
}

impl Redis {
    /// A store with these options; nothing is connected yet.
    pub fn new(options: Options, settings: Settings) -> Self {
        // Servers with the same options share one TLS configuration: making one takes milliseconds.
        let mut configurations: Vec<(TlsOptions, Arc<Tls>)> = Vec::new();
        let mut configured = |tls: TlsOptions| {
            if let Some((_, known)) = configurations.iter().find(|(options, _)| *options == tls) {
                return Arc::clone(known);
            }
            let made = Arc::new(Tls::new(tls.clone()));
            configurations.push((tls, Arc::clone(&made)));
            made
        };
        let (shares, members) = match options.servers {
            Servers::Pool(servers) => servers
                .into_iter()
                .map(|(weight, endpoint)| {
                    let endpoint = Arc::new(endpoint);
                    let tls = endpoint.tls.clone().map(&mut configured);
                    let dialer = Arc::new(Dialer::new(endpoint.address.clone(), tls));
                    let client = Client::new(Arc::clone(&endpoint), dialer, &settings);
                    (weight, Member::new(endpoint, Reach::Server(client), settings.clone()))
                })
                .unzip(),
            Servers::Sentinel { primary, name, sentinels } => {
                let primary: Arc<Endpoint> = Arc::from(primary);
                let tls = primary.tls.clone().map(&mut configured);
                let asked = sentinels
                    .into_iter()
                    .map(|sentinel| {
                        let tls = sentinel.tls.clone().map(&mut configured);
                        let dialer = Arc::new(Dialer::new(sentinel.address.clone(), tls));
                        Client::new(Arc::new(sentinel), dialer, &settings)
                    })
                    .collect();
                let reach = Sentinel::new(Arc::clone(&primary), &name, asked, tls, settings.clone());
                (vec![1], vec![Member::new(primary, Reach::Sentinel(reach), settings)])
            }
            Servers::Cluster { every, seeds } => {
                let every: Arc<Endpoint> = Arc::from(every);
                let tls = every.tls.clone().map(&mut configured);
                let cluster = Cluster::new(Arc::clone(&every), &seeds, tls, settings.clone());
                (vec![1], vec![Member::new(every, Reach::Cluster(cluster), settings)])
            }
        };
        Redis { shown: options.shown, shares, members }
    }

    /// The server that phpredis chooses for this id: the first four bytes, as a number, fall into the share of one;
    /// shares are counted from the last server to the first.
    fn member(&mut self, id: &SessionId) -> &mut Member {
        let mut first = [0; 4];
        for (place, byte) in first.iter_mut().zip(id.as_str().bytes()) {
            *place = byte;
        }
        let all: u64 = self.shares.iter().copied().map(u64::from).sum();
        let mut position = u64::from(u32::from_le_bytes(first)) % all.max(1);
        let mut chosen = self.members.len() - 1;
        while chosen > 0 && position >= u64::from(self.shares[chosen]) {
            position -= u64::from(self.shares[chosen]);
            chosen -= 1;
        }
        &mut self.members[chosen]
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
            life_told: LifeTold::Always,
        }
    }

    fn counters(&self) -> Counters {
        self.members.iter().map(Member::counters).fold(Counters::default(), |sum, more| sum + more)
    }

    fn exists(&mut self, id: &SessionId, by: Deadline) -> Result<bool> {
        self.member(id).exists(id, by)
    }

    fn open(&mut self, id: &SessionId, access: Access, by: Deadline) -> Result<Opened> {
        let member = self.member(id);
        let opened = member.open(id, access, by);
        if !matches!(&opened, Ok(Opened { hold: Hold::Lease(_) | Hold::Unlocked(_), .. })) {
            // No commit follows.
            member.reach.rest(by);
        }
        opened
    }

    fn commit(&mut self, id: &SessionId, hold: Hold, change: Change<'_>, by: Deadline) -> Result<Committed> {
        let member = self.member(id);
        let committed = member.commit(id, hold, change, by);
        member.reach.rest(by);
        committed
    }

    fn time_for_a_call(&self) -> Option<Duration> {
        self.members.iter().map(Member::time_for_a_call).max()
    }

    fn inspect(&mut self, extent: Extent, by: Deadline) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for member in &mut self.members {
            findings.extend(member.inspect(extent, by)?);
        }
        Ok(findings)
    }

    fn sweep(&mut self, _lifetime: Duration, _by: Deadline) -> Result<u64> {
        Err(Error::new(ErrorKind::Unsupported, "the server removes expired sessions by itself")
            .on(self.shown.as_str()))
    }

    fn list(&mut self, each: &mut dyn FnMut(SessionId) -> bool, by: Deadline) -> Result<()> {
        for member in &mut self.members {
            if !member.list(each, by)? {
                break;
            }
        }
        Ok(())
    }

    fn peek(&mut self, id: &SessionId, by: Deadline) -> Result<Peeked> {
        self.member(id).peek(id, by)
    }

    fn locks(&mut self, each: &mut dyn FnMut(SessionId, Lock) -> bool, by: Deadline) -> Result<()> {
        for member in &mut self.members {
            if !member.locks(each, by)? {
                break;
            }
        }
        Ok(())
    }

    fn break_lock(&mut self, id: &SessionId, seen: &Lock, by: Deadline) -> Result<Broken> {
        self.member(id).break_lock(id, seen, by)
    }
}

/// Whole milliseconds, at least one.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
