//! The Redis store where it differs from the others: on the wire, beside phpredis, and when the server or the network
//! fails.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;
mod docs;
#[path = "../documented/mod.rs"]
mod documented;
mod faults;
mod looking;
mod native;
mod pools;
mod queue;
mod refusals;
mod sentinel;
mod tls;
mod unlocked;
mod wire;
#[path = "../worker/mod.rs"]
mod worker;

use std::time::{Duration, Instant};

use cloakroom::{Error, ErrorKind, Settings, Store};
use testbed::need::Need;
use testbed::redis::Redis;

/// How long something may take that happens at once on an idle machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A lease that no case outlives.
const LONG: Duration = Duration::from_secs(600);

const REDIS: &[Need] = &[Need::Redis];

fn main() {
    worker::become_worker();
    let cases = [
        wire::cases(),
        queue::cases(),
        faults::cases(),
        looking::cases(),
        refusals::cases(),
        native::cases(),
        pools::cases(),
        tls::cases(),
        sentinel::cases(),
        cluster::cases(),
        docs::cases(),
        unlocked::cases(),
    ];
    testbed::suite::run(cases.into_iter().flatten().collect())
}

/// The key of a session.
fn key(session: &str) -> String {
    format!("PHPREDIS_SESSION:{session}")
}

fn lock_key(session: &str) -> String {
    format!("{}_LOCK", key(session))
}

/// A new worker's store, with time for a machine that is busy.
fn store(save_path: &str) -> Box<dyn Store> {
    worker::store_with(save_path, worker::patient())
}

/// A store with this lease.
fn leased(save_path: &str, lease: Duration) -> Box<dyn Store> {
    worker::store_with(save_path, Settings { lease, ..worker::patient() })
}

/// Asserts that a key was given this life since then, by what is left of it.
#[track_caller]
fn lives(redis: &Redis, key: &str, since: Instant, life: Duration) {
    let left: i64 = redis.command(&["PTTL", key]).parse().unwrap();
    assert_ne!(left, -1, "{key} lives for ever");
    // Nothing is left of what is gone.
    let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
    let passed = since.elapsed() + Duration::from_millis(2);
    assert!(left <= life && left + passed >= life, "{key} has {left:?} left of {life:?} after {passed:?}");
}

/// What a server says that takes nobody in. In the last moments before a deadline, a busy machine answers nothing: then
/// it is asked again.
fn told(mut asked: impl FnMut() -> Error) -> Error {
    let mut error = asked();
    for _ in 0..20 {
        if error.kind() != ErrorKind::Timeout {
            break;
        }
        error = asked();
    }
    error
}

/// How many wait for this session.
fn waiters(redis: &Redis, session: &str) -> usize {
    redis.command(&["LLEN", &format!("{}_QUEUE", lock_key(session))]).parse().unwrap()
}
