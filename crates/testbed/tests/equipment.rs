//! The test equipment does what the tests take for granted.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket};
use testbed::cluster::Cluster;
use testbed::fleet::Plan;
use testbed::http::Browser;
use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::php::Script;
use testbed::process::Process;
use testbed::proxy::{Ending, Proxy};
use testbed::redis::Redis;
use testbed::sentinel::Replicated;
use testbed::suite::{case, run};
use testbed::twemproxy::Twemproxy;
use testbed::{TempDir, free_port, wait_until};

const SOON: Duration = Duration::from_secs(60);

fn main() {
    if std::env::var_os(VICTIM).is_some() {
        victim();
    }
    run(vec![
        case("a_dropped_process_is_gone_with_its_group", &[], dropped_process),
        case("a_killed_test_takes_its_processes_and_directories_with_it", &[], killed_test),
        case("a_frozen_process_goes_on_when_thawed", &[], frozen_process),
        case("a_free_port_stays_ours_while_nobody_listens_on_it", &[], kept_port),
        case("a_script_runs_without_the_machines_settings", &[Need::Php], script_settings),
        case("a_script_gets_every_character_of_a_setting", &[Need::Php], script_quoting),
        case("a_script_can_be_led_step_by_step", &[Need::Php], script_steps),
        case("redis_restarts_on_its_port_with_or_without_its_data", &[Need::Redis], redis_restart),
        case("redis_asks_for_the_password_it_was_given", &[Need::Redis], redis_password),
        case("redis_listens_on_a_unix_socket", &[Need::Redis], redis_unix),
        case("redis_speaks_tls_with_a_certificate_of_its_authority", &[Need::Redis], redis_tls),
        case(
            "twemproxy_passes_on_some_commands_and_hangs_up_on_others",
            &[Need::Redis, Need::Twemproxy],
            twemproxy,
        ),
        case("a_sentinel_makes_the_replica_the_primary", &[Need::Redis], sentinel_fails_over),
        case("a_cluster_moves_a_slot_with_its_keys_and_back", &[Need::Redis], cluster_moves_slots),
        case("a_replica_takes_over_the_slots_of_a_dead_master", &[Need::Redis], cluster_fails_over),
        case("a_cluster_speaks_tls_and_asks_for_its_password", &[Need::Redis], cluster_tls),
        case("memcached_is_looked_into_however_it_is_reached", &[Need::MemcachedSasl], memcached_reached),
        case("memcached_restarts_empty_on_its_port", &[Need::Memcached], memcached),
        case("the_proxy_counts_awaited_exchanges_and_records_them", &[], proxy_counts),
        case("the_proxy_delays_both_directions_and_keeps_the_order", &[], proxy_delay),
        case("the_proxy_cuts_after_exactly_as_many_bytes", &[], proxy_cut_bytes),
        case("the_proxy_cuts_before_a_request_or_before_its_reply", &[], proxy_cut_exchange),
        case("the_proxy_refuses_and_accepts_again_on_its_port", &[], proxy_refuse),
        case("the_proxy_stalls_and_goes_on", &[], proxy_stall),
        case("the_proxy_holds_back_replies_alone", &[Need::Redis], proxy_hold_replies),
        case("the_proxy_ends_open_connections_as_it_was_told", &[], proxy_endings),
        case("the_browser_reads_chunks_and_keeps_cookies", &[], browser),
        case("a_fleet_answers_in_turn_each_with_its_settings", &[Need::PhpFpm, Need::Nginx], fleet),
    ])
}

const VICTIM: &str = "TESTBED_VICTIM";

fn shell(script: &str) -> (Process, TempDir) {
    let directory = TempDir::new();
    (Process::start(Command::new("sh").args(["-c", script]), directory.path(), "shell"), directory)
}

fn alive(pid: &str) -> bool {
    // A zombie is no longer alive, though its entry is there.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn printed(process: &Process, lines: usize) -> Vec<String> {
    wait_until("the shell prints", SOON, || process.stdout().lines().count() >= lines);
    process.stdout().lines().map(str::to_owned).collect()
}

fn dropped_process() {
    let (process, directory) = shell("sleep 1000 & echo $!; echo $$; wait");
    let pids = printed(&process, 2);
    assert!(pids.iter().all(|pid| alive(pid)), "{pids:?}");
    drop(process);
    wait_until("both are gone", SOON, || !pids.iter().any(|pid| alive(pid)));
    let path = directory.path().to_owned();
    drop(directory);
    assert!(!path.exists());
}

/// What this program does as the victim of the next case.
fn victim() -> ! {
    let (process, directory) = shell("echo $$; sleep 1000");
    // Neither what is gone by then, nor how often it went, may matter.
    for _ in 0..100 {
        let (gone, _gone_directory) = shell("exit");
        gone.kill();
        gone.kill();
    }
    println!("{}\n{}", process.pid(), directory.path().display());
    std::thread::park();
    unreachable!("it is killed");
}

fn killed_test() {
    let directory = TempDir::new();
    let myself = std::env::current_exe().unwrap();
    let victim = Process::start(Command::new(myself).env(VICTIM, "1"), directory.path(), "victim");
    let lines = printed(&victim, 2);
    let (pid, path) = (lines[0].clone(), PathBuf::from(&lines[1]));
    assert!(alive(&pid) && path.exists());
    victim.kill();
    wait_until("its process and directory are gone", SOON, || !alive(&pid) && !path.exists());
}

fn frozen_process() {
    let (process, _directory) = shell("while read -r line; do echo $line; done");
    process.say("one");
    printed(&process, 1);
    process.freeze();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
    wait_until("it is stopped", SOON, || state().contains(") T "));
    process.say("two");
    assert_eq!(process.stdout(), "one\n");
    process.thaw();
    assert_eq!(printed(&process, 2), ["one", "two"]);
}

fn kept_port() {
    let port = free_port();
    // A process that another case is just starting may hold a copy of the listener until it runs.
    let refused = || {
        wait_until("nobody listens", SOON, || {
            TcpStream::connect(("127.0.0.1", port))
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        });
    };
    refused();
    for _ in 0..2 {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        drop(listener);
        refused();
    }
    // One that does not share, as the kernel's own choice of a port: it is taken.
    let other = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    let taken = bind(other.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port));
    assert_eq!(taken, Err(Errno::EADDRINUSE));
}

fn script_settings() {
    let ran = Script::new("echo php_ini_loaded_file() ?: 'none'; echo $nothing; exit(3);").run();
    assert_eq!(ran.stdout, "none");
    assert!(ran.stderr.contains("Undefined variable $nothing"), "{ran}");
    assert_eq!(ran.status.code(), Some(3));
    assert_eq!(Script::new("echo getenv('COLOUR');").env("COLOUR", "red").run().ok(), "red");
}

fn script_quoting() {
    for value in ["tcp://h:1?a=b&c[]=d", "1", "a;b", "a\"b'c$d\\e", "", "{x}~!|&^()", "${HOME}", "it's"] {
        let shown = Script::new("echo ini_get('session.save_path');").ini("session.save_path", value);
        assert_eq!(shown.run().ok(), value);
    }
}

fn script_steps() {
    let script = Script::new("echo 'ready'; fgets(STDIN); echo ' done';").spawn();
    script.wait_for("ready");
    assert_eq!(script.stdout(), "ready");
    script.say("go");
    assert_eq!(script.finish().ok(), "ready done");
}

fn redis_restart() {
    let redis = Redis::start();
    let port = redis.port();
    assert_eq!(redis.command(&["SET", "k", "v"]), "OK");
    redis.restart_with_data();
    assert_eq!((redis.command(&["GET", "k"]).as_str(), redis.port()), ("v", port));
    redis.restart();
    assert_eq!((redis.command(&["GET", "k"]).as_str(), redis.port()), ("(nil)", port));
}

fn redis_password() {
    let redis = Redis::with(&["--requirepass", "pw"]);
    assert_eq!(redis.command(&["PING"]), "PONG");
    let mut stream = TcpStream::connect(redis.address()).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    assert!(received(&mut stream, 7).starts_with(b"-NOAUTH"));
}

fn redis_unix() {
    let redis = Redis::unix();
    let mut stream = UnixStream::connect(redis.url().strip_prefix("unix://").unwrap()).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    let mut pong = [0; 7];
    stream.read_exact(&mut pong).unwrap();
    assert_eq!(&pong, b"+PONG\r\n");
}

fn redis_tls() {
    let redis = Redis::tls();
    let other = Redis::tls();
    let verified = |authority: &Path| {
        Command::new("openssl")
            .args(["s_client", "-verify_return_error", "-verify_hostname", "localhost", "-connect"])
            .arg(redis.address())
            .arg("-CAfile")
            .arg(authority)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(verified(redis.authority()));
    assert!(!verified(other.authority()));
    assert_eq!(redis.command(&["PING"]), "PONG");
}

fn twemproxy() {
    let redis = Redis::start();
    let twemproxy = Twemproxy::before(&[&redis]);
    let mut stream = TcpStream::connect(twemproxy.address()).unwrap();
    stream.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n").unwrap();
    assert_eq!(received(&mut stream, 5), b"+OK\r\n");
    assert_eq!(redis.command(&["GET", "k"]), "v");
    stream.write_all(b"*1\r\n$4\r\nINFO\r\n").unwrap();
    assert_eq!(received(&mut stream, 1), b"");
}

fn cluster_moves_slots() {
    let cluster = Cluster::start();
    let slot = cluster.slot("foo");
    let (from, to) = (cluster.owner(slot), cluster.other_than_owner_of("foo"));
    assert_eq!(from.command(&["SET", "foo", "1"]), "OK");
    assert_eq!(to.command(&["GET", "foo"]), format!("MOVED {slot} {}", from.address()));
    let migration = cluster.begin(slot, to);
    assert_eq!(from.command(&["GET", "{foo}absent"]), format!("ASK {slot} {}", to.address()));
    assert_eq!(from.command(&["GET", "foo"]), "1");
    migration.carry("foo");
    assert_eq!(from.command(&["GET", "foo"]), format!("ASK {slot} {}", to.address()));
    migration.finish();
    assert_eq!(to.command(&["GET", "foo"]), "1");
    assert_eq!(from.command(&["GET", "foo"]), format!("MOVED {slot} {}", to.address()));
    cluster.migrate(slot, from);
    assert_eq!((from.command(&["GET", "foo"]).as_str(), cluster.owner(slot).id()), ("1", from.id()));
}

fn cluster_fails_over() {
    let cluster = Cluster::with_replicas();
    let slot = cluster.slot("foo");
    let (master, replica) = (cluster.owner(slot), cluster.replica_of(cluster.owner(slot)));
    assert_eq!(master.command(&["SET", "foo", "1"]), "OK");
    assert_eq!(replica.command(&["GET", "foo"]), format!("MOVED {slot} {}", master.address()));
    assert!(replica.command(&["ROLE"]).contains("connected"));
    cluster.node_timeout(Duration::from_millis(500));
    master.kill();
    wait_until("the replica is the master", SOON, || replica.command(&["GET", "foo"]) == "1");
    // From now on a node that stands still is not dead: nobody takes over from the new master.
    cluster.node_timeout(Duration::from_secs(60));
    master.restart();
    wait_until("the dead one is the replica", SOON, || !master.is_master());
    cluster.settled();
    assert_eq!(cluster.owner(slot).id(), replica.id());
}

fn cluster_tls() {
    let cluster = Cluster::tls(&["--requirepass", "pw", "--masterauth", "pw"]);
    let (slot, to) = (cluster.slot("foo"), cluster.other_than_owner_of("foo"));
    assert_eq!(cluster.owner(slot).command(&["SET", "foo", "1"]), "OK");
    cluster.migrate(slot, to);
    assert_eq!(to.command(&["GET", "foo"]), "1");
    let answer = |words: &[&str]| {
        let ran = Command::new("redis-cli")
            .args(["--tls", "--no-auth-warning", "-h", "localhost", "-p", &to.port().to_string(), "--cacert"])
            .arg(cluster.authority())
            .args(words)
            .output();
        String::from_utf8(ran.unwrap().stdout).unwrap()
    };
    assert_eq!(answer(&["-a", "pw", "GET", "foo"]), "1\n");
    // The ports that it announces are those with TLS.
    assert!(answer(&["-a", "pw", "CLUSTER", "SLOTS"]).contains(&to.port().to_string()));
    assert!(answer(&["GET", "foo"]).starts_with("NOAUTH"));
}

fn memcached_reached() {
    for memcached in
        [Memcached::start(), Memcached::sasl(), Memcached::ascii_auth(), Memcached::tls(), Memcached::unix()]
    {
        let reached = memcached.url();
        assert_eq!(
            (memcached.get("k"), memcached.delete("k"), memcached.items()),
            (None, false, 0),
            "{reached}"
        );
        memcached.set("k", "a\r\nb");
        assert_eq!((memcached.get("k"), memcached.items()), (Some(b"a\r\nb".to_vec()), 1), "{reached}");
        assert!(memcached.delete("k"), "{reached}");
        memcached.restart();
        assert_eq!(memcached.items(), 0, "{reached}");
    }
}

fn memcached() {
    let memcached = Memcached::start();
    let ask = |command: &str, length| {
        let mut stream = TcpStream::connect(memcached.address()).unwrap();
        stream.write_all(command.as_bytes()).unwrap();
        String::from_utf8(received(&mut stream, length)).unwrap()
    };
    assert_eq!(ask("set k 0 0 1\r\nv\r\n", 8), "STORED\r\n");
    assert_eq!(ask("get k\r\n", 20), "VALUE k 0 1\r\nv\r\nEND\r\n"[..20]);
    memcached.restart();
    assert_eq!(ask("get k\r\n", 5), "END\r\n");
}

/// A server that answers each byte with the same byte in upper case; it ends with the test.
fn shouting() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 100];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    stream.write_all(&buffer[..length].to_ascii_uppercase()).unwrap();
                }
            });
        }
    });
    address
}

/// Up to `length` bytes: fewer where the other side ends before.
fn received(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut bytes = Vec::new();
    let mut byte = [0];
    while bytes.len() < length && stream.read_exact(&mut byte).is_ok() {
        bytes.push(byte[0]);
    }
    bytes
}

fn asked(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).unwrap();
    String::from_utf8(received(stream, text.len())).unwrap()
}

fn proxy_counts() {
    let proxy = Proxy::to(shouting());
    let mut first = TcpStream::connect(proxy.address()).unwrap();
    let mut second = TcpStream::connect(proxy.address()).unwrap();
    assert_eq!(asked(&mut first, "one"), "ONE");
    assert_eq!(asked(&mut second, "two"), "TWO");
    assert_eq!(asked(&mut first, "three"), "THREE");
    assert_eq!((proxy.exchanges(), proxy.connections(), proxy.open_connections()), (3, 2, 2));
    assert_eq!(proxy.requests(), [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
    let last = proxy.recorded().pop().unwrap();
    assert_eq!((last.connection, last.reply.as_slice()), (0, &b"THREE"[..]));
    proxy.reset_counts();
    assert_eq!((proxy.exchanges(), proxy.connections(), proxy.requests().len()), (0, 0, 0));
    // What is sent in two pieces without an answer in between is waited for once.
    proxy.stall(true);
    first.write_all(b"fo").unwrap();
    wait_until("the first piece is there", SOON, || proxy.requests() == [b"fo"]);
    first.write_all(b"ur").unwrap();
    wait_until("the second piece is there", SOON, || proxy.requests().concat() == b"four");
    proxy.stall(false);
    assert_eq!(received(&mut first, 4), b"FOUR");
    assert_eq!(proxy.exchanges(), 1);
    drop(first);
    wait_until("the proxy sees that the first has left", SOON, || proxy.open_connections() == 1);
}

fn proxy_delay() {
    let proxy = Proxy::to(shouting());
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    let (delay, jitter) = (Duration::from_millis(20), Duration::from_millis(10));
    proxy.delay(delay, jitter);
    let start = Instant::now();
    assert_eq!(asked(&mut stream, "slow"), "SLOW");
    assert!(start.elapsed() >= 2 * delay, "{:?}", start.elapsed());
    for byte in b"abcdefghij" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(received(&mut stream, 10), b"ABCDEFGHIJ");
}

fn proxy_cut_bytes() {
    let proxy = Proxy::to(shouting());
    let connect = || TcpStream::connect(proxy.address()).unwrap();
    let mut stream = connect();
    assert_eq!(asked(&mut stream, "before"), "BEFORE");
    proxy.cut_after_reply(4);
    stream.write_all(b"abcdef").unwrap();
    assert_eq!(received(&mut stream, 6), b"ABCD");
    // It happened once: the next connection lives.
    assert!(!proxy.cut_pending());
    let mut stream = connect();
    assert_eq!(asked(&mut stream, "after"), "AFTER");
    // The rest of a request never reaches the server.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::to(listener.local_addr().unwrap().to_string());
    proxy.ending(Ending::Close);
    proxy.cut_after_request(3);
    TcpStream::connect(proxy.address()).unwrap().write_all(b"abcdef").unwrap();
    let mut arrived = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut arrived).unwrap();
    assert_eq!(arrived, b"abc");
}

fn proxy_cut_exchange() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.address());
    for (nth, cut_reply, counted) in [(1, false, "0"), (1, true, "1"), (2, false, "2"), (2, true, "4")] {
        match cut_reply {
            false => proxy.cut_at_request(nth),
            true => proxy.cut_at_reply(nth),
        }
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        for _ in 1..nth {
            stream.write_all(b"INCR n\r\n").unwrap();
            assert_eq!(received(&mut stream, 4).first(), Some(&b':'));
        }
        stream.write_all(b"INCR n\r\n").unwrap();
        assert_eq!(received(&mut stream, 1), b"");
        assert_eq!(redis.command(&["INCRBY", "n", "0"]), counted);
    }
}

fn proxy_refuse() {
    let proxy = Proxy::to(shouting());
    let connect = || TcpStream::connect(proxy.address());
    let mut open = connect().unwrap();
    assert_eq!(asked(&mut open, "one"), "ONE");
    proxy.refuse(true);
    assert_eq!(connect().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(asked(&mut open, "two"), "TWO");
    proxy.refuse(false);
    assert_eq!(asked(&mut connect().unwrap(), "three"), "THREE");
}

fn proxy_stall() {
    let proxy = Proxy::to(shouting());
    proxy.stall(true);
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.write_all(b"one").unwrap();
    wait_until("the proxy has the request", SOON, || proxy.exchanges() == 1);
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(stream.read(&mut [0; 10]).unwrap_err().kind(), ErrorKind::WouldBlock);
    proxy.stall(false);
    assert_eq!(received(&mut stream, 3), b"ONE");
    // What a cut finds held back is lost.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::to(listener.local_addr().unwrap().to_string());
    proxy.stall(true);
    TcpStream::connect(proxy.address()).unwrap().write_all(b"one").unwrap();
    wait_until("the proxy has the request", SOON, || proxy.exchanges() == 1);
    proxy.cut_now();
    proxy.stall(false);
    assert_eq!(received(&mut listener.accept().unwrap().0, 3), b"");
}

fn proxy_hold_replies() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.address());
    proxy.hold_replies(true);
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.write_all(b"INCR n\r\n").unwrap();
    wait_until("it is done", SOON, || redis.command(&["INCRBY", "n", "0"]) == "1");
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(stream.read(&mut [0; 10]).unwrap_err().kind(), ErrorKind::WouldBlock);
    proxy.hold_replies(false);
    assert_eq!(received(&mut stream, 4), b":1\r\n");
}

fn proxy_endings() {
    let proxy = Proxy::to(shouting());
    for (ending, seen) in [(Ending::Reset, Some(ErrorKind::ConnectionReset)), (Ending::Close, None)] {
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(asked(&mut stream, "one"), "ONE");
        proxy.ending(ending);
        proxy.cut_now();
        // At once, whatever the proxy's threads are doing.
        stream.set_nonblocking(true).unwrap();
        let read = stream.read(&mut [0; 10]);
        assert_eq!(read.map(|read| assert_eq!(read, 0)).err().map(|error| error.kind()), seen);
    }
}

fn browser() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let serve = move |answer: &str| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.extend(received(&mut stream, 1));
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    };
    let answers = [
        "HTTP/1.1 201 Created\r\nSet-Cookie: a=1; path=/\r\nSet-Cookie: b=2\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nset-cookie: a=deleted; Max-Age=0\r\nContent-Length: 2\r\n\r\nok and no more",
        "HTTP/1.0 200 OK\r\n\r\nto the end",
    ];
    let server = std::thread::spawn(move || answers.map(serve));
    let mut browser = Browser::at(&url).header("Accept", "text/plain");
    let first = browser.get("/one");
    assert_eq!(
        (first.status, first.body.as_str(), first.header("transfer-encoding")),
        (201, "abcde", Some("chunked"))
    );
    assert_eq!(browser.post("/two", "body").body, "ok");
    assert_eq!((browser.cookie("a"), browser.cookie("b")), (None, Some("2")));
    assert_eq!(browser.get("/three").body, "to the end");
    let [one, two, three] = server.join().unwrap();
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let start = format!("Host: {host}\r\nConnection: close\r\nAccept: text/plain\r\n");
    assert_eq!(one, format!("GET /one HTTP/1.1\r\n{start}\r\n"));
    assert_eq!(two, format!("POST /two HTTP/1.1\r\n{start}Cookie: a=1; b=2\r\nContent-Length: 4\r\n\r\n"));
    assert_eq!(three, format!("GET /three HTTP/1.1\r\n{start}Cookie: b=2\r\n\r\n"));
}

fn fleet() {
    let pages = TempDir::new();
    pages.write(
        "index.php",
        "<?php echo join(' ', [getenv('BACKEND'), ini_get('precision'), ini_get('session.name'),
        dirname(sys_get_temp_dir()) === dirname(__DIR__) . '/' . getenv('BACKEND') ? 'own' : sys_get_temp_dir(),
        $_SERVER['REQUEST_METHOD'], file_get_contents('php://input'), php_ini_loaded_file() ?: 'none']);",
    );
    let fleet = Plan::serving(pages.path())
        .servers(2)
        .ini("precision", 5)
        .ini("session.name", "x=y")
        .ini_of(1, "precision", 7)
        .start();
    let mut browser = Browser::at(&fleet.url());
    assert_eq!(browser.get("/").body, "app1 5 x=y own GET  none");
    assert_eq!(browser.post("/index.php?a=b", "hello").body, "app2 7 x=y own POST hello none");
    fleet.kill(0);
    assert!((0..3).all(|_| browser.get("/").body.starts_with("app2")));
    fleet.restart(0);
    wait_until("app1 is taken back", SOON, || browser.get("/").body.starts_with("app1"));
}

fn sentinel_fails_over() {
    let fails_over = |replicated: Replicated, times: usize| {
        let switches = replicated.sentinel().switches();
        for time in 1..=times {
            let first = replicated.primary().port();
            let value = time.to_string();
            assert_eq!(replicated.primary().command(&["SET", "k", &value]), "OK");
            wait_until("it is replicated", SOON, || replicated.replica().command(&["GET", "k"]) == value);
            replicated.kill_primary();
            replicated.await_failover(first);
            assert_ne!(replicated.primary().port(), first);
            assert_eq!(replicated.primary().command(&["GET", "k"]), value);
            switches.recv_timeout(SOON).unwrap();
            replicated.restore();
            assert_eq!(replicated.replica().port(), first);
            assert_eq!(replicated.replica().command(&["GET", "k"]), value);
            assert!(replicated.replica().command(&["SET", "k", "v"]).starts_with("READONLY"));
        }
    };
    std::thread::scope(|scope| {
        for (start, times) in
            [(Replicated::start as fn() -> _, 2), (Replicated::guarded, 1), (Replicated::tls, 1)]
        {
            scope.spawn(move || fails_over(start(), times));
        }
    });
}
