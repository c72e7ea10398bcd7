//! What goes over the wire.

use testbed::memcached::Memcached;
use testbed::suite::{Case, case};

use crate::worker::{id, read};
use crate::{MEMCACHED, store};

pub(crate) fn cases() -> Vec<Case> {
    vec![case("a_session_that_nobody_stored_is_none", MEMCACHED, a_session_that_nobody_stored_is_none)]
}

fn a_session_that_nobody_stored_is_none() {
    let memcached = Memcached::start();
    let mut store = store(&format!("memcached://{}", memcached.address()));
    assert_eq!(read(store.as_mut(), &id("abc")), None);
    assert_eq!(store.counters().exchanges, 1);
}
