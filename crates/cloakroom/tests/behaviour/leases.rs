//! How a lock ends when its worker does, or does not.

use std::time::{Duration, Instant};

use cloakroom::{Access, Change, Deadline, ErrorKind, Guarantees, LockKind, Settings, Unknown};
use testbed::TempDir;

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, patient, put, read, soon, start, worker};
use crate::{Subject, behaviours};

behaviours![
    the_lock_of_a_killed_worker_is_free_at_once unless only_leases,
    the_lock_of_a_killed_worker_is_free_after_its_lease unless no_leases,
    a_lock_is_kept_beyond_its_lease_by_renewing_it unless no_leases,
    a_lock_that_is_not_renewed_ends unless no_leases,
    a_writer_whose_lease_was_lost_is_refused unless no_leases,
    a_lost_lease_cannot_be_renewed unless no_leases,
];

fn no_leases(offered: &Guarantees) -> Option<&'static str> {
    (offered.lock == LockKind::Kernel).then_some("the kernel ends the lock, there is no lease")
}

fn only_leases(offered: &Guarantees) -> Option<&'static str> {
    (offered.lock == LockKind::Lease).then_some("the lease ends the lock, not the kernel")
}

fn short() -> Settings {
    Settings { lease: Duration::from_secs(1), ..patient() }
}

/// A worker in its own process that holds `abc` and is killed while another waits.
fn next_after_a_kill(subject: &dyn Subject) {
    let logs = TempDir::new();
    put(subject.worker().as_mut(), &id("abc"), b"n|i:1;");
    let lease = short().lease.as_millis().to_string();
    let holder = start(&mut worker(&["hold", &subject.save_path(), "abc", &lease]), logs.path());
    testbed::wait_until("the worker holds the lock", Duration::from_secs(20), || {
        holder.stdout().contains("holding")
    });
    let mut next = subject.worker();
    std::thread::scope(|scope| {
        let next = scope.spawn(|| lock(next.as_mut(), &id("abc")).0);
        holder.kill();
        assert_eq!(next.join().unwrap().unwrap(), b"n|i:1;");
    });
}

fn the_lock_of_a_killed_worker_is_free_at_once(subject: &dyn Subject) {
    next_after_a_kill(subject);
}

fn the_lock_of_a_killed_worker_is_free_after_its_lease(subject: &dyn Subject) {
    next_after_a_kill(subject);
}

fn a_lock_is_kept_beyond_its_lease_by_renewing_it(subject: &dyn Subject) {
    // On a machine that stood still for longer than the lease, nobody could keep it: once more, with a longer one.
    let kept = (0..5).any(|again| is_kept(subject, short().lease * subject.slowness() * 2u32.pow(again)));
    assert!(kept, "the machine stood still for longer than any lease");
}

/// Whether a lock was kept beyond this lease; the answer is false when a renewal came too late to tell.
fn is_kept(subject: &dyn Subject, lease: Duration) -> bool {
    let short = Settings { lease, ..short() };
    let (mut holder, mut other) = (subject.worker_with(short), subject.worker());
    let mut alive = Instant::now();
    let opened = holder.open(&id("abc"), EXCLUSIVE, soon()).unwrap();
    let mut renewal = opened.renewal.expect("a lease that can be renewed");
    assert!(renewal.every < lease, "a renewal every {:?} comes too late", renewal.every);
    let in_time = std::thread::scope(|scope| {
        let beyond = Access::Exclusive { wait: 3 * lease, unknown: Unknown::Lock };
        let other = scope.spawn(move || {
            let opened =
                other.open(&id("abc"), beyond, Deadline::after(3 * lease + Duration::from_secs(30)))?;
            other.commit(&id("abc"), opened.hold, Change::Delete, soon()).map(drop)
        });
        while !other.is_finished() {
            let (asked, renewed) = (Instant::now(), (renewal.renew)(soon()));
            if alive.elapsed() >= lease {
                let _ = other.join().unwrap();
                return false;
            }
            renewed.unwrap();
            alive = asked;
            std::thread::sleep(renewal.every.min(Duration::from_millis(100)));
        }
        let waited = other.join().unwrap();
        if alive.elapsed() >= lease {
            return false;
        }
        let error = waited.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
        true
    });
    let committed = holder.commit(&id("abc"), opened.hold, Change::Write(b"n|i:1;", LIFETIME), soon());
    if !in_time || alive.elapsed() >= lease {
        return false;
    }
    committed.unwrap();
    assert_eq!(read(holder.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
    true
}

fn a_lock_that_is_not_renewed_ends(subject: &dyn Subject) {
    let (mut holder, mut other) = (subject.worker_with(short()), subject.worker());
    let (_, _hold) = lock(holder.as_mut(), &id("abc"));
    lock(other.as_mut(), &id("abc"));
}

/// The check is part of the write: whoever is late changes nothing.
fn a_writer_whose_lease_was_lost_is_refused(subject: &dyn Subject) {
    let (mut late, mut other) = (subject.worker_with(short()), subject.worker());
    put(other.as_mut(), &id("abc"), b"n|i:1;");
    let changes = [Change::Write(b"n|i:100;", LIFETIME), Change::Touch(b"n|i:1;", LIFETIME), Change::Delete];
    for (lost, change) in changes.into_iter().enumerate() {
        let (_, hold) = lock(late.as_mut(), &id("abc"));
        let since = Instant::now();
        let (_, theirs) = lock(other.as_mut(), &id("abc"));
        // A server that stood still may end a lease before its holder can know.
        std::thread::sleep(short().lease.saturating_sub(since.elapsed()));
        let error = late.commit(&id("abc"), hold, change, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockLost, "{change:?}: {error}");
        assert_eq!(error.outcome(), cloakroom::Outcome::Refused);
        assert_eq!(late.counters().lost_leases, lost as u64 + 1);
        // The lock of the next one is not touched either.
        let bytes = format!("n|i:{};", lost + 2);
        other.commit(&id("abc"), theirs, Change::Write(bytes.as_bytes(), LIFETIME), soon()).unwrap();
        assert_eq!(read(late.as_mut(), &id("abc")).unwrap(), bytes.into_bytes());
    }
}

fn a_lost_lease_cannot_be_renewed(subject: &dyn Subject) {
    let (mut late, mut other) = (subject.worker_with(short()), subject.worker());
    let opened = late.open(&id("abc"), EXCLUSIVE, soon()).unwrap();
    let (_, theirs) = lock(other.as_mut(), &id("abc"));
    let error = (opened.renewal.unwrap().renew)(soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockLost, "{error}");
    other.commit(&id("abc"), theirs, Change::Keep, soon()).unwrap();
}
