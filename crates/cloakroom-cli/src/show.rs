//! `cloakroom show`: one session as it is stored.

use std::borrow::Cow;
use std::process::ExitCode;

use cloakroom::codec::{self, Framing, Serializer};
use cloakroom::envelope::Compression;
use cloakroom::{Life, Lock, Peeked, Result, SessionId, StoreUrl};
use serde_json::{Value, json};

use crate::iam::hint_for;
use crate::output::{BAD, FAINT, PLAIN, Row, could_not_look, paint, say, table, tell};
use crate::store::{Chosen, it_ends, life, lock_json, soon, tell_session_name, waiting};

/// Shows what is stored under a session id, how long it lives, and who has its lock
///
/// Takes no lock and changes nothing. Values are shown as their type and size unless --reveal is given. The serializers php,
/// php_binary, php_serialize and igbinary are read, and compression as phpredis does it (lzf, zstd, lz4) is undone; of what is
/// not known here (msgpack, encrypted), the size is told alone.
///
/// Exit codes: 0 there is such a session, 1 there is none, 2 wrong usage, or the store cannot tell.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The session's id, whole
    #[arg(allow_hyphen_values = true)]
    id: String,
    #[command(flatten)]
    store: Chosen,
    /// Shows the values, as PHP's serialize() writes them (igbinary's bytes escaped)
    #[arg(long)]
    reveal: bool,
    /// The same as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    Ok(show(arguments).map_err(hint_for("show")).unwrap_or_else(|error| could_not_look(&error)))
}

fn show(arguments: &Arguments) -> Result<ExitCode> {
    let id = SessionId::parse(arguments.id.as_bytes())?;
    let (url, mut store) = arguments.store.open()?;
    let Peeked { record, life, lock } = store.peek(&id, soon())?;
    let session = record.as_ref().map(|record| Session::of(&record.0));
    match (arguments.json, &session) {
        (true, session) => {
            say!("{:#}", in_json(&id, &url, session.as_ref(), life, lock.as_ref(), arguments.reveal))
        }
        (false, None) => {
            tell!("{}there is no session {id} (store {url})", paint(BAD, "error: "));
            if let Some(lock) = lock {
                tell!("its lock is held by {}, and {}", lock.holder, it_ends(&lock));
            } else {
                tell_session_name(&url);
            }
        }
        (false, Some(session)) => {
            print(&id, &url, session, life, lock.as_ref(), arguments.reveal);
        }
    }
    Ok(if session.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A record, and what can be told of it.
struct Session<'a> {
    stored: usize,
    bytes: Cow<'a, [u8]>,
    compression: Option<&'static str>,
    framing: Framing,
    serializer: Option<Serializer>,
    variables: Vec<codec::Variable>,
}

impl<'a> Session<'a> {
    fn of(stored: &'a [u8]) -> Self {
        let (bytes, compression) = unpacked(stored);
        Session {
            stored: stored.len(),
            framing: codec::framing(&bytes),
            serializer: codec::serializer(&bytes),
            variables: codec::variables(&bytes).unwrap_or_default(),
            compression,
            bytes,
        }
    }

    fn size(&self) -> String {
        match self.compression {
            None => format!("{} bytes", self.stored),
            Some(compression) => {
                format!("{} bytes, {} with {compression} undone", self.stored, self.bytes.len())
            }
        }
    }

    /// What may be printed of a value: `string, 4 bytes`, `array, 3 entries`.
    fn told(&self, value: &[u8]) -> String {
        match self.serializer {
            Some(Serializer::Igbinary) => igbinary_kind_and_size(value),
            _ => kind_and_size(value),
        }
    }

    fn revealed(&self, value: &[u8]) -> String {
        match self.serializer {
            Some(Serializer::Igbinary) => value.escape_ascii().to_string(),
            _ => text(value),
        }
    }

    fn format(&self) -> &'static str {
        match (self.framing, self.serializer) {
            (_, _) if self.bytes.is_empty() => "none: the session is empty",
            (Framing::Torn, _) => "cut off or mixed up: PHP cannot read it",
            (_, Some(Serializer::Php)) => "php",
            (_, Some(Serializer::PhpBinary)) => "php_binary",
            (_, Some(Serializer::PhpSerialize)) => "php_serialize",
            (_, Some(Serializer::Igbinary)) => "igbinary",
            (_, None) => "not known here (msgpack, encrypted, ...)",
        }
    }
}

/// Nothing in a record says that it is compressed: what is readable once it is undone was.
fn unpacked(stored: &[u8]) -> (Cow<'_, [u8]>, Option<&'static str>) {
    if codec::framing(stored) == Framing::Complete {
        return (Cow::Borrowed(stored), None);
    }
    let ways =
        [(Compression::Zstd { level: 3 }, "zstd"), (Compression::Lz4, "lz4"), (Compression::Lzf, "lzf")];
    for (compression, name) in ways {
        if let Cow::Owned(bytes) = compression.unpack(stored)
            && codec::framing(&bytes) == Framing::Complete
        {
            return (Cow::Owned(bytes), Some(name));
        }
    }
    (Cow::Borrowed(stored), None)
}

fn print(
    id: &SessionId,
    url: &StoreUrl,
    session: &Session<'_>,
    lives: Life,
    lock: Option<&Lock>,
    reveal: bool,
) {
    let line = |name: &str, text: &str| {
        say!("{} {text}", paint(FAINT, &format!("{name:<8}")));
    };
    line("session", &id.to_string());
    line("store", &url.to_string());
    line("size", &session.size());
    line("format", session.format());
    line("life", &life(lives));
    match lock {
        None => line("lock", "free"),
        Some(lock) => {
            line("lock", &format!("held by {}", lock.holder));
            line("", &format!("{}; waiting for it: {}", it_ends(lock), waiting(lock.waiting)));
        }
    }
    if session.variables.is_empty() {
        if reveal && !session.bytes.is_empty() {
            say!("\n{}", session.bytes.escape_ascii());
        }
        return;
    }
    let rows: Vec<Row> = session
        .variables
        .iter()
        .map(|variable| {
            let value = &session.bytes[variable.value.clone()];
            let told = if reveal { session.revealed(value) } else { session.told(value) };
            Row { style: PLAIN, cells: vec![text(&session.bytes[variable.name.clone()]), told] }
        })
        .collect();
    say!("\n{}", table(&["variable", if reveal { "value" } else { "holds" }], &rows));
}

fn in_json(
    id: &SessionId,
    url: &StoreUrl,
    session: Option<&Session<'_>>,
    life: Life,
    lock: Option<&Lock>,
    reveal: bool,
) -> Value {
    let (lives, seconds) = match life {
        Life::Left(left) => ("left", Some(left.as_secs_f64())),
        Life::Unused(age) => ("unused", Some(age.as_secs_f64())),
        Life::Endless => ("endless", None),
        Life::Unknown => ("unknown", None),
    };
    let variables = session.map(|session| {
        let told = session.variables.iter().map(|variable| {
            let value = &session.bytes[variable.value.clone()];
            let mut told = json!({
                "name": String::from_utf8_lossy(&session.bytes[variable.name.clone()]),
                "holds": session.told(value),
            });
            if reveal {
                told["value"] = match session.serializer {
                    Some(Serializer::Igbinary) => value.escape_ascii().to_string().into(),
                    _ => String::from_utf8_lossy(value).into(),
                };
            }
            told
        });
        told.collect::<Vec<Value>>()
    });
    json!({
        "session": id.to_string(),
        "store": url.to_string(),
        "found": session.is_some(),
        "bytes": session.map(|session| session.stored),
        "compression": session.and_then(|session| session.compression),
        "format": session.map(Session::format),
        "life": lives,
        "life_seconds": seconds,
        "lock": lock.map(lock_json),
        "variables": variables,
    })
}

/// Of a value that PHP's `serialize()` wrote.
fn kind_and_size(value: &[u8]) -> String {
    let count = |number: usize, one: &str, many: &str| {
        let text = value.split(|byte| *byte == b':').nth(number).unwrap_or_default();
        let count = std::str::from_utf8(text).ok().and_then(|count| count.parse().ok());
        counted(count.unwrap_or_default(), one, many)
    };
    match value.first() {
        Some(b'N') => "null".into(),
        Some(b'b') => "boolean".into(),
        Some(b'i') => "integer".into(),
        Some(b'd') => "float".into(),
        Some(b's') => format!("string, {}", count(1, "byte", "bytes")),
        Some(b'a') => format!("array, {}", count(1, "entry", "entries")),
        Some(b'O' | b'C') => format!("object, {} bytes", value.len()),
        Some(b'E') => "enum case".into(),
        Some(b'r' | b'R') => "reference".into(),
        _ => format!("{} bytes", value.len()),
    }
}

/// Of a value that igbinary wrote.
fn igbinary_kind_and_size(value: &[u8]) -> String {
    let [kind, rest @ ..] = value else { return String::new() };
    let number =
        |width: usize| rest.iter().take(width).fold(0, |number, byte| number << 8 | u64::from(*byte));
    match kind {
        0x00 => "null".into(),
        0x04 | 0x05 => "boolean".into(),
        0x06..=0x0b | 0x20 | 0x21 => "integer".into(),
        0x0c => "float".into(),
        0x0d => "string, 0 bytes".into(),
        0x0e..=0x10 => "string, the same as one before".into(),
        0x11..=0x13 => format!("string, {}", counted(number(1 << (kind - 0x11)), "byte", "bytes")),
        0x26 => format!("string, {}", counted(number(8), "byte", "bytes")),
        0x14..=0x16 => format!("array, {}", counted(number(1 << (kind - 0x14)), "entry", "entries")),
        0x17..=0x1c => format!("object, {} bytes", value.len()),
        0x01..=0x03 | 0x22..=0x25 => "reference".into(),
        _ => format!("{} bytes", value.len()),
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Readable, and without anything that a terminal would obey.
fn text(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for character in String::from_utf8_lossy(bytes).chars() {
        match character.is_control() {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_told_by_its_kind_and_size() {
        for (value, told) in [
            ("N;", "null"),
            ("b:1;", "boolean"),
            ("i:7;", "integer"),
            ("d:0.5;", "float"),
            ("s:1:\"x\";", "string, 1 byte"),
            ("s:12:\"correct hor;\";", "string, 12 bytes"),
            ("a:1:{i:0;N;}", "array, 1 entry"),
            ("a:0:{}", "array, 0 entries"),
            ("O:4:\"User\":0:{}", "object, 15 bytes"),
            ("E:6:\"Suit:H\";", "enum case"),
        ] {
            assert_eq!(kind_and_size(value.as_bytes()), told);
        }
    }

    #[test]
    fn a_value_of_igbinary_is_told_the_same_way() {
        for (value, told) in [
            (&b"\x00"[..], "null"),
            (b"\x05", "boolean"),
            (b"\x06\x07", "integer"),
            (b"\x0c\0\0\0\0\0\0\0\0", "float"),
            (b"\x0d", "string, 0 bytes"),
            (b"\x11\x01x", "string, 1 byte"),
            (b"\x12\x01\x00..", "string, 256 bytes"),
            (b"\x0e\x00", "string, the same as one before"),
            (b"\x14\x03", "array, 3 entries"),
        ] {
            assert_eq!(igbinary_kind_and_size(value), told);
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(text(b"s:4:\"\x1b[0m\";"), "s:4:\"\\u{1b}[0m\";");
    }

    #[test]
    fn compression_is_found_out() {
        let record = b"cart|a:1:{i:0;s:4:\"book\";}".repeat(9);
        for (compression, name) in
            [(Compression::Lzf, "lzf"), (Compression::Lz4, "lz4"), (Compression::Zstd { level: 3 }, "zstd")]
        {
            let stored = compression.pack(&record);
            assert_eq!(unpacked(&stored), (Cow::Borrowed(record.as_slice()), Some(name)));
        }
        assert_eq!(unpacked(&record), (Cow::Borrowed(record.as_slice()), None));
    }
}
