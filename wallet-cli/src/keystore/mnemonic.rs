//! The 24 words (BIP 39, English): how a wallet is written on paper.

use crate::error::WalletError;
use crate::random::Entropy;
use crate::secret::Secret;
use bip39::{Language, Mnemonic};
use zeroize::Zeroizing;

/// Bytes of entropy of a new wallet: 256 bits, 24 words.
const ENTROPY_BYTES: usize = 32;

/// Characters of words that are read at all: 24 words of at most 8 letters and generous white space.
const TEXT_BYTES_MAX: usize = 4_096;

/// The secret that everything is derived from. Wiped when dropped; never printed except as words, on purpose.
pub struct Seed {
    entropy: Zeroizing<Vec<u8>>,
}

impl Seed {
    /// A fresh one.
    pub fn generate(entropy: &mut impl Entropy) -> Result<Self, WalletError> {
        let mut bytes = Zeroizing::new(vec![0; ENTROPY_BYTES]);
        entropy.fill(&mut bytes)?;
        Ok(Self { entropy: bytes })
    }

    /// From 12 to 24 words with a valid checksum; case and white space do not matter.
    pub fn from_words(text: &str) -> Result<Self, WalletError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(WalletError::BadMnemonic("this is far longer than 24 words".into()));
        }
        let lower = Zeroizing::new(text.to_lowercase());
        let mnemonic = Mnemonic::parse_in(Language::English, &*lower).map_err(|error| explain(&error, &lower))?;
        Self::from_entropy(&Zeroizing::new(mnemonic.to_entropy()))
    }

    /// From the entropy itself, 16 to 32 bytes.
    pub fn from_entropy(entropy: &[u8]) -> Result<Self, WalletError> {
        Mnemonic::from_entropy(entropy).map_err(|error| WalletError::BadMnemonic(error.to_string()))?;
        Ok(Self { entropy: Zeroizing::new(entropy.to_vec()) })
    }

    /// The words, separated by single spaces.
    pub fn words(&self) -> Secret {
        // Room for the longest words, so that no shorter copy is left behind by growing.
        let mut words = String::with_capacity(24 * 9);
        for word in self.mnemonic().words() {
            if !words.is_empty() {
                words.push(' ');
            }
            words.push_str(word);
        }
        Secret::new(words)
    }

    /// The entropy that the words encode.
    pub fn entropy(&self) -> &[u8] {
        &self.entropy
    }

    /// The BIP 39 seed, without a passphrase.
    pub fn expand(&self) -> Zeroizing<[u8; 64]> {
        Zeroizing::new(self.mnemonic().to_seed_normalized(""))
    }

    fn mnemonic(&self) -> Mnemonic {
        Mnemonic::from_entropy(&self.entropy).expect("both constructors checked the length")
    }
}

/// What is wrong with the words, naming a word by its place but never repeating it: it may end up in a log.
fn explain(error: &bip39::Error, text: &str) -> WalletError {
    WalletError::BadMnemonic(match error {
        bip39::Error::BadWordCount(count) => format!("expected 24 words (12, 15, 18 or 21 also work), got {count}"),
        bip39::Error::UnknownWord(index) => {
            let total = text.split_whitespace().count();
            format!("word {} of {total} is not in the BIP 39 English list", index.saturating_add(1))
        }
        bip39::Error::InvalidChecksum => {
            "every word is known but they do not belong together: one is wrong, or two changed places".into()
        }
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::OsEntropy;
    use crate::random::tests::Broken;

    /// From the reference vectors of BIP 39 (which use the passphrase "TREZOR"): entropy, words, seed.
    const VECTORS: [(&str, &str, &str); 4] = [
        (
            "00000000000000000000000000000000",
            "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about",
            "c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e5349553\
             1f09a6987599d18264c1e1c92f2cf141630c7a3c4ab7c81b2f001698e7463b04",
        ),
        (
            "7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f7f",
            "legal winner thank year wave sausage worth useful legal winner thank yellow",
            "2e8905819b8723fe2c1d161860e5ee1830318dbf49a83bd451cfb8440c28bd6f\
             a457fe1296106559a3c80937a1c1069be3a3a5bd381ee6260e8d9739fce1f607",
        ),
        (
            "ffffffffffffffffffffffffffffffff",
            "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong",
            "ac27495480225222079d7be181583751e86f571027b0497b5b5d11218e0a8a13\
             332572917f0f8e5a589620c6f15b11c61dee327651a14c34e18231052e48c069",
        ),
        (
            "0000000000000000000000000000000000000000000000000000000000000000",
            "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon \
             abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon art",
            "bda85446c68413707090a52022edd26a1c9462295029f2e60cd7c4f2bbd30971\
             70af7a4d73245cafa9c3cca8d561a7c3de6f5d4a10be8ed2a5e608d68f92fcc8",
        ),
    ];

    /// WK3.
    #[test]
    fn words_and_seeds_match_the_reference_vectors() {
        for (entropy, words, seed) in VECTORS {
            let from_entropy = Seed::from_entropy(&hex::decode(entropy).unwrap()).unwrap();
            assert_eq!(&*from_entropy.words(), words);
            let from_words = Seed::from_words(words).unwrap();
            assert_eq!(hex::encode(from_words.entropy()), entropy);
            assert_eq!(hex::encode(from_words.mnemonic().to_seed_normalized("TREZOR")), seed);
        }
    }

    #[test]
    fn case_and_white_space_do_not_matter_but_words_do() {
        let (entropy, words, _) = VECTORS[0];
        let untidy = format!("\n  {}\t\r\n", words.to_uppercase().replace(' ', "   "));
        assert_eq!(hex::encode(Seed::from_words(&untidy).unwrap().entropy()), entropy);
        let wrong = [
            words.replace("about", "abandon"),
            words.replace("about", "abouts"),
            words.replace(" about", ""),
            format!("{words} about"),
            String::new(),
            "x ".repeat(10_000),
        ];
        for text in &wrong {
            let error = Seed::from_words(text).map(|_| ()).unwrap_err();
            assert_eq!(error.code(), "bad-mnemonic", "{text}");
            assert!(!error.to_string().contains("abouts"), "a typed word was repeated: {error}");
        }
    }

    /// WK1.
    #[test]
    fn without_randomness_there_is_no_wallet() {
        assert_eq!(Seed::generate(&mut Broken).map(|_| ()).unwrap_err().code(), "no-randomness");
    }

    /// WK1.
    #[test]
    fn a_million_seeds_are_distinct() {
        let mut first_halves = std::collections::HashSet::new();
        for _ in 0..1_000_000 {
            let seed = Seed::generate(&mut OsEntropy).unwrap();
            assert_eq!(seed.entropy().len(), 32);
            assert!(first_halves.insert(<[u8; 16]>::try_from(&seed.entropy()[..16]).unwrap()));
        }
    }
}
