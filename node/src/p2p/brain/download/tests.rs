//! The download against peers that lie, stall and vanish.
