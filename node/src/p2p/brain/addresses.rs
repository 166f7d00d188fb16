//! Addresses of peers: keyed new and tried buckets, gossip, and what is saved of them.
