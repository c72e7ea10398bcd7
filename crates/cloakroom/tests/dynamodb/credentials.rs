//! Who signs requests, and for which region: AWS's own chain, asked under the environment that PHP was started with.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cloakroom::{Access, Change, Environment, ErrorKind, Settings, Store};
use serde_json::json;
use testbed::dynamodb::Fault;
use testbed::suite::Case;
use testbed::{TempDir, wait_until};

use crate::service::Service;
use crate::worker::{EXCLUSIVE, LIFETIME, id, lock, put, read, soon, store_with};
use crate::{LIMIT, Proxied, patient, proxied};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        proxied("the_environment_signs", the_environment_signs),
        proxied("the_url_s_key_and_endpoint_overrule_the_environment", the_url_overrules),
        proxied("a_profile_of_aws_s_files_signs", a_profile_signs),
        proxied("a_program_of_the_profile_is_asked_once", a_program_is_asked_once),
        proxied("a_container_s_role_signs_and_is_asked_once", a_container_signs),
        proxied("an_instance_s_role_signs_and_is_asked_once", an_instance_signs),
        proxied("a_web_identity_signs", a_web_identity_signs),
        proxied("credentials_that_were_rotated_are_read_again", rotated),
        proxied("credentials_that_were_changed_in_a_file_are_read_again", rotated_in_a_file),
        proxied("who_refuses_credentials_is_quoted", failing),
        proxied("credentials_that_expire_soon_are_asked_for_again", expiring),
        proxied("who_has_no_credentials_is_told_where_they_were_looked_for", no_credentials),
        proxied("a_profile_that_gives_nothing_is_named_with_the_files", no_profile),
        proxied("credentials_that_are_missing_are_not_looked_for_each_time", asked_seldom),
        proxied("a_region_that_nobody_tells_is_not_looked_for_each_time", region_asked_seldom),
        proxied("a_metadata_service_that_is_silent_costs_no_more_than_the_deadline", silent_metadata),
    ]
}

/// What every case has: no metadata service of the machine that it runs on.
fn environment(more: &[(&str, &str)]) -> Environment {
    let mut environment: Environment = [
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", "/nowhere/config"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/nowhere/credentials"),
    ]
    .into_iter()
    .collect();
    for (name, value) in more {
        environment.set(*name, *value);
    }
    environment
}

/// The URL without a key and a region.
fn bare(proxied: &Proxied) -> String {
    proxied.save_path.replace("key:secret@local", "")
}

fn worker(save_path: &str, more: &[(&str, &str)]) -> Box<dyn Store> {
    store_with(save_path, Settings { environment: environment(more), ..patient() })
}

/// Who signed the last request: the key's id, the region, the session token.
fn signer(proxied: &Proxied) -> (String, String, Option<String>) {
    let seen = proxied.proxy.seen();
    let last = seen.last().expect("a request was seen");
    let authorization = last.header("authorization").unwrap();
    let (_, scope) = authorization.split_once("Credential=").unwrap();
    let parts: Vec<&str> = scope.split(['/', ',']).collect();
    (parts[0].into(), parts[2].into(), last.header("x-amz-security-token").map(str::to_owned))
}

fn signed(key: &str, region: &str, token: Option<&str>) -> (String, String, Option<String>) {
    (key.into(), region.into(), token.map(str::to_owned))
}

/// Several sessions, and a renewal over a connection of its own.
fn use_it(worker: &mut dyn Store) {
    for _ in 0..3 {
        put(worker, &id("abc"), b"n|i:1;");
        read(worker, &id("abc"));
    }
    let opened = worker.open(&id("abc"), EXCLUSIVE, soon()).unwrap();
    (opened.renewal.unwrap().renew)(soon()).unwrap();
    worker.commit(&id("abc"), opened.hold, Change::Keep, soon()).unwrap();
}

fn the_environment_signs(proxied: &Proxied) {
    let keys = [("AWS_ACCESS_KEY_ID", "AKIDENV"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let token = ("AWS_SESSION_TOKEN", "tok");
    use_it(worker(&bare(proxied), &[keys[0], keys[1], token, ("AWS_REGION", "eu-west-1")]).as_mut());
    assert_eq!(signer(proxied), signed("AKIDENV", "eu-west-1", Some("tok")));
    read(
        worker(&bare(proxied), &[keys[0], keys[1], ("AWS_DEFAULT_REGION", "eu-west-2")]).as_mut(),
        &id("abc"),
    );
    assert_eq!(signer(proxied), signed("AKIDENV", "eu-west-2", None));
}

fn the_url_overrules(proxied: &Proxied) {
    let environment = |endpoint: &'static str, url: String| {
        [
            ("AWS_ACCESS_KEY_ID", "AKIDENV".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "s".into()),
            ("AWS_REGION", "eu-west-1".into()),
            (endpoint, url),
        ]
    };
    let run = |save_path: &str, environment: &[(&str, String)]| {
        let more: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        proxied.proxy.reset_counts();
        read(worker(save_path, &more).as_mut(), &id("abc"));
        signer(proxied)
    };
    let nobody = || "http://127.0.0.1:1".to_owned();
    let overruled = run(&proxied.save_path, &environment("AWS_ENDPOINT_URL_DYNAMODB", nobody()));
    assert_eq!(overruled, signed("key", "local", None));
    // Without one in the URL, the environment's is good.
    let (plain, _) = proxied.save_path.split_once('?').unwrap();
    for variable in ["AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"] {
        let found = run(plain, &environment(variable, proxied.proxy.endpoint()));
        assert_eq!(found, signed("key", "local", None), "{variable}");
    }
}

fn a_profile_signs(proxied: &Proxied) {
    let directory = TempDir::new();
    directory
        .write("config", "[default]\nregion = eu-west-1\n[profile shop]\nregion = eu-west-2\nrole = none\n");
    directory.write(
        "credentials",
        "[default]\naws_access_key_id = AKIDDEFAULT\naws_secret_access_key = s\n\
         [shop]\naws_access_key_id = AKIDSHOP\naws_secret_access_key = s\naws_session_token = tok\n",
    );
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (config, credentials) = (file("config"), file("credentials"));
    let files = [("AWS_CONFIG_FILE", config.as_str()), ("AWS_SHARED_CREDENTIALS_FILE", credentials.as_str())];
    let home = directory.path().join("home").display().to_string();
    std::fs::create_dir_all(format!("{home}/.aws")).unwrap();
    for name in ["config", "credentials"] {
        std::fs::copy(file(name), format!("{home}/.aws/{name}")).unwrap();
    }
    let keys = [("AWS_ACCESS_KEY_ID", "AKIDENV"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let shop = signed("AKIDSHOP", "eu-west-2", Some("tok"));
    let of_profile = format!("{}&profile=shop", bare(proxied));
    for (save_path, more, expected) in [
        (bare(proxied), vec![], signed("AKIDDEFAULT", "eu-west-1", None)),
        (bare(proxied), vec![("AWS_PROFILE", "shop")], shop.clone()),
        (of_profile.clone(), vec![("AWS_PROFILE", "default")], shop.clone()),
        // It is named on purpose; the keys may be there for something else.
        (of_profile, keys.to_vec(), shop),
        (
            bare(proxied),
            vec![("HOME", home.as_str()), ("AWS_CONFIG_FILE", ""), ("AWS_SHARED_CREDENTIALS_FILE", "")],
            signed("AKIDDEFAULT", "eu-west-1", None),
        ),
    ] {
        let more: Vec<(&str, &str)> = files.into_iter().chain(more).collect();
        read(worker(&save_path, &more).as_mut(), &id("abc"));
        assert_eq!(signer(proxied), expected, "{more:?}");
    }
}

/// A script that says how often it was run.
fn program(directory: &TempDir, lines: &str) -> String {
    let runs = directory.path().join("runs");
    let path = directory.write("credentials.sh", format!("echo run >> '{}'\n{lines}\n", runs.display()));
    // By name of the shell: a file that was just written cannot be run itself while another case's child has it open.
    directory.write(
        "config",
        format!("[default]\nregion = eu-west-1\ncredential_process = sh {}\n", path.display()),
    );
    directory.path().join("config").display().to_string()
}

fn a_program_is_asked_once(proxied: &Proxied) {
    let directory = TempDir::new();
    let answer = json!({
        "Version": 1, "AccessKeyId": "AKIDPROGRAM", "SecretAccessKey": "s", "SessionToken": "tok",
        "Expiration": "2099-01-01T00:00:00Z",
    });
    let config = program(&directory, &format!("echo '{answer}'"));
    use_it(worker(&bare(proxied), &[("AWS_CONFIG_FILE", &config)]).as_mut());
    assert_eq!(signer(proxied), signed("AKIDPROGRAM", "eu-west-1", Some("tok")));
    assert_eq!(std::fs::read_to_string(directory.path().join("runs")).unwrap(), "run\n");
    // One that fails; what it writes may be anything.
    let config = program(&directory, "echo 'the password is sesame' >&2; exit 3");
    let mut worker = worker(&bare(proxied), &[("AWS_CONFIG_FILE", &config)]);
    let error = worker.open(&id("abc"), Access::ReadOnly, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth);
    let text = error.to_string();
    assert!(
        text.starts_with(
            "cannot read the session: no AWS credentials were given: Error retrieving credentials: external process exited \
             with code exit status: 3 (store "
        ),
        "{text}"
    );
    assert!(!text.contains("sesame"), "{text}");
}

/// What the services of container and instance say.
fn role(key: &str, expiration: &str) -> String {
    json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z",
        "AccessKeyId": key, "SecretAccessKey": "s", "Token": "tok", "Expiration": expiration,
    })
    .to_string()
}

const LATER: &str = "2099-01-01T00:00:00Z";

fn a_container_signs(proxied: &Proxied) {
    let service = Service::start(|_| (200, "application/json", role("AKIDTASK", LATER)));
    let directory = TempDir::new();
    directory.write("token", "open-sesame");
    let (uri, file) = (
        format!("{}/v1/credentials", service.endpoint()),
        directory.path().join("token").display().to_string(),
    );
    let more = [
        ("AWS_REGION", "eu-west-1"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file.as_str()),
    ];
    use_it(worker(&bare(proxied), &more).as_mut());
    assert_eq!(signer(proxied), signed("AKIDTASK", "eu-west-1", Some("tok")));
    let seen = service.seen();
    let [asked] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(
        (asked.line.as_str(), asked.header("authorization")),
        ("GET /v1/credentials", Some("open-sesame"))
    );
}

fn an_instance_signs(proxied: &Proxied) {
    let service = Service::start(|request| match request.line.as_str() {
        "PUT /latest/api/token" => {
            (200, "text/plain\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600", "token".into())
        }
        _ if request.header("x-aws-ec2-metadata-token") != Some("token") => {
            (401, "text/plain", String::new())
        }
        "GET /latest/meta-data/placement/region" => (200, "text/plain", "eu-north-1".into()),
        "GET /latest/meta-data/iam/security-credentials/" => (200, "text/plain", "web".into()),
        "GET /latest/meta-data/iam/security-credentials/web" => (200, "text/plain", role("AKIDROLE", LATER)),
        _ => (404, "text/plain", String::new()),
    });
    let endpoint = service.endpoint();
    let more =
        [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint.as_str())];
    let mut worker = worker(&bare(proxied), &more);
    // AWS's client waits for a second, and then there is no region: the machine may stand still for longer.
    wait_until("the instance has told", LIMIT, || {
        let asked = worker.open(&id("abc"), Access::ReadOnly, soon());
        asked
            .inspect_err(|error| {
                assert!(matches!(error.kind(), ErrorKind::Config | ErrorKind::Auth), "{error}")
            })
            .is_ok()
    });
    assert_eq!(signer(proxied), signed("AKIDROLE", "eu-north-1", Some("tok")));
    let asked = service.seen().len();
    use_it(worker.as_mut());
    assert_eq!(service.seen().len(), asked, "{:?}", service.seen());
}

fn a_web_identity_signs(proxied: &Proxied) {
    let service = Service::start(|_| {
        let body = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                    <AssumeRoleWithWebIdentityResult><AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/web/pod</Arn>\
                    <AssumedRoleId>AROA:pod</AssumedRoleId></AssumedRoleUser><Credentials>\
                    <AccessKeyId>AKIDPOD</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>tok</SessionToken>\
                    <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
                    </AssumeRoleWithWebIdentityResponse>";
        (200, "text/xml", body.into())
    });
    let directory = TempDir::new();
    directory.write("jwt", "the-pod-s-token");
    let (endpoint, file) = (service.endpoint(), directory.path().join("jwt").display().to_string());
    let more = [
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ENDPOINT_URL_STS", endpoint.as_str()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", file.as_str()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/web"),
    ];
    use_it(worker(&bare(proxied), &more).as_mut());
    assert_eq!(signer(proxied), signed("AKIDPOD", "eu-west-1", Some("tok")));
    let seen = service.seen();
    let [asked] = &seen[..] else { panic!("{seen:?}") };
    assert!(asked.body.contains("WebIdentityToken=the-pod-s-token"), "{asked:?}");
}

/// Who should give credentials refuses, or talks nonsense.
fn failing(proxied: &Proxied) {
    let denied = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
                  <Code>AccessDenied</Code><Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error>\
                  </ErrorResponse>";
    let directory = TempDir::new();
    directory.write("jwt", "the-pod-s-token");
    let file = directory.path().join("jwt").display().to_string();
    let said = "AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity";
    for (status, body, by_sts, by_container) in [
        (403, denied, said, "Non-success status from HTTP credential provider: StatusCode(403)"),
        (
            500,
            "sesame",
            "error parsing XML",
            "Non-success status from HTTP credential provider: StatusCode(500)",
        ),
        (200, "sesame", "error parsing XML", "invalid JSON in response"),
    ] {
        let service = Service::start(move |_| (status, "text/xml", body.to_owned()));
        let endpoint = service.endpoint();
        let pod = [
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ENDPOINT_URL_STS", endpoint.as_str()),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", file.as_str()),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/web"),
        ];
        let task = [("AWS_REGION", "eu-west-1"), ("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoint.as_str())];
        for (more, why) in [(&pod[..], by_sts), (&task[..], by_container)] {
            let mut worker = worker(&bare(proxied), more);
            let error = worker.open(&id("abc"), Access::ReadOnly, soon()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
            let text = error.to_string();
            let begin = format!("cannot read the session: no AWS credentials were given: {why}");
            assert!(text.starts_with(&begin), "{status}: {text}");
            assert!(text.contains("\nhint: the first that has any is asked: "), "{text}");
            assert!(!text.contains("sesame") && !text.contains("the-pod"), "{text}");
        }
    }
}

/// A service that gives other credentials each time.
fn rotating(expiration: &'static str) -> Service {
    let times = AtomicUsize::new(0);
    Service::start(move |_| {
        let time = times.fetch_add(1, Ordering::Relaxed);
        (200, "application/json", role(&format!("AKID{time}"), expiration))
    })
}

fn rotated(proxied: &Proxied) {
    for refusal in ["ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException"] {
        let service = rotating(LATER);
        let uri = format!("{}/v1", service.endpoint());
        let more = [("AWS_REGION", "eu-west-1"), ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str())];
        let mut worker = worker(&bare(proxied), &more);
        let (_, hold) = lock(worker.as_mut(), &id("abc"));
        assert_eq!(signer(proxied).0, "AKID0");
        proxied.proxy.decide(move |seen| match seen.header("authorization").unwrap().contains("=AKID0/") {
            true => Fault::refuse(refusal, "no more"),
            false => Fault::None,
        });
        worker.commit(&id("abc"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
        assert_eq!(signer(proxied).0, "AKID1", "{refusal}");
        assert_eq!((worker.counters().retries, service.seen().len()), (1, 2), "{refusal}");
        // Nothing helps: it is asked once more for each request, and no oftener.
        proxied.proxy.decide(move |_| Fault::refuse(refusal, "no more"));
        proxied.proxy.reset_counts();
        let error = worker.open(&id("abc"), Access::ReadOnly, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
        assert!(error.to_string().contains("\nhint: see the credentials in the environment, "), "{error}");
        assert_eq!((proxied.proxy.count("GetItem"), service.seen().len()), (2, 3), "{refusal}");
        proxied.proxy.forward();
    }
}

/// Somebody writes others into the file while workers run.
fn rotated_in_a_file(proxied: &Proxied) {
    let directory = TempDir::new();
    let write = |key: &str| {
        let keys = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n");
        directory.write("credentials", keys);
    };
    write("AKIDOLD");
    let file = directory.path().join("credentials").display().to_string();
    let more = [("AWS_REGION", "eu-west-1"), ("AWS_SHARED_CREDENTIALS_FILE", file.as_str())];
    let mut worker = worker(&bare(proxied), &more);
    put(worker.as_mut(), &id("abc"), b"n|i:1;");
    assert_eq!(signer(proxied).0, "AKIDOLD");
    write("AKIDNEW");
    proxied.proxy.decide(|seen| match seen.header("authorization").unwrap().contains("=AKIDOLD/") {
        true => Fault::refuse("UnrecognizedClientException", "no more"),
        false => Fault::None,
    });
    assert_eq!(read(worker.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
    assert_eq!((signer(proxied).0.as_str(), worker.counters().retries), ("AKIDNEW", 1));
}

/// Those of the service are over already: AWS's own client and ours ask before each use, and go on with what there is.
fn expiring(proxied: &Proxied) {
    let service = rotating("2020-01-01T00:00:00Z");
    let uri = format!("{}/v1", service.endpoint());
    let more = [("AWS_REGION", "eu-west-1"), ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str())];
    let mut worker = worker(&bare(proxied), &more);
    read(worker.as_mut(), &id("abc"));
    assert_eq!(signer(proxied).0, "AKID0");
    read(worker.as_mut(), &id("abc"));
    assert_eq!(signer(proxied).0, "AKID1");
}

fn no_credentials(proxied: &Proxied) {
    let save_path = bare(proxied);
    let mut nobody = worker(&save_path, &[("AWS_REGION", "eu-west-1")]);
    let error = nobody.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth);
    assert_eq!(
        error.to_string().replace(&save_path, "URL"),
        "cannot lock the session: there are no AWS credentials (store URL)\n\
         hint: give the instance, task or pod a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where PHP starts, or \
         name a profile (profile=). Asked were the environment, AWS's files (AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE, \
         ~/.aws of who starts PHP), a web identity, and the metadata services of container and instance"
    );
    let counters = nobody.counters();
    assert_eq!((counters.exchanges, counters.retries, nobody.billed().len()), (0, 0, 0));
    assert_eq!(proxied.proxy.seen(), []);
}

/// A profile that no file has, or that gives nothing.
fn no_profile(proxied: &Proxied) {
    let directory = TempDir::new();
    // As AWS's client reads it: what lacks the word is ignored, and a line that is indented goes on with the one before.
    directory.write(
        "config",
        "[default]\nregion = eu-west-1\n [profile continued]\n[ profile  empty ] ; a comment\n[shop]\n\
         aws_access_key_id = AKID\naws_secret_access_key = secret\n[sso-session login]\n",
    );
    let home = directory.path().display().to_string();
    let config = directory.path().join("config").display().to_string();
    let (by_url, by_name) = (format!("{}&profile=", bare(proxied)), bare(proxied));
    let nothing = "cannot lock the session: the profile empty gives no AWS credentials";
    for (save_path, variable, by, name, written) in [
        (format!("{by_url}shop"), None, "profile=", "shop", false),
        (format!("{by_url}empty"), None, "profile=", "empty", true),
        (by_name.clone(), Some("continued"), "AWS_PROFILE", "continued", false),
        (by_name.clone(), Some("login"), "AWS_PROFILE", "login", false),
        (by_name.clone(), Some("empty"), "AWS_PROFILE", "empty", true),
    ] {
        let profile = variable.map(|name| ("AWS_PROFILE", name));
        let usual = [("AWS_REGION", "eu-west-1"), ("HOME", home.as_str()), ("AWS_CONFIG_FILE", "~/config")];
        let more: Vec<(&str, &str)> = usual.into_iter().chain(profile).collect();
        let error = worker(&save_path, &more).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Auth);
        let told = error.to_string().replace(&save_path, "URL").replace(&config, "CONFIG");
        let lacking = format!("cannot lock the session: AWS's files have no profile {name}");
        let (what, help) = if written { (nothing, "complete") } else { (lacking.as_str(), "write") };
        let expected = format!(
            "{what} (store URL)\n\
             hint: correct {by}, or {help} the profile: [profile {name}] in CONFIG, or [{name}] in /nowhere/credentials (No such \
             file or directory (os error 2)). The user PHP runs as must be able to read the files; AWS_CONFIG_FILE and \
             AWS_SHARED_CREDENTIALS_FILE name others than ~/.aws of who starts PHP"
        );
        assert_eq!(told, expected, "{name}");
    }
    // The region may have been meant to come from there, too.
    let misspelt = [("AWS_PROFILE", "shop"), ("AWS_CONFIG_FILE", config.as_str())];
    let error = worker(&by_name, &misspelt).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let told = error.to_string().replace(&by_name, "URL").replace(&config, "CONFIG");
    assert!(
        told.starts_with("no AWS region is named (store URL)\nhint: write it before the table"),
        "{told}"
    );
    let end = "AWS_REGION where PHP starts; AWS's files have no profile shop, which AWS_PROFILE names: [profile shop] in CONFIG, \
               or [shop] in /nowhere/credentials (No such file or directory (os error 2))";
    assert!(told.ends_with(end), "{told}");
    assert_eq!(proxied.proxy.seen(), []);
}

/// Whether there are any takes AWS's client a second or more to find out, and each request of a pool would wait for that.
fn asked_seldom(proxied: &Proxied) {
    let times = Arc::new(AtomicUsize::new(0));
    let refused = Arc::clone(&times);
    let service = Service::start(move |_| match refused.fetch_add(1, Ordering::SeqCst) {
        0 => (403, "text/plain", String::new()),
        _ => (200, "application/json", role("AKIDLATER", LATER)),
    });
    let endpoint = service.endpoint();
    let more = [("AWS_REGION", "eu-west-1"), ("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoint.as_str())];
    let mut worker = worker(&bare(proxied), &more);
    let first = worker.open(&id("abc"), Access::ReadOnly, soon()).unwrap_err();
    assert_eq!(first.kind(), ErrorKind::Auth);
    let second = worker.open(&id("abc"), Access::ReadOnly, soon()).unwrap_err();
    assert_eq!(second.to_string(), first.to_string());
    assert_eq!(times.load(Ordering::SeqCst), 1);
    // A while later they are asked again.
    wait_until("there are credentials", LIMIT, || worker.open(&id("abc"), Access::ReadOnly, soon()).is_ok());
    assert_eq!((signer(proxied).0.as_str(), times.load(Ordering::SeqCst)), ("AKIDLATER", 2));
}

/// The same of the region, for which the instance is asked.
fn region_asked_seldom(proxied: &Proxied) {
    let service = Service::start(|_| (404, "text/plain", String::new()));
    let endpoint = service.endpoint();
    let more =
        [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint.as_str())];
    let mut worker = worker(&bare(proxied), &more);
    let first = worker.open(&id("abc"), Access::ReadOnly, soon()).unwrap_err();
    assert_eq!(first.kind(), ErrorKind::Config);
    let asked = service.seen().len();
    let second = worker.open(&id("abc"), Access::ReadOnly, soon()).unwrap_err();
    assert_eq!(second.to_string(), first.to_string());
    assert_eq!(service.seen().len(), asked);
    wait_until("it is asked again", LIMIT, || {
        worker.open(&id("abc"), Access::ReadOnly, soon()).unwrap_err();
        service.seen().len() > asked
    });
}

/// It takes connections and says nothing.
fn silent_metadata(proxied: &Proxied) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let instance =
        [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint.as_str())];
    let impatient = |timeout: Duration, more: &[(&str, &str)]| Settings {
        environment: environment(more),
        connect_timeout: timeout,
        timeout,
        ..Settings::default()
    };
    // AWS's client gives up that of an instance after a second by itself, and that of a container after five.
    let time = Duration::from_millis(150);
    let save_path = proxied.save_path.replace("key:secret@", "");
    let container = impatient(time, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &endpoint)]);
    let mut worker_of_container = store_with(&save_path, container);
    let error = worker_of_container.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    // It is not asked again for a while, which is short: for as long as it was waited for.
    silent.set_nonblocking(true).unwrap();
    let connections = || silent.incoming().take_while(Result::is_ok).count();
    wait_until("a request does not wait for it", LIMIT, || {
        connections();
        let again = worker_of_container.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
        assert_eq!(again.to_string(), error.to_string());
        connections() == 0
    });
    assert_eq!(
        error.to_string().replace(&save_path, "URL"),
        "cannot lock the session: no AWS credentials were given in time (store URL)\n\
         hint: the metadata service of the instance or container, or a program of the profile, does not answer: let it, or set \
         AWS_EC2_METADATA_DISABLED=true where there is none"
    );
    // A program that hangs.
    let directory = TempDir::new();
    let there = directory.path().display();
    let config = program(&directory, &format!("while [ -d '{there}' ]; do sleep 0.1; done"));
    let hanging = impatient(time, &[("AWS_CONFIG_FILE", &config)]);
    let error = store_with(&save_path, hanging).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains(": no AWS credentials were given in time (store "), "{error}");
    // It is asked for the region as well, where nobody names one.
    let save_path = bare(proxied);
    let no_time = impatient(Duration::from_millis(1), &instance);
    let error = store_with(&save_path, no_time).open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(
        error.to_string().replace(&save_path, "URL"),
        "AWS's configuration was not found in time (store URL)\n\
         hint: write the region before the table, or set AWS_REGION: without it the instance's metadata service is asked"
    );
    // Who has the time hears that there are none.
    let error = worker(&proxied.save_path.replace("key:secret@", ""), &instance)
        .open(&id("abc"), EXCLUSIVE, soon())
        .unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Auth | ErrorKind::Timeout), "{error}");
    assert_eq!(proxied.proxy.seen(), []);
}
