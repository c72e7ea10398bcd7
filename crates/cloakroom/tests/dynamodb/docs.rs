//! What `docs/dynamodb.md` says of options and costs is so.

use cloakroom::stores::dynamodb::OPTIONS;
use cloakroom::{Access, Change};
use serde_json::{Value, json};
use testbed::dynamodb::Table;
use testbed::suite::{Case, case};

use crate::worker::{EXCLUSIVE, LIFETIME, id, soon};
use crate::{Sessions, documented, key, quick};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("the_options_of_the_docs_are_those_of_the_code", &[], || {
            documented::options("dynamodb", OPTIONS)
        }),
        quick("the_costs_of_the_docs_are_those_of_an_engine", costs),
    ]
}

/// With the names of its attributes it is a little less than 3 KB.
const SESSION: [u8; 2500] = [b'x'; 2500];
const OTHER: [u8; 2500] = [b'y'; 2500];

/// Requests, read units, write units.
type Cost = (u64, f64, f64);

/// What a request to PHP asks of its session.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Use {
    New,
    Changed,
    Unchanged,
    ReadAndClose,
    Deleted,
}

/// Each with what Cloakroom and AWS's handler send for it, with locks and without.
fn costs(sessions: &Sessions) {
    let rows = [
        ("a new session", Use::New),
        ("read and changed", Use::Changed),
        ("read, not changed", Use::Unchanged),
        ("`read_and_close`", Use::ReadAndClose),
        ("deleted", Use::Deleted),
    ];
    let mut table = String::from(
        "\n| what a request does | Cloakroom | AWS's handler, with locks | AWS's handler, without |\n|---|---|---|---|\n",
    );
    for (words, what) in rows {
        let costs =
            [ours(sessions, what), native(&sessions.table, what, true), native(&sessions.table, what, false)];
        let [ours, locked, unlocked] = costs.map(|(requests, read, write)| match (read, write) {
            (0.0, write) => format!("{requests}: {write} write"),
            (read, 0.0) => format!("{requests}: {read} read"),
            (read, write) => format!("{requests}: {read} read, {write} write"),
        });
        table += &format!("| {words} | {ours} | {locked} | {unlocked} |\n");
    }
    documented::written("dynamodb", "costs", &table);
}

fn ours(sessions: &Sessions, what: Use) -> Cost {
    let id = id("abc");
    sessions.table.delete(&key("abc"));
    if what != Use::New {
        crate::worker::put(sessions.worker().as_mut(), &id, &SESSION);
    }
    let mut worker = sessions.worker();
    let access = if what == Use::ReadAndClose { Access::ReadOnly } else { EXCLUSIVE };
    let opened = worker.open(&id, access, soon()).unwrap();
    let change = match what {
        Use::New | Use::Changed => Change::Write(&OTHER, LIFETIME),
        Use::Unchanged => Change::Touch(&SESSION, LIFETIME),
        Use::ReadAndClose => Change::Keep,
        Use::Deleted => Change::Delete,
    };
    worker.commit(&id, opened.hold, change, soon()).unwrap();
    let bill = worker.billed();
    bill.iter().fold((0, 0.0, 0.0), |(requests, read, write), (_, it)| {
        (requests + it.requests, read + it.read_units, write + it.write_units)
    })
}

/// As Aws\DynamoDb\SessionHandler does it.
fn native(table: &Table, what: Use, locking: bool) -> Cost {
    let id = key("native");
    table.delete(&id);
    let (expires, later) = (json!({ "N": "4000000000" }), json!({ "N": "4000000001" }));
    let data = |bytes: &[u8]| json!({ "S": String::from_utf8(bytes.to_vec()).unwrap() });
    if what != Use::New {
        table.put(json!({ "id": { "S": id }, "expires": expires, "data": data(&SESSION) }));
    }
    let mut cost = (0, 0.0, 0.0);
    let mut ask = |operation: &str, mut request: Value| {
        request["Key"] = json!({ "id": { "S": id } });
        request["ReturnConsumedCapacity"] = "TOTAL".into();
        let units = table.call(operation, request)["ConsumedCapacity"]["CapacityUnits"].as_f64().unwrap();
        cost.0 += 1;
        match operation {
            "GetItem" => cost.1 += units,
            _ => cost.2 += units,
        }
    };
    match locking {
        true => ask(
            "UpdateItem",
            json!({
                "Expected": { "lock": { "Exists": false } }, "ReturnValues": "ALL_NEW",
                "AttributeUpdates": { "lock": { "Value": { "N": "1" } } },
            }),
        ),
        false => ask("GetItem", json!({ "ConsistentRead": true })),
    }
    let mut update =
        json!({ "AttributeUpdates": { "expires": { "Value": later }, "lock": { "Action": "DELETE" } } });
    match what {
        Use::Deleted => ask("DeleteItem", json!({})),
        Use::New | Use::Changed => {
            update["AttributeUpdates"]["data"] = json!({ "Value": data(&OTHER) });
            ask("UpdateItem", update);
        }
        // Its close() writes where nothing was written.
        Use::Unchanged | Use::ReadAndClose => ask("UpdateItem", update),
    }
    cost
}
