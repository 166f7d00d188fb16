//! One key that earns and pays itself: transactions for tests that are about blocks, not about wallets.

use setara_core::address::{Address, Prefix};
use setara_core::amount::Amount;
use setara_core::hash::BlockHash;
use setara_core::keys::SecretKey;
use setara_core::network::Network;
use setara_core::policy::SpendPolicy;
use setara_core::transaction::{Input, OutPoint, Output, SigningContext, Transaction, Witness};

/// Fee of a payment, far above the relay floor of 1,000 sen a kilobyte.
pub const FEE_SEN: u64 = 10_000;

/// The key, and the network it is used on.
pub struct Purse {
    secret: SecretKey,
    genesis: BlockHash,
    prefix: Prefix,
}

impl Purse {
    /// Key number `number`: the same in every run.
    pub fn new(network: &Network, number: u8) -> Self {
        let secret = SecretKey::from_seed([number; 32]);
        Self { secret, genesis: network.genesis_hash(), prefix: network.prefix.clone() }
    }

    fn policy(&self) -> SpendPolicy {
        SpendPolicy::Key(self.secret.public_key())
    }

    /// Where it is paid.
    pub fn address(&self) -> Address {
        self.policy().address()
    }

    /// The same as text.
    pub fn address_text(&self) -> String {
        self.address().to_text(&self.prefix)
    }

    /// Whether a coin of `amount` is worth dividing into two.
    pub const fn can_split(amount: Amount) -> bool {
        amount.sen() > 10 * FEE_SEN
    }

    /// A signed payment of one coin back to this key, in `parts` nearly equal parts, less [`FEE_SEN`].
    pub fn split(&self, outpoint: OutPoint, amount: Amount, parts: u64) -> Transaction {
        let rest = amount.sen() - FEE_SEN;
        let part = |number: u64| if number == 0 { rest / parts + rest % parts } else { rest / parts };
        let output = |number| Output { amount: Amount::from_sen(part(number)), address: self.address() };
        let mut transaction = Transaction {
            inputs: vec![Input { outpoint, amount }],
            outputs: (0..parts).map(output).collect(),
            valid_from: 0,
            memo: vec![],
            witnesses: vec![],
        };
        let context = SigningContext::new(self.genesis, transaction.txid(), &[self.address()]);
        let signature = self.secret.sign(&context.message(0, &[])).expect("this machine computes rightly");
        let witness = Witness { policy: self.policy(), signatures: vec![signature], preimages: vec![], future: vec![] };
        transaction.witnesses.push(witness);
        transaction
    }
}
