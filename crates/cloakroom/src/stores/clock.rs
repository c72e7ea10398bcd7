//! How far a server's clock is from this host's.

use std::time::{SystemTime, UNIX_EPOCH};

/// From here on it is said, in seconds: Memcached's clock alone may be a second late, and the answer takes its time.
const APART: u64 = 30;

pub(super) const CLOCK_HINT: &str = "set the clocks of both by NTP: lives of over 30 days are moments to Memcached, and logs are compared by time";

/// What is to be said of a server where it is `then`, in seconds since 1970.
pub(super) fn clock_skew(then: u64) -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let apart = now.abs_diff(then);
    let direction = if now > then { "behind" } else { "ahead of" };
    (apart > APART).then(|| format!("the server's clock is {apart} seconds {direction} this host's"))
}
