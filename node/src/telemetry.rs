//! The log: one line per event, to standard error and to a file that cannot fill the disk.
//!
//! - A line is text or a JSON object. Control characters of whatever is logged are escaped, so no peer, file or caller can
//!   forge a line or steer a terminal.
//! - Each place in the code that logs may fill 1 MiB an hour; what is beyond is dropped and counted (CVE-2025-54604).
//! - The file is rotated at 100 MiB; five old ones are kept.
//! - What is logged is a filter such as `info,mempool=debug`, and can be changed while the node runs.
//! - On a terminal one line below the log says how far the node is, and is redrawn in place (`screen.rs`).
//!
//! A log line is never a verdict: nothing reads the log back, and a log that cannot be written stops nothing.

mod file;
mod format;
mod limit;
pub mod screen;

use crate::clock::{Clock, civil_time};
use file::RotatingFile;
use limit::{CallSites, Verdict};
use parking_lot::Mutex;
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};

/// What is logged when nothing is said.
pub const FILTER_DEFAULT: &str = "info";
/// The parts of the node that a filter can name: its top-level modules.
pub const PARTS: [&str; 10] =
    ["chain", "config", "index", "mempool", "mining", "node", "p2p", "rpc", "store", "telemetry"];
/// Libraries log less than we do by default.
const LIBRARIES: [&str; 4] = ["hyper=warn", "hyper_util=warn", "jsonrpsee_server=warn", "tower=warn"];
/// What every module path of this crate starts with; lines leave it out.
const CRATE: &str = "setara_node";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `2026-11-01T00:00:00Z INFO chain: message key=value`
    #[default]
    Text,
    /// One JSON object.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected text or json".into()),
        }
    }
}

/// Confirms that a filter means something.
pub fn check_filter(text: &str) -> Result<(), String> {
    parse_filter(text).map(drop)
}

/// `info,mempool=debug` with the parts of this node as `tracing` knows them.
fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    let mut directives: Vec<String> = LIBRARIES.iter().map(|library| (*library).to_owned()).collect();
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        let (part, level) = match directive.split_once('=') {
            Some((part, level)) => (Some(part), level),
            None => (None, directive),
        };
        let level = level.to_ascii_lowercase();
        if !["off", "error", "warn", "info", "debug", "trace"].contains(&level.as_str()) {
            let level = level.escape_debug();
            return Err(format!("`{level}` is no level: expected error, warn, info, debug or trace"));
        }
        directives.push(match part {
            None => level,
            Some(part) if PARTS.contains(&part) => format!("{CRATE}::{part}={level}"),
            Some(part) if part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte)) => {
                format!("{part}={level}")
            }
            Some(part) => return Err(format!("`{}` is no part of the node", part.escape_debug())),
        });
    }
    EnvFilter::try_new(directives.join(",")).map_err(|error| error.to_string())
}

/// The running log; dropping it changes nothing.
#[derive(Clone)]
pub struct Logging {
    reload: Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
    filter: Arc<Mutex<String>>,
}

impl Logging {
    /// The filter in force, as it was given.
    pub fn filter(&self) -> String {
        self.filter.lock().clone()
    }

    /// Logs by another filter from now on.
    pub fn set_filter(&self, text: &str) -> Result<(), String> {
        let filter = parse_filter(text)?;
        let mut current = self.filter.lock();
        (self.reload)(filter)?;
        text.clone_into(&mut current);
        Ok(())
    }
}

/// Starts the log of this process: to standard error, and to `file` if there is one. Once per process.
pub fn start(
    format: LogFormat,
    filter: &str,
    file: Option<&Path>,
    clock: Arc<dyn Clock>,
) -> Result<Logging, io::Error> {
    let file = file.map(RotatingFile::open).transpose()?;
    let sink = Sink { format, clock, call_sites: Mutex::default(), to_stderr: true, file: Mutex::new(file) };
    let directives = parse_filter(filter).map_err(io::Error::other)?;
    let (directives, handle) = reload::Layer::new(directives);
    tracing_subscriber::registry().with(directives).with(sink).try_init().map_err(io::Error::other)?;
    log_panics();
    if format == LogFormat::Text {
        screen::start();
    }
    Ok(Logging {
        reload: Arc::new(move |filter| handle.reload(filter).map_err(|error| error.to_string())),
        filter: Arc::new(Mutex::new(filter.to_owned())),
    })
}

/// Panics are bugs: they go to the log as well as to standard error.
fn log_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let message = text.unwrap_or("(no message)");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(target: "setara_node::node", place, "panic: {message}");
        usual(panic);
    }));
}

/// Writes events as lines.
struct Sink {
    format: LogFormat,
    clock: Arc<dyn Clock>,
    call_sites: Mutex<CallSites>,
    to_stderr: bool,
    file: Mutex<Option<RotatingFile>>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Sink {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let time = civil_time(self.clock.unix_seconds());
        let target = metadata.target();
        let target = target.strip_prefix(CRATE).map_or(target, |rest| rest.trim_start_matches("::"));
        let level = metadata.level().as_str();
        let mut line = format::line(self.format, &time, level, target, event);
        let now = self.clock.monotonic();
        match self.call_sites.lock().admit(metadata.callsite(), line.len(), now) {
            Verdict::Write => {}
            Verdict::Resumed { dropped } => {
                let fields = [("dropped", dropped.to_string())];
                let note = format::note(self.format, &time, target, "lines from one place were too many", &fields);
                line.insert_str(0, &note);
            }
            Verdict::Drop => return,
        }
        // A log that cannot be written must not stop what it reports.
        if self.to_stderr {
            screen::log(&line);
        }
        if let Some(file) = self.file.lock().as_mut() {
            file.write(line.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
