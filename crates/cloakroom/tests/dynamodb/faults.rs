//! A network that cuts, and a service that is silent: nothing is lost, and the outcome is told truly.

use std::time::Duration;

use cloakroom::{Access, Change, Committed, Deadline, ErrorKind, Outcome, Settings, Store, Unknown};
use nix::sys::signal::Signal;
use testbed::dynamodb::{Fault, Program, Proxy};
use testbed::suite::{Case, case};
use testbed::{TempDir, wait_until};

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, lock_at_once, put, read, soon, start, worker};
use crate::{DYNALITE, LIMIT, Proxied, key, patient, proxied, store};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        proxied("an_open_that_is_cut_is_healed", an_open_that_is_cut_is_healed),
        proxied("a_commit_that_is_cut_is_healed", a_commit_that_is_cut_is_healed),
        proxied("an_open_that_fails_gives_back_what_it_may_have_got", a_failed_open_gives_back),
        proxied("a_commit_that_cannot_be_repeated_is_unknown", a_commit_that_cannot_be_repeated_is_unknown),
        proxied("a_commit_overtaken_after_a_cut_is_unknown", a_commit_overtaken_after_a_cut_is_unknown),
        proxied("a_service_that_is_silent_is_left_in_time", silence),
        proxied("a_worker_that_is_interrupted_goes_on", interrupted),
        case("what_was_not_sent_was_not_applied", DYNALITE, what_was_not_sent),
        proxied("a_silence_after_a_refusal_tells_the_refusal", silence_after_words),
        proxied("a_silent_connection_is_not_used_again", another_connection),
    ]
}

fn none_of_it_is_locked(proxied: &Proxied, session: &str) {
    let item = proxied.table.get(&key(session));
    assert!(item.as_ref().is_none_or(|item| item["lock"].is_null()), "{item:?}");
}

fn an_open_that_is_cut_is_healed(proxied: &Proxied) {
    for fault in [Fault::CutBefore, Fault::CutAfter] {
        for before in [None, Some(b"n|i:1;")] {
            match before {
                None => proxied.table.delete(&key("abc")),
                Some(bytes) => put(store(&proxied.direct).as_mut(), &id("abc"), bytes),
            }
            let mut worker = proxied.worker();
            proxied.proxy.fail_next("UpdateItem", fault.clone());
            let (record, hold) = lock_at_once(worker.as_mut(), &id("abc"));
            assert_eq!(record.as_deref(), before.map(|bytes| &bytes[..]), "{fault:?}");
            assert_eq!(worker.counters().retries, 1, "{fault:?}");
            worker.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
            none_of_it_is_locked(proxied, "abc");
        }
    }
}

fn a_commit_that_is_cut_is_healed(proxied: &Proxied) {
    for fault in [Fault::CutBefore, Fault::CutAfter] {
        for (before, change) in [
            (Some(b"n|i:1;"), Change::Write(b"n|i:2;", LIFETIME)),
            (None, Change::Write(b"n|i:2;", LIFETIME)),
            (Some(b"n|i:1;"), Change::Write(b"n|i:1;", LIFETIME)),
            (Some(b"n|i:1;"), Change::Touch(b"n|i:1;", LIFETIME)),
            (Some(b"n|i:1;"), Change::Delete),
            (None, Change::Delete),
            (Some(b"n|i:1;"), Change::Keep),
            (None, Change::Keep),
        ] {
            let expected = match change {
                Change::Write(bytes, _) => Some(bytes),
                Change::Delete => None,
                _ => before.map(|bytes| &bytes[..]),
            };
            match before {
                None => proxied.table.delete(&key("abc")),
                Some(bytes) => put(store(&proxied.direct).as_mut(), &id("abc"), bytes),
            }
            let mut worker = proxied.worker();
            let (_, hold) = lock_at_once(worker.as_mut(), &id("abc"));
            let operation = match (change, before) {
                (Change::Delete, _) | (Change::Keep, None) => "DeleteItem",
                _ => "UpdateItem",
            };
            proxied.proxy.fail_next(operation, fault.clone());
            let committed = worker.commit(&id("abc"), hold, change, soon());
            assert_eq!(committed.unwrap(), Committed::Done, "{fault:?} {before:?} {change:?}");
            assert_eq!(worker.counters().retries, 1, "{fault:?} {before:?} {change:?}");
            let after = read(store(&proxied.direct).as_mut(), &id("abc"));
            assert_eq!(after.as_deref(), expected, "{fault:?} {before:?} {change:?}");
            none_of_it_is_locked(proxied, "abc");
            assert_eq!(proxied.table.get(&key("abc")).is_some(), expected.is_some());
        }
    }
}

/// As often as it is asked, the answer is lost.
fn a_failed_open_gives_back(proxied: &Proxied) {
    for before in [None, Some(b"n|i:1;")] {
        match before {
            None => proxied.table.delete(&key("abc")),
            Some(bytes) => put(store(&proxied.direct).as_mut(), &id("abc"), bytes),
        }
        let mut worker = proxied.worker();
        // Those that lock; what gives back passes.
        proxied.proxy.decide(|seen| {
            match seen.body["UpdateExpression"].as_str().is_some_and(|set| set.contains("SET #lock")) {
                true => Fault::CutAfter,
                false => Fault::None,
            }
        });
        let error = worker.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        none_of_it_is_locked(proxied, "abc");
        let after = read(store(&proxied.direct).as_mut(), &id("abc"));
        assert_eq!(after.as_deref(), before.map(|bytes| &bytes[..]));
        proxied.proxy.forward();
    }
}

fn a_commit_that_cannot_be_repeated_is_unknown(proxied: &Proxied) {
    let denied = Fault::refuse("AccessDeniedException", "not now");
    for (first, then, stored, kind, outcome) in [
        (Fault::CutBefore, Fault::CutBefore, b"n|i:1;", ErrorKind::Unreachable, Outcome::Unknown),
        (Fault::CutAfter, Fault::CutAfter, b"n|i:2;", ErrorKind::Unreachable, Outcome::Unknown),
        (Fault::CutBefore, denied.clone(), b"n|i:1;", ErrorKind::Auth, Outcome::Unknown),
        // It is known that this was not applied.
        (Fault::throttled(), denied, b"n|i:1;", ErrorKind::Auth, Outcome::Refused),
    ] {
        put(store(&proxied.direct).as_mut(), &id("abc"), b"n|i:1;");
        let mut worker = proxied.worker();
        let (_, hold) = lock(worker.as_mut(), &id("abc"));
        let fault = first.clone();
        let mut first = Some(first);
        proxied.proxy.decide(move |_| first.take().unwrap_or_else(|| then.clone()));
        let change = Change::Write(b"n|i:2;", LIFETIME);
        let error = worker.commit(&id("abc"), hold, change, soon()).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (kind, outcome), "{fault:?} {error}");
        let item = proxied.table.get(&key("abc")).unwrap();
        assert_eq!(item["data"]["S"].as_str().unwrap().as_bytes(), stored, "{fault:?}");
        proxied.table.delete(&key("abc"));
        proxied.proxy.forward();
    }
}

/// The answer to the commit is lost, and another worker changes the session before that is found out.
fn a_commit_overtaken_after_a_cut_is_unknown(proxied: &Proxied) {
    put(store(&proxied.direct).as_mut(), &id("abc"), b"n|i:1;");
    let mut worker = proxied.worker();
    let (_, hold) = lock(worker.as_mut(), &id("abc"));
    let (direct, mut attempts) = (proxied.direct.clone(), 0);
    proxied.proxy.decide(move |seen| {
        attempts += usize::from(seen.operation == "UpdateItem");
        if attempts == 2 {
            // Before the second attempt arrives.
            put(store(&direct).as_mut(), &id("abc"), b"n|i:3;");
        }
        if attempts == 1 { Fault::CutAfter } else { Fault::None }
    });
    let error = worker.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::Unknown), "{error}");
    assert_eq!(read(store(&proxied.direct).as_mut(), &id("abc")).unwrap(), b"n|i:3;");
    none_of_it_is_locked(proxied, "abc");
}

/// A worker that soon gives up what is not answered.
fn impatient(proxied: &Proxied) -> Box<dyn Store> {
    let mut worker = proxied.worker_with(Settings { timeout: Duration::from_millis(500), ..patient() });
    // It is connected: only its first request has time for that as well.
    read(worker.as_mut(), &id("abc"));
    worker
}

fn silence(proxied: &Proxied) {
    for fault in [Fault::HangBefore, Fault::HangAfter] {
        put(store(&proxied.direct).as_mut(), &id("abc"), b"n|i:1;");
        // Only what is not answered is asked by somebody without patience.
        let (_, hold) = lock(proxied.worker().as_mut(), &id("abc"));
        let (mut worker, mut reader) = (impatient(proxied), impatient(proxied));
        let always = fault.clone();
        proxied.proxy.decide(move |_| always.clone());
        let error = worker.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error}");
        let error = reader.open(&id("abc"), Access::ReadOnly, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        proxied.proxy.forward();
        proxied.table.delete(&key("abc"));
    }
}

/// The service is gone, and the worker still has a connection to it.
fn what_was_not_sent() {
    let Proxied { proxy, table, save_path, direct } = Proxied::on(Program::Dynalite);
    put(store(&direct).as_mut(), &id("abc"), b"n|i:1;");
    let mut worker = store(&save_path);
    let (_, hold) = lock(worker.as_mut(), &id("abc"));
    drop(proxy);
    let error = worker.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::Refused), "{error}");
    assert!(error.to_string().contains("cannot be reached: Connection refused"), "{error}");
    assert_eq!(worker.counters().exchanges, 1);
    assert_eq!(table.get(&key("abc")).unwrap()["data"]["S"], "n|i:1;");
}

/// Whoever is stopped and goes on finds its system calls interrupted.
fn interrupted(proxied: &Proxied) {
    let directory = TempDir::new();
    let process = start(&mut worker(&["hammer", &proxied.save_path, "abc", "30"]), directory.path());
    let moment = Duration::from_millis(2);
    let (mut runs, mut seen) = (moment, 0);
    while process.running() {
        for (signal, time) in [(Signal::SIGSTOP, moment), (Signal::SIGCONT, runs)] {
            process.signal(signal);
            std::thread::sleep(time);
        }
        // Who gets little of the processor gets on all the same, and before its requests are too late.
        let now = proxied.proxy.count("UpdateItem");
        runs = if now == seen { (2 * runs).min(25 * moment) } else { moment };
        seen = now;
    }
    let record = read(store(&proxied.direct).as_mut(), &id("abc"));
    assert_eq!(record.as_deref(), Some(&b"n|i:30;"[..]), "{}", process.log());
    assert!(proxied.proxy.count("UpdateItem") >= 60);
    none_of_it_is_locked(proxied, "abc");
}

/// A table without capacity, and then not even that answer.
fn silence_after_words(proxied: &Proxied) {
    put(store(&proxied.direct).as_mut(), &id("abc"), b"n|i:1;");
    let mut worker = proxied.worker();
    let (_, hold) = lock(worker.as_mut(), &id("abc"));
    let mut answered = 0;
    proxied.proxy.decide(move |_| {
        answered += 1;
        if answered == 1 { Fault::throttled() } else { Fault::HangAfter }
    });
    let change = Change::Write(b"n|i:2;", LIFETIME);
    // Time for the first of them.
    let error = worker.commit(&id("abc"), hold, change, Deadline::after(Duration::from_secs(4))).unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error}");
    assert!(error.to_string().contains(": DynamoDB has throttled it (2 requests in "), "{error}");
}

fn another_connection(proxied: &Proxied) {
    let slow = Settings { timeout: Duration::from_millis(1500), ..patient() };
    let mut worker = proxied.worker_with(slow);
    put(worker.as_mut(), &id("abc"), b"n|i:1;");
    proxied.proxy.reset_counts();
    proxied.proxy.fail_next("GetItem", Fault::HangBefore);
    assert_eq!(read(worker.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
    wait_until("the silent one is closed", LIMIT, || proxied.proxy.open_connections() == 1);
    let at_once = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Lock };
    worker.open(&id("abc"), at_once, soon()).unwrap();
    let (silent, others) =
        connections(&proxied.proxy).split_first().map(|(it, all)| (*it, all.to_vec())).unwrap();
    assert!(others.len() >= 2 && !others.contains(&silent), "{silent}, and then {others:?}");
}

/// Which connection each request came on.
fn connections(proxy: &Proxy) -> Vec<usize> {
    proxy.seen().iter().map(|seen| seen.connection).collect()
}
