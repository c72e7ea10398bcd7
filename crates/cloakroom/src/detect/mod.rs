//! The store that the environment names, and why.

use crate::{Environment, Result, SavePath, StoreUrl};

/// Where distributions compile PHP to keep its sessions: nobody chose such a directory, so that it counts as unset.
pub const DISTRIBUTION_DIRECTORIES: &[&str] =
    &["/var/lib/php/sessions", "/var/lib/php/session", "/var/lib/php5"];

/// The store that was found, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// The store.
    pub url: StoreUrl,
    /// What named it, for people: a variable, or the absence of one.
    pub because: String,
}

/// Looks for a store in `environment`: `SESSION_STORE_URL`, or else sessions stay in `directory`, as PHP's own
/// `files` handler keeps them.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) when the variable does not name a store.
pub fn detect(environment: &Environment, directory: &str) -> Result<Detected> {
    let in_directory = |because: &str| {
        let server = crate::save_path::Server { path: directory.to_owned(), ..Default::default() };
        Detected {
            url: StoreUrl { scheme: "file".into(), servers: vec![server] },
            because: because.to_owned(),
        }
    };
    match environment.var("SESSION_STORE_URL") {
        Some("off" | "files") => Ok(in_directory("SESSION_STORE_URL says files")),
        Some(value) => match SavePath::parse(value, environment)? {
            SavePath::Store(url) => Ok(Detected { url, because: "SESSION_STORE_URL".into() }),
            SavePath::Detect => Ok(in_directory("the environment names no store")),
        },
        None => Ok(in_directory("the environment names no store")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> (String, String) {
        let detected = detect(&Environment::from_iter(variables.iter().copied()), "/tmp").unwrap();
        (detected.url.to_string(), detected.because)
    }

    #[test]
    fn the_named_store_wins_and_files_are_the_rest() {
        let pair = |url: &str, because: &str| (url.to_owned(), because.to_owned());
        assert_eq!(found(&[]), pair("/tmp", "the environment names no store"));
        assert_eq!(found(&[("SESSION_STORE_URL", "")]), pair("/tmp", "the environment names no store"));
        assert_eq!(found(&[("SESSION_STORE_URL", "files")]), pair("/tmp", "SESSION_STORE_URL says files"));
        assert_eq!(
            found(&[("SESSION_STORE_URL", "redis://:s3cr3t@h")]),
            pair("redis://:***@h", "SESSION_STORE_URL")
        );
    }
}
