//! Error replies of a real server: each names who must act.

use std::net::TcpListener;
use std::sync::Barrier;
use std::time::Duration;

use cloakroom::{Access, Change, Committed, Deadline, ErrorKind, Extent, Outcome};
use testbed::redis::Redis;
use testbed::suite::{Case, case};
use testbed::wait_until;

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, put, read, soon};
use crate::{LIMIT, REDIS, key, lock_key, store, told};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "a_full_server_refuses_the_write_and_frees_the_lock",
            REDIS,
            a_full_server_refuses_the_write_and_frees_the_lock,
        ),
        case("a_replica_refuses_and_says_so", REDIS, a_replica_refuses_and_says_so),
        case("a_server_without_its_replicas_says_so", REDIS, a_server_without_its_replicas_says_so),
        case("a_server_with_too_many_clients_says_so", REDIS, a_server_with_too_many_clients_says_so),
        case(
            "what_a_full_server_said_is_not_said_of_what_came_later",
            REDIS,
            what_a_full_server_said_is_not_said_of_what_came_later,
        ),
        case(
            "workers_take_turns_where_clients_find_no_room",
            REDIS,
            workers_take_turns_where_clients_find_no_room,
        ),
        case("an_evicted_session_is_written_again", REDIS, an_evicted_session_is_written_again),
        case("a_busy_server_says_so", REDIS, a_busy_server_says_so),
        case(
            "a_database_that_does_not_exist_is_a_fault_of_the_url",
            REDIS,
            a_database_that_does_not_exist_is_a_fault_of_the_url,
        ),
        case(
            "something_else_under_the_key_is_corrupt_and_kept",
            REDIS,
            something_else_under_the_key_is_corrupt_and_kept,
        ),
        case("a_forgotten_script_is_sent_again", REDIS, a_forgotten_script_is_sent_again),
        case(
            "a_server_that_speaks_another_protocol_is_corrupt",
            REDIS,
            a_server_that_speaks_another_protocol_is_corrupt,
        ),
    ]
}

fn a_full_server_refuses_the_write_and_frees_the_lock() {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Full, Outcome::Refused), "{error}");
    assert_eq!(redis.command(&["GET", &key("abc")]), "n|i:1;");
    assert_eq!(redis.command(&["EXISTS", &lock_key("abc")]), "0");
    let error = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    // Reading works.
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
}

fn a_replica_refuses_and_says_so() {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::Refused), "{error}");
    assert!(error.to_string().contains("this server is a replica"), "{error}");
    let error = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    redis.command(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    let error = store.open(&id("abc"), Access::ReadOnly, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("MASTERDOWN"), "{error}");
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
}

fn a_server_without_its_replicas_says_so() {
    let redis = Redis::with(&["--min-replicas-to-write", "1"]);
    let error = store(&redis.url()).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("min-replicas-to-write"), "{error}");
}

fn a_server_with_too_many_clients_says_so() {
    let redis = Redis::start();
    redis.command(&["CONFIG", "SET", "maxclients", "1"]);
    let (mut first, mut second) = (store(&redis.url()), store(&redis.url()));
    wait_until("the first is the only client", LIMIT, || first.exists(&id("abc"), soon()).is_ok());
    for access in [EXCLUSIVE, Access::ReadOnly] {
        let briefly = || Deadline::after(Duration::from_secs(2));
        let error = told(|| second.open(&id("abc"), access, briefly()).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        assert!(error.to_string().contains("raise maxclients"), "{error}");
    }
    assert!(second.counters().turned_away > 1);
    // Whenever the time is up, also in the middle of an attempt: a busy machine may leave an answer out, and no more.
    for microseconds in (3000..16_000).step_by(100) {
        let before = second.counters().turned_away;
        let by = Deadline::after(Duration::from_micros(microseconds));
        let error = second.open(&id("abc"), EXCLUSIVE, by).unwrap_err();
        let unheard = second.counters().turned_away == before || error.outcome() == Outcome::Unknown;
        assert!(error.kind() == ErrorKind::Unreachable || unheard, "{error}");
    }
    // With time, it finds room as soon as there is some.
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| put(second.as_mut(), &id("abc"), b"n|i:1;"));
        drop(first);
        waiter.join().unwrap();
    });
}

/// The server is gone meanwhile: what it said of its clients is no longer why nobody answers.
fn what_a_full_server_said_is_not_said_of_what_came_later() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut store = store(&format!("redis://{}", listener.local_addr().unwrap()));
    let full = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut turned_away = 0;
        while turned_away < 3 {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(b"-ERR max number of clients reached\r\n");
            turned_away += u64::from(stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0));
        }
    });
    let error = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    full.join().unwrap();
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(store.counters().turned_away > 0, "{error}");
    let error = store.open(&id("abc"), EXCLUSIVE, Deadline::after(Duration::ZERO)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

/// Eight workers, and a server that takes five.
fn workers_take_turns_where_clients_find_no_room() {
    let redis = Redis::start();
    redis.command(&["CONFIG", "SET", "maxclients", "5"]);
    let together = Barrier::new(8);
    let worker = |number: usize| {
        let mut store = store(&redis.url());
        let session = id(&format!("session{number}"));
        together.wait();
        let mut warned = 0;
        for round in 0..30 {
            put(store.as_mut(), &session, format!("n|i:{round};").as_bytes());
            assert!(read(store.as_mut(), &session).is_some());
            if round == 0 {
                let findings = store.inspect(Extent::Connected, soon()).unwrap();
                warned += findings.iter().filter(|finding| finding.what.contains("no room")).count();
            }
        }
        // Nobody leaves for the others to find room.
        together.wait();
        (warned, store.counters())
    };
    let done: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|number| {
                scope.spawn({
                    let worker = &worker;
                    move || worker(number)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let turned_away = done.iter().filter(|(_, counters)| counters.turned_away > 0).count();
    println!(
        "{turned_away} of 8 workers were turned away; warnings: {:?}",
        done.iter().map(|(warned, _)| *warned).collect::<Vec<_>>()
    );
    assert!(done.iter().all(|(warned, counters)| *warned == 1 || counters.turned_away == 0));
    wait_until("the server has seen them go", LIMIT, || redis.command(&["PING"]) == "PONG");
    redis.command(&["CONFIG", "SET", "maxclients", "100"]);
    for number in 0..8 {
        assert_eq!(redis.command(&["GET", &key(&format!("session{number}"))]), "n|i:29;");
    }
}

/// By a server that really evicts: it makes room for what is used, and the session is not.
fn an_evicted_session_is_written_again() {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let (record, hold) = lock(store.as_mut(), &id("abc"));
    // The lock is used all the time, the session never again. The server tells this apart by whole seconds.
    wait_until("the session is older than the lock", LIMIT, || {
        redis.command(&["GET", &lock_key("abc")]);
        redis.command(&["OBJECT", "IDLETIME", &key("abc")]) != "0"
    });
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory-samples", "64"]);
    let used: u64 = info(&redis, "used_memory").parse().unwrap();
    redis.command(&["CONFIG", "SET", "maxmemory", &(used + 2_000_000).to_string()]);
    let filling = "x".repeat(10_000);
    let mut number = 0;
    wait_until("the session is evicted", LIMIT, || {
        redis.command(&["GET", &lock_key("abc")]);
        redis.command(&["SET", &format!("filling{number}"), &filling]);
        number += 1;
        redis.command(&["EXISTS", &key("abc")]) == "0"
    });
    assert_eq!(redis.command(&["EXISTS", &lock_key("abc")]), "1");
    // Nothing is to be evicted between the touch and the look at what it did.
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    let committed =
        store.commit(&id("abc"), hold, Change::Touch(&record.unwrap(), LIFETIME), soon()).unwrap();
    assert_eq!(committed, Committed::Rewritten);
    assert_eq!(redis.command(&["GET", &key("abc")]), "n|i:1;");
}

/// A line of `INFO`.
fn info(redis: &Redis, name: &str) -> String {
    let info = redis.command(&["INFO"]);
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {info}")).trim().to_owned()
}

fn a_busy_server_says_so() {
    let redis = Redis::with(&["--lua-time-limit", "50"]);
    let mut store = store(&redis.url());
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    std::thread::scope(|scope| {
        scope.spawn(|| redis.command(&["EVAL", "while true do end", "0"]));
        let mut error = None;
        wait_until("the server is busy", LIMIT, || {
            error = store.open(&id("abc"), Access::ReadOnly, soon()).err();
            error.is_some()
        });
        assert_eq!(redis.command(&["SCRIPT", "KILL"]), "OK");
        let error = error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        assert!(error.to_string().contains("BUSY"), "{error}");
    });
    put(store.as_mut(), &id("abc"), b"n|i:2;");
}

fn a_database_that_does_not_exist_is_a_fault_of_the_url() {
    let redis = Redis::start();
    let mut store = store(&format!("{}?database=99", redis.url()));
    let error = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("correct database="), "{error}");
}

fn something_else_under_the_key_is_corrupt_and_kept() {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    put(store.as_mut(), &id("other"), b"n|i:1;");
    redis.command(&["RPUSH", &key("abc"), "x"]);
    for _ in 0..2 {
        for access in [EXCLUSIVE, Access::ReadOnly] {
            let error = store.open(&id("abc"), access, soon()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
        assert_eq!(redis.command(&["LLEN", &key("abc")]), "1");
        assert_eq!(redis.command(&["EXISTS", &lock_key("abc")]), "0");
    }
}

fn a_forgotten_script_is_sent_again() {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    for round in 0..3 {
        let bytes = format!("n|i:{round};");
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        redis.command(&["SCRIPT", "FLUSH"]);
        store.commit(&id("abc"), hold, Change::Write(bytes.as_bytes(), LIFETIME), soon()).unwrap();
        assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), bytes.into_bytes());
    }
}

fn a_server_that_speaks_another_protocol_is_corrupt() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let save_path = format!("redis://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            use std::io::{Read, Write};
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            // Until the other side has read it.
            while stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {}
        }
    });
    let error = store(&save_path).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("names a Redis server"), "{error}");
}
