//! Beside phpredis: the same records, the same locks, and a fair share for both.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cloakroom::{Change, Store};
use testbed::need::Need;
use testbed::php::{Script, phpredis6};
use testbed::redis::Redis;
use testbed::suite::{Case, case};
use testbed::wait_until;

use crate::worker::{EXCLUSIVE, LIFETIME, counted, id, increment, lock, put, read, soon};
use crate::{LIMIT, key, lives, lock_key, store, waiters};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (version, needs) in [
        (Version::Five, &[Need::Redis, Need::Php, Need::PhpIgbinary, Need::PhpRedis][..]),
        (Version::Six, &[Need::Redis, Need::Php, Need::PhpRedis6][..]),
    ] {
        let name = |sentence: &str| format!("phpredis {}: {sentence}", version.name());
        cases.extend([
            case(name("records_and_their_life_are_shared"), needs, move || {
                records_and_their_life_are_shared(version)
            }),
            case(name("it_waits_for_a_lock_of_ours"), needs, move || it_waits_for_a_lock_of_ours(version)),
            case(name("its_lock_is_waited_for"), needs, move || its_lock_is_waited_for(version)),
            case(name("half_and_half_lose_no_update"), needs, move || half_and_half_lose_no_update(version)),
            case(name("it_gets_its_share_and_hardly_fails"), needs, move || {
                it_gets_its_share_and_hardly_fails(version)
            }),
            case(name("it_gets_into_a_queue_of_ours"), needs, move || it_gets_into_a_queue_of_ours(version)),
        ]);
    }
    cases
}

#[derive(Debug, Clone, Copy)]
enum Version {
    Five,
    Six,
}

impl Version {
    fn name(self) -> &'static str {
        match self {
            Version::Five => "5.3",
            Version::Six => "6",
        }
    }

    /// A script on `redis` with phpredis' own handler, and its locks as phpredis 6 has them by default.
    fn script(self, redis: &Redis, code: &str) -> Script {
        let script = Script::new(code);
        let script = match self {
            // Debian's knows igbinary.
            Version::Five => script.module("igbinary.so").module("redis.so"),
            Version::Six => script.module(&phpredis6().display().to_string()),
        };
        script
            .ini("session.save_handler", "redis")
            .ini("session.save_path", redis.native())
            .ini("session.use_cookies", "0")
            .ini("session.use_only_cookies", "0")
            .ini("session.cache_limiter", "")
            .ini("redis.session.locking_enabled", "1")
            .ini("redis.session.lock_expire", "30")
            .ini("redis.session.lock_wait_time", "20000")
            .ini("redis.session.lock_retries", "100")
    }
}

fn records_and_their_life_are_shared(version: Version) {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    let script = "session_id('abc'); session_start(); $_SESSION['who'] = 'php';";
    let since = Instant::now();
    version.script(&redis, script).ini("session.gc_maxlifetime", "777").run().ok();
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"who|s:3:\"php\";");
    let (record, hold) = lock(store.as_mut(), &id("abc"));
    assert_eq!(record.unwrap(), b"who|s:3:\"php\";");
    lives(&redis, &key("abc"), since, Duration::from_secs(777));
    let since = Instant::now();
    store
        .commit(&id("abc"), hold, Change::Write(b"who|s:2:\"we\";", Duration::from_secs(888)), soon())
        .unwrap();
    lives(&redis, &key("abc"), since, Duration::from_secs(888));
    let script = "session_id('abc'); session_start(); echo $_SESSION['who'];";
    assert_eq!(version.script(&redis, script).run().ok(), "we");
    assert_eq!(redis.command(&["KEYS", "*"]), key("abc"));
}

fn it_waits_for_a_lock_of_ours(version: Version) {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    let script = "fwrite(STDOUT, 'starts '); session_id('abc'); session_start(); echo $_SESSION['n']; $_SESSION['n']++;";
    let script = version.script(&redis, script).ini("redis.session.lock_retries", "1000").spawn();
    script.wait_for("starts");
    // The work of a request: a poller leaves no trace to wait for.
    std::thread::sleep(Duration::from_millis(100));
    store.commit(&id("abc"), hold, Change::Write(b"n|i:41;", LIFETIME), soon()).unwrap();
    assert_eq!(script.finish().ok(), "starts 41");
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:42;");
}

fn its_lock_is_waited_for(version: Version) {
    let redis = Redis::start();
    let script =
        "session_id('abc'); session_start(); fwrite(STDOUT, 'holding'); fgets(STDIN); $_SESSION['n'] = 41;";
    let script = version.script(&redis, script).spawn();
    script.wait_for("holding");
    std::thread::scope(|scope| {
        let mut store = store(&redis.url());
        let next = scope.spawn(move || increment(store.as_mut(), &id("abc"), EXCLUSIVE).unwrap());
        wait_until("it waits", LIMIT, || waiters(&redis, "abc") == 1);
        script.say("go");
        assert_eq!(next.join().unwrap(), 42);
    });
    script.finish().ok();
    assert_eq!(redis.command(&["EXISTS", &lock_key("abc")]), "0");
}

/// Adds one again and again, holding the session this many microseconds; prints how often, and how often that failed.
/// Each worker rests a millisecond between two sessions, as a request has more to do: without it, a native worker
/// takes the lock back before anybody can ask for it, and native workers alone starve each other.
fn loops(seconds: f64, times: u32, hold: u32) -> String {
    format!(
        "$failed = 0; $done = 0; $bad = false;
        set_error_handler(function ($no, $text) use (&$bad) {{ $bad = true; fwrite(STDERR, \"$text\\n\"); return true; }});
        fwrite(STDOUT, 'starts '); fgets(STDIN);
        $end = microtime(true) + {seconds};
        while (microtime(true) < $end && $done < {times}) {{
            $bad = false;
            session_id('abc');
            if (session_start()) {{
                $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
                usleep({hold});
                session_write_close();
            }} else {{ $bad = true; }}
            if ($bad) {{ $failed++; }} else {{ $done++; }}
            usleep(1000);
        }}
        echo $done, ' ', $failed;"
    )
}

/// What four native workers and four of ours did.
struct Mixed {
    native: Vec<u64>,
    failed: u64,
    ours: Vec<u64>,
}

/// Four of each at one session. A native worker that waits asks so often, 20 ms apart.
fn mixed(version: Version, redis: &Redis, seconds: f64, times: u32, hold: Duration, tries: i32) -> Mixed {
    // Two such crowds at once would measure the machine's scheduler.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let code = loops(seconds, times, u32::try_from(hold.as_micros()).unwrap());
    let script = || version.script(redis, &code).ini("redis.session.lock_retries", tries);
    let scripts: Vec<_> = (0..4).map(|_| script().spawn()).collect();
    for script in &scripts {
        script.wait_for("starts");
    }
    for script in &scripts {
        script.say("go");
    }
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let ours = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut store = store(&redis.url());
                    let mut done = 0;
                    while Instant::now() < end && done < u64::from(times) {
                        hold_and_increment(store.as_mut(), hold);
                        std::thread::sleep(Duration::from_millis(1));
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let mut mixed = Mixed { native: Vec::new(), failed: 0, ours };
    for script in scripts {
        let ran = script.finish();
        let numbers: Vec<u64> = ran
            .stdout
            .trim_start_matches("starts ")
            .split(' ')
            .map(|number| number.parse().unwrap())
            .collect();
        mixed.native.push(numbers[0]);
        mixed.failed += numbers[1];
    }
    println!(
        "phpredis {}, {hold:?} held: native {:?}, {} failed; ours {:?}",
        version.name(),
        mixed.native,
        mixed.failed,
        mixed.ours
    );
    mixed
}

fn hold_and_increment(store: &mut dyn Store, hold: Duration) {
    let opened = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap();
    let count = opened.record.map_or(0, |record| counted(&record.0)) + 1;
    std::thread::sleep(hold);
    let bytes = format!("n|i:{count};");
    store.commit(&id("abc"), opened.hold, Change::Write(bytes.as_bytes(), LIFETIME), soon()).unwrap();
}

fn half_and_half_lose_no_update(version: Version) {
    let redis = Redis::start();
    put(store(&redis.url()).as_mut(), &id("abc"), b"n|i:0;");
    // However long it takes: this is not about who is how fast.
    let mixed = mixed(version, &redis, 200.0, 50, Duration::from_millis(1), -1);
    assert_eq!(mixed.failed, 0);
    assert_eq!((mixed.native, mixed.ours), (vec![50; 4], vec![50; 4]));
    assert_eq!(redis.command(&["GET", &key("abc")]), "n|i:400;");
}

/// Polling is a lottery, and where something else takes the processors, native workers starve each other too: what is
/// promised holds over some time, and a machine that is busy gets more of it.
fn it_gets_its_share_and_hardly_fails(version: Version) {
    for hold in [Duration::from_micros(500), Duration::from_millis(5)] {
        let (mut native, mut failed, mut ours) = (0, 0, 0);
        for round in 1.. {
            let redis = Redis::start();
            let mixed = mixed(version, &redis, 6.0, u32::MAX, hold, 100);
            let (natives, others): (u64, u64) = (mixed.native.iter().sum(), mixed.ours.iter().sum());
            // However unfair a round, no update is lost in it.
            assert_eq!(redis.command(&["GET", &key("abc")]), format!("n|i:{};", natives + others));
            (native, failed, ours) = (native + natives, failed + mixed.failed, ours + others);
            // Half of the turns would be fair to each half: a quarter of that is due to it. In a hundred turns, one
            // may be waited for longer than the two seconds that a native worker does.
            let fair = native.min(ours) >= (native + ours) / 2 / 4 && failed * 100 <= native;
            if fair {
                break;
            }
            assert!(round < 6, "{hold:?} held: {native} native turns, {failed} more failed, {ours} of ours");
        }
    }
}

/// Nobody has seen a native worker on this session yet, and ours leave no pause of their own.
fn it_gets_into_a_queue_of_ours(version: Version) {
    let redis = Redis::start();
    put(store(&redis.url()).as_mut(), &id("abc"), b"n|i:0;");
    let enough = AtomicBool::new(false);
    let script = version.script(&redis, &loops(60.0, 1, 0)).ini("redis.session.lock_retries", "-1").spawn();
    script.wait_for("starts");
    let ran = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut store = store(&redis.url());
                while !enough.load(Ordering::Relaxed) {
                    hold_and_increment(store.as_mut(), Duration::from_millis(2));
                }
            });
        }
        wait_until("they hand the lock to each other", LIMIT, || {
            redis
                .command(&["HGET", &format!("{}_FAIR", lock_key("abc")), "passed"])
                .parse::<u64>()
                .is_ok_and(|n| n > 20)
        });
        let since = Instant::now();
        script.say("go");
        let ran = script.finish();
        println!("phpredis {}: got into a queue of four after {:?}", version.name(), since.elapsed());
        enough.store(true, Ordering::Relaxed);
        ran
    });
    assert_eq!(ran.stdout, "starts 1 0", "{ran}");
}
