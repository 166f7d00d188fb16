//! The walls of the house, held by reading its source: what pure modules may import, who may name what, how files open
//! and how long they grow, and that dependencies are those that were agreed on. It judges text, not behaviour.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a file past which it is time to split it.
const FILE_LINES_MAX: usize = 600;

/// Files that are longer, each for a reason.
const LONG_FILES: &[(&str, &str)] =
    &[("core/tests/rules.rs", "one table: a row per rule, which is read from end to end or not at all")];

/// What `core` never imports: I/O, clocks, threads, logging, randomness of its own, maps of random order.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::process",
    "std::time",
    "std::thread",
    "SystemTime",
    "Instant",
    "HashMap",
    "HashSet",
    "tracing::",
    "tokio",
    "rayon",
    "getrandom",
    "rand::",
    "OsRng",
    "println!",
];

/// Where the node may ask for monotonic time without a `Clock`: deadlines of waits that the operating system or the
/// runtime keeps, and how often progress is told. No result depends on either, and no test moves them by hand.
const DEADLINE_FILES: &[&str] = &[
    "node/src/chain/events.rs",
    "node/src/chain/queue.rs",
    "node/src/index/follower.rs",
    "node/src/prune.rs",
    "node/src/rpc/stall.rs",
    "node/src/snapshot/history.rs",
];

/// Crates of which another version could give another verdict.
const CONSENSUS_CRATES: &[&str] = &["bech32", "bincode", "chacha20", "ed25519-dalek", "ed25519-zebra", "ruint", "sha2"];

/// The one crate outside the workspace.
const OWN_WORKSPACE: &str = "fuzz";

/// Folders that are not ours or not source.
const SKIPPED: &[&str] = &["target", "node_modules"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_path_buf()
}

/// Every text of the repository by its path from the root; of hidden folders only the two that are ours.
fn texts() -> BTreeMap<String, String> {
    fn walk(folder: &Path, root: &Path, texts: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).expect("the source can be read") {
            let path = entry.expect("the source can be read").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let hidden = name.starts_with('.') && ![".ci", ".cargo", ".gitignore"].contains(&name);
            if hidden || SKIPPED.contains(&name) {
                continue;
            }
            if path.is_dir() {
                walk(&path, root, texts);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
                texts.insert(path, text);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&root(), &root(), &mut found);
    found
}

/// Rust files below a folder.
fn rust_files(folder: &str) -> BTreeMap<String, String> {
    texts().into_iter().filter(|(path, _)| path.starts_with(folder) && path.ends_with(".rs")).collect()
}

/// Whether a whole file is a test's.
fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.contains("/benches/") || path.ends_with("tests.rs") || path.ends_with("vectors.rs")
}

/// The lines that ship, numbered from 1: without comments, and without what follows a file's first test module.
fn shipped(text: &str) -> Vec<(usize, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0].trim() == "#[cfg(test)]" && pair[1].starts_with("mod "));
    let lines = lines.into_iter().take(tests.unwrap_or(usize::MAX)).enumerate();
    lines.filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(index, line)| (index + 1, line)).collect()
}

/// Whether `line` names `what`, not merely a longer word that begins or ends with it.
fn names(line: &str, what: &str) -> bool {
    let word =
        |character: Option<char>| character.is_some_and(|character| character.is_alphanumeric() || character == '_');
    line.match_indices(what).any(|(start, _)| {
        let before = word(line[..start].chars().next_back());
        let after =
            what.ends_with(|last: char| last.is_alphanumeric()) && word(line[start + what.len()..].chars().next());
        !before && !after
    })
}

/// All offences as one failure, so that one run shows them all.
fn none(offences: Vec<String>) {
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

#[test]
fn core_is_pure() {
    let mut offences = Vec::new();
    for (path, text) in rust_files("core/src/").iter().filter(|(path, _)| !is_test(path)) {
        for (number, line) in shipped(text) {
            for impure in IMPURE.iter().filter(|impure| names(line, impure)) {
                offences.push(format!("{path}:{number}: core must not use {impure}"));
            }
        }
    }
    none(offences);
}

/// What the peers' brain never uses: sockets, files, clocks, threads, randomness but the one handed in, maps of random
/// order.
const IMPURE_BRAIN: &[&str] = &[
    "std::fs",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant",
    "HashMap",
    "HashSet",
    "tokio",
    "rayon",
    "getrandom",
    "rand::rng",
    "OsRng",
    "TcpStream",
    "println!",
];

#[test]
fn the_brain_is_pure() {
    let mut offences = Vec::new();
    let pure = |path: &str| {
        let brain = path.starts_with("node/src/p2p/brain");
        let seeder = ["node/src/seeder/crawler.rs", "node/src/seeder/directory.rs"].contains(&path);
        (brain || seeder) && !is_test(path)
    };
    for (path, text) in rust_files("node/src/").iter().filter(|(path, _)| pure(path)) {
        for (number, line) in shipped(text) {
            for impure in IMPURE_BRAIN.iter().filter(|impure| names(line, impure)) {
                offences.push(format!("{path}:{number}: the brain must not use {impure}"));
            }
        }
    }
    none(offences);
}

#[test]
fn one_file_names_bincode() {
    let mut offences = Vec::new();
    for (path, text) in rust_files("").iter().filter(|(path, _)| *path != "core/src/codec.rs" && !is_test(path)) {
        for (number, line) in shipped(text).into_iter().filter(|(_, line)| names(line, "bincode")) {
            offences.push(format!("{path}:{number}: only core/src/codec.rs may name bincode: {}", line.trim()));
        }
    }
    none(offences);
}

#[test]
fn one_file_reads_the_clock() {
    let mut offences = Vec::new();
    for (path, text) in
        rust_files("node/src/").iter().filter(|(path, _)| *path != "node/src/clock.rs" && !is_test(path))
    {
        for (number, line) in shipped(text) {
            let unix = names(line, "SystemTime");
            let monotonic = line.contains("Instant::now") && !DEADLINE_FILES.contains(&path.as_str());
            if unix || monotonic {
                offences.push(format!("{path}:{number}: take a Clock: {}", line.trim()));
            }
        }
    }
    for path in DEADLINE_FILES {
        let text = rust_files(path).remove(*path).unwrap_or_default();
        if !text.contains("Instant::now") {
            offences.push(format!("{path}: listed as reading deadlines, but does not"));
        }
    }
    none(offences);
}

/// A `Height` recorded by its `Display` is a text in a JSON line; who reads the log wants a number.
#[test]
fn heights_are_logged_as_numbers() {
    let by_display = |line: &str| {
        ["%height", "%base", "height = %", "base = %", "bodies_from = %"].iter().any(|form| line.contains(form))
    };
    assert!(by_display("info!(%height, ..") && by_display("info!(hash, height = %tip.height, .."));
    let mut offences = Vec::new();
    for (path, text) in rust_files("node/src/") {
        for (number, line) in shipped(&text).into_iter().filter(|(_, line)| by_display(line)) {
            offences.push(format!("{path}:{number}: record the number, `.get()`: {}", line.trim()));
        }
    }
    none(offences);
}

/// SC6: no unsafe code of ours, in any crate.
#[test]
fn unsafe_code_is_forbidden_everywhere() {
    let manifests = texts().into_iter().filter(|(path, _)| path.ends_with("Cargo.toml"));
    let mut offences = Vec::new();
    for (path, text) in manifests {
        let manifest: toml::Table = text.parse().expect("a manifest is TOML");
        let lints = if path == "Cargo.toml" { manifest["workspace"].get("lints") } else { manifest.get("lints") };
        let lints = lints.and_then(toml::Value::as_table).cloned().unwrap_or_default();
        let inherits = lints.get("workspace").and_then(toml::Value::as_bool) == Some(true);
        let forbids = lints.get("rust").and_then(|rust| rust.get("unsafe_code")).and_then(toml::Value::as_str);
        if !inherits && forbids != Some("forbid") {
            offences.push(format!("{path}: unsafe_code is not forbidden"));
        }
    }
    none(offences);
}

#[test]
fn every_file_says_what_it_is() {
    let silent = rust_files("").into_iter().filter(|(_, text)| !text.starts_with("//! "));
    none(silent.map(|(path, _)| format!("{path}: opens without `//!`")).collect());
}

#[test]
fn files_stay_readable() {
    let mut offences = Vec::new();
    for (path, text) in rust_files("") {
        let lines = text.lines().count();
        let excepted = LONG_FILES.iter().any(|(long, _)| *long == path);
        if lines > FILE_LINES_MAX && !excepted {
            offences.push(format!("{path}: {lines} lines; split it, or list it in LONG_FILES with the reason"));
        }
        if lines <= FILE_LINES_MAX && excepted {
            offences.push(format!("{path}: {lines} lines; LONG_FILES need not list it any more"));
        }
    }
    none(offences);
}

/// Marks of unfinished work, and of the machine it was done on. In halves, so that this file does not find itself.
#[test]
fn nothing_is_left_lying_about() {
    let marks: Vec<String> = [
        ("TO", "DO"),
        ("FIX", "ME"),
        ("XX", "X"),
        ("to", "do!("),
        ("unimpl", "emented!("),
        ("db", "g!("),
        ("/wo", "rk/"),
        ("/ro", "ot/"),
        ("/ho", "me/"),
        ("shared/", "design"),
        ("TEAM", ".md"),
        ("CONTRACT", ".md"),
    ]
    .iter()
    .map(|(head, tail)| format!("{head}{tail}"))
    .collect();
    let mut offences = Vec::new();
    for (path, text) in texts().iter().filter(|(path, _)| *path != "Cargo.lock") {
        for (index, line) in text.lines().enumerate() {
            for mark in marks.iter().filter(|mark| names(line, mark)) {
                offences.push(format!("{path}:{}: {mark}", index + 1));
            }
        }
    }
    none(offences);
}

/// Code waits on conditions: a bare sleep is either too short on a busy machine or wasted. Polls name their pause, and a
/// random moment that is a test's input says so on the line above.
#[test]
fn sleeps_are_polls() {
    let mut offences = Vec::new();
    for (path, text) in rust_files("").iter().filter(|(path, _)| *path != "tests/tests/tidy.rs") {
        let mut above = "";
        for (index, line) in text.lines().enumerate() {
            let meant =
                line.contains("POLL") || line.contains("PAUSE") || above.trim_start().starts_with("// Not a wait");
            if line.contains("thread::sleep(") && !meant {
                offences.push(format!("{path}:{}: wait on a condition with a deadline", index + 1));
            }
            above = line;
        }
    }
    none(offences);
}

/// Links between pages lead somewhere.
#[test]
fn links_between_pages_hold() {
    let mut offences = Vec::new();
    for (path, text) in texts().iter().filter(|(path, _)| path.ends_with(".md")) {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let target = link.split('#').next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://") || target.contains(' ');
            let folder = root().join(path).parent().expect("a page lies in a folder").to_path_buf();
            if !outside && !folder.join(target).exists() {
                offences.push(format!("{path}: {link} leads nowhere"));
            }
        }
    }
    none(offences);
}

fn parsed(name: &str) -> toml::Table {
    let text = std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    text.parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Name, version, source and checksum of every package in the lock file.
fn locked() -> Vec<(String, String, Option<String>, bool)> {
    let lock = parsed("Cargo.lock");
    let text = |package: &toml::Value, key: &str| package.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    let packages = lock["package"].as_array().expect("a lock file lists packages");
    let row = |package: &toml::Value| {
        let name = text(package, "name").expect("a package has a name");
        let version = text(package, "version").expect("a package has a version");
        (name, version, text(package, "source"), text(package, "checksum").is_some())
    };
    packages.iter().map(row).collect()
}

/// What cargo resolves for this machine from the lock file alone; nothing is fetched.
fn metadata() -> Result<serde_json::Value, String> {
    let version = Command::new("rustc").arg("-vV").output().expect("rustc is there");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", host])
        .current_dir(root())
        .output()
        .expect("cargo is there");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).expect("cargo prints JSON"))
}

/// SC1: the lock file is there and in step with the manifests.
#[test]
fn the_lock_file_is_in_step() {
    metadata().unwrap();
}

/// Every dependency can be used under a licence that deny.toml allows.
#[test]
fn licences_are_allowed() {
    let deny = parsed("deny.toml");
    let allowed: Vec<&str> =
        deny["licenses"]["allow"].as_array().unwrap().iter().filter_map(toml::Value::as_str).collect();
    let allows = |expression: &str| {
        // No expression in use nests deeper: every part that all must hold has an allowed alternative.
        let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
        plain.split(" AND ").all(|part| part.split(" OR ").any(|licence| allowed.contains(&licence.trim())))
    };
    let metadata = metadata().unwrap();
    let mut offences = Vec::new();
    for package in metadata["packages"].as_array().expect("there are packages") {
        let licence = package["license"].as_str().unwrap_or("none");
        if !allows(licence) {
            offences.push(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    none(offences);
}

/// SC1: everything comes from the one registry with a checksum, except our own crates.
#[test]
fn dependencies_come_from_one_registry() {
    const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
    let mut offences = Vec::new();
    for (name, version, source, checksum) in locked() {
        let ours = source.is_none() && name.starts_with("setara-");
        if !ours && (source.as_deref() != Some(REGISTRY) || !checksum) {
            offences.push(format!("{name} {version}: from {source:?}, checksum: {checksum}"));
        }
    }
    none(offences);
}

/// SC1: crates that deny.toml bans are not in the lock file, at the banned versions at least.
#[test]
fn banned_crates_are_absent() {
    let deny = parsed("deny.toml");
    let banned = deny["bans"]["deny"].as_array().expect("deny.toml bans crates");
    let locked = locked();
    let mut offences = Vec::new();
    for entry in banned {
        let banned = entry["crate"].as_str().expect("a ban names a crate");
        let (name, version) = banned.split_once('@').map_or((banned, None), |(name, version)| (name, Some(version)));
        let is_banned = |locked: &str| version.is_none_or(|version| version.trim_start_matches('=') == locked);
        for (_, version, ..) in locked.iter().filter(|(locked, version, ..)| locked == name && is_banned(version)) {
            offences.push(format!("{name} {version} is banned: {}", entry["reason"]));
        }
    }
    none(offences);
    assert!(banned.iter().any(|entry| entry["crate"].as_str() == Some("proc-macro1")));
}

/// SC1: what can change a verdict is pinned exactly, and is there once.
#[test]
fn consensus_crates_are_pinned() {
    let manifest = parsed("Cargo.toml");
    let locked = locked();
    let mut offences = Vec::new();
    for name in CONSENSUS_CRATES {
        let dependency = &manifest["workspace"]["dependencies"][*name];
        let version = dependency.as_str().or_else(|| dependency.get("version")?.as_str()).unwrap_or_default();
        match version.strip_prefix('=') {
            None => offences.push(format!("{name}: `{version}` is no exact pin")),
            Some(pin) if !locked.iter().any(|(locked, version, ..)| locked == name && version == pin) => {
                offences.push(format!("{name}: {pin} is pinned, but not locked"));
            }
            Some(_) => {}
        }
    }
    // Direct dependencies of core and nothing more: each can change a verdict or is named here as unable to.
    const HARMLESS: &[&str] = &["hex", "rand_core", "serde", "serde_json", "thiserror", "zeroize"];
    for name in parsed("core/Cargo.toml")["dependencies"].as_table().expect("core has dependencies").keys() {
        if !CONSENSUS_CRATES.contains(&name.as_str()) && !HARMLESS.contains(&name.as_str()) {
            offences.push(format!("core depends on {name}: pin it exactly and list it, or say that it is harmless"));
        }
    }
    none(offences);
}

/// Every dependency has its reason, and no reason outlives its dependency.
#[test]
fn every_dependency_has_a_reason() {
    let page = std::fs::read_to_string(root().join("docs/dependencies.md")).expect("docs/dependencies.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let reasons: BTreeSet<String> = rows.map(|(name, _)| name.to_owned()).collect();
    let manifest = parsed("Cargo.toml");
    let dependencies = manifest["workspace"]["dependencies"].as_table().expect("the workspace has dependencies");
    let ours = |name: &&String| !name.starts_with("setara-");
    let mut names: BTreeSet<String> = dependencies.keys().filter(ours).cloned().collect();
    let fuzzing = parsed(&format!("{OWN_WORKSPACE}/Cargo.toml"));
    let fuzzing = fuzzing["dependencies"].as_table().expect("the fuzz targets have dependencies");
    names.extend(fuzzing.keys().filter(ours).cloned());
    let missing = names.difference(&reasons).map(|name| format!("{name}: no reason in docs/dependencies.md"));
    let stale = reasons.difference(&names).map(|name| format!("{name}: in docs/dependencies.md, but not a dependency"));
    none(missing.chain(stale).collect());
}

/// Versions stand in one place: members inherit theirs.
#[test]
fn members_inherit_versions() {
    let mut offences = Vec::new();
    let member = |path: &str| path.ends_with("/Cargo.toml") && !path.starts_with(OWN_WORKSPACE);
    for (path, text) in texts().into_iter().filter(|(path, _)| member(path)) {
        let manifest: toml::Table = text.parse().expect("a manifest is TOML");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, dependency) in manifest.get(section).and_then(toml::Value::as_table).into_iter().flatten() {
                let inherits = dependency.get("workspace").and_then(toml::Value::as_bool) == Some(true);
                if !inherits && dependency.get("path").is_none() {
                    offences.push(format!("{path}: {name} does not inherit its version"));
                }
            }
        }
    }
    none(offences);
}
