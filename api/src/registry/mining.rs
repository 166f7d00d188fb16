//! Rows: making blocks.

use super::blockchain::WARNINGS;
use super::{Category, Field, Group, Kind, Method, Param};

const fn row(
    category: Category,
    name: &'static str,
    params: &'static [Param],
    result: Kind,
    doc: &'static str,
) -> Method {
    let fixed_difficulty_only = matches!(category, Category::Generating);
    Method { name, category, group: Group::Mine, params, result, doc, fixed_difficulty_only }
}

const TEMPLATE_TRANSACTION: Kind = Kind::Object(&[
    Field::new("data", Kind::Hex, "The transaction, as it must stand in the block."),
    Field::new("txid", Kind::Hash, "The Merkle leaf to hash: the wtxid (hence \"!segwit\" in rules)."),
    Field::new("hash", Kind::Hash, "The wtxid again."),
    Field::new("id", Kind::Hash, "The true txid."),
    Field::new("depends", Kind::Array(&Kind::Integer), "1-based positions of its parents in this list."),
    Field::new("fee", Kind::Integer, "Sen."),
    Field::new("sigops", Kind::Integer, "Signatures."),
    Field::new("weight", Kind::Integer, "Four times the bytes."),
]);

const TEMPLATE: Kind = Kind::Object(&[
    Field::new("capabilities", Kind::Array(&Kind::Text), "proposal."),
    Field::new("version", Kind::Integer, "Header field; bits 13 to 28 are free."),
    Field::new("rules", Kind::Array(&Kind::Text), "!segwit: leaves are the entries' txid field."),
    Field::new("vbavailable", Kind::Map(&Kind::Integer), "Upgrades to signal for."),
    Field::new("vbrequired", Kind::Integer, "0."),
    Field::new("previousblockhash", Kind::Hash, "The parent."),
    Field::new("transactions", Kind::Array(&TEMPLATE_TRANSACTION), "In block order."),
    Field::new("coinbaseaux", Kind::Map(&Kind::Text), "Nothing."),
    Field::new("coinbasevalue", Kind::Integer, "Subsidy and fees, sen."),
    Field::optional(
        "coinbasetxn",
        Kind::Object(&[
            Field::new("data", Kind::Hex, "A finished coinbase; its last 12 bytes are free for an extranonce."),
            Field::new("txid", Kind::Hash, "Its id and leaf."),
            Field::new("hash", Kind::Hash, "The same."),
            Field::new("depends", Kind::Array(&Kind::Integer), "None."),
            Field::new("fee", Kind::Integer, "0."),
            Field::new("sigops", Kind::Integer, "0."),
            Field::new("weight", Kind::Integer, "Four times its bytes."),
        ]),
        "There when the node has an address to pay (--mining-address).",
    ),
    Field::new("coins_root", Kind::Hash, "What the coinbase must commit to."),
    Field::new("longpollid", Kind::Text, "Send it back to be answered when the template is out of date."),
    Field::new("target", Kind::Hash, "Highest hash that is valid work."),
    Field::new("mintime", Kind::Integer, "Lowest valid header time."),
    Field::new("mutable", Kind::Array(&Kind::Text), "What a miner may change: time, transactions, prevblock."),
    Field::new("noncerange", Kind::Hex, "All nonces."),
    Field::new("sigoplimit", Kind::Integer, "One signature per 64 bytes: the size limit is the limit."),
    Field::new("sizelimit", Kind::Integer, "Most bytes of a block."),
    Field::new("weightlimit", Kind::Integer, "Four times that."),
    Field::new("curtime", Kind::Integer, "Header time."),
    Field::new("bits", Kind::Hex, "Compact target."),
    Field::new("height", Kind::Integer, "The block's height."),
]);

const MINING_INFO: Kind = Kind::Object(&[
    Field::new("blocks", Kind::Integer, "Height of the tip."),
    Field::new("bits", Kind::Hex, "The tip's compact target."),
    Field::new("difficulty", Kind::Number, "The tip's difficulty."),
    Field::new("target", Kind::Hash, "The tip's target."),
    Field::new("networkhashps", Kind::Number, "Hashes a second, as getnetworkhashps."),
    Field::new("pooledtx", Kind::Integer, "Unconfirmed transactions."),
    Field::new("blockmintxfee", Kind::Amount, "Lowest fee rate put into templates, coins per 1,000 bytes."),
    Field::new("chain", Kind::Text, "As in getblockchaininfo."),
    Field::new(
        "next",
        Kind::Object(&[
            Field::new("height", Kind::Integer, "Height."),
            Field::new("bits", Kind::Hex, "Compact target."),
            Field::new("difficulty", Kind::Number, "Difficulty."),
            Field::new("target", Kind::Hash, "Target."),
        ]),
        "The next block.",
    ),
    Field::new("threads", Kind::Integer, "Threads of the built-in miner that are at work."),
    WARNINGS,
]);

pub(super) const METHODS: &[Method] = &[
    row(
        Category::Mining,
        "getblocktemplate",
        &[Param::optional(
            "template_request",
            Kind::Object(&[
                Field::optional("mode", Kind::Text, "template or proposal."),
                Field::optional("capabilities", Kind::Array(&Kind::Text), "What the miner understands."),
                Field::optional("rules", Kind::Array(&Kind::Text), "Taken and ignored."),
                Field::optional("longpollid", Kind::Text, "From an earlier template: wait until it is out of date."),
                Field::optional("data", Kind::Hex, "With mode proposal: a block without work to judge."),
            ]),
            "{}",
            "BIP 22 and BIP 23.",
        )],
        Kind::OneOf(&[TEMPLATE, Kind::Null, Kind::Text]),
        "Work for a miner. With mode proposal: null when the block would be valid, else the rule it breaks.",
    ),
    row(
        Category::Mining,
        "submitblock",
        &[
            Param::required("hexdata", Kind::Hex, "The block."),
            Param::optional("dummy", Kind::Any, "ignored", "There for clients that send it."),
        ],
        Kind::OneOf(&[Kind::Null, Kind::Text]),
        "Hands in a block. null: it is the tip. Else BIP 22's word: duplicate, duplicate-invalid, inconclusive (not \
         judged, or on a branch), or the code of the rule it breaks.",
    ),
    Method { group: Group::Read, ..row(Category::Mining, "getmininginfo", &[], MINING_INFO, "State of mining.") },
    Method {
        group: Group::Read,
        ..row(
            Category::Mining,
            "getnetworkhashps",
            &[
                Param::optional("nblocks", Kind::Integer, "120", "Blocks to look back; -1: one day of blocks."),
                Param::optional("height", Kind::Integer, "-1", "Last block; -1: the tip."),
            ],
            Kind::Number,
            "Hashes a second, estimated from work and times of the last blocks.",
        )
    },
    row(
        Category::Generating,
        "generatetoaddress",
        &[
            Param::required("nblocks", Kind::Integer, "How many."),
            Param::required("address", Kind::Text, "Who is paid."),
            Param::optional("maxtries", Kind::Integer, "1000000", "Hashes to try in all."),
        ],
        Kind::Array(&Kind::Hash),
        "Makes blocks at once.",
    ),
    row(
        Category::Generating,
        "generateblock",
        &[
            Param::required("output", Kind::Text, "Address that is paid."),
            Param::required(
                "transactions",
                Kind::Array(&Kind::Hex),
                "In order: txids of the mempool, or bytes in hex.",
            ),
            Param::optional("submit", Kind::Bool, "true", "false: only build it."),
        ],
        Kind::Object(&[
            Field::new("hash", Kind::Hash, "The block."),
            Field::optional("hex", Kind::Hex, "Its bytes, when it was not submitted."),
        ]),
        "Makes one block with exactly these transactions.",
    ),
    Method {
        group: Group::Control,
        ..row(
            Category::Generating,
            "setmocktime",
            &[Param::required("timestamp", Kind::Integer, "Unix seconds; 0: back to real time.")],
            Kind::Null,
            "Sets the node's wall clock.",
        )
    },
];
