//! One at a time, for as long as it takes and no longer.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cloakroom::{Access, Change, ErrorKind, Hold, Settings, Unknown};
use testbed::wait_until;

use crate::worker::{
    EXCLUSIVE, LIFETIME, counted, id, increment, lock, lock_at_once, patient, put, read, soon,
};
use crate::{Subject, behaviours};

behaviours![
    second_writer_waits_until_first_closes,
    the_wait_for_a_lock_ends,
    giving_up_leaves_the_lock_to_its_owner,
    an_unknown_session_is_locked_too,
    waiters_get_their_turn_after_a_delete_and_see_no_session,
    the_next_is_refused_when_as_many_wait_as_may,
    racing_workers_lose_no_update,
    racing_workers_without_the_lock_lose_updates,
    workers_racing_for_new_sessions_lose_no_update,
    locks_of_different_sessions_do_not_meet,
    several_sessions_can_be_held_at_once,
];

fn second_writer_waits_until_first_closes(subject: &dyn Subject) {
    let (mut round, mut waited) = (0u32, 0);
    // Nobody can tell when a waiter has joined the queue: one who came too late to wait is tried again, with more time.
    while round < 10 || waited == 0 {
        assert!(round < 40, "no second writer ever waited");
        let (mut first, mut second) = (subject.worker(), subject.worker());
        let (_, hold) = lock(first.as_mut(), &id("abc"));
        std::thread::scope(|scope| {
            let (waiting, started) = std::sync::mpsc::channel();
            let second = scope.spawn(move || {
                waiting.send(()).unwrap();
                let (record, hold) = lock(second.as_mut(), &id("abc"));
                second.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
                (record, second.counters().waits)
            });
            started.recv().unwrap();
            // The work of a request.
            std::thread::sleep(Duration::from_millis(20) * (1 + round / 10).pow(2));
            let bytes = format!("n|i:{round};");
            first.commit(&id("abc"), hold, Change::Write(bytes.as_bytes(), LIFETIME), soon()).unwrap();
            let (record, waits) = second.join().unwrap();
            assert_eq!(record, Some(bytes.into_bytes()));
            waited += waits;
        });
        round += 1;
    }
}

fn the_wait_for_a_lock_ends(subject: &dyn Subject) {
    let (mut first, mut second) = (subject.worker(), subject.worker());
    put(first.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(first.as_mut(), &id("abc"));
    for wait in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(300)] {
        for unknown in [Unknown::Lock, Unknown::Refuse] {
            let error = second.open(&id("abc"), Access::Exclusive { wait, unknown }, soon()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
        }
    }
    first.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
}

fn giving_up_leaves_the_lock_to_its_owner(subject: &dyn Subject) {
    let (mut first, mut second, mut third) = (subject.worker(), subject.worker(), subject.worker());
    let (_, hold) = lock(first.as_mut(), &id("abc"));
    let briefly = Access::Exclusive { wait: Duration::from_millis(50), unknown: Unknown::Lock };
    second.open(&id("abc"), briefly, soon()).unwrap_err();
    drop(second);
    let error = third.open(&id("abc"), briefly, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
    first.commit(&id("abc"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
    // Those who gave up do not get it either.
    for _ in 0..3 {
        let (record, hold) = lock(third.as_mut(), &id("abc"));
        assert_eq!(record.unwrap(), b"n|i:1;");
        third.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    }
}

fn an_unknown_session_is_locked_too(subject: &dyn Subject) {
    let (mut first, mut second) = (subject.worker(), subject.worker());
    let (record, hold) = lock(first.as_mut(), &id("abc"));
    assert_eq!(record, None);
    let at_once = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Lock };
    let error = second.open(&id("abc"), at_once, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
    first.commit(&id("abc"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
    assert_eq!(lock_at_once(second.as_mut(), &id("abc")).0.unwrap(), b"n|i:1;");
}

/// A waiter must not bring back what a logout deleted.
fn waiters_get_their_turn_after_a_delete_and_see_no_session(subject: &dyn Subject) {
    let mut first = subject.worker();
    put(first.as_mut(), &id("abc"), b"user|s:5:\"alice\";");
    let (_, hold) = lock(first.as_mut(), &id("abc"));
    std::thread::scope(|scope| {
        let waiters: Vec<_> = [Unknown::Refuse, Unknown::Lock, Unknown::Refuse]
            .into_iter()
            .map(|unknown| {
                let mut store = subject.worker();
                scope.spawn(move || {
                    let access = Access::Exclusive { wait: Duration::from_secs(30), unknown };
                    let opened = store.open(&id("abc"), access, soon()).unwrap();
                    // A new session that is given up: the files handler would leave it behind, empty.
                    let change = match opened.hold {
                        Hold::ReadOnly => Change::Keep,
                        _ => Change::Delete,
                    };
                    store.commit(&id("abc"), opened.hold, change, soon()).unwrap();
                    opened.record
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(50));
        first.commit(&id("abc"), hold, Change::Delete, soon()).unwrap();
        for waiter in waiters {
            // At most the empty file that another waiter has begun.
            let record = waiter.join().unwrap();
            assert!(record.is_none_or(|record| record.0.is_empty()), "the deleted session came back");
        }
    });
    assert_eq!(read(first.as_mut(), &id("abc")), None);
}

fn the_next_is_refused_when_as_many_wait_as_may(subject: &dyn Subject) {
    let cap = 2;
    let settings = Settings { max_waiters: std::num::NonZeroU32::new(cap), ..patient() };
    let mut holder = subject.worker();
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let refused = AtomicU32::new(0);
    let mut looker = subject.worker();
    std::thread::scope(|scope| {
        let mut waiters = Vec::new();
        // One more at a time, until there is one too many: that one comes back while the lock is held.
        wait_until("a waiter is refused", Duration::from_secs(60), || {
            let mut store = subject.worker_with(settings.clone());
            let refused = &refused;
            waiters.push(scope.spawn(move || match store.open(&id("abc"), EXCLUSIVE, soon()) {
                Ok(opened) => {
                    store.commit(&id("abc"), opened.hold, Change::Keep, soon()).unwrap();
                    1
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
                    refused.fetch_add(1, Ordering::Relaxed);
                    0
                }
            }));
            let come = u32::try_from(waiters.len()).unwrap();
            wait_until("it waits or is refused", Duration::from_secs(30), || {
                let lock = looker.peek(&id("abc"), soon()).unwrap().lock.unwrap();
                lock.waiting == Some(come) || refused.load(Ordering::Relaxed) > 0
            });
            refused.load(Ordering::Relaxed) > 0
        });
        holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
        let admitted: u32 = waiters.into_iter().map(|waiter| waiter.join().unwrap()).sum();
        // A waiter that was not heard of for long lets another one slip in.
        assert!((cap..=cap + 2).contains(&admitted), "{admitted} waited where {cap} may");
    });
}

const WORKERS: u64 = 8;
const TIMES: u64 = 50;

/// What was counted, and what should have been.
fn race(subject: &dyn Subject, access: Access) -> (u64, u64) {
    let times = TIMES / u64::from(subject.slowness());
    let settings = Settings { max_waiters: None, ..patient() };
    put(subject.worker().as_mut(), &id("abc"), b"n|i:0;");
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            let mut store = subject.worker_with(settings.clone());
            scope.spawn(move || {
                for _ in 0..times {
                    increment(store.as_mut(), &id("abc"), access).unwrap();
                }
            });
        }
    });
    (counted(&read(subject.worker().as_mut(), &id("abc")).unwrap()), WORKERS * times)
}

fn racing_workers_lose_no_update(subject: &dyn Subject) {
    let (counted, all) = race(subject, EXCLUSIVE);
    assert_eq!(counted, all);
}

/// The race above can fail.
fn racing_workers_without_the_lock_lose_updates(subject: &dyn Subject) {
    wait_until("an update is lost", Duration::from_secs(60), || {
        let (counted, all) = race(subject, Access::Unlocked);
        counted < all
    });
}

/// Between the moment that a session begins and its first lock.
fn workers_racing_for_new_sessions_lose_no_update(subject: &dyn Subject) {
    let (workers, sessions) = (4, 300 / subject.slowness());
    let start = std::sync::Barrier::new(workers);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let mut store = subject.worker();
            let start = &start;
            scope.spawn(move || {
                for session in 0..sessions {
                    start.wait();
                    increment(store.as_mut(), &id(&format!("ab{session}")), EXCLUSIVE).unwrap();
                }
            });
        }
    });
    let mut store = subject.worker();
    for session in 0..sessions {
        let session = format!("ab{session}");
        let count = counted(&read(store.as_mut(), &id(&session)).unwrap());
        assert_eq!(count, workers as u64, "{session}");
    }
}

fn locks_of_different_sessions_do_not_meet(subject: &dyn Subject) {
    let (mut one, mut other) = (subject.worker(), subject.worker());
    let (_, first) = lock(one.as_mut(), &id("abc"));
    let (_, second) = lock_at_once(other.as_mut(), &id("abd"));
    one.commit(&id("abc"), first, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
    other.commit(&id("abd"), second, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(read(one.as_mut(), &id("abd")).unwrap(), b"n|i:2;");
}

/// As a request does that regenerates its id.
fn several_sessions_can_be_held_at_once(subject: &dyn Subject) {
    let (mut store, mut other) = (subject.worker(), subject.worker());
    let (_, old) = lock(store.as_mut(), &id("abc"));
    let (_, new) = lock(store.as_mut(), &id("abd"));
    store.commit(&id("abc"), old, Change::Delete, soon()).unwrap();
    let at_once = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Lock };
    let error = other.open(&id("abd"), at_once, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
    store.commit(&id("abd"), new, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
    assert_eq!(lock_at_once(other.as_mut(), &id("abd")).0.unwrap(), b"n|i:1;");
}
