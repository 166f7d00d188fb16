//! The registry as other formats: an OpenRPC document and a Markdown reference. Pure functions of the rows.

use crate::error::ErrorCode;
use crate::registry::{Category, Method, Presence, methods};
use serde_json::{Value, json};

/// The OpenRPC 1.3 document of the methods that are offered.
pub fn document(version: &str, offered: impl Fn(&Method) -> bool) -> Value {
    let rows: Vec<Value> = methods().filter(|method| offered(method)).map(method_object).collect();
    json!({
        "openrpc": "1.3.2",
        "info": {"title": "Setara node", "version": version},
        "methods": rows,
    })
}

fn method_object(method: &Method) -> Value {
    let params: Vec<Value> = method
        .params
        .iter()
        .map(|param| {
            json!({
                "name": param.name,
                "description": param.doc,
                "required": param.is_required(),
                "schema": param.kind.json_schema(),
            })
        })
        .collect();
    json!({
        "name": method.name,
        "summary": method.doc,
        "tags": [{"name": method.category.title()}],
        "paramStructure": "either",
        "params": params,
        "result": {"name": "result", "schema": method.result.json_schema()},
    })
}

/// The reference for readers: `docs/rpc.md`.
pub fn markdown() -> String {
    let mut text = String::from(HEAD);
    text.push_str("| code | name |\n| --- | --- |\n");
    for (name, code) in ErrorCode::ALL {
        text.push_str(&format!("| {} | {} |\n", code.0, name.to_lowercase().replace('_', " ")));
    }
    for category in Category::ALL {
        text.push_str(&format!("\n## {}\n", category.title()));
        for method in methods().filter(|method| method.category == category) {
            text.push_str(&format!(
                "\n### {}\n\n`{}`  ({})\n\n{}\n",
                method.name,
                method.usage(),
                method.group.name(),
                method.doc
            ));
            if method.fixed_difficulty_only {
                text.push_str("Only on networks whose difficulty is fixed.\n");
            }
            if !method.params.is_empty() {
                text.push_str("\n| argument | type | default | meaning |\n| --- | --- | --- | --- |\n");
            }
            for param in method.params {
                let names = [&[param.name], param.aliases].concat().join(", ");
                let default = match param.presence {
                    Presence::Required => "required",
                    Presence::Optional(default) => default,
                };
                text.push_str(&format!("| {names} | {} | {default} | {} |\n", param.kind.type_name(), param.doc));
            }
            text.push_str("\n```text\n");
            method.result.describe(&mut text, 0);
            text.push_str("```\n");
        }
    }
    text
}

const HEAD: &str = "# JSON-RPC reference

Generated from the method registry in `api/src/registry`; do not edit. `make docs` writes it anew, and a test fails when
it is out of date.

## Calling

- HTTP POST to `/`, JSON-RPC 1.0, 1.1 or 2.0, single or batch (up to 1,000), parameters by position or by name (`args`
  holds leading positional ones). WebSocket at the same address speaks JSON-RPC 2.0.
- Credentials: the cookie file (`DIR/NETWORK/.cookie`, new at each start), `rpcauth` lines as Bitcoin Core's `rpcauth.py`
  makes them, or a user and password. A whitelist names methods or the groups `@read`, `@send`, `@mine`, `@control`.
- A request with an `Origin` header, or whose `Host` is neither an IP address, `localhost` nor a configured name, is
  refused with 403: a web page must not reach the node through a browser.
- JSON-RPC 2.0 answers have HTTP status 200; 1.x answers have 500 for an error, 404 for an unknown method, 400 for a bad
  request. 401 wrong credentials, 403 not allowed, 413 request too large, 503 too many requests are waiting.
- Amounts are numbers of coins with exactly eight decimals, except where a field says sen: parse them as decimals.

## Error codes

";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_every_offered_method() {
        let document = document("1", |method| !method.fixed_difficulty_only);
        let names: Vec<&str> =
            document["methods"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert!(names.contains(&"getblock") && !names.contains(&"setmocktime"));
        assert_eq!(document["methods"][3]["params"][0]["schema"]["type"], "integer");
    }

    /// `UPDATE_DOCS=1` writes it anew.
    #[test]
    fn the_reference_is_up_to_date() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rpc.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, markdown()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == markdown(), "docs/rpc.md is out of date: run `make docs`");
    }
}
