//! A request's session work, alone: `session_start()`, a change, `session_write_close()`, again and again in one
//! process, timed by PHP itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use nix::sys::prctl::set_timerslack;
use serde_json::{Value, json};
use testbed::TempDir;
use testbed::proxy::Proxy;

use crate::Effort;
use crate::contender::{Contender, Engine, Servers};
use crate::cores;

/// Reads how often, does it, and answers nanoseconds and microseconds of CPU. `fwrite` and not `echo`: to PHP, no
/// output has begun then.
const SCRIPT: &str = r#"
function cpu(): int {
    $usage = getrusage();
    return ($usage['ru_utime.tv_sec'] + $usage['ru_stime.tv_sec']) * 1000000
        + $usage['ru_utime.tv_usec'] + $usage['ru_stime.tv_usec'];
}
session_id('bench0' . bin2hex(random_bytes(12)));
session_start();
$_SESSION = ['n' => 0, 'user' => str_repeat('x', 1000)];
session_write_close();
$all = 0;
while (($times = (int) fgets(STDIN)) > 0) {
    $cpu = cpu();
    $start = hrtime(true);
    for ($i = 0; $i < $times; $i++) {
        session_start();
        $_SESSION['n']++;
        session_write_close();
    }
    $time = hrtime(true) - $start;
    $all += $times;
    $kept = $_SESSION['n'] === $all ? 'ok' : "lost: $_SESSION[n] of $all";
    fwrite(STDOUT, $time . ' ' . (cpu() - $cpu) . " $kept\n");
}
"#;

/// How contender and server are placed.
#[derive(Debug, Clone, Copy)]
enum Regime {
    SameCore,
    DifferentCores,
    Network,
}

impl Regime {
    fn key(self) -> &'static str {
        match self {
            Regime::SameCore => "same_core",
            Regime::DifferentCores => "different_cores",
            Regime::Network => "network",
        }
    }
}

/// Awaited exchanges and connections of a request, counted on the wire.
pub(crate) fn exchanges(contenders: &[Contender], servers: &Servers) -> Vec<Value> {
    const TIMES: usize = 50;
    let count = |contender: &Contender| {
        let proxy = Proxy::to(servers.place(contender));
        let mut php = Php::start(contender, &proxy.address());
        php.run(5);
        proxy.reset_counts();
        php.run(TIMES);
        let per_request = |count: usize| count as f64 / TIMES as f64;
        json!({
            "contender": contender.key, "label": contender.label,
            "exchanges": per_request(proxy.exchanges()), "connections": per_request(proxy.connections()),
        })
    };
    contenders.iter().filter(|contender| contender.engine != Engine::Files).map(count).collect()
}

/// On the same core as the server, and on another one.
pub(crate) fn on_cores(contenders: &[Contender], servers: &Servers, effort: Effort) -> Vec<Value> {
    let (first, second) = cores::two();
    let mut runners = vec![Runner::pings(&servers.redis.address())];
    runners.extend(contenders.iter().map(|contender| Runner::php(contender, &servers.place(contender))));
    let mut regimes = vec![(Regime::SameCore, first)];
    if first != second {
        regimes.push((Regime::DifferentCores, second));
    }
    servers.pids().into_iter().for_each(|pid| cores::pin(pid, first));
    let mut results = Vec::new();
    for (regime, core) in regimes {
        runners.iter().for_each(|runner| cores::pin(runner.pid(), core));
        results.extend(rounds(&mut runners, regime, effort.of((5, 10), (1, 2)), effort.of(100, 10)));
    }
    let everything = servers.pids().into_iter().chain([0]);
    everything.for_each(|pid| cores::unpin(pid, (first, second)));
    results
}

/// Behind a proxy that delays each way by a quarter of a millisecond; server and proxy on one core, PHP on the other.
pub(crate) fn over_network(contenders: &[Contender], servers: &Servers, effort: Effort) -> Vec<Value> {
    let (first, second) = cores::two();
    // Threads inherit from the one that starts them their core, and how exactly the kernel ends their sleep.
    let far = |address: String| {
        let start = move || {
            cores::pin(0, first);
            set_timerslack(1).unwrap();
            let proxy = Proxy::to(address);
            proxy.delay(Duration::from_micros(250), Duration::ZERO);
            proxy
        };
        std::thread::spawn(start).join().unwrap()
    };
    let redis = far(servers.redis.address());
    let memcached = servers.memcached.as_ref().map(|memcached| far(memcached.address()));
    let address = |contender: &Contender| match (contender.engine, &memcached) {
        (Engine::Memcached, Some(memcached)) => memcached.address(),
        _ => redis.address(),
    };
    let mut runners = vec![Runner::pings(&redis.address())];
    let remote = contenders.iter().filter(|contender| contender.engine != Engine::Files);
    runners.extend(remote.map(|contender| Runner::php(contender, &address(contender))));
    servers.pids().into_iter().for_each(|pid| cores::pin(pid, first));
    runners.iter().for_each(|runner| cores::pin(runner.pid(), second));
    let results = rounds(&mut runners, Regime::Network, effort.of((5, 4), (1, 2)), effort.of(25, 4));
    let everything = servers.pids().into_iter().chain([0]);
    everything.for_each(|pid| cores::unpin(pid, (first, second)));
    results
}

/// Lets each run a slice in turn. The best round is the one with the lowest median of its slices.
fn rounds(
    runners: &mut [Runner],
    regime: Regime,
    (rounds, slices): (usize, usize),
    iterations: usize,
) -> Vec<Value> {
    for runner in runners.iter_mut() {
        runner.run(iterations.min(10));
    }
    let mut best = vec![f64::INFINITY; runners.len()];
    let mut all = vec![Vec::new(); runners.len()];
    let mut cpus = vec![0.0; runners.len()];
    for _ in 0..rounds {
        let mut times = vec![Vec::new(); runners.len()];
        for _ in 0..slices {
            for (index, runner) in runners.iter_mut().enumerate() {
                let (time, cpu) = runner.run(iterations);
                times[index].push(time.as_secs_f64() * 1e6 / iterations as f64);
                cpus[index] += cpu.as_secs_f64() * 1e6 / (iterations * slices * rounds) as f64;
            }
        }
        for (index, mut times) in times.into_iter().enumerate() {
            best[index] = median(&mut times).min(best[index]);
            all[index].extend(times);
        }
    }
    let row = |(index, runner): (usize, &Runner)| {
        json!({
            "regime": regime.key(), "contender": runner.key(), "label": runner.label(), "best_us": best[index],
            "median_us": median(&mut all[index]), "client_cpu_us": cpus[index],
        })
    };
    runners.iter().enumerate().map(row).collect()
}

pub(crate) fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// What runs slices.
enum Runner {
    /// Two PINGs instead of two exchanges with work in them: less is not possible.
    Pings(TcpStream),
    Php(Box<Php>),
}

impl Runner {
    fn pings(address: &str) -> Runner {
        Runner::Pings(connect(address))
    }

    fn php(contender: &Contender, place: &str) -> Runner {
        Runner::Php(Box::new(Php::start(contender, place)))
    }

    fn run(&mut self, iterations: usize) -> (Duration, Duration) {
        match self {
            Runner::Php(php) => php.run(iterations),
            Runner::Pings(stream) => {
                let cpu = cores::cpu_of_thread();
                let start = Instant::now();
                for _ in 0..2 * iterations {
                    ping(stream);
                }
                (start.elapsed(), cores::cpu_of_thread() - cpu)
            }
        }
    }

    /// 0 is the calling thread, for [`cores::pin`].
    fn pid(&self) -> i32 {
        match self {
            Runner::Pings(_) => 0,
            Runner::Php(php) => php.child.id().cast_signed(),
        }
    }

    fn key(&self) -> &'static str {
        match self {
            Runner::Pings(_) => "two_pings",
            Runner::Php(php) => php.contender.key,
        }
    }

    fn label(&self) -> &'static str {
        match self {
            Runner::Pings(_) => "the limit: two PINGs",
            Runner::Php(php) => php.contender.label,
        }
    }
}

pub(crate) fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"));
    stream.set_nodelay(true).unwrap();
    stream
}

pub(crate) fn ping(stream: &mut TcpStream) {
    let mut answer = [0; 7];
    stream.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
}

/// A PHP process that runs slices on demand; it ends when its input does.
struct Php {
    contender: Contender,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _script: TempDir,
}

impl Php {
    fn start(contender: &Contender, place: &str) -> Php {
        let (mut command, directory) = contender.script(SCRIPT, place).command();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start php");
        let input = child.stdin.take().expect("it was piped");
        let output = BufReader::new(child.stdout.take().expect("it was piped"));
        Php { contender: *contender, child, input, output, _script: directory }
    }

    fn run(&mut self, iterations: usize) -> (Duration, Duration) {
        let label = self.contender.label;
        let mut line = String::new();
        let _ = writeln!(self.input, "{iterations}");
        let _ = self.output.read_line(&mut line);
        let mut words = line.trim_end().splitn(3, ' ');
        let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or_default();
        let (time, cpu) = (Duration::from_nanos(number()), Duration::from_micros(number()));
        assert_eq!(words.next(), Some("ok"), "{label} answered {line:?}; what PHP complained of is above");
        (time, cpu)
    }
}

impl Drop for Php {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
