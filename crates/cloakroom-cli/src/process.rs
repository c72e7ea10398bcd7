//! The environment of another process.
//!
//! `/proc/PID/environ` is the memory in which it got its environment when it started. PHP-FPM's master writes its title over
//! that, and fills the rest with zeros; its own copy is where the variable `environ` of its C library points.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use cloakroom::{Environment, Error, ErrorKind, Result};

/// What the process was started with.
pub(crate) fn environment_of(pid: u32) -> Result<Environment> {
    let failed = |what: String, error: io::Error| {
        Error::new(ErrorKind::Config, what)
            .source(error)
            .hint("run this as root, or as the user that the process runs as")
    };
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorKind::Config, format!("there is no process {pid}"))
            .hint("pgrep -o php-fpm names the master's"),
        _ => failed(format!("cannot read the environment of process {pid}"), error),
    })?;
    if !is_overwritten(&bytes) {
        return Ok(bytes.split(|byte| *byte == 0).filter_map(pair).collect());
    }
    let copy = copied(pid).map_err(|error| {
        failed(format!("process {pid} wrote over its environment, and its copy cannot be read"), error)
    })?;
    copy.ok_or_else(|| {
        Error::new(
            ErrorKind::Config,
            format!("process {pid} wrote over its environment, and no copy was found"),
        )
        .hint("write the variables into a file, and name it with --env-file")
    })
}

/// One zero ends the last variable, and no more.
fn is_overwritten(bytes: &[u8]) -> bool {
    bytes.ends_with(&[0, 0])
}

fn pair(entry: &[u8]) -> Option<(String, String)> {
    let (name, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
    Some((name.to_owned(), value.to_owned()))
}

/// The variables that `environ` points to; `None` where there is no such variable.
fn copied(pid: u32) -> io::Result<Option<Environment>> {
    let Some(at) = address_of_environ(pid)? else { return Ok(None) };
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let pointer = |at: u64| {
        let mut bytes = [0; 8];
        memory.read_exact_at(&mut bytes, at).map(|()| u64::from_le_bytes(bytes))
    };
    let mut environment = Environment::default();
    let mut next = pointer(at)?;
    while next != 0 {
        let entry = pointer(next)?;
        if entry == 0 {
            break;
        }
        if let Some((name, value)) = pair(&text_at(&memory, entry)?) {
            environment.set(name, value);
        }
        next += 8;
    }
    Ok(Some(environment))
}

/// Up to the zero that ends it; page by page, for what is behind the last one cannot be read.
fn text_at(memory: &File, mut at: u64) -> io::Result<Vec<u8>> {
    const PAGE: usize = 4096;
    // Linux takes no longer one.
    const LIMIT: usize = 128 * 1024;
    let mut text = Vec::new();
    while text.len() <= LIMIT {
        let mut page = vec![0; PAGE - at as usize % PAGE];
        memory.read_exact_at(&mut page, at)?;
        if let Some(end) = page.iter().position(|byte| *byte == 0) {
            text.extend_from_slice(&page[..end]);
            return Ok(text);
        }
        at += page.len() as u64;
        text.extend(page);
    }
    Err(io::Error::other("a variable has no end"))
}

/// The variable is the C library's, or the program's own copy of it.
fn address_of_environ(pid: u32) -> io::Result<Option<u64>> {
    let program = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    for line in maps.lines() {
        // 7f8b22400000-7f8b22426000 r--p 00000000 fe:00 1234     /usr/lib/libc.so.6
        let mut words = line.split_whitespace();
        let (Some(range), Some("00000000"), Some(path)) = (words.next(), words.nth(1), words.nth(2)) else {
            continue;
        };
        let path = Path::new(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path != program
            && !name.starts_with("libc.")
            && !name.starts_with("libc-")
            && !name.starts_with("ld-musl")
        {
            continue;
        }
        let start = range.split('-').next().and_then(|start| u64::from_str_radix(start, 16).ok());
        let file = std::fs::read(format!("/proc/{pid}/root{}", path.display()))?;
        if let (Some(start), Some(symbol)) = (start, Elf(&file).environ()) {
            return Ok(Some(symbol.address(start)));
        }
    }
    Ok(None)
}

/// A program or a library of 64 bits, the lowest byte first.
struct Elf<'a>(&'a [u8]);

/// Where a file says that the variable is.
struct Symbol {
    value: u64,
    /// Whether the file can be anywhere in memory, and `value` counts from there.
    relative: bool,
}

impl Symbol {
    fn address(&self, start: u64) -> u64 {
        if self.relative { start.wrapping_add(self.value) } else { self.value }
    }
}

impl Elf<'_> {
    fn environ(&self) -> Option<Symbol> {
        const SHARED: u64 = 3;
        const DYNAMIC_SYMBOLS: u64 = 11;
        const SYMBOL_SIZE: u64 = 24;
        if !self.0.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let relative = self.number::<2>(0x10)? == SHARED;
        let (sections, size) = (self.number::<8>(0x28)?, self.number::<2>(0x3a)?);
        let section = |index: u64| sections.checked_add(index.checked_mul(size)?);
        for index in 0..self.number::<2>(0x3c)? {
            let header = section(index)?;
            if self.number::<4>(header + 4)? != DYNAMIC_SYMBOLS {
                continue;
            }
            let (from, length) = (self.number::<8>(header + 0x18)?, self.number::<8>(header + 0x20)?);
            let names = self.number::<8>(section(self.number::<4>(header + 0x28)?)? + 0x18)?;
            for symbol in (0..length / SYMBOL_SIZE).map(|number| from + number * SYMBOL_SIZE) {
                let name = self.0.get(usize::try_from(names + self.number::<4>(symbol)?).ok()?..)?;
                let is_here = self.number::<2>(symbol + 6)? != 0;
                if is_here && (name.starts_with(b"environ\0") || name.starts_with(b"__environ\0")) {
                    return Some(Symbol { value: self.number::<8>(symbol + 8)?, relative });
                }
            }
        }
        None
    }

    fn number<const BYTES: usize>(&self, at: u64) -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let bytes = self.0.get(at..at.checked_add(BYTES)?)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}
