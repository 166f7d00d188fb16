//! Which network a wallet belongs to. Pinned when the wallet is made, compared with the node at every run.

use crate::error::WalletError;
use crate::keystore::Pinned;
use setara_core::hash::BlockHash;
use setara_core::network::Network;
use std::io::Read;
use std::path::Path;

/// Bytes of a genesis file: its allocations fit a coinbase of 100 kB, some 160 characters each as JSON.
const GENESIS_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The network that every build knows by this name.
pub fn built_in(name: &str) -> Option<Network> {
    match name {
        "main" => Some(Network::main()),
        "test" => Some(Network::test()),
        "dev" => Some(Network::dev()),
        _ => None,
    }
}

/// The network named by `--network`.
pub fn named(name: &str) -> Result<Network, WalletError> {
    built_in(name).ok_or_else(|| {
        WalletError::Usage(format!(
            "there is no built-in network {name:?}: main, test or dev; others need --genesis FILE"
        ))
    })
}

/// The network of a genesis file.
pub fn from_file(path: &Path) -> Result<Network, WalletError> {
    let file = std::fs::File::open(path).map_err(|error| WalletError::io("open", path, error))?;
    let mut text = String::new();
    file.take(GENESIS_FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| WalletError::io("read", path, error))?;
    if text.len() as u64 > GENESIS_FILE_BYTES_MAX {
        return Err(WalletError::Usage(format!("{} is too long for a genesis file", path.display())));
    }
    Network::from_json(&text).map_err(|error| WalletError::Usage(format!("{}: {error}", path.display())))
}

/// The network that a node says it is on, if this build knows it: its name alone proves nothing, its genesis does.
pub fn announced(name: &str, genesis: BlockHash) -> Result<Network, WalletError> {
    match built_in(name) {
        Some(network) if network.genesis_hash() == genesis => Ok(network),
        Some(network) => Err(WalletError::WrongNetwork(format!(
            "the node calls its network {name}, but its genesis block is {genesis}, not {}; \
             if you trust it, name its genesis file with --genesis",
            network.genesis_hash()
        ))),
        None => Err(WalletError::WrongNetwork(format!(
            "the node is on a network of its own ({}, genesis block {genesis}): \
             name its genesis file with --genesis FILE",
            crate::output::foreign(name)
        ))),
    }
}

/// What the keystore keeps of a network.
pub fn pin(network: &Network) -> Pinned {
    match built_in(&network.name) {
        Some(known) if known.genesis_hash() == network.genesis_hash() => Pinned::BuiltIn(network.name.clone()),
        _ => Pinned::Custom(network.to_json()),
    }
}

/// The network that the keystore kept.
pub fn unpin(pinned: &Pinned) -> Result<Network, WalletError> {
    match pinned {
        Pinned::BuiltIn(name) => {
            built_in(name).ok_or_else(|| WalletError::WrongNetwork(format!("this version knows no network {name}")))
        }
        Pinned::Custom(text) => Network::from_json(text).map_err(|error| {
            WalletError::WrongNetwork(format!("this version cannot read the wallet's network: {error}"))
        }),
    }
}
