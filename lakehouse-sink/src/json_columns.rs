//! JSON values into typed columns.
//!
//! The type of a field is decided by the first chunk of rows that has it: one kind of value gives that type,
//! integers and fractions together give `double`, any other mix gives `string` (JSON text, strings as they are).
//! Iceberg cannot turn a `long` column into `double` later, so from then on a value that does not fit goes to a
//! column beside it (schema.rs). Nothing is lost either way: the raw value keeps its own column.

use crate::json::{self, Value};
use crate::schema::{Beside, Layout};
use crate::settings::{JsonColumns, Kind, TableSettings, ValueMode};
use arrow_array::ArrayRef;
use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What became of values that could not simply become columns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JsonCounts {
    /// Values that are not one JSON object: null columns, the raw value is kept.
    pub not_objects: u64,
    /// Values whose type is not their column's: kept beside it when columns are inferred, else only in the raw value.
    pub misfits: u64,
    /// Values of fields that got no column because of a limit.
    pub left_out: u64,
}

/// The columns being filled from JSON objects, one row at a time.
pub(crate) struct JsonFields {
    fields: Vec<Field>,
    by_name: HashMap<String, usize>,
    /// Inferring: new fields and columns beside others are made. Otherwise the columns were given.
    inferring: bool,
    fields_max: usize,
    counts: JsonCounts,
}

struct Field {
    name: String,
    /// Decided, or still open in this chunk.
    kind: Option<Kind>,
    main: Cells,
    double: Option<Cells>,
    string: Option<Cells>,
    last_row: Option<usize>,
}

/// Scratch space for one row, reused while the batch it borrows from lives.
#[derive(Default)]
pub(crate) struct Row<'a> {
    known: Vec<(usize, Value<'a>)>,
    unknown: Vec<(Cow<'a, str>, Value<'a>)>,
}

impl JsonFields {
    /// `None` when the value is left as it is.
    pub(crate) fn open(settings: &TableSettings, layout: &mut Layout) -> iceberg::Result<Option<Self>> {
        let ValueMode::Json(columns) = &settings.value else {
            return Ok(None);
        };
        if let JsonColumns::Given(given) = columns {
            for column in given {
                layout.column_for(&column.field, column.kind)?;
            }
        }
        let mut all = Self {
            fields: Vec::new(),
            by_name: HashMap::new(),
            inferring: *columns == JsonColumns::Inferred,
            fields_max: settings.json_fields_max,
            counts: JsonCounts::default(),
        };
        let wanted = |name: &str| match columns {
            JsonColumns::Inferred => true,
            JsonColumns::Given(given) => given.iter().any(|column| column.field == name),
        };
        for (name, columns) in layout.json_fields() {
            if let Some(kind) = layout.kind_of(columns.column).filter(|_| wanted(name)) {
                all.add(name, Some(kind));
            }
        }
        Ok(Some(all))
    }

    fn add(&mut self, name: &str, kind: Option<Kind>) -> usize {
        let main = Cells::new(kind.unwrap_or(Kind::Long));
        self.by_name.insert(name.to_owned(), self.fields.len());
        self.fields.push(Field {
            name: name.to_owned(),
            kind,
            main,
            double: None,
            string: None,
            last_row: None,
        });
        self.fields.len() - 1
    }

    pub(crate) fn counts(&self) -> JsonCounts {
        self.counts
    }

    /// Fills the columns of `row`. Rows come in order; those never filled are null.
    pub(crate) fn fill<'a>(&mut self, row: usize, value: &'a [u8], scratch: &mut Row<'a>) {
        scratch.known.clear();
        scratch.unknown.clear();
        // Records of a topic mostly have the same fields in the same order: look where the last one led.
        let mut next = 0;
        let parsed = json::fields(value, |name, value| {
            let here = self.fields.get(next).is_some_and(|field| field.name == name);
            match if here {
                Some(next)
            } else {
                self.by_name.get(name.as_ref()).copied()
            } {
                Some(at) => {
                    next = at + 1;
                    scratch.known.push((at, value));
                }
                None if self.inferring => scratch.unknown.push((name, value)),
                None => (),
            }
        });
        if parsed.is_err() {
            self.counts.not_objects += 1;
            return;
        }
        for (name, value) in scratch.unknown.drain(..) {
            if let Some(at) = self.discover(&name, &value) {
                scratch.known.push((at, value));
            }
        }
        // As in most JSON readers the last of several equal names counts.
        for (at, value) in scratch.known.drain(..).rev() {
            self.put(at, row, value);
        }
    }

    fn discover(&mut self, name: &str, value: &Value<'_>) -> Option<usize> {
        if let Some(at) = self.by_name.get(name) {
            return Some(*at);
        }
        if *value == Value::Null {
            return None; // says nothing about a type yet
        }
        if self.fields.len() >= self.fields_max || !Layout::can_name(name) {
            self.counts.left_out += 1;
            return None;
        }
        Some(self.add(name, None))
    }

    fn put(&mut self, at: usize, row: usize, value: Value<'_>) {
        let field = &mut self.fields[at];
        if field.last_row.replace(row) == Some(row) {
            return;
        }
        let Some(value) = field.put(row, value) else {
            return;
        };
        self.counts.misfits += 1;
        if !self.inferring {
            return;
        }
        let beside = match value {
            Value::Double(_) => &mut field.double,
            _ => &mut field.string,
        };
        let kind = if matches!(value, Value::Double(_)) {
            Kind::Double
        } else {
            Kind::String
        };
        let cells = beside.get_or_insert_with(|| Cells::new(kind));
        cells.put_as(row, value);
    }

    /// Ends a chunk of `rows` rows: the columns filled in it, by field id. Open fields get their type here.
    pub(crate) fn finish(
        &mut self,
        rows: usize,
        layout: &mut Layout,
    ) -> iceberg::Result<BTreeMap<i32, ArrayRef>> {
        let mut arrays = BTreeMap::new();
        for field in &mut self.fields {
            field.last_row = None;
            for (beside, cells) in [
                (Beside::Double, field.double.take()),
                (Beside::String, field.string.take()),
            ] {
                if let Some(mut cells) = cells {
                    arrays.insert(layout.column_beside(&field.name, beside)?, cells.finish(rows));
                }
            }
            if field.main.is_empty() {
                continue;
            }
            let kind = field.main.kind();
            arrays.insert(layout.column_for(&field.name, kind)?, field.main.finish(rows));
            field.kind = Some(kind);
        }
        Ok(arrays)
    }
}

impl Field {
    /// Gives the value back if it does not fit.
    fn put<'a>(&mut self, row: usize, value: Value<'a>) -> Option<Value<'a>> {
        let Some(kind) = self.kind else {
            self.widen_for(&value);
            self.main.put_as(row, value);
            return None;
        };
        match (kind, &value) {
            (Kind::Boolean, Value::Boolean(_))
            | (Kind::Long, Value::Long(_))
            | (Kind::Double, Value::Long(_) | Value::Double(_))
            | (Kind::String, _) => self.main.put_as(row, value),
            (_, Value::Null) => (),
            // Many writers spell whole numbers with a fraction of zero.
            (Kind::Long, Value::Double(number)) => match whole(*number) {
                Some(number) => self.main.put_as(row, Value::Long(number)),
                None => return Some(value),
            },
            // A fraction has its own column only beside `long`; anywhere else it is one more thing to spell out.
            (Kind::Boolean, Value::Double(number)) => return Some(Value::Nested(number_text(*number))),
            _ => return Some(value),
        }
        None
    }

    fn widen_for(&mut self, value: &Value<'_>) {
        let Some(kind) = kind_of(value) else { return };
        if self.main.is_empty() {
            self.main = Cells::new(kind);
            return;
        }
        match (self.main.kind(), kind) {
            (mine, other) if mine == other => (),
            (Kind::Double, Kind::Long) => (),
            (Kind::Long, Kind::Double) => self.main.widen_to(Kind::Double),
            _ => self.main.widen_to(Kind::String),
        }
    }
}

fn kind_of(value: &Value<'_>) -> Option<Kind> {
    match value {
        Value::Null => None,
        Value::Boolean(_) => Some(Kind::Boolean),
        Value::Long(_) => Some(Kind::Long),
        Value::Double(_) => Some(Kind::Double),
        Value::Text(_) | Value::Nested(_) => Some(Kind::String),
    }
}

fn number_text(number: f64) -> String {
    serde_json::Number::from_f64(number).map_or_else(|| "null".to_owned(), |number| number.to_string())
}

/// The integer that a double stands for, where a double can tell integers apart.
fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    #[expect(
        clippy::cast_possible_truncation,
        reason = "within 2^53 and without a fraction"
    )]
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "double is the wider type for mixed numbers; the raw value keeps the digits"
)]
fn rounded(number: i64) -> f64 {
    number as f64
}

/// One column's values in this chunk. Rows without a value cost nothing until the next one that has one.
enum Cells {
    Boolean(BooleanBuilder),
    Long(Int64Builder),
    Double(Float64Builder),
    String(StringBuilder),
}

impl Cells {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Boolean => Self::Boolean(BooleanBuilder::new()),
            Kind::Long => Self::Long(Int64Builder::new()),
            Kind::Double => Self::Double(Float64Builder::new()),
            Kind::String => Self::String(StringBuilder::new()),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Boolean(_) => Kind::Boolean,
            Self::Long(_) => Kind::Long,
            Self::Double(_) => Kind::Double,
            Self::String(_) => Kind::String,
        }
    }

    fn len(&self) -> usize {
        use arrow_array::builder::ArrayBuilder as _;
        match self {
            Self::Boolean(cells) => cells.len(),
            Self::Long(cells) => cells.len(),
            Self::Double(cells) => cells.len(),
            Self::String(cells) => cells.len(),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn pad(&mut self, rows: usize) {
        let missing = rows.saturating_sub(self.len());
        match self {
            Self::Boolean(cells) => cells.append_nulls(missing),
            Self::Long(cells) => cells.append_nulls(missing),
            Self::Double(cells) => cells.append_nulls(missing),
            Self::String(cells) => cells.append_nulls(missing),
        }
    }

    /// The caller has seen to it that the value fits; what does not is a null.
    fn put_as(&mut self, row: usize, value: Value<'_>) {
        if value == Value::Null {
            return;
        }
        self.pad(row);
        match (self, value) {
            (Self::Boolean(cells), Value::Boolean(value)) => cells.append_value(value),
            (Self::Long(cells), Value::Long(value)) => cells.append_value(value),
            (Self::Double(cells), Value::Double(value)) => cells.append_value(value),
            (Self::Double(cells), Value::Long(value)) => cells.append_value(rounded(value)),
            (Self::String(cells), Value::Text(value)) => cells.append_value(value),
            (Self::String(cells), Value::Nested(value)) => cells.append_value(value),
            (Self::String(cells), Value::Boolean(value)) => {
                cells.append_value(if value { "true" } else { "false" })
            }
            (Self::String(cells), Value::Long(value)) => cells.append_value(value.to_string()),
            (Self::String(cells), Value::Double(value)) => cells.append_value(number_text(value)),
            (cells, _) => cells.pad(row + 1),
        }
    }

    fn widen_to(&mut self, kind: Kind) {
        let mut wider = Self::new(kind);
        match self {
            Self::Boolean(cells) => {
                let old = cells.finish();
                old.iter()
                    .enumerate()
                    .for_each(|(row, v)| wider.put_as(row, v.map_or(Value::Null, Value::Boolean)));
            }
            Self::Long(cells) => {
                let old = cells.finish();
                old.iter()
                    .enumerate()
                    .for_each(|(row, v)| wider.put_as(row, v.map_or(Value::Null, Value::Long)));
            }
            Self::Double(cells) => {
                let old = cells.finish();
                old.iter()
                    .enumerate()
                    .for_each(|(row, v)| wider.put_as(row, v.map_or(Value::Null, Value::Double)));
            }
            Self::String(_) => return,
        }
        *self = wider;
    }

    fn finish(&mut self, rows: usize) -> ArrayRef {
        self.pad(rows);
        match self {
            Self::Boolean(cells) => Arc::new(cells.finish()),
            Self::Long(cells) => Arc::new(cells.finish()),
            Self::Double(cells) => Arc::new(cells.finish()),
            Self::String(cells) => Arc::new(cells.finish()),
        }
    }
}
