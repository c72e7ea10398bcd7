//! What is DynamoDB's alone: the fleet of the article that AWS's handler is set up by, names of sessions, the bill, and
//! AWS's own settings in the environment of PHP-FPM.
// A test stops at the first thing that is not as expected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod place;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use place::{AWSS_HANDLER, ID, Place, TABLE, on_dynamodb_proxy, ours, script};
use serde_json::{Value, json};
use testbed::dynamodb::{self, Engine, Program};
use testbed::fleet::{Fleet, Plan};
use testbed::http::Browser;
use testbed::need::Need;
use testbed::suite::{self, case};
use testbed::{TempDir, wait_until};

fn main() {
    let name = "the_articles_table_serves_a_fleet_and_then_a_mixed_one";
    let fleet = [Need::Php, Need::PhpFpm, Need::Nginx, Need::Dynalite];
    let local = [Need::Php, Need::PhpFpm, Need::Nginx, Need::DynamoDbLocal];
    suite::run(vec![
        case(format!("dynalite: {name}"), &fleet, || articles_table(Program::Dynalite)),
        case(format!("DynamoDBLocal: {name}"), &local, || articles_table(Program::Local)),
        case("aws_settings_come_from_where_php_fpm_was_started", &fleet, settings_from_the_environment),
        case("php_fpm_reloads_and_ends_cleanly_while_leases_are_renewed", &fleet, reloads_and_ends),
        on_dynamodb_proxy("sessions_are_named_as_php_names_them", sessions_are_named),
        on_dynamodb_proxy("a_name_that_is_no_text_fails_the_start", |_, place| name_that_is_no_text(place)),
        on_dynamodb_proxy("status_and_phpinfo_tell_what_was_billed", |_, place| tells_what_was_billed(place)),
        on_dynamodb_proxy("what_a_store_has_cost_is_remembered_when_others_take_its_place", |_, place| {
            retired_bill(place);
        }),
        on_dynamodb_proxy("a_forked_child_has_a_connection_of_its_own", forked_child),
        on_dynamodb_proxy("bytes_that_are_no_text_are_kept", |_, place| bytes_are_kept(place)),
    ])
}

/// The pages of a test and the servers that serve them.
struct Site {
    fleet: Fleet,
    plan: Plan,
    _root: TempDir,
}

fn site(page: &str, configure: impl FnOnce(Plan) -> Plan) -> Site {
    use std::os::unix::fs::PermissionsExt;
    let root = TempDir::new();
    root.write("index.php", format!("<?php\n{page}"));
    root.write("handler.php", std::fs::read_to_string(AWSS_HANDLER).unwrap());
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let plan = configure(Plan::serving(root.path()).cloakroom().ini("session.save_handler", "cloakroom"));
    Site { fleet: plan.clone().start(), plan, _root: root }
}

fn articles_table(program: Program) {
    const DAY: u64 = 86400;
    let engine = Engine::of(program);
    // To the letter, but for the language.
    engine.call(
        "CreateTable",
        &json!({
            "TableName": "My-Sessions-Table",
            "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
            "ProvisionedThroughput": {"ReadCapacityUnits": 1, "WriteCapacityUnits": 1},
        }),
    );
    let scan = || engine.call("Scan", &json!({"TableName": TABLE, "ConsistentRead": true}))["Items"].clone();
    wait_until("the table is active", Duration::from_secs(30), || {
        engine.call("DescribeTable", &json!({"TableName": TABLE}))["Table"]["TableStatus"] == "ACTIVE"
    });
    let page = format!(
        "if (getenv('BACKEND') === 'app4') {{
            require 'handler.php';
            SdkSessionHandler::at('{}', [
                'table_name' => 'My-Sessions-Table',
                'hash_key' => 'id',
                'session_lifetime' => 86400, // 24 hours
                'locking' => true,
            ])->register();
        }}
        session_start();
        if (isset($_GET['login'])) $_SESSION['name'] = 'Jack Sparrow';
        $_SESSION['hops'] = ($_SESSION['hops'] ?? 0) + 1;
        echo ($_SESSION['name'] ?? 'nobody'), ' ', $_SESSION['hops'], ' ', session_module_name(), ' ', getenv('BACKEND');",
        engine.endpoint()
    );
    let configured = |plan: Plan| {
        let save_path = format!("dynamodb://test:test@eu-west-1/{TABLE}?endpoint={}", engine.endpoint());
        plan.ini("session.save_path", save_path).ini("session.gc_maxlifetime", DAY)
    };
    // Who answered, by turns.
    let hops = |visitor: &mut Browser, numbers: std::ops::RangeInclusive<u32>| -> BTreeSet<String> {
        numbers
            .map(|number| {
                let page = visitor.get("/").body;
                let server = page.strip_prefix(&format!("Jack Sparrow {number} "));
                server.unwrap_or_else(|| panic!("hop {number}: {page}")).to_owned()
            })
            .collect()
    };

    let three = site(&page, |plan| configured(plan).servers(3));
    let mut visitor = Browser::at(&three.fleet.url());
    assert!(visitor.get("/?login").body.starts_with("Jack Sparrow 1 cloakroom"), "{}", three.fleet.log());
    let servers = hops(&mut visitor, 2..=7);
    assert_eq!(servers, ["app1", "app2", "app3"].map(|name| format!("cloakroom {name}")).into());
    let id = visitor.cookie("PHPSESSID").unwrap().to_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let items = scan();
    let [item] = &items.as_array().unwrap()[..] else { panic!("one record: {items}") };
    let expires: u64 = item["expires"]["N"].as_str().unwrap().parse().unwrap();
    assert!((now + DAY - 600..=now + DAY + 1).contains(&expires), "{expires} at {now}");
    let record = |hops: u32| format!("name|s:12:\"Jack Sparrow\";hops|i:{hops};");
    let expected = json!({
        "id": {"S": format!("PHPSESSID_{id}")},
        "data": {"S": record(7)},
        "expires": {"N": expires.to_string()},
    });
    assert_eq!(*item, expected, "and nothing else");
    drop(three);

    let mixed = site(&page, |plan| configured(plan).servers(4));
    let mut visitor = Browser::at(&mixed.fleet.url());
    visitor.set_cookie("PHPSESSID", &id);
    let servers = hops(&mut visitor, 8..=15);
    assert_eq!(servers.len(), 4, "{servers:?}");
    assert!(servers.contains("user app4"), "{servers:?}");
    let items = scan();
    let [item] = &items.as_array().unwrap()[..] else { panic!("one record: {items}") };
    assert_eq!(item["data"]["S"], record(15));
    let attributes: Vec<&String> = item.as_object().unwrap().keys().collect();
    assert_eq!(attributes, ["data", "expires", "id"]);
}

/// PHP-FPM clears the environment of its workers.
fn settings_from_the_environment() {
    let engine = Engine::shared(Program::Dynalite);
    engine.create_table("from-the-environment", "id");
    let save_path = format!("dynamodb:///from-the-environment?endpoint={}", engine.endpoint());
    let page =
        "session_start(); echo $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1, getenv('AWS_REGION') ?: '';";
    let site = site(page, |plan| {
        let plan =
            plan.ini("session.save_path", save_path).clear_env().masters_env("AWS_REGION", "eu-west-1");
        plan.masters_env("AWS_ACCESS_KEY_ID", "test").masters_env("AWS_SECRET_ACCESS_KEY", "test").servers(1)
    });
    let mut visitor = Browser::at(&site.fleet.url());
    let pages: Vec<String> = (0..3).map(|_| visitor.get("/").body).collect();
    assert_eq!(pages, ["1", "2", "3"], "{}", site.fleet.log());
}

/// Each worker has a runtime, and a thread with another one.
fn reloads_and_ends() {
    let place = Place::dynamodb();
    let page = "if (isset($_GET['pid'])) exit((string) getmypid());
        session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
        if (isset($_GET['renewed'])) {
            $renewals = cloakroom_status()['units']['renew']['requests'] ?? 0;
            $end = microtime(true) + 20;
            while ((cloakroom_status()['units']['renew']['requests'] ?? 0) === $renewals) {
                if (microtime(true) > $end) exit('never renewed');
                usleep(1000);
            }
        }
        echo $_SESSION['n'];";
    let site = site(page, |plan| {
        let plan = plan.ini("session.save_path", place.save_path()).ini("cloakroom.lease", "0.5");
        plan.servers(1).workers(2)
    });
    let mut visitor = Browser::at(&site.fleet.url());
    let pages: Vec<String> = (0..4).map(|_| visitor.get("/?renewed").body).collect();
    assert_eq!(pages, ["1", "2", "3", "4"], "{}", site.fleet.log());
    let mut pids = || (0..8).map(|_| visitor.get("/?pid").body).collect::<BTreeSet<String>>();
    let before = pids();
    kill(Pid::from_raw(site.fleet.pid(0)), Signal::SIGUSR2).unwrap();
    wait_until("PHP-FPM has reloaded", Duration::from_secs(30), || {
        let now = pids();
        now.iter().all(|pid| pid.parse::<u32>().is_ok() && !before.contains(pid))
    });
    assert_eq!(visitor.get("/?renewed").body, "5", "{}", site.fleet.log());
    site.fleet.replace(0, &site.plan);
    assert_eq!(visitor.get("/").body, "6", "{}", site.fleet.log());
    let log = site.fleet.log();
    assert!(!log.contains("SIGSEGV") && !log.contains("SIGABRT") && !log.contains("core dumped"), "{log}");
}

fn sessions_are_named(proxy: &dynamodb::Proxy, place: &Place) {
    let code = "foreach (['PHPSESSID', 'ADMIN', '__Host-a', 'PHPSESSID'] as $name) {
            session_name($name);
            session_id(ID);
            session_start();
            echo $_SESSION['of'] ?? 'nobody', ' ';
            $_SESSION['of'] = $name;
            session_write_close();
            session_id('');
        }";
    assert_eq!(place.run(code), "nobody nobody nobody PHPSESSID ");
    // As AWS's handler does, which takes underscores off both ends of the whole.
    let items = [format!("ADMIN_{ID}"), format!("PHPSESSID_{ID}"), format!("Host-a_{ID}")];
    let mut items = items.to_vec();
    items.sort();
    assert_eq!(place.names(), items);
    assert_eq!(proxy.connections(), 1, "one store for all of them");
    let named = format!("{}&session_name=SHOP", place.save_path());
    script(&named, "session_name('ADMIN'); session_id('b2'); session_start(); $_SESSION['n'] = 1;")
        .run()
        .ok();
    assert!(place.names().contains(&"SHOP_b2".to_owned()), "{:?}", place.names());
}

fn name_that_is_no_text(place: &Place) {
    let code = "session_name(\"caf\\xe9\"); session_id(ID); var_dump(session_start());";
    let ran = place.script(code).run();
    assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
    let said = format!(
        "session_start(): session.name is not UTF-8, and cannot be in the key of an item: caf\u{fffd} (store {}); \
         hint: choose another session.name, or set session_name= in session.save_path",
        place.shown()
    );
    assert_eq!(ours(&ran.stderr), [said], "{ran}");
    let named = format!("{}&session_name=SHOP", place.save_path());
    assert_eq!(script(&named, code).run().ok(), "bool(true)\n");
}

fn tells_what_was_billed(place: &Place) {
    place.store(ID, b"n|i:1;");
    let printed = place.run(
        "session_id(ID);
        session_start(['read_and_close' => true]);
        session_start();
        $_SESSION['big'] = str_repeat('x', 1500);
        session_write_close();
        echo json_encode(cloakroom_status()['units']);
        (new ReflectionExtension('cloakroom'))->info();",
    );
    let (units, info) = printed.split_once("}}").unwrap();
    let units: Value = serde_json::from_str(&format!("{units}}}}}")).unwrap();
    // Each write unit is for 1 KB of the item.
    assert_eq!(
        units,
        json!({
            "open": {"requests": 1, "read": 0, "write": 1},
            "read": {"requests": 1, "read": 1, "write": 0},
            "commit": {"requests": 1, "read": 0, "write": 2},
        })
    );
    assert!(info.contains("Capacity units billed => 3 written, 1 read, by 3 requests"), "{info}");
}

fn retired_bill(place: &Place) {
    let other = TempDir::new();
    let code = format!(
        "session_id(ID); session_start(); $_SESSION['n'] = 1; session_write_close();
        foreach (range(1, 5) as $number) {{
            mkdir($path = '{}/' . $number);
            ini_set('session.save_path', $path);
            session_start();
            session_write_close();
        }}
        echo json_encode(array_map(fn($unit) => $unit['requests'], cloakroom_status()['units']));",
        other.path().display()
    );
    assert_eq!(place.run(&code), r#"{"open":1,"commit":1}"#);
}

fn forked_child(proxy: &dynamodb::Proxy, place: &Place) {
    let code = "function add($id) {
            session_id($id);
            session_start();
            $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
            session_write_close();
            return cloakroom_status()['last_commit'];
        }
        add(ID);
        if (($child = pcntl_fork()) === 0) {
            $done = add(ID) . add('b2');
            ob_clean();
            exit($done === 'writtenwritten' ? 7 : 1);
        }
        pcntl_waitpid($child, $status);
        echo add(ID), ' ', pcntl_wifexited($status) ? pcntl_wexitstatus($status) : 'killed';";
    assert_eq!(place.script(code).run().ok(), "written 7");
    assert_eq!(place.stored(ID).unwrap(), b"n|i:3;");
    assert_eq!(proxy.connections(), 2);
}

fn bytes_are_kept(place: &Place) {
    for options in ["", "&data_type=binary"] {
        let save_path = format!("{}{options}", place.save_path());
        let add =
            "session_id(ID); session_start(); $_SESSION['s'] = \"caf\\xe9\\0\\xff\"; session_write_close();";
        script(&save_path, add).run().ok();
        let read = "session_id(ID); session_start(); echo bin2hex($_SESSION['s']); session_destroy();";
        assert_eq!(script(&save_path, read).run().ok(), "636166e900ff");
    }
}
