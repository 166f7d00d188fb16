//! Rows: blocks, headers, coins, proofs.

use super::transactions::{SCRIPT, TRANSACTION};
use super::{Category, Field, Group, Kind, Method, Param};

const fn row(name: &'static str, params: &'static [Param], result: Kind, doc: &'static str) -> Method {
    let (category, group) = (Category::Blockchain, Group::Read);
    Method { name, category, group, params, result, doc, fixed_difficulty_only: false }
}

const NETWORK: Kind = Kind::Object(&[
    Field::new("name", Kind::Text, "The genesis file's name."),
    Field::new("genesis_hash", Kind::Hash, "Identifies the whole rule set."),
    Field::new("prefix", Kind::Text, "Address prefix."),
    Field::new("ticker", Kind::Text, "Name of the coin."),
]);

const SNAPSHOT: Kind = Kind::Object(&[
    Field::new("base_height", Kind::Integer, "Height of the block after which its coins are."),
    Field::new("base_hash", Kind::Hash, "That block."),
    Field::new("validated", Kind::Bool, "Whether every block up to the base has been verified."),
    Field::new("verified_blocks", Kind::Integer, "Height up to which they have been."),
]);

const SNAPSHOT_FETCH: Kind = Kind::Object(&[
    Field::new("stage", Kind::Text, "What is being done."),
    Field::optional("base_height", Kind::Integer, "Height of the block after which its coins are."),
    Field::optional("base_hash", Kind::Hash, "That block."),
    Field::new("buckets", Kind::Integer, "Of 256 parts, those that are here and checked."),
    Field::new("bytes", Kind::Integer, "Bytes of coins that are here."),
    Field::new("bytes_total", Kind::Integer, "Bytes of all coins; 0 until a snapshot has been chosen."),
    Field::new("peers", Kind::Integer, "Peers that serve it."),
]);

pub(super) const WARNINGS: Field =
    Field::new("warnings", Kind::Array(&Kind::Text), "What the operator should know; empty if nothing.");

const BLOCKCHAIN_INFO: Kind = Kind::Object(&[
    Field::new("chain", Kind::Text, "main, test, regtest (fixed difficulty) or signet (a network of one's own)."),
    Field::new("blocks", Kind::Integer, "Height of the tip."),
    Field::new("headers", Kind::Integer, "Height of the best header known."),
    Field::new("bestblockhash", Kind::Hash, "The tip."),
    Field::new("bits", Kind::Hex, "The tip's compact target."),
    Field::new("target", Kind::Hash, "The tip's target."),
    Field::new("difficulty", Kind::Number, "Against the easiest possible target of Bitcoin."),
    Field::new("time", Kind::Integer, "The tip's time, Unix seconds."),
    Field::new("mediantime", Kind::Integer, "Median time past at the tip."),
    Field::new("verificationprogress", Kind::Number, "Blocks over known headers, 0 to 1."),
    Field::new("initialblockdownload", Kind::Bool, "Whether the node is far behind the best header it knows."),
    Field::new("chainwork", Kind::Hash, "Cumulative work."),
    Field::new("size_on_disk", Kind::Integer, "Bytes of the database; 0 in memory."),
    Field::new("pruned", Kind::Bool, "Whether old blocks are dropped."),
    Field::optional("pruneheight", Kind::Integer, "If so, the lowest height from which on every block is here."),
    Field::optional("automatic_pruning", Kind::Bool, "If so, whether that happens by itself."),
    Field::optional(
        "prune_target_size",
        Kind::Integer,
        "If it does, the bytes that may be kept: of bodies (--prune), or of the database (--max-disk).",
    ),
    Field::optional("snapshot", SNAPSHOT, "The snapshot that the chain began with, if with one."),
    Field::optional("snapshot_fetch", SNAPSHOT_FETCH, "With --snapshot, how far that is, until the chain has begun."),
    Field::new("network", NETWORK, "Which network this is."),
    WARNINGS,
]);

const HEADER_FIELDS: [Field; 18] = [
    Field::new("hash", Kind::Hash, "The block."),
    Field::new("confirmations", Kind::Integer, "Blocks from it to the tip, both included; -1 off the active chain."),
    Field::new("height", Kind::Integer, "Its height."),
    Field::new("version", Kind::Integer, "Header field."),
    Field::new("versionHex", Kind::Hex, "The version in hex."),
    Field::new("merkleroot", Kind::Hash, "Root of the transactions' wtxids."),
    Field::new("time", Kind::Integer, "Unix seconds."),
    Field::new("mediantime", Kind::Integer, "Median of the last eleven times, this block's included."),
    Field::new("nonce", Kind::Integer, "Header field."),
    Field::new("bits", Kind::Hex, "Compact target."),
    Field::new("target", Kind::Hash, "Target."),
    Field::new("difficulty", Kind::Number, "Against the easiest possible target of Bitcoin."),
    Field::new("chainwork", Kind::Hash, "Cumulative work."),
    Field::new("nTx", Kind::Integer, "Transactions, the coinbase included; 0 when the body is not here."),
    Field::optional("previousblockhash", Kind::Hash, "The parent; genesis has none."),
    Field::optional("nextblockhash", Kind::Hash, "The child in the active chain."),
    Field::new("strippedsize", Kind::Integer, "Bytes without witnesses."),
    Field::new("size", Kind::Integer, "Bytes."),
];

const HEADER: Kind = Kind::Object(HEADER_FIELDS.first_chunk::<16>().expect("eighteen fields stand above"));

const BLOCK: Kind = Kind::Object(&{
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r] = HEADER_FIELDS;
    let weight = Field::new("weight", Kind::Integer, "Four times the size: witnesses have no discount.");
    let txs = Kind::OneOf(&[Kind::Array(&Kind::Hash), Kind::Array(&TRANSACTION)]);
    let txs = Field::new("tx", txs, "Ids at verbosity 1, transactions from 2 on.");
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, weight, txs]
});

const CHAIN_TIP: Kind = Kind::Object(&[
    Field::new("height", Kind::Integer, "Its height."),
    Field::new("hash", Kind::Hash, "The block."),
    Field::new("branchlen", Kind::Integer, "Blocks since it left the active chain."),
    Field::new("status", Kind::Text, "active, valid-fork, valid-headers, headers-only or invalid."),
]);

const TXOUT: Kind = Kind::Object(&[
    Field::new("bestblock", Kind::Hash, "The tip at which this is true."),
    Field::new("confirmations", Kind::Integer, "0 for an output of an unconfirmed transaction."),
    Field::new("value", Kind::Amount, "Its amount."),
    Field::new("scriptPubKey", SCRIPT, "What it is locked to."),
    Field::new("coinbase", Kind::Bool, "Whether a coinbase made it."),
]);

const TXOUTSET: Kind = Kind::Object(&[
    Field::new("height", Kind::Integer, "Height of the tip."),
    Field::new("bestblock", Kind::Hash, "The tip."),
    Field::new("txouts", Kind::Integer, "Unspent coins."),
    Field::new("bogosize", Kind::Integer, "81 bytes a coin: a measure that no database changes."),
    Field::new("coins_root", Kind::Hash, "Commitment to exactly these coins: the next block's coinbase carries it."),
    Field::new("total_amount", Kind::Amount, "Their sum."),
    Field::new("transactions", Kind::Integer, "Transactions with an unspent output."),
    Field::new("disk_size", Kind::Integer, "Bytes of the database; 0 in memory."),
]);

const DEPLOYMENT: Kind = Kind::Object(&[
    Field::new("type", Kind::Text, "buried: the height is fixed."),
    Field::new("height", Kind::Integer, "First height at which it holds."),
    Field::new("active", Kind::Bool, "Whether it holds for the block after this one."),
]);

pub(super) const BLOCKHASH: Param = Param::required("blockhash", Kind::Hash, "The block.");

pub(super) const METHODS: &[Method] = &[
    row("getblockchaininfo", &[], BLOCKCHAIN_INFO, "State of the chain."),
    row("getblockcount", &[], Kind::Integer, "Height of the tip; genesis is 0."),
    row("getbestblockhash", &[], Kind::Hash, "Hash of the tip."),
    row(
        "getblockhash",
        &[Param::required("height", Kind::Integer, "0 to the tip's.")],
        Kind::Hash,
        "Hash of the active chain's block at a height.",
    ),
    row(
        "getblock",
        &[
            BLOCKHASH,
            Param::optional(
                "verbosity",
                Kind::OneOf(&[Kind::Integer, Kind::Bool]),
                "1",
                "0 bytes in hex, 1 with ids, 2 with transactions, 3 with the coins they spend.",
            )
            .or(&["verbose"]),
        ],
        Kind::OneOf(&[Kind::Hex, BLOCK]),
        "A block.",
    ),
    row(
        "getblockheader",
        &[BLOCKHASH, Param::optional("verbose", Kind::Bool, "true", "false: the 80 bytes in hex.")],
        Kind::OneOf(&[Kind::Hex, HEADER]),
        "A block's header.",
    ),
    Method {
        group: Group::Control,
        ..row(
            "dumptxoutset",
            &[
                Param::required(
                    "path",
                    Kind::Text,
                    "A file that is not there yet; relative to the network's data folder.",
                ),
                Param::optional(
                    "type",
                    Kind::Text,
                    "latest",
                    "latest: after the tip's parent; rollback: after the highest block that may be loaded at once.",
                ),
            ],
            Kind::Object(&[
                Field::new("coins_written", Kind::Integer, "How many."),
                Field::new("base_hash", Kind::Hash, "The block after which they are."),
                Field::new("base_height", Kind::Integer, "Its height."),
                Field::new("path", Kind::Text, "The file."),
                Field::new("txoutset_hash", Kind::Hash, "coins_root, as the next block's coinbase has it."),
            ]),
            "Writes all unspent coins to a file that loadtxoutset reads.",
        )
    },
    Method {
        group: Group::Control,
        ..row(
            "loadtxoutset",
            &[Param::required("path", Kind::Text, "The file; relative to the network's data folder.")],
            Kind::Object(&[
                Field::new("coins_loaded", Kind::Integer, "How many."),
                Field::new("tip_hash", Kind::Hash, "The block after which they are."),
                Field::new("base_height", Kind::Integer, "Its height."),
                Field::new("path", Kind::Text, "The file."),
            ]),
            "Begins with the coins of a file, checked against the headers' work: for a new node that runs with --prune and \
             --no-index and has the headers. It verifies the history behind them meanwhile.",
        )
    },
    Method {
        group: Group::Control,
        ..row(
            "pruneblockchain",
            &[Param::required("height", Kind::Integer, "Up to this one; above 1,000,000,000 a Unix time.")],
            Kind::Integer,
            "Deletes the bodies of old blocks, for a node that runs with --prune: the last height deleted, -1 if none. The \
             newest 288 blocks stay, and those that an index has not read.",
        )
    },
    row("getchaintips", &[], Kind::Array(&CHAIN_TIP), "All branches that the node knows, the active one first."),
    row("getdifficulty", &[], Kind::Number, "The tip's difficulty, against the easiest possible target of Bitcoin."),
    row(
        "getdeploymentinfo",
        &[Param::optional("blockhash", Kind::Hash, "the tip", "State as of this block.")],
        Kind::Object(&[
            Field::new("hash", Kind::Hash, "The block."),
            Field::new("height", Kind::Integer, "Its height."),
            Field::new("deployments", Kind::Map(&DEPLOYMENT), "The genesis file's upgrades by name."),
        ]),
        "Upgrades of the rules, as the genesis file lists them.",
    ),
    row(
        "gettxout",
        &[
            Param::required("txid", Kind::Hash, "The transaction."),
            Param::required("n", Kind::Integer, "Position of the output."),
            Param::optional("include_mempool", Kind::Bool, "true", "Whether unconfirmed transactions count."),
        ],
        Kind::OneOf(&[Kind::Null, TXOUT]),
        "An unspent output; null when it is spent or never was.",
    ),
    row(
        "gettxoutsetinfo",
        &[Param::optional(
            "hash_type",
            Kind::Text,
            "\"coins_root\"",
            "coins_root, none, or one of Bitcoin Core's names (hash_serialized_3, muhash): the answer is the same, \
             because the commitment is always at hand.",
        )],
        TXOUTSET,
        "Totals of all unspent coins. Counting the transactions reads every coin once.",
    ),
    row(
        "gettxoutproof",
        &[
            Param::required("txids", Kind::Array(&Kind::Hash), "Transactions of one block."),
            Param::optional("blockhash", Kind::Hash, "found by the transaction index", "The block."),
        ],
        Kind::Hex,
        "Proof that transactions are in a block: Bitcoin's CMerkleBlock in hex. Its leaves are wtxids (for a coinbase \
         the same as the txid).",
    ),
    row(
        "verifytxoutproof",
        &[Param::required("proof", Kind::Hex, "What gettxoutproof gave.")],
        Kind::Array(&Kind::Hash),
        "The txids that a proof proves; empty if it proves nothing, an error if its block is not in the active chain.",
    ),
    Method {
        group: Group::Control,
        ..row(
            "invalidateblock",
            &[BLOCKHASH],
            Kind::Null,
            "Treats a block as if it broke a rule, until reconsiderblock; the chain leaves it at once.",
        )
    },
    Method {
        group: Group::Control,
        ..row("reconsiderblock", &[BLOCKHASH], Kind::Null, "Forgets that a block or its ancestors were refused.")
    },
];
