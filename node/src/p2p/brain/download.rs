//! Bodies from all peers at once: window, stalling, order.
