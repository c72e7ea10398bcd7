//! Standing in for a native handler (`cloakroom.drop_in`): its name, its settings, and what they mean here.
//!
//! One row of [`NATIVES`] for each. Where a default of the native handler loses data, ours holds instead; what was set
//! is obeyed. `docs/drop-in-phpredis.md` and `docs/drop-in-php-memcached.md` have the tables.

mod php_memcached;
mod phpredis;

use std::ffi::CStr;
use std::time::Duration;

use cloakroom::{Environment, Error, ErrorKind, Result, SavePath, StoreUrl};

use crate::ini::Config;

/// A handler of another extension.
pub(crate) struct Native {
    /// Its name in `session.save_handler`.
    pub(crate) name: &'static CStr,
    /// The extension that has it, as PHP names it.
    pub(crate) extension: &'static CStr,
    /// The extension's settings for sessions, and what they are where it is not loaded and Cloakroom registers them.
    pub(crate) settings: &'static [(&'static str, &'static str)],
    /// Takes over what these settings say.
    pub(crate) adopt: fn(&mut Config, &dyn Ini) -> Result<()>,
    /// Reads its `session.save_path`.
    pub(crate) parse: fn(&str, &Environment) -> Result<SavePath>,
    /// What to write instead of a URL of another kind of store than the application asked for.
    pub(crate) refuse: fn(&StoreUrl) -> Option<&'static str>,
}

/// Every handler that Cloakroom can stand in for.
pub(crate) static NATIVES: [Native; 3] = [
    Native {
        name: c"redis",
        extension: c"redis",
        settings: phpredis::SETTINGS,
        adopt: phpredis::adopt,
        parse: SavePath::parse_for_phpredis,
        refuse: |url| {
            let others = ["file", "memcached", "memcacheds"];
            others.contains(&url.scheme.as_str()).then_some("write tcp://host:port")
        },
    },
    Native {
        name: c"rediscluster",
        extension: c"redis",
        settings: phpredis::SETTINGS,
        adopt: phpredis::adopt,
        parse: SavePath::parse,
        refuse: |url| {
            (!url.scheme.ends_with("+cluster")).then_some("write seed[]=host:port&seed[]=host:port")
        },
    },
    Native {
        name: c"memcached",
        extension: c"memcached",
        settings: php_memcached::SETTINGS,
        adopt: php_memcached::adopt,
        parse: SavePath::parse_for_php_memcached,
        refuse: |url| {
            let own = ["memcached", "memcacheds"];
            (!own.contains(&url.scheme.as_str())).then_some("write host:port,host:port")
        },
    },
];

impl Native {
    /// Its name in `session.save_handler`.
    pub(crate) fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or_default()
    }
}

/// The handlers that `cloakroom.drop_in` names.
///
/// # Errors
/// [`ErrorKind::Config`] for a name that is none of [`NATIVES`], beside those that are.
pub(crate) fn named(list: &str) -> (Vec<usize>, Option<Error>) {
    let mut error = None;
    let mut found = Vec::new();
    for name in list.split([',', ' ']).map(str::trim).filter(|name| !name.is_empty()) {
        match NATIVES.iter().position(|native| native.name().eq_ignore_ascii_case(name)) {
            Some(index) if found.contains(&index) => {}
            Some(index) => found.push(index),
            None => {
                let known: Vec<&str> = NATIVES.iter().map(Native::name).collect();
                let what = format!("cloakroom.drop_in names \"{name}\", which Cloakroom cannot stand in for");
                let hint = format!("it takes {}", known.join(", "));
                error.get_or_insert(Error::new(ErrorKind::Config, what).hint(hint));
            }
        }
    }
    (found, error)
}

/// What is set, by PHP's rules.
pub(crate) trait Ini {
    /// The setting as text; empty where there is none.
    fn text(&self, name: &str) -> String;
    /// The setting as a whole number, as PHP reads one: 0 where there is none.
    fn number(&self, name: &str) -> i64;
    /// The setting as a switch, as PHP reads one.
    fn switch(&self, name: &str) -> bool {
        let text = self.text(name);
        ["true", "yes", "on"].iter().any(|on| text.eq_ignore_ascii_case(on)) || whole_number(&text) != 0
    }
    /// Whether somebody set it, as far as PHP lets that be seen; `default` is what the extension registers.
    fn is_given(&self, name: &str, default: &str) -> bool;
    /// The first number of the extension's version, if it is loaded.
    fn version(&self) -> Option<u32>;
}

/// The number that a text begins with, as PHP reads one: `1 # a comment that is none` is 1.
pub(crate) fn whole_number(text: &str) -> i64 {
    let text = text.trim_start();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let end = text.len() - digits.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
    match text[..end].parse() {
        Ok(number) => number,
        // Only one that is too long for it has digits.
        Err(_) if digits.starts_with(|digit: char| digit.is_ascii_digit()) => {
            if text.starts_with('-') {
                i64::MIN
            } else {
                i64::MAX
            }
        }
        Err(_) => 0,
    }
}

/// How long a request waits that may wait to its end, where it has none, and the longest of all times.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// PHP ends a request after `max_execution_time`, which does not count the time that it waits.
fn end_of_request(ini: &dyn Ini) -> Duration {
    match u64::try_from(ini.number("max_execution_time")) {
        Ok(seconds @ 1..) => Duration::from_secs(seconds),
        _ => FOR_EVER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_known_is_refused_beside_those_that_are() {
        let (found, error) = named("redis, memcache,RedisCluster,redis,Memcached");
        assert_eq!(found, [0, 1, 2]);
        assert_eq!(
            error.unwrap().to_string(),
            "cloakroom.drop_in names \"memcache\", which Cloakroom cannot stand in for\nhint: it takes redis, rediscluster, memcached"
        );
        assert!(matches!(named("").0[..], []));
    }

    #[test]
    fn numbers_are_read_as_php_reads_them() {
        for (text, number) in [
            ("5", 5),
            (" -7 ", -7),
            ("+3", 3),
            ("1 # x", 1),
            ("100k", 100),
            ("", 0),
            ("-", 0),
            ("on", 0),
            ("not set", 0),
            ("99999999999999999999", i64::MAX),
        ] {
            assert_eq!(whole_number(text), number, "{text}");
        }
    }
}
