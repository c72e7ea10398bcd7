//! Service bindings for Kubernetes: a directory for each in `$SERVICE_BINDING_ROOT`, with a file for each value. One without
//! the file `type` is no binding. Paketo's `php-redis-session` and `php-memcached-session` are among the types.

use std::path::{Path, PathBuf};

use super::seen::{Seen, Variable, Variables, config, port, shown};
use super::target::{Engine, Parts, memcached as memcached_url};
use crate::{Result, Secret, StoreUrl};

const ROOT: &str = "SERVICE_BINDING_ROOT";

const READABLE: &str = "it must be readable by the user that PHP runs as";

/// Those that somebody called the sessions'; also where a directory that cannot be read is told of.
pub(super) fn sessions(variables: &Variables<'_>) -> Vec<Seen> {
    // Images set the variable whether or not anything is bound.
    if variables.plain(ROOT).is_some_and(|root| !Path::new(root).exists()) {
        return vec![Seen::never(ROOT, "there is no such directory")];
    }
    match bindings(variables) {
        Ok(all) => chosen(variables, all, |binding| binding.for_sessions),
        Err(error) => vec![Seen::broken(ROOT, error)],
    }
}

pub(super) fn redis(variables: &Variables<'_>) -> Vec<Seen> {
    let all = bindings(variables).unwrap_or_default();
    chosen(variables, all, |binding| !binding.for_sessions && binding.engine == Engine::Redis)
}

pub(super) fn memcached(variables: &Variables<'_>) -> Vec<Seen> {
    let all = bindings(variables).unwrap_or_default();
    chosen(variables, all, |binding| !binding.for_sessions && binding.engine == Engine::Memcached)
}

struct Binding {
    name: String,
    directory: PathBuf,
    engine: Engine,
    /// Paketo's type, which has defaults.
    of_paketo: bool,
    for_sessions: bool,
}

fn bindings(variables: &Variables<'_>) -> Result<Vec<Binding>> {
    let Some(root) = variables.plain(ROOT) else { return Ok(Vec::new()) };
    let unreadable = |error: std::io::Error| {
        config(format!("{ROOT}: cannot read the directory{}", shown(root))).source(error).hint(READABLE)
    };
    let mut directories = Vec::new();
    for entry in std::fs::read_dir(root).map_err(unreadable)? {
        directories.push(entry.map_err(unreadable)?.path());
    }
    directories.sort();
    Ok(directories.into_iter().filter_map(Binding::of).collect())
}

fn chosen(variables: &Variables<'_>, all: Vec<Binding>, wanted: fn(&Binding) -> bool) -> Vec<Seen> {
    all.into_iter()
        .filter(wanted)
        .map(|binding| {
            let part = format!("binding {}", binding.name);
            Seen::new(vec![ROOT.to_owned()], binding.understand(variables)).part(part)
        })
        .collect()
}

impl Binding {
    fn of(directory: PathBuf) -> Option<Binding> {
        let name = directory.file_name()?.to_str()?.to_owned();
        // Kubernetes keeps what is being changed in directories of its own.
        if name.starts_with('.') {
            return None;
        }
        // One that cannot be read may be anything: an error, unless a higher rank names a store.
        let kind = value(&directory, "type").unwrap_or_else(|_| Some("redis".into()))?;
        let (engine, of_paketo) = match kind.as_str() {
            "php-redis-session" => (Engine::Redis, true),
            "php-memcached-session" => (Engine::Memcached, true),
            "redis" | "valkey" => (Engine::Redis, false),
            "memcached" => (Engine::Memcached, false),
            _ => return None,
        };
        let for_sessions = of_paketo || name.to_ascii_lowercase().contains("session");
        Some(Binding { name, directory, engine, of_paketo, for_sessions })
    }

    fn understand(&self, variables: &Variables<'_>) -> Result<StoreUrl> {
        let about = format!("{ROOT}, binding {}", self.name);
        let value = |name: &str| {
            value(&self.directory, name).map_err(|error| {
                config(format!("{about}: cannot read the file {name}")).source(error).hint(READABLE)
            })
        };
        value("type")?;
        let either = |names: [&str; 2]| {
            Ok(match value(names[0])? {
                Some(first) => Some(first),
                None => value(names[1])?,
            })
        };
        let missing = |what: &str| {
            config(format!("{about}: the {what} is missing")).hint("name the store in SESSION_STORE_URL")
        };
        let (user, password) = (value("username")?, value("password")?);
        match self.engine {
            Engine::Redis => {
                let mut url = match value("uri")? {
                    Some(uri) => {
                        Engine::Redis.parse(&Variable { name: about.clone(), value: uri }, variables.0)?
                    }
                    None => {
                        let default = || self.of_paketo.then(|| "127.0.0.1".to_owned());
                        let host =
                            either(["host", "hostname"])?.or_else(default).ok_or_else(|| missing("host"))?;
                        let number = value("port")?.map(|number| port(&about, &number)).transpose()?;
                        Parts { host, port: number, user, password, ..Parts::default() }.redis()
                    }
                };
                self.present_certificate(&mut url);
                Ok(url)
            }
            Engine::Memcached => {
                let list = match either(["servers", "uri"])? {
                    Some(list) => list,
                    None => {
                        let host = either(["host", "hostname"])?.ok_or_else(|| missing("host"))?;
                        value("port")?.map(|number| format!("{host}:{number}")).unwrap_or(host)
                    }
                };
                memcached_url(&Variable { name: about, value: list }, user, password, variables.0)
            }
        }
    }

    /// The specification's `certificates` and `private-key` are the client's.
    fn present_certificate(&self, url: &mut StoreUrl) {
        let (certificates, key) = (self.directory.join("certificates"), self.directory.join("private-key"));
        if matches!(url.scheme.as_str(), "rediss" | "valkeys") && certificates.is_file() && key.is_file() {
            for (name, path) in [("local_cert", certificates), ("local_pk", key)] {
                url.set(name, Secret::new(path.to_string_lossy()), ROOT);
            }
        }
    }
}

/// A value of a binding, without the white space around it.
fn value(directory: &Path, name: &str) -> std::io::Result<Option<String>> {
    match std::fs::read_to_string(directory.join(name)) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(None),
        Err(error) => Err(error),
    }
}
