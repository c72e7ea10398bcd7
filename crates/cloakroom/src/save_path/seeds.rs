//! phpredis' way to name a cluster: `seed[]=h1:p1&seed[]=h2:p2&timeout=2&auth=...`.

use super::{Param, Server, StoreUrl, wrong};
use crate::Result;

/// Whether this is the name of such a list's first option: no URL's, and no directory's.
pub(super) fn are_named_in(text: &str) -> bool {
    let first = text.split('=').next().unwrap_or_default();
    let seed = |piece: &str| {
        let name = piece.split('=').next().unwrap_or_default().to_ascii_lowercase();
        name == "seed" || name.starts_with("seed[") || name.starts_with("seed%5b")
    };
    !first.contains([':', '/', '?']) && text.split('&').any(seed)
}

/// The URL that means the same. As there, options for TLS turn TLS on, and so does a seed that begins with `tls://`.
pub(super) fn understand(params: Vec<Param>) -> Result<StoreUrl> {
    let mut servers: Vec<Server> = Vec::new();
    let mut kept = Vec::new();
    let mut encrypted = false;
    for param in params {
        if param.name != "seed" && !(param.name.starts_with("seed[") && param.name.ends_with(']')) {
            encrypted |= param.name.starts_with("stream[") || param.name.starts_with("ssl[");
            kept.push(param);
            continue;
        }
        let value = param.value.reveal();
        let (scheme, place) = value.split_once("://").unwrap_or(("tcp", value));
        encrypted |= match scheme {
            "tcp" => false,
            "tls" | "ssl" => true,
            _ => return Err(param.refused("host:port, or tls://host:port")),
        };
        let mut server = Server::default();
        super::parse::native_host_and_port(place, param.at + param.name.chars().count(), &mut server)?;
        if server.host.is_none() || server.port.is_none() {
            return Err(param.refused("host:port"));
        }
        servers.push(server);
    }
    let Some(first) = servers.first_mut() else {
        return Err(wrong(0, "the list of seeds is empty", "write seed[]=host:port"));
    };
    first.params = kept;
    let scheme = if encrypted { "rediss+cluster" } else { "redis+cluster" };
    Ok(StoreUrl { scheme: scheme.into(), servers })
}
