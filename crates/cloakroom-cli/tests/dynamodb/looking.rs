//! `cloakroom show`, `locks` and `unlock`.

use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use testbed::dynamodb::{Program, Table};
use testbed::suite::{Case, case};

use crate::{DYNALITE, cloakroom, masked, table};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_session_is_shown_with_its_lock", DYNALITE, shown),
        case("locks_of_both_handlers_are_listed_and_broken", DYNALITE, broken),
        case("another_session_name_is_another_session", DYNALITE, another_name),
    ]
}

/// What PHP calls its sessions is not known to the command.
const HINT: &str = "hint: keys were taken to begin with PHPSESSID; where PHP's session.name is another, add session_name= to the URL\n";

fn now() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// A session for 27 hours, with more attributes.
fn put(table: &Table, key: &str, more: Value) {
    let mut item = json!({
        "id": { "S": key }, "expires": { "N": (now() + 100_000).to_string() },
        "data": { "S": "cart|a:1:{i:0;s:4:\"book\";}visits|i:7;" },
    });
    item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    table.put(item);
}

/// For half an hour and some seconds: in whole minutes, the same for as long as this takes.
fn lock() -> Value {
    json!({
        "lock": { "S": "cloakroom:00112233445566778899aabbccddeeff:web1:4711" },
        "lock_until": { "N": ((now() + 1850) * 1000).to_string() },
        "record_expires": { "N": (now() + 100_000).to_string() },
    })
}

fn shown() {
    let (table, url) = table(Program::Dynalite);
    put(&table, "PHPSESSID_abcdefghijk", lock());
    let expected = format!(
        "session  abcdef...\nstore    {}\nsize     37 bytes\nformat   php\nlife     expires in 27 h\n\
         lock     held by cloakroom, process 4711 on web1\n         ends in 30 min unless renewed; waiting for it: 0\n\n\
         variable  holds\ncart      array, 1 entry\nvisits    integer\n",
        masked(&url)
    );
    let before = table.scan();
    cloakroom(&["show", "abcdefghijk", "--store", &url]).is(0, &expected, "");
    assert_eq!(table.scan(), before);
}

fn broken() {
    let (table, url) = table(Program::Dynalite);
    put(&table, "PHPSESSID_abcdefghijk", lock());
    put(&table, "PHPSESSID_bbcdefghijk", json!({ "lock": { "N": "1" } }));
    put(&table, "PHPSESSID_cbcdefghijk", json!({}));
    let listed = cloakroom(&["locks", "--reveal", "--store", &url]);
    let rows: Vec<String> = listed
        .stdout
        .lines()
        .skip(3)
        .map(|row| row.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let expected = [
        "abcdefghijk cloakroom, process 4711 on web1 in 30 min unless renewed 0",
        "bbcdefghijk a native handler not told by this store 0",
    ];
    assert_eq!(rows, expected, "{}", listed.stdout);
    for (id, holder) in
        [("abcdefghijk", "cloakroom, process 4711 on web1"), ("bbcdefghijk", "a native handler")]
    {
        let ran = cloakroom(&["unlock", id, "--yes", "--store", &url]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
        assert!(ran.stdout.ends_with(&format!("\nbroken: the lock of {holder} is gone\n")), "{}", ran.stdout);
    }
    let none = format!("store: {}\n\nno session is locked\n", masked(&url));
    cloakroom(&["locks", "--store", &url]).is(0, &none, HINT);
    assert!(table.scan().iter().all(|item| item["lock"].is_null() && item["data"].is_object()));
}

fn another_name() {
    let (table, url) = table(Program::Dynalite);
    put(&table, "shop_abcdefghijk", json!({}));
    put(&table, "shop_cbcdefghijk", lock());
    let missing = format!("error: there is no session abcdef... (store {})\n{HINT}", masked(&url));
    cloakroom(&["show", "abcdefghijk", "--store", &url]).is(1, "", &missing);
    let free = format!("session abcdef... is not locked (store {})\n", masked(&url));
    cloakroom(&["unlock", "abcdefghijk", "--store", &url]).is(0, &free, HINT);
    let none = format!("store: {}\n\nno session is locked\n", masked(&url));
    cloakroom(&["locks", "--store", &url]).is(0, &none, HINT);
    let shop = format!("{url}&session_name=shop");
    let found = cloakroom(&["show", "abcdefghijk", "--store", &shop]);
    assert_eq!(found.code, Some(0), "{}", found.stderr);
    let listed = cloakroom(&["locks", "--store", &shop]);
    assert!(
        listed.stdout.contains("\ncbcdef...") && listed.stderr.is_empty(),
        "{}{}",
        listed.stdout,
        listed.stderr
    );
    let missing = format!("error: there is no session bbcdef... (store {})\n", masked(&shop));
    cloakroom(&["show", "bbcdefghijk", "--store", &shop]).is(1, "", &missing);
}
