//! What the `logging` method sees and changes: which parts of the node log in detail.

use super::error::RpcError;
use crate::telemetry::{Logging, PARTS};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The log's filter, by part.
#[derive(Clone)]
pub struct LogControl {
    /// The running log; `None` where nobody started one (tests): then changes are kept but change nothing.
    logging: Option<Logging>,
    base: String,
    detailed: Arc<Mutex<BTreeMap<&'static str, bool>>>,
    path: String,
}

impl LogControl {
    /// Over the running log, whose file is `path` (empty: none).
    pub fn new(logging: Option<Logging>, path: String) -> Self {
        let base = logging.as_ref().map(Logging::filter).unwrap_or_default();
        let verbose = |level: &str| matches!(level.to_ascii_lowercase().as_str(), "debug" | "trace");
        let mut everywhere = false;
        let mut parts = BTreeMap::new();
        for directive in base.split(',').map(str::trim) {
            match directive.split_once('=') {
                None => everywhere = verbose(directive),
                Some((part, level)) => {
                    parts.insert(part.to_owned(), verbose(level));
                }
            }
        }
        let detailed = PARTS.iter().map(|part| (*part, parts.get(*part).copied().unwrap_or(everywhere))).collect();
        Self { logging, base, detailed: Arc::new(Mutex::new(detailed)), path }
    }

    /// The log file; empty when there is none.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Each part and whether it logs in detail.
    pub fn parts(&self) -> BTreeMap<&'static str, bool> {
        self.detailed.lock().clone()
    }

    /// Turns detail on for `include`, then off for `exclude`; `all` means every part.
    pub fn change(&self, include: &[&str], exclude: &[&str]) -> Result<(), RpcError> {
        let mut detailed = self.detailed.lock();
        let mut changed = detailed.clone();
        for (names, on) in [(include, true), (exclude, false)] {
            for name in names {
                match *name {
                    "all" | "1" => changed.values_mut().for_each(|value| *value = on),
                    "none" | "0" if on => changed.values_mut().for_each(|value| *value = false),
                    name => match changed.get_mut(name) {
                        Some(value) => *value = on,
                        None => {
                            let known = PARTS.join(", ");
                            let message = format!("unknown logging category {name:.40}; there are: {known}");
                            return Err(RpcError::parameter(message));
                        }
                    },
                }
            }
        }
        if changed == *detailed {
            return Ok(());
        }
        if let Some(logging) = &self.logging {
            // Later directives win over the operator's own for the same part.
            let mut filter = self.base.clone();
            for (part, on) in &changed {
                filter.push_str(&format!(",{part}={}", if *on { "debug" } else { "info" }));
            }
            logging.set_filter(&filter).map_err(RpcError::misc)?;
        }
        *detailed = changed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_turned_on_and_off() {
        let control = LogControl::new(None, String::new());
        assert!(control.parts().values().all(|on| !on));
        control.change(&["all"], &["rpc"]).unwrap();
        assert!(control.parts()["chain"] && !control.parts()["rpc"]);
        assert!(control.change(&["nonsense"], &[]).is_err());
        control.change(&["none"], &[]).unwrap();
        assert!(control.parts().values().all(|on| !on));
    }
}
