//! The wallet against a node in this process that can lie in every word: what it believes, and what it does then.

mod lies;
mod mock;
mod payments;
mod restore;

use crate::error::WalletError;
use crate::history::{self, Entry};
use crate::keystore::{Chain, KeyPath, Seed, Used, Wallet};
use crate::random::OsEntropy;
use crate::spend::{self, Draft, Fee, Order};
use crate::sync::{self, Balance, View};
use mock::Mock;
use setara_core::address::Address;
use setara_core::amount::Amount;
use setara_core::network::Network;

/// Someone else's address.
const STRANGER: Address = Address::from_bytes([0x55; 32]);

/// A wallet in a directory of its own, with a node.
struct Fixture {
    mock: Mock,
    wallet: Wallet,
    _directory: tempfile::TempDir,
}

impl Fixture {
    fn new(network: Network) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let seed = Seed::from_entropy(&[3; 32]).unwrap();
        let path = directory.path().join("wallet");
        let wallet = Wallet::create(&path, b"password", seed, network.clone(), Used::default()).unwrap();
        Self { mock: Mock::start(network), wallet, _directory: directory }
    }

    fn dev() -> Self {
        Self::new(Network::dev())
    }

    /// A dev network with `coins` mature coinbases of 5 coins each on fresh addresses.
    fn with_coins(coins: u32) -> Self {
        let mut fixture = Self::dev();
        for _ in 0..coins {
            let address = fixture.fresh();
            fixture.mock.mine(address);
        }
        fixture.mock.mine_many(STRANGER, 100);
        fixture
    }

    fn fresh(&mut self) -> Address {
        let text = self.wallet.next_address().unwrap();
        Address::from_text(&text, &self.wallet.network().prefix).unwrap()
    }

    fn address(&self, chain: Chain, index: u32) -> Address {
        self.wallet.keys().address(KeyPath { chain, index })
    }

    fn look(&mut self) -> Result<View, WalletError> {
        sync::look(&mut self.wallet, &self.mock.node())
    }

    fn balance(&mut self) -> Balance {
        self.look().unwrap().balance().unwrap()
    }

    fn history(&mut self) -> Result<Vec<Entry>, WalletError> {
        let view = self.look()?;
        history::entries(&self.wallet, &self.mock.node(), &view)
    }

    fn order(&self, address: Address, sen: u64) -> Order {
        Order {
            address,
            amount: Some(Amount::from_sen(sen)),
            fee: Fee::Rate(2_000),
            fee_max: Amount::from_sen(10_000_000),
        }
    }

    fn draft(&mut self, address: Address, sen: u64) -> Result<Draft, WalletError> {
        let view = self.look()?;
        let order = self.order(address, sen);
        spend::draft(&self.wallet, &self.mock.node(), &view, &order, &mut OsEntropy)
    }

    /// What the `send` command does, without its words.
    fn send(&mut self, address: Address, sen: u64, id: Option<&str>) -> Result<Draft, WalletError> {
        let node = self.mock.node();
        let view = self.look()?;
        let order = self.order(address, sen);
        let draft = spend::draft(&self.wallet, &node, &view, &order, &mut OsEntropy)?;
        let text = address.to_text(&self.wallet.network().prefix);
        spend::send(&mut self.wallet, &node, &view, &draft, &text, id).map(|()| draft)
    }
}

/// Compiles only while `T` has no `Debug`: with it, both impls below fit and the call is ambiguous.
trait NoDebug<Ambiguous> {
    fn holds() {}
}
impl<T: ?Sized> NoDebug<()> for T {}
impl<T: ?Sized + std::fmt::Debug> NoDebug<u8> for T {}

/// WK4. What holds a secret cannot be printed, not even by accident.
#[test]
fn secrets_have_no_debug() {
    <crate::secret::Secret as NoDebug<_>>::holds();
    <Seed as NoDebug<_>>::holds();
    <crate::keystore::Keys as NoDebug<_>>::holds();
    <Wallet as NoDebug<_>>::holds();
    <setara_core::keys::SecretKey as NoDebug<_>>::holds();
}

/// Coins as sen.
const fn coins(coins: u64) -> u64 {
    coins * 100_000_000
}
