//! Who only looks sees the record, its life and its lock, and changes nothing; a lock can be taken away.

use std::collections::BTreeMap;
use std::time::Duration;

use cloakroom::{
    Broken, Change, Committed, Ends, ErrorKind, Guarantees, Holder, Life, LifeTold, LockKind, Record,
};
use testbed::wait_until;

use crate::worker::{LIFETIME, id, lock, lock_at_once, put, read, soon};
use crate::{Subject, behaviours};

behaviours![
    looking_shows_the_record_and_its_life,
    looking_for_what_is_not_there_leaves_nothing,
    looking_shows_who_has_the_lock_and_how_many_wait,
    the_locks_are_those_that_are_held unless |offered| (!offered.listing).then_some("no listing"),
    a_store_that_cannot_list_names_no_locks unless |offered| offered.listing.then_some("it can list"),
    a_broken_lock_is_lost_to_its_holder_and_free unless kernel,
    who_waits_gets_a_broken_lock unless kernel,
    a_lock_of_somebody_else_is_not_broken unless kernel,
    a_lock_of_the_kernel_is_not_broken unless |offered| {
        (offered.lock != LockKind::Kernel).then_some("the store keeps its locks itself")
    },
];

fn kernel(offered: &Guarantees) -> Option<&'static str> {
    (offered.lock == LockKind::Kernel).then_some("the kernel keeps its locks")
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn looking_shows_the_record_and_its_life(subject: &dyn Subject) {
    let (mut store, mut other) = (subject.worker(), subject.worker());
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let seen = other.peek(&id("abc"), soon()).unwrap();
    assert_eq!(seen.record, Some(Record(b"n|i:1;".to_vec())));
    assert_eq!(seen.lock, None);
    let told = match seen.life {
        // Who counts whole seconds rounds up.
        Life::Left(left) => left <= LIFETIME + SECOND && left > LIFETIME - MINUTE,
        Life::Unused(age) => age < MINUTE,
        Life::Unknown => other.guarantees().life_told == LifeTold::IfServerDoes,
        Life::Endless => false,
    };
    assert!(told, "{:?}", seen.life);
}

fn looking_for_what_is_not_there_leaves_nothing(subject: &dyn Subject) {
    let mut store = subject.worker();
    let seen = store.peek(&id("abc"), soon()).unwrap();
    assert_eq!((seen.record, seen.life, seen.lock), (None, Life::Unknown, None));
    assert!(subject.is_empty());
}

fn looking_shows_who_has_the_lock_and_how_many_wait(subject: &dyn Subject) {
    let (mut first, mut second, mut third) = (subject.worker(), subject.worker(), subject.worker());
    put(first.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(first.as_mut(), &id("abc"));
    let seen = third.peek(&id("abc"), soon()).unwrap().lock.unwrap();
    assert_eq!(seen.waiting, Some(0));
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let pid = std::process::id();
    match (first.guarantees().lock, seen.ends) {
        (LockKind::Kernel, ends) => {
            assert_eq!((seen.holder, ends), (Holder::Process(pid), Ends::WithProcess));
        }
        (LockKind::Lease, ends) => {
            assert_eq!(seen.holder, Holder::Worker { host, pid });
            let told = match ends {
                Ends::After(left) => left > Duration::ZERO && left < MINUTE,
                Ends::Unknown => third.guarantees().life_told == LifeTold::IfServerDoes,
                Ends::Never | Ends::WithProcess => false,
            };
            assert!(told, "{ends:?}");
        }
    }
    std::thread::scope(|scope| {
        let waiter = scope.spawn(move || {
            let (record, hold) = lock(second.as_mut(), &id("abc"));
            second.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
            record
        });
        wait_until("a waiter is seen", Duration::from_secs(20), || {
            third.peek(&id("abc"), soon()).unwrap().lock.unwrap().waiting == Some(1)
        });
        first.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
        assert_eq!(waiter.join().unwrap().unwrap(), b"n|i:2;");
    });
    assert_eq!(third.peek(&id("abc"), soon()).unwrap().lock, None);
}

fn the_locks_are_those_that_are_held(subject: &dyn Subject) {
    let (mut holder, mut other) = (subject.worker(), subject.worker());
    for session in ["ab1", "ab2", "ab3"] {
        put(holder.as_mut(), &id(session), b"n|i:1;");
    }
    let (_, first) = lock(holder.as_mut(), &id("ab1"));
    let (_, second) = lock(holder.as_mut(), &id("ab2"));
    let mut locked = BTreeMap::new();
    let mut each = |id: cloakroom::SessionId, lock| locked.insert(id.as_str().to_owned(), lock).is_none();
    other.locks(&mut each, soon()).unwrap();
    assert_eq!(locked.keys().collect::<Vec<_>>(), ["ab1", "ab2"]);
    assert_eq!(
        Some(&locked["ab1"].holder),
        other.peek(&id("ab1"), soon()).unwrap().lock.map(|lock| lock.holder).as_ref()
    );
    let mut seen = 0;
    let mut enough = |_, _| {
        seen += 1;
        false
    };
    other.locks(&mut enough, soon()).unwrap();
    assert_eq!(seen, 1);
    holder.commit(&id("ab1"), first, Change::Keep, soon()).unwrap();
    holder.commit(&id("ab2"), second, Change::Delete, soon()).unwrap();
    other.locks(&mut |id, _| panic!("{id} is still locked"), soon()).unwrap();
}

fn a_store_that_cannot_list_names_no_locks(subject: &dyn Subject) {
    let error = subject.worker().locks(&mut |_, _| true, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

fn a_broken_lock_is_lost_to_its_holder_and_free(subject: &dyn Subject) {
    let (mut holder, mut other) = (subject.worker(), subject.worker());
    put(holder.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let seen = other.peek(&id("abc"), soon()).unwrap().lock.unwrap();
    assert_eq!(other.break_lock(&id("abc"), &seen, soon()).unwrap(), Broken::Done);
    assert_eq!(other.peek(&id("abc"), soon()).unwrap().lock, None);
    assert_eq!(other.break_lock(&id("abc"), &seen, soon()).unwrap(), Broken::Changed);
    let (_, next) = lock_at_once(other.as_mut(), &id("abc"));
    let late = holder.commit(&id("abc"), hold, Change::Write(b"n|i:7;", LIFETIME), soon()).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::LockLost, "{late}");
    other.commit(&id("abc"), next, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(read(other.as_mut(), &id("abc")).unwrap(), b"n|i:2;");
}

fn who_waits_gets_a_broken_lock(subject: &dyn Subject) {
    let (mut holder, mut waiter, mut other) = (subject.worker(), subject.worker(), subject.worker());
    put(holder.as_mut(), &id("abc"), b"n|i:1;");
    let (_, _hold) = lock(holder.as_mut(), &id("abc"));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let (record, hold) = lock(waiter.as_mut(), &id("abc"));
            waiter.commit(&id("abc"), hold, Change::Delete, soon()).unwrap();
            record
        });
        let mut seen = None;
        wait_until("a waiter is seen", Duration::from_secs(20), || {
            seen = other.peek(&id("abc"), soon()).unwrap().lock;
            seen.as_ref().is_some_and(|lock| lock.waiting == Some(1))
        });
        assert_eq!(other.break_lock(&id("abc"), &seen.unwrap(), soon()).unwrap(), Broken::Done);
        assert_eq!(waiting.join().unwrap().unwrap(), b"n|i:1;");
    });
}

fn a_lock_of_somebody_else_is_not_broken(subject: &dyn Subject) {
    let (mut first, mut second) = (subject.worker(), subject.worker());
    put(first.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(first.as_mut(), &id("abc"));
    let seen = second.peek(&id("abc"), soon()).unwrap().lock.unwrap();
    first.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    let (_, hold) = lock(second.as_mut(), &id("abc"));
    assert_eq!(first.break_lock(&id("abc"), &seen, soon()).unwrap(), Broken::Changed);
    let done = second.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(done, Committed::Done);
}

fn a_lock_of_the_kernel_is_not_broken(subject: &dyn Subject) {
    let (mut first, mut second) = (subject.worker(), subject.worker());
    let (_, hold) = lock(first.as_mut(), &id("abc"));
    let seen = second.peek(&id("abc"), soon()).unwrap().lock.unwrap();
    let error = second.break_lock(&id("abc"), &seen, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let pid = format!("process {}", std::process::id());
    assert!(error.to_string().contains(&pid), "{error}");
    first.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
}
