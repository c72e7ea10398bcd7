//! Which nodes are asked for what.

use std::time::Duration;

use cloakroom::{Access, Change, Deadline, ErrorKind};
use testbed::cluster::Cluster;
use testbed::need::Need;
use testbed::php::Script;
use testbed::proxy::Proxy;
use testbed::redis::Redis;
use testbed::suite::Case;
use testbed::wait_until;

use super::{case, key, lock_key, neighbour_of, shared};
use crate::worker::{LIFETIME, id, increment, lock, lock_at_once, put, read, soon};
use crate::{LIMIT, LONG, REDIS, leased, store};

pub(crate) fn cases() -> Vec<Case> {
    let native = &[Need::Redis, Need::Php, Need::PhpRedis, Need::PhpIgbinary][..];
    vec![
        case("a_session_and_its_lock_share_a_slot", REDIS, a_session_and_its_lock_share_a_slot),
        case("a_tag_in_the_prefix_is_the_tag_of_the_lock", REDIS, a_tag_in_the_prefix_is_the_tag_of_the_lock),
        case("only_the_nodes_needed_are_connected", REDIS, only_the_nodes_needed_are_connected),
        case("each_request_costs_two_exchanges", REDIS, each_request_costs_two_exchanges),
        case("any_node_leads_to_all", REDIS, any_node_leads_to_all),
        case(
            "a_user_without_cluster_slots_is_led_by_moved",
            REDIS,
            a_user_without_cluster_slots_is_led_by_moved,
        ),
        case(
            "every_node_wants_the_password_and_speaks_tls",
            REDIS,
            every_node_wants_the_password_and_speaks_tls,
        ),
        case("phpredis_shares_the_sessions_of_a_cluster", native, phpredis_shares_the_sessions_of_a_cluster),
        case("a_server_without_a_cluster_says_so", REDIS, a_server_without_a_cluster_says_so),
        case("a_node_of_a_cluster_says_so", REDIS, a_node_of_a_cluster_says_so),
        case("a_dead_master_is_replaced_within_a_request", REDIS, a_dead_master_is_replaced_within_a_request),
        case("a_frozen_master_is_replaced_for_the_next_request", REDIS, a_frozen_master_is_replaced),
        case("a_cluster_that_is_down_is_an_error_at_once", REDIS, a_cluster_that_is_down_is_an_error_at_once),
        case(
            "a_dead_master_holds_up_only_its_own_sessions",
            REDIS,
            a_dead_master_holds_up_only_its_own_sessions,
        ),
        case("a_release_that_was_cut_is_no_error", REDIS, a_release_that_was_cut_is_no_error),
    ]
}

fn a_session_and_its_lock_share_a_slot() {
    let cluster = shared();
    let mut store = store(&cluster.url());
    let (_, hold) = lock(store.as_mut(), &id("share"));
    let owner = cluster.owner_of(&key("share"));
    assert_eq!(owner.command(&["EXISTS", &lock_key("share")]), "1");
    store.commit(&id("share"), hold, Change::Write(b"x|i:1;", LIFETIME), soon()).unwrap();
    assert_eq!(owner.command(&["GET", &key("share")]), "x|i:1;");
    assert_eq!(owner.command(&["EXISTS", &lock_key("share")]), "0");
}

fn a_tag_in_the_prefix_is_the_tag_of_the_lock() {
    let cluster = shared();
    let mut store = store(&format!("{}?prefix=a{{tag}}:", cluster.url()));
    let (_, hold) = lock(store.as_mut(), &id("one"));
    let owner = cluster.owner_of("{tag}");
    assert_eq!(owner.command(&["EXISTS", "a{tag}:one_LOCK"]), "1");
    store.commit(&id("one"), hold, Change::Write(b"x", LIFETIME), soon()).unwrap();
    assert_eq!(owner.command(&["GET", "a{tag}:one"]), "x");
}

fn only_the_nodes_needed_are_connected() {
    let cluster = shared();
    let mut store = store(&cluster.url());
    let first = cluster.nodes()[0].address();
    let there = |at: &str| cluster.owner_of(&key(at)).address() == first;
    let near = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"].into_iter().find(|at| there(at)).unwrap();
    put(store.as_mut(), &id(near), b"x");
    put(store.as_mut(), &id(&neighbour_of(near, cluster)), b"x");
    assert_eq!(store.counters().connects, 1, "{near}");
    let far = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"].into_iter().find(|at| !there(at)).unwrap();
    put(store.as_mut(), &id(far), b"x");
    assert_eq!(store.counters().connects, 2, "{far}");
}

fn each_request_costs_two_exchanges() {
    let mut store = store(&shared().url());
    for session in ["e0", "e1", "e2", "e3"] {
        put(store.as_mut(), &id(session), b"n|i:0;");
    }
    let before = store.counters().exchanges;
    for session in ["e0", "e1", "e2", "e3"] {
        let (_, hold) = lock_at_once(store.as_mut(), &id(session));
        store.commit(&id(session), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
    }
    assert_eq!(store.counters().exchanges - before, 8);
}

fn any_node_leads_to_all() {
    let cluster = shared();
    for node in cluster.masters() {
        let mut store = store(&format!("redis+cluster://{}", node.address()));
        for session in ["a0", "a1", "a2", "a3", "a4", "a5"] {
            put(store.as_mut(), &id(session), session.as_bytes());
        }
    }
    // Those that do not answer are passed over.
    let mut store = store(&format!("seed[]=127.0.0.1:{}&{}", testbed::free_port(), cluster.native()));
    for session in ["a0", "a1", "a2", "a3", "a4", "a5"] {
        assert_eq!(read(store.as_mut(), &id(session)), Some(session.as_bytes().to_vec()));
    }
}

fn a_user_without_cluster_slots_is_led_by_moved() {
    let cluster = shared();
    for node in cluster.nodes() {
        let user = ["ACL", "SETUSER", "led", "on", ">pw", "~*", "+@all", "-cluster"];
        assert_eq!(node.command(&user), "OK");
    }
    let mut store = store(&cluster.url().replace("://", "://led:pw@"));
    for session in ["l0", "l1", "l2", "l3", "l4", "l5"] {
        increment(store.as_mut(), &id(session), crate::worker::EXCLUSIVE).unwrap();
        assert_eq!(increment(store.as_mut(), &id(session), crate::worker::EXCLUSIVE).unwrap(), 2);
    }
    let before = store.counters().exchanges;
    increment(store.as_mut(), &id("l0"), crate::worker::EXCLUSIVE).unwrap();
    assert_eq!(store.counters().exchanges - before, 2);
    let refused = store.list(&mut |_| true, soon()).unwrap_err();
    assert!(refused.to_string().contains("CLUSTER SLOTS"), "{refused}");
}

fn every_node_wants_the_password_and_speaks_tls() {
    let cluster = Cluster::tls(&["--requirepass", "p#&+,% w", "--masterauth", "p#&+,% w"]);
    let authority = cluster.authority();
    let url = cluster.url().replace("://", "://:p%23%26%2B%2C%25%20w@");
    let mut ours = store(&format!("{url}?cafile={}", authority.display()));
    for session in ["t0", "t1", "t2", "t3", "t4", "t5"] {
        put(ours.as_mut(), &id(session), session.as_bytes());
    }
    let native = format!(
        "{}&auth=p%23%26%2B%2C%25%20w&stream[cafile]={}&stream[verify_peer_name]=1",
        cluster.native(),
        authority.display()
    );
    let mut as_native = store(&native);
    for session in ["t0", "t1", "t2", "t3", "t4", "t5"] {
        assert_eq!(read(as_native.as_mut(), &id(session)), Some(session.as_bytes().to_vec()));
    }
    let mut unknown = store(&format!("{}?cafile={}", cluster.url(), authority.display()));
    let refused = unknown.open(&id("t0"), Access::ReadOnly, soon()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Auth, "{refused}");
    assert!(!refused.to_string().contains("p#&"), "{refused}");
}

fn phpredis_shares_the_sessions_of_a_cluster() {
    let cluster = shared();
    let script = |code: &str| {
        let script = Script::new(code).module("igbinary.so").module("redis.so");
        script
            .ini("session.save_handler", "rediscluster")
            .ini("session.save_path", cluster.native())
            .run()
            .ok()
    };
    let mut ours = store(&cluster.native());
    script("session_id('theirs'); session_start(); $_SESSION['n'] = 7;");
    assert_eq!(read(ours.as_mut(), &id("theirs")), Some(b"n|i:7;".to_vec()));
    put(ours.as_mut(), &id("ours"), b"n|i:8;");
    let theirs = script("session_id('ours'); session_start(); echo $_SESSION['n']; session_destroy();");
    assert_eq!((theirs.as_str(), read(ours.as_mut(), &id("ours"))), ("8", None));
}

fn a_server_without_a_cluster_says_so() {
    let redis = Redis::start();
    let mut store = store(&format!("redis+cluster://{}", redis.address()));
    let error = store.open(&id("abc"), Access::ReadOnly, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("write redis://"), "{error}");
}

fn a_node_of_a_cluster_says_so() {
    let cluster = shared();
    let other = cluster.other_than_owner_of(&key("abc").replace("CLUSTER_", ""));
    let mut store = store(&format!("redis://{}", other.address()));
    let error = store.open(&id("abc"), Access::ReadOnly, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("write redis+cluster://"), "{error}");
}

fn a_dead_master_is_replaced_within_a_request() {
    let cluster = Cluster::with_replicas();
    let mut store = leased(&cluster.url(), LONG);
    put(store.as_mut(), &id("died"), b"n|i:1;");
    let (_, hold) = lock_at_once(store.as_mut(), &id("died"));
    let master = cluster.owner_of(&key("died"));
    let replica = cluster.replica_of(master);
    wait_until("the replica has the lock", LIMIT, || {
        replica.command(&["DBSIZE"]) == master.command(&["DBSIZE"])
    });
    cluster.node_timeout(Duration::from_millis(500));
    master.kill();
    store.commit(&id("died"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(replica.command(&["GET", &key("died")]), "n|i:2;");
    assert!(store.counters().retries > 0);
    assert_eq!(increment(store.as_mut(), &id("died"), crate::worker::EXCLUSIVE).unwrap(), 3);
}

fn a_frozen_master_is_replaced() {
    let cluster = Cluster::with_replicas();
    let mut store = store(&format!("{}?read_timeout=2", cluster.url()));
    put(store.as_mut(), &id("frozen"), b"n|i:1;");
    let master = cluster.owner_of(&key("frozen"));
    let replica = cluster.replica_of(master);
    wait_until("the replica has it", LIMIT, || replica.command(&["DBSIZE"]) == "1");
    cluster.node_timeout(Duration::from_millis(500));
    master.freeze();
    let error = store.open(&id("frozen"), Access::ReadOnly, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains(&master.address()), "{error}");
    wait_until("the replica is the master", LIMIT, || replica.command(&["ROLE"]).starts_with("master"));
    cluster.agreed();
    assert_eq!(read(store.as_mut(), &id("frozen")), Some(b"n|i:1;".to_vec()));
    master.thaw();
}

/// A lock that cannot be released now is no reason to keep everybody else waiting.
fn a_dead_master_holds_up_only_its_own_sessions() {
    let cluster = Cluster::with(&["--cluster-require-full-coverage", "no"]);
    let mut store = store(&cluster.url());
    let (_, hold) = lock(store.as_mut(), &id("lost"));
    let master = cluster.owner_of(&key("lost"));
    let elsewhere = |at: &&str| cluster.owner_of(&key(at)).id() != master.id();
    let far = ["f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7"].into_iter().find(elsewhere).unwrap();
    put(store.as_mut(), &id(far), b"n|i:1;");
    master.kill();
    let brief = Deadline::after(Duration::from_millis(200));
    store.commit(&id("lost"), hold, Change::Write(b"n|i:1;", LIFETIME), brief).unwrap_err();
    // Long after anybody would wait.
    let late = Deadline::after(Duration::from_secs(3600));
    for _ in 0..3 {
        let opened = store.open(&id(far), crate::worker::EXCLUSIVE, late).unwrap();
        store.commit(&id(far), opened.hold, Change::Write(b"n|i:2;", LIFETIME), late).unwrap();
    }
}

/// A user who does not see the slots stays with the node that the URL names, which is behind a proxy here.
fn a_release_that_was_cut_is_no_error() {
    let cluster = shared();
    let owner = cluster.owner_of(&key("cut"));
    assert_eq!(owner.command(&["ACL", "SETUSER", "led", "on", ">pw", "~*", "+@all", "-cluster"]), "OK");
    let proxy = Proxy::to(owner.address());
    let mut store = store(&format!("redis+cluster://led:pw@{}", proxy.address()));
    put(store.as_mut(), &id("cut"), b"n|i:1;");
    let (_, hold) = lock(store.as_mut(), &id("cut"));
    proxy.cut_at_reply(1);
    store.commit(&id("cut"), hold, Change::Keep, soon()).unwrap();
    assert!(!proxy.cut_pending());
    assert_eq!(owner.command(&["EXISTS", &lock_key("cut")]), "0");
}

fn a_cluster_that_is_down_is_an_error_at_once() {
    let cluster = Cluster::start();
    let mut store = store(&cluster.url());
    put(store.as_mut(), &id("down"), b"x");
    let (_, hold) = lock_at_once(store.as_mut(), &id("down"));
    for node in cluster.nodes() {
        node.kill();
    }
    // Long after anybody would wait.
    let late = Deadline::after(Duration::from_secs(3600));
    let error = store.commit(&id("down"), hold, Change::Write(b"y", LIFETIME), late).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    let error = store.open(&id("down"), Access::ReadOnly, late).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("cannot connect to 127.0.0.1:"), "{error}");
}
