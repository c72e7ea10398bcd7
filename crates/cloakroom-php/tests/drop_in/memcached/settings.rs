//! php-memcached's settings, wherever they are made.

use std::time::Duration;

use testbed::memcached::Memcached;
use testbed::suite::Case;

use super::{Beside, ID, KEY, LOCK, keys, on, talk, wherever_ours};
use crate::{HOLDER, hold, ours};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(wherever_ours("locking_is_on_unless_somebody_turns_it_off", locking));
    cases.extend(wherever_ours("without_locks_undone_writes_are_counted", conflicts_are_counted));
    cases.extend(wherever_ours("the_pauses_of_all_retries_are_the_time_to_wait", time_to_wait));
    cases.extend(wherever_ours("many_retries_wait_for_the_lock", many_retries));
    cases.extend(wherever_ours("sess_lock_expire_is_how_long_a_lock_lives", lock_expire));
    cases.extend(wherever_ours(
        "each_setting_of_the_store_leads_to_a_store_of_its_own",
        settings_of_the_store,
    ));
    cases.extend(wherever_ours("a_bad_value_is_refused_by_the_name_of_its_setting", bad_values));
    cases.extend(wherever_ours("the_ring_is_the_one_that_the_settings_ask_for", rings));
    cases.extend(wherever_ours("save_path_is_php_memcacheds_own", save_paths));
    cases.extend(wherever_ours("a_store_of_another_kind_is_refused_with_the_remedy", other_stores));
    cases.push(on(Beside::Nothing, "every_setting_of_php_memcached_is_there", every_setting));
    cases
}

fn locking(beside: Beside, server: &Memcached) {
    let locked =
        format!("{} $locked = fn() => $memcached('mg {LOCK}') === 'HD' ? 'locked ' : 'free ';", talk(server));
    let code = format!("{locked} session_id(ID); session_start(); echo $locked();");
    let script = || beside.script(server, &code);
    assert_eq!(script().run().ok(), "locked ", "nobody said anything");
    assert_eq!(script().ini("memcached.sess_locking", "On").run().ok(), "locked ");
    assert_eq!(script().ini("memcached.sess_locking", "0").run().ok(), "free ");
    assert_eq!(script().ini("cloakroom.lock", "off").run().ok(), "free ");
    let by_scripts = format!(
        "{locked}
        foreach ([1, 0, true, false, '1', '0', 'On', 'Off', '1 # a comment that is none'] as $value) {{
            ini_set('memcached.sess_locking', $value);
            session_id(ID);
            session_start();
            echo $locked();
            session_write_close();
        }}"
    );
    assert_eq!(beside.run(server, &by_scripts), "locked free locked free locked free locked free locked ");
    assert_eq!(keys(server), [KEY]);
}

fn conflicts_are_counted(beside: Beside, server: &Memcached) {
    let writer = |number: u32| {
        let code = format!(
            "session_id(ID);
            session_start();
            $_SESSION['n'] = {number};
            while (ob_get_level()) ob_end_flush();
            echo 'holding';
            fgets(STDIN);
            session_write_close();
            echo ' ', cloakroom_status()['conflicts'], cloakroom_status()['last_commit'];"
        );
        hold(beside.script(server, &code).ini("memcached.sess_locking", "0"))
    };
    let (first, second) = (writer(1), writer(2));
    first.say("go");
    assert_eq!(first.finish().ok(), "holding 0written");
    second.say("go");
    assert_eq!(second.finish().ok(), "holding 1written", "it undid the first one's");
    assert_eq!(server.get(KEY).as_deref(), Some(&b"n|i:2;"[..]));
}

fn time_to_wait(beside: Beside, server: &Memcached) {
    server.set(LOCK, "1");
    let waits = |settings: &[(&str, &str)]| {
        let mut script = beside.script(server, "session_id(ID); var_dump(session_start());");
        for (name, value) in settings {
            script = script.ini(name, value);
        }
        let ran = script.run();
        assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
        let warnings = ours(&ran.stderr);
        assert_eq!(warnings.len(), 1, "{ran}");
        let (_, waited) = warnings[0].split_once("lock for longer than ").unwrap_or_else(|| panic!("{ran}"));
        waited.split(" s").next().unwrap().to_owned()
    };
    let (retries, shortest, longest) =
        ("memcached.sess_lock_retries", "memcached.sess_lock_wait_min", "memcached.sess_lock_wait_max");
    assert_eq!(waits(&[(retries, "3"), (shortest, "100"), (longest, "150")]), "0.4");
    // The others are then as php-memcached has them.
    assert_eq!(waits(&[(retries, "2")]), "0.3");
    assert_eq!(waits(&[(retries, "0")]), "0.0");
    assert_eq!(waits(&[("cloakroom.lock_wait", "0.1")]), "0.1", "php-memcached's defaults do not count");
    assert_eq!(
        waits(&[(retries, "5"), (shortest, "100"), (longest, "100")]),
        "0.5",
        "but what is written does"
    );
    let by_script = beside
        .script(
            server,
            "ini_set('memcached.sess_lock_retries', 1);
            session_id(ID);
            session_start();",
        )
        .run();
    assert!(by_script.stderr.contains("lock for longer than 0.1 s"), "{by_script}");
    assert!(
        by_script.stderr.contains("or raise memcached.sess_lock_retries in"),
        "what to raise: {by_script}"
    );
    if beside == Beside::Nothing {
        assert_eq!(waits(&[("memcached.sess_lock_max_wait", "1")]), "1.0");
    }
    assert_eq!(server.get(LOCK).as_deref(), Some(&b"1"[..]), "another's lock is left alone");
}

fn many_retries(beside: Beside, server: &Memcached) {
    server.set(LOCK, "1");
    let waiter = beside
        .script(server, "session_id(ID); echo session_start() ? 'started' : 'refused';")
        .ini("memcached.sess_lock_retries", "10000")
        .ini("cloakroom.lock_wait", "0.001")
        .spawn();
    let before = server.stat("cmd_get");
    testbed::wait_until("it looks again and again", Duration::from_secs(30), || {
        server.stat("cmd_get") > before + 3
    });
    server.command(&format!("delete {LOCK}"));
    assert_eq!(waiter.finish().ok(), "started");
}

fn lock_expire(beside: Beside, server: &Memcached) {
    let late = hold(beside.script(server, HOLDER).ini("memcached.sess_lock_expire", "1"));
    // Waits for the end of that lock, and for nothing else.
    let next = beside.script(server, "session_id(ID); session_start(); $_SESSION['mine'] = 1;");
    next.ini("memcached.sess_lock_retries", "1000").run().ok();
    late.say("go");
    let late = late.finish();
    let warnings = ours(&late.stderr);
    assert_eq!(warnings.len(), 1, "{late}");
    assert!(warnings[0].contains("the session's lock was lost, and the change was not written"), "{late}");
    assert!(warnings[0].contains("ran longer than memcached.sess_lock_expire,"), "{late}");
    assert_eq!(server.get(KEY).as_deref(), Some(&b"mine|i:1;"[..]));
    // The next one's is its own.
    assert_eq!(keys(server), [KEY]);
}

/// One worker, several settings in turn: each session goes to the store that its settings describe.
fn settings_of_the_store(beside: Beside, server: &Memcached) {
    let said = beside.run(
        server,
        "foreach (['one.', 'two.', 'one.', ''] as $prefix) {
            ini_set('memcached.sess_prefix', $prefix);
            session_id(ID);
            session_start();
            $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
            session_write_close();
            echo $_SESSION['n'], ' ', preg_replace('~.*[?]~', '', cloakroom_status()['store']), ', ';
        }",
    );
    assert_eq!(said, "1 prefix=one., 1 prefix=two., 2 prefix=one., 1 prefix=, ");
    assert_eq!(keys(server), [ID, &format!("one.{ID}"), &format!("two.{ID}")]);
    let said = beside.run(
        server,
        "ini_set('memcached.sess_number_of_replicas', 1);
        ini_set('memcached.sess_randomize_replica_read', 'On');
        ini_set('memcached.sess_remove_failed_servers', 'On');
        ini_set('memcached.sess_server_failure_limit', 3);
        ini_set('memcached.sess_connect_timeout', 250);
        ini_set('memcached.sess_consistent_hash', 0);
        ini_set('memcached.sess_persistent', 1);
        session_id(ID);
        session_start();
        echo preg_replace('~.*[?]~', '', cloakroom_status()['store']);",
    );
    assert_eq!(
        said,
        "distribution=modula&replicas=1&randomize_replica_read=1&remove_failed_servers=1&server_failure_limit=3\
         &timeout=0.25"
    );
}

fn bad_values(beside: Beside, server: &Memcached) {
    let refused = |settings: &[(&str, &str)]| {
        let script = beside.script(server, "session_id(ID); var_dump(session_start());");
        let ran = settings.iter().fold(script, |script, (name, value)| script.ini(name, value)).run();
        assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
        let warnings = ours(&ran.stderr);
        assert_eq!(warnings.len(), 1, "{ran}");
        warnings[0].strip_prefix("session_start(): ").unwrap().to_owned()
    };
    let at = server.address();
    let long = "p".repeat(201);
    assert_eq!(
        refused(&[("memcached.sess_prefix", &long)]),
        format!(
            "memcached.sess_prefix takes up to 200 bytes without spaces and control characters (store \
             memcached://{at}?prefix={long}); hint: correct memcached.sess_prefix"
        )
    );
    let url = format!("memcached://{at}?prefix=mine.");
    assert_eq!(
        refused(&[("session.save_path", &url), ("memcached.sess_prefix", "other.")]),
        format!(
            "memcached.sess_prefix and session.save_path both set \"prefix\" (store {url}&prefix=other.); hint: keep one of \
             them"
        )
    );
    // php-memcached itself refuses such a value when it is set, and goes on with its default.
    if beside == Beside::Nothing {
        assert_eq!(
            refused(&[("memcached.sess_consistent_hash_type", "ring")]),
            "memcached.sess_consistent_hash_type is \"ring\"; hint: it takes ketama or ketama_weighted"
        );
        assert!(refused(&[("memcached.sess_prefix", "a b")]).starts_with("memcached.sess_prefix takes "));
    }
    let code = "session_id(str_repeat('a', 60)); session_start();";
    let ran = beside.script(server, code).ini("memcached.sess_prefix", &long[..200]).run();
    assert!(ran.stderr.contains("hint: set a shorter memcached.sess_prefix, or session.sid_length"), "{ran}");
    // One of the two alone is no login, and no error.
    let code = "session_id(ID); echo session_start() ? cloakroom_status()['store'] : 'refused';";
    let said = beside.script(server, code).ini("memcached.sess_sasl_username", "alice").run().ok();
    assert_eq!(said, format!("memcached://{at}"));
}

/// php-memcached finds each session where the same settings had Cloakroom put it.
fn rings(beside: Beside, server: &Memcached) {
    let more = [Memcached::start(), Memcached::start()];
    let list = format!("{},{}:3, {}:2", server.address(), more[0].address(), more[1].address());
    for (hash, kind) in [("On", "ketama"), ("On", "ketama_weighted"), ("Off", "ketama")] {
        let script = |beside: Beside, code: &str| {
            beside
                .at(&list, code)
                .ini("memcached.sess_consistent_hash", hash)
                .ini("memcached.sess_consistent_hash_type", kind)
        };
        let each = |body: &str| {
            format!(
                "foreach (range(1, 200) as $i) {{ session_id(\"ring$i\"); session_start(); {body} session_write_close(); }}"
            )
        };
        script(beside, &each("$_SESSION['n'] = $i;")).run().ok();
        let read = each("echo ($_SESSION['n'] ?? 0) === $i ? '' : \"$i is elsewhere \";");
        if beside == Beside::Later {
            assert_eq!(script(Beside::Native, &read).run().ok(), "", "{hash} {kind}");
        }
        assert_eq!(script(beside, &read).run().ok(), "", "{hash} {kind}");
        // Where the servers are on the ring follows from their ports: the one with the least has a tenth of it at least.
        for server in [server, &more[0], &more[1]] {
            assert!(!server.keys().is_empty(), "{hash} {kind}: all three have some");
            server.command("flush_all");
        }
    }
}

fn save_paths(beside: Beside, server: &Memcached) {
    let code =
        "session_id(ID); session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];";
    let address = server.address();
    for (visit, save_path) in [
        address.clone(),
        format!("{address}:5"),
        format!(" {address} "),
        format!("PERSISTENT=app_sessions {address}"),
        format!("memcached://{address}"),
    ]
    .iter()
    .enumerate()
    {
        let said = beside.at(save_path, code).run().ok();
        assert_eq!(said, (visit + 1).to_string(), "{save_path}");
    }
    let ran = beside.at(&format!("{address},localhost:x"), code).run();
    let what = format!("the port is not a number from 1 to 65535 (at character {})", address.len() + 12);
    assert!(ran.stderr.contains(&what), "{ran}");
    // As word processors and web sites write quotes.
    let ran = beside.at(&format!("\u{201c}{address}\u{201d}"), code).run();
    let hint = "look for a space or a quote that does not belong there";
    assert!(ran.stderr.contains(hint), "{ran}");
}

fn other_stores(beside: Beside, _: &Memcached) {
    let code = "session_id(ID); var_dump(session_start());";
    let refused = |ran: testbed::php::Ran| {
        assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
        assert_eq!(
            ours(&ran.stderr),
            [
                "session_start(): session.save_path names no store that session.save_handler=memcached can use; hint: \
                 write host:port,host:port, or set session.save_handler=cloakroom"
            ],
            "{ran}"
        );
    };
    for save_path in ["tcp://127.0.0.1:6379", "redis://127.0.0.1", "file:///tmp", ""] {
        refused(beside.at(save_path, code).run());
    }
}

fn every_setting(beside: Beside, server: &Memcached) {
    let said = beside.run(
        server,
        "foreach (['locking', 'lock_wait_min', 'lock_wait_max', 'lock_retries', 'lock_expire', 'prefix', 'binary_protocol',
            'consistent_hash', 'number_of_replicas', 'randomize_replica_read', 'remove_failed_servers',
            'server_failure_limit', 'connect_timeout', 'persistent', 'lock_wait', 'lock_max_wait', 'binary',
            'remove_failed'] as $name) {
            if (ini_set(\"memcached.sess_$name\", 1) === false) echo $name, ' cannot be set';
        }
        foreach (['sess_consistent_hash_type', 'sess_sasl_username', 'sess_sasl_password', 'use_sasl'] as $name) {
            if (ini_get(\"memcached.$name\") === false) echo $name, ' cannot be read';
        }
        session_id(ID);
        session_start();",
    );
    assert_eq!(said, "");
}
