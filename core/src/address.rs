//! Addresses: the hash of a spend policy, and its bech32m text form.
//!
//! The text is `prefix 1 version data checksum`: the network's prefix, one 5-bit version symbol (0), 32 bytes in 52
//! symbols, six of checksum (BIP 350); at most 90 characters, inside which any one to four mistyped characters are
//! always noticed. Lower case is written; all upper case is read as well, since QR codes are smaller in it.

use crate::codec::{Codec, CodecError, Reader, Writer, raw_codec};
use crate::hash::Hash256;
use crate::limits::ADDRESS_PREFIX_CHARS_MAX;
use bech32::primitives::decode::{CheckedHrpstring, UncheckedHrpstring};
use bech32::primitives::iter::{ByteIterExt, Fe32IterExt};
use bech32::{Bech32m, Fe32, Hrp};
use core::{fmt, str::FromStr};

/// Characters of an address: the length for which BIP 173 guarantees that four errors are noticed.
const ADDRESS_CHARS_MAX: usize = 90;
/// The only version of addresses so far.
const VERSION: Fe32 = Fe32::Q;
/// Symbols of the data part without its checksum: the version, then 32 bytes in groups of five bits.
const DATA_SYMBOLS: usize = 1 + 52;

/// What a coin is locked to: `tagged("setara/policy", ..)` of a spend policy. Not a hash that prints reversed: its
/// text is the network's bech32m form, or plain hex in internal order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address([u8; 32]);

impl Address {
    /// The address of no policy: genesis pays it when there are no allocations.
    pub const ZERO: Self = Self([0; 32]);

    /// From raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<Hash256> for Address {
    fn from(hash: Hash256) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

raw_codec!(Address, 32);

/// What a network's addresses start with: 1 to 30 lower-case letters and digits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text that cannot be a [`Prefix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {ADDRESS_PREFIX_CHARS_MAX} lower-case letters and digits")]
pub struct PrefixError;

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let fits = (1..=ADDRESS_PREFIX_CHARS_MAX).contains(&text.len());
        let plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if fits && plain { Ok(Self(text.to_owned())) } else { Err(PrefixError) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why a text is no address of this network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not of the form `prefix1symbols` in one case.
    #[error("not an address: expected text like {expected}1q...")]
    Malformed {
        /// This network's prefix.
        expected: String,
    },
    /// Of the right form, but its checksum does not match.
    #[error("mistyped address: its checksum does not match")]
    Checksum,
    /// A sound address of another network.
    #[error("an address of another network: it starts with {got}1, those of this network with {expected}1")]
    WrongPrefix {
        /// The text's prefix.
        got: String,
        /// This network's prefix.
        expected: String,
    },
    /// A version symbol other than 0.
    #[error("address version {0} is newer than this program")]
    Version(u8),
    /// Anything but 32 bytes of data, padded with zero bits.
    #[error("not an address: its data is not 32 bytes")]
    Length,
}

impl Address {
    /// The text form on the network of `prefix`.
    pub fn to_text(&self, prefix: &Prefix) -> String {
        // A prefix is always a valid human-readable part; were it not, there would be no text, never a wrong one.
        let Ok(hrp) = Hrp::parse(prefix.as_str()) else { return String::new() };
        let data = self.0.iter().copied().bytes_to_fes();
        data.with_checksum::<Bech32m>(&hrp).with_witness_version(VERSION).chars().collect()
    }

    /// The address that `text` means on the network of `prefix`.
    pub fn from_text(text: &str, prefix: &Prefix) -> Result<Self, AddressError> {
        let malformed = || AddressError::Malformed { expected: prefix.to_string() };
        if text.len() > ADDRESS_CHARS_MAX {
            return Err(malformed());
        }
        let unchecked = UncheckedHrpstring::new(text).map_err(|_| malformed())?;
        let checked: CheckedHrpstring<'_> =
            unchecked.validate_and_remove_checksum::<Bech32m>().map_err(|_| AddressError::Checksum)?;
        let got = checked.hrp().to_lowercase();
        if got != prefix.as_str() {
            return Err(AddressError::WrongPrefix { got, expected: prefix.to_string() });
        }
        let mut symbols = checked.fe32_iter();
        match symbols.next() {
            Some(VERSION) => {}
            Some(other) => return Err(AddressError::Version(other.to_u8())),
            None => return Err(AddressError::Length),
        }
        if checked.fe32_iter().count() != DATA_SYMBOLS {
            return Err(AddressError::Length);
        }
        let bytes: Vec<u8> = symbols.fes_to_bytes().collect();
        let address = Self(bytes.try_into().map_err(|_| AddressError::Length)?);
        // One text for one address: the padding bits must be the zeros that we would write.
        if address.to_text(prefix) == text.to_ascii_lowercase() { Ok(address) } else { Err(AddressError::Length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::sha256;

    const CHARSET: &[u8] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    /// A seeded source of numbers for sampling: SHA-256 of a counter.
    struct Samples(u64);

    impl Samples {
        fn below(&mut self, bound: usize) -> usize {
            self.0 += 1;
            let digest = sha256(&self.0.to_le_bytes());
            (u64::from_le_bytes(digest[..8].try_into().unwrap()) % bound as u64) as usize
        }
    }

    #[test]
    fn text_round_trips_in_both_cases_within_90_characters() {
        for (chosen, characters) in [("set", 63), ("dset", 64), ("1", 61), (&*"z9".repeat(15), 90)] {
            let prefix = prefix(chosen);
            for byte in 0..=255 {
                let address = Address::from_bytes(sha256(&[byte]));
                let text = address.to_text(&prefix);
                assert_eq!(text.len(), characters);
                assert_eq!(Address::from_text(&text, &prefix), Ok(address));
                assert_eq!(Address::from_text(&text.to_ascii_uppercase(), &prefix), Ok(address));
            }
        }
    }

    #[test]
    fn the_zero_address_is_pinned() {
        let golden = "set1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqlnu0ax";
        let text = Address::ZERO.to_text(&prefix("set"));
        assert_eq!(text, golden);
        assert_eq!(Address::from_text(&text, &prefix("set")), Ok(Address::ZERO));
    }

    /// The vectors of BIP 350: valid ones are accepted as far as the checksum, invalid ones refused before it.
    #[test]
    fn bip350_vectors() {
        let valid = [
            "A1LQFN3A",
            "a1lqfn3a",
            "an83characterlonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11sg7hg6",
            "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx",
            "11llllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllludsr8",
            "split1checkupstagehandshakeupstreamerranterredcaperredlc445v",
            "?1v759aa",
        ];
        for text in valid {
            let error = Address::from_text(text, &prefix("set")).unwrap_err();
            assert!(matches!(error, AddressError::WrongPrefix { .. }), "{text}: {error}");
        }
        let invalid = [
            "\u{20}1xj0phk",
            "\u{7f}1g6xzxy",
            "\u{80}1vctc34",
            "an84characterslonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11d6pts4",
            "qyrz8wqd2c9m",
            "1qyrz8wqd2c9m",
            "y1b0jsk6g",
            "lt1igcx5c0",
            "in1muywd",
            "mm1crxm3i",
            "au1s5cgom",
            "M1VUXWEZ",
            "16plkw9",
            "1p2gdwpf",
        ];
        for text in invalid {
            let error = Address::from_text(text, &prefix("set")).unwrap_err();
            assert!(matches!(error, AddressError::Malformed { .. } | AddressError::Checksum), "{text}: {error}");
        }
        // A bech32 (not bech32m) checksum is a wrong checksum.
        assert_eq!(Address::from_text("a12uel5l", &prefix("a")), Err(AddressError::Checksum));
    }

    #[test]
    fn each_refusal_says_what_is_wrong() {
        let address = Address::from_bytes([7; 32]);
        let (set, dset) = (prefix("set"), prefix("dset"));
        let text = address.to_text(&dset);
        let error = Address::from_text(&text, &set).unwrap_err();
        assert_eq!(error, AddressError::WrongPrefix { got: "dset".into(), expected: "set".into() });
        assert!(error.to_string().contains("starts with dset1, those of this network with set1"));

        let hrp = Hrp::parse("set").unwrap();
        let with = |version: Fe32, bytes: &[u8]| -> String {
            let data = bytes.iter().copied().bytes_to_fes();
            data.with_checksum::<Bech32m>(&hrp).with_witness_version(version).chars().collect()
        };
        assert_eq!(Address::from_text(&with(Fe32::P, &[7; 32]), &set), Err(AddressError::Version(1)));
        assert_eq!(Address::from_text(&with(Fe32::L, &[7; 32]), &set), Err(AddressError::Version(31)));
        assert_eq!(Address::from_text(&with(Fe32::Q, &[7; 31]), &set), Err(AddressError::Length));
        assert_eq!(Address::from_text(&with(Fe32::Q, &[7; 33]), &set), Err(AddressError::Length));
        let empty: String = core::iter::empty().with_checksum::<Bech32m>(&hrp).chars().collect();
        assert_eq!(Address::from_text(&empty, &set), Err(AddressError::Length));
        let mut symbols: Vec<Fe32> = core::iter::once(Fe32::Q).chain([7; 32].into_iter().bytes_to_fes()).collect();
        *symbols.last_mut().unwrap() = Fe32::L;
        let padded: String = symbols.into_iter().with_checksum::<Bech32m>(&hrp).chars().collect();
        assert_eq!(Address::from_text(&padded, &set), Err(AddressError::Length));

        let good = address.to_text(&set);
        let mixed = good.replacen("set1q", "set1Q", 1);
        for text in ["", "set", "set1", "1", "köln1q", &mixed, &good[..62], &format!("{good}q"), &format!(" {good}")] {
            let error = Address::from_text(text, &set).unwrap_err();
            assert!(matches!(error, AddressError::Malformed { .. } | AddressError::Checksum), "{text:?}: {error}");
        }
    }

    #[test]
    fn prefixes_are_short_and_plain() {
        for bad in ["", "Set", "se-t", "sét", "set ", &"a".repeat(31)] {
            assert_eq!(bad.parse::<Prefix>(), Err(PrefixError), "{bad:?}");
        }
        assert_eq!("a".repeat(30).parse::<Prefix>().unwrap().as_str(), "a".repeat(30));
    }

    /// WK12.
    #[test]
    fn one_to_four_mistyped_characters_never_pass() {
        let prefix = prefix("set");
        let text = Address::from_bytes(sha256(b"WK12")).to_text(&prefix);
        let first = prefix.as_str().len() + 1;
        let replace = |positions: &[(usize, u8)]| {
            let mut bytes = text.clone().into_bytes();
            for (position, character) in positions {
                bytes[*position] = *character;
            }
            String::from_utf8(bytes).unwrap()
        };
        // Every single error, any printable character.
        for position in 0..text.len() {
            for character in 33..127u8 {
                if character != text.as_bytes()[position] {
                    let mistyped = replace(&[(position, character)]);
                    assert!(Address::from_text(&mistyped, &prefix).is_err(), "{mistyped}");
                }
            }
        }
        // Samples of one to four errors among valid symbols, where only the checksum can tell.
        let mut samples = Samples(0);
        for _ in 0..200_000 {
            let mut errors: Vec<(usize, u8)> = Vec::new();
            let wanted = 1 + samples.below(4);
            while errors.len() < wanted {
                let position = first + samples.below(text.len() - first);
                let character = CHARSET[samples.below(CHARSET.len())];
                let fresh = errors.iter().all(|(other, _)| *other != position);
                if fresh && character != text.as_bytes()[position] {
                    errors.push((position, character));
                }
            }
            let mistyped = replace(&errors);
            assert!(Address::from_text(&mistyped, &prefix).is_err(), "{mistyped}");
        }
    }

    /// Swapped neighbours, a doubled and a lost character: what fingers do.
    #[test]
    fn slips_of_the_finger_never_pass() {
        let prefix = prefix("set");
        let text = Address::from_bytes(sha256(b"slip")).to_text(&prefix);
        for position in 0..text.len() - 1 {
            let (head, tail) = text.split_at(position);
            let mut swapped = text.clone().into_bytes();
            swapped.swap(position, position + 1);
            let swapped = String::from_utf8(swapped).unwrap();
            let slips = [swapped, format!("{head}{}{tail}", &tail[..1]), format!("{head}{}", &tail[1..])];
            for slip in slips.iter().filter(|slip| **slip != text) {
                assert!(Address::from_text(slip, &prefix).is_err(), "{slip}");
            }
        }
    }
}
