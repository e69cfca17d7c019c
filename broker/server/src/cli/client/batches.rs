//! Record batches as a client makes and opens them: `varve_log`'s own format, with a client's words for failures.

use bytes::Bytes;
use varve_log::{Batch, BatchError, Builder, Codec, Header as BatchHeader, Timestamp};

use super::producer::NewRecord;
use super::{Error, Result};

/// What one batch may open to: far above what brokers accept, far below what would hurt.
const DECOMPRESSED_BYTES_MAX: usize = 512 << 20;
/// Overhead a record may have in a batch, at most, beside its own bytes.
const RECORD_OVERHEAD: usize = 40;

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

/// A batch that is being filled.
#[derive(Default)]
pub(super) struct Draft {
    builder: Option<Builder>,
    records: usize,
    bytes: usize,
}

impl Draft {
    pub(super) fn push(&mut self, record: &NewRecord) {
        let timestamp = Timestamp::new(record.timestamp);
        let builder = self.builder.take().unwrap_or_else(|| Builder::new(timestamp));
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
            .collect();
        self.builder = Some(builder.push(
            timestamp,
            record.key.as_deref(),
            record.value.as_deref(),
            &headers,
        ));
        self.bytes += record.bytes() + RECORD_OVERHEAD;
        self.records += 1;
    }

    /// About as large as the batch will be, and not less.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn records(&self) -> usize {
        self.records
    }

    /// The batch; `None` if nothing was put into it.
    pub(super) fn build(self, codec: Codec, writer: Option<Writer>, base_sequence: i32) -> Option<Bytes> {
        let builder = self.builder?.codec(codec);
        let builder = match writer {
            Some(Writer { id, epoch }) => builder.producer(id, epoch, base_sequence),
            None => builder,
        };
        Some(builder.build())
    }
}

/// A whole batch out of a fetch, with the little of its header that moves a consumer on.
pub(super) struct Stored {
    pub(super) bytes: Bytes,
    pub(super) base_offset: i64,
    pub(super) next_offset: i64,
}

/// The whole batches at the front of what a fetch brought; a broker may cut the last one short.
pub(super) fn split(records: &Bytes) -> Result<Vec<Stored>> {
    let stored = |batch: std::result::Result<Bytes, BatchError>| {
        let bytes = batch?;
        let header = BatchHeader::parse(&bytes)?;
        Ok(Stored {
            bytes,
            base_offset: header.base_offset.value(),
            next_offset: header.next_offset().value(),
        })
    };
    varve_log::split(records)
        .map(|batch| stored(batch).map_err(corrupt))
        .collect()
}

/// The records of a batch, its checksum verified; markers of transactions are not records.
pub(super) fn open(batch: Bytes) -> Result<Vec<Record>> {
    let batch = Batch::check(batch).map_err(corrupt)?;
    if batch.header().is_control() {
        return Ok(Vec::new());
    }
    let opened = varve_log::records(&batch, DECOMPRESSED_BYTES_MAX).map_err(corrupt)?;
    let record = |record: varve_log::Record| Record {
        offset: record.offset.value(),
        timestamp: record.timestamp.value(),
        key: record.key,
        value: record.value,
        headers: record.headers,
    };
    opened.map(|one| one.map(record).map_err(corrupt)).collect()
}

fn corrupt(cause: BatchError) -> Error {
    Error::Corrupt {
        subject: "a stored batch".to_owned(),
        reason: cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    fn batch(codec: Codec) -> Bytes {
        let header = |name: &str, value| (name.to_owned(), value);
        let record = NewRecord {
            timestamp: 1_700_000_000_000,
            key: Some(Bytes::from_static(b"k")),
            value: None,
            headers: vec![
                header("twice", Some(Bytes::from_static(b"1"))),
                header("twice", Some(Bytes::from_static(b"2"))),
                header("null", None),
            ],
        };
        let mut draft = Draft::default();
        draft.push(&record);
        draft.push(&NewRecord {
            timestamp: 1_700_000_000_005,
            ..record
        });
        draft.build(codec, None, -1).unwrap()
    }

    #[test]
    fn what_is_built_with_any_codec_is_what_is_opened() {
        for codec in Codec::ALL {
            let split = split(&batch(codec)).unwrap();
            let records = open(split[0].bytes.clone()).unwrap();

            assert_eq!((split.len(), split[0].next_offset), (1, 2));
            assert_eq!((records[1].offset, records[1].timestamp), (1, 1_700_000_000_005));
            assert_eq!(
                (records[0].key.as_deref(), records[0].value.as_deref()),
                (Some(&b"k"[..]), None)
            );
            assert_eq!(records[0].headers.len(), 3);
            assert_eq!(
                records[0].headers[1],
                (Bytes::from_static(b"twice"), Some(Bytes::from_static(b"2")))
            );
        }
    }

    #[test]
    fn a_batch_cut_short_is_left_out() {
        let batch = batch(Codec::None);
        let mut run = BytesMut::from(&batch[..]);
        run.extend_from_slice(&batch[..batch.len() - 1]);

        assert_eq!(split(&run.freeze()).unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_batch_is_refused() {
        let mut damaged = BytesMut::from(&batch(Codec::None)[..]);
        let last = damaged.len() - 1;
        damaged[last] ^= 1;

        assert!(matches!(open(damaged.freeze()), Err(Error::Corrupt { .. })));
    }
}
