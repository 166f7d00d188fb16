//! Committed coins: a hash of the whole set of unspent coins that is cheap to update.
//!
//! The set is split into 256 buckets by the first byte of the coin's txid (internal order). A bucket's hash is LtHash
//! (Bellare and Micciancio 1997, Lewi et al. 2019): the lane-wise sum, modulo 2^16, of 1,024 pseudorandom lanes of each
//! coin. So adding and removing commute: order, batching and threads cannot change the result.
//!
//! ```text
//! element (81 bytes) ──tagged "setara/coin"──► key ──ChaCha12──► 1,024 lanes ──+/-──► bucket ──"setara/coins/bucket"──► leaf
//!                                                                            coins_root = "setara/coins/root" of 256 leaves
//! ```
//!
//! It is a hash of a *multiset*: 65,536 copies of one coin cancel. Callers never add an outpoint that is there, and an
//! importer of coins refuses repeated outpoints. Whether a root is right is decided in `consensus/`.

use crate::hash::{Hash256, TaggedHasher};
use crate::transaction::{Coin, OutPoint};
use chacha20::ChaCha12;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use std::sync::{Arc, LazyLock, OnceLock};

/// Buckets: one per value of a txid's first byte.
pub const BUCKETS: usize = 256;
/// 16-bit lanes of a bucket: LtHash16 with 1,024 lanes has more than 200 bits of security (Lewi et al.).
const LANES: usize = 1024;
/// Bytes of the lanes.
const LANES_BYTES: usize = 2048;
/// Bytes of a bucket: lanes, count, sum.
pub const BUCKET_BYTES: usize = LANES_BYTES + 8 + 8;
/// Bytes of an element: txid, index, amount, address, height, from-coinbase.
pub const ELEMENT_BYTES: usize = 32 + 4 + 8 + 32 + 4 + 1;

/// Hashers that have consumed their tag.
static COIN: LazyLock<TaggedHasher> = LazyLock::new(|| TaggedHasher::new("setara/coin"));
static LEAF: LazyLock<TaggedHasher> = LazyLock::new(|| TaggedHasher::new("setara/coins/bucket"));
static ROOT: LazyLock<TaggedHasher> = LazyLock::new(|| TaggedHasher::new("setara/coins/root"));

/// Why buckets, or a change to them, cannot be those of any set of coins. Never a peer's fault: this node's own data is
/// damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LatticeError {
    /// A count or a sum would be negative or beyond 64 bits.
    #[error("coins bucket {0}: more is taken out than is in it, or its total overflows")]
    OutOfRange(u8),
    /// No coins, but something is left.
    #[error("coins bucket {0}: no coins are left, yet it is not empty")]
    NotEmpty(u8),
    /// A stored bucket of the wrong length.
    #[error("coins bucket {0}: {1} bytes instead of 2,064")]
    Length(u8, u64),
    /// A stored bucket given twice.
    #[error("coins bucket {0} is there twice")]
    Repeated(u8),
}

/// The fixed-width form of a coin that is hashed: txid, index, amount, address, height, from-coinbase, little endian.
pub fn element(outpoint: &OutPoint, coin: &Coin) -> [u8; ELEMENT_BYTES] {
    let mut bytes = [0; ELEMENT_BYTES];
    let index = outpoint.index.to_le_bytes();
    let amount = coin.output.amount.sen().to_le_bytes();
    let height = coin.height.get().to_le_bytes();
    let flag = [u8::from(coin.from_coinbase)];
    let parts: [&[u8]; 6] = [outpoint.txid.as_bytes(), &index, &amount, coin.output.address.as_bytes(), &height, &flag];
    for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    bytes
}

/// The lanes of one element, as little-endian bytes.
fn expand(element: &[u8; ELEMENT_BYTES]) -> [u8; LANES_BYTES] {
    let mut hasher = COIN.clone();
    hasher.update(element);
    let key = *hasher.finish().as_bytes();
    let mut stream = [0; LANES_BYTES];
    ChaCha12::new(&key.into(), &[0; 12].into()).write_keystream(&mut stream);
    stream
}

type Lanes = [u16; LANES];

/// Adds each lane of `from`, by `operation`, to its lane of `to`.
#[inline]
fn combine(to: &mut Lanes, from: impl Iterator<Item = u16>, operation: impl Fn(u16, u16) -> u16) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = operation(*to, from);
    }
}

/// Little-endian lanes of bytes.
#[inline]
fn lanes_of(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.as_chunks::<2>().0.iter().map(|lane| u16::from_le_bytes(*lane))
}

/// What is added to and taken from one bucket.
#[derive(Clone)]
struct BucketDelta {
    lanes: Lanes,
    /// Coins added less coins taken. Wrapping: no process lives to change 2^63 coins.
    count: i64,
    /// Sen added less sen taken.
    sum: i128,
}

impl BucketDelta {
    const EMPTY: Self = Self { lanes: [0; LANES], count: 0, sum: 0 };
}

/// Changes to a set of coins, of any number, in no order. Workers fill one each; merged, they are one.
///
/// Holds only the buckets it touches (2 KiB each), so a small block's is small.
#[derive(Clone)]
pub struct LatticeDelta(Vec<Option<Box<BucketDelta>>>);

impl Default for LatticeDelta {
    fn default() -> Self {
        Self::new()
    }
}

impl LatticeDelta {
    /// No change.
    pub fn new() -> Self {
        Self(vec![None; BUCKETS])
    }

    /// A coin is born.
    pub fn add(&mut self, outpoint: &OutPoint, coin: &Coin) {
        let stream = expand(&element(outpoint, coin));
        if let Some(bucket) = self.bucket(outpoint) {
            combine(&mut bucket.lanes, lanes_of(&stream), u16::wrapping_add);
            bucket.count = bucket.count.wrapping_add(1);
            bucket.sum = bucket.sum.wrapping_add(i128::from(coin.output.amount.sen()));
        }
    }

    /// A coin is spent.
    pub fn subtract(&mut self, outpoint: &OutPoint, coin: &Coin) {
        let stream = expand(&element(outpoint, coin));
        if let Some(bucket) = self.bucket(outpoint) {
            combine(&mut bucket.lanes, lanes_of(&stream), u16::wrapping_sub);
            bucket.count = bucket.count.wrapping_sub(1);
            bucket.sum = bucket.sum.wrapping_sub(i128::from(coin.output.amount.sen()));
        }
    }

    /// Both changes as one.
    pub fn merge(&mut self, other: Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            match (mine, theirs) {
                (_, None) => {}
                (Some(mine), Some(theirs)) => {
                    combine(&mut mine.lanes, theirs.lanes.into_iter(), u16::wrapping_add);
                    mine.count = mine.count.wrapping_add(theirs.count);
                    mine.sum = mine.sum.wrapping_add(theirs.sum);
                }
                (mine, theirs) => *mine = theirs,
            }
        }
    }

    /// The change that undoes this one.
    pub fn negate(mut self) -> Self {
        for bucket in self.0.iter_mut().flatten() {
            for lane in &mut bucket.lanes {
                *lane = lane.wrapping_neg();
            }
            bucket.count = bucket.count.wrapping_neg();
            bucket.sum = bucket.sum.wrapping_neg();
        }
        self
    }

    /// The buckets that [`Lattice::apply`] changes, in ascending order.
    pub fn touched(&self) -> impl Iterator<Item = u8> + '_ {
        self.iter().map(|(number, _)| number)
    }

    fn iter(&self) -> impl Iterator<Item = (u8, &BucketDelta)> {
        (0..=u8::MAX).zip(&self.0).filter_map(|(number, bucket)| Some((number, bucket.as_deref()?)))
    }

    /// The bucket of an outpoint: always there, but indexing could panic and this cannot.
    fn bucket(&mut self, outpoint: &OutPoint) -> Option<&mut BucketDelta> {
        let slot = self.0.get_mut(usize::from(outpoint.txid.hash().first_byte()))?;
        Some(slot.get_or_insert_with(|| Box::new(BucketDelta::EMPTY)))
    }
}

/// One bucket's coins, as far as their hash knows them.
#[derive(Clone)]
struct Bucket {
    lanes: Lanes,
    count: u64,
    sum: u64,
    /// Hashed once, when first asked for.
    leaf: OnceLock<Hash256>,
}

impl Bucket {
    const fn empty() -> Self {
        Self { lanes: [0; LANES], count: 0, sum: 0, leaf: OnceLock::new() }
    }

    fn to_bytes(&self) -> [u8; BUCKET_BYTES] {
        let mut bytes = [0; BUCKET_BYTES];
        let (lanes, totals) = bytes.as_chunks_mut::<2>().0.split_at_mut_checked(LANES).unwrap_or_default();
        for (to, lane) in lanes.iter_mut().zip(&self.lanes) {
            *to = lane.to_le_bytes();
        }
        let source = [self.count.to_le_bytes(), self.sum.to_le_bytes()];
        for (to, from) in totals.iter_mut().flatten().zip(source.as_flattened()) {
            *to = *from;
        }
        bytes
    }

    fn from_bytes(number: u8, bytes: &[u8]) -> Result<Self, LatticeError> {
        let length = || LatticeError::Length(number, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let (lanes, totals) = bytes.split_at_checked(LANES_BYTES).ok_or_else(length)?;
        let ([count, sum], []) = totals.as_chunks::<8>() else {
            return Err(length());
        };
        let mut bucket = Self::empty();
        combine(&mut bucket.lanes, lanes_of(lanes), |_, lane| lane);
        bucket.count = u64::from_le_bytes(*count);
        bucket.sum = u64::from_le_bytes(*sum);
        bucket.checked(number)
    }

    /// This bucket, unless it holds no coins and yet something.
    fn checked(self, number: u8) -> Result<Self, LatticeError> {
        let empty = self.sum == 0 && self.lanes.iter().all(|lane| *lane == 0);
        if self.count == 0 && !empty { Err(LatticeError::NotEmpty(number)) } else { Ok(self) }
    }

    fn plus(&self, number: u8, delta: &BucketDelta) -> Result<Self, LatticeError> {
        let mut bucket = Self { leaf: OnceLock::new(), ..*self };
        combine(&mut bucket.lanes, delta.lanes.iter().copied(), u16::wrapping_add);
        let sum = i128::from(self.sum).checked_add(delta.sum).and_then(|sum| u64::try_from(sum).ok());
        bucket.count = self.count.checked_add_signed(delta.count).ok_or(LatticeError::OutOfRange(number))?;
        bucket.sum = sum.ok_or(LatticeError::OutOfRange(number))?;
        bucket.checked(number)
    }

    fn leaf(&self) -> Hash256 {
        *self.leaf.get_or_init(|| {
            let mut hasher = LEAF.clone();
            hasher.update(&self.to_bytes());
            hasher.finish()
        })
    }
}

/// The hash of a set of coins. Clones share their buckets until one of them changes.
#[derive(Clone)]
pub struct Lattice(Vec<Arc<Bucket>>);

impl Default for Lattice {
    fn default() -> Self {
        Self::empty()
    }
}

impl Lattice {
    /// No coins.
    pub fn empty() -> Self {
        let bucket = Arc::new(Bucket::empty());
        Self(vec![bucket; BUCKETS])
    }

    /// From stored buckets, each as [`Self::bucket_bytes`] gives it; those not named are empty.
    pub fn from_buckets<B: AsRef<[u8]>>(buckets: impl IntoIterator<Item = (u8, B)>) -> Result<Self, LatticeError> {
        let mut lattice = vec![None; BUCKETS];
        for (number, bytes) in buckets {
            let bucket = Arc::new(Bucket::from_bytes(number, bytes.as_ref())?);
            if lattice.get_mut(usize::from(number)).is_some_and(|slot| slot.replace(bucket).is_some()) {
                return Err(LatticeError::Repeated(number));
            }
        }
        let empty = Arc::new(Bucket::empty());
        Ok(Self(lattice.into_iter().map(|bucket| bucket.unwrap_or_else(|| empty.clone())).collect()))
    }

    /// Adds a change. On an error nothing has changed.
    pub fn apply(&mut self, delta: &LatticeDelta) -> Result<(), LatticeError> {
        let mut buckets = self.0.clone();
        for (number, change) in delta.iter() {
            if let Some(slot) = buckets.get_mut(usize::from(number)) {
                *slot = Arc::new(slot.plus(number, change)?);
            }
        }
        self.0 = buckets;
        Ok(())
    }

    /// `coins_root`: the commitment that the next block's coinbase carries. Hashes the buckets that changed.
    pub fn root(&self) -> Hash256 {
        let mut hasher = ROOT.clone();
        for bucket in &self.0 {
            hasher.update(bucket.leaf().as_bytes());
        }
        hasher.finish()
    }

    /// A bucket as stored and as hashed: lanes, count, sum, little endian.
    pub fn bucket_bytes(&self, number: u8) -> [u8; BUCKET_BYTES] {
        self.0.get(usize::from(number)).map_or([0; BUCKET_BYTES], |bucket| bucket.to_bytes())
    }

    /// How many coins.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |count, bucket| count.saturating_add(bucket.count))
    }

    /// How much money, in sen.
    pub fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, bucket| sum.saturating_add(bucket.sum))
    }
}

impl PartialEq for Lattice {
    fn eq(&self, other: &Self) -> bool {
        let same = |(mine, theirs): (&Arc<Bucket>, &Arc<Bucket>)| {
            Arc::ptr_eq(mine, theirs)
                || (mine.count, mine.sum, &mine.lanes) == (theirs.count, theirs.sum, &theirs.lanes)
        };
        self.0.iter().zip(&other.0).all(same)
    }
}

impl Eq for Lattice {}

impl core::fmt::Debug for Lattice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Lattice({} coins, {} sen, root {})", self.count(), self.sum(), self.root())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::sha256;

    /// Values of an independent implementation (pure Python integers), itself checked against the published first
    /// ChaCha12 block of the zero key.
    #[test]
    fn an_element_and_its_lanes_have_golden_bytes() {
        let bytes = "3494a22bc4f7c08d07cf05a7fa15bca6c7a1f096e53434e86dbac347d77020770100000007e1f5050000000041b517c5b1efdb\
                     4252b447b945fa10ea4bc4c468cc7b5635e4ab7719d4854385e903000001";
        let element: [u8; ELEMENT_BYTES] = hex::decode(bytes).unwrap().try_into().unwrap();
        let stream = expand(&element);
        let lanes: Vec<u16> = lanes_of(&stream).collect();
        assert_eq!(lanes[..4], [17_500, 58_610, 63_258, 44_777]);
        assert_eq!(lanes[LANES - 2..], [24_859, 34_123]);
        let digest = "2602550380e0704452e98898c0229a5793946a390cbb87541660cd9b94f85d0b";
        assert_eq!(hex::encode(sha256(&stream)), digest);
    }
}
