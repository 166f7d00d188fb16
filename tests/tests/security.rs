//! Holds `docs/security.md` to the tree: every row is there, every file it names exists, every test it names is a test,
//! and a row without one gives a reason. It does not judge whether a test proves its row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Rows that this version must answer for, as prefix and numbers.
const BUILT: &[(&str, &[u32])] = &[
    ("CS", &[1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]),
    ("PT", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ("ST", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]),
    ("TH", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
    ("AE", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ("BR", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
    ("MP", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]),
    ("RW", &[1, 2, 3, 4, 5, 6, 7, 8]),
    ("SM", &[6]),
    ("WK", &[1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]),
    ("SC", &[1, 6]),
];

/// Highest number of each prefix: a row is either built or in the table of what is not.
const ALL: &[(&str, u32)] = &[
    ("CS", 21),
    ("PT", 10),
    ("ST", 18),
    ("TH", 12),
    ("AE", 10),
    ("BR", 16),
    ("MP", 14),
    ("RW", 9),
    ("SM", 9),
    ("WK", 12),
    ("SC", 6),
];

/// Shortest reason that says anything.
const REASON_CHARS_MIN: usize = 40;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_path_buf()
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/security.md")).expect("docs/security.md can be read")
}

/// One `### ID title` section: its labelled paragraphs (`Defence: ..`) by label.
fn sections(page: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    const LABELS: [&str; 5] = ["Attack", "Fault", "Defence", "Tests", "Not tested"];
    let mut sections = BTreeMap::new();
    for section in page.split("\n### ").skip(1) {
        let section = section.split("\n## ").next().unwrap_or(section);
        let (heading, body) = section.split_once('\n').unwrap_or((section, ""));
        let id = heading.split_whitespace().next().unwrap_or_default();
        let mut parts: BTreeMap<String, String> = BTreeMap::new();
        let mut current = None;
        for line in body.lines() {
            let labelled = line.split_once(": ").filter(|(label, _)| LABELS.contains(label));
            if let Some((label, rest)) = labelled {
                assert!(parts.insert(label.to_owned(), rest.to_owned()).is_none(), "{id} has two lines {label}:");
                current = Some(label);
            } else if let Some(text) = current.and_then(|label| parts.get_mut(label)) {
                text.push(' ');
                text.push_str(line.trim());
            }
        }
        assert!(sections.insert(id.to_owned(), parts).is_none(), "row {id} stands twice");
    }
    sections
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Why `path::function` is not a test of the tree, if it is not.
fn not_a_test(name: &str) -> Option<String> {
    let Some((path, function)) = name.split_once("::") else {
        return Some(format!("`{name}` is not of the form path::function"));
    };
    let Ok(source) = std::fs::read_to_string(root().join(path)) else {
        return Some(format!("`{name}`: there is no file {path}"));
    };
    if path.ends_with(".rs") { not_a_rust_test(&source, function) } else { not_a_script_test(&source, function) }
        .map(|why| format!("`{name}`: {why}"))
}

/// A Rust test is a function with a test attribute on a line directly above it, doc comments aside.
fn not_a_rust_test(source: &str, function: &str) -> Option<String> {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let is_head = |line: &str| {
        let line = line.trim_start_matches("pub ").trim_start_matches("async ");
        line.strip_prefix("fn ").and_then(|rest| rest.strip_prefix(function)).is_some_and(|rest| rest.starts_with('('))
    };
    let Some(at) = lines.iter().position(|line| is_head(line)) else {
        return Some("there is no such function".to_owned());
    };
    let above = lines[..at].iter().rev();
    let mut attributes = above.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    let is_test = attributes.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
    (!is_test).then(|| "the function is not a test".to_owned())
}

/// The tests in other languages (client compatibility) are functions or names in quotes.
fn not_a_script_test(source: &str, function: &str) -> Option<String> {
    let forms = [format!("def {function}("), format!("function {function}("), format!("\"{function}\"")];
    (!forms.iter().any(|form| source.contains(form.as_str()))).then(|| "there is no such test".to_owned())
}

#[test]
fn every_row_names_a_test_that_exists_or_a_reason() {
    let page = page();
    let sections = sections(&page);
    let wanted: BTreeSet<String> = BUILT
        .iter()
        .flat_map(|(prefix, numbers)| numbers.iter().map(move |number| format!("{prefix}{number}")))
        .collect();
    let found: BTreeSet<String> = sections.keys().cloned().collect();
    let mut problems: Vec<String> =
        wanted.symmetric_difference(&found).map(|id| format!("{id} is missing or extra")).collect();
    let mut named = 0;
    for (id, parts) in &sections {
        if parts.contains_key("Attack") == parts.contains_key("Fault") {
            problems.push(format!("{id} needs a line Attack: or Fault:"));
        }
        if parts.get("Defence").is_none_or(|defence| defence.len() < REASON_CHARS_MIN) {
            problems.push(format!("{id} needs a line Defence:"));
        }
        let tests: Vec<&str> = parts.get("Tests").map(|tests| quoted(tests).collect()).unwrap_or_default();
        let reason = parts.get("Not tested").is_some_and(|reason| reason.len() >= REASON_CHARS_MIN);
        if tests.is_empty() && !reason {
            problems.push(format!("{id} names neither a test nor a reason"));
        }
        named += tests.len();
        problems.extend(tests.into_iter().filter_map(not_a_test).map(|why| format!("{id}: {why}")));
    }
    assert!(problems.is_empty(), "docs/security.md:\n{}", problems.join("\n"));
    assert!(named > BUILT.len(), "the page names {named} tests: its form was not understood");
}

#[test]
fn every_row_of_later_work_is_listed_as_such() {
    let page = page();
    let built = sections(&page);
    let table: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .filter(|cell| cell.ends_with(|last: char| last.is_ascii_digit()))
        .collect();
    for (prefix, last) in ALL {
        for id in (1..=*last).map(|number| format!("{prefix}{number}")) {
            let both = (built.contains_key(&id), table.contains(id.as_str()));
            assert!(matches!(both, (true, false) | (false, true)), "{id} must stand in exactly one place");
        }
    }
}

/// A defence that names a file which has moved is a defence nobody checked.
#[test]
fn every_file_that_the_page_names_exists() {
    let page = page();
    let is_path = |text: &&str| {
        let ending = [".rs", ".toml", ".py", ".js", ".json", ".sh", "/"].iter().any(|ending| text.ends_with(ending));
        ending && text.contains('/') && !text.contains([' ', ':', '*'])
    };
    let missing: Vec<&str> =
        page.split("\n\n").flat_map(quoted).filter(is_path).filter(|path| !root().join(path).exists()).collect();
    assert!(missing.is_empty(), "docs/security.md names what is not there: {missing:?}");
}

/// The checks above would pass on anything if this did not hold.
#[test]
fn the_checker_tells_tests_from_other_functions() {
    let source =
        "/// ST1.\n#[test]\nfn real() {}\n\nfn helper() {}\n#[tokio::test]\nasync fn later() {}\n// fn ghost()\n";
    assert_eq!(not_a_rust_test(source, "real"), None);
    assert_eq!(not_a_rust_test(source, "later"), None);
    assert!(not_a_rust_test(source, "helper").is_some());
    assert!(not_a_rust_test(source, "ghost").is_some());
    assert!(not_a_rust_test(source, "rea").is_some());
    assert!(not_a_test("tests/tests/security.rs::root").is_some());
    assert!(not_a_test("tests/tests/nowhere.rs::root").is_some());
    assert!(not_a_test("root").is_some());
}
