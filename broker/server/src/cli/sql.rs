//! `varve sql "…"`: DataFusion over the tables in the bucket, each topic's under the topic's name.

use std::any::Any;
use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use clap::Args;
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::{CatalogProvider as _, MemoryCatalogProvider, SchemaProvider, TableProvider};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{DataFrame, SQLOptions, SessionConfig, SessionContext};
use futures::StreamExt as _;
use iceberg_datafusion::IcebergStaticTableProvider;

use super::Cluster;
use super::bucket::{self, Tables};
use super::output;

/// The catalog and schema that unqualified names are looked up in.
const CATALOG: &str = "varve";
const SCHEMA: &str = "topics";
/// What sorts, joins and groups of one question may hold; beyond it they spill to the temporary directory.
const MEMORY_BYTES: usize = 1 << 30;

#[derive(Debug, Args)]
pub(super) struct Question {
    /// The question. Each topic with varve.table.enable=true is a table of its name: "select count(*) from orders".
    query: String,
    #[command(flatten)]
    bucket: bucket::Arguments,
    #[command(flatten)]
    cluster: Cluster,
}

pub(super) fn run(arguments: &Question) -> anyhow::Result<()> {
    let config = arguments.bucket.locate(|| arguments.cluster.connect())?;
    bucket::block_on_all_cores(async {
        let tables = Tables::open(&config).await?;
        let topics = tables.topics().await?;
        let context = context(Topics { tables, topics })?;
        let reads_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false);
        let query = context.sql_with_options(&arguments.query, reads_only);
        let answer = query.await.map_err(in_plain_words)?;
        print(answer, arguments.cluster.json).await
    })
}

async fn print(answer: DataFrame, json: bool) -> anyhow::Result<()> {
    let mut rows = answer.execute_stream().await.map_err(in_plain_words)?;
    let mut lines = LineDelimitedWriter::new(std::io::stdout());
    let mut table = vec![RecordBatch::new_empty(rows.schema())];
    while let Some(batch) = rows.next().await {
        let batch = readable(&batch.map_err(in_plain_words)?)?;
        if json {
            lines.write(&batch)?;
        } else {
            table.push(batch);
        }
    }
    if !json {
        output::print(&format!("{}\n", pretty_format_batches(&table)?))?;
    }
    Ok(())
}

/// What we said ourselves, without the engine's wrapping; else what the engine says.
fn in_plain_words(error: DataFusionError) -> anyhow::Error {
    match error {
        DataFusionError::External(ours) => anyhow::Error::from_boxed(ours),
        DataFusionError::Context(_, inner) => in_plain_words(*inner),
        DataFusionError::Diagnostic(_, inner) => in_plain_words(*inner),
        // Its text already holds what it came from.
        other => anyhow::anyhow!("{other}"),
    }
}

fn context(topics: Topics) -> anyhow::Result<SessionContext> {
    let config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true);
    let limits = RuntimeEnvBuilder::new()
        .with_memory_limit(MEMORY_BYTES, 1.0)
        .build_arc()?;
    let context = SessionContext::new_with_config_rt(config, limits);
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(SCHEMA, Arc::new(topics))?;
    context.register_catalog(CATALOG, Arc::new(catalog));
    Ok(context)
}

/// Every topic that has a table in the bucket; its newest version is opened when a question names it.
struct Topics {
    tables: Tables,
    topics: Vec<String>,
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.topics.fmt(formatter)
    }
}

#[async_trait]
impl SchemaProvider for Topics {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn table_names(&self) -> Vec<String> {
        self.topics.clone()
    }

    fn table_exist(&self, name: &str) -> bool {
        self.topics.iter().any(|topic| topic == name)
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let opened = async {
            let Some(metadata) = self.tables.newest(name).await? else {
                anyhow::bail!("{}", self.no_table(name));
            };
            let table = self.tables.iceberg(name, &metadata).await?;
            let provider = IcebergStaticTableProvider::try_new_from_table(table).await;
            provider.context("the table cannot be opened")
        };
        match opened.await {
            Ok(provider) => Ok(Some(Arc::new(provider))),
            Err(error) => Err(DataFusionError::External(error.into())),
        }
    }
}

impl Topics {
    fn no_table(&self, name: &str) -> String {
        match self.topics.as_slice() {
            [] => format!(
                "no topic has a table in {}: varve.table.enable=true makes one",
                self.tables.root()
            ),
            topics => format!(
                "topic '{name}' has no table in {}; there are: {}. A name that is not all lower case, or has a dot or \
                 a hyphen, is written in double quotes",
                self.tables.root(),
                topics.join(", ")
            ),
        }
    }
}

/// Keys, values and whatever else is binary, as text where all of a column's rows are text.
fn readable(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let shown = as_text(column);
        fields.push(Field::new(
            field.name(),
            shown.data_type().clone(),
            field.is_nullable(),
        ));
        columns.push(shown);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn as_text(column: &ArrayRef) -> ArrayRef {
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let text = match column.data_type() {
        DataType::Binary => DataType::Utf8,
        DataType::LargeBinary => DataType::LargeUtf8,
        _ => return Arc::clone(column),
    };
    cast_with_options(column, &text, &strict).unwrap_or_else(|_not_text| Arc::clone(column))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray as _, BinaryArray};

    use super::*;

    #[test]
    fn binary_is_shown_as_text_only_if_every_row_is_text() {
        let text: ArrayRef = Arc::new(BinaryArray::from_opt_vec(vec![Some(b"Falun"), None]));
        let mixed: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"Falun", &[0xff]]));

        assert_eq!(as_text(&text).as_string::<i32>().value(0), "Falun");
        assert_eq!(as_text(&mixed).data_type(), &DataType::Binary);
    }
}
