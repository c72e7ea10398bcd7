//! The environments of platforms, each with the store that is meant there.

use super::*;

/// Its number, the environment, and what is found.
type Case<'a> = (u8, &'a [(&'a str, &'a str)], &'a str);

#[test]
fn every_platform_is_found_as_it_writes_its_variables() {
    let directory = Directory::new("platforms");
    let redis =
        vcap("redis", "redis-sessions", r#"{"host": "redis-host", "port": 45629, "password": "redis-pass"}"#);
    let memcached = vcap(
        "memcachedcloud",
        "my-memcached-sessions",
        r#"{"servers": "mc:11211", "username": "username", "password": "password"}"#,
    );
    let unnamed = vcap("p-redis", "p-redis-db", r#"{"host": "h", "port": 1, "password": "p"}"#);
    let custom = vcap("redis", "php-session-db", r#"{"host": "h", "port": 1, "password": "p"}"#);
    let by_uri = vcap("user-provided", "app-redis-sessions", r#"{"uri": "rediss://:a%2Bb@r:6380"}"#);
    let without_password = vcap("redis", "redis-sessions", r#"{"hostname": "r", "port": "6379"}"#);
    let both = r#"{"a": [{"name": "memcached-sessions", "credentials": {"servers": "m"}}],
        "b": [{"name": "redis-sessions", "credentials": {"hostname": "r"}}]}"#;
    let file = directory.write("vcap.json", &redis);
    directory.write("bindings/one/type", "php-redis-session\n");
    directory.write("bindings/one/host", "r\n");
    directory.write("bindings/one/password", "p\n");
    directory.write("untyped/one/host", "r");
    let (bindings, untyped) =
        (format!("{}/bindings", directory.path()), format!("{}/untyped", directory.path()));
    let relationships = base64(
        r#"{"redis": [{"scheme": "redis", "host": "redis.internal", "port": 6379}],
            "database": [{"scheme": "mysql", "host": "db", "port": 3306}],
            "redissession": [{"scheme": "redis", "host": "redissession.internal", "port": 6379, "password": null}]}"#,
    );
    let secret = directory.write("secret", "p\n");
    let heroku = [("DYNO", "web.1"), ("REDIS_URL", HEROKU)];
    let clever = [
        ("ENABLE_REDIS", "true"),
        ("SESSION_TYPE", "redis"),
        ("REDIS_HOST", "kv.example"),
        ("REDIS_PORT", "7002"),
        ("REDIS_PASSWORD", "token"),
        ("KV_HOST", "kv.example"),
        ("KV_PORT", "7002"),
        ("KV_TOKEN", "token"),
    ];
    let database = ("DATABASE_URL", "postgres://u:p@db:5432/app");
    let cases: &[Case<'_>] = &[
        (1, &[("VCAP_SERVICES", &redis)], "redis://:***@redis-host:45629"),
        (2, &[("VCAP_SERVICES", &memcached)], "memcached://username:***@mc:11211"),
        (3, &[("VCAP_SERVICES", &unnamed)], "files"),
        (
            4,
            &[("VCAP_SERVICES", &custom), ("REDIS_SESSION_STORE_SERVICE_NAME", "php-session-db")],
            "redis://:***@h:1",
        ),
        (5, &[("VCAP_SERVICES", &by_uri)], "rediss://:***@r:6380"),
        (6, &[("VCAP_SERVICES", &without_password)], "redis://r:6379"),
        (7, &[("VCAP_SERVICES", both)], "redis://r:6379"),
        (8, &[("VCAP_SERVICES_FILE_PATH", &file)], "redis://:***@redis-host:45629"),
        (9, &[("SERVICE_BINDING_ROOT", &bindings)], "redis://:***@r:6379"),
        (10, &[("SERVICE_BINDING_ROOT", &untyped)], "files"),
        (11, &heroku, HEROKU_FOUND),
        (
            12,
            &[("REDIS_URL", "redis://h:p@H:8409"), ("REDIS_TLS_URL", "rediss://h:p@H:8410")],
            "rediss://:***@H:8410",
        ),
        (13, &[("HEROKU_REDIS_COBALT_URL", "redis://h:p@c:1")], "redis://:***@c:1"),
        (
            14,
            &[("HEROKU_REDIS_COBALT_URL", "redis://h:p@c:1"), ("HEROKU_REDIS_GOLD_URL", "redis://h:p@g:1")],
            "error: HEROKU_REDIS_COBALT_URL and HEROKU_REDIS_GOLD_URL name different stores, and nothing says which is \
             for sessions",
        ),
        (15, &MEMCACHIER, "memcached://u:***@a:11211,b:11212"),
        (16, &[&heroku[..], &MEMCACHIER[..]].concat(), HEROKU_FOUND),
        (17, &[database], "files"),
        (18, &[("SESSION_STORE_URL", "env:DATABASE_URL"), database], "postgres://u:***@db:5432/app"),
        (19, &[("PLATFORM_RELATIONSHIPS", &relationships)], "redis://redissession.internal:6379"),
        (
            20,
            &[("SCALINGO_REDIS_URL", "redis://app:pw@s:1"), ("REDIS_URL", "redis://app:pw@s:1")],
            "redis://app:***@s:1",
        ),
        (21, &clever, "rediss://:***@kv.example:7002"),
        (22, &LINKS, "files"),
        (
            23,
            &[&LINKS[..], &[("REDIS_HOST", "redis"), ("REDIS_PASSWORD", "null")]].concat(),
            "redis://redis:6379",
        ),
        (
            24,
            &[("REDIS_HOST", "/run/r.sock"), ("REDIS_PASSWORD_FILE", &secret)],
            "unix:///run/r.sock?auth=***",
        ),
        (25, &[("AZURE_REDIS_CONNECTIONSTRING", "n:6380,password=k=,ssl=True")], "rediss://:***@n:6380"),
    ];
    assert_eq!(cases.len(), 25);
    for (number, variables, expected) in cases {
        assert_eq!(found(variables), *expected, "case {number}");
    }
    // What the masks hide.
    assert_eq!(passwords(cases[0].1), "redis-pass");
    assert_eq!(passwords(cases[4].1), "a+b");
    assert_eq!(passwords(cases[8].1), "p");
    assert_eq!(passwords(cases[20].1), "token");
    assert_eq!(passwords(cases[23].1), "p");
    assert_eq!(passwords(cases[24].1), "k=");
    // What is said besides.
    let on = |platform| {
        vec![format!(
            "sessions are kept in files of this server alone, and {platform} may run several\nhint: bind or attach a Redis or \
             Memcached service, or set SESSION_STORE_URL (files: it is meant so)"
        )]
    };
    assert_eq!(notices(cases[2].1), on("Cloud Foundry"));
    assert_eq!(
        notices(cases[6].1),
        [
            "services for sessions in Redis and in Memcached are bound, and Redis is used\nhint: unbind the other, or rename it"
        ]
    );
    assert_eq!(notices(cases[9].1), on("Kubernetes"));
    for silent in [1, 5, 11, 17, 18, 20, 22] {
        assert_eq!(notices(cases[silent - 1].1), [""; 0], "case {silent}");
    }
    let said = standings(cases[16].1);
    let expected = "a database is never taken by itself; SESSION_STORE_URL=env:DATABASE_URL takes it";
    assert_eq!(said, [("DATABASE_URL".to_owned(), expected.to_owned())]);
    let said = standings(cases[19].1);
    assert_eq!(said, [("REDIS_URL, SCALINGO_REDIS_URL".to_owned(), "chosen".to_owned())]);
}
