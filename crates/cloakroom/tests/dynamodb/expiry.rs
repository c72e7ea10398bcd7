//! What DynamoDB deletes by itself, and what it does not: only AWS's own engine does.

use std::time::{Duration, Instant};

use cloakroom::{Change, Settings, Store};
use serde_json::json;
use testbed::dynamodb::Program;
use testbed::suite::{Case, case};
use testbed::wait_until;

use crate::worker::{LIFETIME, id, lock, read, soon};
use crate::{LIMIT, LOCAL, Sessions, key, now, patient, short};

pub(crate) fn cases() -> Vec<Case> {
    let name = "AWS's own engine: what_has_expired_is_deleted_and_what_is_locked_is_not";
    vec![case(name, LOCAL, || deleted(&Sessions::on(Program::Local)))]
}

/// One case, for the engine takes its time: it looks every ten seconds or so.
fn deleted(sessions: &Sessions) {
    sessions.table.expire_by("expires");
    let put = |session: &str, expires: i64| {
        let expires = json!({"N": expires.to_string()});
        sessions.table.put(json!({"id": {"S": key(session)}, "data": {"S": "n|i:1;"}, "expires": &expires}));
        expires
    };
    let mut store = sessions.worker_with(Settings { lease: 8 * LIMIT, ..patient() });
    // How long that takes which has to be done before anything expires.
    let begun = Instant::now();
    put("any", now() + 1440);
    lock(store.as_mut(), &id("any"));
    let busy = u32::try_from(begun.elapsed().as_secs()).unwrap();
    let soon_over = now() + 10 + i64::from(8 * busy);
    // Over before the engine looks, unless it is renewed.
    let lease = Duration::from_secs(6 + u64::from(4 * busy));
    let mut renewing = sessions.worker_with(Settings { lease, ..patient() });
    put("expires", soon_over);
    put("renewed", soon_over);
    let soon_over = put("locked", soon_over);
    let (record, hold) = lock(store.as_mut(), &id("locked"));
    assert_eq!(record.unwrap(), b"n|i:1;");
    let renewed = renewing.open(&id("renewed"), crate::worker::EXCLUSIVE, soon()).unwrap();
    let mut renew = renewed.renewal.unwrap().renew;
    // Its worker dies.
    lock(sessions.worker_with(short()).as_mut(), &id("begun"));
    // So does a waiter's.
    sessions.table.put(json!({
        "id": {"S": format!("{}_WAITING", key("waiting"))}, "expires": soon_over,
        "0123456789abcdef0123456789abcdef": {"N": "1"},
    }));
    let is_there = |key: &str| sessions.table.get(key).is_some();
    wait_until("what has expired is deleted", 6 * LIMIT, || {
        renew(soon()).unwrap();
        let waiting = format!("{}_WAITING", key("waiting"));
        !is_there(&key("expires")) && !is_there(&key("begun")) && !is_there(&waiting)
    });
    commit(store.as_mut(), "locked", hold);
    commit(renewing.as_mut(), "renewed", renewed.hold);
}

/// It is there, long after it would have expired.
fn commit(store: &mut dyn Store, session: &str, hold: cloakroom::Hold) {
    store.commit(&id(session), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(read(store, &id(session)).unwrap(), b"n|i:2;", "{session}");
}
