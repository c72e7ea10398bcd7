//! What a DynamoDB URL may say, understood.

use std::path::PathBuf;
use std::time::Duration;

use crate::save_path::wrong;
use crate::stores::options::{
    Given, Named, READ_TIMEOUT, TIMEOUT, connect_timeout, named, read_timeout, seconds,
};
use crate::{Error, ErrorKind, Param, Result, Secret, StoreUrl};

/// Every option of a DynamoDB URL; the names of attributes are those of AWS's own session handler.
pub const OPTIONS: &[&[Named]] = &[&[
    named("hash_key", &[], "an attribute's name", "id", "the table's partition key, of type S"),
    named("data", &["data_attribute"], "an attribute's name", "data", "the attribute that has the session"),
    named(
        "data_type",
        &["data_attribute_type"],
        "string or binary",
        "string",
        "how sessions are written, S or B; either is read. What is not UTF-8 is always written as B",
    ),
    named(
        "ttl",
        &["session_lifetime_attribute"],
        "an attribute's name",
        "expires",
        "the attribute that says when a session expires, in seconds since 1970: the table's TTL attribute",
    ),
    named(
        "endpoint",
        &["endpoint_url"],
        "an http or https URL",
        "AWS's, for the region",
        "where to send requests instead: a local engine, a VPC endpoint, a proxy",
    ),
    named("profile", &[], "a name", "AWS_PROFILE", "the profile of AWS's configuration files to use"),
    named(
        "consistent_read",
        &[],
        "1 or 0",
        "1",
        "whether read_and_close sees every write that was acknowledged before; 0 costs half. A locked read always does",
    ),
    named(
        "session_name",
        &[],
        "text",
        "PHP's session.name",
        "what ids of items begin with; the command has no PHP to ask, there it is PHPSESSID",
    ),
    named(
        "break_after",
        &[],
        "seconds, or 0 for never",
        "60",
        "how long a lock of AWS's own handler is waited for in all before it counts as left by a worker that died",
    ),
    TIMEOUT,
    READ_TIMEOUT,
    named(
        "cafile",
        &[],
        "the path of a PEM file",
        "AWS_CA_BUNDLE, or the system's authorities",
        "the authorities to trust",
    ),
]];

/// A DynamoDB URL, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The URL with its secrets masked.
    pub(super) shown: String,
    pub(super) table: String,
    pub(super) region: Option<String>,
    pub(super) credentials: Option<Credentials>,
    pub(super) profile: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) cafile: Option<PathBuf>,
    pub(super) layout: Layout,
    pub(super) consistent_read: bool,
    pub(super) session_name: Option<String>,
    /// `None` for never.
    pub(super) break_after: Option<Duration>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) timeout: Option<Duration>,
}

/// What the URL says of who asks, where AWS's own chain is not to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) key_id: String,
    pub(super) secret: Secret,
}

/// What the attributes of an item are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) key: String,
    pub(super) data: String,
    pub(super) expires: String,
    pub(super) binary: bool,
}

/// The attributes whose names are fixed: the first is AWS's handler's, the others are ours.
pub(super) const LOCK: &str = "lock";
pub(super) const UNTIL: &str = "lock_until";
pub(super) const RECORD_EXPIRES: &str = "record_expires";
pub(super) const SEEN: &str = "lock_seen";
pub(super) const SEEN_EXPIRES: &str = "lock_seen_expires";
/// Who came last to wait; in an item of its own.
pub(super) const LAST: &str = "last_waiter";

impl Options {
    /// Reads the URL's options.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for an option that is unknown, repeated, contradictory or of another type.
    pub fn parse(url: &StoreUrl) -> Result<Self> {
        let server = url.server();
        let given = Given::collect(&server.params, OPTIONS, &[])?;
        let table = server.path.trim_matches('/');
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !(3..=255).contains(&table.len()) || !table.chars().all(plain) {
            let what = match table.is_empty() {
                true => "the table is missing",
                false => "this is not the name of a table: 3 to 255 characters out of A-Z a-z 0-9 _ . -",
            };
            return Err(wrong(
                0,
                what,
                "write dynamodb://region/table, for example dynamodb://eu-west-1/sessions",
            ));
        }
        if server.port.is_some() {
            let hint = "write dynamodb://region/table?endpoint=http://host:port";
            return Err(wrong(0, "a region has no port", hint));
        }
        let credentials = match (&server.user, &server.password) {
            (Some(key_id), Some(secret)) => {
                Some(Credentials { key_id: key_id.clone(), secret: secret.clone() })
            }
            (None, None) => None,
            _ => {
                let hint = "write dynamodb://key-id:secret-key@region/table, or neither: AWS's own chain is asked then";
                return Err(wrong(0, "an access key has an id and a secret", hint));
            }
        };
        if let (Some(_), Some(profile)) = (&credentials, given.one("profile")) {
            return Err(profile.refused("no access key before the region beside it"));
        }
        let layout = Layout {
            key: attribute(&given, "hash_key", "id")?,
            data: attribute(&given, "data", "data")?,
            expires: attribute(&given, "ttl", "expires")?,
            binary: match given.one("data_type") {
                Some(param) => {
                    param.one_of(&["string", "binary"])?;
                    param.value.reveal() == "binary"
                }
                None => false,
            },
        };
        layout.check()?;
        let break_after = match given.one("break_after") {
            Some(param) if param.value.reveal() == "0" => None,
            Some(param) => Some(seconds(param, "a number of seconds, or 0 for never")?),
            None => Some(Duration::from_secs(60)),
        };
        Ok(Options {
            shown: url.to_string(),
            table: table.to_owned(),
            region: server.host.clone(),
            credentials,
            profile: given.one("profile").map(|param| param.value.reveal().to_owned()),
            endpoint: given.one("endpoint").map(endpoint).transpose()?,
            cafile: given.one("cafile").map(|param| PathBuf::from(param.value.reveal())),
            layout,
            consistent_read: given.one("consistent_read").map_or(Ok(true), Param::switch)?,
            session_name: given.one("session_name").map(|param| param.value.reveal().to_owned()),
            break_after,
            connect_timeout: connect_timeout(&given)?,
            timeout: read_timeout(&given)?,
        })
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The attribute that says when a session expires.
    pub fn expiry_attribute(&self) -> &str {
        &self.layout.expires
    }

    /// Where requests are sent instead of AWS's own place, where the URL says so.
    pub fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// The region, where the URL names it.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }
}

impl Layout {
    /// Two names for one attribute would overwrite each other.
    fn check(&self) -> Result<()> {
        let names = [&self.key, &self.data, &self.expires];
        let ours = [LOCK, UNTIL, RECORD_EXPIRES, SEEN, SEEN_EXPIRES, LAST];
        let twice = (1..names.len()).any(|index| names[..index].contains(&names[index]));
        match names.iter().find(|name| ours.contains(&name.as_str())) {
            Some(name) => Err(Error::new(
                ErrorKind::Config,
                format!("session.save_path: the attribute {name} is the lock's, and cannot be another one's"),
            )
            .hint(format!("the lock is in {}", ours.join(", ")))),
            None if twice => Err(Error::new(
                ErrorKind::Config,
                "session.save_path: hash_key, data and ttl must be three different attributes",
            )
            .hint("the defaults are id, data and expires")),
            None => Ok(()),
        }
    }
}

fn attribute(given: &Given<'_>, name: &'static str, default: &str) -> Result<String> {
    match given.one(name) {
        Some(param) if (1..=255).contains(&param.value.reveal().len()) => Ok(param.value.reveal().to_owned()),
        Some(param) => Err(param.refused("an attribute's name of 1 to 255 bytes")),
        None => Ok(default.to_owned()),
    }
}

fn endpoint(param: &Param) -> Result<String> {
    let text = param.value.reveal().trim_end_matches('/');
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(host) if !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']) => Ok(text.to_owned()),
        _ => Err(param.refused("http://host:port or https://host:port")),
    }
}
