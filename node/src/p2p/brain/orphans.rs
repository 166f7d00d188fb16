//! Transactions whose parents are missing, within bounds.
