//! Rows: statistics over blocks.

use super::{Category, Field, Group, Kind, Method, Param};

const fn row(name: &'static str, params: &'static [Param], result: Kind, doc: &'static str) -> Method {
    let (category, group) = (Category::Blockchain, Group::Read);
    Method { name, category, group, params, result, doc, fixed_difficulty_only: false }
}

const STATS: Kind = Kind::Object(&[
    Field::optional("avgfee", Kind::Integer, "Mean fee, sen."),
    Field::optional("avgfeerate", Kind::Integer, "Mean fee rate, sen a byte."),
    Field::optional("avgtxsize", Kind::Integer, "Mean bytes of a transaction."),
    Field::optional("blockhash", Kind::Hash, "The block."),
    Field::optional(
        "feerate_percentiles",
        Kind::Array(&Kind::Integer),
        "Fee rates at the 10th, 25th, 50th, 75th and 90th percentile of bytes, sen a byte.",
    ),
    Field::optional("height", Kind::Integer, "Its height."),
    Field::optional("ins", Kind::Integer, "Inputs, the coinbase's excluded."),
    Field::optional("maxfee", Kind::Integer, "Highest fee."),
    Field::optional("maxfeerate", Kind::Integer, "Highest fee rate."),
    Field::optional("maxtxsize", Kind::Integer, "Most bytes of a transaction."),
    Field::optional("medianfee", Kind::Integer, "Median fee."),
    Field::optional("mediantime", Kind::Integer, "Median time past."),
    Field::optional("mediantxsize", Kind::Integer, "Median bytes of a transaction."),
    Field::optional("minfee", Kind::Integer, "Lowest fee."),
    Field::optional("minfeerate", Kind::Integer, "Lowest fee rate."),
    Field::optional("mintxsize", Kind::Integer, "Fewest bytes of a transaction."),
    Field::optional("outs", Kind::Integer, "Outputs."),
    Field::optional("subsidy", Kind::Integer, "New coins allowed, sen."),
    Field::optional("swtotal_size", Kind::Integer, "Bytes of transactions with witnesses: all but the coinbase."),
    Field::optional("swtotal_weight", Kind::Integer, "Four times that."),
    Field::optional("swtxs", Kind::Integer, "Transactions with witnesses: all but the coinbase."),
    Field::optional("time", Kind::Integer, "Unix seconds."),
    Field::optional("total_out", Kind::Integer, "Sum of outputs, the coinbase's excluded."),
    Field::optional("total_size", Kind::Integer, "Bytes of transactions, the coinbase's excluded."),
    Field::optional("total_weight", Kind::Integer, "Four times that."),
    Field::optional("totalfee", Kind::Integer, "Sum of fees."),
    Field::optional("txs", Kind::Integer, "Transactions, the coinbase included."),
    Field::optional("utxo_increase", Kind::Integer, "Outputs less inputs."),
    Field::optional("utxo_size_inc", Kind::Integer, "The same in bytes of coins."),
    Field::optional("utxo_increase_actual", Kind::Integer, "Unspent coins gained: zero outputs are none."),
    Field::optional("utxo_size_inc_actual", Kind::Integer, "The same in bytes of coins."),
]);

pub(super) const METHODS: &[Method] = &[
    row(
        "getblockstats",
        &[
            Param::required("hash_or_height", Kind::OneOf(&[Kind::Hash, Kind::Integer]), "The block."),
            Param::optional("stats", Kind::Array(&Kind::Text), "all", "Names of the values wanted."),
        ],
        STATS,
        "Statistics of a block of the active chain; amounts are whole sen.",
    ),
    row(
        "getchaintxstats",
        &[
            Param::optional("nblocks", Kind::Integer, "one month of blocks", "Blocks in the window."),
            Param::optional("blockhash", Kind::Hash, "the tip", "The window's last block."),
        ],
        Kind::Object(&[
            Field::new("time", Kind::Integer, "Time of the last block."),
            Field::new("txcount", Kind::Integer, "Transactions from genesis to there."),
            Field::new("window_final_block_hash", Kind::Hash, "The last block."),
            Field::new("window_final_block_height", Kind::Integer, "Its height."),
            Field::new("window_block_count", Kind::Integer, "Blocks in the window."),
            Field::optional("window_interval", Kind::Integer, "Seconds between the medians at its ends."),
            Field::optional("window_tx_count", Kind::Integer, "Transactions in it."),
            Field::optional("txrate", Kind::Number, "Transactions a second."),
        ]),
        "How many transactions a stretch of the chain holds.",
    ),
];
