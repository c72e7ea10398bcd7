//! `make demo`: three PHP servers behind a load balancer, and a visitor who is sent from one to the next.
//!
//! `STORE=files` (a directory that the servers share) or `STORE=redis`; `KEEP=1` leaves the page running. The
//! extension is the argument, `CLOAKROOM_SO`, or `build/cloakroom.so`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use testbed::TempDir;
use testbed::fleet::{Fleet, Plan, writable};
use testbed::http::Browser;
use testbed::need::Need;
use testbed::php::workspace;
use testbed::redis::Redis;

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\ndemo: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<(), String> {
    let redis = match std::env::var("STORE").as_deref() {
        Err(_) | Ok("" | "files") => false,
        Ok("redis") => true,
        Ok(other) => return Err(format!("STORE={other}: the demo knows files and redis")),
    };
    let mut needs = vec![Need::PhpFpm, Need::Nginx];
    needs.extend(redis.then_some(Need::Redis));
    if let Some(missing) = needs.iter().find_map(|need| need.missing()) {
        return Err(format!("{missing} is missing; 'make demo' installs it"));
    }
    let directory = TempDir::new();
    let shared = directory.join("sessions");
    writable(&shared);
    let redis = redis.then(Redis::start);
    let store = redis.as_ref().map_or(shared.display().to_string(), Redis::url);
    let fleet = pages()
        .module(&extension()?.display().to_string())
        .ini("session.save_handler", "cloakroom")
        .ini("session.save_path", &store)
        .start();
    let told = tour(&fleet, &store).and_then(|()| contrast(&directory));
    if told.is_err() {
        eprintln!("{}", fleet.log());
    }
    told?;
    if std::env::var("KEEP").is_ok_and(|keep| !keep.is_empty() && keep != "0") {
        keep(&fleet);
    }
    Ok(())
}

/// What the visitor sees.
fn tour(fleet: &Fleet, store: &str) -> Result<(), String> {
    println!("Three PHP servers behind nginx, in turn, without stickiness: {}/", fleet.url());
    println!("session.save_handler = cloakroom, session.save_path = {store}\n");

    println!("A visitor:");
    let mut visitor = Visitor::of(fleet);
    let servers = visitor.hops(4)?;
    if servers.len() != 3 {
        return Err(format!("the load balancer used {servers:?} only"));
    }

    println!("\napp2 is killed, and the visitor goes on:");
    fleet.kill(1);
    let servers = visitor.hops(4)?;
    if servers != BTreeSet::from(["app1".into(), "app3".into()]) {
        return Err(format!("app1 and app3 are left, but {servers:?} answered"));
    }

    println!("\nA second visitor:");
    Visitor::of(fleet).hops(2)?;

    println!("\nThe first visitor again:");
    visitor.hops(2)?;
    Ok(())
}

/// The same with what PHP does by itself.
fn contrast(directory: &TempDir) -> Result<(), String> {
    println!(
        "\nFor contrast, PHP's defaults (session.save_handler = files, each server with its own directory):"
    );
    let mut plan = pages().ini("session.save_handler", "files");
    for server in 0..3 {
        let own = directory.join(format!("own{server}"));
        writable(&own);
        plan = plan.ini_of(server, "session.save_path", own.display());
    }
    let fleet = plan.start();
    let mut visitor = Visitor::of(&fleet);
    let mut falls = 0;
    for expected in 1..=6 {
        let (count, server) = visitor.hop()?;
        falls += u32::from(count != expected);
        let lost = if count == expected { String::new() } else { format!("   (this is visit {expected})") };
        println!("  Hello #{count} from {server}{lost}");
    }
    match falls {
        0 => Err("the count should have fallen back with PHP's defaults, and did not".into()),
        _ => Ok(()),
    }
}

fn keep(fleet: &Fleet) {
    fleet.restart(1);
    println!("\nOpen {}/ in a browser; Ctrl-C ends it.", fleet.url());
    // Only now: what was started before must not inherit the mask.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    if signals.thread_block().is_ok() {
        let _ = signals.wait();
    }
}

/// Somebody with a cookie jar.
struct Visitor {
    browser: Browser,
    visits: u32,
}

impl Visitor {
    fn of(fleet: &Fleet) -> Visitor {
        Visitor { browser: Browser::at(&fleet.url()).header("Accept", "text/plain"), visits: 0 }
    }

    /// The count and the server that the page tells.
    fn hop(&mut self) -> Result<(u32, String), String> {
        let answer = self.browser.send("GET", "/", "").map_err(|error| format!("no answer: {error}"))?;
        let told = answer.body.trim_end().strip_prefix("Hello #").and_then(|rest| rest.split_once(" from "));
        let told = told.and_then(|(count, server)| Some((count.parse().ok()?, server.to_owned())));
        told.ok_or_else(|| format!("the page answered {}: {}", answer.status, answer.body.trim_end()))
    }

    /// Visits the page, and answers which servers it was.
    fn hops(&mut self, hops: u32) -> Result<BTreeSet<String>, String> {
        let mut servers = BTreeSet::new();
        for _ in 0..hops {
            self.visits += 1;
            let (count, server) = self.hop()?;
            println!("  Hello #{count} from {server}");
            if count != self.visits {
                return Err(format!(
                    "the count is lost: this is visit {}, and the page says {count}",
                    self.visits
                ));
            }
            servers.insert(server);
        }
        Ok(servers)
    }
}

fn pages() -> Plan {
    Plan::serving(workspace().join("demo"))
}

fn extension() -> Result<PathBuf, String> {
    let named = std::env::args_os().nth(1).or_else(|| std::env::var_os("CLOAKROOM_SO"));
    let path = named.map_or_else(|| workspace().join("build/cloakroom.so"), PathBuf::from);
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    match path.is_file() {
        true => Ok(path),
        false => Err(format!("{} is missing; 'make build' makes it", path.display())),
    }
}
