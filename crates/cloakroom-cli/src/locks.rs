//! `cloakroom locks`: who has which session's lock.

use std::process::ExitCode;

use cloakroom::{Ends, Lock, LockKind, Result, SessionId};
use serde_json::{Value, json};

use crate::iam::hint_for;
use crate::output::{DOUBTFUL, PLAIN, Row, could_not_look, say, table};
use crate::store::{Chosen, ends, lock_json, patiently, tell_session_name, waiting};

/// Lists the sessions that are locked: by whom, until when, and how many wait
///
/// Locks of Cloakroom and of native handlers alike. How long a lock has been held no store tells. Locks of files are those that
/// this host, or this container, has. Listing walks through all keys of the store, a few hundred at a time.
///
/// A lock that ends "never by itself" is left behind for good when its request dies: phpredis on the command line and
/// php-memcached with memcached.sess_lock_expire=0 make such locks. `cloakroom unlock` breaks them.
///
/// Exit codes: 0 fine, 2 wrong usage, or the store cannot tell.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    store: Chosen,
    /// Shows session ids whole: whoever has one is logged in as its user
    #[arg(long)]
    reveal: bool,
    /// The same as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match list(arguments).map_err(hint_for("locks")) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Ok(could_not_look(&error)),
    }
}

fn list(arguments: &Arguments) -> Result<()> {
    let (url, mut store) = arguments.store.open()?;
    let mut locks: Vec<(SessionId, Lock)> = Vec::new();
    let mut each = |id, lock| {
        locks.push((id, lock));
        true
    };
    store.locks(&mut each, patiently())?;
    locks.sort_by(|(one, _), (other, _)| one.cmp(other));
    let shown = |id: &SessionId| if arguments.reveal { id.as_str().to_owned() } else { id.to_string() };
    if arguments.json {
        let locks: Vec<Value> = locks
            .iter()
            .map(|(id, lock)| {
                let mut value = lock_json(lock);
                value["session"] = shown(id).into();
                value
            })
            .collect();
        say!("{:#}", json!({ "store": url.to_string(), "locks": locks }));
        return Ok(());
    }
    say!("store: {url}\n");
    if locks.is_empty() {
        say!("no session is locked");
        tell_session_name(&url);
    } else {
        let rows: Vec<Row> = locks
            .iter()
            .map(|(id, lock)| Row {
                style: if lock.ends == Ends::Never { DOUBTFUL } else { PLAIN },
                cells: vec![shown(id), lock.holder.to_string(), ends(lock), waiting(lock.waiting)],
            })
            .collect();
        say!("{}", table(&["session", "locked by", "ends", "waiting"], &rows));
    }
    if store.guarantees().lock == LockKind::Kernel {
        say!("\nnote: locks of other hosts and containers are not shown");
    }
    Ok(())
}
