//! The wallet's binary, each command a process of its own, against a real node.

use crate::process::{NodeProcess, binary};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Password of every wallet in the tests.
const PASSWORD: &str = "kata sandi";

/// A wallet file in a directory, and the node that it looks through.
pub struct Wallet {
    file: PathBuf,
    password_file: PathBuf,
    rpc: String,
    cookie: PathBuf,
}

impl Wallet {
    /// The wallet `name` in `directory`, whether or not it exists, looking through `node`.
    pub fn at(directory: &Path, name: &str, node: &NodeProcess) -> Self {
        let password_file = directory.join("password");
        std::fs::write(&password_file, PASSWORD).expect("a temporary directory can be written to");
        let (rpc, cookie) = (node.client().url().to_owned(), node.cookie());
        Self { file: directory.join(name), password_file, rpc, cookie }
    }

    /// Makes it; gives the words and the first address.
    pub fn create(&self) -> (String, String) {
        let created = self.json("create --yes");
        (text(&created, "mnemonic"), text(&created, "address"))
    }

    /// Makes it from words; gives the answer.
    pub fn restore(&self, words: &str, flags: &str) -> Value {
        let path = self.file.with_extension("words");
        std::fs::write(&path, words).expect("a temporary directory can be written to");
        self.json(&format!("restore --mnemonic-file {} {flags}", path.display()))
    }

    /// A fresh address.
    pub fn address(&self) -> String {
        text(&self.json("address"), "address")
    }

    /// Confirmed, pending, immature.
    pub fn balance(&self) -> [String; 3] {
        let balance = self.json("balance");
        ["confirmed", "pending", "immature"].map(|name| text(&balance, name))
    }

    /// Pays; gives the transaction's id and the fee.
    pub fn send(&self, address: &str, amount: &str) -> (String, String) {
        let sent = self.json(&format!("send {address} {amount} --yes"));
        (text(&sent, "txid"), text(&sent, "fee"))
    }

    /// The transactions, oldest first.
    pub fn history(&self) -> Vec<Value> {
        self.json("history")["transactions"].as_array().expect("a list").clone()
    }

    /// Runs a command at a terminal of its own (that of `script`), where someone types `answer`.
    pub fn at_terminal(&self, line: &str, answer: &str) -> (Option<i32>, String) {
        let plain = self.command(line);
        let words = std::iter::once(plain.get_program()).chain(plain.get_args());
        let command: Vec<_> = words.map(|word| word.to_str().expect("paths in tests are text")).collect();
        let mut script = Command::new("script");
        script.args(["-qec", &command.join(" "), "/dev/null"]).env("SHELL", "/bin/sh");
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Debian has `script`");
        let mut stdin = child.stdin.take().expect("standard input is piped");
        stdin.write_all(format!("{answer}\r").as_bytes()).expect("`script` reads what is typed");
        let output = child.wait_with_output().expect("our own child can be waited for");
        drop(stdin);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command, its arguments separated by blanks.
    pub fn run(&self, line: &str) -> Output {
        self.command(line).stdin(Stdio::null()).output().expect("the wallet's binary can be run")
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(binary("setara-wallet"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SETARA_")) {
            command.env_remove(name);
        }
        command.arg("--wallet").arg(&self.file).arg("--password-file").arg(&self.password_file);
        command.arg("--rpc").arg(&self.rpc).arg("--cookie").arg(&self.cookie).args(line.split_whitespace());
        command
    }

    /// Runs a command that must succeed; gives the one JSON object that it prints.
    pub fn json(&self, line: &str) -> Value {
        let output = self.run(&format!("--json {line}"));
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    }

    /// Runs a command that must fail; gives the exit status, the error's code and its message.
    pub fn fails(&self, line: &str) -> (i32, String, String) {
        let output = self.run(&format!("--json {line}"));
        let shown = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{line} succeeded");
        let error: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("{line}: {shown}"));
        (output.status.code().unwrap_or(-1), text(&error["error"], "code"), text(&error["error"], "message"))
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no text {name} in {value}")).to_owned()
}
