//! TH12: PCP and NAT-PMP answers that are wrong in every way there is.

use super::*;
use crate::p2p::shell::nat::pcp::{map_nat_pmp, map_pcp};
use tokio::net::UdpSocket;

/// What an answer of this kind makes of PCP.
async fn pcp(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Result<pcp::Granted, String> {
    let fake = FakeRouter::answers(move |request| vec![answer(request)]).await;
    map_pcp(&fake.router(), PORT, PORT, None).await.map_err(|error| error.to_string())
}

fn good(request: &[u8]) -> Vec<u8> {
    granted(request, 1_200, 4_000, OUTSIDE)
}

/// A good answer with some bytes replaced.
fn with(at: usize, bytes: &'static [u8]) -> impl Fn(&[u8]) -> Vec<u8> + Send + 'static {
    move |request| {
        let mut answer = good(request);
        answer[at..at + bytes.len()].copy_from_slice(bytes);
        answer
    }
}

#[tokio::test]
async fn th12_pcp_answers_that_are_wrong_are_errors_with_a_name() {
    assert_eq!(pcp(good).await.unwrap().external, SocketAddrV4::new(OUTSIDE, 4_000));
    for length in 0..60 {
        let error = pcp(move |request| good(request)[..length].to_vec()).await.unwrap_err();
        assert!(error.starts_with("Invalid response: "), "{length}: {error}");
    }
    let rows: [(usize, &[u8], &str); 12] = [
        (0, &[7], "Unknown version"),
        (0, &[0], "Closest supported version: NAT-PMP"),
        (1, &[1], "Response R bit"),
        (1, &[0x82], "Incorrect opcode"),
        (1, &[0xff], "Invalid operation code"),
        (3, &[2], "Not authorized"),
        (3, &[8], "No resources"),
        (3, &[200], "Invalid result code"),
        (24, &[0; 12], "Incorrect nonce"),
        (36, &[17], "Incorrect protocol"),
        (40, &[0, 1], "Incorrect internal port"),
        (42, &[0, 0], "external port of 0"),
    ];
    for (at, bytes, expected) in rows {
        let error = pcp(with(at, bytes)).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let ipv6 = pcp(with(44, &[0x20, 1, 0xd, 0xb8])).await.unwrap_err();
    assert!(ipv6.contains("which is no IPv4 address"), "{ipv6}");
    // What comes after a whole answer is options, of which none was asked for; more than the buffer holds is cut off.
    let long = pcp(|request| [good(request), vec![0xff; 60_000]].concat()).await;
    assert_eq!(long.unwrap().external.port(), 4_000);
    assert_eq!(pcp(with(4, &[0xff; 4])).await.unwrap().lifetime, Duration::from_secs(u32::MAX.into()));
}

#[tokio::test]
async fn th12_nat_pmp_answers_that_are_wrong_are_errors_with_a_name() {
    async fn nat_pmp(change: impl Fn(&mut Vec<u8>) + Send + 'static) -> Result<pcp::Granted, String> {
        let fake = FakeRouter::answers(move |request| {
            let mut answers = nat_pmp_only(request);
            if request[1] == 2 {
                answers.iter_mut().for_each(&change);
            }
            answers
        });
        map_nat_pmp(&fake.await.router(), PORT, PORT).await.map_err(|error| error.to_string())
    }
    assert_eq!(nat_pmp(|_| {}).await.unwrap().external, SocketAddrV4::new(OUTSIDE, PORT.get()));
    for length in 0..16 {
        let error = nat_pmp(move |answer| answer.truncate(length)).await.unwrap_err();
        assert!(error.contains("Incorrect number of bytes"), "{length}: {error}");
    }
    let rows: [(usize, u8, &str); 7] = [
        (0, 7, "Unknown version"),
        (0, 2, "Invalid version not matching"),
        (1, 2, "Response R bit"),
        (1, 0x81, "Incorrect opcode"),
        (3, 2, "Not authorized"),
        (3, 77, "Invalid result code"),
        (9, 1, "Incorrect internal port"),
    ];
    for (at, byte, expected) in rows {
        let error = nat_pmp(move |answer| answer[at] = byte).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let nowhere = nat_pmp(|answer| answer[10..12].fill(0)).await.unwrap_err();
    assert!(nowhere.contains("external port of zero"), "{nowhere}");
    assert!(nat_pmp(|answer| answer.extend([0; 60_000])).await.is_ok(), "the rest of a datagram is cut off");
}

/// An answer from another address is none: whoever can send datagrams here must be the router to be heard.
#[tokio::test]
async fn th12_datagrams_of_others_are_not_heard() {
    let other = UdpSocket::bind((fake::address(), 0)).await.unwrap();
    let gateway = fake::address();
    let socket = UdpSocket::bind((gateway, crab_nat::GATEWAY_PORT)).await.unwrap();
    let forged = tokio::spawn(async move {
        let mut buffer = [0; 2_048];
        let mut heard = 0;
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let sent = other.send_to(&good(&buffer[..length]), from).await;
            heard += usize::from(sent.is_ok());
            if heard == 3 {
                return heard;
            }
        }
    });
    let router = Router { gateway, own: Ipv4Addr::LOCALHOST, discovery: Vec::new() };
    let error = map_pcp(&router, PORT, PORT, None).await.unwrap_err();
    assert!(matches!(error, PcpError::Pcp(crab_nat::pcp::Failure::Timeout)), "{error}");
    assert_eq!(forged.await.unwrap(), 3, "each question was answered by the forger");
}
