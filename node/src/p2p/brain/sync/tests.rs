//! Header sync against a chain in memory.
