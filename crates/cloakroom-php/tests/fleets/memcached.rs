//! Fleets on Memcached, over a network that is never twice equally fast.

use std::time::Duration;

use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::php::Script;
use testbed::proxy::Proxy;
use testbed::suite::{Case, case};
use testbed::wait_until;

use crate::journal::{Journal, Load};
use crate::place::{MEMCACHED_PREFIX, script};

pub(crate) fn cases() -> Vec<Case> {
    let ours = &[Need::Php, Need::Memcached];
    let mixed = &[Need::Php, Need::Memcached, Need::PhpIgbinary, Need::PhpMemcached];
    let half = "half_of_them_php_memcached_lose_no_update_and_leave_no_lock";
    vec![
        case(format!("memcached: {half}"), mixed, || half_of_them_native(Servers::start(&[1]))),
        case(format!("memcached, ring of three: {half}"), mixed, || {
            half_of_them_native(Servers::start(&[1, 3, 2]))
        }),
        case("memcached, ring of three: it_loses_no_update_and_resurrects_nothing", ours, a_ring_of_ours),
        case("memcached: what_php_memcached_overwrites_is_its_own_doing", mixed, native_locks_that_run_out),
    ]
}

const KEEPING: Load = Load { destroy: false, longest: Duration::from_millis(2) };
const DESTROYING: Load = Load { destroy: true, ..KEEPING };
/// Longer than a lock of a second lasts.
const SLOW: Load = Load { longest: Duration::from_millis(2500), ..KEEPING };

/// Every other worker is ours.
fn is_ours(worker: u64) -> bool {
    worker.is_multiple_of(2)
}

fn half_of_them_native(servers: Servers) {
    let journal = Journal::of(KEEPING, |worker, code| match worker % 4 {
        0 => servers.ours(code),
        2 => servers.drop_in(code),
        _ => servers.native(code),
    });
    journal.refused_nothing_to(is_ours);
    // Its locks last until they are released, on the command line: not even it loses something then.
    assert_eq!(servers.lost(&journal), 0);
}

fn a_ring_of_ours() {
    let servers = Servers::start(&[1, 3, 2]);
    let journal = Journal::of(DESTROYING, |_, code| servers.ours(code).ini("session.use_strict_mode", "1"));
    journal.refused_nothing_to(|_| true);
    assert!(journal.destroyed_some());
    assert_eq!(servers.lost(&journal), 0);
}

/// Locks of php-memcached have no owner: once they have run out, it removes and overwrites what is another's.
fn native_locks_that_run_out() {
    let servers = Servers::start(&[1]);
    let short = |code: &str| servers.native(code).ini("memcached.sess_lock_expire", "1");
    println!("php-memcached alone");
    let alone = Journal::of(SLOW, |_, code| short(code));
    let lost = servers.lost_of(&alone);
    println!("{} lost", lost.len());

    println!("half of them Cloakroom");
    let journal = Journal::of(SLOW, |worker, code| match is_ours(worker) {
        true => servers.ours(code),
        false => short(code),
    });
    let lost = servers.lost_of(&journal);
    println!("{} lost", lost.len());
    let ours: Vec<_> = lost.iter().filter(|lost| lost.is_by(is_ours)).collect();
    assert!(ours.is_empty(), "Cloakroom overwrote: {ours:#?}");
    assert_eq!(journal.refused_for_nothing(is_ours).len(), 0, "{:#?}", journal.refused_for_nothing(is_ours));
    servers.have_no_lock_of_ours();
}

/// Servers behind proxies, in a list with ports and weights.
struct Servers {
    servers: Vec<(Memcached, Proxy)>,
    list: String,
}

impl Servers {
    fn start(weights: &[u32]) -> Servers {
        let servers: Vec<(Memcached, Proxy)> = weights
            .iter()
            .map(|_| {
                let server = Memcached::start();
                let proxy = Proxy::to(server.address());
                proxy.delay(Duration::from_micros(200), Duration::from_micros(3800));
                (server, proxy)
            })
            .collect();
        let entry = |(weight, (_, proxy)): (&u32, &(_, Proxy))| format!("{}:{weight}", proxy.address());
        let list: Vec<String> = weights.iter().zip(&servers).map(entry).collect();
        Servers { list: list.join(","), servers }
    }

    fn ours(&self, code: &str) -> Script {
        patient(script(&format!("memcached://{}", self.list), code))
    }

    /// In the place of php-memcached, by its configuration.
    fn drop_in(&self, code: &str) -> Script {
        patient(script(&self.list, code))
            .ini("session.save_handler", "memcached")
            .ini("cloakroom.drop_in", "memcached")
    }

    /// php-memcached at its defaults.
    fn native(&self, code: &str) -> Script {
        Script::new(code)
            .module("igbinary.so")
            .module("msgpack.so")
            .module("memcached.so")
            .ini("session.save_handler", "memcached")
            .ini("session.save_path", &self.list)
            .ini("session.use_cookies", "0")
            .ini("session.use_only_cookies", "0")
            .ini("session.cache_limiter", "")
    }

    fn lost(&self, journal: &Journal) -> usize {
        self.have_no_lock_of_ours();
        self.lost_of(journal).len()
    }

    fn lost_of(&self, journal: &Journal) -> Vec<crate::journal::Lost> {
        journal.lost(|id| {
            let key = format!("{MEMCACHED_PREFIX}{id}");
            let values: Vec<Vec<u8>> =
                self.servers.iter().filter_map(|(server, _)| server.get(&key)).collect();
            assert!(values.len() <= 1, "{key} is on several servers");
            values.into_iter().next().map(|value| String::from_utf8(value).unwrap())
        })
    }

    /// Nobody waits for the answer to a release on another server than the session's: it may still be on its way.
    fn have_no_lock_of_ours(&self) {
        let ours = |server: &Memcached, key: &str| {
            let holder = server.get(key).unwrap_or_default();
            key.starts_with(&format!("{MEMCACHED_PREFIX}lock.")) && holder.starts_with(b"cloakroom:")
        };
        wait_until("no lock of ours is left", LEASE / 10, || {
            !self.servers.iter().any(|(server, _)| server.keys().iter().any(|key| ours(server, key)))
        });
    }
}

/// So long that none ends by itself while the test looks.
const LEASE: Duration = Duration::from_secs(300);

/// Waits for any lock, and keeps its own.
fn patient(script: Script) -> Script {
    script.ini("cloakroom.lock_wait", "60").ini("cloakroom.lease", LEASE.as_secs())
}
