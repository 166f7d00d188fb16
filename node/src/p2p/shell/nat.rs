//! Port mapping (`--map-port`): has the router forward a port to this node, renews that while the node runs, and takes it
//! back at a stop.
//!
//! ```text
//! route ─► Router ─► PCP ──fails──► NAT-PMP ──fails──► UPnP ──fails──► one warning, and again later
//!                     └────────────────┴────────────────┴─► Mapping ─► Event::Mapped ─► brain: announced, if public
//! ```
//!
//! Only the router of the default route is asked, and only its answers count (TH12). A failure stops nothing: the node goes
//! on dialling.

mod pcp;
mod route;
#[cfg(test)]
mod tests;
mod upnp;
mod xml;

use super::conn::Inbound;
use crate::p2p::brain::addresses::group;
use crate::p2p::brain::interface::Event;
use crate::p2p::message::PeerAddress;
use pcp::PcpError;
pub use route::{Router, find};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use upnp::UpnpError;

/// How long a mapping is asked for (as Core does). Renewed at half of it, so that after a restart of the router, which
/// forgets it, nobody is kept out for more than ten minutes; and what a crash leaves behind is gone after twenty.
const LIFETIME: Duration = Duration::from_secs(20 * 60);
/// The shortest lifetime that is believed: a router that grants a second must not keep this node busy.
const LIFETIME_MIN: Duration = Duration::from_secs(2 * 60);
/// From a failure to the next attempt; doubled each time, up to the longest.
const RETRY_FIRST: Duration = Duration::from_secs(60);
/// The longest: whoever switches the router's feature on is noticed within the hour.
const RETRY_MAX: Duration = Duration::from_secs(60 * 60);
/// A stop waits no longer for the router, which has the mapping's end in writing anyway.
const UNMAP_DEADLINE: Duration = Duration::from_secs(2);
/// How long a stop waits for [`keep`]: its deadline, and a moment to notice.
pub(super) const STOP_WAIT: Duration = UNMAP_DEADLINE.saturating_add(Duration::from_millis(500));

/// Why no port is forwarded.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// There is nobody to ask.
    #[error("no router is known: {0}")]
    NoRouter(#[from] io::Error),
    /// It was asked in every way.
    #[error("the router {gateway} forwards no port (PCP: {pcp}; NAT-PMP: {nat_pmp}; UPnP: {upnp})")]
    Refused {
        /// Who.
        gateway: Ipv4Addr,
        /// By PCP.
        pcp: PcpError,
        /// By NAT-PMP.
        nat_pmp: PcpError,
        /// By UPnP.
        upnp: UpnpError,
    },
}

/// How a mapping was made, which is how it is renewed and ended.
#[derive(Debug, Clone)]
enum Means {
    Pcp(crab_nat::pcp::Nonce),
    NatPmp,
    Upnp(upnp::Service),
}

impl Means {
    const fn name(&self) -> &'static str {
        match self {
            Self::Pcp(_) => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp(_) => "UPnP",
        }
    }
}

/// A port that the router forwards.
#[derive(Debug, Clone)]
struct Mapping {
    external: SocketAddrV4,
    lifetime: Duration,
    means: Means,
}

impl From<pcp::Granted> for Mapping {
    fn from(granted: pcp::Granted) -> Self {
        let means = granted.nonce.map_or(Means::NatPmp, Means::Pcp);
        Self { external: granted.external, lifetime: granted.lifetime, means }
    }
}

impl Mapping {
    /// Asks in every way, newest first; for the same port outside if it can be had.
    async fn ask(router: &Router, port: NonZeroU16, wished: NonZeroU16) -> Result<Self, NatError> {
        let pcp = match pcp::map_pcp(router, port, wished, None).await {
            Ok(granted) => return Ok(granted.into()),
            Err(error) => error,
        };
        let nat_pmp = match pcp::map_nat_pmp(router, port, wished).await {
            Ok(granted) => return Ok(granted.into()),
            Err(error) => error,
        };
        let upnp = async {
            let service = upnp::find(router).await?;
            Self::by_upnp(service, router, port, wished).await
        };
        upnp.await.map_err(|upnp| NatError::Refused { gateway: router.gateway, pcp, nat_pmp, upnp })
    }

    async fn by_upnp(
        service: upnp::Service,
        router: &Router,
        port: NonZeroU16,
        wished: NonZeroU16,
    ) -> Result<Self, UpnpError> {
        let external = service.map(SocketAddrV4::new(router.own, port.get()), wished.get()).await?;
        Ok(Self { external, lifetime: LIFETIME, means: Means::Upnp(service) })
    }

    /// Asks for more time in the way that worked; if that fails, in every way.
    async fn renew(&self, router: &Router, port: NonZeroU16) -> Result<Self, NatError> {
        let wished = NonZeroU16::new(self.external.port()).unwrap_or(port);
        let renewed = match &self.means {
            Means::Pcp(nonce) => pcp::map_pcp(router, port, wished, Some(*nonce)).await.ok().map(Self::from),
            Means::NatPmp => pcp::map_nat_pmp(router, port, wished).await.ok().map(Self::from),
            Means::Upnp(service) => Self::by_upnp(service.clone(), router, port, wished).await.ok(),
        };
        match renewed {
            Some(mapping) => Ok(mapping),
            None => Self::ask(router, port, wished).await,
        }
    }

    /// Takes it back.
    async fn end(&self, router: &Router, port: NonZeroU16) -> Result<(), String> {
        let ended = async {
            match &self.means {
                Means::Pcp(nonce) => pcp::unmap(router, port, Some(*nonce)).await.map_err(|error| error.to_string()),
                Means::NatPmp => pcp::unmap(router, port, None).await.map_err(|error| error.to_string()),
                Means::Upnp(service) => service.unmap(self.external.port()).await.map_err(|error| error.to_string()),
            }
        };
        timeout(UNMAP_DEADLINE, ended).await.unwrap_or_else(|_| Err("the router does not answer in time".to_owned()))
    }
}

/// What a node wants forwarded.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Where it listens.
    pub port: NonZeroU16,
    /// At which address, if only at one.
    pub own: Option<Ipv4Addr>,
    /// Whether a private address outside is one that others can use.
    pub allow_private: bool,
}

impl Wish {
    /// Of a node that listens there.
    pub fn of(listening: SocketAddr, allow_private: bool) -> Option<Self> {
        let own = match listening {
            SocketAddr::V4(address) if !address.ip().is_unspecified() => Some(*address.ip()),
            _ => None,
        };
        Some(Self { port: NonZeroU16::new(listening.port())?, own, allow_private })
    }

    /// A mapping, or more time for the one that is held.
    async fn attempt(
        &self,
        find: &impl Fn() -> io::Result<Router>,
        held: Option<&(Router, Mapping)>,
    ) -> Result<(Router, Mapping), NatError> {
        let mut router = find()?;
        router.own = self.own.unwrap_or(router.own);
        let mapping = match held {
            Some((same, mapping)) if *same == router => mapping.renew(&router, self.port).await?,
            _ => Mapping::ask(&router, self.port, self.port).await?,
        };
        Ok((router, mapping))
    }

    /// What others may be told: behind a second router the first one's address is of no use to them.
    fn told(&self, external: SocketAddrV4) -> Option<PeerAddress> {
        let address = PeerAddress::from(SocketAddr::V4(external));
        group::acceptable(&address, self.allow_private).then_some(address)
    }
}

/// Has the port forwarded until the node stops, and tells the brain where others reach it, or that they no longer do.
pub async fn keep(
    wish: Wish,
    find: impl Fn() -> io::Result<Router>,
    events: mpsc::Sender<Inbound>,
    stop: CancellationToken,
) {
    let tell = async |address| drop(events.send(Inbound { event: Event::Mapped(address), permits: None }).await);
    let (mut held, mut known, mut failures): (Option<(Router, Mapping)>, Option<SocketAddrV4>, u32) = (None, None, 0);
    loop {
        let result = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            result = wish.attempt(&find, held.as_ref()) => result,
        };
        let pause = match result {
            Ok((router, mapping)) => {
                if known != Some(mapping.external) {
                    let (external, by, told) = (mapping.external, mapping.means.name(), wish.told(mapping.external));
                    match told {
                        Some(_) => tracing::info!(%external, by, "the router forwards a port to this node"),
                        None => tracing::info!(
                            %external, by, "the router forwards a port to this node, but its own address is not public \
                            (there is another router before it): nobody is told"
                        ),
                    }
                    tell(told).await;
                    known = Some(mapping.external);
                }
                failures = 0;
                let pause = mapping.lifetime.clamp(LIFETIME_MIN, LIFETIME) / 2;
                held = Some((router, mapping));
                pause
            }
            Err(error) => {
                match failures {
                    0 => tracing::warn!(%error, "others cannot dial this node unless the port is opened by hand"),
                    _ => tracing::debug!(%error, failures, "still no port is forwarded"),
                }
                if known.take().is_some() {
                    tell(None).await;
                }
                failures += 1;
                pause_after(failures)
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep(pause) => {}
        }
    }
    if let Some((router, mapping)) = held {
        match mapping.end(&router, wish.port).await {
            Ok(()) => tracing::info!(external = %mapping.external, "the router forwards the port no longer"),
            Err(error) => {
                tracing::warn!(error, external = %mapping.external, "the router keeps forwarding for a while")
            }
        }
    }
}

/// From the last of so many failures to the next attempt.
fn pause_after(failures: u32) -> Duration {
    let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
    RETRY_FIRST.saturating_mul(doubled).min(RETRY_MAX)
}
