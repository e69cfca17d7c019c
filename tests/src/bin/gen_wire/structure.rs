//! One structure of a message: its Rust type, its default, how it is written and read.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::field::{Rust, min_bytes_of_fields};
use crate::schema::{Field, Versions};

/// What the fields of one message are read against.
pub(crate) struct Scope<'a> {
    pub(crate) valid: Versions,
    pub(crate) flexible: Versions,
    pub(crate) structs: BTreeMap<&'a str, &'a [Field]>,
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

pub(crate) fn structure(name: &str, fields: &[Field], scope: &Scope<'_>) -> Result<String> {
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
