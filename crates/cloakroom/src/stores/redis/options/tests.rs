use super::*;
use crate::net::Identity;
use crate::{Environment, SavePath};

fn parse(text: &str) -> Result<Endpoint> {
    match SavePath::parse(text, &Environment::default()).unwrap() {
        SavePath::Store(url) => match Options::parse(&url)?.servers {
            Servers::Pool(mut servers) => Ok(servers.remove(0).1),
            Servers::Cluster { every, .. } => Ok(*every),
            Servers::Sentinel { primary, .. } => Ok(*primary),
        },
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
    // The last as in phpredis.
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

    let year = Some(Duration::from_secs(365 * 24 * 3600));
    assert_eq!(parse("tcp://h?timeout=1e19&read_timeout=1e9").unwrap().connect_timeout, year);
    assert_eq!(parse("tcp://h?read_timeout=0").unwrap().timeout, None);
    assert_eq!(parse("tcp://h?read_timeout=-1").unwrap().timeout, None, "in phpredis it has no end");
    assert_eq!(
        parse("seed[]=h:1&timeout=0").unwrap().connect_timeout,
        None,
        "phpredis' default for clusters"
    );
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
    let Servers::Pool(servers) = Options::parse(&url).unwrap().servers else { panic!() };
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

#[test]
fn a_cluster_is_named_in_every_form() {
    let seeds = |text: &str| match SavePath::parse(text, &Environment::default()).unwrap() {
        SavePath::Store(url) => match Options::parse(&url).unwrap().servers {
            Servers::Cluster { every, seeds } => (*every, seeds),
            Servers::Pool(_) | Servers::Sentinel { .. } => panic!("{text} means no cluster"),
        },
        SavePath::Detect => panic!("{text} means detection"),
    };
    let at = |host: &str, port| Address::Tcp { host: host.into(), port };
    for text in [
        "redis+cluster://me:pw@h1:7000,[::1]:7001?timeout=2",
        "valkey+cluster://me:pw@h1:7000,[::1]:7001/0?timeout=2&database=0",
        "redis://me:pw@?host[h1:7000]&host[[::1]:7001]&redis_cluster=1&timeout=2",
        "seed[]=h1:7000&seed[]=[::1]:7001&timeout=2&auth[]=me&auth[]=pw",
        "timeout=2&auth[user]=me&auth[pass]=pw&seed%5B0%5D=h1:7000&seed[1]=[::1]:7001&failover=distribute",
    ] {
        let (every, seeds) = seeds(text);
        assert_eq!(seeds, [at("h1", 7000), at("::1", 7001)], "{text}");
        assert_eq!(every.prefix, "PHPREDIS_CLUSTER_SESSION:", "{text}");
        assert_eq!(every.connect_timeout, Some(Duration::from_secs(2)), "{text}");
        let credentials = every.credentials.unwrap();
        assert_eq!(
            (credentials.user.as_deref(), credentials.password.reveal()),
            (Some("me"), "pw"),
            "{text}"
        );
        assert_eq!(every.tls, None, "{text}");
        assert!(!every.shown.contains("pw") && every.shown.contains("h1:7000,[::1]:7001"), "{}", every.shown);
    }
    for text in [
        "rediss+cluster://h1:7000?verify_peer=0",
        "valkeys+cluster://h1:7000?verify_peer=0",
        "rediss:?host[h1:7000]&redis_cluster=1&verify_peer=0",
        "seed[]=h1:7000&stream[verify_peer]=0",
        "seed[]=tls://h1:7000&verify_peer=0",
    ] {
        let (every, seeds) = seeds(text);
        assert_eq!(
            (every.tls.map(|tls| tls.verify_peer), seeds),
            (Some(false), vec![at("h1", 7000)]),
            "{text}"
        );
    }
    assert_eq!(seeds("redis+cluster://h?prefix={s}:").0.prefix, "{s}:");
}

#[test]
fn what_a_cluster_does_not_have_is_refused() {
    for (text, said) in [
        ("redis+cluster://h/3", "a cluster has none"),
        ("redis+cluster://h?database=3", "a cluster has no other database"),
        ("redis+cluster://h?weight=2", "a cluster has shares of its own"),
        ("redis+cluster://h?prefix=a}b", "only behind a {"),
        ("redis+cluster://h?prefix={}b", "only behind a {"),
        ("redis+cluster://h?failover=sometimes", "one of none, error"),
        ("redis://h?failover=none", "it is for clusters"),
        ("seed[]=h:7000&stream[local_pk]=/x", "a certificate beside it"),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    let refused = |text: &str| SavePath::parse(text, &Environment::default()).unwrap_err().to_string();
    for (text, said) in [
        ("seed[]=h", "\"seed[]\" takes host:port (at character 1)"),
        ("seed[]=h:7000&seed[]=h:x", "the port is not a number from 1 to 65535 (at character 24)"),
        ("seed[]=unix:///s", "takes host:port, or tls://host:port"),
        ("seed=", "takes host:port"),
    ] {
        assert!(refused(text).contains(said), "{text}: {}", refused(text));
    }
}

#[test]
fn sentinels_are_named_in_every_form() {
    let sentinels = |text: &str| match SavePath::parse(text, &Environment::default()).unwrap() {
        SavePath::Store(url) => match Options::parse(&url).unwrap().servers {
            Servers::Sentinel { primary, name, sentinels } => (*primary, name, sentinels),
            Servers::Pool(_) | Servers::Cluster { .. } => panic!("{text} names no sentinels"),
        },
        SavePath::Detect => panic!("{text} means detection"),
    };
    let at = |host: &str, port| Address::Tcp { host: host.into(), port };
    let known = |endpoint: &Endpoint| {
        let credentials = endpoint.credentials.as_ref()?;
        Some((credentials.user.clone(), credentials.password.reveal().to_owned()))
    };
    for text in [
        "redis+sentinel://:pw@h1,[::1]:7001/mymaster/2?sentinel_auth=spw&wait_replicas=1",
        "valkey+sentinel://pw@h1:26379,[::1]:7001/mymaster?db=2&sentinel_password=spw&wait_replicas=1",
        "redis://:pw@?host[h1]&host[[::1]:7001]&redis_sentinel=mymaster&dbindex=2&sentinel_auth=spw&wait_replicas=1",
        "redis:?host[h1]&host[[::1]:7001]&sentinel_master=mymaster&auth=pw&db=2&sentinel_auth[pass]=spw&wait_replicas=1",
    ] {
        let (primary, name, sentinels) = sentinels(text);
        assert_eq!((name.as_str(), primary.database, primary.wait_replicas), ("mymaster", 2, 1), "{text}");
        assert_eq!(primary.prefix, PREFIX, "{text}");
        assert_eq!(known(&primary), Some((None, "pw".into())), "{text}");
        let addresses: Vec<Address> = sentinels.iter().map(|sentinel| sentinel.address.clone()).collect();
        assert_eq!(addresses, [at("h1", 26379), at("::1", 7001)], "{text}");
        for sentinel in sentinels {
            assert_eq!((known(&sentinel), sentinel.database), (Some((None, "spw".into())), 0), "{text}");
        }
    }
    let (_, _, plain) = sentinels("redis+sentinel://:pw@h/m");
    assert_eq!(known(&plain[0]), None, "the servers' password is not the sentinels'");
    let (_, _, named) = sentinels("redis+sentinel://h/m?sentinel_auth[]=me&sentinel_auth[]=pw");
    assert_eq!(known(&named[0]), Some((Some("me".into()), "pw".into())));
    for (text, encrypted) in [
        ("rediss+sentinel://h/m", (true, true)),
        ("valkeys+sentinel://h/m?sentinel_tls=0", (true, false)),
        ("redis+sentinel://h/m?sentinel_tls=0", (false, false)),
    ] {
        let (primary, _, sentinels) = sentinels(text);
        assert_eq!((primary.tls.is_some(), sentinels[0].tls.is_some()), encrypted, "{text}");
    }
    for (text, message) in [
        (
            "redis+sentinel://h1,h2",
            "the name that the sentinels know the servers by is missing after the hosts",
        ),
        (
            "redis+sentinel://h/m?sentinel_tls=1",
            "option \"sentinel_tls\" takes 0: with plain servers sentinels speak plainly, too (at character 22)",
        ),
        (
            "redis+sentinel://h/m?weight=2",
            "option \"weight\" takes no value here: sentinels name one server (at character 22)",
        ),
        (
            "redis://h?sentinel_auth=x",
            "option \"sentinel_auth\" takes no value here: it is for sentinels (at character 11)",
        ),
        ("redis+sentinel://h/m/x", "\"/x\" after the host is not the number of a database"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{text}");
        let shown = error.to_string();
        assert_eq!(shown.lines().next().unwrap(), format!("session.save_path: {message}"), "{text}");
    }
}
