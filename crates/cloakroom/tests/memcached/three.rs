//! Three servers of a ring.

use std::time::Duration;

use cloakroom::{Settings, Store};
use testbed::memcached::Memcached;
use testbed::proxy::Proxy;

use crate::key;
use crate::worker::{id, put, store, store_with};

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

    /// An id whose session is on this server.
    pub(crate) fn id_on(&self, at: usize) -> String {
        (0..1000).map(|number| format!("session{number}")).find(|session| self.home(session) == at).unwrap()
    }

    pub(crate) fn store(&self) -> Box<dyn Store> {
        // A server that hangs is given up soon, and what it does later ends soon.
        let settings = Settings {
            timeout: Duration::from_secs(1),
            lease: Duration::from_secs(2),
            ..Settings::default()
        };
        store_with(&self.url, settings)
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
        let plain = self.url.split('?').next().unwrap();
        let key = format!("home-of-{session}.{session}");
        // The ring sees the id alone, so that a prefix of its own keeps this apart from the session.
        let prefix = format!("{plain}?prefix=home-of-{session}.");
        put(store(&prefix).as_mut(), &id(session), b"here");
        (0..3).find(|at| self.servers[*at].get(&key).is_some()).unwrap()
    }
}
