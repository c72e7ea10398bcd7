//! What becomes of a session in DynamoDB when something breaks, or AWS's own handler comes in between.

use std::time::Duration;

use serde_json::json;
use testbed::dynamodb::{Engine, Fault, Proxy, Table};
use testbed::need::Need;
use testbed::php::Ran;
use testbed::suite::{Case, case};
use testbed::{free_port, wait_until};

use crate::place::{ID, Place, TABLE, item_key, on_dynamodb, on_dynamodb_proxy, script};
use crate::{WRITE_AND_TELL, holder, our_warnings};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        on_dynamodb_proxy("who_was_overtaken_by_awss_handler_is_refused_with_one_warning", |_, place| {
            overtaken(place);
        }),
        on_dynamodb_proxy("what_awss_handler_destroyed_stays_destroyed", |_, place| destroyed(place)),
        on_dynamodb_proxy("a_renewal_ends_with_the_longest_lease", |_, place| longest_lease(place)),
        on_dynamodb_proxy("a_session_that_is_too_large_is_refused_and_the_old_one_stays", |_, place| {
            too_large(place);
        }),
        on_dynamodb_proxy("a_throttled_table_is_waited_for_without_a_word", throttled),
        on_dynamodb_proxy(
            "a_table_that_stays_throttled_fails_the_start_and_keeps_the_session",
            stays_throttled,
        ),
        on_dynamodb_proxy("an_answer_that_was_lost_loses_nothing", lost_answer),
        on_dynamodb_proxy(
            "a_connection_that_was_closed_while_idle_is_opened_again_without_a_word",
            closed_while_idle,
        ),
        on_dynamodb_proxy("a_start_that_is_not_answered_fails_within_the_timeout", unanswered_at_start),
        on_dynamodb_proxy("a_write_that_is_not_answered_is_unknown", unanswered_at_write),
        on_dynamodb("a_table_that_went_away_is_named", table_went_away),
        on_dynamodb("a_restarted_server_is_reconnected_without_a_word", restarted_while_idle),
        on_dynamodb("a_frozen_server_fails_the_start_within_the_timeout", frozen_at_start),
        case("dynamodb: a_server_that_is_down_fails_the_start_and_keeps_the_visitors_id", &[Need::Php], down),
    ]
}

fn table(place: &Place) -> &Table {
    let Place::DynamoDb(sessions) = place else { unreachable!("it is for DynamoDB") };
    &sessions.table
}

/// Refused, with one warning of ours that says what to do.
#[track_caller]
fn assert_refused(ran: &Ran) {
    assert_eq!(ran.stdout, "holding refused", "{ran}");
    assert_eq!(our_warnings(ran), 1, "{ran}");
    assert!(ran.stderr.contains("hint: "), "{ran}");
}

const READ: &str = "session_id(ID); session_start(); echo $_SESSION['n'];";

/// Its write heeds no lock.
fn overtaken(place: &Place) {
    place.store(ID, b"n|i:1;");
    let late = holder(place, &[], WRITE_AND_TELL);
    let value = json!({":data": {"S": "n|i:7;"}});
    table(place).update(&item_key(ID), "SET #data = :data REMOVE #lock", value);
    late.say("go on");
    let ran = late.finish();
    assert_refused(&ran);
    assert!(ran.stderr.contains("lock"), "{ran}");
    assert_eq!(place.stored(ID).unwrap(), b"n|i:7;", "nothing was written");
    assert_eq!(place.script(READ).ini("cloakroom.lock_wait", "0").run().ok(), "7", "nobody has it");
}

fn destroyed(place: &Place) {
    place.store(ID, b"n|i:1;");
    let late = holder(place, &[], WRITE_AND_TELL);
    table(place).delete(&item_key(ID));
    late.say("go on");
    assert_refused(&late.finish());
    assert_eq!(place.names(), Vec::<String>::new());
}

fn longest_lease(place: &Place) {
    place.store(ID, b"n|i:1;");
    let held = holder(place, &[("cloakroom.lease", "1"), ("cloakroom.lease_max", "2")], WRITE_AND_TELL);
    let next = "session_id(ID); session_start(); $_SESSION['n'] = 5; session_write_close();";
    place.script(next).ini("cloakroom.lock_wait", "40").run().ok();
    held.say("go on");
    assert_refused(&held.finish());
    assert_eq!(place.stored(ID).unwrap(), b"n|i:5;");
}

fn too_large(place: &Place) {
    for existing in [true, false] {
        let id = if existing { ID } else { "anew" };
        if existing {
            place.store(id, b"n|i:1;");
        }
        let code = format!(
            "session_id('{id}'); session_start(); $_SESSION['big'] = str_repeat('x', 410000); session_write_close();
            echo cloakroom_status()['last_commit'];"
        );
        let ran = place.script(&code).run();
        assert_eq!(ran.stdout, "refused", "{ran}");
        assert_eq!(our_warnings(&ran), 1, "{ran}");
        assert!(
            ran.stderr.contains("has 4100") && ran.stderr.contains("than the 40"),
            "it names the size and the limit: {ran}"
        );
        assert_eq!(place.stored(id), existing.then(|| b"n|i:1;".to_vec()));
    }
    // The lock is free.
    assert_eq!(place.script(READ).ini("cloakroom.lock_wait", "0").run().ok(), "1");
}

const CHANGE: &str = "session_id(ID); session_start(); $_SESSION['n']++; session_write_close();
    echo cloakroom_status()['last_commit'], ' ', cloakroom_status()['retries'];";

fn throttled(proxy: &Proxy, place: &Place) {
    place.store(ID, b"n|i:1;");
    proxy.fail_first(2, Fault::throttled());
    assert_eq!(place.script(CHANGE).ini("cloakroom.timeout", "30").run().ok(), "written 4");
    assert_eq!(place.stored(ID).unwrap(), b"n|i:2;");
}

fn stays_throttled(proxy: &Proxy, place: &Place) {
    place.store(ID, b"n|i:1;");
    proxy.decide(|_| Fault::throttled());
    fails_to_start(place);
    proxy.forward();
    assert_eq!(place.run(READ), "1");
}

/// In both modes: the visitor keeps the id.
#[track_caller]
fn fails_to_start(place: &Place) {
    for strict in ["0", "1"] {
        let code = "session_id(ID); var_dump(session_start());
            echo session_id() === ID || session_id() === '' ? 'same' : 'new';";
        let script = place.script(code).ini("session.use_strict_mode", strict);
        // The server does what it was asked for once it goes on: a lock of who is gone by then lasts its lease.
        let script = script.ini("cloakroom.timeout", "0.2").ini("cloakroom.connect_timeout", "0.3");
        let ran = script.ini("cloakroom.lock_wait", "0").ini("cloakroom.lease", "1").run();
        assert_eq!(ran.stdout, "bool(false)\nsame", "{ran}");
        assert_eq!(our_warnings(&ran), 1, "{ran}");
        assert!(ran.stderr.contains(&place.shown()) && ran.stderr.contains("hint: "), "{ran}");
    }
}

/// It was written: the second attempt finds that out.
fn lost_answer(proxy: &Proxy, place: &Place) {
    for rest in [WRITE_AND_TELL, "session_destroy(); echo cloakroom_status()['last_commit'];"] {
        place.store(ID, b"n|i:1;");
        let held = holder(place, &[], rest);
        let mut first = true;
        proxy.decide(move |_| if std::mem::take(&mut first) { Fault::CutAfter } else { Fault::None });
        held.say("go on");
        assert_eq!(held.finish().ok(), "holding written");
        assert_eq!(place.stored(ID), (rest == WRITE_AND_TELL).then(|| b"n|i:2;".to_vec()));
    }
}

const AGAIN: &str = "session_write_close(); echo 'closed '; fgets(STDIN); session_start(); $_SESSION['n'] = 2; \
                     session_write_close(); echo cloakroom_status()['last_commit'];";

fn closed_while_idle(proxy: &Proxy, place: &Place) {
    let running = holder(place, &[], AGAIN);
    running.say("close");
    running.wait_for("closed");
    proxy.hang_up();
    running.say("go on");
    assert_eq!(running.finish().ok(), "holding closed written");
    assert_eq!(place.stored(ID).unwrap(), b"n|i:2;");
}

fn unanswered_at_start(proxy: &Proxy, place: &Place) {
    place.store(ID, b"n|i:1;");
    proxy.decide(|_| Fault::HangBefore);
    fails_to_start(place);
    proxy.forward();
    assert_eq!(place.run(READ), "1");
}

fn unanswered_at_write(proxy: &Proxy, place: &Place) {
    place.store(ID, b"n|i:1;");
    // It is waited for four times: for the answer, for the lock, and twice for its release.
    let late = holder(place, &[("cloakroom.timeout", "2")], WRITE_AND_TELL);
    proxy.decide(|_| Fault::HangAfter);
    late.say("go on");
    let ran = late.finish();
    assert_eq!(ran.stdout, "holding unknown", "{ran}");
    assert_eq!(our_warnings(&ran), 1, "{ran}");
    proxy.forward();
    // The engine may get to it only when nobody waits any more.
    wait_until("it is written", Duration::from_secs(30), || place.stored(ID).unwrap() == b"n|i:2;");
}

fn table_went_away(engine: &Engine, _table: &Table, place: &Place) {
    let late = holder(place, &[], WRITE_AND_TELL);
    engine.restart();
    late.say("go on");
    let ran = late.finish();
    // Unknown where it was sent before the end of the connection was noticed: it got no answer there.
    assert!(["holding refused", "holding unknown"].contains(&ran.stdout.as_str()), "{ran}");
    assert_eq!(our_warnings(&ran), 1, "{ran}");
    let said = format!("there is no table {TABLE} in eu-west-1");
    assert!(ran.stderr.contains(&said) && ran.stderr.contains("cloakroom create"), "{ran}");
    // Nor does anything start.
    fails_to_start(place);
}

fn restarted_while_idle(engine: &Engine, _table: &Table, place: &Place) {
    let running = holder(place, &[], AGAIN);
    running.say("close");
    running.wait_for("closed");
    engine.restart();
    engine.create_table(TABLE, "id");
    running.say("go on");
    assert_eq!(running.finish().ok(), "holding closed written");
    assert_eq!(place.stored(ID).unwrap(), b"n|i:2;");
}

fn frozen_at_start(engine: &Engine, _table: &Table, place: &Place) {
    place.store(ID, b"n|i:1;");
    engine.freeze();
    fails_to_start(place);
    engine.thaw();
    let mut read = String::new();
    wait_until("it goes on", Duration::from_secs(30), || {
        let ran = place.script(READ).run();
        read = ran.stdout;
        !read.is_empty()
    });
    assert_eq!(read, "1");
}

fn down() {
    let save_path =
        format!("dynamodb://test:test@eu-west-1/{TABLE}?endpoint=http://127.0.0.1:{}", free_port());
    for strict in ["0", "1"] {
        let code = "session_id(ID); var_dump(session_start(), session_id() === ID || session_id() === '');";
        let ran = script(&save_path, code).ini("session.use_strict_mode", strict).run();
        assert_eq!(ran.stdout, "bool(false)\nbool(true)\n", "{ran}");
        assert_eq!(our_warnings(&ran), 1, "{ran}");
        let shown = save_path.replace(":test@", ":***@");
        assert!(ran.stderr.contains(&shown) && ran.stderr.contains("hint: "), "{ran}");
    }
}
