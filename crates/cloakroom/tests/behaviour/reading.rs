//! What is read, and what reading must not do.

use std::time::Duration;

use cloakroom::{Access, Change, ErrorKind, Hold, Record, Unknown};
use testbed::wait_until;

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, put, read, soon};
use crate::{Subject, behaviours};

behaviours![
    an_unknown_session_is_read_as_none,
    every_byte_comes_back_as_it_was_written,
    a_megabyte_comes_back_as_it_was_written unless |offered| {
        offered.size_limit.is_some_and(|limit| limit < 1 << 20).then_some("a size limit below a megabyte")
    },
    another_worker_reads_what_was_written,
    a_session_exists_once_it_was_written,
    reading_read_only_takes_no_lock,
    reading_read_only_does_not_wait_for_a_lock,
    what_was_opened_read_only_cannot_be_changed,
    refusing_an_unknown_session_leaves_nothing,
    refusing_unknown_sessions_lets_known_ones_in,
];

fn an_unknown_session_is_read_as_none(subject: &dyn Subject) {
    let mut store = subject.worker();
    let id = id("abc");
    assert!(!store.exists(&id, soon()).unwrap());
    for access in [Access::ReadOnly, Access::Unlocked, EXCLUSIVE] {
        let opened = store.open(&id, access, soon()).unwrap();
        assert_eq!(opened.record, None, "{access:?}");
        assert!(
            match access {
                Access::ReadOnly => matches!(opened.hold, Hold::ReadOnly),
                Access::Unlocked => matches!(opened.hold, Hold::Unlocked(_)),
                _ => matches!(opened.hold, Hold::Lease(_)),
            },
            "{access:?} gave {:?}",
            opened.hold
        );
        store.commit(&id, opened.hold, Change::Keep, soon()).unwrap();
    }
}

fn every_byte_comes_back_as_it_was_written(subject: &dyn Subject) {
    let mut store = subject.worker();
    let bytes: Vec<u8> = (0..=255).collect();
    let backwards: Vec<u8> = (0..=255).rev().collect();
    // Longer, shorter, the same length, nothing, and something again.
    for written in [&bytes[..], &bytes[..7], &backwards[..7], b"", b"\r\n", &backwards] {
        put(store.as_mut(), &id("abc"), written);
        assert_eq!(read(store.as_mut(), &id("abc")).as_deref(), Some(written), "without the lock");
        let (record, hold) = lock(store.as_mut(), &id("abc"));
        assert_eq!(record.as_deref(), Some(written), "with the lock");
        store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    }
}

fn a_megabyte_comes_back_as_it_was_written(subject: &dyn Subject) {
    let mut store = subject.worker();
    let bytes: Vec<u8> = (0..1 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    put(store.as_mut(), &id("abc"), &bytes);
    assert!(lock(store.as_mut(), &id("abc")).0 == Some(bytes), "another megabyte came back");
}

fn another_worker_reads_what_was_written(subject: &dyn Subject) {
    let (mut one, mut other) = (subject.worker(), subject.worker());
    put(one.as_mut(), &id("abc"), b"n|i:1;");
    put(other.as_mut(), &id("abc"), b"n|i:2;");
    assert_eq!(read(one.as_mut(), &id("abc")).unwrap(), b"n|i:2;");
}

fn a_session_exists_once_it_was_written(subject: &dyn Subject) {
    let (mut one, mut other) = (subject.worker(), subject.worker());
    put(one.as_mut(), &id("abc"), b"n|i:1;");
    assert!(other.exists(&id("abc"), soon()).unwrap());
    assert!(!other.exists(&id("abd"), soon()).unwrap());
    // Asking does not wait for a lock.
    let (_, hold) = lock(one.as_mut(), &id("abc"));
    assert!(other.exists(&id("abc"), soon()).unwrap());
    one.commit(&id("abc"), hold, Change::Delete, soon()).unwrap();
    assert!(!other.exists(&id("abc"), soon()).unwrap());
}

fn reading_read_only_takes_no_lock(subject: &dyn Subject) {
    let (mut reader, mut writer) = (subject.worker(), subject.worker());
    put(writer.as_mut(), &id("abc"), b"n|i:1;");
    let opened = reader.open(&id("abc"), Access::ReadOnly, soon()).unwrap();
    let at_once = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Lock };
    let alone = writer.open(&id("abc"), at_once, soon()).unwrap();
    writer.commit(&id("abc"), alone.hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    reader.commit(&id("abc"), opened.hold, Change::Keep, soon()).unwrap();
    assert_eq!(read(reader.as_mut(), &id("abc")).unwrap(), b"n|i:2;");
}

fn reading_read_only_does_not_wait_for_a_lock(subject: &dyn Subject) {
    let (mut reader, mut writer) = (subject.worker(), subject.worker());
    put(writer.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(writer.as_mut(), &id("abc"));
    for access in [Access::ReadOnly, Access::Unlocked] {
        let opened = reader.open(&id("abc"), access, soon()).unwrap();
        assert_eq!(opened.record, Some(Record(b"n|i:1;".to_vec())), "{access:?}");
        reader.commit(&id("abc"), opened.hold, Change::Keep, soon()).unwrap();
    }
    assert_eq!(reader.counters().waits, 0);
    writer.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
}

fn what_was_opened_read_only_cannot_be_changed(subject: &dyn Subject) {
    let mut store = subject.worker();
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    for change in [Change::Write(b"n|i:2;", LIFETIME), Change::Touch(b"n|i:1;", LIFETIME), Change::Delete] {
        let opened = store.open(&id("abc"), Access::ReadOnly, soon()).unwrap();
        let error = store.commit(&id("abc"), opened.hold, change, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bug, "{change:?}: {error}");
    }
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
}

fn refusing_an_unknown_session_leaves_nothing(subject: &dyn Subject) {
    let (mut one, mut other) = (subject.worker(), subject.worker());
    let refuse = Access::Exclusive { wait: Duration::from_secs(10), unknown: Unknown::Refuse };
    let opened = one.open(&id("abc"), refuse, soon()).unwrap();
    assert_eq!(opened.record, None);
    assert!(matches!(opened.hold, Hold::ReadOnly), "{:?}", opened.hold);
    assert!(opened.renewal.is_none());
    let keeps_nothing = "the store keeps nothing about an unknown id";
    // Nobody waits for a lock to be released on another server than the session's; its lease is longer.
    wait_until(keeps_nothing, Duration::from_secs(10), || subject.is_empty());
    // And nobody has to wait for it, even before the commit.
    let at_once = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Refuse };
    other.open(&id("abc"), at_once, soon()).unwrap();
    one.commit(&id("abc"), opened.hold, Change::Keep, soon()).unwrap();
    wait_until(keeps_nothing, Duration::from_secs(10), || subject.is_empty());
}

fn refusing_unknown_sessions_lets_known_ones_in(subject: &dyn Subject) {
    let (mut one, mut other) = (subject.worker(), subject.worker());
    put(one.as_mut(), &id("abc"), b"n|i:1;");
    let refuse = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Refuse };
    let opened = one.open(&id("abc"), refuse, soon()).unwrap();
    assert_eq!(opened.record, Some(Record(b"n|i:1;".to_vec())));
    let error = other.open(&id("abc"), refuse, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
    one.commit(&id("abc"), opened.hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(read(other.as_mut(), &id("abc")).unwrap(), b"n|i:2;");
}
