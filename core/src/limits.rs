//! Every bound of consensus and encoding, each with its reason. Bounds that a network chooses stand in its genesis file.

/// Bytes of a header: Bitcoin's layout.
pub const HEADER_BYTES: usize = 80;

/// Blocks whose times make the median time past (Bitcoin's `nMedianTimeSpan`).
pub const MEDIAN_TIME_BLOCKS: usize = 11;

/// Bytes of a coinbase: it travels alone in snapshot manifests and templates.
pub const COINBASE_BYTES_MAX: u64 = 100_000;

/// Bytes of a coinbase's `extra`: room for a consensus hash, a message and an extranonce.
pub const COINBASE_EXTRA_BYTES_MAX: u64 = 200;

/// Smallest coinbase: kind, height, root, one output (count, amount, address), extra's count. Never 64 bytes, so a
/// coinbase cannot pose as an inner node of the Merkle tree (CVE-2017-12842).
pub const COINBASE_BYTES_MIN: u64 = 1 + 1 + 32 + 1 + 33 + 1;

/// Bytes of a transaction's memo: a payment reference, not a file.
pub const MEMO_BYTES_MAX: u64 = 256;

/// Smallest transaction that decodes: kind, four counts, valid_from. Without inputs it is a draft, never valid.
pub const TRANSACTION_DRAFT_BYTES_MIN: u64 = 6;

/// Smallest transaction in a block: kind, one input, one output, valid_from, memo's count, one witness of an `After`
/// policy.
pub const TRANSACTION_BYTES_MIN: u64 = 1 + 1 + INPUT_BYTES_MIN + 1 + OUTPUT_BYTES_MIN + 1 + 1 + 1 + WITNESS_BYTES_MIN;

/// Smallest input: txid, index, amount.
pub const INPUT_BYTES_MIN: u64 = 32 + 1 + 1;

/// Smallest output: amount, address.
pub const OUTPUT_BYTES_MIN: u64 = 1 + 32;

/// Smallest witness: a two-byte policy and three empty lists.
pub const WITNESS_BYTES_MIN: u64 = 2 + 1 + 1 + 1;

/// Levels of a witness's policy, the root being 1: recursion stays bounded on any stack.
pub const POLICY_DEPTH_MAX: u32 = 8;

/// Nodes of a witness's policy, every one counted, Opaque included: the cost of one input stays bounded.
pub const POLICY_NODES_MAX: u32 = 64;

/// Children of a Threshold: with itself they fill [`POLICY_NODES_MAX`].
pub const THRESHOLD_CHILDREN_MAX: u8 = 63;

/// Bytes of all `future` items of one witness: room for a soft fork's proof, not for data storage.
pub const FUTURE_BYTES_MAX: u64 = 4_096;

/// Tags from here on are `Future` policies; 7 to 127 are undecodable.
pub const FUTURE_TAG_MIN: u8 = 128;

/// Largest supply cap a genesis file may state: 90 million coins stay below 2^53 sen, so JavaScript keeps them exact.
pub const SUPPLY_CAP_SEN_MAX: u64 = 90_000_000 * crate::amount::SEN_PER_COIN;

/// Bytes of the free message in a genesis coinbase.
pub const GENESIS_MESSAGE_BYTES_MAX: u64 = 100;

/// Characters of a network's name (`[a-z0-9-]`).
pub const NETWORK_NAME_CHARS_MAX: usize = 32;

/// Characters of a ticker (`[A-Z0-9]`): it labels amounts.
pub const TICKER_CHARS_MAX: usize = 10;

/// Characters of an address prefix (lower-case letters and digits): keeps every address within 90 characters.
pub const ADDRESS_PREFIX_CHARS_MAX: usize = 30;

/// Largest block a genesis file may allow: far above any sensible network, far below a peer frame's u24 length.
pub const BLOCK_BYTES_MAX: u64 = 16_000_000;

/// Smallest limit on blocks that a genesis file may set: a header, a coinbase with a full `extra`, and a few payments.
pub const BLOCK_BYTES_MIN: u64 = 1_000;
