//! Those who wait for one session.

use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::Duration;

use cloakroom::stores::redis::RIGHTS;
use cloakroom::{Access, Change, Deadline, ErrorKind, Settings, Unknown};
use testbed::need::Need;
use testbed::proxy::Proxy;
use testbed::redis::Redis;
use testbed::suite::{Case, case};
use testbed::twemproxy::Twemproxy;
use testbed::{TempDir, wait_until};

use crate::worker::{
    EXCLUSIVE, LIFETIME, counted, id, increment, lock, patient, put, read, soon, start, store_with, worker,
};
use crate::{LIMIT, LONG, REDIS, key, leased, lock_key, store, waiters};

pub(crate) fn cases() -> Vec<Case> {
    let twemproxy = &[Need::Redis, Need::Twemproxy][..];
    vec![
        case("eight_waiters_get_the_lock_in_their_order", REDIS, eight_waiters_get_the_lock_in_their_order),
        case("a_dead_waiter_is_passed_over", REDIS, a_dead_waiter_is_passed_over),
        case(
            "a_lock_handed_to_a_dying_waiter_is_free_soon",
            REDIS,
            a_lock_handed_to_a_dying_waiter_is_free_soon,
        ),
        case(
            "a_dead_holders_lock_goes_to_the_first_waiter",
            REDIS,
            a_dead_holders_lock_goes_to_the_first_waiter,
        ),
        case("a_lock_of_somebody_else_is_waited_for", REDIS, a_lock_of_somebody_else_is_waited_for),
        case("a_lock_of_somebody_else_is_never_touched", REDIS, a_lock_of_somebody_else_is_never_touched),
        case("a_waiter_that_gives_up_passes_its_place_on", REDIS, a_waiter_that_gives_up_passes_its_place_on),
        case(
            "a_lock_that_was_handed_over_is_renewed_early",
            REDIS,
            a_lock_that_was_handed_over_is_renewed_early,
        ),
        case("a_user_without_blpop_still_gets_its_turn", REDIS, a_user_without_blpop_still_gets_its_turn),
        case("a_user_without_lists_still_loses_nothing", REDIS, a_user_without_lists_still_loses_nothing),
        case(
            "users_with_and_without_lists_share_a_session",
            REDIS,
            users_with_and_without_lists_share_a_session,
        ),
        case("what_was_refused_is_asked_for_again", REDIS, what_was_refused_is_asked_for_again),
        case("scripts_kept_to_two_keys_lose_nothing", REDIS, scripts_kept_to_two_keys_lose_nothing),
        case("the_least_rights_are_enough_and_none_too_many", REDIS, the_least_rights_are_enough),
        case(
            "a_user_without_scripts_is_told_so_and_keeps_no_lock",
            REDIS,
            a_user_without_scripts_is_told_so_and_keeps_no_lock,
        ),
        case(
            "waiters_behind_twemproxy_ask_after_it_hung_up",
            twemproxy,
            waiters_behind_twemproxy_ask_after_it_hung_up,
        ),
    ]
}

fn eight_waiters_get_the_lock_in_their_order() {
    let redis = Redis::start();
    let mut holder = store(&redis.url());
    put(holder.as_mut(), &id("abc"), b"");
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let order = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (mut store, order) = (store(&redis.url()), &order);
            scope.spawn(move || {
                let (_, hold) = lock(store.as_mut(), &id("abc"));
                order.lock().unwrap().push(number);
                store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
            });
            wait_until("it stands in the queue", LIMIT, || waiters(&redis, "abc") == number + 1);
        }
        holder.commit(&id("abc"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
    });
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

/// Far less than the lease, and enough on a busy machine.
const SOON: Duration = Duration::from_secs(40);

fn a_dead_waiter_is_passed_over() {
    let redis = Redis::start();
    let logs = TempDir::new();
    let mut holder = leased(&redis.url(), LONG);
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let dead = start(&mut worker(&["hold", &redis.url(), "abc", "600000"]), logs.path());
    wait_until("it waits", LIMIT, || waiters(&redis, "abc") == 1);
    dead.kill();
    let queued = redis.command(&["LINDEX", &format!("{}_QUEUE", lock_key("abc")), "0"]);
    let its_mark = format!("{}_WAIT_{}", lock_key("abc"), &queued["cloakroom:".len()..][..32]);
    let mut next = leased(&redis.url(), LONG);
    std::thread::scope(|scope| {
        let next = scope.spawn(move || {
            next.open(&id("abc"), Access::Exclusive { wait: SOON, unknown: Unknown::Lock }, soon()).map(drop)
        });
        wait_until("its mark ends", LIMIT, || {
            let marks = redis.command(&["KEYS", "*_WAIT_*"]);
            !marks.is_empty() && !marks.contains(&its_mark)
        });
        holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
        next.join().unwrap().unwrap();
    });
}

fn a_lock_handed_to_a_dying_waiter_is_free_soon() {
    let redis = Redis::start();
    let logs = TempDir::new();
    let mut holder = leased(&redis.url(), LONG);
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let dying = start(&mut worker(&["hold", &redis.url(), "abc", "600000"]), logs.path());
    wait_until("it waits", LIMIT, || waiters(&redis, "abc") == 1);
    // Its mark is fresh: it is taken to be alive, and gets the lock.
    dying.freeze();
    holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    dying.kill();
    let mut next = leased(&redis.url(), LONG);
    let soon_enough = Access::Exclusive { wait: SOON, unknown: Unknown::Lock };
    next.open(&id("abc"), soon_enough, Deadline::after(SOON)).unwrap();
}

fn a_dead_holders_lock_goes_to_the_first_waiter() {
    let redis = Redis::start();
    let logs = TempDir::new();
    let dead = start(&mut worker(&["hold", &redis.url(), "abc", "600000"]), logs.path());
    wait_until("it holds the lock", LIMIT, || dead.stdout().contains("holding"));
    let order = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..3 {
            let (mut store, order) = (store(&redis.url()), &order);
            scope.spawn(move || {
                let (_, hold) = lock(store.as_mut(), &id("abc"));
                order.lock().unwrap().push(number);
                store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
            });
            wait_until("it stands in the queue", LIMIT, || waiters(&redis, "abc") == number + 1);
        }
        dead.kill();
        // So much for the lease that nobody prolongs any more.
        assert_eq!(redis.command(&["PEXPIRE", &lock_key("abc"), "1"]), "1");
    });
    assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
}

fn a_lock_of_somebody_else_is_waited_for() {
    let redis = Redis::start();
    for lock in ["host|1234", "0123456789abcdef0123456789abcdef"] {
        redis.command(&["SET", &lock_key("abc"), lock]);
        std::thread::scope(|scope| {
            let mut store = store(&redis.url());
            let waiter = scope.spawn(move || {
                put(store.as_mut(), &id("abc"), b"n|i:1;");
                store.counters()
            });
            wait_until("it waits", LIMIT, || waiters(&redis, "abc") == 1);
            // As phpredis: nobody is told.
            redis.command(&["SET", &key("abc"), "n|i:7;"]);
            redis.command(&["DEL", &lock_key("abc")]);
            let counters = waiter.join().unwrap();
            assert_eq!(counters.waits, 1);
            assert!(!counters.waited.is_zero());
        });
        assert_eq!(redis.command(&["EXISTS", &lock_key("abc")]), "0");
    }
}

fn a_lock_of_somebody_else_is_never_touched() {
    let redis = Redis::start();
    redis.command(&["SET", &lock_key("abc"), "host|1234"]);
    let mut store = store(&redis.url());
    for wait in [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(500)] {
        let access = Access::Exclusive { wait, unknown: Unknown::Lock };
        assert_eq!(store.open(&id("abc"), access, soon()).unwrap_err().kind(), ErrorKind::LockBusy);
        assert_eq!(redis.command(&["GET", &lock_key("abc")]), "host|1234");
        assert_eq!(redis.command(&["PTTL", &lock_key("abc")]), "-1");
    }
    // One that took over while we held it.
    redis.command(&["DEL", &lock_key("abc")]);
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    redis.command(&["SET", &lock_key("abc"), "host|1234"]);
    let error = store.commit(&id("abc"), hold, Change::Write(b"x", LIFETIME), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockLost, "{error}");
    assert_eq!(redis.command(&["GET", &lock_key("abc")]), "host|1234");
    assert_eq!(redis.command(&["EXISTS", &key("abc")]), "0");
}

fn a_waiter_that_gives_up_passes_its_place_on() {
    // Who gave up before the second came had no place to pass on: once more, with more time.
    let passed = [500, 3000, 20_000].map(Duration::from_millis).into_iter().any(|wait| {
        let redis = Redis::start();
        redis.command(&["SET", &lock_key("abc"), "host|1234"]);
        std::thread::scope(|scope| {
            let mut first = store(&redis.url());
            let briefly = Access::Exclusive { wait, unknown: Unknown::Lock };
            let first = scope.spawn(move || first.open(&id("abc"), briefly, soon()).map(drop));
            wait_until("the first waits", LIMIT, || waiters(&redis, "abc") == 1 || first.is_finished());
            let mut second = store(&redis.url());
            let second = scope.spawn(move || lock(second.as_mut(), &id("abc")).0);
            let mut both = false;
            wait_until("the second waits", LIMIT, || {
                both = waiters(&redis, "abc") == 2;
                both || first.is_finished()
            });
            assert_eq!(first.join().unwrap().unwrap_err().kind(), ErrorKind::LockBusy);
            assert!(!both || waiters(&redis, "abc") == 1, "it stands in the queue still");
            redis.command(&["DEL", &lock_key("abc")]);
            assert_eq!(second.join().unwrap(), None);
            both
        })
    });
    assert!(passed, "the first never waited for long enough");
}

fn a_lock_that_was_handed_over_is_renewed_early() {
    let redis = Redis::start();
    let mut holder = leased(&redis.url(), LONG);
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    std::thread::scope(|scope| {
        let mut next = leased(&redis.url(), LONG);
        let next = scope.spawn(move || next.open(&id("abc"), EXCLUSIVE, soon()).unwrap());
        wait_until("it waits", LIMIT, || waiters(&redis, "abc") == 1);
        holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
        let mut renewal = next.join().unwrap().renewal.unwrap();
        let pttl = || redis.command(&["PTTL", &lock_key("abc")]).parse::<u64>().unwrap();
        let lent = pttl();
        assert!(lent <= 3000, "{lent}");
        assert!(renewal.every <= Duration::from_secs(1), "{:?}", renewal.every);
        (renewal.renew)(soon()).unwrap();
        assert!(pttl() > 500_000);
    });
}

/// Eight workers, each with what `save_path` says, add to one session; all of it must be there in the end.
fn race(redis: &Redis, save_paths: &[String]) {
    let mut direct = store(&redis.url());
    put(direct.as_mut(), &id("abc"), b"n|i:0;");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let settings = Settings { max_waiters: None, ..patient() };
            let mut store = store_with(&save_paths[number % save_paths.len()], settings);
            scope.spawn(move || {
                for _ in 0..25 {
                    increment(store.as_mut(), &id("abc"), EXCLUSIVE).unwrap();
                }
            });
        }
    });
    assert_eq!(counted(&read(direct.as_mut(), &id("abc")).unwrap()), 200);
}

/// A server with a user `php` that may run these commands on the sessions' keys.
fn with_user(commands: &[&str]) -> (Redis, String) {
    let redis = Redis::start();
    let rules = [&["ACL", "SETUSER", "php", "on", ">pw", "~PHPREDIS_SESSION:*"], commands].concat();
    assert_eq!(redis.command(&rules), "OK");
    let save_path = format!("tcp://{}?auth[]=php&auth[]=pw", redis.address());
    (redis, save_path)
}

const LEAST: &[&str] = &["+get", "+set", "+del", "+exists", "+expire", "+pexpire", "+evalsha", "+eval"];

fn a_user_without_blpop_still_gets_its_turn() {
    let (redis, save_path) = with_user(&["+@all", "-@blocking"]);
    race(&redis, &[save_path]);
    assert!(redis.command(&["ACL", "LOG"]).contains("blpop"));
}

fn a_user_without_lists_still_loses_nothing() {
    let (redis, save_path) = with_user(LEAST);
    race(&redis, &[save_path]);
}

fn users_with_and_without_lists_share_a_session() {
    let (redis, save_path) = with_user(LEAST);
    race(&redis, &[save_path, redis.url()]);
}

/// A worker makes do without for ten seconds.
fn what_was_refused_is_asked_for_again() {
    let (redis, save_path) = with_user(&["+@all", "-@blocking"]);
    let (mut holder, mut waiter) = (store(&redis.url()), store(&save_path));
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let briefly = Access::Exclusive { wait: Duration::from_millis(300), unknown: Unknown::Lock };
    let mut wait =
        || assert_eq!(waiter.open(&id("abc"), briefly, soon()).unwrap_err().kind(), ErrorKind::LockBusy);
    let listened = || {
        let stats = redis.command(&["INFO", "commandstats"]);
        stats.contains("cmdstat_blpop:calls=") && !stats.contains("cmdstat_blpop:calls=0")
    };
    wait();
    assert!(!listened());
    redis.command(&["ACL", "SETUSER", "php", "+blpop"]);
    wait_until("it listens", LIMIT, || {
        wait();
        listened()
    });
    holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
}

/// As servers do that refuse a script the keys that it was not called with.
fn scripts_kept_to_two_keys_lose_nothing() {
    let redis = Redis::start();
    let rules = [
        "ACL",
        "SETUSER",
        "php",
        "on",
        ">pw",
        "+@all",
        "~PHPREDIS_SESSION:abc",
        "~PHPREDIS_SESSION:abc_LOCK",
    ];
    assert_eq!(redis.command(&rules), "OK");
    race(&redis, &[format!("tcp://{}?auth[]=php&auth[]=pw", redis.address())]);
    assert!(redis.command(&["ACL", "LOG"]).contains("_LOCK_"));
}

/// Each is used, and no other is asked for.
fn the_least_rights_are_enough() {
    let rights: Vec<&str> = RIGHTS.split_whitespace().collect();
    let (redis, save_path) = with_user(&rights);
    redis.command(&["ACL", "LOG", "RESET"]);
    redis.command(&["CONFIG", "RESETSTAT"]);
    let mut store = store(&save_path);
    // Waiters, one that gives up, and a native handler in between.
    std::thread::scope(|scope| {
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        let briefly = Access::Exclusive { wait: Duration::from_millis(300), unknown: Unknown::Lock };
        let late = crate::store(&save_path).open(&id("abc"), briefly, soon()).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::LockBusy);
        let waiters: Vec<_> = (0..8)
            .map(|_| {
                let settings = Settings { max_waiters: NonZeroU32::new(8), ..patient() };
                let mut waiter = store_with(&save_path, settings);
                scope.spawn(move || {
                    for _ in 0..20 {
                        increment(waiter.as_mut(), &id("abc"), EXCLUSIVE).unwrap();
                    }
                })
            })
            .collect();
        wait_until("all wait", LIMIT, || crate::waiters(&redis, "abc") == 8);
        let full =
            crate::worker::store_with(&save_path, Settings { max_waiters: NonZeroU32::new(8), ..patient() })
                .open(&id("abc"), EXCLUSIVE, soon())
                .unwrap_err();
        assert_eq!(full.kind(), ErrorKind::LockBusy);
        redis.command(&["SET", &format!("{}_FOREIGN", lock_key("abc")), "5", "PX", "60000"]);
        store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
    let opened = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap();
    (opened.renewal.unwrap().renew)(soon()).unwrap();
    assert_eq!(counted(&opened.record.unwrap().0), 160);
    assert!(store.exists(&id("abc"), soon()).unwrap());
    let mut listed = 0;
    let mut each = |_| {
        listed += 1;
        true
    };
    store.list(&mut each, soon()).unwrap();
    assert_eq!(listed, 1);
    store.commit(&id("abc"), opened.hold, Change::Touch(b"n|i:160;", LIFETIME), soon()).unwrap();
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    store.commit(&id("abc"), hold, Change::Delete, soon()).unwrap();
    assert!(!crate::store(&format!("{save_path}&database=1")).exists(&id("abc"), soon()).unwrap());
    assert_eq!(redis.command(&["ACL", "LOG"]), "", "nothing was refused");
    let used = redis.command(&["INFO", "commandstats"]);
    for right in rights {
        let command = format!("cmdstat_{}:calls=", right.trim_start_matches('+'));
        assert!(used.contains(&command), "{right} is not needed\n{used}");
    }
}

fn a_user_without_scripts_is_told_so_and_keeps_no_lock() {
    let (redis, save_path) = with_user(&["+@all", "-@scripting"]);
    let mut store = store(&save_path);
    for _ in 0..2 {
        let error = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let hint = "hint: allow EVAL and EVALSHA to the server's user";
        assert!(error.to_string().contains(hint), "{error}");
        assert_eq!(redis.command(&["KEYS", "*"]), "");
    }
    // What needs no lock works.
    assert_eq!(read(store.as_mut(), &id("abc")), None);
    let opened = store.open(&id("abc"), Access::Unlocked, soon()).unwrap();
    store.commit(&id("abc"), opened.hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
}

fn waiters_behind_twemproxy_ask_after_it_hung_up() {
    let redis = Redis::start();
    let twemproxy = Twemproxy::before(&[&redis]);
    race(&redis, &[format!("tcp://{}", twemproxy.address())]);
    // A worker finds out once, by two connections that end; its turn comes all the same.
    let proxy = Proxy::to(twemproxy.address());
    let (mut holder, mut waiter) = (store(&redis.url()), store(&format!("tcp://{}", proxy.address())));
    for _ in 0..2 {
        let (_, hold) = lock(holder.as_mut(), &id("abc"));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| put(waiter.as_mut(), &id("abc"), b"n|i:1;"));
            wait_until("it waits, and asks", LIMIT, || {
                waiters(&redis, "abc") == 1 && proxy.connections() == 3 && proxy.open_connections() == 1
            });
            holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
            waiting.join().unwrap();
        });
    }
    assert_eq!(waiter.counters().connects, 3);
}
