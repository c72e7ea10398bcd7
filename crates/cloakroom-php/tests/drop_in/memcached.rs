//! Standing in for php-memcached: what its users rely on, without it, beside it, and in both load orders.

mod registration;
mod seeds;
mod sessions;
mod settings;

use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::php::Script;
use testbed::suite::{Case, case};

use super::ID;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(registration::cases());
    cases.extend(settings::cases());
    cases.extend(sessions::cases());
    cases.extend(seeds::cases());
    cases
}

const KEY: &str = "memc.sess.key.a2b9c0d4e6f8a1b3c5d7e9f0a2";
const LOCK: &str = "memc.sess.key.lock.a2b9c0d4e6f8a1b3c5d7e9f0a2";

/// What php-memcached needs, in the order in which it does.
const MODULES: [&str; 3] = ["igbinary.so", "msgpack.so", "memcached.so"];

/// What else is loaded, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// php-memcached starts after Cloakroom.
    Later,
    /// php-memcached has started before.
    Earlier,
    /// php-memcached alone, with its own handler.
    Native,
}

impl Beside {
    fn name(self) -> &'static str {
        match self {
            Beside::Nothing => "without php-memcached",
            Beside::Later => "before php-memcached",
            Beside::Earlier => "after php-memcached",
            Beside::Native => "php-memcached alone",
        }
    }

    fn needs(self) -> Vec<Need> {
        match self {
            Beside::Nothing => vec![Need::Php, Need::Memcached],
            _ => vec![Need::Php, Need::Memcached, Need::PhpIgbinary, Need::PhpMemcached],
        }
    }

    fn load(self, script: Script) -> Script {
        let native = |script| MODULES.into_iter().fold(script, Script::module);
        match self {
            Beside::Nothing => script.cloakroom(),
            Beside::Later => native(script.cloakroom()),
            Beside::Earlier => native(script).cloakroom(),
            Beside::Native => native(script),
        }
    }

    /// A script with a php.ini that was written for php-memcached, and the two lines of the drop-in.
    fn script(self, server: &Memcached, code: &str) -> Script {
        self.at(&server.address(), code)
    }

    fn at(self, save_path: &str, code: &str) -> Script {
        self.load(Script::new(format!("const ID = '{ID}';\n{code}")))
            .ini("cloakroom.drop_in", "memcached")
            .ini("session.save_handler", "memcached")
            .ini("session.save_path", save_path)
            .ini("session.use_cookies", "0")
            .ini("session.use_only_cookies", "0")
            .ini("session.cache_limiter", "")
            .ini("output_buffering", "65536")
    }

    /// Runs it to its end without a warning.
    #[track_caller]
    fn run(self, server: &Memcached, code: &str) -> String {
        self.script(server, code).run().ok()
    }
}

/// The case wherever Cloakroom has the handler's name.
fn wherever_ours(name: &str, run: fn(Beside, &Memcached)) -> Vec<Case> {
    [Beside::Nothing, Beside::Later].into_iter().map(|beside| on(beside, name, run)).collect()
}

fn on(beside: Beside, name: &str, run: fn(Beside, &Memcached)) -> Case {
    let name = format!("{}: {name}", beside.name());
    case(name, &beside.needs(), move || run(beside, &Memcached::start()))
}

/// Code that defines `$memcached(LINE)`, which says what the server answers to a line.
fn talk(server: &Memcached) -> String {
    format!(
        "$memcached = function (string $line) {{
            $server = fsockopen('127.0.0.1', {});
            fwrite($server, \"$line\\r\\nquit\\r\\n\");
            return rtrim(stream_get_contents($server));
        }};",
        server.port()
    )
}

/// The seconds that an item still lives, or none for ever.
#[track_caller]
fn life(server: &Memcached, key: &str) -> Option<u32> {
    let answer = server.command(&format!("mg {key} t"));
    let seconds = answer.trim_end().strip_prefix("HD t").unwrap_or_else(|| panic!("{key}: {answer}"));
    seconds.parse().ok()
}

/// Asserts that an item lives this long; the server's clock counts whole seconds. No more can have passed of it than since the
/// server was started.
#[track_caller]
fn assert_life(server: &Memcached, key: &str, expected: u32) {
    let life = life(server, key);
    let passed = u32::try_from(server.stat("uptime")).unwrap() + 2;
    assert!(
        life.is_some_and(|seconds| (expected.saturating_sub(passed)..=expected + 1).contains(&seconds)),
        "{key} lives for {life:?}, not {expected}, after {passed} s at most"
    );
}

/// The keys of all items, sorted.
fn keys(server: &Memcached) -> Vec<String> {
    let mut keys = server.keys();
    keys.sort_unstable();
    keys
}
