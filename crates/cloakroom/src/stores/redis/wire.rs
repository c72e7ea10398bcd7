//! The connection to one server: requests out, replies in, nothing else.

use std::io::{self, ErrorKind as Io, Read};
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Parser, Value};

use super::options::Options;
use super::reply::{Refusal, unexpected};
use super::scripts::{By, Script};
use crate::net::{Conn, Dialer};
use crate::{Counters, Deadline, Error, ErrorKind, Result, Settings};

/// Commands that go out in one write, and are answered by as many replies.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    bytes: Vec<u8>,
    replies: usize,
}

impl Request {
    pub(super) fn of(command: &Cmd) -> Self {
        Request::default().and(command)
    }

    #[must_use]
    pub(super) fn and(mut self, command: &Cmd) -> Self {
        command.write_packed_command(&mut self.bytes);
        self.replies += 1;
        self
    }
}

/// Why an exchange brought no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection was dead, or died: the server may have done what was asked for.
    Cut(io::Error),
    /// The server refused.
    Refused(Refusal),
    /// It was not sent, took too long, or was not understood.
    Failed(Error),
}

/// When a new connection introduces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// In the same write as the first request. For requests that do no harm in database 0, or as the default user,
    /// when the introduction turns out to be refused.
    WithRequest,
    /// In an exchange of its own.
    Before,
}

/// The connection, opened at its first use, and what it has done.
#[derive(Debug)]
pub(super) struct Client {
    options: Arc<Options>,
    dialer: Arc<Dialer>,
    connect_timeout: Duration,
    timeout: Duration,
    link: Option<Link>,
    pub(super) counters: Counters,
}

#[derive(Debug)]
struct Link {
    conn: Conn,
    /// The process that opened it: a forked child leaves the parent's connection alone.
    pid: u32,
}

impl Client {
    pub(super) fn new(options: Arc<Options>, dialer: Arc<Dialer>, settings: &Settings) -> Self {
        Client {
            connect_timeout: options.connect_timeout.unwrap_or(settings.connect_timeout),
            timeout: options.timeout.unwrap_or(settings.timeout),
            options,
            dialer,
            link: None,
            counters: Counters::default(),
        }
    }

    /// A second client of the same server, for another thread.
    pub(super) fn another(&self) -> Client {
        Client {
            options: Arc::clone(&self.options),
            dialer: Arc::clone(&self.dialer),
            connect_timeout: self.connect_timeout,
            timeout: self.timeout,
            link: None,
            counters: Counters::default(),
        }
    }

    /// One exchange, within the time limit of one.
    pub(super) fn ask(
        &mut self,
        request: &Request,
        opening: Opening,
        by: Deadline,
    ) -> Result<Vec<Value>, Failure> {
        self.ask_patiently(request, opening, Duration::ZERO, by)
    }

    /// One exchange that the server may take this much longer to answer.
    pub(super) fn ask_patiently(
        &mut self,
        request: &Request,
        opening: Opening,
        longer: Duration,
        by: Deadline,
    ) -> Result<Vec<Value>, Failure> {
        // Taken out: whatever goes wrong below drops the connection, and with it what is still to come over it.
        let link = self.link.take().filter(|link| link.pid == std::process::id());
        let fresh = link.is_none();
        let mut link = match link {
            Some(link) => link,
            None => self.connect(by).map_err(Failure::Failed)?,
        };
        let by = by.within(self.timeout + longer);
        let mut introduced = 0;
        let introduction = if fresh { self.introduction() } else { Request::default() };
        let joined;
        let mut request = request;
        if introduction.replies > 0 {
            match opening {
                Opening::Before => {
                    let replies = link.exchange(&introduction, by)?;
                    self.check_introduction(&replies).map_err(Failure::Failed)?;
                }
                Opening::WithRequest => {
                    introduced = introduction.replies;
                    let mut bytes = introduction.bytes;
                    bytes.extend_from_slice(&request.bytes);
                    joined = Request { bytes, replies: introduced + request.replies };
                    request = &joined;
                }
            }
        }
        self.counters.exchanges += 1;
        let mut replies = link.exchange(request, by)?;
        if introduced > 0 {
            let rest = replies.split_off(introduced);
            self.check_introduction(&replies).map_err(Failure::Failed)?;
            replies = rest;
        }
        let refusal = replies.iter().find_map(refused);
        match refusal {
            Some(refusal) if refusal.elsewhere() => self.dialer.forget_addresses(),
            _ => self.link = Some(link),
        }
        Ok(replies)
    }

    /// Runs a script, by its text where the server does not know its hash.
    pub(super) fn run(
        &mut self,
        script: &Script,
        session: &[u8],
        arguments: &[&[u8]],
        opening: Opening,
        by: Deadline,
    ) -> Result<Value, Failure> {
        match one(self.ask(&script.call(By::Hash, session, arguments), opening, by)?) {
            Err(Failure::Refused(refusal)) if refusal.unknown_script() => {
                one(self.ask(&script.call(By::Text, session, arguments), opening, by)?)
            }
            answer => answer,
        }
    }

    /// Does it again over a new connection if the first was cut, and says whether it was.
    pub(super) fn twice<T>(
        &mut self,
        mut exchange: impl FnMut(&mut Self) -> Result<T, Failure>,
    ) -> Result<(T, Again), Failure> {
        match exchange(self) {
            Err(Failure::Cut(_)) => {
                self.counters.retries += 1;
                // Whatever becomes of the second attempt, the first may have been carried out.
                match exchange(self) {
                    Err(Failure::Failed(error)) => Err(Failure::Failed(error.maybe_applied())),
                    answer => Ok((answer?, Again::Yes)),
                }
            }
            answer => Ok((answer?, Again::No)),
        }
    }

    /// Drops the connection if it is seen to be dead: what is sent next is then known not to be lost with it.
    pub(super) fn look_alive(&mut self) {
        if self.link.as_ref().is_some_and(|link| !link.conn.is_quiet()) {
            self.link = None;
        }
    }

    /// The failure as the user's error.
    pub(super) fn error(&self, failure: Failure) -> Error {
        match failure {
            Failure::Failed(error) => error,
            Failure::Refused(refusal) => refusal.error(self.options.ignored_userinfo),
            Failure::Cut(error) => Error::new(ErrorKind::Unreachable, "the server cut the connection")
                .source(error)
                .hint("see the server's log; a firewall or a proxy between may cut connections too")
                .maybe_applied(),
        }
        .on(self.options.shown.as_str())
    }

    fn connect(&mut self, by: Deadline) -> Result<Link> {
        let conn = self.dialer.dial(self.timeout, by.within(self.connect_timeout))?;
        self.counters.connects += 1;
        Ok(Link { conn, pid: std::process::id() })
    }

    fn introduction(&self) -> Request {
        let mut request = Request::default();
        if let Some(credentials) = &self.options.credentials {
            let mut auth = redis::cmd("AUTH");
            if let Some(user) = &credentials.user {
                auth.arg(user);
            }
            auth.arg(credentials.password.reveal());
            request = request.and(&auth);
        }
        if self.options.database > 0 {
            request = request.and(redis::cmd("SELECT").arg(self.options.database));
        }
        request
    }

    fn check_introduction(&self, replies: &[Value]) -> Result<()> {
        match replies.iter().find_map(refused) {
            Some(refusal) => Err(refusal.error(self.options.ignored_userinfo)),
            None => Ok(()),
        }
    }
}

/// Whether an exchange had to be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Yes,
    No,
}

fn refused(value: &Value) -> Option<Refusal> {
    match value {
        Value::ServerError(error) => Some(Refusal::of(error)),
        _ => None,
    }
}

/// A reply that is not a refusal.
pub(super) fn sound(value: Value) -> Result<Value, Failure> {
    match refused(&value) {
        Some(refusal) => Err(Failure::Refused(refusal)),
        None => Ok(value),
    }
}

/// The only reply of a request.
pub(super) fn one(replies: Vec<Value>) -> Result<Value, Failure> {
    sound(replies.into_iter().next().unwrap_or_default())
}

/// A stored value, or that there is none.
pub(super) fn stored(value: Value) -> Result<Option<Vec<u8>>, Failure> {
    match sound(value)? {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        other => Err(Failure::Failed(unexpected(&other))),
    }
}

/// A number.
pub(super) fn number(value: Value) -> Result<i64, Failure> {
    match sound(value)? {
        Value::Int(number) => Ok(number),
        other => Err(Failure::Failed(unexpected(&other))),
    }
}

impl Link {
    fn exchange(&mut self, request: &Request, by: Deadline) -> Result<Vec<Value>, Failure> {
        self.conn.send(&request.bytes, by).map_err(broken)?;
        let mut replies = Vec::with_capacity(request.replies);
        // A parser for this exchange alone: no byte of an earlier one can be left in it.
        let mut parser = Parser::new();
        let mut incoming = Incoming { conn: &mut self.conn, by, failed: None };
        while replies.len() < request.replies {
            match parser.parse_value(&mut incoming) {
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
        Ok(replies)
    }
}

fn broken(error: io::Error) -> Failure {
    match error.kind() {
        Io::TimedOut => Failure::Failed(
            Error::new(ErrorKind::Timeout, "the server did not answer in time")
                .hint("see what keeps it busy, or raise cloakroom.timeout")
                .maybe_applied(),
        ),
        _ => Failure::Cut(error),
    }
}

/// The bytes of the replies, and why there are no more of them.
struct Incoming<'a> {
    conn: &'a mut Conn,
    by: Deadline,
    failed: Option<io::Error>,
}

impl Read for &mut Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.conn.receive(buffer, self.by) {
            Ok(0) if !buffer.is_empty() => {
                self.failed = Some(io::Error::new(Io::UnexpectedEof, "the connection was closed"));
                Err(Io::UnexpectedEof.into())
            }
            Ok(read) => Ok(read),
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}
