//! Rows: other nodes.

use super::{Category, Field, Group, Kind, Method, Param};

const fn row(group: Group, name: &'static str, params: &'static [Param], result: Kind, doc: &'static str) -> Method {
    Method { name, category: Category::Network, group, params, result, doc, fixed_difficulty_only: false }
}

const PEER: Kind = Kind::Object(&[
    Field::new("id", Kind::Integer, "Number of the connection."),
    Field::new("addr", Kind::Text, "The other end, `ip:port`."),
    Field::optional("addrbind", Kind::Text, "This end."),
    Field::new("network", Kind::Text, "ipv4, ipv6, onion or not_publicly_routable."),
    Field::new("services", Kind::Hex, "Services it offers, as bits."),
    Field::new("servicesnames", Kind::Array(&Kind::Text), "The same in words."),
    Field::new("serves", Kind::Tuple(&[Kind::Integer, Kind::Integer]), "Heights of which it says it has bodies."),
    Field::new("relaytxes", Kind::Bool, "Whether transactions are announced to it."),
    Field::new("lastsend", Kind::Integer, "Unix time of the last bytes sent."),
    Field::new("lastrecv", Kind::Integer, "Unix time of the last bytes received."),
    Field::new("last_transaction", Kind::Integer, "Seconds since it brought a new valid transaction; -1 for never."),
    Field::new("last_block", Kind::Integer, "Seconds since it brought a new valid block; -1 for never."),
    Field::new("bytessent", Kind::Integer, "Bytes sent."),
    Field::new("bytesrecv", Kind::Integer, "Bytes received."),
    Field::new("conntime", Kind::Integer, "Unix time of the connection."),
    Field::new("timeoffset", Kind::Integer, "Seconds that its clock is ahead of ours."),
    Field::optional("pingtime", Kind::Number, "Seconds that the last answer to a ping took."),
    Field::optional("minping", Kind::Number, "The least of them."),
    Field::new("version", Kind::Integer, "Protocol version spoken."),
    Field::new("subver", Kind::Text, "Its software, as it says."),
    Field::new("inbound", Kind::Bool, "Whether it dialled us."),
    Field::new("startingheight", Kind::Integer, "Its height when it connected, as it said."),
    Field::new("synced_headers", Kind::Integer, "Height of the best header it has shown; -1 for none."),
    Field::new("synced_blocks", Kind::Integer, "Height of the last block it has in common with us; -1 for none."),
    Field::new("inflight", Kind::Array(&Kind::Integer), "Heights of blocks asked of it."),
    Field::new("connection_type", Kind::Text, "Why the connection exists."),
    Field::new("transport_protocol_type", Kind::Text, "Always noise."),
    Field::new("bytessent_per_msg", Kind::Map(&Kind::Integer), "Bytes sent by kind of message."),
    Field::new("bytesrecv_per_msg", Kind::Map(&Kind::Integer), "Bytes received by kind of message."),
]);

const NETWORK: Kind = Kind::Object(&[
    Field::new("name", Kind::Text, "ipv4, ipv6 or onion."),
    Field::new("limited", Kind::Bool, "Whether it is left out."),
    Field::new("reachable", Kind::Bool, "Whether it is dialled."),
    Field::new("proxy", Kind::Text, "The proxy used for it; empty for none."),
    Field::new("proxy_randomize_credentials", Kind::Bool, "Always false."),
]);

const LOCAL_ADDRESS: Kind = Kind::Object(&[
    Field::new("address", Kind::Text, "The host."),
    Field::new("port", Kind::Integer, "The port."),
    Field::new("score", Kind::Integer, "Always 1."),
]);

const BAN: Kind = Kind::Object(&[
    Field::new("address", Kind::Text, "The address or subnet."),
    Field::new("ban_created", Kind::Integer, "Unix time of its beginning."),
    Field::new("banned_until", Kind::Integer, "Unix time of its end."),
    Field::new("ban_duration", Kind::Integer, "Its length in seconds."),
    Field::new("time_remaining", Kind::Integer, "What is left of it."),
]);

const KNOWN_ADDRESS: Kind = Kind::Object(&[
    Field::new("time", Kind::Integer, "When it was last known to be there, Unix time."),
    Field::new("services", Kind::Integer, "Its services as bits."),
    Field::new("address", Kind::Text, "The host."),
    Field::new("port", Kind::Integer, "The port."),
    Field::new("network", Kind::Text, "ipv4, ipv6 or onion."),
]);

const ON_ITS_WAY: Kind = Kind::Object(&[
    Field::new("txid", Kind::Hash, "The transaction."),
    Field::new("wtxid", Kind::Hash, "With its witnesses."),
    Field::new("hex", Kind::Hex, "Its bytes."),
    Field::new("time_added", Kind::Integer, "Unix time at which it was handed in."),
    Field::new("peers", Kind::Array(&Kind::Text), "Peers that took it."),
]);

const ADDED: Kind = Kind::Object(&[
    Field::new("addednode", Kind::Text, "As it was given."),
    Field::new("connected", Kind::Bool, "Whether a connection to it is up."),
    Field::new(
        "addresses",
        Kind::Array(&Kind::Object(&[
            Field::new("address", Kind::Text, "The other end."),
            Field::new("connected", Kind::Text, "inbound or outbound."),
        ])),
        "Connections to it.",
    ),
]);

const WAITED: Kind =
    Kind::Object(&[Field::new("hash", Kind::Hash, "The tip."), Field::new("height", Kind::Integer, "Its height.")]);

const TIMEOUT: Param =
    Param::optional("timeout", Kind::Integer, "0", "Milliseconds to wait at most; 0 for as long as it takes.");

pub(super) const METHODS: &[Method] = &[
    row(Group::Read, "getpeerinfo", &[], Kind::Array(&PEER), "Every connection to another node."),
    row(
        Group::Read,
        "getnetworkinfo",
        &[],
        Kind::Object(&[
            Field::new("version", Kind::Integer, "This software's version as a number."),
            Field::new("subversion", Kind::Text, "What this node calls itself."),
            Field::new("protocolversion", Kind::Integer, "The newest peer protocol it speaks."),
            Field::new("localservices", Kind::Hex, "What it offers, as bits."),
            Field::new("localservicesnames", Kind::Array(&Kind::Text), "The same in words."),
            Field::new("localrelay", Kind::Bool, "Whether it relays transactions."),
            Field::new("timeoffset", Kind::Integer, "Median of what outgoing peers' clocks are ahead, in seconds."),
            Field::new("networkactive", Kind::Bool, "Whether the network is switched on."),
            Field::new("connections", Kind::Integer, "Connections."),
            Field::new("connections_in", Kind::Integer, "Of them incoming."),
            Field::new("connections_out", Kind::Integer, "Of them outgoing."),
            Field::new("networks", Kind::Array(&NETWORK), "Networks on which peers are reached."),
            Field::new("relayfee", Kind::Amount, "Least fee for relay, coins per 1,000 bytes."),
            Field::new("incrementalfee", Kind::Amount, "Least increment of a replacement, coins per 1,000 bytes."),
            Field::new("localaddresses", Kind::Array(&LOCAL_ADDRESS), "Where others reach this node, as it was told."),
            Field::new("warnings", Kind::Array(&Kind::Text), "What the operator should know."),
        ]),
        "State of the peer-to-peer network.",
    ),
    row(Group::Read, "getconnectioncount", &[], Kind::Integer, "How many connections there are."),
    row(
        Group::Read,
        "getnettotals",
        &[],
        Kind::Object(&[
            Field::new("totalbytesrecv", Kind::Integer, "Bytes received since the start."),
            Field::new("totalbytessent", Kind::Integer, "Bytes sent since the start."),
            Field::new("timemillis", Kind::Integer, "Unix time in milliseconds."),
            Field::new(
                "uploadtarget",
                Kind::Object(&[
                    Field::new("timeframe", Kind::Integer, "Seconds that a target is for."),
                    Field::new("target", Kind::Integer, "Bytes; 0 for none."),
                    Field::new("target_reached", Kind::Bool, "Whether it is."),
                    Field::new("serve_historical_blocks", Kind::Bool, "Whether old blocks are served."),
                    Field::new("bytes_left_in_cycle", Kind::Integer, "Bytes left."),
                    Field::new("time_left_in_cycle", Kind::Integer, "Seconds left."),
                ]),
                "The limit on what is sent.",
            ),
        ]),
        "Bytes to and from all peers.",
    ),
    row(
        Group::Control,
        "addnode",
        &[
            Param::required("node", Kind::Text, "HOST or HOST:PORT."),
            Param::required("command", Kind::Text, "add (keep a connection), remove, or onetry (dial once)."),
        ],
        Kind::Null,
        "Keeps, or no longer keeps, a connection to a node.",
    ),
    row(
        Group::Control,
        "disconnectnode",
        &[
            Param::optional("address", Kind::Text, "\"\"", "The peer's address, as getpeerinfo shows it."),
            Param::optional("nodeid", Kind::Integer, "", "Or its id."),
        ],
        Kind::Null,
        "Ends a connection.",
    ),
    row(
        Group::Read,
        "getaddednodeinfo",
        &[Param::optional("node", Kind::Text, "all", "One of them.")],
        Kind::Array(&ADDED),
        "Nodes to which a connection is kept.",
    ),
    row(
        Group::Read,
        "getprivatebroadcastinfo",
        &[],
        Kind::Object(&[Field::new("transactions", Kind::Array(&ON_ITS_WAY), "What was sent and has not come back.")]),
        "Transactions on their way by --private-broadcast.",
    ),
    row(
        Group::Control,
        "abortprivatebroadcast",
        &[Param::required("txid", Kind::Hash, "The transaction.")],
        Kind::Object(&[Field::new("removed_transactions", Kind::Array(&ON_ITS_WAY), "What was given up.")]),
        "Sends a transaction to no more peers; those that have it may still pass it on.",
    ),
    row(Group::Control, "ping", &[], Kind::Null, "Asks every peer to answer; getpeerinfo then shows how long it took."),
    row(
        Group::Control,
        "setban",
        &[
            Param::required("subnet", Kind::Text, "An IP address, or a subnet such as 203.0.113.0/24."),
            Param::required("command", Kind::Text, "add or remove."),
            Param::optional("bantime", Kind::Integer, "0", "Seconds, or a Unix time if absolute; 0 for 24 hours."),
            Param::optional("absolute", Kind::Bool, "false", "Whether bantime is a Unix time."),
        ],
        Kind::Null,
        "Bans an address, or takes a ban back.",
    ),
    row(Group::Read, "listbanned", &[], Kind::Array(&BAN), "Every ban."),
    row(Group::Control, "clearbanned", &[], Kind::Null, "Takes every ban back."),
    row(
        Group::Control,
        "setnetworkactive",
        &[Param::required("state", Kind::Bool, "true to switch on.")],
        Kind::Bool,
        "Switches the peer-to-peer network on or off; off ends every connection.",
    ),
    row(
        Group::Read,
        "getnodeaddresses",
        &[
            Param::optional("count", Kind::Integer, "1", "How many at most; 0 for all."),
            Param::optional("network", Kind::Text, "all", "ipv4, ipv6 or onion."),
        ],
        Kind::Array(&KNOWN_ADDRESS),
        "Addresses of nodes that this node knows of.",
    ),
    row(
        Group::Read,
        "waitfornewblock",
        &[TIMEOUT, Param::optional("current_tip", Kind::Hash, "the tip", "Wait until the tip is another than this.")],
        WAITED,
        "Waits for another tip, and gives it.",
    ),
    row(
        Group::Read,
        "waitforblock",
        &[Param::required("blockhash", Kind::Hash, "The block."), TIMEOUT],
        WAITED,
        "Waits until this block is the tip, and gives the tip.",
    ),
    row(
        Group::Read,
        "waitforblockheight",
        &[Param::required("height", Kind::Integer, "The height."), TIMEOUT],
        WAITED,
        "Waits until the tip is at least this high, and gives it.",
    ),
];
