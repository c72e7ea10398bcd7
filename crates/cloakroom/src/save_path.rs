//! `session.save_path`: every way to name a store, parsed once into a [`StoreUrl`].
//!
//! | form | store |
//! |---|---|
//! | empty, `auto` | looked up in the environment, see [`crate::detect`] |
//! | `env:NAME` | whatever the environment variable holds |
//! | `/path`, `N;/path`, `N;MODE;/path`, `file:///path` | a directory, as PHP's own `files` handler |
//! | `tcp://h:p?...`, `tls://`, `ssl://`, `unix:///socket?...`, `h:6379`, and lists of them | Redis, as phpredis takes it |
//! | `redis://user:password@h:p/db?...`, `rediss://`, `valkey://`, `valkeys://` | Redis |
//! | `redis:///socket?...`, `redis+unix:///socket?...`, `valkey+unix://` | Redis by its socket |
//! | `redis+sentinel://user:password@h1:p1,h2:p2/master/db?...`, `rediss+sentinel://`, `valkey+sentinel://`, ... | what the sentinels say |
//! | `redis+cluster://user:password@h1:p1,h2:p2?...`, `rediss+cluster://`, `valkey+cluster://`, ... | a cluster |
//! | `seed[]=h1:p1&seed[]=h2:p2&timeout=2&...` | a cluster, as phpredis takes it |
//! | `memcached://user:password@h1:p1,h2:p2:weight,/socket/?...`, `memcacheds://` | Memcached: a server, or a ring of them |
//! | `h1:11211, h2:11211:weight`, `PERSISTENT=id h1:p1, h2`, `tcp://h:11211` | Memcached, as php-memcached and its elders take it |
//! | `memcached:?host[h1:p1]=weight&host[/socket]&...` | the same, as Symfony writes it |
//! | `redis:?host[h1:p1]&host[h2]&...` with `redis_sentinel=master` or `redis_cluster=1`, `redis:?host[/socket]` | the same, as Symfony writes it |
//! | `dynamodb://region/table?...`, `dynamodb:///table`, `dynamodb://key-id:secret-key@region/table` | a table of DynamoDB |
//!
//! `rediss`, `valkeys`, `memcacheds` and their like speak TLS; `#insecure` at the end of such a URL is `verify_peer=0`. A
//! list of servers without a scheme is Redis only where all ports are 6379 or 6380, and Memcached only where all are 11211:
//! a wrong guess would look like lost sessions.
//!
//! Any value may be `env:NAME` or `file:PATH`: PHP prints `session.save_path` in messages of its own, so a secret
//! belongs there. An unknown option, a second value for the same option, or a value of the wrong type is an error
//! that names the character it starts at.

mod memcached;
mod parse;
mod seeds;
mod symfony;

use std::fmt;
use std::num::NonZeroU32;

use crate::{Environment, Error, ErrorKind, Result, Secret};

/// What `session.save_path` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SavePath {
    /// Look the store up in the environment.
    Detect,
    /// This store.
    Store(StoreUrl),
}

impl SavePath {
    /// Parses the setting; `environment` answers `env:NAME`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with the position of the first character that cannot be understood.
    ///
    /// # Examples
    /// ```
    /// use cloakroom::{Environment, SavePath};
    ///
    /// let environment = Environment::from_iter([("REDIS_PASSWORD", "s3cr3t")]);
    /// let SavePath::Store(url) = SavePath::parse("tcp://10.0.0.7?auth=env:REDIS_PASSWORD", &environment)? else {
    ///     unreachable!("a scheme never means detection")
    /// };
    /// assert_eq!(url.to_string(), "tcp://10.0.0.7?auth=***");
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn parse(text: &str, environment: &Environment) -> Result<Self> {
        SavePath::parse_by(parse::store_url, text, environment)
    }

    /// Parses the setting as phpredis' handler `redis` does: what has no scheme is a Redis server, on any port, or the
    /// path of its socket, and never a directory.
    ///
    /// # Errors
    /// As [`SavePath::parse`].
    pub fn parse_for_phpredis(text: &str, environment: &Environment) -> Result<Self> {
        SavePath::parse_by(parse::redis_url, text, environment)
    }

    /// Parses the setting as php-memcached's handler does: what has no scheme is a list of Memcached servers, on any
    /// port, or the paths of their sockets, and never a directory.
    ///
    /// # Errors
    /// As [`SavePath::parse`].
    pub fn parse_for_php_memcached(text: &str, environment: &Environment) -> Result<Self> {
        SavePath::parse_by(parse::memcached_url, text, environment)
    }

    fn parse_by(
        store_url: fn(&str, &Environment) -> Result<StoreUrl>,
        text: &str,
        environment: &Environment,
    ) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() || text == "auto" {
            return Ok(SavePath::Detect);
        }
        if let Some(name) = text.strip_prefix("env:") {
            let value = environment.var(name).ok_or_else(|| unset(name, 0))?;
            if value.starts_with("env:") {
                return Err(wrong(
                    0,
                    format!("{name} names another variable"),
                    "put the store's URL into it",
                ));
            }
            return SavePath::parse_by(store_url, value, environment);
        }
        store_url(text, environment).map(SavePath::Store)
    }
}

/// A store, by its URL; [`Display`](fmt::Display) and [`Debug`] mask every secret in it.
///
/// Two kinds have several servers. A pool (`tcp://h1?weight=1,tcp://h2`) has for each all that its own URL says. The
/// hosts of `+sentinel` and `+cluster` are many ways to one store: what holds for all of them, user, password, path and
/// options, is with the first, and the others have a host and a port alone. Those of `memcached` are alike, with a weight
/// or a socket's path of their own. Symfony's forms become these.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl {
    /// The scheme in lower case; `file` and `tcp` for the forms that have none.
    pub scheme: String,
    /// The servers in the order given; at least one, and exactly one for a directory.
    pub servers: Vec<Server>,
}

/// One server of a [`StoreUrl`].
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Server {
    /// Its own scheme, where a pool mixes them; see [`StoreUrl::scheme_of`].
    pub scheme: Option<String>,
    /// The user before the `@`.
    pub user: Option<String>,
    /// The password before the `@`.
    pub password: Option<Secret>,
    /// The host name or address, an IPv6 one without its brackets.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// Its share, where it stands with the server and is no option: `host:11211:2`.
    pub weight: Option<NonZeroU32>,
    /// What follows the host, from its `/` on: a directory, a socket, `/database`, `/master/database`.
    pub path: String,
    /// The options after the `?`, in order.
    pub params: Vec<Param>,
}

/// One option of a server, decoded.
#[derive(Clone, PartialEq, Eq)]
pub struct Param {
    /// Its name as written: `timeout`, `auth[]`, `auth[user]`.
    pub name: String,
    /// Its value; treated as a secret because some are.
    pub value: Secret,
    /// Where it starts in `session.save_path`, counted in characters from 1; 0 for one that [`StoreUrl::set`] added.
    pub at: usize,
    /// The setting that it comes from, where that is not `session.save_path`.
    setting: Option<&'static str>,
    /// Whether a secret stands before it: an `&` in a password would make its rest look like an option.
    follows_secret: bool,
}

/// An error about the setting, at a character counted from 0.
pub(crate) fn wrong(at: usize, what: impl fmt::Display, hint: &str) -> Error {
    Error::new(ErrorKind::Config, format!("session.save_path: {what} (at character {})", at + 1)).hint(hint)
}

fn unset(name: &str, at: usize) -> Error {
    wrong(
        at,
        format!("the environment variable {name} is not set"),
        "set it where PHP starts (the PHP-FPM master, not the pool)",
    )
}

impl Param {
    /// The value as a number of this type.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] saying what is `expected`.
    pub fn number<T: std::str::FromStr>(&self, expected: &str) -> Result<T> {
        self.value.reveal().parse().map_err(|_| self.refused(expected))
    }

    /// The value as a switch: `1`, `true`, `on`, `yes`, or `0`, `false`, `off`, `no`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for anything else.
    pub fn switch(&self) -> Result<bool> {
        match self.value.reveal().to_ascii_lowercase().as_str() {
            "1" | "true" | "on" | "yes" => Ok(true),
            "0" | "false" | "off" | "no" | "" => Ok(false),
            _ => Err(self.refused("1 or 0")),
        }
    }

    /// Checks that the value is one of these words.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for any other.
    pub fn one_of(&self, words: &[&str]) -> Result<()> {
        match words.contains(&self.value.reveal()) {
            true => Ok(()),
            false => Err(self.refused(&format!("one of {}", words.join(", ")))),
        }
    }

    /// The error for a value that is not what was `expected`.
    pub fn refused(&self, expected: &str) -> Error {
        match self.setting {
            Some(setting) => Error::new(ErrorKind::Config, format!("{setting} takes {expected}"))
                .hint(format!("correct {setting}")),
            None => {
                wrong(self.at - 1, format!("option \"{}\" takes {expected}", self.name), "correct its value")
            }
        }
    }

    /// The error for an option that does not exist, with those that do.
    pub fn unknown(&self, known: &[&str]) -> Error {
        let known = known.join(", ");
        match self.follows_secret {
            _ if self.setting.is_some() => self.refused("no value here: this store has nothing like it"),
            false => {
                let hint = format!("the options of this store are {known}");
                wrong(self.at - 1, format!("unknown option \"{}\"", self.name), &hint)
            }
            true => {
                let hint = format!("write & in a password as %26; the options of this store are {known}");
                wrong(self.at - 1, "unknown option", &hint)
            }
        }
    }

    /// The error for an option that was given already.
    pub fn repeated(&self) -> Error {
        match self.setting {
            Some(setting) => {
                let what = format!("{setting} and session.save_path both set \"{}\"", self.name);
                Error::new(ErrorKind::Config, what).hint("keep one of them")
            }
            None => {
                wrong(self.at - 1, format!("option \"{}\" is given twice", self.name), "keep one of them")
            }
        }
    }

    /// Everything that is not known to be harmless is a secret: `pwd`, `AUTH`, a piece of a password.
    fn is_secret(&self) -> bool {
        const HARMLESS: &[&str] = &[
            "auth[user]",
            "user",
            "username",
            "database",
            "db",
            "dbindex",
            "prefix",
            "timeout",
            "read_timeout",
            "persistent",
            "retry_interval",
            "weight",
            "verify_peer",
            "verify_peer_name",
            "peer_name",
            "cafile",
            "capath",
            "local_cert",
            "local_pk",
            "allow_self_signed",
            "failover",
            "wait_replicas",
            "persistent_id",
            "tcp_keepalive",
            "lazy",
            "SNI_enabled",
            "sentinel_tls",
            "sentinel_auth[user]",
            "sentinel_user",
            "sentinel_username",
            "redis_cluster",
            "redis_sentinel",
            "sentinel_master",
            "protocol",
            "lock",
            "distribution",
            "replicas",
            "number_of_replicas",
            "randomize_replica_read",
            "remove_failed_servers",
            "server_failure_limit",
            "connect_timeout",
            "hash_key",
            "data",
            "data_attribute",
            "data_type",
            "data_attribute_type",
            "ttl",
            "session_lifetime_attribute",
            "endpoint",
            "endpoint_url",
            "profile",
            "consistent_read",
            "session_name",
            "break_after",
        ];
        // Lists of servers: of phpredis' clusters, and Symfony's.
        if ["seed", "host"].iter().any(|list| self.name.split('[').next() == Some(list)) {
            return false;
        }
        !HARMLESS.contains(&self.plain_name())
    }

    /// Whether it may be the rest of a password with an `&` in it, and no option at all.
    fn may_be_a_piece(&self) -> bool {
        const SECRETS: &[&str] = &[
            "auth",
            "auth[]",
            "auth[pass]",
            "auth[0]",
            "auth[1]",
            "password",
            "pass",
            "passphrase",
            "sentinel_auth",
            "sentinel_auth[]",
            "sentinel_auth[pass]",
            "sentinel_password",
        ];
        self.follows_secret && self.is_secret() && !SECRETS.contains(&self.plain_name())
    }

    /// The name without what PHP puts around those for TLS.
    fn plain_name(&self) -> &str {
        let inside = |list| self.name.strip_prefix(list)?.strip_suffix(']');
        ["stream[", "ssl["].into_iter().find_map(inside).unwrap_or(&self.name)
    }
}

impl StoreUrl {
    /// The store of PHP's own `files` handler, in this directory.
    pub fn directory(path: &str) -> Self {
        let server = Server { path: path.to_owned(), ..Server::default() };
        StoreUrl { scheme: "file".into(), servers: vec![server] }
    }

    /// Adds an option that holds for all servers, and stands with the first; errors name the `setting` that it comes from.
    pub fn set(&mut self, name: &str, value: Secret, setting: &'static str) {
        if let Some(first) = self.servers.first_mut() {
            let setting = Some(setting);
            first.params.push(Param { name: name.to_owned(), value, at: 0, setting, follows_secret: false });
        }
    }

    /// The scheme that this server of it is reached by.
    pub fn scheme_of<'a>(&'a self, server: &'a Server) -> &'a str {
        server.scheme.as_deref().unwrap_or(&self.scheme)
    }

    /// The one server of a store that has only one, or the first of several.
    pub fn server(&self) -> &Server {
        // `parse` never builds a URL without a server.
        &self.servers[0]
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, others) = self.servers.split_first().unwrap_or((self.server(), &[]));
        let ring = matches!(self.scheme.as_str(), "memcached" | "memcacheds");
        if ring || self.scheme.ends_with("+sentinel") || self.scheme.ends_with("+cluster") {
            write!(f, "{}://", self.scheme)?;
            first.write_userinfo(f)?;
            let address = if ring { Server::write_member } else { Server::write_address };
            address(first, f)?;
            for other in others {
                f.write_str(",")?;
                address(other, f)?;
            }
            return if ring { first.write_params(f) } else { first.write_rest(f) };
        }
        for (index, server) in self.servers.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            if self.scheme != "file" {
                write!(f, "{}://", self.scheme_of(server))?;
            }
            write!(f, "{server}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_userinfo(f)?;
        self.write_address(f)?;
        self.write_rest(f)
    }
}

impl Server {
    fn write_userinfo(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            f.write_str(user)?;
        }
        match (&self.user, &self.password) {
            (_, Some(password)) => write!(f, ":{password}@"),
            (Some(_), None) => f.write_str("@"),
            (None, None) => Ok(()),
        }
    }

    fn write_address(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) if host.contains(':') => write!(f, "[{host}]")?,
            Some(host) => f.write_str(host)?,
            None => {}
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }

    /// As a member of a ring.
    fn write_member(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_address(f)?;
        match (&self.host, self.port, self.weight) {
            (None, _, None) => f.write_str(&self.path),
            (None, _, Some(weight)) => write!(f, "{}:0:{weight}", self.path),
            (Some(_), None, Some(weight)) => write!(f, ":11211:{weight}"),
            (Some(_), Some(_), Some(weight)) => write!(f, ":{weight}"),
            (Some(_), _, None) => Ok(()),
        }
    }

    fn write_rest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        self.write_params(f)
    }

    fn write_params(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, param) in self.params.iter().enumerate() {
            f.write_str(if index == 0 { "?" } else { "&" })?;
            match param.is_secret() {
                true if param.may_be_a_piece() => write!(f, "{}", param.value)?,
                true => write!(f, "{}={}", param.name, param.value)?,
                false => write!(f, "{}={}", param.name, param.value.reveal())?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

impl fmt::Debug for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=...", self.name)
    }
}

#[cfg(test)]
mod tests;
