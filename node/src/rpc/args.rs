//! Arguments of a call: by position, by name, or both (`args`), brought into the registry's order and checked against
//! it; then read by the methods.
//!
//! Errors are Bitcoin Core's: wrong number -1 with the help text, wrong JSON type -3 with every position that is wrong,
//! unknown name -8. Nothing here slices a string or narrows a number without a check.

use super::error::RpcError;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use setara_api::coins::Coins;
use setara_api::error::ErrorCode;
use setara_api::registry::{Method, schema::type_of};
use setara_core::address::{Address, Prefix};
use setara_core::amount::Amount;
use setara_core::hash::{BlockHash, Hash256, TxId};
use std::fmt;

/// A call's arguments, one slot per parameter; `null` where none was given.
#[derive(Debug, Clone)]
pub struct Args {
    method: &'static Method,
    values: Vec<Value>,
}

/// An object's members in order, duplicates kept: a parameter given twice is an error, not the last one.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of parameters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

impl Args {
    /// Arguments of `method` from a request's `params`.
    pub fn read(method: &'static Method, params: Option<&RawValue>) -> Result<Self, RpcError> {
        // The envelope was JSON; what can still fail is nesting deeper than the reader allows.
        let unreadable = |_| RpcError::new(ErrorCode::PARSE, "Parse error");
        let values = match params.map(RawValue::get) {
            None | Some("[]") => Vec::new(),
            Some(text) if text.starts_with('[') => serde_json::from_str(text).map_err(unreadable)?,
            Some(text) => by_name(method, serde_json::from_str::<Members>(text).map_err(unreadable)?)?,
        };
        Self::checked(method, values)
    }

    fn checked(method: &'static Method, mut values: Vec<Value>) -> Result<Self, RpcError> {
        let required = method.params.iter().filter(|param| param.is_required()).count();
        if values.len() > method.params.len() || values.len() < required {
            return Err(RpcError::misc(method.help()));
        }
        values.resize(method.params.len(), Value::Null);
        let mut mismatches = serde_json::Map::new();
        for (position, (param, value)) in (1u32..).zip(method.params.iter().zip(&values)) {
            if (value.is_null() && !param.is_required()) || param.kind.accepts_type(value) {
                continue;
            }
            let got = type_of(value);
            let expected = param.kind.json_types().join(" or ");
            mismatches.insert(
                format!("Position {position} ({})", param.name),
                format!("JSON value of type {got} is not of expected type {expected}").into(),
            );
        }
        if !mismatches.is_empty() {
            return Err(RpcError::new(ErrorCode::TYPE, format!("Wrong type passed:\n{}", pretty(&mismatches))));
        }
        Ok(Self { method, values })
    }

    /// The argument of the parameter called `name`, unless it was left out.
    fn get(&self, name: &str) -> Option<&Value> {
        let position = self.method.params.iter().position(|param| param.name == name)?;
        self.values.get(position).filter(|value| !value.is_null())
    }

    /// Any JSON.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.get(name)
    }

    /// A string; empty when left out.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A string, unless it was left out.
    pub fn optional_text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    /// A boolean.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(default)
    }

    /// A whole number.
    pub fn integer(&self, name: &str, default: i64) -> Result<i64, RpcError> {
        self.get(name).map_or(Ok(default), integer)
    }

    /// Verbosity: a number, or a boolean for 1 and 0.
    pub fn verbosity(&self, name: &str, default: i64) -> Result<i64, RpcError> {
        match self.get(name) {
            Some(Value::Bool(verbose)) => Ok(i64::from(*verbose)),
            Some(value) => integer(value),
            None => Ok(default),
        }
    }

    /// A hash in its printed (reversed) form.
    pub fn hash(&self, name: &str) -> Result<Hash256, RpcError> {
        hash(name, self.text(name))
    }

    /// A block's hash.
    pub fn block_hash(&self, name: &str) -> Result<BlockHash, RpcError> {
        self.hash(name).map(BlockHash::new)
    }

    /// A block's hash, unless it was left out.
    pub fn optional_block_hash(&self, name: &str) -> Result<Option<BlockHash>, RpcError> {
        self.optional_text(name).map(|text| hash(name, text).map(BlockHash::new)).transpose()
    }

    /// A transaction's id.
    pub fn txid(&self, name: &str) -> Result<TxId, RpcError> {
        self.hash(name).map(TxId::new)
    }

    /// Bytes in hex.
    pub fn hex(&self, name: &str) -> Result<Vec<u8>, RpcError> {
        hex_bytes(name, self.text(name))
    }

    /// An amount of coins, as number or text.
    pub fn amount(&self, name: &str, default: Amount) -> Result<Amount, RpcError> {
        self.get(name).map_or(Ok(default), amount)
    }

    /// A list; empty when left out.
    pub fn list(&self, name: &str) -> &[Value] {
        self.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// A list of strings; empty when left out.
    pub fn texts(&self, name: &str) -> Result<Vec<&str>, RpcError> {
        self.list(name).iter().map(|value| text(name, value)).collect()
    }
}

/// Bitcoin Core's `write(4)`.
fn pretty(map: &serde_json::Map<String, Value>) -> String {
    let members: Vec<String> =
        map.iter().map(|(key, value)| format!("    {}: {value}", Value::from(key.as_str()))).collect();
    format!("{{\n{}\n}}", members.join(",\n"))
}

/// Puts named parameters into their places; `args` holds leading positional ones.
fn by_name(method: &Method, Members(members): Members) -> Result<Vec<Value>, RpcError> {
    let mut values: Vec<Option<Value>> = Vec::new();
    let mut named = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (name, value) in members {
        if !seen.insert(name.clone()) {
            return Err(RpcError::parameter(format!("Parameter {name} specified multiple times")));
        }
        match value {
            Value::Array(items) if name == "args" => values = items.into_iter().map(Some).collect(),
            value => named.push((name, value)),
        }
    }
    let positional = values.len();
    for (name, value) in named {
        let Some(position) = method.params.iter().position(|param| param.is_named(&name)) else {
            return Err(RpcError::parameter(format!("Unknown named parameter {name}")));
        };
        if position < positional {
            let message = format!("Parameter {name} specified twice both as positional and named argument");
            return Err(RpcError::parameter(message));
        }
        if values.len() <= position {
            values.resize(position.saturating_add(1), None);
        }
        match values.get_mut(position) {
            Some(slot @ None) => *slot = Some(value),
            _ => return Err(RpcError::parameter(format!("Parameter {name} specified multiple times"))),
        }
    }
    // A required one that was skipped is counted as missing, as if it had been left off the end.
    let required = method.params.iter().zip(&values).find(|(param, value)| param.is_required() && value.is_none());
    if required.is_some() {
        return Err(RpcError::misc(method.help()));
    }
    Ok(values.into_iter().map(Option::unwrap_or_default).collect())
}

/// A whole number that fits 64 bits.
pub fn integer(value: &Value) -> Result<i64, RpcError> {
    match value {
        Value::Number(number) => {
            number.as_i64().ok_or_else(|| RpcError::new(ErrorCode::TYPE, "JSON integer out of range"))
        }
        other => Err(wrong_type(other, "number")),
    }
}

/// A string inside a list or object.
pub fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str, RpcError> {
    value.as_str().ok_or_else(|| {
        RpcError::new(
            ErrorCode::TYPE,
            format!("{name}: JSON value of type {} is not of expected type string", type_of(value)),
        )
    })
}

fn wrong_type(value: &Value, expected: &str) -> RpcError {
    let got = type_of(value);
    RpcError::new(ErrorCode::TYPE, format!("JSON value of type {got} is not of expected type {expected}"))
}

/// A hash in its printed form, with Bitcoin Core's messages.
pub fn hash(name: &str, text: &str) -> Result<Hash256, RpcError> {
    text.parse().map_err(|_| {
        let length = text.chars().count();
        let shown = shorten(text);
        RpcError::parameter(if length == 64 {
            format!("{name} must be hexadecimal string (not '{shown}')")
        } else {
            format!("{name} must be of length 64 (not {length}, for '{shown}')")
        })
    })
}

/// Bytes in hex.
pub fn hex_bytes(name: &str, text: &str) -> Result<Vec<u8>, RpcError> {
    hex::decode(text)
        .map_err(|_| RpcError::parameter(format!("{name} must be hexadecimal string (not '{}')", shorten(text))))
}

/// An amount of coins, as number or text.
pub fn amount(value: &Value) -> Result<Amount, RpcError> {
    let refused = |reason: &dyn fmt::Display| RpcError::new(ErrorCode::TYPE, format!("Invalid amount: {reason}"));
    match value {
        Value::Number(number) => Coins::from_text(number.as_str()),
        Value::String(text) => Coins::from_text(text),
        _ => return Err(RpcError::new(ErrorCode::TYPE, "Amount is not a number or string")),
    }
    .map(|coins| coins.0)
    .map_err(|error| match error {
        setara_core::amount::AmountParseError::Negative => RpcError::new(ErrorCode::TYPE, "Amount out of range"),
        other => refused(&other),
    })
}

/// An address of the network with this prefix.
pub fn address(text: &str, prefix: &Prefix) -> Result<Address, RpcError> {
    Address::from_text(text, prefix).map_err(|error| RpcError::not_found(format!("Invalid address: {error}")))
}

/// Enough of a text to recognise it: an error must not echo megabytes.
pub fn shorten(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use setara_api::registry;

    fn read(method: &str, params: &str) -> Result<Vec<String>, (i64, String)> {
        let params = RawValue::from_string(params.to_owned()).unwrap();
        Args::read(registry::method(method).unwrap(), Some(&params))
            .map(|args| args.values.iter().map(Value::to_string).collect())
            .map_err(|error| (error.code, error.message))
    }

    #[test]
    fn names_and_positions_fill_the_same_places() {
        let expected = ["\"aa\"", "1"];
        let hash = read("getblock", r#"["aa", 1]"#).unwrap();
        assert_eq!(hash, expected);
        for params in [
            r#"{"blockhash":"aa","verbosity":1}"#,
            r#"{"verbose":1,"blockhash":"aa"}"#,
            r#"{"args":["aa"],"verbosity":1}"#,
            r#"{"args":["aa",1]}"#,
        ] {
            assert_eq!(read("getblock", params).unwrap(), expected, "{params}");
        }
        assert_eq!(read("getblock", r#"["aa", null]"#).unwrap(), ["\"aa\"", "null"]);
        assert_eq!(read("getblockcount", "{ }").unwrap(), Vec::<String>::new());
        assert_eq!(read("getblockcount", "[ ]").unwrap(), Vec::<String>::new());
        assert_eq!(
            read("getrawtransaction", r#"{"txid":"aa","blockhash":"bb"}"#).unwrap(),
            ["\"aa\"", "null", "\"bb\""]
        );
    }

    #[test]
    fn errors_are_cores() {
        let help = |method: &str| (-1, registry::method(method).unwrap().help());
        for params in ["[]", r#"["aa",1,2]"#, r#"{"verbosity":1}"#, r#"{"args":["aa",1,2]}"#] {
            assert_eq!(read("getblock", params), Err(help("getblock")), "{params}");
        }
        let rows = [
            (r#"{"heigt":1}"#, "Unknown named parameter heigt"),
            (r#"{"height":1,"height":2}"#, "Parameter height specified multiple times"),
            (r#"{"args":[1],"height":2}"#, "Parameter height specified twice both as positional and named argument"),
            (r#"{"args":1}"#, "Unknown named parameter args"),
        ];
        for (params, message) in rows {
            assert_eq!(read("getblockhash", params), Err((-8, message.to_owned())), "{params}");
        }
        assert_eq!(read("getblock", r#"{"blockhash":"aa","verbose":1,"verbosity":2}"#).unwrap_err().0, -8);
        let (code, message) = read("getblockhash", r#"["x"]"#).unwrap_err();
        assert_eq!(code, -3);
        assert_eq!(
            message,
            "Wrong type passed:\n{\n    \"Position 1 (height)\": \"JSON value of type string is not of expected type \
             number\"\n}"
        );
        let (_, message) = read("getblock", "[null, {}]").unwrap_err();
        assert!(message.contains("Position 1 (blockhash)") && message.contains("Position 2 (verbosity)"), "{message}");
    }

    /// RW6.
    #[test]
    fn values_out_of_range_are_errors() {
        let number = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(integer(&number("-7")), Ok(-7));
        for text in ["1.5", "1e3", "9223372036854775808", "-1e400", "\"7\"", "null"] {
            assert_eq!(integer(&number(text)).unwrap_err().code, -3, "{text}");
        }
        for text in ["é", "", "ab", &"é".repeat(32), &"z".repeat(64), &"a".repeat(1_000_000)] {
            let error = hash("blockhash", text).unwrap_err();
            assert!(error.code == -8 && error.message.len() < 500, "{}", error.message);
        }
        for text in ["-1", "0.000000001", "1e300", "\"x\"", "[]", "-0.5"] {
            assert_eq!(amount(&number(text)).unwrap_err().code, -3, "{text}");
        }
        assert_eq!(amount(&number("\"0.1\"")), Ok(Amount::from_sen(10_000_000)));
        assert_eq!(amount(&number("1e-8")), Ok(Amount::from_sen(1)));
    }
}
