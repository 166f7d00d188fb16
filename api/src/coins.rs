//! Amounts in JSON: an exact decimal number of coins with eight decimals, as Bitcoin Core prints them.
//!
//! A float never stands between the sen and the digits: `0.00000001` is written so (not `1e-8`) and read back so.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use setara_core::amount::{Amount, AmountParseError};

/// An amount that is a JSON number of coins on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Coins(pub Amount);

impl Coins {
    /// The amount as a JSON number with exactly eight decimals.
    pub fn number(self) -> serde_json::Number {
        serde_json::Number::from_string_unchecked(self.0.to_string())
    }

    /// Reads a JSON number, or a string holding one, as Bitcoin Core's `AmountFromValue` does; an exponent is
    /// expanded exactly.
    pub fn from_text(text: &str) -> Result<Self, AmountParseError> {
        match text.split_once(['e', 'E']) {
            None => text.parse().map(Self),
            Some((mantissa, exponent)) => expand(mantissa, exponent)?.parse().map(Self),
        }
    }
}

/// Largest exponent worth expanding: beyond it no amount but zero fits (2^64 sen has 12 digits of coins).
const EXPONENT_MAX: i32 = 20;

/// `1.5e-7` as `0.00000015`: clients that print floats shortest send exponents.
fn expand(mantissa: &str, exponent: &str) -> Result<String, AmountParseError> {
    if mantissa.starts_with('-') {
        return Err(AmountParseError::Negative);
    }
    let exponent: i32 = exponent.parse().map_err(|_| AmountParseError::Malformed)?;
    if exponent > EXPONENT_MAX {
        return Err(AmountParseError::TooLarge);
    }
    if exponent < -EXPONENT_MAX {
        return Err(AmountParseError::TooPrecise);
    }
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return Err(AmountParseError::Malformed);
    }
    let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    // Where the point stands, counted from the front of `digits`; bounded, so the padding is too.
    let whole_length = i32::try_from(whole.len()).map_err(|_| AmountParseError::TooLarge)?;
    let mut point = whole_length.saturating_add(exponent);
    while point <= 0 {
        digits.insert(0, b'0');
        point = point.saturating_add(1);
    }
    let point = usize::try_from(point).map_err(|_| AmountParseError::TooLarge)?;
    while digits.len() < point {
        digits.push(b'0');
    }
    let fraction = digits.split_off(point);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| AmountParseError::Malformed);
    let (whole, fraction) = (text(digits)?, text(fraction)?);
    let fraction = fraction.trim_end_matches('0');
    Ok(if fraction.is_empty() { whole } else { format!("{whole}.{fraction}") })
}

impl From<Amount> for Coins {
    fn from(amount: Amount) -> Self {
        Self(amount)
    }
}

impl Serialize for Coins {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.number().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Coins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        Self::from_text(number.as_str()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_numbers() {
        for (sen, text) in [(0, "0.00000000"), (1, "0.00000001"), (123_456_789, "1.23456789")] {
            let coins = Coins(Amount::from_sen(sen));
            assert_eq!(serde_json::to_string(&coins).unwrap(), text);
            assert_eq!(serde_json::from_str::<Coins>(text).unwrap(), coins);
        }
        assert!(serde_json::from_str::<Coins>("-1").is_err());
        assert!(serde_json::from_str::<Coins>("0.000000001").is_err());
    }

    #[test]
    fn exponents_are_expanded_without_floats() {
        let ok = [("1e-8", 1), ("1.5E-7", 15), ("0.1e1", 100_000_000), ("12e0", 1_200_000_000), ("0.00e3", 0)];
        for (text, sen) in ok {
            assert_eq!(Coins::from_text(text), Ok(Coins(Amount::from_sen(sen))), "{text}");
        }
        let bad = [
            ("1e-9", AmountParseError::TooPrecise),
            ("1e400", AmountParseError::TooLarge),
            ("1e-400", AmountParseError::TooPrecise),
            ("1e20", AmountParseError::TooLarge),
            ("-1e2", AmountParseError::Negative),
            ("1e", AmountParseError::Malformed),
            (".e1", AmountParseError::Malformed),
            ("1e99999999999", AmountParseError::Malformed),
        ];
        for (text, error) in bad {
            assert_eq!(Coins::from_text(text), Err(error), "{text}");
        }
    }
}
