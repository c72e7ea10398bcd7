//! What a case needs on the machine.

use std::path::{Path, PathBuf};

/// A program or file that a case cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The `php` command.
    Php,
    /// PHP-FPM.
    PhpFpm,
    /// Debian's phpredis.
    PhpRedis,
    /// phpredis 6, which `make test` builds.
    PhpRedis6,
    /// The same, built where the libraries of zstd and LZ4 were.
    PhpRedis6Compression,
    /// Debian's php-memcached.
    PhpMemcached,
    /// Debian's igbinary.
    PhpIgbinary,
    /// Symfony's HttpFoundation.
    Symfony,
    /// redis-server.
    Redis,
    /// Valkey, which `make test` fetches.
    Valkey,
    /// Redis 6.2, which `make test` fetches.
    Redis62,
    /// The IPv6 loopback address.
    Ipv6,
    /// memcached.
    Memcached,
    /// memcached with SASL, and what makes a user of it.
    MemcachedSasl,
    /// dynalite, a DynamoDB in JavaScript that `make test` fetches.
    Dynalite,
    /// AWS's DynamoDBLocal, which `make test` fetches.
    DynamoDbLocal,
    /// twemproxy.
    Twemproxy,
    /// nginx.
    Nginx,
    /// wrk, which sends many requests.
    Wrk,
    /// Chromium and its WebDriver server.
    Chromium,
    /// User-mode Linux with the NFS tools.
    UserModeLinux,
    /// Being root with the right to make mount namespaces.
    MountNamespaces,
}

impl Need {
    /// Whether a machine may lack it for good: then its cases are shown as ignored in CI, too.
    pub fn is_where_it_is(self) -> bool {
        // Not every host has IPv6, nor every platform a program in a Python package.
        matches!(self, Need::Ipv6 | Need::Valkey | Need::Redis62)
    }

    /// The name of what is missing, or `None` when it is there.
    pub fn missing(self) -> Option<String> {
        let program = |names: &[&str]| match names.iter().all(|name| find(name).is_some()) {
            true => None,
            false => Some(names.join(" and ")),
        };
        match self {
            Need::Php => program(&["php"]),
            Need::PhpFpm => crate::php::fpm_program().is_none().then(|| "php-fpm".into()),
            Need::PhpRedis => module("redis.so"),
            Need::PhpRedis6 => (!crate::php::phpredis6().is_file()).then(|| "phpredis 6".into()),
            Need::PhpRedis6Compression => {
                let built = std::fs::read(crate::php::phpredis6()).unwrap_or_default();
                let calls = |name: &str| built.windows(name.len()).any(|bytes| bytes == name.as_bytes());
                let complete = calls("ZSTD_compress") && calls("LZ4_compress_HC");
                (!complete).then(|| "phpredis 6 with zstd and LZ4".into())
            }
            Need::PhpMemcached => module("memcached.so"),
            Need::PhpIgbinary => module("igbinary.so"),
            Need::Symfony => {
                let installed = Path::new("/usr/share/php/Symfony/Component/HttpFoundation").is_dir();
                (!installed).then(|| "Symfony's HttpFoundation".into())
            }
            Need::Redis => program(&["redis-server"]),
            Need::Valkey => crate::redis::Program::Valkey.path().is_none().then(|| "valkey-server".into()),
            Need::Redis62 => crate::redis::Program::Redis62.path().is_none().then(|| "Redis 6.2".into()),
            Need::Ipv6 => std::net::TcpListener::bind("[::1]:0").is_err().then(|| "IPv6 on loopback".into()),
            Need::Memcached => program(&["memcached"]),
            Need::MemcachedSasl => program(&["memcached", "saslpasswd2"]).or_else(sasl_plain),
            Need::Dynalite => program(&["node"]).or_else(|| unfetched(crate::dynamodb::Program::Dynalite)),
            Need::DynamoDbLocal => program(&["java"]).or_else(|| unfetched(crate::dynamodb::Program::Local)),
            Need::Twemproxy => program(&["nutcracker"]),
            Need::Nginx => program(&["nginx"]),
            Need::Wrk => program(&["wrk"]),
            Need::Chromium => program(&["chromium", "chromedriver"]),
            Need::UserModeLinux => {
                program(&["linux.uml", "rpc.nfsd", "mount.nfs4", "rpcbind", "modprobe", "ip", "mkfs.ext4"])
            }
            Need::MountNamespaces => {
                let allowed = std::process::Command::new("unshare").args(["-m", "true"]).output();
                (!allowed.is_ok_and(|output| output.status.success()))
                    .then(|| "the right to unshare -m".into())
            }
        }
    }
}

/// Where a program is, in `PATH` or where Debian keeps servers.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// SASL's mechanism for passwords, where distributions keep it.
fn sasl_plain() -> Option<String> {
    let here = |path: &Path| path.join("sasl2/libplain.so").is_file();
    let found = ["/usr/lib", "/usr/lib64"].into_iter().any(|libraries| {
        let below = std::fs::read_dir(libraries).into_iter().flatten().flatten();
        here(Path::new(libraries)) || below.map(|entry| entry.path()).any(|path| here(&path))
    });
    (!found).then(|| "SASL's libplain.so".into())
}

fn unfetched(program: crate::dynamodb::Program) -> Option<String> {
    (!program.path().is_file()).then(|| program.name().to_owned())
}

fn module(name: &str) -> Option<String> {
    let found =
        crate::php::extension_dir().is_some_and(|directory| Path::new(&directory).join(name).is_file());
    (!found).then(|| format!("PHP's {name}"))
}
