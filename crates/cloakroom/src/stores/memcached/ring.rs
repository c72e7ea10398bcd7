//! Which server a key is on, as libmemcached decides.

use super::options::Options;

/// The servers' places on the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ring {
    servers: usize,
}

impl Ring {
    pub(super) fn of(options: &Options) -> Self {
        Ring { servers: options.servers.len() }
    }

    /// The index of the server that has this key; the prefix is no part of it.
    pub(super) fn server(&self, key: &str) -> usize {
        key.len() % self.servers
    }
}
