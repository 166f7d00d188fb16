//! UPnP against a router that is honest, refuses, or is hostile (TH12).

use super::*;
use crate::p2p::shell::nat::upnp::{Service, find};
use fake::{FakeIgd, Reply};

const KIND: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";

fn found_at(url: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nLOCATION: {url}\r\n\r\n").into_bytes()
}

fn found(at: SocketAddr) -> Vec<Vec<u8>> {
    vec![found_at(&format!("http://{at}/d/root.xml"))]
}

/// A description whose service is controlled there.
fn described(control: &str) -> Reply {
    let service = |kind: &str, control: &str| {
        format!("<service><serviceType>{kind}</serviceType><controlURL>{control}</controlURL></service>")
    };
    let (other, ours) = (service("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/l3f"), service(KIND, control));
    Reply::of(
        200,
        &format!(
            "<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device><serviceList>{other}\
             </serviceList><deviceList><device><serviceList>{ours}</serviceList></device></deviceList></device></root>"
        ),
    )
}

fn soap(action: &str, inside: &str) -> Reply {
    Reply::of(
        200,
        &format!(
            "<s:Envelope><s:Body><u:{action}Response xmlns:u=\"{KIND}\">{inside}</u:{action}Response></s:Body></s:Envelope>"
        ),
    )
}

fn refused(code: u16) -> Reply {
    let fault = format!("<s:Fault><detail><UPnPError><errorCode>{code}</errorCode></UPnPError></detail></s:Fault>");
    Reply::of(500, &format!("<s:Envelope><s:Body>{fault}</s:Body></s:Envelope>"))
}

/// What an honest router says, except to `AddPortMapping`, for which there is `add`.
fn honest(request: &str, add: impl Fn(&str) -> Reply) -> Reply {
    let action = |name: &str| request.contains(&format!("{KIND}#{name}\""));
    if request.starts_with("GET /d/root.xml ") {
        described("ctl/IPConn?a=1&amp;b=2")
    } else if !request.starts_with("POST /d/ctl/IPConn?a=1&b=2 ") {
        Reply::of(404, "")
    } else if action("GetExternalIPAddress") {
        soap("GetExternalIPAddress", &format!("<NewExternalIPAddress>{OUTSIDE}</NewExternalIPAddress>"))
    } else if action("DeletePortMapping") {
        soap("DeletePortMapping", "")
    } else {
        add(request)
    }
}

fn value<'a>(request: &'a str, name: &str) -> &'a str {
    crate::p2p::shell::nat::xml::text_of(request, name).unwrap_or_else(|| panic!("{name}: {request}"))
}

#[tokio::test]
async fn a_mapping_by_upnp_is_told_and_ended() {
    let fake = FakeIgd::new(found, |_, request| honest(request, |_| soap("AddPortMapping", ""))).await;
    let mut kept = Kept::start(wish(false), fake.router());
    assert_eq!(kept.told().await, outside(PORT.get()));
    kept.stop().await;
    let requests = fake.requests();
    let (add, end) = (&requests[requests.len() - 2], &requests[requests.len() - 1]);
    let port = PORT.to_string();
    let expected = [
        ("NewExternalPort", port.as_str()),
        ("NewProtocol", "TCP"),
        ("NewInternalPort", &port),
        ("NewInternalClient", "127.0.0.1"),
        ("NewEnabled", "1"),
        ("NewPortMappingDescription", "Setara"),
        ("NewLeaseDuration", "1200"),
    ];
    for (name, expected) in expected {
        assert_eq!(value(add, name), expected, "{name}");
    }
    assert!(end.contains("DeletePortMapping"), "{end}");
    assert_eq!(value(end, "NewExternalPort"), port);
}

async fn service(fake: &FakeIgd) -> Result<Service, String> {
    find(&fake.router()).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn another_port_is_taken_and_a_lease_without_end_where_the_router_must() {
    let own = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT.get());
    let taken = FakeIgd::new(found, |_, request| {
        honest(request, |add| match value(add, "NewExternalPort") {
            "19740" => refused(718),
            _ => soap("AddPortMapping", ""),
        })
    });
    let taken = taken.await;
    let external = service(&taken).await.unwrap().map(own, PORT.get()).await.unwrap();
    assert!(external.port() >= 49_152, "{external}");
    let permanent = FakeIgd::new(found, |_, request| {
        honest(request, |add| match value(add, "NewLeaseDuration") {
            "0" => soap("AddPortMapping", ""),
            _ => refused(725),
        })
    });
    let permanent = permanent.await;
    let external = service(&permanent).await.unwrap().map(own, PORT.get()).await.unwrap();
    assert_eq!(external, SocketAddrV4::new(OUTSIDE, PORT.get()));
    for (code, calls) in [(718, 4), (725, 2), (606, 1)] {
        let stubborn = FakeIgd::new(found, move |_, request| honest(request, |_| refused(code))).await;
        let error = service(&stubborn).await.unwrap().map(own, PORT.get()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("the router refuses with UPnP error {code}"));
        let adds = stubborn.requests().iter().filter(|request| request.contains("AddPortMapping")).count();
        assert_eq!(adds, calls, "{code}: it is not asked for ever");
    }
}

/// TH12. A router that is found but answers the description, or a call, with something else.
#[tokio::test]
async fn th12_upnp_answers_that_are_wrong_are_errors_with_a_name() {
    let many: String = (0..1_000).map(|number| format!(" xmlns:n{number}=\"u\"")).collect();
    let endless = |head: &str| Reply::Endless(head.to_owned(), "<service><serviceType>x</serviceType></service>");
    let rows: Vec<(Reply, &str)> = vec![
        (Reply::of(404, ""), "HTTP status 404"),
        (
            Reply::Bytes("HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".into()),
            "HTTP status 302",
        ),
        (Reply::of(200, ""), "names no service"),
        (
            Reply::of(200, "<service><serviceType>x</serviceType><controlURL>/c</controlURL></service>"),
            "names no service",
        ),
        (Reply::of(200, &format!("<a{many}>{}</a>", "<b/>".repeat(10_000))), "names no service"),
        (described("http://127.0.0.1:1/c"), "not its own"),
        (described("http://user@router/c"), "not its own"),
        (described("https://127.0.0.1/c"), "not its own"),
        (described("/with space"), "not its own"),
        (described(&format!("/{}", "x".repeat(600))), "not its own"),
        (Reply::of(200, "<URLBase>http://127.0.0.1:1/</URLBase>"), "not its own"),
        (endless("HTTP/1.1 200 x\r\n\r\n"), "more than 65536 bytes"),
        (endless("HTTP/1.1 200 x\r\nContent-Length: 9999999999\r\n\r\n"), "more than 65536 bytes"),
        (Reply::Endless("HTTP/1.1 200 x\r\n".into(), "A: b\r\n"), "not HTTP"),
        (Reply::Endless("HTTP/1.1 200 x\r\nA: ".into(), "bbbbbbbb"), "not HTTP"),
        (Reply::Bytes("SSH-2.0-x\r\n\r\n".into()), "not HTTP"),
        (Reply::Bytes("HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\n<a>".into()), "not HTTP"),
        (Reply::Bytes(String::new()), "not HTTP"),
        (Reply::Drip("HTTP/1.1 200 x\r\n", "A: b\r\n"), "no whole answer within 3 s"),
        (Reply::Silence, "no whole answer within 3 s"),
    ];
    let mut running = tokio::task::JoinSet::new();
    for (reply, expected) in rows {
        running.spawn(async move {
            let fake = FakeIgd::new(found, move |_, _| reply.clone()).await;
            let started = Instant::now();
            let error = service(&fake).await.unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(started.elapsed() < Duration::from_secs(10), "{expected}: {:?}", started.elapsed());
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    for (reply, expected) in [
        (soap("AddPortMapping", ""), "an answer to GetExternalIPAddress that makes no sense"),
        (soap("GetExternalIPAddress", "<NewExternalIPAddress>no</NewExternalIPAddress>"), "makes no sense"),
        (Reply::of(500, "no XML"), "HTTP status 500"),
        (refused(501), "UPnP error 501"),
    ] {
        let fake = FakeIgd::new(found, move |_, request| match request.starts_with("GET") {
            true => described("/c"),
            false => reply.clone(),
        });
        let fake = fake.await;
        let own = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT.get());
        let error = service(&fake).await.unwrap().map(own, PORT.get()).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// TH12. Answers to a search that name another host, have no name, no end, or come from somebody else: nothing is fetched.
#[tokio::test]
async fn th12_upnp_searches_lead_to_the_router_alone() {
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = elsewhere.local_addr().unwrap();
    let long = format!("http://127.0.0.1/{}", "x".repeat(60_000));
    let rows: Vec<(Vec<u8>, &str)> = vec![
        (found_at(&format!("http://{other}/root.xml")), "not its own"),
        (found_at("http://router.example/root.xml"), "not its own"),
        (found_at("http:///"), "not its own"),
        (found_at("file:///etc/passwd"), "not its own"),
        (found_at(&long), "not its own"),
        (b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), "an answer to the search that makes no sense"),
        (vec![0xff; 60_000], "an answer to the search that makes no sense"),
        (Vec::new(), "an answer to the search that makes no sense"),
    ];
    let mut running = tokio::task::JoinSet::new();
    for (answer, expected) in rows {
        running.spawn(async move {
            let fake = FakeIgd::new(move |_| vec![answer.clone()], |_, _| described("/c")).await;
            let error = service(&fake).await.unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(fake.requests().is_empty(), "{expected}: {:?}", fake.requests());
        });
    }
    // A stranger who is found where the router was looked for; the router's own answer comes later and counts.
    running.spawn(async move {
        let stranger = FakeIgd::new(found, |_, _| described("/stranger")).await;
        let fake = FakeIgd::new(found, |_, _| described("/c")).await;
        let mut router = fake.router();
        router.discovery = stranger.router().discovery;
        assert_eq!(find(&router).await.unwrap_err().to_string(), "the router answers no search");
        router.discovery.extend(fake.router().discovery);
        find(&router).await.unwrap();
        assert!(stranger.requests().is_empty(), "{:?}", stranger.requests());
    });
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    let nobody = timeout(Duration::from_millis(1), elsewhere.accept()).await;
    assert!(nobody.is_err(), "another host was called");
    // A flood of answers: each description is fetched once, and not many of them.
    let flood = |at: SocketAddr| (0..200).map(|n| found_at(&format!("http://{at}/{n}"))).collect();
    let fake = FakeIgd::new(flood, |_, _| Reply::of(404, "")).await;
    assert_eq!(service(&fake).await.unwrap_err(), "HTTP status 404");
    assert_eq!(fake.requests().len(), 3);
}
