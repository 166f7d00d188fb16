//! Rows: building, decoding, sending transactions; and the shapes of transactions that other rows share.

use super::{Category, Field, Group, Kind, Method, Param};

const fn row(name: &'static str, params: &'static [Param], result: Kind, doc: &'static str) -> Method {
    let (category, group) = (Category::Rawtransactions, Group::Read);
    Method { name, category, group, params, result, doc, fixed_difficulty_only: false }
}

/// What an output is locked to, in the fields where Bitcoin has a script.
pub(super) const SCRIPT: Kind = Kind::Object(&[
    Field::new("asm", Kind::Text, "One line for people."),
    Field::new("desc", Kind::Text, "addr(ADDRESS)."),
    Field::new("hex", Kind::Hex, "The 32 bytes of the address: the hash of a spend policy."),
    Field::new("address", Kind::Text, "The address."),
    Field::new("type", Kind::Text, "policy_hash."),
]);

/// A revealed policy, as `decodescript` and inputs show it.
const POLICY_FIELDS: &[Field] = &[
    Field::new("asm", Kind::Text, "The policy in one line."),
    Field::new("hex", Kind::Hex, "The policy's encoding."),
    Field::new("type", Kind::Text, "key, threshold, after, after_time, older, hash, opaque or future."),
    Field::new("address", Kind::Text, "The address that the policy hashes to."),
];

const PREVOUT: Kind = Kind::Object(&[
    Field::new("generated", Kind::Bool, "Whether a coinbase made it."),
    Field::new("height", Kind::Integer, "Height of the block that made it."),
    Field::new("value", Kind::Amount, "Its amount."),
    Field::new("scriptPubKey", SCRIPT, "What it was locked to."),
]);

const SCRIPT_SIG: Kind =
    Kind::Object(&[Field::new("asm", Kind::Text, "Empty."), Field::new("hex", Kind::Hex, "Empty.")]);

const VIN: Kind = Kind::Object(&[
    Field::optional("coinbase", Kind::Hex, "A coinbase's free bytes; then nothing else but sequence."),
    Field::optional("txid", Kind::Hash, "The transaction that made the coin."),
    Field::optional("vout", Kind::Integer, "The coin's position there."),
    Field::optional("value", Kind::Amount, "The coin's amount, as the input states it."),
    Field::optional("scriptSig", SCRIPT_SIG, "There for clients that expect it; always empty."),
    Field::optional(
        "txinwitness",
        Kind::Array(&Kind::Hex),
        "Signatures, preimages, future items, and last the policy's encoding.",
    ),
    Field::optional("policy", Kind::Object(POLICY_FIELDS), "The policy that the witness reveals."),
    Field::optional(
        "prevout",
        PREVOUT,
        "The coin; where the verbosity asks for it and the block's undo record has it.",
    ),
    Field::new("sequence", Kind::Integer, "There for clients that expect it; always 4294967295."),
]);

const VOUT: Kind = Kind::Object(&[
    Field::new("value", Kind::Amount, "Its amount."),
    Field::new("n", Kind::Integer, "Its position."),
    Field::new("scriptPubKey", SCRIPT, "What it is locked to."),
]);

/// A transaction; the last fields are there when the question was about one in a block.
pub(super) const TRANSACTION: Kind = Kind::Object(&[
    Field::optional("in_active_chain", Kind::Bool, "There when a block hash was given."),
    Field::new("txid", Kind::Hash, "Identity without witnesses."),
    Field::new("hash", Kind::Hash, "Identity with witnesses: the Merkle leaf."),
    Field::new("version", Kind::Integer, "Kind of the encoding: 0 a coinbase, 1 a transaction."),
    Field::new("size", Kind::Integer, "Bytes."),
    Field::new("vsize", Kind::Integer, "The same: witnesses have no discount."),
    Field::new("weight", Kind::Integer, "Four times the size."),
    Field::new("locktime", Kind::Integer, "valid_from: the first height of a block that may hold it."),
    Field::new("vin", Kind::Array(&VIN), "Inputs."),
    Field::new("vout", Kind::Array(&VOUT), "Outputs."),
    Field::optional("memo", Kind::Hex, "Free bytes."),
    Field::optional("coins_root", Kind::Hash, "Of a coinbase: commitment to all coins after the parent block."),
    Field::optional("fee", Kind::Amount, "Inputs less outputs; a coinbase has none."),
    Field::optional("hex", Kind::Hex, "The encoding."),
    Field::optional("blockhash", Kind::Hash, "The block that holds it."),
    Field::optional("confirmations", Kind::Integer, "Blocks from that one to the tip; 0 off the active chain."),
    Field::optional("time", Kind::Integer, "That block's time."),
    Field::optional("blocktime", Kind::Integer, "The same."),
]);

const ACCEPT: Kind = Kind::Object(&[
    Field::new("txid", Kind::Hash, "The transaction."),
    Field::new("wtxid", Kind::Hash, "With its witnesses."),
    Field::optional("allowed", Kind::Bool, "The verdict; absent if one before it was refused, or with package-error."),
    Field::optional("package-error", Kind::Text, "Why the list cannot be judged as a whole."),
    Field::optional("vsize", Kind::Integer, "Bytes."),
    Field::optional(
        "fees",
        Kind::Object(&[
            Field::new("base", Kind::Amount, "Its fee."),
            Field::new("effective-feerate", Kind::Amount, "Coins per 1,000 bytes."),
            Field::new("effective-includes", Kind::Array(&Kind::Hash), "wtxids that the rate is of."),
        ]),
        "When allowed.",
    ),
    Field::optional("reject-reason", Kind::Text, "The rule's stable code."),
    Field::optional("reject-details", Kind::Text, "The same for people."),
]);

const MAX_FEE_RATE: Param =
    Param::optional("maxfeerate", Kind::Amount, "0.10", "Refuse a higher rate, coins per 1,000 bytes; 0: any.");

pub(super) const METHODS: &[Method] = &[
    row(
        "getrawtransaction",
        &[
            Param::required("txid", Kind::Hash, "The transaction."),
            Param::optional(
                "verbosity",
                Kind::OneOf(&[Kind::Integer, Kind::Bool]),
                "0",
                "0 bytes in hex, 1 decoded, 2 with the coins it spends.",
            )
            .or(&["verbose"]),
            Param::optional("blockhash", Kind::Hash, "mempool, then the transaction index", "Where to look."),
        ],
        Kind::OneOf(&[Kind::Hex, TRANSACTION]),
        "A transaction of the mempool or the chain; the genesis coinbase too.",
    ),
    Method {
        group: Group::Send,
        ..row(
            "sendrawtransaction",
            &[
                Param::required("hexstring", Kind::Hex, "The transaction."),
                MAX_FEE_RATE,
                Param::optional("maxburnamount", Kind::Amount, "0", "Taken and ignored: nothing here burns."),
            ],
            Kind::Hash,
            "Puts a transaction into the mempool and tells the peers.",
        )
    },
    row(
        "testmempoolaccept",
        &[
            Param::required(
                "rawtxs",
                Kind::Array(&Kind::Hex),
                "Up to 25 transactions, parents first; each judged as if those before it had entered.",
            ),
            MAX_FEE_RATE,
        ],
        Kind::Array(&ACCEPT),
        "Whether the mempool would take these transactions.",
    ),
    row(
        "decoderawtransaction",
        &[
            Param::required("hexstring", Kind::Hex, "A transaction or a coinbase."),
            Param::optional("iswitness", Kind::Bool, "ignored", "There for clients that send it."),
        ],
        TRANSACTION,
        "What a transaction's bytes mean; nothing is judged.",
    ),
    row(
        "createrawtransaction",
        &[
            Param::required(
                "inputs",
                Kind::Array(&Kind::Object(&[
                    Field::new("txid", Kind::Hash, "The transaction that made the coin."),
                    Field::new("vout", Kind::Integer, "The coin's position there."),
                    Field::optional("amount", Kind::Amount, "The coin's amount; else the node looks it up."),
                    Field::optional("sequence", Kind::Integer, "Taken and ignored."),
                ])),
                "Coins to spend.",
            ),
            Param::required(
                "outputs",
                Kind::OneOf(&[Kind::Array(&Kind::Map(&Kind::Any)), Kind::Map(&Kind::Any)]),
                "{ADDRESS: amount} each; {\"data\": hex} sets the memo.",
            ),
            Param::optional(
                "locktime",
                Kind::Integer,
                "0",
                "valid_from: the first height of a block that may hold it.",
            ),
            Param::optional("replaceable", Kind::Bool, "ignored", "Any transaction is."),
        ],
        Kind::Hex,
        "An unsigned transaction: no witnesses yet.",
    ),
    row(
        "decodescript",
        &[Param::required("hexstring", Kind::Hex, "A spend policy's encoding, or the 32 bytes of an address.")],
        Kind::OneOf(&[Kind::Object(POLICY_FIELDS), SCRIPT]),
        "What a spend policy's bytes mean.",
    ),
];
