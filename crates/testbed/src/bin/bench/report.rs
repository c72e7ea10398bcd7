//! The results as tables, and what is promised of them.

use serde_json::{Value, json};
use testbed::php::{Script, extension};

use crate::contender::BASE;
use crate::race;

/// What the results were measured on.
pub(crate) fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let program = |name: &str, argument: &str| {
        let path = testbed::need::find(name)?;
        let output = std::process::Command::new(path).arg(argument).output().ok()?;
        String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
    };
    let module = |modules: &[&str], name: &str| {
        let code = format!("fwrite(STDOUT, phpversion('{name}'));");
        let script = modules.iter().fold(Script::new(code), |script, module| script.module(module));
        let ran = script.run();
        (ran.status.success() && ran.stderr.is_empty()).then_some(ran.stdout)
    };
    json!({
        "cpu": cpu.trim_start_matches([' ', '\t', ':']),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "php": Script::new("fwrite(STDOUT, PHP_VERSION);").run().stdout,
        "redis": program("redis-server", "--version"),
        "memcached": program("memcached", "--version"),
        "phpredis": module(&["igbinary.so", "redis.so"], "redis"),
        "php_memcached": module(&["igbinary.so", "msgpack.so", "memcached.so"], "memcached"),
    })
}

/// The size of the extension.
pub(crate) fn megabytes() -> Option<f64> {
    Some(std::fs::metadata(extension()).ok()?.len() as f64 / 1e6)
}

/// The row of a table that matches all of these; null when there is none.
pub(crate) fn find<'a>(rows: &'a Value, matches: &[(&str, &Value)]) -> &'a Value {
    let fits = |row: &&Value| matches.iter().all(|(name, value)| row[*name] == **value);
    rows.as_array().into_iter().flatten().find(fits).unwrap_or(&Value::Null)
}

/// Adds what is promised, with the numbers of this run and whether they keep it.
pub(crate) fn with_claims(mut results: Value) -> Value {
    let best = |regime: &str, contender: &str| {
        find(&results["session_work"], &[("regime", &regime.into()), ("contender", &contender.into())])["best_us"]
            .as_f64()
    };
    let ratio = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
    let rate = |contender: &str| {
        find(&results["fpm"], &[("contender", &contender.into())])["requests_per_second"].as_f64()
    };
    let race = |hold: f64, contender: &str, number: &str| {
        find(&results["race"], &[("hold_ms", &hold.into()), ("contender", &contender.into())])[number]
            .as_f64()
    };
    let mut claims = Vec::new();
    let mut claim = |what: String, value: Option<f64>, (at_most, limit): (bool, f64)| {
        let holds = value.map(|value| if at_most { value <= limit } else { value >= limit });
        claims.push(json!({
            "claim": what, "value": value, "limit": limit, "bound": if at_most { "at most" } else { "at least" },
            "holds": holds,
        }));
    };
    let (at_most, at_least) = (|limit: f64| (true, limit), |limit: f64| (false, limit));
    for (regime, name, faster) in [
        ("same_core", "same core", 3.0),
        ("different_cores", "different cores", 1.8),
        ("network", "0.5 ms network", 1.8),
    ] {
        let ours = best(regime, "cloakroom_redis");
        if regime != "network" {
            let pings = best(regime, "two_pings");
            claim(format!("Redis, lock, to two bare PINGs, {name}"), ratio(ours, pings), at_most(1.35));
        }
        let what = format!("Redis, lock, times faster than phpredis with lock, {name}");
        claim(what, ratio(best(regime, BASE), ours), at_least(faster));
    }
    for (regime, name) in
        [("same_core", "same core"), ("different_cores", "different cores"), ("network", "0.5 ms network")]
    {
        for (native, how, faster) in
            [("memcached", "at its defaults", 2.5), ("memcached_persistent", "with connections kept", 1.5)]
        {
            let what = format!("Memcached, times faster than php-memcached {how}, {name}");
            claim(what, ratio(best(regime, native), best(regime, "cloakroom_memcached")), at_least(faster));
        }
    }
    let requests = ratio(rate("cloakroom_redis"), rate(BASE));
    claim("requests per second, to phpredis with lock".into(), requests, at_least(1.5));
    for (regime, name) in [("same_core", "one core"), ("different_cores", "the other core")] {
        let files = ratio(best(regime, "cloakroom_files"), best(regime, "files"));
        claim(format!("files, to PHP's own, in memory, {name}"), files, at_most(1.1));
    }
    let wait = |hold: f64, contender: &str| race(hold, contender, "wait_p99_ms");
    for hold in race::HOLDS.map(|hold| hold.as_secs_f64() * 1000.0) {
        let queue = ratio(wait(hold, "cloakroom_redis"), wait(hold, "fair_queue_redis"));
        claim(format!("Redis, p99 of waiting to a fair queue's, {hold} ms held"), queue, at_most(1.3));
        let sooner = ratio(wait(hold, "memcached"), wait(hold, "cloakroom_memcached"));
        claim(
            format!("Memcached, p99 of waiting times shorter than php-memcached's, {hold} ms held"),
            sooner,
            at_least(10.0),
        );
        for (contender, name) in
            [("cloakroom_redis", "Redis"), ("cloakroom_memcached", "Memcached"), ("cloakroom_files", "files")]
        {
            let kept = ratio(race(hold, contender, "count"), race(hold, contender, "increments"));
            claim(format!("{name}, share of increments kept, {hold} ms held"), kept, at_least(1.0));
        }
    }
    // A file's lock is the kernel's, for the sake of PHP's own handler: it wakes waiters in an order of its own, which
    // differs from run to run.
    let to_native: Option<Vec<f64>> = race::HOLDS
        .map(|hold| hold.as_secs_f64() * 1000.0)
        .iter()
        .map(|&hold| ratio(wait(hold, "cloakroom_files"), wait(hold, "files")))
        .collect();
    let mean = to_native.map(|ratios| ratios.iter().sum::<f64>() / ratios.len() as f64);
    claim("files, p99 of waiting to PHP's own, mean of all three".into(), mean, at_most(1.3));
    let on_dynamodb = find(&results["dynamodb"], &[("contender", &"cloakroom_dynamodb".into())]);
    claim(
        "DynamoDB, requests of a changed session".into(),
        on_dynamodb["changed"]["requests"].as_f64(),
        at_most(2.0),
    );
    let load = find(&results["startup"], &[("contender", &"cloakroom".into())])["added_ms"].as_f64();
    claim("loading the extension, ms".into(), load, at_most(2.0));
    claim("size of the extension, MB".into(), results["megabytes"].as_f64(), at_most(11.6));
    results["claims"] = claims.into();
    results
}

pub(crate) fn print(results: &Value) {
    let machine = &results["machine"];
    let text = |value: &Value| value.as_str().unwrap_or("missing").to_owned();
    println!("\n{}, {} cores, Linux {}", text(&machine["cpu"]), machine["cores"], text(&machine["kernel"]));
    println!(
        "PHP {}, phpredis {}, php-memcached {}",
        text(&machine["php"]),
        text(&machine["phpredis"]),
        text(&machine["php_memcached"])
    );
    println!("{}; {}", text(&machine["redis"]), text(&machine["memcached"]));

    session_work(results);
    dynamodb(results);
    fpm(results);
    race(results);
    startup(results);
    claims(results);
}

fn session_work(results: &Value) {
    let work = &results["session_work"];
    let regimes = ["same_core", "different_cores", "network"];
    let mut rows = vec![
        [
            "session work of a request",
            "same core",
            "",
            "other core",
            "",
            "0.5 ms network",
            "",
            "CPU",
            "exchanges",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for contender in labels(work) {
        let key: Value = contender.0.into();
        let mut row = vec![contender.1.to_owned()];
        for regime in regimes {
            let best = |key: &Value| {
                find(work, &[("regime", &regime.into()), ("contender", key)])["best_us"].as_f64()
            };
            row.push(number(best(&key), 1, " us"));
            row.push(times(best(&BASE.into()).zip(best(&key)).map(|(base, this)| base / this)));
        }
        let at = [("regime", &"same_core".into()), ("contender", &key)];
        row.push(number(find(work, &at)["client_cpu_us"].as_f64(), 1, " us"));
        row.push(number(find(&results["exchanges"], &[("contender", &key)])["exchanges"].as_f64(), 0, ""));
        rows.push(row);
    }
    table(&rows);
    println!("best of 5 rounds; x: times faster than phpredis with lock; CPU: of PHP, on the same core;");
    println!("exchanges: awaited, without those of connecting's TCP handshake");
}

fn dynamodb(results: &Value) {
    let rows = results["dynamodb"].as_array().into_iter().flatten();
    let mut table_rows = vec![
        ["a session of 3 KB on DynamoDB", "changed", "unchanged", "read_and_close"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in rows {
        let cost = |kind: &str| {
            let unit = |name: &str| row[kind][name].as_f64().unwrap_or_default();
            let requests = match unit("requests") {
                1.0 => "1 request".to_owned(),
                requests => format!("{requests} requests"),
            };
            format!("{requests}, {} WCU, {} RCU", unit("write"), unit("read"))
        };
        let costs = ["changed", "unchanged", "read_and_close"].map(cost);
        table_rows.push([label(row)].into_iter().chain(costs).collect());
    }
    table(&table_rows);
    println!(
        "counted by a local engine; AWS's handler is a twin of the tests, not AWS's SDK: the same requests"
    );
}

fn fpm(results: &Value) {
    let fpm = &results["fpm"];
    let base = find(fpm, &[("contender", &BASE.into())])["requests_per_second"].as_f64();
    let mut rows = vec![vec!["PHP-FPM behind nginx".to_owned(), "requests/s".into(), String::new()]];
    for row in fpm.as_array().into_iter().flatten() {
        let rate = row["requests_per_second"].as_f64();
        let ratio = rate.zip(base).map(|(rate, base)| rate / base);
        rows.push(vec![label(row), number(rate, 0, ""), times(ratio)]);
    }
    table(&rows);
}

fn race(results: &Value) {
    let race = &results["race"];
    let mut holds: Vec<f64> =
        race.as_array().into_iter().flatten().filter_map(|row| row["hold_ms"].as_f64()).collect();
    holds.dedup();
    for hold in holds {
        let name = format!("8 workers, one session, {hold} ms");
        let mut rows = vec![
            [&name, "count", "refused", "lost", "wait p50", "p99", "max", "took"].map(str::to_owned).to_vec(),
        ];
        for row in race.as_array().into_iter().flatten().filter(|row| row["hold_ms"] == hold) {
            let count = |name: &str| row[name].to_string();
            let wait = |name: &str| number(row[name].as_f64(), 1, " ms");
            rows.push(vec![
                label(row),
                format!("{} of {}", count("count"), count("increments")),
                count("refused"),
                count("lost"),
                wait("wait_p50_ms"),
                wait("wait_p99_ms"),
                wait("wait_max_ms"),
                number(row["seconds"].as_f64(), 1, " s"),
            ]);
        }
        table(&rows);
    }
}

fn startup(results: &Value) {
    let mut rows = vec![["starting PHP", "median", "added"].map(str::to_owned).to_vec()];
    for row in results["startup"].as_array().into_iter().flatten() {
        let added = number(row["added_ms"].as_f64(), 2, " ms");
        rows.push(vec![label(row), number(row["median_ms"].as_f64(), 2, " ms"), added]);
    }
    table(&rows);
}

fn claims(results: &Value) {
    let mut rows = vec![["promised", "here", "", "limit", ""].map(str::to_owned).to_vec()];
    for row in results["claims"].as_array().into_iter().flatten() {
        let holds = match row["holds"].as_bool() {
            Some(true) => "holds",
            Some(false) => "does not hold",
            None => "not measured",
        };
        rows.push(vec![
            row["claim"].as_str().unwrap_or_default().to_owned(),
            number(row["value"].as_f64(), 2, ""),
            row["bound"].as_str().unwrap_or_default().to_owned(),
            number(row["limit"].as_f64(), 2, ""),
            holds.to_owned(),
        ]);
    }
    table(&rows);
}

/// Keys and labels of the contenders in the order of their first row.
fn labels(rows: &Value) -> Vec<(&str, &str)> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for row in rows.as_array().into_iter().flatten() {
        let pair = (row["contender"].as_str().unwrap_or_default(), row["label"].as_str().unwrap_or_default());
        if !found.contains(&pair) {
            found.push(pair);
        }
    }
    found
}

fn label(row: &Value) -> String {
    row["label"].as_str().unwrap_or_default().to_owned()
}

fn number(number: Option<f64>, digits: usize, unit: &str) -> String {
    number.map_or("-".into(), |number| format!("{number:.digits$}{unit}"))
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or(String::new(), |ratio| format!("{ratio:.2}x"))
}

/// The first row names the columns; the first column is text, the others are numbers.
fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    println!();
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            line += &match column {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            };
        }
        println!("{}", line.trim_end());
        if index == 0 {
            println!("{}", "-".repeat(widths.iter().sum::<usize>() + 2 * (columns - 1)));
        }
    }
}
