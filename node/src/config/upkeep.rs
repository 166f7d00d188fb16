//! The commands that look after a data directory: their options and their help.

use super::options;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::path::PathBuf;

/// What is to be done with a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upkeep {
    /// Make a new database from what is good of a damaged one.
    Rebuild {
        /// Keep the old one beside it.
        keep: bool,
    },
    /// Copy the database and what belongs to it, while the node runs or not.
    Backup(PathBuf),
    /// Make a data directory of such a copy.
    Restore(PathBuf),
    /// Check the stored chain again.
    Verify(VerifyRange),
}

/// What to check, and how to say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifyRange {
    /// First height; the lowest stored one by default.
    pub from: Option<u32>,
    /// Last height; the tip's by default.
    pub to: Option<u32>,
    /// The result as JSON.
    pub json: bool,
}

/// Their names.
pub(super) const NAMES: [&str; 4] = ["backup", "rebuild", "restore", "verify"];

pub(super) fn commands() -> [Command; 4] {
    let backup = Command::new("backup")
        .about("Copy the database, the options and the genesis file to a new folder, while the node runs or not")
        .after_help(
            "On the disk of the data directory a backup takes seconds and hardly any room at first: files that never change \
             are linked. To be safe from that disk, name a folder on another, or copy the backup there. It is whole when it \
             has its name: until then it is called DIR.part. Keys of wallets are not in it, as the node has none.\n\n  \
             setara-node backup /mnt/other/setara-monday\n  \
             setara-node restore /mnt/other/setara-monday --data-dir ~/.setara",
        )
        .args(options::arguments())
        .arg(Arg::new("DIR").required(true).value_parser(value_parser!(PathBuf)).help("A folder that does not exist yet"));
    let rebuild = Command::new("rebuild")
        .about("Make a new database from the blocks that are still good of a damaged one")
        .after_help(
            "For a node that refuses to start because its data is damaged; a crash or a power cut never needs it. The node \
             must be stopped. Headers and blocks that can be read are checked by every rule; coins, undo records and indexes \
             are made from them. Blocks that are lost are named, and fetched from peers when the node runs next. It takes as \
             long as a sync from a local disk, needs as much free room as the database has now, and touches the old database \
             only when the new one is whole: it can be interrupted at any time and run again.\n\n  \
             setara-node rebuild --network dev",
        )
        .args(options::arguments())
        .arg(Arg::new("keep").long("keep").action(ArgAction::SetTrue).help("Keep the old database, as db.old"));
    let restore = Command::new("restore")
        .about("Make a data directory of a backup")
        .after_help(
            "Copies what `setara-node backup` has made to --data-dir, which must not hold this network's data yet, and says \
             how to start a node on it. The backup stays as it is.\n\n  \
             setara-node restore /mnt/other/setara-monday --data-dir ~/.setara",
        )
        .args(options::arguments())
        .arg(Arg::new("DIR").required(true).value_parser(value_parser!(PathBuf)).help("The backup"));
    let height = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("HEIGHT").value_parser(value_parser!(u32)).help(help)
    };
    let verify = Command::new("verify")
        .about("Check the stored chain again by every rule, signatures included, and the coins")
        .after_help(
            "The node must be stopped. Nothing is changed, so it can be interrupted at any time. Blocks are read from the \
             disk as they are; each has to be valid below the one before it and to leave exactly what is stored of it, and \
             the stored coins have to be those that the last one leaves. The log tells how far it is.\n\n  \
             setara-node verify --network dev\n  \
             setara-node verify --from 100000 --to 120000",
        )
        .args(options::arguments())
        .arg(height("from", "First height [default: the lowest that is stored]"))
        .arg(height("to", "Last height [default: the tip's]"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the result as JSON"));
    [backup, rebuild, restore, verify]
}

/// What one of [`NAMES`] asks for.
pub(super) fn read(name: &str, matches: &ArgMatches) -> Upkeep {
    let folder = || matches.get_one::<PathBuf>("DIR").cloned().unwrap_or_default();
    match name {
        "backup" => Upkeep::Backup(folder()),
        "restore" => Upkeep::Restore(folder()),
        "verify" => {
            let height = |name: &str| matches.get_one::<u32>(name).copied();
            Upkeep::Verify(VerifyRange { from: height("from"), to: height("to"), json: matches.get_flag("json") })
        }
        _ => Upkeep::Rebuild { keep: matches.get_flag("keep") },
    }
}
