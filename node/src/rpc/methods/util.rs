//! Small helpers.

use crate::memory::Part;
use crate::rpc::args::Args;
use crate::rpc::context::RpcContext;
use crate::rpc::dispatch::answer;
use crate::rpc::envelope::Outcome;
use crate::rpc::error::RpcError;
use serde_json::{Map, Value, json};
use setara_api::types::ValidatedAddress;
use setara_core::address::Address;
use std::path::Path;

/// Relative paths would mean this process's folder, which no caller knows.
pub(super) fn backupnode(context: &RpcContext, args: &Args) -> Outcome {
    let folder = Path::new(args.text("folder"));
    if !folder.is_absolute() {
        return Err(RpcError::parameter("folder: expected an absolute path"));
    }
    let tip = (context.backup)(folder).map_err(RpcError::misc)?;
    answer(&json!({ "height": tip.height, "hash": tip.hash }))
}

/// Bitcoin Core's answer, of a node that locks no memory, and what ours is held to.
pub(super) fn getmemoryinfo(context: &RpcContext, args: &Args) -> Outcome {
    match args.optional_text("mode") {
        None | Some("stats") => {}
        Some("mallocinfo") => return Err(RpcError::parameter("mallocinfo mode not available")),
        Some(mode) => return Err(RpcError::parameter(format!("unknown mode {mode}"))),
    }
    let held = (context.memory)();
    let used = |part: Part| held.used.iter().find(|(of, _)| *of == part).map(|(_, bytes)| *bytes);
    let shares: Map<String, Value> = Part::ALL
        .into_iter()
        .map(|part| {
            let mut share = json!({ "limit": held.shares.of(part) });
            if let Some(used) = used(part) {
                share["used"] = used.into();
            }
            (part.name().to_owned(), share)
        })
        .collect();
    let mut setara = json!({ "shares": shares });
    for (name, bytes) in [("resident", held.resident), ("budget", held.shares.budget)] {
        if let Some(bytes) = bytes {
            setara[name] = bytes.into();
        }
    }
    let locked = json!({ "used": 0, "free": 0, "total": 0, "locked": 0, "chunks_used": 0, "chunks_free": 0 });
    answer(&json!({ "locked": locked, "setara": setara }))
}

pub(super) fn validateaddress(context: &RpcContext, args: &Args) -> Outcome {
    let prefix = &context.network.prefix;
    let verdict = Address::from_text(args.text("address"), prefix);
    let address = verdict.as_ref().ok();
    answer(&ValidatedAddress {
        isvalid: address.is_some(),
        address: address.map(|address| address.to_text(prefix)),
        script_pub_key: address.map(|address| hex::encode(address.as_bytes())),
        isscript: address.map(|_| false),
        iswitness: address.map(|_| false),
        error: verdict.as_ref().err().map(ToString::to_string),
        error_locations: verdict.is_err().then(Vec::new),
    })
}
