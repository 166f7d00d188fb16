//! Which router this machine uses, and what the machine is called towards it. It asks the system, never the network.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

/// Where Linux shows its IPv4 routes.
const TABLE: &str = "/proc/net/route";
/// Bytes of it that are read: a thousand routes; the default one stands first.
const TABLE_MAX: u64 = 1 << 17;
/// A route that is up and leads through a router (`RTF_UP`, `RTF_GATEWAY`).
const UP_THROUGH_ROUTER: u32 = 1 | 2;
/// Any port: a UDP socket that is "connected" sends nothing, but the system chooses the address it would send from.
const ANY_PORT: u16 = 9;

/// A router, and how to ask it for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Router {
    /// Its address: the only one whose answers count.
    pub gateway: Ipv4Addr,
    /// This machine's address, as the router sees it.
    pub own: Ipv4Addr,
    /// Where UPnP is looked for: the router itself, then everybody.
    pub discovery: Vec<SocketAddrV4>,
}

/// Where UPnP devices listen for searches (UDA 1.1, section 1.3).
const SSDP_PORT: u16 = 1900;
/// The group that they belong to.
const SSDP_GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);

/// The router of the default route.
pub fn find() -> io::Result<Router> {
    if !cfg!(target_os = "linux") {
        return Err(io::Error::other("the router is found on Linux only; open the port by hand"));
    }
    let mut table = String::new();
    std::fs::File::open(TABLE)?.take(TABLE_MAX).read_to_string(&mut table)?;
    let gateway = default_gateway(&table).ok_or_else(|| io::Error::other("there is no default route over IPv4"))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((gateway, ANY_PORT))?;
    let SocketAddr::V4(own) = socket.local_addr()? else { unreachable!("bound to IPv4") };
    let discovery = vec![SocketAddrV4::new(gateway, SSDP_PORT), SocketAddrV4::new(SSDP_GROUP, SSDP_PORT)];
    Ok(Router { gateway, own: *own.ip(), discovery })
}

/// The router of the default route of least metric.
fn default_gateway(table: &str) -> Option<Ipv4Addr> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, to, gateway, flags, _, _, metric, mask, ..] = fields.as_slice() else { return None };
        let hex = |text: &str| u32::from_str_radix(text, 16).ok();
        // Addresses are numbers of this machine in the network's order of bytes.
        let gateway = Ipv4Addr::from(hex(gateway)?.to_ne_bytes());
        let usable = hex(flags)? & UP_THROUGH_ROUTER == UP_THROUGH_ROUTER && !gateway.is_unspecified();
        (usable && hex(to)? == 0 && hex(mask)? == 0).then_some((metric.parse::<u32>().ok()?, gateway))
    });
    routes.min().map(|(_, gateway)| gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_of_least_metric_leads_to_the_router() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let number = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let (any, near, far) = (number([0; 4]), number([192, 168, 1, 1]), number([10, 0, 0, 138]));
        let route = |to: &str, gateway: &str, flags: &str, metric: u32, mask: &str| {
            format!("eth0\t{to}\t{gateway}\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n")
        };
        let found = |rows: &[String]| default_gateway(&format!("{head}{}", rows.concat()));
        let lan = route(&number([192, 168, 1, 0]), &any, "0001", 0, &number([255, 255, 255, 0]));
        let rows = [route(&any, &far, "0003", 600, &any), lan.clone(), route(&any, &near, "0003", 100, &any)];
        assert_eq!(found(&rows), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(found(&rows[..2]), Some(Ipv4Addr::new(10, 0, 0, 138)));
        let down = route(&any, &near, "0002", 0, &any);
        let direct = route(&any, &any, "0003", 0, &any);
        let half = route(&any, &near, "0003", 0, &number([128, 0, 0, 0]));
        assert_eq!(found(&[lan, down, direct, half]), None);
        for junk in ["", "\n", "a\nb c\n", "x\ny 0 0 0 0 0 0 0 0\n", "x\ny 00000000 0102A8C0 zz 0 0 0 00000000\n"] {
            assert_eq!(default_gateway(junk), None, "{junk:?}");
        }
    }
}
