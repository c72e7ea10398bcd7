//! What goes over the wire, seen by a proxy in between.

use std::time::{Duration, Instant};

use cloakroom::{Access, Change, Committed, ErrorKind, Hold, Unknown};
use testbed::proxy::Proxy;
use testbed::redis::Redis;
use testbed::suite::{Case, case};

use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, put, read, soon};
use crate::{LIMIT, REDIS, key, lives, lock_key, store};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "a_session_costs_two_exchanges_and_a_read_one",
            REDIS,
            a_session_costs_two_exchanges_and_a_read_one,
        ),
        case("nothing_is_connected_before_the_first_use", REDIS, nothing_is_connected_before_the_first_use),
        case("an_open_is_one_write_of_two_commands", REDIS, an_open_is_one_write_of_two_commands),
        case("a_password_and_a_database_ride_along", REDIS, a_password_and_a_database_ride_along),
        case("a_refused_introduction_leaves_no_lock", REDIS, a_refused_introduction_leaves_no_lock),
        case("a_refused_password_never_reaches_a_text", REDIS, a_refused_password_never_reaches_a_text),
        case("an_acl_user_is_authenticated", REDIS, an_acl_user_is_authenticated),
        case("a_password_of_any_characters_is_understood", REDIS, a_password_of_any_characters_is_understood),
        case(
            "a_user_that_the_server_does_not_know_is_left_out",
            REDIS,
            a_user_that_the_server_does_not_know_is_left_out,
        ),
        case(
            "records_are_any_bytes_and_live_whole_seconds",
            REDIS,
            records_are_any_bytes_and_live_whole_seconds,
        ),
        case("a_lock_names_its_holder_and_its_lease", REDIS, a_lock_names_its_holder_and_its_lease),
        case("a_renewal_has_its_own_connection", REDIS, a_renewal_has_its_own_connection),
        case("a_prefix_is_taken_as_it_is", REDIS, a_prefix_is_taken_as_it_is),
        case(
            "a_record_beyond_the_servers_limit_is_refused",
            REDIS,
            a_record_beyond_the_servers_limit_is_refused,
        ),
        case("a_large_record_comes_back_whole", REDIS, a_large_record_comes_back_whole),
        case("waiting_leaves_no_key_behind", REDIS, waiting_leaves_no_key_behind),
    ]
}

fn through(proxy: &Proxy) -> String {
    format!("redis://{}", proxy.address())
}

fn a_session_costs_two_exchanges_and_a_read_one() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.address());
    let mut store = store(&through(&proxy));
    let session = id("abc");
    // The server learns the scripts once.
    put(store.as_mut(), &session, b"n|i:1;");
    put(store.as_mut(), &session, b"n|i:1;");
    for unknown in [Unknown::Lock, Unknown::Refuse] {
        let access = Access::Exclusive { wait: LIMIT, unknown };
        for change in [
            Change::Write(b"n|i:2;", LIFETIME),
            Change::Touch(b"n|i:2;", LIFETIME),
            Change::Keep,
            Change::Touch(b"n|i:2;", LIFETIME),
        ] {
            proxy.reset_counts();
            let opened = store.open(&session, access, soon()).unwrap();
            assert_eq!(proxy.exchanges(), 1, "{unknown:?}");
            let committed = store.commit(&session, opened.hold, change, soon()).unwrap();
            assert_eq!(committed, Committed::Done);
            assert_eq!(proxy.exchanges(), 2, "{unknown:?} {change:?}");
        }
    }
    proxy.reset_counts();
    read(store.as_mut(), &session);
    assert_eq!(proxy.exchanges(), 1);
    proxy.reset_counts();
    assert!(store.exists(&session, soon()).unwrap());
    assert_eq!(proxy.exchanges(), 1);
    // Nobody knows that id: it costs the release, and leaves nothing.
    proxy.reset_counts();
    let strict = Access::Exclusive { wait: LIMIT, unknown: Unknown::Refuse };
    let opened = store.open(&id("unknown"), strict, soon()).unwrap();
    assert!(matches!(opened.hold, Hold::ReadOnly));
    assert_eq!(proxy.exchanges(), 2);
    assert_eq!(redis.command(&["KEYS", "*unknown*"]), "");
    // Without a lock.
    proxy.reset_counts();
    let opened = store.open(&session, Access::Unlocked, soon()).unwrap();
    store.commit(&session, opened.hold, Change::Write(b"n|i:3;", LIFETIME), soon()).unwrap();
    assert_eq!(proxy.exchanges(), 2);
    assert_eq!(proxy.connections(), 0, "one connection serves them all");
    // The store's own count is the wire's.
    let before = store.counters().exchanges;
    proxy.reset_counts();
    for _ in 0..5 {
        put(store.as_mut(), &session, b"n|i:4;");
    }
    assert_eq!(store.counters().exchanges - before, proxy.exchanges() as u64);
}

fn nothing_is_connected_before_the_first_use() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.address());
    let mut store = store(&through(&proxy));
    store.guarantees();
    assert_eq!((proxy.connections(), store.counters().connects), (0, 0));
    store.exists(&id("abc"), soon()).unwrap();
    assert_eq!((proxy.connections(), store.counters().connects), (1, 1));
}

fn an_open_is_one_write_of_two_commands() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.address());
    let mut store = store(&through(&proxy));
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    proxy.reset_counts();
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    let token = redis.command(&["GET", &lock_key("abc")]);
    let expected = format!(
        "*6\r\n$3\r\nSET\r\n$25\r\nPHPREDIS_SESSION:abc_LOCK\r\n${}\r\n{token}\r\n$2\r\nNX\r\n$2\r\nPX\r\n$5\r\n15000\r\n\
         *2\r\n$3\r\nGET\r\n$20\r\nPHPREDIS_SESSION:abc\r\n",
        token.len()
    );
    assert_eq!(String::from_utf8_lossy(&proxy.requests()[0]), expected);
    store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
    let commit = String::from_utf8_lossy(&proxy.requests()[1]).into_owned();
    // The session's key is the first: a hashing proxy routes by it.
    assert!(commit.starts_with("*10\r\n$7\r\nEVALSHA\r\n$40\r\n"), "{commit:?}");
    assert!(commit.contains("\r\n$1\r\n2\r\n$20\r\nPHPREDIS_SESSION:abc\r\n$25\r\n"), "{commit:?}");
}

fn a_password_and_a_database_ride_along() {
    let redis = Redis::with(&["--requirepass", "s3cr3t"]);
    let proxy = Proxy::to(redis.address());
    for (query, url) in [
        ("auth=s3cr3t&database=3", "tcp://"),
        ("auth[]=s3cr3t&database=3", "tcp://"),
        ("auth[]=default&auth[]=s3cr3t&db=3", "tcp://"),
        ("auth[user]=default&auth[pass]=s3cr3t&dbindex=3", "redis://"),
        ("database=3", "redis://:s3cr3t@"),
        ("database=3", "redis://default:s3cr3t@"),
    ] {
        let mut store = store(&format!("{url}{}?{query}", proxy.address()));
        proxy.reset_counts();
        // The first time, it may be refused: nothing goes with it.
        put(store.as_mut(), &id("abc"), b"n|i:0;");
        let first = String::from_utf8_lossy(&proxy.requests()[0]).into_owned();
        assert!(
            first.contains("AUTH") && first.contains("SELECT") && !first.contains("EVALSHA"),
            "{first:?}"
        );
        proxy.cut_now();
        proxy.reset_counts();
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        let requests = proxy.requests();
        let first = String::from_utf8_lossy(&requests[0]);
        assert!(first.contains("AUTH") && first.contains("SELECT"), "{first:?}");
        assert!(first.contains("$2\r\nNX\r\n"), "in the write of the first command: {first:?}");
        store.commit(&id("abc"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
        let databases = redis.command(&["INFO", "keyspace"]);
        assert!(databases.contains("db3:keys=1,") && !databases.contains("db0"), "{databases}");
        // A write never goes out before the answer about its database.
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        proxy.cut_now();
        // Only a connection that was idle for some milliseconds is looked at before it is used.
        std::thread::sleep(Duration::from_millis(10));
        proxy.reset_counts();
        store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap();
        let requests = proxy.requests();
        assert!(!String::from_utf8_lossy(&requests[0]).contains("EVALSHA"), "{requests:?}");
        redis.command(&["FLUSHALL"]);
    }
}

fn a_refused_introduction_leaves_no_lock() {
    let redis = Redis::start();
    for save_path in [
        format!("redis://{}/99", redis.address()),
        format!("redis://:hunter2@{}", redis.address()),
        format!("redis://nobody:hunter2@{}", redis.address()),
    ] {
        store(&save_path).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
        assert_eq!(redis.command(&["KEYS", "*"]), "", "{save_path}");
    }
}

fn a_refused_password_never_reaches_a_text() {
    let redis = Redis::with(&["--requirepass", "s3cr3t"]);
    for (save_path, hint) in [
        (format!("tcp://{}", redis.address()), "add auth= to session.save_path"),
        (format!("tcp://user:hunter2@{}", redis.address()), "tcp:// takes no user:password@"),
        (format!("tcp://{}?auth=hunter2", redis.address()), "correct the user or the password"),
        (format!("redis://nobody:hunter2@{}", redis.address()), "correct the user or the password"),
    ] {
        let mut store = store(&save_path);
        let errors = [
            store.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err(),
            store.open(&id("abc"), Access::ReadOnly, soon()).unwrap_err(),
            store.exists(&id("abc"), soon()).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Auth, "{save_path}: {error}");
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(hint), "{shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
    // A server that wants no password says so.
    let open = Redis::start();
    let mut store = store(&format!("redis://:hunter2@{}", open.address()));
    let error = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    assert!(!format!("{error:?}").contains("hunter2"));
}

fn an_acl_user_is_authenticated() {
    let redis = Redis::start();
    let rules = ["ACL", "SETUSER", "php", "on", ">pw", "~PHPREDIS_SESSION:*", "+@all", "-@dangerous"];
    assert_eq!(redis.command(&rules), "OK");
    for query in ["auth[]=php&auth[]=pw", "auth[user]=php&auth[pass]=pw"] {
        let mut store = store(&format!("tcp://{}?{query}", redis.address()));
        put(store.as_mut(), &id("abc"), b"n|i:1;");
        assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
    }
}

fn a_password_of_any_characters_is_understood() {
    let redis = Redis::with(&["--requirepass", "a#b&c+d,e% f"]);
    let (port, encoded) = (redis.port(), "a%23b%26c%2Bd%2Ce%25%20f");
    let file = testbed::TempDir::new();
    let file = file.write("password", "a#b&c+d,e% f\n").display().to_string();
    for save_path in [
        format!("tcp://127.0.0.1:{port}?auth={encoded}"),
        format!("tcp://127.0.0.1:{port}?auth[]={encoded}, tcp://127.0.0.1:{port}?auth[pass]={encoded}"),
        format!("tcp://127.0.0.1:{port}?auth[user]=default&auth[pass]={encoded}"),
        format!("tcp://127.0.0.1:{port}?auth=file:{file}"),
        // Where they stand for themselves: + is a space in a query, and a comma ends a list's URL.
        format!("tcp://127.0.0.1:{port}?auth=a#b%26c%2Bd%2Ce%25+f"),
        format!("redis://:{encoded}@127.0.0.1:{port}"),
        format!("redis://:a%23b&c+d,e%25 f@127.0.0.1:{port}"),
        format!("redis://{encoded}@127.0.0.1:{port}/0"),
        format!("redis://127.0.0.1:{port}?password={encoded}"),
        format!("redis:{encoded}@?host[127.0.0.1:{port}]"),
        format!("redis:?host[127.0.0.1:{port}]&auth={encoded}"),
    ] {
        let mut store = store(&save_path);
        put(store.as_mut(), &id("abc"), b"n|i:1;");
        assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:1;", "{save_path}");
    }
}

/// Heroku's URLs name a user "h" that no server knows.
fn a_user_that_the_server_does_not_know_is_left_out() {
    let redis = Redis::with(&["--requirepass", "pw"]);
    let proxy = Proxy::to(redis.address());
    let mut store = store(&format!("redis://h:pw@{}/1", proxy.address()));
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    assert_eq!(proxy.connections(), 2);
    // It is remembered, and for the thread that renews as well.
    proxy.cut_now();
    proxy.reset_counts();
    let opened = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap();
    (opened.renewal.unwrap().renew)(soon()).unwrap();
    assert_eq!(proxy.connections(), 2);
    store.commit(&id("abc"), opened.hold, Change::Keep, soon()).unwrap();
    // With a wrong password, the answer to what the URL says is what counts.
    let error = crate::store(&format!("redis://h:wrong@{}", redis.address()))
        .open(&id("abc"), EXCLUSIVE, soon())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    assert!(error.to_string().contains("WRONGPASS"), "{error}");
}

fn records_are_any_bytes_and_live_whole_seconds() {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
    for (life, seconds) in [
        (Duration::from_millis(100), 1),
        (Duration::from_millis(2100), 3),
        (Duration::ZERO, 1),
        (Duration::from_secs(1440), 1440),
    ] {
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        let since = Instant::now();
        store.commit(&id("abc"), hold, Change::Write(&bytes, life), soon()).unwrap();
        lives(&redis, &key("abc"), since, Duration::from_secs(seconds));
    }
    assert_eq!(redis.reply(&[b"GET", key("abc").as_bytes()]), testbed::redis::Reply::Text(bytes));
}

fn a_lock_names_its_holder_and_its_lease() {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        let held = redis.command(&["GET", &lock_key("abc")]);
        let parts: Vec<&str> = held.split(':').collect();
        assert_eq!((parts.len(), parts[0], parts[1].len()), (4, "cloakroom", 32), "{held}");
        assert_eq!(parts[3], std::process::id().to_string(), "{held}");
        let left: u64 = redis.command(&["PTTL", &lock_key("abc")]).parse().unwrap();
        assert!((10_000..=15_000).contains(&left), "{left}");
        store.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
        assert_eq!(redis.command(&["EXISTS", &lock_key("abc")]), "0");
        seen.push(held);
    }
    assert_ne!(seen[0], seen[1]);
}

fn a_renewal_has_its_own_connection() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.address());
    let mut store = store(&through(&proxy));
    let opened = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap();
    assert_eq!(proxy.connections(), 1);
    let mut renewal = opened.renewal.unwrap();
    for _ in 0..3 {
        assert_eq!(redis.command(&["PEXPIRE", &lock_key("abc"), "5000"]), "1");
        (renewal.renew)(soon()).unwrap();
        let left: u64 = redis.command(&["PTTL", &lock_key("abc")]).parse().unwrap();
        assert!(left > 10_000, "{left}");
        assert_eq!(proxy.connections(), 2);
    }
    redis.command(&["DEL", &lock_key("abc")]);
    assert_eq!((renewal.renew)(soon()).unwrap_err().kind(), ErrorKind::LockLost);
}

fn a_prefix_is_taken_as_it_is() {
    let redis = Redis::start();
    redis.command(&["SET", "PHPREDIS_SESSION:other", "x"]);
    for (prefix, given) in [("", ""), ("a*[b]?\\:", "a*[b]?%5C:"), ("sess:", "sess:")] {
        let mut store = store(&format!("{}?prefix={given}", redis.url()));
        put(store.as_mut(), &id("abc"), b"n|i:1;");
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        assert_eq!(redis.command(&["GET", &format!("{prefix}abc")]), "n|i:1;");
        assert_eq!(redis.command(&["EXISTS", &format!("{prefix}abc_LOCK")]), "1");
        redis.command(&["SET", &format!("{prefix}abc:not-an-id"), "x"]);
        redis.command(&["LPUSH", &format!("{prefix}list"), "x"]);
        let mut listed = Vec::new();
        let mut each = |id: cloakroom::SessionId| {
            listed.push(id.as_str().to_owned());
            true
        };
        store.list(&mut each, soon()).unwrap();
        assert_eq!(listed, ["abc"], "{prefix}");
        store.commit(&id("abc"), hold, Change::Delete, soon()).unwrap();
    }
}

fn a_record_beyond_the_servers_limit_is_refused() {
    let redis = Redis::with(&["--proto-max-bulk-len", "1mb"]);
    let mut store = store(&redis.url());
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    let error =
        store.commit(&id("abc"), hold, Change::Write(&vec![0; 2 << 20], LIFETIME), soon()).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Bug, "{error}");
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
}

fn a_large_record_comes_back_whole() {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|number| (number % 251) as u8).collect();
    put(store.as_mut(), &id("abc"), &bytes);
    assert!(read(store.as_mut(), &id("abc")).unwrap() == bytes);
}

fn waiting_leaves_no_key_behind() {
    let redis = Redis::start();
    let mut holder = store(&redis.url());
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let mut other = store(&redis.url());
    let briefly = Access::Exclusive { wait: Duration::from_millis(400), unknown: Unknown::Lock };
    assert_eq!(other.open(&id("abc"), briefly, soon()).unwrap_err().kind(), ErrorKind::LockBusy);
    assert_eq!(redis.command(&["KEYS", "*"]), lock_key("abc"));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| put(other.as_mut(), &id("abc"), b"n|i:1;"));
        testbed::wait_until("the other waits", LIMIT, || crate::waiters(&redis, "abc") == 1);
        holder.commit(&id("abc"), hold, Change::Delete, soon()).unwrap();
        waiter.join().unwrap();
    });
    put(other.as_mut(), &id("abc"), b"n|i:2;");
    let left = redis.command(&["KEYS", "*"]);
    let fair = format!("{}_FAIR", lock_key("abc"));
    let mut left: Vec<&str> = left.lines().filter(|left| *left != fair).collect();
    left.sort_unstable();
    assert_eq!(left, [key("abc")]);
    assert_ne!(redis.command(&["PTTL", &fair]), "-1", "whose turn it is is forgotten by and by");
}
