//! The one table of names.

use crate::stores::options::{Named, READ_TIMEOUT, named};

pub(super) const AUTH: &str = "auth";
pub(super) const USER: &str = "auth[user]";
pub(super) const SENTINEL_AUTH: &str = "sentinel_auth";
pub(super) const SENTINEL_USER: &str = "sentinel_auth[user]";

/// Every option of a Redis URL but those of TLS.
pub(super) const OWN: &[Named] = &[
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
    READ_TIMEOUT,
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
];
