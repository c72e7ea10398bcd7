//! Cloud Foundry: services whose names say what they are for, and services of other names that the application names.

use testbed::TempDir;
use testbed::memcached::{Memcached, PASSWORD, USER};
use testbed::need::Need;
use testbed::redis::Redis;
use testbed::suite::{Case, case};

use crate::setup::{Handler, Reach, Setup};

pub(crate) fn cases() -> Vec<Case> {
    let fleet = [Need::Php, Need::PhpFpm, Need::Nginx];
    let with = |needs: &[Need]| [&fleet[..], needs].concat();
    let mut cases = Vec::new();
    for (kind, service, option) in [
        ("a service of that name", "redis-sessions", None),
        ("a custom name", "php-session-db", Some("REDIS_SESSION_STORE_SERVICE_NAME")),
    ] {
        cases.push(case(
            format!("cloud foundry, Redis, {kind}: by Cloakroom"),
            &with(&[Need::Redis]),
            move || {
                redis(Handler::Cloakroom, "cloakroom", service, option);
            },
        ));
        let needs = with(&[Need::Redis, Need::PhpRedis, Need::PhpIgbinary]);
        cases.push(case(format!("cloud foundry, Redis, {kind}: by phpredis"), &needs, move || {
            redis(Handler::Phpredis, "redis", service, option);
        }));
    }
    for (kind, service, option) in [
        ("a service of that name", "memcached-sessions", None),
        ("a custom name", "php-session-cache", Some("MEMCACHED_SESSION_STORE_SERVICE_NAME")),
    ] {
        let needs = with(&[Need::MemcachedSasl]);
        cases.push(case(format!("cloud foundry, Memcached, {kind}: by Cloakroom"), &needs, move || {
            memcached(Handler::Cloakroom, "cloakroom", service, option);
        }));
        let needs = with(&[Need::MemcachedSasl, Need::PhpMemcached, Need::PhpIgbinary]);
        cases.push(case(format!("cloud foundry, Memcached, {kind}: by php-memcached"), &needs, move || {
            memcached(Handler::PhpMemcached, "memcached", service, option);
        }));
    }
    cases
}

/// A password that is not what it looks like unless it is encoded, which the buildpack does not do.
const HARD: &str = "a+b, c&d";

fn redis(handler: Handler, shown: &str, service: &str, option: Option<&str>) {
    let server = Redis::with(&["--requirepass", HARD]);
    let credentials =
        format!(r#"{{"hostname": "127.0.0.1", "port": {}, "password": "{HARD}"}}"#, server.port());
    on_the_platform("p-redis", service, &credentials, option, |setup| {
        setup.counts(handler, Reach::PhpIni, shown);
    });
    assert_eq!(server.command(&["DBSIZE"]), "1");
}

fn memcached(handler: Handler, shown: &str, service: &str, option: Option<&str>) {
    let server = Memcached::sasl();
    let credentials =
        format!(r#"{{"servers": "{}", "username": "{USER}", "password": "{PASSWORD}"}}"#, server.address());
    on_the_platform("memcachedcloud", service, &credentials, option, |setup| {
        setup.counts(handler, Reach::PhpIni, shown);
    });
}

/// Binds the service, among others, to an application whose `options.json` names it where it has a custom name.
fn on_the_platform(
    label: &str,
    service: &str,
    credentials: &str,
    option: Option<&str>,
    run: impl FnOnce(&Setup),
) {
    let home = TempDir::new();
    std::fs::create_dir(home.join(".bp-config")).unwrap();
    let named = option.map(|name| format!(r#"{{"{name}": "{service}"}}"#));
    home.write(".bp-config/options.json", named.unwrap_or_else(|| "{}".into()));
    let services = format!(
        r#"{{"newrelic": [{{"name": "monitor", "label": "newrelic", "credentials": {{"licenseKey": "k"}}}}],
            "sendgrid": [{{"name": "mail", "label": "sendgrid", "credentials": {{"hostname": "h", "password": "p"}}}}],
            "{label}": [{{"name": "{service}", "label": "{label}", "credentials": {credentials}}}]}}"#
    );
    let home_path = home.path().display().to_string();
    run(&Setup::of(&[("VCAP_SERVICES", &services), ("VCAP_APPLICATION", "{}"), ("HOME", &home_path)]));
}
