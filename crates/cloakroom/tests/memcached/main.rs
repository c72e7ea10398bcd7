//! The Memcached store where it differs from the others: on the wire, beside php-memcached, on a ring, and when a server or
//! the network fails.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../documented/mod.rs"]
mod documented;
mod inspect;
mod options;
mod pools;
mod ring;
mod wire;
#[path = "../worker/mod.rs"]
mod worker;

use testbed::need::Need;

const MEMCACHED: &[Need] = &[Need::Memcached];

fn main() {
    worker::become_worker();
    let cases = [wire::cases(), inspect::cases(), options::cases(), pools::cases(), ring::cases()];
    testbed::suite::run(cases.into_iter().flatten().collect())
}
