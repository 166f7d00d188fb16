//! Block templates: everything of the next block but the work.
//!
//! A template has passed every rule of a block on the tip, but for the work, before anyone sees it. The last twelve
//! bytes of `extra`, which are the last of the coinbase's encoding, are the extranonce: always there, so miners that
//! edit bytes (getblocktemplate with `coinbasetxn`, Stratum) never change a length.

use crate::chain::{ChainHandle, SubmitError, View};
use crate::clock::Clock;
use crate::mempool::{Mempool, Selected, Selection};
use parking_lot::Mutex;
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::block::{Block, Header};
use setara_core::codec::encode;
use setara_core::consensus::RuleError;
use setara_core::hash::{BlockHash, Hash256};
use setara_core::height::Height;
use setara_core::limits::HEADER_BYTES;
use setara_core::merkle;
use setara_core::network::Network;
use setara_core::pow::Target;
use setara_core::transaction::{Coinbase, Output, Transaction};
use std::sync::Arc;
use std::time::Duration;

/// Bytes at the end of a coinbase's `extra` for miners to count through: four of a proxy's, eight of its client's.
pub const EXTRANONCE_BYTES: usize = 12;

/// The version of new headers: BIP 9's top bits, no signal.
pub const TEMPLATE_VERSION: u32 = 0x2000_0000;

/// Longest CompactSize of a block's transaction count that `max_block_bytes` lets through.
const COUNT_BYTES_MAX: u64 = 5;

/// How long a template is kept although the mempool has changed: building one costs milliseconds (Bitcoin Core: 5 s).
const MEMPOOL_CHANGE_AGE: Duration = Duration::from_secs(5);

/// How often a template is started again because the tip moved meanwhile.
const TIP_MOVES_MAX: u32 = 5;

/// Why there is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The network's genesis is dated in the future, its announced launch, by more than a block may be.
    #[error("templates in {seconds} s")]
    NotLaunched {
        /// Until a block's earliest time is one that nodes accept: `max_future_seconds` before the launch.
        seconds: u64,
    },
    /// The chain's median time is so far ahead that a valid block would be from the future.
    #[error("this machine's clock is {seconds} s behind the chain")]
    ClockBehind {
        /// How far.
        seconds: u64,
    },
    /// The chain is as long as heights can count.
    #[error("the chain is complete")]
    NoHeight,
    /// A rule is broken: by the transactions asked for, or by an error in this program.
    #[error("the template breaks a rule: {0}")]
    Rule(#[from] RuleError),
    /// The tip kept moving.
    #[error("the tip moved, try again")]
    TipMoved,
    /// The chain could not judge it.
    #[error("{0}")]
    Chain(SubmitError),
}

/// Everything of a block but the work.
pub struct Template {
    /// The chain it builds on.
    pub view: Arc<View>,
    /// The mempool's state it was made from.
    pub sequence: u64,
    /// Complete but for the nonce; any time from [`Self::min_time`] on will do.
    pub header: Header,
    /// With an extranonce of zeros.
    pub coinbase: Coinbase,
    /// The other transactions, parents first.
    pub transactions: Vec<Selected>,
    /// Sum of their fees.
    pub fees: Amount,
    /// Subsidy and fees: what the coinbase pays out.
    pub value: Amount,
    /// What the header's hash must meet.
    pub target: Target,
    /// Earliest time of the header.
    pub min_time: u32,
    payout: Address,
    made: Duration,
    /// From the coinbase's leaf to the root.
    branch: Vec<Hash256>,
}

impl Template {
    /// Height of the block.
    pub const fn height(&self) -> Height {
        self.coinbase.height
    }

    /// Hashes that lead from the coinbase's id to the Merkle root, always as the left one: what Stratum hands out.
    pub fn branch(&self) -> &[Hash256] {
        &self.branch
    }

    /// The time for a header that is worked on now.
    pub fn time(&self, clock: &dyn Clock) -> u32 {
        header_time(clock, self.min_time)
    }

    /// Header and coinbase with this extranonce.
    pub fn with_extranonce(&self, extranonce: [u8; EXTRANONCE_BYTES]) -> (Header, Coinbase) {
        let mut coinbase = self.coinbase.clone();
        let start = coinbase.extra.len() - EXTRANONCE_BYTES;
        coinbase.extra[start..].copy_from_slice(&extranonce);
        let merkle_root = merkle::root_from_branch(coinbase.wtxid(), 0, &self.branch);
        (Header { merkle_root, ..self.header }, coinbase)
    }

    /// The whole block of a header and a coinbase made from this template.
    pub fn assemble(&self, header: Header, coinbase: Coinbase) -> Block {
        let transactions = self.transactions.iter().map(|selected| selected.transaction.as_ref().clone()).collect();
        Block { header, coinbase, transactions }
    }
}

/// At least `min`, else now; the protocol's times end in 2106.
fn header_time(clock: &dyn Clock, min: u32) -> u32 {
    u32::try_from(clock.unix_seconds()).unwrap_or(u32::MAX).max(min)
}

/// Makes templates, and keeps the last one.
pub struct Templates {
    network: Arc<Network>,
    chain: ChainHandle,
    mempool: Arc<Mempool>,
    clock: Arc<dyn Clock>,
    last: Mutex<Option<Arc<Template>>>,
}

impl Templates {
    /// Over this chain and mempool.
    pub fn new(network: Arc<Network>, chain: ChainHandle, mempool: Arc<Mempool>, clock: Arc<dyn Clock>) -> Self {
        Self { network, chain, mempool, clock, last: Mutex::new(None) }
    }

    /// The network.
    pub const fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// The chain.
    pub const fn chain(&self) -> &ChainHandle {
        &self.chain
    }

    /// The mempool.
    pub const fn mempool(&self) -> &Arc<Mempool> {
        &self.mempool
    }

    /// The clock.
    pub const fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The last template, if it still is on the tip and hardly out of date, else a new one.
    pub fn current(&self, payout: Address) -> Result<Arc<Template>, TemplateError> {
        // Held while building: callers that come at once wait for one template instead of each making its own.
        let mut last = self.last.lock();
        if let Some(template) = last.as_ref() {
            let fresh = template.sequence == self.mempool.info().sequence
                || self.clock.monotonic().saturating_sub(template.made) < MEMPOOL_CHANGE_AGE;
            if fresh && template.payout == payout && template.view.tip.hash() == self.chain.view().tip.hash() {
                return Ok(template.clone());
            }
        }
        let template = Arc::new(self.build(payout)?);
        *last = Some(template.clone());
        Ok(template)
    }

    /// A new template of what pays best, valid but for the work.
    pub fn build(&self, payout: Address) -> Result<Template, TemplateError> {
        for _ in 0..TIP_MOVES_MAX {
            let room = self.network.max_block_bytes.saturating_sub(reserved_bytes(payout));
            let selection = self.mempool.select_for_block(room);
            match self.finish(selection, payout) {
                // The mempool and the chain were at different tips for a moment.
                Err(TemplateError::TipMoved) => {}
                result => return result,
            }
        }
        Err(TemplateError::TipMoved)
    }

    /// A template of exactly these transactions, which need not be in the mempool.
    pub fn build_from(&self, transactions: Vec<Arc<Transaction>>, payout: Address) -> Result<Template, TemplateError> {
        let sequence = self.mempool.info().sequence;
        let select = |transaction: Arc<Transaction>| {
            let (ids, fee) = (transaction.ids(), transaction.fee().ok_or(RuleError::NegativeFee)?);
            Ok(Selected { transaction, ids, fee, depends: Vec::new() })
        };
        let transactions: Vec<Selected> = transactions.into_iter().map(select).collect::<Result<_, RuleError>>()?;
        for _ in 0..TIP_MOVES_MAX {
            let selection = Selection { view: self.chain.view(), sequence, transactions: transactions.clone() };
            match self.finish(selection, payout) {
                Err(TemplateError::TipMoved) => {}
                result => return result,
            }
        }
        Err(TemplateError::TipMoved)
    }

    fn finish(&self, selection: Selection, payout: Address) -> Result<Template, TemplateError> {
        let Selection { view, sequence, transactions } = selection;
        let state = &view.tip;
        let height = state.header.next_height().ok_or(TemplateError::NoHeight)?;
        let min_time = state.header.median_time_past().checked_add(1).ok_or(TemplateError::NoHeight)?;
        self.check_clock(state.height(), min_time)?;
        let bits = state.header.required_bits(&self.network);
        let target = bits.to_target().map_err(|reason| RuleError::BadTarget { bits, reason })?;
        let above = RuleError::AboveCap { what: "fees", cap: self.network.supply_cap };
        let fees = Amount::checked_sum(transactions.iter().map(|selected| selected.fee)).ok_or(above.clone())?;
        let value = self.network.subsidy(height).checked_add(fees).ok_or(above)?;
        let coinbase = coinbase(height, state.coins_root, Output { amount: value, address: payout });
        let ids: Vec<_> = transactions.iter().map(|selected| selected.ids).collect();
        let leaves = Block::leaves(&coinbase, &ids);
        let header = Header {
            version: TEMPLATE_VERSION,
            previous: state.hash(),
            merkle_root: merkle::root(&leaves).root,
            time: header_time(self.clock.as_ref(), min_time),
            bits,
            nonce: 0,
        };
        let branch = merkle::branch(&leaves, 0);
        let made = self.clock.monotonic();
        let template = Template {
            sequence,
            header,
            coinbase,
            transactions,
            fees,
            value,
            target,
            min_time,
            payout,
            made,
            branch,
            view,
        };
        match self.chain.check_proposal(&template.assemble(template.header, template.coinbase.clone())) {
            Ok(()) => Ok(template),
            Err(SubmitError::MissingParent(_)) => Err(TemplateError::TipMoved),
            Err(SubmitError::Invalid(rule)) => Err(rule.into()),
            Err(error) => Err(TemplateError::Chain(error)),
        }
    }

    /// A header may be `max_future_seconds` ahead of our clock, no more.
    fn check_clock(&self, tip: Height, min_time: u32) -> Result<(), TemplateError> {
        let latest = self.clock.unix_seconds().saturating_add(u64::from(self.network.max_future_seconds));
        match u64::from(min_time).checked_sub(latest) {
            None | Some(0) => Ok(()),
            Some(seconds) if tip == Height::GENESIS => Err(TemplateError::NotLaunched { seconds }),
            Some(seconds) => Err(TemplateError::ClockBehind { seconds }),
        }
    }

    /// Hash of the newest tip.
    pub fn tip(&self) -> BlockHash {
        self.chain.view().tip.hash()
    }
}

fn coinbase(height: Height, coins_root: Hash256, output: Output) -> Coinbase {
    Coinbase { height, coins_root, outputs: vec![output], extra: vec![0; EXTRANONCE_BYTES] }
}

/// What a block holds besides transactions, at its largest.
fn reserved_bytes(payout: Address) -> u64 {
    let widest = Output { amount: Amount::from_sen(u64::MAX), address: payout };
    let coinbase = encode(&coinbase(Height::new(u32::MAX), Hash256::ZERO, widest)).len();
    (HEADER_BYTES + coinbase) as u64 + COUNT_BYTES_MAX
}
