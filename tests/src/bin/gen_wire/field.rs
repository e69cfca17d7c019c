//! One field of a structure: its name, type and default in Rust, and the calls that write and read it.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::schema::{Field, Versions};
use crate::structure::Scope;

/// A field in the words of Rust.
pub(crate) struct Rust<'a> {
    pub(crate) field: &'a Field,
    pub(crate) name: String,
    pub(crate) type_name: String,
    pub(crate) default: String,
    /// The condition for null to be allowed, if it ever is.
    pub(crate) nullable: Option<String>,
    pub(crate) version: &'static str,
}

impl<'a> Rust<'a> {
    pub(crate) fn of(field: &'a Field, scope: &Scope<'_>) -> Result<Self> {
        let present = field.versions.within(scope.valid);
        let nullable = field.nullable_versions.within(present);
        let always = nullable == present;
        let condition = if always {
            "true".into()
        } else {
            nullable.condition(scope.valid)
        };
        let nullable = (!nullable.is_empty()).then_some(condition);
        let base = base_type(&field.kind, scope)?;
        let classic = field.flexible_versions.is_some_and(Versions::is_empty);
        Ok(Self {
            field,
            name: snake(&field.name),
            type_name: if nullable.is_some() {
                format!("Option<{base}>")
            } else {
                base
            },
            default: default_of(field, nullable.is_some())?,
            nullable,
            version: if classic { "version.classic()" } else { "version" },
        })
    }

    pub(crate) fn put(&self) -> String {
        let Self { name, version, .. } = self;
        match &self.nullable {
            Some(allowed) => format!("put_nullable(&self.{name}, to, {version}, {allowed})"),
            None => format!("self.{name}.put(to, {version})"),
        }
    }

    pub(crate) fn get(&self) -> String {
        let version = self.version;
        match &self.nullable {
            Some(allowed) => format!("get_nullable(from, {version}, {allowed})?"),
            None => format!("Wire::get(from, {version})?"),
        }
    }

    pub(crate) fn differs_from_default(&self) -> String {
        let Self { name, type_name, .. } = self;
        match self.default.as_str() {
            "None" => format!("self.{name}.is_some()"),
            "false" => format!("self.{name}"),
            "Default::default()" => format!("self.{name} != <{type_name}>::default()"),
            literal => format!("self.{name} != {literal}"),
        }
    }

    /// Whether Rust's own default is the schema's.
    pub(crate) fn is_plain(&self) -> bool {
        ["None", "false", "0", "0.0", "Default::default()"].contains(&self.default.as_str())
    }
}

fn base_type(kind: &str, scope: &Scope<'_>) -> Result<String> {
    let name = match kind {
        "bool" => "bool",
        "int8" => "i8",
        "int16" => "i16",
        "uint16" => "u16",
        "int32" => "i32",
        "uint32" => "u32",
        "int64" => "i64",
        "float64" => "f64",
        "string" => "StrBytes",
        "bytes" => "Bytes",
        "records" => "Records",
        "uuid" => "Uuid",
        array if array.starts_with("[]") => return Ok(format!("Vec<{}>", base_type(&array[2..], scope)?)),
        name if scope.structs.contains_key(name) => name,
        unknown => bail!("unknown type {unknown}"),
    };
    Ok(name.to_owned())
}

/// As Kafka's own generator has it: what is nullable is still not null by default unless the schema says so.
fn default_of(field: &Field, nullable: bool) -> Result<String> {
    let text = match &field.default {
        None => "",
        Some(Value::String(text)) => text,
        Some(other) => &other.to_string(),
    };
    if text == "null" {
        return Ok("None".into());
    }
    let value = match (field.kind.as_str(), text) {
        ("bool", "") => "false".into(),
        ("bool", value) => value.to_lowercase(),
        ("int8" | "int16" | "uint16" | "int32" | "uint32" | "int64", number) => integer(number)?.to_string(),
        ("float64", "") => "0.0".into(),
        ("string", text) if !text.is_empty() => format!("StrBytes::from_static_str({text:?})"),
        (_, "") => "Default::default()".into(),
        (kind, default) => bail!("default {default} of {kind} {} is not understood", field.name),
    };
    Ok(if nullable { format!("Some({value})") } else { value })
}

fn integer(text: &str) -> Result<i64> {
    Ok(match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16)?,
        None if text.is_empty() => 0,
        None => text.parse()?,
    })
}

/// The fewest bytes that the fields take in any version: a claimed number of such structures must fit.
pub(crate) fn min_bytes_of_fields(fields: &[Field], scope: &Scope<'_>) -> usize {
    let always = |field: &&Field| field.tag.is_none() && scope.valid.within(field.versions) == scope.valid;
    fields
        .iter()
        .filter(always)
        .map(|field| min_bytes_of_field(field, scope))
        .sum()
}

fn min_bytes_of_field(field: &Field, scope: &Scope<'_>) -> usize {
    match field.kind.as_str() {
        "int16" | "uint16" => 2,
        "int32" | "uint32" => 4,
        "int64" | "float64" => 8,
        "uuid" => 16,
        kind => match scope.structs.get(kind) {
            Some(fields) if field.nullable_versions.is_empty() => min_bytes_of_fields(fields, scope),
            _ => 1,
        },
    }
}

pub(crate) fn snake(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let after_lower = at > 0 && !letters[at - 1].is_uppercase();
        let before_lower = at > 0 && letters.get(at + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && (after_lower || before_lower) {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    if ["type", "match", "move", "ref"].contains(&out.as_str()) {
        out.push('_');
    }
    out
}
