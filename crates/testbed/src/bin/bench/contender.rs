//! Who takes part: PHP's own handlers as their users configure them, and ours.

use std::collections::BTreeMap;
use std::path::PathBuf;

use testbed::TempDir;
use testbed::fleet::{Plan, writable};
use testbed::memcached::Memcached;
use testbed::need::Need;
use testbed::php::{Script, extension};
use testbed::redis::Redis;

/// A save handler with its settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contender {
    /// Its name in the JSON.
    pub(crate) key: &'static str,
    /// Its name on the terminal and in the chart.
    pub(crate) label: &'static str,
    pub(crate) engine: Engine,
    /// Whether it takes part in the race.
    pub(crate) races: bool,
    ours: bool,
    needs: &'static [Need],
    modules: &'static [&'static str],
    handler: &'static str,
    /// `{}` is the address or the directory.
    save_path: &'static str,
    settings: &'static [(&'static str, &'static str)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Files,
    Redis,
    Memcached,
}

/// What the others are compared with: phpredis with locks, as the articles on shared sessions configure it.
pub(crate) const BASE: &str = "phpredis_locked";

const FILES: Contender = Contender {
    key: "files",
    label: "files (PHP's own)",
    engine: Engine::Files,
    races: true,
    ours: false,
    needs: &[],
    modules: &[],
    handler: "files",
    save_path: "{}",
    settings: &[],
};
const PHPREDIS: Contender = Contender {
    key: "phpredis",
    label: "phpredis, no lock",
    engine: Engine::Redis,
    needs: &[Need::PhpRedis],
    modules: &["igbinary.so", "redis.so"],
    handler: "redis",
    save_path: "tcp://{}",
    ..FILES
};
const PHP_MEMCACHED: Contender = Contender {
    key: "memcached",
    label: "php-memcached",
    engine: Engine::Memcached,
    needs: &[Need::Memcached, Need::PhpMemcached],
    modules: &["igbinary.so", "msgpack.so", "memcached.so"],
    handler: "memcached",
    ..FILES
};
const CLOAKROOM: Contender = Contender {
    key: "cloakroom_redis",
    label: "cloakroom on Redis",
    engine: Engine::Redis,
    ours: true,
    handler: "cloakroom",
    save_path: "tcp://{}",
    ..FILES
};

const ALL: [Contender; 12] = [
    FILES,
    Contender {
        key: "cloakroom_files",
        label: "cloakroom on files",
        ours: true,
        handler: "cloakroom",
        ..FILES
    },
    PHPREDIS,
    Contender {
        key: "phpredis_persistent",
        label: "phpredis, no lock, persistent",
        save_path: "tcp://{}?persistent=1",
        races: false,
        ..PHPREDIS
    },
    Contender {
        key: BASE,
        label: "phpredis, lock",
        settings: &[("redis.session.locking_enabled", "1")],
        ..PHPREDIS
    },
    Contender {
        key: "phpredis_locked_persistent",
        label: "phpredis, lock, persistent",
        save_path: "tcp://{}?persistent=1",
        settings: &[("redis.session.locking_enabled", "1")],
        races: false,
        ..PHPREDIS
    },
    // What phpredis needs to lose nothing: to ask again every 2 ms, for ever.
    Contender {
        key: "phpredis_patient",
        label: "phpredis, lock, retries -1",
        settings: &[("redis.session.locking_enabled", "1"), ("redis.session.lock_retries", "-1")],
        ..PHPREDIS
    },
    PHP_MEMCACHED,
    Contender {
        key: "memcached_persistent",
        label: "php-memcached, persistent",
        settings: &[("memcached.sess_persistent", "1")],
        races: false,
        ..PHP_MEMCACHED
    },
    CLOAKROOM,
    Contender {
        key: "cloakroom_redis_unlocked",
        label: "cloakroom on Redis, lock=off",
        settings: &[("cloakroom.lock", "off")],
        ..CLOAKROOM
    },
    Contender {
        key: "cloakroom_memcached",
        label: "cloakroom on Memcached",
        engine: Engine::Memcached,
        needs: &[Need::Memcached],
        save_path: "memcached://{}",
        ..CLOAKROOM
    },
];

/// Those that can take part on this machine, and those that cannot, with what is missing.
pub(crate) fn present() -> (Vec<Contender>, Vec<(Contender, String)>) {
    for need in [Need::Php, Need::PhpFpm, Need::Nginx, Need::Redis] {
        if let Some(missing) = need.missing() {
            panic!("{missing} is missing; 'make bench' installs it");
        }
    }
    let lacks = |contender: &Contender| contender.needs.iter().find_map(|need| need.missing());
    let missing = ALL.iter().filter_map(|contender| Some((*contender, lacks(contender)?))).collect();
    (ALL.into_iter().filter(|contender| lacks(contender).is_none()).collect(), missing)
}

impl Contender {
    fn settings(&self, place: &str) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            ("session.save_handler", self.handler.to_owned()),
            ("session.save_path", self.save_path.replace("{}", place)),
        ];
        settings.extend(self.settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        settings
    }

    /// A script that uses it, without cookies, and with the address or the directory in `place`.
    pub(crate) fn script(&self, code: &str, place: &str) -> Script {
        let mut script = Script::new(code).ini("session.use_cookies", 0).ini("session.cache_limiter", "");
        script = if self.ours { script.cloakroom() } else { script };
        script = self.modules.iter().fold(script, |script, module| script.module(module));
        self.settings(place).into_iter().fold(script, |script, (name, value)| script.ini(name, value))
    }

    /// The same for PHP-FPM.
    pub(crate) fn plan(&self, root: PathBuf, place: &str) -> Plan {
        let mut plan = Plan::serving(root);
        plan = if self.ours { plan.module(&extension().display().to_string()) } else { plan };
        plan = self.modules.iter().fold(plan, |plan, module| plan.module(module));
        self.settings(place).into_iter().fold(plan, |plan, (name, value)| plan.ini(name, value))
    }
}

/// The engines.
pub(crate) struct Servers {
    pub(crate) redis: Redis,
    pub(crate) memcached: Option<Memcached>,
    directories: BTreeMap<&'static str, PathBuf>,
    _memory: Memory,
}

impl Servers {
    pub(crate) fn start() -> Servers {
        let memory = Memory::new();
        let mut directories = BTreeMap::new();
        for contender in ALL.iter().filter(|contender| contender.engine == Engine::Files) {
            let directory = memory.0.join(contender.key);
            writable(&directory);
            directories.insert(contender.key, directory);
        }
        let memcached = Need::Memcached.missing().is_none().then(|| Memcached::with(&["-t", "1"]));
        Servers { redis: Redis::start(), memcached, directories, _memory: memory }
    }

    /// The address or the directory of a contender.
    pub(crate) fn place(&self, contender: &Contender) -> String {
        match (contender.engine, &self.memcached) {
            (Engine::Redis, _) => self.redis.address(),
            (Engine::Memcached, Some(memcached)) => memcached.address(),
            (Engine::Memcached, None) => unreachable!("it does not take part without memcached"),
            (Engine::Files, _) => self.directories[contender.key].display().to_string(),
        }
    }

    pub(crate) fn pids(&self) -> Vec<i32> {
        [self.redis.pid()].into_iter().chain(self.memcached.as_ref().map(Memcached::pid)).collect()
    }
}

/// A directory in memory where there is such a file system: the handlers are compared, not the disk.
struct Memory(PathBuf, #[allow(dead_code, reason = "kept for its end")] TempDir);

impl Memory {
    fn new() -> Memory {
        let fallback = TempDir::new();
        let name = fallback.path().file_name().expect("it has a name");
        let memory = PathBuf::from("/dev/shm").join(name);
        match std::fs::create_dir(&memory) {
            Ok(()) => Memory(memory, fallback),
            Err(_) => Memory(fallback.path().to_owned(), fallback),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
