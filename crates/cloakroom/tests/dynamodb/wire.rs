//! What goes over the wire: how many requests, over which connections, at what time, and what they cost.

use std::time::{Duration, SystemTime};

use cloakroom::{Access, Billed, Change, Environment, Settings, Store, Unknown};
use testbed::dynamodb::{Fault, Program, Tls};
use testbed::suite::{Case, case};

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, lock_at_once, put, read, soon, store_with};
use crate::{DYNALITE, LOCAL, Proxied, Sessions, key, patient, proxied, store};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        proxied("a_changed_session_is_two_requests_and_a_read_one_is_one", two_requests),
        proxied("a_worker_keeps_its_connection", a_worker_keeps_its_connection),
        proxied("a_connection_that_died_of_idleness_is_replaced_quietly", a_dead_connection),
        proxied("what_is_throttled_or_fails_is_asked_again", asked_again),
        proxied("the_service_s_clock_counts_in_signatures_and_expiry", another_time),
        proxied("requests_go_over_tls_to_whom_the_authority_vouches_for", over_tls),
        proxied("requests_are_sent_from_inside_another_runtime", inside_another_runtime),
        case("dynalite: the_bill_says_what_each_kind_of_request_cost", DYNALITE, || bill(Program::Dynalite)),
        case("AWS's own engine: the_bill_says_what_each_kind_of_request_cost", LOCAL, || {
            bill(Program::Local)
        }),
    ]
}

fn two_requests(proxied: &Proxied) {
    let mut worker = proxied.worker();
    let put = |worker: &mut dyn Store| put(worker, &id("abc"), b"n|i:1;");
    put(worker.as_mut());
    // The first had a session to make.
    assert_eq!(proxied.proxy.operations(), ["UpdateItem", "UpdateItem"]);
    for (change, last) in [
        (Change::Write(b"n|i:2;", LIFETIME), "UpdateItem"),
        (Change::Touch(b"n|i:1;", LIFETIME), "UpdateItem"),
        (Change::Keep, "UpdateItem"),
        (Change::Delete, "DeleteItem"),
    ] {
        put(worker.as_mut());
        proxied.proxy.reset_counts();
        let before = worker.counters();
        let (record, hold) = lock(worker.as_mut(), &id("abc"));
        assert_eq!(record.unwrap(), b"n|i:1;");
        worker.commit(&id("abc"), hold, change, soon()).unwrap();
        assert_eq!(proxied.proxy.operations(), ["UpdateItem", last], "{change:?}");
        let after = worker.counters();
        assert_eq!((after.exchanges - before.exchanges, after.retries), (2, 0), "{change:?}");
    }
    // A session that nobody writes.
    proxied.proxy.reset_counts();
    let (record, hold) = lock(worker.as_mut(), &id("new"));
    assert_eq!(record, None);
    worker.commit(&id("new"), hold, Change::Keep, soon()).unwrap();
    assert_eq!(proxied.proxy.operations(), ["UpdateItem", "DeleteItem"]);
    assert_eq!(proxied.table.scan(), [""; 0]);
    put(worker.as_mut());
    proxied.proxy.reset_counts();
    assert_eq!(read(worker.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
    assert!(worker.exists(&id("abc"), soon()).unwrap());
    assert_eq!(proxied.proxy.operations(), ["GetItem", "GetItem"]);
}

fn a_worker_keeps_its_connection(proxied: &Proxied) {
    let mut worker = proxied.worker();
    for _ in 0..5 {
        put(worker.as_mut(), &id("abc"), b"n|i:1;");
        read(worker.as_mut(), &id("abc"));
    }
    assert_eq!(proxied.proxy.connections(), 1);
    let counters = worker.counters();
    assert_eq!((counters.exchanges, counters.connects, counters.retries), (15, 1, 0));
}

fn a_dead_connection(proxied: &Proxied) {
    let mut worker = proxied.worker();
    put(worker.as_mut(), &id("abc"), b"n|i:1;");
    for round in 2..6_u64 {
        let (_, hold) = lock(worker.as_mut(), &id("abc"));
        proxied.proxy.hang_up();
        worker.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
        proxied.proxy.hang_up();
        assert_eq!(read(worker.as_mut(), &id("abc")).unwrap(), b"n|i:2;");
        let counters = worker.counters();
        assert_eq!((counters.connects, counters.retries), (2 * round - 1, 0));
    }
    assert!(proxied.table.get(&key("abc")).unwrap()["lock"].is_null());
}

fn asked_again(proxied: &Proxied) {
    // What AWS's own client is told of repeating does not count.
    let environment = [("AWS_MAX_ATTEMPTS", "9"), ("AWS_RETRY_MODE", "adaptive")].into_iter().collect();
    let settings = Settings { environment, ..patient() };
    for fault in [Fault::throttled(), Fault::internal(), Fault::unavailable()] {
        let mut worker = proxied.worker_with(settings.clone());
        put(worker.as_mut(), &id("abc"), b"n|i:1;");
        proxied.proxy.reset_counts();
        proxied.proxy.fail_first(3, fault.clone());
        let (record, hold) = lock(worker.as_mut(), &id("abc"));
        assert_eq!(record.unwrap(), b"n|i:1;");
        worker.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
        assert_eq!(proxied.proxy.count("UpdateItem"), 8, "{fault:?}");
        assert_eq!(read(worker.as_mut(), &id("abc")).unwrap(), b"n|i:2;");
        assert_eq!(proxied.proxy.count("GetItem"), 4, "{fault:?}");
        let counters = worker.counters();
        // After a failure of the service's, AWS's client takes another connection.
        let connects = if fault == Fault::throttled() { 1 } else { 10 };
        assert_eq!((counters.exchanges, counters.retries, counters.connects), (14, 9, connects), "{fault:?}");
        proxied.proxy.forward();
        assert!(proxied.table.get(&key("abc")).unwrap()["lock"].is_null(), "{fault:?}");
    }
}

/// This host is an hour behind, and AWS would refuse what it signs.
fn another_time(proxied: &Proxied) {
    let mut worker = proxied.worker();
    proxied.proxy.shift_clock(3600);
    proxied.proxy.check_signing_time();
    put(worker.as_mut(), &id("abc"), b"n|i:1;");
    let statuses: Vec<_> = proxied.proxy.seen().iter().map(|seen| seen.status.unwrap()).collect();
    // It is told the time, locks, corrects what it took for the end of the lease, and writes.
    assert_eq!(statuses, [400, 200, 200, 200]);
    let item = proxied.table.get(&key("abc")).unwrap();
    let expires: u64 = item["expires"]["N"].as_str().unwrap().parse().unwrap();
    let here = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let ahead = expires - LIFETIME.as_secs() - here;
    assert!((3500..=3602).contains(&ahead), "{ahead}");
    assert_eq!(read(worker.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
    // Another host's clock goes right: for it the session is long-lived.
    assert_eq!(read(store(&proxied.direct).as_mut(), &id("abc")).unwrap(), b"n|i:1;");
}

fn over_tls(proxied: &Proxied) {
    let tls = Tls::before(proxied.proxy.port());
    let authority = tls.authority().display().to_string();
    let save_path = proxied.save_path.replace(&proxied.proxy.endpoint(), &tls.endpoint());
    let bundle = [("AWS_CA_BUNDLE", authority.as_str())].into_iter().collect();
    for (save_path, environment) in
        [(format!("{save_path}&cafile={authority}"), Environment::default()), (save_path.clone(), bundle)]
    {
        proxied.proxy.reset_counts();
        let mut worker = store_with(&save_path, Settings { environment, ..patient() });
        for _ in 0..3 {
            put(worker.as_mut(), &id("abc"), b"n|i:1;");
            assert_eq!(read(worker.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
        }
        assert_eq!((proxied.proxy.connections(), worker.counters().connects), (1, 1));
        // A connection that died of idleness.
        proxied.proxy.hang_up();
        assert_eq!(read(worker.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
        assert_eq!(worker.counters().connects, 2);
    }
    let error = store(&save_path).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(
        error.to_string().replace(&save_path.replace("secret", "***"), "URL"),
        "cannot lock the session: DynamoDB cannot be reached: its certificate is not trusted: UnknownIssuer (store URL)\n\
         hint: name the authority that signed it with cafile= or AWS_CA_BUNDLE, or install ca-certificates"
    );
}

/// Where a program drives futures, it must not be blocked by us; where it does it all the same, that is no reason to fail.
fn inside_another_runtime(proxied: &Proxied) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut worker = proxied.worker();
    runtime.block_on(async {
        put(worker.as_mut(), &id("abc"), b"n|i:1;");
        assert_eq!(read(worker.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
    });
    assert_eq!(proxied.proxy.connections(), 1);
}

/// Sizes are those of whole items: 1 KB a write unit, 4 KB a read unit, half where consistency was not asked for.
fn bill(program: Program) {
    let sessions = Sessions::on(program);
    let mut worker = sessions.worker();
    let nine_kb = [b'x'; 9000];
    put(worker.as_mut(), &id("abc"), &nine_kb);
    let of = |worker: &dyn Store, kind: &str| {
        let found = worker.billed().into_iter().find(|(name, _)| *name == kind);
        found.map_or(Billed::default(), |(_, billed)| billed)
    };
    let billed = |requests, read_units, write_units| Billed { requests, read_units, write_units };
    assert_eq!(of(worker.as_ref(), "open"), billed(1, 0.0, 1.0));
    assert_eq!(of(worker.as_ref(), "commit"), billed(1, 0.0, 9.0));
    read(worker.as_mut(), &id("abc"));
    assert_eq!(of(worker.as_ref(), "read"), billed(1, 3.0, 0.0));
    let (_, hold) = lock_at_once(worker.as_mut(), &id("abc"));
    assert_eq!(of(worker.as_ref(), "open"), billed(2, 0.0, 10.0));
    // One that finds it locked: a refused condition costs a write as well, and neither engine says how large.
    let mut other = sessions.worker();
    let at_once = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Lock };
    other.open(&id("abc"), at_once, soon()).unwrap_err();
    let waiting: Vec<_> = other.billed();
    let writes: f64 = waiting.iter().map(|(_, billed)| billed.write_units).sum();
    let asked: u64 = waiting.iter().map(|(_, billed)| billed.requests).sum();
    assert!(writes >= 1.0 && asked >= 1, "{waiting:?}");
    worker.commit(&id("abc"), hold, Change::Delete, soon()).unwrap();
    assert_eq!(of(worker.as_ref(), "commit"), billed(2, 0.0, 18.0));
    // Half a unit for each 4 KB.
    put(worker.as_mut(), &id("abc"), &nine_kb);
    let mut eventual = sessions.worker_of("&consistent_read=0");
    read(eventual.as_mut(), &id("abc"));
    assert_eq!(eventual.billed(), [("read", billed(1, 1.5, 0.0))]);
    let opened = worker.open(&id("abc"), EXCLUSIVE, soon()).unwrap();
    let mut renewal = opened.renewal.unwrap();
    let exchanges = worker.counters().exchanges;
    (renewal.renew)(soon()).unwrap();
    (renewal.renew)(soon()).unwrap();
    let renewed = of(worker.as_ref(), "renew");
    assert_eq!((renewed.requests, renewed.read_units), (2, 0.0));
    assert!(renewed.write_units >= 18.0, "{renewed:?}");
    // Nobody waits for those; their connection is one all the same.
    assert_eq!((worker.counters().exchanges, worker.counters().connects), (exchanges, 2));
}
