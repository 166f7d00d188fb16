//! What peers are called: this software's name for itself, and host names turned into addresses.

use super::message::{NetAddress, PeerAddress};
use crate::config::PeerName;
use crate::p2p::brain::outbound::Added;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// Whether host names may be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// By the system.
    System,
    /// Not at all: every connection goes through a proxy, and whoever answered the question would know where to.
    Hidden,
}

impl Names {
    /// As fits a proxy, or none.
    pub const fn with(proxy: Option<SocketAddr>) -> Self {
        if proxy.is_some() { Self::Hidden } else { Self::System }
    }
}

/// What this software calls itself, as Bitcoin's BIP 14 writes it.
pub fn agent() -> String {
    format!("/Setara:{}/", env!("CARGO_PKG_VERSION"))
}

/// The address of a name: as it is for IP addresses and onion names, looked up for host names if that is allowed.
pub fn resolve(name: &PeerName, default_port: u16, names: Names) -> io::Result<PeerAddress> {
    let port = name.port.unwrap_or(default_port);
    if let Ok(address) = name.host.parse::<IpAddr>() {
        return Ok(PeerAddress { host: NetAddress::from(address), port });
    }
    if name.host.ends_with(".onion") {
        let onion = format!("{}:{port}", name.host).parse::<PeerAddress>();
        return onion.map_err(|error| io::Error::other(format!("{}: {error}", name.host)));
    }
    if names == Names::Hidden {
        return Err(io::Error::other(format!(
            "{}: with --proxy no names are looked up, since that would tell whom this node connects to; give its address",
            name.host
        )));
    }
    let found = (name.host.as_str(), port).to_socket_addrs()?.next();
    found.map(PeerAddress::from).ok_or_else(|| io::Error::other(format!("{} has no address", name.host)))
}

/// Those names that have an address; the others are told of.
pub fn resolve_all(peers: &[PeerName], default_port: u16, names: Names) -> Vec<PeerAddress> {
    let found = peers.iter().filter_map(|name| match resolve(name, default_port, names) {
        Ok(address) => Some(address),
        Err(error) => {
            tracing::warn!(host = name.host, %error, "a peer's name cannot be looked up");
            None
        }
    });
    found.collect()
}

/// The same, with the names: `getaddednodeinfo` shows them.
pub fn resolve_added(peers: &[PeerName], default_port: u16, names: Names) -> Vec<Added> {
    let found = peers.iter().flat_map(|name| {
        let one = resolve_all(std::slice::from_ref(name), default_port, names);
        one.into_iter().map(|address| Added { address, name: name.to_string() })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TH12: behind a proxy the system's resolver hears of nobody; addresses need no looking up.
    #[test]
    fn names_stay_hidden_behind_a_proxy() {
        let peer = |text: &str| text.parse::<PeerName>().unwrap();
        let proxy = Some("127.0.0.1:9050".parse().unwrap());
        let (hidden, system) = (Names::with(proxy), Names::with(None));
        assert_eq!(resolve(&peer("localhost:7"), 1, system).unwrap().port, 7);
        let error = resolve(&peer("localhost:7"), 1, hidden).unwrap_err().to_string();
        assert!(error.contains("localhost: with --proxy no names are looked up"), "{error}");
        for known in ["127.0.0.1:7", "[::1]:7"] {
            assert_eq!(resolve(&peer(known), 1, hidden).unwrap(), resolve(&peer(known), 1, system).unwrap());
        }
        assert!(resolve_all(&[peer("localhost"), peer("10.0.0.1")], 9, hidden).len() == 1);
    }
}
