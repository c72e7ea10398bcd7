//! One total deadline for an operation, however many system calls it takes.

use std::time::{Duration, Instant};

use crate::{Error, ErrorKind, Result};

/// The moment by which an operation ends, done or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline this long from now.
    pub fn after(duration: Duration) -> Self {
        let now = Instant::now();
        // An absurdly long setting saturates at a year instead of overflowing the clock.
        Deadline(now.checked_add(duration).unwrap_or(now + Duration::from_secs(365 * 24 * 3600)))
    }

    /// The time left; zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The earlier of this deadline and one that long from now.
    #[must_use]
    pub fn within(self, duration: Duration) -> Self {
        self.min(Self::after(duration))
    }

    /// The time left.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] naming `what` once it has passed.
    pub fn check(self, what: &str) -> Result<Duration> {
        match self.remaining() {
            Duration::ZERO => Err(Error::new(ErrorKind::Timeout, format!("{what} took too long"))),
            left => Ok(left),
        }
    }
}
