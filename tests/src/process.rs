//! A real `setara-node` process: started on free ports, watched through its output, called over JSON-RPC, and stopped,
//! terminated or killed. Whatever a test leaves running dies with the value that holds it.

use serde_json::Value;
use setara_api::client::{Auth, Client, ClientError};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long anything may take that is waited for. Generous: it bounds a hang, it does not measure speed.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Between two looks at a condition that cannot wake us.
const POLL: Duration = Duration::from_millis(2);

/// A binary of this workspace: beside the test's own, in the target directory; `SETARA_BIN_DIR` overrides.
pub fn binary(name: &str) -> PathBuf {
    let directory = std::env::var_os("SETARA_BIN_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let test = std::env::current_exe().expect("a test knows its own path");
        test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps").to_path_buf()
    });
    let path = directory.join(name);
    assert!(path.exists(), "{} is not built: cargo build --release --bins first", path.display());
    path
}

/// Waits until `condition` gives a value; panics, saying what was waited for, after [`DEADLINE`].
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "gave up waiting for {what}");
        std::thread::sleep(POLL);
    }
}

/// What a process has printed, line by line, standard output and error together.
#[derive(Default)]
struct Output {
    lines: Vec<String>,
    open_streams: u32,
}

#[derive(Clone, Default)]
struct Log(Arc<(Mutex<Output>, Condvar)>);

impl Log {
    fn lock(&self) -> MutexGuard<'_, Output> {
        self.0.0.lock().expect("a reader panicked")
    }

    fn read(&self, stream: impl Read + Send + 'static) {
        self.lock().open_streams += 1;
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                log.lock().lines.push(String::from_utf8_lossy(&line).into_owned());
                log.0.1.notify_all();
            }
            log.lock().open_streams -= 1;
            log.0.1.notify_all();
        });
    }

    /// Waits until `ready` or the end of the output.
    fn wait(&self, ready: impl Fn(&[String]) -> bool) -> bool {
        let end = Instant::now() + DEADLINE;
        let mut output = self.lock();
        loop {
            if ready(&output.lines) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if output.open_streams == 0 || left.is_zero() {
                return false;
            }
            output = self.0.1.wait_timeout(output, left).expect("a reader panicked").0;
        }
    }

    fn text(&self) -> String {
        self.lock().lines.join("\n")
    }
}

/// How to start a node.
#[derive(Clone)]
pub struct Setup {
    data_dir: PathBuf,
    network: String,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    wrapper: Vec<OsString>,
}

impl Setup {
    /// A `dev` node on `data_dir`, its RPC on a free port.
    pub fn dev(data_dir: impl Into<PathBuf>) -> Self {
        let arguments = ["--network", "dev"].map(OsString::from).to_vec();
        Self { data_dir: data_dir.into(), network: "dev".into(), arguments, environment: vec![], wrapper: vec![] }
    }

    /// A node of the network `name`, whose genesis file is `file`.
    pub fn genesis(data_dir: impl Into<PathBuf>, name: &str, file: &Path) -> Self {
        let arguments = vec!["--genesis".into(), file.into()];
        Self { data_dir: data_dir.into(), network: name.into(), arguments, environment: vec![], wrapper: vec![] }
    }

    /// More arguments.
    pub fn with<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// A variable in the node's environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Runs the node under another program, such as `strace`.
    pub fn under<S: AsRef<OsStr>>(mut self, wrapper: impl IntoIterator<Item = S>) -> Self {
        self.wrapper = wrapper.into_iter().map(|part| part.as_ref().to_owned()).collect();
        self
    }

    /// Where the node keeps this network's files.
    pub fn network_dir(&self) -> PathBuf {
        self.data_dir.join(&self.network)
    }

    /// Where the node keeps everything.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A command on the same data directory, such as `rebuild`, that ends by itself: not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("setara-node"));
        command.args(arguments).args(&self.arguments).arg("--data-dir").arg(&self.data_dir).stdin(Stdio::null());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SETARA_")) {
            command.env_remove(name);
        }
        command
    }

    /// Runs a command; whether it succeeded, and all that it printed.
    pub fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command(arguments).output().expect("the node's binary can be run");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.success(), text)
    }

    /// Where the node listens for peers, once it does.
    pub fn listens(&self) -> String {
        wait_until("a node that listens for peers", || {
            let endpoints = std::fs::read(self.network_dir().join("endpoints.json")).ok()?;
            let endpoints: Value = serde_json::from_slice(&endpoints).ok()?;
            endpoints["p2p"].as_str().map(str::to_owned)
        })
    }

    /// Starts the process and waits for nothing.
    pub fn spawn(&self) -> NodeProcess {
        let node = binary("setara-node");
        let mut command = match self.wrapper.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(node);
                command
            }
            None => Command::new(node),
        };
        command.args(&self.arguments).arg("--data-dir").arg(&self.data_dir).args(["--rpc-listen", "127.0.0.1:0"]);
        // Nodes of different tests run at the same time, on one network: they must not find each other.
        if !self.arguments.iter().any(|argument| argument == "--p2p-listen" || argument == "--no-listen") {
            command.arg("--no-listen");
        }
        // Settings of whoever runs the tests must not reach the node.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SETARA_")) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the node's binary can be run");
        let log = Log::default();
        log.read(child.stdout.take().expect("standard output is piped"));
        log.read(child.stderr.take().expect("standard error is piped"));
        NodeProcess { child, log, network_dir: self.network_dir(), client: None, status: None }
    }

    /// Starts the process and waits until it answers.
    pub fn start(&self) -> NodeProcess {
        let mut node = self.spawn();
        if let Err(status) = node.wait_ready() {
            panic!("the node ended with {status} instead of starting:\n{}", node.log());
        }
        node
    }

    /// Starts the process expecting it to refuse: waits for its end and gives its output.
    pub fn refused(&self) -> (ExitStatus, String) {
        let mut node = self.spawn();
        match node.wait_ready() {
            Ok(()) => panic!("the node started where it should have refused:\n{}", node.log()),
            Err(status) => (status, node.log()),
        }
    }
}

/// A running node; killed when dropped.
pub struct NodeProcess {
    child: Child,
    log: Log,
    network_dir: PathBuf,
    client: Option<Client>,
    status: Option<ExitStatus>,
}

impl NodeProcess {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that was printed so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until a printed line contains `text`; false if the output ends without.
    pub fn wait_for_log(&self, text: &str) -> bool {
        self.log.wait(|lines| lines.iter().any(|line| line.contains(text)))
    }

    /// Waits for the `count`-th line; false if the output ends before.
    pub fn wait_for_lines(&self, count: usize) -> bool {
        self.log.wait(|lines| lines.len() >= count)
    }

    /// Waits until RPC answers, past the time in which the node says that it is loading; else how the process ended.
    pub fn wait_ready(&mut self) -> Result<(), ExitStatus> {
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            if let Some(status) = self.has_exited() {
                self.log.wait(|_| false);
                return Err(status);
            }
            self.connect();
            match self.client.as_ref().map(|client| client.call("getblockcount", Value::Array(vec![]))) {
                Some(Ok(_)) => return Ok(()),
                Some(Err(error)) if !is_startup(&error) => panic!("the node answers {error}:\n{}", self.log()),
                _ => std::thread::sleep(POLL),
            }
        }
        panic!("the node did not get ready:\n{}", self.log());
    }

    /// The RPC address that this very process announced, if it has.
    fn endpoint(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.network_dir.join("endpoints.json")).ok()?;
        let endpoints: Value = serde_json::from_str(&text).ok()?;
        let rpc = endpoints.get("rpc")?.as_str()?;
        let pid = endpoints.get("pid")?.as_u64()?;
        // A killed node leaves its file behind; under a wrapper the pid is the wrapper's child's.
        let ours = pid == u64::from(self.pid()) || parent_of(pid) == Some(u64::from(self.pid()));
        ours.then(|| if rpc.starts_with("http") { rpc.to_owned() } else { format!("http://{rpc}") })
    }

    /// Waits for the `count`-th line; false once the node is ready, or ends, without having printed so many.
    pub fn wait_for_lines_or_ready(&mut self, count: usize) -> bool {
        wait_until("a line or readiness", || {
            let printed = self.log.lock().lines.len();
            let over = self.has_exited().is_some() || self.answers();
            if printed >= count { Some(true) } else { over.then_some(false) }
        })
    }

    fn connect(&mut self) {
        if self.client.is_none() {
            self.client = self.endpoint().map(|url| self.client_of(&url));
        }
    }

    fn client_of(&self, url: &str) -> Client {
        Client::new(url, Auth::Cookie(self.network_dir.join(".cookie"))).expect("the node announces a usable address")
    }

    fn answers(&mut self) -> bool {
        self.connect();
        self.client.as_ref().is_some_and(|client| client.call("getblockcount", Value::Array(vec![])).is_ok())
    }

    /// A second client, for another thread.
    pub fn new_client(&self) -> Client {
        self.client_of(self.client().url())
    }

    /// The client; the node must have been ready.
    pub fn client(&self) -> &Client {
        self.client.as_ref().expect("the node was ready")
    }

    /// The file with this run's credentials.
    pub fn cookie(&self) -> PathBuf {
        self.network_dir.join(".cookie")
    }

    /// Calls a method; an error is the caller's to judge.
    pub fn try_call(&self, method: &str, params: Value) -> Result<Value, ClientError> {
        self.client().call(method, params)
    }

    /// Calls a method that must succeed.
    pub fn call(&self, method: &str, params: Value) -> Value {
        self.try_call(method, params.clone())
            .unwrap_or_else(|error| panic!("{method} {params}: {error}\n{}", self.log()))
    }

    /// How the process ended, if it has.
    pub fn has_exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("our own child can be waited for");
        }
        self.status
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait_until("the node to end", || self.has_exited());
        self.log.wait(|_| false);
        status
    }

    /// SIGKILL: no warning, no clean-up.
    pub fn kill(&mut self) {
        if self.has_exited().is_none() {
            let _ = self.child.kill();
            self.wait();
        }
    }

    /// SIGTERM, then waits. Gives how it ended and how long that took.
    pub fn terminate(&mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        if self.has_exited().is_none() {
            let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        (self.wait(), started.elapsed())
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Errors that a node gives while it starts: not bound yet, still loading, the cookie about to be replaced; or while it ends
/// because it could not start.
fn is_startup(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Unreachable { .. } | ClientError::NoCookie { .. } | ClientError::Auth(_) | ClientError::Busy
    ) || matches!(error, ClientError::Rpc { code: -28 | -37, .. })
}

fn parent_of(pid: u64) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}
