//! Configurations as platforms and articles hand them out, word for word.

use testbed::TempDir;
use testbed::fleet::Plan;
use testbed::http::Browser;
use testbed::memcached::{Memcached, PASSWORD, USER};
use testbed::need::Need;
use testbed::php::Script;
use testbed::suite::{Case, case};

use super::{Beside, MODULES};
use crate::ours;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for beside in [Beside::Nothing, Beside::Later] {
        let mut add = |name: &str, needs: &[Need], run: fn(Beside)| {
            let needs = [&beside.needs()[..], needs].concat();
            cases.push(case(format!("{}: {name}", beside.name()), &needs, move || run(beside)));
        };
        let fleet = [Need::MemcachedSasl, Need::PhpFpm, Need::Nginx];
        add("herokus_user_ini_for_memcachier_works_on_every_dyno", &fleet, heroku_user_ini);
        add("herokus_ini_set_calls_for_memcachier_work", &[Need::MemcachedSasl], heroku_ini_set);
        add("the_lines_of_cloud_foundrys_buildpack_work", &[Need::MemcachedSasl], cloud_foundry);
        add("the_lamp_articles_two_lines_work_on_every_server", &fleet[1..], lamp);
        add("a_wrong_password_is_named_and_not_shown", &[Need::MemcachedSasl], wrong_password);
    }
    cases
}

/// <https://devcenter.heroku.com/articles/php-sessions>
const HEROKU: &str = r#"session.save_handler=memcached
session.save_path="${MEMCACHIER_SERVERS}"
memcached.sess_binary=1 # for ext-memcached 2 / PHP 5
memcached.sess_binary_protocol=1 # for ext-memcached 3 / PHP 7
memcached.sess_sasl_username="${MEMCACHIER_USERNAME}"
memcached.sess_sasl_password="${MEMCACHIER_PASSWORD}"
"#;

/// Its page.
const HELLO: &str = r#"<?php
// any ini_set() for session configuration goes here when not using .user.ini
session_start();
if (!isset($_SESSION['count'])) {
$_SESSION['count'] = 0;
}
$_SESSION['count']++;
echo "Hello #" . $_SESSION['count'];
"#;

fn heroku_user_ini(beside: Beside) {
    let server = Memcached::sasl();
    for more in [
        "",
        "memcached.sess_persistent=On\n",
        "session.save_path=\"PERSISTENT=myapp_session ${MEMCACHIER_SERVERS}\"\n",
    ] {
        let root = TempDir::new();
        root.write("index.php", HELLO);
        root.write(".user.ini", format!("{HEROKU}{more}"));
        let fleet = plan(beside, &root)
            .env("MEMCACHIER_SERVERS", server.address())
            .env("MEMCACHIER_USERNAME", USER)
            .env("MEMCACHIER_PASSWORD", PASSWORD)
            .start();
        counts(&fleet.url(), || fleet.log());
    }
}

/// Some dynos, each with a worker.
fn plan(beside: Beside, root: &TempDir) -> Plan {
    let plan = Plan::serving(root.path())
        .servers(2)
        .workers(1)
        .cloakroom()
        .master_ini("cloakroom.drop_in", "memcached");
    match beside {
        Beside::Later => MODULES.into_iter().fold(plan, Plan::module),
        _ => plan,
    }
}

/// A visitor's visits are counted, whichever server answers.
fn counts(url: &str, log: impl Fn() -> String) {
    let mut browser = Browser::at(url);
    for visit in 1..=4 {
        assert_eq!(browser.get("/").body, format!("Hello #{visit}"), "{}", log());
    }
}

fn heroku_ini_set(beside: Beside) {
    let server = Memcached::sasl();
    // Without php-memcached its version is none, and the lines for 2.x run.
    let code = "
        ini_set('session.save_handler', 'memcached');
        ini_set('session.save_path', getenv('MEMCACHIER_SERVERS'));
        if(version_compare(phpversion('memcached'), '3', '>=')) {
        ini_set('memcached.sess_persistent', 1);
        ini_set('memcached.sess_binary_protocol', 1);
        } else {
        ini_set('session.save_path', 'PERSISTENT=myapp_session ' . ini_get('session.save_path'));
        ini_set('memcached.sess_binary', 1);
        }
        ini_set('memcached.sess_sasl_username', getenv('MEMCACHIER_USERNAME'));
        ini_set('memcached.sess_sasl_password', getenv('MEMCACHIER_PASSWORD'));
        session_id('visitor');
        session_start();
        if (!isset($_SESSION['count'])) {
        $_SESSION['count'] = 0;
        }
        $_SESSION['count']++;
        echo \"Hello #\" . $_SESSION['count'];
        echo ' by ', cloakroom_status()['store'] ? 'ours' : 'native';";
    for visit in 1..=3 {
        let script = beside
            .at("", code)
            .ini("session.save_handler", "files")
            .env("MEMCACHIER_SERVERS", server.address())
            .env("MEMCACHIER_USERNAME", USER)
            .env("MEMCACHIER_PASSWORD", PASSWORD);
        assert_eq!(script.run().ok(), format!("Hello #{visit} by ours"));
    }
    found_by_php_memcached(beside, &server, "count|i:3;");
}

/// What the buildpack appends to php.ini for a service named `memcached-sessions`.
fn cloud_foundry(beside: Beside) {
    let server = Memcached::sasl();
    let page = "session_id('visitor'); session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
        echo session_name(), $_SESSION['n'];";
    let script = |server: &Memcached, user: &str, password: &str| {
        beside
            .at(&format!("PERSISTENT=app_sessions {}", server.address()), page)
            .ini("session.name", "PHPSESSIONID")
            .ini("memcached.sess_binary", "On")
            .ini("memcached.use_sasl", "On")
            .ini("memcached.sess_sasl_username", user)
            .ini("memcached.sess_sasl_password", password)
    };
    assert_eq!(script(&server, USER, PASSWORD).run().ok(), "PHPSESSIONID1");
    assert_eq!(script(&server, USER, PASSWORD).run().ok(), "PHPSESSIONID2");
    found_by_php_memcached(beside, &server, "n|i:2;");
    // A service without credentials leaves the values empty.
    assert_eq!(script(&Memcached::start(), "", "").run().ok(), "PHPSESSIONID1");
}

fn lamp(beside: Beside) {
    let server = Memcached::start();
    let root = TempDir::new();
    root.write("index.php", HELLO);
    let fleet = plan(beside, &root)
        .ini("session.save_handler", "memcached")
        .ini("session.save_path", server.address())
        .start();
    counts(&fleet.url(), || fleet.log());
    assert_eq!(server.stat("curr_items"), 1);
}

fn wrong_password(beside: Beside) {
    let server = Memcached::sasl();
    let code = "session_id('visitor'); var_dump(session_start());";
    let script = |user: &str, password: &str| {
        beside
            .at(&server.address(), code)
            .ini("memcached.sess_sasl_username", user)
            .ini("memcached.sess_sasl_password", password)
    };
    let refused = |script: Script| {
        let ran = script.run();
        assert_eq!(ran.stdout, "bool(false)\n", "{ran}");
        let warnings = ours(&ran.stderr);
        assert_eq!(warnings.len(), 1, "{ran}");
        assert!(!ran.stderr.contains("gu3ss"), "{ran}");
        warnings[0].split_once("hint: ").unwrap_or_else(|| panic!("{ran}")).1.to_owned()
    };
    let login = "memcached.sess_sasl_username and memcached.sess_sasl_password";
    assert_eq!(refused(script(USER, "gu3ss")), format!("check {login}"));
    assert_eq!(refused(script("", "")), format!("set {login}"));
    let text = script("", "").ini("memcached.sess_binary_protocol", "0");
    let expected = format!(
        "it may speak the binary protocol alone (-S): set memcached.sess_binary_protocol=1, {}",
        login
    );
    assert_eq!(refused(text), expected);
    assert_eq!(script(USER, PASSWORD).run().ok(), "bool(true)\n");
}

/// php-memcached itself logs in and finds the record under its own key.
fn found_by_php_memcached(beside: Beside, server: &Memcached, record: &str) {
    if beside != Beside::Later {
        return;
    }
    let code = format!(
        "$memcached = new Memcached();
        $memcached->setOption(Memcached::OPT_BINARY_PROTOCOL, true);
        $memcached->setSaslAuthData('{USER}', '{PASSWORD}');
        $memcached->addServer('127.0.0.1', {});
        echo $memcached->get('memc.sess.key.visitor'), $memcached->get('memc.sess.key.lock.visitor');",
        server.port()
    );
    assert_eq!(Beside::Native.at("", &code).ini("session.save_handler", "files").run().ok(), record);
}
