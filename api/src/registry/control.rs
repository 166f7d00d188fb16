//! Rows: small helpers, and the node itself.

use super::{Category, Field, Group, Kind, Method, Param};

const fn row(
    category: Category,
    name: &'static str,
    params: &'static [Param],
    result: Kind,
    doc: &'static str,
) -> Method {
    Method { name, category, group: Group::Read, params, result, doc, fixed_difficulty_only: false }
}

const VALIDATED: Kind = Kind::Object(&[
    Field::new("isvalid", Kind::Bool, "The verdict."),
    Field::optional("address", Kind::Text, "The address in lower case."),
    Field::optional("scriptPubKey", Kind::Hex, "Its 32 bytes."),
    Field::optional("isscript", Kind::Bool, "Always false: there are no scripts."),
    Field::optional("iswitness", Kind::Bool, "Always false: it is none of Bitcoin's."),
    Field::optional("error", Kind::Text, "What is wrong."),
    Field::optional("error_locations", Kind::Array(&Kind::Integer), "Always empty: no place is guessed."),
]);

const INDEX: Kind = Kind::Object(&[
    Field::new("synced", Kind::Bool, "Whether it has reached the tip."),
    Field::new("best_block_height", Kind::Integer, "How far it has come."),
    Field::optional("stopped", Kind::Text, "Why it has stopped."),
]);

const LOCKED: Kind = Kind::Object(&[
    Field::new("used", Kind::Integer, "Always 0: no memory is locked."),
    Field::new("free", Kind::Integer, "Always 0."),
    Field::new("total", Kind::Integer, "Always 0."),
    Field::new("locked", Kind::Integer, "Always 0."),
    Field::new("chunks_used", Kind::Integer, "Always 0."),
    Field::new("chunks_free", Kind::Integer, "Always 0."),
]);

const SHARE: Kind = Kind::Object(&[
    Field::new("limit", Kind::Integer, "Bytes that it may hold, copies made on the way included."),
    Field::optional("used", Kind::Integer, "Bytes that it holds, where that is counted."),
]);

const LOG_CATEGORIES: Kind = Kind::Array(&Kind::Text);

pub(super) const METHODS: &[Method] = &[
    row(
        Category::Util,
        "validateaddress",
        &[Param::required("address", Kind::Text, "The text to judge.")],
        VALIDATED,
        "Whether a text is an address of this network.",
    ),
    row(
        Category::Util,
        "estimatesmartfee",
        &[
            Param::required("conf_target", Kind::Integer, "Blocks to wait at most, 1 to 1008."),
            Param::optional("estimate_mode", Kind::Text, "\"economical\"", "unset, economical or conservative."),
        ],
        Kind::Object(&[
            Field::optional("feerate", Kind::Amount, "Coins per 1,000 bytes."),
            Field::optional("errors", Kind::Array(&Kind::Text), "Why there is none."),
            Field::new("blocks", Kind::Integer, "Blocks that the estimate is for."),
        ]),
        "Fee rate that should confirm a transaction within some blocks.",
    ),
    row(
        Category::Util,
        "getindexinfo",
        &[Param::optional("index_name", Kind::Text, "all", "txindex or addressindex.")],
        Kind::Map(&INDEX),
        "State of the indexes that run.",
    ),
    row(
        Category::Control,
        "getrpcinfo",
        &[],
        Kind::Object(&[
            Field::new(
                "active_commands",
                Kind::Array(&Kind::Object(&[
                    Field::new("method", Kind::Text, "Its name."),
                    Field::new("duration", Kind::Integer, "Microseconds so far."),
                ])),
                "Calls being answered.",
            ),
            Field::new("logpath", Kind::Text, "The log file; empty when the log goes to the terminal."),
        ]),
        "State of the RPC server.",
    ),
    Method {
        group: Group::Control,
        ..row(
            Category::Control,
            "logging",
            &[
                Param::optional("include", LOG_CATEGORIES, "none", "Categories to log in detail; \"all\" for all."),
                Param::optional("exclude", LOG_CATEGORIES, "none", "Categories to stop; wins over include."),
            ],
            Kind::Map(&Kind::Bool),
            "Which categories are logged in detail; changes them if asked.",
        )
    },
    Method {
        group: Group::Control,
        ..row(
            Category::Control,
            "backupnode",
            &[Param::required("folder", Kind::Text, "An absolute path that does not exist yet.")],
            Kind::Object(&[
                Field::new("height", Kind::Integer, "Height of the chain that is in it."),
                Field::new("hash", Kind::Hash, "The block there."),
            ]),
            "Makes a backup of the running node in a new folder on its own machine, as `setara-node backup` does.",
        )
    },
    row(
        Category::Control,
        "getmemoryinfo",
        &[Param::optional("mode", Kind::Text, "\"stats\"", "stats; Bitcoin Core's mallocinfo is not available.")],
        Kind::Object(&[
            Field::new("locked", LOCKED, "Memory locked against being written to swap."),
            Field::new(
                "setara",
                Kind::Object(&[
                    Field::optional("resident", Kind::Integer, "Bytes of the process in memory, as the system counts."),
                    Field::optional("budget", Kind::Integer, "What --max-memory says, in bytes."),
                    Field::new(
                        "shares",
                        Kind::Map(&SHARE),
                        "By part: own, headers, slack, coins, database, mempool, signatures, checking, download, indexes, \
                         peers, early (blocks whose time has not come), snapshot (one that is made or loaded), history \
                         (coins and database of the chain that verifies what is behind a snapshot).",
                    ),
                ]),
                "What the node holds, and who may hold how much.",
            ),
        ]),
        "Memory of the node.",
    ),
    row(Category::Control, "uptime", &[], Kind::Integer, "Seconds since the node started."),
    row(
        Category::Control,
        "help",
        &[Param::optional("command", Kind::Text, "all", "A method.")],
        Kind::Text,
        "All methods, or one in full.",
    ),
    Method {
        group: Group::Control,
        ..row(
            Category::Control,
            "stop",
            &[Param::optional("wait", Kind::Integer, "0", "There for clients that send it; ignored.")],
            Kind::Text,
            "Stops the node.",
        )
    },
    row(Category::Control, "rpc.discover", &[], Kind::Any, "This registry as an OpenRPC document."),
];
