//! The contract between PHP's session life cycle and an engine.
//!
//! A request makes two calls: [`Store::open`] locks and reads, [`Store::commit`] writes and unlocks. Each is
//! one awaited exchange on the wire wherever the engine's protocol allows it.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::ops::Add;
use std::time::Duration;

use crate::{Broken, Deadline, Environment, Error, ErrorKind, Lock, Peeked, Result, SessionId};

/// A store of sessions: one per worker, used by one request at a time.
///
/// # What every store keeps to
/// - Nothing is opened before the first call: PHP-FPM forks its workers after the constructor ran.
/// - `by` is the total deadline of the call. A store also bounds each exchange by [`Settings::timeout`].
/// - The lease's token is random, and checking it is part of the command that writes: a late writer is refused.
/// - A deletion happens before the unlock: a waiter must not bring a deleted session back.
/// - An error never reads as "no such session".
pub trait Store: Send {
    /// What this store promises, for `phpinfo()`, `cloakroom doctor` and the behaviour suite, which asserts it.
    fn guarantees(&self) -> Guarantees;

    /// What this store has done so far.
    fn counters(&self) -> Counters;

    /// What requests have cost so far, by what they were for, where whoever runs the engine bills them.
    fn billed(&self) -> Vec<(&'static str, Billed)> {
        Vec::new()
    }

    /// PHP's `session.name` from now on, for the stores whose native handler puts it into keys; the others do not care.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] where such a store cannot have it in a key.
    fn name_sessions(&mut self, _name: &[u8]) -> Result<()> {
        Ok(())
    }

    /// Whether a live record is stored under this id. Takes no lock and never waits for one.
    ///
    /// # Errors
    /// When the store cannot tell.
    fn exists(&mut self, id: &SessionId, by: Deadline) -> Result<bool>;

    /// Locks the session as `access` says, and reads it.
    ///
    /// # Errors
    /// [`ErrorKind::LockBusy`] when the lock was not obtained within [`Access::Exclusive::wait`], or more
    /// requests than [`Settings::max_waiters`] wait already; any other kind when the store cannot be read. No
    /// lock of ours stays behind after an error.
    fn open(&mut self, id: &SessionId, access: Access, by: Deadline) -> Result<Opened>;

    /// Applies `change` and releases the lock.
    ///
    /// # Errors
    /// [`ErrorKind::LockLost`] when the lease is no longer ours: nothing was written.
    /// [`Error::outcome`] says whether the change may have been applied all the same.
    fn commit(&mut self, id: &SessionId, hold: Hold, change: Change<'_>, by: Deadline) -> Result<Committed>;

    /// How long one call may take beside its wait for a lock, where the store's URL allows more than the [`Settings`].
    fn time_for_a_call(&self) -> Option<Duration> {
        None
    }

    /// What settings outside of the store's URL came to, where it has a chain of them: `region`, `eu-west-1`.
    ///
    /// # Errors
    /// When the chain ends without what is needed.
    fn resolved(&mut self, by: Deadline) -> Result<Vec<(&'static str, String)>> {
        let _ = by;
        Ok(Vec::new())
    }

    /// Asks the engine how it is set up, and says what endangers sessions there. It may ask for what the engine's user
    /// has no right to know; that is a [`Finding`] too.
    ///
    /// # Errors
    /// When the engine cannot be reached.
    fn inspect(&mut self, extent: Extent, by: Deadline) -> Result<Vec<Finding>> {
        let _ = (extent, by);
        Ok(Vec::new())
    }

    /// Removes records that expired at least `lifetime` ago, and says how many. It may stop before the end at
    /// `by`; the next call goes on where this one stopped.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless [`Guarantees::sweeping`] is [`Sweeping::Needed`].
    fn sweep(&mut self, lifetime: Duration, by: Deadline) -> Result<u64>;

    /// Calls `each` with the id of every session, one at a time, until it answers false.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless [`Guarantees::listing`].
    fn list(&mut self, each: &mut dyn FnMut(SessionId) -> bool, by: Deadline) -> Result<()>;

    /// Looks at one session and its lock, without waiting for it and without changing anything.
    ///
    /// # Errors
    /// When the store cannot tell.
    fn peek(&mut self, id: &SessionId, by: Deadline) -> Result<Peeked>;

    /// Calls `each` with every session that is locked, one at a time, until it answers false.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless [`Guarantees::listing`].
    fn locks(&mut self, each: &mut dyn FnMut(SessionId, Lock) -> bool, by: Deadline) -> Result<()>;

    /// Takes a lock away from its holder, whose commit is then refused; only if it still is the one that was seen.
    /// (phpredis' value may be the same for two requests of one worker.)
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where [`Guarantees::lock`] is [`LockKind::Kernel`].
    fn break_lock(&mut self, id: &SessionId, seen: &Lock, by: Deadline) -> Result<Broken>;
}

/// Which servers [`Store::inspect`] asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Those that there is a connection to: a worker connects to none for this.
    Connected,
    /// All of them.
    Whole,
}

/// What [`Store::inspect`] found, as `what (store where)` and a line with a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub gravity: Gravity,
    /// What was found, in lower case.
    pub what: String,
    /// What to do about it.
    pub hint: String,
    /// The server, by its masked URL.
    pub place: String,
}

/// How bad a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gravity {
    /// Locks do not hold there: no session is safe.
    Unsafe,
    /// Sessions may get lost.
    Risk,
    /// Worth knowing for whoever looks at the set-up, and for no log of a worker.
    Note,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (store {})\nhint: {}", self.what, self.place, self.hint)
    }
}

/// How a session is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read once, without a lock and without waiting for anybody's.
    ReadOnly,
    /// Read without a lock, and write without one: the last writer wins (`cloakroom.lock=off`).
    Unlocked,
    /// Read without a lock; the commit is refused with [`Committed::Conflict`] when the record has changed.
    Versioned,
    /// Alone until the commit.
    Exclusive {
        /// How long to wait for the lock at most.
        wait: Duration,
        /// What to do about an id that has no record.
        unknown: Unknown,
    },
}

/// What an exclusive [`Store::open`] does about an id that has no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Lock it: a new session is about to be written.
    Lock,
    /// Leave neither lock nor record; [`Opened::hold`] is [`Hold::ReadOnly`] (strict mode refuses the id).
    Refuse,
}

/// What a request holds between [`Store::open`] and [`Store::commit`].
#[derive(Debug)]
pub enum Hold {
    /// Nothing; only [`Change::Keep`] can be committed.
    ReadOnly,
    /// Nothing; the last writer wins. What was read tells whether that undid another's change.
    Unlocked(Seen),
    /// The version that was read.
    Version(Version),
    /// The lock.
    Lease(Lease),
}

/// What a record was when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    record: Option<Record>,
    version: Option<Version>,
}

impl Seen {
    /// What this record is; `None` for no record.
    pub fn of(record: Option<&[u8]>) -> Self {
        Seen { record: record.map(|bytes| Record(bytes.to_vec())), version: None }
    }

    /// With its version, by which a store that counts them sees sooner whether it is still the same.
    #[must_use]
    pub fn with_version(self, version: Version) -> Self {
        Seen { version: Some(version), ..self }
    }

    /// Its version, where the store told it.
    pub fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    /// Whether this is what was seen.
    pub fn is(&self, record: Option<&[u8]>) -> bool {
        self.record.as_ref().map(|seen| seen.0.as_slice()) == record
    }
}

/// The version of a record, as its store counts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub Vec<u8>);

/// A lock that is ours until its time is up; opaque to all but the store that gave it.
///
/// Dropping it does not release the lock: a forked child drops its copy, and the parent goes on.
pub struct Lease(Box<dyn Any + Send>);

impl Lease {
    /// Wraps what the store needs to release the lock and to prove that it is ours.
    pub fn new<T: Any + Send>(inner: T) -> Self {
        Lease(Box::new(inner))
    }

    /// Gives the store back what it wrapped.
    ///
    /// # Errors
    /// [`ErrorKind::Bug`] when another store gave this lease.
    pub fn into_inner<T: Any + Send>(self) -> Result<T> {
        match self.0.downcast::<T>() {
            Ok(inner) => Ok(*inner),
            Err(_) => Err(Error::new(ErrorKind::Bug, "this lease was given by another store")),
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lease(..)")
    }
}

/// A stored session: the bytes of PHP's serializer, as they are.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(pub Vec<u8>);

/// What a user keeps in a session is nobody's to read in a log.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({} bytes)", self.0.len())
    }
}

/// What [`Store::open`] found and took.
#[derive(Debug)]
pub struct Opened {
    /// The record, unless there is none or it has expired.
    pub record: Option<Record>,
    /// What to give back to [`Store::commit`].
    pub hold: Hold,
    /// Prolongs the lease while the request runs; `None` where the lock needs none.
    pub renewal: Option<Renewal>,
}

/// Prolongs a lease, from another thread and over a connection of its own.
pub struct Renewal {
    /// How long after the open, and after each renewal, the next one is due.
    pub every: Duration,
    /// Prolongs the lease once; an error means that this attempt failed, [`ErrorKind::LockLost`] that the lock
    /// is gone for good.
    pub renew: Box<dyn FnMut(Deadline) -> Result<()> + Send>,
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Renewal(every {:?})", self.every)
    }
}

/// What a request did to the session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// Store these bytes, to live this long.
    Write(&'a [u8], Duration),
    /// The bytes are those that were read: prolong their life. They are written again if the record has
    /// vanished in between (evicted, or expired).
    Touch(&'a [u8], Duration),
    /// Remove the record.
    Delete,
    /// Leave the record as it is.
    Keep,
}

impl fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Write(bytes, ttl) => write!(f, "Write({} bytes, {ttl:?})", bytes.len()),
            Change::Touch(bytes, ttl) => write!(f, "Touch({} bytes, {ttl:?})", bytes.len()),
            Change::Delete => f.write_str("Delete"),
            Change::Keep => f.write_str("Keep"),
        }
    }
}

/// What [`Store::commit`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// As asked.
    Done,
    /// A touched record had vanished and was written again.
    Rewritten,
    /// [`Hold::Version`] only: the record has changed in between, and nothing was written.
    Conflict(Option<Record>),
}

/// What requests of one kind have cost, in the units of DynamoDB.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Billed {
    /// How many were sent.
    pub requests: u64,
    /// Read units: one for 4 KB read consistently, half of one where that was not asked for.
    pub read_units: f64,
    /// Write units: one for each 1 KB of the item, whatever part of it was written.
    pub write_units: f64,
}

impl Add for Billed {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Billed {
            requests: self.requests + other.requests,
            read_units: self.read_units + other.read_units,
            write_units: self.write_units + other.write_units,
        }
    }
}

/// Times and limits that hold for every store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long a lock outlives a worker that died (`cloakroom.lease`).
    pub lease: Duration,
    /// How long a request may keep its lock by renewing it (`cloakroom.lease_max`).
    pub lease_max: Duration,
    /// Total time to connect, with TLS and authentication (`cloakroom.connect_timeout`).
    pub connect_timeout: Duration,
    /// Total time of one exchange (`cloakroom.timeout`).
    pub timeout: Duration,
    /// How many requests may wait for one session at once (`cloakroom.max_waiters`); `None` for any number.
    pub max_waiters: Option<NonZeroU32>,
    /// How long an unused record lives (`session.gc_maxlifetime`), for the stores that judge a record by its age.
    pub lifetime: Duration,
    /// When an unchanged session's life is prolonged, for the stores where that is a command of its own.
    pub refresh: Refresh,
    /// PHP's `session.name`, for the stores whose native handler puts it into keys.
    pub session_name: Cow<'static, str>,
    /// What a store's own chain of settings and credentials looks at (AWS's).
    pub environment: Environment,
}

/// When an unchanged session's life is prolonged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Refresh {
    /// When it is committed: what is only read lives no longer for it.
    #[default]
    AtCommit,
    /// When it is read, read-only or not.
    AtRead,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            lease: Duration::from_secs(15),
            lease_max: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(1),
            timeout: Duration::from_millis(2500),
            max_waiters: NonZeroU32::new(16),
            lifetime: Duration::from_secs(1440),
            refresh: Refresh::AtCommit,
            session_name: "PHPSESSID".into(),
            environment: Environment::default(),
        }
    }
}

/// What a store promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarantees {
    /// How a lock ends when its worker dies.
    pub lock: LockKind,
    /// Whether [`Access::Versioned`] works.
    pub versions: bool,
    /// Whether [`Store::list`] works.
    pub listing: bool,
    /// Who removes expired records.
    pub sweeping: Sweeping,
    /// The largest session, in bytes.
    pub size_limit: Option<u64>,
    /// Whether sessions survive a restart of the engine.
    pub survives_restart: Durability,
    /// Whether hosts share the sessions.
    pub shared_between_hosts: Sharing,
    /// How well [`Settings::max_waiters`] is kept.
    pub waiter_cap: WaiterCap,
    /// Whether [`Store::peek`] tells how long a record lives.
    pub life_told: LifeTold,
}

/// How a lock ends when its worker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// The kernel releases it at once.
    Kernel,
    /// It ends when its lease is not renewed.
    Lease,
}

/// Who removes expired records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweeping {
    /// The engine does.
    ByEngine,
    /// The engine does where it is set up to; elsewhere `cloakroom gc` does, and PHP's gc does nothing.
    IfSetUp,
    /// [`Store::sweep`] must be called: PHP's gc does, by chance or by `session_gc()`.
    Needed,
}

/// Whether sessions survive a restart of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// They do.
    Survives,
    /// It depends on the server's configuration.
    AsConfigured,
    /// They do not.
    Forgets,
}

/// Whether hosts share the sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// They do.
    Shared,
    /// Only where the directory is on a network file system.
    IfMountIsShared,
}

/// How well [`Settings::max_waiters`] is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaiterCap {
    /// All waiters are counted.
    Everywhere,
    /// Only the waiters on this host are counted.
    PerHost,
}

/// Whether [`Store::peek`] tells how long a record lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeTold {
    /// It does.
    Always,
    /// Only where the server speaks a protocol that has a command for it.
    IfServerDoes,
}

/// Gives each promise its words, the same in `phpinfo()` and in the command.
macro_rules! in_words {
    ($($kind:ident { $($variant:ident: $words:literal),+ })+) => {
        $(impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($kind::$variant => $words),+ })
            }
        })+
    };
}

in_words! {
    LockKind { Kernel: "released at once, by the kernel", Lease: "ends with its lease (cloakroom.lease)" }
    Sweeping {
        ByEngine: "removed by the store",
        IfSetUp: "removed by the table's TTL, or by cloakroom gc",
        Needed: "removed by session.gc_probability or a scheduled task"
    }
    Durability { Survives: "yes", AsConfigured: "as the server is configured", Forgets: "no" }
    Sharing { Shared: "yes", IfMountIsShared: "only on a network file system" }
    WaiterCap { Everywhere: "on all hosts", PerHost: "on this host" }
}

/// What a store has done so far in this worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Exchanges with the engine that were waited for, connecting not counted.
    pub exchanges: u64,
    /// Connections opened.
    pub connects: u64,
    /// Opens that had to wait for the lock.
    pub waits: u64,
    /// Time spent waiting for locks.
    pub waited: Duration,
    /// Exchanges repeated after the connection was found dead.
    pub retries: u64,
    /// Commits refused because the lease was lost.
    pub lost_leases: u64,
    /// Writes without a lock that undid what another request had written since the session was read, where the store
    /// tells.
    pub conflicts: u64,
    /// Connections that the engine turned away because it had as many clients as it takes; each was tried again.
    pub turned_away: u64,
}

impl Add for Counters {
    type Output = Counters;

    fn add(self, other: Counters) -> Counters {
        Counters {
            exchanges: self.exchanges + other.exchanges,
            connects: self.connects + other.connects,
            waits: self.waits + other.waits,
            waited: self.waited + other.waited,
            retries: self.retries + other.retries,
            lost_leases: self.lost_leases + other.lost_leases,
            conflicts: self.conflicts + other.conflicts,
            turned_away: self.turned_away + other.turned_away,
        }
    }
}
