//! The shell: moves bytes between sockets and the brain. It decides nothing.

pub mod noise;
