//! The Memcached store where it differs from the others: on the wire, beside php-memcached, on a ring, and when a server or
//! the network fails.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod apart;
mod cuts;
#[path = "../documented/mod.rs"]
mod documented;
mod fence;
mod inspect;
mod locks;
mod looking;
mod native;
mod options;
mod pools;
mod queue;
mod replicas;
mod ring;
mod three;
mod wire;
#[path = "../worker/mod.rs"]
mod worker;

use std::time::Duration;

use cloakroom::{Settings, Store};
use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::wait_until;

/// How long something may take that happens at once on an idle machine.
const LIMIT: Duration = Duration::from_secs(30);

const MEMCACHED: &[Need] = &[Need::Memcached];

fn main() {
    worker::become_worker();
    let cases = [
        wire::cases(),
        queue::cases(),
        apart::cases(),
        cuts::cases(),
        fence::cases(),
        locks::cases(),
        looking::cases(),
        native::cases(),
        inspect::cases(),
        options::cases(),
        pools::cases(),
        replicas::cases(),
        ring::cases(),
    ];
    testbed::suite::run(cases.into_iter().flatten().collect())
}

/// The key of a session.
fn key(session: &str) -> String {
    format!("memc.sess.key.{session}")
}

fn lock_key(session: &str) -> String {
    format!("memc.sess.key.lock.{session}")
}

/// Waits until the lock is free: who gives one back does not wait for that everywhere.
#[track_caller]
fn released(memcached: &Memcached, session: &str) {
    wait_until("the lock is free", LIMIT, || memcached.get(&lock_key(session)).is_none());
}

fn queue_key(session: &str) -> String {
    format!("memc.sess.key.wait.{session}")
}

/// The settings of a worker to whom a machine that stands still for seconds makes no difference. Its leases end after every wait
/// of a test: what is released is so because it was given back.
fn patient() -> Settings {
    Settings { timeout: LIMIT, connect_timeout: LIMIT, lease: 10 * LIMIT, ..Settings::default() }
}

/// A patient worker's store.
fn store(save_path: &str) -> Box<dyn Store> {
    worker::store_with(save_path, patient())
}

/// A store with this lease.
fn leased(save_path: &str, lease: Duration) -> Box<dyn Store> {
    worker::store_with(save_path, Settings { lease, ..patient() })
}

/// How many wait for this session.
fn waiters(memcached: &Memcached, session: &str) -> usize {
    memcached.get(&queue_key(session)).unwrap_or_default().len() / 16
}
