//! PHP's session formats, seen from outside: whether a record is whole, and where its variables are.
//!
//! | `session.serialize_handler` | a record |
//! |---|---|
//! | `php` | `name` `\|` value, again and again |
//! | `php_binary` | length of the name in one byte, name, value, again and again |
//! | `php_serialize` | one value, an array |
//! | `igbinary` | `00 00 00 02` and one value in a binary format |
//!
//! A value is what PHP's `serialize()` writes. No record says which handler wrote it, so [`framing`] tries them all.
//! Nothing here recurses or allocates more than a few bytes for each open array, however hostile the record.

mod igbinary;
mod serialize;

use std::ops::Range;

use serialize::{Reader, Stop};

/// Whether a record is all there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// It ends where a record may end.
    Complete,
    /// It is a known format, cut off or mixed up in the middle: a writer was at work while it was read.
    Torn,
    /// It is no format known here (msgpack, encrypted, compressed): nothing can be said.
    Unknown,
}

/// Says whether `bytes` are a whole record.
///
/// In the formats `php` and `php_binary` a record may end after any of its variables, so one that is cut off right
/// there is a whole, smaller record, to PHP as well. Elsewhere a part of a record is [`Framing::Complete`] only where
/// it happens to be a whole record of another format, which takes a `|` and a serialized value inside a `php_binary`
/// name, or anywhere behind one of more than 31 bytes.
pub fn framing(bytes: &[u8]) -> Framing {
    if bytes.is_empty() {
        return Framing::Complete;
    }
    if igbinary::begins(bytes) {
        return igbinary::framing(bytes);
    }
    let [php_serialize, php_binary, php] =
        [php_serialize, php_binary, php].map(|format| Fit::of(format, bytes));
    // The first letter of a php name may be the length of a php_binary name, and a `|` in a php_binary string the end
    // of a php name. Few names start with a control character, and few are longer than that.
    let (likely, unlikely) = if bytes[0] < b' ' { (php_binary, php) } else { (php, php_binary) };
    for fit in [php_serialize, likely, unlikely] {
        match fit {
            Fit::Whole => return Framing::Complete,
            Fit::Torn => return Framing::Torn,
            Fit::Short | Fit::Not => {}
        }
    }
    match (php_serialize, php_binary, php) {
        (Fit::Short, _, _) => Framing::Torn,
        (_, _, Fit::Short) if begins_a_name(bytes) => Framing::Torn,
        (_, Fit::Short, _) if begins_a_name(&bytes[1..]) => Framing::Torn,
        _ => Framing::Unknown,
    }
}

/// Which of PHP's serializers wrote a record (`session.serialize_handler`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serializer {
    /// `php`
    Php,
    /// `php_binary`
    PhpBinary,
    /// `php_serialize`
    PhpSerialize,
    /// `igbinary`
    Igbinary,
}

/// Which serializer wrote a whole record, as far as it shows; `None` for an empty or torn record, or another format.
pub fn serializer(bytes: &[u8]) -> Option<Serializer> {
    if bytes.is_empty() || framing(bytes) != Framing::Complete {
        return None;
    }
    if igbinary::begins(bytes) {
        return Some(Serializer::Igbinary);
    }
    let formats: [(Format, Serializer); 3] = [
        (php_serialize, Serializer::PhpSerialize),
        (php_binary, Serializer::PhpBinary),
        (php, Serializer::Php),
    ];
    let fits = |(format, _): &(Format, Serializer)| format(&mut Reader::new(bytes), &mut |_| {}).is_ok();
    formats.into_iter().find(fits).map(|(_, serializer)| serializer)
}

/// Where one variable of a session is in its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// The bytes of its name; in `php_serialize` the digits of a numeric one.
    pub name: Range<usize>,
    /// The bytes of its value, as PHP's `serialize()` or igbinary wrote them; what igbinary wrote may name strings of before.
    pub value: Range<usize>,
}

/// Where the variables of a whole record are, in their order; `None` for a torn record, one of another format, or
/// where igbinary has a number for a name.
///
/// # Examples
/// ```
/// let record = b"cart|a:1:{i:0;s:4:\"book\";}visits|i:7;";
/// let variables = cloakroom::codec::variables(record).unwrap_or_default();
/// assert_eq!(&record[variables[1].name.clone()], b"visits");
/// assert_eq!(&record[variables[1].value.clone()], b"i:7;");
/// ```
pub fn variables(bytes: &[u8]) -> Option<Vec<Variable>> {
    if framing(bytes) != Framing::Complete {
        return None;
    }
    if !bytes.is_empty() && igbinary::begins(bytes) {
        return igbinary::variables(bytes).ok();
    }
    [php_serialize, php_binary, php].into_iter().find_map(|format| {
        let mut found = Vec::new();
        format(&mut Reader::new(bytes), &mut |variable| found.push(variable)).ok()?;
        Some(found)
    })
}

/// Reads a whole record in one format, and reports its variables.
type Format = fn(&mut Reader<'_>, &mut dyn FnMut(Variable)) -> Result<(), Stop>;

/// How well a record fits one format.
#[derive(Clone, Copy)]
enum Fit {
    /// From end to end.
    Whole,
    /// At least one value had begun before it stopped to fit.
    Torn,
    /// It ends before the first value has begun, which most bytes do in most formats.
    Short,
    /// Not at all.
    Not,
}

impl Fit {
    fn of(format: Format, bytes: &[u8]) -> Self {
        let mut reader = Reader::new(bytes);
        match format(&mut reader, &mut |_| {}) {
            Ok(()) => Fit::Whole,
            Err(_) if reader.has_met_a_value() => Fit::Torn,
            Err(Stop::Cut) => Fit::Short,
            Err(Stop::Broken) => Fit::Not,
        }
    }
}

fn php(reader: &mut Reader<'_>, each: &mut dyn FnMut(Variable)) -> Result<(), Stop> {
    while !reader.at_end() {
        let name = reader.until(b'|')?;
        let value = reader.value()?;
        each(Variable { name, value });
    }
    Ok(())
}

fn php_binary(reader: &mut Reader<'_>, each: &mut dyn FnMut(Variable)) -> Result<(), Stop> {
    while !reader.at_end() {
        // The eighth bit marked a variable without a value up to PHP 7.0; no later PHP writes it.
        let length = reader.byte().and_then(|byte| if byte < 0x80 { Ok(byte) } else { Err(Stop::Broken) })?;
        let name = reader.skip(u64::from(length))?;
        let value = reader.value()?;
        each(Variable { name, value });
    }
    Ok(())
}

fn php_serialize(reader: &mut Reader<'_>, each: &mut dyn FnMut(Variable)) -> Result<(), Stop> {
    for _ in 0..reader.array()? {
        let name = reader.key()?;
        let value = reader.value()?;
        each(Variable { name, value });
    }
    reader.expect(b"}")?;
    if reader.at_end() { Ok(()) } else { Err(Stop::Broken) }
}

/// Whether a record of this few bytes may have been cut off in its first name: without this, whatever has no `|` in
/// it would be a torn `php` record.
fn begins_a_name(bytes: &[u8]) -> bool {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(cut) if cut.error_len().is_none() => {
            std::str::from_utf8(&bytes[..cut.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    bytes.len() <= 256 && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_complete_in_any_format() {
        for record in [
            &b""[..],
            b"n|i:1;",
            b"|i:1;",
            b"n|i:-1;f|d:1.0E+25;g|d:-INF;h|d:NAN;b|b:1;z|N;",
            b"a:0:{}",
            b"a:2:{s:1:\"n\";i:1;i:7;a:1:{i:0;R:2;}}",
            b"user|O:4:\"User\":2:{s:4:\"name\";s:3:\"a\"b\";s:1:\"c\";r:1;}",
            b"c|C:3:\"Old\":5:{x:i:1}e|E:6:\"Suit:H\";",
            b"\x01ni:1;\x00N;",
            b"\x01ns:5:\"x|N;y\";",
            b"caf\xc3\xa9|i:1;\xff\xfe|i:2;",
            b"a:1|i:1;",
            b"\0\0\0\x02\x14\x01\x11\x01n\x06\x01",
        ] {
            assert_eq!(framing(record), Framing::Complete, "{}", record.escape_ascii());
        }
    }

    #[test]
    fn a_cut_or_mixed_record_is_torn() {
        for record in [
            &b"n"[..],
            b"n|",
            b"n|i",
            b"n|i:1",
            b"n|i:1;m",
            b"n|i:1;m|s:3:\"ab",
            b"n|s:3:\"abXX",
            b"n|i:1;m|x",
            b"caf\xc3",
            b"a",
            b"a:",
            b"a:1:{",
            b"a:1:{s:1:\"n\";i:1;",
            b"a:1:{s:1:\"n\";i:1;}}",
            b"a:1:{d:1;i:1;}",
            b"\x01",
            b"\x05ab",
            b"\x01ni:1",
            b"\x01ns:5:\"x|N;",
            b"\0",
            b"\0\0\0",
            b"\0\0\0\x02",
            b"\0\0\0\x02\x14\x01\x11\x01n",
        ] {
            assert_eq!(framing(record), Framing::Torn, "{}", record.escape_ascii());
        }
    }

    #[test]
    fn other_bytes_are_unknown() {
        let long = b"x".repeat(10_000);
        for record in
            [&b"\x81\xa1n\x01"[..], b"\xde\x00\x01\xa1n\x01", b"\x8f\x01\xff", b"\x28\xb5\x2f\xfd\x04", &long]
        {
            assert_eq!(framing(record), Framing::Unknown, "{}", record.escape_ascii());
        }
    }

    #[test]
    fn hostile_depths_and_lengths_neither_recurse_nor_allocate() {
        let deep = [b"n|".to_vec(), b"a:1:{i:0;".repeat(3_000_000)].concat();
        assert_eq!(framing(&deep), Framing::Torn);
        assert_eq!(framing(b"n|a:18446744073709551615:{"), Framing::Torn);
        assert_eq!(framing(b"n|s:18446744073709551615:\"\";"), Framing::Torn);
        assert_eq!(framing(b"n|s:99999999999999999999999:\"\";"), Framing::Torn);
        let arrays = b"\x14\x01\x06\x01".repeat(3_000_000);
        assert_eq!(framing(&[b"\0\0\0\x02", &arrays[..]].concat()), Framing::Unknown);
    }

    #[test]
    fn the_serializer_shows() {
        for (record, written_by) in [
            (&b"n|i:1;"[..], Some(Serializer::Php)),
            (b"\x01ni:1;", Some(Serializer::PhpBinary)),
            (b"a:1:{s:1:\"n\";i:1;}", Some(Serializer::PhpSerialize)),
            (b"\0\0\0\x02\x14\x01\x11\x01n\x06\x01", Some(Serializer::Igbinary)),
            (b"\x81\xa1n\x01", None),
            (b"n|i", None),
            (b"", None),
        ] {
            assert_eq!(serializer(record), written_by, "{}", record.escape_ascii());
        }
    }

    #[test]
    fn variables_are_found_in_their_order() {
        for record in [
            &b"n|i:1;long name|a:1:{i:0;N;}"[..],
            b"\x01ni:1;\x09long namea:1:{i:0;N;}",
            b"a:2:{s:1:\"n\";i:1;s:9:\"long name\";a:1:{i:0;N;}}",
        ] {
            let texts: Vec<_> = variables(record)
                .unwrap()
                .into_iter()
                .map(|variable| (record[variable.name].to_vec(), record[variable.value].to_vec()))
                .collect();
            let expected = [(&b"n"[..], &b"i:1;"[..]), (b"long name", b"a:1:{i:0;N;}")];
            assert_eq!(texts, expected.map(|(name, value)| (name.to_vec(), value.to_vec())));
        }
        // `n` again as the name of the second one: `["x" => "n", "n" => "x"]`.
        let igbinary = b"\0\0\0\x02\x14\x02\x11\x01x\x11\x01n\x0e\x01\x0e\x00";
        let found = variables(igbinary).unwrap();
        let names: Vec<_> = found.iter().map(|variable| &igbinary[variable.name.clone()]).collect();
        assert_eq!(names, [b"x", b"n"]);
        assert_eq!(igbinary[found[1].value.clone()], [0x0e, 0]);
        assert_eq!(variables(b"n|i:1"), None);
        assert_eq!(variables(b""), Some(vec![]));
    }
}
