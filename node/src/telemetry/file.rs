//! A log file that is moved aside when it is large, and of which few old ones are kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes after which a file is moved aside.
pub(super) const BYTES_MAX: u64 = 100 * 1024 * 1024;
/// Old files that are kept: with the current one at most 600 MiB.
pub(super) const OLD_FILES: u32 = 5;

/// An open log file.
pub(super) struct RotatingFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl RotatingFile {
    /// Appends to `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(path, BYTES_MAX)
    }

    /// Appends to `path` and rotates at `bytes_max`.
    pub(super) fn open_with(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, bytes_max })
    }

    /// Appends one line. What cannot be written is lost: the disk may be full, which is reported where it matters.
    pub(super) fn write(&mut self, line: &[u8]) {
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.bytes > 0 && self.bytes.saturating_add(length) > self.bytes_max {
            // Should it fail, the file goes on growing past the mark only until the next line tries again.
            let _ = self.rotate();
        }
        if self.file.write_all(line).is_ok() {
            self.bytes = self.bytes.saturating_add(length);
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..OLD_FILES).rev() {
            let from = self.old(number);
            if from.exists() {
                std::fs::rename(from, self.old(number + 1))?;
            }
        }
        std::fs::rename(&self.path, self.old(1))?;
        *self = Self::open_with(&self.path, self.bytes_max)?;
        Ok(())
    }

    /// The path of an old file; 1 is the newest.
    fn old(&self, number: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ST16.
    #[test]
    fn old_files_are_few_and_hold_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("setara.log");
        std::fs::write(&path, "from an earlier run\n").unwrap();
        let mut file = RotatingFile::open_with(&path, 100).unwrap();
        for number in 0..100 {
            file.write(format!("line number {number:03}\n").as_bytes());
        }
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let old = (1..=OLD_FILES).map(|number| format!("setara.log.{number}"));
        assert_eq!(names, [vec!["setara.log".to_owned()], old.collect()].concat());
        let mut text = String::new();
        for name in names.iter().skip(1).rev().chain(names.first()) {
            let part = std::fs::read_to_string(folder.path().join(name)).unwrap();
            assert!(part.len() <= 100, "{name}");
            text.push_str(&part);
        }
        let expected: String =
            (100 - text.lines().count()..100).map(|number| format!("line number {number:03}\n")).collect();
        assert_eq!(text, expected);
    }
}
