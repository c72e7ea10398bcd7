//! `cloakroom doctor` before broken set-ups: trees of files as PHP has them, and real servers; the whole output.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod dynamodb;
mod files;
mod overrides;
mod places;
mod stores;
mod tree;

fn main() {
    let mut cases = dynamodb::cases();
    cases.extend(files::cases());
    cases.extend(overrides::cases());
    cases.extend(places::cases());
    cases.extend(stores::cases());
    testbed::suite::run(cases);
}
