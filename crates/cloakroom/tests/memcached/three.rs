//! Three servers of a ring.

use std::time::Duration;

use cloakroom::{Settings, Store};
use testbed::memcached::Memcached;
use testbed::proxy::Proxy;

use crate::key;
use crate::worker::{id, put, soon, store, store_with};

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
        let mut store = self.store();
        let mut numbers = 0..1000;
        numbers
            .find_map(|number| {
                let session = format!("session{number}");
                put(store.as_mut(), &id(&session), bytes);
                (self.having(&session).first() == Some(&at) && self.home(&session) == at).then_some(session)
            })
            .unwrap()
    }

    /// Where the session is while all servers answer; without options that copy it.
    pub(crate) fn home(&self, session: &str) -> usize {
        let plain = self.url.split('?').next().unwrap();
        let mut store = store(plain);
        let named = format!("home-of-{session}");
        // The ring sees the id alone, so a prefix of our own tells nothing about others' sessions.
        let mut marked = store_with(&format!("{plain}?prefix={named}."), Settings::default());
        put(marked.as_mut(), &id(session), b"here");
        let found = (0..3).find(|at| self.servers[*at].get(&format!("{named}.{session}")).is_some());
        let _ = store.exists(&id(session), soon());
        found.unwrap()
    }
}
