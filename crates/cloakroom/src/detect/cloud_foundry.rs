//! Cloud Foundry, as its PHP buildpack looks: a service of any label whose *name* contains `redis-sessions` or
//! `memcached-sessions`, or what `REDIS_SESSION_STORE_SERVICE_NAME` and `MEMCACHED_SESSION_STORE_SERVICE_NAME` say
//! instead, in the environment or in the application's `.bp-config/options.json`. Redis comes before Memcached.
//!
//! Better than there: the order of services in the JSON decides nothing, an empty password is none, and a service that has
//! only a `uri` will do.

use std::path::Path;

use serde_json::Value;

use super::seen::{Found, Seen, Variable, Variables, config, json, port, read, text};
use super::target::{Engine, Parts, memcached};
use crate::{Result, StoreUrl};

const SERVICES: &str = "VCAP_SERVICES";
const FILE: &str = "VCAP_SERVICES_FILE_PATH";

const BOTH: &str = "services for sessions in Redis and in Memcached are bound, and Redis is used
hint: unbind the other, or rename it";

pub(super) fn look(variables: &Variables<'_>) -> Vec<Seen> {
    let (name, value) = match services(variables) {
        Ok(Some(found)) => found,
        Ok(None) => return Vec::new(),
        Err((name, error)) => return vec![Seen::broken(name, error)],
    };
    let triggers = match Triggers::of(variables) {
        Ok(triggers) => triggers,
        Err(error) => return vec![Seen::broken(name, error)],
    };
    let mut seen = Vec::new();
    let mut memcached = Vec::new();
    let labels = value.as_object().into_iter().flatten();
    for (label, service) in
        labels.flat_map(|(label, all)| all.as_array().into_iter().flatten().map(move |one| (label, one)))
    {
        let Some(called) = text(service, "name") else { continue };
        let part = format!("service {called}");
        let from = || vec![name.to_owned()];
        if called.contains(&triggers.redis) {
            seen.push(
                Seen::new(from(), redis_url(name, &part, &service["credentials"], variables)).part(part),
            );
        } else if called.contains(&triggers.memcached) {
            memcached.push(
                Seen::new(from(), memcached_url(name, &part, &service["credentials"], variables)).part(part),
            );
        } else if let Some(trigger) = triggers.nearly(label, service) {
            seen.push(Seen::never(name, format!("its name does not contain {trigger}")).part(part));
        }
    }
    // As the buildpack: not a choice between equals.
    let for_sessions = |seen: &&mut Seen| !matches!(seen.found, Found::Never(_));
    for redis in seen.iter_mut().filter(for_sessions) {
        for other in &mut memcached {
            other.found = Found::Never("on Cloud Foundry, Redis comes before Memcached".into());
            redis.notice = Some(BOTH);
        }
    }
    seen.extend(memcached);
    seen
}

type Named<T> = (&'static str, T);

fn services(variables: &Variables<'_>) -> Result<Option<Named<Value>>, Named<crate::Error>> {
    if let Some(text) = variables.plain(SERVICES) {
        return Ok(Some((SERVICES, json(SERVICES, text.as_bytes()).map_err(|error| (SERVICES, error))?)));
    }
    let Some(path) = variables.plain(FILE) else { return Ok(None) };
    let value = read(FILE, path).and_then(|text| json(FILE, text.as_bytes()));
    value.map(|value| Some((FILE, value))).map_err(|error| (FILE, error))
}

/// What a service's name must contain.
struct Triggers {
    redis: String,
    memcached: String,
}

impl Triggers {
    fn of(variables: &Variables<'_>) -> Result<Self> {
        let options = match variables.plain("HOME") {
            Some(home) => options(home)?,
            None => Value::Null,
        };
        let trigger = |name: &str, usual: &str| match variables.plain(name) {
            Some(value) => value.to_owned(),
            None => text(&options, name).unwrap_or_else(|| usual.to_owned()),
        };
        Ok(Triggers {
            redis: trigger("REDIS_SESSION_STORE_SERVICE_NAME", "redis-sessions"),
            memcached: trigger("MEMCACHED_SESSION_STORE_SERVICE_NAME", "memcached-sessions"),
        })
    }

    /// What the name of a service of Redis or Memcached would have to contain.
    fn nearly(&self, label: &str, service: &Value) -> Option<&str> {
        let tags = service["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let words = || tags.clone().chain([label]).chain(service["name"].as_str());
        let any = |word: &str| words().any(|text| text.to_ascii_lowercase().contains(word));
        match (any("redis") || any("valkey"), any("memcache")) {
            (true, _) => Some(&self.redis),
            (false, true) => Some(&self.memcached),
            (false, false) => None,
        }
    }
}

/// The buildpack's options: a running application's home is its directory, that of a shell beside it is the one above.
fn options(home: &str) -> Result<Value> {
    for directory in ["", "app"] {
        let path = Path::new(home).join(directory).join(".bp-config/options.json");
        match std::fs::read(&path) {
            Ok(text) => return json(&path.display().to_string(), &text),
            // What is not there, or not ours to see.
            Err(_) => continue,
        }
    }
    Ok(Value::Null)
}

fn redis_url(name: &str, part: &str, credentials: &Value, variables: &Variables<'_>) -> Result<StoreUrl> {
    let about = format!("{name}, {part}");
    let uri = text(credentials, "uri").or_else(|| text(credentials, "url"));
    let host = text(credentials, "hostname").or_else(|| text(credentials, "host"));
    let by_tls = |uri: &str| uri.starts_with("rediss://") || uri.starts_with("valkeys://");
    match (host, uri) {
        (_, Some(uri)) if by_tls(&uri) => {
            Engine::Redis.parse(&Variable { name: about, value: uri }, variables.0)
        }
        (None, Some(uri)) => Engine::Redis.parse(&Variable { name: about, value: uri }, variables.0),
        (Some(host), _) => Ok(Parts {
            host,
            port: text(credentials, "port").map(|number| port(&about, &number)).transpose()?,
            password: text(credentials, "password"),
            ..Parts::default()
        }
        .redis()),
        (None, None) => Err(missing(&about, "host")),
    }
}

fn memcached_url(name: &str, part: &str, credentials: &Value, variables: &Variables<'_>) -> Result<StoreUrl> {
    let about = format!("{name}, {part}");
    let value = text(credentials, "servers").ok_or_else(|| missing(&about, "list of servers"))?;
    let (user, password) = (text(credentials, "username"), text(credentials, "password"));
    memcached(&Variable { name: about, value }, user, password, variables.0)
}

fn missing(about: &str, what: &str) -> crate::Error {
    config(format!("{about}: the {what} is missing from its credentials"))
        .hint("bind the service again, or name the store in SESSION_STORE_URL")
}
