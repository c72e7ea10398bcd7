//! Which node has which hash slot, as the nodes tell.

use std::fmt;
use std::sync::Arc;

use redis::Value;

use crate::net::Address;

/// How many slots there are.
const SLOTS: usize = 16384;

/// The slot of a key: of what stands between its first `{` and the next `}`, unless that is nothing.
pub(super) fn slot(key: &[u8]) -> u16 {
    crc16(hash_tag(key).unwrap_or(key)) % SLOTS as u16
}

/// What stands between the first `{` of a key and the next `}`, unless that is nothing.
pub(in crate::stores::redis) fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let start = key.iter().position(|byte| *byte == b'{')? + 1;
    let length = key[start..].iter().position(|byte| *byte == b'}')?;
    (length > 0).then(|| &key[start..start + length])
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum, byte| {
        (0..8).fold(sum ^ (u16::from(*byte) << 8), |sum, _| match sum & 0x8000 {
            0 => sum << 1,
            _ => (sum << 1) ^ 0x1021,
        })
    })
}

/// A node, by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    host: Arc<str>,
    port: u16,
}

/// As in a URL.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Node {
    /// The node at this address, unless that is a socket.
    pub(super) fn at(address: &Address) -> Option<Self> {
        match address {
            Address::Tcp { host, port } => Some(Node { host: host.as_str().into(), port: *port }),
            Address::Unix(_) => None,
        }
    }

    pub(super) fn address(&self) -> Address {
        Address::Tcp { host: self.host.to_string(), port: self.port }
    }

    /// The node that this one names: one that does not know its own address names none.
    pub(super) fn or_at(&self, host: &str, port: u16) -> Node {
        let host = match host {
            "" | "?" => Arc::clone(&self.host),
            host => host.into(),
        };
        Node { host, port }
    }
}

/// The nodes, and which slots each is the master of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Slots {
    nodes: Vec<Node>,
    /// For each slot, the place of its master among the nodes; empty when nothing is known.
    masters: Vec<Option<u16>>,
}

impl Slots {
    /// What `teller` answered to `CLUSTER SLOTS`; `None` when it has no slots to tell of, or something else.
    pub(super) fn told(answer: &Value, teller: &Node) -> Option<Self> {
        let mut slots = Slots::default();
        let Value::Array(ranges) = answer else { return None };
        for range in ranges {
            let Value::Array(parts) = range else { return None };
            let [Value::Int(first), Value::Int(last), nodes @ ..] = &parts[..] else { return None };
            let (first, last) = (usize::try_from(*first).ok()?, usize::try_from(*last).ok()?);
            let mut places = Vec::new();
            for node in nodes {
                let Value::Array(parts) = node else { return None };
                let host = match parts.first()? {
                    Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
                    Value::Nil => String::new(),
                    _ => return None,
                };
                let Value::Int(port) = parts.get(1)? else { return None };
                places.push(slots.place(teller.or_at(&host, u16::try_from(*port).ok()?)));
            }
            slots.masters.resize(SLOTS, None);
            slots.masters.get_mut(first..=last)?.fill(places.first().copied());
        }
        (!slots.nodes.is_empty()).then_some(slots)
    }

    /// Every node that was told of.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// The nodes that have slots.
    pub(super) fn masters(&self) -> Vec<Node> {
        let masters = |place: &usize| self.masters.contains(&Some(*place as u16));
        (0..self.nodes.len()).filter(masters).map(|place| self.nodes[place].clone()).collect()
    }

    /// The master of a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&Node> {
        let place = self.masters.get(usize::from(slot)).copied().flatten()?;
        self.nodes.get(usize::from(place))
    }

    /// Makes this node the master of a slot.
    pub(super) fn give(&mut self, slot: u16, node: Node) {
        let place = self.place(node);
        self.masters.resize(SLOTS, None);
        if let Some(master) = self.masters.get_mut(usize::from(slot)) {
            *master = Some(place);
        }
    }

    fn place(&mut self, node: Node) -> u16 {
        let place = self.nodes.iter().position(|known| *known == node).unwrap_or_else(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        });
        // A cluster has a thousand nodes at most.
        u16::try_from(place).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b"{foo}bar"), 12182);
        assert_eq!(slot(b"a{foo}{bar}"), 12182);
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % 16384);
        assert_eq!(slot(b"foo{{bar}}"), slot(b"{bar"));
    }

    fn told(text: &str) -> Option<Slots> {
        let teller = Node { host: "teller".into(), port: 1 };
        Slots::told(&redis::parse_redis_value(text.replace(' ', "\r\n").as_bytes()).unwrap(), &teller)
    }

    #[test]
    fn a_node_without_an_address_is_where_it_was_asked() {
        let slots = told("*2 *4 :0 :99 *2 $0  :7000 *2 $-1 :7001 *3 :100 :16383 *2 $1 h :7002 ").unwrap();
        let shown: Vec<String> = slots.nodes().map(ToString::to_string).collect();
        assert_eq!(shown, ["teller:7000", "teller:7001", "h:7002"]);
        assert_eq!(slots.owner(99).unwrap().to_string(), "teller:7000");
        assert_eq!(slots.owner(100).unwrap().to_string(), "h:7002");
        assert_eq!(slots.masters().len(), 2);
    }

    #[test]
    fn what_is_no_list_of_slots_tells_nothing() {
        for text in ["*0 ", ":1 ", "*1 :1 ", "*1 *3 :0 :20000 *2 $1 h :1 ", "*1 *3 :6 :4 *2 $1 h :1 "] {
            assert_eq!(told(text).map(|slots| slots.nodes), None, "{text}");
        }
    }
}
