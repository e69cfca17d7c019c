//! Arrow into one Parquet file in memory, and the description of it that goes into a manifest.
//!
//! A file is written out only when it is complete, so a failed attempt leaves at most whole files behind and its
//! name can say what is in it. Its size is bounded by `file_bytes`, its row groups by `row_group_bytes`.
//!
//! Bounds are taken from the Parquet statistics here and not by iceberg's own writer: that one leaves out inexact
//! bounds row group by row group, so a file with one short and one long string would claim bounds that hide rows.
//! Parquet cuts bounds outward, so cut ones are still true.

use crate::columns::{Chunk, Spans};
use crate::schema;
use crate::settings::TableSettings;
use bytes::Bytes;
use iceberg::io::OutputFile;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, Schema, SchemaRef, Struct, Type,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::Result;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use std::collections::HashMap;
use std::io::Write;

/// Longer bounds are cut: they are there to skip files, and each lives in every manifest.
const BOUND_BYTES: usize = 32;
/// Encoded pages are kept in pieces of this size, so that a growing file is never copied.
const PIECE_BYTES: usize = 1 << 20;

/// A file being written.
pub(crate) struct ParquetFile {
    writer: ArrowWriter<Pieces>,
    schema: SchemaRef,
    spans: Spans,
    rows: u64,
}

/// A complete file that is not stored yet.
pub(crate) struct Encoded {
    pieces: Vec<Bytes>,
    bytes: usize,
    metadata: ParquetMetaData,
    schema: SchemaRef,
    pub(crate) spans: Spans,
}

impl ParquetFile {
    pub(crate) fn start(chunk: &Chunk, settings: &TableSettings) -> Result<Self> {
        let writer = ArrowWriter::try_new(
            Pieces::default(),
            chunk.rows.schema(),
            Some(properties(settings)?),
        )?;
        Ok(Self {
            writer,
            schema: SchemaRef::clone(&chunk.schema),
            spans: Spans::default(),
            rows: 0,
        })
    }

    /// A file has one schema; a chunk with more columns needs the next file.
    pub(crate) fn takes(&self, chunk: &Chunk) -> bool {
        self.schema.as_struct() == chunk.schema.as_struct()
    }

    pub(crate) fn append(&mut self, chunk: &Chunk) -> Result<()> {
        self.writer.write(&chunk.rows)?;
        self.spans.extend(&chunk.spans);
        self.rows += chunk.rows.num_rows() as u64;
        Ok(())
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn bytes(&self) -> usize {
        self.writer.bytes_written() + self.writer.memory_size()
    }

    pub(crate) fn finish(mut self) -> Result<Encoded> {
        let metadata = self.writer.finish()?;
        let pieces = std::mem::take(self.writer.inner_mut()).take();
        let bytes = pieces.iter().map(Bytes::len).sum();
        Ok(Encoded {
            pieces,
            bytes,
            metadata,
            schema: self.schema,
            spans: self.spans,
        })
    }
}

impl Encoded {
    pub(crate) fn rows(&self) -> u64 {
        u64::try_from(self.metadata.file_metadata().num_rows()).unwrap_or_default()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) async fn store(&self, output: OutputFile, spec_id: i32) -> iceberg::Result<DataFile> {
        let size = self.bytes as u64;
        let described = describe(&self.metadata, &self.schema, output.location(), size, spec_id)?;
        let mut writer = output.writer().await?;
        for piece in &self.pieces {
            writer.write(Bytes::clone(piece)).await?;
        }
        writer.close().await?;
        Ok(described)
    }
}

fn properties(settings: &TableSettings) -> Result<WriterProperties> {
    let column = |name: &str| ColumnPath::from(name);
    let mut properties = WriterProperties::builder()
        .set_created_by("varve".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(BOUND_BYTES))
        .set_max_row_group_bytes(Some(settings.row_group_bytes));
    // These grow by small steps: differences take a bit or two each where plain numbers take eight bytes.
    for name in [schema::OFFSET, schema::TIMESTAMP] {
        properties = properties
            .set_column_encoding(column(name), Encoding::DELTA_BINARY_PACKED)
            .set_column_dictionary_enabled(column(name), false)
            .set_column_statistics_enabled(column(name), EnabledStatistics::Page);
    }
    // Raw values rarely repeat and nobody filters by them: no dictionary to build and give up, no bounds.
    Ok(properties
        .set_column_dictionary_enabled(column(schema::VALUE), false)
        .set_column_statistics_enabled(column(schema::VALUE), EnabledStatistics::None)
        .set_column_statistics_enabled(
            ColumnPath::from(vec![
                schema::HEADERS.into(),
                "list".into(),
                "element".into(),
                "value".into(),
            ]),
            EnabledStatistics::None,
        )
        .build())
}

#[derive(Default)]
struct Tally {
    sizes: HashMap<i32, u64>,
    counts: HashMap<i32, u64>,
    nulls: HashMap<i32, u64>,
    lower: HashMap<i32, Datum>,
    upper: HashMap<i32, Datum>,
    /// Columns of which some row group does not tell its bounds.
    unbounded: Vec<i32>,
}

fn describe(
    metadata: &ParquetMetaData,
    schema: &Schema,
    location: &str,
    size: u64,
    spec_id: i32,
) -> iceberg::Result<DataFile> {
    let mut tally = Tally::default();
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let info = column.column_descr().self_type().get_basic_info();
        if info.has_id() {
            tally.add(info.id(), column, schema);
        }
    }
    for id in &tally.unbounded {
        tally.lower.remove(id);
        tally.upper.remove(id);
    }
    DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(location.to_owned())
        .file_format(DataFileFormat::Parquet)
        .partition_spec_id(spec_id)
        .partition(Struct::empty())
        .record_count(u64::try_from(metadata.file_metadata().num_rows()).unwrap_or_default())
        .file_size_in_bytes(size)
        .column_sizes(tally.sizes)
        .value_counts(tally.counts)
        .null_value_counts(tally.nulls)
        .lower_bounds(tally.lower)
        .upper_bounds(tally.upper)
        .split_offsets(Some(
            metadata
                .row_groups()
                .iter()
                .filter_map(|group| group.file_offset())
                .collect(),
        ))
        .build()
        .map_err(|cause| iceberg::Error::new(iceberg::ErrorKind::Unexpected, cause.to_string()))
}

impl Tally {
    fn add(&mut self, id: i32, column: &parquet::file::metadata::ColumnChunkMetaData, schema: &Schema) {
        let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
        *self.sizes.entry(id).or_default() += unsigned(column.compressed_size());
        *self.counts.entry(id).or_default() += unsigned(column.num_values());
        // Bounds and null counts of values inside lists mean nothing to a planner.
        let top = schema.as_struct().fields().iter().find(|field| field.id == id);
        let Some(Type::Primitive(kind)) = top.map(|field| field.field_type.as_ref()) else {
            return;
        };
        let Some(statistics) = column.statistics() else {
            self.unbounded.push(id);
            return;
        };
        let nulls = statistics.null_count_opt();
        *self.nulls.entry(id).or_default() += nulls.unwrap_or_default();
        if nulls == Some(unsigned(column.num_values())) {
            return; // all null: nothing to bound
        }
        // Parquet's plain little-endian values are Iceberg's single-value form for the types we write.
        let datum = |bytes: Option<&[u8]>| Datum::try_from_bytes(bytes?, kind.clone()).ok();
        let (low, high) = (
            datum(statistics.min_bytes_opt()),
            datum(statistics.max_bytes_opt()),
        );
        let (Some(low), Some(high)) = (low, high) else {
            self.unbounded.push(id);
            return;
        };
        keep(&mut self.lower, id, low, |new, old| new < old);
        keep(&mut self.upper, id, high, |new, old| new > old);
    }
}

fn keep(bounds: &mut HashMap<i32, Datum>, id: i32, new: Datum, better: fn(&Datum, &Datum) -> bool) {
    match bounds.get(&id) {
        Some(old) if !better(&new, old) => (),
        _ => drop(bounds.insert(id, new)),
    }
}

/// What the encoder has written so far.
#[derive(Default)]
struct Pieces {
    full: Vec<Bytes>,
    open: Vec<u8>,
}

impl Pieces {
    fn take(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.full.push(Bytes::from(self.open));
        }
        self.full
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.open.len() + bytes.len() > PIECE_BYTES && !self.open.is_empty() {
            self.full.push(Bytes::from(std::mem::take(&mut self.open)));
        }
        if self.open.capacity() == 0 {
            self.open.reserve(PIECE_BYTES.max(bytes.len()));
        }
        self.open.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
