//! LZF, the format of Marc Lehmann's [liblzf]: a sequence of literal runs and back references.
//!
//! | first byte | meaning |
//! |---|---|
//! | `000LLLLL` | L + 1 literal bytes follow |
//! | `LLLooooo oooooooo`, L from 1 to 6 | L + 2 bytes from o + 1 bytes ago |
//! | `111ooooo LLLLLLLL oooooooo` | L + 9 bytes from o + 1 bytes ago |
//!
//! No crate of it is kept up; it is small.
//!
//! [liblzf]: http://software.schmorp.de/pkg/liblzf.html

const LONGEST_RUN: usize = 32;
const LONGEST_MATCH: usize = 264;
const FARTHEST: usize = 1 << 13;
const HASH_BITS: u32 = 14;

/// Compresses bytes; those that do not get smaller come out 1/32 larger.
pub(super) fn compress(input: &[u8]) -> Vec<u8> {
    let mut output = Vec::with_capacity(input.len() / 2 + 16);
    // Where three bytes with this hash were last seen; 0 is nowhere, so that positions count from 1.
    let mut seen = vec![0u32; 1 << HASH_BITS];
    let mut literals = 0;
    let mut at = 0;
    while at < input.len() {
        let found = input.get(at..at + 3).and_then(|three| {
            let slot = &mut seen[hash(three)];
            let earlier = std::mem::replace(slot, at as u32 + 1).checked_sub(1)? as usize;
            (at - earlier <= FARTHEST && input[earlier..earlier + 3] == *three).then_some(earlier)
        });
        let Some(earlier) = found else {
            at += 1;
            continue;
        };
        write_literals(&mut output, &input[literals..at]);
        let longest = LONGEST_MATCH.min(input.len() - at);
        let same = |length: &usize| input[earlier + length] == input[at + length];
        let length = (3..longest).find(|length| !same(length)).unwrap_or(longest);
        write_reference(&mut output, at - earlier, length);
        at += length;
        literals = at;
    }
    write_literals(&mut output, &input[literals..]);
    output
}

/// Decompresses to at most this many bytes; `None` for anything that [`compress`] and liblzf do not write.
pub(super) fn decompress(input: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut output: Vec<u8> = Vec::new();
    let mut rest = input;
    // Only the longest run can be followed by another one. The header of igbinary looks like many short ones.
    let mut another_run = true;
    while let Some((&first, after)) = rest.split_first() {
        let kind = usize::from(first >> 5);
        if kind == 0 {
            let run;
            (run, rest) = after.split_at_checked(usize::from(first) + 1).filter(|_| another_run)?;
            output.extend_from_slice(run);
            another_run = run.len() == LONGEST_RUN;
        } else {
            let (length, after) = match kind {
                7 => after.split_first().map(|(more, after)| (usize::from(*more) + 9, after))?,
                _ => (kind + 2, after),
            };
            let (low, after) = after.split_first()?;
            let start = output.len().checked_sub((usize::from(first & 0x1f) << 8 | usize::from(*low)) + 1)?;
            // The bytes that are copied may be among those that are written.
            for place in start..start + length {
                output.push(output[place]);
            }
            rest = after;
            another_run = true;
        }
        if output.len() > most {
            return None;
        }
    }
    (!output.is_empty()).then_some(output)
}

fn hash(three: &[u8]) -> usize {
    let value = u32::from_le_bytes([three[0], three[1], three[2], 0]);
    (value.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize
}

fn write_literals(output: &mut Vec<u8>, bytes: &[u8]) {
    for run in bytes.chunks(LONGEST_RUN) {
        output.push((run.len() - 1) as u8);
        output.extend_from_slice(run);
    }
}

fn write_reference(output: &mut Vec<u8>, distance: usize, length: usize) {
    let (offset, length) = (distance - 1, length - 2);
    let high = (offset >> 8) as u8;
    match length {
        ..7 => output.push((length as u8) << 5 | high),
        _ => output.extend([7 << 5 | high, (length - 7) as u8]),
    }
    output.push(offset as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_that_of_liblzf() {
        // Runs and references, each as the format's description has them.
        assert_eq!(compress(b"n|i:1;"), b"\x05n|i:1;");
        assert_eq!(compress(b"aaaaaa"), b"\x00a\x60\x00");
        assert_eq!(compress(&[b'a'; 300]), b"\x00a\xe0\xff\x00\xe1\x1a\x07");
        assert_eq!(decompress(b"\x02abc\x20\x02", 99).unwrap(), b"abcabc");
        assert_eq!(decompress(b"\x00a\xe0\xff\x00", 999).unwrap(), [b'a'; 265]);
    }

    #[test]
    fn what_is_cut_or_refers_to_before_the_start_is_nothing() {
        for bytes in [&b"\x05n|i"[..], b"\x20\x00", b"\x00a\x20\x01", b"\x00a\xe0\x00", b"\x00a\x20", b""] {
            assert_eq!(decompress(bytes, 99), None, "{bytes:?}");
        }
        assert_eq!(decompress(b"\x00a\xe0\xff\x00", 100), None, "larger than allowed");
    }
}
