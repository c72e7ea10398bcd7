//! `cloakroom check`, `ini` and `detect`.

use serde_json::{Value, json};
use testbed::dynamodb::{Engine, Program, Proxy};
use testbed::suite::{Case, case};

use crate::{DYNALITE, LOCAL, Ran, cloakroom, command, masked, table, url};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_table_is_fine", LOCAL, fine),
        case("a_table_without_ttl_is_told_of", DYNALITE, without_ttl),
        case("a_table_with_little_capacity_is_noted", DYNALITE, little_capacity),
        case("a_clock_that_is_wrong_is_told_of", DYNALITE, wrong_clock),
        case("it_is_told_whose_credentials_are_used", DYNALITE, credentials),
        case("temporary_credentials_that_nobody_renews_are_noted", DYNALITE, temporary),
        case("no_credentials_are_a_problem", DYNALITE, no_credentials),
        case("no_region_is_a_problem", &[], no_region),
        case("ini_names_the_table_for_cloakroom_and_for_nobody_else", &[], ini),
        case("a_url_that_is_called_the_sessions_is_detected_and_aws_is_not", &[], detected),
    ]
}

/// What is promised by a table.
const PROMISED: &str = "
  lock of a worker that died   ends with its lease (cloakroom.lease)
  shared between hosts         yes
  survives a restart           yes
  expired sessions             removed by the table's TTL, or by cloakroom gc
  largest session              408576 bytes
  waiting requests counted     on all hosts
  sessions can be listed       yes

  step                               time  exchanges  connects
";

fn fine() {
    let (table, url) = table(Program::Local);
    table.expire_by("expires");
    let ran = cloakroom(&["check", &url]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", ran.stdout);
    let endpoint = Engine::shared(Program::Local).endpoint();
    let head = format!(
        "store: {}\n\n  region                       eu-west-1\n  endpoint                     {endpoint}\n  \
         credentials                  key key, from the URL{PROMISED}",
        masked(&url)
    );
    assert!(ran.stdout.starts_with(&head), "{}", ran.stdout);
    let steps: Vec<&str> = ran.stdout[head.len()..]
        .lines()
        .filter(|line| line.starts_with("  "))
        .map(|line| line[..30].trim())
        .collect();
    let expected = [
        "reach the store",
        "lock and read a new session",
        "keep a second worker out",
        "write and unlock",
        "lock and read it again",
        "delete and unlock",
        "find nothing left",
        "look at its configuration",
    ];
    assert_eq!(steps, expected);
    assert!(ran.stdout.ends_with(" -\n\nok: the store keeps sessions, and locks them\n"), "{}", ran.stdout);
    assert_eq!(table.scan(), Vec::<Value>::new());
}

/// The findings, as JSON has them: gravity, what and hint.
fn findings(command: &mut std::process::Command) -> Vec<(String, String, String)> {
    let ran = Ran::of(command);
    let value: Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}{}", ran.stdout, ran.stderr));
    let findings = value["findings"].as_array().unwrap_or_else(|| panic!("{value:#}")).clone();
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    findings.iter().map(|it| (text(it, "gravity"), text(it, "what"), text(it, "hint"))).collect()
}

/// That every table of dynalite has.
fn no_ttl() -> (String, String, String) {
    (
        "warning".into(),
        "the table's TTL is off: expired sessions stay".into(),
        "switch it on: cloakroom create, with this URL; or run cloakroom gc each day".into(),
    )
}

fn without_ttl() {
    let (_, url) = table(Program::Dynalite);
    assert_eq!(findings(&mut command(&["check", "--json", &url])), [no_ttl()]);
    let (_, url) = table(Program::Local);
    assert_eq!(findings(&mut command(&["check", "--json", &url])), [no_ttl()]);
}

fn little_capacity() {
    let engine = Engine::shared(Program::Dynalite);
    let url = url(&engine.endpoint(), &crate::fresh());
    assert_eq!(cloakroom(&["create", &url, "--read-units", "5", "--write-units", "5"]).code, Some(0));
    let capacity = (
        "note".into(),
        "the table takes 5 write units a second: 2 requests with a session of up to 1 KB, or fewer with larger ones".into(),
        "let it be paid per request, or give it more: aws dynamodb update-table".into(),
    );
    assert_eq!(findings(&mut command(&["check", "--json", &url])), [capacity, no_ttl()]);
}

fn wrong_clock() {
    let (table, _) = table(Program::Dynalite);
    let proxy = Proxy::to(Engine::shared(Program::Dynalite));
    proxy.shift_clock(600);
    let found = findings(&mut command(&["check", "--json", &url(&proxy.endpoint(), table.name())]));
    let (gravity, what, _) = found.iter().find(|(_, what, _)| what.contains("clock")).unwrap();
    assert_eq!(gravity, "warning");
    assert!(what.ends_with("seconds ahead of this host's"), "{what}");
}

fn credentials() {
    let (_, url) = table(Program::Dynalite);
    let url = url.replace("key:secret@", "");
    let mut check = command(&["check", "--json", &url]);
    check.env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE").env("AWS_SECRET_ACCESS_KEY", "s3cr3t");
    let ran = Ran::of(&mut check);
    let value: Value = serde_json::from_str(&ran.stdout).unwrap();
    let endpoint = Engine::shared(Program::Dynalite).endpoint();
    let expected = json!({
        "region": "eu-west-1", "endpoint": endpoint, "credentials": "key ...MPLE, from the environment",
    });
    assert_eq!(value["resolved"], expected);
    assert!(!ran.stdout.contains("s3cr3t"), "{}", ran.stdout);
}

fn temporary() {
    let (_, url) = table(Program::Dynalite);
    let url = url.replace("key:secret@", "");
    let mut check = command(&["check", "--json", &url]);
    check.env("AWS_ACCESS_KEY_ID", "ASIAIOSFODNN7EXAMPLE").env("AWS_SECRET_ACCESS_KEY", "s3cr3t");
    let noted = (
        "note".into(),
        "the credentials (from the environment) are temporary, and nobody renews them".into(),
        "let PHP's host, task or pod have a role, or use keys that do not end".into(),
    );
    assert_eq!(findings(check.env("AWS_SESSION_TOKEN", "t0k3n")), [no_ttl(), noted]);
}

fn no_credentials() {
    let (_, url) = table(Program::Dynalite);
    let ran = cloakroom(&["check", &url.replace("key:secret@", "")]);
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert!(ran.stderr.contains("there are no AWS credentials"), "{}", ran.stderr);
    assert!(ran.stderr.contains("\nhint: give the instance, task or pod a role"), "{}", ran.stderr);
}

fn no_region() {
    let ran = cloakroom(&["check", "dynamodb://key:secret@/sessions"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert!(ran.stderr.contains("no AWS region is named"), "{}", ran.stderr);
}

fn ini() {
    let url = "dynamodb://eu-west-1/sessions";
    let expected = "; cloakroom ini: from here, rewritten at each run\nsession.save_handler = \"cloakroom\"\n\
                    session.save_path = \"dynamodb://eu-west-1/sessions\"\n; cloakroom ini: to here\n";
    cloakroom(&["ini", url]).is(0, expected, "");
    for handler in ["phpredis", "php-memcached"] {
        let refused = format!(
            "error: AWS's own session handler is made in the app, and has no ini settings (store {url})\n\
             hint: write --for cloakroom; apps with AWS's handler share its sessions (docs/dynamodb.md)\n"
        );
        cloakroom(&["ini", url, "--for", handler]).is(1, "", &refused);
    }
}

fn detected() {
    let found = |variables: &[(&str, &str)]| {
        let ran = Ran::of(command(&["detect", "--json"]).env_clear().envs(variables.iter().copied()));
        serde_json::from_str::<Value>(&ran.stdout).unwrap()["store"].as_str().unwrap().to_owned()
    };
    let aws = [("AWS_REGION", "eu-west-1"), ("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "s")];
    assert_eq!(found(&aws), "files");
    let url = "dynamodb://eu-west-1/sessions";
    for name in ["SESSION_STORE_URL", "PHP_SESSIONS_URL"] {
        assert_eq!(found(&[&aws[..], &[(name, url)]].concat()), url, "{name}");
    }
}
