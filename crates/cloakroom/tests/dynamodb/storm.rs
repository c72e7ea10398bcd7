//! A network and a service on a very bad day: what was acknowledged is there, and what is there was meant.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloakroom::{Access, Change, Error, ErrorKind, Outcome, Settings, Unknown};
use testbed::dynamodb::Fault;
use testbed::suite::Case;

use crate::worker::{counted, id, increment, lock, soon};
use crate::{Proxied, proxied, store};

pub(crate) fn cases() -> Vec<Case> {
    vec![proxied("of_all_that_is_acknowledged_in_a_storm_nothing_is_lost", storm)]
}

/// How long it lasts, in seconds: `SOAK=60`.
fn length() -> Duration {
    let given = std::env::var("SOAK").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(given.unwrap_or(4))
}

/// What nobody waits for any more arrives half a second later.
const PATIENCE: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_millis(1500);

/// One of five requests meets with something.
fn weather() -> impl FnMut() -> Fault {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        match random % 40 {
            0 | 1 => Fault::CutBefore,
            2 | 3 => Fault::CutAfter,
            4 => Fault::throttled(),
            5 => Fault::internal(),
            6 => Fault::Late(LATE),
            7 => Fault::HangAfter,
            _ => Fault::None,
        }
    }
}

fn storm(proxied: &Proxied) {
    let mut weather = weather();
    proxied.proxy.decide(move |_| weather());
    let settings = Settings { lease: Duration::from_secs(3), timeout: PATIENCE, ..Settings::default() };
    let alone = Access::Exclusive { wait: Duration::from_secs(20), unknown: Unknown::Lock };
    let (done, unknown) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + length();
    let work = || {
        let mut worker = proxied.worker_with(settings.clone());
        while Instant::now() < end || done.load(Ordering::Relaxed) == 0 {
            match increment(worker.as_mut(), &id("abc"), alone) {
                Ok(_) => done.fetch_add(1, Ordering::Relaxed),
                Err(error) if error.outcome() == Outcome::Unknown => unknown.fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    assert!(is_of_the_weather(&error), "{error}");
                    0
                }
            };
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(work);
        }
    });
    proxied.proxy.forward();
    // A lock that somebody got too late to know ends with its lease.
    let mut after = store(&proxied.direct);
    let (record, hold) = lock(after.as_mut(), &id("abc"));
    after.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    let (count, done) = (counted(&record.unwrap()), done.into_inner());
    let most = done + unknown.into_inner();
    assert!((done..=most).contains(&count), "{count}, and not {done} to {most}");
}

/// It was refused, and the next one may not be.
fn is_of_the_weather(error: &Error) -> bool {
    use ErrorKind::{LockBusy, LockLost, Timeout, Unreachable};
    matches!(error.kind(), LockBusy | LockLost | Timeout | Unreachable)
}
