//! An event as a line: text or JSON, with every control character escaped.

use super::LogFormat;
use serde_json::{Map, Value};
use std::fmt::{self, Write};
use tracing::Event;
use tracing::field::{Field, Visit};

/// Characters of one value: a line is for reading, not for carrying blocks.
const VALUE_CHARS_MAX: usize = 4096;

/// An event's message and fields, each printed and cut but not yet escaped.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Cut::default();
        let _ = write!(text, "{value:?}");
        self.add(field, Value::String(text.text));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut text = Cut::default();
        let _ = text.write_str(value);
        self.add(field, Value::String(text.text));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }
}

/// Text that stops growing at [`VALUE_CHARS_MAX`].
#[derive(Default)]
struct Cut {
    text: String,
    count: usize,
}

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            self.count += 1;
            match self.count {
                ..=VALUE_CHARS_MAX => self.text.push(character),
                _ => {
                    self.text.push_str("...");
                    return Err(fmt::Error);
                }
            }
        }
        Ok(())
    }
}

/// The line of an event, with its line break.
pub(super) fn line(format: LogFormat, time: &str, level: &str, target: &str, event: &Event<'_>) -> String {
    let mut fields = Fields::default();
    event.record(&mut fields);
    render(format, time, level, target, fields)
}

/// A line of the log's own.
pub(super) fn note(
    format: LogFormat,
    time: &str,
    target: &str,
    message: &str,
    others: &[(&'static str, String)],
) -> String {
    let others = others.iter().map(|(name, value)| (*name, Value::String(value.clone()))).collect();
    render(format, time, "WARN", target, Fields { message: message.to_owned(), others })
}

fn render(format: LogFormat, time: &str, level: &str, target: &str, fields: Fields) -> String {
    match format {
        LogFormat::Text => {
            let mut line = format!("{time} {level:<5} {}: {}", escaped(target), escaped(&fields.message));
            for (name, value) in fields.others {
                let value = match value {
                    Value::String(text) => quoted(&text),
                    other => other.to_string(),
                };
                let _ = write!(line, " {name}={value}");
            }
            line.push('\n');
            line
        }
        LogFormat::Json => {
            let mut object = Map::new();
            for (name, text) in [("time", time), ("level", level), ("target", target), ("message", &fields.message)] {
                object.insert(name.to_owned(), text.into());
            }
            for (name, value) in fields.others {
                // A field named like one of ours must not replace it.
                let name = if object.contains_key(name) { format!("{name}_") } else { name.to_owned() };
                object.insert(name, value);
            }
            // JSON escapes only the first 32 control characters.
            let mut line = escaped(&Value::Object(object).to_string());
            line.push('\n');
            line
        }
    }
}

/// Text without control characters, and without the ones that reverse or hide text.
fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        let hides = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if character.is_control() || hides {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(line, "\\u{unit:04x}");
            }
        } else {
            line.push(character);
        }
    }
    line
}

/// A value that cannot be mistaken for the next key.
fn quoted(text: &str) -> String {
    let text = escaped(text);
    let plain = !text.is_empty() && !text.contains([' ', '"', '=']);
    if plain { text } else { format!("\"{}\"", text.replace('"', "\\\"")) }
}
