use super::*;
use crate::{Environment, SavePath};

fn parse(text: &str) -> Result<Endpoint> {
    match SavePath::parse(text, &Environment::default()).unwrap() {
        SavePath::Store(url) => Ok(Options::parse(&url)?.servers.remove(0).1),
        SavePath::Detect => panic!("{text} means detection"),
    }
}

fn auth(text: &str) -> Option<(Option<String>, String)> {
    let credentials = parse(text).unwrap().credentials?;
    Some((credentials.user, credentials.password.reveal().to_owned()))
}

#[test]
fn a_password_and_a_user_are_read_in_every_form() {
    for text in [
        "tcp://h?auth=pw",
        "tcp://h?auth[]=pw",
        "tcp://h?auth[pass]=pw",
        "redis://:pw@h",
        "redis://pw@h",
        "redis://h?password=pw",
        "redis://:pw@h?auth=pw",
        "unix:///run/r.sock?auth=pw",
    ] {
        assert_eq!(auth(text), Some((None, "pw".into())), "{text}");
    }
    for text in [
        "tcp://h?auth[]=me&auth[]=pw",
        "tcp://h?auth[user]=me&auth[pass]=pw",
        "tcp://h?auth[0]=me&auth[1]=pw",
        "tcp://h?auth[1]=pw&auth[0]=me",
        "redis://me:pw@h",
        "redis://me@h?auth=pw",
        "rediss://h?user=me&password=pw",
    ] {
        let user = match text {
            // A bare word before the @ is a password.
            "redis://me@h?auth=pw" => continue,
            _ => Some("me".to_owned()),
        };
        assert_eq!(auth(text), Some((user, "pw".into())), "{text}");
    }
    // As in phpredis, these send no AUTH.
    for text in ["tcp://h", "tcp://h?auth=", "tcp://me:pw@h"] {
        assert_eq!(auth(text), None, "{text}");
    }
    assert!(parse("tcp://me:pw@h").unwrap().ignored_userinfo);
}

#[test]
fn the_rest_is_read_with_its_defaults() {
    let options = parse("tcp://h").unwrap();
    assert_eq!(options.address, Address::Tcp { host: "h".into(), port: 6379 });
    assert_eq!((options.database, options.prefix.as_str()), (0, PREFIX));
    assert_eq!((options.connect_timeout, options.timeout, options.tls), (None, None, None));

    let options = parse(
        "tcp://h:7?weight=3&timeout=1.5&read_timeout=2&persistent=1&persistent_id=x&retry_interval=100\
         &prefix=&database=2",
    )
    .unwrap();
    assert_eq!((options.database, options.prefix.as_str()), (2, ""));
    assert_eq!(options.connect_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(options.timeout, Some(Duration::from_secs(2)));

    assert_eq!(parse("tcp://h?read_timeout=0").unwrap().timeout, None);
    assert_eq!(parse("unix:///run/r.sock").unwrap().address, Address::Unix("/run/r.sock".into()));
    assert_eq!(parse("redis:///run/r.sock?db=4").unwrap().address, Address::Unix("/run/r.sock".into()));
    for text in ["redis://h/4", "redis://h?db=4", "valkey://h/?dbindex=4", "redis://h/4?database=4"] {
        assert_eq!(parse(text).unwrap().database, 4, "{text}");
    }
    for text in ["tcp://h/4", "unix:///run/r.sock/4", "redis+unix:///run/r.sock/4"] {
        assert_eq!(parse(text).unwrap().database, 0, "{text}");
    }
    let socket = parse("redis:///run/r.sock/4").unwrap();
    assert_eq!((socket.address, socket.database), (Address::Unix("/run/r.sock".into()), 4));
}

#[test]
fn each_server_of_a_pool_has_its_own_options() {
    let list = "tcp://a?weight=2&auth=x&prefix=p, tls://b:1?database=3, unix:///run/r.sock";
    let SavePath::Store(url) = SavePath::parse(list, &Environment::default()).unwrap() else { panic!() };
    let servers = Options::parse(&url).unwrap().servers;
    let seen: Vec<_> = servers
        .iter()
        .map(|(weight, server)| (*weight, server.tls.is_some(), server.database, server.prefix.as_str()))
        .collect();
    assert_eq!(seen, [(2, false, 0, "p"), (1, true, 3, PREFIX), (1, false, 0, PREFIX)]);
    assert_eq!(servers[0].1.shown, "tcp://a?weight=2&auth=***&prefix=p");
    assert_eq!(servers[2].1.address, Address::Unix("/run/r.sock".into()));
}

#[test]
fn tls_is_read_in_php_words_and_in_ours() {
    for text in ["rediss://h?verify_peer=0&cafile=/ca", "tls://h?stream[verify_peer]=0&stream[cafile]=/ca"] {
        let tls = parse(text).unwrap().tls.unwrap();
        assert_eq!((tls.verify_peer, tls.verify_peer_name), (false, true), "{text}");
        assert_eq!(tls.cafile, Some("/ca".into()), "{text}");
    }
    assert!(parse("ssl://h").unwrap().tls.unwrap().verify_peer);
    let tls = parse("tls://h?stream[local_cert]=/c&ssl[allow_self_signed]=1&SNI_enabled=0").unwrap();
    let tls = tls.tls.unwrap();
    assert_eq!(tls.identity, Some(Identity { certificate: "/c".into(), key: "/c".into() }));
    assert_eq!((tls.allow_self_signed, tls.name_sent), (true, false));
    assert!(!parse("rediss://h#insecure").unwrap().tls.unwrap().verify_peer);
}

#[test]
fn what_cannot_be_meant_is_refused_at_its_character() {
    for (text, message) in [
        ("tcp://h?wieght=1", "unknown option \"wieght\" (at character 9)"),
        ("tcp://h?weight=0", "option \"weight\" takes a number above 0 (at character 9)"),
        ("tcp://h?weight=x", "option \"weight\" takes a number above 0 (at character 9)"),
        ("tcp://h?timeout=0", "option \"timeout\" takes seconds above 0 (at character 9)"),
        ("tcp://h?timeout=nan", "option \"timeout\" takes seconds above 0 (at character 9)"),
        ("tcp://h?database=1&db=1", "option \"db\" is given twice (at character 20)"),
        ("tcp://h?auth=a&auth=b", "option \"auth\" is given twice (at character 16)"),
        ("tcp://h?auth[]=a&auth[]=b&auth[]=c", "option \"auth[]\" is given twice (at character 27)"),
        ("tcp://h?database=one", "option \"database\" takes a number from 0 (at character 9)"),
        (
            "redis://h/1?database=2",
            "option \"database\" takes the number after the host, or none stands there (at character 13)",
        ),
        (
            "tcp://h/1?database=2",
            "option \"database\" takes the number after the host, or none stands there (at character 11)",
        ),
        (
            "tcp://a:b@h?auth=c",
            "option \"auth\" takes what stands before the @, or nothing stands there (at character 13)",
        ),
        (
            "tcp://h?cafile=/ca",
            "option \"cafile\" takes a scheme with TLS before the host (tls:// or rediss://) (at character 9)",
        ),
        (
            "rediss://h?local_pk=/k",
            "option \"local_pk\" takes a certificate beside it (local_cert=) (at character 12)",
        ),
        (
            "tls://h?stream[passphrase]=hunter2",
            "option \"stream[passphrase]\" takes nothing: encrypted keys are not read; decrypt it with openssl \
             pkey (at character 9)",
        ),
        ("redis+unix://h", "redis+unix:// takes a socket, not a host (at character 14)"),
        ("redis://h/cache", "\"/cache\" after the host is not the number of a database"),
        ("unix://run/r.sock", "unix:// takes a socket, not a host (at character 8)"),
        (
            "tcp://h?auth[user]=me",
            "option \"auth[user]\" takes a password beside it (auth[pass]=) (at character 9)",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{text}");
        let shown = error.to_string();
        let first = shown.lines().next().unwrap();
        assert_eq!(first, format!("session.save_path: {message}"), "{text}");
    }
}

#[test]
fn no_secret_is_shown() {
    let shown = format!("{:?}", parse("redis://me:hunter2@h?password=hunter2").unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
}
