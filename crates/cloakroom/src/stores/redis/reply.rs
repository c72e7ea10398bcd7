//! What the server answers when it refuses: who must act, and what to change.

use redis::{ServerError, Value};

use crate::{Error, ErrorKind};

/// An error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    code: String,
    text: String,
}

impl Refusal {
    pub(super) fn of(error: &ServerError) -> Self {
        // Up to Redis 6.2, what a script was refused is wrapped: "ERR Error running script (...): @user_script:1:
        // @user_script: 1: -OOM command not allowed ...".
        if let Some(details) = error.details().filter(|details| details.starts_with("Error running script"))
            && let Some((_, inner)) = details.rsplit_once(": -")
        {
            let code = inner.split(' ').next().unwrap_or_default();
            return Refusal { code: code.to_owned(), text: inner.to_owned() };
        }
        // Long commands and long words of a client that has not authenticated are refused before they are looked at.
        let early = error.details().is_some_and(|details| details.contains("unauthenticated "));
        let code = if early { "NOAUTH" } else { error.code() }.to_owned();
        // A server that does not know a command repeats its arguments: a password, or a session.
        let details = error.details().unwrap_or_default();
        let details = details.split(", with args").next().unwrap_or_default();
        let text = match details {
            "" => error.code().to_owned(),
            _ => format!("{} {details}", error.code()),
        };
        Refusal { code, text }
    }

    /// Whether the server does not know the script of this hash.
    pub(super) fn unknown_script(&self) -> bool {
        self.code == "NOSCRIPT"
    }

    /// Whether the user, the server or a proxy may not or cannot run the command, or what a script calls.
    pub(super) fn forbidden(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        match self.code.as_str() {
            "NOPERM" => return true,
            "ERR" => {}
            _ => return false,
        }
        [
            "unknown command",
            "unknown redis command",
            "can't run this command",
            "can't access",
            "no permissions",
            "undeclared key",
            "unsupported command",
            "not supported",
            "not allowed",
            "timeout is not an integer",
        ]
        .iter()
        .any(|known| text.contains(known))
    }

    /// Whether it is about running scripts at all, and not about what a script does.
    pub(super) fn about_scripts(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        self.forbidden()
            && ["eval", "evalsha"].iter().any(|name| {
                ['\'', '`', '"'].iter().any(|quote| text.contains(&format!("{quote}{name}{quote}")))
            })
    }

    /// Whether the server has as many clients as it takes.
    pub(super) fn no_room(&self) -> bool {
        self.text.to_ascii_lowercase().contains("max number of clients")
    }

    /// Whether the user and the password are not known together, or the server knows no users at all (Redis 5).
    pub(super) fn about_credentials(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        self.code == "WRONGPASS"
            || ["invalid password", "wrong number of arguments for 'auth'", "without any password configured"]
                .iter()
                .any(|known| text.contains(known))
    }

    /// Whether the server does not know this form of a command.
    pub(super) fn misunderstood(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        self.forbidden() || text.contains("syntax error") || text.contains("wrong number of arguments")
    }

    /// The node of a cluster that has the key, where this one says so.
    pub(super) fn redirection(&self) -> Option<Redirection> {
        let mut words = self.text.split(' ').skip(1);
        let (slot, place) = (words.next()?.parse().ok()?, words.next()?);
        let (host, port) = place.rsplit_once(':')?;
        let (host, port) = (host.to_owned(), port.parse().ok()?);
        match self.code.as_str() {
            "MOVED" => Some(Redirection::Moved { slot, host, port }),
            "ASK" => Some(Redirection::Ask { host, port }),
            _ => None,
        }
    }

    /// Whether the session's slot is being moved, and what a script works on may be in two places.
    pub(super) fn in_motion(&self) -> bool {
        matches!(self.code.as_str(), "ASK" | "TRYAGAIN")
            || (self.code == "ERR" && self.text.contains("non local key"))
    }

    /// Whether a cluster answers so only for a while.
    pub(super) fn passes_in_cluster(&self) -> bool {
        self.in_motion()
            || matches!(self.code.as_str(), "MOVED" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "UNBLOCKED")
            || (self.code == "ERR" && self.text.contains("while the cluster is down"))
    }

    /// Whether a server answers so while another one takes over from it, or while it starts.
    pub(super) fn passes_in_failover(&self) -> bool {
        matches!(self.code.as_str(), "READONLY" | "MASTERDOWN" | "LOADING" | "UNBLOCKED")
    }

    /// Whether this server will not do for now, and another address of its name may.
    pub(super) fn elsewhere(&self) -> bool {
        matches!(self.code.as_str(), "READONLY" | "MASTERDOWN")
    }

    /// The error for the user.
    pub(super) fn error(&self, ignored_userinfo: bool) -> Error {
        let text = self.text.to_ascii_lowercase();
        let (kind, hint) = match self.code.as_str() {
            "NOAUTH" if ignored_userinfo => (
                ErrorKind::Auth,
                "tcp:// takes no user:password@ (nor does phpredis); write ?auth=, or redis://",
            ),
            "NOAUTH" => (ErrorKind::Auth, "the server wants a password: add auth= to session.save_path"),
            "WRONGPASS" => (ErrorKind::Auth, "correct the user or the password in session.save_path"),
            "NOPERM" => (ErrorKind::Auth, "give the server's user the commands and keys that sessions need"),
            "OOM" => (
                ErrorKind::Full,
                "raise maxmemory, or set maxmemory-policy to volatile-lru so that old sessions make room",
            ),
            "MISCONF" => (ErrorKind::Full, "the server cannot save to its disk; see its log"),
            "READONLY" => {
                (ErrorKind::Unreachable, "this server is a replica; name the primary in session.save_path")
            }
            "MASTERDOWN" => (ErrorKind::Unreachable, "this replica has lost its primary; name the primary"),
            "LOADING" => {
                (ErrorKind::Unreachable, "the server is loading its data; try again when it is done")
            }
            "BUSY" => (
                ErrorKind::Unreachable,
                "a script of somebody else keeps the server busy (SCRIPT KILL ends it)",
            ),
            "NOREPLICAS" => {
                (ErrorKind::Unreachable, "too few replicas follow the server (min-replicas-to-write)")
            }
            "MOVED" | "ASK" | "CROSSSLOT" => (
                ErrorKind::Config,
                "the server is part of a cluster: write redis+cluster:// in session.save_path",
            ),
            "ERR" if text.contains("cluster support disabled") => {
                (ErrorKind::Config, "the server is no cluster: write redis:// in session.save_path")
            }
            "CLUSTERDOWN" => (
                ErrorKind::Unreachable,
                "too few masters of the cluster are up, or a slot has none (redis-cli --cluster check)",
            ),
            _ if self.in_motion() => (
                ErrorKind::Unreachable,
                "the session's slot is being moved; if that was broken off, mend it (redis-cli --cluster fix)",
            ),
            "WRONGTYPE" => (
                ErrorKind::Corrupt,
                "something else is stored under the session's key; choose another prefix=",
            ),
            _ if text.contains("max number of clients") => {
                (ErrorKind::Unreachable, "raise maxclients of the server, or run fewer workers")
            }
            _ if ["connection refused", "connection timed out", "host is down", "connection reset"]
                .iter()
                .any(|fault| text.contains(fault)) =>
            {
                (ErrorKind::Unreachable, "a proxy answers, and the server behind it does not")
            }
            _ if text.contains("db index") => (ErrorKind::Config, "correct database= in session.save_path"),
            _ if text.contains("auth") || text.contains("password") => {
                (ErrorKind::Auth, "correct auth= in session.save_path")
            }
            _ if text.contains("too big")
                || text.contains("exceeds")
                || text.contains("invalid bulk length") =>
            {
                (ErrorKind::TooLarge, "keep less in the session, or raise proto-max-bulk-len of the server")
            }
            _ if self.forbidden() => (
                ErrorKind::Unsupported,
                "the server, or a proxy before it, lacks a command that sessions need",
            ),
            _ => (ErrorKind::Unsupported, "the server's log may say more"),
        };
        Error::new(kind, format!("the server answered: {}", self.text)).hint(hint)
    }
}

/// Where a node of a cluster sends its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Redirection {
    /// The slot has another master.
    Moved { slot: u16, host: String, port: u16 },
    /// The slot is being moved, and its key, if there is one, has been.
    Ask { host: String, port: u16 },
}

/// The error for an answer that is of another type than the command's.
pub(super) fn unexpected(value: &Value) -> Error {
    let kind = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) | Value::Okay => "text",
        Value::Array(_) => "a list",
        _ => "something else",
    };
    Error::new(ErrorKind::Corrupt, format!("the server answered {kind} where another answer belongs"))
        .hint("check that session.save_path names a Redis server")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> Refusal {
        match redis::parse_redis_value(format!("-{line}\r\n").as_bytes()) {
            Ok(Value::ServerError(error)) => Refusal::of(&error),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_refusal_names_who_must_act() {
        for (line, kind) in [
            ("NOAUTH Authentication required.", ErrorKind::Auth),
            ("ERR Protocol error: unauthenticated multibulk length", ErrorKind::Auth),
            ("WRONGPASS invalid username-password pair or user is disabled.", ErrorKind::Auth),
            ("ERR invalid password", ErrorKind::Auth),
            (
                "ERR AUTH <password> called without any password configured for the default user.",
                ErrorKind::Auth,
            ),
            ("NOPERM this user has no permissions to run the 'get' command", ErrorKind::Auth),
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind::Full),
            ("MISCONF Redis is configured to save RDB snapshots", ErrorKind::Full),
            ("READONLY You can't write against a read only replica.", ErrorKind::Unreachable),
            ("MASTERDOWN Link with MASTER is down", ErrorKind::Unreachable),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Unreachable),
            ("BUSY Redis is busy running a script.", ErrorKind::Unreachable),
            ("NOREPLICAS Not enough good replicas to write.", ErrorKind::Unreachable),
            ("ERR max number of clients reached", ErrorKind::Unreachable),
            ("ERR Connection refused", ErrorKind::Unreachable),
            ("MOVED 12182 127.0.0.1:7001", ErrorKind::Config),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", ErrorKind::Corrupt),
            ("ERR DB index is out of range", ErrorKind::Config),
            ("ERR Protocol error: invalid bulk length", ErrorKind::TooLarge),
            ("ERR unknown command 'GET'", ErrorKind::Unsupported),
        ] {
            let error = refusal(line).error(false);
            assert_eq!(error.kind(), kind, "{line}");
            assert!(error.to_string().contains("\nhint: "), "{line}");
            assert!(error.to_string().contains(line), "{error}");
        }
    }

    #[test]
    fn a_user_that_is_not_known_is_told_from_a_right_that_is_not_given() {
        for (line, about_credentials) in [
            ("WRONGPASS invalid username-password pair or user is disabled.", true),
            // Redis 5 knows no users.
            ("ERR wrong number of arguments for 'auth' command", true),
            ("ERR invalid password", true),
            ("NOAUTH Authentication required.", false),
            ("NOPERM this user has no permissions to run the 'auth' command", false),
            ("ERR wrong number of arguments for 'get' command", false),
        ] {
            assert_eq!(refusal(line).about_credentials(), about_credentials, "{line}");
        }
        assert!(refusal("ERR max number of clients reached").no_room());
        assert!(!refusal("OOM command not allowed when used memory > 'maxmemory'.").no_room());
    }

    #[test]
    fn what_a_script_was_refused_is_unwrapped() {
        let wrapped = |inner: &str| {
            refusal(&format!(
                "ERR Error running script (call to f_ab): @user_script:9: @user_script: 9: -{inner}"
            ))
        };
        for inner in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "READONLY You can't write against a read only replica.",
            "NOREPLICAS Not enough good replicas to write.",
        ] {
            assert_eq!(wrapped(inner), refusal(inner));
            assert!(!wrapped(inner).forbidden());
        }
    }

    #[test]
    fn the_arguments_that_a_server_repeats_are_left_out() {
        let refusal = refusal("ERR unknown command 'AUTH', with args beginning with: 'hunter2' ");
        assert_eq!(
            refusal.error(false).to_string().lines().next(),
            Some("the server answered: ERR unknown command 'AUTH'")
        );
        assert!(!format!("{refusal:?}").contains("hunter2"));
    }

    #[test]
    fn refused_scripts_are_told_from_refused_queues() {
        for (line, forbidden, scripts) in [
            ("NOPERM this user has no permissions to run the 'evalsha' command", true, true),
            ("ERR unknown command `EVAL`, with args beginning with: `x`", true, true),
            ("NOPERM this user has no permissions to run the 'blpop' command", true, false),
            (
                "ERR The user executing the script can't run this command or subcommand script: ab",
                true,
                false,
            ),
            ("ERR timeout is not an integer or out of range", true, false),
            ("NOSCRIPT No matching script. Please use EVAL.", false, false),
            ("OOM command not allowed when used memory > 'maxmemory'.", false, false),
        ] {
            let refusal = refusal(line);
            assert_eq!((refusal.forbidden(), refusal.about_scripts()), (forbidden, scripts), "{line}");
        }
    }
}
