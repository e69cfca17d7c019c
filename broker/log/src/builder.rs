//! Makes batches: for coordinators, which write their own records, and for tests.

use crate::batch::{HEADER_BYTES, Header, seal_header};
use crate::compression::{Codec, compress};
use crate::offsets::{LeaderEpoch, Offset, Timestamp};
use crate::varint;
use bytes::Bytes;

/// Collects records, then builds one batch with base offset 0 (the append stamps the real one).
#[derive(Debug)]
pub struct Builder {
    records: Vec<u8>,
    header: Header,
    codec: Codec,
}

impl Builder {
    /// `timestamp` is the base the records' times are written relative to.
    pub fn new(timestamp: Timestamp) -> Self {
        Self {
            records: Vec::new(),
            header: Header {
                base_offset: Offset::ZERO,
                batch_length: 0,
                leader_epoch: LeaderEpoch::new(-1),
                crc: 0,
                attributes: 0,
                last_offset_delta: -1,
                base_timestamp: timestamp,
                max_timestamp: Timestamp::NONE,
                producer_id: -1,
                producer_epoch: -1,
                base_sequence: -1,
                record_count: 0,
            },
            codec: Codec::None,
        }
    }

    #[must_use]
    pub const fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        self.header.producer_id = id;
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    #[must_use]
    pub const fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Adds one record behind the others.
    #[must_use]
    pub fn push(
        mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Self {
        let mut record = vec![0]; // attributes
        varint::put(&mut record, timestamp.since(self.header.base_timestamp));
        varint::put(&mut record, i64::from(self.header.record_count));
        put_bytes(&mut record, key);
        put_bytes(&mut record, value);
        varint::put(&mut record, headers.len() as i64);
        for (key, value) in headers {
            put_bytes(&mut record, Some(key.as_bytes()));
            put_bytes(&mut record, *value);
        }
        varint::put(&mut self.records, record.len() as i64);
        self.records.extend_from_slice(&record);
        self.header.record_count += 1;
        self.header.last_offset_delta += 1;
        self.header.max_timestamp = self.header.max_timestamp.max(timestamp);
        self
    }

    /// Bytes of the records so far, before compression.
    pub const fn bytes(&self) -> usize {
        self.records.len()
    }

    /// The batch. Asserts that it holds at least one record: an empty batch is nobody's intention.
    pub fn build(mut self) -> Bytes {
        assert!(self.header.record_count > 0, "a batch needs a record");
        // A codec that fails on memory is a codec we do without: the batch stays correct, only larger.
        let (codec, body) = match compress(self.codec, &self.records) {
            Ok(packed) => (self.codec, packed),
            Err(_) => (Codec::None, self.records),
        };
        self.header.attributes |= codec.bits();
        let mut batch = vec![0; HEADER_BYTES + body.len()];
        batch[HEADER_BYTES..].copy_from_slice(&body);
        seal_header(&mut batch, &self.header);
        batch.into()
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            varint::put(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => varint::put(out, -1),
    }
}
