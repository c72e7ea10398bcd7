//! A whole page: nginx, PHP-FPM with 4 workers, a session for each visitor, and wrk with 16 connections.

use std::process::Command;

use serde_json::{Value, json};
use testbed::TempDir;
use testbed::fleet::{Fleet, Plan};
use testbed::need::find;
use testbed::php::extension_dir;

use crate::Effort;
use crate::contender::{Contender, Servers};
use crate::session_work::median;

const PAGE: &str =
    "<?php session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo 'visit ', $_SESSION['n'];";
const PLAIN: &str = "<?php echo 'visit ', 1;";

/// 64 visitors in turn for each thread, so that few of their requests meet.
const VISITORS: &str = r#"
local threads = 0
function setup(thread) thread:set("id", threads); threads = threads + 1 end
function init() visit = 0 end
function request()
    visit = (visit + 1) % 64
    return wrk.format("GET", "/", {["Cookie"] = string.format("PHPSESSID=visitor%d%020d", id, visit)})
end
"#;

pub(crate) fn run(contenders: &[Contender], servers: &Servers, effort: Effort) -> Vec<Value> {
    let Some(wrk) = find("wrk") else {
        println!("        wrk is missing; 'make bench' installs it");
        return Vec::new();
    };
    let place = TempDir::new();
    let visitors = place.write("visitors.lua", VISITORS);
    let root = |name: &str, page: &str| {
        let root = place.join(name);
        std::fs::create_dir(&root).unwrap();
        place.write(format!("{name}/index.php"), page);
        root
    };
    let (page, plain) = (root("page", PAGE), root("plain", PLAIN));
    let mut fleets = vec![("no_session", "no session at all", start(Plan::serving(plain)), Vec::new())];
    for contender in contenders {
        let fleet = start(contender.plan(page.clone(), &servers.place(contender)));
        fleets.push((contender.key, contender.label, fleet, Vec::new()));
    }
    for round in 0..effort.of(4, 1) {
        // The first round warms up.
        let warming = round == 0 && !effort.quick;
        let seconds = if warming || effort.quick { "1s" } else { "2s" };
        for (_, label, fleet, rates) in &mut fleets {
            let output = Command::new(&wrk)
                // On a busy machine an answer that takes long is no failure.
                .args(["-t2", "-c16", "--timeout", "60s", "-d", seconds, "-s"])
                .args([&visitors, &fleet.url().into()])
                .output()
                .expect("start wrk");
            let told = String::from_utf8_lossy(&output.stdout);
            let failed = ["Non-2xx", "Socket errors"].iter().any(|failure| told.contains(failure));
            assert!(output.status.success() && !failed, "{label}: {told}\n{}", fleet.log());
            let rate = told.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
            if !warming {
                rates.push(rate.unwrap_or_else(|| panic!("wrk said: {told}")));
            }
        }
    }
    let row = |(key, label, fleet, mut rates): (&str, &str, Fleet, Vec<f64>)| {
        let warnings = fleet.log().lines().filter(|line| line.contains("PHP Warning")).count();
        let rate = median(&mut rates);
        json!({ "contender": key, "label": label, "requests_per_second": rate, "warnings": warnings })
    };
    fleets.into_iter().map(row).collect()
}

fn start(plan: Plan) -> Fleet {
    let plan = plan.servers(1).workers(4);
    // Built into PHP from 8.5 on.
    let opcache = extension_dir().is_some_and(|directory| directory.join("opcache.so").is_file());
    let plan = if opcache { plan.master_ini("zend_extension", "opcache.so") } else { plan };
    plan.start()
}
