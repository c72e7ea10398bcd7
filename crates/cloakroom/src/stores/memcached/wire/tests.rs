//! Against real servers, in every protocol.

mod recorded;

use std::io::{Read, Write};
use std::net::TcpStream;

use testbed::memcached::{Memcached, PASSWORD, USER};
use testbed::need::Need;
use testbed::proxy::Proxy;

use super::*;
use crate::{Environment, SavePath};

const LIMIT: Duration = Duration::from_secs(30);

fn soon() -> Deadline {
    Deadline::after(LIMIT)
}

fn client(save_path: &str) -> Client {
    let SavePath::Store(url) = SavePath::parse(save_path, &Environment::default()).unwrap() else {
        panic!("{save_path} names no store")
    };
    let options = Options::parse(&url).unwrap();
    let tls = options.tls.clone().map(|tls| Arc::new(Tls::new(tls)));
    let settings = Settings { timeout: LIMIT, connect_timeout: LIMIT, ..Settings::default() };
    Client::new(&options.servers[0], &options, tls, &settings)
}

/// Whether the machine has it; in CI it must.
fn has(need: Need) -> bool {
    let missing = need.missing();
    let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(missing.is_none() || !ci, "{missing:?} is missing; 'make test' installs it");
    if let Some(missing) = &missing {
        eprintln!("ignored: {missing} is missing");
    }
    missing.is_none()
}

fn error_of(client: &mut Client, asks: &[Ask<'_>]) -> Error {
    match client.ask(asks, soon()) {
        Ok(answers) => match answers.into_iter().find_map(|answer| match answer {
            Answer::Refused(refusal) => Some(refusal),
            _ => None,
        }) {
            Some(refusal) => client.refusal(&refusal),
            None => panic!("nothing was refused"),
        },
        Err(failure) => client.error(failure),
    }
}

const GET: Ask<'static> = Ask::Get { key: b"k" };
const LONG: Expiry = Expiry(100);

fn version_of(client: &mut Client, key: &[u8]) -> u64 {
    match client.ask(&[Ask::Get { key }], soon()).unwrap().remove(0) {
        Answer::Item { version, .. } => version,
        other => panic!("{other:?}"),
    }
}

fn value(client: &mut Client, key: &[u8]) -> Option<Vec<u8>> {
    match client.ask(&[Ask::Get { key }], soon()).unwrap().remove(0) {
        Answer::Item { value, .. } => Some(value),
        Answer::Missing => None,
        other => panic!("{other:?}"),
    }
}

/// Every question, with every answer that it may have.
fn every_ask_is_answered(client: &mut Client) {
    use Answer::{Differs, Done, Missing};
    let value_in = |value: &'static [u8]| (LONG, value);
    let (expiry, first) = value_in(b"a\r\nEND\r\n\0\xff");
    let asks = [
        GET,
        Ask::Add { key: b"k", value: first, expiry },
        Ask::Add { key: b"k", value: b"other", expiry },
        GET,
        Ask::Append { key: b"k", value: b"+" },
        Ask::Append { key: b"none", value: b"+" },
        Ask::Touch { key: b"k", expiry },
        Ask::Touch { key: b"none", expiry },
        Ask::Set { key: b"s", value: b"", expiry },
        Ask::Get { key: b"s" },
    ];
    let mut answers = client.ask(&asks, soon()).unwrap();
    let Answer::Item { value: empty, version } = answers.remove(9) else { panic!("{answers:?}") };
    assert!(empty.is_empty() && version > 0);
    let Answer::Item { value: stored, version: old } = answers.remove(3) else { panic!("{answers:?}") };
    assert_eq!(stored, first);
    assert_eq!(answers, [Missing, Done, Differs, Done, Missing, Done, Missing, Done]);

    let now = version_of(client, b"k");
    assert_ne!(now, old);
    let swap = |key: &'static [u8], version| Ask::Swap { key, value: b"new", expiry, version };
    let asks = [swap(b"k", old), swap(b"none", now), swap(b"k", now), swap(b"k", now), GET];
    let mut answers = client.ask(&asks, soon()).unwrap();
    let Some(Answer::Item { value: stored, version: now }) = answers.pop() else { panic!("{answers:?}") };
    assert_eq!((stored.as_slice(), &answers[..]), (&b"new"[..], &[Differs, Missing, Done, Differs][..]));

    let remove = |key: &'static [u8], version| Ask::Remove { key, version };
    let asks = [
        remove(b"k", old),
        remove(b"none", now),
        GET,
        remove(b"k", now),
        GET,
        remove(b"k", now),
        // Gone for good: one that has only ended may be added to again as well.
        Ask::Add { key: b"k", value: b"", expiry },
        Ask::Delete { key: b"k" },
        Ask::Delete { key: b"k" },
        GET,
    ];
    let mut answers = client.ask(&asks, soon()).unwrap();
    assert!(matches!(answers.remove(2), Answer::Item { .. }));
    assert_eq!(answers, [Differs, Missing, Done, Missing, Missing, Done, Done, Missing, Missing]);

    let answers = client.ask(&[Ask::Stats { group: "" }, GET], soon()).unwrap();
    let Answer::Stats(stats) = &answers[0] else { panic!("{answers:?}") };
    assert!(stats.iter().any(|(name, value)| name == "version" && value.contains('.')), "{stats:?}");
    assert_eq!(answers[1], Missing);
}

/// Values as large as they come, told and asked, and what is too large.
fn large_values_go_and_too_large_ones_change_nothing(client: &mut Client) {
    let (large, too_large) = (vec![b'x'; 900_000], vec![b'y'; (1 << 20) + 1]);
    let expiry = LONG;
    client.tell(&[Ask::Set { key: b"large", value: &large, expiry }, GET], soon()).unwrap();
    assert_eq!(value(client, b"large").as_deref(), Some(&large[..]));
    let version = version_of(client, b"large");
    for ask in [
        Ask::Swap { key: b"large", value: &too_large, expiry, version },
        Ask::Add { key: b"large", value: &too_large, expiry },
        Ask::Add { key: b"new", value: &too_large, expiry },
        Ask::Append { key: b"large", value: &too_large },
    ] {
        let answers = client.ask(&[ask, GET], soon()).unwrap();
        let refusal = Refusal::TooLarge { size: too_large.len() };
        assert_eq!(answers, [Answer::Refused(refusal.clone()), Answer::Missing], "{:?}", ask.key());
        let error = client.refusal(&refusal);
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        let text = error.to_string();
        assert!(text.contains("has 1048577 bytes") && text.contains("-I"), "{text}");
    }
    assert_eq!(version_of(client, b"large"), version);
    assert_eq!(value(client, b"large").as_deref(), Some(&large[..]));
    // All over the same connection.
    assert_eq!(client.counters().turned_away, 0);
}

fn whole_protocol(save_path: &str, speech: Speech, login: Login) {
    let mut client = client(save_path);
    every_ask_is_answered(&mut client);
    let connected = client.connects();
    large_values_go_and_too_large_ones_change_nothing(&mut client);
    assert_eq!(client.connects(), connected, "{save_path}");
    assert_eq!(client.dialect, Some(Dialect { speech, login }), "{save_path}");
    // What was found out is not asked for again.
    let mut another = client.another();
    assert_eq!(value(&mut another, b"k"), None);
    assert_eq!(another.connects(), 1);
}

#[test]
fn every_protocol_answers_every_ask() {
    if !has(Need::Memcached) {
        return;
    }
    let memcached = Memcached::start();
    for (protocol, speech) in
        [("auto", Speech::Meta), ("meta", Speech::Meta), ("ascii", Speech::Ascii), ("binary", Speech::Binary)]
    {
        whole_protocol(&format!("{}?protocol={protocol}", memcached.url()), speech, Login::None);
        memcached.restart();
    }
    // Told a user that it does not ask for.
    for (protocol, speech, login) in
        [("auto", Speech::Binary, Login::Sasl), ("ascii", Speech::Ascii, Login::None)]
    {
        let save_path = format!("memcached://{USER}:{PASSWORD}@{}?protocol={protocol}", memcached.address());
        whole_protocol(&save_path, speech, login);
        assert_eq!(memcached.get("auth"), None);
        memcached.restart();
    }
}

#[test]
fn unix_sockets_and_tls_carry_it_too() {
    if !has(Need::Memcached) {
        return;
    }
    for memcached in [Memcached::unix(), Memcached::tls()] {
        whole_protocol(&memcached.url(), Speech::Meta, Login::None);
    }
}

#[test]
fn servers_that_ask_for_a_user_are_told() {
    if !has(Need::MemcachedSasl) {
        return;
    }
    let (sasl, ascii) = (Memcached::sasl(), Memcached::ascii_auth());
    for (protocol, speech) in [("auto", Speech::Meta), ("ascii", Speech::Ascii), ("meta", Speech::Meta)] {
        whole_protocol(&format!("{}?protocol={protocol}", ascii.url()), speech, Login::Ascii);
        ascii.restart();
    }
    for protocol in ["auto", "binary"] {
        whole_protocol(&format!("{}?protocol={protocol}", sasl.url()), Speech::Binary, Login::Sasl);
        sasl.restart();
    }
}

#[test]
fn who_is_not_let_in_is_told_why() {
    if !has(Need::MemcachedSasl) {
        return;
    }
    let (sasl, ascii) = (Memcached::sasl(), Memcached::ascii_auth());
    let (sasl, ascii) = (sasl.address(), ascii.address());
    for (save_path, kind, told) in [
        (format!("memcached://{USER}:wrong@{sasl}"), ErrorKind::Auth, "refused the user or the password"),
        (format!("memcached://{USER}:wrong@{ascii}"), ErrorKind::Auth, "refused the user or the password"),
        (format!("memcached://{USER}:wrong@{ascii}?protocol=ascii"), ErrorKind::Auth, "refused the user"),
        (format!("memcached://{sasl}"), ErrorKind::Auth, "wants a user and a password"),
        (format!("memcached://{ascii}"), ErrorKind::Auth, "wants a user and a password"),
        (format!("memcached://{sasl}?protocol=binary"), ErrorKind::Auth, "wants a user and a password"),
        (format!("memcached://{ascii}?protocol=ascii"), ErrorKind::Auth, "wants a user and a password"),
        (format!("memcached://{sasl}?protocol=ascii"), ErrorKind::Unreachable, "(-S): leave protocol= out"),
        (
            format!("memcached://{USER}:{PASSWORD}@{ascii}?protocol=binary"),
            ErrorKind::Config,
            "leave protocol=binary out",
        ),
    ] {
        let mut client = client(&save_path);
        let keys = Ask::Get { key: b"memc.sess.key.0123456789" };
        // What is known of a server is not what a refused one is judged by.
        for _ in 0..2 {
            let error = error_of(&mut client, &[keys, GET]);
            let text = error.to_string();
            assert_eq!(error.kind(), kind, "{save_path}: {text}");
            assert!(text.contains(told) && !text.contains("wrong"), "{save_path}: {text}");
        }
    }
}

#[test]
fn a_binary_server_without_users_is_found_out() {
    if !has(Need::Memcached) {
        return;
    }
    let memcached = Memcached::with(&["-B", "binary"]);
    whole_protocol(&memcached.url(), Speech::Binary, Login::None);
    let memcached = Memcached::with(&["-B", "ascii"]);
    whole_protocol(&memcached.url(), Speech::Meta, Login::None);
    whole_protocol(
        &format!("memcached://{USER}:{PASSWORD}@{}", memcached.address()),
        Speech::Meta,
        Login::None,
    );
}

#[test]
fn answers_that_nobody_waited_for_come_before_the_next() {
    if !has(Need::Memcached) {
        return;
    }
    let memcached = Memcached::start();
    for protocol in ["ascii", "meta", "binary"] {
        let proxy = Proxy::to(memcached.address());
        let mut client = client(&format!("memcached://{}?protocol={protocol}", proxy.address()));
        for number in 0..50_u32 {
            let (key, value) = (format!("k{number}"), vec![b'v'; number as usize]);
            client
                .tell(&[Ask::Set { key: key.as_bytes(), value: &value, expiry: LONG }, GET], soon())
                .unwrap();
            if number % 3 == 0 {
                assert_eq!(super::tests::value(&mut client, key.as_bytes()), Some(value));
            }
            if number % 7 == 5 && number % 3 != 0 {
                // The answers have come, and are no reason to take the connection for dead.
                testbed::wait_until("the answers have come", LIMIT, || !quiet(&client));
                std::thread::sleep(Duration::from_millis(6));
                client.look_alive(soon());
                assert!(client.is_connected());
            }
        }
        assert_eq!((client.connects(), client.counters().exchanges), (1, 17));
        // And one that did die is noticed with answers on it.
        client.tell(&[GET], soon()).unwrap();
        testbed::wait_until("the answer has come", LIMIT, || !quiet(&client));
        proxy.cut_now();
        testbed::wait_until("the connection is dead", LIMIT, || {
            client.look_alive(soon());
            !client.is_connected()
        });
        assert_eq!(super::tests::value(&mut client, b"k9"), Some(vec![b'v'; 9]));
        assert_eq!(client.counters().retries, 0);
    }
}

fn quiet(client: &Client) -> bool {
    client.link.as_ref().is_some_and(Link::is_quiet)
}

#[test]
fn a_full_server_is_asked_again() {
    if !has(Need::Memcached) {
        return;
    }
    let fill = |memcached: &Memcached, clients: &mut Vec<TcpStream>| {
        // Until one is turned away.
        loop {
            let mut stream = TcpStream::connect(memcached.address()).unwrap();
            stream.write_all(b"mn\r\n").unwrap();
            let mut answer = [0; 2];
            stream.read_exact(&mut answer).unwrap();
            match &answer {
                b"MN" => clients.push(stream),
                _ => return,
            }
        }
    };
    for query in ["", "?protocol=ascii", "?protocol=binary"] {
        let memcached = Memcached::with(&["-c", "40"]);
        let mut client = client(&format!("{}{query}", memcached.url()));
        let mut others = Vec::new();
        let error = loop {
            // The server takes its time to notice who has left.
            fill(&memcached, &mut others);
            if let Err(failure) = client.ask(&[GET], Deadline::after(Duration::from_millis(50)))
                && let error = client.error(failure)
                // On a busy machine the time can be up before the server has said so.
                && error.kind() != ErrorKind::Timeout
            {
                break error;
            }
            client.link = None;
        };
        assert!(error.kind() == ErrorKind::Unreachable && error.to_string().contains("-c"), "{error}");
        assert!(client.counters().turned_away > 0);
        let turned_away = client.counters().turned_away;
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                assert_eq!(client.ask(&[GET], soon()).unwrap(), [Answer::Missing]);
                client.counters().turned_away
            });
            // One leaves.
            drop(others.pop());
            assert!(asked.join().unwrap() >= turned_away);
        });
        // Others find room from then on.
        assert!(client.is_connected());
        client.tell(&[GET], soon()).unwrap();
        client.rest(soon());
        assert!(!client.is_connected());
    }
}

#[test]
fn a_server_without_room_for_items_says_so_and_keeps_the_old() {
    if !has(Need::Memcached) {
        return;
    }
    let memcached = Memcached::with(&["-M", "-m", "2"]);
    for protocol in ["ascii", "meta", "binary"] {
        let mut client = client(&format!("{}?protocol={protocol}", memcached.url()));
        let large = vec![b'x'; 100_000];
        let mut full = None;
        for number in 0..1000 {
            let key = format!("{protocol}{number}");
            let asks = [
                Ask::Add { key: key.as_bytes(), value: &large, expiry: LONG },
                Ask::Get { key: key.as_bytes() },
            ];
            if let Answer::Refused(refusal) = client.ask(&asks, soon()).unwrap().remove(0) {
                full = Some(refusal);
                break;
            }
        }
        let error = client.refusal(&full.unwrap());
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        let version = version_of(&mut client, b"ascii0");
        let swap = Ask::Swap { key: b"ascii0", value: &large, expiry: LONG, version };
        let swapped = client.ask(&[swap], soon()).unwrap().remove(0);
        assert!(matches!(swapped, Answer::Refused(Refusal::NoMemory(_))), "{swapped:?}");
        assert_eq!(version_of(&mut client, b"ascii0"), version, "{protocol}");
    }
}

#[test]
fn a_server_without_versions_says_zero() {
    if !has(Need::Memcached) {
        return;
    }
    let memcached = Memcached::with(&["-C"]);
    memcached.set("k", "v");
    for protocol in ["ascii", "meta", "binary"] {
        let mut client = client(&format!("{}?protocol={protocol}", memcached.url()));
        assert_eq!(version_of(&mut client, b"k"), 0);
    }
}

#[test]
fn a_frozen_server_is_given_up_at_the_deadline() {
    if !has(Need::Memcached) {
        return;
    }
    let memcached = Memcached::start();
    for (query, met) in [("", false), ("", true), ("?protocol=binary", true), ("?protocol=ascii", false)] {
        let mut client = client(&format!("{}{query}", memcached.url()));
        if met {
            assert_eq!(client.ask(&[GET], soon()).unwrap(), [Answer::Missing]);
        }
        memcached.freeze();
        let asked = client.ask(&[GET], Deadline::after(Duration::from_millis(30)));
        memcached.thaw();
        let error = client.error(asked.unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        // Its answer is not taken for the next one's.
        assert!(!client.is_connected());
        assert_eq!(client.ask(&[GET], soon()).unwrap(), [Answer::Missing]);
    }
}

#[test]
fn no_key_ends_a_command_and_begins_another() {
    let mut client = client("memcached://127.0.0.1:1");
    let long = [b'k'; 251];
    for key in [&b""[..], b"a b", b"a\r\nflush_all\r\n", b"a\0", b"a\tb", b"\x7f", &long] {
        for ask in [Ask::Get { key }, Ask::Remove { key, version: 1 }] {
            let Err(Failure::Failed(error)) = client.ask(&[GET, ask], soon()) else { panic!("{key:?}") };
            assert_eq!(error.kind(), ErrorKind::Bug);
            assert!(client.tell(&[ask], soon()).is_err());
        }
    }
    assert_eq!(client.connects(), 0);
}
