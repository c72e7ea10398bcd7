//! Without a lock: what was undone is counted; and lives that are prolonged by reading.

use std::time::{Duration, Instant};

use cloakroom::{Access, Change, Hold, Refresh, Seen, Settings};
use testbed::redis::Redis;
use testbed::suite::{Case, case};

use crate::worker::{EXCLUSIVE, LIFETIME, id, patient, put, soon, store_with};
use crate::{REDIS, key, lives, store};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_write_that_undoes_anothers_is_counted", REDIS, a_write_that_undoes_anothers_is_counted),
        case("a_server_that_cannot_tell_is_asked_once", REDIS, a_server_that_cannot_tell_is_asked_once),
        case("reading_prolongs_a_life_in_the_same_exchange", REDIS, reading_prolongs_a_life),
    ]
}

fn a_write_that_undoes_anothers_is_counted() {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    let mut conflicts = |before: Option<&str>, meanwhile: &[&str], write: &[u8]| {
        redis.command(&["FLUSHALL"]);
        if let Some(before) = before {
            redis.command(&["SET", &key("abc"), before]);
        }
        let opened = store.open(&id("abc"), Access::Unlocked, soon()).unwrap();
        redis.command(meanwhile);
        let counted = store.counters().conflicts;
        let since = Instant::now();
        store.commit(&id("abc"), opened.hold, Change::Write(write, LIFETIME), soon()).unwrap();
        assert_eq!(redis.command(&["GET", &key("abc")]).as_bytes(), write);
        lives(&redis, &key("abc"), since, LIFETIME);
        store.counters().conflicts - counted
    };
    let key = key("abc");
    assert_eq!(conflicts(None, &["PING"], b"n|i:1;"), 0, "nobody else was there");
    assert_eq!(conflicts(Some("n|i:1;"), &["PING"], b"n|i:2;"), 0);
    assert_eq!(conflicts(Some("n|i:1;"), &["SET", &key, "n|i:5;"], b"n|i:2;"), 1, "changed");
    assert_eq!(conflicts(None, &["SET", &key, "n|i:5;"], b"n|i:2;"), 1, "made");
    assert_eq!(conflicts(Some("n|i:1;"), &["DEL", &key], b"n|i:2;"), 1, "destroyed, and brought back");
    assert_eq!(conflicts(Some("n|i:1;"), &["SET", &key, "n|i:2;"], b"n|i:2;"), 0, "changed to the same");
    assert_eq!(conflicts(None, &["SET", &key, ""], b"n|i:2;"), 1, "an empty record is one");
}

/// As with a server of before 6.2: this one refuses to answer a write with what it overwrites.
fn a_server_that_cannot_tell_is_asked_once() {
    let redis = Redis::start();
    redis.command(&["ACL", "SETUSER", "php", "on", ">pw", "%W~PHPREDIS_SESSION:*", "+@all"]);
    let mut store = store(&format!("redis://php:pw@{}", redis.address()));
    for value in [b"n|i:1;", b"n|i:2;", b"n|i:3;"] {
        let hold = Hold::Unlocked(Seen::of(None));
        store.commit(&id("abc"), hold, Change::Write(value, LIFETIME), soon()).unwrap();
        assert_eq!(redis.command(&["GET", &key("abc")]).as_bytes(), value);
    }
    assert_eq!((store.counters().conflicts, store.counters().exchanges), (0, 4));
    assert_eq!(redis.command(&["ACL", "LOG"]).matches("count\n1\n").count(), 1, "refused once");
}

fn reading_prolongs_a_life() {
    let redis = Redis::start();
    let lifetime = Duration::from_secs(700);
    let settings = Settings { refresh: Refresh::AtRead, lifetime, ..patient() };
    let mut store = store_with(&redis.url(), settings);
    // The first lock of a worker goes another way.
    put(store.as_mut(), &id("other"), b"n|i:0;");
    for access in [Access::ReadOnly, Access::Unlocked, EXCLUSIVE] {
        redis.command(&["SET", &key("abc"), "n|i:1;", "EX", "100"]);
        let before = store.counters().exchanges;
        let since = Instant::now();
        let opened = store.open(&id("abc"), access, soon()).unwrap();
        assert_eq!(opened.record.unwrap().0, b"n|i:1;", "{access:?}");
        assert_eq!(store.counters().exchanges - before, 1, "{access:?}");
        lives(&redis, &key("abc"), since, lifetime);
        store.commit(&id("abc"), opened.hold, Change::Keep, soon()).unwrap();
    }
    let absent = store.open(&id("nobody"), Access::ReadOnly, soon()).unwrap();
    assert_eq!(absent.record, None);
    assert_eq!(redis.command(&["EXISTS", &key("nobody")]), "0");
}
