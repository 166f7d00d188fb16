//! Port mapping against routers on loopback, honest and hostile. `tests/tests/nat.rs` has the real ones.

mod datagrams;
mod fake;
mod upnp;

use super::*;
use crate::p2p::message::NetAddress;
use fake::{FakeRouter, granted, nat_pmp_only};
use std::time::Instant;

const PORT: NonZeroU16 = NonZeroU16::new(19_740).unwrap();
/// Public, as far as the rules know.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(11, 22, 33, 44);
/// What a whole attempt may take: twice three questions by datagram, a search, and its exchanges.
const ATTEMPT_MAX: Duration = Duration::from_secs(25);

fn wish(allow_private: bool) -> Wish {
    Wish { port: PORT, own: None, allow_private }
}

/// A node's mapping, kept until the test ends it.
struct Kept {
    events: mpsc::Receiver<Inbound>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Kept {
    fn start(wish: Wish, router: Router) -> Self {
        let (sender, events) = mpsc::channel(8);
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep(wish, move || Ok(router.clone()), sender, stop.clone()));
        Self { events, stop, task }
    }

    async fn told(&mut self) -> Option<PeerAddress> {
        let event = timeout(ATTEMPT_MAX, self.events.recv()).await.expect("the brain is told in time");
        match event.expect("the mapping is kept").event {
            Event::Mapped(address) => address,
            other => panic!("{other:?}"),
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(STOP_WAIT, self.task).await.expect("a stop waits no longer").expect("it does not panic");
    }
}

fn outside(port: u16) -> Option<PeerAddress> {
    Some(PeerAddress { host: NetAddress::V4(OUTSIDE), port })
}

#[tokio::test]
async fn a_mapping_by_pcp_is_told_and_ended() {
    let fake = FakeRouter::answers(|request| vec![granted(request, 1_200, 4_000, OUTSIDE)]).await;
    let mut kept = Kept::start(wish(false), fake.router());
    assert_eq!(kept.told().await, outside(4_000));
    kept.stop().await;
    let requests = fake.requests();
    assert_eq!(requests.len(), 2, "one to map and one to end");
    assert_eq!((requests[0][0], &requests[0][4..8]), (2, &1_200u32.to_be_bytes()[..]), "PCP, for twenty minutes");
    assert_eq!(&requests[1][4..8], &[0; 4], "no time any more");
    assert_eq!(requests[0][24..36], requests[1][24..36], "under the same nonce");
}

#[tokio::test]
async fn a_router_that_speaks_nat_pmp_alone_is_asked_so() {
    let fake = FakeRouter::answers(nat_pmp_only).await;
    let mut kept = Kept::start(wish(false), fake.router());
    assert_eq!(kept.told().await, outside(PORT.get()));
    kept.stop().await;
    let kinds: Vec<(u8, u8)> = fake.requests().iter().map(|request| (request[0], request[1])).collect();
    assert_eq!(kinds, [(2, 1), (0, 0), (0, 2), (0, 2)], "PCP; then the address, the port, and its end");
    assert_eq!(&fake.requests()[3][8..12], &[0; 4]);
}

/// Behind two routers nobody outside can use what the first one says, unless the whole network is a private one.
#[tokio::test]
async fn a_private_address_outside_is_told_only_where_private_ones_count() {
    for (address, allow_private, expected) in [
        (Ipv4Addr::new(10, 0, 0, 1), false, false),
        (Ipv4Addr::new(10, 0, 0, 1), true, true),
        (Ipv4Addr::new(100, 64, 0, 1), true, false),
        (Ipv4Addr::UNSPECIFIED, true, false),
        (Ipv4Addr::BROADCAST, true, false),
        (OUTSIDE, false, true),
    ] {
        let fake = FakeRouter::answers(move |request| vec![granted(request, 1_200, 4_000, address)]).await;
        let mut kept = Kept::start(wish(allow_private), fake.router());
        assert_eq!(kept.told().await.is_some(), expected, "{address} {allow_private}");
        kept.stop().await;
        assert_eq!(fake.requests().len(), 2, "{address}: it is ended all the same");
    }
}

/// A renewal asks for the port that was had, under the same nonce; where it is refused, all ways are tried again.
#[tokio::test]
async fn a_renewal_keeps_the_port_and_begins_anew_if_it_must() {
    let fake = FakeRouter::answers(|request| vec![granted(request, 1_200, 4_000, OUTSIDE)]).await;
    let (wish, router) = (wish(false), fake.router());
    let find = || Ok(router.clone());
    let first = wish.attempt(&find, None).await.unwrap();
    wish.attempt(&find, Some(&first)).await.unwrap();
    let requests = fake.requests();
    assert_eq!(requests[0][24..36], requests[1][24..36]);
    assert_eq!(
        (&requests[0][42..44], &requests[1][42..44]),
        (&PORT.get().to_be_bytes()[..], &4_000u16.to_be_bytes()[..])
    );
    // Another router knows nothing of the first one's nonce.
    let other = FakeRouter::answers(nat_pmp_only).await;
    let (router, mapping) = wish.attempt(&|| Ok(other.router()), Some(&first)).await.unwrap();
    assert_eq!((router, mapping.means.name()), (other.router(), "NAT-PMP"));
    let held = (other.router(), Mapping { means: first.1.means, ..mapping });
    assert_eq!(wish.attempt(&|| Ok(other.router()), Some(&held)).await.unwrap().1.means.name(), "NAT-PMP");
}

/// TH12. However a router fails, an attempt ends in time, says why in every way it was asked, and the node goes on.
#[tokio::test]
async fn th12_nat_without_an_answer_ends_in_time() {
    let fake = FakeRouter::answers(|_| Vec::new()).await;
    let started = Instant::now();
    let router = fake.router();
    let error = wish(false).attempt(&|| Ok(router.clone()), None).await.unwrap_err();
    assert!(started.elapsed() < ATTEMPT_MAX, "{:?}", started.elapsed());
    let text = error.to_string();
    for part in
        ["PCP: Gateway did not respond", "NAT-PMP: Gateway did not respond", "UPnP: the router answers no search"]
    {
        assert!(text.contains(part), "{text}");
    }
    let none = wish(false).attempt(&|| Err(io::Error::other("there is no default route")), None).await.unwrap_err();
    assert_eq!(none.to_string(), "no router is known: there is no default route");
}

/// TH12. A stop does not wait for an attempt that is under way, nor long for a router that has gone silent.
#[tokio::test]
async fn th12_nat_stops_in_time() {
    let silent = FakeRouter::answers(|_| Vec::new()).await;
    let kept = Kept::start(wish(false), silent.router());
    timeout(ATTEMPT_MAX, silent.asked()).await.expect("it is asked");
    kept.stop().await;
    let once = FakeRouter::answers(|request| match request[4..8] {
        [0, 0, 0, 0] => Vec::new(),
        _ => vec![granted(request, 1_200, 4_000, OUTSIDE)],
    });
    let mut kept = Kept::start(wish(false), once.await.router());
    assert_eq!(kept.told().await, outside(4_000));
    kept.stop().await;
}

/// TH12. A lifetime of nothing, or of centuries, neither keeps the node busy nor lets the mapping end unnoticed.
#[test]
fn th12_nat_lifetimes_and_pauses_have_bounds() {
    for (said, pause) in [(0, 60), (1, 60), (600, 300), (1_200, 600), (u32::MAX, 600)] {
        let clamped = Duration::from_secs(said.into()).clamp(LIFETIME_MIN, LIFETIME) / 2;
        assert_eq!(clamped.as_secs(), pause, "{said}");
    }
    let pauses: Vec<u64> = (1..=8).map(|failures| pause_after(failures).as_secs()).collect();
    assert_eq!(pauses, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
    assert_eq!(pause_after(u32::MAX), RETRY_MAX);
}

#[test]
fn what_is_wished_follows_from_where_the_node_listens() {
    let of = |text: &str| Wish::of(text.parse().unwrap(), false).map(|wish| (wish.port.get(), wish.own));
    assert_eq!(of("0.0.0.0:5"), Some((5, None)));
    assert_eq!(of("192.168.1.2:5"), Some((5, Some(Ipv4Addr::new(192, 168, 1, 2)))));
    assert_eq!(of("[::]:5"), Some((5, None)));
    assert_eq!(of("0.0.0.0:0"), None);
}
