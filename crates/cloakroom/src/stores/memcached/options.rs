//! What a Memcached URL may say, understood; the names are in one table, for the parser and the error about an unknown one.

mod table;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::net::{Address, TlsOptions};
use crate::stores::options::{Given, Named, TLS, connect_timeout, read_timeout};
use crate::{Error, ErrorKind, Param, Result, Secret, Server, StoreUrl};

use table::OWN;

/// Every option of a Memcached URL.
pub const OPTIONS: &[&[Named]] = &[OWN, TLS];

/// php-memcached's default since 3.1 (`memcached.sess_prefix`).
pub(super) const PREFIX: &str = "memc.sess.key.";

/// A Memcached URL, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The URL with its secrets masked.
    pub(super) shown: String,
    /// In the order given, which the ring depends on.
    pub(super) servers: Vec<Endpoint>,
    pub(super) distribution: Distribution,
    pub(super) protocol: Protocol,
    pub(super) credentials: Option<Credentials>,
    pub(super) tls: Option<TlsOptions>,
    pub(super) prefix: String,
    pub(super) lock: LockPlace,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    /// How many more servers have a copy of each session.
    pub(super) replicas: usize,
    /// After how many failures in a row a server is left out, so that others have its sessions; never without.
    pub(super) remove_failed_after: Option<NonZeroU32>,
}

/// One server of the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Its part of the URL with its secrets masked.
    pub(super) shown: String,
    pub(super) address: Address,
    pub(super) weight: u32,
}

/// How keys are spread over servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Distribution {
    Ketama,
    KetamaWeighted,
    Modula,
}

/// How to speak to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// With a user by the binary one, without by meta commands where the server has them, or else ASCII.
    Auto,
    Ascii,
    Meta,
    Binary,
}

/// Which server a lock is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LockPlace {
    /// Where php-memcached has it: its key has a hash of its own.
    Native,
    /// The session's.
    Own,
}

const DISTRIBUTIONS: &[(&str, Distribution)] = &[
    ("ketama", Distribution::Ketama),
    ("ketama_weighted", Distribution::KetamaWeighted),
    ("modula", Distribution::Modula),
];

const PROTOCOLS: &[(&str, Protocol)] = &[
    ("auto", Protocol::Auto),
    ("ascii", Protocol::Ascii),
    ("meta", Protocol::Meta),
    ("binary", Protocol::Binary),
];

const LOCK_PLACES: &[(&str, LockPlace)] = &[("native", LockPlace::Native), ("own", LockPlace::Own)];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: Secret,
}

impl Options {
    /// Reads the URL's options.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for an option that is unknown, repeated, contradictory or of another type.
    pub fn parse(url: &StoreUrl) -> Result<Self> {
        let first = url.server();
        let given = Given::collect(&first.params, OPTIONS, &[])?;
        given.one("randomize_replica_read").map(Param::switch).transpose()?;
        let distribution = choice(&given, "distribution", DISTRIBUTIONS)?;
        Ok(Options {
            shown: url.to_string(),
            servers: url.servers.iter().map(|server| Endpoint::of(&url.scheme, server)).collect(),
            distribution,
            protocol: choice(&given, "protocol", PROTOCOLS)?,
            credentials: credentials(&given, first)?,
            tls: given.tls(url.scheme == "memcacheds", "memcacheds://")?,
            prefix: prefix(&given)?,
            lock: choice(&given, "lock", LOCK_PLACES)?,
            connect_timeout: connect_timeout(&given)?,
            timeout: read_timeout(&given)?,
            replicas: replicas(&given, url.servers.len())?,
            remove_failed_after: remove_failed_after(&given, distribution)?,
        })
    }
}

impl Endpoint {
    fn of(scheme: &str, server: &Server) -> Self {
        let (address, shown) = match &server.host {
            Some(host) => {
                let port = server.port.unwrap_or(11211);
                let host = host.clone();
                let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                (Address::Tcp { host, port }, format!("{scheme}://{bracketed}:{port}"))
            }
            None => (Address::Unix(PathBuf::from(&server.path)), format!("{scheme}://{}", server.path)),
        };
        Endpoint { shown, address, weight: server.weight.map_or(1, NonZeroU32::get) }
    }
}

/// What these words mean; the first one is the default.
fn choice<T: Copy>(given: &Given<'_>, name: &'static str, words: &[(&str, T)]) -> Result<T> {
    let Some(param) = given.one(name) else { return Ok(words[0].1) };
    param.one_of(&words.iter().map(|(word, _)| *word).collect::<Vec<_>>())?;
    let said = words.iter().find(|(word, _)| *word == param.value.reveal());
    Ok(said.unwrap_or(&words[0]).1)
}

/// What stands before the `@`, or in options.
fn credentials(given: &Given<'_>, server: &Server) -> Result<Option<Credentials>> {
    let options = [given.one("user"), given.one("password")];
    let inside = [server.user.as_deref(), server.password.as_ref().map(Secret::reveal)];
    for (param, inside) in options.into_iter().zip(inside) {
        if let (Some(param), Some(inside)) = (param, inside)
            && param.value.reveal() != inside
        {
            return Err(param.refused("what stands before the @, or nothing stands there"));
        }
    }
    let said = |param: Option<&Param>, inside: Option<&str>| {
        let text = param.map(|param| param.value.reveal()).or(inside);
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let [user, password] = options;
    match (said(user, inside[0]), said(password, inside[1])) {
        (Some(user), Some(password)) => Ok(Some(Credentials { user, password: Secret::new(password) })),
        (None, None) => Ok(None),
        (user, _) => {
            let missing =
                if user.is_some() { "a user without a password" } else { "a password without a user" };
            Err(Error::new(ErrorKind::Config, format!("session.save_path: this is {missing}"))
                .hint("write memcached://user:password@host, or user= and password= after the ?"))
        }
    }
}

fn prefix(given: &Given<'_>) -> Result<String> {
    let Some(param) = given.one("prefix") else { return Ok(PREFIX.to_owned()) };
    let prefix = param.value.reveal();
    match prefix.len() <= 200 && prefix.bytes().all(|byte| byte > b' ' && byte != 0x7f) {
        true => Ok(prefix.to_owned()),
        false => Err(param.refused("up to 200 bytes without spaces and control characters")),
    }
}

fn replicas(given: &Given<'_>, servers: usize) -> Result<usize> {
    match given.one("replicas") {
        // More would be the session's own server again.
        Some(param) => Ok(param.number::<usize>("a number from 0")?.min(servers - 1)),
        None => Ok(0),
    }
}

fn remove_failed_after(given: &Given<'_>, distribution: Distribution) -> Result<Option<NonZeroU32>> {
    let limit = given.one("server_failure_limit");
    let limit = limit.map_or(Ok(NonZeroU32::MIN), |param| param.number("a number above 0"))?;
    match given.one("remove_failed_servers") {
        // libmemcached leaves nobody out of a list that is no ring: most sessions would move.
        Some(param) => Ok((param.switch()? && distribution != Distribution::Modula).then_some(limit)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests;
