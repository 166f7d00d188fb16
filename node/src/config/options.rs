//! Every option of the node, once: its name, its meaning, its default.
//!
//! Flags, environment variables, keys of the file, `--help` and `config` are all made from this table, so none of them
//! can forget an option or tell another story.

use clap::{Arg, ArgAction};

/// How often an option may be given, and what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Takes nothing: it is there or not.
    Flag,
    /// Takes one value, called this in `--help`.
    One(&'static str),
    /// Takes one value each time, called this in `--help`.
    Many(&'static str),
}

/// An option.
#[derive(Debug)]
pub struct OptionSpec {
    /// `--name`; `SETARA_NAME` with underscores in the environment; `name` in the file.
    pub name: &'static str,
    /// What it takes.
    pub shape: Shape,
    /// The default as people read it; empty for none.
    pub default: &'static str,
    /// Heading in `--help`.
    pub group: &'static str,
    /// What it does.
    pub help: &'static str,
}

impl OptionSpec {
    /// The environment variable.
    pub fn environment(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.name.replace('-', "_").to_ascii_uppercase())
    }

    /// Whether its value must not be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.name, "rpc-password" | "rpcauth")
    }
}

/// What our environment variables start with.
pub const ENVIRONMENT_PREFIX: &str = "SETARA_";
/// Variables with our prefix that are not options: the wallet's own, and the tests' way to crash a node at a named place.
const OTHER_VARIABLES: [&str; 3] = ["SETARA_RPC", "SETARA_COOKIE", "SETARA_FAILPOINT"];
/// What the wallet's other variables start with.
const WALLET_ENVIRONMENT_PREFIX: &str = "SETARA_WALLET";
/// Separates the values of a repeatable option in the environment; no value has it inside.
pub const ENVIRONMENT_SEPARATOR: char = ';';

/// Whether a variable is meant for this node's configuration.
pub fn is_option_variable(name: &str) -> bool {
    let other = name.starts_with(WALLET_ENVIRONMENT_PREFIX) || OTHER_VARIABLES.contains(&name);
    name.starts_with(ENVIRONMENT_PREFIX) && !other
}

const NETWORK: &str = "Network and data";
const PEERS: &str = "Peers";
const RPC: &str = "RPC";
const STORAGE: &str = "Storage";
const MEMPOOL: &str = "Mempool";
const MINING: &str = "Mining";
const LOG: &str = "Log";

const fn option(
    group: &'static str,
    name: &'static str,
    shape: Shape,
    default: &'static str,
    help: &'static str,
) -> OptionSpec {
    OptionSpec { name, shape, default, group, help }
}

/// All options, in the order people read them.
pub const OPTIONS: &[OptionSpec] = &[
    option(NETWORK, "network", Shape::One("NAME"), "main", "A built-in network: main, test or dev"),
    option(NETWORK, "genesis", Shape::One("FILE"), "", "A network of your own, by its genesis file"),
    option(
        NETWORK,
        "data-dir",
        Shape::One("DIR"),
        "~/.setara",
        "Where data is kept, each network in a folder of its own",
    ),
    option(NETWORK, "config", Shape::One("FILE"), "DATA_DIR/setara.toml", "The file that sets these options"),
    option(
        NETWORK,
        "max-memory",
        Shape::One("SIZE"),
        "",
        "Keep the whole node below this, in MiB or with a unit such as 500M or 4G: caches, mempool, downloads, indexes and \
         peers get shares of it; --db-cache, --max-mempool and --max-inbound fix one. `getmemoryinfo` shows who has what",
    ),
    option(
        PEERS,
        "p2p-listen",
        Shape::One("HOST:PORT"),
        "0.0.0.0 and the network's port; dev: 127.0.0.1",
        "Where other nodes may connect; port 0 takes a free one, which endpoints.json then names",
    ),
    option(PEERS, "no-listen", Shape::Flag, "", "Listen for no peers; this node only dials"),
    option(PEERS, "connect", Shape::Many("HOST:PORT"), "", "Connect to these peers and to no others"),
    option(PEERS, "add-peer", Shape::Many("HOST:PORT"), "", "Keep a connection to this peer, besides others"),
    option(
        PEERS,
        "external-address",
        Shape::Many("HOST:PORT"),
        "",
        "An address at which others reach this node: told to them, and used by `invite`",
    ),
    option(PEERS, "max-inbound", Shape::One("N"), "114", "Connections that others may have open to this node"),
    option(
        PEERS,
        "upload-target",
        Shape::One("SIZE"),
        "",
        "Send about so much a day, in MiB or with a unit such as 500M or 20G: when it runs out, peers that dialled this node \
         get no old blocks any more, and at last only new ones",
    ),
    option(
        PEERS,
        "allow-private",
        Shape::Flag,
        "",
        "Treat loopback and private addresses as any others (always so on dev)",
    ),
    option(
        PEERS,
        "proxy",
        Shape::One("HOST:PORT"),
        "",
        "A SOCKS5 proxy, such as Tor's 127.0.0.1:9050, for every connection that this node makes",
    ),
    option(
        PEERS,
        "map-port",
        Shape::Flag,
        "",
        "Ask the router (by PCP, NAT-PMP or UPnP) to forward a port to this node while it runs, so that others \
         can dial it although it has no public address of its own; the log says whether the router agreed",
    ),
    option(
        PEERS,
        "private-broadcast",
        Shape::Flag,
        "",
        "Send transactions handed in by RPC over short connections of their own through --proxy, so that no peer can \
         tell whose they are; they show up here once they come back",
    ),
    option(
        PEERS,
        "lasting-identity",
        Shape::Flag,
        "",
        "Keep one key for ever, so that an invite can name it; without it each start has a fresh one that tracks nobody",
    ),
    option(
        PEERS,
        "minimum-work",
        Shape::One("HEX"),
        "0",
        "Work that a chain of headers must have before it is stored: protects a new node from floods of easy ones",
    ),
    option(
        RPC,
        "rpc-listen",
        Shape::One("HOST:PORT"),
        "127.0.0.1 and the port after the peers'",
        "Where the RPC server listens; port 0 takes a free one, which endpoints.json then names",
    ),
    option(
        RPC,
        "rpc-allow-ip",
        Shape::Many("IP[/BITS]"),
        "",
        "Who may connect besides this machine; needed to listen anywhere but on loopback",
    ),
    option(
        RPC,
        "rpcauth",
        Shape::Many("USER:SALT$HASH"),
        "",
        "A user besides the cookie's, as Bitcoin's rpcauth.py prints it; HASH = HMAC-SHA256(SALT, password)",
    ),
    option(
        RPC,
        "rpc-user",
        Shape::One("USER"),
        "",
        "A user by name and password; rpcauth keeps the password out of here",
    ),
    option(RPC, "rpc-password", Shape::One("PASSWORD"), "", "That user's password"),
    option(
        RPC,
        "rpc-whitelist",
        Shape::Many("USER:METHOD,..."),
        "",
        "The only methods that a user may call; given twice for a user, those in both. One for any user closes the door to \
         users without one, the cookie's (__cookie__) too: see --rpc-whitelist-default",
    ),
    option(
        RPC,
        "rpc-whitelist-default",
        Shape::One("0|1"),
        "1 if there is a whitelist, else 0",
        "What users without a whitelist may call: 0 everything, 1 nothing",
    ),
    option(
        RPC,
        "rpc-host",
        Shape::Many("NAME"),
        "",
        "A host name that callers use for this node; others are refused, lest a web page reach it (IP addresses always may)",
    ),
    option(RPC, "rpc-threads", Shape::One("N"), "16", "Calls that run at the same time"),
    option(RPC, "rpc-work-queue", Shape::One("N"), "1024", "Calls that wait for their turn before others get a 503"),
    option(RPC, "rpc-timeout", Shape::One("SECONDS"), "30", "How long a connection may be silent"),
    option(RPC, "rpc-max-connections", Shape::One("N"), "1000", "Connections at the same time"),
    option(STORAGE, "db-cache", Shape::One("MIB"), "450", "Memory for the database and its coins"),
    option(STORAGE, "no-index", Shape::Flag, "", "Keep no index of transactions and addresses (wallets need it)"),
    option(
        STORAGE,
        "prune",
        Shape::One("SIZE"),
        "",
        "Delete the bodies of old blocks so that those that are left take no more than this, in MiB or with a unit such as \
         500M or 20G; coins, headers, the newest 288 blocks and undo data of 10,000 always stay. `manual` deletes only \
         what `pruneblockchain` names. Blocks once deleted come back only by syncing anew",
    ),
    option(
        STORAGE,
        "max-disk",
        Shape::One("SIZE"),
        "",
        "Keep the whole database below this by deleting the bodies of old blocks, as --prune does",
    ),
    option(
        STORAGE,
        "snapshot",
        Shape::Flag,
        "",
        "Begin a new chain with the coins of about a day ago, fetched from peers and held against the headers' work: usable in \
         minutes; every block behind them is verified afterwards. Needs --prune and --no-index, as old blocks do not stay",
    ),
    option(
        STORAGE,
        "no-snapshot-serving",
        Shape::Flag,
        "",
        "Keep no snapshot of the coins for nodes that begin with one; it takes 81 bytes of disk a coin, renewed once a day",
    ),
    option(
        STORAGE,
        "max-reorg",
        Shape::One("BLOCKS"),
        "",
        "Refuse to leave a chain for one that forks off more than this many blocks ago; a decision of yours alone, \
         which can split you from the network",
    ),
    option(MEMPOOL, "max-mempool", Shape::One("MB"), "300", "Memory for transactions that wait for a block"),
    option(MEMPOOL, "min-relay-fee", Shape::One("SEN"), "1000", "Least fee per 1,000 bytes of a transaction, in sen"),
    option(MEMPOOL, "mempool-expiry", Shape::One("HOURS"), "336", "How long a transaction waits before it is dropped"),
    option(MINING, "mine", Shape::One("ADDRESS"), "", "Mine on this machine's processors, to this address"),
    option(MINING, "mine-threads", Shape::One("N"), "1", "Threads that mine"),
    option(
        MINING,
        "mining-address",
        Shape::One("ADDRESS"),
        "that of --mine",
        "Who is paid by block templates for other miners",
    ),
    option(LOG, "log-format", Shape::One("text|json"), "text", "How log lines look"),
    option(
        LOG,
        "log-filter",
        Shape::One("FILTER"),
        "info",
        "What is logged: error, warn, info, debug or trace, for all or by part, as in info,mempool=debug",
    ),
    option(LOG, "no-log-file", Shape::Flag, "", "Log to standard error only, not to DATA_DIR/NETWORK/setara.log"),
];

/// The option of this name.
pub fn find(name: &str) -> Option<&'static OptionSpec> {
    OPTIONS.iter().find(|option| option.name == name)
}

/// The flags, for the command line.
pub fn arguments() -> impl Iterator<Item = Arg> {
    OPTIONS.iter().map(|option| {
        let argument = Arg::new(option.name).long(option.name).help_heading(option.group);
        let default = match option.default {
            "" => String::new(),
            default => format!(" [default: {default}]"),
        };
        let argument = argument.help(format!("{}{default}", option.help));
        match option.shape {
            Shape::Flag => argument.action(ArgAction::SetTrue),
            Shape::One(value) => argument.value_name(value).action(ArgAction::Set),
            Shape::Many(value) => argument.value_name(value).action(ArgAction::Append),
        }
    })
}

/// Options that mean something to a seeder; two of them mean something else than to a node.
const SEEDER_OPTIONS: [(&str, Option<&str>); 13] = [
    ("network", None),
    ("genesis", None),
    ("data-dir", None),
    ("config", None),
    ("p2p-listen", None),
    ("connect", Some("A node to begin with, besides the genesis file's; others are found from there")),
    ("add-peer", Some("The same as --connect")),
    ("max-inbound", None),
    ("allow-private", None),
    ("proxy", None),
    ("log-format", None),
    ("log-filter", None),
    ("no-log-file", None),
];

/// The flags of a seeder.
pub fn seeder_arguments() -> impl Iterator<Item = Arg> {
    arguments().filter_map(|argument| {
        let (_, help) = SEEDER_OPTIONS.iter().find(|(name, _)| argument.get_id() == *name)?;
        Some(match help {
            Some(help) => argument.help(*help),
            None => argument,
        })
    })
}

/// `, did you mean ...?` with the nearest name, if one is near; else nothing.
pub fn suggestion<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    /// Below this similarity (Jaro-Winkler, 0 to 1) a suggestion is a guess.
    const SIMILARITY_MIN: f64 = 0.8;
    // One slip is one, however short the name: Jaro-Winkler sees little of `dev` in `dve`.
    let one_slip = |name: &str| strsim::osa_distance(unknown, name) == 1;
    let similarity = |name| if one_slip(name) { 1.0 } else { strsim::jaro_winkler(unknown, name) };
    let rated = known.map(|name| (similarity(name), name));
    let best = rated.max_by(|left, right| left.0.total_cmp(&right.0));
    match best {
        Some((similarity, name)) if similarity >= SIMILARITY_MIN => format!(", did you mean `{name}`?"),
        _ => String::new(),
    }
}
