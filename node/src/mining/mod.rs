//! Making blocks: templates for miners of every kind, and a miner on this machine's cores.

mod cpu;
mod generate;
mod lanes;
mod template;

#[cfg(test)]
mod tests;

pub use cpu::{Miner, MinerOptions, MinerStats};
pub use generate::{Contents, GenerateError};
pub use lanes::Search;
pub use template::{EXTRANONCE_BYTES, TEMPLATE_VERSION, Template, TemplateError, Templates};
