//! One question a table can answer without an engine: per group, how many rows and what sum.

use crate::scan::TableReader;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use iceberg::{Error, ErrorKind, Result};
use serde::Serialize;
use std::collections::BTreeMap;

/// A value that rows are grouped by. Null comes first, as one group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum GroupKey {
    Null,
    Boolean(bool),
    Long(i64),
    Text(String),
}

/// Sums of `long` columns are exact and do not overflow; null when no row had a value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Sum {
    Null,
    Long(i128),
    Double(f64),
}

/// The answer for one group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    pub key: Vec<GroupKey>,
    pub count: u64,
    pub sum: Sum,
}

impl TableReader {
    /// `select group…, count(*), sum(column) … group by group…`, ordered by group.
    pub async fn count_and_sum(&self, group_by: &[&str], sum: &str) -> Result<Vec<Group>> {
        let mut columns = group_by.to_vec();
        columns.push(sum);
        let mut groups: BTreeMap<Vec<GroupKey>, (u64, Sum)> = BTreeMap::new();
        let mut key = Vec::new();
        self.read(&columns, |arrays| {
            let Some((summed, keys)) = arrays.split_last() else {
                return Ok(());
            };
            for row in 0..summed.len() {
                key.clear();
                for column in keys {
                    key.push(key_at(column, row)?);
                }
                let value = number_at(summed, row)?;
                match groups.get_mut(&key) {
                    Some((count, total)) => {
                        *count += 1;
                        *total = total.plus(value);
                    }
                    None => drop(groups.insert(key.clone(), (1, value))),
                }
            }
            Ok(())
        })
        .await?;
        Ok(groups
            .into_iter()
            .map(|(key, (count, sum))| Group { key, count, sum })
            .collect())
    }
}

impl Sum {
    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Null, other) => other,
            (sum, Self::Null) => sum,
            (Self::Long(a), Self::Long(b)) => Self::Long(a.saturating_add(b)),
            (a, b) => Self::Double(a.as_double() + b.as_double()),
        }
    }

    fn as_double(self) -> f64 {
        match self {
            Self::Null => 0.0,
            #[expect(
                clippy::cast_precision_loss,
                reason = "only where doubles are summed, which round anyway"
            )]
            Self::Long(sum) => sum as f64,
            Self::Double(sum) => sum,
        }
    }
}

fn key_at(column: &ArrayRef, row: usize) -> Result<GroupKey> {
    if column.is_null(row) {
        return Ok(GroupKey::Null);
    }
    match column.data_type() {
        DataType::Boolean => Ok(GroupKey::Boolean(column.as_boolean().value(row))),
        DataType::Int32 => Ok(GroupKey::Long(
            column.as_primitive::<Int32Type>().value(row).into(),
        )),
        DataType::Int64 => Ok(GroupKey::Long(column.as_primitive::<Int64Type>().value(row))),
        DataType::Utf8 => Ok(GroupKey::Text(column.as_string::<i32>().value(row).to_owned())),
        other => Err(unsupported("group by", other)),
    }
}

fn number_at(column: &ArrayRef, row: usize) -> Result<Sum> {
    match column.data_type() {
        DataType::Int32 | DataType::Int64 | DataType::Float64 if column.is_null(row) => Ok(Sum::Null),
        DataType::Int32 => Ok(Sum::Long(column.as_primitive::<Int32Type>().value(row).into())),
        DataType::Int64 => Ok(Sum::Long(column.as_primitive::<Int64Type>().value(row).into())),
        DataType::Float64 => Ok(Sum::Double(column.as_primitive::<Float64Type>().value(row))),
        other => Err(unsupported("sum", other)),
    }
}

fn unsupported(what: &str, kind: &DataType) -> Error {
    Error::new(
        ErrorKind::FeatureUnsupported,
        format!("cannot {what} a column of type {kind}"),
    )
}
