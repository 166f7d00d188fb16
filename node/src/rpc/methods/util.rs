//! Small helpers.

use crate::rpc::args::Args;
use crate::rpc::context::RpcContext;
use crate::rpc::dispatch::answer;
use crate::rpc::envelope::Outcome;
use crate::rpc::error::RpcError;
use serde_json::json;
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
