//! An RPC error: a code of the contract and a sentence for people.

use serde::Serialize;
use setara_api::error::ErrorCode;

/// What a call answers when it fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RpcError {
    /// See [`ErrorCode`].
    pub code: i64,
    /// For people.
    pub message: String,
}

impl RpcError {
    /// Any code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: code.0, message: message.into() }
    }

    /// A malformed or unknown hash, address or transaction.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::INVALID_ADDRESS_OR_KEY, message)
    }

    /// An argument out of range or contradictory.
    pub fn parameter(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::INVALID_PARAMETER, message)
    }

    /// Hex that does not decode.
    pub fn deserialization(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::DESERIALIZATION, message)
    }

    /// Anything without a code of its own.
    pub fn misc(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::MISC, message)
    }

    /// A fault of this node.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::INTERNAL, message)
    }

    /// Whether the code is this one.
    pub fn is(&self, code: ErrorCode) -> bool {
        self.code == code.0
    }
}
