//! A network: every parameter its nodes agree on, and the genesis block that commits to them.
//!
//! [`Parameters`] are what a genesis file states. [`Network`] is the proof that they are in range, that emission and
//! allocations fit under the cap, and that the genesis block they describe has its work; it cannot be changed. Three
//! networks are built in; anyone can write a file for their own.
//!
//! The genesis coinbase carries a hash of the consensus parameters, so the genesis hash identifies the whole rule set.
//! Time, bits and nonce stand in its header. Ports, bootstrap peers and upgrades are outside.

mod file;

use crate::address::{Address, Prefix};
use crate::amount::Amount;
use crate::block::{Block, Header};
use crate::codec::{Writer, encode};
use crate::hash::{BlockHash, Hash256, tagged};
use crate::height::Height;
use crate::lattice::Lattice;
use crate::limits::{
    BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, COINBASE_BYTES_MAX, GENESIS_MESSAGE_BYTES_MAX, NETWORK_NAME_CHARS_MAX,
    SUPPLY_CAP_SEN_MAX, TICKER_CHARS_MAX,
};
use crate::merkle;
use crate::pow::{CompactBits, Target};
use crate::transaction::{Coinbase, Output};
use core::ops::Deref;

/// Version of a genesis header: BIP 9's base, with every signal bit clear.
const GENESIS_VERSION: u32 = 0x2000_0000;
/// Shifting a 64-bit subsidy this far leaves nothing.
const HALVINGS_MAX: u32 = 64;
/// ASERT's half-life is at least this many times the future limit: a block from the future eases its child's target
/// by 2^(limit / half-life), under 3 %.
const HALF_LIFE_PER_FUTURE_LIMIT: u32 = 24;
/// Bootstrap peers of a file: a dozen are plenty, and all of them are dialled.
const BOOTSTRAP_PEERS_MAX: usize = 64;
/// Characters of a bootstrap peer: the longest DNS name, a colon and a port.
const BOOTSTRAP_CHARS_MAX: usize = 253 + 6;
/// Names of the built-in networks that difficulty can never be fixed on.
const PUBLIC_NAMES: [&str; 2] = ["main", "test"];

/// How the target changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difficulty {
    /// Never: every block has the genesis bits.
    Fixed,
    /// Absolutely scheduled exponential target (aserti3-2d).
    Asert {
        /// Seconds of lag after which the target has doubled.
        half_life: u32,
    },
}

/// A change of rules at a height. This version knows none, and refuses a file that names one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// Its name.
    pub name: String,
    /// The first height with the new rules.
    pub height: Height,
}

/// Everything a genesis file states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// `[a-z0-9-]{1,32}`; names the folder of the network's data too.
    pub name: String,
    /// `[A-Z0-9]{1,10}`: what amounts are labelled with.
    pub ticker: String,
    /// What addresses start with.
    pub prefix: Prefix,
    /// Seconds between blocks, on average.
    pub spacing: u32,
    /// How the target changes.
    pub difficulty: Difficulty,
    /// The easiest target.
    pub limit: Target,
    /// Seconds that a header may be ahead of local time.
    pub max_future_seconds: u32,
    /// Bytes of an encoded block.
    pub max_block_bytes: u64,
    /// New coins of block 1.
    pub initial_subsidy: Amount,
    /// Blocks between halvings of the subsidy.
    pub halving_interval: u32,
    /// Bound on every sum of amounts; emission and allocations fit under it.
    pub supply_cap: Amount,
    /// Blocks before a coinbase's coins can be spent.
    pub maturity: u32,
    /// Outputs of the genesis coinbase.
    pub allocations: Vec<Output>,
    /// Free text in the genesis coinbase.
    pub message: String,
    /// Unix seconds of the genesis header; a public ASERT network is dated at its announced launch.
    pub genesis_time: u32,
    /// Target of the genesis header, and the target that difficulty starts from.
    pub genesis_bits: CompactBits,
    /// Nonce of the genesis header.
    pub genesis_nonce: u32,
    /// Default port for peers; RPC is the next one.
    pub p2p_port: u16,
    /// `host:port` of peers to ask first.
    pub bootstrap: Vec<String>,
    /// Changes of rules, lowest first.
    pub upgrades: Vec<Upgrade>,
}

/// Why a genesis file describes no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Not one JSON object.
    #[error("not a genesis file: {0}")]
    Syntax(String),
    /// A field that must be there is not.
    #[error("field `{0}` is missing")]
    Missing(String),
    /// A field that this version does not know: it could mean anything, so it is refused.
    #[error("field `{0}` is unknown")]
    Unknown(String),
    /// A field stands twice.
    #[error("field `{0}` stands twice")]
    Duplicate(String),
    /// A field's value is of the wrong type or out of range.
    #[error("field `{field}`: {reason}")]
    Invalid {
        /// The field, with its path.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl NetworkError {
    /// The field at fault, if one is.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Syntax(_) => None,
            Self::Missing(field) | Self::Unknown(field) | Self::Duplicate(field) => Some(field),
            Self::Invalid { field, .. } => Some(field),
        }
    }

    fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }
}

/// `Ok` if `holds`, else what is wrong with `field`.
fn ensure(holds: bool, field: &str, reason: impl FnOnce() -> String) -> Result<(), NetworkError> {
    if holds { Ok(()) } else { Err(NetworkError::invalid(field, reason())) }
}

impl Parameters {
    /// Reads a genesis file without judging ranges or work: for tools that are about to mine one.
    pub fn from_json(text: &str) -> Result<Self, NetworkError> {
        file::read(text)
    }

    /// The genesis file.
    pub fn to_json(&self) -> String {
        file::write(self)
    }

    /// Subsidy of a block: the initial one halved once per interval; nothing for genesis.
    pub fn subsidy(&self, height: Height) -> Amount {
        let Some(halvings) = height.get().checked_div(self.halving_interval) else { return Amount::ZERO };
        if height == Height::GENESIS || halvings >= HALVINGS_MAX {
            return Amount::ZERO;
        }
        Amount::from_sen(self.initial_subsidy.sen().checked_shr(halvings).unwrap_or(0))
    }

    /// Sen ever made by subsidies, were the chain to go on for ever.
    pub fn emission(&self) -> u128 {
        let interval = u128::from(self.halving_interval);
        let eras = (0..HALVINGS_MAX).map(|halvings| u128::from(self.initial_subsidy.sen() >> halvings));
        let all = eras.fold(0u128, |sum, subsidy| sum.saturating_add(subsidy.saturating_mul(interval)));
        // The first era is one block short: genesis makes nothing.
        all.saturating_sub(u128::from(self.initial_subsidy.sen()))
    }

    /// Sum of the allocations in sen.
    pub fn allocated(&self) -> u128 {
        let amounts = self.allocations.iter().map(|output| u128::from(output.amount.sen()));
        amounts.fold(0, u128::saturating_add)
    }

    /// Commits to every parameter that two nodes must agree on.
    pub fn consensus_hash(&self) -> Hash256 {
        let mut writer = Writer::default();
        writer.bytes(self.name.as_bytes());
        writer.bytes(self.ticker.as_bytes());
        writer.bytes(self.prefix.as_str().as_bytes());
        writer.u32(self.spacing);
        let (difficulty, half_life) = match self.difficulty {
            Difficulty::Fixed => (0, 0),
            Difficulty::Asert { half_life } => (1, half_life),
        };
        writer.u8(difficulty);
        writer.u32(self.limit.to_compact().get());
        writer.u32(half_life);
        writer.u32(self.max_future_seconds);
        writer.u64(self.max_block_bytes);
        writer.u64(self.initial_subsidy.sen());
        writer.u32(self.halving_interval);
        writer.u64(self.supply_cap.sen());
        writer.u32(self.maturity);
        writer.list(&self.allocations);
        tagged("setara/genesis", &[writer.as_slice()])
    }

    /// The genesis block that these parameters describe, whether or not its nonce is right.
    pub fn genesis_block(&self) -> Block {
        let outputs = if self.allocations.is_empty() {
            vec![Output { amount: Amount::ZERO, address: Address::ZERO }]
        } else {
            self.allocations.clone()
        };
        let extra = [self.consensus_hash().as_bytes(), self.message.as_bytes()].concat();
        let coins_root = Lattice::empty().root();
        let coinbase = Coinbase { height: Height::GENESIS, coins_root, outputs, extra };
        let header = Header {
            version: GENESIS_VERSION,
            previous: BlockHash::ZERO,
            merkle_root: merkle::root(&[coinbase.wtxid()]).root,
            time: self.genesis_time,
            bits: self.genesis_bits,
            nonce: self.genesis_nonce,
        };
        Block { header, coinbase, transactions: Vec::new() }
    }

    /// Checks every range; the genesis block's work is [`Network::new`]'s to check.
    pub fn check(&self) -> Result<(), NetworkError> {
        self.check_names()?;
        self.check_work()?;
        self.check_money()?;
        self.check_peers()?;
        let genesis = self.genesis_block();
        let coinbase_bytes = bytes_of(&genesis.coinbase);
        ensure(coinbase_bytes <= COINBASE_BYTES_MAX, "allocations", || {
            format!("they make a genesis coinbase of {coinbase_bytes} bytes; at most {COINBASE_BYTES_MAX} are allowed")
        })?;
        let block_bytes = bytes_of(&genesis);
        ensure(block_bytes <= self.max_block_bytes, "max_block_bytes", || {
            format!("the genesis block alone has {block_bytes} bytes")
        })
    }

    fn check_names(&self) -> Result<(), NetworkError> {
        ensure(is_name(&self.name), "name", || format!("expected 1 to {NETWORK_NAME_CHARS_MAX} of a-z, 0-9 and -"))?;
        let plain = self.ticker.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        ensure(plain && (1..=TICKER_CHARS_MAX).contains(&self.ticker.len()), "ticker", || {
            format!("expected 1 to {TICKER_CHARS_MAX} of A-Z and 0-9")
        })?;
        let message_bytes = u64::try_from(self.message.len()).unwrap_or(u64::MAX);
        ensure(message_bytes <= GENESIS_MESSAGE_BYTES_MAX, "message", || {
            format!("{message_bytes} bytes are too many; at most {GENESIS_MESSAGE_BYTES_MAX} are allowed")
        })?;
        ensure(!self.message.chars().any(char::is_control), "message", || "it has control characters".into())
    }

    fn check_work(&self) -> Result<(), NetworkError> {
        ensure(self.spacing >= 1, "spacing_seconds", || "expected at least 1".into())?;
        match self.difficulty {
            Difficulty::Fixed => ensure(!PUBLIC_NAMES.contains(&self.name.as_str()), "difficulty", || {
                format!("a network called {} needs asert: fixed difficulty is for private networks", self.name)
            })?,
            Difficulty::Asert { half_life } => {
                let least = u64::from(self.max_future_seconds).saturating_mul(HALF_LIFE_PER_FUTURE_LIMIT.into()).max(1);
                ensure(u64::from(half_life) >= least, "half_life_seconds", || {
                    format!("expected at least {least}: {HALF_LIFE_PER_FUTURE_LIMIT} times max_future_seconds, and 1")
                })?;
            }
        }
        let target = self.genesis_bits.to_target();
        let target = target.map_err(|error| NetworkError::invalid("genesis_bits", error.to_string()))?;
        ensure(target <= self.limit, "genesis_bits", || "an easier target than `limit`".into())?;
        ensure((BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&self.max_block_bytes), "max_block_bytes", || {
            format!("expected {BLOCK_BYTES_MIN} to {BLOCK_BYTES_MAX}")
        })
    }

    fn check_money(&self) -> Result<(), NetworkError> {
        ensure(self.halving_interval >= 1, "halving_interval", || "expected at least 1".into())?;
        ensure(self.maturity >= 1, "maturity", || "expected at least 1".into())?;
        let cap_max = Amount::from_sen(SUPPLY_CAP_SEN_MAX);
        ensure(!self.supply_cap.is_zero() && self.supply_cap <= cap_max, "supply_cap", || {
            format!("expected more than nothing and at most {cap_max} coins")
        })?;
        ensure(self.initial_subsidy <= self.supply_cap, "initial_subsidy", || "more than `supply_cap`".into())?;
        for (index, output) in self.allocations.iter().enumerate() {
            let field = format!("allocations[{index}].amount");
            ensure(!output.amount.is_zero() && output.amount <= self.supply_cap, &field, || {
                "expected more than nothing and at most `supply_cap`".into()
            })?;
        }
        let total = self.emission().saturating_add(self.allocated());
        ensure(total <= u128::from(self.supply_cap.sen()), "supply_cap", || {
            format!("emission ({} sen) and allocations ({} sen) exceed it", self.emission(), self.allocated())
        })
    }

    fn check_peers(&self) -> Result<(), NetworkError> {
        ensure((1..u16::MAX).contains(&self.p2p_port), "p2p_port", || {
            format!("expected 1 to {}: RPC takes the next port", u16::MAX - 1)
        })?;
        ensure(self.bootstrap.len() <= BOOTSTRAP_PEERS_MAX, "bootstrap", || {
            format!("at most {BOOTSTRAP_PEERS_MAX} peers are allowed")
        })?;
        for (index, peer) in self.bootstrap.iter().enumerate() {
            ensure(is_host_and_port(peer), &format!("bootstrap[{index}]"), || "expected HOST:PORT".into())?;
        }
        // No upgrade is known yet, and following a network past one that is not would be following another network.
        ensure(self.upgrades.is_empty(), "upgrades", || "this version knows none: a newer one is needed".into())
    }
}

/// `[a-z0-9-]{1,32}`: safe as the name of a folder too.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=NETWORK_NAME_CHARS_MAX).contains(&text.len()) && text.bytes().all(plain)
}

/// A DNS name, an IPv4 address or an IPv6 address in brackets; a colon; a port. Whether it resolves is the dialler's
/// business.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let named = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let ipv6 = bracketed.is_some_and(|host| host.parse::<core::net::Ipv6Addr>().is_ok());
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= BOOTSTRAP_CHARS_MAX
        && !host.is_empty()
        && (named || ipv6)
        && digits
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn bytes_of<T: crate::codec::Codec>(value: &T) -> u64 {
    u64::try_from(encode(value).len()).unwrap_or(u64::MAX)
}

/// Sound parameters and their genesis block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    parameters: Parameters,
    genesis: Block,
    genesis_hash: BlockHash,
}

impl Deref for Network {
    type Target = Parameters;

    fn deref(&self) -> &Parameters {
        &self.parameters
    }
}

impl Network {
    /// The network of these parameters, if each is in range and the genesis block has its work.
    pub fn new(parameters: Parameters) -> Result<Self, NetworkError> {
        parameters.check()?;
        let genesis = parameters.genesis_block();
        let genesis_hash = genesis.hash();
        let met = genesis.header.bits.to_target().is_ok_and(|target| target.is_met_by(genesis_hash));
        ensure(met, "genesis_nonce", || {
            format!("the genesis block's hash {genesis_hash} does not meet `genesis_bits`: it is not mined, or altered")
        })?;
        Ok(Self { parameters, genesis, genesis_hash })
    }

    /// The network that a genesis file describes.
    pub fn from_json(text: &str) -> Result<Self, NetworkError> {
        Self::new(Parameters::from_json(text)?)
    }

    /// The public network: the repository's `genesis.json`.
    pub fn main() -> Self {
        built_in(include_str!("../../genesis.json"))
    }

    /// The public test network.
    pub fn test() -> Self {
        built_in(include_str!("../networks/test.json"))
    }

    /// The development network: trivial work, for one machine.
    pub fn dev() -> Self {
        built_in(include_str!("../networks/dev.json"))
    }

    /// The built-in network of this name.
    pub fn built_in(name: &str) -> Option<Self> {
        match name {
            "main" => Some(Self::main()),
            "test" => Some(Self::test()),
            "dev" => Some(Self::dev()),
            _ => None,
        }
    }

    /// The genesis block.
    pub const fn genesis(&self) -> &Block {
        &self.genesis
    }

    /// The genesis block's hash: what names the network.
    pub const fn genesis_hash(&self) -> BlockHash {
        self.genesis_hash
    }

    /// Default port of the RPC server.
    pub const fn rpc_port(&self) -> u16 {
        self.parameters.p2p_port.saturating_add(1)
    }

    /// Whether difficulty never changes: a private network, on which blocks may be generated on demand.
    pub const fn is_fixed(&self) -> bool {
        matches!(self.parameters.difficulty, Difficulty::Fixed)
    }

    /// What Bitcoin's tools call a network of this kind; they know no other words.
    pub fn chain_name(&self) -> &'static str {
        match (self.parameters.difficulty, self.parameters.name.as_str()) {
            (Difficulty::Fixed, _) => "regtest",
            (Difficulty::Asert { .. }, "main") => "main",
            (Difficulty::Asert { .. }, "test") => "test",
            (Difficulty::Asert { .. }, _) => "signet",
        }
    }
}

#[expect(clippy::expect_used, reason = "a file of this repository, pinned by a test")]
fn built_in(json: &str) -> Network {
    Network::from_json(json).expect("built-in networks are sound")
}

#[cfg(test)]
mod tests;
