//! What a Redis URL may say: one table of names, read by the parser and by the error about an unknown one.

use std::path::PathBuf;
use std::time::Duration;

use crate::net::{Address, TlsOptions};
use crate::{Error, ErrorKind, Param, Result, Secret, Server, StoreUrl};

/// One option: what it is called, takes, is by default, and means.
#[derive(Debug)]
pub struct Named {
    /// Its name.
    pub name: &'static str,
    /// Other spellings of it.
    pub aliases: &'static [&'static str],
    /// What it takes.
    pub takes: &'static str,
    /// What holds when it is not given.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

const fn named(
    name: &'static str,
    aliases: &'static [&'static str],
    takes: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Named {
    Named { name, aliases, takes, default, meaning }
}

const AUTH: &str = "auth";
const USER: &str = "auth[user]";

/// Every option of a Redis URL.
pub const OPTIONS: &[Named] = &[
    named(
        AUTH,
        &["auth[]", "auth[pass]", "auth[0]", "auth[1]", "password", "pass"],
        "a password, or with auth[] twice a user and a password",
        "none",
        "sent as AUTH on every new connection",
    ),
    named(USER, &["user", "username"], "a name", "none", "the ACL user to authenticate as"),
    named("database", &["db", "dbindex"], "a number from 0", "0", "selected on every new connection"),
    named(
        "prefix",
        &[],
        "text, may be empty",
        "PHPREDIS_SESSION:",
        "put before the session id to make the key",
    ),
    named("timeout", &[], "seconds above 0", "cloakroom.connect_timeout", "total time to connect"),
    named(
        "read_timeout",
        &[],
        "seconds, 0 for the default",
        "cloakroom.timeout",
        "total time of one exchange",
    ),
    named("weight", &[], "a number above 0", "1", "the server's share of the sessions of a pool"),
    named(
        "persistent",
        &[],
        "1 or 0",
        "1",
        "accepted; the connection is kept for the worker's life either way",
    ),
    named("persistent_id", &[], "text", "none", "accepted; a worker has one connection, and no pool to name"),
    named("retry_interval", &[], "milliseconds", "0", "accepted; a dead connection is opened again at once"),
    named(
        "verify_peer",
        &["stream[verify_peer]", "ssl[verify_peer]"],
        "1 or 0",
        "1",
        "whether the server's certificate must be signed by a known authority",
    ),
    named(
        "verify_peer_name",
        &["stream[verify_peer_name]", "ssl[verify_peer_name]"],
        "1 or 0",
        "1",
        "whether the server's certificate must bear its name",
    ),
    named(
        "cafile",
        &["stream[cafile]", "ssl[cafile]"],
        "the path of a PEM file",
        "the system's authorities",
        "the authorities to trust",
    ),
    named(
        "peer_name",
        &["stream[peer_name]", "ssl[peer_name]"],
        "a name",
        "the host",
        "the name that the certificate must bear",
    ),
];

const PREFIX: &str = "PHPREDIS_SESSION:";

/// A Redis URL, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The URL with its secrets masked.
    pub(super) shown: String,
    /// The servers, each with its share of the sessions.
    pub(super) servers: Vec<(u32, Endpoint)>,
}

/// One server of the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Its part of the URL with its secrets masked.
    pub(super) shown: String,
    pub(super) address: Address,
    pub(super) tls: Option<TlsOptions>,
    pub(super) credentials: Option<Credentials>,
    pub(super) database: u32,
    pub(super) prefix: String,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    /// Whether the URL holds what phpredis ignores: said when the server wants a password.
    pub(super) ignored_userinfo: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: Option<String>,
    pub(super) password: Secret,
}

impl Options {
    /// Reads the URL's options.
    ///
    /// In the schemes of phpredis (`tcp`, `tls`, `ssl`, `unix`) a user, a password before the `@` and a path after
    /// the host mean nothing, as there: honouring them would move the sessions of those who have them. They are an
    /// error where they contradict an option. In `redis://` and its like they mean what they say.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for an option that is unknown, repeated, contradictory or of another type.
    pub fn parse(url: &StoreUrl) -> Result<Self> {
        let servers = url.servers.iter().map(|server| Endpoint::parse(&url.scheme, server));
        Ok(Options { shown: url.to_string(), servers: servers.collect::<Result<_>>()? })
    }
}

impl Endpoint {
    fn parse(scheme: &str, server: &Server) -> Result<(u32, Self)> {
        let given = Given::collect(&server.params)?;
        let native = matches!(scheme, "tcp" | "tls" | "ssl" | "unix");
        let address = address(scheme, server)?;
        let socket = matches!(address, Address::Unix(_));
        let encrypted = matches!(scheme, "tls" | "ssl" | "rediss" | "valkeys");

        let weight = match given.one("weight") {
            Some(weight) => match weight.number("a number above 0")? {
                0 => return Err(weight.refused("a number above 0")),
                number => number,
            },
            None => 1,
        };
        given.one("persistent").map(Param::switch).transpose()?;
        if let Some(interval) = given.one("retry_interval") {
            interval.number::<u32>("a number of milliseconds")?;
        }
        let endpoint = Endpoint {
            shown: format!("{scheme}://{server}"),
            tls: given.tls(encrypted)?,
            credentials: given.credentials(server, native)?,
            database: given.database(server, native || socket)?,
            prefix: given.one("prefix").map_or(PREFIX, |param| param.value.reveal()).to_owned(),
            connect_timeout: given
                .one("timeout")
                .map(|param| seconds(param, "seconds above 0"))
                .transpose()?,
            timeout: match given.one("read_timeout") {
                // phpredis: 0 means its default.
                Some(param) if param.number::<f64>("seconds")? == 0.0 => None,
                Some(param) => Some(seconds(param, "seconds above 0, or 0 for the default")?),
                None => None,
            },
            ignored_userinfo: native && (server.user.is_some() || server.password.is_some()),
            address,
        };
        Ok((weight, endpoint))
    }
}

fn address(scheme: &str, server: &Server) -> Result<Address> {
    match (&server.host, scheme) {
        (None, _) => Ok(Address::Unix(PathBuf::from(&server.path))),
        (Some(_), "unix") => Err(Error::new(
            ErrorKind::Config,
            "session.save_path: unix:// takes a socket, not a host (at character 8)",
        )
        .hint("write unix:///path/of/the.sock, with three slashes")),
        (Some(host), _) => Ok(Address::Tcp { host: host.clone(), port: server.port.unwrap_or(6379) }),
    }
}

fn seconds(param: &Param, expected: &str) -> Result<Duration> {
    let number: f64 = param.number(expected)?;
    match Duration::try_from_secs_f64(number) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(param.refused(expected)),
    }
}

/// The options that were given, under their names in [`OPTIONS`].
struct Given<'a>(Vec<(&'static str, &'a Param)>);

impl<'a> Given<'a> {
    fn collect(params: &'a [Param]) -> Result<Self> {
        let mut given: Vec<(&'static str, &'a Param)> = Vec::new();
        for param in params {
            let spelled =
                |option: &&Named| option.name == param.name || option.aliases.contains(&param.name.as_str());
            let Some(option) = OPTIONS.iter().find(spelled) else {
                let known: Vec<&str> = OPTIONS.iter().map(|option| option.name).collect();
                return Err(param.unknown(&known));
            };
            let earlier = given.iter().filter(|(name, _)| *name == option.name).count();
            // A user and a password are given as a list of two.
            let allowed = match param.name.as_str() {
                "auth[]" | "auth[0]" | "auth[1]" => 2,
                _ => 1,
            };
            if earlier >= allowed {
                return Err(param.repeated());
            }
            given.push((option.name, param));
        }
        Ok(Given(given))
    }

    fn all(&self, name: &'static str) -> Vec<&'a Param> {
        self.0.iter().filter(|(given, _)| *given == name).map(|(_, param)| *param).collect()
    }

    fn one(&self, name: &'static str) -> Option<&'a Param> {
        self.all(name).first().copied()
    }

    fn credentials(&self, server: &Server, native: bool) -> Result<Option<Credentials>> {
        let mut secrets = self.all(AUTH);
        if secrets.len() == 2 && secrets[0].name == "auth[1]" {
            secrets.swap(0, 1);
        }
        let mut user = self.one(USER).map(|param| (param, param.value.reveal()));
        let mut password = None;
        match secrets[..] {
            [] => {}
            [only] => password = Some(only),
            [first, second, ..] => {
                if user.is_some() {
                    return Err(second.repeated());
                }
                user = Some((first, first.value.reveal()));
                password = Some(second);
            }
        }
        for (param, inside) in [
            (user.map(|(param, _)| param), server.user.as_deref()),
            (password, server.password.as_ref().map(Secret::reveal)),
        ] {
            if let (Some(param), Some(inside)) = (param, inside)
                && param.value.reveal() != inside
            {
                return Err(param.refused("what stands before the @, or nothing stands there"));
            }
        }
        let (inside_user, inside_password) = match native {
            true => (None, None),
            false => (server.user.clone(), server.password.clone()),
        };
        let user_param = user.map(|(param, _)| param);
        let user = user.map(|(_, name)| name.to_owned()).or(inside_user);
        let password = password.map(|param| param.value.clone()).or(inside_password);
        match (user, password) {
            (user, Some(password)) if !password.reveal().is_empty() => {
                Ok(Some(Credentials { user: user.filter(|user| !user.is_empty()), password }))
            }
            // phpredis sends no AUTH for an empty password.
            (None, _) => Ok(None),
            (Some(_), _) => match user_param {
                Some(param) => Err(param.refused("a password beside it (auth[pass]=)")),
                None => Ok(None),
            },
        }
    }

    fn database(&self, server: &Server, path_means_nothing: bool) -> Result<u32> {
        let given = match self.one("database") {
            Some(param) => Some((param, param.number::<u32>("a number from 0")?)),
            None => None,
        };
        // Of a Unix socket, the path is its address.
        let path = match server.host {
            Some(_) => server.path.trim_matches('/'),
            None => "",
        };
        let inside = path.parse::<u32>();
        match (given, inside) {
            (Some((param, number)), Ok(inside)) if number != inside => {
                Err(param.refused("the number after the host, or none stands there"))
            }
            (Some((_, number)), _) => Ok(number),
            (None, _) if path_means_nothing || path.is_empty() => Ok(0),
            (None, Ok(inside)) => Ok(inside),
            (None, Err(_)) => Err(Error::new(
                ErrorKind::Config,
                format!("session.save_path: \"/{path}\" after the host is not the number of a database"),
            )
            .hint("write /0, or leave it out; the key prefix is prefix=")),
        }
    }

    fn tls(&self, encrypted: bool) -> Result<Option<TlsOptions>> {
        if !encrypted {
            return match ["cafile", "peer_name", "verify_peer", "verify_peer_name"]
                .iter()
                .find_map(|name| self.one(name))
            {
                Some(param) => Err(param.refused("a scheme with TLS before the host (tls:// or rediss://)")),
                None => Ok(None),
            };
        }
        let switch = |name| self.one(name).map_or(Ok(true), Param::switch);
        Ok(Some(TlsOptions {
            verify_peer: switch("verify_peer")?,
            verify_peer_name: switch("verify_peer_name")?,
            cafile: self.one("cafile").map(|param| PathBuf::from(param.value.reveal())),
            peer_name: self.one("peer_name").map(|param| param.value.reveal().to_owned()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Environment, SavePath};

    fn parse(text: &str) -> Result<Endpoint> {
        match SavePath::parse(text, &Environment::default()).unwrap() {
            SavePath::Store(url) => Ok(Options::parse(&url)?.servers.remove(0).1),
            SavePath::Detect => panic!("{text} means detection"),
        }
    }

    fn auth(text: &str) -> Option<(Option<String>, String)> {
        let credentials = parse(text).unwrap().credentials?;
        Some((credentials.user, credentials.password.reveal().to_owned()))
    }

    #[test]
    fn a_password_and_a_user_are_read_in_every_form() {
        for text in [
            "tcp://h?auth=pw",
            "tcp://h?auth[]=pw",
            "tcp://h?auth[pass]=pw",
            "redis://:pw@h",
            "redis://pw@h",
            "redis://h?password=pw",
            "redis://:pw@h?auth=pw",
            "unix:///run/r.sock?auth=pw",
        ] {
            assert_eq!(auth(text), Some((None, "pw".into())), "{text}");
        }
        for text in [
            "tcp://h?auth[]=me&auth[]=pw",
            "tcp://h?auth[user]=me&auth[pass]=pw",
            "tcp://h?auth[0]=me&auth[1]=pw",
            "tcp://h?auth[1]=pw&auth[0]=me",
            "redis://me:pw@h",
            "redis://me@h?auth=pw",
            "rediss://h?user=me&password=pw",
        ] {
            let user = match text {
                // A bare word before the @ is a password.
                "redis://me@h?auth=pw" => continue,
                _ => Some("me".to_owned()),
            };
            assert_eq!(auth(text), Some((user, "pw".into())), "{text}");
        }
        // As in phpredis, these send no AUTH.
        for text in ["tcp://h", "tcp://h?auth=", "tcp://me:pw@h"] {
            assert_eq!(auth(text), None, "{text}");
        }
        assert!(parse("tcp://me:pw@h").unwrap().ignored_userinfo);
    }

    #[test]
    fn the_rest_is_read_with_its_defaults() {
        let options = parse("tcp://h").unwrap();
        assert_eq!(options.address, Address::Tcp { host: "h".into(), port: 6379 });
        assert_eq!((options.database, options.prefix.as_str()), (0, PREFIX));
        assert_eq!((options.connect_timeout, options.timeout, options.tls), (None, None, None));

        let options = parse(
            "tcp://h:7?weight=3&timeout=1.5&read_timeout=2&persistent=1&persistent_id=x&retry_interval=100\
             &prefix=&database=2",
        )
        .unwrap();
        assert_eq!((options.database, options.prefix.as_str()), (2, ""));
        assert_eq!(options.connect_timeout, Some(Duration::from_millis(1500)));
        assert_eq!(options.timeout, Some(Duration::from_secs(2)));

        assert_eq!(parse("tcp://h?read_timeout=0").unwrap().timeout, None);
        assert_eq!(parse("unix:///run/r.sock").unwrap().address, Address::Unix("/run/r.sock".into()));
        assert_eq!(parse("redis:///run/r.sock?db=4").unwrap().address, Address::Unix("/run/r.sock".into()));
        for text in ["redis://h/4", "redis://h?db=4", "valkey://h/?dbindex=4", "redis://h/4?database=4"] {
            assert_eq!(parse(text).unwrap().database, 4, "{text}");
        }
        assert_eq!(parse("tcp://h/4").unwrap().database, 0);
    }

    #[test]
    fn tls_is_read_in_php_words_and_in_ours() {
        for text in
            ["rediss://h?verify_peer=0&cafile=/ca", "tls://h?stream[verify_peer]=0&stream[cafile]=/ca"]
        {
            let tls = parse(text).unwrap().tls.unwrap();
            assert_eq!((tls.verify_peer, tls.verify_peer_name), (false, true), "{text}");
            assert_eq!(tls.cafile, Some("/ca".into()), "{text}");
        }
        assert!(parse("ssl://h").unwrap().tls.unwrap().verify_peer);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_at_its_character() {
        for (text, message) in [
            ("tcp://h?wieght=1", "unknown option \"wieght\" (at character 9)"),
            ("tcp://h?weight=0", "option \"weight\" takes a number above 0 (at character 9)"),
            ("tcp://h?weight=x", "option \"weight\" takes a number above 0 (at character 9)"),
            ("tcp://h?timeout=0", "option \"timeout\" takes seconds above 0 (at character 9)"),
            ("tcp://h?timeout=nan", "option \"timeout\" takes seconds above 0 (at character 9)"),
            ("tcp://h?database=1&db=1", "option \"db\" is given twice (at character 20)"),
            ("tcp://h?auth=a&auth=b", "option \"auth\" is given twice (at character 16)"),
            ("tcp://h?auth[]=a&auth[]=b&auth[]=c", "option \"auth[]\" is given twice (at character 27)"),
            ("tcp://h?database=one", "option \"database\" takes a number from 0 (at character 9)"),
            (
                "redis://h/1?database=2",
                "option \"database\" takes the number after the host, or none stands there (at character 13)",
            ),
            (
                "tcp://h/1?database=2",
                "option \"database\" takes the number after the host, or none stands there (at character 11)",
            ),
            (
                "tcp://a:b@h?auth=c",
                "option \"auth\" takes what stands before the @, or nothing stands there (at character 13)",
            ),
            (
                "tcp://h?cafile=/ca",
                "option \"cafile\" takes a scheme with TLS before the host (tls:// or rediss://) (at character 9)",
            ),
            ("redis://h/cache", "\"/cache\" after the host is not the number of a database"),
            ("unix://run/r.sock", "unix:// takes a socket, not a host (at character 8)"),
            (
                "tcp://h?auth[user]=me",
                "option \"auth[user]\" takes a password beside it (auth[pass]=) (at character 9)",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
            let shown = error.to_string();
            let first = shown.lines().next().unwrap();
            assert_eq!(first, format!("session.save_path: {message}"), "{text}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let shown = format!("{:?}", parse("redis://me:hunter2@h?password=hunter2").unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
