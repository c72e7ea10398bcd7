//! Symfony's way to name several servers: `redis:?host[h1:26379]&host[h2]&redis_sentinel=master`, `redis_cluster=1`.

use super::{Param, Server, StoreUrl, wrong};
use crate::Result;

/// Turns Symfony's options into the schemes that mean the same, with all hosts as servers; `at` is where hosts stand.
pub(super) fn understand(url: &mut StoreUrl, at: usize) -> Result<()> {
    // `parse` never builds a URL without a server.
    let mut first = url.servers.remove(0);
    let mut hosts = Vec::new();
    let mut sentinel: Option<Param> = None;
    let mut cluster: Option<Param> = None;
    let mut kept = Vec::new();
    for param in std::mem::take(&mut first.params) {
        match param.name.as_str() {
            "redis_sentinel" | "sentinel_master" => match sentinel {
                Some(_) => return Err(param.repeated()),
                None if param.value.reveal().is_empty() || param.value.reveal().contains('/') => {
                    return Err(param.refused("the name that the sentinels know the servers by"));
                }
                None => sentinel = Some(param),
            },
            "redis_cluster" => match cluster {
                Some(_) => return Err(param.repeated()),
                None => cluster = Some(param),
            },
            _ => match host(&param)? {
                Some(server) => hosts.push((param.at - 1, server)),
                None => kept.push(param),
            },
        }
    }
    first.params = kept;
    let clustered = match &cluster {
        Some(param) => param.switch()?,
        None => false,
    };
    if let Some(param) = sentinel.as_ref().filter(|_| clustered) {
        return Err(wrong(
            param.at - 1,
            "a cluster has no sentinels",
            "keep redis_sentinel= or redis_cluster=",
        ));
    }
    let several = clustered || sentinel.is_some();
    let mut listed = hosts.into_iter();
    // Hosts that are only in the list: the first of them takes what holds for all.
    if first.host.is_none()
        && first.path.is_empty()
        && let Some((_, alone)) = listed.next()
    {
        first.host = alone.host;
        first.port = alone.port;
        first.path = alone.path;
    }
    let mut servers = vec![first];
    for (at, server) in listed {
        if !several {
            return Err(wrong(
                at,
                "several hosts are a cluster or sentinels",
                "add redis_cluster=1 or redis_sentinel=NAME; write a pool as tcp://host1,tcp://host2",
            ));
        }
        servers.push(server);
    }
    if several && servers.iter().any(|server| server.host.is_none()) {
        return Err(wrong(
            at,
            "sentinels and clusters are reached by host and port",
            "name hosts, not sockets",
        ));
    }
    if clustered {
        url.scheme.push_str("+cluster");
    }
    if let Some(name) = sentinel {
        url.scheme.push_str("+sentinel");
        servers[0].path = format!("/{}{}", name.value.reveal(), servers[0].path);
    }
    url.servers = servers;
    Ok(())
}

/// The server of `host[h:port]` or `host[/socket]`.
fn host(param: &Param) -> Result<Option<Server>> {
    let Some(inside) = param.name.strip_prefix("host[").and_then(|rest| rest.strip_suffix(']')) else {
        return Ok(None);
    };
    let refused = |what: &str| {
        Err(wrong(param.at - 1, what, "write host[name:port], host[[::1]:6379] or host[/socket]"))
    };
    if !param.value.reveal().is_empty() {
        return refused("a host of the list has no options of its own");
    }
    if inside.starts_with('/') {
        let path = inside.trim_end_matches(':').to_owned();
        return Ok(Some(Server { path, ..Server::default() }));
    }
    let mut server = Server::default();
    super::parse::host_and_port(inside, param.at + 4, &mut server)?;
    match server.host {
        Some(_) => Ok(Some(server)),
        None => refused("the host is missing"),
    }
}
