//! Invites: one string that brings another machine into a network. `setara-node invite` prints one; `setara-node join`
//! fetches the genesis file from the peer it names, holds it against the hash in it, and runs a node.
//!
//! `setara://[KEY@]HOST:PORT/GENESIS_HASH[/UPGRADES_HASH]`: KEY, 64 hexadecimal digits, pins the peer's static key.
//! Of the file only what the genesis hash covers is trusted; its name for the data folder is covered, its ports and
//! peers are hints.

use crate::config::{Config, PeerName};
use crate::datadir::read_endpoints;
use crate::p2p;
use crate::p2p::message::{Message, NetAddress, kind};
use crate::p2p::shell::files::{self, Files};
use crate::p2p::shell::frames::Received;
use crate::p2p::shell::noise::{Handshake, Role, Session, StaticKey};
use crate::p2p::shell::{conn, dial};
use setara_api::client::{Auth, Client};
use setara_core::hash::BlockHash;
use setara_core::limits;
use setara_core::network::Network;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What every invite starts with.
const SCHEME: &str = "setara://";
/// How long the peer may take to send its genesis file.
const FETCH_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the running node may take to say where it is reached.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// An invite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// The peer's static key, if it keeps one.
    pub key: Option<[u8; 32]>,
    /// The peer.
    pub peer: PeerName,
    /// The network.
    pub genesis: BlockHash,
}

/// Why something is no invite, or leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// Not an invite.
    #[error("not an invite: {0}. An invite looks like setara://HOST:PORT/GENESIS_HASH")]
    Syntax(&'static str),
    /// It names upgrades, which this version does not know.
    #[error("the invite's network has upgrades that this version does not know; a newer setara-node is needed")]
    Upgrades,
    /// Nobody knows how to reach this node.
    #[error(
        "no address to invite to: say at which address others reach this node with --address HOST:PORT (or \
         --external-address in its configuration); a running node with --map-port knows it by itself"
    )]
    NoAddress,
    /// The invite is to name a key that has not been made yet.
    #[error("this node has no lasting key yet: start it once with --lasting-identity, then its invites name the key")]
    NoIdentity,
    /// The peer cannot be reached, or is not the one meant.
    #[error("{peer}: {reason}")]
    Peer {
        /// Who.
        peer: String,
        /// What is wrong.
        reason: String,
    },
    /// The file is not the one that the invite means.
    #[error("the peer sent a genesis file of another network ({got}, the invite says {expected}); nothing was written")]
    WrongGenesis {
        /// Hash of what was sent.
        got: BlockHash,
        /// Hash in the invite.
        expected: BlockHash,
    },
    /// A file cannot be written or read.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        if let Some(key) = &self.key {
            write!(f, "{}@", hex::encode(key))?;
        }
        let host = &self.peer.host;
        let bracketed = host.contains(':');
        let (open, close) = if bracketed { ("[", "]") } else { ("", "") };
        write!(f, "{open}{host}{close}:{}/{}", self.peer.port.unwrap_or_default(), self.genesis)
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    fn from_str(text: &str) -> Result<Self, InviteError> {
        let rest = text.trim().strip_prefix(SCHEME).ok_or(InviteError::Syntax("it starts otherwise"))?;
        let mut parts = rest.split('/');
        let peer = parts.next().unwrap_or_default();
        let genesis = parts.next().ok_or(InviteError::Syntax("the genesis hash is missing"))?;
        if parts.next().is_some_and(|upgrades| !upgrades.is_empty()) || parts.next().is_some() {
            return Err(InviteError::Upgrades);
        }
        let (key, peer) = match peer.split_once('@') {
            None => (None, peer),
            Some((key, peer)) => {
                let mut bytes = [0; 32];
                hex::decode_to_slice(key, &mut bytes).map_err(|_| InviteError::Syntax("the key is not 64 digits"))?;
                (Some(bytes), peer)
            }
        };
        let peer: PeerName = peer.parse().map_err(|_| InviteError::Syntax("the address is not HOST:PORT"))?;
        if peer.port.is_none() {
            return Err(InviteError::Syntax("the port is missing"));
        }
        let genesis = genesis.parse().map_err(|_| InviteError::Syntax("the genesis hash is not 64 digits"))?;
        Ok(Self { key, peer, genesis })
    }
}

/// The invite to a node: at `address` if given, else at the first external address in its configuration, else at one that
/// the running node has found out, such as the router's.
pub fn invite(config: &Config, address: Option<PeerName>) -> Result<Invite, InviteError> {
    let folder = config.data_dir.join(&config.network.name);
    let mut peer = address
        .or_else(|| config.peers.external.first().cloned())
        .or_else(|| found_out(config, &folder))
        .ok_or(InviteError::NoAddress)?;
    // A running node knows its port; one that does not run will take the configured one.
    let listening = read_endpoints(&folder).and_then(|endpoints| endpoints.p2p).map(|address| address.port());
    let configured = config.peers.listen.map(|address| address.port()).filter(|port| *port != 0);
    peer.port = peer.port.or(listening).or(configured).or(Some(config.network.p2p_port));
    let key = match config.peers.lasting_identity {
        true => Some(identity(&folder)?.ok_or(InviteError::NoIdentity)?),
        false => None,
    };
    Ok(Invite { key, peer, genesis: config.network.genesis_hash() })
}

/// Where the running node, if one runs, says that others reach it.
fn found_out(config: &Config, folder: &Path) -> Option<PeerName> {
    let listen = read_endpoints(folder).map_or(config.rpc.listen, |endpoints| endpoints.rpc);
    let client = Client::new(&format!("http://{listen}"), Auth::Cookie(folder.join(".cookie"))).ok()?;
    let info = client.with_timeout(ASK_TIMEOUT).call("getnetworkinfo", serde_json::json!([])).ok()?;
    let first = info.get("localaddresses")?.get(0)?;
    let (host, port) = (first.get("address")?.as_str()?, first.get("port")?.as_u64()?);
    format!("{host}:{port}").parse().ok()
}

/// The public half of a lasting identity, if one has been made.
fn identity(folder: &Path) -> Result<Option<[u8; 32]>, InviteError> {
    let path = Files::new(folder).identity();
    let bytes = files::read(&path).map_err(|error| InviteError::File { path: path.clone(), error })?;
    let bytes: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
    Ok(bytes.map(|bytes| StaticKey::from_bytes(bytes).public()))
}

/// Fetches the genesis file that an invite means and writes it below the data directory; its path.
pub fn fetch(invite: &Invite, data_dir: &Path, proxy: Option<SocketAddr>) -> Result<PathBuf, InviteError> {
    let named = |reason: String| InviteError::Peer { peer: invite.peer.to_string(), reason };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| named(error.to_string()))?;
    let bytes = runtime.block_on(ask(invite, proxy)).map_err(named)?;
    let text = String::from_utf8(bytes).map_err(|_| named("it sent no genesis file".to_owned()))?;
    let network =
        Network::from_json(&text).map_err(|error| named(format!("it sent a genesis file with an error: {error}")))?;
    let (got, expected) = (network.genesis_hash(), invite.genesis);
    if got != expected {
        return Err(InviteError::WrongGenesis { got, expected });
    }
    let path = data_dir.join(format!("{}.genesis.json", network.name));
    let failed = |error| InviteError::File { path: path.clone(), error };
    std::fs::create_dir_all(data_dir).map_err(failed)?;
    match std::fs::read_to_string(&path).ok().and_then(|known| Network::from_json(&known).ok()) {
        // Joined before: the file stays, whatever hints this peer gives.
        Some(known) if known.genesis_hash() == expected => return Ok(path),
        Some(_) => return Err(failed(io::Error::other("another network of this name is kept here"))),
        None => {}
    }
    files::write(&path, network.to_json().as_bytes()).map_err(failed)?;
    Ok(path)
}

/// The file as the peer sends it.
async fn ask(invite: &Invite, proxy: Option<SocketAddr>) -> Result<Vec<u8>, String> {
    let address = p2p::resolve(&invite.peer, 0, p2p::Names::with(proxy)).map_err(|error| error.to_string())?;
    if matches!(address.host, NetAddress::Onion(_)) && proxy.is_none() {
        return Err("an onion address needs --proxy".to_owned());
    }
    let mut stream = dial::connect(address, proxy, false).await.map_err(|error| error.to_string())?;
    let handshake = Handshake::new(Role::Initiator, &StaticKey::generate(), invite.genesis, limits::BLOCK_BYTES_MAX);
    let greeted = conn::greet(&mut stream, handshake, invite.key).await.map_err(|error| error.to_string())?;
    let receiving = receive(&mut stream, greeted.session, greeted.rest);
    timeout(FETCH_TIMEOUT, receiving).await.map_err(|_| "it did not send the genesis file in time".to_owned())?
}

async fn receive(stream: &mut TcpStream, mut session: Session, rest: Vec<u8>) -> Result<Vec<u8>, String> {
    let mut request = Vec::new();
    session.send(&Message::GetGenesis.encode(), &mut request);
    stream.write_all(&request).await.map_err(|error| error.to_string())?;
    let mut bytes = rest;
    loop {
        session.receive(&bytes).map_err(|error| error.to_string())?;
        while let Some(received) = session.next_frame() {
            match received {
                Received::Frame { kind: kind::GENESIS, body } => {
                    return match Message::decode(kind::GENESIS, body, 0) {
                        Ok(Message::Genesis(file)) => Ok(file),
                        _ => Err("it sent a genesis file that does not decode".to_owned()),
                    };
                }
                // Its greeting and whatever else it has to say.
                Received::Frame { .. } | Received::Unknown { .. } => {}
            }
        }
        bytes.resize(64 << 10, 0);
        let read = stream.read(&mut bytes).await.map_err(|error| error.to_string())?;
        if read == 0 {
            return Err("it closed the connection before it sent the genesis file".to_owned());
        }
        bytes.truncate(read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invites_read_as_they_are_written() {
        let genesis = Network::dev().genesis_hash();
        let peer = |host: &str| PeerName { host: host.to_owned(), port: Some(7) };
        for (key, host) in [(None, "203.0.113.7"), (Some([0xab; 32]), "2001:db8::1"), (None, "node.example")] {
            let invite = Invite { key, peer: peer(host), genesis };
            assert_eq!(invite.to_string().parse::<Invite>().unwrap(), invite);
        }
        let text = format!("setara://203.0.113.7:7/{genesis}");
        assert_eq!(Invite { key: None, peer: peer("203.0.113.7"), genesis }.to_string(), text);
        assert!(matches!(format!("{text}/{genesis}").parse::<Invite>(), Err(InviteError::Upgrades)));
        for bad in [
            "",
            "http://a:1/",
            "setara://",
            "setara://a:1",
            "setara://a:1/xyz",
            &format!("setara://a/{genesis}"),
            &format!("setara://:1/{genesis}"),
            &format!("setara://ab@a:1/{genesis}"),
        ] {
            assert!(matches!(bad.parse::<Invite>(), Err(InviteError::Syntax(_))), "{bad}");
        }
    }
}
