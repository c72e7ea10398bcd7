//! A real Redis server, and a client of twenty lines to look into it.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use crate::process::Process;
use crate::{START, TempDir, free_port, need, wait_until};

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The installed Redis.
    Redis,
    /// Redis 6.2, where `tools/valkey` puts it; without TLS.
    Redis62,
    /// Valkey, where `tools/valkey` puts it; without TLS.
    Valkey,
}

impl Program {
    /// Where it is.
    pub fn path(self) -> Option<PathBuf> {
        let fetched = |name: &str| {
            Some(crate::php::workspace().join("target/engines").join(name)).filter(|path| path.is_file())
        };
        match self {
            Program::Redis => need::find("redis-server"),
            Program::Redis62 => fetched("redis-server-6.2"),
            Program::Valkey => fetched("valkey-server"),
        }
    }
}

/// A Redis server on a loopback port; nothing is saved to disk unless asked for.
#[derive(Debug)]
pub struct Redis {
    program: Program,
    process: Mutex<Process>,
    arguments: Vec<String>,
    port: u16,
    link: Link,
    directory: TempDir,
}

/// How clients of the test are to connect. Its plain port is open in any case, for [`Redis::command`].
#[derive(Debug)]
enum Link {
    Tcp,
    Unix(PathBuf),
    Tls { port: u16, authority: PathBuf },
}

impl Redis {
    /// With nothing special.
    pub fn start() -> Redis {
        Redis::with(&[])
    }

    /// With more command-line arguments.
    pub fn with(arguments: &[&str]) -> Redis {
        Redis::linked(TempDir::new(), Link::Tcp, arguments.iter().map(ToString::to_string).collect())
    }

    /// Another program than the installed one.
    pub fn of(program: Program) -> Redis {
        let port = free_port();
        let directory = TempDir::new();
        let process = Mutex::new(launch_program(program, port, &[], directory.path()));
        Redis { program, process, arguments: Vec::new(), port, link: Link::Tcp, directory }
    }

    /// Reached through a unix socket.
    pub fn unix() -> Redis {
        let directory = TempDir::new();
        let socket = directory.join("redis.sock");
        let arguments = ["--unixsocket", &socket.display().to_string(), "--unixsocketperm", "777"]
            .map(str::to_owned)
            .to_vec();
        Redis::linked(directory, Link::Unix(socket), arguments)
    }

    /// Reached through TLS, as `localhost`, with a certificate of its own authority: see [`Redis::authority`].
    pub fn tls() -> Redis {
        Redis::tls_with(&[])
    }

    /// The same, with more arguments (`--tls-auth-clients yes`; see [`Redis::certificate`]).
    pub fn tls_with(arguments: &[&str]) -> Redis {
        let directory = TempDir::new();
        certificates(&directory);
        Redis::certified(directory, arguments)
    }

    /// One more server with TLS, with this one's authority and certificate.
    pub fn tls_like(&self, arguments: &[&str]) -> Redis {
        let directory = TempDir::new();
        for name in ["server.crt", "server.key", "ca.crt"] {
            std::fs::copy(self.directory.join(name), directory.join(name)).unwrap();
        }
        Redis::certified(directory, arguments)
    }

    fn certified(directory: TempDir, arguments: &[&str]) -> Redis {
        let (port, authority) = (free_port(), directory.join("ca.crt"));
        let file = |name: &str| directory.join(name).display().to_string();
        let mut all =
            ["--tls-port", &port.to_string(), "--tls-auth-clients", "optional"].map(str::to_owned).to_vec();
        for (name, path) in [
            ("--tls-cert-file", "server.crt"),
            ("--tls-key-file", "server.key"),
            ("--tls-ca-cert-file", "ca.crt"),
        ] {
            all.extend([name.to_owned(), file(path)]);
        }
        all.extend(arguments.iter().map(ToString::to_string));
        Redis::linked(directory, Link::Tls { port, authority }, all)
    }

    fn linked(directory: TempDir, link: Link, arguments: Vec<String>) -> Redis {
        let port = free_port();
        let process = Mutex::new(launch(port, &arguments, directory.path()));
        Redis { program: Program::Redis, process, arguments, port, link, directory }
    }

    /// The port that clients are to use.
    pub fn port(&self) -> u16 {
        match self.link {
            Link::Tls { port, .. } => port,
            Link::Tcp | Link::Unix(_) => self.port,
        }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// As Cloakroom's users write it: `redis://`, `unix://` or `rediss://`.
    pub fn url(&self) -> String {
        match &self.link {
            Link::Tcp => format!("redis://{}", self.address()),
            Link::Unix(socket) => format!("unix://{}", socket.display()),
            Link::Tls { port, .. } => format!("rediss://localhost:{port}"),
        }
    }

    /// As phpredis' users write it: `tcp://`, `unix://` or `tls://`.
    pub fn native(&self) -> String {
        match &self.link {
            Link::Tcp => format!("tcp://{}", self.address()),
            Link::Unix(_) => self.url(),
            Link::Tls { port, .. } => format!("tls://localhost:{port}"),
        }
    }

    /// The authority that signed the certificate of a TLS server.
    pub fn authority(&self) -> &Path {
        match &self.link {
            Link::Tls { authority, .. } => authority,
            Link::Tcp | Link::Unix(_) => panic!("this server was not started with TLS"),
        }
    }

    /// A certificate and its key that the authority signed, for a client.
    pub fn certificate(&self) -> (PathBuf, PathBuf) {
        (self.directory.join("server.crt"), self.directory.join("server.key"))
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.process.lock().unwrap().pid()
    }

    /// Runs one command over a connection of its own, and answers what the server did.
    #[track_caller]
    pub fn command(&self, words: &[&str]) -> String {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.reply(&words).to_string()
    }

    /// The same for words and answers that may be any bytes.
    #[track_caller]
    pub fn reply(&self, words: &[&[u8]]) -> Reply {
        let password = self.arguments.iter().position(|argument| argument == "--requirepass");
        let password = password.map(|at| self.arguments[at + 1].as_str());
        ask(self.port, password, words).unwrap_or_else(|error| panic!("ask redis: {error}"))
    }

    /// Kills it (SIGKILL).
    pub fn kill(&self) {
        self.process.lock().unwrap().kill();
    }

    /// Kills it and starts it on the same port, without its data.
    pub fn restart(&self) {
        self.kill();
        let _ = std::fs::remove_file(self.directory.join("dump.rdb"));
        self.launch_again();
    }

    /// Kills it and starts it on the same port as a replica of this one, whose data it takes over.
    pub fn restart_as_replica_of(&self, primary: &Redis) {
        self.kill();
        let mut arguments = self.arguments.clone();
        arguments.extend(["--replicaof", "127.0.0.1", &primary.port().to_string()].map(str::to_owned));
        *self.process.lock().unwrap() =
            launch_program(self.program, self.port, &arguments, self.directory.path());
    }

    /// Saves the data, kills it, and starts it on the same port with the data.
    pub fn restart_with_data(&self) {
        assert_eq!(self.command(&["SAVE"]), "OK");
        self.kill();
        self.launch_again();
    }

    fn launch_again(&self) {
        *self.process.lock().unwrap() =
            launch_program(self.program, self.port, &self.arguments, self.directory.path());
    }

    /// Stops it where it is (SIGSTOP).
    pub fn freeze(&self) {
        self.process.lock().unwrap().freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.lock().unwrap().thaw();
    }
}

pub(crate) fn launch(port: u16, arguments: &[String], directory: &Path) -> Process {
    launch_program(Program::Redis, port, arguments, directory)
}

pub(crate) fn launch_program(program: Program, port: u16, arguments: &[String], directory: &Path) -> Process {
    let mut command = Command::new(program.path().unwrap_or_else(|| panic!("{program:?} is not installed")));
    if program != Program::Redis62 {
        // Before 7.0 it was always there.
        command.args(["--enable-debug-command", "yes"]);
    }
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", &directory.display().to_string()])
        .args(["--save", "", "--appendonly", "no"])
        .args(arguments);
    let process = Process::start(&mut command, directory, "redis");
    wait_until("redis answers", START, || {
        assert!(process.running(), "redis ended\n{}", process.log());
        match ask(port, None, &[b"PING"]) {
            Ok(Reply::Error(error)) => !error.starts_with("LOADING"),
            Ok(_) => true,
            Err(_) => false,
        }
    });
    process
}

/// A CA (`ca.crt`) and a certificate for localhost that it signed (`server.crt`).
pub(crate) fn certificates(directory: &TempDir) {
    const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let openssl = |arguments: &[&str]| {
        let ran = Command::new("openssl").args(arguments).current_dir(directory.path()).output();
        let ran = ran.expect("openssl is installed");
        assert!(ran.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    };
    let with_key = |start: &[&str], rest: &[&str]| openssl(&[start, &KEY, rest].concat());
    let days = ["-days", "30"];
    with_key(
        &["req", "-x509"],
        &[&days[..], &["-subj", "/CN=test-ca", "-keyout", "ca.key", "-out", "ca.crt"]].concat(),
    );
    with_key(&["req"], &["-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"]);
    directory.write("names", "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
    let sign = ["x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
    openssl(&[&sign[..], &days, &["-extfile", "names", "-out", "server.crt"]].concat());
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// There is no such thing.
    Nil,
    /// A number.
    Number(i64),
    /// A status or a value.
    Text(Vec<u8>),
    /// A refusal.
    Error(String),
    /// Several.
    List(Vec<Reply>),
}

/// As `redis-cli` prints it without a terminal, but `(nil)` for nothing.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Nil => f.write_str("(nil)"),
            Reply::Number(number) => write!(f, "{number}"),
            Reply::Text(text) => f.write_str(&String::from_utf8_lossy(text)),
            Reply::Error(error) => f.write_str(error),
            Reply::List(items) => {
                let items: Vec<String> = items.iter().map(ToString::to_string).collect();
                f.write_str(&items.join("\n"))
            }
        }
    }
}

pub(crate) fn ask(port: u16, password: Option<&str>, words: &[&[u8]]) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    if let Some(password) = password {
        stream.write_all(&encode(&[b"AUTH", password.as_bytes()]))?;
        read(&mut answers)?;
    }
    stream.write_all(&encode(words))?;
    read(&mut answers)
}

fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend(*word);
        bytes.extend(b"\r\n");
    }
    bytes
}

fn read(answers: &mut impl BufRead) -> std::io::Result<Reply> {
    let mut line = String::new();
    answers.read_line(&mut line)?;
    let wrong = || std::io::Error::other(format!("not an answer of redis: {line:?}"));
    let (kind, rest) = line.trim_end().split_at_checked(1).ok_or_else(wrong)?;
    let number = || rest.parse::<i64>().map_err(|_| wrong());
    Ok(match kind {
        "+" => Reply::Text(rest.as_bytes().to_vec()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Number(number()?),
        "$" => match usize::try_from(number()?) {
            Err(_) => Reply::Nil,
            Ok(length) => {
                let mut bytes = vec![0; length + 2];
                answers.read_exact(&mut bytes)?;
                bytes.truncate(length);
                Reply::Text(bytes)
            }
        },
        "*" => match usize::try_from(number()?) {
            Err(_) => Reply::Nil,
            Ok(length) => Reply::List((0..length).map(|_| read(answers)).collect::<Result<_, _>>()?),
        },
        _ => return Err(wrong()),
    })
}
