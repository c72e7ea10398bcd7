//! The ways to name Memcached servers: php-memcached's lists, URLs, and Symfony's.

use std::num::NonZeroU32;

use super::parse::{Cursor, decode};
use super::{Param, Server, StoreUrl, wrong};
use crate::{Environment, Result, Secret};

/// What php-memcached 2 took before its list, as Cloud Foundry writes it.
const PERSISTENT: &str = "PERSISTENT=";

const PORT: u16 = 11211;

/// Whether only Memcached is named like this.
pub(super) fn is_named_in(text: &str) -> bool {
    text.starts_with(PERSISTENT)
}

/// Whether this can be a list of nothing but Memcached servers.
pub(super) fn has_its_usual_ports(url: &StoreUrl) -> bool {
    let hosts = || url.servers.iter().filter(|server| server.host.is_some());
    hosts().count() > 0 && hosts().all(|server| server.port == Some(PORT))
}

/// php-memcached's list: `host[:port[:weight]]`, `[::1]:port`, `/socket[:0:weight]`, with commas between.
pub(super) fn list(setting: Cursor<'_>) -> Result<StoreUrl> {
    let (id, list) = match setting.text.strip_prefix(PERSISTENT).map(|rest| rest.find(' ')) {
        None => (None, setting),
        Some(Some(space)) => {
            let id = setting.from(PERSISTENT.len()).to(space);
            (Some(id), setting.from(PERSISTENT.len() + space + 1))
        }
        Some(None) => {
            let hint = "write PERSISTENT=id host:port, or host:port alone";
            return Err(wrong(setting.at, "no servers follow the id", hint));
        }
    };
    let mut servers = members(list)?;
    servers[0].params.extend(id.map(|id| Param {
        name: "persistent".into(),
        value: Secret::new(id.text),
        at: setting.at + 1,
        setting: None,
        follows_secret: false,
    }));
    Ok(StoreUrl { scheme: "memcached".into(), servers })
}

/// `tcp://h:11211?weight=2,tcp://g:11211`, as pecl's memcache takes it.
pub(super) fn of_urls(scheme: String, mut servers: Vec<Server>) -> Result<StoreUrl> {
    let scheme = if scheme == "tcp" { "memcached" } else { "memcacheds" };
    for (index, server) in servers.iter_mut().enumerate() {
        if let Some(param) = take(&mut server.params, "weight") {
            server.weight = weight(&param)?;
        }
        if let Some(param) = server.params.first().filter(|_| index > 0) {
            return Err(param.refused("no value here: what holds for all servers stands with the first"));
        }
        if server.scheme.is_some() {
            return Err(wrong(0, "the servers of a ring all speak TLS, or none", "use one scheme for all"));
        }
        server.path.clear();
    }
    Ok(StoreUrl { scheme: scheme.into(), servers })
}

/// What follows `memcached:`: `//[user:password@]member[,member...][/][?query]`, or Symfony's `?host[...]=weight&...`.
pub(super) fn url(rest: Cursor<'_>, scheme: String) -> Result<StoreUrl> {
    let (whole, insecure) = rest.without_fragment(scheme == "memcacheds")?;
    let start = if whole.text.starts_with("//") { whole.from(2) } else { whole };
    let (authority, after) = start.authority();
    let (path, query) = after.path_and_query();
    if let Some(byte) = path.text.find('@')
        && !authority.text.is_empty()
    {
        let hint = "in a user or a password, write / as %2F";
        return Err(wrong(path.from(byte).at, "the @ comes after a / that ends the host", hint));
    }
    let mut common = Server::default();
    let address = authority.after_userinfo(&mut common)?;
    let list =
        start.to(authority.text.len() + path.text.len()).from(authority.text.len() - address.text.len());
    let mut servers = match list.text.trim_matches('/') {
        "" => Vec::new(),
        _ => members(list)?,
    };
    if let [only] = &mut servers[..] {
        take_weight_after_socket(only);
    }
    let named = servers.len();
    for param in query.map_or(Ok(Vec::new()), Cursor::params)? {
        match (param.name.as_str(), &mut servers[..]) {
            ("weight", [_, ..]) if named > 1 => {
                return Err(param.refused("one server: write host:port:weight in a list"));
            }
            ("weight", [first, ..]) if first.weight.is_none() => first.weight = weight(&param)?,
            ("weight", [_, ..]) => return Err(param.repeated()),
            _ => match host(&param)? {
                Some(server) => servers.push(server),
                None => common.params.push(param),
            },
        }
    }
    common.params.extend(insecure);
    let Some(first) = servers.first_mut() else {
        let hint = "name the host after ://, or the socket as memcached:///path";
        return Err(wrong(address.at, "the host is missing", hint));
    };
    first.user = common.user;
    first.password = common.password;
    first.params = common.params;
    Ok(StoreUrl { scheme, servers })
}

/// The servers of a list; at least one.
fn members(list: Cursor<'_>) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    let mut rest = list;
    loop {
        let (piece, more) = match rest.text.find(',') {
            Some(byte) => (rest.to(byte), rest.from(byte + 1)),
            None => (rest, rest.from(rest.text.len())),
        };
        servers.push(member(piece)?);
        if more.text.trim().is_empty() {
            return Ok(servers);
        }
        rest = more;
    }
}

fn member(piece: Cursor<'_>) -> Result<Server> {
    let piece = piece.from(piece.text.len() - piece.text.trim_start().len());
    let piece = piece.to(piece.text.trim_end().len());
    if let Some(byte) = piece.text.find("://") {
        let hint = "write memcached://host1:port,host2:port";
        return Err(wrong(piece.from(byte).at, "the scheme stands before the first server alone", hint));
    }
    let mut server = Server::default();
    let shares = if piece.text.starts_with('/') {
        let (path, numbers) = piece.text.split_once(':').unwrap_or((piece.text, ""));
        server.path = decode(path, piece.at)?;
        let port = numbers.split(':').next().unwrap_or_default();
        if !matches!(port, "" | "0") {
            let what = "a socket has no port";
            return Err(wrong(piece.from(path.len() + 1).at, what, "write /socket:0:weight"));
        }
        (numbers.len() > port.len()).then(|| piece.from(path.len() + 1 + port.len() + 1))
    } else {
        // What follows the host: a port, and its share as php-memcached (`:` or a space) or Symfony (`/`) write it.
        let host = match piece.text.starts_with('[') {
            true => piece.text.find(']').map_or(piece.text.len(), |close| close + 1),
            false => piece.text.find([':', '/']).unwrap_or(piece.text.len()),
        };
        let colon = usize::from(piece.text[host..].starts_with(':'));
        let end = piece.text[host + colon..]
            .find([':', ' ', '/'])
            .map_or(piece.text.len(), |byte| host + colon + byte);
        piece.to(end).host_and_port(&mut server)?;
        if server.host.is_none() {
            let hint = "write host:port, [::1]:port or /socket, with a comma between two";
            return Err(wrong(piece.at, "the host is missing", hint));
        }
        match &piece.text[end..] {
            "" | "/" => None,
            _ => Some(piece.from(end + 1)),
        }
    };
    if let Some(shares) = shares {
        let number = shares.text.trim_end_matches(['/', ' ']).parse::<u32>();
        let number = number.map_err(|_| {
            wrong(shares.at, "the weight is not a number", "write host:port:weight or /socket:0:weight")
        })?;
        server.weight = NonZeroU32::new(number);
    }
    Ok(server)
}

/// Symfony's `memcached:///socket/2`.
fn take_weight_after_socket(server: &mut Server) {
    if let (None, Some((socket, number))) = (&server.host, server.path.rsplit_once('/'))
        && let (false, Ok(number)) = (socket.is_empty(), number.parse())
    {
        server.weight = NonZeroU32::new(number);
        server.path.truncate(socket.len());
    }
}

/// The server of Symfony's `host[h:port]=weight` or `host[/socket]=weight`.
fn host(param: &Param) -> Result<Option<Server>> {
    let Some(inside) = param.name.strip_prefix("host[").and_then(|rest| rest.strip_suffix(']')) else {
        return Ok(None);
    };
    let mut server = member(Cursor::new(inside, param.at + 4, &Environment::default()))?;
    server.weight = weight(param)?.or(server.weight);
    Ok(Some(server))
}

/// As in libmemcached, 0 is 1.
fn weight(param: &Param) -> Result<Option<NonZeroU32>> {
    match param.value.reveal() {
        "" => Ok(None),
        _ => param.number("a number from 0").map(NonZeroU32::new),
    }
}

fn take(params: &mut Vec<Param>, name: &str) -> Option<Param> {
    let index = params.iter().position(|param| param.name == name)?;
    Some(params.remove(index))
}
