//! The settings of php.ini with which a native handler, phpredis or php-memcached, finds the sessions of a store.

use std::fmt::Display;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{Error, ErrorKind, Secret};

/// Settings for a native handler, in the order in which they are read best.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeSettings {
    /// Names, and values as PHP is to read them.
    pub settings: Vec<(&'static str, Secret)>,
    /// What the handler cannot do that the store, or Cloakroom, can.
    pub notes: Vec<&'static str>,
}

impl NativeSettings {
    /// These two, and nothing else yet.
    pub fn of(handler: &str, save_path: &str) -> Self {
        let mut settings = NativeSettings { settings: Vec::new(), notes: Vec::new() };
        settings.set("session.save_handler", handler);
        settings.set("session.save_path", save_path);
        settings
    }

    pub(super) fn set(&mut self, name: &'static str, value: impl Display) {
        self.settings.push((name, Secret::new(value.to_string())));
    }
}

/// How long a lock outlives a worker that died, in seconds: longer than requests take, for native handlers do not renew.
pub(super) const LOCK_EXPIRE: u32 = 300;

pub(super) fn refused(what: &str, hint: &str) -> Error {
    Error::new(ErrorKind::Unsupported, what).hint(hint)
}

/// All but letters, digits and these: phpredis splits at white space and commas before it decodes.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// `name=value` of a query.
pub(super) fn pair(name: &str, value: impl Display) -> String {
    format!("{name}={}", utf8_percent_encode(&value.to_string(), ESCAPED))
}
