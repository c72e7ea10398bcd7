//! What is stored, how long it lives, and what php-memcached and Cloakroom do to each other's sessions.

use std::time::Duration;

use testbed::memcached::Memcached;
use testbed::suite::Case;

use super::{Beside, ID, KEY, LOCK, assert_life, keys, life, on, talk, wherever_ours};
use crate::{HOLDER, hold, ours};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(wherever_ours("a_record_lives_as_long_as_gc_maxlifetime", lives_for_gc_maxlifetime));
    cases.extend(wherever_ours("an_unchanged_session_is_prolonged", unchanged_is_prolonged));
    cases.extend(wherever_ours("an_empty_session_is_stored_as_php_memcached_stores_it", empty_session));
    cases.extend(wherever_ours("regenerating_the_id_leaves_two_sessions_and_no_junk", regenerating));
    cases.extend(wherever_ours("strict_mode_leaves_no_junk_ids", strict_mode));
    cases.extend(wherever_ours("the_lock_has_php_memcacheds_key_an_owner_and_a_life", key_owner_life));
    cases.extend(wherever_ours("anothers_lock_is_never_released", anothers_lock));
    cases.extend(wherever_ours("a_killed_script_locks_nobody_out", killed_script));
    cases.push(on(Beside::Later, "the_same_script_leaves_the_same_items", same_items));
    cases.push(on(Beside::Later, "each_reads_writes_and_destroys_the_others_sessions", both_ways));
    cases.push(on(Beside::Later, "what_php_memcached_destroys_has_no_copy_left", copies_are_destroyed));
    cases.push(on(Beside::Later, "each_waits_for_the_others_lock", wait_for_each_other));
    cases
}

fn lives_for_gc_maxlifetime(beside: Beside, server: &Memcached) {
    let write = "session_id(ID); session_start(); $_SESSION['n'] = microtime(true);";
    // More than 30 days are a date to Memcached.
    for (lifetime, life) in
        [("600", 600), ("2592000", 2_592_000), ("2592001", 2_592_001), ("8640000", 8_640_000)]
    {
        beside.script(server, write).ini("session.gc_maxlifetime", lifetime).run().ok();
        assert_life(server, KEY, life);
    }
    beside.script(server, write).ini("session.gc_maxlifetime", "0").run().ok();
    assert_life(server, KEY, 1440);
    let in_one_process = "foreach ([100, 200] as $seconds) {
            ini_set('session.gc_maxlifetime', $seconds);
            session_id(ID . $seconds);
            session_start();
            $_SESSION['n'] = 1;
            session_write_close();
        }";
    beside.run(server, in_one_process);
    assert_life(server, &format!("{KEY}100"), 100);
    assert_life(server, &format!("{KEY}200"), 200);
}

fn unchanged_is_prolonged(beside: Beside, server: &Memcached) {
    server.set(KEY, "n|i:1;");
    let touched = server.stat("cmd_touch");
    beside.script(server, "session_id(ID); session_start();").ini("session.gc_maxlifetime", "600").run().ok();
    assert_life(server, KEY, 600);
    assert_eq!(server.stat("cmd_touch"), touched + 1);
    // Evicted while it was open: written again, where php-memcached says that all is well.
    let code = format!("{} session_id(ID); session_start(); $memcached('delete {KEY}');", talk(server));
    beside.run(server, &code);
    assert_eq!(server.get(KEY).as_deref(), Some(&b"n|i:1;"[..]));
}

fn empty_session(beside: Beside, server: &Memcached) {
    beside.script(server, "session_id(ID); session_start();").ini("session.gc_maxlifetime", "600").run().ok();
    assert_eq!(server.get(KEY).as_deref(), Some(&b""[..]));
    assert_life(server, KEY, 600);
    assert_eq!(beside.run(server, "session_id(ID); session_start(); echo json_encode($_SESSION);"), "[]");
}

fn regenerating(beside: Beside, server: &Memcached) {
    for locking in ["0", "1"] {
        for strict in ["0", "1"] {
            for destroy in ["false", "true"] {
                server.command("flush_all");
                server.set(KEY, "n|i:1;");
                let code = format!(
                    "session_id(ID);
                    session_start();
                    $_SESSION['m'] = 2;
                    session_regenerate_id({destroy}) or exit('refused');
                    $_SESSION['n']++;
                    echo session_id();"
                );
                let script = beside.script(server, &code).ini("memcached.sess_locking", locking);
                let id = script.ini("session.use_strict_mode", strict).run().ok();
                let what = format!("locking {locking}, strict {strict}, destroy {destroy}");
                assert_ne!(id, ID, "{what}");
                let new = format!("memc.sess.key.{id}");
                assert_eq!(server.get(&new).as_deref(), Some(&b"n|i:2;m|i:2;"[..]), "{what}");
                let mut expected = vec![new];
                if destroy == "false" {
                    assert_eq!(server.get(KEY).as_deref(), Some(&b"n|i:1;m|i:2;"[..]), "{what}");
                    expected.push(KEY.to_owned());
                }
                expected.sort_unstable();
                assert_eq!(keys(server), expected, "neither locks nor junk are left: {what}");
            }
        }
    }
}

/// php-memcached leaves an empty session under each id that it tries.
fn strict_mode(beside: Beside, server: &Memcached) {
    let code = "session_id(ID);
        session_start();
        echo session_id() === ID ? 'taken over ' : 'new ', json_encode($_SESSION);
        session_abort();";
    let said = beside.script(server, code).ini("session.use_strict_mode", "1").run().ok();
    assert_eq!(said, "new []");
    assert_eq!(keys(server), [""; 0]);
    let code = "echo strlen(session_create_id());
        session_start();
        $_SESSION['n'] = 1;
        session_write_close();
        session_start();
        echo $_SESSION['n'];
        session_destroy();";
    let said = beside.script(server, code).ini("session.use_strict_mode", "1").run().ok();
    assert_eq!(said, "321");
    assert_eq!(keys(server), [""; 0]);
}

fn key_owner_life(beside: Beside, server: &Memcached) {
    let holder = hold(beside.script(server, HOLDER));
    let value = String::from_utf8(server.get(LOCK).unwrap()).unwrap();
    let owner: Vec<&str> = value.split(':').collect();
    assert!(
        owner.len() == 4
            && owner[0] == "cloakroom"
            && owner[1].len() == 32
            && owner[3] == holder.pid().to_string(),
        "{value}"
    );
    let life = life(server, LOCK);
    assert!(life.is_some_and(|seconds| seconds <= 16), "{life:?}");
    holder.say("go");
    assert_eq!(holder.finish().ok(), "holding");
    assert_eq!(keys(server), [KEY]);
}

fn anothers_lock(beside: Beside, server: &Memcached) {
    let late = hold(beside.script(server, HOLDER));
    // As php-memcached does when a lock of its own has expired.
    server.command(&format!("delete {LOCK}"));
    server.set(LOCK, "1");
    server.set(KEY, "theirs|i:1;");
    late.say("go");
    assert!(late.finish().stderr.contains("the session's lock was lost"));
    assert_eq!(server.get(LOCK).as_deref(), Some(&b"1"[..]));
    assert_eq!(server.get(KEY).as_deref(), Some(&b"theirs|i:1;"[..]));
    // Nor by who waits for it in vain, destroys, or only reads.
    for code in [
        "ini_set('memcached.sess_lock_retries', 1); session_id(ID); @session_start();",
        "session_id(ID); session_start(['read_and_close' => true]);",
        "session_id('free'); session_start(); session_destroy();",
    ] {
        beside.script(server, code).run();
        assert_eq!(server.get(LOCK).as_deref(), Some(&b"1"[..]), "{code}");
    }
}

/// php-memcached's lock of a script on the command line never ends.
fn killed_script(beside: Beside, server: &Memcached) {
    let holder = hold(beside.script(server, HOLDER).ini("cloakroom.lease", "0.5"));
    holder.kill();
    let next = beside.script(server, "session_id(ID); echo session_start() ? 'started' : 'refused';");
    assert_eq!(next.run().ok(), "started");
}

/// The items, their values and their lives after a walk through what sessions can do.
fn same_items(beside: Beside, server: &Memcached) {
    let walk = "
        foreach (['php', 'php_serialize', 'php_binary', 'igbinary', 'msgpack'] as $serializer) {
            ini_set('session.serialize_handler', $serializer);
            $end = strtr($serializer, '_', '-');
            session_id(\"a$end\"); session_start(); $_SESSION = ['n' => 1, 'list' => ['a', null, 1.5]]; session_write_close();
            session_id(\"a$end\"); session_start(); unset($_SESSION['list']); session_write_close();
            session_id(\"a$end\"); session_start(); session_abort();
            session_id(\"a$end\"); session_start(['read_and_close' => true]);
            session_id(\"b$end\"); session_start(); $_SESSION['n'] = 1; session_destroy();
            session_id(\"c$end\"); session_start(); session_write_close();
            session_id(\"d$end\"); session_start(); $_SESSION['text'] = str_repeat('0123456789', 2000); session_write_close();
        }";
    let left = |beside: Beside, settings: &[(&str, &str)]| {
        server.command("flush_all");
        let script = beside.script(server, walk).ini("session.gc_maxlifetime", "500");
        settings.iter().fold(script, |script, (name, value)| script.ini(name, value)).run().ok();
        let keys = keys(server);
        for key in &keys {
            assert_life(server, key, 500);
        }
        let flags = |key: &str| server.command(&format!("mg {key} f s"));
        keys.iter().map(|key| (key.clone(), server.get(key), flags(key))).collect::<Vec<_>>()
    };
    for settings in [
        &[("memcached.sess_locking", "0")][..],
        &[],
        &[("memcached.sess_binary_protocol", "0"), ("memcached.sess_prefix", "mine.")],
    ] {
        let (ours, native) = (left(beside, settings), left(Beside::Native, settings));
        assert_eq!(ours, native, "{settings:?}");
        assert_eq!(ours.len(), 15, "{settings:?}");
    }
}

fn both_ways(beside: Beside, server: &Memcached) {
    for (first, second) in [(beside, Beside::Native), (Beside::Native, beside)] {
        first.run(server, "session_id(ID); session_start(); $_SESSION = ['by' => 'first', 'n' => 1];");
        let said = second.run(
            server,
            "session_id(ID); session_start(); echo $_SESSION['by'], $_SESSION['n']; $_SESSION['n']++; $_SESSION['by'] = 'second';",
        );
        assert_eq!(said, "first1");
        let read = "session_id(ID); session_start(['read_and_close' => true]); echo json_encode($_SESSION);";
        assert_eq!(first.run(server, read), r#"{"by":"second","n":2}"#);
        // In strict mode each knows the other's ids.
        let strict = "session_id(ID); session_start(); echo session_id() === ID ? 'known' : 'unknown';";
        let said = first.script(server, strict).ini("session.use_strict_mode", "1").run().ok();
        assert_eq!(said, "known");
        second.run(server, "session_id(ID); session_start(); session_destroy();");
        assert_eq!(first.run(server, read), "[]");
        server.command(&format!("delete {KEY}"));
        assert_eq!(keys(server), [""; 0], "{first:?} first");
    }
}

fn copies_are_destroyed(beside: Beside, server: &Memcached) {
    let other = Memcached::start();
    let list = format!("{},{}", server.address(), other.address());
    for binary in ["0", "1"] {
        let script = |side: Beside, code: &str| {
            let script = side.at(&list, code).ini("memcached.sess_number_of_replicas", "1");
            script.ini("memcached.sess_binary_protocol", binary)
        };
        script(beside, "session_id(ID); session_start(); $_SESSION['user'] = 'alice';").run().ok();
        script(Beside::Native, "session_id(ID); session_start(); session_destroy();").run().ok();
        let read = "session_id(ID); session_start(['read_and_close' => true]); echo json_encode($_SESSION);";
        assert_eq!(script(beside, read).run().ok(), "[]", "sess_binary_protocol={binary}");
    }
}

fn wait_for_each_other(beside: Beside, server: &Memcached) {
    for (first, second) in [(beside, Beside::Native), (Beside::Native, beside)] {
        let script = |side: Beside| {
            side.script(server, HOLDER)
                .ini("memcached.sess_lock_retries", "10000")
                .ini("memcached.sess_lock_expire", "600")
                .ini("memcached.sess_lock_wait_min", "20")
                .ini("memcached.sess_lock_wait_max", "20")
        };
        server.command("flush_all");
        let first = hold(script(first));
        let asked = || server.stat("cmd_set") + server.stat("cmd_get");
        let before = asked();
        let second = script(second).spawn();
        testbed::wait_until("it asks for the lock again and again", Duration::from_secs(30), || {
            asked() > before + 6
        });
        assert!(!second.stdout().contains("holding"));
        first.say("go");
        first.finish().ok();
        second.wait_for("holding");
        second.say("go");
        second.finish().ok();
        assert_eq!(server.get(KEY).as_deref(), Some(&b"n|i:2;"[..]));
        assert_eq!(keys(server), [KEY]);
    }
    // A lock that is not let go is waited for as long as the settings say, and then named.
    let holder = hold(Beside::Native.script(server, HOLDER));
    let code = "session_id(ID); var_dump(session_start());";
    let ran = beside.script(server, code).ini("memcached.sess_lock_retries", "1").run();
    assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
    assert_eq!(ours(&ran.stderr).len(), 1, "{ran}");
    holder.say("go");
    holder.finish().ok();
}
