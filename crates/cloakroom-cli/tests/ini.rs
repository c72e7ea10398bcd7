//! `cloakroom ini`: what it writes, whole, and what real PHP reads from it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ran;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use testbed::TempDir;
use testbed::fleet::Plan;
use testbed::http::Browser;
use testbed::need::Need;
use testbed::suite::{case, run};

use ran::Ran;

fn main() {
    run(vec![
        case("a_store_that_php_detects_is_written_without_its_secret", &[], detected),
        case("a_store_that_is_given_is_written_as_given", &[], given),
        case("phpredis_is_told_all_that_it_can_do", &[], phpredis),
        case("php_memcached_is_told_all_that_it_can_do", &[], php_memcached),
        case("without_a_store_native_handlers_keep_files", &[], files),
        case("that_several_servers_keep_files_is_said", &[], several_servers),
        case("each_format_has_lines_of_its_own", &[], formats),
        case("what_cannot_be_written_is_refused", &[], refused),
        case("wrong_usage_is_exit_code_2", &[], wrong_usage),
        case("php_ini_reads_back_every_character", &[Need::Php], php_reads_back),
        case(
            "a_pool_and_a_user_ini_read_back_every_character",
            &[Need::Php, Need::PhpFpm, Need::Nginx, Need::PhpMemcached, Need::PhpIgbinary],
            fpm_reads_back,
        ),
        case("a_file_keeps_its_other_lines_its_mode_and_its_name", &[], file_is_kept),
        case("a_second_run_touches_nothing", &[], second_run),
        case("a_new_file_with_a_password_is_not_for_everybody", &[], new_files),
        case("a_file_that_cannot_be_written_is_left_as_it_is", &[], unwritable),
    ]);
}

const BEGIN: &str = "; cloakroom ini: from here, rewritten at each run\n";
const END: &str = "; cloakroom ini: to here\n";

/// All that a password must not break, in one.
const PASSWORD: &str = "a\"b'c\\d$e${HOME}f;g#h&i=j k+l,m%n\\$o\\";

fn detected() {
    let ran = Ini::of(&[]).env("SESSION_STORE_URL", "redis://:s3cr3t@h").run();
    ran.is(
        0,
        &format!("{BEGIN}session.save_handler = \"cloakroom\"\nsession.save_path = \"auto\"\n{END}"),
        "",
    );
}

fn given() {
    for path in ["redis://:s3cr3t@h/2?prefix=x", "env:STORE", "tcp://h?auth=env:STORE", "/srv/sessions"] {
        let ran = Ini::of(&[path]).env("STORE", "redis://h").run();
        let lines = format!("session.save_handler = \"cloakroom\"\nsession.save_path = \"{path}\"\n");
        ran.is(0, &format!("{BEGIN}{lines}{END}"), "");
    }
}

fn phpredis() {
    let ran = Ini::of(&["--for", "phpredis", "--session-name", "SID"])
        .env("SESSION_STORE_URL", "rediss://u:a%2Bb@h:6380/2?verify_peer=0&prefix=x")
        .run();
    ran.is(
        0,
        &format!(
            "{BEGIN}; stream[...] needs phpredis 6: 5.3 passes over it
session.save_handler = \"redis\"
session.save_path = \"tls://h:6380?auth[]=u&auth[]=a%2Bb&database=2&prefix=x&stream[verify_peer]=0&\
             stream[verify_peer_name]=0\"
redis.session.locking_enabled = 1
redis.session.lock_expire = 300
redis.session.lock_retries = 500
redis.session.lock_wait_time = 20000
session.name = \"SID\"
{END}"
        ),
        "",
    );
}

fn php_memcached() {
    let ran = Ini::of(&["memcached://u:p@a,b:11212", "--for", "php-memcached"]).run();
    ran.is(
        0,
        &format!(
            "{BEGIN}session.save_handler = \"memcached\"
session.save_path = \"a:11211,b:11212\"
memcached.sess_binary_protocol = 1
memcached.sess_sasl_username = \"u\"
memcached.sess_sasl_password = \"p\"
memcached.sess_persistent = 1
memcached.sess_locking = 1
memcached.sess_lock_expire = 300
memcached.sess_lock_wait_min = 20
memcached.sess_lock_wait_max = 100
memcached.sess_lock_retries = 101
{END}"
        ),
        "",
    );
}

fn files() {
    for handler in ["phpredis", "php-memcached"] {
        let ran = Ini::of(&["--for", handler]).run();
        ran.is(0, &format!("{BEGIN}session.save_handler = \"files\"\n{END}"), "");
        let ran = Ini::of(&["/srv/s", "--for", handler]).run();
        let lines = "session.save_handler = \"files\"\nsession.save_path = \"/srv/s\"\n";
        ran.is(0, &format!("{BEGIN}{lines}{END}"), "");
    }
}

fn several_servers() {
    let ran = Ini::of(&["--for", "phpredis"]).env("DYNO", "web.1").run();
    ran.is(0, &format!("{BEGIN}session.save_handler = \"files\"\n{END}"), "notice: sessions are kept in files of this server alone, and Heroku may run several\nhint: bind or attach a Redis or Memcached service, or set SESSION_STORE_URL (files: it is meant so)\n");
}

fn formats() {
    let lines = |format: &str| Ini::of(&["redis://h", "--format", format]).run().stdout;
    let plain =
        format!("{BEGIN}session.save_handler = \"cloakroom\"\nsession.save_path = \"redis://h\"\n{END}");
    assert_eq!(lines("php.ini"), plain);
    assert_eq!(lines("user.ini"), plain);
    assert_eq!(
        lines("fpm-pool"),
        format!(
            "{BEGIN}[www]\nphp_value[session.save_handler] = \"cloakroom\"\nphp_value[session.save_path] = \
             \"redis://h\"\n{END}"
        )
    );
    assert_eq!(
        lines("apache"),
        format!(
            "{BEGIN}php_value session.save_handler \"cloakroom\"\nphp_value session.save_path \"redis://h\"\n{END}"
        )
        .replace("; cloakroom", "# cloakroom")
    );
}

fn refused() {
    for (arguments, error) in [
        (
            &["redis+sentinel://:s3cr3t@h/m", "--for", "phpredis"][..],
            "phpredis has no session handler that asks sentinels (store redis+sentinel://:***@h/m)\nhint: write the \
             ini for Cloakroom, or name the primary itself",
        ),
        (
            &["redis://:s3cr3t@h", "--for", "php-memcached"],
            "this store is Redis (store redis://:***@h)\nhint: write --for phpredis",
        ),
        (
            &["memcached://h", "--for", "phpredis"],
            "this store is Memcached (store memcached://h)\nhint: write --for php-memcached",
        ),
        (
            &["memcacheds://h", "--for", "php-memcached"],
            "php-memcached does not speak TLS (store memcacheds://h)\nhint: write the ini for Cloakroom",
        ),
        (
            &["env:NOPE"],
            "session.save_path: the environment variable NOPE is not set (at character 1)\nhint: set it where PHP \
             starts (the PHP-FPM master, not the pool)",
        ),
        (
            &["memcached://u:${x@h", "--for", "php-memcached", "--format", "apache"],
            "memcached.sess_sasl_password has a line end or ${ in it, which Apache's configuration cannot \
             hold\nhint: write it for php.ini (--format php.ini)",
        ),
        (
            &["memcached://u:a$pool@h", "--for", "php-memcached", "--format", "fpm-pool"],
            "memcached.sess_sasl_password has $pool in it, which a pool cannot hold\nhint: write it for php.ini \
             (--format php.ini)",
        ),
    ] {
        Ini::of(arguments).run().is(1, "", &format!("error: {error}\n"));
    }
}

fn wrong_usage() {
    let ran = Ini::of(&["--for", "predis"]).run();
    assert_eq!(
        (ran.code, ran.stderr.lines().next()),
        (Some(2), Some("error: invalid value 'predis' for '--for <HANDLER>'"))
    );
}

fn store() -> String {
    let encoded: String = PASSWORD.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("memcached://u:{encoded}@127.0.0.1:1")
}

fn php_reads_back() {
    let directory = TempDir::new();
    let file = directory.join("php.ini");
    let name = format!("{PASSWORD}\nanother line");
    let out = file.display().to_string();
    Ini::of(&[&store(), "--for", "php-memcached", "--session-name", &name, "--out", &out])
        .run()
        .is(0, "", "");
    let read = Command::new("php")
        .args(["-n", "-c", &out, "-r"])
        .arg("echo get_cfg_var('memcached.sess_sasl_password'), \"\\0\", get_cfg_var('session.name');")
        .env("HOME", "/root")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(read.stdout).unwrap(), format!("{PASSWORD}\0{name}"));
}

fn fpm_reads_back() {
    let root = TempDir::new();
    root.write("index.php", "<?php echo ini_get('memcached.sess_sasl_password');");
    fs::create_dir(root.join("user")).unwrap();
    root.write("user/index.php", "<?php echo ini_get('memcached.sess_sasl_password');");
    let plan = || {
        ["igbinary.so", "msgpack.so", "memcached.so"]
            .into_iter()
            .fold(Plan::serving(root.path()), Plan::module)
    };
    let ini = |format: &str, out: &Path| {
        let out = out.display().to_string();
        Ini::of(&[&store(), "--for", "php-memcached", "--format", format, "--out", &out]).run().is(0, "", "");
    };
    let pool = root.join("pool.conf");
    ini("fpm-pool", &pool);
    // The fleet's pools have other names.
    let pool = fs::read_to_string(&pool).unwrap().replace("[www]\n", "");
    assert_eq!(Browser::at(&plan().servers(1).pool(&pool).start().url()).get("/").body, PASSWORD);

    ini("user.ini", &root.join("user/.user.ini"));
    fs::set_permissions(root.join("user/.user.ini"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(Browser::at(&plan().servers(1).start().url()).get("/user/index.php").body, PASSWORD);
}

fn file_is_kept() {
    let directory = TempDir::new();
    let file = directory
        .write("php.ini", "[PHP]\nmemory_limit = 1G\nsession.save_path = \"tcp://old\"\n[Other]\na = 1");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
    let link = directory.join("link.ini");
    std::os::unix::fs::symlink("php.ini", &link).unwrap();
    Ini::of(&["redis://:s3cr3t@h", "--out", &link.display().to_string()]).run().is(0, "", "");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o604);
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        format!(
            "[PHP]\nmemory_limit = 1G\n{BEGIN}session.save_handler = \"cloakroom\"\nsession.save_path = \
             \"redis://:s3cr3t@h\"\n{END}; session.save_path = \"tcp://old\"\n[Other]\na = 1"
        )
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "something was left behind");
}

fn second_run() {
    let directory = TempDir::new();
    let file = directory.write("php.ini", "a = 1\n");
    let out = file.display().to_string();
    let arguments = ["redis://h", "--out", &out];
    Ini::of(&arguments).run().is(0, "", "");
    let (inode, text) = (fs::metadata(&file).unwrap().ino(), fs::read_to_string(&file).unwrap());
    Ini::of(&arguments).run().is(0, "", "");
    assert_eq!(
        (fs::metadata(&file).unwrap().ino(), fs::read_to_string(&file).unwrap()),
        (inode, text.clone())
    );

    Ini::of(&["redis://g", "--out", &out]).run().is(0, "", "");
    assert_eq!(fs::read_to_string(&file).unwrap(), text.replace("//h", "//g"));
}

fn new_files() {
    let directory = TempDir::new();
    for (name, arguments, mode) in [
        ("open", &["redis://h"][..], 0o644),
        ("detected", &[], 0o644),
        ("named", &["env:REDIS_URL"], 0o644),
        ("native, no password yet", &["redis://h", "--for", "phpredis"], 0o640),
        ("native, detected", &["--for", "phpredis"], 0o640),
        ("given", &["redis://:s3cr3t@h"], 0o640),
        ("native", &["redis://:s3cr3t@h", "--for", "phpredis"], 0o640),
    ] {
        let file = directory.join(name);
        let out = file.display().to_string();
        let ini = Ini::of(&[arguments, &["--out", &out]].concat());
        ini.env("REDIS_URL", "redis://:s3cr3t@h").run().is(0, "", "");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, mode, "{name}");
    }
}

fn unwritable() {
    let directory = TempDir::new();
    let missing = directory.join("missing/php.ini").display().to_string();
    Ini::of(&["redis://h", "--out", &missing]).run().is(
        1,
        "",
        &format!(
            "error: cannot write {missing}: No such file or directory (os error 2)\nhint: the directory must be \
             writable, too: the file is replaced whole\n"
        ),
    );
    let cut = format!("a = 1\n{BEGIN}b = 2\n");
    let file = directory.write("php.ini", &cut);
    let out = file.display().to_string();
    let ran = Ini::of(&["redis://h", "--out", &out]).run();
    let (begin, end) = (BEGIN.trim_end(), END.trim_end());
    ran.is(
        1,
        "",
        &format!(
            "error: {out}: the line \"{end}\" is missing\nhint: write it behind the settings that follow \
             \"{begin}\"\n"
        ),
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), cut);
}

/// The command, in an environment that says nothing else.
struct Ini(Command);

impl Ini {
    fn of(arguments: &[&str]) -> Ini {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
        command.env_clear().arg("ini").args(arguments);
        Ini(command)
    }

    fn env(mut self, name: &str, value: &str) -> Ini {
        self.0.env(name, value);
        self
    }

    fn run(mut self) -> Ran {
        Ran::of(&mut self.0)
    }
}
