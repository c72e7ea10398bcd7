//! TLS in front of an engine, or of the proxy in front of it: the engines speak plain HTTP, and AWS does not.

use std::path::PathBuf;
use std::process::Command;

use crate::process::Process;
use crate::{START, TempDir, free_port, need, place, redis, wait_until};

/// Decrypts, passes on, and encrypts what comes back.
#[derive(Debug)]
pub struct Tls {
    port: u16,
    _process: Process,
    directory: TempDir,
}

const TERMINATOR: &str = "
    const [port, plain] = process.argv.slice(1).map(Number);
    const read = (name) => require('fs').readFileSync(name);
    const certificate = { key: read('server.key'), cert: read('server.crt') };
    require('tls').createServer(certificate, (client) => {
        const server = require('net').connect(plain, '127.0.0.1');
        for (const [one, other] of [[client, server], [server, client]]) {
            one.setNoDelay(true).on('error', () => other.destroy()).on('close', () => other.destroy()).pipe(other);
        }
    }).on('tlsClientError', () => {}).listen(port, '127.0.0.1');";

impl Tls {
    /// In front of what listens on this loopback port.
    pub fn before(plain: u16) -> Tls {
        let (port, directory) = (free_port(), TempDir::new());
        redis::certificates(&directory);
        let mut command = Command::new(need::find("node").expect("node is installed"));
        command.args(["-e", TERMINATOR, "--", &port.to_string(), &plain.to_string()]);
        let process = Process::start(command.current_dir(directory.path()), directory.path(), "tls");
        wait_until("TLS is offered", START, || {
            assert!(process.running(), "node ended\n{}", process.log());
            place::listening(port)
        });
        Tls { port, _process: process, directory }
    }

    /// `https://localhost:port`.
    pub fn endpoint(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The certificate of the authority that signed its own, which nobody else knows.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }
}
