//! A finished database takes the place of another, and a crash at any point leaves one or the other.
//!
//! ```text
//! db.rebuild   being made                  left over: removed
//! db.rebuilt   whole, on stable storage    left over: takes its place
//! db           the one in use
//! db.damaged   the one before              left over: removed, unless it is to be kept
//! ```
//!
//! Each step is one rename, and what a folder's name says is true from then on. [`finish`] does what is left to do; it is
//! called by every start, so no step is ever undone or repeated.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The folders beside a database.
#[derive(Debug, Clone)]
pub struct Places {
    /// The database in use.
    pub database: PathBuf,
    /// One that is being made.
    pub making: PathBuf,
    /// For a copy of a damaged one.
    pub scratch: PathBuf,
    /// One that is whole.
    made: PathBuf,
    /// The one that was in use before, while it is being removed.
    pub damaged: PathBuf,
    /// The same, to be kept.
    pub kept: PathBuf,
    folder: PathBuf,
}

impl Places {
    /// In a network's folder.
    pub fn new(folder: &Path) -> Self {
        let place = |name: &str| folder.join(name);
        Self {
            database: place("db"),
            making: place("db.rebuild"),
            scratch: place("db.salvage"),
            made: place("db.rebuilt"),
            damaged: place("db.damaged"),
            kept: place("db.old"),
            folder: folder.to_owned(),
        }
    }

    /// Removes what an interrupted run was making.
    pub fn clear(&self) -> io::Result<()> {
        remove(&self.making)?;
        remove(&self.scratch)
    }

    /// What was made is whole: it takes the database's place, now or at the next start.
    pub fn put_in_place(&self, keep: bool) -> io::Result<()> {
        sync_files(&self.making)?;
        if keep && self.database.try_exists()? {
            remove(&self.kept)?;
            // The whole new one has its name first, so that a start between these two finds a database.
            self.rename(&self.making, &self.made)?;
            self.rename(&self.database, &self.kept)?;
        } else {
            self.rename(&self.making, &self.made)?;
        }
        self.finish().map(drop)
    }

    /// Does what is left to do of a replacement; whether there was one.
    pub fn finish(&self) -> io::Result<bool> {
        let found = self.made.try_exists()?;
        if found {
            if self.database.try_exists()? {
                remove(&self.damaged)?;
                self.rename(&self.database, &self.damaged)?;
            }
            self.rename(&self.made, &self.database)?;
        }
        remove(&self.damaged)?;
        self.clear()?;
        Ok(found)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        File::open(&self.folder)?.sync_all()
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Every file of a folder that has no folders in it, and the folder itself, to stable storage.
pub fn sync_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, text: &str) {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("file"), text).unwrap();
    }

    fn get(folder: &Path) -> Option<String> {
        fs::read_to_string(folder.join("file")).ok()
    }

    /// Whichever of the folders a crash has left, the next start uses the old database or the new one, whole, and leaves
    /// nothing beside it.
    #[test]
    fn every_interruption_ends_in_one_whole_database() {
        // Which are there: being made, whole, in use, replaced.
        let states = [
            ([true, false, true, false], "old"),
            ([false, true, true, false], "new"),
            ([false, true, true, true], "new"),
            ([false, true, false, true], "new"),
            ([false, false, true, true], "old"),
            ([false, true, false, false], "new"),
        ];
        for (there, expected) in states {
            let directory = tempfile::tempdir().unwrap();
            let places = Places::new(directory.path());
            let folders = [&places.making, &places.made, &places.database, &places.damaged];
            for ((folder, there), text) in folders.iter().zip(there).zip(["half", "new", "old", "older"]) {
                if there {
                    put(folder, text);
                }
            }
            assert_eq!(places.finish().unwrap(), there[1]);
            assert!(!places.finish().unwrap());
            assert_eq!(get(&places.database).as_deref(), Some(expected), "{there:?}");
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "{there:?}");
        }
    }

    #[test]
    fn the_old_one_is_kept_if_asked_for() {
        for keep in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let places = Places::new(directory.path());
            put(&places.database, "old");
            put(&places.making, "new");
            places.put_in_place(keep).unwrap();
            assert_eq!(get(&places.database).as_deref(), Some("new"));
            assert_eq!(get(&places.kept).as_deref(), keep.then_some("old"));
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1 + usize::from(keep));
        }
    }
}
