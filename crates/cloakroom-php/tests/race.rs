//! The race for one session: eight workers that each add to it again and again, some of them with a native handler.
//!
//! Each worker has a mount namespace of its own, with its own `/tmp`, `/var/tmp` and `/dev/shm`: what keeps them apart
//! is the store, and no local lock can pass for it.
// A test stops at the first thing that is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod place;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use place::{ID, Place};
use testbed::dynamodb::Program;
use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::php::{Running, Script};
use testbed::suite::{self, Case, case};
use testbed::wait_until;

const WORKERS: usize = 8;
/// How long a worker may take; none should need a tenth of it where it has the machine to itself.
const LIMIT: Duration = Duration::from_secs(280);

/// How often each worker adds: more seldom where a turn takes four times as long.
fn times(place: &Place) -> usize {
    match place {
        Place::DynamoDb(_) if std::env::var_os("SOAK").is_none() => 60,
        _ => 200,
    }
}

fn main() {
    let files = &[Need::Php, Need::MountNamespaces][..];
    let redis = &[Need::Php, Need::MountNamespaces, Need::Redis][..];
    let redis5 = &[Need::Php, Need::MountNamespaces, Need::Redis, Need::PhpRedis, Need::PhpIgbinary][..];
    let redis6 = &[Need::Php, Need::MountNamespaces, Need::Redis, Need::PhpRedis6][..];
    let memcached = &[Need::Php, Need::MountNamespaces, Need::Memcached][..];
    let sasl = &[Need::Php, Need::MountNamespaces, Need::MemcachedSasl][..];
    let natives =
        &[Need::Php, Need::MountNamespaces, Need::Memcached, Need::PhpIgbinary, Need::PhpMemcached][..];
    let dynalite = &[Need::Php, Need::MountNamespaces, Need::Dynalite][..];
    let local = &[Need::Php, Need::MountNamespaces, Need::DynamoDbLocal][..];
    let all = "eight_workers_lose_no_update";
    let mixed = "eight_workers_of_which_four_are_native_lose_no_update";
    let without = "without_the_lock_updates_are_lost";
    let fair = "under_continuous_load_native_workers_get_their_turns";
    let cases: Vec<Case> = vec![
        case(format!("files: {all}"), files, || lose_no_update(&Place::files(), ours)),
        case(format!("redis: {all}"), redis, || lose_no_update(&Place::redis(), ours)),
        case(format!("files: {mixed}"), files, || lose_no_update(&Place::files(), files_handler)),
        case(format!("redis, phpredis 5: {mixed}"), redis5, || lose_no_update(&Place::redis(), phpredis5)),
        case(format!("redis, phpredis 6: {mixed}"), redis6, || lose_no_update(&Place::redis(), phpredis6)),
        case(format!("memcached, ascii: {all}"), memcached, || {
            lose_no_update(&Place::memcached_with("?protocol=ascii"), ours);
        }),
        case(format!("memcached, meta: {all}"), memcached, || {
            lose_no_update(&Place::memcached_with("?protocol=meta"), ours);
        }),
        case(format!("memcached, binary and sasl: {all}"), sasl, || {
            lose_no_update(&Place::memcached_started(Memcached::sasl(), ""), ours);
        }),
        case(format!("memcached, ring over a jittery network: {all}"), memcached, || {
            lose_no_update(&Place::memcached_ring(jitter()), ours);
        }),
        case(format!("memcached, php-memcached: {mixed}"), natives, || {
            lose_no_update(&Place::memcached(), php_memcached);
        }),
        case(format!("dynamodb, dynalite: {all}"), dynalite, || lose_no_update(&Place::dynamodb(), ours)),
        case(format!("dynamodb, DynamoDBLocal: {all}"), local, || {
            lose_no_update(&Place::dynamodb_with(Program::Local, ""), ours);
        }),
        case(format!("dynamodb, AWS's handler: {mixed}"), dynalite, || {
            lose_no_update(&Place::dynamodb(), awss_handler);
        }),
        case(format!("dynamodb: {without}"), dynalite, || lose_updates(&Place::dynamodb())),
        case(format!("dynamodb, AWS's handler: {fair}"), dynalite, || {
            share_fairly(&Place::dynamodb(), awss_handler);
        }),
        case(format!("memcached: {without}"), memcached, || lose_updates(&Place::memcached())),
        case(format!("files: {without}"), files, || lose_updates(&Place::files())),
        case(format!("redis: {without}"), redis, || lose_updates(&Place::redis())),
        case(format!("files: {fair}"), files, || share_fairly(&Place::files(), files_handler)),
        case(format!("redis, phpredis 6: {fair}"), redis6, || share_fairly(&Place::redis(), phpredis6)),
    ];
    suite::run(cases)
}

/// How a worker's script is set up.
type Setup = fn(&Place, &str) -> Script;

fn ours(place: &Place, code: &str) -> Script {
    place.script(code).ini("cloakroom.lock_wait", LIMIT.as_secs()).limit(LIMIT)
}

fn native(place: &Place, code: &str, handler: &str) -> Script {
    Script::new(format!("const ID = '{ID}';\n{code}"))
        .ini("session.save_handler", handler)
        .ini("session.save_path", place.save_path())
        .ini("session.use_cookies", "0")
        .ini("session.use_only_cookies", "0")
        .limit(LIMIT)
}

fn files_handler(place: &Place, code: &str) -> Script {
    native(place, code, "files")
}

/// With the locks that it does not take by default, and as many tries as it takes.
fn phpredis5(place: &Place, code: &str) -> Script {
    native(place, code, "redis")
        .module("igbinary.so")
        .module("redis.so")
        .ini("redis.session.locking_enabled", "1")
        .ini("redis.session.lock_retries", "-1")
}

/// With locks, and five times as patient as by default, for a machine that does much else; but else its defaults.
fn phpredis6(place: &Place, code: &str) -> Script {
    native(place, code, "redis")
        .module(&testbed::php::phpredis6().display().to_string())
        .ini("redis.session.locking_enabled", "1")
        .ini("redis.session.lock_retries", "500")
}

/// With locks, and as much time as it takes: when its time is over, it takes the session for empty, and overwrites it.
fn awss_handler(place: &Place, code: &str) -> Script {
    let Place::DynamoDb(sessions) = place else { unreachable!("it is for DynamoDB") };
    let code = format!("const ID = '{ID}';\n{code}");
    sessions.awss_handler(&code, "'locking' => true, 'max_lock_wait_time' => 600").limit(LIMIT)
}

/// With as many tries as it takes, and quicker ones than by default, which would take minutes.
fn php_memcached(place: &Place, code: &str) -> Script {
    let Place::Memcached(ring) = place else { unreachable!("it is for Memcached") };
    native(place, code, "memcached")
        .module("igbinary.so")
        .module("msgpack.so")
        .module("memcached.so")
        .ini("session.save_path", ring.list())
        .ini("memcached.sess_lock_wait_min", "2")
        .ini("memcached.sess_lock_wait_max", "2")
        .ini("memcached.sess_lock_retries", "100000")
}

/// The least delay and what may come to it, in each direction: like a data centre's, or with `SOAK` a slow one's.
fn jitter() -> (Duration, Duration) {
    match std::env::var_os("SOAK") {
        None => (Duration::from_micros(50), Duration::from_micros(200)),
        Some(_) => (Duration::from_micros(200), Duration::from_micros(3800)),
    }
}

/// Adds so often; in the middle, all wait for each other (see [`meet`]).
fn adding_times(place: &Place) -> String {
    let times = times(place);
    let meet = format!("if ($i === {}) {{ fwrite(STDOUT, 'half '); fgets(STDIN); }}", times / 2);
    adding(&format!("$i < {times}"), &meet)
}

/// Waits for the start, then adds to the session while this holds, and prints what it came to.
fn adding(condition: &str, before: &str) -> String {
    format!(
        "fwrite(STDOUT, 'ready ');
        fgets(STDIN);
        for ($i = 0; {condition}; $i++) {{
            {before}
            session_id(ID);
            session_start(['cache_limiter' => '']) or exit('refused');
            $n = $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
            usleep(2000);
            session_write_close();
            $counts[] = $n;
            // The rest of a request: without it, a native worker takes the lock back before anybody can ask for it.
            usleep(300);
        }}
        echo implode(' ', $counts);"
    )
}

/// Half of the workers set up as ours, half as the others.
fn start(place: &Place, others: Setup, code: &str) -> (Vec<Running>, Vec<Running>) {
    let half = |setup: Setup| -> Vec<Running> {
        (0..WORKERS / 2).map(|_| spawn_apart(place, setup(place, code))).collect()
    };
    let halves = (half(ours), half(others));
    go(&halves.0.iter().chain(&halves.1).collect::<Vec<_>>());
    halves
}

fn spawn_apart(place: &Place, script: Script) -> Running {
    script.through(&apart(place).each_ref().map(String::as_str)).spawn()
}

/// Lets all of them start at once.
fn go(workers: &[&Running]) {
    workers.iter().for_each(|worker| worker.wait_for("ready "));
    workers.iter().for_each(|worker| worker.say("go"));
}

/// Lets all of them go on once each is halfway: whoever was kept from running, the halves of the workers meet in the middle.
fn meet(workers: &[&Running]) {
    workers.iter().for_each(|worker| worker.wait_for("half "));
    workers.iter().for_each(|worker| worker.say("go on"));
}

/// What workers say beside their counts.
const SAID: [&str; 3] = ["ready", "half", "turn"];

/// The counts that these workers came to.
#[track_caller]
fn finish(workers: Vec<Running>) -> Vec<usize> {
    let printed: Vec<String> = workers.into_iter().map(|worker| worker.finish().ok()).collect();
    let counts = printed.iter().flat_map(|printed| printed.split(' ').filter(|word| !SAID.contains(word)));
    counts.map(|count| count.parse().unwrap_or_else(|_| panic!("not a count: {count:?}"))).collect()
}

fn total(place: &Place) -> usize {
    counter(place).unwrap_or_else(|record| panic!("not a counter: {record:?}"))
}

/// What the session counts, or what else is there: while files are written, that may be a part.
fn counter(place: &Place) -> Result<usize, String> {
    let record = String::from_utf8(place.stored(ID).unwrap_or_default()).unwrap();
    let count = record.strip_prefix("n|i:").and_then(|rest| rest.strip_suffix(';'));
    count.and_then(|count| count.parse().ok()).ok_or(record)
}

fn lose_no_update(place: &Place, others: Setup) {
    let all = WORKERS * times(place);
    let (ours, others) = start(place, others, &adding_times(place));
    meet(&ours.iter().chain(&others).collect::<Vec<_>>());
    let (ours, others) = (finish(ours), finish(others));
    let reached: BTreeSet<usize> = ours.iter().chain(&others).copied().collect();
    assert_eq!((ours.len() + others.len(), total(place)), (all, all));
    assert_eq!(reached, (1..=all).collect(), "each count is reached once");
    // One half after the other would be no race.
    let turns = |half: &[usize]| (*half.iter().min().unwrap(), *half.iter().max().unwrap());
    let ((first, last), (others_first, others_last)) = (turns(&ours), turns(&others));
    assert!(first < others_last && others_first < last, "the halves ran one after the other");
}

/// The race above can fail.
fn lose_updates(place: &Place) {
    let unlocked: Setup = |place, code| ours(place, code).ini("cloakroom.lock", "off");
    let workers: Vec<Running> =
        (0..WORKERS).map(|_| spawn_apart(place, unlocked(place, &adding_times(place)))).collect();
    let all: Vec<&Running> = workers.iter().collect();
    go(&all);
    meet(&all);
    let all = WORKERS * times(place);
    assert_eq!(finish(workers).len(), all);
    assert!(total(place) < all, "no update was lost without the lock");
}

/// Without a pause, for eight seconds and as long as it takes until each had a turn, and all of them enough to compare: nobody
/// is refused, and the native half gets a quarter of its half at least.
fn share_fairly(place: &Place, others: Setup) {
    const LEAST: usize = 200;
    let over = "function over() { stream_set_blocking(STDIN, false); return fgets(STDIN) !== false; }\n";
    let code = over.to_owned() + &adding("!over()", "if ($i === 1) fwrite(STDOUT, 'turn ');");
    let since = Instant::now();
    let (ours, others) = start(place, others, &code);
    let all: Vec<&Running> = ours.iter().chain(&others).collect();
    all.iter().for_each(|worker| worker.wait_for("turn "));
    wait_until("enough turns", LIMIT, || {
        since.elapsed() >= Duration::from_secs(8) && counter(place).is_ok_and(|count| count >= LEAST)
    });
    all.iter().for_each(|worker| worker.say("stop"));
    let (ours, others) = (finish(ours).len(), finish(others).len());
    assert_eq!(total(place), ours + others);
    assert!(others >= (ours + others) / 2 / 4, "{ours} turns of ours, {others} of the native handler");
}

/// The words that start a program in a mount namespace of its own: temporary directories and shared memory are empty
/// there, but for the store, this workspace, and the script that is the program's last argument.
fn apart(place: &Place) -> [String; 6] {
    let extension = testbed::php::extension();
    let mut kept = vec![testbed::php::workspace(), extension.parent().unwrap()];
    if let Place::Files(directory) = place {
        kept.push(directory.path());
    }
    let quoted = |path: &Path| format!("'{}'", path.display());
    let script = format!(
        r#"set -e
        for last; do :; done
        for temporary in {temporary} /tmp /var/tmp; do
            case " $seen " in *" $temporary "*) continue ;; esac
            seen="$seen $temporary"
            # Put together where nothing is needed from, then moved.
            mount -t tmpfs own /dev/shm
            for kept in {kept} "$(dirname "$last")"; do
                case $kept in "$temporary"/*)
                    mkdir -p "/dev/shm${{kept#"$temporary"}}"
                    mount --bind "$kept" "/dev/shm${{kept#"$temporary"}}" ;;
                esac
            done
            mount --move /dev/shm "$temporary"
        done
        mount -t tmpfs own /dev/shm
        exec "$@""#,
        temporary = quoted(&std::env::temp_dir()),
        kept = kept.into_iter().map(quoted).collect::<Vec<_>>().join(" ")
    );
    ["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned)
}
