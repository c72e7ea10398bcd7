//! Beside `Aws\DynamoDb\SessionHandler`: its items, put as it puts them, are read and honoured; what it makes of ours is
//! done here as its code does it.

use std::time::Duration;

use cloakroom::{Access, Change, Ends, ErrorKind, Holder, Life, Unknown};
use data_encoding::BASE64;
use serde_json::{Value, json};
use testbed::dynamodb::{Proxy, call};
use testbed::suite::Case;
use testbed::wait_until;

use crate::worker::{EXCLUSIVE, LIFETIME, id, increment, lock, lock_at_once, put, read, soon};
use crate::{LIMIT, Sessions, both, key, now, quick};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        quick("a_stamp_of_an_earlier_native_lock_counts_no_more", stamp_of_an_earlier_lock),
        quick("a_stamp_from_the_future_counts_not", stamp_from_the_future),
        quick("a_native_lock_is_never_broken_where_break_after_is_0", never_broken),
        quick("a_native_lock_of_before_the_first_write_is_stamped_too", locked_without_expires),
        quick("an_item_whose_session_is_no_text_is_an_error", no_text),
    ];
    for (name, run) in [
        ("items_of_the_native_handler_are_read", read_native as fn(&Sessions)),
        ("what_is_written_is_read_by_the_native_handler", read_by_native),
        ("bytes_that_are_no_text_are_kept_on_either_table", no_utf8),
        ("a_session_locked_here_is_locked_for_the_native_handler", shut_out),
        ("a_session_locked_by_the_native_handler_is_waited_for", waited_for),
        ("a_write_of_the_native_handler_loses_our_lock_and_stays", native_write),
        ("a_session_that_the_native_handler_destroys_stays_gone", native_destroy),
        ("a_native_lock_that_a_dead_worker_left_is_stamped_and_broken", stamped_and_broken),
        ("of_many_who_break_a_native_lock_one_gets_it", many_break),
    ] {
        cases.extend(both(name, run));
    }
    cases
}

/// The handler, on one session.
struct Native<'a> {
    sessions: &'a Sessions,
    session: &'a str,
}

/// What it reads: nothing where a record is not there, or not whole.
#[derive(Debug, PartialEq)]
enum Got {
    Data(Vec<u8>),
    Nothing,
    /// It deletes what has expired, and goes on with nothing.
    Expired,
}

impl Native<'_> {
    fn request(&self, fields: Value) -> Value {
        let mut request = json!({
            "TableName": self.sessions.table.name(),
            "Key": {"id": {"S": key(self.session)}},
        });
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        request
    }

    /// `StandardSessionConnection::read`, and what `SessionHandler::read` makes of it.
    fn read(&self) -> Got {
        let request = self.request(json!({"ConsistentRead": true}));
        Self::got(&self.sessions.engine.call("GetItem", &request)["Item"])
    }

    /// `LockingSessionConnection::read`, asked once; `None` where somebody has the lock.
    fn lock(&self) -> Option<Got> {
        let request = self.request(json!({
            "Expected": {"lock": {"Exists": false}},
            "AttributeUpdates": {"lock": {"Value": {"N": "1"}}},
            "ReturnValues": "ALL_NEW",
        }));
        match call(&self.sessions.engine.endpoint(), "UpdateItem", &request) {
            Ok(answer) => Some(Self::got(&answer["Attributes"])),
            Err(refusal) => {
                assert_eq!(refusal.kind, "ConditionalCheckFailedException", "{refusal}");
                None
            }
        }
    }

    fn got(item: &Value) -> Got {
        // current($value): the first of the type and the value, whatever the type.
        let current = |name: &str| {
            let (kind, value) = item.get(name)?.as_object()?.iter().next()?;
            let text = value.as_str().unwrap();
            Some(match kind.as_str() {
                "B" => BASE64.decode(text.as_bytes()).unwrap(),
                _ => text.as_bytes().to_vec(),
            })
        };
        let (Some(expires), Some(data)) = (current("expires"), current("data")) else { return Got::Nothing };
        let expires: i64 = String::from_utf8(expires).unwrap().parse().unwrap();
        if expires <= now() { Got::Expired } else { Got::Data(data) }
    }

    /// `StandardSessionConnection::write`, fenced by nothing; `None` for data that it did not change.
    fn write(&self, data: Option<&str>) {
        let mut updates = json!({
            "expires": {"Value": {"N": (now() + 1440).to_string()}},
            "lock": {"Action": "DELETE"},
        });
        match data {
            Some("") => updates["data"] = json!({"Action": "DELETE"}),
            Some(data) => updates["data"] = json!({"Value": {"S": data}}),
            None => {}
        }
        self.sessions.engine.call("UpdateItem", &self.request(json!({"AttributeUpdates": updates})));
    }

    fn destroy(&self) {
        self.sessions.engine.call("DeleteItem", &self.request(json!({})));
    }
}

fn native<'a>(sessions: &'a Sessions, session: &'a str) -> Native<'a> {
    Native { sessions, session }
}

/// Puts an item with these attributes besides its key.
fn put_item(sessions: &Sessions, session: &str, attributes: Value) {
    let mut item = attributes;
    item["id"] = json!({"S": key(session)});
    sessions.table.put(item);
}

fn n(number: i64) -> Value {
    json!({"N": number.to_string()})
}

fn item(sessions: &Sessions, session: &str) -> Value {
    sessions.table.get(&key(session)).unwrap_or_default()
}

const AT_ONCE: Access = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Lock };

fn read_native(sessions: &Sessions) {
    // What expires this moment is told by one clock: that of an engine's answers may be late.
    let proxy = Proxy::to(sessions.engine);
    proxy.hide_clock();
    let mut store = sessions.worker_behind(&proxy);
    let later = now() + 1440;
    let record = |bytes: &[u8]| Some(bytes.to_vec());
    for (session, attributes, told) in [
        ("string", json!({"data": {"S": "n|i:1;"}, "expires": n(later)}), record(b"n|i:1;")),
        ("binary", json!({"data": {"B": "//4A"}, "expires": n(later)}), record(b"\xff\xfe\0")),
        ("empty", json!({"expires": n(later)}), record(b"")),
        ("expired", json!({"data": {"S": "n|i:1;"}, "expires": n(now() - 1)}), None),
        ("this-moment", json!({"data": {"S": "n|i:1;"}, "expires": n(now())}), None),
        ("by-hand", json!({"data": {"S": "n|i:1;"}, "expires": n(0)}), None),
        ("endless", json!({"data": {"S": "n|i:1;"}}), record(b"n|i:1;")),
        (
            "fraction",
            json!({"data": {"S": "n|i:1;"}, "expires": {"N": format!("{later}.5")}}),
            record(b"n|i:1;"),
        ),
        ("locked", json!({"data": {"S": "n|i:1;"}, "expires": n(later), "lock": n(1)}), record(b"n|i:1;")),
        ("locked-new", json!({"lock": n(1)}), None),
        ("nothing", json!({}), None),
    ] {
        put_item(sessions, session, attributes);
        assert_eq!(read(store.as_mut(), &id(session)), told, "{session}");
        assert_eq!(store.exists(&id(session), soon()).unwrap(), told.is_some(), "{session}");
        assert_eq!(store.peek(&id(session), soon()).unwrap().record.map(|it| it.0), told, "{session}");
        let opened = store.open(&id(session), AT_ONCE, soon());
        if session.starts_with("locked") {
            assert_eq!(opened.unwrap_err().kind(), ErrorKind::LockBusy, "{session}");
            continue;
        }
        let opened = opened.unwrap();
        assert_eq!(opened.record.map(|it| it.0), told, "{session}");
        // Given up, it is as it was; what was none is gone.
        store.commit(&id(session), opened.hold, Change::Keep, soon()).unwrap();
        assert_eq!(read(store.as_mut(), &id(session)), told, "{session}");
        assert_eq!(sessions.table.get(&key(session)).is_some(), told.is_some(), "{session}");
    }
    assert_eq!(store.peek(&id("endless"), soon()).unwrap().life, Life::Endless);
    assert!(item(sessions, "endless").get("expires").is_none(), "{}", item(sessions, "endless"));
    let mut listed = Vec::new();
    let mut each = |id: cloakroom::SessionId| {
        listed.push(id.as_str().to_owned());
        true
    };
    store.list(&mut each, soon()).unwrap();
    listed.sort();
    assert_eq!(listed, ["binary", "empty", "endless", "fraction", "locked", "string"]);
}

fn read_by_native(sessions: &Sessions) {
    let mut store = sessions.worker();
    let large = "x".repeat(300_000);
    for bytes in [b"n|i:1;".as_slice(), "name|s:4:\"caf\u{e9}\";".as_bytes(), large.as_bytes()] {
        put(store.as_mut(), &id("abc"), bytes);
        assert_eq!(native(sessions, "abc").read(), Got::Data(bytes.to_vec()));
        assert_eq!(lock_at_once(store.as_mut(), &id("abc")).0.unwrap(), bytes);
        sessions.table.delete(&key("abc"));
    }
    // It has no empty string, and takes this for an empty session all the same.
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    put(store.as_mut(), &id("abc"), b"");
    assert_eq!(native(sessions, "abc").read(), Got::Nothing);
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"");
    assert_eq!(item(sessions, "abc").as_object().unwrap().len(), 2, "{}", item(sessions, "abc"));
}

fn no_utf8(sessions: &Sessions) {
    for (options, text) in [("", "S"), ("&data_type=binary", "B")] {
        let mut store = sessions.worker_of(options);
        for (bytes, kind) in [(b"igb\xff\0\xfe".as_slice(), "B"), (b"n|i:1;", text)] {
            put(store.as_mut(), &id("abc"), bytes);
            assert!(item(sessions, "abc")["data"].get(kind).is_some(), "{}", item(sessions, "abc"));
            assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), bytes);
            assert_eq!(native(sessions, "abc").read(), Got::Data(bytes.to_vec()));
        }
    }
}

fn shut_out(sessions: &Sessions) {
    let mut store = sessions.worker();
    for session in ["new", "old"] {
        if session == "old" {
            put(store.as_mut(), &id(session), b"n|i:1;");
        }
        let (_, hold) = lock(store.as_mut(), &id(session));
        assert_eq!(native(sessions, session).lock(), None, "{session}");
        store.commit(&id(session), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
        assert_eq!(native(sessions, session).lock(), Some(Got::Data(b"n|i:2;".to_vec())), "{session}");
        native(sessions, session).write(None);
    }
}

fn waited_for(sessions: &Sessions) {
    let mut store = sessions.worker();
    let native = native(sessions, "abc");
    native.write(Some("n|i:1;"));
    assert_eq!(native.lock(), Some(Got::Data(b"n|i:1;".to_vec())));
    let error = store.open(&id("abc"), AT_ONCE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
    let seen = store.peek(&id("abc"), soon()).unwrap().lock.unwrap();
    assert_eq!((seen.holder, seen.ends, seen.waiting), (Holder::NativeUnnamed, Ends::Unknown, Some(0)));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| lock(sessions.worker().as_mut(), &id("abc")).0.unwrap());
        wait_until("it waits", LIMIT, || {
            store.peek(&id("abc"), soon()).unwrap().lock.unwrap().waiting == Some(1)
        });
        native.write(Some("n|i:2;"));
        assert_eq!(waiter.join().unwrap(), b"n|i:2;");
    });
}

/// It heeds no lock when it writes, and removes whoever's.
fn native_write(sessions: &Sessions) {
    let mut store = sessions.worker();
    let changes = [
        Change::Write(b"n|i:100;", LIFETIME),
        Change::Touch(b"n|i:1;", LIFETIME),
        Change::Keep,
        Change::Delete,
    ];
    for session in ["new", "old"] {
        for change in changes {
            sessions.table.delete(&key(session));
            if session == "old" {
                put(store.as_mut(), &id(session), b"n|i:1;");
            }
            let (_, hold) = lock(store.as_mut(), &id(session));
            native(sessions, session).write(Some("n|i:7;"));
            let error = store.commit(&id(session), hold, change, soon()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::LockLost, "{change:?} of {session}: {error}");
            assert_eq!(native(sessions, session).read(), Got::Data(b"n|i:7;".to_vec()), "{change:?}");
            // The next one has it at once, with what was written and for as long.
            let (record, hold) = lock_at_once(store.as_mut(), &id(session));
            assert_eq!(record.unwrap(), b"n|i:7;", "{change:?} of {session}");
            store.commit(&id(session), hold, Change::Keep, soon()).unwrap();
            assert_eq!(native(sessions, session).read(), Got::Data(b"n|i:7;".to_vec()), "{change:?}");
        }
    }
    // Its own lock, taken then, is not ours either.
    let (_, hold) = lock(store.as_mut(), &id("old"));
    native(sessions, "old").write(None);
    assert!(native(sessions, "old").lock().is_some());
    let error = store.commit(&id("old"), hold, Change::Write(b"n|i:100;", LIFETIME), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockLost, "{error}");
    assert_eq!(item(sessions, "old")["lock"], n(1));
}

fn native_destroy(sessions: &Sessions) {
    let mut store = sessions.worker();
    let changes = [
        Change::Write(b"n|i:100;", LIFETIME),
        Change::Touch(b"n|i:1;", LIFETIME),
        Change::Keep,
        Change::Delete,
    ];
    for change in changes {
        put(store.as_mut(), &id("abc"), b"n|i:1;");
        let opened = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap();
        native(sessions, "abc").destroy();
        let renewed = (opened.renewal.unwrap().renew)(soon()).unwrap_err();
        assert_eq!(renewed.kind(), ErrorKind::LockLost, "{renewed}");
        let error = store.commit(&id("abc"), opened.hold, change, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockLost, "{change:?}: {error}");
        assert_eq!(sessions.table.get(&key("abc")), None, "{change:?}");
    }
}

fn stamped_and_broken(sessions: &Sessions) {
    let mut store = sessions.worker_of("&break_after=1");
    let native = native(sessions, "abc");
    native.write(Some("n|i:1;"));
    assert!(native.lock().is_some());
    let expires = item(sessions, "abc")["expires"].clone();
    std::thread::scope(|scope| {
        // This one would not break it before a minute has passed.
        let waiter = scope.spawn(|| lock(sessions.worker().as_mut(), &id("abc")).0.unwrap());
        wait_until("the lock is stamped", LIMIT, || item(sessions, "abc").get("lock_seen").is_some());
        assert_eq!(item(sessions, "abc")["lock_seen_expires"], expires);
        assert_eq!(item(sessions, "abc")["lock"], n(1));
        let (record, hold) = lock(store.as_mut(), &id("abc"));
        assert_eq!(record.unwrap(), b"n|i:1;");
        // Who was thought to be dead, and now writes, removes our lock: nothing of ours is written over it.
        native.write(Some("n|i:2;"));
        let late = store.commit(&id("abc"), hold, Change::Write(b"n|i:7;", LIFETIME), soon()).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::LockLost, "{late}");
        assert_eq!(waiter.join().unwrap(), b"n|i:2;");
    });
    assert_eq!(native.read(), Got::Data(b"n|i:2;".to_vec()));
    native.write(None);
    put(store.as_mut(), &id("abc"), b"n|i:3;");
    assert_eq!(item(sessions, "abc").as_object().unwrap().len(), 3, "{}", item(sessions, "abc"));
}

/// A lock that was stamped so many seconds ago, when `expires` was this.
fn put_stamped(sessions: &Sessions, ago: i64, before: i64) -> i64 {
    let expires = now() + 1440;
    let seen = json!({
        "data": {"S": "n|i:0;"}, "expires": n(expires), "lock": n(1),
        "lock_seen": n((now() - ago) * 1000), "lock_seen_expires": n(expires + before),
    });
    put_item(sessions, "abc", seen);
    expires
}

fn stamp_of_an_earlier_lock(sessions: &Sessions) {
    let mut store = sessions.worker();
    let expires = put_stamped(sessions, 3600, -1);
    assert_eq!(store.peek(&id("abc"), soon()).unwrap().lock.unwrap().ends, Ends::Unknown);
    let wait = Access::Exclusive { wait: Duration::from_secs(30), unknown: Unknown::Lock };
    std::thread::scope(|scope| {
        let waiter =
            scope.spawn(move || sessions.worker().open(&id("abc"), wait, soon()).map(|it| it.record));
        // Not broken, but stamped anew.
        wait_until("the lock is stamped", LIMIT, || item(sessions, "abc")["lock_seen_expires"] == n(expires));
        assert_eq!(item(sessions, "abc")["lock"], n(1));
        let lock = store.peek(&id("abc"), soon()).unwrap().lock.unwrap();
        assert!(matches!(lock.ends, Ends::After(left) if left > Duration::from_secs(30)), "{lock:?}");
        native(sessions, "abc").write(None);
        waiter.join().unwrap().unwrap();
    });
    // The stamp that counts does so at once.
    put_stamped(sessions, 61, 0);
    lock_at_once(store.as_mut(), &id("abc"));
}

fn stamp_from_the_future(sessions: &Sessions) {
    put_stamped(sessions, -3600, 0);
    let wrong = item(sessions, "abc")["lock_seen"].clone();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| lock(sessions.worker().as_mut(), &id("abc")));
        wait_until("the lock is stamped anew", LIMIT, || item(sessions, "abc")["lock_seen"] != wrong);
        native(sessions, "abc").write(None);
        waiter.join().unwrap();
    });
}

fn never_broken(sessions: &Sessions) {
    let mut store = sessions.worker_of("&break_after=0");
    put_stamped(sessions, 3600, 0);
    let error = store.open(&id("abc"), AT_ONCE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
    assert_eq!(store.peek(&id("abc"), soon()).unwrap().lock.unwrap().ends, Ends::Never);
}

/// The handler's lock on an unknown id leaves no `expires`, so that it stays for good.
fn locked_without_expires(sessions: &Sessions) {
    assert_eq!(native(sessions, "abc").lock(), Some(Got::Nothing));
    let mut store = sessions.worker_of("&break_after=1");
    let (record, hold) = lock(store.as_mut(), &id("abc"));
    assert_eq!(record, None);
    assert!(item(sessions, "abc").get("expires").is_some(), "{}", item(sessions, "abc"));
    store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    assert_eq!(sessions.table.get(&key("abc")), None);
    // Strict mode makes no session of it either.
    put_item(sessions, "abc", json!({"lock": n(1), "lock_seen": n(1000), "lock_seen_expires": n(-1)}));
    let refuse = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Refuse };
    assert_eq!(store.open(&id("abc"), refuse, soon()).unwrap().record, None);
    assert_eq!(sessions.table.get(&key("abc")), None);
}

fn many_break(sessions: &Sessions) {
    put_stamped(sessions, 61, 0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| increment(sessions.worker().as_mut(), &id("abc"), EXCLUSIVE).unwrap());
        }
    });
    assert_eq!(native(sessions, "abc").read(), Got::Data(b"n|i:6;".to_vec()));
}

fn no_text(sessions: &Sessions) {
    let mut store = sessions.worker();
    put_item(sessions, "abc", json!({"data": {"BOOL": true}, "expires": n(now() + 60)}));
    for access in [Access::ReadOnly, EXCLUSIVE, Access::Unlocked] {
        let error = store.open(&id("abc"), access, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("neither a string nor binary"), "{error}");
    }
    assert!(item(sessions, "abc").get("lock").is_none(), "{}", item(sessions, "abc"));
}
