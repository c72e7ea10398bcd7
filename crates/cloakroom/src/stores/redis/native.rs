//! The same servers, as phpredis is told of them.

use super::options::{CLUSTER_PREFIX, Endpoint, Options, PREFIX, Servers};
use crate::Result;
use crate::net::{Address, TlsOptions};
use crate::stores::native::{LOCK_EXPIRE, NativeSettings, pair, refused};

/// The user in Heroku's URLs, whom no server knows: phpredis would be refused.
const PLACEHOLDER: &str = "h";

impl Options {
    /// What php.ini has to say for phpredis to find these sessions, with locks that lose nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for sentinels: phpredis' session handler does not ask them.
    pub fn for_phpredis(&self) -> Result<NativeSettings> {
        match &self.servers {
            Servers::Pool(pool) => Ok(of_pool(pool)),
            Servers::Cluster { every, seeds } => Ok(of_cluster(every, seeds)),
            Servers::Sentinel { .. } => Err(refused(
                "phpredis has no session handler that asks sentinels",
                "write the ini for Cloakroom, or name the primary itself",
            )),
        }
    }
}

fn of_pool(pool: &[(u32, Endpoint)]) -> NativeSettings {
    let urls: Vec<String> = pool.iter().map(|(weight, endpoint)| endpoint.for_phpredis(*weight)).collect();
    let mut native = NativeSettings::of("redis", &urls.join(", "));
    if pool.iter().any(|(_, endpoint)| endpoint.wait_replicas > 0) {
        native.notes.push("phpredis does not wait for replicas");
    }
    if pool.iter().any(|(_, endpoint)| endpoint.tls.as_ref().is_some_and(|tls| !queries(tls).is_empty())) {
        native.notes.push("stream[...] needs phpredis 6: 5.3 passes over it");
    }
    let placeholder = |endpoint: &Endpoint| {
        endpoint.credentials.as_ref().is_some_and(|given| given.user.as_deref() == Some(PLACEHOLDER))
    };
    if pool.iter().any(|(_, endpoint)| placeholder(endpoint)) {
        native.notes.push("the user h is left out: Heroku writes it where there is none");
    }
    if pool.len() > 1 {
        native.notes.push(
            "no locks, because phpredis does not release those of several servers: the last of two requests wins",
        );
        native.set("redis.session.locking_enabled", 0);
        return native;
    }
    native.set("redis.session.locking_enabled", 1);
    // Without it phpredis writes although its lock has run out.
    native.set("redis.session.lock_expire", LOCK_EXPIRE);
    // Ten seconds in all, in microseconds each.
    native.set("redis.session.lock_retries", 500);
    native.set("redis.session.lock_wait_time", 20_000);
    native
}

fn of_cluster(every: &Endpoint, seeds: &[Address]) -> NativeSettings {
    let mut query: Vec<String> = seeds.iter().map(|seed| format!("seed[]={}", host_and_port(seed))).collect();
    query.extend(every.options(CLUSTER_PREFIX));
    let mut native = NativeSettings::of("rediscluster", &query.join("&"));
    native.notes.push("no locks, because phpredis has none on clusters: the last of two requests wins");
    native
}

impl Endpoint {
    fn for_phpredis(&self, weight: u32) -> String {
        let scheme = match (&self.address, &self.tls) {
            (Address::Unix(_), _) => "unix",
            (Address::Tcp { .. }, Some(_)) => "tls",
            (Address::Tcp { .. }, None) => "tcp",
        };
        let mut query = self.options(PREFIX);
        if weight != 1 {
            query.insert(0, pair("weight", weight));
        }
        let separator = if query.is_empty() { "" } else { "?" };
        format!("{scheme}://{}{separator}{}", host_and_port(&self.address), query.join("&"))
    }

    /// What follows the server; `prefix` is phpredis' own there.
    fn options(&self, prefix: &str) -> Vec<String> {
        let mut query = Vec::new();
        if let Some(credentials) = &self.credentials {
            let password = credentials.password.reveal();
            match &credentials.user {
                Some(user) if user != PLACEHOLDER => {
                    query.extend([pair("auth[]", user), pair("auth[]", password)])
                }
                // Every phpredis takes it.
                _ => query.push(pair("auth", password)),
            }
        }
        if self.database != 0 {
            query.push(pair("database", self.database));
        }
        if self.prefix != prefix {
            query.push(pair("prefix", &self.prefix));
        }
        let times = [("timeout", self.connect_timeout), ("read_timeout", self.timeout)];
        query.extend(times.iter().filter_map(|(name, time)| Some(pair(name, time.as_ref()?.as_secs_f64()))));
        query.extend(self.tls.iter().flat_map(queries));
        query
    }
}

/// Without the brackets of IPv6: phpredis 5.3 does not take them.
fn host_and_port(address: &Address) -> String {
    match address {
        Address::Tcp { host, port } => format!("{host}:{port}"),
        Address::Unix(path) => path.display().to_string(),
    }
}

/// What is not PHP's default.
fn queries(tls: &TlsOptions) -> Vec<String> {
    let mut query = Vec::new();
    let mut add = |name: &str, value: String| query.push(pair(&format!("stream[{name}]"), value));
    if !tls.verify_peer {
        add("verify_peer", "0".into());
    }
    // Without the one, Cloakroom does not do the other.
    if !tls.verify_peer || !tls.verify_peer_name {
        add("verify_peer_name", "0".into());
    }
    if tls.allow_self_signed {
        add("allow_self_signed", "1".into());
    }
    for (name, path) in [("cafile", &tls.cafile), ("capath", &tls.capath)] {
        if let Some(path) = path {
            add(name, path.display().to_string());
        }
    }
    if let Some(name) = &tls.peer_name {
        add("peer_name", name.clone());
    }
    if !tls.name_sent {
        add("SNI_enabled", "0".into());
    }
    if let Some(identity) = &tls.identity {
        add("local_cert", identity.certificate.display().to_string());
        add("local_pk", identity.key.display().to_string());
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Environment, SavePath};

    fn native(text: &str) -> Result<NativeSettings> {
        let SavePath::Store(url) = SavePath::parse(text, &Environment::default())? else { unreachable!() };
        Options::parse(&url)?.for_phpredis()
    }

    fn save_path(text: &str) -> String {
        native(text).unwrap().settings[1].1.reveal().to_owned()
    }

    #[test]
    fn every_option_is_written_as_phpredis_takes_it() {
        for (ours, theirs) in [
            ("redis://h", "tcp://h:6379"),
            ("redis://:a%2Bb%2C%20%26%23%40@h:1/2", "tcp://h:1?auth=a%2Bb%2C%20%26%23%40&database=2"),
            ("redis://u%20:p@h", "tcp://h:6379?auth[]=u%20&auth[]=p"),
            ("redis://h:p@s", "tcp://s:6379?auth=p"),
            ("tcp://h?auth=", "tcp://h:6379"),
            ("redis:///run/r.sock?db=1", "unix:///run/r.sock?database=1"),
            ("redis://h?prefix=PHPREDIS_SESSION:", "tcp://h:6379"),
            (
                "redis://h?prefix=my app:&timeout=1.5&read_timeout=2",
                "tcp://h:6379?prefix=my%20app%3A&timeout=1.5&read_timeout=2",
            ),
            ("redis://[::1]:1", "tcp://::1:1"),
            ("rediss://h", "tls://h:6379"),
            ("rediss://h#insecure", "tls://h:6379?stream[verify_peer]=0&stream[verify_peer_name]=0"),
            (
                "rediss://h?cafile=/c a&peer_name=x",
                "tls://h:6379?stream[cafile]=%2Fc%20a&stream[peer_name]=x",
            ),
            ("tcp://a:1?weight=1, tcp://b:2?weight=2", "tcp://a:1, tcp://b:2?weight=2"),
            ("redis+cluster://u:p@a:1,b:2", "seed[]=a:1&seed[]=b:2&auth[]=u&auth[]=p"),
        ] {
            assert_eq!(save_path(ours), theirs, "{ours}");
        }
    }

    #[test]
    fn locks_are_on_where_phpredis_releases_them() {
        let settings = |text| {
            let settings = native(text).unwrap().settings;
            settings.into_iter().map(|(name, value)| format!("{name}={}", value.reveal())).collect::<Vec<_>>()
        };
        assert_eq!(
            settings("redis://h"),
            [
                "session.save_handler=redis",
                "session.save_path=tcp://h:6379",
                "redis.session.locking_enabled=1",
                "redis.session.lock_expire=300",
                "redis.session.lock_retries=500",
                "redis.session.lock_wait_time=20000",
            ]
        );
        assert_eq!(
            settings("tcp://a,tcp://b"),
            [
                "session.save_handler=redis",
                "session.save_path=tcp://a:6379, tcp://b:6379",
                "redis.session.locking_enabled=0",
            ]
        );
        assert_eq!(
            settings("redis+cluster://a:1"),
            ["session.save_handler=rediscluster", "session.save_path=seed[]=a:1"]
        );
    }

    #[test]
    fn sentinels_are_refused() {
        assert_eq!(
            native("redis+sentinel://a,b/m").unwrap_err().to_string(),
            "phpredis has no session handler that asks sentinels\nhint: write the ini for Cloakroom, or name the \
             primary itself"
        );
    }
}
