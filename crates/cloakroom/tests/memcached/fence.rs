//! Who may write: the holder of the lock, whatever happened to the lock meanwhile, and nobody who is late.

use std::time::Duration;

use cloakroom::{Access, Change, Committed, ErrorKind, Outcome, Store};
use testbed::memcached::Memcached;
use testbed::proxy::Proxy;
use testbed::suite::{Case, case};
use testbed::wait_until;

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, lock_at_once, put, read, soon};
use crate::{LIMIT, MEMCACHED, key, leased, lock_key, released, store};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "a_restarted_server_refuses_the_late_write",
            MEMCACHED,
            a_restarted_server_refuses_the_late_write,
        ),
        case(
            "versions_that_begin_again_let_no_late_writer_in",
            MEMCACHED,
            versions_that_begin_again_let_no_late_writer_in,
        ),
        case("a_flushed_server_refuses_the_late_write", MEMCACHED, a_flushed_server_refuses_the_late_write),
        case("a_native_worker_that_took_over_is_not_overwritten", MEMCACHED, a_native_worker_that_took_over),
        case("a_lock_that_a_native_worker_deleted_fences_all_the_same", MEMCACHED, a_lock_that_was_deleted),
        case(
            "who_holds_a_lock_beyond_its_lease_may_write",
            MEMCACHED,
            who_holds_a_lock_beyond_its_lease_may_write,
        ),
        case("a_renewed_lock_is_released", MEMCACHED, a_renewed_lock_is_released),
        case("a_lock_of_another_version_is_released_by_its_value", MEMCACHED, a_lock_of_another_version),
        case("a_renewal_that_nobody_heard_of_is_made_again", MEMCACHED, a_renewal_that_nobody_heard_of),
        case(
            "what_is_written_without_the_lock_is_not_overwritten",
            MEMCACHED,
            what_is_written_without_the_lock,
        ),
        case("a_logout_holds_though_somebody_wrote_without_the_lock", MEMCACHED, a_logout_holds),
        case("a_late_logout_leaves_the_next_session_alone", MEMCACHED, a_late_logout),
        case("an_evicted_session_comes_back_alone_with_its_lock", MEMCACHED, an_evicted_session_comes_back),
        case(
            "an_evicted_session_is_left_to_who_has_the_lock_meanwhile",
            MEMCACHED,
            whoever_has_the_lock_meanwhile,
        ),
        case(
            "a_write_without_a_lock_that_undoes_anothers_is_counted",
            MEMCACHED,
            a_write_that_undoes_anothers,
        ),
    ]
}

fn one() -> (Memcached, Box<dyn Store>) {
    let memcached = Memcached::start();
    let store = store(&format!("memcached://{}", memcached.address()));
    (memcached, store)
}

const CHANGES: [Change<'static>; 3] =
    [Change::Write(b"n|i:2;", LIFETIME), Change::Touch(b"n|i:1;", LIFETIME), Change::Delete];

#[track_caller]
fn refused(result: cloakroom::Result<Committed>) {
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::LockLost, Outcome::Refused), "{error}");
}

fn a_restarted_server_refuses_the_late_write() {
    let (memcached, mut late) = one();
    for change in &CHANGES[..2] {
        put(late.as_mut(), &id("abc"), b"n|i:1;");
        let (_, hold) = lock(late.as_mut(), &id("abc"));
        memcached.restart();
        // Over a new connection, which the store has not to find out about by a failure.
        assert_eq!(read(late.as_mut(), &id("other")), None);
        refused(late.commit(&id("abc"), hold, *change, soon()));
        assert_eq!(memcached.keys(), [""; 0]);
    }
    assert_eq!(late.counters().lost_leases, 2);
}

/// The lock and the session of another request have just the versions that ours had.
fn versions_that_begin_again_let_no_late_writer_in() {
    for reconnects in [false, true] {
        for change in CHANGES {
            let (memcached, mut late) = one();
            memcached.set(&key("abc"), "n|i:1;");
            let (_, hold) = lock(late.as_mut(), &id("abc"));
            memcached.restart();
            memcached.set(&key("abc"), "theirs");
            memcached.set(&lock_key("abc"), "cloakroom:of another");
            if reconnects {
                read(late.as_mut(), &id("abc"));
            }
            let error = late.commit(&id("abc"), hold, change, soon()).unwrap_err();
            let told = if reconnects { error.kind() == ErrorKind::LockLost } else { true };
            assert!(told, "{change:?}: {error}");
            assert_eq!(memcached.get(&key("abc")).unwrap(), b"theirs", "{change:?}");
            assert_eq!(memcached.get(&lock_key("abc")).unwrap(), b"cloakroom:of another", "{change:?}");
        }
    }
}

/// What somebody deleted who had the lock after us must not come back.
fn a_flushed_server_refuses_the_late_write() {
    let (memcached, mut late) = one();
    for change in &CHANGES[..2] {
        put(late.as_mut(), &id("abc"), b"n|i:1;");
        let (_, hold) = lock(late.as_mut(), &id("abc"));
        memcached.command("flush_all");
        refused(late.commit(&id("abc"), hold, *change, soon()));
        assert_eq!(memcached.get(&key("abc")), None);
    }
}

fn a_native_worker_that_took_over() {
    let (memcached, mut late) = one();
    for written in [true, false] {
        put(late.as_mut(), &id("abc"), b"n|i:1;");
        let (_, hold) = lock(late.as_mut(), &id("abc"));
        memcached.set(&lock_key("abc"), "1");
        if written {
            memcached.set(&key("abc"), "n|i:7;");
            refused(late.commit(&id("abc"), hold, CHANGES[0], soon()));
            assert_eq!(memcached.get(&key("abc")).unwrap(), b"n|i:7;");
        } else {
            // Nobody has overtaken it.
            late.commit(&id("abc"), hold, CHANGES[0], soon()).unwrap();
            assert_eq!(memcached.get(&key("abc")).unwrap(), b"n|i:2;");
        }
        assert_eq!(memcached.get(&lock_key("abc")).unwrap(), b"1");
        memcached.command(&format!("delete {}", lock_key("abc")));
    }
}

/// As php-memcached does at the end of a request whose own lock has ended long ago.
fn a_lock_that_was_deleted() {
    let (memcached, mut late) = one();
    let mut next = store(&format!("memcached://{}", memcached.address()));
    put(late.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(late.as_mut(), &id("abc"));
    memcached.command(&format!("delete {}", lock_key("abc")));
    let (_, theirs) = lock_at_once(next.as_mut(), &id("abc"));
    next.commit(&id("abc"), theirs, Change::Write(b"n|i:5;", LIFETIME), soon()).unwrap();
    let (_, theirs) = lock_at_once(next.as_mut(), &id("abc"));
    refused(late.commit(&id("abc"), hold, CHANGES[0], soon()));
    next.commit(&id("abc"), theirs, Change::Write(b"n|i:6;", LIFETIME), soon()).unwrap();
    assert_eq!(memcached.keys(), [key("abc")]);
    assert_eq!(memcached.get(&key("abc")).unwrap(), b"n|i:6;");
}

fn who_holds_a_lock_beyond_its_lease_may_write() {
    let memcached = Memcached::start();
    let short = Duration::from_millis(50);
    let mut late = leased(&format!("memcached://{}", memcached.address()), short);
    for change in CHANGES {
        let hold = loop {
            memcached.set(&key("abc"), "n|i:1;");
            let (_, hold) = lock(late.as_mut(), &id("abc"));
            match memcached.command(&format!("touch {} 1000", lock_key("abc"))).as_str() {
                "TOUCHED\r\n" => break hold,
                // The server's second was over before that.
                _ => drop(late.commit(&id("abc"), hold, Change::Keep, soon()).unwrap()),
            }
        };
        std::thread::sleep(short);
        late.commit(&id("abc"), hold, change, soon()).unwrap();
        released(&memcached, "abc");
    }
    // Without the lock, not even where nobody has written.
    for change in CHANGES {
        memcached.set(&key("abc"), "n|i:1;");
        let (_, hold) = lock(late.as_mut(), &id("abc"));
        memcached.command(&format!("delete {}", lock_key("abc")));
        std::thread::sleep(short);
        refused(late.commit(&id("abc"), hold, change, soon()));
        assert_eq!(memcached.get(&key("abc")).unwrap(), b"n|i:1;", "{change:?}");
    }
}

fn a_renewed_lock_is_released() {
    let (memcached, mut holder) = one();
    for change in [CHANGES[0], CHANGES[1], Change::Keep, CHANGES[2]] {
        let mut opened = holder.open(&id("abc"), EXCLUSIVE, soon()).unwrap();
        let renew = &mut opened.renewal.as_mut().unwrap().renew;
        for _ in 0..3 {
            renew(soon()).unwrap();
        }
        holder.commit(&id("abc"), opened.hold, change, soon()).unwrap();
        released(&memcached, "abc");
        // One that comes too late brings nothing back.
        (opened.renewal.unwrap().renew)(soon()).unwrap();
        released(&memcached, "abc");
    }
}

/// As by a renewal that arrives between the change and the release.
fn a_lock_of_another_version() {
    let (memcached, mut holder) = one();
    for change in [CHANGES[0], CHANGES[1], Change::Keep, CHANGES[2]] {
        let (_, hold) = lock(holder.as_mut(), &id("abc"));
        let value = memcached.get(&lock_key("abc")).unwrap();
        memcached.set(&lock_key("abc"), value);
        holder.commit(&id("abc"), hold, change, soon()).unwrap();
        released(&memcached, "abc");
    }
}

fn a_renewal_that_nobody_heard_of() {
    let (memcached, mut holder) = one();
    let mut opened = holder.open(&id("abc"), EXCLUSIVE, soon()).unwrap();
    let value = memcached.get(&lock_key("abc")).unwrap();
    memcached.set(&lock_key("abc"), value);
    (opened.renewal.as_mut().unwrap().renew)(soon()).unwrap();
    holder.commit(&id("abc"), opened.hold, CHANGES[0], soon()).unwrap();
    assert_eq!(memcached.keys(), [key("abc")]);
}

fn what_is_written_without_the_lock() {
    let (memcached, mut holder) = one();
    put(holder.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    memcached.set(&key("abc"), "n|i:7;");
    refused(holder.commit(&id("abc"), hold, CHANGES[0], soon()));
    assert_eq!(memcached.get(&key("abc")).unwrap(), b"n|i:7;");
    released(&memcached, "abc");
    // A session that was new to us.
    let (_, hold) = lock(holder.as_mut(), &id("abd"));
    memcached.set(&key("abd"), "n|i:7;");
    refused(holder.commit(&id("abd"), hold, CHANGES[0], soon()));
    assert_eq!(memcached.get(&key("abd")).unwrap(), b"n|i:7;");
    released(&memcached, "abd");
}

fn a_logout_holds() {
    let (memcached, mut holder) = one();
    put(holder.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    memcached.set(&key("abc"), "n|i:7;");
    holder.commit(&id("abc"), hold, Change::Delete, soon()).unwrap();
    assert_eq!(memcached.keys(), [""; 0]);
}

fn a_late_logout() {
    let (memcached, mut late) = one();
    put(late.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(late.as_mut(), &id("abc"));
    memcached.command(&format!("delete {}", lock_key("abc")));
    memcached.set(&key("abc"), "n|i:7;");
    refused(late.commit(&id("abc"), hold, Change::Delete, soon()));
    assert_eq!(memcached.get(&key("abc")).unwrap(), b"n|i:7;");
}

fn an_evicted_session_comes_back() {
    let (memcached, mut holder) = one();
    for (change, done) in [(CHANGES[0], Committed::Done), (CHANGES[1], Committed::Rewritten)] {
        for its_lock in [true, false] {
            put(holder.as_mut(), &id("abc"), b"n|i:1;");
            let (_, hold) = lock(holder.as_mut(), &id("abc"));
            memcached.command(&format!("delete {}", key("abc")));
            match its_lock {
                true => {
                    assert_eq!(holder.commit(&id("abc"), hold, change, soon()).unwrap(), done);
                    assert_eq!(memcached.keys(), [key("abc")]);
                }
                false => {
                    memcached.set(&lock_key("abc"), "1");
                    refused(holder.commit(&id("abc"), hold, change, soon()));
                    assert_eq!(memcached.keys(), [lock_key("abc")]);
                    memcached.command(&format!("delete {}", lock_key("abc")));
                }
            }
        }
    }
}

/// It was released together with the write that found no record.
fn whoever_has_the_lock_meanwhile() {
    for change in [CHANGES[0], CHANGES[1]] {
        let memcached = Memcached::start();
        let proxy = Proxy::to(memcached.address());
        let mut holder = store(&format!("memcached://{}", proxy.address()));
        put(holder.as_mut(), &id("abc"), b"n|i:1;");
        let (_, hold) = lock(holder.as_mut(), &id("abc"));
        memcached.command(&format!("delete {}", key("abc")));
        proxy.hold_replies(true);
        std::thread::scope(|scope| {
            let committing = scope.spawn(|| holder.commit(&id("abc"), hold, change, soon()));
            // The answer is still under way.
            wait_until("it is released", LIMIT, || memcached.get(&lock_key("abc")).is_none());
            memcached.set(&lock_key("abc"), "1");
            proxy.hold_replies(false);
            refused(committing.join().unwrap());
        });
        assert_eq!(memcached.keys(), [lock_key("abc")], "{change:?}");
    }
}

fn a_write_that_undoes_anothers() {
    let (memcached, mut store) = one();
    let key = key("abc");
    let mut conflicts = |before: Option<&str>, meanwhile: Option<&str>, write: &[u8]| {
        memcached.command(&format!("delete {key}"));
        if let Some(before) = before {
            memcached.set(&key, before);
        }
        let opened = store.open(&id("abc"), Access::Unlocked, soon()).unwrap();
        match meanwhile {
            None => drop(memcached.command("version")),
            Some("-") => drop(memcached.command(&format!("delete {key}"))),
            Some(value) => memcached.set(&key, value),
        }
        let counted = store.counters().conflicts;
        store.commit(&id("abc"), opened.hold, Change::Write(write, LIFETIME), soon()).unwrap();
        assert_eq!(memcached.get(&key).unwrap(), write);
        store.counters().conflicts - counted
    };
    assert_eq!(conflicts(None, None, b"n|i:1;"), 0, "nobody else was there");
    assert_eq!(conflicts(Some("n|i:1;"), None, b"n|i:2;"), 0);
    assert_eq!(conflicts(Some("n|i:1;"), Some("n|i:5;"), b"n|i:2;"), 1, "changed");
    assert_eq!(conflicts(None, Some("n|i:5;"), b"n|i:2;"), 1, "made");
    assert_eq!(conflicts(Some("n|i:1;"), Some("-"), b"n|i:2;"), 1, "destroyed, and brought back");
    assert_eq!(conflicts(Some("n|i:1;"), Some("n|i:2;"), b"n|i:2;"), 0, "changed to the same");
    assert_eq!(conflicts(Some("n|i:1;"), Some("n|i:1;"), b"n|i:2;"), 0, "written again as it was");
    assert_eq!(conflicts(None, Some(""), b"n|i:2;"), 1, "an empty record is one");
}
