//! An open connection.

use std::collections::VecDeque;
use std::io::{self, ErrorKind as Io};
use std::time::{Duration, Instant};

use super::introduction::Speech;
use super::{Answer, Ask, Failure, Refusal, ascii, binary};
use crate::net::{Conn, ended_by};
use crate::{Deadline, Error, ErrorKind, Result};

/// A connection that was used this lately is taken to be open still.
const IDLE: Duration = Duration::from_millis(5);

/// Of no further use once an exchange has failed: what is still to come would be taken for the next answer.
pub(super) struct Link {
    conn: Conn,
    pub(super) speech: Speech,
    /// What was received, and how much of it was read.
    received: Vec<u8>,
    read: usize,
    /// The answers to come, in order; first those that nobody waits for.
    awaited: VecDeque<Awaited>,
    asked: u32,
    used: Instant,
    /// Whether the server has said anything.
    pub(super) heard: bool,
    /// Whether all that it said was that it has too many connections.
    pub(super) turned_away: bool,
    /// Whether an answer leaves it open how the server reads what follows.
    pub(super) unsettled: bool,
}

/// An answer to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Awaited {
    pub(super) kind: Kind,
    pub(super) key: Vec<u8>,
    /// Of the value that was sent.
    pub(super) size: usize,
    /// Tells the answers of the binary protocol apart.
    pub(super) opaque: u32,
}

/// What the answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Get,
    Life,
    Store,
    Append,
    Touch,
    Remove,
    Delete,
    Stats,
}

impl Awaited {
    pub(super) fn of(ask: Ask<'_>, opaque: u32) -> Self {
        let (kind, key, size) = match ask {
            Ask::Get { key } => (Kind::Get, key, 0),
            Ask::Life { key } => (Kind::Life, key, 0),
            Ask::Add { key, value, .. } | Ask::Set { key, value, .. } | Ask::Swap { key, value, .. } => {
                (Kind::Store, key, value.len())
            }
            Ask::Append { key, value } => (Kind::Append, key, value.len()),
            Ask::Touch { key, .. } => (Kind::Touch, key, 0),
            Ask::Remove { key, .. } => (Kind::Remove, key, 0),
            Ask::Delete { key } => (Kind::Delete, key, 0),
            Ask::Stats { group } => (Kind::Stats, group.as_bytes(), 0),
        };
        Awaited { kind, key: key.to_vec(), size, opaque }
    }
}

impl Link {
    pub(super) fn new(conn: Conn) -> Self {
        Link {
            conn,
            speech: Speech::Ascii,
            received: Vec::new(),
            read: 0,
            awaited: VecDeque::new(),
            asked: 0,
            used: Instant::now(),
            heard: false,
            turned_away: false,
            unsettled: false,
        }
    }

    /// Asks, and waits for as many answers; those of before are read first.
    pub(super) fn exchange(&mut self, asks: &[Ask<'_>], by: Deadline) -> Result<Vec<Answer>, Failure> {
        let earlier = self.awaited.len();
        self.tell(asks, by)?;
        let mut answers = self.settle(by)?;
        Ok(answers.split_off(earlier))
    }

    /// Asks, and leaves the answers to the next exchange.
    pub(super) fn tell(&mut self, asks: &[Ask<'_>], by: Deadline) -> Result<(), Failure> {
        let mut request = Vec::new();
        let mut ends = Vec::new();
        for ask in asks {
            self.asked = self.asked.wrapping_add(1);
            match self.speech {
                Speech::Ascii | Speech::Meta => ascii::write(*ask, self.speech, &mut request),
                Speech::Binary => binary::write(*ask, self.asked, &mut request),
            }
            let awaited = Awaited::of(*ask, self.asked);
            // Memcached forgets what follows a large value in the same TLS record, until more arrives.
            if awaited.size > 0 && self.conn.is_encrypted() {
                ends.push(request.len());
            }
            self.awaited.push_back(awaited);
        }
        ends.push(request.len());
        let mut start = 0;
        for end in ends {
            self.send(&request[start..end], by)?;
            start = end;
        }
        Ok(())
    }

    /// Reads the answers that are still to come.
    pub(super) fn settle(&mut self, by: Deadline) -> Result<Vec<Answer>, Failure> {
        let mut answers = Vec::with_capacity(self.awaited.len());
        while let Some(awaited) = self.awaited.pop_front() {
            let answer = match self.speech {
                Speech::Ascii | Speech::Meta => ascii::read(&awaited, self, by),
                Speech::Binary => binary::read(&awaited, self, by),
            };
            // After one that it refuses, a server may hang up.
            let answer = answer.map_err(|failure| match answers.iter().find_map(Answer::unsettling) {
                Some(refusal) => Failure::Failed(refusal.error()),
                None => failure,
            })?;
            self.unsettled |= answer.unsettling().is_some();
            if answer == Answer::Refused(Refusal::NotAuthenticated) {
                return Err(Failure::Failed(Refusal::NotAuthenticated.error()));
            }
            answers.push(answer);
        }
        self.used = Instant::now();
        // Bytes that nobody asked for would be taken for the next answer.
        match self.read == self.received.len() {
            true => {
                self.received.clear();
                self.read = 0;
                Ok(answers)
            }
            // A server that takes a value for commands answers each of its lines.
            false if self.unsettled => Ok(answers),
            false => Err(not_understood("the server answered more than it was asked")),
        }
    }

    /// Whether it died while it was idle.
    pub(super) fn is_dead(&mut self, by: Deadline) -> bool {
        if self.used.elapsed() <= IDLE || self.conn.is_quiet() {
            return false;
        }
        // Those answers are here, or the connection's end.
        self.awaited.is_empty() || self.settle(by).is_err() || !self.conn.is_quiet()
    }

    /// Whether nothing has come that was not read.
    #[cfg(test)]
    pub(super) fn is_quiet(&self) -> bool {
        self.conn.is_quiet()
    }

    pub(super) fn send(&mut self, request: &[u8], by: Deadline) -> Result<(), Failure> {
        let sent = self.conn.send(request, by);
        sent.or_else(|error| match error.kind() {
            Io::TimedOut => Err(broken(error)),
            // A server that hung up meanwhile may have said why: that is still to be read.
            _ if !self.heard => match self.receive(by) {
                Ok(()) => Ok(()),
                Err(_) => Err(broken(error)),
            },
            _ => Err(broken(error)),
        })
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
                if line.starts_with("ERROR Too many open connections") {
                    self.turned_away = true;
                    return Err(Failure::Failed(no_room()));
                }
                return Ok(line);
            }
            if rest.len() > LONGEST {
                return Err(foreign(&String::from_utf8_lossy(&rest[..64])));
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

    /// The next byte, which stays the next.
    pub(super) fn peek(&mut self, by: Deadline) -> Result<u8, Failure> {
        while self.received.len() == self.read {
            self.receive(by)?;
        }
        Ok(self.received[self.read])
    }

    fn receive(&mut self, by: Deadline) -> Result<(), Failure> {
        let start = self.received.len();
        self.received.resize(start + 16 * 1024, 0);
        let received = self.conn.receive(&mut self.received[start..], by);
        self.received.truncate(start + received.as_ref().copied().unwrap_or(0));
        match received {
            Ok(0) => Err(broken(io::Error::new(Io::UnexpectedEof, "the connection was closed"))),
            Ok(_) => {
                self.heard = true;
                Ok(())
            }
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

/// What answers with this line is no Memcached server.
pub(super) fn foreign(line: &str) -> Failure {
    not_understood(match line.as_bytes() {
        [b'-' | b'+', ..] => "a Redis server answers, not Memcached",
        [b'H', b'T', b'T', b'P', ..] | [b'<', ..] => "a web server answers, not Memcached",
        _ => "the server's answer is not in Memcached's protocol",
    })
}

fn no_room() -> Error {
    Error::new(ErrorKind::Unreachable, "the server has as many connections as it takes")
        .hint("raise its -c (--conn-limit), or run fewer workers")
}

fn broken(error: io::Error) -> Failure {
    ended_by(error).map_or_else(Failure::Cut, Failure::Failed)
}
