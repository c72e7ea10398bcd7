//! A network that cuts, a server that dies or stops: nothing is lost, and the outcome is told truly.

use std::time::Duration;

use cloakroom::{Access, Change, Committed, Deadline, ErrorKind, Outcome, Settings, Unknown};
use testbed::proxy::{Ending, Proxy};
use testbed::redis::Redis;
use testbed::suite::{Case, case};
use testbed::{TempDir, wait_until};

use crate::worker::{
    EXCLUSIVE, LIFETIME, id, lock, lock_at_once, patient, put, read, soon, start, store_with, worker,
};
use crate::{LIMIT, REDIS, key, lock_key, store, waiters};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_cut_at_any_byte_of_an_open_is_healed", REDIS, a_cut_at_any_byte_of_an_open_is_healed),
        case("a_cut_at_any_byte_of_a_commit_is_healed", REDIS, a_cut_at_any_byte_of_a_commit_is_healed),
        case(
            "a_commit_that_cannot_be_repeated_is_unknown",
            REDIS,
            a_commit_that_cannot_be_repeated_is_unknown,
        ),
        case("a_commit_overtaken_after_a_cut_is_unknown", REDIS, a_commit_overtaken_after_a_cut_is_unknown),
        case("a_waiter_whose_connection_is_cut_waits_on", REDIS, a_waiter_whose_connection_is_cut_waits_on),
        case(
            "a_lock_handed_over_on_a_dead_connection_is_found",
            REDIS,
            a_lock_handed_over_on_a_dead_connection_is_found,
        ),
        case(
            "a_server_without_its_data_refuses_the_late_write",
            REDIS,
            a_server_without_its_data_refuses_the_late_write,
        ),
        case(
            "a_server_back_with_its_data_takes_the_write",
            REDIS,
            a_server_back_with_its_data_takes_the_write,
        ),
        case("a_server_that_is_down_is_unreachable", REDIS, a_server_that_is_down_is_unreachable),
        case(
            "an_open_of_a_frozen_server_ends_and_leaves_no_lock",
            REDIS,
            an_open_of_a_frozen_server_ends_and_leaves_no_lock,
        ),
        case("a_commit_to_a_frozen_server_is_unknown", REDIS, a_commit_to_a_frozen_server_is_unknown),
        case(
            "a_commit_that_failed_leaves_no_lock_for_long",
            REDIS,
            a_commit_that_failed_leaves_no_lock_for_long,
        ),
        case("a_signal_ends_no_exchange_and_no_wait", REDIS, a_signal_ends_no_exchange_and_no_wait),
        case("a_late_answer_is_never_taken_for_the_next", REDIS, a_late_answer_is_never_taken_for_the_next),
    ]
}

struct Cuttable {
    redis: Redis,
    proxy: Proxy,
    save_path: String,
}

fn cuttable() -> Cuttable {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.address());
    let save_path = format!("redis://{}", proxy.address());
    // The server knows the scripts: the exchanges below are the usual ones.
    let mut direct = store(&redis.url());
    put(direct.as_mut(), &id("abc"), b"n|i:1;");
    put(direct.as_mut(), &id("abc"), b"n|i:1;");
    Cuttable { redis, proxy, save_path }
}

type CutAt = fn(&Proxy, usize);

/// Both directions and both ways to end.
const CUTS: &[(CutAt, Ending)] = &[
    (Proxy::cut_after_request, Ending::Reset),
    (Proxy::cut_after_request, Ending::Close),
    (Proxy::cut_after_reply, Ending::Reset),
    (Proxy::cut_after_reply, Ending::Close),
];

fn a_cut_at_any_byte_of_an_open_is_healed() {
    let Cuttable { redis, proxy, save_path } = cuttable();
    for (cut, ending) in CUTS {
        proxy.ending(*ending);
        // The worker's first open goes by a script, the second by SET and GET.
        for opens in 1..=2 {
            let mut retried = 0;
            for at in 1.. {
                let mut store = store(&save_path);
                for _ in 1..opens {
                    put(store.as_mut(), &id("abc"), b"n|i:1;");
                }
                cut(&proxy, at);
                let (record, hold) = lock(store.as_mut(), &id("abc"));
                assert_eq!(record.unwrap(), b"n|i:1;", "cut at {at}");
                let done = proxy.cut_pending();
                // Set to where it never comes.
                cut(&proxy, usize::MAX);
                // Cut after its last byte, the answer is there already.
                assert!(store.counters().retries <= u64::from(!done), "cut at {at}");
                retried += store.counters().retries;
                store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
                assert_eq!(redis.command(&["EXISTS", &lock_key("abc")]), "0", "cut at {at}");
                if done {
                    break;
                }
            }
            assert!(retried > 15, "only {retried} cuts were noticed");
        }
    }
}

fn a_cut_at_any_byte_of_a_commit_is_healed() {
    let Cuttable { redis, proxy, save_path } = cuttable();
    let mut direct = store(&redis.url());
    for (cut, ending) in CUTS {
        proxy.ending(*ending);
        for change in [
            Change::Write(b"n|i:2;", LIFETIME),
            Change::Touch(b"n|i:1;", LIFETIME),
            Change::Delete,
            Change::Keep,
        ] {
            let expected = match change {
                Change::Write(bytes, _) => Some(bytes.to_vec()),
                Change::Delete => None,
                _ => Some(b"n|i:1;".to_vec()),
            };
            for at in 1.. {
                put(direct.as_mut(), &id("abc"), b"n|i:1;");
                let mut store = store(&save_path);
                let (_, hold) = lock_at_once(store.as_mut(), &id("abc"));
                cut(&proxy, at);
                let committed = store.commit(&id("abc"), hold, change, soon()).unwrap();
                assert_eq!(committed, Committed::Done, "{change:?} cut at {at}");
                let done = proxy.cut_pending();
                cut(&proxy, usize::MAX);
                assert_eq!(read(direct.as_mut(), &id("abc")), expected, "{change:?} cut at {at}");
                assert_eq!(redis.command(&["EXISTS", &lock_key("abc")]), "0", "{change:?} cut at {at}");
                if done {
                    break;
                }
            }
        }
    }
}

/// The cut is there to stay: nobody can tell whether the change was applied, and the error says so.
fn a_commit_that_cannot_be_repeated_is_unknown() {
    let Cuttable { redis, proxy, save_path } = cuttable();
    for (cut, stored) in [(Proxy::cut_at_request as CutAt, "n|i:1;"), (Proxy::cut_at_reply, "n|i:2;")] {
        put(store(&redis.url()).as_mut(), &id("abc"), b"n|i:1;");
        let mut store = store(&save_path);
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        cut(&proxy, 1);
        proxy.refuse(true);
        let error = store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::Unknown), "{error}");
        assert_eq!(redis.command(&["GET", &key("abc")]), stored);
        redis.command(&["DEL", &lock_key("abc")]);
        proxy.refuse(false);
    }
    // Nothing was sent: that much is known.
    let mut store = store(&save_path);
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    proxy.refuse(true);
    proxy.cut_now();
    // Only a connection that was idle for some milliseconds is looked at before it is used.
    std::thread::sleep(Duration::from_millis(10));
    let error = store.commit(&id("abc"), hold, Change::Write(b"n|i:3;", LIFETIME), soon()).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::Refused), "{error}");
    assert_eq!(redis.command(&["GET", &key("abc")]), "n|i:2;");
}

fn a_commit_overtaken_after_a_cut_is_unknown() {
    let Cuttable { redis, proxy, save_path } = cuttable();
    let mut other = store(&redis.url());
    let mut store = store_with(&save_path, Settings { connect_timeout: LIMIT, ..patient() });
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    proxy.cut_at_reply(1);
    std::thread::scope(|scope| {
        // It is handed the lock by the commit whose answer is lost, and changes the session before the repetition.
        let waiting = scope.spawn(|| {
            let (record, hold) = lock(other.as_mut(), &id("abc"));
            other.commit(&id("abc"), hold, Change::Write(b"n|i:3;", LIFETIME), soon()).unwrap();
            proxy.stall(false);
            record.unwrap()
        });
        wait_until("it waits", LIMIT, || waiters(&redis, "abc") == 1);
        let committed =
            scope.spawn(move || store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()));
        wait_until("the commit was cut", LIMIT, || !proxy.cut_pending());
        proxy.stall(true);
        assert_eq!(waiting.join().unwrap(), b"n|i:2;");
        proxy.stall(false);
        match committed.join().unwrap() {
            // The repetition came first.
            Ok(committed) => assert_eq!(committed, Committed::Done),
            Err(error) => assert_eq!(error.outcome(), Outcome::Unknown, "{error}"),
        }
    });
    assert_eq!(read(other.as_mut(), &id("abc")).unwrap(), b"n|i:3;");
}

fn a_waiter_whose_connection_is_cut_waits_on() {
    let Cuttable { redis, proxy, save_path } = cuttable();
    let mut holder = store(&redis.url());
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    std::thread::scope(|scope| {
        let mut waiter = store(&save_path);
        let waiting = scope.spawn(move || {
            let (record, _) = lock(waiter.as_mut(), &id("abc"));
            (record, waiter.counters())
        });
        // Once it has listened for a while in peace, it is not taken for somebody who may not.
        wait_until("it listens again", LIMIT, || proxy.exchanges() >= 4);
        for cuts in 1..=4 {
            wait_until("it listens", LIMIT, || {
                let clients = redis.command(&["INFO", "clients"]);
                // The holder, the waiter and who asks: nobody of before the last cut.
                clients.contains("connected_clients:3\r")
                    && clients.contains("blocked_clients:1\r")
                    && proxy.connections() == cuts
            });
            proxy.cut_now();
        }
        holder.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
        let (record, counters) = waiting.join().unwrap();
        assert_eq!(record.unwrap(), b"n|i:2;");
        assert!(counters.retries > 0 && counters.waits == 1, "{counters:?}");
    });
}

fn a_lock_handed_over_on_a_dead_connection_is_found() {
    let Cuttable { redis, proxy, save_path } = cuttable();
    let mut holder = store(&redis.url());
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    std::thread::scope(|scope| {
        let mut waiter = store(&save_path);
        let waiting = scope.spawn(move || lock(waiter.as_mut(), &id("abc")).0);
        // The answer to the join has gone through; the next is that to BLPOP.
        wait_until("it listens", LIMIT, || proxy.exchanges() >= 2);
        proxy.cut_at_reply(1);
        holder.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), b"n|i:2;");
        assert!(!proxy.cut_pending());
    });
}

fn a_server_without_its_data_refuses_the_late_write() {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    for change in [Change::Write(b"n|i:2;", LIFETIME), Change::Touch(b"n|i:1;", LIFETIME)] {
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        redis.restart();
        let error = store.commit(&id("abc"), hold, change, soon()).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::LockLost, Outcome::Refused), "{error}");
        assert_eq!(redis.command(&["DBSIZE"]), "0");
    }
    // And the next request begins anew, over a new connection.
    put(store.as_mut(), &id("abc"), b"n|i:3;");
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:3;");
}

fn a_server_back_with_its_data_takes_the_write() {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    redis.restart_with_data();
    store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:2;");
    assert_eq!(redis.command(&["EXISTS", &lock_key("abc")]), "0");
}

fn a_server_that_is_down_is_unreachable() {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    redis.kill();
    let strict = Access::Exclusive { wait: LIMIT, unknown: Unknown::Refuse };
    for access in [EXCLUSIVE, strict, Access::ReadOnly, Access::Unlocked] {
        let error = store.open(&id("abc"), access, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        let shown = error.to_string();
        assert!(
            shown.contains("Connection refused") && shown.contains(&format!("(store {})", redis.url())),
            "{shown}"
        );
    }
    assert_eq!(store.exists(&id("abc"), soon()).unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(store.list(&mut |_| true, soon()).unwrap_err().kind(), ErrorKind::Unreachable);
}

/// Not for long: the server does not answer, or not before it is let.
fn briefly() -> Deadline {
    Deadline::after(Duration::from_millis(200))
}

fn an_open_of_a_frozen_server_ends_and_leaves_no_lock() {
    let redis = Redis::start();
    put(store(&redis.url()).as_mut(), &id("abc"), b"n|i:1;");
    // By the script, and by SET and GET.
    for warm in [false, true] {
        let mut store = store(&redis.url());
        if warm {
            put(store.as_mut(), &id("abc"), b"n|i:1;");
        } else {
            store.exists(&id("abc"), soon()).unwrap();
        }
        redis.freeze();
        let error = store.open(&id("abc"), EXCLUSIVE, briefly()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        redis.thaw();
        // It had asked for the lock, and got it when nobody listened any more. Another session shows that it is let
        // go: the visitor's next request would find it.
        wait_until("the server has seen the request", LIMIT, || {
            redis.command(&["EXISTS", &lock_key("abc")]) == "1"
        });
        put(store.as_mut(), &id("other"), b"n|i:1;");
        assert_eq!(redis.command(&["EXISTS", &lock_key("abc")]), "0");
        assert_eq!(store.counters().connects, 2);
    }
}

fn a_commit_to_a_frozen_server_is_unknown() {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    redis.freeze();
    let error = store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), briefly()).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error}");
    redis.thaw();
    wait_until("the server does what it was asked for", LIMIT, || {
        redis.command(&["GET", &key("abc")]) == "n|i:2;"
            && redis.command(&["EXISTS", &lock_key("abc")]) == "0"
    });
}

fn a_commit_that_failed_leaves_no_lock_for_long() {
    let Cuttable { redis, proxy, save_path } = cuttable();
    let mut store = store(&save_path);
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    proxy.refuse(true);
    proxy.cut_now();
    store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap_err();
    assert_eq!(redis.command(&["EXISTS", &lock_key("abc")]), "1");
    proxy.refuse(false);
    put(store.as_mut(), &id("other"), b"n|i:1;");
    assert_eq!(redis.command(&["EXISTS", &lock_key("abc")]), "0");
}

fn a_late_answer_is_never_taken_for_the_next() {
    let Cuttable { redis, proxy, save_path } = cuttable();
    redis.command(&["SET", &key("one"), "1"]);
    redis.command(&["SET", &key("two"), "2"]);
    let mut store = store(&save_path);
    for _ in 0..3 {
        assert_eq!(read(store.as_mut(), &id("one")).unwrap(), b"1");
        proxy.hold_replies(true);
        let error = store.open(&id("one"), Access::ReadOnly, briefly()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        proxy.hold_replies(false);
        assert_eq!(read(store.as_mut(), &id("two")).unwrap(), b"2");
    }
}

/// Stopping and continuing a process interrupts its calls (EINTR), as PHP's timers do.
fn a_signal_ends_no_exchange_and_no_wait() {
    let Cuttable { redis, proxy, save_path } = cuttable();
    let logs = TempDir::new();
    let mut holder = store(&redis.url());
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    proxy.stall(true);
    let save_path = format!("{save_path}?read_timeout=30");
    let waiter = start(&mut worker(&["hold", &save_path, "abc", "15000"]), logs.path());
    let interrupt = || {
        for _ in 0..5 {
            waiter.freeze();
            waiter.thaw();
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait_until("it asks", LIMIT, || proxy.connections() == 1);
    interrupt();
    proxy.stall(false);
    wait_until("it waits", LIMIT, || redis.command(&["INFO", "clients"]).contains("blocked_clients:1"));
    interrupt();
    holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    wait_until("it holds the lock", LIMIT, || waiter.stdout().contains("holding"));
    assert_eq!(proxy.connections(), 1);
}
