//! Writes the message types of `broker/server/src/wire/generated/` from Kafka's schemas beside it.
//!
//! `gen_wire` writes the files, `gen_wire --check` fails if they are not what it would write.
//! The output is plain field-by-field code: all that is hard about the encoding lives in `wire/prim.rs`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

fn main() -> Result<()> {
    let wire = Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker/server/src/wire");
    let files = generate(&read_schemas(&wire.join("schemas"))?)?;
    let target = wire.join("generated");
    if std::env::args().any(|argument| argument == "--check") {
        check(&target, &files)
    } else {
        write(&target, &files)
    }
}

fn check(target: &Path, files: &BTreeMap<String, String>) -> Result<()> {
    for (name, wanted) in files {
        let found = std::fs::read_to_string(target.join(name)).unwrap_or_default();
        ensure!(
            &found == wanted,
            "{name} is stale: run `cargo run --workspace --bin gen_wire`"
        );
    }
    for entry in std::fs::read_dir(target)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        ensure!(
            files.contains_key(&name),
            "{name} has no schema any more: remove it"
        );
    }
    Ok(())
}

fn write(target: &Path, files: &BTreeMap<String, String>) -> Result<()> {
    std::fs::create_dir_all(target)?;
    for (name, text) in files {
        std::fs::write(target.join(name), text)?;
    }
    Ok(())
}

// ---- the schemas ----

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Schema {
    api_key: Option<i16>,
    #[serde(rename = "type")]
    kind: Kind,
    name: String,
    valid_versions: Versions,
    flexible_versions: Versions,
    fields: Vec<Field>,
    #[serde(default)]
    common_structs: Vec<Struct>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Request,
    Response,
    Header,
}

#[derive(Deserialize)]
struct Struct {
    name: String,
    fields: Vec<Field>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Field {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    versions: Versions,
    #[serde(default)]
    nullable_versions: Versions,
    #[serde(default)]
    tagged_versions: Versions,
    flexible_versions: Option<Versions>,
    tag: Option<u32>,
    default: Option<Value>,
    about: Option<String>,
    #[serde(default)]
    fields: Vec<Self>,
}

/// An inclusive range; empty when `min` is above `max`.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
struct Versions {
    min: i16,
    max: i16,
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
    fn is_empty(self) -> bool {
        self.min > self.max
    }

    fn within(self, outer: Self) -> Self {
        Self {
            min: self.min.max(outer.min),
            max: self.max.min(outer.max),
        }
    }

    /// The Rust condition for "this version is one of them", given that it is one of `valid`.
    fn condition(self, valid: Self) -> String {
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

fn read_schemas(folder: &Path) -> Result<Vec<Schema>> {
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

// ---- one file for each API ----

fn generate(schemas: &[Schema]) -> Result<BTreeMap<String, String>> {
    let mut by_api: BTreeMap<String, Vec<&Schema>> = BTreeMap::new();
    for schema in schemas {
        by_api.entry(module_of(schema)).or_default().push(schema);
    }
    let mut files = BTreeMap::new();
    files.insert("mod.rs".into(), root(by_api.keys()));
    for (module, schemas) in &by_api {
        files.insert(format!("{module}.rs"), formatted(&api(module, schemas)?)?);
    }
    Ok(files)
}

fn module_of(schema: &Schema) -> String {
    let name = &schema.name;
    snake(match schema.kind {
        Kind::Request => name.strip_suffix("Request").unwrap_or(name),
        Kind::Response => name.strip_suffix("Response").unwrap_or(name),
        Kind::Header => "Header",
    })
}

/// Not formatted by rustfmt, which would look for the modules.
fn root<'a>(modules: impl Iterator<Item = &'a String>) -> String {
    let modules: String = modules.map(|module| format!("pub mod {module};\n")).collect();
    ROOT.to_owned() + &modules
}

const ROOT: &str = "\
//! Kafka's messages, generated from the schemas by `tests/src/bin/gen_wire.rs`. Do not edit.
#![expect(
    clippy::excessive_nesting,
    clippy::field_reassign_with_default,
    clippy::single_match,
    reason = \"generated: one shape for every field, however few there are\"
)]

";

fn api(module: &str, schemas: &[&Schema]) -> Result<String> {
    let mut out = format!("//! Generated by `gen_wire` from Kafka's schemas of `{module}`. Do not edit.\n\n");
    for schema in schemas {
        out += &format!("pub use {}::{};\n", part_of(schema), schema.name);
    }
    for schema in schemas {
        out += &format!("\npub mod {} {{\n{}}}\n", part_of(schema), message(schema)?);
    }
    if let [request, response] = schemas
        && let Some(key) = request.api_key
    {
        let (request, response) = (&request.name, &response.name);
        out += &format!("\ncrate::wire::message::request!({request} => {response}, key {key});\n");
    }
    Ok(out)
}

fn part_of(schema: &Schema) -> &'static str {
    if schema.name.contains("Request") {
        "request"
    } else {
        "response"
    }
}

fn message(schema: &Schema) -> Result<String> {
    let mut structs = Vec::new();
    nested(&schema.fields, &mut structs);
    for common in &schema.common_structs {
        structs.push((common.name.as_str(), common.fields.as_slice()));
        nested(&common.fields, &mut structs);
    }
    let scope = Scope {
        valid: schema.valid_versions,
        flexible: schema.flexible_versions.within(schema.valid_versions),
        structs: structs.iter().copied().collect(),
    };
    let mut body = structure(&schema.name, &schema.fields, &scope)?;
    for (name, fields) in structs {
        body += &structure(name, fields, &scope)?;
    }
    Ok(imports(&body) + &body + &message_line(schema, &scope))
}

/// The structures that fields define in place, outer ones first.
fn nested<'a>(fields: &'a [Field], found: &mut Vec<(&'a str, &'a [Field])>) {
    for field in fields.iter().filter(|field| !field.fields.is_empty()) {
        found.push((field.kind.trim_start_matches("[]"), &field.fields));
        nested(&field.fields, found);
    }
}

fn imports(body: &str) -> String {
    let mut out = String::new();
    for (name, path) in [
        ("Bytes", "bytes::Bytes"),
        ("StrBytes", "kafka_protocol::protocol::StrBytes"),
        ("Uuid", "uuid::Uuid"),
        ("Records", "crate::wire::records::Records"),
    ] {
        if body
            .split(|c: char| !c.is_alphanumeric())
            .any(|word| word == name)
        {
            out += &format!("use {path};\n");
        }
    }
    let wanted = ["get_nullable", "put_nullable", "Tags"]
        .into_iter()
        .filter(|name| body.contains(name));
    let extra: String = wanted.map(|name| format!("{name}, ")).collect();
    out += "use crate::wire::message::{Error, message};\n";
    out + &format!("use crate::wire::prim::{{Reader, {extra}Version, Wire, Writer}};\n\n")
}

/// Headers have no key, and nobody asks for the header of a header.
fn message_line(schema: &Schema, scope: &Scope<'_>) -> String {
    let header = match (schema.name.as_str(), schema.kind) {
        // A client that asks which versions there are cannot know yet that the answer's header is flexible.
        ("ApiVersionsResponse", _) | (_, Kind::Header) => "[0, 0]",
        (_, Kind::Request) => "[1, 2]",
        (_, Kind::Response) => "[0, 1]",
    };
    let Versions { min, max } = schema.valid_versions;
    let flexible = if scope.flexible.is_empty() {
        "i16::MAX".into()
    } else {
        scope.flexible.min.to_string()
    };
    let (name, key) = (&schema.name, schema.api_key.unwrap_or(-1));
    format!(
        "message!({name}, key {key}, versions {min}..={max}, flexible from {flexible}, header {header});\n"
    )
}

// ---- one structure ----

/// What the fields of one message are read against.
struct Scope<'a> {
    valid: Versions,
    flexible: Versions,
    structs: BTreeMap<&'a str, &'a [Field]>,
}

/// The Rust text of one structure, gathered field by field.
#[derive(Default)]
struct Text {
    declared: String,
    defaults: String,
    put: String,
    get: String,
    put_tags: String,
    get_tags: String,
}

fn structure(name: &str, fields: &[Field], scope: &Scope<'_>) -> Result<String> {
    let mut text = Text::default();
    let mut plain = true;
    for field in fields {
        if !field.versions.within(scope.valid).is_empty() {
            let field = Rust::of(field, scope)?;
            plain &= field.is_plain();
            add_field(&mut text, &field, scope);
        }
    }
    let (put_tags, get_tags) = tag_code(&text, scope);
    let Text {
        declared,
        defaults,
        put,
        get,
        ..
    } = &text;
    let (derived, default) = if plain {
        (", Default", String::new())
    } else {
        ("", default_impl(name, defaults))
    };
    let min_bytes = min_bytes_of_fields(fields, scope).max(1);
    let mutable = if text.get.is_empty() && text.get_tags.is_empty() {
        ""
    } else {
        "mut "
    };
    Ok(format!(
        "#[derive(Clone, Debug{derived}, PartialEq)]
        pub struct {name} {{
            {declared}
        }}

        {default}
        impl Wire for {name} {{
            const MIN_BYTES: usize = {min_bytes};

            fn put(&self, to: &mut Writer, version: Version) {{
                {put}{put_tags}
            }}

            fn get(from: &mut Reader, version: Version) -> Result<Self, Error> {{
                let {mutable}read = Self::default();
                {get}{get_tags}
                Ok(read)
            }}
        }}\n\n"
    ))
}

fn default_impl(name: &str, defaults: &str) -> String {
    format!("impl Default for {name} {{ fn default() -> Self {{ Self {{ {defaults} }} }} }}\n")
}

fn add_field(text: &mut Text, field: &Rust<'_>, scope: &Scope<'_>) {
    let Rust {
        field:
            Field {
                versions,
                tagged_versions,
                tag,
                about,
                ..
            },
        name,
        ..
    } = field;
    text.declared += &doc(about.as_deref().unwrap_or_default());
    text.declared += &format!("pub {name}: {},\n", field.type_name);
    text.defaults += &format!("{name}: {},\n", field.default);
    let (put, get) = (field.put(), field.get());
    if let Some(tag) = tag {
        let present = tagged_versions.within(*versions).condition(scope.valid);
        let changed = field.differs_from_default();
        let condition = if present == "true" {
            changed
        } else {
            format!("{present} && {changed}")
        };
        text.put_tags += &format!("if {condition} {{ tags.add({tag}, |to| {put}); }}\n");
        text.get_tags += &format!("{tag} => read.{name} = {get},\n");
    } else {
        let condition = versions.condition(scope.valid);
        text.put += &guarded(&condition, &format!("{put};"));
        text.get += &guarded(&condition, &format!("read.{name} = {get};"));
    }
}

fn guarded(condition: &str, statement: &str) -> String {
    if condition == "true" {
        format!("{statement}\n")
    } else {
        format!("if {condition} {{ {statement} }}\n")
    }
}

/// The schema's own explanation as a doc comment of readable width.
fn doc(about: &str) -> String {
    let mut lines = vec![String::new()];
    for word in about.split_whitespace() {
        if lines.last().is_some_and(|line| line.len() + word.len() > 90) {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            *line += " ";
            *line += word;
        }
    }
    lines
        .iter()
        .filter(|line| !line.is_empty())
        .map(|line| format!("///{line}\n"))
        .collect()
}

fn tag_code(text: &Text, scope: &Scope<'_>) -> (String, String) {
    if scope.flexible.is_empty() {
        return Default::default();
    }
    let Text {
        put_tags, get_tags, ..
    } = text;
    let (put, get) = if put_tags.is_empty() {
        (
            "to.no_tags();".to_owned(),
            "from.tags(|_, _| Ok(()))?;".to_owned(),
        )
    } else {
        let put = format!("let mut tags = Tags::default();\n{put_tags}tags.put(to);");
        let get = format!("from.tags(|tag, from| {{ match tag {{ {get_tags} _ => {{}} }} Ok(()) }})?;");
        (put, get)
    };
    let condition = if scope.flexible == scope.valid {
        "true"
    } else {
        "version.flexible"
    };
    (guarded(condition, &put), guarded(condition, &get))
}

// ---- one field ----

/// A field in the words of Rust.
struct Rust<'a> {
    field: &'a Field,
    name: String,
    type_name: String,
    default: String,
    /// The condition for null to be allowed, if it ever is.
    nullable: Option<String>,
    version: &'static str,
}

impl<'a> Rust<'a> {
    fn of(field: &'a Field, scope: &Scope<'_>) -> Result<Self> {
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

    fn put(&self) -> String {
        let Self { name, version, .. } = self;
        match &self.nullable {
            Some(allowed) => format!("put_nullable(&self.{name}, to, {version}, {allowed})"),
            None => format!("self.{name}.put(to, {version})"),
        }
    }

    fn get(&self) -> String {
        let version = self.version;
        match &self.nullable {
            Some(allowed) => format!("get_nullable(from, {version}, {allowed})?"),
            None => format!("Wire::get(from, {version})?"),
        }
    }

    fn differs_from_default(&self) -> String {
        let Self { name, type_name, .. } = self;
        match self.default.as_str() {
            "None" => format!("self.{name}.is_some()"),
            "false" => format!("self.{name}"),
            "Default::default()" => format!("self.{name} != <{type_name}>::default()"),
            literal => format!("self.{name} != {literal}"),
        }
    }

    /// Whether Rust's own default is the schema's.
    fn is_plain(&self) -> bool {
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
fn min_bytes_of_fields(fields: &[Field], scope: &Scope<'_>) -> usize {
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

fn snake(name: &str) -> String {
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

fn formatted(source: &str) -> Result<String> {
    let mut rustfmt = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../rustfmt.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("rustfmt cannot be started")?;
    rustfmt
        .stdin
        .take()
        .context("rustfmt has no input")?
        .write_all(source.as_bytes())?;
    let output = rustfmt.wait_with_output()?;
    ensure!(output.status.success(), "rustfmt refused what was generated");
    Ok(String::from_utf8(output.stdout)?)
}
