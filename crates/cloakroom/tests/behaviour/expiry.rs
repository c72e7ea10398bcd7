//! Records that are old: the one place where a case waits for a clock.

use std::time::{Duration, Instant};

use cloakroom::{Access, Change, Settings, Unknown};
use testbed::wait_until;

use crate::worker::{id, lock, read, soon};
use crate::{Subject, behaviours};

behaviours![an_expired_session_is_unknown, touching_a_session_prolongs_its_life];

/// Memcached may end a record a second early.
const SHORT: Duration = Duration::from_secs(3);

fn short() -> Settings {
    Settings { lifetime: SHORT, ..Settings::default() }
}

fn an_expired_session_is_unknown(subject: &dyn Subject) {
    let mut store = subject.worker_with(short());
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    store.commit(&id("abc"), hold, Change::Write(b"n|i:1;", SHORT), soon()).unwrap();
    assert!(read(store.as_mut(), &id("abc")).is_some());
    wait_until("the record expires", Duration::from_secs(20), || read(store.as_mut(), &id("abc")).is_none());
    assert!(!store.exists(&id("abc"), soon()).unwrap());
    let refuse = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Refuse };
    assert_eq!(store.open(&id("abc"), refuse, soon()).unwrap().record, None);
    assert_eq!(lock(store.as_mut(), &id("abc")).0, None);
}

fn touching_a_session_prolongs_its_life(subject: &dyn Subject) {
    let mut store = subject.worker_with(short());
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    store.commit(&id("abc"), hold, Change::Write(b"n|i:1;", SHORT), soon()).unwrap();
    let start = Instant::now();
    // Both clocks may round up by a second.
    while start.elapsed() < 2 * SHORT + Duration::from_secs(1) {
        let (record, hold) = lock(store.as_mut(), &id("abc"));
        assert_eq!(record.unwrap(), b"n|i:1;", "after {:?}", start.elapsed());
        store.commit(&id("abc"), hold, Change::Touch(b"n|i:1;", SHORT), soon()).unwrap();
        std::thread::sleep(SHORT / 20);
    }
}
