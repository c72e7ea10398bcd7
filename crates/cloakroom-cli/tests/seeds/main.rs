//! Set-ups that articles describe, built with real engines: a visitor's counter goes up over three servers, whose
//! php.ini is what `cloakroom ini` wrote, with our extension and with the native one.
// A test stops at the first thing that is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cloud_foundry;
mod heroku;
mod lamp;
mod setup;

fn main() {
    testbed::suite::run(
        [heroku::cases(), lamp::cases(), cloud_foundry::cases()].into_iter().flatten().collect(),
    )
}
