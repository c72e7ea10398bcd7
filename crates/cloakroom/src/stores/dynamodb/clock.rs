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

    /// An answer came that is dated so, in seconds since 1970, to a request that was sent so long ago.
    pub(super) fn learn(&self, dated: u64, took: Duration) {
        let known = self.ahead.load(Ordering::Relaxed);
        let took = i64::try_from(took.as_millis()).unwrap_or(i64::MAX / 4);
        let dated = dated.saturating_mul(1000).cast_signed();
        self.ahead.store(ahead(known, dated, here().cast_signed(), took), Ordering::Relaxed);
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

/// The answer was dated at some moment of that second, between the request and now. What is known changes no further than
/// that asks for: an answer that was long on its way says little.
fn ahead(known: i64, dated: i64, here: i64, took: i64) -> i64 {
    let (least, most) = (dated - here, dated + 1000 - (here - took));
    known.clamp(least, most.max(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_set_by_the_service_s_where_they_differ_for_sure() {
        for (known, dated, here, took, told) in [
            (0, 1_000_000, 1_000_000, 5, 0),
            (0, 1_000_000, 1_000_999, 5, 0),
            // It took so long that nothing can be said.
            (0, 1_000_000, 1_010_000, 9_500, 0),
            (60_000, 1_000_000, 950_000, 20_000, 60_000),
            (0, 1_000_000, 1_010_000, 10, -8_990),
            (0, 1_000_000, 940_000, 0, 60_000),
            (60_000, 1_000_000, 940_300, 20, 60_000),
            // One more answer says it better.
            (60_000, 1_001_000, 940_700, 20, 60_300),
            (0, 1_000_000, 1_001_002, 1, -1),
        ] {
            assert_eq!(ahead(known, dated, here, took), told, "{known} {dated} {here} {took}");
        }
        let clock = Clock::default();
        assert!(!clock.is_known());
        clock.learn(here() / 1000 - 3600, Duration::ZERO);
        assert!(clock.is_known() && clock.now() < here() - 3_590_000, "{clock:?}");
    }
}
