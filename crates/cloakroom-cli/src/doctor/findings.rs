//! Every finding there is, by its name: what it is called, and why it matters.

use serde_json::{Value, json};

use crate::output::{BAD, DOUBTFUL, FAINT, paint};

/// A kind of finding.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// What it is called in the output and in docs/doctor.md.
    pub(super) name: &'static str,
    /// Why it matters.
    pub(super) why: &'static str,
}

macro_rules! kinds {
    ($($constant:ident $name:literal: $why:literal;)+) => {
        $(pub(super) const $constant: &Kind = &Kind { name: $name, why: $why };)+

        /// All of them, for the test that compares them with docs/doctor.md.
        #[cfg(test)]
        pub(super) const ALL: &[&Kind] = &[$($constant),+];
    };
}

kinds! {
    SYNTAX "syntax-error": "PHP stops reading a file at its first syntax error: every later line is lost, with no more than a line in a log";
    CURLY "curly-quotes": "PHP knows only \" and ': curly quotes become part of the value";
    HASH "hash-comment": "PHP's comments begin with ; alone: the text behind # becomes part of the value";
    ELSEWHERE "path-section": "a setting below [PATH=...] or [HOST=...] holds for that path or host alone";
    MISSPELT "misspelt-setting": "PHP ignores settings that it does not know, without a word";
    HANDLER "unknown-handler": "PHP has no save handler of that name: session_start() fails";
    NOT_LOADED "extension-not-loaded": "without its extension PHP does not know the save handler: session_start() fails";
    NO_FILE "extension-file-missing": "PHP starts without an extension whose file it does not find: session_start() fails";
    DOES_NOT_LOAD "extension-does-not-load": "PHP starts without an extension that it cannot load, built for another version for example: session_start() fails";
    OVERRIDDEN "overridden": "the value that PHP reads last holds, and nothing says that the other one is lost";
    LOCKED "locked-by-admin-value": "what php_admin_value sets cannot be changed later: the line is ignored without a word";
    UNREAD "never-read": "no SAPI that was found reads this file";
    UNSET "variable-unset": "PHP puts nothing where ${NAME} names a variable that is not set";
    SERIALIZERS "serializers-differ": "PHP destroys a session that it cannot decode: who comes from one SAPI to the other is logged out";
    STICKY "sticky-name": "routers of Cloud Foundry, and other load balancers, tie a visitor with a cookie JSESSIONID to one server: the others get no share of the load, and its end is felt";
    GC "nobody-collects": "expired sessions stay for ever: the store fills up, and in a directory old cookies stay valid";
    SECRET "password-in-ini": "PHP prints session.save_path in its own warnings and in phpinfo()";
    LOCAL "on-this-host": "sessions in a local directory are not there for a visitor who is sent to another server";
    SAVE_PATH "save-path": "a store that cannot be understood is no store: session_start() fails";
    NATIVE "native-rejects": "the native handler does not take this form: session_start() fails";
    UNDETECTED "nothing-detected": "session.save_path is empty, and the environment names no store that can be used";
    NOTICE "platform-notice": "session.save_path is empty: what the environment names decides where sessions are";
    NO_DIRECTORY "directory-missing": "PHP does not make the directory: session_start() fails";
    OWNER "directory-not-writable": "PHP's workers cannot make files there: session_start() fails";
    MODE "directory-open-to-others": "the name of a session's file is its id: who reads the directory can take over any session";
    FULL "no-room": "a session that finds no room is not written: what visitors did is lost";
    LEVELS "levels-missing": "PHP makes none of the directories of N;/path: sessions whose id begins so cannot be stored";
    NFS "nfs-options": "with these options the hosts do not see each other's locks or changes: updates get lost";
    SKEW "clock-skew": "a session's age is the difference of two clocks: sessions end too early or too late";
    NAME "name-not-found": "a host that cannot be resolved cannot be reached: session_start() fails";
    PORT "port-closed": "nothing answers there: session_start() fails";
    TLS "tls": "without agreement on TLS there is no connection: session_start() fails";
    REFUSED "refused": "the store does not let this user in, or not do this: session_start() fails, or nothing is written";
    REPLICA "replica": "a replica takes no writes: session_start() fails";
    NO_TABLE "table-missing": "nothing can be stored without it: session_start() fails";
    NO_STORE "store-fails": "a session that was locked, written, read and deleted for real did not come through";
    SLOW "slow": "each request waits for two round trips at least";
    UNSAFE "store-unsafe": "no lock holds there: concurrent requests undo each other's changes, or session_start() fails";
    RISK "store-at-risk": "sessions may get lost there";
    NOTE "store-note": "it is as the engine is; nothing is wrong with that";
    BYPASSED "app-bypasses": "the app brings its own session handler: session.save_handler and session.save_path do not reach it";
    APP_FILES "app-keeps-files": "the app itself keeps sessions in files on this host: php.ini does not change that";
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gravity {
    /// The exit code is 1.
    Problem,
    /// Worth knowing.
    Note,
}

/// Something that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) kind: &'static Kind,
    pub(super) gravity: Gravity,
    /// What is so, and where.
    pub(super) what: String,
    /// The line to change, or what to do.
    pub(super) change: String,
}

impl Finding {
    pub(super) fn problem(kind: &'static Kind, what: impl Into<String>, change: impl Into<String>) -> Self {
        Finding { kind, gravity: Gravity::Problem, what: what.into(), change: change.into() }
    }

    pub(super) fn note(kind: &'static Kind, what: impl Into<String>, change: impl Into<String>) -> Self {
        Finding { gravity: Gravity::Note, ..Finding::problem(kind, what, change) }
    }

    pub(super) fn is_problem(&self) -> bool {
        self.gravity == Gravity::Problem
    }

    pub(super) fn json(&self) -> Value {
        let gravity = if self.is_problem() { "problem" } else { "note" };
        json!({
            "name": self.kind.name, "gravity": gravity, "what": self.what, "why": self.kind.why,
            "change": self.change,
        })
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gravity = if self.is_problem() { paint(BAD, "problem:") } else { paint(DOUBTFUL, "note:") };
        let Finding { kind, what, change, .. } = self;
        writeln!(f, "{gravity} {what} [{}]", kind.name)?;
        writeln!(f, "  {}    {}", paint(FAINT, "why:"), kind.why)?;
        write!(f, "  {} {}", paint(FAINT, "change:"), change.replace('\n', "\n          "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_lists_every_finding_and_no_other() {
        let book = include_str!("../../../../docs/doctor.md");
        let (_, book) = book.split_once("| name |").unwrap();
        let rows = book.lines().filter(|line| line.starts_with("| `"));
        let known: Vec<String> =
            ALL.iter().map(|Kind { name, why }| format!("| `{name}` | {why} |")).collect();
        assert_eq!(rows.collect::<Vec<_>>(), known);
    }
}
