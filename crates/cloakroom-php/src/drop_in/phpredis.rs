//! phpredis' settings, and what they mean here.

use std::time::Duration;

use cloakroom::envelope::Compression;
use cloakroom::{Error, ErrorKind, Refresh, Result};

use super::{FOR_EVER, Ini, end_of_request};
use crate::ini::{Config, OnLockTimeout};

/// In phpredis 0 means its default for the lock's times. Locking is on: off is what somebody wrote.
pub(super) const SETTINGS: &[(&str, &str)] = &[
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

pub(super) fn adopt(config: &mut Config, ini: &dyn Ini) -> Result<()> {
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
    use crate::ini;

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
        adopt(&mut config, &Written(written)).unwrap();
        config
    }

    fn ours() -> Config {
        let default = |name: &str| ini::SETTINGS.iter().find(|setting| setting.name == name).unwrap().default;
        Config::read(|name| default(name).to_owned()).unwrap()
    }

    #[test]
    fn the_defaults_of_phpredis_change_nothing() {
        assert_eq!(with(&[]), ours());
        // And so do those that Cloakroom registers where phpredis is absent.
        let registered: Vec<_> =
            SETTINGS.iter().map(|(name, value)| (&name["redis.session.".len()..], *value)).collect();
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
        let error = adopt(&mut ours(), &Written(&[("compression", "gzip")])).unwrap_err().to_string();
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
            SETTINGS.iter().map(|(name, _)| &name["redis.session.".len()..]).collect();
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
}
