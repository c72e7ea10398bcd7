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
mod refused;
#[cfg(feature = "net")]
mod token;

#[cfg(feature = "net")]
pub use native::NativeSettings;
#[cfg(feature = "net")]
pub use options::Named;
#[cfg(feature = "net")]
pub(crate) use token::MARK;

type Constructor = fn(&StoreUrl, Settings) -> Result<Box<dyn Store>>;

/// Schemes, the feature that answers them, and how, where this build has it.
struct Entry {
    schemes: &'static [&'static str],
    feature: &'static str,
    constructor: Option<Constructor>,
}

const STORES: &[Entry] = &[
    Entry {
        schemes: &["file"],
        feature: "files",
        #[cfg(feature = "files")]
        constructor: Some(|url, settings| {
            Ok(Box::new(files::Files::new(files::Options::parse(url)?, settings)))
        }),
        #[cfg(not(feature = "files"))]
        constructor: None,
    },
    Entry {
        schemes: &[
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
        feature: "redis",
        #[cfg(feature = "redis")]
        constructor: Some(|url, settings| {
            Ok(Box::new(redis::Redis::new(redis::Options::parse(url)?, settings)))
        }),
        #[cfg(not(feature = "redis"))]
        constructor: None,
    },
    Entry {
        schemes: &["memcached", "memcacheds"],
        feature: "memcached",
        #[cfg(feature = "memcached")]
        constructor: Some(|url, settings| {
            Ok(Box::new(memcached::Memcached::new(memcached::Options::parse(url)?, settings)))
        }),
        #[cfg(not(feature = "memcached"))]
        constructor: None,
    },
    Entry {
        schemes: &["dynamodb"],
        feature: "dynamodb",
        #[cfg(feature = "dynamodb")]
        constructor: Some(|url, settings| {
            Ok(Box::new(dynamodb::DynamoDb::new(dynamodb::Options::parse(url)?, settings)))
        }),
        #[cfg(not(feature = "dynamodb"))]
        constructor: None,
    },
];

/// Makes the store that `url` names. Nothing is opened or connected before its first use.
///
/// # Errors
/// [`ErrorKind::Config`] for an option that the store does not have, [`ErrorKind::Unsupported`] for a scheme that
/// this build does not have.
pub fn open(url: &StoreUrl, settings: Settings) -> Result<Box<dyn Store>> {
    let entry = STORES.iter().find(|entry| entry.schemes.contains(&url.scheme.as_str()));
    if let Some(constructor) = entry.and_then(|entry| entry.constructor) {
        return constructor(url, settings).map_err(|error| error.on(url.to_string()));
    }
    let hint = match entry {
        Some(Entry { feature, .. }) => {
            format!("it was built without the feature {feature}: build it with --features {feature}")
        }
        None => {
            let built = STORES.iter().filter(|entry| entry.constructor.is_some());
            let known: Vec<&str> = built.flat_map(|entry| entry.schemes).copied().collect();
            format!("the schemes of this build are {}", known.join(", "))
        }
    };
    let what = format!("session.save_path: this build has no store for {}://", url.scheme);
    Err(Error::new(ErrorKind::Unsupported, what).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Environment, SavePath};

    /// `make lint` runs it in a build that has nothing but `files`, too.
    #[test]
    fn a_store_that_was_left_out_says_so() {
        for (save_path, feature, built) in [
            ("/var/lib/sessions", "files", cfg!(feature = "files")),
            ("redis://h", "redis", cfg!(feature = "redis")),
            ("memcached://h", "memcached", cfg!(feature = "memcached")),
            ("dynamodb://eu-west-1/sessions", "dynamodb", cfg!(feature = "dynamodb")),
        ] {
            let SavePath::Store(url) = SavePath::parse(save_path, &Environment::default()).unwrap() else {
                panic!("{save_path} names no store");
            };
            let said = open(&url, Settings::default()).map(drop).map_err(|error| error.to_string());
            let missing = format!(
                "session.save_path: this build has no store for {}://\nhint: it was built without the feature \
                 {feature}: build it with --features {feature}",
                url.scheme
            );
            assert_eq!(said, if built { Ok(()) } else { Err(missing) });
        }
    }
}
