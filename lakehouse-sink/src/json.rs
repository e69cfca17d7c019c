//! The top-level fields of a JSON object, handed out in one pass without building a tree.
//!
//! Strings borrow from the record where they hold no escapes; nested values come as their JSON text, with the
//! order and the duplicates of their fields kept.

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// One value of a top-level field.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Boolean(bool),
    Long(i64),
    Double(f64),
    Text(Cow<'a, str>),
    /// An array or object, as JSON text.
    Nested(String),
}

/// The bytes are not one JSON object.
#[derive(Debug)]
pub(crate) struct NotAnObject;

/// Calls `each` for every field in order. After an error nothing that `each` saw is to be used.
pub(crate) fn fields<'a>(
    bytes: &'a [u8],
    each: impl FnMut(Cow<'a, str>, Value<'a>),
) -> Result<(), NotAnObject> {
    let mut input = serde_json::Deserializer::from_slice(bytes);
    let parsed = input.deserialize_map(Object(each)).and_then(|()| input.end());
    parsed.map_err(|_cause| NotAnObject)
}

struct Object<F>(F);

impl<'a, F: FnMut(Cow<'a, str>, Value<'a>)> Visitor<'a> for Object<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name)? {
            let value = map.next_value_seed(Top)?;
            (self.0)(name, value);
        }
        Ok(())
    }
}

struct Name;

impl<'a> DeserializeSeed<'a> for Name {
    type Value = Cow<'a, str>;

    fn deserialize<D: serde::Deserializer<'a>>(self, input: D) -> Result<Cow<'a, str>, D::Error> {
        input.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Name {
    type Value = Cow<'a, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Cow<'a, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cow<'a, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

struct Top;

impl<'a> DeserializeSeed<'a> for Top {
    type Value = Value<'a>;

    fn deserialize<D: serde::Deserializer<'a>>(self, input: D) -> Result<Value<'a>, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Top {
    type Value = Value<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value<'a>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'a>, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value<'a>, E> {
        Ok(Value::Long(value))
    }

    // Above the range of a long a number is a double; its exact digits stay in the raw value.
    fn visit_u64<E>(self, value: u64) -> Result<Value<'a>, E> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a JSON number beyond a long is only approximate anyway"
        )]
        let rounded = value as f64;
        Ok(i64::try_from(value).map_or(Value::Double(rounded), Value::Long))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value<'a>, E> {
        Ok(Value::Double(value))
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Value<'a>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'a>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, seq: A) -> Result<Value<'a>, A::Error> {
        let mut text = String::new();
        Copy(&mut text).visit_seq(seq)?;
        Ok(Value::Nested(text))
    }

    fn visit_map<A: MapAccess<'a>>(self, map: A) -> Result<Value<'a>, A::Error> {
        let mut text = String::new();
        Copy(&mut text).visit_map(map)?;
        Ok(Value::Nested(text))
    }
}

/// Writes what it visits as JSON text.
struct Copy<'t>(&'t mut String);

impl Copy<'_> {
    fn scalar<E: serde::de::Error>(self, value: impl serde::Serialize) -> Result<(), E> {
        self.0
            .push_str(&serde_json::to_string(&value).map_err(E::custom)?);
        Ok(())
    }
}

impl<'a> DeserializeSeed<'a> for Copy<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'a>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Copy<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.push_str("null");
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.scalar(text)
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<(), A::Error> {
        let text = self.0;
        text.push('[');
        let start = text.len();
        loop {
            let before = text.len();
            if before > start {
                text.push(',');
            }
            if seq.next_element_seed(Copy(text))?.is_none() {
                text.truncate(before);
                break;
            }
        }
        text.push(']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let text = self.0;
        text.push('{');
        let start = text.len();
        while let Some(name) = map.next_key_seed(Name)? {
            if text.len() > start {
                text.push(',');
            }
            text.push_str(&serde_json::to_string(&name).map_err(A::Error::custom)?);
            text.push(':');
            map.next_value_seed(Copy(text))?;
        }
        text.push('}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Vec<(String, Value<'_>)>> {
        let mut all = Vec::new();
        fields(text.as_bytes(), |name, value| {
            all.push((name.into_owned(), value))
        })
        .ok()
        .map(|()| all)
    }

    fn only(text: &str) -> Value<'_> {
        read(text).unwrap().remove(0).1
    }

    #[test]
    fn each_kind_of_value_arrives_as_itself() {
        assert_eq!(only(r#"{"a":null}"#), Value::Null);
        assert_eq!(only(r#"{"a":true}"#), Value::Boolean(true));
        assert_eq!(only(r#"{"a":-9223372036854775808}"#), Value::Long(i64::MIN));
        assert_eq!(
            only(r#"{"a":18446744073709551615}"#),
            Value::Double(18_446_744_073_709_551_615.0)
        );
        assert_eq!(only(r#"{"a":1.5}"#), Value::Double(1.5));
        assert_eq!(only(r#"{"a":"ö\n"}"#), Value::Text("ö\n".into()));
    }

    #[test]
    fn nested_values_keep_order_duplicates_and_escapes() {
        let nested = only(r#"{"a" : {"z":[1, 2.50 ,"x\"", [], {}],"b":null,"z":false} }"#);
        assert_eq!(
            nested,
            Value::Nested(r#"{"z":[1,2.5,"x\"",[],{}],"b":null,"z":false}"#.into())
        );
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        for text in [
            "",
            "1",
            "[]",
            "null",
            "\"x\"",
            "{",
            r#"{"a":1} x"#,
            r#"{"a":1,}"#,
            "{\"a\":\u{1}}",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
        assert!(fields(b"{\"a\":\"\xff\"}", |_, _| ()).is_err());
    }

    #[test]
    fn nesting_deeper_than_the_stack_allows_is_refused_and_not_followed() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read(&deep).is_none());
    }
}
