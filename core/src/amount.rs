//! Amounts of money, in sen: the smallest unit. 1 coin = 100,000,000 sen.
//!
//! There is no `+` or `-`: every operation is checked and answers `None` on overflow (CVE-2010-5139). No floats.

use core::{fmt, str::FromStr};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Sen in one coin.
pub const SEN_PER_COIN: u64 = 100_000_000;
/// Decimal places of a coin.
const DECIMALS: usize = 8;

/// An amount in sen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(u64);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From sen.
    pub const fn from_sen(sen: u64) -> Self {
        Self(sen)
    }

    /// From whole coins; `None` if it does not fit.
    pub const fn from_coins(coins: u64) -> Option<Self> {
        match coins.checked_mul(SEN_PER_COIN) {
            Some(sen) => Some(Self(sen)),
            None => None,
        }
    }

    /// In sen.
    pub const fn sen(self) -> u64 {
        self.0
    }

    /// Whether this is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, unless it overflows.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sen) => Some(Self(sen)),
            None => None,
        }
    }

    /// The difference, unless it would be negative.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(sen) => Some(Self(sen)),
            None => None,
        }
    }

    /// The sum of all, unless it overflows.
    pub fn checked_sum(amounts: impl IntoIterator<Item = Self>) -> Option<Self> {
        amounts.into_iter().try_fold(Self::ZERO, Self::checked_add)
    }
}

impl fmt::Display for Amount {
    /// Coins with exactly eight decimals, as Bitcoin's JSON-RPC prints them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08}", self.0 / SEN_PER_COIN, self.0 % SEN_PER_COIN)
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountParseError {
    /// A minus sign.
    #[error("an amount cannot be negative")]
    Negative,
    /// More than eight decimals.
    #[error("an amount has at most 8 decimals")]
    TooPrecise,
    /// Larger than 2^64 sen.
    #[error("the amount is too large")]
    TooLarge,
    /// Anything else that is not plain decimal digits with at most one point.
    #[error("expected a decimal number of coins such as 1.5")]
    Malformed,
}

impl FromStr for Amount {
    type Err = AmountParseError;

    /// Reads plain decimal coins (`12`, `0.5`, `12.00000001`); no sign, exponent, or digit grouping.
    fn from_str(text: &str) -> Result<Self, AmountParseError> {
        if text.starts_with('-') {
            return Err(AmountParseError::Negative);
        }
        let (whole, fraction) = match text.split_once('.') {
            Some((_, "")) => return Err(AmountParseError::Malformed),
            Some((whole, fraction)) => (whole, fraction),
            None => (text, ""),
        };
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) {
            return Err(AmountParseError::Malformed);
        }
        if fraction.len() > DECIMALS {
            return Err(AmountParseError::TooPrecise);
        }
        let whole: u64 = whole.parse().map_err(|_| AmountParseError::TooLarge)?;
        let fraction: u64 = format!("{fraction:0<DECIMALS$}").parse().map_err(|_| AmountParseError::Malformed)?;
        whole
            .checked_mul(SEN_PER_COIN)
            .and_then(|sen| sen.checked_add(fraction))
            .map(Self)
            .ok_or(AmountParseError::TooLarge)
    }
}

impl Serialize for Amount {
    /// A decimal string of coins: no reader can round it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_exact_and_strict() {
        let ok = [
            ("0", 0),
            ("0.00000001", 1),
            ("1", SEN_PER_COIN),
            ("21000000", 2_100_000_000_000_000),
            ("0.5", 50_000_000),
        ];
        for (text, sen) in ok {
            assert_eq!(text.parse::<Amount>(), Ok(Amount(sen)), "{text}");
        }
        let bad = [
            ("-1", AmountParseError::Negative),
            ("0.000000001", AmountParseError::TooPrecise),
            ("184467440738", AmountParseError::TooLarge),
            ("99999999999999999999999", AmountParseError::TooLarge),
            ("", AmountParseError::Malformed),
            ("1.", AmountParseError::Malformed),
            (".5", AmountParseError::Malformed),
            ("1e3", AmountParseError::Malformed),
            ("+1", AmountParseError::Malformed),
            ("1,000", AmountParseError::Malformed),
            ("1.2.3", AmountParseError::Malformed),
            ("١", AmountParseError::Malformed),
        ];
        for (text, error) in bad {
            assert_eq!(text.parse::<Amount>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arithmetic_agrees_with_u128(values in proptest::collection::vec(prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 0..6)) {
            let exact: u128 = values.iter().map(|value| u128::from(*value)).sum();
            let sum = Amount::checked_sum(values.iter().map(|value| Amount(*value)));
            prop_assert_eq!(sum.map(|sum| u128::from(sum.sen())), u64::try_from(exact).ok().map(u128::from));
        }

        #[test]
        fn text_round_trips(sen in any::<u64>()) {
            prop_assert_eq!(Amount(sen).to_string().parse::<Amount>(), Ok(Amount(sen)));
        }
    }
}
