//! `cloakroom unlock`: takes a session's lock away from who has it.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;

use cloakroom::{Broken, Error, ErrorKind, Lock, LockKind, Peeked, Result, SessionId};

use crate::iam::hint_for;
use crate::output::{BAD, GOOD, could_not_look, paint, say, tell};
use crate::store::{Chosen, it_ends, soon, tell_session_name, waiting};

/// Breaks the lock of a session that nobody gives back
///
/// Asks first. A request that still has the lock cannot write its changes any more; whoever waits goes on. Nothing is done
/// where the lock is not the one any more that was shown. A lock of the files store belongs to the kernel and cannot be
/// broken: the process that has it is named.
///
/// Exit codes: 0 the session is not locked any more, 1 it still is, 2 wrong usage, or the store cannot do it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The session's id, whole
    #[arg(allow_hyphen_values = true)]
    id: String,
    #[command(flatten)]
    store: Chosen,
    /// Does not ask
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    Ok(unlock(arguments).map_err(hint_for("unlock")).unwrap_or_else(|error| could_not_look(&error)))
}

fn unlock(arguments: &Arguments) -> Result<ExitCode> {
    let id = SessionId::parse(arguments.id.as_bytes())?;
    let (url, mut store) = arguments.store.open()?;
    let Peeked { record, lock, .. } = store.peek(&id, soon())?;
    let Some(lock) = lock else {
        say!("session {id} is not locked (store {url})");
        if record.is_none() {
            tell_session_name(&url);
        }
        return Ok(ExitCode::SUCCESS);
    };
    say!("session {id} is locked by {} (store {url})", lock.holder);
    say!("the lock {}; waiting for it: {}", it_ends(&lock), waiting(lock.waiting));
    // Nobody is asked for what cannot be done.
    let breakable = store.guarantees().lock != LockKind::Kernel;
    if breakable && !arguments.yes && !agreed(&lock)? {
        say!("nothing was done");
        return Ok(ExitCode::FAILURE);
    }
    match store.break_lock(&id, &lock, soon())? {
        Broken::Done => {
            say!("{}: the lock of {} is gone", paint(GOOD, "broken"), lock.holder);
            Ok(ExitCode::SUCCESS)
        }
        Broken::Changed => {
            tell!(
                "{}the lock has ended meanwhile, or somebody else has it: nothing was done\n\
                 hint: look again with cloakroom show",
                paint(BAD, "error: ")
            );
            Ok(ExitCode::FAILURE)
        }
    }
}

fn agreed(lock: &Lock) -> Result<bool> {
    let mut answers = std::io::stdin().lock();
    if !answers.is_terminal() {
        return Err(Error::new(ErrorKind::Config, "there is no terminal to ask on")
            .hint("pass --yes to break the lock without being asked"));
    }
    let mut out = anstream::stderr();
    let asked = write!(out, "break the lock of {}? Its changes are lost. [y/N] ", lock.holder);
    let mut answer = String::new();
    asked
        .and_then(|()| out.flush())
        .and_then(|()| answers.read_line(&mut answer))
        .map_err(|error| Error::new(ErrorKind::Config, "cannot ask").source(error))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
