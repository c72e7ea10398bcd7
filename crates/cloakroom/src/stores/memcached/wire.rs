//! The connection to one server: what it is asked goes out in one write, its answers come back in order.

mod ascii;
mod binary;
mod introduction;
mod link;
mod refusal;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::options::{Credentials, Endpoint, Options, Protocol};
use crate::net::{Dialer, Tls};
use crate::{Counters, Deadline, Error, ErrorKind, Result, Settings};

use introduction::{Dialect, Introduction, Login, Speech};
use link::Link;
pub(super) use refusal::Refusal;

/// The longest key of Memcached, in bytes.
const LONGEST_KEY: usize = 250;

/// How long connections are closed after each request once a server had no room for another one.
const NO_ROOM: Duration = Duration::from_secs(60);

/// One thing that a server is asked to do, and what it may answer beside [`Answer::Refused`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask<'a> {
    /// Reads: [`Answer::Item`] or [`Answer::Missing`].
    Get { key: &'a [u8] },
    /// Stores what is not there: [`Answer::Done`] or [`Answer::Differs`].
    Add { key: &'a [u8], value: &'a [u8], expiry: Expiry },
    /// Stores in any case: [`Answer::Done`]. Where it is refused, what was there may be gone.
    Set { key: &'a [u8], value: &'a [u8], expiry: Expiry },
    /// Stores over this version alone, which stays where that is refused: [`Answer::Done`], [`Answer::Differs`] or [`Answer::Missing`].
    Swap { key: &'a [u8], value: &'a [u8], expiry: Expiry, version: u64 },
    /// Adds to the end of what is there: [`Answer::Done`] or [`Answer::Missing`].
    Append { key: &'a [u8], value: &'a [u8] },
    /// Prolongs its life: [`Answer::Done`] or [`Answer::Missing`].
    Touch { key: &'a [u8], expiry: Expiry },
    /// Removes this version alone: [`Answer::Done`], [`Answer::Differs`] or [`Answer::Missing`].
    Remove { key: &'a [u8], version: u64 },
    /// Removes in any case: [`Answer::Done`] or [`Answer::Missing`].
    Delete { key: &'a [u8] },
    /// Asks how long it lives: [`Answer::Life`] or [`Answer::Missing`], or [`Answer::Item`] where no command tells that.
    Life { key: &'a [u8] },
    /// What the server says of itself, a group of it: [`Answer::Stats`].
    Stats { group: &'a str },
}

/// What a server answers to an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The value, and the version that [`Ask::Swap`] and [`Ask::Remove`] compare (Memcached's CAS).
    Item {
        value: Vec<u8>,
        version: u64,
    },
    Done,
    /// There is something else.
    Differs,
    /// There is nothing.
    Missing,
    /// Seconds, unless it lives for ever.
    Life(Option<u32>),
    /// Names and values.
    Stats(Vec<(String, String)>),
    Refused(Refusal),
}

impl Answer {
    /// The refusal that leaves it open how the server reads what follows.
    fn unsettling(&self) -> Option<&Refusal> {
        match self {
            Answer::Refused(Refusal::TooLarge { .. } | Refusal::NoMemory(_)) => None,
            Answer::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// When an item ends, as Memcached counts: seconds up to 30 days, beyond that the time of the clock, in 31 bits. What is to end
/// later than those can say (January 2038) ends then: the text protocol takes more for a time that has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expiry(pub(super) u32);

impl Expiry {
    /// This long from now, rounded up.
    pub(super) fn after(life: Duration) -> Self {
        const LAST: u32 = i32::MAX.unsigned_abs();
        const RELATIVE: u64 = 30 * 24 * 3600;
        let seconds = life.as_secs().saturating_add(u64::from(life.subsec_nanos() > 0));
        let seconds = match seconds {
            ..=RELATIVE => seconds.max(1),
            _ => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| now.as_secs())
                .saturating_add(seconds),
        };
        Expiry(u32::try_from(seconds).map_or(LAST, |seconds| seconds.min(LAST)))
    }
}

/// Why an exchange brought no answers.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection was dead, or died: the server may have done what was asked for.
    Cut(io::Error),
    /// It was not sent, took too long, or was not understood.
    Failed(Error),
}

/// How far [`Client::walk`] went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walked {
    Whole,
    Partly,
}

/// The connection, opened at its first use, and what it has done.
pub(super) struct Client {
    endpoint: Endpoint,
    dialer: Arc<Dialer>,
    connect_timeout: Duration,
    timeout: Duration,
    protocol: Protocol,
    credentials: Option<Credentials>,
    /// How the server is spoken to, once that was found out.
    dialect: Option<Dialect>,
    link: Option<Link>,
    /// The process that opened the connection.
    pid: u32,
    /// Whether the server had no room for the last connection.
    turned_away: bool,
    /// Until when connections are closed after each request, for others to find room.
    closes_until: Option<Instant>,
    /// Whether the last connection ended without a word of the server.
    silent: bool,
    counters: Counters,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({}, {:?})", self.endpoint.shown, self.counters)
    }
}

impl Client {
    pub(super) fn new(
        endpoint: &Endpoint,
        options: &Options,
        tls: Option<Arc<Tls>>,
        settings: &Settings,
    ) -> Self {
        Client {
            dialer: Arc::new(Dialer::new(endpoint.address.clone(), tls)),
            endpoint: endpoint.clone(),
            connect_timeout: options.connect_timeout.unwrap_or(settings.connect_timeout),
            timeout: options.timeout.unwrap_or(settings.timeout),
            protocol: options.protocol,
            credentials: options.credentials.clone(),
            dialect: None,
            link: None,
            pid: 0,
            turned_away: false,
            closes_until: None,
            silent: false,
            counters: Counters::default(),
        }
    }

    /// A second client of the same server, for another thread.
    pub(super) fn another(&self) -> Client {
        Client {
            endpoint: self.endpoint.clone(),
            dialer: Arc::clone(&self.dialer),
            connect_timeout: self.connect_timeout,
            timeout: self.timeout,
            protocol: self.protocol,
            credentials: self.credentials.clone(),
            dialect: self.dialect,
            link: None,
            pid: 0,
            turned_away: false,
            closes_until: None,
            silent: false,
            counters: Counters::default(),
        }
    }

    /// One exchange: an answer to each question, in their order. Answers that nobody waited for yet, of
    /// [`tell`](Self::tell), are read first.
    pub(super) fn ask(&mut self, asks: &[Ask<'_>], by: Deadline) -> Result<Vec<Answer>, Failure> {
        sound(asks)?;
        let timeout = self.timeout;
        self.talk(by, |link, counters| {
            counters.exchanges += 1;
            link.exchange(asks, by.within(timeout))
        })
    }

    /// Sends without waiting for the answers.
    pub(super) fn tell(&mut self, asks: &[Ask<'_>], by: Deadline) -> Result<(), Failure> {
        sound(asks)?;
        let timeout = self.timeout;
        self.talk(by, |link, _| link.tell(asks, by.within(timeout)))
    }

    /// Sends a line of text, and calls `each` with every line of the answer up to `END`, until it answers false. `Err` in
    /// the answer is the server's refusal. Only over a connection that speaks text.
    pub(super) fn walk(
        &mut self,
        command: &str,
        each: &mut dyn FnMut(&str) -> bool,
        by: Deadline,
    ) -> Result<Result<Walked, String>, Failure> {
        let timeout = self.timeout;
        let walked = self.talk(by, |link, counters| {
            if link.speech == Speech::Binary {
                return Ok(Err("it speaks the binary protocol alone".into()));
            }
            counters.exchanges += 1;
            link.settle(by.within(timeout))?;
            link.send(command.as_bytes(), by.within(timeout))?;
            loop {
                let line = link.line(by.within(timeout))?;
                match line.as_str() {
                    "END" => return Ok(Ok(Walked::Whole)),
                    _ if is_refusal(&line) => return Ok(Err(line)),
                    _ if !each(&line) => return Ok(Ok(Walked::Partly)),
                    _ => {}
                }
            }
        });
        if matches!(walked, Ok(Ok(Walked::Partly))) {
            // What is still to come goes with the connection.
            self.link = None;
        }
        walked
    }

    /// Drops the connection if it died while it was idle: what is sent next is then known not to be lost with it.
    pub(super) fn look_alive(&mut self, by: Deadline) {
        self.look_around();
        let by = by.within(self.timeout);
        if self.link.as_mut().is_some_and(|link| link.is_dead(by)) {
            self.link = None;
        }
    }

    /// Ends a request: the connection is closed where clients find no room at the server.
    pub(super) fn rest(&mut self, by: Deadline) {
        let Some(until) = self.closes_until else { return };
        if Instant::now() >= until {
            self.closes_until = None;
        } else if let Some(mut link) = self.link.take() {
            // Closed before its answers have come, it could take with it what the server has not read yet.
            let _ = link.settle(by.within(self.timeout));
        }
    }

    /// Leaves the connection alone if another process opened it: a forked child has a copy of its parent's.
    pub(super) fn look_around(&mut self) {
        let pid = std::process::id();
        if self.pid != pid {
            self.pid = pid;
            self.link = None;
        }
    }

    /// How many connections it has opened: a number that grew in between says that the server may have been another one,
    /// or restarted.
    pub(super) fn connects(&self) -> u64 {
        self.counters.connects
    }

    /// Whether there is a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// The server by its masked URL.
    pub(super) fn shown(&self) -> &str {
        &self.endpoint.shown
    }

    /// What it has done.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// Counts an exchange that is asked for again.
    pub(super) fn count_retry(&mut self) {
        self.counters.retries += 1;
    }

    /// The failure as the user's error.
    pub(super) fn error(&self, failure: Failure) -> Error {
        let error = match failure {
            Failure::Failed(error) => error,
            Failure::Cut(error) => Error::new(ErrorKind::Unreachable, "the server cut the connection")
                .source(error)
                .hint(match self.protocol {
                    Protocol::Ascii | Protocol::Meta if self.silent => {
                        "it may speak the binary protocol alone (-S): leave protocol= out of session.save_path, and name \
                         a user and a password there"
                    }
                    _ => "see the server's log; a firewall or a proxy between may cut connections too",
                })
                .maybe_applied(),
        };
        error.on(self.endpoint.shown.as_str())
    }

    /// The refusal as the user's error.
    pub(super) fn refusal(&self, refusal: &Refusal) -> Error {
        refusal.error().on(self.endpoint.shown.as_str())
    }

    /// Over the connection, or a new one. A server that has as many connections as it takes turns new ones away before it reads
    /// what they ask.
    fn talk<T>(
        &mut self,
        by: Deadline,
        mut talk: impl FnMut(&mut Link, &mut Counters) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut pause = Duration::from_millis(2);
        loop {
            let talked = self.talk_once(by, &mut talk);
            if !std::mem::take(&mut self.turned_away) || by.remaining() < pause {
                return talked;
            }
            self.counters.turned_away += 1;
            self.closes_until = Some(Instant::now() + NO_ROOM);
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn talk_once<T>(
        &mut self,
        by: Deadline,
        talk: &mut impl FnMut(&mut Link, &mut Counters) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        // Taken out: whatever goes wrong below drops the connection, and with it what is still to come over it.
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.connect(by)?,
        };
        let talked = talk(&mut link, &mut self.counters);
        self.turned_away = link.turned_away;
        self.silent = !link.heard;
        match link.unsettled {
            // The server may be another one by now.
            true => self.dialect = None,
            false if talked.is_ok() => self.link = Some(link),
            false => {}
        }
        talked
    }

    fn connect(&mut self, by: Deadline) -> Result<Link, Failure> {
        let Client { dialer, connect_timeout, timeout, counters, .. } = self;
        let mut dial = || {
            let conn = dialer.dial(*timeout, by.within(*connect_timeout)).map_err(Failure::Failed)?;
            counters.connects += 1;
            Ok(Link::new(conn))
        };
        let mut introduction = Introduction {
            protocol: self.protocol,
            credentials: self.credentials.as_ref(),
            dial: &mut dial,
            by: &|| by.within(*timeout),
            turned_away: false,
        };
        let made = introduction.make(self.dialect);
        self.turned_away = introduction.turned_away;
        self.pid = std::process::id();
        match made {
            Ok((link, dialect)) => {
                self.dialect = Some(dialect);
                Ok(link)
            }
            Err(failure) => {
                // The server may be another one by now.
                if self.dialect.is_some_and(|known| known.login != Login::None) && !self.turned_away {
                    self.dialect = None;
                }
                Err(failure)
            }
        }
    }
}

/// Keys are part of the text that a server reads: none may end a command and begin another.
fn sound(asks: &[Ask<'_>]) -> Result<(), Failure> {
    let sound = |key: &[u8]| {
        (1..=LONGEST_KEY).contains(&key.len()) && key.iter().all(|byte| *byte > b' ' && *byte != 0x7f)
    };
    let mut keys = asks.iter().filter_map(Ask::key);
    match keys.all(sound) {
        true => Ok(()),
        false => Err(Failure::Failed(Error::new(ErrorKind::Bug, "not a key of Memcached"))),
    }
}

impl Ask<'_> {
    fn key(&self) -> Option<&[u8]> {
        match self {
            Ask::Get { key }
            | Ask::Life { key }
            | Ask::Add { key, .. }
            | Ask::Set { key, .. }
            | Ask::Swap { key, .. }
            | Ask::Append { key, .. }
            | Ask::Touch { key, .. }
            | Ask::Remove { key, .. }
            | Ask::Delete { key } => Some(key),
            Ask::Stats { .. } => None,
        }
    }
}

/// Whether this is the server's word that it does not do what it was asked for.
fn is_refusal(line: &str) -> bool {
    line == "ERROR"
        || ["ERROR ", "CLIENT_ERROR ", "SERVER_ERROR ", "BUSY "].iter().any(|start| line.starts_with(start))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
