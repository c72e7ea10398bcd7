//! An open connection that speaks Redis' protocol.

use std::io::{self, ErrorKind as Io, Read};
use std::time::{Duration, Instant};

use redis::{Parser, Value};

use super::{Failure, Request, refused};
use crate::net::{Conn, ended_by};
use crate::stores::redis::reply::Refusal;
use crate::{Deadline, Error, ErrorKind, Result};

/// A connection that was used this lately is taken to be open still.
const IDLE: Duration = Duration::from_millis(5);

/// Of no further use once an exchange has failed: what is still to come would be taken for the next answer.
pub(super) struct Link {
    conn: Conn,
    parser: Parser,
    used: Instant,
}

impl Link {
    pub(super) fn new(conn: Conn) -> Self {
        Link { conn, parser: Parser::new(), used: Instant::now() }
    }

    /// Whether it died while it was idle.
    pub(super) fn is_dead(&self) -> bool {
        self.used.elapsed() > IDLE && !self.conn.is_quiet()
    }

    /// Asks, and waits for as many replies as there are commands.
    pub(super) fn exchange(&mut self, request: &Request, by: Deadline) -> Result<Vec<Value>, Failure> {
        let sent = self.conn.send(&request.bytes, by);
        let mut replies = Vec::with_capacity(request.len());
        let mut incoming = Incoming { conn: &mut self.conn, by, received: 0, failed: None };
        if let Err(error) = sent {
            // A server that hung up meanwhile may have said why.
            let timely = error.kind() != Io::TimedOut;
            return Err(match timely.then(|| self.parser.parse_value(&mut incoming)) {
                Some(Ok(Value::ServerError(error))) => Failure::Refused(Refusal::of(&error)),
                _ => broken(error),
            });
        }
        while replies.len() < request.len() {
            match self.parser.parse_value(&mut incoming) {
                Ok(value) => replies.push(value),
                Err(_) if incoming.failed.is_some() => {
                    // A server that is full says so once, and hangs up.
                    if let Some(refusal) = replies.iter().find_map(refused) {
                        return Err(Failure::Refused(refusal));
                    }
                    return Err(broken(incoming.failed.unwrap_or_else(|| Io::UnexpectedEof.into())));
                }
                Err(error) => {
                    let error =
                        Error::new(ErrorKind::Corrupt, "the server's answer is not in Redis' protocol")
                            .source(error)
                            .hint("check that session.save_path names a Redis server")
                            .maybe_applied();
                    return Err(Failure::Failed(error));
                }
            }
        }
        // Bytes that nobody asked for would be taken for the next answer.
        let asked: Option<usize> = replies.iter().map(length).sum();
        if asked.is_some_and(|asked| asked != incoming.received) {
            return Err(Failure::Failed(
                Error::new(ErrorKind::Corrupt, "the server answered more than it was asked").maybe_applied(),
            ));
        }
        self.used = Instant::now();
        Ok(replies)
    }
}

/// How many bytes this reply had on the wire; `None` for those that have more than one form.
fn length(value: &Value) -> Option<usize> {
    let digits = |number: usize| number.checked_ilog10().unwrap_or(0) as usize + 1;
    Some(match value {
        Value::Nil | Value::Okay => 5,
        Value::Int(number) => {
            digits(usize::try_from(number.unsigned_abs()).ok()?) + 3 + usize::from(*number < 0)
        }
        Value::BulkString(bytes) => digits(bytes.len()) + 5 + bytes.len(),
        Value::Array(items) => digits(items.len()) + 3 + items.iter().map(length).sum::<Option<usize>>()?,
        _ => return None,
    })
}

fn broken(error: io::Error) -> Failure {
    ended_by(error).map_or_else(Failure::Cut, Failure::Failed)
}

/// The bytes of the replies, and why there are no more of them.
struct Incoming<'a> {
    conn: &'a mut Conn,
    by: Deadline,
    received: usize,
    failed: Option<io::Error>,
}

impl Read for &mut Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.conn.receive(buffer, self.by) {
            Ok(0) if !buffer.is_empty() => {
                self.failed = Some(io::Error::new(Io::UnexpectedEof, "the connection was closed"));
                Err(Io::UnexpectedEof.into())
            }
            Ok(read) => {
                self.received += read;
                Ok(read)
            }
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}
