//! The stores that the extension's tests run on, each with its real engine.
// Each test program uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use testbed::TempDir;
use testbed::dynamodb::{self, Engine, Program, Table};
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

/// What does as AWS's own handler does.
pub(crate) const AWSS_HANDLER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../testbed/php/dynamodb_session_handler.php");

/// The table of who has an engine alone.
pub(crate) const TABLE: &str = "My-Sessions-Table";

/// A store of one case.
pub(crate) enum Place {
    Files(TempDir),
    Redis(Box<Redis>),
    Memcached(Ring),
    DynamoDb(Box<Sessions>),
}

/// A table, and what the URL says beside its name.
pub(crate) struct Sessions {
    /// The engine, where it is this case's alone.
    pub(crate) engine: Option<Engine>,
    /// A proxy before it, or none.
    pub(crate) proxy: Option<dynamodb::Proxy>,
    pub(crate) table: Table,
    endpoint: String,
    options: &'static str,
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

    /// A table of its own in a dynalite that all cases share.
    pub(crate) fn dynamodb() -> Place {
        Place::dynamodb_with(Program::Dynalite, "")
    }

    /// In either engine, with these options in the URL: `&data_type=binary`.
    pub(crate) fn dynamodb_with(program: Program, options: &'static str) -> Place {
        let engine = Engine::shared(program);
        let (table, endpoint) = (new_table(engine), engine.endpoint());
        Place::DynamoDb(Box::new(Sessions { engine: None, proxy: None, table, endpoint, options }))
    }

    /// Behind a proxy, in the dynalite that all cases share.
    pub(crate) fn dynamodb_watched() -> Place {
        let engine = Engine::shared(Program::Dynalite);
        let (table, proxy) = (new_table(engine), dynamodb::Proxy::to(engine));
        let endpoint = proxy.endpoint();
        Place::DynamoDb(Box::new(Sessions { engine: None, proxy: Some(proxy), table, endpoint, options: "" }))
    }

    /// In a dynalite of its own.
    pub(crate) fn dynamodb_alone() -> Place {
        let engine = Engine::dynalite();
        let (table, endpoint) = (engine.create_table(TABLE, "id"), engine.endpoint());
        Place::DynamoDb(Box::new(Sessions {
            engine: Some(engine),
            proxy: None,
            table,
            endpoint,
            options: "",
        }))
    }

    pub(crate) fn save_path(&self) -> String {
        match self {
            Place::Files(directory) => directory.path().display().to_string(),
            Place::Redis(server) => server.native(),
            Place::Memcached(ring) => match &ring.servers[..] {
                [server] => format!("{}{}", server.url(), ring.options),
                _ => format!("memcached://{}{}", ring.list(), ring.options),
            },
            Place::DynamoDb(sessions) => {
                let Sessions { table, endpoint, options, .. } = &**sessions;
                format!("dynamodb://test:secret@eu-west-1/{}?endpoint={endpoint}{options}", table.name())
            }
        }
    }

    /// The same as it is shown.
    pub(crate) fn shown(&self) -> String {
        self.save_path().replace(":secret@", ":***@")
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
            Place::DynamoDb(sessions) => {
                let item = sessions.table.get(&item_key(id))?;
                // An item that is there for its lock alone is no session.
                let record = item["record_expires"]["N"] != "0";
                let data = item["data"]["S"].as_str().unwrap_or_default();
                assert_eq!(item["data"].get("B"), None, "{id} is not UTF-8");
                record.then(|| data.as_bytes().to_vec())
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
            Place::DynamoDb(sessions) => {
                let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 1440;
                let data = std::str::from_utf8(record).unwrap();
                sessions.table.put(json!({
                    "id": {"S": item_key(id)},
                    "data": {"S": data},
                    "expires": {"N": expires.to_string()},
                }));
            }
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
            Place::DynamoDb(sessions) => {
                let items = sessions.table.scan();
                items.iter().map(|item| item["id"]["S"].as_str().unwrap().to_owned()).collect()
            }
        };
        names.sort();
        names
    }
}

impl Sessions {
    /// A script whose sessions AWS's own handler would keep, by its twin, with these options in PHP.
    pub(crate) fn awss_handler(&self, code: &str, options: &str) -> Script {
        let (endpoint, table) = (&self.endpoint, self.table.name());
        Script::new(format!(
            "require '{AWSS_HANDLER}';
            SdkSessionHandler::at('{endpoint}', ['table_name' => '{table}', {options}])->register();
            {code}"
        ))
        .ini("session.use_cookies", "0")
        .ini("session.use_only_cookies", "0")
        .ini("session.cache_limiter", "")
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

fn new_table(engine: &Engine) -> Table {
    static TABLES: AtomicUsize = AtomicUsize::new(0);
    engine.create_table(&format!("sessions-{}", TABLES.fetch_add(1, Ordering::Relaxed)), "id")
}

/// Of a session with PHP's default name.
pub(crate) fn item_key(id: &str) -> String {
    format!("PHPSESSID_{id}")
}

/// How long a server's answer may take on a machine that does much else. Where a time must pass, the case says how long.
pub(crate) const PATIENCE: [(&str, &str); 2] =
    [("cloakroom.timeout", "30"), ("cloakroom.connect_timeout", "30")];

/// A script of ours on any save_path, with `ID` defined.
pub(crate) fn script(save_path: &str, code: &str) -> Script {
    patient(Script::new(format!("const ID = '{ID}';\n{code}")).cloakroom())
        .ini("session.save_handler", "cloakroom")
        .ini("session.save_path", save_path)
        .ini("session.use_cookies", "0")
        .ini("session.use_only_cookies", "0")
        .ini("session.cache_limiter", "")
        .ini("output_buffering", "65536")
}

/// Gives servers the time that they may need.
pub(crate) fn patient(script: Script) -> Script {
    PATIENCE.iter().fold(script, |script, (name, value)| script.ini(name, value))
}

/// The case on every store.
pub(crate) fn on_every_store(name: &str, run: fn(Place)) -> Vec<Case> {
    vec![
        case(format!("files: {name}"), &[Need::Php], move || run(Place::files())),
        case(format!("redis: {name}"), &[Need::Php, Need::Redis], move || run(Place::redis())),
        case(format!("memcached: {name}"), &[Need::Php, Need::Memcached], move || run(Place::memcached())),
        case(format!("dynamodb: {name}"), &[Need::Php, Need::Dynalite], move || run(Place::dynamodb())),
    ]
}

/// The case on a dynalite of its own, for what only that can do.
pub(crate) fn on_dynamodb(name: &str, run: fn(&Engine, &Table, &Place)) -> Case {
    case(format!("dynamodb: {name}"), &[Need::Php, Need::Dynalite], move || {
        let place = Place::dynamodb_alone();
        let Place::DynamoDb(sessions) = &place else { unreachable!("it was just made") };
        run(sessions.engine.as_ref().unwrap(), &sessions.table, &place);
    })
}

/// The case behind a proxy, for what that can see or do.
pub(crate) fn on_dynamodb_proxy(
    name: &str,
    run: impl FnOnce(&dynamodb::Proxy, &Place) + Send + 'static,
) -> Case {
    case(format!("dynamodb: {name}"), &[Need::Php, Need::Dynalite], move || {
        let place = Place::dynamodb_watched();
        let Place::DynamoDb(sessions) = &place else { unreachable!("it was just made") };
        run(sessions.proxy.as_ref().unwrap(), &place);
    })
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
