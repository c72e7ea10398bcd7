//! The same servers, as php-memcached is told of them.

use super::options::{Distribution, Endpoint, LockPlace, Options, PREFIX, Protocol};
use crate::Result;
use crate::net::Address;
use crate::stores::native::{LOCK_EXPIRE, NativeSettings, refused};

impl Options {
    /// What php.ini has to say for php-memcached 3 to find these sessions, with locks that lose nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for TLS, which php-memcached does not speak, and for
    /// `lock=own` on several servers, where it would look for locks elsewhere.
    pub fn for_php_memcached(&self) -> Result<NativeSettings> {
        if self.tls.is_some() {
            return Err(refused("php-memcached does not speak TLS", "write the ini for Cloakroom"));
        }
        if self.lock == LockPlace::Own && self.servers.len() > 1 {
            return Err(refused(
                "php-memcached does not have a session and its lock on one server",
                "leave lock=own out of the URL, or write the ini for Cloakroom",
            ));
        }
        let servers: Vec<String> = self.servers.iter().map(Endpoint::for_php_memcached).collect();
        let mut native = NativeSettings::of("memcached", &servers.join(","));
        if self.prefix != PREFIX {
            native.set("memcached.sess_prefix", &self.prefix);
        }
        match (self.protocol, &self.credentials) {
            (_, Some(credentials)) => {
                native.set("memcached.sess_binary_protocol", 1);
                native.set("memcached.sess_sasl_username", &credentials.user);
                native.set("memcached.sess_sasl_password", credentials.password.reveal());
                // To log in costs as much as all else together.
                native.set("memcached.sess_persistent", 1);
            }
            (Protocol::Binary, None) => native.set("memcached.sess_binary_protocol", 1),
            // Copies are made in the binary protocol alone.
            (_, None) if self.replicas > 0 => native.set("memcached.sess_binary_protocol", 1),
            (Protocol::Ascii | Protocol::Meta, None) => native.set("memcached.sess_binary_protocol", 0),
            (Protocol::Auto, None) => {}
        }
        match self.distribution {
            Distribution::Ketama => {}
            Distribution::KetamaWeighted => {
                native.set("memcached.sess_consistent_hash_type", "ketama_weighted");
            }
            Distribution::Modula => native.set("memcached.sess_consistent_hash", 0),
        }
        if self.replicas > 0 {
            native.set("memcached.sess_number_of_replicas", self.replicas);
        }
        if let Some(limit) = self.remove_failed_after {
            native.set("memcached.sess_remove_failed_servers", 1);
            native.set("memcached.sess_server_failure_limit", limit);
        }
        if let Some(time) = self.connect_timeout {
            native.set("memcached.sess_connect_timeout", time.as_millis().max(1));
        }
        native.set("memcached.sess_locking", 1);
        // php-memcached overwrites and releases what is another's once its lock has run out.
        native.set("memcached.sess_lock_expire", LOCK_EXPIRE);
        // Ten seconds in all, in milliseconds each.
        native.set("memcached.sess_lock_wait_min", 20);
        native.set("memcached.sess_lock_wait_max", 100);
        native.set("memcached.sess_lock_retries", 101);
        Ok(native)
    }
}

impl Endpoint {
    fn for_php_memcached(&self) -> String {
        let weight = if self.weight == 1 { String::new() } else { format!(":{}", self.weight) };
        match &self.address {
            Address::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}{weight}"),
            Address::Tcp { host, port } => format!("{host}:{port}{weight}"),
            Address::Unix(path) if weight.is_empty() => path.display().to_string(),
            Address::Unix(path) => format!("{}:0{weight}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Environment, SavePath};

    const LOCKS: &[&str] = &[
        "memcached.sess_locking=1",
        "memcached.sess_lock_expire=300",
        "memcached.sess_lock_wait_min=20",
        "memcached.sess_lock_wait_max=100",
        "memcached.sess_lock_retries=101",
    ];

    fn native(text: &str) -> Result<Vec<String>> {
        let SavePath::Store(url) = SavePath::parse(text, &Environment::default())? else { unreachable!() };
        let settings = Options::parse(&url)?.for_php_memcached()?.settings;
        Ok(settings.into_iter().map(|(name, value)| format!("{name}={}", value.reveal())).collect())
    }

    #[test]
    fn every_option_is_written_as_php_memcached_takes_it() {
        for (ours, theirs) in [
            ("memcached://h", &["session.save_path=h:11211"][..]),
            (
                "memcached://a,b:2:3,[::1]:4,/run/m.sock",
                &["session.save_path=a:11211,b:2:3,[::1]:4,/run/m.sock"],
            ),
            (
                "memcached://u:a%22b@h?prefix=x",
                &[
                    "session.save_path=h:11211",
                    "memcached.sess_prefix=x",
                    "memcached.sess_binary_protocol=1",
                    "memcached.sess_sasl_username=u",
                    "memcached.sess_sasl_password=a\"b",
                    "memcached.sess_persistent=1",
                ],
            ),
            (
                "memcached://a,b?protocol=ascii&distribution=modula&timeout=0.5",
                &[
                    "session.save_path=a:11211,b:11211",
                    "memcached.sess_binary_protocol=0",
                    "memcached.sess_consistent_hash=0",
                    "memcached.sess_connect_timeout=500",
                ],
            ),
            (
                "memcached://a,b?distribution=ketama_weighted&replicas=1&remove_failed_servers=1&server_failure_limit=2",
                &[
                    "session.save_path=a:11211,b:11211",
                    "memcached.sess_binary_protocol=1",
                    "memcached.sess_consistent_hash_type=ketama_weighted",
                    "memcached.sess_number_of_replicas=1",
                    "memcached.sess_remove_failed_servers=1",
                    "memcached.sess_server_failure_limit=2",
                ],
            ),
        ] {
            let expected = [&["session.save_handler=memcached"], theirs, LOCKS].concat();
            assert_eq!(native(ours).unwrap(), expected, "{ours}");
        }
    }

    #[test]
    fn what_php_memcached_cannot_do_is_refused() {
        for (ours, error) in [
            ("memcacheds://h", "php-memcached does not speak TLS\nhint: write the ini for Cloakroom"),
            (
                "memcached://a,b?lock=own",
                "php-memcached does not have a session and its lock on one server\nhint: leave lock=own out of the \
                 URL, or write the ini for Cloakroom",
            ),
        ] {
            assert_eq!(native(ours).unwrap_err().to_string(), error, "{ours}");
        }
    }
}
