//! What tables of DynamoDB do, each with one thing wrong.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use testbed::dynamodb::{Engine, Fault, Program, Proxy, Table};
use testbed::need::Need;
use testbed::suite::{Case, case};

use crate::tree::{Expected, Tree, note, problem};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_healthy_table_has_nothing", &[Need::DynamoDbLocal], healthy),
        case("a_table_without_ttl_is_named", &[Need::Dynalite], without_ttl),
        case("a_missing_table_is_named", &[Need::Dynalite], missing),
        case("a_table_with_another_key_is_named", &[Need::Dynalite], another_key),
        case("an_endpoint_that_nobody_knows_is_named", &[], unknown_endpoint),
        case("a_closed_endpoint_is_named", &[], closed_endpoint),
        case("a_table_of_another_time_is_named", &[Need::DynamoDbLocal], another_time),
        case("credentials_without_rights_are_named", &[Need::Dynalite], without_rights),
        case("the_environment_of_php_has_the_region_and_the_credentials", &[Need::DynamoDbLocal], of_php),
    ]
}

/// A table of its own, as `cloakroom create` makes it but for the TTL.
fn table(engine: &Engine) -> Table {
    static TABLES: AtomicU32 = AtomicU32::new(0);
    engine.create_table(&format!("table{}", TABLES.fetch_add(1, Ordering::Relaxed)), "id")
}

fn url(endpoint: &str, table: &Table) -> String {
    format!("dynamodb://key:secret@eu-west-1/{}?endpoint={endpoint}", table.name())
}

fn shown(url: &str) -> String {
    url.replace(":secret@", ":***@")
}

/// This store answers, and these are the findings.
#[track_caller]
fn of(url: &str, findings: &[Expected]) {
    let (shown, endpoint) = (shown(url), url.split_once("endpoint=").unwrap().1);
    let looked = format!(
        "{shown}: round trip p50 N ms, p99 N ms; region: eu-west-1; endpoint: {endpoint}; credentials: key key, from the URL"
    );
    Tree::new().finds(&[url], &[&looked], findings);
}

/// This one does not.
#[track_caller]
fn broken(url: &str, finding: Expected) {
    Tree::new().finds(&[url], &[&shown(url)], &[finding]);
}

fn healthy() {
    let engine = Engine::shared(Program::Local);
    let table = table(engine);
    table.expire_by("expires");
    let (stores, found) = told(Tree::new().doctor().arg(url(&engine.endpoint(), &table)));
    let resolved = json!({
        "region": "eu-west-1", "endpoint": engine.endpoint(), "credentials": "key key, from the URL",
    });
    assert_eq!((&stores[0]["resolved"], found), (&resolved, Vec::new()));
}

/// The stores that were looked at, and the findings by name and words, as JSON has them; this engine takes its time on a busy
/// machine, which is none.
fn told(command: &mut Command) -> (Value, Vec<(String, String)>) {
    let output = command.arg("--json").output().unwrap();
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let findings = value["findings"].as_array().unwrap().iter();
    let found = findings.map(|it| (text(it, "name"), text(it, "what"))).filter(|(name, _)| name != "slow");
    (value["stores"].clone(), found.collect())
}

fn nobody_collects(url: &str) -> Expected {
    problem(
        "nobody-collects",
        format!("{}: the table's TTL is off: expired sessions stay", shown(url)),
        "switch it on: cloakroom create, with this URL; or run cloakroom gc each day",
    )
}

fn without_ttl() {
    let engine = Engine::shared(Program::Dynalite);
    let url = url(&engine.endpoint(), &table(engine));
    of(&url, &[nobody_collects(&url)]);
}

fn missing() {
    let endpoint = Engine::shared(Program::Dynalite).endpoint();
    let url = format!("dynamodb://key:secret@eu-west-1/not-there?endpoint={endpoint}");
    let shown = shown(&url);
    let finding = problem(
        "table-missing",
        format!("cannot read the session: there is no table not-there in eu-west-1 (store {shown})"),
        format!(
            "make it with 'cloakroom create {shown}', or correct the table's name, the region or the endpoint"
        ),
    );
    broken(&url, finding);
}

fn another_key() {
    let engine = Engine::shared(Program::Dynalite);
    let name = table(engine).name().to_owned() + "-by-session";
    let table = engine.create_table(&name, "session");
    let url = url(&engine.endpoint(), &table);
    let shown = shown(&url);
    let finding = problem(
        "save-path",
        format!(
            "cannot read the session: the key of the table {name} is not the string id alone (store {shown})"
        ),
        format!("hash_key= must name it; 'cloakroom doctor {shown}' shows the table"),
    );
    broken(&url, finding);
}

fn unknown_endpoint() {
    let url = "dynamodb://key:secret@eu-west-1/sessions?endpoint=https://db.invalid";
    let finding = problem(
        "name-not-found",
        format!("{}: the name db.invalid cannot be resolved", shown(url)),
        "correct the endpoint in session.save_path, or add it to DNS (getent hosts db.invalid)",
    );
    broken(url, finding);
}

fn closed_endpoint() {
    let address = format!("127.0.0.1:{}", testbed::free_port());
    let url = format!("dynamodb://key:secret@eu-west-1/sessions?endpoint=http://{address}");
    let finding = problem(
        "port-closed",
        format!("{}: cannot connect to {address}: Connection refused (os error 111)", shown(&url)),
        "start the server, open the port in its firewall, or correct it in session.save_path",
    );
    broken(&url, finding);
}

fn another_time() {
    let engine = Engine::shared(Program::Local);
    let (table, proxy) = (table(engine), Proxy::to(engine));
    table.expire_by("expires");
    // Ahead: what is locked by a clock that is behind has expired for the engine, which removes it.
    proxy.shift_clock(400 * 24 * 3600);
    let url = url(&proxy.endpoint(), &table);
    let (_, found) = told(Tree::new().doctor().arg(&url));
    let [(name, what)] = found.as_slice() else { panic!("{found:?}") };
    let seconds = what.split(' ').find_map(|word| word.parse::<u64>().ok());
    assert_eq!(name, "clock-skew");
    assert!(what.ends_with(" seconds ahead of this host's"), "{what}");
    assert!(seconds.is_some_and(|seconds| seconds.abs_diff(400 * 24 * 3600) < 600), "{what}");
}

fn without_rights() {
    let engine = Engine::shared(Program::Dynalite);
    let (table, proxy) = (table(engine), Proxy::to(engine));
    let message = "User: arn:aws:iam::1:user/u is not authorized to perform: dynamodb:GetItem";
    proxy.decide(move |seen| match seen.operation.as_str() {
        "GetItem" => Fault::refuse("AccessDeniedException", message),
        _ => Fault::None,
    });
    let (url, name) = (url(&proxy.endpoint(), &table), "refused");
    let shown = shown(&url);
    let finding = problem(
        name,
        format!("cannot read the session: AWS does not allow it: {message} (store {shown})"),
        format!("attach the policy that 'cloakroom iam {shown}' prints to who is named"),
    );
    broken(&url, finding);
    // Without those to look at the table there is no more than a note.
    proxy.decide(move |seen| match seen.operation.starts_with("Describe") {
        true => Fault::refuse("AccessDeniedException", message),
        false => Fault::None,
    });
    let what = "these credentials may not look at the table, and nothing is known of its key and its TTL";
    let change = "servers need not; cloakroom iam --for check says what this command needs";
    of(&url, &[note("store-note", format!("{shown}: {what}"), change)]);
}

fn of_php() {
    let engine = Engine::shared(Program::Local);
    let table = table(engine);
    table.expire_by("expires");
    let tree = Tree::fpm();
    let url = format!("dynamodb:///{}?endpoint={}", table.name(), engine.endpoint());
    tree.write(
        "etc/php/8.2/fpm/conf.d/20-cloakroom.ini",
        format!("extension = cloakroom\nsession.save_handler = cloakroom\nsession.save_path = \"{url}\"\n"),
    );
    let mut doctor = tree.doctor();
    doctor.env("AWS_REGION", "eu-central-1").env_remove("AWS_PROFILE").env_remove("AWS_SESSION_TOKEN");
    doctor.env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE").env("AWS_SECRET_ACCESS_KEY", "s3cr3t");
    let (stores, found) = told(&mut doctor);
    assert_eq!(stores[0]["resolved"]["region"], "eu-central-1");
    assert_eq!(stores[0]["resolved"]["credentials"], "key ...MPLE, from the environment");
    assert_eq!(found, Vec::new());
}
