//! phpredis' handler `rediscluster`: the same, and with locks.

use testbed::cluster::Cluster;
use testbed::php::Script;
use testbed::suite::{Case, case};

use super::{Beside, HOLDER, ID, OURS, VERSIONS, assert_life_by, hold};

const KEY: &str = "PHPREDIS_CLUSTER_SESSION:a2b9c0d4e6f8a1b3c5d7e9f0a2";
const LOCK: &str = "{PHPREDIS_CLUSTER_SESSION:a2b9c0d4e6f8a1b3c5d7e9f0a2}_LOCK";

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = OURS
        .into_iter()
        .map(|beside| {
            let name = format!("{}: rediscluster_is_answered_to_with_locks", beside.name());
            case(name, &beside.needs(), move || answered_to(beside))
        })
        .collect();
    cases.extend(VERSIONS.into_iter().map(|version| {
        let beside = Beside::Later(version);
        let name = format!("{}: rediscluster_shares_sessions_with_phpredis", beside.name());
        case(name, &beside.needs(), move || shares(beside, Beside::Native(version)))
    }));
    cases
}

fn script(beside: Beside, save_path: &str, code: &str) -> Script {
    beside
        .load(Script::new(format!("const ID = '{ID}';\n{code}")))
        .ini("cloakroom.drop_in", "redis,rediscluster")
        .ini("session.save_handler", "rediscluster")
        .ini("session.save_path", save_path)
        .ini("session.use_cookies", "0")
        .ini("session.use_only_cookies", "0")
        .ini("session.cache_limiter", "")
        .ini("session.gc_maxlifetime", "700")
        .ini("output_buffering", "65536")
}

fn answered_to(beside: Beside) {
    let cluster = Cluster::start();
    let save_path = cluster.native();
    let at = |words: &[&str]| cluster.owner_of(KEY).command(words);
    let holder = hold(script(beside, &save_path, HOLDER));
    assert!(at(&["GET", LOCK]).starts_with("cloakroom:"));
    holder.say("go");
    assert_eq!(holder.finish().ok(), "holding");
    assert_eq!(cluster.keys(), [KEY]);
    assert_eq!(at(&["GET", KEY]), "n|i:1;");
    assert_life_by(at, KEY, 700);

    let unlocked = hold(script(beside, &save_path, HOLDER).ini("redis.session.locking_enabled", "0"));
    assert_eq!(cluster.keys(), [KEY]);
    unlocked.say("go");
    unlocked.finish().ok();
    at(&["EXPIRE", KEY, "100"]);
    let read = "session_id(ID); session_start(['read_and_close' => true]); echo $_SESSION['n'];";
    assert_eq!(script(beside, &save_path, read).ini("redis.session.early_refresh", "1").run().ok(), "2");
    assert_life_by(at, KEY, 700);

    let ran = script(beside, "tcp://127.0.0.1:6379", "session_id(ID); var_dump(session_start());").run();
    assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
    let message = "session.save_path names no store that session.save_handler=rediscluster can use; hint: write \
                   seed[]=host:port&seed[]=host:port, or set session.save_handler=cloakroom";
    assert!(ran.stderr.contains(message), "{ran}");
}

fn shares(ours: Beside, native: Beside) {
    let cluster = Cluster::start();
    let save_path = cluster.native();
    let count =
        "session_id(ID); session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];";
    for (turn, side) in [native, ours, native, ours].into_iter().enumerate() {
        assert_eq!(script(side, &save_path, count).run().ok(), (turn + 1).to_string(), "{}", side.name());
    }
    assert_eq!(cluster.keys(), [KEY]);
}
