//! Fleets under load: eight workers that read, change and regenerate forty sessions at random, and tell each change that
//! was acknowledged: no warning up to the close. For `SOAK` seconds, 4 unless given; the random numbers follow `SEED`.
// A test stops at the first thing that is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod dynamodb;
mod journal;
mod memcached;
#[path = "../place/mod.rs"]
mod place;
mod redis;

fn main() {
    let cases = [redis::cases(), memcached::cases(), dynamodb::cases()];
    testbed::suite::run(cases.into_iter().flatten().collect())
}
