//! Standing in for phpredis and php-memcached: what their users and phpredis' own tests rely on, without them, beside them,
//! and in both load orders.
// A test stops at the first thing that is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;
mod compression;
mod locks;
mod memcached;
mod registration;
mod rollback;
mod sessions;
mod settings;

use testbed::need::Need;
use testbed::php::{Running, Script, phpredis6};
use testbed::redis::Redis;
use testbed::suite::{self, Case, case};

fn main() {
    let mut cases = Vec::new();
    cases.extend(registration::cases());
    cases.extend(settings::cases());
    cases.extend(sessions::cases());
    cases.extend(locks::cases());
    cases.extend(compression::cases());
    cases.extend(cluster::cases());
    cases.extend(rollback::cases());
    cases.extend(memcached::cases());
    suite::run(cases)
}

/// The id of the session that most cases use.
const ID: &str = "a2b9c0d4e6f8a1b3c5d7e9f0a2";
const KEY: &str = "PHPREDIS_SESSION:a2b9c0d4e6f8a1b3c5d7e9f0a2";
const LOCK: &str = "PHPREDIS_SESSION:a2b9c0d4e6f8a1b3c5d7e9f0a2_LOCK";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Debian's 5.3.
    Five,
    Six,
}

impl Version {
    fn load(self, script: Script) -> Script {
        match self {
            // It knows igbinary.
            Version::Five => script.module("igbinary.so").module("redis.so"),
            Version::Six => script.module(&phpredis6().display().to_string()),
        }
    }

    fn needs(self) -> Vec<Need> {
        match self {
            Version::Five => vec![Need::Php, Need::Redis, Need::PhpIgbinary, Need::PhpRedis],
            Version::Six => vec![Need::Php, Need::Redis, Need::PhpRedis6],
        }
    }
}

/// What else is loaded, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// phpredis starts after Cloakroom.
    Later(Version),
    /// phpredis has started before.
    Earlier(Version),
    /// phpredis alone, with its own handler.
    Native(Version),
}

/// Where Cloakroom has the handlers' names.
const OURS: [Beside; 3] = [Beside::Nothing, Beside::Later(Version::Five), Beside::Later(Version::Six)];
const VERSIONS: [Version; 2] = [Version::Five, Version::Six];

impl Beside {
    fn name(self) -> &'static str {
        match self {
            Beside::Nothing => "without phpredis",
            Beside::Later(Version::Five) => "before phpredis 5.3",
            Beside::Later(Version::Six) => "before phpredis 6",
            Beside::Earlier(Version::Five) => "after phpredis 5.3",
            Beside::Earlier(Version::Six) => "after phpredis 6",
            Beside::Native(Version::Five) => "phpredis 5.3 alone",
            Beside::Native(Version::Six) => "phpredis 6 alone",
        }
    }

    fn needs(self) -> Vec<Need> {
        match self {
            Beside::Nothing => vec![Need::Php, Need::Redis],
            Beside::Later(version) | Beside::Earlier(version) | Beside::Native(version) => version.needs(),
        }
    }

    fn load(self, script: Script) -> Script {
        match self {
            Beside::Nothing => script.cloakroom(),
            Beside::Later(version) => version.load(script.cloakroom()),
            Beside::Earlier(version) => version.load(script).cloakroom(),
            Beside::Native(version) => version.load(script),
        }
    }

    /// A script with a php.ini that was written for phpredis, and the two lines of the drop-in.
    fn script(self, server: &Redis, code: &str) -> Script {
        self.load(Script::new(format!("const ID = '{ID}';\n{code}")))
            .ini("cloakroom.drop_in", "redis,rediscluster")
            .ini("session.save_handler", "redis")
            .ini("session.save_path", server.native())
            .ini("session.use_cookies", "0")
            .ini("session.use_only_cookies", "0")
            .ini("session.cache_limiter", "")
            .ini("output_buffering", "65536")
    }

    /// Runs it to its end without a warning.
    #[track_caller]
    fn run(self, server: &Redis, code: &str) -> String {
        self.script(server, code).run().ok()
    }
}

/// The case wherever Cloakroom has the handlers' names.
fn wherever_ours(name: &str, run: fn(Beside, &Redis)) -> Vec<Case> {
    OURS.into_iter().map(|beside| on(beside, name, run)).collect()
}

fn on(beside: Beside, name: &str, run: fn(Beside, &Redis)) -> Case {
    case(format!("{}: {name}", beside.name()), &beside.needs(), move || run(beside, &Redis::start()))
}

/// A session that is open until it is told to go on.
const HOLDER: &str = "
    session_id(ID);
    session_start() or exit('refused');
    $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
    while (ob_get_level()) ob_end_flush();
    echo 'holding';
    fgets(STDIN);
    session_write_close();";

/// Starts a script that holds the session.
#[track_caller]
fn hold(script: Script) -> Running {
    let holder = script.spawn();
    holder.wait_for("holding");
    holder
}

/// Asserts that a key of this server lives this long.
#[track_caller]
fn assert_life(server: &Redis, key: &str, expected: i64) {
    assert_life_by(|words| server.command(words), key, expected);
}

/// The same where this asks the server. No more can have passed of it than since the server was started.
#[track_caller]
fn assert_life_by(command: impl Fn(&[&str]) -> String, key: &str, expected: i64) {
    let life: i64 = command(&["TTL", key]).parse().unwrap();
    let info = command(&["INFO", "server"]);
    let uptime = info.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:")).unwrap();
    // Both are rounded to a second.
    let passed = uptime.trim().parse::<i64>().unwrap() + 2;
    assert!(
        (expected - passed..=expected).contains(&life),
        "{key} lives for {life} s, not {expected}, after {passed} s at most"
    );
}

/// The warnings that are not PHP's own about a handler that failed.
fn ours(stderr: &str) -> Vec<String> {
    let warnings = stderr.lines().filter_map(|line| line.strip_prefix("Warning: "));
    warnings
        .filter(|line| {
            !["Failed to read session data", "Failed to write session data", "Failed to initialize storage"]
                .iter()
                .any(|own| line.contains(own))
        })
        .map(|line| line.split(" in /").next().unwrap_or(line).to_owned())
        .collect()
}
