//! Snapshots of the coins: what is checked of one, with nothing but headers.
//!
//! ```text
//!  header base + 1 ◄──branch, index 0── coinbase ──coins_root── 256 leaves ◄── preimages: lattice, count, sum
//!                                                                                │ each bucket alone
//!                                                     coins, ascending ──recount─┘
//! ```
//!
//! Work stands behind the header, the header behind the coinbase, the coinbase behind the set of coins. So a [`Manifest`]
//! that passes [`Manifest::check`] says exactly which coins there are in each bucket, and [`BucketCheck`] holds a bucket
//! that came from anywhere against it, one coin at a time and in constant memory. The lattice is a hash of a multiset:
//! coins must come in strictly ascending order, so none comes twice.
//!
//! Whether the base is deep enough and on the best chain is asked of whoever keeps the headers ([`check_depth`]).

use crate::address::Address;
use crate::amount::Amount;
use crate::block::Header;
use crate::codec::{Codec, CodecError, Reader, Writer};
use crate::hash::{BlockHash, Hash256, TxId};
use crate::height::Height;
use crate::lattice::{BUCKET_BYTES, BUCKETS, ELEMENT_BYTES, Lattice, LatticeDelta, LatticeError};
use crate::merkle::root_from_branch;
use crate::network::Network;
use crate::transaction::{Coin, Coinbase, OutPoint, Output};

/// Blocks between the base of a snapshot and the best header, at least: a day at a minute each, so that whoever would
/// have coins believed that never were must outwork the network for a day.
pub const DEPTH_MIN: u32 = 1_440;
/// Hashes on the way from the coinbase to the Merkle root, at most: more transactions than 2^24 fit no block.
const BRANCH_MAX: u64 = 24;

/// Why a snapshot is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The manifest's bytes are none.
    #[error("the snapshot's manifest cannot be read: {0}")]
    Undecodable(CodecError),
    /// It is of another network.
    #[error("the snapshot is of the network with genesis {found}, not {expected}")]
    WrongNetwork {
        /// Its genesis.
        found: BlockHash,
        /// Ours.
        expected: BlockHash,
    },
    /// The block after which the coins are is not in the best chain of headers known.
    #[error("the snapshot's base, block {hash} at height {height}, is not in the best chain")]
    OffChain {
        /// Its base.
        hash: BlockHash,
        /// Its height.
        height: Height,
    },
    /// Too few blocks stand on its base.
    #[error(
        "the snapshot's base is at height {base}, the best header at {best}: at least {DEPTH_MIN} blocks must lie between"
    )]
    Shallow {
        /// Its base.
        base: Height,
        /// The best header.
        best: Height,
    },
    /// The coinbase is not that of the block after the base.
    #[error("the coinbase is one of height {found}, that of height {expected} commits to the coins")]
    CoinbaseHeight {
        /// What it says.
        found: Height,
        /// What the base asks for.
        expected: Height,
    },
    /// The coinbase does not belong to the header.
    #[error("the coinbase is not that of block {block}: the branch leads to {found}, its header says {expected}")]
    CoinbaseBranch {
        /// The block after the base.
        block: BlockHash,
        /// The root found.
        found: Hash256,
        /// The header's.
        expected: Hash256,
    },
    /// A bucket's preimage can be that of no set of coins.
    #[error("the manifest: {0}")]
    Bucket(LatticeError),
    /// The buckets are not those that the coinbase commits to.
    #[error("the buckets have the root {found}, the coinbase commits to {expected}")]
    WrongRoot {
        /// The buckets'.
        found: Hash256,
        /// The coinbase's.
        expected: Hash256,
    },
    /// More money than there can be.
    #[error("{sum} sen in all, no more than {max} can have been issued by then")]
    TooMuch {
        /// All buckets' together.
        sum: u128,
        /// Allocations and subsidies up to the base.
        max: u128,
    },
    /// The bytes end before all coins of a bucket came.
    #[error("bucket {bucket} ends {missing} coins early")]
    Truncated {
        /// Which.
        bucket: u8,
        /// How many are missing.
        missing: u64,
    },
    /// Bytes follow the last coin.
    #[error("bytes follow the last coin of bucket {bucket}")]
    Trailing {
        /// Which.
        bucket: u8,
    },
    /// A coin with an impossible field.
    #[error("bucket {bucket}: coin {outpoint} has an impossible {field}")]
    BadCoin {
        /// Where.
        bucket: u8,
        /// Which.
        outpoint: OutPoint,
        /// What is wrong with it.
        field: &'static str,
    },
    /// A coin of another bucket.
    #[error("bucket {bucket}: coin {outpoint} belongs to another")]
    OtherBucket {
        /// Where it came.
        bucket: u8,
        /// Which.
        outpoint: OutPoint,
    },
    /// A coin that came before.
    #[error("bucket {bucket}: coin {outpoint} comes twice")]
    Repeated {
        /// Where.
        bucket: u8,
        /// Which.
        outpoint: OutPoint,
    },
    /// Coins out of order.
    #[error("bucket {bucket}: coin {outpoint} is out of order")]
    Order {
        /// Where.
        bucket: u8,
        /// Which.
        outpoint: OutPoint,
    },
    /// The coins are not those of the leaf.
    #[error("bucket {bucket}: its coins are not those that the coinbase commits to")]
    WrongCoins {
        /// Which.
        bucket: u8,
    },
}

/// Whether enough blocks stand on a base.
pub fn check_depth(base: Height, best: Height) -> Result<(), SnapshotError> {
    match best.blocks_since(base) {
        Some(depth) if depth >= DEPTH_MIN => Ok(()),
        _ => Err(SnapshotError::Shallow { base, best }),
    }
}

/// What a snapshot says of itself, before any coin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Of the network.
    pub genesis: BlockHash,
    /// Height of the block after which the coins are.
    pub base: Height,
    /// That block.
    pub base_hash: BlockHash,
    /// The coinbase of the block after it.
    pub coinbase: Coinbase,
    /// From the coinbase's leaf to that block's Merkle root.
    pub branch: Vec<Hash256>,
    /// All buckets, as far as their hash knows the coins.
    pub coins: Lattice,
}

impl Codec for Manifest {
    const MIN_SIZE: u64 = 32 + 1 + 32 + Coinbase::MIN_SIZE + 1 + (BUCKETS * BUCKET_BYTES) as u64;

    fn write(&self, writer: &mut Writer) {
        self.genesis.write(writer);
        writer.u32(self.base.get());
        self.base_hash.write(writer);
        self.coinbase.write(writer);
        writer.list(&self.branch);
        for bucket in 0..=u8::MAX {
            writer.raw(&self.coins.bucket_bytes(bucket));
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let genesis = BlockHash::read(reader)?;
        let base = Height::new(reader.u32()?);
        let base_hash = BlockHash::read(reader)?;
        let coinbase = Coinbase::read(reader)?;
        let branch = reader.list("hashes of a branch", BRANCH_MAX)?;
        let mut buckets = Vec::with_capacity(BUCKETS);
        for bucket in 0..=u8::MAX {
            buckets.push((bucket, reader.raw::<BUCKET_BYTES>()?));
        }
        // What is no bucket of any coins has no canonical form; which one and why is told by `Manifest::decode`.
        let coins = Lattice::from_buckets(buckets).map_err(|_| CodecError::NonCanonical)?;
        Ok(Self { genesis, base, base_hash, coinbase, branch, coins })
    }
}

impl Manifest {
    /// From its encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let preimages = bytes.len().checked_sub(BUCKETS.saturating_mul(BUCKET_BYTES)).and_then(|at| bytes.get(at..));
        let buckets = (0..=u8::MAX).zip(preimages.unwrap_or_default().chunks(BUCKET_BYTES));
        crate::codec::decode(bytes).map_err(|error| match (error, Lattice::from_buckets(buckets)) {
            (CodecError::NonCanonical, Err(broken)) => SnapshotError::Bucket(broken),
            (error, _) => SnapshotError::Undecodable(error),
        })
    }

    /// Coins of a bucket.
    pub fn bucket_count(&self, bucket: u8) -> u64 {
        let bytes = self.coins.bucket_bytes(bucket);
        let count = bytes.get(BUCKET_BYTES.saturating_sub(16)..).and_then(|totals| totals.first_chunk::<8>());
        count.map_or(0, |count| u64::from_le_bytes(*count))
    }

    /// Whether the coins are those that the block after the base, whose header this is, commits to. The caller knows that
    /// the header stands on the base, with its work, in the best chain.
    pub fn check(&self, network: &Network, next: &Header) -> Result<(), SnapshotError> {
        if self.genesis != network.genesis_hash() {
            return Err(SnapshotError::WrongNetwork { found: self.genesis, expected: network.genesis_hash() });
        }
        if next.previous != self.base_hash {
            return Err(SnapshotError::OffChain { hash: self.base_hash, height: self.base });
        }
        let expected = self.base.next().ok_or(SnapshotError::OffChain { hash: self.base_hash, height: self.base })?;
        if self.coinbase.height != expected {
            return Err(SnapshotError::CoinbaseHeight { found: self.coinbase.height, expected });
        }
        let found = root_from_branch(self.coinbase.wtxid(), 0, &self.branch);
        if found != next.merkle_root {
            return Err(SnapshotError::CoinbaseBranch { block: next.hash(), found, expected: next.merkle_root });
        }
        let root = self.coins.root();
        if root != self.coinbase.coins_root {
            return Err(SnapshotError::WrongRoot { found: root, expected: self.coinbase.coins_root });
        }
        // In more than 64 bits: a sum that saturates would hide what it is about.
        let sums = (0..=u8::MAX).map(|bucket| {
            let bytes = self.coins.bucket_bytes(bucket);
            bytes.last_chunk::<8>().map_or(0, |sum| u128::from(u64::from_le_bytes(*sum)))
        });
        let sum = sums.fold(0u128, u128::saturating_add);
        let max = network.allocated().saturating_add(issued(network, self.base));
        if sum > max {
            return Err(SnapshotError::TooMuch { sum, max });
        }
        Ok(())
    }
}

/// Sen made by the subsidies of all blocks up to `height`.
fn issued(network: &Network, height: Height) -> u128 {
    let interval = network.halving_interval.max(1);
    let eras = height.get().checked_div(interval).unwrap_or(0).min(u64::BITS);
    let of_era = |era: u32| {
        let first = era.saturating_mul(interval).max(1);
        let last = era.saturating_mul(interval).saturating_add(interval.saturating_sub(1)).min(height.get());
        let blocks = last.saturating_add(1).saturating_sub(first);
        u128::from(network.subsidy(Height::new(first)).sen()).saturating_mul(u128::from(blocks))
    };
    (0..=eras).map(of_era).fold(0, u128::saturating_add)
}

/// Checks the coins of one bucket as they come.
pub struct BucketCheck<'a> {
    manifest: &'a Manifest,
    bucket: u8,
    left: u64,
    last: Option<OutPoint>,
    counted: LatticeDelta,
}

impl<'a> BucketCheck<'a> {
    /// Of a manifest that has been checked.
    pub fn new(manifest: &'a Manifest, bucket: u8) -> Self {
        let left = manifest.bucket_count(bucket);
        Self { manifest, bucket, left, last: None, counted: LatticeDelta::new() }
    }

    /// Coins that are still to come.
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// The next coin, from its fixed-width form.
    pub fn coin(&mut self, element: &[u8; ELEMENT_BYTES]) -> Result<(OutPoint, Coin), SnapshotError> {
        let bucket = self.bucket;
        self.left = self.left.checked_sub(1).ok_or(SnapshotError::Trailing { bucket })?;
        let (outpoint, coin) =
            parse(element).map_err(|(outpoint, field)| SnapshotError::BadCoin { bucket, outpoint, field })?;
        let impossible = |field| SnapshotError::BadCoin { bucket, outpoint, field };
        if coin.output.amount.is_zero() {
            return Err(impossible("amount"));
        }
        if coin.height > self.manifest.base {
            return Err(impossible("height"));
        }
        if outpoint.txid.hash().first_byte() != bucket {
            return Err(SnapshotError::OtherBucket { bucket, outpoint });
        }
        match self.last {
            Some(last) if last == outpoint => return Err(SnapshotError::Repeated { bucket, outpoint }),
            Some(last) if last > outpoint => return Err(SnapshotError::Order { bucket, outpoint }),
            _ => {}
        }
        self.last = Some(outpoint);
        self.counted.add(&outpoint, &coin);
        Ok((outpoint, coin))
    }

    /// All coins have come: they must be those of the leaf.
    pub fn finish(self) -> Result<(), SnapshotError> {
        let bucket = self.bucket;
        if self.left > 0 {
            return Err(SnapshotError::Truncated { bucket, missing: self.left });
        }
        let mut found = Lattice::empty();
        found.apply(&self.counted).map_err(SnapshotError::Bucket)?;
        if found.bucket_bytes(bucket) != self.manifest.coins.bucket_bytes(bucket) {
            return Err(SnapshotError::WrongCoins { bucket });
        }
        Ok(())
    }
}

/// The coin of its fixed-width form (see [`crate::lattice::element`]).
fn parse(element: &[u8; ELEMENT_BYTES]) -> Result<(OutPoint, Coin), (OutPoint, &'static str)> {
    let mut rest = element.as_slice();
    let outpoint = OutPoint::new(TxId::from_bytes(take(&mut rest)), u32::from_le_bytes(take(&mut rest)));
    let amount = Amount::from_sen(u64::from_le_bytes(take(&mut rest)));
    let address = Address::from_bytes(take(&mut rest));
    let height = Height::new(u32::from_le_bytes(take(&mut rest)));
    let from_coinbase = match take(&mut rest) {
        [0] => false,
        [1] => true,
        _ => return Err((outpoint, "mark of a coinbase")),
    };
    Ok((outpoint, Coin { output: Output { amount, address }, height, from_coinbase }))
}

/// The next bytes of an element, whose length the types above add up to.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let Some((head, tail)) = rest.split_first_chunk::<N>() else { return [0; N] };
    *rest = tail;
    *head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lattice::element;

    /// The sum of subsidies era by era is the sum block by block.
    #[test]
    fn issued_is_the_sum_of_subsidies() {
        let dev = Network::dev();
        let mut sum = 0;
        for height in 0..2_000 {
            sum += u128::from(dev.subsidy(Height::new(height)).sen());
            assert_eq!(issued(&dev, Height::new(height)), sum, "height {height}");
        }
        assert_eq!(issued(&dev, Height::new(u32::MAX)), dev.emission());
        let main = Network::main();
        assert_eq!(issued(&main, Height::new(u32::MAX)), main.emission());
    }

    #[test]
    fn elements_read_back_as_they_were_written() {
        let coin = Coin {
            output: Output { amount: Amount::from_sen(u64::MAX), address: Address::from_bytes([3; 32]) },
            height: Height::new(0x0102_0304),
            from_coinbase: true,
        };
        let outpoint = OutPoint::new(TxId::from_bytes([9; 32]), 0xa0b0_c0d0);
        let mut bytes = element(&outpoint, &coin);
        assert_eq!(parse(&bytes), Ok((outpoint, coin)));
        bytes[ELEMENT_BYTES - 1] = 2;
        assert_eq!(parse(&bytes), Err((outpoint, "mark of a coinbase")));
    }

    #[test]
    fn a_base_is_a_day_below_the_best_header_at_least() {
        let (base, height) = (Height::new(10), |height| Height::new(height));
        assert!(check_depth(base, height(10 + DEPTH_MIN)).is_ok());
        for best in [0, 10, 9 + DEPTH_MIN] {
            let shallow = SnapshotError::Shallow { base, best: height(best) };
            assert_eq!(check_depth(base, height(best)), Err(shallow));
        }
    }
}
