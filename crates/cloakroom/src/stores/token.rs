//! The value of our locks.

use std::sync::LazyLock;

use crate::{Error, ErrorKind, Result};

/// What our locks begin with; any other value on a lock's key is a native handler's.
pub(crate) const MARK: &str = "cloakroom:";

/// `cloakroom:<32 hex digits>:<host>:<pid>`. The digits are what proves that a lock is ours; host and pid tell a
/// person who looks into the server which worker holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    pub(crate) fn new() -> Result<Self> {
        static HOST: LazyLock<String> = LazyLock::new(|| {
            let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
            name.unwrap_or_default()
        });
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| {
            Error::new(ErrorKind::Bug, "the system gave no random numbers").source(error.to_string())
        })?;
        Ok(Token(format!("{MARK}{:032x}:{}:{}", u128::from_be_bytes(random), *HOST, std::process::id())))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether a lock of this value is ours; a `*` at its end says that somebody waits for it.
    pub(crate) fn holds(&self, lock: &[u8]) -> bool {
        lock.strip_suffix(b"*").unwrap_or(lock) == self.as_bytes()
    }

    /// The random digits, by which the keys of a waiter are named.
    pub(crate) fn digits(&self) -> &str {
        &self.0[MARK.len()..MARK.len() + 32]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whose_it_is_and_never_comes_twice() {
        let (one, other) = (Token::new().unwrap(), Token::new().unwrap());
        assert_ne!(one.digits(), other.digits());
        let text = String::from_utf8(one.as_bytes().to_vec()).unwrap();
        assert!(text.starts_with(&format!("cloakroom:{}:", one.digits())), "{text}");
        assert!(text.ends_with(&format!(":{}", std::process::id())), "{text}");
    }
}
