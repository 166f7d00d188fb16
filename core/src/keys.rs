//! Ed25519 keys and signatures, under ZIP 215 rules.
//!
//! `ed25519-dalek` makes keys and signatures; `ed25519-zebra` alone judges them, because its single and its batch verdicts
//! are defined to be the same for every input (<https://zips.z.cash/zip-0215>). Nothing here draws randomness: the
//! caller hands in a cryptographic generator, and a batch is only as sound as that is unpredictable to the signers.

use crate::codec::{Codec, CodecError, Reader, Writer, raw_codec};
use core::fmt;
use ed25519_dalek::{Signer, SigningKey};
use ed25519_zebra::{VerificationKey, VerificationKeyBytes, batch};
use rand_core::CryptoRng;

/// Below this many checks singles are as fast as another batch, and name the culprit.
const BISECT_UNTIL: usize = 4;

/// An Ed25519 public key as raw bytes; bytes that are no curve point simply never verify.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// From raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether this is one of the points of order 1, 2, 4 or 8, in any encoding: a key for which anyone can make
    /// signatures. Consensus does not care. A program that takes keys from others, to share a policy with them, should
    /// refuse such a key; the wallet here takes none: it makes all its keys from its own words.
    pub fn is_small_order(&self) -> bool {
        ed25519_dalek::VerifyingKey::from_bytes(&self.0).is_ok_and(|key| key.is_weak())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// An Ed25519 signature as raw bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature([u8; 64]);

impl Signature {
    /// From raw bytes.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

raw_codec!(PublicKey, 32);
raw_codec!(Signature, 64);

/// A signature came out wrong and was withheld: faulty hardware, or memory tampered with. Released, it could give the
/// secret away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the new signature does not verify: this machine computes wrongly")]
pub struct SigningFault;

/// A secret key. It is wiped from memory when dropped and has no text form.
///
/// The public key is always derived from the secret, never passed in beside it: a signer that takes both signs with
/// one nonce for two keys, which reveals the secret (RUSTSEC-2022-0093).
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key of a 32-byte seed (RFC 8032's private key).
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&zeroize::Zeroizing::new(seed)))
    }

    /// The key that verifies.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`, and verifies the signature before it is let out.
    pub fn sign(&self, message: &[u8; 32]) -> Result<Signature, SigningFault> {
        let signature = Signature(self.0.sign(message).to_bytes());
        release(SignatureCheck { key: self.public_key(), message: *message, signature })
    }
}

/// The signature, if it verifies.
fn release(check: SignatureCheck) -> Result<Signature, SigningFault> {
    if check.verify() { Ok(check.signature) } else { Err(SigningFault) }
}

/// A claim that `signature` is `key`'s over `message`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SignatureCheck {
    /// Who is said to have signed.
    pub key: PublicKey,
    /// What is said to be signed.
    pub message: [u8; 32],
    /// The proof.
    pub signature: Signature,
}

impl SignatureCheck {
    /// Whether the claim holds, under ZIP 215.
    pub fn verify(&self) -> bool {
        holds(&self.key, &self.message, &self.signature)
    }
}

/// One claim over a message of any length, alone.
fn holds(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    VerificationKey::try_from(key.0)
        .and_then(|key| key.verify(&ed25519_zebra::Signature::from_bytes(&signature.0), message))
        .is_ok()
}

/// One claim over a message of any length, for a batch.
fn item(key: &PublicKey, message: &[u8], signature: &Signature) -> batch::Item {
    let signature = ed25519_zebra::Signature::from_bytes(&signature.0);
    batch::Item::from((VerificationKeyBytes::from(key.0), signature, message))
}

/// Claims to be verified together, several times faster than one by one, with the same verdict on each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignatureBatch(Vec<SignatureCheck>);

impl SignatureBatch {
    /// No claims.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends a claim.
    pub fn push(&mut self, check: SignatureCheck) {
        self.0.push(check);
    }

    /// How many claims.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none: then they verify.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The claims, in the order they came.
    pub fn checks(&self) -> &[SignatureCheck] {
        &self.0
    }

    /// Verifies all claims; else the index of the first that does not hold.
    pub fn verify<R: CryptoRng>(&self, rng: &mut R) -> Result<(), usize> {
        verify_all(&self.0, rng)
    }
}

impl Extend<SignatureCheck> for SignatureBatch {
    fn extend<I: IntoIterator<Item = SignatureCheck>>(&mut self, checks: I) {
        self.0.extend(checks);
    }
}

impl From<Vec<SignatureCheck>> for SignatureBatch {
    fn from(checks: Vec<SignatureCheck>) -> Self {
        Self(checks)
    }
}

impl FromIterator<SignatureCheck> for SignatureBatch {
    fn from_iter<I: IntoIterator<Item = SignatureCheck>>(checks: I) -> Self {
        Self(checks.into_iter().collect())
    }
}

/// Verifies `checks`, each with a weight of 128 random bits; else the index of the first that does not hold. A slice, so
/// that callers can share one batch among threads in chunks of a size that suits them (256 and up pay).
pub fn verify_all<R: CryptoRng>(checks: &[SignatureCheck], rng: &mut R) -> Result<(), usize> {
    if batch_holds(checks, rng) {
        return Ok(());
    }
    // Some claim is false. Keep the first half that has one, until few are left; those are checked singly.
    let mut suspects = checks;
    let mut before = 0usize;
    while suspects.len() > BISECT_UNTIL {
        let (left, right) = suspects.split_at_checked(suspects.len() >> 1).unwrap_or((suspects, &[]));
        if batch_holds(left, rng) {
            before = before.saturating_add(left.len());
            suspects = right;
        } else {
            suspects = left;
        }
    }
    match suspects.iter().position(|check| !check.verify()) {
        Some(index) => Err(before.saturating_add(index)),
        // A half passed by a chance of 2^-128, or memory failed: the single verdicts decide.
        None => checks.iter().position(|check| !check.verify()).map_or(Ok(()), Err),
    }
}

/// Whether all of `checks` hold, by one equation.
fn batch_holds<R: CryptoRng>(checks: &[SignatureCheck], rng: &mut R) -> bool {
    if let [check] = checks {
        return check.verify();
    }
    let mut verifier = batch::Verifier::new();
    for check in checks {
        verifier.queue(item(&check.key, &check.message, &check.signature));
    }
    verifier.verify(rng).is_ok()
}

#[cfg(test)]
mod vectors;

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20::ChaCha20Rng;
    use rand_core::{Rng, SeedableRng};

    fn rng(seed: u64) -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(seed)
    }

    fn signed(count: u8) -> Vec<SignatureCheck> {
        (0..count)
            .map(|number| {
                let secret = SecretKey::from_seed([number; 32]);
                let message = [number ^ 0x55; 32];
                SignatureCheck { key: secret.public_key(), message, signature: secret.sign(&message).unwrap() }
            })
            .collect()
    }

    #[test]
    fn rfc8032_test_keys_and_signature() {
        // RFC 8032, section 7.1, test 1: secret and public key.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let mut bytes = [0; 32];
        hex::decode_to_slice(seed, &mut bytes).unwrap();
        let secret = SecretKey::from_seed(bytes);
        assert_eq!(
            format!("{:?}", secret.public_key()),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
    }

    #[test]
    fn every_bit_of_a_claim_counts() {
        let check = signed(3)[2];
        assert!(check.verify());
        for bit in 0..256 {
            let mut message = check.message;
            message[bit / 8] ^= 1 << (bit % 8);
            assert!(!SignatureCheck { message, ..check }.verify(), "message bit {bit}");
            let mut key = check.key;
            key.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!SignatureCheck { key, ..check }.verify(), "key bit {bit}");
        }
    }

    /// WK2: a signature with any single bit wrong is not let out.
    #[test]
    fn a_faulty_signature_is_withheld() {
        let check = signed(5)[4];
        assert_eq!(release(check), Ok(check.signature));
        for bit in 0..512 {
            let mut faulty = check;
            faulty.signature.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(release(faulty), Err(SigningFault), "bit {bit}");
        }
    }

    #[test]
    fn a_culprit_is_named_wherever_it_stands() {
        for count in [1u8, 2, 3, 4, 5, 8, 9, 33] {
            let good = signed(count);
            assert_eq!(SignatureBatch::from(good.clone()).verify(&mut rng(1)), Ok(()));
            for culprit in 0..usize::from(count) {
                let mut checks = good.clone();
                checks[culprit].message[0] ^= 1;
                // A later one does not distract.
                checks[usize::from(count) - 1].message[9] ^= 1;
                assert_eq!(verify_all(&checks, &mut rng(2)), Err(culprit), "{culprit} of {count}");
            }
        }
        assert_eq!(SignatureBatch::new().verify(&mut rng(3)), Ok(()));
    }

    #[test]
    fn batches_agree_with_singles_on_random_damage() {
        let mut rng = rng(4);
        let good = signed(40);
        for _ in 0..40 {
            let mut checks = good.clone();
            for _ in 0..rng.next_u32() % 3 {
                let check = &mut checks[rng.next_u32() as usize % 40];
                check.signature.0[rng.next_u32() as usize % 64] ^= 1 << (rng.next_u32() % 8);
            }
            let expected = checks.iter().position(|check| !check.verify()).map_or(Ok(()), Err);
            assert_eq!(verify_all(&checks, &mut rng), expected);
        }
    }
}
