//! What is seen of a session by who only looks: [`Store::peek`](crate::Store::peek), `locks`, `break_lock`.

use std::fmt;
use std::time::Duration;

use crate::Record;

/// One session, seen without disturbing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peeked {
    /// The record; what a directory has is shown even where it has expired.
    pub record: Option<Record>,
    /// How long the record lives; [`Life::Unknown`] where there is none.
    pub life: Life,
    /// The lock, if anybody has it.
    pub lock: Option<Lock>,
}

/// How long a record lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It expires after this time.
    Left(Duration),
    /// It was last written or touched so long ago: it expires when that is `session.gc_maxlifetime`.
    Unused(Duration),
    /// It never expires.
    Endless,
    /// The store does not tell.
    Unknown,
}

/// A lock that somebody has.
#[derive(Clone, PartialEq, Eq)]
pub struct Lock {
    /// Who has it.
    pub holder: Holder,
    /// When it ends by itself, unless its holder renews it. How long it has been held no store tells.
    pub ends: Ends,
    /// How many wait for it, as far as [`Guarantees::waiter_cap`](crate::Guarantees) says; native handlers are never
    /// counted. `None` where the store does not tell.
    pub waiting: Option<u32>,
    /// What the engine has there: breaking compares it.
    pub(crate) value: Vec<u8>,
    /// The engine's version of it, where it counts them.
    pub(crate) version: u64,
}

/// The value proves to the engine whose the lock is, so it is not for a log.
impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lock({}, {:?}, {:?} waiting)", self.holder, self.ends, self.waiting)
    }
}

/// Who has a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A worker of Cloakroom.
    Worker {
        /// The name of its host.
        host: String,
        /// Its process there.
        pid: u32,
    },
    /// A native handler's worker, which tells where it runs (phpredis).
    Native {
        /// The name of its host.
        host: String,
        /// Its process there.
        pid: u32,
    },
    /// A native handler's worker, which does not.
    NativeUnnamed,
    /// A process of this host, with Cloakroom or with PHP's own handler.
    Process(u32),
    /// Somebody on another host, or in another container.
    Elsewhere,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Worker { host, pid } => write!(f, "cloakroom, process {pid} on {host}"),
            Holder::Native { host, pid } => write!(f, "a native handler, process {pid} on {host}"),
            Holder::NativeUnnamed => f.write_str("a native handler"),
            Holder::Process(pid) => write!(f, "process {pid} on this host"),
            Holder::Elsewhere => f.write_str("another host or container"),
        }
    }
}

/// When a lock ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// After this time, unless it is renewed.
    After(Duration),
    /// With its process, at the latest.
    WithProcess,
    /// Never: a worker that died leaves it for good.
    Never,
    /// The store does not tell.
    Unknown,
}

/// What became of breaking a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// It is gone; who waited first has it or finds it free. Its holder's write is refused, but for the first one of a new
    /// session in Memcached: whoever is first to write that has written it.
    Done,
    /// It had ended meanwhile, or somebody else has it: nothing was done.
    Changed,
}

#[cfg(feature = "net")]
impl Lock {
    /// As its value tells: ours, phpredis' `host|pid`, or any other.
    pub(crate) fn of(value: Vec<u8>, version: u64, ends: Ends, waiting: Option<u32>) -> Self {
        Lock { holder: holder(&value), ends, waiting, value, version }
    }

    /// Whether a worker of ours has it: its value comes never again.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.holder, Holder::Worker { .. })
    }
}

#[cfg(feature = "net")]
fn holder(value: &[u8]) -> Holder {
    let text = String::from_utf8_lossy(value);
    let worker = |text: &str| {
        let (_, place) = text.strip_prefix(crate::stores::MARK)?.split_once(':')?;
        let (host, pid) = place.rsplit_once(':')?;
        let plain = !host.chars().any(char::is_control);
        plain
            .then_some(Holder::Worker { host: host.to_owned(), pid: pid.trim_end_matches('*').parse().ok()? })
    };
    let native = |text: &str| {
        let (host, pid) = text.rsplit_once('|')?;
        let plain = !host.is_empty() && !host.chars().any(char::is_control);
        plain.then_some(Holder::Native { host: host.to_owned(), pid: pid.parse().ok()? })
    };
    worker(&text).or_else(|| native(&text)).unwrap_or(Holder::NativeUnnamed)
}

#[cfg(all(test, feature = "net"))]
mod tests {
    use super::*;

    #[test]
    fn a_lock_tells_who_has_it() {
        for (value, told) in [
            (&b"cloakroom:00112233445566778899aabbccddeeff:web1:4711"[..], "cloakroom, process 4711 on web1"),
            (b"cloakroom:00112233445566778899aabbccddeeff:web1:4711*", "cloakroom, process 4711 on web1"),
            (b"web2|99", "a native handler, process 99 on web2"),
            (b"1", "a native handler"),
            (b"0f3c|x", "a native handler"),
            (b"\xff\x1b[31m|7", "a native handler"),
            (b"cloakroom:00112233445566778899aabbccddeeff:\x1b[31m:7", "a native handler"),
        ] {
            let lock = Lock::of(value.to_vec(), 0, Ends::Never, None);
            assert_eq!(lock.holder.to_string(), told);
            assert!(!format!("{lock:?}").contains("0011"), "{lock:?}");
        }
    }
}
