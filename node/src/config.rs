//! Configuration: flags over `SETARA_*` environment over `setara.toml` over defaults.
//!
//! What a node runs with is one typed [`Config`]. Unknown keys are refused, with the nearest name suggested; a value out
//! of range is refused with the option as it is written where it was set. `setara-node config` prints the result and
//! where each value came from.

mod layers;
mod memory;
mod options;
mod parse;
mod rpc;
mod show;
mod storage;
mod upkeep;

use crate::call::Call;
use crate::genesis::{self, GenesisCommand};
use crate::invite::{self, Invite, InviteError};
use crate::memory::{Part, Shares, TooLittle, Usual, Wanted};
use crate::prune::PruneLimits;
use crate::telemetry::{self, LogFormat};
use clap::{Arg, Command, FromArgMatches, Subcommand};
pub use layers::{Layers, Setting, Source};
pub use options::{OPTIONS, OptionSpec, Shape};
pub use parse::{HostName, IpRange, PeerName, RpcAuth, RpcWhitelist, UserPassword};
pub use rpc::RpcConfig;
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::network::Network;
use setara_core::pow::Work;
use show::effective;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
pub use storage::SnapshotConfig;
pub use upkeep::{Upkeep, VerifyRange};

/// The file looked for in the data directory.
const FILE_NAME: &str = "setara.toml";
/// The networks that have a name without a genesis file.
const BUILT_IN: [&str; 3] = ["main", "test", "dev"];
/// Bytes of a MiB, the unit of `--db-cache`, and of a MB, that of `--max-mempool`.
const MIB: u64 = 1 << 20;
const MB: u64 = 1_000_000;

/// Everything a node is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The network.
    pub network: Arc<Network>,
    /// Where data is kept, all networks.
    pub data_dir: PathBuf,
    /// Other nodes.
    pub peers: PeersConfig,
    /// The RPC server.
    pub rpc: RpcConfig,
    /// Bytes of memory for the database and its coins.
    pub db_cache_bytes: u64,
    /// What is said of memory, and what parts have without a budget.
    pub memory: (Wanted, Usual),
    /// Who may hold how much of it.
    pub shares: Shares,
    /// Whether transactions and addresses are indexed.
    pub index: bool,
    /// Deepest reorganisation that is followed; `None` follows work alone.
    pub max_reorg: Option<u32>,
    /// When old blocks are deleted.
    pub prune: PruneLimits,
    /// Beginning with the coins of a day ago, and letting others do so.
    pub snapshot: SnapshotConfig,
    /// The mempool.
    pub mempool: MempoolConfig,
    /// Mining.
    pub mining: MiningConfig,
    /// The log.
    pub log: LogConfig,
    /// What is allowed, and was probably not meant.
    pub warnings: Vec<String>,
}

impl Config {
    /// With shares of memory for a chain of so many headers.
    pub fn with_headers(mut self, headers: u64) -> Result<Self, TooLittle> {
        let (wanted, usual) = &self.memory;
        self.shares = wanted.split(headers, usual)?;
        self.mempool.max_bytes = self.shares.of(Part::Mempool);
        self.peers.inbound_max = self.shares.inbound_count();
        Ok(self)
    }
}

/// Options of the peer-to-peer network.
#[derive(Debug, Clone)]
pub struct PeersConfig {
    /// Where other nodes may connect; `None` listens nowhere.
    pub listen: Option<SocketAddr>,
    /// Connect to these and to no others.
    pub connect: Vec<PeerName>,
    /// Keep connections to these.
    pub add: Vec<PeerName>,
    /// Where others reach this node.
    pub external: Vec<PeerName>,
    /// Incoming connections at most.
    pub inbound_max: usize,
    /// Bytes that are to be sent in a day; `None` for as many as are asked for.
    pub upload_target: Option<u64>,
    /// Whether loopback and private addresses count as any others.
    pub allow_private: bool,
    /// A SOCKS5 proxy for every dial.
    pub proxy: Option<SocketAddr>,
    /// Whether the router is asked to forward a port.
    pub map_port: bool,
    /// Whether own transactions leave over connections of their own.
    pub private_broadcast: bool,
    /// Whether the static key is kept.
    pub lasting_identity: bool,
    /// Headers with less work are not stored.
    pub minimum_work: Work,
}

/// Options of the mempool.
#[derive(Debug, Clone)]
pub struct MempoolConfig {
    /// Bytes of memory.
    pub max_bytes: u64,
    /// Least fee per 1,000 bytes.
    pub min_relay_fee: Amount,
    /// How long a transaction waits.
    pub expiry: Duration,
}

/// Options of mining.
#[derive(Debug, Clone)]
pub struct MiningConfig {
    /// Mine here, to this address.
    pub mine: Option<Address>,
    /// Threads that mine.
    pub threads: usize,
    /// Who is paid by templates for other miners.
    pub address: Option<Address>,
}

/// Options of the log.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// How lines look.
    pub format: LogFormat,
    /// What is logged.
    pub filter: String,
    /// Whether to log to a file too.
    pub file: bool,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A key that means nothing.
    #[error("{place}: unknown option `{}`{suggestion}", name.escape_debug())]
    Unknown {
        /// Where it stands.
        place: String,
        /// The key.
        name: String,
        /// `, did you mean ...?` or nothing.
        suggestion: String,
    },
    /// A value that an option cannot have.
    #[error("{name}: {reason}")]
    Invalid {
        /// The option, as it is written where it was set.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The file cannot be read.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Run a node.
    Run(Box<Config>),
    /// Run a directory of nodes.
    Seeder(Box<Config>),
    /// Print this text: effective values and their sources.
    Print(String),
    /// Call a running node.
    Call(Box<Config>, Call),
    /// Make or show a network.
    Genesis(GenesisCommand),
    /// Print an invite to this node's network, perhaps at an address of the operator's choice.
    Invite(Box<Config>, Option<PeerName>),
    /// Look after the data directory.
    Upkeep(Box<Config>, Upkeep),
}

/// Why there is nothing to do.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// A wrong command line, or one that asks for help or the version.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// A wrong configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An invite that leads nowhere.
    #[error(transparent)]
    Invite(#[from] InviteError),
}

/// The command line.
fn command() -> Command {
    let about = "Setara full node: keeps the whole chain, checks every rule, answers JSON-RPC";
    let more = "Options may also stand in the environment (SETARA_DB_CACHE=2000; several values of a repeatable option \
        are separated by ;) and in the file (db-cache = 2000; for one network under [networks.dev]). Flags beat the \
        environment, the environment beats the file. `setara-node config` shows what holds and why.\n\n\
        A development node:\n  setara-node --network dev\n\
        A network of your own:\n  setara-node genesis new --name mine --prefix mine --out mine.json\n  \
        setara-node --genesis mine.json";
    let config = Command::new("config")
        .about("Show every option's value and where it was set")
        .disable_help_subcommand(true)
        .args(options::arguments());
    let genesis = GenesisCommand::augment_subcommands(Command::new("genesis"))
        .about("Make a network of your own, or show one")
        .subcommand_required(true);
    let call = Command::new("call")
        .about("Call a method of a running node, such as `getblockcount` (`help` lists them)")
        .args(options::arguments())
        .arg(Arg::new("METHOD").required(true).help("The method"))
        .arg(Arg::new("PARAMS").num_args(0..).trailing_var_arg(true).allow_hyphen_values(true).help("Its parameters"));
    let invite = Command::new("invite")
        .about("Print one string with which another machine can join this node's network")
        .args(options::arguments())
        .arg(
            Arg::new("address")
                .long("address")
                .value_name("HOST:PORT")
                .help("Where others reach this node [default: the first --external-address]"),
        );
    let join = Command::new("join")
        .about("Join a network by an invite: fetch its genesis file from the peer, check it, and run a node")
        .args(options::arguments())
        .arg(Arg::new("INVITE").required(true).help("setara://[KEY@]HOST:PORT/GENESIS_HASH"));
    let seeder = Command::new("seeder")
        .about("Run a directory of a network's nodes: it visits them, remembers which are there, and tells who asks")
        .after_help(
            "A seeder keeps no chain. It begins with the genesis file's bootstrap peers and those of --connect, asks every \
             node for others, and visits each again and again. A node that dials it (as a bootstrap peer of its genesis \
             file, or by --add-peer) takes addresses of nodes that are there, and lets it go. Its files are in \
             DATA_DIR/NETWORK/seeder, so a node may use the same data directory.\n\n\
             A seeder for a network of your own, then a node that finds the others through it:\n  \
             setara-node seeder --genesis mine.json --p2p-listen 0.0.0.0:19750 --connect 203.0.113.7:19740\n  \
             setara-node --genesis mine.json --add-peer 203.0.113.9:19750",
        )
        .args(options::seeder_arguments());
    Command::new("setara-node")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .after_help(more)
        .args(options::arguments())
        .subcommand(call)
        .subcommand(config)
        .subcommand(genesis)
        .subcommand(invite)
        .subcommand(join)
        .subcommand(seeder)
        .subcommands(upkeep::commands())
}

/// Reads a command line (program name first) and an environment.
pub fn request(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Request, RequestError> {
    let matches = command().try_get_matches_from(arguments)?;
    let mut layers = Layers::default();
    layers.add_flags(&matches);
    match matches.subcommand() {
        Some(("genesis", matches)) => {
            if let Some(option) = OPTIONS.iter().find(|option| layers.get(option.name).is_some()) {
                return Err(invalid(&layers, option.name, "means nothing before `genesis`").into());
            }
            Ok(Request::Genesis(GenesisCommand::from_arg_matches(matches)?))
        }
        Some(("call", matches)) => {
            layers.add_flags(matches);
            let texts = |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned();
            let call = Call { method: texts("METHOD").collect(), params: texts("PARAMS").collect() };
            Ok(Request::Call(Box::new(resolve(&mut layers, environment)?), call))
        }
        Some(("invite", matches)) => {
            layers.add_flags(matches);
            let address = matches.get_one::<String>("address").map(|text| text.parse()).transpose();
            let invalid = |reason| ConfigError::Invalid { name: "--address".to_owned(), reason };
            let config = resolve(&mut layers, environment)?;
            Ok(Request::Invite(Box::new(config), address.map_err(invalid)?))
        }
        Some(("join", matches)) => {
            layers.add_flags(matches);
            Ok(Request::Run(Box::new(join(layers, matches, environment)?)))
        }
        Some(("seeder", matches)) => {
            layers.add_flags(matches);
            Ok(Request::Seeder(Box::new(resolve(&mut layers, environment)?)))
        }
        Some((name, matches)) if upkeep::NAMES.contains(&name) => {
            layers.add_flags(matches);
            Ok(Request::Upkeep(Box::new(resolve(&mut layers, environment)?), upkeep::read(name, matches)))
        }
        Some((_, matches)) => {
            layers.add_flags(matches);
            let config = resolve(&mut layers, environment)?;
            Ok(Request::Print(effective(&config, &layers)))
        }
        None => Ok(Request::Run(Box::new(resolve(&mut layers, environment)?))),
    }
}

/// The configuration of a node that joins by an invite: its network and its first peer come from there.
fn join(
    mut layers: Layers,
    matches: &clap::ArgMatches,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, RequestError> {
    for name in ["network", "genesis", "connect"] {
        if layers.get(name).is_some() {
            return Err(invalid(&layers, name, "means nothing beside an invite").into());
        }
    }
    let environment: Vec<(String, String)> = environment.collect();
    let home = environment.iter().find(|(name, _)| name == "HOME").map(|(_, value)| PathBuf::from(value));
    let text = matches.get_one::<String>("INVITE").map_or("", String::as_str);
    let invite: Invite = text.parse()?;
    let folder = data_dir(&layers, home.as_ref())?;
    let proxy = one(&layers, "proxy", parse::socket_address)?;
    let built_in = BUILT_IN
        .into_iter()
        .find(|name| Network::built_in(name).is_some_and(|network| network.genesis_hash() == invite.genesis));
    match built_in {
        Some(name) => layers.set_flag("network", name.to_owned()),
        None => layers.set_flag("genesis", invite::fetch(&invite, &folder, proxy)?.display().to_string()),
    }
    let peer = invite.to_string();
    let peer = peer.trim_start_matches("setara://").split('/').next().unwrap_or_default();
    layers.set_flag("add-peer", peer.rsplit('@').next().unwrap_or_default().to_owned());
    Ok(resolve(&mut layers, environment.into_iter())?)
}

/// Adds the other sources to the command line's and types the result.
fn resolve(layers: &mut Layers, environment: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let environment: Vec<(String, String)> = environment.collect();
    let home = environment.iter().find(|(name, _)| name == "HOME").map(|(_, value)| PathBuf::from(value));
    layers.add_environment(environment.into_iter())?;

    let file = match layers.get("config") {
        Some(setting) => Some(expand(first(setting), home.as_ref())),
        // Only where data is looked for without a file; the file may then move the data elsewhere.
        None => data_dir(layers, home.as_ref()).ok().map(|dir| dir.join(FILE_NAME)).filter(|file| file.exists()),
    };
    let tables = file.map(|file| layers.add_file(&file)).transpose()?;
    let network = network(layers)?;
    if let Some(tables) = tables {
        layers.add_network(tables, &network.name)?;
    }
    typed(layers, network, data_dir(layers, home.as_ref())?)
}

fn first(setting: &Setting) -> &str {
    setting.values.first().map_or("", String::as_str)
}

/// A path whose leading `~` is the home directory: files and environments have no shell to expand it.
fn expand(text: &str, home: Option<&PathBuf>) -> PathBuf {
    match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

fn data_dir(layers: &Layers, home: Option<&PathBuf>) -> Result<PathBuf, ConfigError> {
    match (layers.get("data-dir"), home) {
        (Some(setting), _) if first(setting).is_empty() => Err(invalid(layers, "data-dir", "expected a folder")),
        (Some(setting), _) => Ok(expand(first(setting), home)),
        (None, Some(home)) => Ok(home.join(".setara")),
        (None, None) => Err(invalid(layers, "data-dir", "needed, as HOME is not set")),
    }
}

/// The network that the strongest source names.
fn network(layers: &Layers) -> Result<Network, ConfigError> {
    let by_name = |name: &str| {
        Network::built_in(name).ok_or_else(|| {
            let suggestion = options::suggestion(name, BUILT_IN.into_iter());
            let reason = format!("`{}` is not built in{suggestion} (others: --genesis FILE)", name.escape_debug());
            invalid(layers, "network", &reason)
        })
    };
    let by_file =
        |file: &str| genesis::load(file.as_ref()).map_err(|error| invalid(layers, "genesis", &error.to_string()));
    match (layers.get("network"), layers.get("genesis")) {
        (None, None) => Ok(Network::main()),
        (Some(name), None) => by_name(first(name)),
        (None, Some(file)) => by_file(first(file)),
        (Some(name), Some(file)) if name.source == file.source => {
            Err(invalid(layers, "network", "a network is named or given by --genesis, not both"))
        }
        (Some(name), Some(file)) if name.source.beats(&file.source) => by_name(first(name)),
        (Some(_), Some(file)) => by_file(first(file)),
    }
}

fn invalid(layers: &Layers, name: &'static str, reason: &str) -> ConfigError {
    let source = layers.get(name).map_or(&Source::Default, |setting| &setting.source);
    let name = options::find(name).map_or_else(|| name.to_owned(), |option| source.name_of(option));
    ConfigError::Invalid { name, reason: reason.to_owned() }
}

/// One option's value, if it is set.
fn one<T>(
    layers: &Layers,
    name: &'static str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, ConfigError> {
    let Some(setting) = layers.get(name) else { return Ok(None) };
    parse(first(setting)).map(Some).map_err(|reason| invalid(layers, name, &reason))
}

/// Every value of a repeatable option.
fn many<T: std::str::FromStr<Err = String>>(layers: &Layers, name: &'static str) -> Result<Vec<T>, ConfigError> {
    let values = layers.get(name).map_or(&[][..], |setting| &setting.values);
    let parsed = values.iter().map(|value| value.parse::<T>().map_err(|reason| invalid(layers, name, &reason)));
    parsed.collect()
}

/// A number in a range, or its default.
fn number(layers: &Layers, name: &'static str, range: std::ops::RangeInclusive<u64>) -> Result<u64, ConfigError> {
    let default = options::find(name).and_then(|option| option.default.parse().ok());
    let value = one(layers, name, |text| parse::number(text, range.clone()))?;
    Ok(value.or(default).expect("the table has a number as the default"))
}

fn size(layers: &Layers, name: &'static str, range: std::ops::RangeInclusive<u64>) -> Result<usize, ConfigError> {
    Ok(usize::try_from(number(layers, name, range)?).expect("ranges of counts fit a usize"))
}

/// Types what the layers say.
fn typed(layers: &Layers, network: Network, data_dir: PathBuf) -> Result<Config, ConfigError> {
    let address = |name| one(layers, name, |text| parse::address(text, &network));
    let mine = address("mine")?;
    let mining_address = address("mining-address")?.or(mine);
    let flag = |name| one(layers, name, parse::boolean).map(|value| value.unwrap_or(false));
    let index = !flag("no-index")?;
    let prune = storage::prune(layers, &network)?;
    let (wanted, usual, shares) = memory::read(layers, &network, index, &prune)?;
    let max_reorg = one(layers, "max-reorg", |text| parse::number(text, 1..=u32::MAX.into()))?;
    Ok(Config {
        peers: peers(layers, &network, &shares)?,
        rpc: rpc::read(layers, &network)?,
        db_cache_bytes: wanted.database_bytes(&usual, &shares),
        memory: (wanted, usual),
        shares,
        snapshot: storage::snapshot(layers, &prune, index)?,
        index,
        prune,
        max_reorg: max_reorg.map(|blocks| u32::try_from(blocks).expect("in range")),
        mempool: MempoolConfig {
            max_bytes: shares.of(Part::Mempool),
            min_relay_fee: Amount::from_sen(number(layers, "min-relay-fee", 0..=100_000_000)?),
            expiry: Duration::from_secs(number(layers, "mempool-expiry", 1..=24 * 366)? * 3600),
        },
        mining: MiningConfig { mine, threads: size(layers, "mine-threads", 1..=1024)?, address: mining_address },
        log: LogConfig {
            format: one(layers, "log-format", str::parse)?.unwrap_or_default(),
            filter: one(layers, "log-filter", |text| telemetry::check_filter(text).map(|()| text.to_owned()))?
                .unwrap_or_else(|| telemetry::FILTER_DEFAULT.to_owned()),
            file: !flag("no-log-file")?,
        },
        warnings: layers.warnings().to_vec(),
        network: Arc::new(network),
        data_dir,
    })
}

fn peers(layers: &Layers, network: &Network, shares: &Shares) -> Result<PeersConfig, ConfigError> {
    let flag = |name| one(layers, name, parse::boolean).map(|value| value.unwrap_or(false));
    // One that shares its hash with the whole world, as the built-in development network does, stays on this machine.
    let is_dev = network.name == "dev";
    let everywhere = if is_dev { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let default = SocketAddr::new(everywhere.into(), network.p2p_port);
    let listen = one(layers, "p2p-listen", parse::socket_address)?;
    if listen.is_some() && flag("no-listen")? {
        return Err(invalid(layers, "no-listen", "contradicts --p2p-listen"));
    }
    let (connect, add): (Vec<PeerName>, Vec<PeerName>) = (many(layers, "connect")?, many(layers, "add-peer")?);
    if !connect.is_empty() && !add.is_empty() {
        return Err(invalid(layers, "add-peer", "means nothing beside --connect, which allows no others"));
    }
    if flag("private-broadcast")? && layers.get("proxy").is_none() {
        return Err(invalid(layers, "private-broadcast", "needs --proxy: without one, peers see where it comes from"));
    }
    if flag("private-broadcast")? && !connect.is_empty() {
        return Err(invalid(layers, "private-broadcast", "means nothing beside --connect, which allows no others"));
    }
    let listen = (!flag("no-listen")?).then(|| listen.unwrap_or(default));
    let proxy = one(layers, "proxy", parse::socket_address)?;
    Ok(PeersConfig {
        listen,
        connect,
        add,
        external: many(layers, "external-address")?,
        inbound_max: shares.inbound_count(),
        upload_target: one(layers, "upload-target", parse::bytes)?.flatten(),
        allow_private: flag("allow-private")? || is_dev,
        proxy,
        map_port: one(layers, "map-port", |text| parse::map_port(text, listen, proxy))?.unwrap_or(false),
        private_broadcast: flag("private-broadcast")?,
        lasting_identity: flag("lasting-identity")?,
        minimum_work: one(layers, "minimum-work", parse::work)?.unwrap_or(Work::ZERO),
    })
}

#[cfg(test)]
mod tests;
