//! Sessions, locks and their keys on the server.

use std::time::Duration;

use cloakroom::{Access, Change, ErrorKind, SessionId, Unknown};
use testbed::memcached::Memcached;
use testbed::suite::{Case, case};

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, put, read, soon};
use crate::{MEMCACHED, key, leased, lock_key, released, store};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_lock_says_whose_it_is_and_ends_after_its_lease", MEMCACHED, a_lock_says_whose_it_is),
        case("a_lock_of_somebody_else_is_never_touched", MEMCACHED, a_lock_of_somebody_else_is_never_touched),
        case("an_empty_item_is_a_session_without_data", MEMCACHED, an_empty_item_is_a_session_without_data),
        case(
            "a_session_lives_for_more_than_thirty_days",
            MEMCACHED,
            a_session_lives_for_more_than_thirty_days,
        ),
        case("a_session_lives_for_decades", MEMCACHED, a_session_lives_for_decades),
        case("a_session_that_is_too_large_is_refused_and_the_old_one_stays", MEMCACHED, too_large),
        case("a_full_server_lets_go_of_a_lock", MEMCACHED, a_full_server_lets_go_of_a_lock),
        case("a_server_without_versions_is_refused", MEMCACHED, a_server_without_versions_is_refused),
        case("a_key_that_is_too_long_is_refused_before_it_is_sent", MEMCACHED, a_key_that_is_too_long),
    ]
}

#[track_caller]
fn ttl(memcached: &Memcached, key: &str) -> i64 {
    life(memcached, key).unwrap_or_else(|| panic!("{key} is gone"))
}

fn life(memcached: &Memcached, key: &str) -> Option<i64> {
    let answer = memcached.command(&format!("mg {key} t"));
    let seconds = answer.strip_prefix("HD t").and_then(|rest| rest.strip_suffix("\r\n"))?;
    Some(seconds.parse().unwrap())
}

fn a_lock_says_whose_it_is() {
    let memcached = Memcached::start();
    // Memcached's clock is coarse: it may end an item a second early, which the lease must outlast.
    for (lease, seconds) in [(15_000, 16), (1, 2), (1_001, 3)] {
        let mut store = leased(&format!("memcached://{}", memcached.address()), Duration::from_millis(lease));
        let lives = (0..20).filter_map(|number| {
            let session = format!("abc{lease}-{number}");
            let (_, _hold) = lock(store.as_mut(), &id(&session));
            // A short one may have ended before anybody looks.
            let value = String::from_utf8(memcached.get(&lock_key(&session))?).unwrap();
            assert!(value.starts_with("cloakroom:"), "{value}");
            assert!(value.ends_with(&format!(":{}", std::process::id())), "{value}");
            life(&memcached, &lock_key(&session))
        });
        // Its clock ticks in between for some.
        assert_eq!(lives.max(), Some(seconds), "a lease of {lease} ms");
    }
}

fn a_lock_of_somebody_else_is_never_touched() {
    let memcached = Memcached::start();
    memcached.set(&lock_key("abc"), "1");
    let mut store = store(&format!("memcached://{}", memcached.address()));
    for wait in [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(500)] {
        let access = Access::Exclusive { wait, unknown: Unknown::Lock };
        assert_eq!(store.open(&id("abc"), access, soon()).unwrap_err().kind(), ErrorKind::LockBusy);
        assert_eq!(memcached.get(&lock_key("abc")).unwrap(), b"1");
        assert_eq!(memcached.keys(), [lock_key("abc")]);
    }
}

/// As php-memcached makes one for each id that it creates.
fn an_empty_item_is_a_session_without_data() {
    let memcached = Memcached::start();
    let mut store = store(&format!("memcached://{}", memcached.address()));
    memcached.set(&key("abc"), "");
    assert!(store.exists(&id("abc"), soon()).unwrap());
    assert_eq!(read(store.as_mut(), &id("abc")), Some(Vec::new()));
    let refuse = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Refuse };
    let opened = store.open(&id("abc"), refuse, soon()).unwrap();
    assert_eq!(opened.record.unwrap().0, b"");
    store.commit(&id("abc"), opened.hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
    assert_eq!(memcached.get(&key("abc")).unwrap(), b"n|i:1;");
}

fn a_session_lives_for_more_than_thirty_days() {
    let memcached = Memcached::start();
    let mut store = store(&format!("memcached://{}", memcached.address()));
    let long = Duration::from_secs(40 * 24 * 3600);
    for change in
        [Change::Write(b"n|i:1;", long), Change::Write(b"n|i:2;", long), Change::Touch(b"n|i:2;", long)]
    {
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        store.commit(&id("abc"), hold, change, soon()).unwrap();
        let life = ttl(&memcached, &key("abc"));
        // Its clock is a second or two behind ours, and more while it does not come to run.
        assert!((40 * 24 * 3600 - 60..=40 * 24 * 3600 + 60).contains(&life), "{change:?}: {life}");
        // From the next round on, what would be there without it.
        store.open(&id("abc"), Access::ReadOnly, soon()).unwrap();
        memcached.command(&format!("touch {} 100", key("abc")));
    }
}

/// Memcached's clock ends in 2038: what is to live longer would end at once.
fn a_session_lives_for_decades() {
    for protocol in ["ascii", "meta", "binary"] {
        let memcached = Memcached::start();
        let mut store = store(&format!("memcached://{}?protocol={protocol}", memcached.address()));
        for life in [Duration::from_secs(20 * 365 * 24 * 3600), Duration::from_secs(u64::MAX)] {
            for change in [
                Change::Write(b"n|i:1;", life),
                Change::Write(b"n|i:2;", life),
                Change::Touch(b"n|i:2;", life),
            ] {
                let (_, hold) = lock(store.as_mut(), &id("abc"));
                store.commit(&id("abc"), hold, change, soon()).unwrap();
                let stored = memcached.get(&key("abc"));
                assert!(stored.is_some(), "{protocol}: {change:?} over {life:?}");
                assert!(ttl(&memcached, &key("abc")) > 5 * 365 * 24 * 3600, "{protocol}: {change:?}");
            }
        }
    }
}

/// In the classic protocol, a removal needs room for an empty item.
fn a_full_server_lets_go_of_a_lock() {
    for change in [Change::Keep, Change::Touch(b"n|i:1;", LIFETIME)] {
        let memcached = Memcached::with(&["-M", "-m", "2"]);
        let mut store = store(&format!("memcached://{}?protocol=ascii", memcached.address()));
        put(store.as_mut(), &id("abc"), b"n|i:1;");
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        let fill = |count: usize, size: usize| {
            let value = "x".repeat(size);
            let item = |number| format!("set {size}-{number} 0 0 {size} noreply\r\n{value}\r\n");
            memcached.command(&((0..count).map(item).collect::<String>() + "version"));
        };
        fill(60, 50_000);
        (5..100).step_by(10).for_each(|size| fill(12_000, size));
        let empty = memcached.command(&format!("set {} 0 0 0\r\n", lock_key("abd")));
        assert!(empty.starts_with("SERVER_ERROR out of memory"), "{empty}");
        store.commit(&id("abc"), hold, change, soon()).unwrap();
        assert_eq!(memcached.get(&lock_key("abc")), None, "{change:?}");
        assert_eq!(memcached.get(&key("abc")).unwrap(), b"n|i:1;");
    }
}

fn too_large() {
    let memcached = Memcached::start();
    let mut store = store(&format!("memcached://{}", memcached.address()));
    let large = vec![b'x'; 1 << 20];
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    for (session, kept) in [("abc", Some(b"n|i:1;".to_vec())), ("new", None)] {
        for access in [EXCLUSIVE, Access::Unlocked, Access::Versioned] {
            let opened = store.open(&id(session), access, soon()).unwrap();
            let error =
                store.commit(&id(session), opened.hold, Change::Write(&large, LIFETIME), soon()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
            let text = error.to_string();
            assert!(text.contains("1048576 bytes") && text.contains("-I"), "{text}");
            assert_eq!(memcached.get(&key(session)), kept, "{access:?}");
            released(&memcached, session);
        }
    }
    // The most that it says it takes.
    let largest = store.guarantees().size_limit.unwrap();
    put(store.as_mut(), &id("abc"), &vec![b'x'; usize::try_from(largest).unwrap()]);
}

fn a_server_without_versions_is_refused() {
    let memcached = Memcached::with(&["-C"]);
    let mut store = store(&format!("memcached://{}", memcached.address()));
    memcached.set(&key("abc"), "n|i:1;");
    for session in ["abc", "new"] {
        let error = store.open(&id(session), EXCLUSIVE, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("without -C"), "{error}");
        // Nobody waits for what nobody can release by its version.
        released(&memcached, session);
    }
}

fn a_key_that_is_too_long() {
    let memcached = Memcached::start();
    let prefix = "p".repeat(200);
    let mut store = store(&format!("memcached://{}?prefix={prefix}", memcached.address()));
    let longest = "x".repeat(45);
    put(store.as_mut(), &id(&longest), b"n|i:1;");
    let long = SessionId::parse("x".repeat(46).as_bytes()).unwrap();
    for access in [EXCLUSIVE, Access::ReadOnly] {
        let error = store.open(&long, access, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains("251 bytes") && error.to_string().contains("prefix="), "{error}");
    }
}
