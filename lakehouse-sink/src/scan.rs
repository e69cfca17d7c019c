//! Reading a table's own Parquet files, column by column, through its manifests.

use crate::commit;
use crate::manifests;
use crate::storage::Bucket;
use arrow_array::{ArrayRef, new_null_array};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use iceberg::arrow::type_to_arrow_type;
use iceberg::io::FileRead;
use iceberg::spec::{DataFile, TableMetadata};
use iceberg::{Error, ErrorKind, Result};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::arrow::{PARQUET_FIELD_ID_META_KEY, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use std::ops::Range;
use std::sync::Arc;

/// Read from the end of a file in the hope that the footer fits: one request instead of two.
const FOOTER_BYTES: usize = 64 << 10;
const ROWS_AT_ONCE: usize = 32 << 10;
/// Ranges of one file in flight.
const RANGES_IN_FLIGHT: usize = 4;

/// A table at one version of it, for reading.
pub struct TableReader {
    bucket: Bucket,
    pub(crate) metadata: TableMetadata,
    files: Vec<DataFile>,
}

impl TableReader {
    pub async fn open(bucket: Bucket, metadata_location: &str) -> Result<Self> {
        let io = bucket.file_io();
        let metadata = commit::read_metadata(&io, metadata_location).await?;
        let files = manifests::data_files(&io, &metadata, metadata.current_snapshot()).await?;
        Ok(Self {
            bucket,
            metadata,
            files,
        })
    }

    pub fn rows(&self) -> u64 {
        self.files.iter().map(DataFile::record_count).sum()
    }

    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Hands the named columns to `each`, some rows at a time. Files older than a column have nulls in it.
    pub(crate) async fn read(
        &self,
        columns: &[&str],
        mut each: impl FnMut(&[ArrayRef]) -> Result<()>,
    ) -> Result<()> {
        let schema = self.metadata.current_schema();
        let mut wanted = Vec::new();
        for name in columns {
            let missing = || Error::new(ErrorKind::DataInvalid, format!("the table has no column {name}"));
            let field = schema.as_struct().field_by_name(name).ok_or_else(missing)?;
            wanted.push((field.id, type_to_arrow_type(&field.field_type)?));
        }
        for file in &self.files {
            let reader = self
                .bucket
                .file_io()
                .new_input(file.file_path())?
                .reader()
                .await?;
            let reader = RangeReader {
                reader: Arc::from(reader),
                size: file.file_size_in_bytes(),
            };
            let builder = ParquetRecordBatchStreamBuilder::new(reader)
                .await
                .map_err(|c| broken(file, c))?;
            let ids: Vec<Option<i32>> = builder
                .schema()
                .fields()
                .iter()
                .map(|field| field_id(field))
                .collect();
            let at: Vec<Option<usize>> = wanted
                .iter()
                .map(|(id, _)| ids.iter().position(|other| *other == Some(*id)))
                .collect();
            let mask = ProjectionMask::roots(builder.parquet_schema(), at.iter().flatten().copied());
            // A projection keeps the file's order, whatever order was asked for.
            let mut present: Vec<usize> = at.iter().flatten().copied().collect();
            present.sort_unstable();
            present.dedup();
            let stream = builder
                .with_projection(mask)
                .with_batch_size(ROWS_AT_ONCE)
                .build();
            let mut stream = stream.map_err(|c| broken(file, c))?;
            while let Some(batch) = stream.next().await {
                let batch = batch.map_err(|c| broken(file, c))?;
                let arrays: Vec<ArrayRef> = wanted
                    .iter()
                    .zip(&at)
                    .map(|((_, kind), at)| {
                        let place = at.and_then(|at| present.binary_search(&at).ok());
                        place.map_or_else(
                            || new_null_array(kind, batch.num_rows()),
                            |p| Arc::clone(batch.column(p)),
                        )
                    })
                    .collect();
                each(&arrays)?;
            }
        }
        Ok(())
    }
}

fn field_id(field: &arrow_schema::Field) -> Option<i32> {
    field.metadata().get(PARQUET_FIELD_ID_META_KEY)?.parse().ok()
}

fn broken(file: &DataFile, cause: ParquetError) -> Error {
    Error::new(
        ErrorKind::DataInvalid,
        format!("cannot read {}", file.file_path()),
    )
    .with_source(cause)
}

struct RangeReader {
    reader: Arc<dyn FileRead>,
    size: u64,
}

fn external(cause: Error) -> ParquetError {
    ParquetError::External(Box::new(cause))
}

impl AsyncFileReader for RangeReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        self.reader
            .read(range)
            .map(|bytes| bytes.map_err(external))
            .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        let reader = Arc::clone(&self.reader);
        let reads = ranges.into_iter().map(move |range| {
            let reader = Arc::clone(&reader);
            async move { reader.read(range).await.map_err(external) }
        });
        futures::stream::iter(reads)
            .buffered(RANGES_IN_FLIGHT)
            .try_collect()
            .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        let size = self.size;
        async move {
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_BYTES));
            reader.load_and_finish(self, size).await.map(Arc::new)
        }
        .boxed()
    }
}
