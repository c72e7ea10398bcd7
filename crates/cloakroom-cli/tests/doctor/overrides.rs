//! What overrides what, and what apps and processes add to it. Each set-up is a whole tree.

use std::time::Duration;

use testbed::TempDir;
use testbed::fleet::Plan;
use testbed::need::Need;
use testbed::process::Process;
use testbed::suite::{Case, case};

use crate::tree::{
    CLOAKROOM_INI, DIRECTORY, Expected, FPM, INI, PHP_INI, Tree, is_progress, local, note, problem, scanned,
};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_later_file_of_conf_d_overrides", &[], a_later_file),
        case("a_pool_overrides", &[], a_pool_overrides),
        case("the_pool_of_a_running_fpm_overrides", &[Need::PhpFpm, Need::Nginx], a_running_pool_overrides),
        case("the_environment_of_a_running_process_counts", &[], the_environment_of_a_running_process),
        case("apache_s_php_value_overrides", &[], apache_overrides),
        case("htaccess_overrides", &[], htaccess_overrides),
        case("user_ini_cannot_change_what_the_pool_locks", &[], user_ini_is_locked),
        case("user_ini_is_not_read_by_apache", &[], user_ini_is_not_read),
        case("serializers_that_differ_are_named", &[], serializers_differ),
        case("a_sticky_name_is_named", &[], a_sticky_name),
        case("expired_sessions_that_nobody_removes_are_named", &[], nobody_collects),
        case("a_variable_that_is_not_set_is_named", &[], a_variable_that_is_not_set),
        case("an_app_that_keeps_files_is_named", &[], an_app_that_keeps_files),
        case("an_app_with_a_handler_of_its_own_is_noted", &[], an_app_with_its_own_handler),
        case("json_says_the_same", &[], json_says_the_same),
        case("what_cannot_be_looked_at_is_exit_code_2", &[], what_cannot_be_looked_at),
    ]
}

/// That one line overrides another.
fn overridden(place: &str, by: (&str, &str), lost: (&str, &str)) -> Expected {
    let what = format!("{place}: {} ({}) overrides {} ({})", by.0, by.1, lost.0, lost.1);
    problem("overridden", what, format!("{}: remove the line", by.1))
}

fn a_later_file() {
    let tree = Tree::fpm();
    tree.write("etc/php/8.2/fpm/conf.d/99-local.ini", "session.save_handler = files\n");
    let findings = [
        overridden(
            FPM,
            ("session.save_handler = files", "ROOT/etc/php/8.2/fpm/conf.d/99-local.ini:1"),
            ("session.save_handler = cloakroom", &format!("{INI}:3")),
        ),
        local(),
    ];
    tree.finds(&[], &[FPM, DIRECTORY], &findings);
}

fn a_pool_overrides() {
    let tree = Tree::fpm();
    tree.pool("php_value[session.save_handler] = files\nphp_value[session.save_path] = /var/sessions\n");
    let findings = [
        overridden(
            FPM,
            ("session.save_handler = files", "ROOT/etc/php/8.2/fpm/pool.d/www.conf:5"),
            ("session.save_handler = cloakroom", &format!("{INI}:3")),
        ),
        local(),
    ];
    tree.finds(&[], &[FPM, DIRECTORY], &findings);
}

fn a_running_pool_overrides() {
    let tree = Tree::fpm();
    let pages = TempDir::new();
    pages.write("index.php", "<?php echo ini_get('session.save_handler');");
    let plan = Plan::serving(pages.path()).servers(1).master_ini("session.save_handler", "user");
    let fleet = plan.ini("session.save_handler", "files").ini("session.save_path", "/var/sessions").start();
    // As PHP itself says.
    let answer = testbed::http::Browser::at(&fleet.url()).get("/").body;
    assert_eq!(answer, "files");
    let output = tree.doctor().args(["--pid", &fleet.pid(0).to_string()]).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let place = "FPM 8.2, pool app1: session.save_handler = files (";
    assert!(stdout.contains(place) && stdout.contains("app1.conf:"), "{stdout}");
    assert!(stdout.contains(" overrides session.save_handler = cloakroom ("), "{stdout}");
    assert_eq!(output.status.code(), Some(1), "{stdout}");
}

fn the_environment_of_a_running_process() {
    let tree = Tree::fpm();
    tree.write(
        "etc/php/8.2/fpm/conf.d/20-cloakroom.ini",
        "extension = cloakroom\nsession.save_handler = cloakroom\n",
    );
    let mut command = std::process::Command::new("sleep");
    let logs = TempDir::new();
    let process =
        Process::start(command.arg("600").env("SESSION_STORE_URL", "/var/sessions"), logs.path(), "sleep");
    let of_this_command = note(
        "platform-notice",
        "session.save_path is empty, and this command's environment may not be PHP's",
        "cloakroom doctor --pid PID, with the pid of php-fpm's master",
    );
    tree.says(
        tree.doctor().env("SESSION_STORE_URL", "/var/sessions"),
        &[FPM, DIRECTORY],
        &[of_this_command, local()],
    );
    // Between the fork and the end of the exec it has none.
    testbed::wait_until("its environment is there", Duration::from_secs(30), || {
        let environment = std::fs::read(format!("/proc/{}/environ", process.pid())).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains("SESSION_STORE_URL")
    });
    tree.finds(&["--pid", &process.pid().to_string()], &[FPM, DIRECTORY], &[local()]);
}

fn apache_overrides() {
    let tree = Tree::apache();
    tree.write(
        "etc/httpd/conf.d/php.conf",
        "<FilesMatch \\.php$>\n  SetHandler application/x-httpd-php\n</FilesMatch>\nphp_value session.save_handler \"files\"\nphp_value session.save_path    \"/var/sessions\"\n",
    );
    let by = ("session.save_handler = files", "ROOT/etc/httpd/conf.d/php.conf:4");
    let lost = ("session.save_handler = cloakroom", "ROOT/etc/php.d/20-cloakroom.ini:3");
    tree.finds(&[], &["CLI", "Apache", DIRECTORY, DIRECTORY], &[overridden("Apache", by, lost), local()]);
}

fn htaccess_overrides() {
    let tree = Tree::apache();
    tree.write("srv/www/.htaccess", "# of the app\nphp_value session.save_handler files\n");
    let app = tree.path("srv/www").display().to_string();
    let by = ("session.save_handler = files", "ROOT/srv/www/.htaccess:2");
    let lost = ("session.save_handler = cloakroom", "ROOT/etc/php.d/20-cloakroom.ini:3");
    tree.finds(
        &["--sapi", "apache", "--app", &app],
        &["Apache", DIRECTORY],
        &[overridden("Apache", by, lost), local()],
    );
}

fn user_ini_is_locked() {
    let tree = Tree::fpm();
    tree.pool("php_admin_value[session.save_path] = /var/sessions\n");
    tree.write("srv/www/.user.ini", "session.save_path = \"redis://10.0.0.1\"\n");
    let app = tree.path("srv/www").display().to_string();
    let findings = [
        problem(
            "locked-by-admin-value",
            format!(
                "{FPM}: session.save_path = redis://10.0.0.1 (ROOT/srv/www/.user.ini:1) is ignored: php_admin_value sets \
                 session.save_path = /var/sessions (ROOT/etc/php/8.2/fpm/pool.d/www.conf:5)"
            ),
            "ROOT/srv/www/.user.ini:1: remove the line, or make it php_value in ROOT/etc/php/8.2/fpm/pool.d/www.conf:5",
        ),
        local(),
    ];
    tree.finds(&["--app", &app], &[FPM, DIRECTORY], &findings);
}

fn user_ini_is_not_read() {
    let tree = Tree::apache();
    tree.write("srv/www/.user.ini", "session.save_path = \"redis://10.0.0.1\"\n");
    let app = tree.path("srv/www").display().to_string();
    let findings = [
        problem(
            "never-read",
            "ROOT/srv/www/.user.ini sets session.save_path, and only PHP-FPM would read it",
            "move the line to php.ini, or to the file that this SAPI reads",
        ),
        local(),
    ];
    tree.finds(&["--app", &app], &["CLI", "Apache", DIRECTORY], &findings);
}

fn serializers_differ() {
    let tree = Tree::fpm();
    tree.write("etc/php/8.2/cli/php.ini", PHP_INI);
    tree.write("etc/php/8.2/cli/conf.d/20-cloakroom.ini", CLOAKROOM_INI);
    tree.pool("php_value[session.serialize_handler] = php_serialize\n");
    let findings = [
        problem(
            "serializers-differ",
            format!("CLI 8.2 writes sessions with php, {FPM} with php_serialize, into the same store"),
            "ROOT/etc/php/8.2/fpm/pool.d/www.conf:5: session.serialize_handler = php",
        ),
        local(),
    ];
    tree.finds(&[], &["CLI 8.2", FPM, DIRECTORY], &findings);
}

fn a_sticky_name() {
    scanned(
        &format!("{CLOAKROOM_INI}session.name = JSESSIONID\n"),
        vec![problem(
            "sticky-name",
            format!("{INI}:5: session.name = JSESSIONID"),
            format!("{INI}:5: session.name = PHPSESSID"),
        )],
    );
}

fn nobody_collects() {
    let tree = Tree::fpm();
    let text =
        "session.save_handler = files\nsession.save_path = /var/sessions\nsession.gc_probability = 0\n";
    tree.write("etc/php/8.2/fpm/conf.d/20-cloakroom.ini", text);
    let collects = |line: &str| {
        problem(
            "nobody-collects",
            format!(
                "{FPM}: nobody removes expired sessions: session.gc_probability = 0 ({INI}:{line}), and no task in \
                 /etc/cron.d does"
            ),
            format!("{INI}:{line}: session.gc_probability = 1"),
        )
    };
    tree.finds(&[], &[FPM, DIRECTORY], &[collects("3"), local()]);
    tree.write("etc/cron.d/php", "09,39 * * * * root /usr/lib/php/sessionclean\n");
    tree.finds(&[], &[FPM, DIRECTORY], &[local()]);
    // Debian's task knows the handler files alone.
    tree.write(
        "etc/php/8.2/fpm/conf.d/20-cloakroom.ini",
        format!("{CLOAKROOM_INI}session.gc_probability = 0\n"),
    );
    tree.finds(&[], &[FPM, DIRECTORY], &[collects("5"), local()]);
}

fn a_variable_that_is_not_set() {
    scanned(
        &format!("{CLOAKROOM_INI}session.cookie_domain = ${{NOBODY_SETS_THIS}}\n"),
        vec![problem(
            "variable-unset",
            format!("{INI}:5: ${{NOBODY_SETS_THIS}} is not set here, so that nothing stands in its place"),
            "set NOBODY_SETS_THIS where PHP starts; --pid looks into a running php-fpm",
        )],
    );
}

fn an_app_that_keeps_files() {
    let tree = Tree::fpm();
    tree.write("srv/artisan", "");
    tree.write("srv/.env", "APP_NAME=shop\nSESSION_DRIVER=file\n");
    tree.write("srv/public/index.php", "");
    let app = tree.path("srv/public").display().to_string();
    let findings = [
        problem(
            "app-keeps-files",
            "ROOT/srv/.env:2: Laravel keeps sessions in files (SESSION_DRIVER=file)",
            ".env: SESSION_DRIVER=redis",
        ),
        local(),
    ];
    tree.finds(&["--app", &app], &[FPM, DIRECTORY], &findings);
}

fn an_app_with_its_own_handler() {
    let tree = Tree::fpm();
    tree.write("srv/www/lib/moodlelib.php", "");
    let app = tree.path("srv/www").display().to_string();
    let findings = [
        note(
            "app-bypasses",
            "ROOT/srv/www is Moodle, which does not use PHP's sessions",
            "config.php: $CFG->session_handler_class = '\\core\\session\\redis'",
        ),
        local(),
    ];
    tree.finds(&["--app", &app], &[FPM, DIRECTORY], &findings);
    // Nextcloud does what php.ini says.
    tree.write("srv/cloud/lib/public/ISession.php", "");
    let app = tree.path("srv/cloud").display().to_string();
    tree.finds(&["--app", &app], &[FPM, DIRECTORY], &[local()]);
}

fn json_says_the_same() {
    let tree = Tree::fpm();
    tree.write("etc/php/8.2/fpm/conf.d/30.ini", "session.name = JSESSIONID\n");
    let output = tree.doctor().arg("--json").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && is_progress(&stderr), "{stderr}");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["ok"], false);
    let sapi =
        serde_json::json!([{ "sapi": FPM, "save_handler": "cloakroom", "save_path": "/var/sessions" }]);
    assert_eq!(said["sapis"], sapi);
    assert_eq!(said["stores"][0]["store"], "/var/sessions");
    assert!(said["stores"][0]["p99_milliseconds"].as_f64().unwrap() > 0.0);
    let names = said["findings"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap());
    let names: Vec<&str> = names.filter(|name| *name != "slow").collect();
    assert_eq!(names, ["sticky-name", "on-this-host"]);
    let keys: Vec<&String> = said["findings"][0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["change", "gravity", "name", "what", "why"]);
}

fn what_cannot_be_looked_at() {
    let empty = Tree::new();
    let fails = |command: &mut std::process::Command, stderr: &str| {
        let output = command.output().unwrap();
        let said =
            String::from_utf8(output.stderr).unwrap().replace(&empty.root().display().to_string(), "ROOT");
        assert_eq!((said.as_str(), output.status.code()), (stderr, Some(2)));
    };
    fails(
        &mut empty.doctor(),
        "error: found no PHP below ROOT\nhint: name the store as an argument, or where the system is with --root\n",
    );
    fails(
        empty.doctor().args(["--app", "/nowhere"]),
        "error: /nowhere is not a directory\nhint: name one that is there\n",
    );
    fails(
        empty.doctor().args(["--pid", "999999999"]),
        "error: there is no process 999999999\nhint: pgrep -o php-fpm names the master's\n",
    );
}
