//! What needs a web server in front: cookies, uploads, the end of the response, workers that live on.
// A test stops at the first thing that is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod place;

use std::path::Path;
use std::time::Duration;

use place::{PATIENCE, Place};
use testbed::fleet::{Fleet, Plan, writable};
use testbed::http::Browser;
use testbed::need::Need;
use testbed::suite::{self, Case, case};
use testbed::{TempDir, wait_until};

fn main() {
    let mut all: Vec<Case> = Vec::new();
    for (name, run) in [
        ("a_visitor_keeps_the_session_on_every_server", visitor_keeps_the_session as fn(&Place)),
        ("an_unknown_cookie_is_replaced_in_strict_mode", unknown_cookie_is_replaced),
        ("auto_start_serves_the_next_request_too", auto_start),
        ("upload_progress_is_seen_and_removed", upload_progress),
        ("fastcgi_finish_request_keeps_the_lock_until_the_script_ends", finish_request),
        ("on_lock_timeout_auto_reads_for_get_and_fails_for_post", on_lock_timeout_auto),
        ("a_worker_keeps_its_connection_and_its_status_is_of_the_request", worker_keeps_its_connection),
    ] {
        let files = [Need::Php, Need::PhpFpm, Need::Nginx];
        all.push(case(format!("files: {name}"), &files, move || run(&Place::files())));
        let redis = [Need::Php, Need::PhpFpm, Need::Nginx, Need::Redis];
        all.push(case(format!("redis: {name}"), &redis, move || run(&Place::redis())));
        let memcached = [Need::Php, Need::PhpFpm, Need::Nginx, Need::Memcached];
        all.push(case(format!("memcached: {name}"), &memcached, move || run(&Place::memcached())));
        let dynamodb = [Need::Php, Need::PhpFpm, Need::Nginx, Need::Dynalite];
        all.push(case(format!("dynamodb: {name}"), &dynamodb, move || run(&Place::dynamodb())));
    }
    let needs = [Need::Php, Need::PhpFpm, Need::Nginx, Need::Redis];
    all.push(case("redis: an_outage_leaves_the_visitor_the_cookie_and_the_session", &needs, outage));
    all.push(case("redis: what_endangers_sessions_is_logged_once_a_worker", &needs, dangers_are_logged));
    all.push(case("redis: more_workers_than_the_server_takes_take_turns", &needs, workers_take_turns));
    suite::run(all)
}

/// The pages of a test and the servers that serve them.
struct Site {
    fleet: Fleet,
    _root: TempDir,
}

fn site(place: &Place, page: &str, configure: impl FnOnce(Plan) -> Plan) -> Site {
    let root = TempDir::new();
    root.write("index.php", format!("<?php\n{page}"));
    if let Place::Files(directory) = place {
        writable(directory.path());
    }
    open_to_all(root.path());
    let plan = Plan::serving(root.path())
        .cloakroom()
        .ini("session.save_handler", "cloakroom")
        .ini("session.save_path", place.save_path());
    let plan = PATIENCE.iter().fold(plan, |plan, (name, value)| plan.ini(name, value));
    Site { fleet: configure(plan).start(), _root: root }
}

fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}

const COUNT: &str = "session_start();
    $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
    echo $_SESSION['n'], ' ', getenv('BACKEND');";

fn visitor_keeps_the_session(place: &Place) {
    let site = site(place, COUNT, |plan| plan);
    let mut visitor = Browser::at(&site.fleet.url());
    let pages: Vec<String> = (0..6).map(|_| visitor.get("/").body).collect();
    for (index, page) in pages.iter().enumerate() {
        assert!(page.starts_with(&format!("{} app", index + 1)), "{pages:?}");
    }
    let servers: std::collections::BTreeSet<&str> = pages.iter().map(|page| &page[2..]).collect();
    assert_eq!(servers.len(), 3, "{pages:?}");
}

fn unknown_cookie_is_replaced(place: &Place) {
    let site =
        site(place, "session_start(); echo session_id();", |plan| plan.ini("session.use_strict_mode", 1));
    let mut visitor = Browser::at(&site.fleet.url());
    visitor.set_cookie("PHPSESSID", "madeupbythevisitor00000000");
    let given = visitor.get("/").body;
    assert_ne!(given, "madeupbythevisitor00000000");
    assert_eq!(visitor.cookie("PHPSESSID"), Some(given.as_str()));
    assert_eq!(visitor.get("/").body, given, "the new one is known");
}

fn dangers_are_logged() {
    let place = Place::redis();
    let Place::Redis(server) = &place else { unreachable!("it was just made") };
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", "100mb"]);
    // What PHP itself says becomes an exception in many an application.
    let page = "set_error_handler(fn($no, $text) => throw new Exception($text)); session_start();
        $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; session_write_close(); echo $_SESSION['n'];";
    let site = site(&place, page, |plan| plan.servers(1).workers(1));
    let mut visitor = Browser::at(&site.fleet.url());
    for number in 1..=5 {
        assert_eq!(visitor.get("/").body, number.to_string());
    }
    let evicts = "the server removes sessions when its memory is full (maxmemory-policy allkeys-lru)";
    // nginx repeats it, and may be the first to say it.
    let said = || {
        let log = site.fleet.log();
        let lines = log.lines().filter(|line| line.contains("[pool") && line.contains(evicts));
        lines.map(str::to_owned).collect::<Vec<String>>()
    };
    wait_until("the log says it", Duration::from_secs(30), || !said().is_empty());
    assert_eq!(said().len(), 1, "{}", site.fleet.log());
    assert!(said()[0].contains("hint: set appendonly yes"), "{}", site.fleet.log());
}

/// Twelve workers, and a server that takes five clients.
fn workers_take_turns() {
    let place = Place::redis();
    let Place::Redis(server) = &place else { unreachable!("it was just made") };
    server.command(&["CONFIG", "SET", "maxclients", "5"]);
    let site = site(&place, COUNT, |plan| plan.servers(3).workers(4));
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let mut visitor = Browser::at(&site.fleet.url());
                for number in 1..=20 {
                    let page = visitor.get("/").body;
                    assert!(page.starts_with(&format!("{number} app")), "{page}");
                }
            });
        }
    });
    let full = "the server has no room for more clients";
    wait_until("the log says it", Duration::from_secs(30), || site.fleet.log().contains(full));
}

fn outage() {
    let place = Place::redis();
    let Place::Redis(server) = &place else { unreachable!("it was just made") };
    let page = "foreach ($_GET as $name => $value) ini_set('cloakroom.' . $name, $value);
        if (!@session_start()) exit('no session');
        $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
        echo $_SESSION['n'];";
    let site =
        site(&place, page, |plan| plan.ini("session.use_strict_mode", 1).ini("cloakroom.lock_wait", "60"));
    let mut visitor = Browser::at(&site.fleet.url());
    assert_eq!(visitor.get("/").body, "1");
    let cookie = visitor.cookie("PHPSESSID").map(str::to_owned);
    server.freeze();
    for _ in 0..3 {
        // What was sent while the server was frozen still takes the lock, for a lease.
        let answer = visitor.get("/?timeout=0.2&lease=1");
        assert_eq!((answer.body.as_str(), answer.header("set-cookie")), ("no session", None));
    }
    server.thaw();
    assert_eq!(visitor.cookie("PHPSESSID").map(str::to_owned), cookie);
    assert_eq!(visitor.get("/").body, "2");
}

fn auto_start(place: &Place) {
    let page = "$_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];";
    let site = site(place, page, |plan| plan.ini("session.auto_start", 1).servers(1).workers(1));
    let mut visitor = Browser::at(&site.fleet.url());
    let pages: Vec<String> = (0..4).map(|_| visitor.get("/").body).collect();
    assert_eq!(pages, ["1", "2", "3", "4"]);
    assert_eq!(Browser::at(&site.fleet.url()).get("/").body, "1", "another visitor starts anew");
}

fn upload_progress(place: &Place) {
    let page = "session_start();
        $key = 'upload_progress_mine';
        echo json_encode([$_FILES['file']['size'] ?? null, $_SESSION[$key]['bytes_processed'] ?? null,
            $_SESSION[$key]['done'] ?? null]);";
    let site = site(place, page, |plan| {
        plan.ini("session.upload_progress.cleanup", 0).ini("session.upload_progress.min_freq", 0).servers(1)
    });
    let mut visitor = Browser::at(&site.fleet.url());
    visitor.get("/");
    let boundary = "cloakroom-boundary";
    let field = |name: &str, rest: &str, content: &str| {
        format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"{rest}\r\n\r\n{content}\r\n")
    };
    let file = field("file", "; filename=\"f.txt\"\r\nContent-Type: text/plain", &"x".repeat(100_000));
    let body = format!("{}{file}--{boundary}--\r\n", field("PHP_SESSION_UPLOAD_PROGRESS", "", "mine"));
    let mut uploader = visitor.header("Content-Type", &format!("multipart/form-data; boundary={boundary}"));
    let answer = uploader.post("/", &body).body;
    let size = body.len();
    assert_eq!(answer, format!("[100000,{size},true]"), "{}", site.fleet.log());
}

fn finish_request(place: &Place) {
    let page = "session_start();
        $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
        echo $_SESSION['n'];
        fastcgi_finish_request();
        usleep(20000);
        $_SESSION['n'] += 10;";
    let site = site(place, page, |plan| plan.servers(1).workers(2));
    let mut visitor = Browser::at(&site.fleet.url());
    let pages: Vec<String> = (0..3).map(|_| visitor.get("/").body).collect();
    assert_eq!(pages, ["1", "12", "23"], "the next request waits for what comes after the response");
}

fn on_lock_timeout_auto(place: &Place) {
    let page = "ini_set('cloakroom.lock_wait', '0.05');
        if (isset($_GET['nested'])) {
            echo json_encode([session_start(), $_SESSION['n'] ?? null]);
            session_abort();
            return;
        }
        session_start();
        $_SESSION['n'] = 1;
        session_write_close();
        session_start();
        $context = fn($method) => stream_context_create(['http' => ['method' => $method,
            'header' => 'Cookie: PHPSESSID=' . session_id()]]);
        foreach (['GET', 'POST'] as $method) {
            $answer = file_get_contents('http://' . $_SERVER['HTTP_HOST'] . '/?nested=1', false, $context($method));
            echo strip_tags(substr($answer, strrpos($answer, '['))), ' ';
        }";
    let site = site(place, page, |plan| {
        plan.ini("cloakroom.on_lock_timeout", "auto").ini("display_errors", 0).servers(1).workers(3)
    });
    let answer = Browser::at(&site.fleet.url()).get("/").body;
    assert_eq!(answer, "[true,1] [false,null] ", "{}", site.fleet.log());
}

fn worker_keeps_its_connection(place: &Place) {
    let page = "$before = cloakroom_status()['last_commit'];
        session_start();
        $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
        session_write_close();
        echo $before, ' ', cloakroom_status()['last_commit'], ' ', cloakroom_status()['connects'];";
    let site = site(place, page, |plan| plan.servers(1).workers(1));
    let mut visitor = Browser::at(&site.fleet.url());
    let pages: Vec<String> = (0..3).map(|_| visitor.get("/").body).collect();
    let connects = if matches!(place, Place::Files(_)) { 0 } else { 1 };
    assert_eq!(pages, vec![format!("none written {connects}"); 3]);
}
