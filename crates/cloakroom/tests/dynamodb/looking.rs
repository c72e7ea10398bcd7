//! What is there: the items of sessions, and of those who wait; and what is seen of them.

use std::time::Duration;

use cloakroom::{Access, Broken, Change, Ends, ErrorKind, Holder, SessionId, Settings, Unknown};
use serde_json::{Value, json};
use testbed::dynamodb::Proxy;
use testbed::suite::Case;
use testbed::wait_until;

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, lock_at_once, put, read, soon};
use crate::{LIMIT, Sessions, both, key, now, patient, quick};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        quick("a_waiter_looks_ever_more_seldom_and_writes_nothing_but_its_place", looks),
        quick("who_comes_and_goes_leaves_the_place_of_others", comes_and_goes),
        quick("a_waiter_that_died_counts_until_its_wait_would_have_ended", dead_waiters),
        quick("a_native_lock_is_broken_only_while_it_is_the_one_that_was_seen", native_lock_broken),
        quick("breaking_the_lock_of_a_new_session_leaves_nothing", broken_leaves_nothing),
        quick("sessions_of_another_name_are_not_listed", other_names),
    ];
    cases.extend(both("a_session_is_one_item_of_the_native_handler_s_shape", native_shape));
    cases.extend(both("waiting_leaves_nothing_behind_and_is_no_session", waiting_leaves_nothing));
    cases.extend(both("a_table_of_many_pages_is_listed_whole", many_pages));
    cases
}

fn waiting_key(session: &str) -> String {
    format!("{}_WAITING", key(session))
}

fn native_shape(sessions: &Sessions) {
    put(sessions.worker().as_mut(), &id("abc"), b"n|i:1;");
    let items = sessions.table.scan();
    let [item] = &items[..] else { panic!("{items:?}") };
    let names: Vec<&str> = item.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["data", "expires", "id"]);
    assert_eq!((&item["id"]["S"], &item["data"]["S"]), (&key("abc").into(), &"n|i:1;".into()));
    assert!(item["expires"]["N"].is_string(), "{item}");
}

fn listed(sessions: &Sessions) -> Vec<String> {
    let mut listed = Vec::new();
    let mut each = |id: SessionId| {
        listed.push(id.as_str().to_owned());
        true
    };
    sessions.worker().list(&mut each, soon()).unwrap();
    listed.sort();
    listed
}

fn locked(sessions: &Sessions) -> Vec<(String, Option<u32>)> {
    let mut locked = Vec::new();
    let mut each = |id: SessionId, lock: cloakroom::Lock| {
        locked.push((id.as_str().to_owned(), lock.waiting));
        true
    };
    sessions.worker().locks(&mut each, soon()).unwrap();
    locked
}

/// Waits until so many are seen to wait.
#[track_caller]
fn waiting(sessions: &Sessions, count: u32) {
    let mut store = sessions.worker();
    wait_until("they wait", LIMIT, || {
        store.peek(&id("abc"), soon()).unwrap().lock.unwrap().waiting == Some(count)
    });
}

fn waiting_leaves_nothing(sessions: &Sessions) {
    let mut holder = sessions.worker();
    put(holder.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut store = sessions.worker();
                let (_, hold) = lock(store.as_mut(), &id("abc"));
                store.commit(&id("abc"), hold, Change::Touch(b"n|i:1;", LIFETIME), soon()).unwrap();
            });
        }
        waiting(sessions, 3);
        assert_eq!(locked(sessions), [("abc".to_owned(), Some(3))]);
        assert_eq!(listed(sessions), ["abc"]);
        let item = sessions.table.get(&waiting_key("abc")).unwrap();
        let expires: i64 = item["expires"]["N"].as_str().unwrap().parse().unwrap();
        assert!(expires > now() && expires < now() + 200, "{item}");
        holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    });
    assert_eq!(sessions.table.get(&waiting_key("abc")), None);
    assert_eq!(sessions.table.scan().len(), 1);
    assert_eq!(locked(sessions), []);
}

/// A failed UpdateItem is billed as if it had written the whole item.
fn looks(sessions: &Sessions) {
    let proxy = Proxy::to(sessions.engine);
    let mut holder = sessions.worker();
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let mut waiter = sessions.worker_behind(&proxy);
    // Time for some looks on a busy machine.
    let wait = Access::Exclusive { wait: Duration::from_secs(4), unknown: Unknown::Lock };
    let error = waiter.open(&id("abc"), wait, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
    let mut session = Vec::new();
    let mut place = Vec::new();
    for seen in proxy.seen() {
        match seen.body["Key"]["id"]["S"] == key("abc") {
            true => session.push(seen.operation),
            false => place.push(seen.operation),
        }
    }
    assert_eq!(session.iter().filter(|operation| *operation != "GetItem").count(), 1, "{session:?}");
    // The pauses before the first eleven looks are 0.25 s in all at least, each later one is 75 ms; an engine that does not show
    // what it refuses is asked once more.
    assert!((3..=64).contains(&session.len()), "{} requests", session.len());
    assert_eq!(place, ["UpdateItem", "DeleteItem"]);
    // Who waits for a moment only, stands nowhere.
    proxy.reset_counts();
    let at_once = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Lock };
    assert_eq!(waiter.open(&id("abc"), at_once, soon()).unwrap_err().kind(), ErrorKind::LockBusy);
    assert_eq!(sessions.table.get(&waiting_key("abc")), None);
    holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
}

fn comes_and_goes(sessions: &Sessions) {
    let mut holder = sessions.worker();
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| lock(sessions.worker().as_mut(), &id("abc")).0);
        waiting(sessions, 1);
        let passing = Access::Exclusive { wait: Duration::from_millis(300), unknown: Unknown::Lock };
        let error = sessions.worker().open(&id("abc"), passing, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
        // The second is gone, and has taken only itself away.
        waiting(sessions, 1);
        holder.commit(&id("abc"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
        assert_eq!(first.join().unwrap().unwrap(), b"n|i:1;");
    });
    assert_eq!(sessions.table.get(&waiting_key("abc")), None);
}

fn dead_waiters(sessions: &Sessions) {
    let settings = Settings { max_waiters: std::num::NonZeroU32::new(1), ..patient() };
    let mut holder = sessions.worker();
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let dead = "0123456789abcdef0123456789abcdef";
    let put_dead = |until: i64| {
        sessions.table.put(json!({
            "id": {"S": waiting_key("abc")}, "expires": {"N": (now() + 60).to_string()},
            "last_waiter": {"S": dead}, dead: {"N": until.to_string()},
        }));
    };
    put_dead((now() + 600) * 1000);
    let error = sessions.worker_with(settings.clone()).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert!(error.to_string().contains("1 requests wait for this session already"), "{error}");
    let item = sessions.table.get(&waiting_key("abc")).unwrap();
    assert_eq!(item.as_object().unwrap().len(), 4, "{item}");
    put_dead((now() - 60) * 1000);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| lock(sessions.worker_with(settings).as_mut(), &id("abc")).0);
        waiting(sessions, 1);
        holder.commit(&id("abc"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
        assert_eq!(waiter.join().unwrap().unwrap(), b"n|i:1;");
    });
    assert_eq!(sessions.table.get(&waiting_key("abc")), None);
}

fn native_lock_broken(sessions: &Sessions) {
    let mut store = sessions.worker();
    let put_locked = |expires: Option<i64>| {
        let mut item = json!({"id": {"S": key("abc")}, "lock": {"N": "1"}});
        if let Some(expires) = expires {
            item["expires"] = json!({"N": expires.to_string()});
            item["data"] = json!({"S": "n|i:1;"});
        }
        sessions.table.put(item);
    };
    let later = now() + 1440;
    put_locked(Some(later));
    let seen = store.peek(&id("abc"), soon()).unwrap().lock.unwrap();
    assert_eq!(seen.holder, Holder::NativeUnnamed);
    // It was written, and locked again.
    put_locked(Some(later + 1));
    assert_eq!(store.break_lock(&id("abc"), &seen, soon()).unwrap(), Broken::Changed);
    let seen = store.peek(&id("abc"), soon()).unwrap().lock.unwrap();
    assert_eq!(store.break_lock(&id("abc"), &seen, soon()).unwrap(), Broken::Done);
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
    let (_, hold) = lock_at_once(store.as_mut(), &id("abc"));
    store.commit(&id("abc"), hold, Change::Delete, soon()).unwrap();
    // On an unknown id, it leaves no item.
    put_locked(None);
    let seen = store.peek(&id("abc"), soon()).unwrap().lock.unwrap();
    assert_eq!(store.break_lock(&id("abc"), &seen, soon()).unwrap(), Broken::Done);
    assert_eq!(sessions.table.scan(), Vec::<Value>::new());
}

fn broken_leaves_nothing(sessions: &Sessions) {
    let (mut holder, mut other) = (sessions.worker(), sessions.worker());
    let opened = holder.open(&id("abc"), EXCLUSIVE, soon()).unwrap();
    let seen = other.peek(&id("abc"), soon()).unwrap().lock.unwrap();
    assert!(matches!(seen.ends, Ends::After(_)), "{seen:?}");
    // Prolonging it makes it no other lock.
    (opened.renewal.unwrap().renew)(soon()).unwrap();
    assert_eq!(other.break_lock(&id("abc"), &seen, soon()).unwrap(), Broken::Done);
    assert_eq!(sessions.table.scan(), Vec::<Value>::new());
    let error =
        holder.commit(&id("abc"), opened.hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockLost, "{error}");
    assert_eq!(sessions.table.scan(), Vec::<Value>::new());
}

fn other_names(sessions: &Sessions) {
    put(sessions.worker().as_mut(), &id("abc"), b"n|i:1;");
    let mut other = sessions.worker_of("&session_name=_shop_");
    put(other.as_mut(), &id("abd"), b"n|i:2;");
    assert_eq!(listed(sessions), ["abc"]);
    assert!(sessions.table.get("shop__abd").is_some());
    assert_eq!(read(sessions.worker().as_mut(), &id("abd")), None);
}

fn many_pages(sessions: &Sessions) {
    let mut store = sessions.worker();
    // A page is 1 MB.
    let large = vec![b'x'; 350_000];
    let mut ids: Vec<String> = (0..5).map(|number| format!("large{number}")).collect();
    for session in &ids {
        put(store.as_mut(), &id(session), &large);
    }
    let (_, hold) = lock(store.as_mut(), &id("large3"));
    ids.sort();
    assert_eq!(listed(sessions), ids);
    assert_eq!(locked(sessions), [("large3".to_owned(), Some(0))]);
    store.commit(&id("large3"), hold, Change::Keep, soon()).unwrap();
}
