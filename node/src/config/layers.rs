//! Where an option's value comes from: flags over environment over file over default.
//!
//! Values are still text here, whatever their source, so that each is parsed and refused in one place.

use super::options::{ENVIRONMENT_SEPARATOR, OPTIONS, OptionSpec, Shape, find, is_option_variable, suggestion};
use super::{BUILT_IN, ConfigError};
use clap::ArgMatches;
use clap::parser::ValueSource;
use setara_core::network::Network;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Bytes of a configuration file: far more than every option at length.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Key of the tables that hold for one network only: `[networks.dev]`.
const NETWORKS_KEY: &str = "networks";

/// Who set an option; a later one beats an earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody.
    Default,
    /// The file.
    File(PathBuf),
    /// The file's table for this network.
    FileNetwork(PathBuf, String),
    /// The environment.
    Environment,
    /// The command line.
    Flag,
}

impl Source {
    /// Whether this source is the stronger of the two.
    pub(super) const fn beats(&self, other: &Self) -> bool {
        self.rank() > other.rank()
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File(_) => 1,
            Self::FileNetwork(..) => 2,
            Self::Environment => 3,
            Self::Flag => 4,
        }
    }

    /// An option as it is written there.
    pub(super) fn name_of(&self, option: &OptionSpec) -> String {
        match self {
            Self::Default | Self::Flag => format!("--{}", option.name),
            Self::Environment => option.environment(),
            Self::File(path) => format!("{}: {}", path.display(), option.name),
            Self::FileNetwork(path, network) => {
                format!("{}: {NETWORKS_KEY}.{network}.{}", path.display(), option.name)
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::FileNetwork(path, network) => write!(f, "{} [{NETWORKS_KEY}.{network}]", path.display()),
            Self::Environment => f.write_str("environment"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// An option's values and who set them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// One for a flag that is on and for a single value; any number for a repeatable option.
    pub values: Vec<String>,
    /// Who set them.
    pub source: Source,
}

/// What every source together says.
#[derive(Debug, Default)]
pub struct Layers {
    settings: BTreeMap<&'static str, Setting>,
    warnings: Vec<String>,
}

impl Layers {
    /// What is allowed, and was probably not meant.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The setting of an option, unless it has only its default.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.settings.get(name)
    }

    /// Sets an option unless a stronger source has.
    fn set(&mut self, option: &'static OptionSpec, values: Vec<String>, source: Source) {
        let rank = source.rank();
        if self.settings.get(option.name).is_none_or(|setting| setting.source.rank() <= rank) {
            self.settings.insert(option.name, Setting { values, source });
        }
    }

    /// Sets an option as if the command line had; a repeatable one takes the value in front of its others.
    pub fn set_flag(&mut self, name: &str, value: String) {
        if let Some(option) = OPTIONS.iter().find(|option| option.name == name) {
            let others = self.settings.get(option.name).filter(|_| matches!(option.shape, Shape::Many(_)));
            let mut values = vec![value];
            values.extend(others.into_iter().flat_map(|setting| setting.values.clone()));
            self.set(option, values, Source::Flag);
        }
    }

    /// Adds the command line.
    pub fn add_flags(&mut self, matches: &ArgMatches) {
        for option in OPTIONS {
            // A seeder's command line does not have them all.
            let known = matches.try_contains_id(option.name).is_ok();
            if !known || matches.value_source(option.name) != Some(ValueSource::CommandLine) {
                continue;
            }
            let values = match option.shape {
                Shape::Flag => vec!["true".to_owned()],
                Shape::One(_) | Shape::Many(_) => {
                    matches.get_many::<String>(option.name).into_iter().flatten().cloned().collect()
                }
            };
            self.set(option, values, Source::Flag);
        }
    }

    /// Adds the environment. Variables with our prefix that mean nothing are refused: they were meant to do something.
    pub fn add_environment(&mut self, variables: impl Iterator<Item = (String, String)>) -> Result<(), ConfigError> {
        for (name, value) in variables {
            if !is_option_variable(&name) {
                continue;
            }
            let Some(option) = OPTIONS.iter().find(|option| option.environment() == name) else {
                let known: Vec<String> = OPTIONS.iter().map(OptionSpec::environment).collect();
                let suggestion = suggestion(&name, known.iter().map(String::as_str));
                return Err(ConfigError::Unknown { place: "environment".into(), name, suggestion });
            };
            let values = match option.shape {
                Shape::Many(_) => value.split(ENVIRONMENT_SEPARATOR).map(str::to_owned).collect(),
                Shape::Flag | Shape::One(_) => vec![value],
            };
            self.set(option, values, Source::Environment);
        }
        Ok(())
    }

    /// Adds a file, whose tables for single networks are returned for [`Self::add_network`].
    pub fn add_file(&mut self, path: &Path) -> Result<NetworkTables, ConfigError> {
        let file_error = |error: std::io::Error| ConfigError::File { path: path.to_owned(), reason: error.to_string() };
        let length = std::fs::metadata(path).map_err(file_error)?.len();
        if length > FILE_BYTES_MAX {
            return Err(file_error(std::io::Error::other(format!("longer than {FILE_BYTES_MAX} bytes"))));
        }
        let text = std::fs::read_to_string(path).map_err(file_error)?;
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::File {
            path: path.to_owned(),
            reason: error.to_string().trim_end().to_owned(),
        })?;
        let networks = table.remove(NETWORKS_KEY);
        self.add_table(table, &Source::File(path.to_owned()))?;
        let networks = match networks {
            None => toml::Table::new(),
            Some(toml::Value::Table(networks)) => networks,
            Some(_) => {
                let reason = format!("{NETWORKS_KEY}: expected tables such as [{NETWORKS_KEY}.dev]");
                return Err(ConfigError::File { path: path.to_owned(), reason });
            }
        };
        Ok(NetworkTables { path: path.to_owned(), networks })
    }

    /// Adds what a file says for one network. The tables of other networks are checked, then ignored.
    pub fn add_network(&mut self, tables: NetworkTables, network: &str) -> Result<(), ConfigError> {
        for (name, value) in tables.networks {
            let source = Source::FileNetwork(tables.path.clone(), name.clone());
            let toml::Value::Table(table) = value else {
                let reason = format!("{NETWORKS_KEY}.{name}: expected a table");
                return Err(ConfigError::File { path: tables.path, reason });
            };
            if let Some(fixed) = ["network", "genesis", "data-dir"].iter().find(|key| table.contains_key(**key)) {
                let reason = format!("{NETWORKS_KEY}.{name}.{fixed}: cannot be set for one network");
                return Err(ConfigError::File { path: tables.path, reason });
            }
            if name == network {
                self.add_table(table, &source)?;
            } else {
                // It may be for a network of the operator's own, which another run names by its genesis file.
                if Network::built_in(&name).is_none() {
                    let near = suggestion(&name, BUILT_IN.into_iter());
                    let name = name.escape_debug();
                    self.warnings.push(format!(
                        "{}: [{NETWORKS_KEY}.{name}] sets nothing: no network of this name is built in{near}, and this run's \
                         is {network}",
                        tables.path.display()
                    ));
                }
                Self::default().add_table(table, &source)?;
            }
        }
        Ok(())
    }

    fn add_table(&mut self, table: toml::Table, source: &Source) -> Result<(), ConfigError> {
        for (key, value) in table {
            // Underscores are what other programs' TOML has; both spellings mean the same here.
            let name = key.replace('_', "-");
            let Some(option) = find(&name).filter(|option| option.name != "config") else {
                let suggestion = suggestion(&name, OPTIONS.iter().map(|option| option.name));
                return Err(ConfigError::Unknown { place: source.to_string(), name: key, suggestion });
            };
            let invalid = |expected: &str| ConfigError::Invalid {
                name: source.name_of(option),
                reason: format!("expected {expected}"),
            };
            let values = match (option.shape, value) {
                (Shape::Flag, toml::Value::Boolean(value)) => vec![value.to_string()],
                (Shape::Flag, _) => return Err(invalid("true or false")),
                (Shape::Many(_), toml::Value::Array(items)) => {
                    let texts: Option<Vec<String>> = items.into_iter().map(scalar).collect();
                    texts.ok_or_else(|| invalid("a list of texts"))?
                }
                (_, value) => vec![scalar(value).ok_or_else(|| invalid("a text or a number"))?],
            };
            self.set(option, values, source.clone());
        }
        Ok(())
    }
}

/// A file's tables for single networks.
#[derive(Debug, Default)]
pub struct NetworkTables {
    path: PathBuf,
    networks: toml::Table,
}

/// A text or a whole number as text.
fn scalar(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}
