use super::*;
use crate::{Environment, SavePath};

fn parse(text: &str) -> Result<Options> {
    match SavePath::parse(text, &Environment::default()).unwrap() {
        SavePath::Store(url) => Options::parse(&url),
        SavePath::Detect => panic!("{text} means detection"),
    }
}

#[test]
fn everything_is_read_with_its_defaults() {
    let options = parse("memcached://h,[::1]:2:3,/run/m.sock").unwrap();
    let tcp = |host: &str, port| Address::Tcp { host: host.into(), port };
    let servers: Vec<_> = options
        .servers
        .iter()
        .map(|server| (server.shown.as_str(), &server.address, server.weight))
        .collect();
    assert_eq!(
        servers,
        [
            ("memcached://h:11211", &tcp("h", 11211), 1),
            ("memcached://[::1]:2", &tcp("::1", 2), 3),
            ("memcached:///run/m.sock", &Address::Unix("/run/m.sock".into()), 1),
        ]
    );
    assert_eq!(options.distribution, Distribution::Ketama);
    assert_eq!((options.protocol, options.lock), (Protocol::Auto, LockPlace::Native));
    assert_eq!((options.credentials, options.tls, options.prefix.as_str()), (None, None, PREFIX));
    assert_eq!((options.connect_timeout, options.timeout), (None, None));
    assert_eq!((options.replicas, options.remove_failed_after), (0, None));

    let options = parse(
        "memcached://a,b,c?prefix=&protocol=meta&lock=own&consistent_hash_type=ketama_weighted&replicas=9\
         &randomize_replica_read=1&remove_failed_servers=1&server_failure_limit=3&timeout=1.5&read_timeout=2\
         &persistent=app",
    )
    .unwrap();
    assert_eq!(options.distribution, Distribution::KetamaWeighted);
    assert_eq!((options.protocol, options.lock), (Protocol::Meta, LockPlace::Own));
    assert_eq!((options.prefix.as_str(), options.replicas), ("", 2));
    assert_eq!(options.remove_failed_after, NonZeroU32::new(3));
    assert_eq!(options.connect_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(options.timeout, Some(Duration::from_secs(2)));
    assert_eq!(parse("memcached://h?read_timeout=-1").unwrap().timeout, None);
    let removed = parse("memcached://h?remove_failed_servers=1").unwrap().remove_failed_after;
    assert_eq!(removed, Some(NonZeroU32::MIN));
    assert_eq!(parse("memcached://h?server_failure_limit=3").unwrap().remove_failed_after, None);
}

#[test]
fn a_user_and_a_password_are_read_in_every_form() {
    for text in [
        "memcached://me:pw@a,b",
        "memcached://a,b?user=me&password=pw",
        "memcached://me:pw@a?username=me&pass=pw",
        "memcached://me@a?user=me&password=pw",
    ] {
        if text.starts_with("memcached://me@") {
            // A bare word before the @ is a password.
            assert_eq!(parse(text).unwrap_err().kind(), ErrorKind::Config);
            continue;
        }
        let credentials = parse(text).unwrap().credentials.unwrap();
        assert_eq!((credentials.user.as_str(), credentials.password.reveal()), ("me", "pw"), "{text}");
    }
    assert_eq!(parse("memcached://a?user=&password=").unwrap().credentials, None);
    let shown = format!("{:?}", parse("memcached://me:hunter2@h?password=hunter2").unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn tls_is_for_its_own_scheme() {
    assert!(parse("memcacheds://h?verify_peer_name=0").unwrap().tls.is_some_and(|tls| !tls.verify_peer_name));
    assert!(parse("memcacheds://h#insecure").unwrap().tls.is_some_and(|tls| !tls.verify_peer));
}

#[test]
fn what_cannot_be_meant_is_refused_at_its_character() {
    for (text, message) in [
        ("memcached://h?wieght=1", "unknown option \"wieght\" (at character 15)"),
        (
            "memcached://h?protocol=text",
            "option \"protocol\" takes one of auto, ascii, meta, binary (at character 15)",
        ),
        ("memcached://h?lock=off", "option \"lock\" takes one of native, own (at character 15)"),
        (
            "memcached://h?distribution=crc32",
            "option \"distribution\" takes one of ketama, ketama_weighted, modula (at character 15)",
        ),
        ("memcached://h?replicas=-1", "option \"replicas\" takes a number from 0 (at character 15)"),
        (
            "memcached://h?server_failure_limit=0",
            "option \"server_failure_limit\" takes a number above 0 (at character 15)",
        ),
        (
            "memcached://h?remove_failed_servers=2",
            "option \"remove_failed_servers\" takes 1 or 0 (at character 15)",
        ),
        ("memcached://h?timeout=0", "option \"timeout\" takes seconds above 0 (at character 15)"),
        (
            "memcached://h?prefix=a%20b",
            "option \"prefix\" takes up to 200 bytes without spaces and control characters (at character 15)",
        ),
        (
            "memcached://h?timeout=1&connect_timeout=1",
            "option \"connect_timeout\" is given twice (at character 25)",
        ),
        (
            "memcached://h?cafile=/ca",
            "option \"cafile\" takes a scheme with TLS before the host (memcacheds://) (at character 15)",
        ),
        (
            "memcached://me:pw@h?user=you",
            "option \"user\" takes what stands before the @, or nothing stands there (at character 21)",
        ),
        ("memcached://:pw@h", "this is a password without a user"),
        ("memcached://pw@h", "this is a password without a user"),
        ("memcached://h?user=me", "this is a user without a password"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{text}");
        let shown = error.to_string();
        let first = shown.lines().next().unwrap();
        assert_eq!(first, format!("session.save_path: {message}"), "{text}");
    }
}
