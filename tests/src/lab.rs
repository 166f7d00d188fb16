//! Network namespaces joined by links of a given width, and nodes in them (root). Gone when dropped.
//!
//! What starts a lab decides what to do where the machine has no namespaces; once `ip netns add` has succeeded nothing
//! else may fail.

use crate::process::{NodeProcess, Setup, binary, wait_until};
use serde_json::Value;
use std::ffi::OsString;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// In a namespace every port is free.
pub const P2P_PORT: u16 = 19_740;

/// Runs a command line to its end with this input; what it printed, or why it failed.
pub fn run(line: &str, input: &str) -> Result<String, String> {
    let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    run_words(&words, input)
}

fn run_words(words: &[OsString], input: &str) -> Result<String, String> {
    let (program, arguments) = words.split_first().expect("a program");
    let name = program.to_string_lossy();
    let mut child = clean(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{name}: {error}"))?;
    let _ = child.stdin.take().expect("standard input is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().map_err(|error| format!("{name}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(format!("{words:?}: {}", text(&output.stderr))) }
}

/// A command without the settings of whoever runs the tests, which must not reach a node.
fn clean(program: &OsString) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SETARA_")) {
        command.env_remove(name);
    }
    command
}

/// Namespaces, by the names of their places.
pub struct Lab {
    name: String,
    places: Vec<String>,
}

impl Lab {
    /// With these places, which are joined by nothing yet; an error where the machine has no namespaces.
    pub fn new(places: &[&str]) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("setara-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut lab = Self { name, places: Vec::new() };
        for place in places {
            let namespace = lab.of(place);
            match run(&format!("ip netns add {namespace}"), "") {
                Err(reason) if lab.places.is_empty() => return Err(reason),
                added => added.expect("one was added before"),
            };
            lab.places.push((*place).to_owned());
            lab.must(place, "ip link set lo up");
        }
        Ok(lab)
    }

    /// The namespace of a place.
    pub fn of(&self, place: &str) -> String {
        format!("{}-{place}", self.name)
    }

    /// Runs a command line in a place, which must succeed; what it printed.
    pub fn must(&self, place: &str, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.of(place)), "").unwrap_or_else(|error| panic!("{error}"))
    }

    /// Joins two places by a link of this name in both, their addresses of one /24.
    pub fn link(&self, name: &str, ends: [(&str, &str); 2]) {
        let [(first, _), (second, _)] = ends;
        self.must(first, &format!("ip link add {name} type veth peer name {name} netns {}", self.of(second)));
        for (place, address) in ends {
            self.must(place, &format!("ip addr add {address}/24 dev {name}"));
            self.must(place, &format!("ip link set {name} up"));
        }
    }

    /// What a place sends on a link passes at so many bytes a second.
    pub fn narrow(&self, place: &str, link: &str, bytes_per_second: u64) {
        let rate = bytes_per_second * 8;
        self.must(place, &format!("tc qdisc replace dev {link} root tbf rate {rate}bit burst 6000 latency 400ms"));
    }

    /// A place hands on what is not meant for it.
    pub fn forward(&self, place: &str) {
        let line = format!("ip netns exec {} tee /proc/sys/net/ipv4/ip_forward", self.of(place));
        run(&line, "1").expect("a namespace of our own can be told to forward");
    }

    /// Starts a program in a place, with `environment` in addition to nothing of the tests' own.
    pub fn start(&self, place: &str, words: &[OsString], environment: &[(&str, OsString)]) -> Daemon {
        let mut command = clean(&"ip".into());
        command.args(["netns", "exec", &self.of(place)]).args(words);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Daemon(command.spawn().expect("ip was run before"))
    }

    /// A node in a place, listening there, once it does.
    pub fn node(&self, place: &str, setup: Setup, identity: &[&str]) -> LabNode {
        let setup = setup.with(["--p2p-listen", &format!("0.0.0.0:{P2P_PORT}")]);
        let setup = setup.under(["ip", "netns", "exec", &self.of(place)]);
        let process = setup.spawn();
        assert!(process.wait_for_log("listening for peers"), "{}", process.log());
        let mut call: Vec<OsString> = ["ip", "netns", "exec", &self.of(place)].map(OsString::from).to_vec();
        call.push(binary("setara-node").into());
        call.push("call".into());
        call.extend(identity.iter().map(OsString::from));
        call.push("--data-dir".into());
        call.push(setup.data_dir().into());
        let node = LabNode { process, call };
        wait_until("a node that answers", || node.try_call(&["getblockcount"]).ok());
        node
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for place in &self.places {
            let _ = run(&format!("ip netns del {}", self.of(place)), "");
        }
    }
}

/// A process; ended when dropped.
pub struct Daemon(pub Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node that is spoken to from within its namespace.
pub struct LabNode {
    /// The process.
    pub process: NodeProcess,
    call: Vec<OsString>,
}

impl LabNode {
    /// Calls a method, each parameter as `setara-node call` takes it.
    pub fn try_call(&self, words: &[&str]) -> Result<Value, String> {
        let line: Vec<OsString> = self.call.iter().cloned().chain(words.iter().map(OsString::from)).collect();
        let answer = run_words(&line, "")?;
        // Texts are printed as they are.
        Ok(serde_json::from_str(&answer).unwrap_or_else(|_| Value::String(answer.trim().to_owned())))
    }

    /// Calls a method that must succeed.
    pub fn call(&self, words: &[&str]) -> Value {
        self.try_call(words).unwrap_or_else(|error| panic!("{error}\n{}", self.process.log()))
    }

    /// Time of the processor that it has taken.
    pub fn processor_time(&self) -> Duration {
        /// The kernel's unit here, by its interface.
        const TICKS_A_SECOND: u64 = 100;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.pid())).expect("the node runs");
        // After the name in parentheses: state is the third field, user and system time the 14th and 15th.
        let rest = stat.rsplit_once(')').expect("the name is in parentheses").1;
        let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 1_000 / TICKS_A_SECOND)
    }
}
