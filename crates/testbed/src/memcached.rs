//! A real memcached.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use crate::process::Process;
use crate::{START, TempDir, free_port, need, place, wait_until};

/// A memcached server on a loopback port.
#[derive(Debug)]
pub struct Memcached {
    process: Mutex<Process>,
    arguments: Vec<String>,
    port: u16,
    directory: TempDir,
}

impl Memcached {
    /// With 64 MB and nothing special.
    pub fn start() -> Memcached {
        Memcached::with(&[])
    }

    /// With more command-line arguments.
    pub fn with(arguments: &[&str]) -> Memcached {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let (port, directory) = (free_port(), TempDir::new());
        let process = Mutex::new(launch(port, &arguments, &directory));
        Memcached { process, arguments, port, directory }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends lines of the classic protocol over a connection of its own, the last without its end, and says what came back.
    #[track_caller]
    pub fn command(&self, lines: &str) -> String {
        let answer = talk(self.port, format!("{lines}\r\nquit\r\n").as_bytes(), |_| false);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Stores an item for good.
    #[track_caller]
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        let command = format!("set {key} 0 0 {}\r\n", value.len());
        let answer = talk(self.port, &[command.as_bytes(), value, b"\r\nquit\r\n"].concat(), |_| false);
        assert_eq!(answer, b"STORED\r\n", "set {key}");
    }

    /// The value of an item.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let answer = talk(self.port, format!("get {key}\r\nquit\r\n").as_bytes(), |_| false);
        let value = answer.strip_suffix(b"\r\nEND\r\n")?;
        let head = value.iter().position(|byte| *byte == b'\n')?;
        Some(value[head + 1..].to_vec())
    }

    /// The keys of all items; characters that URLs encode are as in one.
    #[track_caller]
    pub fn keys(&self) -> Vec<String> {
        let dump = loop {
            // It takes nothing else in the same write, and walks for one client at a time, or for itself.
            let whole = |answer: &[u8]| answer.ends_with(b"END\r\n") || answer.starts_with(b"BUSY ");
            let dump = talk(self.port, b"lru_crawler metadump hash\r\n", whole);
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
        *process = launch(self.port, &self.arguments, &self.directory);
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

/// Sends the bytes, and reads until the answer is whole, or the server closes.
#[track_caller]
fn talk(port: u16, bytes: &[u8], whole: fn(&[u8]) -> bool) -> Vec<u8> {
    let talk = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(bytes)?;
        let (mut answer, mut part) = (Vec::new(), [0; 16 << 10]);
        while !whole(&answer) {
            match stream.read(&mut part)? {
                0 => break,
                length => answer.extend_from_slice(&part[..length]),
            }
        }
        std::io::Result::Ok(answer)
    };
    talk().unwrap_or_else(|error| panic!("ask memcached: {error}"))
}

fn launch(port: u16, arguments: &[String], directory: &TempDir) -> Process {
    let program = need::find("memcached").expect("memcached is installed");
    let mut command = Command::new(program);
    command
        .args(["-l", "127.0.0.1", "-p", &port.to_string(), "-U", "0", "-m", "64", "-t", "1"])
        .args(arguments);
    if nix::unistd::geteuid().is_root() {
        command.args(["-u", "nobody"]);
    }
    let process = Process::start(&mut command, directory.path(), "memcached");
    wait_until("memcached listens", START, || {
        assert!(process.running(), "memcached ended\n{}", process.log());
        place::listening(port)
    });
    process
}
