//! The settings of php.ini: their names, defaults and meaning in one table, and their values for a request.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use cloakroom::envelope::Compression;
use cloakroom::{Error, ErrorKind, Result, Secret, Settings};

use crate::drop_in;

/// One setting of php.ini.
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) default: &'static str,
    pub(crate) scope: Scope,
    /// Refuses a value that [`Config::read`] would refuse, so that `ini_set()` says so at once.
    pub(crate) check: fn(&'static str, &str) -> Result<()>,
}

/// Where a setting can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Anywhere, `ini_set()` included: it is read when a session is opened.
    Anywhere,
    /// In php.ini or on the command line: it is read when PHP starts.
    Start,
}

/// Every setting but `session.*`, which are PHP's own.
pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        name: "cloakroom.lock",
        default: "on",
        scope: Scope::Anywhere,
        check: |name, text| switch(name, text).map(drop),
    },
    Setting {
        name: "cloakroom.lock_wait",
        default: "10",
        scope: Scope::Anywhere,
        check: |name, text| seconds(name, text).map(drop),
    },
    Setting {
        name: "cloakroom.on_lock_timeout",
        default: "fail",
        scope: Scope::Anywhere,
        check: |name, text| {
            text.parse::<OnLockTimeout>().map(drop).map_err(|expected| refused(name, text, expected))
        },
    },
    Setting {
        name: "cloakroom.max_waiters",
        default: "16",
        scope: Scope::Anywhere,
        check: |name, text| count(name, text).map(drop),
    },
    Setting {
        name: "cloakroom.lease",
        default: "15",
        scope: Scope::Anywhere,
        check: |name, text| positive(name, text).map(drop),
    },
    Setting {
        name: "cloakroom.lease_max",
        default: "300",
        scope: Scope::Anywhere,
        check: |name, text| positive(name, text).map(drop),
    },
    Setting {
        name: "cloakroom.connect_timeout",
        default: "1",
        scope: Scope::Anywhere,
        check: |name, text| positive(name, text).map(drop),
    },
    Setting {
        name: "cloakroom.timeout",
        default: "2.5",
        scope: Scope::Anywhere,
        check: |name, text| positive(name, text).map(drop),
    },
    Setting {
        name: "cloakroom.on_write_failure",
        default: "warning",
        scope: Scope::Anywhere,
        check: |name, text| {
            text.parse::<OnWriteFailure>().map(drop).map_err(|expected| refused(name, text, expected))
        },
    },
    Setting {
        name: "cloakroom.drop_in",
        default: "",
        scope: Scope::Start,
        check: |_, list| match drop_in::named(list).1 {
            Some(error) => Err(error),
            None => Ok(()),
        },
    },
    Setting {
        name: "cloakroom.detect",
        default: "on",
        scope: Scope::Anywhere,
        check: |name, text| switch(name, text).map(drop),
    },
];

/// What a request does when the lock is not obtained in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnLockTimeout {
    Fail,
    ReadOnly,
    /// Read-only for GET and HEAD, fail for the rest.
    Auto,
}

impl FromStr for OnLockTimeout {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "fail" => Ok(OnLockTimeout::Fail),
            "readonly" => Ok(OnLockTimeout::ReadOnly),
            "auto" => Ok(OnLockTimeout::Auto),
            _ => Err("fail, readonly or auto"),
        }
    }
}

/// How a refused write is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnWriteFailure {
    Warning,
    Exception,
}

impl FromStr for OnWriteFailure {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "warning" => Ok(OnWriteFailure::Warning),
            "exception" => Ok(OnWriteFailure::Exception),
            _ => Err("warning or exception"),
        }
    }
}

/// The settings as they are when a session is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) lock: bool,
    pub(crate) lock_wait: Duration,
    pub(crate) on_lock_timeout: OnLockTimeout,
    pub(crate) on_write_failure: OnWriteFailure,
    pub(crate) detect: bool,
    /// A native handler's; ours has none of its own.
    pub(crate) compression: Compression,
    /// Settings of a native handler that decide instead of ours: theirs, ours.
    pub(crate) deciding: Vec<(&'static str, &'static str)>,
    /// What settings of a native handler say of the store, beside its URL.
    pub(crate) options: Vec<StoreOption>,
    pub(crate) store: Settings,
}

/// An option of the store's URL, by a setting of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreOption {
    pub(crate) name: &'static str,
    pub(crate) value: Secret,
    pub(crate) setting: &'static str,
}

impl Config {
    /// Reads every setting through `value`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting, its value and what it takes.
    pub(crate) fn read(value: impl Fn(&str) -> String) -> Result<Self> {
        let lease = positive("cloakroom.lease", &value("cloakroom.lease"))?;
        let lease_max = positive("cloakroom.lease_max", &value("cloakroom.lease_max"))?;
        if lease_max < lease {
            return Err(Error::new(ErrorKind::Config, "cloakroom.lease_max is shorter than cloakroom.lease")
                .hint("a lock is renewed up to cloakroom.lease_max: set it to the longest request"));
        }
        Ok(Config {
            lock: switch("cloakroom.lock", &value("cloakroom.lock"))?,
            lock_wait: seconds("cloakroom.lock_wait", &value("cloakroom.lock_wait"))?,
            on_lock_timeout: word("cloakroom.on_lock_timeout", &value("cloakroom.on_lock_timeout"))?,
            on_write_failure: word("cloakroom.on_write_failure", &value("cloakroom.on_write_failure"))?,
            detect: switch("cloakroom.detect", &value("cloakroom.detect"))?,
            compression: Compression::None,
            deciding: Vec::new(),
            options: Vec::new(),
            store: Settings {
                lease,
                lease_max,
                connect_timeout: positive("cloakroom.connect_timeout", &value("cloakroom.connect_timeout"))?,
                timeout: positive("cloakroom.timeout", &value("cloakroom.timeout"))?,
                max_waiters: count("cloakroom.max_waiters", &value("cloakroom.max_waiters"))?,
                // PHP's own setting, which whoever reads these adds.
                ..Settings::default()
            },
        })
    }
}

/// `session.gc_maxlifetime` as PHP passes it; zero and less mean PHP's default, as phpredis has it.
pub(crate) fn time_to_live(seconds: i64) -> Duration {
    match u64::try_from(seconds) {
        Ok(seconds @ 1..) => Duration::from_secs(seconds),
        _ => Duration::from_secs(1440),
    }
}

fn refused(name: &str, text: &str, expected: &str) -> Error {
    Error::new(ErrorKind::Config, format!("{name} is \"{text}\"")).hint(format!("it takes {expected}"))
}

fn word<T: FromStr<Err = &'static str>>(name: &str, text: &str) -> Result<T> {
    text.parse().map_err(|expected| refused(name, text, expected))
}

/// php.ini turns `on` into `1` and `off` into nothing; `ini_set()` does not.
fn switch(name: &str, text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Ok(true),
        "" | "0" | "off" | "no" | "false" => Ok(false),
        _ => Err(refused(name, text, "on or off")),
    }
}

fn seconds(name: &str, text: &str) -> Result<Duration> {
    let parsed = text.trim().parse::<f64>().ok();
    match parsed.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(duration) if duration <= Duration::from_secs(86_400) => Ok(duration),
        _ => Err(refused(name, text, "a number of seconds from 0 to 86400")),
    }
}

fn positive(name: &str, text: &str) -> Result<Duration> {
    match seconds(name, text) {
        Ok(duration) if duration >= Duration::from_millis(1) => Ok(duration),
        _ => Err(refused(name, text, "a number of seconds from 0.001 to 86400")),
    }
}

fn count(name: &str, text: &str) -> Result<Option<NonZeroU32>> {
    match text.trim().parse() {
        Ok(number) => Ok(NonZeroU32::new(number)),
        Err(_) => Err(refused(name, text, "a whole number; 0 for any number of waiters")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Result<Config> {
        Config::read(|asked| match SETTINGS.iter().find(|setting| setting.name == asked) {
            _ if asked == name => value.to_owned(),
            Some(setting) => setting.default.to_owned(),
            None => panic!("{asked} is not one of ours"),
        })
    }

    #[test]
    fn the_defaults_are_those_of_the_library_and_the_documents() {
        let config = with("", "").unwrap();
        assert_eq!(config.store, Settings::default());
        assert!(config.lock && config.detect);
        assert_eq!(config.lock_wait, Duration::from_secs(10));
        assert_eq!(config.on_lock_timeout, OnLockTimeout::Fail);
        assert_eq!(config.on_write_failure, OnWriteFailure::Warning);
    }

    #[test]
    fn php_writes_on_and_off_in_many_ways() {
        for text in ["1", "on", "On", "yes", "true"] {
            assert!(with("cloakroom.lock", text).unwrap().lock, "{text}");
        }
        for text in ["", "0", "off", "No", "false"] {
            assert!(!with("cloakroom.lock", text).unwrap().lock, "{text}");
        }
    }

    #[test]
    fn a_bad_value_is_refused_with_its_name_and_what_it_takes() {
        for (name, value, expected) in [
            ("cloakroom.lock", "maybe", "on or off"),
            ("cloakroom.lock_wait", "ten", "a number of seconds from 0 to 86400"),
            ("cloakroom.lock_wait", "-1", "a number of seconds from 0 to 86400"),
            ("cloakroom.on_lock_timeout", "wait", "fail, readonly or auto"),
            ("cloakroom.max_waiters", "-3", "a whole number; 0 for any number of waiters"),
            ("cloakroom.lease", "0", "a number of seconds from 0.001 to 86400"),
            ("cloakroom.timeout", "NaN", "a number of seconds from 0.001 to 86400"),
            ("cloakroom.on_write_failure", "die", "warning or exception"),
        ] {
            let error = with(name, value).unwrap_err();
            assert_eq!(error.to_string(), format!("{name} is \"{value}\"\nhint: it takes {expected}"));
            let setting = SETTINGS.iter().find(|setting| setting.name == name).unwrap();
            assert_eq!((setting.check)(setting.name, value).unwrap_err().to_string(), error.to_string());
        }
        let error = with("cloakroom.lease_max", "5").unwrap_err().to_string();
        assert!(error.starts_with("cloakroom.lease_max is shorter than cloakroom.lease"), "{error}");
    }

    #[test]
    fn a_lifetime_of_zero_or_less_means_phps_default() {
        assert_eq!(time_to_live(0), Duration::from_secs(1440));
        assert_eq!(time_to_live(-5), Duration::from_secs(1440));
        assert_eq!(time_to_live(60), Duration::from_secs(60));
    }

    #[test]
    fn the_readme_lists_every_setting_with_its_default() {
        let readme =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
        let documented: Vec<(&str, &str)> = readme
            .lines()
            .filter_map(|line| {
                let (name, rest) = line.strip_prefix("| `cloakroom.")?.split_once("` | ")?;
                let default = rest.split(" |").next()?.trim_matches('`');
                Some((name, if default == "empty" { "" } else { default }))
            })
            .collect();
        let settings: Vec<(&str, &str)> = SETTINGS
            .iter()
            .map(|setting| (setting.name.strip_prefix("cloakroom.").unwrap(), setting.default))
            .collect();
        assert_eq!(documented, settings);
    }
}
