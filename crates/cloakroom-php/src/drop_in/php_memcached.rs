//! php-memcached's settings, and what they mean here. Most of them describe the store, and become options of its URL.
//!
//! Those of 3.x, and by their old names those of 2.x that 3.x has dropped.

use std::time::Duration;

use cloakroom::{Error, ErrorKind, Result, Secret};

use super::{FOR_EVER, Ini, end_of_request};
use crate::ini::{Config, StoreOption};

/// With php-memcached's own defaults.
pub(super) const SETTINGS: &[(&str, &str)] = &[
    (LOCKING, "1"),
    (RETRIES, "5"),
    (SHORTEST_PAUSE, "150"),
    (LONGEST_PAUSE, "150"),
    (LOCK_EXPIRE, "0"),
    (PREFIX, DEFAULT_PREFIX),
    (BINARY, "1"),
    (CONSISTENT_HASH, "1"),
    (CONSISTENT_HASH_TYPE, "ketama"),
    (REPLICAS, "0"),
    ("memcached.sess_randomize_replica_read", "0"),
    ("memcached.sess_remove_failed_servers", "0"),
    (FAILURE_LIMIT, "0"),
    (CONNECT_TIMEOUT, "0"),
    (USERNAME, ""),
    (PASSWORD, ""),
    ("memcached.sess_persistent", "0"),
    ("memcached.sess_lock_wait", NOT_SET),
    (LOCK_MAX_WAIT, NOT_SET),
    // 2.x.
    ("memcached.sess_binary", "0"),
    ("memcached.use_sasl", "0"),
    ("memcached.sess_remove_failed", "0"),
];

const LOCKING: &str = "memcached.sess_locking";
const RETRIES: &str = "memcached.sess_lock_retries";
const SHORTEST_PAUSE: &str = "memcached.sess_lock_wait_min";
const LONGEST_PAUSE: &str = "memcached.sess_lock_wait_max";
const LOCK_MAX_WAIT: &str = "memcached.sess_lock_max_wait";
const LOCK_EXPIRE: &str = "memcached.sess_lock_expire";
const PREFIX: &str = "memcached.sess_prefix";
const BINARY: &str = "memcached.sess_binary_protocol";
const CONSISTENT_HASH: &str = "memcached.sess_consistent_hash";
const CONSISTENT_HASH_TYPE: &str = "memcached.sess_consistent_hash_type";
const REPLICAS: &str = "memcached.sess_number_of_replicas";
const FAILURE_LIMIT: &str = "memcached.sess_server_failure_limit";
const CONNECT_TIMEOUT: &str = "memcached.sess_connect_timeout";
const USERNAME: &str = "memcached.sess_sasl_username";
const PASSWORD: &str = "memcached.sess_sasl_password";

const DEFAULT_PREFIX: &str = "memc.sess.key.";
/// The default that 3.x gives to what it no longer has.
const NOT_SET: &str = "not set";

/// What hints of the store say of its URL, in terms of these settings.
const HINTS: &[(&str, &str)] = &[
    ("memcached.sess_sasl_username and memcached.sess_sasl_password", LOGIN_OF_URL),
    (
        "set memcached.sess_sasl_username and memcached.sess_sasl_password",
        "name them in session.save_path: memcached://user:password@host",
    ),
    (
        "set memcached.sess_binary_protocol=1, memcached.sess_sasl_username and memcached.sess_sasl_password",
        "leave protocol= out of session.save_path, and name a user and a password there",
    ),
    ("a shorter memcached.sess_prefix", "a shorter prefix="),
];
const LOGIN_OF_URL: &str = "the user and the password in session.save_path";

pub(super) fn adopt(config: &mut Config, ini: &dyn Ini) -> Result<()> {
    if !ini.switch(LOCKING) {
        config.lock = false;
    }
    if let Some((wait, decides)) = lock_wait(ini) {
        config.lock_wait = wait;
        config.deciding.push((decides, "cloakroom.lock_wait"));
    }
    if let Ok(seconds @ 1..) = u64::try_from(ini.number(LOCK_EXPIRE)) {
        config.store.lease_max = Duration::from_secs(seconds).min(FOR_EVER);
        config.store.lease = config.store.lease.min(config.store.lease_max);
        config.deciding.push((LOCK_EXPIRE, "cloakroom.lease_max"));
    }
    config.options = options(ini)?;
    let logs_in = config.options.iter().any(|option| option.setting == PASSWORD);
    config.deciding.extend(HINTS.iter().filter(|(_, ours)| logs_in || *ours != LOGIN_OF_URL));
    Ok(())
}

/// How long to wait for the lock where somebody says so, and which setting does. The pauses add up: each is twice as long
/// as the one before, up to the longest.
fn lock_wait(ini: &dyn Ini) -> Option<(Duration, &'static str)> {
    let whole = |name| u64::try_from(ini.number(name)).unwrap_or(0);
    if [(RETRIES, "5"), (SHORTEST_PAUSE, "150"), (LONGEST_PAUSE, "150")]
        .into_iter()
        .any(|(name, default)| ini.is_given(name, default))
    {
        let longest = Duration::from_millis(whole(LONGEST_PAUSE));
        let mut pause = Duration::from_millis(whole(SHORTEST_PAUSE));
        let mut wait = Duration::ZERO;
        let mut left = whole(RETRIES);
        // Once the pause has its full length, or is none, the rest is a product.
        while left > 0 && pause != longest && !pause.is_zero() {
            wait = wait.saturating_add(pause);
            pause = pause.saturating_mul(2).min(longest);
            left -= 1;
        }
        let rest = pause.saturating_mul(u32::try_from(left).unwrap_or(u32::MAX));
        return Some((wait.saturating_add(rest).min(FOR_EVER), RETRIES));
    }
    // Of 2.x: seconds, and 0 for the time that the request may run.
    match (ini.text(LOCK_MAX_WAIT).as_str(), whole(LOCK_MAX_WAIT)) {
        ("" | NOT_SET, _) => None,
        (_, 0) => Some((end_of_request(ini), "max_execution_time")),
        (_, seconds) => Some((Duration::from_secs(seconds).min(FOR_EVER), LOCK_MAX_WAIT)),
    }
}

/// What the store's URL would say; what is at its default is the store's default, too.
fn options(ini: &dyn Ini) -> Result<Vec<StoreOption>> {
    let mut options = Vec::new();
    let mut say = |name, value: String, setting| {
        options.push(StoreOption { name, value: Secret::new(value), setting });
    };
    let prefix = ini.text(PREFIX);
    if prefix != DEFAULT_PREFIX {
        say("prefix", prefix, PREFIX);
    }
    let (user, password) = (ini.text(USERNAME), ini.text(PASSWORD));
    // As there: without one of them, neither counts.
    if !user.is_empty() && !password.is_empty() {
        say("user", user, USERNAME);
        say("password", password, PASSWORD);
    } else if !ini.switch(BINARY) {
        // A proxy may know no other. Binary without credentials is the same to the same server, with the same bytes.
        say("protocol", "ascii".into(), BINARY);
    }
    match ini.text(CONSISTENT_HASH_TYPE).as_str() {
        _ if !ini.switch(CONSISTENT_HASH) => say("distribution", "modula".into(), CONSISTENT_HASH),
        "ketama" => {}
        "ketama_weighted" => say("distribution", "ketama_weighted".into(), CONSISTENT_HASH_TYPE),
        other => {
            return Err(Error::new(ErrorKind::Config, format!("{CONSISTENT_HASH_TYPE} is \"{other}\""))
                .hint("it takes ketama or ketama_weighted"));
        }
    }
    // libmemcached makes and deletes copies by the binary protocol alone: of a session that it destroys by text, ours would
    // stay.
    let replicas = if ini.switch(BINARY) { ini.number(REPLICAS) } else { 0 };
    if replicas > 0 {
        say("replicas", replicas.to_string(), REPLICAS);
        let randomize = "memcached.sess_randomize_replica_read";
        if ini.switch(randomize) {
            say("randomize_replica_read", "1".into(), randomize);
        }
    }
    let old_and_new = ["memcached.sess_remove_failed_servers", "memcached.sess_remove_failed"];
    if let Some(remove) = old_and_new.into_iter().find(|name| ini.switch(name)) {
        say("remove_failed_servers", "1".into(), remove);
    }
    let limit = ini.number(FAILURE_LIMIT);
    if limit > 0 {
        say("server_failure_limit", limit.to_string(), FAILURE_LIMIT);
    }
    match ini.number(CONNECT_TIMEOUT) {
        0 => {}
        milliseconds => {
            // Less than 0 is no limit.
            let time = u64::try_from(milliseconds).map_or(FOR_EVER, Duration::from_millis).min(FOR_EVER);
            say("timeout", time.as_secs_f64().to_string(), CONNECT_TIMEOUT);
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ini;

    /// Settings as somebody wrote them; the rest is at php-memcached's defaults.
    struct Written<'a>(&'a [(&'a str, &'a str)]);

    impl Ini for Written<'_> {
        fn text(&self, name: &str) -> String {
            let short = name.strip_prefix("memcached.").unwrap_or(name);
            let written = self.0.iter().find(|(written, _)| *written == short).map(|(_, value)| *value);
            let default = SETTINGS.iter().find(|(default, _)| *default == name).map(|(_, value)| *value);
            written.or(default).unwrap_or_default().to_owned()
        }

        fn number(&self, name: &str) -> i64 {
            super::super::whole_number(&self.text(name))
        }

        fn is_given(&self, name: &str, default: &str) -> bool {
            self.text(name) != default
        }

        fn version(&self) -> Option<u32> {
            Some(3)
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

    /// The options as a URL has them, each with the setting that it comes from.
    fn said(written: &[(&str, &str)]) -> Vec<String> {
        let option = |option: &StoreOption| {
            let setting = option.setting.strip_prefix("memcached.").unwrap();
            format!("{}={} by {setting}", option.name, option.value.reveal())
        };
        with(written).options.iter().map(option).collect()
    }

    #[test]
    fn the_defaults_of_php_memcached_change_nothing() {
        let hints = HINTS.iter().filter(|(_, ours)| *ours != LOGIN_OF_URL).copied().collect();
        assert_eq!(with(&[]), Config { deciding: hints, ..ours() });
    }

    #[test]
    fn what_describes_the_store_becomes_its_options() {
        for (written, expected) in [
            (&[("sess_prefix", "")][..], &["prefix= by sess_prefix"][..]),
            (&[("sess_prefix", "mine.")], &["prefix=mine. by sess_prefix"]),
            (&[("sess_consistent_hash", "0")], &["distribution=modula by sess_consistent_hash"]),
            (
                &[("sess_consistent_hash", "Off"), ("sess_consistent_hash_type", "ketama_weighted")],
                &["distribution=modula by sess_consistent_hash"],
            ),
            (
                &[("sess_consistent_hash_type", "ketama_weighted")],
                &["distribution=ketama_weighted by sess_consistent_hash_type"],
            ),
            (
                &[("sess_number_of_replicas", "1"), ("sess_randomize_replica_read", "On")],
                &[
                    "replicas=1 by sess_number_of_replicas",
                    "randomize_replica_read=1 by sess_randomize_replica_read",
                ],
            ),
            (&[("sess_randomize_replica_read", "1")], &[]),
            (
                &[("sess_number_of_replicas", "1"), ("sess_binary_protocol", "0")],
                &["protocol=ascii by sess_binary_protocol"],
            ),
            (
                &[("sess_remove_failed_servers", "1")],
                &["remove_failed_servers=1 by sess_remove_failed_servers"],
            ),
            (&[("sess_remove_failed", "yes")], &["remove_failed_servers=1 by sess_remove_failed"]),
            (&[("sess_server_failure_limit", "2")], &["server_failure_limit=2 by sess_server_failure_limit"]),
            (&[("sess_connect_timeout", "250")], &["timeout=0.25 by sess_connect_timeout"]),
            (&[("sess_connect_timeout", "-1")], &["timeout=31536000 by sess_connect_timeout"]),
            (&[("sess_binary_protocol", "off")], &["protocol=ascii by sess_binary_protocol"]),
            (&[("sess_binary_protocol", "1 # for ext-memcached 3 / PHP 7")], &[]),
            (&[("sess_binary", "1 # for ext-memcached 2 / PHP 5"), ("use_sasl", "On")], &[]),
            (&[("sess_persistent", "On")], &[]),
            (&[("sess_sasl_username", "alice")], &[]),
            (&[("sess_sasl_password", "s3cret")], &[]),
            (
                &[
                    ("sess_sasl_username", "alice"),
                    ("sess_sasl_password", "s3cret"),
                    ("sess_binary_protocol", "0"),
                ],
                &["user=alice by sess_sasl_username", "password=s3cret by sess_sasl_password"],
            ),
        ] {
            assert_eq!(said(written), expected, "{written:?}");
        }
        let error = adopt(&mut ours(), &Written(&[("sess_consistent_hash_type", "ring")])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "memcached.sess_consistent_hash_type is \"ring\"\nhint: it takes ketama or ketama_weighted"
        );
    }

    #[test]
    fn locks_are_taken_unless_somebody_turns_them_off() {
        for off in ["0", "", "off", "no", "false", "nonsense"] {
            assert!(!with(&[("sess_locking", off)]).lock, "{off}");
        }
        for on in ["1", "On", "yes", "TRUE", "2", " 1", "1 # x"] {
            assert!(with(&[("sess_locking", on)]).lock, "{on}");
        }
    }

    #[test]
    fn the_pauses_of_all_retries_are_the_time_to_wait() {
        let wait = |written: &[(&str, &str)]| with(written).lock_wait.as_millis();
        assert_eq!(wait(&[("sess_lock_retries", "10")]), 1_500);
        assert_eq!(wait(&[("sess_lock_retries", "0")]), 0);
        assert_eq!(wait(&[("sess_lock_retries", "-1")]), 0);
        assert_eq!(wait(&[("sess_lock_wait_min", "1000"), ("sess_lock_wait_max", "2000")]), 9_000);
        assert_eq!(wait(&[("sess_lock_wait_min", "100"), ("sess_lock_wait_max", "1000")]), 2_500);
        // The first pause is never cut.
        assert_eq!(wait(&[("sess_lock_wait_min", "1000"), ("sess_lock_wait_max", "200")]), 1_800);
        assert_eq!(wait(&[("sess_lock_wait_min", "0")]), 0);
        assert_eq!(wait(&[("sess_lock_wait_max", "0")]), 150);
        assert_eq!(wait(&[("sess_lock_retries", "9223372036854775807")]), FOR_EVER.as_millis());
        assert_eq!(wait(&[("sess_lock_max_wait", "7")]), 7_000);
        assert_eq!(wait(&[("sess_lock_max_wait", "0"), ("max_execution_time", "30")]), 30_000);
        assert_eq!(wait(&[("sess_lock_wait", "150000")]), ours().lock_wait.as_millis());
    }

    #[test]
    fn a_lock_lives_no_longer_than_lock_expire() {
        let lease = |seconds: &str| {
            let store = with(&[("sess_lock_expire", seconds)]).store;
            (store.lease.as_secs(), store.lease_max.as_secs())
        };
        assert_eq!(lease("2"), (2, 2));
        assert_eq!(lease("60"), (15, 60));
        assert_eq!(lease("0"), (15, 300));
        assert_eq!(lease("9223372036854775807"), (15, FOR_EVER.as_secs()), "no clock overflows");
    }

    #[test]
    fn the_document_lists_every_setting() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/drop-in-php-memcached.md");
        let document = std::fs::read_to_string(path).unwrap();
        let mut listed: Vec<&str> = document
            .lines()
            .filter(|line| line.starts_with("| `memcached."))
            .flat_map(|line| line.split('|').nth(1).unwrap_or_default().split('`'))
            .filter(|name| name.starts_with("memcached."))
            .collect();
        let mut settings: Vec<&str> = SETTINGS.iter().map(|(name, _)| *name).collect();
        listed.sort_unstable();
        settings.sort_unstable();
        assert_eq!(listed, settings);
    }
}
