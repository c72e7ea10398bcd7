//! What `docs/redis.md` says is so: its options, its rights, and every error, from a real server.

use std::time::Duration;

use cloakroom::stores::redis::{OPTIONS, RIGHTS};
use cloakroom::{Access, Change, Deadline, Error, Outcome, Result, Settings, Store};
use testbed::cluster::Cluster;
use testbed::redis::Redis;
use testbed::sentinel::Replicated;
use testbed::suite::{Case, case};
use testbed::wait_until;

use crate::documented;
use crate::worker::{
    EXCLUSIVE, LIFETIME, counted, id, increment, lock, patient, put, read, soon, store_with,
};
use crate::{LIMIT, REDIS, key, lock_key, store, told};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case(
            "the_options_of_the_docs_are_those_of_the_code",
            &[],
            the_options_of_the_docs_are_those_of_the_code,
        ),
        case(
            "the_rights_of_the_docs_are_those_of_the_code",
            &[],
            the_rights_of_the_docs_are_those_of_the_code,
        ),
    ];
    cases.push(case(
        "the_least_rights_are_enough_in_a_cluster",
        REDIS,
        the_least_rights_are_enough_in_a_cluster,
    ));
    cases.push(case(
        "the_least_rights_are_enough_with_sentinels",
        REDIS,
        the_least_rights_are_enough_with_sentinels,
    ));
    // One case for each row, so that they run side by side.
    cases.extend(errors().into_iter().map(|row| {
        case(format!("the docs on errors: a server that says or does: {}", row.server), REDIS, move || {
            an_error_is_as_documented(&row)
        })
    }));
    cases
}

fn docs() -> String {
    std::fs::read_to_string(testbed::php::workspace().join("docs/redis.md")).unwrap()
}

fn the_options_of_the_docs_are_those_of_the_code() {
    documented::options("redis", OPTIONS);
}

fn the_rights_of_the_docs_are_those_of_the_code() {
    let line = format!("ACL SETUSER php on >PASSWORD resetchannels ~PHPREDIS_SESSION:* -@all {RIGHTS}\n");
    assert!(docs().contains(&line), "{line}");
}

fn the_least_rights_are_enough_in_a_cluster() {
    let rules = "resetchannels ~PHPREDIS_CLUSTER_SESSION:* ~{PHPREDIS_CLUSTER_SESSION:* -@all";
    let more = "+cluster|slots +asking";
    let text = docs();
    for rules in rules.split(' ').filter(|rule| rule.starts_with('~')).chain([more]) {
        assert!(text.contains(rules), "{rules} is not in the docs");
    }
    let cluster = Cluster::start();
    let rules: Vec<&str> = ["ACL", "SETUSER", "php", "on", ">pw"]
        .into_iter()
        .chain([rules, RIGHTS, more].iter().flat_map(|rules| rules.split_whitespace()))
        .collect();
    for node in cluster.nodes() {
        assert_eq!(node.command(&rules), "OK");
    }
    let save_path = cluster.url().replace("redis+cluster://", "redis+cluster://php:pw@");
    let session = "PHPREDIS_CLUSTER_SESSION:abc";
    let slot = cluster.slot(session);
    let count = |times: usize| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let mut store = store(&save_path);
                scope.spawn(move || {
                    for _ in 0..times {
                        increment(store.as_mut(), &id("abc"), EXCLUSIVE).unwrap();
                    }
                });
            }
        });
    };
    count(10);
    let migration = cluster.begin(slot, cluster.other_than_owner_of(session));
    std::thread::scope(|scope| {
        scope.spawn(|| count(10));
        // Somebody asks at the new place for what is not there yet.
        wait_until("they meet the move", LIMIT, || {
            let moving = cluster.nodes().iter().map(|node| node.command(&["INFO", "commandstats"]));
            moving.filter(|stats| stats.contains("cmdstat_asking:calls=")).count() > 0
        });
        migration.finish();
    });
    count(10);
    let mut store = store(&save_path);
    assert_eq!(counted(&read(store.as_mut(), &id("abc")).unwrap()), 120);
    let mut listed = 0;
    let mut each = |_| {
        listed += 1;
        true
    };
    store.list(&mut each, soon()).unwrap();
    assert_eq!(listed, 1);
    for node in cluster.nodes() {
        assert_eq!(node.command(&["ACL", "LOG"]), "", "nothing was refused");
    }
}

fn the_least_rights_are_enough_with_sentinels() {
    let text = docs();
    let (servers, sentinels) = ("+role +wait", "+sentinel|get-master-addr-by-name");
    for right in servers.split(' ').chain([sentinels]) {
        assert!(text.contains(&format!("`{right}`")), "{right} is not in the docs");
    }
    let replicated = Replicated::start();
    let user = |rights: &[&'static str]| -> Vec<&'static str> {
        let user = "ACL SETUSER php on >pw resetchannels ~PHPREDIS_SESSION:* -@all";
        [user]
            .iter()
            .chain(rights)
            .flat_map(|rules| rules.split(' '))
            .filter(|rule| !rule.is_empty())
            .collect()
    };
    for server in [replicated.primary(), replicated.replica()] {
        assert_eq!(server.command(&user(&[RIGHTS, servers])), "OK");
    }
    let watcher: Vec<&str> = user(&[sentinels]).into_iter().filter(|rule| !rule.starts_with('~')).collect();
    assert_eq!(replicated.sentinel().command(&watcher), "OK");
    let save_path = replicated.url().replace("redis+sentinel://", "redis+sentinel://php:pw@");
    let mut store = store(&format!("{save_path}?sentinel_auth[]=php&sentinel_auth[]=pw&wait_replicas=1"));
    for _ in 0..3 {
        increment(store.as_mut(), &id("abc"), EXCLUSIVE).unwrap();
    }
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:3;");
    assert_eq!(replicated.primary().command(&["ACL", "LOG"]), "", "nothing was refused");
    assert_eq!(replicated.sentinel().command(&["ACL", "LOG"]), "", "nothing was refused");
}

/// A row of the table of errors; `-` for what is healed.
#[derive(Debug)]
struct Row {
    server: String,
    kind: String,
    hint: String,
}

fn errors() -> Vec<Row> {
    let text = docs();
    let (_, table) = text.split_once("| the server | what becomes of the request | kind | hint |\n").unwrap();
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<String> = line.split('|').map(|cell| cell.trim().replace('`', "")).collect();
        let [_, server, _, kind, hint, _] = <[String; 6]>::try_from(cells).unwrap();
        Row { server, kind, hint }
    });
    rows.collect()
}

fn an_error_is_as_documented(row: &Row) {
    match (provoked(&row.server), row.kind.as_str()) {
        (Ok(()), "-") => {}
        (Ok(()), kind) => panic!("{}: no error, and not {kind}", row.server),
        (Err(error), kind) => {
            assert_eq!(format!("{:?}", error.kind()), kind, "{error}");
            let hint = error.to_string().split_once("\nhint: ").unwrap().1.to_owned();
            // A reply is shown as it was; what the server does is told in other words.
            assert!(hint.contains(&row.hint) || !row.server.contains(char::is_uppercase), "{error}");
            if !row.server.contains(' ') {
                assert!(error.to_string().contains(&row.server), "{error}");
            }
        }
    }
}

/// Makes a real server answer so, and hands out what a request met.
fn provoked(server: &str) -> Result<()> {
    match server {
        "OOM" => {
            let redis = Redis::start();
            refused_write(&redis, || redis.command(&["CONFIG", "SET", "maxmemory", "1"]))
        }
        "MISCONF" => {
            let redis = Redis::with(&["--save", "3600 1", "--dbfilename", "taken"]);
            let directory = redis.command(&["CONFIG", "GET", "dir"]);
            std::fs::create_dir(format!("{}/taken", directory.lines().nth(1).unwrap())).unwrap();
            refused_write(&redis, || {
                redis.command(&["BGSAVE"]);
                wait_until("saving has failed", LIMIT, || {
                    redis.command(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err")
                });
                String::new()
            })
        }
        "READONLY" => {
            let redis = Redis::start();
            refused_write(&redis, || redis.command(&["REPLICAOF", "127.0.0.1", "1"]))
        }
        "NOREPLICAS" => {
            let redis = Redis::start();
            refused_write(&redis, || redis.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]))
        }
        "MASTERDOWN" => {
            let redis = Redis::with(&["--replica-serve-stale-data", "no"]);
            redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
            opened(&redis.url())
        }
        "LOADING" => while_it(
            |redis| {
                redis.command(&["DEBUG", "POPULATE", "20000"]);
                redis.command(&[
                    "CONFIG",
                    "SET",
                    "key-load-delay",
                    "1000",
                    "loading-process-events-interval-bytes",
                    "1024",
                ]);
            },
            &["DEBUG", "RELOAD"],
            &["CONFIG", "SET", "key-load-delay", "0"],
        ),
        "BUSY" => while_it(
            |redis| drop(redis.command(&["CONFIG", "SET", "lua-time-limit", "50"])),
            &["EVAL", "while true do end", "0"],
            &["SCRIPT", "KILL"],
        ),
        "max number of clients" => {
            let redis = Redis::start();
            redis.command(&["CONFIG", "SET", "maxclients", "1"]);
            let mut only = store(&redis.url());
            wait_until("it is the only client", LIMIT, || only.exists(&id("abc"), soon()).is_ok());
            // Whoever is turned away comes back until then; a busy machine must answer before.
            let briefly = || Deadline::after(Duration::from_secs(2));
            let mut one_more = store(&redis.url());
            Err(told(|| one_more.open(&id("abc"), EXCLUSIVE, briefly()).unwrap_err()))
        }
        "NOAUTH" => read_only(&Redis::with(&["--requirepass", "pw"]).url()),
        "WRONGPASS" => {
            let redis = Redis::with(&["--requirepass", "pw"]);
            opened(&format!("redis://me:other@{}", redis.address()))
        }
        "NOPERM" => {
            let redis = Redis::start();
            redis.command(&["ACL", "SETUSER", "php", "on", ">pw", "~elsewhere:*", "+@all"]);
            opened(&format!("redis://php:pw@{}", redis.address()))
        }
        "WRONGTYPE" => {
            let redis = Redis::start();
            redis.command(&["RPUSH", &key("abc"), "x"]);
            let opened = opened(&redis.url());
            assert_eq!(redis.command(&["LLEN", &key("abc")]), "1");
            opened
        }
        "ERR DB index is out of range" => {
            let redis = Redis::start();
            opened(&format!("{}/99", redis.url()))
        }
        "MOVED" => {
            let cluster = Cluster::start();
            let elsewhere = cluster.other_than_owner_of(&key("abc"));
            read_only(&format!("redis://{}", elsewhere.address()))
        }
        "CLUSTERDOWN" => {
            let bus = testbed::free_port().to_string();
            read_only(&Redis::with(&["--cluster-enabled", "yes", "--cluster-port", &bus]).url())
        }
        "NOSCRIPT" => healed(|redis| drop(redis.command(&["SCRIPT", "FLUSH"]))),
        "cuts the connection" => {
            healed(|redis| drop(redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])))
        }
        "is busy, for less than cloakroom.timeout" => {
            let redis = Redis::start();
            std::thread::scope(|scope| {
                let sleeper = scope.spawn(|| redis.command(&["DEBUG", "SLEEP", "0.3"]));
                let settings = Settings { timeout: LIMIT, ..patient() };
                let mut store = store_with(&redis.url(), settings);
                while !sleeper.is_finished() {
                    put(store.as_mut(), &id("abc"), b"n|i:1;");
                }
            });
            Ok(())
        }
        "does not answer within cloakroom.timeout" => {
            let redis = Redis::start();
            let mut store =
                store_with(&redis.url(), Settings { timeout: Duration::from_secs(1), ..patient() });
            let (_, hold) = lock(store.as_mut(), &id("abc"));
            redis.freeze();
            let error =
                store.commit(&id("abc"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap_err();
            redis.thaw();
            assert_eq!(error.outcome(), Outcome::Unknown);
            Err(error)
        }
        "answers something else" => {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let save_path = format!("redis://{}", listener.local_addr().unwrap());
            let answering = std::thread::spawn(move || {
                use std::io::{Read, Write};
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                // Until the other side has read it.
                let _ = stream.read(&mut [0; 4096]);
            });
            let opened = opened(&save_path);
            answering.join().unwrap();
            opened
        }
        unknown => panic!("nobody knows how to provoke {unknown:?}"),
    }
}

/// A request that finds its server so when it starts.
fn opened(save_path: &str) -> Result<()> {
    store(save_path).open(&id("abc"), EXCLUSIVE, soon()).map(drop)
}

fn read_only(save_path: &str) -> Result<()> {
    store(save_path).open(&id("abc"), Access::ReadOnly, soon()).map(drop)
}

/// A request whose server becomes so before it writes. The record stays.
fn refused_write(redis: &Redis, becomes: impl FnOnce() -> String) -> Result<()> {
    let mut store = store(&redis.url());
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    becomes();
    let error = store.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap_err();
    assert_eq!(error.outcome(), Outcome::Refused, "{error}");
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
    // A server that takes no writes at all keeps the lock until it ends by itself.
    let kept = if error.to_string().contains("OOM") { "0" } else { "1" };
    assert_eq!(redis.command(&["EXISTS", &lock_key("abc")]), kept, "{error}");
    Err(error)
}

/// A request while the server does this, until it is told to come to an end. Afterwards all is well.
fn while_it(prepare: impl FnOnce(&Redis), does: &[&str], end: &[&str]) -> Result<()> {
    let redis = Redis::start();
    let mut store = store(&redis.url());
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    prepare(&redis);
    let error = std::thread::scope(|scope| {
        scope.spawn(|| redis.command(does));
        let mut error: Option<Error> = None;
        wait_until("a request is refused", LIMIT, || {
            error = store.open(&id("abc"), Access::ReadOnly, soon()).err();
            error.is_some()
        });
        assert_eq!(redis.command(end), "OK");
        error
    });
    wait_until("all is well", LIMIT, || store.exists(&id("abc"), soon()).is_ok());
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
    error.map_or(Ok(()), Err)
}

/// A request whose server does this between its open and its commit.
fn healed(does: impl Fn(&Redis)) -> Result<()> {
    let redis = Redis::start();
    let mut store: Box<dyn Store> = store(&redis.url());
    for round in 0..3 {
        let opened = store.open(&id("abc"), EXCLUSIVE, soon())?;
        does(&redis);
        let bytes = format!("n|i:{round};");
        store.commit(&id("abc"), opened.hold, Change::Write(bytes.as_bytes(), LIFETIME), soon())?;
        does(&redis);
        assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), bytes.into_bytes());
    }
    Ok(())
}
