//! Mappings by PCP (RFC 6887) and its forerunner NAT-PMP (RFC 6886): a datagram each way, through `crab_nat`.
//!
//! What that crate does was read: its sockets are connected, so that only the router's datagrams come in; an answer is read
//! into a buffer of fixed size (1,100 and 16 bytes), and the first one that is wrong ends the attempt. Added here: a deadline
//! round each call, and no trust in the lifetime.

use super::{LIFETIME, Router};
use crab_nat::{InternetProtocol, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp};
use std::net::{IpAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;
use tokio::time::timeout;

/// A question is repeated after 250 ms and again after 500 (both RFCs begin so or slower); the last one waits a second.
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: Some(Duration::from_secs(1)),
};
/// The whole of a call, whatever the crate does: two questions with their repetitions, and some.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why there is no mapping.
#[derive(Debug, thiserror::Error)]
pub enum PcpError {
    /// PCP failed.
    #[error("{0}")]
    Pcp(#[from] pcp::Failure),
    /// NAT-PMP failed.
    #[error("{0}")]
    NatPmp(#[from] natpmp::Failure),
    /// The call took too long.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Late,
    /// A mapping that is of no use.
    #[error("it forwards from {0}, which is no IPv4 address")]
    NoIpv4(IpAddr),
}

/// What the router granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Where others reach this node.
    pub external: SocketAddrV4,
    /// For how long, as the router says.
    pub lifetime: Duration,
    /// By which PCP knows its client again; `None` for NAT-PMP.
    pub nonce: Option<pcp::Nonce>,
}

fn options(wished: NonZeroU16) -> PortMappingOptions {
    let lifetime = u32::try_from(LIFETIME.as_secs()).ok();
    PortMappingOptions { external_port: Some(wished), lifetime_seconds: lifetime, timeout_config: Some(PATIENCE) }
}

/// Maps by PCP, or renews what `nonce` names.
pub async fn map_pcp(
    router: &Router,
    port: NonZeroU16,
    wished: NonZeroU16,
    nonce: Option<pcp::Nonce>,
) -> Result<Granted, PcpError> {
    let tcp = InternetProtocol::Tcp;
    let request = pcp::BaseMapRequest::new(router.gateway.into(), router.own.into(), tcp, port);
    let call = pcp::port_mapping(request, nonce, None, options(wished));
    let mapping = timeout(DEADLINE, call).await.map_err(|_| PcpError::Late)??;
    let PortMappingType::Pcp { nonce, external_ip, .. } = mapping.mapping_type() else {
        unreachable!("a mapping by PCP says so")
    };
    let IpAddr::V4(address) = external_ip else { return Err(PcpError::NoIpv4(external_ip)) };
    Ok(Granted {
        external: SocketAddrV4::new(address, mapping.external_port().get()),
        lifetime: Duration::from_secs(mapping.lifetime().into()),
        nonce: Some(nonce),
    })
}

/// Maps, or renews, by NAT-PMP.
pub async fn map_nat_pmp(router: &Router, port: NonZeroU16, wished: NonZeroU16) -> Result<Granted, PcpError> {
    let gateway = router.gateway.into();
    let call = async {
        let address = natpmp::external_address(gateway, Some(PATIENCE)).await?;
        let mapping = natpmp::port_mapping(gateway, InternetProtocol::Tcp, port, options(wished)).await?;
        Ok::<_, natpmp::Failure>((address, mapping))
    };
    let (address, mapping) = timeout(DEADLINE, call).await.map_err(|_| PcpError::Late)??;
    Ok(Granted {
        external: SocketAddrV4::new(address, mapping.external_port().get()),
        lifetime: Duration::from_secs(mapping.lifetime().into()),
        nonce: None,
    })
}

/// Ends a mapping: by PCP if it has a nonce, else by NAT-PMP.
pub async fn unmap(router: &Router, port: NonZeroU16, nonce: Option<pcp::Nonce>) -> Result<(), PcpError> {
    let (gateway, protocol) = (router.gateway.into(), InternetProtocol::Tcp);
    match nonce {
        Some(nonce) => {
            let range = pcp::DropMappingRange::Single { internal_port: port, protocol };
            Ok(pcp::try_drop_mapping(gateway, router.own.into(), nonce, range, Some(PATIENCE)).await?)
        }
        None => Ok(natpmp::try_drop_mapping(gateway, protocol, Some(port), Some(PATIENCE)).await?),
    }
}
