//! What becomes of a session when something breaks: a worker, a server, a connection, a lease.
// A test stops at the first thing that is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod dynamodb;
mod memcached;
#[path = "../place/mod.rs"]
mod place;

use std::time::Duration;

use nix::sys::signal::Signal;
use place::{ID, Place, on_every_store, on_redis, script};
use testbed::need::Need;
use testbed::php::{Ran, Running};
use testbed::redis::Redis;
use testbed::suite::{self, Case, case};
use testbed::{free_port, wait_until};

fn main() {
    let mut cases: Vec<Case> = Vec::new();
    let mut every = |name: &str, run: fn(Place)| cases.extend(on_every_store(name, run));
    every("a_killed_worker_leaves_the_session_free_after_its_lease", killed_worker);
    every("a_session_destroyed_while_another_waits_stays_destroyed", destroyed_while_another_waits);
    every("a_request_that_outlasts_its_lease_keeps_its_lock", outlasts_its_lease);
    cases.extend([
        on_redis("a_lost_lease_is_a_refused_write_with_one_warning", lost_lease),
        on_redis("a_renewal_ends_with_the_longest_lease", longest_lease),
        on_redis("a_server_restarted_between_read_and_write_refuses_the_write", restarted_between),
        on_redis("a_restarted_server_is_reconnected_without_a_word", restarted_while_idle),
        on_redis("a_frozen_server_fails_the_start_within_the_timeout", frozen_at_start),
        on_redis("a_write_to_a_frozen_server_is_unknown", frozen_at_write),
        on_redis("a_full_server_refuses_the_write_and_keeps_the_old_session", full_server),
        case("redis: a_server_that_is_down_fails_the_start_and_keeps_the_visitors_id", &[Need::Php], || {
            down("tcp")
        }),
        case("files: a_full_disk_refuses_the_write_and_keeps_the_old_session", FULL_DISK, full_disk),
        case("files: a_missing_directory_fails_the_start_and_names_it", &[Need::Php], missing_directory),
    ]);
    cases.extend(memcached::cases());
    cases.extend(dynamodb::cases());
    suite::run(cases)
}

/// Opens the session, says so, and goes on at a line from outside.
fn holder(place: &Place, settings: &[(&str, &str)], rest: &str) -> Running {
    let code = format!(
        "session_id(ID);
        session_start();
        while (ob_get_level()) ob_end_flush();
        echo 'holding ';
        fgets(STDIN);
        {rest}"
    );
    let script = settings.iter().fold(place.script(&code), |script, (name, value)| script.ini(name, value));
    let running = script.spawn();
    running.wait_for("holding");
    running
}

/// How long, in seconds, an answer is awaited of which the first must come in time, and a later one never comes.
const ANSWERED: &str = "3";

const WRITE_AND_TELL: &str = "$_SESSION['n'] = 2;
    session_write_close();
    echo cloakroom_status()['last_commit'];";

/// The warnings of ours: PHP adds its own about the handler.
fn our_warnings(ran: &Ran) -> usize {
    let warnings =
        ran.stderr.lines().filter(|line| line.starts_with("Warning: ") && !line.contains(" Failed to "));
    warnings.count()
}

fn killed_worker(place: Place) {
    place.store(ID, b"n|i:1;");
    let killed = holder(&place, &[("cloakroom.lease", "1")], "");
    let waiter = place
        .script("session_id(ID); echo json_encode([session_start(), $_SESSION['n']]);")
        .ini("cloakroom.lock_wait", "30")
        .spawn();
    killed.signal(Signal::SIGKILL);
    assert_eq!(waiter.finish().ok(), "[true,1]");
}

fn destroyed_while_another_waits(place: Place) {
    place.store(ID, b"n|i:1;");
    let destroyer = holder(&place, &[], "session_destroy(); echo 'destroyed';");
    let waiter = place
        .script("session_id(ID); ob_end_flush(); echo 'waiting '; session_start(); echo json_encode($_SESSION); session_abort();")
        .ini("session.use_cookies", "0")
        .spawn();
    waiter.wait_for("waiting");
    destroyer.say("go on");
    assert_eq!(destroyer.finish().ok(), "holding destroyed");
    let ran = waiter.finish();
    assert!(ran.stdout.starts_with("waiting"), "{ran}");
    assert!(!ran.stdout.contains("\"n\""), "the destroyed session came back: {ran}");
    assert_ne!(place.stored(ID).unwrap_or_default(), b"n|i:1;");
}

fn outlasts_its_lease(place: Place) {
    place.store(ID, b"n|i:1;");
    let long = holder(&place, &[("cloakroom.lease", "5")], WRITE_AND_TELL);
    // So long that one renewal is not enough; and a renewal may be late by three seconds.
    let ran =
        place.script("session_id(ID); var_dump(session_start());").ini("cloakroom.lock_wait", "8").run();
    assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
    long.say("go on");
    assert_eq!(long.finish().ok(), "holding written");
    assert_eq!(place.stored(ID).unwrap(), b"n|i:2;");
}

fn lost_lease(server: &Redis, place: &Place) {
    place.store(ID, b"n|i:1;");
    let late = holder(place, &[], WRITE_AND_TELL);
    server.command(&["SET", &format!("PHPREDIS_SESSION:{ID}_LOCK"), "another-host|123"]);
    late.say("go on");
    let ran = late.finish();
    assert_eq!(ran.stdout, "holding refused", "{ran}");
    assert_eq!(our_warnings(&ran), 1, "{ran}");
    assert!(ran.stderr.contains("lock") && ran.stderr.contains("hint: "), "{ran}");
    assert_eq!(place.stored(ID).unwrap(), b"n|i:1;", "nothing was written");
    let lock = server.command(&["GET", &format!("PHPREDIS_SESSION:{ID}_LOCK")]);
    assert_eq!(lock, "another-host|123", "the other's lock is untouched");
}

fn longest_lease(server: &Redis, place: &Place) {
    let held = holder(place, &[("cloakroom.lease", "1"), ("cloakroom.lease_max", "2")], WRITE_AND_TELL);
    wait_until("the lock ends with the longest lease", Duration::from_secs(30), || {
        server.command(&["EXISTS", &format!("PHPREDIS_SESSION:{ID}_LOCK")]) == "0"
    });
    held.say("go on");
    let ran = held.finish();
    assert_eq!(ran.stdout, "holding refused", "{ran}");
}

fn restarted_between(server: &Redis, place: &Place) {
    let late = holder(place, &[], WRITE_AND_TELL);
    server.restart();
    late.say("go on");
    let ran = late.finish();
    assert_eq!(ran.stdout, "holding refused", "the lock was forgotten with the restart: {ran}");
    assert_eq!(our_warnings(&ran), 1, "{ran}");
    assert_eq!(place.stored(ID), None);
}

fn restarted_while_idle(server: &Redis, place: &Place) {
    let running = holder(
        place,
        &[],
        "session_write_close(); echo 'closed '; fgets(STDIN); session_start(); $_SESSION['n'] = 2; session_write_close(); echo cloakroom_status()['last_commit'];",
    );
    running.say("close");
    running.wait_for("closed");
    server.restart();
    running.say("go on");
    assert_eq!(running.finish().ok(), "holding closed written");
    assert_eq!(place.stored(ID).unwrap(), b"n|i:2;");
}

fn frozen_at_start(server: &Redis, place: &Place) {
    server.freeze();
    let code = "ini_set('session.use_strict_mode', STRICT); session_id(ID); var_dump(session_start());
        echo session_id() === ID || session_id() === '' ? 'same' : 'new';";
    for strict in ["0", "1"] {
        let code = code.replace("STRICT", strict);
        let ran = place.script(&code).ini("cloakroom.timeout", "0.2").run();
        assert_eq!(ran.stdout, "bool(false)\nsame", "{ran}");
        assert_eq!(our_warnings(&ran), 1, "{ran}");
    }
    server.thaw();
    assert_eq!(place.run("session_id(ID); var_dump(session_start());"), "bool(true)\n");
}

fn frozen_at_write(server: &Redis, place: &Place) {
    let late = holder(place, &[("cloakroom.timeout", ANSWERED)], WRITE_AND_TELL);
    server.freeze();
    late.say("go on");
    let ran = late.finish();
    server.thaw();
    assert_eq!(ran.stdout, "holding unknown", "{ran}");
    assert_eq!(our_warnings(&ran), 1, "{ran}");
}

fn full_server(server: &Redis, place: &Place) {
    place.store(ID, b"n|i:1;");
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let late = holder(place, &[], WRITE_AND_TELL);
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    late.say("go on");
    let ran = late.finish();
    assert_eq!(ran.stdout, "holding refused", "{ran}");
    assert_eq!(our_warnings(&ran), 1, "{ran}");
    assert_eq!(place.stored(ID).unwrap(), b"n|i:1;");
}

fn down(scheme: &str) {
    let save_path = format!("{scheme}://127.0.0.1:{}", free_port());
    for strict in ["0", "1"] {
        let code = format!(
            "ini_set('session.use_strict_mode', {strict}); session_id(ID); var_dump(session_start(), session_id() === ID || session_id() === '');"
        );
        let ran = script(&save_path, &code).run();
        assert_eq!(ran.stdout, "bool(false)\nbool(true)\n", "{ran}");
        assert_eq!(our_warnings(&ran), 1, "{ran}");
        assert!(ran.stderr.contains(&save_path) && ran.stderr.contains("hint: "), "{ran}");
    }
}

const FULL_DISK: &[Need] = &[Need::Php, Need::MountNamespaces];

fn full_disk() {
    let directory = testbed::TempDir::new();
    let path = directory.path().display().to_string();
    // The disk is the script's own: a small tmpfs in a mount namespace, filled before the write.
    let code = "system('mount -t tmpfs -o size=64k,mode=0777 none ' . escapeshellarg(ini_get('session.save_path')));
        file_put_contents(ini_get('session.save_path') . '/sess_' . ID, 'n|i:1;');
        session_id(ID);
        session_start();
        $filler = fopen(ini_get('session.save_path') . '/filler', 'w');
        while (@fwrite($filler, str_repeat('x', 4096)) === 4096);
        $_SESSION['big'] = str_repeat('x', 20000);
        session_write_close();
        echo cloakroom_status()['last_commit'], ' ', file_get_contents(ini_get('session.save_path') . '/sess_' . ID);";
    let ran = script(&path, code).through(&["unshare", "-m"]).run();
    assert_eq!(ran.stdout, "refused n|i:1;", "{ran}");
    assert_eq!(our_warnings(&ran), 1, "{ran}");
    assert!(ran.stderr.contains("No space left") || ran.stderr.contains("full"), "{ran}");
}

fn missing_directory() {
    let ran = script("/nowhere/at/all", "session_id(ID); var_dump(session_start());").run();
    assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
    assert_eq!(our_warnings(&ran), 1, "{ran}");
    assert!(ran.stderr.contains("/nowhere/at/all") && ran.stderr.contains("hint: "), "{ran}");
}
