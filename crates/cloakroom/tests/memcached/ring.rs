//! Several servers, each with the sessions that php-memcached keeps there.

use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::php::Script;
use testbed::suite::{Case, case};

use crate::store;
use crate::worker::{id, soon};

pub(crate) fn cases() -> Vec<Case> {
    let beside = &[Need::Memcached, Need::Php, Need::PhpMemcached];
    let agree =
        |name: &str, servers: usize, sessions: usize, settings: &'static [(&str, &str)], options: &str| {
            let name = format!("ring: php-memcached and we have a session on the same server, {name}");
            let options = options.to_owned();
            case(name, beside, move || {
                php_memcached_and_we_agree(some(servers), sessions, settings, &options);
            })
        };
    vec![
        agree("with one server", 1, 500, &[], ""),
        agree("with three of odd ports and weights", 3, 10_000, &[], ""),
        agree(
            "with three and ketama_weighted",
            3,
            2000,
            &[("memcached.sess_consistent_hash_type", "ketama_weighted")],
            "?distribution=ketama_weighted",
        ),
        agree(
            "with three and no consistent hash",
            3,
            2000,
            &[("memcached.sess_consistent_hash", "0")],
            "?distribution=modula",
        ),
        case(
            "ring: php-memcached and we have a session on the same server, with three sockets",
            beside,
            || {
                let weighted = &[("memcached.sess_consistent_hash_type", "ketama_weighted")];
                php_memcached_and_we_agree(sockets(), 1000, &[], "");
                php_memcached_and_we_agree(sockets(), 1000, weighted, "?distribution=ketama_weighted");
            },
        ),
        case(
            "ring: what php-memcached moves away from a dead server is where we look for it",
            beside,
            what_php_memcached_moves_away_from_a_dead_server_is_where_we_look_for_it,
        ),
    ]
}

/// Servers, and the list of them with the weights 1, 3 and 2.
fn some(count: usize) -> (Vec<Memcached>, String) {
    let servers: Vec<Memcached> = (0..count).map(|_| Memcached::start()).collect();
    let members = servers.iter().zip([1, 3, 2]);
    let list: Vec<String> =
        members.map(|(server, weight)| format!("{}:{weight}", server.address())).collect();
    (servers, list.join(","))
}

/// The same by their sockets.
fn sockets() -> (Vec<Memcached>, String) {
    let servers: Vec<Memcached> = (0..3).map(|_| Memcached::unix()).collect();
    let members = servers.iter().zip([1, 3, 2]);
    let list: Vec<String> = members
        .map(|(server, weight)| format!("{}:0:{weight}", server.url().trim_start_matches("memcached://")))
        .collect();
    (servers, list.join(","))
}

/// Writes sessions by php-memcached, and prints their ids.
fn script(list: &str, sessions: usize) -> Script {
    let code = "
        for ($i = 0; $i < (int) getenv('SESSIONS'); $i++) {
            session_id(substr(strtr(base64_encode(md5((string) $i, true)), '+/', ',-'), 0, 21 + $i % 2));
            session_start();
            $_SESSION['n'] = $i;
            session_write_close();
            echo session_id(), \"\\n\";
        }";
    Script::new(code)
        .env("SESSIONS", sessions)
        .module("igbinary.so")
        .module("msgpack.so")
        .module("memcached.so")
        .ini("session.save_handler", "memcached")
        .ini("session.save_path", list)
        // The connections stay: ten thousand sessions in seconds.
        .ini("memcached.sess_persistent", "1")
        .ini("session.use_cookies", "0")
        .ini("session.use_only_cookies", "0")
        .ini("session.cache_limiter", "")
}

fn php_memcached_and_we_agree(
    (servers, list): (Vec<Memcached>, String),
    sessions: usize,
    settings: &[(&str, &str)],
    options: &str,
) {
    let mut script = script(&list, sessions);
    for (name, value) in settings {
        script = script.ini(name, value);
    }
    let printed = script.run().ok();
    let ids: Vec<&str> = printed.lines().collect();
    assert_eq!(ids.len(), sessions);
    let shares: Vec<u64> = servers.iter().map(|server| server.stat("curr_items")).collect();
    println!("php-memcached keeps {shares:?} of {sessions} sessions on its servers");
    assert_eq!(shares.iter().sum::<u64>(), sessions as u64);
    // How much of a ring a server has depends on its port.
    assert!(shares.iter().all(|share| *share > sessions as u64 / 50), "{shares:?}");
    let mut store = store(&format!("memcached://{list}{options}"));
    for session in ids {
        assert!(store.exists(&id(session), soon()).unwrap(), "{session} is on another server");
    }
}

fn what_php_memcached_moves_away_from_a_dead_server_is_where_we_look_for_it() {
    for kind in ["ketama", "ketama_weighted"] {
        let servers: Vec<Memcached> = (0..4).map(|_| Memcached::start()).collect();
        let list = servers.iter().map(Memcached::address).collect::<Vec<_>>().join(",");
        servers[1].kill();
        let printed = script(&list, 400)
            .ini("memcached.sess_consistent_hash_type", kind)
            .ini("memcached.sess_remove_failed_servers", "1")
            .ini("memcached.sess_server_failure_limit", "1")
            // It tells of the first failure.
            .ini("display_errors", "0")
            .run()
            .ok();
        let stored: u64 = [0, 2, 3].iter().map(|at| servers[*at].stat("curr_items")).sum();
        // After two seconds it tries the dead server again, and then for good.
        assert!(stored > 200, "php-memcached kept {stored} of 400 sessions");
        let mut store = store(&format!("memcached://{list}?remove_failed_servers=1&distribution={kind}"));
        // A session that it could not begin has no id.
        let sessions = printed.lines().filter(|session| !session.is_empty());
        let found = sessions.filter(|session| store.exists(&id(session), soon()).unwrap()).count();
        assert_eq!(found as u64, stored, "{kind}");
    }
}
