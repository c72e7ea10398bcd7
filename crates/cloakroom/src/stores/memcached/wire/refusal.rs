//! What a server does not do, in its own words, and as the user's error.

use super::introduction::user_wanted;
use crate::{Error, ErrorKind};

/// Why a server did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Refusal {
    /// A value of this many bytes is more than one item may have.
    TooLarge {
        size: usize,
    },
    NoMemory(String),
    /// It asks for a user; what follows has no answer of its own.
    NotAuthenticated,
    Other(String),
}

impl Refusal {
    /// By a line such as `SERVER_ERROR out of memory storing object`, of a value of this size.
    pub(super) fn of(line: String, size: usize) -> Self {
        let said = line.to_ascii_lowercase();
        match () {
            () if said.contains("too large") => Refusal::TooLarge { size },
            () if said.contains("out of memory") => Refusal::NoMemory(line),
            () if said.contains("unauthenticated") => Refusal::NotAuthenticated,
            () => Refusal::Other(line),
        }
    }

    /// As the user's error.
    pub(super) fn error(&self) -> Error {
        match self {
            Refusal::TooLarge { size } => Error::new(
                ErrorKind::TooLarge,
                format!("the session has {size} bytes, which is more than the server takes"),
            )
            .hint("keep less in the session, or raise the server's -I (1m unless set, with the key and some 50 bytes more)"),
            Refusal::NoMemory(said) => {
                Error::new(ErrorKind::Full, format!("the server has no memory left ({said})"))
                    .hint("give it more with -m; without -M it would remove what was not used for longest")
            }
            Refusal::NotAuthenticated => user_wanted(),
            // A proxy says so of a server behind it.
            Refusal::Other(said) if said.starts_with("SERVER_ERROR") => {
                Error::new(ErrorKind::Unreachable, format!("the server failed ({said})"))
                    .hint("see the server's log, and that of a proxy between")
                    .maybe_applied()
            }
            Refusal::Other(said) => {
                Error::new(ErrorKind::Unsupported, format!("the server refused ({said})"))
                    .hint("check that it is memcached 1.4.8 or later, and that a proxy between passes on gets, cas and touch")
            }
        }
    }
}
