//! Power cuts, played from a record of what a process did to its files (`tests/recorder/recorder.c`).
//!
//! ```text
//! log ─► Disk: what is durable, and what is not yet ─► a choice of what a power cut leaves ─► a folder to open
//! ```
//!
//! The model is harsher than file systems are. Until a file is synced, each of its writes may be there or not, in any
//! order, whole or torn; its length follows from those that are. Until a folder is synced, the names that were made,
//! changed or removed in it may be so or not. Syncing a file says nothing of its name. What is durable stays.

use crate::crash::Random;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

/// Bytes that a disk writes as a whole, or not at all; and those of a page.
const SECTOR: u64 = 512;
const PAGE: u64 = 4096;

/// One recorded call.
#[derive(Debug, Clone)]
pub enum Operation {
    /// A file or folder was opened, perhaps made.
    Open {
        /// Process and handle.
        handle: (u32, u32),
        /// Made if it was not there.
        create: bool,
        /// Emptied.
        truncate: bool,
        /// Its path.
        path: String,
    },
    /// Bytes were written.
    Write((u32, u32), u64, Arc<[u8]>),
    /// A file was cut or grown to a length.
    Truncate((u32, u32), u64),
    /// A file was grown to a length, if it was shorter.
    Extend((u32, u32), u64),
    /// A file or folder was synced.
    Sync((u32, u32)),
    /// A name was moved.
    Rename(String, String),
    /// A second name was made.
    Link(String, String),
    /// A name was removed.
    Unlink(String),
    /// A folder was made.
    MakeFolder(String),
    /// A folder was removed.
    RemoveFolder(String),
    /// Not of the recorder: a test's own note of what had happened by then.
    Mark(Vec<u8>),
}

/// Kind of a mark's record.
const MARK: u8 = 12;

/// A mark, to be appended to a log by one write.
pub fn mark(note: &[u8]) -> Vec<u8> {
    let length = u32::try_from(5 + note.len()).expect("a note is short");
    [&length.to_le_bytes()[..], &[MARK], &[0; 4], note].concat()
}

/// Reads a log.
///
/// # Panics
/// If it is not one, or holds a call that cannot be played.
pub fn read_log(bytes: &[u8]) -> Vec<Operation> {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let long = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("paths of tests are text");
    let mut operations = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let length = word(bytes, at) as usize;
        let record = &bytes[at + 4..at + 4 + length];
        at += 4 + length;
        let (kind, process, rest) = (record[0], word(record, 1), &record[5..]);
        let handle = || (process, word(rest, 0));
        let two = || {
            let (first, second) = rest[4..].split_at(word(rest, 0) as usize);
            (text(first), text(second))
        };
        operations.push(match kind {
            1 => Operation::Open {
                handle: handle(),
                create: rest[4] & 1 != 0,
                truncate: rest[4] & 2 != 0,
                path: text(&rest[5..]),
            },
            2 => Operation::Write(handle(), long(rest, 4), rest[12..].into()),
            3 => Operation::Truncate(handle(), long(rest, 4)),
            4 => Operation::Sync(handle()),
            5 => Operation::Rename(two().0, two().1),
            6 => Operation::Link(two().0, two().1),
            7 => Operation::Unlink(text(rest)),
            8 => Operation::MakeFolder(text(rest)),
            9 => Operation::RemoveFolder(text(rest)),
            10 => Operation::Extend(handle(), long(rest, 4)),
            MARK => Operation::Mark(rest.to_vec()),
            other => panic!("the log holds a call of kind {other}, which cannot be played"),
        });
    }
    operations
}

/// A change of a file that is not durable yet.
#[derive(Debug, Clone)]
enum Change {
    Write(u64, Arc<[u8]>),
    Truncate(u64),
    Extend(u64),
}

/// A change of a folder that is not durable yet: names taken away and names set, together.
#[derive(Debug, Clone)]
struct Naming {
    removed: Option<String>,
    set: Option<(String, usize)>,
}

#[derive(Debug, Clone)]
enum Node {
    File { durable: Arc<Vec<u8>>, pending: Vec<Change> },
    Folder { durable: BTreeMap<String, usize>, pending: Vec<Naming> },
}

/// Which syncs count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// All.
    Counted,
    /// Not those of the database's log: as if it were written with `sync = false`, which changes nothing else.
    NotOfLogs,
}

/// The files below a folder as the process sees them, and as much of them as is durable.
#[derive(Debug, Clone)]
pub struct Disk {
    root: String,
    nodes: Vec<Node>,
    open: HashMap<(u32, u32), usize>,
    /// What each file was first called, for [`Syncs::NotOfLogs`].
    names: HashMap<usize, String>,
    syncs: Syncs,
}

/// What a power cut leaves of what is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// All of it, as when only the process dies.
    KeepAll,
    /// Nothing.
    DropAll,
    /// Names, but no bytes.
    KeepNames,
    /// Bytes, but no names.
    KeepBytes,
    /// The first so many of each, the last one torn.
    Prefix(u64),
    /// The last so many of each: the rest is lost before them.
    Suffix(u64),
    /// Any of them, torn or whole.
    Random(u64),
}

/// Files by path below the root.
pub type Image = BTreeMap<String, Vec<u8>>;

impl Disk {
    /// An empty folder, which is durable itself.
    pub fn new(root: &Path, syncs: Syncs) -> Self {
        let folder = Node::Folder { durable: BTreeMap::new(), pending: Vec::new() };
        let root = root.to_str().expect("paths of tests are text").to_owned();
        Self { root, nodes: vec![folder], open: HashMap::new(), names: HashMap::new(), syncs }
    }

    /// A folder with these files, all durable.
    pub fn holding(root: &Path, syncs: Syncs, image: &Image) -> Self {
        let mut disk = Self::new(root, syncs);
        for (path, bytes) in image {
            let full = format!("{}/{path}", disk.root);
            let mut folder = String::new();
            for part in path.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev() {
                folder = format!("{folder}/{part}");
                let place = format!("{}{folder}", disk.root);
                if disk.find(&place).is_none() {
                    disk.add(&place, Node::Folder { durable: BTreeMap::new(), pending: Vec::new() });
                }
            }
            disk.add(&full, Node::File { durable: Arc::new(bytes.clone()), pending: Vec::new() });
        }
        for node in 0..disk.nodes.len() {
            disk.settle(node);
        }
        disk
    }

    /// The parts of a path below the root.
    fn parts<'a>(&self, path: &'a str) -> Vec<&'a str> {
        let below = path.strip_prefix(&self.root).unwrap_or_else(|| panic!("{path} is not below {}", self.root));
        below.split('/').filter(|part| !part.is_empty() && *part != ".").collect()
    }

    /// A folder's entries as the process sees them.
    fn entries(&self, folder: usize) -> BTreeMap<String, usize> {
        let Node::Folder { durable, pending } = &self.nodes[folder] else { panic!("a file is used as a folder") };
        let mut entries = durable.clone();
        pending.iter().for_each(|naming| naming.apply(&mut entries));
        entries
    }

    fn find(&self, path: &str) -> Option<usize> {
        self.parts(path).into_iter().try_fold(0, |folder, part| self.entries(folder).get(part).copied())
    }

    fn parent(&self, path: &str) -> (usize, String) {
        let parts = self.parts(path);
        let (name, folders) = parts.split_last().expect("the root itself is never made or removed");
        let folder = folders.iter().try_fold(0, |folder, part| self.entries(folder).get(*part).copied());
        (folder.unwrap_or_else(|| panic!("the folder of {path} is not known")), (*name).to_owned())
    }

    fn name(&mut self, path: &str, naming: impl FnOnce(String) -> Naming) {
        let (folder, name) = self.parent(path);
        let Node::Folder { pending, .. } = &mut self.nodes[folder] else { panic!("a file is used as a folder") };
        pending.push(naming(name));
    }

    fn add(&mut self, path: &str, node: Node) -> usize {
        let number = self.nodes.len();
        self.nodes.push(node);
        self.names.insert(number, path.to_owned());
        self.name(path, |name| Naming { removed: None, set: Some((name, number)) });
        number
    }

    /// Everything that was done to it is durable.
    fn settle(&mut self, node: usize) {
        match &mut self.nodes[node] {
            Node::File { durable, pending } => {
                let bytes = Arc::make_mut(durable);
                pending.drain(..).for_each(|change| change.apply(bytes));
            }
            Node::Folder { durable, pending } => pending.drain(..).for_each(|naming| naming.apply(durable)),
        }
    }

    fn change(&mut self, handle: (u32, u32), change: Change) {
        let node = *self.open.get(&handle).expect("only what is open is changed");
        let Node::File { pending, .. } = &mut self.nodes[node] else { panic!("a folder is written to") };
        pending.push(change);
    }

    /// Plays one operation.
    pub fn play(&mut self, operation: &Operation) {
        match operation {
            Operation::Open { handle, create, truncate, path } => {
                let found = self.find(path);
                let node = found.or_else(|| {
                    let file = Node::File { durable: Arc::default(), pending: Vec::new() };
                    // Made by a call that is not recorded (libc's own streams): no part of what is played.
                    create.then(|| self.add(path, file))
                });
                if let Some(node) = node {
                    self.open.insert(*handle, node);
                    if *truncate && found.is_some() {
                        self.change(*handle, Change::Truncate(0));
                    }
                }
            }
            Operation::Write(handle, at, bytes) => self.change(*handle, Change::Write(*at, bytes.clone())),
            Operation::Truncate(handle, length) => self.change(*handle, Change::Truncate(*length)),
            Operation::Extend(handle, length) => self.change(*handle, Change::Extend(*length)),
            Operation::Sync(handle) => {
                if let Some(node) = self.open.get(handle).copied() {
                    let is_log = self.names.get(&node).is_some_and(|name| name.ends_with(".log"));
                    if self.syncs == Syncs::Counted || !is_log {
                        self.settle(node);
                    }
                }
            }
            Operation::Rename(from, to) => {
                let Some(node) = self.find(from) else { return };
                let ((folder, from), (to_folder, to)) = (self.parent(from), self.parent(to));
                assert_eq!(folder, to_folder, "a rename to another folder is not modelled");
                let Node::Folder { pending, .. } = &mut self.nodes[folder] else { unreachable!("a parent") };
                pending.push(Naming { removed: Some(from), set: Some((to, node)) });
            }
            Operation::Link(from, to) => {
                if let Some(node) = self.find(from) {
                    self.name(to, |name| Naming { removed: None, set: Some((name, node)) });
                }
            }
            Operation::Unlink(path) | Operation::RemoveFolder(path) => {
                if self.find(path).is_some() {
                    self.name(path, |name| Naming { removed: Some(name), set: None });
                }
            }
            Operation::MakeFolder(path) => {
                self.add(path, Node::Folder { durable: BTreeMap::new(), pending: Vec::new() });
            }
            Operation::Mark(_) => {}
        }
    }

    /// How much is not durable.
    pub fn pending(&self) -> usize {
        let of = |node: &Node| match node {
            Node::File { pending, .. } => pending.len(),
            Node::Folder { pending, .. } => pending.len(),
        };
        self.nodes.iter().map(of).sum()
    }

    /// What a power cut leaves.
    pub fn cut(&self, cut: Cut) -> Image {
        let seed = match cut {
            Cut::Prefix(seed) | Cut::Suffix(seed) | Cut::Random(seed) => seed,
            _ => 0,
        };
        let mut random = Random::new(seed);
        let mut image = Image::new();
        self.collect(0, "", cut, &mut random, &mut image);
        image
    }

    fn collect(&self, node: usize, path: &str, cut: Cut, random: &mut Random, image: &mut Image) {
        match &self.nodes[node] {
            Node::File { durable, pending } => {
                let mut bytes = (**durable).clone();
                cut_bytes(&mut bytes, pending, cut, random);
                image.insert(path.to_owned(), bytes);
            }
            Node::Folder { durable, pending } => {
                let mut entries = durable.clone();
                cut_names(&mut entries, pending, cut, random);
                for (name, node) in entries {
                    let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                    self.collect(node, &path, cut, random, image);
                }
            }
        }
    }
}

impl Naming {
    fn apply(&self, entries: &mut BTreeMap<String, usize>) {
        if let Some(name) = &self.removed {
            entries.remove(name);
        }
        if let Some((name, node)) = &self.set {
            entries.insert(name.clone(), *node);
        }
    }
}

impl Change {
    fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, written) => {
                let end = at as usize + written.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[at as usize..end].copy_from_slice(&written);
            }
            Self::Truncate(length) => bytes.resize(length as usize, 0),
            Self::Extend(length) => bytes.resize(bytes.len().max(length as usize), 0),
        }
    }
}

/// Which of so many changes are kept, in their order.
fn kept(count: usize, cut: Cut, random: &mut Random) -> Vec<usize> {
    match cut {
        Cut::KeepAll => (0..count).collect(),
        Cut::Prefix(_) => (0..random.below(count as u64 + 1) as usize).collect(),
        Cut::Suffix(_) => (random.below(count as u64 + 1) as usize..count).collect(),
        Cut::Random(_) => (0..count).filter(|_| random.below(2) == 0).collect(),
        Cut::DropAll | Cut::KeepNames | Cut::KeepBytes => Vec::new(),
    }
}

fn cut_names(entries: &mut BTreeMap<String, usize>, pending: &[Naming], cut: Cut, random: &mut Random) {
    let cut = if cut == Cut::KeepNames { Cut::KeepAll } else { cut };
    for number in kept(pending.len(), cut, random) {
        pending[number].apply(entries);
    }
}

fn cut_bytes(bytes: &mut Vec<u8>, pending: &[Change], cut: Cut, random: &mut Random) {
    let cut = if cut == Cut::KeepBytes { Cut::KeepAll } else { cut };
    let kept = kept(pending.len(), cut, random);
    let last = kept.last().copied();
    for number in kept {
        let change = pending[number].clone();
        match (change, cut) {
            // Everything before is there, and of the last one a part.
            (Change::Write(at, written), Cut::Prefix(_)) if Some(number) == last => {
                let unit = if random.below(2) == 0 { SECTOR } else { PAGE };
                let boundary = (at + random.below(written.len() as u64 + 1)) / unit * unit;
                let end = boundary.clamp(at, at + written.len() as u64);
                Change::Write(at, written[..(end - at) as usize].into()).apply(bytes);
            }
            (Change::Write(at, written), Cut::Random(_)) => tear(bytes, at, &written, random),
            (change, _) => change.apply(bytes),
        }
    }
}

/// A write of which some sectors or pages are there and others not.
fn tear(bytes: &mut Vec<u8>, at: u64, written: &[u8], random: &mut Random) {
    let unit = match random.below(3) {
        0 => return Change::Write(at, written.into()).apply(bytes),
        1 => SECTOR,
        _ => PAGE,
    };
    let end = at + written.len() as u64;
    let mut from = at;
    while from < end {
        let to = ((from / unit + 1) * unit).min(end);
        if random.below(2) == 0 {
            Change::Write(from, written[(from - at) as usize..(to - at) as usize].into()).apply(bytes);
        }
        from = to;
    }
}

/// A number that is the same for equal images.
pub fn fingerprint(image: &Image) -> u64 {
    let mut hasher = DefaultHasher::new();
    image.hash(&mut hasher);
    hasher.finish()
}

/// Puts an image into an empty folder.
///
/// # Panics
/// If that cannot be written.
pub fn put(image: &Image, folder: &Path) {
    for (path, bytes) in image {
        let file = folder.join(path);
        fs::create_dir_all(file.parent().expect("a file lies in a folder")).expect("a folder can be made");
        fs::write(file, bytes).expect("a file can be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDLE: (u32, u32) = (1, 1);
    const FOLDER: (u32, u32) = (1, 2);

    fn open(handle: (u32, u32), path: &str) -> Operation {
        let (create, path) = (handle == HANDLE, format!("/r{path}"));
        Operation::Open { handle, create, truncate: false, path }
    }

    fn write(at: u64, text: &str) -> Operation {
        Operation::Write(HANDLE, at, text.as_bytes().into())
    }

    fn played(operations: &[Operation]) -> Disk {
        let mut disk = Disk::new(Path::new("/r"), Syncs::Counted);
        operations.iter().for_each(|operation| disk.play(operation));
        disk
    }

    fn image(files: &[(&str, &str)]) -> Image {
        files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn names_and_bytes_become_durable_each_by_its_own_sync() {
        let mut steps = vec![open(HANDLE, "/a"), write(0, "one"), Operation::Sync(HANDLE)];
        assert_eq!(played(&steps).cut(Cut::DropAll), image(&[]));
        assert_eq!(played(&steps).cut(Cut::KeepNames), image(&[("a", "one")]));
        steps.extend([open(FOLDER, ""), Operation::Sync(FOLDER), write(3, "two")]);
        assert_eq!(played(&steps).cut(Cut::DropAll), image(&[("a", "one")]));
        assert_eq!(played(&steps).cut(Cut::KeepAll), image(&[("a", "onetwo")]));
        steps.push(Operation::Rename("/r/a".to_owned(), "/r//b".to_owned()));
        assert_eq!(played(&steps).cut(Cut::KeepBytes), image(&[("a", "onetwo")]));
        assert_eq!(played(&steps).cut(Cut::KeepNames), image(&[("b", "one")]));
        steps.push(Operation::Sync(FOLDER));
        steps.push(Operation::Unlink("/r/b".to_owned()));
        assert_eq!(played(&steps).cut(Cut::DropAll), image(&[("b", "one")]));
        assert_eq!(played(&steps).cut(Cut::KeepAll), image(&[]));
    }

    #[test]
    fn any_of_the_writes_may_be_missing() {
        let steps = [open(HANDLE, "/a"), open(FOLDER, ""), Operation::Sync(FOLDER), write(0, "x"), write(1, "y")];
        let disk = played(&steps);
        let found: std::collections::BTreeSet<Vec<u8>> =
            (0..200).map(|seed| disk.cut(Cut::Random(seed))["a"].clone()).collect();
        let expected: std::collections::BTreeSet<Vec<u8>> =
            ["", "x", "\0y", "xy"].iter().map(|text| text.as_bytes().to_vec()).collect();
        assert!(found.is_superset(&expected), "{found:?}");
        let long = "z".repeat(3 * PAGE as usize);
        let torn = played(&[&steps[..3], &[write(0, &long)]].concat());
        let lengths: std::collections::BTreeSet<usize> =
            (0..200).map(|seed| torn.cut(Cut::Prefix(seed))["a"].len()).collect();
        assert!(lengths.len() > 10 && lengths.iter().all(|length| length % SECTOR as usize == 0), "{lengths:?}");
    }

    #[test]
    fn what_was_there_is_durable() {
        let before = image(&[("d/e/f", "old"), ("g", "")]);
        let mut disk = Disk::holding(Path::new("/r"), Syncs::Counted, &before);
        assert_eq!(disk.cut(Cut::DropAll), before);
        disk.play(&Operation::Open { handle: HANDLE, create: true, truncate: true, path: "/r/d/e/f".to_owned() });
        assert_eq!(disk.cut(Cut::DropAll), before);
        assert_eq!(disk.cut(Cut::KeepAll)["d/e/f"], b"");
    }
}
