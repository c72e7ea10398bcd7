//! Error replies of a real server: each names who must act.

use std::time::Duration;

use cloakroom::{Access, Change, ErrorKind, Outcome};
use testbed::redis::Redis;
use testbed::suite::{Case, case};
use testbed::wait_until;

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, put, read, soon, store};
use crate::{LIMIT, REDIS, key, lock_key};

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
        let error = second.open(&id("abc"), access, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        assert!(error.to_string().contains("raise maxclients"), "{error}");
    }
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
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let save_path = format!("redis://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            use std::io::{Read, Write};
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let error = store(&save_path).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("names a Redis server"), "{error}");
}
