//! Rows: unconfirmed transactions.

use super::{Category, Field, Group, Kind, Method, Param};

const fn row(name: &'static str, params: &'static [Param], result: Kind, doc: &'static str) -> Method {
    let (category, group) = (Category::Mempool, Group::Read);
    Method { name, category, group, params, result, doc, fixed_difficulty_only: false }
}

const ENTRY: Kind = Kind::Object(&[
    Field::new("vsize", Kind::Integer, "Bytes."),
    Field::new("weight", Kind::Integer, "Four times the bytes: witnesses have no discount."),
    Field::new("time", Kind::Integer, "When it came, Unix seconds."),
    Field::new("height", Kind::Integer, "Height of the tip when it came."),
    Field::new("descendantcount", Kind::Integer, "Unconfirmed transactions that need it, itself included."),
    Field::new("descendantsize", Kind::Integer, "Their bytes."),
    Field::new("ancestorcount", Kind::Integer, "Unconfirmed transactions that it needs, itself included."),
    Field::new("ancestorsize", Kind::Integer, "Their bytes."),
    Field::new("wtxid", Kind::Hash, "Identity with witnesses."),
    Field::new(
        "fees",
        Kind::Object(&[
            Field::new("base", Kind::Amount, "Its fee."),
            Field::new("modified", Kind::Amount, "The same: nothing here changes priorities."),
            Field::new("ancestor", Kind::Amount, "Fees of its ancestors and itself."),
            Field::new("descendant", Kind::Amount, "Fees of its descendants and itself."),
        ]),
        "Fees.",
    ),
    Field::new("depends", Kind::Array(&Kind::Hash), "Unconfirmed parents."),
    Field::new("spentby", Kind::Array(&Kind::Hash), "Unconfirmed children."),
    Field::new("bip125-replaceable", Kind::Bool, "Always true: any transaction yields to one that pays enough more."),
    Field::new("unbroadcast", Kind::Bool, "Whether no peer has asked for it yet."),
]);

const ENTRIES: Kind = Kind::OneOf(&[Kind::Array(&Kind::Hash), Kind::Map(&ENTRY)]);
const TXID: Param = Param::required("txid", Kind::Hash, "The unconfirmed transaction.");
const VERBOSE: Param = Param::optional("verbose", Kind::Bool, "false", "true: entries by id instead of ids.");

pub(super) const METHODS: &[Method] = &[
    row(
        "getmempoolinfo",
        &[],
        Kind::Object(&[
            Field::new("loaded", Kind::Bool, "Whether the last run's mempool has been read back."),
            Field::new("size", Kind::Integer, "Transactions."),
            Field::new("bytes", Kind::Integer, "Their bytes."),
            Field::new("usage", Kind::Integer, "Bytes of memory they take."),
            Field::new("total_fee", Kind::Amount, "Their fees."),
            Field::new("maxmempool", Kind::Integer, "Most bytes of memory allowed."),
            Field::new("mempoolminfee", Kind::Amount, "Lowest fee rate taken now, coins per 1,000 bytes."),
            Field::new("minrelaytxfee", Kind::Amount, "Lowest fee rate ever taken."),
            Field::new("incrementalrelayfee", Kind::Amount, "What a replacement adds for its own bytes."),
            Field::new("unbroadcastcount", Kind::Integer, "Transactions no peer has asked for yet."),
            Field::new("fullrbf", Kind::Bool, "Always true."),
        ]),
        "State of the mempool.",
    ),
    row(
        "getrawmempool",
        &[
            VERBOSE,
            Param::optional("mempool_sequence", Kind::Bool, "false", "true: ids and the sequence number they hold at."),
        ],
        Kind::OneOf(&[
            Kind::Array(&Kind::Hash),
            Kind::Object(&[
                Field::new("txids", Kind::Array(&Kind::Hash), "Ids."),
                Field::new("mempool_sequence", Kind::Integer, "Counts the mempool's changes."),
            ]),
            Kind::Map(&ENTRY),
        ]),
        "All unconfirmed transactions.",
    ),
    row("getmempoolentry", &[TXID], ENTRY, "An unconfirmed transaction."),
    row("getmempoolancestors", &[TXID, VERBOSE], ENTRIES, "Unconfirmed transactions that this one needs."),
    row("getmempooldescendants", &[TXID, VERBOSE], ENTRIES, "Unconfirmed transactions that need this one."),
];
