//! Which server a key is on, as libmemcached decides (`libmemcached/hosts.cc`, `hash.cc`) with the settings of php-memcached's
//! session handler.
//!
//! | distribution | points of a server | a key's hash |
//! |---|---|---|
//! | `ketama` | 100, whatever its weight: Jenkins' one-at-a-time hash of `host:port-0` to `host:port-99` | the same hash |
//! | `ketama_weighted` | about 160, as its weight says: the four little-endian numbers in the MD5 of `host:port-0` and so on | the first of the four |
//! | `modula` | none: the hash modulo the number of servers | Jenkins' |
//!
//! The port is left out of a point's name where it is 11211; a socket has the port 0. A key is on the server of the first
//! point that is not below its hash, or else of the first one at all. The prefix is no part of a key here.

use std::borrow::Cow;

use md5::{Digest, Md5};

use super::options::{Distribution, Endpoint, Options};
use crate::net::Address;

/// The servers' places on the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ring {
    distribution: Distribution,
    servers: usize,
    /// By value, and the index of a server.
    points: Vec<(u32, usize)>,
}

impl Ring {
    /// The ring of all servers.
    pub(super) fn of(options: &Options) -> Self {
        Ring::without(&[], &options.servers, options.distribution)
    }

    /// The ring of those servers that are not left out; of all where none would be left.
    pub(super) fn without(left_out: &[usize], servers: &[Endpoint], distribution: Distribution) -> Self {
        let mut members: Vec<(usize, &Endpoint)> =
            servers.iter().enumerate().filter(|(index, _)| !left_out.contains(index)).collect();
        if members.is_empty() {
            members = servers.iter().enumerate().collect();
        }
        let mut points: Vec<(u32, usize)> = match distribution {
            // libmemcached leaves nobody out here.
            Distribution::Modula => Vec::new(),
            Distribution::Ketama => members
                .iter()
                .flat_map(|(index, server)| {
                    (0..100).map(|number| (one_at_a_time(&label(server, number)), *index))
                })
                .collect(),
            Distribution::KetamaWeighted => {
                let total: u64 = members.iter().map(|(_, server)| u64::from(server.weight)).sum();
                let labels = |server: &Endpoint| share(server.weight, total, members.len());
                members
                    .iter()
                    .flat_map(|(index, server)| {
                        (0..labels(server))
                            .flat_map(|number| md5(&label(server, number)))
                            .map(|value| (value, *index))
                    })
                    .collect()
            }
        };
        points.sort_unstable();
        Ring { distribution, servers: servers.len(), points }
    }

    /// The index of the server that has this key.
    pub(super) fn server(&self, key: &str) -> usize {
        let hash = match self.distribution {
            _ if self.servers == 1 => return 0,
            Distribution::Modula => return one_at_a_time(key) as usize % self.servers,
            Distribution::Ketama => one_at_a_time(key),
            Distribution::KetamaWeighted => md5(key)[0],
        };
        let next = self.points.partition_point(|(value, _)| *value < hash);
        self.points.get(next).or(self.points.first()).map_or(0, |(_, index)| *index)
    }
}

/// How many labels a server of this weight has, in the precision of libmemcached: another one would move sessions.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "as libmemcached counts"
)]
fn share(weight: u32, total: u64, servers: usize) -> u32 {
    let part = weight as f32 / total as f32;
    (part * 160.0 / 4.0 * servers as f32 + 0.000_000_000_1).floor() as u32
}

/// The name of a server's point.
fn label(server: &Endpoint, number: u32) -> String {
    match &server.address {
        Address::Tcp { host, port: 11211 } => format!("{}-{number}", written(host)),
        Address::Tcp { host, port } => format!("{}:{port}-{number}", written(host)),
        Address::Unix(path) => format!("{}:0-{number}", path.display()),
    }
}

/// The host as it stands in the list: an IPv6 address with its brackets.
fn written(host: &str) -> Cow<'_, str> {
    if host.contains(':') { format!("[{host}]").into() } else { host.into() }
}

/// Bob Jenkins' hash.
fn one_at_a_time(text: &str) -> u32 {
    let mut hash: u32 = 0;
    for byte in text.bytes() {
        hash = hash.wrapping_add(u32::from(byte));
        hash = hash.wrapping_add(hash << 10);
        hash ^= hash >> 6;
    }
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

fn md5(text: &str) -> [u32; 4] {
    let digest: [u8; 16] = Md5::digest(text).into();
    std::array::from_fn(|index| {
        let at = index * 4;
        u32::from_le_bytes([digest[at], digest[at + 1], digest[at + 2], digest[at + 3]])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Environment, SavePath};

    fn servers(list: &str) -> Vec<Endpoint> {
        match SavePath::parse(list, &Environment::default()).unwrap() {
            SavePath::Store(url) => Options::parse(&url).unwrap().servers,
            SavePath::Detect => panic!("{list} means detection"),
        }
    }

    fn hex(text: &str) -> String {
        Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// `Memcached::getServerByKey` of php-memcached 3.2 (libmemcached 1.1.4), for the MD5 of 0 to 59.
    #[test]
    fn sixty_keys_are_where_libmemcached_has_them() {
        let keys: Vec<String> = (0..60).map(|number| hex(&number.to_string())).collect();
        let three = "memcached://10.0.0.1:11211:1,10.0.0.2:11212:3,cache.example:11299:2";
        let usual = "memcached://a,b,c,d";
        let sockets = "memcached:///run/a.sock:0:2,/run/b.sock:0:5";
        for (list, distribution, expected) in [
            (three, Distribution::Ketama, "000212201122000122211000010101201020112112020110001221212002"),
            (
                three,
                Distribution::KetamaWeighted,
                "101122111121110110101202110012022211211101122111112110011022",
            ),
            (three, Distribution::Modula, "001210120121011221210211222112012012111110000202120210000021"),
            (usual, Distribution::Ketama, "232310233331022213231302301013010100023222321303220002220110"),
            (
                usual,
                Distribution::KetamaWeighted,
                "302103232133010131231100110310300020221210110212200213120300",
            ),
            (usual, Distribution::Modula, "233010033020230332133333113320002011302203021130221102113012"),
            (sockets, Distribution::Ketama, "111001110101001000000010011001010110000100001111001011100101"),
            (
                sockets,
                Distribution::KetamaWeighted,
                "110111101100010011111011111111111111111011111011011111110011",
            ),
            (sockets, Distribution::Modula, "011010011000010110111111111100000011100001001110001100111010"),
        ] {
            let ring = Ring::without(&[], &servers(list), distribution);
            let seen: String = keys.iter().map(|key| ring.server(key).to_string()).collect();
            assert_eq!(seen, expected, "{list} {distribution:?}");
        }
    }

    /// Where php-memcached's session handler (3.2) put the sessions whose ids are the MD5 of 0 to 11.
    #[test]
    fn the_brackets_of_an_ipv6_address_are_part_of_a_points_name() {
        let ring = Ring::without(&[], &servers("memcached://[::1]:21311,[::1]:21312"), Distribution::Ketama);
        let seen: String = (0..12).map(|number| ring.server(&hex(&number.to_string())).to_string()).collect();
        assert_eq!(seen, "001111101101");
    }

    #[test]
    fn one_server_has_everything_and_leaving_out_all_leaves_out_none() {
        let one = servers("memcached://h");
        assert_eq!(Ring::without(&[], &one, Distribution::Modula).server("x"), 0);
        let three = servers("memcached://a,b,c");
        let whole = Ring::without(&[], &three, Distribution::Ketama);
        assert_eq!(Ring::without(&[0, 1, 2], &three, Distribution::Ketama), whole);
    }

    #[test]
    fn the_keys_of_a_server_that_is_left_out_move_and_no_others() {
        let three = servers("memcached://a,b,c");
        let whole = Ring::without(&[], &three, Distribution::Ketama);
        let rest = Ring::without(&[1], &three, Distribution::Ketama);
        for key in (0..1000).map(|number| number.to_string()) {
            match whole.server(&key) {
                1 => assert_ne!(rest.server(&key), 1),
                other => assert_eq!(rest.server(&key), other),
            }
        }
    }
}
