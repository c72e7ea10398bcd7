//! The race for one session: 8 workers increment one number, and hold the session for a while each time. Lost is what
//! is missing in the end although nobody was told.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::Mutex;
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::Effort;
use crate::contender::{Contender, Servers};
use crate::session_work::{connect, ping};

/// How long a session is held.
pub(crate) const HOLDS: [Duration; 3] =
    [Duration::from_micros(500), Duration::from_millis(2), Duration::from_millis(5)];

const WORKERS: usize = 8;

/// An increment is refused where PHP says so: `session_start()` is false, or a warning comes.
const SCRIPT: &str = r#"
[$times, $hold, $start] = [(int) getenv('TIMES'), (int) getenv('HOLD'), (float) getenv('START')];
$warned = false;
set_error_handler(function () use (&$warned) { return $warned = true; });
$waits = [];
$refused = 0;
while (microtime(true) < $start) usleep(200);
for ($i = 0; $i < $times; $i++) {
    $warned = false;
    // Each time: PHP forgets the id when a session does not start.
    session_id(getenv('ID'));
    $before = hrtime(true);
    $started = session_start();
    $waits[] = (hrtime(true) - $before) / 1e6;
    if ($started) {
        $n = $_SESSION['n'] ?? 0;
        usleep($hold);
        $_SESSION['n'] = $n + 1;
        session_write_close();
    }
    $refused += (int) (!$started || $warned);
}
fwrite(STDOUT, json_encode(['refused' => $refused, 'end' => microtime(true), 'waits' => $waits]) . "\n");
"#;

const READ: &str = r#"
session_id(getenv('ID'));
session_start(['read_and_close' => true]);
fwrite(STDOUT, (string) ($_SESSION['n'] ?? 0));
"#;

/// All contenders of the race with one hold, and the queues that are fair by construction.
pub(crate) fn run(contenders: &[Contender], servers: &Servers, hold: Duration, effort: Effort) -> Vec<Value> {
    let times = effort.of(200, 5);
    let racing = contenders.iter().filter(|contender| contender.races);
    let mut results: Vec<Value> =
        racing.map(|contender| race(contender, &servers.place(contender), hold, times)).collect();
    for (key, label, address) in [
        ("fair_queue", "the limit: a fair queue in memory", None),
        ("fair_queue_redis", "the limit: the same with two PINGs", Some(servers.redis.address())),
    ] {
        let start = Instant::now();
        let waits = fair_queue(hold, times, address.as_deref());
        let counts = Counts { increments: WORKERS * times, count: WORKERS * times, refused: 0 };
        results.push(row((key, label), hold, &counts, start.elapsed(), waits));
    }
    results
}

fn race(contender: &Contender, place: &str, hold: Duration, times: usize) -> Value {
    let id = format!("0race{}{}", hold.as_micros(), contender.key.replace('_', "-"));
    // Time enough for 8 PHPs to start.
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_millis(300);
    let start_worker = |_| {
        let (mut command, directory) = contender
            .script(SCRIPT, place)
            .env("ID", &id)
            .env("TIMES", times)
            .env("HOLD", hold.as_micros())
            .env("START", start.as_secs_f64())
            .command();
        let worker = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("start php");
        (worker, directory)
    };
    let workers: Vec<_> = (0..WORKERS).map(start_worker).collect();
    let (mut waits, mut refused, mut end) = (Vec::new(), 0, 0.0_f64);
    for (worker, _script) in workers {
        let output = worker.wait_with_output().expect("php ends");
        let told: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("a worker of {}: {error}", contender.label));
        refused += told["refused"].as_u64().unwrap();
        end = end.max(told["end"].as_f64().unwrap());
        waits.extend(told["waits"].as_array().unwrap().iter().filter_map(Value::as_f64));
    }
    let count = contender.script(READ, place).env("ID", &id).run().stdout;
    let count = count.parse().unwrap_or_else(|_| panic!("{} read {count:?}", contender.label));
    let took = Duration::from_secs_f64((end - start.as_secs_f64()).max(0.0));
    let counts = Counts { increments: WORKERS * times, count, refused: usize::try_from(refused).unwrap() };
    row((contender.key, contender.label), hold, &counts, took, waits)
}

struct Counts {
    increments: usize,
    /// The number in the session at the end.
    count: usize,
    refused: usize,
}

fn row(
    (key, label): (&str, &str),
    hold: Duration,
    counts: &Counts,
    took: Duration,
    mut waits: Vec<f64>,
) -> Value {
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    json!({
        "contender": key, "label": label, "hold_ms": hold.as_secs_f64() * 1000.0,
        "increments": counts.increments, "count": counts.count, "refused": counts.refused,
        // A refused one may be written all the same: a warning of the unlock, say.
        "lost": counts.increments.saturating_sub(counts.count + counts.refused),
        "seconds": took.as_secs_f64(), "wait_p50_ms": at(0.5), "wait_p99_ms": at(0.99), "wait_max_ms": at(1.0),
    })
}

/// The waits of threads that hold a lock which is handed over in the order of asking; with an address, each holder
/// also pings the server where a worker reads and where it writes.
fn fair_queue(hold: Duration, times: usize, address: Option<&str>) -> Vec<f64> {
    let queue = Queue::default();
    let work = || {
        let mut server = address.map(connect);
        let mut waits = Vec::with_capacity(times);
        for _ in 0..times {
            let start = Instant::now();
            queue.lock();
            server.iter_mut().for_each(ping);
            waits.push(start.elapsed().as_secs_f64() * 1000.0);
            std::thread::sleep(hold);
            server.iter_mut().for_each(ping);
            queue.unlock();
        }
        waits
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

/// A lock that goes to whoever has waited longest: the first in the queue has it.
#[derive(Default)]
struct Queue(Mutex<VecDeque<Thread>>);

impl Queue {
    fn lock(&self) {
        let me = std::thread::current();
        self.0.lock().unwrap().push_back(me.clone());
        while self.0.lock().unwrap().front().map(Thread::id) != Some(me.id()) {
            std::thread::park();
        }
    }

    fn unlock(&self) {
        let mut queue = self.0.lock().unwrap();
        queue.pop_front();
        queue.iter().take(1).for_each(Thread::unpark);
    }
}
