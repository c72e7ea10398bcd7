//! A real twemproxy (nutcracker): a hashing proxy that understands a part of Redis' commands.

use std::process::Command;

use crate::process::Process;
use crate::redis::Redis;
use crate::{START, TempDir, free_port, need, place, wait_until};

/// A twemproxy in front of Redis servers.
#[derive(Debug)]
pub struct Twemproxy {
    process: Process,
    port: u16,
    _directory: TempDir,
}

impl Twemproxy {
    /// Spreads the keys over these servers.
    pub fn before(servers: &[&Redis]) -> Twemproxy {
        let (port, directory) = (free_port(), TempDir::new());
        let servers: String =
            servers.iter().map(|server| format!("    - {}:1\n", server.address())).collect();
        let configuration = directory.write(
            "nutcracker.yml",
            format!(
                "pool:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n  \
                 servers:\n{servers}"
            ),
        );
        let process = Process::start(
            Command::new(need::find("nutcracker").expect("nutcracker is installed"))
                .arg("-c")
                .arg(configuration)
                .args(["-a", "127.0.0.1", "-s", &free_port().to_string(), "-o", "/proc/self/fd/2"]),
            directory.path(),
            "nutcracker",
        );
        wait_until("twemproxy listens", START, || {
            assert!(process.running(), "nutcracker ended\n{}", process.log());
            place::listening(port)
        });
        Twemproxy { process, port, _directory: directory }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills it.
    pub fn kill(&self) {
        self.process.kill();
    }
}
