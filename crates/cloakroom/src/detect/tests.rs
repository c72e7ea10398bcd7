use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

mod platforms;

/// A directory of its own for each test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cloakroom-detect-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The masked URL, `files`, or the error.
fn found(variables: &[(&str, &str)]) -> String {
    let found = survey(&Environment::from_iter(variables.iter().copied()));
    match found.choice {
        Ok(Choice::Store { url, .. }) => url.to_string(),
        Ok(Choice::Files { .. }) => "files".into(),
        Err(error) => format!("error: {}", error.to_string().lines().next().unwrap()),
    }
}

fn passwords(variables: &[(&str, &str)]) -> String {
    let detected = detect(&Environment::from_iter(variables.iter().copied()), "/tmp").unwrap();
    let server = detected.url.server();
    let inside = server.password.iter();
    inside.chain(server.params.iter().map(|param| &param.value)).map(crate::Secret::reveal).collect()
}

fn notices(variables: &[(&str, &str)]) -> Vec<String> {
    survey(&Environment::from_iter(variables.iter().copied())).notices
}

/// The standing of everything seen, by what names it.
fn standings(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    let standing = |candidate: &Candidate| match &candidate.standing {
        Standing::Chosen => "chosen".to_owned(),
        Standing::PassedOver(why) => why.clone(),
    };
    let found = survey(&Environment::from_iter(variables.iter().copied()));
    found.candidates.iter().map(|candidate| (candidate.named_by(), standing(candidate))).collect()
}

/// The buildpack's own fixtures also bind services that must not be taken.
const DECOYS: &str = r#""newrelic": [{"name": "nr", "label": "newrelic", "credentials": {"licenseKey": "k"}}],
    "sendgrid": [{"name": "sg", "label": "sendgrid", "credentials": {"hostname": "smtp.sendgrid.net", "username": "u",
        "password": "p"}}]"#;

fn vcap(label: &str, name: &str, credentials: &str) -> String {
    format!(
        r#"{{{DECOYS}, "{label}": [{{"name": "{name}", "label": "{label}", "credentials": {credentials}}}]}}"#
    )
}

fn base64(text: &str) -> String {
    data_encoding::BASE64.encode(text.as_bytes())
}

const HEROKU: &str = "rediss://h:p@ec2-1.compute-1.amazonaws.com:21070";
const HEROKU_FOUND: &str = "rediss://:***@ec2-1.compute-1.amazonaws.com:21070?verify_peer=0";
const MEMCACHIER: [(&str, &str); 3] =
    [("MEMCACHIER_SERVERS", "a,b:11212"), ("MEMCACHIER_USERNAME", "u"), ("MEMCACHIER_PASSWORD", "p")];
const LINKS: [(&str, &str); 2] = [("REDIS_SERVICE_HOST", "10.0.0.1"), ("REDIS_PORT", "tcp://10.0.0.1:6379")];

#[test]
fn the_named_store_wins_and_files_are_the_rest() {
    let because = |variables: &[(&str, &str)]| {
        let detected = detect(&Environment::from_iter(variables.iter().copied()), "/tmp").unwrap();
        (detected.url.to_string(), detected.because)
    };
    let pair = |url: &str, because: &str| (url.to_owned(), because.to_owned());
    assert_eq!(because(&[]), pair("/tmp", "the environment names no store"));
    assert_eq!(because(&[("SESSION_STORE_URL", "")]), pair("/tmp", "the environment names no store"));
    for word in ["files", "off"] {
        let variables = [("SESSION_STORE_URL", word), ("DYNO", "web.1"), ("REDIS_URL", HEROKU)];
        assert_eq!(because(&variables), pair("/tmp", "SESSION_STORE_URL says files"));
        assert_eq!(notices(&variables), [""; 0]);
    }
    let own = [("SESSION_STORE_URL", "redis://:s3cr3t@h"), ("REDIS_URL", "redis://other")];
    assert_eq!(because(&own), pair("redis://:***@h", "SESSION_STORE_URL"));
    let auto = [("SESSION_STORE_URL", "auto"), ("REDIS_URL", "redis://other")];
    assert_eq!(because(&auto), pair("redis://other", "REDIS_URL"));
    let heroku = [("SESSION_STORE_URL", "env:REDIS_URL"), ("DYNO", "web.1"), ("REDIS_URL", HEROKU)];
    assert_eq!(because(&heroku).0, HEROKU_FOUND);
}

#[test]
fn what_counts_as_unset_names_nothing() {
    for value in ["", " ", "null", "NULL", "(null)", "${REDIS_URL}", "${redis.DATABASE_URL}"] {
        for name in ["SESSION_STORE_URL", "REDIS_URL", "REDIS_HOST", "MEMCACHED_HOST", "MEMCACHIER_SERVERS"] {
            assert_eq!(found(&[(name, value)]), "files", "{name}={value}");
        }
    }
    let half = [("REDIS_URL", "redis://:p@${REDIS_HOST}:6379")];
    assert_eq!(found(&half), "files");
    assert_eq!(standings(&half)[0].1, "a ${...} in it was not expanded, so that it counts as unset");
    let twin = [half[0], ("REDIS_TLS_URL", "rediss://:p@h:6380")];
    assert_eq!(found(&twin), "rediss://:***@h:6380");
    assert_eq!(found(&[("REDIS_URL", "redis://:a${@h")]), "redis://:***@h", "no reference at all");
}

#[test]
fn files_with_values_are_read_and_never_beside_a_value() {
    let directory = Directory::new("files");
    let url = directory.write("url", "redis://:p@h:1\r\n");
    let empty = directory.write("empty", "\n");
    assert_eq!(found(&[("SESSION_STORE_URL_FILE", &url)]), "redis://:***@h:1");
    assert_eq!(found(&[("REDIS_URL_FILE", &url)]), "redis://:***@h:1");
    assert_eq!(found(&[("REDIS_URL_FILE", &empty)]), "files");
    assert_eq!(standings(&[("REDIS_URL_FILE", &url)]), [("REDIS_URL_FILE".to_owned(), "chosen".to_owned())]);
    let twice = [("REDIS_HOST", "h"), ("REDIS_PASSWORD", "p"), ("REDIS_PASSWORD_FILE", url.as_str())];
    assert_eq!(found(&twice), "error: REDIS_PASSWORD and REDIS_PASSWORD_FILE are both set");
    let missing = [("SESSION_STORE_URL_FILE", "/nonexistent/url")];
    assert_eq!(
        found(&missing),
        "error: SESSION_STORE_URL_FILE: cannot read the file /nonexistent/url: No such file or directory (os error 2)"
    );
    // A trigger of Kubernetes: values are links to links.
    symlink(&url, directory.0.join("link")).unwrap();
    assert_eq!(found(&[("REDIS_URL_FILE", &format!("{}/link", directory.path()))]), "redis://:***@h:1");
}

#[test]
fn what_cannot_be_understood_is_an_error_that_names_the_variable() {
    let nowhere = vcap("redis", "redis-sessions", "{}");
    for (variables, expected) in [
        (
            &[("VCAP_SERVICES", "{\"s3cr3t")][..],
            "VCAP_SERVICES holds no JSON that can be read: EOF while parsing a string at \
          line 1 column 8",
        ),
        (
            &[("VCAP_SERVICES", &nowhere)],
            "VCAP_SERVICES, service redis-sessions: the host is missing from its credentials",
        ),
        (
            &[("PLATFORM_RELATIONSHIPS", "s3cr3t!")],
            "PLATFORM_RELATIONSHIPS is not base64: invalid length at 4",
        ),
        (
            &[("PLATFORM_RELATIONSHIPS", "czNjcjN0")],
            "PLATFORM_RELATIONSHIPS holds no JSON that can be read: expected value at \
          line 1 column 1",
        ),
        (
            &[("SERVICE_BINDING_ROOT", "/etc/passwd")],
            "SERVICE_BINDING_ROOT: cannot read the directory /etc/passwd: Not a directory (os error 20)",
        ),
        (
            &[("SESSION_STORE_URL", "redis://:s3cr3t@h:port")],
            "SESSION_STORE_URL: the port is not a number from 1 to 65535 (at \
          character 19)",
        ),
        (
            &[("SESSION_STORE_URL", "env:NOPE")],
            "SESSION_STORE_URL: the environment variable NOPE is not set (at character 1)",
        ),
        (&[("REDIS_URL", "https://s3cr3t.example")], "REDIS_URL names no Redis server"),
        (
            &[("REDIS_HOST", "h"), ("REDIS_PORT", "s3cr3t")],
            "REDIS_PORT: the port is not a number from 1 to 65535",
        ),
        (&[("REDIS_HOST", "h"), ("REDIS_DB", "s3cr3t")], "REDIS_DB: the database is not a number"),
        (&[("REDIS_HOST", "h h")], "REDIS_HOST is not one host"),
        (
            &[("MEMCACHED_HOST", "h"), ("MEMCACHED_PORT", "x")],
            "MEMCACHED_PORT: the port is not a number from 1 to 65535",
        ),
        (&[("MEMCACHED_URL", "mysql://s3cr3t@h")], "MEMCACHED_URL names no Memcached server"),
        (
            &[("AZURE_REDIS_CONNECTIONSTRING", "password=s3cr3t")],
            "AZURE_REDIS_CONNECTIONSTRING: the host is missing",
        ),
        (
            &[("REDISCACHECONNSTR_a", "h:x,password=s3cr3t")],
            "REDISCACHECONNSTR_a: the port is not a number from 1 to 65535",
        ),
    ] {
        assert_eq!(found(variables), format!("error: {expected}"));
        let all = format!("{:?}", survey(&Environment::from_iter(variables.iter().copied())));
        assert!(!all.contains("s3cr3t"), "{all}");
        let with_url = [variables, &[("SESSION_STORE_URL", "redis://h")]].concat();
        if variables[0].0 != "SESSION_STORE_URL" {
            assert_eq!(found(&with_url), "redis://h", "what decides before it needs it not");
        }
    }
}

#[test]
fn two_that_are_equally_meant_are_an_error() {
    let sessions = r#"{"a": [{"name": "a-redis-sessions", "credentials": {"host": "a"}},
        {"name": "b-redis-sessions", "credentials": {"host": "b"}}]}"#;
    let relationships =
        base64(r#"{"one": [{"scheme": "redis", "host": "a"}], "two": [{"scheme": "valkey", "host": "b"}]}"#);
    for (variables, names) in [
        (
            &[("VCAP_SERVICES", sessions)][..],
            "VCAP_SERVICES (service a-redis-sessions) and VCAP_SERVICES (service b-redis-sessions)",
        ),
        (
            &[("SESSIONS_URL", "redis://a"), ("REDIS_SESSION_URL", "redis://b")],
            "REDIS_SESSION_URL and SESSIONS_URL",
        ),
        (&[("VALKEY_URL", "valkey://a"), ("REDISCLOUD_URL", "redis://b")], "VALKEY_URL and REDISCLOUD_URL"),
        (&[("REDIS_HOST", "a"), ("REDISHOST", "b")], "REDIS_HOST and REDISHOST"),
        (
            &[("PLATFORM_RELATIONSHIPS", &relationships)],
            "PLATFORM_RELATIONSHIPS (relationship one) and PLATFORM_RELATIONSHIPS \
          (relationship two)",
        ),
        (
            &[("MEMCACHIER_SERVERS", "a"), ("MEMCACHEDCLOUD_SERVERS", "b"), ("MEMCACHED_HOST", "c")],
            "MEMCACHIER_SERVERS, \
          MEMCACHEDCLOUD_SERVERS and MEMCACHED_HOST",
        ),
    ] {
        let expected =
            format!("error: {names} name different stores, and nothing says which is for sessions");
        assert_eq!(found(variables), expected);
    }
    let error =
        survey(&Environment::from_iter([("VALKEY_URL", "valkey://a"), ("REDISCLOUD_URL", "redis://b")]));
    let error = error.choice.unwrap_err().to_string();
    let hint =
        "hint: set SESSION_STORE_URL to the one that is meant, such as SESSION_STORE_URL=env:VALKEY_URL";
    assert_eq!(error.lines().nth(1), Some(hint));
    // REDIS_URL is the one that is meant, whatever else there is.
    let primary = [("VALKEY_URL", "valkey://a"), ("REDISCLOUD_URL", "redis://b"), ("REDIS_URL", "redis://c")];
    assert_eq!(found(&primary), "redis://c");
}

#[test]
fn a_password_may_look_like_anything() {
    for (prefix, last) in [("REDIS", "HOST"), ("MEMCACHED", "HOST"), ("SESSIONS", "SERVERS")] {
        let names = [last, "USERNAME", "PASSWORD"].map(|part| format!("{prefix}_{part}"));
        let variables = [(names[0].as_str(), "h"), (names[1].as_str(), "u"), (names[2].as_str(), "a://b")];
        assert_eq!(passwords(&variables), "a://b", "{prefix}");
    }
}

#[test]
fn a_secret_where_a_path_is_meant_is_not_shown() {
    for name in ["REDIS_URL_FILE", "SESSION_STORE_URL_FILE", "VCAP_SERVICES_FILE_PATH"] {
        let said = found(&[(name, "s3cr3t")]);
        assert_eq!(
            said,
            format!("error: {name}: cannot read the file: No such file or directory (os error 2)")
        );
    }
}

#[test]
fn the_same_store_named_twice_is_one_candidate() {
    for variables in [
        &[
            ("REDIS_URL", "redis://default:p@r.internal:6379"),
            ("REDISHOST", "R.internal"),
            ("REDISPORT", "6379"),
        ][..],
        &[("VALKEY_URL", "valkey://h"), ("REDISCLOUD_URL", "redis://:p@h:6379/0")],
        &[("MEMCACHED_URL", "memcached://h"), ("MEMCACHED_HOST", "h"), ("MEMCACHED_PORT", "11211")],
    ] {
        let standings = standings(variables);
        assert_eq!(standings.len(), 1, "{standings:?}");
        assert_eq!(standings[0].1, "chosen");
    }
    let databases = [("VALKEY_URL", "valkey://h/1"), ("REDISCLOUD_URL", "redis://h/2")];
    assert!(found(&databases).starts_with("error: "));
}

#[test]
fn what_is_never_meant_for_sessions_is_not_taken() {
    for (name, value) in [
        ("REDIS_PUBLIC_URL", "redis://:p@public"),
        ("SESSIONS_PUBLIC_URL", "redis://:p@public"),
        ("UPSTASH_REDIS_REST_URL", "https://u.upstash.io"),
        ("SESSION_API_URL", "https://api.example"),
        ("SESSION_HOST", "www.example"),
        ("SESSION_DATABASE_URL", "mysql://u:p@db/app"),
        ("JAWSDB_URL", "mysql://u:p@db/app"),
        ("CLEARDB_DATABASE_URL", "mysql://u:p@db/app?reconnect=true"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("DYNAMODB_ENDPOINT", "http://localhost:8000"),
        ("DYNAMODB_URL", "dynamodb://eu-west-1/orders"),
        ("RDS_HOSTNAME", "db"),
        ("AZURE_REDIS_HOST", "h"),
        ("SESSIONS_SERVICE_HOST", "10.0.0.1"),
        ("REDIS_SESSION_SERVICE_HOST", "10.0.0.1"),
        ("SESSION_PATH", "/"),
        ("KAFKA_SESSION_BOOTSTRAP_SERVERS", "kafka:9092"),
        ("REDIS_SESSION_SERVERS", "redis:6379"),
        ("SESSION_DRIVER", "redis"),
        ("REDIS_PORT_6379_TCP_ADDR", "10.0.0.1"),
    ] {
        assert_eq!(found(&[(name, value)]), "files", "{name}");
    }
}

#[test]
fn what_somebody_called_the_sessions_comes_before_the_platforms_own() {
    let platform = [("REDIS_URL", "redis://platform"), ("REDIS_HOST", "platform")];
    for (own, expected) in [
        (&[("SESSIONS_REDIS_URL", "redis://own")][..], "redis://own"),
        (
            &[("SESSIONS_URL", "redis://h:p@own:1"), ("SESSIONS_TLS_URL", "rediss://h:p@own:2")],
            "rediss://:***@own:2",
        ),
        (&[("REDISSESSION_HOST", "own"), ("REDISSESSION_PORT", "7")], "redis://own:7"),
        (&[("SESSIONS_REDIS_URL", "own:7")], "tcp://own:7"),
        (&[("SESSION_MEMCACHED_URL", "own:7")], "memcached://own:7"),
        (&[("SESSION_API_URL", "own:7")], "redis://platform"),
        (&[("SESSION_HOST", "own"), ("SESSION_SCHEME", "redis")], "redis://own:6379"),
        (&[("SESSION_MEMCACHED_HOST", "own")], "memcached://own:11211"),
        (&[("SESSIONS_SERVERS", "a,b")], "memcached://a:11211,b:11211"),
        (&[("SESSIONS_URL", "dynamodb://eu-west-1/sessions")], "dynamodb://eu-west-1/sessions"),
    ] {
        assert_eq!(found(&[own, &platform].concat()), expected);
    }
}

#[test]
fn certificates_go_unchecked_in_herokus_shape_alone() {
    let dyno = ("DYNO", "web.1");
    let other_host = "rediss://:p@redis.example:6380";
    for (variables, expected) in [
        (&[("REDIS_URL", HEROKU)][..], "rediss://:***@ec2-1.compute-1.amazonaws.com:21070"),
        (&[dyno, ("REDIS_URL", other_host)], "rediss://:***@redis.example:6380"),
        (&[dyno, ("REDIS_URL", "redis://h:p@ec2-1.amazonaws.com:1")], "redis://:***@ec2-1.amazonaws.com:1"),
        (
            &[dyno, ("REDIS_URL", "rediss://:p@ec2-1.amazonaws.com:1?cafile=/ca")],
            "rediss://:***@ec2-1.amazonaws.com:1?cafile=/ca",
        ),
        (
            &[dyno, ("SESSIONS_URL", "rediss://:p@master.x.use1.cache.amazonaws.com:6379")],
            "rediss://:***@master.x.use1.cache.amazonaws.com:6379",
        ),
        (&[dyno, ("HEROKU_REDIS_GOLD_URL", HEROKU)], HEROKU_FOUND),
        (&[dyno, ("SESSIONS_URL", HEROKU)], HEROKU_FOUND),
    ] {
        assert_eq!(found(variables), expected);
    }
}

#[test]
fn parts_are_put_together() {
    for (variables, expected) in [
        (
            &[
                ("REDIS_HOST", "h"),
                ("REDIS_HOST_PORT", "7"),
                ("REDIS_HOST_USER", "u"),
                ("REDIS_HOST_PASSWORD", "p"),
            ][..],
            "redis://u:***@h:7",
        ),
        (&[("REDIS_HOST", "tls://h"), ("REDIS_DB", "3")], "rediss://h:6379/3"),
        (&[("REDIS_HOST", "h:7"), ("REDIS_SCHEME", "tls")], "rediss://h:7"),
        (&[("REDIS_HOST", "fd00::1")], "redis://[fd00::1]:6379"),
        (
            &[("REDIS_HOST", "/run/r.sock"), ("REDIS_PORT", "0"), ("REDIS_DB", "2")],
            "unix:///run/r.sock?database=2",
        ),
        (
            &[("REDISHOST", "h"), ("REDISPORT", "7"), ("REDISUSER", "default"), ("REDISPASSWORD", "p")],
            "redis://default:***@h:7",
        ),
        (&[("KV_HOST", "h"), ("KV_PORT", "7"), ("KV_TOKEN", "t")], "rediss://:***@h:7"),
        (
            &[(
                "REDISCACHECONNSTR_cache",
                "n.redis.cache.windows.net:6380,password=k,ssl=True,abortConnect=False",
            )],
            "rediss://:***@n.redis.cache.windows.net:6380",
        ),
        (&[("AZURE_REDIS_CONNECTIONSTRING", "rediss://:k@n:6380/0")], "rediss://:***@n:6380/0"),
        (
            &[("MEMCACHED_HOST", "h"), ("MEMCACHED_USERNAME", "u"), ("MEMCACHED_PASSWORD", "p")],
            "memcached://u:***@h:11211",
        ),
        (&[("MEMCACHED_HOST", "h"), ("MEMCACHED_PORT", "tcp://10.0.0.1:11211")], "memcached://h:11211"),
        (
            &[
                ("STACKHERO_REDIS_URL_TLS", "rediss://:p@s:2"),
                ("STACKHERO_REDIS_URL_CLEAR", "redis://:p@s:1"),
            ],
            "rediss://:***@s:2",
        ),
        (&[("DATABASE_URL", "rediss://default:p@do.example:25061")], "rediss://default:***@do.example:25061"),
        (&[("REDIS_URL", "redis://password@f.upstash.io")], "redis://:***@f.upstash.io"),
    ] {
        assert_eq!(found(variables), expected, "{variables:?}");
    }
}

#[test]
fn bindings_are_directories_with_a_type() {
    let directory = Directory::new("bindings");
    let root = directory.path();
    let look = || found(&[("SERVICE_BINDING_ROOT", &root)]);
    assert_eq!(found(&[("SERVICE_BINDING_ROOT", "/nonexistent")]), "files");
    directory.write("..data/type", "redis");
    directory.write("stray", "redis");
    assert_eq!(look(), "files");
    // Whoever cannot read it (as nobody can read this) does not know what it is.
    directory.write("unreadable/type/of", "redis");
    let error = survey(&Environment::from_iter([("SERVICE_BINDING_ROOT", &root)])).choice.unwrap_err();
    assert_eq!(
        error.to_string(),
        "SERVICE_BINDING_ROOT, binding unreadable: cannot read the file type: Is a directory (os error 21)\nhint: it must \
         be readable by the user that PHP runs as"
    );
    assert_eq!(found(&[("SERVICE_BINDING_ROOT", &root), ("REDIS_URL", "redis://h")]), "redis://h");
    std::fs::remove_dir_all(directory.0.join("unreadable")).unwrap();
    directory.write("cache/type", "memcached");
    directory.write("cache/host", "m");
    assert_eq!(look(), "memcached://m:11211");
    directory.write("store/type", "redis");
    directory.write("store/uri", "rediss://u:p@r:1");
    directory.write("store/certificates", "pem");
    directory.write("store/private-key", "pem");
    let expected =
        format!("rediss://u:***@r:1?local_cert={root}/store/certificates&local_pk={root}/store/private-key");
    assert_eq!(look(), expected);
    directory.write("app/type", "php-memcached-session\n");
    directory.write("app/servers", "a,b\n");
    directory.write("app/username", "u\n");
    directory.write("app/password", "p\n");
    assert_eq!(look(), "memcached://u:***@a:11211,b:11211");
}

#[test]
fn the_buildpacks_options_name_other_services() {
    let directory = Directory::new("options");
    let services = vcap("memcachedcloud", "cache-for-php", r#"{"servers": "m"}"#);
    let home = directory.path();
    let variables = [("VCAP_SERVICES", services.as_str()), ("HOME", home.as_str())];
    assert_eq!(found(&variables), "files");
    let reason = "its name does not contain memcached-sessions";
    assert_eq!(
        standings(&variables),
        [("VCAP_SERVICES (service cache-for-php)".to_owned(), reason.to_owned())]
    );
    let options = r#"{"WEB_DIR": "htdocs", "MEMCACHED_SESSION_STORE_SERVICE_NAME": "cache-for"}"#;
    directory.write("app/.bp-config/options.json", options);
    assert_eq!(found(&variables), "memcached://m:11211");
    directory.write(".bp-config/options.json", "{");
    let expected = format!(
        "error: {home}/.bp-config/options.json holds no JSON that can be read: EOF while parsing an object at line 1 \
         column 1"
    );
    assert_eq!(found(&variables), expected);
}
