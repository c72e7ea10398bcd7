//! The store that the environment names, and why.
//!
//! [`survey`] looks at the places of [`SOURCES`], in their order, and says of every store that it saw why it was chosen or
//! passed over; [`detect`] gives the choice alone. Both read the environment, and the files that variables of it name, and
//! nothing else: no name is resolved, no server is asked.
//!
//! - A variable that is empty, `null`, `(null)` or an unexpanded `${...}` counts as unset. `NAME_FILE` names a file with the
//!   value of `NAME`; both at once is an error.
//! - The first rank that names a store decides. Where two of one rank name different stores, that is an error which names the
//!   variables, never a guess. The same store named twice is one candidate.
//! - What cannot be understood (JSON, base64, a URL, a port) is an error which names the variable, unless a higher rank
//!   decides.
//! - Databases, AWS credentials, REST URLs, public URLs (`*_PUBLIC_URL`) and the links that container platforms set for
//!   every service (`REDIS_PORT=tcp://...`, `REDIS_SERVICE_HOST`) are never taken: see [`Standing::PassedOver`].
//! - Where nothing names a store, sessions stay in files; a notice says so on a platform that runs several servers.
//!
//! # Examples
//! ```
//! use cloakroom::{Environment, detect};
//!
//! let environment = Environment::from_iter([
//!     ("REDIS_URL", "redis://:s3cr3t@10.0.0.7:6379"),
//!     ("MEMCACHED_HOST", "10.0.0.8"),
//! ]);
//! let found = detect::detect(&environment, "/tmp")?;
//! assert_eq!(found.url.to_string(), "redis://:***@10.0.0.7:6379");
//! assert_eq!(found.because, "REDIS_URL");
//!
//! for candidate in detect::survey(&environment).candidates {
//!     println!("{}: {:?}", candidate.from.join(", "), candidate.standing);
//! }
//! # Ok::<(), cloakroom::Error>(())
//! ```

mod azure;
mod bindings;
mod cloud_foundry;
mod memcached;
mod parts;
mod platform_sh;
mod platforms;
mod precedence;
mod seen;
mod store_url;
mod survey;
mod target;
mod urls;

pub use precedence::{SOURCES, Source};
pub use survey::{Candidate, Choice, Standing, Survey, survey};

use crate::{Environment, Result, StoreUrl};

/// Where distributions compile PHP to keep its sessions: nobody chose such a directory, so that it counts as unset.
pub const DISTRIBUTION_DIRECTORIES: &[&str] =
    &["/var/lib/php/sessions", "/var/lib/php/session", "/var/lib/php5"];

/// The store that was found, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// The store.
    pub url: StoreUrl,
    /// What named it, for people: variables, or the absence of one.
    pub because: String,
    /// The variables that named it.
    pub from: Vec<String>,
    /// What whoever runs the application should know, with what to change.
    pub notices: Vec<String>,
}

/// Looks for a store in `environment`; where it names none, sessions stay in `directory`, as PHP's own `files` handler
/// keeps them.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config), naming variables and never their values: several stores that are equally
/// meant, or a value that cannot be understood.
pub fn detect(environment: &Environment, directory: &str) -> Result<Detected> {
    let Survey { candidates, notices, choice, .. } = survey(environment);
    match choice? {
        Choice::Files { because, from } => {
            Ok(Detected { url: StoreUrl::directory(directory), because, from, notices })
        }
        Choice::Store { url, because } => {
            let chosen = candidates.into_iter().find(|candidate| candidate.standing == Standing::Chosen);
            let from = chosen.map(|candidate| candidate.from).unwrap_or_default();
            Ok(Detected { url, because, from, notices })
        }
    }
}

#[cfg(test)]
mod tests;
