//! A LAMP cluster: sessions in a shared directory, in Memcached, or in Redis with a password and a database of their own.

use testbed::TempDir;
use testbed::fleet::writable;
use testbed::http::Browser;
use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::redis::Redis;
use testbed::suite::{Case, case};

use crate::setup::{Handler, Reach, Setup};

pub(crate) fn cases() -> Vec<Case> {
    let fleet = [Need::Php, Need::PhpFpm, Need::Nginx];
    let with = |needs: &[Need]| [&fleet[..], needs].concat();
    let memcached_native = with(&[Need::Memcached, Need::PhpMemcached, Need::PhpIgbinary]);
    let redis_native = with(&[Need::Redis, Need::PhpRedis, Need::PhpIgbinary]);
    vec![
        case("lamp, a shared directory: by Cloakroom", &fleet, || directory(Handler::Cloakroom, "cloakroom")),
        case("lamp, a shared directory: by PHP's files", &redis_native, || {
            directory(Handler::Phpredis, "files");
        }),
        case("lamp, Memcached: by Cloakroom", &with(&[Need::Memcached]), || {
            memcached(Handler::Cloakroom, "cloakroom");
        }),
        case("lamp, Memcached: by php-memcached", &memcached_native, || {
            memcached(Handler::PhpMemcached, "memcached");
        }),
        case("lamp, Memcached: php-memcached's locks lose nothing", &memcached_native, || {
            let server = Memcached::start();
            race(&Setup::given(server.url()), Handler::PhpMemcached);
        }),
        case("lamp, Redis: phpredis' locks lose nothing", &redis_native, || {
            let server = Redis::start();
            race(&Setup::given(server.native()), Handler::Phpredis);
        }),
        case("lamp, Redis: by Cloakroom", &with(&[Need::Redis]), || redis(Handler::Cloakroom, "cloakroom")),
        case("lamp, Redis: by phpredis", &redis_native, || redis(Handler::Phpredis, "redis")),
    ]
}

fn directory(handler: Handler, shown: &str) {
    let shared = TempDir::new();
    let sessions = shared.join("sessions");
    writable(&sessions);
    Setup::given(sessions.display().to_string()).counts(handler, Reach::PhpIni, shown);
    let names: Vec<String> = std::fs::read_dir(&sessions)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("sess_"))
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

/// With a scheme: this port is not 11211.
fn memcached(handler: Handler, shown: &str) {
    let server = Memcached::start();
    Setup::given(server.url()).counts(handler, Reach::PhpIni, shown);
    assert_eq!(server.keys().iter().filter(|key| !key.contains(".lock.")).count(), 1, "{:?}", server.keys());
}

fn redis(handler: Handler, shown: &str) {
    let server = Redis::with(&["--requirepass", "foobarred"]);
    let path = format!("{}?auth=foobarred&database=10", server.native());
    Setup::given(path).counts(handler, Reach::PhpIni, shown);
    let keyspace = server.command(&["INFO", "keyspace"]);
    assert!(keyspace.contains("db10:keys=1,") && !keyspace.contains("db0:"), "{keyspace}");
}

/// Six requests of one visitor at a time.
fn race(setup: &Setup, handler: Handler) {
    let servers = setup.start(handler, Reach::PhpIni, |plan| plan);
    let mut visitor = Browser::at(&servers.fleet.url());
    assert!(visitor.get("/").body.starts_with("Hello #1 "), "{}", servers.fleet.log());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let mut visitor = visitor.clone();
            scope.spawn(move || (0..10).for_each(|_| drop(visitor.get("/?pause"))));
        }
    });
    let page = visitor.get("/").body;
    assert!(page.starts_with("Hello #62 "), "{page}\n{}", servers.fleet.log());
}
