//! What a topic says about its table, checked once.

use std::collections::HashSet;

/// The settings of one table. The limits have names because each of them bounds something.
#[derive(Debug, Clone)]
pub struct TableSettings {
    pub value: ValueMode,
    /// JSON fields that may make columns; further ones stay in the raw value and are counted.
    pub json_fields_max: usize,
    /// Rows are collected up to this size before they go to Parquet; JSON types are inferred over as much.
    pub chunk_bytes: usize,
    /// What one batch may decompress to.
    pub decompressed_bytes_max: usize,
    /// Encoded size at which a row group ends: what a reader must hold.
    pub row_group_bytes: usize,
    /// Encoded size at which a data file ends: what the writer holds in memory.
    pub file_bytes: usize,
    /// `write.metadata.previous-versions-max`: older metadata files are deleted.
    pub previous_versions_max: usize,
    /// Snapshots kept for time travel; older ones are expired. Their rows stay: the table only grows.
    pub snapshots_max: usize,
    /// Small manifests are merged when there are more than this.
    pub manifests_max: usize,
}

impl Default for TableSettings {
    fn default() -> Self {
        Self {
            value: ValueMode::Raw,
            json_fields_max: 500,
            chunk_bytes: 16 << 20,
            decompressed_bytes_max: 256 << 20,
            row_group_bytes: 16 << 20,
            file_bytes: 64 << 20,
            previous_versions_max: 20,
            snapshots_max: 100,
            manifests_max: 100,
        }
    }
}

/// `varve.table.value`. The raw value is kept in every mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMode {
    Raw,
    Json(JsonColumns),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonColumns {
    /// One column per top-level field, as they come.
    Inferred,
    /// Exactly these (`varve.table.columns`).
    Given(Vec<GivenColumn>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenColumn {
    pub field: String,
    pub kind: Kind,
}

/// The types that JSON values become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Boolean,
    Long,
    Double,
    String,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Long => "long",
            Self::Double => "double",
            Self::String => "string",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Boolean, Self::Long, Self::Double, Self::String]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// What is wrong with `varve.table.value` or `varve.table.columns`, in one line for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("varve.table.value must be raw or json. value={0}")]
    Value(String),
    #[error("varve.table.columns needs varve.table.value=json")]
    ColumnsWithoutJson,
    #[error(
        "varve.table.columns is a list of \"name type\"; type is boolean, long, double or string. entry={0:?}"
    )]
    Column(String),
    #[error("varve.table.columns names a column twice. name={0}")]
    Twice(String),
}

impl ValueMode {
    /// From the two topic keys as they stand in the topic's configuration; `columns` empty means inferred.
    pub fn parse(value: &str, columns: &str) -> Result<Self, SettingsError> {
        match value {
            "raw" if columns.trim().is_empty() => Ok(Self::Raw),
            "raw" => Err(SettingsError::ColumnsWithoutJson),
            "json" if columns.trim().is_empty() => Ok(Self::Json(JsonColumns::Inferred)),
            "json" => Ok(Self::Json(JsonColumns::Given(given(columns)?))),
            other => Err(SettingsError::Value(other.to_owned())),
        }
    }
}

fn given(columns: &str) -> Result<Vec<GivenColumn>, SettingsError> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for entry in columns.split(',').map(str::trim) {
        let wrong = || SettingsError::Column(entry.to_owned());
        let (field, kind) = entry.rsplit_once(char::is_whitespace).ok_or_else(wrong)?;
        let kind = Kind::parse(kind).ok_or_else(wrong)?;
        let field = field.trim().to_owned();
        if !seen.insert(field.clone()) {
            return Err(SettingsError::Twice(field));
        }
        all.push(GivenColumn { field, kind });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_a_list_of_names_and_types() {
        let mode = ValueMode::parse("json", "carrier string, dep_delay double").unwrap();

        let column = |field: &str, kind| GivenColumn {
            field: field.into(),
            kind,
        };
        let wanted = vec![column("carrier", Kind::String), column("dep_delay", Kind::Double)];
        assert_eq!(mode, ValueMode::Json(JsonColumns::Given(wanted)));
    }

    #[test]
    fn a_setting_that_cannot_be_meant_is_refused_by_name() {
        assert_eq!(
            ValueMode::parse("avro", ""),
            Err(SettingsError::Value("avro".into()))
        );
        assert_eq!(
            ValueMode::parse("raw", "a long"),
            Err(SettingsError::ColumnsWithoutJson)
        );
        assert_eq!(
            ValueMode::parse("json", "a"),
            Err(SettingsError::Column("a".into()))
        );
        assert_eq!(
            ValueMode::parse("json", "a decimal"),
            Err(SettingsError::Column("a decimal".into()))
        );
        assert_eq!(
            ValueMode::parse("json", "a long,a string"),
            Err(SettingsError::Twice("a".into()))
        );
    }
}
