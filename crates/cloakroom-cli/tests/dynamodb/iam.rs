//! `cloakroom iam`: what it prints, and that it is what is sent.

use std::collections::BTreeSet;
use std::time::Duration;

use cloakroom::{
    Access, Change, Deadline, ErrorKind, Opened, SavePath, SessionId, Settings, Unknown, stores,
};
use serde_json::{Value, json};
use testbed::dynamodb::{Engine, Fault, Program, Proxy};
use testbed::suite::{Case, case};

use crate::{DYNALITE, LOCAL, Ran, cloakroom, command, fresh, url};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("the_policy_of_servers_is_printed", &[], of_servers),
        case("a_policy_names_the_table_in_its_part_of_aws", &[], partitions),
        case("a_policy_for_several_commands_has_what_each_sends", &[], several),
        case("only_dynamodb_has_policies", &[], others),
        case("servers_send_what_their_policy_allows_and_no_more", DYNALITE, servers_send),
        case("commands_send_what_their_policies_allow_and_no_more", LOCAL, commands_send),
        case("gc_sends_what_its_policy_allows_and_no_more", DYNALITE, gc_sends),
        case("looking_sends_what_its_policies_allow_and_no_more", DYNALITE, looking_sends),
        case("who_lacks_rights_is_told_which_policy_has_them", DYNALITE, hinted),
        case("check_goes_on_without_the_rights_to_look_at_the_table", DYNALITE, refused),
    ]
}

fn of_servers() {
    let expected = r#"{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Action": [
        "dynamodb:DeleteItem",
        "dynamodb:GetItem",
        "dynamodb:UpdateItem"
      ],
      "Resource": "arn:aws:dynamodb:eu-west-1:*:table/My-Sessions-Table"
    }
  ]
}
"#;
    cloakroom(&["iam", "dynamodb://eu-west-1/My-Sessions-Table"]).is(0, expected, "");
}

fn policy(arguments: &[&str], variables: &[(&str, &str)]) -> Value {
    let ran = Ran::of(command(arguments).envs(variables.iter().copied()));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    serde_json::from_str::<Value>(&ran.stdout).unwrap()["Statement"][0].clone()
}

fn partitions() {
    for (url, variables, arn) in [
        ("dynamodb://eu-west-1/s-1", &[][..], "arn:aws:dynamodb:eu-west-1:123456789012:table/s-1"),
        ("dynamodb://cn-north-1/s-1", &[], "arn:aws-cn:dynamodb:cn-north-1:123456789012:table/s-1"),
        ("dynamodb://us-gov-west-1/s-1", &[], "arn:aws-us-gov:dynamodb:us-gov-west-1:123456789012:table/s-1"),
        (
            "dynamodb://us-isob-east-1/s-1",
            &[],
            "arn:aws-iso-b:dynamodb:us-isob-east-1:123456789012:table/s-1",
        ),
        ("dynamodb:///s-1", &[], "arn:aws:dynamodb:*:123456789012:table/s-1"),
        (
            "dynamodb:///s-1",
            &[("AWS_REGION", "cn-north-1")],
            "arn:aws-cn:dynamodb:cn-north-1:123456789012:table/s-1",
        ),
        ("env:STORE", &[("STORE", "dynamodb://x/s-1")], "arn:aws:dynamodb:x:123456789012:table/s-1"),
    ] {
        let told = policy(&["iam", url, "--account", "123456789012"], variables);
        assert_eq!(told["Resource"], arn);
    }
    let ran = cloakroom(&["iam", "dynamodb://eu-west-1/s-1", "--account", "12"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
}

fn several() {
    let told = policy(&["iam", "dynamodb://eu-west-1/s-1", "--for", "servers,gc"], &[]);
    let expected = ["DeleteItem", "DescribeTimeToLive", "GetItem", "Scan", "UpdateItem"];
    assert_eq!(told["Action"], json!(expected.map(|action| format!("dynamodb:{action}"))));
}

fn others() {
    let expected =
        "error: only DynamoDB has policies (store redis://:***@h)\nhint: write dynamodb://region/table\n";
    cloakroom(&["iam", "redis://:s3cr3t@h"]).is(2, "", expected);
}

/// What a policy allows.
fn allowed(whom: &str) -> BTreeSet<String> {
    let told = policy(&["iam", "dynamodb://eu-west-1/sessions", "--for", whom], &[]);
    let actions = told["Action"].as_array().unwrap().iter();
    actions.map(|action| action.as_str().unwrap().trim_start_matches("dynamodb:").to_owned()).collect()
}

fn sent(proxy: &Proxy) -> BTreeSet<String> {
    proxy.operations().into_iter().collect()
}

fn servers_send() {
    let engine = Engine::shared(Program::Dynalite);
    let table = engine.create_table(&fresh(), "id");
    let proxy = Proxy::to(engine);
    let Ok(SavePath::Store(url)) =
        SavePath::parse(&url(&proxy.endpoint(), table.name()), &cloakroom::Environment::default())
    else {
        panic!("a URL")
    };
    let worker = || stores::open(&url, Settings::default()).unwrap();
    let (mut first, mut second) = (worker(), worker());
    let id = SessionId::parse(b"abcdefghijk").unwrap();
    let by = || Deadline::after(Duration::from_secs(60));
    let alone = |wait| Access::Exclusive { wait, unknown: Unknown::Lock };
    let life = Duration::from_secs(60);
    // All that a request may do: write, touch, wait in vain, renew, keep, read, delete.
    for change in
        [Change::Write(b"n|i:1;", life), Change::Touch(b"n|i:1;", life), Change::Keep, Change::Delete]
    {
        let Opened { hold, renewal, .. } = first.open(&id, alone(Duration::from_secs(10)), by()).unwrap();
        let busy = second.open(&id, alone(Duration::from_millis(50)), by()).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::LockBusy);
        (renewal.unwrap().renew)(by()).unwrap();
        first.commit(&id, hold, change, by()).unwrap();
        second.open(&id, Access::ReadOnly, by()).unwrap();
        second.exists(&id, by()).unwrap();
    }
    let Opened { hold, .. } = first.open(&id, Access::Unlocked, by()).unwrap();
    first.commit(&id, hold, Change::Write(b"n|i:2;", life), by()).unwrap();
    let Opened { hold, .. } = first.open(&id, Access::Unlocked, by()).unwrap();
    first.commit(&id, hold, Change::Delete, by()).unwrap();
    assert_eq!(sent(&proxy), allowed("servers"));
}

fn commands_send() {
    let proxy = Proxy::to(Engine::shared(Program::Local));
    let url = url(&proxy.endpoint(), &fresh());
    for (whom, arguments) in
        [("create", &["create", &url][..]), ("check", &["check", &url]), ("check", &["doctor", &url])]
    {
        proxy.reset_counts();
        let ran = cloakroom(arguments);
        // The doctor may find a busy machine slow.
        let well = ran.code == Some(0) || ran.stdout.contains("[slow]");
        assert!(well, "{arguments:?}\n{}{}", ran.stdout, ran.stderr);
        assert_eq!(sent(&proxy), allowed(whom), "{arguments:?}");
    }
}

fn gc_sends() {
    let engine = Engine::shared(Program::Dynalite);
    let table = engine.create_table(&fresh(), "id");
    table.put(json!({ "id": { "S": "expired" }, "expires": { "N": "1" } }));
    let proxy = Proxy::to(engine);
    let ran = cloakroom(&["gc", &url(&proxy.endpoint(), table.name())]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(sent(&proxy), allowed("gc"));
}

fn looking_sends() {
    let engine = Engine::shared(Program::Dynalite);
    let table = engine.create_table(&fresh(), "id");
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let soon = (now / 1000 + 3600).to_string();
    // One that is there, and one whose first request has not written it yet.
    for (key, record_expires) in [("PHPSESSID_abcdefghijk", soon.as_str()), ("PHPSESSID_bbcdefghijk", "-1")] {
        table.put(json!({
            "id": { "S": key }, "expires": { "N": soon }, "record_expires": { "N": record_expires },
            "lock": { "S": "cloakroom:00112233445566778899aabbccddeeff:web1:7" },
            "lock_until": { "N": (now + 3_600_000).to_string() },
        }));
    }
    let proxy = Proxy::to(engine);
    let url = url(&proxy.endpoint(), table.name());
    let unlock = |id| ["unlock", id, "--yes", "--store", &url].map(str::to_owned).to_vec();
    let show = ["show", "abcdefghijk", "--store", &url].map(str::to_owned).to_vec();
    let locks = ["locks", "--store", &url].map(str::to_owned).to_vec();
    for (whom, runs) in [
        ("show", vec![show]),
        ("locks", vec![locks]),
        ("unlock", vec![unlock("abcdefghijk"), unlock("bbcdefghijk")]),
    ] {
        proxy.reset_counts();
        for arguments in runs {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let ran = cloakroom(&arguments);
            assert_eq!(ran.code, Some(0), "{arguments:?}\n{}{}", ran.stdout, ran.stderr);
        }
        assert_eq!(sent(&proxy), allowed(whom), "{whom}");
    }
}

fn refused() {
    let engine = Engine::shared(Program::Dynalite);
    let table = engine.create_table(&fresh(), "id");
    let proxy = Proxy::to(engine);
    proxy.decide(|seen| match seen.operation.starts_with("Describe") {
        true => Fault::refuse("AccessDeniedException", "User: arn:aws:iam::1:user/u is not authorized"),
        false => Fault::None,
    });
    let ran = cloakroom(&["check", &url(&proxy.endpoint(), table.name())]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let note =
        "\nnote: these credentials may not look at the table, and nothing is known of its key and its TTL";
    assert!(ran.stdout.contains(note), "{}", ran.stdout);
}

fn hinted() {
    let engine = Engine::shared(Program::Dynalite);
    let table = engine.create_table(&fresh(), "id");
    let proxy = Proxy::to(engine);
    proxy.decide(|_| Fault::refuse("AccessDeniedException", "User: arn:aws:iam::1:user/u is not authorized"));
    let url = url(&proxy.endpoint(), table.name());
    for (whom, arguments, code) in [
        ("create", &["create", &url][..], 1),
        ("gc", &["gc", &url], 2),
        ("show", &["show", "abcdefghijk", "--store", &url], 2),
        ("locks", &["locks", "--store", &url], 2),
        ("unlock", &["unlock", "abcdefghijk", "--yes", "--store", &url], 2),
    ] {
        let ran = cloakroom(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{arguments:?}");
        let policy = format!("'cloakroom iam --for {whom} dynamodb://");
        assert!(
            ran.stderr.contains("AWS does not allow it") && ran.stderr.contains(&policy),
            "{}",
            ran.stderr
        );
    }
}
