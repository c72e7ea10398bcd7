//! Fleets under load: eight workers that read, change and regenerate forty sessions at random, and tell each change that
//! was acknowledged: no warning up to the close. For `SOAK` seconds, 4 unless given; the random numbers follow `SEED`.
// A test stops at the first thing that is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use place::script;
use testbed::TempDir;
use testbed::need::Need;
use testbed::php::{Running, Script};
use testbed::redis::Redis;
use testbed::suite::{self, case};

const WORKERS: u64 = 8;
const SESSIONS: usize = 40;

fn main() {
    let ours = &[Need::Php, Need::Redis];
    let mixed = &[Need::Php, Need::Redis, Need::PhpRedis, Need::PhpIgbinary];
    suite::run(vec![
        case("half_of_them_phpredis_lose_no_update_and_leave_no_lock", mixed, half_of_them_phpredis),
        case("a_pool_of_three_loses_no_update_and_resurrects_nothing", ours, a_pool_of_three),
    ])
}

fn half_of_them_phpredis() {
    let redis = Redis::start();
    let journal = Journal::of(|worker, code| match worker % 2 {
        0 => ours(&redis.native(), code, "false"),
        _ => phpredis(&redis, code),
    });
    assert_eq!(journal.refused_to(|worker| worker % 2 == 0), 0, "Cloakroom refused something");
    journal.check(&[&redis]);
}

fn a_pool_of_three() {
    let servers = [Redis::start(), Redis::start(), Redis::start()];
    let list: Vec<String> = servers
        .iter()
        .zip([1, 2, 2])
        .map(|(server, weight)| format!("{}?weight={weight}", server.native()))
        .collect();
    let save_path = list.join(",");
    let journal = Journal::of(|_, code| ours(&save_path, code, "true").ini("session.use_strict_mode", "1"));
    assert_eq!(journal.refused_to(|_| true), 0, "Cloakroom refused something");
    assert!(!journal.destroyed.is_empty());
    journal.check(&servers.each_ref());
}

fn ours(save_path: &str, code: &str, destroy: &str) -> Script {
    script(save_path, code).ini("cloakroom.lock_wait", "60").env("DESTROY", destroy)
}

fn phpredis(redis: &Redis, code: &str) -> Script {
    Script::new(code)
        .module("igbinary.so")
        .module("redis.so")
        .ini("session.save_handler", "redis")
        .ini("session.save_path", redis.native())
        .ini("session.use_cookies", "0")
        .ini("session.use_only_cookies", "0")
        .ini("session.cache_limiter", "")
        .ini("redis.session.locking_enabled", "1")
        .ini("redis.session.lock_expire", "60")
        .ini("redis.session.lock_wait_time", "20000")
        .ini("redis.session.lock_retries", "3000")
        .env("DESTROY", "false")
}

/// A worker. Which id a visitor has is in a file, as in a browser's cookie: others may still come with the id of before.
/// It tells `new ID N`, `set ID N` and `gone ID` of what was acknowledged, and `no` of what was not.
const WORKER: &str = r#"
    $destroy = getenv('DESTROY') === 'true';
    $cookies = getenv('COOKIES');
    mt_srand((int) getenv('SEED'));
    $bad = false;
    set_error_handler(function ($no, $text) use (&$bad) { $bad = true; fwrite(STDERR, "$text\n"); return true; });
    $tell = function (string $line) use (&$bad) { fwrite(STDOUT, ($bad ? 'no' : $line) . "\n"); };
    fwrite(STDOUT, "ready\n"); fgets(STDIN);
    $end = microtime(true) + (float) getenv('SECONDS');
    while (microtime(true) < $end) {
        $bad = false;
        $cookie = $cookies . '/' . mt_rand(0, (int) getenv('SESSIONS') - 1);
        $id = file_get_contents($cookie);
        session_id($id);
        if (!@session_start()) { $bad = true; $tell(''); continue; }
        if (session_id() !== $id) { session_abort(); continue; }
        $what = mt_rand(0, 9);
        usleep(mt_rand(0, 2000));
        if ($what < 3) {
            session_write_close();
        } elseif ($what < 9) {
            $n = $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
            session_write_close();
            $tell("set $id $n");
        } else {
            session_regenerate_id($destroy);
            if ($destroy) $tell("gone $id");
            $new = session_id();
            $n = $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
            session_write_close();
            $tell("new $new $n");
            if (!$bad) { file_put_contents("$cookie.$new", $new); rename("$cookie.$new", $cookie); }
        }
    }
    fwrite(STDOUT, "end\n");
"#;

/// What was acknowledged, and how often each worker was refused.
#[derive(Default)]
struct Journal {
    /// The numbers that each id was given, in no order.
    given: BTreeMap<String, Vec<u64>>,
    destroyed: BTreeSet<String>,
    refused: Vec<u64>,
}

impl Journal {
    /// Lets eight workers run to their end.
    fn of(worker: impl Fn(u64, &str) -> Script) -> Journal {
        let seconds: f64 = std::env::var("SOAK").map_or(4.0, |soak| soak.parse().unwrap());
        let seed = std::env::var("SEED").map_or(u64::from(std::process::id()), |seed| seed.parse().unwrap());
        println!("SEED={seed} SOAK={seconds}");
        let cookies = TempDir::new();
        for session in 0..SESSIONS {
            cookies.write(session.to_string(), format!("{session:04}{:0>22}", seed * 100 + session as u64));
        }
        let first: Vec<String> = (0..SESSIONS)
            .map(|session| std::fs::read_to_string(cookies.join(session.to_string())).unwrap())
            .collect();
        let started = |number: u64| {
            worker(number, WORKER)
                .env("COOKIES", cookies.path().display())
                .env("SESSIONS", SESSIONS)
                .env("SECONDS", seconds)
                .env("SEED", seed + number)
                .limit(Duration::from_secs_f64(seconds) + Duration::from_secs(120))
                .spawn()
        };
        // In strict mode, an id is known when somebody has written it.
        let begins = "foreach (explode(' ', getenv('IDS')) as $id) {
            session_id($id); ini_set('session.use_strict_mode', 0); session_start(); $_SESSION['n'] = 0; session_write_close(); }";
        worker(0, begins).env("IDS", first.join(" ")).run().ok();
        let workers: Vec<Running> = (0..WORKERS).map(started).collect();
        workers.iter().for_each(|worker| worker.wait_for("ready"));
        workers.iter().for_each(|worker| worker.say("go"));
        let mut journal = Journal::default();
        for worker in workers {
            journal.refused.push(0);
            let ran = worker.finish();
            assert!(ran.stdout.ends_with("end\n"), "{ran}");
            for line in ran.stdout.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                match words[..] {
                    ["set" | "new", id, number] => {
                        journal.given.entry(id.to_owned()).or_default().push(number.parse().unwrap());
                    }
                    ["gone", id] => drop(journal.destroyed.insert(id.to_owned())),
                    ["no"] => *journal.refused.last_mut().unwrap() += 1,
                    _ => {}
                }
            }
        }
        let updates: usize = journal.given.values().map(Vec::len).sum();
        println!(
            "{updates} updates of {} ids, {} destroyed; refused: {:?}",
            journal.given.len(),
            journal.destroyed.len(),
            journal.refused
        );
        journal
    }

    /// How often workers of a kind were refused.
    fn refused_to(&self, kind: fn(usize) -> bool) -> u64 {
        let of_kind = self.refused.iter().enumerate().filter(|(worker, _)| kind(*worker));
        of_kind.map(|(_, refused)| refused).sum()
    }

    /// No acknowledged update is lost, nothing destroyed is back, and no lock of ours is left.
    fn check(&self, servers: &[&Redis]) {
        let stored = |key: &str| {
            let values: Vec<String> = servers
                .iter()
                .map(|server| server.command(&["GET", key]))
                .filter(|value| value != "(nil)")
                .collect();
            assert!(values.len() <= 1, "{key} is on several servers");
            values.into_iter().next()
        };
        for (id, given) in &self.given {
            let distinct: BTreeSet<&u64> = given.iter().collect();
            assert_eq!(distinct.len(), given.len(), "two updates of {id} began with the same: {given:?}");
            let record = stored(&format!("PHPREDIS_SESSION:{id}"));
            if self.destroyed.contains(id) {
                assert_eq!(record, None, "{id} was destroyed");
                continue;
            }
            let record = record.unwrap_or_else(|| panic!("{id} is lost"));
            let number: u64 = record
                .strip_prefix("n|i:")
                .and_then(|rest| rest.strip_suffix(';'))
                .unwrap_or_else(|| panic!("{id} holds {record:?}"))
                .parse()
                .unwrap();
            let last = **distinct.last().unwrap();
            // What was refused may have been written all the same.
            let refused = self.refused.iter().sum::<u64>();
            assert!(
                number >= last && number - last <= refused,
                "{id} holds {number}, and {last} was acknowledged"
            );
        }
        for server in servers {
            for lock in server.command(&["KEYS", "*_LOCK"]).lines() {
                let holder = server.command(&["GET", lock]);
                assert!(!holder.starts_with("cloakroom:"), "{lock} is left with {holder}");
            }
        }
    }
}
