//! Servers of a ring that are killed, stopped, cut off or empty when they come back.

use std::collections::HashMap;
use std::time::Duration;

use cloakroom::{Access, Change, Deadline, ErrorKind, Store};
use testbed::suite::{Case, case};
use testbed::wait_until;

use crate::three::Three;
use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, put, read, soon};
use crate::{LIMIT, MEMCACHED, key, lock_key};

pub(crate) fn cases() -> Vec<Case> {
    let cases: &[(&str, fn())] = &[
        ("pools: a dead server concerns its sessions alone", a_dead_server_concerns_its_sessions_alone),
        ("pools: with lock=own a lock is where its session is", with_lock_own_a_lock_is_where_its_session_is),
        (
            "pools: others take the sessions of a server that is removed and give them back",
            others_take_the_sessions_of_a_server_that_is_removed_and_give_them_back,
        ),
        (
            "pools: a server that hung gives out nothing that is old",
            a_server_that_hung_gives_out_nothing_that_is_old,
        ),
        (
            "pools: a session that was deleted while its server hung stays deleted",
            a_session_that_was_deleted_while_its_server_hung_stays_deleted,
        ),
        (
            "pools: who has left a server out finds what others took back to it",
            who_has_left_a_server_out_finds_what_others_took_back_to_it,
        ),
        (
            "pools: a late writer is refused over a newer record, too",
            a_late_writer_is_refused_over_a_newer_record_too,
        ),
        (
            "pools: a late writer is refused where the newer record changed",
            a_late_writer_is_refused_where_the_newer_record_changed,
        ),
        (
            "pools: a cut at any step of taking a session home loses nothing that was acknowledged",
            a_cut_at_any_step_of_taking_a_session_home_loses_nothing_that_was_acknowledged,
        ),
        (
            "pools: without a lock a newer record stays where it is",
            without_a_lock_a_newer_record_stays_where_it_is,
        ),
        (
            "pools: without a lock a deleted session takes its old record along",
            without_a_lock_a_deleted_session_takes_its_old_record_along,
        ),
    ];
    cases.iter().map(|(name, run)| case(*name, MEMCACHED, *run)).collect()
}

pub(crate) fn write(store: &mut dyn Store, session: &str, bytes: &[u8]) -> cloakroom::Result<()> {
    let opened = store.open(&id(session), EXCLUSIVE, soon())?;
    store.commit(&id(session), opened.hold, Change::Write(bytes, LIFETIME), soon()).map(drop)
}

fn a_dead_server_concerns_its_sessions_alone() {
    let three = Three::with("lock=own");
    let sessions: Vec<String> = (0..3).map(|at| three.session_on(at, b"n|i:1;")).collect();
    let mut store = three.store();
    for session in &sessions {
        assert_eq!(read(store.as_mut(), &id(session)).unwrap(), b"n|i:1;");
    }
    three.servers[1].kill();
    for _ in 0..3 {
        for (at, session) in sessions.iter().enumerate() {
            let opened = store.open(&id(session), EXCLUSIVE, soon());
            let existing = store.exists(&id(session), soon());
            match at {
                1 => {
                    let error = opened.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
                    assert!(error.to_string().contains(&three.servers[1].address()), "{error}");
                    assert_eq!(existing.unwrap_err().kind(), ErrorKind::Unreachable);
                }
                _ => {
                    let opened = opened.unwrap();
                    assert_eq!(opened.record.unwrap().0, b"n|i:1;");
                    store.commit(&id(session), opened.hold, Change::Keep, soon()).unwrap();
                    assert!(existing.unwrap());
                }
            }
        }
    }
    three.servers[1].restart();
    put(store.as_mut(), &id(&sessions[1]), b"n|i:2;");
    assert_eq!(three.having(&sessions[1]), [1]);
}

fn with_lock_own_a_lock_is_where_its_session_is() {
    let three = Three::with("lock=own");
    let mut store = three.store();
    for session in (0..40).map(|number| format!("session{number}")) {
        put(store.as_mut(), &id(&session), b"n|i:1;");
        let (_, hold) = lock(store.as_mut(), &id(&session));
        assert_eq!(three.having(&format!("lock.{session}")), three.having(&session), "{session}");
        store.commit(&id(&session), hold, Change::Keep, soon()).unwrap();
    }
}

fn others_take_the_sessions_of_a_server_that_is_removed_and_give_them_back() {
    let three = Three::with("remove_failed_servers=1");
    let session = three.session_on(0, b"n|i:1;");
    let mut first = three.store();
    put(first.as_mut(), &id(&session), b"n|i:2;");
    three.servers[0].kill();
    assert_eq!(lock_and_keep(first.as_mut(), &session), None, "its memory is gone");
    put(first.as_mut(), &id(&session), b"n|i:3;");
    let mut second = three.store();
    assert_eq!(read(second.as_mut(), &id(&session)).unwrap(), b"n|i:3;");
    put(second.as_mut(), &id(&session), b"n|i:4;");
    assert_eq!(read(first.as_mut(), &id(&session)).unwrap(), b"n|i:4;");
    three.servers[0].restart();
    for store in [&mut first, &mut second, &mut three.store()] {
        assert!(store.exists(&id(&session), soon()).unwrap());
        assert_eq!(read(store.as_mut(), &id(&session)).unwrap(), b"n|i:4;");
    }
    // At once, or two seconds later where it took a moment to see that the server was away.
    wait_until("it is home again", LIMIT, || {
        put(first.as_mut(), &id(&session), b"n|i:5;");
        three.having(&session) == [0]
    });
    for store in [&mut first, &mut second, &mut three.store()] {
        assert_eq!(lock_and_keep(store.as_mut(), &session).unwrap(), b"n|i:5;");
    }
}

pub(crate) fn lock_and_keep(store: &mut dyn Store, session: &str) -> Option<Vec<u8>> {
    let (record, hold) = lock(store, &id(session));
    store.commit(&id(session), hold, Change::Keep, soon()).unwrap();
    record
}

fn a_server_that_hung_gives_out_nothing_that_is_old() {
    let three = Three::with("remove_failed_servers=1");
    let session = three.session_on(0, b"n|i:1;");
    let touched = &mut three.store();
    let mut store = three.hasty();
    put(store.as_mut(), &id(&session), b"n|i:2;");
    three.servers[0].freeze();
    assert_eq!(lock_and_keep(store.as_mut(), &session), None, "nobody can read it now");
    put(store.as_mut(), &id(&session), b"n|i:3;");
    three.servers[0].thaw();
    assert_eq!(three.record(0, &session).unwrap(), b"n|i:2;", "the old record is back");
    for store in [&mut store, &mut three.store()] {
        assert_eq!(read(store.as_mut(), &id(&session)).unwrap(), b"n|i:3;");
        assert_eq!(lock_and_keep(store.as_mut(), &session).unwrap(), b"n|i:3;");
    }
    // A touch takes it home, too.
    let (record, hold) = lock(touched.as_mut(), &id(&session));
    let change = Change::Touch(&record.unwrap(), LIFETIME);
    touched.commit(&id(&session), hold, change, soon()).unwrap();
    assert_eq!((three.having(&session), three.record(0, &session).unwrap()), (vec![0], b"n|i:3;".to_vec()));
}

fn a_session_that_was_deleted_while_its_server_hung_stays_deleted() {
    let three = Three::with("remove_failed_servers=1");
    let session = three.session_on(0, b"user|i:7;");
    let mut store = three.hasty();
    three.servers[0].freeze();
    let (_, hold) = lock(store.as_mut(), &id(&session));
    store.commit(&id(&session), hold, Change::Delete, soon()).unwrap();
    three.servers[0].thaw();
    assert_eq!(three.record(0, &session).unwrap(), b"user|i:7;", "the old record is back");
    for store in [&mut store, &mut three.store()] {
        assert_eq!(read(store.as_mut(), &id(&session)).unwrap_or_default(), b"");
    }
    // Who finds its server alive need not remember it any longer.
    let mut fresh = three.store();
    let (_, hold) = lock(fresh.as_mut(), &id(&session));
    fresh.commit(&id(&session), hold, Change::Delete, soon()).unwrap();
    assert_eq!(three.having(&session), [] as [usize; 0]);
}

fn who_has_left_a_server_out_finds_what_others_took_back_to_it() {
    let three = Three::with("remove_failed_servers=1");
    let (moved, stayed) = (three.session_on(0, b"n|i:1;"), "stays");
    let stayed = match three.home(stayed) {
        0 => stayed.to_owned(),
        _ => {
            (0..1000).map(|number| format!("stays{number}")).find(|session| three.home(session) == 0).unwrap()
        }
    };
    put(three.store().as_mut(), &id(&stayed), b"n|i:7;");
    let mut slow = three.store();
    three.servers[0].freeze();
    put(three.hasty().as_mut(), &id(&moved), b"n|i:2;");
    let briefly = Deadline::after(Duration::from_millis(200));
    let error = slow.open(&id(&moved), Access::ReadOnly, briefly).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    three.servers[0].thaw();
    // The others take it home before this one looks at its server again.
    put(three.store().as_mut(), &id(&moved), b"n|i:3;");
    assert_eq!(three.having(&moved), [0]);
    assert_eq!(lock_and_keep(slow.as_mut(), &moved).unwrap(), b"n|i:3;");
    assert_eq!(lock_and_keep(slow.as_mut(), &stayed).unwrap(), b"n|i:7;");
}

fn a_late_writer_is_refused_over_a_newer_record_too() {
    let three = Three::with("remove_failed_servers=1&lock=own");
    let session = three.session_on(0, b"n|i:1;");
    three.servers[0].kill();
    put(three.store().as_mut(), &id(&session), b"n|i:2;");
    three.servers[0].restart();
    let (mut late, mut other) = (three.store(), three.store());
    let (record, hold) = lock(late.as_mut(), &id(&session));
    assert_eq!(record.unwrap(), b"n|i:2;");
    // Its lock is lost, and others write.
    three.servers[0].command(&format!("delete {}\r\n", lock_key(&session)));
    put(other.as_mut(), &id(&session), b"n|i:3;");
    let refused = late.commit(&id(&session), hold, Change::Write(b"n|i:9;", LIFETIME), soon()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LockLost, "{refused}");
    assert_eq!(read(other.as_mut(), &id(&session)).unwrap(), b"n|i:3;");
}

fn a_late_writer_is_refused_where_the_newer_record_changed() {
    let three = Three::with("remove_failed_servers=1");
    let session = three.session_on(0, b"n|i:1;");
    three.servers[0].kill();
    put(three.store().as_mut(), &id(&session), b"n|i:2;");
    three.servers[0].restart();
    let mut late = three.store();
    let (record, hold) = lock(late.as_mut(), &id(&session));
    assert_eq!(record.unwrap(), b"n|i:2;");
    let mut other = three.store();
    let opened = other.open(&id(&session), Access::Unlocked, soon()).unwrap();
    other.commit(&id(&session), opened.hold, Change::Write(b"n|i:3;", LIFETIME), soon()).unwrap();
    let refused = late.commit(&id(&session), hold, Change::Write(b"n|i:9;", LIFETIME), soon()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LockLost, "{refused}");
    assert_eq!(read(other.as_mut(), &id(&session)).unwrap(), b"n|i:3;");
}

fn a_cut_at_any_step_of_taking_a_session_home_loses_nothing_that_was_acknowledged() {
    // The stand-in is asked for nothing but the session.
    let three = Three::proxied("remove_failed_servers=1&lock=own");
    let proxies = &three.proxies;
    let session = three.id_on(0);
    three.servers[0].kill();
    put(three.store().as_mut(), &id(&session), b"n|i:1;");
    let stand_in = if three.record(1, &session).is_some() { 1 } else { 2 };
    three.servers[0].restart();
    let mut outcomes = HashMap::new();
    for (at, reply, nth, for_good) in [0, stand_in].into_iter().flat_map(|at| {
        let cuts = [false, true].into_iter().flat_map(|reply| (1..=4).map(move |nth| (reply, nth)));
        cuts.flat_map(move |(reply, nth)| [false, true].map(|for_good| (at, reply, nth, for_good)))
    }) {
        // Nobody can tell what is on a stand-in that cannot be asked: two failures.
        if (at, nth, for_good) == (stand_in, 1, true) {
            continue;
        }
        three.servers[0].set(&key(&session), "n|i:1;");
        three.servers[stand_in].set(&key(&session), "n|i:2;");
        let mut store = three.store();
        assert_eq!(read(store.as_mut(), &id(&session)).unwrap(), b"n|i:2;");
        match reply {
            true => proxies[at].cut_at_reply(nth),
            false => proxies[at].cut_at_request(nth),
        }
        proxies[at].refuse(for_good);
        let written = write(store.as_mut(), &session, b"n|i:3;");
        proxies[at].refuse(false);
        // One that was not met, because there were fewer exchanges, must not be met by others.
        proxies[at].cut_at_request(1_000_000);
        let step = format!("server {at}, reply {reply}, exchange {nth}, for good {for_good}: {written:?}");
        for store in [&mut three.store(), &mut store] {
            let record = read(store.as_mut(), &id(&session)).unwrap();
            match &written {
                Ok(()) => assert_eq!(record, b"n|i:3;", "{step}"),
                Err(_) => assert!(record == b"n|i:2;" || record == b"n|i:3;", "{step}: {record:?}"),
            }
        }
        *outcomes.entry(written.is_ok()).or_insert(0) += 1;
        // It releases what it may have left behind.
        put(store.as_mut(), &id(&session), b"n|i:4;");
    }
    assert!(outcomes[&true] > 8 && outcomes[&false] > 2, "{outcomes:?}");
}

fn without_a_lock_a_newer_record_stays_where_it_is() {
    for access in [Access::Unlocked, Access::Versioned] {
        let three = Three::with("remove_failed_servers=1");
        let session = three.session_on(0, b"n|i:1;");
        three.servers[0].freeze();
        put(three.hasty().as_mut(), &id(&session), b"n|i:2;");
        three.servers[0].thaw();
        let mut store = three.store();
        let opened = store.open(&id(&session), access, soon()).unwrap();
        assert_eq!(opened.record.unwrap().0, b"n|i:2;");
        let change = Change::Write(b"n|i:3;", LIFETIME);
        assert_eq!(
            store.commit(&id(&session), opened.hold, change, soon()).unwrap(),
            cloakroom::Committed::Done
        );
        assert_eq!(read(three.store().as_mut(), &id(&session)).unwrap(), b"n|i:3;");
        assert_eq!(three.record(0, &session).unwrap(), b"n|i:1;");
    }
}

fn without_a_lock_a_deleted_session_takes_its_old_record_along() {
    for access in [Access::Unlocked, Access::Versioned] {
        let three = Three::with("remove_failed_servers=1");
        let session = three.session_on(0, b"n|i:1;");
        three.servers[0].freeze();
        put(three.hasty().as_mut(), &id(&session), b"n|i:2;");
        three.servers[0].thaw();
        delete(three.store().as_mut(), &session, access);
        assert_eq!(lock_and_keep(three.store().as_mut(), &session).unwrap_or_default(), b"", "{access:?}");
    }
    for access in [Access::Unlocked, Access::Versioned] {
        let three = Three::with("remove_failed_servers=1&replicas=2");
        let session = three.session_on(0, b"n|i:1;");
        three.servers[0].freeze();
        delete(three.hasty().as_mut(), &session, access);
        three.servers[0].thaw();
        assert_eq!(three.record(0, &session).unwrap(), b"n|i:1;", "the old record is back");
        assert_eq!(lock_and_keep(three.store().as_mut(), &session).unwrap_or_default(), b"", "{access:?}");
    }
}

fn delete(store: &mut dyn Store, session: &str, access: Access) {
    let opened = store.open(&id(session), access, soon()).unwrap();
    assert!(opened.record.is_some());
    store.commit(&id(session), opened.hold, Change::Delete, soon()).unwrap();
}
