//! Several servers, each with its share of the sessions, as phpredis shares them out.

use std::collections::HashSet;

use cloakroom::{ErrorKind, Store};
use testbed::need::Need;
use testbed::php::Script;
use testbed::redis::Redis;
use testbed::suite::{Case, case};

use crate::worker::{EXCLUSIVE, id, lock, put, read, soon};
use crate::{REDIS, key, lock_key, store};

pub(crate) fn cases() -> Vec<Case> {
    let phpredis = &[Need::Redis, Need::Php, Need::PhpIgbinary, Need::PhpRedis];
    vec![
        case(
            "a_session_is_on_the_server_that_phpredis_chooses",
            phpredis,
            a_session_is_on_the_server_that_phpredis_chooses,
        ),
        case("a_lock_is_where_its_session_is", REDIS, a_lock_is_where_its_session_is),
        case("every_server_has_options_of_its_own", REDIS, every_server_has_options_of_its_own),
        case("a_dead_server_concerns_its_sessions_alone", REDIS, a_dead_server_concerns_its_sessions_alone),
        case("short_ids_have_their_server_too", REDIS, short_ids_have_their_server_too),
    ]
}

/// Three servers, and the list of them with the weights 1, 2 and 2.
pub(crate) fn three() -> ([Redis; 3], String) {
    let servers = [Redis::start(), Redis::start(), Redis::start()];
    let list: Vec<String> = servers
        .iter()
        .zip([1, 2, 2])
        .map(|(server, weight)| format!("{}?weight={weight}", server.native()))
        .collect();
    (servers, list.join(","))
}

fn a_session_is_on_the_server_that_phpredis_chooses() {
    let (servers, list) = three();
    // The connections stay: ten thousand sessions in seconds.
    let persistent = list.replace("weight=", "persistent=1&weight=");
    let code = "
        for ($i = 0; $i < 10000; $i++) {
            $id = substr(strtr(base64_encode(md5((string) $i, true)), '+/', ',-'), 0, 22 + $i % 2);
            $id = rtrim($id, '=');
            session_id($id);
            session_start();
            session_write_close();
            echo $id, \"\\n\";
        }";
    let ran = Script::new(code)
        .module("igbinary.so")
        .module("redis.so")
        .ini("session.save_handler", "redis")
        .ini("session.save_path", persistent)
        .ini("session.use_cookies", "0")
        .ini("session.use_only_cookies", "0")
        .ini("session.cache_limiter", "")
        .run();
    let printed = ran.ok();
    let ids: Vec<&str> = printed.lines().collect();
    assert_eq!(ids.len(), 10_000);
    let shares: Vec<usize> =
        servers.iter().map(|server| server.command(&["DBSIZE"]).parse().unwrap()).collect();
    println!("phpredis keeps {shares:?} sessions of 10000 on its servers");
    assert_eq!(shares.iter().sum::<usize>(), 10_000);
    assert!(shares.iter().all(|share| *share > 1000), "{shares:?}");
    let mut store = store(&list);
    for session in &ids {
        assert!(store.exists(&id(session), soon()).unwrap(), "{session} is on another server");
    }
    let listed = listed(store.as_mut());
    assert_eq!(listed.len(), 10_000);
    assert!(ids.iter().all(|session| listed.contains(*session)));
}

fn listed(store: &mut dyn Store) -> HashSet<String> {
    let mut listed = HashSet::new();
    let mut each = |id: cloakroom::SessionId| {
        assert!(listed.insert(id.as_str().to_owned()), "{} is listed twice", id.as_str());
        true
    };
    store.list(&mut each, soon()).unwrap();
    listed
}

/// phpredis looks for the server to release a lock on by other bytes than for the one to take it on, and leaves it there.
fn a_lock_is_where_its_session_is() {
    let (servers, list) = three();
    let mut store = store(&list);
    let mut used = HashSet::new();
    for session in sessions() {
        let (_, hold) = lock(store.as_mut(), &id(&session));
        let holders: Vec<usize> =
            (0..3).filter(|at| servers[*at].command(&["EXISTS", &lock_key(&session)]) == "1").collect();
        let &[holder] = &holders[..] else { panic!("{session} is locked on {holders:?}") };
        store
            .commit(&id(&session), hold, cloakroom::Change::Write(b"n|i:1;", crate::worker::LIFETIME), soon())
            .unwrap();
        assert_eq!(servers[holder].command(&["EXISTS", &lock_key(&session)]), "0");
        assert_eq!(servers[holder].command(&["GET", &key(&session)]), "n|i:1;");
        used.insert(holder);
    }
    assert_eq!(used.len(), 3);
}

/// Enough for every server to have some.
fn sessions() -> impl Iterator<Item = String> {
    (0..40).map(|number| format!("{:04}session", number * 37))
}

fn every_server_has_options_of_its_own() {
    let servers = [Redis::with(&["--requirepass", "a,b&c #+%"]), Redis::start(), Redis::unix()];
    let list = format!(
        "{}?auth=a%2Cb%26c%20%23%2B%25&prefix=first: , {}?database=3 {}?prefix=",
        servers[0].native(),
        servers[1].native(),
        servers[2].native()
    );
    let mut store = store(&list);
    for session in sessions() {
        put(store.as_mut(), &id(&session), b"n|i:1;");
        assert_eq!(read(store.as_mut(), &id(&session)).unwrap(), b"n|i:1;");
    }
    assert_eq!(listed(store.as_mut()), sessions().collect());
    let shares = ["db0", "db3", "db0"].map(|database| format!("{database}:keys="));
    for (server, share) in servers.iter().zip(shares) {
        assert!(server.command(&["INFO", "keyspace"]).contains(&share), "{server:?}");
    }
    let with = |server: &Redis, prefix: &str| {
        server.command(&["KEYS", "*"]).lines().filter(|key| !key.starts_with(prefix)).count()
    };
    assert_eq!((with(&servers[0], "first:"), with(&servers[2], "0")), (0, with(&servers[2], "0")));
}

fn a_dead_server_concerns_its_sessions_alone() {
    let (servers, list) = three();
    let mut store = store(&list);
    for session in sessions() {
        put(store.as_mut(), &id(&session), b"n|i:1;");
    }
    let lost: HashSet<String> =
        sessions().filter(|session| servers[1].command(&["EXISTS", &key(session)]) == "1").collect();
    servers[1].kill();
    for session in sessions() {
        match store.open(&id(&session), EXCLUSIVE, soon()) {
            Ok(opened) => {
                assert!(!lost.contains(&session), "{session}");
                store.commit(&id(&session), opened.hold, cloakroom::Change::Keep, soon()).unwrap();
            }
            Err(error) => {
                assert!(lost.contains(&session), "{session}: {error}");
                assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
                let shown = error.to_string();
                assert!(shown.contains(&servers[1].address()), "{shown}");
                assert!(!shown.contains(&servers[0].address()), "{shown}");
            }
        }
    }
    // What is left is not all, and not said to be.
    let error = store.list(&mut |_| true, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    servers[1].restart();
    for session in &lost {
        put(store.as_mut(), &id(session), b"n|i:2;");
    }
}

fn short_ids_have_their_server_too() {
    let (_servers, list) = three();
    let (mut first, mut second) = (store(&list), store(&list));
    for session in ["a", "ab", "abc", "-", ",", "0"] {
        put(first.as_mut(), &id(session), b"n|i:1;");
        assert_eq!(read(second.as_mut(), &id(session)).unwrap(), b"n|i:1;", "{session}");
    }
}
