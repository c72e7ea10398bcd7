//! A real memcached.

use std::process::Command;
use std::sync::Mutex;

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
