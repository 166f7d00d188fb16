//! What reaches the log, in which form, and how much of it.

use super::*;
use crate::clock::ManualClock;
use serde_json::Value;
use std::time::Duration;
use tracing::subscriber::with_default;

/// Runs `work` with a log into a file in a fresh folder, and returns what the file then holds.
fn logged(format: LogFormat, filter: &str, clock: Arc<ManualClock>, work: impl FnOnce()) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("setara.log");
    let file = RotatingFile::open(&path).unwrap();
    let sink = Sink { format, clock, call_sites: Mutex::default(), to_stderr: false, file: Mutex::new(Some(file)) };
    let subscriber = tracing_subscriber::registry().with(parse_filter(filter).unwrap()).with(sink);
    with_default(subscriber, work);
    std::fs::read_to_string(path).unwrap()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(1_793_491_200))
}

#[test]
fn text_lines_are_for_people() {
    let text = logged(LogFormat::Text, "info", clock(), || {
        tracing::info!(target: "setara_node::chain", height = 5, hash = %"ab", peer = "a b", "block {}", "connected");
        tracing::debug!(target: "setara_node::chain", "not at this level");
    });
    assert_eq!(text, "2026-11-01T00:00:00Z INFO  chain: block connected height=5 hash=ab peer=\"a b\"\n");
}

#[test]
fn json_lines_are_objects() {
    let text = logged(LogFormat::Json, "info", clock(), || {
        tracing::warn!(target: "setara_node::rpc", height = 5u64, ok = true, level = "fake", "quote \" and \u{85}");
    });
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        line,
        serde_json::json!({
            "time": "2026-11-01T00:00:00Z", "level": "WARN", "target": "rpc", "message": "quote \" and \u{85}",
            "height": 5, "ok": true, "level_": "fake"
        })
    );
    assert!(text.is_ascii());
}

/// RW9, ST16: nothing logged can forge a line, steer a terminal or hide text.
#[test]
fn control_characters_never_reach_the_log() {
    let hostile = "a\u{1b}[2Jb\nINFO forged\r\u{7f}\u{9b}\u{202e}";
    for format in [LogFormat::Text, LogFormat::Json] {
        let text = logged(format, "info", clock(), || {
            tracing::info!(agent = hostile, debug = ?hostile, display = %hostile, "agent {hostile}");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let line = text.strip_suffix('\n').unwrap();
        assert!(line.chars().all(|character| !character.is_control() && character != '\u{202e}'), "{line:?}");
    }
    let long = "x".repeat(100_000);
    let text = logged(LogFormat::Text, "info", clock(), || tracing::info!(long, "{long}"));
    assert!(text.len() < 10_000);
}

/// ST16: a million events from one place stay within the bound, other places are heard, and the gap is told.
#[test]
fn one_place_cannot_fill_the_disk() {
    let clock = clock();
    let moved = clock.clone();
    let text = logged(LogFormat::Text, "info", clock, || {
        let complain = |number: u32| tracing::info!(number, "invalid block");
        (0..1_000_000).for_each(complain);
        tracing::info!("another place");
        moved.advance(limit::WINDOW);
        (0..3).for_each(complain);
    });
    assert!(text.len() < limit::BYTES_MAX + 1024, "{}", text.len());
    let written = text.lines().filter(|line| line.contains("invalid block")).count();
    let end: Vec<&str> = text.lines().rev().take(5).collect();
    assert!(end[4].contains("another place"), "{end:?}");
    assert!(end[3].contains(&format!("too many dropped={}", 1_000_003 - written)), "{end:?}");
    assert!(end[0].contains("invalid block number=2"), "{end:?}");
}

#[test]
fn limits_are_per_place_and_window() {
    let mut sites = CallSites::default();
    assert_eq!(sites.admit("here", limit::BYTES_MAX, Duration::ZERO), Verdict::Write);
    assert_eq!(sites.admit("here", 1, Duration::from_secs(3599)), Verdict::Drop);
    assert_eq!(sites.admit("there", 1, Duration::from_secs(3599)), Verdict::Write);
    assert_eq!(sites.admit("here", 1, Duration::from_secs(3600)), Verdict::Resumed { dropped: 1 });
    assert_eq!(sites.admit("here", 1, Duration::from_secs(3601)), Verdict::Write);
}

#[test]
fn filters_name_parts_of_the_node() {
    let text = logged(LogFormat::Text, "warn,mempool=debug,other=info", clock(), || {
        tracing::debug!(target: "setara_node::mempool::pool", "yes: part");
        tracing::trace!(target: "setara_node::mempool", "no: below the part's level");
        tracing::info!(target: "setara_node::chain", "no: below the level of all");
        tracing::warn!(target: "setara_node::chain", "yes: the level of all");
        tracing::info!(target: "other", "yes: a library by name");
        tracing::info!(target: "hyper", "no: libraries are quiet");
    });
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.lines().all(|line| line.contains(": yes: ")), "{text}");
    for bad in ["loud", "mempool=loud", "=debug=", "mem pool=debug", "a[b]=debug", "mempool="] {
        assert!(check_filter(bad).is_err(), "{bad}");
    }
}
