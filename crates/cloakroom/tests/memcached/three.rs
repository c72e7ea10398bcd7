//! Three servers of a ring.

use cloakroom::{Change, Store};
use testbed::memcached::Memcached;
use testbed::proxy::Proxy;

use crate::worker::{id, lock, put, soon};
use crate::{key, store};

/// Three servers, and a URL of them.
pub(crate) struct Three {
    pub(crate) servers: [Memcached; 3],
    /// In front of them, where they are to be cut off.
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) url: String,
}

impl Three {
    pub(crate) fn with(options: &str) -> Three {
        let servers = [Memcached::start(), Memcached::start(), Memcached::start()];
        let list: Vec<String> = servers.iter().map(Memcached::address).collect();
        let url = format!("memcached://{}?{options}", list.join(","));
        Three { servers, proxies: Vec::new(), url }
    }

    pub(crate) fn proxied(options: &str) -> Three {
        let servers = [Memcached::start(), Memcached::start(), Memcached::start()];
        let proxies: Vec<Proxy> = servers.iter().map(|server| Proxy::to(server.address())).collect();
        let list: Vec<String> = proxies.iter().map(Proxy::address).collect();
        let url = format!("memcached://{}?{options}", list.join(","));
        Three { servers, proxies, url }
    }

    /// An id whose session is on this server, and whose lock is on another one: what hangs there must not keep the lock.
    pub(crate) fn id_on(&self, at: usize) -> String {
        let mut ids = (0..1000).map(|number| format!("session{number}"));
        ids.find(|session| self.home(session) == at && self.lock_home(session) != at).unwrap()
    }

    pub(crate) fn store(&self) -> Box<dyn Store> {
        store(&self.url)
    }

    /// A worker that gives up a server that hangs, after 2.5 seconds; others must not stand still for that long.
    pub(crate) fn hasty(&self) -> Box<dyn Store> {
        crate::worker::store(&self.url)
    }

    /// The servers that have this session.
    pub(crate) fn having(&self, session: &str) -> Vec<usize> {
        (0..3).filter(|at| self.record(*at, session).is_some()).collect()
    }

    pub(crate) fn record(&self, at: usize, session: &str) -> Option<Vec<u8>> {
        self.servers[at].get(&key(session))
    }

    /// Writes a session that is on this server, by way of another worker; its id.
    pub(crate) fn session_on(&self, at: usize, bytes: &[u8]) -> String {
        let session = self.id_on(at);
        put(self.store().as_mut(), &id(&session), bytes);
        session
    }

    /// Where the session is while all servers answer.
    pub(crate) fn home(&self, session: &str) -> usize {
        put(self.apart(session).as_mut(), &id(session), b"here");
        self.keeping(&format!("home-of-{session}.{session}"))
    }

    /// Where its lock is then, but with `lock=own`.
    fn lock_home(&self, session: &str) -> usize {
        let mut store = self.apart(session);
        let (_, hold) = lock(store.as_mut(), &id(session));
        let at = self.keeping(&format!("home-of-{session}.lock.{session}"));
        store.commit(&id(session), hold, Change::Keep, soon()).unwrap();
        at
    }

    /// The ring sees the id alone, so that a prefix of its own keeps this apart from the session.
    fn apart(&self, session: &str) -> Box<dyn Store> {
        let plain = self.url.split('?').next().unwrap();
        store(&format!("{plain}?prefix=home-of-{session}."))
    }

    fn keeping(&self, key: &str) -> usize {
        (0..3).find(|at| self.servers[*at].get(key).is_some()).unwrap()
    }
}
