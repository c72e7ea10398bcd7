//! `cloakroom create`: the table that a DynamoDB URL names.

use std::process::ExitCode;
use std::time::Duration;

use cloakroom::stores::dynamodb::{Capacity, Created, DynamoDb, Expiry, Options};
use cloakroom::{Deadline, Environment, Result, Settings, StoreUrl, stores};
use serde_json::json;

use crate::iam::hint_for;
use crate::output::{DOUBTFUL, paint, say, tell};
use crate::store::{self, settings};

/// Creates the DynamoDB table that a URL names, and waits until it can be used
///
/// Its key is one string (hash_key=, id), it is paid per request unless units are given, and its TTL is switched on (ttl=, expires),
/// so that DynamoDB removes expired sessions. What is there already stays: run it as often as you like. Where a table of this name
/// has another key, a sort key or an index, or its TTL is by another attribute, nothing is changed and that is an error. An engine
/// without TTL (dynalite) is told of, and is none: `cloakroom gc` removes expired sessions there. Other stores have nothing to create.
///
/// Exit codes: 0 the table is there and can be used, 1 it is not, 2 wrong usage.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What session.save_path says: dynamodb://region/table, env:NAME, or auto for what `cloakroom detect` finds
    save_path: String,
    /// Read units a second, for a table with provisioned capacity; a request needs one for each 4 KB it only reads
    #[arg(long, value_name = "UNITS", requires = "write_units", value_parser = clap::value_parser!(i64).range(1..))]
    read_units: Option<i64>,
    /// Write units a second; a request that locks needs two for each 1 KB of its session
    #[arg(long, value_name = "UNITS", requires = "read_units", value_parser = clap::value_parser!(i64).range(1..))]
    write_units: Option<i64>,
    /// How many seconds to wait for the table in all
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    wait: u64,
    /// The same as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let environment = Environment::of_process();
    let url = store::url(&arguments.save_path, &environment)?;
    let settings = settings(&environment);
    if url.scheme == "dynamodb" {
        create(arguments, &url, settings).map_err(hint_for("create"))?;
    } else {
        // Whatever its options say wrong is said here, too.
        stores::open(&url, settings)?;
        nothing(arguments, &url);
    }
    Ok(ExitCode::SUCCESS)
}

fn nothing(arguments: &Arguments, url: &StoreUrl) {
    match arguments.json {
        true => say!("{:#}", json!({ "store": url.to_string(), "table": null })),
        false => say!("nothing to create: only DynamoDB has tables (store {url})"),
    }
}

fn create(arguments: &Arguments, url: &StoreUrl, settings: Settings) -> Result<()> {
    let capacity = match (arguments.read_units, arguments.write_units) {
        (Some(read), Some(write)) => Some(Capacity::Provisioned { read, write }),
        _ => None,
    };
    let options = Options::parse(url).map_err(|error| error.on(url.to_string()))?;
    let (name, attribute) = (options.table().to_owned(), options.expiry_attribute().to_owned());
    let by = Deadline::after(Duration::from_secs(arguments.wait));
    let mut table = DynamoDb::new(options, settings);
    let Created { table: made, expiry } =
        table.create_table(capacity, &mut |doing| tell!("{doing} ..."), by)?;
    if arguments.json {
        let created = json!({
            "store": url.to_string(), "table": name, "created": made,
            "ttl": if expiry == Expiry::Unknown { None } else { Some(&attribute) },
            "ttl_switched_on": expiry == Expiry::SwitchedOn,
        });
        say!("{created:#}");
    } else {
        say!("store: {url}\n");
        match made {
            true => {
                say!("created the table {name}, {}", capacity.unwrap_or(Capacity::PayPerRequest));
            }
            false => say!("the table {name} was there, with the key that it has to have"),
        }
        match expiry {
            Expiry::SwitchedOn => say!("switched its TTL on, by the attribute {attribute}"),
            Expiry::WasOn => say!("its TTL was on, by the attribute {attribute}"),
            Expiry::Unknown => {}
        }
    }
    if expiry == Expiry::Unknown {
        tell!(
            "{}this engine has no TTL: expired sessions stay\nhint: run cloakroom gc where that matters",
            paint(DOUBTFUL, "notice: ")
        );
    }
    Ok(())
}
