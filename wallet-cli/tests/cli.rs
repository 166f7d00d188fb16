//! The binary, without a node: the command contract, exit statuses, passwords from every source, damaged files, what
//! stays secret, and what a person at a terminal sees.

use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PASSWORD: &str = "rahasia sekali";
const DEADLINE: Duration = Duration::from_secs(60);

struct Setup {
    directory: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("password"), format!("{PASSWORD}\n")).unwrap();
        Self { directory }
    }

    fn with_wallet() -> Self {
        let setup = Self::new();
        setup.json("create --network dev --yes");
        setup
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The wallet binary with a clean environment.
    fn bare(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_setara-wallet"));
        command.env_clear().env("HOME", self.directory.path()).current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn command(&self, line: &str) -> Command {
        let mut command = self.bare();
        command.arg("--wallet").arg(self.path("wallet")).arg("--password-file").arg(self.path("password"));
        command.args(line.split_whitespace());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// One JSON object on standard output, nothing on standard error.
    fn json(&self, line: &str) -> Value {
        let output = self.run(&format!("--json {line}"));
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The error's code; nothing on standard output.
    fn fails(&self, line: &str, exit: i32) -> String {
        error_of(&self.run(&format!("--json {line}")), exit)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn error_of(output: &Output, exit: i32) -> String {
    assert_eq!(output.status.code(), Some(exit), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
    let value: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    assert!(!value["error"]["message"].as_str().unwrap().is_empty());
    value["error"]["code"].as_str().unwrap().to_owned()
}

fn with_input(mut command: Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // The process may refuse before it reads.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn create_and_address_keep_the_contract() {
    let setup = Setup::new();
    let created = setup.json("create --network dev --yes");
    assert_eq!(created.as_object().unwrap().keys().collect::<Vec<_>>(), ["mnemonic", "address"]);
    assert_eq!(created["mnemonic"].as_str().unwrap().split(' ').count(), 24);
    let first = created["address"].as_str().unwrap().to_owned();
    assert!(first.starts_with("dset1q"), "{first}");
    let second = setup.json("address");
    assert_eq!(second.as_object().unwrap().keys().collect::<Vec<_>>(), ["address"]);
    let third = setup.json("receive");
    let mut seen = vec![first, second["address"].to_string(), third["address"].to_string()];
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 3, "every request gives a fresh address");
    assert_eq!(std::fs::metadata(setup.path("wallet")).unwrap().mode() & 0o777, 0o600);
    // Nothing of the secret is readable, and a second wallet never takes the file's place.
    let before = std::fs::read(setup.path("wallet")).unwrap();
    // Two words at a time: one alone may be among the names in the file, such as `version`.
    let words: Vec<&str> = created["mnemonic"].as_str().unwrap().split(' ').collect();
    for pair in words.windows(2).map(|pair| pair.join(" ")) {
        assert!(!before.windows(pair.len()).any(|window| window == pair.as_bytes()), "{pair}");
    }
    assert_eq!(setup.fails("create --network dev --yes", 1), "wallet-exists");
    assert_eq!(std::fs::read(setup.path("wallet")).unwrap(), before);
}

#[test]
fn people_get_text_and_programs_get_json() {
    let setup = Setup::new();
    let created = setup.run("create --network dev --yes");
    assert!(created.status.success());
    let shown = text(&created.stdout);
    assert!(shown.contains("24. ") && shown.contains("Your first address") && shown.contains("dev"), "{shown}");
    let receive = setup.run("receive");
    let shown = text(&receive.stdout);
    assert!(shown.contains('█') && shown.trim_end().lines().last().unwrap().starts_with("dset1q"), "{shown}");
    let failed = setup.run("create --network dev --yes");
    assert!(text(&failed.stderr).starts_with("setara-wallet: "), "{}", text(&failed.stderr));
    for line in ["--help", "--version", "help send", "completions bash"] {
        let mut command = setup.bare();
        let output = command.args(line.split(' ')).output().unwrap();
        assert!(output.status.success() && text(&output.stdout).contains("setara-wallet"), "{line}");
    }
}

#[test]
fn usage_errors_are_json_when_asked_for() {
    let setup = Setup::with_wallet();
    for line in [
        "",
        "frobnicate",
        "send",
        "send dset1x",
        "send dset1x 1 --fee-rate 1 --target 2",
        "balance --no-such-flag",
        "restore --gap 0",
        "create --network dev --genesis x",
        "balance --password-stdin",
    ] {
        assert_eq!(setup.fails(line, 2), "usage", "{line}");
    }
    assert_eq!(setup.fails("create --wallet other --network nowhere --yes", 2), "usage");
    assert_eq!(setup.fails("create --wallet other --genesis missing.json --yes", 1), "io");
    assert_eq!(setup.fails("send x 1", 2), "bad-address");
    // Without a terminal nothing is confirmed by silence.
    let main = "set1qjkmaj8u5gh3fp0cs67k50y0tpvs5u2sgu7xqrdgpqml8dk74asvqxxxxxx";
    assert_eq!(setup.fails(&format!("send {main} 1 --yes"), 2), "bad-address");
    let own = setup.json("address")["address"].as_str().unwrap().to_owned();
    assert_eq!(setup.fails(&format!("send {own} 1"), 2), "usage");
    for amount in ["0", "-1", "-0.5", "1.123456789", "21000001", "0.00000001", "many"] {
        assert_eq!(setup.fails(&format!("send {own} {amount} --yes"), 2), "bad-amount", "{amount}");
    }
    let human = setup.run("create --wallet other --network dev");
    assert_eq!(human.status.code(), Some(2));
    assert!(text(&human.stderr).contains("--yes"));
    assert!(!setup.path("other").exists());
}

#[test]
fn no_wallet_no_node_wrong_password_each_have_a_status() {
    let setup = Setup::new();
    assert_eq!(setup.fails("balance", 7), "wallet-not-found");
    // Port 9 (discard) of this machine: nobody listens.
    let node = format!("--rpc http://127.0.0.1:9 --cookie {}", setup.path("password").display());
    assert_eq!(setup.fails(&format!("create --yes {node}"), 3), "node-unreachable");
    assert!(!setup.path("wallet").exists());
    setup.json("create --network dev --yes");
    assert_eq!(setup.fails(&format!("balance {node}"), 3), "node-unreachable");
    // No cookie: no node runs there, whatever the file's name; one that cannot be read is another matter.
    assert_eq!(setup.fails("balance --rpc http://127.0.0.1:9 --cookie missing", 3), "node-unreachable");
    assert_eq!(setup.fails("balance --rpc http://127.0.0.1:9 --cookie .", 3), "node-unauthorised");
    assert_eq!(setup.fails("balance --rpc ftp://x", 2), "usage");
    let words = "--mnemonic-file password --wallet other";
    assert_eq!(setup.fails(&format!("restore --network dev {words} {node}"), 3), "node-unreachable");
    assert!(!setup.path("other").exists());
    std::fs::write(setup.path("password"), "something else").unwrap();
    assert_eq!(setup.fails("address", 6), "wrong-password");
    std::fs::write(setup.path("password"), "").unwrap();
    assert_eq!(setup.fails("address", 2), "usage");
}

#[test]
fn passwords_come_from_every_source_but_the_command_line() {
    let setup = Setup::with_wallet();
    let command = |line: &str| {
        let mut command = setup.bare();
        command.arg("--wallet").arg(setup.path("wallet")).args(line.split_whitespace());
        command
    };
    assert!(with_input(command("address --password-stdin"), &format!("{PASSWORD}\n")).status.success());
    assert!(with_input(command("address --password-stdin"), PASSWORD).status.success());
    assert!(command("address").env("SETARA_WALLET_PASSWORD", PASSWORD).output().unwrap().status.success());
    let wrong = command("address --json").env("SETARA_WALLET_PASSWORD", "wrong").output().unwrap();
    assert_eq!(error_of(&wrong, 6), "wrong-password");
    // No source and no terminal: an error, not a wait.
    assert_eq!(error_of(&setsid(command("--json address")).output().unwrap(), 6), "password-needed");
    // Old and new password on two lines.
    let changed =
        with_input(command("change-password --password-stdin --new-password-stdin"), &format!("{PASSWORD}\nbaru\n"));
    assert!(changed.status.success(), "{}", text(&changed.stderr));
    assert_eq!(setup.fails("address", 6), "wrong-password");
    assert!(command("address").env("SETARA_WALLET_PASSWORD", "baru").output().unwrap().status.success());
    std::fs::write(setup.path("new"), "lagi\n").unwrap();
    let changed =
        command("change-password --new-password-file new --json").env("SETARA_WALLET_PASSWORD", "baru").output();
    assert!(changed.unwrap().status.success());
    assert!(command("address").env("SETARA_WALLET_PASSWORD", "lagi").output().unwrap().status.success());
}

/// The same command in a session without a terminal.
fn setsid(command: Command) -> Command {
    let mut outer = Command::new("setsid");
    outer.arg("--wait").arg(command.get_program()).args(command.get_args()).env_clear();
    outer.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    outer
}

/// WK5.
#[test]
fn damaged_files_are_named_and_left_alone() {
    let setup = Setup::with_wallet();
    let good = std::fs::read(setup.path("wallet")).unwrap();
    for cut in [0, 1, 100, good.len() / 2, good.len() - 1] {
        std::fs::write(setup.path("wallet"), &good[..cut]).unwrap();
        assert_eq!(setup.fails("address", 1), "wallet-damaged", "cut at {cut}");
        assert_eq!(std::fs::read(setup.path("wallet")).unwrap(), &good[..cut]);
    }
    for position in (0..good.len()).step_by(37) {
        let mut bytes = good.clone();
        bytes[position] ^= 4;
        std::fs::write(setup.path("wallet"), &bytes).unwrap();
        assert_eq!(setup.fails("address", 1), "wallet-damaged", "byte {position}");
    }
    std::fs::write(setup.path("wallet"), b"once upon a time\n").unwrap();
    assert_eq!(setup.fails("address", 1), "wallet-damaged");
    std::fs::remove_file(setup.path("wallet")).unwrap();
    std::fs::create_dir(setup.path("wallet")).unwrap();
    assert_eq!(setup.fails("address", 1), "io");
    std::fs::remove_dir(setup.path("wallet")).unwrap();
    std::fs::write(setup.path("wallet"), &good).unwrap();
    setup.json("address");
}

#[test]
fn two_processes_share_a_wallet_without_losing_an_address() {
    let setup = Setup::with_wallet();
    let children: Vec<Child> = (0..4).map(|_| setup.command("--json address").spawn().unwrap()).collect();
    let mut seen = std::collections::BTreeSet::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(seen.insert(value["address"].to_string()), "an address was given out twice");
    }
}

/// A process that waits for its password on standard input.
fn waiting(setup: &Setup) -> Child {
    let mut command = setup.bare();
    command.arg("--wallet").arg(setup.path("wallet")).args(["--json", "address", "--password-stdin"]);
    let child = command.stdin(Stdio::piped()).spawn().unwrap();
    // It holds the lock once it has read the file and asks: then its protections are in place.
    wait_for("the wallet to be opened", || {
        let lock = std::fs::File::open(setup.path("wallet.lock")).ok()?;
        lock.try_lock().is_err().then_some(())
    });
    child
}

fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "gave up waiting for {what}");
        std::thread::yield_now();
    }
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

/// WK4. A crash leaves no memory image, and neither `ps` nor the environment shows a secret.
#[test]
fn memory_is_not_dumped_and_arguments_hold_no_secret() {
    let setup = Setup::with_wallet();
    let mut child = waiting(&setup);
    child.stdin.as_mut().unwrap().write_all(&PASSWORD.as_bytes()[..4]).unwrap();
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    let line = std::fs::read(proc.join("cmdline")).unwrap();
    assert!(!String::from_utf8_lossy(&line).contains("rahasia"));
    let stdin = child.stdin.take();
    // One that would dump core, and that no shell lets its background jobs ignore.
    signal(&child, rustix::process::Signal::ABORT);
    let status = child.wait().unwrap();
    drop(stdin);
    assert_eq!(status.signal(), Some(6));
    assert!(!status.core_dumped());
    setup.json("address");
}

/// WK4. The words leave once, on standard output of `create`; passwords never.
#[test]
fn secrets_are_in_no_output() {
    let setup = Setup::new();
    let words = setup.json("create --network dev --yes")["mnemonic"].as_str().unwrap().to_owned();
    let lines =
        ["address", "receive", "balance", "history", "address --json", "balance --json", "send x 1", "--verbose"];
    for line in lines {
        let output = setup.run(line);
        for stream in [&output.stdout, &output.stderr] {
            let shown = text(stream);
            assert!(!shown.contains(PASSWORD), "{line}");
            let shown: Vec<&str> = shown.split(|character: char| !character.is_ascii_lowercase()).collect();
            let sequence: Vec<&str> = words.split(' ').collect();
            assert!(!shown.windows(3).any(|window| sequence.windows(3).any(|words| words == window)), "{line}");
        }
    }
}

#[test]
fn an_interrupt_ends_with_130() {
    let setup = Setup::with_wallet();
    let mut child = waiting(&setup);
    // Kept open, lest the end of input be what ends the process.
    let stdin = child.stdin.take();
    signal(&child, rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(stdin);
    setup.json("address");
}

/// A person at a terminal, played through `script`, which gives the process a terminal of its own.
struct Terminal {
    child: Child,
    screen: std::sync::Arc<std::sync::Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Terminal {
    fn start(setup: &Setup, line: &str) -> Self {
        let command =
            format!("{} --wallet {} {line}", env!("CARGO_BIN_EXE_setara-wallet"), setup.path("wallet").display());
        let mut child = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("SHELL", "/bin/sh")
            .env("HOME", setup.directory.path())
            .current_dir(setup.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`script` is part of every Debian system");
        let screen = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let (mut output, shown) = (child.stdout.take().unwrap(), std::sync::Arc::clone(&screen));
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { child, screen, reader: Some(reader) }
    }

    fn screen(&self) -> String {
        self.screen.lock().unwrap().clone()
    }

    /// Waits until the screen shows this for the `count`-th time.
    fn sees(&self, what: &str, count: usize) {
        wait_for(what, || (self.screen().matches(what).count() >= count).then_some(()));
    }

    fn types(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(format!("{line}\r").as_bytes()).unwrap();
    }

    fn ends(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        (status.code(), self.screen())
    }
}

fn words_on(screen: &str) -> Vec<String> {
    let numbered = screen.split_whitespace().collect::<Vec<_>>();
    let pairs = numbered
        .windows(2)
        .filter(|pair| pair[0].ends_with('.') && pair[0].trim_end_matches('.').parse::<u8>().is_ok());
    pairs.map(|pair| pair[1].to_owned()).collect()
}

/// Which word is asked for last on the screen.
fn asked(screen: &str) -> usize {
    let (_, rest) = screen.rsplit_once("Word ").unwrap();
    rest.split(':').next().unwrap().trim().parse().unwrap()
}

#[test]
fn a_person_types_some_words_again() {
    let setup = Setup::new();
    let mut terminal = Terminal::start(&setup, "create --network dev");
    terminal.sees("Password for the new wallet: ", 1);
    terminal.types("kata sandi");
    terminal.sees("again: ", 1);
    terminal.types("kata sandi");
    for count in 1..=3 {
        terminal.sees("Word ", count);
        terminal.sees(": ", count + 2);
        let screen = terminal.screen();
        let words = words_on(&screen);
        assert_eq!(words.len(), 24, "{screen}");
        terminal.types(&words[asked(&screen) - 1]);
    }
    let (code, screen) = terminal.ends();
    assert_eq!(code, Some(0), "{screen}");
    assert!(screen.contains("Your first address"));
    assert!(!screen.contains("kata sandi"), "the password was shown");
    std::fs::write(setup.path("password"), "kata sandi").unwrap();
    setup.json("address");
}

#[test]
fn wrong_words_or_differing_passwords_make_no_wallet() {
    let setup = Setup::new();
    let mut terminal = Terminal::start(&setup, "create --network dev");
    terminal.sees("Password for the new wallet: ", 1);
    terminal.types("satu");
    terminal.sees("again: ", 1);
    terminal.types("dua");
    let (code, screen) = terminal.ends();
    assert_eq!(code, Some(2), "{screen}");
    let mut terminal = Terminal::start(&setup, "create --network dev --password-file password");
    for count in 1..=3 {
        terminal.sees("Word ", count);
        terminal.sees(": ", count);
        terminal.types("zoo zoo");
    }
    let (code, screen) = terminal.ends();
    assert_eq!(code, Some(1), "{screen}");
    assert!(screen.contains("cancelled"));
    assert!(!Path::new(&setup.path("wallet")).exists());
}
