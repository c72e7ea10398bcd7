//! Redis in parts: `REDIS_HOST` and its like, as Nextcloud's and Laravel's, Railway's and Clever Cloud's.

use super::seen::{Seen, Variable, Variables, config, port};
use super::target::Parts;
use crate::{Result, SavePath, StoreUrl};

/// The variables of the parts, each with all its names; the first that is set counts.
struct Names<'a> {
    host: &'a str,
    port: &'a [&'a str],
    user: &'a [&'a str],
    password: &'a [&'a str],
    database: &'a [&'a str],
    scheme: &'a [&'a str],
}

const REDIS_HOST: Names<'static> = Names {
    host: "REDIS_HOST",
    port: &["REDIS_PORT", "REDIS_HOST_PORT"],
    user: &["REDIS_USERNAME", "REDIS_USER", "REDIS_HOST_USER"],
    password: &["REDIS_PASSWORD", "REDIS_HOST_PASSWORD"],
    database: &["REDIS_DB"],
    scheme: &["REDIS_SCHEME"],
};

pub(super) fn redis_host(variables: &Variables<'_>) -> Vec<Seen> {
    let mut seen: Vec<Seen> = look(variables, &REDIS_HOST, &[]).into_iter().collect();
    if seen.is_empty() && variables.plain("REDIS_SERVICE_HOST").is_some() {
        seen.push(Seen::never(
            "REDIS_SERVICE_HOST",
            "every service of the cluster has such a link; REDIS_HOST chooses one",
        ));
    }
    seen
}

/// Clever Cloud's switch: sessions belong into the Redis that `REDIS_HOST` names.
pub(super) fn clever_cloud(variables: &Variables<'_>) -> Vec<Seen> {
    match variables.plain("SESSION_TYPE") {
        Some("redis") => look(variables, &REDIS_HOST, &["SESSION_TYPE"]).into_iter().collect(),
        _ => Vec::new(),
    }
}

pub(super) fn redishost(variables: &Variables<'_>) -> Vec<Seen> {
    let names = Names {
        host: "REDISHOST",
        port: &["REDISPORT"],
        user: &["REDISUSER"],
        password: &["REDISPASSWORD"],
        database: &[],
        scheme: &[],
    };
    look(variables, &names, &[]).into_iter().collect()
}

/// Clever Cloud's Materia KV, always by TLS; its token is the password.
pub(super) fn materia(variables: &Variables<'_>) -> Vec<Seen> {
    if variables.plain("KV_PORT").is_none() || !matches!(variables.get("KV_TOKEN"), Ok(Some(_))) {
        return Vec::new();
    }
    let names = Names {
        host: "KV_HOST",
        port: &["KV_PORT"],
        user: &[],
        password: &["KV_TOKEN"],
        database: &[],
        scheme: &[],
    };
    look(variables, &names, &[]).into_iter().collect()
}

/// `PREFIX_HOST`, `PREFIX_PORT`, ..., as Upsun writes them.
pub(super) fn with_prefix(variables: &Variables<'_>, prefix: &str) -> Option<Seen> {
    let name = |part: &str| format!("{prefix}_{part}");
    let [host, port, user, username, password, database, scheme] =
        ["HOST", "PORT", "USER", "USERNAME", "PASSWORD", "DB", "SCHEME"].map(name);
    let names = Names {
        host: &host,
        port: &[&port],
        user: &[&username, &user],
        password: &[&password],
        database: &[&database],
        scheme: &[&scheme],
    };
    look(variables, &names, &[])
}

fn look(variables: &Variables<'_>, names: &Names<'_>, because_of: &[&str]) -> Option<Seen> {
    let mut from: Vec<String> = because_of.iter().map(ToString::to_string).collect();
    let url = assemble(variables, names, &mut from).transpose()?;
    Some(Seen::new(if from.is_empty() { vec![names.host.to_owned()] } else { from }, url))
}

fn assemble(
    variables: &Variables<'_>,
    names: &Names<'_>,
    from: &mut Vec<String>,
) -> Result<Option<StoreUrl>> {
    let Some(host) = variables.get(names.host)? else { return Ok(None) };
    let mut take = |names: &[&str]| -> Result<Option<Variable>> {
        for name in names {
            let variable =
                if name.ends_with("PORT") { variables.port(name)? } else { variables.get(name)? };
            if let Some(variable) = variable {
                from.push(variable.name.clone());
                return Ok(Some(variable));
            }
        }
        Ok(None)
    };
    take(&[names.host])?;
    let mut parts = from_host(&host, variables)?;
    if let Some(variable) = take(names.port)?
        && !parts.host.starts_with('/')
    {
        parts.port = Some(port(&variable.name, &variable.value)?);
    }
    parts.user = take(names.user)?.map(|variable| variable.value);
    parts.password = take(names.password)?.map(|variable| variable.value);
    if let Some(variable) = take(names.database)? {
        let number = variable.value.parse().map_err(|_| {
            config(format!("{}: the database is not a number", variable.name))
                .hint(format!("correct {}", variable.name))
        })?;
        parts.database = Some(number);
    }
    if let Some(variable) = take(names.scheme)? {
        parts.tls |= matches!(variable.value.as_str(), "tls" | "ssl" | "rediss" | "valkeys");
    }
    parts.tls |= variables.plain("KV_HOST") == Some(parts.host.as_str());
    if !from.contains(&host.name) {
        from.insert(0, host.name);
    }
    Ok(Some(parts.redis()))
}

/// A host, `host:port`, `tls://host`, an address, or the path of a socket.
fn from_host(variable: &Variable, variables: &Variables<'_>) -> Result<Parts> {
    if variable.value.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(Parts { host: variable.value.clone(), ..Parts::default() });
    }
    let parsed = SavePath::parse_for_phpredis(&variable.value, variables.0)
        .map_err(|error| error.about(&variable.name))?;
    let one = match &parsed {
        SavePath::Store(url) => Some((url, &url.servers[..])),
        SavePath::Detect => None,
    };
    let Some((url, [server])) = one else {
        return Err(config(format!("{} is not one host", variable.name))
            .hint(format!("correct {}, or name the store in SESSION_STORE_URL", variable.name)));
    };
    Ok(Parts {
        tls: matches!(url.scheme.as_str(), "tls" | "ssl" | "rediss" | "valkeys"),
        host: server.host.clone().unwrap_or_else(|| server.path.clone()),
        port: server.port,
        ..Parts::default()
    })
}
