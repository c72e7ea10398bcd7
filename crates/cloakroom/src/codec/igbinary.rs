//! igbinary, format 2 (and 1, which only lacks references): walked, not decoded.

use std::ops::Range;

use super::serialize::Stop;
use super::{Framing, Variable};

const HEADERS: [[u8; 4]; 2] = [[0, 0, 0, 1], [0, 0, 0, 2]];

/// As deep as `serialize::MAX_DEPTH`, and for the same reason.
const MAX_DEPTH: usize = 65_536;

/// Whether these bytes are the start of an igbinary record, or all that there is of its header.
pub(super) fn begins(bytes: &[u8]) -> bool {
    HEADERS.iter().any(|header| bytes.starts_with(header) || header.starts_with(bytes))
}

/// Whether a record that [`begins`] as igbinary is whole.
pub(super) fn framing(bytes: &[u8]) -> Framing {
    let mut walk = Walk { bytes, at: 4.min(bytes.len()), strings: None };
    match walk.value() {
        Ok(()) if walk.at == bytes.len() => Framing::Complete,
        Err(Stop::Cut) => Framing::Torn,
        // Also a type that a later igbinary may add.
        Ok(()) | Err(Stop::Broken) => Framing::Unknown,
    }
}

/// Where the variables of a whole record are. Their names may stand inside of a value before them: a string that comes again is
/// a number.
pub(super) fn variables(bytes: &[u8]) -> Result<Vec<Variable>, Stop> {
    let mut walk = Walk { bytes, at: 4.min(bytes.len()), strings: Some(Vec::new()) };
    let Next::Entries(entries) = walk.one()? else { return Err(Stop::Broken) };
    let mut variables = Vec::new();
    for _ in 0..entries {
        let name = walk.name()?;
        let start = walk.at;
        walk.value()?;
        variables.push(Variable { name, value: start..walk.at });
    }
    if walk.at == bytes.len() { Ok(variables) } else { Err(Stop::Broken) }
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The strings so far, where they are wanted.
    strings: Option<Vec<Range<usize>>>,
}

/// What comes after a value's own bytes.
enum Next {
    Nothing,
    /// This many entries: key, value.
    Entries(u64),
    /// The value that a reference or an object's class stands in front of.
    Value,
}

impl Walk<'_> {
    fn value(&mut self) -> Result<(), Stop> {
        // The entries still to come in each array that is open.
        let mut open: Vec<u64> = Vec::new();
        loop {
            match self.one()? {
                Next::Value => continue,
                Next::Entries(entries) if open.len() < MAX_DEPTH => open.push(entries),
                Next::Entries(_) => return Err(Stop::Broken),
                Next::Nothing => {}
            }
            while open.last() == Some(&0) {
                open.pop();
            }
            match open.last_mut() {
                None => return Ok(()),
                Some(entries) => {
                    *entries -= 1;
                    self.key()?;
                }
            }
        }
    }

    fn one(&mut self) -> Result<Next, Stop> {
        let kind = self.number(1)?;
        match kind {
            // null, false, true, the empty string
            0x00 | 0x04 | 0x05 | 0x0d => Ok(Next::Nothing),
            // references to an array, an object; strings and class names seen before; integers of 1, 2 or 4 bytes
            0x01 | 0x22 | 0x0e => self.skip(1),
            0x02 | 0x23 | 0x0f => self.skip(2),
            0x03 | 0x24 | 0x10 => self.skip(4),
            0x06 | 0x07 => self.skip(1),
            0x08 | 0x09 => self.skip(2),
            0x0a | 0x0b => self.skip(4),
            0x0c | 0x20 | 0x21 => self.skip(8),
            0x11..=0x13 => self.text(1 << (kind - 0x11)),
            0x26 => self.text(8),
            0x14..=0x16 => Ok(Next::Entries(self.number(1 << (kind - 0x14))?)),
            // An object is its class name (new, or seen before) and then an array, or its own bytes.
            0x17..=0x19 => self.text(1 << (kind - 0x17)).map(|_| Next::Value),
            0x1a..=0x1c => self.skip(1 << (kind - 0x1a)).map(|_| Next::Value),
            0x1d..=0x1f => {
                let length = self.number(1 << (kind - 0x1d))?;
                self.skip(length)
            }
            // A PHP reference to the value that follows; the case of an enum, whose name follows.
            0x25 | 0x27 => Ok(Next::Value),
            _ => Err(Stop::Broken),
        }
    }

    /// A key is an integer or a string.
    fn key(&mut self) -> Result<(), Stop> {
        match self.bytes.get(self.at).ok_or(Stop::Cut)? {
            0x06..=0x0b | 0x0d..=0x13 | 0x20 | 0x21 | 0x26 => self.one().map(drop),
            _ => Err(Stop::Broken),
        }
    }

    /// A key that is a string.
    fn name(&mut self) -> Result<Range<usize>, Stop> {
        let kind = *self.bytes.get(self.at).ok_or(Stop::Cut)?;
        let index = match kind {
            0x0d => {
                self.at += 1;
                return Ok(self.at..self.at);
            }
            0x0e..=0x10 => {
                self.at += 1;
                usize::try_from(self.number(1 << (kind - 0x0e))?).map_err(|_| Stop::Broken)?
            }
            0x11..=0x13 | 0x26 => {
                self.one()?;
                self.strings.as_ref().map_or(0, Vec::len).saturating_sub(1)
            }
            _ => return Err(Stop::Broken),
        };
        let strings = self.strings.as_deref().unwrap_or_default();
        strings.get(index).cloned().ok_or(Stop::Broken)
    }

    fn number(&mut self, width: usize) -> Result<u64, Stop> {
        let digits = self.bytes.get(self.at..self.at + width).ok_or(Stop::Cut)?;
        self.at += width;
        Ok(digits.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn text(&mut self, width: usize) -> Result<Next, Stop> {
        let length = self.number(width)?;
        let start = self.at;
        self.skip(length)?;
        if let Some(strings) = &mut self.strings {
            strings.push(start..self.at);
        }
        Ok(Next::Nothing)
    }

    fn skip(&mut self, length: u64) -> Result<Next, Stop> {
        let left = self.bytes.len() - self.at;
        let length = usize::try_from(length).ok().filter(|&length| length <= left).ok_or(Stop::Cut)?;
        self.at += length;
        Ok(Next::Nothing)
    }
}
