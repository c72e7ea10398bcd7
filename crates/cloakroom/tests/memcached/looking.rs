//! Looking at sessions and locks in each protocol, and on a ring.

use std::collections::BTreeMap;

use cloakroom::{Broken, Change, Ends, ErrorKind, Holder, Life, Lock};
use testbed::memcached::Memcached;
use testbed::suite::{Case, case};

use crate::three::Three;
use crate::worker::{LIFETIME, id, lock, put, soon};
use crate::{MEMCACHED, lock_key, store};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("lives_are_told_by_the_meta_protocol_alone", MEMCACHED, lives),
        case("a_lock_is_broken_in_each_protocol", MEMCACHED, broken),
        case("the_locks_of_all_servers_are_named_once", MEMCACHED, named_once),
        case("a_native_lock_that_never_ends_is_told_in_text", MEMCACHED, never_ending),
        case("a_native_lock_that_was_taken_again_is_not_broken", MEMCACHED, taken_again),
        case("the_binary_protocol_names_no_lock", MEMCACHED, binary_names_nothing),
    ]
}

fn url(server: &Memcached, protocol: &str) -> String {
    format!("memcached://{}?protocol={protocol}", server.address())
}

fn lives() {
    let server = Memcached::start();
    put(store(&url(&server, "auto")).as_mut(), &id("abc"), b"n|i:1;");
    server.set(&lock_key("abc"), "1");
    for (protocol, told) in [("meta", true), ("auto", true), ("ascii", false), ("binary", false)] {
        let seen = store(&url(&server, protocol)).peek(&id("abc"), soon()).unwrap();
        assert_eq!(seen.record.unwrap().0, b"n|i:1;");
        let lock = seen.lock.unwrap();
        assert_eq!((lock.holder, lock.waiting), (Holder::NativeUnnamed, Some(0)));
        match (told, seen.life, lock.ends) {
            (true, Life::Left(left), Ends::Never) => assert!(left <= LIFETIME && left > LIFETIME / 2),
            (false, Life::Unknown, Ends::Unknown) => {}
            other => panic!("{protocol}: {other:?}"),
        }
    }
    server.set("memc.sess.key.abc", "n|i:1;");
    assert_eq!(store(&url(&server, "meta")).peek(&id("abc"), soon()).unwrap().life, Life::Endless);
}

fn broken() {
    let server = Memcached::start();
    for protocol in ["meta", "ascii", "binary"] {
        let (mut holder, mut other) = (store(&url(&server, protocol)), store(&url(&server, protocol)));
        put(holder.as_mut(), &id("abc"), b"n|i:1;");
        let (_, hold) = lock(holder.as_mut(), &id("abc"));
        let seen = other.peek(&id("abc"), soon()).unwrap().lock.unwrap();
        assert!(matches!(seen.holder, Holder::Worker { .. }), "{seen:?}");
        assert_eq!(other.break_lock(&id("abc"), &seen, soon()).unwrap(), Broken::Done, "{protocol}");
        let late = holder.commit(&id("abc"), hold, Change::Write(b"n|i:7;", LIFETIME), soon()).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::LockLost, "{protocol}: {late}");
        let seen = other.peek(&id("abc"), soon()).unwrap();
        assert_eq!((seen.record.unwrap().0, seen.lock), (b"n|i:1;".to_vec(), None), "{protocol}");
    }
}

/// Every lock by its session.
fn locks(save_path: &str) -> BTreeMap<String, Lock> {
    let mut locked = BTreeMap::new();
    let mut each = |id: cloakroom::SessionId, lock| locked.insert(id.as_str().to_owned(), lock).is_none();
    store(save_path).locks(&mut each, soon()).unwrap();
    locked
}

fn named_once() {
    let three = Three::with("");
    let mut holder = three.store();
    let sessions: Vec<String> = (0..12).map(|number| format!("held{number:02}")).collect();
    let held: Vec<_> = sessions.iter().map(|session| lock(holder.as_mut(), &id(session))).collect();
    assert_eq!(locks(&three.url).into_keys().collect::<Vec<_>>(), sessions);
    let having = three.servers.iter().filter(|server| !server.keys().is_empty()).count();
    assert!(having > 1, "all locks are on one server");
    for (session, (_, hold)) in sessions.iter().zip(held) {
        holder.commit(&id(session), hold, Change::Keep, soon()).unwrap();
    }
    assert_eq!(locks(&three.url), BTreeMap::new());
}

fn never_ending() {
    let server = Memcached::start();
    server.set(&lock_key("abc"), "1");
    assert_eq!(server.command(&format!("set {} 0 30 1\r\n1", lock_key("def"))), "STORED\r\n");
    let locks = locks(&url(&server, "ascii"));
    assert_eq!((locks["abc"].ends, locks["def"].ends), (Ends::Never, Ends::Unknown));
}

fn taken_again() {
    let server = Memcached::start();
    server.set(&lock_key("abc"), "1");
    let mut store = store(&url(&server, "auto"));
    let seen = store.peek(&id("abc"), soon()).unwrap().lock.unwrap();
    server.set(&lock_key("abc"), "1");
    assert_eq!(store.break_lock(&id("abc"), &seen, soon()).unwrap(), Broken::Changed);
    assert_eq!(server.get(&lock_key("abc")).unwrap(), b"1");
}

fn binary_names_nothing() {
    let server = Memcached::start();
    let error = store(&url(&server, "binary")).locks(&mut |_, _| true, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().starts_with("Memcached's binary protocol does not name locks"), "{error}");
}
