//! Those who wait for one session.

use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cloakroom::{Access, Change, ErrorKind, Settings, Unknown};
use testbed::memcached::Memcached;
use testbed::process::Process;
use testbed::proxy::Proxy;
use testbed::suite::{Case, case};
use testbed::{TempDir, wait_until};

use crate::worker::{EXCLUSIVE, LIFETIME, counted, id, lock, put, read, soon, start, store_with, worker};
use crate::{LIMIT, MEMCACHED, key, leased, lock_key, patient, queue_key, store, waiters};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "eight_waiters_get_the_lock_in_their_order",
            MEMCACHED,
            eight_waiters_get_the_lock_in_their_order,
        ),
        case("who_comes_back_at_once_stands_behind_those_who_wait", MEMCACHED, who_comes_back_at_once),
        case("a_dead_waiter_is_passed_over_and_forgotten", MEMCACHED, a_dead_waiter_is_passed_over),
        case("a_dead_holders_lock_goes_to_the_first_waiter", MEMCACHED, a_dead_holders_lock),
        case("a_waiter_that_is_missing_in_the_queue_joins_again", MEMCACHED, a_missing_waiter_joins_again),
        case("a_lock_of_somebody_else_is_waited_for", MEMCACHED, a_lock_of_somebody_else_is_waited_for),
        case(
            "a_waiter_that_gives_up_passes_its_place_on",
            MEMCACHED,
            a_waiter_that_gives_up_passes_its_place_on,
        ),
        case("a_queue_that_is_full_refuses_the_next", MEMCACHED, a_queue_that_is_full_refuses_the_next),
        case("a_queue_full_of_the_dead_does_not_keep_the_living_out", MEMCACHED, a_queue_full_of_the_dead),
        case("a_waiter_whose_connection_is_cut_waits_on", MEMCACHED, a_waiter_whose_connection_is_cut),
        case("a_restarted_server_serves_those_who_wait", MEMCACHED, a_restarted_server_serves_those_who_wait),
        case(
            "eight_processes_lose_none_of_1600_updates",
            MEMCACHED,
            eight_processes_lose_none_of_1600_updates,
        ),
        case("eight_processes_lose_nothing_over_meta_and_a_jittery_net", MEMCACHED, jittery),
    ]
}

fn url(memcached: &Memcached) -> String {
    format!("memcached://{}", memcached.address())
}

/// From then on, a first waiter that has left a free lock alone is taken to be dead.
const DEAD: Duration = Duration::from_millis(500);

/// As many that wait for `abc`, each in its turn, until `then` releases it.
fn in_turn(memcached: &Memcached, count: usize, then: impl FnOnce()) {
    let free = Mutex::new((Instant::now(), Vec::new()));
    std::thread::scope(|scope| {
        for number in 0..count {
            let (mut store, free) = (store(&url(memcached)), &free);
            scope.spawn(move || {
                let (_, hold) = lock(store.as_mut(), &id("abc"));
                {
                    let (since, passed) = &mut *free.lock().unwrap();
                    passed.push((number, since.elapsed()));
                    *since = Instant::now();
                }
                store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
            });
            wait_until("it stands in the queue", LIMIT, || waiters(memcached, "abc") == number + 1);
        }
        free.lock().unwrap().0 = Instant::now();
        then();
    });
    let (_, passed) = free.into_inner().unwrap();
    assert_eq!(passed.len(), count);
    let mut queue: Vec<usize> = (0..count).collect();
    for (number, free) in &passed {
        // On a machine that stands still, a living one may be overtaken; it joins again behind the others then.
        let its_turn = queue.first().is_none_or(|first| first == number);
        assert!(its_turn || *free >= DEAD, "by number, and after how long a free lock: {passed:?}");
        let place = queue.iter().position(|waiting| waiting == number);
        queue.drain(..place.map_or(0, |place| place + 1));
    }
}

fn eight_waiters_get_the_lock_in_their_order() {
    let memcached = Memcached::start();
    let mut holder = store(&url(&memcached));
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    in_turn(&memcached, 8, || {
        holder.commit(&id("abc"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
    });
    assert_eq!(memcached.keys(), [key("abc")], "the queue is gone");
}

/// Its first lock was free, so that it has met nobody; and it asks before anybody looks.
fn who_comes_back_at_once() {
    let memcached = Memcached::start();
    let mut holder = store(&url(&memcached));
    let (_, mut hold) = lock(holder.as_mut(), &id("abc"));
    let had_it = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut waiter = store(&url(&memcached));
        let had_it = &had_it;
        scope.spawn(move || {
            let (_, hold) = lock(waiter.as_mut(), &id("abc"));
            had_it.store(true, Ordering::SeqCst);
            waiter.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
        });
        wait_until("it waits", LIMIT, || waiters(&memcached, "abc") == 1);
        let mut free = Duration::ZERO;
        for _ in 0..2 {
            // Longer than a waiter lets pass between two looks, and so that it looks less often.
            std::thread::sleep(Duration::from_millis(300));
            let since = Instant::now();
            holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
            hold = lock(holder.as_mut(), &id("abc")).1;
            free = since.elapsed();
        }
        // On a machine that stands still, a living one may be overtaken.
        assert!(had_it.load(Ordering::SeqCst) || free >= DEAD, "taken again after {free:?}");
        holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    });
}

fn a_dead_waiter_is_passed_over() {
    let memcached = Memcached::start();
    let logs = TempDir::new();
    let mut holder = store(&url(&memcached));
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let dead = start(&mut worker(&["hold", &url(&memcached), "abc", "600000"]), logs.path());
    wait_until("it waits", LIMIT, || waiters(&memcached, "abc") == 1);
    dead.kill();
    std::thread::scope(|scope| {
        let mut next = store(&url(&memcached));
        let next = scope.spawn(move || put(next.as_mut(), &id("abc"), b"n|i:1;"));
        wait_until("the next waits", LIMIT, || waiters(&memcached, "abc") == 2);
        holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
        next.join().unwrap();
    });
    assert_eq!(memcached.keys(), [key("abc")], "nobody is left in the queue");
}

fn a_dead_holders_lock() {
    let memcached = Memcached::start();
    let logs = TempDir::new();
    let dead = start(&mut worker(&["hold", &url(&memcached), "abc", "600000"]), logs.path());
    wait_until("it holds the lock", LIMIT, || dead.stdout().contains("holding"));
    in_turn(&memcached, 3, || {
        dead.kill();
        // As the server does when the lease is over.
        assert!(memcached.delete(&lock_key("abc")));
    });
}

/// Evicted, or flushed.
fn a_missing_waiter_joins_again() {
    let memcached = Memcached::start();
    let mut holder = store(&url(&memcached));
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let passed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (mut store, passed) = (store(&url(&memcached)), &passed);
            scope.spawn(move || {
                let (_, hold) = lock(store.as_mut(), &id("abc"));
                store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
                passed.fetch_add(1, Ordering::SeqCst);
            });
        }
        wait_until("all wait", LIMIT, || waiters(&memcached, "abc") == 3);
        for _ in 0..3 {
            memcached.command(&format!("delete {}", queue_key("abc")));
            wait_until("all are back", LIMIT, || waiters(&memcached, "abc") == 3);
        }
        holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    });
    assert_eq!(passed.into_inner(), 3);
    assert_eq!(memcached.keys(), [""; 0]);
}

fn a_lock_of_somebody_else_is_waited_for() {
    let memcached = Memcached::start();
    for lock in ["1", "something else"] {
        memcached.set(&lock_key("abc"), lock);
        std::thread::scope(|scope| {
            let mut store = store(&url(&memcached));
            let waiter = scope.spawn(move || {
                let (record, hold) = crate::worker::lock(store.as_mut(), &id("abc"));
                store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
                (record, store.counters())
            });
            wait_until("it waits", LIMIT, || waiters(&memcached, "abc") == 1);
            // As php-memcached: nobody is told.
            memcached.set(&key("abc"), "n|i:7;");
            memcached.command(&format!("delete {}", lock_key("abc")));
            let (record, counters) = waiter.join().unwrap();
            assert_eq!(record.unwrap(), b"n|i:7;");
            assert_eq!(counters.waits, 1);
            assert!(!counters.waited.is_zero());
        });
        assert_eq!(memcached.keys(), [key("abc")]);
    }
}

fn a_waiter_that_gives_up_passes_its_place_on() {
    let memcached = Memcached::start();
    memcached.set(&lock_key("abc"), "1");
    std::thread::scope(|scope| {
        let mut first = store(&url(&memcached));
        // Long enough to be seen in the queue.
        let briefly = Access::Exclusive { wait: Duration::from_secs(3), unknown: Unknown::Lock };
        let first = scope.spawn(move || first.open(&id("abc"), briefly, soon()).map(drop));
        wait_until("the first waits", LIMIT, || waiters(&memcached, "abc") == 1);
        let mut second = store(&url(&memcached));
        let second = scope.spawn(move || lock(second.as_mut(), &id("abc")).0);
        assert_eq!(first.join().unwrap().unwrap_err().kind(), ErrorKind::LockBusy);
        wait_until("the second waits alone", LIMIT, || waiters(&memcached, "abc") == 1);
        memcached.command(&format!("delete {}", lock_key("abc")));
        assert_eq!(second.join().unwrap(), None);
    });
}

fn a_queue_that_is_full_refuses_the_next() {
    let memcached = Memcached::start();
    let mut holder = store(&url(&memcached));
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    in_turn(&memcached, 3, || {
        let settings = Settings { max_waiters: NonZeroU32::new(3), ..patient() };
        let mut refused = store_with(&url(&memcached), settings);
        let error = refused.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockBusy);
        assert!(error.to_string().contains("3 requests wait"), "{error}");
        assert_eq!(waiters(&memcached, "abc"), 3, "it has left");
        holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    });
}

/// Workers that were killed while they waited, as many as may wait.
fn a_queue_full_of_the_dead() {
    let memcached = Memcached::start();
    let queue = |seconds: u32| {
        let dead = "0123456789abcdef".repeat(16);
        memcached.command(&format!("set {} 0 {seconds} {}\r\n{dead}", queue_key("abc"), dead.len()));
    };
    let mut holder = store(&url(&memcached));
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    queue(10);
    for _ in 0..2 {
        let error = store(&url(&memcached)).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
        assert!(error.to_string().contains("16 requests wait"), "{error}");
    }
    let life = memcached.command(&format!("mg {} t", queue_key("abc")));
    let life = life.trim_end().strip_prefix("HD t").map(|life| life.parse::<u32>().unwrap());
    assert!(life.is_none_or(|life| life <= 10), "who is refused does not prolong it: {life:?}");
    // One that queues at once, because others were there lately.
    memcached.command(&format!("delete {}", queue_key("abc")));
    let mut waiter = store(&url(&memcached));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| put(waiter.as_mut(), &id("abc"), b"n|i:1;"));
        wait_until("it waits", LIMIT, || waiters(&memcached, "abc") == 1);
        holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
        waiting.join().unwrap();
    });
    queue(0);
    // At the second time at the latest: by then it has met them.
    wait_until("it takes them off", LIMIT, || {
        let (record, hold) = lock(waiter.as_mut(), &id("abc"));
        assert_eq!(record.unwrap(), b"n|i:1;");
        waiter.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
        waiters(&memcached, "abc") == 0
    });
}

fn a_waiter_whose_connection_is_cut() {
    let memcached = Memcached::start();
    let proxy = Proxy::to(memcached.address());
    let mut holder = store(&url(&memcached));
    put(holder.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    std::thread::scope(|scope| {
        let mut store = store(&format!("memcached://{}", proxy.address()));
        let waiter = scope.spawn(move || {
            let (record, hold) = lock(store.as_mut(), &id("abc"));
            store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
            (record.unwrap(), store.counters().retries)
        });
        wait_until("it waits", LIMIT, || waiters(&memcached, "abc") == 1);
        for _ in 0..5 {
            proxy.cut_now();
            // Over a new connection: of two cuts in a row, one would be told.
            proxy.reset_counts();
            wait_until("it asks again", LIMIT, || proxy.exchanges() > 2);
        }
        holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
        let (record, retries) = waiter.join().unwrap();
        assert_eq!(record, b"n|i:1;");
        assert!(retries > 0);
    });
    assert_eq!(memcached.keys(), [key("abc")]);
}

fn a_restarted_server_serves_those_who_wait() {
    let memcached = Memcached::start();
    let mut holder = store(&url(&memcached));
    let (_, _hold) = lock(holder.as_mut(), &id("abc"));
    std::thread::scope(|scope| {
        let mut store = store(&url(&memcached));
        let waiter = scope.spawn(move || store.open(&id("abc"), EXCLUSIVE, soon()).map(drop));
        wait_until("it waits", LIMIT, || waiters(&memcached, "abc") == 1);
        memcached.restart();
        // Refused in the moment that there is no server, or served.
        if let Err(error) = waiter.join().unwrap() {
            assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        }
    });
    let mut next = leased(&url(&memcached), Duration::from_secs(1));
    assert_eq!(read(next.as_mut(), &id("abc")), None);
}

/// Eight processes add two hundred each.
fn race(save_path: &str) {
    let logs = TempDir::new();
    put(store(save_path).as_mut(), &id("abc"), b"n|i:0;");
    let workers: Vec<_> = (0..8)
        .map(|number| {
            let mut hammer = worker(&["hammer", save_path, "abc", "200"]);
            Process::start(&mut hammer, logs.path(), &format!("worker{number}"))
        })
        .collect();
    for worker in workers {
        let status = worker.wait(LIMIT * 3);
        assert!(status.success(), "{}", worker.log());
    }
    assert_eq!(counted(&read(store(save_path).as_mut(), &id("abc")).unwrap()), 1600);
}

fn eight_processes_lose_none_of_1600_updates() {
    let memcached = Memcached::start();
    race(&format!("{}?protocol=ascii", url(&memcached)));
    wait_until("neither lock nor queue is left", LIMIT, || memcached.keys() == [key("abc")]);
}

fn jittery() {
    let servers = [Memcached::start(), Memcached::start(), Memcached::start()];
    let proxies = servers.each_ref().map(|server| Proxy::to(server.address()));
    for proxy in &proxies {
        proxy.delay(Duration::ZERO, Duration::from_micros(300));
    }
    let ring = proxies.each_ref().map(Proxy::address).join(",");
    race(&format!("memcached://{ring}?protocol=meta"));
    // Who gives the lock back on another server than the session's does not wait for the answer.
    for server in servers {
        wait_until("neither lock nor queue is left", LIMIT, || {
            server.keys().iter().all(|left| *left == key("abc"))
        });
    }
}
