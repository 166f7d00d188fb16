//! What a child block needs to know of its parent: small values, phrased for the child.

use crate::amount::Amount;
use crate::codec::{Codec, CodecError, Reader, Writer};
use crate::hash::{BlockHash, Hash256};
use crate::height::Height;
use crate::limits::MEDIAN_TIME_BLOCKS;
use crate::network::{Difficulty, Network};
use crate::pow::{self, CompactBits, Work};

/// A chain of headers, as seen from its last one: all that the next header is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderState {
    /// Of the last header.
    pub height: Height,
    /// Of the last header.
    pub hash: BlockHash,
    /// Of all headers together.
    pub work: Work,
    /// Times of the last headers, newest last; only the first `times_count` are used.
    times: [u32; MEDIAN_TIME_BLOCKS],
    times_count: u8,
    /// Time of block 1 of this branch: ASERT's anchor.
    anchor_time: Option<u32>,
}

impl HeaderState {
    /// After the genesis header alone.
    pub fn genesis(network: &Network) -> Self {
        let header = network.genesis().header;
        let mut times = [0; MEDIAN_TIME_BLOCKS];
        if let Some(first) = times.first_mut() {
            *first = header.time;
        }
        let work = header.bits.to_target().map(|target| target.work()).unwrap_or(Work::ZERO);
        Self { height: Height::GENESIS, hash: network.genesis_hash(), work, times, times_count: 1, anchor_time: None }
    }

    /// After one more header. `None` past the last height or the last work that can be counted.
    pub(super) fn extend(&self, hash: BlockHash, time: u32, work: Work) -> Option<Self> {
        let height = self.height.next()?;
        let mut next = *self;
        if usize::from(self.times_count) == MEDIAN_TIME_BLOCKS {
            next.times.rotate_left(1);
        } else {
            next.times_count = self.times_count.saturating_add(1);
        }
        *next.times.get_mut(usize::from(next.times_count).saturating_sub(1))? = time;
        next.height = height;
        next.hash = hash;
        next.work = self.work.checked_add(work)?;
        next.anchor_time = self.anchor_time.or(Some(time));
        Some(next)
    }

    fn times(&self) -> &[u32] {
        self.times.get(..usize::from(self.times_count)).unwrap_or(&[])
    }

    /// Time of the last header.
    pub fn time(&self) -> u32 {
        self.times().last().copied().unwrap_or(0)
    }

    /// `sorted(times of the last min(11, height + 1) blocks)[count / 2]`.
    pub fn median_time_past(&self) -> u32 {
        let mut sorted = self.times;
        let count = usize::from(self.times_count);
        let used = sorted.get_mut(..count).unwrap_or(&mut []);
        used.sort_unstable();
        used.get(count / 2).copied().unwrap_or(0)
    }

    /// The height of the block that would follow.
    pub fn next_height(&self) -> Option<Height> {
        self.height.next()
    }

    /// The bits that the next header must state.
    pub fn required_bits(&self, network: &Network) -> CompactBits {
        let genesis_bits = network.genesis_bits;
        let (Difficulty::Asert { half_life }, Some(anchor_time), Some(blocks)) =
            (network.difficulty, self.anchor_time, self.height.blocks_since(Height::new(1)))
        else {
            return genesis_bits;
        };
        let Ok(anchor_target) = genesis_bits.to_target() else { return genesis_bits };
        // aserti3-2d with the anchor at block 1 and its parent dated one spacing earlier.
        let since_anchor = i64::from(self.time()).saturating_sub(i64::from(anchor_time));
        let since_anchor_parent = since_anchor.saturating_add(i64::from(network.spacing));
        pow::asert(anchor_target, network.limit, network.spacing, half_life, since_anchor_parent, blocks).to_compact()
    }
}

/// A chain of blocks, as seen from its tip: all that the next block is held against, but for the coins themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainState {
    /// The headers.
    pub header: HeaderState,
    /// Commitment to the unspent coins after the tip: what the next coinbase must state.
    pub coins_root: Hash256,
    /// Sum of the unspent coins after the tip.
    pub supply: Amount,
}

impl ChainState {
    /// Height of the tip.
    pub const fn height(&self) -> Height {
        self.header.height
    }

    /// Hash of the tip.
    pub const fn hash(&self) -> BlockHash {
        self.header.hash
    }
}

impl Codec for HeaderState {
    const MIN_SIZE: u64 = 1 + 32 + 32 + 1 + 1 + 1;

    fn write(&self, writer: &mut Writer) {
        writer.u32(self.height.get());
        self.hash.write(writer);
        writer.raw(&self.work.to_be_bytes());
        writer.count(self.times().len());
        for time in self.times() {
            writer.u32(*time);
        }
        match self.anchor_time {
            None => writer.u8(0),
            Some(time) => {
                writer.u8(1);
                writer.u32(time);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let height = Height::new(reader.u32()?);
        let hash = BlockHash::read(reader)?;
        let work = Work::from_be_bytes(reader.raw()?);
        let count = reader.count("block times", MEDIAN_TIME_BLOCKS as u64, 1)?;
        let mut times = [0; MEDIAN_TIME_BLOCKS];
        for (_, time) in (0..count).zip(times.iter_mut()) {
            *time = reader.u32()?;
        }
        let anchor_time = match reader.u8()? {
            0 => None,
            1 => Some(reader.u32()?),
            _ => return Err(CodecError::NonCanonical),
        };
        let times_count = u8::try_from(count).map_err(|_| CodecError::NonCanonical)?;
        Ok(Self { height, hash, work, times, times_count, anchor_time })
    }
}

impl Codec for ChainState {
    const MIN_SIZE: u64 = HeaderState::MIN_SIZE + 32 + 1;

    fn write(&self, writer: &mut Writer) {
        self.header.write(writer);
        self.coins_root.write(writer);
        self.supply.write(writer);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            header: HeaderState::read(reader)?,
            coins_root: Hash256::read(reader)?,
            supply: Amount::read(reader)?,
        })
    }
}
