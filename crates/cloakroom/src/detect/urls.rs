//! Stores that a variable names by a URL: `REDIS_URL`, those of add-ons, and whatever somebody called the sessions'.
//!
//! Heroku's Redis has certificates that signed themselves, and a user `h` that no server knows; see
//! [`as_heroku_means_it`].

use super::seen::{Found, Seen, Variable, Variables};
use super::target::{Engine, Kind, kind, kind_of_text};
use super::{memcached, parts};
use crate::{SavePath, Secret, StoreUrl};

/// `REDIS_URL`, which `heroku redis:promote` points at the one that is meant.
pub(super) fn redis_url(variables: &Variables<'_>) -> Vec<Seen> {
    with_twin(variables, "REDIS_URL").into_iter().map(Seen::first).collect()
}

const ADD_ONS: &[&str] = &[
    "VALKEY_URL",
    "SCALINGO_REDIS_URL",
    "REDISCLOUD_URL",
    "REDISGREEN_URL",
    "MEMETRIA_REDIS_URL",
    "OPENREDIS_URL",
    "REDISTOGO_URL",
];

pub(super) fn of_add_ons(variables: &Variables<'_>) -> Vec<Seen> {
    let mut seen: Vec<Seen> = ADD_ONS.iter().filter_map(|name| redis(variables, name)).collect();
    let (tls, clear) = ("STACKHERO_REDIS_URL_TLS", "STACKHERO_REDIS_URL_CLEAR");
    match redis(variables, tls) {
        Some(by_tls) => {
            seen.push(by_tls);
            seen.extend(
                variables.plain(clear).map(|_| Seen::never(clear, format!("{tls} is the same by TLS"))),
            );
        }
        None => seen.extend(redis(variables, clear)),
    }
    match variables.plain("DATABASE_URL").map(kind_of_text) {
        Some(Kind::Engine(Engine::Redis)) => seen.extend(redis(variables, "DATABASE_URL")),
        _ => seen.extend(databases(variables)),
    }
    seen
}

/// What is seen of databases, and why they are passed over.
fn databases(variables: &Variables<'_>) -> Vec<Seen> {
    let is_database = |name: &&str| {
        let value = variables.plain(name).unwrap_or_default();
        name.ends_with("_URL") && !name.contains("SESSION") && kind_of_text(value) == Kind::Sql
    };
    variables
        .names()
        .filter(is_database)
        .map(|name| {
            Seen::never(
                name,
                format!("a database is never taken by itself; SESSION_STORE_URL=env:{name} takes it"),
            )
        })
        .collect()
}

/// Heroku's names for several Redis add-ons.
pub(super) fn colours(variables: &Variables<'_>) -> Vec<Seen> {
    let is_colour = |name: &&str| {
        name.starts_with("HEROKU_REDIS_") && name.ends_with("_URL") && !name.ends_with("_PUBLIC_URL")
    };
    bases(variables.names().filter(is_colour)).iter().flat_map(|name| with_twin(variables, name)).collect()
}

/// Whatever has `SESSION` in its name and names a store.
pub(super) fn sessions(variables: &Variables<'_>) -> Vec<Seen> {
    let named = |name: &&str| {
        name.contains("SESSION")
            && !name.starts_with("SESSION_STORE_URL")
            && !["_PUBLIC_URL", "_REST_URL", "_SERVICE_HOST"]
                .iter()
                .any(|never| value_name(name).ends_with(never))
    };
    let ends_in = |ending: &'static str| {
        variables.names().filter(named).filter(move |name| value_name(name).ends_with(ending))
    };
    let mut seen = Vec::new();
    for name in bases(ends_in("_URL").chain(ends_in("_DSN"))) {
        let value = match variables.get(&name) {
            Ok(variable) => variable.map(|variable| variable.value).unwrap_or_default(),
            Err(error) => {
                seen.push(Seen::broken(&name, error));
                continue;
            }
        };
        match kind_of_text(&value) {
            Kind::Engine(Engine::Redis) => seen.extend(with_twin(variables, &name)),
            Kind::Engine(Engine::Memcached) => seen.extend(url(variables, &name, Engine::Memcached)),
            Kind::DynamoDb => seen.extend(table(variables, &name)),
            Kind::Sql => seen.push(Seen::never(
                &name,
                format!("a database is never taken by itself; SESSION_STORE_URL=env:{name} takes it"),
            )),
            // host:6379, as REDIS_URL may have it.
            Kind::Other if value.contains(':') && !value.contains("://") => {
                seen.extend(named_engine(&name).and_then(|engine| url(variables, &name, engine)));
            }
            // An application's own: SESSION_API_URL=https://...
            Kind::Other => {}
        }
    }
    for name in ends_in("_HOST") {
        let prefix = value_name(name).trim_end_matches("_HOST");
        let scheme = variables.plain(&format!("{prefix}_SCHEME")).map_or(Kind::Other, kind);
        let engine = match scheme {
            Kind::Engine(engine) => Some(engine),
            Kind::Other => named_engine(prefix),
            Kind::DynamoDb | Kind::Sql => None,
        };
        seen.extend(match engine {
            Some(Engine::Redis) => parts::with_prefix(variables, prefix),
            Some(Engine::Memcached) => memcached::with_prefix(variables, prefix, "HOST"),
            None => None,
        });
    }
    // Of brokers, say: KAFKA_SESSION_BOOTSTRAP_SERVERS.
    let memcacheds = |name: &&str| {
        let prefix = value_name(name).trim_end_matches("_SERVERS");
        match named_engine(prefix) {
            Some(engine) => engine == Engine::Memcached,
            None => prefix.ends_with("SESSION") || prefix.ends_with("SESSIONS"),
        }
    };
    for name in ends_in("_SERVERS").filter(memcacheds) {
        seen.extend(memcached::with_prefix(
            variables,
            value_name(name).trim_end_matches("_SERVERS"),
            "SERVERS",
        ));
    }
    seen
}

/// The engine that a variable's name tells.
fn named_engine(name: &str) -> Option<Engine> {
    match name {
        _ if name.contains("REDIS") || name.contains("VALKEY") => Some(Engine::Redis),
        _ if name.contains("MEMCACHE") => Some(Engine::Memcached),
        _ => None,
    }
}

/// The name without what says that a file has the value.
fn value_name(name: &str) -> &str {
    name.strip_suffix("_FILE").unwrap_or(name)
}

/// The names without those of twins that are there, and each once.
fn bases<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut bases: Vec<String> = names
        .map(|name| match value_name(name).strip_suffix("_TLS_URL") {
            Some(prefix) => format!("{prefix}_URL"),
            None => value_name(name).to_owned(),
        })
        .collect();
    bases.sort();
    bases.dedup();
    bases
}

/// `X_URL`, or `X_TLS_URL` where that is the same server by TLS.
fn with_twin(variables: &Variables<'_>, name: &str) -> Vec<Seen> {
    let twin_name = name.strip_suffix("_URL").map(|prefix| format!("{prefix}_TLS_URL"));
    let plain = redis(variables, name);
    let twin = twin_name.as_deref().and_then(|twin| redis(variables, twin));
    match (plain, twin) {
        (Some(plain), Some(twin)) if matches!(plain.found, Found::Never(_)) => vec![plain, twin],
        (Some(plain), Some(twin)) => {
            let twin_name = twin.from.join(", ");
            match (host(&plain), host(&twin)) {
                (Some((one, false)), Some((other, true))) if one == other => {
                    vec![twin, Seen::never(name, format!("{twin_name} is the same by TLS"))]
                }
                _ => vec![plain, Seen::never(&twin_name, format!("{name} comes first"))],
            }
        }
        (plain, twin) => plain.into_iter().chain(twin).collect(),
    }
}

/// The host, and whether it is reached by TLS.
fn host(seen: &Seen) -> Option<(&str, bool)> {
    let Found::Store(url) = &seen.found else { return None };
    Some((url.server().host.as_deref()?, speaks_tls(url)))
}

fn speaks_tls(url: &StoreUrl) -> bool {
    matches!(url.scheme.split('+').next(), Some("rediss" | "valkeys" | "tls" | "ssl"))
}

fn redis(variables: &Variables<'_>, name: &str) -> Option<Seen> {
    url(variables, name, Engine::Redis)
}

/// The store that this variable names, if it is set.
pub(super) fn url(variables: &Variables<'_>, name: &str, engine: Engine) -> Option<Seen> {
    let variable = match variables.get(name) {
        Ok(variable) => variable?,
        Err(error) => return Some(Seen::broken(name, error)),
    };
    if holds_a_reference(&variable) {
        return Some(Seen::never(
            &variable.name,
            "a ${...} in it was not expanded, so that it counts as unset",
        ));
    }
    let mut url = engine.parse(&variable, variables.0);
    if let (Ok(url), Engine::Redis) = (&mut url, engine) {
        as_heroku_means_it(url, variables);
    }
    Some(Seen::new(vec![variable.name], url))
}

/// The table of DynamoDB that this variable names, if it is set.
fn table(variables: &Variables<'_>, name: &str) -> Option<Seen> {
    let variable = match variables.get(name) {
        Ok(variable) => variable?,
        Err(error) => return Some(Seen::broken(name, error)),
    };
    let url = match SavePath::parse(&variable.value, variables.0) {
        Ok(SavePath::Store(url)) => Ok(url),
        Ok(SavePath::Detect) => return None,
        Err(error) => Err(error.about(&variable.name)),
    };
    Some(Seen::new(vec![variable.name], url))
}

fn holds_a_reference(variable: &Variable) -> bool {
    variable.value.split_once("${").is_some_and(|(_, after)| {
        let name = after.split('}').next().unwrap_or_default();
        after.contains('}')
            && !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.:-".contains(c))
    })
}

/// Heroku's user `h` is a placeholder, and its certificates sign themselves: nothing can check them. Only there, on a
/// dyno and at hosts such as `ec2-1-2-3-4.compute-1.amazonaws.com`, they are not checked, which the URL shows. Those of
/// Amazon's own Redis (`cache.amazonaws.com`, `memorydb...amazonaws.com`) can be, and are.
pub(super) fn as_heroku_means_it(url: &mut StoreUrl, variables: &Variables<'_>) {
    let tls = speaks_tls(url);
    let Some(server) = url.servers.first_mut() else { return };
    if server.user.as_deref() == Some("h") && server.password.is_some() {
        server.user = None;
    }
    let herokus = |host: &str| host.starts_with("ec2-") && host.ends_with(".amazonaws.com");
    let at_herokus = server.host.as_deref().is_some_and(herokus);
    let checked =
        server.params.iter().any(|param| param.name.contains("verify_peer") || param.name.contains("cafile"));
    if variables.plain("DYNO").is_some() && tls && at_herokus && !checked {
        url.set("verify_peer", Secret::new("0"), "DYNO");
    }
}
