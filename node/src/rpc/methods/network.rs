//! Other nodes, and waiting for blocks. What is asked of the peer-to-peer network is asked of its brain, in its thread.

use super::stopping;
use super::transactions::refused;
use crate::chain::{HeaderPoint, TipInfo};
use crate::mempool::MempoolError;
use crate::p2p::brain::Parts;
use crate::p2p::brain::bans::{BAN_SECONDS, Subnet};
use crate::p2p::brain::blocks::UPLOAD_PERIOD;
use crate::p2p::brain::interface::{Action, Desk, Dial, Ending, Link, PeerId};
use crate::p2p::brain::outbound::Added;
use crate::p2p::brain::peer::Peer;
use crate::p2p::brain::private::Sending;
use crate::p2p::limits::PROTOCOL_VERSION;
use crate::p2p::message::{NetAddress, PeerAddress, services};
use crate::p2p::shell::PeerNetwork;
use crate::rpc::args::Args;
use crate::rpc::context::RpcContext;
use crate::rpc::convert;
use crate::rpc::dispatch::{Waiting, answer};
use crate::rpc::envelope::Outcome;
use crate::rpc::error::RpcError;
use serde_json::{Value, json};
use setara_api::error::ErrorCode;
use setara_core::codec::encode;
use setara_core::hash::BlockHash;
use setara_core::transaction::Transaction;
use std::sync::Arc;
use std::time::Duration;

/// This software's version as Bitcoin Core writes its own: 10,000 a minor version, 100 a patch.
const VERSION_NUMBER: u32 = 10_000;

fn network(context: &RpcContext) -> Result<&Arc<PeerNetwork>, RpcError> {
    let disabled = || RpcError::new(ErrorCode::P2P_DISABLED, "Peer-to-peer functionality is disabled");
    context.peers.as_ref().ok_or_else(disabled)
}

/// A peer as its connection and its brain's state say it.
struct Seen {
    peer: Peer,
    synced_headers: i64,
    synced_blocks: i64,
    in_flight: Vec<u32>,
    relays: bool,
}

fn seen(context: &RpcContext) -> Result<Vec<Seen>, RpcError> {
    let ask = network(context)?.ask(|parts, desk| {
        let describe = |peer: &Peer| Seen {
            peer: peer.clone(),
            synced_headers: parts.sync.shown(peer.id).map_or(-1, |point| i64::from(point.height.get())),
            synced_blocks: common(parts, desk, peer.id).map_or(-1, |point| i64::from(point.height.get())),
            in_flight: in_flight(parts, desk, peer.id),
            relays: peer.relays_transactions(),
        };
        parts.peers().map(describe).collect()
    });
    ask.ok_or_else(stopping)
}

/// The last block that a peer's branch and ours have in common.
fn common(parts: &Parts, desk: &Desk<'_>, peer: PeerId) -> Option<HeaderPoint> {
    let shown = parts.sync.shown(peer)?;
    desk.chain.headers().fork(&shown.hash, &desk.chain.view().tip.hash())
}

/// Heights of blocks that a peer was asked for.
fn in_flight(parts: &Parts, desk: &Desk<'_>, peer: PeerId) -> Vec<u32> {
    let headers = desk.chain.headers();
    let height = |hash: &BlockHash| headers.get(hash).map(|known| known.state.height.get());
    let mut heights: Vec<u32> = parts.download.in_flight_of(peer).iter().filter_map(height).collect();
    heights.sort_unstable();
    heights
}

/// Names of service bits, as Bitcoin Core writes such lists.
fn service_names(bits: u64) -> Vec<&'static str> {
    let names = [
        (services::BLOCKS, "NETWORK"),
        (services::TRANSACTIONS, "TRANSACTIONS"),
        (services::COMPACT_BLOCKS, "COMPACT_BLOCKS"),
        (services::SNAPSHOTS, "SNAPSHOTS"),
    ];
    names.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| name).collect()
}

const fn network_name(host: &NetAddress) -> &'static str {
    match host {
        NetAddress::V4(_) => "ipv4",
        NetAddress::V6(_) => "ipv6",
        NetAddress::Onion(_) => "onion",
    }
}

const fn link_name(link: Link) -> &'static str {
    match link {
        Link::Inbound => "inbound",
        Link::OutboundFull => "outbound-full-relay",
        Link::BlockOnly => "block-relay-only",
        Link::Feeler => "feeler",
        Link::Manual => "manual",
        Link::AddressFetch => "addr-fetch",
        Link::PrivateBroadcast => "private-broadcast",
    }
}

fn seconds_since(now: Duration, at: Option<Duration>) -> i64 {
    at.map_or(-1, |at| i64::try_from(now.saturating_sub(at).as_secs()).unwrap_or(i64::MAX))
}

pub(super) fn getpeerinfo(context: &RpcContext, _: &Args) -> Outcome {
    let network = network(context)?;
    let now = context.clock.monotonic();
    let mut peers = Vec::new();
    for Seen { peer, synced_headers, synced_blocks, in_flight, relays } in seen(context)? {
        let Some(open) = network.connection(peer.id) else { continue };
        let hello = peer.hello.as_deref();
        let (sent, received) = (&open.stats.sent, &open.stats.received);
        let mut shown = json!({
            "id": peer.id.0,
            "addr": peer.address.to_string(),
            "network": network_name(&peer.address.host),
            "services": format!("{:016x}", peer.services()),
            "servicesnames": service_names(peer.services()),
            "serves": [peer.serves().0, peer.serves().1],
            "relaytxes": relays,
            "lastsend": sent.last(),
            "lastrecv": received.last(),
            "last_transaction": seconds_since(now, peer.last_transaction),
            "last_block": seconds_since(now, peer.last_block),
            "bytessent": sent.bytes(),
            "bytesrecv": received.bytes(),
            "conntime": peer.since_unix,
            "timeoffset": peer.time_offset,
            "version": peer.version,
            "subver": hello.map_or("", |hello| hello.agent.as_str()),
            "inbound": peer.link.is_inbound(),
            "startingheight": peer.serves().1,
            "synced_headers": synced_headers,
            "synced_blocks": synced_blocks,
            "inflight": in_flight,
            "connection_type": link_name(peer.link),
            "transport_protocol_type": "noise",
            "bytessent_per_msg": sent.by_kind(),
            "bytesrecv_per_msg": received.by_kind(),
        });
        let Value::Object(fields) = &mut shown else { continue };
        let mut add = |name: &str, value: Option<Value>| value.map(|value| fields.insert(name.to_owned(), value));
        add("addrbind", open.local.map(|address| address.to_string().into()));
        add("pingtime", peer.latency.map(|time| convert::float(time.as_secs_f64())));
        add("minping", peer.latency_min.map(|time| convert::float(time.as_secs_f64())));
        peers.push(shown);
    }
    answer(&peers)
}

pub(super) fn getconnectioncount(context: &RpcContext, _: &Args) -> Outcome {
    answer(&network(context)?.ask(|parts, _| parts.peers().count()).ok_or_else(stopping)?)
}

pub(super) fn getnetworkinfo(context: &RpcContext, _: &Args) -> Outcome {
    let peers = context.peers.as_ref();
    let state = match peers {
        None => None,
        Some(network) => Some(
            network
                .ask(|parts, _| {
                    let inbound = parts.peers().filter(|peer| peer.link.is_inbound()).count();
                    let mut offsets: Vec<i64> = parts
                        .peers()
                        .filter(|peer| !peer.link.is_inbound() && peer.hello.is_some())
                        .map(|peer| peer.time_offset)
                        .collect();
                    offsets.sort_unstable();
                    let offset = offsets.get(offsets.len() / 2).copied().unwrap_or(0);
                    (
                        inbound,
                        parts.peers().count(),
                        offset,
                        parts.outbound.is_active(),
                        parts.options().clone(),
                        parts.own_addresses(),
                    )
                })
                .ok_or_else(stopping)?,
        ),
    };
    let (inbound, all, offset, active) =
        state.as_ref().map_or((0, 0, 0, false), |state| (state.0, state.1, state.2, state.3));
    let (options, external) = state.map_or((None, Vec::new()), |state| (Some(state.4), state.5));
    let ours = services::BLOCKS | services::TRANSACTIONS | services::COMPACT_BLOCKS;
    let proxy = peers.and_then(|network| network.proxy()).map_or_else(String::new, |proxy| proxy.to_string());
    let reaches = |name: &str| match name {
        "onion" => !proxy.is_empty(),
        _ => peers.is_some(),
    };
    let networks: Vec<Value> = ["ipv4", "ipv6", "onion"]
        .iter()
        .map(|name| {
            let reachable = reaches(name);
            json!({"name": name, "limited": !reachable, "reachable": reachable, "proxy": proxy,
                   "proxy_randomize_credentials": false})
        })
        .collect();
    let local: Vec<Value> = external
        .iter()
        .map(|address| {
            let text = address.to_string();
            let host = text.rsplit_once(':').map_or(text.as_str(), |(host, _)| host).to_owned();
            json!({"address": host, "port": address.port, "score": 1})
        })
        .collect();
    let floor = context.mempool.options();
    answer(&json!({
        "version": VERSION_NUMBER,
        "subversion": options.map_or_else(crate::p2p::agent, |options| options.agent),
        "protocolversion": PROTOCOL_VERSION,
        "localservices": format!("{ours:016x}"),
        "localservicesnames": service_names(ours),
        "localrelay": true,
        "timeoffset": offset,
        "networkactive": active,
        "connections": all,
        "connections_in": inbound,
        "connections_out": all - inbound,
        "networks": networks,
        "relayfee": convert::feerate(floor.relay_floor),
        "incrementalfee": convert::feerate(floor.increment),
        "localaddresses": local,
        "warnings": context.warnings(),
    }))
}

pub(super) fn getnettotals(context: &RpcContext, _: &Args) -> Outcome {
    let network = network(context)?;
    let totals = network.totals();
    let (received, sent) = (totals.received.bytes(), totals.sent.bytes());
    let upload = network.ask(move |parts, desk| {
        parts.blocks.note_sent(desk, sent);
        parts.blocks.upload(desk.monotonic())
    });
    let upload = upload.ok_or_else(stopping)?;
    answer(&json!({
        "totalbytesrecv": received,
        "totalbytessent": sent,
        "timemillis": context.clock.unix_millis(),
        "uploadtarget": {
            "timeframe": UPLOAD_PERIOD.as_secs(),
            "target": upload.map_or(0, |upload| upload.target),
            "target_reached": upload.is_some_and(|upload| upload.is_reached),
            "serve_historical_blocks": upload.is_none_or(|upload| upload.serves_history),
            "bytes_left_in_cycle": upload.map_or(0, |upload| upload.left),
            "time_left_in_cycle": upload.map_or(0, |upload| upload.time_left.as_secs()),
        },
    }))
}

/// A node as the operator writes it.
fn peer_address(context: &RpcContext, text: &str) -> Result<PeerAddress, RpcError> {
    let name: crate::config::PeerName =
        text.parse().map_err(|reason: String| RpcError::parameter(format!("Error: {reason}")))?;
    let proxy = context.peers.as_ref().and_then(|peers| peers.proxy());
    crate::p2p::resolve(&name, context.network.p2p_port, crate::p2p::Names::with(proxy))
        .map_err(|error| RpcError::new(ErrorCode::CLIENT_INVALID_IP_OR_SUBNET, error.to_string()))
}

pub(super) fn addnode(context: &RpcContext, args: &Args) -> Outcome {
    let network = network(context)?;
    let name = args.text("node").to_owned();
    // By the name it was added under, whatever that leads to now.
    if args.text("command") == "remove" {
        let same = name.clone();
        let removed = network.ask(move |parts, _| parts.outbound.remove_manual(|added| added.name == same));
        if removed.ok_or_else(stopping)? {
            return answer(&Value::Null);
        }
    }
    let address = peer_address(context, &name)?;
    let done = match args.text("command") {
        "add" => network.ask(move |parts, _| parts.outbound.add_manual(Added { address, name })),
        "remove" => network.ask(move |parts, _| parts.outbound.remove_manual(|added| added.address == address)),
        "onetry" => network.ask(move |_, desk| {
            desk.actions.push(Action::Dial(Dial { address, link: Link::Manual }));
            true
        }),
        _ => return Err(RpcError::parameter("command must be add, remove or onetry")),
    };
    match (done.ok_or_else(stopping)?, args.text("command")) {
        (true, _) => answer(&Value::Null),
        (false, "add") => Err(RpcError::new(ErrorCode::CLIENT_NODE_ALREADY_ADDED, "Error: Node already added")),
        (false, _) => Err(RpcError::new(
            ErrorCode::CLIENT_NODE_NOT_ADDED,
            "Error: Node could not be removed. It has not been added previously.",
        )),
    }
}

pub(super) fn disconnectnode(context: &RpcContext, args: &Args) -> Outcome {
    let address = args.optional_text("address").filter(|text| !text.is_empty()).map(str::to_owned);
    let id = args.value("nodeid").map(|_| args.integer("nodeid", 0)).transpose()?;
    let which: Box<dyn Fn(&Peer) -> bool + Send> = match (address, id) {
        (Some(address), None) => Box::new(move |peer| peer.address.to_string() == address),
        (None, Some(id)) => Box::new(move |peer| i64::try_from(peer.id.0) == Ok(id)),
        _ => {
            return Err(RpcError::new(
                ErrorCode::INVALID_PARAMETER,
                "Only one of address and nodeid should be provided.",
            ));
        }
    };
    let ended = network(context)?.ask(move |parts, desk| {
        let found: Vec<PeerId> = parts.peers().filter(|peer| which(peer)).map(|peer| peer.id).collect();
        for id in &found {
            parts.close(desk, *id, Ending::Operator);
        }
        !found.is_empty()
    });
    if ended.ok_or_else(stopping)? {
        answer(&Value::Null)
    } else {
        Err(RpcError::new(ErrorCode::CLIENT_NODE_NOT_CONNECTED, "Node not found in connected nodes"))
    }
}

pub(super) fn getaddednodeinfo(context: &RpcContext, args: &Args) -> Outcome {
    let only = args.optional_text("node").map(str::to_owned);
    // Under another name than the one it was added by, if that leads anywhere.
    let alike = only.as_deref().and_then(|text| peer_address(context, text).ok());
    let added = network(context)?.ask(|parts, _| {
        let describe = |added: &Added| {
            let open: Vec<bool> = parts
                .peers()
                .filter(|peer| peer.address == added.address && peer.hello.is_some())
                .map(|peer| peer.link.is_inbound())
                .collect();
            (added.clone(), open)
        };
        parts.outbound.manual().iter().map(describe).collect::<Vec<_>>()
    });
    let added = added.ok_or_else(stopping)?;
    let wanted = |added: &Added| only.as_ref().is_none_or(|only| added.name == *only || Some(added.address) == alike);
    if only.is_some() && !added.iter().any(|(added, _)| wanted(added)) {
        let message = "Error: Node has not been added.";
        return Err(RpcError::new(ErrorCode::CLIENT_NODE_NOT_ADDED, message));
    }
    let shown = added.iter().filter(|(added, _)| wanted(added)).map(|(added, open)| {
        let addresses: Vec<Value> = open
            .iter()
            .map(|inbound| {
                let way = if *inbound { "inbound" } else { "outbound" };
                json!({"address": added.address.to_string(), "connected": way})
            })
            .collect();
        json!({"addednode": added.name, "connected": !open.is_empty(), "addresses": addresses})
    });
    answer(&shown.collect::<Vec<_>>())
}

/// Hands a transaction that the mempool would take to the network, for it alone.
pub(super) fn send_privately(context: &RpcContext, transaction: Transaction) -> Outcome {
    let (txid, now) = (transaction.txid(), context.clock.unix_seconds());
    match context.mempool.test(transaction.clone()) {
        Ok(_) => {}
        // It has come back, or others knew it before.
        Err(MempoolError::AlreadyInMempool) => return answer(&txid),
        Err(error) => return Err(refused(&error)),
    }
    let taken = network(context)?.ask(move |parts, _| parts.private.add(transaction, now)).ok_or_else(stopping)?;
    taken.map_err(|full| RpcError::misc(full.to_string()))?;
    answer(&txid)
}

fn on_its_way(sending: &Sending) -> Value {
    let peers: Vec<String> = sending.told.iter().map(PeerAddress::to_string).collect();
    json!({
        "txid": sending.ids.txid,
        "wtxid": sending.ids.wtxid,
        "hex": hex::encode(encode(&*sending.transaction)),
        "time_added": sending.since,
        "peers": peers,
    })
}

pub(super) fn getprivatebroadcastinfo(context: &RpcContext, _: &Args) -> Outcome {
    let waiting = network(context)?.ask(|parts, _| parts.private.waiting().cloned().collect::<Vec<_>>());
    let shown: Vec<Value> = waiting.ok_or_else(stopping)?.iter().map(on_its_way).collect();
    answer(&json!({ "transactions": shown }))
}

pub(super) fn abortprivatebroadcast(context: &RpcContext, args: &Args) -> Outcome {
    let txid = args.txid("txid")?;
    let given_up = network(context)?.ask(move |parts, _| parts.private.abort(txid)).ok_or_else(stopping)?;
    if given_up.is_empty() {
        let message = "Transaction not in private broadcast queue. Check getprivatebroadcastinfo.";
        return Err(RpcError::new(ErrorCode::INVALID_ADDRESS_OR_KEY, message));
    }
    let shown: Vec<Value> = given_up.iter().map(on_its_way).collect();
    answer(&json!({ "removed_transactions": shown }))
}

pub(super) fn ping(context: &RpcContext, _: &Args) -> Outcome {
    network(context)?.ask(|parts, desk| parts.ping_all(desk)).ok_or_else(stopping)?;
    answer(&Value::Null)
}

pub(super) fn setban(context: &RpcContext, args: &Args) -> Outcome {
    let invalid = || RpcError::new(ErrorCode::CLIENT_INVALID_IP_OR_SUBNET, "Error: Invalid IP/Subnet");
    let subnet: Subnet = args.text("subnet").parse().map_err(|_| invalid())?;
    let now = context.clock.unix_seconds();
    let seconds = args.integer("bantime", 0)?;
    let seconds = u64::try_from(seconds).map_err(|_| RpcError::parameter("bantime must not be negative"))?;
    let absolute = args.flag("absolute", false);
    let network = network(context)?;
    match args.text("command") {
        "add" => {
            let until = match (seconds, absolute) {
                (0, _) => now.saturating_add(BAN_SECONDS),
                (time, true) if time <= now => {
                    return Err(RpcError::parameter("Error: Absolute timestamp is in the past"));
                }
                (time, true) => time,
                (seconds, false) => now.saturating_add(seconds),
            };
            let added = network.ask(move |parts, desk| parts.ban(desk, subnet, until)).ok_or_else(stopping)?;
            if added {
                answer(&Value::Null)
            } else {
                Err(RpcError::new(ErrorCode::CLIENT_NODE_ALREADY_ADDED, "Error: IP/Subnet already banned"))
            }
        }
        "remove" => {
            if network.ask(move |parts, _| parts.bans.unban(&subnet)).ok_or_else(stopping)? {
                answer(&Value::Null)
            } else {
                let message = "Error: Unban failed. Requested address/subnet was not previously manually banned.";
                Err(RpcError::new(ErrorCode::CLIENT_INVALID_IP_OR_SUBNET, message))
            }
        }
        _ => Err(RpcError::parameter("command must be add or remove")),
    }
}

pub(super) fn listbanned(context: &RpcContext, _: &Args) -> Outcome {
    let now = context.clock.unix_seconds();
    let bans = network(context)?.ask(move |parts, _| parts.bans.list(now).collect::<Vec<_>>()).ok_or_else(stopping)?;
    let shown = bans.iter().map(|(subnet, ban)| {
        json!({
            "address": subnet.to_string(),
            "ban_created": ban.since,
            "banned_until": ban.until,
            "ban_duration": ban.until.saturating_sub(ban.since),
            "time_remaining": ban.until.saturating_sub(now),
        })
    });
    answer(&shown.collect::<Vec<_>>())
}

pub(super) fn clearbanned(context: &RpcContext, _: &Args) -> Outcome {
    network(context)?.ask(|parts, _| parts.bans.clear()).ok_or_else(stopping)?;
    answer(&Value::Null)
}

pub(super) fn setnetworkactive(context: &RpcContext, args: &Args) -> Outcome {
    let active = args.flag("state", true);
    network(context)?.ask(move |parts, desk| parts.set_active(desk, active)).ok_or_else(stopping)?;
    answer(&active)
}

pub(super) fn getnodeaddresses(context: &RpcContext, args: &Args) -> Outcome {
    let count = args.integer("count", 1)?;
    let count = usize::try_from(count).map_err(|_| RpcError::parameter("Address count out of range"))?;
    let only = args.optional_text("network").filter(|name| !name.is_empty()).map(str::to_owned);
    if let Some(name) = &only
        && !["ipv4", "ipv6", "onion"].contains(&name.as_str())
    {
        return Err(RpcError::parameter("Network not recognized: expected ipv4, ipv6 or onion"));
    }
    let known = network(context)?.ask(|parts, desk| parts.known_addresses(desk)).ok_or_else(stopping)?;
    let limit = if count == 0 { usize::MAX } else { count };
    let wanted =
        known.iter().filter(|record| only.as_deref().is_none_or(|name| name == network_name(&record.address.host)));
    let shown = wanted.take(limit).map(|record| {
        let text = record.address.to_string();
        let host = text.rsplit_once(':').map_or(text.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        json!({
            "time": record.time,
            "services": record.services,
            "address": host,
            "port": record.address.port,
            "network": network_name(&record.address.host),
        })
    });
    answer(&shown.collect::<Vec<_>>())
}

/// Waits for the tip without holding a worker.
async fn wait_for(context: &RpcContext, args: &Args, what: impl Fn(&TipInfo) -> bool + Send) -> Result<(), RpcError> {
    let millis = args.integer("timeout", 0)?;
    let millis = u64::try_from(millis).map_err(|_| RpcError::parameter("Negative timeout"))?;
    let mut tips = context.chain.tip_watch();
    // The watch holds the newest value: nothing is missed between looking and waiting.
    let wait = tips.wait_for(what);
    if millis == 0 {
        let _ = wait.await;
    } else {
        let _ = tokio::time::timeout(Duration::from_millis(millis), wait).await;
    }
    Ok(())
}

pub(super) fn wait_for_new_block(context: Arc<RpcContext>, args: Args) -> Waiting {
    Box::pin(async move {
        let seen = args.optional_block_hash("current_tip")?.unwrap_or_else(|| context.chain.view().tip.hash());
        wait_for(&context, &args, move |tip| tip.hash != seen).await
    })
}

pub(super) fn wait_for_block(context: Arc<RpcContext>, args: Args) -> Waiting {
    Box::pin(async move {
        let wanted = args.block_hash("blockhash")?;
        wait_for(&context, &args, move |tip| tip.hash == wanted).await
    })
}

pub(super) fn wait_for_block_height(context: Arc<RpcContext>, args: Args) -> Waiting {
    Box::pin(async move {
        let height = args.integer("height", 0)?;
        wait_for(&context, &args, move |tip| i64::from(tip.height.get()) >= height).await
    })
}

/// The tip, once the waiting is over.
pub(super) fn waited(context: &RpcContext, _: &Args) -> Outcome {
    let tip = context.chain.view().tip.header;
    answer(&json!({"hash": tip.hash, "height": tip.height}))
}
