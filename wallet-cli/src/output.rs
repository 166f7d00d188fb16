//! What people and programs see: tables, QR codes, JSON; results on standard output, everything else on standard
//! error. The one gate through which a node's words pass.

use qrcode::render::unicode;
use qrcode::{EcLevel, QrCode};
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// Characters of a node's text that are shown: enough for a reason, too few for a story.
const FOREIGN_CHARS_MAX: usize = 160;

/// A text that came from a node, made harmless: quoted, printable ASCII only, everything else escaped, and short.
///
/// Terminals obey control characters, right-to-left marks can turn a line around, and a long message can pose as
/// the program's own (as one did to Electrum's users in 2018).
pub fn foreign(text: &str) -> String {
    let mut shown = String::from("\"");
    for character in text.chars().take(FOREIGN_CHARS_MAX) {
        match character {
            '"' | '\\' => shown.extend(['\\', character]),
            ' '..='~' => shown.push(character),
            other => shown.extend(other.escape_unicode()),
        }
    }
    if text.chars().nth(FOREIGN_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    shown.push('"');
    shown
}

/// Rows of text under headings; columns named in `right` are aligned right. Cells are plain ASCII.
pub fn table(headings: &[&str], right: &[&str], rows: &[Vec<String>]) -> String {
    let headings: Vec<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&headings).chain(rows).collect();
    let widths: Vec<usize> = (0..headings.len())
        .map(|column| lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&headings).zip(&widths).map(|((cell, heading), width)| {
            if right.contains(&heading.as_str()) { format!("{cell:>width$}") } else { format!("{cell:width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Lines `name  value`, aligned.
pub fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A QR code of half-block characters, dark on light; `None` if the text is too long for one.
///
/// Upper case fits the code's alphanumeric mode and makes it smaller; addresses read the same in either case.
pub fn qr(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text.to_uppercase(), EcLevel::M).ok()?;
    // The crate's names mean ink on paper; a terminal's ink is light. So the light modules are painted...
    let (ink, none) = (unicode::Dense1x2::Dark, unicode::Dense1x2::Light);
    let image = code.render::<unicode::Dense1x2>().light_color(ink).dark_color(none).build();
    if !io::stdout().is_terminal() {
        return Some(image);
    }
    // ...white on black, whatever colours the terminal has.
    Some(image.lines().map(|line| format!("\x1b[97;40m{line}\x1b[0m\n")).collect::<String>().trim_end().to_owned())
}

/// One JSON value on one line of standard output.
pub fn json(value: &Value) -> io::Result<()> {
    text(&format!("{value}\n"))
}

/// Text on standard output; a closed pipe (`| head`) is no failure.
pub fn text(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Whether a person can answer questions: both ends are a terminal.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// A line that the user types in answer to a question on standard error; `None` at the end of input.
pub fn ask_line(question: &str) -> io::Result<Option<String>> {
    note(question);
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line)?;
    Ok((read > 0).then(|| line.trim().to_owned()))
}

/// A note for people on standard error, which may be closed; with `json` as `{"warning":{"code","message"}}`, so that
/// every line there can be read by a program.
pub fn warning(json: bool, code: &str, message: &str) {
    note(&match json {
        true => format!("{}\n", serde_json::json!({ "warning": { "code": code, "message": message } })),
        false => format!("Warning: {message}.\n"),
    });
}

/// Text on standard error. That nobody reads it is no reason to fail.
pub fn note(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A duration in its largest unit that it fills twice, `3 days`.
pub fn duration(seconds: u64) -> String {
    let units = [(86_400, "days"), (3_600, "hours"), (60, "minutes")];
    let unit = units.into_iter().find(|(unit, _)| seconds / unit >= 2);
    unit.map_or_else(|| format!("{seconds} seconds"), |(unit, name)| format!("{} {name}", seconds / unit))
}

/// An instant as `2026-11-05 14:03:22` in UTC.
///
/// Days to civil date by Howard Hinnant's algorithm (public domain), for years from 1970 on.
pub fn utc(unix_seconds: u64) -> String {
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WK11. Electrum's servers could show a message that sent users to a thief's download page.
    #[test]
    fn a_nodes_words_cannot_drive_the_terminal() {
        let hostile = "\x1b[2J\r\nUpdate now:\u{202e}moc.live\u{7}\t\u{9b}31m \"quoted\" \\";
        let shown = foreign(hostile);
        assert!(shown.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{shown}");
        assert!(shown.starts_with('"') && shown.ends_with('"'));
        assert!(shown.contains("\\u{1b}") && shown.contains("\\u{202e}") && shown.contains("\\\"quoted\\\""));
        assert!(foreign(&"x".repeat(1 << 20)).len() < FOREIGN_CHARS_MAX + 8);
        assert!(foreign(&"\u{10ffff}".repeat(1 << 20)).len() < FOREIGN_CHARS_MAX * 10 + 8);
        assert_eq!(foreign(""), "\"\"");
        assert_eq!(foreign("min-relay-fee-not-met"), "\"min-relay-fee-not-met\"");
    }

    #[test]
    fn tables_are_aligned_and_plain() {
        let rows = vec![vec!["a".into(), "1.5".into()], vec!["bbb".into(), "10.25".into()]];
        let shown = table(&["NAME", "AMOUNT"], &["AMOUNT"], &rows);
        assert_eq!(shown, "NAME  AMOUNT\na        1.5\nbbb    10.25\n");
        assert_eq!(pairs(&[("to", "x".into()), ("amount", "1".into())]), "to      x\namount  1\n");
    }

    #[test]
    fn dates_are_right_around_leap_days_and_year_ends() {
        let known = [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_709_164_800, "2024-02-29 00:00:00"),
            (4_102_444_799, "2099-12-31 23:59:59"),
            (4_294_967_295, "2106-02-07 06:28:15"),
        ];
        for (seconds, text) in known {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn durations_are_in_units_that_mean_something() {
        let shown = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(duration);
        assert_eq!(shown, ["0 seconds", "119 seconds", "2 minutes", "119 minutes", "2 hours", "47 hours", "2 days"]);
    }

    #[test]
    fn qr_codes_fit_addresses() {
        let code = qr(&format!("dset1{}", "q".repeat(85))).unwrap();
        let lines: Vec<&str> = code.lines().collect();
        assert!(lines.len() > 10 && lines.len() < 40);
        assert!(qr(&"x".repeat(10_000)).is_none());
    }
}
