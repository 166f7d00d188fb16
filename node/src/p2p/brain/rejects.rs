//! A rolling filter of what was refused.
