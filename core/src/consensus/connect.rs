//! A checked block against its parent's state and the coins it spends: what changes, and how to take it back.

use super::block::{CheckedBlock, Source};
use super::error::RuleError;
use super::header;
use super::state::{ChainState, HeaderState};
use super::transaction::{SpendContext, check_input, check_valid_from};
use crate::amount::Amount;
use crate::codec::{Codec, CodecError, Reader, Writer};
use crate::hash::{Hash256, TxId};
use crate::height::Height;
use crate::lattice::LatticeDelta;
use crate::network::Network;
use crate::policy::Timelock;
use crate::pow::Target;
use crate::transaction::{Coin, OutPoint, Output};

/// What one block changes. Only [`connect`] makes one (or its own encoding, as an undo record): holding one is proof
/// that the block was valid below `parent`, and neither applying nor reverting it can fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDelta {
    parent: ChainState,
    header: HeaderState,
    supply: Amount,
    spent: Vec<(OutPoint, Coin)>,
    created: Vec<(OutPoint, Coin)>,
}

impl BlockDelta {
    /// The state before the block: what reverting it gives back.
    pub const fn parent(&self) -> &ChainState {
        &self.parent
    }

    /// The headers' state after the block.
    pub const fn header(&self) -> &HeaderState {
        &self.header
    }

    /// Coins of earlier blocks that the block spends, in input order.
    pub fn spent(&self) -> &[(OutPoint, Coin)] {
        &self.spent
    }

    /// Coins that the block makes and does not itself spend, in output order.
    pub fn created(&self) -> &[(OutPoint, Coin)] {
        &self.created
    }

    /// The change of the coins' commitment. To revert, negate it.
    pub fn lattice_changes(&self) -> LatticeDelta {
        let mut delta = LatticeDelta::new();
        for (outpoint, coin) in &self.spent {
            delta.subtract(outpoint, coin);
        }
        for (outpoint, coin) in &self.created {
            delta.add(outpoint, coin);
        }
        delta
    }

    /// What genesis makes out of nothing: its state, whose `coins_root` the caller completes by [`apply`].
    pub fn genesis(network: &Network) -> Self {
        let header = HeaderState::genesis(network);
        let before = ChainState { header, coins_root: network.genesis().coinbase.coins_root, supply: Amount::ZERO };
        let coinbase = &network.genesis().coinbase;
        let mut created = Vec::new();
        create(&mut created, coinbase.txid(), &coinbase.outputs, Height::GENESIS, true, |_| false);
        let supply = Amount::checked_sum(created.iter().map(|(_, coin)| coin.output.amount)).unwrap_or(Amount::ZERO);
        Self { parent: before, header, supply, spent: Vec::new(), created }
    }
}

/// The state after the block, given the coins' commitment after it.
pub const fn apply(delta: &BlockDelta, coins_root: Hash256) -> ChainState {
    ChainState { header: delta.header, coins_root, supply: delta.supply }
}

/// All rules that remain for a [`CheckedBlock`] below `parent`, but for signatures and the clock. `coins` are aligned
/// with [`CheckedBlock::required_coins`]; `None` is a coin that does not exist after the parent.
pub fn connect(
    network: &Network,
    parent: &ChainState,
    checked: &CheckedBlock,
    coins: &[Option<Coin>],
) -> Result<BlockDelta, RuleError> {
    let header = checked.block().header;
    let target = checked.proven.ok_or(RuleError::HighHash { hash: checked.hash(), bits: header.bits })?;
    connect_with(network, parent, checked, coins, target)
}

/// The same verdict for a proposal, whose work is still to be done; the effects are thrown away.
pub fn connect_proposal(
    network: &Network,
    parent: &ChainState,
    checked: &CheckedBlock,
    coins: &[Option<Coin>],
) -> Result<(), RuleError> {
    let bits = checked.block().header.bits;
    let target = bits.to_target().map_err(|reason| RuleError::BadTarget { bits, reason })?;
    connect_with(network, parent, checked, coins, target).map(|_| ())
}

fn connect_with(
    network: &Network,
    parent: &ChainState,
    checked: &CheckedBlock,
    coins: &[Option<Coin>],
    target: Target,
) -> Result<BlockDelta, RuleError> {
    let block = checked.block();
    let next = header::extend(network, &parent.header, &block.header, checked.hash(), target)?;
    let coinbase = &block.coinbase;
    let height = next.height;
    if coinbase.height != height {
        return Err(RuleError::CoinbaseHeight { got: coinbase.height, expected: height });
    }
    let max = network.subsidy(height).checked_add(checked.fees()).unwrap_or(network.supply_cap);
    if checked.paid() > max {
        return Err(RuleError::CoinbaseOverpays { got: checked.paid(), max });
    }
    if coinbase.coins_root != parent.coins_root {
        return Err(RuleError::CoinsRoot { got: coinbase.coins_root, expected: parent.coins_root });
    }

    let context = SpendContext { height, median_time_past: parent.header.median_time_past() };
    let mut spent = Vec::with_capacity(checked.required_coins().len());
    let mut spent_within: Vec<(usize, usize)> = Vec::new();
    let mut sources = checked.sources.iter();
    for (transaction, checked_transaction) in block.transactions.iter().zip(checked.transactions()) {
        check_valid_from(transaction, context)?;
        for (index, input) in transaction.inputs.iter().enumerate() {
            let outpoint = input.outpoint;
            let missing = RuleError::MissingCoin { outpoint };
            match *sources.next().ok_or(missing.clone())? {
                Source::Before(position) => {
                    let coin = coins.get(position).copied().flatten().ok_or(missing)?;
                    check_input(network, context, transaction, checked_transaction, index, &coin)?;
                    spent.push((outpoint, coin));
                }
                Source::Within { transaction: maker, output } => {
                    let made = block.transactions.get(maker).and_then(|maker| maker.outputs.get(output));
                    let coin = Coin { output: *made.ok_or(missing)?, height, from_coinbase: false };
                    check_input(network, context, transaction, checked_transaction, index, &coin).map_err(|error| {
                        // No stored coin is involved, so this node's coins are beyond suspicion.
                        match error {
                            RuleError::WrongAmount { .. } | RuleError::WrongPolicy { .. } => {
                                RuleError::WrongInBlockCoin { outpoint }
                            }
                            RuleError::Locked { lock: Timelock::Older(blocks), .. } => {
                                RuleError::YoungInBlockCoin { outpoint, blocks }
                            }
                            other => other,
                        }
                    })?;
                    spent_within.push((maker, output));
                }
            }
        }
    }

    spent_within.sort_unstable();
    let mut created = Vec::with_capacity(block.transactions.len().saturating_mul(2));
    create(&mut created, checked.coinbase_txid(), &coinbase.outputs, height, true, |_| false);
    for (position, (transaction, ids)) in block.transactions.iter().zip(checked.ids()).enumerate() {
        let is_spent = |output| spent_within.binary_search(&(position, output)).is_ok();
        create(&mut created, ids.txid, &transaction.outputs, height, false, is_spent);
    }
    let supply = supply_after(network, parent.supply, &spent, &created)?;
    Ok(BlockDelta { parent: *parent, header: next, supply, spent, created })
}

/// Appends the coins of one transaction; "a zero output never becomes a coin", nor does one spent in its own block.
fn create(
    created: &mut Vec<(OutPoint, Coin)>,
    txid: TxId,
    outputs: &[Output],
    height: Height,
    from_coinbase: bool,
    is_spent: impl Fn(usize) -> bool,
) {
    for ((index, position), output) in (0u32..).zip(0usize..).zip(outputs) {
        if !output.amount.is_zero() && !is_spent(position) {
            created.push((OutPoint::new(txid, index), Coin { output: *output, height, from_coinbase }));
        }
    }
}

fn supply_after(
    network: &Network,
    before: Amount,
    spent: &[(OutPoint, Coin)],
    created: &[(OutPoint, Coin)],
) -> Result<Amount, RuleError> {
    let cap = network.supply_cap;
    let above = RuleError::AboveCap { what: "all coins", cap };
    let mut supply = before;
    for (outpoint, coin) in spent {
        // Coins that exceed the supply cannot exist: this node's coins are wrong.
        supply = supply.checked_sub(coin.output.amount).ok_or(RuleError::MissingCoin { outpoint: *outpoint })?;
    }
    for (_, coin) in created {
        supply = supply.checked_add(coin.output.amount).ok_or(above.clone())?;
    }
    if supply > cap { Err(above) } else { Ok(supply) }
}

/// Coins in order, those of one transaction and height written together.
fn write_coins(writer: &mut Writer, coins: &[(OutPoint, Coin)]) {
    let same = |a: &(OutPoint, Coin), b: &(OutPoint, Coin)| {
        a.0.txid == b.0.txid && a.1.height == b.1.height && a.1.from_coinbase == b.1.from_coinbase
    };
    writer.count(coins.chunk_by(same).count());
    for group in coins.chunk_by(same) {
        let Some((outpoint, coin)) = group.first() else { continue };
        outpoint.txid.write(writer);
        writer.u32(coin.height.get());
        writer.u8(u8::from(coin.from_coinbase));
        writer.count(group.len());
        for (outpoint, coin) in group {
            writer.u32(outpoint.index);
            coin.output.write(writer);
        }
    }
}

fn read_coins(reader: &mut Reader<'_>) -> Result<Vec<(OutPoint, Coin)>, CodecError> {
    const GROUP_BYTES_MIN: u64 = 32 + 1 + 1 + 1;
    const ITEM_BYTES_MIN: u64 = 1 + Output::MIN_SIZE;
    let mut coins = Vec::new();
    for _ in 0..reader.count("coin groups", u64::MAX, GROUP_BYTES_MIN)? {
        let txid = TxId::read(reader)?;
        let height = Height::new(reader.u32()?);
        let from_coinbase = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(CodecError::NonCanonical),
        };
        for _ in 0..reader.count("coins", u64::MAX, ITEM_BYTES_MIN)? {
            let outpoint = OutPoint::new(txid, reader.u32()?);
            coins.push((outpoint, Coin { output: Output::read(reader)?, height, from_coinbase }));
        }
    }
    Ok(coins)
}

impl Codec for BlockDelta {
    const MIN_SIZE: u64 = ChainState::MIN_SIZE + HeaderState::MIN_SIZE + 3;

    fn write(&self, writer: &mut Writer) {
        self.parent.write(writer);
        self.header.write(writer);
        self.supply.write(writer);
        write_coins(writer, &self.spent);
        write_coins(writer, &self.created);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            parent: ChainState::read(reader)?,
            header: HeaderState::read(reader)?,
            supply: Amount::read(reader)?,
            spent: read_coins(reader)?,
            created: read_coins(reader)?,
        })
    }
}
