//! Which connections to open: full, block-only, feelers, anchors, extra ones.
