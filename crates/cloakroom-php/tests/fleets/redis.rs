//! Fleets on Redis.

use std::time::Duration;

use testbed::need::Need;
use testbed::php::Script;
use testbed::redis::Redis;
use testbed::suite::{Case, case};

use crate::journal::{Journal, Load};
use crate::place::script;

pub(crate) fn cases() -> Vec<Case> {
    let ours = &[Need::Php, Need::Redis];
    let mixed = &[Need::Php, Need::Redis, Need::PhpRedis, Need::PhpIgbinary];
    vec![
        case("redis: half_of_them_phpredis_lose_no_update_and_leave_no_lock", mixed, half_of_them_phpredis),
        case("redis: a_pool_of_three_loses_no_update_and_resurrects_nothing", ours, a_pool_of_three),
    ]
}

const KEEPING: Load = Load { destroy: false, longest: Duration::from_millis(2) };
const DESTROYING: Load = Load { destroy: true, ..KEEPING };

fn half_of_them_phpredis() {
    let redis = Redis::start();
    let journal = Journal::of(KEEPING, |worker, code| match worker % 2 {
        0 => ours(&redis.native(), code),
        _ => phpredis(&redis, code),
    });
    journal.refused_nothing_to(|worker| worker % 2 == 0);
    check(&journal, &[&redis]);
}

fn a_pool_of_three() {
    let servers = [Redis::start(), Redis::start(), Redis::start()];
    let list: Vec<String> = servers
        .iter()
        .zip([1, 2, 2])
        .map(|(server, weight)| format!("{}?weight={weight}", server.native()))
        .collect();
    let save_path = list.join(",");
    let journal =
        Journal::of(DESTROYING, |_, code| ours(&save_path, code).ini("session.use_strict_mode", "1"));
    journal.refused_nothing_to(|_| true);
    assert!(journal.destroyed_some());
    check(&journal, &servers.each_ref());
}

fn ours(save_path: &str, code: &str) -> Script {
    script(save_path, code).ini("cloakroom.lock_wait", "60")
}

fn phpredis(redis: &Redis, code: &str) -> Script {
    Script::new(code)
        .module("igbinary.so")
        .module("redis.so")
        .ini("session.save_handler", "redis")
        .ini("session.save_path", redis.native())
        .ini("session.use_cookies", "0")
        .ini("session.use_only_cookies", "0")
        .ini("session.cache_limiter", "")
        .ini("redis.session.locking_enabled", "1")
        .ini("redis.session.lock_expire", "60")
        .ini("redis.session.lock_wait_time", "20000")
        .ini("redis.session.lock_retries", "3000")
}

/// No acknowledged update is lost, nothing destroyed is back, and no lock of ours is left.
fn check(journal: &Journal, servers: &[&Redis]) {
    let lost = journal.lost(|id| {
        let key = format!("PHPREDIS_SESSION:{id}");
        let values: Vec<String> = servers
            .iter()
            .map(|server| server.command(&["GET", &key]))
            .filter(|value| value != "(nil)")
            .collect();
        assert!(values.len() <= 1, "{key} is on several servers");
        values.into_iter().next()
    });
    assert_eq!(lost.len(), 0);
    for server in servers {
        for lock in server.command(&["KEYS", "*_LOCK"]).lines() {
            let holder = server.command(&["GET", lock]);
            assert!(!holder.starts_with("cloakroom:"), "{lock} is left with {holder}");
        }
    }
}
