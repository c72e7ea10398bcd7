//! phpredis' settings, wherever they are made.

use testbed::redis::Redis;
use testbed::suite::Case;

use super::{Beside, HOLDER, KEY, LOCK, Version, assert_life, hold, ours, wherever_ours};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(wherever_ours("locking_is_on_unless_somebody_turns_it_off", locking_enabled));
    cases.extend(wherever_ours("without_locks_undone_writes_are_counted", conflicts_are_counted));
    cases.extend(wherever_ours("retries_times_pause_is_the_time_to_wait", time_to_wait));
    cases.extend(wherever_ours("the_time_limits_of_the_save_path_hold_for_a_write", time_limits));
    cases.extend(wherever_ours("endless_retries_end_with_the_lock", endless_retries));
    cases.extend(wherever_ours("lock_failure_readonly_reads_and_refuses_the_write", lock_failure_readonly));
    cases.extend(wherever_ours("early_refresh_prolongs_what_is_only_read", early_refresh));
    cases.extend(wherever_ours("a_bad_compression_fails_the_start", bad_compression));
    cases.extend(wherever_ours("save_path_is_phpredis_own", save_paths));
    cases.extend(wherever_ours("an_empty_save_path_is_found_and_is_never_a_directory", empty_save_path));
    cases.push(super::on(Beside::Nothing, "every_setting_of_phpredis_is_there", every_setting));
    cases
}

/// Prints whether the session that is open is locked.
fn locked(server: &Redis) -> String {
    format!(
        "$locked = function () {{
            $redis = fsockopen('127.0.0.1', {});
            fwrite($redis, \"EXISTS {LOCK}\\r\\n\");
            return fgets($redis) === \":1\\r\\n\" ? 'locked ' : 'free ';
        }};",
        server.port()
    )
}

fn locking_enabled(beside: Beside, server: &Redis) {
    let code = format!("{} session_id(ID); session_start(); echo $locked();", locked(server));
    let script = || beside.script(server, &code);
    assert_eq!(script().run().ok(), "locked ", "nobody said anything");
    assert_eq!(script().ini("redis.session.locking_enabled", "1").run().ok(), "locked ");
    assert_eq!(script().ini("redis.session.locking_enabled", "0").run().ok(), "free ");
    assert_eq!(script().ini("cloakroom.lock", "off").run().ok(), "free ");
    let by_scripts = format!(
        "{}
        foreach ([1, 0, true, false, '1', '0'] as $value) {{
            ini_set('redis.session.locking_enabled', $value);
            session_id(ID);
            session_start();
            echo $locked();
            session_write_close();
        }}",
        locked(server)
    );
    let said = beside.script(server, &by_scripts).ini("redis.session.locking_enabled", "1").run().ok();
    assert_eq!(said, "locked free locked free locked free ");
    assert_eq!(server.command(&["KEYS", "*_LOCK*"]), "");
}

fn conflicts_are_counted(beside: Beside, server: &Redis) {
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
        hold(beside.script(server, &code).ini("redis.session.locking_enabled", "0"))
    };
    let (first, second) = (writer(1), writer(2));
    first.say("go");
    assert_eq!(first.finish().ok(), "holding 0written");
    second.say("go");
    assert_eq!(second.finish().ok(), "holding 1written", "it undid the first one's");
    assert_eq!(server.command(&["GET", KEY]), "n|i:2;");
    // One after the other, and twice in one session.
    let alone = beside
        .script(
            server,
            "class Twice extends SessionHandler {
                public function write(string $id, string $data): bool {
                    return parent::write($id, 'n|i:8;') && parent::write($id, $data);
                }
            }
            session_set_save_handler(new Twice(), true);
            foreach ([3, 4] as $n) {
                session_id(ID);
                session_start();
                $_SESSION['n'] = $n;
                session_write_close();
            }
            echo cloakroom_status()['conflicts'];",
        )
        .ini("redis.session.locking_enabled", "0");
    assert_eq!(alone.run().ok(), "0");
}

fn time_to_wait(beside: Beside, server: &Redis) {
    server.command(&["SET", LOCK, "other-host|1", "PX", "3600000"]);
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
    let (retries, pause) = ("redis.session.lock_retries", "redis.session.lock_wait_time");
    assert_eq!(waits(&[(retries, "5"), (pause, "60000")]), "0.3");
    // The other one is then as phpredis has it.
    let older = beside == Beside::Later(Version::Five);
    assert_eq!(waits(&[(retries, "10")]), if older { "0.0" } else { "0.2" });
    assert_eq!(waits(&[("cloakroom.lock_wait", "0.1")]), "0.1", "phpredis' defaults do not count");
    assert_eq!(waits(&[("cloakroom.lock_wait", "0.1"), (retries, "0"), (pause, "0")]), "0.1");
    // The default of the other version is no default.
    let by_script = beside
        .script(
            server,
            &format!(
                "ini_set('redis.session.lock_retries', {});
                session_id(ID);
                session_start();",
                if older { 100 } else { 10 }
            ),
        )
        .run();
    assert!(by_script.stderr.contains("lock for longer than 0.2 s"), "{by_script}");
    assert!(
        by_script.stderr.contains("or raise redis.session.lock_retries in"),
        "what to raise: {by_script}"
    );
    assert_eq!(server.command(&["GET", LOCK]), "other-host|1", "another's lock is left alone");
}

fn time_limits(beside: Beside, server: &Redis) {
    let code = format!(
        "session_id(ID);
        session_start();
        $_SESSION['n'] = 1;
        $redis = fsockopen('127.0.0.1', {});
        fwrite($redis, \"CLIENT PAUSE 1500 WRITE\\r\\n\");
        fgets($redis);
        session_write_close();
        echo cloakroom_status()['last_commit'];",
        server.port()
    );
    let script = beside
        .script(server, &code)
        .ini("session.save_path", format!("{}?timeout=60&read_timeout=60", server.native()))
        .ini("cloakroom.connect_timeout", "0.2")
        .ini("cloakroom.timeout", "0.2");
    assert_eq!(script.run().ok(), "written");
}

fn endless_retries(beside: Beside, server: &Redis) {
    server.command(&["SET", LOCK, "other-host|1", "PX", "3600000"]);
    let waiter = beside
        .script(server, "session_id(ID); echo session_start() ? 'started' : 'refused';")
        .ini("redis.session.lock_retries", "-1")
        .ini("cloakroom.lock_wait", "0.001")
        .spawn();
    testbed::wait_until("it waits", std::time::Duration::from_secs(30), || {
        server.command(&["LLEN", &format!("{LOCK}_QUEUE")]) == "1"
    });
    server.command(&["DEL", LOCK]);
    assert_eq!(waiter.finish().ok(), "started");
}

fn lock_failure_readonly(beside: Beside, server: &Redis) {
    server.command(&["SET", KEY, "n|i:1;"]);
    server.command(&["SET", LOCK, "other-host|1", "PX", "3600000"]);
    let ran = beside
        .script(
            server,
            "session_id(ID);
            echo json_encode([session_start(), $_SESSION]);
            $_SESSION['n'] = 9;",
        )
        .ini("redis.session.lock_failure_readonly", "1")
        .ini("redis.session.lock_retries", "1")
        .run();
    assert_eq!(ran.stdout, r#"[true,{"n":1}]"#, "{ran}");
    let warnings = ours(&ran.stderr);
    assert_eq!(warnings.len(), 1, "{ran}");
    assert!(warnings[0].contains("opened read-only because its lock was busy, and is not written"), "{ran}");
    assert_eq!(server.command(&["GET", KEY]), "n|i:1;");
}

fn early_refresh(beside: Beside, server: &Redis) {
    let lives = |early: &str, code: &str, life: i64| {
        server.command(&["SET", KEY, "n|i:1;", "EX", "100"]);
        let script = beside.script(server, code).ini("session.gc_maxlifetime", "700");
        let said = script.ini("redis.session.early_refresh", early).run().ok();
        assert_life(server, KEY, life);
        said
    };
    let read_and_close = "session_id(ID); session_start(['read_and_close' => true]);
        echo cloakroom_status()['exchanges'], $_SESSION['n'];";
    assert_eq!(lives("0", read_and_close, 100), "11");
    assert_eq!(lives("1", read_and_close, 700), "11", "in the same exchange");
    let aborted = "session_id('other'); session_start(); session_abort(); $_SESSION = [];
        session_id(ID); session_start(); session_abort();";
    lives("0", aborted, 100);
    // Under a lock, too.
    lives("1", aborted, 700);
    let unlocked = "ini_set('redis.session.locking_enabled', 'off'); session_id(ID); session_start();
        session_write_close(); echo cloakroom_status()['exchanges'];";
    assert_eq!(lives("0", unlocked, 700), "2");
    assert_eq!(lives("1", unlocked, 700), "1", "and then not once more");
    let absent =
        "session_id('nobody'); session_start(['read_and_close' => true]); echo json_encode($_SESSION);";
    assert_eq!(lives("1", absent, 100), "[]");
    assert_eq!(server.command(&["EXISTS", "PHPREDIS_SESSION:nobody"]), "0");
}

fn bad_compression(beside: Beside, server: &Redis) {
    let ran = beside
        .script(server, "session_id(ID); var_dump(session_start());")
        .ini("redis.session.compression", "gzip")
        .run();
    assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
    assert_eq!(
        ours(&ran.stderr),
        ["session_start(): redis.session.compression is \"gzip\"; hint: it takes none, lzf, zstd or lz4"],
        "{ran}"
    );
}

fn save_paths(beside: Beside, server: &Redis) {
    let code =
        "session_id(ID); session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];";
    let at = |server: &Redis, save_path: &str| {
        beside.script(server, code).ini("session.save_path", save_path).run().ok()
    };
    let address = server.address();
    // No scheme, and any port: a port of its own is no reason to doubt what it is.
    assert_eq!(at(server, &address), "1");
    assert_eq!(at(server, &format!("tcp://{address}?weight=2&timeout=2.5&persistent=1&database=0")), "2");
    assert_eq!(at(server, &format!("tcp://{address}?prefix=mine:")), "1");
    assert_eq!(server.command(&["GET", &format!("mine:{}", super::ID)]), "n|i:1;");
    let unix = Redis::unix();
    let socket = unix.native().trim_start_matches("unix://").to_owned();
    assert_eq!(at(&unix, &format!("unix://{socket}")), "1");
    assert_eq!(at(&unix, &socket), "2");
    assert_eq!(at(&unix, &format!("{socket}?database=3")), "1");

    let ran = beside.script(server, code).ini("session.save_path", format!("{address}?tiemout=2")).run();
    let what = format!("unknown option \"tiemout\" (at character {})", address.len() + 2);
    assert!(ran.stderr.contains(&what), "{ran}");
}

fn empty_save_path(beside: Beside, server: &Redis) {
    let code = "session_id(ID); var_dump(session_start()); echo cloakroom_status()['detected'];";
    let script = || beside.script(server, code).ini("session.save_path", "");
    assert_eq!(script().env("SESSION_STORE_URL", server.url()).run().ok(), "bool(true)\nSESSION_STORE_URL");
    let ran = script().run();
    assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
    assert!(
        ran.stderr.contains(
            "session.save_path names no store that session.save_handler=redis can use; hint: write tcp://host:port, or \
             set session.save_handler=cloakroom"
        ),
        "{ran}"
    );
}

fn every_setting(beside: Beside, server: &Redis) {
    let said = beside.run(
        server,
        "foreach (['locking_enabled', 'lock_expire', 'lock_retries', 'lock_wait_time', 'early_refresh', 'compression',
            'compression_level', 'lock_failure_readonly', 'lock_release_cmd'] as $name) {
            if (ini_set(\"redis.session.$name\", 1) === false) echo $name, ' cannot be set';
        }",
    );
    assert_eq!(said, "");
    let holder = hold(beside.script(server, HOLDER).ini("redis.session.lock_release_cmd", "delifeq"));
    holder.say("go");
    assert_eq!(holder.finish().ok(), "holding");
}
