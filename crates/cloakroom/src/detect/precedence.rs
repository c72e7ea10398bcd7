//! Which place comes before which.

use super::seen::{Seen, Variables};
use super::{azure, bindings, cloud_foundry, memcached, parts, platform_sh, store_url, urls};

/// One place where a store may be named.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// The lowest rank that names a store decides.
    pub rank: u8,
    /// Where it is met.
    pub platform: &'static str,
    /// What names the store there.
    pub named_by: &'static str,
    pub(super) look: fn(&Variables<'_>) -> Vec<Seen>,
}

/// Every place that is looked at, in the order of precedence.
pub const SOURCES: &[Source] = &[
    // 1: somebody says it.
    Source {
        rank: 1,
        platform: "anywhere",
        named_by: "`SESSION_STORE_URL`: a URL, `env:NAME`, or `files`",
        look: store_url::look,
    },
    // 2: somebody called it the sessions'.
    Source {
        rank: 2,
        platform: "Cloud Foundry",
        named_by: "`VCAP_SERVICES` or `VCAP_SERVICES_FILE_PATH`: a service whose name contains `redis-sessions`, or else \
                   `memcached-sessions`",
        look: cloud_foundry::look,
    },
    Source {
        rank: 2,
        platform: "service bindings",
        named_by: "`SERVICE_BINDING_ROOT`: a binding of type `php-redis-session` or `php-memcached-session`, or of Redis or \
                   Memcached with `session` in its name",
        look: bindings::sessions,
    },
    Source {
        rank: 2,
        platform: "Platform.sh, Upsun",
        named_by: "`PLATFORM_RELATIONSHIPS`: a relationship with `session` in its name",
        look: platform_sh::sessions,
    },
    Source {
        rank: 2,
        platform: "anywhere",
        named_by: "a variable with `SESSION` in its name: `SESSIONS_URL`, `REDISSESSION_HOST` (with `_PORT`, `_PASSWORD`, ...), \
                   `SESSIONS_SERVERS`",
        look: urls::sessions,
    },
    // 3: the platform's own switch.
    Source {
        rank: 3,
        platform: "Clever Cloud",
        named_by: "`SESSION_TYPE=redis`, with `REDIS_HOST`, `REDIS_PORT`, `REDIS_PASSWORD`",
        look: parts::clever_cloud,
    },
    // 4: Redis by URL.
    Source {
        rank: 4,
        platform: "anywhere",
        named_by: "`REDIS_URL`, or its twin with TLS, `REDIS_TLS_URL`; before all others of this rank",
        look: urls::redis_url,
    },
    Source {
        rank: 4,
        platform: "anywhere",
        named_by: "`VALKEY_URL`, `SCALINGO_REDIS_URL`, `REDISCLOUD_URL`, `REDISGREEN_URL`, `MEMETRIA_REDIS_URL`, \
                   `OPENREDIS_URL`, `REDISTOGO_URL`, `STACKHERO_REDIS_URL_TLS`, `STACKHERO_REDIS_URL_CLEAR`, and \
                   `DATABASE_URL` where it is one of Redis",
        look: urls::of_add_ons,
    },
    Source { rank: 4, platform: "Heroku", named_by: "`HEROKU_REDIS_<COLOR>_URL`", look: urls::colours },
    // 5: Redis in parts.
    Source {
        rank: 5,
        platform: "anywhere",
        named_by: "`REDIS_HOST` (a host, or a socket's path), `REDIS_PORT`, `REDIS_PASSWORD`, `REDIS_USERNAME`, `REDIS_DB`, \
                   `REDIS_SCHEME`; `REDIS_HOST_PORT`, ...",
        look: parts::redis_host,
    },
    Source {
        rank: 5,
        platform: "Railway, Google Cloud",
        named_by: "`REDISHOST`, `REDISPORT`, `REDISUSER`, `REDISPASSWORD`",
        look: parts::redishost,
    },
    Source {
        rank: 5,
        platform: "Clever Cloud",
        named_by: "`KV_HOST`, `KV_PORT`, `KV_TOKEN`",
        look: parts::materia,
    },
    Source {
        rank: 5,
        platform: "Platform.sh, Upsun",
        named_by: "`PLATFORM_RELATIONSHIPS`: a relationship to Redis or Valkey",
        look: platform_sh::redis,
    },
    Source {
        rank: 5,
        platform: "service bindings",
        named_by: "`SERVICE_BINDING_ROOT`: a binding of type `redis` or `valkey`",
        look: bindings::redis,
    },
    Source {
        rank: 5,
        platform: "Azure",
        named_by: "`AZURE_REDIS_CONNECTIONSTRING`, `REDISCACHECONNSTR_<name>`",
        look: azure::look,
    },
    // 6: Memcached.
    Source {
        rank: 6,
        platform: "Heroku",
        named_by: "`MEMCACHIER_SERVERS`, `MEMCACHIER_USERNAME`, `MEMCACHIER_PASSWORD`; the same of `MEMCACHEDCLOUD`",
        look: memcached::of_add_ons,
    },
    Source {
        rank: 6,
        platform: "anywhere",
        named_by: "`MEMCACHED_URL`, `MEMCACHED_DSN`; `MEMCACHED_HOST`, `MEMCACHED_PORT`, `MEMCACHED_USERNAME`, \
                   `MEMCACHED_PASSWORD`",
        look: memcached::named,
    },
    Source {
        rank: 6,
        platform: "Platform.sh, Upsun",
        named_by: "`PLATFORM_RELATIONSHIPS`: a relationship to Memcached",
        look: platform_sh::memcached,
    },
    Source {
        rank: 6,
        platform: "service bindings",
        named_by: "`SERVICE_BINDING_ROOT`: a binding of type `memcached`",
        look: bindings::memcached,
    },
];
