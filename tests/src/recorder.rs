//! The recorder (`tests/recorder/recorder.c`): built by the C compiler that RocksDB needs as well, and put beneath a node.

use crate::process::Setup;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the source is.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/recorder/recorder.c");

/// A built recorder, and the log that it appends to.
pub struct Recorder {
    library: PathBuf,
    log: PathBuf,
    root: PathBuf,
}

impl Recorder {
    /// Builds it in `folder`; what happens below `root`, which must be an absolute path, is recorded there too.
    ///
    /// # Panics
    /// If it does not compile.
    pub fn new(folder: &Path, root: &Path) -> Self {
        let (library, log) = (folder.join("recorder.so"), folder.join("record"));
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-o"])
            .arg(&library)
            .arg(SOURCE)
            .arg("-lpthread")
            .output()
            .expect("a C compiler is there, as RocksDB needs one");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { library, log, root: root.to_owned() }
    }

    /// A node that is recorded.
    pub fn beneath(&self, setup: Setup) -> Setup {
        setup.env("LD_PRELOAD", &self.library).env("RECORDER_ROOT", &self.root).env("RECORDER_LOG", &self.log)
    }

    /// The log, for marks.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub fn marks(&self) -> File {
        OpenOptions::new().append(true).create(true).open(&self.log).expect("the log can be opened")
    }

    /// What was recorded so far.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn log(&self) -> Vec<u8> {
        std::fs::read(&self.log).expect("the log can be read")
    }
}
