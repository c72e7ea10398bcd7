//! The list of stores: which scheme is answered by which.

use crate::{Error, ErrorKind, Result, Settings, Store, StoreUrl};

#[cfg(feature = "net")]
mod clock;
#[cfg(feature = "dynamodb")]
pub mod dynamodb;
#[cfg(feature = "files")]
pub mod files;
#[cfg(feature = "memcached")]
pub mod memcached;
#[cfg(feature = "net")]
mod native;
#[cfg(feature = "net")]
mod options;
#[cfg(feature = "net")]
mod pause;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "net")]
mod token;

#[cfg(feature = "net")]
pub use native::NativeSettings;
#[cfg(feature = "net")]
pub use options::Named;
#[cfg(feature = "net")]
pub(crate) use token::MARK;

type Constructor = fn(&StoreUrl, Settings) -> Result<Box<dyn Store>>;

const STORES: &[(&[&str], Constructor)] = &[
    #[cfg(feature = "files")]
    (&["file"], |url, settings| Ok(Box::new(files::Files::new(files::Options::parse(url)?, settings)))),
    #[cfg(feature = "redis")]
    (
        &[
            "tcp",
            "tls",
            "ssl",
            "unix",
            "redis",
            "rediss",
            "valkey",
            "valkeys",
            "redis+unix",
            "valkey+unix",
            "redis+sentinel",
            "rediss+sentinel",
            "valkey+sentinel",
            "valkeys+sentinel",
            "redis+cluster",
            "rediss+cluster",
            "valkey+cluster",
            "valkeys+cluster",
        ],
        |url, settings| Ok(Box::new(redis::Redis::new(redis::Options::parse(url)?, settings))),
    ),
    #[cfg(feature = "memcached")]
    (&["memcached", "memcacheds"], |url, settings| {
        Ok(Box::new(memcached::Memcached::new(memcached::Options::parse(url)?, settings)))
    }),
    #[cfg(feature = "dynamodb")]
    (&["dynamodb"], |url, settings| {
        Ok(Box::new(dynamodb::DynamoDb::new(dynamodb::Options::parse(url)?, settings)))
    }),
];

/// Makes the store that `url` names. Nothing is opened or connected before its first use.
///
/// # Errors
/// [`ErrorKind::Config`] for an option that the store does not have, [`ErrorKind::Unsupported`] for a scheme that
/// this build does not have.
pub fn open(url: &StoreUrl, settings: Settings) -> Result<Box<dyn Store>> {
    match STORES.iter().find(|(schemes, _)| schemes.contains(&url.scheme.as_str())) {
        Some((_, constructor)) => constructor(url, settings).map_err(|error| error.on(url.to_string())),
        None => {
            let known: Vec<&str> = STORES.iter().flat_map(|(schemes, _)| *schemes).copied().collect();
            Err(Error::new(
                ErrorKind::Unsupported,
                format!("session.save_path: this build has no store for {}://", url.scheme),
            )
            .hint(format!("the schemes of this build are {}", known.join(", "))))
        }
    }
}
