//! What happens to a record's bytes between PHP and the store: compression, as phpredis 6.1 and later does it.
//!
//! | `redis.session.compression` | what is stored |
//! |---|---|
//! | `lzf` | an LZF block, as liblzf writes it, without a header |
//! | `zstd` | a Zstandard frame that says how large its content is ([RFC 8878]) |
//! | `lz4` | a CRC-8 of the next four bytes, the length in these four (little endian), an LZ4 block |
//!
//! Nothing in a record says that it is compressed: what does not decompress is taken as it is. So sessions of before the
//! setting was made live on, and are compressed when they are next written. The other way round does not work: with
//! another setting, a compressed record is bytes that PHP cannot decode.
//!
//! Records larger than [`LARGEST`], before or after, are left alone.
//!
//! [RFC 8878]: https://www.rfc-editor.org/rfc/rfc8878

mod lzf;

use std::borrow::Cow;

/// The largest record that is compressed or decompressed, in bytes: what a broken one may ask for at most.
pub const LARGEST: usize = 512 << 20;

/// How records are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// LZF: no levels.
    Lzf,
    /// Zstandard.
    Zstd {
        /// 1 (fast) to 22 (small); what is outside means 3 below and 22 above.
        level: i32,
    },
    /// LZ4: no levels; phpredis' higher ones write the same format, and are read.
    Lz4,
}

impl Compression {
    /// What to store for these bytes.
    pub fn pack(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        let packed = match self {
            Compression::None => None,
            _ if bytes.is_empty() || bytes.len() > LARGEST => None,
            Compression::Lzf => Some(lzf::compress(bytes)),
            Compression::Zstd { level } => zstd::bulk::compress(bytes, zstd_level(level)).ok(),
            Compression::Lz4 => Some(lz4_pack(bytes)),
        };
        packed.map_or(Cow::Borrowed(bytes), Cow::Owned)
    }

    /// The bytes for what is stored; what is not compressed this way is returned as it is.
    pub fn unpack(self, stored: &[u8]) -> Cow<'_, [u8]> {
        let unpacked = match self {
            Compression::None => None,
            Compression::Lzf => lzf::decompress(stored, LARGEST),
            Compression::Zstd { .. } => zstd_unpack(stored),
            Compression::Lz4 => lz4_unpack(stored),
        };
        unpacked.map_or(Cow::Borrowed(stored), Cow::Owned)
    }
}

fn zstd_level(level: i32) -> i32 {
    match level {
        ..1 => zstd::DEFAULT_COMPRESSION_LEVEL,
        level => level.min(*zstd::compression_level_range().end()),
    }
}

fn zstd_unpack(stored: &[u8]) -> Option<Vec<u8>> {
    let size = zstd::zstd_safe::get_frame_content_size(stored).ok().flatten()?;
    let size = usize::try_from(size).ok()?;
    let mut unpacked = room(size)?;
    let written = zstd::bulk::Decompressor::new().ok()?.decompress_to_buffer(stored, &mut unpacked).ok()?;
    (written == size).then_some(unpacked)
}

/// CRC-8 and length.
const LZ4_HEADER: usize = 5;

fn lz4_pack(bytes: &[u8]) -> Vec<u8> {
    // No longer than `LARGEST`.
    let length = (bytes.len() as u32).to_le_bytes();
    let mut packed = Vec::with_capacity(LZ4_HEADER + lz4_flex::block::get_maximum_output_size(bytes.len()));
    packed.push(crc8(length));
    packed.extend(length);
    packed.extend(lz4_flex::block::compress(bytes));
    packed
}

fn lz4_unpack(stored: &[u8]) -> Option<Vec<u8>> {
    let (header, block) = stored.split_at_checked(LZ4_HEADER)?;
    let length = <[u8; 4]>::try_from(&header[1..]).ok()?;
    if crc8(length) != header[0] {
        return None;
    }
    let size = usize::try_from(i32::from_le_bytes(length)).ok()?;
    let mut unpacked = room(size)?;
    unpacked.resize(size, 0);
    let written = lz4_flex::block::decompress_into(block, &mut unpacked).ok()?;
    (written == size).then_some(unpacked)
}

/// CRC-8 with the polynomial 0x31, begun at 0xFF.
fn crc8(bytes: [u8; 4]) -> u8 {
    bytes.into_iter().fold(0xff, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc, _| if crc & 0x80 != 0 { crc << 1 ^ 0x31 } else { crc << 1 })
    })
}

/// An empty vector with this much room, unless a broken record asks for too much.
fn room(size: usize) -> Option<Vec<u8>> {
    let mut room = Vec::new();
    (size <= LARGEST && room.try_reserve_exact(size).is_ok()).then_some(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 3] = [Compression::Lzf, Compression::Zstd { level: 3 }, Compression::Lz4];

    /// What a shop keeps in a session.
    fn cart(items: usize) -> Vec<u8> {
        let item = |n| format!("cart_{n}|a:2:{{s:3:\"sku\";s:8:\"{:08}\";s:5:\"count\";i:{n};}}", n * 7919);
        (0..items).map(item).collect::<String>().into_bytes()
    }

    #[test]
    fn what_is_packed_is_unpacked_to_the_same_bytes() {
        let mut noise: Vec<u8> = Vec::new();
        let mut state = 1u32;
        for _ in 0..100_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            noise.push((state >> 24) as u8);
        }
        let samples = [
            b"n|i:1;".to_vec(),
            cart(1),
            cart(300),
            vec![b'x'; 70_000],
            vec![0],
            noise.clone(),
            b"ab".repeat(9),
        ];
        for compression in ALL {
            for sample in &samples {
                let packed = compression.pack(sample);
                assert_eq!(compression.unpack(&packed), sample.as_slice(), "{compression:?}");
            }
            assert!(compression.pack(&cart(300)).len() < cart(300).len() / 3, "{compression:?}");
            assert_eq!(compression.pack(b"").as_ref(), b"", "an empty session stays one");
        }
    }

    #[test]
    fn levels_of_zstd_outside_its_own_mean_the_nearest_or_the_default() {
        let at = |level| Compression::Zstd { level }.pack(&cart(300)).into_owned();
        assert_eq!(at(0), at(3));
        assert_eq!(at(-7), at(3));
        assert_eq!(at(99), at(22));
        assert_ne!(at(1), at(19));
    }

    #[test]
    fn a_frame_of_zstd_says_how_large_its_content_is() {
        let packed = Compression::Zstd { level: 3 }.pack(&cart(3)).into_owned();
        let size = zstd::zstd_safe::get_frame_content_size(&packed).unwrap();
        assert_eq!(size, Some(cart(3).len() as u64));
    }

    #[test]
    fn what_is_not_compressed_this_way_is_taken_as_it_is() {
        // Runs of 1, 1 and 21 literals, for a reader of LZF that does not look twice.
        let igbinary = b"\x00\x00\x00\x02\x14\x01\x11\x01n\x11\x0fabcdefghijklmno";
        let records: [&[u8]; 8] = [
            b"",
            b"n|i:1;",
            b"a:1:{s:1:\"n\";i:1;}",
            b"\x82\xc0\x01\xa1n\x05",
            igbinary,
            b"\x28\xb5\x2f\xfd",
            b"\x1f\x00",
            &[0xff; 64],
        ];
        for compression in ALL {
            for record in records {
                assert_eq!(compression.unpack(record), record, "{compression:?}");
            }
        }
    }

    #[test]
    fn a_record_that_asks_for_too_much_is_taken_as_it_is() {
        let length = i32::MAX.to_le_bytes();
        let lz4 = [&[crc8(length)][..], &length, &[0x1f, b'x', 1, 0, 0xff, 0xff, 0]].concat();
        assert_eq!(Compression::Lz4.unpack(&lz4), lz4);
        // A frame that says that it holds 2^40 bytes, in one block of one byte.
        let zstd = b"\x28\xb5\x2f\xfd\xe0\x00\x00\x00\x00\x00\x01\x00\x00\x09\x00\x00x".to_vec();
        assert_eq!(zstd::zstd_safe::get_frame_content_size(&zstd).unwrap(), Some(1 << 40));
        assert_eq!(Compression::Zstd { level: 3 }.unpack(&zstd), zstd);
    }

    #[test]
    fn the_bytes_are_those_of_phpredis() {
        // As phpredis 6.2 stored `n|i:1;`.
        for (compression, stored) in [
            (Compression::Lzf, &b"\x05n|i:1;"[..]),
            (Compression::Zstd { level: 3 }, b"\x28\xb5\x2f\xfd\x20\x06\x31\x00\x00n|i:1;"),
            (Compression::Lz4, b"\xde\x06\x00\x00\x00\x60n|i:1;"),
        ] {
            assert_eq!(compression.unpack(stored), &b"n|i:1;"[..], "{compression:?}");
            assert_eq!(compression.pack(b"n|i:1;"), stored, "{compression:?}");
        }
    }
}
