//! The keystore: one encrypted file with the secret, the network it belongs to, and the wallet's memory.
//!
//! A [`Wallet`] holds the file's lock for as long as it lives. Secrets are wiped when dropped, have no `Debug`, and
//! leave only as words (`create`) or as signatures.

mod container;
mod contents;
mod disk;
mod mnemonic;
mod slip10;

pub use container::Label;
pub use contents::{Payment, Pinned, State, Used};
pub use mnemonic::Seed;
pub use slip10::COIN_TYPE;

use crate::error::WalletError;
use crate::network;
use crate::random::{Entropy, OsEntropy};
use container::{Defect, SealKey, Sealed};
use contents::ContentsError;
use disk::Lock;
use setara_core::address::Address;
use setara_core::keys::SecretKey;
use setara_core::network::Network;
use setara_core::policy::SpendPolicy;
use std::path::{Path, PathBuf};

/// Which of the two chains of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chain {
    /// Given to others.
    Receive,
    /// The wallet's own.
    Change,
}

/// Where a key stands below the account: `chain' / index'`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPath {
    /// The chain.
    pub chain: Chain,
    /// The index, below 2^31.
    pub index: u32,
}

/// The keys of a wallet, derived when asked for.
pub struct Keys {
    receive: slip10::Node,
    change: slip10::Node,
}

impl Keys {
    /// Of the wallet with this secret.
    pub fn new(seed: &Seed) -> Self {
        let account = slip10::Node::account(&*seed.expand());
        Self { receive: account.child(0), change: account.child(1) }
    }

    /// The secret key at `path`.
    pub fn secret(&self, path: KeyPath) -> SecretKey {
        let chain = match path.chain {
            Chain::Receive => &self.receive,
            Chain::Change => &self.change,
        };
        SecretKey::from_seed(*chain.child(path.index).key())
    }

    /// The address at `path`: that of a policy with the one key.
    pub fn address(&self, path: KeyPath) -> Address {
        SpendPolicy::Key(self.secret(path).public_key()).address()
    }
}

/// An open wallet.
pub struct Wallet {
    path: PathBuf,
    label: Label,
    network: Network,
    key: SealKey,
    seed: Seed,
    keys: Keys,
    /// The memory; [`Wallet::save`] makes changes last.
    pub state: State,
    _lock: Lock,
}

impl Wallet {
    /// Makes a new file; an existing one is never replaced. `used` is what a search found, if one was made.
    pub fn create(path: &Path, password: &[u8], seed: Seed, network: Network, used: Used) -> Result<Self, WalletError> {
        Self::create_with(path, password, seed, network, used, &mut OsEntropy)
    }

    fn create_with(
        path: &Path,
        password: &[u8],
        seed: Seed,
        network: Network,
        used: Used,
        entropy: &mut impl Entropy,
    ) -> Result<Self, WalletError> {
        refuse_existing(path)?;
        disk::prepare_directory(path)?;
        let lock = Lock::acquire(path)?;
        // Again under the lock: another process may have been first.
        refuse_existing(path)?;
        let label = Label { network: network.name.clone(), genesis: network.genesis_hash() };
        let state = State::new(network::pin(&network), used);
        let key = SealKey::new(password, entropy)?;
        let keys = Keys::new(&seed);
        let wallet = Self { path: path.to_owned(), label, network, key, seed, keys, state, _lock: lock };
        wallet.save_with(entropy)?;
        Ok(wallet)
    }

    /// Opens the file at `path`, asking `password` for the password once it is known to be a whole wallet.
    pub fn open<P: AsRef<[u8]>>(
        path: &Path,
        password: impl FnOnce(&Label) -> Result<P, WalletError>,
    ) -> Result<Self, WalletError> {
        // A save replaces what a link points to, not the link.
        let path = &path.canonicalize().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => WalletError::NotFound(path.to_owned()),
            _ => WalletError::io("open", path, error),
        })?;
        let lock = Lock::acquire(path)?;
        let bytes = disk::read(path)?;
        let sealed = Sealed::parse(&bytes).map_err(|defect| explain(path, defect))?;
        let label = sealed.label();
        let password = password(&label)?;
        let (contents, key) = sealed.open(password.as_ref()).ok_or(WalletError::WrongPassword)?;
        let (seed, state) = contents::read(&contents).map_err(|error| match error {
            ContentsError::Newer(version) => WalletError::Newer { path: path.clone(), version: u64::from(version) },
            ContentsError::Malformed(reason) => WalletError::Damaged { path: path.clone(), reason },
        })?;
        let network = network::unpin(&state.network)?;
        if network.genesis_hash() != label.genesis {
            return Err(WalletError::WrongNetwork(format!(
                "this wallet belongs to a network {} with genesis block {}, which this version does not know",
                label.network, label.genesis
            )));
        }
        let keys = Keys::new(&seed);
        Ok(Self { path: path.clone(), label, network, key, seed, keys, state, _lock: lock })
    }

    /// Makes the memory last: after this returns, a crash loses nothing.
    pub fn save(&self) -> Result<(), WalletError> {
        self.save_with(&mut OsEntropy)
    }

    fn save_with(&self, entropy: &mut impl Entropy) -> Result<(), WalletError> {
        let contents = contents::write(&self.seed, &self.state);
        disk::replace(&self.path, &container::seal(&self.label, &self.key, &contents, entropy)?)
    }

    /// Seals the file with another password, and a fresh salt.
    pub fn change_password(&mut self, password: &[u8]) -> Result<(), WalletError> {
        self.key = SealKey::new(password, &mut OsEntropy)?;
        self.save()
    }

    /// The network that the wallet was made for.
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// The keys.
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The secret itself.
    pub const fn seed(&self) -> &Seed {
        &self.seed
    }

    /// The address at `path` as people write it.
    pub fn address_text(&self, path: KeyPath) -> String {
        self.keys.address(path).to_text(&self.network.prefix)
    }

    /// A receiving address never given out before. Saved before it is returned, so that it never will be again.
    pub fn next_address(&mut self) -> Result<String, WalletError> {
        let index = self.state.next_receive;
        self.state.next_receive = next_index(index)?;
        self.save()?;
        Ok(self.address_text(KeyPath { chain: Chain::Receive, index }))
    }

    /// A change address never used before; the caller saves.
    pub fn next_change(&mut self) -> Result<KeyPath, WalletError> {
        let index = self.state.next_change;
        self.state.next_change = next_index(index)?;
        Ok(KeyPath { chain: Chain::Change, index })
    }
}

/// Fails if there is anything at `path`.
pub fn refuse_existing(path: &Path) -> Result<(), WalletError> {
    match path.symlink_metadata() {
        Ok(_) => Err(WalletError::Exists(path.to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(WalletError::io("look for", path, error)),
    }
}

fn next_index(index: u32) -> Result<u32, WalletError> {
    let next = index.saturating_add(1);
    if next > i32::MAX as u32 {
        Err(WalletError::Usage("the wallet has run out of addresses".into()))
    } else {
        Ok(next)
    }
}

fn explain(path: &Path, defect: Defect) -> WalletError {
    match defect {
        Defect::Damaged(reason) => WalletError::Damaged { path: path.to_owned(), reason: reason.to_owned() },
        Defect::Newer(version) => WalletError::Newer { path: path.to_owned(), version },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::tests::Broken;

    const PASSWORD: &[u8] = b"tolong";

    fn with_password(password: &'static [u8]) -> impl FnOnce(&Label) -> Result<&'static [u8], WalletError> {
        move |_| Ok(password)
    }

    fn create(path: &Path) -> Wallet {
        let seed = Seed::from_entropy(&[1; 32]).unwrap();
        Wallet::create(path, PASSWORD, seed, Network::dev(), Used::default()).unwrap()
    }

    #[test]
    fn a_wallet_remembers_and_needs_its_password() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wallet");
        let mut wallet = create(&path);
        let first = wallet.next_address().unwrap();
        let second = wallet.next_address().unwrap();
        assert_ne!(first, second);
        drop(wallet);
        assert_eq!(Wallet::open(&path, with_password(b"x")).map(|_| ()).unwrap_err().code(), "wrong-password");
        let mut wallet = Wallet::open(&path, with_password(PASSWORD)).unwrap();
        assert_eq!(wallet.state.next_receive, 2);
        assert_eq!(wallet.address_text(KeyPath { chain: Chain::Receive, index: 1 }), second);
        wallet.change_password(b"rahasia").unwrap();
        drop(wallet);
        assert!(Wallet::open(&path, with_password(PASSWORD)).is_err());
        let wallet = Wallet::open(&path, with_password(b"rahasia")).unwrap();
        assert_eq!(wallet.seed().entropy(), [1; 32]);
        assert_eq!(wallet.network().name, "dev");
    }

    #[test]
    fn nothing_is_ever_replaced_by_a_new_wallet() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wallet");
        drop(create(&path));
        let before = std::fs::read(&path).unwrap();
        let seed = Seed::from_entropy(&[2; 32]).unwrap();
        let again = Wallet::create(&path, b"other", seed, Network::dev(), Used::default());
        assert_eq!(again.map(|_| ()).unwrap_err().code(), "wallet-exists");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    /// WK1.
    #[test]
    fn without_randomness_no_file_appears() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wallet");
        let seed = Seed::from_entropy(&[1; 32]).unwrap();
        let result = Wallet::create_with(&path, PASSWORD, seed, Network::dev(), Used::default(), &mut Broken);
        assert_eq!(result.map(|_| ()).unwrap_err().code(), "no-randomness");
        assert!(!path.exists());
    }

    /// WK5. The password is not even asked for.
    #[test]
    fn a_damaged_file_says_so_and_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wallet");
        drop(create(&path));
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 40;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let never = |_: &Label| -> Result<&[u8], WalletError> { panic!("asked for a password") };
        let error = Wallet::open(&path, never).map(|_| ()).unwrap_err();
        assert_eq!(error.code(), "wallet-damaged");
        assert!(error.to_string().contains("24 words"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    /// WK3. The addresses of a known seed, pinned: a change here would lose everybody's money.
    #[test]
    fn chains_and_indexes_give_distinct_addresses() {
        let seed = Seed::from_entropy(&[1; 32]).unwrap();
        let keys = Keys::new(&seed);
        let mut seen = std::collections::BTreeSet::new();
        for chain in [Chain::Receive, Chain::Change] {
            for index in 0..50 {
                assert!(seen.insert(keys.address(KeyPath { chain, index }).to_text(&Network::dev().prefix)));
            }
        }
    }
}
