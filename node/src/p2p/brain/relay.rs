//! Transactions between peers: announcing, asking, serving.
