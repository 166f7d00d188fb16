//! Faults of the disk under the real binary: fsync and reads that fail (injected by `strace`), and a disk that runs full
//! (a small file system of its own). Where the machine does not allow that, the test says so and passes.

use setara_core::network::Network;
use setara_tests::crash::World;
use setara_tests::process::{NodeProcess, Setup};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Rounds of work within which an injected fault must have struck.
const ROUNDS: usize = 50;

/// What a node says of the one file that it can do without.
const SPARED: &str = "the tip is not written down";

/// Every N from 1 up to what `variable` says; without it, those few.
fn calls(variable: &str, few: &[u64]) -> Vec<u64> {
    let last = std::env::var(variable).ok().map(|text| text.parse::<u64>().expect("a number"));
    last.map_or_else(|| few.to_vec(), |last| (1..=last).collect())
}

/// `strace` attached to a node, making some system calls fail.
struct Injector(Child);

impl Injector {
    /// Attaches, or says why it cannot. Only calls on `file` fail, if one is named.
    fn attach(node: &NodeProcess, inject: &str, file: Option<&Path>) -> Result<Self, String> {
        let calls = inject.split(':').next().expect("calls come first");
        let mut child = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-p", &node.pid().to_string()])
            .args(file.into_iter().flat_map(|file| [Path::new("-P"), file]))
            .args(["-e", &format!("trace={calls}"), "-e", &format!("inject={inject}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("strace cannot be run: {error}"))?;
        let mut lines = BufReader::new(child.stderr.take().expect("standard error is piped")).lines();
        let mut said = String::new();
        while let Some(Ok(line)) = lines.next() {
            if line.contains("attached") {
                // It goes on talking: let it, so that it never blocks on a full pipe.
                std::thread::spawn(move || lines.count());
                return Ok(Self(child));
            }
            said.push_str(&line);
        }
        let _ = child.wait();
        Err(format!("strace cannot attach: {said}"))
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Works until the injected fault ends the node; then nothing acknowledged may be missing, and no block may have been
/// called invalid for it.
fn node_ends_by(inject: &str, on_the_log_only: bool, named: &str) {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::dev(directory.path()).with(["--db-cache", "16"]);
    let (mut world, mut node) = World::new(Network::dev(), setup, 21);
    let file = on_the_log_only.then(|| newest_log(&world.setup().network_dir()));
    let injector = match Injector::attach(&node, inject, file.as_deref()) {
        Ok(injector) => injector,
        Err(reason) => return println!("skipped: {reason}"),
    };
    world.expect_disk_faults();
    let noticed = (0..ROUNDS).any(|_| world.work_round(&node).is_err() || node.log().contains(named));
    assert!(noticed, "{inject}: the node noticed nothing");
    if node.log().contains(SPARED) {
        // The call that failed was one for the witness of the tip, on which nothing depends.
        drop(injector);
        node.kill();
    } else {
        let status = node.wait();
        drop(injector);
        let log = node.log();
        assert!(!status.success(), "{inject}: a node whose disk failed must not end as if all were well:\n{log}");
        assert!(log.contains(named), "{inject}: the fault is not named:\n{log}");
    }
    let log = node.log();
    assert!(!log.contains("panicked at"), "{inject}: the fault became a panic:\n{log}");
    node = world.setup().start();
    world.verify(&node, inject);
}

/// The write-ahead log that RocksDB is writing now.
fn newest_log(network_dir: &Path) -> PathBuf {
    let database = std::fs::read_dir(network_dir.join("db")).unwrap().map(|entry| entry.unwrap().path());
    database.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().expect("there is a log")
}

/// ST4, CS20. The first failed sync is final: a second one that "works" must not be believed, since the pages are gone.
/// `SETARA_FAILED_SYNCS=200` for each of the first 200.
#[test]
fn failed_fsync_stops_the_node_and_loses_nothing() {
    for when in calls("SETARA_FAILED_SYNCS", &[1, 2, 5, 17]) {
        node_ends_by(&format!("fsync,fdatasync:error=EIO:when={when}"), false, "Input/output error");
    }
}

/// ST4, ST5, CS20. The same for a write to the database's log that fails once. `SETARA_FAILED_WRITES=200` for each of the
/// first 200.
#[test]
fn failed_writes_stop_the_node_and_lose_nothing() {
    for (error, named) in [("EIO", "Input/output error"), ("ENOSPC", "No space left")] {
        for when in calls("SETARA_FAILED_WRITES", &[1, 4]) {
            node_ends_by(&format!("write,pwrite64:error={error}:when={when}"), true, named);
        }
    }
}

/// A file system of its own, mounted from a sparse file; unmounted when dropped.
struct SmallDisk {
    _directory: tempfile::TempDir,
    mount: PathBuf,
}

impl SmallDisk {
    fn new(megabytes: u64) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (image, mount) = (directory.path().join("image"), directory.path().join("mount"));
        std::fs::create_dir(&mount).map_err(|error| error.to_string())?;
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(megabytes << 20).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &image.to_string_lossy()])?;
        run("mount", &["-o", "loop", &image.to_string_lossy(), &mount.to_string_lossy()])?;
        Ok(Self { _directory: directory, mount })
    }

    /// Leaves about this much free.
    fn leave_free(&self, megabytes: u64) -> PathBuf {
        let filler = self.mount.join("filler");
        let stat = rustix::fs::statvfs(&self.mount).unwrap();
        let fill = (stat.f_bavail * stat.f_frsize).saturating_sub(megabytes << 20);
        run("fallocate", &["-l", &fill.to_string(), &filler.to_string_lossy()]).unwrap();
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", &self.mount.to_string_lossy()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// ST5. The disk fills up while the node works: it stops by itself and says so; it refuses to start on too little; with
/// room again everything acknowledged is there.
#[test]
fn full_disk_stops_the_node_and_room_brings_it_back() {
    let disk = match SmallDisk::new(1_600) {
        Ok(disk) => disk,
        Err(reason) => return println!("skipped: no small disk can be mounted here: {reason}"),
    };
    let setup = Setup::dev(disk.mount.join("data"));
    let (mut world, mut node) = World::new(Network::dev(), setup, 31);
    world.work_round(&node).expect("there is room");
    let filler = disk.leave_free(150);
    world.expect_disk_faults();
    let died = (0..ROUNDS).any(|_| world.work_round(&node).is_err());
    assert!(died, "the node went on without room");
    let status = node.wait();
    assert!(!status.success(), "{}", node.log());
    says_disk(&node.log(), &disk.mount);

    let (status, log) = world.setup().refused();
    assert!(!status.success());
    says_disk(&log, &disk.mount);

    std::fs::remove_file(filler).unwrap();
    node = world.setup().start();
    world.verify(&node, "with room again");
    world.work_round(&node).expect("there is room again");
    node.terminate();
}

fn says_disk(log: &str, mount: &Path) {
    assert!(log.contains("full") || log.contains("free"), "the reason is not given:\n{log}");
    assert!(log.contains(&*mount.to_string_lossy()), "the place is not named:\n{log}");
}
