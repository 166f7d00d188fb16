//! The wallet's addresses: which to watch, and how far to look for more.
//!
//! Normal commands watch every address ever given out and [`LOOKAHEAD`] beyond, so money sent to an address that
//! another copy of the wallet gave out still appears. A restored wallet looks much further: until a gap of unused
//! addresses is longer than any that a person is likely to leave.

use crate::error::WalletError;
use crate::keystore::{Chain, KeyPath, Keys, Used, Wallet};
use crate::node::Node;
use setara_core::address::Address;
use setara_core::network::Network;
use std::collections::BTreeMap;

/// Unused addresses in a row after which `restore` stops looking.
pub const GAP_DEFAULT: u32 = 200;

/// The largest gap that can be asked for: a million derivations take half a minute.
pub const GAP_MAX: u32 = 1_000_000;

/// Addresses watched beyond the last one given out.
const LOOKAHEAD: u32 = 20;

/// Addresses asked about at a time while restoring.
const SCAN_STEP: u32 = 100;

/// Used addresses after which a node is not believed any more: a lying one could keep the search going for ever.
const FOUND_MAX: u32 = 100_000;

/// The addresses that a command watches.
pub struct AddressBook {
    texts: Vec<String>,
    /// In the order of `texts`.
    addresses: Vec<(Address, KeyPath)>,
    paths: BTreeMap<Address, KeyPath>,
}

impl AddressBook {
    /// Of `wallet` as it stands.
    pub fn new(wallet: &Wallet) -> Self {
        let mut book = Self { texts: Vec::new(), addresses: Vec::new(), paths: BTreeMap::new() };
        for (chain, next) in [(Chain::Receive, wallet.state.next_receive), (Chain::Change, wallet.state.next_change)] {
            for index in 0..next.saturating_add(LOOKAHEAD) {
                let path = KeyPath { chain, index };
                let address = wallet.keys().address(path);
                book.texts.push(address.to_text(&wallet.network().prefix));
                book.addresses.push((address, path));
                book.paths.insert(address, path);
            }
        }
        book
    }

    /// As text, for questions to the node.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Each address with its text and key.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Address, KeyPath)> {
        self.texts.iter().zip(&self.addresses).map(|(text, (address, path))| (text.as_str(), *address, *path))
    }

    /// The key of an address, if it is ours.
    pub fn path(&self, address: &Address) -> Option<KeyPath> {
        self.paths.get(address).copied()
    }
}

/// Notes that the address at `path` was used; whether that moved a counter.
pub fn note_used(wallet: &mut Wallet, path: KeyPath) -> bool {
    let next = path.index.saturating_add(1);
    let state = &mut wallet.state;
    let raise = |counter: &mut u32| {
        let higher = next > *counter;
        *counter = next.max(*counter);
        higher
    };
    match path.chain {
        Chain::Receive => {
            let seen = raise(&mut state.seen_receive);
            raise(&mut state.next_receive) || seen
        }
        Chain::Change => raise(&mut state.next_change),
    }
}

/// What a search for used addresses found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// How many were ever paid.
    pub addresses: u32,
    /// Where the next unused ones are.
    pub used: Used,
}

/// Looks for used addresses until `gap` unused ones in a row on both chains.
pub fn discover(keys: &Keys, network: &Network, node: &Node, gap: u32) -> Result<Found, WalletError> {
    let mut found = Found { addresses: 0, used: Used::default() };
    for chain in [Chain::Receive, Chain::Change] {
        let mut unused = 0u32;
        let mut index = 0u32;
        let mut next = 0u32;
        while unused < gap {
            let count = SCAN_STEP.min(gap - unused);
            let texts: Vec<String> = (index..index.saturating_add(count))
                .map(|index| keys.address(KeyPath { chain, index }).to_text(&network.prefix))
                .collect();
            let mut used = node.ever_paid(&texts)?;
            for delta in node.mempool(&texts)? {
                if let Some(position) = texts.iter().position(|text| *text == delta.address) {
                    used[position] = true;
                }
            }
            for used in used {
                index = index.saturating_add(1);
                if used {
                    found.addresses = found.addresses.saturating_add(1);
                    next = index;
                    unused = 0;
                } else {
                    unused = unused.saturating_add(1);
                }
            }
            if found.addresses > FOUND_MAX {
                return Err(WalletError::Untrusted("it calls every address used".into()));
            }
        }
        match chain {
            Chain::Receive => found.used.receive = next,
            Chain::Change => found.used.change = next,
        }
    }
    Ok(found)
}

/// A remark when so many addresses are out unpaid that `restore` would not find the next one by itself.
pub fn gap_warning(wallet: &Wallet) -> Option<String> {
    let unused = wallet.state.next_receive.saturating_sub(wallet.state.seen_receive);
    (unused >= GAP_DEFAULT).then(|| {
        format!(
            "{unused} addresses in a row were given out and not seen paid. Restoring from the 24 words would need \
             --gap {} to find money on the newest",
            unused.saturating_add(1)
        )
    })
}
