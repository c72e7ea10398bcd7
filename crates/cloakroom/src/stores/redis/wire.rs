//! The connection to one server: requests out, replies in, nothing else.

mod link;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::Value;

use super::options::{Credentials, Endpoint};
use super::reply::{Refusal, unexpected};
use crate::net::{Dialer, TlsOptions};
use crate::{Counters, Deadline, Error, ErrorKind, Outcome, Result, Settings};

use link::Link;

/// How long connections are closed after each request once a server had no room for another client.
const NO_ROOM: Duration = Duration::from_secs(60);

/// Commands that go out in one write, and are answered by as many replies.
#[derive(Clone, Default)]
pub(super) struct Request {
    bytes: Vec<u8>,
    /// Where each command ends.
    ends: Vec<usize>,
    /// Whether the last command is about the one before it, and goes wherever that goes.
    sticks: bool,
}

impl Request {
    pub(super) fn of(command: &[&[u8]]) -> Self {
        let mut request = Request::default();
        request.push(command, &[]);
        request
    }

    #[must_use]
    pub(super) fn and(mut self, command: &[&[u8]]) -> Self {
        self.push(command, &[]);
        self
    }

    /// Adds a command, given in two parts, as an array of bulk strings: Redis' protocol for requests.
    pub(super) fn push(&mut self, command: &[&[u8]], rest: &[&[u8]]) {
        let words = || command.iter().chain(rest);
        self.bytes.reserve(words().map(|word| word.len() + 16).sum::<usize>() + 16);
        self.head(b'*', command.len() + rest.len());
        for word in words() {
            self.head(b'$', word.len());
            self.bytes.extend_from_slice(word);
            self.bytes.extend_from_slice(b"\r\n");
        }
        self.ends.push(self.bytes.len());
    }

    /// Adds a command about the one before it.
    pub(super) fn push_about(&mut self, command: &[&[u8]]) {
        self.push(command, &[]);
        self.sticks = true;
    }

    /// How many commands these are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The first command, and what is about it.
    pub(super) fn first(&self) -> Request {
        let count = if self.sticks && self.len() == 2 { 2 } else { self.len().min(1) };
        let ends = self.ends[..count].to_vec();
        let end = ends.last().copied().unwrap_or(0);
        Request { bytes: self.bytes[..end].to_vec(), ends, sticks: count == 2 }
    }

    /// The commands from this one on.
    pub(super) fn from(&self, index: usize) -> Request {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        let ends = self.ends[index..].iter().map(|end| end - start);
        Request { bytes: self.bytes[start..].to_vec(), ends: ends.collect(), sticks: self.sticks }
    }

    /// These commands after those of `first`.
    pub(super) fn after(&self, first: Request) -> Request {
        let Request { mut bytes, mut ends, .. } = first;
        let start = bytes.len();
        bytes.extend_from_slice(&self.bytes);
        ends.extend(self.ends.iter().map(|end| start + end));
        Request { bytes, ends, sticks: self.sticks }
    }

    fn head(&mut self, sign: u8, length: usize) {
        self.bytes.push(sign);
        self.bytes.extend_from_slice(length.to_string().as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
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

impl Failure {
    /// Whether the same may be answered a moment later: the server is gone, or refuses by what `refusal_passes`.
    pub(super) fn passes(&self, refusal_passes: fn(&Refusal) -> bool) -> bool {
        match self {
            Failure::Cut(_) => true,
            Failure::Refused(refusal) => refusal_passes(refusal),
            Failure::Failed(error) => matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout),
        }
    }

    /// Whether it was sent and not answered in time: that is not sent again.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(self, Failure::Failed(error) if error.outcome() == Outcome::Unknown)
    }

    /// Whether it was not sent in time.
    fn is_unsent(&self) -> bool {
        let timeout = matches!(self, Failure::Failed(error) if error.kind() == ErrorKind::Timeout);
        timeout && !self.is_unanswered()
    }

    /// Whether nothing was heard of the server.
    fn is_silence(&self) -> bool {
        self.is_unsent() || self.is_unanswered() || matches!(self, Failure::Cut(_))
    }
}

/// When a new connection introduces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// In the same write as the first request, once it was accepted before. For requests that do no harm in database 0, or
    /// as the default user, when the introduction turns out to be refused.
    WithRequest,
    /// In an exchange of its own.
    Before,
}

/// The connection, opened at its first use, and what it has done.
pub(super) struct Client {
    endpoint: Arc<Endpoint>,
    dialer: Arc<Dialer>,
    connect_timeout: Duration,
    timeout: Duration,
    link: Option<Link>,
    /// The process that opened the connection.
    pid: u32,
    /// Whether a new connection asks for the server's role, and takes none but a primary.
    wants_primary: bool,
    /// Whether the server does not know the user of the URL, but the password; known to clients for other threads, too.
    password_alone: Arc<AtomicBool>,
    /// Whether an introduction was accepted before. Until then nothing is sent along with one: a lock would be taken as the
    /// default user, or in database 0.
    accepted: bool,
    /// Whether the last introduction failed by its user or password.
    user_refused: bool,
    /// Whether the server had no room for the last connection.
    turned_away: Option<Refusal>,
    /// When the server took no more clients, and what it said, until it is heard of otherwise.
    full: Option<(Instant, Refusal)>,
    /// Until when connections are closed after each request, for others to find room.
    closes_until: Option<Instant>,
    counters: Counters,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({}, {:?})", self.endpoint.shown, self.counters)
    }
}

impl Client {
    pub(super) fn new(endpoint: Arc<Endpoint>, dialer: Arc<Dialer>, settings: &Settings) -> Self {
        Client {
            connect_timeout: endpoint.connect_timeout.unwrap_or(settings.connect_timeout),
            timeout: endpoint.timeout.unwrap_or(settings.timeout),
            endpoint,
            dialer,
            link: None,
            pid: 0,
            wants_primary: false,
            password_alone: Arc::default(),
            accepted: false,
            user_refused: false,
            turned_away: None,
            full: None,
            closes_until: None,
            counters: Counters::default(),
        }
    }

    /// The same, for a server that is to be a primary.
    pub(super) fn of_primary(self) -> Self {
        Client { wants_primary: true, ..self }
    }

    /// A second client of the same server, for another thread.
    pub(super) fn another(&self) -> Client {
        Client {
            endpoint: Arc::clone(&self.endpoint),
            dialer: Arc::clone(&self.dialer),
            connect_timeout: self.connect_timeout,
            timeout: self.timeout,
            link: None,
            pid: 0,
            wants_primary: self.wants_primary,
            password_alone: Arc::clone(&self.password_alone),
            accepted: self.accepted,
            user_refused: false,
            turned_away: None,
            full: None,
            closes_until: None,
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
        // A server that has as many clients as it takes turns new ones away before it reads what they ask.
        let mut pause = Duration::from_millis(2);
        loop {
            let asked = self.introduced(request, opening, longer, by);
            let Some(refusal) = self.turned_away.take() else {
                let heard = !asked.as_ref().is_err_and(Failure::is_silence);
                self.full.take_if(|(when, _)| heard || when.elapsed() >= NO_ROOM);
                return match (asked, &self.full) {
                    // Nobody could answer in no time: what the server said last says more.
                    (Err(failure), Some((_, refusal))) if by.passed() && failure.is_unsent() => {
                        Err(Failure::Refused(refusal.clone()))
                    }
                    (asked, _) => asked,
                };
            };
            self.full = Some((Instant::now(), refusal));
            if by.remaining() < pause {
                return asked;
            }
            self.counters.turned_away += 1;
            self.closes_until = Some(Instant::now() + NO_ROOM);
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn introduced(
        &mut self,
        request: &Request,
        opening: Opening,
        longer: Duration,
        by: Deadline,
    ) -> Result<Vec<Value>, Failure> {
        let asked = self.exchange(request, opening, longer, by);
        if !std::mem::take(&mut self.user_refused) || self.password_alone() {
            return asked;
        }
        // Platforms give out URLs with a user that the server does not know, such as Heroku's "h".
        self.password_alone.store(true, Ordering::Relaxed);
        let asked_again = self.exchange(request, opening, longer, by);
        if std::mem::take(&mut self.user_refused) {
            self.password_alone.store(false, Ordering::Relaxed);
            return asked;
        }
        asked_again
    }

    fn exchange(
        &mut self,
        request: &Request,
        opening: Opening,
        longer: Duration,
        by: Deadline,
    ) -> Result<Vec<Value>, Failure> {
        // Taken out: whatever goes wrong below drops the connection, and with it what is still to come over it.
        let link = self.link.take();
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
        if introduction.len() > 0 {
            match opening {
                Opening::WithRequest if self.accepted => {
                    introduced = introduction.len();
                    joined = request.after(introduction);
                    request = &joined;
                }
                Opening::Before | Opening::WithRequest => {
                    let replies = link.exchange(&introduction, by);
                    self.turned_away = refusal_in(&replies).filter(Refusal::no_room);
                    let replies = replies?;
                    self.check_introduction(&replies).map_err(Failure::Failed)?;
                    self.accepted = true;
                }
            }
        }
        self.counters.exchanges += 1;
        let answered = link.exchange(request, by);
        if fresh {
            self.turned_away = refusal_in(&answered).filter(Refusal::no_room);
        }
        let mut replies = match answered {
            // A server that does not know us hangs up on requests of some size.
            Err(Failure::Refused(refusal)) if introduced > 0 => {
                return Err(Failure::Failed(self.not_introduced(&refusal)));
            }
            replies => replies?,
        };
        if introduced > 0 {
            let rest = replies.split_off(introduced);
            self.check_introduction(&replies).map_err(Failure::Failed)?;
            replies = rest;
        }
        let refusal = replies.iter().find_map(refused);
        match refusal {
            Some(refusal) if refusal.elsewhere() => self.dialer.forget_addresses(),
            // The server has hung up.
            Some(refusal) if refusal.no_room() => {}
            _ => {
                self.link = Some(link);
            }
        }
        Ok(replies)
    }

    /// Drops the connection if it died while it was idle: what is sent next is then known not to be lost with it.
    pub(super) fn look_alive(&mut self) {
        if self.link.as_ref().is_some_and(Link::is_dead) {
            self.link = None;
        }
    }

    /// Ends a request: the connection is closed where clients find no room at the server.
    pub(super) fn rest(&mut self, by: Deadline) {
        let Some(until) = self.closes_until else { return };
        if Instant::now() >= until {
            let clients =
                self.ask(&Request::of(&[b"INFO", b"clients"]), Opening::WithRequest, by).and_then(one);
            let clients = match clients {
                Ok(Value::BulkString(info)) => clients_in(&String::from_utf8_lossy(&info)),
                _ => None,
            };
            self.closes_until = None;
            if !self.is_full_by(clients) {
                return;
            }
        }
        self.link = None;
    }

    /// Whether the server has as good as no room for more clients, by how many it has and takes.
    pub(super) fn is_full_by(&mut self, clients: Option<(u64, u64)>) -> bool {
        if let Some((connected, most)) = clients
            && connected.saturating_mul(10) >= most.saturating_mul(9)
        {
            self.closes_until = Some(Instant::now() + NO_ROOM);
        }
        self.closes_until.is_some()
    }

    /// Closes the connection, which is not needed for now.
    pub(super) fn close(&mut self) {
        self.link = None;
    }

    /// Leaves the connection alone if another process opened it: a forked child has a copy of its parent's.
    pub(super) fn look_around(&mut self) {
        let pid = std::process::id();
        if self.pid != pid {
            self.pid = pid;
            self.link = None;
        }
    }

    /// What it has done.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// Its part of the URL with its secrets masked.
    pub(super) fn shown(&self) -> &str {
        &self.endpoint.shown
    }

    /// Whether there is a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// Whether the server does not know the user of the URL, but the password.
    pub(super) fn password_alone(&self) -> bool {
        self.password_alone.load(Ordering::Relaxed)
    }

    /// Counts an exchange that is asked for again.
    pub(super) fn count_retry(&mut self) {
        self.counters.retries += 1;
    }

    /// The refusal as the user's error.
    pub(super) fn refusal(&self, refusal: &Refusal) -> Error {
        refusal.error(self.endpoint.ignored_userinfo)
    }

    /// The failure as the user's error.
    pub(super) fn error(&self, failure: Failure) -> Error {
        error_on(&self.endpoint, failure)
    }

    /// The error with the store's name.
    pub(super) fn locate(&self, error: Error) -> Error {
        error.on(self.endpoint.shown.as_str())
    }

    fn connect(&mut self, by: Deadline) -> Result<Link> {
        let conn = self.dialer.dial(self.timeout, by.within(self.connect_timeout))?;
        self.counters.connects += 1;
        self.pid = std::process::id();
        Ok(Link::new(conn))
    }

    fn introduction(&self) -> Request {
        let mut request = Request::default();
        if let Some(Credentials { user, password }) = &self.endpoint.credentials {
            let password = password.reveal().as_bytes();
            match user.as_ref().filter(|_| !self.password_alone()) {
                Some(user) => request.push(&[b"AUTH", user.as_bytes(), password], &[]),
                None => request.push(&[b"AUTH", password], &[]),
            }
        }
        if self.endpoint.database > 0 {
            request.push(&[b"SELECT", self.endpoint.database.to_string().as_bytes()], &[]);
        }
        if self.wants_primary {
            request.push(&[b"ROLE"], &[]);
        }
        request
    }

    fn check_introduction(&mut self, replies: &[Value]) -> Result<()> {
        let (role, replies) = match replies.split_last() {
            Some((role, before)) if self.wants_primary => (Some(role), before),
            _ => (None, replies),
        };
        if let Some(refusal) = replies.iter().find_map(refused) {
            return Err(self.not_introduced(&refusal));
        }
        match role {
            Some(Value::Array(role)) if matches!(role.first(), Some(Value::BulkString(name)) if name == b"master") => {
                Ok(())
            }
            Some(Value::Array(_)) => Err(Error::new(ErrorKind::Unreachable, "the server is not the primary")
                .hint("wait for the failover; if it lasts, compare SENTINEL MASTERS of all sentinels")),
            Some(role) => match refused(role) {
                // A replica then says so when it is to write.
                Some(refusal) if refusal.forbidden() => Ok(()),
                Some(refusal) => Err(self.not_introduced(&refusal)),
                None => Err(unexpected(role)),
            },
            None => Ok(()),
        }
    }

    fn not_introduced(&mut self, refusal: &Refusal) -> Error {
        let named = self.endpoint.credentials.as_ref().is_some_and(|known| known.user.is_some());
        self.user_refused = named && refusal.about_credentials();
        self.refusal(refusal)
    }
}

/// The first refusal among the answers.
fn refusal_in(answers: &Result<Vec<Value>, Failure>) -> Option<Refusal> {
    match answers {
        Ok(replies) => replies.iter().find_map(refused),
        Err(Failure::Refused(refusal)) => Some(refusal.clone()),
        Err(_) => None,
    }
}

/// The failure as the user's error.
pub(super) fn error_on(endpoint: &Endpoint, failure: Failure) -> Error {
    let error = match failure {
        Failure::Failed(error) => error,
        Failure::Refused(refusal) => refusal.error(endpoint.ignored_userinfo),
        Failure::Cut(error) => Error::new(ErrorKind::Unreachable, "the server cut the connection")
            .source(error)
            .hint(match &endpoint.tls {
                Some(TlsOptions { identity: None, .. }) => {
                    "see the server's log: it may want a client's certificate (local_cert=)"
                }
                _ => "see the server's log; a firewall or a proxy between may cut connections too",
            })
            .maybe_applied(),
    };
    error.on(endpoint.shown.as_str())
}

pub(super) fn refused(value: &Value) -> Option<Refusal> {
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

/// How many clients are connected, and how many may be, as `INFO` says.
pub(super) fn clients_in(info: &str) -> Option<(u64, u64)> {
    let number = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some((number("connected_clients:")?, number("maxclients:")?))
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
