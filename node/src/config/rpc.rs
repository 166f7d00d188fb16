//! Options of the RPC server, and how they are read. Not who may call what: that is `rpc/auth.rs`.

use super::parse::{self, HostName, IpRange, RpcAuth, RpcWhitelist, UserPassword};
use super::{ConfigError, Layers, invalid, many, number, one, size};
use setara_core::network::Network;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Options of the RPC server.
#[derive(Debug, Clone)]
pub struct RpcConfig {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who may connect besides this machine.
    pub allow_ip: Vec<IpRange>,
    /// Users by salted hash.
    pub auth: Vec<RpcAuth>,
    /// A user by name and password.
    pub user: Option<UserPassword>,
    /// The only methods some users may call.
    pub whitelist: Vec<RpcWhitelist>,
    /// Whether users without a whitelist may call nothing; `None`: exactly if another user has one.
    pub whitelist_default: Option<bool>,
    /// Names by which callers may address this node, besides IP addresses and `localhost`.
    pub host: Vec<HostName>,
    /// Calls that run at the same time.
    pub threads: usize,
    /// Calls that wait before others are turned away.
    pub work_queue: usize,
    /// How long a connection may be silent.
    pub timeout: Duration,
    /// Connections at the same time.
    pub max_connections: u32,
}

impl RpcConfig {
    /// The defaults, on a free port of this machine.
    pub fn loopback() -> Self {
        Self {
            listen: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
            allow_ip: Vec::new(),
            auth: Vec::new(),
            user: None,
            whitelist: Vec::new(),
            whitelist_default: None,
            host: Vec::new(),
            threads: 16,
            work_queue: 1024,
            timeout: Duration::from_secs(30),
            max_connections: 1000,
        }
    }

    /// Whether a connection from `address` is answered at all.
    pub fn allows(&self, address: IpAddr) -> bool {
        address.to_canonical().is_loopback() || self.allow_ip.iter().any(|range| range.contains(address))
    }
}

/// What the layers say.
pub(super) fn read(layers: &Layers, network: &Network) -> Result<RpcConfig, ConfigError> {
    let default = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), network.rpc_port());
    let listen = one(layers, "rpc-listen", parse::socket_address)?.unwrap_or(default);
    let allow_ip: Vec<IpRange> = many(layers, "rpc-allow-ip")?;
    if !listen.ip().is_loopback() && allow_ip.is_empty() {
        let reason = format!("{listen} is open to other machines: say who may connect with --rpc-allow-ip");
        return Err(invalid(layers, "rpc-listen", &reason));
    }
    let text = |name| one(layers, name, |text| Ok(text.to_owned()));
    let user = match (text("rpc-user")?, text("rpc-password")?) {
        (Some(user), Some(password)) if !user.is_empty() && !user.contains(':') && !password.is_empty() => {
            Some(UserPassword { user, password })
        }
        (Some(_), Some(_)) => return Err(invalid(layers, "rpc-user", "expected a name without `:`, and a password")),
        (Some(_), None) => return Err(invalid(layers, "rpc-user", "needs --rpc-password too")),
        (None, Some(_)) => return Err(invalid(layers, "rpc-password", "needs --rpc-user too")),
        (None, None) => None,
    };
    Ok(RpcConfig {
        listen,
        allow_ip,
        auth: many(layers, "rpcauth")?,
        user,
        whitelist: many(layers, "rpc-whitelist")?,
        whitelist_default: one(layers, "rpc-whitelist-default", parse::boolean)?,
        host: many(layers, "rpc-host")?,
        threads: size(layers, "rpc-threads", 1..=1024)?,
        work_queue: size(layers, "rpc-work-queue", 1..=1 << 20)?,
        timeout: Duration::from_secs(number(layers, "rpc-timeout", 1..=3600)?),
        max_connections: u32::try_from(number(layers, "rpc-max-connections", 1..=1 << 16)?).expect("in range"),
    })
}
