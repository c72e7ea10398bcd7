//! Standing in for a native handler (`cloakroom.drop_in`): its name, its settings, and what they mean here.
//!
//! One row of [`NATIVES`] for each. Where a default of the native handler loses data, ours holds instead; what was set
//! is obeyed. `docs/drop-in-phpredis.md` has the table for phpredis.

use std::ffi::CStr;
use std::time::Duration;

use cloakroom::envelope::Compression;
use cloakroom::{Environment, Error, ErrorKind, Refresh, Result, SavePath, StoreUrl};

use crate::ini::{Config, OnLockTimeout};

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
pub(crate) static NATIVES: [Native; 2] = [
    Native {
        name: c"redis",
        extension: c"redis",
        settings: PHPREDIS,
        adopt: phpredis,
        parse: SavePath::parse_for_phpredis,
        refuse: |url| (url.scheme == "file").then_some("write tcp://host:port"),
    },
    Native {
        name: c"rediscluster",
        extension: c"redis",
        settings: PHPREDIS,
        adopt: phpredis,
        parse: SavePath::parse,
        refuse: |url| {
            (!url.scheme.ends_with("+cluster")).then_some("write seed[]=host:port&seed[]=host:port")
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
    /// Whether somebody set it, as far as PHP lets that be seen; `default` is what the extension registers.
    fn is_given(&self, name: &str, default: &str) -> bool;
    /// The first number of the extension's version, if it is loaded.
    fn version(&self) -> Option<u32>;
}

/// In phpredis 0 means its default for the lock's times. Locking is on: off is what somebody wrote.
const PHPREDIS: &[(&str, &str)] = &[
    ("redis.session.locking_enabled", "1"),
    ("redis.session.lock_expire", "0"),
    ("redis.session.lock_retries", "0"),
    ("redis.session.lock_wait_time", "0"),
    ("redis.session.early_refresh", "0"),
    ("redis.session.compression", "none"),
    ("redis.session.compression_level", "3"),
    ("redis.session.lock_failure_readonly", "0"),
    ("redis.session.lock_release_cmd", "eval"),
];

/// How long a request waits that may wait to its end, where it has none, and the longest of all times.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

fn phpredis(config: &mut Config, ini: &dyn Ini) -> Result<()> {
    const LOCKING: &str = "redis.session.locking_enabled";
    if ini.number(LOCKING) == 0 && ini.is_given(LOCKING, "0") {
        config.lock = false;
    }
    const RETRIES: &str = "redis.session.lock_retries";
    const PAUSE: &str = "redis.session.lock_wait_time";
    let [retries, pause] = match ini.version() {
        Some(..6) => ["10", "2000"],
        _ => ["100", "20000"],
    };
    // 0 stands for the default.
    let given = |name: &str, default: &str| ini.number(name) != 0 && ini.is_given(name, default);
    if given(RETRIES, retries) || given(PAUSE, pause) {
        let default = |text: &str| text.parse().unwrap_or(0);
        let retries = Some(ini.number(RETRIES)).filter(|retries| *retries != 0).unwrap_or(default(retries));
        let pause = Some(ini.number(PAUSE)).filter(|pause| *pause > 0).unwrap_or(default(pause));
        config.lock_wait = match (u32::try_from(retries), u64::try_from(pause)) {
            (Ok(retries), Ok(pause)) => Duration::from_micros(pause).saturating_mul(retries).min(FOR_EVER),
            _ => end_of_request(ini),
        };
        config.deciding.push((RETRIES, "cloakroom.lock_wait"));
    }
    if let Ok(seconds @ 1..) = u64::try_from(ini.number("redis.session.lock_expire")) {
        config.store.lease_max = Duration::from_secs(seconds).min(FOR_EVER);
        config.store.lease = config.store.lease.min(config.store.lease_max);
        config.deciding.push(("redis.session.lock_expire", "cloakroom.lease_max"));
    }
    if ini.number("redis.session.lock_failure_readonly") != 0 {
        config.on_lock_timeout = OnLockTimeout::ReadOnly;
    }
    if ini.number("redis.session.early_refresh") != 0 {
        config.store.refresh = Refresh::AtRead;
    }
    let level = ini.number("redis.session.compression_level");
    config.compression = compression(&ini.text("redis.session.compression"), level)?;
    Ok(())
}

/// PHP ends a request after `max_execution_time`, which does not count the time that it waits.
fn end_of_request(ini: &dyn Ini) -> Duration {
    match u64::try_from(ini.number("max_execution_time")) {
        Ok(seconds @ 1..) => Duration::from_secs(seconds),
        _ => FOR_EVER,
    }
}

/// As phpredis compares them: without case, and by their beginning.
fn compression(text: &str, level: i64) -> Result<Compression> {
    let is = |name: &str| text.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let level = i32::try_from(level).unwrap_or(i32::MAX);
    match () {
        () if text.is_empty() || is("none") => Ok(Compression::None),
        () if is("lzf") => Ok(Compression::Lzf),
        () if is("zstd") => Ok(Compression::Zstd { level }),
        () if is("lz4") => Ok(Compression::Lz4),
        () => Err(Error::new(ErrorKind::Config, format!("redis.session.compression is \"{text}\""))
            .hint("it takes none, lzf, zstd or lz4")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ini::SETTINGS;

    /// Settings as somebody wrote them; the rest is at phpredis' defaults.
    struct Written<'a>(&'a [(&'a str, &'a str)]);

    impl Ini for Written<'_> {
        fn text(&self, name: &str) -> String {
            let short = name.strip_prefix("redis.session.").unwrap_or(name);
            let written = self.0.iter().find(|(written, _)| *written == short).map(|(_, value)| *value);
            let loaded = [("lock_retries", "100"), ("lock_wait_time", "20000"), ("locking_enabled", "0")];
            let default = loaded.iter().find(|(name, _)| *name == short).map(|(_, value)| *value);
            written.or(default).unwrap_or_default().to_owned()
        }

        fn number(&self, name: &str) -> i64 {
            self.text(name).parse().unwrap_or(0)
        }

        fn is_given(&self, name: &str, _: &str) -> bool {
            self.0.iter().any(|(written, _)| name.strip_prefix("redis.session.") == Some(written))
        }

        fn version(&self) -> Option<u32> {
            Some(6)
        }
    }

    fn with(written: &[(&str, &str)]) -> Config {
        let mut config = ours();
        phpredis(&mut config, &Written(written)).unwrap();
        config
    }

    fn ours() -> Config {
        let default = |name: &str| SETTINGS.iter().find(|setting| setting.name == name).unwrap().default;
        Config::read(|name| default(name).to_owned()).unwrap()
    }

    #[test]
    fn the_defaults_of_phpredis_change_nothing() {
        assert_eq!(with(&[]), ours());
        // And so do those that Cloakroom registers where phpredis is absent.
        let registered: Vec<_> =
            PHPREDIS.iter().map(|(name, value)| (&name["redis.session.".len()..], *value)).collect();
        assert_eq!(with(&registered), ours());
    }

    #[test]
    fn what_is_given_is_obeyed() {
        assert!(!with(&[("locking_enabled", "0")]).lock);
        assert!(with(&[("locking_enabled", "1")]).lock);
        assert_eq!(with(&[("lock_failure_readonly", "1")]).on_lock_timeout, OnLockTimeout::ReadOnly);
        assert_eq!(with(&[("early_refresh", "1")]).store.refresh, Refresh::AtRead);
        assert_eq!(with(&[("compression", "LZ4")]).compression, Compression::Lz4);
        let zstd = with(&[("compression", "zstd"), ("compression_level", "7")]);
        assert_eq!(zstd.compression, Compression::Zstd { level: 7 });
        let error = phpredis(&mut ours(), &Written(&[("compression", "gzip")])).unwrap_err().to_string();
        assert_eq!(error, "redis.session.compression is \"gzip\"\nhint: it takes none, lzf, zstd or lz4");
    }

    #[test]
    fn the_document_lists_every_setting() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/drop-in-phpredis.md");
        let document = std::fs::read_to_string(path).unwrap();
        let mut listed: Vec<&str> = document
            .lines()
            .filter_map(|line| line.strip_prefix("| `redis.session.")?.split('`').next())
            .collect();
        let mut settings: Vec<&str> =
            PHPREDIS.iter().map(|(name, _)| &name["redis.session.".len()..]).collect();
        listed.sort_unstable();
        settings.sort_unstable();
        assert_eq!(listed, settings);
    }

    #[test]
    fn retries_times_pause_is_the_time_to_wait() {
        let wait = |written: &[(&str, &str)]| with(written).lock_wait;
        assert_eq!(wait(&[("lock_retries", "10"), ("lock_wait_time", "100000")]), Duration::from_secs(1));
        assert_eq!(wait(&[("lock_retries", "100"), ("lock_wait_time", "20000")]), Duration::from_secs(2));
        assert_eq!(wait(&[("lock_retries", "5")]), Duration::from_millis(100));
        assert_eq!(wait(&[("lock_wait_time", "3000000")]), Duration::from_secs(300));
        assert_eq!(wait(&[("lock_retries", "0"), ("lock_wait_time", "0")]), ours().lock_wait);
        assert_eq!(wait(&[("lock_retries", "-1")]), FOR_EVER);
        assert_eq!(wait(&[("lock_retries", "-1"), ("max_execution_time", "30")]), Duration::from_secs(30));
    }

    #[test]
    fn a_lock_lives_no_longer_than_lock_expire() {
        let lease = |seconds: &str| {
            let store = with(&[("lock_expire", seconds)]).store;
            (store.lease.as_secs(), store.lease_max.as_secs())
        };
        assert_eq!(lease("2"), (2, 2));
        assert_eq!(lease("60"), (15, 60));
        assert_eq!(lease("3600"), (15, 3600));
        assert_eq!(lease("0"), (15, 300));
        assert_eq!(lease("9223372036854775807"), (15, FOR_EVER.as_secs()), "no clock overflows");
    }

    #[test]
    fn a_name_that_is_not_known_is_refused_beside_those_that_are() {
        let (found, error) = named("redis, memcached,RedisCluster,redis");
        assert_eq!(found, [0, 1]);
        assert_eq!(
            error.unwrap().to_string(),
            "cloakroom.drop_in names \"memcached\", which Cloakroom cannot stand in for\nhint: it takes redis, rediscluster"
        );
        assert!(matches!(named("").0[..], []));
    }
}
