//! Settings: bad ones are refused by name, values come from where they say, and no secret is printed.
// A test stops at the first thing that is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod place;

use place::ours;
use testbed::TempDir;
use testbed::need::Need;
use testbed::php::Script;
use testbed::suite::{self, case};

fn main() {
    suite::run(vec![
        case("bad_settings_fail_the_start_and_name_the_setting", &[Need::Php], bad_settings),
        case("ini_set_refuses_a_bad_value", &[Need::Php], ini_set_refuses),
        case("malformed_save_paths_fail_the_start_with_the_reason", &[Need::Php], malformed_save_paths),
        case(
            "the_environment_names_the_store_when_nothing_else_does",
            &[Need::Php],
            environment_names_the_store,
        ),
        case("no_secret_is_printed", &[Need::Php, Need::Redis, Need::Dynalite], no_secret_is_printed),
        case(
            "a_value_comes_from_the_environment_or_a_file",
            &[Need::Php, Need::Redis],
            values_from_elsewhere,
        ),
    ])
}

fn bad_settings() {
    let directory = TempDir::new();
    for (name, value, reason) in [
        ("cloakroom.lock", "maybe", "cloakroom.lock is \"maybe\"; hint: it takes on or off"),
        (
            "cloakroom.lock_wait",
            "soon",
            "cloakroom.lock_wait is \"soon\"; hint: it takes a number of seconds from 0 to 86400",
        ),
        (
            "cloakroom.lease_max",
            "1",
            "cloakroom.lease_max is shorter than cloakroom.lease; hint: a lock is renewed up to cloakroom.lease_max: \
             set it to the longest request",
        ),
    ] {
        let path = directory.path().display().to_string();
        let ran = place::script(&path, "var_dump(session_start());").ini(name, value).run();
        assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
        assert_eq!(ours(&ran.stderr), [format!("session_start(): {reason}")], "{ran}");
    }
}

fn ini_set_refuses() {
    let ran = Script::new(
        "var_dump(ini_set('cloakroom.timeout', '-1'), ini_get('cloakroom.timeout'), ini_set('cloakroom.timeout', '5'));",
    )
    .cloakroom()
    .run();
    assert_eq!(ran.stdout, "bool(false)\nstring(3) \"2.5\"\nstring(3) \"2.5\"\n", "{ran}");
    assert_eq!(
        ours(&ran.stderr),
        ["ini_set(): cloakroom.timeout is \"-1\"; hint: it takes a number of seconds from 0.001 to 86400"]
    );
}

fn malformed_save_paths() {
    for (save_path, reason) in [
        (
            "nosuch://h",
            // The rest names all of them.
            "session.save_path: this build has no store for nosuch://; hint: the schemes of this build are \
             file, tcp, tls, ",
        ),
        (
            "tcp://h:port",
            "session.save_path: the port is not a number from 1 to 65535 (at character 9); hint: write host:port, \
             or host alone",
        ),
        (
            "redis://h?auth=env:NOPE",
            "session.save_path: the environment variable NOPE is not set (at character 16); hint: set it where PHP \
             starts (the PHP-FPM master, not the pool)",
        ),
    ] {
        let ran = place::script(save_path, "var_dump(session_start());").run();
        assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
        let warnings = ours(&ran.stderr);
        assert_eq!(warnings.len(), 1, "{ran}");
        assert!(warnings[0].starts_with(&format!("session_start(): {reason}")), "{ran}");
    }
}

fn environment_names_the_store() {
    let (directory, temporary) = (TempDir::new(), TempDir::new());
    let named = directory.path().display().to_string();
    let temporary = temporary.path().display().to_string();
    let code =
        "session_id(ID); session_start(); $s = cloakroom_status(); echo $s['store'], ' ', $s['detected'];
        session_destroy();";
    let run = |save_path: &str, detect: &str| {
        place::script(save_path, code)
            .ini("cloakroom.detect", detect)
            .env("SESSION_STORE_URL", &named)
            .env("TMPDIR", &temporary)
            .run()
            .ok()
    };
    assert_eq!(run("", "on"), format!("{named} SESSION_STORE_URL"));
    assert_eq!(run("auto", "on"), format!("{named} SESSION_STORE_URL"));
    assert_eq!(run("", "off"), format!("{temporary} "));
    let other = TempDir::new();
    let other = other.path().display().to_string();
    assert_eq!(run(&other, "on"), format!("{other} "), "a setting wins over the environment");
}

fn no_secret_is_printed() {
    let server = testbed::redis::Redis::with(&["--requirepass", "s3cr3t-one"]);
    let engine = testbed::dynamodb::Engine::dynalite();
    let address = server.address();
    let code = "session_id(ID);
        session_start();
        $_SESSION['n'] = 1;
        session_write_close();
        print_r(cloakroom_status());
        $info = new ReflectionExtension('cloakroom');
        $info->info();";
    for save_path in [
        format!("redis://:s3cr3t-one@{address}"),
        format!("redis://:s3cr3t-two@{address}"),
        "redis://:s3cr3t-three@127.0.0.1:1".to_owned(),
    ] {
        // Through the environment, because PHP prints session.save_path in messages of its own.
        let ran = place::script("env:STORE", code).env("STORE", &save_path).run();
        assert!(ran.stdout.contains("redis://:***@127.0.0.1"), "{ran}");
        assert!(!ran.to_string().contains("s3cr3t"), "{ran}");
    }
    for save_path in [
        "dynamodb://AKIDEXAMPLE:s3cr3t-four@eu-west-1/sessions?endpoint=http://127.0.0.1:1".to_owned(),
        // The engine refuses what has no table.
        format!("dynamodb://AKIDEXAMPLE:s3cr3t-five@eu-west-1/nowhere?endpoint={}", engine.endpoint()),
    ] {
        let ran = place::script("env:STORE", code).env("STORE", &save_path).run();
        assert!(ran.stdout.contains("dynamodb://AKIDEXAMPLE:***@eu-west-1/"), "{ran}");
        assert!(!ran.to_string().contains("s3cr3t"), "{ran}");
    }
    let refused =
        place::script("env:STORE", code).env("STORE", format!("redis://:s3cr3t-two@{address}")).run();
    assert!(ours(&refused.stderr).iter().any(|line| line.contains("redis://:***@127.0.0.1")), "{refused}");
}

fn values_from_elsewhere() {
    let server = testbed::redis::Redis::with(&["--requirepass", "pass,word#1"]);
    let directory = TempDir::new();
    let file = directory.write("password", "pass,word#1\n");
    let code = "session_id(ID); var_dump(session_start());";
    for value in ["env:REDIS_PASSWORD".to_owned(), format!("file:{}", file.display())] {
        let save_path = format!("tcp://{}?auth={value}", server.address());
        let ran = place::script(&save_path, code).env("REDIS_PASSWORD", "pass,word#1").run();
        assert_eq!(ran.ok(), "bool(true)\n");
    }
}
