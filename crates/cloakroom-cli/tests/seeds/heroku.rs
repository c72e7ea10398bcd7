//! Sessions on Heroku: in Memcached by an add-on, in Redis, and in files where there is neither.

use testbed::TempDir;
use testbed::fleet::{Plan, writable};
use testbed::memcached::{Memcached, PASSWORD, USER};
use testbed::need::Need;
use testbed::redis::Redis;
use testbed::suite::{Case, case};

use crate::setup::{Handler, Reach, Setup};

pub(crate) fn cases() -> Vec<Case> {
    let fleet = [Need::Php, Need::PhpFpm, Need::Nginx];
    let with = |needs: &[Need]| [&fleet[..], needs].concat();
    let sasl = with(&[Need::MemcachedSasl]);
    let sasl_native = with(&[Need::MemcachedSasl, Need::PhpMemcached, Need::PhpIgbinary]);
    let plain = with(&[Need::Redis, Need::PhpRedis, Need::PhpIgbinary]);
    let tls = with(&[Need::Redis, Need::MountNamespaces]);
    let tls_native = with(&[Need::Redis, Need::MountNamespaces, Need::PhpRedis6, Need::PhpIgbinary]);
    vec![
        case("heroku, MemCachier: by Cloakroom", &sasl, || memcachier("MEMCACHIER", Handler::Cloakroom)),
        case("heroku, MemCachier: by php-memcached", &sasl_native, || {
            memcachier("MEMCACHIER", Handler::PhpMemcached);
        }),
        case("heroku, Memcached Cloud: by Cloakroom", &sasl, || {
            memcachier("MEMCACHEDCLOUD", Handler::Cloakroom)
        }),
        case("heroku, Memcached Cloud: by php-memcached", &sasl_native, || {
            memcachier("MEMCACHEDCLOUD", Handler::PhpMemcached);
        }),
        case("heroku, Redis as in 2016: by Cloakroom", &plain, || redis_without_tls(Handler::Cloakroom)),
        case("heroku, Redis as in 2016: by phpredis", &plain, || redis_without_tls(Handler::Phpredis)),
        case("heroku, Redis: by Cloakroom", &tls, || redis(Handler::Cloakroom)),
        case("heroku, Redis: by phpredis 6", &tls_native, || redis(Handler::Phpredis6)),
        case("heroku, without a store: by Cloakroom, each server for itself", &fleet, || {
            files(Handler::Cloakroom, "cloakroom");
        }),
        case("heroku, without a store: by PHP's files, each server for itself", &plain, || {
            files(Handler::Phpredis, "files");
        }),
    ]
}

/// As the article has it: in a `.user.ini` beside the scripts.
fn memcachier(addon: &str, handler: Handler) {
    let memcached = Memcached::sasl();
    let names: [&'static str; 3] = match addon {
        "MEMCACHIER" => ["MEMCACHIER_SERVERS", "MEMCACHIER_USERNAME", "MEMCACHIER_PASSWORD"],
        _ => ["MEMCACHEDCLOUD_SERVERS", "MEMCACHEDCLOUD_USERNAME", "MEMCACHEDCLOUD_PASSWORD"],
    };
    let address = memcached.address();
    let setup = Setup::of(&[("DYNO", "web.1"), (names[0], &address), (names[1], USER), (names[2], PASSWORD)]);
    match handler {
        Handler::Cloakroom => setup.counts(handler, Reach::UserIni, "cloakroom"),
        _ => setup.counts(handler, Reach::UserIni, "memcached"),
    }
}

fn redis_without_tls(handler: Handler) {
    let server = Redis::with(&["--requirepass", "s3cr3t"]);
    let mut setup =
        Setup::of(&[("DYNO", "web.1"), ("REDIS_URL", &format!("redis://h:s3cr3t@{}", server.address()))]);
    setup.counts(handler, Reach::PhpIni, shown(handler));
    assert_eq!(sessions(&server), "1");
    // The same, told by hand.
    setup.save_path = Some("env:REDIS_URL".into());
    setup.counts(handler, Reach::PhpIni, shown(handler));
    assert_eq!(sessions(&server), "2");
}

/// With a certificate that no authority signed.
fn redis(handler: Handler) {
    let server = Redis::tls_with(&["--requirepass", "s3cr3t"]);
    let port = server.native().rsplit(':').next().unwrap().to_owned();
    let host = "ec2-1.compute-1.amazonaws.com";
    let mut setup =
        Setup::of(&[("DYNO", "web.1"), ("REDIS_URL", &format!("rediss://h:s3cr3t@{host}:{port}"))]);
    setup.host = Some(host);
    setup.counts(handler, Reach::PhpIni, shown(handler));
}

fn sessions(server: &Redis) -> String {
    server.command(&["DBSIZE"])
}

fn shown(handler: Handler) -> &'static str {
    if handler == Handler::Cloakroom { "cloakroom" } else { "redis" }
}

/// As the article wants it without the variable. Each server has a disk of its own, and forgets with it.
fn files(handler: Handler, shown: &str) {
    let disks = TempDir::new();
    let own = |plan: Plan| {
        // PHP's default, where nobody sets it, is one directory for all of this machine.
        (0..3).fold(plan, |plan, server| {
            let disk = disks.join(server.to_string());
            writable(&disk);
            match handler {
                Handler::Cloakroom => plan,
                _ => plan.ini_of(server, "session.save_path", disk.display()),
            }
        })
    };
    let servers = Setup::of(&[("DYNO", "web.1")]).start(handler, Reach::PhpIni, own);
    servers.count(&[1, 1, 1, 2, 2, 2], shown);
}
