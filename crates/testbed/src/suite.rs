//! Named cases that need real engines: ignored where an engine is missing, failed there in CI.

use libtest_mimic::{Arguments, Failed, Trial};

use crate::need::Need;

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
        let missing: Vec<String> = self.needs.iter().filter_map(|need| need.missing()).collect();
        if let Some(reason) = self.skipped {
            return Trial::test(format!("{} [not offered: {reason}]", self.name), || Ok(()))
                .with_ignored_flag(true);
        }
        if missing.is_empty() {
            let run = self.run;
            return Trial::test(self.name, move || {
                run();
                Ok(())
            });
        }
        let missing = missing.join(", ");
        let failed = format!("{missing} is missing; 'make test' installs it");
        Trial::test(format!("{} [missing: {missing}]", self.name), move || Err(Failed::from(failed)))
            .with_ignored_flag(!ci)
    }
}

/// Runs the cases as `cargo test` would, and ends the process.
pub fn run(cases: Vec<Case>) -> ! {
    let trials = cases.into_iter().map(Case::into_trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}
