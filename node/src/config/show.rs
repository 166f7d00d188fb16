//! What `setara-node config` prints: every option, its value, and where that was set.

use super::memory::SHARES;
use super::options::{OPTIONS, Shape};
use super::parse::{self, HIDDEN};
use super::{Config, Layers, Source, first};
use std::fmt::Write as _;

/// Every option's value and source, in the form of the file.
pub(super) fn effective(config: &Config, layers: &Layers) -> String {
    let mut text = format!("# Network {}, data in {}\n", config.network.name, config.data_dir.display());
    for warning in &config.warnings {
        let _ = writeln!(text, "# Warning: {warning}");
    }
    let mut group = "";
    for option in OPTIONS {
        if option.group != group {
            group = option.group;
            let _ = write!(text, "\n# {group}\n");
        }
        let setting = layers.get(option.name);
        let shown = |value: &str| {
            let value = if option.is_secret() { HIDDEN } else { value };
            toml::Value::String(value.to_owned()).to_string()
        };
        let line = match (option.shape, setting) {
            (Shape::Flag, setting) => {
                let on = setting.is_some_and(|setting| parse::boolean(first(setting)).unwrap_or(false));
                format!("{} = {on}", option.name)
            }
            (Shape::One(_), Some(setting)) => {
                format!("{} = {}", option.name, shown(first(setting)))
            }
            (Shape::Many(_), Some(setting)) => {
                let values: Vec<String> = setting.values.iter().map(|value| shown(value)).collect();
                format!("{} = [{}]", option.name, values.join(", "))
            }
            (Shape::One(_), None) if option.name == "data-dir" => {
                format!("# {} = {}", option.name, shown(&config.data_dir.to_string_lossy()))
            }
            (Shape::One(_), None) if option.name == "rpc-listen" => {
                format!("# {} = {}", option.name, shown(&config.rpc.listen.to_string()))
            }
            (Shape::One(_), None) if SHARES.contains(&option.name) && config.shares.budget.is_some() => {
                format!("# {} has its share of max-memory", option.name)
            }
            (Shape::One(_), None) if option.default.is_empty() => format!("# {} is not set", option.name),
            (Shape::One(_), None) => format!("# {} = {}", option.name, option.default),
            (Shape::Many(_), None) => format!("# {} = []", option.name),
        };
        let source = setting.map_or(&Source::Default, |setting| &setting.source);
        let _ = writeln!(text, "{line:<48} # {source}");
    }
    text
}
