//! Rows: the address index. Zebra's and bitcore's shapes; amounts are whole sen.

use super::{Category, Field, Group, Kind, Method, Param};

const fn row(name: &'static str, params: &'static [Param], result: Kind, doc: &'static str) -> Method {
    let (category, group) = (Category::Addressindex, Group::Read);
    Method { name, category, group, params, result, doc, fixed_difficulty_only: false }
}

const UTXO: Kind = Kind::Object(&[
    Field::new("address", Kind::Text, "Its address."),
    Field::new("txid", Kind::Hash, "The transaction that made it."),
    Field::new("outputIndex", Kind::Integer, "Its position there."),
    Field::new("script", Kind::Hex, "The 32 bytes of the address."),
    Field::new("satoshis", Kind::Integer, "Sen."),
    Field::new("height", Kind::Integer, "Height of the block that made it."),
    Field::new("coinbase", Kind::Bool, "Whether a coinbase made it: then it must mature."),
    Field::new("confirmations", Kind::Integer, "Blocks from that one to the tip, both included."),
]);

const DELTA: Kind = Kind::Object(&[
    Field::new("address", Kind::Text, "Whose money moves."),
    Field::new("txid", Kind::Hash, "The unconfirmed transaction."),
    Field::new("index", Kind::Integer, "Position of the output or input."),
    Field::new("satoshis", Kind::Integer, "Sen gained; negative when spent."),
    Field::new("timestamp", Kind::Integer, "When it came, Unix seconds."),
    Field::optional("prevtxid", Kind::Hash, "Of a spend: the transaction that made the coin."),
    Field::optional("prevout", Kind::Integer, "Of a spend: the coin's position there."),
]);

const TEXTS: Kind = Kind::Array(&Kind::Text);

const LIST: Field = Field::new("addresses", TEXTS, "Up to 1,000.");

const fn addresses(fields: &'static [Kind]) -> Param {
    Param::required("addresses", Kind::OneOf(fields), "One address, a list of up to 1,000, or an object with one.")
}

pub(super) const METHODS: &[Method] = &[
    row(
        "getaddressbalance",
        &[addresses(&[Kind::Text, TEXTS, Kind::Object(&[LIST])])],
        Kind::Object(&[
            Field::new("balance", Kind::Integer, "Confirmed and unspent, sen."),
            Field::new("received", Kind::Integer, "Ever received, change included, sen."),
        ]),
        "Confirmed money of addresses.",
    ),
    row(
        "getaddressutxos",
        &[
            addresses(&[
                Kind::Text,
                TEXTS,
                Kind::Object(&[
                    LIST,
                    Field::optional("chainInfo", Kind::Bool, "Whether to say at which tip this holds."),
                ]),
            ]),
            Param::optional("chainInfo", Kind::Bool, "false", "The same, beside a list."),
        ],
        Kind::OneOf(&[
            Kind::Array(&UTXO),
            Kind::Object(&[
                Field::new("utxos", Kind::Array(&UTXO), "The outputs."),
                Field::new("hash", Kind::Hash, "The tip."),
                Field::new("height", Kind::Integer, "Its height."),
            ]),
        ]),
        "Unspent confirmed outputs of addresses, by height, at most 100,000.",
    ),
    row(
        "getaddresstxids",
        &[
            addresses(&[
                Kind::Text,
                TEXTS,
                Kind::Object(&[
                    LIST,
                    Field::optional("start", Kind::Integer, "First height; 0 if absent."),
                    Field::optional("end", Kind::Integer, "Last height; the tip if absent."),
                ]),
            ]),
            Param::optional("start", Kind::Integer, "0", "The same, beside a list."),
            Param::optional("end", Kind::Integer, "the tip", "The same, beside a list."),
        ],
        Kind::Array(&Kind::Hash),
        "Confirmed transactions that pay to or spend from addresses, in chain order, at most 100,000.",
    ),
    row(
        "getaddressmempool",
        &[addresses(&[Kind::Text, TEXTS, Kind::Object(&[LIST])])],
        Kind::Array(&DELTA),
        "What unconfirmed transactions pay to and spend from addresses, at most 100,000.",
    ),
];
