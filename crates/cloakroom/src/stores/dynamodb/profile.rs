//! What AWS's files say of a profile that gives no credentials, for the error: most often its name is misspelt, or the files are
//! another user's.

use std::path::PathBuf;

use super::options::Options;
use crate::Environment;

/// A profile that is named on purpose.
#[derive(Debug)]
pub(super) struct Profile<'a> {
    pub(super) name: &'a str,
    /// What names it: `profile=`.
    pub(super) by: &'static str,
    files: [PathBuf; 2],
}

impl<'a> Profile<'a> {
    /// The one that the URL names, or the environment.
    pub(super) fn named(options: &'a Options, environment: &'a Environment) -> Option<Self> {
        let (name, by) = match &options.profile {
            Some(name) => (name.as_str(), "profile="),
            None => (environment.var("AWS_PROFILE")?, "AWS_PROFILE"),
        };
        let home = environment.var("HOME").unwrap_or("~");
        let file = |variable: &str, usual: &str| match environment.var(variable) {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(format!("{home}/.aws/{usual}")),
        };
        let files = [file("AWS_CONFIG_FILE", "config"), file("AWS_SHARED_CREDENTIALS_FILE", "credentials")];
        Some(Profile { name, by, files })
    }

    /// Whether one of the files has it.
    pub(super) fn is_written(&self) -> bool {
        let texts = self.files.iter().filter_map(|path| std::fs::read_to_string(path).ok());
        texts.into_iter().any(|text| text.lines().filter_map(section).any(|name| name == self.name))
    }

    /// The files, and which of them cannot be read.
    pub(super) fn looked_in(&self) -> String {
        let shown = |path: &PathBuf| match std::fs::File::open(path) {
            Ok(_) => path.display().to_string(),
            Err(error) => format!("{} ({error})", path.display()),
        };
        self.files.each_ref().map(shown).join(" and ")
    }
}

/// The profile that begins with a line: `[profile shop]` in one file is `[shop]` in the other.
fn section(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix('[')?.split_once(']')?.0.trim();
    Some(name.strip_prefix("profile ").map_or(name, str::trim_start))
}
