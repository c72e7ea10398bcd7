//! Everything that DynamoDB, the network or a configuration can refuse: who must act, what, where, and how.

use std::net::TcpListener;
use std::time::Duration;

use cloakroom::{Access, Change, Deadline, Environment, Error, ErrorKind, Outcome, Settings};
use serde_json::json;
use testbed::dynamodb::{Engine, Fault, Program};
use testbed::need::Need;
use testbed::redis::Redis;
use testbed::suite::{Case, case};
use testbed::{TempDir, free_port};

use crate::service::Service;
use crate::worker::{EXCLUSIVE, LIFETIME, id, lock_at_once, put, read, soon, store_with};
use crate::{Proxied, Sessions, both, key, patient, proxied, store};

pub(crate) fn cases() -> Vec<Case> {
    let on_both = [
        both("a_missing_table_is_named_with_what_makes_it", a_missing_table),
        both("a_table_with_another_key_is_named", another_key),
        both("a_session_that_is_too_large_leaves_the_old_one_unlocked", too_large),
    ];
    let mut cases = vec![
        proxied("a_refusal_says_who_must_act", refusals),
        proxied("what_is_throttled_to_the_end_says_what_to_change", throttled),
        proxied("no_secret_and_no_session_is_in_an_error", nothing_is_told),
        case("a_host_that_is_not_there_is_named", &[], nobody_there),
        case("what_answers_but_is_no_dynamodb_is_named", &[], no_dynamodb),
        case("who_is_not_trusted_or_speaks_no_tls_is_named", &[Need::Redis], tls),
        case("a_region_that_nobody_names_is_asked_for", &[], no_region),
    ];
    cases.extend(on_both.into_iter().flatten());
    cases
}

/// An error's text, its store's URL aside.
fn told(error: &Error, save_path: &str) -> String {
    let masked = save_path.replace(":secret@", ":***@");
    let text = error.to_string();
    assert!(text.contains(&masked), "{text}");
    text.replace(&masked, "URL")
}

fn open(save_path: &str, settings: Settings) -> Error {
    store_with(save_path, settings).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err()
}

fn a_missing_table(sessions: &Sessions) {
    let save_path = sessions.save_path.replace(sessions.table.name(), "nowhere");
    for access in [EXCLUSIVE, Access::ReadOnly] {
        let error = store(&save_path).open(&id("abc"), access, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let doing = if access == EXCLUSIVE { "lock" } else { "read" };
        assert_eq!(
            told(&error, &save_path),
            format!(
                "cannot {doing} the session: there is no table nowhere in local (store URL)\n\
                 hint: make it with 'cloakroom create URL', or correct the table's name, the region or the endpoint"
            )
        );
    }
}

fn another_key(sessions: &Sessions) {
    let save_path = format!("{}&hash_key=sid", sessions.save_path);
    let engine =
        Engine::shared(if sessions.save_path.contains(&Engine::shared(Program::Dynalite).endpoint()) {
            Program::Dynalite
        } else {
            Program::Local
        });
    let numbers = format!("{}numbers", sessions.table.name());
    engine.call(
        "CreateTable",
        &json!({
            "TableName": numbers,
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "N"}],
            "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        }),
    );
    let of_numbers = sessions.save_path.replace(sessions.table.name(), &numbers);
    testbed::wait_until("the table is there", crate::LIMIT, || {
        !open(&of_numbers, patient()).to_string().contains("there is no table")
    });
    for (save_path, table, key) in [(&save_path, sessions.table.name(), "sid"), (&of_numbers, &numbers, "id")]
    {
        for access in [EXCLUSIVE, Access::ReadOnly] {
            let error = store(save_path).open(&id("abc"), access, soon()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            let doing = if access == EXCLUSIVE { "lock" } else { "read" };
            assert_eq!(
                told(&error, save_path),
                format!(
                    "cannot {doing} the session: the key of the table {table} is not the string {key} alone (store URL)\n\
                     hint: hash_key= must name it; 'cloakroom doctor URL' shows the table"
                )
            );
        }
    }
}

fn too_large(sessions: &Sessions) {
    let item = "cannot write the session: with its key and the names of attributes it is larger than 400 KB, the limit of \
                DynamoDB (store URL)\nhint: keep less in the session";
    let bytes = "the session has 409601 bytes, which is more than the 408576 that an item of DynamoDB has room for \
                 (store URL)\nhint: keep less in the session";
    // What somebody else keeps in the item counts as well, and only DynamoDB knows of it.
    for (beside, size, text) in [(0, (400 << 10) + 1, bytes), (5000, 408_000, item)] {
        put(sessions.worker().as_mut(), &id("abc"), b"n|i:1;");
        sessions.table.update(
            &key("abc"),
            "SET #beside = :beside",
            json!({":beside": {"S": "x".repeat(beside + 1)}}),
        );
        let mut worker = sessions.worker();
        let (_, hold) = lock_at_once(worker.as_mut(), &id("abc"));
        let large = vec![b'x'; size];
        let error = worker.commit(&id("abc"), hold, Change::Write(&large, LIFETIME), soon()).unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::TooLarge, Outcome::Refused), "{error}");
        assert_eq!(told(&error, &sessions.save_path), text);
        assert_eq!(read(worker.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
        let item = sessions.table.get(&key("abc")).unwrap();
        assert!(item["lock"].is_null(), "{item}");
        sessions.table.delete(&key("abc"));
    }
    put(sessions.worker().as_mut(), &id("abc"), &vec![b'x'; 408_576]);
}

fn refusals(proxied: &Proxied) {
    let arn = "User: arn:aws:sts::123456789012:assumed-role/web/i-0 is not authorized to perform: dynamodb:UpdateItem on \
               resource: arn:aws:dynamodb:local:123456789012:table/sessions because no identity-based policy allows the \
               dynamodb:UpdateItem action";
    let signature = "The request signature we calculated does not match the signature you provided. The Canonical String \
                     for this request should have been 'POST / x-amz-security-token:FwoGZXIvYXdzE'";
    let keys = "see the access key and its secret in session.save_path";
    for (fault, kind, text) in [
        (
            Fault::refuse("AccessDeniedException", arn),
            ErrorKind::Auth,
            format!(
                "AWS does not allow it: {arn} (store URL)\nhint: attach the policy that 'cloakroom iam URL' prints to who is \
                 named"
            ),
        ),
        (
            Fault::refuse("UnrecognizedClientException", "The security token included in the request is invalid."),
            ErrorKind::Auth,
            format!("AWS does not know the access key, or not its session token (store URL)\nhint: {keys}"),
        ),
        (
            Fault::refuse("InvalidSignatureException", signature),
            ErrorKind::Auth,
            format!("the signature is wrong: the secret is not this access key's (store URL)\nhint: {keys}"),
        ),
        (
            Fault::refuse("ExpiredTokenException", "The security token included in the request is expired"),
            ErrorKind::Auth,
            format!("the credentials have expired (store URL)\nhint: {keys}; they are read again each time"),
        ),
        (
            Fault::refuse("MissingAuthenticationTokenException", "Request is missing Authentication Token"),
            ErrorKind::Auth,
            "the signature did not arrive (store URL)\nhint: find the proxy that drops the header Authorization".into(),
        ),
        (
            Fault::refuse("InvalidSignatureException", "Signature expired: 20261121T0 is now earlier than 20261122T0"),
            ErrorKind::Auth,
            "the request was signed for another time than AWS's (store URL)\nhint: set this host's clock; the answer did not \
             say what time it is"
                .into(),
        ),
        (
            Fault::Refuse(413, "SerializationException".into(), String::new()),
            ErrorKind::TooLarge,
            "with its key and the names of attributes it is larger than 400 KB, the limit of DynamoDB (store URL)\nhint: keep \
             less in the session"
                .into(),
        ),
        (
            Fault::refuse("ValidationException", "Something\nelse"),
            ErrorKind::Corrupt,
            "DynamoDB refuses it: ValidationException: Something else (store URL)\nhint: 'cloakroom doctor URL' looks at the \
             table"
                .into(),
        ),
    ] {
        let always = fault.clone();
        proxied.proxy.decide(move |_| always.clone());
        let error = open(&proxied.save_path, patient());
        assert_eq!((error.kind(), error.outcome()), (kind, Outcome::Refused), "{error}");
        assert_eq!(told(&error, &proxied.save_path), format!("cannot lock the session: {text}"), "{fault:?}");
    }
}

fn throttled(proxied: &Proxied) {
    put(store(&proxied.direct).as_mut(), &id("abc"), b"n|i:1;");
    let account = Fault::refuse("ThrottlingException", "Rate exceeded");
    for (fault, kind, text) in [
        (
            Fault::throttled(),
            ErrorKind::Timeout,
            "DynamoDB has throttled it (N requests in N.N s): ProvisionedThroughputExceededException (store URL)\n\
             hint: switch the table TABLE to on-demand capacity, or raise its provisioned capacity",
        ),
        (
            account,
            ErrorKind::Timeout,
            "DynamoDB has throttled it (N requests in N.N s): ThrottlingException (store URL)\n\
             hint: switch the table TABLE to on-demand capacity, or raise its provisioned capacity",
        ),
        (
            Fault::unavailable(),
            ErrorKind::Unreachable,
            "DynamoDB has failed (N requests in N.N s): ServiceUnavailable (store URL)\n\
             hint: nothing here is wrong: look at the health of AWS, or of the endpoint",
        ),
    ] {
        proxied.proxy.forward();
        let mut worker = proxied.worker();
        let (_, hold) = lock_at_once(worker.as_mut(), &id("abc"));
        let always = fault.clone();
        proxied.proxy.decide(move |_| always.clone());
        proxied.proxy.reset_counts();
        let by = Deadline::after(Duration::from_secs(3));
        let error = worker.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), by).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let shown = told(&error, &proxied.save_path).replace(proxied.table.name(), "TABLE");
        let (before, rest) = shown.split_once('(').unwrap();
        let (times, after) = rest.split_once(')').unwrap();
        let digits = |text: &str| {
            let mut plain = text.replace(|c: char| c.is_ascii_digit(), "N");
            while plain.contains("NN") {
                plain = plain.replace("NN", "N");
            }
            plain
        };
        let shown = format!("{before}({}){after}", digits(times));
        assert_eq!(shown, format!("cannot write the session: {text}"));
        assert!(proxied.proxy.seen().len() >= 2, "it was asked again");
        // Nothing is lost but this request's change.
        assert_eq!(read(store(&proxied.direct).as_mut(), &id("abc")).unwrap(), b"n|i:1;");
        proxied.table.delete(&key("abc"));
        put(store(&proxied.direct).as_mut(), &id("abc"), b"n|i:1;");
    }
}

fn nothing_is_told(proxied: &Proxied) {
    let (session, token) = (b"user|s:9:\"sesame-17\";", "FwoGZXIvYXdzE-token");
    let environment: Environment = [
        ("AWS_ACCESS_KEY_ID", "AKIDOFTEST"),
        ("AWS_SECRET_ACCESS_KEY", "open-the-door"),
        ("AWS_SESSION_TOKEN", token),
        ("AWS_REGION", "eu-west-1"),
    ]
    .into_iter()
    .collect();
    let save_path = proxied.save_path.replace("key:secret@local", "");
    let settings = Settings { environment, timeout: Duration::from_millis(300), ..Settings::default() };
    let faults = [
        Fault::refuse("AccessDeniedException", "no"),
        Fault::refuse("ExpiredTokenException", token),
        Fault::refuse("InvalidSignatureException", token),
        Fault::throttled(),
        Fault::internal(),
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::HangAfter,
        Fault::Refuse(404, String::new(), "sesame-17".into()),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        // One each: what nobody waits for any more may still be on its way to the engine.
        let id = id(&format!("abc{number}"));
        put(store(&proxied.direct).as_mut(), &id, session);
        let (_, hold) = lock_at_once(proxied.worker().as_mut(), &id);
        let mut worker = store_with(&save_path, settings.clone());
        let always = fault.clone();
        proxied.proxy.decide(move |_| always.clone());
        let by = || Deadline::after(Duration::from_millis(500));
        let mut texts = Vec::new();
        let mut keep = |error: Error| {
            texts.push(format!("{error} {error:?}"));
            let mut source: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = source {
                texts.push(format!("{error} {error:?}"));
                source = error.source();
            }
        };
        if let Err(error) = worker.commit(&id, hold, Change::Write(session, LIFETIME), by()) {
            keep(error);
        }
        for access in [Access::ReadOnly, EXCLUSIVE] {
            if let Err(error) = worker.open(&id, access, by()) {
                keep(error);
            }
        }
        proxied.proxy.forward();
        texts.push(format!("{worker:?}", worker = settings));
        for text in &texts {
            for secret in ["sesame", "door", "FwoG", "AKIDOFTEST"] {
                assert!(!text.contains(secret), "{fault:?}: {text}");
            }
        }
        assert!(texts.len() > 1, "{fault:?} is no fault");
    }
}

fn nobody_there() {
    let save_path = format!("dynamodb://key:secret@local/sessions?endpoint=http://127.0.0.1:{}", free_port());
    let error = open(&save_path, patient());
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unreachable, Outcome::Refused));
    assert_eq!(
        told(&error, &save_path),
        "cannot lock the session: DynamoDB cannot be reached: Connection refused (os error 111) (store URL)\n\
         hint: check that endpoint= in session.save_path is right and its server runs"
    );
    // Connecting ends with the handshake.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let save_path =
        format!("dynamodb://key:secret@local/sessions?endpoint=https://{}", silent.local_addr().unwrap());
    let impatient = Settings { connect_timeout: Duration::from_millis(100), ..patient() };
    let error = open(&save_path, impatient);
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Refused));
    assert_eq!(
        told(&error, &save_path),
        "cannot lock the session: DynamoDB cannot be reached: connecting took too long (store URL)\n\
         hint: check that endpoint= in session.save_path is right and its server runs"
    );
    // Whatever this host's resolver says of it, and however long it takes for that.
    let save_path = "dynamodb://key:secret@local/sessions?endpoint=http://nowhere.invalid:8000";
    let impatient = Settings { connect_timeout: Duration::from_millis(300), ..Settings::default() };
    let error = open(save_path, impatient);
    assert!(matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout), "{error}");
    assert_eq!(error.outcome(), Outcome::Refused);
    let text = told(&error, save_path);
    assert!(text.starts_with("cannot lock the session: DynamoDB cannot be reached: "), "{text}");
    assert!(text.contains("\nhint: check "), "{text}");
}

fn no_dynamodb() {
    for (status, kind, body, shown) in [
        (200, "text/html", "<html>Welcome</html>", "HTTP 200, text/html"),
        (200, "text/html", "", "HTTP 200, text/html"),
        (404, "text/html; charset=utf-8", "<html>", "HTTP 404, text/html; charset=utf-8"),
        (200, "application/json", "{}", "HTTP 200, application/json"),
        (200, "application/x-amz-json-1.0", "<html>", "HTTP 200, an answer that is no JSON"),
        (302, "application/x-amz-json-1.0", "{}", "HTTP 302, an error without a name"),
    ] {
        let service = Service::start(move |_| (status, kind, body.to_owned()));
        let save_path = format!("dynamodb://key:secret@local/sessions?endpoint={}", service.endpoint());
        for access in [EXCLUSIVE, Access::ReadOnly] {
            let error = store(&save_path).open(&id("abc"), access, soon()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            let doing = if access == EXCLUSIVE { "lock" } else { "read" };
            assert_eq!(
                told(&error, &save_path),
                format!(
                    "cannot {doing} the session: what answers is no DynamoDB: {shown} (store URL)\n\
                     hint: see endpoint= in session.save_path, AWS_ENDPOINT_URL, and proxies in between"
                )
            );
        }
    }
    // A balancer that has nobody behind it may have, a moment later.
    let service = Service::start(|_| (502, "text/html", "<html>Bad gateway</html>".into()));
    let save_path = format!("dynamodb://key:secret@local/sessions?endpoint={}", service.endpoint());
    let by = Deadline::after(Duration::from_secs(4));
    let error = store(&save_path).open(&id("abc"), Access::ReadOnly, by).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("): HTTP 502 (store "), "{error}");
    let asked: Vec<String> = service.seen().into_iter().map(|request| request.line).collect();
    assert!(asked.len() > 1 && asked.iter().all(|line| line == "POST /"), "{asked:?}");
}

fn tls() {
    let (redis, directory) = (Redis::tls(), TempDir::new());
    directory.write("nothing.pem", "no certificate");
    directory.write("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let plain = Service::start(|_| (200, "text/html", String::new()));
    let plain = plain.endpoint().replace("http:", "https:");
    let other = Redis::tls();
    let file = |name: &str| directory.path().join(name).display().to_string();
    let here = format!("https://localhost:{}", redis.port());
    for (endpoint, cafile, kind, text) in [
        (
            &here,
            other.authority().display().to_string(),
            ErrorKind::Unreachable,
            "cannot lock the session: DynamoDB cannot be reached: its certificate is not trusted: ".into(),
        ),
        (
            &plain,
            other.authority().display().to_string(),
            ErrorKind::Unreachable,
            "cannot lock the session: DynamoDB cannot be reached: it does not speak TLS (store URL)\n\
             hint: write endpoint=http://... for a server without TLS, which is for this host alone"
                .into(),
        ),
        // It is trusted, and answers something.
        (
            &here,
            redis.authority().display().to_string(),
            ErrorKind::Unreachable,
            "cannot lock the session: the connection to DynamoDB was cut: ".into(),
        ),
        (
            &here,
            file("absent.pem"),
            ErrorKind::Config,
            format!(
                "cannot read the authorities in {}: No such file or directory (os error 2) (store URL)\nhint: cafile= in \
                 session.save_path, or AWS_CA_BUNDLE, names a PEM file that the user PHP runs as can read",
                file("absent.pem")
            ),
        ),
        (
            &here,
            file("nothing.pem"),
            ErrorKind::Config,
            format!("there are no authorities in {} (store URL)\nhint: cafile= in", file("nothing.pem")),
        ),
        (
            &here,
            file("broken.pem"),
            ErrorKind::Config,
            format!("there are no authorities in {} (store URL)\nhint: cafile= in", file("broken.pem")),
        ),
    ] {
        let save_path = format!("dynamodb://key:secret@local/sessions?endpoint={endpoint}&cafile={cafile}");
        let error = open(&save_path, patient());
        assert_eq!(error.kind(), kind, "{error}");
        let told = told(&error, &save_path);
        assert!(told.starts_with(&text), "{told}\nnot\n{text}");
    }
    // The other way round.
    let save_path =
        format!("dynamodb://key:secret@local/sessions?endpoint=http://localhost:{}", redis.port());
    let error = open(&save_path, patient());
    assert!(matches!(error.kind(), ErrorKind::Unreachable), "{error}");
    assert!(error.to_string().contains("https://"), "{error}");
}

fn no_region() {
    let environment: Environment =
        [("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_CONFIG_FILE", "/nowhere")].into_iter().collect();
    let save_path = "dynamodb:///sessions";
    let error = open(save_path, Settings { environment, ..patient() });
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert_eq!(
        told(&error, save_path),
        "no AWS region is named (store URL)\n\
         hint: write it before the table, dynamodb://eu-west-1/sessions, or set AWS_REGION where PHP starts"
    );
}
