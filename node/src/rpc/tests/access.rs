//! Who is let in and what a caller may cost: RW1 to RW5 and RW8 over real connections.

use super::{DEADLINE, Setup, TestNode, eventually, read_reply};
use crate::config::RpcConfig;
use crate::rpc::server::{HEADER_BYTES_MAX, body_bytes_max};
use base64::Engine;
use serde_json::{Value, json};
use setara_core::network::Network;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

const COUNT: &str = r#"{"method":"getblockcount","id":0}"#;

fn node(change: impl FnOnce(&mut RpcConfig)) -> TestNode {
    let mut setup = Setup::default();
    change(&mut setup.rpc);
    TestNode::start(setup)
}

fn authorization(node: &TestNode) -> String {
    format!("Authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(node.cookie()))
}

/// RW1.
#[test]
fn rpc_web_pages_are_kept_out() {
    let node = node(|_| {});
    let auth = authorization(&node);
    let port = node.address.port();
    let ask = |line: &str, head: &str| {
        let request = format!("{line} HTTP/1.1\r\n{head}{auth}Content-Length: {}\r\n\r\n{COUNT}", COUNT.len());
        node.exchange(request.as_bytes())
    };
    let host = format!("Host: 127.0.0.1:{port}\r\n");
    assert_eq!(ask("POST /", &host).status, 200);
    assert_eq!(ask("POST /", "Host: localhost\r\n").status, 200);
    // DNS rebinding: the page's own name stands in Host. CSRF: the browser adds Origin.
    let refused = [
        ("POST /", format!("Host: evil.example:{port}\r\n")),
        ("POST /", format!("{host}Host: evil.example\r\n")),
        ("POST http://evil.example/", host.clone()),
        ("POST /", format!("{host}Origin: http://evil.example\r\n")),
        ("POST /", format!("{host}Origin: http://127.0.0.1:{port}\r\n")),
        ("POST /", format!("{host}Origin: null\r\nContent-Type: text/plain\r\n")),
        ("OPTIONS /", format!("{host}Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n")),
    ];
    for (line, head) in refused {
        let reply = ask(line, &head);
        assert_eq!((reply.status, reply.body.as_str()), (403, ""), "{line} {head}");
        assert!(!reply.headers.keys().any(|name| name.starts_with("access-control")), "{head}");
    }
    for line in ["GET /", "PUT /", "HEAD /", "OPTIONS /"] {
        assert_eq!(ask(line, &host).status, 405, "{line}");
    }
    for line in ["POST /rest", "POST //", "POST /wallet", "GET /.cookie"] {
        assert_eq!(ask(line, &host).status, 404, "{line}");
    }
}

/// RW2.
#[test]
fn rpc_wrong_credentials_are_refused_slowly_and_empty() {
    let mut node = node(|_| {});
    for credentials in ["", "x", "__cookie__:", "__cookie__:0000", "alice:x"] {
        let start = std::time::Instant::now();
        let reply = node.post(COUNT, Some(credentials), "");
        assert_eq!((reply.status, reply.body.as_str()), (401, ""), "{credentials}");
        assert_eq!(reply.headers["www-authenticate"], "Basic realm=\"jsonrpc\"");
        assert!(start.elapsed() >= Duration::from_millis(250));
    }
    let bare = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{COUNT}", COUNT.len());
    assert_eq!(node.exchange(bare.as_bytes()).status, 401);
    let cookie = node.directory.path().join(".cookie");
    assert!(cookie.exists());
    node.stop();
    assert!(!cookie.exists(), "the cookie outlives its node");
}

/// RW3.
#[test]
fn rpc_a_taken_port_or_an_open_door_stops_the_start() {
    use crate::clock::SystemClock;
    use crate::rpc::{LogControl, RpcServer, StartError};
    let node = node(|_| {});
    let directory = tempfile::tempdir().unwrap();
    let cookie = directory.path().join(".cookie");
    let start = |config: RpcConfig| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let logging = LogControl::new(None, String::new());
        let clock = Arc::new(SystemClock::new());
        runtime.block_on(RpcServer::start(&config, &cookie, &Network::dev(), clock, logging, Default::default())).err()
    };
    let taken = RpcConfig { listen: node.address, ..RpcConfig::loopback() };
    assert!(matches!(start(taken), Some(StartError::Bind { .. })));
    let open = RpcConfig { listen: "0.0.0.0:0".parse().unwrap(), ..RpcConfig::loopback() };
    assert!(matches!(start(open), Some(StartError::Exposed(_))));
    let listed = RpcConfig { whitelist: vec!["alice:getblokcount".parse().unwrap()], ..RpcConfig::loopback() };
    assert!(matches!(start(listed), Some(StartError::Access(_))));
    assert!(!cookie.exists(), "a start that fails leaves its cookie");
    assert_eq!(node.ask("getblockcount", json!([])), 0);
}

/// RW4.
#[test]
fn rpc_oversized_heads_and_bodies_are_refused_unread() {
    let node = node(|_| {});
    let auth = authorization(&node);
    let head = |more: &str| format!("POST / HTTP/1.1\r\nHost: localhost\r\n{auth}{more}\r\n");
    let padding = |bytes: usize| format!("X-Padding: {}\r\n", "x".repeat(bytes));
    let fits = padding(HEADER_BYTES_MAX - 600);
    let request = format!("{}{COUNT}", head(&format!("{fits}Content-Length: {}\r\n", COUNT.len())));
    assert_eq!(node.exchange(request.as_bytes()).status, 200);
    assert_eq!(node.exchange(head(&padding(HEADER_BYTES_MAX)).as_bytes()).status, 431);

    let max = body_bytes_max(&node.network);
    assert_eq!(max, 2 * 4_000_000 + (1 << 20));
    // Told by its length: refused before a byte of it is read.
    let reply = node.exchange(head(&format!("Content-Length: {}\r\n", max + 1)).as_bytes());
    assert_eq!((reply.status, reply.body.as_str()), (413, ""));
    // Not told: refused as it grows.
    let mut stream = node.connect();
    stream.write_all(head("Transfer-Encoding: chunked\r\n").as_bytes()).unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 16, " ".repeat(1 << 16));
    for _ in 0..max / (1 << 16) + 2 {
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    if let Some(reply) = read_reply(&mut stream) {
        assert_eq!(reply.status, 413);
    }
    // One that just fits: blanks are JSON's own padding.
    let body = format!("{COUNT}{}", " ".repeat(max - COUNT.len()));
    assert_eq!(node.post(&body, None, "").json()["result"], 0);
}

/// RW4.
#[test]
fn rpc_smuggled_requests_are_refused() {
    let node = node(|_| {});
    let auth = authorization(&node);
    let heads = [
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
    ];
    for head in heads {
        let request = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{auth}{head}\r\n{COUNT}");
        let mut stream = node.connect();
        stream.write_all(request.as_bytes()).unwrap();
        // Refused, or cut off.
        if let Some(reply) = read_reply(&mut stream) {
            assert!((400..500).contains(&reply.status), "{head} {reply:?}");
        }
    }
    // Pipelined requests are answered in order.
    let one = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{auth}Content-Length: {}\r\n\r\n{COUNT}", COUNT.len());
    let mut stream = node.connect();
    let last = one.replacen("Host", "Connection: close\r\nHost", 1);
    stream.write_all(format!("{one}{one}{last}").as_bytes()).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 3);
}

/// RW4.
#[test]
fn rpc_silent_and_half_sent_connections_are_closed() {
    let node = node(|config| config.timeout = Duration::from_millis(100));
    let auth = authorization(&node);
    let closed = |sent: String| {
        let mut stream = node.connect();
        stream.write_all(sent.as_bytes()).unwrap();
        let mut rest = Vec::new();
        // Until the server closes: the read ends, or fails at the deadline.
        stream.read_to_end(&mut rest).expect("closed in time");
        String::from_utf8(rest).unwrap()
    };
    assert_eq!(closed(String::new()), "");
    closed("POST / HT".to_owned());
    closed("POST / HTTP/1.1\r\nHost: loc".to_owned());
    let half_body = closed(format!("POST / HTTP/1.1\r\nHost: localhost\r\n{auth}Content-Length: 99\r\n\r\n{{"));
    assert!(half_body.starts_with("HTTP/1.1 408"), "{half_body}");
    // After an answer, too: an idle connection is not kept for ever.
    let body = format!("{auth}Content-Length: {}\r\n\r\n{COUNT}", COUNT.len());
    assert!(closed(format!("POST / HTTP/1.1\r\nHost: localhost\r\n{body}")).contains("\"result\":0"));
}

/// RW4. A client that resets in the middle costs the others nothing.
#[test]
fn rpc_resets_in_the_middle_leave_no_trace() {
    let node = node(|_| {});
    let auth = authorization(&node);
    let request = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{auth}Content-Length: {}\r\n\r\n{COUNT}", COUNT.len());
    for cut in 0..request.len() {
        let mut stream = node.connect();
        stream.write_all(&request.as_bytes()[..cut]).unwrap();
    }
    assert_eq!(node.ask("getblockcount", json!([])), 0);
    eventually("calls are left behind", || {
        node.ask("getrpcinfo", json!([]))["active_commands"].as_array().unwrap().len() == 1
    });
}

/// RW5.
#[test]
fn rpc_floods_are_bounded() {
    let node = node(|config| {
        config.threads = 1;
        config.work_queue = 2;
        config.max_connections = 40;
    });
    // A million calls in one request.
    let body = format!("[{}1]", "{},".repeat(1_000_000));
    let reply = node.post(&body, None, "");
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (400, &json!(-32600)));
    let most = format!("[{}]", vec![COUNT; 1_000].join(","));
    assert_eq!(node.post(&most, None, "").json().as_array().unwrap().len(), 1_000);

    // One worker is busy, two requests wait, the next is told so, and quick answers go on.
    let address = node.text(0);
    let slow = json!({"method": "generatetoaddress", "params": [1_000_000, address, 1u64 << 50], "id": 0}).to_string();
    let auth = authorization(&node);
    let send = |body: &str| {
        let mut stream = node.connect();
        let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{auth}Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        stream
    };
    let _busy = send(&slow);
    eventually("the worker takes the call", || node.ask("getblockcount", json!([])).as_u64() > Some(0));
    let waiting = json!({"method": "getdifficulty", "id": 0}).to_string();
    let streams: Vec<_> = (0..10).map(|_| send(&waiting)).collect();
    let mut refused = 0;
    for mut stream in streams {
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        if let Some(reply) = read_reply(&mut stream) {
            assert_eq!((reply.status, reply.body.as_str()), (503, "Work queue depth exceeded"));
            refused += 1;
        }
    }
    assert_eq!(refused, 8);
    assert!(node.ask("getblockcount", json!([])).is_u64());

    // More connections than allowed: the surplus is closed at once, and those that end make room.
    let held: Vec<_> = (0..60).map(|_| node.connect()).collect();
    let mut closed = 0;
    for mut stream in &held {
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        closed += usize::from(matches!(stream.read(&mut [0]), Ok(0)));
    }
    assert!(closed >= 20, "{closed}");
    drop(held);
    eventually("room for new connections", || {
        node.client().call("getblockcount", json!([])).is_ok_and(|count| count.is_u64())
    });
    node.shutdown.cancel();
}

/// RW5. An answer beyond the limit is an error, not a gigabyte.
#[test]
fn rpc_answers_are_bounded() {
    use crate::rpc::dispatch::{RESPONSE_BYTES_MAX, answer};
    let error = answer(&vec!["x".repeat(1 << 20); 70]).unwrap_err();
    assert_eq!(error.code, -7);
    assert_eq!(answer(&"x".repeat(RESPONSE_BYTES_MAX - 2)).unwrap().get().len(), RESPONSE_BYTES_MAX);

    // A batch is one answer: what no longer fits is refused call by call.
    let node = node(|_| {});
    let help = json!({"method": "rpc.discover", "id": 0}).to_string();
    let reply = node.post(&format!("[{}]", vec![help.as_str(); 1_000].join(",")), None, "");
    assert!(reply.body.len() <= RESPONSE_BYTES_MAX + 1_000 * 256, "{}", reply.body.len());
    let replies = reply.json();
    let replies = replies.as_array().unwrap();
    assert_eq!(replies.len(), 1_000);
    assert!(replies[0]["result"].is_object());
}

/// RW8.
#[test]
fn rpc_users_reach_only_what_their_whitelist_names() {
    let alice = "alice:0123456789abcdef0123456789abcdef$\
                 0ad814968caefdecab8a6c0c55414688fdcad02f100ee7ac5def2352aaff36e5";
    let node = node(|config| {
        config.auth = vec![alice.parse().unwrap()];
        config.whitelist = vec!["alice:getblockcount,help".parse().unwrap(), "__cookie__:@read,stop".parse().unwrap()];
    });
    let ask = |body: &str| {
        let reply = node.post(body, Some("alice:secret"), "");
        (reply.status, reply.body)
    };
    assert_eq!(ask(COUNT).0, 200);
    for body in [
        r#"{"method":"getblockhash","params":[0],"id":0}"#,
        r#"{"method":"stop","id":0}"#,
        r#"{"jsonrpc":"2.0","method":"stop"}"#,
        r#"{"method":"nonsense","id":0}"#,
        r#"[{"method":"getblockcount","id":0},{"method":"stop","id":1}]"#,
        r#"[{"method":"getblockcount","id":0},7]"#,
    ] {
        assert_eq!(ask(body), (403, String::new()), "{body}");
    }
    assert_eq!(ask(r#"[{"method":"getblockcount","id":0},{"method":"help","id":1}]"#).0, 200);
    assert!(!node.shutdown.is_cancelled());
    assert_eq!(node.ask("getblockhash", json!([0])), node.network.genesis_hash().to_string());
    assert!(node.client().call("invalidateblock", json!(["00"])).is_err());
}

/// RW8. Methods that name files of the node's machine are for callers with every right; a relative name is one in the
/// network's folder, and nothing that is there is written over.
#[test]
fn rpc_paths_are_for_the_operator_alone() {
    let alice = "alice:0123456789abcdef0123456789abcdef$\
                 0ad814968caefdecab8a6c0c55414688fdcad02f100ee7ac5def2352aaff36e5";
    let node = node(|config| {
        config.auth = vec![alice.parse().unwrap()];
        config.whitelist =
            vec!["alice:@read,@send,@mine".parse().unwrap(), "__cookie__:@read,@mine,@control".parse().unwrap()];
    });
    let outside = node.directory.path().join("outside");
    for method in ["dumptxoutset", "loadtxoutset", "backupnode"] {
        let body = json!({"method": method, "params": [outside], "id": 0}).to_string();
        assert_eq!(node.post(&body, Some("alice:secret"), "").status, 403, "{method}");
    }
    node.ask("generatetoaddress", json!([3, node.text(0)]));
    for path in ["../outside", "a/../../outside", "..", "./.."] {
        for method in ["dumptxoutset", "loadtxoutset"] {
            let (code, message) = node.refused(method, json!([path]));
            assert!(code == -8 && message.contains("stays in"), "{method} {path}: {message}");
        }
    }
    assert_eq!(node.refused("backupnode", json!(["relative"])).0, -8);
    // The cookie lies in that folder: it is neither written over nor shown.
    let cookie = node.cookie();
    assert_eq!(node.refused("dumptxoutset", json!([".cookie"])).0, -8);
    assert!(!node.refused("loadtxoutset", json!([".cookie"])).1.contains(cookie.split_once(':').unwrap().1));
    assert_eq!(node.cookie(), cookie);
    assert!(!outside.exists());
    // From the root any name will do, as with Bitcoin Core.
    assert_eq!(node.ask("dumptxoutset", json!([outside]))["base_height"], 2);
    assert!(outside.exists());
    assert_eq!(node.refused("dumptxoutset", json!([outside])).0, -8);
}

/// RW8. What only private networks need is refused, by name, where difficulty moves.
#[test]
fn rpc_debug_methods_are_off_where_money_is_real() {
    let setup = Setup { network: Arc::new(Network::main()), ..Setup::default() };
    let node = TestNode::start(setup);
    for method in ["generatetoaddress", "generateblock", "setmocktime"] {
        let (code, message) = node.refused(method, json!([]));
        assert_eq!(code, -32601);
        assert!(message.starts_with(method), "{message}");
        assert_eq!(node.ask("help", json!([method])), json!(format!("help: unknown command: {method}\n")));
    }
    let all = node.ask("help", json!([]));
    assert!(!all.as_str().unwrap().contains("Generating"));
    assert_eq!(node.ask("getblockchaininfo", json!([]))["chain"], "main");
}

/// `stop` answers first, then the node is told.
#[test]
fn rpc_stop_answers_and_stops() {
    let mut node = node(|_| {});
    assert_eq!(node.ask("stop", Value::Null), "Setara node stopping");
    assert!(node.shutdown.is_cancelled());
    // Nothing that reaches the chain or the mempool is taken any more.
    let refused = node.client().call("getblockcount", json!([])).unwrap_err();
    assert!(refused.is_rpc(setara_api::error::ErrorCode::LIMIT_EXCEEDED), "{refused}");
    let start = std::time::Instant::now();
    node.stop();
    assert!(start.elapsed() < DEADLINE);
    assert!(std::net::TcpStream::connect(node.address).is_err());
}
