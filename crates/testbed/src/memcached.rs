//! A real memcached, in each of the ways that it may be reached.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use crate::process::Process;
use crate::{START, TempDir, free_port, need, place, redis, wait_until};

/// Who may use a server that asks.
pub const USER: &str = "alice";
/// Her password; a URL has it as it is.
pub const PASSWORD: &str = "s3cret";

/// A memcached server.
#[derive(Debug)]
pub struct Memcached {
    process: Mutex<Process>,
    arguments: Vec<String>,
    port: u16,
    link: Link,
    login: Login,
    directory: TempDir,
}

/// How clients of the test are to connect.
#[derive(Debug)]
enum Link {
    Tcp,
    /// By this alone.
    Unix(PathBuf),
    /// With a plain port beside it.
    Tls {
        port: u16,
        authority: PathBuf,
    },
}

/// How clients say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Login {
    None,
    /// With the binary protocol alone.
    Sasl,
    Ascii,
}

impl Memcached {
    /// On a loopback port, with 64 MB and nothing special.
    pub fn start() -> Memcached {
        Memcached::with(&[])
    }

    /// With more command-line arguments.
    pub fn with(arguments: &[&str]) -> Memcached {
        Memcached::linked(TempDir::new(), Link::Tcp, Login::None, arguments)
    }

    /// That speaks the binary protocol alone, to [`USER`] with [`PASSWORD`].
    pub fn sasl() -> Memcached {
        let directory = TempDir::new();
        let database = directory.join("sasldb2").display().to_string();
        directory.write("memcached.conf", format!("mech_list: plain\nsasldb_path: {database}\n"));
        // The server takes the host's name for the realm of who names none.
        let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
        let mut command = Command::new(need::find("saslpasswd2").expect("saslpasswd2 is installed"));
        command.args(["-p", "-c", "-a", "memcached", "-u", &host, "-f", &database, USER]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(PASSWORD.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{command:?}");
        std::fs::set_permissions(&database, PermissionsExt::from_mode(0o644)).unwrap();
        Memcached::linked(directory, Link::Tcp, Login::Sasl, &["-S"])
    }

    /// That speaks text, to [`USER`] with [`PASSWORD`].
    pub fn ascii_auth() -> Memcached {
        let directory = TempDir::new();
        let users = directory.write("users", format!("{USER}:{PASSWORD}\n"));
        Memcached::linked(directory, Link::Tcp, Login::Ascii, &["-Y", &users.display().to_string()])
    }

    /// Reached through a unix socket.
    pub fn unix() -> Memcached {
        let directory = TempDir::new();
        // It makes the socket once it is no longer root.
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let socket = directory.join("memcached.sock");
        let path = socket.display().to_string();
        Memcached::linked(directory, Link::Unix(socket), Login::None, &["-s", &path, "-a", "0777"])
    }

    /// Reached through TLS, as `localhost`, with a certificate of its own authority: see [`Memcached::authority`].
    pub fn tls() -> Memcached {
        let directory = TempDir::new();
        redis::certificates(&directory);
        let key = directory.join("server.key");
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
        let (port, authority) = (free_port(), directory.join("ca.crt"));
        let (chain, key) = (directory.join("server.crt").display().to_string(), key.display().to_string());
        let files = format!("ssl_chain_cert={chain},ssl_key={key}");
        Memcached::linked(directory, Link::Tls { port, authority }, Login::None, &["-Z", "-o", &files])
    }

    fn linked(directory: TempDir, link: Link, login: Login, arguments: &[&str]) -> Memcached {
        let mut arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let port = free_port();
        match &link {
            Link::Tcp => {
                arguments.extend(["-l", "127.0.0.1", "-p", &port.to_string()].map(str::to_owned));
            }
            Link::Unix(_) => {}
            Link::Tls { port: secure, .. } => {
                let listen = format!("127.0.0.1:{secure},notls:127.0.0.1:{port}");
                arguments.extend(["-l".to_owned(), listen]);
            }
        }
        let process = Mutex::new(launch(port, &link, &arguments, &directory));
        Memcached { process, arguments, port, link, login, directory }
    }

    /// The port that clients are to use.
    pub fn port(&self) -> u16 {
        match self.link {
            Link::Tcp => self.port,
            Link::Tls { port, .. } => port,
            Link::Unix(_) => panic!("this server has no port"),
        }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// As Cloakroom's users write it, with all that it takes to get in.
    pub fn url(&self) -> String {
        match (&self.link, self.login) {
            (Link::Tcp, Login::None) => format!("memcached://{}", self.address()),
            (Link::Tcp, _) => format!("memcached://{USER}:{PASSWORD}@{}", self.address()),
            (Link::Unix(socket), _) => format!("memcached://{}", socket.display()),
            (Link::Tls { port, authority }, _) => {
                format!("memcacheds://localhost:{port}?cafile={}", authority.display())
            }
        }
    }

    /// The authority that signed the certificate of a TLS server.
    pub fn authority(&self) -> &Path {
        match &self.link {
            Link::Tls { authority, .. } => authority,
            Link::Tcp | Link::Unix(_) => panic!("this server was not started with TLS"),
        }
    }

    /// Sends lines of the classic protocol over a connection of its own, the last without its end, and says what came back.
    #[track_caller]
    pub fn command(&self, lines: &str) -> String {
        let answer = self.talk(format!("{lines}\r\nquit\r\n").as_bytes(), |_| false);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Stores an item for good.
    #[track_caller]
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        if self.login == Login::Sasl {
            let packets = self.packets(0x01, &[0; 8], key, value);
            assert_eq!(packets[0].0, 0, "set {key}");
            return;
        }
        let command = format!("set {key} 0 0 {}\r\n", value.len());
        let answer = self.talk(&[command.as_bytes(), value, b"\r\nquit\r\n"].concat(), |_| false);
        assert_eq!(answer, b"STORED\r\n", "set {key}");
    }

    /// The value of an item.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        if self.login == Login::Sasl {
            return self
                .packets(0x00, &[], key, &[])
                .pop()
                .filter(|(status, ..)| *status == 0)
                .map(|got| got.2);
        }
        let answer = self.talk(format!("get {key}\r\nquit\r\n").as_bytes(), |_| false);
        let value = answer.strip_suffix(b"\r\nEND\r\n")?;
        let head = value.iter().position(|byte| *byte == b'\n')?;
        Some(value[head + 1..].to_vec())
    }

    /// Removes an item, and says whether it was there.
    #[track_caller]
    pub fn delete(&self, key: &str) -> bool {
        match self.login {
            Login::Sasl => self.packets(0x04, &[], key, &[])[0].0 == 0,
            Login::None | Login::Ascii => self.command(&format!("delete {key}")) == "DELETED\r\n",
        }
    }

    /// How many items it has; [`Memcached::keys`] names them, but where there is nothing than the binary protocol.
    #[track_caller]
    pub fn items(&self) -> u64 {
        self.stat("curr_items")
    }

    /// The keys of all items; characters that URLs encode are as in one.
    #[track_caller]
    pub fn keys(&self) -> Vec<String> {
        let dump = loop {
            // It takes nothing else in the same write, and walks for one client at a time, or for itself.
            let whole = |answer: &[u8]| answer.ends_with(b"END\r\n") || answer.starts_with(b"BUSY ");
            let dump = self.talk(b"lru_crawler metadump hash\r\n", whole);
            match dump.starts_with(b"BUSY ") {
                true => std::thread::sleep(Duration::from_millis(10)),
                false => break dump,
            }
        };
        let dump = String::from_utf8_lossy(&dump);
        let key = |line: &str| Some(line.strip_prefix("key=")?.split(' ').next()?.to_owned());
        dump.lines().filter_map(key).collect()
    }

    /// A number of its `stats`.
    #[track_caller]
    pub fn stat(&self, name: &str) -> u64 {
        if self.login == Login::Sasl {
            let stats = self.packets(0x10, &[], "", &[]);
            let (.., value) = stats.into_iter().find(|(_, its, _)| its == name).expect("it has that");
            return String::from_utf8(value).unwrap().parse().unwrap();
        }
        let stats = self.command("stats");
        let value = stats.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
        value.unwrap_or_else(|| panic!("no {name} in {stats}")).parse().unwrap()
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.process.lock().unwrap().pid()
    }

    /// Kills it (SIGTERM would wait for its clock, up to a second).
    pub fn kill(&self) {
        self.process.lock().unwrap().kill();
    }

    /// Kills it and starts an empty one on the same port.
    pub fn restart(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill();
        if let Link::Unix(socket) = &self.link {
            let _ = std::fs::remove_file(socket);
        }
        *process = launch(self.port, &self.link, &self.arguments, &self.directory);
    }

    /// Stops it where it is (SIGSTOP).
    pub fn freeze(&self) {
        self.process.lock().unwrap().freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.lock().unwrap().thaw();
    }

    /// What a command of the binary protocol is answered with: status, key and value of each packet.
    #[track_caller]
    fn packets(&self, opcode: u8, extras: &[u8], key: &str, value: &[u8]) -> Vec<(u16, String, Vec<u8>)> {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let user = format!("{USER}\0{USER}\0{PASSWORD}");
            stream.write_all(&packet(0x21, &[], "PLAIN", user.as_bytes()))?;
            stream.write_all(&packet(opcode, extras, key, value))?;
            assert_eq!(read_packet(&mut stream)?.0, 0, "memcached knows the user");
            let mut packets = Vec::new();
            loop {
                packets.push(read_packet(&mut stream)?);
                // Stats go on up to one without a name.
                if opcode != 0x10 || packets.last().is_some_and(|(_, key, _)| key.is_empty()) {
                    return std::io::Result::Ok(packets);
                }
            }
        };
        ask().unwrap_or_else(|error| panic!("ask memcached: {error}"))
    }

    /// Sends the bytes, after logging in where that is asked for, and reads until the answer is whole, or the server closes.
    #[track_caller]
    fn talk(&self, bytes: &[u8], whole: fn(&[u8]) -> bool) -> Vec<u8> {
        assert_ne!(self.login, Login::Sasl, "this server does not speak text");
        let answer = match &self.link {
            Link::Tcp | Link::Tls { .. } => TcpStream::connect(("127.0.0.1", self.port))
                .and_then(|stream| stream.set_read_timeout(Some(PATIENCE)).map(|()| stream))
                .and_then(|stream| log_in(stream, self.login))
                .and_then(|stream| talk(stream, bytes, whole)),
            Link::Unix(socket) => UnixStream::connect(socket)
                .and_then(|stream| stream.set_read_timeout(Some(PATIENCE)).map(|()| stream))
                .and_then(|stream| talk(stream, bytes, whole)),
        };
        answer.unwrap_or_else(|error| panic!("ask memcached: {error}"))
    }
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn packet(opcode: u8, extras: &[u8], key: &str, value: &[u8]) -> Vec<u8> {
    let body = (extras.len() + key.len() + value.len()) as u32;
    let mut bytes = vec![0x80, opcode, 0, key.len() as u8, extras.len() as u8, 0, 0, 0];
    bytes.extend(body.to_be_bytes());
    bytes.extend([0; 12]);
    bytes.extend([extras, key.as_bytes(), value].concat());
    bytes
}

fn read_packet(stream: &mut impl Read) -> std::io::Result<(u16, String, Vec<u8>)> {
    let mut head = [0; 24];
    stream.read_exact(&mut head)?;
    let mut body = vec![0; u32::from_be_bytes([head[8], head[9], head[10], head[11]]) as usize];
    stream.read_exact(&mut body)?;
    let extras = usize::from(head[4]);
    let value = body.split_off(extras + usize::from(u16::from_be_bytes([head[2], head[3]])));
    let key = String::from_utf8_lossy(&body[extras..]).into_owned();
    Ok((u16::from_be_bytes([head[6], head[7]]), key, value))
}

fn log_in(mut stream: TcpStream, login: Login) -> std::io::Result<TcpStream> {
    if login == Login::Ascii {
        let item = format!("{USER} {PASSWORD}");
        write!(stream, "set auth 0 0 {}\r\n{item}\r\n", item.len())?;
        stream.read_exact(&mut [0; "STORED\r\n".len()])?;
    }
    Ok(stream)
}

fn talk(mut stream: impl Read + Write, bytes: &[u8], whole: fn(&[u8]) -> bool) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    let (mut answer, mut part) = (Vec::new(), [0; 16 << 10]);
    while !whole(&answer) {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            // A process that was stopped and goes on.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

fn launch(port: u16, link: &Link, arguments: &[String], directory: &TempDir) -> Process {
    let program = need::find("memcached").expect("memcached is installed");
    let mut command = Command::new(program);
    command.args(["-U", "0", "-m", "64", "-t", "1"]).args(arguments).env("SASL_CONF_PATH", directory.path());
    if nix::unistd::geteuid().is_root() {
        command.args(["-u", "nobody"]);
    }
    let process = Process::start(&mut command, directory.path(), "memcached");
    wait_until("memcached listens", START, || {
        assert!(process.running(), "memcached ended\n{}", process.log());
        match link {
            Link::Tcp | Link::Tls { .. } => place::listening(port),
            Link::Unix(socket) => UnixStream::connect(socket).is_ok(),
        }
    });
    process
}
