//! Memcached: the add-ons' lists of servers, Laravel's parts, and URLs.

use super::seen::{Seen, Variable, Variables, port};
use super::target::{self, Engine};
use super::urls;
use crate::{Result, StoreUrl};

pub(super) fn of_add_ons(variables: &Variables<'_>) -> Vec<Seen> {
    ["MEMCACHIER", "MEMCACHEDCLOUD"]
        .iter()
        .filter_map(|prefix| with_prefix(variables, prefix, "SERVERS"))
        .collect()
}

pub(super) fn named(variables: &Variables<'_>) -> Vec<Seen> {
    let urls = ["MEMCACHED_URL", "MEMCACHED_DSN"]
        .iter()
        .filter_map(|name| urls::url(variables, name, Engine::Memcached));
    urls.chain(with_prefix(variables, "MEMCACHED", "HOST")).collect()
}

/// `PREFIX_SERVERS` or `PREFIX_HOST`, with `PREFIX_PORT`, `PREFIX_USERNAME` and `PREFIX_PASSWORD`.
pub(super) fn with_prefix(variables: &Variables<'_>, prefix: &str, servers: &str) -> Option<Seen> {
    let name = format!("{prefix}_{servers}");
    let mut from = Vec::new();
    let url = assemble(variables, prefix, &name, &mut from).transpose()?;
    Some(Seen::new(if from.is_empty() { vec![name] } else { from }, url))
}

fn assemble(
    variables: &Variables<'_>,
    prefix: &str,
    servers: &str,
    from: &mut Vec<String>,
) -> Result<Option<StoreUrl>> {
    let Some(servers) = variables.get(servers)? else { return Ok(None) };
    from.push(servers.name.clone());
    let mut take = |part: &str| -> Result<Option<Variable>> {
        let name = format!("{prefix}_{part}");
        let variable = if part == "PORT" { variables.port(&name)? } else { variables.get(&name)? };
        from.extend(variable.iter().map(|variable| variable.name.clone()));
        Ok(variable)
    };
    let on = take("PORT")?;
    let user = take("USERNAME")?.map(|variable| variable.value);
    let password = take("PASSWORD")?.map(|variable| variable.value);
    let mut url = target::memcached(&servers, user, password, variables.0)?;
    if let (Some(on), [only]) = (on, &mut url.servers[..]) {
        only.port = Some(port(&on.name, &on.value)?);
    }
    Ok(Some(url))
}
