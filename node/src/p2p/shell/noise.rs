//! Preamble, Noise handshake, encrypted stream: bytes in, bytes out, no sockets and no clock.
//!
//! ```text
//! initiator                                   answerer
//! "SETA" lowest highest genesis[..8]  ──►                        16 clear bytes each way: whoever is on another network,
//!                                     ◄──  "SETA" ...            or speaks another version, hears so by name
//! length, e                           ──►
//!                                     ◄──  length, e ee s es     Noise_XX_25519_ChaChaPoly_SHA256, prologue = both
//! length, s se                        ──►                        preambles and the whole genesis hash
//! ===================== transport messages: length, ciphertext; a stream of frames =====================
//! ```
//!
//! Guarantees: nothing is believed before its length is; less than a kilobyte is ever held before the handshake ends;
//! keys of small order (all-zero agreements, which `snow` lets pass) and this node's own key end it by name; the first
//! bad tag ends a session; each direction takes a fresh key every 2^16 messages.

use super::frames::{FrameError, FrameReader, Received};
use crate::p2p::limits::PROTOCOL_VERSION;
use curve25519_dalek::montgomery::MontgomeryPoint;
use setara_core::hash::BlockHash;
use snow::params::NoiseParams;
use snow::{Builder, HandshakeState, TransportState};
use std::fmt;
use zeroize::Zeroizing;

/// Bytes of a preamble.
pub const PREAMBLE_BYTES: usize = 16;
/// What a preamble starts with.
const MAGIC: &[u8; 4] = b"SETA";
/// The protocol's name in Noise's terms.
const NOISE: &str = "Noise_XX_25519_ChaChaPoly_SHA256";
/// Bytes of the second and longest handshake message: ephemeral key, sealed static key, tag of an empty payload.
const HANDSHAKE_MESSAGE_MAX: usize = 32 + 48 + 16;
/// Bytes of a transport message, as Noise limits it.
const TRANSPORT_MAX: usize = 65_535;
/// Bytes of a tag.
const TAG: usize = 16;
/// Messages under one key: far below what ChaCha20-Poly1305 allows, and a stolen key opens little.
const REKEY_MESSAGES: u64 = 1 << 16;

/// Which side dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// This one.
    Initiator,
    /// The other.
    Answerer,
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The other end speaks something else.
    #[error("it does not speak Setara's protocol")]
    NotSetara,
    /// The other end is on another network.
    #[error("wrong network: its genesis begins with {got}, ours with {ours}")]
    WrongNetwork {
        /// First bytes of its genesis hash, internal order.
        got: String,
        /// Of ours.
        ours: String,
    },
    /// No version that both speak.
    #[error("no common protocol version: it speaks {lowest} to {highest}, we speak {PROTOCOL_VERSION}")]
    WrongVersion {
        /// Its lowest.
        lowest: u16,
        /// Its highest.
        highest: u16,
    },
    /// A key that leads to an agreement of zeros.
    #[error("it offered a key of small order")]
    LowOrderKey,
    /// Its static key is ours.
    #[error("it is this node itself")]
    SelfConnection,
    /// A handshake message of a length that none has.
    #[error("a handshake message of {0} bytes")]
    Length(u16),
    /// A handshake message that does not open: another genesis hash, or somebody in between.
    #[error("the handshake does not hold: another network, or the bytes were changed on the way")]
    Broken,
    /// The connection ended in between.
    #[error("it closed the connection {0}")]
    Closed(&'static str),
}

/// Why a session has ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Bytes that were not sent like that.
    #[error("bytes that do not decrypt")]
    BadTag,
    /// A transport message too short to hold anything.
    #[error("a transport message of {0} bytes")]
    Length(u16),
    /// A frame that may not be.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// A static key pair. Its secret half is wiped when dropped and never printed.
pub struct StaticKey {
    secret: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticKey").field("public", &hex::encode(self.public)).finish_non_exhaustive()
    }
}

impl StaticKey {
    /// A fresh one, from the system's randomness.
    pub fn generate() -> Self {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the system has randomness");
        Self::from_bytes(secret)
    }

    /// The pair of a secret.
    pub fn from_bytes(secret: [u8; 32]) -> Self {
        Self { public: MontgomeryPoint::mul_base_clamped(secret).to_bytes(), secret: Zeroizing::new(secret) }
    }

    /// The public half.
    pub const fn public(&self) -> [u8; 32] {
        self.public
    }

    /// The secret half, to be written to a file of its own.
    pub const fn secret(&self) -> &Zeroizing<[u8; 32]> {
        &self.secret
    }
}

/// Whether an agreement with this key is zero whatever the other key: clamped scalars are multiples of the cofactor.
fn is_low_order(public: &[u8; 32]) -> bool {
    MontgomeryPoint(*public).mul_clamped([1; 32]).to_bytes() == [0; 32]
}

/// What a step led to.
#[derive(Debug)]
pub struct Progress {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// To be sent.
    pub output: Vec<u8>,
    /// The session, once there is one.
    pub done: Option<Session>,
}

enum State {
    /// Nothing has been sent or read.
    Fresh,
    /// The other preamble is awaited.
    Preamble,
    /// A handshake message is awaited.
    Noise(Box<HandshakeState>),
    /// Over.
    Done,
}

/// A handshake under way.
pub struct Handshake {
    role: Role,
    secret: Zeroizing<[u8; 32]>,
    public: [u8; 32],
    genesis: BlockHash,
    max_block_bytes: u64,
    version: u16,
    state: State,
    farewell: Vec<u8>,
}

impl Handshake {
    /// Between two nodes of one network; `max_block_bytes` bounds the frames of the session to come.
    pub fn new(role: Role, key: &StaticKey, genesis: BlockHash, max_block_bytes: u64) -> Self {
        let (secret, public) = (key.secret.clone(), key.public);
        let (version, farewell) = (PROTOCOL_VERSION, Vec::new());
        Self { role, secret, public, genesis, max_block_bytes, version, state: State::Fresh, farewell }
    }

    fn preamble(&self) -> [u8; PREAMBLE_BYTES] {
        let mut preamble = [0; PREAMBLE_BYTES];
        preamble[..4].copy_from_slice(MAGIC);
        preamble[4..6].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        preamble[6..8].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        preamble[8..].copy_from_slice(&self.genesis.as_bytes()[..8]);
        preamble
    }

    /// Goes on with what has come, of which `consumed` is not to be given again. After an error nothing follows but
    /// [`Self::take_farewell`].
    pub fn step(&mut self, input: &[u8]) -> Result<Progress, HandshakeError> {
        let (mut consumed, mut output) = (0, Vec::new());
        loop {
            let rest = &input[consumed..];
            match std::mem::replace(&mut self.state, State::Done) {
                State::Fresh => {
                    if self.role == Role::Initiator {
                        output.extend_from_slice(&self.preamble());
                    }
                    self.state = State::Preamble;
                }
                State::Preamble => {
                    let Some(theirs) = rest.first_chunk::<PREAMBLE_BYTES>() else {
                        // Whoever speaks another protocol is told apart by the first bytes already.
                        if !MAGIC.starts_with(&rest[..rest.len().min(4)]) {
                            return Err(HandshakeError::NotSetara);
                        }
                        self.state = State::Preamble;
                        return Ok(Progress { consumed, output, done: None });
                    };
                    consumed += PREAMBLE_BYTES;
                    let ours = self.preamble();
                    if self.role == Role::Answerer && theirs.starts_with(MAGIC) {
                        // Also when it ends here: both sides then know why.
                        self.farewell = ours.to_vec();
                    }
                    self.judge(theirs)?;
                    self.farewell.clear();
                    let mut noise = match self.role {
                        Role::Initiator => self.noise(&ours, theirs),
                        Role::Answerer => {
                            output.extend_from_slice(&ours);
                            self.noise(theirs, &ours)
                        }
                    };
                    if self.role == Role::Initiator {
                        speak(&mut noise, &mut output)?;
                    }
                    self.state = State::Noise(Box::new(noise));
                }
                State::Noise(mut noise) => {
                    let Some(head) = rest.first_chunk::<2>() else {
                        self.state = State::Noise(noise);
                        return Ok(Progress { consumed, output, done: None });
                    };
                    let length = u16::from_le_bytes(*head);
                    if usize::from(length) > HANDSHAKE_MESSAGE_MAX || length < 32 {
                        return Err(HandshakeError::Length(length));
                    }
                    let Some(message) = rest.get(2..2 + usize::from(length)) else {
                        self.state = State::Noise(noise);
                        return Ok(Progress { consumed, output, done: None });
                    };
                    consumed += 2 + usize::from(length);
                    self.hear(&mut noise, message)?;
                    if !noise.is_handshake_finished() {
                        speak(&mut noise, &mut output)?;
                    }
                    if noise.is_handshake_finished() {
                        let done = Some(self.session(*noise)?);
                        return Ok(Progress { consumed, output, done });
                    }
                    self.state = State::Noise(noise);
                }
                State::Done => return Err(HandshakeError::Broken),
            }
        }
    }

    /// What is still to be sent after an error, so that the other side knows it, too.
    pub fn take_farewell(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.farewell)
    }

    /// The error of a connection that ended at this point.
    pub const fn closed(&self) -> HandshakeError {
        HandshakeError::Closed(match self.state {
            State::Fresh | State::Preamble => "before it said anything (it may be full, or not know us)",
            State::Noise(_) | State::Done => "during the handshake",
        })
    }

    fn judge(&mut self, theirs: &[u8; PREAMBLE_BYTES]) -> Result<(), HandshakeError> {
        if !theirs.starts_with(MAGIC) {
            return Err(HandshakeError::NotSetara);
        }
        let ours = self.preamble();
        if theirs[8..] != ours[8..] {
            let (got, ours) = (hex::encode(&theirs[8..]), hex::encode(&ours[8..]));
            return Err(HandshakeError::WrongNetwork { got, ours });
        }
        let number = |at: usize| u16::from_le_bytes([theirs[at], theirs[at + 1]]);
        let (lowest, highest) = (number(4), number(6));
        if lowest > PROTOCOL_VERSION || highest < PROTOCOL_VERSION || lowest > highest {
            return Err(HandshakeError::WrongVersion { lowest, highest });
        }
        Ok(())
    }

    fn noise(&self, first: &[u8], second: &[u8]) -> HandshakeState {
        let parameters: NoiseParams = NOISE.parse().expect("a name that Noise knows");
        let prologue = [first, second, self.genesis.as_bytes()].concat();
        let builder = Builder::new(parameters)
            .prologue(&prologue)
            .and_then(|builder| builder.local_private_key(&*self.secret))
            .expect("set once each");
        let built = match self.role {
            Role::Initiator => builder.build_initiator(),
            Role::Answerer => builder.build_responder(),
        };
        built.expect("the key is there")
    }

    fn hear(&self, noise: &mut HandshakeState, message: &[u8]) -> Result<(), HandshakeError> {
        // Before an agreement with it is made: the ephemeral key, which the first two messages begin with.
        let ephemeral = message.first_chunk::<32>().filter(|_| noise.get_remote_static().is_none());
        let third = self.role == Role::Answerer && message.len() == 64;
        if !third && ephemeral.is_some_and(is_low_order) {
            return Err(HandshakeError::LowOrderKey);
        }
        let mut payload = [0; HANDSHAKE_MESSAGE_MAX];
        let length = noise.read_message(message, &mut payload).map_err(|_| HandshakeError::Broken)?;
        if length != 0 {
            return Err(HandshakeError::Broken);
        }
        if let Some(key) = noise.get_remote_static() {
            let key: &[u8; 32] = key.try_into().map_err(|_| HandshakeError::Broken)?;
            if is_low_order(key) {
                return Err(HandshakeError::LowOrderKey);
            }
            if *key == self.public {
                return Err(HandshakeError::SelfConnection);
            }
        }
        Ok(())
    }

    fn session(&self, noise: HandshakeState) -> Result<Session, HandshakeError> {
        let remote = noise.get_remote_static().and_then(|key| key.try_into().ok()).ok_or(HandshakeError::Broken)?;
        let transport = noise.into_transport_mode().map_err(|_| HandshakeError::Broken)?;
        Ok(Session::new(transport, remote, self.version, self.max_block_bytes, REKEY_MESSAGES))
    }
}

fn speak(noise: &mut HandshakeState, output: &mut Vec<u8>) -> Result<(), HandshakeError> {
    let mut message = [0; HANDSHAKE_MESSAGE_MAX];
    let length = noise.write_message(&[], &mut message).map_err(|_| HandshakeError::Broken)?;
    output.extend_from_slice(&(length as u16).to_le_bytes());
    output.extend_from_slice(&message[..length]);
    Ok(())
}

/// An encrypted stream of frames, both ways.
pub struct Session {
    transport: TransportState,
    remote: [u8; 32],
    version: u16,
    rekey_every: u64,
    sent: u64,
    received: u64,
    /// Bytes of a transport message that has not come whole.
    pending: Vec<u8>,
    plain: Vec<u8>,
    frames: FrameReader,
    ended: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("remote", &hex::encode(self.remote)).finish_non_exhaustive()
    }
}

impl Session {
    fn new(transport: TransportState, remote: [u8; 32], version: u16, max_block_bytes: u64, rekey_every: u64) -> Self {
        Self {
            transport,
            remote,
            version,
            rekey_every,
            sent: 0,
            received: 0,
            pending: Vec::new(),
            plain: vec![0; TRANSPORT_MAX],
            frames: FrameReader::new(max_block_bytes),
            ended: false,
        }
    }

    /// The other side's static key.
    pub const fn remote_key(&self) -> [u8; 32] {
        self.remote
    }

    /// The version that both speak.
    pub const fn version(&self) -> u16 {
        self.version
    }

    /// Appends the encryption of whole frames, any number of them, to `out`.
    pub fn send(&mut self, frames: &[u8], out: &mut Vec<u8>) {
        for chunk in frames.chunks(TRANSPORT_MAX - TAG) {
            let start = out.len();
            out.resize(start + 2 + chunk.len() + TAG, 0);
            let written = self.transport.write_message(chunk, &mut out[start + 2..]);
            let length = written.expect("a chunk is shorter than a message may be") as u16;
            out[start..start + 2].copy_from_slice(&length.to_le_bytes());
            self.sent += 1;
            if self.sent.is_multiple_of(self.rekey_every) {
                self.transport.rekey_outgoing();
            }
        }
    }

    /// Takes bytes of the socket; [`Self::next_frame`] then gives what is complete.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<(), SessionError> {
        if self.ended {
            return Err(SessionError::BadTag);
        }
        let result = self.take_in(&mut bytes);
        self.ended = result.is_err();
        result
    }

    fn take_in(&mut self, bytes: &mut &[u8]) -> Result<(), SessionError> {
        loop {
            // A message that lies whole in the input is decrypted from where it lies.
            if self.pending.is_empty() {
                let Some(length) = message_length(bytes)? else { break };
                let Some((message, rest)) = bytes.split_at_checked(2 + length) else { break };
                *bytes = rest;
                self.open(&message[2..])?;
                continue;
            }
            let need = match self.pending.len() {
                1 => 2,
                _ => 2 + message_length(&self.pending)?.unwrap_or(0),
            };
            let missing = need - self.pending.len();
            let (head, rest) = bytes.split_at(missing.min(bytes.len()));
            self.pending.extend_from_slice(head);
            *bytes = rest;
            if self.pending.len() < need {
                return Ok(());
            }
            if need > 2 {
                let message = std::mem::take(&mut self.pending);
                self.open(&message[2..])?;
                self.pending = message;
                self.pending.clear();
            }
        }
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    fn open(&mut self, message: &[u8]) -> Result<(), SessionError> {
        let length = self.transport.read_message(message, &mut self.plain).map_err(|_| SessionError::BadTag)?;
        self.received += 1;
        if self.received.is_multiple_of(self.rekey_every) {
            self.transport.rekey_incoming();
        }
        self.frames.feed(&self.plain[..length])?;
        Ok(())
    }

    /// The next frame that has come whole.
    pub fn next_frame(&mut self) -> Option<Received> {
        self.frames.take()
    }

    /// Bytes held for frames that have not come whole.
    pub fn held(&self) -> usize {
        self.pending.capacity() + self.frames.held()
    }
}

/// Length of the transport message that begins here; `None` when even that is not there.
fn message_length(bytes: &[u8]) -> Result<Option<usize>, SessionError> {
    let Some(head) = bytes.first_chunk::<2>() else { return Ok(None) };
    let length = u16::from_le_bytes(*head);
    if usize::from(length) < TAG { Err(SessionError::Length(length)) } else { Ok(Some(usize::from(length))) }
}

#[cfg(test)]
mod tests;
