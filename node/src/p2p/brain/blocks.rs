//! New blocks between peers: announcing, asking, rebuilding.
