//! `setara-node genesis`: make a network of one's own, and show what a genesis file means.
//!
//! A network is a file. `new` fills in what was not asked for, mines the genesis block and writes the file; anyone who
//! runs a node on a byte-identical rule set is on the same network, and nobody else is.

use crate::clock::{Clock, civil_time};
use crate::mining::Search;
use clap::{Args, Subcommand, ValueEnum};
use setara_core::address::{Address, Prefix};
use setara_core::amount::Amount;
use setara_core::network::{Difficulty, Network, NetworkError, Parameters};
use setara_core::pow::CompactBits;
use setara_core::transaction::Output;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Nonces a thread tries before it looks whether another has finished: about a tenth of a second's work.
const NONCES_PER_STEP: u64 = 1 << 20;
/// Nonces of one header; after them the time moves on by a second.
const NONCES: u64 = 1 << 32;
/// Names and prefixes that would make a private network look like a built-in one.
const BUILT_IN_NAMES: [&str; 3] = ["main", "test", "dev"];
/// Bytes of a genesis file that are read: the reader refuses more than 1 MiB.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// `setara-node genesis ...`
#[derive(Debug, Subcommand)]
pub enum GenesisCommand {
    /// Write and mine the genesis file of a new network.
    ///
    /// The default is a private network: fixed difficulty, one block per spacing from the built-in miner, nodes that can
    /// stop and start as they please. Give the file to every machine that is to join, and run it with
    /// `setara-node --genesis FILE`.
    New(Box<NewArgs>),
    /// Show a network: its hash, its rules and its money.
    Show(ShowArgs),
}

/// How a new network's target changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DifficultyArg {
    /// Never.
    Fixed,
    /// With the hash rate (aserti3-2d).
    Asert,
}

/// Options of `genesis new`. What is not given is as on `dev` (fixed) or as on `test` (asert).
#[derive(Debug, Args)]
pub struct NewArgs {
    /// Name of the network: 1 to 32 of a-z, 0-9 and -.
    #[arg(long)]
    name: String,
    /// What its addresses start with: 1 to 30 lower-case letters and digits.
    #[arg(long, value_name = "HRP")]
    prefix: String,
    /// The file to write; one that exists is never overwritten.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What its amounts are labelled with: 1 to 10 of A-Z and 0-9 [default: the prefix in capitals].
    #[arg(long)]
    ticker: Option<String>,
    /// How the target changes.
    ///
    /// fixed: every block is equally easy, and the built-in miner paces itself to one block per spacing. Anyone with a
    /// rented ASIC could outrun such a chain, so it is for machines that trust each other; it survives any pause.
    ///
    /// asert: the target follows the hash rate on an absolute schedule. For public networks only: after a pause of days
    /// the next blocks are very easy until the schedule is caught up with, and when a strong miner leaves, blocks are
    /// slow until the half-life has passed a few times.
    #[arg(long, value_enum, default_value = "fixed")]
    difficulty: DifficultyArg,
    /// Seconds between blocks [default: 1 (fixed), 60 (asert)].
    #[arg(long, value_name = "SECONDS")]
    spacing: Option<u32>,
    /// Seconds of lag after which ASERT's target doubles; at least 24 times --max-future [default: 14400].
    #[arg(long, value_name = "SECONDS")]
    half_life: Option<u32>,
    /// The easiest target, as compact bits [default: 207fffff (fixed), 1f00ffff (asert)].
    #[arg(long, value_name = "HEX", value_parser = parse_bits)]
    limit: Option<CompactBits>,
    /// The first blocks' target, as compact bits; choose it for the hash rate expected at launch [default: --limit].
    #[arg(long, value_name = "HEX", value_parser = parse_bits)]
    bits: Option<CompactBits>,
    /// Seconds that a block's time may be ahead of a node's clock [default: 2592000 (fixed), 600 (asert)].
    #[arg(long, value_name = "SECONDS")]
    max_future: Option<u32>,
    /// Bytes of a block [default: 4000000 (fixed), 1000000 (asert)].
    #[arg(long, value_name = "BYTES")]
    max_block_bytes: Option<u64>,
    /// New coins of each block at first.
    #[arg(long, value_name = "COINS", default_value = "5")]
    subsidy: Amount,
    /// Blocks between halvings of the subsidy.
    #[arg(long, value_name = "BLOCKS", default_value_t = 2_100_000)]
    halving: u32,
    /// Bound on all coins; emission and allocations must fit under it (at most 90000000).
    #[arg(long, value_name = "COINS", default_value = "21000000")]
    cap: Amount,
    /// Blocks before mined coins can be spent.
    #[arg(long, value_name = "BLOCKS", default_value_t = 100)]
    maturity: u32,
    /// Coins that exist from the start; repeatable.
    #[arg(long = "allocate", value_name = "ADDRESS=COINS")]
    allocations: Vec<String>,
    /// Text in the genesis block, at most 100 bytes.
    #[arg(long, default_value = "")]
    message: String,
    /// Launch: the genesis block's time, as 2026-11-01, 2026-11-01T12:00:00Z or Unix seconds [default: now].
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    launch: Option<u32>,
    /// Port for peers; RPC takes the next one.
    #[arg(long, value_name = "PORT", default_value_t = 19_750)]
    port: u16,
    /// A peer to ask first; repeatable.
    #[arg(long = "bootstrap", value_name = "HOST:PORT")]
    bootstrap: Vec<String>,
    /// Threads that mine the genesis block [default: all].
    #[arg(long, value_name = "N")]
    threads: Option<NonZero<usize>>,
}

/// Options of `genesis show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A built-in network: main, test or dev [default: main].
    #[arg(long, value_name = "NAME", conflicts_with = "genesis")]
    network: Option<String>,
    /// A genesis file.
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
    /// Print the genesis file itself.
    #[arg(long)]
    json: bool,
}

/// Why a genesis command failed.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file, or the options of `new`, describe no network.
    #[error("{path}: {error}")]
    Network {
        /// Which file; for `new` the one that would have been written.
        path: PathBuf,
        /// What is wrong with it.
        error: NetworkError,
    },
    /// An option that the file's own checks cannot see.
    #[error("{0}")]
    Option(String),
}

/// Runs a genesis command, printing to `out`; progress goes to standard error.
pub fn run(command: GenesisCommand, clock: &dyn Clock, out: &mut dyn Write) -> Result<(), GenesisError> {
    let (text, path) = match command {
        GenesisCommand::New(args) => (new(&args, clock)?, args.out.clone()),
        GenesisCommand::Show(args) => (show(&args)?, PathBuf::from("standard output")),
    };
    out.write_all(text.as_bytes()).map_err(|error| GenesisError::File { path, error })
}

/// The network that a genesis file describes.
pub fn load(path: &Path) -> Result<Network, GenesisError> {
    let file_error = |error| GenesisError::File { path: path.to_owned(), error };
    let length = std::fs::metadata(path).map_err(file_error)?.len();
    if length > FILE_BYTES_MAX {
        return Err(file_error(io::Error::other(format!("not a genesis file: longer than {FILE_BYTES_MAX} bytes"))));
    }
    let text = std::fs::read_to_string(path).map_err(file_error)?;
    Network::from_json(&text).map_err(|error| GenesisError::Network { path: path.to_owned(), error })
}

fn new(args: &NewArgs, clock: &dyn Clock) -> Result<String, GenesisError> {
    let path = &args.out;
    let invalid = |error| GenesisError::Network { path: path.clone(), error };
    let parameters = parameters(args, clock)?;
    parameters.check().map_err(invalid)?;
    let available = std::thread::available_parallelism().map_or(1, NonZero::get);
    let network = mine(parameters, args.threads.map_or(available, NonZero::get)).map_err(invalid)?;
    // `create_new`: a file that other machines already run is not to be replaced by a slip.
    let written = OpenOptions::new().write(true).create_new(true).open(path).and_then(|mut file| {
        file.write_all(network.to_json().as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| GenesisError::File { path: path.clone(), error })?;
    Ok(format!("{}\nWritten to {1}. Run it with:\n  setara-node --genesis {1}\n", describe(&network), path.display()))
}

fn parameters(args: &NewArgs, clock: &dyn Clock) -> Result<Parameters, GenesisError> {
    if BUILT_IN_NAMES.contains(&args.name.as_str()) {
        return Err(GenesisError::Option(format!("--name {}: that network is built in", args.name)));
    }
    for built_in in [Network::main(), Network::test(), Network::dev()] {
        if built_in.prefix.as_str() == args.prefix {
            let message = format!("--prefix {}: addresses would look like those of {}", args.prefix, built_in.name);
            return Err(GenesisError::Option(message));
        }
    }
    let prefix: Prefix = args.prefix.parse().map_err(|error| GenesisError::Option(format!("--prefix: {error}")))?;
    let fixed = args.difficulty == DifficultyArg::Fixed;
    if fixed && args.half_life.is_some() {
        return Err(GenesisError::Option("--half-life is for --difficulty asert".into()));
    }
    let limit_bits = args.limit.unwrap_or(CompactBits::new(if fixed { 0x207f_ffff } else { 0x1f00_ffff }));
    let limit = limit_bits.to_target().map_err(|error| GenesisError::Option(format!("--limit: {error}")))?;
    let allocations: Result<Vec<Output>, GenesisError> =
        args.allocations.iter().map(|text| parse_allocation(text, &prefix)).collect();
    let now = u32::try_from(clock.unix_seconds()).unwrap_or(u32::MAX);
    Ok(Parameters {
        name: args.name.clone(),
        ticker: args.ticker.clone().unwrap_or_else(|| args.prefix.to_ascii_uppercase()),
        prefix,
        spacing: args.spacing.unwrap_or(if fixed { 1 } else { 60 }),
        difficulty: match args.difficulty {
            DifficultyArg::Fixed => Difficulty::Fixed,
            DifficultyArg::Asert => Difficulty::Asert { half_life: args.half_life.unwrap_or(14_400) },
        },
        limit,
        max_future_seconds: args.max_future.unwrap_or(if fixed { 2_592_000 } else { 600 }),
        max_block_bytes: args.max_block_bytes.unwrap_or(if fixed { 4_000_000 } else { 1_000_000 }),
        initial_subsidy: args.subsidy,
        halving_interval: args.halving,
        supply_cap: args.cap,
        maturity: args.maturity,
        allocations: allocations?,
        message: args.message.clone(),
        genesis_time: args.launch.unwrap_or(now),
        genesis_bits: args.bits.unwrap_or(limit_bits),
        genesis_nonce: 0,
        p2p_port: args.port,
        bootstrap: args.bootstrap.clone(),
        upgrades: Vec::new(),
    })
}

/// Finds the genesis nonce on `threads` threads. A header's 2^32 nonces may not be enough: then its time moves on.
pub fn mine(mut parameters: Parameters, threads: usize) -> Result<Network, NetworkError> {
    loop {
        let header = parameters.genesis_block().header;
        let target = match header.bits.to_target() {
            Ok(target) => target,
            // Not a target: `new` names the field.
            Err(_) => return Network::new(parameters),
        };
        let next = AtomicU64::new(0);
        let found = AtomicBool::new(false);
        let search = || {
            while !found.load(Ordering::Relaxed) {
                let first = next.fetch_add(NONCES_PER_STEP, Ordering::Relaxed);
                if first >= NONCES {
                    break;
                }
                let last = first + NONCES_PER_STEP - 1;
                let range = u32::try_from(first).ok()?..=u32::try_from(last).ok()?;
                if let Some(nonce) = Search::default().find_nonce(&header, target, range) {
                    found.store(true, Ordering::Relaxed);
                    return Some(nonce);
                }
            }
            None
        };
        let nonce = std::thread::scope(|scope| {
            let searches: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(search)).collect();
            // Of several finds the lowest, whichever thread was first.
            searches.into_iter().filter_map(|search| search.join().expect("a search does not panic")).min()
        });
        match nonce {
            Some(nonce) => {
                parameters.genesis_nonce = nonce;
                return Network::new(parameters);
            }
            None => parameters.genesis_time = parameters.genesis_time.wrapping_add(1),
        }
    }
}

fn show(args: &ShowArgs) -> Result<String, GenesisError> {
    let network = match (&args.genesis, &args.network) {
        (Some(path), _) => load(path)?,
        (None, name) => {
            let name = name.as_deref().unwrap_or("main");
            Network::built_in(name).ok_or_else(|| {
                GenesisError::Option(format!(
                    "--network {name}: expected main, test or dev; others need --genesis FILE"
                ))
            })?
        }
    };
    Ok(if args.json { network.to_json() } else { describe(&network) })
}

/// A network for people.
fn describe(network: &Network) -> String {
    let difficulty = match network.difficulty {
        Difficulty::Fixed => "fixed".to_owned(),
        Difficulty::Asert { half_life } => format!("asert, half-life {half_life} s"),
    };
    let sen = |sen: u128| Amount::from_sen(u64::try_from(sen).unwrap_or(u64::MAX));
    let ticker = &network.ticker;
    let rows = [
        ("network", network.name.clone()),
        ("genesis hash", network.genesis_hash().to_string()),
        ("consensus hash", network.consensus_hash().to_string()),
        ("genesis time", format!("{} ({})", civil_time(network.genesis_time.into()), network.genesis_time)),
        ("addresses", format!("{}1...", network.prefix)),
        ("spacing", format!("{} s", network.spacing)),
        ("difficulty", difficulty),
        ("genesis bits", format!("{:08x}, limit {:08x}", network.genesis_bits.get(), network.limit.to_compact().get())),
        (
            "block",
            format!("at most {} bytes, {} s ahead of the clock", network.max_block_bytes, network.max_future_seconds),
        ),
        ("subsidy", format!("{} {ticker}, halving every {} blocks", network.initial_subsidy, network.halving_interval)),
        ("emission", format!("{} {ticker} in all, cap {} {ticker}", sen(network.emission()), network.supply_cap)),
        ("allocations", format!("{} of {} {ticker}", network.allocations.len(), sen(network.allocated()))),
        ("maturity", format!("{} blocks", network.maturity)),
        ("ports", format!("peers {}, RPC {}", network.p2p_port, network.rpc_port())),
        ("message", network.message.clone()),
    ];
    rows.iter().map(|(name, value)| format!("{name:<15} {value}\n")).collect()
}

fn parse_bits(text: &str) -> Result<CompactBits, String> {
    let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bits = u32::from_str_radix(text, 16).ok().filter(|_| digits);
    bits.map(CompactBits::new).ok_or_else(|| "expected eight hexadecimal digits such as 1f00ffff".into())
}

fn parse_allocation(text: &str, prefix: &Prefix) -> Result<Output, GenesisError> {
    let invalid = |reason: String| GenesisError::Option(format!("--allocate {text}: {reason}"));
    let (address, amount) = text.split_once('=').ok_or_else(|| invalid("expected ADDRESS=COINS".into()))?;
    let address = Address::from_text(address, prefix).map_err(|error| invalid(error.to_string()))?;
    let amount = amount.parse().map_err(|error| invalid(format!("{error}")))?;
    Ok(Output { amount, address })
}

fn parse_time(text: &str) -> Result<u32, String> {
    let seconds = text.parse().ok().or_else(|| crate::clock::parse_civil_time(text));
    seconds
        .and_then(|seconds: u64| u32::try_from(seconds).ok())
        .ok_or_else(|| "expected 2026-11-01, 2026-11-01T12:00:00Z or Unix seconds".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use clap::{Command, FromArgMatches};

    fn new_network(folder: &Path, options: &str) -> Result<(Network, String), String> {
        let out = folder.join("genesis.json");
        let command = GenesisCommand::augment_subcommands(Command::new("genesis"));
        let arguments = format!("genesis new --name mine --prefix mine --out {} {options}", out.display());
        let matches = command.try_get_matches_from(arguments.split_whitespace()).map_err(|error| error.to_string())?;
        let command = GenesisCommand::from_arg_matches(&matches).map_err(|error| error.to_string())?;
        let mut text = Vec::new();
        run(command, &ManualClock::new(1_800_000_000), &mut text).map_err(|error| error.to_string())?;
        Ok((load(&out).map_err(|error| error.to_string())?, String::from_utf8(text).unwrap()))
    }

    #[test]
    fn new_writes_a_network_that_loads() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::from_bytes([1; 32]).to_text(&"mine".parse().unwrap());
        let options = format!("--allocate {address}=7.5 --halving 1000 --message hello --bootstrap seed.example:19750");
        let (network, text) = new_network(folder.path(), &options).unwrap();
        assert_eq!((network.name.as_str(), network.ticker.as_str()), ("mine", "MINE"));
        assert_eq!((network.genesis_time, network.allocated()), (1_800_000_000, 750_000_000));
        assert!(network.is_fixed());
        assert!(text.contains(&network.genesis_hash().to_string()) && text.contains("2027-01-15T08:00:00Z"), "{text}");
        // A file that exists may be in use elsewhere.
        let error = new_network(folder.path(), &options).unwrap_err();
        assert!(error.contains("exists"), "{error}");
    }

    #[test]
    fn asert_networks_start_at_their_launch_and_are_mined_by_all_threads() {
        let folder = tempfile::tempdir().unwrap();
        let options = "--difficulty asert --launch 2027-06-01 --bits 1f00ffff --threads 2";
        let (network, _) = new_network(folder.path(), options).unwrap();
        assert_eq!(network.difficulty, Difficulty::Asert { half_life: 14_400 });
        assert_eq!(civil_time(network.genesis_time.into()), "2027-06-01T00:00:00Z");
        assert_eq!(network.genesis_bits.get(), 0x1f00_ffff);
    }

    #[test]
    fn mistakes_are_named_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let rows = [
            ("--name dev", "cannot be used multiple times"),
            ("--half-life 5", "--half-life is for --difficulty asert"),
            ("--difficulty asert --half-life 14399", "`half_life_seconds`: expected at least 14400"),
            ("--limit 5", "expected eight hexadecimal digits"),
            ("--bits 2100ffff", "`genesis_bits`: an easier target"),
            ("--spacing 0", "`spacing_seconds`: expected at least 1"),
            ("--cap 1", "`initial_subsidy`: more than"),
            ("--cap 100", "`supply_cap`: emission"),
            ("--subsidy 0.000000001", "at most 8 decimals"),
            ("--launch yesterday", "expected 2026-11-01"),
            ("--launch 2026-02-30", "expected 2026-11-01"),
            ("--allocate mine1q=5", "--allocate mine1q=5: mistyped"),
            ("--allocate 5", "expected ADDRESS=COINS"),
            ("--port 0", "`p2p_port`"),
            ("--ticker x", "`ticker`"),
        ];
        for (options, expected) in rows {
            let error = new_network(folder.path(), options).unwrap_err();
            assert!(error.contains(expected), "{options}: {error}");
        }
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
    }

    #[test]
    fn show_knows_the_built_in_networks_and_files() {
        let show = |network: Option<&str>, genesis: Option<PathBuf>, json| {
            show(&ShowArgs { network: network.map(str::to_owned), genesis, json }).map_err(|error| error.to_string())
        };
        assert!(show(None, None, false).unwrap().contains(&Network::main().genesis_hash().to_string()));
        assert_eq!(show(Some("dev"), None, true).unwrap(), Network::dev().to_json());
        assert!(show(Some("x"), None, false).unwrap_err().contains("expected main, test or dev"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        assert!(show(None, Some(path.clone()), false).unwrap_err().contains("x.json"));
        std::fs::write(&path, "{}").unwrap();
        assert!(show(None, Some(path.clone()), false).unwrap_err().contains("x.json: field `prefix` is missing"));
        std::fs::write(&path, vec![b' '; 1 << 21]).unwrap();
        assert!(show(None, Some(path), false).unwrap_err().contains("longer than"));
    }
}
