//! What a wallet can check of a node's chain without having it: that coins are in blocks, and that work was spent.
//!
//! ```text
//! raw transaction ─► txid, wtxid, amounts, addresses
//!                        │ Merkle proof
//!                        ▼
//!            parent ◄─ header ◄─ header ◄─ .. ◄─ header (up to BURIAL_PROVEN, or to the tip)
//! ```
//!
//! Every header must hash below the target that its bits state, the bits must be exactly those that the parent, the
//! height and block 1 require, and each must name the one before it. So an invented payment costs its inventor real
//! work for each confirmation shown. What this cannot see: that a node withholds payments, or a chain with more work
//! than the one it shows. Ask a node of your own, or two.

use crate::error::WalletError;
use crate::node::{Node, Tip};
use crate::proof;
use setara_core::block::Header;
use setara_core::codec::{Codec, Reader, decode};
use setara_core::consensus::{check_work, header_is_early};
use setara_core::hash::{BlockHash, TxId};
use setara_core::network::{Difficulty, Network};
use setara_core::pow::{self, CompactBits};
use setara_core::transaction::{Coinbase, Output, Transaction};
use std::collections::{BTreeMap, BTreeSet};

/// Headers from a coin's block on that are checked: Bitcoin's customary six confirmations. Each costs one header.
const BURIAL_PROVEN: u32 = 6;

/// A transaction of either kind, read from its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A block's first.
    Coinbase(Coinbase),
    /// Any other.
    Transfer(Transaction),
}

impl Body {
    /// Reads hex whose id must be `txid`.
    pub fn read(hex: &str, txid: TxId) -> Result<Self, WalletError> {
        let lie = |what: &str| WalletError::Untrusted(format!("{what} it gave for transaction {txid}"));
        let bytes = hex::decode(hex).map_err(|_| lie("what is not even hexadecimal"))?;
        // The first byte is the kind; the decoders check it.
        let body = match bytes.first() {
            Some(0) => decode(&bytes).map(Self::Coinbase),
            _ => decode(&bytes).map(Self::Transfer),
        };
        let body = body.map_err(|_| lie("no transaction stands in the bytes"))?;
        if body.txid() == txid { Ok(body) } else { Err(lie("another transaction is what")) }
    }

    /// Its id.
    pub fn txid(&self) -> TxId {
        match self {
            Self::Coinbase(coinbase) => coinbase.txid(),
            Self::Transfer(transaction) => transaction.txid(),
        }
    }

    /// The coins it makes.
    pub fn outputs(&self) -> &[Output] {
        match self {
            Self::Coinbase(coinbase) => &coinbase.outputs,
            Self::Transfer(transaction) => &transaction.outputs,
        }
    }
}

/// A transaction that is in a block with proven work.
#[derive(Debug, Clone)]
pub struct Proven {
    /// The transaction.
    pub body: Body,
    /// Its id.
    pub txid: TxId,
    /// Height of its block.
    pub height: u32,
    /// Its place in the block.
    pub position: u32,
    /// The block's time.
    pub time: u32,
}

/// The chain below one tip, fetched and checked piece by piece.
pub struct ChainView<'a> {
    node: &'a Node,
    network: &'a Network,
    tip: Tip,
    /// Unix seconds: under ASERT a header from the future would make its successors easy.
    now: u64,
    headers: BTreeMap<u32, (BlockHash, Header)>,
    checked: BTreeSet<u32>,
}

impl<'a> ChainView<'a> {
    /// Nothing is fetched yet.
    pub fn new(node: &'a Node, network: &'a Network, tip: Tip, now: u64) -> Self {
        Self { node, network, tip, now, headers: BTreeMap::new(), checked: BTreeSet::new() }
    }

    /// The tip that this is a view below.
    pub const fn tip(&self) -> Tip {
        self.tip
    }

    /// The tip's header, checked.
    pub fn tip_header(&mut self) -> Result<Header, WalletError> {
        self.check(&[self.tip.height])?;
        self.header(self.tip.height).map(|(_, header)| header)
    }

    /// Proves that each transaction is in a block; those that the node places in no block are left out.
    pub fn prove(&mut self, txids: &[TxId]) -> Result<Vec<Proven>, WalletError> {
        let mut by_block: BTreeMap<BlockHash, Vec<(TxId, Body)>> = BTreeMap::new();
        for (txid, answer) in txids.iter().zip(self.node.transactions(txids)?) {
            let Some(answer) = answer else { continue };
            let Some(block) = answer.blockhash.filter(|_| answer.confirmations.unwrap_or(0) > 0) else { continue };
            by_block.entry(block).or_default().push((*txid, Body::read(&answer.hex, *txid)?));
        }
        let blocks: Vec<BlockHash> = by_block.keys().copied().collect();
        let heights = self.node.block_heights(&blocks)?;
        self.check(&heights)?;
        let questions: Vec<(BlockHash, Vec<TxId>)> =
            by_block.iter().map(|(block, bodies)| (*block, bodies.iter().map(|(txid, _)| *txid).collect())).collect();
        let proofs = self.node.proofs(&questions)?;
        let mut proven = Vec::with_capacity(txids.len());
        for (((block, bodies), height), proof) in by_block.into_iter().zip(heights).zip(proofs) {
            self.prove_block(block, height, bodies, &proof, &mut proven)?;
        }
        Ok(proven)
    }

    fn prove_block(
        &self,
        block: BlockHash,
        height: u32,
        bodies: Vec<(TxId, Body)>,
        proof: &str,
        proven: &mut Vec<Proven>,
    ) -> Result<(), WalletError> {
        let lie = |what: String| WalletError::Untrusted(format!("it offers {what} for block {block}"));
        let bytes = hex::decode(proof).map_err(|_| lie("a proof that is not hexadecimal".into()))?;
        let proof = proof::read(&bytes, self.network.max_block_bytes).map_err(|error| lie(error.to_string()))?;
        let (hash, header) = self.header(height)?;
        if proof.header.hash() != hash || block != hash {
            return Err(lie(format!("the proof of another block than that at height {height}")));
        }
        for (txid, body) in bodies {
            let leaf = match &body {
                Body::Coinbase(coinbase) => coinbase.wtxid(),
                Body::Transfer(transaction) => transaction.wtxid(),
            };
            let position = proof.leaves.iter().find(|(_, wtxid)| *wtxid == leaf).map(|(position, _)| *position);
            let position = position.ok_or_else(|| lie(format!("no proof of transaction {txid}")))?;
            let sound = match &body {
                // A coinbase states its own height, which the proof of work covers.
                Body::Coinbase(coinbase) => position == 0 && coinbase.height.get() == height,
                Body::Transfer(_) => position > 0,
            };
            if !sound {
                return Err(lie(format!("a coinbase out of place ({txid})")));
            }
            proven.push(Proven { body, txid, height, position, time: header.time });
        }
        Ok(())
    }

    fn header(&self, height: u32) -> Result<(BlockHash, Header), WalletError> {
        self.headers
            .get(&height)
            .copied()
            .ok_or_else(|| WalletError::Untrusted(format!("it has no block at height {height}")))
    }

    /// Checks the headers at these heights and those on top of them.
    fn check(&mut self, heights: &[u32]) -> Result<(), WalletError> {
        let tip = self.tip.height;
        let mut wanted = BTreeSet::new();
        for height in heights {
            if *height > tip {
                return Err(WalletError::Untrusted(format!("it has a block at height {height}, above its tip {tip}")));
            }
            let last = height.saturating_add(BURIAL_PROVEN - 1).min(tip);
            wanted.extend(height.saturating_sub(1)..=last);
        }
        if !self.network.is_fixed() && tip > 0 {
            wanted.extend([0, 1]);
        }
        self.fetch(wanted.into_iter().filter(|height| !self.headers.contains_key(height)).collect())?;
        for height in heights {
            for height in *height..=height.saturating_add(BURIAL_PROVEN - 1).min(tip) {
                if self.checked.insert(height) {
                    self.check_one(height)?;
                }
            }
        }
        Ok(())
    }

    fn fetch(&mut self, heights: Vec<u32>) -> Result<(), WalletError> {
        let hashes = self.node.block_hashes(&heights)?;
        for ((height, hash), hex) in heights.iter().zip(&hashes).zip(self.node.headers(&hashes)?) {
            let header = hex::decode(&hex).ok().and_then(|bytes| {
                let mut reader = Reader::new(&bytes);
                let header = Header::read(&mut reader).ok()?;
                reader.end().ok()?;
                Some(header)
            });
            let header =
                header.ok_or_else(|| WalletError::Untrusted(format!("block {hash} has no readable header")))?;
            if header.hash() != *hash {
                return Err(WalletError::Untrusted(format!("it gave the header of another block for {hash}")));
            }
            if *height == self.tip.height && *hash != self.tip.hash {
                return Err(WalletError::Moving);
            }
            self.headers.insert(*height, (*hash, header));
        }
        Ok(())
    }

    fn check_one(&self, height: u32) -> Result<(), WalletError> {
        let (hash, header) = self.header(height)?;
        if height == 0 {
            let known = hash == self.network.genesis_hash();
            return if known { Ok(()) } else { Err(WalletError::Untrusted("its genesis block is another".into())) };
        }
        check_work(self.network, &header)
            .map_err(|error| WalletError::Untrusted(format!("block {hash} lacks its work ({error})")))?;
        let (parent_hash, parent) = self.header(height - 1)?;
        if header.previous != parent_hash || (height == 1 && parent_hash != self.network.genesis_hash()) {
            return Err(WalletError::Untrusted(format!("block {hash} does not stand on the block below it")));
        }
        let expected = self.required_bits(height - 1, &parent)?;
        if header.bits != expected {
            return Err(WalletError::Untrusted(format!(
                "block {hash} states difficulty {}, but height {height} requires {expected}",
                header.bits
            )));
        }
        if !self.network.is_fixed() {
            header_is_early(self.network, &header, self.now)
                .map_err(|error| WalletError::Untrusted(format!("block {hash}: {error}")))?;
        }
        Ok(())
    }

    /// The bits that a block on top of `parent` must state: the rule of `HeaderState::required_bits`, from the parent,
    /// its height and block 1 alone.
    fn required_bits(&self, parent_height: u32, parent: &Header) -> Result<CompactBits, WalletError> {
        let network = self.network;
        let Difficulty::Asert { half_life } = network.difficulty else { return Ok(network.genesis_bits) };
        let Some(blocks) = parent_height.checked_sub(1) else { return Ok(network.genesis_bits) };
        let (_, anchor) = self.header(1)?;
        if anchor.previous != network.genesis_hash() || check_work(network, &anchor).is_err() {
            return Err(WalletError::Untrusted("its block 1 does not stand on the genesis block".into()));
        }
        let Ok(anchor_target) = network.genesis_bits.to_target() else { return Ok(network.genesis_bits) };
        let since_anchor_parent = i64::from(parent.time) - i64::from(anchor.time) + i64::from(network.spacing);
        let target = pow::asert(anchor_target, network.limit, network.spacing, half_life, since_anchor_parent, blocks);
        Ok(target.to_compact())
    }
}
