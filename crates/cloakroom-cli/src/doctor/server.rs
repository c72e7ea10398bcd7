//! A store, used for real: its names, its ports, one session's life, how long it takes, and how it is set up.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use cloakroom::{Deadline, Error, Extent, Gravity, Settings, StoreUrl, stores};

use super::findings::{self as kinds, Finding};
use super::judge::kind_of;
use super::progress::during;
use crate::check;

/// How often the round trip is measured.
const ROUNDS: usize = 20;

/// From here on a round trip is slow.
const SLOW: Duration = Duration::from_millis(50);

/// How long one port is tried.
const PATIENCE: Duration = Duration::from_secs(3);

/// The time of one exchange.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latency {
    /// Half of them were faster.
    pub(super) p50: Duration,
    /// 99 of 100 were faster; of twenty, that is the slowest.
    pub(super) p99: Duration,
}

/// What is wrong with a store, and how fast it answers where it does. Each step is only taken after the one before went
/// well: of one cause there is one finding.
pub(super) fn look(url: &StoreUrl) -> (Vec<Finding>, Option<Latency>) {
    let found = reach(url);
    if !found.is_empty() {
        return (found, None);
    }
    if let Err(error) = during(&format!("trying out {url}"), || check::try_out(url)) {
        return (vec![of(&error)], None);
    }
    match during(&format!("measuring {url}"), || measure(url)) {
        Err(error) => (vec![of(&error)], None),
        Ok((mut found, latency)) => {
            if latency.p50 > SLOW {
                let what = format!("{url}: a round trip takes {} ms (p50)", latency.p50.as_millis());
                found.push(Finding::problem(
                    kinds::SLOW,
                    what,
                    "move the store closer, or look for what is between",
                ));
            }
            (found, Some(latency))
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
fn reach(url: &StoreUrl) -> Vec<Finding> {
    let mut found = Vec::new();
    for server in &url.servers {
        let scheme = url.scheme_of(server);
        let Some(host) = server.host.as_deref().filter(|_| !scheme.contains("unix") && scheme != "file")
        else {
            continue;
        };
        let port = server.port.unwrap_or(match scheme {
            scheme if scheme.contains("sentinel") => 26379,
            scheme if scheme.contains("memcached") => 11211,
            _ => 6379,
        });
        let resolved = during(&format!("resolving {host}"), || (host, port).to_socket_addrs());
        let addresses = match resolved.map(Iterator::collect::<Vec<_>>) {
            Ok(addresses) if !addresses.is_empty() => addresses,
            Ok(_) => Vec::new(),
            Err(_) => Vec::new(),
        };
        if addresses.is_empty() {
            let what = format!("{url}: the name {host} cannot be resolved");
            let change =
                format!("correct the host in session.save_path, or add it to DNS (getent hosts {host})");
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

fn measure(url: &StoreUrl) -> Result<(Vec<Finding>, Latency), Error> {
    let by = || Deadline::after(Duration::from_secs(10));
    let mut store = stores::open(url, Settings::default())?;
    let id = check::random_id()?;
    store.exists(&id, by())?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        store.exists(&id, by())?;
        times.push(start.elapsed());
    }
    times.sort();
    let latency = Latency { p50: times[ROUNDS / 2], p99: times[ROUNDS - 1] };
    let found = store.inspect(Extent::Whole, by())?.into_iter().map(|finding| {
        let what = format!("{}: {}", finding.place, finding.what);
        match finding.gravity {
            _ if finding.what.contains("clock") => Finding::problem(kinds::SKEW, what, finding.hint),
            Gravity::Unsafe => Finding::problem(kinds::UNSAFE, what, finding.hint),
            Gravity::Risk => Finding::problem(kinds::RISK, what, finding.hint),
            Gravity::Note => Finding::note(kinds::NOTE, what, finding.hint),
        }
    });
    Ok((found.collect(), latency))
}
