//! The columns of a table: six that every topic has, and those that JSON fields have made.
//!
//! A column never changes its type and is never dropped; new fields add optional columns with new ids. Which
//! column belongs to which JSON field is kept in the table property `varve.json-fields` by id, so a field whose
//! name had to be changed finds its column again.

use crate::settings::Kind;
use iceberg::spec::{
    ListType, NestedField, NestedFieldRef, PrimitiveType, Schema, SchemaRef, StructType, Type,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

pub(crate) const PARTITION: &str = "partition";
pub(crate) const OFFSET: &str = "offset";
pub(crate) const TIMESTAMP: &str = "timestamp";
pub(crate) const KEY: &str = "key";
pub(crate) const HEADERS: &str = "headers";
pub(crate) const VALUE: &str = "value";

/// Every table starts with these columns in this order.
pub(crate) const FIXED: [&str; 6] = [PARTITION, OFFSET, TIMESTAMP, KEY, HEADERS, VALUE];

/// Longer field names make no column.
const NAME_BYTES_MAX: usize = 255;

/// The schema of a new table. Ids are given breadth first, as every Iceberg implementation assigns them.
pub(crate) fn fixed_schema() -> iceberg::Result<Schema> {
    let of = |primitive| Type::Primitive(primitive);
    let header = StructType::new(vec![
        NestedField::required(8, "key", of(PrimitiveType::String)).into(),
        NestedField::optional(9, "value", of(PrimitiveType::Binary)).into(),
    ]);
    let headers = ListType::new(NestedField::list_element(7, Type::Struct(header), true).into());
    Schema::builder()
        .with_fields([
            NestedField::required(1, PARTITION, of(PrimitiveType::Int)).into(),
            NestedField::required(2, OFFSET, of(PrimitiveType::Long)).into(),
            NestedField::optional(3, TIMESTAMP, of(PrimitiveType::Timestamptz)).into(),
            NestedField::optional(4, KEY, of(PrimitiveType::Binary)).into(),
            NestedField::required(5, HEADERS, Type::List(headers)).into(),
            NestedField::optional(6, VALUE, of(PrimitiveType::Binary)).into(),
        ])
        .build()
}

/// The columns of one JSON field, by field id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FieldColumns {
    pub(crate) column: i32,
    /// Numbers with a fraction, in a field whose column is `long`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) double: Option<i32>,
    /// Whatever else does not fit the column.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) string: Option<i32>,
}

/// Where a value goes that does not fit its field's column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    Double,
    String,
}

impl Beside {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Double => Kind::Double,
            Self::String => Kind::String,
        }
    }
}

/// A table's schema as the writer sees it: possibly ahead of the table until the next commit.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    fields: Vec<NestedFieldRef>,
    schema: SchemaRef,
    last_column_id: i32,
    names: HashSet<String>,
    json: BTreeMap<String, FieldColumns>,
}

impl Layout {
    pub(crate) fn new(
        schema: SchemaRef,
        last_column_id: i32,
        json_fields: Option<&str>,
    ) -> Result<Self, serde_json::Error> {
        let fields = schema.as_struct().fields().to_vec();
        let names = fields.iter().map(|field| field.name.to_lowercase()).collect();
        let json = json_fields.map_or_else(|| Ok(BTreeMap::new()), serde_json::from_str)?;
        Ok(Self {
            fields,
            schema,
            last_column_id,
            names,
            json,
        })
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// For the table property `varve.json-fields`.
    pub(crate) fn json_fields(&self) -> &BTreeMap<String, FieldColumns> {
        &self.json
    }

    /// The columns that a table may not be without.
    pub(crate) fn has_fixed_columns(&self) -> bool {
        FIXED.iter().all(|name| self.schema.field_by_name(name).is_some())
    }

    pub(crate) fn kind_of(&self, id: i32) -> Option<Kind> {
        match self.schema.field_by_id(id)?.field_type.as_ref() {
            Type::Primitive(PrimitiveType::Boolean) => Some(Kind::Boolean),
            Type::Primitive(PrimitiveType::Long) => Some(Kind::Long),
            Type::Primitive(PrimitiveType::Double) => Some(Kind::Double),
            Type::Primitive(PrimitiveType::String) => Some(Kind::String),
            _ => None,
        }
    }

    pub(crate) fn can_name(field: &str) -> bool {
        field.len() <= NAME_BYTES_MAX
    }

    /// The column of a JSON field, made with this type if there is none yet.
    pub(crate) fn column_for(&mut self, field: &str, kind: Kind) -> iceberg::Result<i32> {
        if let Some(known) = self.json.get(field) {
            return Ok(known.column);
        }
        let id = self.add(&plain(field), "__json", kind)?;
        self.json.insert(
            field.to_owned(),
            FieldColumns {
                column: id,
                ..FieldColumns::default()
            },
        );
        Ok(id)
    }

    /// The column beside a JSON field's own for values that do not fit it: `<column>__double`, `<column>__string`.
    pub(crate) fn column_beside(&mut self, field: &str, beside: Beside) -> iceberg::Result<i32> {
        let known = self.json.get(field).cloned().unwrap_or_default();
        let existing = match beside {
            Beside::Double => known.double,
            Beside::String => known.string,
        };
        if let Some(id) = existing {
            return Ok(id);
        }
        let main = self.schema.name_by_field_id(known.column).unwrap_or(field);
        let id = self.add(&format!("{main}__{}", beside.kind().name()), "", beside.kind())?;
        let columns = self.json.entry(field.to_owned()).or_default();
        match beside {
            Beside::Double => columns.double = Some(id),
            Beside::String => columns.string = Some(id),
        }
        Ok(id)
    }

    fn add(&mut self, wanted: &str, suffix: &str, kind: Kind) -> iceberg::Result<i32> {
        let name = self.free_name(wanted, suffix);
        let primitive = match kind {
            Kind::Boolean => PrimitiveType::Boolean,
            Kind::Long => PrimitiveType::Long,
            Kind::Double => PrimitiveType::Double,
            Kind::String => PrimitiveType::String,
        };
        let id = self.last_column_id + 1;
        let mut fields = self.fields.clone();
        fields.push(NestedField::optional(id, &name, Type::Primitive(primitive)).into());
        let schema = Schema::builder()
            .with_schema_id(self.schema.schema_id())
            .with_fields(fields.iter().map(Arc::clone))
            .build()?;
        self.schema = Arc::new(schema);
        self.fields = fields;
        self.last_column_id = id;
        self.names.insert(name.to_lowercase());
        Ok(id)
    }

    /// Most engines fold case, so names that differ only there clash like equal ones.
    fn free_name(&self, wanted: &str, suffix: &str) -> String {
        let mut name = wanted.to_owned();
        let mut attempt = 1;
        while self.names.contains(&name.to_lowercase()) {
            name = match attempt {
                1 if !suffix.is_empty() => format!("{wanted}{suffix}"),
                _ => format!("{wanted}{suffix}_{attempt}"),
            };
            attempt += 1;
        }
        name
    }
}

/// Iceberg spells nested columns with dots, and control characters have no place in a name.
fn plain(field: &str) -> String {
    let name: String = field
        .chars()
        .map(|c| if c == '.' || c.is_control() { '_' } else { c })
        .collect();
    if name.is_empty() { "field".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let schema = fixed_schema().unwrap();
        let last = schema.highest_field_id();
        Layout::new(Arc::new(schema), last, None).unwrap()
    }

    fn name(layout: &Layout, id: i32) -> &str {
        layout.schema().name_by_field_id(id).unwrap()
    }

    #[test]
    fn names_that_clash_get_a_suffix_and_find_their_column_again() {
        let mut layout = layout();
        let offset = layout.column_for("offset", Kind::Long).unwrap();
        let upper = layout.column_for("Id", Kind::Long).unwrap();
        let lower = layout.column_for("id", Kind::Long).unwrap();
        let third = layout.column_for("ID", Kind::Long).unwrap();
        let dotted = layout.column_for("headers.element", Kind::String).unwrap();

        assert_eq!(name(&layout, offset), "offset__json");
        assert_eq!(name(&layout, upper), "Id");
        assert_eq!(name(&layout, lower), "id__json");
        assert_eq!(name(&layout, third), "ID__json_2");
        assert_eq!(name(&layout, dotted), "headers_element");
        assert_eq!(layout.column_for("id", Kind::Long).unwrap(), lower);
    }

    #[test]
    fn values_that_do_not_fit_have_columns_of_their_own() {
        let mut layout = layout();
        let main = layout.column_for("delay", Kind::Long).unwrap();
        let double = layout.column_beside("delay", Beside::Double).unwrap();
        let string = layout.column_beside("delay", Beside::String).unwrap();

        assert_eq!([main, double, string], [10, 11, 12]);
        assert_eq!(name(&layout, double), "delay__double");
        assert_eq!(name(&layout, string), "delay__string");
        assert_eq!(layout.column_beside("delay", Beside::Double).unwrap(), double);
    }

    #[test]
    fn the_map_of_fields_survives_its_property() {
        let mut layout = layout();
        layout.column_for("delay", Kind::Long).unwrap();
        layout.column_beside("delay", Beside::String).unwrap();
        let text = serde_json::to_string(layout.json_fields()).unwrap();

        let again = Layout::new(Arc::clone(layout.schema()), layout.last_column_id, Some(&text)).unwrap();

        assert_eq!(text, r#"{"delay":{"column":10,"string":11}}"#);
        assert_eq!(again.json_fields(), layout.json_fields());
    }
}
