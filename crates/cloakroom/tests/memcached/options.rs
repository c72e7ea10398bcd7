//! What `docs/memcached.md` says of options is so.

use cloakroom::stores::memcached::OPTIONS;
use testbed::suite::{Case, case};

use crate::documented;

pub(crate) fn cases() -> Vec<Case> {
    vec![case(
        "the_options_of_the_docs_are_those_of_the_code",
        &[],
        the_options_of_the_docs_are_those_of_the_code,
    )]
}

fn the_options_of_the_docs_are_those_of_the_code() {
    documented::options("memcached", OPTIONS);
}
