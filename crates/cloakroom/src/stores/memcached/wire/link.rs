//! An open connection.

use std::io::{self, ErrorKind as Io};

use super::{Answer, Ask, Failure, ascii};
use crate::net::{Conn, certificate_wanted, wants_certificate};
use crate::{Deadline, Error, ErrorKind, Result};

/// Of no further use once an exchange has failed: what is still to come would be taken for the next answer.
pub(super) struct Link {
    conn: Conn,
    /// What was received, and how much of it was read.
    received: Vec<u8>,
    read: usize,
}

impl Link {
    pub(super) fn new(conn: Conn) -> Self {
        Link { conn, received: Vec::new(), read: 0 }
    }

    /// Asks, and waits for as many answers.
    pub(super) fn exchange(&mut self, asks: &[Ask<'_>], by: Deadline) -> Result<Vec<Answer>, Failure> {
        let mut request = Vec::new();
        for ask in asks {
            ascii::write(*ask, &mut request);
        }
        self.send(&request, by)?;
        let answers = asks.iter().map(|ask| ascii::read(*ask, self, by)).collect::<Result<_, _>>()?;
        // Bytes that nobody asked for would be taken for the next answer.
        match self.read == self.received.len() {
            true => {
                self.received.clear();
                self.read = 0;
                Ok(answers)
            }
            false => Err(not_understood("the server answered more than it was asked")),
        }
    }

    pub(super) fn send(&mut self, request: &[u8], by: Deadline) -> Result<(), Failure> {
        self.conn.send(request, by).map_err(broken)
    }

    /// The next line, without its end.
    pub(super) fn line(&mut self, by: Deadline) -> Result<String, Failure> {
        /// Longer than any line of the protocol.
        const LONGEST: usize = 4096;
        loop {
            let rest = &self.received[self.read..];
            // A dump's lines have no carriage return.
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
                let line = String::from_utf8_lossy(line).into_owned();
                self.read += end + 1;
                return Ok(line);
            }
            if rest.len() > LONGEST {
                return Err(not_understood("the server's answer is not in Memcached's protocol"));
            }
            self.receive(by)?;
        }
    }

    /// The next bytes, exactly as many.
    pub(super) fn bytes(&mut self, count: usize, by: Deadline) -> Result<Vec<u8>, Failure> {
        while self.received.len() - self.read < count {
            self.receive(by)?;
        }
        let bytes = self.received[self.read..self.read + count].to_vec();
        self.read += count;
        Ok(bytes)
    }

    fn receive(&mut self, by: Deadline) -> Result<(), Failure> {
        let start = self.received.len();
        self.received.resize(start + 16 * 1024, 0);
        let received = self.conn.receive(&mut self.received[start..], by);
        self.received.truncate(start + received.as_ref().copied().unwrap_or(0));
        match received {
            Ok(0) => Err(broken(io::Error::new(Io::UnexpectedEof, "the connection was closed"))),
            Ok(_) => Ok(()),
            Err(error) => Err(broken(error)),
        }
    }
}

/// The server says what it must not.
pub(super) fn not_understood(what: &str) -> Failure {
    Failure::Failed(
        Error::new(ErrorKind::Corrupt, what)
            .hint("check that session.save_path names a Memcached server")
            .maybe_applied(),
    )
}

fn broken(error: io::Error) -> Failure {
    match error.kind() {
        Io::TimedOut => Failure::Failed(
            Error::new(ErrorKind::Timeout, "the server did not answer in time")
                .hint("see what keeps it busy, or raise cloakroom.timeout (read_timeout=, where session.save_path has it)")
                .maybe_applied(),
        ),
        _ if wants_certificate(&error) => Failure::Failed(certificate_wanted(error)),
        _ => Failure::Cut(error),
    }
}
