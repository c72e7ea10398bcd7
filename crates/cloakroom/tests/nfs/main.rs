//! The files store on two real NFS clients with one server, in user-mode Linux: `job.sh` is what happens there, and
//! each case looks at what one part of it left.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../worker/mod.rs"]
mod worker;

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use testbed::TempDir;
use testbed::need::Need;
use testbed::suite::{Case, case};

fn main() {
    worker::become_worker();
    let cases: [(&str, fn()); 7] = [
        ("workers_of_two_hosts_lose_no_update", workers_of_two_hosts_lose_no_update),
        ("a_slow_clock_of_the_server_loses_no_update", a_slow_clock_of_the_server_loses_no_update),
        ("half_of_them_with_php_lose_no_update", half_of_them_with_php_lose_no_update),
        (
            "a_killed_worker_loses_no_update_and_frees_its_lock",
            a_killed_worker_loses_no_update_and_frees_its_lock,
        ),
        ("a_host_sees_what_another_one_wrote", a_host_sees_what_another_one_wrote),
        (
            "a_session_deleted_on_another_host_is_gone_for_waiters",
            a_session_deleted_on_another_host_is_gone_for_waiters,
        ),
        ("a_full_server_loses_nothing", a_full_server_loses_nothing),
    ];
    let needs = [Need::UserModeLinux, Need::Php];
    let installed = needs.iter().all(|need| need.missing().is_none());
    // A list of the cases needs no machine.
    let listing = std::env::args().any(|argument| argument == "--list");
    let refusal = if installed && !listing { testbed::uml::refusal() } else { None };
    let cases = cases.into_iter().map(|(name, run)| {
        let case: Case = case(format!("nfs: {name}"), &needs, run);
        match refusal {
            Some(reason) => case.skipped(reason),
            None => case,
        }
    });
    testbed::suite::run(cases.collect())
}

/// What the job wrote into this file; the machine runs once.
fn left(name: &str) -> String {
    static MACHINE: OnceLock<Result<TempDir, String>> = OnceLock::new();
    let ran = MACHINE.get_or_init(|| {
        let directory = TempDir::new();
        let script = format!("worker='{} --worker'\n{}", worker::program().display(), include_str!("job.sh"));
        // All that a case has: nothing below depends on how fast the machine in the machine is.
        testbed::uml::run(directory.path(), &script, Duration::from_secs(280)).map(|()| directory)
    });
    let directory = ran.as_ref().unwrap_or_else(|log| panic!("{log}"));
    std::fs::read_to_string(directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn counts(name: &str) -> Vec<u64> {
    left(name).lines().map(|line| line.parse().unwrap()).collect()
}

/// The counts that these workers reached together, each once.
#[track_caller]
fn reached<N: AsRef<str>>(names: &[N]) -> BTreeSet<u64> {
    let all: Vec<u64> = names.iter().flat_map(|name| counts(name.as_ref())).collect();
    let distinct: BTreeSet<u64> = all.iter().copied().collect();
    assert_eq!(distinct.len(), all.len(), "a count was reached twice, so an update was lost: {all:?}");
    distinct
}

/// Both hosts took turns, or it was no race.
#[track_caller]
fn took_turns(one: &BTreeSet<u64>, other: &BTreeSet<u64>) {
    let between = |one: &BTreeSet<u64>, other: &BTreeSet<u64>| {
        one.range(other.first().unwrap()..other.last().unwrap()).next().is_some()
    };
    assert!(between(one, other) || between(other, one), "no race: {one:?} {other:?}");
}

fn race(name: &str, total: u64) {
    let on = |client: &str| (1..=4).map(|number| format!("{name}.{client}{number}")).collect::<Vec<_>>();
    let (a, b) = (reached(&on("a")), reached(&on("b")));
    took_turns(&a, &b);
    assert_eq!(&a & &b, BTreeSet::new(), "reached on both hosts, so an update was lost");
    assert_eq!(left(name), format!("n|i:{total};"));
}

fn workers_of_two_hosts_lose_no_update() {
    race("race", 200);
}

/// Two writes in one tick look like one to an NFS client, which then reads its cache although it won the lock.
fn a_slow_clock_of_the_server_loses_no_update() {
    race("coarse", 2000);
}

fn half_of_them_with_php_lose_no_update() {
    let (ours, php) = (reached(&["mixed.a1", "mixed.a2"]), reached(&["mixed.php1", "mixed.php2"]));
    took_turns(&ours, &php);
    assert_eq!(&ours & &php, BTreeSet::new(), "reached on both hosts, so an update was lost");
    assert_eq!(left("mixed"), "n|i:200;");
}

fn a_killed_worker_loses_no_update_and_frees_its_lock() {
    let (killed, survivor) = (reached(&["killed.a"]), reached(&["killed.b"]));
    assert_eq!(survivor.len(), 100);
    assert!(killed.len() < 5000, "the worker came to its end before it was killed");
    took_turns(&killed, &survivor);
    let told = reached(&["killed.a", "killed.b"]).len() as u64;
    let total = worker::counted(left("killed").as_bytes());
    // The last one may have been written and not told.
    assert!(total == told || total == told + 1, "{total} where {told} were acknowledged");
    assert_eq!(left("held"), "n|i:1;", "the lock of a worker that was killed while it held it");
}

fn a_host_sees_what_another_one_wrote() {
    assert_eq!(left("seen"), "3 bytes\n5000 bytes\n5000 bytes\n4 bytes\n");
}

/// For a waiter in strict mode there is no session, and what another one begins anew is not lost with the old file.
fn a_session_deleted_on_another_host_is_gone_for_waiters() {
    assert_eq!(left("deleted"), "none, n|i:1;\n".repeat(5));
}

fn a_full_server_loses_nothing() {
    let expected = "\
written
Full: cannot write the session file: No space left on device (os error 28) (store /mnt/a/coarse)
hint: make room, or let expired sessions be removed (session_gc())
3000 of x, 0 of others
written
30000 of x, 0 of others
";
    assert_eq!(left("full"), expected);
}
