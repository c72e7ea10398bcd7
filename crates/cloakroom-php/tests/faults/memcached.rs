//! What becomes of a session in Memcached when something breaks: a server of one, or one of a ring.

use std::time::Duration;

use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::php::Ran;
use testbed::suite::{Case, case};
use testbed::wait_until;

use crate::place::{ID, MEMCACHED_PREFIX, Place, Ring, on_memcached};
use crate::{ANSWERED, WRITE_AND_TELL, down, holder, our_warnings};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        on_memcached("who_was_overtaken_is_refused_with_one_warning", overtaken),
        on_memcached("a_lock_that_was_evicted_lets_no_two_write", lock_evicted),
        on_memcached("an_evicted_session_is_written_again_under_its_lock", session_evicted),
        on_memcached("a_renewal_ends_with_the_longest_lease", longest_lease),
        on_memcached("a_server_restarted_between_read_and_write_refuses_the_write", restarted_between),
        on_memcached("a_restarted_server_is_reconnected_without_a_word", restarted_while_idle),
        on_memcached("a_frozen_server_fails_the_start_within_the_timeout", frozen_at_start),
        on_memcached("a_write_to_a_frozen_server_is_unknown", frozen_at_write),
        on_memcached("sessions_live_longer_than_thirty_days", longer_than_thirty_days),
        case("memcached: a_full_server_refuses_the_write_and_keeps_the_old_session", MEMCACHED, full_server),
        case(
            "memcached: a_server_that_is_down_fails_the_start_and_keeps_the_visitors_id",
            &[Need::Php],
            || {
                down("memcached");
            },
        ),
    ];
    for protocol in ["ascii", "meta", "binary"] {
        let name =
            format!("memcached, {protocol}: a_session_that_is_too_large_is_refused_and_the_old_one_stays");
        cases.push(case(name, MEMCACHED, move || too_large(protocol)));
    }
    let ring = |name: &str, run: fn()| case(format!("memcached, ring of three: {name}"), MEMCACHED, run);
    cases.extend([
        ring("a_server_that_died_fails_the_start_of_its_sessions", || {
            server_of_a_ring_fails(Memcached::kill)
        }),
        ring("a_server_that_hangs_fails_the_start_of_its_sessions", || {
            server_of_a_ring_fails(Memcached::freeze)
        }),
        ring("a_server_that_restarts_has_lost_its_sessions_and_no_other", server_of_a_ring_restarts),
    ]);
    cases
}

const MEMCACHED: &[Need] = &[Need::Php, Need::Memcached];

fn key(id: &str) -> String {
    format!("{MEMCACHED_PREFIX}{id}")
}

fn lock_key(id: &str) -> String {
    format!("{MEMCACHED_PREFIX}lock.{id}")
}

/// Refused, with one warning of ours that says what to do.
#[track_caller]
fn assert_refused(ran: &Ran) {
    assert_eq!(ran.stdout, "holding refused", "{ran}");
    assert_eq!(our_warnings(ran), 1, "{ran}");
    assert!(ran.stderr.contains("hint: "), "{ran}");
}

/// As php-memcached does when it takes the lock for run out.
fn overtaken(server: &Memcached, place: &Place) {
    place.store(ID, b"n|i:1;");
    let late = holder(place, &[], WRITE_AND_TELL);
    server.set(&lock_key(ID), "1");
    server.set(&key(ID), "n|i:7;");
    late.say("go on");
    let ran = late.finish();
    assert_refused(&ran);
    assert!(ran.stderr.contains("lock"), "{ran}");
    assert_eq!(place.stored(ID).unwrap(), b"n|i:7;", "nothing was written");
    assert_eq!(server.get(&lock_key(ID)).unwrap(), b"1", "the other's lock is untouched");
}

fn lock_evicted(server: &Memcached, place: &Place) {
    place.store(ID, b"n|i:1;");
    let late = holder(place, &[], WRITE_AND_TELL);
    assert_eq!(server.command(&format!("delete {}", lock_key(ID))), "DELETED\r\n");
    let other = "session_id(ID); session_start(); $_SESSION['n'] = 5; session_write_close(); echo cloakroom_status()['last_commit'];";
    assert_eq!(place.run(other), "written");
    late.say("go on");
    assert_refused(&late.finish());
    assert_eq!(place.stored(ID).unwrap(), b"n|i:5;");
}

fn session_evicted(server: &Memcached, place: &Place) {
    for (rest, written) in [
        (WRITE_AND_TELL, &b"n|i:2;"[..]),
        ("session_write_close(); echo cloakroom_status()['last_commit'];", b"n|i:1;"),
    ] {
        place.store(ID, b"n|i:1;");
        let holder = holder(place, &[], rest);
        assert_eq!(server.command(&format!("delete {}", key(ID))), "DELETED\r\n");
        holder.say("go on");
        assert_eq!(holder.finish().ok(), "holding written");
        assert_eq!(place.stored(ID).unwrap(), written);
    }
    // With its lock, it may have been destroyed by somebody else.
    let late = holder(place, &[], WRITE_AND_TELL);
    assert_eq!(server.command("flush_all"), "OK\r\n");
    late.say("go on");
    assert_refused(&late.finish());
    assert_eq!(place.stored(ID), None);
}

fn longest_lease(server: &Memcached, place: &Place) {
    place.store(ID, b"n|i:1;");
    let held = holder(place, &[("cloakroom.lease", "1"), ("cloakroom.lease_max", "2")], WRITE_AND_TELL);
    wait_until("the lock ends with the longest lease", Duration::from_secs(30), || {
        server.get(&lock_key(ID)).is_none()
    });
    held.say("go on");
    assert_refused(&held.finish());
    assert_eq!(place.stored(ID).unwrap(), b"n|i:1;");
}

fn restarted_between(server: &Memcached, place: &Place) {
    place.store(ID, b"n|i:1;");
    let late = holder(place, &[], WRITE_AND_TELL);
    server.restart();
    late.say("go on");
    // The lock was forgotten with the restart.
    assert_refused(&late.finish());
    assert_eq!(place.stored(ID), None);
}

fn restarted_while_idle(server: &Memcached, place: &Place) {
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

fn frozen_at_start(server: &Memcached, place: &Place) {
    server.freeze();
    for strict in ["0", "1"] {
        let code = "session_id(ID); var_dump(session_start());
            echo session_id() === ID || session_id() === '' ? 'same' : 'new';";
        let script =
            place.script(code).ini("session.use_strict_mode", strict).ini("cloakroom.timeout", "0.2");
        // The server does what it was asked for once it goes on: a lock of who is gone by then lasts its lease.
        let ran = script.ini("cloakroom.lease", "1").run();
        assert_eq!(ran.stdout, "bool(false)\nsame", "{ran}");
        assert_eq!(our_warnings(&ran), 1, "{ran}");
    }
    server.thaw();
    assert_eq!(place.run("session_id(ID); var_dump(session_start());"), "bool(true)\n");
}

fn frozen_at_write(server: &Memcached, place: &Place) {
    place.store(ID, b"n|i:1;");
    let late = holder(place, &[("cloakroom.timeout", ANSWERED)], WRITE_AND_TELL);
    server.freeze();
    late.say("go on");
    let ran = late.finish();
    server.thaw();
    assert_eq!(ran.stdout, "holding unknown", "{ran}");
    assert_eq!(our_warnings(&ran), 1, "{ran}");
}

fn longer_than_thirty_days(server: &Memcached, place: &Place) {
    const LIFETIME: u64 = 40 * 24 * 3600;
    for rest in ["$_SESSION['n'] = 1;", ""] {
        let code = format!("session_id(ID); session_start(); {rest} session_write_close();");
        place.script(&code).ini("session.gc_maxlifetime", LIFETIME).run().ok();
        // `HD t3456000`
        let told = server.command(&format!("mg {} t", key(ID)));
        let left: u64 =
            told.trim_end().strip_prefix("HD t").unwrap_or_else(|| panic!("{told}")).parse().unwrap();
        // The server's clock is behind by up to a second, or more where it has to wait for a core.
        assert!((LIFETIME - 600..=LIFETIME + 600).contains(&left), "{left}");
    }
}

fn full_server() {
    let place = Place::memcached_started(Memcached::with(&["-M", "-m", "8"]), "");
    let Place::Memcached(ring) = &place else { unreachable!("it was just made") };
    let server = &ring.servers[0];
    place.store(ID, b"n|i:1;");
    let late = holder(
        &place,
        &[],
        "$_SESSION['big'] = str_repeat('x', 200000); session_write_close(); echo cloakroom_status()['last_commit'];",
    );
    let value = "x".repeat(200_000);
    let full = (0..100).any(|number| {
        let answer = server.command(&format!("set filler{number} 0 0 {}\r\n{value}", value.len()));
        answer.starts_with("SERVER_ERROR out of memory")
    });
    assert!(full);
    late.say("go on");
    let ran = late.finish();
    assert_refused(&ran);
    assert!(ran.stderr.contains("memory"), "{ran}");
    assert_eq!(place.stored(ID).unwrap(), b"n|i:1;");
    assert_eq!(place.run("session_id(ID); session_start(); echo $_SESSION['n'];"), "1");
}

fn too_large(protocol: &str) {
    let place = Place::memcached_started(Memcached::start(), protocol_option(protocol));
    for (id, existing) in [(ID, true), ("anew", false)] {
        if existing {
            place.store(id, b"n|i:1;");
        }
        let code = format!(
            "session_id('{id}'); session_start(); $_SESSION['big'] = str_repeat('x', 1100000); session_write_close();
            echo cloakroom_status()['last_commit'];"
        );
        let ran = place.script(&code).run();
        assert_eq!(ran.stdout, "refused", "{ran}");
        assert_eq!(our_warnings(&ran), 1, "{ran}");
        assert!(
            ran.stderr.contains("11000") && ran.stderr.contains("-I"),
            "it names the size and the option: {ran}"
        );
        assert_eq!(place.stored(id), existing.then(|| b"n|i:1;".to_vec()));
    }
    // The locks are free.
    let code = "session_id(ID); session_start(); echo $_SESSION['n']; $_SESSION['n'] = 2;";
    assert_eq!(place.script(code).ini("cloakroom.lock_wait", "0").run().ok(), "1");
}

fn protocol_option(protocol: &str) -> &'static str {
    match protocol {
        "ascii" => "?protocol=ascii",
        "meta" => "?protocol=meta",
        _ => "?protocol=binary",
    }
}

/// A session of a ring, with its own id in it.
struct Placed {
    id: String,
    /// Whether it is on the first server.
    session: bool,
    /// Whether its lock is.
    lock: bool,
}

/// A ring of three with a dozen sessions: at least one on the first server, and one that has nothing to do with that. The
/// servers' ports decide, and those are another's every time; so it may take more.
fn ring() -> (Place, Vec<Placed>) {
    let place = Place::memcached_ring((Duration::ZERO, Duration::ZERO));
    let Place::Memcached(Ring { servers, proxies, .. }) = &place else { unreachable!("it is for Memcached") };
    let mut sessions: Vec<Placed> = Vec::new();
    let mixed = |sessions: &[Placed]| {
        sessions.iter().any(|placed| placed.session)
            && sessions.iter().any(|placed| !placed.session && !placed.lock)
    };
    while sessions.len() < 12 || !mixed(&sessions) {
        let id = format!("a{:03}", sessions.len());
        place.run(&format!("session_id('{id}'); session_start(); $_SESSION['own'] = '{id}';"));
        let lock = lock_key(&id);
        let asked = |bytes: &Vec<u8>| bytes.windows(lock.len()).any(|part| part == lock.as_bytes());
        let (session, lock) = (servers[0].get(&key(&id)).is_some(), proxies[0].requests().iter().any(asked));
        sessions.push(Placed { id, session, lock });
        assert!(sessions.len() < 500, "the first server has all or nothing of 500 sessions");
    }
    (place, sessions)
}

/// Whether the session started, what is in it, and the visitor's id.
fn visit(place: &Place, id: &str, settings: &[(&str, &str)]) -> Ran {
    let code = format!(
        "session_id('{id}');
        echo json_encode([session_start(), $_SESSION['own'] ?? null, session_id() ?: '{id}']);
        session_abort();"
    );
    let script = place.script(&code).ini("session.use_strict_mode", "1");
    settings.iter().fold(script, |script, (name, value)| script.ini(name, value)).run()
}

fn server_of_a_ring_fails(fail: fn(&Memcached)) {
    let (place, sessions) = ring();
    fail(first_of(&place));
    for Placed { id, session, lock } in &sessions {
        if *session || *lock {
            let ran = visit(&place, id, &[("cloakroom.timeout", "0.2")]);
            assert_eq!(ran.stdout, format!("[false,null,\"{id}\"]"), "{ran}");
            assert_eq!(our_warnings(&ran), 1, "{ran}");
            assert!(ran.stderr.contains("hint: "), "{ran}");
        } else {
            assert_eq!(visit(&place, id, &[]).ok(), format!("[true,\"{id}\",\"{id}\"]"));
        }
    }
}

/// What it had is gone, and everything else there.
fn server_of_a_ring_restarts() {
    let (place, sessions) = ring();
    first_of(&place).restart();
    for Placed { id, session, .. } in &sessions {
        let printed = visit(&place, id, &[]).ok();
        match session {
            // In strict mode, an unknown id is replaced.
            true => assert!(printed.starts_with("[true,null,\"") && !printed.contains(&format!("\"{id}\""))),
            false => assert_eq!(printed, format!("[true,\"{id}\",\"{id}\"]")),
        }
    }
}

fn first_of(place: &Place) -> &Memcached {
    let Place::Memcached(Ring { servers, .. }) = place else { unreachable!("it is for Memcached") };
    &servers[0]
}
