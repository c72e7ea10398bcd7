//! Over TLS: whom to trust, and who the client is.

use std::process::Command;

use cloakroom::ErrorKind;
use testbed::TempDir;
use testbed::proxy::Proxy;
use testbed::redis::Redis;
use testbed::suite::{Case, case};

use crate::worker::{EXCLUSIVE, id, put, read, soon};
use crate::{REDIS, store};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("tls_trusts_whom_it_is_told_to", REDIS, tls_trusts_whom_it_is_told_to),
        case(
            "a_certificate_that_signed_itself_is_trusted_when_it_is_named",
            REDIS,
            a_certificate_that_signed_itself_is_trusted_when_it_is_named,
        ),
        case("a_client_shows_its_certificate", REDIS, a_client_shows_its_certificate),
        case("a_second_connection_resumes_the_first", REDIS, a_second_connection_resumes_the_first),
    ]
}

fn tls_trusts_whom_it_is_told_to() {
    let redis = Redis::tls();
    let authority = redis.authority().display().to_string();
    let port = redis.port();
    let authorities = TempDir::new();
    authorities.write("ca.pem", std::fs::read(redis.authority()).unwrap());
    let good = [
        format!("rediss://localhost:{port}?cafile={authority}"),
        format!("rediss://127.0.0.1:{port}?cafile={authority}"),
        format!("tls://localhost:{port}?stream[cafile]={authority}"),
        format!("rediss://localhost:{port}?verify_peer=0"),
        format!("rediss://localhost:{port}#insecure"),
        format!("rediss://localhost:{port}?cafile={authority}&SNI_enabled=0"),
        format!("tls://localhost:{port}?stream[capath]={}", authorities.path().display()),
        format!("ssl://127.0.0.1:{port}?stream[verify_peer]=0&stream[verify_peer_name]=0"),
        format!("rediss://localhost:{port}?cafile={authority}&peer_name=127.0.0.1"),
        format!(
            "rediss://localhost:{port}?cafile={authority}&peer_name=elsewhere.example&verify_peer_name=0"
        ),
    ];
    for save_path in good {
        let mut store = store(&save_path);
        put(store.as_mut(), &id("abc"), b"n|i:1;");
        assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:1;", "{save_path}");
    }
    let (other, plain) = (Redis::tls(), Redis::start());
    let bad = [
        (format!("rediss://localhost:{port}"), ErrorKind::Unreachable, "cafile="),
        (
            format!("rediss://localhost:{port}?cafile={}", other.authority().display()),
            ErrorKind::Unreachable,
            "cafile=",
        ),
        (
            format!("rediss://localhost:{port}?cafile={authority}&peer_name=elsewhere.example"),
            ErrorKind::Unreachable,
            "verify_peer_name=0",
        ),
        (format!("rediss://localhost:{port}?cafile=/nowhere"), ErrorKind::Config, "PEM file"),
        (format!("rediss://localhost:{port}?capath=/nowhere"), ErrorKind::Config, "directory of PEM files"),
        (format!("rediss://localhost:{port}?allow_self_signed=1"), ErrorKind::Unreachable, "cafile="),
        (
            format!("rediss://localhost:{}?verify_peer=0&timeout=1", plain.port()),
            ErrorKind::Timeout,
            "speaks TLS",
        ),
    ];
    for (save_path, kind, hint) in bad {
        let error = store(&save_path).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
        assert_eq!(error.kind(), kind, "{save_path}: {error}");
        assert!(error.to_string().contains(hint), "{save_path}: {error}");
    }
}

/// As `openssl req -x509` makes them: an authority that is a server too, and for OpenSSL's clients good enough.
fn a_certificate_that_signed_itself_is_trusted_when_it_is_named() {
    let directory = TempDir::new();
    let (certificate, key) = (directory.join("self.crt"), directory.join("self.key"));
    openssl(&format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost \
         -addext subjectAltName=DNS:localhost -keyout {} -out {}",
        key.display(),
        certificate.display()
    ));
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let redis = Redis::tls_with(&["--tls-cert-file", &certificate, "--tls-key-file", &key]);
    let port = redis.port();
    for query in [
        format!("cafile={certificate}"),
        "allow_self_signed=1".into(),
        format!("cafile={certificate}&peer_name=elsewhere&verify_peer_name=0"),
    ] {
        let mut store = store(&format!("rediss://localhost:{port}?{query}"));
        put(store.as_mut(), &id("abc"), b"n|i:1;");
    }
    for query in ["allow_self_signed=1&peer_name=elsewhere", "allow_self_signed=0"] {
        let mut store = store(&format!("rediss://localhost:{port}?{query}"));
        let error = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{query}: {error}");
    }
}

fn a_client_shows_its_certificate() {
    let redis = Redis::tls_with(&["--tls-auth-clients", "yes"]);
    let port = redis.port();
    let authority = redis.authority().display().to_string();
    let (certificate, key) = redis.certificate();
    let directory = TempDir::new();
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let both = directory.write("both.pem", read(&certificate) + &read(&key)).display().to_string();
    let locked = directory.join("locked.key").display().to_string();
    openssl(&format!("ec -in {} -aes128 -passout pass:x -out {locked}", key.display()));
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    for query in [
        format!("local_cert={certificate}&local_pk={key}"),
        format!("ssl[local_cert]={both}"),
        format!("stream[local_cert]={certificate}&stream[local_pk]={key}"),
    ] {
        let mut store = store(&format!("tls://localhost:{port}?cafile={authority}&{query}"));
        put(store.as_mut(), &id("abc"), b"n|i:1;");
    }
    for (query, kind, said) in [
        (format!("local_cert={certificate}&local_pk={locked}"), ErrorKind::Config, "openssl pkey"),
        (format!("local_cert={certificate}"), ErrorKind::Config, "local_pk="),
        (format!("local_cert={certificate}&local_pk=/nowhere"), ErrorKind::Config, "local_pk="),
        ("local_cert=/nowhere".into(), ErrorKind::Config, "local_cert="),
    ] {
        let mut store = store(&format!("tls://localhost:{port}?cafile={authority}&{query}"));
        let error = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
        assert_eq!(error.kind(), kind, "{query}: {error}");
        assert!(error.to_string().contains(said), "{query}: {error}");
    }
    // Without one, the server says so, or hangs up before that is heard.
    let mut store = store(&format!("tls://localhost:{port}?cafile={authority}"));
    let error = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert!([ErrorKind::Auth, ErrorKind::Unreachable].contains(&error.kind()), "{error}");
    assert!(error.to_string().contains("local_cert="), "{error}");
}

/// A full handshake carries the server's certificate, a resumed one does not.
fn a_second_connection_resumes_the_first() {
    let redis = Redis::tls();
    let proxy = Proxy::to(redis.address());
    let save_path = format!("rediss://localhost:{}?cafile={}", proxy.port(), redis.authority().display());
    let mut first = store(&save_path);
    let handshake = |store: &mut dyn cloakroom::Store| {
        proxy.cut_now();
        proxy.reset_counts();
        assert!(!store.exists(&id("abc"), soon()).unwrap());
        assert_eq!(proxy.connections(), 1);
        proxy.recorded().iter().map(|exchange| exchange.reply.len()).sum::<usize>()
    };
    let full = handshake(first.as_mut());
    let resumed = handshake(first.as_mut());
    assert!(resumed < full / 2, "{resumed} of {full} bytes");
    // Another worker has nothing to resume.
    assert!(handshake(store(&save_path).as_mut()) > full / 2);
}

#[track_caller]
fn openssl(arguments: &str) {
    let ran = Command::new("openssl").args(arguments.split_whitespace()).output().unwrap();
    assert!(ran.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&ran.stderr));
}
