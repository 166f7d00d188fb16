//! Bans and discouragement by address.
