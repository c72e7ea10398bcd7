//! What a session costs on the wire, counted by a proxy between PHP and the server.

// A test stops at the first thing that is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod place;

use std::time::Duration;

use place::{ID, MEMCACHED_PREFIX, Place, on_dynamodb_proxy, script};
use testbed::dynamodb;
use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::php::Script;
use testbed::proxy::Proxy;
use testbed::suite::{self, Case, case};
use testbed::wait_until;

fn main() {
    let costs: [(&str, &str, usize); 9] = [
        (
            "a_changed_session_costs_two_exchanges",
            "session_start(); $_SESSION['n']++; session_write_close();",
            2,
        ),
        ("an_unchanged_session_costs_two_exchanges", "session_start(); session_write_close();", 2),
        (
            "a_new_session_costs_two_exchanges",
            "session_id('new'); session_start(); session_write_close();",
            2,
        ),
        ("read_and_close_costs_one_exchange", "session_start(['read_and_close' => true]);", 1),
        (
            "a_changed_session_in_strict_mode_costs_two_exchanges",
            "ini_set('session.use_strict_mode', 1); session_start(); $_SESSION['n']++; session_write_close();",
            2,
        ),
        (
            "read_and_close_in_strict_mode_costs_one_exchange",
            "ini_set('session.use_strict_mode', 1); session_start(['read_and_close' => true]);",
            1,
        ),
        ("an_aborted_session_costs_two_exchanges", "session_start(); session_abort();", 2),
        ("a_destroyed_session_costs_two_exchanges", "session_start(); session_destroy();", 2),
        (
            "a_regenerated_id_costs_two_exchanges_more",
            "session_start(); session_regenerate_id(true); session_write_close();",
            4,
        ),
    ];
    let redis = costs.into_iter().map(|(name, code, cost)| {
        case(format!("redis: {name}"), &[Need::Php, Need::Redis], move || costs_exchanges(code, cost))
    });
    let memcached = costs.into_iter().flat_map(|(name, code, cost)| {
        ["ascii", "meta", "binary"].map(|protocol| {
            let name = format!("memcached, {protocol}: {name}");
            case(name, MEMCACHED, move || costs_exchanges_of_memcached(protocol, code, cost))
        })
    });
    let dynamodb = costs.into_iter().map(|(name, code, cost)| {
        on_dynamodb_proxy(name, move |proxy, place| costs_requests(proxy, place, code, cost))
    });
    let mut cases: Vec<Case> = redis.chain(memcached).chain(dynamodb).collect();
    cases.extend([
        case("memcached: the_protocol_is_found_out_once_a_worker", MEMCACHED, protocol_is_found_out_once),
        case(
            "memcached: a_lock_on_another_server_costs_one_exchange_more",
            MEMCACHED,
            lock_on_another_server,
        ),
        case("memcached: lock_own_costs_two_exchanges_on_any_ring", MEMCACHED, lock_on_the_same_server),
        case("memcached: the_release_on_another_server_is_not_waited_for", MEMCACHED, release_is_not_awaited),
    ]);
    suite::run(cases)
}

const MEMCACHED: &[Need] = &[Need::Php, Need::Memcached];

/// A script whose exchanges are counted: a lease so long that no renewal comes in between, however slow the machine is.
fn counted(save_path: &str, code: &str) -> Script {
    script(save_path, code).ini("cloakroom.lease", "300").ini("cloakroom.lease_max", "300")
}

fn costs_exchanges(code: &str, cost: usize) {
    let place = Place::redis();
    let Place::Redis(server) = &place else { unreachable!("it was just made") };
    let proxy = Proxy::to(server.address());
    let save_path = format!("tcp://{}", proxy.address());
    // The server learns the scripts from the first session it ever sees.
    counted(&save_path, "session_id(ID); session_start(); $_SESSION['n'] = 1; session_write_close();")
        .run()
        .ok();
    proxy.reset_counts();
    let said = counted(
        &save_path,
        &format!(
            "$_SESSION = []; session_id(ID); {code}
            echo cloakroom_status()['exchanges'];"
        ),
    );
    assert_eq!(said.run().ok(), cost.to_string(), "by our own count");
    assert_eq!(proxy.exchanges(), cost, "on the wire: {:#?}", proxy.requests());
    assert_eq!(proxy.connections(), 1);
}

fn costs_exchanges_of_memcached(protocol: &str, code: &str, cost: usize) {
    let server = Memcached::start();
    server.set(&format!("{MEMCACHED_PREFIX}{ID}"), "n|i:1;");
    let proxy = Proxy::to(server.address());
    let save_path = format!("memcached://{}?protocol={protocol}", proxy.address());
    let said = counted(
        &save_path,
        &format!(
            "session_id(ID); {code}
            echo cloakroom_status()['exchanges'];"
        ),
    );
    assert_eq!(said.run().ok(), cost.to_string(), "by our own count");
    assert_eq!(proxy.exchanges(), cost, "on the wire: {:#?}", proxy.requests());
    assert_eq!(proxy.connections(), 1);
}

fn costs_requests(proxy: &dynamodb::Proxy, place: &Place, code: &str, cost: usize) {
    place.store(ID, b"n|i:1;");
    let code = format!(
        "session_id(ID); {code}
        echo json_encode([cloakroom_status()['exchanges'], array_sum(array_column(cloakroom_status()['units'], 'requests'))]);"
    );
    assert_eq!(counted(&place.save_path(), &code).run().ok(), format!("[{cost},{cost}]"), "by our own count");
    assert_eq!(proxy.seen().len(), cost, "on the wire: {:#?}", proxy.operations());
    assert_eq!(proxy.connections(), 1);
}

const CHANGE: &str = "session_id($id); session_start(); $_SESSION['n'] = 1; session_write_close();";

fn protocol_is_found_out_once() {
    let server = Memcached::start();
    let proxy = Proxy::to(server.address());
    let code = format!("foreach (['a1', 'a2', 'a3'] as $id) {{ {CHANGE} }}");
    counted(&format!("memcached://{}", proxy.address()), &code).run().ok();
    let exchanges = proxy.exchanges();
    assert!(exchanges <= 3 * 2 + 1, "on the wire: {:#?}", proxy.requests());
}

/// A ring of three, each behind a proxy.
struct Ring {
    servers: Vec<(Memcached, Proxy)>,
    save_path: String,
}

impl Ring {
    fn start(options: &str) -> Ring {
        let server = |_| {
            let server = Memcached::start();
            let proxy = Proxy::to(server.address());
            (server, proxy)
        };
        let servers: Vec<(Memcached, Proxy)> = (0..3).map(server).collect();
        let hosts: Vec<String> = servers.iter().map(|(_, proxy)| proxy.address()).collect();
        Ring { save_path: format!("memcached://{}?protocol=meta{options}", hosts.join(",")), servers }
    }

    /// The servers that a session and its lock are on.
    fn places_of(&self, id: &str) -> (usize, usize) {
        let asked = |key: String| {
            let asked_for = |request: &Vec<u8>| {
                request.split(|byte| b" \r\n".contains(byte)).any(|word| word == key.as_bytes())
            };
            let server = self.servers.iter().position(|(_, proxy)| proxy.requests().iter().any(asked_for));
            server.unwrap_or_else(|| panic!("nobody was asked for {key}"))
        };
        (asked(format!("{MEMCACHED_PREFIX}{id}")), asked(format!("{MEMCACHED_PREFIX}lock.{id}")))
    }

    /// Changes a session: its id, and the exchanges by our own count and on the wire.
    fn cost(&self, number: usize) -> (String, usize, usize) {
        let id = format!("a{number}");
        let before: usize = self.servers.iter().map(|(_, proxy)| proxy.exchanges()).sum();
        let code = format!("$id = '{id}'; {CHANGE} echo cloakroom_status()['exchanges'];");
        let own = counted(&self.save_path, &code).run().ok().parse().unwrap();
        // The last one is on its way when PHP ends.
        let now = || self.servers.iter().map(|(_, proxy)| proxy.exchanges()).sum::<usize>() - before;
        let (session, lock) = (format!("{MEMCACHED_PREFIX}{id}"), format!("{MEMCACHED_PREFIX}lock.{id}"));
        wait_until("the lock is released", Duration::from_secs(30), || {
            let keys: Vec<String> = self.servers.iter().flat_map(|(server, _)| server.keys()).collect();
            keys.contains(&session) && !keys.contains(&lock)
        });
        (id, own, now())
    }
}

fn lock_on_another_server() {
    let ring = Ring::start("");
    let (mut together, mut apart) = (0, 0);
    // The servers' ports decide, and those are others every time: it may take more than twenty until there is one of each.
    while together + apart < 20 || together == 0 || apart == 0 {
        assert!(together + apart < 500, "of {together} locks none, or of {apart} all, are on another server");
        let (id, own, wire) = ring.cost(together + apart);
        let (session, lock) = ring.places_of(&id);
        match session == lock {
            true => {
                together += 1;
                assert_eq!((own, wire), (2, 2), "{id}");
            }
            // The fourth is the release, whose answer nobody waits for.
            false => {
                apart += 1;
                assert_eq!((own, wire), (3, 4), "{id}");
            }
        }
    }
}

fn lock_on_the_same_server() {
    let ring = Ring::start("&lock=own");
    for (id, own, wire) in (0..20).map(|number| ring.cost(number)) {
        let (session, lock) = ring.places_of(&id);
        assert_eq!((session, own, wire), (lock, 2, 2), "{id}");
    }
}

fn release_is_not_awaited() {
    let ring = Ring::start("");
    let apart = |id: &String| {
        let (session, lock) = ring.places_of(id);
        session != lock
    };
    let id = (0..500).map(|number| ring.cost(number).0).find(apart).expect("a lock on another server");
    let (_, lock) = ring.places_of(&id);
    let code = format!(
        "$id = '{id}'; session_id($id); session_start(); echo 'holding '; fgets(STDIN);
        $_SESSION['n'] = 2; session_write_close();
        echo cloakroom_status()['last_commit'];"
    );
    let running =
        counted(&ring.save_path, &code).ini("output_buffering", "0").ini("cloakroom.timeout", "300").spawn();
    running.wait_for("holding");
    let proxy = &ring.servers[lock].1;
    proxy.stall(true);
    running.say("go on");
    // Nothing comes from the lock's server any more, and nobody minds.
    running.wait_for("written");
    proxy.stall(false);
    running.finish().ok();
    wait_until("the lock is released", Duration::from_secs(30), || {
        !ring.servers[lock].0.keys().contains(&format!("{MEMCACHED_PREFIX}lock.{id}"))
    });
}
