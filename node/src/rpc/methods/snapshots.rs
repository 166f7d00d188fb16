//! Snapshots of the coins as files.

use super::{store_failed, submit_failed};
use crate::rpc::args::Args;
use crate::rpc::context::RpcContext;
use crate::rpc::dispatch::answer;
use crate::rpc::envelope::Outcome;
use crate::rpc::error::RpcError;
use crate::snapshot::{LoadError, SnapshotFile, dump_in_turn};
use serde_json::json;
use setara_core::height::Height;
use setara_core::snapshot::DEPTH_MIN;
use std::path::{Component, Path, PathBuf};

/// Longest path: no system takes a longer one, and a caller's own megabytes are not sent back in an error.
const PATH_BYTES_MAX: usize = 4_096;

fn failed(error: LoadError) -> RpcError {
    match error {
        LoadError::Chain(error) => submit_failed(error),
        LoadError::Store(error) => store_failed(error),
        error => RpcError::misc(error.to_string()),
    }
}

fn path(context: &RpcContext, args: &Args) -> Result<PathBuf, RpcError> {
    let path = args.text("path");
    match path.len() {
        1..=PATH_BYTES_MAX => {}
        bytes => {
            return Err(RpcError::parameter(format!("A path of {bytes} bytes; expected 1 to {PATH_BYTES_MAX}")));
        }
    }
    let path = Path::new(path);
    // Whoever may call this may name any file, as with Bitcoin Core; but a relative name means one in the folder.
    if path.is_relative() && path.components().any(|component| component == Component::ParentDir) {
        return Err(RpcError::parameter(
            "A relative path stays in the network's data folder; name others from the root",
        ));
    }
    Ok(context.folder.join(path))
}

pub(super) fn dumptxoutset(context: &RpcContext, args: &Args) -> Outcome {
    let path = path(context, args)?;
    let kind = args.optional_text("type").unwrap_or("latest");
    let tip = context.chain.view().tip.height().get();
    let below = match kind {
        "latest" => 1,
        // The block after the base counts as well: whoever loads it knows this tip.
        "rollback" => DEPTH_MIN,
        other => {
            let message =
                format!("Invalid snapshot type \"{other}\" specified. Please specify \"rollback\" or \"latest\"");
            return Err(RpcError::parameter(message));
        }
    };
    let base = tip.checked_sub(below);
    let base = base.ok_or_else(|| RpcError::misc(format!("The chain is too short: {below} blocks stand on a base")))?;
    if path.try_exists().unwrap_or(true) {
        let message = format!(
            "{} already exists. If you are sure this is what you want, move it out of the way first",
            path.display()
        );
        return Err(RpcError::parameter(message));
    }
    let wanted = || !context.shutdown.is_cancelled();
    let dumped = dump_in_turn(&context.chain, Height::new(base), &path, &wanted).map_err(failed)?;
    answer(&json!({
        "coins_written": dumped.coins,
        "base_hash": dumped.base_hash,
        "base_height": dumped.base,
        "path": path.display().to_string(),
        "txoutset_hash": dumped.coins_root,
    }))
}

pub(super) fn loadtxoutset(context: &RpcContext, args: &Args) -> Outcome {
    let path = path(context, args)?;
    if context.pruner.is_none() || context.indexes.is_some() {
        return Err(RpcError::misc(
            "A chain that begins with a snapshot has no old blocks, and no index of them: start with --prune and --no-index",
        ));
    }
    let file = SnapshotFile::open(&path).map_err(failed)?;
    file.check(&context.network, context.chain.headers()).map_err(failed)?;
    let manifest = file.manifest.clone();
    let (coins, hash, base) = (manifest.coins.count(), manifest.base_hash, manifest.base);
    context.chain.adopt(manifest, file.elements().map_err(failed)?).map_err(failed)?;
    answer(&json!({"coins_loaded": coins, "tip_hash": hash, "base_height": base, "path": path.display().to_string()}))
}
