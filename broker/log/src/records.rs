//! Opening a batch: its records one by one, as the producer wrote them. Header keys may repeat and keep their
//! order; keys and values are slices of the (decompressed) batch, not copies.

use crate::batch::{Batch, BatchError, TimestampType};
use crate::compression::decompress;
use crate::offsets::{Offset, Timestamp};
use crate::varint;
use bytes::{Buf, Bytes};

/// One record. `headers` hold bytes: nobody guarantees that a key is UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: Offset,
    pub timestamp: Timestamp,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// Opens `batch`, to at most `decompressed_max` bytes. The iterator ends after the first error.
pub fn records(batch: &Batch, decompressed_max: usize) -> Result<Records, BatchError> {
    let header = batch.header();
    let codec = header.codec().ok_or(BatchError::UnsupportedCodec)?;
    let append_time = match header.timestamp_type() {
        TimestampType::CreateTime => None,
        TimestampType::LogAppendTime => Some(header.max_timestamp),
    };
    Ok(Records {
        rest: decompress(codec, &batch.body(), decompressed_max)?,
        left: header.record_count,
        base_offset: header.base_offset,
        base_timestamp: header.base_timestamp,
        append_time,
    })
}

/// See [`records`].
#[derive(Debug)]
pub struct Records {
    rest: Bytes,
    left: i32,
    base_offset: Offset,
    base_timestamp: Timestamp,
    append_time: Option<Timestamp>,
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        let record = self.take_record();
        self.left = if record.is_ok() { self.left - 1 } else { 0 };
        Some(record)
    }
}

impl Records {
    fn take_record(&mut self) -> Result<Record, BatchError> {
        let length = length(&mut self.rest)?.ok_or(BatchError::Corrupt("record has no length"))?;
        let mut record = self.rest.split_to(length);
        if record.is_empty() {
            return Err(BatchError::Corrupt("record is empty"));
        }
        record.advance(1); // attributes: none are defined
        let timestamp = self.base_timestamp.plus(varint::take(&mut record)?);
        let offset = self.base_offset.plus(varint::take(&mut record)?);
        let key = take_bytes(&mut record)?;
        let value = take_bytes(&mut record)?;
        let headers = take_headers(&mut record)?;
        Ok(Record {
            offset,
            timestamp: self.append_time.unwrap_or(timestamp),
            key,
            value,
            headers,
        })
    }
}

fn take_headers(record: &mut Bytes) -> Result<Vec<(Bytes, Option<Bytes>)>, BatchError> {
    let count = length_of(varint::take(record)?, record.remaining())?.unwrap_or(0);
    let mut headers = Vec::with_capacity(count.min(16));
    for _ in 0..count {
        let key = take_bytes(record)?.ok_or(BatchError::Corrupt("header without a key"))?;
        headers.push((key, take_bytes(record)?));
    }
    Ok(headers)
}

fn take_bytes(from: &mut Bytes) -> Result<Option<Bytes>, BatchError> {
    Ok(length(from)?.map(|length| from.split_to(length)))
}

fn length(from: &mut Bytes) -> Result<Option<usize>, BatchError> {
    let claimed = varint::take(from)?;
    length_of(claimed, from.remaining())
}

/// A length is believed only as far as the bytes that are left.
fn length_of(claimed: i64, left: usize) -> Result<Option<usize>, BatchError> {
    match usize::try_from(claimed) {
        Ok(length) if length <= left => Ok(Some(length)),
        Ok(_) => Err(BatchError::Corrupt("record is longer than its batch")),
        Err(_) => Ok(None),
    }
}

/// Whether `body` (not compressed) is exactly `count` records at consecutive offsets: lengths that fit into each other
/// and end where the batch ends. Kafka's `DefaultRecord.readFrom` refuses the same, with INVALID_RECORD.
///
/// Only the numbers between keys and values are looked at, nothing is copied: 6 to 8 ns a record, whatever its size.
pub(crate) fn check_closed(body: &[u8], count: i32) -> Result<(), BatchError> {
    let mut rest = body;
    for delta in 0..i64::from(count) {
        let length = number(&mut rest)?;
        let record = usize::try_from(length)
            .ok()
            .and_then(|length| rest.split_at_checked(length));
        let Some((record, after)) = record else {
            return Err(BatchError::Invalid("record is longer than its batch"));
        };
        check_record(record, delta)?;
        rest = after;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(BatchError::Invalid("bytes are left behind the last record"))
    }
}

fn check_record(record: &[u8], offset_delta: i64) -> Result<(), BatchError> {
    // The attributes: none are defined.
    let (_, mut rest) = record
        .split_first()
        .ok_or(BatchError::Invalid("record is empty"))?;
    number(&mut rest)?; // any timestamp
    if number(&mut rest)? != offset_delta {
        return Err(BatchError::Invalid("offsets of records do not follow each other"));
    }
    skip(&mut rest)?; // key
    skip(&mut rest)?; // value
    let headers = number(&mut rest)?;
    if headers < 0 {
        return Err(BatchError::Invalid("number of headers is negative"));
    }
    // A header takes two bytes at least, so a lie about their number ends with the record.
    for _ in 0..headers {
        if skip(&mut rest)? < 0 {
            return Err(BatchError::Invalid("header without a key"));
        }
        skip(&mut rest)?;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(BatchError::Invalid("record is longer than what it holds"))
    }
}

/// Passes a length and as many bytes (none if it is negative: null), and answers the length.
fn skip(rest: &mut &[u8]) -> Result<i64, BatchError> {
    let length = number(rest)?;
    if let Ok(bytes) = usize::try_from(length) {
        *rest = rest
            .get(bytes..)
            .ok_or(BatchError::Invalid("field is longer than its record"))?;
    }
    Ok(length)
}

/// Most numbers of a record are one byte long.
#[inline]
fn number(rest: &mut &[u8]) -> Result<i64, BatchError> {
    match rest.split_first() {
        Some((byte, after)) if byte & 0x80 == 0 => {
            *rest = after;
            Ok(i64::from(byte >> 1) ^ -i64::from(byte & 1))
        }
        Some(_) => long_number(rest),
        None => Err(BatchError::Invalid("record ends inside a number")),
    }
}

fn long_number(rest: &mut &[u8]) -> Result<i64, BatchError> {
    let mut value = 0u64;
    for (at, byte) in rest.iter().take(varint::BYTES_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            *rest = &rest[at + 1..];
            return Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()));
        }
    }
    Err(BatchError::Invalid("number does not end"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Builder;
    use crate::compression::Codec;

    const MAX: usize = 1 << 20;

    #[test]
    fn records_come_back_as_they_were_pushed_in_every_codec() {
        for codec in Codec::ALL {
            let headers = [("trace", Some(&b"1"[..])), ("trace", None), ("", Some(&b""[..]))];
            let bytes = Builder::new(Timestamp::new(50))
                .codec(codec)
                .push(Timestamp::new(60), Some(b"key"), None, &headers)
                .push(Timestamp::new(40), None, Some(b""), &[])
                .build();
            let opened: Vec<_> = records(&Batch::check(bytes).unwrap(), MAX)
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();

            assert_eq!(opened[0].key.as_deref(), Some(&b"key"[..]));
            assert_eq!(opened[0].value, None);
            assert_eq!(opened[0].timestamp, Timestamp::new(60));
            let keys: Vec<_> = opened[0]
                .headers
                .iter()
                .map(|(key, value)| (&key[..], value.as_deref()))
                .collect();
            assert_eq!(
                keys,
                [
                    (&b"trace"[..], Some(&b"1"[..])),
                    (b"trace", None),
                    (b"", Some(b""))
                ]
            );
            assert_eq!(opened[1].value.as_deref(), Some(&b""[..]));
            assert_eq!(opened[1].offset, Offset::new(1));
            assert_eq!(opened[1].timestamp, Timestamp::new(40));
        }
    }

    proptest::proptest! {
        // The CRC is the sender's own, so it proves nothing about what is inside.
        #[test]
        fn nonsense_inside_a_batch_is_an_error_never_a_panic(
            body: Vec<u8>,
            codec in 0i16..5,
            record_count in 0i32..10,
        ) {
            let mut bytes = Builder::new(Timestamp::new(0)).push(Timestamp::new(0), None, None, &[]).build().to_vec();
            let header = crate::batch::Header::parse(&bytes).unwrap();
            bytes.truncate(crate::batch::HEADER_BYTES);
            bytes.extend_from_slice(&body);
            let header = crate::batch::Header { attributes: codec, record_count, ..header };
            crate::batch::seal_header(&mut bytes, &header);
            if let Ok(opened) = records(&Batch::check(bytes.into()).unwrap(), MAX) {
                assert!(opened.count() <= 10);
            }
        }
    }

    /// One record, with this offset delta, value length and number of headers, and then `rest`.
    fn spelled(offset_delta: i64, value: i64, headers: i64, rest: &[u8]) -> Vec<u8> {
        let mut record = vec![0];
        for number in [7, offset_delta, -1, value] {
            varint::put(&mut record, number);
        }
        record.extend_from_slice(b"v");
        varint::put(&mut record, headers);
        record.extend_from_slice(rest);
        let mut body = Vec::new();
        varint::put(&mut body, record.len() as i64);
        body.extend_from_slice(&record);
        body
    }

    #[test]
    fn records_that_no_consumer_could_read_are_found_without_opening_them() {
        let good = spelled(0, 1, 0, b"");
        assert_eq!(check_closed(&good, 1), Ok(()));
        assert_eq!(check_closed(&spelled(0, 1, 1, &[2, b'h', 1]), 1), Ok(()));

        for (what, body, count) in [
            ("nonsense", vec![0xff; 50], 1),
            ("nothing", vec![], 1),
            ("a record too few", good.clone(), 2),
            (
                "a record too many",
                [good.clone(), spelled(1, 1, 0, b"")].concat(),
                1,
            ),
            ("an offset twice", [good.clone(), good.clone()].concat(), 2),
            ("an offset left out", spelled(1, 1, 0, b""), 1),
            ("a value longer than its record", spelled(0, 900, 0, b""), 1),
            ("headers that are not there", spelled(0, 1, i64::MAX, b""), 1),
            ("fewer headers than none", spelled(0, 1, -1, b""), 1),
            ("a header without a key", spelled(0, 1, 1, &[1, 1]), 1),
            ("bytes behind the headers", spelled(0, 1, 0, b"x"), 1),
            ("an empty record", vec![0], 1),
            ("a record longer than its batch", vec![100, 0, 0], 1),
        ] {
            assert!(
                matches!(check_closed(&body, count), Err(BatchError::Invalid(_))),
                "{what}"
            );
        }
    }

    proptest::proptest! {
        // What is taken can be read: the check may not be weaker than the reader.
        #[test]
        fn what_passes_closed_can_be_opened(body: Vec<u8>, flips in proptest::collection::vec((0usize..60, 0u8..8), 0..3)) {
            let good = Builder::new(Timestamp::new(0))
                .push(Timestamp::new(0), Some(b"key"), Some(b"value"), &[("h", None), ("i", Some(b"x"))])
                .push(Timestamp::new(500), None, Some(b"w"), &[])
                .build();
            let mut damaged = good[crate::batch::HEADER_BYTES..].to_vec();
            for (at, bit) in flips {
                let at = at % damaged.len();
                damaged[at] ^= 1 << bit;
            }
            for body in [body, damaged] {
                if check_closed(&body, 2).is_err() {
                    continue;
                }
                let mut bytes = good.to_vec();
                let header = crate::batch::Header::parse(&bytes).unwrap();
                bytes.truncate(crate::batch::HEADER_BYTES);
                bytes.extend_from_slice(&body);
                crate::batch::seal_header(&mut bytes, &header);
                let opened = records(&Batch::check(bytes.into()).unwrap(), MAX).unwrap();
                let offsets: Vec<_> = opened.map(|record| record.unwrap().offset.value()).collect();
                assert_eq!(offsets, [0, 1]);
            }
        }
    }

    #[test]
    fn a_batch_that_promises_more_records_than_it_holds_is_corrupt() {
        let mut bytes = Builder::new(Timestamp::new(0))
            .push(Timestamp::new(0), None, None, &[])
            .build()
            .to_vec();
        let mut header = crate::batch::Header::parse(&bytes).unwrap();
        header.record_count = 3;
        crate::batch::seal_header(&mut bytes, &header);
        let opened: Vec<_> = records(&Batch::check(bytes.into()).unwrap(), MAX)
            .unwrap()
            .collect();
        assert_eq!(opened.len(), 2);
        assert!(opened[1].is_err());
    }
}
