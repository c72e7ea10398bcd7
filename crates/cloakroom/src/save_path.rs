//! `session.save_path`: every way to name a store, parsed once into a [`StoreUrl`].
//!
//! | form | store |
//! |---|---|
//! | empty, `auto` | looked up in the environment, see [`crate::detect`] |
//! | `env:NAME` | whatever the environment variable holds |
//! | `/path`, `N;/path`, `N;MODE;/path`, `file:///path` | a directory, as PHP's own `files` handler |
//! | `tcp://h:p?...`, `tls://`, `ssl://`, `unix:///socket?...`, `h:6379` | Redis, as phpredis takes it |
//! | `redis://user:password@h:p/db?...`, `rediss://`, `valkey://`, `valkeys://` | Redis |
//!
//! Any value may be `env:NAME` or `file:PATH`: PHP prints `session.save_path` in messages of its own, so a secret
//! belongs there. An unknown option, a second value for the same option, or a value of the wrong type is an error
//! that names the character it starts at.

use std::fmt;

use percent_encoding::percent_decode_str;

use crate::{Environment, Error, ErrorKind, Result, Secret};

/// What `session.save_path` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SavePath {
    /// Look the store up in the environment.
    Detect,
    /// This store.
    Store(StoreUrl),
}

impl SavePath {
    /// Parses the setting; `environment` answers `env:NAME`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] with the position of the first character that cannot be understood.
    ///
    /// # Examples
    /// ```
    /// use cloakroom::{Environment, SavePath};
    ///
    /// let environment = Environment::from_iter([("REDIS_PASSWORD", "s3cr3t")]);
    /// let SavePath::Store(url) = SavePath::parse("tcp://10.0.0.7?auth=env:REDIS_PASSWORD", &environment)? else {
    ///     unreachable!("a scheme never means detection")
    /// };
    /// assert_eq!(url.to_string(), "tcp://10.0.0.7?auth=***");
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn parse(text: &str, environment: &Environment) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() || text == "auto" {
            return Ok(SavePath::Detect);
        }
        if let Some(name) = text.strip_prefix("env:") {
            let value = environment.var(name).ok_or_else(|| unset(name, 0))?;
            if value.starts_with("env:") {
                return Err(wrong(
                    0,
                    format!("{name} names another variable"),
                    "put the store's URL into it",
                ));
            }
            return SavePath::parse(value, environment);
        }
        StoreUrl::parse(text, environment).map(SavePath::Store)
    }
}

/// A store, by its URL; [`Display`](fmt::Display) and [`Debug`] mask every secret in it.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl {
    /// The scheme in lower case; `file` and `tcp` for the forms that have none.
    pub scheme: String,
    /// The servers in the order given; exactly one for a directory.
    pub servers: Vec<Server>,
}

/// One server of a [`StoreUrl`].
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Server {
    /// The user before the `@`.
    pub user: Option<String>,
    /// The password before the `@`.
    pub password: Option<Secret>,
    /// The host name or address, an IPv6 one without its brackets.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// What follows the host, from its `/` on: a directory, a socket, `/database`.
    pub path: String,
    /// The options after the `?`, in order.
    pub params: Vec<Param>,
}

/// One option of a server, decoded.
#[derive(Clone, PartialEq, Eq)]
pub struct Param {
    /// Its name as written: `timeout`, `auth[]`, `auth[user]`.
    pub name: String,
    /// Its value; treated as a secret because some are.
    pub value: Secret,
    /// Where it starts in the setting, counted in characters from 1.
    pub at: usize,
    /// Whether a secret stands before it: an `&` in a password would make its rest look like an option.
    follows_secret: bool,
}

/// An error about the setting, at a character counted from 0.
pub(crate) fn wrong(at: usize, what: impl fmt::Display, hint: &str) -> Error {
    Error::new(ErrorKind::Config, format!("session.save_path: {what} (at character {})", at + 1)).hint(hint)
}

fn unset(name: &str, at: usize) -> Error {
    wrong(
        at,
        format!("the environment variable {name} is not set"),
        "set it where PHP starts (the PHP-FPM master, not the pool)",
    )
}

impl Param {
    /// The value as a number of this type.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] saying what is `expected`.
    pub fn number<T: std::str::FromStr>(&self, expected: &str) -> Result<T> {
        self.value.reveal().parse().map_err(|_| self.refused(expected))
    }

    /// The value as a switch: `1`, `true`, `on`, `yes`, or `0`, `false`, `off`, `no`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for anything else.
    pub fn switch(&self) -> Result<bool> {
        match self.value.reveal().to_ascii_lowercase().as_str() {
            "1" | "true" | "on" | "yes" => Ok(true),
            "0" | "false" | "off" | "no" | "" => Ok(false),
            _ => Err(self.refused("1 or 0")),
        }
    }

    /// The error for a value that is not what was `expected`.
    pub fn refused(&self, expected: &str) -> Error {
        wrong(self.at - 1, format!("option \"{}\" takes {expected}", self.name), "correct its value")
    }

    /// The error for an option that does not exist, with those that do.
    pub fn unknown(&self, known: &[&str]) -> Error {
        let known = known.join(", ");
        match self.follows_secret {
            false => {
                let hint = format!("the options of this store are {known}");
                wrong(self.at - 1, format!("unknown option \"{}\"", self.name), &hint)
            }
            true => {
                let hint = format!("write & in a password as %26; the options of this store are {known}");
                wrong(self.at - 1, "unknown option", &hint)
            }
        }
    }

    /// The error for an option that was given already.
    pub fn repeated(&self) -> Error {
        wrong(self.at - 1, format!("option \"{}\" is given twice", self.name), "keep one of them")
    }

    /// Everything that is not known to be harmless is a secret: `pwd`, `AUTH`, a piece of a password.
    fn is_secret(&self) -> bool {
        const HARMLESS: &[&str] = &[
            "auth[user]",
            "user",
            "username",
            "database",
            "db",
            "dbindex",
            "prefix",
            "timeout",
            "read_timeout",
            "persistent",
            "retry_interval",
            "weight",
            "verify_peer",
            "verify_peer_name",
            "peer_name",
            "cafile",
        ];
        let plain =
            ["stream[", "ssl["].iter().find_map(|list| self.name.strip_prefix(list)?.strip_suffix(']'));
        !HARMLESS.contains(&plain.unwrap_or(&self.name))
    }
}

impl StoreUrl {
    /// The store of PHP's own `files` handler, in this directory.
    pub fn directory(path: &str) -> Self {
        let server = Server { path: path.to_owned(), ..Server::default() };
        StoreUrl { scheme: "file".into(), servers: vec![server] }
    }

    /// The one server of a store that has only one.
    pub fn server(&self) -> &Server {
        // `parse` never builds a URL without a server.
        &self.servers[0]
    }

    fn parse(text: &str, environment: &Environment) -> Result<Self> {
        let start = Cursor { text, at: 0, environment };
        if let Some(path) = directory(text) {
            return Ok(StoreUrl::directory(path));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return start.without_scheme();
        };
        if scheme.is_empty() || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) {
            return Err(wrong(
                0,
                "this is not a URL scheme",
                "write tcp://host:6379, redis://host or /directory",
            ));
        }
        let scheme = scheme.to_ascii_lowercase();
        match scheme.as_str() {
            "file" if !rest.starts_with('/') => {
                Err(wrong(7, "file:// needs an absolute path", "write file:///var/lib/php/sessions"))
            }
            // Split as phpredis does, before any decoding.
            "tcp" | "tls" | "ssl" | "unix" => {
                let servers = start.native_list()?;
                Ok(StoreUrl { scheme, servers })
            }
            _ => {
                let server =
                    Cursor { text: rest, at: scheme.chars().count() + 3, ..start }.server(&scheme)?;
                Ok(StoreUrl { scheme, servers: vec![server] })
            }
        }
    }
}

/// The path of a files form: `/path`, `N;/path`, `N;MODE;/path`. Anything with a `;` before its first `:` is one,
/// so that a malformed one is reported by the store that knows the rules.
fn directory(text: &str) -> Option<&str> {
    let before_scheme = text.split(':').next().unwrap_or(text);
    (text.starts_with(['/', '.']) || before_scheme.contains(';')).then_some(text)
}

/// A part of the setting and where it starts in the whole.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    text: &'a str,
    at: usize,
    environment: &'a Environment,
}

impl<'a> Cursor<'a> {
    /// The rest from this byte on.
    fn from(self, byte: usize) -> Self {
        let (before, text) = self.text.split_at(byte);
        Cursor { text, at: self.at + before.chars().count(), ..self }
    }

    fn to(self, byte: usize) -> Self {
        Cursor { text: &self.text[..byte], ..self }
    }

    /// The pieces between these separators, empty ones left out.
    fn split(self, separator: fn(char) -> bool) -> impl Iterator<Item = Self> {
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let here = rest?;
            match here.text.find(separator) {
                Some(byte) => {
                    // Every separator used here is ASCII: one byte long.
                    rest = Some(here.from(byte + 1));
                    Some(here.to(byte))
                }
                None => {
                    rest = None;
                    Some(here)
                }
            }
        })
        .filter(|piece| !piece.text.is_empty())
    }

    /// `host:port`: Redis on its usual ports only, since a wrong guess would look like lost sessions.
    fn without_scheme(self) -> Result<StoreUrl> {
        let server = self.server("tcp").map_err(|_| {
            wrong(
                self.at,
                "this names no store",
                "write a directory (/path), tcp://host:6379 or redis://host",
            )
        })?;
        match server.port {
            Some(6379 | 6380) => Ok(StoreUrl { scheme: "tcp".into(), servers: vec![server] }),
            _ => Err(wrong(
                self.at,
                "this names no store",
                "write a directory (/path), or put the scheme before the host: tcp://host:6379, redis://host",
            )),
        }
    }

    fn native_list(self) -> Result<Vec<Server>> {
        let mut servers = Vec::new();
        for piece in self.split(|c| c == ',' || c.is_ascii_whitespace()) {
            let Some((scheme, rest)) = piece.text.split_once("://") else {
                return Err(wrong(
                    piece.at,
                    "each server of a list starts with its scheme",
                    "write tcp://host:port; in a password, encode , as %2C and a space as %20",
                ));
            };
            let at = piece.at + scheme.chars().count() + 3;
            servers.push(Cursor { text: rest, at, ..self }.server(&scheme.to_ascii_lowercase())?);
        }
        match servers.is_empty() {
            true => Err(wrong(self.at, "the list of servers is empty", "write tcp://host:port")),
            false => Ok(servers),
        }
    }

    /// `[user[:password]@]host[:port][/path][?query]`, or `/path[?query]`.
    fn server(self, scheme: &str) -> Result<Server> {
        let end = self.text.find(['/', '?', '#']).unwrap_or(self.text.len());
        let (authority, rest) = (self.to(end), self.from(end));
        let native = matches!(scheme, "tcp" | "tls" | "ssl" | "unix");
        let (path, query) = match rest.text.find('?') {
            Some(byte) => (rest.to(byte), Some(rest.from(byte + 1))),
            None => (rest, None),
        };
        if !native && let Some(byte) = self.text.find('#') {
            let hint = "write # in a password as %23";
            return Err(wrong(self.from(byte).at, "a store's URL has no # part", hint));
        }
        if let Some(byte) = path.text.find('@')
            && !authority.text.is_empty()
        {
            let hint = "in a user or a password, write / as %2F";
            return Err(wrong(path.from(byte).at, "the @ comes after a / that ends the host", hint));
        }
        let mut server = Server { path: decode(path.text, path.at)?, ..Server::default() };
        let address = match authority.text.rfind('@') {
            Some(byte) => {
                authority.to(byte).userinfo(&mut server)?;
                authority.from(byte + 1)
            }
            None => authority,
        };
        address.host_and_port(&mut server)?;
        if server.host.is_none() && server.path.len() < 2 {
            let hint = "name the host after ://, or the socket as unix:///path";
            return Err(wrong(address.at, "the host is missing", hint));
        }
        if let Some(query) = query {
            server.params = query.split(|c| c == '&').map(|piece| piece.param()).collect::<Result<_>>()?;
            let mut follows_secret = false;
            for param in &mut server.params {
                param.follows_secret = follows_secret;
                follows_secret |= param.is_secret();
            }
        }
        Ok(server)
    }

    fn userinfo(self, server: &mut Server) -> Result<()> {
        match self.text.find(':') {
            Some(byte) => {
                if byte > 0 {
                    server.user = Some(self.to(byte).value()?);
                }
                let password = self.from(byte + 1);
                if !password.text.is_empty() {
                    server.password = Some(Secret::new(password.value()?));
                }
            }
            // A bare word before the @ is the password, not the user: add-ons write redis://password@host.
            None if !self.text.is_empty() => server.password = Some(Secret::new(self.value()?)),
            None => {}
        }
        Ok(())
    }

    fn host_and_port(self, server: &mut Server) -> Result<()> {
        let (host, port) = if let Some(inside) = self.text.strip_prefix('[') {
            let close = inside.find(']').ok_or_else(|| {
                wrong(self.at, "the ] after the IPv6 address is missing", "write tcp://[::1]:6379")
            })?;
            let after = self.from(close + 2);
            let port = match after.text {
                "" => None,
                text if text.starts_with(':') => Some(after.from(1)),
                _ => return Err(wrong(after.at, "only :port may follow the ]", "write tcp://[::1]:6379")),
            };
            (&inside[..close], port)
        } else {
            match self.text.split_once(':') {
                Some((host, _)) => (host, Some(self.from(host.len() + 1))),
                None => (self.text, None),
            }
        };
        if let Some(byte) =
            host.find(|c: char| c.is_whitespace() || "\"'<>|\u{201c}\u{201d}\u{2019}".contains(c))
        {
            return Err(wrong(
                self.from(byte).at,
                "the host has a character that no host name has",
                "look for a space or a quote that does not belong there",
            ));
        }
        if let Some(port) = port {
            server.port =
                Some(port.text.parse().ok().filter(|&number: &u16| number != 0).ok_or_else(|| {
                    wrong(
                        port.at,
                        "the port is not a number from 1 to 65535",
                        "write host:port, or host alone",
                    )
                })?);
        }
        server.host = (!host.is_empty()).then(|| host.to_owned());
        match (&server.host, server.port) {
            (None, Some(_)) => Err(wrong(self.at, "the host is missing", "name the host before the port")),
            _ => Ok(()),
        }
    }

    fn param(self) -> Result<Param> {
        let Some(byte) = self.text.find('=') else {
            let what = "this option has no value";
            return Err(wrong(self.at, what, "write name=value; quote the whole setting in php.ini"));
        };
        // PHP reads a query as a form: + is a space.
        let name = decode(&self.to(byte).text.replace('+', " "), self.at)?;
        let value = self.from(byte + 1);
        let spaced = value.text.replace('+', " ");
        let value = Cursor { text: &spaced, ..value }.value()?;
        Ok(Param { name, value: Secret::new(value), at: self.at + 1, follows_secret: false })
    }

    /// The decoded value, from the environment or a file where it says so. The prefix is looked for before
    /// decoding, so that `env%3A` is a literal.
    fn value(self) -> Result<String> {
        let decoded = decode(self.text, self.at)?;
        if self.text.starts_with("env:") {
            let name = &decoded["env:".len()..];
            return self.environment.var(name).map(str::to_owned).ok_or_else(|| unset(name, self.at));
        }
        if self.text.starts_with("file:") {
            let path = &decoded["file:".len()..];
            let read = std::fs::read_to_string(path).map_err(|error| {
                let hint = "the file must be readable by the user that PHP runs as";
                wrong(self.at, format!("cannot read the file {path}"), hint).source(error)
            })?;
            return Ok(read.trim_end_matches(['\r', '\n']).to_owned());
        }
        Ok(decoded)
    }
}

fn decode(text: &str, at: usize) -> Result<String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| wrong(at, "the %XX codes here are not UTF-8", "encode the bytes of the UTF-8 text"))
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.servers.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            if self.scheme != "file" {
                write!(f, "{}://", self.scheme)?;
            }
            write!(f, "{server}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            f.write_str(user)?;
        }
        match (&self.user, &self.password) {
            (_, Some(password)) => write!(f, ":{password}@")?,
            (Some(_), None) => f.write_str("@")?,
            (None, None) => {}
        }
        match &self.host {
            Some(host) if host.contains(':') => write!(f, "[{host}]")?,
            Some(host) => f.write_str(host)?,
            None => {}
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)?;
        for (index, param) in self.params.iter().enumerate() {
            f.write_str(if index == 0 { "?" } else { "&" })?;
            match param.is_secret() {
                true => write!(f, "{}={}", param.name, param.value)?,
                false => write!(f, "{}={}", param.name, param.value.reveal())?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

impl fmt::Debug for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=...", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment::from_iter([("PW", "p@ss,word"), ("URL", "redis://h"), ("LOOP", "env:URL")])
    }

    fn url(text: &str) -> StoreUrl {
        match SavePath::parse(text, &environment()).unwrap() {
            SavePath::Store(url) => url,
            SavePath::Detect => panic!("{text} means detection"),
        }
    }

    #[test]
    fn nothing_and_auto_mean_detection() {
        for text in ["", "  ", "auto"] {
            assert_eq!(SavePath::parse(text, &environment()).unwrap(), SavePath::Detect);
        }
    }

    #[test]
    fn every_form_is_read_and_shown_masked() {
        for (text, scheme, shown) in [
            ("/var/lib/php/sessions", "file", "/var/lib/php/sessions"),
            ("2;/srv/s", "file", "2;/srv/s"),
            ("2;0660;/srv/s", "file", "2;0660;/srv/s"),
            ("file:///srv/s", "file", "/srv/s"),
            ("tcp://127.0.0.1:6379", "tcp", "tcp://127.0.0.1:6379"),
            ("tcp://h?auth=a%2Bb&database=2", "tcp", "tcp://h?auth=***&database=2"),
            ("tcp://h?auth[]=u&auth[]=p", "tcp", "tcp://h?auth[]=***&auth[]=***"),
            ("tcp://h?auth[user]=u&auth[pass]=p", "tcp", "tcp://h?auth[user]=u&auth[pass]=***"),
            ("tcp://h?auth=a#b", "tcp", "tcp://h?auth=***"),
            ("tcp://h?pwd=hunter2&AUTH=hunter2&weight=1", "tcp", "tcp://h?pwd=***&AUTH=***&weight=1"),
            (
                "tls://h?stream[cafile]=/c&stream[passphrase]=x",
                "tls",
                "tls://h?stream[cafile]=/c&stream[passphrase]=***",
            ),
            ("tcp://a:1?weight=1, tcp://b:2?weight=2", "tcp", "tcp://a:1?weight=1,tcp://b:2?weight=2"),
            ("unix:///run/r.sock?database=1", "unix", "unix:///run/r.sock?database=1"),
            ("tls://[::1]:6380", "tls", "tls://[::1]:6380"),
            ("h:6379", "tcp", "tcp://h:6379"),
            ("redis://u:p%40@h:1/3", "redis", "redis://u:***@h:1/3"),
            ("rediss://password@h", "rediss", "rediss://:***@h"),
            ("redis://:a,b@h", "redis", "redis://:***@h"),
            ("REDIS://h", "redis", "redis://h"),
            ("env:URL", "redis", "redis://h"),
            ("redis://:env:PW@h", "redis", "redis://:***@h"),
        ] {
            let url = url(text);
            assert_eq!((url.scheme.as_str(), url.to_string().as_str()), (scheme, shown), "{text}");
            assert!(format!("{url:?}").contains(shown), "{text}");
        }
    }

    #[test]
    fn an_unknown_option_is_named_unless_it_may_be_a_piece_of_a_password() {
        let unknown =
            |text: &str| url(text).server().params.last().unwrap().unknown(&["auth", "weight"]).to_string();
        assert_eq!(
            unknown("tcp://h?weight=2&wieght=1"),
            "session.save_path: unknown option \"wieght\" (at character 18)\nhint: the options of this store are auth, weight"
        );
        assert_eq!(
            unknown("tcp://h?auth=hun&ter2=x"),
            "session.save_path: unknown option (at character 18)\nhint: write & in a password as %26; the options of \
             this store are auth, weight"
        );
    }

    #[test]
    fn a_slash_in_a_password_is_pointed_out_and_not_shown() {
        let error = SavePath::parse("redis://default:123/hunter2@h", &environment()).unwrap_err().to_string();
        assert_eq!(
            error,
            "session.save_path: the @ comes after a / that ends the host (at character 28)\nhint: in a user or a \
             password, write / as %2F"
        );
    }

    #[test]
    fn values_come_from_the_environment_and_from_files() {
        let file = std::env::temp_dir().join(format!("cloakroom-save-path-{}", std::process::id()));
        std::fs::write(&file, "from a file\n").unwrap();
        let value = |text: &str| url(text).server().params[0].value.reveal().to_owned();
        assert_eq!(value("tcp://h?auth=env:PW"), "p@ss,word");
        assert_eq!(value(&format!("tcp://h?auth=file:{}", file.display())), "from a file");
        assert_eq!(value("tcp://h?auth=env%3APW"), "env:PW");
        assert_eq!(value("tcp://h?auth=a+b%2Bc"), "a b+c");
        assert_eq!(url("redis://:env:PW@h").server().password, Some(Secret::new("p@ss,word")));
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn malformed_settings_are_refused_with_the_whole_reason() {
        for (text, what, at, hint) in [
            (
                "env:NOPE",
                "the environment variable NOPE is not set",
                1,
                "set it where PHP starts (the PHP-FPM master, not the pool)",
            ),
            ("env:LOOP", "LOOP names another variable", 1, "put the store's URL into it"),
            ("://h", "this is not a URL scheme", 1, "write tcp://host:6379, redis://host or /directory"),
            (
                "\u{201c}tcp://h\u{201d}",
                "this is not a URL scheme",
                1,
                "write tcp://host:6379, redis://host or /directory",
            ),
            ("file://srv/s", "file:// needs an absolute path", 8, "write file:///var/lib/php/sessions"),
            (
                "sessions",
                "this names no store",
                1,
                "write a directory (/path), or put the scheme before the host: tcp://host:6379, redis://host",
            ),
            (
                "h:1234",
                "this names no store",
                1,
                "write a directory (/path), or put the scheme before the host: tcp://host:6379, redis://host",
            ),
            ("tcp://", "the host is missing", 7, "name the host after ://, or the socket as unix:///path"),
            ("tcp://:6379", "the host is missing", 7, "name the host before the port"),
            ("tcp://h:port", "the port is not a number from 1 to 65535", 9, "write host:port, or host alone"),
            ("tcp://h:0", "the port is not a number from 1 to 65535", 9, "write host:port, or host alone"),
            (
                "tcp://h:70000",
                "the port is not a number from 1 to 65535",
                9,
                "write host:port, or host alone",
            ),
            ("tcp://[::1:6379", "the ] after the IPv6 address is missing", 7, "write tcp://[::1]:6379"),
            ("tcp://[::1]6379", "only :port may follow the ]", 12, "write tcp://[::1]:6379"),
            (
                "tcp://a,b:6379",
                "each server of a list starts with its scheme",
                9,
                "write tcp://host:port; in a password, encode , as %2C and a space as %20",
            ),
            (
                "tcp://h?auth",
                "this option has no value",
                9,
                "write name=value; quote the whole setting in php.ini",
            ),
            (
                "tcp://h?auth=%ff",
                "the %XX codes here are not UTF-8",
                14,
                "encode the bytes of the UTF-8 text",
            ),
            ("redis://h/0#x", "a store's URL has no # part", 12, "write # in a password as %23"),
            (
                "redis://h\"",
                "the host has a character that no host name has",
                10,
                "look for a space or a quote that does not belong there",
            ),
            (
                "tcp://h?auth=env:NOPE",
                "the environment variable NOPE is not set",
                14,
                "set it where PHP starts (the PHP-FPM master, not the pool)",
            ),
        ] {
            let error = SavePath::parse(text, &environment()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
            let expected = format!("session.save_path: {what} (at character {at})\nhint: {hint}");
            assert_eq!(error.to_string(), expected, "{text}");
        }
    }
}
