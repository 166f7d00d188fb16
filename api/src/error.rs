//! JSON-RPC error codes, Bitcoin Core's numbers (`rpc/protocol.h`): client libraries pick their exceptions by them.

/// A JSON-RPC error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub i64);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: Self = Self($code);)*

            /// Every code that this node uses, with its name.
            pub const ALL: &'static [(&'static str, Self)] = &[$((stringify!($name), Self::$name),)*];
        }
    };
}

codes! {
    /// The bytes are not JSON.
    PARSE = -32700,
    /// JSON, but not a request.
    INVALID_REQUEST = -32600,
    /// No such method.
    METHOD_NOT_FOUND = -32601,
    /// A fault of the server.
    INTERNAL = -32603,
    /// Anything without a code of its own; wrong number of arguments, with the method's help as the message.
    MISC = -1,
    /// An argument of the wrong JSON type.
    TYPE = -3,
    /// An address, hash or key that is malformed or names nothing.
    INVALID_ADDRESS_OR_KEY = -5,
    /// The answer would exceed a limit of memory or size.
    OUT_OF_MEMORY = -7,
    /// An argument of the right type but out of range, unknown or contradictory.
    INVALID_PARAMETER = -8,
    /// The database failed.
    DATABASE = -20,
    /// Hex that does not decode to what it should.
    DESERIALIZATION = -22,
    /// A transaction or block that could not be processed.
    VERIFY = -25,
    /// A transaction that the rules or this node's policy refuse.
    VERIFY_REJECTED = -26,
    /// A transaction that is already in the chain.
    ALREADY_IN_CHAIN = -27,
    /// The node is still loading.
    WARM_UP = -28,
    /// A node is to be kept that is kept already, or a ban is there already.
    CLIENT_NODE_ALREADY_ADDED = -23,
    /// A node is not kept.
    CLIENT_NODE_NOT_ADDED = -24,
    /// No connection like that.
    CLIENT_NODE_NOT_CONNECTED = -29,
    /// Neither an IP address nor a subnet, or not a known one.
    CLIENT_INVALID_IP_OR_SUBNET = -30,
    /// The peer-to-peer network does not run.
    P2P_DISABLED = -31,
    /// The node is stopping, or a bounded wait ended first.
    LIMIT_EXCEEDED = -37,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_negative() {
        let mut codes: Vec<i64> = ErrorCode::ALL.iter().map(|(_, code)| code.0).collect();
        assert!(codes.iter().all(|code| *code < 0));
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ErrorCode::ALL.len());
    }
}
