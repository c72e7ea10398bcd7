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

use std::time::Duration;

use cloakroom::{Settings, Store};
use testbed::need::Need;
use testbed::redis::Redis;

/// How long something may take that happens at once on an idle machine.
const LIMIT: Duration = Duration::from_secs(30);

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

/// A store with this lease.
fn leased(save_path: &str, lease: Duration) -> Box<dyn Store> {
    worker::store_with(save_path, Settings { lease, ..Settings::default() })
}

/// How many wait for this session.
fn waiters(redis: &Redis, session: &str) -> usize {
    redis.command(&["LLEN", &format!("{}_QUEUE", lock_key(session))]).parse().unwrap()
}
