//! `cloakroom show`, `locks` and `unlock` on real stores, with what native handlers leave there: the whole output.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ran;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use testbed::TempDir;
use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::redis::Redis;
use testbed::suite::{case, run};

use ran::Ran;

fn main() {
    run(vec![
        case("a_session_is_shown_without_its_values", &[Need::Redis], a_session_is_shown_without_its_values),
        case("a_session_is_shown_as_json", &[Need::Redis], a_session_is_shown_as_json),
        case(
            "the_lock_of_a_session_that_is_not_there_is_told",
            &[Need::Redis],
            the_lock_of_a_session_that_is_not_there_is_told,
        ),
        case("only_locks_of_cloakroom_are_said_to_be_renewed", &[Need::Redis], renewed),
        case("what_is_not_there_is_a_problem", &[], what_is_not_there_is_a_problem),
        case("what_phpredis_compressed_is_shown", &[], what_phpredis_compressed_is_shown),
        case("what_igbinary_wrote_is_shown", &[], what_igbinary_wrote_is_shown),
        case("what_cannot_be_decoded_is_told", &[], what_cannot_be_decoded_is_told),
        case("the_process_that_locked_a_file_is_named", &[], the_process_that_locked_a_file_is_named),
        case(
            "a_lock_that_phpredis_left_for_good_is_listed_and_broken",
            &[Need::Redis],
            a_lock_that_phpredis_left_for_good_is_listed_and_broken,
        ),
        case(
            "a_lock_that_php_memcached_left_for_good_is_listed_and_broken",
            &[Need::Memcached],
            a_lock_that_php_memcached_left_for_good_is_listed_and_broken,
        ),
        case(
            "a_lock_is_broken_only_when_that_is_wanted",
            &[Need::Redis],
            a_lock_is_broken_only_when_that_is_wanted,
        ),
        case("a_store_that_is_down_is_exit_code_2", &[], a_store_that_is_down_is_exit_code_2),
        case("an_id_may_begin_with_a_dash", &[], an_id_may_begin_with_a_dash),
        case("what_is_piped_is_not_wrapped", &[Need::Redis], what_is_piped_is_not_wrapped),
        case("colour_is_for_terminals", &[Need::Redis], colour_is_for_terminals),
    ]);
}

const RECORD: &str = "cart|a:1:{i:0;s:4:\"book\";}visits|i:7;";

/// A server with a session that lives for 27 hours.
fn redis_with_session() -> Redis {
    let redis = Redis::start();
    assert_eq!(redis.command(&["SET", "PHPREDIS_SESSION:abcdefghijk", RECORD, "EX", "100000"]), "OK");
    redis
}

/// The lock of a request that phpredis answered on the command line, where nothing ends it.
fn leave_lock(redis: &Redis) {
    assert_eq!(redis.command(&["SET", "PHPREDIS_SESSION:abcdefghijk_LOCK", "web1|4711"]), "OK");
}

fn a_session_is_shown_without_its_values() {
    let redis = redis_with_session();
    leave_lock(&redis);
    let head = format!(
        "session  abcdef...\nstore    {}\nsize     37 bytes\nformat   php\nlife     expires in 27 h\n\
         lock     held by a native handler, process 4711 on web1\n         \
         never ends by itself; waiting for it: 0\n\n",
        redis.url()
    );
    let masked = format!("{head}variable  holds\ncart      array, 1 entry\nvisits    integer\n");
    cloakroom(&["show", "abcdefghijk", "--store", &redis.url()]).is(0, &masked, "");
    let revealed = format!("{head}variable  value\ncart      a:1:{{i:0;s:4:\"book\";}}\nvisits    i:7;\n");
    cloakroom(&["show", "abcdefghijk", "--reveal", "--store", &redis.url()]).is(0, &revealed, "");
    assert_eq!(redis.command(&["KEYS", "*"]).lines().count(), 2, "looking leaves nothing");
}

fn a_session_is_shown_as_json() {
    let redis = redis_with_session();
    let shown = cloakroom(&["show", "abcdefghijk", "--json", "--store", &redis.url()]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    let mut value: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    let seconds = value["life_seconds"].take().as_f64().unwrap();
    assert!((99_000.0..=100_000.0).contains(&seconds), "{seconds}");
    let expected = serde_json::json!({
        "session": "abcdef...", "store": redis.url(), "found": true, "bytes": 37, "compression": null, "format": "php",
        "life": "left", "life_seconds": null, "lock": null,
        "variables": [
            { "name": "cart", "holds": "array, 1 entry" },
            { "name": "visits", "holds": "integer" },
        ],
    });
    assert_eq!(value, expected);
}

fn the_lock_of_a_session_that_is_not_there_is_told() {
    let redis = Redis::start();
    leave_lock(&redis);
    let url = redis.url();
    cloakroom(&["show", "abcdefghijk", "--store", &url]).is(
        1,
        "",
        &format!(
            "error: there is no session abcdef... (store {url})\n\
             its lock is held by a native handler, process 4711 on web1, and never ends by itself\n"
        ),
    );
}

fn renewed() {
    let redis = redis_with_session();
    let ours = "cloakroom:00112233445566778899aabbccddeeff:web1:4711";
    for (lock, renewed) in [(ours, true), ("web1|4711", false)] {
        // Half an hour and some seconds: in whole minutes, the same for as long as this takes.
        assert_eq!(redis.command(&["SET", "PHPREDIS_SESSION:abcdefghijk_LOCK", lock, "EX", "1850"]), "OK");
        let seen = cloakroom(&["locks", "--store", &redis.url()]).stdout;
        let ends = seen.lines().last().and_then(|row| row.split_once("in 30 min"));
        let unless = ends.map(|(_, rest)| rest.contains("unless renewed"));
        assert_eq!(unless, Some(renewed), "{seen}");
    }
}

fn what_is_not_there_is_a_problem() {
    let directory = TempDir::new();
    let path = directory.path().to_str().unwrap();
    let missing = format!("error: there is no session abcdef... (store {path})\n");
    cloakroom(&["show", "abcdefghijk", "--store", path]).is(1, "", &missing);
    let free = format!("session abcdef... is not locked (store {path})\n");
    cloakroom(&["unlock", "abcdefghijk", "--store", path]).is(0, &free, "");
    let none = format!(
        "store: {path}\n\nno session is locked\n\nnote: locks of other hosts and containers are not shown\n"
    );
    cloakroom(&["locks", "--store", path]).is(0, &none, "");
    cloakroom(&["show", "../x", "--store", path]).is(
        2,
        "",
        "error: the session id is not valid: byte 1 is 0x2e\n\
         hint: a session id has 1 to 256 characters out of A-Z a-z 0-9 , -\n",
    );
}

fn what_igbinary_wrote_is_shown() {
    // ["n" => 1, "name" => "n"]
    let directory = directory_with(b"\0\0\0\x02\x14\x02\x11\x01n\x06\x01\x11\x04name\x0e\x00");
    let shown = cloakroom(&["show", "abcdefghijk", "--store", directory.path().to_str().unwrap()]).stdout;
    assert!(shown.contains("format   igbinary\n"), "{shown}");
    let table = "\nvariable  holds\nn         integer\nname      string, the same as one before\n";
    assert!(shown.ends_with(table), "{shown}");
}

/// A directory with this record, last written an hour and a half ago.
fn directory_with(record: &[u8]) -> TempDir {
    let directory = TempDir::new();
    let mut file = File::create(directory.path().join("sess_abcdefghijk")).unwrap();
    file.write_all(record).unwrap();
    let written = std::time::SystemTime::now() - std::time::Duration::from_secs(90 * 60 + 5);
    file.set_modified(written).unwrap();
    directory
}

fn what_phpredis_compressed_is_shown() {
    let record = RECORD.repeat(20);
    let packed = cloakroom::envelope::Compression::Lzf.pack(record.as_bytes()).into_owned();
    let directory = directory_with(&packed);
    let shown = cloakroom(&["show", "abcdefghijk", "--store", directory.path().to_str().unwrap()]);
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    let size = format!("size     {} bytes, {} with lzf undone\nformat   php\n", packed.len(), record.len());
    assert!(shown.stdout.contains(&size), "{}", shown.stdout);
    assert!(!shown.stdout.contains("book"), "{}", shown.stdout);
}

fn what_cannot_be_decoded_is_told() {
    for (record, format) in [
        (&b"\x81\xa1n\x01"[..], "not known here (msgpack, encrypted, ...)"),
        (b"cart|a:1:{i:0", "cut off or mixed up: PHP cannot read it"),
        (b"", "none: the session is empty"),
    ] {
        let directory = directory_with(record);
        let path = directory.path().to_str().unwrap();
        let expected = format!(
            "session  abcdef...\nstore    {path}\nsize     {} bytes\nformat   {format}\n\
             life     unused for 90 min (expires by session.gc_maxlifetime)\nlock     free\n",
            record.len()
        );
        cloakroom(&["show", "abcdefghijk", "--store", path]).is(0, &expected, "");
    }
}

fn the_process_that_locked_a_file_is_named() {
    let directory = directory_with(RECORD.as_bytes());
    let path = directory.path().to_str().unwrap();
    let file = File::open(directory.path().join("sess_abcdefghijk")).unwrap();
    file.lock().unwrap();
    let pid = std::process::id();
    let shown = cloakroom(&["show", "abcdefghijk", "--store", path]).stdout;
    let lock = format!(
        "lock     held by process {pid} on this host\n         \
         ends with its process, at the latest; waiting for it: 0\n"
    );
    assert!(shown.contains(&lock), "{shown}");
    let locks = cloakroom(&["locks", "--reveal", "--store", path]).stdout;
    let row: Vec<&str> = locks.lines().nth(3).unwrap().split("  ").filter(|cell| !cell.is_empty()).collect();
    let holder = format!("process {pid} on this host");
    assert_eq!(row, ["abcdefghijk", &holder, "with its process, at the latest", "0"], "{locks}");
    let unlock = ["unlock", "abcdefghijk", "--store", path];
    for command in [&unlock[..], &[&unlock[..], &["--yes"]].concat()] {
        cloakroom(command).is(
            2,
            &format!(
                "session abcdef... is locked by process {pid} on this host (store {path})\n\
                 the lock ends with its process, at the latest; waiting for it: 0\n"
            ),
            &format!(
                "error: the kernel keeps this lock for process {pid} on this host, and nobody can take it away (store {path})\n\
                 hint: let the request end, or stop process {pid}: PHP-FPM starts another worker for it\n"
            ),
        );
    }
}

fn a_lock_that_phpredis_left_for_good_is_listed_and_broken() {
    let redis = redis_with_session();
    leave_lock(&redis);
    let url = redis.url();
    cloakroom(&["locks", "--store", &url]).is(
        0,
        &format!(
            "store: {url}\n\n\
             session    locked by                               ends             waiting\n\
             abcdef...  a native handler, process 4711 on web1  never by itself  0\n"
        ),
        "",
    );
    cloakroom(&["locks", "--json", "--store", &url]).is(
        0,
        &format!(
            "{:#}\n",
            serde_json::json!({ "store": url, "locks": [{
                "session": "abcdef...", "holder": "a native handler, process 4711 on web1", "ends": "never",
                "ends_after_seconds": null, "waiting": 0,
            }]})
        ),
        "",
    );
    cloakroom(&["unlock", "abcdefghijk", "--yes", "--store", &url]).is(
        0,
        &format!(
            "session abcdef... is locked by a native handler, process 4711 on web1 (store {url})\n\
             the lock never ends by itself; waiting for it: 0\n\
             broken: the lock of a native handler, process 4711 on web1 is gone\n"
        ),
        "",
    );
    assert_eq!(redis.command(&["KEYS", "*"]), "PHPREDIS_SESSION:abcdefghijk");
}

fn a_lock_that_php_memcached_left_for_good_is_listed_and_broken() {
    let server = Memcached::start();
    assert_eq!(server.command("set memc.sess.key.lock.abcdefghijk 0 0 1\r\n1"), "STORED\r\n");
    let store = format!("memcached://{}", server.address());
    let locks = cloakroom(&["locks", "--store", &store]);
    let row = "abcdef...  a native handler  never by itself  0\n";
    assert!(locks.stdout.ends_with(row), "{}{}", locks.stdout, locks.stderr);
    let broken = cloakroom(&["unlock", "abcdefghijk", "--yes", "--store", &store]);
    assert!(broken.stdout.ends_with("broken: the lock of a native handler is gone\n"), "{}", broken.stdout);
    assert_eq!(broken.code, Some(0));
    assert!(server.keys().is_empty());
}

fn a_lock_is_broken_only_when_that_is_wanted() {
    let redis = redis_with_session();
    leave_lock(&redis);
    let url = redis.url();
    let unlock = ["unlock", "abcdefghijk", "--store", &url];
    let told = format!(
        "session abcdef... is locked by a native handler, process 4711 on web1 (store {url})\n\
         the lock never ends by itself; waiting for it: 0\n"
    );
    let refused =
        "error: there is no terminal to ask on\nhint: pass --yes to break the lock without being asked\n";
    cloakroom(&unlock).is(2, &told, refused);
    let (seen, code) = on_a_terminal(&unlock, "n\n", &[]);
    assert!(seen.contains("Its changes are lost. [y/N]") && seen.contains("nothing was done"), "{seen}");
    assert_eq!(code, Some(1));
    assert_eq!(redis.command(&["EXISTS", "PHPREDIS_SESSION:abcdefghijk_LOCK"]), "1");
    let (seen, code) = on_a_terminal(&unlock, "y\n", &[]);
    assert!(seen.contains("the lock of a native handler, process 4711 on web1 is gone"), "{seen}");
    assert_eq!(code, Some(0));
    assert_eq!(redis.command(&["EXISTS", "PHPREDIS_SESSION:abcdefghijk_LOCK"]), "0");
}

fn a_store_that_is_down_is_exit_code_2() {
    let port = testbed::free_port();
    let store = format!("redis://127.0.0.1:{port}");
    for command in [&["show", "abc"][..], &["locks"], &["unlock", "abc", "--yes"]] {
        let ran = cloakroom(&[command, &["--store", &store]].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{}", ran.stderr);
        assert!(ran.stderr.starts_with("error: cannot connect"), "{}", ran.stderr);
    }
}

/// One in 64 does, with session.sid_bits_per_character = 6.
fn an_id_may_begin_with_a_dash() {
    let directory = TempDir::new();
    let path = directory.path().to_str().unwrap();
    std::fs::write(directory.path().join("sess_-Reveal,12"), RECORD).unwrap();
    let shown = cloakroom(&["show", "-Reveal,12", "--store", path]);
    assert!(shown.stdout.starts_with("session  -Revea...\n"), "{}{}", shown.stdout, shown.stderr);
    let masked = cloakroom(&["show", "--store", path, "-Reveal,12", "--json"]);
    assert!(masked.stdout.contains("\"array, 1 entry\""), "{}{}", masked.stdout, masked.stderr);
    let free = format!("session -Revea... is not locked (store {path})\n");
    cloakroom(&["unlock", "-Reveal,12", "--yes", "--store", path]).is(0, &free, "");
}

fn what_is_piped_is_not_wrapped() {
    let redis = Redis::start();
    let host = "web1.".repeat(50);
    redis.command(&["SET", "PHPREDIS_SESSION:abcdefghijk_LOCK", &format!("{host}|4711")]);
    let (seen, _) = on_a_terminal(&["locks", "--store", &redis.url(), "|", "cat"], "", &[]);
    let row = format!("abcdef...  a native handler, process 4711 on {host}  never by itself  0\r\n");
    assert!(seen.ends_with(&row), "{seen}");
}

fn colour_is_for_terminals() {
    let redis = redis_with_session();
    leave_lock(&redis);
    let url = redis.url();
    let locks = ["locks", "--store", &url];
    let plain = cloakroom(&locks).stdout;
    assert!(!plain.contains('\x1b'), "{plain}");
    let (coloured, _) = on_a_terminal(&locks, "", &[]);
    assert!(coloured.contains("\x1b[33mabcdef...\x1b[0m"), "{coloured:?}");
    let (without, _) = on_a_terminal(&locks, "", &[("NO_COLOR", "1")]);
    assert!(without.contains("abcdef...") && !without.contains('\x1b'), "{without:?}");
}

/// What is seen on a terminal of 200 columns where this is typed.
fn on_a_terminal(arguments: &[&str], typed: &str, variables: &[(&str, &str)]) -> (String, Option<i32>) {
    let mut ours = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let theirs = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NOCTTY.bits())
        .open(ptsname_r(&ours).unwrap())
        .unwrap();
    let end = || Stdio::from(theirs.try_clone().unwrap());
    let program = env!("CARGO_BIN_EXE_cloakroom");
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("stty cols 200; exec {program} {}", arguments.join(" "))]);
    shell.env_remove("NO_COLOR").env("TERM", "xterm-256color").envs(variables.iter().copied());
    let mut running = shell.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    // What is read ends when nobody has the other side any more, with an error: then it is all there.
    drop((shell, theirs));
    ours.write_all(typed.as_bytes()).unwrap();
    let mut seen = Vec::new();
    let _ = ours.read_to_end(&mut seen);
    (String::from_utf8(seen).unwrap(), running.wait().unwrap().code())
}

fn cloakroom(arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
    Ran::of(command.args(arguments).stdin(Stdio::null()).env_remove("SESSION_STORE_URL"))
}
