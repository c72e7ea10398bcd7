//! The store that the environment names, under PHP-FPM as it is by default: with workers whose environment is cleared.
// A test stops at the first thing that is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use testbed::fleet::{Fleet, Plan};
use testbed::http::Browser;
use testbed::need::Need;
use testbed::redis::Redis;
use testbed::suite::{case, run};
use testbed::{TempDir, wait_until};

fn main() {
    let fpm = [Need::Php, Need::PhpFpm, Need::Nginx];
    let redis = [Need::Php, Need::PhpFpm, Need::Nginx, Need::Redis];
    let hosts = [Need::Php, Need::PhpFpm, Need::Nginx, Need::Redis, Need::MountNamespaces];
    run(vec![
        case("herokus_redis_is_found_though_the_workers_have_no_environment", &hosts, heroku),
        case("a_secret_from_a_file_is_used_and_not_shown", &redis, secret_from_a_file),
        case("stores_that_are_equally_meant_are_an_error_that_names_variables", &fpm, equally_meant),
        case("an_option_that_does_not_exist_is_told_of_the_variable", &fpm, unknown_option),
        case("a_refused_password_is_told_of_the_variable", &redis, wrong_password),
        case("files_on_a_platform_of_several_servers_are_told_of_once_a_worker", &fpm, files_on_a_platform),
    ])
}

struct Site {
    fleet: Fleet,
    _root: TempDir,
}

/// A server without a word about the store in its configuration.
fn site(page: &str, variables: &[(&str, &str)], configure: impl FnOnce(Plan) -> Plan) -> Site {
    let root = TempDir::new();
    root.write("index.php", format!("<?php\n{page}"));
    let plan = Plan::serving(root.path())
        .cloakroom()
        .clear_env()
        .ini("session.save_handler", "cloakroom")
        // On a machine that does much else.
        .ini("cloakroom.timeout", 30)
        .ini("cloakroom.connect_timeout", 30)
        .ini("html_errors", 0);
    let plan = configure(plan.servers(1).workers(1));
    let plan = variables.iter().fold(plan, |plan, (name, value)| plan.masters_env(name, value));
    Site { fleet: plan.start(), _root: root }
}

fn visit(site: &Site) -> String {
    Browser::at(&site.fleet.url()).get("/").body
}

const COUNT: &str = "session_start();
    $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
    session_write_close();
    $status = cloakroom_status();
    echo json_encode([$_SESSION['n'], getenv('REDIS_URL'), str_contains(ini_get('session.save_path'), '@'), $status['store'],
        $status['detected'], $status['last_commit']], JSON_UNESCAPED_SLASHES);";

/// Case 11: TLS, a certificate that no authority signed, and a user whom the server does not know.
fn heroku() {
    let redis = Redis::tls_with(&["--requirepass", "s3cr3t"]);
    let port = redis.native().rsplit(':').next().unwrap().to_owned();
    let host = "ec2-1.compute-1.amazonaws.com";
    let directory = TempDir::new();
    let hosts = directory.write("hosts", format!("127.0.0.1 localhost {host}\n"));
    let mount = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    let url = format!("rediss://h:s3cr3t@{host}:{port}");
    let site = site(COUNT, &[("DYNO", "web.1"), ("REDIS_URL", &url)], |plan| {
        plan.through(&["unshare", "-m", "sh", "-c", &mount, "sh"])
    });
    let mut visitor = Browser::at(&site.fleet.url());
    for number in 1..=3 {
        let expected = format!(
            r#"[{number},false,false,"rediss://:***@{host}:{port}?verify_peer=0","REDIS_URL","written"]"#
        );
        assert_eq!(visitor.get("/").body, expected, "{}", site.fleet.log());
    }
    assert!(!site.fleet.log().contains("s3cr3t"), "{}", site.fleet.log());
}

fn secret_from_a_file() {
    let redis = Redis::with(&["--requirepass", "s3cr3t"]);
    let (host, port) =
        redis.address().rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap();
    let directory = TempDir::new();
    let secret = directory.write("password", "s3cr3t\n").display().to_string();
    open_to_all(directory.path());
    let page = "session_start(); $_SESSION['n'] = 1; session_write_close(); phpinfo(INFO_MODULES); print_r(cloakroom_status());";
    let variables = [("REDIS_HOST", host.as_str()), ("REDIS_PORT", &port), ("REDIS_PASSWORD_FILE", &secret)];
    let site = site(page, &variables, |plan| plan);
    let body = visit(&site);
    let status = format!(
        "[store] => redis://:***@{host}:{port}\n    [detected] => REDIS_HOST, REDIS_PORT, REDIS_PASSWORD_FILE\n"
    );
    assert!(body.contains(&status), "{body}");
    assert!(body.contains("[last_commit] => written"), "{body}");
    let row = "<tr><td class=\"e\">Detected from </td><td class=\"v\">REDIS_HOST, REDIS_PORT, REDIS_PASSWORD_FILE </td></tr>";
    assert!(body.contains(row), "{body}");
    assert!(!body.contains("s3cr3t"), "{body}");
}

fn equally_meant() {
    let variables =
        [("HEROKU_REDIS_COBALT_URL", "redis://:s3cr3t@c"), ("HEROKU_REDIS_GOLD_URL", "redis://:s3cr3t@g")];
    let page = "set_error_handler(function ($no, $text) { echo $text, PHP_EOL; return false; });
        var_dump(session_start());";
    let site = site(page, &variables, |plan| plan);
    let body = visit(&site);
    let said = "HEROKU_REDIS_COBALT_URL and HEROKU_REDIS_GOLD_URL name different stores, and nothing says which is for \
                sessions; hint: set SESSION_STORE_URL to the one that is meant, such as \
                SESSION_STORE_URL=env:HEROKU_REDIS_COBALT_URL";
    assert!(body.starts_with(&format!("session_start(): {said}\n")), "{body}");
    assert!(body.ends_with("bool(false)\n"), "{body}");
    wait_until("the log says it", Duration::from_secs(30), || site.fleet.log().contains(said));
    assert!(!(body + &site.fleet.log()).contains("s3cr3t"));
}

fn unknown_option() {
    let page =
        "set_error_handler(function ($no, $text) { echo $text, PHP_EOL; }); var_dump(session_start());";
    let site = site(page, &[("REDIS_URL", "redis://h?family=6")], |plan| plan);
    let body = visit(&site);
    let said = "session_start(): REDIS_URL: unknown option \"family\" (at character 11)";
    assert!(body.starts_with(said), "{body}");
}

fn wrong_password() {
    let redis = Redis::with(&["--requirepass", "s3cr3t"]);
    let page =
        "set_error_handler(function ($no, $text) { echo $text, PHP_EOL; }); var_dump(session_start());";
    let address = redis.address();
    let site = site(page, &[("REDISCLOUD_URL", &format!("redis://:wr0ng@{address}"))], |plan| plan);
    let body = visit(&site);
    let said = "hint: correct the user or the password in REDISCLOUD_URL";
    assert!(body.lines().next().unwrap().contains(said), "{body}");
    assert!(!body.contains("wr0ng"), "{body}");
}

fn files_on_a_platform() {
    let said = "sessions are kept in files of this server alone, and Heroku may run several; hint: bind or attach a Redis or \
                Memcached service, or set SESSION_STORE_URL (files: it is meant so)";
    let page = "session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];";
    let lines = |site: &Site| {
        let mut visitor = Browser::at(&site.fleet.url());
        for number in 1..=5 {
            assert_eq!(visitor.get("/").body, number.to_string(), "{}", site.fleet.log());
        }
        let log = site.fleet.log();
        log.lines().filter(|line| line.contains("[pool") && line.contains(said)).count()
    };
    let told = site(page, &[("DYNO", "web.1")], |plan| plan);
    // It is said between two requests, and PHP-FPM passes on what workers say when it gets to it.
    wait_until("the log says it", Duration::from_secs(30), || lines(&told) > 0);
    assert_eq!(lines(&told), 1, "{}", told.fleet.log());
    let meant = site(page, &[("DYNO", "web.1"), ("SESSION_STORE_URL", "files")], |plan| plan);
    assert_eq!(lines(&meant), 0, "{}", meant.fleet.log());
}

fn open_to_all(directory: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
}
