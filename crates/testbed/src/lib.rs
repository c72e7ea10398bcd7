//! Real engines, a PHP-FPM fleet, a load balancer and a fault proxy, on free loopback ports and in temporary
//! directories; everything is stopped by its pid when dropped, and when the process that started it dies.

pub mod cluster;
pub mod dynamodb;
pub mod fleet;
pub mod http;
pub mod memcached;
pub mod need;
pub mod php;
mod place;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod sentinel;
#[cfg(feature = "suite")]
pub mod suite;
pub mod twemproxy;
pub mod uml;
mod watchdog;

use std::time::{Duration, Instant};

pub use place::{TempDir, free_port};

/// Waits until `reached` answers true; panics with `what` when it does not within `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(200);
    while !reached() {
        assert!(Instant::now() < end, "waited {limit:?} in vain: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// How long an engine may take to start on a loaded machine.
pub(crate) const START: Duration = Duration::from_secs(30);
