//! Every script under `tests/parity/` prints the same with Cloakroom as with PHP's own `files` handler, and with Cloakroom
//! standing in for phpredis' handler as with phpredis.
//!
//! A script is one or more requests, separated by lines of `// --- next request`; each runs in a PHP of its own on the
//! same sessions. Lines of `// ini: name=value` hold for all of them. `SESSION_ID` is defined, and the same for all.
// A test stops at the first thing that is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod place;

use std::path::{Path, PathBuf};

use place::{Place, patient};
use testbed::need::Need;
use testbed::php::Script;
use testbed::redis::Redis;
use testbed::suite::{self, Case, case};
use testbed::{TempDir, php};

fn main() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity");
    let mut scripts: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    suite::run(scripts.iter().flat_map(|script| cases(script)).collect())
}

fn cases(path: &Path) -> Vec<Case> {
    let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
    let code = std::fs::read_to_string(path).unwrap();
    let (files, redis, dynamodb, five, six) = (code.clone(), code.clone(), code.clone(), code.clone(), code);
    let needs5 = [Need::Php, Need::Redis, Need::PhpIgbinary, Need::PhpRedis];
    let needs6 = [Need::Php, Need::Redis, Need::PhpRedis6];
    let mut cases = vec![
        case(format!("files: {name}"), &[Need::Php], move || {
            let directory = TempDir::new();
            compare(&files, |script| {
                script
                    .ini("session.save_handler", "cloakroom")
                    .ini("session.save_path", directory.path().display())
            });
        }),
        case(format!("redis: {name}"), &[Need::Php, Need::Redis], move || {
            let server = Redis::start();
            compare(&redis, |script| {
                script.ini("session.save_handler", "cloakroom").ini("session.save_path", server.native())
            });
        }),
        case(format!("dynamodb: {name}"), &[Need::Php, Need::Dynalite], move || {
            let place = Place::dynamodb();
            compare(&dynamodb, |script| {
                script.ini("session.save_handler", "cloakroom").ini("session.save_path", place.save_path())
            });
        }),
    ];
    // phpredis does not say how many it removed, so that session_gc() is false there.
    if name != "gc_says_what_it_removed" {
        cases.push(case(format!("drop-in, phpredis 5.3: {name}"), &needs5, move || {
            compare_with_phpredis(&five, |script| script.module("igbinary.so").module("redis.so"));
        }));
        cases.push(case(format!("drop-in, phpredis 6: {name}"), &needs6, move || {
            compare_with_phpredis(&six, |script| script.module(&php::phpredis6().display().to_string()));
        }));
    }
    cases
}

fn compare(code: &str, ours: impl Fn(Script) -> Script) {
    let directory = TempDir::new();
    let native = |script: Script| {
        script.ini("session.save_handler", "files").ini("session.save_path", directory.path().display())
    };
    let expected = run(code, native);
    assert!(!expected.is_empty(), "the script prints nothing, so that it compares nothing");
    assert_eq!(run(code, |script| ours(patient(script.cloakroom()))), expected);
}

/// Without locks: phpredis waits for its own in several of the scripts.
fn compare_with_phpredis(code: &str, phpredis: impl Fn(Script) -> Script) {
    let print = |first: fn(Script) -> Script| {
        let server = Redis::start();
        let printed = run(code, |script| {
            phpredis(first(script))
                .ini("session.save_handler", "redis")
                .ini("session.save_path", server.native())
                .ini("redis.session.locking_enabled", "0")
        });
        printed.replace(&server.native(), "tcp://server")
    };
    let ours = print(|script| patient(script.cloakroom()).ini("cloakroom.drop_in", "redis"));
    assert_eq!(ours, print(|script| script));
}

/// What all requests print, warnings included.
fn run(code: &str, configure: impl Fn(Script) -> Script) -> String {
    let settings = code.lines().filter_map(|line| line.strip_prefix("// ini: ")?.split_once('='));
    let requests = code.split("// --- next request");
    let mut printed = String::new();
    for (index, request) in requests.enumerate() {
        let body = request.trim_start().trim_start_matches("<?php");
        let prelude = "define('SESSION_ID', 'a2b9c0d4e6f8a1b3c5d7e9f0a2');";
        let mut script = Script::new(format!("{prelude}\n{body}"))
            .ini("output_buffering", "65536")
            .ini("session.use_cookies", "0")
            .ini("session.use_only_cookies", "0");
        for (name, value) in settings.clone() {
            script = script.ini(name.trim(), value.trim());
        }
        for module in ["pcntl", "posix"] {
            if php::extension_dir().is_some_and(|directory| directory.join(format!("{module}.so")).is_file())
            {
                script = script.module(&format!("{module}.so"));
            }
        }
        let ran = configure(script).run();
        printed += &format!("=== request {}\n{}{}", index + 1, ran.stdout, without_paths(&ran.stderr));
    }
    printed
}

/// PHP's messages name the script, which lies elsewhere in each run.
fn without_paths(messages: &str) -> String {
    let words = messages.split_inclusive([' ', '\n', '(']);
    words
        .map(|word| if word.starts_with('/') { word.rsplit('/').next().unwrap_or(word) } else { word })
        .collect()
}
