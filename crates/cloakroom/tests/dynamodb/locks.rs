//! How locks are taken and given back, whatever happens meanwhile.

use std::time::Duration;

use cloakroom::{Access, Change, Committed, ErrorKind, Unknown};
use serde_json::{Value, json};
use testbed::dynamodb::{Fault, Proxy};
use testbed::suite::Case;

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, lock_at_once, put, read, soon};
use crate::{Sessions, both, key, now, patient, quick, short, store};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        quick("an_open_whose_answer_was_lost_has_its_lock", answer_lost),
        quick("a_lock_that_is_granted_late_is_not_waited_for", granted_late),
        quick("an_open_that_fails_half_way_leaves_no_lock", fails_half_way),
        quick("a_lock_that_could_not_be_given_back_does_not_shut_out_its_own_worker", orphaned),
        quick("a_commit_that_is_refused_gives_the_lock_back", refused_commit),
        quick("a_commit_whose_answer_was_lost_is_done", commit_answer_lost),
        quick("a_touch_whose_answer_was_lost_is_done", touch_answer_lost),
        quick("a_clock_that_was_wrong_at_the_first_lock_is_made_up_for", wrong_clock),
        quick("where_answers_are_not_dated_leases_end_too", no_dates),
        quick("an_open_that_cannot_see_whether_it_has_the_lock_leaves_none", not_seen),
        quick("what_is_written_while_an_expired_session_is_cleared_stays", written_while_cleared),
        quick("what_is_written_while_a_dead_worker_s_lock_is_taken_over_stays", written_while_taken_over),
        quick("a_touch_beside_a_native_lock_leaves_what_others_wrote", touched_beside_native),
    ];
    for (name, run) in [
        ("a_new_session_that_is_given_up_leaves_no_item", given_up as fn(&Sessions)),
        ("what_a_dead_worker_had_is_as_it_was", after_a_death),
        ("a_record_that_is_written_without_the_lock_stays_when_it_is_given_back", written_without_the_lock),
        ("a_renewal_leaves_a_record_its_life", renewed),
        ("the_largest_session_can_be_locked_and_a_larger_one_is_refused", largest),
        ("strict_mode_leaves_nothing_of_an_unknown_session", strict),
    ] {
        cases.extend(both(name, run));
    }
    cases
}

fn item(sessions: &Sessions) -> Value {
    sessions.table.get(&key("abc")).unwrap_or_default()
}

fn expires(item: &Value) -> i64 {
    item["expires"]["N"].as_str().unwrap().parse().unwrap()
}

/// A record that expires in so many seconds.
fn put_expiring(sessions: &Sessions, seconds: i64) -> i64 {
    let at = now() + seconds;
    let expires = json!({"N": at.to_string()});
    sessions.table.put(json!({"id": {"S": key("abc")}, "data": {"S": "n|i:1;"}, "expires": expires}));
    at
}

/// So soon expires what would before a lease ends, and not before the case does.
const SOONER: i64 = 60;

const REFUSE: Access = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Refuse };

fn given_up(sessions: &Sessions) {
    let mut store = sessions.worker();
    let (record, hold) = lock(store.as_mut(), &id("abc"));
    assert_eq!(record, None);
    // DynamoDB removes it, should the worker die now.
    let until: i64 = item(sessions)["lock_until"]["N"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires(&item(sessions)), (until + 999) / 1000);
    assert_eq!(read(sessions.worker().as_mut(), &id("abc")), None);
    store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    assert_eq!(sessions.table.scan(), Vec::<Value>::new());
    // What expires soon is put off, and then expires when it would have.
    let at = put_expiring(sessions, SOONER);
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    assert!(expires(&item(sessions)) > at, "{}", item(sessions));
    store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    assert_eq!(expires(&item(sessions)), at);
    assert_eq!(item(sessions).as_object().unwrap().len(), 3, "{}", item(sessions));
}

fn after_a_death(sessions: &Sessions) {
    let (mut dies, mut next) = (sessions.worker_with(short()), sessions.worker());
    for seconds in [1440, SOONER] {
        let at = put_expiring(sessions, seconds);
        lock(dies.as_mut(), &id("abc"));
        let (record, hold) = lock(next.as_mut(), &id("abc"));
        assert_eq!(record.unwrap(), b"n|i:1;");
        next.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
        assert_eq!(expires(&item(sessions)), at, "{seconds}");
    }
    // A session that it began is none, for whoever looks.
    sessions.table.delete(&key("abc"));
    lock(dies.as_mut(), &id("abc"));
    assert!(!next.exists(&id("abc"), soon()).unwrap());
    let (record, hold) = lock(next.as_mut(), &id("abc"));
    assert_eq!(record, None);
    next.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    assert_eq!(sessions.table.scan(), Vec::<Value>::new());
}

/// `cloakroom.lock=off` elsewhere.
fn written_without_the_lock(sessions: &Sessions) {
    let (mut holder, mut other) = (sessions.worker(), sessions.worker());
    for seconds in [None, Some(SOONER), Some(1440)] {
        sessions.table.delete(&key("abc"));
        if let Some(seconds) = seconds {
            put_expiring(sessions, seconds);
        }
        let opened = holder.open(&id("abc"), EXCLUSIVE, soon()).unwrap();
        let unlocked = other.open(&id("abc"), Access::Unlocked, soon()).unwrap();
        other.commit(&id("abc"), unlocked.hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
        assert_eq!(read(other.as_mut(), &id("abc")).unwrap(), b"n|i:2;");
        let at = expires(&item(sessions));
        // Who has it alone, has it still.
        let error = other.open(&id("abc"), REFUSE, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
        (opened.renewal.unwrap().renew)(soon()).unwrap();
        holder.commit(&id("abc"), opened.hold, Change::Keep, soon()).unwrap();
        assert_eq!(read(other.as_mut(), &id("abc")).unwrap(), b"n|i:2;", "{seconds:?}");
        assert_eq!(expires(&item(sessions)), at, "{seconds:?}");
        assert_eq!(item(sessions).as_object().unwrap().len(), 3, "{}", item(sessions));
    }
    // A touch of what is no record yet, or no more, writes it.
    sessions.table.delete(&key("abc"));
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let unlocked = other.open(&id("abc"), Access::Unlocked, soon()).unwrap();
    let done = other.commit(&id("abc"), unlocked.hold, Change::Touch(b"n|i:3;", LIFETIME), soon()).unwrap();
    assert_eq!(done, Committed::Rewritten);
    holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    assert_eq!(read(other.as_mut(), &id("abc")).unwrap(), b"n|i:3;");
    // What it deletes is not brought back.
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let unlocked = other.open(&id("abc"), Access::Unlocked, soon()).unwrap();
    other.commit(&id("abc"), unlocked.hold, Change::Delete, soon()).unwrap();
    let error = holder.commit(&id("abc"), hold, Change::Write(b"n|i:4;", LIFETIME), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockLost, "{error}");
    assert_eq!(sessions.table.get(&key("abc")), None);
}

/// Has another write the session without the lock, just before the `update`th UpdateItem arrives.
fn write_before(sessions: &Sessions, proxy: &Proxy, update: u32) {
    let (direct, mut updates) = (sessions.save_path.clone(), 0);
    proxy.decide(move |seen| {
        updates += u32::from(seen.operation == "UpdateItem");
        if updates == update && seen.operation == "UpdateItem" {
            let mut other = store(&direct);
            let unlocked = other.open(&id("abc"), Access::Unlocked, soon()).unwrap();
            let change = Change::Write(b"n|i:2;", LIFETIME);
            other.commit(&id("abc"), unlocked.hold, change, soon()).unwrap();
        }
        Fault::None
    });
}

fn written_while_cleared(sessions: &Sessions) {
    let proxy = Proxy::to(sessions.engine);
    put_expiring(sessions, -60);
    let mut store = sessions.worker_behind(&proxy);
    write_before(sessions, &proxy, 2);
    let (record, hold) = lock(store.as_mut(), &id("abc"));
    assert_eq!(record.unwrap(), b"n|i:2;");
    store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:2;");
    assert_eq!(item(sessions).as_object().unwrap().len(), 3, "{}", item(sessions));
}

/// The dead worker's session was written without the lock before, and has expired since.
fn written_while_taken_over(sessions: &Sessions) {
    let proxy = Proxy::to(sessions.engine);
    let past = now() - 60;
    sessions.table.put(json!({
        "id": {"S": key("abc")}, "data": {"S": "n|i:1;"}, "expires": {"N": past.to_string()},
        "lock": {"S": "cloakroom:00112233445566778899aabbccddeeff:web1:4711"},
        "lock_until": {"N": (past * 1000).to_string()},
    }));
    let mut store = sessions.worker_behind(&proxy);
    write_before(sessions, &proxy, 2);
    let (record, hold) = lock(store.as_mut(), &id("abc"));
    assert_eq!(record.unwrap(), b"n|i:2;");
    store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    assert!(expires(&item(sessions)) > now() + 60, "{}", item(sessions));
    assert_eq!(item(sessions).as_object().unwrap().len(), 3, "{}", item(sessions));
}

/// What is left there of a lock of ours that the native handler has removed says nothing.
fn touched_beside_native(sessions: &Sessions) {
    let put_native = |data: &str| {
        sessions.table.put(json!({
            "id": {"S": key("abc")}, "data": {"S": data}, "expires": {"N": (now() + 60).to_string()},
            "lock": {"N": "1"}, "lock_until": {"N": (now() * 1000).to_string()}, "record_expires": {"N": "-1"},
        }));
    };
    put_native("n|i:1;");
    let mut store = sessions.worker();
    let unlocked = store.open(&id("abc"), Access::Unlocked, soon()).unwrap();
    put_native("n|i:2;");
    let done = store.commit(&id("abc"), unlocked.hold, Change::Touch(b"n|i:1;", LIFETIME), soon()).unwrap();
    assert_eq!(done, Committed::Done);
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:2;");
}

fn renewed(sessions: &Sessions) {
    let mut store = sessions.worker();
    for (seconds, put_off) in [(1440, false), (SOONER, true)] {
        let at = put_expiring(sessions, seconds);
        let opened = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap();
        let until = item(sessions)["lock_until"].clone();
        (opened.renewal.unwrap().renew)(soon()).unwrap();
        assert_ne!(item(sessions)["lock_until"], until);
        assert_eq!(expires(&item(sessions)) > at, put_off, "{}", item(sessions));
        store.commit(&id("abc"), opened.hold, Change::Keep, soon()).unwrap();
        assert_eq!(expires(&item(sessions)), at);
    }
}

fn largest(sessions: &Sessions) {
    let mut store = sessions.worker();
    let largest = store.guarantees().size_limit.unwrap() as usize;
    let session = "a".repeat(256);
    // It is text to the table, and counted in bytes.
    let text = "\u{e9}".repeat(largest / 2);
    put(store.as_mut(), &id(&session), text.as_bytes());
    let opened = store.open(&id(&session), EXCLUSIVE, soon()).unwrap();
    (opened.renewal.unwrap().renew)(soon()).unwrap();
    let larger = [text.as_bytes(), b"x"].concat();
    let error =
        store.commit(&id(&session), opened.hold, Change::Write(&larger, LIFETIME), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    assert!(error.to_string().contains(&format!("has {} bytes", larger.len())), "{error}");
    // What was there is there, and free.
    assert_eq!(lock_at_once(sessions.worker().as_mut(), &id(&session)).0.unwrap(), text.as_bytes());
}

fn strict(sessions: &Sessions) {
    let mut store = sessions.worker();
    assert_eq!(store.open(&id("abc"), REFUSE, soon()).unwrap().record, None);
    assert_eq!(sessions.table.scan(), Vec::<Value>::new());
    put_expiring(sessions, -60);
    assert_eq!(store.open(&id("abc"), REFUSE, soon()).unwrap().record, None);
    assert_eq!(sessions.table.scan(), Vec::<Value>::new());
    put_expiring(sessions, 60);
    let opened = store.open(&id("abc"), REFUSE, soon()).unwrap();
    assert_eq!(opened.record.unwrap().0, b"n|i:1;");
}

fn answer_lost(sessions: &Sessions) {
    let proxy = Proxy::to(sessions.engine);
    for unknown in [Unknown::Lock, Unknown::Refuse] {
        for seconds in [None, Some(SOONER), Some(1440)] {
            sessions.table.delete(&key("abc"));
            let at = seconds.map(|seconds| put_expiring(sessions, seconds));
            let mut store = sessions.worker_behind(&proxy);
            proxy.fail_next("UpdateItem", Fault::CutAfter);
            let access = Access::Exclusive { wait: Duration::ZERO, unknown };
            let opened = store.open(&id("abc"), access, soon()).unwrap();
            // Not the item that the first attempt has made.
            assert_eq!(opened.record.is_some(), at.is_some(), "{unknown:?} {seconds:?}");
            store.commit(&id("abc"), opened.hold, Change::Keep, soon()).unwrap();
            let left = sessions.table.get(&key("abc"));
            assert_eq!(left.as_ref().map(expires), at, "{unknown:?} {seconds:?}");
            assert!(left.is_none_or(|item| item.as_object().unwrap().len() == 3));
        }
    }
}

/// The first attempt was given up, and arrives when the one that it waits for has just left.
fn granted_late(sessions: &Sessions) {
    let (proxy, engine) = (Proxy::to(sessions.engine), sessions.engine);
    let mut holder = sessions.worker();
    put(holder.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let (mut hold, mut first, mut looks) = (Some(hold), None, 0);
    proxy.decide(move |seen| {
        looks += u32::from(seen.operation == "GetItem");
        if seen.operation == "UpdateItem" && first.is_none() {
            first = Some(seen.body.clone());
            return Fault::CutBefore;
        }
        if let Some(hold) = hold.take_if(|_| looks == 5) {
            holder.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
            engine.call("UpdateItem", first.as_ref().unwrap());
        }
        Fault::None
    });
    let mut late = sessions.worker_behind(&proxy);
    let (record, hold) = lock(late.as_mut(), &id("abc"));
    assert_eq!(record.unwrap(), b"n|i:2;");
    late.commit(&id("abc"), hold, Change::Write(b"n|i:3;", LIFETIME), soon()).unwrap();
    assert_eq!(read(sessions.worker().as_mut(), &id("abc")).unwrap(), b"n|i:3;");
}

/// The engine does not show whose lock it is, and then may not be asked.
fn not_seen(sessions: &Sessions) {
    let proxy = Proxy::to(sessions.engine);
    let mut store = sessions.worker_behind(&proxy);
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let (mut updates, mut reads) = (0, 0);
    proxy.decide(move |seen| {
        updates += u32::from(seen.operation == "UpdateItem");
        reads += u32::from(seen.operation == "GetItem");
        match (seen.operation.as_str(), updates, reads) {
            ("UpdateItem", 1, _) => Fault::CutAfter,
            ("GetItem", _, 1) => Fault::refuse("AccessDeniedException", "not now"),
            _ => Fault::None,
        }
    });
    let error = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    assert!(item(sessions).get("lock").is_none(), "{}", item(sessions));
}

fn fails_half_way(sessions: &Sessions) {
    let proxy = Proxy::to(sessions.engine);
    let mut store = sessions.worker_behind(&proxy);
    let at = put_expiring(sessions, SOONER);
    // It is locked; that its expiry cannot be put off ends the request.
    let mut updates = 0;
    proxy.decide(move |seen| {
        let update = seen.operation == "UpdateItem";
        updates += u32::from(update);
        match update && updates == 2 {
            true => Fault::refuse("AccessDeniedException", "not now"),
            false => Fault::None,
        }
    });
    let error = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    assert!(item(sessions).get("lock").is_none(), "{}", item(sessions));
    assert_eq!(expires(&item(sessions)), at);
}

fn orphaned(sessions: &Sessions) {
    let proxy = Proxy::to(sessions.engine);
    let mut store = sessions.worker_behind(&proxy);
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    put(store.as_mut(), &id("abd"), b"n|i:2;");
    let deny = |operation: &'static str, after: u32| {
        let mut asked = 0;
        proxy.decide(move |seen| {
            asked += u32::from(seen.operation == operation);
            match asked > after {
                true => Fault::refuse("AccessDeniedException", "not now"),
                false => Fault::None,
            }
        });
    };
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    deny("UpdateItem", 0);
    let error = store.commit(&id("abc"), hold, Change::Write(b"n|i:7;", LIFETIME), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    assert!(item(sessions).get("lock").is_some(), "{}", item(sessions));
    proxy.forward();
    // Another session is opened: the lock is given back then.
    let (_, other) = lock_at_once(store.as_mut(), &id("abd"));
    assert!(item(sessions).get("lock").is_none(), "{}", item(sessions));
    store.commit(&id("abd"), other, Change::Keep, soon()).unwrap();
    // The same session is: it is ours at once.
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    deny("UpdateItem", 0);
    store.commit(&id("abc"), hold, Change::Write(b"n|i:7;", LIFETIME), soon()).unwrap_err();
    proxy.forward();
    let (record, hold) = lock_at_once(store.as_mut(), &id("abc"));
    assert_eq!(record.unwrap(), b"n|i:1;");
    store.commit(&id("abc"), hold, Change::Write(b"n|i:8;", LIFETIME), soon()).unwrap();
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:8;");
}

fn refused_commit(sessions: &Sessions) {
    let proxy = Proxy::to(sessions.engine);
    let mut store = sessions.worker_behind(&proxy);
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    proxy.fail_next("UpdateItem", Fault::refuse("ValidationException", "no"));
    let error = store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::LockLost, "{error}");
    assert_eq!(lock_at_once(sessions.worker().as_mut(), &id("abc")).0.unwrap(), b"n|i:1;");
}

fn commit_answer_lost(sessions: &Sessions) {
    let proxy = Proxy::to(sessions.engine);
    let mut store = sessions.worker_behind(&proxy);
    let changes = [
        ("UpdateItem", Change::Write(b"n|i:2;", LIFETIME), Some(b"n|i:2;".as_slice())),
        ("UpdateItem", Change::Keep, Some(b"n|i:1;")),
        ("DeleteItem", Change::Delete, None),
    ];
    for (operation, change, left) in changes {
        put(store.as_mut(), &id("abc"), b"n|i:1;");
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        proxy.fail_next(operation, Fault::CutAfter);
        assert_eq!(store.commit(&id("abc"), hold, change, soon()).unwrap(), Committed::Done, "{change:?}");
        assert_eq!(read(store.as_mut(), &id("abc")).as_deref(), left, "{change:?}");
    }
}

/// The second attempt finds no lock: the record has not vanished, and nothing is lost.
fn touch_answer_lost(sessions: &Sessions) {
    let proxy = Proxy::to(sessions.engine);
    let mut store = sessions.worker_behind(&proxy);
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    proxy.fail_next("UpdateItem", Fault::CutAfter);
    let done = store.commit(&id("abc"), hold, Change::Touch(b"n|i:1;", LIFETIME), soon()).unwrap();
    assert_eq!(done, Committed::Done);
    assert_eq!(store.counters().lost_leases, 0);
    assert_eq!(item(sessions).as_object().unwrap().len(), 3, "{}", item(sessions));
}

/// A host whose clock is behind by an hour, at its first request: it cannot know.
fn wrong_clock(sessions: &Sessions) {
    let proxy = Proxy::to(sessions.engine);
    let lease = i64::try_from(patient().lease.as_millis()).unwrap() + 60_000;
    for seconds in [3600, -3600] {
        proxy.shift_clock(seconds);
        let (mut holder, mut other) = (sessions.worker_behind(&proxy), sessions.worker_behind(&proxy));
        let (_, hold) = lock(holder.as_mut(), &id("abc"));
        let until: i64 = item(sessions)["lock_until"]["N"].as_str().unwrap().parse().unwrap();
        let there = (now() + seconds) * 1000;
        assert!(until > there && until < there + lease, "{until} at {there}");
        let error = other.open(&id("abc"), REFUSE, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
        holder.commit(&id("abc"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
        sessions.table.delete(&key("abc"));
    }
}

/// By this host's clock, with a minute for how far others may be from it.
fn no_dates(sessions: &Sessions) {
    let proxy = Proxy::to(sessions.engine);
    proxy.hide_clock();
    let lapsed = |ago: i64| {
        sessions.table.put(json!({
            "id": {"S": key("abc")}, "data": {"S": "n|i:1;"}, "expires": {"N": (now() + 60).to_string()},
            "lock": {"S": "cloakroom:00112233445566778899aabbccddeeff:web1:4711"},
            "lock_until": {"N": ((now() - ago) * 1000).to_string()},
            "record_expires": {"N": (now() + 60).to_string()},
        }));
    };
    lapsed(20);
    let error = sessions.worker_behind(&proxy).open(&id("abc"), REFUSE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
    lapsed(70);
    let opened = sessions.worker_behind(&proxy).open(&id("abc"), REFUSE, soon()).unwrap();
    assert_eq!(opened.record.unwrap().0, b"n|i:1;");
    // Where they are, at once.
    lapsed(20);
    sessions.worker().open(&id("abc"), REFUSE, soon()).unwrap();
}
