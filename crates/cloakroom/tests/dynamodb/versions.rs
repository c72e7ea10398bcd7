//! Writing what nobody has changed since it was read.

use cloakroom::{Access, Change, Committed, ErrorKind, Outcome, Record, Store};
use serde_json::json;
use testbed::dynamodb::{Fault, Proxy};
use testbed::suite::Case;

use crate::worker::{LIFETIME, id, lock, put, read, soon};
use crate::{Sessions, both, key, now, quick, store};

pub(crate) fn cases() -> Vec<Case> {
    [
        both("every_kind_of_record_is_written_as_long_as_it_is_the_same", unchanged),
        both("a_record_that_became_another_is_a_conflict", changed),
        both("a_session_that_somebody_has_alone_is_a_conflict", locked),
    ]
    .into_iter()
    .flatten()
    .chain([quick("a_version_overtaken_after_a_cut_is_unknown", overtaken)])
    .collect()
}

/// The records that there are: none, an expired one, an empty one, text and bytes.
fn kinds(sessions: &Sessions) -> Vec<(&'static str, Option<&'static [u8]>)> {
    let mut store = sessions.worker();
    put(store.as_mut(), &id("text"), b"n|i:1;");
    put(store.as_mut(), &id("bytes"), b"\xff\xfe");
    let expires = |at: i64| json!({"N": at.to_string()});
    let table = &sessions.table;
    table.put(json!({"id": {"S": key("empty")}, "expires": expires(now() + 1440)}));
    table.put(json!({"id": {"S": key("expired")}, "data": {"S": "n|i:7;"}, "expires": expires(now() - 60)}));
    table.put(json!({"id": {"S": key("endless")}, "data": {"S": "n|i:1;"}}));
    vec![
        ("none", None),
        ("expired", None),
        ("empty", Some(b"")),
        ("text", Some(b"n|i:1;")),
        ("bytes", Some(b"\xff\xfe")),
        ("endless", Some(b"n|i:1;")),
    ]
}

fn versioned(store: &mut dyn Store, session: &str) -> (Option<Vec<u8>>, cloakroom::Hold) {
    let opened = store.open(&id(session), Access::Versioned, soon()).unwrap();
    (opened.record.map(|record| record.0), opened.hold)
}

fn unchanged(sessions: &Sessions) {
    let mut store = sessions.worker();
    let changes = [
        Change::Keep,
        Change::Touch(b"n|i:3;", LIFETIME),
        Change::Delete,
        Change::Write(b"n|i:2;", LIFETIME),
    ];
    for change in changes {
        for (session, bytes) in kinds(sessions) {
            let (record, hold) = versioned(store.as_mut(), session);
            assert_eq!(record.as_deref(), bytes, "{session}");
            let done = store.commit(&id(session), hold, change, soon()).unwrap();
            assert_eq!(done, Committed::Done, "{change:?} of {session}");
            let left = match change {
                Change::Keep => bytes,
                Change::Delete => None,
                // Only what is there can be touched.
                Change::Touch(bytes, _) => Some(read_or(session, bytes)),
                Change::Write(bytes, _) => Some(bytes),
            };
            assert_eq!(read(store.as_mut(), &id(session)).as_deref(), left, "{change:?} of {session}");
            sessions.table.delete(&key(session));
        }
    }
}

fn read_or(session: &str, bytes: &'static [u8]) -> &'static [u8] {
    match session {
        "none" | "expired" => bytes,
        "empty" => b"",
        "bytes" => b"\xff\xfe",
        _ => b"n|i:1;",
    }
}

fn changed(sessions: &Sessions) {
    let (mut store, mut other) = (sessions.worker(), sessions.worker());
    for change in [Change::Write(b"n|i:9;", LIFETIME), Change::Touch(b"n|i:1;", LIFETIME), Change::Delete] {
        for (session, _) in kinds(sessions) {
            if (session, change) == ("none", Change::Delete)
                || (session, change) == ("expired", Change::Delete)
            {
                // There is nothing that another could have changed.
                continue;
            }
            let (_, hold) = versioned(store.as_mut(), session);
            put(other.as_mut(), &id(session), b"n|i:5;");
            let done = store.commit(&id(session), hold, change, soon()).unwrap();
            let there = Committed::Conflict(Some(Record(b"n|i:5;".to_vec())));
            assert_eq!(done, there, "{change:?} of {session}");
            assert_eq!(read(store.as_mut(), &id(session)).unwrap(), b"n|i:5;");
            sessions.table.delete(&key(session));
        }
    }
    put(other.as_mut(), &id("abc"), b"n|i:1;");
    // Two who count one on: one of them has not been counted.
    let (_, hold) = versioned(store.as_mut(), "abc");
    put(other.as_mut(), &id("abc"), b"n|i:2;");
    let done = store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(done, Committed::Conflict(Some(Record(b"n|i:2;".to_vec()))));
    let (_, hold) = versioned(store.as_mut(), "abc");
    sessions.table.delete(&key("abc"));
    let done = store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(done, Committed::Conflict(None));
    assert_eq!(sessions.table.get(&key("abc")), None);
}

/// It was written, the answer was lost, and another worker changes the session before that is found out: no mere conflict.
fn overtaken(sessions: &Sessions) {
    let proxy = Proxy::to(sessions.engine);
    let mut worker = sessions.worker_behind(&proxy);
    put(worker.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = versioned(worker.as_mut(), "abc");
    let (direct, mut attempts) = (sessions.save_path.clone(), 0);
    proxy.decide(move |seen| {
        attempts += usize::from(seen.operation == "UpdateItem");
        if attempts == 2 {
            put(store(&direct).as_mut(), &id("abc"), b"n|i:3;");
        }
        if attempts == 1 { Fault::CutAfter } else { Fault::None }
    });
    let error = worker.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::Unknown), "{error}");
    assert_eq!(read(worker.as_mut(), &id("abc")).unwrap(), b"n|i:3;");
}

fn locked(sessions: &Sessions) {
    let (mut store, mut other) = (sessions.worker(), sessions.worker());
    put(other.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = versioned(store.as_mut(), "abc");
    let (_, _held) = lock(other.as_mut(), &id("abc"));
    let done = store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(done, Committed::Conflict(Some(Record(b"n|i:1;".to_vec()))));
    // Its worker died, and its lease is over.
    let past = json!({":past": {"N": ((now() - 60) * 1000).to_string()}});
    sessions.table.update(&key("abc"), "SET lock_until = :past", past);
    let (_, hold) = versioned(store.as_mut(), "abc");
    let done = store.commit(&id("abc"), hold, Change::Write(b"n|i:3;", LIFETIME), soon()).unwrap();
    assert_eq!(done, Committed::Done);
    let item = sessions.table.get(&key("abc")).unwrap();
    assert_eq!(item.as_object().unwrap().len(), 3, "{item}");
}
