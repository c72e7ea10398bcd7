//! The one table of names.

use crate::stores::options::{Named, READ_TIMEOUT, TIMEOUT, named};

/// Every option of a Memcached URL but those of TLS.
pub(super) const OWN: &[Named] = &[
    named("user", &["username"], "a name", "none", "who to authenticate as, with a password"),
    named("password", &["pass"], "text", "none", "sent on every new connection"),
    named(
        "prefix",
        &[],
        "up to 200 bytes without spaces and control characters, may be empty",
        "memc.sess.key.",
        "put before the session id to make the key; the ring does not see it",
    ),
    named(
        "protocol",
        &[],
        "auto, ascii, meta or binary",
        "auto",
        "how to speak to the servers: with a user binary, without meta where the server has it, or else ascii",
    ),
    named(
        "lock",
        &[],
        "native or own",
        "native",
        "where a lock is: on the server of its own key, as php-memcached has it, or on its session's",
    ),
    named(
        "distribution",
        &["consistent_hash_type"],
        "ketama, ketama_weighted or modula",
        "ketama",
        "how sessions are spread over servers; only ketama_weighted heeds weights",
    ),
    named(
        "replicas",
        &["number_of_replicas"],
        "a number from 0",
        "0",
        "how many more servers have a copy of each session, the next ones of the list",
    ),
    named(
        "randomize_replica_read",
        &[],
        "1 or 0",
        "0",
        "accepted; a copy is read only where the session itself cannot be",
    ),
    named(
        "remove_failed_servers",
        &[],
        "1 or 0",
        "0",
        "whether others take the sessions of a server that fails; else they cannot be opened",
    ),
    named(
        "server_failure_limit",
        &[],
        "a number above 0",
        "1",
        "how many failures in a row make a server one that fails",
    ),
    TIMEOUT,
    READ_TIMEOUT,
    named(
        "weight",
        &[],
        "a number",
        "1",
        "the server's share, where there is one before the ?; in a list: `host:port:weight`",
    ),
    named(
        "persistent",
        &["persistent_id"],
        "text",
        "none",
        "accepted; connections are kept for the worker's life either way",
    ),
];
