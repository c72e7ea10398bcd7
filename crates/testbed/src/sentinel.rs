//! A real Redis Sentinel, and what it watches: a primary and its replica.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::process::Process;
use crate::redis::{Redis, Reply, ask};
use crate::{START, TempDir, free_port, need, wait_until};

/// The name under which sentinels know what they watch.
pub const NAME: &str = "mymaster";

/// How long a failover may take on a loaded machine.
const FAILOVER: Duration = Duration::from_secs(60);

/// A sentinel that decides alone: where several vote, they may split, and try again after seconds.
#[derive(Debug)]
pub struct Sentinel {
    process: Process,
    port: u16,
    password: Option<String>,
    _directory: TempDir,
}

impl Sentinel {
    /// One that watches the server at this address, with more lines in its configuration.
    pub fn watching(host: &str, port: u16, lines: &[String]) -> Sentinel {
        let (directory, own) = (TempDir::in_memory(), free_port());
        // A machine that is busy is no server that is dead: see `hurry`.
        let configuration = directory.write(
            "sentinel.conf",
            format!(
                "port {own}\nbind 127.0.0.1\ndir {}\nsentinel resolve-hostnames yes\n\
                 sentinel monitor {NAME} {host} {port} 1\nsentinel down-after-milliseconds {NAME} 600000\n\
                 sentinel failover-timeout {NAME} 1000\n{}\n",
                directory.path().display(),
                lines.join("\n"),
            ),
        );
        let program = need::find("redis-server").expect("redis-server is installed");
        let process = Process::start(
            Command::new(program).arg(configuration).arg("--sentinel"),
            directory.path(),
            "sentinel",
        );
        let password = lines.iter().find_map(|line| line.strip_prefix("requirepass ")).map(str::to_owned);
        wait_until("the sentinel answers", START, || {
            assert!(process.running(), "the sentinel ended\n{}", process.log());
            ask(own, None, &[b"PING"]).is_ok()
        });
        let sentinel = Sentinel { process, port: own, password, _directory: directory };
        let debug =
            ["info-period", "200", "ping-period", "100", "ask-period", "200", "publish-period", "200"];
        // One that stood still for two seconds would trust its clock again only after thirty.
        let tilt = ["tilt-trigger", "600000"];
        assert_eq!(sentinel.command(&[&["SENTINEL", "DEBUG"][..], &debug, &tilt].concat()), "OK");
        sentinel
    }

    /// The port without TLS.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Runs one command, and answers what the sentinel did.
    #[track_caller]
    pub fn command(&self, words: &[&str]) -> String {
        self.reply(words).to_string()
    }

    #[track_caller]
    fn reply(&self, words: &[&str]) -> Reply {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let answer = ask(self.port, self.password.as_deref(), &words);
        answer.unwrap_or_else(|error| panic!("ask the sentinel: {error}"))
    }

    /// The port of the primary that it announces.
    pub fn announced(&self) -> u16 {
        let answer = self.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
        answer.lines().nth(1).unwrap_or_else(|| panic!("no address: {answer}")).parse().unwrap()
    }

    /// Takes a server that is silent for 0.3 s for dead.
    pub fn hurry(&self) {
        self.down_after("300");
    }

    /// Takes no server for dead.
    pub fn patient(&self) {
        self.down_after("600000");
    }

    fn down_after(&self, milliseconds: &str) {
        let set = self.command(&["SENTINEL", "SET", NAME, "down-after-milliseconds", milliseconds]);
        assert_eq!(set, "OK");
    }

    /// The moments at which it says, from now on, that the primary is another one.
    pub fn switches(&self) -> Receiver<Instant> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        if let Some(password) = &self.password {
            write!(stream, "AUTH {password}\r\n").unwrap();
            answers.read_line(&mut String::new()).unwrap();
        }
        stream.write_all(b"SUBSCRIBE +switch-master\r\n").unwrap();
        // "*3", the kind, the channel, and how many are subscribed to: six lines.
        for _ in 0..6 {
            answers.read_line(&mut String::new()).unwrap();
        }
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            // It ends with the sentinel, which closes the connection.
            let _stream = stream;
            for line in answers.lines().map_while(Result::ok) {
                if line.starts_with(NAME) && sender.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        receiver
    }

    /// The fields that it knows of the primary, or of its only replica.
    fn known(&self, question: &str) -> Vec<(String, String)> {
        let answer = match (question, self.reply(&["SENTINEL", question, NAME])) {
            ("MASTER", answer) => answer,
            (_, Reply::List(mut replicas)) if replicas.len() == 1 => replicas.remove(0),
            _ => return Vec::new(),
        };
        let Reply::List(words) = answer else { return Vec::new() };
        words.chunks(2).map(|pair| (pair[0].to_string(), pair[1].to_string())).collect()
    }

    /// Kills it.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Stops it where it is (SIGSTOP).
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }
}

/// A primary, its replica, and a sentinel.
#[derive(Debug)]
pub struct Replicated {
    servers: [Redis; 2],
    sentinel: Sentinel,
    url: String,
}

impl Replicated {
    /// With nothing special.
    pub fn start() -> Replicated {
        let primary = Redis::with(QUICK);
        let replica = Redis::with(&[QUICK, &of(&primary.port().to_string())].concat());
        Replicated::watched([primary, replica], "redis+sentinel://", &[])
    }

    /// With the password `server-pw` for the servers, and `sentinel-pw` for the sentinel.
    pub fn guarded() -> Replicated {
        const GUARD: &[&str] = &["--requirepass", "server-pw", "--masterauth", "server-pw"];
        let primary = Redis::with(&[QUICK, GUARD].concat());
        let replica = Redis::with(&[QUICK, GUARD, &of(&primary.port().to_string())].concat());
        let lines = ["requirepass sentinel-pw".to_owned(), format!("sentinel auth-pass {NAME} server-pw")];
        Replicated::watched([primary, replica], "redis+sentinel://:server-pw@", &lines)
    }

    /// With TLS to all of them, as `localhost` and as `127.0.0.1`.
    pub fn tls() -> Replicated {
        const TLS: &[&str] = &["--tls-replication", "yes"];
        let primary = Redis::tls_with(&[QUICK, TLS].concat());
        let replica = primary.tls_like(&[QUICK, TLS, &of(&primary.port().to_string())].concat());
        let (certificate, key) = primary.certificate();
        let lines = [
            format!("tls-port {}", free_port()),
            "tls-replication yes".to_owned(),
            "tls-auth-clients optional".to_owned(),
            format!("tls-cert-file {}", certificate.display()),
            format!("tls-key-file {}", key.display()),
            format!("tls-ca-cert-file {}", primary.authority().display()),
        ];
        Replicated::watched([primary, replica], "rediss+sentinel://", &lines)
    }

    fn watched(servers: [Redis; 2], before_host: &str, lines: &[String]) -> Replicated {
        in_sync(&servers[0], &servers[1]);
        let sentinel = Sentinel::watching("127.0.0.1", servers[0].port(), lines);
        let tls = lines.iter().find_map(|line| line.strip_prefix("tls-port "));
        let port = tls.map_or(sentinel.port().to_string(), str::to_owned);
        let url = format!("{before_host}127.0.0.1:{port}/{NAME}");
        let replicated = Replicated { servers, sentinel, url };
        replicated.settled();
        replicated
    }

    /// As Cloakroom's users write it: `redis+sentinel://`, or `rediss+sentinel://`; the sentinel's password is not in it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The sentinel.
    pub fn sentinel(&self) -> &Sentinel {
        &self.sentinel
    }

    /// The primary, by the sentinel's word.
    pub fn primary(&self) -> &Redis {
        self.one(true)
    }

    /// The other server.
    pub fn replica(&self) -> &Redis {
        self.one(false)
    }

    fn one(&self, primary: bool) -> &Redis {
        let announced = self.sentinel.announced();
        let found = self.servers.iter().find(|server| (server.port() == announced) == primary);
        found.unwrap_or_else(|| panic!("the sentinel announces port {announced}"))
    }

    /// Kills the primary (SIGKILL), and does not wait for what follows.
    pub fn kill_primary(&self) {
        self.primary().kill();
        // Only now: one that stands still for a moment is not dead, and is not to be replaced before.
        self.sentinel.hurry();
    }

    /// Waits until the sentinel announces another primary than the one at this port.
    pub fn await_failover(&self, from: u16) {
        wait_until("the replica is the primary", FAILOVER, || self.sentinel.announced() != from);
        self.sentinel.patient();
    }

    /// Starts the server that was killed as a replica of the other, and waits until that may fail again.
    pub fn restore(&self) {
        let (primary, replica) = (self.primary(), self.replica());
        replica.restart_as_replica_of(primary);
        self.settled();
    }

    /// Waits until the replica has everything, and the sentinel knows both.
    fn settled(&self) {
        let (primary, replica) = (self.primary(), self.replica());
        in_sync(primary, replica);
        wait_until("the sentinel knows the replica", FAILOVER, || {
            let holds = |known: &[(String, String)], field: &str, value: &str| {
                known.iter().any(|(name, said)| name == field && said == value)
            };
            let (known, other) = (self.sentinel.known("MASTER"), self.sentinel.known("REPLICAS"));
            holds(&known, "flags", "master")
                && holds(&other, "flags", "slave")
                && holds(&other, "port", &replica.port().to_string())
                && holds(&other, "master-link-status", "ok")
        });
    }
}

/// No waiting for more replicas that may come.
const QUICK: &[&str] = &["--repl-diskless-sync-delay", "0"];

fn of(port: &str) -> [&str; 3] {
    ["--replicaof", "127.0.0.1", port]
}

/// Waits until the replica confirms what it has. It is online before that, and WAIT asks it in vain for up to a second.
fn in_sync(primary: &Redis, replica: &Redis) {
    let told = || primary.command(&["INFO", "replication"]);
    let number = |text: &str, name: &str| {
        let digits = text.split_once(name)?.1.split(|character: char| !character.is_ascii_digit()).next()?;
        digits.parse::<u64>().ok()
    };
    wait_until("the replica is online", FAILOVER, || {
        replica.command(&["INFO", "replication"]).contains("master_link_status:up")
            && told().contains("state=online")
    });
    // Something to confirm.
    primary.command(&["PUBLISH", "sync", "1"]);
    let now = number(&told(), "master_repl_offset:").unwrap_or(0);
    wait_until("the replica is in sync", FAILOVER, || {
        number(&told(), "state=online,offset=").is_some_and(|confirmed| confirmed >= now)
    });
}
