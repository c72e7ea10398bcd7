//! What a server says of its set-up, and which sessions it names.

use std::collections::BTreeSet;
use std::net::TcpStream;

use cloakroom::{ErrorKind, Extent, Gravity};
use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::suite::{Case, case};

use crate::worker::soon;
use crate::{MEMCACHED, store};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_sound_server_forgets_and_evicts_and_it_is_noted", MEMCACHED, noted),
        case("what_a_server_evicted_or_refused_is_a_risk", MEMCACHED, risks),
        case("a_server_without_room_for_clients_is_a_risk", MEMCACHED, few_connections),
        case("a_server_that_counts_no_versions_is_unsafe", MEMCACHED, no_versions),
        case("other_sizes_of_items_are_noted", MEMCACHED, item_sizes),
        case("the_sessions_of_all_servers_are_named_once", MEMCACHED, named_once),
        case("a_server_that_dumps_nothing_names_no_session", MEMCACHED, no_dump),
        case("a_server_with_sasl_says_the_same", &[Need::MemcachedSasl], sasl),
        case("other_links_say_the_same", MEMCACHED, other_links),
        case("the_binary_protocol_names_no_session", MEMCACHED, binary_names_nothing),
    ]
}

fn url(server: &Memcached) -> String {
    format!("memcached://{}", server.address())
}

/// The findings of these gravities, as texts.
#[track_caller]
fn found(server: &Memcached, gravity: Gravity) -> Vec<String> {
    let findings = store(&url(server)).inspect(Extent::Whole, soon()).unwrap();
    assert!(findings.iter().all(|finding| finding.place == url(server)), "{findings:#?}");
    findings.into_iter().filter(|finding| finding.gravity == gravity).map(|finding| finding.what).collect()
}

/// What is said of a server with which all is well.
const SOUND: [&str; 2] = [
    "the server keeps sessions in memory alone: a restart logs everybody out",
    "once its 64 MB are full, the server removes the sessions that were not used for longest",
];

fn noted() {
    let server = Memcached::start();
    assert_eq!(found(&server, Gravity::Note), SOUND);
    assert_eq!((found(&server, Gravity::Risk), found(&server, Gravity::Unsafe)), (vec![], vec![]));
    // A worker asks none that it has not used.
    assert_eq!(store(&url(&server)).inspect(Extent::Connected, soon()).unwrap(), []);
}

fn sasl() {
    let server = Memcached::sasl();
    let findings = store(&server.url()).inspect(Extent::Whole, soon()).unwrap();
    let texts: Vec<String> = findings.into_iter().map(|finding| finding.what).collect();
    assert_eq!(texts, SOUND);
    let mut store = store(&server.url());
    assert!(!store.guarantees().listing);
    assert_eq!(store.list(&mut |_| true, soon()).unwrap_err().kind(), ErrorKind::Unsupported);
}

fn other_links() {
    let servers = [Memcached::unix(), Memcached::tls(), Memcached::start()];
    let urls: Vec<String> = servers.iter().map(Memcached::url).collect();
    for url in [
        urls[0].clone(),
        urls[1].clone(),
        format!("{}?protocol=binary", urls[2]),
        format!("{}?protocol=ascii", urls[2]),
    ] {
        let findings = store(&url).inspect(Extent::Whole, soon()).unwrap();
        let texts: Vec<String> = findings.into_iter().map(|finding| finding.what).collect();
        assert_eq!(texts, SOUND, "{url}");
    }
}

/// More than fits into its memory.
fn fill(server: &Memcached) {
    let value = "x".repeat(500_000);
    for number in 0..20 {
        server.command(&format!("set big{number} 0 0 {}\r\n{value}", value.len()));
    }
}

fn risks() {
    let evicting = Memcached::with(&["-m", "4"]);
    fill(&evicting);
    let evicted = evicting.stat("evictions");
    let told = format!(
        "the server has removed {evicted} items before their time, to make room in its 4 MB: sessions are among them, if \
         it has any"
    );
    assert_eq!((evicted > 0, found(&evicting, Gravity::Risk)), (true, vec![told]));

    let refusing = Memcached::with(&["-m", "4", "-M"]);
    fill(&refusing);
    let refused = refusing.stat("store_no_memory");
    let told = format!("the server has refused to store {refused} items: its 4 MB are full (-M)");
    assert_eq!((refused > 0, found(&refusing, Gravity::Risk)), (true, vec![told]));
}

fn few_connections() {
    let server = Memcached::with(&["-c", "200"]);
    let mut open = Vec::new();
    // Some are kept for itself.
    while server.stat("curr_connections") + server.stat("reserved_fds") < 182 {
        open.push(TcpStream::connect(server.address()).unwrap());
    }
    let risks = found(&server, Gravity::Risk);
    assert!(risks.len() == 1 && risks[0].starts_with("of the server's 200 connections, "), "{risks:?}");
    drop(open);
}

fn no_versions() {
    let server = Memcached::with(&["-C"]);
    assert_eq!(
        found(&server, Gravity::Unsafe),
        ["the server counts no versions (-C): a late writer cannot be refused"]
    );
}

fn item_sizes() {
    let server = Memcached::with(&["-I", "4m"]);
    let told = "the server takes sessions of up to 4194304 bytes, not 1048576 (-I)";
    assert_eq!(found(&server, Gravity::Note)[2], told);
}

fn named_once() {
    let servers = [Memcached::start(), Memcached::start()];
    let mut expected = BTreeSet::new();
    for (index, server) in servers.iter().enumerate() {
        for number in 0..300 {
            // Of several sizes: they are in several slabs.
            let id = format!("{index}a,b-{number}");
            server.set(&format!("memc.sess.key.{id}"), "x".repeat(number * 10));
            expected.insert(id);
        }
        for other in ["memc.sess.key.lock.abc", "memc.sess.key.wait.abc", "memc.sess.abc", "another", "x%y"] {
            server.set(other, "1");
        }
    }
    let mut store = store(&format!("{},{}", url(&servers[0]), servers[1].address()));
    assert!(store.guarantees().listing);
    let mut named = Vec::new();
    store
        .list(
            &mut |id| {
                named.push(id.as_str().to_owned());
                true
            },
            soon(),
        )
        .unwrap();
    assert_eq!(named.len(), expected.len());
    assert_eq!(BTreeSet::from_iter(named), expected);
    // What it answers after it was told to stop is not taken for the next answer.
    let mut count = 0;
    store
        .list(
            &mut |_| {
                count += 1;
                count < 3
            },
            soon(),
        )
        .unwrap();
    assert_eq!(count, 3);
    assert_eq!(store.inspect(Extent::Connected, soon()).unwrap().len(), 2);
}

fn no_dump() {
    let server = Memcached::with(&["-X"]);
    let error = store(&url(&server)).list(&mut |_| true, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("hint: start it without -X"), "{error}");
}

fn binary_names_nothing() {
    let server = Memcached::start();
    let mut store = store(&format!("{}?protocol=binary", url(&server)));
    assert!(!store.guarantees().listing);
    let error = store.list(&mut |_| true, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("protocol=ascii"), "{error}");
}
