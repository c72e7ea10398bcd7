//! The stores that the cases run against.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use cloakroom::stores::redis::RIGHTS;
use cloakroom::{Access, Change, SessionId};
use testbed::TempDir;
use testbed::cluster::Cluster;
use testbed::dynamodb::{Engine, Program, Table};
use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::redis::{self, Redis};
use testbed::sentinel::Replicated;
use testbed::twemproxy::Twemproxy;

use crate::worker::{id, soon};
use crate::{Entry, Subject};

/// What twemproxy hangs up on.
const LISTING: &[&str] = &[
    "listing_names_every_session_once",
    "listing_ends_when_it_was_enough",
    "the_locks_are_those_that_are_held",
];

pub(crate) const ENTRIES: &[Entry] = &[
    Entry { name: "files", needs: &[], example: "/", start: || Box::new(Directory::new(0)), without: &[] },
    Entry {
        name: "files, 2 levels",
        needs: &[],
        example: "2;/",
        start: || Box::new(Directory::new(2)),
        without: &[],
    },
    Entry {
        name: "redis",
        needs: &[Need::Redis],
        example: "redis://h",
        start: || Box::new(Server::new(Redis::start())),
        without: &[],
    },
    Entry {
        name: "redis, pool of three",
        needs: &[Need::Redis],
        example: "tcp://a?weight=1,tcp://b?weight=2,tcp://c?weight=2",
        start: || Box::new(Server::pool(Redis::start(), vec![Redis::start(), Redis::start()])),
        without: &[],
    },
    Entry {
        name: "redis 6.2",
        needs: &[Need::Redis62],
        example: "redis://h",
        start: || Box::new(Server::new(Redis::of(redis::Program::Redis62))),
        without: &[],
    },
    Entry {
        name: "valkey",
        needs: &[Need::Valkey],
        example: "valkey://h",
        start: || Box::new(Server::new(Redis::of(redis::Program::Valkey))),
        without: &[],
    },
    Entry {
        name: "redis, least rights over IPv6",
        needs: &[Need::Redis, Need::Ipv6],
        example: "redis://h",
        start: || Box::new(Server::least_rights(Redis::with(&["--bind", "127.0.0.1", "::1"]))),
        without: &[],
    },
    Entry {
        name: "redis, unix socket",
        needs: &[Need::Redis],
        example: "unix:///s",
        start: || Box::new(Server::new(Redis::unix())),
        without: &[],
    },
    Entry {
        name: "redis, tls",
        needs: &[Need::Redis],
        example: "rediss://h",
        start: || {
            let redis = Redis::tls();
            let save_path = format!("{}?cafile={}", redis.url(), redis.authority().display());
            Box::new(Server { redis, others: Vec::new(), save_path, _proxy: None })
        },
        without: &[],
    },
    Entry {
        name: "redis, sentinel",
        needs: &[Need::Redis],
        example: "redis+sentinel://h/m",
        start: || Box::new(Watched::new()),
        without: &[],
    },
    Entry {
        name: "redis, cluster",
        needs: &[Need::Redis],
        example: "redis+cluster://h",
        start: || Box::new(Clustered::new()),
        without: &[],
    },
    Entry {
        name: "redis, twemproxy",
        needs: &[Need::Redis, Need::Twemproxy],
        example: "tcp://h",
        start: || Box::new(Server::behind_twemproxy(Redis::start(), Vec::new())),
        without: LISTING,
    },
    Entry {
        name: "redis, twemproxy over three",
        needs: &[Need::Redis, Need::Twemproxy],
        example: "tcp://h",
        start: || Box::new(Server::behind_twemproxy(Redis::start(), vec![Redis::start(), Redis::start()])),
        without: LISTING,
    },
    Entry {
        name: "memcached",
        needs: &[Need::Memcached],
        example: "memcached://h",
        start: || Box::new(Ring::new(vec![Memcached::start()], "protocol=ascii")),
        without: &[],
    },
    Entry {
        name: "memcached, meta",
        needs: &[Need::Memcached],
        example: "memcached://h",
        start: || Box::new(Ring::new(vec![Memcached::start()], "protocol=meta")),
        without: &[],
    },
    Entry {
        name: "memcached, binary and sasl",
        needs: &[Need::Memcached, Need::MemcachedSasl],
        example: "memcached://u:p@h",
        start: || Box::new(SaslServer { server: Memcached::sasl() }),
        without: &[],
    },
    Entry {
        name: "memcached, tls",
        needs: &[Need::Memcached],
        example: "memcacheds://h",
        start: || Box::new(Ring::new(vec![Memcached::tls()], "")),
        without: &[],
    },
    Entry {
        name: "memcached, unix socket",
        needs: &[Need::Memcached],
        example: "memcached:///s",
        start: || Box::new(Ring::new(vec![Memcached::unix()], "")),
        without: &[],
    },
    Entry {
        name: "memcached, ring of three",
        needs: &[Need::Memcached],
        example: "memcached://a,b,c",
        start: || Box::new(Ring::new(vec![Memcached::start(), Memcached::start(), Memcached::start()], "")),
        // Three where the lock is on another server: see tests/memcached/apart.rs.
        without: &["a_request_costs_two_exchanges"],
    },
    Entry {
        name: "dynamodb, dynalite",
        needs: &[Need::Dynalite],
        example: "dynamodb://r/table",
        start: || Box::new(Items::new(Program::Dynalite)),
        without: &[],
    },
    Entry {
        name: "dynamodb, AWS's own engine",
        needs: &[Need::DynamoDbLocal],
        example: "dynamodb://r/table",
        start: || Box::new(Items::new(Program::Local)),
        without: &[],
    },
];

/// A Redis server, or a proxy before some.
struct Server {
    redis: Redis,
    others: Vec<Redis>,
    save_path: String,
    _proxy: Option<Twemproxy>,
}

impl Server {
    fn new(redis: Redis) -> Server {
        Server { save_path: redis.url(), redis, others: Vec::new(), _proxy: None }
    }
}

impl Server {
    /// A user with nothing but what sessions need, and a password with every character that some form must encode.
    fn least_rights(redis: Redis) -> Server {
        let user =
            ["ACL", "SETUSER", "php", "on", ">a#b&c+d,e% f", "resetchannels", "~PHPREDIS_SESSION:*", "-@all"];
        let rules: Vec<&str> = user.into_iter().chain(RIGHTS.split_whitespace()).collect();
        assert_eq!(redis.command(&rules), "OK");
        let save_path = format!("redis://php:a%23b%26c%2Bd%2Ce%25%20f@[::1]:{}", redis.port());
        Server { save_path, redis, others: Vec::new(), _proxy: None }
    }

    fn pool(redis: Redis, others: Vec<Redis>) -> Server {
        let mut server = Server { save_path: String::new(), redis, others, _proxy: None };
        let list: Vec<String> = server.servers().map(Redis::native).collect();
        server.save_path = list.join("?weight=2,");
        server
    }

    fn behind_twemproxy(redis: Redis, others: Vec<Redis>) -> Server {
        let proxy = Twemproxy::before(&std::iter::once(&redis).chain(&others).collect::<Vec<_>>());
        Server { save_path: format!("tcp://{}", proxy.address()), redis, others, _proxy: Some(proxy) }
    }

    fn servers(&self) -> impl Iterator<Item = &Redis> {
        std::iter::once(&self.redis).chain(&self.others)
    }
}

impl Subject for Server {
    fn save_path(&self) -> String {
        self.save_path.clone()
    }

    fn evict(&self, id: &SessionId) {
        let key = format!("PHPREDIS_SESSION:{}", id.as_str());
        assert!(self.servers().any(|redis| redis.command(&["DEL", &key]) == "1"));
    }

    fn is_empty(&self) -> bool {
        // What shows a worker that a proxy spreads keys is forgotten within a second.
        let routes = |key: &str| key.ends_with("_ROUTE");
        self.servers().all(|redis| redis.command(&["KEYS", "*"]).lines().all(routes))
    }
}

/// A part of the sessions of a cluster: it takes two seconds to start, so that all cases share one.
struct Clustered {
    cluster: &'static Cluster,
    prefix: String,
}

impl Clustered {
    fn new() -> Clustered {
        static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);
        static CASES: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("{}:", CASES.fetch_add(1, Ordering::Relaxed));
        Clustered { cluster: &CLUSTER, prefix }
    }
}

/// The primary that a sentinel names, shared by all cases: it takes a second to start.
struct Watched {
    servers: &'static Replicated,
    prefix: String,
}

impl Watched {
    fn new() -> Watched {
        static SERVERS: LazyLock<Replicated> = LazyLock::new(Replicated::start);
        static CASES: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("{}:", CASES.fetch_add(1, Ordering::Relaxed));
        Watched { servers: &SERVERS, prefix }
    }
}

impl Subject for Watched {
    fn save_path(&self) -> String {
        format!("{}?prefix={}", self.servers.url(), self.prefix)
    }

    fn evict(&self, id: &SessionId) {
        let key = format!("{}{}", self.prefix, id.as_str());
        assert_eq!(self.servers.primary().command(&["DEL", &key]), "1");
    }

    fn is_empty(&self) -> bool {
        self.servers.primary().command(&["KEYS", &format!("{}*", self.prefix)]).is_empty()
    }
}

impl Subject for Clustered {
    fn save_path(&self) -> String {
        format!("{}?prefix={}", self.cluster.url(), self.prefix)
    }

    fn evict(&self, id: &SessionId) {
        let key = format!("{}{}", self.prefix, id.as_str());
        assert_eq!(self.cluster.owner_of(&key).command(&["DEL", &key]), "1");
    }

    fn is_empty(&self) -> bool {
        let keys = self.cluster.keys();
        !keys.iter().any(|key| key.trim_start_matches('{').starts_with(&self.prefix))
    }
}

/// Memcached servers that can be looked into.
struct Ring {
    servers: Vec<Memcached>,
    options: &'static str,
}

impl Ring {
    fn new(servers: Vec<Memcached>, options: &'static str) -> Ring {
        Ring { servers, options }
    }
}

impl Subject for Ring {
    fn save_path(&self) -> String {
        if let ([server], "") = (&self.servers[..], self.options) {
            return server.url();
        }
        let servers: Vec<String> = self.servers.iter().map(Memcached::address).collect();
        format!("memcached://{}?{}", servers.join(","), self.options)
    }

    fn evict(&self, id: &SessionId) {
        let delete = format!("delete memc.sess.key.{}", id.as_str());
        assert!(self.servers.iter().any(|server| server.command(&delete) == "DELETED\r\n"));
    }

    fn is_empty(&self) -> bool {
        self.servers.iter().all(|server| server.keys().is_empty())
    }
}

/// A Memcached server that takes none but the store's own protocol.
struct SaslServer {
    server: Memcached,
}

impl Subject for SaslServer {
    fn save_path(&self) -> String {
        self.server.url()
    }

    fn evict(&self, id: &SessionId) {
        let mut store = self.worker();
        let hold = store.open(id, Access::Unlocked, soon()).unwrap().hold;
        store.commit(id, hold, Change::Delete, soon()).unwrap();
    }

    fn is_empty(&self) -> bool {
        !self.worker().exists(&id("abc"), soon()).unwrap()
    }
}

/// A table of an engine that all cases share.
struct Items {
    program: Program,
    table: Table,
    save_path: String,
}

impl Items {
    fn new(program: Program) -> Items {
        static CASES: AtomicU32 = AtomicU32::new(0);
        let engine = Engine::shared(program);
        let table = engine.create_table(&format!("case{}", CASES.fetch_add(1, Ordering::Relaxed)), "id");
        // They take their time on a busy machine.
        let save_path = format!(
            "dynamodb://key:secret@local/{}?endpoint={}&timeout=10&read_timeout=20",
            table.name(),
            engine.endpoint()
        );
        Items { program, table, save_path }
    }
}

impl Subject for Items {
    fn save_path(&self) -> String {
        self.save_path.clone()
    }

    /// The lock is in the same item, and stays.
    fn evict(&self, id: &SessionId) {
        let key = format!("PHPSESSID_{}", id.as_str());
        self.table.update(&key, "REMOVE #data, #expires, #record_expires", serde_json::json!({}));
    }

    fn is_empty(&self) -> bool {
        self.table.scan().is_empty()
    }

    fn slowness(&self) -> u32 {
        match self.program {
            Program::Dynalite => 2,
            Program::Local => 5,
        }
    }
}

/// A directory, `levels` deep.
struct Directory {
    directory: TempDir,
    levels: usize,
}

impl Directory {
    /// The characters that the ids of the cases start with.
    const CHARACTERS: &[&str] = &["a", "A", "b", "B", "x", "-", ",", "0", "1"];

    fn new(levels: usize) -> Directory {
        let directory = TempDir::new();
        let mut deepest = vec![directory.path().to_owned()];
        for _ in 0..levels {
            deepest = deepest
                .iter()
                .flat_map(|above| Self::CHARACTERS.iter().map(|name| above.join(name)))
                .inspect(|level| std::fs::create_dir(level).unwrap())
                .collect();
        }
        Directory { directory, levels }
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let mut files = vec![self.directory.path().to_owned()];
        for _ in 0..=self.levels {
            let inside = |directory: &std::path::PathBuf| std::fs::read_dir(directory).unwrap();
            files = files.iter().flat_map(inside).map(|entry| entry.unwrap().path()).collect();
        }
        files
    }
}

impl Subject for Directory {
    fn save_path(&self) -> String {
        let path = self.directory.path().display();
        match self.levels {
            0 => path.to_string(),
            levels => format!("{levels};{path}"),
        }
    }

    fn evict(&self, id: &SessionId) {
        let name = format!("sess_{}", id.as_str());
        let file = self.files().into_iter().find(|file| file.ends_with(&name)).unwrap();
        std::fs::remove_file(file).unwrap();
    }

    fn is_empty(&self) -> bool {
        self.files().is_empty()
    }
}
