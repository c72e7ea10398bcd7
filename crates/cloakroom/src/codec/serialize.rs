//! What PHP's `serialize()` writes: `N b i d s a O C E r R`.

use std::ops::Range;

/// Why reading stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The bytes end here; more could make them whole.
    Cut,
    /// No further byte can make these right.
    Broken,
}

/// Deeper than PHP's own default limit (4096), so that what PHP reads is read here too.
const MAX_DEPTH: usize = 65_536;

/// Longer than any float at PHP's highest precision.
const MAX_FLOAT: usize = 2048;

/// Reads a record from its start.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    met_a_value: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0, met_a_value: false }
    }

    pub(super) fn at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Whether the type of at least one value was recognised.
    pub(super) fn has_met_a_value(&self) -> bool {
        self.met_a_value
    }

    pub(super) fn byte(&mut self) -> Result<u8, Stop> {
        let byte = *self.bytes.get(self.at).ok_or(Stop::Cut)?;
        self.at += 1;
        Ok(byte)
    }

    pub(super) fn expect(&mut self, text: &[u8]) -> Result<(), Stop> {
        text.iter().try_for_each(|&expected| match self.byte()? {
            byte if byte == expected => Ok(()),
            _ => Err(Stop::Broken),
        })
    }

    pub(super) fn skip(&mut self, length: u64) -> Result<Range<usize>, Stop> {
        let left = self.bytes.len() - self.at;
        let length = usize::try_from(length).ok().filter(|&length| length <= left).ok_or(Stop::Cut)?;
        let start = self.at;
        self.at += length;
        Ok(start..self.at)
    }

    /// What comes before the next `end`, which is skipped.
    pub(super) fn until(&mut self, end: u8) -> Result<Range<usize>, Stop> {
        let start = self.at;
        let length = self.bytes[start..].iter().position(|&byte| byte == end).ok_or(Stop::Cut)?;
        self.at += length + 1;
        Ok(start..start + length)
    }

    /// The start of an array, and how many entries it has.
    pub(super) fn array(&mut self) -> Result<u64, Stop> {
        self.expect(b"a:")?;
        let entries = self.number(b':')?;
        self.expect(b"{")?;
        self.met_a_value = true;
        Ok(entries)
    }

    /// The key of an array's entry or the name of a property: the bytes of a string, or of an integer.
    pub(super) fn key(&mut self) -> Result<Range<usize>, Stop> {
        let key = match self.byte()? {
            b'i' => {
                self.expect(b":")?;
                self.integer()?
            }
            b's' => {
                self.expect(b":")?;
                let key = self.quoted()?;
                self.expect(b";")?;
                key
            }
            _ => return Err(Stop::Broken),
        };
        Ok(key)
    }

    /// One value with all that is in it.
    pub(super) fn value(&mut self) -> Result<Range<usize>, Stop> {
        let start = self.at;
        // The entries still to come in each array or object that is open.
        let mut open: Vec<u64> = Vec::new();
        loop {
            if let Some(entries) = self.scalar_or_opening()? {
                if open.len() == MAX_DEPTH {
                    return Err(Stop::Broken);
                }
                open.push(entries);
            }
            loop {
                match open.last_mut() {
                    None => return Ok(start..self.at),
                    Some(0) => {
                        self.expect(b"}")?;
                        open.pop();
                    }
                    Some(entries) => {
                        *entries -= 1;
                        self.key()?;
                        break;
                    }
                }
            }
        }
    }

    /// A value without entries, or the start of one with that many.
    fn scalar_or_opening(&mut self) -> Result<Option<u64>, Stop> {
        let kind = self.byte()?;
        if kind == b'N' {
            self.expect(b";")?;
            self.met_a_value = true;
            return Ok(None);
        }
        if !b"bidsaOCErR".contains(&kind) {
            return Err(Stop::Broken);
        }
        self.expect(b":")?;
        self.met_a_value = true;
        match kind {
            b'b' => match self.byte()? {
                b'0' | b'1' => self.expect(b";")?,
                _ => return Err(Stop::Broken),
            },
            b'i' => {
                self.integer()?;
            }
            b'd' => self.float()?,
            b'r' | b'R' => {
                self.number(b';')?;
            }
            b's' | b'E' => {
                self.quoted()?;
                self.expect(b";")?;
            }
            b'a' => {
                let entries = self.number(b':')?;
                self.expect(b"{")?;
                return Ok(Some(entries));
            }
            class => {
                self.quoted()?;
                self.expect(b":")?;
                let entries_or_length = self.number(b':')?;
                self.expect(b"{")?;
                if class == b'O' {
                    return Ok(Some(entries_or_length));
                }
                self.skip(entries_or_length)?;
                self.expect(b"}")?;
            }
        }
        Ok(None)
    }

    /// `length:"bytes"`
    fn quoted(&mut self) -> Result<Range<usize>, Stop> {
        let length = self.number(b':')?;
        self.expect(b"\"")?;
        let text = self.skip(length)?;
        self.expect(b"\"")?;
        Ok(text)
    }

    /// Digits, and the byte that ends them.
    fn number(&mut self, end: u8) -> Result<u64, Stop> {
        let mut number: Option<u64> = None;
        loop {
            match self.byte()? {
                digit @ b'0'..=b'9' => {
                    let shifted = number.unwrap_or(0).checked_mul(10).ok_or(Stop::Broken)?;
                    number = Some(shifted.checked_add(u64::from(digit - b'0')).ok_or(Stop::Broken)?);
                }
                byte if byte == end => return number.ok_or(Stop::Broken),
                _ => return Err(Stop::Broken),
            }
        }
    }

    fn integer(&mut self) -> Result<Range<usize>, Stop> {
        let start = self.at;
        if matches!(self.bytes.get(start), Some(b'-' | b'+')) {
            self.at += 1;
        }
        self.number(b';')?;
        Ok(start..self.at - 1)
    }

    fn float(&mut self) -> Result<(), Stop> {
        let start = self.at;
        loop {
            match self.byte()? {
                b';' => break,
                b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E' | b'I' | b'N' | b'F' | b'A'
                    if self.at - start <= MAX_FLOAT => {}
                _ => return Err(Stop::Broken),
            }
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at - 1]).map_err(|_| Stop::Broken)?;
        text.parse::<f64>().map(drop).map_err(|_| Stop::Broken)
    }
}
