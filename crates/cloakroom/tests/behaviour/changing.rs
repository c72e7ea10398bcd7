//! What each change does.

use cloakroom::{Access, Change, Committed, LockKind};

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, lock_at_once, put, read, soon};
use crate::{Subject, behaviours};

behaviours![
    keeping_changes_nothing_and_releases,
    touching_leaves_the_record_and_releases,
    touching_an_evicted_record_writes_it_again,
    writing_an_evicted_record_writes_it_again,
    deleting_leaves_no_session,
    a_deleted_session_can_begin_anew,
    deleting_an_unknown_session_is_done,
    without_a_lock_the_last_writer_wins,
    without_a_lock_a_session_can_be_touched_and_deleted,
    a_request_costs_two_exchanges unless |offered| {
        (offered.lock == LockKind::Kernel).then_some("no exchange with an engine")
    },
];

fn keeping_changes_nothing_and_releases(subject: &dyn Subject) {
    let (mut one, mut other) = (subject.worker(), subject.worker());
    put(one.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(one.as_mut(), &id("abc"));
    let kept = one.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    assert_eq!(kept, Committed::Done);
    assert_eq!(lock_at_once(other.as_mut(), &id("abc")).0.unwrap(), b"n|i:1;");
}

fn touching_leaves_the_record_and_releases(subject: &dyn Subject) {
    let (mut one, mut other) = (subject.worker(), subject.worker());
    put(one.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(one.as_mut(), &id("abc"));
    let touched = one.commit(&id("abc"), hold, Change::Touch(b"n|i:1;", LIFETIME), soon()).unwrap();
    assert_eq!(touched, Committed::Done);
    assert_eq!(lock_at_once(other.as_mut(), &id("abc")).0.unwrap(), b"n|i:1;");
}

fn touching_an_evicted_record_writes_it_again(subject: &dyn Subject) {
    let (mut one, mut other) = (subject.worker(), subject.worker());
    put(one.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(one.as_mut(), &id("abc"));
    subject.evict(&id("abc"));
    let touched = one.commit(&id("abc"), hold, Change::Touch(b"n|i:1;", LIFETIME), soon()).unwrap();
    assert_eq!(touched, Committed::Rewritten);
    assert_eq!(lock_at_once(other.as_mut(), &id("abc")).0.unwrap(), b"n|i:1;");
}

fn writing_an_evicted_record_writes_it_again(subject: &dyn Subject) {
    let (mut one, mut other) = (subject.worker(), subject.worker());
    put(one.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(one.as_mut(), &id("abc"));
    subject.evict(&id("abc"));
    one.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(lock_at_once(other.as_mut(), &id("abc")).0.unwrap(), b"n|i:2;");
}

fn deleting_leaves_no_session(subject: &dyn Subject) {
    let (mut one, mut other) = (subject.worker(), subject.worker());
    put(one.as_mut(), &id("abc"), b"n|i:1;");
    put(one.as_mut(), &id("abd"), b"n|i:7;");
    let (_, hold) = lock(one.as_mut(), &id("abc"));
    one.commit(&id("abc"), hold, Change::Delete, soon()).unwrap();
    assert!(!other.exists(&id("abc"), soon()).unwrap());
    assert_eq!(read(other.as_mut(), &id("abc")), None);
    assert_eq!(read(other.as_mut(), &id("abd")).unwrap(), b"n|i:7;");
}

fn a_deleted_session_can_begin_anew(subject: &dyn Subject) {
    let mut store = subject.worker();
    for _ in 0..3 {
        put(store.as_mut(), &id("abc"), b"n|i:1;");
        let (_, hold) = lock_at_once(store.as_mut(), &id("abc"));
        store.commit(&id("abc"), hold, Change::Delete, soon()).unwrap();
        assert_eq!(read(store.as_mut(), &id("abc")), None);
    }
}

fn deleting_an_unknown_session_is_done(subject: &dyn Subject) {
    let (mut one, mut other) = (subject.worker(), subject.worker());
    let (_, hold) = lock(one.as_mut(), &id("abc"));
    assert_eq!(one.commit(&id("abc"), hold, Change::Delete, soon()).unwrap(), Committed::Done);
    assert_eq!(lock_at_once(other.as_mut(), &id("abc")).0, None);
}

/// What the lock is for: this is how an update gets lost.
fn without_a_lock_the_last_writer_wins(subject: &dyn Subject) {
    let (mut one, mut other) = (subject.worker(), subject.worker());
    put(one.as_mut(), &id("abc"), b"n|i:0;");
    let first = one.open(&id("abc"), Access::Unlocked, soon()).unwrap();
    let second = other.open(&id("abc"), Access::Unlocked, soon()).unwrap();
    assert_eq!(first.record, second.record);
    one.commit(&id("abc"), first.hold, Change::Write(b"a|i:1;", LIFETIME), soon()).unwrap();
    other.commit(&id("abc"), second.hold, Change::Write(b"b|i:1;", LIFETIME), soon()).unwrap();
    assert_eq!(read(one.as_mut(), &id("abc")).unwrap(), b"b|i:1;");
    assert_eq!((one.counters().waits, other.counters().waits), (0, 0));
}

fn without_a_lock_a_session_can_be_touched_and_deleted(subject: &dyn Subject) {
    let mut store = subject.worker();
    let mut unlocked = |change: Change<'_>| {
        let opened = store.open(&id("abc"), Access::Unlocked, soon()).unwrap();
        let done = store.commit(&id("abc"), opened.hold, change, soon()).unwrap();
        (done, read(store.as_mut(), &id("abc")))
    };
    let record = || Some(b"n|i:1;".to_vec());
    assert_eq!(unlocked(Change::Write(b"n|i:1;", LIFETIME)), (Committed::Done, record()));
    assert_eq!(unlocked(Change::Touch(b"n|i:1;", LIFETIME)), (Committed::Done, record()));
    assert_eq!(unlocked(Change::Keep), (Committed::Done, record()));
    assert_eq!(unlocked(Change::Delete), (Committed::Done, None));
    assert_eq!(unlocked(Change::Touch(b"n|i:1;", LIFETIME)), (Committed::Rewritten, record()));
}

fn a_request_costs_two_exchanges(subject: &dyn Subject) {
    let mut store = subject.worker();
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let mut cost = |access: Access, change: Change<'_>| {
        let before = store.counters().exchanges;
        let opened = store.open(&id("abc"), access, soon()).unwrap();
        store.commit(&id("abc"), opened.hold, change, soon()).unwrap();
        store.counters().exchanges - before
    };
    assert_eq!(cost(EXCLUSIVE, Change::Write(b"n|i:2;", LIFETIME)), 2, "changed");
    assert_eq!(cost(EXCLUSIVE, Change::Touch(b"n|i:2;", LIFETIME)), 2, "unchanged");
    assert_eq!(cost(EXCLUSIVE, Change::Keep), 2, "aborted");
    assert_eq!(cost(Access::ReadOnly, Change::Keep), 1, "read_and_close");
    assert_eq!(cost(Access::Unlocked, Change::Write(b"n|i:3;", LIFETIME)), 2, "without the lock");
    assert_eq!(cost(EXCLUSIVE, Change::Delete), 2, "destroyed");
}
