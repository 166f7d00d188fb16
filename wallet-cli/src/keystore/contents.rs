//! What the sealed part of the file holds: the secret first, as raw bytes, then the wallet's memory as JSON.
//!
//! ```text
//! version u8 = 1 || length u8 || entropy || JSON of State
//! ```
//!
//! Nothing in [`State`] can spend money; the entropy never passes through a serializer that might copy it. Everything
//! but the send ids can be found again from the words and a node.

use super::mnemonic::Seed;
use serde::{Deserialize, Serialize};
use setara_core::amount::Amount;
use setara_core::hash::TxId;
use zeroize::Zeroizing;

const VERSION: u8 = 1;

/// Which network the wallet belongs to, in a form that its parameters can be had from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pinned {
    /// One that every build knows, by name.
    BuiltIn(String),
    /// Anyone's own: the text of its genesis file.
    Custom(String),
}

/// A payment that this wallet made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payment {
    /// What makes sending idempotent: given by the user, else the txid.
    pub id: String,
    /// Who was paid, as text.
    pub address: String,
    /// How much.
    pub amount: Amount,
    /// What it cost.
    pub fee: Amount,
    /// The transaction.
    pub txid: TxId,
    /// Its bytes as hex; empty once it is buried so deep that it need not be sent again.
    pub raw: String,
    /// Height of the tip when it was made: nothing that conflicts with it can be lower.
    pub tip: u32,
    /// When it was made, in Unix seconds.
    pub time: u64,
}

/// How many addresses are in use on each chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// Receiving addresses below this index.
    pub receive: u32,
    /// Change addresses below this index.
    pub change: u32,
}

/// The wallet's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The network.
    pub network: Pinned,
    /// Index of the next receiving address never given out.
    pub next_receive: u32,
    /// Index of the next change address never used.
    pub next_change: u32,
    /// Receiving addresses below this index have been seen paid.
    pub seen_receive: u32,
    /// Payments made, oldest first.
    pub payments: Vec<Payment>,
}

impl State {
    /// Of a new wallet, or a restored one whose addresses have been looked for.
    pub fn new(network: Pinned, used: Used) -> Self {
        let Used { receive, change } = used;
        Self { network, next_receive: receive, next_change: change, seen_receive: receive, payments: Vec::new() }
    }

    /// The payment made under this id.
    pub fn payment(&self, id: &str) -> Option<&Payment> {
        self.payments.iter().find(|payment| payment.id == id)
    }
}

/// The bytes to seal.
pub fn write(seed: &Seed, state: &State) -> Zeroizing<Vec<u8>> {
    let entropy = seed.entropy();
    let state = serde_json::to_vec(state).expect("strings and numbers are always JSON");
    // The exact size at once: growing would leave a copy of the secret in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 + entropy.len() + state.len()));
    bytes.push(VERSION);
    bytes.push(u8::try_from(entropy.len()).expect("entropy has at most 32 bytes"));
    bytes.extend_from_slice(entropy);
    bytes.extend_from_slice(&state);
    bytes
}

/// Why opened contents are of no use: the password was right, so this is a version or a bug, never an attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentsError {
    /// Of a later version.
    Newer(u8),
    /// Anything else.
    Malformed(String),
}

/// What [`write`] wrote.
pub fn read(bytes: &[u8]) -> Result<(Seed, State), ContentsError> {
    let malformed = |reason: &str| ContentsError::Malformed(reason.to_owned());
    let ([version, length], rest) = bytes.split_first_chunk().ok_or_else(|| malformed("its contents are cut off"))?;
    if *version != VERSION {
        return Err(ContentsError::Newer(*version));
    }
    let (entropy, state) =
        rest.split_at_checked(usize::from(*length)).ok_or_else(|| malformed("its contents are cut off"))?;
    let seed = Seed::from_entropy(entropy).map_err(|_| malformed("its secret has an impossible length"))?;
    let state = serde_json::from_slice(state).map_err(|error| ContentsError::Malformed(error.to_string()))?;
    Ok((seed, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Seed, State) {
        let mut state = State::new(Pinned::BuiltIn("dev".into()), Used::default());
        state.next_receive = 7;
        state.payments.push(Payment {
            id: "invoice 17".into(),
            address: "dset1".into(),
            amount: Amount::from_sen(150_000_000),
            fee: Amount::from_sen(500),
            txid: TxId::from_bytes([3; 32]),
            raw: "00".into(),
            tip: 9,
            time: 1_700_000_000,
        });
        (Seed::from_entropy(&[9; 32]).unwrap(), state)
    }

    #[test]
    fn contents_round_trip() {
        let (seed, state) = sample();
        let (again, restored) = read(&write(&seed, &state)).unwrap();
        assert_eq!(again.entropy(), seed.entropy());
        assert_eq!(restored, state);
    }

    #[test]
    fn strange_contents_are_refused() {
        let (seed, state) = sample();
        let bytes = write(&seed, &state).to_vec();
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "cut at {end}");
        }
        let mut newer = bytes.clone();
        newer[0] = 2;
        assert_eq!(read(&newer).err(), Some(ContentsError::Newer(2)));
        let mut short = bytes;
        short[1] = 5;
        assert!(read(&short).is_err());
    }
}
