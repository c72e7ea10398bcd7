//! The one table of names.

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

const fn named(
    name: &'static str,
    aliases: &'static [&'static str],
    takes: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Named {
    Named { name, aliases, takes, default, meaning }
}

pub(super) const AUTH: &str = "auth";
pub(super) const USER: &str = "auth[user]";
pub(super) const SENTINEL_AUTH: &str = "sentinel_auth";
pub(super) const SENTINEL_USER: &str = "sentinel_auth[user]";

/// Every option of a Redis URL.
pub const OPTIONS: &[Named] = &[
    named(
        AUTH,
        &["auth[]", "auth[pass]", "auth[0]", "auth[1]", "password", "pass"],
        "a password, or with auth[] twice a user and a password",
        "none",
        "sent as AUTH on every new connection",
    ),
    named(USER, &["user", "username"], "a name", "none", "the ACL user to authenticate as"),
    named("database", &["db", "dbindex"], "a number from 0", "0", "selected on every new connection"),
    named(
        "prefix",
        &[],
        "text, may be empty",
        "PHPREDIS_SESSION:, for clusters PHPREDIS_CLUSTER_SESSION:",
        "put before the session id to make the key",
    ),
    named(
        "timeout",
        &[],
        "seconds above 0, in clusters 0 for the default",
        "cloakroom.connect_timeout",
        "total time to connect",
    ),
    named(
        "read_timeout",
        &[],
        "seconds, 0 or less for the default",
        "cloakroom.timeout",
        "total time of one exchange",
    ),
    named(
        "wait_replicas",
        &[],
        "a number from 0",
        "0",
        "how many replicas must have a change before it counts as written (WAIT, in the same exchange)",
    ),
    named(
        SENTINEL_AUTH,
        &["sentinel_auth[]", "sentinel_auth[pass]", "sentinel_password"],
        "a password, or with sentinel_auth[] twice a user and a password",
        "none",
        "the sentinels' own password",
    ),
    named(
        SENTINEL_USER,
        &["sentinel_user", "sentinel_username"],
        "a name",
        "none",
        "the ACL user to authenticate as with the sentinels",
    ),
    named("sentinel_tls", &[], "1 or 0", "as the scheme says", "whether the sentinels speak TLS"),
    named(
        "failover",
        &[],
        "none, error, distribute or distribute_slaves",
        "none",
        "accepted for clusters; sessions are read from masters, since replicas may lag behind",
    ),
    named("weight", &[], "a number above 0", "1", "the server's share of the sessions of a pool"),
    named(
        "persistent",
        &[],
        "1 or 0",
        "1",
        "accepted; the connection is kept for the worker's life either way",
    ),
    named("persistent_id", &[], "text", "none", "accepted; a worker has one connection, and no pool to name"),
    named("retry_interval", &[], "milliseconds", "0", "accepted; a dead connection is opened again at once"),
    named("tcp_keepalive", &[], "1 or 0", "1", "accepted; idle connections are probed either way"),
    named("lazy", &[], "1 or 0", "1", "accepted; connections are opened at their first use either way"),
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

/// Those that need a scheme with TLS.
pub(super) const TLS: &[&str] = &[
    "verify_peer",
    "verify_peer_name",
    "allow_self_signed",
    "cafile",
    "capath",
    "peer_name",
    "SNI_enabled",
    "local_cert",
    "local_pk",
    "passphrase",
];
