//! Looking at sessions and locks where the user has few rights, and in a cluster.

use std::time::Duration;

use cloakroom::{Broken, Change, Ends, Holder, Life, SessionId};
use testbed::need::Need;
use testbed::redis::Redis;
use testbed::suite::{Case, case};

use crate::cluster::shared;
use crate::worker::{id, lock, soon};
use crate::{REDIS, key, lock_key, store};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("what_phpredis_left_is_told", REDIS, native),
        case("without_scripts_a_session_is_seen_all_the_same", REDIS, without_scripts),
        case("dead_waiters_are_not_counted", REDIS, dead_waiters),
        case("cluster: locks_are_found_whatever_the_prefix", &[Need::Redis], prefixes),
    ]
}

fn native() {
    let redis = Redis::start();
    redis.command(&["SET", &key("abc"), "n|i:1;"]);
    redis.command(&["SET", &lock_key("abc"), "web1|4711", "PX", "20000"]);
    let mut store = store(&redis.url());
    let seen = store.peek(&id("abc"), soon()).unwrap();
    assert_eq!((seen.record.unwrap().0, seen.life), (b"n|i:1;".to_vec(), Life::Endless));
    let lock = seen.lock.unwrap();
    assert_eq!(lock.holder, Holder::Native { host: "web1".into(), pid: 4711 });
    let Ends::After(left) = lock.ends else { panic!("{lock:?}") };
    assert!(left > Duration::ZERO && left <= Duration::from_secs(20), "{left:?}");
    redis.command(&["SET", &lock_key("abc"), "web2|12"]);
    assert_eq!(store.break_lock(&id("abc"), &lock, soon()).unwrap(), Broken::Changed);
    let lock = store.peek(&id("abc"), soon()).unwrap().lock.unwrap();
    assert_eq!(lock.ends, Ends::Never);
    assert_eq!(store.break_lock(&id("abc"), &lock, soon()).unwrap(), Broken::Done);
    assert_eq!(redis.command(&["KEYS", "*"]), key("abc"));
}

fn without_scripts() {
    let redis = Redis::start();
    redis.command(&["SET", &key("abc"), "n|i:1;", "EX", "1000"]);
    redis.command(&["SET", &lock_key("abc"), "web1|4711"]);
    redis.command(&["ACL", "SETUSER", "php", "on", ">secret", "~*", "-@all", "+get", "+pttl"]);
    let seen = store(&redis.url().replace("//", "//php:secret@")).peek(&id("abc"), soon()).unwrap();
    assert_eq!(seen.record.unwrap().0, b"n|i:1;");
    assert!(matches!(seen.life, Life::Left(_)), "{:?}", seen.life);
    assert_eq!(seen.lock.unwrap().holder, Holder::Native { host: "web1".into(), pid: 4711 });
}

fn dead_waiters() {
    let redis = Redis::start();
    let (mut holder, mut other) = (store(&redis.url()), store(&redis.url()));
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let queue = format!("{}_QUEUE", lock_key("abc"));
    redis.command(&["RPUSH", &queue, "cloakroom:00112233445566778899aabbccddeeff:h:1"]);
    assert_eq!(other.peek(&id("abc"), soon()).unwrap().lock.unwrap().waiting, Some(0));
    redis.command(&["SET", &format!("{}_WAIT_00112233445566778899aabbccddeeff", lock_key("abc")), "1"]);
    assert_eq!(other.peek(&id("abc"), soon()).unwrap().lock.unwrap().waiting, Some(1));
    holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
}

fn prefixes() {
    for prefix in ["looking:", "{looking}:", "{look*?[ing:"] {
        let encoded = prefix.replace('{', "%7B").replace('}', "%7D").replace('[', "%5B").replace('?', "%3F");
        let save_path = format!("{}?prefix={encoded}", shared().url());
        let (mut holder, mut other) = (store(&save_path), store(&save_path));
        let held: Vec<_> =
            ["a1", "b2", "c3"].map(|session| (session, lock(holder.as_mut(), &id(session)))).into();
        let mut found = Vec::new();
        let mut each = |id: SessionId, _| {
            found.push(id.as_str().to_owned());
            true
        };
        other.locks(&mut each, soon()).unwrap();
        found.sort();
        assert_eq!(found, ["a1", "b2", "c3"], "{prefix}");
        for (session, (_, hold)) in held {
            holder.commit(&id(session), hold, Change::Keep, soon()).unwrap();
        }
    }
}
