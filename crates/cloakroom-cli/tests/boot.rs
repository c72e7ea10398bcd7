//! The recipes of docs/boot.md, run as they are written there, in the environment of their platform, twice as two starts do;
//! then PHP, from the same shell.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use testbed::TempDir;
use testbed::need::Need;
use testbed::redis::Redis;
use testbed::suite::{case, run};

fn main() {
    let needs = [Need::Php, Need::Redis, Need::PhpRedis, Need::PhpIgbinary];
    run(vec![
        case("heroku_profile_d", &needs, || recipe("# .profile.d/cloakroom.sh", heroku)),
        case("cloud_foundry_profile", &needs, || recipe("# .profile", cloud_foundry)),
        case("upsun_deploy_hook", &needs, || recipe("# hooks: deploy", upsun)),
        case("docker_entrypoint", &needs, docker),
        case("nothing_starts_where_the_store_is_not_clear", &needs, not_clear),
    ]);
}

const PASSWORD: &str = "a+b, c&d$e\\";

const COUNT: &str = "session_id('boot'); session_start(['use_cookies' => 0, 'cache_limiter' => '']);
    $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
    echo ini_get('session.save_handler'), ' ', $_SESSION['n'], ' ', ini_get('redis.session.locking_enabled');";

fn heroku(redis: &Redis) -> Vec<(&'static str, String)> {
    let url = format!("redis://h:{}@{}", encoded(), redis.address());
    vec![("DYNO", "web.1".into()), ("REDIS_URL", url)]
}

fn cloud_foundry(redis: &Redis) -> Vec<(&'static str, String)> {
    let password = PASSWORD.replace('\\', "\\\\");
    let services = format!(
        r#"{{"p-redis": [{{"name": "app-redis-sessions", "label": "p-redis",
            "credentials": {{"host": "127.0.0.1", "port": {}, "password": "{password}"}}}}]}}"#,
        redis.port()
    );
    vec![("VCAP_APPLICATION", "{}".into()), ("VCAP_SERVICES", services)]
}

fn upsun(redis: &Redis) -> Vec<(&'static str, String)> {
    let password = PASSWORD.replace('\\', "\\\\");
    let relationships = format!(
        r#"{{"redissession": [{{"scheme": "redis", "host": "127.0.0.1", "port": {}, "password": "{password}"}}]}}"#,
        redis.port()
    );
    vec![("PLATFORM_RELATIONSHIPS", base64(relationships.as_bytes()))]
}

/// An application's home with `bin/cloakroom`, and a directory of the platform's own with phpredis.
struct Home(TempDir);

impl Home {
    fn new() -> Home {
        let home = TempDir::new();
        for directory in ["bin", "platform/conf.d"] {
            fs::create_dir_all(home.join(directory)).unwrap();
        }
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_cloakroom"), home.join("bin/cloakroom")).unwrap();
        home.write("platform/conf.d/20-redis.ini", "extension=igbinary.so\nextension=redis.so\n");
        Home(home)
    }

    fn shell(&self, program: &str, variables: &[(&'static str, String)]) -> Command {
        let home = self.0.path();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", format!("{}/bin:/usr/local/bin:/usr/bin:/bin", home.display()))
            .env("HOME", home)
            .env("PLATFORM_APP_DIR", home)
            .env("PHP_INI_DIR", home.join("platform"))
            .env("PHPRC", home)
            .env("PHP_INI_SCAN_DIR", home.join("platform/conf.d"))
            .envs(variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Sources the recipe, as platforms do, and starts PHP.
#[track_caller]
fn recipe(first_line: &str, variables: fn(&Redis) -> Vec<(&'static str, String)>) {
    let redis = Redis::with(&["--requirepass", PASSWORD]);
    let home = Home::new();
    let script = home.0.write("recipe.sh", block(first_line));
    // What stands under `variables:` there.
    let setting = if first_line == "# hooks: deploy" {
        "export PHP_INI_SCAN_DIR=$PHP_INI_SCAN_DIR:$PLATFORM_APP_DIR/.php"
    } else {
        "true"
    };
    for number in 1..=2 {
        let mut bash = home.shell("bash", &variables(&redis));
        bash.args(["-c", &format!(". \"$0\"; {setting}; exec php -r \"$1\"")]).arg(&script).arg(COUNT);
        is(&bash.output().unwrap(), &format!("redis {number} 1"));
    }
    assert_eq!(redis.command(&["DBSIZE"]), "1");
}

/// The entrypoint gets the command's words.
fn docker() {
    let redis = Redis::with(&["--requirepass", PASSWORD]);
    let home = Home::new();
    let executable = |name: &str, text: &str| {
        let path = home.0.write(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let entrypoint = executable("entrypoint", &block("#!/bin/sh"));
    executable("bin/docker-php-entrypoint", "#!/bin/sh\nexec \"$@\"\n");
    let secret = home.0.write("redis", format!("{PASSWORD}\n")).display().to_string();
    let variables = [
        ("REDIS_HOST", "127.0.0.1".to_owned()),
        ("REDIS_PORT", redis.port().to_string()),
        ("REDIS_PASSWORD_FILE", secret),
    ];
    for number in 1..=2 {
        let mut shell = home.shell("sh", &variables);
        let ran =
            shell.arg("-c").arg("exec \"$0\" php -r \"$1\"").arg(&entrypoint).arg(COUNT).output().unwrap();
        is(&ran, &format!("redis {number} 1"));
    }
}

fn not_clear() {
    let home = Home::new();
    let script = home.0.write("recipe.sh", block("# .profile.d/cloakroom.sh"));
    let variables = [
        ("HEROKU_REDIS_COBALT_URL", "redis://:s3cr3t@c".to_owned()),
        ("HEROKU_REDIS_GOLD_URL", "redis://:s3cr3t@g".to_owned()),
    ];
    let mut bash = home.shell("bash", &variables);
    let ran = bash.args(["-c", ". \"$0\"; echo started"]).arg(&script).output().unwrap();
    assert_eq!((ran.status.code(), String::from_utf8(ran.stdout).unwrap()), (Some(1), String::new()));
    assert_eq!(
        String::from_utf8(ran.stderr).unwrap(),
        "error: HEROKU_REDIS_COBALT_URL and HEROKU_REDIS_GOLD_URL name different stores, and nothing says which is for \
         sessions\nhint: set SESSION_STORE_URL to the one that is meant, such as \
         SESSION_STORE_URL=env:HEROKU_REDIS_COBALT_URL\n"
    );
}

/// The block of docs/boot.md that begins with this line.
#[track_caller]
fn block(first_line: &str) -> String {
    let text = fs::read_to_string(testbed::php::workspace().join("docs/boot.md")).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```\n").next().unwrap().to_owned());
    let mut found = blocks.filter(|block| block.lines().next() == Some(first_line));
    found.next().unwrap_or_else(|| panic!("docs/boot.md has no block that begins with {first_line}"))
}

#[track_caller]
fn is(ran: &Output, printed: &str) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!((text(&ran.stdout), text(&ran.stderr)), (printed.to_owned(), String::new()));
    assert!(ran.status.success());
}

fn encoded() -> String {
    PASSWORD.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let number =
            group.iter().enumerate().fold(0u32, |sum, (at, byte)| sum | u32::from(*byte) << (16 - 8 * at));
        let digit = |at: usize| char::from(DIGITS[(number >> (18 - 6 * at)) as usize & 63]);
        (0..4).map(|at| if at <= group.len() { digit(at) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}
