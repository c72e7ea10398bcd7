//! Memcached's classic protocol: lines of text, and data behind them.

use super::link::{Link, not_understood};
use super::{Answer, Ask, Failure, is_refusal};
use crate::Deadline;

/// An item with this expiry has ended when it is stored: the only way to remove one by its version.
const AT_ONCE: &str = "-1";

/// The command that asks this.
pub(super) fn write(ask: Ask<'_>, request: &mut Vec<u8>) {
    match ask {
        Ask::Get { key } => line(request, &[b"gets", key]),
        Ask::Add { key, value, expiry } => store(request, b"add", key, value, &expiry.0.to_string(), None),
        Ask::Set { key, value, expiry } => store(request, b"set", key, value, &expiry.0.to_string(), None),
        Ask::Swap { key, value, expiry, version } => {
            store(request, b"cas", key, value, &expiry.0.to_string(), Some(version));
        }
        Ask::Append { key, value } => store(request, b"append", key, value, "0", None),
        Ask::Touch { key, expiry } => line(request, &[b"touch", key, expiry.0.to_string().as_bytes()]),
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

/// The answer to this question.
pub(super) fn read(ask: Ask<'_>, link: &mut Link, by: Deadline) -> Result<Answer, Failure> {
    let line = link.line(by)?;
    let unexpected = || not_understood("the server's answer is not in Memcached's protocol");
    if let Some(head) = line.strip_prefix("VALUE ") {
        let mut words = head.split(' ').skip(2);
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(length), Some(version)) = (number(), number()) else { return Err(unexpected()) };
        let length = usize::try_from(length).map_err(|_| unexpected())?;
        let value = link.bytes(length, by)?;
        // The end of the data, and the end of the items.
        return match link.bytes(7, by)?.as_slice() {
            b"\r\nEND\r\n" => Ok(Answer::Item { value, version }),
            _ => Err(unexpected()),
        };
    }
    if matches!(ask, Ask::Stats { .. }) && !is_refusal(&line) {
        return stats(line, link, by);
    }
    match (ask, line.as_str()) {
        (Ask::Get { .. }, "END") => Ok(Answer::Missing),
        (Ask::Append { .. }, "NOT_STORED") => Ok(Answer::Missing),
        (_, "STORED" | "TOUCHED" | "DELETED") => Ok(Answer::Done),
        (_, "NOT_STORED" | "EXISTS") => Ok(Answer::Differs),
        (_, "NOT_FOUND") => Ok(Answer::Missing),
        _ if is_refusal(&line) => Ok(Answer::Refused(line)),
        _ => Err(unexpected()),
    }
}

/// Lines `STAT name value` up to `END`.
fn stats(first: String, link: &mut Link, by: Deadline) -> Result<Answer, Failure> {
    let mut stats = Vec::new();
    let mut line = first;
    while line != "END" {
        let Some((name, value)) =
            line.strip_prefix("STAT ").map(|pair| pair.split_once(' ').unwrap_or((pair, "")))
        else {
            return Err(not_understood("the server's answer is not in Memcached's protocol"));
        };
        stats.push((name.to_owned(), value.to_owned()));
        line = link.line(by)?;
    }
    Ok(Answer::Stats(stats))
}
