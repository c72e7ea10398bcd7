//! The session id, checked once.

use std::fmt;

use crate::{Error, ErrorKind, Result};

/// A session id that is safe as a file name and as part of a key on the wire.
///
/// The rule is that of PHP's own `files` handler: 1 to 256 characters of `A-Z a-z 0-9 , -`. It keeps `../`,
/// NUL, line breaks, and another session's lock key (`..._LOCK`) out of every store.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(String);

impl SessionId {
    /// The longest id that PHP's own handler takes, in bytes.
    pub const MAX_LENGTH: usize = 256;

    /// Checks an id that came from a visitor or from a script.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is empty, too long, or holds another character.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let refused = |why: String| {
            Error::new(ErrorKind::Config, format!("the session id is {why}"))
                .hint("a session id has 1 to 256 characters out of A-Z a-z 0-9 , -")
        };
        if bytes.is_empty() {
            return Err(refused("empty".into()));
        }
        if bytes.len() > Self::MAX_LENGTH {
            return Err(refused(format!("{} bytes long", bytes.len())));
        }
        if let Some(at) = bytes
            .iter()
            .position(|byte| !matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b',' | b'-'))
        {
            return Err(refused(format!("not valid: byte {} is 0x{:02x}", at + 1, bytes[at])));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(SessionId(text.to_owned())),
            Err(_) => Err(refused("not ASCII".into())),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A session id is a bearer token: whoever has it is the user, so only its first six characters are shown.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}...", &self.0[..self.0.len().min(6)])
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_the_files_handler_takes() {
        for id in ["a", "vm0790r1veot5dhkkpdotjek71", "A-Z,0", &"x".repeat(256)] {
            assert_eq!(SessionId::parse(id.as_bytes()).unwrap().as_str(), id);
        }
    }

    #[test]
    fn refuses_hostile_ids_with_the_reason() {
        let long = "x".repeat(300);
        for (id, reason) in [
            ("", "the session id is empty"),
            ("../etc/passwd", "the session id is not valid: byte 1 is 0x2e"),
            ("a\0b", "the session id is not valid: byte 2 is 0x00"),
            ("a\r\nDEL x", "the session id is not valid: byte 2 is 0x0d"),
            ("abc_LOCK", "the session id is not valid: byte 4 is 0x5f"),
            (long.as_str(), "the session id is 300 bytes long"),
        ] {
            let error = SessionId::parse(id.as_bytes()).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("{reason}\nhint: a session id has 1 to 256 characters out of A-Z a-z 0-9 , -")
            );
        }
    }

    #[test]
    fn shows_only_its_first_characters() {
        let id = SessionId::parse(b"vm0790r1veot5dhkkpdotjek71").unwrap();
        assert_eq!(format!("{id} {id:?}"), "vm0790... vm0790...");
    }
}
