//! Which engine a URL is for, and whether two URLs lead to the same store.

use crate::{Error, Result, SavePath, Secret, Server, StoreUrl};

use super::seen::{Variable, config};

/// The engines that are detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Redis,
    Memcached,
}

/// What a scheme stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Engine(Engine),
    /// Taken only from what is called the sessions': what an environment has of AWS is for all sorts of things.
    DynamoDb,
    Sql,
    Other,
}

pub(super) fn kind(scheme: &str) -> Kind {
    match scheme.to_ascii_lowercase().split('+').next().unwrap_or_default() {
        "redis" | "rediss" | "valkey" | "valkeys" | "tcp" | "tls" | "ssl" | "unix" => {
            Kind::Engine(Engine::Redis)
        }
        "memcached" | "memcacheds" => Kind::Engine(Engine::Memcached),
        "dynamodb" => Kind::DynamoDb,
        "postgres" | "postgresql" | "pgsql" | "mysql" | "mysql2" | "mariadb" | "sqlite" | "sqlite3"
        | "mssql" | "sqlsrv" => Kind::Sql,
        _ => Kind::Other,
    }
}

/// What the text before the first `:` stands for.
pub(super) fn kind_of_text(text: &str) -> Kind {
    text.split_once(':').map_or(Kind::Other, |(scheme, _)| kind(scheme))
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Engine::Redis => "Redis",
            Engine::Memcached => "Memcached",
        }
    }

    fn port(self) -> u16 {
        match self {
            Engine::Redis => 6379,
            Engine::Memcached => 11211,
        }
    }

    /// The URL or the list of servers that the variable has. What the value refers to by `env:` is `environment`'s.
    pub(super) fn parse(self, variable: &Variable, environment: &crate::Environment) -> Result<StoreUrl> {
        let parse = match self {
            Engine::Redis => SavePath::parse_for_phpredis,
            Engine::Memcached => SavePath::parse_for_php_memcached,
        };
        let about = |error: Error| error.about(&variable.name);
        match parse(&variable.value, environment).map_err(about)? {
            SavePath::Store(url) if kind(&url.scheme) == Kind::Engine(self) => Ok(url),
            SavePath::Store(_) | SavePath::Detect => {
                Err(config(format!("{} names no {} server", variable.name, self.name()))
                    .hint(format!("correct {}, or name the store in SESSION_STORE_URL", variable.name)))
            }
        }
    }
}

/// The parts of a Redis URL, understood.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) tls: bool,
    /// A host, or the path of a socket.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: Option<u32>,
}

impl Parts {
    /// `redis://`, `rediss://` or `unix://`.
    pub(super) fn redis(self) -> StoreUrl {
        let database = self.database.filter(|number| *number != 0);
        if self.host.starts_with('/') {
            let server = Server { path: self.host, ..Server::default() };
            let mut url = StoreUrl { scheme: "unix".into(), servers: vec![server] };
            let options = match (self.user, self.password) {
                (Some(user), Some(password)) => vec![("auth[user]", user), ("auth[pass]", password)],
                (_, Some(password)) => vec![("auth", password)],
                (_, None) => Vec::new(),
            };
            let database = database.map(|number| ("database", number.to_string()));
            for (name, value) in options.into_iter().chain(database) {
                url.set(name, Secret::new(value), "REDIS_HOST");
            }
            return url;
        }
        let server = Server {
            user: self.user.filter(|_| self.password.is_some()),
            password: self.password.map(Secret::new),
            host: Some(self.host),
            port: Some(self.port.unwrap_or(Engine::Redis.port())),
            path: database.map(|number| format!("/{number}")).unwrap_or_default(),
            ..Server::default()
        };
        let scheme = if self.tls { "rediss" } else { "redis" };
        StoreUrl { scheme: scheme.into(), servers: vec![server] }
    }
}

/// A list of Memcached servers with their ports, and who to authenticate as.
pub(super) fn memcached(
    servers: &Variable,
    user: Option<String>,
    password: Option<String>,
    environment: &crate::Environment,
) -> Result<StoreUrl> {
    let mut url = Engine::Memcached.parse(servers, environment)?;
    for server in url.servers.iter_mut().filter(|server| server.host.is_some()) {
        server.port.get_or_insert(Engine::Memcached.port());
    }
    // A list has no user of its own.
    if let (Some(user), Some(password), Some(first)) = (user, password, url.servers.first_mut()) {
        first.user = Some(user);
        first.password = Some(Secret::new(password));
    }
    Ok(url)
}

/// Whether both URLs lead to the same sessions; how they log in, and whether by TLS, makes no difference.
pub(super) fn same(one: &StoreUrl, other: &StoreUrl) -> bool {
    target(one) == target(other)
}

#[derive(PartialEq)]
struct Target<'a> {
    kind: Kind,
    /// `sentinel`, `cluster`.
    many: Option<&'a str>,
    places: Vec<(String, u16)>,
    database: &'a str,
    prefix: Option<&'a str>,
}

fn target(url: &StoreUrl) -> Target<'_> {
    let kind = kind(&url.scheme);
    let port = match kind {
        Kind::Engine(engine) => engine.port(),
        Kind::DynamoDb | Kind::Sql | Kind::Other => 0,
    };
    let place = |server: &Server| match &server.host {
        Some(host) => (host.to_ascii_lowercase(), server.port.unwrap_or(port)),
        None => (server.path.clone(), 0),
    };
    let first = url.server();
    let option = |names: &[&str]| {
        first
            .params
            .iter()
            .find(|param| names.contains(&param.name.as_str()))
            .map(|param| param.value.reveal())
    };
    let inside = first.host.as_ref().map(|_| first.path.trim_matches('/')).filter(|path| !path.is_empty());
    let database = inside.or_else(|| option(&["database", "db", "dbindex"])).unwrap_or("0");
    let many = url.scheme.split_once('+').map(|(_, many)| many);
    let places = url.servers.iter().map(place).collect();
    Target { kind, many, places, database, prefix: option(&["prefix", "endpoint"]) }
}
