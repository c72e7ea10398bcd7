//! What a Redis URL may say, understood; the names are in one table, for the parser and the error about an unknown one.

mod table;

use std::path::PathBuf;
use std::time::Duration;

use super::cluster::hash_tag;
use crate::net::{Address, TlsOptions};
use crate::stores::options::{Given, Named, TLS, read_timeout, seconds};
use crate::{Error, ErrorKind, Param, Result, Secret, Server, StoreUrl};

use table::{AUTH, OWN, SENTINEL_AUTH, SENTINEL_USER, USER};

/// Every option of a Redis URL.
pub const OPTIONS: &[&[Named]] = &[OWN, TLS];

pub(super) const PREFIX: &str = "PHPREDIS_SESSION:";
pub(super) const CLUSTER_PREFIX: &str = "PHPREDIS_CLUSTER_SESSION:";

/// A Redis URL, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The URL with its secrets masked.
    pub(super) shown: String,
    pub(super) servers: Servers,
}

/// The servers of a URL, and how they share the sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Servers {
    /// Each on its own, with its share.
    Pool(Vec<(u32, Endpoint)>),
    /// The one that sentinels name.
    Sentinel {
        /// What holds for whichever server is the primary.
        primary: Box<Endpoint>,
        /// What the sentinels call it.
        name: String,
        sentinels: Vec<Endpoint>,
    },
    /// As the nodes of a cluster tell.
    Cluster {
        /// What holds for every node.
        every: Box<Endpoint>,
        /// The nodes to ask first.
        seeds: Vec<Address>,
    },
}

/// One server of the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Its part of the URL with its secrets masked.
    pub(super) shown: String,
    pub(super) address: Address,
    pub(super) tls: Option<TlsOptions>,
    pub(super) credentials: Option<Credentials>,
    pub(super) database: u32,
    pub(super) prefix: String,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    /// How many replicas must have a change before it counts as written.
    pub(super) wait_replicas: u32,
    /// Whether the URL holds what phpredis ignores: said when the server wants a password.
    pub(super) ignored_userinfo: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: Option<String>,
    pub(super) password: Secret,
}

impl Options {
    /// Reads the URL's options.
    ///
    /// In the schemes of phpredis (`tcp`, `tls`, `ssl`, `unix`) a user, a password before the `@` and a path after
    /// the host mean nothing, as there: honouring them would move the sessions of those who have them. They are an
    /// error where they contradict an option. In `redis://` and its like they mean what they say.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for an option that is unknown, repeated, contradictory or of another type.
    pub fn parse(url: &StoreUrl) -> Result<Self> {
        let shown = url.to_string();
        let endpoint = |server| Endpoint::parse(url.scheme_of(server), server);
        let servers = match url.scheme.rsplit_once('+') {
            Some((_, "sentinel")) => sentinels(url, &shown)?,
            Some((_, "cluster")) => {
                let (_, mut every) = endpoint(url.server())?;
                every.shown.clone_from(&shown);
                let seeds = url.servers.iter().map(|server| address(&url.scheme, server));
                Servers::Cluster { every: Box::new(every), seeds: seeds.collect::<Result<_>>()? }
            }
            _ => Servers::Pool(url.servers.iter().map(endpoint).collect::<Result<_>>()?),
        };
        Ok(Options { shown, servers })
    }
}

/// The hosts are sentinels; the options are about the servers that they watch.
fn sentinels(url: &StoreUrl, shown: &str) -> Result<Servers> {
    let first = url.server();
    let given = Given::collect(&first.params, OPTIONS, TWICE)?;
    let (name, database) = match first.path.trim_start_matches('/').split_once('/') {
        Some((name, database)) => (name, format!("/{database}")),
        None => (first.path.trim_start_matches('/'), String::new()),
    };
    if name.is_empty() {
        let what =
            "session.save_path: the name that the sentinels know the servers by is missing after the hosts";
        return Err(Error::new(ErrorKind::Config, what)
            .hint(format!("write {}://host1,host2/NAME, with the NAME of sentinel monitor", url.scheme)));
    }
    let (_, mut primary) = Endpoint::parse(&url.scheme, &Server { path: database, ..first.clone() })?;
    shown.clone_into(&mut primary.shown);
    let encrypted = match given.one("sentinel_tls") {
        Some(param) => {
            let encrypted = param.switch()?;
            if encrypted && primary.tls.is_none() {
                return Err(param.refused("0: with plain servers sentinels speak plainly, too"));
            }
            encrypted
        }
        None => primary.tls.is_some(),
    };
    let credentials = given.logged_in_as(SENTINEL_AUTH, SENTINEL_USER, None)?;
    let sentinel = |server: &Server| {
        let host = server.host.clone().unwrap_or_default();
        let port = server.port.unwrap_or(26379);
        Endpoint {
            shown: format!("sentinel {host}:{port}"),
            address: Address::Tcp { host, port },
            tls: primary.tls.clone().filter(|_| encrypted),
            credentials: credentials.clone(),
            database: 0,
            ignored_userinfo: false,
            ..primary.clone()
        }
    };
    let sentinels = url.servers.iter().map(sentinel).collect();
    Ok(Servers::Sentinel { name: name.to_owned(), sentinels, primary: Box::new(primary) })
}

impl Endpoint {
    fn parse(scheme: &str, server: &Server) -> Result<(u32, Self)> {
        let given = Given::collect(&server.params, OPTIONS, TWICE)?;
        let native = native(scheme);
        let address = address(scheme, server)?;
        let encrypted = matches!(scheme.split('+').next(), Some("tls" | "ssl" | "rediss" | "valkeys"));
        let clustered = scheme.ends_with("+cluster");
        let watched = scheme.ends_with("+sentinel");
        for name in [SENTINEL_AUTH, SENTINEL_USER, "sentinel_tls"] {
            if let Some(param) = given.one(name).filter(|_| !watched) {
                return Err(param.refused("no value here: it is for sentinels"));
            }
        }
        if let Some(weight) = given.one("weight").filter(|_| watched) {
            return Err(weight.refused("no value here: sentinels name one server"));
        }
        match (clustered, given.one("weight"), given.one("failover")) {
            (true, Some(weight), _) => {
                return Err(weight.refused("no value here: a cluster has shares of its own"));
            }
            (false, _, Some(failover)) => return Err(failover.refused("no value here: it is for clusters")),
            (true, _, Some(failover)) => {
                failover.one_of(&["none", "error", "distribute", "distribute_slaves"])?
            }
            _ => {}
        }

        let weight = match given.one("weight") {
            Some(weight) => match weight.number("a number above 0")? {
                0 => return Err(weight.refused("a number above 0")),
                number => number,
            },
            None => 1,
        };
        for accepted in ["persistent", "tcp_keepalive", "lazy"] {
            given.one(accepted).map(Param::switch).transpose()?;
        }
        if let Some(interval) = given.one("retry_interval") {
            interval.number::<u32>("a number of milliseconds")?;
        }
        let endpoint = Endpoint {
            shown: format!("{scheme}://{server}"),
            tls: given.tls(encrypted, "tls:// or rediss://")?,
            credentials: given.credentials(server, native)?,
            database: given.database(scheme, server)?,
            prefix: given.prefix(clustered)?,
            connect_timeout: match given.one("timeout") {
                // phpredis: no limit there, and an error elsewhere.
                Some(param) if clustered && param.number::<f64>("seconds")? == 0.0 => None,
                Some(param) => Some(seconds(param, "seconds above 0")?),
                None => None,
            },
            timeout: read_timeout(&given)?,
            wait_replicas: match given.one("wait_replicas") {
                Some(param) => param.number("a number from 0")?,
                None => 0,
            },
            ignored_userinfo: native && (server.user.is_some() || server.password.is_some()),
            address,
        };
        Ok((weight, endpoint))
    }
}

fn address(scheme: &str, server: &Server) -> Result<Address> {
    match (&server.host, scheme) {
        (None, _) => Ok(Address::Unix(PathBuf::from(socket(scheme, server).0))),
        (Some(_), "unix" | "redis+unix" | "valkey+unix") => Err(Error::new(
            ErrorKind::Config,
            format!(
                "session.save_path: {scheme}:// takes a socket, not a host (at character {})",
                scheme.len() + 4
            ),
        )
        .hint(format!("write {scheme}:///path/of/the.sock, with three slashes"))),
        (Some(host), _) => Ok(Address::Tcp { host: host.clone(), port: server.port.unwrap_or(6379) }),
    }
}

/// The socket's path, and the database after it: Symfony writes `redis:///run/redis.sock/2`.
fn socket<'a>(scheme: &str, server: &'a Server) -> (&'a str, Option<u32>) {
    let path = server.path.as_str();
    match path.rsplit_once('/') {
        Some((socket, number)) if !native(scheme) && !scheme.ends_with("+unix") && !socket.is_empty() => {
            match number.parse() {
                Ok(number) => (socket, Some(number)),
                Err(_) => (path, None),
            }
        }
        _ => (path, None),
    }
}

/// Whether phpredis has this scheme, and its rules hold.
fn native(scheme: &str) -> bool {
    matches!(scheme, "tcp" | "tls" | "ssl" | "unix")
}

/// A user and a password are given as a list of two.
const TWICE: &[&str] = &["auth[]", "auth[0]", "auth[1]", "sentinel_auth[]"];

/// What only Redis reads of the options.
impl Given<'_> {
    fn credentials(&self, server: &Server, native: bool) -> Result<Option<Credentials>> {
        self.logged_in_as(AUTH, USER, Some((server, native)))
    }

    /// What these two options say, and what stands before the `@` of a server, unless phpredis ignores it.
    fn logged_in_as(
        &self,
        auth: &'static str,
        user: &'static str,
        server: Option<(&Server, bool)>,
    ) -> Result<Option<Credentials>> {
        let nobody = Server::default();
        let (server, native) = server.unwrap_or((&nobody, true));
        let mut secrets = self.all(auth);
        if secrets.len() == 2 && secrets[0].name == "auth[1]" {
            secrets.swap(0, 1);
        }
        let mut user = self.one(user).map(|param| (param, param.value.reveal()));
        let mut password = None;
        match secrets[..] {
            [] => {}
            [only] => password = Some(only),
            [first, second, ..] => {
                if user.is_some() {
                    return Err(second.repeated());
                }
                user = Some((first, first.value.reveal()));
                password = Some(second);
            }
        }
        for (param, inside) in [
            (user.map(|(param, _)| param), server.user.as_deref()),
            (password, server.password.as_ref().map(Secret::reveal)),
        ] {
            if let (Some(param), Some(inside)) = (param, inside)
                && param.value.reveal() != inside
            {
                return Err(param.refused("what stands before the @, or nothing stands there"));
            }
        }
        let (inside_user, inside_password) = match native {
            true => (None, None),
            false => (server.user.clone(), server.password.clone()),
        };
        let user_param = user.map(|(param, _)| param);
        let user = user.map(|(_, name)| name.to_owned()).or(inside_user);
        let password = password.map(|param| param.value.clone()).or(inside_password);
        match (user, password) {
            (user, Some(password)) if !password.reveal().is_empty() => {
                Ok(Some(Credentials { user: user.filter(|user| !user.is_empty()), password }))
            }
            // An empty password is none: phpredis sends it, and is refused.
            (None, _) => Ok(None),
            (Some(_), _) => match user_param {
                Some(param) => Err(param.refused("a password beside it (auth[pass]=)")),
                None => Ok(None),
            },
        }
    }

    fn database(&self, scheme: &str, server: &Server) -> Result<u32> {
        let given = match self.one("database") {
            Some(param) => Some((param, param.number::<u32>("a number from 0")?)),
            None => None,
        };
        let path = server.path.trim_matches('/');
        let inside = match server.host {
            Some(_) => path.parse().ok(),
            None => socket(scheme, server).1,
        };
        match (given, inside) {
            (Some((param, number)), Some(inside)) if number != inside => {
                Err(param.refused("the number after the host, or none stands there"))
            }
            (Some((param, 1..)), _) if scheme.ends_with("+cluster") => {
                Err(param.refused("0: a cluster has no other database"))
            }
            (Some((_, number)), _) => Ok(number),
            (None, Some(1..)) if scheme.ends_with("+cluster") => Err(Error::new(
                ErrorKind::Config,
                format!(
                    "session.save_path: \"/{path}\" after the hosts names a database, and a cluster has none"
                ),
            )
            .hint("leave it out; the key prefix is prefix=")),
            (None, _) if native(scheme) => Ok(0),
            (None, Some(inside)) => Ok(inside),
            (None, None) if server.host.is_none() || path.is_empty() => Ok(0),
            (None, None) => Err(Error::new(
                ErrorKind::Config,
                format!("session.save_path: \"/{path}\" after the host is not the number of a database"),
            )
            .hint("write /0, or leave it out; the key prefix is prefix=")),
        }
    }

    fn prefix(&self, clustered: bool) -> Result<String> {
        let Some(param) = self.one("prefix") else {
            return Ok(if clustered { CLUSTER_PREFIX } else { PREFIX }.to_owned());
        };
        let prefix = param.value.reveal();
        // The lock's key has the session's in braces, which would then end too early.
        if clustered && prefix.contains('}') && hash_tag(prefix.as_bytes()).is_none() {
            return Err(param.refused("a } only behind a { and at least one character"));
        }
        Ok(prefix.to_owned())
    }
}

#[cfg(test)]
mod tests;
