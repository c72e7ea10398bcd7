//! Platform.sh and Upsun: `PLATFORM_RELATIONSHIPS`, base64 of `{name: [{scheme, host, port, username, password, path}]}`.

use data_encoding::BASE64;
use serde_json::Value;

use super::seen::{Seen, Variable, Variables, config, json, port, text};
use super::target::{Engine, Kind, Parts, kind, memcached as memcached_url};
use crate::{Result, StoreUrl};

const NAME: &str = "PLATFORM_RELATIONSHIPS";

/// Those that somebody called the sessions'; also where a value that cannot be read is told of.
pub(super) fn sessions(variables: &Variables<'_>) -> Vec<Seen> {
    match relationships(variables) {
        Ok(all) => chosen(variables, &all, |_, for_sessions| for_sessions),
        Err(error) => vec![Seen::broken(NAME, error)],
    }
}

pub(super) fn redis(variables: &Variables<'_>) -> Vec<Seen> {
    let all = relationships(variables).unwrap_or_default();
    chosen(variables, &all, |engine, for_sessions| !for_sessions && engine == Engine::Redis)
}

pub(super) fn memcached(variables: &Variables<'_>) -> Vec<Seen> {
    let all = relationships(variables).unwrap_or_default();
    chosen(variables, &all, |engine, for_sessions| !for_sessions && engine == Engine::Memcached)
}

/// Each name with the first of its endpoints.
fn relationships(variables: &Variables<'_>) -> Result<Vec<(String, Value)>> {
    let Some(encoded) = variables.plain(NAME) else { return Ok(Vec::new()) };
    let decoded = BASE64.decode(encoded.as_bytes()).map_err(|error| {
        config(format!("{NAME} is not base64"))
            .source(error.to_string())
            .hint(format!("look at what sets {NAME}, or name the store in SESSION_STORE_URL"))
    })?;
    let Value::Object(all) = json(NAME, &decoded)? else { return Ok(Vec::new()) };
    Ok(all
        .into_iter()
        .map(|(name, mut endpoints)| (name, endpoints.get_mut(0).map(Value::take).unwrap_or_default()))
        .collect())
}

fn chosen(variables: &Variables<'_>, all: &[(String, Value)], wanted: fn(Engine, bool) -> bool) -> Vec<Seen> {
    let mut seen = Vec::new();
    for (name, endpoint) in all {
        let Some(engine) = engine(endpoint) else { continue };
        if wanted(engine, name.to_ascii_lowercase().contains("session")) {
            let url = understand(name, endpoint, engine, variables);
            seen.push(Seen::new(vec![NAME.to_owned()], url).part(format!("relationship {name}")));
        }
    }
    seen
}

fn engine(endpoint: &Value) -> Option<Engine> {
    let word = text(endpoint, "scheme")
        .or_else(|| Some(text(endpoint, "type")?.split([':', '-']).next()?.to_owned()))?;
    match kind(&word) {
        Kind::Engine(engine) => Some(engine),
        Kind::DynamoDb | Kind::Sql | Kind::Other => None,
    }
}

fn understand(name: &str, endpoint: &Value, engine: Engine, variables: &Variables<'_>) -> Result<StoreUrl> {
    let about = format!("{NAME}, relationship {name}");
    let host = text(endpoint, "host").ok_or_else(|| {
        config(format!("{about}: the host is missing")).hint("name the store in SESSION_STORE_URL")
    })?;
    let number = text(endpoint, "port").map(|number| port(&about, &number)).transpose()?;
    let (user, password) = (text(endpoint, "username"), text(endpoint, "password"));
    match engine {
        Engine::Redis => Ok(Parts {
            tls: matches!(text(endpoint, "scheme").as_deref(), Some("rediss" | "valkeys")),
            host,
            port: number,
            user,
            password,
            database: text(endpoint, "path").and_then(|path| path.trim_matches('/').parse().ok()),
        }
        .redis()),
        Engine::Memcached => {
            let value = number.map(|number| format!("{host}:{number}")).unwrap_or(host);
            memcached_url(&Variable { name: about, value }, user, password, variables.0)
        }
    }
}
