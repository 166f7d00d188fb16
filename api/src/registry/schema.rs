//! Shapes of JSON values: what parameters take and what results hold, as constants that can be printed, turned into
//! JSON Schema, and held against a real value.

use serde_json::{Value, json};

/// The shape of a JSON value.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Anything.
    Any,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// A number of coins with exactly eight decimals.
    Amount,
    /// A string.
    Text,
    /// A string of hexadecimal digits.
    Hex,
    /// 64 hexadecimal digits.
    Hash,
    /// A list of one kind.
    Array(&'static Kind),
    /// A list of fixed length, one kind per place.
    Tuple(&'static [Kind]),
    /// An object with these fields.
    Object(&'static [Field]),
    /// An object whose keys are data.
    Map(&'static Kind),
    /// One of several shapes.
    OneOf(&'static [Kind]),
}

/// A field of an object.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// Its shape.
    pub kind: Kind,
    /// Whether it may be absent.
    pub optional: bool,
    /// What it means.
    pub doc: &'static str,
}

impl Field {
    /// Always there.
    pub const fn new(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, optional: false, doc }
    }

    /// There when it has a meaning.
    pub const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, optional: true, doc }
    }
}

impl Kind {
    /// Bitcoin Core's words for the JSON types that an argument of this kind may have; empty if any will do.
    pub fn json_types(&self) -> Vec<&'static str> {
        match self {
            Self::Any => Vec::new(),
            Self::Null => vec!["null"],
            Self::Bool => vec!["bool"],
            Self::Integer | Self::Number => vec!["number"],
            // As text too: clients in languages without decimals send strings.
            Self::Amount => vec!["number", "string"],
            Self::Text | Self::Hex | Self::Hash => vec!["string"],
            Self::Array(_) | Self::Tuple(_) => vec!["array"],
            Self::Object(_) | Self::Map(_) => vec!["object"],
            Self::OneOf(kinds) => {
                let mut types: Vec<&'static str> = kinds.iter().flat_map(Self::json_types).collect();
                types.sort_unstable();
                types.dedup();
                types
            }
        }
    }

    /// Whether an argument has a JSON type that fits; what is inside is for the method to judge.
    pub fn accepts_type(&self, value: &Value) -> bool {
        let got = type_of(value);
        match self {
            Self::Any => true,
            Self::OneOf(kinds) => kinds.iter().any(|kind| kind.accepts_type(value)),
            _ => self.json_types().contains(&got),
        }
    }

    /// Short name for `help`.
    pub fn type_name(&self) -> String {
        match self {
            Self::Any => "any".to_owned(),
            Self::Null => "json null".to_owned(),
            Self::Bool => "boolean".to_owned(),
            Self::Integer | Self::Number => "numeric".to_owned(),
            Self::Amount => "numeric or string".to_owned(),
            Self::Text | Self::Hex | Self::Hash => "string".to_owned(),
            Self::Array(_) | Self::Tuple(_) => "json array".to_owned(),
            Self::Object(_) | Self::Map(_) => "json object".to_owned(),
            Self::OneOf(kinds) => {
                let mut names: Vec<String> = kinds.iter().map(Self::type_name).collect();
                names.dedup();
                names.join(" or ")
            }
        }
    }

    /// How an argument of this kind stands in a usage line.
    pub fn placeholder(&self, name: &str) -> String {
        match self {
            Self::Text | Self::Hex | Self::Hash => format!("\"{name}\""),
            Self::Array(_) | Self::Tuple(_) => format!("[{name}]"),
            Self::Object(_) | Self::Map(_) => format!("{{{name}}}"),
            _ => name.to_owned(),
        }
    }

    /// Appends a description of a value of this kind, indented.
    pub fn describe(&self, text: &mut String, indent: usize) {
        text.push_str(&format!("{:indent$}({})", "", self.hint()));
        text.push('\n');
        self.describe_inside(text, indent.saturating_add(2));
    }

    /// Appends the descriptions of what this kind holds.
    pub fn describe_inside(&self, text: &mut String, indent: usize) {
        match self {
            Self::Object(fields) => {
                for field in *fields {
                    let optional = if field.optional { ", optional" } else { "" };
                    let hint = field.kind.hint();
                    text.push_str(&format!("{:indent$}{}    ({hint}{optional}) {}\n", "", field.name, field.doc));
                    field.kind.describe_inside(text, indent.saturating_add(2));
                }
            }
            Self::Array(item) | Self::Map(item) => item.describe_inside(text, indent),
            Self::Tuple(items) | Self::OneOf(items) => {
                for item in *items {
                    item.describe_inside(text, indent);
                }
            }
            _ => {}
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::Amount => "numeric, coins with 8 decimals".to_owned(),
            Self::Integer => "numeric, whole".to_owned(),
            Self::Hex => "string, hex".to_owned(),
            Self::Hash => "string, 64 hex digits".to_owned(),
            Self::Array(item) => format!("json array of: {}", item.hint()),
            Self::Map(item) => format!("json object, each value: {}", item.hint()),
            Self::OneOf(kinds) => kinds.iter().map(Self::hint).collect::<Vec<_>>().join("; or "),
            _ => self.type_name(),
        }
    }

    /// As JSON Schema, for OpenRPC.
    pub fn json_schema(&self) -> Value {
        match self {
            Self::Any => json!({}),
            Self::Null => json!({"type": "null"}),
            Self::Bool => json!({"type": "boolean"}),
            Self::Integer => json!({"type": "integer"}),
            Self::Number => json!({"type": "number"}),
            Self::Amount => json!({"type": "number", "description": "coins with 8 decimals"}),
            Self::Text => json!({"type": "string"}),
            Self::Hex => json!({"type": "string", "pattern": "^([0-9a-f]{2})*$"}),
            Self::Hash => json!({"type": "string", "pattern": "^[0-9a-f]{64}$"}),
            Self::Array(item) => json!({"type": "array", "items": item.json_schema()}),
            Self::Tuple(items) => {
                let items: Vec<Value> = items.iter().map(Self::json_schema).collect();
                json!({"type": "array", "prefixItems": items, "minItems": items.len(), "maxItems": items.len()})
            }
            Self::Map(item) => json!({"type": "object", "additionalProperties": item.json_schema()}),
            Self::Object(fields) => {
                let properties: serde_json::Map<String, Value> = fields
                    .iter()
                    .map(|field| {
                        let mut schema = field.kind.json_schema();
                        if let Some(schema) = schema.as_object_mut() {
                            schema.insert("description".to_owned(), json!(field.doc));
                        }
                        (field.name.to_owned(), schema)
                    })
                    .collect();
                let required: Vec<&str> =
                    fields.iter().filter(|field| !field.optional).map(|field| field.name).collect();
                json!({"type": "object", "properties": properties, "required": required})
            }
            Self::OneOf(kinds) => {
                let kinds: Vec<Value> = kinds.iter().map(Self::json_schema).collect();
                json!({"oneOf": kinds})
            }
        }
    }

    /// Holds a value against this shape; the error is the path to the first thing that does not fit. An object may
    /// hold no field that the shape does not name: what the documentation does not say, the node does not send.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        self.check_at(value, "$")
    }

    fn check_at(&self, value: &Value, path: &str) -> Result<(), String> {
        let fits = |fits: bool| if fits { Ok(()) } else { Err(format!("{path}: {value} is not {}", self.hint())) };
        match (self, value) {
            (Self::Any, _) => Ok(()),
            (Self::Null, _) => fits(value.is_null()),
            (Self::Bool, _) => fits(value.is_boolean()),
            (Self::Integer, _) => fits(value.is_i64() || value.is_u64()),
            (Self::Number, _) => fits(value.is_number()),
            (Self::Text, _) => fits(value.is_string()),
            (Self::Amount, Value::Number(number)) => {
                fits(number.as_str().split_once('.').is_some_and(|(_, fraction)| fraction.len() == 8))
            }
            (Self::Hex, Value::String(text)) => fits(text.len().is_multiple_of(2) && is_lower_hex(text)),
            (Self::Hash, Value::String(text)) => fits(text.len() == 64 && is_lower_hex(text)),
            (Self::Array(kind), Value::Array(items)) => {
                (0u32..).zip(items).try_for_each(|(index, item)| kind.check_at(item, &format!("{path}[{index}]")))
            }
            (Self::Tuple(kinds), Value::Array(items)) => {
                fits(kinds.len() == items.len())?;
                (0u32..)
                    .zip(kinds.iter().zip(items))
                    .try_for_each(|(index, (kind, item))| kind.check_at(item, &format!("{path}[{index}]")))
            }
            (Self::Map(kind), Value::Object(map)) => {
                map.iter().try_for_each(|(key, item)| kind.check_at(item, &format!("{path}.{key}")))
            }
            (Self::Object(fields), Value::Object(map)) => {
                for field in *fields {
                    match map.get(field.name) {
                        Some(item) => field.kind.check_at(item, &format!("{path}.{}", field.name))?,
                        None if field.optional => {}
                        None => return Err(format!("{path}.{} is missing", field.name)),
                    }
                }
                match map.keys().find(|key| !fields.iter().any(|field| field.name == *key)) {
                    Some(unknown) => Err(format!("{path}.{unknown} is not in the schema")),
                    None => Ok(()),
                }
            }
            (Self::OneOf(kinds), _) => {
                let mut errors = Vec::new();
                for kind in *kinds {
                    match kind.check_at(value, path) {
                        Ok(()) => return Ok(()),
                        Err(error) => errors.push(error),
                    }
                }
                Err(errors.join("; and "))
            }
            _ => fits(false),
        }
    }
}

/// Bitcoin Core's name for the JSON type of a value.
pub fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Kind = Kind::Object(&[
        Field::new("fee", Kind::Amount, ""),
        Field::optional("ids", Kind::Array(&Kind::Hash), ""),
        Field::new("what", Kind::OneOf(&[Kind::Null, Kind::Integer]), ""),
    ]);

    #[test]
    fn values_are_held_to_their_shape() {
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(SHAPE.check(&parse(r#"{"fee": 0.00000001, "what": null}"#)), Ok(()));
        let hash = "ab".repeat(32);
        assert_eq!(SHAPE.check(&parse(&format!(r#"{{"fee": 1.00000000, "what": 7, "ids": ["{hash}"]}}"#))), Ok(()));
        let bad = [
            (r#"{"what": null}"#, "$.fee is missing"),
            (r#"{"fee": 1e-8, "what": null}"#, "$.fee"),
            (r#"{"fee": 0.00000001, "what": 1.5}"#, "$.what"),
            (r#"{"fee": 0.00000001, "what": 1, "ids": ["AB"]}"#, "$.ids[0]"),
            (r#"{"fee": 0.00000001, "what": 1, "more": 1}"#, "$.more is not in the schema"),
        ];
        for (text, at) in bad {
            let error = SHAPE.check(&parse(text)).unwrap_err();
            assert!(error.contains(at), "{text}: {error}");
        }
    }

    #[test]
    fn argument_types_use_cores_words() {
        assert_eq!(Kind::OneOf(&[Kind::Text, Kind::Integer, Kind::Bool]).json_types(), ["bool", "number", "string"]);
        assert!(Kind::Amount.accepts_type(&json!("1.5")));
        assert!(!Kind::Hash.accepts_type(&json!(7)));
        assert!(Kind::Any.accepts_type(&Value::Null));
    }
}
