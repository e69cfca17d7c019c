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
