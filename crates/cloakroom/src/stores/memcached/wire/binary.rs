//! Memcached's binary protocol: packets with a head of 24 bytes, numbers in network order.
//!
//! An item is stored over another version by REPLACE: a SET that is refused as too large takes the old item away.

use super::link::{Awaited, Kind, Link, foreign, not_understood};
use super::{Answer, Ask, Expiry, Failure, Refusal};
use crate::Deadline;

const REQUEST: u8 = 0x80;
pub(super) const RESPONSE: u8 = 0x81;
const HEAD: usize = 24;

/// What a packet is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Opcode {
    Get = 0x00,
    Set = 0x01,
    Add = 0x02,
    Replace = 0x03,
    Delete = 0x04,
    Append = 0x0e,
    Stat = 0x10,
    Touch = 0x1c,
    SaslList = 0x20,
    SaslAuth = 0x21,
    SaslStep = 0x22,
}

/// A packet of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) status: u16,
    opaque: u32,
    version: u64,
    key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// How a server may answer.
pub(super) mod status {
    pub(in super::super) const DONE: u16 = 0x00;
    pub(super) const MISSING: u16 = 0x01;
    pub(super) const DIFFERS: u16 = 0x02;
    pub(super) const TOO_LARGE: u16 = 0x03;
    pub(super) const NOT_STORED: u16 = 0x05;
    pub(in super::super) const NOT_AUTHENTICATED: u16 = 0x20;
    pub(in super::super) const CONTINUE: u16 = 0x21;
    pub(in super::super) const UNKNOWN: u16 = 0x81;
    pub(super) const NO_MEMORY: u16 = 0x82;
}

/// The command that asks this.
pub(super) fn write(ask: Ask<'_>, opaque: u32, request: &mut Vec<u8>) {
    let stored = |expiry: Expiry| [[0; 4], expiry.0.to_be_bytes()].concat();
    let mut put = |opcode, key: &[u8], extras: &[u8], value: &[u8], version| {
        packet(request, opcode, key, extras, value, version, opaque);
    };
    match ask {
        Ask::Get { key } | Ask::Life { key } => put(Opcode::Get, key, &[], &[], 0),
        Ask::Add { key, value, expiry } => put(Opcode::Add, key, &stored(expiry), value, 0),
        Ask::Set { key, value, expiry } => put(Opcode::Set, key, &stored(expiry), value, 0),
        Ask::Swap { key, value, expiry, version } => {
            put(Opcode::Replace, key, &stored(expiry), value, version);
        }
        Ask::Append { key, value } => put(Opcode::Append, key, &[], value, 0),
        Ask::Touch { key, expiry } => put(Opcode::Touch, key, &expiry.0.to_be_bytes(), &[], 0),
        Ask::Remove { key, version } => put(Opcode::Delete, key, &[], &[], version),
        Ask::Delete { key } => put(Opcode::Delete, key, &[], &[], 0),
        Ask::Stats { group } => put(Opcode::Stat, group.as_bytes(), &[], &[], 0),
    }
}

/// A packet of ours.
pub(super) fn packet(
    request: &mut Vec<u8>,
    opcode: Opcode,
    key: &[u8],
    extras: &[u8],
    value: &[u8],
    version: u64,
    opaque: u32,
) {
    let body = key.len() + extras.len() + value.len();
    request.extend([REQUEST, opcode as u8]);
    // Keys have 250 bytes at most, extras 8, and no server takes values of 4 GB.
    request.extend((key.len() as u16).to_be_bytes());
    request.extend([extras.len() as u8, 0, 0, 0]);
    request.extend((body as u32).to_be_bytes());
    request.extend(opaque.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend_from_slice(extras);
    request.extend_from_slice(key);
    request.extend_from_slice(value);
}

/// The answer that is awaited.
pub(super) fn read(awaited: &Awaited, link: &mut Link, by: Deadline) -> Result<Answer, Failure> {
    let mut next = || {
        let packet = receive(link, by)?;
        match packet.opaque == awaited.opaque {
            true => Ok(packet),
            false => Err(not_understood("the server answered another question than it was asked")),
        }
    };
    let mut packet = next()?;
    match (packet.status, awaited.kind) {
        (status::DONE, Kind::Get | Kind::Life) => {
            Ok(Answer::Item { value: packet.value, version: packet.version })
        }
        (status::DONE, Kind::Stats) => {
            let mut stats = Vec::new();
            // A packet for each, the last without a name.
            while !packet.key.is_empty() {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                stats.push((text(&packet.key), text(&packet.value)));
                packet = next()?;
            }
            Ok(Answer::Stats(stats))
        }
        (status::DONE, _) => Ok(Answer::Done),
        (status::MISSING, _) | (status::NOT_STORED, Kind::Append) => Ok(Answer::Missing),
        (status::DIFFERS, _) | (status::NOT_STORED, _) => Ok(Answer::Differs),
        (status, _) => Ok(Answer::Refused(refusal(status, &packet.value, awaited.size))),
    }
}

/// What the server refuses with this status and text.
fn refusal(status: u16, text: &[u8], size: usize) -> Refusal {
    let text = format!("{} (status {status:#04x})", String::from_utf8_lossy(text).trim_end_matches('.'));
    match status {
        status::TOO_LARGE => Refusal::TooLarge { size },
        status::NO_MEMORY => Refusal::NoMemory(text),
        status::NOT_AUTHENTICATED => Refusal::NotAuthenticated,
        _ => Refusal::Other(text),
    }
}

/// The next packet.
pub(super) fn receive(link: &mut Link, by: Deadline) -> Result<Packet, Failure> {
    if link.peek(by)? != RESPONSE {
        return Err(foreign(&link.line(by)?));
    }
    let head = link.bytes(HEAD, by)?;
    let number = |range: std::ops::Range<usize>| {
        head[range].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let (key, extras, body) = (number(2..4) as usize, usize::from(head[4]), number(8..12) as usize);
    if key + extras > body {
        return Err(foreign(""));
    }
    let body = link.bytes(body, by)?;
    Ok(Packet {
        status: number(6..8) as u16,
        opaque: number(12..16) as u32,
        version: number(16..24),
        key: body[extras..extras + key].to_vec(),
        value: body[extras + key..].to_vec(),
    })
}
