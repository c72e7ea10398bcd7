//! The two DynamoDBs do what the tests take for granted.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use testbed::dynamodb::{Engine, Fault, Program, Proxy, Table, Tls, call, sdk_handler};
use testbed::http::{Browser, Response};
use testbed::need::Need;
use testbed::php::Script;
use testbed::suite::{case, run};
use testbed::wait_until;

const SOON: Duration = Duration::from_secs(30);

/// DynamoDBLocal takes some seconds; AWS up to a few days.
const DELETED: Duration = Duration::from_secs(120);

fn main() {
    let local = &[Need::DynamoDbLocal];
    let dynalite = &[Need::Dynalite];
    let mut cases = vec![
        case("dynamodb_restarts_without_its_tables_on_its_port", dynalite, restart),
        case("dynamodb_local_deletes_what_has_expired", local, expired),
        case("the_dynamodb_proxy_writes_down_what_was_asked_and_answered", dynalite, proxy_writes_down),
        case("the_dynamodb_proxy_refuses_as_it_is_told", dynalite, proxy_refuses),
        case("the_dynamodb_proxy_fails_the_first_attempts_of_every_request", dynalite, proxy_fails_first),
        case("the_dynamodb_proxy_cuts_before_or_after_it_is_done", dynalite, proxy_cuts),
        case("the_dynamodb_proxy_hangs_before_or_after_it_is_done", dynalite, proxy_hangs),
        case("the_dynamodb_proxy_has_its_own_clock_or_none", dynalite, proxy_clock),
        case("dynamodb_speaks_tls_to_who_knows_its_authority", &[Need::Dynalite, Need::Php], tls),
    ];
    for (program, need) in [(Program::Dynalite, Need::Dynalite), (Program::Local, Need::DynamoDbLocal)] {
        let mut on = |name: &str, needs: &[Need], run: fn(&'static Engine)| {
            let needs = [&[need], needs].concat();
            cases.push(case(format!("{}: {name}", program.name()), &needs, move || {
                run(Engine::shared(program))
            }));
        };
        on("items_are_put_found_changed_and_scanned", &[], items);
        on("a_failed_condition_says_so_and_no_more", &[], failed_condition);
        on("answers_have_a_date_and_the_capacity_that_is_asked_for", &[], date_and_capacity);
        on("the_sdks_twin_writes_the_items_of_the_sdk", &[Need::Php], twin_writes);
        on("the_sdks_twin_names_attributes_as_it_is_told", &[Need::Php], twin_names);
        on("the_sdks_twin_waits_for_a_lock_in_vain_or_not", &[Need::Php], twin_locks);
        on("the_sdks_twin_collects_what_is_expired_and_not_locked", &[Need::Php], twin_collects);
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
    let now = now();
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

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// A request that shows the headers of its answer.
fn ask(endpoint: &str, operation: &str, request: &Value) -> Response {
    Browser::at(endpoint)
        .header("Content-Type", "application/x-amz-json-1.0")
        .header("X-Amz-Target", &format!("DynamoDB_20120810.{operation}"))
        .header("X-Amz-Date", "20260101T000000Z")
        .header("Authorization", "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=f, Signature=g")
        .post("/", &request.to_string())
}

fn date_and_capacity(engine: &'static Engine) {
    let table = engine.create_table("capacity", "id");
    let item = json!({"id": {"S": "a"}, "data": {"S": "x".repeat(3000)}});
    let request = json!({"TableName": table.name(), "Item": item, "ReturnConsumedCapacity": "TOTAL"});
    let response = ask(&engine.endpoint(), "PutItem", &request);
    assert!(response.header("date").is_some_and(|date| date.ends_with(" GMT")), "{response:?}");
    let answer: Value = serde_json::from_str(&response.body).unwrap();
    assert_eq!(answer["ConsumedCapacity"]["CapacityUnits"].as_f64(), Some(3.0), "{answer}");
}

/// A proxy before the shared dynalite, and a table of its own.
fn proxied(name: &str) -> (Proxy, Table) {
    let engine = Engine::shared(Program::Dynalite);
    (Proxy::to(engine), engine.create_table(name, "id"))
}

fn put(proxy: &Proxy, table: &Table, key: &str) -> Result<Value, String> {
    let request = json!({"TableName": table.name(), "Item": {"id": {"S": key}}});
    call(&proxy.endpoint(), "PutItem", &request)
        .map_err(|refusal| format!("{} {}", refusal.status, refusal.kind))
}

fn proxy_writes_down() {
    let (proxy, table) = proxied("written-down");
    put(&proxy, &table, "a").unwrap();
    // Two on one connection, which stays open.
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
    let body = json!({"TableName": table.name(), "Key": {"id": {"S": "a"}}}).to_string();
    for _ in 0..2 {
        send(&mut client, "GetItem", &body);
        let mut answer = String::new();
        while !answer.ends_with(r#"{"Item":{"id":{"S":"a"}}}"#) {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            answer.push(char::from(byte[0]));
        }
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    let seen = proxy.seen();
    let brief: Vec<_> =
        seen.iter().map(|seen| (seen.connection, seen.operation.as_str(), seen.status)).collect();
    assert_eq!(brief, [(0, "PutItem", Some(200)), (1, "GetItem", Some(200)), (1, "GetItem", Some(200))]);
    assert_eq!(seen[0].body["Item"], json!({"id": {"S": "a"}}));
    assert_eq!(seen[1].header("x-amz-target"), Some("DynamoDB_20120810.GetItem"));
    assert_eq!((proxy.count("GetItem"), proxy.connections()), (2, 2));
    wait_until("the first connection is closed", SOON, || proxy.open_connections() == 1);
    proxy.hang_up();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "it is closed");
    proxy.reset_counts();
    assert_eq!((proxy.seen(), proxy.connections()), (vec![], 0));
}

fn send(client: &mut TcpStream, operation: &str, body: &str) {
    write!(
        client,
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.0\r\n\
         X-Amz-Target: DynamoDB_20120810.{operation}\r\nX-Amz-Date: 20260101T000000Z\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=f, Signature=g\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
}

fn proxy_refuses() {
    let (proxy, table) = proxied("refused");
    let faults = [
        (Fault::throttled(), "400 ProvisionedThroughputExceededException"),
        (
            Fault::refuse("ExpiredTokenException", "The security token is expired"),
            "400 ExpiredTokenException",
        ),
        (Fault::internal(), "500 InternalServerError"),
        (Fault::unavailable(), "503 ServiceUnavailable"),
    ];
    for (fault, told) in faults {
        proxy.fail_next("PutItem", fault);
        assert_eq!(put(&proxy, &table, "a"), Err(told.into()));
        assert_eq!(table.get("a"), None, "{told}");
    }
    put(&proxy, &table, "a").expect("only the next was refused");
    let statuses: Vec<Option<u16>> = proxy.seen().iter().map(|seen| seen.status).collect();
    assert_eq!(statuses, [Some(400), Some(400), Some(500), Some(503), Some(200)]);
}

fn proxy_fails_first() {
    let (proxy, table) = proxied("throttled");
    proxy.fail_first(2, Fault::throttled());
    let refused = || Err("400 ProvisionedThroughputExceededException".into());
    assert_eq!(put(&proxy, &table, "a"), refused());
    assert_eq!(put(&proxy, &table, "b"), refused());
    assert_eq!(put(&proxy, &table, "a"), refused());
    put(&proxy, &table, "a").expect("the third attempt");
    assert_eq!(put(&proxy, &table, "b"), refused());
    proxy.forward();
    put(&proxy, &table, "b").expect("it forwards everything");
    let late = Duration::from_millis(20);
    proxy.decide(move |_| Fault::Late(late));
    put(&proxy, &table, "c").expect("it is late, not lost");
}

fn proxy_cuts() {
    let (proxy, table) = proxied("cut");
    proxy.fail_next("PutItem", Fault::CutBefore);
    assert_eq!(put(&proxy, &table, "before"), Err("0 unreached".into()));
    assert_eq!(table.get("before"), None);
    proxy.fail_next("PutItem", Fault::CutAfter);
    assert_eq!(put(&proxy, &table, "after"), Err("0 unreached".into()));
    assert!(table.get("after").is_some());
    assert_eq!(proxy.seen().iter().map(|seen| seen.status).collect::<Vec<_>>(), [None, None]);
}

fn proxy_hangs() {
    let (proxy, table) = proxied("hung");
    let hang = |key: &str, fault: Fault| {
        proxy.fail_next("PutItem", fault);
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        let body = json!({"TableName": table.name(), "Item": {"id": {"S": key}}});
        send(&mut client, "PutItem", &body.to_string());
        client
    };
    let mut before = hang("before", Fault::HangBefore);
    wait_until("it was asked", SOON, || proxy.count("PutItem") == 1);
    let mut after = hang("after", Fault::HangAfter);
    wait_until("it is done", SOON, || table.get("after").is_some());
    assert_eq!(table.get("before"), None);
    for client in [&mut before, &mut after] {
        client.set_nonblocking(true).unwrap();
        let read = client.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(read, Err(ErrorKind::WouldBlock), "the connection is open and silent");
    }
    drop((before, after));
    wait_until("it lets go of who has left", SOON, || proxy.open_connections() == 0);
    assert_eq!(proxy.seen().iter().map(|seen| seen.status).collect::<Vec<_>>(), [None, None]);
}

fn proxy_clock() {
    let (proxy, table) = proxied("clock");
    let scan = || ask(&proxy.endpoint(), "Scan", &json!({"TableName": table.name()}));
    assert!(scan().header("date").is_some_and(|date| date.contains(" 20")));
    // To the time of the first DynamoDB that there was.
    proxy.shift_clock(1_326_844_800 - now().cast_signed());
    let response = scan();
    let date = response.header("date").unwrap();
    assert!(date.starts_with("Wed, 18 Jan 2012 00:0"), "{date}");
    proxy.check_signing_time();
    assert_eq!(put(&proxy, &table, "late"), Err("400 InvalidSignatureException".into()));
    // These requests say that they are signed then.
    proxy.shift_clock(1_767_225_600 - now().cast_signed());
    put(&proxy, &table, "timely").unwrap();
    proxy.hide_clock();
    assert_eq!(scan().header("date"), None);
    assert_eq!(table.scan().len(), 1);
}

fn tls() {
    let tls = Tls::before(Engine::shared(Program::Dynalite).port());
    let fetch = |authority: &str| {
        let ssl = format!("stream_context_create(['ssl' => ['cafile' => '{authority}']])");
        let code = format!("echo @file_get_contents('{}', false, {ssl}) ?: 'refused';", tls.endpoint());
        Script::new(code).run().ok()
    };
    let healthy = fetch(&tls.authority().display().to_string());
    assert!(healthy.starts_with("healthy: dynamodb"), "{healthy}");
    assert_eq!(fetch("/etc/ssl/certs/ca-certificates.crt"), "refused");
}

/// A script whose sessions go through the twin.
fn twin(endpoint: &str, configuration: &str, then: &str) -> Script {
    Script::new(format!(
        "require '{}'; SdkSessionHandler::at('{endpoint}', {configuration})->register(); session_id('abc'); {then}",
        sdk_handler().display()
    ))
    .ini("session.use_cookies", "0")
    .ini("session.cache_limiter", "")
    .ini("session.gc_maxlifetime", "600")
}

fn twin_writes(engine: &'static Engine) {
    let table = engine.create_table("sdk", "id");
    let proxy = Proxy::to(engine);
    let run = |then: &str| {
        proxy.reset_counts();
        let printed = twin(&proxy.endpoint(), "['table_name' => 'sdk']", then).run().ok();
        let updates: Vec<Value> =
            proxy.seen().iter().map(|seen| seen.body["AttributeUpdates"].clone()).collect();
        (printed, proxy.operations().join(" "), updates)
    };
    let begun = now();
    let (_, operations, updates) = run("session_start(); $_SESSION['n'] = 'é';");
    assert_eq!(operations, "GetItem UpdateItem");
    let item = table.get("PHPSESSID_abc").expect("the item of the session");
    let expires: u64 = item["expires"]["N"].as_str().unwrap().parse().unwrap();
    assert!((begun + 600..=now() + 600).contains(&expires), "{item}");
    let expires = item["expires"].clone();
    let data = json!({"S": "n|s:2:\"é\";"});
    assert_eq!(item, json!({"id": {"S": "PHPSESSID_abc"}, "expires": expires, "data": data}));
    let written =
        json!({"lock": {"Action": "DELETE"}, "expires": {"Value": expires}, "data": {"Value": data}});
    assert_eq!(updates[1], written);

    let (printed, operations, updates) =
        run("session_start(['read_and_close' => true]); echo $_SESSION['n'];");
    assert_eq!((printed.as_str(), operations.as_str()), ("é", "GetItem UpdateItem"));
    assert!(updates[1].get("data").is_none(), "the data have not changed: {}", updates[1]);
    table.update("PHPSESSID_abc", "SET #data = :bytes", json!({":bytes": {"B": "bnxpOjU7"}}));
    let (printed, ..) = run("session_start(); echo $_SESSION['n']; $_SESSION = [];");
    assert_eq!(printed, "5", "bytes are read on a table of strings");
    assert_eq!(table.get("PHPSESSID_abc").unwrap().get("data"), None, "an empty session has no data");

    let moment = json!({"N": now().to_string()});
    table.put(json!({"id": {"S": "PHPSESSID_abc"}, "expires": moment, "data": {"S": "n|i:5;"}}));
    let (printed, operations, _) = run("session_start(); echo count($_SESSION); session_destroy();");
    assert_eq!((printed.as_str(), operations.as_str()), ("0", "GetItem DeleteItem DeleteItem"));
    assert_eq!(table.scan(), [Value::Null; 0]);
}

fn twin_names(engine: &'static Engine) {
    let table = engine.create_table("sdk-names", "key");
    let configuration = "['table_name' => 'sdk-names', 'hash_key' => 'key', 'data_attribute' => 'payload',
        'data_attribute_type' => 'binary', 'session_lifetime' => 100000, 'session_lifetime_attribute' => 'until']";
    let count =
        "session_name('_shop'); session_start(); $_SESSION['n'] = \"\\xff\"; echo bin2hex(session_encode());";
    let begun = now();
    let encoded = twin(&engine.endpoint(), configuration, count).run().ok();
    assert_eq!(encoded, "6e7c733a313a22ff223b");
    let item = table.get("shop_abc").expect("outer underscores are trimmed");
    let until: u64 = item["until"]["N"].as_str().unwrap().parse().unwrap();
    assert!(until >= begun + 100_000, "{item}");
    assert_eq!(item["payload"], json!({"B": "bnxzOjE6Iv8iOw=="}));
    let read = "session_name('_shop'); session_start(); echo bin2hex($_SESSION['n']);";
    assert_eq!(twin(&engine.endpoint(), configuration, read).run().ok(), "ff");
}

fn twin_locks(engine: &'static Engine) {
    let table = engine.create_table("sdk-locks", "id");
    let proxy = Proxy::to(engine);
    let increment = "session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];";
    let script = |seconds: u32, then: &str| {
        let locking =
            format!("['table_name' => 'sdk-locks', 'locking' => true, 'max_lock_wait_time' => {seconds}]");
        twin(&proxy.endpoint(), &locking, then)
    };
    let holder = script(60, &format!("{increment} fgets(STDIN);")).spawn();
    holder.wait_for("1");
    let locked = json!({"id": {"S": "PHPSESSID_abc"}, "lock": {"N": "1"}});
    assert_eq!(table.get("PHPSESSID_abc"), Some(locked), "neither owner nor expiry");
    let waiter = script(60, increment).spawn();
    let refusals = || proxy.seen().iter().filter(|seen| seen.status == Some(400)).count();
    wait_until("the waiter has tried again", SOON, || refusals() >= 2);
    holder.say("go on");
    holder.finish().ok();
    assert_eq!(waiter.finish().ok(), "2");

    table.update("PHPSESSID_abc", "SET #lock = :lock", json!({":lock": {"N": "1"}}));
    assert_eq!(script(0, increment).run().ok(), "1", "it has waited in vain, and starts anew");
    let item = table.get("PHPSESSID_abc").unwrap();
    assert_eq!((item.get("lock"), &item["data"]["S"]), (None, &json!("n|i:1;")));
}

fn twin_collects(engine: &'static Engine) {
    let table = engine.create_table("sdk-collects", "id");
    for key in 0..30 {
        table.put(json!({"id": {"S": format!("expired {key}")}, "expires": {"N": "1"}}));
    }
    table.put(json!({"id": {"S": "locked"}, "expires": {"N": "1"}, "lock": {"N": "1"}}));
    table.put(json!({"id": {"S": "live"}, "expires": {"N": (now() + 60).to_string()}}));
    let collect = format!(
        "require '{}'; SdkSessionHandler::at('{}', ['table_name' => 'sdk-collects'])->garbageCollect();",
        sdk_handler().display(),
        engine.endpoint()
    );
    Script::new(collect).run().ok();
    let mut left: Vec<Value> = table.scan().iter().map(|item| item["id"]["S"].clone()).collect();
    left.sort_by_key(Value::to_string);
    assert_eq!(left, ["live", "locked"]);
}
