//! Kafka's message schemas as they stand in their JSON files, and the version ranges they are written in.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Schema {
    pub(crate) api_key: Option<i16>,
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) valid_versions: Versions,
    pub(crate) flexible_versions: Versions,
    pub(crate) fields: Vec<Field>,
    #[serde(default)]
    pub(crate) common_structs: Vec<Struct>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Kind {
    Request,
    Response,
    Header,
}

#[derive(Deserialize)]
pub(crate) struct Struct {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Field {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) versions: Versions,
    #[serde(default)]
    pub(crate) nullable_versions: Versions,
    #[serde(default)]
    pub(crate) tagged_versions: Versions,
    pub(crate) flexible_versions: Option<Versions>,
    pub(crate) tag: Option<u32>,
    pub(crate) default: Option<Value>,
    pub(crate) about: Option<String>,
    #[serde(default)]
    pub(crate) fields: Vec<Self>,
}

/// An inclusive range; empty when `min` is above `max`.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(crate) struct Versions {
    pub(crate) min: i16,
    pub(crate) max: i16,
}

impl Default for Versions {
    fn default() -> Self {
        Self { min: 1, max: 0 }
    }
}

impl TryFrom<String> for Versions {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        if text == "none" {
            return Ok(Self::default());
        }
        if let Some(min) = text.strip_suffix('+') {
            return Ok(Self {
                min: min.parse()?,
                max: i16::MAX,
            });
        }
        let (min, max) = text.split_once('-').unwrap_or((&text, &text));
        Ok(Self {
            min: min.parse()?,
            max: max.parse()?,
        })
    }
}

impl Versions {
    pub(crate) fn is_empty(self) -> bool {
        self.min > self.max
    }

    pub(crate) fn within(self, outer: Self) -> Self {
        Self {
            min: self.min.max(outer.min),
            max: self.max.min(outer.max),
        }
    }

    /// The Rust condition for "this version is one of them", given that it is one of `valid`.
    pub(crate) fn condition(self, valid: Self) -> String {
        let range = self.within(valid);
        if range.is_empty() {
            "false".into()
        } else if range == valid {
            "true".into()
        } else if range.min == range.max {
            format!("version.number == {}", range.min)
        } else if range.max == valid.max {
            format!("version.number >= {}", range.min)
        } else if range.min == valid.min {
            format!("version.number <= {}", range.max)
        } else {
            format!("({}..={}).contains(&version.number)", range.min, range.max)
        }
    }
}

pub(crate) fn read_schemas(folder: &Path) -> Result<Vec<Schema>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    paths
        .iter()
        .map(|path| read_schema(path).with_context(|| path.display().to_string()))
        .collect()
}

fn read_schema(path: &Path) -> Result<Schema> {
    let text = std::fs::read_to_string(path)?;
    let json: Vec<&str> = text.lines().map(without_comment).collect();
    Ok(serde_json::from_str(&json.join("\n"))?)
}

/// Kafka's schemas are JSON with `//` comments; a `//` inside a string is none.
fn without_comment(line: &str) -> &str {
    let mut in_string = false;
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            b'"' => in_string = !in_string,
            b'/' if !in_string && line[at..].starts_with("//") => return &line[..at],
            _ => {}
        }
    }
    line
}
