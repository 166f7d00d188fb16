//! Preamble, Noise handshake, encrypted frames: bytes in, bytes out, no sockets.
