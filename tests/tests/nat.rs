//! Port mapping and SOCKS5 against the real programs: `miniupnpd` as a router and `microsocks` as a proxy, each test in
//! network namespaces of its own (root). Where the machine does not allow that, the test says so and passes; routers and
//! proxies made for the purpose, hostile ones above all, are in `node/src/p2p/shell/`.
//!
//! ```text
//! inside 192.168.77.2 ──lan── 192.168.77.1 router 11.77.0.1 ──wan── 11.77.0.2 outside
//! ```

use serde_json::Value;
use setara_tests::lab::{Daemon, Lab, LabNode, P2P_PORT, run};
use setara_tests::process::{DEADLINE, Setup, binary, wait_until};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

const PROXY_PORT: &str = "1080";

/// Three namespaces in a line. `forwarding`: whether the router lets inside speak to outside, and hides it behind its own
/// address.
fn line(forwarding: bool) -> Result<Lab, String> {
    let lab = Lab::new(&["inside", "router", "outside"])?;
    lab.link("lan", [("inside", "192.168.77.2"), ("router", "192.168.77.1")]);
    lab.link("wan", [("outside", "11.77.0.2"), ("router", "11.77.0.1")]);
    lab.must("inside", "ip route add default via 192.168.77.1");
    if forwarding {
        // The chains are those that miniupnpd fills.
        let rules = "table inet filter {
            chain forward {
                type filter hook forward priority 0; policy drop;
                ct state established,related accept
                iifname lan accept
                jump miniupnpd
            }
            chain miniupnpd { }
            chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
            chain postrouting {
                type nat hook postrouting priority 100;
                oifname wan masquerade
                jump postrouting_miniupnpd
            }
            chain prerouting_miniupnpd { }
            chain postrouting_miniupnpd { }
        }";
        run(&format!("ip netns exec {} nft -f -", lab.of("router")), rules)?;
        lab.forward("router");
    }
    Ok(lab)
}

/// Starts a program in a namespace and waits until it prints `ready`, or does not wait.
fn start(lab: &Lab, place: &str, line: &str, ready: Option<&str>) -> Result<Daemon, String> {
    let mut child = Command::new("ip")
        .args(["netns", "exec", &lab.of(place)])
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("ip: {error}"))?;
    let lines = BufReader::new(child.stderr.take().expect("standard error is piped")).lines();
    let daemon = Daemon(child);
    let (sender, printed) = mpsc::channel();
    // Reads on to the end, so that the program never blocks on a full pipe.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(sender.send(line))));
    let mut said = String::new();
    while let Some(ready) = ready {
        let next = printed.recv_timeout(DEADLINE).map_err(|_| format!("{line} does not get ready:\n{said}"))?;
        if next.contains(ready) {
            break;
        }
        said.push_str(&next);
        said.push('\n');
    }
    Ok(daemon)
}

/// A node in a namespace.
fn node(lab: &Lab, place: &str, directory: &Path, arguments: &[&str]) -> LabNode {
    lab.node(place, Setup::dev(directory.join(place)).with(arguments), &["--network", "dev"])
}

/// The address of a node's only peer, once it has one.
fn peer(node: &LabNode) -> String {
    wait_until("a peer", || Some(node.call(&["getpeerinfo"]).get(0)?.get("addr")?.as_str()?.to_owned()))
}

/// Whether the programs that a test needs are there.
fn programs(names: &[&str]) -> Result<(), String> {
    let missing = |name: &&&str| run(&format!("which {name}"), "").is_err();
    match names.iter().find(missing) {
        Some(name) => Err(format!("{name} is not installed (scripts/dependencies faults)")),
        None => Ok(()),
    }
}

/// Only where no namespaces can be had is anything skipped.
fn skip(reason: &str) {
    match line(false) {
        Ok(_) => panic!("{reason}"),
        Err(refused) => eprintln!("skipped: no namespaces can be had here: {refused}"),
    }
}

/// A router, or why there is none here.
fn router(directory: &Path, options: &str, ready: &str) -> Result<(Lab, Daemon), String> {
    programs(&["ip", "nft", "miniupnpd"])?;
    let lab = line(true)?;
    let config = directory.join("miniupnpd.conf");
    let leases = directory.join("leases").display().to_string();
    let text = format!(
        "ext_ifname=wan\nlistening_ip=lan\nsecure_mode=yes\nuuid=00000000-0000-0000-0000-000000000001\n\
         lease_file={leases}\n{options}\n"
    );
    std::fs::write(&config, text).map_err(|error| error.to_string())?;
    let pid = directory.join("miniupnpd.pid");
    let line = format!("miniupnpd -d -f {} -P {}", config.display(), pid.display());
    let daemon = start(&lab, "router", &line, Some(ready))?;
    Ok((lab, daemon))
}

/// A router forwards a port when asked by these means; a node outside comes in by it; at a stop it is closed again.
fn forwards(options: &str, ready: &str, means: &str) {
    let directory = tempfile::tempdir().unwrap();
    let (lab, _daemon) = match router(directory.path(), options, ready) {
        Ok(started) => started,
        Err(reason) => return skip(&reason),
    };
    let rules = || run(&format!("ip netns exec {} nft list ruleset", lab.of("router")), "").unwrap();
    let mut inside = node(&lab, "inside", directory.path(), &["--map-port"]);
    assert!(inside.process.wait_for_log("the router forwards a port"), "{}", inside.process.log());
    let log = inside.process.log();
    let line = log.lines().find(|line| line.contains("the router forwards a port")).unwrap();
    assert!(line.contains(means) && line.contains(&format!("11.77.0.1:{P2P_PORT}")), "{line}");
    assert!(rules().contains("dnat"), "{}", rules());
    let local = wait_until("the address to be shown", || {
        inside.call(&["getnetworkinfo"]).get("localaddresses")?.get(0).cloned()
    });
    assert_eq!((&local["address"], &local["port"]), (&"11.77.0.1".into(), &19_740.into()), "{local}");

    // Whoever is invited is sent there.
    let (program, folder) = (binary("setara-node"), directory.path().join("inside"));
    let line = format!("{} invite --network dev --data-dir {}", program.display(), folder.display());
    let invite = run(&format!("ip netns exec {} {line}", lab.of("inside")), "").unwrap();
    assert!(invite.contains(&format!("setara://11.77.0.1:{P2P_PORT}/")), "{invite}");

    let outside = node(&lab, "outside", directory.path(), &["--connect", &format!("11.77.0.1:{P2P_PORT}")]);
    assert_eq!(peer(&outside), format!("11.77.0.1:{P2P_PORT}"));
    assert!(peer(&inside).starts_with("11.77.0.2:"), "the router forwards and does not hide who comes");

    let (status, _) = inside.process.terminate();
    assert!(status.success(), "{}", inside.process.log());
    assert!(inside.process.log().contains("forwards the port no longer"), "{}", inside.process.log());
    assert!(!rules().contains("dnat"), "{}", rules());
}

#[test]
fn nat_a_real_router_forwards_by_pcp() {
    forwards("enable_natpmp=yes\nenable_upnp=no", "Listening for NAT-PMP/PCP", "PCP");
}

#[test]
fn nat_a_real_router_forwards_by_upnp() {
    forwards("enable_natpmp=no\nenable_upnp=yes", "HTTP listening", "UPnP");
}

/// Nobody answers: the node says so once, and works.
#[test]
fn nat_without_a_router_the_node_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let lab = match programs(&["ip"]).and_then(|()| line(false)) {
        Ok(lab) => lab,
        Err(reason) => return skip(&reason),
    };
    let mut inside = node(&lab, "inside", directory.path(), &["--map-port"]);
    assert!(inside.process.wait_for_log("others cannot dial this node"), "{}", inside.process.log());
    let info = inside.call(&["getnetworkinfo"]);
    assert_eq!(info["localaddresses"], Value::Array(Vec::new()));
    let (status, _) = inside.process.terminate();
    assert!(status.success(), "{}", inside.process.log());
}

/// A node that reaches nobody by itself gets through by a real SOCKS5 proxy, and is seen at the proxy's address.
#[test]
fn nat_a_real_proxy_leads_out() {
    let directory = tempfile::tempdir().unwrap();
    let ready = programs(&["ip", "microsocks"]).and_then(|()| line(false));
    let started = ready.and_then(|lab| {
        let proxy = start(&lab, "router", &format!("microsocks -i 192.168.77.1 -p {PROXY_PORT}"), None)?;
        Ok((lab, proxy))
    });
    let (lab, _proxy) = match started {
        Ok(started) => started,
        Err(reason) => return skip(&reason),
    };
    let outside = node(&lab, "outside", directory.path(), &[]);
    let target = format!("11.77.0.2:{P2P_PORT}");
    let proxy = format!("192.168.77.1:{PROXY_PORT}");
    let inside = node(&lab, "inside", directory.path(), &["--connect", &target, "--proxy", &proxy]);
    assert_eq!(peer(&inside), target);
    assert!(peer(&outside).starts_with("11.77.0.1:"), "the proxy dials");
}
