//! What the options of stores with servers have in common: how they are named, found, and understood.

use std::path::PathBuf;
use std::time::Duration;

use crate::net::{Identity, TlsOptions};
use crate::{Param, Result};

/// One option: what it is called, takes, is by default, and means.
#[derive(Debug)]
pub struct Named {
    /// Its name.
    pub name: &'static str,
    /// Other spellings of it.
    pub aliases: &'static [&'static str],
    /// What it takes.
    pub takes: &'static str,
    /// What holds when it is not given.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

pub(super) const fn named(
    name: &'static str,
    aliases: &'static [&'static str],
    takes: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Named {
    Named { name, aliases, takes, default, meaning }
}

/// The total time to connect, by phpredis' name for it and by its own.
pub(super) const TIMEOUT: Named = named(
    "timeout",
    &["connect_timeout"],
    "seconds above 0",
    "cloakroom.connect_timeout",
    "total time to connect",
);

/// The total time of one exchange, by phpredis' name for it.
pub(super) const READ_TIMEOUT: Named = named(
    "read_timeout",
    &[],
    "seconds, 0 or less for the default",
    "cloakroom.timeout",
    "total time of one exchange",
);

/// Those that need a scheme with TLS; each store with servers has them.
pub(super) const TLS: &[Named] = &[
    named(
        "verify_peer",
        &["stream[verify_peer]", "ssl[verify_peer]"],
        "1 or 0",
        "1",
        "whether the server's certificate must be signed by a known authority; with 0 nothing of it is checked",
    ),
    named(
        "verify_peer_name",
        &["stream[verify_peer_name]", "ssl[verify_peer_name]"],
        "1 or 0",
        "1",
        "whether the server's certificate must bear its name",
    ),
    named(
        "allow_self_signed",
        &["stream[allow_self_signed]", "ssl[allow_self_signed]"],
        "1 or 0",
        "0",
        "whether a certificate that signed itself will do",
    ),
    named(
        "cafile",
        &["stream[cafile]", "ssl[cafile]"],
        "the path of a PEM file",
        "the system's authorities",
        "the authorities to trust, or the server's own certificate",
    ),
    named(
        "capath",
        &["stream[capath]", "ssl[capath]"],
        "the path of a directory",
        "the system's authorities",
        "PEM files of authorities to trust",
    ),
    named(
        "peer_name",
        &["stream[peer_name]", "ssl[peer_name]"],
        "a name",
        "the host",
        "the name that the certificate must bear, and that the server is told (SNI)",
    ),
    named(
        "SNI_enabled",
        &["stream[SNI_enabled]", "ssl[SNI_enabled]"],
        "1 or 0",
        "1",
        "whether the server is told the name",
    ),
    named(
        "local_cert",
        &["stream[local_cert]", "ssl[local_cert]"],
        "the path of a PEM file",
        "none",
        "the client's certificate, for servers that ask for one",
    ),
    named(
        "local_pk",
        &["stream[local_pk]", "ssl[local_pk]"],
        "the path of a PEM file",
        "local_cert",
        "its key, not encrypted",
    ),
    named(
        "passphrase",
        &["stream[passphrase]", "ssl[passphrase]"],
        "nothing",
        "none",
        "refused: the key must not be encrypted",
    ),
];

/// The options that were given, under their names in the tables.
pub(super) struct Given<'a>(Vec<(&'static str, &'a Param)>);

impl<'a> Given<'a> {
    /// Finds each option in the tables; `twice` tells the spellings that may be given two times.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for an option that is unknown or repeated.
    pub(super) fn collect(
        params: &'a [Param],
        tables: &'static [&'static [Named]],
        twice: &[&str],
    ) -> Result<Self> {
        let mut given: Vec<(&'static str, &'a Param)> = Vec::new();
        for param in params {
            let spelled =
                |option: &&Named| option.name == param.name || option.aliases.contains(&param.name.as_str());
            let Some(option) = tables.iter().copied().flatten().find(spelled) else {
                let known: Vec<&str> = tables.iter().copied().flatten().map(|option| option.name).collect();
                return Err(param.unknown(&known));
            };
            let earlier = given.iter().filter(|(name, _)| *name == option.name).count();
            let allowed = if twice.contains(&param.name.as_str()) { 2 } else { 1 };
            if earlier >= allowed {
                return Err(param.repeated());
            }
            given.push((option.name, param));
        }
        Ok(Given(given))
    }

    pub(super) fn all(&self, name: &'static str) -> Vec<&'a Param> {
        self.0.iter().filter(|(given, _)| *given == name).map(|(_, param)| *param).collect()
    }

    pub(super) fn one(&self, name: &'static str) -> Option<&'a Param> {
        self.all(name).first().copied()
    }

    /// What the options of TLS say, or none without TLS; `schemes` are those that have it, for the hint.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for options of TLS without it, and for wrong values.
    pub(super) fn tls(&self, encrypted: bool, schemes: &str) -> Result<Option<TlsOptions>> {
        if !encrypted {
            return match TLS.iter().find_map(|option| self.one(option.name)) {
                Some(param) => Err(param.refused(&format!("a scheme with TLS before the host ({schemes})"))),
                None => Ok(None),
            };
        }
        if let Some(param) = self.one("passphrase").filter(|param| !param.value.reveal().is_empty()) {
            return Err(param.refused("nothing: encrypted keys are not read; decrypt it with openssl pkey"));
        }
        let switch = |name, default| self.one(name).map_or(Ok(default), Param::switch);
        let path = |name| self.one(name).map(|param| PathBuf::from(param.value.reveal()));
        let identity = match (path("local_cert"), path("local_pk"), self.one("local_pk")) {
            (Some(certificate), key, _) => {
                Some(Identity { key: key.unwrap_or_else(|| certificate.clone()), certificate })
            }
            (None, _, Some(param)) => return Err(param.refused("a certificate beside it (local_cert=)")),
            (None, _, None) => None,
        };
        Ok(Some(TlsOptions {
            verify_peer: switch("verify_peer", true)?,
            verify_peer_name: switch("verify_peer_name", true)?,
            allow_self_signed: switch("allow_self_signed", false)?,
            cafile: path("cafile"),
            capath: path("capath"),
            peer_name: self.one("peer_name").map(|param| param.value.reveal().to_owned()),
            name_sent: switch("SNI_enabled", true)?,
            identity,
        }))
    }
}

/// [`TIMEOUT`], where it is given.
pub(super) fn connect_timeout(given: &Given<'_>) -> Result<Option<Duration>> {
    given.one(TIMEOUT.name).map(|param| seconds(param, "seconds above 0")).transpose()
}

/// [`READ_TIMEOUT`], where it is given.
pub(super) fn read_timeout(given: &Given<'_>) -> Result<Option<Duration>> {
    match given.one(READ_TIMEOUT.name) {
        // phpredis: 0 means its default, and less no limit.
        Some(param) if param.number::<f64>("seconds")? <= 0.0 => Ok(None),
        Some(param) => seconds(param, "seconds above 0, or 0 for the default").map(Some),
        None => Ok(None),
    }
}

/// The value as a time above zero.
pub(super) fn seconds(param: &Param, expected: &str) -> Result<Duration> {
    let number: f64 = param.number(expected)?;
    match Duration::try_from_secs_f64(number) {
        // The clock must not overflow.
        Ok(duration) if !duration.is_zero() => Ok(duration.min(Duration::from_secs(365 * 24 * 3600))),
        _ => Err(param.refused(expected)),
    }
}
