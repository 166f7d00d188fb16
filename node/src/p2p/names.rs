//! What peers are called: this software's name for itself, and host names turned into addresses.

use super::message::{NetAddress, PeerAddress};
use crate::config::PeerName;
use crate::p2p::brain::outbound::Added;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};

/// What this software calls itself, as Bitcoin's BIP 14 writes it.
pub fn agent() -> String {
    format!("/Setara:{}/", env!("CARGO_PKG_VERSION"))
}

/// The address of a name: as it is for IP addresses and onion names, looked up for host names.
pub fn resolve(name: &PeerName, default_port: u16) -> io::Result<PeerAddress> {
    let port = name.port.unwrap_or(default_port);
    if let Ok(address) = name.host.parse::<IpAddr>() {
        return Ok(PeerAddress { host: NetAddress::from(address), port });
    }
    if name.host.ends_with(".onion") {
        let onion = format!("{}:{port}", name.host).parse::<PeerAddress>();
        return onion.map_err(|error| io::Error::other(format!("{}: {error}", name.host)));
    }
    let found = (name.host.as_str(), port).to_socket_addrs()?.next();
    found.map(PeerAddress::from).ok_or_else(|| io::Error::other(format!("{} has no address", name.host)))
}

/// Those names that have an address; the others are told of.
pub fn resolve_all(names: &[PeerName], default_port: u16) -> Vec<PeerAddress> {
    let found = names.iter().filter_map(|name| match resolve(name, default_port) {
        Ok(address) => Some(address),
        Err(error) => {
            tracing::warn!(host = name.host, %error, "a peer's name cannot be looked up");
            None
        }
    });
    found.collect()
}

/// The same, with the names: `getaddednodeinfo` shows them.
pub fn resolve_added(names: &[PeerName], default_port: u16) -> Vec<Added> {
    let found = names.iter().flat_map(|name| {
        let one = resolve_all(std::slice::from_ref(name), default_port);
        one.into_iter().map(|address| Added { address, name: name.to_string() })
    });
    found.collect()
}
