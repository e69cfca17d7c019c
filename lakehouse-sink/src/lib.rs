//! Topics as Iceberg tables: records into Arrow, Arrow into Parquet, Parquet into a table, exactly once.
//!
//! A table lives at `<bucket>/tables/<topic>/{metadata,data}` in format version 2. Engines open it from its newest
//! `*.metadata.json` alone. Columns of every table: `partition int, offset long, timestamp timestamptz, key binary,
//! headers list<struct<key string, value binary>>, value binary`; with `varve.table.value=json` also one for each
//! top-level JSON field.
//!
//! The path of a record: `Table::push` → `columns` (and `json_columns`) → `parquet_file` → `Table::commit` (`settle`) →
//! `commit` → the pointer in the `catalog`. What is read back goes through `scan`.

mod audit;
pub mod catalog;
mod columns;
mod commit;
mod json;
mod json_columns;
mod manifests;
mod open;
mod parquet_file;
mod progress;
mod query;
mod scan;
mod schema;
mod settings;
mod settle;
mod storage;
mod sweep;
mod table;

pub use audit::{AuditError, PartitionAudit};
pub use json_columns::JsonCounts;
pub use open::OpenError;
pub use progress::{Distrust, Progress};
pub use query::{Group, GroupKey, Sum};
pub use scan::TableReader;
pub use settings::{GivenColumn, JsonColumns, Kind, SettingsError, TableSettings, ValueMode};
pub use settle::{CommitError, Committed};
pub use storage::Bucket;
pub use table::{PushError, Pushed, Table, TopicRef};
