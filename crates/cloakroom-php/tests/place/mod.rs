//! The stores that the extension's tests run on, each with its real engine.
// Each test program uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::time::Duration;

use testbed::TempDir;
use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::php::Script;
use testbed::proxy::Proxy;
use testbed::redis::{Redis, Reply};
use testbed::suite::{Case, case};

/// The id of the session that most cases use.
pub(crate) const ID: &str = "a2b9c0d4e6f8a1b3c5d7e9f0a2";

/// php-memcached's default (`memcached.sess_prefix`).
pub(crate) const MEMCACHED_PREFIX: &str = "memc.sess.key.";

/// A store of one case.
pub(crate) enum Place {
    Files(TempDir),
    Redis(Box<Redis>),
    Memcached(Ring),
}

/// One Memcached server or several, and what their URL says beside their addresses.
pub(crate) struct Ring {
    pub(crate) servers: Vec<Memcached>,
    /// One before each of them, or none.
    pub(crate) proxies: Vec<Proxy>,
    options: &'static str,
}

impl Place {
    pub(crate) fn files() -> Place {
        Place::Files(TempDir::new())
    }

    pub(crate) fn redis() -> Place {
        Place::Redis(Box::new(Redis::start()))
    }

    pub(crate) fn memcached() -> Place {
        // As large items as any case has.
        Place::memcached_started(Memcached::with(&["-I", "32m"]), "")
    }

    /// With these options in the URL: `?protocol=ascii`.
    pub(crate) fn memcached_with(options: &'static str) -> Place {
        Place::memcached_started(Memcached::start(), options)
    }

    pub(crate) fn memcached_started(server: Memcached, options: &'static str) -> Place {
        Place::Memcached(Ring { servers: vec![server], proxies: Vec::new(), options })
    }

    /// Three servers behind a proxy each, with delays of this and this much more at most, in each direction.
    pub(crate) fn memcached_ring((delay, jitter): (Duration, Duration)) -> Place {
        let servers = vec![Memcached::start(), Memcached::start(), Memcached::start()];
        let proxy = |server: &Memcached| {
            let proxy = Proxy::to(server.address());
            proxy.delay(delay, jitter);
            proxy
        };
        let proxies = servers.iter().map(proxy).collect();
        Place::Memcached(Ring { servers, proxies, options: "" })
    }

    pub(crate) fn save_path(&self) -> String {
        match self {
            Place::Files(directory) => directory.path().display().to_string(),
            Place::Redis(server) => server.native(),
            Place::Memcached(ring) => match &ring.servers[..] {
                [server] => format!("{}{}", server.url(), ring.options),
                _ => format!("memcached://{}{}", ring.list(), ring.options),
            },
        }
    }

    /// A script on this store, with `ID` defined.
    pub(crate) fn script(&self, code: &str) -> Script {
        script(&self.save_path(), code)
    }

    /// Runs it to its end without a warning.
    #[track_caller]
    pub(crate) fn run(&self, code: &str) -> String {
        self.script(code).run().ok()
    }

    /// The bytes stored under the id.
    pub(crate) fn stored(&self, id: &str) -> Option<Vec<u8>> {
        match self {
            Place::Files(directory) => fs::read(directory.join(format!("sess_{id}"))).ok(),
            Place::Redis(server) => {
                match server.reply(&[b"GET", format!("PHPREDIS_SESSION:{id}").as_bytes()]) {
                    Reply::Text(bytes) => Some(bytes),
                    Reply::Nil => None,
                    other => panic!("GET answered {other:?}"),
                }
            }
            Place::Memcached(Ring { servers, .. }) => {
                let key = format!("{MEMCACHED_PREFIX}{id}");
                let mut values = servers.iter().filter_map(|server| server.get(&key));
                let value = values.next();
                assert_eq!(values.next(), None, "{id} is on several servers");
                value
            }
        }
    }

    pub(crate) fn store(&self, id: &str, record: &[u8]) {
        match self {
            Place::Files(directory) => fs::write(directory.join(format!("sess_{id}")), record).unwrap(),
            Place::Redis(server) => {
                server.reply(&[b"SET", format!("PHPREDIS_SESSION:{id}").as_bytes(), record]);
            }
            Place::Memcached(Ring { servers, .. }) => match &servers[..] {
                [server] => server.set(&format!("{MEMCACHED_PREFIX}{id}"), record),
                _ => panic!("the ring decides where a session is"),
            },
        }
    }

    /// The names of everything that is stored.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Place::Files(directory) => fs::read_dir(directory.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect(),
            Place::Redis(server) => match server.reply(&[b"KEYS", b"*"]) {
                Reply::List(keys) => keys
                    .into_iter()
                    .map(|key| match key {
                        Reply::Text(name) => String::from_utf8(name).unwrap(),
                        other => panic!("KEYS answered {other:?}"),
                    })
                    .collect(),
                other => panic!("KEYS answered {other:?}"),
            },
            Place::Memcached(Ring { servers, .. }) => servers.iter().flat_map(Memcached::keys).collect(),
        };
        names.sort();
        names
    }
}

impl Ring {
    /// The servers as php-memcached takes them.
    pub(crate) fn list(&self) -> String {
        let addresses: Vec<String> = match &self.proxies[..] {
            [] => self.servers.iter().map(Memcached::address).collect(),
            proxies => proxies.iter().map(Proxy::address).collect(),
        };
        addresses.join(",")
    }
}

/// A script of ours on any save_path, with `ID` defined.
pub(crate) fn script(save_path: &str, code: &str) -> Script {
    Script::new(format!("const ID = '{ID}';\n{code}"))
        .cloakroom()
        .ini("session.save_handler", "cloakroom")
        .ini("session.save_path", save_path)
        .ini("session.use_cookies", "0")
        .ini("session.use_only_cookies", "0")
        .ini("session.cache_limiter", "")
        .ini("output_buffering", "65536")
}

/// The case on every store.
pub(crate) fn on_every_store(name: &str, run: fn(Place)) -> Vec<Case> {
    vec![
        case(format!("files: {name}"), &[Need::Php], move || run(Place::files())),
        case(format!("redis: {name}"), &[Need::Php, Need::Redis], move || run(Place::redis())),
        case(format!("memcached: {name}"), &[Need::Php, Need::Memcached], move || run(Place::memcached())),
    ]
}

/// The case on one Memcached server, for what only that can do.
pub(crate) fn on_memcached(name: &str, run: fn(&Memcached, &Place)) -> Case {
    case(format!("memcached: {name}"), &[Need::Php, Need::Memcached], move || {
        let place = Place::memcached();
        let Place::Memcached(ring) = &place else { unreachable!("it was just made") };
        run(&ring.servers[0], &place);
    })
}

/// The case on Redis, for what only a server can do.
pub(crate) fn on_redis(name: &str, run: fn(&Redis, &Place)) -> Case {
    case(format!("redis: {name}"), &[Need::Php, Need::Redis], move || {
        let place = Place::redis();
        let Place::Redis(server) = &place else { unreachable!("it was just made") };
        run(server, &place);
    })
}

/// The warnings that are not PHP's own about a handler that failed.
pub(crate) fn ours(stderr: &str) -> Vec<String> {
    let warnings = stderr
        .lines()
        .filter_map(|line| line.strip_prefix("Warning: ").or(line.strip_prefix("PHP Warning:  ")));
    warnings
        .filter(|line| {
            !line.contains("Failed to read session data") && !line.contains("Failed to write session data")
        })
        .filter(|line| !line.contains("Failed to initialize storage module"))
        .map(|line| line.split(" in /").next().unwrap_or(line).to_owned())
        .collect()
}
