//! Kafka's five codecs. A broker passes compressed batches through untouched; this is for what must look inside:
//! timestamp lookups, the sink, coordinators, tests. Output is bounded: a bomb is an error, not an allocation.

use crate::batch::BatchError;
use bytes::Bytes;
use std::io::{self, Read, Write};

/// How the records of a batch are packed. The numbers are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Codec {
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    pub(crate) const fn from_bits(bits: i16) -> Option<Self> {
        match bits {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    pub(crate) const fn bits(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }
}

// Java's snappy stream: this, two version numbers, then blocks of [length u32][raw snappy].
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\x00";
const XERIAL_HEADER_BYTES: usize = 16;
// What the Java client cuts its blocks to.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
// Above it a frame that claims a huge size is grown into step by step instead of believed at once.
const FIRST_GUESS_BYTES: usize = 1 << 20;
const ZSTD_LEVEL: i32 = 3;

/// Packs `plain`. Fails only if a codec's own library does.
pub fn compress(codec: Codec, plain: &[u8]) -> io::Result<Vec<u8>> {
    match codec {
        Codec::None => Ok(plain.to_vec()),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(plain)?;
            encoder.finish()
        }
        Codec::Snappy => snappy_xerial(plain),
        Codec::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(plain)?;
            encoder.finish().map_err(io::Error::other)
        }
        Codec::Zstd => zstd::stream::encode_all(plain, ZSTD_LEVEL),
    }
}

/// Unpacks to at most `max` bytes. `Codec::None` shares the bytes it is given.
pub fn decompress(codec: Codec, packed: &Bytes, max: usize) -> Result<Bytes, BatchError> {
    match codec {
        Codec::None => Ok(packed.clone()),
        Codec::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(&packed[..]), packed.len(), max),
        Codec::Snappy => unsnappy(packed, max),
        Codec::Lz4 => read_bounded(lz4_flex::frame::FrameDecoder::new(&packed[..]), packed.len(), max),
        Codec::Zstd => match zstd::stream::read::Decoder::with_buffer(&packed[..]) {
            Ok(decoder) => read_bounded(decoder, packed.len(), max),
            Err(_) => Err(BatchError::Corrupt("zstd decoder did not start")),
        },
    }
}

fn read_bounded(decoder: impl Read, packed: usize, max: usize) -> Result<Bytes, BatchError> {
    let mut plain = Vec::with_capacity(packed.saturating_mul(4).min(max).min(FIRST_GUESS_BYTES));
    let one_too_many = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    if decoder.take(one_too_many).read_to_end(&mut plain).is_err() {
        return Err(BatchError::Corrupt("records do not decompress"));
    }
    if plain.len() > max {
        return Err(BatchError::TooLargeOpened { max });
    }
    Ok(plain.into())
}

fn snappy_xerial(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(XERIAL_HEADER_BYTES + snap::raw::max_compress_len(plain.len()));
    out.extend_from_slice(XERIAL_MAGIC);
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in plain.chunks(XERIAL_BLOCK_BYTES) {
        let packed = encoder.compress_vec(block).map_err(io::Error::other)?;
        let length = u32::try_from(packed.len()).map_err(io::Error::other)?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&packed);
    }
    Ok(out)
}

fn unsnappy(packed: &[u8], max: usize) -> Result<Bytes, BatchError> {
    let mut plain = Vec::new();
    if !packed.starts_with(XERIAL_MAGIC) {
        unsnappy_block(packed, max, &mut plain)?;
        return Ok(plain.into());
    }
    let mut rest = packed;
    while !rest.is_empty() {
        // Streams that were joined carry their header again.
        if rest.starts_with(XERIAL_MAGIC) {
            rest = rest
                .get(XERIAL_HEADER_BYTES..)
                .ok_or(BatchError::Corrupt("snappy stream ends in its header"))?;
            continue;
        }
        let (length, after) = rest
            .split_first_chunk::<4>()
            .ok_or(BatchError::Corrupt("snappy stream ends in a length"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let block = after
            .get(..length)
            .ok_or(BatchError::Corrupt("snappy block is longer than its stream"))?;
        unsnappy_block(block, max, &mut plain)?;
        rest = &after[length..];
    }
    Ok(plain.into())
}

fn unsnappy_block(block: &[u8], max: usize, plain: &mut Vec<u8>) -> Result<(), BatchError> {
    let Ok(length) = snap::raw::decompress_len(block) else {
        return Err(BatchError::Corrupt("snappy block has no length"));
    };
    let start = plain.len();
    if start.saturating_add(length) > max {
        return Err(BatchError::TooLargeOpened { max });
    }
    // Snappy packs at most about 21:1, so a length far beyond that is a lie and not worth its memory.
    if length > block.len().saturating_mul(64).saturating_add(64) {
        return Err(BatchError::Corrupt("snappy block claims more than it can hold"));
    }
    plain.resize(start + length, 0);
    match snap::raw::Decoder::new().decompress(block, &mut plain[start..]) {
        Ok(written) if written == length => Ok(()),
        Ok(_) | Err(_) => Err(BatchError::Corrupt("records do not decompress")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        b"a varve is a layer of sediment. ".repeat(5000)
    }

    #[test]
    fn every_codec_gives_back_what_it_was_given() {
        for codec in Codec::ALL {
            for plain in [Vec::new(), b"x".to_vec(), text()] {
                let packed = compress(codec, &plain).unwrap();
                assert_eq!(
                    decompress(codec, &packed.into(), plain.len().max(1)).unwrap(),
                    plain,
                    "{codec:?}"
                );
            }
        }
    }

    #[test]
    fn a_bomb_is_an_error() {
        let zeros = vec![0u8; 4 << 20];
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let packed = compress(codec, &zeros).unwrap();
            let refused = decompress(codec, &packed.into(), 1 << 20).unwrap_err();
            assert_eq!(refused, BatchError::TooLargeOpened { max: 1 << 20 }, "{codec:?}");
        }
    }

    #[test]
    fn raw_snappy_without_a_stream_header_is_read_too() {
        let packed = snap::raw::Encoder::new().compress_vec(&text()).unwrap();
        assert_eq!(
            decompress(Codec::Snappy, &packed.into(), 1 << 20).unwrap(),
            text()
        );
    }

    #[test]
    fn garbage_is_an_error_in_every_codec() {
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            assert!(
                decompress(codec, &Bytes::from_static(&[0xff; 40]), 1 << 20).is_err(),
                "{codec:?}"
            );
        }
    }
}
