//! `cloakroom iam`: what a role must be allowed, and no more.

use std::collections::BTreeSet;
use std::process::ExitCode;

use cloakroom::stores::dynamodb;
use cloakroom::{Environment, Error, ErrorKind, Result};
use serde_json::Value;

use crate::output::{could_not_look, say};
use crate::store;

/// Prints the policy that lets servers use a DynamoDB table, and no more than that
///
/// JSON that can be pasted: a policy for IAM, for the role of the servers. With --for it is for whoever runs a command of this
/// program; each may do what the command sends, and nothing else. Nothing is connected to.
///
/// Exit codes: 0 printed, 2 wrong usage, or the store is not DynamoDB.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What session.save_path says: dynamodb://region/table, env:NAME, or auto for what `cloakroom detect` finds
    save_path: String,
    /// Who it is for; several are separated by commas
    #[arg(long = "for", value_enum, value_delimiter = ',', default_value = "servers", value_name = "WHOM")]
    whom: Vec<Whom>,
    /// The number of the account that has the table; any account without it
    #[arg(long, value_name = "ID", default_value = "*", hide_default_value = true, value_parser = account)]
    account: String,
}

/// Who asks DynamoDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Whom {
    /// PHP with Cloakroom's extension
    Servers,
    /// cloakroom create
    Create,
    /// cloakroom gc
    Gc,
    /// cloakroom check and cloakroom doctor
    Check,
    /// cloakroom show
    Show,
    /// cloakroom locks
    Locks,
    /// cloakroom unlock
    Unlock,
}

impl Whom {
    /// What it sends, as the tests see it on the wire.
    fn actions(self) -> &'static [&'static str] {
        match self {
            Whom::Servers => &["GetItem", "UpdateItem", "DeleteItem"],
            Whom::Create => &["CreateTable", "DescribeTable", "DescribeTimeToLive", "UpdateTimeToLive"],
            Whom::Gc => &["DeleteItem", "DescribeTimeToLive", "Scan"],
            Whom::Check => &["GetItem", "UpdateItem", "DeleteItem", "DescribeTable", "DescribeTimeToLive"],
            Whom::Show => &["GetItem"],
            Whom::Locks => &["GetItem", "Scan"],
            // A lock on a session that is not there yet goes with its item.
            Whom::Unlock => &["GetItem", "UpdateItem", "DeleteItem"],
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    Ok(print(arguments).map_or_else(|error| could_not_look(&error), |()| ExitCode::SUCCESS))
}

fn print(arguments: &Arguments) -> Result<()> {
    let environment = Environment::of_process();
    let url = store::url(&arguments.save_path, &environment)?;
    if url.scheme != "dynamodb" {
        return Err(Error::new(ErrorKind::Unsupported, "only DynamoDB has policies")
            .on(url.to_string())
            .hint("write dynamodb://region/table"));
    }
    let options = dynamodb::Options::parse(&url).map_err(|error| error.on(url.to_string()))?;
    let named = ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|name| environment.var(name));
    let region = options.region().or(named).unwrap_or("*");
    let actions: BTreeSet<&str> = arguments.whom.iter().flat_map(|whom| whom.actions()).copied().collect();
    let table = format!(
        "arn:{}:dynamodb:{region}:{}:table/{}",
        partition(region),
        arguments.account,
        options.table()
    );
    say!("{}", policy(actions, &table));
    Ok(())
}

/// In the order in which AWS writes it.
fn policy(actions: BTreeSet<&str>, table: &str) -> String {
    let actions: Vec<String> =
        actions.into_iter().map(|action| format!("        \"dynamodb:{action}\"")).collect();
    format!(
        r#"{{
  "Version": "2012-10-17",
  "Statement": [
    {{
      "Effect": "Allow",
      "Action": [
{}
      ],
      "Resource": {}
    }}
  ]
}}"#,
        actions.join(",\n"),
        Value::from(table)
    )
}

/// Names the policy for this command where the hint names that for servers.
pub(crate) fn hint_for(command: &str) -> impl FnOnce(Error) -> Error {
    let policy = format!("cloakroom iam --for {command}");
    move |error| error.decided_by(&policy, "cloakroom iam")
}

/// The part of AWS that a region is in; they have nothing to do with each other.
fn partition(region: &str) -> &'static str {
    const PARTITIONS: &[(&str, &str)] = &[
        ("cn-", "aws-cn"),
        ("us-gov-", "aws-us-gov"),
        ("us-iso-", "aws-iso"),
        ("us-isob-", "aws-iso-b"),
        ("eu-isoe-", "aws-iso-e"),
        ("us-isof-", "aws-iso-f"),
        ("eusc-", "aws-eusc"),
    ];
    PARTITIONS.iter().find(|(prefix, _)| region.starts_with(prefix)).map_or("aws", |(_, partition)| partition)
}

fn account(text: &str) -> Result<String, String> {
    match text {
        "*" => Ok(text.to_owned()),
        digits if digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(digits.to_owned())
        }
        _ => Err("an account has a number of 12 digits".into()),
    }
}
