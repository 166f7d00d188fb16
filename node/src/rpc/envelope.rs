//! JSON-RPC envelopes, 1.0, 1.1 and 2.0, as Bitcoin Core (28 and later) reads and writes them. Pure: bytes in, calls
//! out; outcomes in, bytes out.
//!
//! | | 1.x: no `jsonrpc`, or `"1.0"` | 2.0 |
//! | --- | --- | --- |
//! | reply | `result` and `error` always, `id` if there was one | `jsonrpc`, `result` or `error`, `id` |
//! | no `id` | executed and answered | a notification: executed, not answered |
//!
//! An `id` may be any JSON value and comes back as it was written.

use super::error::RpcError;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use setara_api::error::ErrorCode;
use std::fmt;

/// Calls in a batch: more cost more than they save, and hold a worker for longer than others should wait.
pub const BATCH_CALLS_MAX: usize = 1_000;

/// Which rules a request wants its answer by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.0 and 1.1.
    V1,
    /// 2.0.
    V2,
}

/// A call as it stands in a request.
#[derive(Debug)]
pub struct Call<'a> {
    /// The method's name.
    pub method: String,
    /// An array, an object, or nothing.
    pub params: Option<&'a RawValue>,
}

/// One entry of a request: how to answer it, and the call, unless it is none.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Rules of the answer.
    pub version: Version,
    /// To be echoed.
    pub id: Option<&'a RawValue>,
    /// The call, or why there is none.
    pub call: Result<Call<'a>, RpcError>,
}

impl Entry<'_> {
    /// Whether it is executed but never answered.
    pub fn is_notification(&self) -> bool {
        self.id.is_none() && self.version == Version::V2
    }
}

/// A request's body.
#[derive(Debug)]
pub enum Request<'a> {
    /// One call.
    Single(Entry<'a>),
    /// Calls in an array.
    Batch(Vec<Entry<'a>>),
}

/// Members of a request object; the first of each name counts, as in Bitcoin Core.
#[derive(Default)]
struct Members<'a> {
    jsonrpc: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a request object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::default();
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    let slot = match key.as_ref() {
                        "jsonrpc" => &mut members.jsonrpc,
                        "id" => &mut members.id,
                        "method" => &mut members.method,
                        "params" => &mut members.params,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    let value = map.next_value::<&RawValue>()?;
                    slot.get_or_insert(value);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// Reads a request. The error is a refusal of the whole: not JSON, neither object nor array, or a batch too long.
pub fn parse(body: &[u8]) -> Result<Request<'_>, RpcError> {
    let not_json = |_| RpcError::new(ErrorCode::PARSE, "Parse error");
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => Ok(Request::Single(entry(serde_json::from_slice(body).map_err(not_json)?))),
        Some(b'[') => {
            let mut deserializer = serde_json::Deserializer::from_slice(body);
            let items = Items { max: BATCH_CALLS_MAX }.deserialize(&mut deserializer).map_err(not_json)?;
            let Some(items) = items else {
                let message = format!("A batch holds at most {BATCH_CALLS_MAX} calls");
                return Err(RpcError::new(ErrorCode::INVALID_REQUEST, message));
            };
            deserializer.end().map_err(not_json)?;
            Ok(Request::Batch(items.into_iter().map(batch_entry).collect()))
        }
        _ => {
            serde_json::from_slice::<IgnoredAny>(body).map_err(not_json)?;
            Err(RpcError::new(ErrorCode::PARSE, "Top-level object parse error"))
        }
    }
}

/// Reads an array's items, or `None` if there are more than `max`: the rest is skipped, not kept.
struct Items {
    max: usize,
}

impl<'de> DeserializeSeed<'de> for Items {
    type Value = Option<Vec<&'de RawValue>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        struct Read(usize);
        impl<'de> Visitor<'de> for Read {
            type Value = Option<Vec<&'de RawValue>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of requests")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while items.len() < self.0 {
                    match sequence.next_element::<&RawValue>()? {
                        Some(item) => items.push(item),
                        None => return Ok(Some(items)),
                    }
                }
                let mut more = false;
                while sequence.next_element::<IgnoredAny>()?.is_some() {
                    more = true;
                }
                Ok((!more).then_some(items))
            }
        }
        deserializer.deserialize_seq(Read(self.max))
    }
}

fn batch_entry(item: &RawValue) -> Entry<'_> {
    match serde_json::from_str(item.get()) {
        Ok(members) => entry(members),
        Err(_) => {
            Entry { version: Version::V1, id: Some(RawValue::NULL), call: Err(invalid("Invalid Request object")) }
        }
    }
}

fn invalid(message: &str) -> RpcError {
    RpcError::new(ErrorCode::INVALID_REQUEST, message)
}

fn entry(members: Members<'_>) -> Entry<'_> {
    let id = members.id;
    let present = |member: Option<&RawValue>| member.is_some_and(|value| value.get() != "null");
    let mut version = Version::V1;
    if present(members.jsonrpc) {
        match members.jsonrpc.map(|value| serde_json::from_str::<String>(value.get())) {
            Some(Ok(text)) if text == "2.0" => version = Version::V2,
            Some(Ok(text)) if text == "1.0" => {}
            Some(Ok(_)) => return Entry { version, id, call: Err(invalid("JSON-RPC version not supported")) },
            _ => return Entry { version, id, call: Err(invalid("jsonrpc field must be a string")) },
        }
    }
    let method = match members.method {
        Some(method) if method.get() != "null" => match serde_json::from_str::<String>(method.get()) {
            Ok(method) => method,
            Err(_) => return Entry { version, id, call: Err(invalid("Method must be a string")) },
        },
        _ => return Entry { version, id, call: Err(invalid("Missing method")) },
    };
    let params = members.params.filter(|params| params.get() != "null");
    match params.map(|params| params.get().as_bytes().first()) {
        None | Some(Some(b'[' | b'{')) => Entry { version, id, call: Ok(Call { method, params }) },
        _ => Entry { version, id, call: Err(invalid("Params must be an array or object")) },
    }
}

/// What a call gives: a result, already JSON, or an error.
pub type Outcome = Result<Box<RawValue>, RpcError>;

/// Appends the reply to one entry.
pub fn write_reply(out: &mut Vec<u8>, version: Version, id: Option<&str>, outcome: &Outcome) {
    out.push(b'{');
    if version == Version::V2 {
        out.extend_from_slice(b"\"jsonrpc\":\"2.0\",");
    }
    match outcome {
        Ok(result) => {
            out.extend_from_slice(b"\"result\":");
            out.extend_from_slice(result.get().as_bytes());
            if version == Version::V1 {
                out.extend_from_slice(b",\"error\":null");
            }
        }
        Err(error) => {
            if version == Version::V1 {
                out.extend_from_slice(b"\"result\":null,");
            }
            out.extend_from_slice(b"\"error\":");
            serde_json::to_writer(&mut *out, error).expect("a number and a string are always JSON");
        }
    }
    match (id, version) {
        (Some(id), _) => {
            out.extend_from_slice(b",\"id\":");
            out.extend_from_slice(id.as_bytes());
        }
        // What has no id is answered only when it is refused as no request at all: 2.0 wants a null then.
        (None, Version::V2) => out.extend_from_slice(b",\"id\":null"),
        (None, Version::V1) => {}
    }
    out.push(b'}');
}

/// HTTP status of the reply to a single request.
pub fn http_status(version: Version, outcome: &Outcome) -> u16 {
    match outcome {
        Ok(_) => 200,
        Err(error) if error.is(ErrorCode::INVALID_REQUEST) => 400,
        Err(_) if version == Version::V2 => 200,
        Err(error) if error.is(ErrorCode::METHOD_NOT_FOUND) => 404,
        Err(_) => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version, id, and method with params or the error.
    type Read = (Version, Option<String>, Result<(String, Option<String>), String>);

    fn single(body: &str) -> Read {
        match parse(body.as_bytes()).unwrap() {
            Request::Single(entry) => (
                entry.version,
                entry.id.map(|id| id.get().to_owned()),
                entry
                    .call
                    .map(|call| (call.method, call.params.map(|params| params.get().to_owned())))
                    .map_err(|error| format!("{} {}", error.code, error.message)),
            ),
            Request::Batch(_) => panic!("a batch"),
        }
    }

    #[test]
    fn versions_ids_and_params_are_read_as_core_reads_them() {
        let ok = |params: Option<&str>| Ok(("m".to_owned(), params.map(str::to_owned)));
        let id = |text: &str| Some(text.to_owned());
        let rows = [
            (r#"{"method":"m","params":[1],"id":1}"#, (Version::V1, id("1"), ok(Some("[1]")))),
            (r#" {"version":"1.1","method":"m","id":-1.5}"#, (Version::V1, id("-1.5"), ok(None))),
            (r#"{"jsonrpc":"1.0","method":"m","params":null}"#, (Version::V1, None, ok(None))),
            (r#"{"jsonrpc":null,"method":"m","id":null}"#, (Version::V1, id("null"), ok(None))),
            (
                r#"{"jsonrpc":"2.0","method":"m","params":{ },"id":{"a":[1]}}"#,
                (Version::V2, id(r#"{"a":[1]}"#), ok(Some("{ }"))),
            ),
            (r#"{"jsonrpc":"2.0","method":"\u006d"}"#, (Version::V2, None, ok(None))),
            (
                r#"{"jsonrpc":"3.0","method":"m","id":7}"#,
                (Version::V1, id("7"), Err("-32600 JSON-RPC version not supported".to_owned())),
            ),
            (
                r#"{"jsonrpc":2,"method":"m"}"#,
                (Version::V1, None, Err("-32600 jsonrpc field must be a string".to_owned())),
            ),
            (r#"{"jsonrpc":"2.0","id":"x"}"#, (Version::V2, id("\"x\""), Err("-32600 Missing method".to_owned()))),
            (
                r#"{"method":7,"id":1e400}"#,
                (Version::V1, id("1e400"), Err("-32600 Method must be a string".to_owned())),
            ),
            (
                r#"{"method":"m","params":"x"}"#,
                (Version::V1, None, Err("-32600 Params must be an array or object".to_owned())),
            ),
            (r#"{"method":"m","method":"n","extra":{"method":"o"}}"#, (Version::V1, None, ok(None))),
            (r#"{}"#, (Version::V1, None, Err("-32600 Missing method".to_owned()))),
        ];
        for (body, expected) in rows {
            assert_eq!(single(body), expected, "{body}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused_whole() {
        for body in ["", "{", "[", "[1", "{}}", "[]x", "nonsense", "{\"a\":}", "\u{feff}{}"] {
            assert_eq!(parse(body.as_bytes()).unwrap_err().message, "Parse error", "{body}");
        }
        assert!(parse(b"{\"method\":\"\xff\"}").is_err());
        for body in ["7", "null", "\"x\"", "true"] {
            assert_eq!(parse(body.as_bytes()).unwrap_err().message, "Top-level object parse error", "{body}");
        }
        // Nesting costs no stack.
        let deep = format!("{{\"method\":\"m\",\"params\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert!(parse(deep.as_bytes()).is_err() || matches!(parse(deep.as_bytes()), Ok(Request::Single(_))));
    }

    /// RW5.
    #[test]
    fn a_batch_of_a_million_items_is_refused_unread() {
        let body = format!("[{}1]", "{},".repeat(1_000_000));
        let error = parse(body.as_bytes()).unwrap_err();
        assert!(error.is(ErrorCode::INVALID_REQUEST), "{error:?}");
        let fits = format!("[{}1]", "{},".repeat(BATCH_CALLS_MAX - 1));
        let Ok(Request::Batch(entries)) = parse(fits.as_bytes()) else { panic!("refused") };
        assert_eq!(entries.len(), BATCH_CALLS_MAX);
        assert_eq!(entries.last().unwrap().call.as_ref().unwrap_err().message, "Invalid Request object");
        let Ok(Request::Batch(entries)) = parse(b" [ ] ") else { panic!("refused") };
        assert!(entries.is_empty());
    }

    #[test]
    fn replies_have_the_shape_of_their_version() {
        let reply = |version, id: Option<&str>, outcome: Outcome| {
            let mut out = Vec::new();
            write_reply(&mut out, version, id, &outcome);
            (String::from_utf8(out).unwrap(), http_status(version, &outcome))
        };
        let ok = || Ok(RawValue::from_string("7".to_owned()).unwrap());
        let error = |code| Err(RpcError::new(code, "no \"x\""));
        let expected = (r#"{"result":7,"error":null,"id":-1.5}"#.to_owned(), 200);
        assert_eq!(reply(Version::V1, Some("-1.5"), ok()), expected);
        assert_eq!(reply(Version::V1, None, ok()).0, r#"{"result":7,"error":null}"#);
        assert_eq!(reply(Version::V2, Some("{}"), ok()), (r#"{"jsonrpc":"2.0","result":7,"id":{}}"#.to_owned(), 200));
        let refused = reply(Version::V1, Some("1"), error(ErrorCode::INVALID_PARAMETER));
        assert_eq!(refused, (r#"{"result":null,"error":{"code":-8,"message":"no \"x\""},"id":1}"#.to_owned(), 500));
        assert_eq!(reply(Version::V1, None, error(ErrorCode::METHOD_NOT_FOUND)).1, 404);
        assert_eq!(reply(Version::V1, None, error(ErrorCode::INVALID_REQUEST)).1, 400);
        let refused = reply(Version::V2, None, error(ErrorCode::METHOD_NOT_FOUND));
        assert_eq!(
            refused,
            (r#"{"jsonrpc":"2.0","error":{"code":-32601,"message":"no \"x\""},"id":null}"#.to_owned(), 200)
        );
    }
}
