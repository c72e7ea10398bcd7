//! Redis Sentinel: which server is the primary, and which one is it now.
//!
//! | when | what goes on the wire |
//! |---|---|
//! | before a connection | `SENTINEL GET-MASTER-ADDR-BY-NAME`, to the sentinels in turn until one knows; the one that answered last comes first |
//! | on a new connection | `ROLE` after `AUTH` and `SELECT`, in the same write: only a primary will do |
//! | `READONLY`, `MASTERDOWN`, `LOADING`, `UNBLOCKED`, a connection that is cut or refused, another role | the same again after 1 to 20 ms, until the deadline |
//!
//! The connection to the sentinel that answers is kept while a primary is looked for. A primary that does not answer in
//! time ends the exchange, and the next one asks the sentinels first.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use super::options::Endpoint;
use super::reach::Attempts;

use super::reply::{Refusal, unexpected};
use super::wire::{Client, Failure, Opening, Request, error_on, one, refused, sound, stored};
use crate::net::{Address, Dialer, Tls};
use crate::{Counters, Deadline, Error, ErrorKind, Result, Settings};

/// The way to the server that the sentinels name.
pub(super) struct Sentinel {
    /// What holds for whichever server is the primary.
    endpoint: Arc<Endpoint>,
    settings: Settings,
    tls: Option<Arc<Tls>>,
    /// What the sentinels call the primary and its replicas.
    name: Arc<str>,
    /// Whom to ask, in this order.
    sentinels: Vec<Client>,
    /// The primary as it was last named.
    primary: Option<Box<Client>>,
    /// What was done over connections to primaries of before.
    closed: Counters,
    /// How often the primary was lost.
    losses: u64,
}

impl fmt::Debug for Sentinel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sentinel({}, {:?})", self.endpoint.shown, self.counters())
    }
}

impl Sentinel {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        name: &str,
        sentinels: Vec<Client>,
        tls: Option<Arc<Tls>>,
        settings: Settings,
    ) -> Self {
        let (primary, closed) = (None, Counters::default());
        Sentinel { endpoint, settings, tls, name: Arc::from(name), sentinels, primary, closed, losses: 0 }
    }

    /// Another way to the same servers, for another thread.
    pub(super) fn another(&self) -> Sentinel {
        Sentinel {
            endpoint: Arc::clone(&self.endpoint),
            settings: self.settings.clone(),
            tls: self.tls.clone(),
            name: Arc::clone(&self.name),
            sentinels: self.sentinels.iter().map(Client::another).collect(),
            // As long as it is the primary, the sentinels need not be asked.
            primary: self.primary.as_ref().map(|client| Box::new(client.another())),
            closed: Counters::default(),
            losses: 0,
        }
    }

    pub(super) fn counters(&self) -> Counters {
        let clients = self.sentinels.iter().chain(self.primary.as_deref());
        clients.fold(self.closed, |sum, client| sum + client.counters())
    }

    /// The primary as it was last named.
    pub(super) fn known_mut(&mut self) -> Option<&mut Client> {
        self.primary.as_deref_mut()
    }

    /// The primary; the sentinels are asked where none is known.
    fn primary(&mut self, by: Deadline) -> Result<&mut Client, Failure> {
        let primary = match self.primary.take() {
            Some(primary) => primary,
            None => {
                let address = self.find(by)?;
                Box::new(self.client(&address))
            }
        };
        Ok(self.primary.insert(primary))
    }

    /// Every server that has sessions: the primary.
    pub(super) fn servers(&mut self, by: Deadline) -> Result<Vec<&mut Client>> {
        let found = self.primary(by).map(drop);
        found.map_err(|failure| self.error(failure))?;
        Ok(self.known_mut().into_iter().collect())
    }

    /// One exchange with the primary.
    pub(super) fn ask_patiently(
        &mut self,
        request: &Request,
        opening: Opening,
        longer: Duration,
        by: Deadline,
    ) -> Result<Vec<Value>, Failure> {
        let replies = self.primary(by)?.ask_patiently(request, opening, longer, by)?;
        // All workers together would fill a sentinel; and one whose host died in silence would be asked first.
        self.sentinels.iter_mut().for_each(Client::close);
        match replies.first().and_then(refused) {
            // All that follows in the write was refused, too.
            Some(refusal) if refusal.passes_in_failover() => Err(Failure::Refused(refusal)),
            _ => Ok(replies),
        }
    }

    /// Whether another attempt makes sense after this failure; the sentinels are asked again before it.
    pub(super) fn heal(&mut self, attempts: &mut Attempts, failure: &Failure, by: Deadline) -> bool {
        let passes = failure.passes(Refusal::passes_in_failover);
        if passes {
            self.forget();
        }
        if !passes || failure.is_unanswered() || !attempts.pause(by) {
            return false;
        }
        self.closed.retries += 1;
        if attempts.count().is_multiple_of(4) && !self.sentinels.is_empty() {
            // This one may be cut off from the others.
            self.sentinels.rotate_left(1);
        }
        true
    }

    /// Asks the sentinels before the next exchange.
    fn forget(&mut self) {
        if let Some(client) = self.primary.take() {
            self.closed = self.closed + client.counters();
            self.losses += 1;
        }
    }

    /// How often the primary was lost.
    pub(super) fn losses(&self) -> u64 {
        self.losses
    }

    pub(super) fn look_alive(&mut self) {
        if let Some(client) = self.known_mut() {
            client.look_alive();
        }
    }

    pub(super) fn look_around(&mut self) {
        self.sentinels.iter_mut().chain(self.primary.as_deref_mut()).for_each(Client::look_around);
    }

    /// Ends a request; see [`Client::rest`].
    pub(super) fn rest(&mut self, by: Deadline) {
        if let Some(client) = self.known_mut() {
            client.rest(by);
        }
    }

    /// The failure as the user's error.
    pub(super) fn error(&self, failure: Failure) -> Error {
        error_on(&self.endpoint, failure)
    }

    /// The error with the store's name.
    pub(super) fn locate(&self, error: Error) -> Error {
        error.on(self.endpoint.shown.as_str())
    }

    /// Asks the sentinels in turn for the primary's address.
    fn find(&mut self, by: Deadline) -> Result<Address, Failure> {
        let question: [&[u8]; 3] = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self.name.as_bytes()];
        let question = Request::of(&question);
        let mut unknown = false;
        let mut last = None;
        let count = self.sentinels.len();
        for asked in 0..count {
            // One that is silent leaves time for the others, and for the primary.
            let share = by.within(by.remaining() / u32::try_from(count - asked + 1).unwrap_or(u32::MAX));
            let sentinel = &mut self.sentinels[0];
            let mut answer = sentinel.ask(&question, Opening::WithRequest, share).and_then(one);
            if let Err(Failure::Cut(_)) = answer {
                // It may have been idle for long.
                sentinel.count_retry();
                answer = sentinel.ask(&question, Opening::WithRequest, share).and_then(one);
            }
            match answer.and_then(address) {
                Ok(Some(address)) => return Ok(address),
                Ok(None) => unknown = true,
                // Nobody could answer in no time: whoever failed before says more.
                Err(_) if last.is_some() && share.passed() => {}
                Err(failure) => last = Some(not_told(self.sentinels[0].error(failure))),
            }
            self.sentinels.rotate_left(1);
        }
        // Whoever answers knows more than who does not.
        Err(Failure::Failed(match last {
            Some(error) if !unknown || error.kind() == ErrorKind::Auth => self.locate(error),
            _ => self.locate(
                Error::new(ErrorKind::Config, format!("no sentinel knows a primary named \"{}\"", self.name))
                    .hint("correct the name after the hosts in session.save_path: it is that of sentinel monitor"),
            ),
        }))
    }

    fn client(&self, address: &Address) -> Client {
        let dialer = Arc::new(Dialer::new(address.clone(), self.tls.clone()));
        let shown = match address {
            Address::Tcp { host, port } => format!("{} at {host}:{port}", self.endpoint.shown),
            Address::Unix(_) => self.endpoint.shown.clone(),
        };
        let endpoint = Arc::new(Endpoint { shown, ..Endpoint::clone(&self.endpoint) });
        Client::new(endpoint, dialer, &self.settings).of_primary()
    }
}

/// The address that a sentinel names, unless it knows none.
fn address(answer: Value) -> Result<Option<Address>, Failure> {
    match sound(answer)? {
        Value::Nil => Ok(None),
        Value::Array(pair) => {
            let mut words = Vec::with_capacity(2);
            for word in pair {
                words.push(String::from_utf8_lossy(&stored(word)?.unwrap_or_default()).into_owned());
            }
            match &words[..] {
                [host, port] if !host.is_empty() => match port.parse() {
                    Ok(port) => Ok(Some(Address::Tcp { host: host.clone(), port })),
                    Err(_) => Err(Failure::Failed(unexpected(&Value::Nil))),
                },
                _ => Err(Failure::Failed(unexpected(&Value::Nil))),
            }
        }
        other => Err(Failure::Failed(unexpected(&other))),
    }
}

/// The error about sentinels that do not tell; nothing was asked of the primary.
fn not_told(error: Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::Auth => "give the sentinels' own password as sentinel_auth= in session.save_path",
        _ => "check that the hosts of session.save_path are sentinels, and that they run",
    };
    let cause = error.to_string().lines().next().unwrap_or_default().to_owned();
    Error::new(error.kind(), "no sentinel tells which server is the primary").source(cause).hint(hint)
}
