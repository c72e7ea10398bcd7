//! Records that are old: the one place where a case waits for a clock.

use std::time::{Duration, Instant};

use cloakroom::{Access, Change, Settings, Store, Unknown};
use testbed::wait_until;

use crate::worker::{id, lock, patient, read, soon};
use crate::{Subject, behaviours};

behaviours![an_expired_session_is_unknown, touching_a_session_prolongs_its_life];

/// Memcached may end a record a second early.
const SHORT: Duration = Duration::from_secs(3);
/// Until then, it is there for sure.
const YOUNG: Duration = Duration::from_secs(2);

fn short() -> Settings {
    Settings { lifetime: SHORT, ..patient() }
}

fn an_expired_session_is_unknown(subject: &dyn Subject) {
    let mut store = subject.worker_with(short());
    wait_until("the record is seen while it is young", Duration::from_secs(60), || {
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        let start = Instant::now();
        store.commit(&id("abc"), hold, Change::Write(b"n|i:1;", SHORT), soon()).unwrap();
        let seen = read(store.as_mut(), &id("abc")).is_some();
        let young = start.elapsed() < YOUNG;
        assert!(seen || !young, "gone after {:?}", start.elapsed());
        young
    });
    wait_until("the record expires", Duration::from_secs(20), || read(store.as_mut(), &id("abc")).is_none());
    assert!(!store.exists(&id("abc"), soon()).unwrap());
    let refuse = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Refuse };
    assert_eq!(store.open(&id("abc"), refuse, soon()).unwrap().record, None);
    assert_eq!(lock(store.as_mut(), &id("abc")).0, None);
}

fn touching_a_session_prolongs_its_life(subject: &dyn Subject) {
    let mut store = subject.worker_with(short());
    // On a machine that stood still for longer than the record lives, once more.
    wait_until("it was touched in time", Duration::from_secs(60), || is_prolonged(store.as_mut()));
}

/// Whether touching kept the record; the answer is false when a touch came too late to tell.
fn is_prolonged(store: &mut dyn Store) -> bool {
    let (_, hold) = lock(store, &id("abc"));
    let start = Instant::now();
    let mut touched = start;
    store.commit(&id("abc"), hold, Change::Write(b"n|i:1;", SHORT), soon()).unwrap();
    // Both clocks may round up by a second.
    while start.elapsed() < 2 * SHORT + Duration::from_secs(1) {
        let (record, hold) = lock(store, &id("abc"));
        let now = Instant::now();
        store.commit(&id("abc"), hold, Change::Touch(b"n|i:1;", SHORT), soon()).unwrap();
        if touched.elapsed() >= YOUNG {
            return false;
        }
        assert_eq!(record.unwrap(), b"n|i:1;", "after {:?}", start.elapsed());
        touched = now;
        std::thread::sleep(SHORT / 20);
    }
    true
}
