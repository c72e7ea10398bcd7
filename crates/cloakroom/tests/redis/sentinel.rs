//! Sentinel: who is the primary, and what becomes of requests while another one takes over.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloakroom::{Access, Change, Deadline, ErrorKind, Hold, Outcome, Store, Unknown};
use testbed::need::Need;
use testbed::proxy::Proxy;
use testbed::redis::{Program, Redis};
use testbed::sentinel::{NAME, Replicated, Sentinel};
use testbed::suite::Case;
use testbed::twemproxy::Twemproxy;
use testbed::{free_port, wait_until};

use crate::worker::{EXCLUSIVE, LIFETIME, counted, id, increment, lock, lock_at_once, put, read, soon};
use crate::{LIMIT, LONG, REDIS, key, leased, lock_key, store, told};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("the_primary_is_asked", REDIS, the_primary_is_asked),
        case("a_session_costs_two_exchanges", REDIS, a_session_costs_two_exchanges),
        case("each_of_them_has_its_own_password", REDIS, each_of_them_has_its_own_password),
        case("tls_to_all_of_them", REDIS, tls_to_all_of_them),
        case("a_name_that_is_not_known_is_a_fault_of_the_url", REDIS, a_name_that_is_not_known),
        case("sentinels_that_are_down_are_unreachable", REDIS, sentinels_that_are_down),
        case("a_silent_sentinel_is_passed_over", REDIS, a_silent_sentinel_is_passed_over),
        case("no_connection_to_a_sentinel_is_kept", REDIS, no_connection_to_a_sentinel_is_kept),
        case("a_replica_is_not_taken_for_the_primary", REDIS, a_replica_is_not_taken_for_the_primary),
        case("an_open_outlives_the_primary", REDIS, an_open_outlives_the_primary),
        case("a_commit_outlives_the_primary", REDIS, a_commit_outlives_the_primary),
        case("a_waiter_outlives_the_primary", REDIS, a_waiter_outlives_the_primary),
        case("a_frozen_primary_ends_one_exchange", REDIS, a_frozen_primary_ends_one_exchange),
        case("a_commit_waits_for_replicas", REDIS, a_commit_waits_for_replicas),
        case(
            "a_repeated_change_is_confirmed_by_nobody",
            &[Need::Valkey],
            a_repeated_change_is_confirmed_by_nobody,
        ),
        case("a_user_who_must_not_wait_is_told_so", REDIS, a_user_who_must_not_wait_is_told_so),
        case(
            "a_proxy_that_cannot_wait_is_named",
            &[Need::Redis, Need::Twemproxy],
            a_proxy_that_cannot_wait_is_named,
        ),
        case("no_acknowledged_change_dies_with_its_primary", REDIS, no_acknowledged_change_dies),
    ]
}

fn case(name: &str, needs: &[Need], run: fn()) -> Case {
    testbed::suite::case(format!("sentinel: {name}"), needs, run)
}

fn the_primary_is_asked() {
    let servers = Replicated::start();
    let mut store = store(servers.url());
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    assert_eq!(servers.primary().command(&["GET", &key("abc")]), "n|i:1;");
    let mut ids = Vec::new();
    store
        .list(
            &mut |id| {
                ids.push(id);
                true
            },
            soon(),
        )
        .unwrap();
    assert_eq!(ids, [id("abc")]);
}

fn a_session_costs_two_exchanges() {
    let servers = Replicated::start();
    for query in ["", "?wait_replicas=1"] {
        let mut store = store(&format!("{}{query}", servers.url()));
        put(store.as_mut(), &id("abc"), b"n|i:1;");
        let before = store.counters();
        for _ in 0..5 {
            increment(store.as_mut(), &id("abc"), EXCLUSIVE).unwrap();
        }
        let after = store.counters();
        assert_eq!((after.exchanges - before.exchanges, after.connects), (10, before.connects));
    }
}

fn each_of_them_has_its_own_password() {
    let servers = Replicated::guarded();
    let mut known = store(&format!("{}?sentinel_auth=sentinel-pw", servers.url()));
    put(known.as_mut(), &id("abc"), b"n|i:1;");
    assert_eq!(read(known.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
    for (url, hint) in [
        (servers.url().to_owned(), "sentinel_auth="),
        (format!("{}?sentinel_auth=hunter2", servers.url()), "sentinel_auth="),
        (
            format!("{}?sentinel_auth=sentinel-pw", servers.url().replace("server-pw", "hunter2")),
            "correct the user or the password",
        ),
    ] {
        let error = store(&url).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Auth, Outcome::Refused), "{error}");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(hint), "{shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("-pw"), "{shown}");
    }
}

fn tls_to_all_of_them() {
    let servers = Replicated::tls();
    let cafile = servers.primary().authority().display().to_string();
    let mut known = store(&format!("{}?cafile={cafile}", servers.url()));
    put(known.as_mut(), &id("abc"), b"n|i:1;");
    assert_eq!(servers.primary().command(&["GET", &key("abc")]), "n|i:1;");
    let by = || Deadline::after(Duration::from_millis(500));
    let error = told(|| store(servers.url()).open(&id("abc"), EXCLUSIVE, by()).unwrap_err());
    assert!(error.to_string().contains("no sentinel tells which server is the primary"), "{error}");
}

fn a_name_that_is_not_known() {
    let servers = Replicated::start();
    let url = servers.url().replace(NAME, "mymater");
    let error = store(&url).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().starts_with("no sentinel knows a primary named \"mymater\""), "{error}");
}

fn sentinels_that_are_down() {
    let url = format!("redis+sentinel://127.0.0.1:{},127.0.0.1:{}/{NAME}", free_port(), free_port());
    let by = || Deadline::after(Duration::from_millis(300));
    let error = told(|| store(&url).open(&id("abc"), EXCLUSIVE, by()).unwrap_err());
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::Refused), "{error}");
    assert!(error.to_string().starts_with("no sentinel tells which server is the primary"), "{error}");
}

fn a_silent_sentinel_is_passed_over() {
    let servers = Replicated::start();
    let silent = Sentinel::watching("127.0.0.1", servers.primary().port(), &[]);
    let both =
        servers.url().replace("://", &format!("://127.0.0.1:{},127.0.0.1:{},", free_port(), silent.port()));
    silent.freeze();
    let mut store = store(&format!("{both}?read_timeout=5"));
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    // From now on the one that answered is asked first: nothing is waited for.
    let before = store.counters().connects;
    servers.primary().command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    put(store.as_mut(), &id("abc"), b"n|i:2;");
    // To the sentinel and to the primary.
    assert_eq!(store.counters().connects - before, 2);
    silent.thaw();
}

fn no_connection_to_a_sentinel_is_kept() {
    let servers = Replicated::start();
    let connected = || servers.sentinel().command(&["CLIENT", "LIST"]).matches("cmd=sentinel").count();
    let mut stores = [store(servers.url()), store(servers.url()), store(servers.url())];
    for store in &mut stores {
        put(store.as_mut(), &id("abc"), b"n|i:1;");
        assert_eq!(store.counters().connects, 2);
    }
    wait_until("they are gone", LIMIT, || connected() == 0);
}

/// A sentinel that was cut off names the primary of before.
fn a_replica_is_not_taken_for_the_primary() {
    let servers = Replicated::start();
    let stale = Sentinel::watching("127.0.0.1", servers.replica().port(), &[]);
    let url = servers.url().replace("://", &format!("://127.0.0.1:{},", stale.port()));
    put(store(&url).as_mut(), &id("abc"), b"n|i:1;");
    assert_eq!(servers.primary().command(&["GET", &key("abc")]), "n|i:1;");
    let only = format!("redis+sentinel://127.0.0.1:{}/{NAME}", stale.port());
    let by = || Deadline::after(Duration::from_millis(500));
    let error = told(|| store(&only).open(&id("abc"), Access::ReadOnly, by()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().starts_with("the server is not the primary"), "{error}");
}

#[track_caller]
fn is_replicated(servers: &Replicated) {
    wait_until("the session is replicated", LIMIT, || {
        servers.replica().command(&["GET", &key("abc")]) == "n|i:1;"
    });
}

fn an_open_outlives_the_primary() {
    let servers = Replicated::start();
    let mut store = store(servers.url());
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    is_replicated(&servers);
    let from = servers.primary().port();
    servers.kill_primary();
    assert_eq!(increment(store.as_mut(), &id("abc"), EXCLUSIVE).unwrap(), 2);
    servers.await_failover(from);
    assert_eq!(servers.primary().command(&["GET", &key("abc")]), "n|i:2;");
    assert_eq!(servers.primary().command(&["EXISTS", &lock_key("abc")]), "0");
}

fn a_commit_outlives_the_primary() {
    let servers = Replicated::start();
    let mut store = leased(servers.url(), LONG);
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    // The lock has reached the replica.
    wait_until("the lock is replicated", LIMIT, || {
        servers.replica().command(&["EXISTS", &lock_key("abc")]) == "1"
    });
    let from = servers.primary().port();
    servers.kill_primary();
    store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    servers.await_failover(from);
    assert_eq!(servers.primary().command(&["GET", &key("abc")]), "n|i:2;");
    assert_eq!(servers.primary().command(&["EXISTS", &lock_key("abc")]), "0");
}

fn a_waiter_outlives_the_primary() {
    let servers = Replicated::start();
    let mut holder = leased(servers.url(), LONG);
    put(holder.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    std::thread::scope(|scope| {
        let waiting =
            scope.spawn(|| increment(store(servers.url()).as_mut(), &id("abc"), EXCLUSIVE).unwrap());
        wait_until("it waits", LIMIT, || {
            servers.replica().command(&["LLEN", &format!("{}_QUEUE", lock_key("abc"))]) == "1"
        });
        servers.kill_primary();
        holder.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
        assert_eq!(waiting.join().unwrap(), 3);
    });
}

fn a_frozen_primary_ends_one_exchange() {
    let servers = Replicated::start();
    let mut store = store(&format!("{}?read_timeout=2", servers.url()));
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    is_replicated(&servers);
    let frozen = servers.primary();
    let from = frozen.port();
    frozen.freeze();
    let error = increment(store.as_mut(), &id("abc"), EXCLUSIVE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    servers.sentinel().hurry();
    servers.await_failover(from);
    assert_eq!(increment(store.as_mut(), &id("abc"), EXCLUSIVE).unwrap(), 2);
    assert_eq!(servers.primary().command(&["GET", &key("abc")]), "n|i:2;");
    frozen.thaw();
}

fn a_commit_waits_for_replicas() {
    let servers = Replicated::start();
    let url = |timeout| format!("{}?wait_replicas=1&read_timeout={timeout}", servers.url());
    let mut patient = store(&url(20.0));
    let mut hasty = store(&url(1.0));
    let committed = |store: &mut Box<dyn Store>, change: Change<'_>, access: Access| {
        let opened = store.open(&id("abc"), access, soon()).unwrap();
        store.commit(&id("abc"), opened.hold, change, soon())
    };
    let changes = [
        Change::Write(b"n|i:1;".as_slice(), LIFETIME),
        Change::Touch(b"n|i:1;".as_slice(), LIFETIME),
        Change::Delete,
        Change::Keep,
    ];
    for access in [EXCLUSIVE, Access::Unlocked] {
        for change in changes {
            committed(&mut patient, change, access).unwrap();
        }
    }
    servers.replica().freeze();
    for access in [EXCLUSIVE, Access::Unlocked] {
        for change in &changes[..3] {
            let error = told(|| committed(&mut hasty, *change, access).unwrap_err());
            assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
            let first = error.to_string();
            assert!(first.starts_with("the session was written, but 0 of 1 replicas have it"), "{first}");
            assert_eq!(servers.primary().command(&["EXISTS", &lock_key("abc")]), "0");
        }
        committed(&mut hasty, Change::Keep, access).unwrap();
    }
    servers.replica().thaw();
}

/// The repetition finds the change made, and its connection has written nothing: newer servers confirm that at once.
fn a_repeated_change_is_confirmed_by_nobody() {
    let (primary, replica) = (Redis::of(Program::Valkey), Redis::of(Program::Valkey));
    replica.command(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    wait_until("the replica follows", LIMIT, || replica.command(&["ROLE"]).contains("connected"));
    let proxy = Proxy::to(primary.address());
    let mut store = store(&format!("redis://{}?wait_replicas=1&read_timeout=2.5", proxy.address()));
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    for access in [EXCLUSIVE, Access::Unlocked] {
        for change in [Change::Write(b"n|i:2;", LIFETIME), Change::Touch(b"n|i:2;", LIFETIME), Change::Delete]
        {
            if access == Access::Unlocked && change != Change::Delete {
                // Made twice, it is confirmed.
                continue;
            }
            put(store.as_mut(), &id("abc"), b"n|i:2;");
            let opened = store.open(&id("abc"), access, soon()).unwrap();
            replica.freeze();
            proxy.cut_at_reply(1);
            let error = store.commit(&id("abc"), opened.hold, change, soon()).unwrap_err();
            assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
            assert!(!proxy.cut_pending());
            replica.thaw();
        }
    }
}

fn a_user_who_must_not_wait_is_told_so() {
    let redis = Redis::start();
    redis.command(&["ACL", "SETUSER", "default", "-wait"]);
    let error = {
        let mut store = store(&format!("{}?wait_replicas=1", redis.url()));
        let (_, hold) = lock_at_once(store.as_mut(), &id("abc"));
        store.commit(&id("abc"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap_err()
    };
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::Unknown), "{error}");
    assert!(error.to_string().contains("WAIT"), "{error}");
}

fn a_proxy_that_cannot_wait_is_named() {
    let redis = Redis::start();
    let proxy = Twemproxy::before(&[&redis]);
    let mut store = store(&format!("tcp://{}?wait_replicas=1", proxy.address()));
    let (_, hold) = lock_at_once(store.as_mut(), &id("abc"));
    let error = store.commit(&id("abc"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    assert!(error.to_string().contains("leave wait_replicas= out"), "{error}");
}

/// What a worker under load was told.
#[derive(Default)]
struct Told {
    /// The counts that were acknowledged, and those whose outcome is unknown.
    acknowledged: HashMap<String, Vec<u64>>,
    unknown: HashMap<String, u64>,
    /// When requests began and ended, and whether well.
    ended: Vec<(Instant, Instant, bool)>,
}

impl Told {
    fn well(&self, since: Instant) -> usize {
        self.ended.iter().filter(|(began, _, well)| *well && *began > since).count()
    }
}

/// Kills the primary (`SOAK`: again and again) under eight workers.
fn no_acknowledged_change_dies() {
    let kills = if std::env::var_os("SOAK").is_some() { 5 } else { 1 };
    let servers = Replicated::start();
    let url = format!("{}?wait_replicas=1&read_timeout=2", servers.url());
    let (told, enough) = (Mutex::new(Told::default()), AtomicBool::new(false));
    let probed = Mutex::new(Vec::new());
    let mut windows = Vec::new();
    std::thread::scope(|scope| {
        for worker in 0..8u64 {
            let (url, told, enough) = (&url, &told, &enough);
            scope.spawn(move || work(worker, store(url).as_mut(), told, enough));
        }
        // After a failover there is no replica to wait for: this one shows when there is a primary.
        scope.spawn(|| {
            let mut store = store(servers.url());
            while !enough.load(Ordering::Relaxed) {
                if increment(store.as_mut(), &id("probe"), EXCLUSIVE).is_ok() {
                    probed.lock().unwrap().push(Instant::now());
                }
            }
        });
        let works = || {
            let since = Instant::now();
            wait_until("the workers work", LIMIT, || told.lock().unwrap().well(since) > 200);
        };
        for _ in 0..kills {
            works();
            let switches = servers.sentinel().switches();
            let from = servers.primary().port();
            let killed = Instant::now();
            servers.kill_primary();
            let announced = switches.recv_timeout(LIMIT).unwrap();
            let after = || probed.lock().unwrap().iter().copied().find(|at| *at > announced);
            wait_until("a request succeeds", LIMIT, || after().is_some());
            println!(
                "sentinel: announced {:?} after the kill, a request succeeded {:?} later",
                announced - killed,
                after().unwrap() - announced
            );
            servers.await_failover(from);
            servers.restore();
            windows.push((killed, Instant::now()));
        }
        works();
        enough.store(true, Ordering::Relaxed);
    });
    let Told { acknowledged, unknown, ended } = told.into_inner().unwrap();
    let outside: Vec<bool> = ended
        .iter()
        .filter(|(began, at, _)| windows.iter().all(|(from, to)| at < from || began > to))
        .map(|(_, _, well)| *well)
        .collect();
    let well = outside.iter().filter(|well| **well).count();
    println!("sentinel: {well} of {} requests outside the failovers succeeded", outside.len());
    assert!(well * 100 >= outside.len() * 95, "{well} of {}", outside.len());
    let mut reader = store(servers.url());
    for (session, mut counts) in acknowledged {
        counts.sort_unstable();
        let all = counts.len();
        counts.dedup();
        assert_eq!(counts.len(), all, "{session}: two workers had the lock at once");
        let stored = counted(&read(reader.as_mut(), &id(&session)).unwrap());
        let most = all as u64 + unknown.get(&session).copied().unwrap_or(0);
        let last = counts.last().copied().unwrap_or(0);
        assert!(stored >= last, "{session}: {stored} is stored, and {last} was acknowledged");
        assert!(stored <= most, "{session}: {stored} is stored, and {most} at most were written");
        // One that a failed request left behind ends with its lease.
        wait_until("no lock is left", LIMIT, || {
            servers.primary().command(&["EXISTS", &lock_key(&session)]) == "0"
        });
    }
}

/// Counts in sessions, one after the other, until it is enough.
fn work(worker: u64, store: &mut dyn Store, told: &Mutex<Told>, enough: &AtomicBool) {
    let access = Access::Exclusive { wait: Duration::from_secs(10), unknown: Unknown::Lock };
    let mut next = worker;
    while !enough.load(Ordering::Relaxed) {
        // Forty sessions, in an order of its own.
        next = (next * 7 + 1 + worker) % 40;
        let session = format!("s{next}");
        let limit = Duration::from_millis(3500);
        let count = |store: &mut dyn Store| {
            let opened =
                store.open(&id(&session), access, Deadline::after(limit + Duration::from_secs(10)))?;
            let count = opened.record.map_or(0, |record| counted(&record.0)) + 1;
            let bytes = format!("n|i:{count};");
            let hold: Hold = opened.hold;
            let change = Change::Write(bytes.as_bytes(), LIFETIME);
            store.commit(&id(&session), hold, change, Deadline::after(limit)).map(|_| count)
        };
        let began = Instant::now();
        let counted = count(store);
        let mut told = told.lock().unwrap();
        told.ended.push((began, Instant::now(), counted.is_ok()));
        match counted {
            Ok(count) => told.acknowledged.entry(session).or_default().push(count),
            Err(error) if error.outcome() == Outcome::Unknown => {
                *told.unknown.entry(session).or_default() += 1
            }
            Err(_) => {}
        }
    }
}
