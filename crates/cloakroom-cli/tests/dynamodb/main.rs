//! The command on DynamoDB: `create`, `gc`, `iam`, `check`, `ini` and `detect`, on real engines; the whole output.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod checking;
mod create;
mod gc;
mod iam;
mod looking;
#[path = "../ran/mod.rs"]
mod ran;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use testbed::dynamodb::{Engine, Program, Table};
use testbed::need::Need;

use ran::Ran;

const DYNALITE: &[Need] = &[Need::Dynalite];
const LOCAL: &[Need] = &[Need::DynamoDbLocal];

fn main() {
    let cases = [checking::cases(), create::cases(), gc::cases(), iam::cases(), looking::cases()];
    testbed::suite::run(cases.into_iter().flatten().collect());
}

/// The name of a table that nobody else has.
fn fresh() -> String {
    static TABLES: AtomicU32 = AtomicU32::new(0);
    format!("table{}", TABLES.fetch_add(1, Ordering::Relaxed))
}

/// A table on an engine that all cases share, and its URL.
fn table(program: Program) -> (Table, String) {
    let engine = Engine::shared(program);
    let table = engine.create_table(&fresh(), "id");
    let url = url(&engine.endpoint(), table.name());
    (table, url)
}

fn url(endpoint: &str, table: &str) -> String {
    format!("dynamodb://key:secret@eu-west-1/{table}?endpoint={endpoint}")
}

/// As it is shown.
fn masked(url: &str) -> String {
    url.replace(":secret@", ":***@")
}

/// The command without anything of AWS around it.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
    command.args(arguments).stdin(Stdio::null()).env_remove("SESSION_STORE_URL");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
    command
}

fn cloakroom(arguments: &[&str]) -> Ran {
    Ran::of(&mut command(arguments)).without_progress()
}
