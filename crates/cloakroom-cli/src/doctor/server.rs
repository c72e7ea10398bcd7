//! A store, used for real: its names, its ports, one session's life, how long it takes, and how it is set up.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use cloakroom::stores::dynamodb;
use cloakroom::{Deadline, Environment, Error, Extent, Gravity, StoreUrl, stores};

use super::findings::{self as kinds, Finding};
use super::judge::kind_of;
use super::progress::during;
use crate::check;
use crate::store::settings;

/// How often the round trip is measured.
const ROUNDS: usize = 20;

/// From here on a round trip is slow.
const SLOW: Duration = Duration::from_millis(50);

/// How long one port is tried.
const PATIENCE: Duration = Duration::from_secs(3);

/// What was seen of a store that answers: the time of one exchange, and what settings outside of its URL came to.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Half of them were faster.
    pub(super) p50: Duration,
    /// 99 of 100 were faster; of twenty, that is the slowest.
    pub(super) p99: Duration,
    pub(super) resolved: Vec<(&'static str, String)>,
}

/// What is wrong with a store, and how fast it answers where it does. Each step is only taken after the one before went
/// well: of one cause there is one finding.
pub(super) fn look(url: &StoreUrl, environment: &Environment) -> (Vec<Finding>, Option<Seen>) {
    let found = reach(url, environment);
    if !found.is_empty() {
        return (found, None);
    }
    if let Err(error) = during(&format!("trying out {url}"), || check::try_out(url, environment)) {
        return (vec![of(&error)], None);
    }
    match during(&format!("measuring {url}"), || measure(url, environment)) {
        Err(error) => (vec![of(&error)], None),
        Ok((mut found, seen)) => {
            if seen.p50 > SLOW {
                let what = format!("{url}: a round trip takes {} ms (p50)", seen.p50.as_millis());
                found.push(Finding::problem(
                    kinds::SLOW,
                    what,
                    "move the store closer, or look for what is between",
                ));
            }
            (found, Some(seen))
        }
    }
}

/// An error of the library as a finding: its hint is what to change.
pub(super) fn of(error: &Error) -> Finding {
    let text = error.to_string();
    let (what, hint) = text.split_once("\nhint: ").unwrap_or((&text, "see docs/doctor.md"));
    Finding::problem(kind_of(error), what, hint)
}

/// Names are resolved and ports tried before the store is: what is wrong there is told apart.
fn reach(url: &StoreUrl, environment: &Environment) -> Vec<Finding> {
    let mut found = Vec::new();
    for Place { host, port, setting } in places(url, environment) {
        let resolved = during(&format!("resolving {host}"), || (host.as_str(), port).to_socket_addrs());
        let addresses = resolved.map(Iterator::collect::<Vec<_>>).unwrap_or_default();
        if addresses.is_empty() {
            let what = format!("{url}: the name {host} cannot be resolved");
            let change =
                format!("correct the {setting} in session.save_path, or add it to DNS (getent hosts {host})");
            found.push(Finding::problem(kinds::NAME, what, change));
            continue;
        }
        let tried = during(&format!("connecting to {host}:{port}"), || {
            addresses.iter().map(|address| TcpStream::connect_timeout(address, PATIENCE)).collect::<Vec<_>>()
        });
        if tried.iter().all(Result::is_err) {
            let error =
                tried.into_iter().find_map(Result::err).map(|error| error.to_string()).unwrap_or_default();
            let what = format!("{url}: cannot connect to {host}:{port}: {error}");
            let change =
                "start the server, open the port in its firewall, or correct it in session.save_path";
            found.push(Finding::problem(kinds::PORT, what, change));
        }
    }
    found
}

/// What is connected to.
struct Place {
    host: String,
    port: u16,
    /// What of session.save_path it comes from.
    setting: &'static str,
}

fn places(url: &StoreUrl, environment: &Environment) -> Vec<Place> {
    if url.scheme == "dynamodb" {
        return service(url, environment).into_iter().collect();
    }
    let of = |server| {
        let scheme = url.scheme_of(server);
        let host = server.host.clone().filter(|_| !scheme.contains("unix") && scheme != "file")?;
        let port = server.port.unwrap_or(match scheme {
            scheme if scheme.contains("sentinel") => 26379,
            scheme if scheme.contains("memcached") => 11211,
            _ => 6379,
        });
        Some(Place { host, port, setting: "host" })
    };
    url.servers.iter().filter_map(of).collect()
}

/// Where AWS answers for a region, or whoever is named in its place; nothing where only AWS's chain knows the region.
fn service(url: &StoreUrl, environment: &Environment) -> Option<Place> {
    let options = dynamodb::Options::parse(url).ok()?;
    let asked =
        ["AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"].into_iter().find_map(|name| environment.var(name));
    if let Some(endpoint) = options.endpoint().or(asked) {
        let (scheme, rest) = endpoint.split_once("://")?;
        let authority = rest.split(['/', '?']).next()?;
        let default = if scheme == "http" { 80 } else { 443 };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, default),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        return Some(Place { host, port, setting: "endpoint" });
    }
    let named = ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|name| environment.var(name));
    let region = options.region().or(named)?;
    // The others have names of their own, and are not on the Internet.
    let domain = match region {
        region if region.starts_with("cn-") => "amazonaws.com.cn",
        region if region.contains("-iso") || region.starts_with("eusc-") => return None,
        _ => "amazonaws.com",
    };
    Some(Place { host: format!("dynamodb.{region}.{domain}"), port: 443, setting: "region" })
}

fn measure(url: &StoreUrl, environment: &Environment) -> Result<(Vec<Finding>, Seen), Error> {
    let by = || Deadline::after(Duration::from_secs(10));
    let mut store = stores::open(url, settings(environment))?;
    let id = check::random_id()?;
    store.exists(&id, by())?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        store.exists(&id, by())?;
        times.push(start.elapsed());
    }
    times.sort();
    let resolved = store.resolved(by())?;
    let seen = Seen { p50: times[ROUNDS / 2], p99: times[ROUNDS - 1], resolved };
    let found = store.inspect(Extent::Whole, by())?.into_iter().map(|finding| {
        let what = format!("{}: {}", finding.place, finding.what);
        match finding.gravity {
            _ if finding.what.contains("expired sessions stay") => {
                Finding::problem(kinds::GC, what, finding.hint)
            }
            _ if finding.what.contains("clock") => Finding::problem(kinds::SKEW, what, finding.hint),
            Gravity::Unsafe => Finding::problem(kinds::UNSAFE, what, finding.hint),
            Gravity::Risk => Finding::problem(kinds::RISK, what, finding.hint),
            Gravity::Note => Finding::note(kinds::NOTE, what, finding.hint),
        }
    });
    Ok((found.collect(), seen))
}
