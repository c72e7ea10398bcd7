//! Ids that try to be something else.

use cloakroom::{Change, ErrorKind, SessionId};

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, lock_at_once, put, read, soon};
use crate::{Subject, behaviours};

behaviours![
    hostile_ids_never_reach_a_store,
    ids_that_look_alike_are_different_sessions,
    the_longest_id_works_or_is_refused,
];

fn hostile_ids_never_reach_a_store(subject: &dyn Subject) {
    let long = "x".repeat(300);
    for hostile in [
        "",
        ".",
        "../../etc/passwd",
        "a/b",
        "a\0b",
        "a\r\nFLUSHALL",
        "a b",
        "a%00",
        "{a}",
        "abc_LOCK",
        "é",
        &long,
    ] {
        let error = SessionId::parse(hostile.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{hostile:?}");
    }
    assert!(subject.is_empty());
}

fn ids_that_look_alike_are_different_sessions(subject: &dyn Subject) {
    let mut store = subject.worker();
    let mut other = subject.worker();
    let alike = ["abc", "ABC", "abc-", "abc,", "abc,lock", "abc-LOCK", "abcabc", "aab", "--abc", ",,lock"];
    for session in alike {
        put(store.as_mut(), &id(session), session.as_bytes());
    }
    let held: Vec<_> = alike.map(|session| lock_at_once(store.as_mut(), &id(session))).into();
    for (session, (record, hold)) in alike.into_iter().zip(held) {
        assert_eq!(record.unwrap(), session.as_bytes());
        store.commit(&id(session), hold, Change::Delete, soon()).unwrap();
        assert_eq!(read(other.as_mut(), &id(session)), None, "{session}");
    }
}

fn the_longest_id_works_or_is_refused(subject: &dyn Subject) {
    let mut store = subject.worker();
    let longest = id(&"x".repeat(SessionId::MAX_LENGTH));
    match store.open(&longest, EXCLUSIVE, soon()) {
        Ok(opened) => {
            store.commit(&longest, opened.hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
            assert_eq!(lock(store.as_mut(), &longest).0.unwrap(), b"n|i:1;");
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            assert!(subject.is_empty());
        }
    }
}
