//! What `make` runs, run: the network of three on one machine, to its end and cut off in the middle; and what looks for
//! packages, on a machine of stand-ins.

use rustix::process::{Pid, Signal, kill_process};
use setara_tests::process::{binary, wait_until};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// `scripts/net` with its data in `folder`.
fn net(folder: &Path) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let node = binary("setara-node");
    // The wallet lies beside it, and must have been built too.
    binary("setara-wallet");
    let mut command = Command::new(root.join("scripts/net"));
    command.arg(node.parent().unwrap()).env("SETARA_NET_DIR", folder).env_remove("NET_BLOCKS");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Command lines of the processes that have to do with `folder`: named in their arguments or their environment.
fn processes_of(folder: &Path) -> Vec<String> {
    let name = folder.to_str().unwrap().as_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.parse::<u32>() != Ok(std::process::id()));
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let (line, environment) = (read("cmdline"), read("environ"));
        let names_it = |bytes: &[u8]| bytes.windows(name.len()).any(|part| part == name);
        if ours && (names_it(&line) || names_it(&environment)) {
            found.push(String::from_utf8_lossy(&line).replace('\0', " "));
        }
    }
    found
}

/// The rows of the table: height, block, what A, B and C did, and their peers.
fn rows(output: &str) -> Vec<Vec<String>> {
    let words = |line: &str| line.replace(" ms", "ms").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let is_row = |row: &Vec<String>| row.len() == 8 && row[0].parse::<u32>().is_ok() && row[1].len() == 12;
    output.lines().map(words).filter(is_row).collect()
}

/// Six blocks, each by another node of those that run; A misses two of them and catches up. A second run goes on.
#[test]
fn net_of_three_loses_one_and_gets_it_back() {
    let directory = tempfile::tempdir().unwrap();
    for run in 0..2u32 {
        let output = net(directory.path()).env("NET_BLOCKS", "6").output().unwrap();
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{text}\n{errors}");
        assert_eq!(processes_of(directory.path()), Vec::<String>::new(), "{text}");
        let rows = rows(&text);
        assert_eq!(rows.len(), 6, "{text}\n{errors}");
        for (index, (row, miner)) in rows.iter().zip("ABCBCA".chars()).enumerate() {
            assert_eq!(row[0], (run * 6 + index as u32 + 1).to_string(), "{text}");
            let away = index == 2 || index == 3;
            for (name, cell) in ['A', 'B', 'C'].into_iter().zip(&row[2..5]) {
                let in_time = |cell: &str| cell.strip_suffix("ms").is_some_and(|ms| ms.parse::<u64>().is_ok());
                match name {
                    'A' if away => assert_eq!(cell, "away", "{text}"),
                    name if name == miner => assert_eq!(cell, "mined", "{text}"),
                    _ => assert!(in_time(cell), "{cell}: {text}"),
                }
            }
            let peers: Vec<Option<u32>> = row[5..].iter().map(|count| count.parse().ok()).collect();
            assert_eq!(peers[0].is_none(), away, "{text}");
            assert!(peers[1..].iter().all(|count| count.is_some_and(|count| count >= 1)), "{text}");
        }
        assert!(text.contains("A is back by C's invite, and has the 2 blocks it missed"), "{text}");
        let summary = text.lines().last().unwrap_or_default();
        assert!(summary.starts_with("6 blocks, mined by A 2, B 2, C 2;"), "{text}");
        assert!(text.chars().all(|character| !character.is_control() || character == '\n'), "plain without a terminal");
    }
}

/// Killed when the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Told to stop, or killed without a chance to clean up: no process stays behind.
#[test]
fn net_leaves_nothing_running() {
    for (signal, code) in [(Signal::TERM, Some(143)), (Signal::KILL, None)] {
        let directory = tempfile::tempdir().unwrap();
        let mut script = Running(net(directory.path()).spawn().unwrap());
        let mut lines = BufReader::new(script.0.stdout.take().unwrap()).lines();
        let mined = lines.by_ref().map_while(Result::ok).find(|line| !rows(line).is_empty());
        assert!(mined.is_some(), "it mines");
        assert!(processes_of(directory.path()).len() >= 3, "three nodes run");
        let pid = Pid::from_child(&script.0);
        kill_process(pid, signal).unwrap();
        assert_eq!(script.0.wait().unwrap().code(), code);
        wait_until("the end of all that was started", || processes_of(directory.path()).is_empty().then_some(()));
    }
}

/// A fresh machine has no package lists: they are fetched before a package is called missing. Where it is missing, the
/// message says what to do. Everything that the script runs is a stand-in, but for the tools of text.
#[test]
fn dependencies_are_looked_for_in_fresh_lists() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("scripts/dependencies");
    for offered in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        for tool in ["bash", "env", "cat", "cut", "date", "dirname", "grep", "head", "sort", "touch", "uname"] {
            let found =
                ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool)).into_iter().find(|tool| tool.exists());
            std::os::unix::fs::symlink(found.unwrap_or_else(|| panic!("no {tool}")), place(tool)).unwrap();
        }
        let stand_in = |name: &str, body: &str| {
            std::fs::write(place(name), format!("#!/bin/bash\n{body}\n")).unwrap();
            let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(place(name), executable).unwrap();
        };
        let lists = place("lists");
        let lists = lists.display();
        let candidate = if offered { "1.27" } else { "(none)" };
        stand_in("id", "echo 0");
        // Whatever is asked about is installed, but for rustup.
        stand_in("dpkg-query", "[[ \"$*\" == *rustup* ]] || echo 'install ok installed'");
        stand_in("apt-get", &format!("[[ \"$*\" != *update* ]] || touch {lists}"));
        let body = format!("[ -e {lists} ] && echo '  Candidate: {candidate}' || echo '  Candidate: (none)'");
        stand_in("apt-cache", &body);
        stand_in("rustup", "");
        stand_in("rustc", "echo 'rustc 9.9.0 (a stand-in)'");
        let output = Command::new(place("bash"))
            .arg(&script)
            .arg("build")
            .env_clear()
            .env("PATH", directory.path())
            .env("HOME", directory.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), offered, "{said}");
        assert!(place("lists").exists(), "the lists were never fetched: {said}");
        if !offered {
            for part in ["Missing: Rust", "sh.rustup.rs", "Debian has it from 13 on", "install.sh"] {
                assert!(said.contains(part), "{part}: {said}");
            }
        }
    }
}
