//! From the text of the setting to a [`StoreUrl`], with the character of whatever cannot be meant.

use std::net::Ipv6Addr;
use std::num::NonZeroU16;

use percent_encoding::percent_decode_str;

use super::{Param, Server, StoreUrl, memcached, seeds, symfony, unset, wrong};
use crate::{Environment, Result, Secret};

/// How the part after a scheme is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// phpredis' own: a list of URLs.
    Native,
    /// `host:port`, and only one.
    Single,
    /// `host1:port1,host2:port2`.
    Hosts,
}

impl Form {
    fn of(scheme: &str) -> Self {
        match scheme {
            "tcp" | "tls" | "ssl" | "unix" => Form::Native,
            _ if scheme.ends_with("+sentinel") || scheme.ends_with("+cluster") => Form::Hosts,
            _ => Form::Single,
        }
    }
}

pub(super) fn store_url(text: &str, environment: &Environment) -> Result<StoreUrl> {
    let start = Cursor { text, at: 0, environment };
    if let Some(path) = directory(text) {
        return Ok(StoreUrl::directory(path));
    }
    if seeds::are_named_in(text) {
        return seeds::understand(start.params()?);
    }
    if memcached::is_named_in(text) {
        return memcached::list(start);
    }
    let Some(colon) = text.find(':').filter(|colon| scheme_ends_at(text, *colon)) else {
        return start.without_scheme();
    };
    let scheme = text[..colon].to_ascii_lowercase();
    if scheme.is_empty() || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) {
        return Err(wrong(
            0,
            "this is not a URL scheme",
            "write tcp://host:6379, redis://host or /directory",
        ));
    }
    let rest = start.from(colon + 1);
    match (scheme.as_str(), Form::of(&scheme)) {
        ("file", _) if !rest.text.starts_with("///") => {
            Err(wrong(7, "file:// needs an absolute path", "write file:///var/lib/php/sessions"))
        }
        // Split as phpredis does, before any decoding.
        (_, Form::Native) => {
            let servers = start.native_list()?;
            match servers.iter().all(|server| server.port == Some(11211)) {
                true => memcached::of_urls(scheme, servers),
                false => Ok(StoreUrl { scheme, servers }),
            }
        }
        ("memcached" | "memcacheds", _) => memcached::url(rest, scheme),
        _ => rest.after_scheme(scheme),
    }
}

/// As [`store_url`], but that what has no scheme is Redis.
pub(super) fn redis_url(text: &str, environment: &Environment) -> Result<StoreUrl> {
    let has_scheme = text.find(':').is_some_and(|colon| scheme_ends_at(text, colon));
    match has_scheme || seeds::are_named_in(text) {
        true => store_url(text, environment),
        false => {
            let servers = Cursor { text, at: 0, environment }.native_list()?;
            Ok(StoreUrl { scheme: "tcp".into(), servers })
        }
    }
}

/// As [`store_url`], but that what has no scheme is Memcached.
pub(super) fn memcached_url(text: &str, environment: &Environment) -> Result<StoreUrl> {
    match text.find(':').is_some_and(|colon| scheme_ends_at(text, colon)) {
        true => store_url(text, environment),
        false => memcached::list(Cursor { text, at: 0, environment }),
    }
}

/// Whether this colon ends a scheme: `redis://`, `redis:?`, `unix:/`, and not `host:6379`.
fn scheme_ends_at(text: &str, colon: usize) -> bool {
    let after = &text[colon + 1..];
    after.starts_with("//")
        || (after.starts_with('/') && text[..colon].eq_ignore_ascii_case("unix"))
        || (takes_symfony_forms(&text[..colon].to_ascii_lowercase()) && !is_port(after))
}

/// Whether this is what follows the colon in `redis:6379`, a host's name and its port, and not in `redis:1234@?host[h]`.
fn is_port(after: &str) -> bool {
    let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    end > 0 && !after[end..].split(['?', '/', ',']).next().is_some_and(|rest| rest.contains('@'))
}

fn takes_symfony_forms(scheme: &str) -> bool {
    is_redis(scheme) || matches!(scheme, "memcached" | "memcacheds")
}

fn is_redis(scheme: &str) -> bool {
    matches!(scheme, "redis" | "rediss" | "valkey" | "valkeys")
}

/// The path of a files form: `/path`, `N;/path`, `N;MODE;/path`. Anything with a `;` before its first `:` is one,
/// so that a malformed one is reported by the store that knows the rules.
fn directory(text: &str) -> Option<&str> {
    let before_scheme = text.split(':').next().unwrap_or(text);
    (text.starts_with(['/', '.']) || before_scheme.contains(';')).then_some(text)
}

/// A part of the setting and where it starts in the whole.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
    environment: &'a Environment,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str, at: usize, environment: &'a Environment) -> Self {
        Cursor { text, at, environment }
    }

    /// The rest from this byte on.
    pub(super) fn from(self, byte: usize) -> Self {
        let (before, text) = self.text.split_at(byte);
        Cursor { text, at: self.at + before.chars().count(), ..self }
    }

    pub(super) fn to(self, byte: usize) -> Self {
        Cursor { text: &self.text[..byte], ..self }
    }

    /// The pieces between these separators, empty ones left out.
    pub(super) fn split(self, separator: fn(char) -> bool) -> impl Iterator<Item = Self> {
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

    /// `host:port`: Redis or Memcached on their usual ports only, since a wrong guess would look like lost sessions.
    fn without_scheme(self) -> Result<StoreUrl> {
        if let Ok(url) = memcached::list(self)
            && memcached::has_its_usual_ports(&url)
        {
            return Ok(url);
        }
        let servers = self.native_list().unwrap_or_default();
        let on = |ports: &[u16]| {
            !servers.is_empty()
                && servers.iter().all(|server| server.port.is_some_and(|port| ports.contains(&port)))
        };
        match on(&[6379, 6380]) {
            true => Ok(StoreUrl { scheme: "tcp".into(), servers }),
            false => Err(wrong(
                self.at,
                "this names no store",
                "write a directory (/path), or put the scheme before the host: tcp://host:6379, redis://host, \
                 memcached://host",
            )),
        }
    }

    /// phpredis' list of servers, split at commas and white space; `host:port` needs no scheme there.
    fn native_list(self) -> Result<Vec<Server>> {
        let mut servers: Vec<Server> = Vec::new();
        let mut first = None;
        for piece in self.split(|c| c == ',' || c.is_ascii_whitespace()) {
            let mut scheme = "tcp".to_owned();
            let rest = match piece.text.find(':').filter(|colon| scheme_ends_at(piece.text, *colon)) {
                Some(colon) => {
                    scheme = piece.text[..colon].to_ascii_lowercase();
                    if Form::of(&scheme) != Form::Native {
                        return Err(wrong(
                            piece.at,
                            "a list of servers is of tcp://, tls:// or unix:// alone",
                            "write tcp://host:port,tcp://host:port",
                        ));
                    }
                    let rest = piece.from(colon + 1);
                    if rest.text.starts_with("//") { rest.from(2) } else { rest }
                }
                // The rest of a password with a comma in it, and not a host.
                None if servers.iter().any(|server| !server.params.is_empty()) => {
                    return Err(wrong(
                        piece.at,
                        "each server of a list starts with its scheme",
                        "write tcp://host:port; in a password, encode , as %2C and a space as %20",
                    ));
                }
                None => piece,
            };
            let (authority, rest) = rest.authority();
            let (path, query) = rest.path_and_query();
            let mut server = Server { path: decode(path.text, path.at)?, ..Server::default() };
            let address = authority.after_userinfo(&mut server)?;
            address.native_host_and_port(&mut server)?;
            address.needs_host(&server)?;
            server.params = query.map_or(Ok(Vec::new()), Cursor::params)?;
            let first = first.get_or_insert_with(|| scheme.clone());
            server.scheme = (*first != scheme).then_some(scheme);
            servers.push(server);
        }
        match servers.is_empty() {
            true => Err(wrong(self.at, "the list of servers is empty", "write tcp://host:port")),
            false => Ok(servers),
        }
    }

    /// `//[user[:password]@]host[:port][,host[:port]...][/path][?query]`, or `///socket[?query]`, or Symfony's
    /// `[user:password@]?host[...]&...`.
    fn after_scheme(self, scheme: String) -> Result<StoreUrl> {
        let form = Form::of(&scheme);
        let (whole, insecure) = self.without_fragment(is_redis(&scheme))?;
        let start = if whole.text.starts_with("//") { whole.from(2) } else { whole };
        let (authority, rest) = start.authority();
        let (path, query) = rest.path_and_query();
        if let Some(byte) = path.text.find('@')
            && !authority.text.is_empty()
        {
            let hint = "in a user or a password, write / as %2F";
            return Err(wrong(path.from(byte).at, "the @ comes after a / that ends the host", hint));
        }
        let mut first = Server { path: decode(path.text, path.at)?, ..Server::default() };
        let address = authority.after_userinfo(&mut first)?;
        first.params = query.map_or(Ok(Vec::new()), Cursor::params)?;
        first.params.extend(insecure);
        let mut others = Vec::new();
        for (index, host) in address.split(|c| c == ',').enumerate() {
            let mut other = Server::default();
            host.host_and_port(if index == 0 { &mut first } else { &mut other })?;
            match (index, form) {
                (0, _) => {}
                (_, Form::Hosts) => others.push(other),
                _ => {
                    return Err(wrong(
                        host.at,
                        format!("{scheme}:// takes one server"),
                        "write a pool as tcp://host1,tcp://host2, or say redis+sentinel:// or redis+cluster://",
                    ));
                }
            }
        }
        let mut url = StoreUrl { scheme, servers: std::iter::once(first).chain(others).collect() };
        if is_redis(&url.scheme) {
            symfony::understand(&mut url, address.at)?;
        }
        if form == Form::Hosts && url.servers[0].host.is_none() {
            return Err(wrong(
                address.at,
                "the host is missing",
                "name the hosts after ://, with commas between",
            ));
        }
        address.needs_host(url.server())?;
        Ok(url)
    }

    /// What stands before `#insecure`, and what that means; nothing else may follow a `#`.
    pub(super) fn without_fragment(self, may_be_insecure: bool) -> Result<(Self, Option<Param>)> {
        match self.text.find('#') {
            Some(byte) if self.text[byte..] == *"#insecure" && may_be_insecure => {
                let (at, value) = (self.from(byte).at + 1, Secret::new("0"));
                let param =
                    Param { name: "verify_peer".into(), value, at, setting: None, follows_secret: false };
                Ok((self.to(byte), Some(param)))
            }
            Some(byte) => {
                let hint = "write # in a password as %23";
                Err(wrong(self.from(byte).at, "a store's URL has no # part", hint))
            }
            None => Ok((self, None)),
        }
    }

    /// What stands before the first `/`, `?` or `#`, and the rest.
    pub(super) fn authority(self) -> (Self, Self) {
        let end = self.text.find(['/', '?', '#']).unwrap_or(self.text.len());
        (self.to(end), self.from(end))
    }

    pub(super) fn path_and_query(self) -> (Self, Option<Self>) {
        match self.text.find('?') {
            Some(byte) => (self.to(byte), Some(self.from(byte + 1))),
            None => (self, None),
        }
    }

    fn needs_host(self, server: &Server) -> Result<()> {
        match server.host.is_none() && server.path.len() < 2 {
            true => {
                let hint = "name the host after ://, or the socket as unix:///path";
                Err(wrong(self.at, "the host is missing", hint))
            }
            false => Ok(()),
        }
    }

    pub(super) fn params(self) -> Result<Vec<Param>> {
        let mut follows_secret = false;
        self.split(|c| c == '&')
            .map(|piece| {
                let mut param = piece.param()?;
                param.follows_secret = follows_secret;
                follows_secret |= param.is_secret();
                Ok(param)
            })
            .collect()
    }

    /// Reads the user and the password before the last `@`; answers what follows it.
    pub(super) fn after_userinfo(self, server: &mut Server) -> Result<Self> {
        match self.text.rfind('@') {
            Some(byte) => {
                self.to(byte).userinfo(server)?;
                Ok(self.from(byte + 1))
            }
            None => Ok(self),
        }
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

    /// As phpredis reads it: the port follows the last colon. Its 5.3 takes an IPv6 address without brackets alone.
    fn native_host_and_port(self, server: &mut Server) -> Result<()> {
        let address = self.text.rsplit_once(':').and_then(|(host, port)| {
            Some((host.parse::<Ipv6Addr>().is_ok().then_some(host)?, port.parse::<NonZeroU16>().ok()?))
        });
        match address {
            Some((host, port)) => {
                server.host = Some(host.to_owned());
                server.port = Some(port.get());
                Ok(())
            }
            None => self.host_and_port(server),
        }
    }

    pub(super) fn host_and_port(self, server: &mut Server) -> Result<()> {
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
            let address = &inside[..close];
            // A zone follows the address: fe80::1%eth0.
            if address.split('%').next().is_none_or(|address| address.parse::<Ipv6Addr>().is_err()) {
                let what = "this is not an IPv6 address";
                return Err(wrong(self.at + 1, what, "brackets are for addresses such as [::1]"));
            }
            (address, port)
        } else {
            match self.text.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    let what = "an IPv6 address stands in brackets";
                    return Err(wrong(self.at, what, "write tcp://[::1]:6379"));
                }
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
        // Symfony's lists of hosts are names without values; a password in brackets is not one.
        let Some(byte) = self.text.find('=').or_else(|| {
            let name = self.text.replace("%5B", "[").replace("%5D", "]");
            (name.starts_with("host[") && name.ends_with(']')).then_some(self.text.len())
        }) else {
            let what = "this option has no value";
            return Err(wrong(self.at, what, "write name=value; quote the whole setting in php.ini"));
        };
        // PHP reads a query as a form: + is a space.
        let name = decode(&self.to(byte).text.replace('+', " "), self.at)?;
        let value = self.from((byte + 1).min(self.text.len()));
        let spaced = value.text.replace('+', " ");
        let value = Cursor { text: &spaced, ..value }.value()?;
        Ok(Param { name, value: Secret::new(value), at: self.at + 1, setting: None, follows_secret: false })
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

/// Reads `host[:port]` at this character.
pub(super) fn host_and_port(text: &str, at: usize, server: &mut Server) -> Result<()> {
    Cursor { text, at, environment: &Environment::default() }.host_and_port(server)
}

/// Reads `host:port` at this character, as phpredis does.
pub(super) fn native_host_and_port(text: &str, at: usize, server: &mut Server) -> Result<()> {
    Cursor { text, at, environment: &Environment::default() }.native_host_and_port(server)
}

pub(super) fn decode(text: &str, at: usize) -> Result<String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| wrong(at, "the %XX codes here are not UTF-8", "encode the bytes of the UTF-8 text"))
}
