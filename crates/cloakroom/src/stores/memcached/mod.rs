//! Sessions in Memcached; shared, locks included, with php-memcached.

#![allow(dead_code, reason = "until the store is whole")]

mod inspect;
mod keys;
mod options;
mod pool;
mod ring;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::net::Tls;
use crate::{
    Access, Change, Committed, Counters, Deadline, Durability, Error, ErrorKind, Extent, Finding, Guarantees,
    Hold, LockKind, Opened, Record, Result, SessionId, Settings, Sharing, Store, Sweeping, WaiterCap,
};

use keys::Keys;
pub use options::{OPTIONS, Options};
use ring::Ring;
use wire::{Answer, Ask, Client};

/// A store on one server or a ring of them, with one connection to each that is opened at its first use and kept.
pub struct Memcached {
    options: Options,
    settings: Settings,
    ring: Ring,
    clients: Vec<Client>,
}

/// Locks and sessions are not for a log.
impl fmt::Debug for Memcached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memcached({})", self.options.shown)
    }
}

impl Memcached {
    /// A store with these options; nothing is connected yet.
    pub fn new(options: Options, settings: Settings) -> Self {
        let tls = options.tls.clone().map(|tls| Arc::new(Tls::new(tls)));
        let client = |server| Client::new(server, &options, tls.clone(), &settings);
        let clients = options.servers.iter().map(client).collect();
        Memcached { ring: Ring::of(&options), clients, options, settings }
    }

    fn session_client(&mut self, id: &SessionId) -> &mut Client {
        let index = self.ring.server(id.as_str());
        &mut self.clients[index]
    }

    fn read(&mut self, id: &SessionId, by: Deadline) -> Result<Option<Record>> {
        let keys = Keys::of(id, &self.options)?;
        let client = self.session_client(id);
        client.look_around();
        let answers = client.ask(&[Ask::Get { key: &keys.session }], by);
        let answer = answers.map_err(|failure| client.error(failure))?.into_iter().next();
        match answer {
            Some(Answer::Item { value, .. }) => Ok(Some(Record(value))),
            Some(Answer::Refused(text)) => Err(client.refusal(&text)),
            _ => Ok(None),
        }
    }
}

impl Store for Memcached {
    fn guarantees(&self) -> Guarantees {
        Guarantees {
            lock: LockKind::Lease,
            versions: true,
            listing: self.lists(),
            sweeping: Sweeping::ByEngine,
            size_limit: Some(inspect::ITEM_SIZE),
            survives_restart: Durability::Forgets,
            shared_between_hosts: Sharing::Shared,
            waiter_cap: WaiterCap::Everywhere,
        }
    }

    fn counters(&self) -> Counters {
        self.clients.iter().fold(Counters::default(), |sum, client| sum + client.counters())
    }

    fn exists(&mut self, id: &SessionId, by: Deadline) -> Result<bool> {
        Ok(self.read(id, by)?.is_some())
    }

    fn open(&mut self, id: &SessionId, _access: Access, by: Deadline) -> Result<Opened> {
        Ok(Opened { record: self.read(id, by)?, hold: Hold::ReadOnly, renewal: None })
    }

    fn commit(
        &mut self,
        _id: &SessionId,
        _hold: Hold,
        _change: Change<'_>,
        _by: Deadline,
    ) -> Result<Committed> {
        Err(Error::new(ErrorKind::Unsupported, "not yet"))
    }

    fn sweep(&mut self, _lifetime: Duration, _by: Deadline) -> Result<u64> {
        Err(Error::new(ErrorKind::Unsupported, "the server removes expired sessions by itself")
            .on(self.options.shown.as_str()))
    }

    fn inspect(&mut self, extent: Extent, by: Deadline) -> Result<Vec<Finding>> {
        self.look_into(extent, by)
    }

    fn list(&mut self, each: &mut dyn FnMut(SessionId) -> bool, by: Deadline) -> Result<()> {
        self.name_sessions(each, by)
    }
}
