//! What time it is in DynamoDB: leases, expiry and signatures are judged by it, not by the clocks of the hosts.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_smithy_async::time::TimeSource;

/// This host's clock, set by the `Date` of each answer.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// How far the service is ahead, in milliseconds.
    ahead: AtomicI64,
    /// Whether an answer has told.
    known: AtomicBool,
}

impl Clock {
    /// Milliseconds since 1970, as the service counts them.
    pub(super) fn now(&self) -> u64 {
        here().saturating_add_signed(self.ahead.load(Ordering::Relaxed))
    }

    /// Whether that is what the service counts, and no mere guess.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// How far the service is ahead, in milliseconds; what the `Date` cannot tell for sure counts as nothing.
    pub(super) fn ahead(&self) -> i64 {
        self.ahead.load(Ordering::Relaxed)
    }

    /// An answer came that is dated so, in seconds since 1970: at some moment of that second, and just now.
    pub(super) fn learn(&self, dated: u64) {
        self.ahead.store(ahead(dated.saturating_mul(1000), here()), Ordering::Relaxed);
        self.known.store(true, Ordering::Relaxed);
    }
}

impl TimeSource for Clock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(Clock::now(self))
    }
}

fn here() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// An answer may have been a second on its way, and a `Date` has no more than seconds: what may be the same time is.
fn ahead(dated: u64, here: u64) -> i64 {
    let same = dated.saturating_sub(500)..=dated + 2000;
    match same.contains(&here) {
        true => 0,
        false => (dated + 500) as i64 - here as i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_set_by_the_service_s_where_they_differ_for_sure() {
        for (dated, here, told) in [
            (1_000_000, 1_000_000, 0),
            (1_000_000, 1_002_000, 0),
            (1_000_000, 999_600, 0),
            (1_000_000, 1_010_000, -9_500),
            (1_000_000, 940_000, 60_500),
        ] {
            assert_eq!(ahead(dated, here), told, "{dated} {here}");
        }
        let clock = Clock::default();
        assert!(!clock.is_known());
        clock.learn(here() / 1000 - 3600);
        assert!(clock.is_known() && clock.now() < here() - 3_590_000, "{clock:?}");
    }
}
