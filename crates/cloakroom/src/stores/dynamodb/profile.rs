//! What AWS's files say of a profile that gives no credentials, for the error: most often its name is misspelt, or the files are
//! another user's.

use std::path::{Path, PathBuf};

use super::options::Options;
use crate::Environment;

/// A profile that is named on purpose.
#[derive(Debug)]
pub(super) struct Profile<'a> {
    pub(super) name: &'a str,
    /// What names it: `profile=`.
    pub(super) by: &'static str,
    config: PathBuf,
    credentials: PathBuf,
}

impl<'a> Profile<'a> {
    /// The one that the URL names, or the environment.
    pub(super) fn named(options: &'a Options, environment: &'a Environment) -> Option<Self> {
        let (name, by) = match &options.profile {
            Some(name) => (name.as_str(), "profile="),
            None => (environment.var("AWS_PROFILE")?, "AWS_PROFILE"),
        };
        let file = |variable: &str, usual: &'static str| {
            let path = Path::new(environment.var(variable).unwrap_or(usual));
            match (path.strip_prefix("~"), environment.var("HOME")) {
                (Ok(below), Some(home)) => Path::new(home).join(below),
                _ => path.to_owned(),
            }
        };
        let config = file("AWS_CONFIG_FILE", "~/.aws/config");
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials");
        Some(Profile { name, by, config, credentials })
    }

    /// Whether one of the files has it, as AWS's client reads them.
    pub(super) fn is_written(&self) -> bool {
        let has = |path: &Path, profile: fn(&str) -> Option<&str>| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.lines().filter_map(section).filter_map(profile).any(|name| name == self.name)
        };
        has(&self.config, in_config) || has(&self.credentials, in_credentials)
    }

    /// How it is written in each of the files, and which of them cannot be read.
    pub(super) fn places(&self) -> String {
        let shown = |path: &Path| match std::fs::File::open(path) {
            Ok(_) => path.display().to_string(),
            Err(error) => format!("{} ({error})", path.display()),
        };
        let (name, config, credentials) = (self.name, shown(&self.config), shown(&self.credentials));
        format!("[profile {name}] in {config}, or [{name}] in {credentials}")
    }
}

/// What stands in brackets at a line's beginning.
fn section(line: &str) -> Option<&str> {
    Some(line.strip_prefix('[')?.split_once(']')?.0.trim())
}

/// `profile shop`; of those without that word there is one alone.
fn in_config(section: &str) -> Option<&str> {
    match section.split_once([' ', '\t']) {
        Some(("profile", name)) => Some(name.trim()),
        Some(_) => None,
        None => Some(section).filter(|name| *name == "default"),
    }
}

/// `shop`; where more than that is written, it is not for this file.
fn in_credentials(section: &str) -> Option<&str> {
    Some(section).filter(|name| !name.contains([' ', '\t']))
}
