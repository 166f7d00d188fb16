//! `setara-node call`: one JSON-RPC call to a running node, as `bitcoin-cli` makes it.
//!
//! The node is found by its data directory: `endpoints.json` says where it listens, the cookie opens it. Prints texts as
//! they are and everything else as JSON; exits with the error's code modulo 256 as `bitcoin-cli` does, 1 if the node
//! cannot be reached.

use crate::config::Config;
use crate::datadir::read_endpoints;
use serde_json::Value;
use setara_api::client::{Auth, Client, ClientError};
use setara_api::registry::{self, Kind};
use std::io::{self, Write};

/// A method and its arguments as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The method.
    pub method: String,
    /// Its parameters by position.
    pub params: Vec<String>,
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The node says no, or nothing.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// An argument cannot be what the method takes.
    #[error("{name}: expected {expected}, as JSON")]
    Argument {
        /// The parameter.
        name: &'static str,
        /// Its type.
        expected: String,
    },
    /// The result cannot be printed.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

impl CallError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            // `bitcoin-cli`: the absolute value, of which the system keeps eight bits; 0 would mean success.
            Self::Client(ClientError::Rpc { code, .. }) => u8::try_from(code.unsigned_abs() % 256).unwrap_or(1).max(1),
            Self::Client(_) | Self::Argument { .. } | Self::Output(_) => 1,
        }
    }
}

/// Makes the call and prints its result to `out`.
pub fn run(config: &Config, call: &Call, out: &mut dyn Write) -> Result<(), CallError> {
    let params = arguments(call)?;
    let folder = config.data_dir.join(&config.network.name);
    let listen = read_endpoints(&folder).map_or(config.rpc.listen, |endpoints| endpoints.rpc);
    let auth = match &config.rpc.user {
        Some(user) => Auth::UserPass(user.user.clone(), user.password.clone()),
        None => Auth::Cookie(folder.join(".cookie")),
    };
    let result = Client::new(&format!("http://{listen}"), auth)?.call(&call.method, Value::Array(params))?;
    match result {
        Value::Null => Ok(()),
        Value::String(text) => Ok(writeln!(out, "{}", printable(&text))?),
        other => Ok(writeln!(out, "{other:#}")?),
    }
}

/// A node's text without what could steer a terminal; lines stay lines.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control() || *character == '\n').collect()
}

/// The arguments as JSON: texts where the method takes texts, JSON where it takes anything else.
fn arguments(call: &Call) -> Result<Vec<Value>, CallError> {
    let known = registry::method(&call.method).map_or(&[][..], |method| method.params);
    let kinds = known.iter().map(Some).chain(std::iter::repeat(None));
    let convert = |(text, param): (&String, Option<&registry::Param>)| {
        let json = serde_json::from_str::<Value>(text);
        match param {
            Some(param) if matches!(param.kind, Kind::Text | Kind::Hex | Kind::Hash) => Ok(Value::String(text.clone())),
            Some(param) if !matches!(param.kind, Kind::Any | Kind::OneOf(_)) => {
                json.map_err(|_| CallError::Argument { name: param.name, expected: param.kind.type_name() })
            }
            _ => Ok(json.unwrap_or_else(|_| Value::String(text.clone()))),
        }
    };
    call.params.iter().zip(kinds).map(convert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn converted(line: &str) -> Result<Vec<Value>, String> {
        let mut words = line.split_whitespace().map(str::to_owned);
        let call = Call { method: words.next().unwrap(), params: words.collect() };
        arguments(&call).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_become_what_the_method_takes() {
        let hash = "1".repeat(64);
        assert_eq!(converted(&format!("getblock {hash} 2")), Ok(vec![json!(hash), json!(2)]));
        assert_eq!(converted("getblockhash 5"), Ok(vec![json!(5)]));
        assert_eq!(converted("getblockhash five"), Err("height: expected numeric, as JSON".to_owned()));
        assert_eq!(converted("validateaddress 123"), Ok(vec![json!("123")]));
        assert_eq!(converted("unheard-of 5 [1] x"), Ok(vec![json!(5), json!([1]), json!("x")]));
    }

    #[test]
    fn exit_codes_are_those_of_bitcoin_cli() {
        let code = |code| CallError::Client(ClientError::Rpc { code, message: String::new() }).exit_code();
        assert_eq!([code(-8), code(-32601), code(-28), code(256), code(i64::MIN)], [8, 89, 28, 1, 1]);
        assert_eq!(CallError::Client(ClientError::Busy).exit_code(), 1);
    }

    #[test]
    fn texts_cannot_steer_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{9b}"), "a[2Jb\nc");
    }
}
