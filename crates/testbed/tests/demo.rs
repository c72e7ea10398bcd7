//! What `make demo` shows is true: with the real extension, on a fleet whose servers share nothing but the store.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use testbed::fleet::{Fleet, Plan, writable};
use testbed::http::Browser;
use testbed::need::{Need, find};
use testbed::php::{extension, workspace};
use testbed::process::Process;
use testbed::redis::Redis;
use testbed::suite::{case, run};
use testbed::{TempDir, free_port, wait_until};

const SOON: Duration = Duration::from_secs(30);
const FLEET: [Need; 2] = [Need::PhpFpm, Need::Nginx];

fn main() {
    let redis: Vec<Need> = FLEET.into_iter().chain([Need::Redis]).collect();
    let browser = |needs: &[Need]| [needs, &[Need::Chromium]].concat();
    run(vec![
        case("the_demo_keeps_the_count_from_server_to_server_on_files", &FLEET, || demo("files")),
        case("the_demo_keeps_the_count_from_server_to_server_on_redis", &redis, || demo("redis")),
        case("the_demo_names_a_store_that_it_does_not_know", &[], demo_with_an_unknown_store),
        case("the_demo_names_the_extension_that_is_missing", &FLEET, demo_without_the_extension),
        case("no_acknowledged_visit_is_lost_when_a_server_dies_under_load_on_files", &FLEET, || {
            server_dies_under_load(&Shared::files());
        }),
        case("no_acknowledged_visit_is_lost_when_a_server_dies_under_load_on_redis", &redis, || {
            server_dies_under_load(&Shared::redis());
        }),
        case("chromium_is_counted_from_server_to_server_on_files", &browser(&FLEET), || {
            page(&Shared::files(), "0");
        }),
        case("chromium_is_counted_from_server_to_server_on_redis", &browser(&redis), || {
            page(&Shared::redis(), "2");
        }),
    ])
}

/// What the demo prints and how it ends.
fn demo_with(extension: &str, store: &str) -> (Option<i32>, String, String) {
    let directory = TempDir::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.arg(extension).env("STORE", store).env_remove("KEEP");
    let demo = Process::start(&mut command, directory.path(), "demo");
    let status = demo.wait(Duration::from_secs(200));
    (status.code(), demo.stdout(), demo.stderr())
}

fn demo(store: &str) {
    let (status, stdout, stderr) = demo_with(&extension().display().to_string(), store);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    let hops = stdout.lines().filter_map(|line| line.trim().strip_prefix("Hello #")?.split_once(" from "));
    let (counts, servers): (Vec<&str>, Vec<&str>) = hops.unzip();
    let kept = ["1", "2", "3", "4", "5", "6", "7", "8", "1", "2", "9", "10"];
    let lost = ["1", "1", "1", "2", "2", "2"];
    assert_eq!(counts, [&kept[..], &lost].concat(), "{stdout}");
    assert_eq!(servers[..4], ["app1", "app2", "app3", "app1"], "{stdout}");
    assert!(servers[4..12].iter().all(|server| ["app1", "app3"].contains(server)), "{stdout}");
}

fn demo_with_an_unknown_store() {
    let (status, _, stderr) = demo_with("none.so", "floppy");
    assert_eq!((status, stderr.trim()), (Some(1), "demo: STORE=floppy: the demo knows files and redis"));
}

fn demo_without_the_extension() {
    let (status, _, stderr) = demo_with("/nowhere/none.so", "files");
    assert_eq!(
        (status, stderr.trim()),
        (Some(1), "demo: /nowhere/none.so is missing; 'make build' makes it")
    );
}

/// Where the sessions of a case are.
struct Shared {
    save_path: String,
    _directory: TempDir,
    _redis: Option<Redis>,
}

impl Shared {
    fn files() -> Shared {
        let directory = TempDir::new();
        writable(&directory.join("sessions"));
        Shared {
            save_path: directory.join("sessions").display().to_string(),
            _directory: directory,
            _redis: None,
        }
    }

    fn redis() -> Shared {
        let redis = Redis::start();
        Shared { save_path: redis.url(), _directory: TempDir::new(), _redis: Some(redis) }
    }

    fn fleet(&self) -> Fleet {
        Plan::serving(workspace().join("demo"))
            .cloakroom()
            .ini("session.save_handler", "cloakroom")
            .ini("session.save_path", &self.save_path)
            // The lock of a worker that is killed is free after this, well within the time others wait for it; one that only
            // stands still does not lose it so soon.
            .ini("cloakroom.lease", "5")
            .start()
    }
}

/// The count that the page tells, and the server; `None` when the answer broke off.
fn visit(browser: &mut Browser, fleet: &Fleet) -> Option<(usize, String)> {
    let answer = browser.send("GET", "/", "").ok().filter(|answer| !answer.body.is_empty())?;
    let told = answer.body.trim_end().strip_prefix("Hello #").and_then(|rest| rest.split_once(" from "));
    let (count, server) =
        told.unwrap_or_else(|| panic!("{}: {}\n{}", answer.status, answer.body, fleet.log()));
    Some((count.parse().unwrap(), server.to_owned()))
}

fn server_dies_under_load(store: &Shared) {
    const VISITORS: usize = 4;
    const HOPS: usize = 60;
    let fleet = store.fleet();
    let text = || Browser::at(&fleet.url()).header("Accept", "text/plain");
    let made = AtomicUsize::new(0);
    let visitor = || {
        let (mut browser, mut last, mut doubtful, mut servers) = (text(), 0, 0, BTreeSet::new());
        for _ in 0..HOPS {
            made.fetch_add(1, Ordering::SeqCst);
            // A broken answer is no acknowledgement.
            if let Some((count, server)) = visit(&mut browser, &fleet) {
                assert!(count > last, "visit {count} after visit {last}\n{}", fleet.log());
                // More than one: a worker died between its write and its answer.
                doubtful += count - last - 1;
                last = count;
                servers.insert(server);
            }
        }
        assert!(servers.len() > 1, "{servers:?} alone");
        assert!(doubtful <= 1, "{doubtful} visits are in doubt, but one at most was under way");
        assert!((HOPS - 1..=HOPS + 1).contains(&last), "{last} visits are counted of {HOPS}");
        servers
    };
    std::thread::scope(|threads| {
        let visitors: Vec<_> = (0..VISITORS).map(|_| threads.spawn(visitor)).collect();
        wait_until("every visitor is on the way", SOON, || {
            made.load(Ordering::SeqCst) >= VISITORS * HOPS / 3 || visitors.iter().any(|one| one.is_finished())
        });
        fleet.kill(1);
        // Who comes in step with others may be sent to the same two all the time; together they see all three.
        let mut servers = BTreeSet::new();
        for visitor in visitors {
            servers.extend(visitor.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        assert_eq!(servers.len(), 3, "{servers:?}");
    });
    for _ in 0..3 {
        let (_, server) = visit(&mut text(), &fleet).expect("a whole answer");
        assert_ne!(server, "app2");
    }
}

fn page(store: &Shared, round_trips: &str) {
    let fleet = store.fleet();
    let mut chromium = Chromium::start();
    let mut servers = Vec::new();
    for count in 1..=4 {
        chromium.open(&format!("{}/", fleet.url()));
        assert_eq!(chromium.text("#count"), count.to_string());
        servers.push(chromium.text("#server"));
    }
    assert_eq!(servers, ["app1", "app2", "app3", "app1"]);
    assert_eq!(chromium.text("title"), "Hello #4 from app1");
    assert_eq!(chromium.text("#trail"), "app1 app2 app3 app1");
    assert_eq!(chromium.fact("Save handler"), "cloakroom");
    assert_eq!(chromium.fact("Store"), store.save_path);
    assert_eq!(chromium.fact("Round trips"), round_trips);
    assert_eq!(chromium.fact("Last write"), "written");
    fleet.kill(1);
    for count in 5..=7 {
        chromium.click("#again");
        chromium.wait_for("#count", &count.to_string());
        assert_ne!(chromium.text("#server"), "app2");
    }
    chromium.click("#leave");
    chromium.wait_for("#count", "1");
    assert_eq!(chromium.complaints(), "");
}

/// A headless Chromium, led through its WebDriver server.
struct Chromium {
    driver: Browser,
    session: String,
    _process: Process,
    _directory: TempDir,
}

impl Chromium {
    fn start() -> Chromium {
        let (directory, port) = (TempDir::new(), free_port());
        let mut command = Command::new(find("chromedriver").unwrap());
        command.arg(format!("--port={port}")).env("HOME", directory.path());
        let process = Process::start(&mut command, directory.path(), "chromedriver");
        let mut driver =
            Browser::at(&format!("http://127.0.0.1:{port}")).header("Content-Type", "application/json");
        wait_until("chromedriver answers", SOON, || {
            driver.send("GET", "/status", "").is_ok_and(|answer| answer.body.contains(r#""ready":true"#))
        });
        let started = driver.post(
            "/session",
            &format!(
                r#"{{"capabilities":{{"alwaysMatch":{{"goog:loggingPrefs":{{"browser":"ALL"}},"goog:chromeOptions":{{
                "binary":"{}","args":["--headless=new","--no-sandbox","--disable-dev-shm-usage","--disable-gpu",
                "--user-data-dir={}"]}}}}}}}}"#,
                find("chromium").unwrap().display(),
                directory.join("profile").display()
            ),
        );
        let session = started.body.split(r#""sessionId":""#).nth(1).and_then(|rest| rest.split('"').next());
        let session = session.unwrap_or_else(|| panic!("{}", started.body)).to_owned();
        Chromium { driver, session, _process: process, _directory: directory }
    }

    fn tell(&mut self, what: &str, body: &str) -> String {
        let answer = self.driver.post(&format!("/session/{}/{what}", self.session), body);
        assert_eq!(answer.status, 200, "{what} {body}: {}", answer.body);
        answer.body
    }

    fn open(&mut self, url: &str) {
        self.tell("url", &format!(r#"{{"url":"{url}"}}"#));
    }

    /// What an expression is in the page, as text without quotes in it.
    fn value(&mut self, expression: &str) -> String {
        let body =
            self.tell("execute/sync", &format!(r#"{{"script":"return String({expression})","args":[]}}"#));
        let value = body.split(r#""value":""#).nth(1).and_then(|rest| rest.rsplit_once("\"}"));
        value.unwrap_or_else(|| panic!("{body}")).0.to_owned()
    }

    fn text(&mut self, selector: &str) -> String {
        self.value(&format!(
            "document.querySelector('{selector}').textContent.trim().replace(/\\\\s+/g, ' ')"
        ))
    }

    /// The value beside a name.
    fn fact(&mut self, name: &str) -> String {
        self.value(&format!(
            "[...document.querySelectorAll('dt')].find(dt => dt.textContent == '{name}').nextSibling.textContent"
        ))
    }

    fn click(&mut self, selector: &str) {
        self.value(&format!("document.querySelector('{selector}').click()"));
    }

    fn wait_for(&mut self, selector: &str, text: &str) {
        let selected =
            format!("document.readyState == 'complete' && document.querySelector('{selector}')?.textContent");
        wait_until(&format!("{selector} is {text}"), SOON, || self.value(&selected) == text);
    }

    /// Errors and warnings in the browser's console.
    fn complaints(&mut self) -> String {
        let log = self.tell("se/log", r#"{"type":"browser"}"#);
        log.trim_start_matches(r#"{"value":["#).trim_end_matches("]}").to_owned()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Chromium is not of the driver's process group: it is asked to end.
        let _ = self.driver.send("DELETE", &format!("/session/{}", self.session), "");
    }
}
