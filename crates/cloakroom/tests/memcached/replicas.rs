//! Copies of sessions on other servers.

use cloakroom::{Access, Change};
use testbed::suite::{Case, case};
use testbed::wait_until;

use crate::pools::{lock_and_keep, write};
use crate::three::Three;
use crate::worker::{LIFETIME, id, lock, put, read, soon};
use crate::{LIMIT, MEMCACHED, key, lock_key};

pub(crate) fn cases() -> Vec<Case> {
    let cases: &[(&str, fn())] = &[
        (
            "replicas: replicas have every write and no deleted session",
            replicas_have_every_write_and_no_deleted_session,
        ),
        (
            "replicas: a server that restarts empty gets its sessions back from replicas",
            a_server_that_restarts_empty_gets_its_sessions_back_from_replicas,
        ),
        (
            "replicas: a session that a replica missed the end of stays deleted",
            a_session_that_a_replica_missed_the_end_of_stays_deleted,
        ),
        (
            "replicas: replicas have a write before the lock is free",
            replicas_have_a_write_before_the_lock_is_free,
        ),
        (
            "replicas: a copy that missed a write is not taken for a newer record",
            a_copy_that_missed_a_write_is_not_taken_for_a_newer_record,
        ),
        ("replicas: without a lock replicas follow, too", without_a_lock_replicas_follow_too),
        (
            "replicas: with replicas a removed server takes no session along",
            with_replicas_a_removed_server_takes_no_session_along,
        ),
    ];
    cases.iter().map(|(name, run)| case(*name, MEMCACHED, *run)).collect()
}

fn replicas_have_every_write_and_no_deleted_session() {
    let three = Three::with("replicas=1&lock=own");
    let mut store = three.store();
    for session in (0..10).map(|number| format!("session{number}")) {
        put(store.as_mut(), &id(&session), b"n|i:1;");
        put(store.as_mut(), &id(&session), b"n|i:2;");
        let home = three.home(&session);
        let mut expected = vec![home, (home + 1) % 3];
        expected.sort_unstable();
        assert_eq!(three.having(&session), expected);
        assert!(expected.iter().all(|at| three.record(*at, &session).unwrap() == b"n|i:2;"));
        let (_, hold) = lock(store.as_mut(), &id(&session));
        store.commit(&id(&session), hold, Change::Delete, soon()).unwrap();
        assert_eq!(three.having(&session), [] as [usize; 0]);
    }
}

fn a_server_that_restarts_empty_gets_its_sessions_back_from_replicas() {
    let three = Three::with("replicas=1&lock=own");
    let mut store = three.store();
    let session = three.id_on(0);
    put(store.as_mut(), &id(&session), b"n|i:1;");
    three.servers[0].restart();
    assert!(store.exists(&id(&session), soon()).unwrap());
    assert_eq!(read(store.as_mut(), &id(&session)).unwrap(), b"n|i:1;");
    let (record, hold) = lock(store.as_mut(), &id(&session));
    let record = record.unwrap();
    store.commit(&id(&session), hold, Change::Touch(&record, LIFETIME), soon()).unwrap();
    assert_eq!(three.having(&session), [0, 1]);
    // Replicas that are away keep nobody from writing.
    three.servers[1].kill();
    put(store.as_mut(), &id(&session), b"n|i:2;");
    assert_eq!(three.record(0, &session).unwrap(), b"n|i:2;");
}

fn a_session_that_a_replica_missed_the_end_of_stays_deleted() {
    let three = Three::proxied("replicas=1&lock=own");
    let replica = &three.proxies[1];
    let sessions: Vec<String> =
        (0..1000).map(|number| format!("user{number}")).filter(|id| three.home(id) == 0).take(3).collect();
    for session in &sessions {
        put(three.store().as_mut(), &id(session), b"user|i:7;");
    }
    let mut store = three.hasty();
    replica.refuse(true);
    replica.cut_now();
    for (number, session) in sessions.iter().enumerate() {
        if number == 1 {
            // From here on it does not even refuse, and so is left alone for a while.
            replica.stall(true);
            replica.refuse(false);
        }
        let (_, hold) = lock(store.as_mut(), &id(session));
        store.commit(&id(session), hold, Change::Delete, soon()).unwrap();
    }
    replica.cut_now();
    replica.stall(false);
    for session in &sessions {
        assert_eq!(three.record(1, session).unwrap(), b"user|i:7;", "the copy is back");
        assert_eq!(read(three.store().as_mut(), &id(session)).unwrap_or_default(), b"");
    }
}

/// Where a replica is also who stands in for the session's server, what it has is newer only if it stood in.
fn a_copy_that_missed_a_write_is_not_taken_for_a_newer_record() {
    let three = Three::proxied("replicas=1&remove_failed_servers=1&lock=own");
    let ids = (0..1000).map(|number| format!("user{number}")).filter(|id| three.home(id) == 0);
    let sessions: Vec<String> = ids.take(8).collect();
    let all = |bytes: &[u8]| {
        let mut store = three.store();
        for session in &sessions {
            put(store.as_mut(), &id(session), bytes);
        }
    };
    let away = |at: usize, away: bool| {
        three.proxies[at].refuse(away);
        three.proxies[at].cut_now();
    };
    let expected = |bytes: &[u8]| {
        let mut store = three.store();
        for session in &sessions {
            assert_eq!(read(store.as_mut(), &id(session)).unwrap(), bytes, "{session}");
        }
    };
    all(b"n|i:1;");
    away(1, true);
    all(b"n|i:2;");
    away(1, false);
    expected(b"n|i:2;");
    away(0, true);
    all(b"n|i:3;");
    expected(b"n|i:3;");
    away(0, false);
    assert_eq!(three.record(0, &sessions[0]).unwrap(), b"n|i:2;", "the old record is back");
    expected(b"n|i:3;");
    all(b"n|i:4;");
    away(1, true);
    all(b"n|i:5;");
    away(1, false);
    expected(b"n|i:5;");
}

/// Or an older copy could overtake a newer one.
fn replicas_have_a_write_before_the_lock_is_free() {
    let three = Three::proxied("replicas=1&lock=own");
    let session = three.id_on(0);
    let both = format!("get {} {}\r\n", key(&session), lock_key(&session));
    let mut store = three.store();
    put(store.as_mut(), &id(&session), b"before");
    let (_, hold) = lock(store.as_mut(), &id(&session));
    three.proxies[1].stall(true);
    std::thread::scope(|scope| {
        scope.spawn(|| store.commit(&id(&session), hold, Change::Write(b"after", LIFETIME), soon()).unwrap());
        let mut shown = String::new();
        wait_until("the write is made", LIMIT, || {
            shown = three.servers[0].command(&both);
            shown.contains("after")
        });
        assert!(shown.contains("lock."), "the lock is released before the replica has the write");
        three.proxies[1].stall(false);
    });
    assert_eq!(three.record(1, &session).unwrap(), b"after");
}

fn without_a_lock_replicas_follow_too() {
    for access in [Access::Unlocked, Access::Versioned] {
        let three = Three::with("replicas=1");
        let (mut store, session) = (three.store(), three.id_on(0));
        let mut change = |change: Change<'_>| {
            let opened = store.open(&id(&session), access, soon()).unwrap();
            store.commit(&id(&session), opened.hold, change, soon()).unwrap();
        };
        change(Change::Write(b"n|i:1;", LIFETIME));
        change(Change::Write(b"n|i:2;", LIFETIME));
        assert_eq!(three.having(&session), [0, 1]);
        assert_eq!(three.record(1, &session).unwrap(), b"n|i:2;");
        change(Change::Delete);
        assert_eq!(three.having(&session), [] as [usize; 0]);
    }
}

fn with_replicas_a_removed_server_takes_no_session_along() {
    let three = Three::with("replicas=1&remove_failed_servers=1");
    let mut store = three.store();
    let sessions: Vec<String> = (0..30).map(|number| format!("session{number}")).collect();
    for session in &sessions {
        put(store.as_mut(), &id(session), session.as_bytes());
    }
    three.servers[2].kill();
    for store in [&mut store, &mut three.store()] {
        for session in &sessions {
            assert_eq!(read(store.as_mut(), &id(session)).unwrap(), session.as_bytes());
            write(store.as_mut(), session, session.as_bytes()).unwrap();
        }
    }
    three.servers[2].restart();
    for store in [&mut store, &mut three.store()] {
        for session in &sessions {
            assert_eq!(lock_and_keep(store.as_mut(), session).unwrap(), session.as_bytes());
            write(store.as_mut(), session, session.as_bytes()).unwrap();
        }
    }
    for session in &sessions {
        assert!(three.record(three.home(session), session).is_some(), "{session} is home again");
    }
}
