//! While a slot is moved, each key is at its old place or at its new one.

use std::time::Duration;

use cloakroom::{Access, Change, Store, Unknown};
use testbed::cluster::{Cluster, Node};
use testbed::suite::Case;
use testbed::wait_until;

use super::{case, key, lock_key, shared};
use crate::worker::{EXCLUSIVE, LIFETIME, id, increment, lock, lock_at_once, put, read, soon};
use crate::{LIMIT, LONG, REDIS, leased};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_slot_that_was_moved_is_found_again", REDIS, a_slot_that_was_moved_is_found_again),
        case("a_lock_moves_with_its_session", REDIS, a_lock_moves_with_its_session),
        case("a_record_is_read_under_its_lock", REDIS, a_record_is_read_under_its_lock),
        case("a_new_session_is_made_while_its_slot_is_moved", REDIS, a_new_session_is_made),
        case("a_commit_waits_for_what_is_apart", REDIS, a_commit_waits_for_what_is_apart),
        case("a_session_is_deleted_while_its_slot_is_moved", REDIS, a_session_is_deleted),
        case("a_lock_is_renewed_while_its_slot_is_moved", REDIS, a_lock_is_renewed),
        case("waiters_go_on_waiting_at_the_new_place", REDIS, waiters_go_on_waiting_at_the_new_place),
        case("waiters_come_while_a_slot_is_moved", REDIS, waiters_come_while_a_slot_is_moved),
        case("waiters_make_no_second_queue", REDIS, waiters_make_no_second_queue),
        case(
            "a_lock_that_was_handed_over_before_is_found",
            REDIS,
            a_lock_that_was_handed_over_before_is_found,
        ),
        case("a_slot_is_left_as_it_was_moved", REDIS, a_slot_is_left_as_it_was_moved),
    ]
}

/// Locks outlast the wait for the slots that other cases move meanwhile.
fn store(save_path: &str) -> Box<dyn Store> {
    leased(save_path, LONG)
}

/// The nodes between which the slot of a session is moved.
fn places(cluster: &'static Cluster, session: &str) -> (u16, &'static Node, &'static Node) {
    let slot = cluster.slot(&key(session));
    (slot, cluster.owner(slot), cluster.other_than_owner_of(&key(session)))
}

fn a_slot_that_was_moved_is_found_again() {
    let cluster = shared();
    let mut store = store(&cluster.url());
    put(store.as_mut(), &id("m1"), b"n|i:1;");
    let (slot, from, to) = places(cluster, "m1");
    cluster.migrate(slot, to);
    assert_eq!(increment(store.as_mut(), &id("m1"), EXCLUSIVE).unwrap(), 2);
    cluster.migrate(slot, from);
    assert_eq!(read(store.as_mut(), &id("m1")), Some(b"n|i:2;".to_vec()));
    assert!(store.exists(&id("m1"), soon()).unwrap());
}

fn a_lock_moves_with_its_session() {
    let cluster = shared();
    let (mut first, mut second) = (store(&cluster.url()), store(&cluster.url()));
    put(first.as_mut(), &id("m2"), b"n|i:1;");
    let (_, hold) = lock_at_once(first.as_mut(), &id("m2"));
    let (slot, _, to) = places(cluster, "m2");
    cluster.migrate(slot, to);
    let at_once = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Lock };
    assert!(second.open(&id("m2"), at_once, soon()).is_err());
    first.commit(&id("m2"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(increment(second.as_mut(), &id("m2"), at_once).unwrap(), 3);
}

/// The lock is taken at the new place while the session is at the old one: what was read before that is not what is
/// under the lock.
fn a_record_is_read_under_its_lock() {
    let cluster = shared();
    let mut store = store(&cluster.url());
    put(store.as_mut(), &id("m3"), b"n|i:1;");
    let (slot, from, to) = places(cluster, "m3");
    let migration = cluster.begin(slot, to);
    let before = store.counters().exchanges;
    let (record, hold) = lock_at_once(store.as_mut(), &id("m3"));
    assert_eq!(record, Some(b"n|i:1;".to_vec()));
    // Both at the old place, the lock at the new one, the record again at the old one.
    assert_eq!(store.counters().exchanges - before, 3);
    assert_eq!(from.command(&["EXISTS", &key("m3")]), "1");
    migration.finish();
    assert_eq!(to.command(&["EXISTS", &lock_key("m3")]), "1");
    store.commit(&id("m3"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(read(store.as_mut(), &id("m3")), Some(b"n|i:2;".to_vec()));
}

fn a_new_session_is_made() {
    let cluster = shared();
    let mut store = store(&cluster.url());
    put(store.as_mut(), &id("m4-warm"), b"");
    let (slot, _, to) = places(cluster, "m4");
    let migration = cluster.begin(slot, to);
    for unknown in [Unknown::Refuse, Unknown::Lock] {
        let access = Access::Exclusive { wait: Duration::ZERO, unknown };
        let opened = store.open(&id("m4"), access, soon()).unwrap();
        assert_eq!(opened.record, None);
        if unknown == Unknown::Lock {
            store.commit(&id("m4"), opened.hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
        }
    }
    assert_eq!(read(store.as_mut(), &id("m4")), Some(b"n|i:1;".to_vec()));
    // Both are at the new place by now.
    assert_eq!(increment(store.as_mut(), &id("m4"), EXCLUSIVE).unwrap(), 2);
    migration.finish();
    assert_eq!(increment(store.as_mut(), &id("m4"), EXCLUSIVE).unwrap(), 3);
}

/// One of the two keys has been moved: whatever is written now must not be overwritten when the other one is.
fn a_commit_waits_for_what_is_apart() {
    let cluster = shared();
    for (number, carried) in [lock_key, key].into_iter().enumerate() {
        let session = format!("m5-{number}");
        let mut store = store(&cluster.url());
        put(store.as_mut(), &id(&session), b"n|i:1;");
        let (_, hold) = lock_at_once(store.as_mut(), &id(&session));
        let (slot, _, to) = places(cluster, &session);
        let migration = cluster.begin(slot, to);
        migration.carry(&carried(&session));
        std::thread::scope(|scope| {
            let committing = scope.spawn(|| {
                let change = Change::Write(b"n|i:2;", LIFETIME);
                store.commit(&id(&session), hold, change, soon()).unwrap()
            });
            let stats = |node: &Node| node.command(&["INFO", "errorstats"]);
            let tried = |node: &Node| stats(node).contains("errorstat_TRYAGAIN");
            wait_until("the commit was refused", LIMIT, || cluster.masters().iter().any(tried));
            migration.finish();
            committing.join().unwrap();
        });
        assert_eq!(to.command(&["GET", &key(&session)]), "n|i:2;");
        assert_eq!(to.command(&["EXISTS", &lock_key(&session)]), "0");
        for node in cluster.masters() {
            assert_eq!(node.command(&["CONFIG", "RESETSTAT"]), "OK");
        }
    }
}

fn a_session_is_deleted() {
    let cluster = shared();
    for (number, carried) in [&[][..], &[key, lock_key]].into_iter().enumerate() {
        let session = format!("m6-{number}");
        let mut store = store(&cluster.url());
        put(store.as_mut(), &id(&session), b"n|i:1;");
        let (_, hold) = lock_at_once(store.as_mut(), &id(&session));
        let (slot, _, to) = places(cluster, &session);
        let migration = cluster.begin(slot, to);
        for carried in carried {
            migration.carry(&carried(&session));
        }
        store.commit(&id(&session), hold, Change::Delete, soon()).unwrap();
        assert_eq!(read(store.as_mut(), &id(&session)), None);
        migration.finish();
        assert_eq!(read(store.as_mut(), &id(&session)), None);
        assert_eq!(to.command(&["EXISTS", &lock_key(&session)]), "0");
    }
}

fn a_lock_is_renewed() {
    let cluster = shared();
    let mut store = store(&cluster.url());
    let mut opened = store.open(&id("m7"), EXCLUSIVE, soon()).unwrap();
    let renewal = opened.renewal.as_mut().unwrap();
    let (slot, _, to) = places(cluster, "m7");
    (renewal.renew)(soon()).unwrap();
    let migration = cluster.begin(slot, to);
    (renewal.renew)(soon()).unwrap();
    migration.carry(&lock_key("m7"));
    (renewal.renew)(soon()).unwrap();
    migration.finish();
    (renewal.renew)(soon()).unwrap();
    store.commit(&id("m7"), opened.hold, Change::Keep, soon()).unwrap();
    assert_eq!(to.command(&["EXISTS", &lock_key("m7")]), "0");
    assert!((renewal.renew)(soon()).is_err());
}

fn queued(cluster: &Cluster, session: &str) -> usize {
    let queue = format!("{}_QUEUE", lock_key(session));
    cluster.owner_of(&queue).command(&["LLEN", &queue]).parse().unwrap()
}

fn waiters_go_on_waiting_at_the_new_place() {
    let cluster = shared();
    let mut holder = store(&cluster.url());
    put(holder.as_mut(), &id("m8"), b"");
    let (_, hold) = lock(holder.as_mut(), &id("m8"));
    let order = std::sync::Mutex::new(Vec::new());
    let (slot, _, to) = places(cluster, "m8");
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (mut store, order) = (store(&cluster.url()), &order);
            scope.spawn(move || {
                let (_, hold) = lock(store.as_mut(), &id("m8"));
                order.lock().unwrap().push(number);
                store.commit(&id("m8"), hold, Change::Keep, soon()).unwrap();
            });
            wait_until("it stands in the queue", LIMIT, || queued(cluster, "m8") == number + 1);
        }
        cluster.migrate(slot, to);
        assert_eq!(queued(cluster, "m8"), 4);
        holder.commit(&id("m8"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
    });
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
}

/// The holder lets go while the slot is half moved, and those who wait get in one after the other.
fn waiters_come_while_a_slot_is_moved() {
    let cluster = shared();
    let mut holder = store(&cluster.url());
    put(holder.as_mut(), &id("m9"), b"n|i:0;");
    let (_, hold) = lock(holder.as_mut(), &id("m9"));
    let (slot, _, to) = places(cluster, "m9");
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for number in 0..3 {
            let mut store = store(&cluster.url());
            workers.push(scope.spawn(move || increment(store.as_mut(), &id("m9"), EXCLUSIVE).unwrap()));
            wait_until("it stands in the queue", LIMIT, || queued(cluster, "m9") == number + 1);
        }
        let migration = cluster.begin(slot, to);
        migration.carry(&lock_key("m9"));
        migration.carry(&key("m9"));
        holder.commit(&id("m9"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
        workers.push(scope.spawn(move || {
            let mut store = store(&cluster.url());
            increment(store.as_mut(), &id("m9"), EXCLUSIVE).unwrap()
        }));
        let mut counts: Vec<u64> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        counts.sort_unstable();
        assert_eq!(counts, [2, 3, 4, 5]);
        migration.finish();
    });
    assert_eq!(read(holder.as_mut(), &id("m9")), Some(b"n|i:5;".to_vec()));
    assert_eq!(to.command(&["EXISTS", &lock_key("m9")]), "0");
}

/// It would keep the first one from being moved.
fn waiters_make_no_second_queue() {
    let cluster = shared();
    let mut holder = store(&cluster.url());
    put(holder.as_mut(), &id("m11"), b"n|i:0;");
    let (_, hold) = lock(holder.as_mut(), &id("m11"));
    let queue = format!("{}_QUEUE", lock_key("m11"));
    let (slot, from, to) = places(cluster, "m11");
    // Of a worker that has died since.
    assert_eq!(from.command(&["RPUSH", &queue, &format!("cloakroom:{:032x}:host:1", 7)]), "1");
    let migration = cluster.begin(slot, to);
    migration.carry(&lock_key("m11"));
    migration.carry(&key("m11"));
    assert_eq!(from.command(&["CONFIG", "RESETSTAT"]), "OK");
    std::thread::scope(|scope| {
        let waiting =
            scope.spawn(|| increment(store(&cluster.url()).as_mut(), &id("m11"), EXCLUSIVE).unwrap());
        let asked = || {
            let stats = from.command(&["INFO", "errorstats"]);
            let count = stats.lines().find_map(|line| line.strip_prefix("errorstat_ASK:count="));
            count.map_or(0, |count| count.parse().unwrap())
        };
        wait_until("the waiter was sent to the new place", LIMIT, || asked() > 4);
        migration.carry(&queue);
        migration.finish();
        holder.commit(&id("m11"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
        assert_eq!(waiting.join().unwrap(), 2);
    });
}

/// Whoever handed it over could not tell: the queue is at the new place, the lock at the old one.
fn a_lock_that_was_handed_over_before_is_found() {
    let cluster = shared();
    let mut holder = store(&cluster.url());
    put(holder.as_mut(), &id("m12"), b"n|i:1;");
    let _held = lock(holder.as_mut(), &id("m12"));
    let queue = format!("{}_QUEUE", lock_key("m12"));
    let (slot, from, to) = places(cluster, "m12");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut store = store(&cluster.url());
            let (record, hold) = lock(store.as_mut(), &id("m12"));
            store.commit(&id("m12"), hold, Change::Keep, soon()).unwrap();
            record
        });
        wait_until("it stands in the queue", LIMIT, || queued(cluster, "m12") == 1);
        let waiter = from.command(&["LINDEX", &queue, "0"]);
        let migration = cluster.begin(slot, to);
        migration.carry(&queue);
        assert_eq!(from.command(&["SET", &lock_key("m12"), &waiter, "PX", "60000"]), "OK");
        assert_eq!(waiting.join().unwrap(), Some(b"n|i:1;".to_vec()));
        migration.finish();
    });
}

/// A key that was made at the new place while another of its name is at the old one would keep the slot from being
/// moved.
fn a_slot_is_left_as_it_was_moved() {
    let cluster = shared();
    let mut holder = store(&cluster.url());
    put(holder.as_mut(), &id("m10"), b"n|i:0;");
    let (slot, from, to) = places(cluster, "m10");
    std::thread::scope(|scope| {
        let racing: Vec<_> = (0..4)
            .map(|_| {
                let mut store = store(&cluster.url());
                scope.spawn(move || {
                    (0..50).map(|_| increment(store.as_mut(), &id("m10"), EXCLUSIVE).unwrap()).max()
                })
            })
            .collect();
        let mut there = true;
        while !racing.iter().all(|worker| worker.is_finished()) {
            let migration = cluster.begin(slot, if there { to } else { from });
            while migration.carry_one() {}
            migration.finish();
            there = !there;
        }
        let last = racing.into_iter().filter_map(|worker| worker.join().unwrap()).max();
        assert_eq!(last, Some(200));
    });
    assert_eq!(read(holder.as_mut(), &id("m10")), Some(b"n|i:200;".to_vec()));
}
