//! The connection to one server: what it is asked goes out in one write, its answers come back in order.

mod ascii;
mod link;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::options::{Endpoint, Options};
use crate::net::{Dialer, Tls};
use crate::{Counters, Deadline, Error, ErrorKind, Result, Settings};

use link::Link;

/// One thing that a server is asked to do, and what it may answer beside [`Answer::Refused`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask<'a> {
    /// Reads: [`Answer::Item`] or [`Answer::Missing`].
    Get { key: &'a [u8] },
    /// Stores what is not there: [`Answer::Done`] or [`Answer::Differs`].
    Add { key: &'a [u8], value: &'a [u8], expiry: Expiry },
    /// Stores in any case: [`Answer::Done`].
    Set { key: &'a [u8], value: &'a [u8], expiry: Expiry },
    /// Stores over this version alone: [`Answer::Done`], [`Answer::Differs`] or [`Answer::Missing`].
    Swap { key: &'a [u8], value: &'a [u8], expiry: Expiry, version: u64 },
    /// Adds to the end of what is there: [`Answer::Done`] or [`Answer::Missing`].
    Append { key: &'a [u8], value: &'a [u8] },
    /// Prolongs its life: [`Answer::Done`] or [`Answer::Missing`].
    Touch { key: &'a [u8], expiry: Expiry },
    /// Removes this version alone: [`Answer::Done`], [`Answer::Differs`] or [`Answer::Missing`].
    Remove { key: &'a [u8], version: u64 },
    /// Removes in any case: [`Answer::Done`] or [`Answer::Missing`].
    Delete { key: &'a [u8] },
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
    /// Names and values.
    Stats(Vec<(String, String)>),
    /// The server's own words, such as `SERVER_ERROR out of memory storing object`.
    Refused(String),
}

/// When an item ends, as Memcached counts: seconds up to 30 days, beyond that the time of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expiry(pub(super) u32);

impl Expiry {
    /// This long from now, rounded up.
    pub(super) fn after(life: Duration) -> Self {
        const RELATIVE: u64 = 30 * 24 * 3600;
        let seconds = life.as_secs() + u64::from(life.subsec_nanos() > 0);
        let seconds = match seconds {
            ..=RELATIVE => seconds.max(1),
            _ => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()) + seconds,
        };
        Expiry(u32::try_from(seconds).unwrap_or(u32::MAX))
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
    link: Option<Link>,
    /// The process that opened the connection.
    pid: u32,
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
            link: None,
            pid: 0,
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
            link: None,
            pid: 0,
            counters: Counters::default(),
        }
    }

    /// One exchange: an answer to each question, in their order. Answers that nobody waited for yet, of
    /// [`tell`](Self::tell), are read first.
    pub(super) fn ask(&mut self, asks: &[Ask<'_>], by: Deadline) -> Result<Vec<Answer>, Failure> {
        // Taken out: whatever goes wrong below drops the connection, and with it what is still to come over it.
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.connect(by).map_err(Failure::Failed)?,
        };
        self.counters.exchanges += 1;
        let answers = link.exchange(asks, by.within(self.timeout))?;
        self.link = Some(link);
        Ok(answers)
    }

    /// Sends without waiting for the answers.
    pub(super) fn tell(&mut self, asks: &[Ask<'_>], by: Deadline) -> Result<(), Failure> {
        // TODO of the wire: leave the answers to the next exchange.
        self.ask(asks, by).map(drop)
    }

    /// Sends a line of text, and calls `each` with every line of the answer up to `END`, until it answers false. `Err` in
    /// the answer is the server's refusal. Only over a connection that speaks text.
    pub(super) fn walk(
        &mut self,
        command: &str,
        each: &mut dyn FnMut(&str) -> bool,
        by: Deadline,
    ) -> Result<Result<Walked, String>, Failure> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.connect(by).map_err(Failure::Failed)?,
        };
        self.counters.exchanges += 1;
        link.send(command.as_bytes(), by.within(self.timeout))?;
        loop {
            let line = link.line(by.within(self.timeout))?;
            match line.as_str() {
                "END" => break,
                _ if is_refusal(&line) => {
                    self.link = Some(link);
                    return Ok(Err(line));
                }
                // What is still to come goes with the connection.
                _ if !each(&line) => return Ok(Ok(Walked::Partly)),
                _ => {}
            }
        }
        self.link = Some(link);
        Ok(Ok(Walked::Whole))
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
                .hint("see the server's log; a firewall or a proxy between may cut connections too")
                .maybe_applied(),
        };
        error.on(self.endpoint.shown.as_str())
    }

    /// The refusal as the user's error.
    pub(super) fn refusal(&self, text: &str) -> Error {
        Error::new(ErrorKind::Corrupt, format!("the server refused: {text}")).on(self.endpoint.shown.as_str())
    }

    fn connect(&mut self, by: Deadline) -> Result<Link> {
        let conn = self.dialer.dial(self.timeout, by.within(self.connect_timeout))?;
        self.counters.connects += 1;
        self.pid = std::process::id();
        Ok(Link::new(conn))
    }
}

/// Whether this is the server's word that it does not do what it was asked for.
fn is_refusal(line: &str) -> bool {
    line == "ERROR"
        || ["ERROR ", "CLIENT_ERROR ", "SERVER_ERROR ", "BUSY "].iter().any(|start| line.starts_with(start))
}
