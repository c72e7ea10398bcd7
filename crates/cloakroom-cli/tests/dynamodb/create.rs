//! `cloakroom create`.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::dynamodb::{Engine, Fault, Program, Proxy, Table};
use testbed::suite::{Case, case};

use crate::{DYNALITE, LOCAL, Ran, cloakroom, command, fresh, masked, url};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_table_is_created_and_left_alone_later", LOCAL, created),
        case("an_engine_without_ttl_is_told_of_and_is_no_problem", DYNALITE, without_ttl),
        case("a_table_has_the_capacity_that_is_asked_for", DYNALITE, capacity),
        case("the_attributes_are_those_of_the_url", LOCAL, attributes),
        case("ttl_is_switched_on_where_it_is_off", LOCAL, completed),
        case("who_is_as_quick_to_switch_ttl_on_is_no_problem", LOCAL, switched_by_two),
        case("an_answer_that_is_lost_is_no_problem", LOCAL, lost_answers),
        case("a_table_of_another_shape_is_a_problem_and_stays", DYNALITE, another_shape),
        case("ttl_by_another_attribute_is_a_problem_and_stays", LOCAL, another_ttl),
        case("a_table_that_is_being_deleted_is_waited_for_and_created_anew", DYNALITE, being_deleted),
        case("a_table_that_is_not_ready_in_time_is_told", DYNALITE, not_ready),
        case("what_was_created_is_told_as_json", DYNALITE, json_tells),
        case("the_table_of_the_environment_is_created", DYNALITE, detected),
        case("other_stores_have_nothing_to_create", &[], other_stores),
        case("one_kind_of_units_alone_is_wrong_usage", &[], one_kind),
        case("an_engine_that_is_down_creates_nothing", &[], down),
    ]
}

fn described(engine: &Engine, table: &str) -> Value {
    engine.call("DescribeTable", &json!({ "TableName": table }))["Table"].clone()
}

fn ttl(engine: &Engine, table: &str) -> Value {
    let told = engine.call("DescribeTimeToLive", &json!({ "TableName": table }));
    told["TimeToLiveDescription"].clone()
}

fn created() {
    let (engine, table) = (Engine::shared(Program::Local), fresh());
    let url = url(&engine.endpoint(), &table);
    let first = format!(
        "store: {}\n\ncreated the table {table}, paid per request\nswitched its TTL on, by the attribute expires\n",
        masked(&url)
    );
    cloakroom(&["create", &url]).is(0, &first, "");
    let made = described(engine, &table);
    assert_eq!(made["KeySchema"], json!([{ "AttributeName": "id", "KeyType": "HASH" }]));
    assert_eq!(made["AttributeDefinitions"], json!([{ "AttributeName": "id", "AttributeType": "S" }]));
    assert_eq!(made["BillingModeSummary"]["BillingMode"], "PAY_PER_REQUEST");
    assert_eq!(ttl(engine, &table), json!({ "TimeToLiveStatus": "ENABLED", "AttributeName": "expires" }));
    let second = format!(
        "store: {}\n\nthe table {table} was there, with the key that it has to have\n\
         its TTL was on, by the attribute expires\n",
        masked(&url)
    );
    cloakroom(&["create", &url]).is(0, &second, "");
    assert_eq!(described(engine, &table), made);
}

fn without_ttl() {
    let (engine, table) = (Engine::shared(Program::Dynalite), fresh());
    let url = url(&engine.endpoint(), &table);
    let notice =
        "notice: this engine has no TTL: expired sessions stay\nhint: run cloakroom gc where that matters\n";
    let store = masked(&url);
    let first = format!("store: {store}\n\ncreated the table {table}, paid per request\n");
    cloakroom(&["create", &url]).is(0, &first, notice);
    let second = format!("store: {store}\n\nthe table {table} was there, with the key that it has to have\n");
    cloakroom(&["create", &url]).is(0, &second, notice);
}

fn capacity() {
    let (engine, table) = (Engine::shared(Program::Dynalite), fresh());
    let url = url(&engine.endpoint(), &table);
    let units = |read, write| cloakroom(&["create", &url, "--read-units", read, "--write-units", write]);
    let made = units("7", "9");
    let words = format!("created the table {table}, 7 read units and 9 write units a second\n");
    assert!(made.stdout.ends_with(&words), "{}", made.stdout);
    let throughput = described(engine, &table)["ProvisionedThroughput"].clone();
    assert_eq!((&throughput["ReadCapacityUnits"], &throughput["WriteCapacityUnits"]), (&json!(7), &json!(9)));
    assert_eq!((units("7", "9").code, cloakroom(&["create", &url]).code), (Some(0), Some(0)));
    units("7", "10").is(
        1,
        "",
        &format!(
            "error: the table {table} is there, and its capacity is 7 read units and 9 write units a second, not 7 read \
             units and 10 write units a second (store {})\n\
             hint: change it with aws dynamodb update-table, or leave out --read-units and --write-units\n",
            masked(&url)
        ),
    );
}

fn attributes() {
    let (engine, table) = (Engine::shared(Program::Local), fresh());
    let url = url(&engine.endpoint(), &table) + "&hash_key=session&ttl=until";
    let made = cloakroom(&["create", &url]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    assert_eq!(described(engine, &table)["KeySchema"][0]["AttributeName"], "session");
    assert_eq!(ttl(engine, &table)["AttributeName"], "until");
}

fn completed() {
    let engine = Engine::shared(Program::Local);
    let table = engine.create_table(&fresh(), "id");
    let url = url(&engine.endpoint(), table.name());
    let expected = format!(
        "store: {}\n\nthe table {} was there, with the key that it has to have\n\
         switched its TTL on, by the attribute expires\n",
        masked(&url),
        table.name()
    );
    cloakroom(&["create", &url]).is(0, &expected, "");
    assert_eq!(ttl(engine, table.name())["TimeToLiveStatus"], "ENABLED");
}

/// A table made by hand.
fn made(engine: &Engine, keys: Value, types: Value, more: Value) -> String {
    let table = fresh();
    let mut request = json!({
        "TableName": table, "BillingMode": "PAY_PER_REQUEST", "KeySchema": keys, "AttributeDefinitions": types,
    });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    engine.call("CreateTable", &request);
    testbed::wait_until("the table is active", std::time::Duration::from_secs(60), || {
        described(engine, &table)["TableStatus"] == "ACTIVE"
    });
    table
}

/// As when each server of a fleet runs it at its start.
fn switched_by_two() {
    let (engine, table) = (Engine::shared(Program::Local), fresh());
    let proxy = Proxy::to(engine);
    let other = engine.create_table(&table, "id");
    proxy.decide(move |seen| {
        if seen.operation == "UpdateTimeToLive" {
            other.expire_by("expires");
        }
        Fault::None
    });
    let ran = cloakroom(&["create", &url(&proxy.endpoint(), &table)]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(ttl(engine, &table)["AttributeName"], "expires");
}

fn lost_answers() {
    let (engine, table) = (Engine::shared(Program::Local), fresh());
    let proxy = Proxy::to(engine);
    for operation in ["CreateTable", "UpdateTimeToLive"] {
        let mut first = true;
        let cut = move |seen: &testbed::dynamodb::Seen| match seen.operation == operation
            && std::mem::take(&mut first)
        {
            true => Fault::CutAfter,
            false => Fault::None,
        };
        proxy.decide(cut);
        let url = url(&proxy.endpoint(), &format!("{table}-{operation}"));
        let ran = cloakroom(&["create", &url]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{operation}");
        assert!(ran.stdout.contains("switched its TTL on"), "{}", ran.stdout);
    }
}

fn another_shape() {
    let engine = Engine::shared(Program::Dynalite);
    let hash = |name: &str| json!({ "AttributeName": name, "KeyType": "HASH" });
    let of = |name: &str, kind: &str| json!({ "AttributeName": name, "AttributeType": kind });
    let index = json!({ "GlobalSecondaryIndexes": [{
        "IndexName": "by_user", "KeySchema": [hash("user")], "Projection": { "ProjectionType": "KEYS_ONLY" },
    }]});
    let sort = json!({ "AttributeName": "part", "KeyType": "RANGE" });
    for (keys, types, more, what) in [
        (json!([hash("session")]), json!([of("session", "S")]), json!({}), "its key is session, not id"),
        (json!([hash("id")]), json!([of("id", "B")]), json!({}), "its key is of the type B, not S"),
        (
            json!([hash("id"), sort]),
            json!([of("id", "S"), of("part", "N")]),
            json!({}),
            "it has a sort key, part",
        ),
        (
            json!([hash("id")]),
            json!([of("id", "S"), of("user", "S")]),
            index,
            "it has an index, by_user: each write may be billed once more for it",
        ),
    ] {
        let table = made(engine, keys, types, more);
        let before = described(engine, &table);
        let url = url(&engine.endpoint(), &table);
        let expected = format!(
            "error: the table {table} is there, and {what} (store {})\n\
             hint: take another name for the table, or correct the URL; nothing was changed\n",
            masked(&url)
        );
        cloakroom(&["create", &url]).is(1, "", &expected);
        assert_eq!(described(engine, &table), before);
    }
}

fn another_ttl() {
    let engine = Engine::shared(Program::Local);
    let table: Table = engine.create_table(&fresh(), "id");
    table.expire_by("until");
    let url = url(&engine.endpoint(), table.name());
    let expected = format!(
        "error: the table {} is there, and its TTL is by the attribute until, not expires (store {})\n\
         hint: write ttl=until into the URL where sessions are to have it there, or switch it off first\n",
        table.name(),
        masked(&url)
    );
    cloakroom(&["create", &url]).is(1, "", &expected);
    assert_eq!(ttl(engine, table.name())["AttributeName"], "until");
}

fn being_deleted() {
    let engine = Engine::slow_dynalite(Duration::ZERO, Duration::from_secs(1));
    let table = engine.create_table("sessions", "id");
    table.call("DeleteTable", json!({}));
    let ran = cloakroom(&["create", &url(&engine.endpoint(), "sessions"), "--wait", "60"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("\ncreated the table sessions, paid per request\n"), "{}", ran.stdout);
    assert_eq!(described(&engine, "sessions")["TableStatus"], "ACTIVE");
}

fn not_ready() {
    let engine = Engine::slow_dynalite(Duration::from_secs(3600), Duration::ZERO);
    let url = url(&engine.endpoint(), "sessions");
    let expected = format!(
        "error: the table is not ready yet: it is CREATING (store {})\n\
         hint: do the same again: it goes on where this stopped\n",
        masked(&url)
    );
    cloakroom(&["create", &url, "--wait", "8"]).is(1, "", &expected);
}

fn json_tells() {
    let (engine, table) = (Engine::shared(Program::Dynalite), fresh());
    let url = url(&engine.endpoint(), &table);
    let told = |ran: Ran| serde_json::from_str::<Value>(&ran.stdout).unwrap();
    for created in [true, false] {
        let expected = json!({
            "store": masked(&url), "table": table, "created": created, "ttl": null, "ttl_switched_on": false,
        });
        assert_eq!(told(cloakroom(&["create", &url, "--json"])), expected);
    }
}

fn other_stores() {
    let expected = "nothing to create: only DynamoDB has tables (store redis://:***@h)\n";
    cloakroom(&["create", "redis://:s3cr3t@h"]).is(0, expected, "");
}

fn detected() {
    let url = url(&Engine::shared(Program::Dynalite).endpoint(), &fresh());
    let named = |arguments: &[&str]| Ran::of(command(arguments).env("SESSION_STORE_URL", &url));
    let ran = named(&["create", "auto"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("\ncreated the table "), "{}", ran.stdout);
    assert_eq!(named(&["iam", "auto"]).stdout, cloakroom(&["iam", &url]).stdout);
}

fn one_kind() {
    let ran = cloakroom(&["create", "dynamodb://eu-west-1/sessions", "--read-units", "5"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
}

fn down() {
    let url = url(&format!("http://127.0.0.1:{}", testbed::free_port()), "sessions");
    let ran = cloakroom(&["create", &url]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert!(ran.stderr.starts_with("error: cannot look at the table"), "{}", ran.stderr);
}
