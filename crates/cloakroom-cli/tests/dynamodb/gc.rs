//! `cloakroom gc`.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use testbed::dynamodb::{Engine, Fault, Program, Proxy, Table};
use testbed::need::Need;
use testbed::redis::Redis;
use testbed::suite::{Case, case};
use testbed::{TempDir, wait_until};

use crate::{DYNALITE, LOCAL, Ran, cloakroom, command, masked, table, url};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("what_has_expired_is_removed_and_nothing_else", DYNALITE, || removed(Program::Dynalite)),
        case("aws_s_own_engine: what_has_expired_is_removed_and_nothing_else", LOCAL, || {
            removed(Program::Local)
        }),
        case("who_comes_back_in_between_keeps_the_session", DYNALITE, who_comes_back),
        case("a_host_whose_clock_is_ahead_removes_no_session_that_lives", DYNALITE, clock_ahead),
        case("many_items_are_walked_through_page_by_page", DYNALITE, many),
        case("several_are_removed_at_a_time_where_the_rate_allows_it", DYNALITE, several),
        case("it_can_be_ended_and_begun_again", DYNALITE, ended),
        case("a_table_with_ttl_needs_none_but_may_have_it", LOCAL, with_ttl),
        case("a_table_that_throttles_is_waited_for", DYNALITE, throttled),
        case("a_missing_table_is_told", DYNALITE, missing),
        case("who_fails_on_the_way_says_what_was_removed", DYNALITE, fails_on_the_way),
        case("files_are_removed_by_a_lifetime_that_is_given", &[], files),
        case("redis_needs_none", &[Need::Redis], redis),
    ]
}

fn now() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// An item that expired so many seconds ago.
fn expired(key: &str, ago: u64, more: Value) -> Value {
    let mut item = json!({
        "id": { "S": format!("PHPSESSID_{key}") }, "expires": { "N": (now() - ago).to_string() },
        "data": { "S": "n|i:1;" },
    });
    item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    item
}

fn keys(table: &Table) -> Vec<String> {
    let mut keys: Vec<String> =
        table.scan().iter().map(|it| it["id"]["S"].as_str().unwrap().to_owned()).collect();
    keys.sort();
    keys
}

/// A lock of ours whose lease ends so many seconds from now.
fn lock(ends: i64) -> Value {
    let until = now().saturating_add_signed(ends) * 1000;
    json!({
        "lock": { "S": "cloakroom:00112233445566778899aabbccddeeff:web1:7" },
        "lock_until": { "N": until.to_string() },
    })
}

fn removed(program: Program) {
    let (table, url) = table(program);
    let native = json!({ "lock": { "N": "1" } });
    // What an SDK that locks it after a worker of ours has died leaves there.
    let native_after = json!({ "lock": { "N": "1" }, "lock_until": { "N": "1" } });
    // `expires` is the lock's here.
    let mut never_expiring = lock(-3600);
    never_expiring["record_expires"] = json!({ "N": "-1" });
    for item in [
        expired("long_ago", 7200, json!({})),
        expired("and_its_worker_died", 7200, lock(-3600)),
        expired("endless_and_its_worker_died", 7200, never_expiring),
        expired("locked", 7200, lock(3600)),
        expired("locked_natively", 7200, native),
        expired("locked_natively_after", 7200, native_after),
        expired("just_now", 60, json!({})),
        json!({ "id": { "S": "PHPSESSID_alive" }, "expires": { "N": (now() + 3600).to_string() } }),
        json!({ "id": { "S": "PHPSESSID_endless" }, "data": { "S": "n|i:1;" } }),
        json!({ "id": { "S": "other_long_ago" }, "expires": { "N": "1" } }),
        // Of those who waited for a session, and died.
        json!({ "id": { "S": "PHPSESSID_long_ago_WAITING" }, "expires": { "N": "1" }, "last_waiter": { "S": "00" } }),
    ] {
        table.put(item);
    }
    let expected = format!(
        "store: {}\n\nscanned 11 items, removed 4 sessions that had expired\n\
         left 3 that are locked and 1 that changed meanwhile\nused 0.5 read units and 5 write units\n",
        masked(&url)
    );
    cloakroom(&["gc", &url]).is(0, &expected, "");
    let left = [
        "alive",
        "endless",
        "endless_and_its_worker_died",
        "just_now",
        "locked",
        "locked_natively",
        "locked_natively_after",
    ];
    assert_eq!(keys(&table), left.map(|key| format!("PHPSESSID_{key}")));
    let told = cloakroom(&["gc", &url, "--grace", "0", "--json"]);
    let expected = json!({
        "store": masked(&url), "scanned": 7, "removed": 1, "locked": 3, "changed": 1, "read_units": 0.5,
        "write_units": 2.0, "finished": true,
    });
    assert_eq!(serde_json::from_str::<Value>(&told.stdout).unwrap(), expected);
}

fn who_comes_back() {
    let (table, _) = table(Program::Dynalite);
    table.put(expired("a", 7200, json!({})));
    let proxy = Proxy::to(Engine::shared(Program::Dynalite));
    let (again, come_back) = (table.clone(), AtomicBool::new(false));
    proxy.decide(move |seen| {
        if seen.operation == "DeleteItem" && !come_back.swap(true, Ordering::Relaxed) {
            let until = json!({ ":until": { "N": (now() + 3600).to_string() } });
            again.update("PHPSESSID_a", "SET #expires = :until", until);
        }
        Fault::None
    });
    let ran = cloakroom(&["gc", &url(&proxy.endpoint(), table.name())]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("\nleft 0 that are locked and 1 that changed meanwhile\n"), "{}", ran.stdout);
    assert_eq!(keys(&table), ["PHPSESSID_a"]);
}

/// Without a look at TTL, the first page is asked for by this host's clock.
fn clock_ahead() {
    let (table, _) = table(Program::Dynalite);
    let proxy = Proxy::to(Engine::shared(Program::Dynalite));
    proxy.shift_clock(-24 * 3600);
    table.put(expired("alive_there", 7200, json!({})));
    table.put(expired("expired_there", 30 * 3600, json!({})));
    let ran = cloakroom(&["gc", "--force", &url(&proxy.endpoint(), table.name())]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(keys(&table), ["PHPSESSID_alive_there"]);
}

fn many() {
    let (table, url) = table(Program::Dynalite);
    for number in 0..250 {
        let ago = if number % 50 == 0 { 7200 } else { 0 };
        table.put(expired(&format!("session{number}"), ago, json!({})));
    }
    let ran = cloakroom(&["gc", &url]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let scanned = "\nscanned 250 items, removed 5 sessions that had expired\n";
    assert!(ran.stdout.contains(scanned), "{}", ran.stdout);
    assert_eq!(keys(&table).len(), 245);
}

fn several() {
    let (table, _) = table(Program::Dynalite);
    let proxy = Proxy::to(Engine::shared(Program::Dynalite));
    // Who is answered late connects no second time.
    let url = url(&proxy.endpoint(), table.name()) + "&timeout=30&read_timeout=30";
    // Each costs a unit: a tenth of a second's are those of eight, or of none.
    for (rate, connections) in [("100", 8), ("9", 1)] {
        for number in 0..20 {
            table.put(expired(&format!("session{number}"), 7200, json!({})));
        }
        proxy.reset_counts();
        let ran = cloakroom(&["gc", &url, "--rate", rate]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", ran.stdout);
        assert!(ran.stdout.contains("removed 20 sessions"), "{}", ran.stdout);
        assert_eq!(keys(&table).len(), 0);
        let seen = proxy.seen();
        let deletions = seen.iter().filter(|seen| seen.operation == "DeleteItem");
        let over: std::collections::BTreeSet<usize> = deletions.map(|seen| seen.connection).collect();
        assert_eq!(over.len(), connections, "{rate}");
    }
}

fn ended() {
    let (table, _) = table(Program::Dynalite);
    for number in 0..40 {
        table.put(expired(&format!("session{number}"), 7200, json!({})));
    }
    let proxy = Proxy::to(Engine::shared(Program::Dynalite));
    let url = url(&proxy.endpoint(), table.name());
    // One unit in a second: it is ended long before the last.
    let mut slow = command(&["gc", &url, "--rate", "1"]);
    let running = slow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("one is removed", Duration::from_secs(60), || proxy.count("DeleteItem") > 0);
    kill(Pid::from_raw(running.id().cast_signed()), Signal::SIGINT).unwrap();
    let ran = Ran::ended(running.wait_with_output().unwrap()).without_progress();
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert_eq!(ran.stderr, "notice: ended before the end of the table\nhint: run it again\n");
    let left = keys(&table).len();
    assert!((1..40).contains(&left), "{left}");
    let said = format!("removed {} session", 40 - left);
    assert!(ran.stdout.contains(&said), "{}", ran.stdout);
    let again = cloakroom(&["gc", &url]);
    assert!(again.stdout.contains(&format!("\nscanned {left} item")), "{}", again.stdout);
    assert_eq!(keys(&table).len(), 0);
}

fn with_ttl() {
    let (table, url) = table(Program::Local);
    table.expire_by("expires");
    let expected = format!(
        "nothing to do: the table's TTL, by the attribute expires, removes expired sessions within some days; --force \
         does it now (store {})\n",
        masked(&url)
    );
    cloakroom(&["gc", &url]).is(0, &expected, "");
    let forced = cloakroom(&["gc", &url, "--force"]);
    let expected =
        format!("store: {}\n\nscanned 0 items, removed 0 sessions that had expired\n", masked(&url));
    assert!(forced.stdout.starts_with(&expected), "{}", forced.stdout);
    // By another attribute it removes no session.
    let other = cloakroom(&["gc", &format!("{url}&ttl=until")]);
    assert!(other.stdout.contains("scanned 0 items"), "{}", other.stdout);
}

fn throttled() {
    let (table, _) = table(Program::Dynalite);
    table.put(expired("a", 7200, json!({})));
    let proxy = Proxy::to(Engine::shared(Program::Dynalite));
    proxy.fail_first(3, Fault::throttled());
    let ran = cloakroom(&["gc", &url(&proxy.endpoint(), table.name())]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(keys(&table).len(), 0);
}

fn fails_on_the_way() {
    let (table, _) = table(Program::Dynalite);
    for number in 0..3 {
        table.put(expired(&format!("session{number}"), 7200, json!({})));
    }
    let proxy = Proxy::to(Engine::shared(Program::Dynalite));
    let mut deletions = 0;
    proxy.decide(move |seen| {
        deletions += u32::from(seen.operation == "DeleteItem");
        match deletions {
            3 => Fault::refuse("AccessDeniedException", "no more"),
            _ => Fault::None,
        }
    });
    let url = url(&proxy.endpoint(), table.name());
    let ran = cloakroom(&["gc", &url]);
    let expected = format!(
        "store: {}\n\nscanned 3 items, removed 2 sessions that had expired\nused 0.5 read units and 2 write units\n",
        masked(&url)
    );
    assert_eq!((ran.code, ran.stdout), (Some(2), expected), "{}", ran.stderr);
    assert!(
        ran.stderr.starts_with("error: cannot remove the session: AWS does not allow it"),
        "{}",
        ran.stderr
    );
    assert_eq!(keys(&table).len(), 1);
    proxy.decide(|seen| match seen.operation.as_str() {
        "DeleteItem" => Fault::refuse("AccessDeniedException", "no more"),
        _ => Fault::None,
    });
    let ran = cloakroom(&["gc", &url, "--json"]);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (ran.code, &told["removed"], &told["finished"]),
        (Some(2), &json!(0), &json!(false)),
        "{told}"
    );
}

fn missing() {
    let engine = Engine::shared(Program::Dynalite);
    let ran = cloakroom(&["gc", &url(&engine.endpoint(), "not-there")]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
}

fn files() {
    let directory = TempDir::new();
    let path = directory.path().display().to_string();
    let file = |name: &str, ago: u64| {
        let file = std::fs::File::create(directory.path().join(name)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(now() - ago)).unwrap();
    };
    file("sess_abcdefghijk", 7200);
    file("sess_bbcdefghijk", 60);
    let refused = format!(
        "error: files do not tell when a session expires (store {path})\n\
         hint: write --lifetime with what session.gc_maxlifetime says (php -i | grep gc_maxlifetime)\n"
    );
    cloakroom(&["gc", &path]).is(2, "", &refused);
    let expected = format!("store: {path}\n\nremoved 1 session that was not used for 5040 seconds\n");
    cloakroom(&["gc", &path, "--lifetime", "1440"]).is(0, &expected, "");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

fn redis() {
    let url = Redis::start().url();
    let expected = format!("nothing to do: the store removes expired sessions by itself (store {url})\n");
    cloakroom(&["gc", &url]).is(0, &expected, "");
}
