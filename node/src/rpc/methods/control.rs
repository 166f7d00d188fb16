//! `help`, `stop`, `uptime`, `logging`, `getrpcinfo`, `rpc.discover`: answered by the server itself, also while loading.

use crate::rpc::args::Args;
use crate::rpc::dispatch::{Dispatcher, answer};
use crate::rpc::envelope::Outcome;
use serde_json::json;
use setara_api::{openrpc, registry};

pub(super) fn help(server: &Dispatcher, args: &Args) -> Outcome {
    match args.optional_text("command") {
        None => answer(&registry::overview(|method| server.offers(method))),
        Some(name) => match registry::method(name).filter(|method| server.offers(method)) {
            Some(method) => answer(&method.help()),
            None => answer(&format!("help: unknown command: {name}\n")),
        },
    }
}

pub(super) fn stop(server: &Dispatcher, _: &Args) -> Outcome {
    tracing::info!("asked to stop");
    server.shutdown.cancel();
    answer(&"Setara node stopping")
}

pub(super) fn uptime(server: &Dispatcher, _: &Args) -> Outcome {
    answer(&server.uptime())
}

pub(super) fn logging(server: &Dispatcher, args: &Args) -> Outcome {
    let (include, exclude) = (args.texts("include")?, args.texts("exclude")?);
    server.logging.change(&include, &exclude)?;
    answer(&server.logging.parts())
}

pub(super) fn getrpcinfo(server: &Dispatcher, _: &Args) -> Outcome {
    let active: Vec<_> = server
        .active()
        .into_iter()
        .map(|(method, duration)| json!({"method": method, "duration": duration.as_micros().min(u128::from(u64::MAX)) as u64}))
        .collect();
    answer(&json!({"active_commands": active, "logpath": server.logging.path()}))
}

pub(super) fn discover(server: &Dispatcher, _: &Args) -> Outcome {
    answer(&openrpc::document(env!("CARGO_PKG_VERSION"), |method| server.offers(method)))
}
