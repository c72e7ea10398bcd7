//! What a Memcached URL may say, understood.

use std::time::Duration;

use crate::net::{Address, TlsOptions};
use crate::{Error, ErrorKind, Result, Secret, StoreUrl};

/// php-memcached's default since 3.1 (`memcached.sess_prefix`).
const PREFIX: &str = "memc.sess.key.";

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
    /// Whether a server that fails is left out, and others have its sessions.
    pub(super) remove_failed: bool,
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Distribution {
    #[default]
    Ketama,
    KetamaWeighted,
    Modula,
}

/// How to speak to a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Protocol {
    /// With a user by the binary one, without by meta commands where the server has them, or else ASCII.
    #[default]
    Auto,
    Ascii,
    Meta,
    Binary,
}

/// Which server a lock is on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum LockPlace {
    /// Where php-memcached has it: its key has a hash of its own.
    #[default]
    Native,
    /// The session's.
    Own,
}

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
        let servers = url
            .servers
            .iter()
            .map(|server| {
                let (address, shown) = match &server.host {
                    Some(host) => {
                        let port = server.port.unwrap_or(11211);
                        (Address::Tcp { host: host.clone(), port }, format!("memcached://{host}:{port}"))
                    }
                    None if !server.path.is_empty() => {
                        (Address::Unix(server.path.clone().into()), format!("memcached://{}", server.path))
                    }
                    None => {
                        return Err(Error::new(ErrorKind::Config, "session.save_path: the host is missing"));
                    }
                };
                Ok(Endpoint { shown, address, weight: 1 })
            })
            .collect::<Result<_>>()?;
        Ok(Options {
            shown: url.to_string(),
            servers,
            distribution: Distribution::default(),
            protocol: Protocol::default(),
            credentials: None,
            tls: None,
            prefix: PREFIX.to_owned(),
            lock: LockPlace::default(),
            connect_timeout: None,
            timeout: None,
            replicas: 0,
            remove_failed: false,
        })
    }
}
