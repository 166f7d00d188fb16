//! The client against servers that lie, stall, restart or refuse.

use super::*;
use std::io::Write;
use std::net::{TcpListener, TcpStream};

/// Reads one HTTP request; its head and body.
fn read_request(stream: &mut TcpStream) -> (String, String) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "the client hung up");
        bytes.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.to_lowercase().split_once("content-length: ").unwrap().1.to_owned();
        if body.len() >= length.lines().next().unwrap().trim().parse::<usize>().unwrap() {
            return (head.to_owned(), body.to_owned());
        }
    }
}

type Answer = Box<dyn Fn(&str, &str) -> String + Send>;

/// A server that gives each connection's one request to `answer` and sends back what that returns.
fn server(answers: Vec<Answer>) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let (head, body) = read_request(&mut stream);
            // The client may stop reading early; then writing fails, as it should.
            let _ = stream.write_all(answer(&head, &body).as_bytes());
        }
    });
    (url, thread)
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn ask(answer: &'static str) -> Result<Value, ClientError> {
    let (url, thread) = server(vec![Box::new(move |_, _| http("200 OK", answer))]);
    let result = Client::new(&url, Auth::None).unwrap().call("getblockcount", json!([]));
    thread.join().unwrap();
    result
}

#[test]
fn answers_are_believed_only_if_they_fit_the_question() {
    assert_eq!(ask(r#"{"jsonrpc":"2.0","result":7,"id":0}"#).unwrap(), json!(7));
    assert_eq!(ask(r#"{"jsonrpc":"2.0","result":null,"id":0}"#).unwrap(), Value::Null);
    let error = ask(r#"{"jsonrpc":"2.0","error":{"code":-28,"message":"Loading"},"id":0}"#).unwrap_err();
    assert!(error.is_rpc(ErrorCode::WARM_UP) && error.is_transient());
    let nonsense = [
        "",
        "null",
        "[]",
        r#"{"jsonrpc":"2.0","result":7,"id":1}"#,
        r#"{"jsonrpc":"2.0","result":7,"id":"0"}"#,
        r#"{"result":7,"error":null,"id":0}"#,
        r#"{"jsonrpc":"2.0","result":7,"error":{"code":1,"message":""},"id":0}"#,
        r#"{"jsonrpc":"2.0","error":{"code":"x","message":""},"id":0}"#,
        r#"{"jsonrpc":"2.0","result":7,"id":0}{"#,
    ];
    for answer in nonsense {
        assert!(matches!(ask(answer), Err(ClientError::Malformed(_))), "{answer}");
    }
}

#[test]
fn batches_are_matched_by_id() {
    let batch = |answer: &'static str| {
        let (url, thread) = server(vec![Box::new(move |_, _| http("200 OK", answer))]);
        let client = Client::new(&url, Auth::None).unwrap();
        let result = client.batch(&[("a", json!([])), ("b", json!([]))]);
        thread.join().unwrap();
        result
    };
    let mixed =
        batch(r#"[{"jsonrpc":"2.0","error":{"code":-5,"message":"no"},"id":1},{"jsonrpc":"2.0","result":"x","id":0}]"#)
            .unwrap();
    assert_eq!(mixed[0].as_ref().unwrap(), "x");
    assert!(mixed[1].as_ref().unwrap_err().is_rpc(ErrorCode::INVALID_ADDRESS_OR_KEY));
    for answer in [
        r#"[{"jsonrpc":"2.0","result":1,"id":0}]"#,
        r#"[{"jsonrpc":"2.0","result":1,"id":0},{"jsonrpc":"2.0","result":1,"id":2}]"#,
    ] {
        assert!(matches!(batch(answer), Err(ClientError::Malformed(_))), "{answer}");
    }
    let refused = batch(r#"{"result":null,"error":{"code":-32600,"message":"too many"},"id":null}"#);
    assert!(refused.unwrap_err().is_rpc(ErrorCode::INVALID_REQUEST));
}

#[test]
fn a_long_answer_is_cut_and_a_slow_one_abandoned() {
    let flood = Box::new(|_: &str, _: &str| http("200 OK", &"9".repeat(100_000)));
    let (url, thread) = server(vec![flood]);
    let client = Client::new(&url, Auth::None).unwrap().with_response_limit(1000);
    assert!(matches!(client.call("x", json!([])), Err(ClientError::Malformed(reason)) if reason.contains("1000")));
    thread.join().unwrap();

    // Accepts (the kernel does) and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = listener.local_addr().unwrap().to_string();
    let client = Client::new(&url, Auth::None).unwrap().with_timeout(Duration::from_millis(50));
    assert!(matches!(client.call("x", json!([])), Err(ClientError::Unreachable { .. })));
}

#[test]
fn the_cookie_is_read_again_after_a_restart() {
    let directory = std::env::temp_dir().join(format!("setara-api-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(".cookie");
    std::fs::write(&path, "__cookie__:old").unwrap();
    let new = path.clone();
    let (url, thread) = server(vec![
        Box::new(move |head, _| {
            assert!(head.contains(&basic("__cookie__:old")), "{head}");
            std::fs::write(&new, "__cookie__:new\n").unwrap();
            http("401 Unauthorized", "")
        }),
        Box::new(|head, _| {
            assert!(head.contains(&basic("__cookie__:new")), "{head}");
            http("200 OK", r#"{"jsonrpc":"2.0","result":7,"id":0}"#)
        }),
        Box::new(|_, _| http("401 Unauthorized", "")),
        Box::new(|_, _| http("401 Unauthorized", "")),
        Box::new(|_, _| http("503 Service Unavailable", "Work queue depth exceeded")),
        // Credentials never follow a redirect.
        Box::new(|_, _| http("307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/", "")),
    ]);
    let client = Client::new(&url, Auth::Cookie(path)).unwrap();
    assert_eq!(client.get_block_count().unwrap(), 7);
    assert!(matches!(client.get_block_count(), Err(ClientError::Auth(_))));
    assert!(matches!(client.get_block_count(), Err(ClientError::Busy)));
    assert!(matches!(client.get_block_count(), Err(ClientError::Malformed(_) | ClientError::Unreachable { .. })));
    thread.join().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(matches!(
        Client::new("127.0.0.1:1", Auth::Cookie(directory.join("none"))).unwrap().get_block_count(),
        Err(ClientError::NoCookie { .. })
    ));
    let refused = Client::new("127.0.0.1:1", Auth::None).unwrap().get_block_count();
    assert!(matches!(refused, Err(ClientError::Unreachable { .. })));
}

/// Each in its own words: who reads them must know what to do about it.
#[test]
fn no_node_wrong_credentials_and_no_right_are_told_apart() {
    let (url, thread) =
        server(vec![Box::new(|_, _| http("401 Unauthorized", "")), Box::new(|_, _| http("403 Forbidden", ""))]);
    let auth = Auth::UserPass("a".to_owned(), "b".to_owned());
    let client = Client::new(&url, auth).unwrap();
    let [wrong, forbidden] = [(); 2].map(|()| client.get_block_count().unwrap_err());
    thread.join().unwrap();
    assert!(matches!(wrong, ClientError::Auth(_)) && wrong.to_string().contains("wrong user, password"), "{wrong}");
    assert!(matches!(forbidden, ClientError::Forbidden), "{forbidden}");
    for (word, told) in [("403", true), ("whitelist", true), ("credentials", false), ("running", false)] {
        assert_eq!(forbidden.to_string().contains(word), told, "{word}: {forbidden}");
    }
    let cookie = PathBuf::from("/nowhere/.cookie");
    let missing = Client::new(&url, Auth::Cookie(cookie)).unwrap().get_block_count().unwrap_err().to_string();
    assert!(missing.contains("no node runs here") && missing.contains("/nowhere/.cookie"), "{missing}");
    assert!(!missing.contains("credentials"), "{missing}");
    let folder = Client::new(&url, Auth::Cookie(std::env::temp_dir())).unwrap().get_block_count().unwrap_err();
    assert!(folder.to_string().contains("cannot read the cookie"), "{folder}");
}

#[test]
fn addresses_are_checked() {
    for url in ["https://127.0.0.1:1", "ftp://x:1", "127.0.0.1", "http://a:b@c:1", "http://:1", "http://x:0", ""] {
        assert!(matches!(Client::new(url, Auth::None), Err(ClientError::BadUrl { .. })), "{url}");
    }
    assert_eq!(Client::new("[::1]:19721", Auth::None).unwrap().url(), "http://[::1]:19721/");
}
