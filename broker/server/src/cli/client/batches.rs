//! Record batches as a client makes and opens them.

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, Record as WireRecord, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};

use super::producer::NewRecord;
use super::{Error, Result};

/// A record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) offset: i64,
    /// Milliseconds since 1970.
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    /// In their order, names as often as they were given.
    pub(crate) headers: Vec<Header>,
}

pub(crate) type Header = (Bytes, Option<Bytes>);

/// Who writes a batch, for the broker to recognise one that it already has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer {
    pub(super) id: i64,
    pub(super) epoch: i16,
}

/// Overhead a record may have in a batch, at most, beside its own bytes.
const RECORD_OVERHEAD: usize = 40;

/// A batch that is being filled.
#[derive(Default)]
pub(super) struct Draft {
    records: Vec<NewRecord>,
    bytes: usize,
}

impl Draft {
    pub(super) fn push(&mut self, record: NewRecord) {
        self.bytes += record.bytes() + RECORD_OVERHEAD;
        self.records.push(record);
    }

    /// About as large as the batch will be, and not less.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn records(&self) -> usize {
        self.records.len()
    }

    pub(super) fn build(self, writer: Option<Writer>, base_sequence: i32) -> Result<Bytes> {
        let writer = writer.unwrap_or(Writer { id: -1, epoch: -1 });
        let mut batch = BytesMut::with_capacity(self.bytes + 100);
        let records: Vec<_> = self
            .records
            .into_iter()
            .zip(0_i32..)
            .map(|(record, nth)| wire_record(record, nth, writer, base_sequence))
            .collect();
        let options = RecordEncodeOptions {
            version: 2,
            compression: Compression::None,
        };
        RecordBatchEncoder::encode(&mut batch, &records, &options)
            .map_err(|cause| Error::Usage(format!("records cannot be put into a batch: {cause}")))?;
        Ok(batch.freeze())
    }
}

fn wire_record(record: NewRecord, nth: i32, writer: Writer, base_sequence: i32) -> WireRecord {
    let name = |name: String| StrBytes::from_string(name);
    WireRecord {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: writer.id,
        producer_epoch: writer.epoch,
        timestamp_type: TimestampType::Creation,
        offset: i64::from(nth),
        sequence: if base_sequence < 0 {
            base_sequence
        } else {
            base_sequence.wrapping_add(nth) & i32::MAX
        },
        timestamp: record.timestamp,
        key: record.key,
        value: record.value,
        headers: record
            .headers
            .into_iter()
            .map(|(key, value)| (name(key), value))
            .collect(),
    }
}

/// A whole batch out of a fetch, with the little of its header that moves a consumer on.
pub(super) struct Stored {
    pub(super) bytes: Bytes,
    pub(super) next_offset: i64,
}

/// The whole batches at the front of what a fetch brought; a broker may cut the last one short.
pub(super) fn split(records: &Bytes) -> Vec<Stored> {
    let mut batches = Vec::new();
    let mut rest = records.clone();
    while let Some((length, next_offset)) = measure(&rest) {
        batches.push(Stored {
            bytes: rest.split_to(length),
            next_offset,
        });
    }
    batches
}

fn measure(bytes: &[u8]) -> Option<(usize, i64)> {
    let base_offset = i64::from_be_bytes(bytes.get(0..8)?.try_into().ok()?);
    let length = i32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?);
    let last_delta = i32::from_be_bytes(bytes.get(23..27)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?.checked_add(12)?;
    let next_offset = base_offset.checked_add(i64::from(last_delta))?.checked_add(1)?;
    (length <= bytes.len()).then_some((length, next_offset))
}

/// The records of a batch; markers of transactions are not records.
pub(super) fn open(mut batch: Bytes) -> Result<Vec<Record>> {
    let set = RecordBatchDecoder::decode(&mut batch).map_err(|cause| Error::Corrupt {
        subject: "a stored batch".to_owned(),
        reason: format!("it cannot be opened: {cause}"),
    })?;
    let records = set
        .records
        .into_iter()
        .filter(|record| !record.control)
        .map(|record| Record {
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key,
            value: record.value,
            headers: record
                .headers
                .into_iter()
                .map(|(name, value)| (name.into_bytes(), value))
                .collect(),
        });
    Ok(records.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_what_is_opened() {
        let mut draft = Draft::default();
        let record = NewRecord {
            timestamp: 1_700_000_000_000,
            key: Some(Bytes::from_static(b"k")),
            value: None,
            headers: vec![
                ("h".to_owned(), Some(Bytes::from_static(b"1"))),
                ("n".to_owned(), None),
            ],
        };
        draft.push(record.clone());
        draft.push(NewRecord {
            timestamp: 1_700_000_000_005,
            ..record
        });

        let batch = draft.build(None, -1).unwrap();
        let split = split(&batch);
        let records = open(split[0].bytes.clone()).unwrap();

        assert_eq!(split.len(), 1);
        assert_eq!(split[0].next_offset, 2);
        assert_eq!(records[1].offset, 1);
        assert_eq!(records[1].timestamp, 1_700_000_000_005);
        assert_eq!(records[0].key.as_deref(), Some(&b"k"[..]));
        assert_eq!(records[0].value, None);
        assert_eq!(records[0].headers[1], (Bytes::from_static(b"n"), None));
    }

    #[test]
    fn a_batch_cut_short_is_left_out() {
        let mut draft = Draft::default();
        draft.push(NewRecord {
            value: Some(Bytes::from_static(b"v")),
            ..NewRecord::default()
        });
        let batch = draft.build(None, -1).unwrap();
        let mut run = BytesMut::from(&batch[..]);
        run.extend_from_slice(&batch[..batch.len() - 1]);

        assert_eq!(split(&run.freeze()).len(), 1);
    }
}
