//! A peer that is none: it speaks the node's own protocol over a socket that a node dialled, and says what a test wants.

use setara_core::limits::BLOCK_BYTES_MAX;
use setara_core::network::Network;
use setara_node::p2p::brain::greeting::Introduction;
use setara_node::p2p::brain::interface::Link;
use setara_node::p2p::message::Message;
use setara_node::p2p::shell::frames::Received;
use setara_node::p2p::shell::noise::{Handshake, Role, Session, StaticKey};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longest wait for one read of a socket.
const SOCKET_WAIT: Duration = Duration::from_millis(20);

/// Its side of a connection. Functions end with `None` when the node ends it.
pub struct Speaker {
    stream: TcpStream,
    session: Session,
}

impl Speaker {
    /// Answers a node's handshake and says `Hello`: it listens at `port`, and serves a chain of so many blocks, and perhaps
    /// a snapshot of its coins.
    pub fn greet(mut stream: TcpStream, network: &Network, port: u16, height: u32, snapshot: bool) -> Option<Self> {
        let genesis = network.genesis_hash();
        let mut handshake = Handshake::new(Role::Answerer, &StaticKey::generate(), genesis, BLOCK_BYTES_MAX);
        let (mut input, mut bytes) = (Vec::new(), [0; 1_024]);
        loop {
            let progress = handshake.step(&input).ok()?;
            input.drain(..progress.consumed);
            stream.write_all(&progress.output).ok()?;
            if let Some(mut session) = progress.done {
                session.receive(&input).ok()?;
                stream.set_read_timeout(Some(SOCKET_WAIT)).ok()?;
                let mut speaker = Self { stream, session };
                let introduction = Introduction {
                    agent: "/hostile/",
                    network,
                    link: Link::OutboundFull,
                    serves: (0, height),
                    snapshot,
                    nonce: u64::from(std::process::id()),
                    listen_port: port,
                    time: 0,
                };
                speaker.say(&Message::Hello(Box::new(introduction.hello())))?;
                return Some(speaker);
            }
            let read = stream.read(&mut bytes).ok().filter(|read| *read > 0)?;
            input.extend_from_slice(&bytes[..read]);
        }
    }

    /// Sends a message.
    pub fn say(&mut self, message: &Message) -> Option<()> {
        let mut bytes = Vec::new();
        self.session.send(&message.encode(), &mut bytes);
        self.stream.write_all(&bytes).ok()
    }

    /// The next messages; none if none came for a moment.
    pub fn hear(&mut self) -> Option<Vec<Message>> {
        let mut bytes = vec![0; 64 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => return None,
            Ok(read) => self.session.receive(&bytes[..read]).ok()?,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return None,
        }
        let mut messages = Vec::new();
        while let Some(received) = self.session.next_frame() {
            if let Received::Frame { kind, body } = received {
                messages.push(Message::decode(kind, body, BLOCK_BYTES_MAX).ok()?);
            }
        }
        Some(messages)
    }
}
