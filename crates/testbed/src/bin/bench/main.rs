//! `make bench`: Cloakroom beside the native handlers, in one run and interleaved, so that whatever disturbs the
//! machine disturbs all of them.
//!
//! Beside each measurement stands its limit: two bare PINGs for a request's session work over TCP, and for the
//! waiting a queue in memory that is fair by construction. `QUICK=1` measures little, to see that it runs. The
//! argument is where the results go; the extension is `CLOAKROOM_SO`, or else built.

mod chart;
mod contender;
mod cores;
mod dynamodb;
mod fpm;
mod race;
mod report;
mod session_work;
mod startup;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use testbed::php::workspace;

use contender::Servers;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Effort {
    quick: bool,
}

impl Effort {
    /// The first, or with `QUICK=1` the second.
    fn of<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn main() -> ExitCode {
    let quick = std::env::var("QUICK").is_ok_and(|quick| !quick.is_empty() && quick != "0");
    let effort = Effort { quick };
    let place = std::env::args_os().nth(1).map_or_else(|| workspace().join("build/bench"), PathBuf::from);
    std::fs::create_dir_all(&place).unwrap_or_else(|error| panic!("create {}: {error}", place.display()));

    let (contenders, missing) = contender::present();
    for (contender, what) in &missing {
        println!("without {}: {what} is missing", contender.label);
    }
    let servers = Servers::start();
    let started = Instant::now();
    let step = |name: &str| println!("[{:>3} s] {name}", started.elapsed().as_secs());

    step("awaited exchanges of a request");
    let exchanges = session_work::exchanges(&contenders, &servers);
    step("requests and capacity units on DynamoDB");
    let dynamodb = dynamodb::run();
    step("session work of a request, client and server on the same core and on different ones");
    let mut work = session_work::on_cores(&contenders, &servers, effort);
    step("the same over a network of 0.5 ms");
    work.extend(session_work::over_network(&contenders, &servers, effort));
    step("requests per second of PHP-FPM");
    let fpm = fpm::run(&contenders, &servers, effort);
    step("starting PHP");
    let startup = startup::run(effort);
    let mut races = Vec::new();
    for hold in race::HOLDS {
        step(&format!("8 workers on one session, held for {} ms", hold.as_secs_f64() * 1000.0));
        races.extend(race::run(&contenders, &servers, hold, effort));
    }
    step("done");

    let missing: Vec<_> = missing.iter().map(|(contender, what)| json!({contender.key: what})).collect();
    let results = report::with_claims(json!({
        "quick": quick, "machine": report::machine(), "missing": missing, "exchanges": exchanges,
        "session_work": work, "dynamodb": dynamodb, "fpm": fpm, "startup": startup,
        "megabytes": report::megabytes(), "race": races,
    }));
    report::print(&results);
    println!();
    for (name, content) in [("results.json", format!("{results:#}\n")), ("bench.svg", chart::draw(&results))]
    {
        let path = place.join(name);
        std::fs::write(&path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        println!("wrote {}", path.display());
    }
    ExitCode::SUCCESS
}
