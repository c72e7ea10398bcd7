//! What the files say: settings that are lost, misspelt, or name what is not there. Each set-up is a whole tree.

use std::process::Command;

use testbed::need::Need;
use testbed::suite::{Case, case};

use crate::tree::{CLOAKROOM_INI, DIRECTORY, FPM, INI, PHP_INI, Tree, local, problem, scanned};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_healthy_cli_has_nothing", &[], || Tree::cli().finds(&[], &["CLI 8.2", DIRECTORY], &[])),
        case("a_healthy_fpm_has_nothing", &[], || Tree::fpm().finds(&[], &[FPM, DIRECTORY], &[local()])),
        case("a_healthy_apache_has_nothing", &[], || {
            Tree::apache().finds(&[], &["CLI", "Apache", DIRECTORY], &[local()]);
        }),
        case("an_unquoted_save_path_loses_the_rest_of_the_file", &[], an_unquoted_save_path),
        case("curly_quotes_lose_the_rest_of_the_file", &[], curly_quotes_with_options),
        case("curly_quotes_become_part_of_the_value", &[], curly_quotes),
        case("a_quote_that_is_not_closed_loses_the_file", &[], an_open_quote),
        case("a_hash_comment_becomes_part_of_the_value", &[], a_hash_comment),
        case(
            "a_hash_comment_with_parentheses_loses_the_rest_of_the_file",
            &[],
            a_hash_comment_with_parentheses,
        ),
        case("a_misspelt_setting_is_named", &[], a_misspelt_setting),
        case("an_unknown_save_handler_is_named", &[], an_unknown_handler),
        case("a_url_in_the_place_of_a_handler_is_masked", &[], a_url_that_is_no_handler),
        case("a_setting_below_a_path_section_is_named", &[], a_path_section),
        case("an_extension_that_fpm_lacks_and_the_cli_has_is_named", &[], an_extension_that_fpm_lacks),
        case("an_extension_without_its_file_is_named", &[], an_extension_without_its_file),
        case(
            "an_extension_that_php_cannot_load_is_named",
            &[Need::Php, Need::MountNamespaces],
            an_extension_that_fails,
        ),
        case(
            "files_that_php_alone_knows_of_are_found",
            &[Need::Php, Need::MountNamespaces],
            files_of_php_alone,
        ),
        case(
            "forms_that_native_handlers_refuse_are_named",
            &[Need::PhpRedis, Need::PhpMemcached],
            forms_that_native_handlers_refuse,
        ),
        case("settings_that_php_memcached_has_no_more_are_named", &[], settings_that_are_gone),
    ]
}

fn an_unquoted_save_path() {
    let tree = Tree::fpm();
    let text = "session.save_path = tcp://127.0.0.1:1?auth=s3cr3t\nextension = cloakroom\nsession.save_handler = cloakroom\n";
    tree.write("etc/php/8.2/fpm/conf.d/20-cloakroom.ini", text);
    tree.write("etc/php/8.2/fpm/conf.d/30-path.ini", "session.save_path = /var/sessions\n");
    let findings = [
        problem(
            "syntax-error",
            format!("{INI}:1: PHP stops reading: unexpected '='; lost: extension, session.save_handler"),
            format!("{INI}:1: session.save_path = \"tcp://127.0.0.1:1?auth=***\""),
        ),
        problem(
            "overridden",
            format!(
                "{FPM}: session.save_path = /var/sessions (ROOT/etc/php/8.2/fpm/conf.d/30-path.ini:1) overrides \
                 session.save_path = ... ({INI}:1)"
            ),
            "ROOT/etc/php/8.2/fpm/conf.d/30-path.ini:1: remove the line",
        ),
        local(),
    ];
    tree.finds(&[], &[FPM, DIRECTORY], &findings);
}

fn curly_quotes_with_options() {
    let tree = Tree::fpm();
    let text = "extension = cloakroom\nsession.save_path = “tcp://10.0.0.1:6379?auth=foobarred&database=10”\nsession.name = A\n";
    tree.write("etc/php/8.2/fpm/conf.d/20-cloakroom.ini", text);
    tree.write("etc/php/8.2/fpm/conf.d/30-path.ini", "session.save_path = /var/sessions\n");
    let findings = [
        problem(
            "syntax-error",
            format!("{INI}:2: PHP stops reading: unexpected '='; lost: session.name"),
            format!("{INI}:2: session.save_path = \"tcp://10.0.0.1:6379?auth=***&database=10\""),
        ),
        problem(
            "overridden",
            format!(
                "{FPM}: session.save_path = /var/sessions (ROOT/etc/php/8.2/fpm/conf.d/30-path.ini:1) overrides \
                 session.save_path = ... ({INI}:2)"
            ),
            "ROOT/etc/php/8.2/fpm/conf.d/30-path.ini:1: remove the line",
        ),
        local(),
    ];
    tree.finds(&[], &[FPM, DIRECTORY], &findings);
}

fn curly_quotes() {
    let tree = Tree::fpm();
    tree.write(
        "etc/php/8.2/fpm/conf.d/20-cloakroom.ini",
        "extension = cloakroom\nsession.save_handler = cloakroom\nsession.save_path = “/var/sessions”\n",
    );
    let findings = [problem(
        "curly-quotes",
        format!("{INI}:3: session.save_path has curly quotes"),
        format!("{INI}:3: session.save_path = \"/var/sessions\""),
    )];
    tree.finds(&[], &[FPM], &findings);
}

fn an_open_quote() {
    let text =
        "extension = cloakroom\nsession.save_path = \"/var/sessions\nsession.save_handler = cloakroom\n";
    let tree = Tree::fpm();
    tree.write("etc/php/8.2/fpm/conf.d/20-cloakroom.ini", text);
    tree.write("etc/php/8.2/fpm/conf.d/30-path.ini", "session.save_path = /var/sessions\n");
    let findings = [
        problem(
            "syntax-error",
            format!(
                "{INI}:2: PHP stops reading: unexpected end of file: a \" is not closed; lost: session.save_handler"
            ),
            format!("{INI}:2: close the quotes"),
        ),
        local(),
    ];
    tree.finds(&[], &[FPM, DIRECTORY], &findings);
}

fn a_hash_comment() {
    let tree = Tree::fpm();
    tree.write(
        "etc/php/8.2/fpm/conf.d/20-cloakroom.ini",
        CLOAKROOM_INI.replace("= cloakroom\nsession.save_path", "= cloakroom # shared\nsession.save_path"),
    );
    let findings = [problem(
        "hash-comment",
        format!("{INI}:3: session.save_handler has the text behind # in its value"),
        format!("{INI}:3: session.save_handler = \"cloakroom\" ; and the comment"),
    )];
    tree.finds(&[], &[FPM], &findings);
}

fn a_hash_comment_with_parentheses() {
    scanned(
        &format!("{CLOAKROOM_INI}# shared (by all servers)\nsession.gc_maxlifetime = 7200\n"),
        vec![problem(
            "syntax-error",
            format!("{INI}:5: PHP stops reading: unexpected '('; lost: session.gc_maxlifetime"),
            format!("{INI}:5: begin the comment with ; instead of #"),
        )],
    );
}

fn a_misspelt_setting() {
    scanned(
        &format!(
            "{CLOAKROOM_INI}session.save.handler = redis\ncloakroom.lock_wiat = 5\nsession.nonsense = 1\n"
        ),
        vec![
            problem(
                "misspelt-setting",
                format!("{INI}:5: there is no setting session.save.handler"),
                format!("{INI}:5: session.save_handler = redis"),
            ),
            problem(
                "misspelt-setting",
                format!("{INI}:6: there is no setting cloakroom.lock_wiat"),
                format!("{INI}:6: cloakroom.lock_wait = 5"),
            ),
            problem(
                "misspelt-setting",
                format!("{INI}:7: there is no setting session.nonsense"),
                format!("{INI}:7: remove the line"),
            ),
        ],
    );
}

fn an_unknown_handler() {
    let tree = Tree::fpm();
    tree.write(
        "etc/php/8.2/fpm/conf.d/20-cloakroom.ini",
        "session.save_handler = file\nsession.save_path = /var/lib/php/session\n",
    );
    let findings = [problem(
        "unknown-handler",
        format!("{INI}:1: there is no save handler \"file\""),
        format!("{INI}:1: session.save_handler = files"),
    )];
    tree.finds(&[], &[FPM], &findings);
}

fn a_url_that_is_no_handler() {
    let tree = Tree::fpm();
    tree.write(
        "etc/php/8.2/fpm/conf.d/20-cloakroom.ini",
        "session.save_handler = \"tcp://10.0.0.1:6379?auth=s3cr3t\"\n",
    );
    let findings = [problem(
        "unknown-handler",
        format!("{INI}:1: there is no save handler \"tcp://10.0.0.1:6379?auth=***\""),
        format!("{INI}:1: session.save_handler = cloakroom"),
    )];
    tree.finds(&[], &[FPM], &findings);
}

fn a_path_section() {
    scanned(
        &format!("{CLOAKROOM_INI}[PATH=/srv/www]\nsession.gc_maxlifetime = 7200\n"),
        vec![problem(
            "path-section",
            format!("{INI}: session.gc_maxlifetime stands below [PATH=...] or [HOST=...]"),
            "move the line above that section",
        )],
    );
}

fn an_extension_that_fpm_lacks() {
    let tree = Tree::fpm();
    tree.write("etc/php/8.2/cli/php.ini", PHP_INI);
    tree.write("etc/php/8.2/cli/conf.d/20-cloakroom.ini", CLOAKROOM_INI);
    std::fs::remove_file(tree.path("etc/php/8.2/fpm/conf.d/20-cloakroom.ini")).unwrap();
    tree.pool("php_value[session.save_handler] = cloakroom\nphp_value[session.save_path] = /var/sessions\n");
    let findings = [
        problem(
            "extension-not-loaded",
            format!(
                "{FPM}: session.save_handler = cloakroom (ROOT/etc/php/8.2/fpm/pool.d/www.conf:5), but the extension \
                 cloakroom is not loaded there; CLI 8.2 does (ROOT/etc/php/8.2/cli/conf.d/20-cloakroom.ini:2)"
            ),
            "ROOT/etc/php/8.2/fpm/conf.d/cloakroom.ini: extension = cloakroom",
        ),
        local(),
    ];
    tree.finds(&[], &["CLI 8.2", FPM, DIRECTORY], &findings);
}

fn an_extension_without_its_file() {
    let tree = Tree::fpm();
    std::fs::remove_file(tree.path("usr/lib/php/20220829/cloakroom.so")).unwrap();
    let findings = [
        problem(
            "extension-file-missing",
            format!("{INI}:2: extension = cloakroom: ROOT/usr/lib/php/20220829 has no cloakroom.so"),
            format!("{INI}:2: name the file, or put it into that directory"),
        ),
        local(),
    ];
    tree.finds(&[], &[FPM, DIRECTORY], &findings);
    tree.write(
        "etc/php/8.2/fpm/conf.d/20-cloakroom.ini",
        CLOAKROOM_INI.replacen("= cloakroom", "= /opt/cloakroom.so", 1),
    );
    let findings = [
        problem(
            "extension-file-missing",
            format!("{INI}:2: extension = /opt/cloakroom.so: there is no such file"),
            format!("{INI}:2: name the file, or put it there"),
        ),
        local(),
    ];
    tree.finds(&[], &[FPM, DIRECTORY], &findings);
}

/// The doctor of this machine with the tree's `from` in the place of `to`, both directories.
fn in_the_place_of(to: &str, tree: &Tree, from: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
    command.args(["-m", "sh", "-c", script, "sh"]).arg(tree.path(from)).arg(to);
    command.args([env!("CARGO_BIN_EXE_cloakroom"), "doctor", "--sapi", "cli"]);
    command
}

fn an_extension_that_fails() {
    let tree = Tree::cli();
    tree.write("own/8.2/cli/php.ini", "session.save_handler = cloakroom\n");
    let sessions = tree.path("var/sessions").display().to_string();
    let broken = tree.path("usr/lib/php/20220829/cloakroom.so").display().to_string();
    let text = |extension: &str| {
        format!(
            "extension = {extension}\nsession.save_handler = cloakroom\nsession.save_path = \"{sessions}\"\n"
        )
    };
    let looked_at = ["CLI 8.2", &format!("{sessions}: round trip p50 N ms, p99 N ms")];
    tree.write("own/8.2/cli/conf.d/20-cloakroom.ini", text(&broken));
    let output = in_the_place_of("/etc/php", &tree, "own").output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let problem = "problem: /etc/php/8.2/cli/conf.d/20-cloakroom.ini:1: php";
    let line = stdout.lines().find(|line| line.starts_with(problem)).unwrap_or_else(|| panic!("{stdout}"));
    // PHP's own words, which name the file and its fault, and differ between versions.
    assert!(line.contains(" does not load cloakroom: Unable to load dynamic library '"), "{line}");
    assert!(line.ends_with("[extension-does-not-load]") && output.status.code() == Some(1), "{line}");
    // The real one loads.
    tree.write("own/8.2/cli/conf.d/20-cloakroom.ini", text(&testbed::php::extension().display().to_string()));
    tree.says(&mut in_the_place_of("/etc/php", &tree, "own"), &looked_at, &[]);
}

fn files_of_php_alone() {
    let tree = Tree::new();
    tree.write("empty/none", "");
    tree.write(
        "ini/php.ini",
        format!("session.save_path = {}\nsession.name = JSESSIONID\n", tree.path("var/sessions").display()),
    );
    let looked_at = ["CLI", "ROOT/var/sessions: round trip p50 N ms, p99 N ms"];
    let findings = [problem(
        "sticky-name",
        "ROOT/ini/php.ini:2: session.name = JSESSIONID",
        "ROOT/ini/php.ini:2: session.name = PHPSESSID",
    )];
    tree.says(
        in_the_place_of("/etc/php", &tree, "empty").env("PHPRC", tree.path("ini")),
        &looked_at,
        &findings,
    );
}

fn forms_that_native_handlers_refuse() {
    let redis = testbed::redis::Redis::with(&["--appendonly", "yes"]);
    let url = redis.native();
    let server = testbed::memcached::Memcached::with(&["-M"]);
    let cases = [
        (
            "redis",
            format!("{url}?auth="),
            "auth= without a password, with which phpredis logs in all the same",
            format!("session.save_path = \"{url}\""),
        ),
        (
            "redis",
            redis.url(),
            "redis://, which phpredis does not know",
            "session.save_path = \"tcp://host:port?auth=password\", or session.save_handler = cloakroom"
                .to_owned(),
        ),
        (
            "memcached",
            format!("PERSISTENT=app_sessions {}", server.address()),
            "PERSISTENT=, which php-memcached knows no more since version 3",
            format!(
                "session.save_path = \"{}\", and memcached.sess_persistent = 1 (id app_sessions)",
                server.address()
            ),
        ),
    ];
    for (handler, path, form, right) in cases {
        // As PHP itself says.
        let script = "echo @session_start() ? 'started' : 'refused';";
        let run = testbed::php::Script::new(script)
            .module("igbinary.so")
            .module("msgpack.so")
            .module(&format!("{handler}.so"));
        let run = run.ini("session.save_handler", handler).ini("session.save_path", &path).run();
        assert!(!run.stdout.contains("started"), "{path}: {run}");
        let tree = Tree::fpm();
        let text = format!(
            "extension = {handler}\nsession.save_handler = {handler}\nsession.save_path = \"{path}\"\n"
        );
        tree.write("usr/lib/php/20220829/memcached.so", "");
        tree.write("etc/php/8.2/fpm/conf.d/20-cloakroom.ini", text);
        let output = tree.doctor().output().unwrap();
        let stdout =
            String::from_utf8(output.stdout).unwrap().replace(&tree.root().display().to_string(), "ROOT");
        let line = format!("problem: {INI}:3: session.save_path has {form} [native-rejects]\n");
        assert!(
            stdout.contains(&line) && stdout.contains(&format!("  change: {INI}:3: {right}\n")),
            "{stdout}"
        );
        assert_eq!(output.status.code(), Some(1));
    }
}

fn settings_that_are_gone() {
    scanned(
        &format!("{CLOAKROOM_INI}memcached.sess_binary = On\nmemcached.use_sasl = On\n"),
        vec![
            problem(
                "misspelt-setting",
                format!("{INI}:5: there is no setting memcached.sess_binary"),
                format!("{INI}:5: memcached.sess_binary_protocol = 1"),
            ),
            problem(
                "misspelt-setting",
                format!("{INI}:6: there is no setting memcached.use_sasl"),
                format!("{INI}:6: remove the line"),
            ),
        ],
    );
}
