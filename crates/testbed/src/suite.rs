//! Named cases that need real engines: ignored where an engine is missing, failed there in CI (but for what a machine may
//! lack for good).

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::need::Need;
use crate::php::built_here;

/// How long a case may take. None should need a tenth of it.
const LIMIT: Duration = Duration::from_secs(300);

/// How many files a suite may have open: each port that a case was given stays open to the end, where many machines
/// allow 1024.
const FILES: u64 = 16 << 10;

/// One case of a suite.
pub struct Case {
    name: String,
    needs: Vec<Need>,
    run: Box<dyn FnOnce() + Send>,
    skipped: Option<String>,
}

/// A case with a name that is a sentence; it fails by panicking.
pub fn case(name: impl Into<String>, needs: &[Need], run: impl FnOnce() + Send + 'static) -> Case {
    Case { name: name.into(), needs: needs.to_vec(), run: Box::new(run), skipped: None }
}

impl Case {
    /// Shows the case as ignored, with the reason in its name: the store's guarantees rule it out.
    #[must_use]
    pub fn skipped(mut self, reason: impl Into<String>) -> Self {
        self.skipped = Some(reason.into());
        self
    }

    fn into_trial(self) -> Trial {
        let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        let absent = |need: &&Need| need.missing().is_some();
        let excused = self.needs.iter().filter(absent).all(|need| need.is_where_it_is());
        let missing: Vec<String> = self.needs.iter().filter_map(|need| need.missing()).collect();
        if let Some(reason) = self.skipped {
            return Trial::test(format!("{} [not offered: {reason}]", self.name), || Ok(()))
                .with_ignored_flag(true);
        }
        if missing.is_empty() {
            let run = self.run;
            return Trial::test(self.name, move || bounded(run));
        }
        let missing = missing.join(", ");
        let failed = format!("{missing} is missing; 'make test' installs it");
        Trial::test(format!("{} [missing: {missing}]", self.name), move || Err(Failed::from(failed)))
            .with_ignored_flag(!ci || excused)
    }
}

/// Runs a case on a thread of its own, so that one that hangs is a failure with a name.
fn bounded(run: Box<dyn FnOnce() + Send>) -> Result<(), Failed> {
    let (finished, end): (Sender<()>, _) = channel();
    let case = std::thread::spawn(move || {
        let _at_the_end = finished;
        run();
    });
    let mut outcome = end.recv_timeout(LIMIT);
    // The first cases may have had to wait for the build of the extension, on a machine that does much else.
    if matches!(outcome, Err(RecvTimeoutError::Timeout)) && built_here() {
        outcome = end.recv_timeout(3 * LIMIT);
    }
    match outcome {
        Err(RecvTimeoutError::Timeout) => Err(Failed::from(format!("still runs after {LIMIT:?}"))),
        _ => case.join().map_err(|panic| {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Failed::from(message.unwrap_or_else(|| "panicked".into()))
        }),
    }
}

/// Runs the cases as `cargo test` would, and ends the process. Twice as many at a time: most of a case is spent waiting, for
/// a lease that ends or a server's clock.
pub fn run(cases: Vec<Case>) -> ! {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < FILES
    {
        // Where it is not allowed, a short suite may have enough all the same.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, FILES.min(hard), hard);
    }
    let trials = cases.into_iter().map(Case::into_trial).collect();
    let mut arguments = Arguments::from_args();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(2 * cores);
    libtest_mimic::run(&arguments, trials).exit()
}
