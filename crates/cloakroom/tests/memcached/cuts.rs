//! A network that cuts, a server that dies or stops: nothing is lost, and the outcome is told truly.

use std::time::Duration;

use cloakroom::{Access, Change, Committed, Deadline, ErrorKind, Outcome};
use testbed::memcached::Memcached;
use testbed::proxy::{Ending, Proxy};
use testbed::suite::{Case, case};
use testbed::wait_until;

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, lock_at_once, put, read, soon};
use crate::{LIMIT, MEMCACHED, key, lock_key, released, store, waiters};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_cut_at_any_byte_of_an_open_is_healed", MEMCACHED, a_cut_at_any_byte_of_an_open_is_healed),
        case("a_cut_at_any_byte_of_a_commit_is_healed", MEMCACHED, a_cut_at_any_byte_of_a_commit_is_healed),
        case("a_cut_at_any_byte_of_an_unlocked_write_is_healed", MEMCACHED, a_cut_of_an_unlocked_write),
        case(
            "a_commit_that_cannot_be_repeated_is_unknown",
            MEMCACHED,
            a_commit_that_cannot_be_repeated_is_unknown,
        ),
        case(
            "a_commit_overtaken_after_a_cut_is_unknown",
            MEMCACHED,
            a_commit_overtaken_after_a_cut_is_unknown,
        ),
        case(
            "a_touched_session_that_was_changed_after_a_cut_is_well",
            MEMCACHED,
            a_touch_overtaken_after_a_cut,
        ),
        case(
            "a_versioned_write_overtaken_after_a_cut_is_unknown",
            MEMCACHED,
            a_versioned_write_overtaken_after_a_cut,
        ),
        case(
            "a_versioned_touch_of_no_session_is_a_conflict_after_a_cut",
            MEMCACHED,
            a_versioned_touch_of_none,
        ),
        case("a_login_that_is_cut_leaves_no_doubt_of_a_versioned_write", MEMCACHED, a_login_that_is_cut),
        case("a_write_that_was_answered_counts_whatever_follows", MEMCACHED, a_write_that_was_answered),
        case("a_server_that_dies_during_a_commit_is_unknown", MEMCACHED, a_server_that_dies_during_a_commit),
        case("an_open_of_a_frozen_server_ends_and_leaves_no_lock", MEMCACHED, an_open_of_a_frozen_server),
        case("a_commit_to_a_frozen_server_is_unknown", MEMCACHED, a_commit_to_a_frozen_server_is_unknown),
        case("a_commit_that_failed_leaves_no_lock_for_long", MEMCACHED, a_commit_that_failed_leaves_no_lock),
    ]
}

struct Cuttable {
    memcached: Memcached,
    proxy: Proxy,
    direct: String,
    save_path: String,
}

fn cuttable() -> Cuttable {
    let memcached = Memcached::start();
    let proxy = Proxy::to(memcached.address());
    let (direct, save_path) =
        (format!("memcached://{}", memcached.address()), format!("memcached://{}", proxy.address()));
    Cuttable { memcached, proxy, direct, save_path }
}

type CutAt = fn(&Proxy, usize);

/// Both directions and both ways to end, and where to cut next.
const CUTS: &[(CutAt, Ending, usize)] = &[
    (Proxy::cut_after_request, Ending::Reset, 1),
    (Proxy::cut_after_request, Ending::Close, 5),
    (Proxy::cut_after_reply, Ending::Reset, 1),
    (Proxy::cut_after_reply, Ending::Close, 3),
];

fn a_cut_at_any_byte_of_an_open_is_healed() {
    let Cuttable { memcached, proxy, direct, save_path } = cuttable();
    put(store(&direct).as_mut(), &id("abc"), b"n|i:1;");
    for (cut, ending, step) in CUTS {
        proxy.ending(*ending);
        let mut retried = 0;
        for at in (1..).step_by(*step) {
            let mut store = store(&save_path);
            // The introduction, where there is one, is behind it.
            read(store.as_mut(), &id("other"));
            cut(&proxy, at);
            let (record, hold) = lock_at_once(store.as_mut(), &id("abc"));
            assert_eq!(record.unwrap(), b"n|i:1;", "cut at {at}");
            let done = proxy.cut_pending();
            // Set to where it never comes.
            cut(&proxy, usize::MAX);
            retried += store.counters().retries;
            store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
            released(&memcached, "abc");
            if done {
                break;
            }
        }
        assert!(retried > 15, "only {retried} cuts were noticed");
    }
}

fn a_cut_at_any_byte_of_a_commit_is_healed() {
    let Cuttable { memcached, proxy, direct, save_path } = cuttable();
    let mut direct = store(&direct);
    for (cut, ending, step) in CUTS {
        proxy.ending(*ending);
        for (before, change) in [
            (Some(b"n|i:1;"), Change::Write(b"n|i:2;", LIFETIME)),
            (None, Change::Write(b"n|i:2;", LIFETIME)),
            (Some(b"n|i:1;"), Change::Write(b"n|i:1;", LIFETIME)),
            (Some(b"n|i:1;"), Change::Touch(b"n|i:1;", LIFETIME)),
            (Some(b"n|i:1;"), Change::Delete),
            (Some(b"n|i:1;"), Change::Keep),
        ] {
            let expected = match change {
                Change::Write(bytes, _) => Some(bytes.to_vec()),
                Change::Delete => None,
                _ => Some(b"n|i:1;".to_vec()),
            };
            let step =
                if before.is_some() && matches!(change, Change::Write(b"n|i:2;", _)) { *step } else { 5 };
            for at in (1..).step_by(step) {
                memcached.command(&format!("delete {}", key("abc")));
                if let Some(before) = before {
                    put(direct.as_mut(), &id("abc"), before);
                }
                let mut store = store(&save_path);
                let (_, hold) = lock_at_once(store.as_mut(), &id("abc"));
                cut(&proxy, at);
                let committed = store.commit(&id("abc"), hold, change, soon()).unwrap();
                assert_eq!(committed, Committed::Done, "{change:?} cut at {at}");
                let done = proxy.cut_pending();
                cut(&proxy, usize::MAX);
                assert_eq!(memcached.get(&key("abc")), expected, "{change:?} cut at {at}");
                released(&memcached, "abc");
                if done {
                    break;
                }
            }
        }
    }
}

fn a_cut_of_an_unlocked_write() {
    let Cuttable { memcached, proxy, direct: _, save_path } = cuttable();
    for access in [Access::Unlocked, Access::Versioned] {
        for (cut, _, _) in [CUTS[0], CUTS[2]] {
            for at in (1..).step_by(3) {
                memcached.set(&key("abc"), "n|i:1;");
                let mut store = store(&save_path);
                let opened = store.open(&id("abc"), access, soon()).unwrap();
                cut(&proxy, at);
                let written =
                    store.commit(&id("abc"), opened.hold, Change::Write(b"n|i:2;", LIFETIME), soon());
                assert_eq!(written.unwrap(), Committed::Done, "cut at {at}");
                assert_eq!(store.counters().conflicts, 0, "cut at {at}");
                let done = proxy.cut_pending();
                cut(&proxy, usize::MAX);
                assert_eq!(memcached.get(&key("abc")).unwrap(), b"n|i:2;", "cut at {at}");
                if done {
                    break;
                }
            }
        }
    }
}

/// The cut is there to stay: nobody can tell whether the change was applied, and the error says so.
fn a_commit_that_cannot_be_repeated_is_unknown() {
    let Cuttable { memcached, proxy, direct, save_path } = cuttable();
    for (cut, stored) in [(Proxy::cut_at_request as CutAt, b"n|i:1;"), (Proxy::cut_at_reply, b"n|i:2;")] {
        put(store(&direct).as_mut(), &id("abc"), b"n|i:1;");
        let mut store = store(&save_path);
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        cut(&proxy, 1);
        proxy.refuse(true);
        let error = store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::Unknown), "{error}");
        assert_eq!(memcached.get(&key("abc")).unwrap(), stored);
        memcached.command(&format!("delete {}", lock_key("abc")));
        proxy.refuse(false);
    }
    // Nothing was sent: that much is known.
    let mut store = store(&save_path);
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    proxy.refuse(true);
    proxy.cut_now();
    // A connection that was used a moment ago is not looked at.
    std::thread::sleep(Duration::from_millis(20));
    let error = store.commit(&id("abc"), hold, Change::Write(b"n|i:3;", LIFETIME), soon()).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::Refused), "{error}");
    assert_eq!(memcached.get(&key("abc")).unwrap(), b"n|i:2;");
}

fn a_commit_overtaken_after_a_cut_is_unknown() {
    let error = overtaken_after_a_cut(Change::Write(b"n|i:2;", LIFETIME)).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::Unknown), "{error}");
}

/// Nothing of this request's could be lost.
fn a_touch_overtaken_after_a_cut() {
    let touched = overtaken_after_a_cut(Change::Touch(b"n|i:1;", LIFETIME));
    assert_eq!(touched.unwrap(), Committed::Done);
}

/// The answer to the commit is lost, and another worker changes the session before that is found out.
fn overtaken_after_a_cut(change: Change<'static>) -> cloakroom::Result<Committed> {
    let Cuttable { memcached, proxy, direct, save_path } = cuttable();
    let mut other = store(&direct);
    put(other.as_mut(), &id("abc"), b"n|i:1;");
    let mut store = store(&save_path);
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    std::thread::scope(|scope| {
        // It gets the lock from the commit whose answer is lost, and changes the session before that is read back.
        let waiting = scope.spawn(|| {
            let (record, hold) = lock(other.as_mut(), &id("abc"));
            other.commit(&id("abc"), hold, Change::Write(b"n|i:3;", LIFETIME), soon()).unwrap();
            record.unwrap()
        });
        wait_until("it waits", LIMIT, || waiters(&memcached, "abc") == 1);
        proxy.hold_replies(true);
        proxy.cut_at_reply(1);
        let committed = scope.spawn(move || store.commit(&id("abc"), hold, change, soon()));
        let (Change::Write(bytes, _) | Change::Touch(bytes, _)) = change else { unreachable!() };
        assert_eq!(waiting.join().unwrap(), bytes, "it was made");
        wait_until("the commit is to be cut", LIMIT, || !proxy.cut_pending());
        proxy.hold_replies(false);
        let committed = committed.join().unwrap();
        assert_eq!(memcached.get(&key("abc")).unwrap(), b"n|i:3;");
        released(&memcached, "abc");
        committed
    })
}

/// Whoever overtook it may have counted on from it: it is no conflict, after which it would be made again.
fn a_versioned_write_overtaken_after_a_cut() {
    let Cuttable { memcached, proxy, direct: _, save_path } = cuttable();
    memcached.set(&key("abc"), "n|i:1;");
    let mut store = store(&save_path);
    let opened = store.open(&id("abc"), Access::Versioned, soon()).unwrap();
    proxy.hold_replies(true);
    proxy.cut_at_reply(1);
    std::thread::scope(|scope| {
        let change = Change::Write(b"n|i:2;", LIFETIME);
        let committed = scope.spawn(move || store.commit(&id("abc"), opened.hold, change, soon()));
        wait_until("it was made", LIMIT, || memcached.get(&key("abc")).unwrap() == b"n|i:2;");
        memcached.set(&key("abc"), "n|i:3;");
        proxy.hold_replies(false);
        let error = committed.join().unwrap().unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::Unknown), "{error}");
    });
    assert_eq!(memcached.get(&key("abc")).unwrap(), b"n|i:3;");
}

fn a_versioned_touch_of_none() {
    let Cuttable { memcached, proxy, direct: _, save_path } = cuttable();
    memcached.set(&key("abc"), "n|i:1;");
    let mut store = store(&save_path);
    let opened = store.open(&id("abc"), Access::Versioned, soon()).unwrap();
    memcached.delete(&key("abc"));
    proxy.cut_at_reply(1);
    let change = Change::Touch(b"n|i:1;", LIFETIME);
    let committed = store.commit(&id("abc"), opened.hold, change, soon()).unwrap();
    assert_eq!(committed, Committed::Conflict(None));
    assert_eq!((proxy.cut_pending(), store.counters().retries), (false, 1));
}

/// The write was not sent before.
fn a_login_that_is_cut() {
    let memcached = Memcached::ascii_auth();
    let proxy = Proxy::to(memcached.address());
    memcached.set(&key("abc"), "n|i:1;");
    let mut store = store(&memcached.url().replace(&memcached.address(), &proxy.address()));
    let opened = store.open(&id("abc"), Access::Versioned, soon()).unwrap();
    memcached.set(&key("abc"), "n|i:2;");
    proxy.cut_now();
    proxy.cut_at_reply(1);
    // A connection that was used a moment ago is not looked at.
    std::thread::sleep(Duration::from_millis(20));
    let change = Change::Write(b"n|i:2;", LIFETIME);
    let committed = store.commit(&id("abc"), opened.hold, change, soon()).unwrap();
    assert!(
        matches!(&committed, Committed::Conflict(Some(record)) if record.0 == b"n|i:2;"),
        "{committed:?}"
    );
    assert_eq!((proxy.cut_pending(), store.counters().retries), (false, 1));
}

/// The lock has another version, as after a renewal, and the server is gone before that can be seen.
fn a_write_that_was_answered() {
    let Cuttable { memcached, proxy, direct: _, save_path } = cuttable();
    let mut store = store(&save_path);
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    let value = memcached.get(&lock_key("abc")).unwrap();
    memcached.set(&lock_key("abc"), value);
    proxy.cut_at_request(2);
    proxy.refuse(true);
    let committed = store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon());
    assert_eq!(committed.unwrap(), Committed::Done);
    assert_eq!(memcached.get(&key("abc")).unwrap(), b"n|i:2;");
    // The worker knows of the lock, and gives it back.
    proxy.refuse(false);
    wait_until("it is released", LIMIT, || {
        put(store.as_mut(), &id("abd"), b"n|i:1;");
        memcached.get(&lock_key("abc")).is_none()
    });
}

fn a_server_that_dies_during_a_commit() {
    let Cuttable { memcached, proxy, direct: _, save_path } = cuttable();
    let mut store = store(&save_path);
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    proxy.cut_at_reply(1);
    memcached.freeze();
    std::thread::scope(|scope| {
        let committed =
            scope.spawn(move || store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()));
        memcached.restart();
        let error = committed.join().unwrap().unwrap_err();
        // Told truly, whichever came first: the request or the end.
        assert!(matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::LockLost), "{error}");
    });
    assert_eq!(memcached.keys(), [""; 0]);
}

/// What is known to be given up after a tenth of a second, though nothing else is.
fn impatiently() -> Deadline {
    Deadline::after(Duration::from_millis(100))
}

fn an_open_of_a_frozen_server() {
    let memcached = Memcached::start();
    let mut store = store(&format!("memcached://{}", memcached.address()));
    read(store.as_mut(), &id("abc"));
    memcached.freeze();
    let error = store.open(&id("abc"), EXCLUSIVE, impatiently()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    memcached.thaw();
    wait_until("the lock was taken all the same", LIMIT, || memcached.get(&lock_key("abc")).is_some());
    // The worker knows, and releases it first.
    let (_, hold) = lock_at_once(store.as_mut(), &id("abc"));
    store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    released(&memcached, "abc");
}

fn a_commit_to_a_frozen_server_is_unknown() {
    let memcached = Memcached::start();
    let mut store = store(&format!("memcached://{}", memcached.address()));
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    memcached.freeze();
    let change = Change::Write(b"n|i:2;", LIFETIME);
    let error = store.commit(&id("abc"), hold, change, impatiently()).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error}");
    memcached.thaw();
    wait_until("it was applied all the same", LIMIT, || memcached.get(&key("abc")).unwrap() == b"n|i:2;");
}

fn a_commit_that_failed_leaves_no_lock() {
    let Cuttable { memcached, proxy, direct: _, save_path } = cuttable();
    let mut failing = store(&save_path);
    let (_, hold) = lock(failing.as_mut(), &id("abc"));
    proxy.refuse(true);
    proxy.cut_now();
    let error = failing.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(memcached.get(&lock_key("abc")).is_some());
    proxy.refuse(false);
    // Whatever this worker opens next; unless that takes too long, for which it would keep the other session waiting.
    wait_until("it is released", LIMIT, || {
        let (_, other) = lock(failing.as_mut(), &id("other"));
        let released = memcached.get(&lock_key("abc")).is_none();
        failing.commit(&id("other"), other, Change::Keep, soon()).unwrap();
        released
    });
}
