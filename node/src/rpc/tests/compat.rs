//! What existing clients send and need, row by row: versions, ids, notifications, batches, status codes, headers.

use super::{Setup, TestNode};
use serde_json::{Value, json};

/// One request to a node at genesis: status and body.
fn row(node: &TestNode, body: &str) -> (u16, Value) {
    let reply = node.post(body, None, "");
    if reply.body.is_empty() {
        return (reply.status, Value::Null);
    }
    // Exactly this header and a newline at the end: some clients compare.
    assert_eq!(reply.headers["content-type"], "application/json", "{body}");
    assert!(reply.body.ends_with("}\n") || reply.body.ends_with("]\n"), "{body}");
    (reply.status, reply.json())
}

#[test]
fn rpc_versions_answer_as_core_does() {
    let node = TestNode::start(Setup::default());
    let rows = [
        // python-bitcoinrpc, python-bitcoinlib
        (
            r#"{"version":"1.1","method":"getblockcount","params":[],"id":1}"#,
            200,
            json!({"result": 0, "error": null, "id": 1}),
        ),
        // npm bitcoin-core, curl examples
        (r#"{"method":"getblockcount","id":"1700-0"}"#, 200, json!({"result": 0, "error": null, "id": "1700-0"})),
        (
            r#"{"jsonrpc":"1.0","id":-1.5,"method":"getblockcount"}"#,
            200,
            json!({"result": 0, "error": null, "id": -1.5}),
        ),
        (r#"{"method":"getblockcount"}"#, 200, json!({"result": 0, "error": null})),
        // corepc sends null params; bitcoin-cli a string id
        (
            r#"{"jsonrpc":"2.0","method":"getblockcount","params":null,"id":{"a":1}}"#,
            200,
            json!({"jsonrpc": "2.0", "result": 0, "id": {"a": 1}}),
        ),
        (
            r#"{"jsonrpc":"2.0","method":"getblockhash","params":{"height":5},"id":"1"}"#,
            200,
            json!({"jsonrpc": "2.0", "error": {"code": -8, "message": "Block height out of range"}, "id": "1"}),
        ),
        (
            r#"{"method":"getblockhash","params":[5],"id":0}"#,
            500,
            json!({"result": null, "error": {"code": -8, "message": "Block height out of range"}, "id": 0}),
        ),
        (
            r#"{"method":"getblockcnt","params":[],"id":0}"#,
            404,
            json!({"result": null, "error": {"code": -32601, "message": "Method not found; did you mean getblockcount?"}, "id": 0}),
        ),
        (
            r#"{"jsonrpc":"2.0","method":"nonsense here","id":0}"#,
            200,
            json!({"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": 0}),
        ),
        (
            r#"{"jsonrpc":"2.1","method":"getblockcount","id":0}"#,
            400,
            json!({"result": null, "error": {"code": -32600, "message": "JSON-RPC version not supported"}, "id": 0}),
        ),
        (
            r#"{"params":[],"id":0}"#,
            400,
            json!({"result": null, "error": {"code": -32600, "message": "Missing method"}, "id": 0}),
        ),
        ("{", 500, json!({"result": null, "error": {"code": -32700, "message": "Parse error"}, "id": null})),
        (
            "7",
            500,
            json!({"result": null, "error": {"code": -32700, "message": "Top-level object parse error"}, "id": null}),
        ),
        // Named parameters, leading positional ones, an unknown name.
        (
            r#"{"method":"getblockhash","params":{"args":[9]},"id":0}"#,
            500,
            json!({"result": null, "error": {"code": -8, "message": "Block height out of range"}, "id": 0}),
        ),
        (
            r#"{"method":"getblockhash","params":{"heigt":0},"id":0}"#,
            500,
            json!({"result": null, "error": {"code": -8, "message": "Unknown named parameter heigt"}, "id": 0}),
        ),
    ];
    for (body, status, expected) in rows {
        assert_eq!(row(&node, body), (status, expected), "{body}");
    }
    let (status, reply) = row(&node, r#"{"method":"getblockhash","params":[],"id":0}"#);
    assert_eq!((status, &reply["error"]["code"]), (500, &json!(-1)));
    assert!(reply["error"]["message"].as_str().unwrap().starts_with("getblockhash height\n"));
    let (status, reply) = row(&node, r#"{"method":"getblockhash","params":["0"],"id":0}"#);
    assert_eq!((status, &reply["error"]["code"]), (500, &json!(-3)));
}

#[test]
fn rpc_notifications_are_executed_and_not_answered() {
    let node = TestNode::start(Setup::default());
    let body = json!({"jsonrpc": "2.0", "method": "generatetoaddress", "params": [1, node.text(0)]}).to_string();
    assert_eq!(row(&node, &body), (204, Value::Null));
    assert_eq!(node.ask("getblockcount", json!([])), 1);
    // A failing one, too, and one of an unknown method.
    assert_eq!(row(&node, r#"{"jsonrpc":"2.0","method":"getblockhash","params":[99]}"#), (204, Value::Null));
    assert_eq!(row(&node, r#"{"jsonrpc":"2.0","method":"nonsense"}"#), (204, Value::Null));
}

#[test]
fn rpc_batches_mix_versions_and_keep_order() {
    let node = TestNode::start(Setup::default());
    assert_eq!(row(&node, "[]"), (200, json!([])));
    assert_eq!(row(&node, r#"[{"jsonrpc":"2.0","method":"getblockcount"}]"#), (204, Value::Null));
    let body = r#"[
        {"method":"getblockcount","id":"a"},
        {"jsonrpc":"2.0","method":"getblockcount"},
        {"jsonrpc":"2.0","method":"getblockhash","params":[1],"id":[1]},
        7,
        {"jsonrpc":"2.0","method":"getblocktemplate","params":[{"longpollid":"x"}],"id":2},
        {"method":"help","params":["nonsense"]}
    ]"#;
    let (status, reply) = row(&node, body);
    assert_eq!(status, 200);
    let expected = json!([
        {"result": 0, "error": null, "id": "a"},
        {"jsonrpc": "2.0", "error": {"code": -8, "message": "Block height out of range"}, "id": [1]},
        {"result": null, "error": {"code": -32600, "message": "Invalid Request object"}, "id": null},
        {"jsonrpc": "2.0", "error": {"code": -8, "message": "Invalid longpollid"}, "id": 2},
        {"result": "help: unknown command: nonsense\n", "error": null},
    ]);
    assert_eq!(reply, expected);
}

#[test]
fn rpc_takes_any_content_type_and_keeps_connections() {
    use std::io::Write;
    let node = TestNode::start(Setup::default());
    let body = r#"{"method":"getblockcount","id":0}"#;
    for header in ["", "Content-Type: text/plain;\r\n", "Content-Type: application/json; charset=utf-8\r\n"] {
        assert_eq!(node.post(body, None, header).status, 200, "{header}");
    }
    // A URL of a wallet is Core's way to name one; here there are none, but clients send it.
    use base64::Engine;
    let credentials = base64::engine::general_purpose::STANDARD.encode(node.cookie());
    let mut stream = node.connect();
    for path in ["/", "/wallet/x", "/"] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {credentials}\r\n");
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        assert_eq!(super::read_reply(&mut stream).unwrap().status, 200, "{path}");
    }
    // Chunked, as some clients send it.
    let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {credentials}\r\n");
    let chunks = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    assert_eq!(node.exchange(format!("{head}{chunks}").as_bytes()).json()["result"], 0);
}

#[test]
fn rpc_answers_while_loading() {
    let mut node = TestNode::loading(Setup::default());
    node.server().loading("Verifying blocks… 12 %");
    let (status, reply) = row(&node, r#"{"method":"getblockcount","id":0}"#);
    assert_eq!(status, 500);
    assert_eq!(reply["error"], json!({"code": -28, "message": "Verifying blocks… 12 %"}));
    assert_eq!(node.refused("getblocktemplate", json!([])).0, -28);
    // What needs no chain is answered all the same.
    assert!(node.ask("help", json!([])).as_str().unwrap().contains("== Blockchain =="));
    assert_eq!(node.ask("getrpcinfo", json!([]))["active_commands"][0]["method"], "getrpcinfo");
    node.finish_loading();
    assert_eq!(node.ask("getblockcount", json!([])), 0);
}

#[test]
fn rpc_websocket_speaks_json_rpc_2() {
    use base64::Engine;
    use std::io::{Read, Write};
    let node = TestNode::start(Setup::default());
    let credentials = base64::engine::general_purpose::STANDARD.encode(node.cookie());
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let head = format!("GET / HTTP/1.1\r\nHost: {}\r\n{upgrade}", node.address);
    assert_eq!(node.exchange(format!("{head}\r\n").as_bytes()).status, 401);
    let head = format!("{head}Authorization: Basic {credentials}\r\n");
    assert_eq!(node.exchange(format!("{head}Origin: http://127.0.0.1\r\n\r\n").as_bytes()).status, 403);

    let mut stream = node.connect();
    write!(stream, "{head}\r\n").unwrap();
    assert_eq!(super::read_reply(&mut stream).unwrap().status, 101);
    // One masked text frame (mask 0) and one short text frame back.
    let mut ask = |body: &str| -> Value {
        let mut frame = vec![0x81, 0x80 | u8::try_from(body.len()).unwrap(), 0, 0, 0, 0];
        frame.extend_from_slice(body.as_bytes());
        stream.write_all(&frame).unwrap();
        loop {
            let mut head = [0; 2];
            stream.read_exact(&mut head).unwrap();
            let mut body = vec![0; usize::from(head[1])];
            stream.read_exact(&mut body).unwrap();
            // Pings come in between.
            if head[0] == 0x81 {
                return serde_json::from_slice(&body).unwrap();
            }
            assert_eq!(head[0], 0x89);
        }
    };
    let reply = ask(r#"{"jsonrpc":"2.0","method":"getblockcount","id":7}"#);
    assert_eq!(reply, json!({"jsonrpc": "2.0", "id": 7, "result": 0}));
    let reply = ask(r#"{"jsonrpc":"2.0","method":"getblockhash","params":[9],"id":"x"}"#);
    assert_eq!(reply["error"]["code"], -8);
}
