//! Proof of work: compact bits, targets, work, and the ASERT difficulty rule (aserti3-2d).
//!
//! Exact 256-bit integers throughout; nothing wraps, nothing rounds but where the rule says so. Which block is the
//! anchor, and what limit a network has, is decided by the callers.

use crate::codec::{Codec, CodecError, Reader, Writer};
use crate::hash::BlockHash;
use core::fmt;
use ruint::aliases::{U256, U320};

/// The sign bit of a compact number: targets are positive.
const SIGN: u32 = 0x0080_0000;
/// A compact number's mantissa.
const MANTISSA: u32 = 0x007f_ffff;

/// Why compact bits are no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PowError {
    /// The sign bit is set.
    #[error("bits {0} are negative")]
    Negative(CompactBits),
    /// The value is zero.
    #[error("bits {0} are zero")]
    Zero(CompactBits),
    /// The value needs more than 256 bits.
    #[error("bits {0} are over 2^256")]
    Overflow(CompactBits),
    /// The same value has another, shorter form.
    #[error("bits {0} are not in canonical form")]
    NonCanonical(CompactBits),
}

/// A target in Bitcoin's four-byte floating form, as headers carry it; any 32 bits, not necessarily valid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CompactBits(u32);

impl CompactBits {
    /// From a header's field.
    pub const fn new(bits: u32) -> Self {
        Self(bits)
    }

    /// As in a header.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The target, if these bits are positive, below 2^256 and the shortest form of their value.
    pub fn to_target(self) -> Result<Target, PowError> {
        if self.0 & SIGN != 0 {
            return Err(PowError::Negative(self));
        }
        let mantissa = U256::from(self.0 & MANTISSA);
        // The first byte counts the bytes of the number, of which the mantissa holds the first three.
        let bytes = usize::try_from(self.0 >> 24).unwrap_or(usize::MAX);
        let value = match bytes.checked_sub(3) {
            Some(shift) => mantissa.checked_shl(shift.saturating_mul(8)),
            None => Some(mantissa.wrapping_shr(3usize.saturating_sub(bytes).saturating_mul(8))),
        };
        let value = value.ok_or(PowError::Overflow(self))?;
        let target = Target::new(value).ok_or(PowError::Zero(self))?;
        if target.to_compact() == self { Ok(target) } else { Err(PowError::NonCanonical(self)) }
    }
}

impl fmt::Display for CompactBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for CompactBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The largest hash, as a number, that is enough work. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target(U256);

impl Target {
    /// Every hash meets it.
    pub const MAX: Self = Self(U256::MAX);
    /// The hardest there is.
    pub const MIN: Self = Self(U256::ONE);

    fn new(value: U256) -> Option<Self> {
        if value.is_zero() { None } else { Some(Self(value)) }
    }

    /// From a big-endian number; `None` for zero.
    pub fn from_be_bytes(bytes: [u8; 32]) -> Option<Self> {
        Self::new(U256::from_be_bytes(bytes))
    }

    /// As a big-endian number.
    pub const fn to_be_bytes(self) -> [u8; 32] {
        self.0.to_be_bytes()
    }

    /// The compact form; digits beyond the mantissa are cut off.
    pub fn to_compact(self) -> CompactBits {
        let mut bytes = self.0.bit_len().div_ceil(8);
        let digits = match bytes.checked_sub(3) {
            Some(shift) => self.0.wrapping_shr(shift.saturating_mul(8)),
            None => self.0.wrapping_shl(3usize.saturating_sub(bytes).saturating_mul(8)),
        };
        // Three bytes at most, by the shift.
        let mut mantissa = u32::try_from(digits).unwrap_or(MANTISSA);
        if mantissa & SIGN != 0 {
            // The highest bit would read as a sign: one more byte, one digit less.
            mantissa >>= 8;
            bytes = bytes.saturating_add(1);
        }
        CompactBits(u32::try_from(bytes).unwrap_or(u32::MAX).wrapping_shl(24) | mantissa)
    }

    /// Whether `hash`, read as a little-endian number, is at most this.
    pub fn is_met_by(self, hash: BlockHash) -> bool {
        U256::from_le_bytes(*hash.as_bytes()) <= self.0
    }

    /// Expected number of hashes to meet it: `floor(2^256 / (target + 1))`.
    pub fn work(self) -> Work {
        // 2^256 / (t + 1) = (2^256 - 1 - t) / (t + 1) + 1. Only the easiest target has no successor: one hash.
        let quotient = self.0.checked_add(U256::ONE).and_then(|divisor| (!self.0).checked_div(divisor));
        Work(quotient.unwrap_or(U256::ZERO).saturating_add(U256::ONE))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:064x}", self.0)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Work done, in expected hashes. The chain with the most is the active one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Work(U256);

impl Work {
    /// None.
    pub const ZERO: Self = Self(U256::ZERO);

    /// From a big-endian number.
    pub const fn from_be_bytes(bytes: [u8; 32]) -> Self {
        Self(U256::from_be_bytes(bytes))
    }

    /// As a big-endian number: byte order is numeric order.
    pub const fn to_be_bytes(self) -> [u8; 32] {
        self.0.to_be_bytes()
    }

    /// The sum, unless it overflows.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, unless it would be negative.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The work of `count` blocks of this much each, unless it overflows.
    pub fn checked_mul(self, count: u32) -> Option<Self> {
        self.0.checked_mul(U256::from(count)).map(Self)
    }
}

impl fmt::Display for Work {
    /// 64 hexadecimal digits, as `chainwork` in Bitcoin's JSON-RPC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:064x}", self.0)
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Codec for Work {
    const MIN_SIZE: u64 = 32;

    fn write(&self, writer: &mut Writer) {
        writer.raw(&self.to_be_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        reader.raw().map(Self::from_be_bytes)
    }
}

impl Codec for CompactBits {
    const MIN_SIZE: u64 = 1;

    fn write(&self, writer: &mut Writer) {
        writer.u32(self.0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        reader.u32().map(Self)
    }
}

/// The target of the block after a parent, by aserti3-2d (Bitcoin Cash, 2020-11-15): the anchor's target times
/// `2^((time_delta - spacing * (height_delta + 1)) / half_life)`, in the exact integers of that specification.
///
/// `time_delta` is the parent's time less the time of the *anchor's parent*; `height_delta` the parent's height less
/// the anchor's. A chain whose anchor has no schedule behind it takes `time(anchor) - spacing` for the former. The
/// result is within `1..=limit` and not yet rounded to compact bits. A half-life of 0, which no network may have,
/// leaves the anchor's target.
pub fn asert(
    anchor_target: Target,
    limit: Target,
    spacing: u32,
    half_life: u32,
    time_delta: i64,
    height_delta: u32,
) -> Target {
    // In units of 2^-16 half-lives. 64 bits and two factors of 32 and 17 bits stay far below 128.
    let ideal = i128::from(spacing).saturating_mul(i128::from(height_delta).saturating_add(1));
    let exponent = i128::from(time_delta)
        .saturating_sub(ideal)
        .saturating_mul(1 << 16)
        .checked_div(i128::from(half_life)) // toward zero, as the specification's
        .unwrap_or(0);
    let shift = exponent >> 16; // toward minus infinity: what remains is a positive fraction
    let fraction = u128::try_from(exponent & 0xffff).unwrap_or(0);

    // 2^fraction in units of 2^-16, between 65,536 and 131,072, by a cubic.
    let power = |exponent: u32| fraction.saturating_pow(exponent);
    let cubic = 195_766_423_245_049u128
        .saturating_mul(power(1))
        .saturating_add(971_821_376u128.saturating_mul(power(2)))
        .saturating_add(5_127u128.saturating_mul(power(3)))
        .saturating_add(1 << 47)
        >> 48;
    let factor = U320::from(cubic.saturating_add(1 << 16));

    // At most 256 + 17 bits.
    let product = U320::from(anchor_target.0).saturating_mul(factor);
    let left = shift.saturating_sub(16);
    let distance = usize::try_from(left.unsigned_abs()).unwrap_or(usize::MAX);
    let value = if left > 0 {
        // Past the limit, by however much, is the limit.
        product.saturating_shl(distance)
    } else {
        // A shift beyond the width gives zero.
        product.wrapping_shr(distance)
    };
    // Zero is no target: the hardest there is takes its place.
    Target::new(U256::saturating_from(value.min(U320::from(limit.0)))).unwrap_or(Target::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BITCOIN_LIMIT: CompactBits = CompactBits::new(0x1d00_ffff);

    fn target(bits: u32) -> Target {
        CompactBits::new(bits).to_target().unwrap()
    }

    #[test]
    fn known_targets_and_works() {
        let text = "00000000ffff0000000000000000000000000000000000000000000000000000";
        assert_eq!(target(0x1d00_ffff).to_string(), text);
        // Bitcoin's block 0 has chainwork 0x100010001; regtest's blocks have 2 each.
        assert_eq!(target(0x1d00_ffff).work().to_string(), format!("{:064x}", 0x1_0001_0001u64));
        assert_eq!(target(0x207f_ffff).work().to_string(), format!("{:064x}", 2));
        assert_eq!(Target::MAX.work(), Work(U256::ONE));
        assert_eq!(Target::MIN.work().to_string(), format!("8{}", "0".repeat(63)));
        assert_eq!(target(0x1703_31db).to_compact().get(), 0x1703_31db);
    }

    #[test]
    fn work_sums_are_checked() {
        let most = Work(U256::MAX);
        assert_eq!(most.checked_add(Work(U256::ONE)), None);
        assert_eq!(Work::ZERO.checked_sub(Work(U256::ONE)), None);
        assert_eq!(most.checked_sub(most), Some(Work::ZERO));
        assert_eq!(most.checked_mul(2), None);
        let [three, four, twelve] = [3u8, 4, 12].map(|work| Work(U256::from(work)));
        assert_eq!(three.checked_mul(4), Some(twelve));
        assert_eq!(three.checked_mul(0), Some(Work::ZERO));
        assert_eq!(twelve.checked_sub(three).and_then(|rest| rest.checked_sub(four)), Work(U256::from(5u8)).into());
        assert_eq!(four.checked_add(three).and_then(|sum| sum.checked_sub(three)), Some(four));
        assert_eq!(Work::from_be_bytes(most.to_be_bytes()), most);
    }

    /// PT1: a hash equal to the target is enough work, one more is not.
    #[test]
    fn a_hash_equal_to_the_target_meets_it() {
        let target = target(0x1d00_ffff);
        let hash_of = |value: U256| BlockHash::from_bytes(value.to_le_bytes());
        assert!(target.is_met_by(hash_of(target.0)));
        assert!(target.is_met_by(BlockHash::ZERO));
        assert!(!target.is_met_by(hash_of(target.0 + U256::ONE)));
        // The first byte weighs least.
        let mut low = [0; 32];
        low[0] = 0xff;
        assert!(target.is_met_by(BlockHash::from_bytes(low)));
        low.reverse();
        assert!(!target.is_met_by(BlockHash::from_bytes(low)));
    }

    #[test]
    fn asert_steps_as_published() {
        // Bitcoin Cash: anchor at height 661,647, half-life two days; a parent exactly two days late doubles.
        let anchor = target(0x1804_dafe);
        let limit = BITCOIN_LIMIT.to_target().unwrap();
        let next = |late: i64, height_delta: u32| {
            asert(anchor, limit, 600, 172_800, 600 * (i64::from(height_delta) + 1) + late, height_delta)
        };
        assert_eq!(next(0, 0), anchor);
        assert_eq!(next(0, 100_000), anchor);
        assert_eq!(next(172_800, 7), Target(anchor.0 << 1));
        assert_eq!(next(-172_800, 7), Target(anchor.0 >> 1));
        assert_eq!(next(i64::from(u32::MAX), 0), limit);
        assert_eq!(next(i64::MAX / 2, 0), limit);
        assert_eq!(next(i64::MIN / 2, u32::MAX), Target::MIN);
    }
}
