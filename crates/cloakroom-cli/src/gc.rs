//! `cloakroom gc`: removes expired sessions where neither the store nor PHP does.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloakroom::stores::dynamodb::{Collected, Collecting, DynamoDb, Options};
use cloakroom::{
    Deadline, Environment, Error, ErrorKind, Result, Settings, Store, StoreUrl, Sweeping, stores,
};
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use crate::iam::hint_for;
use crate::output::{DOUBTFUL, could_not_look, paint, say, tell};
use crate::store::{self, settings};

/// Removes expired sessions where neither the store nor PHP does
///
/// For DynamoDB tables without TTL: walks through the whole table, within a rate, and removes each item that has expired, on the
/// condition that it still has and that nobody has locked it. ^C ends it after the items at hand; the next run begins anew and finds
/// less. Where the table's TTL is on there is nothing to do.
///
/// For directories: removes the files that were not used for --lifetime seconds, but not those that are locked. Redis and Memcached
/// remove expired sessions by themselves.
///
/// Exit codes: 0 done, or there is nothing to do; 1 it was ended before the end; 2 wrong usage, or the store failed. Where something
/// was removed before, it says so all the same.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What session.save_path says: dynamodb://region/table, a directory, env:NAME, ...; without it, what `cloakroom detect` finds
    #[arg(default_value = "auto", hide_default_value = true)]
    save_path: String,
    /// How many seconds ago a session must have expired
    #[arg(long, value_name = "SECONDS", default_value = "3600")]
    grace: u64,
    /// How many read units and how many write units of DynamoDB to use in a second, at most
    #[arg(long, value_name = "UNITS", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Walks through a table whose TTL is on, too: DynamoDB may take days
    #[arg(long)]
    force: bool,
    /// What session.gc_maxlifetime says, for directories: there a session does not tell when it expires
    #[arg(long, value_name = "SECONDS")]
    lifetime: Option<u64>,
    /// The same as JSON
    #[arg(long)]
    json: bool,
}

/// Between two lines that say how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// A directory of some million files takes its time.
const LONG: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    Ok(collect(arguments).map_err(hint_for("gc")).unwrap_or_else(|error| could_not_look(&error)))
}

fn collect(arguments: &Arguments) -> Result<ExitCode> {
    let environment = Environment::of_process();
    let url = store::url(&arguments.save_path, &environment)?;
    let settings = settings(&environment);
    let mut store = stores::open(&url, settings.clone())?;
    match store.guarantees().sweeping {
        Sweeping::ByEngine => {
            nothing(arguments, &url, "the store removes expired sessions by itself");
            Ok(ExitCode::SUCCESS)
        }
        Sweeping::Needed => sweep(arguments, &url, store.as_mut()),
        Sweeping::IfSetUp => walk(arguments, &url, settings),
    }
}

fn nothing(arguments: &Arguments, url: &StoreUrl, why: &str) {
    match arguments.json {
        true => {
            say!("{:#}", json!({ "store": url.to_string(), "removed": 0, "finished": true, "because": why }))
        }
        false => say!("nothing to do: {why} (store {url})"),
    }
}

fn sweep(arguments: &Arguments, url: &StoreUrl, store: &mut dyn Store) -> Result<ExitCode> {
    let Some(lifetime) = arguments.lifetime else {
        return Err(Error::new(ErrorKind::Config, "files do not tell when a session expires")
            .on(url.to_string())
            .hint("write --lifetime with what session.gc_maxlifetime says (php -i | grep gc_maxlifetime)"));
    };
    let unused = Duration::from_secs(lifetime.saturating_add(arguments.grace));
    let removed = store.sweep(unused, Deadline::after(LONG))?;
    match arguments.json {
        true => say!("{:#}", json!({ "store": url.to_string(), "removed": removed, "finished": true })),
        false => say!(
            "store: {url}\n\nremoved {} that {} not used for {} seconds",
            sessions(removed),
            was(removed),
            unused.as_secs()
        ),
    }
    Ok(ExitCode::SUCCESS)
}

fn walk(arguments: &Arguments, url: &StoreUrl, settings: Settings) -> Result<ExitCode> {
    let options = Options::parse(url).map_err(|error| error.on(url.to_string()))?;
    let attribute = options.expiry_attribute().to_owned();
    let mut table = DynamoDb::new(options, settings);
    let time_for_a_call = Duration::from_secs(30);
    if !arguments.force && table.expires_by_itself(Deadline::after(time_for_a_call))? {
        let why = format!(
            "the table's TTL, by the attribute {attribute}, removes expired sessions within some days; --force does it now"
        );
        nothing(arguments, url, &why);
        return Ok(ExitCode::SUCCESS);
    }
    let ended = end_on_request()?;
    let how = Collecting { grace: Duration::from_secs(arguments.grace), rate: f64::from(arguments.rate) };
    let (mut told, mut last) = (Instant::now(), None);
    let mut go_on = |done: &Collected| {
        last = Some(*done);
        let every = if std::io::stderr().is_terminal() { PROGRESS / 5 } else { PROGRESS };
        if told.elapsed() >= every {
            told = Instant::now();
            tell!("scanned {}, removed {} ...", items(done.scanned), done.removed);
        }
        !ended.load(Ordering::Relaxed)
    };
    let collected = table.collect(&how, &mut go_on, time_for_a_call);
    // Where it fails on its way, what was done until then is done.
    if let Some(done) = collected.as_ref().ok().or(last.as_ref()) {
        report(arguments, url, done);
    }
    if collected?.finished {
        return Ok(ExitCode::SUCCESS);
    }
    tell!("{}ended before the end of the table\nhint: run it again", paint(DOUBTFUL, "notice: "));
    Ok(ExitCode::FAILURE)
}

fn report(arguments: &Arguments, url: &StoreUrl, done: &Collected) {
    if arguments.json {
        let value = json!({
            "store": url.to_string(), "scanned": done.scanned, "removed": done.removed, "locked": done.locked,
            "changed": done.changed, "read_units": done.read_units, "write_units": done.write_units,
            "finished": done.finished,
        });
        say!("{value:#}");
    } else {
        let Collected { scanned, removed, locked, changed, read_units, write_units, .. } = *done;
        say!("store: {url}\n\nscanned {}, removed {} that had expired", items(scanned), sessions(removed));
        if locked + changed > 0 {
            say!("left {locked} that are locked and {changed} that changed meanwhile");
        }
        say!("used {read_units} read units and {write_units} write units");
    }
}

/// Becomes true at the first ^C (or SIGTERM); a second one ends the command at once.
fn end_on_request() -> Result<Arc<AtomicBool>> {
    let cannot = |error| Error::new(ErrorKind::Bug, "cannot wait for signals").source(error);
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block().map_err(cannot)?;
    let ended = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&ended);
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            if asked.swap(true, Ordering::Relaxed) {
                std::process::exit(1);
            }
        }
    });
    Ok(ended)
}

fn items(count: u64) -> String {
    format!("{count} {}", if count == 1 { "item" } else { "items" })
}

fn sessions(count: u64) -> String {
    format!("{count} {}", if count == 1 { "session" } else { "sessions" })
}

fn was(count: u64) -> &'static str {
    if count == 1 { "was" } else { "were" }
}
