//! Azure: connection strings, `host:6380,password=KEY=,ssl=True`, or URLs.

use super::seen::{Seen, Variable, Variables, config, port};
use super::target::{Engine, Parts};
use crate::{Result, StoreUrl};

pub(super) fn look(variables: &Variables<'_>) -> Vec<Seen> {
    let service_connector = "AZURE_REDIS_CONNECTIONSTRING";
    let app_service = variables.names().filter(|name| name.starts_with("REDISCACHECONNSTR_"));
    let mut seen: Vec<Seen> = std::iter::once(service_connector)
        .chain(app_service.filter(|name| !name.ends_with("_FILE")))
        .filter_map(|name| match variables.get(name) {
            Ok(None) => None,
            Ok(Some(variable)) => {
                Some(Seen::new(vec![variable.name.clone()], understand(&variable, variables)))
            }
            Err(error) => Some(Seen::broken(name, error)),
        })
        .collect();
    if seen.is_empty() && variables.plain("AZURE_REDIS_HOST").is_some() {
        seen.push(Seen::never(
            "AZURE_REDIS_HOST",
            "a managed identity has no password, and none is asked for",
        ));
    }
    seen
}

fn understand(variable: &Variable, variables: &Variables<'_>) -> Result<StoreUrl> {
    if variable.value.contains("://") {
        return Engine::Redis.parse(variable, variables.0);
    }
    let wrong = |what: &str| {
        let hint = "it is host:6380,password=...,ssl=True, or rediss://:...@host:6380";
        config(format!("{}: {what}", variable.name)).hint(hint)
    };
    let mut parts = Parts::default();
    for piece in variable.value.split(',').map(str::trim).filter(|piece| !piece.is_empty()) {
        let Some((name, value)) = piece.split_once('=') else {
            if !parts.host.is_empty() {
                return Err(wrong("there are several hosts"));
            }
            let (host, number) = match piece.split_once(':') {
                Some((host, number)) => (host, Some(port(&variable.name, number)?)),
                None => (piece, None),
            };
            parts.host = host.to_owned();
            parts.port = number;
            continue;
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "password" => parts.password = Some(value.to_owned()),
            "user" => parts.user = Some(value.to_owned()),
            "ssl" => parts.tls = value.eq_ignore_ascii_case("true"),
            "defaultdatabase" => {
                parts.database = Some(value.parse().map_err(|_| wrong("the database is not a number"))?);
            }
            // abortConnect, connectTimeout, ...: about .NET's client.
            _ => {}
        }
    }
    match parts.host.is_empty() {
        true => Err(wrong("the host is missing")),
        false => Ok(parts.redis()),
    }
}
