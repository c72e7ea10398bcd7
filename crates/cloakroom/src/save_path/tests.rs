use super::*;

fn environment() -> Environment {
    Environment::from_iter([("PW", "p@ss,word"), ("URL", "redis://h"), ("LOOP", "env:URL")])
}

fn url(text: &str) -> StoreUrl {
    match SavePath::parse(text, &environment()).unwrap() {
        SavePath::Store(url) => url,
        SavePath::Detect => panic!("{text} means detection"),
    }
}

#[test]
fn nothing_and_auto_mean_detection() {
    for text in ["", "  ", "auto"] {
        assert_eq!(SavePath::parse(text, &environment()).unwrap(), SavePath::Detect);
    }
}

#[test]
fn every_form_is_read_and_shown_masked() {
    for (text, scheme, shown) in [
        ("/var/lib/php/sessions", "file", "/var/lib/php/sessions"),
        ("2;/srv/s", "file", "2;/srv/s"),
        ("2;0660;/srv/s", "file", "2;0660;/srv/s"),
        ("file:///srv/s", "file", "/srv/s"),
        ("tcp://127.0.0.1:6379", "tcp", "tcp://127.0.0.1:6379"),
        ("tcp://h?auth=a%2Bb&database=2", "tcp", "tcp://h?auth=***&database=2"),
        ("tcp://h?auth[]=u&auth[]=p", "tcp", "tcp://h?auth[]=***&auth[]=***"),
        ("tcp://h?auth[user]=u&auth[pass]=p", "tcp", "tcp://h?auth[user]=u&auth[pass]=***"),
        ("tcp://h?auth=a#b", "tcp", "tcp://h?auth=***"),
        ("tcp://h?pwd=hunter2&AUTH=hunter2&weight=1", "tcp", "tcp://h?pwd=***&***&weight=1"),
        (
            "tls://h?stream[cafile]=/c&stream[passphrase]=x",
            "tls",
            "tls://h?stream[cafile]=/c&stream[passphrase]=***",
        ),
        ("tcp://a:1?weight=1, tcp://b:2?weight=2", "tcp", "tcp://a:1?weight=1,tcp://b:2?weight=2"),
        ("unix:///run/r.sock?database=1", "unix", "unix:///run/r.sock?database=1"),
        ("tls://[::1]:6380", "tls", "tls://[::1]:6380"),
        ("h:6379", "tcp", "tcp://h:6379"),
        ("redis://u:p%40@h:1/3", "redis", "redis://u:***@h:1/3"),
        ("rediss://password@h", "rediss", "rediss://:***@h"),
        ("redis://:a,b@h", "redis", "redis://:***@h"),
        ("REDIS://h", "redis", "redis://h"),
        ("env:URL", "redis", "redis://h"),
        ("redis://:env:PW@h", "redis", "redis://:***@h"),
        ("tcp://a, tls://b unix:///r.sock", "tcp", "tcp://a,tls://b,unix:///r.sock"),
        ("tcp://a:1,b:2", "tcp", "tcp://a:1,tcp://b:2"),
        ("h:6379, g:6380", "tcp", "tcp://h:6379,tcp://g:6380"),
        ("redis:6379", "tcp", "tcp://redis:6379"),
        ("[::1]:6379", "tcp", "tcp://[::1]:6379"),
        ("tcp://[fe80::1%eth0]:1?weight=2", "tcp", "tcp://[fe80::1%eth0]:1?weight=2"),
        ("unix:/run/r.sock", "unix", "unix:///run/r.sock"),
        ("redis+unix:///run/r.sock?db=1&pass=x", "redis+unix", "redis+unix:///run/r.sock?db=1&pass=***"),
        ("redis://u:p@[::1]:1/2", "redis", "redis://u:***@[::1]:1/2"),
        ("rediss://h#insecure", "rediss", "rediss://h?verify_peer=0"),
        ("rediss://h?db=1#insecure", "rediss", "rediss://h?db=1&verify_peer=0"),
        (
            "redis+sentinel://u:a,b@h1:1,[::1]:2,h3/m/4?timeout=1&pass=x",
            "redis+sentinel",
            "redis+sentinel://u:***@h1:1,[::1]:2,h3/m/4?timeout=1&pass=***",
        ),
        ("valkeys+sentinel://h/m", "valkeys+sentinel", "valkeys+sentinel://h/m"),
        // phpredis 5.3 takes no brackets.
        ("tcp://::1:6379?weight=1", "tcp", "tcp://[::1]:6379?weight=1"),
        ("fe80::1:2:6379", "tcp", "tcp://[fe80::1:2]:6379"),
        ("seed[]=::1:7&seed[]=tls://[::1]:8", "rediss+cluster", "rediss+cluster://[::1]:7,[::1]:8"),
        // A password that begins as a port does.
        ("redis:1234@?host[h1:1]", "redis", "redis://:***@h1:1"),
        ("redis:6379:x@?host[h1:1]", "redis", "redis://6379:***@h1:1"),
        ("redis:6379?auth=a@b", "tcp", "tcp://redis:6379?auth=***"),
        ("rediss+cluster://:p@h1,h2:7", "rediss+cluster", "rediss+cluster://:***@h1,h2:7"),
        ("redis:?host[h1:1]", "redis", "redis://h1:1"),
        ("redis:?host[[::1]:1]=&auth=x", "redis", "redis://[::1]:1?auth=***"),
        ("redis:?host[/run/r.sock]", "redis", "redis:///run/r.sock"),
        ("redis:?host[/run/r.sock:]&dbindex=3", "redis", "redis:///run/r.sock?dbindex=3"),
        (
            "redis://u:p@?host[h1:1]&host[h2]&redis_sentinel=m&dbindex=3",
            "redis+sentinel",
            "redis+sentinel://u:***@h1:1,h2/m?dbindex=3",
        ),
        ("redis:p@?host%5Bh1:1%5D&redis_cluster=1", "redis+cluster", "redis+cluster://:***@h1:1"),
        ("rediss://h1/2?host[h2:1]&sentinel_master=m", "rediss+sentinel", "rediss+sentinel://h1,h2:1/m/2"),
        ("memcached://h", "memcached", "memcached://h"),
        ("memcached://u:p@a:11211,b:11212", "memcached", "memcached://u:***@a:11211,b:11212"),
        (
            "memcached://u:a,b@a:1:3,[::1]:2,c/?prefix=x",
            "memcached",
            "memcached://u:***@a:1:3,[::1]:2,c?prefix=x",
        ),
        ("memcached://a,/run/b.sock,c:1:0/", "memcached", "memcached://a,/run/b.sock,c:1"),
        ("memcached:///run/m.sock?lock=own", "memcached", "memcached:///run/m.sock?lock=own"),
        (
            "memcached://u:p@/run/a.sock:0:2,/run/b.sock",
            "memcached",
            "memcached://u:***@/run/a.sock:0:2,/run/b.sock",
        ),
        ("memcacheds://h#insecure", "memcacheds", "memcacheds://h?verify_peer=0"),
        ("memcached://h?password=x&user=u", "memcached", "memcached://h?password=***&user=u"),
        ("h:11211", "memcached", "memcached://h:11211"),
        ("memcached:11211:2", "memcached", "memcached://memcached:11211:2"),
        (
            "a:11211 5, [::1]:11211:3,/run/m.sock:0:2",
            "memcached",
            "memcached://a:11211:5,[::1]:11211:3,/run/m.sock:0:2",
        ),
        ("PERSISTENT=app h:11212, g:1:2", "memcached", "memcached://h:11212,g:1:2?persistent=app"),
        (
            "tcp://h:11211?weight=2&persistent=1,tcp://g:11211/",
            "memcached",
            "memcached://h:11211:2,g:11211?persistent=1",
        ),
        ("tls://h:11211", "memcacheds", "memcacheds://h:11211"),
        ("memcached://u:p@h?weight=5&timeout=1", "memcached", "memcached://u:***@h:11211:5?timeout=1"),
        ("memcached://h:1/5", "memcached", "memcached://h:1:5"),
        ("memcached:///run/m.sock/5", "memcached", "memcached:///run/m.sock:0:5"),
        (
            "memcached:?host[a:1]=3&host[b]&host[/run/m.sock]=2&host[[::1]:2]=",
            "memcached",
            "memcached://a:1:3,b,/run/m.sock:0:2,[::1]:2",
        ),
        ("memcached://u:p@h?weight=2&host[g]=4", "memcached", "memcached://u:***@h:11211:2,g:11211:4"),
        ("redis://h?redis_cluster=0&prefix=sf_s", "redis", "redis://h?prefix=sf_s"),
        ("valkey://h?redis_cluster=yes", "valkey+cluster", "valkey+cluster://h"),
    ] {
        let url = url(text);
        assert_eq!((url.scheme.as_str(), url.to_string().as_str()), (scheme, shown), "{text}");
        assert!(format!("{url:?}").contains(shown), "{text}");
    }
}

#[test]
fn an_unknown_option_is_named_unless_it_may_be_a_piece_of_a_password() {
    let unknown =
        |text: &str| url(text).server().params.last().unwrap().unknown(&["auth", "weight"]).to_string();
    assert_eq!(
        unknown("tcp://h?weight=2&wieght=1"),
        "session.save_path: unknown option \"wieght\" (at character 18)\nhint: the options of this store are auth, weight"
    );
    for text in ["seed[]=a:1&seed[]=b:2&tiemout=1", "redis:?host[a]&host[b]&redis_sentinel=m&tiemout=1"] {
        assert!(unknown(text).starts_with("session.save_path: unknown option \"tiemout\" (at "), "{text}");
    }
    assert_eq!(
        unknown("tcp://h?auth=hun&ter2=x"),
        "session.save_path: unknown option (at character 18)\nhint: write & in a password as %26; the options of \
         this store are auth, weight"
    );
    assert_eq!(url("tcp://h?auth=hun&ter2=x").to_string(), "tcp://h?auth=***&***");
    let known = "tcp://h?auth=hun&persistent_id=a&tcp_keepalive=1&lazy=1&stream[SNI_enabled]=1&pass=***";
    assert_eq!(url(&known.replace("***", "x")).to_string(), known.replace("hun", "***"));
}

#[test]
fn a_slash_in_a_password_is_pointed_out_and_not_shown() {
    let error = SavePath::parse("redis://default:123/hunter2@h", &environment()).unwrap_err().to_string();
    assert_eq!(
        error,
        "session.save_path: the @ comes after a / that ends the host (at character 28)\nhint: in a user or a \
         password, write / as %2F"
    );
}

#[test]
fn values_come_from_the_environment_and_from_files() {
    let file = std::env::temp_dir().join(format!("cloakroom-save-path-{}", std::process::id()));
    std::fs::write(&file, "from a file\n").unwrap();
    let value = |text: &str| url(text).server().params[0].value.reveal().to_owned();
    assert_eq!(value("tcp://h?auth=env:PW"), "p@ss,word");
    assert_eq!(value(&format!("tcp://h?auth=file:{}", file.display())), "from a file");
    assert_eq!(value("tcp://h?auth=env%3APW"), "env:PW");
    assert_eq!(value("tcp://h?auth=a+b%2Bc"), "a b+c");
    assert_eq!(url("redis://:env:PW@h").server().password, Some(Secret::new("p@ss,word")));
    std::fs::remove_file(file).unwrap();
}

#[test]
fn malformed_settings_are_refused_with_the_whole_reason() {
    for (text, what, at, hint) in [
        (
            "env:NOPE",
            "the environment variable NOPE is not set",
            1,
            "set it where PHP starts (the PHP-FPM master, not the pool)",
        ),
        ("env:LOOP", "LOOP names another variable", 1, "put the store's URL into it"),
        ("://h", "this is not a URL scheme", 1, "write tcp://host:6379, redis://host or /directory"),
        (
            "\u{201c}tcp://h\u{201d}",
            "this is not a URL scheme",
            1,
            "write tcp://host:6379, redis://host or /directory",
        ),
        ("file://srv/s", "file:// needs an absolute path", 8, "write file:///var/lib/php/sessions"),
        (
            "sessions",
            "this names no store",
            1,
            "write a directory (/path), or put the scheme before the host: tcp://host:6379, redis://host, \
             memcached://host",
        ),
        (
            "h:1234",
            "this names no store",
            1,
            "write a directory (/path), or put the scheme before the host: tcp://host:6379, redis://host, \
             memcached://host",
        ),
        ("tcp://", "the host is missing", 7, "name the host after ://, or the socket as unix:///path"),
        ("tcp://:6379", "the host is missing", 7, "name the host before the port"),
        ("tcp://h:port", "the port is not a number from 1 to 65535", 9, "write host:port, or host alone"),
        ("tcp://h:0", "the port is not a number from 1 to 65535", 9, "write host:port, or host alone"),
        ("tcp://h:70000", "the port is not a number from 1 to 65535", 9, "write host:port, or host alone"),
        ("tcp://[::1:6379", "the ] after the IPv6 address is missing", 7, "write tcp://[::1]:6379"),
        ("tcp://[::1]6379", "only :port may follow the ]", 12, "write tcp://[::1]:6379"),
        (
            "tcp://h?auth=a,b:6379",
            "each server of a list starts with its scheme",
            16,
            "write tcp://host:port; in a password, encode , as %2C and a space as %20",
        ),
        (
            "tcp://h,redis://g",
            "a list of servers is of tcp://, tls:// or unix:// alone",
            9,
            "write tcp://host:port,tcp://host:port",
        ),
        ("tcp://::1", "an IPv6 address stands in brackets", 7, "write tcp://[::1]:6379"),
        ("redis://::1:6379", "an IPv6 address stands in brackets", 9, "write tcp://[::1]:6379"),
        ("tcp://[h]:6379", "this is not an IPv6 address", 8, "brackets are for addresses such as [::1]"),
        (
            "redis://h1:1,h2:2",
            "redis:// takes one server",
            14,
            "write a pool as tcp://host1,tcp://host2, or say redis+sentinel:// or redis+cluster://",
        ),
        (
            "redis+sentinel://u:p@h1:1,h2:x/m",
            "the port is not a number from 1 to 65535",
            30,
            "write host:port, or host alone",
        ),
        ("redis+cluster:///x", "the host is missing", 17, "name the hosts after ://, with commas between"),
        ("redis+sentinel://h#insecure", "a store's URL has no # part", 19, "write # in a password as %23"),
        (
            "redis:?host[h1:1]&host[h2]",
            "several hosts are a cluster or sentinels",
            19,
            "add redis_cluster=1 or redis_sentinel=NAME; write a pool as tcp://host1,tcp://host2",
        ),
        (
            "redis://h?redis_sentinel=m&redis_cluster=1",
            "a cluster has no sentinels",
            11,
            "keep redis_sentinel= or redis_cluster=",
        ),
        (
            "redis://h?redis_sentinel=m&sentinel_master=m",
            "option \"sentinel_master\" is given twice",
            28,
            "keep one of them",
        ),
        (
            "redis:///r.sock?redis_cluster=1",
            "sentinels and clusters are reached by host and port",
            9,
            "name hosts, not sockets",
        ),
        (
            "redis:?host[h:x]",
            "the port is not a number from 1 to 65535",
            15,
            "write host:port, or host alone",
        ),
        (
            "redis:?host[]",
            "the host is missing",
            8,
            "write host[name:port], host[[::1]:6379] or host[/socket]",
        ),
        (
            "redis:?host[h]=weight",
            "a host of the list has no options of its own",
            8,
            "write host[name:port], host[[::1]:6379] or host[/socket]",
        ),
        (
            "redis:?dbindex=1",
            "the host is missing",
            7,
            "name the host after ://, or the socket as unix:///path",
        ),
        (
            "tcp://h?auth",
            "this option has no value",
            9,
            "write name=value; quote the whole setting in php.ini",
        ),
        ("tcp://h?auth=%ff", "the %XX codes here are not UTF-8", 14, "encode the bytes of the UTF-8 text"),
        (
            "memcached://",
            "the host is missing",
            13,
            "name the host after ://, or the socket as memcached:///path",
        ),
        (
            "memcached://a,b?weight=2",
            "option \"weight\" takes one server: write host:port:weight in a list",
            17,
            "correct its value",
        ),
        (
            "memcached://h,memcached://g",
            "the scheme stands before the first server alone",
            24,
            "write memcached://host1:port,host2:port",
        ),
        ("memcached://h/x", "the weight is not a number", 15, "write host:port:weight or /socket:0:weight"),
        (
            "memcached://u:p/w@h",
            "the @ comes after a / that ends the host",
            18,
            "in a user or a password, write / as %2F",
        ),
        ("memcached://h#insecure", "a store's URL has no # part", 14, "write # in a password as %23"),
        (
            "tcp://h:11211,tcp://g:11211?timeout=1",
            "option \"timeout\" takes no value here: what holds for all servers stands with the first",
            29,
            "correct its value",
        ),
        ("redis://h/0#x", "a store's URL has no # part", 12, "write # in a password as %23"),
        (
            "redis://h\"",
            "the host has a character that no host name has",
            10,
            "look for a space or a quote that does not belong there",
        ),
        (
            "tcp://h?auth=env:NOPE",
            "the environment variable NOPE is not set",
            14,
            "set it where PHP starts (the PHP-FPM master, not the pool)",
        ),
    ] {
        let error = SavePath::parse(text, &environment()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{text}");
        let expected = format!("session.save_path: {what} (at character {at})\nhint: {hint}");
        assert_eq!(error.to_string(), expected, "{text}");
    }
}

#[test]
fn php_memcacheds_own_lists_need_no_scheme_on_any_port() {
    let shown = |text: &str| {
        SavePath::parse_for_php_memcached(text, &environment()).map(|path| match path {
            SavePath::Store(url) => url.to_string(),
            SavePath::Detect => "detected".to_owned(),
        })
    };
    for (text, expected) in [
        ("h", "memcached://h"),
        ("h:1, g:6379:2,", "memcached://h:1,g:6379:2"),
        ("/run/m.sock", "memcached:///run/m.sock"),
        ("/run/m.sock:0:3,localhost", "memcached:///run/m.sock:0:3,localhost"),
        ("memcached:1211", "memcached://memcached:1211"),
        ("memcached://h:1", "memcached://h:1"),
        ("redis://h", "redis://h"),
        ("", "detected"),
    ] {
        assert_eq!(shown(text).unwrap(), expected, "{text}");
    }
    for (text, said) in [
        ("h:x", "the port is not a number from 1 to 65535 (at character 3)"),
        ("h,,g", "the host is missing (at character 3)"),
        ("h:1:x", "the weight is not a number (at character 5)"),
        ("/s:5", "a socket has no port (at character 4)"),
        ("PERSISTENT=app", "no servers follow the id (at character 1)"),
        ("h g", "the host has a character that no host name has (at character 2)"),
    ] {
        let error = shown(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn what_holds_for_all_hosts_is_with_the_first() {
    let url = url("redis+sentinel://me:p@h1:1,h2:2/m?timeout=1");
    let [first, second] = &url.servers[..] else { panic!("{url}") };
    assert_eq!((first.user.as_deref(), first.path.as_str(), first.params.len()), (Some("me"), "/m", 1));
    let plain = Server { host: Some("h2".into()), port: Some(2), ..Server::default() };
    assert_eq!(*second, plain);
}

#[test]
fn an_option_from_another_setting_is_named_after_it() {
    let mut store = url("tcp://h1?weight=2,tcp://h2");
    store.set("prefix", Secret::new("mine:"), "redis.prefix");
    store.set("password", Secret::new("s3cr3t"), "redis.password");
    assert_eq!(store.to_string(), "tcp://h1?weight=2&prefix=mine:&password=***,tcp://h2");
    let prefix = &store.server().params[1];
    for (error, expected) in [
        (prefix.refused("a word"), "redis.prefix takes a word\nhint: correct redis.prefix"),
        (prefix.repeated(), "redis.prefix and session.save_path both set \"prefix\"\nhint: keep one of them"),
        (
            prefix.unknown(&["timeout"]),
            "redis.prefix takes no value here: this store has nothing like it\nhint: correct redis.prefix",
        ),
    ] {
        assert_eq!(error.to_string(), expected);
    }
}
