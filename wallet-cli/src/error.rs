//! What can go wrong, in words for people, stable codes for programs, and exit statuses for scripts.
//!
//! | exit | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | any other failure |
//! | 2 | usage: arguments that cannot be meant |
//! | 3 | the node cannot be reached, refuses the credentials, or is still loading |
//! | 4 | the node refused the request or the transaction |
//! | 5 | not enough money |
//! | 6 | wrong password, or the wallet is in use by another process |
//! | 7 | not found: no such wallet file |
//! | 130 | interrupted |
//!
//! Text that came from a node is hostile: it reaches a message only through [`crate::output::foreign`].

use setara_core::amount::Amount;
use std::path::{Path, PathBuf};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// Arguments that make no sense, alone or together.
    #[error("{0}")]
    Usage(String),
    /// A text that is no address of this network.
    #[error("{0}")]
    BadAddress(String),
    /// A text that is no amount that can be sent.
    #[error("{0}")]
    BadAmount(String),
    /// Words that are no BIP 39 mnemonic.
    #[error("{0}")]
    BadMnemonic(String),
    /// The operating system gave no randomness.
    #[error("the system's random number generator failed ({0}); nothing was written")]
    NoRandomness(String),
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// A verb.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `create` and `restore` never replace a file.
    #[error("{0} exists already; choose another name with --wallet")]
    Exists(PathBuf),
    /// There is no wallet to open.
    #[error("there is no wallet at {0}; make one with `create` or `restore`, or name yours with --wallet")]
    NotFound(PathBuf),
    /// The file is not a wallet, or not a whole one.
    #[error("{path} is damaged: {reason}. Your 24 words can restore the wallet into a new file")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Written by a later version.
    #[error("{path} was written by a newer version (format {version}); update setara-wallet")]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        version: u64,
    },
    /// The password opens nothing.
    #[error("wrong password, or the file was altered")]
    WrongPassword,
    /// No password was given and none can be asked for.
    #[error("a password is needed: use --password-file or --password-stdin when there is no terminal")]
    PasswordNeeded,
    /// Another process holds the wallet.
    #[error("{0} is in use by another setara-wallet")]
    InUse(PathBuf),
    /// The node, or a flag, names another network than the wallet's.
    #[error("{0}")]
    WrongNetwork(String),
    /// Spendable money does not suffice.
    #[error("not enough money: {needed} needed with the fee, {available} spendable{hint}")]
    Insufficient {
        /// Payment and fee.
        needed: Amount,
        /// What could be spent now.
        available: Amount,
        /// Money that will become spendable, in words; may be empty.
        hint: String,
    },
    /// The fee is beyond a cap.
    #[error("{0}")]
    FeeTooHigh(String),
    /// A transaction that could not be relayed for its size.
    #[error("{0}")]
    TooLarge(String),
    /// No answer from the node.
    #[error("no node answers at {url}: {reason}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why, in this machine's words.
        reason: String,
    },
    /// The node refuses the credentials.
    #[error(
        "the node at {url} refuses the credentials: {reason}; --cookie names its cookie file (DIR/NETWORK/.cookie)"
    )]
    Unauthorised {
        /// Where.
        url: String,
        /// Why, in this machine's words.
        reason: String,
    },
    /// The node knows the caller, and does not let it do this.
    #[error(
        "the node at {0} does not allow this to this caller (HTTP 403): see its --rpc-whitelist and --rpc-allow-ip"
    )]
    Forbidden(String),
    /// The node has not finished loading (RPC code -28).
    #[error("the node is still loading; try again in a moment")]
    Loading,
    /// The node answered with an error.
    #[error("the node cannot do this (code {code}); it says: {message}")]
    Node {
        /// JSON-RPC code.
        code: i64,
        /// The node's words, made harmless.
        message: String,
    },
    /// The node refused a transaction: it was not sent.
    #[error("the node refused the transaction, nothing was sent; it says: {0}")]
    Rejected(String),
    /// Whether the transaction reached the network is unknown.
    #[error(
        "{reason}. The payment is kept as {id}: its coins stay reserved, every later command sends it again, and \
         `history` shows whether it arrived. Another payment in its place could pay twice; to give this one up, see \
         docs/wallet.md"
    )]
    Unsent {
        /// What went wrong.
        reason: String,
        /// The send id.
        id: String,
    },
    /// The node contradicts itself or proof of work: do not believe it.
    #[error("do not trust this node: {0}")]
    Untrusted(String),
    /// The chain moved under the wallet's feet again and again.
    #[error("the chain changed while it was being read; try again")]
    Moving,
    /// A send id that names another payment, or one that can no longer happen.
    #[error("{0}")]
    SendId(String),
    /// This program, or this machine, is at fault.
    #[error("{0}; nothing was sent. Please report this")]
    Fault(String),
    /// The user said no.
    #[error("cancelled; nothing was done")]
    Cancelled,
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl WalletError {
    /// A failed file operation.
    pub fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// The code that programs may rely on.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::BadAddress(_) => "bad-address",
            Self::BadAmount(_) => "bad-amount",
            Self::BadMnemonic(_) => "bad-mnemonic",
            Self::NoRandomness(_) => "no-randomness",
            Self::Io { .. } => "io",
            Self::Exists(_) => "wallet-exists",
            Self::NotFound(_) => "wallet-not-found",
            Self::Damaged { .. } => "wallet-damaged",
            Self::Newer { .. } => "wallet-newer",
            Self::WrongPassword => "wrong-password",
            Self::PasswordNeeded => "password-needed",
            Self::InUse(_) => "wallet-in-use",
            Self::WrongNetwork(_) => "wrong-network",
            Self::Insufficient { .. } => "insufficient-funds",
            Self::FeeTooHigh(_) => "fee-too-high",
            Self::TooLarge(_) => "transaction-too-large",
            Self::Unreachable { .. } => "node-unreachable",
            Self::Unauthorised { .. } => "node-unauthorised",
            Self::Forbidden(_) => "node-forbidden",
            Self::Loading => "node-loading",
            Self::Node { .. } => "node-error",
            Self::Rejected(_) => "rejected",
            Self::Unsent { .. } => "send-unknown",
            Self::Untrusted(_) => "node-untrusted",
            Self::Moving => "chain-moving",
            Self::SendId(_) => "send-id",
            Self::Fault(_) => "fault",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }

    /// The process's exit status.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::BadAddress(_) | Self::BadAmount(_) | Self::BadMnemonic(_) => 2,
            Self::Unreachable { .. }
            | Self::Unauthorised { .. }
            | Self::Forbidden(_)
            | Self::Loading
            | Self::Unsent { .. } => 3,
            Self::Node { .. } | Self::Rejected(_) => 4,
            Self::Insufficient { .. } => 5,
            Self::WrongPassword | Self::PasswordNeeded | Self::InUse(_) => 6,
            Self::NotFound(_) => 7,
            Self::Interrupted => 130,
            Self::NoRandomness(_)
            | Self::Io { .. }
            | Self::Exists(_)
            | Self::Damaged { .. }
            | Self::Newer { .. }
            | Self::WrongNetwork(_)
            | Self::FeeTooHigh(_)
            | Self::TooLarge(_)
            | Self::Untrusted(_)
            | Self::Moving
            | Self::SendId(_)
            | Self::Fault(_)
            | Self::Cancelled => 1,
        }
    }

    /// `{"error":{"code":..,"message":..}}`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "error": { "code": self.code(), "message": self.to_string() } })
    }
}
