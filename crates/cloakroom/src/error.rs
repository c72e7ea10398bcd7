//! The one error of the library: who must act, what was being done, where, and what to change.

use std::error::Error as StdError;
use std::fmt;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who must act on an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting or a URL is wrong; whoever wrote the configuration.
    Config,
    /// The store refused the credentials or the rights.
    Auth,
    /// The store could not be reached, or cut the connection.
    Unreachable,
    /// The store did not answer in time.
    Timeout,
    /// Another request kept the session's lock for longer than this one may wait.
    LockBusy,
    /// The session's lock is no longer ours; nothing was written.
    LockLost,
    /// The session is larger than the store takes.
    TooLarge,
    /// The store has no room left (disk full, out of memory).
    Full,
    /// The store answered something that cannot be understood.
    Corrupt,
    /// The store, or the server behind it, cannot do this.
    Unsupported,
    /// A fault of Cloakroom itself.
    Bug,
}

/// What is known of a change that was asked for when its commit failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The store did not apply it.
    Refused,
    /// It was sent, and no answer came back: it may have been applied.
    Unknown,
}

/// An error: its kind, what was being done, on which store, why, and what to change.
///
/// The text never holds a secret: stores are named by their masked URL.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    what: String,
    store: Option<String>,
    hint: Option<String>,
    outcome: Outcome,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of this kind; `what` says what went wrong, in lower case and without a full stop.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            what: what.into(),
            store: None,
            hint: None,
            outcome: Outcome::Refused,
            source: None,
        }))
    }

    /// Names the store, by its masked URL; the first name given stays.
    #[must_use]
    pub fn on(mut self, store: impl Into<String>) -> Self {
        self.0.store.get_or_insert_with(|| store.into());
        self
    }

    /// Says what to change.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Names another setting in the hint, where that one decides.
    #[must_use]
    pub fn decided_by(mut self, other: &str, instead_of: &str) -> Self {
        if let Some(hint) = &mut self.0.hint {
            *hint = hint.replace(instead_of, other);
        }
        self
    }

    /// Names where the URL stands, if not in `session.save_path`.
    #[must_use]
    pub fn about(mut self, variable: &str) -> Self {
        self.0.what = self.0.what.replace("session.save_path", variable);
        self.decided_by(variable, "session.save_path")
    }

    /// Keeps the error underneath.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Marks that the change was already on its way: it may have been applied.
    #[must_use]
    pub fn maybe_applied(mut self) -> Self {
        self.0.outcome = Outcome::Unknown;
        self
    }

    /// Who must act.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What is known of the change that failed.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        if let Some(store) = &self.0.store {
            write!(f, " (store {store})")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_what_why_where_and_remedy() {
        let error = Error::new(ErrorKind::Unreachable, "cannot connect")
            .source("connection refused")
            .on("redis://h:6379")
            .hint("start the server");
        assert_eq!(
            error.to_string(),
            "cannot connect: connection refused (store redis://h:6379)\nhint: start the server"
        );
        assert_eq!(error.outcome(), Outcome::Refused);
        assert_eq!(error.maybe_applied().outcome(), Outcome::Unknown);
    }
}
