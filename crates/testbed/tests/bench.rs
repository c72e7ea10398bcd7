//! The bench runs, and every contender of this machine has every row. No number is judged here.

use std::process::Command;

use serde_json::Value;
use testbed::TempDir;
use testbed::need::Need;
use testbed::php::extension;
use testbed::suite::{case, run};

fn main() {
    run(vec![case(
        "a_quick_bench_has_every_row_and_a_chart",
        &[
            Need::Php,
            Need::PhpFpm,
            Need::Nginx,
            Need::Redis,
            Need::PhpRedis,
            Need::PhpMemcached,
            Need::Memcached,
        ],
        a_quick_bench_has_every_row_and_a_chart,
    )]);
}

fn a_quick_bench_has_every_row_and_a_chart() {
    let place = TempDir::new();
    let ran = Command::new(env!("CARGO_BIN_EXE_bench"))
        .arg(place.path())
        .env("QUICK", "1")
        .env("CLOAKROOM_SO", extension())
        .output()
        .expect("start the bench");
    let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{stdout}\n{stderr}");

    let results = std::fs::read_to_string(place.join("results.json")).expect("the results are there");
    let results: Value = serde_json::from_str(&results).expect("they are JSON");
    let remote = [
        "phpredis",
        "phpredis_persistent",
        "phpredis_locked",
        "phpredis_locked_persistent",
        "phpredis_patient",
        "memcached",
        "memcached_persistent",
        "cloakroom_redis",
        "cloakroom_redis_unlocked",
        "cloakroom_memcached",
    ];
    let all = [&["files", "cloakroom_files"], &remote[..]].concat();
    let racing = [
        "files",
        "cloakroom_files",
        "phpredis",
        "phpredis_locked",
        "phpredis_patient",
        "memcached",
        "cloakroom_redis",
        "cloakroom_redis_unlocked",
        "cloakroom_memcached",
    ];
    let number = |table: &str, matches: &[(&str, Value)], name: &str| {
        let rows = results[table].as_array().unwrap_or_else(|| panic!("there is no {table}"));
        let row = rows.iter().find(|row| matches.iter().all(|(name, value)| row[*name] == *value));
        let row = row.unwrap_or_else(|| panic!("{table} has no row for {matches:?}\n{results:#}"));
        row[name].as_f64().unwrap_or_else(|| panic!("{table} has no {name} for {matches:?}\n{results:#}"))
    };
    let of = |contender: &str| ("contender", Value::from(contender));

    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let regimes = if cores > 1 { &["same_core", "different_cores"][..] } else { &["same_core"] };
    for regime in regimes {
        for contender in [&["two_pings"], &all[..]].concat() {
            assert!(number("session_work", &[("regime", (*regime).into()), of(contender)], "best_us") > 0.0);
        }
    }
    for contender in [&["two_pings"], &remote[..]].concat() {
        assert!(number("session_work", &[("regime", "network".into()), of(contender)], "best_us") > 500.0);
    }
    for contender in remote {
        assert!(number("exchanges", &[of(contender)], "exchanges") >= 1.0);
    }
    for ours in ["cloakroom_redis", "cloakroom_memcached"] {
        assert_eq!(number("exchanges", &[of(ours)], "exchanges"), 2.0);
        assert_eq!(number("exchanges", &[of(ours)], "connections"), 0.0);
    }
    for hold in [0.5, 2.0, 5.0] {
        for contender in [&["fair_queue", "fair_queue_redis"], &racing[..]].concat() {
            let at = [of(contender), ("hold_ms", hold.into())];
            assert!(number("race", &at, "wait_p99_ms") >= 0.0);
            if !matches!(contender, "phpredis" | "phpredis_locked" | "memcached" | "cloakroom_redis_unlocked")
            {
                assert_eq!(number("race", &at, "count"), number("race", &at, "increments"), "{results:#}");
            }
        }
    }
    for contender in ["php", "cloakroom", "phpredis", "memcached"] {
        assert!(number("startup", &[of(contender)], "median_ms") > 0.0);
    }
    if Need::Wrk.missing().is_none() {
        for contender in [&["no_session"], &all[..]].concat() {
            assert!(number("fpm", &[of(contender)], "requests_per_second") > 0.0);
        }
    }
    for claim in results["claims"].as_array().expect("there are claims") {
        assert!(!claim["value"].is_null() || cores == 1 || Need::Wrk.missing().is_some(), "{claim:#}");
    }

    let chart = std::fs::read_to_string(place.join("bench.svg")).expect("the chart is there");
    assert!(
        chart.starts_with("<svg") && chart.trim_end().ends_with("</svg>") && chart.contains("1600 is right")
    );
}
