//! A store does what its guarantees say, and answers `Unsupported` where they say that it cannot.

use std::collections::BTreeSet;
use std::time::Duration;

use cloakroom::{Access, Change, Committed, ErrorKind, Guarantees, Record, Settings, Sweeping};
use testbed::wait_until;

use crate::worker::{LIFETIME, id, lock, put, read, soon};
use crate::{Subject, behaviours};

behaviours![
    listing_names_every_session_once unless not_listed,
    listing_ends_when_it_was_enough unless not_listed,
    a_store_that_cannot_list_says_so unless |offered| offered.listing.then_some("it can list"),
    sweeping_removes_what_expired_and_nothing_else unless not_swept,
    sweeping_spares_what_is_locked unless not_swept,
    a_store_that_needs_no_sweep_says_so unless |offered| {
        (offered.sweeping == Sweeping::Needed).then_some("it needs to be swept")
    },
    a_changed_record_is_a_conflict unless |offered| (!offered.versions).then_some("no versions"),
    a_store_without_versions_says_so unless |offered| offered.versions.then_some("it counts versions"),
    the_guarantees_need_no_connection,
];

fn not_listed(offered: &Guarantees) -> Option<&'static str> {
    (!offered.listing).then_some("no listing")
}

fn not_swept(offered: &Guarantees) -> Option<&'static str> {
    (offered.sweeping != Sweeping::Needed).then_some("the engine removes what expired")
}

fn listing_names_every_session_once(subject: &dyn Subject) {
    let mut store = subject.worker();
    let ids: BTreeSet<String> = (100..250).map(|number| format!("ab{number}")).collect();
    for session in &ids {
        put(store.as_mut(), &id(session), b"n|i:1;");
    }
    let (_, hold) = lock(store.as_mut(), &id("ab100"));
    let mut listed = Vec::new();
    store
        .list(
            &mut |id| {
                listed.push(id.as_str().to_owned());
                true
            },
            soon(),
        )
        .unwrap();
    assert_eq!(listed.len(), ids.len());
    assert_eq!(BTreeSet::from_iter(listed), ids);
    store.commit(&id("ab100"), hold, Change::Keep, soon()).unwrap();
}

fn listing_ends_when_it_was_enough(subject: &dyn Subject) {
    let mut store = subject.worker();
    for session in ["ab1", "ab2", "ab3"] {
        put(store.as_mut(), &id(session), b"n|i:1;");
    }
    let mut listed = 0;
    let mut two = |_| {
        listed += 1;
        listed < 2
    };
    store.list(&mut two, soon()).unwrap();
    assert_eq!(listed, 2);
}

fn a_store_that_cannot_list_says_so(subject: &dyn Subject) {
    let error = subject.worker().list(&mut |_| true, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// Short, so that a record is soon old enough for the sweep.
const YOUNG: Duration = Duration::from_secs(1);

fn sweeping_removes_what_expired_and_nothing_else(subject: &dyn Subject) {
    let mut store = subject.worker();
    put(store.as_mut(), &id("ab1"), b"n|i:1;");
    put(store.as_mut(), &id("ab2"), b"n|i:2;");
    assert_eq!(store.sweep(LIFETIME, soon()).unwrap(), 0);
    let mut removed = 0;
    wait_until("the records are old enough", Duration::from_secs(20), || {
        removed += store.sweep(YOUNG, soon()).unwrap();
        removed == 2
    });
    assert!(subject.is_empty());
    put(store.as_mut(), &id("ab3"), b"n|i:3;");
    assert_eq!(store.sweep(LIFETIME, soon()).unwrap(), 0);
    assert_eq!(read(store.as_mut(), &id("ab3")).unwrap(), b"n|i:3;");
}

fn sweeping_spares_what_is_locked(subject: &dyn Subject) {
    let (mut store, mut holder) = (subject.worker(), subject.worker());
    put(store.as_mut(), &id("ab1"), b"n|i:1;");
    put(store.as_mut(), &id("ab2"), b"n|i:2;");
    let (_, hold) = lock(holder.as_mut(), &id("ab1"));
    // The other one shows when both are old enough.
    wait_until("a record is swept", Duration::from_secs(20), || store.sweep(YOUNG, soon()).unwrap() > 0);
    store.sweep(YOUNG, soon()).unwrap();
    holder.commit(&id("ab1"), hold, Change::Touch(b"n|i:1;", LIFETIME), soon()).unwrap();
    assert_eq!(read(store.as_mut(), &id("ab1")).unwrap(), b"n|i:1;");
    assert_eq!(read(store.as_mut(), &id("ab2")), None);
}

fn a_store_that_needs_no_sweep_says_so(subject: &dyn Subject) {
    let error = subject.worker().sweep(LIFETIME, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

fn a_changed_record_is_a_conflict(subject: &dyn Subject) {
    let (mut one, mut other) = (subject.worker(), subject.worker());
    put(one.as_mut(), &id("abc"), b"n|i:1;");
    let first = one.open(&id("abc"), Access::Versioned, soon()).unwrap();
    let second = other.open(&id("abc"), Access::Versioned, soon()).unwrap();
    let done = one.commit(&id("abc"), first.hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(done, Committed::Done);
    let refused = other.commit(&id("abc"), second.hold, Change::Write(b"n|i:7;", LIFETIME), soon()).unwrap();
    assert_eq!(refused, Committed::Conflict(Some(Record(b"n|i:2;".to_vec()))));
    assert_eq!(read(one.as_mut(), &id("abc")).unwrap(), b"n|i:2;");
    // Two who count one on: one of them has not been counted.
    let both = [&mut one, &mut other].map(|store| {
        let opened = store.open(&id("abc"), Access::Versioned, soon()).unwrap();
        (store, opened.hold)
    });
    let done = both.map(|(store, hold)| {
        store.commit(&id("abc"), hold, Change::Write(b"n|i:3;", LIFETIME), soon()).unwrap()
    });
    assert_eq!(done, [Committed::Done, Committed::Conflict(Some(Record(b"n|i:3;".to_vec())))]);
}

fn a_store_without_versions_says_so(subject: &dyn Subject) {
    let error = subject.worker().open(&id("abc"), Access::Versioned, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// `phpinfo()` shows them in a master that must not open anything.
fn the_guarantees_need_no_connection(subject: &dyn Subject) {
    let store = subject.worker_with(Settings::default());
    let told = store.guarantees();
    assert_eq!(store.counters(), cloakroom::Counters::default());
    assert_eq!(told, store.guarantees());
}
