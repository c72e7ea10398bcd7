//! The way there and back: a fleet changes over under load, server by server, and changes back.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use testbed::TempDir;
use testbed::fleet::Plan;
use testbed::http::Browser;
use testbed::need::Need;
use testbed::redis::Redis;
use testbed::suite::{Case, case};
use testbed::wait_until;

use super::{VERSIONS, Version};

pub(super) fn cases() -> Vec<Case> {
    VERSIONS
        .into_iter()
        .map(|version| {
            let name = match version {
                Version::Five => "phpredis 5.3",
                Version::Six => "phpredis 6",
            };
            let needs = [&version.needs()[..], &[Need::PhpFpm, Need::Nginx]].concat();
            let name = format!("{name}: a_fleet_changes_over_and_back_and_nobody_notices");
            case(name, &needs, move || there_and_back(version))
        })
        .collect()
}

const SERVERS: usize = 3;
const VISITORS: usize = 6;
/// Two of each visitor's requests are under way at once.
const WINDOWS: usize = 2;

/// Logs in at the first visit, and counts each one. A visitor who is logged out cannot count.
const PAGE: &str = "<?php
    if (!session_start()) { http_response_code(503); exit('no session'); }
    if (isset($_GET['login'])) $_SESSION = ['user' => $_GET['login'], 'n' => 0];
    if (!isset($_SESSION['user'])) { http_response_code(403); exit('logged out'); }
    $_SESSION['n']++;
    usleep(1000);
    session_write_close();
    if (error_get_last()) { http_response_code(500); exit(error_get_last()['message']); }
    echo $_SESSION['user'], ' ', $_SESSION['n'], ' ', session_module_name(), ' ',
        function_exists('cloakroom_status') && cloakroom_status()['store'] ? 'ours ' : 'native ', getenv('BACKEND');";

fn there_and_back(version: Version) {
    let redis = Redis::start();
    let root = TempDir::new();
    root.write("index.php", PAGE);
    let phpredis = |plan: Plan| match version {
        Version::Five => plan.module("igbinary.so").module("redis.so"),
        Version::Six => plan.module(&testbed::php::phpredis6().display().to_string()),
    };
    let cloakroom = |plan: Plan| plan.cloakroom().master_ini("cloakroom.drop_in", "redis,rediscluster");
    let native = configured(&redis, phpredis(servers(&root)));
    let ours = configured(
        &redis,
        match version {
            // One fleet keeps phpredis, the other does without it.
            Version::Five => phpredis(cloakroom(servers(&root))),
            Version::Six => cloakroom(servers(&root)),
        },
    );
    let fleet = native.clone().start();
    let traffic = Traffic::default();
    let visits: Vec<Vec<Visit>> = std::thread::scope(|scope| {
        let traffic = &traffic;
        let visitors: Vec<_> = (0..VISITORS)
            .map(|visitor| {
                let mut browser = Browser::at(&fleet.url());
                let first = visit(&mut browser, &format!("/?login=user{visitor}"));
                let windows: Vec<_> = (0..WINDOWS)
                    .map(|_| {
                        let browser = browser.clone();
                        scope.spawn(move || traffic.visits(browser))
                    })
                    .collect();
                (first, windows)
            })
            .collect();
        // Nobody waits for them when a step fails.
        let end = EndOf(traffic);
        traffic.goes_on();
        for plan in [&ours, &native] {
            for server in 0..SERVERS {
                fleet.replace(server, plan);
                traffic.goes_on();
            }
        }
        drop(end);
        let finished = visitors.into_iter().map(|(first, windows)| {
            let more = windows.into_iter().flat_map(|window| window.join().unwrap());
            [first].into_iter().chain(more).collect()
        });
        finished.collect()
    });
    for (visitor, visits) in visits.iter().enumerate() {
        for visit in visits {
            assert_eq!(visit.user, format!("user{visitor}"), "{}", fleet.log());
        }
        // Each acknowledged visit has counted, and no two of them as one.
        let counts: BTreeSet<usize> = visits.iter().map(|visit| visit.count).collect();
        assert_eq!(counts.len(), visits.len(), "user{visitor} has lost an update\n{}", fleet.log());
        assert_eq!(counts, (1..=visits.len()).collect(), "user{visitor}");
    }
    let by = |handler: &str| visits.iter().flatten().filter(|visit| visit.by == handler).count();
    println!("{version:?}: {} visits served by phpredis, {} by Cloakroom", by("native"), by("ours"));
    assert!(by("native") > 0 && by("ours") > 0);
    assert_eq!(redis.command(&["KEYS", "*_LOCK"]), "");
}

fn servers(root: &TempDir) -> Plan {
    Plan::serving(root.path()).servers(SERVERS).workers(VISITORS * WINDOWS).forgiving()
}

/// As the users of phpredis set it up, with locks.
fn configured(redis: &Redis, plan: Plan) -> Plan {
    plan.ini("session.save_handler", "redis")
        .ini("session.save_path", redis.native())
        .ini("redis.session.locking_enabled", "1")
        .ini("redis.session.lock_expire", "60")
        .ini("redis.session.lock_retries", "-1")
        .ini("redis.session.lock_wait_time", "2000")
}

/// What the visitors do, until they go home.
#[derive(Default)]
struct Traffic {
    served: [AtomicUsize; SERVERS],
    over: AtomicBool,
}

impl Traffic {
    fn visits(&self, mut browser: Browser) -> Vec<Visit> {
        let _end = EndOf(self);
        let mut visits = Vec::new();
        while !self.over.load(Ordering::Relaxed) {
            let visit = visit(&mut browser, "/");
            self.served[visit.server].fetch_add(1, Ordering::Relaxed);
            visits.push(visit);
        }
        visits
    }

    /// Waits until every server has served some more.
    fn goes_on(&self) {
        let seconds: usize = std::env::var("SOAK").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
        let some = 150 + seconds * 50;
        let before = self.served.each_ref().map(|served| served.load(Ordering::Relaxed));
        wait_until("every server serves visitors", Duration::from_secs(200), || {
            assert!(!self.over.load(Ordering::Relaxed), "a visitor was not served");
            (0..SERVERS).all(|server| self.served[server].load(Ordering::Relaxed) >= before[server] + some)
        });
    }
}

/// Ends the traffic, also when somebody fails.
struct EndOf<'a>(&'a Traffic);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

struct Visit {
    user: String,
    count: usize,
    by: String,
    server: usize,
}

#[track_caller]
fn visit(browser: &mut Browser, path: &str) -> Visit {
    let answer = browser.get(path);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let mut words = answer.body.split(' ');
    let mut next = || words.next().unwrap_or_else(|| panic!("not a visit: {}", answer.body)).to_owned();
    let (user, count, handler, by, server) = (next(), next(), next(), next(), next());
    assert_eq!(handler, "redis");
    let server: usize = server.strip_prefix("app").unwrap().parse().unwrap();
    Visit { user, count: count.parse().unwrap(), by, server: server - 1 }
}
