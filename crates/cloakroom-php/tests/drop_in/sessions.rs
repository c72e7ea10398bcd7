//! What is stored, and how long it lives.

use testbed::redis::Redis;
use testbed::suite::Case;

use super::{Beside, ID, KEY, LOCK, VERSIONS, assert_life, on, wherever_ours};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(wherever_ours("a_record_lives_as_long_as_gc_maxlifetime", lives_for_gc_maxlifetime));
    cases
        .extend(wherever_ours("an_unchanged_session_is_prolonged_and_not_rewritten", unchanged_is_prolonged));
    cases.extend(wherever_ours("an_empty_session_is_stored_as_phpredis_stores_it", empty_session));
    cases.extend(wherever_ours("regenerating_the_id_leaves_what_phpredis_leaves", regenerating));
    cases.extend(wherever_ours("gc_and_listing_of_handlers_are_as_with_phpredis", gc));
    for version in VERSIONS {
        cases.push(on(Beside::Later(version), "the_same_script_leaves_the_same_keys", same_keys));
    }
    cases
}

fn lives_for_gc_maxlifetime(beside: Beside, server: &Redis) {
    let write = "session_id(ID); session_start(); $_SESSION['n'] = microtime(true);";
    for (lifetime, life) in
        [("600", 600), ("1800", 1800), ("0", 1440), ("-1", 1440), ("99999999999", 2_147_483_647)]
    {
        beside.script(server, write).ini("session.gc_maxlifetime", lifetime).run().ok();
        assert_life(server, KEY, life);
    }
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

fn unchanged_is_prolonged(beside: Beside, server: &Redis) {
    server.command(&["SET", KEY, "n|i:1;", "EX", "9999"]);
    beside.script(server, "session_id(ID); session_start();").ini("session.gc_maxlifetime", "600").run().ok();
    assert_life(server, KEY, 600);
    assert!(server.command(&["INFO", "commandstats"]).contains("cmdstat_expire:calls=1,"));
    // Evicted while it was open: written again, where phpredis says that all is well.
    let code = format!(
        "session_id(ID); session_start();
        $redis = fsockopen('127.0.0.1', {});
        fwrite($redis, \"DEL {KEY}\\r\\n\");
        fgets($redis);",
        server.port()
    );
    beside.run(server, &code);
    assert_eq!(server.command(&["GET", KEY]), "n|i:1;");
}

fn empty_session(beside: Beside, server: &Redis) {
    beside.script(server, "session_id(ID); session_start();").ini("session.gc_maxlifetime", "600").run().ok();
    assert_eq!(server.command(&["STRLEN", KEY]), "0");
    assert_life(server, KEY, 600);
}

fn regenerating(beside: Beside, server: &Redis) {
    for locking in ["0", "1"] {
        for destroy in ["false", "true"] {
            for proxy in ["", "session_set_save_handler(new class extends SessionHandler {}, true);"] {
                server.command(&["FLUSHALL"]);
                server.command(&["SET", KEY, "n|i:1;"]);
                let code = format!(
                    "{proxy}
                    session_id(ID);
                    session_start();
                    $_SESSION['m'] = 2;
                    session_regenerate_id({destroy}) or exit('refused');
                    $_SESSION['n']++;
                    echo session_id();"
                );
                let script = beside.script(server, &code).ini("redis.session.locking_enabled", locking);
                let id = script.run().ok();
                let what = format!("locking {locking}, destroy {destroy}, {proxy}");
                assert_ne!(id, ID, "{what}");
                let new = format!("PHPREDIS_SESSION:{id}");
                assert_eq!(server.command(&["GET", &new]), "n|i:2;m|i:2;", "{what}");
                let kept = if destroy == "true" { "(nil)" } else { "n|i:1;m|i:2;" };
                assert_eq!(server.command(&["GET", KEY]), kept, "{what}");
                let left = if destroy == "true" { 1 } else { 2 };
                assert_eq!(server.command(&["DBSIZE"]), left.to_string(), "no lock is left: {what}");
            }
        }
    }
}

fn gc(beside: Beside, server: &Redis) {
    let said = beside.run(server, "session_id(ID); session_start(); var_dump(session_gc());");
    assert_eq!(said, "int(0)\n");
    assert_eq!(server.command(&["EXISTS", LOCK]), "0");
}

/// The keys, their values and their lives after a walk through what sessions can do.
fn same_keys(beside: Beside, server: &Redis) {
    let Beside::Later(version) = beside else { unreachable!("it is only run there") };
    let walk = "
        foreach (['php', 'php_serialize', 'php_binary'] as $serializer) {
            ini_set('session.serialize_handler', $serializer);
            $end = strtr($serializer, '_', '-');
            session_id(\"a$end\"); session_start(); $_SESSION = ['n' => 1, 'list' => ['a', null, 1.5]]; session_write_close();
            session_id(\"a$end\"); session_start(); unset($_SESSION['list']); session_write_close();
            session_id(\"a$end\"); session_start(); session_abort();
            session_id(\"a$end\"); session_start(['read_and_close' => true]);
            session_id(\"b$end\"); session_start(); $_SESSION['n'] = 1; session_destroy();
            session_id(\"c$end\"); session_start(); session_write_close();
        }";
    let left = |beside: Beside, locking: &str| {
        server.command(&["FLUSHALL"]);
        beside
            .script(server, walk)
            .ini("session.gc_maxlifetime", "500")
            .ini("redis.session.locking_enabled", locking)
            .run()
            .ok();
        let keys = server.command(&["KEYS", "*"]);
        let mut keys: Vec<&str> = keys.lines().collect();
        keys.sort_unstable();
        for key in &keys {
            assert_life(server, key, 500);
        }
        keys.iter().map(|key| format!("{key} = {}", server.command(&["GET", key]))).collect::<Vec<_>>()
    };
    for locking in ["0", "1"] {
        let (ours, native) = (left(beside, locking), left(Beside::Native(version), locking));
        assert_eq!(ours, native, "locking {locking}");
        assert_eq!(ours.len(), 6, "{ours:#?}");
    }
}
