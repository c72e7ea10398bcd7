//! Memcached's protocols of text: lines, and data behind them. The classic one, and the meta commands of 1.6 where they do
//! what the classic ones cannot: they remove an item by its version (`md C`) without storing anything in its place.
//!
//! What is stored goes by the classic commands in any case. A meta set that the server refuses, as too large or for want of
//! memory, takes the item away that was there, whatever its mode and version; `add`, `cas` and `append` leave it.

use super::introduction::Speech;
use super::link::{Awaited, Kind, Link, foreign, not_understood};
use super::{Answer, Ask, Failure, Refusal, is_refusal};
use crate::Deadline;

/// An item with this expiry has ended when it is stored: the only way of the classic protocol to remove one by its version.
pub(super) const AT_ONCE: &str = "-1";

/// The command that asks this.
pub(super) fn write(ask: Ask<'_>, speech: Speech, request: &mut Vec<u8>) {
    match ask {
        Ask::Get { key } if speech == Speech::Meta => line(request, &[b"mg", key, b"v", b"c", b"k"]),
        Ask::Life { key } if speech == Speech::Meta => line(request, &[b"mg", key, b"t", b"k"]),
        Ask::Get { key } | Ask::Life { key } => line(request, &[b"gets", key]),
        Ask::Add { key, value, expiry } => store(request, b"add", key, value, &expiry.0.to_string(), None),
        Ask::Set { key, value, expiry } => store(request, b"set", key, value, &expiry.0.to_string(), None),
        Ask::Swap { key, value, expiry, version } => {
            store(request, b"cas", key, value, &expiry.0.to_string(), Some(version));
        }
        Ask::Append { key, value } => store(request, b"append", key, value, "0", None),
        Ask::Touch { key, expiry } => line(request, &[b"touch", key, expiry.0.to_string().as_bytes()]),
        Ask::Remove { key, version } if speech == Speech::Meta => {
            line(request, &[b"md", key, format!("C{version}").as_bytes()]);
        }
        Ask::Remove { key, version } => store(request, b"cas", key, b"", AT_ONCE, Some(version)),
        Ask::Delete { key } => line(request, &[b"delete", key]),
        Ask::Stats { group: "" } => line(request, &[b"stats"]),
        Ask::Stats { group } => line(request, &[b"stats", group.as_bytes()]),
    }
}

fn line(request: &mut Vec<u8>, words: &[&[u8]]) {
    request.extend_from_slice(&words.join(&b' '));
    request.extend_from_slice(b"\r\n");
}

fn store(
    request: &mut Vec<u8>,
    command: &[u8],
    key: &[u8],
    value: &[u8],
    expiry: &str,
    version: Option<u64>,
) {
    let length = value.len().to_string();
    let version = version.map(|version| version.to_string());
    let mut words: Vec<&[u8]> = vec![command, key, b"0", expiry.as_bytes(), length.as_bytes()];
    words.extend(version.as_ref().map(|version| version.as_bytes()));
    line(request, &words);
    request.extend_from_slice(value);
    request.extend_from_slice(b"\r\n");
}

/// The answer that is awaited.
pub(super) fn read(awaited: &Awaited, link: &mut Link, by: Deadline) -> Result<Answer, Failure> {
    let line = link.line(by)?;
    if is_refusal(&line) {
        return Ok(Answer::Refused(Refusal::of(line, awaited.size)));
    }
    match (awaited.kind, line.as_str()) {
        (Kind::Get | Kind::Life, "END") => Ok(Answer::Missing),
        // Some versions name the key here, too.
        (Kind::Get | Kind::Life, line) if line == "EN" || line.starts_with("EN ") => Ok(Answer::Missing),
        (Kind::Life, line) if line.starts_with("HD ") => life(line, &awaited.key),
        (Kind::Get | Kind::Life, line) => item(line, &awaited.key, link, by),
        (Kind::Stats, line) => stats(line, link, by),
        (Kind::Store | Kind::Append | Kind::Remove, "STORED") => Ok(Answer::Done),
        (Kind::Touch, "TOUCHED") | (Kind::Delete, "DELETED") | (Kind::Remove, "HD") => Ok(Answer::Done),
        (Kind::Append, "NOT_STORED") => Ok(Answer::Missing),
        (Kind::Store, "NOT_STORED") | (Kind::Store | Kind::Remove, "EXISTS") => Ok(Answer::Differs),
        (Kind::Remove, "EX") => Ok(Answer::Differs),
        (Kind::Store | Kind::Touch | Kind::Remove | Kind::Delete, "NOT_FOUND") => Ok(Answer::Missing),
        (Kind::Remove, "NF") => Ok(Answer::Missing),
        (_, line) => Err(foreign(line)),
    }
}

/// `VALUE key flags length version`, the data and `END`; or `VA length cVERSION kKEY` and the data.
fn item(head: &str, key: &[u8], link: &mut Link, by: Deadline) -> Result<Answer, Failure> {
    let mut words = head.split(' ');
    let classic = match words.next() {
        Some("VALUE") => true,
        Some("VA") => false,
        _ => return Err(foreign(head)),
    };
    let words: Vec<&str> = words.collect();
    let word = |index: usize| words.get(index).copied();
    let flag = |sign: char| words.iter().skip(1).find_map(|word| word.strip_prefix(sign));
    let (its, length, version) = match classic {
        true => (word(0), word(2), word(3)),
        false => (flag('k'), word(0), flag('c')),
    };
    let length = length.and_then(|length| length.parse::<usize>().ok());
    let version = version.and_then(|version| version.parse::<u64>().ok());
    let (Some(length), Some(version)) = (length, version) else { return Err(foreign(head)) };
    if its.is_none_or(|its| its.as_bytes() != key) {
        return Err(not_understood("the server answered with another item than it was asked for"));
    }
    let value = link.bytes(length, by)?;
    let end: &[u8] = if classic { b"\r\nEND\r\n" } else { b"\r\n" };
    match link.bytes(end.len(), by)? == end {
        true => Ok(Answer::Item { value, version }),
        false => Err(foreign("")),
    }
}

/// `HD tSECONDS kKEY`, with -1 for ever.
fn life(line: &str, key: &[u8]) -> Result<Answer, Failure> {
    let flag = |sign: char| line.split(' ').skip(1).find_map(|word| word.strip_prefix(sign));
    if flag('k').is_none_or(|its| its.as_bytes() != key) {
        return Err(not_understood("the server answered with another item than it was asked for"));
    }
    match flag('t').and_then(|seconds| seconds.parse::<i64>().ok()) {
        Some(-1) => Ok(Answer::Life(None)),
        Some(seconds) => Ok(Answer::Life(Some(u32::try_from(seconds).unwrap_or_default()))),
        None => Err(foreign(line)),
    }
}

/// Lines `STAT name value` up to `END`.
fn stats(first: &str, link: &mut Link, by: Deadline) -> Result<Answer, Failure> {
    let mut stats = Vec::new();
    let mut line = first.to_owned();
    while line != "END" {
        let Some((name, value)) =
            line.strip_prefix("STAT ").map(|pair| pair.split_once(' ').unwrap_or((pair, "")))
        else {
            return Err(foreign(&line));
        };
        stats.push((name.to_owned(), value.to_owned()));
        line = link.line(by)?;
    }
    Ok(Answer::Stats(stats))
}
