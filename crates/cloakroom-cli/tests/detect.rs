//! `cloakroom detect`: the whole output, for environments of platforms.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ran;

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use testbed::TempDir;
use testbed::process::Process;

use ran::Ran;

#[test]
fn every_candidate_is_shown_with_what_became_of_it() {
    let file = heroku();
    detect(&["--env-file", &file.path]).is(
        0,
        "store: rediss://:***@ec2-1.compute-1.amazonaws.com:21070?verify_peer=0 (REDIS_URL)

named by                                                      rank  platform  store                                                            standing
REDIS_URL                                                     4     anywhere  rediss://:***@ec2-1.compute-1.amazonaws.com:21070?verify_peer=0  chosen
DATABASE_URL                                                  4     anywhere  -                                                                a database is never taken by itself; SESSION_STORE_URL=env:DATABASE_URL takes it
MEMCACHIER_SERVERS, MEMCACHIER_USERNAME, MEMCACHIER_PASSWORD  6     Heroku    memcached://u:***@a:11211,b:11212                                REDIS_URL comes first
",
        "",
    );
}

#[test]
fn json_says_the_same() {
    let file = heroku();
    let ran = detect(&["--env-file", &file.path, "--json"]);
    let expected = serde_json::json!({
        "store": "rediss://:***@ec2-1.compute-1.amazonaws.com:21070?verify_peer=0",
        "from": ["REDIS_URL"],
        "candidates": [
            {
                "from": ["REDIS_URL"], "part": null, "rank": 4, "platform": "anywhere",
                "store": "rediss://:***@ec2-1.compute-1.amazonaws.com:21070?verify_peer=0", "chosen": true, "reason": null,
            },
            {
                "from": ["DATABASE_URL"], "part": null, "rank": 4, "platform": "anywhere", "store": null, "chosen": false,
                "reason": "a database is never taken by itself; SESSION_STORE_URL=env:DATABASE_URL takes it",
            },
            {
                "from": ["MEMCACHIER_SERVERS", "MEMCACHIER_USERNAME", "MEMCACHIER_PASSWORD"], "part": null, "rank": 6,
                "platform": "Heroku", "store": "memcached://u:***@a:11211,b:11212", "chosen": false,
                "reason": "REDIS_URL comes first",
            },
        ],
        "platform": "Heroku",
        "notices": [],
    });
    ran.is(0, &format!("{expected:#}\n"), "");
}

#[test]
fn stores_that_are_equally_meant_are_a_problem() {
    let file = EnvFile::of("VALKEY_URL=valkey://:s3cr3t@a\nREDISCLOUD_URL=redis://:s3cr3t@b:7\n");
    let error = "VALKEY_URL and REDISCLOUD_URL name different stores, and nothing says which is for sessions
hint: set SESSION_STORE_URL to the one that is meant, such as SESSION_STORE_URL=env:VALKEY_URL";
    detect(&["--env-file", &file.path]).is(
        1,
        "named by        rank  platform  store             standing
VALKEY_URL      4     anywhere  valkey://:***@a   nothing says whether it is meant
REDISCLOUD_URL  4     anywhere  redis://:***@b:7  nothing says whether it is meant
",
        &format!("error: {error}\n"),
    );
    let ran = detect(&["--env-file", &file.path, "--json"]);
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((value["error"].as_str(), value.get("store"), ran.code), (Some(error), None, Some(1)));
    assert_eq!(value["candidates"].as_array().map(Vec::len), Some(2));
}

#[test]
fn an_option_that_the_store_refuses_is_a_problem() {
    let file = EnvFile::of("REDIS_URL=redis://h?family=6\n");
    let ran = detect(&["--env-file", &file.path]);
    let expected = "named by   rank  platform  store                 standing
REDIS_URL  4     anywhere  redis://h?family=***  it has an option that is refused
";
    assert_eq!((ran.stdout.as_str(), ran.code), (expected, Some(1)));
    assert!(
        ran.stderr.starts_with("error: REDIS_URL: unknown option \"family\" (at character 11)"),
        "{}",
        ran.stderr
    );
}

#[test]
fn files_on_a_platform_of_several_servers_are_noticed() {
    detect(&["--env-file", &EnvFile::of("").path]).is(
        0,
        "store: files (the environment names no store)\n",
        "",
    );
    detect(&["--env-file", &EnvFile::of("DYNO=web.1\n").path]).is(
        0,
        "store: files (the environment names no store)

notice: sessions are kept in files of this server alone, and Heroku may run several
hint: bind or attach a Redis or Memcached service, or set SESSION_STORE_URL (files: it is meant so)
",
        "",
    );
    let meant = EnvFile::of("DYNO=web.1\nSESSION_STORE_URL=files\n");
    detect(&["--env-file", &meant.path, "--json"]).is(
        0,
        r#"{
  "candidates": [
    {
      "chosen": true,
      "from": [
        "SESSION_STORE_URL"
      ],
      "part": null,
      "platform": "anywhere",
      "rank": 1,
      "reason": null,
      "store": null
    }
  ],
  "from": [
    "SESSION_STORE_URL"
  ],
  "notices": [],
  "platform": "Heroku",
  "store": "files"
}
"#,
        "",
    );
}

#[test]
fn services_of_cloud_foundry_come_from_a_file() {
    let services = r#"{"p-redis": [{"name": "my-redis-sessions", "credentials": {"host": "r", "port": 1, "password": "s3cr3t"}},
        {"name": "cache", "label": "p-redis", "credentials": {"host": "c"}}]}"#;
    let expected = "store: redis://:***@r:1 (VCAP_SERVICES (service my-redis-sessions))

named by                                   rank  platform       store             standing
VCAP_SERVICES (service my-redis-sessions)  2     Cloud Foundry  redis://:***@r:1  chosen
VCAP_SERVICES (service cache)              2     Cloud Foundry  -                 its name does not contain redis-sessions
";
    let around =
        format!(r#"{{"system_env_json": {{"VCAP_SERVICES": {services}}}, "environment_variables": {{}}}}"#);
    for text in [services, &around] {
        let file = EnvFile::of(text);
        // What the command's own environment says is not the application's.
        let mut command = command();
        let ran = Ran::of(command.args(["detect", "--vcap", &file.path]).env("REDIS_URL", "redis://mine"));
        ran.is(0, expected, "");
    }
    let file = EnvFile::of(services);
    let mut command = command();
    command.args(["detect", "--json", "--vcap", &file.path]).env("REDIS_SESSION_STORE_SERVICE_NAME", "cache");
    let value: serde_json::Value = serde_json::from_str(&Ran::of(&mut command).stdout).unwrap();
    assert_eq!(value["store"], "redis://c:6379");
}

#[test]
fn the_environment_of_a_process_is_looked_at() {
    let directory = TempDir::new();
    let mut command = Command::new("sleep");
    command.arg("600").env_clear().env("REDIS_URL", "redis://:s3cr3t@theirs");
    let process = Process::start(&mut command, directory.path(), "sleep");
    // Until it is the program, it has our environment.
    let environ = format!("/proc/{}/environ", process.pid());
    testbed::wait_until("the program runs", std::time::Duration::from_secs(30), || {
        std::fs::read(&environ).is_ok_and(|bytes| bytes.starts_with(b"REDIS_URL="))
    });
    let expected = "store: redis://:***@theirs (REDIS_URL)

named by   rank  platform  store                standing
REDIS_URL  4     anywhere  redis://:***@theirs  chosen
";
    detect(&["--pid", &process.pid().to_string()]).is(0, expected, "");
}

/// Its title is where its environment was.
#[test]
fn the_environment_of_php_fpms_master_is_looked_at() {
    let Some(program) = testbed::php::fpm_program() else {
        assert!(std::env::var_os("CI").is_none(), "php-fpm is missing");
        return;
    };
    // Where only a debugger's parents may look into a process, the command may not.
    let yama = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    if !matches!(yama.trim(), "" | "0") && std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let directory = TempDir::new();
    let here = directory.path().display();
    let pool = format!(
        "[global]\nerror_log = {here}/log\n[www]\nlisten = {here}/socket\nuser = nobody\npm = static\npm.max_children = 1\n"
    );
    let configuration = directory.write("fpm.conf", pool);
    let long = "x".repeat(10_000);
    let mut command = Command::new(program);
    command.args(["-n", "-F", "-y"]).arg(configuration).env_clear();
    command.env("LONG", &long).env("REDIS_URL", "redis://:s3cr3t@theirs").env("MEMCACHED_HOST", &long);
    let process = Process::start(&mut command, directory.path(), "fpm");
    let title = format!("/proc/{}/cmdline", process.pid());
    testbed::wait_until("the master has its title", std::time::Duration::from_secs(30), || {
        std::fs::read(&title).is_ok_and(|bytes| bytes.starts_with(b"php-fpm: master"))
    });
    let environ = std::fs::read(format!("/proc/{}/environ", process.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&environ).contains("REDIS_URL"), "then /proc is enough");
    let ran = detect(&["--pid", &process.pid().to_string(), "--json"]);
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(value["store"], "redis://:***@theirs", "{}", ran.stdout);
    assert_eq!(value["candidates"][1]["store"], format!("memcached://{long}:11211"));
}

#[test]
fn what_cannot_be_looked_at_is_exit_code_2() {
    detect(&["--pid", "4194305"]).is(
        2,
        "",
        "error: there is no process 4194305\nhint: pgrep -o php-fpm names the master's\n",
    );
    for option in ["--env-file", "--vcap"] {
        detect(&[option, "/nonexistent"]).is(
            2,
            "",
            "error: cannot read /nonexistent: No such file or directory (os error 2)\nhint: name a file of text that this user \
             may read\n",
        );
    }
    let file = EnvFile::of("A=1\nB=\"s3cr3t\n");
    let expected = format!(
        "error: {}, line 2: the quote is not closed\nhint: write NAME=value, NAME=\"value\" or # a comment, each on a line of \
         its own\n",
        file.path
    );
    detect(&["--env-file", &file.path]).is(2, "", &expected);
    assert_eq!(detect(&["--env-file", "f", "--pid", "1"]).code, Some(2));
    assert_eq!(detect(&["surplus"]).code, Some(2));
}

#[test]
fn a_process_of_somebody_else_is_said_to_be() {
    // As nobody, the environment of init is out of reach; whoever is not root needs not become nobody.
    let directory = TempDir::new();
    let program = directory.path().join("cloakroom");
    // By another process: one that is started meanwhile would keep the copy open for writing, and nobody may run it then.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_cloakroom")).arg(&program).status();
    assert!(copied.unwrap().success());
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = match nix::unistd::geteuid().is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program);
            command
        }
        false => Command::new(program),
    };
    command.args(["detect", "--pid", "1"]);
    Ran::of(&mut command).is(
        2,
        "",
        "error: cannot read the environment of process 1: Permission denied (os error 13)\nhint: run this as root, or as the \
         user that the process runs as\n",
    );
}

fn heroku() -> EnvFile {
    EnvFile::of(
        "# as the dashboard shows them
DYNO=web.1
REDIS_URL=\"rediss://h:s3cr3t@ec2-1.compute-1.amazonaws.com:21070\"
MEMCACHIER_SERVERS=a,b:11212
MEMCACHIER_USERNAME=u
MEMCACHIER_PASSWORD='s3cr3t'
DATABASE_URL=postgres://u:s3cr3t@db/x
",
    )
}

struct EnvFile {
    path: String,
    _directory: TempDir,
}

impl EnvFile {
    fn of(text: &str) -> Self {
        let directory = TempDir::new();
        EnvFile { path: directory.write("variables", text).display().to_string(), _directory: directory }
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
    command.env_clear();
    command
}

fn detect(arguments: &[&str]) -> Ran {
    Ran::of(command().arg("detect").args(arguments))
}
