//! Spend policies: what a coin is locked to. There is no script machine; a policy is a small tree.
//!
//! | tag, then | policy | satisfied when |
//! | --- | --- | --- |
//! | 0, key | `Key` | the next signature is valid for the key |
//! | 1, n, count, children | `Threshold` | exactly n children are revealed and satisfied, all others are `Opaque` |
//! | 2, varint | `After` | block height >= height |
//! | 3, varint | `AfterTime` | median time past of the parent >= time |
//! | 4, varint | `Older` | block height - the coin's height >= n |
//! | 5, hash | `Hash` | the next preimage (32 bytes) has this SHA-256 |
//! | 6, address | `Opaque` | never; stands only as a direct child of a Threshold |
//! | 128-255, length, bytes | `Future` | counts as satisfied; room for soft forks |
//!
//! Decoding counts depth and nodes while it reads, so hostile nesting costs neither stack nor memory. Policies that
//! the decoder would refuse can be built in memory ([`SpendPolicy::validate`] tells them apart).

use crate::address::Address;
use crate::codec::{Codec, CodecError, Reader, Writer};
use crate::hash::{TaggedHasher, sha256};
use crate::keys::{PublicKey, Signature};
use crate::limits::{FUTURE_TAG_MIN, POLICY_DEPTH_MAX, POLICY_NODES_MAX, THRESHOLD_CHILDREN_MAX};
use crate::transaction::Witness;
use std::sync::LazyLock;

/// A hasher that has consumed the tag of addresses.
static POLICY: LazyLock<TaggedHasher> = LazyLock::new(|| TaggedHasher::new("setara/policy"));

const TAG_KEY: u8 = 0;
const TAG_THRESHOLD: u8 = 1;
const TAG_AFTER: u8 = 2;
const TAG_AFTER_TIME: u8 = 3;
const TAG_OLDER: u8 = 4;
const TAG_HASH: u8 = 5;
const TAG_OPAQUE: u8 = 6;

/// A condition under which a coin may be spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpendPolicy {
    /// A signature by this key.
    Key(PublicKey),
    /// Exactly `n` of the children.
    Threshold {
        /// How many must be revealed and satisfied.
        n: u8,
        /// The children; in a witness those not used are `Opaque`.
        of: Vec<SpendPolicy>,
    },
    /// From this block height on.
    After(u32),
    /// Once the median time past of the parent block has reached this Unix time.
    AfterTime(u32),
    /// This many blocks after the coin was made.
    Older(u32),
    /// Knowledge of 32 bytes with this SHA-256.
    Hash([u8; 32]),
    /// A branch that is not revealed, by its address.
    Opaque(Address),
    /// A condition of a later version; satisfied as far as this version can tell.
    Future {
        /// 128 to 255.
        tag: u8,
        /// At most 255 bytes of the later version's own.
        bytes: Vec<u8>,
    },
}

impl SpendPolicy {
    /// `tagged("setara/policy", encoding with every child of a Threshold replaced by Opaque(its address))`.
    ///
    /// Recursion is bounded by [`POLICY_DEPTH_MAX`] for whatever was decoded.
    pub fn address(&self) -> Address {
        if let Self::Opaque(address) = self {
            return *address;
        }
        let mut writer = Writer::with_capacity(64);
        match self {
            Self::Threshold { n, of } => {
                write_threshold_head(&mut writer, *n, of.len());
                for child in of {
                    Self::Opaque(child.address()).write_to(&mut writer);
                }
            }
            leaf => leaf.write_to(&mut writer),
        }
        let mut hasher = POLICY.clone();
        hasher.update(writer.as_slice());
        hasher.finish().into()
    }

    /// Appends the encoding.
    pub fn write_to(&self, writer: &mut Writer) {
        match self {
            Self::Key(key) => {
                writer.u8(TAG_KEY);
                writer.raw(key.as_bytes());
            }
            Self::Threshold { n, of } => {
                write_threshold_head(writer, *n, of.len());
                for child in of {
                    child.write_to(writer);
                }
            }
            Self::After(height) => {
                writer.u8(TAG_AFTER);
                writer.u32(*height);
            }
            Self::AfterTime(time) => {
                writer.u8(TAG_AFTER_TIME);
                writer.u32(*time);
            }
            Self::Older(blocks) => {
                writer.u8(TAG_OLDER);
                writer.u32(*blocks);
            }
            Self::Hash(hash) => {
                writer.u8(TAG_HASH);
                writer.raw(hash);
            }
            Self::Opaque(address) => {
                writer.u8(TAG_OPAQUE);
                writer.raw(address.as_bytes());
            }
            Self::Future { tag, bytes } => {
                writer.u8(*tag);
                // Longer bytes cannot be decoded; `validate` names them.
                writer.u8(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
                writer.raw(bytes);
            }
        }
    }

    /// Confirms that this policy could be decoded from its own encoding.
    pub fn validate(&self) -> Result<(), CodecError> {
        let mut writer = Writer::default();
        // Depth first, without recursion: a hand-built policy may be deeper than the stack.
        let mut nodes = 0u32;
        let mut pending = vec![(self, 1u32)];
        while let Some((policy, depth)) = pending.pop() {
            nodes = nodes.saturating_add(1);
            if depth > POLICY_DEPTH_MAX || nodes > POLICY_NODES_MAX {
                return Err(CodecError::Policy(TOO_LARGE));
            }
            if let Self::Threshold { of, .. } = policy {
                pending.extend(of.iter().map(|child| (child, depth.saturating_add(1))));
            }
        }
        self.write_to(&mut writer);
        let decoded = crate::codec::decode::<Self>(writer.as_slice())?;
        if decoded == *self { Ok(()) } else { Err(CodecError::NonCanonical) }
    }

    /// Children of a Threshold, none for a leaf.
    pub fn children(&self) -> &[Self] {
        match self {
            Self::Threshold { of, .. } => of,
            _ => &[],
        }
    }

    /// Whether any node is a `Future`: such coins may be spent in blocks, but no mempool relays the spend.
    pub fn has_future(&self) -> bool {
        matches!(self, Self::Future { .. }) || self.children().iter().any(Self::has_future)
    }

    /// One line for people and `asm` fields: `key 02ab..`, `2 of (key .., after 120000)`.
    pub fn describe(&self) -> String {
        match self {
            Self::Key(key) => format!("key {key:?}"),
            Self::Threshold { n, of } => {
                let children: Vec<String> = of.iter().map(Self::describe).collect();
                format!("{n} of ({})", children.join(", "))
            }
            Self::After(height) => format!("after {height}"),
            Self::AfterTime(time) => format!("after-time {time}"),
            Self::Older(blocks) => format!("older {blocks}"),
            Self::Hash(hash) => format!("hash {}", hex::encode(hash)),
            Self::Opaque(address) => format!("opaque {address:?}"),
            Self::Future { tag, bytes } => format!("future {tag} {}", hex::encode(bytes)),
        }
    }
}

fn write_threshold_head(writer: &mut Writer, n: u8, count: usize) {
    writer.u8(TAG_THRESHOLD);
    writer.u8(n);
    writer.u8(u8::try_from(count).unwrap_or(u8::MAX));
}

const TOO_LARGE: &str = "deeper than 8 levels or more than 64 nodes";

impl Codec for SpendPolicy {
    const MIN_SIZE: u64 = 2;

    fn write(&self, writer: &mut Writer) {
        self.write_to(writer);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        read_witness_policy(reader)
    }
}

/// Reads a policy as the root of a witness: depth 1, every node counted.
pub(crate) fn read_witness_policy(reader: &mut Reader<'_>) -> Result<SpendPolicy, CodecError> {
    read_node(reader, 1, &mut 0)
}

fn read_node(reader: &mut Reader<'_>, depth: u32, nodes: &mut u32) -> Result<SpendPolicy, CodecError> {
    *nodes = nodes.saturating_add(1);
    if depth > POLICY_DEPTH_MAX || *nodes > POLICY_NODES_MAX {
        return Err(CodecError::Policy(TOO_LARGE));
    }
    Ok(match reader.u8()? {
        TAG_KEY => SpendPolicy::Key(PublicKey::read(reader)?),
        TAG_THRESHOLD => {
            let n = reader.u8()?;
            let count = reader.u8()?;
            if n == 0 || n > count || count > THRESHOLD_CHILDREN_MAX {
                return Err(CodecError::Policy("a threshold needs 1 <= n <= count <= 63"));
            }
            let mut of = Vec::with_capacity(usize::from(count));
            for _ in 0..count {
                of.push(read_node(reader, depth.saturating_add(1), nodes)?);
            }
            SpendPolicy::Threshold { n, of }
        }
        TAG_AFTER => SpendPolicy::After(reader.u32()?),
        TAG_AFTER_TIME => SpendPolicy::AfterTime(reader.u32()?),
        TAG_OLDER => SpendPolicy::Older(reader.u32()?),
        TAG_HASH => SpendPolicy::Hash(reader.raw()?),
        TAG_OPAQUE if depth > 1 => SpendPolicy::Opaque(Address::read(reader)?),
        TAG_OPAQUE => return Err(CodecError::Policy("an opaque node stands only below a threshold")),
        tag if tag >= FUTURE_TAG_MIN => {
            let length = reader.u8()?;
            SpendPolicy::Future { tag, bytes: reader.take(usize::from(length))?.to_vec() }
        }
        tag => return Err(CodecError::UnknownTag { what: "policy", tag: u64::from(tag) }),
    })
}

/// A lock that a witness reveals: to be held against the block that would include the spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timelock {
    /// Block height >= this.
    After(u32),
    /// Median time past of the parent >= this.
    AfterTime(u32),
    /// Block height - the coin's height >= this.
    Older(u32),
}

/// One key of a revealed policy, its place in the tree, and the signature given for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureClaim {
    /// The key.
    pub key: PublicKey,
    /// 0-based child positions from the root to the key, `Opaque` siblings counted.
    pub path: Vec<u8>,
    /// What the witness offers.
    pub signature: Signature,
}

/// What a structurally satisfied witness still depends on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    /// Signatures to verify, in pre-order.
    pub signatures: Vec<SignatureClaim>,
    /// Locks to check, in pre-order.
    pub timelocks: Vec<Timelock>,
}

/// Why a witness does not satisfy its policy, whatever the height, time or message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A threshold reveals more or fewer than n children.
    #[error("a threshold of {n} reveals {revealed} children")]
    Revealed {
        /// As the policy says.
        n: u8,
        /// Children that are not `Opaque`.
        revealed: u32,
    },
    /// A key has no signature left.
    #[error("a signature is missing")]
    MissingSignature,
    /// Signatures are left over.
    #[error("a signature is not used")]
    UnusedSignature,
    /// A hash has no preimage left.
    #[error("a preimage is missing")]
    MissingPreimage,
    /// Preimages are left over.
    #[error("a preimage is not used")]
    UnusedPreimage,
    /// A preimage has another hash.
    #[error("a preimage does not match its hash")]
    WrongPreimage,
    /// `future` has not exactly one item per Future node.
    #[error("{items} future items for {nodes} future nodes")]
    FutureItems {
        /// Items given.
        items: u32,
        /// Nodes revealed.
        nodes: u32,
    },
    /// An `Opaque` root.
    #[error("an opaque policy cannot be satisfied")]
    Opaque,
    /// Built in memory, deeper or larger than the decoder allows.
    #[error("the policy is too deep or has too many nodes")]
    TooLarge,
}

/// Everything about `witness` that needs neither the chain nor curve arithmetic: shape, hashes, and that all that it
/// offers is used. What remains is returned.
pub fn satisfy(witness: &Witness) -> Result<Claims, PolicyError> {
    let mut walk = Walk {
        claims: Claims::default(),
        signatures: witness.signatures.iter(),
        preimages: witness.preimages.iter(),
        future_nodes: 0,
        nodes: 0,
        path: Vec::new(),
    };
    walk.node(&witness.policy)?;
    if walk.signatures.next().is_some() {
        return Err(PolicyError::UnusedSignature);
    }
    if walk.preimages.next().is_some() {
        return Err(PolicyError::UnusedPreimage);
    }
    let items = u32::try_from(witness.future.len()).unwrap_or(u32::MAX);
    if items != walk.future_nodes {
        return Err(PolicyError::FutureItems { items, nodes: walk.future_nodes });
    }
    Ok(walk.claims)
}

struct Walk<'a> {
    claims: Claims,
    signatures: core::slice::Iter<'a, Signature>,
    preimages: core::slice::Iter<'a, [u8; 32]>,
    future_nodes: u32,
    nodes: u32,
    path: Vec<u8>,
}

impl Walk<'_> {
    /// Counts the node at the current path, before anything else is done with it.
    fn count_node(&mut self) -> Result<(), PolicyError> {
        self.nodes = self.nodes.saturating_add(1);
        let depth = u32::try_from(self.path.len()).unwrap_or(u32::MAX).saturating_add(1);
        if depth > POLICY_DEPTH_MAX || self.nodes > POLICY_NODES_MAX { Err(PolicyError::TooLarge) } else { Ok(()) }
    }

    fn node(&mut self, policy: &SpendPolicy) -> Result<(), PolicyError> {
        self.count_node()?;
        match policy {
            SpendPolicy::Key(key) => {
                let signature = *self.signatures.next().ok_or(PolicyError::MissingSignature)?;
                self.claims.signatures.push(SignatureClaim { key: *key, path: self.path.clone(), signature });
            }
            SpendPolicy::Threshold { n, of } => self.threshold(*n, of)?,
            SpendPolicy::After(height) => self.claims.timelocks.push(Timelock::After(*height)),
            SpendPolicy::AfterTime(time) => self.claims.timelocks.push(Timelock::AfterTime(*time)),
            SpendPolicy::Older(blocks) => self.claims.timelocks.push(Timelock::Older(*blocks)),
            SpendPolicy::Hash(hash) => {
                let preimage = self.preimages.next().ok_or(PolicyError::MissingPreimage)?;
                if sha256(preimage) != *hash {
                    return Err(PolicyError::WrongPreimage);
                }
            }
            SpendPolicy::Opaque(_) => return Err(PolicyError::Opaque),
            SpendPolicy::Future { .. } => self.future_nodes = self.future_nodes.saturating_add(1),
        }
        Ok(())
    }

    fn threshold(&mut self, n: u8, of: &[SpendPolicy]) -> Result<(), PolicyError> {
        let opaque = |child: &&SpendPolicy| matches!(child, SpendPolicy::Opaque(_));
        let revealed = u32::try_from(of.iter().filter(|child| !opaque(child)).count()).unwrap_or(u32::MAX);
        if revealed != u32::from(n) || n == 0 {
            return Err(PolicyError::Revealed { n, revealed });
        }
        for (position, child) in (0u8..=u8::MAX).zip(of) {
            self.path.push(position);
            if opaque(&child) {
                self.count_node()?
            } else {
                self.node(child)?
            }
            self.path.pop();
        }
        Ok(())
    }
}
