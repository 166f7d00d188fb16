//! The one encoding of messages.

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The body is longer than its kind may be.
    #[error("a {kind} message of {got} bytes, at most {max} are allowed")]
    TooLong {
        /// The kind's name.
        kind: &'static str,
        /// Bytes.
        got: u64,
        /// The most allowed.
        max: u64,
    },
    /// The body does not decode.
    #[error("a {kind} message that does not decode: {reason}")]
    Undecodable {
        /// The kind's name.
        kind: &'static str,
        /// Why.
        reason: &'static str,
    },
}
