//! The two DynamoDBs do what the tests take for granted.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::dynamodb::{Engine, Program, call};
use testbed::need::Need;
use testbed::suite::{Case, case, run};
use testbed::wait_until;

/// DynamoDBLocal takes some seconds; AWS up to a few days.
const DELETED: Duration = Duration::from_secs(120);

fn main() {
    let mut cases = vec![
        case("dynamodb_restarts_without_its_tables_on_its_port", &[Need::Dynalite], restart),
        case("dynamodb_local_deletes_what_has_expired", &[Need::DynamoDbLocal], expired),
    ];
    for (program, need) in [(Program::Dynalite, Need::Dynalite), (Program::Local, Need::DynamoDbLocal)] {
        let mut on = |name: &str, run: fn(&'static Engine)| {
            let named = format!("{}: {name}", program.name());
            cases.push(case(named, &[need], move || run(Engine::shared(program))) as Case);
        };
        on("items_are_put_found_changed_and_scanned", items);
        on("a_failed_condition_says_so_and_no_more", failed_condition);
    }
    run(cases)
}

fn items(engine: &'static Engine) {
    let table = engine.create_table("items", "key");
    assert_eq!(table.get("a"), None);
    let item = json!({"key": {"S": "a"}, "data": {"B": "AP8="}, "lock": {"N": "1"}});
    table.put(item.clone());
    assert_eq!(table.get("a"), Some(item));
    table.update("a", "SET #expires = :expires REMOVE #lock, #data", json!({":expires": {"N": "5"}}));
    assert_eq!(table.get("a"), Some(json!({"key": {"S": "a"}, "expires": {"N": "5"}})));
    // Four answers of 1 MB at most.
    for key in 0..10 {
        table.put(json!({"key": {"S": format!("big {key}")}, "data": {"S": "x".repeat(390_000)}}));
    }
    assert_eq!(table.scan().len(), 11);
    table.delete("a");
    assert_eq!(table.get("a"), None);
}

fn failed_condition(engine: &'static Engine) {
    let table = engine.create_table("conditions", "id");
    table.put(json!({"id": {"S": "a"}, "lock": {"N": "1"}}));
    let refusal = call(
        &engine.endpoint(),
        "DeleteItem",
        &json!({
            "TableName": table.name(),
            "Key": {"id": {"S": "a"}},
            "ConditionExpression": "attribute_not_exists(#lock)",
            "ExpressionAttributeNames": {"#lock": "lock"},
        }),
    )
    .expect_err("it is locked");
    let told = (refusal.status, refusal.kind.as_str(), refusal.message.as_str());
    assert_eq!(told, (400, "ConditionalCheckFailedException", "The conditional request failed"));
}

fn restart() {
    let engine = Engine::dynalite();
    let table = engine.create_table("lost", "id");
    table.put(json!({"id": {"S": "a"}}));
    engine.kill();
    let refusal = call(&engine.endpoint(), "ListTables", &json!({})).expect_err("it is down");
    assert_eq!(refusal.status, 0, "{refusal}");
    engine.restart();
    assert_eq!(engine.call("ListTables", &json!({})), json!({"TableNames": []}));
}

fn expired() {
    let table = Engine::shared(Program::Local).create_table("expiring", "id");
    table.expire_by("expires");
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let expiring = |key: &str, expires: u64| {
        table.put(json!({"id": {"S": key}, "expires": {"N": expires.to_string()}}));
    };
    expiring("past", now - 60);
    expiring("future", now + 3600);
    table.put(json!({"id": {"S": "endless"}}));
    wait_until("what has expired is deleted", DELETED, || table.get("past").is_none());
    let mut left: Vec<Value> = table.scan().iter().map(|item| item["id"]["S"].clone()).collect();
    left.sort_by_key(Value::to_string);
    assert_eq!(left, ["endless", "future"]);
}
