//! Beside php-memcached: records, locks, and a fair share of a session that both want.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloakroom::{Change, Store};
use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::php::Script;
use testbed::suite::{Case, case};
use testbed::wait_until;

use crate::worker::{EXCLUSIVE, LIFETIME, counted, id, increment, lock, put, read, soon};
use crate::{LIMIT, key, lock_key, store, waiters};

pub(crate) fn cases() -> Vec<Case> {
    let needs = &[Need::Memcached, Need::Php, Need::PhpMemcached, Need::PhpIgbinary];
    vec![
        case("php-memcached: records are shared", needs, records_are_shared),
        case("php-memcached: it waits for a lock of ours", needs, it_waits_for_a_lock_of_ours),
        case("php-memcached: its lock is waited for", needs, its_lock_is_waited_for),
        case("php-memcached: half and half lose no update and it hardly fails", needs, half_and_half),
        case("php-memcached: it gets into a queue of ours", needs, it_gets_into_a_queue_of_ours),
    ]
}

fn url(memcached: &Memcached) -> String {
    format!("memcached://{}", memcached.address())
}

/// A script with php-memcached's own handler at its defaults.
fn script(memcached: &Memcached, code: &str) -> Script {
    Script::new(code)
        .module("igbinary.so")
        .module("msgpack.so")
        .module("memcached.so")
        .ini("session.save_handler", "memcached")
        .ini("session.save_path", memcached.address())
        .ini("session.use_cookies", "0")
        .ini("session.use_only_cookies", "0")
        .ini("session.cache_limiter", "")
        .ini("memcached.sess_lock_expire", "30")
}

fn records_are_shared() {
    let memcached = Memcached::start();
    let mut store = store(&url(&memcached));
    script(&memcached, "session_id('abc'); session_start(); $_SESSION['who'] = 'php';").run().ok();
    let (record, hold) = lock(store.as_mut(), &id("abc"));
    assert_eq!(record.unwrap(), b"who|s:3:\"php\";");
    store.commit(&id("abc"), hold, Change::Write(b"who|s:2:\"we\";", LIFETIME), soon()).unwrap();
    let reads = script(&memcached, "session_id('abc'); session_start(); echo $_SESSION['who'];");
    assert_eq!(reads.run().ok(), "we");
    assert_eq!(memcached.keys(), [key("abc")]);
}

fn it_waits_for_a_lock_of_ours() {
    let memcached = Memcached::start();
    let mut store = store(&url(&memcached));
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    let code = "fwrite(STDOUT, 'starts '); session_id('abc'); session_start(); echo $_SESSION['n']; $_SESSION['n']++;";
    let waiting = script(&memcached, code).ini("memcached.sess_lock_retries", "1000").spawn();
    waiting.wait_for("starts");
    // The work of a request: a poller leaves no trace to wait for.
    std::thread::sleep(Duration::from_millis(100));
    store.commit(&id("abc"), hold, Change::Write(b"n|i:41;", LIFETIME), soon()).unwrap();
    assert_eq!(waiting.finish().ok(), "starts 41");
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:42;");
}

fn its_lock_is_waited_for() {
    let memcached = Memcached::start();
    let code =
        "session_id('abc'); session_start(); fwrite(STDOUT, 'holding'); fgets(STDIN); $_SESSION['n'] = 41;";
    let holding = script(&memcached, code).spawn();
    holding.wait_for("holding");
    std::thread::scope(|scope| {
        let mut store = store(&url(&memcached));
        let next = scope.spawn(move || increment(store.as_mut(), &id("abc"), EXCLUSIVE).unwrap());
        wait_until("it waits", LIMIT, || waiters(&memcached, "abc") == 1);
        holding.say("go");
        assert_eq!(next.join().unwrap(), 42);
    });
    holding.finish().ok();
    assert_eq!(memcached.keys(), [key("abc")]);
}

/// Adds one again and again; prints how often, and how often that failed. Each worker rests a millisecond between two
/// sessions, as a request has more to do.
fn loops(seconds: f64, times: u32, hold: Duration) -> String {
    let hold = hold.as_micros();
    format!(
        "$failed = 0; $done = 0; $bad = false;
        set_error_handler(function ($no, $text) use (&$bad) {{ $bad = true; return true; }});
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

fn hold_and_increment(store: &mut dyn Store, hold: Duration) {
    let (record, lease) = lock(store, &id("abc"));
    let count = record.map_or(0, |record| counted(&record)) + 1;
    std::thread::sleep(hold);
    let bytes = format!("n|i:{count};");
    store.commit(&id("abc"), lease, Change::Write(bytes.as_bytes(), LIFETIME), soon()).unwrap();
}

/// Four of each at one session for a while; how often it and ours had it, and how often it failed.
fn mixed(memcached: &Memcached, seconds: f64, hold: Duration) -> [u64; 3] {
    let scripts: Vec<_> =
        (0..4).map(|_| script(memcached, &loops(seconds, u32::MAX, hold)).spawn()).collect();
    for script in &scripts {
        script.wait_for("starts");
    }
    for script in &scripts {
        script.say("go");
    }
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let ours = std::thread::scope(|scope| {
        let work = || {
            let mut store = store(&url(memcached));
            let mut done = 0;
            while Instant::now() < end {
                hold_and_increment(store.as_mut(), hold);
                std::thread::sleep(Duration::from_millis(1));
                done += 1;
            }
            done
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    let (mut native, mut failed) = (0, 0);
    for script in scripts {
        let ran = script.finish();
        let numbers = ran.stdout.trim_start_matches("starts ");
        let (done, bad) = numbers.split_once(' ').unwrap_or_else(|| panic!("{ran}"));
        native += done.parse::<u64>().unwrap();
        failed += bad.parse::<u64>().unwrap();
    }
    println!("{hold:?} held: native {native}, {failed} failed; ours {ours}");
    [native, failed, ours]
}

/// Polling is a lottery: what is promised holds over some time, and a busy machine gets more of it.
fn half_and_half() {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap();
    for hold in [Duration::from_micros(500), Duration::from_millis(20)] {
        let mut sum = [0; 3];
        for round in 1.. {
            let memcached = Memcached::start();
            let [native, failed, ours] = mixed(&memcached, 3.0, hold);
            // However unfair a round, no update is lost in it.
            assert_eq!(memcached.get(&key("abc")).unwrap(), format!("n|i:{};", native + ours).into_bytes());
            assert_eq!(memcached.get(&lock_key("abc")), None);
            for (sum, more) in sum.iter_mut().zip([native, failed, ours]) {
                *sum += more;
            }
            let [native, failed, ours] = sum;
            // Half of the turns would be fair to each half: a quarter of that is due to it.
            if native.min(ours) >= (native + ours) / 2 / 4 && failed * 10 <= native {
                break;
            }
            assert!(round < 6, "{hold:?} held: {native} native turns, {failed} more failed, {ours} of ours");
        }
    }
}

/// Nobody has seen a native worker on this session yet, and its looks hardly ever find the lock free by chance.
fn it_gets_into_a_queue_of_ours() {
    let memcached = Memcached::start();
    put(store(&url(&memcached)).as_mut(), &id("abc"), b"n|i:0;");
    let enough = AtomicBool::new(false);
    let native = script(&memcached, &loops(60.0, 1, Duration::ZERO)).spawn();
    native.wait_for("starts");
    let ran = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut store = store(&url(&memcached));
                while !enough.load(Ordering::Relaxed) {
                    hold_and_increment(store.as_mut(), Duration::from_millis(300));
                }
            });
        }
        wait_until("they wait for each other", LIMIT, || waiters(&memcached, "abc") > 2);
        native.say("go");
        let ran = native.finish();
        enough.store(true, Ordering::Relaxed);
        ran
    });
    let failed = ran.stdout.strip_prefix("starts 1 ").and_then(|failed| failed.parse::<u32>().ok());
    assert!(failed.is_some_and(|failed| failed <= 8), "{ran}");
}
