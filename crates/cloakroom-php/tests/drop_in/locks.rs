//! The lock: its key, its value, its life, and whose it is.

use testbed::redis::Redis;
use testbed::suite::Case;

use super::{Beside, HOLDER, KEY, LOCK, VERSIONS, hold, on, ours, wherever_ours};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(wherever_ours("the_lock_has_phpredis_key_an_owner_and_a_life", key_owner_life));
    cases.extend(wherever_ours("lock_expire_is_how_long_a_lock_lives", lock_expire));
    cases.extend(wherever_ours("a_late_write_is_refused_though_nobody_took_the_lock", late_write));
    cases.extend(wherever_ours("anothers_lock_is_never_released", anothers_lock));
    cases.extend(wherever_ours("a_killed_script_locks_nobody_out", killed_script));
    for version in VERSIONS {
        cases.push(on(
            Beside::Later(version),
            "phpredis_waits_for_the_lock_and_is_waited_for",
            wait_for_each_other,
        ));
    }
    cases
}

fn key_owner_life(beside: Beside, server: &Redis) {
    let holder = hold(beside.script(server, HOLDER));
    let value = server.command(&["GET", LOCK]);
    let owner: Vec<&str> = value.split(':').collect();
    assert!(
        owner.len() == 4
            && owner[0] == "cloakroom"
            && owner[1].len() == 32
            && owner[3] == holder.pid().to_string(),
        "{value}"
    );
    let life: u32 = server.command(&["PTTL", LOCK]).parse().unwrap();
    assert!(life <= 15_000, "{life}");
    holder.say("go");
    assert_eq!(holder.finish().ok(), "holding");
    assert_eq!(server.command(&["KEYS", "*"]), KEY);
}

fn lock_expire(beside: Beside, server: &Redis) {
    let late = hold(beside.script(server, HOLDER).ini("redis.session.lock_expire", "1"));
    let life: i64 = server.command(&["PTTL", LOCK]).parse().unwrap();
    // On a slow machine it has ended by now: -2. For ever would be -1.
    assert!(life <= 1000 && life != -1, "{life}");
    // Waits for the end of that lock, and for nothing else.
    let next = beside.script(server, "session_id(ID); session_start(); $_SESSION['mine'] = 1;");
    next.ini("redis.session.lock_retries", "-1").run().ok();
    late.say("go");
    let late = late.finish();
    let warnings = ours(&late.stderr);
    assert_eq!(warnings.len(), 1, "{late}");
    assert!(warnings[0].contains("the session's lock was lost, and the change was not written"), "{late}");
    assert!(warnings[0].contains("ran longer than redis.session.lock_expire,"), "{late}");
    assert_eq!(server.command(&["GET", KEY]), "mine|i:1;");
}

fn late_write(beside: Beside, server: &Redis) {
    let late = hold(beside.script(server, HOLDER));
    server.command(&["DEL", LOCK]);
    late.say("go");
    let late = late.finish();
    assert!(late.stderr.contains("the session's lock was lost"), "{late}");
    assert_eq!(server.command(&["KEYS", "*"]), "");
}

fn anothers_lock(beside: Beside, server: &Redis) {
    let late = hold(beside.script(server, HOLDER));
    server.command(&["SET", LOCK, "other-host|1"]);
    late.say("go");
    assert!(late.finish().stderr.contains("the session's lock was lost"));
    assert_eq!(server.command(&["GET", LOCK]), "other-host|1");
    assert_eq!(server.command(&["EXISTS", KEY]), "0");
    // Nor by who waits for it in vain, destroys, or only reads.
    for code in [
        "ini_set('redis.session.lock_retries', 1); session_id(ID); @session_start();",
        "session_id(ID); session_start(['read_and_close' => true]);",
        "ini_set('redis.session.lock_retries', 1); session_id('free'); session_start(); session_destroy();",
    ] {
        beside.script(server, code).run();
        assert_eq!(server.command(&["GET", LOCK]), "other-host|1", "{code}");
    }
}

/// phpredis' lock of a script on the command line never ends.
fn killed_script(beside: Beside, server: &Redis) {
    let holder = hold(beside.script(server, HOLDER).ini("cloakroom.lease", "0.5"));
    holder.kill();
    let next = beside.script(server, "session_id(ID); echo session_start() ? 'started' : 'refused';");
    assert_eq!(next.run().ok(), "started");
}

fn wait_for_each_other(beside: Beside, server: &Redis) {
    let Beside::Later(version) = beside else { unreachable!("it is only run there") };
    for (first, second) in [(beside, Beside::Native(version)), (Beside::Native(version), beside)] {
        let script = |side: Beside| {
            side.script(server, HOLDER)
                .ini("redis.session.locking_enabled", "1")
                .ini("redis.session.lock_expire", "60")
                .ini("redis.session.lock_retries", "-1")
        };
        server.command(&["DEL", KEY]);
        let first = hold(script(first));
        let polls = || {
            let stats = server.command(&["INFO", "commandstats"]);
            let of = |name: &str| -> u64 {
                let calls =
                    stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
                calls.and_then(|calls| calls.split(',').next()?.parse().ok()).unwrap_or(0)
            };
            of("set")
        };
        let before = polls();
        let second = script(second).spawn();
        testbed::wait_until(
            "it asks for the lock again and again",
            std::time::Duration::from_secs(30),
            || polls() > before + 3,
        );
        assert!(!second.stdout().contains("holding"));
        first.say("go");
        first.finish().ok();
        second.wait_for("holding");
        second.say("go");
        second.finish().ok();
        assert_eq!(server.command(&["GET", KEY]), "n|i:2;");
    }
}
