//! Records into Arrow: one chunk of rows at a time, in builders that are reused.

use crate::json_columns::{JsonCounts, JsonFields, Row};
use crate::schema::{self, Layout};
use crate::settings::TableSettings;
use arrow_array::builder::{Int32Builder, Int64Builder, LargeBinaryBuilder, StringBuilder};
use arrow_array::{
    Array, ArrayRef, ListArray, RecordBatch, StructArray, TimestampMicrosecondArray, new_null_array,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{ArrowError, DataType, Schema};
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::spec::SchemaRef;
use std::collections::BTreeMap;
use std::sync::Arc;
use varve_log::{Offset, Record};

/// What a row takes besides its bytes: fixed-width columns, lengths and validity.
const ROW_OVERHEAD_BYTES: usize = 48;

/// First and last offset of each partition in a run of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Spans(BTreeMap<i32, (Offset, Offset)>);

impl Spans {
    fn include(&mut self, partition: i32, offset: Offset) {
        let span = self.0.entry(partition).or_insert((offset, offset));
        span.1 = offset;
    }

    pub(crate) fn extend(&mut self, more: &Self) {
        for (partition, (first, last)) in &more.0 {
            self.0.entry(*partition).or_insert((*first, *last)).1 = *last;
        }
    }

    /// For a file name: `p0-o5-9`, or with several partitions `p0-3-o0-17`, their outermost offsets.
    pub(crate) fn name(&self) -> String {
        let (Some(first), Some(last)) = (self.0.keys().next(), self.0.keys().next_back()) else {
            return "empty".to_owned();
        };
        let partitions = if first == last {
            format!("p{first}")
        } else {
            format!("p{first}-{last}")
        };
        let low = self
            .0
            .values()
            .map(|span| span.0.value())
            .min()
            .unwrap_or_default();
        let high = self
            .0
            .values()
            .map(|span| span.1.value())
            .max()
            .unwrap_or_default();
        format!("{partitions}-o{low}-{high}")
    }
}

/// Rows ready for a file, under the schema they were made with.
pub(crate) struct Chunk {
    pub(crate) rows: RecordBatch,
    pub(crate) schema: SchemaRef,
    pub(crate) spans: Spans,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ColumnError {
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    #[error(transparent)]
    Iceberg(#[from] iceberg::Error),
}

/// The rows being collected.
pub(crate) struct Columns {
    layout: Layout,
    arrow: Arc<Schema>,
    partitions: Int32Builder,
    offsets: Int64Builder,
    timestamps: Int64Builder,
    keys: LargeBinaryBuilder,
    values: LargeBinaryBuilder,
    header_ends: Vec<i32>,
    header_keys: StringBuilder,
    header_values: LargeBinaryBuilder,
    json: Option<JsonFields>,
    spans: Spans,
    rows: usize,
    bytes: usize,
    header_keys_mended: u64,
}

impl Columns {
    pub(crate) fn open(mut layout: Layout, settings: &TableSettings) -> iceberg::Result<Self> {
        let json = JsonFields::open(settings, &mut layout)?;
        let arrow = Arc::new(schema_to_arrow_schema(layout.schema())?);
        Ok(Self {
            layout,
            arrow,
            partitions: Int32Builder::new(),
            offsets: Int64Builder::new(),
            timestamps: Int64Builder::new(),
            keys: LargeBinaryBuilder::new(),
            values: LargeBinaryBuilder::new(),
            header_ends: vec![0],
            header_keys: StringBuilder::new(),
            header_values: LargeBinaryBuilder::new(),
            json,
            spans: Spans::default(),
            rows: 0,
            bytes: 0,
            header_keys_mended: 0,
        })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn json_counts(&self) -> JsonCounts {
        self.json.as_ref().map(JsonFields::counts).unwrap_or_default()
    }

    /// Header keys that were not UTF-8, which Kafka allows and a string column does not.
    pub(crate) fn header_keys_mended(&self) -> u64 {
        self.header_keys_mended
    }

    pub(crate) fn append(&mut self, partition: i32, records: &[Record]) {
        let mut scratch = Row::default();
        for record in records {
            self.append_fixed(partition, record);
            if let (Some(json), Some(value)) = (&mut self.json, &record.value) {
                json.fill(self.rows, value, &mut scratch);
            }
            self.rows += 1;
        }
    }

    fn append_fixed(&mut self, partition: i32, record: &Record) {
        self.spans.include(partition, record.offset);
        self.partitions.append_value(partition);
        self.offsets.append_value(record.offset.value());
        // "No timestamp" and what microseconds cannot say is null.
        let micros = Some(record.timestamp.value())
            .filter(|ms| *ms >= 0)
            .and_then(|ms| ms.checked_mul(1000));
        self.timestamps.append_option(micros);
        self.keys.append_option(record.key.as_deref());
        self.values.append_option(record.value.as_deref());
        let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
        self.bytes += ROW_OVERHEAD_BYTES + length(&record.key) + length(&record.value);
        for (key, value) in &record.headers {
            let text = String::from_utf8_lossy(key);
            self.header_keys_mended += u64::from(matches!(text, std::borrow::Cow::Owned(_)));
            self.header_keys.append_value(&text);
            self.header_values.append_option(value.as_deref());
            self.bytes += ROW_OVERHEAD_BYTES + key.len() + length(value);
        }
        // A chunk ends long before it has two thousand million headers.
        let headers = arrow_array::builder::ArrayBuilder::len(&self.header_keys);
        self.header_ends.push(i32::try_from(headers).unwrap_or(i32::MAX));
    }

    /// Hands over the rows collected so far, and the schema they need.
    pub(crate) fn finish(&mut self) -> Result<Option<Chunk>, ColumnError> {
        if self.rows == 0 {
            return Ok(None);
        }
        let mut found = match &mut self.json {
            Some(json) => json.finish(self.rows, &mut self.layout)?,
            None => BTreeMap::new(),
        };
        if self.arrow.fields().len() != self.layout.schema().as_struct().fields().len() {
            self.arrow = Arc::new(schema_to_arrow_schema(self.layout.schema())?);
        }
        let schema = Arc::clone(self.layout.schema());
        let arrow = Arc::clone(&self.arrow);
        let mut columns = Vec::with_capacity(arrow.fields().len());
        for (field, in_arrow) in schema.as_struct().fields().iter().zip(arrow.fields()) {
            let column = match self.finish_fixed(&field.name, in_arrow.data_type())? {
                Some(column) => column,
                None => found
                    .remove(&field.id)
                    .unwrap_or_else(|| new_null_array(in_arrow.data_type(), self.rows)),
            };
            columns.push(column);
        }
        let rows = RecordBatch::try_new(arrow, columns)?;
        self.rows = 0;
        self.bytes = 0;
        Ok(Some(Chunk {
            rows,
            schema,
            spans: std::mem::take(&mut self.spans),
        }))
    }

    fn finish_fixed(&mut self, name: &str, in_arrow: &DataType) -> Result<Option<ArrayRef>, ArrowError> {
        Ok(Some(match name {
            schema::PARTITION => Arc::new(self.partitions.finish()),
            schema::OFFSET => Arc::new(self.offsets.finish()),
            schema::TIMESTAMP => {
                let micros = self.timestamps.finish().reinterpret_cast();
                let micros: TimestampMicrosecondArray = micros;
                Arc::new(micros.with_data_type(in_arrow.clone()))
            }
            schema::KEY => Arc::new(self.keys.finish()),
            schema::VALUE => Arc::new(self.values.finish()),
            schema::HEADERS => self.finish_headers(in_arrow)?,
            _ => return Ok(None),
        }))
    }

    fn finish_headers(&mut self, in_arrow: &DataType) -> Result<ArrayRef, ArrowError> {
        let wrong = || ArrowError::SchemaError("headers is not a list of structs".to_owned());
        let DataType::List(element) = in_arrow else {
            return Err(wrong());
        };
        let DataType::Struct(fields) = element.data_type() else {
            return Err(wrong());
        };
        let keys: ArrayRef = Arc::new(self.header_keys.finish());
        let length = keys.len();
        let columns = vec![keys, Arc::new(self.header_values.finish()) as ArrayRef];
        let structs = StructArray::try_new_with_length(fields.clone(), columns, None, length)?;
        let ends = std::mem::replace(&mut self.header_ends, vec![0]);
        let ends = OffsetBuffer::new(ends.into());
        Ok(Arc::new(ListArray::try_new(
            Arc::clone(element),
            ends,
            Arc::new(structs),
            None,
        )?))
    }
}
