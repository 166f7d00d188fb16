//! Standard error as people see it: log lines, and on a terminal one line below them that is redrawn in place.
//!
//! Whatever this process shows there goes through here, so that neither tears the other. Where standard error is no terminal,
//! or log lines are for programs, there are log lines alone.

use parking_lot::Mutex;
use std::io::{self, IsTerminal, Write};

/// Back to the first column, and nothing right of it.
const CLEAR: &str = "\r\x1b[K";
/// Columns of a terminal that does not say how many it has.
const COLUMNS_DEFAULT: usize = 80;
/// Columns that the bar takes between its brackets.
const BAR_COLUMNS: usize = 24;

/// There is one standard error.
static SCREEN: Mutex<Screen> = Mutex::new(Screen { live: false, below: String::new() });

/// What is on the screen below the log.
struct Screen {
    /// Whether anything may be.
    live: bool,
    /// The line; empty for none.
    below: String,
}

impl Screen {
    /// What to write for another line below.
    fn show(&mut self, line: String) -> String {
        if !self.live || line == self.below {
            return String::new();
        }
        self.below = line;
        format!("{CLEAR}{}", self.below)
    }

    /// What to write for a line of the log, which ends with its line break.
    fn log(&self, line: &str) -> String {
        if self.below.is_empty() { line.to_owned() } else { format!("{CLEAR}{line}{}", self.below) }
    }
}

/// A line below the log may be shown from now on, if people look at it; see [`is_live`].
pub(super) fn start() {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    SCREEN.lock().live = io::stderr().is_terminal() && !dumb;
}

/// Whether what is given to [`show`] is shown.
pub fn is_live() -> bool {
    SCREEN.lock().live
}

/// Shows how far something is below the log, or nothing any more: thousandths of the way, and the rest in words, which must
/// be printable ASCII.
pub fn show(progress: Option<(u64, &str)>) {
    let line = progress.map_or_else(String::new, |(permille, text)| line(permille, text, columns()));
    let mut screen = SCREEN.lock();
    write(&screen.show(line));
}

/// Writes a line of the log.
pub(super) fn log(line: &str) {
    let screen = SCREEN.lock();
    write(&screen.log(line));
}

/// Standard error that cannot be written must not stop what reports to it.
fn write(text: &str) {
    if !text.is_empty() {
        let mut stderr = io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes());
        let _ = stderr.flush();
    }
}

fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0).unwrap_or(COLUMNS_DEFAULT)
}

/// `[=====>      ] 45.6 % loading ...`, cut one column before the terminal would break it.
fn line(permille: u64, text: &str, columns: usize) -> String {
    let permille = usize::try_from(permille.min(1_000)).unwrap_or(1_000);
    let full = BAR_COLUMNS * permille / 1_000;
    let tip = if full < BAR_COLUMNS { ">" } else { "" };
    let bar = format!("{}{tip}", "=".repeat(full));
    let whole = format!("[{bar:<BAR_COLUMNS$}] {}.{} % {text}", permille / 10, permille % 10);
    whole.chars().take(columns.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_from_nothing_to_all() {
        assert_eq!(line(0, "x", 80), "[>                       ] 0.0 % x");
        assert_eq!(line(500, "x", 80), "[============>           ] 50.0 % x");
        assert_eq!(line(999, "x", 80), "[=======================>] 99.9 % x");
        for full in [1_000, u64::MAX] {
            assert_eq!(line(full, "x", 80), "[========================] 100.0 % x");
        }
        for columns in 0..60 {
            let cut = line(500, "loading blocks", columns);
            assert_eq!(cut.chars().count(), columns.saturating_sub(1).min(48), "{columns}");
        }
    }

    /// A log line takes the place of the line below and that one comes again after it, whole.
    #[test]
    fn the_log_does_not_tear_the_line_below() {
        let mut screen = Screen { live: true, below: String::new() };
        assert_eq!(screen.log("one\n"), "one\n");
        assert_eq!(screen.show("half".into()), "\r\x1b[Khalf");
        assert_eq!(screen.show("half".into()), "", "nothing has changed");
        assert_eq!(screen.log("two\n"), "\r\x1b[Ktwo\nhalf");
        assert_eq!(screen.show(String::new()), "\r\x1b[K");
        assert_eq!(screen.log("three\n"), "three\n");
    }

    #[test]
    fn without_a_terminal_there_is_the_log_alone() {
        let mut screen = Screen { live: false, below: String::new() };
        assert_eq!(screen.show("half".into()), "");
        assert_eq!(screen.log("one\n"), "one\n");
    }
}
