//! `genesis.json`: reading it strictly and writing it.
//!
//! Every field must be there, none may be unknown or stand twice, and every complaint names its field with its path.
//! Amounts are decimal strings of coins, targets are eight hexadecimal digits, addresses have the network's prefix.

use super::{Difficulty, NetworkError, Parameters, Upgrade};
use crate::address::{Address, Prefix};
use crate::amount::Amount;
use crate::height::Height;
use crate::pow::{CompactBits, Target};
use crate::transaction::Output;
use core::fmt;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Bytes of a genesis file: a full coinbase of allocations takes about a third of this.
const FILE_BYTES_MAX: usize = 1 << 20;
/// Characters of a field's name that an error repeats.
const NAME_CHARS_SHOWN_MAX: usize = 64;

/// A JSON object's fields in order, values not yet parsed.
struct Fields {
    path: String,
    fields: Vec<(String, Box<RawValue>)>,
}

/// Collects an object's fields, duplicates included, for [`Fields`].
struct Pairs(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

impl Fields {
    fn parse(text: &str, path: &str) -> Result<Self, NetworkError> {
        let Pairs(fields) = serde_json::from_str(text).map_err(|error| match path {
            "" => NetworkError::Syntax(error.to_string()),
            _ => NetworkError::invalid(path.trim_end_matches('.'), "expected an object"),
        })?;
        let mut seen = std::collections::BTreeSet::new();
        for (name, _) in &fields {
            if !seen.insert(name) {
                return Err(NetworkError::Duplicate(shown(path, name)));
            }
        }
        Ok(Self { path: path.to_owned(), fields })
    }

    fn raw(&mut self, name: &str) -> Result<Box<RawValue>, NetworkError> {
        let index = self.fields.iter().position(|(field, _)| field == name);
        let index = index.ok_or_else(|| NetworkError::Missing(shown(&self.path, name)))?;
        Ok(self.fields.swap_remove(index).1)
    }

    /// The field as `T`; `expected` says what that means to a person.
    fn take<T: DeserializeOwned>(&mut self, name: &str, expected: &str) -> Result<T, NetworkError> {
        let raw = self.raw(name)?;
        let value = serde_json::from_str(raw.get());
        value.map_err(|_| NetworkError::invalid(shown(&self.path, name), format!("expected {expected}")))
    }

    fn u32(&mut self, name: &str) -> Result<u32, NetworkError> {
        self.take(name, "a whole number from 0 to 4294967295")
    }

    fn text(&mut self, name: &str) -> Result<String, NetworkError> {
        self.take(name, "a text")
    }

    fn amount(&mut self, name: &str) -> Result<Amount, NetworkError> {
        let text: String = self.take(name, "coins as a decimal text such as \"5.00000000\"")?;
        text.parse::<Amount>().map_err(|error| NetworkError::invalid(shown(&self.path, name), error.to_string()))
    }

    fn bits(&mut self, name: &str) -> Result<CompactBits, NetworkError> {
        const EXPECTED: &str = "eight lower-case hexadecimal digits";
        let text: String = self.take(name, EXPECTED)?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let bits = u32::from_str_radix(&text, 16).ok().filter(|_| digits && text.len() == 8);
        let invalid = || NetworkError::invalid(shown(&self.path, name), format!("expected {EXPECTED}"));
        bits.map(CompactBits::new).ok_or_else(invalid)
    }

    /// Each item of a list with its path.
    fn list(&mut self, name: &str) -> Result<Vec<(String, Box<RawValue>)>, NetworkError> {
        let items: Vec<Box<RawValue>> = self.take(name, "a list")?;
        let path = shown(&self.path, name);
        Ok(items.into_iter().enumerate().map(|(index, item)| (format!("{path}[{index}]"), item)).collect())
    }

    /// Each item of a list of objects.
    fn objects(&mut self, name: &str) -> Result<Vec<Self>, NetworkError> {
        self.list(name)?.into_iter().map(|(path, item)| Self::parse(item.get(), &format!("{path}."))).collect()
    }

    /// Refuses what has not been taken.
    fn end(self) -> Result<(), NetworkError> {
        match self.fields.first() {
            None => Ok(()),
            Some((name, _)) => Err(NetworkError::Unknown(shown(&self.path, name))),
        }
    }
}

/// A field's path for an error: names come from the file, so they are escaped and cut.
fn shown(path: &str, name: &str) -> String {
    let name: String = name.chars().take(NAME_CHARS_SHOWN_MAX).flat_map(char::escape_debug).collect();
    format!("{path}{name}")
}

/// The parameters that a file states, each of the right type; ranges are not judged here.
pub(super) fn read(text: &str) -> Result<Parameters, NetworkError> {
    if text.len() > FILE_BYTES_MAX {
        return Err(NetworkError::Syntax(format!("longer than {FILE_BYTES_MAX} bytes")));
    }
    let mut fields = Fields::parse(text, "")?;
    let prefix: Prefix =
        fields.text("prefix")?.parse().map_err(|error| NetworkError::invalid("prefix", format!("{error}")))?;
    let limit: Target =
        fields.bits("limit")?.to_target().map_err(|error| NetworkError::invalid("limit", error.to_string()))?;
    let difficulty = match (fields.text("difficulty")?.as_str(), fields.u32("half_life_seconds")?) {
        ("fixed", 0) => Difficulty::Fixed,
        ("fixed", _) => return Err(NetworkError::invalid("half_life_seconds", "expected 0, as difficulty is fixed")),
        ("asert", half_life) => Difficulty::Asert { half_life },
        _ => return Err(NetworkError::invalid("difficulty", "expected \"asert\" or \"fixed\"")),
    };
    let parameters = Parameters {
        name: fields.text("name")?,
        ticker: fields.text("ticker")?,
        spacing: fields.u32("spacing_seconds")?,
        difficulty,
        limit,
        max_future_seconds: fields.u32("max_future_seconds")?,
        max_block_bytes: fields.take("max_block_bytes", "a whole number of bytes")?,
        initial_subsidy: fields.amount("initial_subsidy")?,
        halving_interval: fields.u32("halving_interval")?,
        supply_cap: fields.amount("supply_cap")?,
        maturity: fields.u32("maturity")?,
        allocations: read_allocations(&mut fields, &prefix)?,
        message: fields.text("message")?,
        genesis_time: fields.u32("genesis_time")?,
        genesis_bits: fields.bits("genesis_bits")?,
        genesis_nonce: fields.u32("genesis_nonce")?,
        p2p_port: fields.take("p2p_port", "a port number")?,
        bootstrap: read_bootstrap(&mut fields)?,
        upgrades: read_upgrades(&mut fields)?,
        prefix,
    };
    fields.end()?;
    Ok(parameters)
}

fn read_allocations(fields: &mut Fields, prefix: &Prefix) -> Result<Vec<Output>, NetworkError> {
    let mut allocations = Vec::new();
    for mut item in fields.objects("allocations")? {
        let text = item.text("address")?;
        let address = Address::from_text(&text, prefix)
            .map_err(|error| NetworkError::invalid(shown(&item.path, "address"), error.to_string()))?;
        allocations.push(Output { amount: item.amount("amount")?, address });
        item.end()?;
    }
    Ok(allocations)
}

fn read_bootstrap(fields: &mut Fields) -> Result<Vec<String>, NetworkError> {
    let items = fields.list("bootstrap")?.into_iter();
    let text = |(path, item): (String, Box<RawValue>)| {
        serde_json::from_str(item.get()).map_err(|_| NetworkError::invalid(path, "expected a text"))
    };
    items.map(text).collect()
}

fn read_upgrades(fields: &mut Fields) -> Result<Vec<Upgrade>, NetworkError> {
    let mut upgrades = Vec::new();
    for mut item in fields.objects("upgrades")? {
        upgrades.push(Upgrade { name: item.text("name")?, height: Height::new(item.u32("height")?) });
        item.end()?;
    }
    Ok(upgrades)
}

/// The file's fields in the order people read them.
#[derive(Serialize)]
struct File<'a> {
    name: &'a str,
    ticker: &'a str,
    prefix: &'a str,
    spacing_seconds: u32,
    difficulty: &'static str,
    half_life_seconds: u32,
    limit: String,
    max_future_seconds: u32,
    max_block_bytes: u64,
    initial_subsidy: Amount,
    halving_interval: u32,
    supply_cap: Amount,
    maturity: u32,
    allocations: Vec<FileAllocation>,
    message: &'a str,
    genesis_time: u32,
    genesis_bits: String,
    genesis_nonce: u32,
    p2p_port: u16,
    bootstrap: &'a [String],
    upgrades: Vec<FileUpgrade<'a>>,
}

#[derive(Serialize)]
struct FileAllocation {
    address: String,
    amount: Amount,
}

#[derive(Serialize)]
struct FileUpgrade<'a> {
    name: &'a str,
    height: Height,
}

/// The file, ending in a line break.
pub(super) fn write(parameters: &Parameters) -> String {
    let bits = |bits: CompactBits| format!("{:08x}", bits.get());
    let (difficulty, half_life_seconds) = match parameters.difficulty {
        Difficulty::Fixed => ("fixed", 0),
        Difficulty::Asert { half_life } => ("asert", half_life),
    };
    let allocation =
        |output: &Output| FileAllocation { address: output.address.to_text(&parameters.prefix), amount: output.amount };
    let file = File {
        name: &parameters.name,
        ticker: &parameters.ticker,
        prefix: parameters.prefix.as_str(),
        spacing_seconds: parameters.spacing,
        difficulty,
        half_life_seconds,
        limit: bits(parameters.limit.to_compact()),
        max_future_seconds: parameters.max_future_seconds,
        max_block_bytes: parameters.max_block_bytes,
        initial_subsidy: parameters.initial_subsidy,
        halving_interval: parameters.halving_interval,
        supply_cap: parameters.supply_cap,
        maturity: parameters.maturity,
        allocations: parameters.allocations.iter().map(allocation).collect(),
        message: &parameters.message,
        genesis_time: parameters.genesis_time,
        genesis_bits: bits(parameters.genesis_bits),
        genesis_nonce: parameters.genesis_nonce,
        p2p_port: parameters.p2p_port,
        bootstrap: &parameters.bootstrap,
        upgrades: parameters
            .upgrades
            .iter()
            .map(|upgrade| FileUpgrade { name: &upgrade.name, height: upgrade.height })
            .collect(),
    };
    // Texts, numbers and lists of them always serialise.
    let mut json = serde_json::to_string_pretty(&file).unwrap_or_default();
    json.push('\n');
    json
}
